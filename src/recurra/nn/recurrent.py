"""`LSTM`, `GRU` and `RNN`: torch.nn's own layers, which also take `lengths` and show every gate.

Each subclasses the layer of the same name in `torch.nn`: same constructor, same `state_dict` both ways, same
results, same errors for the same misuse. Called as torch's layer is, it *is* torch's layer and runs torch's
kernels. Two things are new:

* `layer(x, hx, lengths=lengths)`: how many steps of each row count. lengths is (N,), of any integer dtype on
  any device, or a list or array; in any order, zero allowed. Outputs beyond a row's length are zero, final
  states are those at each row's own end, the reverse direction starts at each row's own end, and what `x`
  holds beyond, NaN included, reaches no result and no gradient. It equals `pack_padded_sequence`, layer,
  `pad_packed_sequence` of torch, except that torch refuses rows of no steps: here they end as they began.
* `layer.trace(x, hx, lengths=lengths)`: one `recurra.types.Trace` per layer and direction, in the order of
  h_n's first axis. Dropout is off in it, as in `eval()`: a trace shows the network, not one draw of noise.
  Autograd goes through a trace as through `forward`.

Shapes (axes: see `recurra.types`): x (T, N, F) or, with `batch_first`, (N, T, F); output (T, N, D·H) or
(N, T, D·H); h_0, h_n, c_0 and c_n (L·D, N, H). With a projection, P stands for H in output, h_0 and h_n.
A trace is batch-first whatever `batch_first` says: its gates are (N, T, G, H).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from recurra.engine import cells
from recurra.types import GRU_GATES, LSTM_GATES, Trace

Lengths: TypeAlias = Tensor | Sequence[int] | NDArray[np.integer[Any]]
Input = TypeVar("Input", Tensor, PackedSequence)  # packed in, packed out
States = TypeVar("States", cells.LSTMStates, cells.GRUStates, cells.RNNStates)

_PACKED_AND_LENGTHS = (
    "lengths: expected None with a PackedSequence, which has its own, got lengths as well; "
    "leave them out, or give the padded batch instead of the packed one"
)


class LSTM(torch.nn.LSTM):
    """`torch.nn.LSTM` with `lengths` and `trace`. The equations: `recurra.engine.cells.lstm`.

    For example::

        layer = LSTM(3, 8, num_layers=2, bidirectional=True, batch_first=True)
        output, (h_n, c_n) = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 16)
        forget = layer.trace(x, lengths=[5, 2])[0].gate("forget")      # (2, 5, 8)
    """

    def forward(
        self,
        input: Input,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
    ) -> tuple[Input, tuple[Tensor, Tensor]]:
        """The output of the top layer, and the final states (h_n, c_n) of every layer and direction.

        input: a batch, one sequence (T, F), or a PackedSequence. hx: (h_0, c_0), zeros when None.
        lengths: (N,), for a batch only. Shapes: the module's text.
        Raises ValueError for lengths that do not fit the input; otherwise what `torch.nn.LSTM` raises.
        """
        if lengths is None:
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            raise ValueError(_PACKED_AND_LENGTHS)
        batch = _padded_batch(self, input, hx, lengths)
        output, states = _run_stack(self, batch, cells.lstm, self.dropout if self.training else 0.0)
        return output, (torch.stack([s.h_n for s in states]), torch.stack([s.c_n for s in states]))

    def trace(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
    ) -> tuple[Trace, ...]:
        """The gates input, forget, candidate and output, the cell and the hidden state: L·D traces.

        Arguments and errors are those of `forward`. One sequence (T, F) becomes a batch of one row; the rows
        of a PackedSequence come in the order they had before packing.
        """
        batch = _traced_batch(self, input, hx, lengths)
        _, states = _run_stack(self, batch, cells.lstm, dropout=0.0)
        return _traces(self, batch, LSTM_GATES, [(s.gates, s.cell, s.output) for s in states])


class GRU(torch.nn.GRU):
    """`torch.nn.GRU` with `lengths` and `trace`. The equations: `recurra.engine.cells.gru`.

    For example::

        layer = GRU(3, 8, batch_first=True)
        output, h_n = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 8)
        update = layer.trace(x, lengths=[5, 2])[0].gate("update")      # (2, 5, 8)
    """

    def forward(
        self, input: Input, hx: Tensor | None = None, *, lengths: Lengths | None = None
    ) -> tuple[Input, Tensor]:
        """The output of the top layer, and the final state h_n of every layer and direction.

        input: a batch, one sequence (T, F), or a PackedSequence. hx: h_0, zeros when None.
        lengths: (N,), for a batch only. Shapes: the module's text.
        Raises ValueError for lengths that do not fit the input; otherwise what `torch.nn.GRU` raises.
        """
        if lengths is None:
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            raise ValueError(_PACKED_AND_LENGTHS)
        batch = _padded_batch(self, input, hx, lengths)
        output, states = _run_stack(self, batch, cells.gru, self.dropout if self.training else 0.0)
        return output, torch.stack([s.h_n for s in states])

    def trace(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None, *, lengths: Lengths | None = None
    ) -> tuple[Trace, ...]:
        """The gates reset, update and candidate and the hidden state, no cell state: L·D traces.

        Arguments and errors are those of `forward`. One sequence (T, F) becomes a batch of one row; the rows
        of a PackedSequence come in the order they had before packing.
        """
        batch = _traced_batch(self, input, hx, lengths)
        _, states = _run_stack(self, batch, cells.gru, dropout=0.0)
        return _traces(self, batch, GRU_GATES, [(s.gates, None, s.output) for s in states])


class RNN(torch.nn.RNN):
    """`torch.nn.RNN`, tanh or relu, with `lengths` and `trace`. The equation: `recurra.engine.cells.rnn`.

    For example::

        layer = RNN(3, 8, nonlinearity="relu", batch_first=True)
        output, h_n = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 8)
        hidden = layer.trace(x, lengths=[5, 2])[0].hidden      # (2, 5, 8)
    """

    def forward(
        self, input: Input, hx: Tensor | None = None, *, lengths: Lengths | None = None
    ) -> tuple[Input, Tensor]:
        """The output of the top layer, and the final state h_n of every layer and direction.

        input: a batch, one sequence (T, F), or a PackedSequence. hx: h_0, zeros when None.
        lengths: (N,), for a batch only. Shapes: the module's text.
        Raises ValueError for lengths that do not fit the input; otherwise what `torch.nn.RNN` raises.
        """
        if lengths is None:
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            raise ValueError(_PACKED_AND_LENGTHS)
        batch = _padded_batch(self, input, hx, lengths)
        cell = partial(cells.rnn, nonlinearity=self.nonlinearity)
        output, states = _run_stack(self, batch, cell, self.dropout if self.training else 0.0)
        return output, torch.stack([s.h_n for s in states])

    def trace(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None, *, lengths: Lengths | None = None
    ) -> tuple[Trace, ...]:
        """The hidden state, for a plain RNN has neither gates (G = 0) nor a cell state: L·D traces.

        Arguments and errors are those of `forward`. One sequence (T, F) becomes a batch of one row; the rows
        of a PackedSequence come in the order they had before packing.
        """
        batch = _traced_batch(self, input, hx, lengths)
        _, states = _run_stack(self, batch, partial(cells.rnn, nonlinearity=self.nonlinearity), dropout=0.0)
        return _traces(self, batch, (), [(s.output.unsqueeze(2)[:, :, :0], None, s.output) for s in states])


class _Batch(NamedTuple):
    """What a layer was called with, checked."""

    x: Tensor  # (N, T, F)
    initial: tuple[Tensor, ...]  # h_0, and c_0 where the cell has one, each (L·D, N, H|P)
    lengths: Tensor  # (N,) int64, on x's device


def _run_stack(
    layer: torch.nn.RNNBase, batch: _Batch, cell: Callable[..., States], dropout: float
) -> tuple[Tensor, list[States]]:
    """Every layer and direction, one after the other: the top layer's output, and the states of all L·D.

    cell: one of `recurra.engine.cells`, which runs one layer in one direction.
    dropout: its probability between layers, 0 outside training.
    The only function here that runs a cell: a faster engine takes its place, and nothing else changes.
    """
    directions = 2 if layer.bidirectional else 1
    weights = _weights(layer)
    states: list[States] = []
    below = batch.x
    for lowest in range(0, len(weights), directions):
        if lowest > 0 and dropout > 0:
            below = drop(below, dropout)
        for place in range(lowest, lowest + directions):
            initial = [state[place] for state in batch.initial]
            reverse = place > lowest
            states.append(cell(below, *initial, **weights[place], lengths=batch.lengths, reverse=reverse))
        below = torch.cat([s.output for s in states[lowest:]], dim=-1)
    return below if layer.batch_first else below.transpose(0, 1).contiguous(), states


def _weights(layer: torch.nn.RNNBase) -> list[dict[str, Tensor | None]]:
    """The weights of each layer and direction (L·D), by the names that the cells give them."""
    names = ["w_ih", "w_hh"]
    names += ["b_ih", "b_hh"] if layer.bias else []
    names += ["w_hr"] if layer.proj_size > 0 else []
    no_bias: dict[str, Tensor | None] = {"b_ih": None, "b_hh": None}
    return [no_bias | dict(zip(names, weights, strict=True)) for weights in layer.all_weights]


def _traces(
    layer: torch.nn.RNNBase,
    batch: _Batch,
    gate_names: tuple[str, ...],
    states: list[tuple[Tensor, Tensor | None, Tensor]],
) -> tuple[Trace, ...]:
    """A Trace for the (gates, cell, hidden) of each layer and direction."""
    directions = 2 if layer.bidirectional else 1
    return tuple(
        Trace(place // directions, place % directions == 1, gate_names, gates, cell, hidden, batch.lengths)
        for place, (gates, cell, hidden) in enumerate(states)
    )


def _padded_batch(layer: torch.nn.RNNBase, input: Tensor, hx: Any, lengths: Lengths) -> _Batch:
    """What `forward` was called with, when that was with lengths."""
    if input.dim() == 2:
        raise ValueError(
            "lengths: expected an input of 3 dimensions, a batch, got an input of 2; leave lengths out, "
            f"or make it a batch of one row with input.unsqueeze({0 if layer.batch_first else 1})"
        )
    return _checked_batch(layer, input, hx, lengths)


def _traced_batch(
    layer: torch.nn.RNNBase, input: Tensor | PackedSequence, hx: Any, lengths: Lengths | None
) -> _Batch:
    """What `trace` was called with, packed and unbatched input as a batch."""
    if isinstance(input, PackedSequence):
        if lengths is not None:
            raise ValueError(_PACKED_AND_LENGTHS)
        padded, steps = pad_packed_sequence(input, batch_first=layer.batch_first)
        return _checked_batch(layer, padded, hx, steps)
    if lengths is not None:
        return _padded_batch(layer, input, hx, lengths)
    if input.dim() == 2:
        input = input.unsqueeze(0 if layer.batch_first else 1)
        if hx is not None:
            hx = hx.unsqueeze(1) if isinstance(hx, Tensor) else tuple(state.unsqueeze(1) for state in hx)
    return _checked_batch(layer, input, hx, None)


def _checked_batch(layer: torch.nn.RNNBase, input: Tensor, hx: Any, lengths: Lengths | None) -> _Batch:
    """An input (T, N, F) or (N, T, F) with its states and lengths. Raises torch's errors."""
    if input.dim() != 3:
        name = type(layer).__name__
        raise ValueError(f"{name}: Expected input to be 2D or 3D, got {input.dim()}D instead")
    initial = _checked_states(layer, input, hx)
    x = input if layer.batch_first else input.transpose(0, 1)
    if x.shape[1] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    return _Batch(x, initial, _checked_lengths(lengths, x, layer.batch_first))


def _checked_states(layer: torch.nn.RNNBase, input: Tensor, hx: Any) -> tuple[Tensor, ...]:
    """The initial states that fit the input, each (L·D, N, H|P), zeros when hx is None."""
    layer._update_flat_weights()  # torch's checks read them, and functional_call may have changed them
    h_size = layer.get_expected_hidden_size(input, None)
    states: tuple[Tensor, ...]
    if isinstance(layer, torch.nn.LSTM):
        c_size = layer.get_expected_cell_size(input, None)
        states = (input.new_zeros(h_size), input.new_zeros(c_size)) if hx is None else (hx[0], hx[1])
        layer.check_forward_args(input, states, None)
    else:
        states = (input.new_zeros(h_size) if hx is None else hx,)
        layer.check_forward_args(input, states[0], None)
    for state in states:
        if state.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            raise RuntimeError(
                f"hx: expected the input's dtype {input.dtype}, got {state.dtype}; "
                f"convert it with .to({input.dtype})"
            )
    return states


def _checked_lengths(lengths: Lengths | None, x: Tensor, batch_first: bool) -> Tensor:
    """lengths as (N,) int64 on the device of x (N, T, F); T for every row when None. Raises ValueError."""
    rows, steps = x.shape[:2]
    if lengths is None:
        return torch.full((rows,), steps, device=x.device)
    counts = lengths if isinstance(lengths, Tensor) else _as_tensor(lengths)
    if counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool:
        raise ValueError(
            f"lengths: expected numbers of steps in an integer dtype, got {counts.dtype}; "
            "convert them with .long(), or a mask (N, T) with mask.sum(1)"
        )
    if counts.shape != (rows,):
        axes = "(N, T, F), as batch_first is True" if batch_first else "(T, N, F), as batch_first is False"
        raise ValueError(
            f"lengths: expected one for each of the {rows} rows, shape ({rows},), got {tuple(counts.shape)}; "
            f"the input was read as {axes}: give each row a length, or change batch_first"
        )
    counts = counts.long()
    outside = (counts < 0) | (counts > steps)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"lengths: expected 0 to {steps}, the steps of the input, got {int(counts[row])} in row {row}; "
            "count the steps that this row has, or pad the input to the longest row"
        )
    return counts.to(x.device)


def _as_tensor(lengths: Sequence[int] | NDArray[np.integer[Any]]) -> Tensor:
    """A list or array of lengths as a tensor, on the CPU whatever torch's default device is."""
    try:
        # a copy: an array may be read-only or run backwards, and torch takes neither
        return torch.from_numpy(np.array(lengths, dtype=None if len(lengths) else np.int64))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"lengths: expected a tensor, list or array of integers, got {lengths!r}; "
            "give each row its number of steps"
        ) from error
