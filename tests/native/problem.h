// One random problem for the engine, every buffer of exactly the size that Python would give it.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"
#include "schedule.h"

namespace fuzz {

using i64 = std::int64_t;
constexpr float nothing = std::numeric_limits<float>::quiet_NaN();

// SplitMix64 (Steele et al. 2014): the same problems on every machine.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next() {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    // low..high, both included.
    i64 whole(i64 low, i64 high) {
        return low + static_cast<i64>(next() % static_cast<std::uint64_t>(high - low + 1));
    }
    bool chance(int percent) { return whole(0, 99) < percent; }
    float real(float scale) { return scale * (static_cast<float>(next() >> 40) / 8388608.0f - 1.0f); }

private:
    std::uint64_t state_;
};

// Floats on the heap, none of them there where the count is zero: as torch has it.
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(i64 count) : count_(count), data_(count ? new float[count] : nullptr) {
        for (i64 i = 0; i < count; i++) data_[i] = nothing;
    }
    Buffer(i64 count, Random& random, float scale) : Buffer(count) {
        for (i64 i = 0; i < count; i++) data_[i] = random.real(scale);
    }
    float* data() const { return data_.get(); }
    i64 count() const { return count_; }

private:
    i64 count_ = 0;
    std::unique_ptr<float[]> data_;
};

struct Shape {
    recurra::CellKind cell;
    i64 rows, steps, features, hidden, projection, directions, depth;
    bool bias, initial, batch_first, packed, lengths, resets, reset_to_initial;
    recurra::Noise noise;
    i64 gap;  // floats between one step of x and the next that belong to neither

    explicit Shape(Random& random);
    void draw(Random& random);
    i64 state() const { return projection ? projection : hidden; }
    i64 gates() const { return recurra::gates_of(cell); }
    i64 places() const { return directions * depth; }
    i64 below(i64 layer) const { return layer ? directions * state() : features; }
    std::string text() const;
};

// A place in the stack: one layer in one direction.
struct Weights {
    Buffer w_ih, w_hh, b_ih, b_hh, w_hr, own;
};

// What goes in. Steps beyond a row's end, and gaps, hold NaN.
struct Inputs {
    Shape shape;
    recurra::ScheduleData schedule;
    std::vector<std::uint8_t> resets;
    Buffer x, step_x, h_0, c_0, d_y, d_h_n, d_c_n;
    std::vector<Weights> weights;
    std::uint64_t wanted;  // one bit for each kind of gradient

    Inputs(const Shape& shape, Random& random);
    i64 entries() const { return schedule.entries(); }
    recurra::View view(const Buffer& buffer, i64 width, i64 gap, bool batch_first) const;
};

// What came out, each with its name.
using Results = std::vector<std::pair<std::string, Buffer>>;

// Output and final states, without and with what backward needs, then backward.
Results run(const Inputs& inputs, const recurra::Kernels& kernels, i64 threads);

// One step of the first layer, for streaming; nothing where there is a projection, or no step of its own.
Results run_step(const Inputs& inputs, const recurra::Kernels& kernels);

}  // namespace fuzz
