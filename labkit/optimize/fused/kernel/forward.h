// One pass of a ragged batch of rows through all layers, on all threads, in one call.
#pragma once
#include "attention_stage.h"
#include "experts.h"
#include "head_stage.h"

namespace lk {

class Pass {
public:
    // logits, screened: as HeadStage takes them.
    Pass(const Model& model, const Cache& cache, const Rows& rows, float* logits, bool screened,
         Workspace& work, Pool& pool)
        : s_(model, cache, rows, work, pool), head_(s_, logits, screened, exact_groups) {}

    // Slice by slice. A row sees rows of earlier slices in the cache, as it sees those of earlier
    // passes.
    void run() {
        for (int begin = 0, end; begin < s_.rows.rows; begin = end) {
            end = slice_end(s_.rows, begin);
            s_.plan.make(s_.model, s_.rows, begin, end);
            s_.work.reserve(s_.model, s_.rows, s_.pool.threads());
            s_.pool.run([](void* self, int me) { static_cast<Pass*>(self)->work(me); }, this);
        }
    }

    int64_t exact_groups = 0; // of the head, computed in screening

private:
    int count() const { return s_.count(); }

    void work(int me) {
        read(me);
        for (int l = 0; l < s_.model.layers; l++) layer(l, me);
        if (s_.rows.streams)
            s_.each(me, count(), true, [&](int r) {
                const int64_t row = s_.plan.begin + r;
                std::copy_n(s_.stream(r), s_.model.hidden, s_.rows.streams + row * s_.model.hidden);
            });
        head_.run(me);
    }

    // The rows' embeddings; in a draft head what tokens and features make together.
    void read(int me) {
        if (!s_.rows.features)
            return s_.each(me, count(), true, [&](int r) { embed(s_.stream(r), r); });
        s_.each(me, count(), true, [&](int r) { join(r); });
        s_.product(me, s_.model.fuse, s_.work.joined.view, count(),
                   [&](int r, int g, const F& sum) { fstore(s_.stream(r) + g * kWide, sum); });
    }

    void embed(float* to, int r) const {
        const SliceRow& row = s_.plan.rows[r];
        if (row.embedding) std::copy_n(row.embedding, s_.model.hidden, to);
        else {
            dequantize_row(to, s_.model.embedding, static_cast<int>(row.token));
            if (const float by = s_.model.embedding_multiplier; by != 1.0f)
                for (int d = 0; d < s_.model.hidden; d++) to[d] *= by;
        }
    }

    // Token and feature of a row, each under its norm, side by side and quantized.
    void join(int r) {
        const Model& model = s_.model;
        const int hidden = model.hidden;
        const int64_t row = s_.plan.begin + r;
        float* both = s_.work.joined_floats.data() + static_cast<int64_t>(r) * 2 * hidden;
        embed(both, r);
        std::copy_n(s_.rows.features + row * hidden, hidden, both + hidden);
        rms_norm(both, model.token_norm, hidden, model.eps);
        rms_norm(both + hidden, model.feature_norm, hidden, model.eps);
        const Activations& joined = s_.work.joined.view;
        for (int b = 0; b < joined.blocks; b++, both += kBlock)
            quantize_block(joined, r, b, fload(both), fload(both + kWide));
    }

    void layer(int number, int me) {
        const Layer& layer = s_.model.layer[number];
        // In the last layer, a slice without wanted rows or streams only writes keys and values.
        const bool asked = number + 1 < s_.model.layers || s_.plan.asked;
        const auto stream = [&](int r) { return s_.stream(r); };
        Scratch& scratch = s_.scratch(me);
        s_.normalize(me, scratch.input.view, count(), layer.attention_norm, stream);
        project(me, layer, asked);
        if (!s_.skips(kSkipAttention)) {
            if (s_.cache.type == kHalf) AttentionStage<uint16_t>(s_, layer, number).run(me, asked);
            else AttentionStage<float>(s_, layer, number).run(me, asked);
        }
        if (!asked) return;
        add(me, layer.output, scratch.attended.view, layer.attention_post_norm);
        s_.normalize(me, scratch.input.view, count(), layer.feed_forward_norm, stream);
        if (layer.experts) return MixtureStage(s_, layer).run(me);
        if (s_.model.activation == kGeluTanh)
            feed_forward(me, layer, [](const F& gate, const F& up) { return geglu(gate, up); });
        else feed_forward(me, layer, [](const F& gate, const F& up) { return swiglu(gate, up); });
        add(me, layer.down, s_.work.middle.view, layer.feed_forward_post_norm);
    }

    // Queries, keys and values, side by side in `projected`. Unless `asked`, no queries.
    void project(int me, const Layer& layer, bool asked) {
        const auto side_by_side = [&](const Matrix& m, int g) {
            const int keys = s_.queries, values = s_.queries + s_.kv;
            const int first = &m == &layer.query ? 0 : &m == &layer.key ? keys : values;
            s_.multiply(m, g, s_.scratch(me).input.view, count(), [&](int r, int, const F& sum) {
                fstore(s_.projected(r) + first + g * kWide, sum);
            });
        };
        if (asked) s_.each_group(me, {&layer.query, &layer.key, &layer.value}, side_by_side);
        else s_.each_group(me, {&layer.key, &layer.value}, side_by_side);
    }

    // A product, under its norm where it has one and times the multiplier, added to the stream.
    void add(int me, const Matrix& m, const Activations& from, const float* post_norm) {
        if (post_norm) {
            s_.product(me, m, from, count(), [&](int r, int g, const F& sum) {
                fstore(s_.branch(r) + g * kWide, sum);
            });
            return s_.add_normed(me, post_norm);
        }
        if (s_.model.residual_multiplier != 1.0f) {
            const F by = fset(s_.model.residual_multiplier);
            return s_.product(me, m, from, count(), [&](int r, int g, const F& sum) {
                float* to = s_.stream(r) + g * kWide;
                fstore(to, ffma(sum, by, fload(to)));
            });
        }
        s_.product(me, m, from, count(), [&](int r, int g, const F& sum) {
            float* to = s_.stream(r) + g * kWide;
            fstore(to, fadd(fload(to), sum));
        });
    }

    // gated(gate, up): their product, once the gate has been through its activation.
    template <class Gated>
    void feed_forward(int me, const Layer& layer, Gated gated) {
        const auto blocks = [&](int owner) { return layer.gate.count(owner) / 2; };
        s_.products(me, blocks, [&](int owner, int begin, int end) {
            const int first = layer.gate.begin(owner) / 2;
            for (int i = begin; i < end; i++)
                s_.gated_block(layer.gate, layer.up, first + i, s_.scratch(me).input.view, 0,
                               count(), s_.work.middle.view, 0, gated);
        });
    }

    Stages s_;
    HeadStage head_;
};

} // namespace lk
