// GRU with layer normalisation (Ba et al. 2016): the input's sums x and the state's sums h, each normalised,
// those of r and z together and those of n by themselves; r, z = σ(x + h), n = tanh(x + r h),
// h' = n + z (h - n). See normed.h.
#pragma once

#include "../vec.h"

namespace recurra::RECURRA_ISA {
namespace {

struct NormGru {
    // The sums of x and of h for r z n, as they are before normalisation.
    static constexpr int slots = 6, units = 1;
    static constexpr int x_from = 0, x_to = 3, h_from = 3, h_to = 6;
    static constexpr int gate_of_x(int slot) { return slot - x_from; }
    static constexpr int gate_of_h(int slot) { return slot - h_from; }
    static constexpr bool has_cell = false, carries_hidden = true, normed = true;
    static constexpr int gates = 3, groups = 2;
    static constexpr int group_from(int group) { return group == 2 ? gates : 2 * group; }
    static constexpr int part_of_h(int gate) { return gate == 2 ? 3 : gate; }
    static constexpr int params = 6, cells = 0;  // what multiplies x and h

    // a: r z n, and the state's part of n.
    static RECURRA_INLINE void activate(V* a, const V* x, const V* h) {
        a[0] = sigmoid(x[0] + h[0]);
        a[1] = sigmoid(x[1] + h[1]);
        a[2] = tanh(x[2] + a[0] * h[2]);
        a[3] = h[2];
    }

    static RECURRA_INLINE V hidden(const V* a, V h_before) { return a[2] + a[1] * (h_before - a[2]); }
};

}  // namespace
}  // namespace recurra::RECURRA_ISA
