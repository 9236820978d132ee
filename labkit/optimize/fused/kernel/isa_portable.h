// Plain C++, for every other processor: the reference that the others are tested against, bit by
// bit. All of them do the same operations in the same order on each lane.
#pragma once
#include <cmath>

namespace lk {

constexpr int kLanes = 16;
constexpr int kTile = 4, kMaxTile = 4;
constexpr int kTogether = 1;     // vectors of outputs that share a read of a token
constexpr int kPrefetchFrom = 1; // tokens from which weights are prefetched (tiles.h)
constexpr int kSumsAtOnce = 2;   // groups of sixteen attention sums that each vector runs at once
constexpr const char* kIsa = "portable";

struct V {
    float at[kLanes];
};
struct VI {
    int32_t at[kLanes];
};
struct VB {
    uint8_t at[4 * kLanes];
};

template <class Out, class Of>
inline Out lanes(Of of) {
    Out out;
    for (int i = 0; i < kLanes; i++) out.at[i] = of(i);
    return out;
}

inline V vset(float x) {
    return lanes<V>([&](int) { return x; });
}
inline V vload(const float* p) {
    return lanes<V>([&](int i) { return p[i]; });
}
inline void vstore(float* p, const V& x) {
    for (int i = 0; i < kLanes; i++) p[i] = x.at[i];
}
inline V vadd(const V& a, const V& b) {
    return lanes<V>([&](int i) { return a.at[i] + b.at[i]; });
}
inline V vsub(const V& a, const V& b) {
    return lanes<V>([&](int i) { return a.at[i] - b.at[i]; });
}
inline V vmul(const V& a, const V& b) {
    return lanes<V>([&](int i) { return a.at[i] * b.at[i]; });
}
inline V vdiv(const V& a, const V& b) {
    return lanes<V>([&](int i) { return a.at[i] / b.at[i]; });
}
inline V vmax(const V& a, const V& b) {
    return lanes<V>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}
inline V vmin(const V& a, const V& b) {
    return lanes<V>([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
}
inline V vfma(const V& a, const V& b, const V& c) {
    return lanes<V>([&](int i) { return __builtin_fmaf(a.at[i], b.at[i], c.at[i]); });
}
inline V vabs(const V& a) {
    return lanes<V>([&](int i) { return std::fabs(a.at[i]); });
}
inline float larger(float a, float b) {
    int32_t bits[2];
    __builtin_memcpy(bits, &a, 4);
    __builtin_memcpy(bits + 1, &b, 4);
    return bits[0] > bits[1] ? a : b;
}
inline V vlarger(const V& a, const V& b) {
    return lanes<V>([&](int i) { return larger(a.at[i], b.at[i]); });
}
inline V vkeep(const V& x, const V& test, const V& limit) {
    return lanes<V>([&](int i) { return test.at[i] < limit.at[i] ? 0.0f : x.at[i]; });
}

template <class Both>
inline float vfolded(V x, Both both) {
    for (int half = kLanes / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x.at[i] = both(x.at[i], x.at[i + half]);
    return x.at[0];
}
inline float vsum(const V& x) {
    return vfolded(x, [](float a, float b) { return a + b; });
}
inline float vtop(const V& x) {
    return vfolded(x, [](float a, float b) { return a > b ? a : b; });
}
inline float vlargest(const V& x) { return vfolded(x, larger); }

inline VI viset(int x) {
    return lanes<VI>([&](int) { return x; });
}
inline VI viadd(const VI& a, const VI& b) {
    return lanes<VI>([&](int i) { return a.at[i] + b.at[i]; });
}
inline VI viload(const uint8_t* p) { // 4 bytes a lane
    VI out;
    __builtin_memcpy(out.at, p, sizeof out.at);
    return out;
}
inline VI viload_words(const uint8_t* p) { // 2 bytes a lane, unsigned
    return lanes<VI>([&](int i) { return p[2 * i] | p[2 * i + 1] << 8; });
}
inline VI viand(const VI& a, int mask) {
    return lanes<VI>([&](int i) { return a.at[i] & mask; });
}
// Moved down by `right` bits, or up where it is negative.
inline VI vishift(const VI& a, int right) {
    return lanes<VI>([&](int i) {
        const uint32_t bits = static_cast<uint32_t>(a.at[i]);
        return static_cast<int32_t>(right < 0 ? bits << -right : bits >> right);
    });
}
inline VI visigned_byte(const VI& a, int byte) { // byte 0 or 1, with its sign
    return lanes<VI>([&](int i) { return static_cast<int8_t>(a.at[i] >> 8 * byte); });
}
inline VI vnearest(const V& x) {
    return lanes<VI>([&](int i) { return static_cast<int32_t>(std::nearbyint(x.at[i])); });
}
inline V vfloat(const VI& x) {
    return lanes<V>([&](int i) { return static_cast<float>(x.at[i]); });
}
inline V vpower_of_two(const VI& n) {
    return lanes<V>([&](int i) {
        const int32_t bits = static_cast<int32_t>(static_cast<uint32_t>(n.at[i] + 127) << 23);
        float x;
        __builtin_memcpy(&x, &bits, 4);
        return x;
    });
}
inline void vstore_int8(int8_t* p, const VI& x) {
    for (int i = 0; i < kLanes; i++) p[i] = static_cast<int8_t>(x.at[i]);
}

inline float half_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
    const uint32_t exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    uint32_t bits = sign;
    if (exponent == 31) bits |= 0x7f800000u | (fraction << 13);
    else if (exponent) bits |= ((exponent + 112) << 23) | (fraction << 13);
    float x;
    __builtin_memcpy(&x, &bits, 4);
    if (exponent == 0 && fraction) { // a subnormal: fraction * 2^-24, exact in float
        x = static_cast<float>(fraction) * 0x1p-24f;
        return sign ? -x : x;
    }
    return x;
}
inline uint16_t float_to_half(float x) { // to nearest, ties to even
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
    const float size = std::fabs(x);
    if (size >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00);
    if (!(size == size)) return static_cast<uint16_t>(sign | 0x7e00);
    if (size < 0x1p-14f) { // subnormal in half: a whole number of 2^-24
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(size * 0x1p24f)));
    }
    const uint32_t kept = (bits & 0x7fffffff) - (112u << 23);
    return static_cast<uint16_t>(sign | ((kept + 0xfff + ((kept >> 13) & 1)) >> 13));
}
inline V vload_half(const uint16_t* p) {
    return lanes<V>([&](int i) { return half_to_float(p[i]); });
}
inline V vload_brain(const uint16_t* p) { // bfloat16
    return lanes<V>([&](int i) {
        const uint32_t bits = static_cast<uint32_t>(p[i]) << 16;
        float x;
        __builtin_memcpy(&x, &bits, 4);
        return x;
    });
}
inline void vstore_half(uint16_t* p, const V& x) {
    for (int i = 0; i < kLanes; i++) p[i] = float_to_half(x.at[i]);
}

inline VB vbytes(const uint8_t* p) {
    VB out;
    __builtin_memcpy(out.at, p, sizeof out.at);
    return out;
}
inline VB vlow(VB x) {
    for (uint8_t& byte : x.at) byte &= 15;
    return x;
}
inline VB vhigh(VB x) {
    for (uint8_t& byte : x.at) byte >>= 4;
    return x;
}
// Of each byte the bits under `mask`, moved up by `left` places, or down where it is negative.
inline VB vbits(VB x, int left, int mask) {
    for (uint8_t& byte : x.at)
        byte = static_cast<uint8_t>((left > 0 ? byte << left : byte >> -left) & mask);
    return x;
}
inline VB vor(VB a, const VB& b) {
    for (int i = 0; i < 4 * kLanes; i++) a.at[i] |= b.at[i];
    return a;
}
inline VB vlookup(const uint8_t* table, VB nibbles) { // table: 16 bytes
    for (uint8_t& byte : nibbles.at) byte = table[byte];
    return nibbles;
}
struct VQ { // four int8 of a token
    int8_t at[4];
};
inline VQ vfour(const int8_t* q) {
    VQ out;
    __builtin_memcpy(out.at, q, 4);
    return out;
}
// Products of small unsigned values, added up.
constexpr bool kNarrowSums = false; // they are in 32 bits
using VN = VI;
inline VN vnibbles(VN sum, const VB& w, const VQ& q) {
    for (int i = 0; i < kLanes; i++)
        for (int k = 0; k < 4; k++) sum.at[i] += w.at[4 * i + k] * q.at[k];
    return sum;
}
inline VI vnibbles_sum(const VN& sum) { return sum; }

// Products of bytes that hold a signed value + 128, taken back with the sum of q.
inline VI vbytes_dot(const VI& sum, const VB& w, const VQ& q) { return vnibbles(sum, w, q); }
inline VI vbytes_sum(VI sum, int32_t sum_of_q) {
    for (int32_t& lane : sum.at) lane -= 128 * sum_of_q;
    return sum;
}

} // namespace lk
