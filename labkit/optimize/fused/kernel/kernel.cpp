// The C interface: all functions that Python calls. Everything that Python passes is checked before
// memory is touched.
#include "engine.h"

extern "C" {

const char* lk_isa() { return lk::kIsa; }

// The most rows of a span that is not causal.
int lk_slice_rows() { return lk::kSliceRows; }

// Bytes of each struct, so that Python can compare its own. Returns how many there are.
int lk_sizes(int32_t* sizes) {
    const int found[] = {sizeof(lk::Matrix), sizeof(lk::Expert), sizeof(lk::Layer),
                         sizeof(lk::Model),  sizeof(lk::Cache),  sizeof(lk::Span),
                         sizeof(lk::Rows),   sizeof(lk::Continuation)};
    std::copy(std::begin(found), std::end(found), sizes);
    return static_cast<int>(std::size(found));
}

// Null where the system does not start so many threads.
void* lk_new(int threads) {
    try {
        return new lk::Engine(threads);
    } catch (const std::exception&) {
        return nullptr;
    }
}

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
        return lk::run(*engine, *model, *cache, *rows, logits);
    } catch (const std::bad_alloc&) {
        return lk::kNoMemory;
    }
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
        return lk::run(*engine, *model, *cache, rows, nullptr);
    } catch (const std::bad_alloc&) {
        return lk::kNoMemory;
    }
}

// For tests. The next calls are done by the first thread alone, as on a busy machine.
void lk_leave_alone(void* engine, int calls) {
    static_cast<lk::Engine*>(engine)->pool.leave_alone(calls);
}

// For tests. A matrix's row as floats, (columns).
void lk_row(const lk::Matrix* matrix, int row, float* out) {
    lk::dequantize_row(out, *matrix, row);
}

// For tests. A matrix times tokens (tokens, columns) floats, which are rounded to int8 first, on
// one thread: out (tokens, the rows rounded up to sixteen).
void lk_product(const lk::Matrix* matrix, const float* x, int tokens, float* out) {
    lk::Quantized input;
    input.reserve(tokens, matrix->columns);
    for (int t = 0; t < tokens; t++)
        for (int b = 0; b < input.view.blocks; b++, x += lk::kBlock)
            lk::quantize_block(input.view, t, b, lk::fload(x), lk::fload(x + lk::kWide));
    const int64_t width = lk::whole(matrix->rows);
    for (int g = 0; g < matrix->groups(); g++) {
        lk::F made[lk::kMaxTile];
        for (int t = 0, done; t < tokens; t += done) {
            done = lk::multiply_group(made, *matrix, g, input.view, t, tokens - t);
            for (int i = 0; i < done; i++)
                lk::fstore(out + (t + i) * width + g * lk::kWide, made[i]);
        }
    }
}

} // extern "C"
