// AVX-512 with VNNI: a vector is 16 lanes.
#pragma once
#include <immintrin.h>

namespace lk {

constexpr int kLanes = 16;               // output rows a vector works on
constexpr int kTile = 12, kMaxTile = 12; // most tokens that a weight is multiplied with at once;
                                         // for few in one tile
constexpr int kTogether = 1; // vectors of outputs that share a read of a token
#if defined(LK_INTEL)        // tokens from which weights are prefetched (tiles.h)
constexpr int kPrefetchFrom = 1;
#else
constexpr int kPrefetchFrom = 3;
#endif
constexpr int kSumsAtOnce = 4; // groups of sixteen attention sums that each vector runs at once

constexpr const char* kIsa = "avx512vnni";

using V = __m512;   // kLanes floats
using VI = __m512i; // kLanes int32
using VB = __m512i; // 4 bytes a lane

inline V vset(float x) { return _mm512_set1_ps(x); }
inline V vload(const float* p) { return _mm512_loadu_ps(p); }
inline void vstore(float* p, V x) { _mm512_storeu_ps(p, x); }
inline V vadd(V a, V b) { return _mm512_add_ps(a, b); }
inline V vsub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V vmul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V vdiv(V a, V b) { return _mm512_div_ps(a, b); }
inline V vmax(V a, V b) { return _mm512_max_ps(a, b); }
inline V vmin(V a, V b) { return _mm512_min_ps(a, b); }
inline V vfma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V vabs(V a) { return _mm512_abs_ps(a); }
// The larger of floats that are not negative, a NaN being the largest: their bits as integers.
inline V vlarger(V a, V b) {
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
// 0 where test < limit, else x: a NaN is kept.
inline V vkeep(V x, V test, V limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, limit, _CMP_NLT_UQ), x);
}

inline __m256 vupper(V x) { // lanes 8..15
    return _mm256_castsi256_ps(_mm512_extracti64x4_epi64(_mm512_castps_si512(x), 1));
}
inline float vsum(V x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), vupper(x));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float vtop(V x) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), vupper(x));
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
inline float vlargest(V x) {
    const __m256i eight = _mm256_max_epi32(_mm512_castsi512_si256(_mm512_castps_si512(x)),
                                           _mm256_castps_si256(vupper(x)));
    __m128i s = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    s = _mm_max_epi32(s, _mm_unpackhi_epi64(s, s));
    s = _mm_max_epi32(s, _mm_shuffle_epi32(s, 1));
    return _mm_cvtss_f32(_mm_castsi128_ps(s));
}

inline VI viset(int x) { return _mm512_set1_epi32(x); }
inline VI viadd(VI a, VI b) { return _mm512_add_epi32(a, b); }
inline VI viload(const uint8_t* p) { return _mm512_loadu_si512(p); } // 4 bytes a lane
inline VI viload_words(const uint8_t* p) {                           // 2 bytes a lane, unsigned
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline VI viand(VI a, int mask) { return _mm512_and_si512(a, viset(mask)); }
// Moved down by `right` bits, or up where it is negative.
inline VI vishift(VI a, int right) {
    if (right < 0) return _mm512_sll_epi32(a, _mm_cvtsi32_si128(-right));
    return _mm512_srl_epi32(a, _mm_cvtsi32_si128(right));
}
inline VI visigned_byte(VI a, int byte) { // byte 0 or 1, with its sign
    return _mm512_srai_epi32(_mm512_sll_epi32(a, _mm_cvtsi32_si128(24 - 8 * byte)), 24);
}
inline VI vnearest(V x) { return _mm512_cvtps_epi32(x); } // ties to even
inline V vfloat(VI x) { return _mm512_cvtepi32_ps(x); }
inline V vpower_of_two(VI n) { // n in -126..127
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, viset(127)), 23));
}
inline void vstore_int8(int8_t* p, VI x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
}
inline V vload_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline V vload_brain(const uint16_t* p) { // bfloat16
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(viload_words(reinterpret_cast<const uint8_t*>(p)), 16));
}
inline void vstore_half(uint16_t* p, V x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

inline VB vbytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline VB vlow(VB x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline VB vhigh(VB x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }
// Of each byte the bits under `mask`, moved up by `left` places, or down where it is negative.
inline VB vbits(VB x, int left, int mask) {
    const VB moved = left > 0 ? _mm512_slli_epi16(x, left) : _mm512_srli_epi16(x, -left);
    return _mm512_and_si512(moved, _mm512_set1_epi8(static_cast<char>(mask)));
}
inline VB vor(VB a, VB b) { return _mm512_or_si512(a, b); }
inline VB vlookup(const uint8_t* table, VB nibbles) { // table: 16 bytes
    const __m128i of = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(of), nibbles);
}
using VQ = __m512i; // four int8 of a token, in every lane
inline VQ vfour(const int8_t* q) {
    int four;
    __builtin_memcpy(&four, q, 4);
    return _mm512_set1_epi32(four);
}
// Products of small unsigned values, added up.
constexpr bool kNarrowSums = false; // they are in 32 bits
using VN = __m512i;
inline VN vnibbles(VN sum, VB w, VQ q) { return _mm512_dpbusd_epi32(sum, w, q); }
inline VI vnibbles_sum(VN sum) { return sum; }

// Products of bytes that hold a signed value + 128, taken back with the sum of q.
inline VI vbytes_dot(VI sum, VB w, VQ q) { return _mm512_dpbusd_epi32(sum, w, q); }
inline VI vbytes_sum(VI sum, int32_t sum_of_q) {
    return _mm512_add_epi32(sum, viset(-128 * sum_of_q));
}

} // namespace lk
