// The module recurra.engine._native: what Python sees of the engine. Nothing of torch in here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "call.h"
#include "dispatch.h"
#include "kernels.h"
#include "schedule.h"
#include "tensors.h"
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
        const double operations =
            2.0 * 12 * static_cast<double>(kernels.lanes * repeats * threads) * (kernels.pairs ? 2 : 1);
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
    m.def("connect", &connect, nb::arg("torch"), nb::arg("exchange") = true,
          "Tells the engine what torch is. exchange: read tensors by the table that torch has for it.");
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
        .def("positions",
             [](const ScheduleData& self, std::uintptr_t into, bool reverse) {
                 self.positions(reinterpret_cast<std::int64_t*>(into), reverse);
             })
        .def("unpack", [](const ScheduleData& self, std::uintptr_t from, std::int64_t width,
                          std::int64_t stride, std::int64_t lanes, std::int64_t units,
                          std::vector<std::int64_t> offsets, bool reverse, std::uintptr_t into,
                          std::int64_t threads) {
            const Kept kept = {reinterpret_cast<const float*>(from), width, stride, lanes, units, offsets};
            self.unpack(kept, reverse, reinterpret_cast<float*>(into), threads);
        });

    nb::class_<Stack>(m, "Stack", "Layers and directions of one cell: recurra.engine.stack.Stack.")
        .def("__init__", [](Stack* self, std::int64_t cell, std::int64_t hidden, std::int64_t projection,
                            std::int64_t depth, std::int64_t directions, bool bias, bool batch_first) {
            new (self) Stack(make_stack(cell, hidden, projection, depth, directions, bias, batch_first));
        });
    nb::class_<Noise>(m, "Noise", "Zoneout and recurrent dropout: recurra.engine.noise.Noise.")
        .def("__init__", [](Noise* self, float zoneout_hidden, float zoneout_cell, float recurrent_dropout,
                            bool drawn, std::uint64_t seed) {
            const auto probable = [](float p) { return p >= 0.0f && p <= 1.0f; };
            if (!probable(zoneout_hidden) || !probable(zoneout_cell) || !probable(recurrent_dropout))
                throw std::invalid_argument("noise: expected probabilities, 0 to 1");
            new (self) Noise{zoneout_hidden, zoneout_cell, recurrent_dropout, drawn, seed};
        });
    nb::class_<Threads>(m, "Threads",
                        "How many threads a call may use, and the work that more than one take.")
        .def(nb::init<std::int64_t, std::int64_t, std::int64_t>());
    nb::class_<Call>(m, "Call", "One call: checked tensors.")
        .def("forward", &Call::forward, nb::arg("keep"))
        .def("kept", &Call::kept)
        .def("backward", &Call::backward, nb::arg("saved"), nb::arg("d_output").none(), nb::arg("d_finals"),
             nb::arg("wanted"))
        .def("on", &Call::on, nb::arg("x"), nb::arg("initial"), nb::arg("weights"))
        .def("let_go", &Call::let_go)
        .def_prop_ro("requires_grad", &Call::requires_grad)
        .def_prop_ro("rows", &Call::rows)
        .def_prop_ro("length", &Call::length)
        .def_prop_ro("threads", &Call::threads)
        .def_prop_ro("schedule", &Call::schedule);

    nb::class_<Kernels>(m, "Kernels", "The kernels of one ISA.")
        .def_ro("isa", &Kernels::isa)
        .def_ro("lanes", &Kernels::lanes)
        .def_ro("pairs", &Kernels::pairs)
        .def_prop_ro(
            "for_pairs", [](const Kernels& k) { return kernels_for_pairs(k); }, nb::rv_policy::reference)
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
        .def("call", &Call::of, nb::arg("stack"), nb::arg("x").none(), nb::arg("initial"), nb::arg("weights"),
             nb::arg("schedule").none(), nb::arg("resets").none(), nb::arg("reset_to_initial"),
             nb::arg("noise"), nb::arg("first_layer"), nb::arg("room_for_all"), nb::arg("threads"),
             "A call on these tensors; None where the engine cannot read one. Raises ValueError.")
        .def("step", &step, nb::arg("stack"), nb::arg("x").none(), nb::arg("states"), nb::arg("weights"),
             nb::arg("layer"),
             "The output, of a layer only, and the new states; None where it is not for the engine.")
        .def("peak", [](const Kernels& k, std::int64_t threads) {
            nb::gil_scoped_release released;
            return peak(k, threads);
        });

    m.def(
        "kernels", [](const std::string& isa) { return &kernels_for(isa); }, nb::rv_policy::reference,
        nb::arg("isa"), "The kernels of an ISA that choose() named.");
    m.def(
        "thread_runtime", [] { return std::string(thread_runtime()); },
        "The library whose threads do the work.");
}
