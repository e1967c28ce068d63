// Bodies of linear_int4.cpp, compiled for each instruction set.
#include "linear_body.h"

// fp16 at p, as fp32, exactly.
#if PL_ISA == 0
static inline float half(const uint8_t* p) {
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
    float f;
    if (magnitude >= 0x7c00) {  // infinities and NaN
        const uint32_t wide = sign | 0x7f800000u | (magnitude & 0x3ff) << 13;
        std::memcpy(&f, &wide, 4);
        return f;
    }
    const uint32_t wide = sign | magnitude << 13;  // 2**112 too small, whether normal or not
    std::memcpy(&f, &wide, 4);
    return f * 0x1p112f;
}
#elif PL_ISA == 1
static inline F halves(const uint8_t* p) { return (F)_mm256_cvtph_ps(load<__m128i>(p)); }
#else
static inline F halves(const uint8_t* p) { return (F)_mm512_cvtph_ps(load<__m256i>(p)); }
#endif

struct Int4 {
    static constexpr int64_t kBytes = kGroupBytes;
    static constexpr int kTokens = PL_ISA == 2 ? 4 : PL_ISA == 1 ? 6 : 1, kBlocks = PL_ISA == 2 ? 2 : 1;

#if PL_ISA == 2

    static inline __m512i start(const Activations&) { return _mm512_setzero_si512(); }

    static inline void codes(const uint8_t* group, int i, __m512i& near, __m512i& far) {
        const __m512i low = _mm512_set1_epi8(0x0f), both = _mm512_loadu_si512(group + i * 64);
        near = _mm512_and_si512(both, low);
        far = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }

    struct Scales {
        F weights, least;
        Scales(const Linear& l, int64_t block, int64_t g) {
            const uint8_t* at = l.weights + (block * l.groups + g) * kGroupBytes + kHalves;
            weights = halves(at);
            least = halves(at + 2 * kOutputs);
        }
        F apply(F dots, const Activations& x) const { return (dots * weights + splat(x.sum) * least) * splat(x.scale); }
    };

    template <int M, int BLOCKS>
    static inline __attribute__((always_inline)) void tile(const Linear& l, int64_t token, int64_t block) {
        vnni_tile<Int4, M, BLOCKS>(l, token, block);
    }

#elif PL_ISA == 1

    // 16-bit sums do not overflow: a group's eight steps add at most 8 * 2 * 15 * 127 = 30480. An activation is spread once for
    // both halves of the outputs, unpacked codes serve M tokens, and everything stays in sixteen registers.
    template <int M, int BLOCKS>
    static inline __attribute__((always_inline)) void tile(const Linear& l, int64_t token, int64_t block) {
        static_assert(BLOCKS == 1, "sixteen registers hold one block");
        const Activations* x = l.x + token * l.groups;
        const uint8_t* weights = l.weights + block * l.groups * kGroupBytes;
        const __m256i low = _mm256_set1_epi8(0x0f), ones = _mm256_set1_epi16(1);
        const int64_t groups = l.groups;
        const bool first_of_pass = token % kPassTokens == 0;
        F sums[M][2] = {};
        for (int64_t g = 0; g < groups; ++g, ++x, weights += kGroupBytes) {
            if (first_of_pass) fetch<kGroupBytes>(weights + kAhead);
            __m256i dots[M][2] = {};  // every output in two halves
#pragma GCC unroll 8
            for (int i = 0; i < kGroup / 4; ++i) {  // inputs 4 i to 4 i + 3: the low halves of the bytes first
                __m256i codes[2];
                for (int h = 0; h < 2; ++h) {
                    const __m256i both = load<__m256i>(weights + i % 4 * 64 + h * 32);
                    codes[h] = _mm256_and_si256(i < 4 ? both : _mm256_srli_epi16(both, 4), low);
                }
                for (int m = 0; m < M; ++m) {
                    const __m256i four = _mm256_set1_epi32(load<int32_t>(x[m * groups].codes + i * 4));
                    for (int h = 0; h < 2; ++h) {
                        dots[m][h] = _mm256_add_epi16(dots[m][h], _mm256_maddubs_epi16(codes[h], four));
                        in_place(dots[m][h]);
                    }
                }
                read_again();
            }
            for (int m = 0; m < M; ++m) {
                const F sum = splat(x[m * groups].sum), scale = splat(x[m * groups].scale);
                for (int h = 0; h < 2; ++h) {
                    const F dot = __builtin_convertvector((I)_mm256_madd_epi16(dots[m][h], ones), F);
                    const uint8_t* at = weights + kHalves + h * kOutputs;
                    const F weight = halves(at), least = halves(at + 2 * kOutputs);
                    sums[m][h] += (dot * weight + sum * least) * scale;
                }
            }
        }
        for (int m = 0; m < M; ++m) finish(l, token + m, block, sums[m]);
    }

#else

    template <int M, int BLOCKS>
    static inline void tile(const Linear& l, int64_t token, int64_t block) {
        static_assert(M == 1 && BLOCKS == 1, "one token and one block at a time");
        const Activations* x = l.x + token * l.groups;
        const uint8_t* weights = l.weights + block * l.groups * kGroupBytes;
        F sums[kOutputs / W] = {};
        for (int64_t g = 0; g < l.groups; ++g, ++x, weights += kGroupBytes) {
            for (int o = 0; o < kOutputs; ++o) {
                int32_t dot = 0;
                for (int j = 0; j < kGroup / 2; ++j) {
                    const uint8_t both = weights[j / 4 * 64 + o * 4 + j % 4];
                    dot += (both & 15) * x->codes[j] + (both >> 4) * x->codes[j + 16];
                }
                const float scale = half(weights + kHalves + o * 2), least = half(weights + kHalves + (kOutputs + o) * 2);
                sums[o / W][o % W] += (static_cast<float>(dot) * scale + x->sum * least) * x->scale;
            }
        }
        finish(l, token, block, sums);
    }

#endif
};

static void multiply(const Linear& l, int64_t begin, int64_t end) { multiply_blocks<Int4>(l, begin, end); }
