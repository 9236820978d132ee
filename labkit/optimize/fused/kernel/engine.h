// The threads and the memory of passes, and what is checked before a pass may touch memory.
#pragma once
#include <mutex>
#include <numeric>

#include "forward.h"

namespace lk {

struct Engine {
    explicit Engine(int threads) : pool(threads) {}
    Pool pool;
    Workspace work;
    std::mutex busy;          // one pass at a time
    int64_t exact_groups = 0; // groups of sixteen logits computed with the head in screening
};

inline bool all_below(const int64_t* values, int count, int64_t end) {
    return std::all_of(values, values + count, [=](int64_t v) { return v >= 0 && v < end; });
}

// A row given as an embedding has no token.
inline bool tokens_fit(const Rows& rows, const Model& model) {
    if (!rows.embeddings) return all_below(rows.tokens, rows.rows, model.vocab);
    for (int r = 0; r < rows.rows; r++)
        if (!rows.embeddings[r] && !all_below(rows.tokens + r, 1, model.vocab)) return false;
    return true;
}

// The path of a row of a tree leads through earlier rows of its span, one a position, to the row.
inline bool path_fits(const int32_t* path, int64_t row, int64_t depth, int32_t width) {
    if (depth < 0 || depth >= width || path[depth] != row) return false;
    for (int64_t d = 0; d < depth; d++)
        if (path[d] < 0 || path[d] >= path[d + 1]) return false;
    return true;
}

// Spans cover the rows one after another, at positions that follow from their starts.
inline Status check_spans(const Rows& rows, const Cache& cache) {
    int64_t next = 0;
    for (int s = 0; s < rows.span_count; s++) {
        const Span& span = rows.spans[s];
        if (span.slot < 0 || span.slot >= cache.slots || span.start < 0 || span.count < 1)
            return kRowsDoNotFit;
        if (span.first_row != next || span.count > rows.rows - next) return kRowsDoNotFit;
        if (span.start > cache.capacity - span.count) return kRowsDoNotFit;
        if (!cache.has_blocks(span.slot, span.end())) return kNoBlock;
        if (!span.causal && span.count > kSliceRows) return kSpanTooLong;
        for (int64_t r = 0; r < span.count; r++) {
            const int64_t depth = rows.positions[next + r] - span.start;
            const int32_t* path = rows.path(next + r);
            if (path && !span.causal) return kRowsDoNotFit;
            if (path ? !path_fits(path, r, depth, rows.path_width) : depth != r)
                return kRowsDoNotFit;
        }
        next += span.count;
    }
    return next == rows.rows ? kDone : kRowsDoNotFit;
}

inline Status check(const Rows& rows, const Model& model, const Cache& cache) {
    if (!cache.fits(model)) return kOtherModel;
    if (!tokens_fit(rows, model)) return kTokenOutside;
    if (const Status status = check_spans(rows, cache)) return status;
    if (!all_below(rows.wanted, rows.wanted_rows, rows.rows)) return kWantedOutside;
    if (rows.chances && (rows.likely < 1 || rows.likely > model.head.rows)) return kWantedOutside;
    if ((rows.features != nullptr) != (model.fuse.starts != nullptr)) return kFeaturesDiffer;
    return kDone;
}

// The depth of each row of a tree, and its path (count, count), filled up with -1. Returns false if
// it is no tree.
inline bool tree_paths(const int64_t* parents, int count, std::vector<int64_t>& depths,
                       std::vector<int32_t>& paths) {
    depths.assign(count, 0);
    paths.assign(static_cast<size_t>(count) * count, -1);
    for (int64_t r = 0; r < count; r++) {
        const int64_t parent = parents[r];
        if (r == 0 ? parent != -1 : parent < 0 || parent >= r) return false;
        if (r) depths[r] = depths[parent] + 1;
        if (r) std::copy_n(&paths[parent * count], depths[r], &paths[r * count]);
        paths[r * count + depths[r]] = static_cast<int32_t>(r);
    }
    return true;
}

// The rows of a continuation. They fit each other by construction; everything else is checked.
// `span`, and vectors of the workspace, must live as long as the rows.
inline Status rows_of(const Continuation& next, const Model& model, const Cache& cache,
                      Workspace& work, Span& span, Rows& rows) {
    const int count = next.count;
    if (!cache.fits(model)) return kOtherModel;
    if (count < 1 || next.slot < 0 || next.slot >= cache.slots || next.position < 0 ||
        next.position > cache.capacity - count)
        return kRowsDoNotFit;
    if (!cache.has_blocks(next.slot, next.position + count)) return kNoBlock;
    if (next.wanted < 0 || next.wanted > count) return kWantedOutside;
    if (next.likely < 1 || next.likely > model.head.rows) return kWantedOutside;
    if (!all_below(next.tokens, count, model.vocab)) return kTokenOutside;
    if ((next.features != nullptr) != (model.fuse.starts != nullptr)) return kFeaturesDiffer;
    work.positions.resize(count);
    work.wanted.resize(next.wanted);
    std::iota(work.positions.begin(), work.positions.end(), next.position);
    std::iota(work.wanted.begin(), work.wanted.end(), count - next.wanted);
    if (next.parents) {
        if (!tree_paths(next.parents, count, work.depths, work.paths)) return kNoTree;
        for (int r = 0; r < count; r++) work.positions[r] = next.position + work.depths[r];
        rows.paths = work.paths.data(), rows.path_width = count;
    }
    span = {next.slot, next.position, count, 0, 1};
    rows.tokens = next.tokens, rows.positions = work.positions.data();
    rows.wanted = work.wanted.data(), rows.spans = &span;
    rows.features = next.features, rows.streams = next.streams;
    rows.best = next.best, rows.chances = next.chances, rows.likely = next.likely;
    rows.rows = count, rows.wanted_rows = next.wanted, rows.span_count = 1, rows.skip = next.skip;
    rows.parents = next.parents, rows.guesses = next.guesses && next.wanted == count;
    return kDone;
}

// The likeliest tokens of the wanted rows, from their logits. False where one is not finite.
inline bool take_likeliest(const Model& model, const Rows& rows, const float* logits) {
    const int64_t width = whole(model.head.rows);
    for (int i = 0; i < rows.wanted_rows; i++, logits += width) {
        const int64_t at = static_cast<int64_t>(i) * rows.likely;
        int64_t* best = rows.best + at;
        if (rows.chances) {
            if (!likely(logits, model.head.rows, rows.likely, best, rows.chances + at))
                return false;
        } else if ((*best = likeliest(logits, model.head.rows)) < 0) return *best = 0, false;
    }
    return true;
}

// A pass over rows that were checked. logits: (wanted_rows, the head's rows rounded up to sixteen),
// or null where only the likeliest tokens are wanted. A pass is refused where a key or a value that
// it makes is not finite, or larger than the cache holds; and where it takes the likeliest tokens,
// also where any of their logits is not finite.
inline Status run(Engine& engine, const Model& model, const Cache& cache, const Rows& rows,
                float* logits) {
    const int64_t width = whole(model.head.rows);
    // Screen for one row or a few drafted rows. With more, arithmetic takes longer than reading.
    const bool few = rows.wanted_rows == 1 || (rows.guesses && rows.rows <= kScreenRows);
    const bool screened = model.screen.starts && few && !logits && !rows.chances;
    if (!logits) {
        engine.work.logits.reserve(rows.wanted_rows * width);
        logits = engine.work.logits.data();
    }
    engine.work.damaged = engine.work.beyond_half = false;
    Pass pass(model, cache, rows, logits, screened, engine.work, engine.pool);
    pass.run();
    engine.exact_groups += pass.exact_groups;
    const bool damaged = engine.work.damaged, beyond = engine.work.beyond_half;
    bool finite = !damaged && !beyond;
    if (finite && rows.best && !screened) finite = take_likeliest(model, rows, logits);
    if (finite || rows.skip) return kDone; // without all stages, numbers mean nothing
    return beyond && !damaged ? kBeyondHalf : kNotFinite;
}

} // namespace lk
