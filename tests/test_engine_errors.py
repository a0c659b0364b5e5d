"""Calls of the engine that do not fit: always a Python exception that says so, and no memory is touched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_cases import Case, draw_case, draw_weights, needs_engine, relative_error
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recurra.engine import call, native, plain
from recurra.engine.scan import scan
from recurra.engine.stack import GATES, KINDS, Stack, Steps

pytestmark = needs_engine

CLEAR = (ValueError, TypeError, RuntimeError)


def small(kind: str = "lstm", **fixed: Any) -> Case:
    """N 3, T 5, F 2, H 4, two layers in both directions, P 3 for an LSTM, with initial states."""
    numbers = torch.Generator().manual_seed(1)
    stack = Stack(kind, 4, projection=3 if kind == "lstm" else 0, depth=2, directions=2, **fixed)
    sizes = (stack.state, 4)[: 2 if kind == "lstm" else 1]
    leading = (3, 5) if stack.batch_first else (5, 3)
    x = torch.randn(*leading, 2, generator=numbers)
    initial = tuple(torch.randn(4, 3, n, generator=numbers) for n in sizes)
    return Case(stack, x, initial, draw_weights(stack, 2, numbers), Steps(), (), ())


def run(case: Case, how: Any = scan) -> tuple[Tensor, ...]:
    return how(case.stack, case.x, case.initial, case.weights, case.steps)


def swapped(tensors: tuple[Tensor, ...], place: int, other: Tensor) -> tuple[Tensor, ...]:
    place %= len(tensors)
    return (*tensors[:place], other, *tensors[place + 1 :])


def bent(tensor: Tensor, how: str, axis: int) -> Tensor:
    """A tensor like this one, but not quite."""
    axis %= max(1, tensor.dim())
    one = tensor.narrow(axis, 0, 1) if tensor.dim() and tensor.shape[axis] else tensor
    return {
        "one more": lambda: torch.cat((tensor, one), dim=axis),
        "one less": lambda: tensor.narrow(axis, 0, tensor.shape[axis] - 1),
        "nothing": lambda: tensor.narrow(axis, 0, 0),
        "one dimension more": lambda: tensor.unsqueeze(axis),
        "one dimension less": lambda: tensor.select(axis, 0),
        "flat": lambda: tensor.flatten(),
        "a number": lambda: tensor.new_zeros(()),
        "turned": lambda: tensor.transpose(0, -1),
        "expanded": lambda: one.expand(tensor.shape),
        "int64": lambda: tensor.long(),
        "float64": lambda: tensor.double(),
        "float16": lambda: tensor.half(),
        "bfloat16": lambda: tensor.bfloat16(),
        "bool": lambda: tensor > 0,
        "complex64": lambda: tensor.to(torch.complex64),
        "sparse": lambda: tensor.to_sparse(),
    }[how]()


HOWS = [
    *[
        "one more",
        "one less",
        "nothing",
        "one dimension more",
        "one dimension less",
        "flat",
        "a number",
        "turned",
    ],
    *["expanded", "int64", "float64", "float16", "bfloat16", "bool", "complex64", "sparse"],
]


@given(
    kind=st.sampled_from(KINDS),
    which=st.sampled_from(["x", "initial", "weights"]),
    place=st.integers(0, 19),
    how=st.sampled_from(HOWS),
    axis=st.integers(0, 2),
    packs=st.booleans(),
    grads=st.booleans(),
)
@example("lstm", "x", 0, "a number", 0, False, False)
@example("lstm", "x", 0, "one dimension less", 0, False, False)
@settings(max_examples=300)
def test_a_tensor_that_does_not_fit(
    kind: str, which: str, place: int, how: str, axis: int, packs: bool, grads: bool
) -> None:
    case = small(kind)
    if packs:
        steps = Steps(batch_sizes=torch.tensor([3, 3, 2, 1, 1]))
        case = replace(case, x=case.x.flatten(0, 1)[:10], steps=steps)
    if which == "x":
        other = replace(case, x=bent(case.x, how, axis))
    elif which == "initial":
        other = replace(
            case,
            initial=swapped(case.initial, place, bent(case.initial[place % len(case.initial)], how, axis)),
        )
    else:
        chosen = case.weights[place % len(case.weights)]
        other = replace(case, weights=swapped(case.weights, place, bent(chosen, how, axis)))
    if grads:
        for tensor in (other.x, *other.initial, *other.weights):
            if tensor.is_leaf and tensor.is_floating_point():
                tensor.requires_grad_()
    refused_or_true(other)
    assert not refused_or_true(case), "the right one is refused"


def refused_or_true(case: Case) -> bool:
    """Whether scan refuses it, with a message. What it accepts must be what the plain twin makes of it."""
    try:
        ours = run(case)
    except CLEAR as error:
        return says_something(error)
    truth = run(case, plain.run)
    for a, b in zip(ours, truth, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        exact = 5e-6 if a.dtype == torch.float32 else 0.05
        assert relative_error(a.detach(), b.detach().double()) < exact
    return False


def says_something(error: Exception, what: str = "") -> bool:
    """True, for an error with a message that holds `what`."""
    assert what in str(error)
    assert len(str(error)) > 10
    return True


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@given(
    st.sampled_from(KINDS),
    *[st.integers(0, 3) for _ in range(4)],
    st.integers(-1, 3),
    st.lists(shapes, min_size=1, max_size=4),
    shapes,
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=300)
def test_shapes_and_sizes_at_random(
    kind: str,
    hidden: int,
    projection: int,
    depth: int,
    directions: int,
    features: int,
    states: Any,
    x: Any,
    bias: bool,
    right: bool,
) -> None:
    """Stacks of any sizes, weights as they ask for or not, x and states of any shape."""
    stack = Stack(kind, hidden, projection, depth, directions, bias)
    weights = [torch.randn(shape) for shape in states[1:]]
    if right and directions and hidden:
        weights = list(draw_weights(stack, abs(features), torch.Generator().manual_seed(1)))
    try:
        results = scan(
            stack,
            torch.randn(x),
            [torch.randn(shape) for shape in states][: 2 * (not right)],
            weights,
            Steps(),
        )
    except CLEAR as error:
        says_something(error)
    else:
        assert results[0].shape == (*x[:2], directions * stack.state)
        assert results[0].isfinite().all(), "read beyond a tensor, or not written"


@pytest.mark.parametrize("count", [0, 1, 13, 17, 19, 21])
def test_too_few_or_too_many_weights(count: int) -> None:
    case = small()
    with pytest.raises(ValueError, match=f"weights: expected 20, got {count}"):
        run(replace(case, weights=(case.weights * 2)[:count]))


def test_too_few_or_too_many_states() -> None:
    case = small()
    with pytest.raises(ValueError, match="initial: expected h_0, c_0 or none, got 1"):
        run(replace(case, initial=case.initial[:1]))
    with pytest.raises(ValueError, match="initial: expected h_0, c_0 or none, got 3"):
        run(replace(case, initial=(*case.initial, case.initial[0])))
    case = small("gru")
    with pytest.raises(ValueError, match="initial: expected h_0 or none, got 2"):
        run(replace(case, initial=case.initial * 2))


@pytest.mark.parametrize(
    "lengths",
    [
        torch.tensor([5, 6, 1]),
        torch.tensor([5, -1, 1]),
        torch.tensor([5, 2**62, 1]),
        torch.tensor([5, -(2**63), 1]),
        torch.tensor([5, 1]),
        torch.tensor([5, 1, 1, 1]),
        torch.tensor([[5, 1, 1]]),
        torch.tensor(5),
        torch.tensor([], dtype=torch.int64),
    ],
    ids=str,
)
def test_lengths_that_cannot_be(lengths: Tensor) -> None:
    with pytest.raises(ValueError, match=r"lengths: expected .* got"):
        run(replace(small(), steps=Steps(lengths)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool, torch.complex64])
def test_lengths_that_are_not_whole_numbers(dtype: torch.dtype) -> None:
    lengths = torch.tensor([1, 0, 1]).to(dtype)
    if dtype.is_floating_point:
        lengths[0] = 2.7
    with pytest.raises((ValueError, TypeError), match=r"lengths: expected .* got"):
        run(replace(small(), steps=Steps(lengths)))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_lengths_of_any_whole_type(dtype: torch.dtype) -> None:
    lengths = torch.tensor([5, 0, 3])
    expected = run(replace(small(), steps=Steps(lengths)))
    found = run(replace(small(), steps=Steps(torch.stack((lengths, lengths), dim=1).to(dtype)[:, 0])))
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [(3,), (5, 3), (3, 4), (3, 6), (2, 5), (3, 5, 1), (15,), ()], ids=str)
def test_resets_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"resets: expected shape \(3, 5\), got"):
        run(replace(small(), steps=Steps(resets=torch.zeros(shape, dtype=torch.bool))))


def packed(batch_sizes: Tensor, entries: int) -> Case:
    return replace(small(), x=torch.randn(entries, 2), initial=(), steps=Steps(batch_sizes=batch_sizes))


@pytest.mark.parametrize(
    "sizes",
    [
        [2, 3],
        [3, 2, 3],
        [3, 0],
        [3, 2, 0, 1],
        [0],
        [-1],
        [3, -1, 1],
        [2**62],
        [3, 2**62, 1],
        [3, -(2**63)],
        [10**11],
    ],
    ids=str,
)
def test_batch_sizes_that_cannot_be(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"(batch_sizes|x): expected .* got"):
        run(packed(torch.tensor(sizes), 6))


@pytest.mark.parametrize("entries", [0, 5, 7])
def test_a_packed_x_of_another_size(entries: int) -> None:
    with pytest.raises(ValueError, match=r"x: expected 6 rows, the sum of|batch_sizes: expected at most"):
        run(packed(torch.tensor([3, 2, 1]), entries))


@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.int8, torch.uint8, torch.float32, torch.float64, torch.bool]
)
def test_batch_sizes_of_another_type_are_not_read_as_int64(dtype: torch.dtype) -> None:
    """Eight bytes a number are read, and there are fewer."""
    sizes = torch.ones(4) if dtype == torch.bool else torch.tensor([3, 2, 1])
    case = packed(sizes.to(dtype), int(sizes.sum()))
    expected = run(replace(case, steps=Steps(batch_sizes=sizes.long())))
    try:
        found = run(case)
    except CLEAR as error:
        says_something(error, "batch_sizes: expected")
    else:
        assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [(), (0,), (1, 3), (3, 1)], ids=str)
def test_batch_sizes_of_another_shape(shape: tuple[int, ...]) -> None:
    sizes = torch.ones(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"batch_sizes: expected .* got"):
        run(packed(sizes, sizes.numel()))


def test_a_view_that_negates_is_read_as_torch_reads_it() -> None:
    """torch marks some tensors as to be negated when read: their memory holds the other sign."""
    case = small()
    expected = run(case)
    marked = torch._neg_view(-case.x)
    assert marked.is_neg()
    found = run(replace(case, x=marked))
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


class Recorder:
    """Stands in for the kernels and keeps what they were called with."""

    def __init__(self) -> None:
        self.real = native.kernels()
        self.calls: list[tuple[str, Any, list[int]]] = []

    def forward(self, schedule: Any, keep: bool, numbers: list[int]) -> None:
        self.calls.append(("forward", schedule, list(numbers)))
        self.real.forward(schedule, keep, numbers)

    def backward(self, schedule: Any, numbers: list[int]) -> None:
        self.calls.append(("backward", schedule, list(numbers)))
        self.real.backward(schedule, numbers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[..., None], Callable[..., None], Any, Any]:
    """(forward, backward, numbers of each) of a real call whose tensors still live."""
    recorder = Recorder()
    monkeypatch.setattr(native, "_kernels", recorder)
    case = small("lstm")
    x = case.x.requires_grad_()
    output, *_ = scan(case.stack, x, case.initial, case.weights, case.steps)
    kept = output.grad_fn
    output.sum().backward(retain_graph=True)
    (_, schedule, forward), (_, _, backward) = recorder.calls
    alive = (case, output, kept)
    real = recorder.real
    return (
        lambda numbers: real.forward(schedule, True, numbers),
        lambda numbers: (real.backward(schedule, numbers), alive)[0],
        forward,
        backward,
    )


def test_the_binding_counts_its_numbers(recorded: Any) -> None:
    forward, backward, *lists = recorded
    for run_it, numbers in zip((forward, backward), lists, strict=True):
        for count in range(len(numbers)):
            with pytest.raises(ValueError, match="numbers: expected more of them, got"):
                run_it(numbers[:count])
        for more in (1, 2, 99):
            with pytest.raises(
                ValueError, match=f"numbers: expected {len(numbers)}, got {len(numbers) + more}"
            ):
                run_it(numbers + [0] * more)
        with pytest.raises(ValueError, match="numbers: expected"):
            run_it(lists[1] if numbers is lists[0] else lists[0])


@pytest.mark.parametrize(
    "wrong", [None, 1.5, "7", [], math.nan, 2**63, -(2**63) - 1, 10**30, torch.ones(2)], ids=str
)
def test_the_binding_refuses_what_is_no_number(recorded: Any, wrong: Any) -> None:
    forward, backward, *lists = recorded
    for run_it, numbers in zip((forward, backward), lists, strict=True):
        for place in range(len(numbers)):
            with pytest.raises((*CLEAR, OverflowError)) as caught:
                run_it([*numbers[:place], wrong, *numbers[place + 1 :]])
            assert len(str(caught.value)) > 10


SIZES = {"cell": 0, "hidden": 1, "projection": 2, "directions": 3, "depth": 4, "threads": 5, "features": 8}
REFUSED = [
    *[(name, value) for name in SIZES for value in (-1, -7, -(2**31), -(2**63))],
    *[(name, 0) for name in ("hidden", "directions", "depth", "threads")],
    *[("cell", 4), ("cell", 2**62), ("directions", 3), ("directions", 2**62), ("depth", 2**62), ("depth", 3)],
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_the_binding_refuses_sizes_that_cannot_be(recorded: Any, name: str, value: int) -> None:
    forward, backward, *lists = recorded
    for run_it, numbers in zip((forward, backward), lists, strict=True):
        changed = list(numbers)
        changed[SIZES[name]] = value
        with pytest.raises(ValueError, match=r"(cell|sizes|features|numbers): "):
            run_it(changed)


@pytest.mark.parametrize("cell", [1, 2, 3])
def test_the_binding_refuses_a_projection_of_a_cell_that_has_none(recorded: Any, cell: int) -> None:
    forward, _, numbers, _ = recorded
    with pytest.raises(ValueError, match="a projection with an LSTM only"):
        forward([cell, *numbers[1:]])


def test_the_binding_refuses_other_types() -> None:
    kernels, schedule = native.kernels(), native.schedule(3, 5, None)
    for arguments in (
        (None, True, []),
        (schedule, True, None),
        (schedule, True, (1, 2)),
        (schedule, "yes", []),
        (schedule,),
        (),
    ):
        with pytest.raises(TypeError):
            kernels.forward(*arguments)
    for arguments in ((None, []), (schedule, None), (schedule, True, []), ()):
        with pytest.raises(TypeError):
            kernels.backward(*arguments)
    with pytest.raises(ValueError, match="numbers: expected more of them, got 0"):
        kernels.forward(schedule, False, [])


def test_schedules_of_sizes_that_cannot_be() -> None:
    for rows, steps in ((-1, 5), (5, -1), (-(2**63), 1)):
        with pytest.raises(ValueError, match="shape: expected rows and steps of at least 0, got"):
            native._module.Schedule(rows, steps, 0)
    sizes = torch.tensor([3, 2])
    for steps in (-1, -(2**63)):
        with pytest.raises(ValueError, match="batch_sizes: expected"):
            native._module.Schedule.packed(sizes.data_ptr(), steps)
    for wrong in (None, 1.5, "3", 2**70):
        with pytest.raises(TypeError):
            native._module.Schedule(wrong, 5, 0)


def test_a_refused_call_leaves_the_next_one_whole() -> None:
    case = small()
    before = run(case)
    for _ in range(3):
        with pytest.raises(ValueError, match="expected"):
            run(replace(case, weights=case.weights[:3]))
        with pytest.raises(ValueError, match="numbers"):
            native.kernels().forward(native.schedule(3, 5, None), True, [0, 4])
        assert all(a.equal(b) for a, b in zip(run(case), before, strict=True))


def test_what_is_no_stack() -> None:
    case = small("gru")
    for wrong in (
        {"kind": "lstmx"},
        {"hidden": -4},
        {"hidden": 0},
        {"depth": 0},
        {"directions": 3},
        {"directions": 0},
        {"projection": 3},
    ):
        with pytest.raises(CLEAR) as caught:
            run(replace(case, stack=replace(case.stack, **wrong)))
        assert len(str(caught.value)) > 10, wrong


def test_one_thread_for_little_work() -> None:
    """A second thread costs more than it saves there."""
    tiny = draw_case(1, kind="lstm", rows=1, length=1, features=1, hidden=1, depth=1, projection=0)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert call.Call(tiny.stack, tiny.x, tiny.initial, tiny.weights, tiny.steps).threads == 1
        large = draw_case(1, kind="lstm", rows=63, length=63, features=63, hidden=63, depth=1, projection=0)
        assert call.Call(large.stack, large.x, large.initial, large.weights, large.steps).threads == 3
    finally:
        torch.set_num_threads(before)
    assert GATES == (4, 3, 1, 1)
