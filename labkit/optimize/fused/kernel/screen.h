// The likeliest token without all logits.
//
// The screen is a copy of the head in fewer bits. It gives every logit to within a known bound:
// with weights w, their copy s and an input x, |(w - s) x| <= |w - s| |x| (Cauchy and Schwarz). The
// first factor is stored for each row, rounding errors of both products included (screen.py). So
// the head itself is read only for groups of sixteen logits that may contain one above the best
// logit found so far.
#pragma once
#include <algorithm>
#include <limits>

#include "product.h"

namespace lk {

// The most drafted rows whose likeliest tokens are found with the screen. For more, the product
// with the screen takes as long as that with the head, and each row's search adds some 60 us.
constexpr int kScreenRows = 4;

struct Best {
    float value = -std::numeric_limits<float>::infinity();
    int64_t row = 0;
    int64_t exact = 0; // groups computed with the head itself

    // The first among equals, as `likeliest` takes it.
    void take(float other, int64_t at) {
        if (other > value || (other == value && at < row)) value = other, row = at;
    }
};

// |x| of a token as the products see it, rounded up.
inline float length_of(const Activations& from, int token) {
    double squares = 0.0;
    for (int b = 0; b < from.blocks; b++) {
        const TokenBlock& block = *from.at(token, b);
        int sum = 0;
        for (int i = 0; i < kBlock; i++) sum += block.q[i] * block.q[i];
        squares += static_cast<double>(block.scale) * block.scale * sum;
    }
    return static_cast<float>(std::sqrt(squares) * (1.0 + 1e-6));
}

// The screen's logits of a token, and how far off they may be.
struct Estimate {
    const float* logits; // the screen's
    const float* error;  // for each logit, with an input of length 1
    float length;        // of the input

    // The most that a logit of groups first..last - 1 may be.
    float most(int first, int last) const {
        F top = at(first);
        for (int g = first + 1; g < last; g++) top = fmax(top, at(g));
        return max16(top);
    }

    // The most that each logit of a group may be.
    F at(int g) const {
        return ffma(fload(error + g * kWide), fset(length), fload(logits + g * kWide));
    }
};

constexpr int kScreenStep = 8; // groups looked at together: few of them hold a candidate

// Calls visit(group) for every group with a logit that may reach floor(), which may rise meanwhile.
template <class Floor, class Visit>
inline void candidates(const Estimate& estimate, int first, int end, Floor floor, Visit visit) {
    for (int from = first; from < end; from += kScreenStep) {
        const int to = std::min(from + kScreenStep, end);
        if (estimate.most(from, to) < floor()) continue;
        for (int g = from; g < to; g++)
            if (!(estimate.most(g, g + 1) < floor())) visit(g);
    }
}

// The group with the screen's largest logit; -1 unless all that the screen says is finite. Then all
// logits are finite, because each lies within its bounds.
inline int most_promising(const Estimate& estimate, int first, int end) {
    const Estimate logits{estimate.logits, estimate.error, 0.0f}; // without the error
    F sizes = fset(0.0f);
    Best best;
    best.row = first;
    for (int from = first; from < end; from += kScreenStep) {
        const int to = std::min(from + kScreenStep, end);
        for (int g = from; g < to; g++) sizes = flarger(sizes, fabs(estimate.at(g)));
        if (!(logits.most(from, to) > best.value)) continue;
        for (int g = from; g < to; g++) best.take(logits.most(g, g + 1), g);
    }
    return largest16(sizes) <= kFinite ? static_cast<int>(best.row) : -1;
}

} // namespace lk
