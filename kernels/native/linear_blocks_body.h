// Bodies of linear_blocks.cpp, compiled for each instruction set.
#include "linear_body.h"

template <int BITS>
struct Blocks {
    static constexpr int64_t kBytes = group_bytes(BITS), kNumbers = kBytes - kVector;
    static constexpr int kTokens = PL_ISA == 2 ? (BITS == 6 ? 3 : BITS == 4 ? 6 : 4) : PL_ISA == 1 ? 6 : 1, kBlocks = PL_ISA == 2 ? 2 : 1;

#if PL_ISA > 0

    // What step i's codes have above their low halves, of the outputs whose vectors begin at `group`.
    static inline V16 high(const uint8_t* group, int i) {
        const int shift = BITS == 5 ? 4 - i : 4 - 2 * (i % 4);
        const V16 bits = load<V16>(group + kHalves + (BITS == 6 ? i / 4 * kVector : 0));
        return (shift < 0 ? bits >> -shift : bits << shift) & static_cast<uint16_t>(BITS == 5 ? 0x1010 : 0x3030);
    }

#endif

#if PL_ISA == 2

    static constexpr int kSums = BITS == 6 ? 2 : 1, kAbove = BITS == 6 ? 32 : 0;

    static inline __m512i start(const Activations& x, int sum) {
        return BITS == 6 ? _mm512_set1_epi32(x.starts[sum]) : _mm512_setzero_si512();
    }

    static inline void codes(const uint8_t* group, int i, __m512i& near, __m512i& far) {
        const V16 both = load<V16>(group + i * 64);
        V16 low = both & static_cast<uint16_t>(0x0f0f), above = both >> 4 & static_cast<uint16_t>(0x0f0f);
        if (BITS > 4) {
            low |= high(group, i);
            above |= high(group, i + 4);
        }
        near = (__m512i)low;
        far = (__m512i)above;
    }

    struct Scales {
        F first, second;
        Scales(const Linear& l, int64_t block, int64_t g) {
            const uint8_t* at = l.weights + (block * l.groups + g) * kBytes + kNumbers;
            first = halves(at);
            second = halves(at + 2 * kOutputs);
        }
        template <class X>
        F apply(const __m512i* dots, const X& x) const {
            const F dot = __builtin_convertvector((I)dots[0], F);
            const F other = BITS == 6 ? __builtin_convertvector((I)dots[kSums - 1], F) : splat(x.sum);
            return (dot * first + other * second) * splat(x.scale);
        }
    };

    template <int M, int BLOCKS>
    static inline __attribute__((always_inline)) void tile(const Linear& l, int64_t token, int64_t block) {
        vnni_tile<Blocks, M, BLOCKS>(l, token, block);
    }

#elif PL_ISA == 1

    // Steps whose 16-bit sums cannot overflow: two products of code and activation each.
    static constexpr int kSteps = BITS == 4 ? 8 : BITS == 5 ? 4 : 2;
    static_assert(kSteps * 2 * ((1 << BITS) - 1) * 127 <= 32767, "sums of 16 bits would overflow");

    // An activation is spread once for both halves of the outputs, unpacked codes serve M tokens, and with 4 bits everything
    // stays in sixteen registers.
    template <int M, int BLOCKS>
    static inline __attribute__((always_inline)) void tile(const Linear& l, int64_t token, int64_t block) {
        static_assert(BLOCKS == 1, "sixteen registers hold one block");
        const Activations* x = l.x + token * l.groups;
        const uint8_t* weights = l.weights + block * l.groups * kBytes;
        const __m256i low = _mm256_set1_epi8(0x0f), ones = _mm256_set1_epi16(1);
        const int64_t groups = l.groups;
        const bool first_of_pass = token % kPassTokens == 0;
        F sums[M][2] = {};
        for (int64_t g = 0; g < groups; ++g, ++x, weights += kBytes) {
            if (first_of_pass) fetch<kBytes>(weights + kAhead);
            I dots[2][M][2];  // of the first and the last inputs where BITS is 6; every output in two halves
#pragma GCC unroll 4
            for (int from = 0; from < kGroup / 4; from += kSteps) {
                __m256i short_dots[M][2] = {};
#pragma GCC unroll 8
                for (int i = from; i < from + kSteps; ++i) {  // inputs 4 i to 4 i + 3: the low halves of the bytes first
                    __m256i codes[2];
                    for (int h = 0; h < 2; ++h) {
                        const __m256i both = load<__m256i>(weights + i % 4 * 64 + h * 32);
                        codes[h] = _mm256_and_si256(i < 4 ? both : _mm256_srli_epi16(both, 4), low);
                        if (BITS > 4) codes[h] = _mm256_or_si256(codes[h], (__m256i)high(weights + h * 32, i));
                    }
                    for (int m = 0; m < M; ++m) {
                        const __m256i four = _mm256_set1_epi32(load<int32_t>(x[m * groups].codes + i * 4));
                        for (int h = 0; h < 2; ++h) {
                            short_dots[m][h] = _mm256_add_epi16(short_dots[m][h], _mm256_maddubs_epi16(codes[h], four));
                            in_place(short_dots[m][h]);
                        }
                    }
                    read_again();
                }
                const int part = BITS == 6 ? from / 4 : 0;
                const bool starts = from == 0 || (BITS == 6 && from == 4);
                for (int m = 0; m < M; ++m)
                    for (int h = 0; h < 2; ++h) {
                        const I sum = (I)_mm256_madd_epi16(short_dots[m][h], ones);
                        if (!starts)
                            dots[part][m][h] += sum;
                        else if (BITS == 6)
                            dots[part][m][h] = sum + x[m * groups].starts[part];
                        else
                            dots[part][m][h] = sum;
                    }
            }
            for (int h = 0; h < 2; ++h) {
                const uint8_t* at = weights + kNumbers + h * kOutputs;
                const F first = halves(at), second = halves(at + 2 * kOutputs);
                for (int m = 0; m < M; ++m) {
                    const F dot = __builtin_convertvector(dots[0][m][h], F);
                    const F other = BITS == 6 ? __builtin_convertvector(dots[1][m][h], F) : splat(x[m * groups].sum);
                    sums[m][h] += (dot * first + other * second) * splat(x[m * groups].scale);
                }
            }
        }
        for (int m = 0; m < M; ++m) finish(l, token + m, block, sums[m]);
    }

#else

    // Code of input j of output o.
    static int32_t code(const uint8_t* group, int o, int j) {
        const uint8_t both = group[j % 16 / 4 * 64 + o * 4 + j % 4];
        const int step = j / 4, low = j < 16 ? both & 15 : both >> 4;
        const uint8_t* bits = group + kHalves + o * 4 + j % 4;
        if (BITS == 5) return low | (bits[0] >> step & 1) << 4;
        if (BITS == 6) return low | (bits[step / 4 * kVector] >> 2 * (step % 4) & 3) << 4;
        return low;
    }

    template <int M, int BLOCKS>
    static inline void tile(const Linear& l, int64_t token, int64_t block) {
        static_assert(M == 1 && BLOCKS == 1, "one token and one block at a time");
        const Activations* x = l.x + token * l.groups;
        const uint8_t* weights = l.weights + block * l.groups * kBytes;
        F sums[kOutputs / W] = {};
        for (int64_t g = 0; g < l.groups; ++g, ++x, weights += kBytes) {
            for (int o = 0; o < kOutputs; ++o) {
                int32_t dots[2] = {};  // of the first and the last inputs
                for (int j = 0; j < kGroup; ++j) dots[j / 16] += code(weights, o, j) * x->codes[j];
                const float first = half(weights + kNumbers + o * 2), second = half(weights + kNumbers + (kOutputs + o) * 2);
                const auto dot = static_cast<float>(BITS == 6 ? dots[0] + x->starts[0] : dots[0] + dots[1]);
                const float other = BITS == 6 ? static_cast<float>(dots[1] + x->starts[1]) : x->sum;
                sums[o / W][o % W] += (dot * first + other * second) * x->scale;
            }
        }
        finish(l, token, block, sums);
    }

#endif
};

template <int BITS>
static void multiply(const Linear& l, int64_t begin, int64_t end) {
    multiply_blocks<Blocks<BITS>>(l, begin, end);
}
