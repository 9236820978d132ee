// A mixture of experts in place of a feed-forward (Shazeer et al., 1701.06538; as in Qwen3-MoE).
//
// Each row goes through few of many experts. The weights of an expert are read once a pass, for all
// its rows. A row's experts are added up in the order of their numbers, whatever other rows share
// the pass, so that its result keeps the same bits.
#pragma once
#include "stages.h"

namespace lk {

class MixtureStage {
public:
    MixtureStage(Stages& stages, const Layer& layer)
        : s_(stages), layer_(layer), work_(stages.work.mixture) {}

    // Adds the mixture of the rows' input, which is normed and quantized, to their streams.
    void run(int me) {
        score(me);
        Routes& routes = work_.routes[me];
        routes.make(s_.model, work_.logits.data(), s_.count());
        if (routes.shared) gather(me, routes);
        gate_and_up(me, routes);
        down(me, routes);
    }

private:
    static constexpr int kChains = 4; // sums that a row's product runs at once
    static constexpr int kRows = 2;   // rows that share a read of the router
    static constexpr int kRun = 8;    // groups of outputs that a thread takes of one expert at once

    // The routers' logits. In floats: rounded inputs would choose other experts where two are
    // nearly alike.
    void score(int me) {
        s_.each_group(me, {&layer_.router}, [&](const Matrix&, int group) {
            int r = 0;
            for (; r + kRows <= s_.count(); r += kRows) score_group<kRows>(r, group);
            for (; r < s_.count(); r++) score_group<1>(r, group);
        });
    }

    template <int kCount>
    void score_group(int row, int group) {
        const float* norm = layer_.feed_forward_norm;
        const uint8_t* from = layer_.router.at(group);
        const float* x[kCount];
        F scale[kCount], out[kCount];
        for (int r = 0; r < kCount; r++) {
            x[r] = s_.stream(row + r);
            scale[r] = fset(rms_scale(x[r], s_.model.hidden, s_.model.eps));
        }
        for (int p = 0; p < kParts; p++) {
            V sum[kCount][kChains];
            for (int r = 0; r < kCount; r++)
                for (V& chain : sum[r]) chain = vset(0.0f);
            for (int c = 0; c < s_.model.hidden; c += kChains) {
                const uint8_t* at = from + c / kBlock * part_bytes(kF32);
#pragma GCC unroll 4
                for (int i = 0; i < kChains; i++) {
                    const V w = column_of<kF32>(at, c % kBlock + i, p);
#pragma GCC unroll 2
                    for (int r = 0; r < kCount; r++)
                        sum[r][i] = vfma(vset(x[r][c + i] * norm[c + i]), w, sum[r][i]);
                }
            }
            for (int r = 0; r < kCount; r++)
                out[r].part[p] = vadd(vadd(sum[r][0], sum[r][1]), vadd(sum[r][2], sum[r][3]));
        }
        const int64_t width = whole(s_.model.experts);
        for (int r = 0; r < kCount; r++)
            fstore(work_.logits.data() + (row + r) * width + group * kWide,
                   fmul(out[r], scale[r]));
    }

    // Each slot's input beside its neighbours', since products take rows that lie side by side.
    void gather(int me, const Routes& routes) {
        const Activations &to = work_.gathered.view, &from = s_.scratch(me).input.view;
        const int64_t groups = static_cast<int64_t>(routes.rows.size()) / kTokenGroup;
        s_.each(me, groups, !s_.skips(kSkipRest), [&](int group) {
            for (int slot = group * kTokenGroup; slot < (group + 1) * kTokenGroup; slot++)
                for (int b = 0; routes.rows[slot] >= 0 && b < to.blocks; b++)
                    *to.at(slot, b) = *from.at(routes.rows[slot], b);
        });
    }

    // Expert after expert, every thread its own blocks of each.
    void gate_and_up(int me, const Routes& routes) {
        const Matrix& gate = layer_.experts->gate; // all experts are laid out alike
        const int experts = static_cast<int>(routes.experts.size());
        const auto blocks = [&](int owner) { return experts * (gate.count(owner) / 2); };
        s_.products(me, blocks, [&](int owner, int begin, int end) {
            const int own = gate.count(owner) / 2, first = gate.begin(owner) / 2;
            for (int i = begin; i < end; i++)
                block(me, routes, routes.experts[i / own], first + i % own);
        });
    }

    void block(int me, const Routes& routes, const ExpertRows& of, int block) {
        const Expert& expert = layer_.experts[of.expert];
        const Activations& own = s_.scratch(me).input.view;
        const Activations& from = routes.shared ? work_.gathered.view : own;
        const int token = routes.shared ? of.first : routes.rows[of.first];
        s_.gated_block(expert.gate, expert.up, block, from, token, of.count, work_.middle.view,
                       of.first, [](const F& gate, const F& up) { return swiglu(gate, up); });
    }

    // A run of outputs for all experts: of no other thread's, so that sums keep their order.
    void down(int me, const Routes& routes) {
        const Matrix& all = layer_.experts->down;
        const auto runs = [&](int owner) { return (all.count(owner) + kRun - 1) / kRun; };
        s_.products(me, runs, [&](int owner, int begin, int end) {
            for (int run = begin; run < end; run++) {
                const int first = all.begin(owner) + run * kRun;
                const int last = std::min(first + kRun, all.begin(owner) + all.count(owner));
                for (const ExpertRows& of : routes.experts)
                    for (int g = first; g < last; g++) add(routes, of, g);
            }
        });
    }

    // An expert's group of outputs, weighed and added to the streams of its rows.
    void add(const Routes& routes, const ExpertRows& of, int group) {
        const Matrix& down = layer_.experts[of.expert].down;
        s_.multiply(
            down, group, work_.middle.view, of.count,
            [&](int slot, int g, const F& sum) {
                float* to = s_.stream(routes.rows[slot]) + g * kWide;
                fstore(to, ffma(fset(routes.weights[slot]), sum, fload(to)));
            },
            of.first);
    }

    Stages& s_;
    const Layer& layer_;
    MixtureWork& work_;
};

} // namespace lk
