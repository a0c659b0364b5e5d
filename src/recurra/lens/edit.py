"""Intervention: switch off, clamp or edit gates and units of a recurrent network, and see what changes.

    with edited(model, [Edit("forget", to=1.0, units=[3], steps=range(10, 20))]):
        output = model(x)                       # as if unit 3 had forgotten nothing in steps 10 to 19
    effect = what_if(model, x, edits=[Edit("hidden", to=0.0, units=[3])])       # before and after

An edit acts where its value comes about, and all that depends on it follows: the gates of later steps, the
layers above, the output. So a cell state that is clamped shows in the hidden state of the same step, and a
candidate of a GRU follows its edited reset gate. What is not edited is as it was, to rounding
(`recurra.lens.stepping`). Of an MLSTM nothing can be edited.

Such experiments are those of Lakretz et al. 2019, "The emergence of number and syntax units in LSTM language
models": what a unit does is known when it is known what goes wrong without it. Axes: `recurra.types`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from recurra.engine.cells import clear_beyond
from recurra.errors import ArgumentError
from recurra.lens.calls import as_module, recurrent_modules
from recurra.lens.stepping import (
    Place,
    Reading,
    Stepped,
    as_it_is,
    as_ours,
    names_in,
    stepped_layers,
    stepping,
    undisturbed,
    with_labels,
)
from recurra.lens.tracing import DIRECTIONS, labelled
from recurra.types import Trace

if TYPE_CHECKING:
    from xarray import Dataset

Which: TypeAlias = int | Sequence[int] | None


@dataclass(frozen=True, eq=False)
class Edit:
    """What is done to a gate or a state, and where.

    name: a gate as a trace names it ("input", "forget", ...), "cell" or "hidden".
    to: what it is set to: a number, or a tensor that spreads over (samples, units) of those chosen.
    low, high: it is kept between these; either may be None. scale: it is multiplied with this.
    change: any function from the values of all rows and units, (N, H|P), to new ones.
    Of these, one is given, or low and high together. To switch a gate or unit off: to=0.0.
    units, steps, samples, layer: which, a number or several; None: all. Step t is the t-th of the
    sequence in both directions. direction: "forward", "reverse", or None for both. module: the path of the
    recurrent layer, as `recurra.lens.recurrent_modules` has it; None: all that have such a gate.
    """

    name: str
    to: float | Tensor | None = None
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    change: Callable[[Tensor], Tensor] | None = None
    units: Which = None
    steps: Which = None
    samples: Which = None
    layer: Which = None
    direction: str | None = None
    module: str | None = None

    def __post_init__(self) -> None:
        """Raises ArgumentError for an edit that does nothing, or two things."""
        limits = self.low is not None or self.high is not None
        ways = [self.to is not None, limits, self.scale is not None, self.change is not None]
        if sum(ways) != 1:
            raise ArgumentError(
                f"edit: expected one of to, low and high, scale, change, got {sum(ways)} of them for "
                f"{self.name!r}; make several edits for several changes: they act one after the other"
            )
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ArgumentError(f"low: expected no more than high, {self.high}, got {self.low}; swap the two")
        if self.direction not in (None, *DIRECTIONS):
            raise ArgumentError(
                f"direction: expected 'forward', 'reverse' or None for both, got {self.direction!r}"
            )


@dataclass(frozen=True, eq=False)
class Effect:
    """What `what_if` returns.

    before, after: what the model returns without and with the edits, with detached tensors. states: the gates
    and states with the edits, by module path, as `recurra.lens.trace_all` has them without.
    """

    before: Any
    after: Any
    states: dict[str, Dataset]

    @property
    def change(self) -> Tensor:
        """after minus before, of the first tensor that the model returns."""
        return _first(self.after) - _first(self.before)


@contextmanager
def edited(model: torch.nn.Module, edits: Sequence[Edit]) -> Iterator[None]:
    """While it lasts, the model runs with these edits, which act one after the other.

    The model may be called as ever, with gradients, in either mode. It is lent meanwhile: to one thread only.
    Raises ArgumentError for a name, unit, layer, direction or module that the model has not; and, when it
    is called, for a step or sample that there is not.

    For example::

        >>> import torch
        >>> from recurra.lens.edit import Edit, edited
        >>> from recurra.nn import LSTM
        >>> layer, x = LSTM(3, 7, batch_first=True), torch.randn(2, 5, 3)
        >>> with edited(layer, [Edit("forget", to=1.0), Edit("input", to=0.0)]):
        ...     _, (_, c_n) = layer(x)
        >>> bool((c_n == 0).all())
        True
    """
    layers = stepped_layers(model)
    for edit in edits:
        _check(edit, layers)
    with stepping(model, partial(_edit, edits), partial(_check_steps, edits)):
        yield


def what_if(model: Any, *inputs: Any, edits: Sequence[Edit], time: Any = None, **options: Any) -> Effect:
    """What the model returns for these inputs without and with the edits, and its states with them.

    model, inputs, options: as in `recurra.lens.trace`. time: labels of the steps, for modules that read
    as many. The model is run twice, in eval mode, without gradients. Raises ArgumentError as `edited` does.

    For example::

        >>> import torch
        >>> from recurra.lens.edit import Edit, what_if
        >>> from recurra.nn import GRU
        >>> effect = what_if(GRU(3, 7), torch.randn(5, 2, 3), edits=[Edit("hidden", to=0.0, units=3)])
        >>> effect.after[0][..., 3].abs().max().item()
        0.0
        >>> effect.states[""].hidden.dims
        ('layer', 'direction', 'sample', 'time', 'unit')
    """
    asked = as_module(model, inputs, options)
    layers = stepped_layers(asked.model)
    for edit in edits:
        _check(edit, layers)
    kept: dict[Place, dict[str, list[Tensor]]] = {}
    readings: list[Reading] = []

    def visit(place: Place, step: int, name: str, value: Tensor) -> Tensor:
        value = _edit(edits, place, step, name, value)
        kept.setdefault(place, {}).setdefault(name, []).append(value)
        return value

    def watch(reading: Reading) -> None:
        _check_steps(edits, reading)
        readings.append(reading)

    with undisturbed(asked.model), torch.no_grad():
        with stepping(asked.model, as_it_is):
            before = asked.model(*asked.inputs, **asked.options)
        with stepping(asked.model, visit, watch):
            after = asked.model(*asked.inputs, **asked.options)
    states = {}
    for path, module in recurrent_modules(asked.model).items():
        traces = tuple(_trace(r, kept[r.place]) for r in readings if r.place[:2] == (path, 0))
        if traces:
            call: Any = Replayed(path, type(module).__name__, as_ours(module), traces)
            states[path] = with_labels(labelled(call), asked, time)
    return Effect(before, after, states)


def _check(edit: Edit, layers: list[Stepped]) -> None:
    """Raises ArgumentError for an edit that fits none of these layers."""
    paths = list(dict.fromkeys(one.path for one in layers))
    if edit.module is not None and edit.module not in paths:
        raise ArgumentError(
            f"module: expected one of {', '.join(map(repr, paths))}, got {edit.module!r}; "
            "name a recurrent layer by its path, or None for all"
        )
    meant = [one for one in layers if edit.module in (None, one.path)]
    names = {name: None for one in meant for name in names_in(one.module)}
    if edit.name not in names:
        raise ArgumentError(
            f"name: expected one of {', '.join(map(repr, names))}, got {edit.name!r}; "
            "name what these layers compute"
        )
    meant = [one for one in meant if edit.name in names_in(one.module)]
    if edit.direction == "reverse" and not any(one.module.bidirectional for one in meant):
        raise ArgumentError(
            "direction: expected 'forward', as the layers read in that direction only, got 'reverse'"
        )
    _within("layer", edit.layer, max(one.lowest + one.module.num_layers for one in meant))
    here = [
        one
        for one in meant
        if any(_among(edit.layer, one.lowest + depth) for depth in range(one.module.num_layers))
    ]
    _within("units", edit.units, min(_size(one.module, edit.name) for one in here or meant))


def _size(module: Any, name: str) -> int:
    """H, or P for a hidden state that is projected."""
    size: int = (name == "hidden" and getattr(module, "proj_size", 0)) or module.hidden_size
    return size


def _check_steps(edits: Sequence[Edit], reading: Reading) -> None:
    rows, length, _ = reading.inputs.shape
    for edit in edits:
        if edit.module in (None, reading.place.module):
            _within("steps", edit.steps, length)
            _within("samples", edit.samples, rows)


def _within(name: str, which: Which, size: int) -> None:
    """Raises ArgumentError where one of these is not among `size`."""
    if which is None:
        return
    for number in _several(which):
        if isinstance(number, bool) or not 0 <= int(number) < size:
            raise ArgumentError(f"{name}: expected 0 to {size - 1}, got {number!r}; name one that there is")


def _among(which: Which, number: int) -> bool:
    return which is None or number in _several(which)


def _several(which: int | Sequence[int]) -> Sequence[int]:
    return which if isinstance(which, (Sequence, np.ndarray)) else [which]


def _edit(edits: Sequence[Edit], place: Place, step: int, name: str, value: Tensor) -> Tensor:
    """The visitor: the value with those edits that are meant for it."""
    for edit in edits:
        if edit.name != name or edit.module not in (None, place.module):
            continue
        if edit.direction not in (None, DIRECTIONS[place.reverse]):
            continue
        if _among(edit.layer, place.layer) and _among(edit.steps, step):
            value = _applied(edit, value)
    return value


def _applied(edit: Edit, value: Tensor) -> Tensor:
    """value (N, H|P), edited in the rows and units that are meant."""
    rows, units = (
        torch.arange(size, device=value.device)[slice(None) if which is None else list(_several(which))]
        for which, size in zip((edit.samples, edit.units), value.shape, strict=True)
    )
    at = rows.unsqueeze(1), units
    part = value[at]
    if edit.change is not None:
        new = edit.change(value)[at]
    elif edit.scale is not None:
        new = part * edit.scale
    elif edit.to is not None:
        new = _spread(edit.to, part)
    else:
        new = part.clamp(edit.low, edit.high)
    return value.index_put(at, new)


def _spread(to: float | Tensor, part: Tensor) -> Tensor:
    """What the chosen rows and units, (samples, units), are set to."""
    wanted = torch.as_tensor(to, dtype=part.dtype, device=part.device)
    try:
        return wanted.expand_as(part)
    except RuntimeError as error:
        raise ArgumentError(
            f"to: expected a number, or a tensor that spreads over {tuple(part.shape)}, the samples and "
            f"units that are edited, got shape {tuple(wanted.shape)}; give one number for each unit"
        ) from error


@dataclass(frozen=True, eq=False)
class Replayed:
    """A call that was run step by step, in the place of `recurra.lens.calls.Call`."""

    path: str
    name: str
    layer: Any
    found: tuple[Trace, ...]

    def traces(self) -> tuple[Trace, ...]:
        """A trace for each layer and direction."""
        return self.found


def _trace(reading: Reading, kept: dict[str, list[Tensor]]) -> Trace:
    """What was kept of one layer in one direction, as a trace."""
    turned = -1 if reading.place.reverse else 1
    named = {
        name: clear_beyond(torch.stack(values[::turned], dim=1), reading.active)
        for name, values in kept.items()
    }
    hidden, cell = named.pop("hidden"), named.pop("cell", None)
    gates = torch.stack(list(named.values()), dim=2) if named else hidden.unsqueeze(2)[:, :, :0]
    rows, length, _ = reading.inputs.shape
    lengths = reading.lengths
    if lengths is None:
        lengths = torch.full((rows,), length, device=hidden.device)
    return Trace(reading.place.layer, reading.place.reverse, tuple(named), gates, cell, hidden, lengths)


def _first(output: Any) -> Tensor:
    while isinstance(output, (tuple, list)) and not isinstance(output, PackedSequence):
        output = output[0]
    found: Tensor = output.data if isinstance(output, PackedSequence) else output
    return found
