// Which experts of a mixture the rows of a slice go to.
#pragma once
#include <limits>
#include <numeric>
#include <vector>

#include "buffers.h"

namespace lk {

// The rows of an expert: slots first..first + count - 1.
struct ExpertRows {
    int expert, first, count;
};

// The slots of all experts that any row goes to, by the experts' numbers. A slot is a row and the
// weight of the expert in its sum. Products take rows in groups, so an expert's slots begin at a
// multiple of kTokenGroup.
class Routes {
public:
    std::vector<ExpertRows> experts;
    std::vector<int> rows;      // of a slot; -1 where none is
    std::vector<float> weights; // the same
    bool shared = false;        // whether any expert has several rows

    // The most slots of `count` rows.
    static int most(const Model& model, int count) {
        const int pairs = count * model.used;
        return pairs + (kTokenGroup - 1) * std::min(pairs, model.experts);
    }

    void reserve(const Model& model, int count) {
        const int slots = most(model, count) + kTokenGroup;
        experts.reserve(model.experts);
        rows.reserve(slots), weights.reserve(slots);
        chosen_.resize(static_cast<size_t>(count) * model.used);
        chances_.resize(chosen_.size());
        starts_.resize(model.experts);
    }

    // logits: (count, the experts rounded up to sixteen). A row takes the experts with the largest,
    // of equals the lower number, and weighs them by their softmax over all experts. Allocates
    // nothing that was reserved.
    void make(const Model& model, const float* logits, int count) {
        const int used = model.used, width = whole(model.experts);
        for (int r = 0; r < count; r++) {
            float* chances = &chances_[static_cast<size_t>(r) * used];
            int64_t* chosen = &chosen_[static_cast<size_t>(r) * used];
            const float* own = logits + static_cast<int64_t>(r) * width;
            if (!likely(own, model.experts, used, chosen, chances)) { // its stream becomes NaN
                std::iota(chosen, chosen + used, 0);
                std::fill_n(chances, used, std::numeric_limits<float>::quiet_NaN());
            }
            if (!model.normalized) continue;
            float all = 0.0f;
            for (int i = 0; i < used; i++) all += chances[i];
            for (int i = 0; i < used; i++) chances[i] /= all;
        }
        sort(model.experts);
        for (size_t i = 0; i < static_cast<size_t>(count) * used; i++) {
            const int slot = starts_[chosen_[i]]++;
            rows[slot] = static_cast<int>(i) / used;
            weights[slot] = chances_[i];
        }
    }

private:
    // Give every expert that was chosen its slots.
    void sort(int all) {
        std::fill(starts_.begin(), starts_.end(), 0);
        for (const int64_t expert : chosen_) starts_[expert]++;
        experts.clear();
        shared = false;
        int next = 0;
        for (int e = 0; e < all; e++) {
            const int count = starts_[e];
            if (!count) continue;
            experts.push_back({e, next, count});
            shared |= count > 1;
            starts_[e] = next;
            next += (count + kTokenGroup - 1) / kTokenGroup * kTokenGroup;
        }
        rows.assign(next, -1);
        weights.assign(next, 0.0f);
    }

    std::vector<int64_t> chosen_; // (rows, used)
    std::vector<float> chances_;  // the same
    std::vector<int> starts_;     // of each expert: its rows, then its next slot
};

// What mixtures need of the workspace.
struct MixtureWork {
    Buffer<float> logits;       // of the routers, (rows, experts rounded up to sixteen)
    Quantized gathered;         // (slots, hidden): each slot's row
    Quantized middle;           // (slots, size of an expert)
    std::vector<Routes> routes; // one a thread: making them takes less than a barrier

    void reserve(const Model& model, int rows, int threads) {
        const int slots = Routes::most(model, rows);
        logits.reserve(static_cast<size_t>(rows) * whole(model.experts));
        gathered.reserve(slots, model.hidden);
        middle.reserve(slots, model.expert_size);
        routes.resize(threads);
        for (Routes& own : routes) own.reserve(model, rows);
    }
};

} // namespace lk
