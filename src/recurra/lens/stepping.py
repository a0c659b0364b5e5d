"""Runs a model's recurrent layers one step at a time, with a visitor at every gate and state.

The visitor is a function: it is shown each gate and each state as it comes about, and what it returns takes
its place. So `recurra.lens.gradients` keeps the states that autograd is to be asked about, and
`recurra.lens.edit` puts others in their stead. The equations are those of `recurra.engine`, of whose plain
twin this is a slower form: the numbers are the same, in any dtype, on any device, with autograd.

What goes for all layers:

* the gates have the names and the form that a trace shows (`recurra.types.GATE_NAMES`); then comes "cell",
  (N, H), of an sLSTM c / n, and last "hidden", (N, P|H);
* with zoneout of the cell state "cell" is the state that is carried on; the hidden state of the same step
  reads the one before zoneout;
* what is visited beyond a row's length counts for nothing;
* an `MLSTM` runs as it always does: its cell state is a matrix for each head, which no unit owns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop_out
from torch.nn.functional import linear
from torch.nn.utils.rnn import PackedSequence

from recurra.engine.cells import (
    active_steps,
    advance,
    begin,
    clear_beyond,
    finish,
    put_back,
    reading_order,
    restart_steps,
    stack_steps,
)
from recurra.engine.noise import Draws, draw, drop, stay
from recurra.engine.plain import named_weights
from recurra.engine.stack import STATE_PARTS, WITH_CELL_STATE
from recurra.errors import ArgumentError
from recurra.lens.calls import Asked, recurrent_modules
from recurra.lens.equations import CELLS, See, States, Step
from recurra.lens.tracing import with_time
from recurra.nn.initial import learned_hx
from recurra.nn.inputs import Lengths, stack_of, traced_batch, weights_of
from recurra.nn.minimal import MIN_GRU_GATES, MIN_LSTM_GATES, MinGRU, MinLSTM, checked_call
from recurra.nn.noise import drop_weights, noise_of
from recurra.nn.recurrent import GRU, LSTM, RNN
from recurra.nn.stacked import Stacked
from recurra.types import GATE_NAMES

if TYPE_CHECKING:
    from xarray import Dataset


class Place(NamedTuple):
    """Where in a model a gate or a state is."""

    module: str  # its path, as `recurra.lens.recurrent_modules` has it
    call: int  # 0 for the first call of the module, 1 for the next
    layer: int
    reverse: bool


Visit: TypeAlias = Callable[[Place, int, str, Tensor], Tensor]  # place, step, name, value


@dataclass(frozen=True, eq=False)
class Reading:
    """What one layer reads in one direction: all that its steps need besides the states.

    kind: one of `recurra.engine.stack.KINDS`, or "min_gru" or "min_lstm".
    inputs: (N, T, G·H) the input's part of the sums, W x_t + b_ih; of a cell with LayerNorm W x_t alone.
    initial: h_0, and c_0 where there is one. lengths: (N,), or None for T in each row.
    """

    place: Place
    kind: str
    inputs: Tensor
    initial: States
    weights: dict[str, Tensor | None]
    lengths: Tensor | None
    active: Tensor | None  # (N, T, 1) bool: the steps that count; None: all
    restart: Tensor | None  # (N, T, 1) bool: the state is put back before the step; None: nowhere
    to_initial: bool
    drawn: Draws


def as_it_is(place: Place, step: int, name: str, value: Tensor) -> Tensor:
    """The visitor that changes nothing."""
    return value


@contextmanager
def stepping(
    model: torch.nn.Module, visit: Visit, watch: Callable[[Reading], None] | None = None
) -> Iterator[None]:
    """While it lasts, calls of the model run its recurrent layers step by step, with this visitor.

    visit: called as visit(place, step, name, value), in the order in which things come about; what it
    returns, of the same shape, goes on in place of value. watch: called for each layer and direction before
    it runs. The model itself is lent: one thread at a time, and nothing is compiled. Raises ArgumentError
    for a model without a recurrent layer that can be run so.

    For example::

        >>> import torch
        >>> from recurra.lens.stepping import stepping
        >>> seen, layer = [], torch.nn.GRU(3, 7)
        >>> with stepping(layer, lambda place, step, name, value: seen.append(name) or value):
        ...     output, h_n = layer(torch.randn(1, 2, 3))
        >>> seen
        ['reset', 'update', 'candidate', 'hidden']
    """
    layers = stepped_layers(model)
    before = [layer.module.__dict__.get("forward") for layer in layers]
    counts = [0] * len(layers)

    def forward(number: int, *given: Any, **options: Any) -> Any:
        layer, call = layers[number], counts[number]
        counts[number] += 1
        run = _run_minimal if isinstance(layer.module, (MinGRU, MinLSTM)) else _run_layer
        place = Place(layer.path, call, layer.lowest, False)
        return run(layer.module, place, visit, watch, *given, **options)

    try:
        for number, layer in enumerate(layers):
            layer.module.__dict__["forward"] = partial(forward, number)
        # what torch.compile has made of the model runs as it is written
        with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
            yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.module.__dict__.pop("forward", None)
            if own is not None:
                layer.module.__dict__["forward"] = own


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """The model in `eval()` while it lasts, then in the modes that its modules had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def with_labels(found: Dataset, asked: Asked, time: Any) -> Dataset:
    """With these labels of steps, else the model's own, where there are as many; and the samples' names."""
    rows, steps = found.sizes["sample"], found.sizes["time"]
    if asked.samples is not None and len(asked.samples) == rows:
        found = found.assign_coords(sample=list(asked.samples))
        if time is None and asked.stamps is not None and steps > 1:
            time = asked.stamps(steps)
    if time is not None and len(time) in (rows, steps):
        with suppress(ArgumentError):
            return with_time(found, time)
    return found


class Stepped(NamedTuple):
    """A recurrent layer that can be run step by step.

    path: as `recurra.lens.recurrent_modules` has it, for a layer inside a `recurra.nn.Stacked` that of
    the whole. lowest: the number of its lowest layer there. module: the layer.
    """

    path: str
    lowest: int
    module: Any


def stepped_layers(model: Any) -> list[Stepped]:
    """The recurrent layers that `stepping` runs. Raises ArgumentError where there are none."""
    modules = recurrent_modules(model)
    found: list[Stepped] = []
    for path, module in modules.items():
        parts = module.layers if isinstance(module, Stacked) else (module,)
        found += [Stepped(path, lowest, part) for lowest, part in enumerate(parts) if _is_stepped(part)]
    if not found:
        kinds = ", ".join(sorted({type(module).__name__ for module in modules.values()}))
        raise ArgumentError(
            f"model: expected a recurrent layer that can be run step by step, got {kinds} alone; give a "
            "model with an LSTM, GRU, RNN or a variant of one whose forward is torch.nn's or recurra.nn's own"
        )
    return found


def _is_stepped(module: torch.nn.Module) -> bool:
    """Not an MLSTM, nor a subclass with a forward of its own, which would not be run."""
    owner = next(base for base in type(module).__mro__ if "forward" in vars(base))
    if not owner.__module__.startswith(("torch.nn.", "recurra.nn.")):
        return False
    return isinstance(module, (torch.nn.RNNBase, MinGRU, MinLSTM))


def names_in(module: torch.nn.Module) -> tuple[str, ...]:
    """What a visitor sees of this layer: its gates, "cell" where there is one, and "hidden"."""
    if isinstance(module, (MinGRU, MinLSTM)):
        return (*(MIN_GRU_GATES if isinstance(module, MinGRU) else MIN_LSTM_GATES), "hidden")
    kind = stack_of(as_ours(module)).kind
    cell = ("cell",) if kind in WITH_CELL_STATE else ()
    return (*GATE_NAMES.get(kind, ()), *cell, "hidden")


def as_ours(layer: Any) -> Any:
    """A layer of torch.nn as recurra.nn's on the very same weights; any other as it is."""
    if hasattr(layer, "trace"):
        return layer
    kinds = {torch.nn.LSTM: LSTM, torch.nn.GRU: GRU, torch.nn.RNN: RNN}
    ours = next(ours for torchs, ours in kinds.items() if isinstance(layer, torchs))
    view: Any = torch.nn.Module.__new__(ours)
    view.__dict__ = layer.__dict__.copy()
    return view


def walk(
    reading: Reading, visit: Visit, before: Callable[[int, States], None] | None = None
) -> tuple[Tensor, States]:
    """The hidden state of every step, (N, T, P|H), zero beyond a row's length, and the final states.

    before: called with each step and the states that it begins with.
    """
    place, reverse = reading.place, reading.place.reverse
    states = tuple(begin(state, reading.lengths) for state in reading.initial)
    again: Any = states if reading.to_initial else (None,) * len(states)
    hiddens = []
    for t in reading_order(reading.inputs.shape[1], reverse):
        states = tuple(put_back(reading.restart, t, s, a) for s, a in zip(states, again, strict=True))
        if before is not None:
            before(t, states)
        new = take_step(reading, t, reading.inputs[:, t], states, partial(visit, place, t))
        hiddens.append(new[0])
        states = tuple(advance(reading.active, t, n, s) for n, s in zip(new, states, strict=True))
    hidden = stack_steps(hiddens, reading.initial[0], reading.active, reverse)
    ends = (finish(s, first, reading.lengths) for s, first in zip(states, reading.initial, strict=True))
    return hidden, tuple(ends)


def take_step(reading: Reading, t: int, x_sums: Tensor, states: States, see: See) -> States:
    """The states after step t, from x_sums (N, G·H), step t of `Reading.inputs`, and the states before."""
    weights, drawn, h = reading.weights, reading.drawn, states[0]
    h_sums = x_sums
    if weights["w_hh"] is not None:
        bias = None if "norms" in weights else weights["b_hh"]
        h_sums = linear(drop(drawn.recurrent, h), weights["w_hh"], bias)

    def settle(new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        """The cell state that the hidden state reads, and the one that is carried on."""
        if drawn.cell is None:
            new = see("cell", new)
            return new, new
        return new, see("cell", stay(drawn.cell, t, new, old))

    shown, *cell = CELLS[reading.kind](Step(x_sums, h_sums, states, weights, see, settle))
    if weights["w_hr"] is not None:
        shown = linear(shown, weights["w_hr"])
    return see("hidden", stay(drawn.hidden, t, shown, h)), *cell


def _run_layer(
    module: Any,
    place: Place,
    visit: Visit,
    watch: Callable[[Reading], None] | None,
    input: Any,
    hx: Any = None,
    *,
    lengths: Lengths | None = None,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
    recompute: bool = False,
) -> tuple[Any, Any]:
    """`forward` of a layer of torch's kind."""
    layer = as_ours(module)
    if hx is None and layer.hx == "learned":
        hx = learned_hx(layer, input)
    if hx is not None and layer.has_cell_state and len(hx) > 2:
        hx = (hx[0], torch.cat(tuple(hx[1:]), dim=-1))
    batch = traced_batch(layer, input, hx, lengths, resets, reset_to_initial)
    stack, weights = stack_of(layer), drop_weights(layer, weights_of(module))
    noise, steps = noise_of(layer, layer.training), batch.steps
    below = batch.x if stack.batch_first else batch.x.transpose(0, 1)
    finals: list[States] = []
    for depth in range(stack.depth):
        if depth > 0 and layer.training and layer.dropout > 0:
            # time first, whatever the caller's order: so a seed gives the masks that the layer draws
            below = drop_out(below.transpose(0, 1).contiguous(), layer.dropout).transpose(0, 1)
        active = active_steps(below, steps.lengths)
        clear, outputs = clear_beyond(below, active), []
        for reverse in (False, True)[: stack.directions]:
            here = depth * stack.directions + reverse
            named = {"w_hr": None} | named_weights(stack, weights, here)
            bias = None if "norms" in named else named["b_ih"]
            initial = tuple(state[here] for state in batch.initial)
            w_ih = named["w_ih"]
            assert w_ih is not None
            reading = Reading(
                place=place._replace(layer=place.layer + depth, reverse=reverse),
                kind=stack.kind,
                inputs=linear(clear, w_ih, bias),
                initial=initial,
                weights=named,
                lengths=steps.lengths,
                active=active,
                restart=restart_steps(below, steps.resets, active, reverse),
                to_initial=steps.reset_to_initial,
                drawn=draw(
                    noise,
                    2 * depth + reverse,
                    below,
                    stack.state,
                    stack.hidden if stack.cell_size == stack.hidden else None,
                ),
            )
            if watch is not None:
                watch(reading)
            hidden, ends = walk(reading, visit)
            outputs.append(hidden)
            finals.append(ends)
        below = torch.cat(outputs, dim=-1)
    states = [torch.stack(ends) for ends in zip(*finals, strict=True)]
    parts = STATE_PARTS.get(stack.kind, 1)
    if parts > 1:
        states = [states[0], *states[1].chunk(parts, dim=-1)]
    return _in_form(layer.batch_first, input, below, states, layer.has_cell_state)


def _run_minimal(
    layer: Any,
    place: Place,
    visit: Visit,
    watch: Callable[[Reading], None] | None,
    input: Any,
    hx: Tensor | None = None,
    *,
    lengths: Lengths | None = None,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
) -> tuple[Any, Any]:
    """`forward` of a MinGRU or MinLSTM, whose gates read the input alone."""
    given = None if hx is None else (hx,)
    call = checked_call(layer, input, given, [(layer.hidden_size,)], lengths, resets, reset_to_initial)
    below, counts = call.x, call.steps.lengths
    finals: list[Tensor] = []
    nothing: dict[str, Tensor | None] = dict.fromkeys(("w_hh", "b_hh", "w_hr"))
    for depth in range(layer.num_layers):
        if depth > 0 and layer.training and layer.dropout > 0:
            below = drop_out(below, layer.dropout)
        active, outputs = active_steps(below, counts), []
        for reverse in (False, True)[: 1 + layer.bidirectional]:
            suffix = f"l{depth}{'_reverse' * reverse}"
            bias = getattr(layer, f"bias_ih_{suffix}") if layer.bias else None
            reading = Reading(
                place=place._replace(layer=place.layer + depth, reverse=reverse),
                kind="min_gru" if isinstance(layer, MinGRU) else "min_lstm",
                inputs=linear(clear_beyond(below, active), getattr(layer, f"weight_ih_{suffix}"), bias),
                initial=(call.initial[0][len(finals)],),
                weights=nothing,
                lengths=counts,
                active=active,
                restart=restart_steps(below, call.steps.resets, active, reverse),
                to_initial=call.steps.reset_to_initial,
                drawn=Draws(),
            )
            if watch is not None:
                watch(reading)
            hidden, (end,) = walk(reading, visit)
            outputs.append(hidden)
            finals.append(end)
        below = torch.cat(outputs, dim=-1)
    return _in_form(layer.batch_first, input, below, [torch.stack(finals)], False)


def _in_form(
    batch_first: bool, input: Any, output: Tensor, states: list[Tensor], has_cell: bool
) -> tuple[Any, Any]:
    """What a layer returns for this input, from output (N, T, D·P) and states (L·D, N, ...)."""
    if isinstance(input, PackedSequence):
        _, sizes, order, back = input
        rows = output if order is None else output.index_select(0, order)
        entries = torch.cat([rows[:count, t] for t, count in enumerate(sizes.tolist())])
        formed: Any = PackedSequence(entries, sizes, order, back)
    elif input.dim() == 2:
        formed, states = output.squeeze(0), [state.squeeze(1) for state in states]
    else:
        formed = output if batch_first else output.transpose(0, 1).contiguous()
    return formed, tuple(states) if has_cell else states[0]
