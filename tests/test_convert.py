"""Conversions of weights: against loops over each package's published equations, and the packages themselves.

Keras, onnx and onnxruntime are no dependencies of the project: their tests run where they are installed.
"""

from __future__ import annotations

import ast
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import recurra.nn
from recurra.nn.convert import OnnxNode, from_keras, from_onnx, from_torch, to_keras, to_onnx, to_torch

Array = NDArray[Any]

N, T, F, H = 7, 9, 3, 5
LENGTHS = [4, 9, 1, 7, 7, 2, 9]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
KINDS = ("LSTM", "GRU", "RNN tanh", "RNN relu")
CELLS = ("LSTMCell", "GRUCell", "RNNCell tanh", "RNNCell relu")
OPTIONS = [
    {"num_layers": layers, "bidirectional": both, "bias": bias}
    for layers, both, bias in itertools.product((1, 2, 3), (False, True), (True, False))
]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)
SIZES = {1: (33, 7), 2: (1, 1), 3: (F, H)}  # features and hidden units by the number of layers
# Keras' Variable.numpy() relies on an __array__ without `copy`, of which numpy 2 warns
keras_with_numpy_2 = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def make(kind: str, home: Any = recurra.nn, features: int = F, size: int = H, **options: Any) -> Any:
    name, _, nonlinearity = kind.partition(" ")
    options = {"dtype": torch.float64} | options | ({"nonlinearity": nonlinearity} if nonlinearity else {})
    return getattr(home, name)(features, size, **options)


def flat(result: Any) -> list[Array]:
    """The output, h_n, and an LSTM's c_n."""
    output, states = result
    return [part.detach().numpy() for part in (output, *(states if isinstance(states, tuple) else (states,)))]


def assert_near(got: Any, expected: Any, tolerance: float = 1e-11) -> None:
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def keras_lstm(
    x: Array, states: list[Array], kernel: Array, recurrent: Array, bias: Any = 0.0
) -> list[Array]:
    h, c = states
    i, f, candidate, o = np.split(x @ kernel + h @ recurrent + bias, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
    return [sigmoid(o) * np.tanh(c), c]


def keras_gru(
    x: Array, states: list[Array], kernel: Array, recurrent: Array, bias: Any = (0.0, 0.0)
) -> list[Array]:
    x_z, x_r, x_h = np.split(x @ kernel + bias[0], 3)
    h_z, h_r, h_h = np.split(states[0] @ recurrent + bias[1], 3)
    z = sigmoid(x_z + h_z)
    return [z * states[0] + (1 - z) * np.tanh(x_h + sigmoid(x_r + h_r) * h_h)]


def keras_rnn(act: Callable[[Array], Array]) -> Callable[..., list[Array]]:
    return lambda x, states, kernel, recurrent, bias=0.0: [act(x @ kernel + bias + states[0] @ recurrent)]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


KERAS = {"LSTM": keras_lstm, "GRU": keras_gru, "RNN tanh": keras_rnn(np.tanh), "RNN relu": keras_rnn(relu)}


def onnx_lstm(x: Array, states: list[Array], W: Array, R: Array, B: Array) -> list[Array]:
    h, c = states
    (W_i, W_o, W_f, W_c), (R_i, R_o, R_f, R_c) = np.split(W, 4), np.split(R, 4)
    Wb_i, Wb_o, Wb_f, Wb_c, Rb_i, Rb_o, Rb_f, Rb_c = np.split(B, 8)
    i = sigmoid(x @ W_i.T + h @ R_i.T + Wb_i + Rb_i)
    f = sigmoid(x @ W_f.T + h @ R_f.T + Wb_f + Rb_f)
    c = f * c + i * np.tanh(x @ W_c.T + h @ R_c.T + Wb_c + Rb_c)
    return [sigmoid(x @ W_o.T + h @ R_o.T + Wb_o + Rb_o) * np.tanh(c), c]


def onnx_gru(x: Array, states: list[Array], W: Array, R: Array, B: Array) -> list[Array]:
    (h,) = states
    (W_z, W_r, W_h), (R_z, R_r, R_h) = np.split(W, 3), np.split(R, 3)
    Wb_z, Wb_r, Wb_h, Rb_z, Rb_r, Rb_h = np.split(B, 6)
    z = sigmoid(x @ W_z.T + h @ R_z.T + Wb_z + Rb_z)
    r = sigmoid(x @ W_r.T + h @ R_r.T + Wb_r + Rb_r)
    return [(1 - z) * np.tanh(x @ W_h.T + r * (h @ R_h.T + Rb_h) + Wb_h) + z * h]


def onnx_rnn(act: Callable[[Array], Array]) -> Callable[..., list[Array]]:
    return lambda x, states, W, R, B: [act(x @ W.T + states[0] @ R.T + sum(np.split(B, 2)))]


ONNX = {"LSTM": onnx_lstm, "GRU": onnx_gru, "RNN tanh": onnx_rnn(np.tanh), "RNN relu": onnx_rnn(relu)}


def looped(step: Any, x: Array, stack: list[list[list[Array]]], size: int, cells: int) -> list[Array]:
    """Output (N, T, D·H) and final states (L·D, N, H) of a stack, by layer and direction its arrays."""
    finals: list[list[Array]] = [[] for _ in range(cells)]
    for directions in stack:
        output = np.zeros((N, T, len(directions) * size))
        for way, arrays in enumerate(directions):
            ends = np.zeros((cells, N, size))
            for row, length in enumerate(LENGTHS):
                states = [np.zeros(size)] * cells
                for time in reversed(range(length)) if way else range(length):
                    states = step(x[row, time], states, *arrays)
                    output[row, time, way * size : (way + 1) * size] = states[0]
                ends[:, row] = states
            for final, end in zip(finals, ends, strict=True):
                final.append(end)
        x = output
    return [x, *(np.stack(final) for final in finals)]


def keras_arrays(kind: str, options: dict[str, Any], features: int = F, size: int = H) -> list[list[Array]]:
    """What get_weights() of a stack gives, at random."""
    gates, directions = GATES[kind.split()[0]], 1 + options["bidirectional"]
    bias = [(2, gates * size) if kind == "GRU" else (gates * size,)] if options["bias"] else []
    numbers = np.random.default_rng(torch.initial_seed())
    stack = []
    for layer in range(options["num_layers"]):
        wide = size * directions if layer else features
        shapes = [(wide, gates * size), (size, gates * size), *bias] * directions
        stack.append([numbers.normal(0, 0.5, shape) / shape[0] ** 0.5 for shape in shapes])
    return stack


def keras_name(kind: str) -> str:
    return kind.split()[0].replace("RNN", "SimpleRNN")


def from_arrays(kind: str, stack: Any) -> Any:
    return from_keras(stack, keras_name(kind), nonlinearity=kind.partition(" ")[2] or "tanh")


def halves(arrays: list[Array], directions: int) -> list[list[Array]]:
    each = len(arrays) // directions
    return [arrays[at : at + each] for at in range(0, len(arrays), each)]


@every_option
@every_kind
def test_keras_arrays_give_what_keras_equations_give(kind: str, options: dict[str, Any]) -> None:
    features, size = SIZES[options["num_layers"]]
    stack = keras_arrays(kind, options, features, size)
    layer = from_arrays(kind, stack)
    assert type(layer) is getattr(recurra.nn, kind.split()[0])
    assert {name: getattr(layer, name) for name in options} == options
    x = torch.randn(N, T, features, dtype=torch.float64)
    directions = 1 + options["bidirectional"]
    split = [halves(arrays, directions) for arrays in stack]
    expected = looped(KERAS[kind], x.numpy(), split, size, 1 + (kind == "LSTM"))
    assert_near(flat(layer(x, lengths=LENGTHS)), expected)
    back = to_keras(layer)
    for got, expected_arrays in zip(back, stack, strict=True):
        assert_near(got, expected_arrays, 0.0)


@every_option
@every_kind
def test_two_biases_become_those_of_keras(kind: str, options: dict[str, Any]) -> None:
    layer = make(kind, batch_first=True, **options)
    x = torch.randn(N, T, F, dtype=torch.float64)
    split = [halves(arrays, 1 + options["bidirectional"]) for arrays in to_keras(layer)]
    expected = looped(KERAS[kind], x.numpy(), split, H, 1 + (kind == "LSTM"))
    assert_near(flat(layer(x, lengths=LENGTHS)), expected)
    assert_near(flat(from_arrays(kind, to_keras(layer))(x)), flat(layer(x)))


def restored(nodes: list[OnnxNode]) -> Any:
    columns = ([getattr(node, name) for node in nodes] for name in ("W", "R", "B"))
    return from_onnx(nodes[0].op_type, *columns, **nodes[0].attributes)


@every_option
@every_kind
def test_onnx_weights_give_what_onnx_equations_give(kind: str, options: dict[str, Any]) -> None:
    features, size = SIZES[options["num_layers"]]
    layer = make(kind, features=features, size=size, **options)
    nodes = [to_onnx(layer, index) for index in range(layer.num_layers)]
    gates, directions = GATES[layer.mode.partition("_")[0]], 1 + layer.bidirectional
    split = []
    for op_type, W, R, B, attributes in nodes:
        assert op_type == kind.split()[0]
        assert attributes["hidden_size"] == size
        assert attributes["direction"] == ("bidirectional" if layer.bidirectional else "forward")
        assert attributes.get("linear_before_reset") == (1 if kind == "GRU" else None)
        assert attributes.get("activations") == (["Relu"] * directions if kind == "RNN relu" else None)
        assert (B is not None) == layer.bias
        biases = np.zeros((directions, 2 * gates * size)) if B is None else B
        split.append([list(arrays) for arrays in zip(W, R, biases, strict=True)])
    x = torch.randn(T, N, features, dtype=torch.float64)
    expected = looped(ONNX[kind], x.transpose(0, 1).numpy(), split, size, 1 + (kind == "LSTM"))
    expected[0] = expected[0].transpose(1, 0, 2)
    assert_near(flat(layer(x, lengths=LENGTHS)), expected)
    again = restored(nodes)
    assert repr(again) == repr(make(kind, features=features, size=size, **options))
    for name, weight in layer.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_one_onnx_node_with_attributes_as_onnx_spells_them() -> None:
    layer = make("RNN relu", bidirectional=True)
    _, W, R, B, _ = to_onnx(layer)
    for array in (W, R, B):
        array.flags.writeable = False  # as numpy_helper.to_array gives them
    attributes = {"activations": [b"Relu", b"Relu"], "direction": b"bidirectional", "layout": 1}
    got = from_onnx("RNN", W, R, B, np.zeros((2, 3 * H)), **attributes)
    assert got.batch_first
    x = torch.randn(T, N, F, dtype=torch.float64)
    assert np.array_equal(flat(got(x.transpose(0, 1)))[1], flat(layer(x))[1])
    swapped = from_onnx(
        "RNN", *(array.astype(array.dtype.newbyteorder()) for array in (W, R, B)), **attributes
    )
    assert torch.equal(swapped.weight_hh_l0, got.weight_hh_l0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@every_kind
def test_dtypes_stay_and_nothing_is_shared(kind: str, dtype: str) -> None:
    layer = make(kind, dtype=getattr(torch, dtype))
    arrays, node = to_keras(layer), to_onnx(layer)
    assert {array.dtype.name for array in arrays[0]} == {node.W.dtype.name} == {dtype}
    before = [array.copy() for array in (*arrays[0], node.W, node.R, node.B) if array is not None]
    for again in (from_arrays(kind, arrays[0]), restored([node])):  # not of a stack, of one layer
        assert {weight.dtype for weight in again.parameters()} == {getattr(torch, dtype)}
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
    after = [array for array in (*arrays[0], node.W, node.R, node.B) if array is not None]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_option
@pytest.mark.parametrize("kind", [*KINDS, "LSTM projected"])
def test_torch_and_back(kind: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    extra = {"proj_size": 2} if kind == "LSTM projected" else {}
    options = options | extra | {"batch_first": True, "dtype": dtype}
    ours = make(kind.removesuffix(" projected"), **options).eval()
    ours.dropout = 0.25
    ours.weight_hh_l0.requires_grad_(False)
    state = torch.get_rng_state()
    plain = to_torch(ours)
    again = from_torch(plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(plain) is getattr(torch.nn, kind.split()[0])
    assert type(again) is type(ours)
    assert repr(again) == repr(ours) == repr(plain)
    assert not plain.training
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.dtype == dtype
        assert one.requires_grad == other.requires_grad
        assert one.data_ptr() != other.data_ptr()
    x = torch.randn(N, T, F, dtype=dtype)
    packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    output, states = plain(packed)
    expected = flat((pad_packed_sequence(output, batch_first=True)[0], states))
    assert_near(flat(again(x, lengths=LENGTHS)), expected, 1e-5 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_cells_to_torch_and_back(kind: str, bias: bool) -> None:
    ours = make(kind, bias=bias)
    plain = to_torch(ours)
    again = from_torch(plain)
    assert type(plain) is getattr(torch.nn, kind.split()[0])
    assert type(again) is type(ours)
    assert repr(again) == repr(ours)
    x = torch.randn(N, F, dtype=torch.float64)
    results = [cell(x) for cell in (ours, plain, again)]
    first = [part[0] if isinstance(part, tuple) else part for part in results]
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], first[2])


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_shared_weights_are_the_same_objects(kind: str) -> None:
    plain = make(kind, torch.nn)
    ours = from_torch(plain, share=True)
    back = to_torch(ours, share=True)
    for a, b, c in zip(plain.parameters(), ours.parameters(), back.parameters(), strict=True):
        assert a is b is c
    x = torch.randn(N, F, dtype=torch.float64)
    before = ours(x)[0].clone()
    with torch.no_grad():
        for weight in plain.parameters():
            weight.mul_(0.5)
    assert not torch.equal(ours(x)[0], before)
    assert_near([ours(x)[0].detach()], [plain(x)[0].detach()])


def test_tied_weights_stay_tied() -> None:
    plain = torch.nn.GRU(H, H, 2)
    plain.weight_ih_l1 = plain.weight_ih_l0
    ours = from_torch(plain)
    assert ours.weight_ih_l1 is ours.weight_ih_l0
    assert ours.weight_ih_l0 is not plain.weight_ih_l0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_kind
def test_on_a_gpu(kind: str) -> None:
    ours = make(kind, num_layers=2, bidirectional=True).cuda()
    x = torch.randn(T, N, F, dtype=torch.float64)
    plain = to_torch(ours)
    assert_near([plain(x.cuda())[0].detach().cpu()], [ours.cpu()(x)[0].detach()])
    assert {weight.device.type for weight in from_torch(plain).parameters()} == {"cuda"}
    assert_near(to_onnx(plain, 1)[1:3], to_onnx(ours, 1)[1:3])


def test_neither_keras_nor_onnx_is_imported() -> None:
    source = Path(recurra.nn.convert.__file__).read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    heads = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert {head.split(".")[0] for head in heads} - sys.stdlib_module_names == {"numpy", "torch", "recurra"}


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = {"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path_factory.mktemp("keras"))}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, os.environ.get(name, value))
        yield pytest.importorskip("keras")


def keras_stack(keras: Any, kind: str, options: dict[str, Any], features: int, size: int) -> list[Any]:
    more = {"activation": "relu"} if kind == "RNN relu" else {}
    more |= {"use_bias": options["bias"], "return_sequences": True, "return_state": True}
    stack = []
    for layer in range(options["num_layers"]):
        made = getattr(keras.layers, keras_name(kind))(size, **more)
        if options["bidirectional"]:
            made = keras.layers.Bidirectional(made)
        made.build((None, None, size * (1 + options["bidirectional"]) if layer else features))
        stack.append(made)
    return stack


def keras_results(keras: Any, stack: list[Any], x: Array) -> list[Array]:
    """Output (N, T, D·H) with zeros beyond LENGTHS, and final states (L·D, N, H), by Keras."""
    mask = np.arange(T) < np.array(LENGTHS)[:, None]
    output, finals = x, []
    for layer in stack:
        output, *states = layer(output, mask=keras.ops.convert_to_tensor(mask))
        finals += [keras.ops.convert_to_numpy(state) for state in states]
    cells = 2 if "LSTM" in repr(type(getattr(stack[0], "forward_layer", stack[0]))) else 1
    ended = [np.stack(finals[which::cells]) for which in range(cells)]
    return [keras.ops.convert_to_numpy(output) * mask[:, :, None], *ended]


@keras_with_numpy_2
@every_option
@every_kind
def test_equal_to_keras(kind: str, options: dict[str, Any], keras: Any) -> None:
    features, size = SIZES[options["num_layers"]]
    stack = keras_stack(keras, kind, options, features, size)
    arrays = keras_arrays(kind, options, features, size)
    for keras_layer, weights in zip(stack, arrays, strict=True):
        keras_layer.set_weights([array.astype("float32") for array in weights])
    x = np.random.default_rng(torch.initial_seed()).normal(size=(N, T, features)).astype("float32")
    layer = from_keras(stack)
    got = flat(layer(torch.from_numpy(x), lengths=LENGTHS))
    assert_near(got, keras_results(keras, stack, x), 1e-5)

    other = make(kind, features=features, size=size, dtype=torch.float32, batch_first=True, **options)
    for keras_layer, weights in zip(stack, to_keras(other), strict=True):
        keras_layer.set_weights(weights)
    got = flat(other(torch.from_numpy(x), lengths=LENGTHS))
    assert_near(got, keras_results(keras, stack, x), 1e-5)


@keras_with_numpy_2
def test_other_keras_layers(keras: Any) -> None:
    layers = keras.layers
    x = keras.ops.convert_to_tensor(torch.randn(N, T, F).numpy())
    wrapped, last = layers.RNN(layers.LSTMCell(H), return_sequences=True), layers.GRU(H)
    before, after = layers.GRU(H, reset_after=False), layers.Bidirectional(last, merge_mode="sum")
    with pytest.raises(ValueError, match=r"^layers: number of arrays: expected 2 or 3, got 0; build"):
        from_keras(last)
    for layer in (wrapped, last, before, after):
        layer.build((None, None, F))
    plain = torch.from_numpy(keras.ops.convert_to_numpy(x))
    assert_near([flat(from_keras(wrapped)(plain))[0]], [keras.ops.convert_to_numpy(wrapped(x))], 1e-5)
    assert_near([flat(from_keras(last)(plain))[1][0]], [keras.ops.convert_to_numpy(last(x))], 1e-5)
    for layer, message in (
        (before, "layers: reset_after: expected True, got False"),
        (after, "layers: merge_mode: expected 'concat', got 'sum'"),
        (layers.GRU(H, go_backwards=True), "layers: go_backwards: expected False, got True"),
        (layers.LSTM(H, activation=None), "layers: activation: expected 'tanh', got 'linear'"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            from_keras(layer)
    with pytest.raises(TypeError, match=r"expected Keras' LSTM.*got Sequential"):
        from_keras(keras.Sequential([last]))


def one_node_model(onnx: Any, node: OnnxNode, cells: int) -> Any:
    helper, number = onnx.helper, onnx.TensorProto
    biases = {} if node.B is None else {"B": node.B}
    constants = {"W": node.W, "R": node.R} | biases
    inputs = ["X", "W", "R", "B" if biases else "", "lengths"]
    outputs = ["Y", "Y_h", "Y_c"][: 1 + cells]
    whole = helper.make_graph(
        [helper.make_node(node.op_type, inputs, outputs, **node.attributes)],
        "layer",
        [
            helper.make_tensor_value_info("X", number.FLOAT, [T, N, node.W.shape[2]]),
            helper.make_tensor_value_info("lengths", number.INT32, [N]),
        ],
        [helper.make_tensor_value_info(name, number.FLOAT, [None] * (3 + (name == "Y"))) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


@every_option
@every_kind
def test_equal_to_onnxruntime(kind: str, options: dict[str, Any]) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    layer = make(kind, dtype=torch.float32, **options)
    x, cells = torch.randn(T, N, F), 1 + (kind == "LSTM")
    below: Array = x.numpy()
    finals: list[Array] = []
    for index in range(layer.num_layers):
        model = one_node_model(onnx, to_onnx(layer, index), cells)
        onnx.checker.check_model(model)
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        y, *ends = session.run(None, {"X": below, "lengths": np.array(LENGTHS, dtype=np.int32)})
        below = y.transpose(0, 2, 1, 3).reshape(T, N, -1)  # (T, D, N, H) to (T, N, D·H)
        finals += ends
        (node,), given = model.graph.node, {each.name: each for each in model.graph.initializer}
        arrays = [onnx.numpy_helper.to_array(given[name]) for name in node.input[1:4] if name]
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        read = from_onnx(node.op_type, *arrays, **attributes)
        assert torch.equal(read.weight_hh_l0, getattr(layer, f"weight_hh_l{index}"))
    expected = [below, *(np.concatenate(finals[which::cells]) for which in range(cells))]
    assert_near(flat(layer(x, lengths=LENGTHS)), expected, 1e-5)
