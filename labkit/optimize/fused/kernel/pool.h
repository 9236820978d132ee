// Threads that stay between passes. A pass wakes them once; barriers separate its stages.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lk {

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Wait until `value` has reached `round`. Look often at first, then sleep: the thread that we wait
// for may need this very core.
inline void wait_for(const std::atomic<uint32_t>& value, uint32_t round) {
    for (int spin = 0;; spin++) {
        const uint32_t seen = value.load(std::memory_order_acquire);
        if (static_cast<int32_t>(seen - round) >= 0) return;
        if (spin < 8192) relax();
        else value.wait(seen, std::memory_order_acquire);
    }
}

class Pool {
public:
    explicit Pool(int threads) : threads_(threads), flags_(new Flag[threads]) {
        for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { serve(i); });
    }

    ~Pool() {
        stop_ = true;
        run([](void*, int) {}, nullptr);
        for (std::thread& worker : workers_) worker.join();
    }

    int threads() const { return threads_; }

    // job(argument, thread) on every thread. Returns when all are done.
    void run(void (*job)(void*, int), void* argument) {
        job_ = job;
        argument_ = argument;
        call_.fetch_add(1);
        call_.notify_all();
        job(argument, 0);
        barrier(0);
    }

    // body(owner, begin, end) over what each thread owns, 0..count(owner), on all threads, without
    // a barrier at the end. Each thread takes its own share a little at a time and then helps with
    // what others have left: on a shared machine no two cores stay equally fast.
    template <class Count, class Body>
    void shares(int me, Count count, Body body) {
        const int stage = flags_[me].round.load(std::memory_order_relaxed) % kStages;
        for (int i = 0; i < threads_; i++) {
            const int owner = (me + i) % threads_, end = count(owner);
            const int grain = std::max(1, end / 32);
            for (;;) {
                const int at =
                    flags_[owner].taken[stage].fetch_add(grain, std::memory_order_relaxed);
                if (at >= end) break;
                body(owner, at, std::min(at + grain, end));
            }
        }
    }

    // body(begin, end) over 0..count; every thread owns an equal part.
    template <class Body>
    void each(int me, int64_t count, Body body) {
        const auto first = [&](int thread) { return static_cast<int>(count * thread / threads_); };
        shares(
            me, [&](int owner) { return first(owner + 1) - first(owner); },
            [&](int owner, int begin, int end) { body(first(owner) + begin, first(owner) + end); });
    }

    // After a barrier every thread sees what any thread wrote before it. Each thread raises its own
    // flag and reads the others': one cache line travels each way, and no two threads write to one.
    void barrier(int me) {
        const uint32_t round = flags_[me].round.load(std::memory_order_relaxed) + 1;
        // Reset the counter of the stage after next: nobody has used it for two barriers.
        flags_[me].taken[(round + 1) % kStages].store(0, std::memory_order_relaxed);
        // Sequentially consistent, here and in `run`. notify_all skips the system call where it
        // sees no sleeping thread. If the store were not visible by then, a thread could fall
        // asleep in between and never be woken.
        flags_[me].round.store(round);
        flags_[me].round.notify_all();
        for (int other = 0; other < threads_; other++)
            if (other != me) wait_for(flags_[other].round, round);
    }

private:
    static constexpr int kStages = 4;
    struct alignas(64) Flag {
        std::atomic<uint32_t> round{0};           // barriers passed
        std::atomic<int32_t> taken[kStages] = {}; // of this thread's share, by stage
    };
    static constexpr int kIdleSpins = 8192; // some 100 us, the gap between two tokens

    void serve(int me) {
        for (uint32_t seen = 0;;) {
            for (int i = 0; i < kIdleSpins && call_.load(std::memory_order_acquire) == seen; i++)
                relax();
            call_.wait(seen, std::memory_order_acquire); // sleeps while it still is `seen`
            seen++;
            const bool last = stop_; // read before the barrier: after it the next call may begin
            job_(argument_, me);
            barrier(me);
            if (last) return;
        }
    }

    const int threads_;
    std::unique_ptr<Flag[]> flags_;
    std::vector<std::thread> workers_;
    void (*job_)(void*, int) = nullptr;
    void* argument_ = nullptr;
    bool stop_ = false; // written before the last call, which publishes it
    alignas(64) std::atomic<uint32_t> call_{0};
};

} // namespace lk
