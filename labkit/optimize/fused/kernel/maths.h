// Sixteen floats at a time on any processor, and the mathematics that the decoder needs.
//
// Sums are taken over the same sixteen lanes in the same order, however wide a vector is. So every
// processor, and every mix of rows, gives the same bits.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "isa.h"

namespace lk {

constexpr int kWide = 16;
constexpr int kParts = kWide / kLanes;

struct F {
    V part[kParts];
};

template <class Of>
inline F wide(Of of) {
    F out;
#pragma GCC unroll 4
    for (int i = 0; i < kParts; i++) out.part[i] = of(i);
    return out;
}

inline F fset(float x) {
    return wide([&](int) { return vset(x); });
}
inline V vload(const uint16_t* p) { return vload_half(p); }
inline F fload(const float* p) {
    return wide([&](int i) { return vload(p + i * kLanes); });
}
inline F fload(const uint16_t* p) {
    return wide([&](int i) { return vload(p + i * kLanes); });
}
inline void fstore(float* p, const F& x) {
    for (int i = 0; i < kParts; i++) vstore(p + i * kLanes, x.part[i]);
}
inline F fadd(const F& a, const F& b) {
    return wide([&](int i) { return vadd(a.part[i], b.part[i]); });
}
inline F fsub(const F& a, const F& b) {
    return wide([&](int i) { return vsub(a.part[i], b.part[i]); });
}
inline F fmul(const F& a, const F& b) {
    return wide([&](int i) { return vmul(a.part[i], b.part[i]); });
}
inline F fdiv(const F& a, const F& b) {
    return wide([&](int i) { return vdiv(a.part[i], b.part[i]); });
}
inline F fmax(const F& a, const F& b) {
    return wide([&](int i) { return vmax(a.part[i], b.part[i]); });
}
inline F fabs(const F& a) {
    return wide([&](int i) { return vabs(a.part[i]); });
}
inline F flarger(const F& a, const F& b) { // neither negative
    return wide([&](int i) { return vlarger(a.part[i], b.part[i]); });
}
inline F ffma(const F& a, const F& b, const F& c) {
    return wide([&](int i) { return vfma(a.part[i], b.part[i], c.part[i]); });
}

inline void fstore(uint16_t* p, const F& x) { // beyond kFiniteHalf infinite
    for (int i = 0; i < kParts; i++) vstore_half(p + i * kLanes, x.part[i]);
}

// Sums and maxima over the sixteen lanes by a fixed tree: lanes i and i + 8, then + 4, + 2, + 1.
// Here down to one vector; vsum and vtop go on within it.
template <class Both>
inline V folded(const F& x, Both both) {
    V part[kParts];
    std::copy_n(x.part, kParts, part);
    for (int half = kParts / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] = both(part[i], part[i + half]);
    return part[0];
}
inline float sum16(const F& x) { return vsum(folded(x, vadd)); }
inline float max16(const F& x) { return vtop(folded(x, vmax)); } // may lose a NaN
inline float largest16(const F& x) { return vlargest(folded(x, vlarger)); } // of none negative

// A size that is not <= this is infinite or NaN.
constexpr float kFinite = std::numeric_limits<float>::max();
// The largest float that is rounded to a finite float16: that to 65504, the next one to infinity.
constexpr float kFiniteHalf = 65519.996f;

// e^x for x <= 88, exactly 0 below -87, NaN of a NaN: 2^n times a polynomial on [-ln2/2, ln2/2], to
// 2 ulp (coefficients of Cephes' expf, S. Moshier).
inline V vexp(V x) {
    const V lowest = vset(-87.0f);
    const V clipped = vmin(vset(88.0f), vmax(lowest, x)); // in this order a NaN stays
    const VI n = vnearest(vmul(clipped, vset(1.44269504f)));
    V r = vfma(vfloat(n), vset(-0.693359375f), clipped);
    r = vfma(vfloat(n), vset(2.12194440e-4f), r);
    V p = vset(1.9875691500e-4f);
    for (float c :
         {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = vfma(p, r, vset(c));
    p = vadd(vfma(vmul(r, r), p, r), vset(1.0f));
    return vkeep(vmul(p, vpower_of_two(n)), x, lowest);
}
inline F fexp(const F& x) {
    return wide([&](int i) { return vexp(x.part[i]); });
}
inline float exp1(float x) {
    float out[kWide];
    fstore(out, fexp(fset(x)));
    return out[0];
}

// silu(gate) * up, with silu(g) = g / (1 + e^-g) (Shazeer, 2002.05202)
inline F swiglu(const F& gate, const F& up) {
    const F one = fset(1.0f);
    return fmul(fdiv(gate, fadd(one, fexp(fsub(fset(0.0f), gate)))), up);
}

// gelu(gate) * up with the tanh form of GELU (Hendrycks and Gimpel, 1606.08415). As
// (1 + tanh(z)) / 2 = 1 / (1 + e^-2z), it is silu with another exponent:
// -2 sqrt(2 / pi) (g + 0.044715 g^3).
inline F geglu(const F& gate, const F& up) {
    const F one = fset(1.0f);
    const F cubic = ffma(fmul(gate, gate), fset(0.044715f), one);
    const F exponent = fmul(fmul(gate, cubic), fset(-1.5957691216057308f));
    return fmul(fdiv(gate, fadd(one, fexp(exponent))), up);
}

// 1 / rms(x) (Zhang and Sennrich, 1910.07467); n a multiple of 16
inline float rms_scale(const float* x, int n, float eps) {
    F squares = fset(0.0f);
    for (int i = 0; i < n; i += kWide) squares = ffma(fload(x + i), fload(x + i), squares);
    return 1.0f / std::sqrt(sum16(squares) / static_cast<float>(n) + eps);
}

// x * scale * weight, in place.
inline void scale_by(float* x, float scale, const float* weight, int n) {
    const F by = fset(scale);
    for (int i = 0; i < n; i += kWide)
        fstore(x + i, fmul(fmul(fload(x + i), by), fload(weight + i)));
}

inline void rms_norm(float* x, const float* weight, int n, float eps) {
    scale_by(x, rms_scale(x, n, eps), weight, n);
}

// The next multiple of sixteen.
constexpr int whole(int count) { return (count + kWide - 1) / kWide * kWide; }

// Fetch bytes that are read soon: into the first cache, or into the second.
template <int kCache = 1>
inline void prefetch(const void* from, int bytes) {
    for (int line = 0; line < bytes; line += 64)
        __builtin_prefetch(static_cast<const char*>(from) + line, 0, 4 - kCache);
}

// The index of the largest of `count` values, the first among equals; -1 unless all are finite.
inline int likeliest(const float* x, int count) {
    F top = fset(x[0]), sizes = fset(0.0f);
    int i = 0;
    for (; i + kWide <= count; i += kWide) {
        const F some = fload(x + i);
        top = fmax(top, some);
        sizes = flarger(sizes, fabs(some));
    }
    float largest = max16(top), size = largest16(sizes);
    for (; i < count; i++) {
        largest = x[i] > largest ? x[i] : largest;
        size += std::fabs(x[i]); // finite if both are
    }
    if (!(size <= kFinite)) return -1;
    for (i = 0; x[i] != largest;) i++;
    return i;
}

// The indices of the `wanted` largest of `count` values, the first among equals, and their softmax
// over all values. False, and nothing is written, unless all are finite.
[[nodiscard]] inline bool likely(const float* x, int count, int wanted, int64_t* at,
                                 float* chances) {
    if (likeliest(x, count) < 0) return false;
    int found = 0;
    for (int i = 0; i < count; i++) {
        if (found == wanted && !(x[i] > x[at[found - 1]])) continue;
        int rank = found < wanted ? found++ : found - 1;
        for (; rank > 0 && x[i] > x[at[rank - 1]]; rank--) at[rank] = at[rank - 1];
        at[rank] = i;
    }
    const F largest = fset(x[at[0]]);
    F weights = fset(0.0f);
    int i = 0;
    for (; i + kWide <= count; i += kWide)
        weights = fadd(weights, fexp(fsub(fload(x + i), largest)));
    float all = sum16(weights);
    for (; i < count; i++) all += exp1(x[i] - x[at[0]]);
    for (int n = 0; n < wanted; n++) chances[n] = exp1(x[at[n]] - x[at[0]]) / all;
    return true;
}

} // namespace lk
