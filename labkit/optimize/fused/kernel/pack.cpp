// From the blocks of a GGUF file to what products read: sixteen rows interleaved (formats.h).
//
// The formats are those of ggml (github.com/ggml-org/ggml, ggml-common.h and ggml-quants.c).
// Nothing is rounded, and the bytes are as many as before.
#include "formats.h"

namespace lk {

namespace {

inline uint16_t word(const uint8_t* at) { return static_cast<uint16_t>(at[0] | at[1] << 8); }
inline uint32_t four(const uint8_t* at) {
    uint32_t x;
    __builtin_memcpy(&x, at, 4);
    return x;
}
constexpr uint32_t kNibbles = 0x0f0f0f0f, kPairs = 0x03030303, kOnes = 0x01010101;

// Bytes of a row's block.
constexpr int row_bytes(int format) { return block_bytes(format) / kWide; }

// The numbers of columns 4 * quad .. + 3 of a part, a byte each, as the file has them.
template <int kFormat>
inline uint32_t numbers(const uint8_t* b, int part, int quad) {
    const int half = quad / 4;
    if constexpr (kFormat == kQ8_0) return four(b + 2 + 4 * quad) ^ 0x80808080u;
    else if constexpr (kFormat == kQ4_K) {
        const uint32_t both = four(b + 16 + 32 * (part / 2) + 4 * quad);
        return both >> 4 * (part % 2) & kNibbles;
    } else if constexpr (kFormat == kQ5_K) {
        const uint32_t both = four(b + 48 + 32 * (part / 2) + 4 * quad);
        const uint32_t fifth = four(b + 16 + 4 * quad) >> part & kOnes;
        return (both >> 4 * (part % 2) & kNibbles) | fifth << 4;
    } else if constexpr (kFormat == kQ6_K) {
        const int lines = part / 4, r = part % 4;
        const uint32_t both = four(b + 64 * lines + 32 * (r % 2) + 4 * quad);
        const uint32_t high = four(b + 128 + 32 * lines + 4 * quad) >> 2 * r & kPairs;
        return (both >> 4 * (r / 2) & kNibbles) | high << 4;
    } else if constexpr (kFormat == kQ3_K) {
        const uint32_t low = four(b + 32 + 32 * (part / 4) + 4 * quad) >> 2 * (part % 4) & kPairs;
        return low | (four(b + 4 * quad) >> part & kOnes) << 2;
    } else if constexpr (kFormat == kQ2_K) {
        return four(b + 16 + 32 * (part / 4) + 4 * quad) >> 2 * (part % 4) & kPairs;
    } else { // 16 bytes of nibbles: the first sixteen columns in the low ones
        constexpr int kBefore = kFormat == kIQ4_XS                       ? 8
                                : kFormat == kQ4_0 || kFormat == kIQ4_NL ? 2
                                : kFormat == kQ4_1                       ? 4
                                : kFormat == kQ5_0                       ? 6
                                                                         : 8; // kQ5_1
        const uint32_t low = four(b + kBefore + 16 * part + 4 * (quad % 4)) >> 4 * half & kNibbles;
        if constexpr (kFormat != kQ5_0 && kFormat != kQ5_1) return low;
        const uint32_t bits = four(b + kBefore - 4) >> 4 * quad & 15; // one a column
        return low | (bits * 0x00204081u & kOnes) << 4;
    }
}

// Fields of sixteen rows: of row `lane`, entry `number` of those of 2 or 4 bytes that lie after
// `before` bytes a row.
inline void put2(uint8_t* to, int before, int number, int lane, uint32_t x) {
    const uint16_t low = static_cast<uint16_t>(x);
    __builtin_memcpy(to + kWide * (before + 2 * number) + 2 * lane, &low, 2);
}
inline void put4(uint8_t* to, int before, int number, int lane, uint32_t x) {
    __builtin_memcpy(to + kWide * (before + 4 * number) + 4 * lane, &x, 4);
}

// Eight pairs of numbers of six bits, as six_bits reads them: the low four of the first ones, of
// the second ones, and the high two of both.
template <class First, class Second>
inline void put_six(uint8_t* to, int before, int lane, First first, Second second) {
    uint32_t low[2] = {0, 0}, high = 0;
    for (int p = 0; p < 8; p++) {
        const uint32_t a = first(p), b = second(p);
        low[0] |= (a & 15) << 4 * p, low[1] |= (b & 15) << 4 * p;
        high |= (a >> 4 | b >> 4 << 2) << 4 * p;
    }
    put4(to, before, 0, lane, low[0]);
    put4(to, before, 1, lane, low[1]);
    put4(to, before, 2, lane, high);
}

template <int kFormat>
inline void put_head(uint8_t* to, int lane, const uint8_t* b) {
    if constexpr (kFormat == kQ4_K || kFormat == kQ5_K) {
        const uint8_t* s = b + 4; // six bits each: eight scales and eight minima
        const auto six = [s](int p, int from) {
            return p < 4 ? s[p + from] & 63u
                         : (s[p + 4] >> from & 15u) | static_cast<uint32_t>(s[p - 4 + from] >> 6)
                                                          << 4;
        };
        put2(to, 0, 0, lane, word(b));
        put2(to, 0, 1, lane, word(b + 2));
        put_six(
            to, 4, lane, [&](int p) { return six(p, 0); }, [&](int p) { return six(p, 4); });
    } else if constexpr (kFormat == kQ3_K) {
        const uint8_t* s = b + 96; // six bits each: sixteen scales
        const auto six = [s](int i) {
            const uint32_t low = i < 8 ? s[i] & 15u : s[i - 8] >> 4;
            return low | (s[8 + i % 4] >> 2 * (i / 4) & 3u) << 4;
        };
        put2(to, 0, 0, lane, word(b + 108));
        put_six(
            to, 2, lane, [&](int p) { return six(2 * p); }, [&](int p) { return six(2 * p + 1); });
    } else if constexpr (kFormat == kIQ4_XS) {
        put2(to, 0, 0, lane, word(b));
        put4(to, 2, 0, lane, four(b + 4));
        put2(to, 6, 0, lane, word(b + 2));
    } else if constexpr (kFormat == kQ2_K) {
        put2(to, 0, 0, lane, word(b + 80));
        put2(to, 0, 1, lane, word(b + 82));
    } else if constexpr (kFormat == kQ6_K) put2(to, 0, 0, lane, word(b + 208));
    else
        for (int i = 0; i < form_of(kFormat).head / 2; i++) put2(to, 0, i, lane, word(b + 2 * i));
}

template <int kFormat>
inline void put_part(uint8_t* to, int lane, const uint8_t* b, int part) {
    constexpr int kSub = form_of(kFormat).sub;
    if constexpr (kFormat == kQ6_K) put2(to, 0, 0, lane, word(b + 192 + 2 * part));
    if constexpr (kFormat == kQ2_K) put2(to, 0, 0, lane, word(b + 2 * part));
    uint32_t n[8], quads[8] = {};
    for (int q = 0; q < 8; q++) n[q] = numbers<kFormat>(b, part, q);
    constexpr int kQuads = form_of(kFormat).quads;
    if constexpr (kFormat == kQ8_0) std::copy_n(n, 8, quads);
    else if constexpr (kFormat == kQ2_K || kFormat == kQ3_K)
        for (int q = 0; q < 8; q++) {
            quads[q / 4] |= (n[q] & kPairs) << 2 * (q % 4);
            quads[2] |= (n[q] >> 2 & kOnes) << q;
        }
    else
        for (int q = 0; q < 8; q++) {
            quads[q % 4] |= (n[q] & kNibbles) << 4 * (q / 4);
            if constexpr (kQuads == 5) quads[4] |= (n[q] >> 4 & kOnes) << q;
            if constexpr (kQuads == 6) quads[4 + q / 4] |= (n[q] >> 4 & kPairs) << 2 * (q % 4);
        }
    for (int q = 0; q < kQuads; q++) put4(to, kSub, q, lane, quads[q]);
}

// A column of a row of floats takes 2 or 4 bytes.
template <int kFormat>
inline void put_floats(uint8_t* to, int lane, const uint8_t* b) {
    constexpr int kSize = kFormat == kF32 ? 4 : 2;
    for (int c = 0; c < kBlock; c++)
        __builtin_memcpy(to + kSize * (kWide * c + lane), b + kSize * c, kSize);
}

template <int kFormat>
void interleave(const uint8_t* rows, int64_t count, int64_t blocks, uint8_t* out, int64_t stride) {
    constexpr int kRow = row_bytes(kFormat), kParts = form_of(kFormat).parts;
    for (int64_t r = 0; r < count; r++) {
        const uint8_t* from = rows + r * blocks * kRow;
        uint8_t* to = out + r / kWide * stride;
        const int lane = static_cast<int>(r % kWide);
        for (int64_t b = 0; b < blocks; b++, from += kRow, to += block_bytes(kFormat)) {
            if constexpr (is_float(kFormat)) put_floats<kFormat>(to, lane, from);
            else {
                put_head<kFormat>(to, lane, from);
                for (int p = 0; p < kParts; p++)
                    put_part<kFormat>(to + head_bytes(kFormat) + p * part_bytes(kFormat), lane,
                                      from, p);
            }
        }
    }
}

} // namespace

} // namespace lk

extern "C" {

// Bytes of a row's block, and its columns; 0 for a format that the kernel does not read.
int lk_block_bytes(int format) {
    return format >= 0 && format < lk::kFormats ? lk::row_bytes(format) : 0;
}
int lk_block_columns(int format) { return lk::form_of(format).parts * lk::kBlock; }

// `count` rows of `blocks` blocks each, one after another, into groups of sixteen that lie `stride`
// bytes apart. Lanes without a row keep what is there: zeros, so that their outputs are 0.
void lk_interleave(int format, const uint8_t* rows, int64_t count, int64_t blocks, uint8_t* out,
                   int64_t stride) {
    switch (format) {
#define LK_CASE(format)                                                                            \
    case lk::format: return lk::interleave<lk::format>(rows, count, blocks, out, stride);
        LK_FORMATS(LK_CASE)
#undef LK_CASE
    }
}

} // extern "C"
