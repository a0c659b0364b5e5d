"""`Stacked`: recurrent layers of any sizes on one another, with connections past them and states that carry.

torch's `num_layers` gives each layer the same size, puts two directions side by side, and begins at zero.
Here each layer has its own size, two directions may be summed or averaged, the input of a layer may go past
it (residual or highway), and the initial states may be learned. Each layer is one of `recurra.nn`, so
lengths, resets, noise and traces are theirs, and mean what they mean in `recurra.nn.recurrent`.

For layer l, x^l is its input at one step, h^l what comes of its hidden states when the directions are merged,
and P the identity, or a learned matrix without a bias where sizes differ. From the second layer on::

    x^{l+1} = h^l                                  no connection
    x^{l+1} = h^l + P x^l                          "residual": He et al. 2016, eqs. 1 and 2; Wu et al. 2016
    x^{l+1} = t ⊙ h^l + (1 - t) ⊙ P x^l            "highway": Srivastava et al. 2015, eq. 3, over a layer
          t = σ(W x^l + b)                         and not over a cell as in Zhang et al. 2016

The first layer has no connection: its input is features, of another meaning and scale, and whether one goes
past it should not depend on a coincidence of sizes. b begins at -1 (Srivastava et al., section 2.2), so that
a deep stack begins as a shallow one. Dropout is on what a layer reads; what goes past it is not dropped.

- He, Zhang, Ren and Sun 2016: Deep residual learning for image recognition.
- Srivastava, Greff and Schmidhuber 2015: Highway networks.
- Wu et al. 2016: Google's neural machine translation system, section 3.1: residuals between LSTM layers.
- Zhang, Chen, Yu, Yao, Khudanpur and Glass 2016: Highway long short-term memory RNNs for distant speech
  recognition.

Shapes (axes: see `recurra.types`; H and P are each layer's own): x (T, N, F) or, with `batch_first`,
(N, T, F), or (T, F) for one sequence; output the same with D·H of the top layer in the place of F, or with H
where directions are merged. states: one entry for each layer, (h_n, c_n) or h_n, (D, N, H) each, without N
for one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.utils.rnn import PackedSequence

from recurra.engine.cells import clear_beyond
from recurra.nn.attention import check_sizes, valid_steps
from recurra.nn.initial import learned_states, state_sizes
from recurra.nn.inputs import Lengths, checked_lengths, checked_resets, read_as
from recurra.nn.noise import checked_chance
from recurra.nn.recurrent import GRU, LSTM, RNN
from recurra.nn.variants import CoupledLSTM, LayerNormGRU, LayerNormLSTM, PeepholeLSTM
from recurra.types import Trace

State: TypeAlias = Tensor | tuple[Tensor, Tensor]  # h_n, or of a cell with a cell state (h_n, c_n)

CELLS: dict[str, Any] = {
    "LSTM": LSTM,
    "GRU": GRU,
    "RNN": RNN,
    "PeepholeLSTM": PeepholeLSTM,
    "CoupledLSTM": CoupledLSTM,
    "LayerNormLSTM": LayerNormLSTM,
    "LayerNormGRU": LayerNormGRU,
}
HIGHWAY_BIAS = -1.0


class Residual(torch.nn.Module):
    """h + P x: what a layer made of its input, and the input (He et al. 2016, eqs. 1 and 2).

    For example::

        past = Residual(6, 8)
        assert past(torch.zeros(5, 8), torch.zeros(5, 6)).eq(0).all()
    """

    def __init__(self, below: int, size: int, **factory: Any) -> None:
        """below: the size of x. size: that of h. factory: device and dtype, as torch's layers have them."""
        super().__init__()
        self.projection = _projection(below, size, factory)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """h (..., size), x (..., below); the result is of the form of h."""
        past: Tensor = self.projection(x)
        return h + past


class Highway(torch.nn.Module):
    """t ⊙ h + (1 - t) ⊙ P x with t = σ(W x + b): the transform gate t (Srivastava et al. 2015, eq. 3).

    For example::

        past = Highway(8, 8)
        gate = past.gate(torch.randn(5, 8)).sigmoid()      # about 0.27 at first: most goes past
    """

    def __init__(self, below: int, size: int, **factory: Any) -> None:
        """below: the size of x. size: that of h. factory: device and dtype, as torch's layers have them."""
        super().__init__()
        self.gate = torch.nn.Linear(below, size, **factory)
        self.projection = _projection(below, size, factory)
        torch.nn.init.constant_(self.gate.bias, HIGHWAY_BIAS)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """h (..., size), x (..., below); the result is of the form of h."""
        past: Tensor = self.projection(x)
        share: Tensor = self.gate(x).sigmoid()
        return past + share * (h - past)


CONNECTIONS: dict[str, Any] = {"residual": Residual, "highway": Highway}


class _Call(NamedTuple):
    """What a stack was called with, checked, one sequence as a batch of one row."""

    x: Tensor  # (T, N, F), or (N, T, F) with batch_first
    states: tuple[tuple[Tensor, ...], ...]  # of each layer (D, N, H) each; none: the layer's own
    lengths: Tensor | None  # (N,) int64
    resets: Tensor | None  # (N, T) bool
    reset_to_initial: bool
    from_hx: tuple[Tensor, ...]  # of each direction: `_before_resets`, where resets put back other states
    valid: Tensor | None  # (N, T, 1), or (T, N, 1): True within a row's length
    unbatched: bool


class Stacked(torch.nn.Module):
    """A stack of recurrent layers, each of its own size; the module's text has the equations and shapes.

    The state that one call returns is what the next one takes, whatever the cell and the number of layers.
    With `detach=True` the graph is cut there: truncated backpropagation through time, one stretch of a long
    sequence after another, with memory for no more than one.

    For example::

        stack = Stacked(3, (16, 8), bidirectional=True, merge="sum", connection="residual", batch_first=True)
        output, states = stack(torch.randn(2, 5, 3), lengths=[5, 2])      # (2, 5, 8), two pairs (h_n, c_n)

        model = Stacked(3, (16, 8), cell="GRU", hx="learned", batch_first=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, target, states = torch.randn(2, 20, 3), torch.randn(2, 20, 8), None
        for start in range(0, 20, 5):
            now = slice(start, start + 5)
            output, states = model(x[:, now], states, detach=True)
            loss = (output - target[:, now]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """

    def __init__(
        self,
        input_size: int,
        hidden_sizes: Sequence[int],
        *,
        cell: str = "LSTM",
        bidirectional: bool = False,
        merge: str = "concat",
        connection: str | None = None,
        hx: str = "zeros",
        dropout: float = 0.0,
        batch_first: bool = False,
        bias: bool = True,
        **options: Any,
    ) -> None:
        """input_size: F. hidden_sizes: H of each layer, the lowest first.

        cell: one of CELLS, such as "LSTM", the class of `recurra.nn`. merge: how
        two directions become the next layer's input and the output, "concat", "sum" or "mean"; or "none", as
        "concat" but with the output as a pair (forward, reverse). connection: None, "residual" or "highway".
        hx: "zeros", or "learned": each layer learns what it begins with where a call has no hx, as parameters
        `layers.0.h_0` (D, H) and so on (`recurra.nn.initial`). dropout: the probability that a number
        between two layers is dropped in training. bias: of the layers. options: given to each layer:
        proj_size, recurrent_dropout, zoneout, weight_drop, nonlinearity, device, dtype.

        Raises ValueError for a size, name or probability that does not fit, and what the layers raise.
        """
        super().__init__()
        check_sizes(input_size=input_size)
        _check_hidden_sizes(hidden_sizes)
        _check_name("cell", cell, tuple(CELLS))
        _check_name("merge", merge, ("concat", "sum", "mean", "none"))
        _check_name("connection", connection, (None, *CONNECTIONS))
        if merge == "none" and not bidirectional:
            raise ValueError(
                'merge: expected "concat" with one direction, which makes no pair, got "none"; '
                "leave merge out, or give bidirectional=True"
            )
        if "num_layers" in options:
            raise ValueError(
                f"num_layers: expected none, as hidden_sizes has one size for each layer, got "
                f"{options['num_layers']!r}; leave it out, or give hidden_sizes=(8,) * 3 for three of size 8"
            )
        self.input_size, self.hidden_sizes = input_size, tuple(hidden_sizes)
        self.cell, self.bidirectional, self.merge = cell, bidirectional, merge
        self.connection, self.hx, self.batch_first = connection, hx, batch_first
        self.dropout = checked_chance("dropout", dropout)
        factory = {name: options[name] for name in ("device", "dtype") if name in options}
        directions = 2 if bidirectional else 1
        widen = directions if merge in ("concat", "none") else 1
        self.layers, self.connections = torch.nn.ModuleList(), torch.nn.ModuleDict()
        below = input_size
        for place, hidden in enumerate(self.hidden_sizes):
            how = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional, "hx": hx}
            layer = CELLS[cell](below, hidden, **how, **options)
            self.layers.append(layer)
            size = widen * (layer.proj_size or hidden)
            if connection is not None and place > 0:
                self.connections[str(place)] = CONNECTIONS[connection](below, size, **factory)
            below = size
        self.output_size = below  # of the last axis of the output; of both directions where they are a pair

    def extra_repr(self) -> str:
        """What `repr` shows besides the layers and connections."""
        told = ("cell", "bidirectional", "merge", "connection", "hx", "dropout", "batch_first")
        words = [f"{name}={getattr(self, name)!r}" for name in told]
        return ", ".join([f"{self.input_size}, {self.hidden_sizes}", *words])

    def forward(
        self,
        x: Tensor,
        hx: Sequence[State] | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
        detach: bool = False,
        recompute: bool = False,
    ) -> tuple[Tensor | tuple[Tensor, Tensor], tuple[State, ...]]:
        """The output of the top layer, or with merge="none" that of each direction, and the final states.

        x: a batch or one sequence. hx: what an earlier call returned as states; None begins at zeros or at
        the learned states. lengths: (N,), how many steps of each row count; output beyond is zero. resets:
        (N, T) bool, True where a step begins a new sequence: the state is put back to zero before it, or
        with `reset_to_initial=True` to the learned states, also where hx was given, or to hx where the stack
        has none. detach: cut the graph at hx: no gradient flows into the call that made it. recompute: keep
        no gates for backward (`recurra.nn.LSTM.forward`).

        Resets to the learned states with hx given cost twice the work, for each layer then reads each row
        once from either state; recurrent dropout then drops other units after a row's first reset than before
        it. Raises ValueError for x, hx, lengths or resets that do not fit.
        """
        call = self._checked(x, hx, lengths, resets, reset_to_initial, detach)
        below = call.x
        finals: list[tuple[Tensor, ...]] = []
        for place in range(len(self.layers)):
            read = self._drop(below) if place > 0 else below
            output, state = self._run(place, read, call, recompute)
            finals.append(state)
            below = self._join(place, output, below, call.valid)
        if call.unbatched:
            below = below.squeeze(0 if self.batch_first else 1)
            finals = [tuple(state.squeeze(1) for state in states) for states in finals]
        states = tuple(_as_layer(layer, state) for layer, state in zip(self.layers, finals, strict=True))
        if self.merge == "none":
            forward, reverse = below.chunk(2, -1)
            return (forward, reverse), states
        return below, states

    def trace(
        self,
        x: Tensor,
        hx: Sequence[State] | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Trace, ...]:
        """Every gate, cell state and hidden state: a `Trace` for each layer and direction, lowest first.

        Arguments and errors are those of `forward`. Dropout is off. One sequence becomes a batch of one row.
        `hidden` is what a layer computed, before directions are merged and anything that goes past is added.

        For example::

            stack = Stacked(3, (16, 8), batch_first=True)
            lower, upper = stack.trace(torch.randn(2, 5, 3), lengths=[5, 2])
            assert upper.layer == 1 and upper.gate("forget").shape == (2, 5, 8)
        """
        call = self._checked(x, hx, lengths, resets, reset_to_initial, False)
        below = call.x
        found: list[Trace] = []
        for place in range(len(self.layers)):
            traces = self._trace(place, below, call)
            found += [replace(trace, layer=place) for trace in traces]
            hidden = torch.cat([trace.hidden for trace in traces], -1)
            output = hidden if self.batch_first else hidden.transpose(0, 1)
            below = self._join(place, output, below, call.valid)
        return tuple(found)

    def _drop(self, below: Tensor) -> Tensor:
        """Time first, whatever the caller's order: so a seed gives the masks that it gives torch's layer."""
        if not (self.training and self.dropout):
            return below
        if not self.batch_first:
            return drop(below, self.dropout)
        return drop(below.transpose(0, 1).contiguous(), self.dropout).transpose(0, 1)

    def _join(self, place: int, output: Tensor, below: Tensor, valid: Tensor | None) -> Tensor:
        """What the next layer reads: a layer's output, its directions merged, and what goes past it."""
        if self.bidirectional and self.merge in ("sum", "mean"):
            forward, reverse = output.chunk(2, -1)
            output = forward + reverse if self.merge == "sum" else (forward + reverse) / 2
        if str(place) not in self.connections:
            return output
        joined: Tensor = self.connections[str(place)](output, below)
        return clear_beyond(joined, valid)

    def _checked(
        self, x: Any, hx: Any, lengths: Any, resets: Any, reset_to_initial: bool, detach: bool
    ) -> _Call:
        """What `forward` was called with. Raises ValueError."""
        _check_input(x, self.input_size, self.batch_first)
        unbatched, axis = x.dim() == 2, 0 if self.batch_first else 1
        if unbatched and (lengths is not None or resets is not None):
            name = "lengths" if lengths is not None else "resets"
            raise ValueError(
                f"{name}: expected x of 3 dimensions, a batch, got one of 2; leave {name} out, "
                f"or make it a batch of one row with x.unsqueeze({axis})"
            )
        x = x.unsqueeze(axis) if unbatched else x
        rows_first = x if self.batch_first else x.transpose(0, 1)
        rows = rows_first.shape[0]
        counts = valid = None
        if lengths is not None:
            counts = checked_lengths(lengths, rows_first, "the input", read_as(self.batch_first))
            valid = valid_steps(counts, rows_first)
        turned = valid if valid is None or self.batch_first else valid.T
        from_hx: tuple[Tensor, ...] = ()
        if hx is not None and resets is not None and reset_to_initial and self.hx == "learned":
            from_hx = _before_resets(checked_resets(resets, rows_first), valid)[: 1 + self.bidirectional]
        states: tuple[tuple[Tensor, ...], ...] = ((),) * len(self.layers)
        if hx is not None:
            states = self._checked_states(hx, None if unbatched else rows)
        if detach and hx is not None:
            states = tuple(tuple(state.detach() for state in own) for own in states)
        return _Call(x, states, counts, resets, reset_to_initial, from_hx, turned, unbatched)

    def _checked_states(self, hx: Any, rows: int | None) -> tuple[tuple[Tensor, ...], ...]:
        """hx as (D, N, H) of each state of each layer; rows: N, or None for one sequence."""
        advice = "give what an earlier call on the same rows returned as states"
        if not isinstance(hx, (tuple, list)) or len(hx) != len(self.layers):
            got = f"{len(hx)} entries" if isinstance(hx, (tuple, list)) else type(hx).__name__
            raise ValueError(
                f"hx: expected a tuple of {len(self.layers)} entries, one for each layer, got {got}; {advice}"
            )
        checked = []
        for place, (layer, given) in enumerate(zip(self.layers, hx, strict=True)):
            own = given if isinstance(given, (tuple, list)) else (given,)
            middle = () if rows is None else (rows,)
            directions = 2 if self.bidirectional else 1
            wanted = [(directions, *middle, units) for units in state_sizes(layer).values()]
            found = [tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__ for s in own]
            if found != wanted:
                names = "(h, c)" if layer.has_cell_state else "h"
                raise ValueError(
                    f"hx: expected {names} of {', '.join(map(str, wanted))} for layer {place}, "
                    f"got {', '.join(map(str, found))}; {advice}"
                )
            checked.append(tuple(state.unsqueeze(1) for state in own) if rows is None else tuple(own))
        return tuple(checked)

    def _run(
        self, place: int, below: Tensor, call: _Call, recompute: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A layer's output, directions side by side, and its final states, (D, N, H) each."""
        layer: Any = self.layers[place]
        axis = 0 if self.batch_first else 1
        x, hx, how = self._arguments(place, below, call)
        output, finals = layer(x, hx, recompute=recompute, **how)
        states = tuple(finals) if layer.has_cell_state else (finals,)
        if not call.from_hx:
            return output, states
        parts = output.chunk(len(call.from_hx), -1)
        masks = [mask if self.batch_first else mask.T for mask in call.from_hx]
        output = torch.cat([_either(m, part, axis) for m, part in zip(masks, parts, strict=True)], -1)
        ends = torch.stack([mask[:, end] for mask, end in zip(call.from_hx, (-1, 0), strict=False)])
        return output, tuple(_either(ends, state, 1) for state in states)

    def _trace(self, place: int, below: Tensor, call: _Call) -> tuple[Trace, ...]:
        """A layer's traces, one for each direction."""
        x, hx, how = self._arguments(place, below, call)
        layer: Any = self.layers[place]
        traces: tuple[Trace, ...] = layer.trace(x, hx, **how)
        if not call.from_hx:
            return traces
        return tuple(
            replace(
                trace,
                gates=_either(mask, trace.gates, 0),
                cell=None if trace.cell is None else _either(mask, trace.cell, 0),
                hidden=_either(mask, trace.hidden, 0),
                lengths=trace.lengths.chunk(2)[0],
            )
            for mask, trace in zip(call.from_hx, traces, strict=True)
        )

    def _arguments(self, place: int, below: Tensor, call: _Call) -> tuple[Tensor, Any, dict[str, Any]]:
        """x, hx and the rest for a layer: where resets put back states other than hx, all rows twice.

        In the first half rows begin at hx, in the second at the learned states, to which resets put back.
        """
        layer, states, lengths, resets = self.layers[place], call.states[place], call.lengths, call.resets
        if call.from_hx and resets is not None:
            rows = resets.shape[0]
            below = torch.cat((below, below), 0 if self.batch_first else 1)
            learned = learned_states(layer, rows)
            states = tuple(torch.cat(pair, 1) for pair in zip(states, learned, strict=True))
            lengths = None if lengths is None else torch.cat((lengths, lengths))
            resets = torch.cat((resets, resets))
        how = {"lengths": lengths, "resets": resets, "reset_to_initial": call.reset_to_initial}
        return below, _as_layer(layer, states) if states else None, how


def _before_resets(resets: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """For the forward and the reverse direction (N, T) bool: True where no reset lies between hx and a step.

    resets and valid: (N, T) bool. The reverse direction begins at the row's end, and is put back after the
    step that is marked.
    """
    marks = (resets if valid is None else resets & valid).long()
    upto = marks.cumsum(1)
    return upto == 0, upto == upto[:, -1:]


def _either(first: Tensor, both: Tensor, axis: int) -> Tensor:
    """The first half of `both` along this axis where `first` is True, the second where it is not.

    first: bool, of the shape of a half as far as it has axes.
    """
    one, other = both.chunk(2, axis)
    return torch.where(first.reshape(*first.shape, *[1] * (one.dim() - first.dim())), one, other)


def _as_layer(layer: Any, states: tuple[Tensor, ...]) -> Any:
    """States as the layer's class takes and returns them: (h, c), or h."""
    return states if layer.has_cell_state else states[0]


def _projection(below: int, size: int, factory: dict[str, Any]) -> torch.nn.Module:
    """P, without a bias, so that what is zero beyond a row's length stays so."""
    if below == size:
        return torch.nn.Identity()
    return torch.nn.Linear(below, size, bias=False, **factory)


def _check_name(name: str, value: Any, known: tuple[str | None, ...]) -> None:
    if not (value is None or isinstance(value, str)) or value not in known:
        choices = ", ".join(map(repr, known))
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}; name one of these")


def _check_hidden_sizes(sizes: Any) -> None:
    fits = isinstance(sizes, Sequence) and not isinstance(sizes, str) and len(sizes) > 0
    if not fits or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(
            "hidden_sizes: expected one whole number of 1 or more for each layer, the lowest first, "
            f"got {sizes!r}; give (8,) for one layer of size 8, (8, 8) for two"
        )


def _check_input(x: Any, features: int, batch_first: bool) -> None:
    if isinstance(x, PackedSequence):
        raise ValueError(
            "x: expected a padded batch, got a PackedSequence; give the batch as it was before packing, and "
            "its lengths as lengths: pad_packed_sequence makes both"
        )
    if not isinstance(x, Tensor) or x.dim() not in (2, 3) or x.shape[-1] != features:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        axes = "(N, T, F)" if batch_first else "(T, N, F)"
        raise ValueError(
            f"x: expected {axes}, or (T, F) for one sequence, with F = {features}, got {got}; "
            "give the features that the stack was made for as the last axis"
        )
