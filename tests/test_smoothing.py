"""Exponential smoothing against its recursions written out, and against what it must never do: look ahead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recurra.tasks.smoothing import Constants, candidates, choose, extrapolate, smooth


def _series(length: int, season: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    t = np.arange(length)
    return 50 + 0.3 * t + 5 * np.sin(2 * np.pi * t / season) + random.normal(0, 1, length)


@pytest.mark.parametrize(("season", "length"), [(1, 33), (7, 63), (12, 101)])
def test_states_follow_the_recursions_step_by_step(season: int, length: int) -> None:
    y = _series(length, max(season, 2), seed=season)
    y[length // 2] = np.nan
    constants = Constants(season, alpha=0.3, beta=0.05, gamma=0.2 if season > 1 else 0.0, phi=0.9)
    states = smooth(y, constants)
    for t in range(season + 1, length):
        before = states.level[t - 1] + constants.phi * states.trend[t - 1]
        expected = before + states.seasonal[t - season] if t >= season else before
        error = 0.0 if np.isnan(y[t]) else y[t] - expected
        assert states.level[t] == pytest.approx(before + constants.alpha * error, abs=1e-12)
        assert states.trend[t] == pytest.approx(
            constants.phi * states.trend[t - 1] + constants.beta * error, abs=1e-12
        )
        assert states.seasonal[t] == pytest.approx(
            states.seasonal[t - season] + constants.gamma * error, abs=1e-12
        )
        assert np.isnan(states.error[t]) == np.isnan(y[t])


@settings(max_examples=40, deadline=None)
@given(
    season=st.sampled_from([1, 4, 7]),
    length=st.integers(20, 70),
    horizon=st.sampled_from([1, 3, 7, 13]),
    seed=st.integers(0, 10_000),
)
def test_a_forecast_is_what_the_states_say_and_ignores_the_future(
    season: int, length: int, horizon: int, seed: int
) -> None:
    y = _series(length, max(season, 2), seed)
    constants = Constants(season, 0.35, 0.05, 0.1 if season > 1 else 0.0, 0.98)
    origin = length - 5
    found = extrapolate(smooth(y, constants), np.array([origin]), horizon)[0]
    states = smooth(y[:origin], constants)
    seasonal = {t % season: states.seasonal[t] for t in range(origin - season, origin)}
    trend, level = states.trend[-1], states.level[-1]
    for h in range(1, horizon + 1):
        trend *= constants.phi
        level += trend
        assert found[h - 1] == pytest.approx(level + seasonal[(origin + h - 1) % season], abs=1e-9)
    spiked = y.copy()
    spiked[origin:] += 1e6
    np.testing.assert_array_equal(
        extrapolate(smooth(spiked, constants), np.array([origin]), horizon)[0], found
    )


def test_the_grid_of_a_series_without_season_holds_no_seasonal_constant() -> None:
    assert (candidates(1)[:, 2] == 0).all()
    assert (candidates(7)[:, 2] > 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_a_clear_season_is_found_and_noise_has_none(seed: int) -> None:
    random = np.random.default_rng(seed)
    pattern = random.normal(0, 10, 7)
    seasonal = np.tile(pattern, 15) + random.normal(0, 0.5, 105)
    assert choose(seasonal, (7,), horizon=7).season == 7
    walk = np.cumsum(random.normal(0, 1, 200))
    chosen = choose(walk, (7,), horizon=3)
    assert chosen.season == 1
    assert chosen.alpha >= 0.5


@pytest.mark.parametrize("length", [1, 2, 3, 7, 15])
def test_short_series_are_smoothed_all_the_same(length: int) -> None:
    y = np.linspace(3.0, 5.0, length)
    constants = choose(y, (12,), horizon=6)
    states = smooth(y, constants)
    assert np.isfinite(extrapolate(states, np.array([length]), 6)).all()


def test_a_series_with_nothing_observed_at_first_still_has_states() -> None:
    y = np.full(30, np.nan)
    y[20:] = 4.0
    states = smooth(y, Constants(7, 0.5, 0.0, 0.1, 0.0))
    assert np.isfinite(states.level).all()
    assert np.isnan(states.error[:20]).all()
