"""What PyTorch's own tests of recurrent layers found of ours: `benchmarks/torch_rnn_tests.py` runs them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

import recurra
import recurra.nn
from recurra.nn.convert import to_torch

COMPILED_FIRST = """
import torch

import recurra.nn

torch.manual_seed({seed})
layer = recurra.nn.{kind}(3, 7).train({training})
with torch._dynamo.config.patch(allow_rnn=True), torch.set_grad_enabled({training}):
    compiled = torch.compile(lambda x: layer(x)[0], backend="eager", fullgraph=True)
    for steps in (5, 9):
        x = torch.randn(steps, 3)
        torch.testing.assert_close(compiled(x), layer(x)[0])
"""


@pytest.mark.parametrize(("kind", "training"), [("LSTM", True), ("GRU", False)])
def test_one_sequence_compiles_before_any_other_call(kind: str, training: bool) -> None:
    """In a process of its own: what the first call of all finds is what later ones no longer see."""
    code = COMPILED_FIRST.format(kind=kind, training=training, seed=len(kind))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch says it of every script
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_a_subclass_of_script_module_takes_torchs_layer_only(kind: str) -> None:
    """Such a class compiles its members without asking them, which `torch.jit.script` does not."""

    class Scripted(torch.jit.ScriptModule):
        def __init__(self, layer: torch.nn.Module) -> None:
            super().__init__()
            self.layer = layer

        @torch.jit.script_method
        def forward(self, x: torch.Tensor):
            return self.layer(x)

    ours = getattr(recurra.nn, kind)(3, 7)
    with pytest.raises(torch.jit.frontend.NotSupportedError):
        Scripted(ours)
    x = torch.randn(*(() if kind.endswith("Cell") else (5,)), 1, 3)
    for found, expected in zip(tensors(Scripted(to_torch(ours))(x)), tensors(ours(x)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def tensors(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [t for part in result for t in tensors(part)]


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning")  # torch says it always
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor.*:UserWarning")
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "LSTMCell", "GRUCell", "RNNCell"])  # torch has no such RNN
def test_dynamic_quantization_takes_torchs_layers_only(kind: str) -> None:
    """It goes by a table of classes, so it leaves ours as they are; `to_torch` and `restore` help."""
    quantize = torch.ao.quantization.quantize_dynamic
    ours, theirs, accelerated = (
        torch.nn.Sequential(getattr(nn, kind)(3, 7)) for nn in (recurra.nn, torch.nn, torch.nn)
    )
    for model in (theirs, accelerated):
        model.load_state_dict(ours.state_dict())
    recurra.accelerate(accelerated)
    for model in (ours, accelerated):
        assert type(quantize(model)[0]) is getattr(recurra.nn, kind)
    recurra.restore(accelerated)
    x = torch.randn(*(() if kind.endswith("Cell") else (5,)), 2, 3)
    expected = tensors(quantize(theirs)(x))
    for model in (torch.nn.Sequential(to_torch(ours[0])), accelerated):
        for mine, true in zip(tensors(quantize(model)(x)), expected, strict=True):
            assert mine.equal(true)
