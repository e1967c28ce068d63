// Norm, rotary embedding, gate and cache write: one pass over memory each, rows split over threads.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "abi.h"
#include "isa.h"
#include "threads.h"

namespace pl {
namespace {

constexpr int64_t kLeast = 16384;  // elements that make a second thread worth its wake-up

int64_t rows_of(int64_t row_size) { return row_size > 0 ? (kLeast + row_size - 1) / row_size : kLeast; }

int64_t first_outside(const int32_t* values, int64_t count, int64_t bound) {
    for (int64_t i = 0; i < count; ++i)
        if (values[i] < 0 || values[i] >= bound) return 1 + i;
    return 0;
}

#define PL_BODY "pointwise_body.h"
#include "foreach_isa.h"

}  // namespace
}  // namespace pl

int64_t pl_rms_norm(const float* x, const float* weight, float* residual, float* out, int64_t num_tokens, int64_t size,
                    float eps) {
    using namespace pl;
    const auto row = PL_PICK(rms_norm_row);
    split(num_tokens, rows_of(size), [=](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t)
            row(x + t * size, weight, residual ? residual + t * size : nullptr, out + t * size, size, eps);
    });
    return 0;
}

int64_t pl_rope(float* q, int64_t q_stride, int64_t q_heads, float* k, int64_t k_stride, int64_t k_heads,
                const float* cos_sin, const int32_t* positions, int64_t num_tokens, int64_t head_size,
                int64_t max_position) {
    using namespace pl;
    if (const int64_t bad = first_outside(positions, num_tokens, max_position)) return bad;
    const auto rotate = PL_PICK(rope_heads);
    split(num_tokens, rows_of((q_heads + k_heads) * head_size), [=](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            const float* angles = cos_sin + positions[t] * head_size;
            rotate(q + t * q_stride, q_heads, angles, head_size);
            rotate(k + t * k_stride, k_heads, angles, head_size);
        }
    });
    return 0;
}

int64_t pl_silu_mul(const float* x, float* out, int64_t num_tokens, int64_t size) {
    using namespace pl;
    const auto row = PL_PICK(silu_mul_row);
    split(num_tokens, rows_of(4 * size), [=](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) row(x + t * 2 * size, out + t * size, size);
    });
    return 0;
}

int64_t pl_store_kv(const float* k, const float* v, void* k_pages, void* v_pages, const int32_t* slots,
                    int64_t num_tokens, int64_t k_stride, int64_t v_stride, int64_t row_size, int64_t num_slots,
                    int64_t pages) {
    using namespace pl;
    if (const int64_t bad = first_outside(slots, num_tokens, num_slots)) return bad;
    const auto narrow = PL_PICK(narrow_row);
    split(num_tokens, rows_of(2 * row_size), [=](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            const int64_t at = slots[t] * row_size;
            if (pages == PL_BF16) {
                narrow(k + t * k_stride, static_cast<uint16_t*>(k_pages) + at, row_size);
                narrow(v + t * v_stride, static_cast<uint16_t*>(v_pages) + at, row_size);
            } else {
                std::memcpy(static_cast<float*>(k_pages) + at, k + t * k_stride, row_size * sizeof(float));
                std::memcpy(static_cast<float*>(v_pages) + at, v + t * v_stride, row_size * sizeof(float));
            }
        }
    });
    return 0;
}

int64_t pl_move_kv(const int64_t* pages, int64_t num_pages, const int32_t* sources, const int32_t* targets, int64_t num_moves,
                   int64_t slot_bytes, int64_t num_slots) {
    using namespace pl;
    if (const int64_t bad = first_outside(sources, num_moves, num_slots)) return bad;
    if (const int64_t bad = first_outside(targets, num_moves, num_slots)) return bad;
    for (int64_t p = 0; p < num_pages; ++p) {
        auto* slots = reinterpret_cast<char*>(pages[p]);
        for (int64_t i = 0; i < num_moves; ++i)
            std::memmove(slots + targets[i] * slot_bytes, slots + sources[i] * slot_bytes, slot_bytes);
    }
    return 0;
}
