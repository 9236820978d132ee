// The head: logits of the wanted rows, or with the screen their likeliest tokens (screen.h).
#pragma once
#include "stages.h"

namespace lk {

class HeadStage {
public:
    // logits: (wanted rows of the pass, the head's rows rounded up to sixteen). Where `screened`,
    // they are the screen's, and the pass's `best` takes the likeliest tokens.
    HeadStage(Stages& stages, float* logits, bool screened, int64_t& exact_groups)
        : s_(stages), model_(stages.model), logits_(logits), screened_(screened),
          exact_groups_(exact_groups), width_(whole(stages.model.head.rows)) {}

    void run(int me) {
        const std::vector<int>& wanted = s_.plan.wanted;
        if (wanted.empty() || s_.skips(kSkipHead)) return;
        const int count = static_cast<int>(wanted.size());
        s_.normalize(me, input(me), count, model_.norm, [&](int i) {
            return s_.stream(static_cast<int>(s_.rows.wanted[wanted[i]]) - s_.plan.begin);
        });
        s_.product(me, screened_ ? model_.screen : model_.head, input(me), count,
                   [&](int i, int g, const F& sum) {
                       fstore(logits_ + wanted[i] * width_ + g * kWide, sum);
                   });
        if (screened_) search(me);
    }

private:
    const Activations& input(int me) const { return s_.scratch(me).last.view; }

    // Of the drafted rows, search those that the likeliest tokens lead to. After a wrong guess no
    // token stands out in the screen, and most groups would have to be computed with the head.
    void search(int me) {
        for (int row = 0; row >= 0;) {
            const int64_t best = likeliest_token(me, row);
            if (me == 0) s_.rows.best[row] = best;
            row = s_.rows.after(row, best);
        }
    }

    // Each thread searches its share of the groups. First it computes the most promising one. The
    // best logit that any thread finds there is a floor for all threads. Then it computes all its
    // groups that may contain a logit above the floor.
    int64_t likeliest_token(int me, int row) {
        const bool alone = s_.pool.alone();
        const int first = alone ? 0 : model_.screen.begin(me);
        const int end = alone ? model_.screen.groups() : model_.screen.begin(me + 1);
        if (alone) {
            std::fill(s_.work.floors.begin(), s_.work.floors.end(), Best{});
            std::fill(s_.work.found.begin(), s_.work.found.end(), Best{});
        }
        const Estimate estimate{logits_ + row * width_, model_.screen_error,
                                length_of(input(me), row)};
        Best floor;
        const int promising = first < end ? most_promising(estimate, first, end) : first;
        if (promising < 0) s_.work.damaged = true; // and the search, which ends anyway, is in vain
        if (first < end) compute(me, floor, std::max(promising, first), row);
        s_.work.floors[me] = floor;
        s_.pool.barrier(me);
        Best best = best_of(me, s_.work.floors);
        candidates(
            estimate, first, end, [&] { return best.value; },
            [&](int g) { compute(me, best, g, row); });
        s_.work.found[me] = best;
        s_.pool.barrier(me);
        return best_of(me, s_.work.found).row;
    }

    // The best of all threads. The first thread counts the groups that they computed.
    Best best_of(int me, const std::vector<Best>& threads) {
        Best best;
        for (const Best& own : threads) {
            best.take(own.value, own.row);
            if (me == 0) exact_groups_ += own.exact;
        }
        return best;
    }

    // Compute a group of sixteen logits with the head itself.
    void compute(int me, Best& best, int group, int row) {
        F sum[kMaxTile];
        multiply_group(sum, model_.head, group, input(me), row, 1);
        float values[kWide];
        fstore(values, sum[0]);
        for (int lane = 0; lane < kWide && group * kWide + lane < model_.head.rows; lane++)
            best.take(values[lane], group * kWide + lane);
        best.exact++;
    }

    Stages& s_;
    const Model& model_;
    float* logits_;
    const bool screened_;
    int64_t& exact_groups_;
    const int64_t width_;
};

} // namespace lk
