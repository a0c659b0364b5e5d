"""Layers in compiled graphs, vmap and forward mode; the gradient of a gradient; recompute."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.utils._pytree import tree_leaves

from recurra import nn
from recurra.engine import native
from recurra.nn.inputs import stack_of, weights_of

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no native engine: {native.why_not()}")
RESETS = {"resets": torch.tensor([[0, 0, 1, 0], [1, 1, 0, 0], [0, 1, 0, 1]], dtype=torch.bool)}
# what the engine runs, and what plain torch does
NATIVE: dict[str, Callable[[], Any]] = {
    "LSTM-stack": partial(nn.LSTM, 5, 7, num_layers=2, bidirectional=True, batch_first=True),
    "LSTM-projection": partial(nn.LSTM, 5, 7, proj_size=3),
    "GRU": partial(nn.GRU, 5, 7),
    "RNN-relu": partial(nn.RNN, 5, 7, batch_first=True, nonlinearity="relu"),
    "PeepholeLSTM": partial(nn.PeepholeLSTM, 5, 7, bidirectional=True),
    "CoupledLSTM-projection": partial(nn.CoupledLSTM, 5, 7, proj_size=3, batch_first=True),
    "CoupledLSTM-refine": partial(nn.CoupledLSTM, 5, 7, refine=True),
    "LayerNormLSTM": partial(nn.LayerNormLSTM, 5, 7, proj_size=3, batch_first=True),
    "LayerNormGRU": partial(nn.LayerNormGRU, 5, 7, bidirectional=True),
    "SLSTM": partial(nn.SLSTM, 5, 6, heads=2, batch_first=True),
}
# that torch has not
OWN = {name: make for name, make in NATIVE.items() if name.split("-")[0] not in ("LSTM", "GRU", "RNN")}
EVERY = NATIVE | {
    "MinLSTM": partial(nn.MinLSTM, 5, 7, bidirectional=True),
    "MinGRU": partial(nn.MinGRU, 5, 7, batch_first=True),
    "MLSTM": partial(nn.MLSTM, 5, 6, heads=2, batch_first=True),
    "Stacked": partial(nn.Stacked, 5, (7, 3), cell="GRU", connection="highway", hx="learned"),
}


@pytest.fixture(params=NATIVE.values(), ids=NATIVE.keys())
def layer(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture(params=EVERY.values(), ids=EVERY.keys())
def every(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(params=OWN.values(), ids=OWN.keys())
def own(request: pytest.FixtureRequest) -> Any:
    return request.param()


def input_of(layer: Any, rows: int = 3, steps: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    shape = (rows, steps, 5) if layer.batch_first else (steps, rows, 5)
    return torch.randn(shape, generator=generator)


def loss_of(layer: Any, lengths: Tensor | None, **how: Any) -> Callable[[Tensor], Tensor]:
    def loss(x: Tensor) -> Tensor:
        output: Tensor = layer(x, lengths=lengths, **how)[0]
        return output.square().sum()

    return loss


def gradients(loss: Tensor, layer: Any, **options: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, tuple(layer.parameters()), **options)


@pytest.mark.parametrize("lengths", [None, [1, 4, 0]], ids=["whole", "lengths"])
@pytest.mark.parametrize("whole_graph", [True, False])
def test_a_compiled_layer_is_the_layer(layer: Any, lengths: list[int] | None, whole_graph: bool) -> None:
    counts = None if lengths is None else torch.tensor(lengths)
    x, loss = input_of(layer), loss_of(layer, counts)
    truth = loss(x)
    with torch._dynamo.config.patch(allow_rnn=whole_graph):
        compiled = torch.compile(loss, fullgraph=whole_graph, backend="aot_eager")
        result = compiled(x)
        assert torch.equal(result, truth)
        pairs = zip(gradients(result, layer), gradients(truth, layer), strict=True)
        assert all(torch.equal(mine, true) for mine, true in pairs)


def test_a_whole_graph_holds_one_node_for_the_loop(layer: Any) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(loss_of(layer, None), fullgraph=True, backend=backend)
        compiled(input_of(layer))
        with torch.no_grad():  # and one that keeps nothing for a backward that never comes
            compiled(input_of(layer))
    for graph, target in zip(graphs, (torch.ops.recurra.scan, torch.ops.recurra.scan_forward), strict=True):
        assert [node.target for node in graph.graph.nodes if "recurra" in str(node.target)] == [target]


def test_a_compiled_layer_differentiates_what_is_asked_for(layer: Any) -> None:
    """x and some weights, with a loss that uses a final state alone."""
    x = input_of(layer).requires_grad_()
    frozen, *tracked = layer.parameters()
    frozen.requires_grad_(False)

    def loss(x: Tensor) -> Tensor:
        states = layer(x)[1]
        final: Tensor = states[-1] if layer.has_cell_state else states
        return final.square().sum()

    with torch._dynamo.config.patch(allow_rnn=True):
        found = torch.autograd.grad(
            torch.compile(loss, fullgraph=True, backend="aot_eager")(x), [x, *tracked]
        )
    expected = torch.autograd.grad(loss(x), [x, *tracked])
    assert all(torch.equal(mine, true) for mine, true in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "noise", [(None, [0.0] * 4), (torch.tensor(7), [0.1, 0.0, 0.2, 0.0])], ids=["plain", "noisy"]
)
def test_the_operator_keeps_torchs_rules_for_operators(layer: Any, noise: Any) -> None:
    stack = stack_of(layer)
    sizes = [stack.hidden, stack.projection, stack.depth, stack.directions]
    sizes += [int(stack.bias), int(stack.batch_first)]
    for tracked in (False, True):
        weights = [weight.detach().requires_grad_(tracked) for weight in weights_of(layer)]
        given = (input_of(layer), [], weights, None, None, False, stack.kind, sizes, *noise)
        run = torch.ops.recurra.scan if tracked else torch.ops.recurra.scan_forward
        assert set(torch.library.opcheck(run.default, given).values()) == {"SUCCESS"}


def test_gradients_of_each_sample_by_vmap(every: Any) -> None:
    x, weights = input_of(every), dict(every.named_parameters())
    rows = x if every.batch_first else x.transpose(0, 1)

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        batch = row.unsqueeze(0 if every.batch_first else 1)
        output: Tensor = functional_call(every, weights, (batch,))[0]
        return output.square().sum()

    each = vmap(grad(loss), (None, 0))(weights, rows)
    for number, row in enumerate(rows):
        truth = gradients(loss(weights, row), every)
        for name, true in zip(weights, truth, strict=True):
            torch.testing.assert_close(each[name][number], true, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own forward mode uses it
def test_jacobians_backward_and_forward_agree(every: Any) -> None:
    x = input_of(every, rows=1, steps=3)

    def output(x: Tensor) -> Tensor:
        result: Tensor = every(x)[0]
        return result

    jacobian = jacrev(output)(x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    _, forward = jvp(output, (x,), (direction,))
    torch.testing.assert_close(
        forward, torch.tensordot(jacobian, direction, dims=x.dim()), rtol=1e-4, atol=1e-5
    )
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        tangent = torch.autograd.forward_ad.unpack_dual(output(dual)).tangent
    torch.testing.assert_close(tangent, forward, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [None, [1, 4, 0]], ids=["whole", "lengths"])
@pytest.mark.parametrize("resets", [{}, RESETS], ids=["on", "resets"])
def test_the_gradient_of_a_gradient(every: Any, lengths: list[int] | None, resets: dict[str, Any]) -> None:
    """Native forward and plain backward in float32, beside the plain twin in float64."""
    truth_layer, x = copy.deepcopy(every).double(), input_of(every)
    counts = torch.tensor(lengths or [4, 4, 4])  # lengths at all, so that torch's own kernels stay out
    loss, true_loss = loss_of(every, lengths and counts, **resets), loss_of(truth_layer, counts, **resets)
    first = gradients(loss(x), every, create_graph=True)
    true_first = gradients(true_loss(x.double()), truth_layer, create_graph=True)
    second = gradients(sum((g.square().sum() for g in first), torch.zeros(())), every)
    truth = gradients(sum((g.square().sum() for g in true_first), torch.zeros(()).double()), truth_layer)
    for mine, true in zip((*first, *second), (*true_first, *truth), strict=True):
        assert (mine - true).abs().max() <= 1e-5 * true.abs().max()


def test_recompute_gives_the_same_bits_for_less_memory(layer: Any) -> None:
    x = input_of(layer, rows=7, steps=33)
    results, sizes = [], []
    for recompute in (False, True):
        saved: dict[int, int] = {}

        def note(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = layer(x, recompute=recompute)[0]
        results.append((output, *gradients((output * output.detach()).sum(), layer)))
        sizes.append(sum(saved.values()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert sizes[1] < sizes[0] / 2


@pytest.mark.filterwarnings(
    "ignore:The tensor attributes self._flat_weights:UserWarning"
)  # of torch's own layers too
def test_an_exported_layer_takes_any_batch(own: Any) -> None:
    own, axis = own.eval(), 0 if own.batch_first else 1
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(own, (input_of(own),), dynamic_shapes={"input": {axis: rows}})
    x = input_of(own, rows=7)
    for mine, true in zip(tree_leaves(program.module()(x)), tree_leaves(own(x)), strict=True):
        assert torch.equal(mine, true)


def test_fx_records_it_as_one_node(own: Any) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = own

        def forward(self, x: Any, lengths: Any) -> Any:
            return self.layer(x, lengths=lengths)[0]

    model, x, lengths = Model(), input_of(own), torch.tensor([1, 4, 0])
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["layer"]
    assert torch.equal(traced(x, lengths), model(x, lengths))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch says it of every script
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_does_not_compile_it(own: Any) -> None:
    with pytest.raises((ValueError, torch.jit.frontend.NotSupportedError)):
        torch.jit.script(torch.nn.Sequential(own))


def test_other_weights_by_functional_call_are_the_ones_used() -> None:
    layer = nn.GRU(5, 7)
    x = torch.randn(1, 1, 5)
    other = {name: weight.detach() + 1 for name, weight in layer.named_parameters()}
    with torch.no_grad():
        layer(x)
        mine = functional_call(layer, other, (x,))[0]
        truth = torch.nn.GRU(5, 7)
        truth.load_state_dict(other)
        torch.testing.assert_close(mine, truth(x)[0])


def test_weights_changed_before_backward_are_refused() -> None:
    layer = nn.LSTM(5, 7)
    loss = layer(torch.randn(4, 3, 5))[0].sum()
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
