// Block formats of GGUF files, as they lie in memory: sixteen rows interleaved, a lane is a row.
//
// A block of the file holds 32 or 256 columns of a row. In memory the same bytes of sixteen rows
// lie together: first the block's head, then for every 32 columns a part of its own (pack.cpp). A
// head or a part is made of fields, and of a field the sixteen rows' bytes lie side by side. Parts
// hold quads: four bytes of each row, which are four columns.
#pragma once
#include "maths.h"
#include "model.h"

namespace lk {

constexpr int kBlock = 32; // columns of a part

// parts: of a block. head, sub: bytes of a row in a block's head, and before a part's quads. quads:
// of a part. bias: a weight is scale * (n - bias) + offset. halves: scales of a part. offset:
// whether there is one. run: quads whose products fit 16 bits together (isa_avx2.h).
struct Form {
    int parts, head, sub, quads, bias, halves;
    bool offset;
    int run;
};

constexpr Form form_of(int format) {
    switch (format) {
        case kQ4_1: return {1, 4, 0, 4, 0, 1, true, 8};
        case kQ4_0: return {1, 2, 0, 4, 8, 1, false, 8};
        case kQ5_0: return {1, 2, 0, 5, 16, 1, false, 4};
        case kQ5_1: return {1, 4, 0, 5, 0, 1, true, 4};
        case kQ4_K: return {8, 16, 0, 4, 0, 1, true, 8};
        case kQ5_K: return {8, 16, 0, 5, 0, 1, true, 4};
        case kQ6_K: return {8, 2, 2, 6, 32, 2, false, 2};
        case kQ3_K: return {8, 14, 0, 3, 4, 2, false, 4};
        case kQ2_K: return {8, 4, 2, 2, 0, 2, true, 4};
        case kIQ4_NL: return {1, 2, 0, 4, 128, 1, false, 1};
        case kIQ4_XS: return {8, 8, 0, 4, 128, 1, false, 1};
        case kF16:
        case kBF16: return {1, 0, 0, 16, 0, 1, false, 1};
        case kF32: return {1, 0, 0, 32, 0, 1, false, 1};
        default: return {1, 2, 0, 8, 128, 1, false, 1}; // kQ8_0
    }
}
constexpr bool has_bytes(int format) { // its n need all eight bits
    return format == kQ8_0 || format == kIQ4_NL || format == kIQ4_XS;
}
constexpr bool is_float(int format) { return format == kF16 || format == kBF16 || format == kF32; }

// Bytes of sixteen rows: of a head, a part, a whole block.
constexpr int head_bytes(int format) { return kWide * form_of(format).head; }
constexpr int part_bytes(int format) {
    return kWide * (form_of(format).sub + 4 * form_of(format).quads);
}
constexpr int block_bytes(int format) {
    return head_bytes(format) + form_of(format).parts * part_bytes(format);
}

// each(format) for all of them.
#define LK_FORMATS(each)                                                                           \
    each(kQ4_1) each(kQ4_0) each(kQ8_0) each(kQ5_0) each(kQ5_1) each(kQ4_K) each(kQ5_K)            \
        each(kQ6_K) each(kQ3_K) each(kQ2_K) each(kIQ4_NL) each(kIQ4_XS) each(kF16) each(kBF16)     \
            each(kF32)

// What IQ4's nibbles stand for, plus 128 (llama.cpp's table of 4-bit values that are not evenly
// spaced).
alignas(64) constexpr uint8_t kUneven[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                             129, 141, 153, 166, 181, 197, 217, 241};

// The scale, and the offset where there is one, of a part or of one of its halves, for kLanes rows.
struct Scale {
    V scale, offset;
};

// Six bits for each lane and part: the low four of two numbers, and the high two of both.
inline VI six_bits(const uint8_t* low, const uint8_t* high, int part, int shift) {
    const VI four = viand(vishift(viload(low), 4 * part), 15);
    const VI two = viand(vishift(viload(high), 4 * part + shift), 3);
    return viadd(four, vishift(two, -4));
}

// Of the part with number `part` of the block at `head`, whose own bytes begin at `at`; rows of the
// vector with number p. half: 0, or 1 where the part's halves have scales of their own.
template <int kFormat>
inline Scale scale_of(const uint8_t* head, const uint8_t* at, int part, int half, int p) {
    const auto halves = [&](int field) { // a float16 of the head, by its number
        return vload_half(reinterpret_cast<const uint16_t*>(head) + kWide * field + p * kLanes);
    };
    const auto words = [&](int before, int word) { // 4 bytes of the head, after `before` bytes
        return head + kWide * (before + 4 * word) + 4 * p * kLanes;
    };
    const V none = vset(0.0f);
    if constexpr (kFormat == kQ4_1 || kFormat == kQ5_1) return {halves(0), halves(1)};
    else if constexpr (kFormat == kQ4_K || kFormat == kQ5_K) {
        const VI scale = six_bits(words(4, 0), words(4, 2), part, 0);
        const VI least = six_bits(words(4, 1), words(4, 2), part, 2);
        return {vmul(halves(0), vfloat(scale)), vmul(halves(1), vsub(none, vfloat(least)))};
    } else if constexpr (kFormat == kQ3_K) {
        const VI scale = six_bits(words(2, half), words(2, 2), part, 2 * half);
        return {vmul(halves(0), vfloat(viadd(scale, viset(-32)))), none};
    } else if constexpr (kFormat == kIQ4_XS) {
        const VI low = viand(vishift(viload(words(2, 0)), 4 * part), 15);
        const VI high =
            viand(vishift(viload_words(head + kWide * 6 + 2 * p * kLanes), 2 * part), 3);
        const VI scale = viadd(viadd(low, vishift(high, -4)), viset(-32));
        return {vmul(halves(0), vfloat(scale)), none};
    } else if constexpr (kFormat == kQ6_K) {
        const VI both = viload_words(at + 2 * p * kLanes);
        return {vmul(halves(0), vfloat(visigned_byte(both, half))), none};
    } else if constexpr (kFormat == kQ2_K) {
        const VI own = vishift(viload_words(at + 2 * p * kLanes), 8 * half);
        const V scale = vfloat(viand(own, 15)), least = vfloat(viand(vishift(own, 4), 15));
        return {vmul(halves(0), scale), vmul(halves(1), vsub(none, least))};
    } else return {halves(0), none};
}

// n of four columns of each row of the vector with number p: columns 4 * quad .. 4 * quad + 3 of a
// part. at: its quads.
template <int kFormat>
inline VB quad_of(const uint8_t* at, int quad, int p) {
    const int j = quad % 4, half = quad / 4;
    const auto bytes = [&](int number) { return vbytes(at + 4 * kWide * number + 4 * kLanes * p); };
    if constexpr (kFormat == kQ8_0) return bytes(quad);
    else if constexpr (kFormat == kQ2_K) return vbits(bytes(half), -2 * j, 3);
    else if constexpr (kFormat == kQ3_K)
        return vor(vbits(bytes(half), -2 * j, 3), vbits(bytes(2), 2 - quad, 4));
    else {
        const VB both = bytes(j), nibbles = half ? vhigh(both) : vlow(both);
        if constexpr (kFormat == kQ6_K) return vor(nibbles, vbits(bytes(4 + half), 4 - 2 * j, 48));
        else if constexpr (form_of(kFormat).quads == 5) // with a fifth bit
            return vor(nibbles, vbits(bytes(4), 4 - quad, 16));
        else if constexpr (kFormat == kIQ4_NL || kFormat == kIQ4_XS)
            return vlookup(kUneven, nibbles);
        else return nibbles;
    }
}

// A column of kLanes rows of a float format.
template <int kFormat>
inline V column_of(const uint8_t* at, int column, int p) {
    const int from = kWide * column + kLanes * p;
    if constexpr (kFormat == kF32) return vload(reinterpret_cast<const float*>(at) + from);
    else if constexpr (kFormat == kF16)
        return vload_half(reinterpret_cast<const uint16_t*>(at) + from);
    else return vload_brain(reinterpret_cast<const uint16_t*>(at) + from);
}

} // namespace lk
