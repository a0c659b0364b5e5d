"""Problems for the engine's tests: drawn from a seed, run by `scan`, by the plain twin, and compared."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recurra.engine import call, native, plain
from recurra.engine.noise import Noise
from recurra.engine.scan import scan
from recurra.engine.stack import GATES, KINDS, OWN_WEIGHTS, WITH_CELL_STATE, Stack, Steps

needs_engine = pytest.mark.skipif(not native.available(), reason=str(native.why_not()))

FAVOURITES = (1, 7, 33, 63)  # around the widths of vectors and tiles
LAYOUTS = ("as it is", "transposed", "sliced", "every other", "expanded rows", "expanded steps", "reversed")

Scan = Callable[..., tuple[Tensor, ...]]  # of what `recurra.engine.scan.scan` takes


@dataclass(frozen=True)
class Case:
    """A problem: what scan is called with, the gradients of what it returns, and which gradients are wanted.

    upstream: one for each result, None where the loss does not use it. wanted: one for each of x, the initial
    states and the weights.
    """

    stack: Stack
    x: Tensor
    initial: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    steps: Steps
    upstream: tuple[Tensor | None, ...]
    wanted: tuple[bool, ...]
    noise: Noise | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.x, *self.initial, *self.weights)

    def names(self) -> list[str]:
        """What `outcome` gives, in order."""
        states = ["h", "c"][: 2 if self.stack.kind in WITH_CELL_STATE else 1]
        named = ["x", *[f"{s}_0" for s in states][: len(self.initial)]]
        each = ["w_ih", "w_hh", *["b_ih", "b_hh"][: 2 * self.stack.bias], *["w_hr"][: self.stack.projection]]
        each += [OWN_WEIGHTS[self.stack.kind][0]] if self.stack.kind in OWN_WEIGHTS else []
        for place in range(self.stack.depth * self.stack.directions):
            named += [f"{name} of cell {place}" for name in each]
        wanted = [f"d {name}" for name, want in zip(named, self.wanted, strict=True) if want]
        return ["output", *[f"{s}_n" for s in states], *wanted]

    def all_wanted(self) -> Case:
        return replace(self, wanted=(True,) * len(self.inputs))


def outcome(case: Case, run: Scan = scan, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Output, final states and all wanted gradients, as `case.names()` calls them."""
    leaves = [
        tensor.detach().to(dtype).requires_grad_(want)  # detach keeps the strides
        for tensor, want in zip(case.inputs, case.wanted, strict=True)
    ]
    states = len(case.initial)
    options = {} if case.noise is None else {"noise": case.noise}
    results = run(case.stack, leaves[0], leaves[1 : 1 + states], leaves[1 + states :], case.steps, **options)
    given = [
        (result, d.to(dtype))
        for result, d in zip(results, case.upstream, strict=True)
        if d is not None and result.requires_grad
    ]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    gradients: Sequence[Tensor] = [torch.zeros_like(leaf) for leaf in wanted]
    if given and wanted:
        outputs, upstream = zip(*given, strict=True)
        gradients = torch.autograd.grad(outputs, wanted, upstream, materialize_grads=True)
    return [*[result.detach() for result in results], *gradients]


def reference(case: Case, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The same by the plain twin, on one thread."""
    with threads(1):
        return outcome(case, plain.run, dtype)


def relative_error(ours: Tensor, truth: Tensor) -> float:
    """max |ours - truth| / max |truth|; infinite for another shape, NaN, or a number where all is zero."""
    if ours.shape != truth.shape:
        return math.inf
    if truth.numel() == 0:
        return 0.0
    difference = float((ours.double() - truth).abs().max())
    scale = float(truth.abs().max())
    if math.isnan(difference):
        return math.inf
    return difference / scale if scale else (math.inf if difference else 0.0)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """That many threads, however small the problem."""
    before, floors = torch.get_num_threads(), (call.ONE_THREAD, call.ONE_THREAD_A_STEP)
    torch.set_num_threads(count)
    call.ONE_THREAD = call.ONE_THREAD_A_STEP = 0
    try:
        yield
    finally:
        torch.set_num_threads(before)
        call.ONE_THREAD, call.ONE_THREAD_A_STEP = floors


def size(draw: random.Random, most: int = 67) -> int:
    """1 to `most`, half of the time one of the favourites."""
    favourites = [n for n in FAVOURITES if n <= most]
    return draw.choice(favourites) if draw.random() < 0.5 else draw.randint(1, most)


def draw_stack(draw: random.Random) -> Stack:
    kind = draw.choice(KINDS)
    hidden = size(draw)
    return Stack(
        kind=kind,
        hidden=hidden,
        projection=size(draw, hidden) if draw.random() < 0.4 else 0,
        depth=draw.choice((1, 1, 2, 3)),
        directions=draw.choice((1, 2)),
        bias=draw.random() < 0.7,
        batch_first=draw.random() < 0.5,
    )


def draw_weights(stack: Stack, features: int, random_numbers: torch.Generator) -> tuple[Tensor, ...]:
    """As torch's reset_parameters draws them."""
    bound = 1 / math.sqrt(stack.hidden)
    gates = GATES[KINDS.index(stack.kind)] * stack.hidden
    weights = []
    for place in range(stack.depth * stack.directions):
        below = features if place < stack.directions else stack.directions * stack.state
        shapes = [(gates, below), (gates, stack.state), *[(gates,), (gates,)][: 2 * stack.bias]]
        shapes += [(stack.projection, stack.hidden)] if stack.projection else []
        weights += [torch.empty(s).uniform_(-bound, bound, generator=random_numbers) for s in shapes]
        if stack.kind in OWN_WEIGHTS:
            name, rows = OWN_WEIGHTS[stack.kind]
            own = torch.empty(rows, stack.hidden).uniform_(-bound, bound, generator=random_numbers)
            weights.append(own + 1 if name == "norms" else own)
    return tuple(weights)


def arranged(base: Tensor, layout: str) -> Tensor:
    """`base`, or a tensor of its shape (three dimensions) that does not lie one number after another."""
    a, b, f = base.shape
    if layout == "transposed":
        return base.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "sliced":
        wide = torch.full((a + 2, b + 3, f + 5), math.nan)
        wide[1:-1, 2:-1, 3:-2] = base
        return wide[1:-1, 2:-1, 3:-2]
    if layout == "every other":
        wide = torch.full((a, b, 2 * f), math.nan)
        wide[..., ::2] = base
        return wide[..., ::2]
    if layout == "expanded rows":
        return base[:1].expand(a, b, f)
    if layout == "expanded steps":
        return base[:, :1].expand(a, b, f)
    if layout == "reversed":
        return base.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    return base


def _draw_steps(draw: random.Random, rows: int, steps: int, packs: bool) -> Steps:
    lengths = batch_sizes = resets = None
    if packs:
        own = sorted((draw.randint(1, steps) for _ in range(rows)), reverse=True)
        own[0] = steps
        batch_sizes = torch.tensor([sum(n > t for n in own) for t in range(steps)])
    elif draw.random() < 0.6:
        lengths = torch.tensor([draw.choice((0, steps, draw.randint(0, steps))) for _ in range(rows)])
    if draw.random() < 0.4:
        often = draw.choice((0.05, 0.3, 1.0))
        resets = torch.tensor([[draw.random() < often for _ in range(steps)] for _ in range(rows)])
    return Steps(lengths, batch_sizes, resets, reset_to_initial=draw.random() < 0.5)


def draw_case(seed: int, **fixed: Any) -> Case:
    """A problem of any shape. fixed: what is not drawn: fields of Stack, rows, length, features, packs."""
    draw = random.Random(seed)
    random_numbers = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random_numbers)

    given = set(fixed)
    rows, length, features = (fixed.pop(name, size(draw)) for name in ("rows", "length", "features"))
    packs = fixed.pop("packs", draw.random() < 0.2)
    stack = replace(draw_stack(draw), **fixed)
    if stack.kind.startswith("layer_norm"):
        # of few units, or over many steps, what normalisation does to rounding is all that one would see
        stack = stack if "hidden" in given else replace(stack, hidden=max(stack.hidden, 5))
        length = length if "length" in given else min(length, 9)
    fits = stack.kind in WITH_CELL_STATE and stack.projection < stack.hidden
    stack = stack if fits or "projection" in fixed else replace(stack, projection=0)
    steps = _draw_steps(draw, rows, length, packs)
    leading = (rows, length) if stack.batch_first else (length, rows)
    if packs:
        leading = (int(steps.batch_sizes.sum()),)
        x = normal(*leading, features)
        x = arranged(x.unsqueeze(0), draw.choice(("as it is", "sliced", "every other")))[0]
    else:
        x = arranged(normal(*leading, features), draw.choice(LAYOUTS))
    places = stack.depth * stack.directions
    sizes = (stack.state, stack.cell_size)[: 2 if stack.kind in WITH_CELL_STATE else 1]
    initial = tuple(normal(places, rows, n) for n in sizes) if draw.random() < 0.7 else ()
    if initial and stack.kind == "slstm":
        initial[1][..., stack.hidden : 2 * stack.hidden].abs_().add_(0.5)  # n is a sum of exponentials
    weights = draw_weights(stack, features, random_numbers)

    upstream: list[Tensor | None] = [normal(*leading, stack.directions * stack.state)]
    if not packs:
        upstream[0] = arranged(upstream[0], draw.choice(LAYOUTS))
    upstream += [arranged(normal(places, rows, n), draw.choice(LAYOUTS)) for n in sizes]
    if draw.random() < 0.4:
        used = draw.randrange(len(upstream))
        upstream = [d if i == used or draw.random() < 0.5 else None for i, d in enumerate(upstream)]
    count = 1 + len(initial) + len(weights)
    often = draw.choice((1.0, 1.0, 0.5, 0.1))
    wanted = tuple(draw.random() < often for _ in range(count))
    noise = _draw_noise(draw, stack) if draw.random() < 0.4 else None
    return Case(stack, x, initial, weights, steps, tuple(upstream), wanted, noise)


def _draw_noise(draw: random.Random, stack: Stack) -> Noise:
    hidden, cell, dropout = (draw.choice((0.0, 0.1, 0.5)) for _ in range(3))
    seed = draw.choice((None, 0, draw.getrandbits(31), draw.getrandbits(64)))
    return Noise(hidden, cell if stack.cell_size == stack.hidden else 0.0, dropout, seed, draw.choice((0, 7)))
