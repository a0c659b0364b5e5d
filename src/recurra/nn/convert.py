"""Weights of recurrent layers to and from torch, Keras 3 and ONNX; neither keras nor onnx is imported.

With x_t (F) the input, h (H) the hidden and c (H) the cell state of the step before, σ the sigmoid and ⊙ the
product of each element with its like, the layers of recurra.nn and torch compute, from weights W and U with
one block of rows for each gate, one below the other,

    LSTM    i, f, o = σ(W x_t + b_ih + U h + b_hh), g = tanh(the same), c_t = f⊙c + i⊙g, h_t = o⊙tanh(c_t)
    GRU     r, z = σ(W x_t + b_ih + U h + b_hh), n = tanh(W x_t + b_ih + r⊙(U h + b_hh)),
            h_t = (1 − z)⊙n + z⊙h
    RNN     h_t = tanh(W x_t + b_ih + U h + b_hh), or relu

| package | LSTM    | GRU   | W                  | U                         | biases                        |
|---------|---------|-------|--------------------|---------------------------|-------------------------------|
| torch   | i f g o | r z n | weight_ih (G·H, F) | weight_hh (G·H, H)        | bias_ih, bias_hh (G·H,)       |
| Keras 3 | i f c o | z r h | kernel (F, G·H)    | recurrent_kernel (H, G·H) | bias (G·H,); a GRU's (2, G·H) |
| ONNX    | i o f c | z r h | W (D, G·H, F)      | R (D, G·H, H)             | B (D, 2·G·H)                  |

Keras' and ONNX' c is torch's g, and their GRU's h is n. All mean by z the share of the old state that stays.
A GRU with Keras' `reset_after=False` or ONNX' `linear_before_reset=0` has the reset gate before the product,
n = tanh(W x_t + b + U (r⊙h)), as Cho et al. (2014) have it. That is another network: no weights give it the
results of the one above, so it is refused.

Sources: `keras.layers.LSTM`, `GRU`, `SimpleRNN` of Keras 3; ONNX' operators LSTM, GRU, RNN of opset 22.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recurra.nn.cells import GRUCell, LSTMCell, RNNCell
from recurra.nn.initial import refuse_learned
from recurra.nn.inputs import weights_of
from recurra.nn.noise import refuse_noise
from recurra.nn.recurrent import GRU, LSTM, RNN

Array: TypeAlias = NDArray[Any]
Recurrent = TypeVar("Recurrent", nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)

_OURS: tuple[Any, ...] = (LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell)
_TORCHS: tuple[Any, ...] = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
_DTYPES = ["float16", "float32", "float64"]  # what both numpy and torch have
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_IN_KERAS = {"LSTM": [0, 1, 2, 3], "GRU": [1, 0, 2], "RNN": [0]}  # where torch's gates stand in Keras
_IN_ONNX = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}  # and where in ONNX
_KERAS_KINDS = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "RNN"}
_KERAS_CELLS = {"LSTMCell": "LSTM", "GRUCell": "GRU", "SimpleRNNCell": "RNN"}
_RESET_BEFORE = (
    "the reset gate before the product is another network, which no weights make equal; train a new"
)


class OnnxNode(NamedTuple):
    """One layer as a node of ONNX: what `to_onnx` gives.

    op_type: "LSTM", "GRU" or "RNN". W: (D, G·H, F). R: (D, G·H, H). B: (D, 2·G·H), None without biases.
    attributes: by name, as `onnx.helper.make_node` and `from_onnx` take them.
    """

    op_type: str
    W: Array
    R: Array
    B: Array | None
    attributes: dict[str, Any]


class _Place(NamedTuple):
    """The weights of one layer in one direction, in torch's order of gates."""

    w_ih: Array  # (G·H, F)
    w_hh: Array  # (G·H, H)
    b_ih: Array | None = None  # (G·H,)
    b_hh: Array | None = None  # (G·H,)


def to_torch(layer: Recurrent, *, share: bool = False) -> Recurrent:
    """torch's own layer or cell with the options, weights, dtype, device and training mode of `layer`.

    layer: recurra.nn's LSTM, GRU, RNN or a cell of these, or torch's. Its hooks stay behind. share: False
    copies the weights; True gives the new layer the very same `torch.nn.Parameter` objects: an optimizer that
    has them goes on training them, and a change of one layer's weights in place is one of the other's.

    Raises TypeError for any other class, a subclass too, and ValueError for a layer with noise or learned
    states, or whose parameters `weight_norm` or the like replaced.

    For example::

        import recurra.nn, torch
        from recurra.nn.convert import to_torch

        plain = to_torch(recurra.nn.LSTM(3, 8, num_layers=2))
        assert type(plain) is torch.nn.LSTM
    """
    new: Recurrent = _retyped(layer, _TORCHS, share)
    return new


@overload
def from_torch(layer: nn.LSTM, *, share: bool = ...) -> LSTM: ...
@overload
def from_torch(layer: nn.GRU, *, share: bool = ...) -> GRU: ...
@overload
def from_torch(layer: nn.RNN, *, share: bool = ...) -> RNN: ...
@overload
def from_torch(layer: nn.LSTMCell, *, share: bool = ...) -> LSTMCell: ...
@overload
def from_torch(layer: nn.GRUCell, *, share: bool = ...) -> GRUCell: ...
@overload
def from_torch(layer: nn.RNNCell, *, share: bool = ...) -> RNNCell: ...
def from_torch(layer: Any, *, share: bool = False) -> Any:
    """recurra.nn's layer or cell with the options, weights, dtype, device and training mode of `layer`.

    The way back from `to_torch`, whose text holds here too: copies unless `share`, the same errors.

    For example::

        import torch
        from recurra.nn.convert import from_torch

        layer = from_torch(torch.nn.GRU(3, 8, bidirectional=True), share=True)
        output, h_n = layer(torch.zeros(9, 2, 3), lengths=[9, 4])
    """
    return _retyped(layer, _OURS, share)


def from_keras(
    layers: Any, kind: str | None = None, *, nonlinearity: str = "tanh", batch_first: bool = True
) -> LSTM | GRU | RNN:
    """A layer of recurra.nn with the weights of a Keras layer, or of several as one stack.

    layers: a built Keras `LSTM`, `GRU`, `SimpleRNN`, `RNN` of one of their cells, or `Bidirectional` of one
    of these; or a list of such, the lowest first, alike but for their features. Or a layer's `get_weights()`,
    or a list of these. Then `kind` says what they are, "LSTM", "GRU" or "SimpleRNN", and `nonlinearity` a
    SimpleRNN's activation, "tanh" or "relu". batch_first: whether the new layer takes (N, T, F), as Keras'
    do, or (T, N, F).

    The result holds copies in the arrays' dtype on the CPU; the one bias of an LSTM or SimpleRNN becomes
    b_ih, b_hh is zero. Its output is Keras' of `return_sequences=True`; that of False is h_n. A mask that is
    True for each row's first steps becomes `lengths`: beyond them Keras repeats the last output (zeros with
    `zero_output_for_mask`), recurra gives zeros. What acts in training alone, dropout and recurrent_dropout,
    stays behind, and so does `stateful`: hand over the state as hx.

    Raises TypeError for what is none of these. Raises ValueError for other activations than tanh and
    recurrent sigmoid (SimpleRNN: tanh or relu), a GRU with `reset_after=False` (a GRU's arrays without bias
    do not show it and are taken for True), `go_backwards` outside of Bidirectional, a merge_mode other than
    "concat", a layer that has no weights yet, and arrays that do not fit.

    For example::

        import keras
        from recurra.nn.convert import from_keras

        below, above = keras.layers.GRU(8, return_sequences=True), keras.layers.GRU(8)
        last = above(below(keras.ops.zeros((7, 9, 3))))
        layer = from_keras([below, above])      # GRU(3, 8, num_layers=2, batch_first=True)
    """
    listed = isinstance(layers, (list, tuple)) and not all(isinstance(part, np.ndarray) for part in layers)
    stack = list(layers) if listed else [layers]
    names = [f"layers[{level}]" for level in range(len(stack))] if listed else ["layers"]
    if kind is None:
        read = [_read_keras(layer, name) for layer, name in zip(stack, names, strict=True)]
        own, nonlinearity, _ = read[0]
        for (other, activation, _), name in zip(read, names, strict=True):
            _must_be(f"{name}: kind", (other, activation), [(own, nonlinearity)], "convert each by itself")
        each = [parts for _, _, parts in read]
    else:
        _must_be("kind", kind, list(_KERAS_KINDS), "name the Keras layer that the arrays come from")
        _must_be("nonlinearity", nonlinearity, ["tanh", "relu"], "recurra.nn.RNN has no other activation")
        own = _KERAS_KINDS[kind]
        each = [_halves(arrays, name) for arrays, name in zip(stack, names, strict=True)]
    ways = ("", " backward")
    places = [
        [_from_keras_arrays(own, arrays, name + way) for arrays, way in zip(parts, ways, strict=False)]
        for parts, name in zip(each, names, strict=True)
    ]
    return _assembled(own, places, names, batch_first, nonlinearity)


def to_keras(layer: nn.LSTM | nn.GRU | nn.RNN) -> list[list[Array]]:
    """The weights of recurra.nn's or torch's layer, for the `set_weights` of Keras' layers.

    One list for each of the L layers, the lowest first: kernel (F, G·H), recurrent_kernel (H, G·H) and, with
    biases, bias: the sum of b_ih and b_hh (G·H,), or in a GRU both (2, G·H). With two directions the forward
    one's arrays are followed by the backward one's, as `Bidirectional` has them. All are copies in the
    layer's dtype. The Keras layers must be built, with H units, `use_bias` as bias, a GRU's
    `reset_after=True` and a SimpleRNN's activation. Dropout between layers stays behind.

    Raises TypeError for any other class, a cell or subclass too. Raises ValueError for a projection, a dtype
    that numpy has not, noise, learned states, and parameters that `weight_norm` or the like replaced.

    For example::

        import keras, recurra.nn
        from recurra.nn.convert import to_keras

        keras_layer = keras.layers.Bidirectional(keras.layers.LSTM(8))
        keras_layer.build((None, None, 3))
        keras_layer.set_weights(to_keras(recurra.nn.LSTM(3, 8, bidirectional=True))[0])
    """
    kind = _exported(layer, "Keras")
    found: list[list[Array]] = []
    for places in _places_of(layer):
        found.append([])
        for place in places:
            w_ih, w_hh, b_ih, b_hh = _regated(place, np.argsort(_IN_KERAS[kind]))
            found[-1] += [np.ascontiguousarray(w_ih.T), np.ascontiguousarray(w_hh.T)]
            if b_ih is not None and b_hh is not None:
                found[-1].append(np.stack([b_ih, b_hh]) if kind == "GRU" else b_ih + b_hh)
    return found


def from_onnx(
    op_type: str,
    W: Array | Sequence[Array],
    R: Array | Sequence[Array],
    B: Array | Sequence[Array | None] | None = None,
    P: Array | Sequence[Array | None] | None = None,
    *,
    direction: str | bytes = "forward",
    hidden_size: int | None = None,
    linear_before_reset: int = 0,
    activations: Sequence[str | bytes] | None = None,
    layout: int = 0,
    clip: float | None = None,
    input_forget: int = 0,
) -> LSTM | GRU | RNN:
    """A layer of recurra.nn with the weights of a node of ONNX, or of several as one stack.

    op_type: "LSTM", "GRU" or "RNN". W: (D, G·H, F), R: (D, G·H, H), B: (D, 2·G·H), W's biases before R's,
    or None. P: an LSTM's peepholes (D, 3·H), None or zero, for recurra.nn.LSTM has none. Of a stack each is a
    list with one array for each layer, the lowest first. The rest are the node's attributes, with ONNX' names
    and defaults: a GRU needs `linear_before_reset=1`. layout: 0 gives a layer that takes (T, N, F), 1 one
    with batch_first.

    The result holds copies in the arrays' dtype on the CPU. ONNX' Y (T, D, N, H) is its output (T, N, D·H),
    sequence_lens are its lengths, initial_h and initial_c its hx. Beyond a row's length both give zeros.

    Raises ValueError for `direction="reverse"`, `linear_before_reset=0` in a GRU, peepholes other than zero,
    activations other than sigmoid and tanh (RNN: tanh, or relu), `clip`, `input_forget`, and arrays that do
    not fit; TypeError for what is no array.

    For example::

        import recurra.nn
        from recurra.nn.convert import from_onnx, to_onnx

        node = to_onnx(recurra.nn.GRU(3, 8))
        layer = from_onnx(node.op_type, node.W, node.R, node.B, **node.attributes)      # GRU(3, 8)
        # A model's node has {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}.
    """
    _must_be("op_type", op_type, list(_GATES), "give the node's op_type")
    way = direction.decode() if isinstance(direction, bytes) else direction
    _must_be("direction", way, ["forward", "bidirectional"], "for 'reverse', flip each row by its length")
    if op_type == "GRU":
        _must_be("linear_before_reset", linear_before_reset, [1], f"{_RESET_BEFORE} recurra.nn.GRU")
    _must_be("clip", clip, [None], "recurra.nn clips no gates; leave it out if no gate's input reaches it")
    _must_be("input_forget", input_forget, [0], "recurra.nn.LSTM has an input gate of its own")
    _must_be("layout", layout, [0, 1], "give the node's layout")
    directions = 1 + (way == "bidirectional")
    nonlinearity = _onnx_nonlinearity(op_type, activations, directions)
    stacked = isinstance(W, (list, tuple))
    given = {"W": W, "R": R, "B": B, "P": P}
    depth = len(W) if stacked else 1
    columns: list[list[Any]] = [[f"[{level}]" if stacked else "" for level in range(depth)]]
    for name, each in given.items():
        columns.append([None] * depth if each is None else list(each) if stacked else [each])
        _must_be(f"{name}: layers", len(columns[-1]), [depth or 1], "give an array for each layer of W")
    places = [_from_onnx_arrays(op_type, directions, *row) for row in zip(*columns, strict=True)]
    _must_be("hidden_size", hidden_size, [None, places[0][0].w_hh.shape[1]], "give the same node's R")
    return _assembled(op_type, places, [f"W{at}" for at in columns[0]], layout == 1, nonlinearity)


def to_onnx(layer: nn.LSTM | nn.GRU | nn.RNN, index: int = 0) -> OnnxNode:
    """The weights of layer `index`, 0 the lowest, of recurra.nn's or torch's layer, as ONNX has them.

    All are copies in the layer's dtype. The attributes are hidden_size, direction, in a GRU
    linear_before_reset, in a relu RNN activations. The node takes X (T, N, F), whatever batch_first says, for
    onnxruntime has no other layout, and gives Y (T, D, N, H).

    Raises what `to_keras` raises, and ValueError for an index beyond the stack.

    For example::

        import onnx, recurra.nn
        from recurra.nn.convert import to_onnx

        op_type, W, R, B, attributes = to_onnx(recurra.nn.LSTM(3, 8))      # arrays for initializers
        node = onnx.helper.make_node(op_type, ["X", "W", "R", "B"], ["Y", "Y_h", "Y_c"], **attributes)
    """
    kind = _exported(layer, "ONNX")
    _must_be("index", index, list(range(layer.num_layers)), "count the stack's layers from 0, the lowest")
    places = [_regated(place, np.argsort(_IN_ONNX[kind])) for place in _places_of(layer)[index]]
    way = "bidirectional" if layer.bidirectional else "forward"
    attributes: dict[str, Any] = {"hidden_size": layer.hidden_size, "direction": way}
    if kind == "GRU":
        attributes["linear_before_reset"] = 1
    if layer.mode == "RNN_RELU":
        attributes["activations"] = ["Relu"] * len(places)
    W, R = np.stack([place.w_ih for place in places]), np.stack([place.w_hh for place in places])
    biases = [np.concatenate([b for b in place[2:] if b is not None]) for place in places if layer.bias]
    return OnnxNode(kind, W, R, np.stack(biases) if biases else None, attributes)


def _must_be(name: str, got: Any, expected: Sequence[Any], remedy: str) -> None:
    if got not in expected:
        known = " or ".join(repr(value) for value in expected)
        raise ValueError(f"{name}: expected {known}, got {got!r}; {remedy}")


def _names_of(layer: Any, classes: tuple[Any, ...]) -> list[str]:
    """The names of the layer's parameters, once it is known to be of one of the classes and to have them."""
    if type(layer) not in classes:
        known = ", ".join(dict.fromkeys(cls.__name__ for cls in classes))
        why = ", a subclass, which may compute something else" if isinstance(layer, classes) else ""
        raise TypeError(
            f"layer: expected {known} of recurra.nn or torch.nn, got {type(layer).__name__}{why}; "
            "remove its parametrizations, or load its state_dict into one of these"
        )
    refuse_noise(layer)
    refuse_learned(layer)
    own = [name for name, weight in layer._parameters.items() if weight is not None]
    cell = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][: 4 if layer.bias else 2]
    names: list[str] = layer._flat_weights_names if isinstance(layer, nn.RNNBase) else cell
    if set(own) != set(names):
        raise ValueError(
            f"layer: expected the parameters {', '.join(names)}, got {', '.join(own)}; "
            "undo weight_norm, pruning or whatever replaced them first"
        )
    return names


def _retyped(layer: Any, targets: tuple[Any, ...], share: bool) -> Any:
    names = _names_of(layer, (*_OURS, *_TORCHS))
    options: dict[str, Any] = {"bias": layer.bias, "device": "meta"}  # takes no memory and no random numbers
    more = ("num_layers", "batch_first", "bidirectional", "proj_size", "nonlinearity")
    options |= {name: getattr(layer, name) for name in more if getattr(layer, name, None)}
    kinds = {cls.__name__: cls for cls in targets}
    new = kinds[type(layer).__name__](layer.input_size, layer.hidden_size, **options)
    if isinstance(layer, nn.RNNBase):
        new.dropout = layer.dropout  # in a single layer the constructor would warn of it a second time
    copies: dict[int, nn.Parameter] = {}  # of tied weights only one
    for name in names:
        weight = getattr(layer, name)
        if not share and id(weight) not in copies:
            copies[id(weight)] = nn.Parameter(weight.detach().clone(), weight.requires_grad)
        setattr(new, name, weight if share else copies[id(weight)])
    if isinstance(layer, nn.RNNBase) and not share:
        new.flatten_parameters()
    return new.train(layer.training)


def _exported(layer: Any, package: str) -> str:
    """The kind of a layer, "LSTM", "GRU" or "RNN", that this package can have too."""
    _names_of(layer, (*_OURS[:3], *_TORCHS[:3]))
    _must_be("layer: proj_size", layer.proj_size, [0], f"{package} has no projection; train a layer without")
    for dtype in {str(weight.dtype) for weight in weights_of(layer)}:
        _must_be("layer: dtype", dtype, [f"torch.{name}" for name in _DTYPES], "convert with layer.float()")
    return str(layer.mode).partition("_")[0]


def _places_of(layer: nn.RNNBase) -> list[list[_Place]]:
    """Of each layer, of each direction."""
    arrays = [weight.detach().cpu().numpy() for weight in weights_of(layer)]
    each, directions = (4 if layer.bias else 2), (2 if layer.bidirectional else 1)
    flat = [_Place(*arrays[at : at + each]) for at in range(0, len(arrays), each)]
    return [flat[at : at + directions] for at in range(0, len(flat), directions)]


def _regated(place: _Place, order: Sequence[int] | NDArray[np.intp]) -> _Place:
    """A copy with its blocks of rows in another order: the k-th is the old order[k]-th."""
    rows = np.arange(len(place.w_hh)).reshape(len(order), -1)[list(order)].ravel()
    moved = [array[rows] for array in place if array is not None]
    return _Place(*moved)


def _assembled(
    kind: str, stack: list[list[_Place]], names: list[str], batch_first: bool, nonlinearity: str
) -> LSTM | GRU | RNN:
    """A layer of recurra.nn with these weights, once they are known to fit each other."""
    first, directions = stack[0][0], len(stack[0])
    size, features = first.w_hh.shape[1], first.w_ih.shape[1]
    for level, (places, name) in enumerate(zip(stack, names, strict=True)):
        _must_be(f"{name}: directions", len(places), [directions], "make all layers Bidirectional, or none")
        below = size * directions if level else features
        for place in places:
            for what, got, expected in (
                ("hidden units", place.w_hh.shape[1], size),
                ("features", place.w_ih.shape[1], below),
                ("bias", place.b_ih is not None, first.b_ih is not None),
                ("dtypes", {str(array.dtype) for array in place if array is not None}, {str(first[0].dtype)}),
            ):
                _must_be(f"{name}: {what}", got, [expected], "convert layers that differ each by itself")
    options: dict[str, Any] = {"nonlinearity": nonlinearity} if kind == "RNN" else {}
    options |= {"bias": first.b_ih is not None, "batch_first": batch_first, "bidirectional": directions == 2}
    options |= {"num_layers": len(stack), "device": "meta"}
    kinds: dict[str, Any] = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}
    layer: LSTM | GRU | RNN = kinds[kind](features, size, **options)
    flat = [array for places in stack for place in places for array in place if array is not None]
    for name, array in zip(layer._flat_weights_names, flat, strict=True):
        setattr(layer, name, nn.Parameter(torch.tensor(array, device="cpu")))
    return layer


def _fitting(name: str, given: Any, shape: tuple[int | None, ...], axes: str) -> Array:
    """The array, once it is known to hold floating-point numbers in this shape; None is any size."""
    if not isinstance(given, np.ndarray):
        raise TypeError(f"{name}: expected a numpy array, got {type(given).__name__}; convert it first")
    array = given.astype(given.dtype.newbyteorder("="))
    _must_be(f"{name}: dtype", str(array.dtype), _DTYPES, "convert with .astype")
    sizes = [size if wanted is None else wanted for wanted, size in zip(shape, array.shape, strict=False)]
    if array.shape != tuple(sizes) or array.ndim != len(shape):
        wanted = ", ".join(str(size or "any") for size in shape)
        raise ValueError(
            f"{name}: expected shape {axes} = ({wanted}), got {array.shape}; "
            "look whether the kind of layer and the order of the arrays are right"
        )
    return array


def _read_keras(layer: Any, name: str, backwards: bool = False) -> tuple[str, str, list[Any]]:
    """Kind, nonlinearity, and the arrays of each direction."""
    if type(layer).__name__ == "Bidirectional":
        _must_be(f"{name}: merge_mode", layer.merge_mode, ["concat"], "merge the output of the new layer")
        ahead = _read_keras(layer.forward_layer, f"{name} forward")
        back = _read_keras(layer.backward_layer, f"{name} backward", backwards=True)
        _must_be(f"{name} backward: kind", back[:2], [ahead[:2]], "make both directions alike")
        return *ahead[:2], [*ahead[2], *back[2]]
    cell: Any = getattr(layer, "cell", None)
    kind = _KERAS_CELLS.get(type(cell).__name__)
    if kind is None or type(layer).__name__ not in (*_KERAS_KINDS, "RNN"):
        raise TypeError(
            f"{name}: expected Keras' LSTM, GRU, SimpleRNN, RNN of one of their cells, or Bidirectional, got "
            f"{type(layer).__name__}; give a model's recurrent layers alone, and arrays with their kind"
        )
    _must_be(f"{name}: go_backwards", layer.go_backwards, [backwards], "flip the input and wrap it unflipped")
    activation = getattr(cell.activation, "__name__", repr(cell.activation))
    known = ["tanh", "relu"] if kind == "RNN" else ["tanh"]
    _must_be(f"{name}: activation", activation, known, f"recurra.nn.{kind} has no other")
    if kind != "RNN":
        inner = getattr(cell.recurrent_activation, "__name__", repr(cell.recurrent_activation))
        _must_be(f"{name}: recurrent_activation", inner, ["sigmoid"], f"recurra.nn.{kind} has no other")
    if kind == "GRU":
        _must_be(f"{name}: reset_after", cell.reset_after, [True], f"{_RESET_BEFORE} GRU(reset_after=True)")
    arrays = layer.get_weights()
    _must_be(f"{name}: number of arrays", len(arrays), [2, 3], "build the layer: call it once")
    return kind, activation, [arrays]


def _halves(arrays: Any, name: str) -> list[Any]:
    """The arrays of `get_weights()` for each direction."""
    if not isinstance(arrays, (list, tuple)):
        raise TypeError(f"{name}: expected arrays, got {type(arrays).__name__}; leave out kind for a layer")
    _must_be(f"{name}: number of arrays", len(arrays), [2, 3, 4, 6], "give what get_weights() gives")
    half = len(arrays) // 2 if len(arrays) > 3 else len(arrays)
    return [arrays[:half], *([arrays[half:]] if half < len(arrays) else [])]


def _from_keras_arrays(kind: str, arrays: Sequence[Any], name: str) -> _Place:
    gates = _GATES[kind]
    size = np.shape(arrays[1])[0] if np.ndim(arrays[1]) else 0
    recurrent = _fitting(f"{name} recurrent_kernel", arrays[1], (size, gates * size), f"(H, {gates}·H)")
    kernel = _fitting(f"{name} kernel", arrays[0], (None, gates * size), f"(F, {gates}·H)")
    biases: list[Array] = []
    if len(arrays) == 3 and kind == "GRU":
        _must_be(
            f"{name} bias: dimensions", np.ndim(arrays[2]), [2], f"{_RESET_BEFORE} GRU(reset_after=True)"
        )
        biases = list(_fitting(f"{name} bias", arrays[2], (2, gates * size), f"(2, {gates}·H)"))
    elif len(arrays) == 3:
        bias = _fitting(f"{name} bias", arrays[2], (gates * size,), f"({gates}·H,)")
        biases = [bias, np.zeros_like(bias)]
    return _regated(_Place(kernel.T, recurrent.T, *biases), _IN_KERAS[kind])


def _onnx_nonlinearity(op_type: str, given: Sequence[str | bytes] | None, directions: int) -> str:
    """What an RNN's activation is, once they are known to be those that recurra.nn has."""
    usual = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}[op_type]
    known = [usual * directions, *([["relu"] * directions] if op_type == "RNN" else [])]
    found = [(act.decode() if isinstance(act, bytes) else act).lower() for act in given or known[0]]
    _must_be("activations", found, known, f"recurra.nn.{op_type} has no other, nor others for each direction")
    return found[0]


def _from_onnx_arrays(op_type: str, directions: int, at: str, W: Any, R: Any, B: Any, P: Any) -> list[_Place]:
    gates, size = _GATES[op_type], np.shape(R)[-1] if np.ndim(R) else 0
    R = _fitting(f"R{at}", R, (directions, gates * size, size), f"(D, {gates}·H, H)")
    W = _fitting(f"W{at}", W, (directions, gates * size, None), f"(D, {gates}·H, F)")
    if P is not None:
        P = _fitting(f"P{at}", P, (directions, 3 * size), "(D, 3·H)")
        _must_be(f"P{at}: largest", abs(P).max(), [0], "recurra.nn.LSTM has no peepholes; train it without")
    biases: Any = [()] * directions
    if B is not None:
        B = _fitting(f"B{at}", B, (directions, 2 * gates * size), f"(D, {2 * gates}·H)")
        biases = B.reshape(directions, 2, gates * size)
    return [_regated(_Place(*row[:2], *row[2]), _IN_ONNX[op_type]) for row in zip(W, R, biases, strict=True)]
