"""`recurra.lens.gradients` and `spectra` against autograd through the model, and networks made to order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from recurra import nn
from recurra.errors import ArgumentError
from recurra.lens.gradients import EXPLODING, VANISHING, gradient_flow, judge, side_by_side
from recurra.lens.jacobians import spectra

N, T, F, H = 3, 9, 5, 7

KINDS: dict[str, Callable[..., Any]] = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN": nn.RNN,
    "PeepholeLSTM": nn.PeepholeLSTM,
    "CoupledLSTM": nn.CoupledLSTM,
    "refined": lambda *sizes, **options: nn.CoupledLSTM(*sizes, refine=True, **options),
    "LayerNormLSTM": nn.LayerNormLSTM,
    "LayerNormGRU": nn.LayerNormGRU,
    "SLSTM": nn.SLSTM,
    "MinGRU": nn.MinGRU,
    "MinLSTM": nn.MinLSTM,
    "torch.LSTM": torch.nn.LSTM,
    "torch.GRU": torch.nn.GRU,
    "torch.RNN": torch.nn.RNN,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def layer_of(kind: str, *sizes: int, **options: Any) -> Any:
    layer = KINDS[kind](*(sizes or (F, H)), batch_first=True, **options).double()
    with torch.no_grad():
        for weight in layer.parameters():
            weight.uniform_(-0.7, 0.7)
    return layer


def batch(*shape: int) -> Tensor:
    return torch.randn(*(shape or (N, T, F)), dtype=torch.float64)


@every_kind
def test_the_norms_are_those_of_autograd_through_the_model(kind: str) -> None:
    """The layer is run to step t, and on from there: autograd is asked about its states in between."""
    layer, x = layer_of(kind), batch()
    weight = torch.randn(N, T, H, dtype=torch.float64)

    def loss(output: Any) -> Tensor:
        return (output[0] * weight).sum()

    flow = gradient_flow(layer, x, loss=loss)
    found = flow.states[""]
    assert flow.loss == pytest.approx(loss(layer(x)).item(), rel=1e-12)
    for t in (0, 4, T - 2):
        first, states = layer(x[:, : t + 1])
        states = states if isinstance(states, tuple) else (states,)
        states = tuple(state.detach().requires_grad_() for state in states)
        rest, _ = layer(x[:, t + 1 :], states if len(states) > 1 else states[0])
        value = (torch.cat((first[:, :t].detach(), states[0].transpose(0, 1), rest), 1) * weight).sum()
        gradients = torch.autograd.grad(value, states)
        hidden = gradients[0][0].norm(dim=-1)
        np.testing.assert_allclose(found.hidden[0, 0, :, t], hidden, rtol=1e-9)
        if len(states) == 2:
            # h_t comes of c_t as well: what the state h_t passes on belongs to both
            cell = gradients[1][0] + _by_way_of_h(layer, x, t, gradients[0][0])
            np.testing.assert_allclose(found.cell[0, 0, :, t], cell.norm(dim=-1), rtol=1e-9)


def _by_way_of_h(layer: Any, x: Tensor, t: int, d_h: Tensor) -> Tensor:
    """∂L/∂h_t · ∂h_t/∂c_t, (N, H): o ⊙ d tanh(c), with tanh(c) normalised or not."""
    ours = layer if hasattr(layer, "trace") else nn.LSTM(F, H, batch_first=True).double()
    if ours is not layer:
        ours.load_state_dict(layer.state_dict())
    trace = ours.trace(x)[0]
    c = trace.cell[:, t].detach().requires_grad_()
    o = trace.gate("output")[:, t].detach()
    shown = torch.tanh(c)
    if isinstance(layer, nn.LayerNormLSTM):
        gain, shift = layer.weight_norm_l0[8:]
        shown = torch.tanh(torch.nn.functional.layer_norm(c, (H,)) * gain + shift)
    if isinstance(layer, nn.PeepholeLSTM):
        x_sums = x[:, t] @ layer.weight_ih_l0[3 * H :].T + layer.bias_ih_l0[3 * H :]
        h_sums = trace.hidden[:, t - 1] @ layer.weight_hh_l0[3 * H :].T if t else 0
        sums = x_sums + h_sums + layer.bias_hh_l0[3 * H :]
        o = torch.sigmoid(sums.detach() + layer.weight_peephole_l0[2] * c)
    return torch.autograd.grad((o * shown * d_h).sum(), c)[0]


@every_kind
def test_every_layer_direction_and_row_has_norms_up_to_its_own_length(kind: str) -> None:
    layer = layer_of(kind, F, H, num_layers=2, bidirectional=True)
    x, lengths = batch(), [T, 4, 1]
    packed = kind.startswith("torch")
    given: Any = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True) if packed else x
    options = {} if packed else {"lengths": lengths}

    def loss(output: Any) -> Tensor:
        return (output[0].data if packed else output[0]).sin().sum()

    found = gradient_flow(layer, given, loss=loss, **options).states[""]
    assert found.hidden.shape == (2, 2, N, T)
    assert found.length.values.tolist() == lengths
    for row, length in enumerate(lengths):
        assert np.isfinite(found.hidden[:, :, row, :length]).all()
        assert np.isnan(found.hidden[:, :, row, length:]).all()
    output, _ = layer(given, **options)
    top = output.data.reshape(-1, 2, H) if packed else output.reshape(N, T, 2, H)
    if not packed:
        # the top layer's last read step has no later one: its gradient is the readout's own
        wanted = torch.cos(top[:, 0, 1]).norm(dim=-1)
        np.testing.assert_allclose(found.hidden[1, 1, :, 0], wanted.detach(), rtol=1e-9)
    assert np.nansum(found.hidden_mean.values) == pytest.approx(
        sum(np.nanmean(found.hidden.values[..., t], axis=2).sum() for t in range(T))
    )


def test_a_model_around_the_layers_and_what_it_is_left_like() -> None:
    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(11, F)
            self.rnn = torch.nn.LSTM(F, H, 2, dropout=0.5)
            self.top = nn.Stacked(H, (5, 3), cell="GRU")
            self.head = torch.nn.Linear(3, 4)

        def forward(self, tokens: Tensor) -> Tensor:
            below, _ = self.rnn(self.embed(tokens))
            again, _ = self.rnn(below[..., :F])
            return self.head(self.top(below + again)[0][-1])

    model = Tagger().double().train().requires_grad_(False)
    model.head.eval()
    tokens = torch.randint(11, (T, N))
    flow = gradient_flow(model, tokens, time=list("abcdefghi"))
    assert list(flow.states) == ["rnn", "rnn (call 2)", "top"]
    assert flow.states["top"].sizes["layer"] == 2
    assert flow.states["rnn"].cell.dims == ("layer", "direction", "sample", "time")
    assert "".join(flow.states["top"].time.values) == "abcdefghi"
    assert flow.states["rnn"].attrs == {"module": "rnn", "class": "LSTM"}
    assert len(flow.verdicts) == len(str(flow).splitlines()) == 6
    assert model.training
    assert model.rnn.training
    assert not model.head.training
    assert "forward" not in model.rnn.__dict__
    assert flow.loss == pytest.approx(model.eval()(tokens).sum().item(), rel=1e-12)


def linear_rnn(matrix: Tensor) -> Any:
    """An RNN in its linear regime: relu on states that stay above zero."""
    layer = nn.RNN(F, len(matrix), nonlinearity="relu", batch_first=True).double()
    with torch.no_grad():
        layer.weight_ih_l0.zero_()
        layer.weight_hh_l0.copy_(matrix)
        layer.bias_ih_l0.fill_(1.0)
        layer.bias_hh_l0.zero_()
    return layer


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25])
def test_the_spectrum_of_a_multiple_of_the_identity(factor: float) -> None:
    found = spectra(linear_rnn(factor * torch.eye(H)), batch(), lags=(1, 3, 7))
    for lag in (1, 3, 7):
        np.testing.assert_allclose(found.hidden.sel(lag=lag), factor**lag, rtol=1e-12)
    for name in ("largest", "smallest", "geometric_mean"):
        np.testing.assert_allclose(found[name].sel(lag=7, block="hidden"), factor**7, rtol=1e-12)


def test_the_spectrum_of_a_known_matrix() -> None:
    scale = torch.linspace(0.2, 1.1, H, dtype=torch.float64)
    found = spectra(linear_rnn(torch.diag(scale)), batch(), lags=[5])
    np.testing.assert_allclose(found.hidden.sel(lag=5)[0], (scale**5).flip(0), rtol=1e-12)
    mean = float(scale.log().mean().mul(5).exp())
    np.testing.assert_allclose(found.geometric_mean.sel(lag=5, block="hidden"), mean, rtol=1e-12)


@every_kind
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_spectrum_is_that_of_autograd_through_the_model(kind: str, direction: str) -> None:
    layer, x = layer_of(kind, bidirectional=True), batch(1, T, F)
    found = spectra(layer, x, lags=[3], step=4, direction=direction)
    reverse = direction == "reverse"
    # the three steps up to and with step 4, in the order of reading, from the state before them
    before, inside = (x[:, 7:], x[:, 4:7]) if reverse else (x[:, :2], x[:, 2:5])
    place = int(reverse)
    _, states = layer(before)
    states = states if isinstance(states, tuple) else (states,)
    sizes = [state.shape[-1] for state in states]

    def run(vector: Tensor) -> Tensor:
        given = [state.detach().clone() for state in states]
        for state, part in zip(given, vector.split(sizes), strict=True):
            state[place, 0] = part
        _, ends = layer(inside, tuple(given) if len(given) > 1 else given[0])
        return torch.cat([end[place, 0] for end in (ends if isinstance(ends, tuple) else (ends,))])

    start = torch.cat([state[place, 0] for state in states]).detach()
    jacobian = torch.autograd.functional.jacobian(run, start)
    wanted = torch.linalg.svdvals(jacobian[:H, :H])
    np.testing.assert_allclose(found.hidden[0, 0], wanted, rtol=1e-6, atol=1e-12)
    if len(states) > 1:
        np.testing.assert_allclose(
            found.largest.sel(lag=3, block="state")[0], torch.linalg.svdvals(jacobian)[0], rtol=1e-9
        )


def test_a_spectrum_ends_with_the_row_and_at_a_reset() -> None:
    layer, x = layer_of("GRU"), batch()
    resets = torch.zeros(N, T, dtype=torch.bool)
    resets[0, 6] = True
    found = spectra(layer, x, lags=(1, 2, 3), lengths=[T, 3, 0], resets=resets).largest.sel(block="hidden")
    assert (found[0, :2] > 0).all()
    assert found[0, 2] == 0
    assert np.isfinite(found[1]).all()
    assert np.isnan(found[2]).all()
    early = spectra(layer, x, lags=(2, 3), step=1, lengths=[T, 3, 1]).largest.sel(block="hidden")
    assert np.isnan(early[:, 1]).all()
    assert np.isfinite(early[:2, 0]).all()
    assert np.isnan(early[2]).all()


@pytest.mark.parametrize(
    ("factor", "word"), [(0.5, "vanishing"), (0.97, "healthy"), (1.0, "healthy"), (1.4, "exploding")]
)
def test_networks_made_to_vanish_and_to_explode_get_their_verdicts(factor: float, word: str) -> None:
    flow = gradient_flow(linear_rnn(factor * torch.eye(H, dtype=torch.float64)), batch(N, 33, F))
    (verdict,) = flow.verdicts
    assert (verdict.word, verdict.layer, verdict.direction, verdict.state) == (word, 0, "forward", "hidden")
    assert verdict.rate == pytest.approx(factor, rel=1e-9)
    assert verdict.ratio == pytest.approx(factor**32, rel=1e-9)
    if word == "healthy":
        assert verdict.back is verdict.step is None
        assert verdict.advice == ()
    else:
        limit = VANISHING if word == "vanishing" else EXPLODING
        assert verdict.back == math.floor(math.log(limit) / math.log(factor)) + 1
        assert verdict.step == 32 - verdict.back
        assert f"{verdict.back} steps before the end (step {verdict.step})" in str(flow)
        assert {"vanishing": "LSTM", "exploding": "clip_grad_norm_"}[word] in str(flow)


def test_steps_are_counted_from_each_rows_own_end_in_both_directions() -> None:
    layer = nn.RNN(F, H, nonlinearity="relu", bidirectional=True, batch_first=True).double()
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.zero_()
            if "weight_hh" in name:
                weight.copy_(0.5 * torch.eye(H))
            if "bias_ih" in name:
                weight.fill_(1.0)
    flow = gradient_flow(layer, batch(N, 33, F), lengths=[7, 33, 20])
    for verdict, step in zip(flow.verdicts, (22, 10), strict=True):
        assert (verdict.word, verdict.back, verdict.step) == ("vanishing", 10, step)
        assert verdict.rate == pytest.approx(0.5, rel=1e-9)
        assert verdict.ratio == pytest.approx(0.5**32, rel=1e-9)


def test_an_lstm_whose_gates_stay_open_is_healthy_and_one_that_forgets_is_not() -> None:
    x = batch(N, 63, F)
    nets = {"open": layer_of("LSTM"), "shut": layer_of("LSTM")}
    for name, bias in (("open", 30.0), ("shut", -1.0)):
        with torch.no_grad():
            nets[name].weight_hh_l0.zero_()
            nets[name].bias_ih_l0[H : 2 * H] = bias
    found = side_by_side(x, layers=nets)
    assert found.verdict.values.tolist() == ["healthy", "vanishing"]
    np.testing.assert_allclose(found.flow.sel(network="open"), found.cell.sel(network="open"))
    assert float(found.rate.sel(network="open")) == pytest.approx(1, abs=0.05)
    (verdict,) = gradient_flow(nets["shut"], x).verdicts
    assert any("forget_bias_" in advice for advice in verdict.advice)
    assert any("chrono_(layer, 63)" in advice for advice in verdict.advice)


def test_side_by_side_compares_the_same_sizes_on_the_same_input() -> None:
    found = side_by_side(batch(2, 33, F), hidden_size=7)
    assert found.network.values.tolist() == ["LSTM", "GRU", "RNN"]
    assert found.flow.dims == ("network", "sample", "time")
    assert np.isnan(found.cell.sel(network="GRU")).all()
    assert found.verdict.values.tolist() == ["vanishing"] * 3


def test_what_the_judge_sees() -> None:
    assert judge(np.zeros(7)) == ("none", None, 0.0, 0.0)
    assert judge(np.ones(1)) == ("healthy", None, 1.0, 1.0)
    # the loss reads nothing of the last two steps: what counts is where it begins to read
    word, back, ratio, rate = judge(np.array([0, 0, 8.0, 4, 2, 1]))
    assert (word, back, ratio) == ("healthy", None, 0.125)
    assert rate == pytest.approx(0.5)
    assert judge(np.array([1.0, np.inf, 1]))[:2] == ("exploding", 1)
    assert judge(np.array([1.0, 1e-4, 1]))[:2] == ("vanishing", 1)
    assert judge(np.array([1.0, np.nan]))[:2] == ("exploding", 1)
    assert judge(np.array([np.inf, 1.0]))[:2] == ("exploding", 0)


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_without_a_loss_a_layers_last_states_are_summed(cell: str) -> None:
    stack = nn.Stacked(F, (7, 5), cell=cell, bidirectional=True, batch_first=True).double()
    for layer in (stack, layer_of(cell, F, 5, num_layers=2, bidirectional=True)):
        x, lengths = batch(), [T, 4, 1]
        output, _ = layer(x, lengths=lengths)
        wanted = output[:, 0, 5:].sum() + sum(output[row, n - 1, :5].sum() for row, n in enumerate(lengths))
        flow = gradient_flow(layer, x, lengths=lengths)
        assert flow.loss == pytest.approx(wanted.item(), rel=1e-9)
        assert flow.states[""].hidden.shape == (2, 2, N, T)


def test_a_direction_that_the_loss_does_not_read_is_told() -> None:
    layer = layer_of("GRU", bidirectional=True)
    flow = gradient_flow(layer, batch(), loss=lambda output: output[0][..., :H].sum())
    assert [verdict.word for verdict in flow.verdicts] == ["healthy", "none"]
    assert str(flow).endswith("reverse: none, the loss does not read it")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: gradient_flow(torch.nn.Linear(F, H), batch()), "model: expected"),
        (lambda: gradient_flow(nn.MLSTM(F, H), batch()), "run step by step, got MLSTM alone"),
        (
            lambda: gradient_flow(layer_of("GRU"), batch(), loss=lambda out: out[0]),
            r"loss: .* shape \(3, 9, 7\)",
        ),
        (lambda: gradient_flow(layer_of("GRU"), batch(), loss=lambda out: 1.0), "loss: .* float"),
        (
            lambda: gradient_flow(layer_of("GRU"), batch(), loss=lambda out: torch.ones(())),
            "no state leads to",
        ),
        (lambda: spectra(layer_of("GRU"), batch(), lags=()), "lags: expected whole numbers from 1 to 9"),
        (lambda: spectra(layer_of("GRU"), batch(), lags=(10,)), "lags: .* got .10"),
        (lambda: spectra(layer_of("GRU"), batch(), step=9), "step: expected 0 to 8, got 9"),
        (lambda: spectra(layer_of("GRU"), batch(), layer=1), r"layer and direction: .*\(0, 'forward'\)"),
        (lambda: spectra(layer_of("GRU"), batch(), direction="up"), "layer and direction"),
        (lambda: spectra(layer_of("GRU"), batch(), module="rnn"), "module: expected one of '', got 'rnn'"),
        (lambda: side_by_side(batch(3, 9)), r"x: expected a tensor \(N, T, F\), got \(3, 9\)"),
        (lambda: side_by_side(batch(), layers={}), "layers: expected one or more"),
    ],
)
def test_what_is_refused(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ask()


def test_a_model_that_calls_no_recurrent_layer_is_refused() -> None:
    class Idle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(F, H)
            self.head = torch.nn.Linear(F, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x)

    with pytest.raises(ArgumentError, match=r"inputs: expected inputs that reach one of .*'rnn'"):
        gradient_flow(Idle(), batch().float())
    with pytest.raises(ArgumentError, match="loss: expected one for a model that returns dict"):
        gradient_flow(Dictionary(), batch().float())


class Dictionary(torch.nn.Module):
    """Returns what no default loss knows."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(F, H)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"output": self.rnn(x)[0]}
