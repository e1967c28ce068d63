// Bodies of pointwise.cpp, compiled for each instruction set.

static void rms_norm_row(const float* x, const float* weight, float* residual, float* out, int64_t size, float eps) {
    F sums{};
    int64_t i = 0;
    for (; i + W <= size; i += W) {
        F v = load<F>(x + i);
        if (residual) store(residual + i, v += load<F>(residual + i));
        sums = fma(v, v, sums);
    }
    if (const int64_t rest = size - i; rest > 0) {
        F v = load_part<F>(x + i, rest, 4);
        if (residual) {
            v += load_part<F>(residual + i, rest, 4);
            std::memcpy(residual + i, &v, rest * 4);
        }
        sums = fma(v, v, sums);
    }
    const float factor = 1.0f / std::sqrt(sum_of(sums) / static_cast<float>(size) + eps);
    const float* from = residual ? residual : x;
    for (int64_t j = 0; j < size; ++j) out[j] = from[j] * factor * weight[j];
}

static void rope_heads(float* x, int64_t heads, const float* angles, int64_t head_size) {
    const int64_t half = head_size / 2;
    for (int64_t h = 0; h < heads; ++h) {
        float* a = x + h * head_size;
        float* b = a + half;
        for (int64_t i = 0; i < half; ++i) {
            const float c = angles[i], s = angles[half + i], u = a[i], v = b[i];
            a[i] = u * c - v * s;
            b[i] = v * c + u * s;
        }
    }
}

static inline F silu_mul(F gate, F up) { return gate / (1.0f + exp(-gate)) * up; }

static void silu_mul_row(const float* x, float* out, int64_t size) {
    int64_t i = 0;
    for (; i + W <= size; i += W) store(out + i, silu_mul(load<F>(x + i), load<F>(x + size + i)));
    if (const int64_t rest = size - i; rest > 0) {
        const F v = silu_mul(load_part<F>(x + i, rest, 4), load_part<F>(x + size + i, rest, 4));
        std::memcpy(out + i, &v, rest * 4);
    }
}

// fp32 to bf16, nearest even; NaN becomes the quiet NaN that torch writes.
static void narrow_row(const float* x, uint16_t* out, int64_t size) {
    for (int64_t i = 0; i < size; ++i) {
        uint32_t bits;
        std::memcpy(&bits, x + i, 4);
        const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        out[i] = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
    }
}
