// Threads that stay between passes. A pass wakes them once; barriers separate its stages.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <ctime>
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

// Nanoseconds of a clock: of the world, or of this thread's work on a core.
inline int64_t clock_ns(clockid_t clock) {
    timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * int64_t{1000000000} + now.tv_nsec;
}

// Wait until `value` has reached `round`. Look often at first, then sleep: the thread that we wait
// for may need this very core. Returns the nanoseconds spent looking.
inline int64_t wait_for(const std::atomic<uint32_t>& value, uint32_t round) {
    const auto reached = [&](uint32_t seen) { return static_cast<int32_t>(seen - round) >= 0; };
    if (reached(value.load(std::memory_order_acquire))) return 0;
    const int64_t start = clock_ns(CLOCK_MONOTONIC);
    for (int spin = 0; spin < 8192; spin++) {
        if (reached(value.load(std::memory_order_acquire)))
            return clock_ns(CLOCK_MONOTONIC) - start;
        relax();
    }
    const int64_t looked = clock_ns(CLOCK_MONOTONIC) - start;
    for (uint32_t seen; !reached(seen = value.load(std::memory_order_acquire));)
        value.wait(seen, std::memory_order_acquire);
    return looked;
}

class Pool {
public:
    // Throws std::system_error where the system does not start so many threads.
    explicit Pool(int threads) : threads_(threads), flags_(new Flag[threads]) {
        workers_.reserve(threads);
        try {
            for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { serve(i); });
        } catch (...) {
            given_up_ = true;
            call_.fetch_add(1);
            call_.notify_all();
            for (std::thread& worker : workers_) worker.join();
            throw;
        }
    }

    ~Pool() {
        stop_ = true;
        left_alone_ = 0;
        if (threads_ > 1) run([](void*, int) {}, nullptr);
        for (std::thread& worker : workers_) worker.join();
    }

    int threads() const { return threads_; }
    // Whether the first thread does all work of this call, without barriers.
    bool alone() const { return alone_; }
    // Let it do that in the next calls. (For tests.)
    void leave_alone(int calls) { left_alone_ = calls; }

    // job(argument, thread) on every thread. Returns when all are done.
    //
    // On a busy machine a barrier waits for threads that have no core, again and again: two threads
    // can get a tenth of what one does. So where all threads together worked for less time than the
    // call took, twice in a row, the first thread does the next calls alone. What is computed is
    // the same: no sum is ever split over threads.
    void run(void (*job)(void*, int), void* argument) {
        alone_ = threads_ == 1 || left_alone_ > 0;
        if (alone_) {
            left_alone_ -= left_alone_ > 0;
            job(argument, 0);
            return;
        }
        const int64_t start = clock_ns(CLOCK_MONOTONIC);
        job_ = job;
        argument_ = argument;
        call_.fetch_add(1);
        call_.notify_all();
        work(0);
        barrier(0);
        int64_t worked = 0;
        for (int i = 0; i < threads_; i++) worked += flags_[i].worked;
        const int64_t took = clock_ns(CLOCK_MONOTONIC) - start;
        if (took > kShort) judge(worked < took);
    }

    // body(owner, begin, end) over what each thread owns, 0..count(owner), on all threads, without
    // a barrier at the end. Each thread takes its own share a little at a time and then helps with
    // what others have left: on a shared machine no two cores stay equally fast.
    template <class Count, class Body>
    void shares(int me, Count count, Body body) {
        if (alone_) {
            for (int owner = 0; owner < threads_; owner++)
                if (const int end = count(owner)) body(owner, 0, end);
            return;
        }
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
        if (alone_) return;
        const uint32_t round = flags_[me].round.load(std::memory_order_relaxed) + 1;
        // Reset the counter of the stage after next: nobody has used it for two barriers.
        flags_[me].taken[(round + 1) % kStages].store(0, std::memory_order_relaxed);
        // Sequentially consistent, here and in `run`. notify_all skips the system call where it
        // sees no sleeping thread. If the store were not visible by then, a thread could fall
        // asleep in between and never be woken.
        flags_[me].round.store(round);
        flags_[me].round.notify_all();
        for (int other = 0; other < threads_; other++)
            if (other != me) flags_[me].looked += wait_for(flags_[other].round, round);
    }

private:
    static constexpr int kStages = 4;
    struct alignas(64) Flag {
        std::atomic<uint32_t> round{0};           // barriers passed
        std::atomic<int32_t> taken[kStages] = {}; // of this thread's share, by stage
        int64_t looked = 0, worked = 0;           // nanoseconds in this call: at barriers, and else
    };
    static constexpr int64_t kShort = 500000; // nanoseconds: waking a thread is a part of less
    static constexpr int kFewCalls = 16, kManyCalls = 1024; // that are done alone before a new try
    static constexpr int kIdleSpins = 8192; // some 100 us, the gap between two tokens

    // The job on this thread, and how long it really worked. (The wait at the call's last barrier
    // is not counted: `worked` is written before it.)
    void work(int me) {
        Flag& own = flags_[me];
        own.looked = 0;
        const int64_t start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        job_(argument_, me);
        own.worked = clock_ns(CLOCK_THREAD_CPUTIME_ID) - start - own.looked;
    }

    // Twice too slow in a row, and the next calls are done alone; once is enough soon after that.
    void judge(bool too_slow) {
        if (!too_slow) {
            slow_calls_ = 0;
            if (++good_calls_ >= kFewCalls) next_alone_ = kFewCalls;
            return;
        }
        good_calls_ = 0;
        if (++slow_calls_ < 2 && next_alone_ == kFewCalls) return;
        left_alone_ = next_alone_;
        next_alone_ = std::min(2 * next_alone_, kManyCalls);
        slow_calls_ = 0;
    }

    void serve(int me) {
        for (uint32_t seen = 0;;) {
            for (int i = 0; i < kIdleSpins && call_.load(std::memory_order_acquire) == seen; i++)
                relax();
            call_.wait(seen, std::memory_order_acquire); // sleeps while it still is `seen`
            seen++;
            if (given_up_) return;
            const bool last = stop_; // read before the barrier: after it the next call may begin
            work(me);
            barrier(me);
            if (last) return;
        }
    }

    const int threads_;
    std::unique_ptr<Flag[]> flags_;
    std::vector<std::thread> workers_;
    void (*job_)(void*, int) = nullptr;
    void* argument_ = nullptr;
    bool alone_ = false;
    int left_alone_ = 0, next_alone_ = kFewCalls, slow_calls_ = 0, good_calls_ = 0;
    std::atomic<bool> given_up_{false};
    bool stop_ = false; // written before the last call, which publishes it
    alignas(64) std::atomic<uint32_t> call_{0};
};

} // namespace lk
