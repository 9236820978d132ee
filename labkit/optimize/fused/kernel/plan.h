// The plan of a slice: its rows, and the pieces that its attention is cut into.
#pragma once
#include <algorithm>
#include <vector>

#include "attention.h"
#include "rows.h"

namespace lk {

constexpr int kSliceRows = 128; // rows that go through a layer together
// In a slice of up to so many numbers, every thread norms, rotates and quantizes all rows itself.
// That takes some 0.4 us. Sharing the work needs a barrier, which takes twice as long on two cores.
constexpr int kReplicatedNumbers = 2048;

// entry: where the row's key and value lie in its slot. In a tree that is not its position.
struct SliceRow {
    int64_t token;
    const float* embedding; // null where the row is a token
    int position, slot, entry;
    TreePath path;
};

// A piece of attention: `count` query vectors from `vector` (row * group + head in its group) over
// the positions of a chunk, up to `end`. fresh: the first piece to read these keys and values.
struct Piece {
    int slot, kv_head, vector, count, chunk, end;
    bool fresh;
};

// Pieces first..end - 1, which one thread computes one after another. Where work is replicated, the
// thread first writes the keys and values that rows row..row + rows - 1 bring to the chunk.
struct Task {
    int first, end;
    int row, rows;
};

// Attention in the layers that have one window: what each row sees there, and its pieces.
struct View {
    int window = 0;
    std::vector<Range> sees;
    std::vector<Piece> pieces;
    std::vector<Task> tasks;
};

// Where the slice that begins at a row ends. Rows that see each other stay in one slice.
inline int slice_end(const Rows& rows, int begin) {
    const int end = std::min(begin + kSliceRows, rows.rows);
    for (int s = 0; s < rows.span_count; s++) {
        const Span& span = rows.spans[s];
        const int64_t first = span.first_row;
        if (!span.causal && first > begin && first < end && first + span.count > end)
            return static_cast<int>(first);
    }
    return end;
}

class Plan {
public:
    std::vector<SliceRow> rows;
    View views[kViews];
    std::vector<int> wanted; // indices of the slice's rows in the pass's `wanted`
    int begin = 0;           // the slice's first row in the pass
    int chunks = 0;          // that any row of the slice sees
    bool asked = false;      // whether more than keys and values is needed
    bool replicated = false; // whether every thread does the small stages itself

    int count() const { return static_cast<int>(rows.size()); }

    // For rows first..end - 1 of a pass.
    void make(const Model& model, const Rows& pass, int first, int end) {
        group_ = model.heads / model.kv_heads;
        begin = first;
        rows.clear();
        wanted.clear();
        views_ = model.views;
        for (int v = 0; v < views_; v++) {
            views[v].window = model.windows[v];
            views[v].sees.clear();
            views[v].pieces.clear();
            views[v].tasks.clear();
        }
        chunks = 0;
        for (int w = 0; w < pass.wanted_rows; w++)
            if (pass.wanted[w] >= first && pass.wanted[w] < end) wanted.push_back(w);
        asked = pass.streams || !wanted.empty();
        const int widest = std::max(model.heads * model.head_dim, model.hidden);
        replicated = (end - first) * widest <= kReplicatedNumbers && !pass.paths && asked;
        for (int s = 0; s < pass.span_count; s++) {
            const Span& span = pass.spans[s];
            const int64_t from = std::max<int64_t>(span.first_row, first);
            const int64_t to = std::min<int64_t>(span.first_row + span.count, end);
            if (from < to) add_span(model, pass, span, from, to);
        }
    }

private:
    // Rows from..to - 1 of the pass, which belong to a span.
    void add_span(const Model& model, const Rows& pass, const Span& span, int64_t from,
                  int64_t to) {
        for (int64_t r = from; r < to; r++) add_row(pass, span, r);
        for (int v = 0; v < views_; v++)
            add_pieces_of(views[v], model, pass, span, from, static_cast<int>(to - from));
    }

    void add_row(const Rows& pass, const Span& span, int64_t r) {
        const int position = static_cast<int>(pass.positions[r]),
                  start = static_cast<int>(span.start);
        for (int v = 0; v < views_; v++) {
            Range sees = range_of(position, views[v].window);
            if (!span.causal)
                sees = {std::min(sees.first, start), static_cast<int>(span.end()) - 1};
            views[v].sees.push_back(sees);
        }
        TreePath path;
        if (const int32_t* steps = pass.path(r)) path = {steps, start, position + 1};
        rows.push_back({pass.tokens[r], pass.embedding(r), position, static_cast<int>(span.slot),
                        start + static_cast<int>(r - span.first_row), path});
    }

    // The pieces of a span's `count` rows from row `from` of the pass on.
    void add_pieces_of(View& view, const Model& model, const Rows& pass, const Span& span,
                       int64_t from, int count) {
        const int row = static_cast<int>(from - begin);
        const int all = view.sees.back().last / kChunk + 1;
        const int before = pass.path(from) ? static_cast<int>(span.start) / kChunk : all;
        add_pieces(view, model, row, count, 0, before);
        if (pass.path(from)) // each row of a tree sees other rows
            for (int r = row; r < row + count; r++)
                add_pieces(view, model, r, 1, before, view.sees[r].last / kChunk + 1);
    }

    // For `count` rows from `row` on, chunks first_chunk..end_chunk - 1. Pieces that read the same
    // keys and values follow each other: what the first reads is in the processor's cache for the
    // next.
    void add_pieces(View& view, const Model& model, int row, int count, int first_chunk,
                    int end_chunk) {
        const int lowest = view.sees[row].first / kChunk;
        for (int h = 0; h < model.kv_heads; h++)
            for (int chunk = std::max(first_chunk, lowest); chunk < end_chunk; chunk++) {
                const int first = static_cast<int>(view.pieces.size());
                for (int v = 0, vectors; v < count * group_; v += vectors) {
                    vectors = vectors_at_once(count * group_ - v);
                    add_piece(view, row, v, vectors, h, chunk);
                }
                add_tasks(view, first, row, count);
            }
        chunks = std::max(chunks, end_chunk);
    }

    void add_piece(View& view, int row, int v, int vectors, int head, int chunk) {
        Range sees = view.sees[row + v / group_]; // of any of the rows
        for (int r = row + v / group_; r <= row + (v + vectors - 1) / group_; r++) {
            sees.first = std::min(sees.first, view.sees[r].first);
            sees.last = std::max(sees.last, view.sees[r].last);
        }
        if (chunk > sees.last / kChunk || chunk < sees.first / kChunk) return;
        const int end = std::min(sees.last + 1, (chunk + 1) * kChunk);
        view.pieces.push_back(
            {rows[row].slot, head, row * group_ + v, vectors, chunk, whole(end), v == 0});
    }

    // For a chunk's pieces from `first` on: one task for all where work is replicated, since the
    // task writes the chunk's keys and values too; else one for each.
    void add_tasks(View& view, int first, int row, int count) {
        const int end = static_cast<int>(view.pieces.size()), step = replicated ? end - first : 1;
        for (int i = first; i < end; i += step) view.tasks.push_back({i, i + step, row, count});
    }

    int group_ = 1; // query heads that share a KV head
    int views_ = 0;
};

} // namespace lk
