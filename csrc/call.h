// One call of the engine on torch's tensors: checked once, then told to the kernels as addresses and strides.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <vector>

#include "kernels.h"
#include "schedule.h"
#include "tensors.h"
#include "threads.h"

namespace recurra {

// Layers × directions of one cell: see recurra.engine.stack.
struct Stack {
    CellKind cell;
    std::int64_t hidden, projection, depth, directions;
    bool bias, batch_first;

    std::int64_t state() const { return projection ? projection : hidden; }
    std::int64_t cell_size() const { return cells_of(cell) * hidden; }
    std::int64_t width() const { return directions * state(); }
    std::int64_t cells() const { return depth * directions; }
    std::size_t states() const { return has_cell_state(cell) ? 2 : 1; }
    // w_ih, w_hh, b_ih, b_hh, w_hr, own: those that there are
    std::size_t weights_each() const { return 2 + 2 * bias + (projection > 0) + (own_rows_of(cell) > 0); }
    std::size_t place_of_w_hr() const { return 2 + 2 * bias; }
    std::size_t place_of_own() const { return weights_each() - 1; }
    // Floating-point operations of one step of one row.
    std::int64_t operations(std::int64_t features) const;
};
// Throws std::invalid_argument for sizes that there are not.
Stack make_stack(std::int64_t cell, std::int64_t hidden, std::int64_t projection, std::int64_t depth,
                 std::int64_t directions, bool bias, bool batch_first);

// A tensor that was read, or none.
struct Given {
    nb::object tensor;
    Array at = {};

    bool there() const { return tensor.is_valid() && !tensor.is_none(); }
    float* data(std::int64_t elements = 0) const;
};

// How many threads a call may use, and how much work it takes to use more than one.
struct Threads {
    std::int64_t most, least_work, least_work_a_step;
};

class Call {
public:
    // None where a tensor is not the engine's to read: another dtype or device, or a subclass. Throws
    // std::invalid_argument for what does not fit. schedule: of true lengths or of a PackedSequence, or null.
    // resets: (N, T) bool on the CPU, contiguous, or None. room_for_all: keep gates in N·T places, though
    // lengths need fewer, so that shapes are known ahead.
    static std::unique_ptr<Call> of(const Kernels& kernels, const Stack& stack, const nb::object& x,
                                    const nb::object& initial, const nb::object& weights,
                                    std::shared_ptr<ScheduleData> schedule, const nb::object& resets,
                                    bool reset_to_initial, const Noise& noise, std::int64_t first_layer,
                                    bool room_for_all, const Threads& threads);

    // The same call on these inputs: those that it was made with, as autograd saved them.
    std::unique_ptr<Call> on(const nb::object& x, const nb::object& initial, const nb::object& weights) const;
    // Lets the inputs go: autograd keeps them, and knows when they change.
    void let_go();

    // Output and final states. With keep, kept() afterwards is what backward and traces need: the output,
    // what lies between the layers, gates and cell states (L·D, places, …).
    nb::tuple forward(bool keep);
    nb::tuple kept();
    // Gradients of x, the initial states and the weights where `wanted` says, None elsewhere. saved: as kept.
    nb::list backward(const nb::sequence& saved, nb::object d_output, const nb::sequence& d_finals,
                      const nb::sequence& wanted) const;

    bool requires_grad() const;
    std::int64_t rows() const { return schedule_->rows(); }
    std::int64_t length() const { return schedule_->steps(); }
    std::int64_t threads() const { return threads_; }
    std::shared_ptr<ScheduleData> schedule() const { return schedule_; }

private:
    Call(const Kernels& kernels, const Stack& stack) : kernels_(&kernels), stack_(stack) {}
    bool read_all(const nb::object& x, const nb::object& initial, const nb::object& weights);
    bool read_x();
    bool read_states(const nb::object& initial);
    bool read_weights(const nb::object& weights);
    void check_x() const;
    void check_shapes() const;
    void check_resets() const;
    void check_kept(const std::vector<Given>& kept) const;
    void choose_threads(const Threads& threads);
    Problem problem(std::vector<Layer>& layers) const;
    Direction direction(std::int64_t place) const;
    View view(const Array& array) const;
    nb::object room_for_output() const;
    nb::object room_between() const;

    const Kernels* kernels_;  // those of the tensors' numbers
    Stack stack_;
    std::shared_ptr<ScheduleData> schedule_;
    bool packed_ = false, reset_to_initial_ = false;
    Noise noise_ = {};
    std::int64_t first_layer_ = 0;  // which of the random streams is that of layer 0
    std::int64_t threads_ = 1, places_ = 0;
    nb::object x_, resets_, kept_;
    std::vector<nb::object> initial_, weights_;
    Array x_at_ = {};
    std::vector<Array> initial_at_, weights_at_;
};

// Frees the calling thread's scratch memory for the next call, at its end.
struct Scratch {
    ~Scratch();
};

// One step of a few rows: a tuple of the output (of a layer only) and the new states, or None where it is not
// the engine's to do. layer: the shapes are a layer's, (N, 1, F) or (1, F), else a cell's. states: a
// sequence, empty for zeros.
nb::object step(const Kernels& kernels, const Stack& stack, nb::object x, const nb::sequence& states,
                const nb::sequence& weights, bool layer);

}  // namespace recurra
