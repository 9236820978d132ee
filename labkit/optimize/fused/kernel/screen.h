// The likeliest token without all logits.
//
// A copy of the head in fewer bits, the screen, tells every logit to within what is known: with
// weights w, their copy s and an input x, |(w - s) x| <= |w - s| |x| (Cauchy and Schwarz), and the
// first factor is kept for each row, rounding errors of both products included (screen.py). So
// only groups of sixteen logits that may hold one above the best found need the head itself.
#pragma once
#include <algorithm>
#include <limits>

#include "product.h"

namespace lk {

// Drafted rows whose likeliest tokens are still found so: of more, the product with the screen takes
// as long as that with the head, and each row's search some 60 us besides.
constexpr int kScreenRows = 4;

struct Best {
    float value = -std::numeric_limits<float>::infinity();
    int64_t row = 0;
    int64_t exact = 0; // groups that were computed from the head

    // As `likeliest` has it: the first among equals.
    void take(float other, int64_t at) {
        if (other > value || (other == value && at < row)) value = other, row = at;
    }
};

// |x| of a token as the products see it, no less.
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

// What the screen says of a token, group by group of sixteen.
struct Screened {
    const float* said;  // logits by the screen
    const float* error; // of each row, for an input of length 1
    float length;       // of the input

    // The most that one of groups first..last - 1 may be.
    float most(int first, int last) const {
        F top = at(first);
        for (int g = first + 1; g < last; g++) top = fmax(top, at(g));
        return max16(top);
    }

private:
    F at(int g) const {
        return ffma(fload(error + g * kWide), fset(length), fload(said + g * kWide));
    }
};

constexpr int kScreenStep = 8; // groups looked at together: few of them hold a candidate

// visit(group, the most it may be) for every group that may reach floor(), which may rise.
template <class Floor, class Visit>
inline void candidates(const Screened& screened, int first, int end, Floor floor, Visit visit) {
    for (int from = first; from < end; from += kScreenStep) {
        const int to = std::min(from + kScreenStep, end);
        if (screened.most(from, to) < floor()) continue; // no number is no reason to pass over
        for (int g = from; g < to; g++)
            if (const float most = screened.most(g, g + 1); !(most < floor())) visit(g, most);
    }
}

// The group of which most is said.
inline int promising(const Screened& screened, int first, int end) {
    const Screened said{screened.said, screened.error, 0.0f}; // without the error
    Best best;
    best.row = first;
    candidates(said, first, end, [&] { return best.value; },
               [&](int g, float most) { best.take(most, g); });
    return static_cast<int>(best.row);
}

} // namespace lk
