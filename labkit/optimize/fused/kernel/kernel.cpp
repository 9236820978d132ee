// The C interface: all functions that Python calls. Everything that Python passes is checked before
// memory is touched.
#include "engine.h"

extern "C" {

const char* lk_isa() { return lk::kIsa; }

// The most rows of a span that is not causal.
int lk_slice_rows() { return lk::kSliceRows; }

// Bytes of each struct, so that Python can compare its own. Returns how many there are.
int lk_sizes(int32_t* sizes) {
    const int found[] = {sizeof(lk::Matrix),      sizeof(lk::Layer), sizeof(lk::Model),
                         sizeof(lk::Cache),       sizeof(lk::Span),  sizeof(lk::Rows),
                         sizeof(lk::Continuation)};
    std::copy(std::begin(found), std::end(found), sizes);
    return static_cast<int>(std::size(found));
}

void* lk_new(int threads) { return new lk::Engine(threads); }

void lk_free(void* engine) { delete static_cast<lk::Engine*>(engine); }

// Groups of sixteen logits that screening had to compute with the head, since the start.
int64_t lk_exact_groups(void* engine) { return static_cast<lk::Engine*>(engine)->exact_groups; }

// A pass. logits: (wanted_rows, the head's rows rounded up to sixteen), or null where only the
// likeliest tokens are wanted. Returns a Status.
int lk_forward(void* handle, const lk::Model* model, const lk::Cache* cache, const lk::Rows* rows,
               float* logits) {
    if (const lk::Status status = lk::check(*rows, *model, *cache)) return status;
    auto* engine = static_cast<lk::Engine*>(handle);
    const std::lock_guard<std::mutex> lock(engine->busy);
    try {
        lk::run(*engine, *model, *cache, *rows, logits);
    } catch (const std::bad_alloc&) {
        return lk::kNoMemory;
    }
    return lk::kDone;
}

// A pass over the next tokens of one slot. Returns a Status.
int lk_continue(void* handle, const lk::Model* model, const lk::Cache* cache,
                const lk::Continuation* next) {
    auto* engine = static_cast<lk::Engine*>(handle);
    const std::lock_guard<std::mutex> lock(engine->busy);
    try {
        lk::Span span;
        lk::Rows rows{};
        const lk::Status status = lk::rows_of(*next, *model, *cache, engine->work, span, rows);
        if (status) return status;
        if (rows.guesses) std::fill_n(next->best, next->count, -1);
        lk::run(*engine, *model, *cache, rows, nullptr);
    } catch (const std::bad_alloc&) {
        return lk::kNoMemory;
    }
    return lk::kDone;
}

} // extern "C"
