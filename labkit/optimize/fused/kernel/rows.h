// What a pass is given, and how it may end. structs.py mirrors these.
#pragma once
#include <cstdint>

namespace lk {

// How a call ends. Nothing is written before a call is refused, but for kNotFinite and
// kBeyondHalf, which a pass finds: the entries of its rows then hold anything finite.
enum Status : int32_t {
    kDone = 0,
    kTokenOutside = 1,  // a token outside the vocabulary
    kRowsDoNotFit = 2,  // rows that do not fit the cache, or spans that do not cover the rows
    kWantedOutside = 3, // a wanted row outside the pass, or more likely tokens than there are
    kNoMemory = 4,
    kFeaturesDiffer = 5, // features where the model reads none, or none where it reads them
    kNoTree = 6,         // parents that make no tree
    kSpanTooLong = 7, // rows that see each other, and more of them than go through a layer together
    kOtherModel = 8,  // a cache of another shape
    kNotFinite = 9,   // a key, a value or a logit that is infinite or NaN
    kNoBlock = 10,    // a table that names a block outside the cache
    kBeyondHalf = 11, // a finite key or value that a cache of float16 does not hold
};

// What a pass may leave out, so that its share of the time can be measured.
enum Skip : int32_t { kSkipAttention = 1, kSkipHead = 2, kSkipProducts = 4, kSkipRest = 8 };

// `count` rows of the pass from first_row on. In the slot they are the entries from `start` on. A
// row sees the rows of its span up to itself; where the span is not causal, all of them.
struct Span {
    int64_t slot, start, count, first_row, causal;

    int64_t end() const { return start + count; }
};

// The rows of one pass, span by span.
struct Rows {
    const int64_t *tokens, *positions, *wanted;
    const Span* spans;
    const float* const*
        embeddings;        // (rows): a row's embedding, null where it is a token; null: none
    const float* features; // (rows, hidden) that a draft head reads beside tokens, or null
    float* streams;        // (rows, hidden), takes the streams after the last layer, or null
    int64_t* best;         // (wanted_rows, likely), takes the likeliest tokens, or null
    float* chances;        // (wanted_rows, likely), takes their probabilities, or null
    // (rows, path_width): for a row of a tree, the rows of its span from the tree's first to
    // itself, then -1; for any other row -1 alone. Null: there is no tree.
    const int32_t* paths;
    const int64_t* parents; // where `guesses` are a tree: the row that each row follows; else null
    int32_t rows, wanted_rows, span_count;
    int32_t skip; // a sum of Skip
    int32_t path_width, likely;
    // Whether all rows but the first are drafted, and all are wanted. After a wrong one, `best` may
    // keep its old values.
    int32_t guesses, unused;

    const float* embedding(int64_t row) const { return embeddings ? embeddings[row] : nullptr; }

    // The path of a row of a tree, else null.
    const int32_t* path(int64_t row) const {
        const int32_t* found = paths ? paths + row * path_width : nullptr;
        return found && found[0] >= 0 ? found : nullptr;
    }

    // The guess that follows `row` and is `token`; -1 where there is none.
    int after(int row, int64_t token) const {
        if (!guesses) return -1;
        if (!parents) return row + 1 < rows && tokens[row + 1] == token ? row + 1 : -1;
        for (int r = rows - 1; r > row; r--)
            if (parents[r] == row && tokens[r] == token) return r;
        return -1;
    }
};

// `count` tokens that go to the end of a slot, which holds `position` tokens: all that greedy
// decoding, verifying and drafting need. A chain, or with `parents` (the row that each row follows,
// -1 for the first) a tree. The pass finds the `likely` likeliest tokens after each of the last
// `wanted` rows.
// What best, chances, features and streams are: see Rows.
struct Continuation {
    const int64_t *tokens, *parents;
    const float* features;
    float* streams;
    int64_t* best;
    float* chances;
    int64_t slot, position;
    int32_t count, wanted, likely, guesses, skip, unused;
};

} // namespace lk
