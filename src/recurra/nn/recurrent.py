"""`LSTM`, `GRU` and `RNN`: torch.nn's own layers, faster, with `lengths`, `resets` and every gate in view.

Each subclasses the layer of the same name in `torch.nn`: same constructor, same `state_dict` both ways, same
results, same errors for the same misuse. On a CPU the native engine runs it (`recurra.engine`); whatever the
engine does not do goes to torch's kernels or to the plain twin, with the same results. New:

* `layer(x, hx, lengths=lengths)`: how many steps of each row count. lengths is (N,), of any integer dtype on
  any device, or a list or array; in any order, zero allowed. Outputs beyond a row's length are zero, final
  states are those at each row's own end, the reverse direction starts at each row's own end, and what `x`
  holds beyond, NaN included, reaches no result and no gradient. It equals `pack_padded_sequence`, layer,
  `pad_packed_sequence` of torch, except that torch refuses rows of no steps: here they end as they began.
* `layer(x, hx, resets=resets)`: resets is (N, T) bool, True where a step begins a new sequence within a row.
  The state is put back to zero before that step, or to hx with `reset_to_initial=True`; in the reverse
  direction after it. Each piece of a row is as if run by itself.
* `layer.trace(x, hx, lengths=lengths)`: one `recurra.types.Trace` per layer and direction, in the order of
  h_n's first axis. Dropout is off in it, as in `eval()`: a trace shows the network, not one draw of noise.
  Autograd goes through a trace as through `forward`.

* `LSTM(..., hx="learned")`: what the layer begins with where a call has no hx is learned:
  `recurra.nn.initial`.

In training, `recurrent_dropout`, `zoneout` and `weight_drop` of the constructor: see `recurra.nn.noise`.

Shapes (axes: see `recurra.types`): x (T, N, F) or, with `batch_first`, (N, T, F); output (T, N, D·H) or
(N, T, D·H); h_0, h_n, c_0 and c_n (L·D, N, H). With a projection, P stands for H in output, h_0 and h_n.
A trace is batch-first whatever `batch_first` says: its gates are (N, T, G, H). So are resets.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence

from recurra.nn.initial import learn_states, learned_hx, told_states, zero_states
from recurra.nn.inputs import Lengths, batch_of, traced_batch
from recurra.nn.noise import regularise, told
from recurra.nn.running import leaf, quick, run, traces, twin
from recurra.types import Trace

Input = TypeVar("Input", Tensor, PackedSequence)  # packed in, packed out


class LSTM(torch.nn.LSTM):
    """`torch.nn.LSTM` with `lengths` and `trace`. The equations: `recurra.engine.cells.lstm`.

    For example::

        layer = LSTM(3, 8, num_layers=2, bidirectional=True, batch_first=True)
        output, (h_n, c_n) = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 16)
        forget = layer.trace(x, lengths=[5, 2])[0].gate("forget")      # (2, 5, 8)
    """

    has_cell_state, state_names = True, ("h_0", "c_0")
    # on the class, so that a layer that `accelerate` swapped has them too
    hx = "zeros"
    recurrent_dropout = weight_drop = 0.0
    zoneout = (0.0, 0.0)  # of the hidden state, of the cell state

    def __init__(
        self,
        *sizes: Any,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        weight_drop: float = 0.0,
        hx: str = "zeros",
        **options: Any,
    ) -> None:
        """torch's arguments, the probabilities of `recurra.nn.noise`, and hx, "zeros" or "learned": see
        `recurra.nn.initial`. Raises ValueError for bad ones, and what torch's layer raises.
        """
        super().__init__(*sizes, **options)
        regularise(self, recurrent_dropout, zoneout, weight_drop)
        learn_states(self, hx)

    def reset_parameters(self) -> None:
        """Draws weights and biases as torch does; learned initial states are zero again."""
        super().reset_parameters()
        zero_states(self)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return super().extra_repr() + told(self) + told_states(self)

    def forward(
        self,
        input: Input,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
        recompute: bool = False,
    ) -> tuple[Input, tuple[Tensor, Tensor]]:
        """The output of the top layer, and the final states (h_n, c_n) of every layer and direction.

        input: a batch, one sequence (T, F), or a PackedSequence. hx: (h_0, c_0), zeros when None, or learned.
        lengths: (N,), resets: (N, T), for a batch only. Shapes: the module's text. recompute: keep no gates
        for backward, which then runs forward once more: far less memory for somewhat more time.
        Raises ValueError for lengths or resets that do not fit; otherwise what `torch.nn.LSTM` raises.
        """
        if hx is None and self.hx == "learned":
            hx = learned_hx(self, input)
        if lengths is None and resets is None and (done := quick(self, input, hx, recompute)):
            return done[0], done[1:]
        if isinstance(input, Proxy):
            return leaf(self, input, hx, lengths=lengths, resets=resets, reset_to_initial=reset_to_initial)
        batch = batch_of(self, input, hx, lengths, resets, reset_to_initial)
        if batch is None:
            return super().forward(input, hx)
        output, h_n, c_n = run(self, batch, recompute)
        return output, (h_n, c_n)

    def __prepare_scriptable__(self) -> torch.nn.Module:
        return twin(self)

    def trace(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Trace, ...]:
        """The gates input, forget, candidate and output, the cell and the hidden state: L·D traces.

        Arguments and errors are those of `forward`. One sequence (T, F) becomes a batch of one row; the rows
        of a PackedSequence come in the order they had before packing.
        """
        if hx is None and self.hx == "learned":
            hx = learned_hx(self, input)
        batch = traced_batch(self, input, hx, lengths, resets, reset_to_initial)
        return traces(self, batch)


class GRU(torch.nn.GRU):
    """`torch.nn.GRU` with `lengths` and `trace`. The equations: `recurra.engine.cells.gru`.

    For example::

        layer = GRU(3, 8, batch_first=True)
        output, h_n = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 8)
        update = layer.trace(x, lengths=[5, 2])[0].gate("update")      # (2, 5, 8)
    """

    has_cell_state, state_names = False, ("h_0",)
    # on the class, so that a layer that `accelerate` swapped has them too
    hx = "zeros"
    recurrent_dropout = weight_drop = 0.0
    zoneout = (0.0, 0.0)  # of the hidden state, of the cell state

    def __init__(
        self,
        *sizes: Any,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        weight_drop: float = 0.0,
        hx: str = "zeros",
        **options: Any,
    ) -> None:
        """torch's arguments, the probabilities of `recurra.nn.noise`, and hx, "zeros" or "learned": see
        `recurra.nn.initial`. Raises ValueError for bad ones, and what torch's layer raises.
        """
        super().__init__(*sizes, **options)
        regularise(self, recurrent_dropout, zoneout, weight_drop)
        learn_states(self, hx)

    def reset_parameters(self) -> None:
        """Draws weights and biases as torch does; learned initial states are zero again."""
        super().reset_parameters()
        zero_states(self)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return super().extra_repr() + told(self) + told_states(self)

    def forward(
        self,
        input: Input,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
        recompute: bool = False,
    ) -> tuple[Input, Tensor]:
        """The output of the top layer, and the final state h_n of every layer and direction.

        input: a batch, one sequence (T, F), or a PackedSequence. hx: h_0, zeros when None, or learned.
        lengths: (N,), resets: (N, T), for a batch only. Shapes: the module's text. recompute: keep no gates
        for backward, which then runs forward once more: far less memory for somewhat more time.
        Raises ValueError for lengths or resets that do not fit; otherwise what `torch.nn.GRU` raises.
        """
        if hx is None and self.hx == "learned":
            hx = learned_hx(self, input)
        if lengths is None and resets is None and (done := quick(self, input, hx, recompute)):
            return done[0], done[1]
        if isinstance(input, Proxy):
            return leaf(self, input, hx, lengths=lengths, resets=resets, reset_to_initial=reset_to_initial)
        batch = batch_of(self, input, hx, lengths, resets, reset_to_initial)
        if batch is None:
            return super().forward(input, hx)
        output, h_n = run(self, batch, recompute)
        return output, h_n

    def __prepare_scriptable__(self) -> torch.nn.Module:
        return twin(self)

    def trace(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Trace, ...]:
        """The gates reset, update and candidate and the hidden state, no cell state: L·D traces.

        Arguments and errors are those of `forward`. One sequence (T, F) becomes a batch of one row; the rows
        of a PackedSequence come in the order they had before packing.
        """
        if hx is None and self.hx == "learned":
            hx = learned_hx(self, input)
        batch = traced_batch(self, input, hx, lengths, resets, reset_to_initial)
        return traces(self, batch)


class RNN(torch.nn.RNN):
    """`torch.nn.RNN`, tanh or relu, with `lengths` and `trace`. The equation: `recurra.engine.cells.rnn`.

    For example::

        layer = RNN(3, 8, nonlinearity="relu", batch_first=True)
        output, h_n = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 8)
        hidden = layer.trace(x, lengths=[5, 2])[0].hidden      # (2, 5, 8)
    """

    has_cell_state, state_names = False, ("h_0",)
    # on the class, so that a layer that `accelerate` swapped has them too
    hx = "zeros"
    recurrent_dropout = weight_drop = 0.0
    zoneout = (0.0, 0.0)  # of the hidden state, of the cell state

    def __init__(
        self,
        *sizes: Any,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        weight_drop: float = 0.0,
        hx: str = "zeros",
        **options: Any,
    ) -> None:
        """torch's arguments, the probabilities of `recurra.nn.noise`, and hx, "zeros" or "learned": see
        `recurra.nn.initial`. Raises ValueError for bad ones, and what torch's layer raises.
        """
        super().__init__(*sizes, **options)
        regularise(self, recurrent_dropout, zoneout, weight_drop)
        learn_states(self, hx)

    def reset_parameters(self) -> None:
        """Draws weights and biases as torch does; learned initial states are zero again."""
        super().reset_parameters()
        zero_states(self)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return super().extra_repr() + told(self) + told_states(self)

    def forward(
        self,
        input: Input,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
        recompute: bool = False,
    ) -> tuple[Input, Tensor]:
        """The output of the top layer, and the final state h_n of every layer and direction.

        input: a batch, one sequence (T, F), or a PackedSequence. hx: h_0, zeros when None, or learned.
        lengths: (N,), resets: (N, T), for a batch only. Shapes: the module's text. recompute: keep no gates
        for backward, which then runs forward once more: far less memory for somewhat more time.
        Raises ValueError for lengths or resets that do not fit; otherwise what `torch.nn.RNN` raises.
        """
        if hx is None and self.hx == "learned":
            hx = learned_hx(self, input)
        if lengths is None and resets is None and (done := quick(self, input, hx, recompute)):
            return done[0], done[1]
        if isinstance(input, Proxy):
            return leaf(self, input, hx, lengths=lengths, resets=resets, reset_to_initial=reset_to_initial)
        batch = batch_of(self, input, hx, lengths, resets, reset_to_initial)
        if batch is None:
            return super().forward(input, hx)
        output, h_n = run(self, batch, recompute)
        return output, h_n

    def __prepare_scriptable__(self) -> torch.nn.Module:
        return twin(self)

    def trace(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Trace, ...]:
        """The hidden state, for a plain RNN has neither gates (G = 0) nor a cell state: L·D traces.

        Arguments and errors are those of `forward`. One sequence (T, F) becomes a batch of one row; the rows
        of a PackedSequence come in the order they had before packing.
        """
        if hx is None and self.hx == "learned":
            hx = learned_hx(self, input)
        batch = traced_batch(self, input, hx, lengths, resets, reset_to_initial)
        return traces(self, batch)
