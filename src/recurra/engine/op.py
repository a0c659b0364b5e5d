"""The engine as torch operators, for graphs: `torch.compile` and `torch.export` see one node, not a loop.

Outside of a graph `recurra.engine.scan` calls the engine itself, which is quicker. `torch.library.custom_op`
would wrap each call in more Python than a step of a small layer takes, so the operators are defined without
it. What `scan_in_graph` looks at, a compiled graph looks at again before each run, so it is little.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from recurra.engine import native
from recurra.engine.call import call
from recurra.engine.noise import Noise
from recurra.engine.stack import KINDS, WITH_CELL_STATE, Stack, Steps

_PROBLEM = (
    "Tensor x, Tensor[] initial, Tensor[] weights, Tensor? lengths, Tensor? resets, bool reset_to_initial, "
    "str kind, int[] sizes, Tensor? seed, float[] chances"
)


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
    sizes = [stack.hidden, stack.projection, stack.depth, stack.directions]
    sizes += [int(stack.bias), int(stack.batch_first)]
    seed, chances = None, [0.0, 0.0, 0.0, 0.0]
    if noise is not None:
        hidden, cell, dropout, drawn, layer = noise
        chances = [hidden, cell, dropout, float(layer)]
        if isinstance(drawn, int):
            seed = torch.tensor(drawn - 2**64 if drawn >= 2**63 else drawn)
        else:
            seed = drawn
    # only backward reads the gates, and none comes where nothing requires a gradient
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *initial, *weights))
    run = torch.ops.recurra.scan if wanted else torch.ops.recurra.scan_forward
    told = (steps.lengths, steps.resets, steps.reset_to_initial, stack.kind, sizes, seed, chances)
    results = run(x, initial, weights, *told)
    return tuple(results[: 1 + _finals(stack.kind)])


def _finals(kind: str) -> int:
    """How many states a cell has."""
    return 2 if kind in WITH_CELL_STATE else 1


@lru_cache(maxsize=512)
def _stack(kind: str, *sizes: int) -> Stack:
    hidden, projection, depth, directions, bias, batch_first = sizes
    return Stack(kind, hidden, projection, depth, directions, bool(bias), bool(batch_first))


def _call(
    room_for_all: bool,
    x: Tensor,
    initial: list[Tensor],
    weights: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reset_to_initial: bool,
    kind: str,
    sizes: list[int],
    seed: Tensor | None,
    chances: list[float],
) -> Any:
    """The engine's call, of what `_PROBLEM` names. room_for_all: as `recurra.engine.call.call` has it."""
    noise = None
    if any(chances):
        hidden, cell, dropout, layer = chances
        noise = Noise(hidden, cell, dropout, None if seed is None else int(seed) % 2**64, int(layer))
    steps = Steps(lengths, None, resets, reset_to_initial)
    made = call(_stack(kind, *sizes), x, initial, weights, steps, noise, room_for_all)
    if made is None:
        raise TypeError(f"x, initial, weights: expected plain tensors of float32 on a CPU, got {type(x)}")
    return made


def _scan(*problem: Any) -> list[Tensor]:
    """Output, final states, what lies between the layers, gates and cell states."""
    made = _call(True, *problem)
    results = made.forward(True)
    return [*results, *made.kept()[1:]]


def _scan_forward(*problem: Any) -> list[Tensor]:
    """Output and final states."""
    return list(_call(False, *problem).forward(False))


def _scan_backward(
    kept: list[Tensor],
    d_output: Tensor | None,
    d_finals: list[Tensor | None],
    wanted: list[bool],
    *problem: Any,
) -> list[Tensor]:
    """The wanted gradients of x, the initial states and the weights. kept: output, between, gates, cells."""
    made = _call(True, *problem)
    return [g for g in made.backward(kept, d_output, d_finals, wanted) if g is not None]


def _fake_scan_forward(x: Tensor, initial: Any, weights: Any, *told: Any) -> list[Tensor]:
    stack = _stack_told(told)
    rows, _ = _rows_and_steps(stack, x)
    places = stack.depth * stack.directions
    made = [
        x.new_empty(*x.shape[:-1], stack.directions * stack.state),
        x.new_empty(places, rows, stack.state),
        x.new_empty(places, rows, stack.cell_size),
    ]
    return made[: 1 + _finals(stack.kind)]


def _fake_scan(x: Tensor, initial: Any, weights: Any, *told: Any) -> list[Tensor]:
    stack = _stack_told(told)
    rows, length = _rows_and_steps(stack, x)
    made = _fake_scan_forward(x, initial, weights, *told)
    for _layer in range(stack.depth - 1):
        room = x.new_empty(length, rows, stack.directions * stack.state)
        made.append(room.transpose(0, 1) if stack.batch_first else room)
    kernels, kind = native.kernels(), KINDS.index(stack.kind)
    for width in (kernels.gates_width(kind, stack.hidden), kernels.cell_width(kind, stack.hidden)):
        made.append(x.new_empty(stack.depth * stack.directions, rows * length, width))
    return made


def _fake_scan_backward(kept: Any, d_output: Any, d_finals: Any, wanted: list[bool], *problem: Any) -> Any:
    x, initial, weights = problem[:3]
    return [t.new_empty(t.shape) for t, want in zip((x, *initial, *weights), wanted, strict=True) if want]


def _stack_told(told: tuple[Any, ...]) -> Stack:
    """told: what `_PROBLEM` names from lengths on."""
    kind, sizes = told[3:5]
    return _stack(kind, *sizes)


def _rows_and_steps(stack: Stack, x: Tensor) -> tuple[int, int]:
    return (x.shape[0], x.shape[1]) if stack.batch_first else (x.shape[1], x.shape[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, initial, weights, lengths, resets, reset_to_initial, kind, sizes, seed, chances = inputs
    finals = _finals(kind)
    kept = [output[0], *output[1 + finals :]]
    ctx.counts = len(kept), len(initial), finals
    ctx.told = reset_to_initial, kind, sizes
    ctx.chances = chances
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(lengths, resets, seed, *kept, x, *initial, *weights)


def _differentiate(ctx: Any, d_results: list[Tensor | None]) -> tuple[Any, ...]:
    kept, states, finals = ctx.counts
    lengths, resets, seed, *saved = ctx.saved_tensors
    x, initial, weights = saved[kept], saved[kept + 1 : kept + 1 + states], saved[kept + 1 + states :]
    wanted_x, wanted_initial, wanted_weights = ctx.needs_input_grad[:3]
    wanted = [wanted_x, *wanted_initial, *wanted_weights]
    found = iter(
        torch.ops.recurra.scan_backward(
            saved[:kept],
            d_results[0],
            d_results[1 : 1 + finals],
            wanted,
            x,
            initial,
            weights,
            lengths,
            resets,
            *ctx.told,
            seed,
            ctx.chances,
        )
    )
    d_x, *others = [next(found) if want else None for want in wanted]
    return d_x, others[:states], others[states:], *[None] * 7  # for what has no gradient


def _define(name: str, arguments: str, run: Any, fake: Any) -> None:
    torch.library.define(f"recurra::{name}", f"({arguments}) -> Tensor[]")
    torch.library.impl(f"recurra::{name}", "cpu", run)
    torch.library.register_fake(f"recurra::{name}", fake)


_define("scan", _PROBLEM, _scan, _fake_scan)
_define("scan_forward", _PROBLEM, _scan_forward, _fake_scan_forward)
_define(
    "scan_backward",
    f"Tensor[] kept, Tensor? d_output, Tensor?[] d_finals, bool[] wanted, {_PROBLEM}",
    _scan_backward,
    _fake_scan_backward,
)
torch.library.register_autograd("recurra::scan", _differentiate, setup_context=_keep)
