// Layer normalisation inside a cell. A unit's gates depend on all units' sums, so a step is first the
// products of all units, then one pass over each row, which one thread does alone.
//
// A kept row has the sums as they were before normalisation; backward normalises them once more and makes the
// gates again, which costs less than to write and read them. Of the gradients only those of the sums go to
// the products, those of the cell's own parameters and of the biases are added up row by row: so in the same
// order whatever the threads.
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

#ifdef RECURRA_SHUFFLES
template <int half, int... lane>
RECURRA_INLINE V swapped_halves(V v, Lanes<lane...>) {
    return __builtin_shufflevector(v, v, (lane ^ half)...);
}
template <int half>
RECURRA_INLINE V folded(V v) {
    if constexpr (half == 0) return v;
    else return folded<half / 2>(v + swapped_halves<half>(v, CountLanes<lanes>::type()));
}
RECURRA_INLINE float total(V v) { return folded<lanes / 2>(v)[0]; }
#else
RECURRA_INLINE float total(V v) {
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) v[lane] += v[lane + half];
    return v[0];
}
#endif

// 1 in the lanes of unit vector v that are units, 0 in those that fill it up.
RECURRA_INLINE V filled(i64 hidden, i64 v) { return load(ones, smaller(lanes, hidden - v * lanes)); }

// Of slots from..to of all units. A unit vector has `slots` of them; lanes that fill the last one up are
// zero. A sum for each slot, so that no addition waits for the one before.
template <int slots, int from, int to>
RECURRA_INLINE Norm norm_of(const float* row, i64 hidden) {
    constexpr int used = to - from;
    const float count = static_cast<float>(used * hidden);
    V sums[used], squares[used];
    RECURRA_UNROLL
    for (int s = 0; s < used; s++) sums[s] = squares[s] = V{};
    for (i64 v = 0; v * lanes < hidden; v++) {
        RECURRA_UNROLL
        for (int s = 0; s < used; s++) sums[s] += load(row + (v * slots + from + s) * lanes);
    }
    RECURRA_UNROLL
    for (int s = 1; s < used; s++) sums[0] += sums[s];
    const float mean = total(sums[0]) / count;
    for (i64 v = 0; v * lanes < hidden; v++) {
        const V real = filled(hidden, v);
        RECURRA_UNROLL
        for (int s = 0; s < used; s++) {
            const V d = (load(row + (v * slots + from + s) * lanes) - mean) * real;
            squares[s] += d * d;
        }
    }
    RECURRA_UNROLL
    for (int s = 1; s < used; s++) squares[0] += squares[s];
    return {mean, 1.0f / __builtin_sqrtf(total(squares[0]) / count + norm_epsilon)};
}

// The norms of each group of gates' sums of one row, and from them the gates.
template <class C>
struct NormedRow {
    const float *sums, *own, *b_ih, *b_hh;
    i64 hidden;
    Norm x[C::groups], h[C::groups];

    NormedRow(const float* row, const Direction& d, i64 n)
        : sums(row), own(d.own), b_ih(d.b_ih), b_hh(d.b_hh), hidden(n) {
        find<0>();
        if constexpr (C::groups > 1) find<1>();
    }
    template <int g>
    RECURRA_INLINE void find() {
        constexpr int from = C::group_from(g), to = C::group_from(g + 1);
        x[g] = norm_of<C::slots, C::x_from + from, C::x_from + to>(sums, hidden);
        h[g] = norm_of<C::slots, C::h_from + from, C::h_from + to>(sums, hidden);
    }

    static constexpr int group_of(int gate) { return gate < C::group_from(1) ? 0 : 1; }
    // What multiplies a gate's normalised sums.
    template <bool INPUT_PART>
    RECURRA_INLINE V factor(i64 v, int gate, i64 units) const {
        return load(own + ((INPUT_PART ? 0 : C::gates) + gate) * hidden + v * lanes, units);
    }
    template <bool INPUT_PART>
    RECURRA_INLINE V normed(i64 v, int gate) const {
        const V sum = load(sums + (v * C::slots + (INPUT_PART ? C::x_from : C::h_from) + gate) * lanes);
        return (INPUT_PART ? x : h)[group_of(gate)](sum);
    }
    // a: the gates of unit vector v, four vectors.
    RECURRA_INLINE void gates(i64 v, i64 units, V* a) const {
        V of_x[C::gates], of_h[C::gates];
        RECURRA_UNROLL
        for (int k = 0; k < C::gates; k++) {
            of_x[k] = factor<true>(v, k, units) * normed<true>(v, k);
            of_h[k] = factor<false>(v, k, units) * normed<false>(v, k);
            if (b_ih) of_x[k] += load(b_ih + k * hidden + v * lanes, units);
            if (b_hh) of_h[k] += load(b_hh + k * hidden + v * lanes, units);
        }
        C::activate(a, of_x, of_h);
    }
};

// What an LSTM shows, o tanh(γ ĉ + δ), in place of o.
template <class C>
void show_cell(const float* own, const float* cell, i64 hidden, float* shown) {
    const Norm norm = norm_of<1, 0, 1>(cell, hidden);
    for (i64 v = 0; v * lanes < hidden; v++) {
        const i64 units = smaller(lanes, hidden - v * lanes);
        const V factor = load(own + 2 * C::gates * hidden + v * lanes, units);
        const V added = load(own + (2 * C::gates + 1) * hidden + v * lanes, units);
        const V n = factor * norm(load(cell + v * lanes)) + added;
        store(shown + v * lanes, load(shown + v * lanes, units) * tanh(n), units);
    }
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
    const NormedRow<C> row(rows.gates[i], f.direction, f.layout.hidden);
    for (i64 v = 0; v < f.layout.vectors(); v++) {
        const i64 units = f.layout.units(v);
        V a[4];
        row.gates(v, units, a);
        if constexpr (C::has_cell) {
            store(rows.cell[i] + v * lanes, C::cell(a, load(rows.c_before[i] + v * lanes, units)));
            store(rows.y[i] + v * lanes, a[3], units);
        } else {
            store(rows.y[i] + v * lanes, C::hidden(a, load(rows.h[i] + v * lanes, units)), units);
        }
    }
    if constexpr (C::has_cell) show_cell<C>(row.own, rows.cell[i], row.hidden, rows.y[i]);
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

// From the gradients of gates, (4, unit_width), to those of the sums of one kind.
template <class C, bool INPUT_PART>
void through_sums(const Backward<C>& b, const NormedRow<C>& row, const float* gradients, float* delta,
                  float* sums) {
    constexpr int from = INPUT_PART ? C::x_from : C::h_from;
    const i64 hidden = b.layout.hidden, width = b.layout.unit_width();
    const auto gradient = [&](i64 v, int k) {
        return load(gradients + (INPUT_PART ? k : C::part_of_h(k)) * width + v * lanes);
    };
    const auto scaled = [&](i64 v, int k) {
        return rounded(gradient(v, k) * row.template factor<INPUT_PART>(v, k, b.layout.units(v)));
    };
    RECURRA_UNROLL
    for (int g = 0; g < C::groups; g++) {
        V sum = {}, product = {};
        for (i64 v = 0; v < b.layout.vectors(); v++)
            for (int k = C::group_from(g); k < C::group_from(g + 1); k++) {
                const V normed = row.template normed<INPUT_PART>(v, k), d = scaled(v, k);
                add_to_sum(b, sums, 4 + (INPUT_PART ? 0 : C::gates) + k, v, gradient(v, k) * normed);
                sum += d;
                product += d * normed;
            }
        const float count = static_cast<float>((C::group_from(g + 1) - C::group_from(g)) * hidden);
        const float mean = total(sum) / count, slope = total(product) / count;
        const float scale = (INPUT_PART ? row.x : row.h)[g].scale;
        for (i64 v = 0; v < b.layout.vectors(); v++)
            for (int k = C::group_from(g); k < C::group_from(g + 1); k++) {
                const V normed = row.template normed<INPUT_PART>(v, k);
                const V of_sum = (scaled(v, k) - mean - normed * slope) * scale * filled(hidden, v);
                store(delta + (v * C::slots + from + k) * lanes, of_sum);
            }
    }
}

// Gradients of the gates before activation, (4, unit_width), and of the cell state, which is carried. gates:
// (4, unit_width). now: room for a row of cell states.
template <class C>
void norm_lstm_gates(const Backward<C>& b, const BackwardRow& at, const float* gates, float* gradients,
                     float* now, float* sums) {
    const i64 hidden = b.layout.hidden, width = b.layout.unit_width(), vectors = b.layout.vectors();
    const float* own = b.direction.own;
    const auto gate = [&](i64 v, int s) { return load(gates + s * width + v * lanes); };
    for (i64 v = 0; v < vectors; v++) {
        const V a[3] = {gate(v, 0), gate(v, 1), gate(v, 2)};
        const i64 units = b.layout.units(v);
        // what is normalised is not zoned out
        store(now + v * lanes, b.zones_cell() ? C::cell(a, load(at.c_before + v * lanes, units))
                                              : load(at.c + v * lanes, units));
    }
    const Norm norm = norm_of<1, 0, 1>(now, hidden);
    V sum = {}, product = {};
    for (i64 v = 0; v < vectors; v++) {
        const i64 units = b.layout.units(v);
        const V factor = load(own + 2 * C::gates * hidden + v * lanes, units);
        const V added = load(own + (2 * C::gates + 1) * hidden + v * lanes, units);
        const V dh = load(at.dh + v * lanes, units), o = gate(v, 3), normed = norm(load(now + v * lanes));
        const V shown = tanh(factor * normed + added), dn = dh * o * (1.0f - shown * shown);
        add_to_sum(b, sums, 4 + 2 * C::gates, v, dn * normed);
        add_to_sum(b, sums, 5 + 2 * C::gates, v, dn);
        const V scaled = rounded(dn * factor);
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
void norm_gru_gates(const Backward<C>& b, const BackwardRow& at, const float* gates, float* gradients) {
    const i64 width = b.layout.unit_width();
    for (i64 v = 0; v < b.layout.vectors(); v++) {
        const auto gate = [&](int s) { return load(gates + s * width + v * lanes); };
        const V r = gate(0), z = gate(1), n = gate(2), q = gate(3);
        const i64 units = b.layout.units(v);
        const V dh = load(at.dh + v * lanes, units), h_before = load(at.h_before + v * lanes, units);
        const V dn = dh * (1.0f - z) * (1.0f - n * n);
        const V d[4] = {dn * q * r * (1.0f - r), dh * (h_before - n) * z * (1.0f - z), dn, dn * r};
        RECURRA_UNROLL
        for (int s = 0; s < 4; s++) store(gradients + s * width + v * lanes, d[s]);
        store(at.carry + v * lanes, dh * z);
    }
}

// The gates of a row of sums, (4, unit_width).
template <class C>
void gates_again(const Backward<C>& b, const NormedRow<C>& row, float* gates) {
    for (i64 v = 0; v < b.layout.vectors(); v++) {
        V a[4];
        row.gates(v, b.layout.units(v), a);
        RECURRA_UNROLL
        for (int s = 0; s < 4; s++) store(gates + s * b.layout.unit_width() + v * lanes, a[s]);
    }
}

// One row of one step: as through_cell.
template <class C>
void through_norm_cell(const Backward<C>& b, i64 rank, i64 step, bool goes_on) {
    const BackwardRow at = backward_row(b, rank, step, goes_on);
    const NormedRow<C> row(at.gates, b.direction, b.layout.hidden);
    const i64 width = b.layout.unit_width(), count = (4 + C::params) * width;
    float *gates = b.scratch, *gradients = gates + 4 * width, *now = gradients + 4 * width;
    float *sums = b.shared.sums + rank * 2 * count, *all = sums + count;
    gates_again(b, row, gates);
    if constexpr (C::has_cell) norm_lstm_gates(b, at, gates, gradients, now, sums);
    else norm_gru_gates(b, at, gates, gradients);
    for (i64 v = 0; v < b.layout.vectors(); v++)
        for (int s = 0; s < 4; s++) add_to_sum(b, sums, s, v, load(gradients + s * width + v * lanes));
    through_sums<C, true>(b, row, gradients, at.delta, sums);
    through_sums<C, false>(b, row, gradients, at.delta, sums);
    if (step % steps_in_a_sum) return;
    for (i64 i = 0; i < count; i += lanes) {
        store(all + i, load(all + i) + load(sums + i));
        store(sums + i, V{});
    }
}

// What a projection multiplies: one entry's row.
template <class C>
void show_again(const Backward<C>& b, const float* kept, const float* c, const float* c_before,
                float* shown) {
    const i64 width = b.layout.unit_width();
    float *gates = shown + width, *now = gates + 4 * width;
    gates_again(b, NormedRow<C>(kept, b.direction, b.layout.hidden), gates);
    for (i64 v = 0; v < b.layout.vectors(); v++) {
        const i64 units = b.layout.units(v);
        V a[4];
        RECURRA_UNROLL
        for (int s = 0; s < 4; s++) a[s] = load(gates + s * width + v * lanes);
        store(now + v * lanes,
              b.zones_cell() ? C::cell(a, load(c_before + v * lanes, units)) : load(c + v * lanes, units));
        store(shown + v * lanes, a[3]);
    }
    show_cell<C>(b.direction.own, now, b.layout.hidden, shown);
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
            write(d.d_b_hh, k, all[C::part_of_h(k)]);
        }
        for (int k = 0; k < C::params; k++) write(d.d_own, k, all[4 + k]);
    }
}

}  // namespace
}  // namespace recurra::RECURRA_ISA
