// The plain recurrent cell (Elman 1990): h' = φ(W x + b_ih + R h + b_hh), φ = tanh or relu.
#pragma once

#include "../vec.h"

namespace recurra::RECURRA_ISA {
namespace {

template <bool relu>
struct Rnn {
    static constexpr int slots = 1, units = 2;  // two vectors of units to a block, for longer tiles
    static constexpr int x_from = 0, x_to = 1, h_from = 0, h_to = 1;
    static constexpr int gate_of_x(int) { return 0; }
    static constexpr int gate_of_h(int) { return 0; }
    static constexpr bool has_cell = false, carries_hidden = false, normed = false;
    static constexpr int params = 0, cells = 0;

    static RECURRA_INLINE V forward(V* a, V, V, V&) {
        a[0] = relu ? (0.0f > a[0] ? V{} : a[0]) : tanh(a[0]);  // a NaN stays one
        return a[0];
    }

    // The slope from h' itself: 1 - h'² for tanh; for relu 1 where h' > 0.
    static RECURRA_INLINE V backward(V* a, V, V, V, V dh, V) {
        a[0] = relu ? (0.0f < a[0] ? dh : V{}) : dh * (1.0f - a[0] * a[0]);
        return V{};
    }
};

}  // namespace
}  // namespace recurra::RECURRA_ISA
