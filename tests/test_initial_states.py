"""hx="learned": against the plain twin in float64, and a plain layer that is given the learned states."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_cases import relative_error
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.rnn import pack_padded_sequence

import recurra
import recurra.nn
from recurra.engine import native, plain
from recurra.engine.stack import Steps
from recurra.nn.convert import from_torch, to_keras, to_onnx, to_torch
from recurra.nn.initial import learned_states, state_sizes
from recurra.nn.inputs import stack_of, weights_of

TORCHS = ["LSTM", "GRU", "RNN"]
KINDS = [*TORCHS, "PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "LayerNormGRU", "SLSTM"]
DEEP: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
LENGTHS = torch.tensor([9, 0, 3, 9, 1, 7, 5])
N, T, F, H = 7, 9, 5, 33
BOUNDS = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 2**-7}  # of relative errors

each_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, *sizes: int, **options: Any) -> Any:
    """A layer whose learned states are not zero."""
    layer = getattr(recurra.nn, kind)(*(sizes or (F, H)), hx="learned", **options)
    with torch.no_grad():
        for name in layer.state_names:
            state = torch.nn.init.normal_(getattr(layer, name))
            if name == "n_0":  # a sum of exponentials
                state.abs_().add_(0.5)
        for name in layer._flat_weights_names:
            if name.startswith("weight_norm"):
                getattr(layer, name).mul_(0.25)  # a new layer of this kind is chaotic
    return layer


def given(layer: Any, rows: int | None) -> tuple[Any, Any]:
    """A plain layer with the same weights, and the learned states as its hx."""
    other = copy.deepcopy(layer)
    other.hx = "zeros"
    own = [getattr(layer, name) for name in layer.state_names]
    states = tuple(s.view_as(s) if rows is None else torch.stack([s] * rows, 1) for s in own)
    return other, states if layer.has_cell_state else states[0]


def draw_resets() -> Tensor:
    return torch.rand(N, T) < 0.3


def tensors(result: Any) -> list[Tensor]:
    if isinstance(result, torch.nn.utils.rnn.PackedSequence):
        return [result.data]
    return [result] if isinstance(result, Tensor) else [t for part in result for t in tensors(part)]


def close(found: Any, truth: Any, tolerance: float = 1e-6) -> None:
    for mine, true in zip(tensors(found), tensors(truth), strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=tolerance)


def gradients(results: Any, leaves: list[Tensor]) -> list[Tensor]:
    """Of a sum in which no two numbers weigh the same."""
    found = tensors(results)
    ways = [torch.linspace(-1, 2, t.numel(), dtype=t.dtype).reshape(t.shape) for t in found]
    return list(torch.autograd.grad(found, leaves, ways, materialize_grads=True))


@pytest.mark.parametrize(
    "options", [{}, DEEP, {"bias": False, "batch_first": True}, {"proj_size": 7, **DEEP}], ids=str
)
@pytest.mark.parametrize("how", ["whole", "lengths", "to zero", "to initial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_kind
def test_without_hx_it_is_the_plain_twin(kind: str, dtype: torch.dtype, how: str, options: Any) -> None:
    if "proj_size" in options and kind in ("GRU", "RNN", "LayerNormGRU"):
        options = DEEP  # torch has projections for an LSTM alone
    layer = make(kind, **options).to(dtype)
    shape = (N, T, F) if layer.batch_first else (T, N, F)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    lengths, resets = None if how == "whole" else LENGTHS, draw_resets() if how.startswith("to") else None
    back = how == "to initial"
    leaves = [x, *[getattr(layer, name) for name in layer.state_names], *weights_of(layer)]
    results = tensors(layer(x, lengths=lengths, resets=resets, reset_to_initial=back))
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    count = len(layer.state_names)
    initial = [state.unsqueeze(1).expand(-1, N, -1) for state in exact[1 : 1 + count]]
    initial = [*initial[:1], torch.cat(initial[1:], -1)] if count > 2 else initial
    steps = Steps(lengths, None, resets, back)
    output, h_n, *cells = plain.run(stack_of(layer), exact[0], initial, exact[1 + count :], steps)
    truth = [output, h_n, *(part for cell in cells for part in cell.chunk(count - 1, -1))]
    found, true = gradients(results, leaves), gradients(truth, exact)
    assert all(part.ne(0).any() for part in found[1 : 1 + count])
    for a, b in zip([*results, *found], [*truth, *true], strict=True):
        assert relative_error(a.detach(), b.detach()) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("grads", [True, False])
@each_kind
def test_every_form_of_input_begins_there(kind: str, grads: bool, dtype: torch.dtype) -> None:
    layer = make(kind, **DEEP).to(dtype)
    x = torch.randn(T, N, F, dtype=dtype)
    packed = pack_padded_sequence(x, LENGTHS.clamp(min=1), enforce_sorted=False)
    for form, rows in ((x, N), (x[:1], N), (x[:, :1], 1), (x[:, 0], None), (x[:1, 0], None), (packed, N)):
        other, hx = given(layer, rows)
        with torch.set_grad_enabled(grads):
            found, truth = layer(form), other(form, hx)
        close(found, truth, 0)
        if grads:
            leaves = [getattr(layer, name) for name in layer.state_names]
            mine = gradients(found, leaves)
            assert all(part.ne(0).any() for part in mine)
            for a, b in zip(mine, gradients(truth, leaves), strict=True):
                assert relative_error(a, b) < BOUNDS[dtype]


@each_kind
def test_one_step_of_a_live_model_begins_there(kind: str) -> None:
    """The call that the engine has a way of its own for: one layer and direction, outside of autograd."""
    for first in (True, False):
        layer = make(kind, batch_first=first)
        for shape, rows in (((1, 1, F), 1), ((3, 1, F) if first else (1, 3, F), 3), ((1, F), None)):
            x = torch.randn(shape)
            other, hx = given(layer, rows)
            expected = other.double()(
                x.double(), tuple(s.double() for s in hx) if type(hx) is tuple else hx.double()
            )
            with torch.inference_mode():
                close(layer(x), [part.float() for part in tensors(expected)])


@pytest.mark.parametrize("first", [True, False])
@each_kind
def test_a_trace_begins_there(kind: str, first: bool) -> None:
    layer = make(kind, batch_first=first, **DEEP).double()
    x = torch.randn((N, T, F) if first else (T, N, F), dtype=torch.float64)
    packed = pack_padded_sequence(x, LENGTHS.clamp(min=1), first, enforce_sorted=False)
    resets = {"resets": draw_resets(), "reset_to_initial": True}
    row = x[0] if first else x[:, 0]
    for form, rows, how in (
        (x, N, {}),
        (x, N, {"lengths": LENGTHS, **resets}),
        (packed, N, {}),
        (row, None, {}),
    ):
        other, hx = given(layer, rows)
        found, truth = layer.trace(form, **how), other.trace(form, hx, **how)
        for mine, true in zip(found, truth, strict=True):
            close([mine.hidden, mine.gates], [true.hidden, true.gates], 0)
            assert mine.cell is true.cell is None or mine.cell.equal(true.cell)
        (slope,) = gradients([t.hidden for t in found], [layer.h_0])
        assert slope.ne(0).all()


@each_kind
def test_a_reset_to_initial_begins_anew(kind: str) -> None:
    layer = make(kind, 3, 7).double()
    x, resets = torch.randn(T, 2, 3, dtype=torch.float64), torch.zeros(2, T, dtype=torch.bool)
    resets[:, 4] = True
    close(layer(x, resets=resets, reset_to_initial=True)[0][4:], layer(x[4:])[0], 1e-14)
    zeros = copy.deepcopy(layer)
    zeros.reset_parameters()
    for name in layer._flat_weights_names:
        setattr(zeros, name, getattr(layer, name))
    close(layer(x, resets=resets)[0], torch.cat((layer(x[:4])[0], zeros(x[4:])[0])), 1e-14)


@each_kind
def test_a_given_hx_is_used_instead(kind: str) -> None:
    layer = make(kind, **DEEP)
    bare = getattr(recurra.nn, kind)(F, H, **DEEP)
    bare.load_state_dict(layer.state_dict(), strict=False)
    x, resets = torch.randn(T, N, F), draw_resets()
    states = tuple(torch.rand(4, N, size) + 0.5 for size in state_sizes(layer).values())
    hx = states if layer.has_cell_state else states[0]
    for how in ({}, {"lengths": LENGTHS}, {"resets": resets, "reset_to_initial": True}, {"recompute": True}):
        found = layer(x, hx, **how)
        close(found, bare(x, hx, **how), 0)
        found[0].sum().backward()
    for mine, true in zip(layer.trace(x, hx), bare.trace(x, hx), strict=True):
        assert mine.hidden.equal(true.hidden)
    assert layer.h_0.grad is None


@each_kind
def test_a_new_layer_is_a_plain_one(kind: str, seed: int) -> None:
    layers = []
    for hx in ("zeros", "learned"):
        torch.manual_seed(seed)
        layers.append(getattr(recurra.nn, kind)(F, H, dropout=0.1, hx=hx, **DEEP).eval())
    bare, layer = layers
    x = torch.randn(T, N, F)
    close(layer(x), bare(x), 0)
    states = dict.fromkeys(layer.state_names, (4, H))
    assert {name: tuple(getattr(layer, name).shape) for name in states} == states
    assert list(layer.state_dict()) == [*bare.state_dict(), *states]
    assert [n for n, _ in layer.named_parameters()] == [*(n for n, _ in bare.named_parameters()), *states]
    close(layer.all_weights, bare.all_weights, 0)
    close(layer._flat_weights, bare._flat_weights, 0)
    assert "hx" not in repr(bare)
    assert repr(layer) == repr(bare)[:-1] + ", hx='learned')"


@each_kind
def test_reset_parameters_puts_them_back_to_zero(kind: str) -> None:
    layer = make(kind, **DEEP)
    before = [weight.clone() for weight in weights_of(layer)]
    layer.reset_parameters()
    assert all(getattr(layer, name).eq(0).all() for name in layer.state_names)
    assert all(weight.ne(old).any() for weight, old in zip(weights_of(layer), before, strict=True))


@each_kind
def test_state_dicts(kind: str) -> None:
    layer = make(kind, **DEEP)
    again = getattr(recurra.nn, kind)(F, H, hx="learned", **DEEP)
    again.load_state_dict(layer.state_dict())
    x = torch.randn(T, N, F)
    close(again(x), layer(x), 0)
    bare = getattr(torch.nn if kind in TORCHS else recurra.nn, kind)(F, H, **DEEP)
    assert list(getattr(recurra.nn, kind)(F, H, **DEEP).state_dict()) == list(bare.state_dict())
    names = ", ".join(f'"{name}"' for name in layer.state_names)
    with pytest.raises(RuntimeError, match=rf"Missing key\(s\) in state_dict: {names}. $"):
        layer.load_state_dict(bare.state_dict())
    with pytest.raises(RuntimeError, match=rf"Unexpected key\(s\) in state_dict: {names}. $"):
        bare.load_state_dict(layer.state_dict())
    missing, unexpected = layer.load_state_dict(bare.state_dict(), strict=False)
    assert (missing, unexpected) == (list(layer.state_names), [])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@each_kind
def test_copies(kind: str, duplicate: Callable[[Any], Any]) -> None:
    layer = make(kind, **DEEP)
    again, x = duplicate(layer), torch.randn(T, N, F)
    assert repr(again) == repr(layer)
    assert again.h_0 is not layer.h_0
    close(again(x), layer(x), 0)


@each_kind
def test_dtypes_and_the_meta_device(kind: str) -> None:
    layer = make(kind).to(torch.float64)
    assert {getattr(layer, name).dtype for name in layer.state_names} == {torch.float64}
    assert getattr(recurra.nn, kind)(F, H, dtype=torch.bfloat16, hx="learned").h_0.dtype == torch.bfloat16
    bare = getattr(recurra.nn, kind)(F, H, hx="learned", device="meta")
    assert bare.h_0.is_meta
    assert bare(torch.randn(T, N, F, device="meta"))[0].shape == (T, N, H)
    whole = bare.to_empty(device="cpu")
    whole.reset_parameters()
    assert whole.h_0.eq(0).all()
    assert whole(torch.randn(T, N, F))[0].isfinite().all()


@each_kind
def test_under_autocast_dtypes_are_those_of_a_plain_layer(kind: str) -> None:
    layer, bare = make(kind), getattr(recurra.nn, kind)(F, H)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(T, N, F, dtype=dtype)
            assert [t.dtype for t in tensors(layer(x))] == [t.dtype for t in tensors(bare(x))]


@each_kind
def test_functional_call_and_gradients_of_each_row(kind: str) -> None:
    layer = make(kind, 3, 7, batch_first=True, **DEEP)
    x, weights = torch.randn(5, 4, 3), dict(layer.named_parameters())
    doubled = {name: getattr(layer, name) * 2 for name in layer.state_names}
    twice = copy.deepcopy(layer)
    for name, state in doubled.items():
        setattr(twice, name, torch.nn.Parameter(state.detach()))
    close(functional_call(layer, doubled, (x,)), twice(x), 0)

    def loss(weights: dict[str, Tensor], row: Tensor, **how: Any) -> Tensor:
        return functional_call(layer, weights, (row,), how)[0].square().sum()  # type: ignore[no-any-return]

    for shaped, how in ((x, {}), (x[:, None], {}), (x[:, None], {"lengths": [3]})):
        each = vmap(grad(lambda w, row, how=how: loss(w, row, **how)), in_dims=(None, 0))(weights, shaped)
        for name in layer.state_names:
            one = [torch.autograd.grad(loss(weights, row, **how), weights[name])[0] for row in shaped]
            assert torch.stack(one).ne(0).any()
            close(each[name], torch.stack(one), 1e-5)


@pytest.mark.parametrize("kind", ["GRU", "RNN"])  # of a plain LSTM torch itself cannot
def test_expanded_weights_say_that_they_cannot(kind: str) -> None:
    with pytest.raises(RuntimeError, match="Expanded Weights encountered but cannot handle function"):
        call_for_per_sample_grads(make(kind, batch_first=True))(torch.randn(4, T, F))


@pytest.mark.parametrize("how", ["whole", "lengths", "resets"])
@each_kind
def test_in_a_compiled_graph(kind: str, how: str) -> None:
    ways = {"lengths": {"lengths": LENGTHS}, "resets": {"resets": draw_resets(), "reset_to_initial": True}}
    options: Any = ways.get(how, {})
    torch._dynamo.reset()  # so that no other test's recompilations count
    layer = make(kind, **DEEP)
    x = torch.randn(T, N, F)
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(lambda x: layer(x, **options), fullgraph=True, backend="aot_eager")
        found, truth = compiled(x), layer(x, **options)
        close(found, truth)
        leaves = list(layer.parameters())
        for a, b in zip(gradients(found, leaves), gradients(truth, leaves), strict=True):
            assert relative_error(a, b) < 5e-6


@pytest.mark.filterwarnings(
    "ignore:The tensor attributes self._flat_weights:UserWarning"
)  # of plain ones too
@each_kind
def test_an_exported_layer_takes_any_batch(kind: str) -> None:
    layer = make(kind, batch_first=True, **DEEP).eval()
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(layer, (torch.randn(3, T, F),), dynamic_shapes={"input": {0: rows}})
    x = torch.randn(N, T, F)
    close(program.module()(x), layer(x))


@pytest.mark.parametrize("kind", TORCHS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch says it of every script
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # that the checked shapes become constants
def test_torchscript_traces_it_and_compiles_it_not(kind: str) -> None:
    model = torch.nn.Sequential(make(kind))
    x = torch.randn(T, N, F)
    close(torch.jit.trace(model, torch.randn(T, 3, F))(x), model(x), 1e-5)
    with pytest.raises(
        ValueError, match=rf"layer: expected hx='zeros', .* got {kind} with hx='learned'; load"
    ):
        torch.jit.script(model)


@each_kind
def test_fx_records_it_as_one_node(kind: str) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = make(kind)

        def forward(self, x: Any, lengths: Any) -> Any:
            return self.layer(x, lengths=lengths)

    model, x = Model(), torch.randn(T, N, F)
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["layer"]
    close(traced(x, LENGTHS), model(x, LENGTHS), 0)


@pytest.mark.parametrize(
    "noise", [{}, {"recurrent_dropout": 0.3, "zoneout": 0.2, "weight_drop": 0.1}], ids=str
)
@each_kind
def test_noise_and_recompute(kind: str, noise: Any) -> None:
    layer = make(kind, dropout=0.4, **noise, **DEEP)
    other, hx = given(layer, N)
    x, leaves = torch.randn(T, N, F), list(layer.parameters())
    for recompute in (False, True):
        torch.manual_seed(4)
        found = layer(x, recompute=recompute)
        torch.manual_seed(4)
        close(found, other(x, hx), 0)
        torch.manual_seed(4)
        for mine, true in zip(gradients(found, leaves), gradients(layer(x), leaves), strict=True):
            assert relative_error(mine, true) < 5e-6


@each_kind
def test_without_the_engine(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = make(kind, **DEEP), torch.randn(T, N, F)
    expected = layer(x), layer(x, lengths=LENGTHS)
    monkeypatch.setattr(native, "_module", None)
    monkeypatch.setattr(native, "_kernels", None)
    close((layer(x), layer(x, lengths=LENGTHS)), expected, 1e-5)


@pytest.mark.parametrize("kind", TORCHS)
def test_accelerate_and_restore_leave_it(kind: str) -> None:
    model = torch.nn.ModuleList([make(kind), getattr(torch.nn, kind)(F, H)])
    x, learned = torch.randn(T, N, F), model[0].h_0
    expected = [layer(x)[0] for layer in model]
    for act in (recurra.accelerate, recurra.restore):
        act(model)
        assert type(model[0]) is getattr(recurra.nn, kind)
        assert model[0].h_0 is learned
        for layer, output in zip(model, expected, strict=True):
            close(layer(x)[0], output, 1e-5)
    assert type(model[1]) is getattr(torch.nn, kind)
    assert "hx" not in vars(model[1])


@pytest.mark.parametrize("convert", [to_torch, from_torch, to_keras, to_onnx])
@pytest.mark.parametrize("kind", TORCHS)
def test_no_other_package_has_such_a_layer(kind: str, convert: Any) -> None:
    layer = make(kind)
    names = " and ".join(layer.state_names)
    with pytest.raises(
        ValueError, match=f"got {kind} with hx='learned'; load .* strict=False.* {names} as hx"
    ):
        convert(layer)


@each_kind
def test_what_is_no_hx(kind: str) -> None:
    for wrong in ("zero", "", None, True, 0, ["learned"], torch.zeros(1, 1, 7)):
        with pytest.raises(
            ValueError, match=r"hx: expected 'zeros' or 'learned', .* got .*; name one of these"
        ):
            getattr(recurra.nn, kind)(3, 7, hx=wrong)


@each_kind
def test_misuse_raises_what_a_plain_layer_raises(kind: str) -> None:
    layer, bare = make(kind), getattr(recurra.nn, kind)(F, H)
    wrong = (torch.randn(F), torch.randn(2, T, N, F), torch.randn(T, N, 4), torch.randn(T, N, F).long())
    for x in (*wrong, torch.randn(T, N, F).double(), torch.randn(0, N, F)):
        for call in ("forward", "trace"):
            with pytest.raises((ValueError, RuntimeError)) as mine:
                getattr(layer, call)(x)
            with pytest.raises((ValueError, RuntimeError)) as true:
                getattr(bare, call)(x)
            assert (type(mine.value), str(mine.value)) == (type(true.value), str(true.value))


def test_a_layer_may_have_more_states() -> None:
    class Four(recurra.nn.PeepholeLSTM):
        state_names = ("h_0", "c_0", "n_0", "m_0")

    layer = Four(3, 7, proj_size=5, hx="learned", **DEEP)
    assert state_sizes(layer) == {"h_0": 5, "c_0": 7, "n_0": 7, "m_0": 7}
    assert [tuple(state.shape) for state in learned_states(layer, 3)] == [
        (4, 3, size) for size in (5, 7, 7, 7)
    ]
    assert {"n_0", "m_0"} <= set(layer.state_dict())
