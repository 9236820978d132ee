// Quantized weights times int8 activations.
//
// Sixteen output rows are interleaved (pack.py): a lane is a row, so nothing is summed across
// lanes. Integer sums within a block of 32 columns are exact, and a token's blocks are added in
// one order whatever the tile of tokens, so a token's result does not depend on its neighbours.
#pragma once
#include "maths.h"
#include "model.h"

namespace lk {

constexpr int kBlock = 32; // columns that share a scale

// Tokens as int8 in blocks of 32: value = q * scale; sum: of a block's q; total: sum * scale.
struct Activations {
    int8_t* q;
    float *scale, *total;
    int32_t* sum;
    int columns, blocks;
};

inline void quantize_block(const Activations& a, int token, int block, const F& low,
                           const F& high) {
    const float largest = max16(fmax(fabs(low), fabs(high)));
    const float scale = largest / 127.0f;
    const F inverse = fset(largest > 0.0f ? 127.0f / largest : 0.0f);
    int8_t* q = a.q + static_cast<int64_t>(token) * a.columns + block * kBlock;
    F total = fset(0.0f); // of small integers: exact in any order
    for (int i = 0; i < kParts; i++) {
        const VI first = vnearest(vmul(low.part[i], inverse.part[i]));
        const VI second = vnearest(vmul(high.part[i], inverse.part[i]));
        vstore_int8(q + i * kLanes, first);
        vstore_int8(q + kWide + i * kLanes, second);
        total.part[i] = vadd(vfloat(first), vfloat(second));
    }
    const float sum = sum16(total);
    const int64_t at = static_cast<int64_t>(token) * a.blocks + block;
    a.scale[at] = scale;
    a.sum[at] = static_cast<int32_t>(sum);
    a.total[at] = sum * scale;
}

constexpr int block_bytes(int format) { // of sixteen rows
    return kWide * (format == kQ4_1 ? 20 : format == kQ4_0 ? 18 : 34);
}
constexpr int scale_bytes(int format) { return kWide * (format == kQ4_1 ? 4 : 2); }

// The bytes of one part of a block: quads of columns 0..7, low nibbles before high ones.
template <int kFormat>
inline void unpack(VB* w, const uint8_t* block, int part) {
    const uint8_t* at = block + scale_bytes(kFormat) + 4 * kLanes * part;
    if constexpr (kFormat == kQ8_0) {
        for (int j = 0; j < 8; j++) w[j] = vbytes(at + 4 * kWide * j);
    } else {
        for (int j = 0; j < 4; j++) {
            const VB both = vbytes(at + 4 * kWide * j);
            w[j] = vlow(both);
            w[j + 4] = vhigh(both);
        }
    }
}

// A weight is d * n + m; Q4_0's is d * (n - 8), and Q8_0's has no m.
template <int kFormat>
inline V offset(const uint8_t* block, int part, const V& d) {
    if constexpr (kFormat == kQ4_1)
        return vload_half(reinterpret_cast<const uint16_t*>(block) + kWide + part * kLanes);
    else
        return vmul(d, vset(-8.0f));
}

constexpr int kAhead = 1600; // bytes read ahead of the product, into the second cache

// sum[t][p] = rows of part kFirst + p times token `token + t`.
template <int kFormat, int kTokens, int kFirst, int kCount, bool kPrefetch>
inline void dot_parts(V (&sum)[kTokens][kParts], const uint8_t* w, const Activations& x,
                      int token) {
    const int8_t* q = x.q + static_cast<int64_t>(token) * x.columns;
    const int64_t first = static_cast<int64_t>(token) * x.blocks;
    for (int t = 0; t < kTokens; t++)
        for (int p = kFirst; p < kFirst + kCount; p++) sum[t][p] = vset(0.0f);
    for (int b = 0; b < x.blocks; b++, w += block_bytes(kFormat), q += kBlock) {
        if constexpr (kPrefetch)
            for (int line = 0; line < block_bytes(kFormat); line += 64)
                __builtin_prefetch(w + kAhead + line, 0, 2);
#pragma GCC unroll 4
        for (int p = kFirst; p < kFirst + kCount; p++) {
            VB bytes[8];
            unpack<kFormat>(bytes, w, p);
            const V d = vload_half(reinterpret_cast<const uint16_t*>(w) + p * kLanes);
#pragma GCC unroll 16
            for (int t = 0; t < kTokens; t++) {
                const int8_t* at = q + static_cast<int64_t>(t) * x.columns;
                const int64_t block = first + static_cast<int64_t>(t) * x.blocks + b;
                VI whole;
                if constexpr (kFormat == kQ8_0) whole = vdot8(bytes, at, x.sum[block]);
                else whole = vdot4(bytes, at);
                const V scaled = vmul(vfloat(whole), vset(x.scale[block]));
                sum[t][p] = vfma(scaled, d, sum[t][p]);
                if constexpr (kFormat != kQ8_0)
                    sum[t][p] = vfma(vset(x.total[block]), offset<kFormat>(w, p, d), sum[t][p]);
            }
        }
    }
}

// Part by part where all parts' sums would not fit the registers.
template <int kFormat, int kTokens, int kPart>
inline void dot_each(V (&sum)[kTokens][kParts], const uint8_t* w, const Activations& x, int token) {
    if constexpr (kPart < kParts) {
        dot_parts<kFormat, kTokens, kPart, 1, kPart == 0>(sum, w, x, token);
        dot_each<kFormat, kTokens, kPart + 1>(sum, w, x, token);
    }
}

template <int kFormat, int kTokens>
inline void dot(F* out, const uint8_t* w, const Activations& x, int token) {
    V sum[kTokens][kParts];
    if constexpr (kTokens == 1) dot_parts<kFormat, 1, 0, kParts, true>(sum, w, x, token);
    else dot_each<kFormat, kTokens, 0>(sum, w, x, token);
    for (int t = 0; t < kTokens; t++)
        for (int p = 0; p < kParts; p++) out[t].part[p] = sum[t][p];
}

// As many of `left` tokens as a tile takes; returns how many.
template <int kFormat>
inline int dot_tile(F* out, const uint8_t* w, const Activations& x, int token, int left) {
    if (left >= kMaxTile) return dot<kFormat, kMaxTile>(out, w, x, token), kMaxTile;
    if (left >= 4) return dot<kFormat, 4>(out, w, x, token), 4;
    if (left == 3) return dot<kFormat, 3>(out, w, x, token), 3;
    if (left == 2) return dot<kFormat, 2>(out, w, x, token), 2;
    return dot<kFormat, 1>(out, w, x, token), 1;
}

__attribute__((noinline)) inline int dot_any(F* out, const Matrix& m, int group, const Activations& x, int token, int left) {
    const uint8_t* w = m.data + group * m.stride;
    int done;
    switch (m.format) {
        case kQ4_1: done = dot_tile<kQ4_1>(out, w, x, token, left); break;
        case kQ4_0: done = dot_tile<kQ4_0>(out, w, x, token, left); break;
        default: done = dot_tile<kQ8_0>(out, w, x, token, left);
    }
    if (m.bias)
        for (int t = 0; t < done; t++) out[t] = fadd(out[t], fload(m.bias + group * kWide));
    return done;
}

// One row of a matrix as floats: an embedding.
inline void dequantize_row(float* out, const Matrix& m, int row) {
    const uint8_t* block = m.data + row / kWide * m.stride;
    const int lane = row % kWide;
    for (int b = 0; b < m.columns / kBlock; b++, block += block_bytes(m.format), out += kBlock) {
        float halves[2 * kWide];
        fstore(halves, fload(reinterpret_cast<const uint16_t*>(block)));
        fstore(halves + kWide, fload(reinterpret_cast<const uint16_t*>(block) + kWide));
        const float d = halves[lane];
        const uint8_t* at = block + scale_bytes(m.format) + 4 * lane;
        for (int c = 0; c < kBlock; c++) {
            const uint8_t byte = at[(m.format == kQ8_0 ? c / 4 : c / 4 % 4) * 4 * kWide + c % 4];
            const int nibble = c < kBlock / 2 ? byte & 15 : byte >> 4;
            if (m.format == kQ8_0) out[c] = d * static_cast<float>(byte - 128);
            else if (m.format == kQ4_0) out[c] = d * static_cast<float>(nibble - 8);
            else out[c] = d * static_cast<float>(nibble) + halves[kWide + lane];
        }
    }
}

} // namespace lk
