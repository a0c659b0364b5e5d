// How the workspace lays out units, and where a (rank, reading step) lies in the caller's tensors.
#pragma once

#include "problem.h"
#include "vec.h"

namespace recurra::RECURRA_ISA {
namespace {

// Units are kept in vectors, filled up to whole blocks of the cell's; a unit vector has all its slots side by
// side, so vector v's slot s of a row of gates starts at (v · slots + s) · lanes.
template <class C>
struct Layout {
    static constexpr int x_slots = C::x_to - C::x_from, h_slots = C::h_to - C::h_from;
    static constexpr int width = C::units * C::slots;  // vectors of sums in a block
    i64 hidden;

    i64 blocks() const { return ceil_div(hidden, C::units * lanes); }
    i64 vectors() const { return blocks() * C::units; }
    // One number a unit, and as many as its cell state has: unit vector v's k-th starts at cell_at(v, k).
    i64 unit_width() const { return vectors() * lanes; }
    i64 cell_width() const { return unit_width() * larger(C::cells, 1); }
    static constexpr i64 cell_at(i64 v, i64 k) { return (v * larger(C::cells, 1) + k) * lanes; }
    i64 gates_width() const { return vectors() * C::slots * lanes; }
    // Real units in unit vector v: `lanes`, fewer in the last, none in one that only fills a block.
    i64 units(i64 v) const { return larger(0, smaller(lanes, hidden - v * lanes)); }
};

RECURRA_INLINE float* at(const View& view, i64 row, i64 step) {
    return view.data + row * view.row + (view.offset ? view.offset[step] : step) * view.step;
}

// A schedule read in one direction.
struct Reading {
    const Schedule& schedule;
    bool reverse;

    i64 ranks(i64 step) const { return schedule.start[step + 1] - schedule.start[step]; }
    i64 row(i64 rank) const { return schedule.order[rank]; }
    i64 length(i64 rank) const { return schedule.length[rank]; }
    i64 entry(i64 rank, i64 step) const { return schedule.start[step] + rank; }
    // The time that reading step `step` reads.
    i64 time(i64 rank, i64 step) const { return reverse ? schedule.length[rank] - 1 - step : step; }
    // Whether the state is put back before reading step `step`. In reverse that is between the first step of
    // a piece and the last of the piece before.
    bool resets_before(i64 rank, i64 step) const {
        if (!schedule.resets || step >= length(rank)) return false;
        if (reverse && step == 0) return false;
        return schedule.resets[row(rank) * schedule.steps + time(rank, step) + (reverse ? 1 : 0)];
    }
};

// A cell's own parameters for unit vector v, from (params, H); nothing for a cell that has none.
template <class C>
struct Parameters {
    V values[C::params > 0 ? C::params : 1];

    RECURRA_INLINE Parameters(const float* all, i64 hidden, i64 v, i64 units) {
        RECURRA_UNROLL
        for (int k = 0; k < C::params; k++) values[k] = load(all + k * hidden + v * lanes, units);
    }
};

// The caller's cell states of one row, (cells · H), in the workspace's order.
template <class C>
void arrange_cells(const Layout<C>& layout, const float* from, float* to) {
    for (i64 v = 0; v < layout.vectors(); v++)
        for (i64 k = 0; k < C::cells; k++)
            store(to + layout.cell_at(v, k), load(from + k * layout.hidden + v * lanes, layout.units(v)));
}

template <class C>
RECURRA_INLINE V cell_forward(V* a, V c_before, V h_before, V& c, const Parameters<C>& p) {
    if constexpr (C::params > 0) return C::forward(a, c_before, h_before, c, p.values);
    else return C::forward(a, c_before, h_before, c);
}

template <class C>
RECURRA_INLINE V cell_backward(V* a, V c, V c_before, V h_before, V dh, V carry, const Parameters<C>& p) {
    if constexpr (C::params > 0) return C::backward(a, c, c_before, h_before, dh, carry, p.values);
    else return C::backward(a, c, c_before, h_before, dh, carry);
}

}  // namespace
}  // namespace recurra::RECURRA_ISA
