"""A stack of layers by the plain twin: the truth, and the way for whatever the native engine does not do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recurra.engine import cells, norms, slstm, variants
from recurra.engine.noise import Noise
from recurra.engine.stack import OWN_WEIGHTS, WITH_CELL_STATE, Stack, Steps


def run(
    stack: Stack,
    x: Tensor,
    initial: Sequence[Tensor],
    weights: Sequence[Tensor],
    steps: Steps,
    noise: Noise | None = None,
) -> tuple[Tensor, ...]:
    """What `scan` returns, by the plain twin."""
    output, states = run_states(stack, x, initial, weights, steps, noise)
    finals = [torch.stack([s.h_n for s in states])]
    if stack.kind in WITH_CELL_STATE:
        finals.append(torch.stack([s.c_n for s in states]))
    return output, *finals


def run_states(
    stack: Stack,
    x: Tensor,
    initial: Sequence[Tensor],
    weights: Sequence[Tensor],
    steps: Steps,
    noise: Noise | None = None,
) -> tuple[Tensor, list[Any]]:
    """The output as `scan` gives it, and what `recurra.engine.cells` returns for each of the L·D cells.

    noise: zoneout and recurrent dropout. Layer l in direction d has the stream 2·(noise.layer + l) + d; with
    batch_sizes, its rows are those of the PackedSequence, the longest first.
    """
    cell = _cell_of(stack.kind)
    below, lengths, entry = x, steps.lengths, None
    if steps.batch_sizes is not None:
        lengths, entry = _packed_layout(steps.batch_sizes.to(x.device))
        below = x[entry.clamp(min=0)]
    elif not stack.batch_first:
        below = x.transpose(0, 1)
    if not initial:
        places, rows = stack.depth * stack.directions, below.shape[0]
        state = stack.projection or stack.hidden
        initial = [x.new_zeros(places, rows, state), x.new_zeros(places, rows, stack.cell_size)]
        initial = initial[: 2 if stack.kind in WITH_CELL_STATE else 1]
    options: dict[str, Any] = {"lengths": lengths, "resets": steps.resets, "noise": noise}
    options["reset_to_initial"] = steps.reset_to_initial
    lowest_layer = 0 if noise is None else noise.layer
    states: list[Any] = []
    for lowest in range(0, stack.depth * stack.directions, stack.directions):
        for place in range(lowest, lowest + stack.directions):
            given = [state[place] for state in initial]
            named = named_weights(stack, weights, place)
            stream = 2 * (lowest_layer + lowest // stack.directions) + place - lowest
            states.append(cell(below, *given, **named, **options, reverse=place > lowest, stream=stream))
        below = torch.cat([s.output for s in states[lowest:]], dim=-1)
    if entry is not None:
        return below[_packed_order(entry)], states
    return below if stack.batch_first else below.transpose(0, 1).contiguous(), states


def _packed_layout(batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """From batch_sizes (T,): lengths (N,), and each (row, step)'s entry (N, T), -1 where there is none."""
    rows = torch.arange(int(batch_sizes[0]), device=batch_sizes.device).unsqueeze(1)
    runs = rows < batch_sizes
    entry = rows + batch_sizes.cumsum(0) - batch_sizes
    return runs.sum(1), torch.where(runs, entry, -1)


def _packed_order(entry: Tensor) -> tuple[Tensor, Tensor]:
    """The (row, step) of each entry, in the entries' order. entry: (N, T), as `_packed_layout` gives it."""
    steps, rows = (entry.T >= 0).nonzero(as_tuple=True)
    return rows, steps


def _cell_of(kind: str) -> Callable[..., Any]:
    if kind.startswith("rnn"):
        return partial(cells.rnn, nonlinearity=kind.removeprefix("rnn_"))
    by_kind: dict[str, Callable[..., Any]] = {
        "lstm": cells.lstm,
        "gru": cells.gru,
        "peephole": variants.peephole_lstm,
        "coupled": variants.coupled_lstm,
        "refined": variants.refined_lstm,
        "layer_norm_lstm": norms.layer_norm_lstm,
        "layer_norm_gru": norms.layer_norm_gru,
        "slstm": slstm.slstm,
    }
    return by_kind[kind]


def named_weights(stack: Stack, weights: Sequence[Tensor], place: int) -> dict[str, Tensor | None]:
    """The weights of one layer in one direction by the names that the cells give them."""
    names = [
        "w_ih",
        "w_hh",
        *(["b_ih", "b_hh"] if stack.bias else []),
        *(["w_hr"] if stack.projection else []),
        *([OWN_WEIGHTS[stack.kind][0]] if stack.kind in OWN_WEIGHTS else []),
    ]
    each = len(weights) // (stack.depth * stack.directions)
    no_bias: dict[str, Tensor | None] = {"b_ih": None, "b_hh": None}
    return no_bias | dict(zip(names, weights[place * each : (place + 1) * each], strict=True))
