"""The engine as a torch operator, for graphs: `torch.compile` and `torch.export` see one node, not a loop.

Outside of a graph `recurra.engine.scan` calls the engine itself, which is quicker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor

from recurra.engine import native
from recurra.engine.call import call
from recurra.engine.noise import Noise
from recurra.engine.stack import KINDS, WITH_CELL_STATE, Stack, Steps


def scan_in_graph(
    stack: Stack,
    x: Tensor,
    initial: Sequence[Tensor],
    weights: Sequence[Tensor],
    steps: Steps,
    noise: Noise | None = None,
) -> tuple[Tensor, ...]:
    """What `recurra.engine.scan.scan` returns, as one node of a graph. For float32 on a CPU, not packed.

    The noise's seed may be a tensor () int64 here, which the graph draws anew in each run.
    """
    numbers = [KINDS.index(stack.kind), *(int(value) for value in astuple(stack)[1:])]
    *chances, seed, layer = noise or Noise()
    if isinstance(seed, int):
        seed = torch.tensor(seed - 2**64 if seed >= 2**63 else seed)  # type: ignore[assignment]
    results = torch.ops.recurra.scan(
        x,
        initial,
        weights,
        steps.lengths,
        steps.resets,
        steps.reset_to_initial,
        numbers,
        seed,
        [*chances, float(layer)],
    )
    return tuple(results[: 3 if stack.kind in WITH_CELL_STATE else 2])


def _stack_of(numbers: Sequence[int]) -> Stack:
    kind, hidden, projection, depth, directions, bias, batch_first = numbers
    return Stack(KINDS[kind], hidden, projection, depth, directions, bool(bias), bool(batch_first))


def _noise_of(seed: Tensor | None, chances: Sequence[float]) -> Noise:
    hidden, cell, dropout, layer = chances
    return Noise(hidden, cell, dropout, None if seed is None else int(seed) % 2**64, int(layer))


def _call(
    x: Tensor, initial: list[Tensor], weights: list[Tensor], steps: Steps, numbers: list[int], noise: Noise
) -> Any:
    made = call(_stack_of(numbers), x, initial, weights, steps, noise, room_for_all=True)
    if made is None:
        raise TypeError(f"x, initial, weights: expected plain tensors of float32 on a CPU, got {type(x)}")
    return made


@torch.library.custom_op("recurra::scan", mutates_args=())
def _scan(
    x: Tensor,
    initial: list[Tensor],
    weights: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reset_to_initial: bool,
    numbers: list[int],
    seed: Tensor | None,
    chances: list[float],
) -> list[Tensor]:
    """Output, final states, what lies between the layers, gates and cell states."""
    steps = Steps(lengths, None, resets, reset_to_initial)
    made = _call(x, initial, weights, steps, numbers, _noise_of(seed, chances))
    results = made.forward(True)
    return [*results, *made.kept()[1:]]


@_scan.register_fake
def _(
    x: Tensor,
    initial: list[Tensor],
    weights: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reset_to_initial: bool,
    numbers: list[int],
    seed: Tensor | None,
    chances: list[float],
) -> list[Tensor]:
    stack = _stack_of(numbers)
    rows, length = x.shape[:2] if stack.batch_first else (x.shape[1], x.shape[0])
    places, size = stack.depth * stack.directions, stack.directions * stack.state
    made = [x.new_empty(*x.shape[:-1], size), x.new_empty(places, rows, stack.state)]
    if stack.kind in WITH_CELL_STATE:
        made.append(x.new_empty(places, rows, stack.hidden))
    for _layer in range(stack.depth - 1):
        room = x.new_empty(length, rows, size)
        made.append(room.transpose(0, 1) if stack.batch_first else room)
    kernels, kind = native.kernels(), numbers[0]
    for width in (kernels.gates_width(kind, stack.hidden), kernels.cell_width(kind, stack.hidden)):
        made.append(x.new_empty(places, rows * length, width))
    return made


@torch.library.custom_op("recurra::scan_backward", mutates_args=())
def _scan_backward(
    kept: list[Tensor],
    d_output: Tensor | None,
    d_finals: list[Tensor],
    x: Tensor,
    initial: list[Tensor],
    weights: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reset_to_initial: bool,
    numbers: list[int],
    seed: Tensor | None,
    chances: list[float],
) -> list[Tensor]:
    """Gradients of x, the initial states and the weights. kept: output, between, gates, cell states."""
    steps = Steps(lengths, None, resets, reset_to_initial)
    made = _call(x, initial, weights, steps, numbers, _noise_of(seed, chances))
    wanted = [True] * (1 + len(initial) + len(weights))
    gradients: list[Tensor] = made.backward(kept, d_output, d_finals, wanted)
    return gradients


@_scan_backward.register_fake
def _(
    kept: list[Tensor],
    d_output: Tensor | None,
    d_finals: list[Tensor],
    x: Tensor,
    initial: list[Tensor],
    weights: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reset_to_initial: bool,
    numbers: list[int],
    seed: Tensor | None,
    chances: list[float],
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (x, *initial, *weights)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, initial, weights, lengths, resets, reset_to_initial, numbers, seed, chances = inputs
    finals = 2 if KINDS[numbers[0]] in WITH_CELL_STATE else 1
    kept = [output[0], *output[1 + finals :]]
    ctx.sizes = len(kept), len(initial), finals
    ctx.options = reset_to_initial, numbers
    ctx.chances = chances
    ctx.save_for_backward(lengths, resets, seed, *kept, x, *initial, *weights)


def _differentiate(ctx: Any, d_results: list[Tensor]) -> tuple[Any, ...]:
    kept, states, finals = ctx.sizes
    lengths, resets, seed, *saved = ctx.saved_tensors
    x, initial, weights = saved[kept], saved[kept + 1 : kept + 1 + states], saved[kept + 1 + states :]
    gradients = torch.ops.recurra.scan_backward(
        saved[:kept],
        d_results[0],
        d_results[1 : 1 + finals],
        x,
        initial,
        weights,
        lengths,
        resets,
        *ctx.options,
        seed,
        ctx.chances,
    )
    nothing = [None] * 6  # for lengths, resets and the options
    return gradients[0], gradients[1 : 1 + states], gradients[1 + states :], *nothing


_scan.register_autograd(_differentiate, setup_context=_keep)
