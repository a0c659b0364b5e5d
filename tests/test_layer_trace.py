"""`layer.trace` against the equations, one step of one row at a time, and against the layer's output."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from test_layers import LENGTHS, H, N, T, assert_all_close, batch, every_kind, flat, leaves, pair, start
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from recurra.types import GRU_GATES, LSTM_GATES


def step(layer: Any, place: int, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of one row, by the equations: x (F), h (H|P), c (H) to gates (G, H), next h and next c."""
    weights = layer.all_weights[place]
    b_ih, b_hh = weights[2:4] if layer.bias else (0.0, 0.0)
    new, past = weights[0] @ x + b_ih, weights[1] @ h + b_hh
    if layer.mode == "LSTM":
        i, f, g, o = (new + past).view(4, H)
        gates = torch.stack([i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()])
        c = gates[1] * c + gates[0] * gates[2]
        h = gates[3] * c.tanh()
        return gates, weights[-1] @ h if layer.proj_size else h, c
    if layer.mode == "GRU":
        new, past = new.view(3, H), past.view(3, H)
        r, z = (new[:2] + past[:2]).sigmoid()
        n = (new[2] + r * past[2]).tanh()
        return torch.stack([r, z, n]), n + z * (h - n), c
    h = (new + past).tanh() if layer.mode == "RNN_TANH" else (new + past).relu()
    return h.new_zeros(0, H), h, c


@torch.no_grad()
def steps_one_by_one(
    layer: Any, x: Tensor, hx: Any, lengths: list[int]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Gates, hidden and cell states of each layer and direction, row by row: without padding or masks."""
    below = x if layer.batch_first else x.transpose(0, 1)
    directions = 2 if layer.bidirectional else 1
    found = []
    for place in range(layer.num_layers * directions):
        count = {"LSTM": 4, "GRU": 3}.get(layer.mode, 0)
        gates, cell = x.new_zeros(N, T, count, H), x.new_zeros(N, T, H)
        hidden = x.new_zeros(N, T, layer.proj_size or H)
        for row, length in enumerate(lengths):
            h, c = (leaves(hx)[0][place, row], leaves(hx)[-1][place, row])
            for t in reversed(range(length)) if place % directions else range(length):
                gates[row, t], h, c = step(layer, place, below[row, t], h, c)
                hidden[row, t], cell[row, t] = h, c
        found.append((gates, hidden, cell))
        if (place + 1) % directions == 0:
            below = torch.cat([hidden for _, hidden, _ in found[-directions:]], dim=-1)
    return found


@every_kind
@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 1},
        {"num_layers": 2, "bias": False, "batch_first": True},
        {"num_layers": 3, "bidirectional": True, "dropout": 0.5},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
    ],
)
def test_trace_is_what_happened(kind: str, options: dict[str, Any]) -> None:
    ours, _ = pair(kind, **options)
    x, hx, lengths = batch(ours), start(ours), [4, 0, 1, 7, 0, 2, 9]
    traces = ours.train().trace(x, hx, lengths=lengths)
    directions = 2 if ours.bidirectional else 1
    places = list(itertools.product(range(ours.num_layers), (False, True)[:directions]))
    assert [(trace.layer, trace.reverse) for trace in traces] == places
    for trace, (gates, hidden, cell) in zip(traces, steps_one_by_one(ours, x, hx, lengths), strict=True):
        assert trace.gate_names == {"LSTM": LSTM_GATES, "GRU": GRU_GATES}.get(ours.mode, ())
        assert trace.lengths.tolist() == lengths
        assert trace.lengths.dtype == torch.int64
        assert_all_close(trace.gates.detach(), gates)
        assert_all_close(trace.hidden.detach(), hidden)
        assert (trace.cell is None) == (ours.mode != "LSTM")
        if trace.cell is not None:
            assert_all_close(trace.cell.detach(), cell)
        for index, name in enumerate(trace.gate_names):
            assert torch.equal(trace.gate(name), trace.gates[:, :, index])


@every_kind
@pytest.mark.parametrize("first", [False, True])
def test_trace_ends_in_the_output_and_the_final_states(kind: str, first: bool) -> None:
    ours, _ = pair(kind, num_layers=2, bidirectional=True, batch_first=first, dropout=0.5)
    ours.eval()
    x, hx = batch(ours), start(ours)
    for lengths in (None, LENGTHS):
        traces = ours.trace(x, hx, lengths=lengths)
        output, *states = flat(ours(x, hx, lengths=lengths))
        top = torch.cat([trace.hidden for trace in traces[-2:]], dim=-1)
        assert_all_close(top if first else top.transpose(0, 1), output)
        for place, trace in enumerate(traces):
            last = torch.zeros_like(trace.lengths) if trace.reverse else trace.lengths - 1
            assert_all_close(trace.hidden[torch.arange(N), last], states[0][place])
            if trace.cell is not None:
                assert_all_close(trace.cell[torch.arange(N), last], states[1][place])


@every_kind
@pytest.mark.parametrize("first", [False, True])
def test_trace_of_packed_and_of_unbatched_input(kind: str, first: bool) -> None:
    ours, _ = pair(kind, num_layers=2, bidirectional=True, batch_first=first)
    x, hx = batch(ours), start(ours)
    packed = pack_padded_sequence(x, LENGTHS, batch_first=first, enforce_sorted=False)
    for got, expected in zip(ours.trace(packed, hx), ours.trace(x, hx, lengths=LENGTHS), strict=True):
        assert torch.equal(got.gates, expected.gates)
        assert torch.equal(got.hidden, expected.hidden)
        assert torch.equal(got.lengths, expected.lengths)
    row = 3
    alone = x[row] if first else x[:, row]
    place = tuple(state[:, row] for state in hx) if isinstance(hx, tuple) else hx[:, row]
    for got, expected in zip(ours.trace(alone, place), ours.trace(x, hx), strict=True):
        assert_all_close(got.hidden, expected.hidden[row : row + 1])
        assert_all_close(got.gates, expected.gates[row : row + 1])
        assert got.lengths.tolist() == [T]


def test_gradients_go_through_a_trace() -> None:
    ours, _ = pair("LSTM", num_layers=2, batch_first=True)
    x = batch(ours).requires_grad_()
    (slope,) = torch.autograd.grad(ours.trace(x)[0].gate("forget")[:, 3].sum(), x)
    assert (slope[:, :4] != 0).all()
    assert (slope[:, 4:] == 0).all()
    with pytest.raises(ValueError, match=r"gate: expected one of this cell's gates.*got 'memory'"):
        ours.trace(x)[0].gate("memory")
