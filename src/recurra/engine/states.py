"""Every gate and state of a stack, as (N, T, ...) tensors: what a trace shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

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
    kept = made.kept()
    places = range(stack.depth * stack.directions)
    return [_decode(stack, made, kept, weights, steps, place) for place in places]


def _decode(
    stack: Stack, made: Any, kept: tuple[Tensor, ...], weights: Sequence[Tensor], steps: Steps, place: int
) -> CellStates:
    """What the engine kept of one cell, out of its own order (see csrc/layout.h) and into (N, T, ...).

    Where every step counts, the gates are copied once, and nothing else is.
    """
    output, *between, gates, cell = kept
    layer, reverse = divmod(place, stack.directions)
    hidden = output if layer == stack.depth - 1 else between[layer]
    if not stack.batch_first:
        hidden = hidden.transpose(0, 1)
    hidden = hidden[..., reverse * stack.state : (reverse + 1) * stack.state]
    if stack.kind.startswith("rnn"):
        return CellStates(hidden.unsqueeze(2)[:, :, :0], None, hidden)
    # with lengths one entry more, of zeros, for the steps that do not count
    spare = int(steps.lengths is not None)
    named = _gate_by_gate(stack, gates[place], weights, place, spare)
    shown = _at_steps(named, made, steps, reverse == 1)[..., : stack.hidden]
    cells = None
    if stack.kind in WITH_CELL_STATE:
        lanes, parts = native.kernels().lanes, STATE_PARTS.get(stack.kind, 1)
        count, width = cell.shape[1:]
        apart = cell[place].reshape(count, width // (parts * lanes), parts, lanes).transpose(1, 2).flatten(1)
        flat = _shown_cell(stack, apart)
        if spare:
            flat = pad(flat, (0, 0, 0, 1))
        cells = _at_steps(flat, made, steps, reverse == 1)[..., : stack.hidden]
    return CellStates(shown.permute(1, 2, 0, 3), cells, hidden)


def _gate_by_gate(stack: Stack, kept: Tensor, weights: Sequence[Tensor], place: int, spare: int) -> Tensor:
    """(G, entries + spare, units) from what the engine kept (entries, ...), the spare ones zero.

    One gate after the other in memory: quicker to write than the gates of each entry side by side.
    """
    kernels, kind = native.kernels(), KINDS.index(stack.kind)
    lanes, (entries, width) = kernels.lanes, kept.shape
    slots = kernels.gate_stride(kind) // lanes
    vectors = width // (slots * lanes)
    blocks = kept.reshape(entries, vectors, slots, lanes)
    if stack.kind.startswith("layer_norm"):  # what is kept are sums, of the input and then of the state
        count = GATES[kind]
        sums = blocks[:, :, : 2 * count].transpose(1, 2).flatten(2)[..., : stack.hidden]
        own = plain.named_weights(stack, weights, place)
        given: Any = (own["norms"], own["b_ih"], own["b_hh"])
        gates = norms.gates_of(stack.kind, sums[:, :count].flatten(1), sums[:, count:].flatten(1), *given)
        return pad(gates.transpose(0, 1), (0, 0, 0, spare))
    named = blocks.new_empty(GATES[kind], entries + spare, vectors, lanes)
    for gate, into in enumerate(named):
        into[:entries].copy_(blocks[:, :, kernels.gate_offset(kind, gate) // lanes])
    named[:, entries:] = 0
    return named.flatten(2)


def _shown_cell(stack: Stack, cell: Tensor) -> Tensor:
    """The cell state (..., H) of a trace: of an sLSTM c / n, which is the same whatever m is."""
    if stack.kind != "slstm":
        return cell
    c, n, _ = cell.chunk(3, dim=-1)
    return torch.where(n == 0, 0, c / n)


def _at_steps(values: Tensor, made: Any, steps: Steps, reverse: bool) -> Tensor:
    """(..., N, T, units) from (..., entries, units). With lengths the last entry stands for steps beyond."""
    *others, _, units = values.shape
    if steps.lengths is None:  # each step has every row, in the caller's order
        by_step = values.reshape(*others, made.length, made.rows, units)
        return (by_step.flip(-3) if reverse else by_step).transpose(-2, -3)
    entries = torch.empty(made.rows, made.length, dtype=torch.int64)
    made.schedule.positions(entries.data_ptr(), reverse)
    return values.index_select(-2, entries.flatten()).reshape(*others, made.rows, made.length, units)
