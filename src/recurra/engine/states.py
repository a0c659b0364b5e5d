"""Every gate and state of a stack, as (N, T, ...) tensors: what a trace shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recurra.engine import native, norms, plain
from recurra.engine.call import call
from recurra.engine.noise import Noise
from recurra.engine.scan import runs_natively
from recurra.engine.stack import GATES, KINDS, STATE_PARTS, WITH_CELL_STATE, Stack, Steps


class CellStates(NamedTuple):
    """One layer in one direction; zero beyond a row's length."""

    gates: Tensor  # (N, T, G, H) activated, in torch's order; G = 0 for a plain RNN
    cell: Tensor | None  # (N, T, H), or None where the cell has none; of an sLSTM c / n
    hidden: Tensor  # (N, T, P)


def states(
    stack: Stack,
    x: Tensor,
    initial: Sequence[Tensor],
    weights: Sequence[Tensor],
    steps: Steps,
    noise: Noise | None = None,
) -> list[CellStates]:
    """The states of all L·D cells. Arguments and errors are those of `scan`, without batch_sizes.

    From the engine's own saved gates; by the plain twin where a gradient is wanted or the engine cannot.
    """
    tensors = (x, *initial, *weights)
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if graph or x.dtype != torch.float32 or not runs_natively(*tensors):
        _, found = plain.run_states(stack, x, initial, weights, steps, noise)
        if stack.kind.startswith("rnn"):
            return [CellStates(s.output.unsqueeze(2)[:, :, :0], None, s.output) for s in found]
        cells = [_shown_cell(stack, s.cell) if stack.kind in WITH_CELL_STATE else None for s in found]
        return [CellStates(s.gates, c, s.output) for s, c in zip(found, cells, strict=True)]
    made = call(stack, x, initial, weights, steps, noise)
    assert made is not None
    made.forward(True)
    kept, places = made.kept(), stack.depth * stack.directions
    if stack.kind.startswith("rnn"):
        return [CellStates(h.unsqueeze(2)[:, :, :0], None, h) for h in _hidden(stack, kept)]
    schedule = made.schedule or native.module().Schedule(made.rows, made.length, 0)
    gates = _gates(stack, made, kept[-2], weights, schedule)
    shown: list[Tensor | None] = [None] * places
    if stack.kind in WITH_CELL_STATE:
        shown = list(_cells(stack, made, kept[-1], schedule))
    return [CellStates(*parts) for parts in zip(gates, shown, _hidden(stack, kept), strict=True)]


# What the engine kept is in its own order (see csrc/layout.h), and is copied once. The cells' parts lie in
# one tensor at equal distances, so that whoever wants all of them side by side need not copy them again.


def _hidden(stack: Stack, kept: Sequence[Tensor]) -> list[Tensor]:
    """(N, T, P) of each cell, parts of the layers' outputs."""
    output, *between = kept[:-2]
    outputs = [h if stack.batch_first else h.transpose(0, 1) for h in (*between, output)]
    return [part for h in outputs for part in torch.split(h, stack.state, dim=-1)]


def _gates(stack: Stack, made: Any, kept: Tensor, weights: Sequence[Tensor], schedule: Any) -> list[Tensor]:
    """(N, T, G, H) of each cell, from (places, entries, width)."""
    kernels, kind = native.kernels(), KINDS.index(stack.kind)
    stride = kernels.gate_stride(kind)
    if stack.kind.startswith("layer_norm"):
        kept = torch.stack([_normed(stack, each, weights, place) for place, each in enumerate(kept)])
        return _unpacked(
            stack, made, kept, schedule, kernels.lanes, [g * stack.hidden for g in range(GATES[kind])]
        )
    offsets = [kernels.gate_offset(kind, gate) for gate in range(GATES[kind])]
    return _unpacked(stack, made, kept, schedule, stride, offsets)


def _cells(stack: Stack, made: Any, kept: Tensor, schedule: Any) -> list[Tensor]:
    """(N, T, H) of each cell, from (places, entries, width)."""
    lanes, parts = native.kernels().lanes, STATE_PARTS.get(stack.kind, 1)
    found = _unpacked(stack, made, kept, schedule, parts * lanes, [part * lanes for part in range(parts)])
    return [_shown_cell(stack, cell.flatten(2)) for cell in found]


def _unpacked(
    stack: Stack, made: Any, kept: Tensor, schedule: Any, stride: int, offsets: list[int]
) -> list[Tensor]:
    """(N, T, parts, H) of each cell, zero beyond a row's length, from (places, entries, width).

    An entry has the parts at these offsets, a vector of units each, and their next vectors `stride` further.
    """
    lanes, (places, _, width) = native.kernels().lanes, kept.shape
    # NumPy asks the system for huge pages, which spares most of the page faults of fresh memory
    size = places, len(offsets), made.rows, made.length, stack.hidden
    grid = torch.from_numpy(np.empty(size, np.float32))
    for place, into in enumerate(grid):
        start, reverse = kept[place].data_ptr(), place % stack.directions == 1
        given = (start, width, stride, lanes, stack.hidden, offsets, reverse)
        schedule.unpack(*given, into.data_ptr(), made.threads)
    return [parts.permute(1, 2, 0, 3) for parts in grid]


def _normed(stack: Stack, kept: Tensor, weights: Sequence[Tensor], place: int) -> Tensor:
    """(entries, G·H): the gates of a cell with layer normalisation, from its sums, which are what is kept."""
    kernels, kind = native.kernels(), KINDS.index(stack.kind)
    lanes, stride, count = kernels.lanes, kernels.gate_stride(kind), GATES[kind]
    entries, width = kept.shape
    blocks = kept.reshape(entries, width // stride, stride // lanes, lanes)
    # of the input, and then of the state
    sums = blocks[:, :, : 2 * count].transpose(1, 2).flatten(2)[..., : stack.hidden]
    own = plain.named_weights(stack, weights, place)
    given: Any = (own["norms"], own["b_ih"], own["b_hh"])
    gates = norms.gates_of(stack.kind, sums[:, :count].flatten(1), sums[:, count:].flatten(1), *given)
    return gates.flatten(1).contiguous()


def _shown_cell(stack: Stack, cell: Tensor) -> Tensor:
    """The cell state (..., H) of a trace: of an sLSTM c / n, which is the same whatever m is."""
    if stack.kind != "slstm":
        return cell
    c, n, _ = cell.chunk(3, dim=-1)
    return torch.where(n == 0, 0, c / n)
