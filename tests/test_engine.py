"""The native engine against the plain twin in float64: outputs and all gradients, at any shape."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from engine_cases import (
    Case,
    draw_case,
    needs_engine,
    outcome,
    reference,
    relative_error,
    threads,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recurra.engine import native, plain
from recurra.engine.scan import scan
from recurra.engine.stack import KINDS, WITH_CELL_STATE, Stack, Steps
from recurra.engine.states import states

pytestmark = needs_engine

BOUND = 5e-6  # of max |ours - truth| / max |truth|, for each tensor
TANH_WITHIN, SIGMOID_WITHIN = (
    3.3e-7,
    2.5e-7,
)  # relative; the generic kernels, without fused operations, need it


class Rounded(TorchDispatchMode):
    """In float64, each operation's result is off by as much as float32's and the engine's may be.

    That is how far a tensor's own conditioning carries rounding, whoever computes it: where a unit saturates,
    1 - h² is what is left of two numbers that agree in five digits, and a sum may nearly cancel. torch's own
    float32 misses BOUND there too. Rounding goes either way at random; tanh and the sigmoid are off by all
    that they may, to the sides given.
    """

    def __init__(self, tanh: int, sigmoid: int) -> None:
        super().__init__()
        self.off = {"tanh": tanh * TANH_WITHIN, "sigmoid": sigmoid * SIGMOID_WITHIN}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or not isinstance(result, Tensor) or result.dtype != torch.float64:
            return result
        name = func.overloadpacket.__name__
        size = result.abs()
        if name in ("mm", "addmm"):  # rounded term by term, and terms may cancel
            size = size + args[-2].abs() @ args[-1].abs()
        return result * (1 + self.off.get(name, 0.0)) + size * 2.0**-24 * (2 * torch.rand_like(result) - 1)


def bounds(case: Case, truth: list[Tensor]) -> list[float]:
    """For each tensor BOUND or, if larger, twice the most that being off did to it in eight tries."""
    tries = []
    for tanh, sigmoid in [*itertools.product((1, -1), (1, -1))] * 2:
        with Rounded(tanh, sigmoid):
            tries.append(reference(case))
    return [
        max(BOUND, *(2 * relative_error(t, true) for t in column))
        for *column, true in zip(*tries, truth, strict=True)
    ]


def nearest_kink(case: Case) -> float:
    """The smallest |pre-activation| of a relu: nearer to 0 than rounding, its slope could be either."""
    smallest = math.inf
    relu = torch.relu

    def watched(x: Tensor) -> Tensor:
        nonlocal smallest
        if x.numel():
            smallest = min(smallest, float(x.detach().abs().min()))
        return relu(x)

    torch.relu = watched
    try:
        reference(replace(case, wanted=(False,) * len(case.wanted)))
    finally:
        torch.relu = relu
    return smallest


def check(seed: int, **fixed: Any) -> tuple[float, int, int]:
    """One problem on every ISA: the worst error within BOUND, tensors beyond it, all tensors."""
    case = draw_case(seed, **fixed)
    if case.stack.kind == "rnn_relu" and nearest_kink(case) < 1e-6:
        return 0.0, 0, 0
    truth, allowed = reference(case), None
    worst, beyond, count = 0.0, 0, 0
    for place, isa in enumerate(native.isas()):
        with native.use(isa), threads(1 + (seed + place) % 4):
            ours = outcome(case)
        errors = [relative_error(a, b) for a, b in zip(ours, truth, strict=True)]
        count += len(errors)
        worst = max([worst, *(error for error in errors if error <= BOUND)])
        if max(errors) > BOUND:
            allowed = allowed or bounds(case, truth)
            beyond += sum(error > BOUND for error in errors)
            found = zip(case.names(), errors, allowed, strict=True)
            wrong = [f"{name}: {error:.1e} > {most:.1e}" for name, error, most in found if error > most]
            assert not wrong, f"seed {seed}, {isa}, {case.stack}, x {tuple(case.x.shape)}: {wrong}"
    return worst, beyond, count


@pytest.mark.parametrize("block", range(20))
def test_any_problem_against_float64(block: int) -> None:
    found = [check(seed) for seed in range(10 * block, 10 * block + 10)]
    assert sum(count for _, _, count in found) > 100
    assert max(worst for worst, _, _ in found) > 1e-8, "float32 was compared with itself"


@pytest.mark.slow
def test_a_thousand_problems_against_float64(capsys: pytest.CaptureFixture[str]) -> None:
    found = [check(seed) for seed in range(1000, 2000)]
    worst, (beyond, count) = max(w for w, _, _ in found), (sum(f[i] for f in found) for i in (1, 2))
    with capsys.disabled():
        print(f"\nworst error {worst:.2e}; {beyond} of {count} tensors are too ill-conditioned for {BOUND}")
    assert beyond < 0.01 * count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_wrong_number_is_found(kind: str, directions: int) -> None:
    """Weights off by a thousandth show in the output, a part of d h_n in every gradient."""
    case = draw_case(
        7, kind=kind, directions=directions, rows=7, length=7, features=7, hidden=7, projection=0
    )
    results = 2 + (kind in WITH_CELL_STATE)
    case = replace(
        case.all_wanted(), steps=Steps(), upstream=tuple(map(torch.randn_like, outcome(case)[:results]))
    )
    truth = reference(case)
    first = 1 + len(case.initial)
    for index in (first, first + 1):
        inputs = [t.clone() for t in case.inputs]
        inputs[index][::2] *= 1.001  # not all, which layer normalisation would undo
        changed = outcome(replace(case, weights=tuple(inputs[first:])))
        assert relative_error(changed[0], truth[0]) > BOUND
    d_h_n = case.upstream[1].clone()
    d_h_n[:, 3] *= 1.001
    changed = outcome(replace(case, upstream=(case.upstream[0], d_h_n, *case.upstream[2:])))
    errors = [relative_error(a, b) for a, b in zip(changed, truth, strict=True)]
    assert max(errors[:results]) < BOUND < min(errors[results:])


def test_the_measure_of_error() -> None:
    assert relative_error(torch.zeros(3), torch.ones(3)) == 1
    assert relative_error(torch.ones(3), torch.zeros(3)) == math.inf
    assert relative_error(torch.tensor([1.0, math.nan]), torch.ones(2)) == math.inf
    assert relative_error(torch.ones(3), torch.ones(1)) == math.inf
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0


@pytest.mark.parametrize("isa", native.isas())
def test_tanh_and_sigmoid_are_as_exact_as_stated(isa: str) -> None:
    x = torch.cat((torch.linspace(-20, 20, 200_001), torch.logspace(-30, 1, 50_001), torch.zeros(1)))
    x = x.reshape(-1, 1, 1)
    one, none = torch.ones(1, 1), torch.zeros(1, 1)
    with native.use(isa):
        tanh, _ = scan(Stack("rnn_tanh", 1, bias=False), x, (), (one, none), Steps())
        # an LSTM of one unit whose every gate reads x
        (shown,) = states(Stack("lstm", 1, bias=False), x, (), (one.expand(4, 1), none.expand(4, 1)), Steps())
    exact = x.double().tanh()
    assert ((tanh - exact).abs() <= TANH_WITHIN * exact.abs()).all()
    exact = x.double().sigmoid()
    for gate in (0, 1, 3):
        assert ((shown.gates[..., gate, :] - exact).abs() <= SIGMOID_WITHIN * exact).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isa", native.isas())
def test_the_states_of_every_cell(kind: str, isa: str) -> None:
    for seed, hidden in enumerate((1, 7, 17, 33)):
        case = draw_case(seed, kind=kind, hidden=hidden, projection=0, depth=2, directions=2, packs=False)
        with native.use(isa), torch.no_grad():
            ours = states(case.stack, case.x, case.initial, case.weights, case.steps)
        wide = [[t.double() for t in part] for part in (case.initial, case.weights)]
        truth = states(case.stack, case.x.double(), *wide, case.steps)
        assert len(ours) == len(truth) == 4
        for a, b in zip(ours, truth, strict=True):
            assert a.gates.shape == b.gates.shape
            assert relative_error(a.gates, b.gates) < BOUND
            assert relative_error(a.hidden, b.hidden) < BOUND
            assert (a.cell is None) == (b.cell is None) == (kind not in WITH_CELL_STATE)
            if a.cell is not None:
                assert relative_error(a.cell, b.cell) < BOUND


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_no_steps_and_no_features(kind: str, rows: int, length: int) -> None:
    for features in (0, 2):
        stack = Stack(kind, 5, depth=2, directions=2)
        weights = draw_case(1, kind=kind, hidden=5, depth=2, directions=2, projection=0, bias=True).weights
        weights = tuple(
            torch.randn(len(w), features) if i % (len(weights) // 4) == 0 and i < len(weights) // 2 else w
            for i, w in enumerate(weights)
        )
        sizes = (5, stack.cell_size)[: 2 if kind in WITH_CELL_STATE else 1]
        initial = tuple(torch.randn(4, rows, size).abs() for size in sizes)
        upstream = (torch.randn(rows, length, 10), *[torch.randn_like(state) for state in initial])
        for lengths in (None, torch.zeros(rows, dtype=torch.int64)):
            x = torch.randn(rows, length, features)
            wanted = (True,) * (1 + len(initial) + len(weights))
            case = Case(stack, x, initial, weights, Steps(lengths), upstream, wanted)
            for count in (1, 2, 3):
                with threads(count):
                    ours = outcome(case)
                for name, a, b in zip(case.names(), ours, reference(case), strict=True):
                    assert relative_error(a, b) <= BOUND, (name, features, lengths, count)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_are_the_plain_twins(kind: str) -> None:
    for seed, directions in ((3, 1), (4, 2), (5, 1), (6, 2)):
        case = draw_case(seed, kind=kind, directions=directions, rows=3, length=5, features=3, hidden=7)
        case = case.all_wanted()
        ours, truth = (
            second_derivatives(case, scan, torch.float32),
            second_derivatives(case, plain.run, torch.float64),
        )
        assert len(ours) == len(truth) == len(case.inputs)
        for a, b in zip(ours, truth, strict=True):
            assert relative_error(a, b) < 1e-4
        assert max(float(b.abs().max()) for b in truth) > 1e-3


def second_derivatives(case: Case, run: Any, dtype: torch.dtype) -> list[Tensor]:
    """The gradient of the length of the gradient."""
    leaves = [t.detach().to(dtype).requires_grad_() for t in case.inputs]
    count = len(case.initial)
    results = run(case.stack, leaves[0], leaves[1 : 1 + count], leaves[1 + count :], case.steps)
    loss = sum((result.sin() * (i + 1)).sum() for i, result in enumerate(results))
    first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    length = sum(d.square().sum() for d in first if d is not None)
    return list(torch.autograd.grad(length, leaves, materialize_grads=True))


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("run", [scan, plain.run])
def test_a_tensor_given_twice_gets_its_gradient_once(run: Any, create_graph: bool) -> None:
    """One weight in two layers, one tensor as hidden and as cell state."""
    stack = Stack("lstm", 3, depth=2, bias=False)
    dtype = torch.float32 if run is scan else torch.float64
    numbers = torch.Generator().manual_seed(3)
    x, state, w = (torch.randn(*s, generator=numbers) for s in ((2, 5, 3), (2, 2, 3), (12, 3)))
    found = []
    for run_once, precision in ((run, dtype), (plain.run, torch.float64)):
        leaves = [t.to(precision).requires_grad_() for t in (state, w)]
        parts = [[t.clone() for _ in range(n)] for t, n in zip(leaves, (2, 4), strict=True)]
        if run_once is run and not found:
            parts = [[leaves[0]] * 2, [leaves[1]] * 4]
        output, *_ = run_once(stack, x.to(precision), *parts, Steps())
        found.append(torch.autograd.grad(output.sin().sum(), leaves, create_graph=create_graph))
    for a, b in zip(*found, strict=True):
        assert relative_error(a.detach(), b.detach()) < BOUND


def test_recompute_gives_the_same_bits() -> None:
    for seed in range(20):
        case = draw_case(seed)
        assert all(map(torch.equal, outcome(case), outcome(case, partial(scan, recompute=True)))), seed


def test_backward_twice() -> None:
    case = draw_case(5, kind="lstm", depth=2, directions=2).all_wanted()
    leaves = [t.detach().requires_grad_() for t in case.inputs]
    count = len(case.initial)
    results = scan(case.stack, leaves[0], leaves[1 : 1 + count], leaves[1 + count :], case.steps)
    loss = sum(result.sin().sum() for result in results)
    first = torch.autograd.grad(loss, leaves, retain_graph=True, materialize_grads=True)
    scan(case.stack, leaves[0] * 3, (), leaves[1 + count :], case.steps)  # what it keeps is another call's
    again = torch.autograd.grad(loss, leaves, materialize_grads=True)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("which", ["output", "x", "weight", "initial", "final"])
def test_what_backward_needs_may_not_be_changed_in_between(which: str) -> None:
    case = draw_case(5, kind="lstm", depth=1, directions=1, rows=3, packs=False).all_wanted()
    case = replace(
        case,
        x=case.x.contiguous(),
        initial=tuple(torch.randn(1, 3, n) for n in (case.stack.state, case.stack.hidden)),
    )
    leaves = [t.detach().clone().requires_grad_() for t in case.inputs]
    output, *finals = scan(case.stack, leaves[0], leaves[1:3], leaves[3:], case.steps)
    loss = output.sum() + sum(final.sum() for final in finals)
    with torch.no_grad():
        {"output": output, "x": leaves[0], "weight": leaves[4], "initial": leaves[1], "final": finals[0]}[
            which
        ].mul_(2)
    if which == "final":
        loss.backward()  # torch.nn.LSTM's need not be as they were either
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_lengths_and_resets_may_be_changed_in_between() -> None:
    case = draw_case(11, kind="gru", rows=7, length=7, packs=False).all_wanted()
    lengths, resets = torch.tensor([7, 0, 3, 1, 7, 5, 2]), torch.rand(7, 7) < 0.3
    case = replace(case, steps=Steps(lengths, None, resets, True))
    assert case.upstream[0] is not None
    expected = outcome(case)

    def run(*args: Any) -> tuple[Tensor, ...]:
        results = scan(*args)
        lengths.zero_()
        resets.logical_not_()
        return results

    found = outcome(case, run)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_gradient_wanted_keeps_nothing() -> None:
    case = draw_case(3, kind="gru")
    with torch.no_grad():
        result, *_ = scan(case.stack, case.x.requires_grad_(), case.initial, case.weights, case.steps)
    assert not result.requires_grad
    result, *_ = scan(case.stack, case.x.detach(), case.initial, case.weights, case.steps)
    assert result.grad_fn is None


def test_bfloat16_is_float32_rounded_at_the_end() -> None:
    case = draw_case(12, kind="lstm", rows=7, length=7).all_wanted()
    narrow = [t.bfloat16() for t in case.inputs]
    case = replace(
        case,
        x=narrow[0].float(),
        initial=tuple(t.float() for t in narrow[1 : 1 + len(case.initial)]),
        weights=tuple(t.float() for t in narrow[1 + len(case.initial) :]),
        upstream=tuple(None if d is None else d.bfloat16().float() for d in case.upstream),
    )
    ours, wide = outcome(case, dtype=torch.bfloat16), outcome(case)
    assert all(t.dtype == torch.bfloat16 for t in ours)
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(ours, wide, strict=True))
