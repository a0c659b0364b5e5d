// Forward: the time loop of one layer in one direction.
#pragma once

#include "gemm.h"
#include "layout.h"
#include "noise.h"
#include "team.h"

namespace recurra::RECURRA_ISA {
namespace {

// Below this many rows to a thread the input's product for many steps is made at once: a tile of one step
// would be too low to keep the multipliers busy.
constexpr i64 hoist_below = 6;
constexpr i64 hoisted_rows = 96;
constexpr i64 ahead_rows = hoisted_rows + hoist_below;

// What the threads of a team share while they run one direction of one layer.
struct ForwardShared {
    float *w_x, *w_h, *bias;  // packed: per block (F, x slots), (P, h slots), then the sums' start
    float* w_r;               // projection, packed in panels
    float* cell;     // (2, N, cell_width) cell states by rank at even and odd steps, where they are not kept
    float* c_0;      // (N, cell_width) by rank: the initial ones, where a unit has several
    float* factors;  // (N, state_width) by rank: what recurrent dropout multiplies hidden states by
    float* masked;   // (N, state_width) by rank: hidden states times these; with few rows, for each thread
    float* hidden;   // (N, unit_width) hidden states by rank, of a unit of pairs, whose output is rounded
    float* shown;    // (N, unit_width) what the projection multiplies, by rank
    float* ahead;    // (threads, ahead_rows, gates_width) pre-activations made ahead, where not kept
    const float* zeros;   // a state of zeros
    const void** tables;  // rows of pointers, tables_per_row for each
    i64 ahead_rows;       // of a thread's
};
constexpr int forward_tables = 8;

// One reading step of a thread's rows, by pointers to each row.
struct ForwardRows {
    const float **x, **h, **c_before;  // input, hidden and cell state of the step before
    float **y, **gates, **cell;        // hidden state (or what is projected), gates, cell state, written
    float** hidden;                    // of a unit of pairs: the hidden state, read and written
    const float** left;                // what the recurrent product reads: h, or h after recurrent dropout

    explicit ForwardRows(const void** table, i64 n)
        : x((const float**)table),
          h((const float**)table + n),
          c_before((const float**)table + 2 * n),
          y((float**)table + 3 * n),
          gates((float**)table + 4 * n),
          cell((float**)table + 5 * n),
          hidden((float**)table + 6 * n),
          left((const float**)table + 7 * n) {}
};

enum Phase { INPUT = 1, STATE = 2 };

template <class C>
struct Forward {
    const Problem& problem;
    const Layer& layer;
    const Direction& direction;
    const ForwardShared& shared;
    Reading reading;
    Team team;
    Part part;
    Layout<C> layout;
    Share blocks;  // of hidden units, this thread's

    i64 state() const { return state_size(problem); }
    i64 x_block() const { return words(layer.features) * C::units * Layout<C>::x_slots * lanes; }
    i64 h_block() const { return words(state()) * C::units * Layout<C>::h_slots * lanes; }
    // A row of a normalised cell is one thread's, though the products in it are several threads'.
    float* ahead() const {
        const bool common = C::normed && part.by_units;
        return shared.ahead + (common ? 0 : team.id) * shared.ahead_rows * layout.gates_width();
    }
    Panels projection() const { return {shared.w_r, problem.hidden, problem.projection}; }
    i64 state_width() const { return round_up(state(), lanes); }
    // Vectors of the hidden state that this thread writes.
    Share states() const {
        const i64 vectors = ceil_div(state(), lanes);
        if (!part.by_units) return {0, vectors};
        if (!problem.projection) return {blocks.first * C::units, smaller(vectors, blocks.last * C::units)};
        const Share panels = team.share(projection().count());
        return {panels.first * panel_vectors, smaller(vectors, panels.last * panel_vectors)};
    }
    bool drops() const { return problem.noise.drawn && problem.noise.recurrent_dropout > 0.0f; }
    float* cell(i64 rank, i64 step) const {
        return shared.cell + (step % 2 * problem.schedule.rows + rank) * layout.cell_width();
    }
    // The initial cell state of a row; null for zeros.
    const float* c_0(i64 rank) const {
        if (!direction.c_0 || C::cells > 1)
            return shared.c_0 ? shared.c_0 + rank * layout.cell_width() : nullptr;
        return direction.c_0 + reading.row(rank) * layout.hidden;
    }
    float* masked(i64 rank) const {
        return shared.masked + ((part.by_units ? team.id * problem.schedule.rows : 0) + rank) * state_width();
    }
    Draws draws(i64 row) const { return {problem.noise, static_cast<uint32_t>(row), direction.stream}; }
};

// Packs the weights of blocks share.first..share.last.
template <class C>
void pack_forward(const Forward<C>& f, Share share) {
    const Layout<C>& layout = f.layout;
    const i64 hidden = layout.hidden;
    const auto pack = [&](const float* weights, i64 depth, int from, int to, auto gate_of, float* packed) {
        const int used = to - from;
        const i64 row = C::units * used * lanes;
        for (i64 v = share.first * C::units; v < share.last * C::units; v++)
            for (int slot = from; slot < to; slot++) {
                const i64 units = layout.units(v);
                const float* source =
                    units ? weights + (gate_of(slot) * hidden + v * lanes) * depth : weights;
                transpose_block(
                    source, depth, units, depth,
                    packed + v / C::units * row * depth + (v % C::units * used + slot - from) * lanes, row);
            }
    };
    const Direction& d = f.direction;
    pack(d.w_ih, words(f.layer.features), C::x_from, C::x_to, C::gate_of_x, f.shared.w_x);
    pack(d.w_hh, words(f.state()), C::h_from, C::h_to, C::gate_of_h, f.shared.w_h);
    for (i64 v = share.first * C::units; v < share.last * C::units; v++)
        for (int slot = 0; slot < C::slots; slot++) {
            const i64 units = layout.units(v);
            V bias = {};
            if (d.b_ih && units && slot >= C::x_from && slot < C::x_to)
                bias += load(d.b_ih + C::gate_of_x(slot) * hidden + v * lanes, units);
            if (d.b_hh && units && slot >= C::h_from && slot < C::h_to)
                bias += load(d.b_hh + C::gate_of_h(slot) * hidden + v * lanes, units);
            store(f.shared.bias + (v * C::slots + slot) * lanes, bias);
        }
}

// Packs (depth, columns) given as its transpose (columns, depth) into the panels first..last.
inline void pack_transposed(const Panels& panels, const float* weights, Share share, float* packed) {
    for (i64 panel = share.first; panel < share.last; panel++) {
        const i64 width = panels.width(panel);
        for (i64 n = 0; n < width; n++) {
            const i64 column = (panel * panel_vectors + n) * lanes;
            transpose_block(weights + column * panels.depth, panels.depth,
                            smaller(lanes, panels.columns - column), panels.depth,
                            packed + (panels.at(panel, 0) - panels.data) + n * lanes, width * lanes);
        }
    }
}

// MR rows × NB blocks of units: the products, and from them the gates and states.
template <class C, bool KEEP, int MR, int NB>
RECURRA_NOINLINE void forward_tile(const Forward<C>& f, const ForwardRows& rows, i64 row, i64 block,
                                   int phases) {
    constexpr int width = Layout<C>::width;
    V acc[MR][NB * width];
    const i64 first = block * width * lanes;  // of this block in a row of gates
    if (phases & INPUT) {
        RECURRA_UNROLL
        for (int m = 0; m < MR; m++) {
            RECURRA_UNROLL
            for (int n = 0; n < NB * width; n++) acc[m][n] = load(f.shared.bias + first + n * lanes);
        }
        accumulate<MR, NB, width, C::slots, C::x_from, C::x_to>(
            acc, rows.x + row, {1, words(f.layer.features), 0}, f.shared.w_x + block * f.x_block(),
            f.x_block());
    } else {
        RECURRA_UNROLL
        for (int m = 0; m < MR; m++) {
            RECURRA_UNROLL
            for (int n = 0; n < NB * width; n++) acc[m][n] = load(rows.gates[row + m] + first + n * lanes);
        }
    }
    if (!(phases & STATE)) {
        RECURRA_UNROLL
        for (int m = 0; m < MR; m++) {
            RECURRA_UNROLL
            for (int n = 0; n < NB * width; n++) store(rows.gates[row + m] + first + n * lanes, acc[m][n]);
        }
        return;
    }
    accumulate<MR, NB, width, C::slots, C::h_from, C::h_to>(acc, rows.left + row, {1, words(f.state()), 0},
                                                            f.shared.w_h + block * f.h_block(), f.h_block());
    RECURRA_UNROLL
    for (int m = 0; m < MR; m++) {
        RECURRA_UNROLL
        for (int u = 0; u < NB * C::units; u++) {
            const i64 v = block * C::units + u, units = f.layout.units(v);
            V* a = &acc[m][u * C::slots];
            V c_before = {}, h_before = {}, c;
            if constexpr (C::cells == 1) c_before = load(rows.c_before[row + m] + v * lanes, units);
            if constexpr (C::carries_hidden)
                h_before = load((pairs ? rows.hidden : rows.h)[row + m] + v * lanes, units);
            V h;
            if constexpr (C::cells > 1) {
                V before[C::cells], now[C::cells];
                RECURRA_UNROLL
                for (int k = 0; k < C::cells; k++)
                    before[k] = load(rows.c_before[row + m] + Layout<C>::cell_at(v, k));
                h = C::forward(a, before, h_before, now);
                RECURRA_UNROLL
                for (int k = 0; k < C::cells; k++)
                    store(rows.cell[row + m] + Layout<C>::cell_at(v, k), now[k]);
            } else {
                const Parameters<C> own(f.direction.own, f.layout.hidden, v, units);
                h = cell_forward<C>(a, c_before, h_before, c, own);
            }
            if constexpr (KEEP) {
                RECURRA_UNROLL
                for (int s = 0; s < C::slots; s++)
                    store(rows.gates[row + m] + first + (u * C::slots + s) * lanes, a[s]);
            }
            if constexpr (C::cells == 1) store(rows.cell[row + m] + v * lanes, c);
            store_numbers(rows.y[row + m], v * lanes, h, units);
            if constexpr (pairs && C::carries_hidden) store(rows.hidden[row + m] + v * lanes, h);
        }
    }
}

// All of this thread's blocks for MR rows, so few that several blocks at once are needed to have enough sums
// under way.
template <class C, bool KEEP, int MR>
void forward_low(const Forward<C>& f, const ForwardRows& rows, int phases) {
    constexpr int together = many_registers ? 4 / MR : 1;
    i64 block = f.blocks.first;
    for (; block + together <= f.blocks.last; block += together)
        forward_tile<C, KEEP, MR, together>(f, rows, 0, block, phases);
    for (; block < f.blocks.last; block++) forward_tile<C, KEEP, MR, 1>(f, rows, 0, block, phases);
}

// The tiles of rows 0..count and of this thread's blocks.
template <class C, bool KEEP>
void forward_tiles(const Forward<C>& f, const ForwardRows& rows, i64 count, int phases) {
    if (count == 1) return forward_low<C, KEEP, 1>(f, rows, phases);
    if (count == 2) return forward_low<C, KEEP, 2>(f, rows, phases);
    for (i64 block = f.blocks.first; block < f.blocks.last; block++)
        for (i64 row = 0; row < count;) {
            const int height = next_tile(count - row);
            with_height(height, [&](auto h) {
                forward_tile<C, KEEP, decltype(h)::value, 1>(f, rows, row, block, phases);
            });
            row += height;
        }
}

template <class C>
void norm_products(const Forward<C>& f, const ForwardRows& rows, i64 count, Phase phase);
template <class C>
void norm_rows(const Forward<C>& f, const ForwardRows& rows, i64 count);

// What the phases say of rows 0..count.
template <class C, bool KEEP>
void products(const Forward<C>& f, const ForwardRows& rows, i64 count, int phases) {
    if constexpr (C::normed) {
        norm_products(f, rows, count, phases == INPUT ? INPUT : STATE);
        if (phases & STATE) norm_rows(f, rows, count);
    } else {
        forward_tiles<C, KEEP>(f, rows, count, phases);
    }
}

// Points rows 0..count at reading step `step`.
template <class C, bool KEEP>
void place_forward(const Forward<C>& f, ForwardRows& rows, i64 step, i64 count, float* ahead) {
    const Direction& d = f.direction;
    const i64 cell_width = f.layout.cell_width(), state = f.state();
    const Reading& reading = f.reading;
    for (i64 i = 0; i < count; i++) {
        const i64 rank = f.part.rank(i), b = reading.row(rank), time = reading.time(rank, step);
        const i64 entry = reading.entry(rank, step);
        rows.x[i] = at(f.layer.x, b, time);
        rows.h[i] = rows.y[i];  // of the step before
        rows.c_before[i] = rows.cell[i];
        const bool reset = reading.resets_before(rank, step);
        if (step == 0 || reset) {
            const bool initial = !reset || reading.schedule.reset_to_initial;
            rows.h[i] = initial && d.h_0 ? d.h_0 + b * words(state) : f.shared.zeros;
            rows.c_before[i] = initial && f.c_0(rank) ? f.c_0(rank) : f.shared.zeros;
        }
        rows.y[i] = at(f.layer.y, b, time);
        if (KEEP) rows.gates[i] = d.gates + entry * f.layout.gates_width();
        else if (ahead) rows.gates[i] = ahead + i * f.layout.gates_width();
        if (C::has_cell) rows.cell[i] = KEEP ? d.cell + entry * cell_width : f.cell(rank, step);
        rows.left[i] = rows.h[i];
        if (f.drops()) {
            float* masked = f.masked(rank);
            const float* factors = f.shared.factors + rank * f.state_width();
            for (i64 column = 0; column < state; column += lanes) {
                const V h = load(rows.h[i] + column, smaller(lanes, state - column));
                store(masked + column, dropped(h, load(factors + column)));
            }
            rows.left[i] = masked;
        }
        if constexpr (pairs && C::carries_hidden) {
            rows.hidden[i] = f.shared.hidden + rank * f.layout.unit_width();
            if (step == 0 || reset)
                for (i64 v = f.blocks.first * C::units; v < f.blocks.last * C::units; v++)
                    store(rows.hidden[i] + v * lanes, load_numbers(rows.h[i], v * lanes, f.layout.units(v)));
        }
    }
}

// The input's products for steps first..last: pre-activations into the kept gates, or into shared.ahead.
template <class C, bool KEEP>
void hoist(const Forward<C>& f, ForwardRows& rows, i64 first, i64 last) {
    i64 count = 0;
    for (i64 step = first; step < last; step++) {
        const i64 n = f.part.below(f.reading.ranks(step));
        for (i64 i = 0; i < n; i++, count++) {
            const i64 rank = f.part.rank(i);
            rows.x[count] = at(f.layer.x, f.reading.row(rank), f.reading.time(rank, step));
            rows.gates[count] = KEEP
                                    ? f.direction.gates + f.reading.entry(rank, step) * f.layout.gates_width()
                                    : f.ahead() + count * f.layout.gates_width();
        }
    }
    products<C, KEEP>(f, rows, count, INPUT);
}

// Projects what the step showed: rows.y becomes w_hr · shown.
template <class C>
void project(const Forward<C>& f, const ForwardRows& rows, float* const* y, i64 count) {
    const Panels panels = f.projection();
    if (f.part.by_units) f.team.wait();
    const Share share = f.part.by_units ? f.team.share(panels.count()) : Share{0, panels.count()};
    product(rows.y, {1, f.problem.hidden, 0}, panels, 0, share.first, share.last, y, count, false);
}

// The factors of recurrent dropout of one row.
inline void draw_factors(const Draws& draws, float* factors, i64 state) {
    for (i64 column = 0; column < state; column += lanes) store(factors + column, draws.factor(column));
}

// Zoneout: some of the states of the step before stay.
template <class C>
void zone_out(const Forward<C>& f, const ForwardRows& rows, i64 step, i64 count) {
    const Noise& noise = f.problem.noise;
    const i64 state = f.state();
    for (i64 i = 0; i < count; i++) {
        const i64 rank = f.part.rank(i), row = f.reading.row(rank), time = f.reading.time(rank, step);
        const Draws draws = f.draws(row);
        if (C::cells == 1 && noise.zoneout_cell > 0.0f)
            for (i64 v = f.blocks.first * C::units; v < f.blocks.last * C::units; v++) {
                const V before = load(rows.c_before[i] + v * lanes, f.layout.units(v));
                float* cell = rows.cell[i] + v * lanes;
                store(cell, draws.cell(time, v * lanes).blend(before, load(cell)));
            }
        if (noise.zoneout_hidden > 0.0f)
            for (i64 v = f.states().first; v < f.states().last; v++) {
                const i64 column = v * lanes, n = smaller(lanes, state - column);
                const V before = load(rows.h[i] + column, n), now = load(rows.y[i] + column, n);
                store(rows.y[i] + column, draws.hidden(time, column).blend(before, now), n);
            }
    }
}

// All steps of this thread's rows.
template <class C, bool KEEP>
void forward_steps(const Forward<C>& f) {
    const Schedule& schedule = f.problem.schedule;
    const i64 capacity = f.part.by_units ? larger(f.part.rows, hoisted_rows)
                                         : ceil_div(schedule.rows, f.team.size) + hoisted_rows;
    ForwardRows rows(f.shared.tables + f.team.id * (forward_tables + 1) * capacity, capacity);
    float** y = (float**)(f.shared.tables + (f.team.id * (forward_tables + 1) + forward_tables) * capacity);
    const bool zones =
        !pairs && (f.problem.noise.zoneout_hidden > 0.0f || f.problem.noise.zoneout_cell > 0.0f);
    const bool hoists = C::normed || (f.part.rows < hoist_below && schedule.steps > 1);
    const i64 chunk = hoists ? larger(1, hoisted_rows / larger(1, f.part.rows)) : schedule.steps;
    for (i64 first = 0; first < schedule.steps; first += chunk) {
        const i64 last = smaller(schedule.steps, first + chunk);
        if (hoists) hoist<C, KEEP>(f, rows, first, last);  // leaves x and gates to be set anew
        float* ahead = hoists ? f.ahead() : nullptr;
        for (i64 step = first; step < last; step++) {
            const i64 count = f.part.below(f.reading.ranks(step));
            if (f.reading.ranks(step) == 0) break;
            place_forward<C, KEEP>(f, rows, step, count, ahead);
            if (ahead) ahead += count * f.layout.gates_width();
            if (f.problem.projection)
                for (i64 i = 0; i < count; i++) {
                    y[i] = rows.y[i];
                    rows.y[i] = f.shared.shown + f.part.rank(i) * f.layout.unit_width();
                }
            products<C, KEEP>(f, rows, count, hoists ? STATE : INPUT | STATE);
            if (f.problem.projection) {
                project(f, rows, y, count);
                for (i64 i = 0; i < count; i++) rows.y[i] = y[i];
            }
            if (zones && C::normed && f.part.by_units) f.team.wait();
            if (zones) zone_out(f, rows, step, count);
            if (f.part.by_units) f.team.wait();
        }
    }
}

inline void copy(float* to, const float* from, i64 count) {
    if (from) memcpy(to, from, count * sizeof(float));
    else memset(to, 0, count * sizeof(float));
}

// Final states, and zeros in the output beyond each row's end.
template <class C, bool KEEP>
void forward_ends(const Forward<C>& f) {
    const Direction& d = f.direction;
    const Schedule& schedule = f.problem.schedule;
    const i64 hidden = f.layout.hidden, state = f.state(), cell_width = f.layout.cell_width();
    for (i64 i = f.part.by_units ? f.team.id : 0; i < f.part.rows; i += f.part.by_units ? f.team.size : 1) {
        const i64 rank = f.part.rank(i), b = f.reading.row(rank), length = f.reading.length(rank);
        if (d.h_n) {
            const float* last = length  ? at(f.layer.y, b, f.reading.time(rank, length - 1))
                                : d.h_0 ? d.h_0 + b * words(state)
                                        : nullptr;
            copy(d.h_n + b * words(state), last, words(state));
        }
        if (C::has_cell && d.c_n) {
            const float* last = f.c_0(rank);
            if (length)
                last =
                    KEEP ? d.cell + f.reading.entry(rank, length - 1) * cell_width : f.cell(rank, length - 1);
            if (C::cells == 1) copy(d.c_n + b * hidden, last, hidden);
            else
                for (i64 v = 0; v < f.layout.vectors(); v++)
                    for (i64 k = 0; k < C::cells; k++)
                        store(d.c_n + (b * C::cells + k) * hidden + v * lanes,
                              last ? load(last + f.layout.cell_at(v, k)) : V{}, f.layout.units(v));
        }
        for (i64 t = f.layer.y.offset ? schedule.steps : length; t < schedule.steps; t++)
            memset(at(f.layer.y, b, t), 0, words(state) * sizeof(float));
    }
}

}  // namespace
}  // namespace recurra::RECURRA_ISA
