// Bodies of attention.cpp, compiled for each instruction set. A span is kSpan slots; VECTORS vectors hold their scores.

constexpr int VECTORS = kSpan / W;

// What a task works in. Query vector i is token i / group, head i % group of the task.
struct Work {
    float* keys;    // [padded D][kSpan], transposed
    float* values;  // [kSpan][padded D]
    float* scores;  // [queries][kSpan], then the weights
    float* sums;    // [queries][padded D]
    float* totals;  // [queries][W]: sums of weights, lane by lane
    float* most;    // [queries], largest score so far
    float* zeros;   // [padded D], stands in for slots that nobody sees; where it was for the task before
    int64_t queries, group, padded;
};

static Work make_work(const Attention& a, const Task& task) {
    Work w{};
    w.group = a.q_heads / a.k_heads;
    w.queries = task.count * w.group;
    w.padded = round_up(a.head_size, 2 * W);
    const int64_t sizes[] = {w.padded * kSpan,     kSpan * w.padded, w.queries * kSpan,
                             w.queries * w.padded, w.queries * W,    w.queries};
    float** const parts[] = {&w.keys, &w.values, &w.scores, &w.sums, &w.totals, &w.most};
    int64_t total = 0;
    for (const int64_t size : sizes) total += round_up(size, 16);
    auto* memory = static_cast<float*>(scratch(1, total * sizeof(float)));
    for (int i = 0; i < 6; ++i) {
        *parts[i] = memory;
        memory += round_up(sizes[i], 16);
    }
    w.zeros = static_cast<float*>(scratch(2, w.padded * sizeof(float)));
    std::memset(w.zeros, 0, w.padded * sizeof(float));
    std::memset(w.sums, 0, w.queries * w.padded * sizeof(float));
    std::memset(w.totals, 0, w.queries * W * sizeof(float));
    for (int64_t i = 0; i < w.queries; ++i) w.most[i] = -__builtin_inff();
    return w;
}

// Where the keys and values of a span's slots are; slots outside first..end-1 point to zeros.
template <class T>
struct Rows {
    const T* keys[kSpan];
    const T* values[kSpan];

    Rows() {}  // to be assigned

    // The slots of positions base.., which lie where `path` says from position `fork` on.
    Rows(const Attention& a, const Work& w, const Task& task, int64_t head, int64_t base, Sight seen, const int32_t* path) {
        const int32_t* table = a.block_tables + task.row * a.max_blocks;
        for (int64_t i = 0; i < kSpan; ++i) {
            const int64_t position = base + i;
            keys[i] = values[i] = reinterpret_cast<const T*>(w.zeros);
            if (position < seen.first || position >= seen.end) continue;
            const int64_t slot = position < task.fork ? position : path[position - task.fork];
            const int64_t there = static_cast<int64_t>(table[slot / a.block_size]) * a.block_size + slot % a.block_size;
            const int64_t at = (there * a.k_heads + head) * a.head_size;
            keys[i] = static_cast<const T*>(a.k_pages) + at;
            values[i] = static_cast<const T*>(a.v_pages) + at;
        }
    }

    Rows(const Attention& a, const Work& w, int64_t row, int64_t head, int64_t base, int64_t first, int64_t end) {
        const int32_t* table = a.block_tables + row * a.max_blocks;
        const int64_t begin = first > base ? first - base : 0, stop = end - base < kSpan ? end - base : kSpan;
        int64_t i = 0;
        for (; i < begin; ++i) keys[i] = values[i] = reinterpret_cast<const T*>(w.zeros);
        while (i < stop) {  // the slots of a block are a fixed way apart
            const int64_t offset = (base + i) % a.block_size, left = a.block_size - offset;
            const int64_t last = left < stop - i ? i + left : stop, step = a.k_heads * a.head_size;
            int64_t at = ((table[(base + i) / a.block_size] * a.block_size + offset) * a.k_heads + head) * a.head_size;
            for (; i < last; ++i, at += step) {
                keys[i] = static_cast<const T*>(a.k_pages) + at;
                values[i] = static_cast<const T*>(a.v_pages) + at;
            }
        }
        for (; i < kSpan; ++i) keys[i] = values[i] = reinterpret_cast<const T*>(w.zeros);
    }
};

// Elements of a row from `at` on as W words of 32 bits, zeros past its end: W fp32, or W pairs of bf16.
template <class T>
static inline F words(const T* row, int64_t at, int64_t size) {
    const int64_t per_load = static_cast<int64_t>(4 * W / sizeof(T));
    return at + per_load <= size ? load<F>(row + at) : load_part<F>(row + at, at < size ? size - at : 0, sizeof(T));
}

static inline F widened(const float* row, int64_t at, int64_t size) { return words(row, at, size); }

static inline F widened(const uint16_t* row, int64_t at, int64_t size) {
    return widen(at + W <= size ? load<H>(row + at) : load_part<H>(row + at, at < size ? size - at : 0, 2));
}

static inline void put_keys(const F* column, float* keys, const float*) {
    for (int i = 0; i < W; ++i) store(keys + i * kSpan, column[i]);
}

static inline void put_keys(const F* column, float* keys, const uint16_t*) {
    for (int i = 0; i < W; ++i) {
        store(keys + 2 * i * kSpan, (F)((U)column[i] << 16));
        store(keys + (2 * i + 1) * kSpan, (F)((U)column[i] & 0xffff0000u));
    }
}

// A cache line of each of W rows of the next span, if there is one: a few at a time, between other work, because a core has
// only so many loads from memory under way and waits once they are taken.
template <class T>
static inline void fetch_lines(const T* const* next, int64_t i, int64_t d) {
    constexpr int64_t line = 64 / sizeof(T);
    if (next != nullptr && d % line == 0)
        for (int j = 0; j < W; ++j) __builtin_prefetch(next[i + j] + d);
}

template <class T>
static void transpose_keys(const Attention& a, const Work& w, const Rows<T>& rows, const T* const* next) {
    constexpr int64_t step = 4 * W / sizeof(T);
    for (int64_t i = 0; i < kSpan; i += W)
        for (int64_t d = 0; d < a.head_size; d += step) {
            fetch_lines(next, i, d);
            F column[W];
            for (int j = 0; j < W; ++j) column[j] = words(rows.keys[i + j], d, a.head_size);
            transpose(column);
            put_keys(column, w.keys + d * kSpan + i, rows.keys[0]);
        }
}

// Values of the span as fp32, and pointers to them.
template <class T>
static void widen_values(const Attention& a, const Work& w, const Rows<T>& rows, const float** wide) {
    for (int64_t i = 0; i < kSpan; ++i) {
        float* to = w.values + i * w.padded;
        for (int64_t d = 0; d < w.padded; d += W) store(to + d, widened(rows.values[i], d, a.head_size));
        wide[i] = to;
    }
}

// Scores of COUNT query vectors over the span: sums over d in order.
template <int COUNT>
static inline void score(const Attention& a, const Work& w, const float* const* q, int64_t query) {
    for (int pair = 0; pair < VECTORS; pair += 2) {
        F s[COUNT][2] = {};
        const float* keys = w.keys + pair * W;
        for (int64_t d = 0; d < a.head_size; ++d, keys += kSpan) {
            F k0 = load<F>(keys), k1 = load<F>(keys + W);
            keep(k0);
            keep(k1);
            for (int c = 0; c < COUNT; ++c) {
                const F x = splat(q[c][d]);
                s[c][0] = fma(x, k0, s[c][0]);
                s[c][1] = fma(x, k1, s[c][1]);
            }
        }
        for (int c = 0; c < COUNT; ++c)
            for (int i = 0; i < 2; ++i) store(w.scores + (query + c) * kSpan + (pair + i) * W, s[c][i]);
    }
}

// Of tokens from..to-1 of the task.
static void score_all(const Attention& a, const Work& w, const Task& task, int64_t head, int64_t from, int64_t to) {
    const float* q[4];
    for (int64_t i = from * w.group; i < to * w.group; i += 4) {
        const int64_t count = to * w.group - i < 4 ? to * w.group - i : 4;
        for (int64_t c = 0; c < count; ++c) {
            const int64_t token = task.token + (i + c) / w.group, h = head * w.group + (i + c) % w.group;
            q[c] = a.q + token * a.q_stride + h * a.head_size;
        }
        switch (count) {
            case 4: score<4>(a, w, q, i); break;
            case 3: score<3>(a, w, q, i); break;
            case 2: score<2>(a, w, q, i); break;
            default: score<1>(a, w, q, i);
        }
    }
}

// Turns scores into weights for slots first..end-1 of the span at `base`, and rescales what was summed before.
static void weigh(const Attention& a, const Work& w, int64_t query, int64_t base, Sight seen) {
    float* scores = w.scores + query * kSpan;
    F s[VECTORS];
    F top = splat(-__builtin_inff());
    const bool all_seen = seen.first <= base && base + kSpan <= seen.end;
    for (int i = 0; i < VECTORS; ++i) {
        s[i] = load<F>(scores + i * W) * a.scale;
        if (a.soft_cap > 0.0f) s[i] = a.soft_cap * (1.0f - 2.0f / (exp(s[i] * (2.0f / a.soft_cap)) + 1.0f));  // tanh
        if (all_seen) {
            top = max(top, s[i]);
            continue;
        }
        const I slot = lane_ids() + static_cast<int32_t>(base + i * W);
        const I hidden = (slot < static_cast<int32_t>(seen.first)) | (slot >= static_cast<int32_t>(seen.end));
        s[i] = hidden ? splat(-__builtin_inff()) : s[i];
        top = max(top, s[i]);
    }
    const float before = w.most[query], now = max_of(top) > before ? max_of(top) : before;
    F total = load<F>(w.totals + query * W);
    if (now != before) {  // else the factor is 1
        const float factor = exp(splat(before - now))[0];
        w.most[query] = now;
        total *= factor;
        float* sums = w.sums + query * w.padded;
        for (int64_t d = 0; d < w.padded; d += W) store(sums + d, load<F>(sums + d) * factor);
    }
    for (int i = 0; i < VECTORS; ++i) {
        const F weight = exp(s[i] - now);
        total += weight;
        store(scores + i * W, weight);
    }
    store(w.totals + query * W, total);
}

// 2 W numbers in a row into those at even and those at odd places, and back.
#if PL_ISA > 0
static inline void part(const float* from, F* to) {
    const F a = load<F>(from), b = load<F>(from + W);
    to[0] = __builtin_shuffle(a, b, lane_ids() * 2);
    to[1] = __builtin_shuffle(a, b, lane_ids() * 2 + 1);
}

static inline void join(const F* from, float* to) {
    const I lane = lane_ids(), first = lane / 2 + (lane & 1) * W;
    store(to, __builtin_shuffle(from[0], from[1], first));
    store(to + W, __builtin_shuffle(from[0], from[1], first + W / 2));
}
#else  // for compilers without that word
static inline void part(const float* from, F* to) {
    for (int i = 0; i < 2 * W; ++i) to[i % 2][i / 2] = from[i];
}

static inline void join(const F* from, float* to) {
    for (int i = 0; i < 2 * W; ++i) to[i] = from[i % 2][i / 2];
}
#endif

// Adds weighted values of span slots from..to-1 to COUNT query vectors of one token, slot by slot. Rows have `size` elements.
template <int COUNT>
static inline void mix(const Work& w, const float* const* values, int64_t size, int64_t query, int64_t from, int64_t to) {
    const float* weights = w.scores + query * kSpan;
    float* sums = w.sums + query * w.padded;
    for (int64_t d = 0; d < w.padded; d += 2 * W) {
        F s[COUNT][2];
        for (int c = 0; c < COUNT; ++c)
            for (int i = 0; i < 2; ++i) s[c][i] = load<F>(sums + c * w.padded + d + i * W);
        for (int64_t j = from; j < to; ++j) {
            F v0 = widened(values[j], d, size), v1 = widened(values[j], d + W, size);
            keep(v0);
            keep(v1);
            for (int c = 0; c < COUNT; ++c) {
                const F p = splat(weights[c * kSpan + j]);
                s[c][0] = fma(p, v0, s[c][0]);
                s[c][1] = fma(p, v1, s[c][1]);
            }
        }
        for (int c = 0; c < COUNT; ++c)
            for (int i = 0; i < 2; ++i) store(sums + c * w.padded + d + i * W, s[c][i]);
    }
}

// The same from values where they are. Two bf16 are one word, so numbers at even and at odd places are summed apart.
template <int COUNT>
static inline void mix(const Work& w, const uint16_t* const* values, int64_t size, int64_t query, int64_t from, int64_t to) {
    const float* weights = w.scores + query * kSpan;
    float* sums = w.sums + query * w.padded;
    for (int64_t d = 0; d < w.padded; d += 2 * W) {
        F s[COUNT][2];
        for (int c = 0; c < COUNT; ++c) part(sums + c * w.padded + d, s[c]);
        for (int64_t j = from; j < to; ++j) {
            const U pairs = (U)words(values[j], d, size);
            F even = (F)(pairs << 16), odd = (F)(pairs & 0xffff0000u);
            keep(even);
            keep(odd);
            for (int c = 0; c < COUNT; ++c) {
                const F p = splat(weights[c * kSpan + j]);
                s[c][0] = fma(p, even, s[c][0]);
                s[c][1] = fma(p, odd, s[c][1]);
            }
        }
        for (int c = 0; c < COUNT; ++c) join(s[c], sums + c * w.padded + d);
    }
}

template <class T>
static void mix_token(const Work& w, const T* const* values, int64_t size, int64_t query, int64_t from, int64_t to) {
    int64_t c = 0;
    for (; c + 4 <= w.group; c += 4) mix<4>(w, values, size, query + c, from, to);
    switch (w.group - c) {
        case 3: mix<3>(w, values, size, query + c, from, to); break;
        case 2: mix<2>(w, values, size, query + c, from, to); break;
        case 1: mix<1>(w, values, size, query + c, from, to); break;
        default: break;
    }
}

// Part g of `parts` of a span's values.
template <class T>
static inline void fetch_values(const Attention& a, const Rows<T>& rows, int64_t g, int64_t parts) {
    constexpr int64_t line = 64 / sizeof(T);
    for (int64_t i = kSpan * g / parts; i < kSpan * (g + 1) / parts; ++i)
        for (int64_t d = 0; d < a.head_size; d += line) __builtin_prefetch(rows.values[i] + d);
}

// The span at `base` for tokens t..last-1 of a task, while the one behind it comes from memory.
template <class T>
static void attend_span(const Attention& a, const Work& w, const Task& task, int64_t head, int64_t base,
                        const Rows<T>& rows, const Rows<T>* next, const Sight* seen, int64_t t, int64_t last) {
    transpose_keys(a, w, rows, next == nullptr ? nullptr : next->keys);
    score_all(a, w, task, head, t, last);
    const float* wide[kSpan];
    const int64_t first = t;
    const bool alone = last - t == 1;  // a lone token reads the values where they are: the same numbers
    if (!alone) widen_values(a, w, rows, wide);
    for (; t < last; ++t) {
        const int64_t from = seen[t].first > base ? seen[t].first - base : 0;
        const int64_t to = seen[t].end - base < kSpan ? seen[t].end - base : kSpan;
        if (from >= to) continue;
        for (int64_t g = 0; g < w.group; ++g) {
            weigh(a, w, t * w.group + g, base, seen[t]);
            if (next != nullptr && t == first) fetch_values(a, *next, g, w.group);
        }
        if (alone)
            mix_token(w, rows.values, a.head_size, t * w.group, from, to);
        else
            mix_token(w, wide, w.padded, t * w.group, from, to);
    }
}

// The spans from `base` on of one token of a tree, along its path.
template <class T>
static void attend_path(const Attention& a, const Work& w, const Task& task, int64_t head, int64_t base,
                        const Sight* seen, int64_t t) {
    const int64_t size = seen[t].end - task.fork;
    auto* path = static_cast<int32_t*>(scratch(3, (size > 0 ? size : 1) * sizeof(int32_t)));
    int64_t token = task.token + t;
    for (int64_t i = size - 1; i >= 0; --i, token = a.parents[token])
        path[i] = static_cast<int32_t>(slot_of(a, task.row, token));
    for (; base < seen[t].end; base += kSpan)
        attend_span<T>(a, w, task, head, base, Rows<T>(a, w, task, head, base, seen[t], path), nullptr, seen, t, t + 1);
}

// What a task's tokens see together, and where its last span that is read for all of them at once ends.
struct Reach {
    Sight seen[kQueries];
    int64_t first = INT64_MAX, end = 0, base = 0;
    bool forks;

    Reach(const Attention& a, const Task& task) {
        for (int64_t t = 0; t < task.count; ++t) {
            seen[t] = sight(a, task.row, task.token + t, task.fork);
            first = seen[t].first < first ? seen[t].first : first;
            end = seen[t].end > end ? seen[t].end : end;
        }
        forks = end > task.fork;
        if (forks) end = task.fork / kSpan * kSpan;
        base = first / kSpan * kSpan;
    }
};

// The rows of spans, the one at work and the one that comes from memory meanwhile.
template <class T>
struct Turns {
    Rows<T> both[2];
    int at = 0;

    Rows<T>& now() { return both[at]; }
    Rows<T>& next() { return both[at ^ 1]; }
};

// A task's spans. `turns` is at the first, if it has one, and then at the first of the task that comes next.
template <class T>
static void attend_spans(const Attention& a, const Work& w, const Task& task, int64_t head, const Reach& reach,
                         Turns<T>& turns, const Task* next_task, int64_t next_head) {
    int64_t base = reach.base;
    do {
        bool more = base + kSpan < reach.end;
        if (more) {
            turns.next() = Rows<T>(a, w, task.row, head, base + kSpan, reach.first, reach.end);
        } else if (next_task != nullptr) {
            const Reach there(a, *next_task);
            more = there.base < there.end;
            if (more) turns.next() = Rows<T>(a, w, next_task->row, next_head, there.base, there.first, there.end);
        }
        if (base < reach.end)
            attend_span(a, w, task, head, base, turns.now(), more ? &turns.next() : nullptr, reach.seen, 0, task.count);
        turns.at ^= 1;
        base += kSpan;
    } while (base < reach.end);
    for (int64_t t = 0; reach.forks && t < task.count; ++t) {
        const int64_t own = reach.seen[t].first / kSpan * kSpan;
        attend_path<T>(a, w, task, head, own > reach.end ? own : reach.end, reach.seen, t);
    }
}

static void finish(const Attention& a, const Work& w, const Task& task, int64_t head) {
    for (int64_t i = 0; i < w.queries; ++i) {
        const int64_t token = task.token + i / w.group, h = head * w.group + i % w.group;
        float* out = a.out + (token * a.q_heads + h) * a.head_size;
        const float total = sum_of(load<F>(w.totals + i * W));
        for (int64_t d = 0; d < a.head_size; ++d) out[d] = w.sums[i * w.padded + d] / total;
    }
}

// Tasks times heads begin..end-1, the heads of a task one behind the other.
template <class T>
static void attend_each(const Attention& a, const Task* tasks, int64_t begin, int64_t end) {
    Turns<T> turns;
    for (int64_t i = begin; i < end; ++i) {
        const Task &task = tasks[i / a.k_heads], *next = i + 1 < end ? &tasks[(i + 1) / a.k_heads] : nullptr;
        const int64_t head = i % a.k_heads;
        const Work w = make_work(a, task);
        const Reach reach(a, task);
        if (i == begin && reach.base < reach.end)
            turns.now() = Rows<T>(a, w, task.row, head, reach.base, reach.first, reach.end);
        attend_spans(a, w, task, head, reach, turns, next, (i + 1) % a.k_heads);
        finish(a, w, task, head);
    }
}

static void attend(const Attention& a, const Task* tasks, int64_t begin, int64_t end) {
    if (a.pages == PL_BF16)
        attend_each<uint16_t>(a, tasks, begin, end);
    else
        attend_each<float>(a, tasks, begin, end);
}
