// Keyed Gumbel-max: argmax of logits + noise, with exact noise only for ids that could still win.
//
// g = -log(-log1p(-v)) > t needs v < 1 - exp(-exp(-t)) <= exp(-t). So once a score `best` is known, an id can win only if its
// random word is below 2**32 * exp(logit - best): one approximate exp an id, and two logarithms for a handful of ids.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "abi.h"
#include "isa.h"
#include "threads.h"

namespace pl {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kKeyStep0 = 0x9E3779B9, kKeyStep1 = 0xBB67AE85;

struct Best {
    double score;
    int64_t id;

    void offer(double other, int64_t other_id) {
        if (other > score || (other == score && other_id < id)) *this = {other, other_id};
    }
};

// Philox4x32-10 (Salmon et al., SC11), one counter: the four words of ids 4 * counter[0] .. + 3.
void philox(uint32_t* c, uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; ++round, k0 += kKeyStep0, k1 += kKeyStep1) {
        const uint64_t a = static_cast<uint64_t>(kMultiplier0) * c[0], b = static_cast<uint64_t>(kMultiplier1) * c[2];
        const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
                                  static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)};
        std::memcpy(c, next, sizeof next);
    }
}

// The largest float that is not above x, so that a bound made from it errs on the safe side for large logits too.
float rounded_down(double x) {
    const float f = static_cast<float>(x);
    return f > x ? std::nextafterf(f, -__builtin_inff()) : f;
}

double gumbel(uint32_t word) { return -std::log(-std::log1p(-(word + 0.5) * 0x1p-32)); }

#define PL_BODY "sample_body.h"
#include "foreach_isa.h"

}  // namespace
}  // namespace pl

int64_t pl_sample(const float* logits, const float* temperature, const int64_t* seeds, const int64_t* positions,
                  int64_t* out, int64_t num_rows, int64_t vocab_size) {
    using namespace pl;
    const auto greedy = PL_PICK(argmax_row);
    const auto sampled = PL_PICK(sample_row);
    split(num_rows, 65536 / (vocab_size + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            const float* row = logits + r * vocab_size;
            const int64_t top = greedy(row, vocab_size);
            out[r] = temperature[r] > 0.0f ? sampled(row, vocab_size, top, static_cast<uint64_t>(seeds[r]),
                                                     static_cast<uint32_t>(positions[r]))
                                           : top;
        }
    });
    return 0;
}

int64_t pl_summarise(const float* logits, const float* temperature, const int64_t* places, int64_t* top, double* sums,
                     int64_t num_places, int64_t num_rows, int64_t vocab_size) {
    using namespace pl;
    for (int64_t i = 0; i < num_places; ++i)
        if (places[i] < 0 || places[i] >= num_rows) return 1 + i;
    const auto greedy = PL_PICK(argmax_row);
    const auto sum = PL_PICK(sum_exp_row);
    split(num_places, 65536 / (vocab_size + 1) + 1, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const float* row = logits + places[i] * vocab_size;
            top[i] = greedy(row, vocab_size);
            const float most = row[top[i]];
            sums[i] = temperature[places[i]] > 0.0f ? most + std::log(sum(row, vocab_size, most)) : most;
        }
    });
    return 0;
}

int64_t pl_philox(const int64_t* groups, const int64_t* seeds, const int64_t* positions, const int64_t* windows,
                  int64_t* out, int64_t n, int64_t stream) {
    for (int64_t i = 0; i < n; ++i) {
        uint32_t words[4] = {static_cast<uint32_t>(groups[i]), static_cast<uint32_t>(positions[i]),
                             static_cast<uint32_t>(stream), static_cast<uint32_t>(windows[i])};
        pl::philox(words, static_cast<uint32_t>(seeds[i]), static_cast<uint32_t>(static_cast<uint64_t>(seeds[i]) >> 32));
        for (int j = 0; j < 4; ++j) out[j * n + i] = words[j];
    }
    return 0;
}
