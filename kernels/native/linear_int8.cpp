// Int8 weights times activations quantised on the fly (linear.h), both with a scale for each group of 32 inputs.
//
// Weights are stored as code + 128, [N/16][G][8][16][4]; the 128 is taken back by starting every group's sum at -128 times
// the sum of the activations' codes. Scales are fp16, [N/16][G][16] (6 % of the codes' bytes, fp32 would be 12 %): those of a
// GGUF file's Q8_0 blocks as they are; others rounded up before the codes are made from them, so that nothing is lost but a
// slightly coarser step. A group's product is (sum * weight scale) * activation scale.
#include <cstdint>
#include <cstring>

#include "abi.h"
#include "isa.h"
#include "linear.h"

namespace pl {
namespace {

constexpr int64_t kCodes = kGroup * kOutputs;  // bytes of a block's group

#define PL_BODY "linear_int8_body.h"
#include "foreach_isa.h"

}  // namespace

Multiply int8_multiply(bool tiled) {
#if PL_AMX
    if (tiled) return avx512::multiply_tiles<avx512::Int8>;
#endif
    return PL_PICK(multiply);
}

}  // namespace pl

int64_t pl_pack_int8(const float* weight, uint8_t* codes, uint16_t* scales, int64_t n, int64_t k) {
    using namespace pl;
    const int64_t groups = groups_of(k);
    const auto pack = PL_PICK(pack_row);
    split(blocks_of(n), 16384 / (k * kOutputs + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t row = begin * kOutputs; row < end * kOutputs; ++row) {
            const int64_t at = row / kOutputs * groups;
            pack(row < n ? weight + row * k : nullptr, k, codes + at * kCodes + row % kOutputs * 4,
                 scales + at * kOutputs + row % kOutputs);
        }
    });
    return 0;
}

int64_t pl_pack_q8_0(const uint8_t* rows, uint8_t* codes, uint16_t* scales, int64_t n, int64_t groups) {
    using namespace pl;
    constexpr int64_t kBlock = 2 + kGroup;  // a scale, and codes behind it
    split(blocks_of(n), 512 / (groups + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin * groups; i < end * groups; ++i) {
            const int64_t first = i / groups * kOutputs, g = i % groups;
            for (int64_t o = 0; o < kOutputs; ++o) {
                uint8_t block[kBlock] = {};
                if (first + o < n) std::memcpy(block, rows + ((first + o) * groups + g) * kBlock, kBlock);
                std::memcpy(scales + i * kOutputs + o, block, 2);
                for (int64_t j = 0; j < kGroup; ++j)
                    codes[i * kCodes + j / 4 * 64 + o * 4 + j % 4] = static_cast<uint8_t>(block[2 + j] ^ 128);
            }
        }
    });
    return 0;
}

int64_t pl_linear_int8(const float* x, const uint8_t* codes, const uint16_t* scales, const float* bias, float* out,
                       int64_t num_tokens, int64_t n, int64_t k) {
    using namespace pl;
    const Linear linear{nullptr, nullptr, codes, scales, bias, out, n, num_tokens, n, groups_of(k)};
    Product product{linear, int8_multiply(are_tiled(num_tokens))};
    run_products(&product, 1, x, k);
    return 0;
}
