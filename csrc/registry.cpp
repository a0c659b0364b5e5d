// Which kernels were built. Compiled without ISA flags.
#include <stdexcept>

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

}  // namespace recurra
