// Tensors of torch's, read and made without torch's headers: through the table of functions that torch offers
// for exchange by DLPack (from 2.10 on), else through the tensors' own Python methods.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <initializer_list>

namespace recurra {

namespace nb = nanobind;

enum class Number { FLOAT32, BFLOAT16, OTHER };

// Where a tensor lies. Valid as long as the tensor lives and is not resized.
struct Array {
    static constexpr int most_axes = 3;
    char* data;
    Number number;
    bool on_cpu;
    int axes;  // most_axes + 1 for more
    std::int64_t shape[most_axes], strides[most_axes];

    std::int64_t count() const;
    bool contiguous() const;
    bool has_shape(std::initializer_list<std::int64_t> expected) const;
};

// Tells what torch is; before anything else here. exchange: use the table, where torch has it.
void connect(const nb::module_& torch, bool exchange);

// Reads a tensor; one whose numbers are stored negated is replaced by a copy first. False where it is none,
// or of a subclass: these go another way.
bool read(nb::object& tensor, Array& into);

// A new tensor on the CPU, its numbers as they come.
nb::object empty(std::initializer_list<std::int64_t> shape, Number number);

// The same, of the shape and numbers of another tensor on the CPU: quicker.
nb::object empty_like(nb::handle tensor);

// Replaces a tensor by tensor.name(), `contiguous` or `float`, and reads it again.
void convert(nb::object& tensor, const char* name, Array& into);

}  // namespace recurra
