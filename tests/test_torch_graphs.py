"""What torch does with its own recurrent layers, it does with ours: fx, TorchScript, per-sample gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

import recurra.nn

LAYERS, CELLS = ["LSTM", "GRU", "RNN"], ["LSTMCell", "GRUCell", "RNNCell"]


def tensors(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [t for part in result for t in tensors(part)]


def same(a: Any, b: Any) -> bool:
    return all(x.equal(y) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_fx_records_a_layer_as_one_node(kind: str) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.layer = torch.nn.Linear(5, 3), getattr(recurra.nn, kind)(3, 7)

        def forward(self, x: Any) -> Any:
            return self.layer(self.first(x))

    model = Model()
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["first", "layer"]
    x = torch.randn(*((9,) if kind in LAYERS else ()), 2, 5)
    assert same(traced(x), model(x))


def test_fx_records_lengths() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = recurra.nn.GRU(3, 7)

        def forward(self, x: Any, lengths: Any) -> Any:
            return self.layer(x, lengths=lengths)

    model, x, lengths = Model(), torch.randn(9, 2, 3), torch.tensor([4, 9])
    assert same(torch.fx.symbolic_trace(model)(x, lengths), model(x, lengths))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch says it of every script
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_torchscript_compiles_torchs_layer_on_the_same_weights(kind: str) -> None:
    model = torch.nn.Sequential(getattr(recurra.nn, kind)(3, 7))
    x = torch.randn(*((9,) if kind in LAYERS else ()), 2, 3)
    expected = model(x)
    scripted = torch.jit.script(model)
    for a, b in zip(tensors(scripted(x)), tensors(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert [p.data_ptr() for p in scripted.parameters()] == [p.data_ptr() for p in model.parameters()]


@pytest.mark.parametrize("kind", ["GRU", "RNN"])  # of an LSTM with oneDNN torch itself cannot
def test_gradients_of_each_sample_by_expanded_weights(kind: str) -> None:
    found = []
    for nn in (torch.nn, recurra.nn):
        torch.manual_seed(2)
        layer = getattr(nn, kind)(3, 7, batch_first=True)
        x = torch.randn(4, 5, 3)
        output, _ = call_for_per_sample_grads(layer, batch_size=4, loss_reduction="sum")(x)
        output.sum().backward()
        found.append([p.grad_sample for p in layer.parameters()])
    for theirs, ours in zip(*found, strict=True):
        assert ours.shape[0] == 4
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
