// One pass of a ragged batch of rows through all layers, on all threads, in one call.
//
// Every stage is split over the threads by rows, by the groups of sixteen outputs that each has in its
// stretch of memory, or by pieces of attention; a barrier parts each stage from the next. No sum is
// ever split over threads.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <numeric>
#include <vector>

#include "attention.h"
#include "pool.h"
#include "product.h"
#include "screen.h"

namespace lk {

constexpr int kSliceRows = 128; // rows that go through a layer together
// Numbers of a slice that every thread would rather norm, turn and quantize for itself than wait for
// its part from the others: some 0.4 us of work, and a barrier on two cores takes twice that.
constexpr int kFewNumbers = 2048;

// What a pass may leave out, so that its share of the time can be told.
enum Skip : int32_t { kSkipAttention = 1, kSkipHead = 2, kSkipProducts = 4, kSkipRest = 8 };

class Quantized { // Activations with memory of their own
public:
    void resize(int tokens, int columns) {
        const int blocks = columns / kBlock;
        data_.resize(static_cast<size_t>(tokens + kTokenGroup - 1) / kTokenGroup * kTokenGroup * blocks);
        view = {data_.data(), blocks};
    }
    Activations view{};

private:
    std::vector<TokenBlock> data_;
};

// A row of the slice. place: where its key and value are kept, which in a tree is not its position.
struct Row {
    int64_t token;
    int position, slot, place;
    Places places; // of what it looks at
};

// What a stage makes for the products after it: of all threads together, or of each where there is
// little of it.
struct Desk {
    Quantized input, mixed, last;
    std::vector<float> turned; // queries, keys and values of the rows, ready for attention
};

// A piece of attention: `count` query vectors from `vector` (row * group + head in its group).
// fresh: the first to read these keys and values.
struct Piece {
    int slot, kv_head, vector, count, chunk, end;
    bool fresh;
};

// Pieces that one thread takes in turn, after the keys and values that rows of the chunk bring.
struct Task {
    int first, end; // of the pieces
    int row, rows;  // of the slice
};

class Pass {
public:
    // screened: the likeliest token of the one wanted row, or of drafted ones, is found with the
    // screen, whose word `logits` then holds.
    Pass(const Model& model, const Cache& cache, const Rows& rows, float* logits, bool screened,
         Pool& pool)
        : model_(model), cache_(cache), rows_(rows), logits_(logits), screened_(screened), pool_(pool),
          group_(model.heads / model.kv_heads), queries_(model.heads * model.head_dim),
          kv_(model.kv_heads * model.head_dim), all_(queries_ + 2 * kv_) {}

    // Rows that wait in one slice see those of earlier slices in the cache, as across passes.
    void run() {
        for (int begin = 0; begin < rows_.rows; begin += kSliceRows) {
            slice(begin, std::min(begin + kSliceRows, rows_.rows));
            pool_.run([](void* self, int me) { static_cast<Pass*>(self)->work(me); }, this);
        }
    }

    int64_t exact_groups = 0; // of the head, computed after screening

private:
    void slice(int begin, int end) {
        begin_ = begin;
        slice_.clear();
        pieces_.clear();
        tasks_.clear();
        wanted_.clear();
        chunks_ = 0;
        for (int w = 0; w < rows_.wanted_rows; w++)
            if (rows_.wanted[w] >= begin && rows_.wanted[w] < end) wanted_.push_back(w);
        asked_ = rows_.stream || !wanted_.empty();
        few_ = (end - begin) * std::max(queries_, model_.hidden) <= kFewNumbers && !rows_.paths &&
               asked_;
        for (int s = 0; s < rows_.span_count; s++) {
            const int64_t* span = rows_.spans + 4 * s; // slot, start, count, first row
            const int64_t from = std::max<int64_t>(span[3], begin);
            const int64_t to = std::min<int64_t>(span[3] + span[2], end);
            if (from >= to) continue;
            for (int64_t r = from; r < to; r++) add_row(span, r);
            const int row = static_cast<int>(from - begin), count = static_cast<int>(to - from);
            const int chunks = slice_.back().position / kChunk + 1;
            const int before = rows_.path(from) ? static_cast<int>(span[1]) / kChunk : chunks;
            add_pieces(row, count, 0, before);
            if (rows_.path(from)) // each row of a tree sees other rows
                for (int r = row; r < row + count; r++)
                    add_pieces(r, 1, before, slice_[r].position / kChunk + 1);
        }
        reserve();
    }

    void add_row(const int64_t* span, int64_t r) {
        const int position = static_cast<int>(rows_.positions[r]), start = static_cast<int>(span[1]);
        Places places;
        if (const int32_t* path = rows_.path(r)) places = {path, start, position + 1};
        slice_.push_back({rows_.tokens[r], position, static_cast<int>(span[0]),
                          start + static_cast<int>(r - span[3]), places});
    }

    // Of rows over the same chunks, first..end. Pieces that read the same keys and values come one after
    // another: they are in the cache.
    void add_pieces(int row, int count, int first_chunk, int end_chunk) {
        const int lowest = range_of(slice_[row].position, model_.window).first / kChunk;
        for (int h = 0; h < model_.kv_heads; h++)
            for (int chunk = std::max(first_chunk, lowest); chunk < end_chunk; chunk++) {
                const int first = static_cast<int>(pieces_.size());
                for (int v = 0, vectors; v < count * group_; v += vectors) {
                    vectors = together(count * group_ - v);
                    add_piece(row, v, vectors, h, chunk);
                }
                add_tasks(first, row, count);
            }
        chunks_ = std::max(chunks_, end_chunk);
    }

    // Of a chunk's pieces from `first` on: one task where it brings their keys and values too.
    void add_tasks(int first, int row, int rows) {
        const int end = static_cast<int>(pieces_.size()), step = few_ ? end - first : 1;
        for (int i = first; i < end; i += step) tasks_.push_back({i, i + step, row, rows});
    }

    void add_piece(int row, int v, int vectors, int head, int chunk) {
        int low = slice_[row + v / group_].position, high = low;
        for (int r = row + v / group_; r <= row + (v + vectors - 1) / group_; r++) {
            low = std::min(low, slice_[r].position);
            high = std::max(high, slice_[r].position);
        }
        if (chunk > high / kChunk || chunk < range_of(low, model_.window).first / kChunk) return;
        const int end = std::min(high + 1, (chunk + 1) * kChunk);
        pieces_.push_back({slice_[row].slot, head, row * group_ + v, vectors, chunk,
                           (end + kWide - 1) / kWide * kWide, v == 0});
    }

    void reserve() {
        const int count = static_cast<int>(slice_.size());
        x_.resize(static_cast<size_t>(count) * model_.hidden);
        projected_.resize(static_cast<size_t>(count) * all_);
        desks_.resize(few_ ? pool_.threads() : 1);
        for (Desk& desk : desks_) {
            desk.input.resize(count, model_.hidden);
            desk.mixed.resize(count, queries_);
            desk.last.resize(std::max<int>(1, static_cast<int>(wanted_.size())), model_.hidden);
            desk.turned.resize(few_ ? static_cast<size_t>(count) * all_ : 0);
        }
        middle_.resize(count, model_.intermediate);
        if (rows_.features) {
            joined_.resize(count, 2 * model_.hidden);
            joined_floats_.resize(static_cast<size_t>(count) * 2 * model_.hidden);
        }
        const size_t vectors = static_cast<size_t>(count) * model_.heads * chunks_;
        partials_.resize(vectors);
        partial_values_.resize(vectors * model_.head_dim);
        if (screened_) {
            hopes_.resize(pool_.threads());
            found_.resize(pool_.threads());
        }
    }

    bool skips(Skip what) const { return rows_.skip & what; }
    int count() const { return static_cast<int>(slice_.size()); }
    float* x(int row) { return x_.data() + static_cast<int64_t>(row) * model_.hidden; }
    Desk& desk(int me) { return desks_[few_ ? me : 0]; }
    // Of a row, turned.
    float* turned(int me, int row) {
        return few_ ? desks_[me].turned.data() + static_cast<int64_t>(row) * all_ : projected(row);
    }
    float* projected(int row) { return projected_.data() + static_cast<int64_t>(row) * all_; }

    void work(int me) {
        if (rows_.features) {
            stage(me, count(), true, [&](int r) { join(r); });
            product(me, model_.fuse, joined_.view, count(), [&](int r, int g, const F& sum) {
                fstore(x(r) + g * kWide, sum);
            });
        } else {
            stage(me, count(), true, [&](int r) { embed(x(r), r); });
        }
        for (int l = 0; l < model_.layers; l++) layer(l, me);
        if (rows_.stream)
            stage(me, count(), true, [&](int r) {
                std::copy_n(x(r), model_.hidden,
                            rows_.stream + static_cast<int64_t>(begin_ + r) * model_.hidden);
            });
        if (wanted_.empty() || skips(kSkipHead)) return;
        const int wanted = static_cast<int>(wanted_.size());
        normalize(me, desk(me).last.view, wanted, model_.norm, [&](int i) {
            return x(static_cast<int>(rows_.wanted[wanted_[i]]) - begin_);
        });
        const int64_t width = whole(model_.head.rows);
        product(me, screened_ ? model_.screen : model_.head, desk(me).last.view, wanted,
                [&](int i, int g, const F& sum) {
                    fstore(logits_ + wanted_[i] * width + g * kWide, sum);
                });
        if (screened_) search(me);
    }

    // Of drafted rows only those that the likeliest tokens lead to: what follows a wrong guess says
    // little of any token, and would leave many to the head.
    void search(int me) {
        for (int row = 0; row >= 0;) {
            const int64_t best = likeliest_of(me, row);
            if (me == 0) rows_.best[row] = best;
            row = rows_.after(row, best);
        }
    }

    // Each thread looks through its share of the groups: first for the one of which the screen says
    // most, whose best logit is a floor for all, then for all that may reach above it.
    int64_t likeliest_of(int me, int row) {
        const int first = model_.screen.begin(me), end = model_.screen.begin(me + 1);
        const int64_t width = whole(model_.head.rows);
        const Screened said{logits_ + row * width, model_.screen_error,
                            length_of(desk(me).last.view, row)};
        Best hope;
        if (first < end) compute(me, hope, promising(said, first, end), row);
        hopes_[me] = hope;
        pool_.barrier(me);
        Best best = best_of(me, hopes_);
        candidates(said, first, end, [&] { return best.value; },
                   [&](int g, float) { compute(me, best, g, row); });
        found_[me] = best;
        pool_.barrier(me);
        return best_of(me, found_).row;
    }

    // Of all threads'; the first counts what they computed.
    Best best_of(int me, const std::vector<Best>& all) {
        Best best;
        for (const Best& own : all) {
            best.take(own.value, own.row);
            if (me == 0) exact_groups += own.exact;
        }
        return best;
    }

    // A group of sixteen logits from the head itself.
    void compute(int me, Best& best, int group, int row) {
        F sum[kMaxTile];
        dot_any(sum, model_.head, group, desk(me).last.view, row, 1);
        float values[kWide];
        fstore(values, sum[0]);
        for (int lane = 0; lane < kWide && group * kWide + lane < model_.head.rows; lane++)
            best.take(values[lane], group * kWide + lane);
        best.exact++;
    }

    void embed(float* to, int r) const {
        dequantize_row(to, model_.embedding, static_cast<int>(slice_[r].token));
    }

    // Token and feature of a row, each under its norm, side by side and quantized.
    void join(int r) {
        const int hidden = model_.hidden;
        float* both = joined_floats_.data() + static_cast<int64_t>(r) * 2 * hidden;
        embed(both, r);
        std::copy_n(rows_.features + static_cast<int64_t>(begin_ + r) * hidden, hidden, both + hidden);
        rms_norm(both, model_.token_norm, hidden, model_.eps);
        rms_norm(both + hidden, model_.feature_norm, hidden, model_.eps);
        for (int b = 0; b < joined_.view.blocks; b++, both += kBlock)
            quantize_block(joined_.view, r, b, fload(both), fload(both + kWide));
    }

    void layer(int l, int me) {
        const Layer& layer = model_.layer[l];
        // Of the last layer a slice that nobody asks about leaves its keys and values alone.
        const bool asked = l + 1 < model_.layers || asked_;
        const Activations input = desk(me).input.view;
        normalize(me, input, count(), layer.attention_norm, [&](int r) { return x(r); });
        project(me, layer, asked);
        if (!skips(kSkipAttention)) {
            if (cache_.type == kHalf) attention<uint16_t>(layer, l, me, asked);
            else attention<float>(layer, l, me, asked);
        }
        if (!asked) return;
        add(me, layer.output, desk(me).mixed.view);
        normalize(me, input, count(), layer.feed_forward_norm, [&](int r) { return x(r); });
        feed_forward(me, layer);
        add(me, layer.down, middle_.view);
    }

    // body(i) for every i below count, spread over the threads; then all wait for all.
    template <class Body>
    void stage(int me, int64_t count, bool wanted, Body body) {
        if (wanted)
            pool_.each(me, count, [&](int begin, int end) {
                for (int i = begin; i < end; i++) body(i);
            });
        pool_.barrier(me);
    }

    // body(token, unit) for a desk's tokens and `units` of blocks: where each thread has a desk, by every
    // one. Else spread over them by units of a group of tokens: those lie in the same cache lines,
    // which two threads would take from each other all the time.
    template <class Body>
    void blockwise(int me, int units, int tokens, bool wanted, Body body) {
        if (few_) {
            for (int t = 0; wanted && t < tokens; t++)
                for (int unit = 0; unit < units; unit++) body(t, unit);
            return;
        }
        const int64_t groups = (tokens + kTokenGroup - 1) / kTokenGroup;
        stage(me, groups * units, wanted, [&](int i) {
            const int first = i / units * kTokenGroup;
            for (int t = first; t < std::min(first + kTokenGroup, tokens); t++) body(t, i % units);
        });
    }

    // Norm and quantization. Even one row has work for all. from(row) is what a row is read from; each
    // thread takes its mean square for itself.
    template <class From>
    void normalize(int me, const Activations& out, int tokens, const float* weight, From from) {
        F scales[kTokenGroup]; // of the group at hand
        int rows[kTokenGroup] = {-1, -1, -1, -1};
        blockwise(me, out.blocks, tokens, !skips(kSkipRest), [&](int row, int block) {
            const int own = row % kTokenGroup;
            if (rows[own] != row) {
                rows[own] = row;
                scales[own] = fset(rms_scale(from(row), model_.hidden, model_.eps));
            }
            const int at = block * kBlock;
            const float* x = from(row) + at;
            const F low = fmul(fmul(fload(x), scales[own]), fload(weight + at));
            const F high = fmul(fmul(fload(x + kWide), scales[own]), fload(weight + at + kWide));
            quantize_block(out, row, block, low, high);
        });
    }

    // store(token, group of sixteen outputs, their sums)
    template <class Store>
    void multiply(const Matrix& m, int group, const Activations& from, int tokens, Store store) {
        F out[kMaxTile];
        for (int t = 0, done; t < tokens; t += done) {
            done = dot_any(out, m, group, from, t, tokens - t);
            for (int i = 0; i < done; i++) store(t + i, group, out[i]);
        }
    }

    // body(owner, begin, end) over what each thread owns of products; then all wait for all.
    template <class Count, class Body>
    void products(int me, Count count, Body body) {
        if (!skips(kSkipProducts)) pool_.shares(me, count, body);
        pool_.barrier(me);
    }

    // body(matrix, group) for all groups of matrices with the same columns, every thread its own
    // first; then all wait for all.
    template <class Body>
    void groupwise(int me, std::initializer_list<const Matrix*> matrices, Body body) {
        const auto count = [&](int owner) {
            int all = 0;
            for (const Matrix* m : matrices) all += m->count(owner);
            return all;
        };
        products(me, count, [&](int owner, int begin, int end) {
            for (const Matrix* m : matrices) {
                const int own = m->count(owner), stop = std::min(end, own);
                for (int i = begin; i < stop; i++) body(*m, m->begin(owner) + i);
                begin = std::max(begin - own, 0), end -= own;
            }
        });
    }

    template <class Store>
    void product(int me, const Matrix& m, const Activations& from, int tokens, Store store) {
        groupwise(me, {&m}, [&](const Matrix&, int g) { multiply(m, g, from, tokens, store); });
    }

    // Queries, keys and values, side by side in `projected`; where not asked, no queries.
    void project(int me, const Layer& layer, bool asked) {
        const auto side_by_side = [&](const Matrix& m, int g) {
            const int first = &m == &layer.query ? 0 : &m == &layer.key ? queries_ : queries_ + kv_;
            multiply(m, g, desk(me).input.view, count(), [&](int r, int, const F& sum) {
                fstore(projected(r) + first + g * kWide, sum);
            });
        };
        if (asked) groupwise(me, {&layer.query, &layer.key, &layer.value}, side_by_side);
        else groupwise(me, {&layer.key, &layer.value}, side_by_side);
    }

    void add(int me, const Matrix& m, const Activations& from) { // onto the residual stream
        product(me, m, from, count(), [&](int r, int g, const F& sum) {
            float* to = x(r) + g * kWide;
            fstore(to, fadd(fload(to), sum));
        });
    }

    // Gate and up side by side, so that a block of their product is quantized where it arises.
    void feed_forward(int me, const Layer& layer) {
        const auto blocks = [&](int owner) { return layer.gate.count(owner) / 2; };
        const auto block = [&](int b) {
            F gate[2][kMaxTile], up[2][kMaxTile];
            for (int t = 0, done = 0; t < count(); t += done) {
                for (int half = 0; half < 2; half++) {
                    const int g = 2 * b + half, left = count() - t;
                    done = dot_any(gate[half], layer.gate, g, desk(me).input.view, t, left);
                    dot_any(up[half], layer.up, g, desk(me).input.view, t, left);
                }
                for (int i = 0; i < done; i++)
                    quantize_block(middle_.view, t + i, b, swiglu(gate[0][i], up[0][i]),
                                   swiglu(gate[1][i], up[1][i]));
            }
        };
        products(me, blocks, [&](int owner, int begin, int end) {
            const int first = layer.gate.begin(owner) / 2;
            for (int i = begin; i < end; i++) block(first + i);
        });
    }

    template <class T>
    void attention(const Layer& layer, int l, int me, bool asked) {
        const auto held = [&](int slot, int head) {
            const int64_t size = static_cast<int64_t>(cache_.capacity) * model_.head_dim;
            const int64_t number = static_cast<int64_t>(l) * cache_.slots + slot;
            const int64_t at = (number * model_.kv_heads + head) * size;
            return Held<T>{static_cast<T*>(cache_.keys) + at, static_cast<T*>(cache_.values) + at,
                           model_.head_dim};
        };
        const int without = asked ? 0 : model_.heads, heads = model_.heads + model_.kv_heads;
        if (few_)
            for (int r = 0; r < count(); r++) {
                std::copy_n(projected(r), all_, turned(me, r));
                for (int h = 0; h < heads; h++) turn(turned(me, r), h, layer, slice_[r].position);
            }
        else
            stage(me, static_cast<int64_t>(count()) * (heads - without), true, [&](int i) {
                const int r = i / (heads - without), h = without + i % (heads - without);
                turn(projected(r), h, layer, slice_[r].position);
                if (const int head = h - model_.heads; head >= 0)
                    keep(held(slice_[r].slot, head), me, r, head);
            });
        if (!asked) return;
        const int tasks = static_cast<int>(tasks_.size());
        stage(me, tasks, true, [&](int i) {
            const Task& task = tasks_[i];
            const Piece& first = pieces_[task.first];
            Held<T> here = held(first.slot, first.kv_head);
            for (int r = task.row; few_ && r < task.row + task.rows; r++)
                if (slice_[r].place / kChunk == first.chunk) keep(here, me, r, first.kv_head);
            if (i + 1 < tasks) {
                const Piece& next = pieces_[tasks_[i + 1].first];
                here.then = held(next.slot, next.kv_head).keys +
                            static_cast<int64_t>(next.chunk) * kChunk * model_.head_dim;
            }
            for (int p = task.first; p < task.end; p++) {
                here.places = slice_[pieces_[p].vector / group_].places;
                here.fresh = pieces_[p].fresh;
                piece(me, pieces_[p], here);
            }
        });
        const Activations mixed = desk(me).mixed.view;
        blockwise(me, mixed.blocks / together_blocks(), count(), true,
                  [&](int r, int unit) { gather(me, mixed, r, unit); });
    }

    // Norm (Qwen3), rotation (Su et al., 2104.09864) and, of a query, scale of a row's head, in place;
    // keys come after queries.
    void turn(float* row, int number, const Layer& layer, int position) {
        const bool query = number < model_.heads;
        const float* weight = query ? layer.query_norm : layer.key_norm;
        const float scale = query ? 1.0f / std::sqrt(static_cast<float>(model_.head_dim)) : 1.0f;
        float* head = row + number * model_.head_dim;
        const int half = model_.head_dim / 2;
        if (weight) rms_norm(head, weight, model_.head_dim, model_.eps);
        const float* cosine = cache_.cosines + static_cast<int64_t>(position) * half;
        const float* sine = cache_.sines + static_cast<int64_t>(position) * half;
        for (int d = 0; d < half; d++) {
            const float low = head[d], high = head[d + half];
            head[d] = (low * cosine[d] - high * sine[d]) * scale;
            head[d + half] = (high * cosine[d] + low * sine[d]) * scale;
        }
    }

    // Key and value of a row into the cache: keys with sixteen positions side by side.
    template <class T>
    void keep(const Held<T>& held, int me, int r, int kv_head) {
        const float* key = turned(me, r) + queries_ + kv_head * model_.head_dim;
        const float* value = key + kv_;
        const int place = slice_[r].place, lane = place % kWide;
        T* column = held.keys + static_cast<int64_t>(place - lane) * model_.head_dim + lane;
        T* row = held.values + static_cast<int64_t>(place) * model_.head_dim;
        for (int d = 0; d < model_.head_dim; d += kWide) {
            alignas(64) T turned[kWide];
            fstore(turned, fload(key + d));
            for (int i = 0; i < kWide; i++) column[(d + i) * kWide] = turned[i];
            fstore(row + d, fload(value + d));
        }
    }

    int64_t partial_at(int vector_row, int head, int chunk) const {
        return (static_cast<int64_t>(chunk) * count() + vector_row) * model_.heads + head;
    }

    template <class T>
    void piece(int me, const Piece& piece, const Held<T>& held) {
        const float* queries[kVectors];
        float* out[kVectors];
        Range ranges[kVectors];
        Partial found[kVectors];
        int64_t at[kVectors];
        for (int v = 0; v < piece.count; v++) {
            const int r = (piece.vector + v) / group_;
            const int head = piece.kv_head * group_ + (piece.vector + v) % group_;
            queries[v] = turned(me, r) + head * model_.head_dim;
            ranges[v] = range_of(slice_[r].position, model_.window);
            at[v] = partial_at(r, head, piece.chunk);
            out[v] = partial_values_.data() + at[v] * model_.head_dim;
        }
        attend_any<T>(piece.count, found, out, held, queries, ranges, piece.chunk * kChunk,
                      piece.end);
        for (int v = 0; v < piece.count; v++) partials_[at[v]] = found[v];
    }

    // Heads of a row that fill whole blocks, merged from their chunks where the queries were, and
    // quantized for the output product.
    void gather(int me, const Activations& mixed, int r, int unit) {
        const Range range = range_of(slice_[r].position, model_.window);
        const int first = range.first / kChunk, chunks = range.last / kChunk - first + 1;
        const int64_t stride = static_cast<int64_t>(count()) * model_.heads;
        const int width = together_blocks() * kBlock, dim = model_.head_dim;
        float* row = turned(me, r);
        for (int head = unit * width / dim; head < (unit + 1) * width / dim; head++) {
            const int64_t at = partial_at(r, head, first);
            merge(row + head * dim, &partials_[at], &partial_values_[at * dim], chunks, stride, dim);
        }
        for (int at = unit * width; at < (unit + 1) * width; at += kBlock)
            quantize_block(mixed, r, at / kBlock, fload(row + at), fload(row + at + kWide));
    }

    // Blocks that whole heads fill: of sizes that are no multiple of a block, two.
    int together_blocks() const { return std::lcm(model_.head_dim, kBlock) / kBlock; }

    const Model& model_;
    const Cache& cache_;
    const Rows& rows_;
    float* logits_;
    const bool screened_;
    Pool& pool_;
    const int group_, queries_, kv_, all_;

    int begin_ = 0, chunks_ = 0;
    bool asked_ = false; // whether anyone wants to know more of the slice than keys and values
    bool few_ = false;   // whether every thread has a desk of its own: see kFewNumbers
    std::vector<Row> slice_;
    std::vector<Piece> pieces_;
    std::vector<Task> tasks_;
    std::vector<int> wanted_;
    std::vector<float> x_, projected_, partial_values_, joined_floats_;
    std::vector<Partial> partials_;
    std::vector<Best> hopes_, found_; // of each thread
    Quantized middle_, joined_;
    std::vector<Desk> desks_;
};

} // namespace lk
