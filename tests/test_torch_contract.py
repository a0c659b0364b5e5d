"""recurra.nn's layers and cells held to torch.nn's contract: the same answers, errors and warnings."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch_contract_cases import (
    CELLS,
    GIVEN,
    LAYERS,
    Case,
    F,
    H,
    N,
    P,
    T,
    gradients,
    is_cell,
    make,
    numbers,
    of,
    packed,
    tensors,
    usual,
)

import recurra.nn

TOLERANCES = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-10}


def assert_same(ours: Any, torchs: Any, where: str = "result") -> None:
    """The same structure, kinds of tensors and, within rounding, numbers."""
    if isinstance(torchs, Tensor):
        assert isinstance(ours, Tensor), where
        for attribute in ("shape", "dtype", "device", "requires_grad"):
            mine, true = getattr(ours, attribute), getattr(torchs, attribute)
            assert mine == true, f"{where}: {attribute} {mine}, torch's {true}"
        if torchs.device.type != "meta":
            tolerance = TOLERANCES.get(torchs.dtype, 1e-5)
            torch.testing.assert_close(
                ours, torchs, rtol=tolerance, atol=tolerance, msg=lambda m: f"{where}: {m}"
            )
    elif isinstance(torchs, dict):
        assert ours.keys() == torchs.keys(), where
        for key, value in torchs.items():
            assert_same(ours[key], value, f"{where}[{key!r}]")
    elif isinstance(torchs, (list, tuple)):
        assert type(ours) is type(torchs), where
        assert len(ours) == len(torchs), where
        for index, (mine, true) in enumerate(zip(ours, torchs, strict=True)):
            assert_same(mine, true, f"{where}[{index}]")
    else:
        assert ours == torchs, where


@of(*LAYERS, *CELLS)
def hooked(nn: Any, kind: str) -> Any:
    module, seen = make(nn, kind), []

    def shapes(*parts: Any) -> list[Any]:
        return [None if part is None else tuple(part.shape) for part in parts]

    module.register_forward_pre_hook(lambda m, args: seen.append(("before", shapes(*tensors(args)))))
    module.register_forward_pre_hook(
        lambda m, args, given: seen.append(("named", sorted(given))), with_kwargs=True
    )
    module.register_forward_hook(lambda m, args, result: seen.append(("after", shapes(*tensors(result)))))
    if is_cell(kind) and kind != "LSTMCell":
        module.register_full_backward_hook(
            lambda m, d_in, d_out: seen.append(("backward", shapes(*d_in), shapes(*d_out)))
        )
    module.register_state_dict_pre_hook(lambda m, prefix, keep: seen.append(prefix))
    x, hx = usual(kind)
    tensors(module(x.requires_grad_(), hx=hx))[0].sum().backward()
    module.state_dict()
    return seen, x.grad


@of(*LAYERS, *CELLS)
def hook_that_changes_the_result(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    module.register_forward_pre_hook(lambda m, args: (args[0] * 2, *args[1:]))
    module.register_forward_hook(lambda m, args, result: [part + 1 for part in tensors(result)])
    return gradients(module, *usual(kind))


@of(*LAYERS, *CELLS)
def functional(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    other = {name: value.detach() * 2 for name, value in module.named_parameters()}
    with torch.no_grad():
        first = torch.func.functional_call(module, other, usual(kind))
        return first, module(*usual(kind))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # torch's, of itself
@pytest.mark.parametrize(("kind", "name", "case"), GIVEN, ids=[f"{kind}-{name}" for kind, name, _ in GIVEN])
def test_what_torch_answers_is_answered(kind: str, name: str, case: Case) -> None:
    assert_same(case(recurra.nn, kind), case(torch.nn, kind))


CONSTRUCTIONS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    *((sizes, {}) for sizes in [(), (F,), ("3", H), (F, -1), (-1, H), (F, None), (F, 5.0), (0, H), (F, 0)]),
    ((True, H), {}),
    ((F, H, True), {}),
    ((F, H, 2, "relu"), {}),
    ((F, H, False, "sine"), {}),
    ((F, H, 2, True, True, 0.5, True), {}),
    *(
        ((F, H), {option: value})
        for option, values in {
            "layers": [2],
            "mode": ["LSTM"],
            "device": ["nowhere", 1.5],
            "dtype": ["float32", torch.int64, torch.complex64],
            "num_layers": [1.5, -1, "2"],
            "bias": [1, "no", False],
            "batch_first": [1, None, True],
            "bidirectional": ["yes", None],
            "dropout": [-0.1, 1.1, True, "0.5", None, 0.5, 0, 1, [0.5]],
            "proj_size": [-1, H + 1, P, 1.5],
            "nonlinearity": ["relu", "sine", None],
        }.items()
        for value in values
    ),
]


def construction(nn: Any, kind: str, sizes: Any, options: Any) -> tuple[Any, ...]:
    """What the constructor says: repr of what it made or its error, and its warnings."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            module = getattr(nn, kind)(*sizes, **options)
            said: tuple[Any, ...] = ("made", repr(module), [str(p.dtype) for p in module.parameters()])
        except Exception as error:
            said = type(error), str(error)
    return *said, [(warning.category, str(warning.message)) for warning in warned]


@pytest.mark.parametrize(("sizes", "options"), CONSTRUCTIONS, ids=str)
@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_constructors_say_what_torchs_say(kind: str, sizes: Any, options: Any) -> None:
    assert construction(recurra.nn, kind, sizes, options) == construction(torch.nn, kind, sizes, options)


def in_states(kind: str, *values: Any) -> Any:
    """hx made of this value, or of two for h_0 and c_0."""
    return (values[0], values[-1]) if kind.startswith("LSTM") else values[0]


def misused_inputs(kind: str) -> dict[str, Any]:
    """Inputs that no layer or cell takes."""
    x = numbers(N, F) if kind in CELLS else numbers(T, N, F)
    inputs: dict[str, Any] = {
        "another number of features": numbers(*x.shape[:-1], F + 1),
        "one feature": numbers(*x.shape[:-1], 1),
        "too many dimensions": numbers(1, *x.shape, F),
        "too few dimensions, too few features": numbers(F - 1),
        "an integer dtype": x.long(),
        "a bool": x > 0,
        "complex": x.to(torch.complex64),
        "double": x.double(),
        "half": x.half(),
        "bfloat16": x.bfloat16(),
        "meta": x.to("meta"),
        "none": None,
        "a list": x.tolist(),
        "an array": x.numpy(),
        "a tuple of tensors": (x, x),
        "no dimension": numbers().reshape(()),
        "sparse": x.to_sparse(),
    }
    if kind in LAYERS:
        inputs["no steps"] = numbers(0, N, F)
        inputs["no steps, no batch"] = numbers(0, F)
        inputs["no steps, no rows"] = numbers(0, 0, F)
        inputs["one dimension"] = numbers(F)
        inputs["packed, other features"] = packed(numbers(T, N, F + 1))
        inputs["packed, broken"] = PackedSequence(numbers(5, F), torch.tensor([3, 3]))
        inputs["packed, double"] = packed(numbers(T, N, F).double())
    return inputs


def misused_states(kind: str) -> dict[str, tuple[Any, Any]]:
    """An input in order with states that do not fit it."""
    cell = kind in CELLS
    x, lead = (numbers(N, F), ()) if cell else (numbers(T, N, F), (1,))
    h = numbers(*lead, N, H)
    shapes: dict[str, tuple[int, ...]] = {
        "another batch": (*lead, N + 1, H),
        "a batch of one": (*lead, 1, H),
        "another size": (*lead, N, H + 1),
        "one dimension": (H,),
        "no dimension": (),
        "no batch": (*lead, H),
        "four dimensions": (1, *lead, N, H),
        "empty": (*lead, 0, H),
        "turned": (*lead, H, N),
    }
    if not cell:
        shapes |= {"two layers": (2, N, H), "batch first": (N, 1, H)}
    cases = {what: (x, in_states(kind, numbers(*shape))) for what, shape in shapes.items()}
    for dtype in (torch.float64, torch.float16, torch.int64):
        cases[f"states in {dtype}"] = x, in_states(kind, h.to(dtype))
    cases["states on meta"] = x, in_states(kind, h.to("meta"))
    cases["a text"] = x, "zeros"
    cases["a number"] = x, 0
    cases["none inside"] = x, (None,) if not kind.startswith("LSTM") else (h, None)
    cases["three states"] = x, (h, h, h)
    cases["one state in a tuple"] = x, (h,)
    cases["one state in a list"] = x, [h]
    cases["an empty tuple"] = x, ()
    if kind.startswith("LSTM"):
        cases["h alone"] = x, h
        cases["c of another size"] = x, (h, numbers(*lead, N, H + 1))
        cases["c of another batch"] = x, (h, numbers(*lead, N + 1, H))
        cases["c in double"] = x, (h, h.double())
        cases["c in double, h too, x too"] = x.double(), (h.double(), h.double())
    else:
        cases["an array"] = x, h.numpy()
    one = numbers(F) if cell else numbers(T, F)
    cases["a batch for one sequence"] = one, in_states(kind, h)
    cases["another size for one sequence"] = one, in_states(kind, numbers(*lead, H + 1))
    if not cell:
        cases["another batch, packed"] = packed(), in_states(kind, numbers(1, N + 1, H))
        cases["no batch, packed"] = packed(), in_states(kind, numbers(1, H))
        cases["another size, packed"] = packed(), in_states(kind, numbers(1, N, H + 1))
        cases["double, packed"] = packed(), in_states(kind, h.double())
        single = numbers(1, N, F)
        for what, shape in (("another batch", (1, N + 1, H)), ("no batch", (1, H)), ("turned", (N, 1, H))):
            cases[f"{what}, one step"] = single, in_states(kind, numbers(*shape))
        cases["double, one step"] = single, in_states(kind, h.double())
    return cases


MISUSES = [
    (kind, what, arguments)
    for kind in LAYERS + CELLS
    for what, arguments in [
        *((what, (x,)) for what, x in misused_inputs(kind).items()),
        *misused_states(kind).items(),
    ]
]


def answer(module: Any, arguments: Any) -> Any:
    """The error as type and text, or the result: torch takes some of what looks like misuse."""
    try:
        return module(*arguments)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize(
    ("kind", "what", "arguments"), MISUSES, ids=[f"{kind}-{what}" for kind, what, _ in MISUSES]
)
def test_misuse_is_answered_as_torch_answers_it(kind: str, what: str, arguments: Any) -> None:
    ours, torchs = make(recurra.nn, kind), make(torch.nn, kind)
    for way in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with way():
            assert_same(answer(ours, arguments), answer(torchs, arguments), way.__name__)


def load(module: Any, states: Any, **options: Any) -> Any:
    return module.load_state_dict(states, **options)


def without_first(states: Any) -> Any:
    return dict(list(states.items())[1:])


REFUSED: dict[str, Callable[[Any, str], Any]] = {
    "a key is missing": lambda nn, kind: load(make(nn, kind), without_first(make(nn, kind).state_dict())),
    "a key too many": lambda nn, kind: load(
        make(nn, kind), make(nn, kind).state_dict() | {"more": torch.ones(1)}
    ),
    "of other sizes": lambda nn, kind: load(make(nn, kind), make(nn, kind, F, H + 1).state_dict()),
    "of other sizes, leniently": lambda nn, kind: load(
        make(nn, kind), make(nn, kind, F + 1, H).state_dict(), strict=False
    ),
    "without a bias": lambda nn, kind: load(make(nn, kind, bias=False), make(nn, kind).state_dict()),
    "no dictionary": lambda nn, kind: load(make(nn, kind), [torch.ones(1)]),
    "a number among the weights": lambda nn, kind: load(
        make(nn, kind), dict.fromkeys(make(nn, kind).state_dict(), 1.0)
    ),
    "a weight that is no parameter": lambda nn, kind: setattr(
        make(nn, kind), next(iter(make(nn, kind).state_dict())), torch.ones(1)
    ),
    "weights on meta": lambda nn, kind: make(nn, kind, device="meta")(*usual(kind)),
    "weights in double": lambda nn, kind: make(nn, kind).double()(*usual(kind)),
    "weights in bfloat16": lambda nn, kind: make(nn, kind).bfloat16()(*usual(kind)),
    "one weight in double": lambda nn, kind: with_weight(make(nn, kind), lambda w: w.double())(*usual(kind)),
    "no arguments": lambda nn, kind: make(nn, kind)(),
    "four arguments": lambda nn, kind: make(nn, kind)(*usual(kind), None, None),
    "an unknown argument": lambda nn, kind: make(nn, kind)(*usual(kind), mask=None),
    "an unknown attribute": lambda nn, kind: make(nn, kind).weight_ih_l1_reverse,
    "moving away from meta": lambda nn, kind: make(nn, kind, device="meta").to("cpu"),
    "to a whole dtype": lambda nn, kind: make(nn, kind).to(torch.int32),
    "backward without a gradient": lambda nn, kind: (
        tensors(make(nn, kind).requires_grad_(False)(*usual(kind)))[0].sum().backward()
    ),
    "backward a second time": lambda nn, kind: backward_again(make(nn, kind), kind),
}


def with_weight(module: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The module with its first recurrent weight replaced by what `change` makes of it."""
    name = next(name for name, _ in module.named_parameters() if name.startswith("weight_hh"))
    setattr(module, name, torch.nn.Parameter(change(getattr(module, name).detach())))
    return module


def backward_again(module: Any, kind: str) -> None:
    loss = tensors(module(*usual(kind)))[0].sum()
    loss.backward()
    loss.backward()


def refusal(nn: Any, kind: str, what: str) -> tuple[type, str] | None:
    try:
        REFUSED[what](nn, kind)
    except Exception as error:
        return type(error), str(error)
    return None


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_what_torch_refuses_is_refused(kind: str, what: str) -> None:
    expected = refusal(torch.nn, kind, what)
    assert expected is not None
    assert refusal(recurra.nn, kind, what) == expected
    if not what.startswith("backward"):
        with torch.inference_mode():
            assert refusal(recurra.nn, kind, what) == refusal(torch.nn, kind, what)


def test_torchs_own_list_of_modules_passes() -> None:
    """In a process of its own, for torch's test support changes settings when it is imported."""
    script = Path(__file__).parent.parent / "benchmarks" / "torch_rnn_tests.py"
    ended = subprocess.run([sys.executable, script, "--modules"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
