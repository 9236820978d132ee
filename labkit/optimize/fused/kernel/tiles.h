// Tiles of the product: sixteen rows times as many tokens as the registers hold.
//
// The formats are spread over several sources (product_*.cpp) that are compiled side by side.
#pragma once
#include "product.h"

namespace lk {

namespace {

// Weights are prefetched from kPrefetchFrom tokens on. With one or two tokens and vectors of 64
// bytes, Zen 4 prefetches some 3 kB ahead by itself, and reads a large matrix a fifth faster
// without our prefetch. With more tokens the product is slower than the memory. Prefetching further
// ahead as well then keeps the memory busy: a pass of eight rows took 3 to 8 % less time. An Intel
// Xeon of 2023 (with AMX) does not keep its memory busy by itself. There, both prefetches from the
// first token on took a token of the default model from 7.4 to 3.9 ms: from 31 % of the bare read
// of its bytes to 57 %. The distances hardly matter (800 to 3,200; 4,096 to 16,384).
constexpr int kPrefetchFar = 8192;
#if defined(LK_INTEL)
constexpr int kPrefetchFarFrom = 1;
#else
constexpr int kPrefetchFarFrom = 3;
#endif

// Integer sums of a part, or of a half of it: rows of the kCount vectors from kFirst on, times
// kTokens tokens. Four columns at a time: a weight is unpacked once for all tokens, and a token's
// bytes are spread once for all vectors.
template <int kFormat, int kHalf, int kTokens, int kFirst, int kCount>
inline void part_sums(VI (&whole)[kTokens][kCount], const uint8_t* at, const TokenBlock* x,
                      int blocks) {
    constexpr Form kForm = form_of(kFormat);
    constexpr int kQuads = 8 / kForm.halves, kRun = std::min(kForm.run, kQuads);
    VN sum[kTokens][kCount] = {};
#pragma GCC unroll 8
    for (int i = 0; i < kQuads; i++) {
        // With one scale a part, the high nibbles of the same bytes follow the low ones.
        const bool pairs = kForm.halves == 1 && kFormat != kQ8_0;
        const int quad = kForm.halves == 2 ? 4 * kHalf + i : pairs ? i / 2 + 4 * (i % 2) : i;
        VB n[kCount];
#pragma GCC unroll 4
        for (int p = 0; p < kCount; p++) n[p] = quad_of<kFormat>(at, quad, kFirst + p);
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; t++) {
            const VQ four = vfour(x[distance(t, blocks)].q + 4 * quad);
#pragma GCC unroll 4
            for (int p = 0; p < kCount; p++)
                if constexpr (has_bytes(kFormat)) {
                    whole[t][p] = vbytes_dot(i ? whole[t][p] : viset(0), n[p], four);
                } else {
                    sum[t][p] = vnibbles(sum[t][p], n[p], four);
                    if (kNarrowSums && (i + 1) % kRun == 0 && i + 1 < kQuads) {
                        const VI run = vnibbles_sum(sum[t][p]);
                        whole[t][p] = i + 1 == kRun ? run : viadd(whole[t][p], run);
                        sum[t][p] = VN{};
                    }
                }
        }
    }
    if constexpr (!has_bytes(kFormat)) {
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; t++)
#pragma GCC unroll 4
            for (int p = 0; p < kCount; p++) {
                const VI run = vnibbles_sum(sum[t][p]);
                whole[t][p] = kNarrowSums && kRun < kQuads ? viadd(whole[t][p], run) : run;
            }
    }
}

// Adds a part, or a half of it, times the tokens to sum. head: its block's; at: its own bytes.
template <int kFormat, int kHalf, int kTokens, int kFirst, int kCount>
inline void add_part(V (&sum)[kTokens][kParts], const uint8_t* head, const uint8_t* at, int part,
                     const TokenBlock* x, int blocks) {
    constexpr Form kForm = form_of(kFormat);
    VI whole[kTokens][kCount];
    part_sums<kFormat, kHalf, kTokens, kFirst, kCount>(whole, at + kWide * kForm.sub, x, blocks);
#pragma GCC unroll 4
    for (int p = 0; p < kCount; p++) {
        const Scale own = scale_of<kFormat>(head, at, part, kHalf, kFirst + p);
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; t++) {
            const TokenBlock& block = x[distance(t, blocks)];
            const int32_t sum_of_q = block.sum_of(kForm.halves, kHalf);
            VI n = whole[t][p];
            if constexpr (has_bytes(kFormat)) n = vbytes_sum(n, sum_of_q);
            else if constexpr (kForm.bias) n = viadd(n, viset(-kForm.bias * sum_of_q));
            V& to = sum[t][kFirst + p];
            to = vfma(vmul(vfloat(n), vset(block.scale)), own.scale, to);
            if constexpr (kForm.offset) {
                const float total =
                    kForm.halves == 1 ? block.total : block.scale * static_cast<float>(sum_of_q);
                to = vfma(vset(total), own.offset, to);
            }
        }
    }
}

// The same for 32 columns of floats.
template <int kFormat, int kTokens, int kFirst, int kCount>
inline void add_floats(V (&sum)[kTokens][kParts], const uint8_t* at, const TokenBlock* x,
                       int blocks) {
    V whole[kTokens][kCount];
    for (int t = 0; t < kTokens; t++)
        for (int p = 0; p < kCount; p++) whole[t][p] = vset(0.0f);
    for (int c = 0; c < kBlock; c++) {
#pragma GCC unroll 4
        for (int p = 0; p < kCount; p++) {
            const V w = column_of<kFormat>(at, c, kFirst + p);
#pragma GCC unroll 16
            for (int t = 0; t < kTokens; t++) {
                const V q = vset(static_cast<float>(x[distance(t, blocks)].q[c]));
                whole[t][p] = vfma(q, w, whole[t][p]);
            }
        }
    }
    for (int t = 0; t < kTokens; t++)
        for (int p = 0; p < kCount; p++) {
            V& to = sum[t][kFirst + p];
            to = vfma(whole[t][p], vset(x[distance(t, blocks)].scale), to);
        }
}

// sum[t][p] = rows of vector kFirst + p times token `token + t`; token: a multiple of kTokenGroup.
template <int kFormat, int kTokens, int kFirst, int kCount, bool kPrefetch>
inline void dot_parts(V (&sum)[kTokens][kParts], const uint8_t* w, const Activations& from,
                      int token) {
    constexpr Form kForm = form_of(kFormat);
    const TokenBlock* x = from.at(token, 0);
    const int blocks = from.blocks;
    for (int t = 0; t < kTokens; t++)
        for (int p = kFirst; p < kFirst + kCount; p++) sum[t][p] = vset(0.0f);
    for (int b = 0; b < blocks; b += kForm.parts) {
        const uint8_t* head = w;
        w += head_bytes(kFormat);
        for (int part = 0; part < kForm.parts; part++, w += part_bytes(kFormat), x += kTokenGroup) {
            if constexpr (kPrefetch && kTokens >= kPrefetchFrom)
                prefetch(w + kPrefetchNear, part_bytes(kFormat));
            if constexpr (kPrefetch && kTokens >= kPrefetchFarFrom)
                prefetch<2>(w + kPrefetchFar, part_bytes(kFormat));
            if constexpr (is_float(kFormat))
                add_floats<kFormat, kTokens, kFirst, kCount>(sum, w, x, blocks);
            else {
                add_part<kFormat, 0, kTokens, kFirst, kCount>(sum, head, w, part, x, blocks);
                if constexpr (kForm.halves == 2)
                    add_part<kFormat, 1, kTokens, kFirst, kCount>(sum, head, w, part, x, blocks);
            }
        }
    }
}

// kTogether vectors at a time: more sums would not fit the registers.
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

} // namespace

// As many of `left` tokens as a tile takes. Returns how many. Few tokens go into one tile where the
// registers hold them: a second tile would read weights from the cache, and the memory would idle.
template <int kFormat>
int dot_tile(F* out, const uint8_t* w, const Activations& x, int token, int left) {
    if constexpr (kMaxTile == kTile + 2 && form_of(kFormat).run == 8) {
        // Where weights take more registers to unpack, sums have fewer.
        if (left == kTile + 2) return dot<kFormat, kTile + 2>(out, w, x, token), kTile + 2;
        if (left == kTile + 1) return dot<kFormat, kTile + 1>(out, w, x, token), kTile + 1;
    }
    if (left >= kTile) return dot<kFormat, kTile>(out, w, x, token), kTile;
    return dot_up_to<kFormat, std::min(kTile - 1, 8)>(out, w, x, token, left);
}

} // namespace lk
