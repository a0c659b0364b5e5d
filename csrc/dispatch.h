// Which CPU this is and which kernels run on it. Plain data crosses this header, nothing of Python or torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace recurra {

// One bit each. A bit is set only when the CPU has the instructions *and* the operating system saves their
// registers: without the second, the first use would kill the process.
enum Feature : std::uint32_t {
    SSE42 = 1u << 0,
    AVX2 = 1u << 1,
    FMA = 1u << 2,
    AVX512F = 1u << 3,
    AVX512BW = 1u << 4,
    AVX512DQ = 1u << 5,
    AVX512VL = 1u << 6,
    AVX512BF16 = 1u << 7,
    NEON = 1u << 8,
};

struct NamedFeature {
    Feature bit;
    const char* name;
};

// An instruction set that the kernels are compiled for, and what a CPU needs to run it.
struct Isa {
    const char* name;
    std::uint32_t needs;
};

inline constexpr std::size_t feature_count = 9;
inline constexpr std::size_t isa_count = 4;
extern const NamedFeature feature_names[feature_count];
extern const Isa isas[isa_count];  // best first; the last needs nothing

// The features of the CPU that this runs on.
std::uint32_t cpu_features();

// The name of the best ISA that `features` can run, or of `request` (RECURRA_ISA's value) unless it is empty.
// Throws std::invalid_argument when no ISA has that name or the features do not carry it.
const char* choose_isa(std::uint32_t features, const std::string& request);

}  // namespace recurra
