// Bodies of sample.cpp, compiled for each instruction set. A pass handles W counters: 4 W ids.

// Lowest id of the largest logit.
static int64_t argmax_row(const float* x, int64_t size) {
    F most = splat(-__builtin_inff());
    I where{}, at = lane_ids();
    int64_t i = 0;
    for (; i + W <= size; i += W, at += W) {
        const F v = load<F>(x + i);
        where = v > most ? at : where;
        most = max(v, most);
    }
    Best best{-__builtin_inf(), 0};
    for (int l = 0; l < W; ++l)
        if (most[l] > -__builtin_inff()) best.offer(most[l], where[l]);
    for (; i < size; ++i) best.offer(x[i], i);
    return best.id;
}

// Upper and lower words of a * m.
static inline void multiply(U a, uint32_t m, U& high, U& low) {
#if PL_ISA == 2
    const __m512i by = _mm512_set1_epi32(static_cast<int>(m));
    const __m512i even = _mm512_mul_epu32((__m512i)a, by), odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), by);
    high = (U)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
    low = (U)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
#elif PL_ISA == 1
    const __m256i by = _mm256_set1_epi32(static_cast<int>(m));
    const __m256i even = _mm256_mul_epu32((__m256i)a, by), odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), by);
    high = (U)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
    low = (U)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
#else
    for (int i = 0; i < W; ++i) {
        const uint64_t product = static_cast<uint64_t>(a[i]) * m;
        high[i] = static_cast<uint32_t>(product >> 32);
        low[i] = static_cast<uint32_t>(product);
    }
#endif
}

// The words of 4 W ids from `first` (a multiple of four) on, in the order of the ids. Lane 4 l + i takes counter W/4 i + l of
// these W, so that unpacking inside 128 bits puts the words of one counter, and then the counters, side by side.
static inline void random_words(int64_t first, uint32_t position, uint64_t seed, U* words) {
    U c0 = (U)lane_ids(), c1 = U{} + position, c2{}, c3{};
    c0 = (c0 & 3) * (W / 4) + (c0 >> 2) + static_cast<uint32_t>(first / 4);
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += kKeyStep0, k1 += kKeyStep1) {
        U high0, low0, high1, low1;
        multiply(c0, kMultiplier0, high0, low0);
        multiply(c2, kMultiplier1, high1, low1);
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
    }
#if PL_ISA == 2
    const __m512i a = _mm512_unpacklo_epi32((__m512i)c0, (__m512i)c1), b = _mm512_unpacklo_epi32((__m512i)c2, (__m512i)c3);
    const __m512i c = _mm512_unpackhi_epi32((__m512i)c0, (__m512i)c1), d = _mm512_unpackhi_epi32((__m512i)c2, (__m512i)c3);
    words[0] = (U)_mm512_unpacklo_epi64(a, b);
    words[1] = (U)_mm512_unpackhi_epi64(a, b);
    words[2] = (U)_mm512_unpacklo_epi64(c, d);
    words[3] = (U)_mm512_unpackhi_epi64(c, d);
#elif PL_ISA == 1
    const __m256i a = _mm256_unpacklo_epi32((__m256i)c0, (__m256i)c1), b = _mm256_unpacklo_epi32((__m256i)c2, (__m256i)c3);
    const __m256i c = _mm256_unpackhi_epi32((__m256i)c0, (__m256i)c1), d = _mm256_unpackhi_epi32((__m256i)c2, (__m256i)c3);
    words[0] = (U)_mm256_unpacklo_epi64(a, b);
    words[1] = (U)_mm256_unpackhi_epi64(a, b);
    words[2] = (U)_mm256_unpacklo_epi64(c, d);
    words[3] = (U)_mm256_unpackhi_epi64(c, d);
#else
    for (int i = 0; i < 4; ++i) words[i] = U{c0[i], c1[i], c2[i], c3[i]};
#endif
}

// W logits from `at` on, -inf past the end.
static inline F logits_at(const float* logits, int64_t at, int64_t size) {
    if (at + W <= size) return load<F>(logits + at);
    const int64_t left = at < size ? size - at : 0;
    return lane_ids() < static_cast<int32_t>(left) ? load_part<F>(logits + at, left, 4) : splat(-__builtin_inff());
}

static int64_t sample_row(const float* logits, int64_t size, int64_t top, uint64_t seed, uint32_t position) {
    uint32_t counter[4] = {static_cast<uint32_t>(top / 4), position, 0, 0};
    philox(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    Best best{logits[top] + gumbel(counter[top % 4]), top};
    for (int64_t i = 0; i < size; i += 4 * W) {
        F bounds[4];  // a word has to be below bound * 2**32 for its id to win
        I possible{};
        for (int j = 0; j < 4; ++j) {
            const int64_t at = i + j * W;
            const F below = logits_at(logits, at, size) - rounded_down(best.score);
            bounds[j] = exp(below) * 1.0001f;
            possible |= bounds[j] > 0x1p-34f;  // else even the smallest word's noise is too little
        }
        if (mask_of(possible) == 0) continue;
        U words[4];
        random_words(i, position, seed, words);
        for (int j = 0; j < 4; ++j) {
            const F v = __builtin_convertvector(words[j], F) * 0x1p-32f;
            for (uint32_t wins = mask_of(v <= bounds[j] + 0x1p-33f); wins != 0; wins &= wins - 1) {
                const int lane = __builtin_ctz(wins);
                const int64_t id = i + j * W + lane;
                if (id < size) best.offer(logits[id] + gumbel(words[j][lane]), id);
            }
        }
    }
    return best.id;
}

// Sum of exp(x - most). Lanes are emptied into fp64 every few hundred terms: fp32 alone would lose digits over 150k ids.
static double sum_exp_row(const float* x, int64_t size, float most) {
    constexpr int64_t step = 32 * W;
    double total = 0.0;
    for (int64_t i = 0; i < size; i += step) {
        F sum{};
        for (int64_t at = i; at < i + step && at < size; at += W) sum += exp(logits_at(x, at, size) - most);
        total += sum_of(sum);
    }
    return total;
}
