// The module recurra.engine._native: what Python sees of the engine. Nothing of torch in here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"
#include "kernels.h"
#include "schedule.h"
#include "threads.h"

namespace nb = nanobind;
using namespace recurra;

namespace {

std::vector<std::string> names_of(std::uint32_t features) {
    std::vector<std::string> names;
    for (const NamedFeature& feature : feature_names)
        if (features & feature.bit) names.emplace_back(feature.name);
    return names;
}

std::uint32_t bits_of(const std::vector<std::string>& names) {
    std::uint32_t features = 0;
    for (const std::string& name : names) {
        bool known = false;
        for (const NamedFeature& feature : feature_names)
            if (name == feature.name) {
                features |= feature.bit;
                known = true;
            }
        if (!known) throw std::invalid_argument("features: no feature is called " + name);
    }
    return features;
}

// Reads the numbers that describe a call one after another; Python checked what they point at.
class Numbers {
public:
    explicit Numbers(const nb::list& list) : list_(list), size_(nb::len(list)) {}

    std::int64_t next() {
        if (at_ == size_)
            throw std::invalid_argument("numbers: expected more of them, got " + std::to_string(size_));
        PyObject* item = PyList_GET_ITEM(list_.ptr(), at_++);
        const long long value = PyLong_AsLongLong(item);
        if (value == -1 && PyErr_Occurred()) throw nb::python_error();
        return value;
    }
    template <class T>
    void pointer(T*& into) {
        into = reinterpret_cast<T*>(next());
    }
    View view(const std::int64_t* offset) {
        View v = {};
        pointer(v.data);
        v.row = next();
        v.step = next();
        v.offset = offset;
        return v;
    }
    void end() const {
        if (at_ != size_)
            throw std::invalid_argument("numbers: expected " + std::to_string(at_) + ", got " +
                                        std::to_string(size_));
    }

private:
    const nb::list& list_;
    std::size_t size_, at_ = 0;
};

// What a call's numbers are, in order: cell, hidden, projection, directions, depth, threads,
// reset_to_initial, then the address of resets; per layer its features, then x and y as (address, row stride,
// step stride); per direction the pointers of problem.h's Direction down to `cell`. For backward also d_x and
// d_y after y, and all pointers.
constexpr std::int64_t most_threads = 4096;

struct Call {
    Problem problem = {};
    std::vector<Layer> layers;

    Call(const ScheduleData& schedule, const nb::list& list, bool backward) {
        Numbers numbers(list);
        const std::int64_t cell = numbers.next();
        if (cell < 0 || cell >= CELL_KINDS)
            throw std::invalid_argument("cell: there is none of number " + std::to_string(cell));
        problem.cell = static_cast<CellKind>(cell);
        problem.hidden = numbers.next();
        problem.projection = numbers.next();
        problem.directions = numbers.next();
        problem.depth = numbers.next();
        problem.threads = numbers.next();
        const bool reset_to_initial = numbers.next() != 0;
        const std::uint8_t* resets;
        numbers.pointer(resets);
        if (problem.hidden < 1 || problem.projection < 0 || problem.depth < 1 || problem.threads < 1 ||
            problem.threads > most_threads || problem.directions < 1 || problem.directions > 2 ||
            (problem.projection && problem.cell != LSTM))
            throw std::invalid_argument(
                "sizes: expected H, L and threads of at least 1, threads of at most 4096, 1 or 2 directions, "
                "and a "
                "projection with an LSTM only");
        problem.schedule = schedule.view(resets, reset_to_initial);
        for (std::int64_t l = 0; l < problem.depth; l++) layers.push_back(layer(numbers, schedule, backward));
        numbers.end();
        problem.layers = layers.data();
    }

    Layer layer(Numbers& numbers, const ScheduleData& schedule, bool backward) const {
        Layer layer = {};
        layer.features = numbers.next();
        if (layer.features < 0)
            throw std::invalid_argument("features: expected 0 or more, got " +
                                        std::to_string(layer.features));
        layer.x = numbers.view(schedule.offset());
        layer.y = numbers.view(schedule.offset());
        if (backward) {
            layer.d_x = numbers.view(schedule.offset());
            layer.d_y = numbers.view(schedule.offset());
        }
        for (std::int64_t d = 0; d < problem.directions; d++) {
            Direction& at = layer.directions[d];
            numbers.pointer(at.w_ih), numbers.pointer(at.w_hh), numbers.pointer(at.b_ih),
                numbers.pointer(at.b_hh);
            numbers.pointer(at.w_hr), numbers.pointer(at.h_0), numbers.pointer(at.c_0),
                numbers.pointer(at.h_n);
            numbers.pointer(at.c_n), numbers.pointer(at.gates), numbers.pointer(at.cell);
            if (!backward) continue;
            numbers.pointer(at.d_h_n), numbers.pointer(at.d_c_n), numbers.pointer(at.d_w_ih),
                numbers.pointer(at.d_w_hh);
            numbers.pointer(at.d_b_ih), numbers.pointer(at.d_b_hh), numbers.pointer(at.d_w_hr);
            numbers.pointer(at.d_h_0), numbers.pointer(at.d_c_0);
        }
        return layer;
    }

    // Room for the gradients that one layer hands to the one below, time by time.
    void connect(Arena& memory) {
        const Schedule& schedule = problem.schedule;
        for (std::int64_t l = 1; l < problem.depth; l++) {
            const std::int64_t width = layers[l].features;
            const bool packed = layers[l].x.offset;
            const std::int64_t places =
                packed ? schedule.start[schedule.steps] : schedule.rows * schedule.steps;
            View view = {memory.floats(places * width), width, packed ? width : width * schedule.rows,
                         layers[l].x.offset};
            layers[l].d_x = layers[l - 1].d_y = view;
        }
    }
};

// Frees the calling thread's scratch memory for the next call; more than this is given back to the system.
constexpr std::size_t kept_scratch = std::size_t(1) << 30;

struct Scratch {
    ~Scratch() {
        if (arena().held() > kept_scratch) arena().release();
        else arena().clear();
    }
};

double peak(const Kernels& kernels, std::int64_t threads) {
    constexpr std::int64_t repeats = 2'000'000;
    struct Job {
        const Kernels* kernels;
    } job = {&kernels};
    double best = 0;
    for (int trial = 0; trial < 15; trial++) {
        const auto begin = std::chrono::steady_clock::now();
        parallel(
            threads, [](void* context, int, int) { static_cast<Job*>(context)->kernels->peak(repeats); },
            &job);
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
        const double operations = 2.0 * 12 * static_cast<double>(kernels.lanes * repeats * threads);
        best = std::max(best, operations / seconds.count() / 1e9);
    }
    return best;
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "The native engine of recurra.";
    nb::set_leak_warnings(false);  // a graph that lives until the interpreter ends holds a schedule
    m.attr("compiler") = RECURRA_COMPILER;
    m.attr("flags") = RECURRA_FLAGS;
    m.def(
        "features", [] { return names_of(cpu_features()); },
        "Names of the features that this CPU has and the operating system supports.");
    m.def(
        "choose",
        [](const std::vector<std::string>& features, const std::string& request) {
            return std::string(choose_isa(bits_of(features), request));
        },
        nb::arg("features"), nb::arg("request"),
        "The ISA that a CPU with these features is given; `request` is RECURRA_ISA's value, empty for the "
        "best. Raises ValueError for one that is unknown or that the features do not carry.");

    nb::class_<ScheduleData>(m, "Schedule", "Which rows run at which step.")
        .def("__init__",
             [](ScheduleData* self, std::int64_t rows, std::int64_t steps, std::uintptr_t lengths) {
                 new (self) ScheduleData(rows, steps, reinterpret_cast<const std::int64_t*>(lengths));
             })
        .def_static("packed",
                    [](std::uintptr_t batch_sizes, std::int64_t steps) {
                        return ScheduleData::packed(reinterpret_cast<const std::int64_t*>(batch_sizes),
                                                    steps);
                    })
        .def_prop_ro("rows", &ScheduleData::rows)
        .def_prop_ro("entries", &ScheduleData::entries)
        .def("positions", [](const ScheduleData& self, std::uintptr_t into, bool reverse) {
            self.positions(reinterpret_cast<std::int64_t*>(into), reverse);
        });

    nb::class_<Kernels>(m, "Kernels", "The kernels of one ISA.")
        .def_ro("isa", &Kernels::isa)
        .def_ro("lanes", &Kernels::lanes)
        .def("gates_width",
             [](const Kernels& k, std::int64_t cell, std::int64_t hidden) {
                 return k.gates_width(static_cast<CellKind>(cell), hidden);
             })
        .def("cell_width",
             [](const Kernels& k, std::int64_t cell, std::int64_t hidden) {
                 return k.cell_width(static_cast<CellKind>(cell), hidden);
             })
        .def("gate_offset",
             [](const Kernels& k, std::int64_t cell, std::int64_t gate) {
                 return k.gate_offset(static_cast<CellKind>(cell), gate);
             })
        .def("gate_stride",
             [](const Kernels& k, std::int64_t cell) { return k.gate_stride(static_cast<CellKind>(cell)); })
        .def("forward",
             [](const Kernels& k, const ScheduleData& schedule, bool keep, const nb::list& numbers) {
                 Call call(schedule, numbers, false);
                 nb::gil_scoped_release released;
                 Scratch scratch;
                 k.forward(call.problem, keep);
             })
        .def("backward",
             [](const Kernels& k, const ScheduleData& schedule, const nb::list& numbers) {
                 Call call(schedule, numbers, true);
                 nb::gil_scoped_release released;
                 Scratch scratch;
                 call.connect(arena());
                 k.backward(call.problem);
             })
        .def("step",
             [](const Kernels& k, std::int64_t cell, std::int64_t rows, std::int64_t features,
                std::int64_t hidden, std::uintptr_t x, std::uintptr_t h, std::uintptr_t c,
                std::uintptr_t w_ih, std::uintptr_t w_hh, std::uintptr_t b_ih, std::uintptr_t b_hh,
                std::uintptr_t h_out, std::uintptr_t c_out, std::uintptr_t y) {
                 if (cell < 0 || cell >= CELL_KINDS || rows < 0 || features < 0 || hidden < 1)
                     throw std::invalid_argument(
                         "step: expected a known cell and sizes that are not negative");
                 const auto in = [](std::uintptr_t address) {
                     return reinterpret_cast<const float*>(address);
                 };
                 const auto out = [](std::uintptr_t address) { return reinterpret_cast<float*>(address); };
                 k.step(static_cast<CellKind>(cell),
                        {rows, features, hidden, in(x), in(h), in(c), in(w_ih), in(w_hh), in(b_ih), in(b_hh),
                         out(h_out), out(c_out), out(y)});
             })
        .def("peak", [](const Kernels& k, std::int64_t threads) {
            nb::gil_scoped_release released;
            return peak(k, threads);
        });

    m.def(
        "kernels", [](const std::string& isa) { return kernels_for(isa); }, nb::rv_policy::reference,
        nb::arg("isa"), "The kernels of an ISA that choose() named.");
    m.def(
        "thread_runtime", [] { return std::string(thread_runtime()); },
        "The library whose threads do the work.");
}
