#include "schedule.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "threads.h"

namespace recurra {

using std::int64_t;

ScheduleData::ScheduleData(int64_t rows, int64_t steps, const int64_t* lengths) : rows_(rows), steps_(steps) {
    if (rows < 0 || steps < 0)
        throw std::invalid_argument("shape: expected rows and steps of at least 0, got " +
                                    std::to_string(rows) + " and " + std::to_string(steps) +
                                    "; give an input (N, T, F)");
    // running[s]: rows of more than s steps. Counted by length, then summed from the longest down.
    std::vector<int64_t> running(steps + 1, 0), place(steps + 1, 0);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t length = lengths ? lengths[row] : steps;
        if (length < 0 || length > steps)
            throw std::invalid_argument("lengths: expected 0 to " + std::to_string(steps) + ", got " +
                                        std::to_string(length) + " in row " + std::to_string(row) +
                                        "; count the steps that this row has");
        place[length]++;
    }
    int64_t longer = 0;
    for (int64_t length = steps; length >= 0; length--) {
        const int64_t count = place[length];
        running[length] = longer;
        place[length] = longer;  // the rank of the first row of this length
        longer += count;
    }
    order_.resize(rows);
    length_.resize(rows);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t length = lengths ? lengths[row] : steps;
        order_[place[length]] = row;
        length_[place[length]++] = length;
    }
    start_.assign(steps + 1, 0);
    for (int64_t step = 0; step < steps; step++) start_[step + 1] = start_[step] + running[step];
}

ScheduleData ScheduleData::packed(const int64_t* batch_sizes, int64_t steps) {
    if (steps < 0)
        throw std::invalid_argument("batch_sizes: expected at least 0 steps, got " + std::to_string(steps));
    ScheduleData schedule;
    schedule.packed_ = true;
    schedule.steps_ = steps;
    schedule.rows_ = steps > 0 ? batch_sizes[0] : 0;
    schedule.start_.assign(steps + 1, 0);
    schedule.length_.assign(schedule.rows_, 0);
    int64_t before = schedule.rows_;
    for (int64_t step = 0; step < steps; step++) {
        if (batch_sizes[step] < 1 || batch_sizes[step] > before)
            throw std::invalid_argument(
                "batch_sizes: expected numbers of rows that fall and stay above 0, got " +
                std::to_string(batch_sizes[step]) + " at step " + std::to_string(step) +
                "; make it with pack_padded_sequence");
        before = batch_sizes[step];
        schedule.start_[step + 1] = schedule.start_[step] + before;
        for (int64_t row = 0; row < before; row++) schedule.length_[row]++;
    }
    schedule.order_.resize(schedule.rows_);
    for (int64_t row = 0; row < schedule.rows_; row++) schedule.order_[row] = row;
    return schedule;
}

Schedule ScheduleData::view(const std::uint8_t* resets, bool reset_to_initial) const {
    return {rows_, steps_, order_.data(), length_.data(), start_.data(), resets, reset_to_initial};
}

void ScheduleData::positions(int64_t* into, bool reverse) const {
    for (int64_t rank = 0; rank < rows_; rank++)
        for (int64_t time = 0; time < steps_; time++) {
            const int64_t length = length_[rank], step = reverse ? length - 1 - time : time;
            into[order_[rank] * steps_ + time] = time < length ? start_[step] + rank : entries();
        }
}

void ScheduleData::unpack_step(const Kept& kept, int64_t rank, int64_t time, bool reverse,
                               float* into) const {
    const int64_t length = length_[rank], step = reverse ? length - 1 - time : time;
    float* to = into + (order_[rank] * steps_ + time) * kept.units;
    for (const int64_t offset : kept.offsets) {
        if (time < length) {
            const float* from = kept.from + (start_[step] + rank) * kept.width + offset;
            for (int64_t unit = 0; unit < kept.units; unit += kept.lanes, from += kept.stride)
                std::copy(from, from + std::min(kept.lanes, kept.units - unit), to + unit);
        } else {
            std::fill(to, to + kept.units, 0.0f);
        }
        to += rows_ * steps_ * kept.units;
    }
}

void ScheduleData::unpack(const Kept& kept, bool reverse, float* into, int64_t threads) const {
    struct Job {
        const ScheduleData& schedule;
        const Kept& kept;
        bool reverse;
        float* into;
    } job = {*this, kept, reverse, into};
    parallel(
        threads,
        [](void* context, int id, int size) {
            const Job& job = *static_cast<const Job*>(context);
            const ScheduleData& s = job.schedule;
            const Kept& kept = job.kept;
            // A few steps of all rows, then the next few: what is read and what is written both lie together.
            constexpr int64_t few = 8;
            for (int64_t first = 0; first < s.steps_; first += few)
                for (int64_t rank = id; rank < s.rows_; rank += size)
                    for (int64_t time = first; time < std::min(first + few, s.steps_); time++)
                        s.unpack_step(kept, rank, time, job.reverse, job.into);
        },
        &job);
}

}  // namespace recurra
