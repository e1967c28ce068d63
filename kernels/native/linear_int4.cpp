// 4-bit weights times activations quantised on the fly (linear.h), with a scale and a least value for each group of 32 inputs.
//
// A weight is code * scale + least. A block of sixteen outputs keeps each group in 320 bytes, five cache lines in a row: codes
// [4][16][4], inputs 4 i to 4 i + 3 in the low halves of vector i's bytes and those 16 further on in the high halves, then
// sixteen scales and sixteen least values in fp16. A group's product is (sum * scale + sum of the activations' codes * least) *
// activation scale. Codes are unpacked in registers: vector instructions that do not multiply are all but free here.
#include <cstdint>
#include <cstring>

#include "abi.h"
#include "isa.h"
#include "linear.h"

namespace pl {
namespace {

constexpr int64_t kHalves = 256;                          // bytes of a group's codes
constexpr int64_t kGroupBytes = kHalves + 4 * kOutputs;  // with scales and least values

// How a GGUF block holds its 4-bit codes: where they begin, and its size and groups. The order is that of abi.h.
struct BlockKind {
    int64_t codes, bytes, groups;
};
constexpr BlockKind kKinds[] = {{2, 18, 1}, {4, 20, 1}, {16, 144, 8}};

inline uint32_t word(const uint8_t* p) {
    uint32_t w;
    std::memcpy(&w, p, 4);
    return w;
}

// One group of one output, sixteen bytes, as it goes into vectors 0 to 3. Blocks of one group have the two halves of their
// inputs in the two halves of their bytes, as we do; in a Q4_K block two groups share 32 bytes, the first in the low halves.
void pack_group(const uint8_t* codes, const BlockKind& kind, int64_t group, uint8_t* out) {
    for (int i = 0; i < 4; ++i) {
        uint32_t halves;
        if (kind.groups == 1) {
            halves = word(codes + 4 * i);
        } else {
            const uint8_t* from = codes + group / 2 * 32 + 4 * i;
            const uint32_t near = word(from), far = word(from + 16);
            halves = group % 2 == 0 ? (near & 0x0f0f0f0fu) | (far & 0x0f0f0f0fu) << 4
                                    : (near >> 4 & 0x0f0f0f0fu) | (far & 0xf0f0f0f0u);
        }
        std::memcpy(out + i * 64, &halves, 4);
    }
}

#define PL_BODY "linear_int4_body.h"
#include "foreach_isa.h"

}  // namespace

void linear_int4(const float* x, const uint8_t* packed, const float* bias, float* out, int64_t stride, int64_t num_tokens,
                 int64_t n, int64_t k) {
    const Linear linear{nullptr, packed, nullptr, bias, out, stride, num_tokens, n, groups_of(k)};
    run_linear(linear, x, k, PL_PICK(quantise_row), PL_PICK(multiply));
}

}  // namespace pl

int64_t pl_pack_int4(const uint8_t* blocks, const uint16_t* scales, const uint16_t* least, uint8_t* packed, int64_t kind,
                     int64_t n, int64_t groups) {
    using namespace pl;
    const BlockKind from = kKinds[kind];
    const int64_t row_bytes = groups / from.groups * from.bytes;
    split(blocks_of(n), 256 / (groups + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin * groups; i < end * groups; ++i) {
            const int64_t first = i / groups * kOutputs, g = i % groups;
            const int64_t count = n - first < kOutputs ? n - first : kOutputs;
            uint8_t* group = packed + i * kGroupBytes;
            if (count < kOutputs) std::memset(group, 0, kGroupBytes);
            for (int64_t o = 0; o < count; ++o) {
                const uint8_t* block = blocks + (first + o) * row_bytes + g / from.groups * from.bytes;
                pack_group(block + from.codes, from, g % from.groups, group + o * 4);
                std::memcpy(group + kHalves + o * 2, scales + (first + o) * groups + g, 2);
                std::memcpy(group + kHalves + (kOutputs + o) * 2, least + (first + o) * groups + g, 2);
            }
        }
    });
    return 0;
}

int64_t pl_linear_int4(const float* x, const uint8_t* packed, const float* bias, float* out, int64_t num_tokens, int64_t n,
                       int64_t k) {
    pl::linear_int4(x, packed, bias, out, n, num_tokens, n, k);
    return 0;
}
