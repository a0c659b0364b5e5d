// Which kernels were built. Compiled without ISA flags.
#include <stdexcept>

#include "dispatch.h"
#include "isas.h"
#include "kernels.h"

namespace recurra {

// isas.h is CMake's: RECURRA_FOR_EACH_ISA(f) is f(avx512) f(avx2) …, for the units that it compiled.
#define RECURRA_DECLARE(isa)      \
    namespace isa {               \
    extern const Kernels kernels; \
    }
RECURRA_FOR_EACH_ISA(RECURRA_DECLARE)

const Kernels& kernels_for(const std::string& isa) {
#define RECURRA_MATCH(name) \
    if (isa == #name) return name::kernels;
    RECURRA_FOR_EACH_ISA(RECURRA_MATCH)
    throw std::invalid_argument("isa: this build has no kernels for " + isa);
}

const Kernels* kernels_for_pairs(const Kernels& kernels) {
#ifdef RECURRA_PAIRS_BUILT
    if (std::string(kernels.isa) == "avx512" && (cpu_features() & AVX512BF16)) return &avx512bf16::kernels;
#else
    (void)kernels;
#endif
    return nullptr;
}

}  // namespace recurra
