// Attention of a few query vectors over a chunk of positions, and the merge of chunks.
//
// A vector's chunks depend on its own position alone and are merged in order, so that its result
// is the same whatever else shares the pass and however the chunks are spread over threads
// (the split of Flash-Decoding, Dao et al. 2023).
#pragma once
#include <algorithm>
#include <type_traits>

#include "maths.h"
#include "model.h"

namespace lk {

constexpr int kChunk = 128;  // positions whose partial result is one piece of work
constexpr int kVectors = 6;  // most query vectors that share a read of keys and values
constexpr float kLowest = -1e30f;
// Positions of keys or values that are asked for ahead, in the order in which they are read: half a
// chunk's keys during those before them, then its values, then the next piece's keys.
constexpr int kAskedAhead = kChunk / 2;

// What a row may look at: positions first..last.
struct Range {
    int first, last;
};

inline Range range_of(int position, int window) {
    return {window > 0 && position >= window ? position - window + 1 : 0, position};
}

// The result over one chunk: values weighted by exp(score - highest), and the weights' sum.
struct Partial {
    float highest, weight;
};

// Where the keys and values of a row's positions lie: each at its own place, but from `start` on
// along the row's path through a tree. Scores and sums go by position, so that a row of a tree gets
// the bits that it would get in a chain.
struct Places {
    const int32_t* path = nullptr; // row of the tree at each position from start on
    int start = 0, end = 0;        // positions that the path covers

    int of(int position) const {
        return position >= start && position < end ? start + path[position - start] : position;
    }
};

template <class T>
struct Held { // one slot and KV head of a layer
    T *keys, *values;
    int head_dim;
    Places places = {};
    const T* then = nullptr; // keys that are read after these values, or null
    bool fresh = false; // not read yet in this pass, so worth asking for ahead; else in the cache

    // What is read kAskedAhead positions after the i-th of `count` from `here` on, where `next` comes
    // after them; null where nothing is to be asked for.
    const T* ahead(const T* here, const T* next, int i, int count) const {
        if (!fresh) return nullptr;
        if (i + kAskedAhead < count) return here + static_cast<int64_t>(i + kAskedAhead) * head_dim;
        if (!next) return nullptr;
        return next + static_cast<int64_t>(i + kAskedAhead - std::max(count, kAskedAhead)) * head_dim;
    }
};

inline void ask(const void* from, int bytes) {
    for (int line = 0; line < bytes; line += 64)
        __builtin_prefetch(static_cast<const char*>(from) + line, 0, 2);
}

// How many times sixteen sums to run for each of kCount vectors: as the registers allow. Fewer would
// leave the multipliers idle, for each sum waits for its last addition.
constexpr int at_once(int count) { return count <= 3 ? kAtOnce : 1; }

// How many of `left` vectors to take together.
inline int together(int left) { return left >= kVectors ? kVectors : std::min(left, 3); }

// sum[v][k] += factor(v) * the sixteen values at from + k * next. With all sums in registers there is
// room for one more value and the factors, or for one factor and two values, but not for both.
template <int kCount, int kBlocks, class T, class Factor>
inline void add_multiples(F (&sum)[kCount][kBlocks], const T* from, int64_t next, Factor factor) {
    if constexpr (kBlocks == 1) {
        const F value = fload(from);
#pragma GCC unroll 6
        for (int v = 0; v < kCount; v++) sum[v][0] = ffma(fset(factor(v)), value, sum[v][0]);
    } else {
        V factors[kCount];
#pragma GCC unroll 6
        for (int v = 0; v < kCount; v++) factors[v] = vset(factor(v));
#pragma GCC unroll 4
        for (int k = 0; k < kBlocks; k++)
#pragma GCC unroll 4
            for (int i = 0; i < kParts; i++) {
                const V value = vload(from + k * next + i * kLanes);
#pragma GCC unroll 6
                for (int v = 0; v < kCount; v++)
                    sum[v][k].part[i] = vfma(factors[v], value, sum[v][k].part[i]);
            }
    }
}

// scores[v][i] of kBlocks times sixteen positions from `at` on, at place at - begin. then: as many
// keys or values to ask for meanwhile, or null.
template <class T, int kCount, int kBlocks>
inline void score_blocks(float (*scores)[kChunk], const Held<T>& held, const float* const* queries,
                         int place, int at, const T* then) {
    const T* keys = held.keys + static_cast<int64_t>(at) * held.head_dim;
    const int64_t next = static_cast<int64_t>(kWide) * held.head_dim;
    F sum[kCount][kBlocks];
#pragma GCC unroll 6
    for (int v = 0; v < kCount; v++)
#pragma GCC unroll 4
        for (int k = 0; k < kBlocks; k++) sum[v][k] = fset(0.0f);
    for (int d = 0; d < held.head_dim; d++) {
        if (then) ask(then + d * kBlocks * kWide, kBlocks * kWide * sizeof(T));
        add_multiples<kCount, kBlocks>(sum, keys + d * kWide, next,
                                       [&](int v) { return queries[v][d]; });
    }
#pragma GCC unroll 6
    for (int v = 0; v < kCount; v++)
#pragma GCC unroll 4
        for (int k = 0; k < kBlocks; k++) fstore(scores[v] + place + k * kWide, sum[v][k]);
}

// The same for positions on a path, each taken from where it lies.
template <class T, int kCount>
inline void score_path(float (*scores)[kChunk], const Held<T>& held, const float* const* queries,
                       int begin, int end) {
    float block[kCount][kChunk];
    for (int at = std::max(begin, held.places.start); at < std::min(end, held.places.end); at++) {
        const int place = held.places.of(at);
        score_blocks<T, kCount, 1>(block, held, queries, 0, place / kWide * kWide, nullptr);
        for (int v = 0; v < kCount; v++) scores[v][at - begin] = block[v][place % kWide];
    }
}

// scores[v][i] of positions begin + i; positions out of a vector's range get kLowest.
template <class T, int kCount>
inline void score(float (*scores)[kChunk], const Held<T>& held, const float* const* queries,
                  const Range* ranges, int begin, int end) {
    int at = begin;
    constexpr int kBlocks = at_once(kCount);
    const int64_t first = static_cast<int64_t>(begin) * held.head_dim;
    const auto score_some = [&](auto some) {
        constexpr int kSome = some;
        const T* then = held.ahead(held.keys + first, held.values + first, at - begin, end - begin);
        score_blocks<T, kCount, kSome>(scores, held, queries, at - begin, at, then);
        at += kSome * kWide;
    };
    while (at + kBlocks * kWide <= end) score_some(std::integral_constant<int, kBlocks>());
    while (at < end) score_some(std::integral_constant<int, 1>());
    if (held.places.path) score_path<T, kCount>(scores, held, queries, begin, end);
    for (int v = 0; v < kCount; v++) {
        const int first = std::min(ranges[v].first, end), last = std::max(ranges[v].last, begin - 1);
        std::fill(scores[v], scores[v] + std::max(0, first - begin), kLowest);
        std::fill(scores[v] + std::min(last + 1, end) - begin, scores[v] + end - begin, kLowest);
    }
}

// Scores to weights, in place.
inline Partial weigh(float* scores, int count) {
    F top = fset(kLowest);
    for (int i = 0; i < count; i += kWide) top = fmax(top, fload(scores + i));
    const float highest = max16(top);
    F total = fset(0.0f);
    for (int i = 0; i < count; i += kWide) {
        const F weight = fexp(fsub(fload(scores + i), fset(highest)));
        fstore(scores + i, weight);
        total = fadd(total, weight);
    }
    return {highest, sum16(total)};
}

// out[v] at `d`, kWides times sixteen values, from all positions. A cache line of values is read once.
template <class T, int kCount, int kWides>
inline void mix_part(float* const* out, const float (*weights)[kChunk], const Held<T>& held,
                     int begin, int end, int d) {
    F sum[kCount][kWides];
#pragma GCC unroll 6
    for (int v = 0; v < kCount; v++)
#pragma GCC unroll 4
        for (int k = 0; k < kWides; k++) sum[v][k] = fset(0.0f);
    const auto take = [&](int i, const T* values) {
        add_multiples<kCount, kWides>(sum, values, kWide, [&](int v) { return weights[v][i]; });
    };
    const T* values = held.values + static_cast<int64_t>(begin) * held.head_dim;
    const int count = end - begin;
    const int straight = held.places.path ? std::clamp(held.places.start - begin, 0, count) : count;
    int i = 0;
    for (; i < straight; i++) {
        if (const T* next = held.ahead(values, held.then, i, count))
            ask(next + d, kWides * kWide * sizeof(T));
        take(i, values + static_cast<int64_t>(i) * held.head_dim + d);
    }
    for (; i < count; i++)
        take(i, held.values + static_cast<int64_t>(held.places.of(begin + i)) * held.head_dim + d);
#pragma GCC unroll 6
    for (int v = 0; v < kCount; v++)
#pragma GCC unroll 4
        for (int k = 0; k < kWides; k++) fstore(out[v] + d + k * kWide, sum[v][k]);
}

template <class T, int kCount>
inline void mix(float* const* out, const float (*weights)[kChunk], const Held<T>& held, int begin,
                int end) {
    int d = 0;
    constexpr int kWides = at_once(kCount);
    for (; d + kWides * kWide <= held.head_dim; d += kWides * kWide)
        mix_part<T, kCount, kWides>(out, weights, held, begin, end, d);
    for (; d < held.head_dim; d += kWide) mix_part<T, kCount, 1>(out, weights, held, begin, end, d);
}

// kCount vectors over positions begin..end (multiples of 16, within one chunk).
template <class T, int kCount>
inline void attend(Partial* partials, float* const* out, const Held<T>& held,
                   const float* const* queries, const Range* ranges, int begin, int end) {
    alignas(64) float scores[kCount][kChunk];
    score<T, kCount>(scores, held, queries, ranges, begin, end);
    for (int v = 0; v < kCount; v++) partials[v] = weigh(scores[v], end - begin);
    mix<T, kCount>(out, scores, held, begin, end);
}

template <class T>
inline void attend_any(int count, Partial* partials, float* const* out, const Held<T>& held,
                       const float* const* queries, const Range* ranges, int begin, int end) {
    switch (count) {
        case 1: return attend<T, 1>(partials, out, held, queries, ranges, begin, end);
        case 2: return attend<T, 2>(partials, out, held, queries, ranges, begin, end);
        case 3: return attend<T, 3>(partials, out, held, queries, ranges, begin, end);
        default: return attend<T, kVectors>(partials, out, held, queries, ranges, begin, end);
    }
}

// The softmax of one head over all chunks, from each one's partial result; `stride` partials apart,
// values head_dim apart.
inline void merge(float* out, const Partial* partials, const float* values, int chunks,
                  int64_t stride, int head_dim) {
    float highest = kLowest;
    for (int c = 0; c < chunks; c++) highest = std::max(highest, partials[c * stride].highest);
    float weight = 0.0f;
    std::fill_n(out, head_dim, 0.0f);
    for (int first = 0; first < chunks; first += kWide) { // their shares sixteen at a time
        float shares[kWide] = {};
        const int count = std::min(kWide, chunks - first);
        const Partial* at = partials + first * stride;
        for (int c = 0; c < count; c++) shares[c] = at[c * stride].highest - highest;
        fstore(shares, fexp(fload(shares)));
        for (int c = 0; c < count; c++) weight += at[c * stride].weight * shares[c];
        for (int d = 0; d < head_dim; d += kWide) {
            const float* from = values + first * stride * head_dim + d;
            F sum = fload(out + d);
            for (int c = 0; c < count; c++)
                sum = ffma(fload(from + c * stride * head_dim), fset(shares[c]), sum);
            fstore(out + d, sum);
        }
    }
    const F part = fset(1.0f / weight);
    for (int d = 0; d < head_dim; d += kWide) fstore(out + d, fmul(fload(out + d), part));
}

} // namespace lk
