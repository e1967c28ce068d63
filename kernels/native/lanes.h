// W floats side by side, W as wide as the instruction set PL_ISA likes; included by foreach_isa.h, once for each set, so
// there is no include guard. Compiler vectors give the operators; what they lack is here.

#if PL_ISA == 2
constexpr int W = 16;
#elif PL_ISA == 1
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float F __attribute__((vector_size(4 * W)));
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));
typedef uint16_t H __attribute__((vector_size(2 * W)));
typedef int8_t B __attribute__((vector_size(W)));
typedef uint16_t V16 __attribute__((vector_size(4 * W)));

template <class V>
static inline V load(const void* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

template <class V>
static inline void store(void* p, V v) {
    __builtin_memcpy(p, &v, sizeof v);
}

// The first n elements of size bytes each, zeros behind them.
template <class V>
static inline V load_part(const void* p, int64_t n, size_t size) {
    V v{};
    __builtin_memcpy(&v, p, static_cast<size_t>(n) * size);
    return v;
}

static inline F splat(float x) { return x - F{}; }

static inline I lane_ids() {
    I v{};
    for (int i = 0; i < W; ++i) v[i] = i;
    return v;
}

static inline F widen(H bf16) {
#if PL_ISA == 2
    return (F)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)bf16), 16);
#elif PL_ISA == 1
    return (F)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)bf16), 16);
#else
    return (F)(__builtin_convertvector(bf16, U) << 16);
#endif
}

// Keeps x in a register: a compiler that folds a load into each of its uses loads it again each time.
static inline void keep(F& x) {
#if PL_ISA > 0
    asm("" : "+v"(x));
#else
    (void)x;
#endif
}

// a * b + c, in one rounding where the instruction set has it.
static inline F fma(F a, F b, F c) {
#if PL_ISA == 2
    return _mm512_fmadd_ps(a, b, c);
#elif PL_ISA == 1
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}

static inline F max(F a, F b) { return a > b ? a : b; }

static inline float max_of(F v) {
#if PL_ISA == 2
    return _mm512_reduce_max_ps(v);
#else
    float m = v[0];
    for (int i = 1; i < W; ++i) m = v[i] > m ? v[i] : m;
    return m;
#endif
}

// Bit i is set where lane i of a comparison's result is true.
static inline uint32_t mask_of(I truth) {
#if PL_ISA == 2
    return _mm512_movepi32_mask((__m512i)truth);
#elif PL_ISA == 1
    return static_cast<uint32_t>(_mm256_movemask_ps((__m256)truth));
#else
    uint32_t mask = 0;
    for (int i = 0; i < W; ++i) mask |= static_cast<uint32_t>(truth[i] & 1) << i;
    return mask;
#endif
}

// Neighbours first, then pairs of neighbours: one order for every caller.
static inline float sum_of(F v) {
    float s[W];
    store(s, v);
    for (int n = W / 2; n > 0; n /= 2)
        for (int i = 0; i < n; ++i) s[i] = s[2 * i] + s[2 * i + 1];
    return s[0];
}

// e to the power x, relative error below 2e-7; 0 below -87.3, 2.4e38 above 88.3, NaN stays NaN.
static inline F exp(F x) {
    const F shift = splat(12582912.0f);  // 1.5 * 2**23: adding it rounds to an integer, left in the low bits
    const F clipped = x < -87.3f ? splat(-87.3f) : (x > 88.3f ? splat(88.3f) : x);
    const F shifted = fma(clipped, splat(1.44269504f), shift);
    const F n = shifted - shift;
    F r = fma(n, splat(-0.693359375f), clipped);  // ln 2 in two parts, the first short enough for exact products
    r = fma(n, splat(2.12194440e-4f), r);
    F p = splat(1.0f / 720);
    p = fma(p, r, splat(1.0f / 120));
    p = fma(p, r, splat(1.0f / 24));
    p = fma(p, r, splat(1.0f / 6));
    p = fma(p, r, splat(0.5f));
    p = fma(p, r, splat(1.0f));
    p = fma(p, r, splat(1.0f));
    const F power = (F)(((U)shifted << 23) + 0x3f800000u);
    return x < -87.3f ? F{} : p * power;
}

// r becomes its own transpose: lane j of r[i] goes to lane i of r[j].
static inline void transpose(F* r) {
#if PL_ISA == 2
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; ++j) {
            b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a[i + j]), _mm512_castps_pd(a[i + j + 2])));
            b[i + 2 * j + 1] =
                _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a[i + j]), _mm512_castps_pd(a[i + j + 2])));
        }
    for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 16; i += 8) {
            a[i + j] = _mm512_shuffle_f32x4(b[i + j], b[i + j + 4], 0x88);
            a[i + j + 4] = _mm512_shuffle_f32x4(b[i + j], b[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; ++j) {
        r[j] = _mm512_shuffle_f32x4(a[j], a[j + 8], 0x88);
        r[j + 8] = _mm512_shuffle_f32x4(a[j], a[j + 8], 0xdd);
    }
#elif PL_ISA == 1
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; ++j) {
            b[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0x44);
            b[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0xee);
        }
    for (int j = 0; j < 4; ++j) {
        r[j] = _mm256_permute2f128_ps(b[j], b[j + 4], 0x20);
        r[j + 4] = _mm256_permute2f128_ps(b[j], b[j + 4], 0x31);
    }
#else
    for (int i = 0; i < W; ++i)
        for (int j = 0; j < i; ++j) {
            const float t = r[i][j];
            r[i][j] = r[j][i];
            r[j][i] = t;
        }
#endif
}
