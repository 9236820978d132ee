// Attention of a few query vectors over a chunk of positions, and the merge of chunks.
//
// The chunks of a query vector depend only on what it sees, and they are merged in order. So its
// result is the same whatever else is in the pass, and however chunks are spread over threads (the
// split of Flash-Decoding, Dao et al. 2023).
#pragma once
#include <algorithm>
#include <type_traits>

#include "maths.h"
#include "model.h"

namespace lk {

constexpr int kChunk = 128; // positions whose partial result is one piece of work
constexpr int kVectors = 6; // most query vectors that share a read of keys and values
constexpr float kLowest = -1e30f;
// How many positions ahead keys and values are prefetched, in the order in which they are read: a
// chunk's keys, its values, the next piece's keys.
constexpr int kPrefetchPositions = kChunk / 2;

// What a row sees: positions first..last.
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

// Where the keys and values of a row's positions lie in its slot. Position p is entry p, except for
// a row of a tree: from `start` on, its entries are those of its path. Scores and sums are ordered
// by position, so that a row of a tree gets the same bits as in a chain.
struct TreePath {
    const int32_t* steps = nullptr; // the row of the tree at each position from start on
    int start = 0, end = 0;         // positions start..end - 1 are on the path

    int entry(int position) const {
        return position >= start && position < end ? start + steps[position - start] : position;
    }
};

// Keys and values of one slot and KV head of a layer. In a paged cache `table` names the block of
// each sixteen entries. They are read run by run: a run's blocks lie one after another. Where there
// is no table, all entries are one run.
template <class T>
struct KeysValues {
    T *keys, *values;
    const int32_t* table;
    int head_dim;
    TreePath path = {};
    const T* next_keys = nullptr; // the keys that are read after these values, or null
    bool fresh = false;           // first read of this pass; later ones find them in the cache

    // How many entries lie before an entry's key or value in memory.
    int64_t place(int entry) const {
        return table ? static_cast<int64_t>(table[entry / kWide]) * kWide + entry % kWide : entry;
    }
    T* key_block(int entry) const { // of sixteen entries, the first of which is given
        return keys + place(entry) * head_dim;
    }
    T* value(int entry) const { return values + place(entry) * head_dim; }

    // Where the run ends that begins with the sixteen entries at `at`; `end` at most.
    int run_end(int at, int end) const {
        if (!table) return end;
        const int32_t* of = table + at / kWide;
        int stop = at + kWide;
        for (; stop < end && of[1] == of[0] + 1; of++) stop += kWide;
        return std::min(stop, end);
    }

    // The address to prefetch while the i-th of `count` positions from `here` on is read: it lies
    // kPrefetchPositions ahead, and beyond the last position it is in `next`. Null where there is
    // nothing to prefetch.
    const T* ahead(const T* here, const T* next, int i, int count) const {
        const int to = i + kPrefetchPositions;
        if (!fresh) return nullptr;
        if (to < count) return here + static_cast<int64_t>(to) * head_dim;
        if (!next) return nullptr;
        return next + static_cast<int64_t>(to - std::max(count, kPrefetchPositions)) * head_dim;
    }
};

// How many groups of sixteen sums to run for each of `vectors`: as many as fit the registers. With
// fewer, the multipliers would idle, because each addition to a sum waits for the one before.
constexpr int sums_at_once(int vectors) { return vectors <= 3 ? kSumsAtOnce : 1; }

// How many of `left` vectors to take at once.
inline int vectors_at_once(int left) { return left >= kVectors ? kVectors : std::min(left, 3); }

// sum[v][k] += factor(v) * the sixteen values at from + k * next. With all sums in registers there
// is room for one more value and the factors, or for one factor and two values, but not for both.
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

// scores[v][to + i] of kBlocks times sixteen entries, which lie one after another from `keys` on.
// ahead: as many keys or values to prefetch meanwhile, or null.
template <class T, int kCount, int kBlocks>
inline void score_blocks(float (*scores)[kChunk], int head_dim, const float* const* queries, int to,
                         const T* keys, const T* ahead) {
    const int64_t next = static_cast<int64_t>(kWide) * head_dim;
    F sum[kCount][kBlocks];
#pragma GCC unroll 6
    for (int v = 0; v < kCount; v++)
#pragma GCC unroll 4
        for (int k = 0; k < kBlocks; k++) sum[v][k] = fset(0.0f);
    for (int d = 0; d < head_dim; d++) {
        if (ahead) prefetch<2>(ahead + d * kBlocks * kWide, kBlocks * kWide * sizeof(T));
        add_multiples<kCount, kBlocks>(sum, keys + d * kWide, next,
                                       [&](int v) { return queries[v][d]; });
    }
#pragma GCC unroll 6
    for (int v = 0; v < kCount; v++)
#pragma GCC unroll 4
        for (int k = 0; k < kBlocks; k++) fstore(scores[v] + to + k * kWide, sum[v][k]);
}

// The same for positions on a row's path through a tree, each read at its entry.
template <class T, int kCount>
inline void score_path(float (*scores)[kChunk], const KeysValues<T>& kv,
                       const float* const* queries, int begin, int end) {
    float block[kCount][kChunk];
    for (int at = std::max(begin, kv.path.start); at < std::min(end, kv.path.end); at++) {
        const int entry = kv.path.entry(at);
        const T* keys = kv.key_block(entry / kWide * kWide);
        score_blocks<T, kCount, 1>(block, kv.head_dim, queries, 0, keys, nullptr);
        for (int v = 0; v < kCount; v++) scores[v][at - begin] = block[v][entry % kWide];
    }
}

// scores[v][to + i] of a run of `count` entries whose keys begin at `keys`; `after` is read next.
template <class T, int kCount>
inline void score_run(float (*scores)[kChunk], const KeysValues<T>& kv, const float* const* queries,
                      int to, int count, const T* keys, const T* after) {
    int i = 0;
    constexpr int kBlocks = sums_at_once(kCount);
    const auto score_some = [&](auto some) {
        constexpr int kSome = some;
        const T* here = keys + static_cast<int64_t>(i) * kv.head_dim;
        const T* ahead = kv.ahead(keys, after, i, count);
        score_blocks<T, kCount, kSome>(scores, kv.head_dim, queries, to + i, here, ahead);
        i += kSome * kWide;
    };
    while (i + kBlocks * kWide <= count) score_some(std::integral_constant<int, kBlocks>());
    while (i < count) score_some(std::integral_constant<int, 1>());
}

// scores[v][i] of positions begin + i; those that a vector does not see get kLowest.
template <class T, int kCount>
inline void score(float (*scores)[kChunk], const KeysValues<T>& kv, const float* const* queries,
                  const Range* ranges, int begin, int end) {
    for (int run = begin, stop; run < end; run = stop) {
        stop = kv.run_end(run, end);
        const T* after = stop < end ? kv.key_block(stop) : kv.value(begin);
        score_run<T, kCount>(scores, kv, queries, run - begin, stop - run, kv.key_block(run),
                             after);
    }
    if (kv.path.steps) score_path<T, kCount>(scores, kv, queries, begin, end);
    for (int v = 0; v < kCount; v++) {
        const int first = std::min(ranges[v].first, end),
                  last = std::max(ranges[v].last, begin - 1);
        std::fill(scores[v], scores[v] + std::max(0, first - begin), kLowest);
        std::fill(scores[v] + std::min(last + 1, end) - begin, scores[v] + end - begin, kLowest);
    }
}

// Scores to weights of the softmax, in place.
inline Partial to_weights(float* scores, int count) {
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

// out[v] at `d`, kWides times sixteen numbers, from the values of all positions. A cache line of
// values is read once.
template <class T, int kCount, int kWides>
inline void mix_part(float* const* out, const float (*weights)[kChunk], const KeysValues<T>& kv,
                     int begin, int end, int d) {
    F sum[kCount][kWides];
#pragma GCC unroll 6
    for (int v = 0; v < kCount; v++)
#pragma GCC unroll 4
        for (int k = 0; k < kWides; k++) sum[v][k] = fset(0.0f);
    const auto take = [&](int i, const T* values) {
        add_multiples<kCount, kWides>(sum, values, kWide, [&](int v) { return weights[v][i]; });
    };
    const int path = kv.path.steps ? std::clamp(kv.path.start, begin, end) : end;
    for (int run = begin, stop; run < path; run = stop) {
        stop = kv.run_end(run, path);
        const T* values = kv.value(run);
        const T* after = stop < path ? kv.value(stop) : kv.next_keys;
        for (int i = 0; i < stop - run; i++) {
            if (const T* ahead = kv.ahead(values, after, i, stop - run))
                prefetch<2>(ahead + d, kWides * kWide * sizeof(T));
            take(run - begin + i, values + static_cast<int64_t>(i) * kv.head_dim + d);
        }
    }
    for (int at = path; at < end; at++) take(at - begin, kv.value(kv.path.entry(at)) + d);
#pragma GCC unroll 6
    for (int v = 0; v < kCount; v++)
#pragma GCC unroll 4
        for (int k = 0; k < kWides; k++) fstore(out[v] + d + k * kWide, sum[v][k]);
}

template <class T, int kCount>
inline void mix(float* const* out, const float (*weights)[kChunk], const KeysValues<T>& kv,
                int begin, int end) {
    int d = 0;
    constexpr int kWides = sums_at_once(kCount);
    for (; d + kWides * kWide <= kv.head_dim; d += kWides * kWide)
        mix_part<T, kCount, kWides>(out, weights, kv, begin, end, d);
    for (; d < kv.head_dim; d += kWide) mix_part<T, kCount, 1>(out, weights, kv, begin, end, d);
}

// kCount vectors over positions begin..end (multiples of 16, within one chunk).
template <class T, int kCount>
inline void attend(Partial* partials, float* const* out, const KeysValues<T>& kv,
                   const float* const* queries, const Range* ranges, int begin, int end) {
    alignas(64) float scores[kCount][kChunk];
    score<T, kCount>(scores, kv, queries, ranges, begin, end);
    for (int v = 0; v < kCount; v++) partials[v] = to_weights(scores[v], end - begin);
    // Nobody sees what lies behind: in a paged cache it may be left from another request, and a
    // weight of 0 times NaN is NaN.
    int last = begin;
    for (int v = 0; v < kCount; v++) last = std::max(last, ranges[v].last);
    mix<T, kCount>(out, scores, kv, begin, std::min(end, last + 1));
}

template <class T>
inline void attend_any(int count, Partial* partials, float* const* out, const KeysValues<T>& kv,
                       const float* const* queries, const Range* ranges, int begin, int end) {
    switch (count) {
        case 1: return attend<T, 1>(partials, out, kv, queries, ranges, begin, end);
        case 2: return attend<T, 2>(partials, out, kv, queries, ranges, begin, end);
        case 3: return attend<T, 3>(partials, out, kv, queries, ranges, begin, end);
        default: return attend<T, kVectors>(partials, out, kv, queries, ranges, begin, end);
    }
}

// One head's softmax over all chunks, from the chunks' partial results: partials lie `stride`
// apart, their values stride * head_dim.
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
