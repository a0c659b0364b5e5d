// LSTM with layer normalisation (Ba et al. 2016): the input's sums x and the state's sums h, each normalised,
// i, f, o = σ(x + h), g = tanh(x + h), c' = f c + i g, h' = o tanh(n), n being c' normalised. See normed.h.
#pragma once

#include "../vec.h"

namespace recurra::RECURRA_ISA {
namespace {

struct NormLstm {
    // The sums of x and of h for i f g o, as they are before normalisation.
    static constexpr int slots = 8, units = 1;
    static constexpr int x_from = 0, x_to = 4, h_from = 4, h_to = 8;
    static constexpr int gate_of_x(int slot) { return slot - x_from; }
    static constexpr int gate_of_h(int slot) { return slot - h_from; }
    static constexpr bool has_cell = true, carries_hidden = false, normed = true;
    static constexpr int gates = 4, groups = 1;
    static constexpr int group_from(int group) { return group ? gates : 0; }
    static constexpr int part_of_h(int gate) { return gate; }  // of a, whose gradient is that of h
    static constexpr int params = 10, cells = 1;  // what multiplies x, h and n; what is added to n

    // a: i f g o.
    static RECURRA_INLINE V cell(const V* a, V c_before) { return a[1] * c_before + rounded(a[0] * a[2]); }

    static RECURRA_INLINE void activate(V* a, const V* x, const V* h) {
        a[0] = sigmoid(x[0] + h[0]);
        a[1] = sigmoid(x[1] + h[1]);
        a[2] = tanh(x[2] + h[2]);
        a[3] = sigmoid(x[3] + h[3]);
    }
};

}  // namespace
}  // namespace recurra::RECURRA_ISA
