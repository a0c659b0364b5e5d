#include <stdexcept>
#include <string>

#include "call.h"

namespace recurra {

using std::int64_t;

int64_t Stack::operations(int64_t features) const {
    const int64_t gates = gates_of(cell);
    int64_t total = 0;
    for (int64_t l = 0; l < depth; l++)
        total += directions *
                 (2 * gates * hidden * ((l ? width() : features) + state()) + 2 * projection * hidden);
    return total;
}

Stack make_stack(int64_t cell, int64_t hidden, int64_t projection, int64_t depth, int64_t directions,
                 bool bias, bool batch_first) {
    if (cell < 0 || cell >= CELL_KINDS)
        throw std::invalid_argument("cell: there is none of number " + std::to_string(cell));
    if (hidden < 1 || projection < 0 || depth < 1 || directions < 1 || directions > 2)
        throw std::invalid_argument(
            "stack: expected H and L of at least 1, P of at least 0, 1 or 2 directions");
    if (projection && !has_cell_state(static_cast<CellKind>(cell)))
        throw std::invalid_argument("stack: expected a projection with an LSTM only");
    return {static_cast<CellKind>(cell), hidden, projection, depth, directions, bias, batch_first};
}

}  // namespace recurra
