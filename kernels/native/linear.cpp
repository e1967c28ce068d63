// The way of a quantised linear through the pool: activations are quantised, then blocks of outputs are multiplied. Products of
// the same activations share both, which saves a quantisation and a meeting of all threads for each.
#include "linear.h"

#include "isa.h"

namespace pl {
namespace {

constexpr int64_t kSerialActivations = 8192;  // quantising fewer is quicker alone than shared

#define PL_BODY "quantise_body.h"
#include "foreach_isa.h"

const Activations* quantise_rows(const float* x, int64_t num_tokens, int64_t k) {
    const int64_t groups = groups_of(k);
    auto* out = static_cast<Activations*>(scratch(0, sizeof(Activations) * num_tokens * groups + 64));
    const auto quantise = PL_PICK(quantise_row);
    split(num_tokens, kSerialActivations / (k + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) quantise(x + t * k, k, out + t * groups);
    });
    return out;
}

#if PL_AMX
const TokenTile* quantise_tiles(const float* x, int64_t num_tokens, int64_t k) {
    const int64_t groups = groups_of(k), tiles = (num_tokens + kTileTokens - 1) / kTileTokens;
    auto* out = static_cast<TokenTile*>(scratch(0, sizeof(TokenTile) * tiles * groups));
    split(tiles, kSerialActivations / (k * kTileTokens + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            const int64_t first = t * kTileTokens, left = num_tokens - first;
            avx512::quantise_tile(x + first * k, left < kTileTokens ? left : kTileTokens, k, out + t * groups);
        }
    });
    return out;
}
#endif

// Blocks are handed out in pairs, which a tile multiplies at once.
int64_t pairs_of(const Linear& linear) { return (blocks_of(linear.n) + 1) / 2; }

}  // namespace

bool are_tiled(int64_t num_tokens) {
#if PL_AMX
    return isa() == Isa::amx && num_tokens >= kLeastTiled;
#else
    return false;
#endif
}

void run_products(Product* products, int64_t count, const float* x, int64_t k) {
    const int64_t num_tokens = count > 0 ? products->linear.num_tokens : 0;
    if (num_tokens == 0) return;
    const Activations* rows = nullptr;
    const TokenTile* tiles = nullptr;
#if PL_AMX
    if (are_tiled(num_tokens)) tiles = quantise_tiles(x, num_tokens, k);
#endif
    if (tiles == nullptr) rows = quantise_rows(x, num_tokens, k);
    int64_t pairs = 0;
    for (Product* p = products; p < products + count; ++p) {
        p->linear.x = rows;
        p->linear.tiles = tiles;
        pairs += pairs_of(p->linear);
    }
    split(pairs, 1, [=](int64_t begin, int64_t end) {
        for (const Product* p = products; begin < end; ++p) {
            const int64_t here = pairs_of(p->linear), last = end < here ? end : here;
            if (begin < here) {
                const int64_t blocks = blocks_of(p->linear.n);
                p->multiply(p->linear, begin * 2, last * 2 < blocks ? last * 2 : blocks);
                begin = last;
            }
            begin -= here;
            end -= here;
        }
    });
}

}  // namespace pl
