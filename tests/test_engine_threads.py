"""Threads and rows of the native engine: the same bits for any number of threads, each row by itself."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_cases import Case, draw_case, draw_weights, needs_engine, outcome, threads
from torch import Tensor

from recurra.engine import call, native
from recurra.engine.scan import scan
from recurra.engine.stack import KINDS, WITH_CELL_STATE, Stack, Steps
from recurra.errors import ArgumentError

pytestmark = needs_engine

SHAPES = [  # stacks whose units and rows divide in different ways
    Stack("lstm", 63, depth=2),
    Stack("lstm", 33, directions=2),
    Stack("lstm", 63, projection=7, depth=2, directions=2),
    Stack("lstm", 7, projection=1),
    Stack("gru", 33, depth=2, directions=2),
    Stack("gru", 63, bias=False),
    Stack("rnn_tanh", 63, directions=2, batch_first=False),
    Stack("rnn_relu", 1, depth=2),
]


def named(stack: Stack) -> str:
    return f"{stack.kind}-H{stack.hidden}-P{stack.projection}-L{stack.depth}-D{stack.directions}"


def make(stack: Stack, rows: int, length: int, features: int, seed: int, ragged: bool = True) -> Case:
    """A problem with initial states and all gradients, and lengths and resets unless `ragged` is False."""
    numbers = torch.Generator().manual_seed(seed)
    leading = (rows, length) if stack.batch_first else (length, rows)
    sizes = (stack.state, stack.cell_size)[: 2 if stack.kind in WITH_CELL_STATE else 1]
    places = stack.depth * stack.directions

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=numbers)

    lengths = torch.randint(0, length + 1, (rows,), generator=numbers)
    lengths[0] = length
    resets = torch.rand(rows, length, generator=numbers) < 0.1
    weights = draw_weights(stack, features, numbers)
    initial = tuple(normal(places, rows, size) for size in sizes)
    if stack.kind == "slstm":
        initial[1].abs_()  # n is a sum of exponentials
    upstream = (normal(*leading, stack.directions * stack.state), *[normal(places, rows, n) for n in sizes])
    steps = Steps(lengths, None, resets, True) if ragged else Steps()
    wanted = (True,) * (1 + len(initial) + len(weights))
    return Case(stack, normal(*leading, features), initial, weights, steps, upstream, wanted)


def same(a: list[Tensor], b: list[Tensor]) -> list[int]:
    """The places of the tensors whose bits differ."""
    assert len(a) == len(b)
    return [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if not bits(x).equal(bits(y))]


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32)


def unlike(case: Case, isa: str, counts: tuple[int, ...]) -> list[tuple[int, str]]:
    """(threads, name) of whatever has other bits than on one thread, in training or in use."""
    inference = replace(case, wanted=(False,) * len(case.wanted))
    found = []
    with native.use(isa):
        with threads(1):
            alone, used = outcome(case), outcome(inference)
        for count in counts:
            with threads(count):
                found += [(count, case.names()[i]) for i in same(outcome(case), alone)]
                found += [(count, f"{case.names()[i]} in use") for i in same(outcome(inference), used)]
    return found


@pytest.mark.parametrize("stack", SHAPES, ids=named)
@pytest.mark.parametrize("rows", [1, 2, 5, 33])
def test_any_number_of_threads_gives_the_same_bits(stack: Stack, rows: int) -> None:
    best, *others = native.isas()
    for ragged in (False, True):
        case = make(stack, rows, 5, 7, seed=rows, ragged=ragged)
        assert unlike(case, best, (2, 3, 4, 7)) == []
    for isa in others:
        assert unlike(case, isa, (2, 3)) == []


def test_more_than_a_hundred_rows_and_steps() -> None:
    """More entries than a product over all of them takes at once, more steps than are made ahead at once."""
    best, *_ = native.isas()
    for stack, rows, length in (
        (Stack("lstm", 17, directions=2), 131, 5),
        (Stack("gru", 17), 2, 107),
        (Stack("lstm", 9, projection=3), 1, 107),
    ):
        assert unlike(make(stack, rows, length, 33, seed=1), best, (2, 3)) == []


@pytest.mark.parametrize("stack", SHAPES, ids=named)
@pytest.mark.parametrize("rows", [1, 5, 33])
def test_what_is_kept_for_backward_does_not_change_the_result(stack: Stack, rows: int) -> None:
    """A network gives the same bits in training and in use."""
    for isa in native.isas():
        case = make(stack, rows, 5, 7, seed=rows)
        with native.use(isa):
            used = outcome(replace(case, wanted=(False,) * len(case.wanted)))
            assert [case.names()[i] for i in same(used, outcome(case)[: len(used)])] == [], isa


def test_other_bits_are_seen() -> None:
    case = make(SHAPES[0], 5, 9, 7, seed=1)
    once = outcome(case)
    assert same(once, [t.clone() for t in once]) == []
    assert same(once, [torch.nextafter(t, torch.tensor(9.0)) for t in once]) == list(range(len(once)))
    other = outcome(replace(case, x=case.x * 1.01))
    assert len(same(once, other)) == len(once)


def test_the_threads_asked_for_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests of this file would compare one thread with itself."""
    case = make(Stack("lstm", 63, directions=2), 33, 9, 7, seed=1)
    found = []

    def watched(*arguments: Any) -> Any:
        made = call.call(*arguments)
        found.append((made.threads, made.on(*arguments[1:4]).threads))  # forward's and backward's
        return made

    monkeypatch.setattr("recurra.engine.scan.call", watched)
    for count in (1, 3, 7):
        with threads(count):
            outcome(case)
    assert found == [(1, 1), (3, 3), (7, 7)]


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("stack", SHAPES, ids=named)
def test_what_one_row_holds_stays_in_that_row(stack: Stack, poison: float) -> None:
    row, step, rows, length = 2, 3, 7, 9
    case = make(stack, rows, length, 7, seed=5, ragged=False)
    case = replace(case, steps=Steps(lengths=torch.tensor([9, 0, 7, 9, 1, 6, 9])))
    x = case.x.clone()
    (x if stack.batch_first else x.transpose(0, 1))[row, step, 3] = poison
    for isa in native.isas():
        for count in (1, 2, 3):
            with native.use(isa), threads(count):
                clean, poisoned = outcome(case), outcome(replace(case, x=x))
            for name, a, b in zip(case.names(), clean, poisoned, strict=True):
                if "of cell" in name:
                    continue  # a weight reads every row, so its gradient may be NaN
                axis = 0 if stack.batch_first and name in ("output", "d x") else 1
                others = [n for n in range(rows) if n != row]
                assert torch.equal(a.movedim(axis, 0)[others], b.movedim(axis, 0)[others]), (name, isa, count)
                if math.isnan(poison) and name == "output":
                    assert b.movedim(axis, 0)[row].isnan().any()


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh"])
def test_an_infinite_input_saturates_and_no_more(kind: str) -> None:
    """Where no weight is zero, infinity closes or opens every gate: all but d w_ih is finite.

    In units that only fill a vector the weights are zeros, and zero times infinity is NaN: it may not leak.
    """
    for hidden in (1, 7, 17, 33):
        case = make(Stack(kind, hidden), 3, 5, 7, seed=hidden, ragged=False)
        x = case.x.clone()
        x[1, 2, 4] = math.inf
        for isa in native.isas():
            with native.use(isa):
                results = dict(zip(case.names(), outcome(replace(case, x=x)), strict=True))
            for name, result in results.items():
                finite = result.isfinite()
                finite = finite[:, [0, 1, 2, 3, 5, 6]] if "w_ih" in name else finite  # there, 0 · ∞ is NaN
                assert finite.all(), (name, hidden, isa)


@pytest.mark.parametrize("stack", SHAPES, ids=named)
def test_padding_that_holds_nan_touches_nothing(stack: Stack) -> None:
    rows, length = 7, 9
    case = make(stack, rows, length, 7, seed=5)
    lengths = torch.tensor([9, 0, 7, 9, 1, 6, 0])
    beyond = torch.arange(length) >= lengths.unsqueeze(1)
    case = replace(case, steps=case.steps._replace(lengths=lengths))
    if not stack.batch_first:
        beyond = beyond.T
    case = replace(case, x=case.x.masked_fill(beyond.unsqueeze(-1), 0.0))
    dirty = replace(
        case,
        x=case.x.masked_fill(beyond.unsqueeze(-1), math.nan),
        upstream=(case.upstream[0].masked_fill(beyond.unsqueeze(-1), math.nan), *case.upstream[1:]),
    )
    for isa in native.isas():
        for count in (1, 3):
            with native.use(isa), threads(count):
                clean, found = outcome(case), outcome(dirty)
            assert [case.names()[i] for i in same(clean, found)] == []
            assert all(t.isfinite().all() for t in found)
            assert (found[0][beyond] == 0).all()
            assert (dict(zip(case.names(), found, strict=True))["d x"][beyond] == 0).all()


def test_calls_from_many_threads_at_once() -> None:
    cases = [draw_case(seed, rows=5, length=17) for seed in range(20)]
    with threads(2):
        alone = [outcome(case) for case in cases]
        wrong: list[tuple[int, list[int]]] = []
        start = threading.Barrier(4)

        def work(first: int) -> None:
            start.wait()
            for index in [*range(first, 20), *range(first)]:
                if found := same(outcome(cases[index]), alone[index]):
                    wrong.append((index, found))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, (0, 5, 10, 15)))
    assert wrong == []


def test_backward_on_another_thread() -> None:
    case = make(SHAPES[2], 5, 9, 7, seed=3)
    leaves = [t.detach().requires_grad_() for t in case.inputs]
    results = scan(case.stack, leaves[0], leaves[1:3], leaves[3:], case.steps)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(torch.autograd.grad, results, leaves, case.upstream).result()
    assert same(list(found), outcome(case)[3:]) == []


def test_use_nests_and_comes_back() -> None:
    before = native.kernels().isa
    best, *_, least = native.isas()
    with native.use(least):
        assert native.kernels().isa == least
        with native.use(best):
            assert native.kernels().isa == best
        assert native.kernels().isa == least
        with pytest.raises(ZeroDivisionError), native.use(best):
            raise ZeroDivisionError
        assert native.kernels().isa == least
        with pytest.raises(ArgumentError, match="RECURRA_ISA=sse9: expected one of"), native.use("sse9"):
            raise AssertionError
        assert native.kernels().isa == least
    assert native.kernels().isa == before


def test_backward_uses_the_kernels_that_kept_the_gates() -> None:
    """Gates lie in vectors as wide as the ISA's, so another ISA's backward would read them wrongly."""
    best, *_, least = native.isas()
    for kind in KINDS:
        case = make(Stack(kind, 7, depth=2), 3, 5, 7, seed=1)
        leaves = [t.detach().requires_grad_() for t in case.inputs]
        count = len(case.initial)
        with native.use(least):
            expected = outcome(case)[1 + count :]
            results = scan(case.stack, leaves[0], leaves[1 : 1 + count], leaves[1 + count :], case.steps)
        with native.use(best):
            found = torch.autograd.grad(results, leaves, case.upstream)
        assert same(list(found), expected) == []
