// What a unit compiled for one ISA offers to the rest: a table of functions.
#pragma once

#include <string>

#include "problem.h"

namespace recurra {

struct Kernels {
    const char* isa;
    int64_t lanes;  // floats in a vector
    bool pairs;     // these read bfloat16: see problem.h
    int64_t (*gates_width)(CellKind cell, int64_t hidden);
    int64_t (*cell_width)(CellKind cell, int64_t hidden);
    // Where in a row of gates the slot `gate` (torch's order) of unit 0 stands, and how units go on from
    // there: unit u stands at offset + u / lanes · stride + u % lanes.
    int64_t (*gate_offset)(CellKind cell, int64_t gate);
    int64_t (*gate_stride)(CellKind cell);

    // Output and final states; with `keep`, also gates and cell states, into each direction's buffers.
    void (*forward)(const Problem& problem, bool keep);
    // Gradients of what forward made with keep.
    void (*backward)(const Problem& problem);
    // One step of a few rows, on this thread.
    void (*step)(CellKind cell, const StepCall& call);
    // Fused multiply-adds per second of this thread, in billions of floating point operations.
    double (*peak)(int64_t repeats);
};

// The kernels of the ISA of this name. Throws std::invalid_argument where they were not built.
const Kernels& kernels_for(const std::string& isa);

// Those for bfloat16 beside `kernels`, or null where this build or this CPU has none.
const Kernels* kernels_for_pairs(const Kernels& kernels);

}  // namespace recurra
