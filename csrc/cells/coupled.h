// LSTM whose input gate is 1 - f (Greff et al. 2017): c' = f c + (1 - f) g, h' = o tanh(c').
#pragma once

#include "../vec.h"

namespace recurra::RECURRA_ISA {
namespace {

struct Coupled {
    static constexpr int slots = 3, units = 1;  // f g o
    static constexpr int x_from = 0, x_to = 3, h_from = 0, h_to = 3;
    static constexpr int gate_of_x(int slot) { return slot; }
    static constexpr int gate_of_h(int slot) { return slot; }
    static constexpr bool has_cell = true, carries_hidden = false, normed = false;
    static constexpr int params = 0, cells = 1;

    static RECURRA_INLINE V cell(const V* a, V c_before) {
        return a[0] * c_before + rounded((1.0f - a[0]) * a[1]);
    }

    static RECURRA_INLINE V forward(V* a, V c_before, V, V& c) {
        a[0] = sigmoid(a[0]);
        a[1] = tanh(a[1]);
        a[2] = sigmoid(a[2]);
        c = cell(a, c_before);
        return a[2] * tanh(c);
    }

    static RECURRA_INLINE V backward(V* a, V c, V c_before, V, V dh, V carry) {
        const V f = a[0], g = a[1], o = a[2];
        const V tanh_c = tanh(c);
        const V dc = carry + dh * o * (1.0f - tanh_c * tanh_c);
        a[0] = dc * (c_before - g) * f * (1.0f - f);
        a[1] = dc * (1.0f - f) * (1.0f - g * g);
        a[2] = dh * tanh_c * o * (1.0f - o);
        return dc * f;
    }

    static RECURRA_INLINE V shown(const V* a, V c) { return a[2] * tanh(c); }
};

}  // namespace
}  // namespace recurra::RECURRA_ISA
