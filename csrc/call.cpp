#include "call.h"

#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace recurra {

using std::int64_t;

namespace {

constexpr int64_t most_threads = 4096;

std::string text(std::initializer_list<int64_t> shape) {
    std::string joined = "(";
    for (const int64_t size : shape) joined += (joined.size() > 1 ? ", " : "") + std::to_string(size);
    return joined + (shape.size() == 1 ? ",)" : ")");
}

std::string text(const nb::object& tensor) {
    const nb::object shape = nb::steal(PySequence_Tuple(tensor.attr("shape").ptr()));  // not a torch.Size
    return nb::cast<std::string>(nb::str(shape));
}

void expect(const std::string& name, const nb::object& tensor, const Array& at,
            std::initializer_list<int64_t> shape) {
    if (!at.has_shape(shape))
        throw std::invalid_argument(name + ": expected shape " + text(shape) + ", got " + text(tensor) +
                                    "; give it that shape");
}

std::int64_t bytes_of(Number number) { return number == Number::BFLOAT16 ? 2 : 4; }

// Where an element of an array lies. Pairs of bfloat16 are addressed as floats: see problem.h.
float* address(const Array& at, int64_t elements = 0) {
    return reinterpret_cast<float*>(at.data + elements * bytes_of(at.number));
}

bool aligned(const Array& at) { return reinterpret_cast<std::uintptr_t>(at.data) % 4 == 0; }

Given made(std::initializer_list<int64_t> shape, Number number) {
    Given given;
    given.tensor = empty(shape, number);
    if (!read(given.tensor, given.at)) throw std::runtime_error("torch.empty gave no plain tensor");
    return given;
}

// Fresh memory comes with a page fault for every 4 KiB, which costs as much as writing to it. What is large
// enough to be fresh at every call is asked for in pages of 2 MiB.
void in_huge_pages(const Given& given, int64_t floats) {
#if defined(__linux__)
    constexpr std::uintptr_t page = std::uintptr_t{1} << 21;
    const auto begin = reinterpret_cast<std::uintptr_t>(given.data(0));
    const std::uintptr_t from = (begin + page - 1) / page * page, to = (begin + 4 * floats) / page * page;
    if (to >= from + 8 * page) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#endif
}

// A gradient that came in, as contiguous floats.
Given gradient(nb::object tensor) {
    Given given;
    given.tensor = std::move(tensor);
    if (!given.there()) return given;
    if (!read(given.tensor, given.at) || !given.at.on_cpu)
        throw std::invalid_argument("a gradient: expected a tensor on the CPU, got something else");
    if (given.at.number != Number::FLOAT32) convert(given.tensor, "float", given.at);
    if (!given.at.contiguous()) convert(given.tensor, "contiguous", given.at);
    return given;
}

Given given_as(nb::object tensor) {
    Given given;
    given.tensor = std::move(tensor);
    if (!read(given.tensor, given.at) || !given.at.on_cpu)
        throw std::invalid_argument("saved: expected what forward kept, got something else");
    return given;
}

// Room for the gradients that one layer hands to the one below, time by time.
void connect_layers(const Problem& problem, Arena& memory) {
    const Schedule& schedule = problem.schedule;
    for (int64_t l = 1; l < problem.depth; l++) {
        const int64_t width = problem.layers[l].features;
        const int64_t* offset = problem.layers[l].x.offset;
        const int64_t places = offset ? schedule.start[schedule.steps] : schedule.rows * schedule.steps;
        const View view = {memory.floats(places * width), width, offset ? width : width * schedule.rows,
                           offset};
        problem.layers[l].d_x = problem.layers[l - 1].d_y = view;
    }
}

bool is_noisy(const Noise& noise) {
    return noise.zoneout_hidden > 0 || noise.zoneout_cell > 0 || noise.recurrent_dropout > 0;
}

bool readable(const Array& at, Number number) { return at.on_cpu && at.number == number; }

}  // namespace

float* Given::data(int64_t elements) const { return there() ? address(at, elements) : nullptr; }

std::unique_ptr<Call> Call::of(const Kernels& kernels, const Stack& stack, const nb::object& x,
                               const nb::object& initial, const nb::object& weights,
                               std::shared_ptr<ScheduleData> schedule, const nb::object& resets,
                               bool reset_to_initial, const Noise& noise, int64_t first_layer,
                               bool room_for_all, const Threads& threads) {
    std::unique_ptr<Call> call(new Call(kernels, stack));
    call->packed_ = schedule && schedule->offset();
    call->noise_ = noise;
    call->first_layer_ = first_layer;
    if (!call->read_all(x, initial, weights)) return nullptr;
    const int time_axis = stack.batch_first ? 1 : 0;
    if (!schedule) {
        // the same shape comes again and again
        thread_local std::shared_ptr<ScheduleData> last;
        const int64_t rows = call->x_at_.shape[1 - time_axis], steps = call->x_at_.shape[time_axis];
        if (!last || last->rows() != rows || last->steps() != steps)
            last = std::make_shared<ScheduleData>(rows, steps, nullptr);
        schedule = last;
    }
    call->schedule_ = std::move(schedule);
    call->resets_ = resets;
    call->reset_to_initial_ = reset_to_initial;
    call->places_ = room_for_all ? call->rows() * call->length() : call->schedule_->entries();
    call->check_shapes();
    call->check_resets();
    call->choose_threads(threads);
    return call;
}

std::unique_ptr<Call> Call::on(const nb::object& x, const nb::object& initial,
                               const nb::object& weights) const {
    std::unique_ptr<Call> call(new Call(*kernels_, stack_));
    call->packed_ = packed_;
    call->noise_ = noise_;
    call->first_layer_ = first_layer_;
    call->schedule_ = schedule_;
    call->resets_ = resets_;
    call->reset_to_initial_ = reset_to_initial_;
    call->places_ = places_;
    call->threads_ = threads_;
    if (!call->read_all(x, initial, weights))
        throw std::invalid_argument("inputs: expected those of the forward call, got others");
    call->check_shapes();
    return call;
}

void Call::let_go() {
    x_.reset();
    initial_.clear();
    weights_.clear();
    initial_at_.clear();
    weights_at_.clear();
}

bool Call::read_all(const nb::object& x, const nb::object& initial, const nb::object& weights) {
    x_ = x;
    return read_x() && read_states(initial) && read_weights(weights);
}

bool Call::read_x() {
    if (!read(x_, x_at_) || !x_at_.on_cpu || x_at_.number == Number::OTHER) return false;
    check_x();
    const int last = x_at_.axes - 1;
    const bool pairs = x_at_.number == Number::BFLOAT16;
    if (pairs) {
        if (!kernels_->pairs) kernels_ = kernels_for_pairs(*kernels_);
        if (!kernels_ || x_at_.shape[last] % 2 || stack_.hidden % 2 || stack_.projection) return false;
        if (stack_.cell > RNN_RELU || is_noisy(noise_)) return false;
    }
    bool as_it_lies = x_at_.strides[last] == 1 || x_at_.shape[last] <= 1;
    for (int axis = 0; axis < last; axis++) {
        const bool moves = x_at_.shape[axis] > 1;
        if (moves && (x_at_.strides[axis] < 0 || (pairs && x_at_.strides[axis] % 2))) as_it_lies = false;
    }
    if (!as_it_lies) convert(x_, "contiguous", x_at_);
    if (pairs && !aligned(x_at_)) convert(x_, "clone", x_at_);
    return true;
}

bool Call::read_states(const nb::object& initial) {
    for (nb::handle given : initial) {
        initial_.push_back(nb::borrow(given));
        initial_at_.emplace_back();
        nb::object& state = initial_.back();
        Array& at = initial_at_.back();
        if (!read(state, at) || !readable(at, x_at_.number)) return false;
        if (!at.contiguous()) convert(state, "contiguous", at);
        const bool hidden = initial_.size() == 1;
        if (at.number == Number::BFLOAT16 && !hidden) convert(state, "float", at);
        if (!aligned(at)) convert(state, "clone", at);
    }
    return true;
}

bool Call::read_weights(const nb::object& weights) {
    const std::size_t each = stack_.weights_each();
    for (nb::handle given : weights) {
        weights_.push_back(nb::borrow(given));
        weights_at_.emplace_back();
        nb::object& weight = weights_.back();
        Array& at = weights_at_.back();
        if (!read(weight, at) || !readable(at, x_at_.number)) return false;
        if (!at.contiguous()) convert(weight, "contiguous", at);
        const std::size_t which = (weights_.size() - 1) % each;
        const bool bias = stack_.bias && (which == 2 || which == 3);
        if (at.number == Number::BFLOAT16 && bias) convert(weight, "float", at);
        if (!aligned(at)) convert(weight, "clone", at);
    }
    return true;
}

void Call::check_x() const {
    if (x_at_.axes != (packed_ ? 2 : 3))
        throw std::invalid_argument(std::string("x: expected ") +
                                    (packed_ ? "(entries, F)" : "(N, T, F) or (T, N, F)") + ", got " +
                                    text(x_) + "; give it that shape");
}

void Call::check_shapes() const {
    const int64_t gates = stack_.hidden * gates_of(stack_.cell), own_rows = own_rows_of(stack_.cell);
    if (packed_ && x_at_.shape[0] != schedule_->entries())
        throw std::invalid_argument("x: expected " + std::to_string(schedule_->entries()) +
                                    " rows, the sum of batch_sizes, got " + std::to_string(x_at_.shape[0]) +
                                    "; make the PackedSequence anew with pack_padded_sequence");
    const int time_axis = stack_.batch_first ? 1 : 0;
    if (!packed_ && (x_at_.shape[1 - time_axis] != rows() || x_at_.shape[time_axis] != length()))
        throw std::invalid_argument("x: expected as many rows and steps as its lengths, got " + text(x_));
    if (!initial_.empty() && initial_.size() != stack_.states())
        throw std::invalid_argument(std::string("initial: expected ") +
                                    (stack_.states() == 2 ? "h_0, c_0" : "h_0") + " or none, got " +
                                    std::to_string(initial_.size()) + "; give each");
    const std::size_t each = stack_.weights_each();
    if (weights_.size() != each * static_cast<std::size_t>(stack_.cells()))
        throw std::invalid_argument("weights: expected " + std::to_string(each * stack_.cells()) + ", got " +
                                    std::to_string(weights_.size()) + "; give them in torch's order");
    for (std::size_t which = 0; which < initial_.size(); which++)
        expect(which ? "c_0" : "h_0", initial_[which], initial_at_[which],
               {stack_.cells(), rows(), which ? stack_.cell_size() : stack_.state()});
    for (std::size_t place = 0; place < weights_.size() / each; place++) {
        const int64_t layer = static_cast<int64_t>(place) / stack_.directions;
        const int64_t features = layer ? stack_.width() : x_at_.shape[x_at_.axes - 1];
        const auto check = [&](std::size_t which, const char* name, std::initializer_list<int64_t> shape) {
            const std::size_t at = place * each + which;
            if (!weights_at_[at].has_shape(shape))
                expect(std::string(name) + " of layer " + std::to_string(layer), weights_[at],
                       weights_at_[at], shape);
        };
        check(0, "w_ih", {gates, features});
        check(1, "w_hh", {gates, stack_.state()});
        if (stack_.bias) check(2, "b_ih", {gates}), check(3, "b_hh", {gates});
        if (stack_.projection) check(stack_.place_of_w_hr(), "w_hr", {stack_.projection, stack_.hidden});
        if (own_rows) check(stack_.place_of_own(), "own", {own_rows, stack_.hidden});
    }
}

void Call::check_resets() const {
    if (resets_.is_none()) return;
    const nb::object shape = nb::steal(PySequence_Tuple(resets_.attr("shape").ptr()));
    if (!shape.equal(nb::make_tuple(rows(), length())))
        throw std::invalid_argument("resets: expected shape " + text({rows(), length()}) + ", got " +
                                    text(resets_) + "; give it that shape");
}

void Call::choose_threads(const Threads& threads) {
    const int64_t step = stack_.operations(x_at_.shape[x_at_.axes - 1]);
    const bool few_rows = rows() < 4 * threads.most;  // then the threads meet after every step
    const bool little = few_rows && step * rows() < threads.least_work_a_step;
    threads_ = little || step * schedule_->entries() < threads.least_work ? 1 : threads.most;
    if (threads_ < 1 || threads_ > most_threads)
        throw std::invalid_argument("threads: expected 1 to " + std::to_string(most_threads) + ", got " +
                                    std::to_string(threads_));
}

bool Call::requires_grad() const {
    const auto does = [](const nb::object& tensor) { return nb::cast<bool>(tensor.attr("requires_grad")); };
    if (does(x_)) return true;
    for (const nb::object& weight : weights_)
        if (does(weight)) return true;
    for (const nb::object& state : initial_)
        if (does(state)) return true;
    return false;
}

View Call::view(const Array& array) const {
    const int64_t word = array.number == Number::BFLOAT16 ? 2 : 1;
    const int time_axis = stack_.batch_first ? 1 : 0;
    if (packed_)
        return {address(array), array.strides[0] / word, array.strides[0] / word, schedule_->offset()};
    return {address(array), array.strides[1 - time_axis] / word, array.strides[time_axis] / word, nullptr};
}

nb::object Call::room_for_output() const {
    if (packed_) return empty({x_at_.shape[0], stack_.width()}, x_at_.number);
    return empty({x_at_.shape[0], x_at_.shape[1], stack_.width()}, x_at_.number);
}

// Room for what one layer hands to the next: time by time, whatever the caller's order.
nb::object Call::room_between() const {
    if (packed_) return room_for_output();
    nb::object room = empty({length(), rows(), stack_.width()}, x_at_.number);
    return stack_.batch_first ? nb::object(room.attr("transpose")(0, 1)) : room;
}

Problem Call::problem(std::vector<Layer>& layers) const {
    Problem problem = {};
    problem.cell = stack_.cell;
    problem.hidden = stack_.hidden;
    problem.projection = stack_.projection;
    problem.directions = stack_.directions;
    problem.depth = stack_.depth;
    problem.threads = threads_;
    problem.noise = noise_;
    const std::uint8_t* resets = nullptr;
    if (!resets_.is_none())
        resets = reinterpret_cast<const std::uint8_t*>(nb::cast<std::uintptr_t>(resets_.attr("data_ptr")()));
    problem.schedule = schedule_->view(resets, reset_to_initial_);
    layers.resize(static_cast<std::size_t>(stack_.depth));
    problem.layers = layers.data();
    for (int64_t l = 0; l < stack_.depth; l++) {
        layers[l].features = l ? stack_.width() : x_at_.shape[x_at_.axes - 1];
        for (int64_t d = 0; d < stack_.directions; d++)
            layers[l].directions[d] = direction(l * stack_.directions + d);
    }
    layers[0].x = view(x_at_);
    return problem;
}

Direction Call::direction(int64_t place) const {
    Direction at = {};
    const Array* own = &weights_at_[static_cast<std::size_t>(place) * stack_.weights_each()];
    at.w_ih = address(own[0]);
    at.w_hh = address(own[1]);
    if (stack_.bias) at.b_ih = address(own[2]), at.b_hh = address(own[3]);
    if (stack_.projection) at.w_hr = address(own[stack_.place_of_w_hr()]);
    if (own_rows_of(stack_.cell)) at.own = address(own[stack_.place_of_own()]);
    at.stream = static_cast<std::uint32_t>(2 * (first_layer_ + place / stack_.directions) +
                                           place % stack_.directions);
    if (initial_at_.size() > 0) at.h_0 = address(initial_at_[0], place * rows() * stack_.state());
    if (initial_at_.size() > 1) at.c_0 = address(initial_at_[1], place * rows() * stack_.cell_size());
    return at;
}

nb::tuple Call::forward(bool keep) {
    const Number number = x_at_.number;
    std::vector<Layer> layers;
    const Problem p = problem(layers);
    Given output = given_as(room_for_output());
    std::vector<Given> between;
    for (int64_t l = 0; l < stack_.depth; l++) {
        if (l + 1 < stack_.depth) between.push_back(given_as(room_between()));
        layers[l].y = view(l + 1 < stack_.depth ? between.back().at : output.at);
        if (l + 1 < stack_.depth) layers[l + 1].x = layers[l].y;
    }
    const Given h_n = made({stack_.cells(), rows(), stack_.state()}, number);
    Given c_n, gates, cell;
    if (has_cell_state(stack_.cell))
        c_n = made({stack_.cells(), rows(), stack_.cell_size()}, Number::FLOAT32);
    const int64_t gates_width = kernels_->gates_width(stack_.cell, stack_.hidden);
    const int64_t cell_width = kernels_->cell_width(stack_.cell, stack_.hidden);
    if (keep) {
        gates = made({stack_.cells(), places_, gates_width}, Number::FLOAT32);
        cell = made({stack_.cells(), places_, cell_width}, Number::FLOAT32);
        in_huge_pages(gates, stack_.cells() * places_ * gates_width);
        in_huge_pages(cell, stack_.cells() * places_ * cell_width);
    }
    for (int64_t place = 0; place < stack_.cells(); place++) {
        Direction& at = layers[place / stack_.directions].directions[place % stack_.directions];
        at.h_n = h_n.data(place * rows() * stack_.state());
        at.c_n = c_n.data(place * rows() * stack_.cell_size());
        at.gates = gates.data(place * places_ * gates_width);
        at.cell = cell.data(place * places_ * cell_width);
    }
    {
        nb::gil_scoped_release released;
        Scratch scratch;
        kernels_->forward(p, keep);
    }
    if (keep) {
        nb::list all;
        all.append(output.tensor);
        for (const Given& one : between) all.append(one.tensor);
        all.append(gates.tensor);
        all.append(cell.tensor);
        kept_ = nb::tuple(all);
    }
    if (!c_n.there()) return nb::make_tuple(output.tensor, h_n.tensor);
    if (number == Number::BFLOAT16) c_n.tensor = c_n.tensor.attr("bfloat16")();
    return nb::make_tuple(output.tensor, h_n.tensor, c_n.tensor);
}

nb::tuple Call::kept() {
    nb::object kept = std::move(kept_);
    kept_ = nb::object();
    if (!kept.is_valid())
        throw std::invalid_argument("kept: expected a call of forward with keep before, got none");
    return nb::borrow<nb::tuple>(kept);
}

// Saved tensors may have gone through hooks of the user's.
void Call::check_kept(const std::vector<Given>& kept) const {
    const auto as_kept = [&](const Given& one, Number number, std::initializer_list<int64_t> shape) {
        const bool packed_output = packed_ && one.at.axes == 2 && one.at.shape[0] == x_at_.shape[0] &&
                                   one.at.shape[1] == stack_.width() && one.at.contiguous();
        if (one.at.number != number || !(packed_output || one.at.has_shape(shape)))
            throw std::invalid_argument("saved: expected tensors as forward kept them, got " +
                                        text(one.tensor));
    };
    const int64_t gates_width = kernels_->gates_width(stack_.cell, stack_.hidden);
    const int64_t cell_width = kernels_->cell_width(stack_.cell, stack_.hidden);
    for (std::size_t l = 0; l + 2 < kept.size(); l++)
        as_kept(kept[l], x_at_.number, {x_at_.shape[0], packed_ ? 0 : x_at_.shape[1], stack_.width()});
    as_kept(kept[kept.size() - 2], Number::FLOAT32, {stack_.cells(), places_, gates_width});
    as_kept(kept.back(), Number::FLOAT32, {stack_.cells(), places_, cell_width});
}

nb::list Call::backward(const nb::sequence& saved, nb::object d_output, const nb::sequence& d_finals,
                        const nb::sequence& wanted) const {
    const Number number = x_at_.number;
    const std::size_t states = initial_.size(), inputs = 1 + states + weights_.size();
    if (nb::len(saved) != static_cast<std::size_t>(stack_.depth) + 2 || nb::len(wanted) != inputs ||
        nb::len(d_finals) > stack_.states())
        throw std::invalid_argument("backward: expected what forward kept, and wanted for each input");
    std::vector<Layer> layers;
    const Problem p = problem(layers);
    std::vector<Given> kept;
    for (nb::handle tensor : saved) kept.push_back(given_as(nb::borrow(tensor)));
    check_kept(kept);
    const Given d_y = gradient(std::move(d_output));
    std::vector<Given> ends(2), results(inputs);
    std::size_t which = 0;
    const bool fits = packed_ ? d_y.at.has_shape({x_at_.shape[0], stack_.width()})
                              : d_y.at.has_shape({x_at_.shape[0], x_at_.shape[1], stack_.width()});
    if (d_y.there() && !fits)
        throw std::invalid_argument("d_output: expected the output's shape, got " + text(d_y.tensor));
    for (nb::handle d : d_finals) {
        ends[which] = gradient(nb::borrow(d));
        if (ends[which].there())
            expect("d_finals", ends[which].tensor, ends[which].at,
                   {stack_.cells(), rows(), which ? stack_.cell_size() : stack_.state()});
        which++;
    }
    which = 0;
    for (nb::handle want : wanted) {
        if (nb::cast<bool>(want)) {
            const Array& at = which == 0        ? x_at_
                              : which <= states ? initial_at_[which - 1]
                                                : weights_at_[which - 1 - states];
            if (at.axes == 1) results[which] = made({at.shape[0]}, Number::FLOAT32);
            else if (at.axes == 2) results[which] = made({at.shape[0], at.shape[1]}, Number::FLOAT32);
            else results[which] = made({at.shape[0], at.shape[1], at.shape[2]}, Number::FLOAT32);
        }
        which++;
    }
    for (int64_t l = 0; l < stack_.depth; l++) {
        layers[l].y = view(l + 1 < stack_.depth ? kept[l + 1].at : kept[0].at);
        if (l) layers[l].x = layers[l - 1].y;
    }
    if (results[0].there()) layers[0].d_x = view(results[0].at);
    if (d_y.there()) layers[stack_.depth - 1].d_y = view(d_y.at);
    const Given &gates = kept[kept.size() - 2], &cell = kept.back();
    const int64_t each = static_cast<int64_t>(stack_.weights_each());
    for (int64_t place = 0; place < stack_.cells(); place++) {
        Direction& at = layers[place / stack_.directions].directions[place % stack_.directions];
        at.gates = gates.data(place * gates.at.shape[1] * gates.at.shape[2]);
        at.cell = cell.data(place * cell.at.shape[1] * cell.at.shape[2]);
        at.d_h_n = ends[0].data(place * rows() * stack_.state());
        at.d_c_n = ends[1].data(place * rows() * stack_.cell_size());
        if (states > 0) at.d_h_0 = results[1].data(place * rows() * stack_.state());
        if (states > 1) at.d_c_0 = results[2].data(place * rows() * stack_.cell_size());
        const Given* own = &results[1 + states + static_cast<std::size_t>(place * each)];
        at.d_w_ih = own[0].data();
        at.d_w_hh = own[1].data();
        if (stack_.bias) at.d_b_ih = own[2].data(), at.d_b_hh = own[3].data();
        if (stack_.projection) at.d_w_hr = own[stack_.place_of_w_hr()].data();
        if (own_rows_of(stack_.cell)) at.d_own = own[stack_.place_of_own()].data();
    }
    {
        nb::gil_scoped_release released;
        Scratch scratch;
        connect_layers(p, arena());
        kernels_->backward(p);
    }
    nb::list gradients;
    for (Given& result : results) {
        if (result.there() && number == Number::BFLOAT16) result.tensor = result.tensor.attr("bfloat16")();
        gradients.append(result.there() ? result.tensor : nb::none());
    }
    return gradients;
}

}  // namespace recurra
