// A whole stack in one call: layers one after another, directions side by side, and the memory that they
// need.
#pragma once

#include "normed.h"
#include "products.h"
#include "threads.h"

namespace recurra::RECURRA_ISA {
namespace {

struct ForwardJob {
    const Problem* problem;
    ForwardShared shared[2];
    Barrier all, teams[2];
};

// The direction that this thread works on, and with whom: directions side by side where the threads divide,
// else one after the other.
inline Team team_for(int direction, int directions, int id, int size, Barrier* barriers, bool& mine) {
    if (directions == 1 || size % 2) {
        mine = true;
        return {id, size, &barriers[direction]};
    }
    mine = id / (size / 2) == direction;
    return {id % (size / 2), size / 2, &barriers[direction]};
}

// `layer` with its output's views at direction d's columns.
inline Layer at_direction(const Problem& p, const Layer& layer, int d) {
    Layer shifted = layer;
    shifted.y.data += d * words(state_size(p));
    if (shifted.d_y.data) shifted.d_y.data += d * state_size(p);
    return shifted;
}

template <class C, bool KEEP>
void forward_worker(void* context, int id, int size) {
    ForwardJob& job = *static_cast<ForwardJob*>(context);
    const Problem& p = *job.problem;
    for (i64 l = 0; l < p.depth; l++) {
        for (int d = 0; d < p.directions; d++) {
            bool mine;
            const Team team = team_for(d, static_cast<int>(p.directions), id, size, job.teams, mine);
            if (!mine) continue;
            const Layer& layer = p.layers[l];
            const Layer shifted = at_direction(p, layer, d);
            Forward<C> f = {p,
                            shifted,
                            layer.directions[d],
                            job.shared[d],
                            {p.schedule, d == 1},
                            team,
                            part_of(team, p.schedule.rows),
                            {p.hidden},
                            {0, 0}};
            f.blocks = f.part.by_units ? team.share(f.layout.blocks()) : Share{0, f.layout.blocks()};
            pack_forward(f, team.share(f.layout.blocks()));
            if (p.projection)
                pack_transposed(f.projection(), f.direction.w_hr, team.share(f.projection().count()),
                                f.shared.w_r);
            if (f.drops())
                for (i64 rank = team.id; rank < p.schedule.rows; rank += team.size)
                    draw_factors(f.draws(f.reading.row(rank)), f.shared.factors + rank * f.state_width(),
                                 f.state());
            if (C::cells > 1 && f.direction.c_0)
                for (i64 rank = team.id; rank < p.schedule.rows; rank += team.size)
                    arrange_cells(f.layout, f.direction.c_0 + f.reading.row(rank) * C::cells * p.hidden,
                                  f.shared.c_0 + rank * f.layout.cell_width());
            team.wait();
            forward_steps<C, KEEP>(f);
            forward_ends<C, KEEP>(f);
        }
        if (size > 1) job.all.wait(size);
    }
}

template <class C, bool KEEP>
void forward(const Problem& p) {
    const Layout<C> layout = {p.hidden};
    const i64 rows = p.schedule.rows, state = state_size(p);
    i64 features = 0;
    for (i64 l = 0; l < p.depth; l++) features = larger(features, p.layers[l].features);
    Arena& memory = arena();
    ForwardJob job = {};
    job.problem = &p;
    const i64 zeros = larger(round_up(state, lanes), layout.cell_width());
    float* nothing = memory.floats(zeros);
    memset(nothing, 0, zeros * sizeof(float));
    const i64 block = C::units * lanes;
    for (i64 d = 0; d < p.directions; d++) {
        ForwardShared& s = job.shared[d];
        s.zeros = nothing;
        s.w_x = memory.floats(layout.blocks() * block * Layout<C>::x_slots * words(features));
        s.w_h = memory.floats(layout.blocks() * block * Layout<C>::h_slots * words(state));
        if (pairs && C::carries_hidden) s.hidden = memory.floats(rows * layout.unit_width());
        s.bias = memory.floats(layout.gates_width());
        if (p.projection) {
            s.w_r = memory.floats(panels_size(p.hidden, p.projection));
            s.shown = memory.floats(rows * layout.unit_width());
        }
        if (C::has_cell && !KEEP) s.cell = memory.floats(2 * rows * layout.cell_width());
        if (C::cells > 1 && p.layers[0].directions[0].c_0) s.c_0 = memory.floats(rows * layout.cell_width());
        const i64 threads = p.threads;
        if (p.noise.drawn && p.noise.recurrent_dropout > 0.0f) {
            const i64 copies = few_rows(rows, static_cast<int>(threads)) ? threads : 1;
            s.factors = memory.floats(rows * round_up(state, lanes));
            s.masked = memory.floats(copies * rows * round_up(state, lanes));
        }
        s.ahead_rows = C::normed ? larger(ahead_rows, rows) : ahead_rows;
        if (!KEEP) s.ahead = memory.floats(s.ahead_rows * layout.gates_width() * threads);
        const i64 capacity =
            larger(smaller(rows, 4 * threads) * threads, rows + threads) + (hoisted_rows + 1) * threads;
        s.tables = static_cast<const void**>(memory.bytes(capacity * (forward_tables + 1), sizeof(void*)));
    }
    parallel(p.threads, forward_worker<C, KEEP>, &job);
}

struct BackwardJob {
    const Problem* problem;
    BackwardShared shared[2];
    SumRoom room;
    float* scratch;  // (threads, scratch_size)
    i64 scratch_size;
    Barrier all, teams[2];
};

template <class C>
Backward<C> backward_of(const BackwardJob& job, const Layer& layer, int d, const Team& team, float* scratch) {
    const Problem& p = *job.problem;
    Backward<C> b = {p,
                     layer,
                     layer.directions[d],
                     job.shared[d],
                     {p.schedule, d == 1},
                     team,
                     part_of(team, p.schedule.rows),
                     {p.hidden},
                     {0, 0},
                     {0, 0},
                     scratch};
    const i64 vectors = b.layout.vectors(), panels = ceil_div(vectors, panel_vectors);
    const i64 state_vectors = ceil_div(b.state(), lanes),
              state_panels = ceil_div(state_vectors, panel_vectors);
    const Share units = b.part.by_units ? team.share(panels) : Share{0, panels};
    const Share states = b.part.by_units ? team.share(state_panels) : Share{0, state_panels};
    b.units = {units.first * panel_vectors, smaller(vectors, units.last * panel_vectors)};
    b.states = {states.first * panel_vectors, smaller(state_vectors, states.last * panel_vectors)};
    return b;
}

template <class C>
void backward_worker(void* context, int id, int size) {
    BackwardJob& job = *static_cast<BackwardJob*>(context);
    const Problem& p = *job.problem;
    const int directions = static_cast<int>(p.directions);
    const Team everyone = {id, size, &job.all};
    float* scratch = job.scratch + id * job.scratch_size;
    for (i64 l = p.depth - 1; l >= 0; l--) {
        const Layer& layer = p.layers[l];
        for (int d = 0; d < directions; d++) {
            bool mine;
            const Team team = team_for(d, directions, id, size, job.teams, mine);
            if (!mine) continue;
            const Layer shifted = at_direction(p, layer, d);
            const Backward<C> b = backward_of<C>(job, shifted, d, team, scratch);
            const Share vectors = team.share(b.layout.vectors());
            const BackwardShared& s = b.shared;
            pack_backward(b.layout, b.h_panels(), b.direction.w_hh, C::h_from, C::h_to, C::gate_of_h, vectors,
                          s.w_hh);
            if (layer.d_x.data)
                pack_backward(b.layout, b.x_panels(), b.direction.w_ih, C::x_from, C::x_to, C::gate_of_x,
                              vectors, s.w_ih);
            if (p.projection)
                pack_plain(b.r_panels(), b.direction.w_hr, team.share(b.r_panels().count()), s.w_hr);
            if (b.drops())
                for (i64 rank = team.id; rank < p.schedule.rows; rank += team.size)
                    draw_factors(b.draws(b.reading.row(rank)), s.factors + rank * b.state_width(), b.state());
            if (C::cells > 1 && b.direction.c_0)
                for (i64 rank = team.id; rank < p.schedule.rows; rank += team.size)
                    arrange_cells(b.layout, b.direction.c_0 + b.reading.row(rank) * C::cells * p.hidden,
                                  s.c_0 + rank * b.layout.cell_width());
            team.wait();
            backward_steps(b);
        }
        everyone.wait();
        const i64 entries = p.schedule.start[p.schedule.steps];
        for (int d = 0; d < directions; d++) {
            const Layer shifted = at_direction(p, layer, d);
            const Backward<C> b = backward_of<C>(job, shifted, d, everyone, scratch);
            if (layer.d_x.data) {
                if (d == 0) clear_input(b);
                else everyone.wait();  // the forward direction writes, the reverse one adds
                backward_input(b, everyone.share(entries), d == 1);
            }
            const Direction& wanted = b.direction;
            const bool of_biases = !C::normed && (wanted.d_b_ih || wanted.d_b_hh);
            if (wanted.d_w_ih || wanted.d_w_hh || of_biases) backward_weights(b, job.room);
            const Share mine = everyone.share(b.layout.vectors());
            if constexpr (C::normed) {
                backward_norms(b, mine);
            } else if constexpr (C::params > 0) {
                if (wanted.d_own) backward_peepholes(b, mine);
            }
            if constexpr (C::has_cell) {
                if (!pairs && p.projection && wanted.d_w_hr) {
                    everyone.wait();  // the sums are used again
                    backward_projection(b, job.room);
                }
            }
            everyone.wait();
        }
    }
}

template <class C>
void backward(const Problem& p) {
    const Layout<C> layout = {p.hidden};
    const i64 rows = p.schedule.rows, state = state_size(p), entries = p.schedule.start[p.schedule.steps];
    const i64 state_width = round_up(state, lanes);
    i64 features = 0;
    for (i64 l = 0; l < p.depth; l++) features = larger(features, p.layers[l].features);
    Arena& memory = arena();
    BackwardJob job = {};
    job.problem = &p;
    const i64 zeros = larger(round_up(state, lanes), layout.cell_width());
    float* nothing = memory.floats(zeros);
    memset(nothing, 0, zeros * sizeof(float));
    for (i64 d = 0; d < p.directions; d++) {
        BackwardShared& s = job.shared[d];
        s.zeros = nothing;
        s.w_hh = memory.floats(panels_size(words(layout.vectors() * Layout<C>::h_slots * lanes), state));
        s.w_ih = memory.floats(panels_size(words(layout.vectors() * Layout<C>::x_slots * lanes), features));
        s.delta = memory.floats(entries * (words(layout.gates_width()) + delta_gap));
        s.d_state = memory.floats(rows * state_width);
        s.carry = memory.floats(rows * layout.cell_width());
        if (C::normed) s.sums = memory.floats(rows * 2 * (4 + C::params) * layout.unit_width());
        if (C::cells > 1) s.c_0 = memory.floats(rows * layout.cell_width());
        if (p.noise.zoneout_hidden > 0.0f) s.through = memory.floats(rows * state_width);
        if (p.noise.drawn && p.noise.recurrent_dropout > 0.0f) s.factors = memory.floats(rows * state_width);
        if (p.projection) {
            s.w_hr = memory.floats(panels_size(p.projection, p.hidden));
            s.d_hidden = memory.floats(entries * state_width);
            s.d_shown = memory.floats(rows * layout.unit_width());
        }
        const i64 capacity = larger(smaller(rows, 4 * p.threads) * p.threads, rows + p.threads);
        s.tables = static_cast<const void**>(memory.bytes(capacity * backward_tables, sizeof(void*)));
    }
    const i64 columns = sum_stride_for(larger(features + 1 + state, p.hidden));
    job.room.left_size = words_at_once * larger(layout.gates_width(), state_width);
    job.room.right_size = words_at_once * columns;
    job.room.sums = memory.floats(larger(layout.gates_width(), state_width) * columns);
    job.room.left = memory.floats(job.room.left_size * p.threads);
    job.room.right = memory.floats(job.room.right_size * p.threads);
    job.scratch_size = larger(state_width, (C::normed ? 10 : C::params > 0 ? 6 : 1) * layout.unit_width());
    job.scratch = memory.floats(job.scratch_size * p.threads);
    parallel(p.threads, backward_worker<C>, &job);
}

}  // namespace
}  // namespace recurra::RECURRA_ISA
