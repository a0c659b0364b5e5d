"""`MinGRU` and `MinLSTM`: gates that see the input alone, so that training runs over all steps at once.

Without the hidden state in its gates, a cell's recurrence is linear: h_t = a_t ⊙ h_{t-1} + b_t, with a_t and
b_t known for all steps before the first is taken. `recurra.engine.parallel_scan` solves it, in about √T
rounds for T steps, and one step at a time where there is but one. Both are the same layer: what was trained
over whole sequences is used step by step, its state carried from call to call.

With W the input's weights, g(x) = x + 0.5 for x ≥ 0 and σ(x) for x < 0, and ⊙ number by number::

    MinGRU    z_t = σ(W_z x_t + b_z)                  update gate: how much of h is replaced
              h̃_t = g(W_h x_t + b_h)                  candidate
              h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ h̃_t

    MinLSTM   i_t = σ(W_i x_t + b_i)                  input gate
              f_t = σ(W_f x_t + b_f)                  forget gate
              h̃_t = g(W_h x_t + b_h)                  candidate
              h_t = f_t / (f_t + i_t) ⊙ h_{t-1} + i_t / (f_t + i_t) ⊙ h̃_t

Source: Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, "Were RNNs All We Needed?", 2024, sections 3.1 and 3.2.
The candidate is that of the paper's code (appendix B), whose g keeps h positive, continuous and growing with
its argument; the paper needs this to compute in logarithms. Here the scan is in plain numbers, which is
faster and loses no digits over long sequences, so an initial state may have either sign. Note the update
gate's sense: z replaces, as in the paper, where that of torch's GRU keeps.

The call is that of `recurra.nn.LSTM`: `layer(x, hx, lengths=..., resets=..., reset_to_initial=...)` and
`layer.trace(...)`, with the same meaning of each, except that there is no PackedSequence: give `lengths`.
A layer above the first reads the hidden states of the one below, of both directions where there are two.

Shapes (axes: see `recurra.types`): x (T, N, F) or, with `batch_first`, (N, T, F), or (T, F) for one sequence;
output (T, N, D·H), (N, T, D·H) or (T, D·H); h_0 and h_n (L·D, N, H), or (L·D, H) for one sequence.
Within a call bfloat16 and float16 are carried from step to step in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear, logsigmoid
from torch.nn.utils.rnn import PackedSequence

from recurra.engine.cells import active_steps, clear_beyond, restart_steps
from recurra.engine.parallel_scan import scan
from recurra.engine.stack import Steps
from recurra.nn.inputs import Lengths, checked_lengths, checked_resets, read_as
from recurra.types import Trace

MIN_GRU_GATES = ("update", "candidate")
MIN_LSTM_GATES = ("input", "forget", "candidate")

States: TypeAlias = tuple[Tensor, ...]


class MinGRU(torch.nn.Module):
    """A GRU whose gates read the input alone (Feng et al. 2024, section 3.1). Equations: the module's text.

    input_size F, hidden_size H, num_layers L. bias: whether the gates have one. dropout: the share of each
    layer's output but the last's that is zeroed in training. bidirectional: D = 2.
    Weights: weight_ih_l0 (2H, F), rows in the order z h̃; bias_ih_l0 (2H); then _l0_reverse, _l1 and so on.
    Both begin uniform in ±1/√F, as `torch.nn.Linear`.
    Raises ValueError or TypeError for sizes and options that torch's layers refuse.

    For example::

        layer = MinGRU(3, 8, batch_first=True)
        output, h_n = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 8), h_n (1, 2, 8)
        step, h_n = layer(x[:, :1], h_n)            # one step more
        update = layer.trace(x)[0].gate("update")   # (2, 5, 8)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout = dropout
        add_weights(self, 2 * hidden_size, device, dtype)

    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The output of the top layer, and the final state h_n of every layer and direction.

        input: a batch, or one sequence (T, F). hx: h_0, zeros when None. lengths: (N,), resets: (N, T) bool,
        for a batch only; reset_to_initial: resets put the state back to h_0, not to zeros.
        Raises ValueError for lengths or resets that do not fit; RuntimeError for sizes that do not;
        TypeError for a PackedSequence.
        """
        states = None if hx is None else (hx,)
        call = checked_call(self, input, states, [(self.hidden_size,)], lengths, resets, reset_to_initial)
        output, (h_n,) = run(self, call, _min_gru)
        return output, h_n

    def trace(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Trace, ...]:
        """The gates update and candidate, and the hidden state: L·D traces. Dropout is off.

        Arguments and errors are those of `forward`. One sequence (T, F) becomes a batch of one row.
        """
        states = None if hx is None else (hx,)
        call = checked_call(self, input, states, [(self.hidden_size,)], lengths, resets, reset_to_initial)
        return traces(self, call, _min_gru, _min_gru_gates, MIN_GRU_GATES)

    def extra_repr(self) -> str:
        return described(self)


class MinLSTM(torch.nn.Module):
    """An LSTM whose gates read the input alone and sum to one (Feng et al. 2024, section 3.2).

    Its cell state is its hidden state. Equations: the module's text. Arguments and errors: those of `MinGRU`.
    Weights: weight_ih_l0 (3H, F), rows in the order i f h̃; bias_ih_l0 (3H); then _l0_reverse, _l1 and so
    on. Both begin uniform in ±1/√F, as `torch.nn.Linear`. A larger bias of the forget gate lets it remember
    for longer at first, which the paper finds to speed up training::

        layer.bias_ih_l0.data[8:16] = 3.0           # rows H to 2H, here with H = 8

    For example::

        layer = MinLSTM(3, 8, num_layers=2, bidirectional=True)
        output, h_n = layer(x, resets=resets)       # x (5, 2, 3), resets (2, 5), output (5, 2, 16)
        forget = layer.trace(x)[0].gate("forget")   # (2, 5, 8): f / (f + i)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout = dropout
        add_weights(self, 3 * hidden_size, device, dtype)

    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The output of the top layer, and the final state h_n of every layer and direction.

        Arguments and errors are those of `MinGRU.forward`: hx is h_0 alone, without a cell state.
        """
        states = None if hx is None else (hx,)
        call = checked_call(self, input, states, [(self.hidden_size,)], lengths, resets, reset_to_initial)
        output, (h_n,) = run(self, call, _min_lstm)
        return output, h_n

    def trace(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Trace, ...]:
        """The gates input and forget, which sum to one, the candidate and the hidden state: L·D traces.

        Arguments and errors are those of `forward`. One sequence (T, F) becomes a batch of one row.
        Dropout is off.
        """
        states = None if hx is None else (hx,)
        call = checked_call(self, input, states, [(self.hidden_size,)], lengths, resets, reset_to_initial)
        return traces(self, call, _min_lstm, _min_lstm_gates, MIN_LSTM_GATES)

    def extra_repr(self) -> str:
        return described(self)


def _min_gru(reading: Reading) -> tuple[Tensor, States]:
    """Hidden states and final state of a MinGRU."""
    update, candidate = _wide(reading.gates).chunk(2, dim=-1)
    update = torch.sigmoid(update)
    return _linear_recurrence(reading, 1 - update, update * _positive(candidate))


def _min_gru_gates(gates: Tensor) -> Tensor:
    """(N, T, 2, H) activated, from (N, T, 2H)."""
    update, candidate = gates.chunk(2, dim=-1)
    return torch.stack((torch.sigmoid(update), _positive(candidate)), dim=2)


def _min_lstm(reading: Reading) -> tuple[Tensor, States]:
    """Hidden states and final state of a MinLSTM."""
    odds, candidate = _forget_odds(_wide(reading.gates))
    return _linear_recurrence(reading, torch.sigmoid(odds), torch.sigmoid(-odds) * _positive(candidate))


def _min_lstm_gates(gates: Tensor) -> Tensor:
    """(N, T, 3, H) activated and, for the first two, summing to one, from (N, T, 3H)."""
    odds, candidate = _forget_odds(gates)
    return torch.stack((torch.sigmoid(-odds), torch.sigmoid(odds), _positive(candidate)), dim=2)


def _forget_odds(gates: Tensor) -> tuple[Tensor, Tensor]:
    """log(f / i), whose σ is f / (f + i), and what the candidate is made of, each (N, T, H)."""
    write, forget, candidate = gates.chunk(3, dim=-1)
    return logsigmoid(forget) - logsigmoid(write), candidate


def _positive(x: Tensor) -> Tensor:
    """The paper's g."""
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


def _linear_recurrence(reading: Reading, keep: Tensor, add: Tensor) -> tuple[Tensor, States]:
    """h_t = keep_t ⊙ h_{t-1} + add_t over what counts; a step that does not leaves the state as it is."""
    h_0, restart = reading.initial[0].to(add.dtype), reading.restart
    if reading.active is not None:
        keep, add = keep.masked_fill(~reading.active, 1), add.masked_fill(~reading.active, 0)
    if restart is not None and reading.to_initial:
        add = torch.where(restart, torch.addcmul(add, keep, h_0.unsqueeze(1)), add)
    hidden = scan(keep, add, h_0, restart).to(reading.gates.dtype)
    return hidden, (hidden[:, -1],)


class Layer(Protocol):
    """What the functions below read of a layer."""

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    training: bool


class Call(NamedTuple):
    """What a layer was called with, checked."""

    x: Tensor  # (N, T, F)
    initial: States  # each (L·D, N, ...)
    steps: Steps
    unbatched: bool  # the input was one sequence (T, F), now a batch of one row


class Reading(NamedTuple):
    """What one layer reads in one direction. A cell gets it in the order of reading: step 0 first."""

    gates: Tensor  # (N, T, G·H) before activation: W x + b
    initial: States  # each (N, ...)
    active: Tensor | None  # (N, T, 1) bool: the steps that count; None: all
    restart: Tensor | None  # (N, T, 1) bool: the state is put back before the step; None: nowhere
    to_initial: bool  # it is put back to `initial`, not to zeros


Cell: TypeAlias = Callable[[Reading], tuple[Tensor, States]]  # hidden states (N, T, H), final states


def add_weights(layer: torch.nn.Module, rows: int, device: Any, dtype: Any) -> None:
    """Adds weight_ih_l0 (rows, F), bias_ih_l0 (rows) and those of the other layers and directions.

    Uniform in ±1/√F. Raises ValueError or TypeError for sizes and options that make no layer.
    """
    sizes: Any = layer
    checked_options(sizes)
    for depth in range(sizes.num_layers):
        features = sizes.input_size if depth == 0 else sizes.hidden_size * (1 + sizes.bidirectional)
        bound = 1 / math.sqrt(features)
        for suffix in _suffixes(sizes)[depth]:
            weight = torch.empty(rows, features, device=device, dtype=dtype).uniform_(-bound, bound)
            layer.register_parameter(f"weight_ih_{suffix}", torch.nn.Parameter(weight))
            if sizes.bias:
                bias = torch.empty(rows, device=device, dtype=dtype).uniform_(-bound, bound)
                layer.register_parameter(f"bias_ih_{suffix}", torch.nn.Parameter(bias))


def _suffixes(layer: Layer) -> list[list[str]]:
    """torch's names of the directions of each layer: l0, l0_reverse, l1, ..."""
    ends = ("", "_reverse")[: 1 + layer.bidirectional]
    return [[f"l{depth}{end}" for end in ends] for depth in range(layer.num_layers)]


def described(layer: Layer) -> str:
    """What `repr` shows of a layer: its sizes, and the options that are not the usual ones."""
    usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
    chosen = {name: getattr(layer, name) for name in usual}
    options = [f", {name}={value}" for name, value in chosen.items() if value != usual[name]]
    return f"{layer.input_size}, {layer.hidden_size}{''.join(options)}"


def checked_options(layer: Layer) -> None:
    """Raises what torch's layers raise for sizes and options that make no layer, and warns where they do."""
    sizes = layer.input_size, layer.hidden_size, layer.num_layers
    options = layer.bias, layer.batch_first, layer.dropout, layer.bidirectional
    torch.nn.GRU(*sizes, *options, device="meta")


def checked_call(
    layer: Layer,
    input: Any,
    hx: Any,
    shapes: Sequence[tuple[int, ...]],
    lengths: Any,
    resets: Any,
    reset_to_initial: bool,
) -> Call:
    """What a layer was called with. hx: its states, or None. shapes: those of each state of one row.

    Raises ValueError, RuntimeError or TypeError, of the kind that `recurra.nn.LSTM` raises.
    """
    name = type(layer).__name__
    if isinstance(input, PackedSequence):
        raise TypeError(
            f"{name}: expected input to be a tensor, got a PackedSequence; "
            "give the padded batch with lengths instead: pad_packed_sequence makes both"
        )
    if input.dim() not in (2, 3):
        raise ValueError(
            f"{name}: expected input to be 2D or 3D, got {input.dim()}D; {read_as(layer.batch_first)}"
        )
    unbatched = input.dim() == 2
    if unbatched and (lengths is not None or resets is not None):
        which = "lengths" if lengths is not None else "resets"
        raise ValueError(
            f"{which}: expected an input of 3 dimensions, a batch, got an input of 2; leave {which} out, "
            f"or make it a batch of one row with input.unsqueeze({0 if layer.batch_first else 1})"
        )
    x = input.unsqueeze(0) if unbatched else input if layer.batch_first else input.transpose(0, 1)
    weight = getattr(layer, "weight_ih_l0")  # noqa: B009  (a Protocol does not list the weights)
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"input: expected the weights' dtype {weight.dtype}, got {x.dtype}; "
            f"convert it with .to({weight.dtype}), or the layer with .to({x.dtype})"
        )
    if x.shape[2] != layer.input_size:
        raise RuntimeError(
            f"input: expected input_size = {layer.input_size} features on its last axis, got {x.shape[2]}; "
            f"{read_as(layer.batch_first)}"
        )
    if x.shape[1] == 0:
        raise RuntimeError(f"input: expected 1 step or more, got none; {read_as(layer.batch_first)}")
    steps = Steps(
        lengths=None
        if lengths is None
        else checked_lengths(lengths, x, "the input", read_as(layer.batch_first)),
        resets=None if resets is None else checked_resets(resets, x),
        reset_to_initial=reset_to_initial,
    )
    return Call(x, _checked_states(layer, x, hx, shapes, unbatched), steps, unbatched)


def _checked_states(
    layer: Layer, x: Tensor, hx: Any, shapes: Sequence[tuple[int, ...]], unbatched: bool
) -> States:
    """The initial states, each (L·D, N, ...), zeros where hx is None. x: (N, T, F)."""
    places = layer.num_layers * (1 + layer.bidirectional)
    dtype = state_dtype(x.dtype) if len(shapes) > 1 else x.dtype
    if hx is None:
        return tuple(x.new_zeros(places, x.shape[0], *shape, dtype=dtype) for shape in shapes)
    kinds = [type(state).__name__ for state in hx] if isinstance(hx, (tuple, list)) else []
    if len(kinds) != len(shapes) or not all(isinstance(state, Tensor) for state in hx):
        what = "one tensor" if len(shapes) == 1 else f"a tuple of {len(shapes)} tensors"
        got = ", ".join(kinds) or type(hx).__name__
        raise TypeError(f"hx: expected {what}, got {got}; give the states as they were returned")
    for state, shape in zip(hx, shapes, strict=True):
        expected = (places, *shape) if unbatched else (places, x.shape[0], *shape)
        if state.shape != expected:
            raise RuntimeError(
                f"hx: expected shape {expected}, the L·D layers and directions first, got "
                f"{tuple(state.shape)}; give the states as they were returned, or None for zeros"
            )
        if state.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise RuntimeError(f"hx: expected dtype {dtype}, got {state.dtype}; convert it with .to({dtype})")
    return tuple(state.unsqueeze(1) for state in hx) if unbatched else tuple(hx)


def run(layer: Layer, call: Call, cell: Cell) -> tuple[Tensor, States]:
    """The output in the input's form, and the final states, each (L·D, N, ...)."""
    below = call.x
    finals: list[States] = []
    for depth in range(layer.num_layers):
        if depth > 0 and layer.dropout > 0 and layer.training:
            below = drop(below, layer.dropout)
        read = _each_direction(layer, call, below, depth, cell)
        below = torch.cat([hidden for _, hidden, _ in read], dim=-1)
        finals += [ends for _, _, ends in read]
    states = tuple(torch.stack(ends) for ends in zip(*finals, strict=True))
    if call.unbatched:
        return below.squeeze(0), tuple(state.squeeze(1) for state in states)
    return below if layer.batch_first else below.transpose(0, 1), states


def traces(
    layer: Layer, call: Call, cell: Cell, activate: Callable[[Tensor], Tensor], names: tuple[str, ...]
) -> tuple[Trace, ...]:
    """A trace for each layer and direction, dropout off. activate: (N, T, G, H) from `Reading.gates`."""
    active = active_steps(call.x, call.steps.lengths)
    lengths = call.steps.lengths
    if lengths is None:
        lengths = torch.full(call.x.shape[:1], call.x.shape[1], device=call.x.device)
    below, found = call.x, []
    for depth in range(layer.num_layers):
        read = _each_direction(layer, call, below, depth, cell)
        below = torch.cat([hidden for _, hidden, _ in read], dim=-1)
        for reverse, (reading, hidden, _) in zip((False, True), read, strict=False):
            gates = clear_beyond(activate(reading.gates), active)
            found.append(Trace(depth, reverse, names, gates, None, hidden, lengths))
    return tuple(found)


def _each_direction(
    layer: Layer, call: Call, below: Tensor, depth: int, cell: Cell
) -> list[tuple[Reading, Tensor, States]]:
    """One layer: for each direction what it read, and its hidden (N, T, H) and final states.

    below: (N, T, F or D·H), what the layer reads.
    """
    lengths = call.steps.lengths
    active = active_steps(below, lengths)
    empty = None if lengths is None else lengths == 0
    below = clear_beyond(below, active)
    suffixes = _suffixes(layer)[depth]
    read = []
    for reverse, suffix in zip((False, True), suffixes, strict=False):
        own = [state[depth * len(suffixes) + reverse] for state in call.initial]
        bias = getattr(layer, f"bias_ih_{suffix}") if layer.bias else None
        reading = Reading(
            gates=linear(below, getattr(layer, f"weight_ih_{suffix}"), bias),
            initial=tuple(_in_rows(empty, state, torch.zeros_like(state)) for state in own),
            active=active,
            restart=restart_steps(below, call.steps.resets, active, reverse),
            to_initial=call.steps.reset_to_initial,
        )
        hidden, ends = cell(_turned(reading) if reverse else reading)
        hidden = clear_beyond(hidden.flip(1) if reverse else hidden, active)
        finals = tuple(
            _in_rows(empty, end, state.to(end.dtype)) for end, state in zip(ends, own, strict=True)
        )
        read.append((reading, hidden, finals))
    return read


def _turned(reading: Reading) -> Reading:
    """The same steps in the opposite order."""
    active, restart = (None if v is None else v.flip(1) for v in (reading.active, reading.restart))
    return reading._replace(gates=reading.gates.flip(1), active=active, restart=restart)


def _in_rows(rows: Tensor | None, state: Tensor, other: Tensor) -> Tensor:
    """`state` (N, ...), with `other` (N, ...) in these rows (N,): a row of no steps ends as it began."""
    if rows is None:
        return state
    return torch.where(rows.reshape(-1, *[1] * (state.dim() - 1)), other, state)


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a state is carried from step to step: float32 for the short ones."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _wide(gates: Tensor) -> Tensor:
    return gates.to(state_dtype(gates.dtype))
