// The module recurra.engine._native: what Python sees of the engine. Nothing of torch in here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"

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

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "The native engine of recurra.";
    m.attr("compiler") = RECURRA_COMPILER;
    m.attr("flags") = RECURRA_FLAGS;
    m.def(
        "features", [] { return names_of(cpu_features()); },
        "Names of the features that this CPU has and the operating system supports.");
    m.def(
        "choose", [](const std::vector<std::string>& features, const std::string& request) {
            return std::string(choose_isa(bits_of(features), request));
        },
        nb::arg("features"), nb::arg("request"),
        "The ISA that a CPU with these features is given; `request` is RECURRA_ISA's value, empty for the "
        "best. Raises ValueError for one that is unknown or that the features do not carry.");
}
