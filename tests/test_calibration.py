"""Trust and widths are what windows held back say, and a habit where those are few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recurra import Forecaster
from recurra.data.table import Panel
from recurra.tasks.calibration import (
    interval_factors,
    judge_trust,
    judge_width,
    spread,
    theoretical_quantiles,
    usual_trust,
    usual_widening,
)
from recurra.tasks.preparation import Preparation, Prepared
from recurra.tasks.remainder import Profile, Transform
from recurra.tasks.results import QUANTILES, Forecast
from recurra.tasks.segment_lstm import Example, ForecastNetwork
from recurra.tasks.smoothing import Constants

NORMAL = torch.distributions.Normal(0.0, 1.0)
LEVELS = torch.tensor(QUANTILES)


def network(correction: float) -> ForecastNetwork:
    """One that starts at the standard normal's quantiles and always corrects by the same amount."""
    made = ForecastNetwork(
        horizon=3, segment=2, hidden_size=4, past_size=3, future_size=0, static_size=2, series_count=2,
        quantiles=QUANTILES, learn_spread=False,
    )  # fmt: skip
    made.start.copy_(NORMAL.icdf(LEVELS).expand(3, -1))
    torch.nn.init.constant_(made.members[0].decode.bias, correction)
    return made.eval()


def batch(target: torch.Tensor) -> Example:
    n = len(target)
    return Example(
        past=torch.zeros(n, 7, 3),
        future=torch.zeros(n, 3, 0),
        static=torch.zeros(n, 2),
        series=torch.zeros(n, dtype=torch.int64),
        target=target,
        observed=torch.ones(n, 3, dtype=torch.bool),
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_trust_is_the_share_of_the_corrections_that_came_true(share: float) -> None:
    made = network(correction=2.0)
    judge_trust(made, [batch(torch.randn(401, 3) + 2.0 * share)], held=1e9, habit=0.5)
    assert float(made.trust) == pytest.approx(share, abs=0.11)


def test_trust_is_the_habit_where_nothing_was_held_back_and_lies_between_where_little_was() -> None:
    made, told = network(correction=2.0), batch(torch.randn(401, 3) + 2.0)
    judge_trust(made, [told], held=0.0, habit=0.3)
    assert float(made.trust) == pytest.approx(0.3)
    judge_trust(made, [told], held=4.0, habit=0.3)
    assert float(made.trust) == pytest.approx(0.65, abs=0.06)


def test_nothing_is_trusted_where_the_smoothing_is_exact() -> None:
    made = network(correction=2.0)
    made.start.zero_()
    judge_trust(made, [batch(torch.zeros(33, 3))], held=1.0, habit=0.5)
    assert float(made.trust) == 0.0


@pytest.mark.parametrize("wild", [0.7, 1.0, 2.0])
def test_widened_intervals_cover_what_they_say(wild: float) -> None:
    made = network(correction=0.0)
    judge_width(made, [batch(wild * torch.randn(3001, 3))], QUANTILES, held=1e9, habit=torch.ones(7))
    told = batch(wild * torch.randn(3001, 3))
    with torch.no_grad():
        found = made.forecast(told)
    for low in range(3):
        inside = (told.target >= found[..., low]) & (told.target <= found[..., -1 - low])
        assert float(inside.float().mean()) == pytest.approx(QUANTILES[-1 - low] - QUANTILES[low], abs=0.03)
    assert float(made.widen[3]) == 1.0


def test_widths_are_the_habit_where_nothing_was_held_back() -> None:
    made, habit = network(correction=0.0), torch.linspace(1.0, 1.6, 7)
    judge_width(made, [batch(5.0 * torch.randn(101, 3))], QUANTILES, held=0.0, habit=habit)
    torch.testing.assert_close(made.widen, habit)


def test_what_was_not_observed_moves_no_width_and_a_quantile_without_a_mirror_stays() -> None:
    forecast = NORMAL.icdf(torch.tensor([0.1, 0.3, 0.5, 0.9])).expand(101, 3, 4)
    target, observed = torch.randn(101, 3), torch.rand(101, 3) < 0.7
    factors = interval_factors(forecast, target, observed, (0.1, 0.3, 0.5, 0.9))
    wild = torch.where(observed, target, 1e9)
    assert torch.equal(interval_factors(forecast, wild, observed, (0.1, 0.3, 0.5, 0.9)), factors)
    assert factors[1] == factors[2] == 1.0
    assert factors[0] == factors[3] != 1.0


def test_habits_grow_cautious_where_little_was_learnt() -> None:
    trusts = [usual_trust(learnt) for learnt in (0.0, 1.0, 7.0, 1e6)]
    assert trusts == sorted(trusts)
    assert trusts[0] == 0.0
    assert trusts[-1] == pytest.approx(0.5, abs=1e-5)
    widths = [float(usual_widening(learnt, 7)[0]) for learnt in (1.0, 7.0, 1e6)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(1.0, abs=1e-5)


def test_indices_are_spread_from_the_first_to_the_last() -> None:
    assert spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(101, 3).tolist() == [0, 50, 100]


@pytest.mark.parametrize(
    "constants",
    [Constants(1, 1.0, 0.0, 0.0, 0.0), Constants(1, 0.4, 0.2, 0.0, 0.9), Constants(3, 0.3, 0.05, 0.5, 0.98)],
    ids=["random walk", "damped trend", "season"],
)
def test_the_theory_says_what_simulated_futures_do(constants: Constants) -> None:
    random, paths, horizon = np.random.default_rng(5), 40_000, 8
    level, trend = np.zeros(paths), np.zeros(paths)
    seasonal = np.zeros((constants.season, paths))
    spread_of = []
    for step in range(horizon):
        error, phase = random.normal(size=paths), step % constants.season
        expected = level + constants.phi * trend
        spread_of.append(np.std(expected + seasonal[phase] + error))
        level = expected + constants.alpha * error
        trend = constants.phi * trend + constants.beta * error
        seasonal[phase] += constants.gamma * error
    panel = Panel.from_arrays({"y": np.arange(33.0)}, frequency="D", start="2024-01-01")
    learnt = Preparation.fit(panel, horizon=horizon, lookback=7, seasons=(1,), calendar=False)
    profile = Profile(Transform("none"), constants, error=1.0)
    prepared = Prepared(panel, replace(learnt, profiles={"y": profile}), ("y",), panel.frequency)
    found = theoretical_quantiles(prepared, QUANTILES)
    expected_quantiles = torch.tensor(np.array(spread_of))[:, None] * NORMAL.icdf(LEVELS)
    torch.testing.assert_close(found.double(), expected_quantiles.double(), rtol=0.02, atol=1e-6)


def test_following_widens_intervals_that_turned_out_too_narrow_and_can_be_taken_over() -> None:
    random = np.random.default_rng(3)
    calm = 100 + random.normal(0, 1.0, 70)
    restless = 100 + random.normal(0, 12.0, 40)
    panel = Panel.from_arrays({"y": np.concatenate([calm, restless])}, frequency="D", start="2024-01-01")
    forecaster = Forecaster(horizon=3, season=1, epochs=2, members=1, hidden_size=4).fit(panel.until(70))
    assert forecaster.plan.follow
    assert forecaster.network is not None
    before = forecaster.network.widen.clone()
    forecaster.follow(panel)
    assert (forecaster.network.widen[[0, 1, 5, 6]] > 1.2 * before[[0, 1, 5, 6]]).all()
    other = Forecaster(horizon=3, season=1, epochs=2, members=1, hidden_size=4).fit(panel.until(70))
    other.widen_like(forecaster)
    assert other.network is not None
    assert torch.equal(other.network.widen, forecaster.network.widen)


def test_a_forecast_becomes_a_long_table() -> None:
    stamps = np.array([["2024-01-01", "2024-01-02"]] * 2, dtype="datetime64[ns]")
    values = np.arange(12.0).reshape(2, 2, 3)
    forecast = Forecast(("a", "b"), stamps, (0.1, 0.5, 0.9), values)
    pandas, polars = forecast.to_pandas(), forecast.to_polars()
    assert list(pandas.columns) == polars.columns == ["unique_id", "ds", "forecast", "q0.1", "q0.5", "q0.9"]
    assert pandas["unique_id"].tolist() == polars["unique_id"].to_list() == ["a", "a", "b", "b"]
    assert pandas["forecast"].tolist() == polars["q0.5"].to_list() == [1.0, 4.0, 7.0, 10.0]
    assert pandas["ds"].tolist() == polars["ds"].to_list() == stamps.ravel().astype("datetime64[us]").tolist()
