// What a processor can do at most: reading memory, and int8 products. Nothing is computed with what
// is read, so no engine can be faster.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace {

constexpr int64_t kShared = 4 << 20;  // bytes a thread from which shares are taken by turns
constexpr int64_t kPiece = 256 << 10; // bytes taken at a time; the remainder of a call counts

uint64_t read_piece(const uint64_t* p, int64_t words) {
    constexpr int kSums = 32; // independent sums, so that the compiler uses whole vectors
    uint64_t sums[kSums] = {};
    int64_t at = 0;
    for (; at + kSums <= words; at += kSums)
        for (int i = 0; i < kSums; i++) sums[i] ^= p[at + i];
    for (; at < words; at++) sums[0] ^= p[at];
    uint64_t all = 0;
    for (uint64_t one : sums) all ^= one;
    return all;
}

template <class Job>
uint64_t on_threads(int threads, Job job) {
    std::vector<uint64_t> found(threads);
    std::vector<std::thread> others;
    for (int i = 1; i < threads; i++) others.emplace_back([&, i] { found[i] = job(i); });
    found[0] = job(0);
    for (std::thread& other : others) other.join();
    uint64_t all = 0;
    for (uint64_t one : found) all ^= one;
    return all;
}

#if defined(__AVX512VNNI__)
constexpr const char* kIsa = "avx512vnni";
constexpr int64_t kOperations = 2 * 64;
using Vector = __m512i;
inline Vector vector(int x) { return _mm512_set1_epi32(x); }
inline Vector dot(Vector sum, Vector a, Vector b) { return _mm512_dpbusd_epi32(sum, a, b); }
inline int first(Vector x) { return _mm512_cvtsi512_si32(x); }
#elif defined(__AVX2__)
constexpr const char* kIsa = "avx2";
constexpr int64_t kOperations = 2 * 32;
using Vector = __m256i;
inline Vector vector(int x) { return _mm256_set1_epi32(x); }
// Sixteen-bit sums of pairs, widened later: what the kernel does for nibbles.
inline Vector dot(Vector sum, Vector a, Vector b) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b));
}
inline int first(Vector x) { return _mm256_cvtsi256_si32(x); }
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr const char* kIsa = "neon";
constexpr int64_t kOperations = 2 * 16;
using Vector = int32x4_t;
inline Vector vector(int x) { return vdupq_n_s32(x); }
inline Vector dot(Vector sum, Vector a, Vector b) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
}
inline int first(Vector x) { return vgetq_lane_s32(x, 0); }
#else
constexpr const char* kIsa = "portable";
constexpr int64_t kOperations = 2;
using Vector = int;
inline Vector vector(int x) { return x; }
inline Vector dot(Vector sum, Vector a, Vector b) { return sum + a * b; }
inline int first(Vector x) { return x; }
#endif

uint64_t multiply(int64_t count) {
    constexpr int kSums = 12; // more than the latency of a product hides
    Vector sums[kSums], b = vector(0x01010101);
    for (int i = 0; i < kSums; i++) sums[i] = vector(i);
    for (int64_t n = 0; n < count; n++) {
        // The compiler must not see that every round multiplies the same numbers.
#if defined(__AVX2__) && !defined(_MSC_VER)
        asm volatile("" : "+x"(b));
#elif defined(__aarch64__)
        asm volatile("" : "+w"(b));
#else
        asm volatile("" : "+r"(b));
#endif
        for (int i = 0; i < kSums; i++) sums[i] = dot(sums[i], sums[i], b);
    }
    uint64_t all = 0;
    for (const Vector& sum : sums) all ^= static_cast<uint64_t>(first(sum));
    return all;
}

constexpr int64_t kSumsAtOnce = 12;

} // namespace

extern "C" {

const char* lkm_isa() { return kIsa; }

// Read `nbytes` (a multiple of 8) `times` times on `threads` threads. Large sets are taken a piece
// at a time by whichever thread is free: on a shared machine no two cores stay equally fast. Small
// sets are split, so that each core reads what its own cache holds.
uint64_t lkm_read(const uint64_t* data, int64_t nbytes, int64_t times, int threads) {
    const int64_t words = nbytes / 8;
    if (nbytes < kShared * threads)
        return on_threads(threads, [&](int me) {
            const int64_t begin = words * me / threads, end = words * (me + 1) / threads;
            uint64_t all = 0;
            for (int64_t n = 0; n < times; n++) {
                asm volatile("" ::: "memory"); // read it again
                all ^= read_piece(data + begin, end - begin);
            }
            return all;
        });
    const int64_t piece = kPiece / 8, pieces = (words + piece - 1) / piece;
    std::atomic<int64_t> next{0};
    return on_threads(threads, [&](int) {
        uint64_t all = 0;
        for (int64_t at; (at = next.fetch_add(1, std::memory_order_relaxed)) < pieces * times;) {
            const int64_t begin = at % pieces * piece;
            all ^= read_piece(data + begin, std::min(piece, words - begin));
        }
        return all;
    });
}

// Do int8 products in registers on every thread; returns how many operations (2 a multiply-add).
int64_t lkm_multiply(int64_t count, int threads) {
    volatile uint64_t kept = on_threads(threads, [&](int) { return multiply(count); });
    (void)kept;
    return count * kSumsAtOnce * kOperations * threads;
}
}
