"""Scores against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from recurra.errors import ArgumentError
from recurra.tasks.results import QUANTILES, Backtest
from recurra.tasks.scores import METRICS, by_horizon, by_series, counts, loses, scores, verdict, winner

NAN = float("nan")


def backtest(
    actual: list[list[float]],
    forecasts: dict[str, list[list[list[float]]]],
    *,
    scale: list[float],
    quantiles: tuple[float, ...] = (0.25, 0.5, 0.75),
    series: list[int] | None = None,
    names: tuple[str, ...] = ("a", "b"),
) -> Backtest:
    windows, horizon = np.shape(actual)
    return Backtest(
        horizon=horizon,
        season=1,
        quantiles=quantiles,
        names=names,
        series=np.array(series if series is not None else [0] * windows),
        origin=np.arange(windows) + 10,
        stamps=np.arange(windows * horizon).reshape(windows, horizon),
        actual=np.array(actual, dtype=float),
        scale=np.array(scale, dtype=float),
        forecasts={name: np.array(values, dtype=float) for name, values in forecasts.items()},
        seconds=dict.fromkeys(forecasts, 1.0),
    )


@pytest.fixture
def small() -> Backtest:
    """Two windows of two steps, one actual missing: errors 2, 1 and 5, scales 2 and 4."""
    return backtest(
        [[10, 20], [NAN, 5]],
        {"model": [[[6, 8, 9], [18, 21, 25]], [[0, 0, 0], [4, 10, 12]]]},
        scale=[2, 4],
        series=[0, 1],
    )


def test_point_scores_by_hand(small: Backtest) -> None:
    row = scores(small)["model"]
    assert row["MAE"] == pytest.approx((2 + 1 + 5) / 3)
    assert row["RMSE"] == pytest.approx(np.sqrt((4 + 1 + 25) / 3))
    assert row["MASE"] == pytest.approx((2 / 2 + 1 / 2 + 5 / 4) / 3)
    assert row["MAPE"] == pytest.approx(100 * (2 / 10 + 1 / 20 + 5 / 5) / 3)
    assert row["sMAPE"] == pytest.approx(200 * (2 / 18 + 1 / 41 + 5 / 15) / 3)


def test_quantile_scores_by_hand(small: Backtest) -> None:
    row = scores(small)["model"]
    low = [0.25 * 4, 0.25 * 2, 0.25 * 1]  # actual above the 25 % quantile each time
    middle = [0.5 * 2, 0.5 * 1, 0.5 * 5]
    high = [0.75 * 1, 0.25 * 5, 0.25 * 7]  # above once, below twice
    total = 2 * (sum(low) + sum(middle) + sum(high)) / 3
    assert row["CRPS"] == pytest.approx(total / 3)
    assert row["wQL"] == pytest.approx(total / (10 + 20 + 5))
    assert row["coverage_50"] == pytest.approx(2 / 3)
    assert np.isnan(row["coverage_80"])


def test_by_horizon_and_by_series(small: Backtest) -> None:
    np.testing.assert_allclose(by_horizon(small, "MAE")["model"], [2, 3])
    np.testing.assert_allclose(by_series(small, "MASE")["model"], [0.75, 1.25])
    assert set(scores(small)["model"]) == set(METRICS)


def test_series_without_windows_have_no_score() -> None:
    found = by_series(backtest([[1]], {"model": [[[1, 1, 1]]]}, scale=[1], names=("a", "b", "c")), "MAE")
    np.testing.assert_array_equal(found["model"], [0, NAN, NAN])


def test_zero_actuals_are_left_out_of_mape_and_counted() -> None:
    test = backtest(
        [[0, 4], [0, NAN]], {"model": [[[0, 0, 0], [3, 3, 3]], [[1, 1, 1], [1, 1, 1]]]}, scale=[1, 0]
    )
    row = scores(test)["model"]
    assert row["MAPE"] == pytest.approx(25)
    assert row["sMAPE"] == pytest.approx(200 * (0 + 1 / 7 + 1) / 3)
    assert row["MASE"] == pytest.approx((0 + 1) / 2)
    assert counts(test) == {"windows": 2, "steps": 3, "missing": 1, "zeros": 2, "flat": 1}


def test_nothing_observed_scores_nothing() -> None:
    table = scores(backtest([[NAN]], {"model": [[[1, 1, 1]]]}, scale=[1]))
    assert all(np.isnan(value) for value in table["model"].values())
    assert "No verdict" in verdict(table)
    assert winner(table) is None
    assert not loses(table)


def test_all_zero_actuals_have_no_relative_scores() -> None:
    row = scores(backtest([[0, 0]], {"model": [[[0, 1, 2], [0, 1, 2]]]}, scale=[1]))["model"]
    assert np.isnan(row["MAPE"])
    assert np.isnan(row["wQL"])
    assert row["sMAPE"] == pytest.approx(200)


@pytest.mark.parametrize("seed", [0, 7])
def test_calibrated_quantiles_cover_what_they_say(seed: int) -> None:
    from statistics import NormalDist

    levels = [NormalDist().inv_cdf(level) for level in QUANTILES]
    rng = np.random.default_rng(seed)
    actual = rng.normal(size=(333, 33))
    test = backtest(
        actual.tolist(),
        {"model": np.broadcast_to(levels, (333, 33, len(levels))).tolist()},
        scale=[1.0] * 333,
        quantiles=QUANTILES,
    )
    row = scores(test)["model"]
    for share in (50, 80, 95):
        assert row[f"coverage_{share}"] == pytest.approx(share / 100, abs=0.02)
    # Mean of twice the pinball loss of a standard normal at level τ is 2 φ(Φ⁻¹(τ)).
    assert row["CRPS"] == pytest.approx(np.mean([2 * NormalDist().pdf(z) for z in levels]), rel=0.03)


def rows(**errors: float) -> dict[str, dict[str, float]]:
    return {name.replace("_", " "): {"MASE": value, "MAE": 7 * value} for name, value in errors.items()}


def test_verdict_when_the_model_loses() -> None:
    table = rows(LSTM=1.0, naive=1.7, ETS=0.8, Theta=0.9)
    said = verdict(table)
    assert said.startswith("LSTM loses to ETS: MASE 1.000 against 0.800, 25 % more error.")
    assert "It also loses to Theta." in said
    assert loses(table)
    assert winner(table) == "ETS"


def test_verdict_when_the_model_wins_or_is_level() -> None:
    table = rows(LSTM=0.6, ETS=0.8, naive=2.0)
    assert verdict(table) == (
        "LSTM beats both baselines; the better of them is ETS: MASE 0.600 against 0.800, 25 % less error."
    )
    assert not loses(table)
    assert verdict(rows(LSTM=1, naive=1.5)) == (
        "LSTM beats the baseline, naive: MASE 1.000 against 1.500, 33 % less error."
    )
    assert "all 3 baselines; the best of them is drift" in verdict(rows(LSTM=1, naive=4, ETS=3, drift=2))
    level = rows(LSTM=0.802, ETS=0.8)
    assert verdict(level) == "LSTM is level with the best baseline, ETS: MASE 0.802 against 0.800."
    assert not loses(level)
    assert "3.0 times the error" in verdict(rows(LSTM=3, ETS=1))
    assert "no baseline" in verdict(rows(LSTM=3))


def test_verdict_falls_back_to_the_absolute_error() -> None:
    table = {"LSTM": {"MASE": NAN, "MAE": 2.0}, "naive": {"MASE": NAN, "MAE": 0.0}}
    assert verdict(table).startswith("LSTM loses to naive: mean absolute error 2.000 against 0")
    assert loses(table)


def test_errors_name_the_argument(small: Backtest) -> None:
    with pytest.raises(ArgumentError, match=r"metric: expected one of MASE, .* got 'mse'"):
        by_horizon(small, "mse")
    with pytest.raises(ArgumentError, match="metric: expected"):
        by_series(small, "R2")
    with pytest.raises(ArgumentError, match=r"quantiles: expected the median \(0.5\)"):
        scores(backtest([[1]], {"model": [[[1, 2]]]}, scale=[1], quantiles=(0.1, 0.9)))
