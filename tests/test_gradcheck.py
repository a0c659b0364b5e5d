"""First and second derivatives of every layer and cell against finite differences, in float64.

A layer joins with a line in `LAYERS`, a cell in `CELLS`, a kind of the engine by being in its `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from engine_cases import draw_case
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from recurra import nn
from recurra.engine import plain
from recurra.engine.stack import KINDS, Steps

N, T, F, H = 3, 3, 1, 2
# each makes a layer from batch_first, bidirectional and dtype
LAYERS: dict[str, Callable[..., Any]] = {
    "LSTM": partial(nn.LSTM, F, H),
    "LSTM-projection": partial(nn.LSTM, F, H, proj_size=1),
    "GRU": partial(nn.GRU, F, H),
    "RNN-tanh": partial(nn.RNN, F, H),
    "RNN-relu": partial(nn.RNN, F, H, nonlinearity="relu"),
    "PeepholeLSTM": partial(nn.PeepholeLSTM, F, H),
    "PeepholeLSTM-projection": partial(nn.PeepholeLSTM, F, H, proj_size=1),
    "CoupledLSTM": partial(nn.CoupledLSTM, F, H),
    "CoupledLSTM-projection": partial(nn.CoupledLSTM, F, H, proj_size=1),
    "CoupledLSTM-refine": partial(nn.CoupledLSTM, F, H, refine=True),
    "LayerNormLSTM": partial(nn.LayerNormLSTM, F, H),
    "LayerNormGRU": partial(nn.LayerNormGRU, F, H),
    "SLSTM-heads": partial(nn.SLSTM, F, H, heads=2),
    "MinLSTM": partial(nn.MinLSTM, F, H),
    "MinGRU": partial(nn.MinGRU, F, H),
    "MLSTM": partial(nn.MLSTM, F, 2),
    "MLSTM-heads": partial(nn.MLSTM, F, 2, heads=2),
    "GRU-learned": partial(nn.GRU, F, H, hx="learned"),
    "Stacked-residual": partial(nn.Stacked, F, (2, 1), merge="mean", connection="residual"),
    "Stacked-highway": partial(nn.Stacked, F, (1, 2), cell="GRU", connection="highway", hx="learned"),
}
CELLS: dict[str, Callable[..., Any]] = {
    "LSTMCell": partial(nn.LSTMCell, F, H),
    "GRUCell": partial(nn.GRUCell, F, H),
    "RNNCell-tanh": partial(nn.RNNCell, F, H),
    "RNNCell-relu": partial(nn.RNNCell, F, H, nonlinearity="relu"),
}
MARKS = torch.tensor([[False, True, False], [True, True, True], [True, False, True]])
LENGTHS: dict[str, Any] = {"whole": {}, "lengths": {"lengths": torch.tensor([3, 0, 2])}}
RESETS: dict[str, Any] = {
    "on": {},
    "resets": {"resets": MARKS},
    "resets to hx": {"resets": MARKS, "reset_to_initial": True},
}


def each(table: dict[str, Any]) -> dict[str, Any]:
    """What `parametrize` takes besides the name of the argument."""
    return {"argvalues": list(table.values()), "ids": list(table)}


def joined(run: Callable[..., Any], leaves: Sequence[Tensor]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The function of all leaves in one vector, and that vector: a direction goes through all at once."""
    sizes = [leaf.numel() for leaf in leaves]

    def of_vector(vector: Tensor) -> Tensor:
        parts = zip(vector.split(sizes), leaves, strict=True)
        results = tree_leaves(run(*[part.view(leaf.shape) for part, leaf in parts]))
        return torch.cat([result.flatten() for result in results])

    return of_vector, torch.cat([leaf.detach().flatten() for leaf in leaves]).requires_grad_()


def seen(kind: str, results: Any) -> Any:
    """Results that gradients tell all of: an sLSTM holds its stabiliser m fixed, and so part of c and n."""
    if kind.lower() != "slstm":
        return results
    output, h_n, *cells = tree_leaves(results)
    c, n, m = cells if len(cells) == 3 else cells[0].chunk(3, -1)  # of a layer apart, of the engine together
    return output, h_n, c * m.exp(), n * m.exp()


def problem(module: Any, *given: Any, **options: Any) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The module as a function of a vector, and this: what it is given, then its weights."""
    flat, form = tree_flatten(given)
    names = [name for name, _ in module.named_parameters()]

    def run(*leaves: Tensor) -> Any:
        weights = dict(zip(names, leaves[len(flat) :], strict=True))
        arguments = tree_unflatten(leaves[: len(flat)], form)
        return seen(type(module).__name__, functional_call(module, weights, arguments, options))

    return joined(run, [*flat, *module.parameters()])


def layer_problem(make: Callable[..., Any], bidirectional: bool, **how: Any) -> Any:
    """`problem` of a layer: x, states that it can have unless it learns them, and weights."""
    layer = make(batch_first=True, bidirectional=bidirectional, dtype=torch.float64)
    for weight in layer.parameters():  # some layers begin with zeros, of which little can be seen
        torch.nn.init.normal_(weight, std=0.5)
    x = torch.randn(N, T, F, dtype=torch.float64)
    if getattr(layer, "hx", None) == "learned":
        return problem(layer, x, **how)
    _, states = layer(torch.randn_like(x))
    return problem(layer, x, states, **how)


@pytest.mark.parametrize("make", **each(LAYERS))
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("lengths", **each(LENGTHS))
@pytest.mark.parametrize("resets", **each(RESETS))
def test_a_layer(make: Callable[..., Any], bidirectional: bool, lengths: Any, resets: Any) -> None:
    run, vector = layer_problem(make, bidirectional, **lengths, **resets)
    assert gradcheck(run, vector, fast_mode=True)
    assert gradgradcheck(run, vector, fast_mode=True)


@pytest.mark.parametrize("make", **each(LAYERS))
def test_every_number_of_a_layer(make: Callable[..., Any]) -> None:
    """Not in one random direction, but each in turn; second derivatives of one direction in time alone."""
    how = LENGTHS["lengths"] | RESETS["resets to hx"]
    assert gradcheck(*layer_problem(make, True, **how))
    run, vector = layer_problem(make, False, **how)
    long = ("LayerNormLSTM", "LayerNormGRU", "SLSTM")  # number by number these take several seconds
    name = getattr(make, "func", make).__name__
    assert gradgradcheck(run, vector, fast_mode=name in long)


@pytest.mark.parametrize("make", **each(CELLS))
def test_every_number_of_a_cell(make: Callable[..., Any]) -> None:
    cell = make(dtype=torch.float64)
    x = torch.randn(N, F, dtype=torch.float64)
    run, vector = problem(cell, x, cell(torch.randn_like(x)))
    assert gradcheck(run, vector)
    assert gradgradcheck(run, vector)


# torch's own kernels run LSTM, GRU and RNN above where there are neither lengths nor resets
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("sizes", [None, [3, 2, 2]], ids=["padded", "packed"])
def test_the_equations_of_a_kind(kind: str, directions: int, sizes: list[int] | None, seed: int) -> None:
    how = {"projection": 0, "depth": 2, "directions": directions, "bias": True, "batch_first": True}
    case = draw_case(seed, kind=kind, rows=N, length=T, features=F, hidden=H, packs=False, **how)
    x, steps = case.x, Steps()
    if sizes is not None:
        x, steps = x.flatten(0, 1)[: sum(sizes)], Steps(batch_sizes=torch.tensor(sizes))
    states = len(case.initial)

    def run(x: Tensor, *rest: Tensor) -> Any:
        return seen(kind, plain.run(case.stack, x, rest[:states], rest[states:], steps))

    of_vector, vector = joined(run, [leaf.double() for leaf in (x, *case.inputs[1:])])
    assert gradcheck(of_vector, vector, fast_mode=True)
    assert gradgradcheck(of_vector, vector, fast_mode=True)
