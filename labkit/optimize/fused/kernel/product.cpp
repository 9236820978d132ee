// The product of any format, and rows of embeddings.
#include "product.h"

namespace lk {

// Each is compiled in one of product_*.cpp.
template <int kFormat>
int dot_tile(F* out, const uint8_t* w, const Activations& x, int token, int left);

namespace {

// A row's weights as floats, from the same fields and quads that products read.
template <int kFormat>
void row_of(float* out, const Matrix& m, int row) {
    constexpr Form kForm = form_of(kFormat);
    const uint8_t* at = m.at(row / kWide);
    const int lane = row % kWide, p = lane / kLanes, own = lane % kLanes;
    const auto pick = [&](const V& all) {
        float values[kLanes];
        vstore(values, all);
        return values[own];
    };
    for (int block = 0; block < m.columns / (kBlock * kForm.parts); block++) {
        const uint8_t* head = at;
        at += head_bytes(kFormat);
        for (int part = 0; part < kForm.parts; part++, at += part_bytes(kFormat))
            for (int quad = 0; quad < 8; quad++) {
                if constexpr (is_float(kFormat)) {
                    for (int c = 4 * quad; c < 4 * quad + 4; c++)
                        *out++ = pick(column_of<kFormat>(at, c, p));
                } else {
                    const Scale scale =
                        scale_of<kFormat>(head, at, part, quad / 4 % kForm.halves, p);
                    const VB n = quad_of<kFormat>(at + kWide * kForm.sub, quad, p);
                    uint8_t bytes[sizeof n];
                    __builtin_memcpy(bytes, &n, sizeof n);
                    const float d = pick(scale.scale), offset = pick(scale.offset);
                    for (int k = 0; k < 4; k++) {
                        const float whole = static_cast<float>(bytes[4 * own + k] - kForm.bias);
                        *out++ = kForm.offset ? __builtin_fmaf(d, whole, offset) : d * whole;
                    }
                }
            }
    }
}

} // namespace

int multiply_group(F* out, const Matrix& m, int group, const Activations& x, int token, int left) {
    const uint8_t* w = m.at(group);
    int done = left;
    switch (m.format) {
#define LK_CASE(format)                                                                            \
    case format: done = dot_tile<format>(out, w, x, token, left); break;
        LK_FORMATS(LK_CASE)
#undef LK_CASE
    }
    if (m.bias)
        for (int t = 0; t < done; t++) out[t] = fadd(out[t], fload(m.bias + group * kWide));
    return done;
}

void dequantize_row(float* out, const Matrix& m, int row) {
    switch (m.format) {
#define LK_CASE(format)                                                                            \
    case format: return row_of<format>(out, m, row);
        LK_FORMATS(LK_CASE)
#undef LK_CASE
    }
}

} // namespace lk
