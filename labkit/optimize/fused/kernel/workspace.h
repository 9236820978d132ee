// The memory that passes work in. An engine makes it once; it grows where a pass needs more, and
// serves models of any shape in any order: a stage reads only what it, or an earlier stage, wrote
// in the same pass.
#pragma once
#include <atomic>
#include <vector>

#include "buffers.h"
#include "plan.h"
#include "routes.h"
#include "screen.h"

namespace lk {

// What a stage makes for the products after it. One for all threads; where work is replicated, one
// for each.
struct Scratch {
    Quantized input, attended, last; // what layers, their output product and the head multiply
    Buffer<float> rotated;           // queries, keys and values of the rows, ready for attention
};

struct Workspace {
    Plan plan;                                      // of the slice at hand
    Buffer<float> streams;                          // (rows, hidden)
    Buffer<float> projected;                        // (rows, queries + keys + values)
    Buffer<float> branches;                         // (rows, hidden), where results have norms
    Buffer<float> norm_scales;                      // (rows, 2), where norms are over all heads
    Quantized middle;                               // (rows, intermediate)
    MixtureWork mixture;                            // of layers with a mixture of experts
    Buffer<float> joined_floats;                    // (rows, 2 hidden), in a draft head
    Quantized joined;                               // the same
    Buffer<Partial> partials;                       // (chunks, rows, heads)
    Buffer<float> partial_values;                   // (chunks, rows, heads, head_dim)
    std::vector<Scratch> scratch;                   // one, or one a thread
    std::vector<Best> floors, found;                // of each thread, in screening
    Buffer<float> logits;                           // where the caller wants none
    std::vector<int64_t> positions, wanted, depths; // of the rows of a continuation
    std::vector<int32_t> paths;                     // the same
    std::atomic<bool> damaged{false};               // whether the pass met what is not finite
    std::atomic<bool> beyond_half{false};           // or what its cache of float16 cannot hold

    // For the slice of the plan.
    void reserve(const Model& model, const Rows& rows, int threads) {
        const size_t count = plan.count();
        const int queries = model.heads * model.head_dim;
        const size_t all = queries + 2 * model.kv_heads * model.head_dim;
        streams.reserve(count * model.hidden);
        projected.reserve(count * all);
        norm_scales.reserve(2 * count);
        if (model.layer->attention_post_norm) branches.reserve(count * model.hidden);
        const size_t each = plan.replicated ? threads : 1;
        if (scratch.size() < each) scratch.resize(each);
        for (size_t i = 0; i < each; i++) {
            scratch[i].input.reserve(plan.count(), model.hidden);
            scratch[i].attended.reserve(plan.count(), queries);
            scratch[i].last.reserve(std::max<int>(1, static_cast<int>(plan.wanted.size())),
                                    model.hidden);
            scratch[i].rotated.reserve(plan.replicated ? count * all : 0);
        }
        middle.reserve(plan.count(), model.intermediate);
        if (model.experts) mixture.reserve(model, plan.count(), threads);
        if (rows.features) {
            joined.reserve(plan.count(), 2 * model.hidden);
            joined_floats.reserve(count * 2 * model.hidden);
        }
        const size_t vectors = count * model.heads * plan.chunks;
        partials.reserve(vectors);
        partial_values.reserve(vectors * model.head_dim);
        floors.resize(threads);
        found.resize(threads);
    }
};

} // namespace lk
