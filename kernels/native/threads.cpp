#include "threads.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "abi.h"
#include "isa.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace pl {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kSpins = 2000;  // of a caller that waits for the others: about as long
constexpr int64_t kPiecesPerThread = 4;  // a thread that loses its core delays the others by one piece at most

inline void relax() {
#if PL_X86
    _mm_pause();
#endif
}

// One job at a time. Its pieces are claimed by compare-and-swap on `ticket`, which holds the job's number, how many pieces it
// has and the next one to take, so that a thread that wakes late cannot claim from a job it has not read.
class Pool {
   public:
    void resize(int64_t size) {
        std::lock_guard<std::mutex> turn(caller_);
        stop();
        size_ = size < 1 ? 1 : size;
    }

    void run(int64_t count, int64_t least, void (*work)(void*, int64_t, int64_t), void* context) {
        if (count <= 0) return;
        std::unique_lock<std::mutex> turn(caller_);
        int64_t pieces = count / (least < 1 ? 1 : least);
        if (pieces > size_ * kPiecesPerThread) pieces = size_ * kPiecesPerThread;
        if (pieces <= 1 || size_ == 1) {
            turn.unlock();
            work(context, 0, count);
            return;
        }
        start();
        work_ = work;
        context_ = context;
        count_ = count;
        done_.store(0, std::memory_order_relaxed);
        const uint64_t job = (ticket_.load(std::memory_order_relaxed) >> 40) + 1;
        ticket_.store(job << 40 | static_cast<uint64_t>(pieces) << 20);  // sequentially consistent: before reading asleep_
        if (asleep_.load() > 0) {
            { std::lock_guard<std::mutex> hold(sleep_); }
            wake_.notify_all();
        }
        while (work_on_one()) {
        }
        wait_for(pieces);
    }

    // The threads did not survive a fork: forget them; they start again when there is work.
    void forget() {
        new (&caller_) std::mutex;
        new (&sleep_) std::mutex;
        new (&wake_) std::condition_variable;
        new (&finished_) std::condition_variable;
        new (&threads_) std::vector<std::thread>;
        asleep_ = 0;
    }

   private:
    void start() {
        while (static_cast<int64_t>(threads_.size()) < size_ - 1) threads_.emplace_back([this] { serve(); });
    }

    void stop() {
        {
            std::lock_guard<std::mutex> hold(sleep_);
            stopping_ = true;
        }
        wake_.notify_all();
        for (auto& thread : threads_) thread.join();
        threads_.clear();
        stopping_ = false;
    }

    static bool has_piece(uint64_t ticket) { return (ticket & 0xfffff) < (ticket >> 20 & 0xfffff); }

    bool work_on_one() {
        uint64_t ticket = ticket_.load(std::memory_order_acquire);
        while (has_piece(ticket)) {
            if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
            const int64_t piece = ticket & 0xfffff, pieces = ticket >> 20 & 0xfffff;
            work_(context_, count_ * piece / pieces, count_ * (piece + 1) / pieces);
            if (done_.fetch_add(1) + 1 == pieces && waiting_.load()) {  // sequentially consistent, as in wait_for
                { std::lock_guard<std::mutex> hold(sleep_); }
                finished_.notify_one();
            }
            return true;
        }
        return false;
    }

    // Until the others have done their last pieces. One that lost its core may need long, and then this thread sleeps rather
    // than yields: who yields may hand its core to a process of the lowest priority until the next tick of the clock, who is
    // woken takes it back at once.
    void wait_for(int64_t pieces) {
        for (int spins = 0; spins < kSpins; ++spins) {
            if (done_.load(std::memory_order_acquire) == pieces) return;
            relax();
        }
        std::unique_lock<std::mutex> hold(sleep_);
        waiting_ = true;
        finished_.wait(hold, [this, pieces] { return done_.load() == pieces; });
        waiting_ = false;
    }

    void serve() {
        auto since = std::chrono::steady_clock::now();
        for (;;) {
            if (work_on_one()) {
                since = std::chrono::steady_clock::now();
                continue;
            }
            for (int i = 0; i < 32; ++i) relax();
            if (!stopping_ && std::chrono::steady_clock::now() - since < kSpin) continue;
            std::unique_lock<std::mutex> hold(sleep_);
            ++asleep_;
            wake_.wait(hold, [this] { return stopping_ || has_piece(ticket_.load()); });
            --asleep_;
            if (stopping_) return;
            since = std::chrono::steady_clock::now();
        }
    }

    std::mutex caller_, sleep_;
    std::condition_variable wake_, finished_;
    std::vector<std::thread> threads_;
    std::atomic<bool> stopping_{false}, waiting_{false};
    std::atomic<int> asleep_{0};
    int64_t size_ = 1;
    void (*work_)(void*, int64_t, int64_t) = nullptr;
    void* context_ = nullptr;
    int64_t count_ = 0;
    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<int64_t> done_{0};
};

// Never destroyed: its threads may still sleep in it while the process ends.
Pool& pool() {
    static Pool* const made = [] {
        auto* p = new Pool;
#if defined(__unix__) || defined(__APPLE__)
        pthread_atfork(nullptr, nullptr, [] { pool().forget(); });
#endif
        return p;
    }();
    return *made;
}

struct Buffer {
    void* data = nullptr;
    size_t size = 0;
    ~Buffer() { std::free(data); }
};

}  // namespace

void split(int64_t count, int64_t least, void (*work)(void*, int64_t, int64_t), void* context) {
    pool().run(count, least, work, context);
}

void* scratch(int slot, size_t size) {
    thread_local Buffer buffers[kScratchSlots];
    Buffer& b = buffers[slot];
    if (b.size < size) {
        std::free(b.data);
        b.size = (size + 4095) / 4096 * 4096;
        b.data = std::aligned_alloc(64, b.size);
        if (b.data == nullptr) throw std::bad_alloc();
    }
    return b.data;
}

}  // namespace pl

int64_t pl_set_num_threads(int64_t size) {
    pl::pool().resize(size);
    return 0;
}
