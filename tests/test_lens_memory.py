"""`recurra.lens`: time constants, half-lives, saturation and context, of layers whose memory is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import recurra.nn
from recurra import lens
from recurra.errors import ArgumentError

N, T, F, H = 5, 63, 3, 7
KEPT = torch.linspace(0.5, 0.95, H, dtype=torch.float64)  # what each unit keeps at each step
TAU = -1 / KEPT.log()
HALF = math.log(0.5) / KEPT.log()
LENGTHS = [63, 50, 1, 0, 61]


def leaky(kind: str = "LSTM", **options: Any) -> Any:
    """A layer without recurrent weights: each unit keeps KEPT of its state and adds what it reads."""
    layer = getattr(recurra.nn, kind)(F, H, batch_first=True, **options).double()
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.zero_()
            candidate = {"LSTM": 2, "GRU": 2, "CoupledLSTM": 1, "MinGRU": 1}[kind] * H
            gate = {"LSTM": 1, "GRU": 1, "CoupledLSTM": 0, "MinGRU": 0}[kind] * H
            if "weight_ih" in name:
                weight[candidate : candidate + H].normal_(std=0.1)
            if "bias_ih" in name:
                sign = -1 if kind == "MinGRU" else 1
                weight[gate : gate + H] = sign * torch.logit(KEPT)
    return layer


def inputs() -> Tensor:
    return torch.randn(N, T, F, dtype=torch.float64)


def close(found: Any, expected: Any, within: float = 1e-6) -> bool:
    return np.allclose(np.asarray(found), np.asarray(expected), rtol=within, atol=0)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "CoupledLSTM", "MinGRU"])
def test_time_constants_of_constant_gates(kind: str) -> None:
    layer = leaky(kind, num_layers=2 if kind == "LSTM" else 1, bidirectional=True)
    times = lens.time_constants(lens.trace(layer, inputs(), lengths=LENGTHS))
    assert times["time_constant"].dims == ("layer", "direction", "unit")
    assert close(times["kept"], KEPT.broadcast_to(times["kept"].shape))
    assert close(times["time_constant"], TAU.broadcast_to(times["kept"].shape))
    assert close(times["geometric_time_constant"], TAU.broadcast_to(times["kept"].shape))


def test_time_constants_of_gates_that_move() -> None:
    layer = leaky()
    with torch.no_grad():
        layer.weight_ih_l0[H : 2 * H].normal_()
        layer.bias_ih_l0[H] = math.inf
        layer.bias_ih_l0[H + 1] = -math.inf
    traced = lens.trace(layer, inputs(), lengths=LENGTHS)
    times = lens.time_constants(traced)
    forget = np.concatenate([traced["forget"].values[0, 0, row, :n] for row, n in enumerate(LENGTHS)])
    assert len(forget) == sum(LENGTHS)
    moving = forget[:, 2:]
    assert close(times["time_constant"].values[0, 0, 2:], -1 / np.log(moving.mean(0)))
    assert close(times["geometric_time_constant"].values[0, 0, 2:], -1 / np.log(moving).mean(0))
    assert (times["geometric_time_constant"] <= times["time_constant"]).all()
    for name in ("time_constant", "geometric_time_constant"):
        assert times[name].values[0, 0, :2].tolist() == [math.inf, 0]
    nothing = lens.time_constants(lens.trace(layer, inputs(), lengths=[0] * N))
    assert nothing["time_constant"].isnull().all()


def test_layers_without_a_gate_that_keeps() -> None:
    with pytest.raises(ArgumentError, match=r"traced: expected a layer with a gate .* got RNN; .*half_life"):
        lens.time_constants(lens.trace(recurra.nn.RNN(F, H), torch.randn(T, N, F)))
    with pytest.raises(ArgumentError, match=r"got SLSTM; measure its memory"):
        lens.time_constants(lens.trace(recurra.nn.SLSTM(F, H), torch.randn(T, N, F)))
    with pytest.raises(ArgumentError, match=r"traced: expected a Dataset as .* got Tensor; give it trace"):
        lens.time_constants(torch.randn(T))


@pytest.mark.parametrize("where", ["input", "state"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "CoupledLSTM", "MinGRU"])
def test_half_lives_of_constant_gates(kind: str, where: str) -> None:
    layer, x = leaky(kind, bidirectional=True), inputs()
    for lengths in (None, LENGTHS):
        found = lens.half_life(layer, x, lengths=lengths, where=where)
        name = "hidden" if kind in ("GRU", "MinGRU") else "cell"
        assert close(found[f"{name}_half_life"], HALF.broadcast_to(1, 2, H), 1e-6)
        fade = KEPT ** torch.arange(T, dtype=torch.float64)[:, None]
        assert np.allclose(found[f"{name}_fade"].values[0, 1], fade, rtol=0, atol=1e-9)
        assert found[f"{name}_fade"].dims == ("layer", "direction", "lag", "unit")
        assert found.attrs["where"] == where


def test_half_lives_in_float32_by_the_engine() -> None:
    layer, x = leaky().float(), inputs().float()
    found = lens.half_life(layer, x, at=7)
    assert close(found["cell_half_life"], HALF.broadcast_to(1, 1, H), 1e-3)
    assert found.sizes["lag"] == T - 7
    assert not found["cell_fade"].equals(lens.half_life(layer, x, at=7, seed=1)["cell_fade"])
    assert found.equals(lens.half_life(layer, x, at=7))


def test_a_leaky_integrator_and_a_dead_unit() -> None:
    layer = nn.RNN(F, H, nonlinearity="relu", batch_first=True).double()
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.weight_hh_l0.copy_(torch.diag(KEPT))
        layer.weight_ih_l0.uniform_(0.1, 1)
        layer.weight_ih_l0[3] = 0
        layer.weight_hh_l0[4, 4] = 1
        layer.weight_hh_l0[5, 5] = 0
    x = inputs().abs()
    measured = lens.half_life(layer, x, lengths=LENGTHS)
    expected = [*HALF[:3].tolist(), math.nan, math.inf, 0, HALF[6]]
    assert np.allclose(measured["hidden_half_life"].values.ravel(), expected, rtol=1e-6, equal_nan=True)
    found = lens.saturation(lens.trace(layer, x, lengths=LENGTHS))
    assert list(found.data_vars) == ["hidden_range", "dead"]
    assert found["dead"].values.ravel().tolist() == [unit == 3 for unit in range(H)]
    assert lens.saturation(lens.trace(layer, x), still=1e9)["dead"].all()


def test_a_change_that_arrives_late() -> None:
    stack = nn.LSTM(F, H, num_layers=2, batch_first=True).double()
    layer = leaky("LSTM", num_layers=2)
    stack.load_state_dict(layer.state_dict())
    with torch.no_grad():
        stack.weight_ih_l0.mul_(1e-3)  # so small that tanh is straight
        stack.weight_ih_l1[2 * H : 3 * H].copy_(torch.eye(H))
    fade = lens.half_life(stack, inputs())["cell_fade"].values[1, 0]
    # two leaky integrators one after the other: (k + 1) f^k, the most where f / (1 - f) - 1 steps have passed
    lag = torch.arange(T, dtype=torch.float64)[:, None]
    twice = (lag + 1) * KEPT**lag
    assert np.allclose(fade, twice / twice.amax(0), rtol=0, atol=1e-4)
    assert fade[:, -1].argmax() in (18, 19)


def test_forms_of_a_call() -> None:
    layer, x = leaky("GRU"), inputs()
    lengths = torch.tensor([63, 50, 1, 9, 61])
    padded = lens.half_life(layer, x, lengths=lengths)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    assert lens.half_life(layer, packed).equals(padded)
    alone = lens.half_life(layer, x[0], torch.zeros(1, H, dtype=torch.float64), where="state")
    assert close(alone["hidden_half_life"], HALF.broadcast_to(1, 1, H))
    assert lens.half_life(layer, input=x, lengths=lengths, seed=1)["hidden_fade"].shape == (1, 1, T, H)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnns = nn.ModuleList([leaky("LSTM"), leaky("GRU")])

        def forward(self, x: Tensor) -> Tensor:
            return self.rnns[1](nn.functional.pad(self.rnns[0](x)[0], (0, F - H)))[0]

    inside = lens.half_life(Model(), x, module="rnns.0")
    assert close(inside["cell_half_life"], HALF.broadcast_to(1, 1, H))


def test_learned_states_and_stacks_and_projections() -> None:
    x = torch.randn(N, T, F)
    learned = recurra.nn.LSTM(F, H, batch_first=True, hx="learned", proj_size=5)
    found = lens.half_life(learned, x, where="state")
    assert found["hidden_half_life"].dims == ("layer", "direction", "projection")
    assert found["cell_half_life"].notnull().all()
    assert lens.saturation(lens.trace(learned, x))["dead"].shape == (1, 1, 5)
    stack = recurra.nn.Stacked(F, (H, 3), bidirectional=True, batch_first=True)
    for where in ("input", "state"):
        halves = lens.half_life(stack, x, where=where)["hidden_half_life"]
        assert halves.isel(layer=0).notnull().all()
        assert halves.isel(layer=1).isnull().values.tolist() == [[unit >= 3 for unit in range(H)]] * 2
    own = recurra.nn.Stacked(F, (H,), hx="learned")
    with pytest.raises(ArgumentError, match=r"hx: expected the states to begin with, as they are learned"):
        lens.half_life(own, x, where="state")
    with pytest.raises(ArgumentError, match=r'where: expected "input" for MLSTM, .* got "state"; leave it'):
        lens.half_life(recurra.nn.MLSTM(F, H), x, where="state")
    assert lens.half_life(recurra.nn.MLSTM(F, H), x)["hidden_half_life"].notnull().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "cell"}, r'where: expected "input" or "state", got \'cell\''),
        ({"at": -1}, r"at: expected a step from 0 on, and 0 with where=.state., got -1"),
        ({"at": 1, "where": "state"}, r"at: expected a step from 0 on, .* got 1"),
        ({"at": T}, r"at: expected a step that some row has, less than 63, got 63"),
        ({"size": 0}, r"size: expected a number above 0, such as 0.1, got 0"),
        ({"draws": 0}, r"draws: expected a whole number of at least 1, got 0"),
    ],
)
def test_arguments_of_a_half_life(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        lens.half_life(leaky(), inputs(), **options)


def test_saturation_counts_steps() -> None:
    layer = leaky()
    with torch.no_grad():
        layer.weight_ih_l0[:H] = 10 * torch.randn(H, F)
        layer.bias_ih_l0[3 * H] = 30
    traced = lens.trace(layer, inputs(), lengths=LENGTHS)
    found = lens.saturation(traced)
    assert found["input"].dims == ("layer", "direction", "unit", "end")
    gate = np.concatenate([traced["input"].values[0, 0, row, :n] for row, n in enumerate(LENGTHS)])
    assert close(found["input"].sel(end="shut").values.ravel(), (gate < 0.1).mean(0))
    assert close(found["input"].sel(end="open").values.ravel(), (gate > 0.9).mean(0))
    assert found["forget"].sel(end="open").values.ravel().tolist() == [float(kept > 0.9) for kept in KEPT]
    assert found["output"].sel(end="open").values.ravel().tolist() == [1.0, *[0.0] * (H - 1)]
    assert "candidate" not in found
    assert not found["dead"].any()
    tight = lens.saturation(traced, low=0.6, high=0.7)
    assert close(tight["forget"].sel(end="shut").values.ravel(), (KEPT < 0.6).double())
    with pytest.raises(ArgumentError, match=r"low, high: expected 0 ≤ low < high ≤ 1, .* got 0.9 and 0.1"):
        lens.saturation(traced, low=0.9, high=0.1)
    assert "input" not in lens.saturation(lens.trace(recurra.nn.MLSTM(F, H), torch.randn(T, N, F)))


def test_the_context_of_a_leaky_integrator() -> None:
    layer = leaky("GRU")
    with torch.no_grad():
        layer.bias_ih_l0[H : 2 * H] = math.log(9)  # keeps 0.9
        layer.weight_ih_l0.mul_(1e-3)  # so small that tanh is straight
    x = inputs()
    found = lens.effective_context(layer, x, share=0.1)
    assert close(found["relative"], 0.9 ** np.arange(T), 1e-4)
    assert float(found["effective_context"]) == math.floor(math.log(0.1) / math.log(0.9))
    lengths = torch.tensor([63, 50, 1, 13, 61])
    short = lens.effective_context(layer, x, lengths=lengths, share=0.5, lags=[1, 6, 7, 30])
    assert short["lag"].values.tolist() == [0, 1, 6, 7, 30]
    assert close(short["relative"], 0.9 ** short["lag"].values, 1e-4)
    assert float(short["effective_context"]) == 6
    read = lens.effective_context(layer, x, read=lambda output: output[0][:, 20], lags=[42, 43])
    assert (read["influence"].values > 0).tolist() == [False, True, True]
    assert math.isnan(float(read["effective_context"])), "the last step does not reach the one that is read"


def test_the_context_of_a_window() -> None:
    class Window(nn.Module):
        """The sum of the last three words' embeddings, and nothing before."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, H)
            self.rnn = nn.LSTM(H, H)

        def forward(self, words: Tensor) -> dict[str, Tensor]:
            return {"sum": self.embed(words[-3:]).sum(0), "all": self.embed(words)}

    model, words = Window().train(), torch.randint(0, 11, (T, N))
    found = lens.effective_context(model, words, read=lambda output: output["sum"])
    assert (found["relative"].values[:3] > 0.5).all()
    assert (found["relative"].values[3:] == 0).all()
    assert float(found["effective_context"]) == 2
    last = lens.effective_context(model, words, read=lambda output: output["all"][-1])
    assert float(last["effective_context"]) == 0
    assert model.training
    flags = lens.effective_context(lambda x: x.double().cumsum(1), torch.rand(N, T) > 0.5)
    assert close(flags["relative"], np.ones(T))
    long = lens.effective_context(lambda x: x.cumsum(1), torch.randn(2, 999, 1), draws=1)
    assert long.sizes["lag"] <= 64
    assert long["lag"].values[[0, -1]].tolist() == [0, 998]


def test_the_context_of_a_forecaster() -> None:
    import polars

    from recurra import Forecaster

    frame = polars.DataFrame({"step": range(60), "y": np.sin(np.arange(60.0)) + np.arange(60) % 7})
    forecaster = Forecaster(horizon=5, epochs=2, members=2, lookback=16, season=7).fit(frame, target="y")
    found = lens.effective_context(forecaster, frame)
    assert found["lag"].values.tolist() == list(range(16))
    assert np.isfinite(found["relative"].values).all()
    measured = lens.half_life(forecaster, frame)
    assert measured.attrs["module"] == "members.0.lstm"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1}, r"share: expected a number between 0 and 1, such as 0.05, got 1"),
        ({"time_axis": 2}, r"time_axis: expected 0 or 1, got 2"),
        ({"argument": 1}, r"argument: expected the place of one of the 1 inputs, got 1"),
        ({"lags": [T]}, r"lags: expected whole numbers from 0 to 62, .* got \[63\]"),
        ({"lags": [0.5]}, r"lags: expected whole numbers from 0 to 62, .* got \[0.5\]"),
        ({"draws": True}, r"draws: expected a whole number of at least 1, got True"),
        ({"read": None, "model": lambda x: {}}, r"read: expected a function .* output is dict; give one"),
        ({"model": lambda x: x[0, 0]}, r"read: expected a function that takes \(N, ...\) = \(5, ...\)"),
    ],
)
def test_arguments_of_a_context(options: dict[str, Any], message: str) -> None:
    model = options.pop("model", leaky())
    with pytest.raises(ArgumentError, match=message):
        lens.effective_context(model, inputs(), **options)


def test_inputs_of_a_context() -> None:
    layer = leaky()
    packed = pack_padded_sequence(inputs(), torch.full((N,), T), batch_first=True)
    with pytest.raises(ArgumentError, match=r"inputs: expected a batch \(N, T, ...\) as input 0, got Packed"):
        lens.effective_context(layer, packed)
    with pytest.raises(
        ArgumentError, match=r"inputs: expected whole numbers of which some differ, .*\[3\] al"
    ):
        lens.effective_context(lambda x: x, torch.full((N, T), 3))


@pytest.mark.parametrize("lengths", [[T] * (N - 1), [T + 1] * N, [-1] * N, [0] * N])
def test_lengths_of_a_context(lengths: list[int]) -> None:
    with pytest.raises(
        ArgumentError, match=r"lengths: expected 1 to 63 steps for each of the 5 rows, .* got"
    ):
        lens.effective_context(leaky(), inputs(), lengths=lengths)


def test_before_and_after() -> None:
    layer, x = leaky(), inputs()
    before = lens.time_constants(lens.trace(layer, x))
    with torch.no_grad():
        layer.bias_ih_l0[H : 2 * H] = torch.logit(KEPT.flip(0))
        layer.bias_ih_l0[H] = math.inf
    after = lens.time_constants(lens.trace(layer, x))
    both = lens.compare(before, after)
    assert both["training"].values.tolist() == ["before", "after", "change"]
    assert both["time_constant"].dims == ("training", "layer", "direction", "unit")
    assert (
        both["time_constant"]
        .sel(training="before")
        .equals(before["time_constant"].assign_coords(training="before"))
    )
    assert close(both["time_constant"].values[2, 0, 0, 1:], (TAU.flip(0) - TAU)[1:], 1e-5)
    assert both["time_constant"].values[2, 0, 0, 0] == math.inf
    assert math.isnan(lens.compare(after, after)["time_constant"].values[2, 0, 0, 0])
    dead = lens.compare(*[lens.saturation(lens.trace(layer, x))] * 2)["dead"]
    assert (dead.sel(training="change") == 0).all()
    other = lens.time_constants(lens.trace(leaky(bidirectional=True), x))
    with pytest.raises(ArgumentError, match=r"after: expected the variables and sizes of before, but 'kept'"):
        lens.compare(before, other)
    with pytest.raises(
        ArgumentError, match=r"but 'time_constant' has .* in before and None in after; measure"
    ):
        lens.compare(before, before[["kept"]])
