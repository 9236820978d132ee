// A model and a cache: shapes, and pointers into memory that Python owns. structs.py mirrors these.
#pragma once
#include <algorithm>
#include <cstdint>

namespace lk {

enum Format : int32_t {
    kQ4_1 = 0,
    kQ4_0,
    kQ8_0,
    kQ5_0,
    kQ5_1,
    kQ4_K,
    kQ5_K,
    kQ6_K,
    kQ3_K,
    kQ2_K,
    kIQ4_NL,
    kIQ4_XS,
    kF16,
    kBF16,
    kF32,
    kFormats
};

// rows x columns of quantized weights, 16 rows interleaved (pack.py). A thread's groups of 16 rows
// lie in a stretch of its own (layout.py): starts[t] is where those of thread t begin, `share` of
// them, `stride` bytes apart. bias: rows floats or null.
struct Matrix {
    const uint8_t* const* starts;
    const float* bias;
    int64_t stride;
    int32_t rows, columns;
    int32_t format;
    int32_t share;

    int groups() const { return (rows + 15) / 16; }
    const uint8_t* at(int group) const { return starts[group / share] + group % share * stride; }
    // The first group of a thread, and how many it has.
    int begin(int thread) const { return std::min(thread * share, groups()); }
    int count(int thread) const { return begin(thread + 1) - begin(thread); }
};

// One feed-forward of a mixture. All of a mixture have the same sizes.
struct Expert {
    Matrix gate, up, down;
};

struct Layer {
    const float *attention_norm, *feed_forward_norm; // hidden floats, or null: none
    // head_dim floats, or of all heads where norms are whole, or null.
    const float *query_norm, *key_norm;
    // Norms of what attention and the feed-forward give, before it is added: hidden floats or null.
    const float *attention_post_norm, *feed_forward_post_norm;
    int32_t view; // which of the model's windows
    int32_t rope; // which of the cache's angles; -1: its queries and keys do not turn
    Matrix query, key, value, output, gate, up, down;
    // A layer with a mixture has no gate, up and down, but a router (experts, hidden) in floats, and
    // the experts. Null in any other layer.
    Matrix router;
    const Expert* experts;
};

enum Activation : int32_t { kSilu = 0, kGeluTanh = 1 };

constexpr int kViews = 2; // different windows that layers of a model have at most

struct Model {
    int32_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim;
    int32_t turned, ropes;   // numbers of a head that RoPE turns; kinds of angles
    int32_t views;           // how many of the windows there are
    int32_t windows[kViews]; // positions a row looks back on, itself included; 0: all
    int32_t activation;
    int32_t whole_norms; // whether norms of queries and keys are over all heads together
    float eps;
    // Of the table's embeddings, of what is added to the stream, and of scores.
    float embedding_multiplier, residual_multiplier, score_scale;
    // Of mixtures: how many experts, how many a row uses, the size of one, and whether the weights
    // of those used are scaled to sum to 1. Zeros where no layer has one.
    int32_t experts, used, expert_size, normalized;
    const Layer* layer;
    const float* norm;
    Matrix embedding, head;
    // A draft head reads a token and the stream before it (EAGLE): the norms of the two, and the
    // matrix (hidden, 2 hidden) that joins them. Null in any other model.
    const float *token_norm, *feature_norm;
    Matrix fuse;
    // A copy of the head in fewer bits, and for each of its rows how far off the copy's logit may
    // be for an input of length 1 (screen.h). Null where there is none.
    Matrix screen;
    const float* screen_error;
};

enum CacheType : int32_t { kHalf = 0, kFloat = 1 };

// keys: (layers, slots, kv_heads, capacity / 16, head_dim, 16); values: (layers, slots, kv_heads,
// capacity, head_dim); cosines and sines: (ropes, capacity, turned / 2). capacity: a multiple of
// 16. A paged cache has a table (slots, capacity / 16) that names the block in which each sixteen
// entries of a slot lie. Its keys: (layers, kv_heads, blocks, head_dim, 16); its values: (layers,
// kv_heads, blocks, 16, head_dim).
struct Cache {
    void *keys, *values;
    const float *cosines, *sines;
    const int32_t* table; // null where the cache is not paged
    int32_t layers, kv_heads, head_dim;
    int32_t slots, capacity, type;
    int32_t turned, ropes;
    int32_t blocks, unused;

    const int32_t* table_of(int64_t slot) const {
        return table ? table + slot * (capacity / 16) : nullptr;
    }
    // Whether the blocks of a slot's first `count` entries are blocks of this cache.
    bool has_blocks(int64_t slot, int64_t count) const {
        const int32_t* of = table_of(slot);
        return !of || std::all_of(of, of + (count + 15) / 16,
                                  [this](int32_t b) { return b >= 0 && b < blocks; });
    }

    bool fits(const Model& model) const {
        return layers == model.layers && kv_heads == model.kv_heads &&
               head_dim == model.head_dim && turned == model.turned && ropes == model.ropes;
    }
};

} // namespace lk
