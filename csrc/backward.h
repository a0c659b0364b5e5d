// Backward: the time loop of one layer in one direction, from the step read last to the step read first.
#pragma once

#include "gemm.h"
#include "layout.h"
#include "noise.h"
#include "team.h"

namespace recurra::RECURRA_ISA {
namespace {

// Floats between the ends of one entry's gradients and the next's: rows a power of two apart would fall into
// the same sets of the cache.
constexpr i64 delta_gap = 16;
constexpr i64 input_rows = 192;  // rows of the input's gradient made at once

// What all threads share while one direction of one layer goes backward.
struct BackwardShared {
    float *w_ih, *w_hh, *w_hr;  // panels: (gates, F), (gates, P), (P, H)
    float* delta;               // (entries, delta_width) gradients of the pre-activations, in words
    float* d_hidden;            // (entries, state_width) gradients of projected hidden states
    float* d_state;             // (N, state_width) by rank: gradient of the hidden state
    float* d_shown;             // (N, unit_width) by rank: of what the projection multiplies
    float* carry;               // (N, cell_width) by rank: what the cell passes back beside the hidden state
    float* through;             // (N, state_width) by rank: what zoneout passes back of the hidden state's
    float* factors;             // (N, state_width) by rank: of recurrent dropout
    float* c_0;                 // (N, cell_width) by rank: initial cell states, where a unit has several
    float* sums;                // (N, 2, 4 + own rows, unit_width) by rank: see normed.h
    const float* zeros;
    const void** tables;
};
constexpr int backward_tables = 2;

// Adds to the gradient of the initial state (columns of one vector).
RECURRA_INLINE void add(float* to, V v, i64 n) {
    if (to) store(to, load(to, n) + v, n);
}

// Where one row's numbers lie at one step; null where the cell has none.
struct BackwardRow {
    const float *c, *c_before, *h_before, *gates;
    const float* dh;  // of what the cell shows
    float *carry, *delta;
    float* d_initial;  // of the cell state, where this step's ends at it
    i64 row, time;
    bool cut;  // nothing of the step after reaches this one's cell state
};

template <class C>
struct Backward {
    const Problem& problem;
    const Layer& layer;
    const Direction& direction;
    const BackwardShared& shared;
    Reading reading;
    Team team;
    Part part;
    Layout<C> layout;
    Share units, states;  // vectors of units, and of hidden states, this thread's
    float* scratch;       // this thread's

    i64 state() const { return state_size(problem); }
    // Rows of this thread's part that it does alone.
    i64 first_row() const { return part.by_units ? team.id : 0; }
    i64 row_step() const { return part.by_units ? team.size : 1; }
    i64 delta_width() const { return words(layout.gates_width()) + delta_gap; }
    // The gates of a row as the left factor of the product that gives the state's, or the input's, gradient.
    static constexpr i64 unit_vector = C::slots * lanes;
    Runs h_runs() const { return runs(Layout<C>::h_slots); }
    Runs x_runs() const { return runs(Layout<C>::x_slots); }
    Runs runs(i64 used) const {
        if (used == C::slots) return {1, words(layout.gates_width()), 0};
        return {layout.vectors(), words(used * lanes), words(unit_vector)};
    }
    Panels h_panels() const {
        return {shared.w_hh, words(layout.vectors() * Layout<C>::h_slots * lanes), state()};
    }
    Panels x_panels() const {
        return {shared.w_ih, words(layout.vectors() * Layout<C>::x_slots * lanes), layer.features};
    }
    Panels r_panels() const { return {shared.w_hr, problem.projection, problem.hidden}; }
    i64 state_width() const { return round_up(state(), lanes); }
    bool drops() const { return !pairs && problem.noise.drawn && problem.noise.recurrent_dropout > 0.0f; }
    bool zones_hidden() const { return !pairs && problem.noise.zoneout_hidden > 0.0f; }
    bool zones_cell() const { return !pairs && C::cells == 1 && problem.noise.zoneout_cell > 0.0f; }
    Draws draws(i64 row) const { return {problem.noise, static_cast<uint32_t>(row), direction.stream}; }
    // The cell state before a step; null where the cell has none.
    const float* cell_before(i64 rank, i64 step) const {
        if (!C::has_cell) return nullptr;
        const bool reset = reading.resets_before(rank, step);
        if (step > 0 && !reset) return direction.cell + reading.entry(rank, step - 1) * layout.cell_width();
        const bool initial = !reset || problem.schedule.reset_to_initial;
        if (!initial || !direction.c_0) return shared.zeros;
        if (C::cells > 1) return shared.c_0 + rank * layout.cell_width();
        return direction.c_0 + reading.row(rank) * layout.hidden;
    }
    float* delta(i64 rank, i64 step) const {
        return shared.delta + reading.entry(rank, step) * delta_width();
    }
    // What the step after carries to this one's cell state in unit vector v, less what zoneout lets stay with
    // the step before.
    RECURRA_INLINE V carried(const BackwardRow& at, i64 v, V& stays, i64 k = 0) const {
        V passed = load(at.carry + layout.cell_at(v, k));
        if (at.cut) {
            if (at.d_initial && layout.units(v))
                add(at.d_initial + k * layout.hidden + v * lanes, passed, layout.units(v));
            passed = V{};
        }
        stays = V{};
        if (!zones_cell()) return passed;
        const Zone zone = draws(at.row).cell(at.time, v * lanes);
        stays = zone.part_before(passed);
        return zone.part_now(passed);
    }
};

// `count` words, in a unit of pairs of one number of a and one of b, elsewhere of a alone.
RECURRA_INLINE void join(float* words_to, const Element* a, const Element* b, i64 count) {
#ifdef RECURRA_PAIRS
    uint32_t* to = (uint32_t*)words_to;
    for (i64 i = 0; i < count; i++) to[i] = a[i] | (uint32_t)b[i] << 16;
#else
    (void)b;
    memcpy(words_to, a, count * sizeof(float));
#endif
}

// Packs (gates, columns) into panels whose rows follow the order of the gates' vectors. Unit vectors `share`.
template <class C>
void pack_backward(const Layout<C>& layout, const Panels& panels, const float* weights, int from, int to,
                   int (*gate_of)(int), Share share, float* packed) {
    for (i64 panel = 0; panel < panels.count(); panel++) {
        const i64 width = panels.width(panel) * lanes, column = panel * panel_vectors * lanes;
        const i64 columns = smaller(width, panels.columns - column);
        for (i64 v = share.first; v < share.last; v++)
            for (int slot = from; slot < to; slot++)
                for (i64 lane = 0; lane < lanes; lane += per_word) {
                    const i64 k = words((v * (to - from) + slot - from) * lanes + lane),
                              unit = v * lanes + lane;
                    float* row = packed + (panels.at(panel, k) - panels.data);
                    const i64 real = unit < layout.hidden ? columns : 0;
                    const Element* source = (const Element*)weights +
                                            (gate_of(slot) * layout.hidden + unit) * panels.columns + column;
                    if (real) join(row, source, source + panels.columns, real);
                    memset(row + real, 0, (width - real) * sizeof(float));
                }
    }
}

// Packs (K, columns) into the panels share.first..share.last.
inline void pack_plain(const Panels& panels, const float* weights, Share share, float* packed) {
    for (i64 panel = share.first; panel < share.last; panel++) {
        const i64 width = panels.width(panel) * lanes, column = panel * panel_vectors * lanes;
        const i64 columns = smaller(width, panels.columns - column);
        for (i64 k = 0; k < panels.depth; k++) {
            float* row = packed + (panels.at(panel, k) - panels.data);
            memcpy(row, weights + k * panels.columns + column, columns * sizeof(float));
            memset(row + columns, 0, (width - columns) * sizeof(float));
        }
    }
}

// The hidden state's gradient at `step`: from the step after or, where the row ends, from h_n; and from the
// output.
template <class C>
void receive(const Backward<C>& b, i64 rank, i64 step, bool goes_on) {
    const Direction& d = b.direction;
    const i64 row = b.reading.row(rank), state = b.state();
    const bool cut = goes_on && b.reading.resets_before(rank, step + 1);
    const bool to_initial = b.problem.schedule.reset_to_initial && d.d_h_0;
    const float* ends = d.d_h_n && !goes_on ? d.d_h_n + row * state : nullptr;
    const float* d_y = b.layer.d_y.data ? at(b.layer.d_y, row, b.reading.time(rank, step)) : nullptr;
    float* to = b.shared.d_state + rank * b.state_width();
    float* through = b.zones_hidden() ? b.shared.through + rank * b.state_width() : nullptr;
    const Draws draws = b.draws(row);
    float* kept =
        b.problem.projection ? b.shared.d_hidden + b.reading.entry(rank, step) * b.state_width() : nullptr;
    for (i64 v = b.states.first; v < b.states.last; v++) {
        const i64 column = v * lanes, n = smaller(lanes, state - column);
        V dh = goes_on ? load(to + column) : ends ? load(ends + column, n) : V{};
        if (goes_on && b.drops()) dh = dropped(dh, load(b.shared.factors + rank * b.state_width() + column));
        if (through) dh += load(through + column);
        if constexpr (C::carries_hidden) dh += load(b.shared.carry + rank * b.layout.unit_width() + column);
        if (cut) {
            if (to_initial) add(d.d_h_0 + row * state + column, dh, n);
            dh = V{};
        }
        if (d_y) dh += load(d_y + column, n);
        if (through) {
            const Zone zone = draws.hidden(b.reading.time(rank, step), column);
            store(through + column, zone.part_before(dh));
            dh = zone.part_now(dh);
        }
        store(to + column, dh);
        if (kept) store(kept + column, dh);
    }
}

template <class C>
BackwardRow backward_row(const Backward<C>& b, i64 rank, i64 step, bool goes_on) {
    const Direction& d = b.direction;
    const i64 row = b.reading.row(rank), hidden = b.layout.hidden, state = b.state();
    const i64 entry = b.reading.entry(rank, step), cell_width = b.layout.cell_width();
    const bool reset = b.reading.resets_before(rank, step), first = step == 0 || reset;
    const bool initial = !reset || b.problem.schedule.reset_to_initial;
    BackwardRow at = {};
    at.row = row;
    at.time = b.reading.time(rank, step);
    at.cut = C::has_cell && goes_on && b.reading.resets_before(rank, step + 1);
    if (at.cut && b.problem.schedule.reset_to_initial && d.d_c_0)
        at.d_initial = d.d_c_0 + row * C::cells * hidden;
    if (C::has_cell) at.c = d.cell + entry * cell_width;
    at.c_before = b.cell_before(rank, step);
    if constexpr (C::carries_hidden)
        at.h_before = !first ? recurra::RECURRA_ISA::at(b.layer.y, row, b.reading.time(rank, step - 1))
                      : initial && d.h_0 ? d.h_0 + row * words(state)
                                         : b.shared.zeros;
    at.dh = b.problem.projection ? b.shared.d_shown + rank * b.layout.unit_width()
                                 : b.shared.d_state + rank * b.state_width();
    at.gates = d.gates + entry * b.layout.gates_width();
    at.carry = b.shared.carry + rank * cell_width;
    at.delta = b.delta(rank, step);
    return at;
}

// From the gradient of what the cell shows to those of its gates, and what the cell passes to the step
// before.
template <class C>
void through_cell(const Backward<C>& b, i64 rank, i64 step, bool goes_on) {
    const BackwardRow at = backward_row(b, rank, step, goes_on);
    for (i64 v = b.units.first; v < b.units.last; v++) {
        const i64 column = v * lanes, n = b.layout.units(v);
        V a[C::slots], stays;
        RECURRA_UNROLL
        for (int s = 0; s < C::slots; s++) a[s] = load(at.gates + (v * C::slots + s) * lanes, n);
        if constexpr (C::cells > 1) {
            V carry[C::cells], before[C::cells], now[C::cells];
            RECURRA_UNROLL
            for (int k = 0; k < C::cells; k++) {
                carry[k] = b.carried(at, v, stays, k);
                before[k] = load(at.c_before + b.layout.cell_at(v, k));
                now[k] = load(at.c + b.layout.cell_at(v, k));
            }
            C::backward(a, now, before, V{}, load(at.dh + column, n), carry);
            RECURRA_UNROLL
            for (int k = 0; k < C::cells; k++) store(at.carry + b.layout.cell_at(v, k), carry[k]);
        } else {
            V passed = b.carried(at, v, stays);
            const V before = at.c_before ? load(at.c_before + column, n) : V{};
            V now = at.c ? load(at.c + column, n) : V{};
            if constexpr (C::has_cell)
                if (b.zones_cell()) now = C::cell(a, before);  // what is shown is not zoned out
            const Parameters<C> own(b.direction.own, b.layout.hidden, v, n);
            passed =
                cell_backward<C>(a, now, before, at.h_before ? load_numbers(at.h_before, column, n) : V{},
                                 load(at.dh + column, n), passed, own);
            store(at.carry + column, passed + stays);
        }
        RECURRA_UNROLL
        for (int s = 0; s < C::slots; s++) store_numbers(at.delta, (v * C::slots + s) * lanes, a[s], lanes);
    }
}

// The gradients of the initial states: what is left when all steps are done.
template <class C>
void reach_start(const Backward<C>& b, i64 rank) {
    const Direction& d = b.direction;
    const i64 row = b.reading.row(rank), hidden = b.layout.hidden, state = b.state();
    const bool goes_on = b.reading.length(rank) > 0;
    if (b.reading.resets_before(rank, 0) && !b.problem.schedule.reset_to_initial) return;
    const float* from = goes_on   ? b.shared.d_state + rank * b.state_width()
                        : d.d_h_n ? d.d_h_n + row * state
                                  : nullptr;
    const float* carry = b.shared.carry + rank * b.layout.cell_width();
    if (d.d_h_0)
        for (i64 v = b.states.first; v < b.states.last; v++) {
            const i64 column = v * lanes, n = smaller(lanes, state - column);
            V dh = from ? load(from + column, n) : V{};
            if (goes_on && b.drops())
                dh = dropped(dh, load(b.shared.factors + rank * b.state_width() + column));
            if (goes_on && b.zones_hidden()) dh += load(b.shared.through + rank * b.state_width() + column);
            add(d.d_h_0 + row * state + column, C::carries_hidden ? dh + load(carry + column) : dh, n);
        }
    if (C::has_cell && d.d_c_0)
        for (i64 v = b.units.first; v < b.units.last; v++)
            for (i64 k = 0; k < C::cells && b.layout.units(v) > 0; k++)
                add(d.d_c_0 + (row * C::cells + k) * hidden + v * lanes, load(carry + b.layout.cell_at(v, k)),
                    b.layout.units(v));
}

// What the states' gradients are before the last step: d_c_n in the carry, zeros in those of the initial
// states.
template <class C>
void begin_backward(const Backward<C>& b) {
    const Direction& d = b.direction;
    const i64 hidden = b.layout.hidden, state = b.state();
    for (i64 i = 0; i < b.part.rows; i++) {
        const i64 rank = b.part.rank(i), row = b.reading.row(rank);
        for (i64 v = b.units.first; v < b.units.last; v++) {
            const i64 n = b.layout.units(v);
            const bool given = C::has_cell && d.d_c_n && n > 0;
            for (i64 k = 0; k < larger(C::cells, 1); k++) {
                const i64 column = (row * larger(C::cells, 1) + k) * hidden + v * lanes;  // the caller's
                store(b.shared.carry + rank * b.layout.cell_width() + b.layout.cell_at(v, k),
                      given ? load(d.d_c_n + column, n) : V{});
                if (C::has_cell && d.d_c_0 && n > 0) store(d.d_c_0 + column, V{}, n);
            }
        }
        for (i64 v = b.states.first; v < b.states.last; v++)
            if (d.d_h_0) store(d.d_h_0 + row * state + v * lanes, V{}, smaller(lanes, state - v * lanes));
        if (b.zones_hidden())
            for (i64 v = b.states.first; v < b.states.last; v++)
                store(b.shared.through + rank * b.state_width() + v * lanes, V{});
    }
    const i64 sums_width = 2 * (4 + C::params) * b.layout.unit_width();
    for (i64 i = b.first_row(); C::normed && i < b.part.rows; i += b.row_step())
        memset(b.shared.sums + b.part.rank(i) * sums_width, 0, sums_width * sizeof(float));
}

template <class C>
void through_norm_cell(const Backward<C>& b, i64 rank, i64 step, bool goes_on);

// All steps of this thread's rows, from the last to the first: fills shared.delta.
template <class C>
void backward_steps(const Backward<C>& b) {
    const Part& part = b.part;
    const i64 capacity = part.by_units ? part.rows : ceil_div(b.problem.schedule.rows, b.team.size);
    const float** left = (const float**)(b.shared.tables + b.team.id * backward_tables * capacity);
    float** out = (float**)(left + capacity);
    const Panels to_state = b.h_panels(), to_shown = b.r_panels();
    const i64 projection = b.problem.projection;
    begin_backward(b);
    for (i64 step = b.problem.schedule.steps - 1; step >= -1; step--) {
        const i64 going = step + 1 < b.problem.schedule.steps ? part.below(b.reading.ranks(step + 1)) : 0;
        const i64 count = step >= 0 ? part.below(b.reading.ranks(step)) : 0;
        if (step >= 0 && b.reading.ranks(step) == 0) continue;
        if (step >= 0 || b.direction.d_h_0) {
            for (i64 i = 0; i < going; i++) {
                left[i] = b.delta(part.rank(i), step + 1) + words(C::h_from * lanes);
                out[i] = b.shared.d_state + part.rank(i) * b.state_width();
            }
            product(left, b.h_runs(), to_state, 0, b.states.first / panel_vectors,
                    ceil_div(b.states.last, panel_vectors), out, going, false);
        }
        if (step < 0) break;
        for (i64 i = 0; i < count; i++) receive(b, part.rank(i), step, i < going);
        if (projection) {
            if (part.by_units) b.team.wait();
            for (i64 i = 0; i < count; i++) {
                left[i] = b.shared.d_state + part.rank(i) * b.state_width();
                out[i] = b.shared.d_shown + part.rank(i) * b.layout.unit_width();
            }
            product(left, {1, projection, 0}, to_shown, 0, b.units.first / panel_vectors,
                    smaller(to_shown.count(), ceil_div(b.units.last, panel_vectors)), out, count, false);
        }
        if constexpr (C::normed) {
            if (part.by_units) b.team.wait();  // a row's pass needs all of its units
            for (i64 i = b.first_row(); i < count; i += b.row_step())
                through_norm_cell(b, part.rank(i), step, i < going);
        } else {
            for (i64 i = 0; i < count; i++) through_cell(b, part.rank(i), step, i < going);
        }
        if (part.by_units) b.team.wait();
    }
    for (i64 i = 0; i < part.rows; i++) reach_start(b, part.rank(i));
}

}  // namespace
}  // namespace recurra::RECURRA_ISA
