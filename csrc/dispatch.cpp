// Compiled without ISA flags: it must run on any CPU, since it decides what else may.
#include "dispatch.h"

#include <stdexcept>

#if defined(__x86_64__) || defined(_M_X64)
#define RECURRA_X86 1
#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif

namespace recurra {

const NamedFeature feature_names[feature_count] = {
    {SSE42, "sse4.2"},      {AVX2, "avx2"},         {FMA, "fma"},           {AVX512F, "avx512f"},
    {AVX512BW, "avx512bw"}, {AVX512DQ, "avx512dq"}, {AVX512VL, "avx512vl"}, {AVX512BF16, "avx512bf16"},
    {NEON, "neon"},
};

const Isa isas[isa_count] = {
    {"avx512", AVX2 | FMA | AVX512F | AVX512BW | AVX512DQ | AVX512VL},
    {"avx2", AVX2 | FMA},
    {"neon", NEON},
    {"generic", 0},
};

#if defined(RECURRA_X86)
namespace {

struct Registers {
    std::uint32_t eax, ebx, ecx, edx;
};

// CPUID's answer, all zero for a leaf that this CPU does not have.
Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
    Registers r = {0, 0, 0, 0};
#if defined(_MSC_VER)
    int words[4];
    __cpuid(words, 0);
    if (static_cast<std::uint32_t>(words[0]) < leaf) return r;
    __cpuidex(words, static_cast<int>(leaf), static_cast<int>(subleaf));
    r = {static_cast<std::uint32_t>(words[0]), static_cast<std::uint32_t>(words[1]),
         static_cast<std::uint32_t>(words[2]), static_cast<std::uint32_t>(words[3])};
#else
    __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
    return r;
}

// XCR0: one bit for each kind of register that the operating system saves at a context switch.
std::uint64_t saved_registers() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    // The intrinsic would need -mxsave, and this unit is compiled without ISA flags.
    std::uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
#endif
}

constexpr bool bit(std::uint32_t word, int index) { return (word >> index & 1u) != 0; }

}  // namespace

std::uint32_t cpu_features() {
    const Registers basic = cpuid(1, 0);
    std::uint32_t found = bit(basic.ecx, 20) ? SSE42 : 0u;
    if (!bit(basic.ecx, 27)) return found;  // OSXSAVE: without it XGETBV itself is an illegal instruction

    constexpr std::uint64_t ymm = 0x06;  // the SSE and AVX state
    constexpr std::uint64_t zmm = 0xe6;  // and the mask registers, and both halves of the 512-bit ones
    const std::uint64_t saved = saved_registers();
    if ((saved & ymm) != ymm) return found;
    const Registers extended = cpuid(7, 0);
    if (bit(extended.ebx, 5)) found |= AVX2;
    if (bit(basic.ecx, 12)) found |= FMA;

    bool saves_zmm = (saved & zmm) == zmm;
#if defined(__APPLE__)
    // macOS turns the 512-bit state on at a thread's first use of it, so XCR0 does not show it beforehand.
    int has = 0;
    std::size_t size = sizeof has;
    saves_zmm = sysctlbyname("hw.optional.avx512f", &has, &size, nullptr, 0) == 0 && has != 0;
#endif
    if (!saves_zmm) return found;
    if (bit(extended.ebx, 16)) found |= AVX512F;
    if (bit(extended.ebx, 30)) found |= AVX512BW;
    if (bit(extended.ebx, 17)) found |= AVX512DQ;
    if (bit(extended.ebx, 31)) found |= AVX512VL;
    if (extended.eax >= 1 && bit(cpuid(7, 1).eax, 5)) found |= AVX512BF16;
    return found;
}

#elif defined(__aarch64__) || defined(_M_ARM64)

std::uint32_t cpu_features() { return NEON; }  // part of every 64-bit ARM

#else

std::uint32_t cpu_features() { return 0; }

#endif

const char* choose_isa(std::uint32_t features, const std::string& request) {
    std::string known, offered;
    bool named = false;
    for (const Isa& isa : isas) {
        const bool runs = (features & isa.needs) == isa.needs;
        if (runs && (request.empty() || request == isa.name)) return isa.name;
        named = named || request == isa.name;
        known += (known.empty() ? "" : ", ") + std::string(isa.name);
        if (runs) offered += (offered.empty() ? "" : ", ") + std::string(isa.name);
    }
    throw std::invalid_argument(
        named ? "RECURRA_ISA=" + request + ": this CPU cannot run it; it runs " + offered +
                    "; name one of these, or unset RECURRA_ISA to get the best"
              : "RECURRA_ISA=" + request + ": expected one of " + known + "; this CPU runs " + offered +
                    "; name one of these, or unset RECURRA_ISA to get the best");
}

}  // namespace recurra
