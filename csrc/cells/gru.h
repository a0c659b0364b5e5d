// GRU with the reset gate after the product, as torch and cuDNN have it (Cho et al. 2014):
// r, z = σ(·), n = tanh(W_n x + b_in + r (R_n h + b_hn)), h' = n + z (h - n).
#pragma once

#include "../vec.h"

namespace recurra::RECURRA_ISA {
namespace {

struct Gru {
    // n r z q, where n takes the input's part of the candidate and q the state's: x fills 0–2 and h fills
    // 1–3.
    static constexpr int slots = 4, units = 1;
    static constexpr int x_from = 0, x_to = 3, h_from = 1, h_to = 4;
    static constexpr int gate_of_x(int slot) { return slot == 0 ? 2 : slot - 1; }
    static constexpr int gate_of_h(int slot) { return slot == 3 ? 2 : slot - 1; }
    static constexpr bool has_cell = false, carries_hidden = true, normed = false;
    static constexpr int params = 0, cells = 0;

    static RECURRA_INLINE V forward(V* a, V, V h_before, V&) {
        a[1] = sigmoid(a[1]);
        a[2] = sigmoid(a[2]);
        a[0] = tanh(a[0] + a[1] * a[3]);
        return a[0] + a[2] * (h_before - a[0]);
    }

    static RECURRA_INLINE V backward(V* a, V, V, V h_before, V dh, V) {
        const V n = a[0], r = a[1], z = a[2], q = a[3];
        const V dn = dh * (1.0f - z) * (1.0f - n * n);
        a[0] = dn;
        a[1] = dn * q * r * (1.0f - r);
        a[2] = dh * (h_before - n) * z * (1.0f - z);
        a[3] = dn * r;
        return dh * z;
    }
};

}  // namespace
}  // namespace recurra::RECURRA_ISA
