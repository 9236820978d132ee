// Attention of a few query vectors over a chunk of positions, and the merge of chunks.
//
// A vector's chunks depend on its own position alone and are merged in order, so that its result
// is the same whatever else shares the pass and however the chunks are spread over threads
// (the split of Flash-Decoding, Dao et al. 2023).
#pragma once
#include <algorithm>

#include "maths.h"
#include "model.h"

namespace lk {

constexpr int kChunk = 128;  // positions whose partial result is one piece of work
constexpr int kVectors = 3;  // query vectors that share a read of keys and values: what registers hold
constexpr float kLowest = -1e30f;

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

template <class T>
struct Held { // one slot and KV head of a layer
    const T *keys, *values;
    int head_dim;
};

// scores[v][i] of kBlocks times sixteen positions from `at` on, at place at - begin. Two blocks at
// once keep the multipliers busy: each sum waits for its last addition.
template <class T, int kCount, int kBlocks>
inline void score_blocks(float (*scores)[kChunk], const Held<T>& held, const float* const* queries,
                         int place, int at) {
    const T* keys = held.keys + static_cast<int64_t>(at) * held.head_dim;
    const int64_t next = static_cast<int64_t>(kWide) * held.head_dim;
    F sum[kCount][kBlocks];
#pragma GCC unroll 4
    for (int v = 0; v < kCount; v++)
#pragma GCC unroll 2
        for (int k = 0; k < kBlocks; k++) sum[v][k] = fset(0.0f);
    for (int d = 0; d < held.head_dim; d++) {
        F key[kBlocks];
#pragma GCC unroll 2
        for (int k = 0; k < kBlocks; k++) key[k] = fload(keys + k * next + d * kWide);
#pragma GCC unroll 4
        for (int v = 0; v < kCount; v++) {
            const F query = fset(queries[v][d]);
#pragma GCC unroll 2
            for (int k = 0; k < kBlocks; k++) sum[v][k] = ffma(query, key[k], sum[v][k]);
        }
    }
    for (int v = 0; v < kCount; v++)
        for (int k = 0; k < kBlocks; k++) fstore(scores[v] + place + k * kWide, sum[v][k]);
}

// scores[v][i] of positions begin + i; positions out of a vector's range get kLowest.
template <class T, int kCount>
inline void score(float (*scores)[kChunk], const Held<T>& held, const float* const* queries,
                  const Range* ranges, int begin, int end) {
    int at = begin;
    for (; at + 2 * kWide <= end; at += 2 * kWide)
        score_blocks<T, kCount, 2>(scores, held, queries, at - begin, at);
    if (at < end) score_blocks<T, kCount, 1>(scores, held, queries, at - begin, at);
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
    const T* values = held.values + static_cast<int64_t>(begin) * held.head_dim + d;
    F sum[kCount][kWides];
#pragma GCC unroll 4
    for (int v = 0; v < kCount; v++)
#pragma GCC unroll 2
        for (int k = 0; k < kWides; k++) sum[v][k] = fset(0.0f);
    for (int i = 0; i < end - begin; i++, values += held.head_dim) {
        F value[kWides];
#pragma GCC unroll 2
        for (int k = 0; k < kWides; k++) value[k] = fload(values + k * kWide);
#pragma GCC unroll 4
        for (int v = 0; v < kCount; v++) {
            const F weight = fset(weights[v][i]);
#pragma GCC unroll 2
            for (int k = 0; k < kWides; k++) sum[v][k] = ffma(weight, value[k], sum[v][k]);
        }
    }
    for (int v = 0; v < kCount; v++)
        for (int k = 0; k < kWides; k++) fstore(out[v] + d + k * kWide, sum[v][k]);
}

template <class T, int kCount>
inline void mix(float* const* out, const float (*weights)[kChunk], const Held<T>& held, int begin,
                int end) {
    int d = 0;
    for (; d + 2 * kWide <= held.head_dim; d += 2 * kWide)
        mix_part<T, kCount, 2>(out, weights, held, begin, end, d);
    if (d < held.head_dim) mix_part<T, kCount, 1>(out, weights, held, begin, end, d);
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
        default: return attend<T, 3>(partials, out, held, queries, ranges, begin, end);
    }
}

// Sixteen values of the softmax over all chunks, from each chunk's partial result; `stride`
// partials apart, values head_dim apart.
inline F merge(const Partial* partials, const float* values, int chunks, int64_t stride,
               int head_dim) {
    float highest = kLowest;
    for (int c = 0; c < chunks; c++)
        highest = highest > partials[c * stride].highest ? highest : partials[c * stride].highest;
    float weight = 0.0f;
    F sum = fset(0.0f);
    for (int c = 0; c < chunks; c++) {
        const float share = exp1(partials[c * stride].highest - highest);
        weight += partials[c * stride].weight * share;
        sum = ffma(fload(values + c * stride * head_dim), fset(share), sum);
    }
    return fmul(sum, fset(1.0f / weight));
}

} // namespace lk
