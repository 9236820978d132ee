// What all stages of a pass share: its data, and how work is split over the threads.
//
// A stage is split by rows, by the groups of sixteen outputs that each thread has in its stretch of
// memory, or by pieces of attention. A barrier separates it from the next. No sum is ever split
// over threads. `me` is the number of the thread that calls.
#pragma once
#include <algorithm>
#include <initializer_list>

#include "pool.h"
#include "workspace.h"

namespace lk {

class Stages {
public:
    Stages(const Model& model, const Cache& cache, const Rows& rows, Workspace& work, Pool& pool)
        : model(model), cache(cache), rows(rows), work(work), plan(work.plan), pool(pool),
          group(model.heads / model.kv_heads), queries(model.heads * model.head_dim),
          kv(model.kv_heads * model.head_dim), all(queries + 2 * kv) {}

    const Model& model;
    const Cache& cache;
    const Rows& rows;
    Workspace& work;
    Plan& plan;
    Pool& pool;
    const int group;            // query heads that share a KV head
    const int queries, kv, all; // numbers of a row: its queries, its keys, and both and its values

    bool skips(Skip what) const { return rows.skip & what; }
    int count() const { return plan.count(); }
    Scratch& scratch(int me) const { return work.scratch[plan.replicated ? me : 0]; }

    // A row's residual stream; its queries, keys and values; and the same, ready for attention.
    float* stream(int row) const {
        return work.streams.data() + static_cast<int64_t>(row) * model.hidden;
    }
    float* projected(int row) const {
        return work.projected.data() + static_cast<int64_t>(row) * all;
    }
    // What attention or the feed-forward gives a row, before its norm.
    float* branch(int row) const {
        return work.branches.data() + static_cast<int64_t>(row) * model.hidden;
    }
    float* rotated(int me, int row) const {
        if (!plan.replicated) return projected(row);
        return work.scratch[me].rotated.data() + static_cast<int64_t>(row) * all;
    }

    // body(i) for every i below count, spread over the threads; then a barrier.
    template <class Body>
    void each(int me, int64_t count, bool wanted, Body body) {
        if (wanted)
            pool.each(me, count, [&](int begin, int end) {
                for (int i = begin; i < end; i++) body(i);
            });
        pool.barrier(me);
    }

    // body(token, unit) for all of a scratch's tokens and their `units` of blocks. Where work is
    // replicated, every thread does all. Else units of a group of tokens are spread over the
    // threads and a barrier follows: a group's tokens share cache lines, which two threads would
    // take from each other all the time.
    template <class Body>
    void each_unit(int me, int units, int tokens, bool wanted, Body body) {
        if (plan.replicated) {
            for (int t = 0; wanted && t < tokens; t++)
                for (int unit = 0; unit < units; unit++) body(t, unit);
            return;
        }
        const int64_t groups = (tokens + kTokenGroup - 1) / kTokenGroup;
        each(me, groups * units, wanted, [&](int i) {
            const int first = i / units * kTokenGroup;
            for (int t = first; t < std::min(first + kTokenGroup, tokens); t++) body(t, i % units);
        });
    }

    // Norm and quantization, block by block, so that even one row has work for all threads.
    // from(row): the input of a row. Each thread computes a row's mean square for itself. weight:
    // null where there is no norm.
    template <class From>
    void normalize(int me, const Activations& out, int tokens, const float* weight, From from) {
        if (!weight) return quantize(me, out, tokens, from);
        F scales[kTokenGroup]; // of the group at hand
        int of[kTokenGroup];
        std::fill_n(of, kTokenGroup, -1);
        each_unit(me, out.blocks, tokens, !skips(kSkipRest), [&](int row, int block) {
            const int own = row % kTokenGroup;
            if (of[own] != row) {
                of[own] = row;
                scales[own] = fset(rms_scale(from(row), model.hidden, model.eps));
            }
            const int at = block * kBlock;
            const float* x = from(row) + at;
            const F low = fmul(fmul(fload(x), scales[own]), fload(weight + at));
            const F high = fmul(fmul(fload(x + kWide), scales[own]), fload(weight + at + kWide));
            quantize_block(out, row, block, low, high);
        });
    }

    template <class From>
    void quantize(int me, const Activations& out, int tokens, From from) {
        each_unit(me, out.blocks, tokens, !skips(kSkipRest), [&](int row, int block) {
            const float* x = from(row) + block * kBlock;
            quantize_block(out, row, block, fload(x), fload(x + kWide));
        });
    }

    // Each row's branch under its norm, times the multiplier, added to its stream; then a barrier.
    void add_normed(int me, const float* weight) {
        const int blocks = model.hidden / kBlock;
        const F by = fset(model.residual_multiplier);
        int of = -1; // the row whose scale is at hand
        F scale;
        each(me, static_cast<int64_t>(count()) * blocks, !skips(kSkipRest), [&](int i) {
            const int row = i / blocks, at = i % blocks * kBlock;
            if (of != row) {
                of = row;
                scale = fset(rms_scale(branch(row), model.hidden, model.eps));
            }
            for (int half = at; half < at + kBlock; half += kWide) {
                const F normed = fmul(fmul(fload(branch(row) + half), scale), fload(weight + half));
                float* to = stream(row) + half;
                fstore(to, ffma(normed, by, fload(to)));
            }
        });
    }

    // body(owner, begin, end) over what each thread owns of products; then a barrier.
    template <class Count, class Body>
    void products(int me, Count count, Body body) {
        if (!skips(kSkipProducts)) pool.shares(me, count, body);
        pool.barrier(me);
    }

    // body(matrix, group) for all groups of matrices with the same columns, every thread its own
    // first; then a barrier.
    template <class Body>
    void each_group(int me, std::initializer_list<const Matrix*> matrices, Body body) {
        const auto count = [&](int owner) {
            int sum = 0;
            for (const Matrix* m : matrices) sum += m->count(owner);
            return sum;
        };
        products(me, count, [&](int owner, int begin, int end) {
            for (const Matrix* m : matrices) {
                const int own = m->count(owner), stop = std::min(end, own);
                for (int i = begin; i < stop; i++) body(*m, m->begin(owner) + i);
                begin = std::max(begin - own, 0), end -= own;
            }
        });
    }

    // A group of a matrix's rows times tokens from `first` on: store(token, group, sixteen outputs).
    template <class Store>
    void multiply(const Matrix& m, int group, const Activations& from, int tokens, Store store,
                  int first = 0) {
        F out[kMaxTile];
        for (int t = first, done; t < first + tokens; t += done) {
            done = multiply_group(out, m, group, from, t, first + tokens - t);
            for (int i = 0; i < done; i++) store(t + i, group, out[i]);
        }
    }

    // A block of a feed-forward's middle, gated(gate, up), of `tokens` tokens from `token` on, whose
    // results are the tokens of `to` from `first` on. Gate and up are multiplied side by side: a
    // block of their product is quantized as soon as it is computed.
    template <class Gated>
    void gated_block(const Matrix& gate, const Matrix& up, int block, const Activations& from,
                     int token, int tokens, const Activations& to, int first, Gated gated) {
        F gates[2][kMaxTile], ups[2][kMaxTile];
        for (int t = 0, done = 0; t < tokens; t += done) {
            for (int half = 0; half < 2; half++) {
                const int g = 2 * block + half, left = tokens - t, at = token + t;
                done = multiply_group(gates[half], gate, g, from, at, half ? done : left);
                // Another format may take fewer tokens at once.
                for (int up_to = 0; up_to < done;)
                    up_to += multiply_group(ups[half] + up_to, up, g, from, at + up_to,
                                            done - up_to);
            }
            for (int i = 0; i < done; i++)
                quantize_block(to, first + t + i, block, gated(gates[0][i], ups[0][i]),
                               gated(gates[1][i], ups[1][i]));
        }
    }

    // A whole matrix times all tokens, in the same way; then a barrier.
    template <class Store>
    void product(int me, const Matrix& m, const Activations& from, int tokens, Store store) {
        each_group(me, {&m}, [&](const Matrix&, int g) { multiply(m, g, from, tokens, store); });
    }
};

} // namespace lk
