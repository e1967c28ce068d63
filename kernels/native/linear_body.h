// What the bodies of linear_int8.cpp and linear_int4.cpp begin with, compiled for each instruction set: quantising of
// activations, storing of sums, and the walk over tokens and blocks.

// Integer bits of a magnitude order like the magnitude, with NaN above all: a bad value shows in the scale, not only in a code.
static inline float magnitude(const float* x) {
    I most{};
    for (int i = 0; i < kGroup; i += W) {
        const I bits = load<I>(x + i) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
#if PL_ISA == 2
    const int32_t m = _mm512_reduce_max_epi32((__m512i)most);
#else
    int32_t m = most[0];
    for (int i = 1; i < W; ++i) m = most[i] > m ? most[i] : m;
#endif
    float f;
    std::memcpy(&f, &m, 4);
    return f < kLeastMagnitude ? 0.0f : f;
}

// x to the nearest integer (even ones on ties), for |x| <= 127.
static inline I to_integer(F x) {
    const F shift = splat(12582912.0f);  // 1.5 * 2**23
    return (I)(x + shift) - (I)shift;
}

// The same, as bytes.
static inline B to_code(F x) { return __builtin_convertvector(to_integer(x), B); }

// The group of x at i, filled up with zeros in `spare` where the row ends inside it.
static inline const float* group_at(const float* x, int64_t i, int64_t k, float* spare) {
    if (i + kGroup <= k) return x + i;
    std::memset(spare, 0, kGroup * sizeof(float));
    std::memcpy(spare, x + i, (k - i) * sizeof(float));
    return spare;
}

// Codes of a group whose scale is known, and their sum.
static inline int32_t encode(const float* x, F factor, int8_t* codes) {
#if PL_ISA == 2
    const I low = to_integer(load<F>(x) * factor), high = to_integer(load<F>(x + W) * factor);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8((__m512i)low));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + W), _mm512_cvtepi32_epi8((__m512i)high));
    const __m512i pairs = (__m512i)(low + high);
    __m256i sums = _mm256_add_epi32(_mm512_castsi512_si256(pairs), _mm512_extracti64x4_epi64(pairs, 1));
    sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0x4e));
    sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0xb1));
    return _mm_cvtsi128_si32(_mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
#else
    for (int j = 0; j < kGroup; j += W) store(codes + j, to_code(load<F>(x + j) * factor));
    int32_t sum = 0;
    for (int j = 0; j < kGroup; ++j) sum += codes[j];
    return sum;
#endif
}

static void quantise_row(const float* x, int64_t k, Activations* out) {
    float spare[kGroup];
    for (int64_t i = 0; i < k; i += kGroup, ++out) {
        const float* group = group_at(x, i, k, spare);
        const float most = magnitude(group);
        const int32_t sum = encode(group, splat(most == 0.0f ? 0.0f : 127.0f / most), out->codes);
        out->start = -128 * sum;
        out->sum = static_cast<float>(sum);
        out->scale = most / 127.0f;
    }
}

// sums [16] of one token and one block, to the outputs that exist.
static inline void finish(const Linear& l, int64_t token, int64_t block, const F* sums) {
    const int64_t first = block * kOutputs;
    float* out = l.out + token * l.stride + first;
    if (first + kOutputs <= l.n) {
        for (int i = 0; i < kOutputs / W; ++i)
            store(out + i * W, l.bias ? sums[i] + load<F>(l.bias + first + i * W) : sums[i]);
        return;
    }
    const auto* each = reinterpret_cast<const float*>(sums);
    for (int64_t i = 0; first + i < l.n; ++i) out[i] = l.bias ? each[i] + l.bias[first + i] : each[i];
}

// A group of a block that comes next, into the second level: memory is read while this one is multiplied.
template <int BYTES>
static inline void fetch(const uint8_t* group) {
    for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(group + i, 0, 2);
}

template <class Format, int M, int BLOCKS>
static inline void tiles(const Linear& l, int64_t count, int64_t token, int64_t block) {
    if constexpr (M == 1)
        Format::template tile<1, BLOCKS>(l, token, block);
    else if (count == M)
        Format::template tile<M, BLOCKS>(l, token, block);
    else
        tiles<Format, M - 1, BLOCKS>(l, count, token, block);
}

// Tokens from..to-1 times BLOCKS blocks, whose codes stay in the nearest caches meanwhile; tiles of about equal size.
template <class Format, int BLOCKS>
static void multiply_tokens(const Linear& l, int64_t from, int64_t to, int64_t block) {
    for (int64_t left = (to - from + Format::kTokens - 1) / Format::kTokens; left > 0; --left) {
        const int64_t count = (to - from + left - 1) / left;
        tiles<Format, Format::kTokens, BLOCKS>(l, count, from, block);
        from += count;
    }
}

template <class Format>
static void multiply_blocks(const Linear& l, int64_t begin, int64_t end) {
    for (int64_t from = 0; from < l.num_tokens; from += kPassTokens) {
        const int64_t to = from + kPassTokens < l.num_tokens ? from + kPassTokens : l.num_tokens;
        int64_t block = begin;
        for (; block + Format::kBlocks <= end; block += Format::kBlocks)
            multiply_tokens<Format, Format::kBlocks>(l, from, to, block);
        for (; block < end; ++block) multiply_tokens<Format, 1>(l, from, to, block);
    }
}

#if PL_ISA == 1

// How far ahead of its use a thread's stream of weights is read: several groups, or few tokens' products wait for memory.
constexpr int64_t kAhead = 2560;

// A running sum stays one: left to itself the compiler turns sums of sums into trees, and spills their leaves.
static inline void in_place(__m256i& sum) { asm("" : "+x"(sum)); }

// What was loaded is loaded again: kept in registers for a second use, it is spilled.
static inline void read_again() { asm volatile("" ::: "memory"); }

#elif PL_ISA == 2

// Tokens token..token+M-1 times BLOCKS blocks. Sums stay in registers from the first group to the last. A Format tells where
// a block's group is, makes two vectors of unsigned codes at a time, and turns a group's sum of products into fp32.
template <class Format, int M, int BLOCKS>
static inline __attribute__((always_inline)) void vnni_tile(const Linear& l, int64_t token, int64_t block) {
    const Activations* x = l.x + token * l.groups;
    F sums[M][BLOCKS] = {};
    for (int m = 0; m < M; ++m)
        for (int b = 0; b < BLOCKS; ++b) __builtin_prefetch(l.out + (token + m) * l.stride + (block + b) * kOutputs, 1);
    const bool first_of_pass = token % kPassTokens == 0;
    const uint8_t* weights = l.weights + block * l.groups * Format::kBytes;
    for (int64_t g = 0; g < l.groups; ++g, ++x, weights += Format::kBytes) {
        if (first_of_pass)
            for (int b = 0; b < BLOCKS; ++b) fetch<Format::kBytes>(weights + (BLOCKS + b) * l.groups * Format::kBytes);
        __m512i dots[M][BLOCKS];
        for (int m = 0; m < M; ++m)
            for (int b = 0; b < BLOCKS; ++b) dots[m][b] = Format::start(x[m * l.groups]);
#pragma GCC unroll 4
        for (int i = 0; i < kGroup / 8; ++i) {
            __m512i near[BLOCKS], far[BLOCKS];  // inputs 4 i to 4 i + 3, and those 16 further on
            for (int b = 0; b < BLOCKS; ++b) Format::codes(weights + b * l.groups * Format::kBytes, i, near[b], far[b]);
            for (int m = 0; m < M; ++m) {
                int32_t four[2];
                std::memcpy(&four[0], x[m * l.groups].codes + i * 4, 4);
                std::memcpy(&four[1], x[m * l.groups].codes + i * 4 + 16, 4);
                for (int b = 0; b < BLOCKS; ++b) dots[m][b] = _mm512_dpbusd_epi32(dots[m][b], near[b], _mm512_set1_epi32(four[0]));
                for (int b = 0; b < BLOCKS; ++b) dots[m][b] = _mm512_dpbusd_epi32(dots[m][b], far[b], _mm512_set1_epi32(four[1]));
            }
        }
        for (int b = 0; b < BLOCKS; ++b) {
            const typename Format::Scales scales(l, block + b, g);
            for (int m = 0; m < M; ++m)
                sums[m][b] += scales.apply(__builtin_convertvector((I)dots[m][b], F), x[m * l.groups]);
        }
    }
    for (int m = 0; m < M; ++m)
        for (int b = 0; b < BLOCKS; ++b) finish(l, token + m, block + b, &sums[m][b]);
}

#endif
