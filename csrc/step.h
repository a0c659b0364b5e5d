// One step of a few rows, for streaming. The weights are read as they lie, row by row: to pack them would
// cost more than the products, and a packed copy kept from call to call could be stale.
#pragma once

#include "layout.h"

namespace recurra::RECURRA_ISA {
namespace {

// Lane j: the sum of all lanes of sums[j].
template <int half>
RECURRA_INLINE void add_across(V (&sums)[lanes]) {
    if constexpr (half > 0) {
#ifdef RECURRA_SHUFFLES
        RECURRA_UNROLL
        for (int i = 0; i < half; i++) {
            exchange<half>(sums[i], sums[i + half], CountLanes<lanes>::type());
            sums[i] += sums[i + half];
        }
        add_across<half / 2>(sums);
#else
        V total = {};
        for (int i = 0; i < lanes; i++)
            for (int j = 0; j < lanes; j++) total[i] += sums[i][j];
        sums[0] = total;
#endif
    }
}

// sums[j] += the products of the row weights + j · depth with x, lane by lane, for j < rows.
template <bool whole>
RECURRA_INLINE void add_products(V (&sums)[lanes], const float* weights, const float* x, i64 depth,
                                 i64 rows) {
    i64 k = 0;
    for (; k + lanes <= depth; k += lanes) {
        const V factor = load(x + k);
        RECURRA_UNROLL
        for (int j = 0; j < lanes; j++)
            if (whole || j < rows) sums[j] += load(weights + j * depth + k) * factor;
    }
    if (k == depth) return;
    const V factor = load(x + k, depth - k);
    RECURRA_UNROLL
    for (int j = 0; j < lanes; j++)
        if (whole || j < rows) sums[j] += load(weights + j * depth + k, depth - k) * factor;
}

// One vector of units of one row: the gates' sums, then the cell.
template <class C, bool whole>
RECURRA_NOINLINE void step_units(const StepCall& call, const float* x, const float* h, const float* c,
                                 float* h_out, float* c_out, i64 v, i64 units) {
    const i64 hidden = call.hidden;
    V a[C::slots];
    for (int slot = 0; slot < C::slots; slot++) {
        V sums[lanes], bias = {};
        RECURRA_UNROLL
        for (int j = 0; j < lanes; j++) sums[j] = V{};
        if (slot >= C::x_from && slot < C::x_to) {
            const i64 row = C::gate_of_x(slot) * hidden + v * lanes;
            add_products<whole>(sums, call.w_ih + row * call.features, x, call.features, units);
            if (call.b_ih) bias += load(call.b_ih + row, units);
        }
        if (slot >= C::h_from && slot < C::h_to) {
            const i64 row = C::gate_of_h(slot) * hidden + v * lanes;
            if (h) add_products<whole>(sums, call.w_hh + row * hidden, h, hidden, units);
            if (call.b_hh) bias += load(call.b_hh + row, units);
        }
        add_across<lanes / 2>(sums);
        a[slot] = sums[0] + bias;
    }
    V c_new;
    const Parameters<C> own(call.own, hidden, v, units);
    const V c_before = c ? load(c + v * lanes, units) : V{}, h_before = h ? load(h + v * lanes, units) : V{};
    const V h_new = cell_forward<C>(a, c_before, h_before, c_new, own);
    store(h_out + v * lanes, h_new, units);
    if (C::has_cell) store(c_out + v * lanes, c_new, units);
}

template <class C>
void step(const StepCall& call) {
    const i64 hidden = call.hidden;
    for (i64 row = 0; row < call.rows; row++)
        for (i64 v = 0; v * lanes < hidden; v++) {
            const float *x = call.x + row * call.features, *h = call.h ? call.h + row * hidden : nullptr;
            const float* c = call.c ? call.c + row * hidden : nullptr;
            float *h_out = call.h_out + row * hidden,
                  *c_out = C::has_cell ? call.c_out + row * hidden : nullptr;
            const i64 units = smaller(lanes, hidden - v * lanes);
            if (units == lanes) step_units<C, true>(call, x, h, c, h_out, c_out, v, units);
            else step_units<C, false>(call, x, h, c, h_out, c_out, v, units);
        }
    if (call.y) memcpy(call.y, call.h_out, call.rows * hidden * sizeof(float));
}

}  // namespace
}  // namespace recurra::RECURRA_ISA
