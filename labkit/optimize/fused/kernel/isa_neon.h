// ARMv8.2 with the dot product: a vector is 4 lanes.
#pragma once
#include <arm_neon.h>

namespace lk {

constexpr int kLanes = 4;
constexpr int kTile = 8, kMaxTile = 8;
constexpr int kTogether = 2;     // vectors of outputs that share a read of a token
constexpr int kPrefetchFrom = 1; // tokens from which weights are prefetched (tiles.h)
constexpr int kSumsAtOnce = 2;   // groups of sixteen attention sums that each vector runs at once
constexpr const char* kIsa = "neon";

using V = float32x4_t;
using VI = int32x4_t;
using VB = uint8x16_t;

inline V vset(float x) { return vdupq_n_f32(x); }
inline V vload(const float* p) { return vld1q_f32(p); }
inline void vstore(float* p, V x) { vst1q_f32(p, x); }
inline V vadd(V a, V b) { return vaddq_f32(a, b); }
inline V vsub(V a, V b) { return vsubq_f32(a, b); }
inline V vmul(V a, V b) { return vmulq_f32(a, b); }
inline V vdiv(V a, V b) { return vdivq_f32(a, b); }
inline V vmax(V a, V b) { return vmaxq_f32(a, b); }
inline V vmin(V a, V b) { return vminq_f32(a, b); }
inline V vfma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
inline V vabs(V a) { return vabsq_f32(a); }
inline V vlarger(V a, V b) {
    return vreinterpretq_f32_s32(vmaxq_s32(vreinterpretq_s32_f32(a), vreinterpretq_s32_f32(b)));
}
inline V vkeep(V x, V test, V limit) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), vcltq_f32(test, limit)));
}

inline float vsum(V x) { return vaddv_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x))); }
inline float vtop(V x) { return vmaxv_f32(vmax_f32(vget_low_f32(x), vget_high_f32(x))); }
inline float vlargest(V x) {
    const int32_t bits = vmaxvq_s32(vreinterpretq_s32_f32(x));
    float largest;
    __builtin_memcpy(&largest, &bits, 4);
    return largest;
}

inline VI viset(int x) { return vdupq_n_s32(x); }
inline VI viadd(VI a, VI b) { return vaddq_s32(a, b); }
inline VI viload(const uint8_t* p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
inline VI viload_words(const uint8_t* p) { // 2 bytes a lane, unsigned
    return vreinterpretq_s32_u32(vmovl_u16(vreinterpret_u16_u8(vld1_u8(p))));
}
inline VI viand(VI a, int mask) { return vandq_s32(a, viset(mask)); }
// Moved down by `right` bits, or up where it is negative.
inline VI vishift(VI a, int right) {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), viset(-right)));
}
inline VI visigned_byte(VI a, int byte) { // byte 0 or 1, with its sign
    return vshrq_n_s32(vshlq_s32(a, viset(24 - 8 * byte)), 24);
}
inline VI vnearest(V x) { return vcvtnq_s32_f32(x); }
inline V vfloat(VI x) { return vcvtq_f32_s32(x); }
inline V vpower_of_two(VI n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
inline void vstore_int8(int8_t* p, VI x) {
    const int16x4_t words = vqmovn_s32(x);
    const int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
    vst1_lane_s32(reinterpret_cast<int32_t*>(p), vreinterpret_s32_s8(bytes), 0);
}
inline V vload_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline V vload_brain(const uint16_t* p) { // bfloat16
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
inline void vstore_half(uint16_t* p, V x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }

inline VB vbytes(const uint8_t* p) { return vld1q_u8(p); }
inline VB vlow(VB x) { return vandq_u8(x, vdupq_n_u8(15)); }
inline VB vhigh(VB x) { return vshrq_n_u8(x, 4); }
// Of each byte the bits under `mask`, moved up by `left` places, or down where it is negative.
inline VB vbits(VB x, int left, int mask) {
    const VB moved = vshlq_u8(x, vdupq_n_s8(static_cast<int8_t>(left)));
    return vandq_u8(moved, vdupq_n_u8(static_cast<uint8_t>(mask)));
}
inline VB vor(VB a, VB b) { return vorrq_u8(a, b); }
inline VB vlookup(const uint8_t* table, VB nibbles) { // table: 16 bytes
    return vqtbl1q_u8(vld1q_u8(table), nibbles);
}
using VQ = int8x16_t; // four int8 of a token, in every lane
inline VQ vfour(const int8_t* q) {
    int32_t four;
    __builtin_memcpy(&four, q, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
// Products of small unsigned values, added up.
constexpr bool kNarrowSums = false; // they are in 32 bits
using VN = int32x4_t;
inline VN vnibbles(VN sum, VB w, VQ q) { return vdotq_s32(sum, vreinterpretq_s8_u8(w), q); }
inline VI vnibbles_sum(VN sum) { return sum; }

// Products of bytes that hold a signed value + 128.
inline VI vbytes_dot(VI sum, VB w, VQ q) {
    return vdotq_s32(sum, vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(128))), q);
}
inline VI vbytes_sum(VI sum, int32_t) { return sum; }

} // namespace lk
