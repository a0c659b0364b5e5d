"""One step outside of autograd, through layers and cells: torch's numbers, torch's errors, nothing stale."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import recurra.nn
from recurra.engine import native

needs_engine = pytest.mark.skipif(not native.available(), reason=f"no native engine: {native.why_not()}")
CELLS = ["LSTMCell", "GRUCell", "RNNCell"]
LAYERS = ["LSTM", "GRU", "RNN"]
MOST_ROWS = 8  # beyond them packing the weights pays
SIZES = [(1, 64, 64), (1, 1, 1), (3, 33, 63), (8, 7, 16), (9, 5, 33)]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the engine's step ran, as the length of this list."""
    calls: list[int] = []
    whole = native.kernels()

    class Counting:
        def step(self, *arguments: Any) -> Any:
            done = whole.step(*arguments)
            calls.extend([] if done is None else [1])
            return done

        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

    monkeypatch.setattr(native, "_kernels", Counting())
    return calls


def pair(name: str, features: int, hidden: int, **options: Any) -> tuple[Any, Any]:
    """Ours, and torch's in float64 with the same weights."""
    ours = getattr(recurra.nn, name)(features, hidden, **options)
    theirs = getattr(torch.nn, name)(features, hidden, dtype=torch.float64, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in tensors(part)]


def states_for(name: str, shape: tuple[int, ...], seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    h, c = torch.randn(2, *shape, generator=generator).unbind()
    return (h, c) if name.startswith("LSTM") else h


def double(states: Any) -> Any:
    return tuple(s.double() for s in states) if isinstance(states, tuple) else states.double()


@needs_engine
@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_gives_torchs_states(name: str, sizes: tuple[int, int, int], isa: str, bias: bool) -> None:
    rows, features, hidden = sizes
    ours, theirs = pair(name, features, hidden, bias=bias)
    x, states = torch.randn(rows, features), states_for(name, (rows, hidden), 1)
    with native.use(isa), torch.inference_mode():
        for given in (states, None):
            result = tensors(ours(x, given))
            truth = tensors(theirs(x.double(), None if given is None else double(given)))
            for mine, true in zip(result, truth, strict=True):
                assert mine.shape == true.shape
                torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-6)


@needs_engine
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_steps_as_torchs_does(
    name: str, batched: bool, batch_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    ours, theirs = pair(name, 7, 33, batch_first=batch_first)
    rows = 3 if batched else 1
    shape = ((rows, 1, 7) if batch_first else (1, rows, 7)) if batched else (1, 7)
    states = states_for(name, (1, rows, 33) if batched else (1, 33), 2)
    x = torch.randn(shape)
    with torch.inference_mode():
        for given in (states, None):
            result = tensors(ours(x, given))
            truth = tensors(theirs(x.double(), None if given is None else double(given)))
            for mine, true in zip(result, truth, strict=True):
                assert mine.shape == true.shape
                torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-6)
            mine = result[0].clone()
            result[1].zero_()  # output and h_n are memory of their own
            assert torch.equal(result[0], mine)
    assert len(calls) == 2


@needs_engine
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_a_plain_cell_of_either_kind(nonlinearity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    ours, theirs = pair("RNNCell", 5, 7, nonlinearity=nonlinearity)
    x, h = torch.randn(2, 5), torch.randn(2, 7)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, h).double(), theirs(x.double(), h.double()), rtol=1e-5, atol=1e-6)
        assert ours(x[0], h[0]).shape == (7,)
    assert len(calls) == 2


@needs_engine
def test_weights_may_change_behind_its_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    ours, theirs = pair("LSTMCell", 5, 7)
    x, states = torch.randn(1, 5), states_for("LSTM", (1, 7), 3)
    changes = [
        lambda cell: cell.weight_hh.data.mul_(2),  # bumps no version
        lambda cell: setattr(cell, "weight_ih", torch.nn.Parameter(cell.weight_ih.detach() + 1)),
        lambda cell: setattr(cell.bias_hh, "data", cell.bias_hh.data - 1),
    ]
    with torch.inference_mode():
        ours(x, states)
    for change in changes:
        change(ours)
        change(theirs)
        with torch.inference_mode():
            mine, true = ours(x, states)[0], theirs(x.double(), double(states))[0]
        torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-6)
    assert len(calls) == 1 + len(changes)


@needs_engine
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
def test_a_weight_of_another_shape_is_torchs_to_refuse(name: str) -> None:
    ours = recurra.nn.LSTMCell(5, 7)
    with torch.inference_mode():
        ours(torch.randn(1, 5))
    setattr(ours, name, torch.nn.Parameter(torch.ones(3)))
    with torch.inference_mode(), pytest.raises((RuntimeError, IndexError)):
        ours(torch.randn(1, 5))


@needs_engine
@pytest.mark.parametrize("name", CELLS + LAYERS)
def test_what_is_not_for_the_engine_goes_to_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    layer = name in LAYERS
    ours, theirs = pair(name, 5, 7)
    ours = ours.double()
    x = torch.randn(*((1,) if layer else ()), 1, 5, dtype=torch.float64)
    with torch.no_grad():
        mine, true = tensors(ours(x)), tensors(theirs(x))
    assert all(torch.equal(a, b) for a, b in zip(mine, true, strict=True))
    gradients = tensors(ours(x))[0].sum()
    gradients.backward()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(weight.grad is not None for weight in ours.parameters())
    assert not calls


@pytest.mark.parametrize("name", CELLS + LAYERS)
@pytest.mark.parametrize(
    ("shape", "state"),
    [((1, 4), (1, 7)), ((1, 5), (1, 6)), ((1, 5), (2, 7)), ((1, 1, 1, 5), (1, 7)), ((5,), (3, 7))],
)
def test_errors_are_torchs(name: str, shape: tuple[int, ...], state: tuple[int, ...]) -> None:
    said = []
    for package in (recurra.nn, torch.nn):
        module = getattr(package, name)(5, 7)
        states = torch.zeros(state)
        with torch.inference_mode(), pytest.raises((RuntimeError, ValueError)) as caught:
            module(torch.zeros(shape), (states, states) if name.startswith("LSTM") else states)
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]


@needs_engine
@pytest.mark.parametrize("name", CELLS + LAYERS)
def test_copies_and_pickles_check_their_own_weights(name: str) -> None:
    ours = getattr(recurra.nn, name)(5, 7)
    x = torch.randn(1, 1, 5) if name in LAYERS else torch.randn(1, 5)
    with torch.inference_mode():
        before = tensors(ours(x))
        for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            assert all(torch.equal(a, b) for a, b in zip(tensors(again(x)), before, strict=True))
            again.weight_ih_l0 = again.weight_ih = torch.nn.Parameter(torch.zeros(len(ours.state_dict()), 5))
            with pytest.raises((RuntimeError, IndexError, ValueError)):
                again(x)


@needs_engine
def test_the_binding_refuses_stacks_that_cannot_be() -> None:
    def fine(**other: int) -> Any:
        sizes = {"cell": 0, "hidden": 1, "projection": 0, "depth": 1, "directions": 1, **other}
        return native.module().Stack(*sizes.values(), True, True)

    fine()
    for cell in (-1, 10, 2**62):
        with pytest.raises(ValueError, match="cell: there is none of number"):
            fine(cell=cell)
    for name, values in {
        "hidden": (0, -1),
        "projection": (-1,),
        "depth": (0, -1),
        "directions": (0, 3, -1),
    }.items():
        for value in values:
            with pytest.raises(ValueError, match="stack: expected H and L of at least 1"):
                fine(**{name: value})
    for cell in (1, 2, 3, 8):
        with pytest.raises(ValueError, match="stack: expected a projection with an LSTM only"):
            fine(cell=cell, projection=1)


@needs_engine
def test_more_rows_than_a_few_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    cell = recurra.nn.GRUCell(5, 7)
    with torch.no_grad():
        cell(torch.randn(MOST_ROWS, 5))
        assert len(calls) == 1
        many = cell(torch.randn(MOST_ROWS + 1, 5))
    assert len(calls) == 1
    assert many.shape == (MOST_ROWS + 1, 7)


@needs_engine
@pytest.mark.parametrize("name", CELLS + LAYERS)
def test_a_compiled_step_is_the_step(name: str) -> None:
    module = getattr(recurra.nn, name)(5, 7)
    x = torch.randn(1, 1, 5) if name in LAYERS else torch.randn(1, 5)
    torch._dynamo.reset()
    with torch.no_grad(), torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(lambda x: module(x), fullgraph=True, backend="aot_eager")
        pairs = zip(tensors(compiled(x)), tensors(module(x)), strict=True)
        for mine, true in pairs:
            torch.testing.assert_close(mine, true, rtol=1e-5, atol=1e-6)


@needs_engine
def test_a_view_that_negates_is_read_with_its_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    ours, theirs = pair("LSTMCell", 5, 7)
    x, (h, c) = torch.randn(1, 5), states_for("LSTM", (1, 7), 6)
    truth = theirs(x.double(), (h.double(), c.double()))[0]
    with torch.inference_mode():
        by_x = ours(torch._neg_view(-x), (h, c))[0]
        assert len(calls) == 1
        by_state = ours(x, (torch._neg_view(-h), torch._neg_view(-c)))[0]
    for mine in (by_x, by_state):
        torch.testing.assert_close(mine.double(), truth, rtol=1e-5, atol=1e-6)
