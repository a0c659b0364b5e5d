#include "tensors.h"

#include <stdexcept>

namespace recurra {
namespace {

// What of DLPack is needed: the layout of its structures is fixed by its ABI (version 1).
struct DLTensor {
    void* data;
    std::int32_t device_type, device_id, axes;
    std::uint8_t type_code, type_bits;
    std::uint16_t type_lanes;
    std::int64_t *shape, *strides;
    std::uint64_t byte_offset;
};
struct Exchange {
    std::uint32_t major, minor;
    Exchange* older;
    void *allocate, *export_owned, *import_owned;
    int (*view)(void* tensor, DLTensor* out);  // 0, or -1 with a Python exception set
    void* stream;
};
constexpr std::int32_t device_cpu = 1;
constexpr std::uint8_t code_float = 2, code_bfloat = 4;

// References that live as long as the process.
struct Torch {
    PyTypeObject *tensor, *parameter;
    PyObject *strided, *empty, *empty_like, *float32, *bfloat16, *empty_names, *cpu;
    PyObject *is_neg, *dtype, *is_cpu, *shape, *stride, *data_ptr;
    const Exchange* exchange;
} torch = {};

PyObject* kept(nb::object object) { return object.release().ptr(); }

std::int64_t whole(nb::handle number) { return nb::cast<std::int64_t>(number); }

bool read_by_exchange(PyObject* tensor, Array& into) {
    DLTensor found;
    if (torch.exchange->view(tensor, &found) != 0) {
        PyErr_Clear();  // a tensor that DLPack cannot describe is not for the engine either
        return false;
    }
    into.on_cpu = found.device_type == device_cpu;
    into.number = Number::OTHER;
    if (found.type_code == code_float && found.type_bits == 32) into.number = Number::FLOAT32;
    if (found.type_code == code_bfloat && found.type_bits == 16) into.number = Number::BFLOAT16;
    into.data = static_cast<char*>(found.data) + found.byte_offset;
    into.axes = found.axes;
    if (found.axes > Array::most_axes) into.axes = Array::most_axes + 1;
    else
        for (int axis = 0; axis < found.axes; axis++) {
            into.shape[axis] = found.shape[axis];
            into.strides[axis] = found.strides[axis];
        }
    return true;
}

bool read_by_methods(nb::handle tensor, Array& into) {
    if (!tensor.attr("layout").is(torch.strided)) return false;
    const nb::object dtype = tensor.attr(torch.dtype);
    into.number = dtype.is(torch.float32)    ? Number::FLOAT32
                  : dtype.is(torch.bfloat16) ? Number::BFLOAT16
                                             : Number::OTHER;
    into.on_cpu = nb::cast<bool>(tensor.attr(torch.is_cpu));
    const nb::object shape = tensor.attr(torch.shape), strides = tensor.attr(torch.stride)();
    into.data = nullptr;
    if (into.on_cpu) into.data = reinterpret_cast<char*>(whole(tensor.attr(torch.data_ptr)()));
    const auto axes = static_cast<int>(nb::len(shape));
    into.axes = axes > Array::most_axes ? Array::most_axes + 1 : axes;
    for (int axis = 0; axis < axes && axes <= Array::most_axes; axis++) {
        into.shape[axis] = whole(shape[axis]);
        into.strides[axis] = whole(strides[axis]);
    }
    return true;
}

}  // namespace

std::int64_t Array::count() const {
    std::int64_t n = 1;
    for (int axis = 0; axis < axes; axis++) n *= shape[axis];
    return n;
}

bool Array::contiguous() const {
    std::int64_t expected = 1;
    if (count() == 0) return true;
    for (int axis = axes - 1; axis >= 0; axis--) {
        if (shape[axis] != 1 && strides[axis] != expected) return false;
        expected *= shape[axis];
    }
    return true;
}

bool Array::has_shape(std::initializer_list<std::int64_t> expected) const {
    if (axes != static_cast<int>(expected.size())) return false;
    const std::int64_t* own = shape;
    for (const std::int64_t size : expected)
        if (*own++ != size) return false;
    return true;
}

void connect(const nb::module_& module, bool exchange) {
    const nb::object tensor = module.attr("Tensor");
    torch.tensor = reinterpret_cast<PyTypeObject*>(kept(tensor));
    torch.parameter = reinterpret_cast<PyTypeObject*>(kept(module.attr("nn").attr("Parameter")));
    torch.strided = kept(module.attr("strided"));
    torch.empty = kept(module.attr("empty"));
    torch.empty_like = kept(module.attr("empty_like"));
    torch.float32 = kept(module.attr("float32"));
    torch.bfloat16 = kept(module.attr("bfloat16"));
    torch.cpu = kept(module.attr("device")("cpu"));
    torch.empty_names = kept(nb::make_tuple("dtype", "device"));
    torch.is_neg = PyUnicode_InternFromString("is_neg");
    torch.dtype = PyUnicode_InternFromString("dtype");
    torch.is_cpu = PyUnicode_InternFromString("is_cpu");
    torch.shape = PyUnicode_InternFromString("shape");
    torch.stride = PyUnicode_InternFromString("stride");
    torch.data_ptr = PyUnicode_InternFromString("data_ptr");
    torch.exchange = nullptr;
    if (exchange && nb::hasattr(tensor, "__dlpack_c_exchange_api__")) {
        const nb::object capsule = tensor.attr("__dlpack_c_exchange_api__");
        const auto* table =
            static_cast<const Exchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
        if (!table) PyErr_Clear();
        while (table && table->major > 1) table = table->older;
        if (table && table->major == 1 && table->view) torch.exchange = table;
    }
}

bool read(nb::object& tensor, Array& into) {
    if (Py_TYPE(tensor.ptr()) != torch.parameter && Py_TYPE(tensor.ptr()) != torch.tensor) return false;
    const nb::object negated = nb::steal(PyObject_CallMethodNoArgs(tensor.ptr(), torch.is_neg));
    if (!negated.is_valid()) throw nb::python_error();
    if (negated.is(Py_True)) tensor = tensor.attr("resolve_neg")();
    if (torch.exchange) return read_by_exchange(tensor.ptr(), into);
    return read_by_methods(tensor, into);
}

void convert(nb::object& tensor, const char* name, Array& into) {
    tensor = tensor.attr(name)();
    if (!read(tensor, into)) throw std::invalid_argument("a tensor changed its type while it was converted");
}

nb::object empty(std::initializer_list<std::int64_t> shape, Number number) {
    PyObject* arguments[Array::most_axes + 2];
    std::size_t count = 0;
    for (const std::int64_t size : shape) arguments[count++] = PyLong_FromLongLong(size);
    arguments[count] = number == Number::BFLOAT16 ? torch.bfloat16 : torch.float32;
    arguments[count + 1] = torch.cpu;
    PyObject* made = PyObject_Vectorcall(torch.empty, arguments, count, torch.empty_names);
    for (std::size_t axis = 0; axis < count; axis++) Py_DECREF(arguments[axis]);
    if (!made) throw nb::python_error();
    return nb::steal(made);
}

nb::object empty_like(nb::handle tensor) {
    PyObject* made = PyObject_CallOneArg(torch.empty_like, tensor.ptr());
    if (!made) throw nb::python_error();
    return nb::steal(made);
}

}  // namespace recurra
