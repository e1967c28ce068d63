// Paged attention with an online softmax. A task is a few tokens of one row and one K/V head: pages are read in place, once
// for all query heads of the group and all tokens of the task.
//
// Row-invariance: contexts are cut into blocks at fixed multiples of kSpan slots, each token goes through its own blocks in
// order with the same operations whatever its task-mates are, and slots that it does not see contribute exact zeros or
// nothing. So neither chunking, batch, block table nor threads reach its bits.
//
// A tree's tokens share the slots before its first fork; these are read for all of them at once. The span with that fork and
// those behind it are gathered for each token along its own path, so that each sum meets its terms as in a chain.
#include <cstdint>
#include <cstring>
#include <vector>

#include "abi.h"
#include "isa.h"
#include "threads.h"

namespace pl {
namespace {

constexpr int64_t kSpan = 32;      // slots scored together
constexpr int64_t kQueries = 32;   // query vectors of a task, about

struct Attention {
    const float* q;
    const void* k_pages;
    const void* v_pages;
    const int32_t* block_tables;
    const int32_t* query_starts;
    const int32_t* context_lens;
    const int32_t* parents;  // null: no row is a tree
    float* out;
    int64_t q_heads, k_heads, head_size, q_stride, block_size, max_blocks, window, pages;
    float scale, soft_cap;
};

struct Task {
    int64_t row, token, count;  // tokens token..token+count-1 of the batch, all of this row
    int64_t fork;               // slots before it are positions of every path of the row; no less than context_lens in a chain
};

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Slots that a token sees: first..end-1.
struct Sight {
    int64_t first, end;
};

int64_t slot_of(const Attention& a, int64_t row, int64_t token) {
    return a.context_lens[row] - (a.query_starts[row + 1] - token);
}

// The first position at which paths of a row may differ.
int64_t fork_of(const Attention& a, int64_t row) {
    int64_t fork = a.context_lens[row];
    if (a.parents == nullptr) return fork;
    for (int64_t t = a.query_starts[row] + 1; t < a.query_starts[row + 1]; ++t)
        if (a.parents[t] != t - 1 && slot_of(a, row, a.parents[t]) + 1 < fork) fork = slot_of(a, row, a.parents[t]) + 1;
    return fork;
}

Sight sight(const Attention& a, int64_t row, int64_t token, int64_t fork) {
    int64_t end = 1;
    for (; slot_of(a, row, token) >= fork; token = a.parents[token]) ++end;
    end += slot_of(a, row, token);
    return {a.window > 0 && end > a.window ? end - a.window : 0, end};
}

#define PL_BODY "attention_body.h"
#include "foreach_isa.h"

// 0, or 1 + the index of the row whose lengths or blocks are impossible.
int64_t first_bad_row(const Attention& a, int64_t num_tokens, int64_t num_rows, int64_t num_blocks) {
    if (a.query_starts[0] != 0) return 1;
    if (a.query_starts[num_rows] != num_tokens) return num_rows > 0 ? num_rows : 1;
    for (int64_t r = 0; r < num_rows; ++r) {
        const int64_t count = a.query_starts[r + 1] - a.query_starts[r], length = a.context_lens[r];
        if (count < 0) return 1 + r;
        if (count == 0) continue;
        if (count > length || round_up(length, a.block_size) / a.block_size > a.max_blocks) return 1 + r;
        const int32_t* table = a.block_tables + r * a.max_blocks;
        if (a.parents != nullptr)
            for (int64_t t = a.query_starts[r] + 1; t < a.query_starts[r + 1]; ++t)
                if (a.parents[t] < a.query_starts[r] || a.parents[t] >= t) return 1 + r;
        for (int64_t b = sight(a, r, a.query_starts[r], length).first / a.block_size; b * a.block_size < length; ++b)
            if (table[b] < 0 || table[b] >= num_blocks) return 1 + r;
    }
    return 0;
}

}  // namespace
}  // namespace pl

int64_t pl_paged_attention(const float* q, const void* k_pages, const void* v_pages, const int32_t* block_tables,
                           const int32_t* query_starts, const int32_t* context_lens, const int32_t* parents, float* out, int64_t num_tokens,
                           int64_t num_rows, int64_t q_heads, int64_t k_heads, int64_t head_size, int64_t q_stride, int64_t block_size,
                           int64_t num_blocks, int64_t max_blocks, int64_t window, int64_t pages, float scale,
                           float soft_cap) {
    using namespace pl;
    const Attention a{q, k_pages, v_pages, block_tables, query_starts, context_lens, parents, out, q_heads, k_heads,
                      head_size, q_stride, block_size, max_blocks, window, pages, scale, soft_cap};
    if (const int64_t bad = first_bad_row(a, num_tokens, num_rows, num_blocks)) return bad;
    static thread_local std::vector<Task> tasks;  // keeps its memory from call to call
    tasks.clear();
    const int64_t group = q_heads / k_heads, most = kQueries / group > 1 ? kQueries / group : 1;
    int64_t work = 0;
    for (int64_t r = 0; r < num_rows; ++r) {
        const int64_t fork = fork_of(a, r);
        for (int64_t t = query_starts[r]; t < query_starts[r + 1]; t += most)
            tasks.push_back({r, t, query_starts[r + 1] - t < most ? query_starts[r + 1] - t : most, fork});
        work += (query_starts[r + 1] - query_starts[r]) * context_lens[r];
    }
    const auto attend = PL_PICK(attend);
    const Task* first = tasks.data();
    const int64_t count = static_cast<int64_t>(tasks.size()) * k_heads;
    const int64_t least = work * q_heads * head_size < 65536 ? count : 1;  // a few microseconds: not worth a second thread
    split(count, least, [&a, first, attend](int64_t begin, int64_t end) { attend(a, first, begin, end); });
    return 0;
}
