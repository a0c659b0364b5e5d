"""Zoneout, recurrent dropout and weight drop of the layers, and the variants: held against the plain twin."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from engine_cases import needs_engine, relative_error, threads
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import recurra.nn
from recurra.engine import native, plain
from recurra.engine.noise import Noise
from recurra.engine.stack import Steps
from recurra.nn.inputs import stack_of, weights_of
from recurra.nn.noise import _dropped

KINDS = ["LSTM", "GRU", "RNN", "PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "LayerNormGRU", "SLSTM"]
NOISE: dict[str, Any] = {"recurrent_dropout": 0.3, "zoneout": 0.2}


def make(kind: str, features: int, hidden: int, **options: Any) -> Any:
    layer = getattr(recurra.nn, kind)(features, hidden, **options)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("weight_norm"):
                weight.mul_(0.25)  # a new layer of this kind is chaotic, and shows rounding alone
    return layer


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for part in result for t in tensors(part)]


def seed_after(state: Tensor) -> int:
    """The seed that a layer draws from torch's generator in this state."""
    generator = torch.Generator()
    generator.set_state(state)
    return int(torch.randint(2**63 - 1, (), dtype=torch.int64, generator=generator))


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_noisy_layer_is_the_plain_twin_with_the_same_draws(kind: str, options: Any, training: bool) -> None:
    layer = make(kind, 5, 33, batch_first=True, **NOISE, **options).train(training)
    x, lengths = torch.randn(7, 9, 5, requires_grad=True), torch.tensor([9, 0, 3, 9, 1, 7, 5])
    state = torch.get_rng_state()
    results = tensors(layer(x, lengths=lengths))
    upstream = [torch.randn_like(r) for r in results]
    found = torch.autograd.grad(results, [x, *layer.parameters()], upstream)
    zoneout = (0.2, 0.2 if layer.has_cell_state and kind != "SLSTM" else 0.0)
    seed = seed_after(state) if training else None
    noise = Noise(zoneout[0], zoneout[1], 0.3 if training else 0.0, seed)
    leaves = [t.detach().double().requires_grad_() for t in (x, *weights_of(layer))]
    truth = plain.run(stack_of(layer), leaves[0], (), leaves[1:], Steps(lengths), noise)
    if kind == "SLSTM":  # whose c, n and m the engine has in one
        truth = *truth[:2], *truth[2].chunk(3, -1)
    gradients = torch.autograd.grad(truth, leaves, [g.double() for g in upstream])
    names = [name for name, _ in layer.named_parameters()]
    order = [0, *(1 + layer._flat_weights_names.index(name) for name in names)]
    for mine, true in [
        *zip(results, truth, strict=True),
        *zip(found, [gradients[i] for i in order], strict=True),
    ]:
        assert relative_error(mine.detach(), true.detach()) < 5e-6


@pytest.mark.parametrize("kind", ["PeepholeLSTM", "CoupledLSTM"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_variant_is_its_equations(kind: str, dtype: torch.dtype) -> None:
    """One row, one layer, written out here once more."""
    layer = make(kind, 3, 7).to(dtype)
    x = torch.randn(5, 1, 3, dtype=dtype)
    h, c = torch.randn(2, 7, dtype=dtype).unbind()
    output, (h_n, c_n) = layer(x, (h.view(1, 1, 7), c.view(1, 1, 7)))
    sigmoid, tanh = torch.sigmoid, torch.tanh
    for t in range(5):
        a = layer.weight_ih_l0 @ x[t, 0] + layer.bias_ih_l0 + layer.weight_hh_l0 @ h + layer.bias_hh_l0
        if kind == "CoupledLSTM":
            f, g, o = a.view(3, 7)
            f = sigmoid(f)
            c = f * c + (1 - f) * tanh(g)
            h = sigmoid(o) * tanh(c)
        else:
            (i, f, g, o), (p_i, p_f, p_o) = a.view(4, 7), layer.weight_peephole_l0
            c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
            h = sigmoid(o + p_o * c) * tanh(c)
        torch.testing.assert_close(output[t, 0], h, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(h_n[0, 0], h, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(c_n[0, 0], c, rtol=1e-5, atol=1e-6)


@needs_engine  # whose bits do not depend on the number of threads, as torch's do
@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_repeats_it_and_each_call_draws_anew(kind: str) -> None:
    layer, x = make(kind, 5, 33, num_layers=2, dropout=0.1, weight_drop=0.4, **NOISE), torch.randn(9, 3, 5)
    torch.manual_seed(4)
    first, second = layer(x)[0], layer(x)[0]
    assert not first.equal(second)
    torch.manual_seed(4)
    for count, expected in ((1, first), (3, second)):
        with threads(count):
            assert layer(x)[0].equal(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_between_layers_a_stack_is_its_layers(kind: str) -> None:
    """Layer by layer, as recompute goes, the same units are drawn."""
    layer, x = make(kind, 5, 7, num_layers=3, bidirectional=True, **NOISE), torch.randn(9, 3, 5)
    torch.manual_seed(4)
    whole = tensors(layer(x))
    torch.manual_seed(4)
    assert all(a.equal(b) for a, b in zip(whole, tensors(layer(x, recompute=True)), strict=True))


def test_weight_drop_drops_recurrent_weights_alone() -> None:
    layer = recurra.nn.LSTM(3, 7, weight_drop=1.0)
    bare = recurra.nn.LSTM(3, 7)
    bare.load_state_dict(layer.state_dict())
    with torch.no_grad():
        bare.weight_hh_l0.zero_()
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(layer(x)[0], bare(x)[0])
    layer(x)[0].sum().backward()
    assert layer.weight_hh_l0.grad.eq(0).all()
    bare.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.eval()(x)[0], bare(x)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (63, 101)])
@pytest.mark.parametrize("chance", [0.0, 1e-9, 0.1, 0.5, 0.9])
def test_weights_are_dropped_with_their_chance(
    chance: float, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight = torch.randn(shape, dtype=dtype).requires_grad_()
    torch.manual_seed(3)
    found = [_dropped(weight, chance) for _ in range(33)]
    torch.manual_seed(3)
    assert all(torch.equal(one, _dropped(weight, chance)) for one in found)
    share = torch.stack(found).eq(0).double().mean().item()
    assert abs(share - chance) < 5 * (chance * (1 - chance) / (33 * weight.numel())) ** 0.5 + 2**-17
    (gradient,) = torch.autograd.grad(found[0].sum(), weight)
    torch.testing.assert_close(found[0], gradient * weight, rtol=0, atol=0)
    factor = torch.tensor(1 / (1 - chance), dtype=dtype)
    # the chance is one of 2**16, at 0.9 a factor of 10 within 8e-5 of itself
    torch.testing.assert_close(gradient, torch.where(gradient == 0, 0, factor), rtol=1e-4, atol=0)


def test_zoneout_of_one_keeps_the_state_for_ever() -> None:
    for zoneout, kept in ((1.0, (True, True)), ((1.0, 0.0), (True, False)), ((0.0, 1.0), (False, True))):
        layer = recurra.nn.LSTM(3, 7, zoneout=zoneout)
        states = (torch.randn(1, 2, 7), torch.randn(1, 2, 7))
        for mode in (True, False):
            _, ends = layer.train(mode)(torch.randn(5, 2, 3), states)
            assert tuple(a.equal(b) for a, b in zip(ends, states, strict=True)) == kept


@pytest.mark.parametrize("kind", KINDS)
def test_in_eval_only_zoneout_acts(kind: str) -> None:
    layer, x = make(kind, 5, 7, recurrent_dropout=0.5, weight_drop=0.5).eval(), torch.randn(4, 3, 5)
    other = make(kind, 5, 7)
    other.load_state_dict(layer.state_dict())
    assert layer(x)[0].equal(other.eval()(x)[0])
    zoned = make(kind, 5, 7, zoneout=0.5).eval()
    zoned.load_state_dict(layer.state_dict())
    assert not zoned(x)[0].allclose(other(x)[0])
    assert zoned(x)[0].equal(zoned(x)[0])
    one = torch.randn(1, 3, 5)  # a single step, which has a way of its own
    assert zoned(one)[0].allclose(zoned(torch.cat((one, x)))[0][:1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [{}, NOISE], ids=["silent", "noisy"])
def test_every_form_of_input(kind: str, noise: Any) -> None:
    layer = make(kind, 5, 7, num_layers=2, bidirectional=True, batch_first=True, **noise).eval()
    x, lengths = torch.randn(3, 9, 5), torch.tensor([4, 9, 6])
    output, states = layer(x, lengths=lengths)
    packed, ends = layer(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    padded, _ = pad_packed_sequence(packed, batch_first=True)
    for a, b in zip([output, *tensors(states)], [padded, *tensors(ends)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    alone, _ = layer(x[0, :4])
    torch.testing.assert_close(alone, output[0, :4], rtol=1e-5, atol=1e-6)
    given = tensors(states)
    hx = tuple(given) if layer.has_cell_state else given[0]
    again, _ = layer(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), hx)
    expected, _ = layer(x, hx, lengths=lengths)
    torch.testing.assert_close(
        pad_packed_sequence(again, batch_first=True)[0], expected, rtol=1e-5, atol=1e-6
    )
    first = tuple(g[:, 0] for g in given)
    one, _ = layer(x[0, :4], first if layer.has_cell_state else first[0])
    torch.testing.assert_close(one, expected[0, :4], rtol=1e-5, atol=1e-6)
    shown = layer.trace(x, lengths=lengths)
    assert len(shown) == 4
    torch.testing.assert_close(
        torch.cat((shown[2].hidden, shown[3].hidden), -1), output, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_resets_make_pieces_that_stand_alone(kind: str) -> None:
    layer, x = make(kind, 5, 7, zoneout=0.3).eval(), torch.randn(9, 2, 5)
    resets = torch.zeros(2, 9, dtype=torch.bool)
    resets[:, 4] = True
    output = layer(x, resets=resets)[0]
    torch.testing.assert_close(output[4:], layer(x[4:])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind: str) -> None:
    """First and second ones, in float64 by the plain twin, at odd sizes."""
    for reverse in (False, True):
        layer = make(kind, 2, 3, bidirectional=reverse, zoneout=0.3, recurrent_dropout=0.4).double()
        x, lengths = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True), torch.tensor([4, 0, 3])
        resets = torch.tensor([[0, 0, 1, 0]] * 3, dtype=torch.bool)

        def output(x: Tensor, layer: Any = layer, lengths: Any = lengths, resets: Any = resets) -> Tensor:
            torch.manual_seed(3)
            return layer(x, lengths=lengths, resets=resets)[0]  # type: ignore[no-any-return]

        assert torch.autograd.gradcheck(output, (x,))
        assert torch.autograd.gradgradcheck(output, (x,), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_have_the_options(kind: str) -> None:
    layer = make(kind, 5, 7, weight_drop=0.1, **NOISE)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(again) == repr(layer)
        x = torch.randn(4, 3, 5)
        torch.manual_seed(1)
        expected = layer(x)[0]
        torch.manual_seed(1)
        assert again(x)[0].equal(expected)
    zoneout = "(0.2, 0.0)" if kind == "SLSTM" else "0.2"
    assert f"recurrent_dropout=0.3, weight_drop=0.1, zoneout={zoneout}" in repr(layer)
    assert "zoneout" not in repr(make(kind, 5, 7))
    assert "zoneout=(0.1, 0.2)" in repr(recurra.nn.LSTM(5, 7, zoneout=(0.1, 0.2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["recurrent_dropout", "zoneout", "weight_drop"])
def test_what_is_no_probability(kind: str, name: str) -> None:
    for wrong in (-0.1, 1.1, float("nan"), "0.5", None, True):
        with pytest.raises(ValueError, match=rf"{name}: expected a number in the range \[0, 1\], .* got"):
            make(kind, 5, 7, **{name: wrong})
    with pytest.raises(ValueError, match="zoneout: expected one number"):
        make(kind, 5, 7, zoneout=(0.1, 0.2, 0.3))
    if kind in ("GRU", "RNN", "LayerNormGRU"):
        with pytest.raises(ValueError, match="zoneout: expected one number, got"):
            make(kind, 5, 7, zoneout=(0.1, 0.2))


@pytest.mark.parametrize("kind", ["PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM"])
def test_misuse_of_a_variant_raises_what_torchs_lstm_raises(kind: str) -> None:
    layer, theirs = make(kind, 5, 7), torch.nn.LSTM(5, 7)
    h = torch.zeros(1, 3, 7)
    for x, hx in (
        (torch.randn(4, 3, 6), None),
        (torch.randn(2, 4, 3, 5), None),
        (torch.randn(4, 3, 5), (h[:, :2], h)),
        (torch.randn(4, 3, 5), (h, torch.zeros(1, 3, 8))),
        (torch.randn(0, 3, 5), None),
    ):
        with pytest.raises((ValueError, RuntimeError)) as mine:
            layer(x, hx)
        with pytest.raises((ValueError, RuntimeError)) as true:
            theirs(x, hx)
        assert type(mine.value) is type(true.value)
        assert str(mine.value).replace(kind, "LSTM") == str(true.value)
    with pytest.raises(ValueError, match="proj_size has to be smaller than hidden_size"):
        make(kind, 5, 7, proj_size=7)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_without_the_engine_all_is_there(kind: str, grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no compiler was: the plain twin, and torch's kernels, give the same."""
    noisy, x = make(kind, 5, 7, num_layers=2, zoneout=0.3).eval(), torch.randn(9, 3, 5)
    silent, single = make(kind, 5, 7), torch.randn(1, 3, 5)
    lengths = torch.tensor([4, 0, 9])
    with torch.set_grad_enabled(grad):

        def all_of_them() -> list[Tensor]:
            calls = noisy(x), noisy(x, lengths=lengths), silent(x), silent(x, lengths=lengths), silent(single)
            return [*tensors(calls), *(t for trace in silent.trace(x) for t in (trace.gates, trace.hidden))]

        expected = all_of_them()
        monkeypatch.setattr(native, "_module", None)
        monkeypatch.setattr(native, "_kernels", None)
        found = all_of_them()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@needs_engine
@pytest.mark.parametrize("kind", ["PeepholeLSTM", "CoupledLSTM"])
def test_one_step_of_a_variant_is_a_step_of_the_whole(kind: str) -> None:
    layer, x = make(kind, 5, 33), torch.randn(9, 3, 5)
    with torch.inference_mode():
        whole, ends = layer(x)
        states = None
        for t in range(9):
            output, states = layer(x[t : t + 1], states)
            torch.testing.assert_close(output[0], whole[t], rtol=1e-5, atol=1e-6)
        for a, b in zip(states, ends, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@needs_engine
def test_a_graph_draws_anew_in_each_run() -> None:
    layer, x = recurra.nn.LSTM(5, 7, **NOISE), torch.randn(4, 3, 5)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(lambda x: layer(x)[0], fullgraph=True, backend="aot_eager")
        first, second = compiled(x), compiled(x)
    assert not first.equal(second)
    layer.eval()
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(lambda x: layer(x)[0], fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), layer(x)[0])


@needs_engine
def test_bfloat16_with_noise_goes_through_float32() -> None:
    assert native.available()
    layer = recurra.nn.LSTM(4, 6, **NOISE)
    x = torch.randn(5, 3, 4)
    torch.manual_seed(5)
    narrow = layer.bfloat16()(x.bfloat16())[0]
    torch.manual_seed(5)
    wide = layer.float()(x.bfloat16().float())[0]
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), wide, rtol=2**-7, atol=2**-9)
