"""Layers under autocast: they run forward and backward, in the dtypes and about the values of torch's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from recurra import nn
from recurra.engine import native

N, T, F, H = 3, 9, 7, 5
NOISE: dict[str, Any] = {"recurrent_dropout": 0.3, "zoneout": 0.2, "weight_drop": 0.3}


def calm(kind: Any, **options: Any) -> Any:
    """A layer with layer normalisation of little gain: a new one is chaotic, and shows rounding alone."""
    layer = kind(F, 33, **options)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.mul_(0.5 if name.startswith("weight_norm") else 1.0)
    return layer


# torch's layer whose dtypes it has, and what makes a layer from batch_first and bidirectional
LAYERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "LSTM": ("LSTM", partial(nn.LSTM, F, H, num_layers=2)),
    "LSTM-zoneout": ("LSTM", partial(nn.LSTM, F, H, zoneout=(0.2, 0.3))),
    "LSTM-recurrent-dropout": ("LSTM", partial(nn.LSTM, F, H, recurrent_dropout=0.3)),
    "LSTM-weight-drop": ("LSTM", partial(nn.LSTM, F, H, weight_drop=0.3)),
    "LSTM-noise": ("LSTM", partial(nn.LSTM, F, H, num_layers=2, dropout=0.3, proj_size=3, **NOISE)),
    "GRU": ("GRU", partial(nn.GRU, F, H)),
    "GRU-noise": ("GRU", partial(nn.GRU, F, H, **NOISE)),
    "RNN-tanh": ("RNN", partial(nn.RNN, F, H)),
    "RNN-relu": ("RNN", partial(nn.RNN, F, H, nonlinearity="relu")),
    "RNN-noise": ("RNN", partial(nn.RNN, F, H, **NOISE)),
    "PeepholeLSTM": ("LSTM", partial(nn.PeepholeLSTM, F, H)),
    "PeepholeLSTM-noise": ("LSTM", partial(nn.PeepholeLSTM, F, H, **NOISE)),
    "CoupledLSTM": ("LSTM", partial(nn.CoupledLSTM, F, H, proj_size=3)),
    "CoupledLSTM-noise": ("LSTM", partial(nn.CoupledLSTM, F, H, **NOISE)),
    "CoupledLSTM-refine": ("LSTM", partial(nn.CoupledLSTM, F, H, refine=True)),
    "LayerNormLSTM": ("LSTM", partial(calm, nn.LayerNormLSTM)),
    "LayerNormLSTM-noise": ("LSTM", partial(calm, nn.LayerNormLSTM, **NOISE)),
    "LayerNormGRU": ("GRU", partial(calm, nn.LayerNormGRU)),
    "LayerNormGRU-noise": ("GRU", partial(calm, nn.LayerNormGRU, **NOISE)),
    "SLSTM": ("LSTM", partial(nn.SLSTM, F, 6, heads=2)),
    "SLSTM-noise": ("LSTM", partial(nn.SLSTM, F, H, **NOISE)),
    "MinLSTM": ("LSTM", partial(nn.MinLSTM, F, H)),
    "MinGRU": ("LSTM", partial(nn.MinGRU, F, H)),
    "MLSTM": ("LSTM", partial(nn.MLSTM, F, 6, heads=2)),
    "Stacked": ("LSTM", partial(nn.Stacked, F, (5, 3), connection="highway", hx="learned")),
    "Stacked-noise": ("GRU", partial(nn.Stacked, F, (5, 3), cell="GRU", dropout=0.3, **NOISE)),
}
IN_FLOAT32 = ("MLSTM",)  # whose states are float32 whatever the dtype of the output
RESETS = torch.tensor([[t % 4 == n + 1 for t in range(T)] for n in range(N)])
CALLS: dict[str, Any] = {
    "plain": {},
    "lengths": {"lengths": [9, 1, 4]},
    "resets": {"lengths": [9, 0, 4], "resets": RESETS},
}


def each(table: dict[str, Any]) -> dict[str, Any]:
    """What `parametrize` takes besides the name of the argument."""
    return {"argvalues": list(table.values()), "ids": list(table)}


def run(module: Any, x: Tensor, autocast: bool, **how: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Output and states, and the gradients of x and of the weights, with the same noise in each call."""
    torch.manual_seed(5)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        results = tree_leaves(module(x, **how))
    loss = sum((result.float().square().sum() for result in results), torch.zeros(()))
    return results, list(torch.autograd.grad(loss, [x, *module.parameters()]))


def relative_error(found: list[Tensor], true: list[Tensor]) -> float:
    """|found - true| / |true| of all numbers together."""
    ours, theirs = (torch.cat([t.detach().float().flatten() for t in ts]) for ts in (found, true))
    return float((ours - theirs).norm() / theirs.norm())


def check(module: Any, x: Tensor, **how: Any) -> list[torch.dtype]:
    """Results and gradients near those in float32, each gradient in its tensor's dtype; results' dtypes."""
    results, gradients = run(module, x, True, **how)
    truth, true_gradients = run(module, x.float(), False, **how)
    # one rounding of 8 bits for each step, and for gradients one more on the way back
    assert relative_error(results, truth) < T * 2**-8
    assert relative_error(gradients, true_gradients) < 2 * T * 2**-8
    for gradient, leaf in zip(gradients, [x, *module.parameters()], strict=True):
        assert gradient.dtype == leaf.dtype
    return [result.dtype for result in results]


@pytest.mark.parametrize(("like", "make"), **each(LAYERS))
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("how", **each(CALLS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_layer(
    like: str, make: Callable[..., Any], bidirectional: bool, how: Any, dtype: torch.dtype
) -> None:
    """x in float32 as data is, or in bfloat16 as a layer below gives it under autocast."""
    layer, x = make(bidirectional=bidirectional, batch_first=True), torch.randn(N, T, F).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = getattr(torch.nn, like)(F, H)(x)
    states = torch.float32 if type(layer).__name__ in IN_FLOAT32 else output.dtype
    found = check(layer, x, **how)
    assert found == [output.dtype, *[states] * (len(found) - 1)]


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
@pytest.mark.parametrize("tracked", [False, True])
def test_a_cell(kind: str, tracked: bool) -> None:
    x = torch.randn(N, F)
    cell, theirs = getattr(nn, kind)(F, H), getattr(torch.nn, kind)(F, H)
    theirs.load_state_dict(cell.state_dict())
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(tracked):
        pairs = zip(tree_leaves(cell(x)), tree_leaves(theirs(x)), strict=True)
    for ours, expected in pairs:
        assert ours.dtype == expected.dtype
        assert torch.equal(ours, expected)
    check(cell, x)


@pytest.mark.parametrize("kind", ["LSTM", "PeepholeLSTM"])
def test_a_compiled_layer(kind: str) -> None:
    """One node of the graph as ever, in the dtype of the layer that is not compiled."""
    layer, x = getattr(nn, kind)(F, H), torch.randn(T, N, F)
    nodes: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        nodes.extend(graph.graph.nodes)
        return graph.forward

    with torch._dynamo.config.patch(allow_rnn=True), torch.autocast("cpu", torch.bfloat16):
        found, _ = torch.compile(layer, fullgraph=True, backend=backend)(x)
        expected, _ = layer(x)
    torch._dynamo.reset()
    assert sum(node.target == torch.ops.recurra.scan for node in nodes) == native.available()
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.01)
