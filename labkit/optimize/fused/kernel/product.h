// Quantized weights times int8 activations.
//
// Sixteen output rows are interleaved (pack.py): a lane is a row, so nothing is summed across
// lanes. Integer sums within a block of 32 columns are exact, and a token's blocks are added in one
// order whatever the tile of tokens. So a token's result does not depend on its neighbours.
#pragma once
#include "maths.h"
#include "model.h"

namespace lk {

constexpr int kBlock = 32; // columns that share a scale

constexpr int kTokenGroup = 4; // tokens whose blocks lie side by side

// 32 columns of a token: a value is q * scale; sum: of all q; total: sum * scale.
struct TokenBlock {
    int8_t q[kBlock];
    float scale, total;
    int32_t sum, unused;
};

// Tokens as blocks, four tokens side by side. So the data of several tokens that a product reads
// lie at fixed distances from one address, and addressing takes no more registers.
struct Activations {
    TokenBlock* data;
    int blocks; // of a token

    TokenBlock* at(int token, int block) const {
        const int64_t group = static_cast<int64_t>(token / kTokenGroup) * blocks;
        return data + (group + block) * kTokenGroup + token % kTokenGroup;
    }
};
// Blocks between the first token of a tile and its `token`-th.
constexpr int64_t distance(int token, int blocks) {
    return static_cast<int64_t>(token / kTokenGroup) * blocks * kTokenGroup + token % kTokenGroup;
}

inline void quantize_block(const Activations& a, int token, int block, const F& low,
                           const F& high) {
    const float largest = max16(fmax(fabs(low), fabs(high)));
    const float scale = largest / 127.0f;
    const F inverse = fset(largest > 0.0f ? 127.0f / largest : 0.0f);
    TokenBlock* to = a.at(token, block);
    F total = fset(0.0f); // of small integers: exact in any order
    for (int i = 0; i < kParts; i++) {
        const VI first = vnearest(vmul(low.part[i], inverse.part[i]));
        const VI second = vnearest(vmul(high.part[i], inverse.part[i]));
        vstore_int8(to->q + i * kLanes, first);
        vstore_int8(to->q + kWide + i * kLanes, second);
        total.part[i] = vadd(vfloat(first), vfloat(second));
    }
    const float sum = sum16(total);
    to->scale = scale;
    to->sum = static_cast<int32_t>(sum);
    to->total = sum * scale;
}

constexpr int block_bytes(int format) { // of sixteen rows
    return kWide * (format == kQ4_1 ? 20 : format == kQ4_0 ? 18 : format == kQ5_0 ? 22 : 34);
}
constexpr int scale_bytes(int format) { return kWide * (format == kQ4_1 ? 4 : 2); }

// How many bytes ahead weights are prefetched, into the first cache. With the second cache alone, a
// pass of one row took a third longer on Zen 4 with AVX2, at any distance.
constexpr int kPrefetchNear = 1600;

// out[t]: the sixteen outputs of a group of a matrix's rows for token `token + t`. Takes as many of
// `left` tokens as are worth taking at once, kMaxTile at most, and returns how many. (In
// product.cpp, which is compiled beside the rest: compiling its tiles takes as long as all else.)
int multiply_group(F* out, const Matrix& m, int group, const Activations& x, int token, int left);

// One row of a matrix as floats: an embedding.
inline void dequantize_row(float* out, const Matrix& m, int row) {
    const uint8_t* block = m.at(row / kWide);
    const int lane = row % kWide;
    for (int b = 0; b < m.columns / kBlock; b++, block += block_bytes(m.format), out += kBlock) {
        float halves[2 * kWide];
        fstore(halves, fload(reinterpret_cast<const uint16_t*>(block)));
        fstore(halves + kWide, fload(reinterpret_cast<const uint16_t*>(block) + kWide));
        const float d = halves[lane];
        const uint8_t* at = block + scale_bytes(m.format) + 4 * lane;
        const uint8_t* fifths = at + 4 * kWide * 4;
        for (int c = 0; c < kBlock; c++) {
            const uint8_t byte = at[(m.format == kQ8_0 ? c / 4 : c / 4 % 4) * 4 * kWide + c % 4];
            const int nibble = c < kBlock / 2 ? byte & 15 : byte >> 4;
            if (m.format == kQ8_0) out[c] = d * static_cast<float>(byte - 128);
            else if (m.format == kQ4_0) out[c] = d * static_cast<float>(nibble - 8);
            else if (m.format == kQ5_0) {
                const int fifth = fifths[c % 4] >> c / 4 & 1;
                out[c] = d * static_cast<float>(nibble + 16 * fifth - 16);
            } else out[c] = d * static_cast<float>(nibble) + halves[kWide + lane];
        }
    }
}

} // namespace lk
