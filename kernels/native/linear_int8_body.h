// Bodies of linear_int8.cpp, compiled for each instruction set.

// Integer bits of a magnitude order like the magnitude, with NaN above all: a bad value shows in the scale, not only in a code.
static inline float magnitude(const float* x) {
    I most{};
    for (int i = 0; i < kGroup; i += W) {
        const I bits = load<I>(x + i) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    int32_t m = most[0];
    for (int i = 1; i < W; ++i) m = most[i] > m ? most[i] : m;
    float f;
    std::memcpy(&f, &m, 4);
    return f < kLeastMagnitude ? 0.0f : f;
}

// x to the nearest integer (even ones on ties) as a byte, for |x| <= 127.
static inline B to_code(F x) {
    const F shift = splat(12582912.0f);  // 1.5 * 2**23
    return __builtin_convertvector((I)(x + shift) - (I)shift, B);
}

// The group of x at i, filled up with zeros in `spare` where the row ends inside it.
static inline const float* group_at(const float* x, int64_t i, int64_t k, float* spare) {
    if (i + kGroup <= k) return x + i;
    std::memset(spare, 0, kGroup * sizeof(float));
    std::memcpy(spare, x + i, (k - i) * sizeof(float));
    return spare;
}

static void quantise_row(const float* x, int64_t k, Activations* out) {
    float spare[kGroup];
    for (int64_t i = 0; i < k; i += kGroup, ++out) {
        const float* group = group_at(x, i, k, spare);
        const float most = magnitude(group);
        const F factor = splat(most == 0.0f ? 0.0f : 127.0f / most);
        for (int j = 0; j < kGroup; j += W) store(out->codes + j, to_code(load<F>(group + j) * factor));
        int32_t sum = 0;
        for (int j = 0; j < kGroup; ++j) sum += out->codes[j];
        out->start = -128 * sum;
        out->scale = most / 127.0f;
    }
}

// One output's weights into its places: four codes in every 64 bytes, one scale in every 16. Null is a row of padding.
static void pack_row(const float* weight, int64_t k, uint8_t* codes, uint16_t* scales) {
    float spare[kGroup];
    int8_t signed_codes[kGroup] = {};
    for (int64_t i = 0; i < k; i += kGroup, codes += kCodes, scales += kOutputs) {
        uint32_t bits = 0;
        if (weight != nullptr) {
            const float* group = group_at(weight, i, k, spare);
            float scale = magnitude(group) / 127.0f;
            std::memcpy(&bits, &scale, 4);
            bits = (bits + 0xffff) & 0xffff0000u;
            std::memcpy(&scale, &bits, 4);
            const F divisor = splat(scale == 0.0f ? __builtin_inff() : scale);
            for (int j = 0; j < kGroup; j += W) store(signed_codes + j, to_code(load<F>(group + j) / divisor));
        }
        *scales = static_cast<uint16_t>(bits >> 16);
        for (int j = 0; j < kGroup; ++j)
            codes[j / 4 * 64 + j % 4] = static_cast<uint8_t>(signed_codes[j] + 128);
    }
}

#if PL_ISA == 2

constexpr int kTileTokens = 4, kTileBlocks = 2;

// Tokens token..token+M-1 times BLOCKS blocks. Sums stay in registers from the first group to the last.
template <int M, int BLOCKS>
static inline __attribute__((always_inline)) void tile(const Linear& l, int64_t token, int64_t block) {
    const Activations* x = l.x + token * l.groups;
    const uint8_t* codes = l.codes + block * l.groups * kCodes;
    const uint16_t* scales = l.scales + block * l.groups * kOutputs;
    F sums[M][BLOCKS] = {};
    for (int m = 0; m < M; ++m)
        for (int b = 0; b < BLOCKS; ++b) __builtin_prefetch(l.out + (token + m) * l.n + (block + b) * kOutputs, 1);
    for (int64_t g = 0; g < l.groups; ++g, ++x, codes += kCodes, scales += kOutputs) {
        if (token % kPassTokens == 0)  // the first tile of a pass fetches the blocks of the next, into the second level
            for (int b = 0; b < BLOCKS; ++b)
                for (int i = 0; i < kCodes; i += 64)
                    __builtin_prefetch(codes + (BLOCKS + b) * l.groups * kCodes + i, 0, 2);
        __m512i dots[M][BLOCKS];
        for (int m = 0; m < M; ++m)
            for (int b = 0; b < BLOCKS; ++b) dots[m][b] = _mm512_set1_epi32(x[m * l.groups].start);
#pragma GCC unroll 8
        for (int i = 0; i < kGroup / 4; ++i) {
            __m512i w[BLOCKS];
            for (int b = 0; b < BLOCKS; ++b) w[b] = _mm512_loadu_si512(codes + b * l.groups * kCodes + i * 64);
            for (int m = 0; m < M; ++m) {
                int32_t four;
                std::memcpy(&four, x[m * l.groups].codes + i * 4, 4);
                for (int b = 0; b < BLOCKS; ++b) dots[m][b] = _mm512_dpbusd_epi32(dots[m][b], w[b], _mm512_set1_epi32(four));
            }
        }
        for (int b = 0; b < BLOCKS; ++b) {
            const F scale = widen(load<H>(scales + b * l.groups * kOutputs));
            for (int m = 0; m < M; ++m) {
                const F scaled = __builtin_convertvector((I)dots[m][b], F);
                sums[m][b] += scaled * scale * splat(x[m * l.groups].scale);
            }
        }
    }
    for (int m = 0; m < M; ++m)
        for (int b = 0; b < BLOCKS; ++b) finish(l, token + m, block + b, reinterpret_cast<const float*>(&sums[m][b]));
}

#elif PL_ISA == 1

constexpr int kTileTokens = 2, kTileBlocks = 1;

// Eight sums of four products: bytes are widened to 16 bits first, because vpmaddubsw would saturate.
static inline __m256i wide_dot(__m256i sum, __m128i w, __m256i x) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(w), x));
}

template <int M, int BLOCKS>
static inline __attribute__((always_inline)) void tile(const Linear& l, int64_t token, int64_t block) {
    static_assert(BLOCKS == 1, "sixteen registers hold one block");
    const Activations* x = l.x + token * l.groups;
    const uint8_t* codes = l.codes + block * l.groups * kCodes;
    const uint16_t* scales = l.scales + block * l.groups * kOutputs;
    F sums[M][2] = {};
    for (int64_t g = 0; g < l.groups; ++g, ++x, codes += kCodes, scales += kOutputs) {
        __m256i dots[M][4];  // of four outputs each, every output in two halves
        for (int m = 0; m < M; ++m)
            for (int q = 0; q < 4; ++q) dots[m][q] = _mm256_setzero_si256();
        for (int i = 0; i < kGroup / 4; ++i) {
            for (int m = 0; m < M; ++m) {
                int32_t four;
                std::memcpy(&four, x[m * l.groups].codes + i * 4, 4);
                const __m256i wide = _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
                for (int q = 0; q < 4; ++q)
                    dots[m][q] = wide_dot(dots[m][q], load<__m128i>(codes + i * 64 + q * 16), wide);
            }
        }
        for (int m = 0; m < M; ++m) {
            for (int h = 0; h < 2; ++h) {
                const __m256i mixed = _mm256_hadd_epi32(dots[m][2 * h], dots[m][2 * h + 1]);
                const __m256i sum = _mm256_add_epi32(_mm256_permute4x64_epi64(mixed, 0xd8),
                                                     _mm256_set1_epi32(x[m * l.groups].start));
                const F scale = widen(load<H>(scales + h * 8));
                sums[m][h] += __builtin_convertvector((I)sum, F) * scale * splat(x[m * l.groups].scale);
            }
        }
    }
    for (int m = 0; m < M; ++m) finish(l, token + m, block, reinterpret_cast<const float*>(sums[m]));
}

#else

constexpr int kTileTokens = 1, kTileBlocks = 1;

template <int M, int BLOCKS>
static inline void tile(const Linear& l, int64_t token, int64_t block) {
    static_assert(M == 1 && BLOCKS == 1, "one token and one block at a time");
    const Activations* x = l.x + token * l.groups;
    const uint8_t* codes = l.codes + block * l.groups * kCodes;
    const uint16_t* scales = l.scales + block * l.groups * kOutputs;
    float sums[kOutputs] = {};
    for (int64_t g = 0; g < l.groups; ++g, ++x, codes += kCodes, scales += kOutputs) {
        for (int o = 0; o < kOutputs; ++o) {
            int32_t dot = x->start;
            for (int j = 0; j < kGroup; ++j) dot += codes[j / 4 * 64 + o * 4 + j % 4] * x->codes[j];
            sums[o] += static_cast<float>(dot) * pl::widen(scales[o]) * x->scale;
        }
    }
    finish(l, token, block, sums);
}

#endif

template <int M, int BLOCKS>
static inline void tile_of(const Linear& l, int64_t count, int64_t token, int64_t block) {
    if constexpr (M == 1)
        tile<1, BLOCKS>(l, token, block);
    else if (count == M)
        tile<M, BLOCKS>(l, token, block);
    else
        tile_of<M - 1, BLOCKS>(l, count, token, block);
}

// Tokens from..to-1 times BLOCKS blocks, whose codes stay in the nearest caches meanwhile; tiles of about equal size.
template <int BLOCKS>
static void multiply_tokens(const Linear& l, int64_t from, int64_t to, int64_t block) {
    for (int64_t tiles = (to - from + kTileTokens - 1) / kTileTokens; tiles > 0; --tiles) {
        const int64_t count = (to - from + tiles - 1) / tiles;
        tile_of<kTileTokens, BLOCKS>(l, count, from, block);
        from += count;
    }
}

static void multiply_blocks(const Linear& l, int64_t begin, int64_t end) {
    for (int64_t from = 0; from < l.num_tokens; from += kPassTokens) {
        const int64_t to = from + kPassTokens < l.num_tokens ? from + kPassTokens : l.num_tokens;
        int64_t block = begin;
        for (; block + kTileBlocks <= end; block += kTileBlocks) multiply_tokens<kTileBlocks>(l, from, to, block);
        for (; block < end; ++block) multiply_tokens<1>(l, from, to, block);
    }
}
