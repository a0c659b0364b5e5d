// Compiled once for each ISA, with that ISA's flags. Everything inside is in an unnamed namespace and nothing
// of the C++ library is used, so that the linker cannot hand one ISA's copy of a function to another.
#include "kernels.h"

#include "cells/coupled.h"
#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/norm_gru.h"
#include "cells/norm_lstm.h"
#include "cells/peephole.h"
#include "cells/refined.h"
#include "cells/rnn.h"
#include "cells/slstm.h"
#include "layers.h"
#include "step.h"

namespace recurra::RECURRA_ISA {
namespace {

// Calls f with the cell of this kind.
template <class F>
auto with_cell(CellKind kind, F&& f) {
    if constexpr (!pairs) {
        if (kind == PEEPHOLE) return f(Peephole());
        if (kind == COUPLED) return f(Coupled());
        if (kind == REFINED) return f(Refined());
        if (kind == NORM_LSTM) return f(NormLstm());
        if (kind == NORM_GRU) return f(NormGru());
        if (kind == SLSTM) return f(Slstm());
    }
    switch (kind) {
        case LSTM: return f(Lstm());
        case GRU: return f(Gru());
        case RNN_RELU: return f(Rnn<true>());
        default: return f(Rnn<false>());
    }
}

i64 gates_width(CellKind cell, i64 hidden) {
    return with_cell(cell, [&](auto c) { return Layout<decltype(c)>{hidden}.gates_width(); });
}

i64 cell_width(CellKind cell, i64 hidden) {
    return with_cell(cell, [&](auto c) {
        return decltype(c)::has_cell ? Layout<decltype(c)>{hidden}.cell_width() : i64(0);
    });
}

i64 gate_offset(CellKind cell, i64 gate) {
    return with_cell(cell, [&](auto c) {
        if (decltype(c)::normed) return gate * lanes;
        i64 slot = decltype(c)::x_from;
        while (slot + 1 < decltype(c)::x_to && decltype(c)::gate_of_x(static_cast<int>(slot)) != gate) slot++;
        return slot * lanes;
    });
}

i64 gate_stride(CellKind cell) {
    return with_cell(cell, [&](auto c) { return i64(decltype(c)::slots) * lanes; });
}

void run_forward(const Problem& problem, bool keep) {
    with_cell(problem.cell, [&](auto c) {
        if (keep) forward<decltype(c), true>(problem);
        else forward<decltype(c), false>(problem);
    });
}

void run_backward(const Problem& problem) {
    with_cell(problem.cell, [&](auto c) { backward<decltype(c)>(problem); });
}

void run_step(CellKind cell, const StepCall& call) {
    if constexpr (!pairs)
        with_cell(cell, [&](auto c) {
            if constexpr (!decltype(c)::normed && decltype(c)::cells <= 1) step<decltype(c)>(call);
        });
}

// 12 sums: enough to hide the multiplier's latency, and they fit into 16 registers.
double multiply_adds(i64 repeats) {
    V sums[12];
    RECURRA_UNROLL
    for (int n = 0; n < 12; n++)
        sums[n] = broadcast(static_cast<float>(n));  // unlike, or they would become one
    V x = broadcast(0.5f), y = broadcast(0.25f);
    for (i64 k = 0; k < repeats; k++) {
#if defined(__x86_64__)
        __asm__ volatile("" : "+v"(x), "+v"(y));  // else the loop would be folded
#else
        __asm__ volatile("" : "+w"(x), "+w"(y));
#endif
        RECURRA_UNROLL
        for (int n = 0; n < 12; n++) sums[n] = multiply_add(sums[n], x, y);
    }
    V total = {};
    for (const V& sum : sums) total += sum;
    return total[0];
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {
    RECURRA_ISA_NAME, lanes,       pairs,        gates_width, cell_width,    gate_offset,
    gate_stride,      run_forward, run_backward, run_step,    multiply_adds,
};

}  // namespace recurra::RECURRA_ISA
