"""Every gate and state of a stack, as (N, T, ...) tensors: what a trace shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.engine import native, plain
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
        return [CellStates(s.gates, _shown_cell(stack, getattr(s, "cell", None)), s.output) for s in found]
    made = call(stack, x, initial, weights, steps, noise)
    assert made is not None
    made.forward(True)
    kept = made.kept()
    return [_decode(stack, made, kept, place) for place in range(stack.depth * stack.directions)]


def _decode(stack: Stack, made: Any, kept: tuple[Tensor, ...], place: int) -> CellStates:
    """What the engine kept of one cell, out of its own order (see csrc/layout.h) and into (N, T, ...)."""
    kernels, kind = native.kernels(), KINDS.index(stack.kind)
    output, *between, gates, cell = kept
    entries = torch.empty(made.rows, made.length, dtype=torch.int64)
    made.schedule.positions(entries.data_ptr(), place % stack.directions == 1)
    layer = place // stack.directions
    hidden = output if layer == stack.depth - 1 else between[layer]
    if not stack.batch_first:
        hidden = hidden.transpose(0, 1)
    first = place % stack.directions * stack.state
    hidden = hidden[..., first : first + stack.state]
    if stack.kind.startswith("rnn"):
        return CellStates(hidden.unsqueeze(2)[:, :, :0], None, hidden)
    lanes = kernels.lanes
    slots = kernels.gate_stride(kind) // lanes
    # (entries, vectors of units, slots, lanes)
    blocks = gates[place].reshape(gates.shape[1], -1, slots, lanes)
    order = [kernels.gate_offset(kind, gate) // lanes for gate in range(GATES[kind])]
    named = blocks[:, :, order].transpose(1, 2).flatten(2)[..., : stack.hidden]
    cells = None
    if stack.kind in WITH_CELL_STATE:
        parts = STATE_PARTS.get(stack.kind, 1)
        apart = cell[place].reshape(cell.shape[1], -1, parts, lanes).transpose(1, 2).flatten(2)
        cells = _shown_cell(stack, _at_entries(apart[..., : stack.hidden].flatten(1), entries))
    return CellStates(_at_entries(named, entries), cells, hidden)


def _shown_cell(stack: Stack, cell: Tensor | None) -> Tensor | None:
    """The cell state (N, T, H) of a trace: of an sLSTM c / n, which is the same whatever m is."""
    if cell is None or stack.kind != "slstm":
        return cell
    c, n, _ = cell.chunk(3, dim=-1)
    return torch.where(n == 0, 0, c / n)


def _at_entries(values: Tensor, entries: Tensor) -> Tensor:
    """(N, T, ...) from (entries, ...); zero where `entries` (N, T) names none."""
    nothing = values.new_zeros(1, *values.shape[1:])
    return torch.cat((values, nothing))[entries]
