// After the time loop: the gradients that are one product over all entries.
#pragma once

#include "backward.h"

namespace recurra::RECURRA_ISA {
namespace {

// A tile of the weights' gradient: 8 × 3 vectors of sums where there are 32 registers, 4 × 6 of short
// vectors, and 4 × 3 with 16 registers.
constexpr int sum_rows = many_registers && lanes >= 8 ? 8 : 4;
constexpr int sum_vectors = many_registers && lanes < 8 ? 6 : 3;
constexpr int sum_columns = sum_vectors * lanes;
constexpr i64 words_at_once = 384;  // of one or two entries each
constexpr i64 entries_at_once = words_at_once * per_word;
constexpr i64 words_in_a_sum = 128;  // longer sums would lose digits: these are added up, then their sums
constexpr i64 tiles_at_once =
    256 / sum_rows;  // with their entries' part of the left factor, half a second cache
static_assert(lanes % sum_rows == 0 || sum_rows % lanes == 0, "a tile's rows may not straddle slots");
static_assert(sum_rows <= lanes, "a tile's rows belong to one slot");

// Walks over entries in order.
struct Cursor {
    const Reading& reading;
    i64 step, rank;

    Cursor(const Reading& r, i64 entry) : reading(r), step(0), rank(0) {
        i64 low = 0, high = r.schedule.steps;  // the last step that starts at or before the entry
        while (high - low > 1) {
            const i64 middle = (low + high) / 2;
            (r.schedule.start[middle] <= entry ? low : high) = middle;
        }
        step = low;
        rank = entry - r.schedule.start[low];
    }
    void next() {
        rank++;
        while (step < reading.schedule.steps && rank >= reading.ranks(step)) {
            step++;
            rank = 0;
        }
    }
};

// d_x = delta · W_ih, for this thread's share of the entries.
template <class C>
void backward_input(const Backward<C>& b, Share share, bool add) {
    const float* left[input_rows];
    float* out[input_rows];
    const Panels panels = b.x_panels();
    // As many of the gates at once as keep their part of a panel in the nearest cache.
    constexpr i64 together = larger(1, 512 / (Layout<C>::x_slots * lanes));
    Cursor cursor(b.reading, share.first);
    for (i64 from = share.first; from < share.last; from += input_rows) {
        const i64 count = smaller(input_rows, share.last - from);
        for (i64 i = 0; i < count; i++, cursor.next())
            out[i] = at(b.layer.d_x, b.reading.row(cursor.rank), b.reading.time(cursor.rank, cursor.step));
        for (i64 v = 0; v < b.layout.vectors(); v += together) {
            const i64 vectors = smaller(together, b.layout.vectors() - v);
            for (i64 i = 0; i < count; i++)
                left[i] =
                    b.shared.delta + (from + i) * b.delta_width() + words((v * C::slots + C::x_from) * lanes);
            Runs runs = {vectors, words(Layout<C>::x_slots * lanes), words(b.unit_vector)};
            if (Layout<C>::x_slots == C::slots) runs = {1, words(vectors * b.unit_vector), 0};
            product(left, runs, panels, words(v * Layout<C>::x_slots * lanes), 0, panels.count(), out, count,
                    add || v > 0);
        }
    }
}

// Zeros in d_x beyond each row's end.
template <class C>
void clear_input(const Backward<C>& b) {
    const i64 steps = b.problem.schedule.steps;
    if (b.layer.d_x.offset) return;
    for (i64 i = b.part.by_units ? b.team.id : 0; i < b.part.rows; i += b.part.by_units ? b.team.size : 1)
        for (i64 t = b.reading.length(b.part.rank(i)); t < steps; t++)
            memset(at(b.layer.d_x, b.reading.row(b.part.rank(i)), t), 0, b.layer.features * sizeof(float));
}

// sums (sum_rows, sum_columns) (+)= leftᵀ right over `depth` entries, packed as (depth, sum_rows) and
// (depth, sum_columns).
inline RECURRA_NOINLINE void sum_tile(const float* left, const float* right, i64 depth, float* sums,
                                      i64 stride, bool add) {
    V acc[sum_rows][sum_vectors];
    RECURRA_UNROLL
    for (int m = 0; m < sum_rows; m++) {
        RECURRA_UNROLL
        for (int n = 0; n < sum_vectors; n++) acc[m][n] = V{};
    }
    for (i64 k = 0; k < depth; k++, left += sum_rows, right += sum_columns) {
        V w[sum_vectors];
        RECURRA_UNROLL
        for (int n = 0; n < sum_vectors; n++) {
            w[n] = load(right + n * lanes);
            __builtin_prefetch(right + n * lanes + 8 * sum_columns);
        }
        RECURRA_UNROLL
        for (int m = 0; m < sum_rows; m++) {
            const V factor = broadcast_word(left[m]);
            RECURRA_UNROLL
            for (int n = 0; n < sum_vectors; n++) acc[m][n] = multiply_add(acc[m][n], factor, w[n]);
        }
    }
    RECURRA_UNROLL
    for (int m = 0; m < sum_rows; m++) {
        RECURRA_UNROLL
        for (int n = 0; n < sum_vectors; n++) {
            float* to = sums + m * stride + n * lanes;
            store(to, add ? load(to) + acc[m][n] : acc[m][n]);
        }
    }
}

// One piece of a row of the right factor.
struct Piece {
    const Element* from;
    i64 count;
};

// Writes columns first..first + sum_columns of the row that the pieces make one after another; zeros beyond.
RECURRA_INLINE void write_columns(const Piece (&pieces)[3], i64 first, Element* to) {
    i64 written = 0;
    for (const Piece& piece : pieces) {
        if (first < piece.count && written < sum_columns) {
            const i64 count = smaller(piece.count - first, sum_columns - written);
            if (count == sum_columns) {
                memcpy(to, piece.from + first, sum_columns * sizeof(Element));
                return;
            }
            memcpy(to + written, piece.from + first, count * sizeof(Element));
            written += count;
            first = 0;
        } else {
            first -= smaller(first, piece.count);
        }
    }
    memset(to + written, 0, (sum_columns - written) * sizeof(Element));
}

// The same as words: of one row, or in a unit of pairs of two.
RECURRA_INLINE void write_words(const Piece (&a)[3], const Piece (&b)[3], i64 first, float* to) {
    if constexpr (pairs) {
        Element rows[2][sum_columns];
        write_columns(a, first, rows[0]);
        write_columns(b, first, rows[1]);
        join(to, rows[0], rows[1], sum_columns);
    } else {
        write_columns(a, first, (Element*)to);
    }
}

// Gradients of weights as one product over all entries, leftᵀ · right, cut in chunks of entries. The threads
// share out the sums, not the entries, so each sum is added up in the same order whatever their number.
struct WeightProduct {
    const float* left;  // (entries, left_stride) words, of which left_rows numbers become rows of the sums
    i64 left_stride, left_rows, entries, columns;
    float* sums;  // (left_rows, sum_stride)
    i64 sum_stride;
    float *left_packed, *right_packed;  // room of this thread's
};

// Where the sums are made: the sums themselves, and for each thread its packed chunks of the two factors.
struct SumRoom {
    float *sums, *left, *right;
    i64 left_size, right_size;  // of one thread's

    float* left_of(int thread) const { return left + thread * left_size; }
    float* right_of(int thread) const { return right + thread * right_size; }
};

constexpr i64 sum_stride_for(i64 columns) { return round_up(columns, sum_columns); }

// A rectangle of the sums for each thread: rows × column panels.
struct Rectangle {
    Share rows, panels;
};

inline Rectangle rectangle_of(const Team& team, i64 tiles, i64 panels) {
    int across = 1;  // threads side by side along the columns
    for (int n = 1; n * n <= team.size; n++)
        if (team.size % n == 0) across = n;
    const int down = team.size / across, row = team.id / across, column = team.id % across;
    return {{tiles * row / down, tiles * (row + 1) / down},
            {panels * column / across, panels * (column + 1) / across}};
}

// The sums of one tile, from the packed chunk.
inline void add_entries(const WeightProduct& w, const Rectangle& mine, i64 tile, i64 panel, i64 depth,
                        bool add) {
    const float* left = w.left_packed + (tile - mine.rows.first) * words_at_once * sum_rows;
    const float* right = w.right_packed + (panel - mine.panels.first) * words_at_once * sum_columns;
    float* sums = w.sums + tile * sum_rows * w.sum_stride + panel * sum_columns;
    for (i64 k = 0; k < depth; k += words_in_a_sum)
        sum_tile(left + k * sum_rows, right + k * sum_columns, smaller(words_in_a_sum, depth - k), sums,
                 w.sum_stride, add || k > 0);
}

constexpr Element no_numbers[sum_rows] = {};

// fill(cursor, entry, pieces) says what a row of the right factor is; wanted(tile, panel) which sums are.
template <class Fill, class Wanted>
void weight_product(const WeightProduct& w, const Rectangle& mine, const Reading& reading, Fill fill,
                    Wanted wanted) {
    if (w.entries == 0)
        for (i64 r = mine.rows.first * sum_rows; r < mine.rows.last * sum_rows; r++)
            memset(w.sums + r * w.sum_stride + mine.panels.first * sum_columns, 0,
                   (mine.panels.last - mine.panels.first) * sum_columns * sizeof(float));
    Cursor cursor(reading, 0);
    for (i64 from = 0; from < w.entries; from += entries_at_once) {
        const i64 entries = smaller(entries_at_once, w.entries - from), depth = ceil_div(entries, per_word);
        for (i64 k = 0; k < depth; k++) {
            const i64 entry = from + k * per_word;
            const bool second = pairs && entry + 1 < w.entries;
            Piece pieces[2][3] = {};
            for (int half = 0; half < 1 + second; half++, cursor.next())
                fill(cursor, entry + half, pieces[half]);
            for (i64 panel = mine.panels.first; panel < mine.panels.last; panel++)
                write_words(pieces[0], pieces[1], panel * sum_columns,
                            w.right_packed + ((panel - mine.panels.first) * words_at_once + k) * sum_columns);
            const Element* row = (const Element*)(w.left + entry * w.left_stride);
            const Element* next = row + w.left_stride * per_word;
            for (i64 tile = mine.rows.first; tile < mine.rows.last; tile++)
                join(w.left_packed + ((tile - mine.rows.first) * words_at_once + k) * sum_rows,
                     row + tile * sum_rows, second ? next + tile * sum_rows : no_numbers, sum_rows);
        }
        for (i64 first = mine.rows.first; first < mine.rows.last; first += tiles_at_once)
            for (i64 panel = mine.panels.first; panel < mine.panels.last; panel++)
                for (i64 tile = first; tile < smaller(mine.rows.last, first + tiles_at_once); tile++)
                    if (wanted(tile, panel)) add_entries(w, mine, tile, panel, depth, from > 0);
    }
}

// Takes the sums of gates' rows to the weights' gradients: columns are x, 1, h.
template <class C>
void write_weights(const Backward<C>& b, const float* sums, i64 stride, Share rows, Share columns) {
    constexpr bool biases = !C::normed;  // those come from elsewhere: see normed.h
    const Direction& d = b.direction;
    const i64 hidden = b.layout.hidden, features = b.layer.features, state = b.state();
    // Columns first..last of the sums that lie in from..from + count go to `to`.
    const auto part = [&](const float* row, i64 from, i64 count, float* to) {
        const i64 first = larger(columns.first, from), last = smaller(columns.last, from + count);
        if (to && last > first) memcpy(to + first - from, row + first, (last - first) * sizeof(float));
    };
    for (i64 r = rows.first; r < rows.last; r++) {
        const i64 v = r / (C::slots * lanes), unit = v * lanes + r % lanes;
        const int slot = static_cast<int>(r / lanes % C::slots);
        if (unit >= hidden) continue;
        const float* row = sums + r * stride;
        if (slot >= C::x_from && slot < C::x_to) {
            const i64 gate = C::gate_of_x(slot) * hidden + unit;
            part(row, 0, features, d.d_w_ih ? d.d_w_ih + gate * features : nullptr);
            part(row, features, 1, biases && d.d_b_ih ? d.d_b_ih + gate : nullptr);
        }
        if (slot >= C::h_from && slot < C::h_to) {
            const i64 gate = C::gate_of_h(slot) * hidden + unit;
            part(row, features, 1, biases && d.d_b_hh ? d.d_b_hh + gate : nullptr);
            part(row, features + 1, state, d.d_w_hh ? d.d_w_hh + gate * state : nullptr);
        }
    }
}

// d_w_ih, d_w_hh and the biases: deltaᵀ · [x | 1 | h before].
template <class C>
void backward_weights(const Backward<C>& b, const SumRoom& room) {
    const i64 features = b.layer.features, state = b.state(), columns = features + 1 + state;
    const Schedule& schedule = b.problem.schedule;
    const Rectangle mine =
        rectangle_of(b.team, ceil_div(b.layout.gates_width(), sum_rows), ceil_div(columns, sum_columns));
    const WeightProduct w = {b.shared.delta,
                             b.delta_width(),
                             b.layout.gates_width(),
                             schedule.start[schedule.steps],
                             columns,
                             room.sums,
                             sum_stride_for(columns),
                             room.left_of(b.team.id),
                             room.right_of(b.team.id)};
    const Element one = pairs ? Element(0x3f80) : Element(1);  // 1 in bfloat16
    const auto fill = [&](const Cursor& at_entry, i64, Piece(&pieces)[3]) {
        const i64 rank = at_entry.rank, step = at_entry.step, row = b.reading.row(rank);
        const bool reset = b.reading.resets_before(rank, step);
        const bool initial = !reset || schedule.reset_to_initial;
        const float* h_before =
            initial && b.direction.h_0 ? b.direction.h_0 + row * words(state) : b.shared.zeros;
        if (step > 0 && !reset) h_before = at(b.layer.y, row, b.reading.time(rank, step - 1));
        if (b.drops()) {
            const float* factors = b.shared.factors + rank * b.state_width();
            for (i64 column = 0; column < state; column += lanes) {
                const V h = load(h_before + column, smaller(lanes, state - column));
                store(b.scratch + column, dropped(h, load(factors + column)));
            }
            h_before = b.scratch;
        }
        pieces[0] = {(const Element*)at(b.layer.x, row, b.reading.time(rank, step)), features};
        pieces[1] = {&one, 1};
        pieces[2] = {(const Element*)h_before, state};
    };
    // A slot that the state does not feed has no use for columns of h, nor one that the input does not, for
    // x's.
    const auto wanted = [&](i64 tile, i64 panel) {
        const i64 slot = tile * sum_rows / lanes % C::slots;
        const bool fed_by_h = slot >= C::h_from && slot < C::h_to,
                   fed_by_x = slot >= C::x_from && slot < C::x_to;
        return (fed_by_h || panel * sum_columns <= features) &&
               (fed_by_x || (panel + 1) * sum_columns > features);
    };
    weight_product(w, mine, b.reading, fill, wanted);
    write_weights(b, room.sums, w.sum_stride, {mine.rows.first * sum_rows, mine.rows.last * sum_rows},
                  {mine.panels.first * sum_columns, mine.panels.last * sum_columns});
}

template <class C>
void show_again(const Backward<C>& b, const float* kept, const float* c, const float* c_before, float* shown);

// d_w_hr: d_hiddenᵀ · (o tanh(c)).
template <class C>
void backward_projection(const Backward<C>& b, const SumRoom& room) {
    const i64 hidden = b.layout.hidden, projection = b.problem.projection;
    const Schedule& schedule = b.problem.schedule;
    const i64 tiles = ceil_div(projection, sum_rows);
    const Rectangle mine = rectangle_of(b.team, tiles, ceil_div(hidden, sum_columns));
    const WeightProduct w = {b.shared.d_hidden,
                             b.state_width(),
                             b.state_width(),
                             schedule.start[schedule.steps],
                             hidden,
                             room.sums,
                             sum_stride_for(hidden),
                             room.left_of(b.team.id),
                             room.right_of(b.team.id)};
    const auto fill = [&](const Cursor& at_entry, i64 entry, Piece(&pieces)[3]) {
        const float* gates = b.direction.gates + entry * b.layout.gates_width();
        const float* cell = b.direction.cell + entry * b.layout.cell_width();
        const float* before = b.cell_before(at_entry.rank, at_entry.step);
        float* shown = b.scratch;
        pieces[0] = {(const Element*)shown, hidden};
        if constexpr (C::normed) return show_again(b, gates, cell, before, shown);
        else
            for (i64 v = 0; v < b.layout.vectors(); v++) {
                V a[C::slots];
                RECURRA_UNROLL
                for (int s = 0; s < C::slots; s++) a[s] = load(gates + (v * C::slots + s) * lanes);
                V c[C::cells];
                RECURRA_UNROLL
                for (int k = 0; k < C::cells; k++) c[k] = load(cell + b.layout.cell_at(v, k));
                if constexpr (C::cells > 1) {
                    store(shown + v * lanes, C::shown(a, c));
                } else {
                    if (b.zones_cell()) c[0] = C::cell(a, load(before + v * lanes, b.layout.units(v)));
                    store(shown + v * lanes, C::shown(a, c[0]));
                }
            }
    };
    weight_product(w, mine, b.reading, fill, [](i64, i64) { return true; });
    const i64 first = mine.panels.first * sum_columns, last = smaller(hidden, mine.panels.last * sum_columns);
    for (i64 r = mine.rows.first * sum_rows; r < smaller(projection, mine.rows.last * sum_rows); r++)
        if (last > first)
            memcpy(b.direction.d_w_hr + r * hidden + first, room.sums + r * w.sum_stride + first,
                   (last - first) * sizeof(float));
}

// d_peepholes: the gates' gradients times the cell states that they see, summed over all entries for this
// thread's units.
template <class C>
void backward_peepholes(const Backward<C>& b, Share vectors) {
    const i64 width = b.layout.cell_width(), hidden = b.layout.hidden;
    float *some = b.scratch, *all = b.scratch + 3 * width;
    memset(b.scratch, 0, 6 * width * sizeof(float));
    const i64 entries = b.problem.schedule.start[b.problem.schedule.steps];
    Cursor cursor(b.reading, 0);
    for (i64 entry = 0; entry < entries; entry++, cursor.next()) {
        const float* gates = b.direction.gates + entry * b.layout.gates_width();
        const float* cell = b.direction.cell + entry * width;
        const float* cell_before = b.cell_before(cursor.rank, cursor.step);
        const float* delta = b.delta(cursor.rank, cursor.step);
        for (i64 v = vectors.first; v < vectors.last; v++) {
            const i64 column = v * lanes, slot = v * C::slots * lanes;
            const V before = load(cell_before + column, b.layout.units(v));
            V now = load(cell + column), a[C::slots];
            RECURRA_UNROLL
            for (int s = 0; s < C::slots; s++) a[s] = load(gates + slot + s * lanes);
            if (b.zones_cell()) now = C::cell(a, before);
            const V added[3] = {load(delta + slot) * before, load(delta + slot + lanes) * before,
                                load(delta + slot + 3 * lanes) * now};
            RECURRA_UNROLL
            for (int k = 0; k < 3; k++) {
                float* sum = some + k * width + column;
                store(sum, load(sum) + added[k]);
            }
        }
        if (entry % words_in_a_sum < words_in_a_sum - 1 && entry + 1 < entries) continue;
        for (int k = 0; k < 3; k++)
            for (i64 v = vectors.first; v < vectors.last; v++) {
                float* sum = some + k * width + v * lanes;
                store(all + k * width + v * lanes, load(all + k * width + v * lanes) + load(sum));
                store(sum, V{});
            }
    }
    for (int k = 0; k < 3; k++)
        for (i64 v = vectors.first; v < vectors.last; v++)
            store(b.direction.d_own + k * hidden + v * lanes, load(all + k * width + v * lanes),
                  b.layout.units(v));
}

}  // namespace
}  // namespace recurra::RECURRA_ISA
