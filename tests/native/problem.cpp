#include "problem.h"

#include <cmath>

#include "threads.h"

namespace fuzz {

using namespace recurra;

namespace {

// 1..67, half of them below 10.
i64 size(Random& random) { return random.chance(50) ? random.whole(1, 9) : random.whole(1, 67); }

constexpr i64 most_work = 20'000'000;  // multiply-adds of a forward pass: the sanitizers make them slow

float fan(i64 in) { return 1.5f / std::sqrt(static_cast<float>(in)); }

ScheduleData schedule_of(const Shape& shape, Random& random) {
    std::vector<i64> numbers;
    if (shape.packed) {
        i64 rows = shape.rows;
        for (i64 step = 0; step < shape.steps; step++) {
            numbers.push_back(rows);
            if (random.chance(30)) rows = random.whole(1, rows);
        }
        return ScheduleData::packed(numbers.data(), shape.steps);
    }
    if (!shape.lengths) return ScheduleData(shape.rows, shape.steps, nullptr);
    const bool none = random.chance(5);
    for (i64 row = 0; row < shape.rows; row++) numbers.push_back(none ? 0 : random.whole(0, shape.steps));
    return ScheduleData(shape.rows, shape.steps, numbers.data());
}

}  // namespace

Shape::Shape(Random& random) {
    do draw(random);
    while (rows * steps * gates() * hidden * (features + state()) * places() > most_work);
}

void Shape::draw(Random& random) {
    cell = static_cast<CellKind>(random.whole(0, CELL_KINDS - 1));
    rows = random.chance(3) ? 0 : size(random);
    steps = random.chance(3) ? 0 : size(random);
    features = size(random);
    hidden = size(random);
    projection = has_cell_state(cell) && hidden > 1 && random.chance(30) ? random.whole(1, hidden - 1) : 0;
    directions = random.whole(1, 2);
    depth = random.chance(60) ? 1 : random.whole(2, 3);
    bias = random.chance(80);
    initial = random.chance(70);
    batch_first = random.chance(50);
    packed = rows > 0 && steps > 0 && random.chance(20);
    lengths = random.chance(50);
    resets = random.chance(40);
    reset_to_initial = random.chance(50);
    gap = random.chance(20) ? random.whole(1, 5) : 0;
    const auto maybe = [&] { return random.chance(50) ? 0.3f : 0.0f; };
    noise = {};
    if (random.chance(40)) {
        noise = {maybe(), maybe(), maybe(), random.chance(70), random.next()};
        if (cells_of(cell) != 1) noise.zoneout_cell = 0;
    }
}

std::string Shape::text() const {
    const char* names[] = {"lstm",    "gru",     "rnn_tanh",  "rnn_relu", "peephole",
                           "coupled", "refined", "norm_lstm", "norm_gru", "slstm"};
    std::string text = names[cell];
    const auto number = [&](const char* name, i64 value) {
        text += std::string(" ") + name + std::to_string(value);
    };
    number("N", rows), number("T", steps), number("F", features), number("H", hidden),
        number("P", projection);
    number("L", depth), number("D", directions), number("gap", gap);
    const auto flag = [&](const char* name, bool value) { text += value ? std::string(" ") + name : ""; };
    flag("bias", bias), flag("initial", initial), flag("batch_first", batch_first), flag("packed", packed);
    flag("lengths", lengths), flag("resets", resets), flag("reset_to_initial", reset_to_initial);
    flag("zoneout_hidden", noise.zoneout_hidden > 0), flag("zoneout_cell", noise.zoneout_cell > 0);
    flag("recurrent_dropout", noise.recurrent_dropout > 0), flag("drawn", noise.drawn);
    return text;
}

View Inputs::view(const Buffer& buffer, i64 width, i64 gap, bool batch_first) const {
    const i64 pitch = width + gap;
    if (shape.packed) return {buffer.data(), pitch, pitch, schedule.offset()};
    return {buffer.data(), batch_first ? pitch * shape.steps : pitch,
            batch_first ? pitch : pitch * shape.rows, nullptr};
}

Inputs::Inputs(const Shape& s, Random& random) : shape(s), schedule(schedule_of(s, random)) {
    if (s.resets)
        for (i64 i = 0; i < s.rows * s.steps; i++) resets.push_back(random.chance(20));
    // A tensor of the caller's: numbers at each row's steps, nothing elsewhere; it ends with its last number.
    std::vector<i64> entry(s.rows * s.steps);
    schedule.positions(entry.data(), false);
    const auto filled = [&](i64 width, i64 gap) {
        const i64 places = s.packed ? entries() : s.rows * s.steps;
        Buffer buffer(places ? places * (width + gap) - gap : 0);
        const View all = view(buffer, width, gap, s.batch_first);
        for (i64 row = 0; row < s.rows; row++)
            for (i64 step = 0; step < s.steps; step++)
                for (i64 k = 0; k < width && entry[row * s.steps + step] < entries(); k++)
                    all.data[row * all.row + (all.offset ? all.offset[step] : step) * all.step + k] =
                        random.real(1);
        return buffer;
    };
    x = filled(s.features, s.gap);
    step_x = Buffer(s.rows * s.features, random, 1);
    if (random.chance(80)) d_y = filled(s.directions * s.state(), 0);
    const i64 h = s.places() * s.rows * s.state(), c = s.places() * s.rows * s.hidden * cells_of(s.cell);
    if (s.initial) h_0 = Buffer(h, random, 1), c_0 = Buffer(c, random, 1);
    for (i64 i = 0; s.cell == SLSTM && i < c_0.count(); i++)  // n is a sum of exponentials
        if (i / s.hidden % 3 == 1) c_0.data()[i] = std::fabs(c_0.data()[i]) + 0.5f;
    if (random.chance(70)) d_h_n = Buffer(h, random, 1);
    if (random.chance(70)) d_c_n = Buffer(c, random, 1);
    for (i64 place = 0; place < s.places(); place++) {
        const i64 gates = s.gates() * s.hidden, below = s.below(place / s.directions);
        Weights w;
        w.w_ih = Buffer(gates * below, random, fan(below));
        w.w_hh = Buffer(gates * s.state(), random, fan(s.state()));
        if (s.bias) w.b_ih = Buffer(gates, random, 1), w.b_hh = Buffer(gates, random, 1);
        if (s.projection) w.w_hr = Buffer(s.projection * s.hidden, random, fan(s.hidden));
        w.own = Buffer(own_rows_of(s.cell) * s.hidden, random, 1);
        weights.push_back(std::move(w));
    }
    wanted = random.chance(50) ? ~std::uint64_t(0) : random.next();
}

namespace {

// One run's buffers, and the problem that points at them.
class Run {
public:
    Run(const Inputs& inputs, const Kernels& kernels, i64 threads)
        : in_(inputs), s_(inputs.shape), kernels_(kernels) {
        const std::uint8_t* resets = in_.resets.empty() ? nullptr : in_.resets.data();
        problem_ = {s_.cell,  s_.hidden, s_.projection, s_.directions,
                    s_.depth, threads,   s_.noise,      in_.schedule.view(resets, s_.reset_to_initial),
                    nullptr};
    }

    Results all() {
        forward(false);
        forward(true);
        backward();
        return std::move(results_);
    }

private:
    i64 places() const { return s_.packed ? in_.entries() : s_.rows * s_.steps; }

    float* result(const std::string& name, i64 count) {
        results_.emplace_back(name, Buffer(count));
        return results_.back().second.data();
    }

    // Room for a gradient, or null where it is not wanted.
    float* gradient(const std::string& name, i64 count, int bit) {
        return (in_.wanted >> bit & 1u) != 0 && count ? result(name, count) : nullptr;
    }

    // Fills the engine's scratch memory with NaN: nothing in it may be read before it is written.
    static void spoil() {
        Arena& memory = arena();
        memory.clear();
        const i64 size = static_cast<i64>(memory.held()) - 4096;       // a little is left for gaps
        if (size > 0) std::memset(memory.bytes(size, 1), 0xff, size);  // all bits set: NaN
        memory.clear();
    }

    static float* at(const Buffer& buffer, i64 offset) {
        return buffer.data() ? buffer.data() + offset : nullptr;
    }

    void forward(bool keep) {
        const i64 width = s_.directions * s_.state(), states = s_.rows * s_.state(),
                  cells = s_.rows * s_.hidden * cells_of(s_.cell);
        const std::string when = keep ? " (kept)" : "";
        const bool lstm = has_cell_state(s_.cell);
        layers_.assign(s_.depth, Layer());
        between_.clear(), kept_.clear();
        Buffer y(places() * width), h_n(s_.places() * states), c_n(lstm ? s_.places() * cells : 0);
        for (i64 l = 0; l + 1 < s_.depth; l++) between_.emplace_back(places() * width);
        for (i64 l = 0; l < s_.depth; l++) {
            Layer& layer = layers_[l];
            layer.features = s_.below(l);
            layer.x = l ? layers_[l - 1].y : in_.view(in_.x, s_.features, s_.gap, s_.batch_first);
            layer.y = l + 1 < s_.depth ? in_.view(between_[l], width, 0, false)
                                       : in_.view(y, width, 0, s_.batch_first);
            for (i64 d = 0; d < s_.directions; d++) {
                const i64 place = l * s_.directions + d;
                const Weights& w = in_.weights[place];
                Direction& to = layer.directions[d];
                to.w_ih = w.w_ih.data(), to.w_hh = w.w_hh.data(), to.w_hr = w.w_hr.data();
                to.b_ih = w.b_ih.data(), to.b_hh = w.b_hh.data();
                to.own = w.own.data(), to.stream = static_cast<std::uint32_t>(2 * l + d);
                to.h_0 = at(in_.h_0, place * states), to.c_0 = at(in_.c_0, place * cells);
                to.h_n = at(h_n, place * states), to.c_n = at(c_n, place * cells);
                if (!keep) continue;
                kept_.emplace_back(in_.entries() * kernels_.gates_width(s_.cell, s_.hidden));
                to.gates = kept_.back().data();
                kept_.emplace_back(in_.entries() * kernels_.cell_width(s_.cell, s_.hidden));
                to.cell = kept_.back().data();
            }
        }
        problem_.layers = layers_.data();
        spoil();
        kernels_.forward(problem_, keep);
        results_.emplace_back("y" + when, std::move(y));
        results_.emplace_back("h_n" + when, std::move(h_n));
        results_.emplace_back("c_n" + when, std::move(c_n));
    }

    void backward() {
        const i64 width = s_.directions * s_.state(), states = s_.rows * s_.state(),
                  cells = s_.rows * s_.hidden * cells_of(s_.cell);
        const bool lstm = has_cell_state(s_.cell);
        std::vector<Buffer> d_between;
        for (i64 l = 0; l < s_.depth; l++) {
            Layer& layer = layers_[l];
            if (l) {
                d_between.emplace_back(places() * width);
                layer.d_x = layers_[l - 1].d_y = in_.view(d_between.back(), width, 0, false);
            } else if ((in_.wanted & 1u) && places()) {
                results_.emplace_back("d_x", Buffer(places() * s_.features));
                layer.d_x = in_.view(results_.back().second, s_.features, 0, s_.batch_first);
            }
            if (l + 1 == s_.depth && in_.d_y.data()) layer.d_y = in_.view(in_.d_y, width, 0, s_.batch_first);
            for (i64 d = 0; d < s_.directions; d++) {
                const i64 place = l * s_.directions + d;
                const std::string where = " of place " + std::to_string(place);
                const Weights& w = in_.weights[place];
                Direction& to = layer.directions[d];
                to.h_n = to.c_n = nullptr;
                to.d_h_n = at(in_.d_h_n, place * states), to.d_c_n = at(in_.d_c_n, place * cells);
                const int bit = static_cast<int>(1 + place * 8);
                to.d_w_ih = gradient("d_w_ih" + where, w.w_ih.count(), bit);
                to.d_w_hh = gradient("d_w_hh" + where, w.w_hh.count(), bit + 1);
                to.d_b_ih = gradient("d_b_ih" + where, w.b_ih.count(), bit + 2);
                to.d_b_hh = gradient("d_b_hh" + where, w.b_hh.count(), bit + 3);
                to.d_w_hr = gradient("d_w_hr" + where, w.w_hr.count(), bit + 4);
                to.d_own = gradient("d_own" + where, w.own.count(), bit + 7);
                to.d_h_0 = gradient("d_h_0" + where, s_.initial ? states : 0, bit + 5);
                to.d_c_0 = gradient("d_c_0" + where, s_.initial && lstm ? cells : 0, bit + 6);
            }
        }
        spoil();
        kernels_.backward(problem_);
    }

    const Inputs& in_;
    const Shape& s_;
    const Kernels& kernels_;
    Problem problem_;
    std::vector<Layer> layers_;
    std::vector<Buffer> between_, kept_;
    Results results_;
};

}  // namespace

Results run(const Inputs& inputs, const Kernels& kernels, i64 threads) {
    return Run(inputs, kernels, threads).all();
}

Results run_step(const Inputs& inputs, const Kernels& kernels) {
    const Shape& s = inputs.shape;
    const Weights& w = inputs.weights[0];
    // those that have a step of their own
    const bool steps = !s.projection && !is_normed(s.cell) && s.cell != SLSTM;
    const i64 count = steps ? s.rows * s.hidden : 0;
    Buffer h(count), c(has_cell_state(s.cell) ? count : 0), y(count);
    // The states of the stack's first place alone, with nothing behind them.
    Buffer h_before(s.initial ? count : 0), c_before(s.initial ? c.count() : 0);
    if (h_before.data()) std::memcpy(h_before.data(), inputs.h_0.data(), count * sizeof(float));
    if (c_before.data()) std::memcpy(c_before.data(), inputs.c_0.data(), count * sizeof(float));
    if (count)
        kernels.step(s.cell, {s.rows, s.features, s.hidden, inputs.step_x.data(), h_before.data(),
                              c_before.data(), w.w_ih.data(), w.w_hh.data(), w.b_ih.data(), w.b_hh.data(),
                              w.own.data(), h.data(), c.data(), y.data()});
    Results results;
    results.emplace_back("step's h", std::move(h));
    results.emplace_back("step's c", std::move(c));
    results.emplace_back("step's y", std::move(y));
    return results;
}

}  // namespace fuzz
