// AVX2 with FMA and F16C: a vector is 8 lanes, and bytes are multiplied in pairs.
#pragma once
#include <immintrin.h>

namespace lk {

constexpr int kLanes = 8;
constexpr int kTile = 4,
              kMaxTile =
                  6; // most tokens that a weight is multiplied with at once; for few in one tile
constexpr int kTogether = 2;     // vectors of outputs that share a read of a token
constexpr int kPrefetchFrom = 1; // tokens from which weights are prefetched (tiles.h)
constexpr int kSumsAtOnce = 2;   // groups of sixteen attention sums that each vector runs at once
constexpr const char* kIsa = "avx2";

using V = __m256;
using VI = __m256i;
using VB = __m256i;

inline V vset(float x) { return _mm256_set1_ps(x); }
inline V vload(const float* p) { return _mm256_loadu_ps(p); }
inline void vstore(float* p, V x) { _mm256_storeu_ps(p, x); }
inline V vadd(V a, V b) { return _mm256_add_ps(a, b); }
inline V vsub(V a, V b) { return _mm256_sub_ps(a, b); }
inline V vmul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V vdiv(V a, V b) { return _mm256_div_ps(a, b); }
inline V vmax(V a, V b) { return _mm256_max_ps(a, b); }
inline V vmin(V a, V b) { return _mm256_min_ps(a, b); }
inline V vfma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V vabs(V a) { return _mm256_andnot_ps(vset(-0.0f), a); }
inline V vlarger(V a, V b) {
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
inline V vkeep(V x, V test, V limit) {
    return _mm256_and_ps(_mm256_cmp_ps(test, limit, _CMP_NLT_UQ), x);
}

inline float vsum(V x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float vtop(V x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
inline float vlargest(V x) {
    const __m256i of = _mm256_castps_si256(x);
    __m128i s = _mm_max_epi32(_mm256_castsi256_si128(of), _mm256_extracti128_si256(of, 1));
    s = _mm_max_epi32(s, _mm_unpackhi_epi64(s, s));
    s = _mm_max_epi32(s, _mm_shuffle_epi32(s, 1));
    return _mm_cvtss_f32(_mm_castsi128_ps(s));
}

inline VI viset(int x) { return _mm256_set1_epi32(x); }
inline VI viadd(VI a, VI b) { return _mm256_add_epi32(a, b); }
inline VI viload(const uint8_t* p) { // 4 bytes a lane
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline VI viload_words(const uint8_t* p) { // 2 bytes a lane, unsigned
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline VI viand(VI a, int mask) { return _mm256_and_si256(a, viset(mask)); }
// Moved down by `right` bits, or up where it is negative.
inline VI vishift(VI a, int right) {
    if (right < 0) return _mm256_sll_epi32(a, _mm_cvtsi32_si128(-right));
    return _mm256_srl_epi32(a, _mm_cvtsi32_si128(right));
}
inline VI visigned_byte(VI a, int byte) { // byte 0 or 1, with its sign
    return _mm256_srai_epi32(_mm256_sll_epi32(a, _mm_cvtsi32_si128(24 - 8 * byte)), 24);
}
inline VI vnearest(V x) { return _mm256_cvtps_epi32(x); }
inline V vfloat(VI x) { return _mm256_cvtepi32_ps(x); }
inline V vpower_of_two(VI n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, viset(127)), 23));
}
inline void vstore_int8(int8_t* p, VI x) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
inline V vload_half(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline V vload_brain(const uint16_t* p) { // bfloat16
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(viload_words(reinterpret_cast<const uint8_t*>(p)), 16));
}
inline void vstore_half(uint16_t* p, V x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

inline VB vbytes(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline VB vlow(VB x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
inline VB vhigh(VB x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15)); }
// Of each byte the bits under `mask`, moved up by `left` places, or down where it is negative.
inline VB vbits(VB x, int left, int mask) {
    const VB moved = left > 0 ? _mm256_slli_epi16(x, left) : _mm256_srli_epi16(x, -left);
    return _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(mask)));
}
inline VB vor(VB a, VB b) { return _mm256_or_si256(a, b); }
inline VB vlookup(const uint8_t* table, VB nibbles) { // table: 16 bytes
    const __m128i of = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(of), nibbles);
}
using VQ = __m256i; // four int8 of a token, in every lane
inline VQ vfour(const int8_t* q) {
    int four;
    __builtin_memcpy(&four, q, 4);
    return _mm256_set1_epi32(four);
}
inline VI vpairs(__m256i words) { return _mm256_madd_epi16(words, _mm256_set1_epi16(1)); }

// Products of small unsigned values, added up in 16 bits, so that lanes become 32 bits wide only at
// the end of a run (Form::run): eight times a pair of at most 15 x 127 still fits 16 bits; with a
// fifth bit four times, with a sixth twice.
constexpr bool kNarrowSums = true;
using VN = __m256i;
inline VN vnibbles(VN sum, VB w, VQ q) {
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, q));
    // g++ may reorder integer sums: it would compute and spill all products first, then add them.
    asm("" : "+x"(sum));
    return sum;
}
inline VI vnibbles_sum(VN sum) { return vpairs(sum); }

// Products of bytes that hold a signed value + 128. maddubs adds two of them in 16 bits: 255 x 127
// twice would overflow. With the value's magnitude (at most 128) and its sign moved to q,
// 2 x 128 x 127 just fits.
inline VI vbytes_dot(VI sum, VB w, VQ q) {
    const __m256i value = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
    const __m256i words = _mm256_maddubs_epi16(_mm256_abs_epi8(value), _mm256_sign_epi8(q, value));
    sum = _mm256_add_epi32(sum, vpairs(words));
    asm("" : "+x"(sum)); // as above
    return sum;
}
inline VI vbytes_sum(VI sum, int32_t) { return sum; }

} // namespace lk
