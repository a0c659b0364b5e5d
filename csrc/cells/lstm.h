// LSTM with a forget gate (Gers et al. 2000): i, f, o = σ(·), g = tanh(·), c' = f c + i g, h' = o tanh(c').
#pragma once

#include "../vec.h"

namespace recurra::RECURRA_ISA {
namespace {

struct Lstm {
    static constexpr int slots = 4, units = 1;  // i f g o, one vector of units to a block
    static constexpr int x_from = 0, x_to = 4, h_from = 0, h_to = 4;
    static constexpr int gate_of_x(int slot) { return slot; }
    static constexpr int gate_of_h(int slot) { return slot; }
    static constexpr bool has_cell = true, carries_hidden = false, normed = false;
    static constexpr int params = 0, cells = 1;

    // The new cell state from the gates and the one before.
    static RECURRA_INLINE V cell(const V* a, V c_before) { return a[1] * c_before + rounded(a[0] * a[2]); }

    static RECURRA_INLINE V forward(V* a, V c_before, V, V& c) {
        a[0] = sigmoid(a[0]);
        a[1] = sigmoid(a[1]);
        a[2] = tanh(a[2]);
        a[3] = sigmoid(a[3]);
        c = cell(a, c_before);
        return a[3] * tanh(c);
    }

    static RECURRA_INLINE V backward(V* a, V c, V c_before, V, V dh, V carry) {
        const V i = a[0], f = a[1], g = a[2], o = a[3];
        const V tanh_c = tanh(c);
        const V dc = carry + dh * o * (1.0f - tanh_c * tanh_c);
        a[0] = dc * g * i * (1.0f - i);
        a[1] = dc * c_before * f * (1.0f - f);
        a[2] = dc * i * (1.0f - g * g);
        a[3] = dh * tanh_c * o * (1.0f - o);
        return dc * f;
    }

    // o tanh(c), what a projection multiplies.
    static RECURRA_INLINE V shown(const V* a, V c) { return a[3] * tanh(c); }
};

}  // namespace
}  // namespace recurra::RECURRA_ISA
