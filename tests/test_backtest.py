"""Rolling origins: where they lie, that none sees what comes after it, and what the scores rest on."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recurra import Forecaster, read_table
from recurra.data.table import Columns, Panel
from recurra.errors import ArgumentError, DataError
from recurra.tasks.backtest import (
    MOST_ORIGINS,
    MOST_WINDOWS,
    Origins,
    backtest,
    before,
    choose_origins,
    roll,
)
from recurra.tasks.results import QUANTILES, Backtest
from recurra.tasks.scores import scores

TINY: dict[str, Any] = {"hidden_size": 7, "members": 1, "epochs": 2}
AIR = resources.files("recurra.data") / "sample" / "airpassengers.csv"


def wave(length: int, seed: int = 0) -> np.ndarray:
    t = np.arange(length)
    noise = np.random.default_rng(seed).normal(0, 1, length)
    return 60 + 0.1 * t + 8 * np.sin(2 * np.pi * t / 7) + noise


def daily(*lengths: int) -> Panel:
    return Panel.from_arrays({f"s{i}": wave(n, i) for i, n in enumerate(lengths)}, "D", "2023-01-02")


def changed(panel: Panel, index: int, steps: slice, value: float) -> Panel:
    """``panel`` with other values at ``steps`` of one series."""
    target = panel.series[index].target.copy()
    target[steps] = value
    series = list(panel.series)
    series[index] = replace(series[index], target=target)
    return replace(panel, series=tuple(series))


def test_air_passengers_has_exactly_37_origins_one_a_month() -> None:
    panel = read_table(Path(str(AIR)))
    origins = choose_origins(panel, 12)
    assert origins.offsets == tuple(range(48, 11, -1))
    assert len(origins.offsets) == 37
    assert origins.span == 48


@pytest.mark.parametrize("horizon", [1, 7, 13, 48])
@pytest.mark.parametrize("lengths", [(29,), (63,), (63, 61, 99), (700,), (5000,), (200,) * 33, (90,) * 150])
def test_origins_lie_within_the_history_and_cost_a_bounded_time(
    lengths: tuple[int, ...], horizon: int
) -> None:
    panel = daily(*lengths)
    if max(lengths) < 2 * horizon + 4:
        with pytest.raises(DataError, match=f"needs a history of at least {2 * horizon + 4} steps"):
            choose_origins(panel, horizon)
        return
    origins = choose_origins(panel, horizon)
    offsets = origins.offsets
    assert offsets[0] == origins.span
    assert offsets[-1] >= horizon
    assert len(set(np.diff(offsets))) <= 1
    assert len(offsets) <= max(3, min(MOST_ORIGINS, MOST_WINDOWS // len(lengths)))
    length = int(np.median(lengths))
    assert origins.span == max(min(max(4 * horizon, length // 5), length // 3), horizon)
    if len(offsets) > 1:
        assert offsets[-1] < horizon + offsets[0] - offsets[1]  # as late as the stride allows


def test_span_and_stride_are_the_users() -> None:
    panel = daily(99)
    assert choose_origins(panel, 7, span=20).offsets == tuple(range(20, 6, -1))
    assert choose_origins(panel, 7, span=20, stride=5).offsets == (20, 15, 10)
    assert choose_origins(panel, 7, span=7, stride=3).offsets == (7,)
    with pytest.raises(ArgumentError, match=r"at least one horizon \(7 steps\), but 6 was given"):
        choose_origins(panel, 7, span=6)
    with pytest.raises(ArgumentError, match="stride must be at least 1 step, but 0 was given"):
        choose_origins(panel, 7, stride=0)
    with pytest.raises(
        DataError, match="needs a history of at least 101 steps, but the longest series has 99"
    ):
        choose_origins(panel, 7, span=90)


def test_before_cuts_every_series_at_its_own_end() -> None:
    panel = before(daily(63, 10, 33), 12)
    assert [len(s.target) for s in panel.series] == [51, 1, 21]
    assert [len(s.stamps) for s in panel.series] == [51, 1, 21]


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    return Forecaster(5, **TINY).fit(before(daily(91, 77), 30))


def origin_rows(result: Backtest, series: int, latest: int) -> np.ndarray:
    rows = np.flatnonzero((result.series == series) & (result.origin <= latest))
    assert len(rows)
    return rows


@pytest.mark.parametrize("value", [1e6, -1e6, np.nan])
@pytest.mark.parametrize("latest", [61, 70, 80])
def test_rolling_sees_nothing_at_or_after_an_origin(fitted: Forecaster, latest: int, value: float) -> None:
    panel = daily(91, 77)
    spiked = changed(panel, 0, slice(latest, 90), value)
    origins = Origins((30, 25, 21, 20, 11, 5))
    first, second = (roll(fitted, p, origins, baselines=("naive", "drift")) for p in (panel, spiked))
    for method in first.forecasts:
        for series, seen in ((0, latest), (1, 77)):
            rows = origin_rows(first, series, seen)
            for row in rows:
                at = (second.series == series) & (second.origin == first.origin[row])
                if not at.any():  # nothing of its horizon is observed any more
                    assert np.isnan(value)
                    continue
                np.testing.assert_array_equal(
                    second.forecasts[method][at][0], first.forecasts[method][row], err_msg=method
                )


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("offset", [20, 15])
@pytest.mark.parametrize("value", [1e6, np.nan])
def test_a_whole_backtest_sees_nothing_at_or_after_an_origin(follow: bool, offset: int, value: float) -> None:
    """Nor does its fit: the change at offset 20 begins at the very first origin."""
    length = 77 if follow else 800
    panel = daily(length)
    model = Forecaster(5, hidden_size=5, members=1, epochs=1)
    origins = Origins((20, 15, 9))
    latest = length - offset
    # of a gap as long as the horizon nothing is asked, so one value stays
    spiked = changed(panel, 0, slice(latest, latest + 4 if np.isnan(value) else length - 1), value)
    first, second = (backtest(model, p, origins, baselines=("seasonal naive",)) for p in (panel, spiked))
    assert model.plan.follow is follow
    rows = origin_rows(first, 0, latest)
    assert len(rows) == (1 if offset == 20 else 2)
    for method in first.forecasts:
        np.testing.assert_array_equal(first.forecasts[method][rows], second.forecasts[method][rows])
    assert first.scale[0] == second.scale[0]
    # the change is one that a later origin does see
    assert (first.forecasts["LSTM"][2] != second.forecasts["LSTM"][2]).any()


def test_an_origin_of_which_no_window_is_left_is_passed_over() -> None:
    panel = changed(daily(77), 0, slice(62, 76), np.nan)
    result = Forecaster(5, **TINY).backtest(panel, span=20, stride=5, baselines=())
    assert result.origin.tolist() == [57, 72]


@pytest.mark.parametrize("value", [1e6, np.nan])
@pytest.mark.parametrize("origin", [3, 6, 10, 13])
def test_origins_before_the_smoothing_has_begun_see_nothing_either(origin: int, value: float) -> None:
    """The start of the smoothing is estimated on two seasons: an origin among them must not profit."""
    model = Forecaster(2, **TINY).fit(daily(63))
    assert model.preparation.profiles["s0"].constants.season == 7
    panel = daily(63)
    windows = np.array([(0, origin), (0, 50)])
    usual = model.quantiles_at(panel, windows)
    spiked = model.quantiles_at(changed(panel, 0, slice(origin, 62), value), windows)
    np.testing.assert_array_equal(usual[0], spiked[0])
    assert (usual[1] != spiked[1]).any()
    cut = model.quantiles_at(panel.until(origin), np.array([(0, origin)]))
    np.testing.assert_array_equal(usual[0], cut[0])


@pytest.mark.parametrize("value", [1e6, np.nan])
def test_a_series_that_the_model_never_saw_is_not_profiled_on_its_future(value: float) -> None:
    model = Forecaster(5, **TINY).fit(daily(63))
    panel = Panel.from_arrays({"stranger": wave(63, 5)}, "D", "2023-01-02")
    windows = np.array([(0, 40), (0, 60)])
    usual = model.quantiles_at(panel, windows)
    spiked = model.quantiles_at(changed(panel, 0, slice(40, 62), value), windows)
    np.testing.assert_array_equal(usual[0], spiked[0])
    assert (usual[1] != spiked[1]).any()


def test_windows_of_which_nothing_was_observed_are_left_out(fitted: Forecaster) -> None:
    panel = changed(daily(91, 77), 0, slice(70, 80), np.nan)
    result = roll(fitted, panel, Origins((21, 20, 16, 15, 11, 10, 5)), baselines=("naive",))
    pairs = list(zip(result.series.tolist(), result.origin.tolist(), strict=True))
    # s0 ends at 91: origins 70, 71 and 75 have nothing observed within 5 steps, 76 has one, 80 all
    assert [origin for series, origin in pairs if series == 0] == [76, 80, 81, 86]
    assert [origin for series, origin in pairs if series == 1] == [56, 57, 61, 62, 66, 67, 72]
    assert not np.isnan(result.actual).all(axis=1).any()
    assert np.isfinite(scores(result)["LSTM"]["MASE"])


def test_windows_lie_where_their_stamps_say(fitted: Forecaster) -> None:
    panel = daily(91, 77)
    result = roll(fitted, panel, Origins((12, 5)), baselines=())
    for row, (index, origin) in enumerate(zip(result.series, result.origin, strict=True)):
        steps = slice(origin, origin + 5)
        np.testing.assert_array_equal(result.actual[row], panel.series[index].target[steps])
        np.testing.assert_array_equal(result.stamps[row], panel.series[index].stamps[steps])
        alone = fitted.quantiles_at(panel, np.array([(index, origin)]))[0]
        np.testing.assert_allclose(result.forecasts["LSTM"][row], alone, rtol=1e-5)
    assert (result.horizon, result.season, result.quantiles) == (5, 7, QUANTILES)
    assert result.names == ("s0", "s1")
    assert result.model == "LSTM"


def test_the_scale_is_the_seasonal_naive_error_before_the_first_origin(fitted: Forecaster) -> None:
    panel = changed(daily(91, 77), 1, slice(20, 22), np.nan)
    result = roll(fitted, panel, Origins((30, 5)), baselines=())
    for index, one in enumerate(panel.series):
        steps, history = [], one.target[: len(one.target) - 30]
        for t in range(7, len(history)):
            if not np.isnan(history[t]) and not np.isnan(history[t - 7]):
                steps.append(abs(history[t] - history[t - 7]))
        expected = sum(steps) / len(steps)
        np.testing.assert_allclose(result.scale[result.series == index], expected, rtol=1e-12)


def test_a_series_too_short_for_a_season_has_no_scale() -> None:
    panel = daily(91, 33)
    model = Forecaster(5, **TINY)
    result = backtest(model, panel, Origins((30, 20, 5)), baselines=("naive",))
    assert np.isnan(result.scale[result.series == 1]).all()
    assert np.isfinite(result.scale[result.series == 0]).all()
    assert np.isfinite(result.forecasts["LSTM"]).all()


def test_following_takes_in_what_has_come_and_standing_still_does_not(
    fitted: Forecaster, tmp_path: Path
) -> None:
    panel, origins = daily(91, 77), Origins((30, 20, 10))
    fitted.save(tmp_path / "m.safetensors")
    copy = Forecaster.load(tmp_path / "m.safetensors")
    profiles = dict(copy.preparation.profiles)
    still = roll(copy, panel, origins, baselines=())
    assert copy.preparation.profiles == profiles
    np.testing.assert_array_equal(
        still.forecasts["LSTM"], roll(fitted, panel, origins, baselines=()).forecasts["LSTM"]
    )
    moved = Forecaster(5, **TINY).fit(before(panel, 30))
    following = roll(moved, panel, origins, baselines=(), follow=True)
    first = following.origin == np.array([61, 47])[following.series]
    np.testing.assert_allclose(following.forecasts["LSTM"][first], still.forecasts["LSTM"][first], rtol=1e-6)
    assert (following.forecasts["LSTM"][~first] != still.forecasts["LSTM"][~first]).all(axis=(1, 2)).all()
    assert moved.preparation.profiles != profiles


@pytest.mark.parametrize("length", [28, 29, 33, 40])
def test_following_on_a_history_without_a_training_window(length: int) -> None:
    panel = Panel.from_arrays({"y": wave(length)}, "MS", "2020-01-01")
    result = Forecaster(12, **TINY).backtest(panel, baselines=("naive",))
    assert np.isfinite(result.forecasts["LSTM"]).all()
    assert (np.diff(result.forecasts["LSTM"], axis=-1) >= 0).all()


def test_the_estimators_own_backtest_is_one_of_a_fresh_copy() -> None:
    panel = daily(91)
    model = Forecaster(5, **TINY).fit(panel)
    weights = (
        {name: value.clone() for name, value in model.network.state_dict().items()} if model.network else {}
    )
    result = model.backtest(panel, span=20, stride=5, baselines=("naive", "seasonal naive"))
    assert list(result.forecasts) == ["LSTM", "naive", "seasonal naive"]
    assert result.origin.tolist() == [71, 76, 81, 86]
    assert model.network is not None
    assert all((value == weights[name]).all() for name, value in model.network.state_dict().items())
    expected = backtest(Forecaster(5, **TINY), panel, Origins((20, 15, 10, 5)), baselines=())
    np.testing.assert_array_equal(result.forecasts["LSTM"], expected.forecasts["LSTM"])
    unfitted = Forecaster(5, **TINY).backtest(panel, span=20, stride=5, baselines=())
    np.testing.assert_array_equal(unfitted.forecasts["LSTM"], expected.forecasts["LSTM"])


def test_a_backtest_without_a_usable_series_is_refused() -> None:
    target = np.full(63, np.nan)
    target[[0, 60, 61, 62]] = 3.0
    panel = replace(Panel.from_arrays({"y": target}, "D", "2023-01-02"), columns=Columns("day", ("y",)))
    with pytest.raises(
        DataError, match="no series has two observed values before the backtest's first origin"
    ):
        backtest(Forecaster(5, **TINY), panel, Origins((20, 10)), baselines=())


def test_progress_is_told() -> None:
    rows: list[dict[str, Any]] = []
    Forecaster(5, **TINY).backtest(daily(91), span=15, stride=5, baselines=("naive",), log=rows.append)
    assert [row["done"] for row in rows if row.get("method") == "naive"] == [1, 2, 3]
    assert {row["of"] for row in rows if row.get("method") == "LSTM"} == {3}


def test_air_passengers_are_forecast_clearly_better_than_by_the_year_before() -> None:
    panel = read_table(Path(str(AIR)))
    found = scores(Forecaster(12, epochs=30).backtest(panel, stride=6, baselines=("seasonal naive",)))
    assert found["LSTM"]["MASE"] < 0.8 * found["seasonal naive"]["MASE"]
    assert 0.60 <= found["LSTM"]["coverage_80"] <= 0.97
