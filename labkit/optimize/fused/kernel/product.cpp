// Tiles of the product: sixteen rows times as many tokens as the registers hold.
#include "product.h"

namespace lk {

namespace {

// A weight is d * n + m; Q4_0's is d * (n - 8), Q5_0's d * (n - 16), and Q8_0's has no m.
template <int kFormat>
inline V offset(const uint8_t* block, int part, const V& d) {
    if constexpr (kFormat == kQ4_1)
        return vload_half(reinterpret_cast<const uint16_t*>(block) + kWide + part * kLanes);
    else return vmul(d, vset(-8.0f));
}

// Weights are prefetched from kPrefetchFrom tokens on. With one or two tokens and vectors of 64
// bytes, Zen 4 prefetches some 3 kB ahead by itself, and reads a large matrix a fifth faster without
// our prefetch. With more tokens the product is slower than the memory. Prefetching further ahead as
// well then keeps the memory busy: a pass of eight rows took 3 to 8 % less time.
// An Intel Xeon of 2023 (with AMX) does not keep its memory busy by itself. There, both prefetches
// from the first token on took a token of the default model from 7.4 to 3.9 ms: from 31 % of the
// bare read of its bytes to 57 %. The distances hardly matter (800 to 3,200; 4,096 to 16,384).
constexpr int kPrefetchFar = 8192;
#if defined(LK_INTEL)
constexpr int kPrefetchFarFrom = 1;
#else
constexpr int kPrefetchFarFrom = 3;
#endif

// Integer sums of a block: rows of the kCount parts from kFirst on, times kTokens tokens. Four
// columns at a time: a weight is unpacked once for all tokens, and a token's bytes are spread once
// for all parts. Low nibbles come before high ones, which leaves registers for more tokens. kFrom,
// kTo: which of the four times four bytes of a row. kFifth: whether fifth bits follow them.
template <int kFrom, int kTo, int kTokens, int kFirst, int kCount, bool kFifth = false>
inline void nibble_sums(VI (&whole)[kTokens][kCount], const uint8_t* at, const TokenBlock* x,
                        int blocks) {
    VN sum[kTokens][kCount] = {};
    VB fifths[kCount];
    if constexpr (kFifth)
        for (int p = 0; p < kCount; p++)
            fifths[p] = vbytes(at + 4 * kWide * 4 + 4 * kLanes * (kFirst + p));
#pragma GCC unroll 4
    for (int j = kFrom; j < kTo; j++) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            VB n[kCount];
#pragma GCC unroll 4
            for (int p = 0; p < kCount; p++) {
                const VB both = vbytes(at + 4 * kWide * j + 4 * kLanes * (kFirst + p));
                n[p] = half ? vhigh(both) : vlow(both);
                if constexpr (kFifth) n[p] = vfifth(n[p], fifths[p], j + 4 * half);
            }
#pragma GCC unroll 16
            for (int t = 0; t < kTokens; t++) {
                const VQ four = vfour(x[distance(t, blocks)].q + 4 * j + kWide * half);
#pragma GCC unroll 4
                for (int p = 0; p < kCount; p++) sum[t][p] = vnibbles(sum[t][p], n[p], four);
            }
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; t++)
#pragma GCC unroll 4
        for (int p = 0; p < kCount; p++) whole[t][p] = vnibbles_sum(sum[t][p]);
}

template <int kTokens, int kFirst, int kCount>
inline void fifth_sums(VI (&whole)[kTokens][kCount], const uint8_t* at, const TokenBlock* x,
                       int blocks) {
    VI second[kTokens][kCount];
    nibble_sums<0, 2, kTokens, kFirst, kCount, true>(whole, at, x, blocks);
    nibble_sums<2, 4, kTokens, kFirst, kCount, true>(second, at, x, blocks);
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; t++)
#pragma GCC unroll 4
        for (int p = 0; p < kCount; p++) whole[t][p] = viadd(whole[t][p], second[t][p]);
}

template <int kTokens, int kFirst, int kCount>
inline void byte_sums(VI (&whole)[kTokens][kCount], const uint8_t* at, const TokenBlock* x,
                      int blocks) {
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; t++)
#pragma GCC unroll 4
        for (int p = 0; p < kCount; p++) whole[t][p] = viset(0);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        VB w[kCount];
#pragma GCC unroll 4
        for (int p = 0; p < kCount; p++)
            w[p] = vbytes(at + 4 * kWide * j + 4 * kLanes * (kFirst + p));
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; t++) {
            const VQ four = vfour(x[distance(t, blocks)].q + 4 * j);
#pragma GCC unroll 4
            for (int p = 0; p < kCount; p++) whole[t][p] = vbytes_dot(whole[t][p], w[p], four);
        }
    }
}

// sum[t][p] = rows of part kFirst + p times token `token + t`; token: a multiple of kTokenGroup.
template <int kFormat, int kTokens, int kFirst, int kCount, bool kPrefetch>
inline void dot_parts(V (&sum)[kTokens][kParts], const uint8_t* w, const Activations& from,
                      int token) {
    const TokenBlock* x = from.at(token, 0);
    const int blocks = from.blocks;
    for (int t = 0; t < kTokens; t++)
        for (int p = kFirst; p < kFirst + kCount; p++) sum[t][p] = vset(0.0f);
    for (int b = 0; b < blocks; b++, w += block_bytes(kFormat), x += kTokenGroup) {
        if constexpr (kPrefetch && kTokens >= kPrefetchFrom)
            prefetch(w + kPrefetchNear, block_bytes(kFormat));
        if constexpr (kPrefetch && kTokens >= kPrefetchFarFrom)
            prefetch<2>(w + kPrefetchFar, block_bytes(kFormat));
        VI whole[kTokens][kCount];
        if constexpr (kFormat == kQ8_0)
            byte_sums<kTokens, kFirst>(whole, w + scale_bytes(kFormat), x, blocks);
        else if constexpr (kFormat == kQ5_0)
            fifth_sums<kTokens, kFirst>(whole, w + scale_bytes(kFormat), x, blocks);
        else nibble_sums<0, 4, kTokens, kFirst>(whole, w + scale_bytes(kFormat), x, blocks);
#pragma GCC unroll 4
        for (int p = kFirst; p < kFirst + kCount; p++) {
            const V d = vload_half(reinterpret_cast<const uint16_t*>(w) + p * kLanes);
#pragma GCC unroll 16
            for (int t = 0; t < kTokens; t++) {
                const TokenBlock& block = x[distance(t, blocks)];
                VI n = whole[t][p - kFirst];
                if constexpr (kFormat == kQ8_0) n = vbytes_sum(n, block.sum);
                if constexpr (kFormat == kQ5_0) n = viadd(n, viset(-16 * block.sum));
                sum[t][p] = vfma(vmul(vfloat(n), vset(block.scale)), d, sum[t][p]);
                if constexpr (kFormat == kQ4_0 || kFormat == kQ4_1)
                    sum[t][p] = vfma(vset(block.total), offset<kFormat>(w, p, d), sum[t][p]);
            }
        }
    }
}

// kTogether parts at a time: more sums would not fit the registers.
template <int kFormat, int kTokens, int kPart>
inline void dot_each(V (&sum)[kTokens][kParts], const uint8_t* w, const Activations& x, int token) {
    if constexpr (kPart < kParts) {
        constexpr int kCount = kTokens == 1 ? kParts : kTogether;
        dot_parts<kFormat, kTokens, kPart, kCount, kPart == 0>(sum, w, x, token);
        dot_each<kFormat, kTokens, kPart + kCount>(sum, w, x, token);
    }
}

// Not inlined: side by side in one function, the tiles spill each other's registers.
template <int kFormat, int kTokens>
__attribute__((noinline)) void dot(F* out, const uint8_t* w, const Activations& x, int token) {
    V sum[kTokens][kParts];
    dot_each<kFormat, kTokens, 0>(sum, w, x, token);
    for (int t = 0; t < kTokens; t++)
        for (int p = 0; p < kParts; p++) out[t].part[p] = sum[t][p];
}

// The largest tile of at most kTokens tokens that `left` tokens fill. Returns its size.
template <int kFormat, int kTokens>
inline int dot_up_to(F* out, const uint8_t* w, const Activations& x, int token, int left) {
    if constexpr (kTokens > 1)
        if (left < kTokens) return dot_up_to<kFormat, kTokens - 1>(out, w, x, token, left);
    return dot<kFormat, kTokens>(out, w, x, token), kTokens;
}

// As many of `left` tokens as a tile takes. Returns how many. Few tokens go into one tile where the
// registers hold them: a second tile would read weights from the cache, and the memory would idle.
template <int kFormat>
inline int dot_tile(F* out, const uint8_t* w, const Activations& x, int token, int left) {
    if constexpr (kMaxTile == kTile + 2 && kFormat != kQ5_0) { // fifth bits take registers too
        if (left == kTile + 2) return dot<kFormat, kTile + 2>(out, w, x, token), kTile + 2;
        if (left == kTile + 1) return dot<kFormat, kTile + 1>(out, w, x, token), kTile + 1;
    }
    if (left >= kTile) return dot<kFormat, kTile>(out, w, x, token), kTile;
    return dot_up_to<kFormat, std::min(kTile - 1, 8)>(out, w, x, token, left);
}

} // namespace

int multiply_group(F* out, const Matrix& m, int group, const Activations& x, int token, int left) {
    const uint8_t* w = m.at(group);
    int done;
    switch (m.format) {
        case kQ4_1: done = dot_tile<kQ4_1>(out, w, x, token, left); break;
        case kQ4_0: done = dot_tile<kQ4_0>(out, w, x, token, left); break;
        case kQ5_0: done = dot_tile<kQ5_0>(out, w, x, token, left); break;
        default: done = dot_tile<kQ8_0>(out, w, x, token, left);
    }
    if (m.bias)
        for (int t = 0; t < done; t++) out[t] = fadd(out[t], fload(m.bias + group * kWide));
    return done;
}

} // namespace lk
