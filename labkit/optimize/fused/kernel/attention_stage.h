// Attention of a layer: rotate queries and keys, write keys and values to the cache, attend piece
// by piece, merge the pieces. T: the type of the cache's numbers.
#pragma once
#include <numeric>

#include "stages.h"

namespace lk {

template <class T>
class AttentionStage {
public:
    AttentionStage(Stages& stages, const Layer& layer, int number)
        : s_(stages), model_(stages.model), plan_(stages.plan),
          view_(stages.plan.views[layer.view]), layer_(layer), number_(number) {}

    // From `projected` to the scratch's `attended`. Unless `asked`, it only writes keys and values
    // to the cache.
    void run(int me, bool asked) {
        if (plan_.replicated) rotate_all(me);
        else rotate_and_write(me, asked);
        if (!asked) return;
        s_.each(me, static_cast<int64_t>(view_.tasks.size()), true, [&](int i) { task(me, i); });
        const Activations out = s_.scratch(me).attended.view;
        s_.each_unit(me, out.blocks / unit_blocks(), s_.count(), true,
                     [&](int r, int unit) { gather(me, out, r, unit); });
    }

private:
    KeysValues<T> at(int slot, int kv_head) const {
        const Cache& cache = s_.cache;
        const bool paged = cache.table != nullptr; // then all slots share the blocks of a head
        const int64_t entries = paged ? int64_t{cache.blocks} * kWide : cache.capacity;
        const int64_t before = paged ? number_ : int64_t{number_} * cache.slots + slot;
        const int64_t first = (before * model_.kv_heads + kv_head) * entries * model_.head_dim;
        return {static_cast<T*>(cache.keys) + first, static_cast<T*>(cache.values) + first,
                cache.table_of(slot), model_.head_dim};
    }

    // Every thread rotates all rows in its own scratch. `task` writes keys and values later.
    void rotate_all(int me) {
        for (int r = 0; r < s_.count(); r++) {
            float* row = s_.rotated(me, r);
            std::copy_n(s_.projected(r), s_.all, row);
            float scales[2] = {};
            if (layer_.query_norm && model_.whole_norms) whole_scales(row, true, scales);
            for (int h = 0; h < model_.heads + model_.kv_heads; h++)
                rotate(row, h, plan_.rows[r].position, scales);
        }
    }

    // Head by head, in place. Unless `asked`, only the heads of the keys.
    void rotate_and_write(int me, bool asked) {
        const int without = asked ? 0 : model_.heads;
        const int heads = model_.heads + model_.kv_heads - without;
        float* scales = s_.work.norm_scales.data(); // taken before any head changes
        if (layer_.query_norm && model_.whole_norms)
            s_.each(me, s_.count(), true,
                    [&](int r) { whole_scales(s_.projected(r), asked, scales + 2 * r); });
        s_.each(me, static_cast<int64_t>(s_.count()) * heads, true, [&](int i) {
            const int r = i / heads, h = without + i % heads;
            rotate(s_.projected(r), h, plan_.rows[r].position, scales + 2 * r);
            if (const int head = h - model_.heads; head >= 0)
                write(at(plan_.rows[r].slot, head), me, r, head);
        });
    }

    // 1 / rms of a row's queries and of its keys, each over all heads.
    void whole_scales(const float* row, bool asked, float* scales) const {
        if (asked) scales[0] = rms_scale(row, s_.queries, model_.eps);
        scales[1] = rms_scale(row + s_.queries, s_.kv, model_.eps);
    }

    // Norm, rotation (Su et al., 2104.09864) and, for a query, scale of a row's head, in place.
    // Keys come after queries. scales: of whole norms, for the queries and the keys.
    void rotate(float* row, int number, int position, const float* scales) {
        const bool query = number < model_.heads;
        const float* weight = query ? layer_.query_norm : layer_.key_norm;
        const float scale = query ? model_.score_scale : 1.0f;
        const int dim = model_.head_dim;
        float* head = row + number * dim;
        if (weight && model_.whole_norms)
            scale_by(head, scales[!query], weight + (query ? number : number - model_.heads) * dim,
                     dim);
        else if (weight) rms_norm(head, weight, dim, model_.eps);
        int unturned = 0; // the first number that does not turn
        if (layer_.rope >= 0) {
            turn(head, position, scale);
            unturned = model_.turned;
        }
        for (int d = unturned; d < dim; d++) head[d] *= scale;
    }

    void turn(float* head, int position, float scale) {
        const int half = model_.turned / 2;
        const int64_t at = static_cast<int64_t>(layer_.rope) * s_.cache.capacity + position;
        const float* cosine = s_.cache.cosines + at * half;
        const float* sine = s_.cache.sines + at * half;
        for (int d = 0; d < half; d++) {
            const float low = head[d], high = head[d + half];
            head[d] = (low * cosine[d] - high * sine[d]) * scale;
            head[d + half] = (high * cosine[d] + low * sine[d]) * scale;
        }
    }

    // Key and value of a row into the cache: keys with sixteen positions side by side. One that is
    // not finite would stay there, and spoil rows that do not even see it (0 times it is NaN). So 0
    // is kept in its place, and the pass is refused. So is one that T does not hold.
    void write(const KeysValues<T>& kv, int me, int r, int kv_head) {
        const float* key = s_.rotated(me, r) + s_.queries + kv_head * model_.head_dim;
        const float* value = key + s_.kv;
        const int entry = plan_.rows[r].entry, lane = entry % kWide;
        T* column = kv.key_block(entry - lane) + lane;
        T* row = kv.value(entry);
        F sizes = fset(0.0f);
        for (int d = 0; d < model_.head_dim; d += kWide) {
            alignas(64) T converted[kWide];
            sizes = flarger(sizes, flarger(fabs(fload(key + d)), fabs(fload(value + d))));
            fstore(converted, fload(key + d));
            for (int i = 0; i < kWide; i++) column[(d + i) * kWide] = converted[i];
            fstore(row + d, fload(value + d));
        }
        const float largest = largest16(sizes);
        if (largest <= (std::is_same_v<T, float> ? kFinite : kFiniteHalf)) return;
        for (int d = 0; d < model_.head_dim; d++) column[d * kWide] = row[d] = 0;
        (largest <= kFinite ? s_.work.beyond_half : s_.work.damaged) = true;
    }

    void task(int me, int number) {
        const Task& task = view_.tasks[number];
        const Piece& first = view_.pieces[task.first];
        KeysValues<T> kv = at(first.slot, first.kv_head);
        for (int r = task.row; plan_.replicated && r < task.row + task.rows; r++)
            if (plan_.rows[r].entry / kChunk == first.chunk) write(kv, me, r, first.kv_head);
        if (number + 1 < static_cast<int>(view_.tasks.size())) {
            const Piece& next = view_.pieces[view_.tasks[number + 1].first];
            kv.next_keys = at(next.slot, next.kv_head).key_block(next.chunk * kChunk);
        }
        for (int p = task.first; p < task.end; p++) {
            const Piece& piece = view_.pieces[p];
            kv.path = plan_.rows[piece.vector / s_.group].path;
            kv.fresh = piece.fresh;
            attend_piece(me, piece, kv);
        }
    }

    int64_t partial_at(int row, int head, int chunk) const {
        return (static_cast<int64_t>(chunk) * s_.count() + row) * model_.heads + head;
    }

    void attend_piece(int me, const Piece& piece, const KeysValues<T>& kv) {
        const float* queries[kVectors];
        float* out[kVectors];
        Range ranges[kVectors];
        Partial found[kVectors];
        int64_t to[kVectors];
        for (int v = 0; v < piece.count; v++) {
            const int r = (piece.vector + v) / s_.group;
            const int head = piece.kv_head * s_.group + (piece.vector + v) % s_.group;
            queries[v] = s_.rotated(me, r) + head * model_.head_dim;
            ranges[v] = view_.sees[r];
            to[v] = partial_at(r, head, piece.chunk);
            out[v] = s_.work.partial_values.data() + to[v] * model_.head_dim;
        }
        attend_any<T>(piece.count, found, out, kv, queries, ranges, piece.chunk * kChunk,
                      piece.end);
        for (int v = 0; v < piece.count; v++) s_.work.partials[to[v]] = found[v];
    }

    // For a row's heads that fill a unit of blocks: merge their chunks, overwriting the queries,
    // and quantize the result for the output product.
    void gather(int me, const Activations& out, int r, int unit) {
        const Range sees = view_.sees[r];
        const int first = sees.first / kChunk, chunks = sees.last / kChunk - first + 1;
        const int64_t stride = static_cast<int64_t>(s_.count()) * model_.heads;
        const int width = unit_blocks() * kBlock, dim = model_.head_dim;
        float* row = s_.rotated(me, r);
        for (int head = unit * width / dim; head < (unit + 1) * width / dim; head++) {
            const int64_t from = partial_at(r, head, first);
            merge(row + head * dim, &s_.work.partials[from], &s_.work.partial_values[from * dim],
                  chunks, stride, dim);
        }
        for (int i = unit * width; i < (unit + 1) * width; i += kBlock)
            quantize_block(out, r, i / kBlock, fload(row + i), fload(row + i + kWide));
    }

    // Blocks that whole heads fill: two where a head is half a block.
    int unit_blocks() const { return std::lcm(model_.head_dim, kBlock) / kBlock; }

    Stages& s_;
    const Model& model_;
    Plan& plan_;
    const View& view_;
    const Layer& layer_;
    const int number_; // of the layer
};

} // namespace lk
