// What the bodies of linear_int8.cpp and linear_blocks.cpp begin with, compiled for each instruction set: storing of sums, and
// the walk over tokens and blocks.
#include "quantise_body.h"

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

// As many blocks as there are, BLOCKS at a time; returns where fewer are left.
template <class Format, int BLOCKS>
static int64_t multiply_pass(const Linear& l, int64_t from, int64_t to, int64_t block, int64_t end) {
    for (; block + BLOCKS <= end; block += BLOCKS) multiply_tokens<Format, BLOCKS>(l, from, to, block);
    return block;
}

template <class Format>
static void multiply_blocks(const Linear& l, int64_t begin, int64_t end) {
    for (int64_t from = 0; from < l.num_tokens; from += kPassTokens) {
        const int64_t to = from + kPassTokens < l.num_tokens ? from + kPassTokens : l.num_tokens;
        int64_t block = begin;
        block = multiply_pass<Format, Format::kBlocks>(l, from, to, block, end);
        multiply_pass<Format, 1>(l, from, to, block, end);
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
