// Int8 weights times activations quantised on the fly, both with a scale for each group of 32 inputs.
//
// Weights are stored as code + 128, unsigned, and activations as signed bytes, because the dot-product instructions take one
// of each; the 128 is taken back by starting every group's sum at -128 times the sum of the activations' codes. Sixteen
// outputs by four inputs are 64 bytes, side by side: [N/16][G][8][16][4]. Scales are bf16 (6 % of the codes' bytes, fp32 would
// be 12 %), rounded up before the codes are made from them, so that nothing is lost but a slightly coarser step.
//
// All instruction sets give the same bits: sums inside a group are exact int32, then (sum * weight scale) * activation
// scale is added, group by group, in fp32, without fused operations.
#include <cstdint>
#include <cstring>

#include "abi.h"
#include "isa.h"
#include "threads.h"

namespace pl {
namespace {

constexpr int64_t kGroup = 32;
constexpr int64_t kOutputs = 16;                     // outputs of a block
constexpr int64_t kCodes = kGroup * kOutputs;        // bytes of a block's group
constexpr float kLeastMagnitude = 0x1p-100f;         // below it a group counts as zeros
constexpr int64_t kPassTokens = 96;                  // their activations fit the second-level cache beside the weights
constexpr int64_t kSerialActivations = 8192;         // quantising fewer is quicker alone than shared

// One group of one token's activations, quantised.
struct Activations {
    int8_t codes[kGroup];
    int32_t start;  // -128 * sum(codes)
    float scale;
};

struct Linear {
    const Activations* x;  // [T][groups]
    const uint8_t* codes;
    const uint16_t* scales;
    const float* bias;
    float* out;
    int64_t num_tokens, n, groups;
};

float widen(uint16_t bf16) {
    const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// sums [16] of one token and one block, to the outputs that exist.
void finish(const Linear& l, int64_t token, int64_t block, const float* sums) {
    const int64_t first = block * kOutputs;
    const int64_t count = l.n - first < kOutputs ? l.n - first : kOutputs;
    float* out = l.out + token * l.n + first;
    for (int64_t i = 0; i < count; ++i) out[i] = l.bias ? sums[i] + l.bias[first + i] : sums[i];
}

#define PL_BODY "linear_int8_body.h"
#include "foreach_isa.h"

}  // namespace
}  // namespace pl

int64_t pl_pack_int8(const float* weight, uint8_t* codes, uint16_t* scales, int64_t n, int64_t k) {
    using namespace pl;
    const int64_t groups = (k + kGroup - 1) / kGroup, blocks = (n + kOutputs - 1) / kOutputs;
    const auto pack = PL_PICK(pack_row);
    split(blocks, 16384 / (k * kOutputs + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t row = begin * kOutputs; row < end * kOutputs; ++row) {
            const int64_t at = row / kOutputs * groups;
            pack(row < n ? weight + row * k : nullptr, k, codes + at * kCodes + row % kOutputs * 4,
                 scales + at * kOutputs + row % kOutputs);
        }
    });
    return 0;
}

int64_t pl_linear_int8(const float* x, const uint8_t* codes, const uint16_t* scales, const float* bias, float* out,
                       int64_t num_tokens, int64_t n, int64_t k) {
    using namespace pl;
    if (num_tokens == 0 || n == 0) return 0;
    const int64_t groups = (k + kGroup - 1) / kGroup, blocks = (n + kOutputs - 1) / kOutputs;
    auto* quantised = static_cast<Activations*>(scratch(0, sizeof(Activations) * num_tokens * groups + 64));
    const auto quantise = PL_PICK(quantise_row);
    split(num_tokens, kSerialActivations / (k + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) quantise(x + t * k, k, quantised + t * groups);
    });
    const Linear linear{quantised, codes, scales, bias, out, num_tokens, n, groups};
    const auto multiply = PL_PICK(multiply_blocks);
    const int64_t pairs = (blocks + 1) / 2;
    split(pairs, 1, [&](int64_t begin, int64_t end) { multiply(linear, begin * 2, end * 2 < blocks ? end * 2 : blocks); });
    return 0;
}
