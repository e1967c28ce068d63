// What the quantised linears share: activations in int8, sixteen outputs side by side, and the walk over tokens and blocks.
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
constexpr int64_t kSerialActivations = 8192;     // quantising fewer is quicker alone than shared

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

// Pairs of blocks on the pool.
template <class Multiply>
void over_blocks(const Linear& linear, Multiply multiply) {
    const int64_t blocks = blocks_of(linear.n);
    split((blocks + 1) / 2, 1, [&](int64_t begin, int64_t end) { multiply(linear, begin * 2, end * 2 < blocks ? end * 2 : blocks); });
}

// Quantises x [T, K], then multiplies. `quantise` takes a row, `multiply` a range of blocks.
template <class Quantise, class Multiply>
void run_linear(Linear linear, const float* x, int64_t k, Quantise quantise, Multiply multiply) {
    if (linear.num_tokens == 0 || linear.n == 0) return;
    const int64_t groups = linear.groups;
    auto* quantised = static_cast<Activations*>(scratch(0, sizeof(Activations) * linear.num_tokens * groups + 64));
    split(linear.num_tokens, kSerialActivations / (k + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) quantise(x + t * k, k, quantised + t * groups);
    });
    linear.x = quantised;
    over_blocks(linear, multiply);
}

// The same with tiles: `quantise` takes up to sixteen rows.
template <class Quantise, class Multiply>
void run_tiled(Linear linear, const float* x, int64_t k, Quantise quantise, Multiply multiply) {
    if (linear.n == 0) return;
    const int64_t groups = linear.groups, tokens = linear.num_tokens, tiles = (tokens + kTileTokens - 1) / kTileTokens;
    auto* quantised = static_cast<TokenTile*>(scratch(0, sizeof(TokenTile) * tiles * groups));
    split(tiles, kSerialActivations / (k * kTileTokens + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            const int64_t first = t * kTileTokens, left = tokens - first;
            quantise(x + first * k, left < kTileTokens ? left : kTileTokens, k, quantised + t * groups);
        }
    });
    linear.tiles = quantised;
    over_blocks(linear, multiply);
}

// pl_linear_int8 and pl_linear_blocks with outputs `stride` apart.
void linear_int8(const float* x, const uint8_t* codes, const uint16_t* scales, const float* bias, float* out, int64_t stride,
                 int64_t num_tokens, int64_t n, int64_t k);
void linear_blocks(const float* x, const uint8_t* packed, const float* bias, float* out, int64_t stride, int64_t num_tokens,
                   int64_t n, int64_t k, int64_t bits);

}  // namespace pl
