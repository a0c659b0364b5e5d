"""The estimator: what it promises of predict, save, load, odd data and bad calls; and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import recurra
from recurra import Forecaster, checkpoint
from recurra.data.table import Panel
from recurra.errors import ArgumentError, DataError, ModelFileError
from recurra.tasks.results import QUANTILES, Forecast

AIR = Path(recurra.__file__).parent / "data" / "sample" / "airpassengers.csv"

TINY: dict[str, Any] = {"hidden_size": 7, "members": 1, "epochs": 2}
MIDDLE = QUANTILES.index(0.5)


def wave(length: int, seed: int = 0, season: int = 7) -> np.ndarray:
    random = np.random.default_rng(seed)
    t = np.arange(length)
    return 60 + 0.1 * t + 8 * np.sin(2 * np.pi * t / season) + random.normal(0, 1, length)


def daily(*lengths: int) -> Panel:
    return Panel.from_arrays({f"s{i}": wave(n, i) for i, n in enumerate(lengths)}, "D", "2023-01-02")


def frame(length: int = 63) -> pd.DataFrame:
    return pd.DataFrame({"day": pd.date_range("2023-01-02", periods=length), "y": wave(length)})


def healthy(forecast: Forecast, series: int, horizon: int) -> None:
    assert forecast.values.shape == (series, horizon, len(forecast.quantiles))
    assert forecast.stamps.shape == (series, horizon)
    assert np.isfinite(forecast.values).all()
    assert (np.diff(forecast.values, axis=-1) >= 0).all()


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    return Forecaster(5, **TINY).fit(daily(63, 91))


def test_a_loaded_model_forecasts_bitwise_the_same(fitted: Forecaster, tmp_path: Path) -> None:
    data = daily(63, 91)
    before = fitted.predict(data)
    healthy(before, 2, 5)
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    for loaded in (Forecaster.load(path), recurra.load(path)):
        after = loaded.predict(data)
        np.testing.assert_array_equal(after.values, before.values)
        np.testing.assert_array_equal(after.stamps, before.stamps)
        assert (after.series, after.quantiles) == (before.series, before.quantiles)
        assert loaded.history == fitted.history
        assert loaded.plan == fitted.plan
        again = path.with_name("again.safetensors")
        loaded.save(again)
        assert again.read_bytes() == path.read_bytes()
        assert loaded.evaluate(data) == fitted.evaluate(data)


def test_the_forecast_follows_the_last_step(fitted: Forecaster) -> None:
    forecast = fitted.predict(daily(63, 91))
    assert forecast.series == ("s0", "s1")
    assert forecast.stamps[0].astype("datetime64[D]").tolist() == [
        stamp.date() for stamp in pd.date_range("2023-03-06", periods=5)
    ]
    for row, length in enumerate((63, 91)):
        t = np.arange(length, length + 5)
        truth = 60 + 0.1 * t + 8 * np.sin(2 * np.pi * t / 7)
        assert np.abs(forecast.values[row, :, MIDDLE] - truth).max() < 4
    table = forecast.table()
    assert list(table)[:3] == ["unique_id", "ds", "forecast"]
    assert {len(column) for column in table.values()} == {10}
    np.testing.assert_array_equal(table["forecast"], table["q0.5"])


def test_newer_data_move_the_forecast_and_older_ones_need_no_new_fit(fitted: Forecaster) -> None:
    newer = fitted.predict(daily(70, 99))
    healthy(newer, 2, 5)
    assert newer.stamps[0, 0] == np.datetime64("2023-03-13")
    lone = fitted.predict(daily(70, 99).select(["s1"]))
    np.testing.assert_allclose(lone.values[0], newer.values[1], rtol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 5, 9, 15, 33])
def test_series_shorter_than_a_season_and_strangers_are_forecast(fitted: Forecaster, length: int) -> None:
    short = Panel.from_arrays({"s1": wave(length, 1), "new": wave(length, 5)}, "D", "2023-01-02")
    forecast = fitted.predict(short)
    healthy(forecast, 2, 5)
    assert np.abs(forecast.values[..., MIDDLE] - 60).max() < 40


def test_path_pandas_and_polars_give_the_same(tmp_path: Path) -> None:
    data = frame()
    path = tmp_path / "y.csv"
    data.to_csv(path, index=False)
    sources: list[Any] = [data, pl.from_pandas(data), path, str(path)]
    found = [Forecaster(3, **TINY).fit(source).predict(source) for source in sources]
    for forecast in found[1:]:
        np.testing.assert_array_equal(forecast.values, found[0].values)
        np.testing.assert_array_equal(forecast.stamps, found[0].stamps)
        assert forecast.series == found[0].series


def test_the_callers_frame_stays_as_it_was() -> None:
    data = frame()
    data.loc[20, "y"] = np.nan
    before, shuffled = data.copy(deep=True), data.sample(frac=1.0, random_state=7)
    order = shuffled.copy(deep=True)
    model = Forecaster(3, **TINY).fit(data)
    model.predict(shuffled)
    model.evaluate(data)
    pd.testing.assert_frame_equal(data, before)
    pd.testing.assert_frame_equal(shuffled, order)


def test_the_callers_panel_stays_as_it_was() -> None:
    data = daily(63)
    digest = data.digest()
    model = Forecaster(3, **TINY).fit(data)
    model.predict(data)
    model.backtest(data, baselines=())
    assert data.digest() == digest


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    data = daily(63)
    state = torch.random.get_rng_state()
    first = Forecaster(3, seed=7, **TINY).fit(data).predict(data).values
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(33)
    np.random.default_rng()
    np.testing.assert_array_equal(Forecaster(3, seed=7, **TINY).fit(data).predict(data).values, first)
    assert (Forecaster(3, seed=8, **TINY).fit(data).predict(data).values != first).any()


def test_fitting_again_starts_afresh() -> None:
    model = Forecaster(3, **TINY).fit(daily(91))
    again = model.fit(daily(63)).predict(daily(63)).values
    np.testing.assert_array_equal(again, Forecaster(3, **TINY).fit(daily(63)).predict(daily(63)).values)


@pytest.mark.parametrize("value", [0.0, 7.0, -3.5, 1e8])
def test_a_constant_series_is_forecast_as_the_constant(value: float) -> None:
    data = Panel.from_arrays({"y": np.full(63, value)}, "D", "2023-01-02")
    forecast = Forecaster(5, **TINY).fit(data).predict(data)
    healthy(forecast, 1, 5)
    np.testing.assert_allclose(forecast.values[..., MIDDLE], value, rtol=1e-6, atol=1e-6)


def test_gaps_are_lived_with() -> None:
    y = wave(91)
    y[[3, 30, 31, 32, 33, 34, 35, 36, 37, 88, 89]] = np.nan
    gappy = Panel.from_arrays({"y": y}, "D", "2023-01-02")
    model = Forecaster(7, **TINY).fit(gappy)
    forecast = model.predict(gappy)
    healthy(forecast, 1, 7)
    t = np.arange(91, 98)
    assert np.abs(forecast.values[0, :, MIDDLE] - 60 - 0.1 * t - 8 * np.sin(2 * np.pi * t / 7)).max() < 5


@pytest.mark.parametrize("shortest", [1, 2, 3, 8])
def test_a_panel_may_hold_a_very_short_series(shortest: int) -> None:
    data = daily(63, shortest, 40)
    model = Forecaster(5, **TINY).fit(data)
    healthy(model.predict(data), 3, 5)
    assert model.predict(data).series == ("s0", "s1", "s2")
    result = model.backtest(data, baselines=("naive",))
    assert set(result.series.tolist()) <= {0, 1, 2}
    assert np.isfinite(result.forecasts["LSTM"]).all()


@pytest.mark.parametrize("horizon", [1, 2, 13, 20])
def test_horizons_of_one_and_beyond_the_season(horizon: int) -> None:
    data = daily(91)
    model = Forecaster(horizon, **TINY).fit(data)
    healthy(model.predict(data), 1, horizon)
    assert np.isfinite(model.evaluate(data)["MASE"])


@pytest.mark.parametrize("length", [9, 10, 12, 15, 21, 24])
def test_the_shortest_histories_have_intervals_all_the_same(length: int) -> None:
    data = Panel.from_arrays({"y": wave(length)}, "MS", "2020-01-01")
    forecast = Forecaster(5, **TINY).fit(data).predict(data)
    healthy(forecast, 1, 5)
    assert (forecast.values[0, :, -1] - forecast.values[0, :, 0] > 0.5).all()


def test_intervals_widen_with_the_horizon_where_nothing_but_theory_speaks() -> None:
    random = np.random.default_rng(5)
    walk = 50 + np.cumsum(random.normal(0, 1, 13))
    data = Panel.from_arrays({"y": walk}, "YS", "2001-01-01")
    width = np.ptp(Forecaster(7, **TINY).fit(data).predict(data).values[0], axis=-1)
    assert (np.diff(width) > 0).all()


def test_integer_steps() -> None:
    data = Panel.from_arrays({"y": wave(63)}, "step", 100)
    model = Forecaster(5, season=7, **TINY).fit(data)
    forecast = model.predict(data)
    healthy(forecast, 1, 5)
    assert forecast.stamps[0].tolist() == [163, 164, 165, 166, 167]


def with_covariates(length: int = 91, ahead: int = 5) -> pd.DataFrame:
    """Sales that a promotion lifts by 20, whenever it comes."""
    random = np.random.default_rng(3)
    promo = (random.random(length + ahead) < 0.3).astype(float)
    y = 50 + 20 * promo + random.normal(0, 1, length + ahead)
    y[length:] = np.nan
    dates = pd.date_range("2023-01-02", periods=length + ahead)
    heat = np.where(np.isnan(y), np.nan, random.normal(20, 3, length + ahead))
    return pd.DataFrame({"day": dates, "y": y, "promo": promo, "heat": heat, "kind": "shop"})


def test_covariates_of_every_role_are_taken_and_known_ones_matter(tmp_path: Path) -> None:
    data = with_covariates()
    roles: dict[str, Any] = {"known": ["promo"], "past": ["heat"]}
    model = Forecaster(5, hidden_size=16, members=1, epochs=30).fit(data, time="day", target="y", **roles)
    forecast = model.predict(data)
    healthy(forecast, 1, 5)
    other = data.copy()
    other.loc[91:, "promo"] = 1.0 - other.loc[91:, "promo"]
    difference = forecast.values[0, :, MIDDLE] - model.predict(other).values[0, :, MIDDLE]
    assert (np.sign(difference) == np.sign(data["promo"].to_numpy()[91:] - 0.5)).all()
    model.save(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(
        recurra.load(tmp_path / "m.safetensors").predict(data).values, forecast.values
    )
    with pytest.raises(DataError, match="promo"):
        model.predict(data.iloc[:91])


def test_nothing_is_known_before_it_is_learnt(tmp_path: Path) -> None:
    model = Forecaster(3)
    for call in (
        lambda: model.predict(daily(63)),
        lambda: model.evaluate(daily(63)),
        lambda: model.save(tmp_path / "model.safetensors"),
        lambda: model.panel(frame()),
        lambda: model.quantiles_at(daily(63), np.array([(0, 63)])),
    ):
        with pytest.raises(ArgumentError, match=r"has learnt nothing yet: call fit\(data\) or load\(path\)"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"horizon": 0}, "horizon must be a whole number of steps, at least 1, but 0"),
        ({"horizon": -3}, "but -3 was given"),
        ({"horizon": 1.5}, r"but 1\.5 was given"),
        ({"horizon": True}, "but True was given"),
        ({"horizon": "12"}, "but '12' was given"),
        ({"horizon": 3, "season": 0}, "season must be a whole number of steps, at least 1, but 0"),
        ({"horizon": 3, "season": 1.5}, r"but 1\.5 was given"),
        ({"horizon": 3, "lookback": -7}, "lookback must be a whole number of steps, at least 1, but -7"),
        ({"horizon": 3, "lookback": True}, "but True was given"),
        ({"horizon": 3, "seed": -1}, "seed must be a whole number"),
        ({"horizon": 3, "seed": "x"}, "seed must be a whole number"),
        ({"horizon": 3, "quantiles": ()}, "must rise within 0…1 and hold 0.5"),
        ({"horizon": 3, "quantiles": (0.1, 0.9)}, "hold 0.5"),
        ({"horizon": 3, "quantiles": (0.9, 0.5)}, "must rise"),
        ({"horizon": 3, "quantiles": (0.5, 0.5)}, "must rise"),
        ({"horizon": 3, "quantiles": (0.0, 0.5)}, "within 0…1"),
        ({"horizon": 3, "quantiles": (0.5, 1.0)}, "within 0…1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ArgumentError, match=expected) as caught:
        Forecaster(**arguments)
    assert "\n" not in str(caught.value)


def test_bad_numbers_and_short_data_are_refused_before_any_time_is_spent() -> None:
    with pytest.raises(ArgumentError, match="epochs must be a positive whole number"):
        Forecaster(3, epochs=0).fit(daily(63))
    with pytest.raises(DataError, match="needs at least 37"):
        Forecaster(33).fit(daily(36))


@pytest.mark.parametrize("quantiles", [(0.5,), (0.1, 0.5, 0.9), (0.05, 0.5, 0.6, 0.95)])
def test_quantiles_are_the_users(quantiles: tuple[float, ...]) -> None:
    model = Forecaster(3, quantiles=quantiles, **TINY).fit(daily(63))
    forecast = model.predict(daily(63))
    healthy(forecast, 1, 3)
    assert forecast.quantiles == quantiles
    assert list(forecast.table())[3:] == [f"q{quantile:g}" for quantile in quantiles]


def test_other_files_are_no_forecasters(fitted: Forecaster, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    checkpoint.write(path, {}, {"task": "tag"})
    with pytest.raises(ModelFileError, match="expected a forecast model, found task 'tag'"):
        Forecaster.load(path)
    checkpoint.write(path, {}, {})
    with pytest.raises(ModelFileError, match="found task None"):
        Forecaster.load(path)
    checkpoint.write(path, {}, {"task": "forecast"})
    with pytest.raises(ModelFileError, match="does not fit its weights or this version"):
        Forecaster.load(path)


@pytest.mark.parametrize(
    "entry", ["arguments", "plan", "names", "columns", "frequency", "preparation", "history"]
)
@pytest.mark.parametrize("value", [None, 7, "x", [], {}])
def test_a_description_that_does_not_fit_is_refused_in_one_sentence(
    fitted: Forecaster, tmp_path: Path, entry: str, value: Any
) -> None:
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    tensors, document = checkpoint.read(path)
    for added in ("format", "recurra"):
        del document[added]
    if document[entry] == value or entry == "history":
        return
    checkpoint.write(path, tensors, {**document, entry: value})
    with pytest.raises(ModelFileError, match="does not fit") as caught:
        Forecaster.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_weights_that_do_not_fit_are_refused(fitted: Forecaster, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    tensors, document = checkpoint.read(path)
    rest = {name: value for name, value in document.items() if name not in ("format", "recurra")}
    checkpoint.write(path, {**tensors, "start": torch.zeros(1, 1)}, rest)
    with pytest.raises(ModelFileError, match="does not fit its weights"):
        Forecaster.load(path)
    tensors.pop(next(iter(tensors)))
    checkpoint.write(path, tensors, rest)
    with pytest.raises(ModelFileError, match="does not fit its weights"):
        Forecaster.load(path)


def test_evaluate_scores_the_model_as_it_is(fitted: Forecaster) -> None:
    found = fitted.evaluate(daily(63, 91))
    assert {"MASE", "sMAPE", "RMSE", "CRPS", "coverage_80"} <= set(found)
    assert 0 < found["MASE"] < 1
    assert fitted.evaluate(daily(63, 91)) == found


def test_the_search_learns_nothing_from_the_steps_that_judge_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor from their scale: the spike in them is unknown to all that is learnt before validation."""
    train, seen = Forecaster._train, {}

    def record(self: Forecaster, stage: str, windows: np.ndarray, **rest: Any) -> int:
        last = int(windows[:, 1].max()) + self.horizon
        seen[stage] = last, self.preparation, self.network.start.clone() if self.network else None
        return train(self, stage, windows, **rest)

    monkeypatch.setattr(Forecaster, "_train", record)
    model = Forecaster(3, **TINY).fit(daily(91))
    held = model.plan.validation
    usual = seen.copy()
    assert held >= 3
    assert usual["search"][0] == 91 - held
    assert usual["final"][0] == 91
    y = wave(91)
    y[91 - held : 90] = 1e4
    model.fit(Panel.from_arrays({"s0": y}, "D", "2023-01-02"))
    assert seen["search"][1] == usual["search"][1]
    assert torch.equal(seen["search"][2], usual["search"][2])
    assert seen["final"][1] != usual["final"][1]


def test_what_validation_taught_outlives_the_second_training(monkeypatch: pytest.MonkeyPatch) -> None:
    search = Forecaster._search

    def judge(self: Forecaster, *rest: Any) -> int:
        epochs = search(self, *rest)
        assert self.network is not None
        self.network.trust.fill_(0.3)
        self.network.widen.fill_(1.5)
        return epochs

    monkeypatch.setattr(Forecaster, "_search", judge)
    model = Forecaster(3, **TINY).fit(daily(63))
    assert model.plan.refit
    assert list(model.history) == ["search", "final"]
    assert model.network is not None
    assert model.network.trust.item() == pytest.approx(0.3)
    assert model.network.widen.tolist() == [1.5] * len(QUANTILES)


def test_log_and_history_tell_each_epoch() -> None:
    rows: list[dict[str, Any]] = []
    model = Forecaster(3, hidden_size=7, members=1, epochs=3).fit(daily(63), log=rows.append)
    assert [row["stage"] for row in rows] == ["search"] * 3 + ["final"] * 3
    assert all(np.isfinite(row["train_loss"]) for row in rows)
    assert {stage: len(found) for stage, found in model.history.items()} == {"search": 3, "final": 3}


def test_a_fit_with_checkpoints_ends_as_one_without(tmp_path: Path) -> None:
    data = daily(63)
    plain = Forecaster(3, **TINY).fit(data).predict(data).values
    for _ in range(2):  # the second finds the first's files and has nothing left to do
        kept = Forecaster(3, **TINY).fit(data, checkpoints=tmp_path / "work").predict(data).values
        np.testing.assert_array_equal(kept, plain)
    assert list((tmp_path / "work").glob("*.safetensors"))


def test_a_panel_of_another_frequency_or_other_covariates_is_refused(fitted: Forecaster) -> None:
    hourly = Panel.from_arrays({"s0": wave(63)}, "h", "2023-01-02")
    with pytest.raises(DataError, match="fitted on steps of 'D', but the panel has steps of 'h'"):
        fitted.predict(hourly)
    warm = recurra.read_table(frame().assign(heat=1.5 + np.arange(63.0)), past=["heat"])
    with pytest.raises(DataError, match=r"past covariates \(none\), but the panel has \(heat\)"):
        fitted.evaluate(warm)
    model = Forecaster(3, **TINY).fit(warm)
    with pytest.raises(DataError, match=r"past covariates \(heat\), but the panel has \(none\)"):
        model.predict(daily(63))


def test_a_device_that_means_nothing_is_refused() -> None:
    with pytest.raises(ArgumentError, match="device"):
        Forecaster(3, device="abacus", **TINY).fit(daily(63))


def test_the_network_learns_what_smoothing_cannot_say() -> None:
    """A wave whose period is no whole number of steps: no season of the smoothing fits it.

    Where in the wave an origin lies is told by the values before it; a network that reads them must win.
    """
    random = np.random.default_rng(17)
    t = np.arange(500)
    y = 100 + 10 * np.sin(2 * np.pi * t / 9.7) + random.normal(0, 1, len(t))
    data = Panel.from_arrays({"y": y}, "step")
    model = Forecaster(7, season=1, lookback=33, hidden_size=16, members=1, epochs=30, learning_rate=0.01)
    model.fit(data.until(400))
    windows = np.array([(0, origin) for origin in range(400, 493)])
    truth = np.stack([y[origin : origin + 7] for _, origin in windows])

    def error() -> float:
        return float(np.abs(model.quantiles_at(data, windows)[..., MIDDLE] - truth).mean())

    learnt = error()
    assert model.network is not None
    assert float(model.network.trust) > 0.5
    model.network.trust.zero_()
    assert learnt < 0.4 * error()
    assert learnt < 2.2  # the noise alone costs 0.8, a flat line 6.4


@pytest.mark.parametrize("lookback", [1, 7, 33, 200])
def test_the_network_reads_as_far_back_as_was_asked_or_as_there_is(lookback: int) -> None:
    y = wave(91)
    model = Forecaster(3, lookback=lookback, **TINY).fit(Panel.from_arrays({"s0": y}, "D", "2023-01-02"))
    healthy(model.predict(daily(91)), 1, 3)
    assert model.prepared.example(np.array([(0, 91)])).past.shape[1] == min(lookback, 91)


def test_a_model_read_from_its_file_can_follow_like_the_one_that_wrote_it(tmp_path: Path) -> None:
    panel = recurra.read_table(AIR)
    early, later = panel.until(120), panel.until(132)
    forecaster = Forecaster(horizon=7, epochs=2, members=1, hidden_size=7).fit(early)
    forecaster.save(tmp_path / "model.safetensors")
    again = Forecaster.load(tmp_path / "model.safetensors")
    values = []
    for each in (forecaster, again):
        each.follow(later)
        values.append(each.predict(later).values)
    np.testing.assert_array_equal(*values)
    fresh = Forecaster.load(tmp_path / "model.safetensors").predict(later).values
    assert not np.array_equal(fresh, values[0]), "following changed nothing"
