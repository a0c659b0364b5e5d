"""What a recurrent module is made of: its layers, directions and states, and the shape of each tensor.

A size is a number, or a letter of the axis legend (`recurra.types`) where it is not known before a call. It
follows from the module's options alone; `tests/test_lens_diagram.py` holds it against what modules return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from recurra.errors import ArgumentError
from recurra.nn.initial import state_sizes
from recurra.nn.matrix_memory import MLSTM
from recurra.nn.minimal import MinGRU, MinLSTM
from recurra.nn.stacked import Stacked

Size: TypeAlias = int | str
Shape: TypeAlias = tuple[Size, ...]

RECURRENT = (torch.nn.RNNBase, torch.nn.RNNCellBase, MinGRU, MinLSTM, MLSTM, Stacked)

_SHORT = {
    "PeepholeLSTM": "Peephole",
    "CoupledLSTM": "Coupled",
    "LayerNormLSTM": "LN-LSTM",
    "LayerNormGRU": "LN-GRU",
    "SLSTM": "sLSTM",
    "MLSTM": "mLSTM",
    "MinLSTM": "minLSTM",
    "MinGRU": "minGRU",
}


@dataclass(frozen=True)
class State:
    """What a cell hands from one step to the next."""

    name: str
    role: str  # its colour: `recurra.lens.drawing`
    sizes: tuple[int, ...]  # in one row
    axes: tuple[str, ...]  # their letters


@dataclass(frozen=True)
class Layer:
    """One layer: the numbers it reads at a step, its states, and the numbers it gives the next layer."""

    reads: int
    hidden: int  # of h in one direction, after a projection
    states: tuple[State, ...]
    gives: int
    joined: str = ""  # what is done to its output before it is given on; "" where nothing is
    past: bool = False  # its input goes past it


@dataclass(frozen=True)
class Anatomy:
    """A recurrent module."""

    name: str  # of its class
    cell: str  # what stands in each cell of the drawing
    layers: tuple[Layer, ...]
    directions: int
    batch_first: bool
    kind: str  # "layer", "stack" or "cell": how it is called, and in what form states come
    learned: bool = False  # what it begins with where no states are given
    dropout: float = 0.0
    apart: bool = False  # the two directions are returned as a pair
    options: tuple[str, ...] = ()

    @property
    def output_sizes(self) -> tuple[int, ...]:
        """The last axis of what it returns: of each of the pair where directions are apart."""
        top = self.layers[-1]
        return (top.hidden,) * 2 if self.apart else (top.gives,)


@dataclass(frozen=True)
class Call:
    """What a module is called with, as far as shapes go. rows: None for one sequence without a batch axis."""

    rows: Size | None = "N"
    steps: Size = "T"
    packed: int | None = None  # the steps of all rows together, in a PackedSequence

    @property
    def batch(self) -> Shape:
        return () if self.rows is None else (self.rows,)


def told(shape: Sequence[Size]) -> str:
    """A shape as Python writes a tuple: (32, 50, 8), (7,)."""
    inner = ", ".join(map(str, shape))
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def is_recurrent(module: Any) -> bool:
    return isinstance(module, RECURRENT)


def anatomy(module: Any) -> Anatomy:
    """What this module is made of. Raises ArgumentError for one that is not recurrent."""
    if isinstance(module, Stacked):
        return _stack(module)
    if isinstance(module, torch.nn.RNNCellBase):
        return _cell(module)
    if not is_recurrent(module):
        raise ArgumentError(
            "layer: expected a recurrent layer or cell of recurra.nn or torch.nn, got "
            f"{type(module).__name__}; give one of these"
        )
    layer: Any = module
    directions = 2 if layer.bidirectional else 1
    states = _states(layer)
    hidden = getattr(layer, "proj_size", 0) or layer.hidden_size
    layers, reads = [], layer.input_size
    for _ in range(layer.num_layers):
        layers.append(Layer(reads, hidden, states, directions * hidden))
        reads = directions * hidden
    return Anatomy(
        name=type(layer).__name__,
        cell=_short(layer),
        layers=tuple(layers),
        directions=directions,
        batch_first=bool(layer.batch_first),
        kind="layer",
        learned=getattr(layer, "hx", "zeros") == "learned",
        dropout=float(layer.dropout),
        options=_options(layer),
    )


def _short(layer: Any) -> str:
    """What stands in a cell: the class's name, or that of the recurrence of a user's own subclass."""
    for kind in type(layer).__mro__:
        if kind.__name__ in _SHORT:
            return _SHORT[kind.__name__]
    for name, cell in (("LSTM", torch.nn.LSTMCell), ("GRU", torch.nn.GRUCell), ("RNN", torch.nn.RNNCell)):
        if isinstance(layer, cell) or str(getattr(layer, "mode", "")).startswith(name):
            return name
    return "cell"


def _options(layer: Any) -> tuple[str, ...]:
    """What is not the usual, in the constructor's own words."""
    found = []
    if getattr(layer, "nonlinearity", "tanh") != "tanh" or getattr(layer, "mode", "") == "RNN_RELU":
        found.append("relu")
    if not getattr(layer, "bias", True):
        found.append("no bias")
    for name in ("recurrent_dropout", "weight_drop"):
        if getattr(layer, name, 0):
            found.append(f"{name} {getattr(layer, name):g}")
    zoneout = getattr(layer, "zoneout", (0.0,))
    chances = zoneout if isinstance(zoneout, tuple) else (zoneout,)
    if any(chances):
        found.append("zoneout " + ", ".join(f"{chance:g}" for chance in dict.fromkeys(chances)))
    return tuple(found)


def _states(layer: Any) -> tuple[State, ...]:
    """In the order in which hx has them."""
    size = layer.hidden_size
    if isinstance(layer, MLSTM):
        heads, units = layer.heads, size // layer.heads
        return (
            State("C", "c", (heads, units, units), ("A", "E", "E")),
            State("n", "n", (heads, units), ("A", "E")),
            State("m", "n", (heads,), ("A",)),
        )
    if isinstance(layer, (MinGRU, MinLSTM)):
        return (State("h", "h", (size,), ("H",)),)
    if hasattr(layer, "state_names"):
        sizes = {name.removesuffix("_0"): numbers for name, numbers in state_sizes(layer).items()}
    else:
        sizes = {"h": getattr(layer, "proj_size", 0) or size}
        if layer.mode == "LSTM":
            sizes["c"] = size
    projected = bool(getattr(layer, "proj_size", 0))
    roles = {"h": "h", "c": "c"}
    return tuple(
        State(name, roles.get(name, "n"), (numbers,), ("P" if name == "h" and projected else "H",))
        for name, numbers in sizes.items()
    )


def _cell(cell: Any) -> Anatomy:
    names = ("h", "c") if isinstance(cell, torch.nn.LSTMCell) else ("h",)
    states = tuple(State(name, name, (cell.hidden_size,), ("H",)) for name in names)
    layer = Layer(cell.input_size, cell.hidden_size, states, cell.hidden_size)
    return Anatomy(type(cell).__name__, _short(cell), (layer,), 1, False, "cell", options=_options(cell))


def _stack(stack: Any) -> Anatomy:
    """The layers of a `Stacked`, each of its own size."""
    directions = 2 if stack.bidirectional else 1
    merges = {"sum": "sum of both directions", "mean": "mean of both directions"}
    layers, below = [], stack.input_size
    for place, layer in enumerate(stack.layers):
        hidden = getattr(layer, "proj_size", 0) or layer.hidden_size
        merged = merges.get(stack.merge, "") if directions == 2 else ""
        gives = hidden if merged else directions * hidden
        past = str(place) in stack.connections
        x = "x" if below == gives else "P x"
        ways = {"residual": f"residual: h + {x}", "highway": f"highway: t ⊙ h + (1 − t) ⊙ {x}"}
        joined = ", then ".join(filter(None, (merged, ways[stack.connection] if past else "")))
        layers.append(Layer(below, hidden, _states(layer), gives, joined, past))
        below = gives
    return Anatomy(
        name=type(stack).__name__,
        cell=_short(stack.layers[0]),
        layers=tuple(layers),
        directions=directions,
        batch_first=bool(stack.batch_first),
        kind="stack",
        learned=stack.hx == "learned",
        dropout=float(stack.dropout),
        apart=stack.merge == "none" and directions == 2,
        options=(stack.cell, *_options(stack.layers[0])),
    )


def call_of(form: Anatomy, input: Any) -> Call:
    """The call with this input: a tensor, a shape, a PackedSequence, or None for letters.

    Raises ArgumentError for an input that the module cannot take.
    """
    if input is None:
        return Call(steps=1) if form.kind == "cell" else Call()
    if isinstance(input, PackedSequence):
        if form.kind != "layer" or not _takes_packed(form):
            raise _bad_input(form, "a PackedSequence")
        if input.data.shape[-1] != form.layers[0].reads:
            raise _bad_input(form, f"a PackedSequence of {input.data.shape[-1]} features")
        return Call(int(input.batch_sizes[0]), len(input.batch_sizes), int(input.data.shape[0]))
    if isinstance(input, Tensor):
        shape = tuple(int(size) for size in input.shape)
    elif isinstance(input, (tuple, list)) and all(type(size) is int for size in input):
        shape = tuple(input)
    else:
        raise _bad_input(form, type(input).__name__)
    dims = (1, 2) if form.kind == "cell" else (2, 3)
    if len(shape) not in dims or shape[-1] != form.layers[0].reads or min(shape) < 1:
        raise _bad_input(form, told(shape))
    if form.kind == "cell":
        return Call(shape[0] if len(shape) == 2 else None, 1)
    if len(shape) == 2:
        return Call(None, shape[0])
    return Call(*shape[:2]) if form.batch_first else Call(shape[1], shape[0])


def _takes_packed(form: Anatomy) -> bool:
    return not form.cell.startswith(("min", "mLSTM"))


def _bad_input(form: Anatomy, got: str) -> ArgumentError:
    axes = {"cell": "(N, F) or (F,)"}.get(form.kind, "(N, T, F)" if form.batch_first else "(T, N, F)")
    alone = "" if form.kind == "cell" else ", or (T, F) for one sequence,"
    return ArgumentError(
        f"input: expected a tensor or shape {axes}{alone} of 1 or more each, with "
        f"F = {form.layers[0].reads}, got {got}; give what {form.name} is to read, or None for letters in "
        "the place of numbers"
    )


def sequence(form: Anatomy, call: Call, features: Size) -> Shape:
    """The shape of a tensor with a step for each of the call: x, output and what passes between layers."""
    if form.kind == "cell":
        return (*call.batch, features)
    if call.packed is not None:
        return (call.packed, features)
    if call.rows is None:
        return (call.steps, features)
    first = (call.rows, call.steps) if form.batch_first else (call.steps, call.rows)
    return (*first, features)


def state_shape(form: Anatomy, call: Call, layer: Layer, state: State) -> Shape:
    """The shape of a state as it is given and returned: of all layers, but in a `Stacked` of one."""
    if form.kind == "cell":
        return (*call.batch, *state.sizes)
    places = form.directions * (1 if form.kind == "stack" else len(form.layers))
    return (places, *call.batch, *state.sizes)


@dataclass(frozen=True)
class Row:
    """A tensor that goes in or comes out, as the table under a drawing has it."""

    name: str
    shape: Shape
    axes: str
    role: str
    note: str = ""


def rows_in(form: Anatomy, call: Call) -> list[Row]:
    """What a call takes: x, and the states to begin with."""
    features = form.layers[0].reads
    note = "one row for each step of each sequence" if call.packed is not None else ""
    found = [Row("x", sequence(form, call, features), _axes(form, call, "F"), "x", note)]
    return found + _state_rows(form, call, "_0", "")


def rows_out(form: Anatomy, call: Call) -> list[Row]:
    """What a call returns: the output, and the final states."""
    if form.kind == "cell":
        return _state_rows(form, call, "", "after this step: what the next call takes")
    size = form.output_sizes[0]
    letter = "P" if "P" in form.layers[-1].states[0].axes else "H"
    wide = form.directions == 2 and form.layers[-1].gives == 2 * form.layers[-1].hidden and not form.apart
    axes = _axes(form, call, f"2·{letter}" if wide else letter)
    what = f"h of the {'top ' if len(form.layers) > 1 else ''}layer at every step"
    if form.layers[-1].joined:
        what += ", joined as drawn"
    elif wide:
        what += ", forward beside reverse"
    shape = sequence(form, call, size)
    if form.apart:
        pair = zip(("output[0]", "output[1]"), ("forward", "reverse"), strict=True)
        out = [Row(name, shape, axes, "h", f"{what}, {way}") for name, way in pair]
    else:
        out = [Row("output", shape, axes, "h", what)]
    return out + _state_rows(form, call, "_n", _where(form))


def _where(form: Anatomy) -> str:
    """What final states are, in words."""
    whose = "layer" if len(form.layers) > 1 and form.kind != "stack" else ""
    if form.directions == 2:
        return (
            f"of every {whose} and direction, after its last step"
            if whose
            else "of each direction, after its last step"
        )
    return f"of every {whose}, after the last step" if whose else "after the last step"


def _axes(form: Anatomy, call: Call, last: str) -> str:
    if call.packed is not None:
        return f"steps, {last}"
    if form.kind == "cell":
        return last if call.rows is None else f"N, {last}"
    if call.rows is None:
        return f"T, {last}"
    return f"N, T, {last}" if form.batch_first else f"T, N, {last}"


def _state_rows(form: Anatomy, call: Call, suffix: str, note: str) -> list[Row]:
    middle = () if call.rows is None else ("N",)
    first = () if form.kind == "cell" else ("D",) if form.kind == "stack" else ("L·D",)
    found = []
    for place, layer in enumerate(form.layers if form.kind == "stack" else form.layers[:1]):
        for state in layer.states:
            name = f"{state.name}{suffix}"
            if form.kind == "stack":
                name = f"{'hx' if suffix == '_0' else 'states'}[{place}] {name}"
            elif form.kind == "cell":
                name = state.name if suffix else f"{state.name}′"
            shape = state_shape(form, call, layer, state)
            found.append(Row(name, shape, ", ".join((*first, *middle, *state.axes)), state.role, note))
            note = ""
    return found


def equalities(form: Anatomy, call: Call) -> list[tuple[str, str]]:
    """Where the output and h_n hold the same numbers: pairs of Python expressions, and nothing for a cell."""
    top = form.layers[-1]
    if form.kind == "cell" or top.joined or call.packed is not None or top.states[0].name != "h":
        return []
    time = "" if call.rows is None else ":, " if form.batch_first else ""
    behind = "" if call.rows is None or form.batch_first else ", :"
    size, count = top.hidden, form.directions * len(form.layers)
    if form.kind == "stack":
        last = f"states[{len(form.layers) - 1}]" + ("[0]" if len(top.states) > 1 else "")
        ends = [f"{last}[{way}]" for way in range(form.directions)]
    else:
        ends = [f"h_n[{place}]" for place in range(count - form.directions, count)]
    if form.directions == 1:
        return [(f"output[{time}-1]", ends[0])]
    if form.apart:
        return [(f"output[0][{time}-1]", ends[0]), (f"output[1][{time}0]", ends[1])]
    return [
        (f"output[{time}-1{behind}, :{size}]", ends[0]),
        (f"output[{time}0{behind}, {size}:]", ends[1]),
    ]
