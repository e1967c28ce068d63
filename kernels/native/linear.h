// What the quantised linears share: activations in int8, sixteen outputs side by side, and products on the pool.
//
// Activations are quantised on the fly, for each token and group of 32 inputs, to codes -127..127 and an fp32 scale.
// Weights are unsigned bytes once in a register, because the dot-product instructions take one unsigned and one signed
// operand; what was added to make them so is taken back through the sum of the activations' codes. Sixteen outputs by four
// inputs are the 64 bytes of one instruction.
//
// All instruction sets give the same bits: sums inside a group are exact int32, everything behind them is single fp32
// operations in the order of ops.linear_int8 and ops.linear_blocks, group by group, none of them fused.
#pragma once
#include <cstdint>
#include <cstring>

#include "threads.h"

namespace pl {

constexpr int64_t kGroup = 32;                   // inputs that share a scale
constexpr int64_t kOutputs = 16;                 // outputs of a block
constexpr float kLeastMagnitude = 0x1p-100f;     // below it a group counts as zeros
constexpr int64_t kPassTokens = 96;              // their activations fit the second-level cache beside the weights

// One group of one token's activations, quantised.
struct Activations {
    int8_t codes[kGroup];
    int32_t start;      // -128 * sum(codes): where the sum of products with codes + 128 begins
    int32_t starts[2];  // -32 * sum of the first and of the last 16
    float sum;          // sum(codes)
    float scale;
};

// One group of sixteen tokens' activations, as tiles of the matrix unit take them; rows past the last token hold anything.
constexpr int64_t kTileTokens = 16;
struct alignas(64) TokenTile {
    int8_t codes[kTileTokens][kGroup];
    float sum[kTileTokens], scale[kTileTokens];
};
constexpr int64_t kLeastTiled = 16;          // tokens from which on the matrix unit is the quicker one
constexpr int64_t kPassBytes = 1024 * 1024;  // of activations, which stay in the second-level cache for all blocks of a pass

// One product. What weights and scales point to is the business of the format.
struct Linear {
    const Activations* x;    // [T][groups]
    const TokenTile* tiles;  // or these, [tokens / 16, rounded up][groups]
    const uint8_t* weights;
    const uint16_t* scales;
    const float* bias;
    float* out;
    int64_t stride;  // of out between tokens: other products' outputs may stand beside these
    int64_t num_tokens, n, groups;
};

inline int64_t blocks_of(int64_t n) { return (n + kOutputs - 1) / kOutputs; }
inline int64_t groups_of(int64_t k) { return (k + kGroup - 1) / kGroup; }

// Does blocks begin..end-1 of a product.
using Multiply = void (*)(const Linear&, int64_t begin, int64_t end);
struct Product {
    Linear linear;
    Multiply multiply;
};

// Whether this many tokens are quantised as tiles, for the matrix unit.
bool are_tiled(int64_t num_tokens);

Multiply int8_multiply(bool tiled);
Multiply blocks_multiply(int64_t bits, bool tiled);

// Quantises x [T, K] once and does all its products, the blocks of all of them side by side on the pool.
void run_products(Product* products, int64_t count, const float* x, int64_t k);

}  // namespace pl
