// Bodies of linear_int8.cpp, compiled for each instruction set.
#include "linear_body.h"

// The least fp16 number that is not below x >= 0, as its bits; infinite above 65504, NaN stays NaN.
static inline uint16_t half_up(float x) {
    if (x < 0x1p-14f) return static_cast<uint16_t>(__builtin_ceilf(x * 0x1p24f));  // a multiple of 2**-24
    if (!(x <= 65504.0f)) return x > 65504.0f ? 0x7c00 : 0x7e00;
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<uint16_t>((bits + 0x1fff - (112u << 23)) >> 13);
}

// One output's weights into its places: four codes in every 64 bytes, one scale in every 16. Null is a row of padding.
static void pack_row(const float* weight, int64_t k, uint8_t* codes, uint16_t* scales) {
    float spare[kGroup];
    int8_t signed_codes[kGroup] = {};
    for (int64_t i = 0; i < k; i += kGroup, codes += kCodes, scales += kOutputs) {
        *scales = 0;
        if (weight != nullptr) {
            const float* group = group_at(weight, i, k, spare);
            *scales = half_up(magnitude(group) / 127.0f);
            const float scale = wide(*scales);
            const F divisor = splat(scale == 0.0f ? __builtin_inff() : scale);
            for (int j = 0; j < kGroup; j += W) store(signed_codes + j, to_code(load<F>(group + j) / divisor));
        }
        for (int j = 0; j < kGroup; ++j)
            codes[j / 4 * 64 + j % 4] = static_cast<uint8_t>(signed_codes[j] + 128);
    }
}

struct Int8 {
    static constexpr int64_t kBytes = kCodes;
    static constexpr int kTokens = PL_ISA == 2 ? 4 : PL_ISA == 1 ? 5 : 1, kBlocks = PL_ISA == 2 ? 2 : 1;

#if PL_ISA == 2

    static constexpr int kSums = 1, kAbove = 128;

    static inline __m512i start(const Activations& x, int) { return _mm512_set1_epi32(x.start); }

    static inline void codes(const uint8_t* group, int i, __m512i& near, __m512i& far) {
        near = _mm512_loadu_si512(group + i * 64);
        far = _mm512_loadu_si512(group + (i + 4) * 64);
    }

    struct Scales {
        F weights;
        Scales(const Linear& l, int64_t block, int64_t g) : weights(halves(l.scales + (block * l.groups + g) * kOutputs)) {}
        template <class X>
        F apply(const __m512i* dots, const X& x) const {
            return __builtin_convertvector((I)dots[0], F) * weights * splat(x.scale);
        }
    };

    template <int M, int BLOCKS>
    static inline __attribute__((always_inline)) void tile(const Linear& l, int64_t token, int64_t block) {
        vnni_tile<Int8, M, BLOCKS>(l, token, block);
    }

#elif PL_ISA == 1

    // The unsigned operand is the weight's magnitude, the signed one the activation with the weight's sign: a pair of their
    // products is at most 2 * 127 * 127 = 32258, so vpmaddubsw never saturates. Outputs in two halves, as for 4 bits.
    template <int M, int BLOCKS>
    static inline __attribute__((always_inline)) void tile(const Linear& l, int64_t token, int64_t block) {
        static_assert(BLOCKS == 1, "sixteen registers hold one block");
        const Activations* x = l.x + token * l.groups;
        const uint8_t* codes = l.weights + block * l.groups * kCodes;
        const uint16_t* scales = l.scales + block * l.groups * kOutputs;
        const __m256i bias = _mm256_set1_epi8(-128), ones = _mm256_set1_epi16(1);
        const int64_t groups = l.groups;
        const bool first_of_pass = token % kPassTokens == 0;
        F sums[M][2] = {};
        for (int64_t g = 0; g < groups; ++g, ++x, codes += kCodes, scales += kOutputs) {
            if (first_of_pass) fetch<kCodes>(codes + kAhead);
            __m256i dots[M][2] = {};
#pragma GCC unroll 8
            for (int i = 0; i < kGroup / 4; ++i) {
                __m256i weight[2], most[2];
                for (int h = 0; h < 2; ++h) {
                    weight[h] = _mm256_xor_si256(load<__m256i>(codes + i * 64 + h * 32), bias);
                    most[h] = _mm256_abs_epi8(weight[h]);
                }
                for (int m = 0; m < M; ++m) {
                    const __m256i four = _mm256_set1_epi32(load<int32_t>(x[m * groups].codes + i * 4));
                    for (int h = 0; h < 2; ++h) {
                        const __m256i pairs = _mm256_maddubs_epi16(most[h], _mm256_sign_epi8(four, weight[h]));
                        dots[m][h] = _mm256_add_epi32(dots[m][h], _mm256_madd_epi16(pairs, ones));
                        in_place(dots[m][h]);
                    }
                }
                read_again();
            }
            for (int h = 0; h < 2; ++h) {
                const F scale = halves(scales + h * 8);
                for (int m = 0; m < M; ++m)
                    sums[m][h] += __builtin_convertvector((I)dots[m][h], F) * scale * splat(x[m * groups].scale);
            }
        }
        for (int m = 0; m < M; ++m) finish(l, token + m, block, sums[m]);
    }

#else

    template <int M, int BLOCKS>
    static inline void tile(const Linear& l, int64_t token, int64_t block) {
        static_assert(M == 1 && BLOCKS == 1, "one token and one block at a time");
        const Activations* x = l.x + token * l.groups;
        const uint8_t* codes = l.weights + block * l.groups * kCodes;
        const uint16_t* scales = l.scales + block * l.groups * kOutputs;
        F sums[kOutputs / W] = {};
        for (int64_t g = 0; g < l.groups; ++g, ++x, codes += kCodes, scales += kOutputs) {
            for (int o = 0; o < kOutputs; ++o) {
                int32_t dot = x->start;
                for (int j = 0; j < kGroup; ++j) dot += codes[j / 4 * 64 + o * 4 + j % 4] * x->codes[j];
                sums[o / W][o % W] += static_cast<float>(dot) * half(scales + o) * x->scale;
            }
        }
        finish(l, token, block, sums);
    }

#endif
};

static void multiply(const Linear& l, int64_t begin, int64_t end) { multiply_blocks<Int8>(l, begin, end); }
