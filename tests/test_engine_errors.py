"""Calls of the engine that do not fit: always a Python exception that says so, and no memory is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_cases import Case, draw_case, draw_weights, needs_engine, relative_error
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recurra.engine import native, plain
from recurra.engine.call import call, native_stack
from recurra.engine.scan import scan
from recurra.engine.stack import KINDS, OWN_WEIGHTS, WITH_CELL_STATE, Stack, Steps

pytestmark = needs_engine

CLEAR = (ValueError, TypeError, RuntimeError)


def small(kind: str = "lstm", **fixed: Any) -> Case:
    """N 3, T 5, F 2, H 4, two layers in both directions, P 3 for an LSTM, with initial states."""
    numbers = torch.Generator().manual_seed(1)
    stack = Stack(kind, 4, projection=3 if kind == "lstm" else 0, depth=2, directions=2, **fixed)
    sizes = (stack.state, stack.cell_size)[: 2 if kind in WITH_CELL_STATE else 1]
    leading = (3, 5) if stack.batch_first else (5, 3)
    x = torch.randn(*leading, 2, generator=numbers)
    initial = tuple(torch.rand(4, 3, n, generator=numbers) for n in sizes)
    weights = draw_weights(stack, 2, numbers)
    if kind.startswith("layer_norm"):  # new ones make rounding larger, layer by layer
        weights = tuple(w / 4 if w.shape[0] == OWN_WEIGHTS[kind][1] else w for w in weights)
    return Case(stack, x, initial, weights, Steps(), (), ())


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


def test_resets_of_another_shape_beside_batch_sizes() -> None:
    case = packed(torch.tensor([3, 2, 1]), 6)
    run(replace(case, steps=case.steps._replace(resets=torch.ones(3, 3, dtype=torch.bool))))
    for shape in ((3, 2), (2, 3), (9,), (3, 3, 1), ()):
        steps = case.steps._replace(resets=torch.ones(shape, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"resets: expected shape \(3, 3\), got"):
            run(replace(case, steps=steps))


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


def ready(case: Case) -> Any:
    made = call(case.stack, case.x, case.initial, case.weights, case.steps)
    assert made is not None
    return made


def test_backward_takes_only_what_forward_kept() -> None:
    """Hooks on saved tensors may hand back anything: never memory that is not there."""
    case = small("lstm")
    made = ready(case)
    made.forward(True)
    kept = made.kept()
    wanted = [True] * (1 + len(case.initial) + len(case.weights))
    first = made.backward(kept, None, (torch.ones_like(case.initial[0]), None), wanted)
    assert len(first) == len(wanted)
    for place in range(len(kept)):
        for wrong in (kept[place][:-1], kept[place].double(), kept[place].flatten(), kept[place].bfloat16()):
            with pytest.raises(ValueError, match="saved: expected"):
                made.backward([*kept[:place], wrong, *kept[place + 1 :]], None, (), wanted)
    for others in (kept[:-1], (*kept, kept[0]), ()):
        with pytest.raises(ValueError, match="backward: expected what forward kept"):
            made.backward(others, None, (), wanted)
    for few in (wanted[:-1], [*wanted, True], []):
        with pytest.raises(ValueError, match="backward: expected what forward kept"):
            made.backward(kept, None, (), few)
    with pytest.raises(ValueError, match="kept: expected a call of forward with keep"):
        made.kept()


def test_gradients_of_another_shape_are_refused() -> None:
    case = small("gru")
    made = ready(case)
    output, *_ = made.forward(True)
    kept = made.kept()
    wanted = [True] * (1 + len(case.initial) + len(case.weights))
    for d_output, d_finals in (
        (output[:-1], ()),
        (output.flatten(), ()),
        (None, (case.initial[0][:, :1],)),
        (None, (case.initial[0], case.initial[0])),
    ):
        with pytest.raises(ValueError, match="expected"):
            made.backward(kept, d_output, d_finals, wanted)
    made.backward(kept, output, (case.initial[0],), wanted)


def test_a_call_goes_on_only_with_its_own_inputs() -> None:
    case = small("lstm")
    made = ready(case)
    made.let_go()
    for wrong in (
        (case.x.double(), case.initial, case.weights),
        (case.x[:, :2], case.initial, case.weights),
        (case.x, case.initial[:1], case.weights),
        (case.x, case.initial, case.weights[:-1]),
        (case.x, case.initial, (case.weights[1], *case.weights[1:])),
    ):
        with pytest.raises(ValueError, match="expected"):
            made.on(*wrong)
    made.on(case.x, case.initial, case.weights).forward(False)


@pytest.mark.parametrize("wrong", [None, 1.5, "7", [1.0], {}], ids=str)
def test_what_is_no_tensor_is_not_for_the_engine(wrong: Any) -> None:
    case = small("lstm")
    assert call(case.stack, wrong, case.initial, case.weights, case.steps) is None
    assert call(case.stack, case.x, (wrong, case.initial[1]), case.weights, case.steps) is None
    assert call(case.stack, case.x, case.initial, (*case.weights[:-1], wrong), case.steps) is None


def test_the_binding_refuses_other_types() -> None:
    kernels, case = native.kernels(), small("lstm")
    stack, threads = native_stack(case.stack), native.module().Threads(1, 0, 0)
    noise = native.module().Noise(0.1, 0.2, 0.3, True, 2**64 - 1)
    good = [stack, case.x, case.initial, case.weights, None, None, False, noise, 0, False, threads]
    kernels.call(*good)
    for place in (0, 2, 3, 4, 6, 7, 8, 9, 10):
        for wrong in (object(), 1.5):
            with pytest.raises(TypeError):
                kernels.call(*good[:place], wrong, *good[place + 1 :])
    with pytest.raises(TypeError):
        kernels.call(*good[:-1])
    for most in (0, -1, 4097):
        with pytest.raises(ValueError, match="threads: expected 1 to 4096, got"):
            kernels.call(*good[:-1], native.module().Threads(most, 0, 0))
    for chances in ((-0.1, 0, 0), (0, 1.1, 0), (0, 0, float("nan"))):
        with pytest.raises(ValueError, match="noise: expected probabilities, 0 to 1"):
            native.module().Noise(*chances, False, 0)


def test_it_reads_tensors_where_torch_has_no_table_for_it() -> None:
    """As with torch before its exchange by DLPack had a table of functions: the same results."""
    case = draw_case(77)
    quickly = run(case)
    module = native.module()
    module.connect(torch, False)
    try:
        slowly = run(case)
        doubles = replace(case, x=case.x.double())
        assert call(case.stack, doubles.x, case.initial, case.weights, case.steps) is None
    finally:
        module.connect(torch, True)
    assert all(a.equal(b) for a, b in zip(quickly, slowly, strict=True))


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
        assert ready(tiny).threads == 1
        large = draw_case(1, kind="lstm", rows=63, length=63, features=63, hidden=63, depth=1, projection=0)
        assert ready(large).threads == 3
    finally:
        torch.set_num_threads(before)
