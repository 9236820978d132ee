// What Python hands over: shapes and pointers into memory that it owns. native.py mirrors these.
#pragma once
#include <algorithm>
#include <cstdint>

namespace lk {

enum Format : int32_t { kQ4_1 = 0, kQ4_0 = 1, kQ8_0 = 2, kQ5_0 = 3 };

// rows x columns of quantized weights, 16 rows interleaved (pack.py). Of each thread the groups of
// 16 rows that it takes lie in a stretch of their own (layout.py): starts[t] is where those of thread
// t begin, `share` of them, `stride` bytes apart. bias: rows floats or null.
struct Matrix {
    const uint8_t* const* starts;
    const float* bias;
    int64_t stride;
    int32_t rows, columns;
    int32_t format;
    int32_t share;

    int groups() const { return (rows + 15) / 16; }
    const uint8_t* at(int group) const { return starts[group / share] + group % share * stride; }
    // The groups of a thread.
    int begin(int thread) const { return std::min(thread * share, groups()); }
    int count(int thread) const { return begin(thread + 1) - begin(thread); }
};

struct Layer {
    const float *attention_norm, *feed_forward_norm; // hidden floats
    const float *query_norm, *key_norm;              // head_dim floats or null
    Matrix query, key, value, output, gate, up, down;
};

struct Model {
    int32_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim;
    int32_t window; // positions a row looks back on, itself included; 0: all
    float eps;
    int32_t unused;
    const Layer* layer;
    const float* norm;
    Matrix embedding, head;
    // Of a draft head, whose input is both a token and the stream before it (EAGLE): norms of the
    // two and the matrix (hidden, 2 hidden) that joins them; null in a model of its own.
    const float *token_norm, *feature_norm;
    Matrix fuse;
    // A copy of the head in fewer bits, and of each row how far an input of length 1 may lead it off
    // (screen.h); null where there is none.
    Matrix screen;
    const float* screen_error;
};

enum KvType : int32_t { kHalf = 0, kFloat = 1 };

// keys: (layers, slots, kv_heads, capacity / 16, head_dim, 16); values: (layers, slots, kv_heads,
// capacity, head_dim); cosines and sines: (capacity, head_dim / 2). capacity: a multiple of 16.
struct Cache {
    void *keys, *values;
    const float *cosines, *sines;
    int32_t slots, capacity, type, unused;
};

// The rows of one pass: a span is (slot, first position, rows, first row).
struct Rows {
    const int64_t *tokens, *positions, *wanted, *spans;
    const float* features; // (rows, hidden) that a draft head reads beside its tokens, or null
    float* stream;         // (rows, hidden) that takes the stream after the last layer, or null
    int64_t* best;         // (wanted_rows, likely) that takes each one's likeliest tokens, or null
    float* chances;        // (wanted_rows, likely) that takes their probabilities, or null
    // (rows, path_width): for a row of a tree, the rows of its span from the tree's first to itself,
    // -1 beyond; a row of a chain has -1 alone. Null: chains all.
    const int32_t* paths;
    const int64_t* parents; // of each row of a drafted tree the row it follows; null: a chain
    int32_t rows, wanted_rows, span_count;
    int32_t skip; // stages to leave out when their share is measured (forward.h); 0: none
    int32_t path_width, likely;
    // Whether all rows but the first are guesses, and all are wanted: of those after a wrong one
    // nothing need be told.
    int32_t drafted, unused;

    // Of a row of a tree, else null.
    const int32_t* path(int64_t row) const {
        const int32_t* found = paths ? paths + row * path_width : nullptr;
        return found && found[0] >= 0 ? found : nullptr;
    }

    // The drafted row that goes on from `row` with `token`; -1 where none does.
    int after(int row, int64_t token) const {
        if (!drafted) return -1;
        if (!parents) return row + 1 < rows && tokens[row + 1] == token ? row + 1 : -1;
        for (int r = rows - 1; r > row; r--)
            if (parents[r] == row && tokens[r] == token) return r;
        return -1;
    }
};

} // namespace lk
