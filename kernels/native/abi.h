// Plain C interface of the native kernels: pointers, sizes and strides (in elements) only. kernels/ops.py is the contract of
// each op. Every function returns 0, or 1 + the index of the first bad entry of an index array (nothing was written then).
// load.py holds the same signatures; raise PL_ABI in both with every change.
#pragma once
#include <cstdint>

#define PL_ABI 7

enum PlPages : int64_t { PL_FP32 = 0, PL_BF16 = 1 };

enum PlProductKind : int64_t { PL_BLOCKS_4 = 4, PL_BLOCKS_5 = 5, PL_BLOCKS_6 = 6, PL_INT8 = 8 };  // bits of a weight

// A matrix [n, inputs] as pl_linear_int8 or pl_linear_blocks takes it; scales null for blocks, bias may be null.
struct PlProduct {
    const uint8_t* codes;
    const uint16_t* scales;
    const float* bias;
    int64_t kind, n;
};

// One decoder layer: the products of each part stand side by side, num_<part> of them. Norms [hidden_size].
struct PlLayer {
    const PlProduct *qkv, *output, *gate_up, *down;
    int64_t num_qkv, num_output, num_gate_up, num_down;
    const float *mlp_norm, *next_norm;
};

// What all layers of a model share.
struct PlDecoder {
    const PlLayer* layers;
    const float* cos_sin;  // [max_position, head_size]
    int64_t hidden_size, inner_size, q_heads, k_heads, head_size, max_position, window;
    float eps, scale;
};

// A step's rows, as pl_paged_attention has them; pages by layer.
struct PlRows {
    const int32_t *positions, *slots, *block_tables, *query_starts, *context_lens, *parents;
    void *const *k_pages, *const *v_pages;
    int64_t num_tokens, num_rows, block_size, num_blocks, max_blocks, pages;
};

// Which op refused, times PL_REFUSED, plus what it returned.
enum PlRefused : int64_t { PL_REFUSED = int64_t{1} << 40, PL_ROPE = 1, PL_STORE_KV = 2, PL_ATTENTION = 3 };

extern "C" {
int64_t pl_abi_version();

// Threads of the pool, the calling one included. They start with the first call that has work for them.
int64_t pl_set_num_threads(int64_t size);

// Highest instruction set to use from now on: 0 portable, 1 AVX2, 2 AVX-512, 3 AMX. Returns the one in use. For tests.
int64_t pl_limit_isa(int64_t most);

// x, out [T, H]; residual [T, H] or null.
int64_t pl_rms_norm(const float* x, const float* weight, float* residual, float* out, int64_t num_tokens, int64_t size,
                    float eps);

// q [T, q_heads, D] with q_stride between tokens, heads contiguous; k alike; cos_sin [max_position, D].
int64_t pl_rope(float* q, int64_t q_stride, int64_t q_heads, float* k, int64_t k_stride, int64_t k_heads,
                const float* cos_sin, const int32_t* positions, int64_t num_tokens, int64_t head_size,
                int64_t max_position);

// k, v [T, row_size] with strides between tokens; pages [num_slots, row_size] of the kind given.
int64_t pl_store_kv(const float* k, const float* v, void* k_pages, void* v_pages, const int32_t* slots,
                    int64_t num_tokens, int64_t k_stride, int64_t v_stride, int64_t row_size, int64_t num_slots,
                    int64_t pages);

// Copies slot sources[i] to targets[i], i rising, in each of the num_pages pages [num_slots, slot_bytes].
int64_t pl_move_kv(const int64_t* pages, int64_t num_pages, const int32_t* sources, const int32_t* targets, int64_t num_moves,
                   int64_t slot_bytes, int64_t num_slots);

// x [T, 2 I], out [T, I].
int64_t pl_silu_mul(const float* x, float* out, int64_t num_tokens, int64_t size);

// q [T, q_heads, D] with q_stride between tokens; out [T, q_heads, D]; parents [T] or null; the rest as in
// ops.paged_attention.
int64_t pl_paged_attention(const float* q, const void* k_pages, const void* v_pages, const int32_t* block_tables,
                           const int32_t* query_starts, const int32_t* context_lens, const int32_t* parents, float* out, int64_t num_tokens,
                           int64_t num_rows, int64_t q_heads, int64_t k_heads, int64_t head_size, int64_t q_stride, int64_t block_size,
                           int64_t num_blocks, int64_t max_blocks, int64_t window, int64_t pages, float scale,
                           float soft_cap);

// weight [N, K] -> codes [ceil(N/16)][ceil(K/32)][8][16][4], each code + 128; scales fp16 [ceil(N/16)][ceil(K/32)][16].
int64_t pl_pack_int8(const float* weight, uint8_t* codes, uint16_t* scales, int64_t n, int64_t k);

// x [T, K] -> out [T, N]; bias [N] or null.
int64_t pl_linear_int8(const float* x, const uint8_t* codes, const uint16_t* scales, const float* bias, float* out,
                       int64_t num_tokens, int64_t n, int64_t k);

// Rows of GGUF's Q8_0 blocks [N][groups][34] -> what pl_pack_int8 makes, with the file's codes and scales.
int64_t pl_pack_q8_0(const uint8_t* rows, uint8_t* codes, uint16_t* scales, int64_t n, int64_t groups);

// GGUF blocks of kind 0 Q4_0, 1 Q4_1, 2 Q4_K, 3 Q5_0, 4 Q5_1, 5 Q5_K or 6 Q6_K, [N][groups of 32 in their blocks], with two fp16
// numbers for each group, [N][groups]: scale and least value, or Q6_K's scales of the first and last 16 inputs -> packed
// [ceil(N/16)][groups][64 * (bits + 1)]; linear_blocks.cpp has the layout.
int64_t pl_pack_blocks(const uint8_t* blocks, const uint16_t* first, const uint16_t* second, uint8_t* packed, int64_t kind,
                       int64_t n, int64_t groups);

// x [T, K] -> out [T, N]; bias [N] or null; bits 4, 5 or 6.
int64_t pl_linear_blocks(const float* x, const uint8_t* packed, const float* bias, float* out, int64_t num_tokens, int64_t n,
                         int64_t k, int64_t bits);

// For D rows of logits [S, V] that `places` names: top [D], the lowest id of the largest logit, and sums [D], the logarithm of
// the sum of exponentials, or just the largest logit where the row's temperature is 0.
int64_t pl_summarise(const float* logits, const float* temperature, const int64_t* places, int64_t* top, double* sums,
                     int64_t num_places, int64_t num_rows, int64_t vocab_size);

// out [4, n]: the words of each Philox counter (group, position, stream, window), of which the low 32 bits count, under a seed.
int64_t pl_philox(const int64_t* groups, const int64_t* seeds, const int64_t* positions, const int64_t* windows,
                  int64_t* out, int64_t n, int64_t stream);

// logits [S, V] -> out [S].
int64_t pl_sample(const float* logits, const float* temperature, const int64_t* seeds, const int64_t* positions,
                  int64_t* out, int64_t num_rows, int64_t vocab_size);

// For benchmarks: reads size bytes once; does count turns of dot products and returns the multiply-adds of a turn (0 where
// there is no instruction for them).
int64_t pl_ceiling_read(const uint8_t* data, int64_t size);
int64_t pl_ceiling_dot(int64_t count);

// Layers first..last-1: x [T, hidden_size], the normed input of the first, becomes that of layer `last`; residual alike.
int64_t pl_decoder_layers(const PlDecoder* decoder, const PlRows* rows, float* x, float* residual, int64_t first, int64_t last);
}
