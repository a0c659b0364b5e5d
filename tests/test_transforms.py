"""Layers in compiled graphs, vmap and forward mode; the gradient of a gradient; recompute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp, vmap

import recurra.nn
from recurra.engine import native
from recurra.engine.stack import KINDS
from recurra.nn.inputs import stack_of, weights_of

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no native engine: {native.why_not()}")
LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {"proj_size": 3}),
    ("GRU", {}),
    ("RNN", {"batch_first": True, "nonlinearity": "relu"}),
]
NAMES = ["LSTM-stack", "LSTM-projection", "GRU", "RNN-relu"]


@pytest.fixture(params=LAYERS, ids=NAMES)
def layer(request: pytest.FixtureRequest) -> Any:
    name, options = request.param
    return getattr(recurra.nn, name)(5, 7, **options)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def input_of(layer: Any, rows: int = 3, steps: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    shape = (rows, steps, 5) if layer.batch_first else (steps, rows, 5)
    return torch.randn(shape, generator=generator)


def loss_of(layer: Any, lengths: Tensor | None) -> Callable[[Tensor], Tensor]:
    def loss(x: Tensor) -> Tensor:
        output: Tensor = layer(x, lengths=lengths)[0]
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
        torch.compile(loss_of(layer, None), fullgraph=True, backend=backend)(input_of(layer))
    (graph,) = graphs
    assert sum(node.target == torch.ops.recurra.scan for node in graph.graph.nodes) == 1


@pytest.mark.parametrize(
    "noise", [(None, [0.0] * 4), (torch.tensor(7), [0.1, 0.0, 0.2, 0.0])], ids=["plain", "noisy"]
)
def test_the_operator_keeps_torchs_rules_for_operators(layer: Any, noise: Any) -> None:
    stack = stack_of(layer)
    numbers = [KINDS.index(stack.kind), stack.hidden, stack.projection, stack.depth]
    numbers += [stack.directions, int(stack.bias), int(stack.batch_first)]
    weights = [weight.detach() for weight in weights_of(layer)]
    checked = torch.library.opcheck(
        torch.ops.recurra.scan.default, (input_of(layer), [], weights, None, None, False, numbers, *noise)
    )
    assert set(checked.values()) == {"SUCCESS"}


def test_gradients_of_each_sample_by_vmap(layer: Any) -> None:
    x, weights = input_of(layer), dict(layer.named_parameters())
    rows = x if layer.batch_first else x.transpose(0, 1)

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        batch = row.unsqueeze(0 if layer.batch_first else 1)
        output: Tensor = functional_call(layer, weights, (batch,))[0]
        return output.square().sum()

    each = vmap(grad(loss), (None, 0))(weights, rows)
    for number, row in enumerate(rows):
        truth = gradients(loss(weights, row), layer)
        for name, true in zip(weights, truth, strict=True):
            torch.testing.assert_close(each[name][number], true, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own forward mode uses it
def test_jacobians_backward_and_forward_agree(layer: Any) -> None:
    x = input_of(layer, rows=1, steps=3)

    def output(x: Tensor) -> Tensor:
        result: Tensor = layer(x)[0]
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


def test_the_gradient_of_a_gradient(layer: Any) -> None:
    first = gradients(loss_of(layer, None)(input_of(layer)), layer, create_graph=True)
    second = gradients(sum((g.square().sum() for g in first), torch.zeros(())), layer)
    truth_layer = type(layer)(
        5, 7, **options_of(layer)
    ).double()  # float64: the plain twin, or torch's kernels
    truth_layer.load_state_dict(layer.state_dict())
    x = input_of(layer).double()
    lengths = torch.full((3,), 4)  # with lengths, and so by the plain twin, which can be differentiated twice
    true_first = gradients(loss_of(truth_layer, lengths)(x), truth_layer, create_graph=True)
    truth = gradients(sum((g.square().sum() for g in true_first), torch.zeros(()).double()), truth_layer)
    for mine, true in zip(second, truth, strict=True):
        assert (mine - true).abs().max() <= 1e-4 * true.abs().max()


def options_of(layer: Any) -> dict[str, Any]:
    options = {name: getattr(layer, name) for name in ("num_layers", "bidirectional", "batch_first")}
    if isinstance(layer, torch.nn.RNN):
        options["nonlinearity"] = layer.nonlinearity
    return options | ({"proj_size": layer.proj_size} if layer.proj_size else {})


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


def test_other_weights_by_functional_call_are_the_ones_used() -> None:
    layer = recurra.nn.GRU(5, 7)
    x = torch.randn(1, 1, 5)
    other = {name: weight.detach() + 1 for name, weight in layer.named_parameters()}
    with torch.no_grad():
        layer(x)
        mine = functional_call(layer, other, (x,))[0]
        truth = torch.nn.GRU(5, 7)
        truth.load_state_dict(other)
        torch.testing.assert_close(mine, truth(x)[0])


def test_weights_changed_before_backward_are_refused() -> None:
    layer = recurra.nn.LSTM(5, 7)
    loss = layer(torch.randn(4, 3, 5))[0].sum()
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
