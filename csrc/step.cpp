#include "call.h"

namespace recurra {

namespace {

// Beyond this many rows, packing the weights pays.
constexpr std::int64_t most_rows = 8;
// More scratch memory than this is given back to the system after a call.
constexpr std::size_t kept_scratch = std::size_t(1) << 30;

// Reads a tensor of floats on the CPU as contiguous memory. False where it is none.
bool floats(nb::object& tensor, Array& at) {
    if (!read(tensor, at) || !at.on_cpu || at.number != Number::FLOAT32) return false;
    if (!at.contiguous()) convert(tensor, "contiguous", at);
    return true;
}

const float* data(const Array& at) { return reinterpret_cast<const float*>(at.data); }

// A tensor of this one's shape but for the last axis.
nb::object with_width(const Array& like, std::int64_t width) {
    if (like.axes == 1) return empty({width}, Number::FLOAT32);
    if (like.axes == 2) return empty({like.shape[0], width}, Number::FLOAT32);
    return empty({like.shape[0], like.shape[1], width}, Number::FLOAT32);
}

float* memory_of(nb::object& tensor) {
    Array at;
    read(tensor, at);
    return reinterpret_cast<float*>(at.data);
}

}  // namespace

Scratch::~Scratch() {
    if (arena().held() > kept_scratch) arena().release();
    else arena().clear();
}

nb::object step(const Kernels& kernels, const Stack& stack, nb::object x, const nb::sequence& states,
                const nb::sequence& weights, bool layer) {
    if (is_normed(stack.cell) || stack.cell == SLSTM) return nb::none();  // the general way does it
    Array x_at, states_at[2] = {}, weights_at[5] = {};
    nb::object given_states[2], given_weights[5];
    if (!floats(x, x_at) || x_at.axes < (layer ? 2 : 1) || x_at.axes > (layer ? 3 : 2)) return nb::none();
    const std::int64_t features = x_at.shape[x_at.axes - 1], rows = features ? x_at.count() / features : 0;
    const int time_axis = stack.batch_first && x_at.axes == 3 ? 1 : 0;
    if (rows < 1 || rows > most_rows || (layer && x_at.shape[time_axis] != 1)) return nb::none();
    // The shape of the states: (1, N, H) or (1, H) of a layer, (N, H) or (H) of a cell.
    Array expected = x_at;
    expected.shape[x_at.axes - 1] = stack.hidden;
    if (layer && x_at.axes == 3) expected.shape[0] = 1, expected.shape[1] = rows;

    std::size_t count = 0;
    for (nb::handle state : states) {
        if (count == stack.states()) return nb::none();
        given_states[count] = nb::borrow(state);
        Array& at = states_at[count];
        if (!floats(given_states[count], at) || at.axes != expected.axes) return nb::none();
        for (int axis = 0; axis < at.axes; axis++)
            if (at.shape[axis] != expected.shape[axis]) return nb::none();
        count++;
    }
    if (count != 0 && count != stack.states()) return nb::none();
    const std::int64_t gates = stack.hidden * gates_of(stack.cell);
    const std::int64_t own_rows = own_rows_of(stack.cell);
    const std::size_t own = own_rows ? stack.place_of_own() : 5;
    std::size_t which = 0;
    for (nb::handle weight : weights) {
        if (which == stack.weights_each()) return nb::none();
        given_weights[which] = nb::borrow(weight);
        Array& at = weights_at[which];
        if (!floats(given_weights[which], at)) return nb::none();
        const bool fits = which == own ? at.has_shape({own_rows, stack.hidden})
                          : which == 0 ? at.has_shape({gates, features})
                          : which == 1 ? at.has_shape({gates, stack.hidden})
                                       : at.has_shape({gates});
        if (!fits) return nb::none();
        which++;
    }
    if (which != stack.weights_each()) return nb::none();

    const auto state_room = [&](const nb::object& before) {
        return before.is_valid() ? empty_like(before) : with_width(expected, stack.hidden);
    };
    nb::object h = state_room(given_states[0]), c, y;
    StepCall call = {rows,
                     features,
                     stack.hidden,
                     data(x_at),
                     data(states_at[0]),
                     data(states_at[1]),
                     data(weights_at[0]),
                     data(weights_at[1]),
                     stack.bias ? data(weights_at[2]) : nullptr,
                     stack.bias ? data(weights_at[3]) : nullptr,
                     own_rows ? data(weights_at[own]) : nullptr,
                     memory_of(h),
                     nullptr,
                     nullptr};
    if (has_cell_state(stack.cell)) c = state_room(given_states[1]), call.c_out = memory_of(c);
    // of one row the output has the states' shape
    if (layer)
        y = rows == 1 ? state_room(given_states[0]) : with_width(x_at, stack.hidden), call.y = memory_of(y);
    kernels.step(stack.cell, call);
    if (!layer) return c.is_valid() ? nb::make_tuple(h, c) : nb::make_tuple(h);
    return c.is_valid() ? nb::make_tuple(y, h, c) : nb::make_tuple(y, h);
}

}  // namespace recurra
