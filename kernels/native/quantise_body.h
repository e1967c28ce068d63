// Quantising of activations, compiled for each instruction set: the body of linear.cpp, and what those of linear_int8.cpp and
// linear_blocks.cpp begin with.

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

#if PL_ISA == 2

// Up to sixteen rows, as the matrix unit takes them.
static void quantise_tile(const float* x, int64_t count, int64_t k, TokenTile* out) {
    float spare[kGroup];
    for (int64_t i = 0; i < k; i += kGroup, ++out) {
        for (int64_t t = 0; t < count; ++t) {
            const float* group = group_at(x + t * k, i, k, spare);
            const float most = magnitude(group);
            int32_t sums[2];
            encode(group, splat(most == 0.0f ? 0.0f : 127.0f / most), out->codes[t], sums);
            out->sum[t] = static_cast<float>(sums[0] + sums[1]);
            out->scale[t] = most / 127.0f;
        }
        for (int64_t t = count; t < kTileTokens; ++t) out->sum[t] = out->scale[t] = 0.0f;  // sums of nothing stay finite
    }
}

#endif
