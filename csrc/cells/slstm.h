// sLSTM (Beck et al. 2024): i = exp(·) and f = σ(·), both divided by exp(m) so that neither overflows, z =
// tanh(·), o = σ(·); c' = f c + i z, n' = f n + i, h' = o c' / n'. Where n is zero, nothing has been read
// yet.
#pragma once

#include "../vec.h"

namespace recurra::RECURRA_ISA {
namespace {

struct Slstm {
    static constexpr int slots = 4, units = 1;  // i f z o
    static constexpr int x_from = 0, x_to = 4, h_from = 0, h_to = 4;
    static constexpr int gate_of_x(int slot) { return slot; }
    static constexpr int gate_of_h(int slot) { return slot; }
    static constexpr bool has_cell = true, carries_hidden = false, normed = false;
    static constexpr int params = 0, cells = 3;  // c n m

    static RECURRA_INLINE V forward(V* a, const V* before, V, V* now) {
        const V log_f = log_sigmoid(a[1]) + before[2], log_i = a[0];
        const Integers fresh = before[1] == V{};
        const V m = fresh ? log_i : log_f > log_i ? log_f : log_i;
        a[0] = exp(log_i - m);
        a[1] = fresh ? V{} : exp(log_f - m);
        a[2] = tanh(a[2]);
        a[3] = sigmoid(a[3]);
        now[0] = a[1] * before[0] + rounded(a[0] * a[2]);
        now[1] = a[1] * before[1] + a[0];
        now[2] = m;
        return shown(a, now);
    }

    // m counts as a constant, for h' is the same whatever it is; but of the initial states it is one.
    static RECURRA_INLINE void backward(V* a, const V* now, const V* before, V, V dh, V* carry) {
        const V i = a[0], f = a[1], z = a[2], o = a[3];
        const V ratio = now[0] / now[1], scaled = dh * o / now[1];
        const V dc = carry[0] + scaled, dn = carry[1] - scaled * ratio;
        const V sigmoid_f = f * exp(now[2] - before[2]);  // without m
        a[0] = (dc * z + dn) * i;
        const V d_log_f = (dc * before[0] + dn * before[1]) * f;
        a[1] = d_log_f * (1.0f - sigmoid_f);
        a[2] = dc * i * (1.0f - z * z);
        a[3] = dh * ratio * o * (1.0f - o);
        carry[0] = dc * f;
        carry[1] = dn * f;
        carry[2] = d_log_f;
    }

    static RECURRA_INLINE V shown(const V* a, const V* c) { return a[3] * (c[0] / c[1]); }
};

}  // namespace
}  // namespace recurra::RECURRA_ISA
