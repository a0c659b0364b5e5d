// Layer normalisation inside a cell. A unit's gates depend on all units' sums, so a step is first the
// products of all units, then one pass over each row, which one thread does alone.
//
// A kept row has the activated gates and the sums as they were before normalisation; backward normalises them
// once more. Of the gradients only those of the sums go to the products, those of the cell's own parameters
// and of the biases are added up row by row: so in the same order whatever the threads.
#pragma once

#include "backward.h"
#include "forward.h"

namespace recurra::RECURRA_ISA {
namespace {

constexpr float norm_epsilon = 1e-5f;
constexpr float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static_assert(lanes <= 16, "more ones");

// (s - mean) · scale has mean 0 and variance 1.
struct Norm {
    float mean, scale;
    RECURRA_INLINE V operator()(V s) const { return (s - mean) * scale; }
};

RECURRA_INLINE float total(V v) {
    float sum = 0.0f;
    for (int lane = 0; lane < lanes; lane++) sum += v[lane];
    return sum;
}

// 1 in the lanes of unit vector v that are units, 0 in those that fill it up.
RECURRA_INLINE V filled(i64 hidden, i64 v) { return load(ones, smaller(lanes, hidden - v * lanes)); }

// Of slots from..to of all units. A unit vector has `slots` of them; lanes that fill the last one up are
// zero.
inline RECURRA_NOINLINE Norm norm_of(const float* row, i64 hidden, int slots, int from, int to) {
    const float count = static_cast<float>((to - from) * hidden);
    V sum = {}, squares = {};
    for (i64 v = 0; v * lanes < hidden; v++)
        for (int s = from; s < to; s++) sum += load(row + (v * slots + s) * lanes);
    const float mean = total(sum) / count;
    for (i64 v = 0; v * lanes < hidden; v++)
        for (int s = from; s < to; s++) {
            const V d = (load(row + (v * slots + s) * lanes) - mean) * filled(hidden, v);
            squares += d * d;
        }
    return {mean, 1.0f / __builtin_sqrtf(total(squares) / count + norm_epsilon)};
}

// The norms of each group of the gates' sums that start at slot `from`.
template <class C>
RECURRA_INLINE void norms_of(const float* row, i64 hidden, int from, Norm* norms) {
    RECURRA_UNROLL
    for (int g = 0; g < C::groups; g++)
        norms[g] = norm_of(row, hidden, C::slots, from + C::group_from(g), from + C::group_from(g + 1));
}

template <class C>
constexpr int group_of(int gate) {
    return gate < C::group_from(1) ? 0 : 1;
}

// The products of rows 0..count and this thread's blocks, of the input or of the state, into the rows of
// gates.
template <class C>
void norm_products(const Forward<C>& f, const ForwardRows& rows, i64 count, Phase phase) {
    constexpr int used = Layout<C>::x_slots;
    static_assert(used == Layout<C>::h_slots);
    const bool input = phase == INPUT;
    const Runs runs = {1, words(input ? f.layer.features : f.state()), 0};
    const float* const* left = input ? rows.x : rows.left;
    for (i64 block = f.blocks.first; block < f.blocks.last; block++) {
        const float* weights =
            input ? f.shared.w_x + block * f.x_block() : f.shared.w_h + block * f.h_block();
        const i64 column = (block * C::slots + (input ? C::x_from : C::h_from)) * lanes;
        for (i64 row = 0; row < count;) {
            const int height = next_tile(count - row);
            with_height(height, [&](auto h) {
                product_tile<decltype(h)::value, used>(left + row, runs, weights, rows.gates + row, column,
                                                       used * lanes, false);
            });
            row += height;
        }
    }
}

// One row of one step, from the sums to the new states.
template <class C>
void norm_row(const Forward<C>& f, const ForwardRows& rows, i64 i) {
    const i64 hidden = f.layout.hidden, vectors = f.layout.vectors();
    const float *own = f.direction.own, *bias = f.shared.bias;
    float* row = rows.gates[i];
    Norm x_norm[C::groups], h_norm[C::groups];
    norms_of<C>(row, hidden, C::x_from, x_norm);
    norms_of<C>(row, hidden, C::h_from, h_norm);
    for (i64 v = 0; v < vectors; v++) {
        const i64 units = f.layout.units(v), first = v * C::slots * lanes;
        V a[4], x[C::gates], h[C::gates];
        RECURRA_UNROLL
        for (int k = 0; k < C::gates; k++) {
            const i64 at_x = first + (C::x_from + k) * lanes, at_h = first + (C::h_from + k) * lanes;
            const V x_factor = load(own + k * hidden + v * lanes, units);
            const V h_factor = load(own + (C::gates + k) * hidden + v * lanes, units);
            x[k] = x_factor * x_norm[group_of<C>(k)](load(row + at_x)) + load(bias + at_x);
            h[k] = h_factor * h_norm[group_of<C>(k)](load(row + at_h)) + load(bias + at_h);
        }
        C::activate(a, x, h);
        RECURRA_UNROLL
        for (int s = 0; s < 4; s++) store(row + first + s * lanes, a[s]);
        if constexpr (C::has_cell)
            store(rows.cell[i] + v * lanes, C::cell(a, load(rows.c_before[i] + v * lanes, units)));
        else store(rows.y[i] + v * lanes, C::hidden(a, load(rows.h[i] + v * lanes, units)), units);
    }
    if constexpr (C::has_cell) {
        const Norm c_norm = norm_of(rows.cell[i], hidden, 1, 0, 1);
        for (i64 v = 0; v < vectors; v++) {
            const i64 units = f.layout.units(v), first = v * C::slots * lanes;
            const V factor = load(own + 2 * C::gates * hidden + v * lanes, units);
            const V added = load(own + (2 * C::gates + 1) * hidden + v * lanes, units);
            const V n = factor * c_norm(load(rows.cell[i] + v * lanes)) + added;
            store(row + first + 12 * lanes, n);
            store(rows.y[i] + v * lanes, load(row + first + 3 * lanes) * tanh(n), units);
        }
    }
}

// The rows whose passes this thread does.
template <class C>
void norm_rows(const Forward<C>& f, const ForwardRows& rows, i64 count) {
    if (f.part.by_units) f.team.wait();
    const int step = f.part.by_units ? f.team.size : 1;
    for (i64 i = f.part.by_units ? f.team.id : 0; i < count; i += step) norm_row(f, rows, i);
}

// Sums of a row of the batch over its steps, by unit vector: (4 + C::params, unit_width). The first four are
// of the gates' gradients, the others of the own parameters'. Of many steps' sums, added up in their turn,
// there is as much once more behind them: a single sum of thousands would lose digits.
constexpr i64 steps_in_a_sum = 128;

template <class C>
RECURRA_INLINE void add_to_sum(const Backward<C>& b, float* sums, int which, i64 v, V value) {
    float* sum = sums + which * b.layout.unit_width() + v * lanes;
    store(sum, load(sum) + value);
}

// What is taken from the sum of all is rounded as it was when it was added: of one unit nothing may be left.

// From the gradients of gates, (4, unit_width), to those of the sums of one kind: kept slots from `from` on,
// delta's from `to` on.
template <class C, bool INPUT_PART>
void through_sums(const Backward<C>& b, const float* kept, const float* gradients, float* delta,
                  float* sums) {
    constexpr int from = INPUT_PART ? C::x_from : C::h_from;
    constexpr int to = INPUT_PART ? Layout<C>::d_x_from : Layout<C>::d_h_from;
    constexpr int own_from = INPUT_PART ? 0 : C::gates;
    const i64 hidden = b.layout.hidden, width = b.layout.unit_width();
    const float* own = b.direction.own;
    Norm norms[C::groups];
    norms_of<C>(kept, hidden, from, norms);
    RECURRA_UNROLL
    for (int g = 0; g < C::groups; g++) {
        V sum = {}, product = {};
        for (i64 v = 0; v < b.layout.vectors(); v++)
            for (int k = C::group_from(g); k < C::group_from(g + 1); k++) {
                const i64 which = INPUT_PART ? k : C::slot_of_h(k);
                const V d = load(gradients + which * width + v * lanes);
                const V normed = norms[g](load(kept + (v * C::slots + from + k) * lanes));
                add_to_sum(b, sums, 4 + own_from + k, v, d * normed);
                const V scaled =
                    rounded(d * load(own + (own_from + k) * hidden + v * lanes, b.layout.units(v)));
                sum += scaled;
                product += scaled * normed;
            }
        const float count = static_cast<float>((C::group_from(g + 1) - C::group_from(g)) * hidden);
        const float mean = total(sum) / count, slope = total(product) / count;
        for (i64 v = 0; v < b.layout.vectors(); v++)
            for (int k = C::group_from(g); k < C::group_from(g + 1); k++) {
                const i64 which = INPUT_PART ? k : C::slot_of_h(k);
                const V d = load(gradients + which * width + v * lanes);
                const V normed = norms[g](load(kept + (v * C::slots + from + k) * lanes));
                const V scaled =
                    rounded(d * load(own + (own_from + k) * hidden + v * lanes, b.layout.units(v)));
                const V of_sum = (scaled - mean - normed * slope) * norms[g].scale * filled(hidden, v);
                store(delta + (v * Layout<C>::deltas + to + k) * lanes, of_sum);
            }
    }
}

// Gradients of the gates' sums after normalisation, (4, unit_width), and of the cell state, which is carried.
// now: room for a row of cell states.
template <class C>
void norm_lstm_gates(const Backward<C>& b, const BackwardRow& at, float* gradients, float* now, float* sums) {
    const i64 hidden = b.layout.hidden, width = b.layout.unit_width(), vectors = b.layout.vectors();
    const float* own = b.direction.own;
    const auto gate = [&](i64 v, int s) { return load(at.gates + (v * C::slots + s) * lanes); };
    for (i64 v = 0; v < vectors; v++) {
        const V a[3] = {gate(v, 0), gate(v, 1), gate(v, 2)};
        const i64 units = b.layout.units(v);
        // what is normalised is not zoned out
        store(now + v * lanes, b.zones_cell() ? C::cell(a, load(at.c_before + v * lanes, units))
                                              : load(at.c + v * lanes, units));
    }
    const Norm norm = norm_of(now, hidden, 1, 0, 1);
    V sum = {}, product = {};
    for (i64 v = 0; v < vectors; v++) {
        const V dh = load(at.dh + v * lanes, b.layout.units(v)), o = gate(v, 3), shown = tanh(gate(v, 12));
        const V dn = dh * o * (1.0f - shown * shown), normed = norm(load(now + v * lanes));
        add_to_sum(b, sums, 4 + 2 * C::gates, v, dn * normed);
        add_to_sum(b, sums, 5 + 2 * C::gates, v, dn);
        const V scaled = rounded(dn * load(own + 2 * C::gates * hidden + v * lanes, b.layout.units(v)));
        sum += scaled;
        product += scaled * normed;
        store(gradients + v * lanes, scaled);
        store(gradients + 3 * width + v * lanes, dh * shown * o * (1.0f - o));
    }
    const float count = static_cast<float>(hidden), mean = total(sum) / count, slope = total(product) / count;
    for (i64 v = 0; v < vectors; v++) {
        const V i = gate(v, 0), f = gate(v, 1), g = gate(v, 2);
        const V normed = norm(load(now + v * lanes)), scaled = load(gradients + v * lanes);
        V stays, passed = b.carried(at, v, stays);
        const V dc = passed + (scaled - mean - normed * slope) * norm.scale * filled(hidden, v);
        store(gradients + v * lanes, dc * g * i * (1.0f - i));
        store(gradients + width + v * lanes,
              dc * load(at.c_before + v * lanes, b.layout.units(v)) * f * (1.0f - f));
        store(gradients + 2 * width + v * lanes, dc * i * (1.0f - g * g));
        store(at.carry + v * lanes, dc * f + stays);
    }
}

template <class C>
void norm_gru_gates(const Backward<C>& b, const BackwardRow& at, float* gradients) {
    const i64 width = b.layout.unit_width();
    for (i64 v = 0; v < b.layout.vectors(); v++) {
        const float* kept = at.gates + v * C::slots * lanes;
        const V r = load(kept), z = load(kept + lanes), n = load(kept + 2 * lanes),
                q = load(kept + 3 * lanes);
        const i64 units = b.layout.units(v);
        const V dh = load(at.dh + v * lanes, units), h_before = load(at.h_before + v * lanes, units);
        const V dn = dh * (1.0f - z) * (1.0f - n * n);
        const V d[4] = {dn * q * r * (1.0f - r), dh * (h_before - n) * z * (1.0f - z), dn, dn * r};
        RECURRA_UNROLL
        for (int s = 0; s < 4; s++) store(gradients + s * width + v * lanes, d[s]);
        store(at.carry + v * lanes, dh * z);
    }
}

// One row of one step: as through_cell. scratch: (5, unit_width).
template <class C>
void through_norm_cell(const Backward<C>& b, i64 rank, i64 step, bool goes_on) {
    const BackwardRow at = backward_row(b, rank, step, goes_on);
    const i64 width = b.layout.unit_width();
    const i64 count = (4 + C::params) * width;
    float *gradients = b.scratch, *sums = b.shared.sums + rank * 2 * count, *all = sums + count;
    if constexpr (C::has_cell) norm_lstm_gates(b, at, gradients, b.scratch + 4 * width, sums);
    else norm_gru_gates(b, at, gradients);
    for (i64 v = 0; v < b.layout.vectors(); v++)
        for (int s = 0; s < 4; s++) add_to_sum(b, sums, s, v, load(gradients + s * width + v * lanes));
    through_sums<C, true>(b, at.gates, gradients, at.delta, sums);
    through_sums<C, false>(b, at.gates, gradients, at.delta, sums);
    if (step % steps_in_a_sum) return;
    for (i64 i = 0; i < count; i += lanes) {
        store(all + i, load(all + i) + load(sums + i));
        store(sums + i, V{});
    }
}

// The gradients of biases and own parameters: the sums of all rows, for this thread's unit vectors.
template <class C>
void backward_norms(const Backward<C>& b, Share vectors) {
    const Direction& d = b.direction;
    const i64 hidden = b.layout.hidden, width = b.layout.unit_width(), rows = b.problem.schedule.rows;
    for (i64 v = vectors.first; v < vectors.last; v++) {
        V all[4 + C::params] = {};
        for (i64 rank = 0; rank < rows; rank++)
            for (int k = 0; k < 4 + C::params; k++)
                all[k] += load(b.shared.sums + ((2 * rank + 1) * (4 + C::params) + k) * width + v * lanes);
        const auto write = [&](float* to, int row, V sum) {
            if (to) store(to + row * hidden + v * lanes, sum, b.layout.units(v));
        };
        for (int k = 0; k < C::gates; k++) {
            write(d.d_b_ih, k, all[k]);
            write(d.d_b_hh, k, all[C::slot_of_h(k)]);
        }
        for (int k = 0; k < C::params; k++) write(d.d_own, k, all[4 + k]);
    }
}

}  // namespace
}  // namespace recurra::RECURRA_ISA
