// Schedules: which rows run at which step, from lengths or from the batch sizes of a PackedSequence.
#pragma once

#include <cstdint>
#include <vector>

#include "problem.h"

namespace recurra {

// Gates or cell states among what a call kept (see layout.h): an entry begins at from + entry · width, in it
// the part k at offsets[k], a vector of `lanes` units, and its next vector `stride` further on.
struct Kept {
    const float* from;
    std::int64_t width, stride, lanes, units;
    std::vector<std::int64_t> offsets;
};

class ScheduleData {
public:
    // lengths: (N), each 0..T, or null where every row has all T. Throws std::invalid_argument.
    ScheduleData(std::int64_t rows, std::int64_t steps, const std::int64_t* lengths);
    // batch_sizes: (T), falling, at least 1: how many rows each step of a PackedSequence has.
    static ScheduleData packed(const std::int64_t* batch_sizes, std::int64_t steps);

    // resets: (N, T), or null; the caller keeps it alive.
    Schedule view(const std::uint8_t* resets, bool reset_to_initial) const;
    std::int64_t rows() const { return rows_; }
    std::int64_t steps() const { return steps_; }
    std::int64_t entries() const { return start_.back(); }
    // The steps' offsets in a PackedSequence, null otherwise.
    const std::int64_t* offset() const { return packed_ ? start_.data() : nullptr; }
    // into (N, T): the entry of each row and time, or the number of entries where there is none.
    void positions(std::int64_t* into, bool reverse) const;
    // into (parts, N, T, units): each part at each row and time, zero beyond a row's length.
    void unpack(const Kept& kept, bool reverse, float* into, std::int64_t threads) const;

private:
    ScheduleData() = default;
    void unpack_step(const Kept& kept, std::int64_t rank, std::int64_t time, bool reverse, float* into) const;
    std::int64_t rows_ = 0, steps_ = 0;
    bool packed_ = false;
    std::vector<std::int64_t> order_, length_, start_;
};

}  // namespace recurra
