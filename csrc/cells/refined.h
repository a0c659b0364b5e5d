// A coupled LSTM whose forget gate is moved towards 0 or 1 by a refine gate r (Gu et al. 2020):
// e = 2 r f + (1 - 2 r) f², c' = e c + (1 - e) g, h' = o tanh(c').
#pragma once

#include "../vec.h"

namespace recurra::RECURRA_ISA {
namespace {

struct Refined {
    static constexpr int slots = 4, units = 1;  // f r g o
    static constexpr int x_from = 0, x_to = 4, h_from = 0, h_to = 4;
    static constexpr int gate_of_x(int slot) { return slot; }
    static constexpr int gate_of_h(int slot) { return slot; }
    static constexpr bool has_cell = true, carries_hidden = false, normed = false;
    static constexpr int params = 0, cells = 1;

    // How much of the cell stays.
    static RECURRA_INLINE V effective(V f, V r) { return f * (2.0f * r + (1.0f - 2.0f * r) * f); }

    static RECURRA_INLINE V cell(const V* a, V c_before) {
        const V e = rounded(effective(a[0], a[1]));
        return e * c_before + rounded((1.0f - e) * a[2]);
    }

    static RECURRA_INLINE V forward(V* a, V c_before, V, V& c) {
        a[0] = sigmoid(a[0]);
        a[1] = sigmoid(a[1]);
        a[2] = tanh(a[2]);
        a[3] = sigmoid(a[3]);
        c = cell(a, c_before);
        return a[3] * tanh(c);
    }

    static RECURRA_INLINE V backward(V* a, V c, V c_before, V, V dh, V carry) {
        const V f = a[0], r = a[1], g = a[2], o = a[3];
        const V tanh_c = tanh(c), e = effective(f, r);
        const V dc = carry + dh * o * (1.0f - tanh_c * tanh_c);
        const V de = dc * (c_before - g);
        a[0] = de * 2.0f * (r + (1.0f - 2.0f * r) * f) * f * (1.0f - f);
        a[1] = de * 2.0f * f * (1.0f - f) * r * (1.0f - r);
        a[2] = dc * (1.0f - e) * (1.0f - g * g);
        a[3] = dh * tanh_c * o * (1.0f - o);
        return dc * e;
    }

    static RECURRA_INLINE V shown(const V* a, V c) { return a[3] * tanh(c); }
};

}  // namespace
}  // namespace recurra::RECURRA_ISA
