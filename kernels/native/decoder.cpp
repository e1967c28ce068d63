// A run of decoder layers in one call: the ops of a layer one behind the other, as kernels/decoder_layers/reference.py has
// them, on the same code and so with the same bits. What is saved is the way through the interpreter between two ops, which for
// a small model and few rows takes as long as the ops do.
#include <cstdint>

#include "abi.h"
#include "linear.h"
#include "threads.h"

namespace pl {
namespace {

constexpr int64_t kAtOnce = 8;  // products that share one quantisation of their input

// Products of one input, side by side.
void multiply(const PlProduct* products, int64_t count, const float* x, float* out, int64_t stride, int64_t num_tokens,
              int64_t num_inputs) {
    const bool tiled = are_tiled(num_tokens);
    for (; count > 0; count -= kAtOnce, products += kAtOnce) {
        Product batch[kAtOnce];
        const int64_t size = count < kAtOnce ? count : kAtOnce;
        for (int64_t i = 0; i < size; out += products[i].n, ++i) {
            const PlProduct& p = products[i];
            batch[i] = {{nullptr, nullptr, p.codes, p.scales, p.bias, out, stride, num_tokens, p.n, groups_of(num_inputs)},
                        p.kind == PL_INT8 ? int8_multiply(tiled) : blocks_multiply(p.kind, tiled)};
        }
        run_products(batch, size, x, num_inputs);
    }
}

float* floats(int slot, int64_t count) { return static_cast<float*>(scratch(slot, sizeof(float) * (count > 0 ? count : 1))); }

}  // namespace
}  // namespace pl

int64_t pl_decoder_layers(const PlDecoder* decoder, const PlRows* rows, float* x, float* residual, int64_t first, int64_t last) {
    using namespace pl;
    const PlDecoder& d = *decoder;
    const PlRows& r = *rows;
    const int64_t tokens = r.num_tokens, q_width = d.q_heads * d.head_size, k_width = d.k_heads * d.head_size;
    const int64_t width = q_width + 2 * k_width;
    float* heads = floats(4, tokens * width);
    float* attended = floats(5, tokens * q_width);
    float* added = floats(6, tokens * d.hidden_size);
    float* gate_up = floats(7, tokens * 2 * d.inner_size);
    float* inner = floats(8, tokens * d.inner_size);
    for (int64_t i = first; i < last; ++i) {
        const PlLayer& l = d.layers[i];
        multiply(l.qkv, l.num_qkv, x, heads, width, tokens, d.hidden_size);
        float *k = heads + q_width, *v = k + k_width;
        if (const int64_t bad = pl_rope(heads, width, d.q_heads, k, width, d.k_heads, d.cos_sin, r.positions, tokens,
                                        d.head_size, d.max_position))
            return PL_ROPE * PL_REFUSED + bad;
        if (const int64_t bad = pl_store_kv(k, v, r.k_pages[i], r.v_pages[i], r.slots, tokens, width, width, k_width,
                                            r.num_blocks * r.block_size, r.pages))
            return PL_STORE_KV * PL_REFUSED + bad;
        if (const int64_t bad = pl_paged_attention(heads, r.k_pages[i], r.v_pages[i], r.block_tables, r.query_starts,
                                                   r.context_lens, r.parents, attended, tokens, r.num_rows, d.q_heads,
                                                   d.k_heads, d.head_size, width, r.block_size, r.num_blocks, r.max_blocks,
                                                   d.window, r.pages, d.scale, 0.0f))
            return PL_ATTENTION * PL_REFUSED + bad;
        multiply(l.output, l.num_output, attended, added, d.hidden_size, tokens, q_width);
        pl_rms_norm(added, l.mlp_norm, residual, x, tokens, d.hidden_size, d.eps);
        multiply(l.gate_up, l.num_gate_up, x, gate_up, 2 * d.inner_size, tokens, d.hidden_size);
        pl_silu_mul(gate_up, inner, tokens, d.inner_size);
        multiply(l.down, l.num_down, inner, added, d.hidden_size, tokens, d.inner_size);
        pl_rms_norm(added, l.next_norm, residual, x, tokens, d.hidden_size, d.eps);
    }
    return 0;
}
