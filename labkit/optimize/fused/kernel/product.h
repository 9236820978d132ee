// Quantized weights times int8 activations.
//
// Sixteen output rows are interleaved (pack.py): a lane is a row, so nothing is summed across
// lanes. Integer sums within a block of 32 columns are exact, and a token's blocks are added in one
// order whatever the tile of tokens. So a token's result does not depend on its neighbours.
#pragma once
#include "formats.h"

namespace lk {

constexpr int kTokenGroup = 4; // tokens whose blocks lie side by side

// 32 columns of a token: a value is q * scale; sum: of all q; total: sum * scale; first: the sum of
// the first sixteen q.
struct TokenBlock {
    int8_t q[kBlock];
    float scale, total;
    int32_t sum, first;

    // The sum of the q that share a scale: of all, or of one half.
    int32_t sum_of(int halves, int half) const {
        return halves == 1 ? sum : half ? sum - first : first;
    }
};

// Tokens as blocks, kTokenGroup tokens side by side. So the data of several tokens that a product
// reads lie at fixed distances from one address, and addressing takes no more registers.
struct Activations {
    TokenBlock* data;
    int blocks; // of a token

    TokenBlock* at(int token, int block) const {
        const int64_t group = static_cast<int64_t>(token / kTokenGroup) * blocks;
        return data + (group + block) * kTokenGroup + token % kTokenGroup;
    }
};
// Blocks between the first token of a tile and its `token`-th. A tile begins with a group.
constexpr int64_t distance(int token, int blocks) {
    return static_cast<int64_t>(token / kTokenGroup) * blocks * kTokenGroup + token % kTokenGroup;
}

// A block with a number that is not finite. All that is computed from it becomes NaN.
[[gnu::cold]] inline void damage(TokenBlock& block) {
    block = {};
    block.scale = block.total = std::numeric_limits<float>::quiet_NaN();
}

inline void quantize_block(const Activations& a, int token, int block, const F& low,
                           const F& high) {
    const float largest = largest16(flarger(fabs(low), fabs(high)));
    if (!(largest <= kFinite)) return damage(*a.at(token, block));
    const float scale = largest / 127.0f;
    const F inverse = fset(largest > 0.0f ? 127.0f / largest : 0.0f);
    TokenBlock* to = a.at(token, block);
    F front, total; // sums of small integers: exact in any order
    for (int i = 0; i < kParts; i++) {
        const VI first = vnearest(vmul(low.part[i], inverse.part[i]));
        const VI second = vnearest(vmul(high.part[i], inverse.part[i]));
        vstore_int8(to->q + i * kLanes, first);
        vstore_int8(to->q + kWide + i * kLanes, second);
        front.part[i] = vfloat(first);
        total.part[i] = vadd(front.part[i], vfloat(second));
    }
    const float sum = sum16(total);
    to->scale = scale;
    to->sum = static_cast<int32_t>(sum);
    to->first = static_cast<int32_t>(sum16(front));
    to->total = sum * scale;
}

// How many bytes ahead weights are prefetched, into the first cache. With the second cache alone, a
// pass of one row took a third longer on Zen 4 with AVX2, at any distance.
constexpr int kPrefetchNear = 1600;

// out[t]: the sixteen outputs of a group of a matrix's rows for token `token + t`. Takes as many of
// `left` tokens as are worth taking at once, kMaxTile at most, and returns how many. (Its tiles are
// in product_*.cpp, which are compiled side by side.)
int multiply_group(F* out, const Matrix& m, int group, const Activations& x, int token, int left);

// One row of a matrix as floats, (columns): an embedding.
void dequantize_row(float* out, const Matrix& m, int row);

} // namespace lk
