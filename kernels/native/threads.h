// Splits work over a small pool of threads. Knows nothing of what the work is.
#pragma once
#include <cstddef>
#include <cstdint>

namespace pl {

// Runs work(context, begin, end) over pieces of 0..count, at least `least` items each, on the pool and on the caller; returns
// when all are done. Which thread takes which piece varies: results must not depend on it.
void split(int64_t count, int64_t least, void (*work)(void*, int64_t, int64_t), void* context);

template <class Work>
void split(int64_t count, int64_t least, const Work& work) {
    split(
        count, least, [](void* w, int64_t begin, int64_t end) { (*static_cast<const Work*>(w))(begin, end); },
        const_cast<void*>(static_cast<const void*>(&work)));
}

// Memory of the calling thread that lives until its next call with the same slot: size bytes, aligned to 64. Slot 0 is the
// linears', 1 to 3 are attention's, 4 to 8 the decoder layers', 9 unpacked codes.
constexpr int kScratchSlots = 10;
void* scratch(int slot, size_t size);

}  // namespace pl
