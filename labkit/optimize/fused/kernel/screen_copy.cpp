// The copy of a head that the screen reads: Q8_0 blocks rounded to Q5_0 (screen.py).
#include <cmath>

#include "maths.h"

namespace lk {

namespace {

constexpr int kColumns = 32, kFrom = 34, kTo = 22; // columns of a block; bytes of either format

float as_float(const uint8_t* at) {
    uint16_t half[kLanes] = {};
    __builtin_memcpy(half, at, 2);
    float out[kLanes];
    vstore(out, vload_half(half));
    return out[0];
}
uint16_t as_half(float x) {
    uint16_t out[kLanes];
    vstore_half(out, vset(x));
    return out[0];
}

// Squares summed over a row: of what the copy is off, of the row, of the copy.
struct Squares {
    double off = 0, exact = 0, copy = 0;
};

// One block, rounded to nearest as ggml does it: the value furthest from 0 becomes -16 steps.
void copy_block(const uint8_t* from, uint8_t* to, Squares& sums) {
    const float scale = as_float(from);
    float x[kColumns];
    for (int c = 0; c < kColumns; c++)
        x[c] = scale * static_cast<float>(static_cast<int8_t>(from[2 + c]));
    float furthest = x[0];
    for (float one : x) furthest = std::fabs(one) > std::fabs(furthest) ? one : furthest;
    const float step = furthest / -16.0f, inverse = step == 0.0f ? 0.0f : 1.0f / step;
    const uint16_t half = as_half(step);
    __builtin_memcpy(to, &half, 2);
    const float kept = as_float(to);
    uint32_t fifths = 0;
    for (int c = 0; c < kColumns; c++) {
        const int n = std::min(31, std::max(0, static_cast<int>(x[c] * inverse + 16.5f)));
        const float copy = kept * static_cast<float>(n - 16);
        fifths |= static_cast<uint32_t>(n >> 4) << c;
        uint8_t& byte = to[6 + c % 16];
        byte = static_cast<uint8_t>(c < 16 ? n & 15 : byte | (n & 15) << 4);
        const double off = static_cast<double>(x[c] - copy);
        sums.off += off * off;
        sums.exact += static_cast<double>(x[c]) * x[c];
        sums.copy += static_cast<double>(copy) * copy;
    }
    __builtin_memcpy(to + 2, &fifths, 4);
}

} // namespace

} // namespace lk

// `count` rows of `blocks` Q8_0 blocks each -> as many Q5_0 blocks, and for each row three lengths:
// of what the copy is off, of the row, of the copy.
extern "C" void lk_screen(const uint8_t* rows, int64_t count, int64_t blocks, uint8_t* out,
                          double* lengths) {
    for (int64_t r = 0; r < count; r++, lengths += 3) {
        lk::Squares sums;
        for (int64_t b = 0; b < blocks; b++, rows += lk::kFrom, out += lk::kTo)
            lk::copy_block(rows, out, sums);
        lengths[0] = std::sqrt(sums.off);
        lengths[1] = std::sqrt(sums.exact);
        lengths[2] = std::sqrt(sums.copy);
    }
}
