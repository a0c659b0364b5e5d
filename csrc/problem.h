// What a call asks of the engine: shapes, where the caller's numbers lie, and what is wanted. Plain data, so
// that it may cross between units compiled for different CPUs. Axes: N rows, T steps, F features, H hidden
// units, P projection (H where there is none), D directions, as in recurra.types.
#pragma once

#include <stdint.h>

namespace recurra {

enum CellKind : int64_t {
    LSTM = 0,
    GRU = 1,
    RNN_TANH = 2,
    RNN_RELU = 3,
    PEEPHOLE = 4,   // an LSTM whose gates see the cell state
    COUPLED = 5,    // an LSTM whose input gate is 1 - f
    REFINED = 6,    // the same with a gate that moves f to either end
    NORM_LSTM = 7,  // an LSTM with layer normalisation
    NORM_GRU = 8,   // a GRU with layer normalisation
    SLSTM = 9,      // exponential gates; its cell state is three numbers a unit
    CELL_KINDS = 10
};

static inline bool has_cell_state(CellKind cell) {
    switch (cell) {
        case LSTM:
        case PEEPHOLE:
        case COUPLED:
        case REFINED:
        case NORM_LSTM:
        case SLSTM: return true;
        default: return false;
    }
}
// Numbers of cell state that a unit has: those of the caller lie one kind after another, (N, numbers · H).
static inline int64_t cells_of(CellKind cell) { return cell == SLSTM ? 3 : has_cell_state(cell); }
static inline bool is_normed(CellKind cell) { return cell == NORM_LSTM || cell == NORM_GRU; }
// G, the blocks of rows that weights have.
static inline int64_t gates_of(CellKind cell) {
    if (cell == GRU || cell == COUPLED || cell == NORM_GRU) return 3;
    return has_cell_state(cell) ? 4 : 1;
}
// Rows of (rows, H) that are the cell's own: its peepholes, or what normalised sums are multiplied by.
static inline int64_t own_rows_of(CellKind cell) {
    if (cell == PEEPHOLE) return 3;
    if (cell == NORM_LSTM) return 10;
    return cell == NORM_GRU ? 6 : 0;
}

// Which (row, step) pairs count, and in what order the workspace keeps them.
//
// Rows are ranked by length, longest first, so the rows still running at reading step s are the ranks below
// start[s + 1] - start[s]. An *entry* is one (rank, reading step) pair; the workspace holds entry
// start[s] + rank, for both directions, and nothing for padding.
struct Schedule {
    int64_t rows, steps;    // N, T
    const int64_t* order;   // (N) the caller's row of each rank
    const int64_t* length;  // (N) steps of each rank, descending
    const int64_t* start;   // (T + 1) first entry of each reading step; the last is the number of entries
    const uint8_t* resets;  // (N, T) in the caller's order: 1 where a step begins a new sequence; or null
    bool reset_to_initial;  // resets put the state back to h_0 and c_0 instead of zero
};

// Units compiled for pairs read bfloat16: there x, y, h_0, h_n, w_ih and w_hh point to bfloat16, two to a
// word of four bytes, and all else to floats. Sizes still count numbers, and must be even; strides of x and y
// count words. There is no
// projection, no noise, and no cell beyond RNN_RELU.

// A tensor (N, T, width) of the caller's, or of the engine's own. Strides count elements; `offset` stands for
// the steps of a PackedSequence, which lie at row + offset[step].
struct View {
    float* data;
    int64_t row, step;
    const int64_t* offset;  // (T) or null
};

// One layer in one direction. A null pointer means: none given, not wanted, or zero.
struct Direction {
    const float *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;  // torch's shapes; w_hr (P, H)
    const float* own;                               // (own_rows_of(cell), H)
    const float *h_0, *c_0;                         // (N, P), (N, C), C being cells_of(cell) · H
    float *h_n, *c_n;                               // (N, P), (N, C), written
    float *gates, *cell;  // (entries, gates_width), (entries, cell_width): kept for backward and for traces

    const float *d_h_n, *d_c_n;                         // (N, P), (N, C)
    float *d_w_ih, *d_w_hh, *d_b_ih, *d_b_hh, *d_w_hr;  // as the weights, written
    float* d_own;                                       // (own rows, H), written
    float *d_h_0, *d_c_0;                               // (N, P), (N, C), written

    uint32_t stream;  // of random numbers: another one for each layer and direction
};

// Zoneout and recurrent dropout: probabilities. See noise.h.
struct Noise {
    float zoneout_hidden, zoneout_cell, recurrent_dropout;
    bool drawn;  // from the seed; else zoneout takes its expectation, and nothing is dropped
    uint64_t seed;
};

struct Layer {
    int64_t features;  // F of this layer
    View x, y;         // input (N, T, F), output (N, T, D·P)
    View d_x, d_y;     // their gradients; d_x.data may be null
    Direction directions[2];
};

struct Problem {
    CellKind cell;
    int64_t hidden, projection;  // H; P, or 0 where there is none
    int64_t directions, depth;   // D, L
    int64_t threads;
    Noise noise;
    Schedule schedule;
    Layer* layers;  // (L)
};

// One step of one layer: x (N, F) and the states (N, H) to the new states, in other memory than the old ones.
// No projection. Null h and c: zero.
struct StepCall {
    int64_t rows, features, hidden;
    const float *x, *h, *c;
    const float *w_ih, *w_hh, *b_ih, *b_hh, *own;
    float *h_out, *c_out;
    float* y;  // the new hidden state once more, or null
};

// The hidden state's size.
static inline int64_t state_size(const Problem& p) { return p.projection ? p.projection : p.hidden; }

}  // namespace recurra
