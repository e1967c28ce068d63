// Weights of 4, 5 or 6 bits times activations quantised on the fly (linear.h): a GGUF file's own codes and scales.
//
// A block of sixteen outputs keeps each group of 32 inputs in whole cache lines in a row. First the codes' low halves
// [4][16][4], inputs 4 i to 4 i + 3 in the low halves of vector i's bytes and those 16 further on in the high halves. Then what
// 5 and 6 bits have above: vectors of [16][4] bytes, each with one bit of eight steps, or two bits of four steps, of four
// inputs, the first step lowest. Then two fp16 numbers for each output, all first ones in front:
//   4 and 5 bits: scale and least value; a weight is code * scale + least, and a group's product
//                 (sum * scale + sum of the activations' codes * least) * activation scale;
//   6 bits:       the scales of the first and last 16 inputs; a weight is (code - 32) * scale, and a group's product
//                 (first sum * first scale + last sum * last scale) * activation scale.
// Codes are unpacked in registers: vector instructions that do not multiply are all but free here.
#include <cstdint>
#include <cstring>

#include "abi.h"
#include "isa.h"
#include "linear.h"

namespace pl {
namespace {

constexpr int64_t kHalves = 256;            // bytes of a group's low halves
constexpr int64_t kVector = 4 * kOutputs;  // bytes of four inputs of each output, and of a group's pairs of numbers

constexpr int64_t group_bytes(int bits) { return kHalves + (bits - 4) * kVector + kVector; }

// How a GGUF block holds its codes: its bytes and groups, the bits of a code, and where low halves and high bits begin. The
// order is that of abi.h.
struct BlockKind {
    int64_t bytes, groups;
    int bits;
    int64_t low, high;
};
constexpr BlockKind kKinds[] = {
    {18, 1, 4, 2, 0}, {20, 1, 4, 4, 0}, {144, 8, 4, 16, 0},  // Q4_0, Q4_1, Q4_K
    {22, 1, 5, 6, 2}, {24, 1, 5, 8, 4}, {176, 8, 5, 48, 16},  // Q5_0, Q5_1, Q5_K
    {210, 8, 6, 0, 128},                                      // Q6_K
};

inline uint32_t word(const uint8_t* p) {
    uint32_t w;
    std::memcpy(&w, p, 4);
    return w;
}

// The lowest four bits, one in each byte.
inline uint32_t spread(uint32_t bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }

// Codes 4 i to 4 i + 3 of one group of a block, a byte each. Blocks of one group have the two halves of their inputs in the two
// halves of their bytes; in those of eight, two groups share 32 bytes. High bits lie in one word; or bit g of byte j is that of
// input j of group g; or, two for each code, pairs of bits of 32 bytes serve four groups.
uint32_t codes_at(const uint8_t* block, const BlockKind& kind, int64_t group, int i) {
    const uint8_t *low = block + kind.low, *high = block + kind.high;
    const int j = 4 * (i % 4);
    if (kind.groups == 1) {
        const uint32_t codes = word(low + j) >> (i < 4 ? 0 : 4) & 0x0f0f0f0fu;
        return kind.bits == 4 ? codes : codes | spread(word(high) >> 4 * i) << 4;
    }
    if (kind.bits == 6) {
        const int64_t quarter = group % 4;
        const uint32_t codes = word(low + group / 4 * 64 + quarter % 2 * 32 + 4 * i) >> quarter / 2 * 4 & 0x0f0f0f0fu;
        return codes | (word(high + group / 4 * 32 + 4 * i) >> 2 * quarter & 0x03030303u) << 4;
    }
    const uint32_t codes = word(low + group / 2 * 32 + 4 * i) >> group % 2 * 4 & 0x0f0f0f0fu;
    return kind.bits == 4 ? codes : codes | (word(high + 4 * i) >> group & 0x01010101u) << 4;
}

// One group of one output into its places in each vector.
void pack_group(const uint8_t* block, const BlockKind& kind, int64_t group, uint8_t* out) {
    uint32_t codes[8], bits[2] = {};
    for (int i = 0; i < 8; ++i) {
        codes[i] = codes_at(block, kind, group, i);
        if (kind.bits == 5) bits[0] |= (codes[i] >> 4 & 0x01010101u) << i;
        if (kind.bits == 6) bits[i / 4] |= (codes[i] >> 4 & 0x03030303u) << 2 * (i % 4);
    }
    for (int i = 0; i < 4; ++i) {
        const uint32_t both = (codes[i] & 0x0f0f0f0fu) | (codes[i + 4] & 0x0f0f0f0fu) << 4;
        std::memcpy(out + i * kVector, &both, 4);
    }
    for (int i = 0; i < kind.bits - 4; ++i) std::memcpy(out + kHalves + i * kVector, &bits[i], 4);
}

#define PL_BODY "linear_blocks_body.h"
#include "foreach_isa.h"

}  // namespace

Multiply blocks_multiply(int64_t bits, bool tiled) {
#if PL_AMX
    using namespace avx512;
    if (tiled) return bits == 4 ? multiply_tiles<Blocks<4>> : bits == 5 ? multiply_tiles<Blocks<5>> : multiply_tiles<Blocks<6>>;
#endif
    return bits == 4 ? PL_PICK(multiply<4>) : bits == 5 ? PL_PICK(multiply<5>) : PL_PICK(multiply<6>);
}

}  // namespace pl

int64_t pl_pack_blocks(const uint8_t* blocks, const uint16_t* first, const uint16_t* second, uint8_t* packed, int64_t kind,
                       int64_t n, int64_t groups) {
    using namespace pl;
    const BlockKind from = kKinds[kind];
    const int64_t row_bytes = groups / from.groups * from.bytes, size = group_bytes(from.bits);
    split(blocks_of(n), 256 / (groups + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin * groups; i < end * groups; ++i) {
            const int64_t at = i / groups * kOutputs, g = i % groups;
            const int64_t count = n - at < kOutputs ? n - at : kOutputs;
            uint8_t *group = packed + i * size, *numbers = group + size - kVector;
            if (count < kOutputs) std::memset(group, 0, size);
            for (int64_t o = 0; o < count; ++o) {
                const uint8_t* block = blocks + (at + o) * row_bytes + g / from.groups * from.bytes;
                pack_group(block, from, g % from.groups, group + o * 4);
                std::memcpy(numbers + o * 2, first + (at + o) * groups + g, 2);
                std::memcpy(numbers + (kOutputs + o) * 2, second + (at + o) * groups + g, 2);
            }
        }
    });
    return 0;
}

int64_t pl_linear_blocks(const float* x, const uint8_t* packed, const float* bias, float* out, int64_t num_tokens, int64_t n,
                         int64_t k, int64_t bits) {
    using namespace pl;
    const Linear linear{nullptr, nullptr, packed, nullptr, bias, out, n, num_tokens, n, groups_of(k)};
    Product product{linear, blocks_multiply(bits, are_tiled(num_tokens))};
    run_products(&product, 1, x, k);
    return 0;
}
