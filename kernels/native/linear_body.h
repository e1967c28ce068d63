// What the bodies of linear_int8.cpp and linear_blocks.cpp begin with, compiled for each instruction set: quantising
// of activations, storing of sums, and the walk over tokens and blocks.

// fp16 bits as fp32, exactly.
static inline float wide(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
    const bool finite = magnitude < 0x7c00;  // infinities and NaN have the highest exponent in fp32, too
    const uint32_t raised = sign | (finite ? magnitude << 13 : 0x7f800000u | (magnitude & 0x3ff) << 13);
    float f;
    std::memcpy(&f, &raised, 4);
    return finite ? f * 0x1p112f : f;  // 2**112 too small until here, whether normal or not
}

// fp16 numbers at p.
#if PL_ISA == 0
static inline float half(const void* p) {
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    return wide(bits);
}
#elif PL_ISA == 1
static inline F halves(const void* p) { return (F)_mm256_cvtph_ps(load<__m128i>(p)); }
#else
static inline F halves(const void* p) { return (F)_mm512_cvtph_ps(load<__m256i>(p)); }
#endif

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

// Codes of a group whose scale is known, and the sums of the first and last 16.
static inline void encode(const float* x, F factor, int8_t* codes, int32_t* sums) {
#if PL_ISA == 2
    const I low = to_integer(load<F>(x) * factor), high = to_integer(load<F>(x + W) * factor);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8((__m512i)low));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + W), _mm512_cvtepi32_epi8((__m512i)high));
    const __m512i a = (__m512i)low, b = (__m512i)high;
    const __m256i eight = _mm256_hadd_epi32(_mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1)),
                                            _mm256_add_epi32(_mm512_castsi512_si256(b), _mm512_extracti64x4_epi64(b, 1)));
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(sums), _mm_hadd_epi32(four, four));
#else
    for (int j = 0; j < kGroup; j += W) store(codes + j, to_code(load<F>(x + j) * factor));
    for (int half = 0; half < 2; ++half) {
        sums[half] = 0;
        for (int j = 0; j < kGroup / 2; ++j) sums[half] += codes[half * kGroup / 2 + j];
    }
#endif
}

static void quantise_row(const float* x, int64_t k, Activations* out) {
    float spare[kGroup];
    for (int64_t i = 0; i < k; i += kGroup, ++out) {
        const float* group = group_at(x, i, k, spare);
        const float most = magnitude(group);
        int32_t sums[2];
        encode(group, splat(most == 0.0f ? 0.0f : 127.0f / most), out->codes, sums);
        const int32_t sum = sums[0] + sums[1];
        out->start = -128 * sum;
        for (int half = 0; half < 2; ++half) out->starts[half] = -32 * sums[half];
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
// a block's group is, makes two vectors of unsigned codes at a time, and turns a group's sums of products (one, or one of the
// first and one of the last inputs) into fp32.
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
        __m512i dots[M][BLOCKS][Format::kSums];
        for (int m = 0; m < M; ++m)
            for (int b = 0; b < BLOCKS; ++b)
                for (int s = 0; s < Format::kSums; ++s) dots[m][b][s] = Format::start(x[m * l.groups], s);
#pragma GCC unroll 4
        for (int i = 0; i < kGroup / 8; ++i) {
            __m512i near[BLOCKS], far[BLOCKS];  // inputs 4 i to 4 i + 3, and those 16 further on
            for (int b = 0; b < BLOCKS; ++b) Format::codes(weights + b * l.groups * Format::kBytes, i, near[b], far[b]);
            for (int m = 0; m < M; ++m) {
                int32_t four[2];
                std::memcpy(&four[0], x[m * l.groups].codes + i * 4, 4);
                std::memcpy(&four[1], x[m * l.groups].codes + i * 4 + 16, 4);
                const __m512i first = _mm512_set1_epi32(four[0]), second = _mm512_set1_epi32(four[1]);
                for (int b = 0; b < BLOCKS; ++b) dots[m][b][0] = _mm512_dpbusd_epi32(dots[m][b][0], near[b], first);
                for (int b = 0; b < BLOCKS; ++b) {
                    __m512i& last = dots[m][b][Format::kSums - 1];
                    last = _mm512_dpbusd_epi32(last, far[b], second);
                }
            }
        }
        for (int b = 0; b < BLOCKS; ++b) {
            const typename Format::Scales scales(l, block + b, g);
            for (int m = 0; m < M; ++m) sums[m][b] += scales.apply(dots[m][b], x[m * l.groups]);
        }
    }
    for (int m = 0; m < M; ++m)
        for (int b = 0; b < BLOCKS; ++b) finish(l, token + m, block + b, &sums[m][b]);
}

#endif

#if PL_ISA == 2 && PL_AMX
#include "linear_tiles.h"
#endif
