"""`recurra.lens.trace`: the numbers against the plain twin in float64, and what they are labelled with."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import polars
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

import recurra.lens.memory
import recurra.nn
from recurra import Forecaster, accelerate, lens
from recurra.engine.states import states
from recurra.errors import ArgumentError
from recurra.nn.inputs import stack_of, weights_of
from recurra.types import Trace

N, T, F, H = 7, 9, 3, 33
LENGTHS = [9, 4, 0, 1, 7, 9, 2]
OWN = ("LSTM", "GRU", "PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "LayerNormGRU", "SLSTM")
KINDS = [*OWN, "RNN", "relu", "MinGRU", "MinLSTM", "MLSTM", "Stacked"]


def layer_of(kind: str, **options: Any) -> Any:
    """A layer of F inputs and H units, or the nearest that divides."""
    if kind == "relu":
        return recurra.nn.RNN(F, H, nonlinearity="relu", batch_first=True, **options)
    if kind == "Stacked":
        options.pop("num_layers", None)
        return recurra.nn.Stacked(F, (H, 7), batch_first=True, connection="residual", **options)
    if not hasattr(recurra.nn, kind):
        pytest.skip(f"recurra.nn has no {kind}")
    more = {"heads": 3} if kind == "MLSTM" else {}
    return getattr(recurra.nn, kind)(F, H, batch_first=True, **options, **more)


def differ(ours: np.ndarray, truth: Tensor) -> float:
    """The greatest difference, relative to numbers above 1; NaN must stand in the same places."""
    expected = truth.numpy()
    assert ours.shape == expected.shape
    assert (np.isnan(ours) == np.isnan(expected)).all()
    return float(np.nanmax(np.abs(ours - expected) / np.maximum(1, np.abs(expected)), initial=0))


def apart(one: Trace, other: Trace) -> float:
    """The greatest difference of two traces in any gate or state."""
    pairs = ((one.gates, other.gates), (one.hidden, other.hidden), (one.cell, other.cell))
    return max(differ(a.detach().numpy(), b.detach()) for a, b in pairs if a is not None)


class Tagger(nn.Module):
    """A user's own module: words in, two LSTMs, one of which runs twice, tags out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, F)
        self.encoder = nn.LSTM(F, H, num_layers=2, bidirectional=True, dropout=0.5)
        self.inner = nn.ModuleDict({"decoder": nn.GRU(2 * H, 7, batch_first=True)})
        self.unused = nn.RNN(F, 7)
        self.norm = nn.BatchNorm1d(7)
        self.runs = 0

    def forward(self, words: Tensor, extra: Tensor | None = None) -> Tensor:
        """words (T, N) → (T, N, 7)."""
        read, _ = self.encoder(nn.functional.dropout(self.embed(words), 0.5, self.training))
        tags, state = self.inner["decoder"](read.transpose(0, 1))
        tags, _ = self.inner["decoder"](read.transpose(0, 1)[:, :4], state)
        self.runs += 1
        return self.norm(tags.transpose(1, 2)).permute(2, 0, 1)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_is_the_plain_twins(kind: str, lengths: list[int] | None) -> None:
    layer = layer_of(kind, num_layers=2, bidirectional=True)
    x = torch.randn(N, T, F)
    traced = lens.trace(layer, x, lengths=lengths)
    # In float32 the equations in plain torch, too, are off by so much, where a small deviation is divided by.
    rough = [] if "Norm" not in kind else layer.trace(x.clone().requires_grad_(), lengths=lengths)
    twins = layer.double().trace(x.double(), lengths=lengths)
    beyond = torch.arange(T) >= torch.tensor(lengths or [T] * N)[:, None]
    names = twins[0].gate_names
    assert list(traced.data_vars) == [*names, *["cell"] * (twins[0].cell is not None), "hidden", "length"]
    assert traced.attrs["gates"] == list(names)
    bound = max([1e-6, *(2 * apart(one, twin) for one, twin in zip(rough, twins, strict=False))])
    for twin in twins:
        place = traced.isel(layer=twin.layer, direction=int(twin.reverse))
        shown = {name: twin.gate(name) for name in names} | {"cell": twin.cell, "hidden": twin.hidden}
        for name, truth in shown.items():
            if truth is not None:
                truth = truth.detach().masked_fill(beyond[:, :, None], float("nan"))
                own = place[name].values
                assert np.isnan(own[..., truth.shape[-1] :]).all()
                assert differ(own[..., : truth.shape[-1]], truth) < bound
    assert traced["length"].values.tolist() == (lengths or [T] * N)


def test_the_plain_twin_in_float32_has_the_same_gates() -> None:
    layer = recurra.nn.LSTM(F, H, batch_first=True)
    x = torch.randn(N, T, F)
    traced = lens.trace(layer, x)
    # a gradient is wanted, so that the equations in plain torch run
    (plain,) = states(stack_of(layer), x.requires_grad_(), (), weights_of(layer), recurra.nn.inputs.Steps())
    for place, name in enumerate(traced.attrs["gates"]):
        assert differ(traced[name].values[0, 0], plain.gates.detach()[:, :, place]) < 1e-6


def test_dimensions_coordinates_and_attributes() -> None:
    layer = recurra.nn.LSTM(F, H, num_layers=2, bidirectional=True, proj_size=5)
    traced = lens.trace(layer, torch.randn(T, N, F), time=np.arange(T) * 0.5, samples=list("abcdefg"))
    assert traced["forget"].dims == ("layer", "direction", "sample", "time", "unit")
    assert traced["hidden"].dims == ("layer", "direction", "sample", "time", "projection")
    assert [traced.sizes[dim] for dim in traced["forget"].dims] == [2, 2, N, T, H]
    assert traced.sizes["projection"] == 5
    assert traced["direction"].values.tolist() == ["forward", "reverse"]
    assert traced["time"].values.tolist() == [0.5 * step for step in range(T)]
    assert traced.sel(sample="c", direction="reverse", layer=1, time=1.5)["cell"].shape == (H,)
    told = {"module": "", "class": "LSTM", "kind": "lstm", "input_size": F, "hidden_size": H}
    told |= {"num_layers": 2, "directions": 2, "proj_size": 5}
    assert {name: traced.attrs[name] for name in told} == told


def test_one_trace_does_not_change_another() -> None:
    layer, x = recurra.nn.LSTM(F, 7), torch.randn(T, 2, F)
    first = lens.trace(layer, x)
    second = first.copy(deep=True)
    first["time"].attrs["units"] = "s"
    first["cell"][:] = 0
    first = first.assign_coords(unit=list("abcdefg"))
    again = lens.trace(layer, x)
    assert again.identical(second)
    assert again["time"].attrs == {}
    assert not x.isnan().any()


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "MinGRU"])
def test_rows_without_any_step(kind: str) -> None:
    traced = lens.trace(layer_of(kind, bidirectional=True), torch.randn(N, T, F), lengths=[0] * N)
    assert traced["hidden"].isnull().all()
    assert traced["hidden"].shape == (1, 2, N, T, H)


def test_layers_of_different_sizes_and_a_plain_rnn() -> None:
    stacked = lens.trace(layer_of("Stacked", cell="GRU"), torch.randn(2, T, F))
    assert stacked.sizes["unit"] == H
    assert stacked.attrs["kind"] == "gru"
    assert stacked.attrs["hidden_size"] == [H, 7]
    assert stacked["update"].isel(layer=1).notnull().any(("sample", "time")).values.sum() == 7
    plain = lens.trace(recurra.nn.RNN(F, 7), torch.randn(T, 2, F))
    assert list(plain.data_vars) == ["hidden", "length"]
    assert plain.sizes["unit"] == 7


def test_packed_unbatched_and_short_dtypes() -> None:
    layer = recurra.nn.GRU(F, 7, batch_first=True)
    x, lengths = torch.randn(3, T, F), [4, 9, 1]
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    whole = lens.trace(layer, x, lengths=lengths)
    assert lens.trace(layer, packed).equals(whole)
    alone = lens.trace(layer, x[1])
    assert np.allclose(alone["hidden"].values, whole["hidden"].values[:, :, 1:2], atol=1e-6)
    short = lens.trace(layer.bfloat16(), x.bfloat16(), lengths=lengths)
    assert short["hidden"].dtype == np.float32
    assert np.allclose(short["hidden"].values, whole["hidden"].values, atol=0.05, equal_nan=True)


def test_a_users_module_with_and_without_accelerate() -> None:
    model = Tagger().train()
    words = torch.randint(0, 11, (T, N))
    modes = {name: module.training for name, module in model.named_modules()}
    assert list(lens.recurrent_modules(model)) == ["encoder", "inner.decoder", "unused"]
    found = lens.trace(model, words, module="encoder")
    assert found.attrs["class"] == "LSTM"
    ours = recurra.nn.LSTM(F, H, num_layers=2, bidirectional=True)
    ours.load_state_dict(model.encoder.state_dict())
    own = lens.trace(ours, model.embed(words).detach())
    assert own.drop_attrs().equals(found.drop_attrs())
    assert type(model.encoder) is nn.LSTM
    accelerate(model.encoder)
    assert lens.trace(model, words, module="encoder").equals(found)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert model.runs == 0, "what comes after the module need not run"
    assert int(model.norm.num_batches_tracked) == 0


def test_each_call_and_each_module() -> None:
    model = Tagger().eval()
    words = torch.randint(0, 11, (T, 2))
    first, second = (lens.trace(model, words, module="inner.decoder", call=call) for call in (0, 1))
    assert (first.sizes["time"], second.sizes["time"]) == (T, 4)
    ending = first["hidden"].values[0, 0, :, -1]
    start = nn.functional.embedding(words, model.embed.weight)
    read = model.encoder(start)[0].transpose(0, 1)[:, :1]
    after, _ = model.inner["decoder"](read, torch.from_numpy(ending)[None])
    assert differ(second["hidden"].values[0, 0, :, :1], after.detach()) < 1e-6
    found = lens.trace_all(model, words, time="abcdefghi", samples=["one", "two"])
    assert list(found) == ["encoder", "inner.decoder"], "unused is never called"
    assert found["inner.decoder"].drop_vars(("time", "sample")).equals(first.drop_vars(("time", "sample")))
    assert found["encoder"]["time"].values.tolist() == list("abcdefghi")
    assert lens.trace_all(model.encoder, start, samples=["one"])[""]["sample"].values.tolist() == [0, 1]


def test_weights_that_are_made_at_each_call() -> None:
    plain = nn.LSTM(F, 7)
    normed = parametrizations.weight_norm(nn.LSTM(F, 7), "weight_hh_l0")
    with torch.no_grad():
        for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(normed, name).copy_(getattr(plain, name))
        normed.weight_hh_l0 = plain.weight_hh_l0.detach()
        normed.parametrizations.weight_hh_l0.original0.mul_(0.5)
        plain.weight_hh_l0.mul_(0.5)
    x = torch.randn(T, 2, F)
    found, expected = lens.trace(normed, x), lens.trace(plain, x)
    assert differ(found["cell"].values, torch.from_numpy(expected["cell"].values)) < 1e-6


def test_weights_that_a_hook_makes_before_each_call() -> None:
    layer = nn.LSTM(F, 7)
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(layer, "weight_hh_l0")
    x = torch.randn(T, 2, F)
    stale = lens.trace(layer, x)
    with torch.no_grad():
        layer.weight_hh_l0_g.mul_(0.5)
    found = lens.trace(layer, x)
    assert not np.allclose(found["cell"].values, stale["cell"].values)
    output, _ = layer(x)
    assert differ(found["hidden"].values[0, 0], output.detach().transpose(0, 1)) < 1e-6


def test_a_compiled_model() -> None:
    model = nn.Sequential(nn.Linear(F, F), recurra.nn.GRU(F, 7))
    x = torch.randn(T, 2, F)
    expected = lens.trace(model, x)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(x)
    found = lens.trace(compiled, x)
    assert found.equals(expected)
    assert found.attrs["module"] == "1"


def test_a_module_that_catches_every_exception() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(F, 7)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.rnn(x)[0]
            except Exception:
                return x

    assert lens.trace(Careful(), torch.randn(T, 2, F))["hidden"].notnull().all()


def test_labels_of_time() -> None:
    layer = recurra.nn.LSTM(F, 7, batch_first=True)
    x = torch.randn(2, 4, F)
    dates = np.arange("2024-01-01", "2024-01-05", dtype="datetime64[D]")
    assert lens.trace(layer, x, time=dates).sel(time="2024-01-03")["cell"].shape == (1, 1, 2, 7)
    assert lens.trace(layer, x, time=torch.arange(4) / 10)["time"].values[2] == np.float32(0.2)
    words = lens.trace(layer, x, lengths=[4, 2], time=[["no", "one", "was", "there"], ["no", "one"]])
    assert words["label"].values.tolist() == [["no", "one", "was", "there"], ["no", "one", "", ""]]
    assert words["time"].values.tolist() == [0, 1, 2, 3]
    seconds = lens.trace(layer, x, lengths=[2, 4], time=[[1.0, 2.0], np.arange(4)])["label"].values
    assert np.isnan(seconds[0, 2:]).all()
    stamps = lens.trace(layer, x, lengths=[4, 3], time=[dates, dates[:3]])["label"].values
    assert np.isnat(stamps[1, 3])
    assert not np.isnat(stamps[0]).any()
    same = lens.trace(layer, x, time=[list("abcd"), list("abcd")])
    assert "label" not in same.coords
    assert same["time"].values.tolist() == list("abcd")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "abc"}, r"time: expected a label for each of the 4 steps .* '' reads, got 3; give"),
        ({"time": [[1, 2, 3, 4]]}, r"time: expected for each of the 2 samples .* those of 1 samples; give"),
        ({"time": [[1, 2, 3, 4], [1]], "lengths": [4, 2]}, r"time: .* at most 4, got 1 for sample 1; give"),
        ({"samples": ["a"]}, r"samples: expected a label for each of the 2 rows .* got 1; give as many"),
        ({"module": "rnn"}, r"module: expected one of the recurrent modules \(''\), got 'rnn'; recurra.lens"),
        ({"call": -1}, r"call: expected 0 for the module's first call or a number above, got -1"),
        ({"call": 1}, r"call: expected less than 1, as often as the model called '', got 1; give 0"),
    ],
)
def test_labels_and_paths_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    layer = recurra.nn.LSTM(F, 7, batch_first=True)
    with pytest.raises(ArgumentError, match=message):
        lens.trace(layer, torch.randn(2, 4, F), **options)


def test_models_that_cannot_be_traced() -> None:
    x = torch.randn(T, 2, F)
    with pytest.raises(ArgumentError, match=r"expected a torch.nn.Module or a fitted .* got str; give the"):
        lens.trace("model.pt", x)
    with pytest.raises(ArgumentError, match=r"expected a network with a recurrent layer .* got Linear"):
        lens.trace(nn.Linear(F, 7), x)
    with pytest.raises(ArgumentError, match=r"got Sequential without any; cells that a loop calls"):
        lens.recurrent_modules(nn.Sequential(nn.LSTMCell(F, 7)))
    with pytest.raises(
        ArgumentError, match=r"modules \('encoder', 'inner.decoder', 'unused'\), got none; nam"
    ):
        lens.trace(Tagger(), x)
    with pytest.raises(ArgumentError, match=r"'unused'\), got 'decoder'; recurra.lens.recurrent_modules"):
        lens.trace(Tagger(), x, module="decoder")
    words = torch.randint(0, 11, (T, N))
    with pytest.raises(ArgumentError, match=r"inputs: expected inputs that reach the module 'unused', but"):
        lens.trace(Tagger(), words, module="unused")

    class Silent(Tagger):
        def forward(self, words: Tensor, extra: Tensor | None = None) -> Tensor:
            return words

    with pytest.raises(ArgumentError, match=r"inputs: expected inputs that reach one of the .* none of them"):
        lens.trace_all(Silent(), words)

    class Odd(nn.LSTM):
        def forward(self, input: Tensor, hx: Any = None) -> Any:
            return super().forward(-input, hx)

    with pytest.raises(ArgumentError, match=r"got Odd at '', of which that is not known: .*subclass"):
        lens.trace(Odd(F, 7), x)


def test_errors_of_the_model_come_through_and_leave_nothing_behind() -> None:
    model = Tagger()
    with pytest.raises(IndexError):
        lens.trace(model, torch.full((T, N), 11), module="encoder")
    assert model.training
    assert all(not module._forward_pre_hooks for module in model.modules())


def table(*ends: int) -> polars.DataFrame:
    """One series of days for each end, the day after its last."""
    rows = [
        (name, day, float(np.sin(day) + day % 7))
        for name, end in zip("ab", ends, strict=False)
        for day in range(end)
    ]
    frame = polars.DataFrame(rows, schema=["id", "day", "y"], orient="row")
    first = polars.date(2024, 1, 1)
    return frame.with_columns(day=first + polars.duration(days=polars.col("day")))


def test_a_forecaster_with_its_own_stamps() -> None:
    columns = {"series": "id", "time": "day", "target": "y"}
    data = table(60, 53)
    forecaster = Forecaster(horizon=5, epochs=1, members=2, lookback=17, season=7)
    with pytest.raises(ArgumentError, match=r"expected a fitted Forecaster, got one that has learnt nothing"):
        lens.trace(forecaster, data)
    forecaster.fit(data, **columns)
    size = forecaster.plan.segment
    traced = lens.trace(forecaster, data)
    assert traced.attrs["module"] == "members.0.lstm"
    assert traced["sample"].values.tolist() == ["a", "b"]
    steps = -(-17 // size)
    assert traced.sizes["time"] == steps
    days = [np.datetime64("2024-01-01") + end - 1 - size * np.arange(steps)[::-1] for end in (60, 53)]
    assert (traced["label"].values == np.stack(days)).all()
    alone = lens.trace(forecaster, table(60), module="members.1.lstm")
    assert (alone["time"].values == days[0]).all()
    assert lens.trace(forecaster, data, call=1).sizes["time"] == 1
    both = lens.trace_all(forecaster, data)
    assert list(both) == ["members.0.lstm", "members.1.lstm"]
    assert both["members.0.lstm"].equals(traced)


def test_without_xarray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"needs xarray, which .* pip install recurra\[lens\]"):
        lens.trace(recurra.nn.GRU(F, 7), torch.randn(T, 2, F))


def test_the_names_are_loaded_when_they_are_used() -> None:
    script = "import recurra.lens, sys; assert not {'torch', 'xarray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
    for name in lens.__all__:
        assert getattr(lens, name).__doc__
        assert name in dir(lens)
    with pytest.raises(AttributeError, match=r"'recurra.lens' has no attribute 'tracer'"):
        _ = lens.tracer
