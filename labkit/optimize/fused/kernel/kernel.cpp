// The C interface: everything Python calls. All of it is checked here before memory is touched.
#include <mutex>
#include <numeric>

#include "forward.h"

namespace {

struct Engine {
    explicit Engine(int threads) : pool(threads) {}
    lk::Pool pool;
    std::mutex busy;           // passes of one engine take turns
    std::vector<float> logits; // where the caller wants none
    int64_t exact_groups = 0;  // of sixteen logits, computed after screening
};

bool inside(const int64_t* values, int count, int64_t below) {
    return std::all_of(values, values + count, [=](int64_t v) { return v >= 0 && v < below; });
}

// A row of a tree: its path leads through rows of its span before it, one a position, to itself.
bool path_fits(const int32_t* path, int64_t row, int64_t depth, int32_t width) {
    if (depth < 0 || depth >= width || path[depth] != row) return false;
    for (int64_t d = 0; d < depth; d++)
        if (path[d] < 0 || path[d] >= path[d + 1]) return false;
    return true;
}

// Spans must cover the rows one after another, at the positions they say.
bool spans_fit(const lk::Rows& rows, const lk::Cache& cache) {
    int64_t next = 0;
    for (int s = 0; s < rows.span_count; s++) {
        const int64_t *span = rows.spans + 4 * s, slot = span[0], start = span[1], count = span[2];
        if (slot < 0 || slot >= cache.slots || start < 0 || count < 1 || span[3] != next) return false;
        if (count > rows.rows - next || start > cache.capacity - count) return false;
        for (int64_t r = 0; r < count; r++) {
            const int64_t depth = rows.positions[next + r] - start;
            const int32_t* path = rows.path(next + r);
            if (path ? !path_fits(path, r, depth, rows.path_width) : depth != r) return false;
        }
        next += count;
    }
    return next == rows.rows;
}

// Of each row of a tree its depth, and its path (count, count), -1 beyond it. Whether it is a tree.
bool lead_through(const int64_t* parents, int count, std::vector<int64_t>& depths,
                  std::vector<int32_t>& paths) {
    depths.assign(count, 0);
    paths.assign(static_cast<size_t>(count) * count, -1);
    for (int64_t r = 0; r < count; r++) {
        const int64_t parent = parents[r];
        if (r == 0 ? parent != -1 : parent < 0 || parent >= r) return false;
        if (r) depths[r] = depths[parent] + 1;
        if (r) std::copy_n(&paths[parent * count], depths[r], &paths[r * count]);
        paths[r * count + depths[r]] = static_cast<int32_t>(r);
    }
    return true;
}

} // namespace

extern "C" {

const char* lk_isa() { return lk::kIsa; }

int lk_sizes(int32_t* sizes) { // of the structs, so that Python can compare its own
    const int found[] = {sizeof(lk::Matrix), sizeof(lk::Layer), sizeof(lk::Model),
                         sizeof(lk::Cache), sizeof(lk::Rows)};
    std::copy(std::begin(found), std::end(found), sizes);
    return static_cast<int>(std::size(found));
}

void* lk_new(int threads) { return new Engine(threads); }

void lk_free(void* engine) { delete static_cast<Engine*>(engine); }

// logits: (wanted_rows, the head's rows rounded up to sixteen), or null where only the likeliest
// tokens are asked for. 0: done. 1: a token outside the vocabulary; 2: rows that do not fit the
// cache; 3: wanted rows that are none, or more likely tokens than there are; 4: out of memory; 5:
// features where the model reads none, or none where it does.
int lk_forward(void* handle, const lk::Model* model, const lk::Cache* cache, const lk::Rows* rows,
               float* logits) {
    if (!inside(rows->tokens, rows->rows, model->vocab)) return 1;
    if (!spans_fit(*rows, *cache)) return 2;
    if (!inside(rows->wanted, rows->wanted_rows, rows->rows)) return 3;
    if (rows->chances && (rows->likely < 1 || rows->likely > model->head.rows)) return 3;
    if ((rows->features != nullptr) != (model->fuse.starts != nullptr)) return 5;
    auto* engine = static_cast<Engine*>(handle);
    const std::lock_guard<std::mutex> turn(engine->busy);
    try {
        const int64_t width = lk::whole(model->head.rows);
        // Of one row, or few drafted ones: with more, arithmetic is dearer than bytes.
        const bool few = rows->wanted_rows == 1 || (rows->drafted && rows->rows <= lk::kScreenRows);
        const bool screened = model->screen.starts && few && !logits && !rows->chances;
        if (!logits) {
            engine->logits.resize(rows->wanted_rows * width);
            logits = engine->logits.data();
        }
        lk::Pass pass(*model, *cache, *rows, logits, screened, engine->pool);
        pass.run();
        engine->exact_groups += pass.exact_groups;
        if (screened || !rows->best) return 0;
        for (int i = 0; i < rows->wanted_rows; i++) {
            const float* of = logits + i * width;
            const int64_t to = static_cast<int64_t>(i) * rows->likely;
            if (rows->chances)
                lk::likely(of, model->head.rows, rows->likely, rows->best + to, rows->chances + to);
            else
                rows->best[i] = lk::likeliest(of, model->head.rows);
        }
    } catch (const std::bad_alloc&) {
        return 4;
    }
    return 0;
}

// Groups of sixteen logits that screening left to be computed from the head, since the start.
int64_t lk_exact_groups(void* handle) { return static_cast<Engine*>(handle)->exact_groups; }

// A pass of `count` tokens at the end of a slot: all that greedy decoding, verifying and drafting ask
// for, with little made for the caller. A chain, or with `parents` (of each row the one it follows,
// -1 of the first) a tree. The last `wanted` rows are asked for their likeliest tokens, best
// (wanted, likely); the rest as in lk_forward, with its codes and 6: parents that make no tree.
// drafted: all tokens but the first are guesses, and of rows after a wrong one nothing may be told:
// -1.
int lk_go_on(void* handle, const lk::Model* model, const lk::Cache* cache, const int64_t* tokens,
             const int64_t* parents, int count, int64_t position, int64_t slot, int skip, int wanted,
             int drafted, const float* features, float* stream, int64_t* best, float* chances,
             int likely) {
    const int64_t span[] = {slot, position, count, 0};
    lk::Rows rows{};
    try {
        std::vector<int64_t> places(count), last(wanted);
        std::vector<int32_t> paths;
        std::iota(places.begin(), places.end(), 0);
        std::iota(last.begin(), last.end(), count - wanted);
        if (parents) {
            if (!lead_through(parents, count, places, paths)) return 6;
            rows.paths = paths.data(), rows.path_width = count;
        }
        for (int64_t& place : places) place += position;
        rows.tokens = tokens, rows.positions = places.data(), rows.wanted = last.data();
        rows.spans = span, rows.features = features, rows.stream = stream;
        rows.best = best, rows.chances = chances, rows.likely = likely;
        rows.rows = count, rows.wanted_rows = wanted, rows.span_count = 1, rows.skip = skip;
        rows.parents = parents, rows.drafted = drafted && best && wanted == count;
        if (rows.drafted) std::fill_n(best, count, -1);
        return lk_forward(handle, model, cache, &rows, nullptr);
    } catch (const std::bad_alloc&) {
        return 4;
    }
}

} // extern "C"
