"""Level, trend and season of every series by exponential smoothing, known at every step from the past alone.

A network that sees a series relative to its own level and season needs few windows to learn the rest; this is
the pre-processing that won the M4 competition (Smyl 2020, "A hybrid method of exponential smoothing and
recurrent neural networks", Int. J. Forecasting 36). Smyl learns the smoothing constants by gradient descent
together with the network; here they are picked from a grid by the error of the forecasts over the whole
horizon, which is as good on short series and takes milliseconds.

The recursions are Holt–Winters', additive, with a damped trend (Gardner 1985), in error-correction form
(Hyndman et al. 2008, "Forecasting with Exponential Smoothing", eq. 2.4):

    e_t = y_t − (l_{t−1} + φ b_{t−1} + s_{t−m})
    l_t = l_{t−1} + φ b_{t−1} + α e_t
    b_t = φ b_{t−1} + β e_t
    s_t = s_{t−m} + γ e_t

A missing y_t has e_t = 0. Series whose swings grow with their level come in logarithms
(tasks.remainder), where an additive season is a multiplicative one.

Axes: S series, T time, Q horizon, C candidates (one row of smoothing constants each), m season length.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALPHA = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
TRENDS = (
    (0.0, 0.0),
    (0.01, 0.98),
    (0.05, 0.98),
    (0.2, 0.98),
    (0.01, 0.9),
    (0.05, 0.9),
    (0.2, 0.9),
    (0.05, 0.8),
)
"""Pairs of β and φ; the first has no trend at all. Every trend is damped: on M3's series that errs less."""
LAST_VALUE = (1.0, 0.0, 0.0, 0.0)
"""The candidate that forecasts the last value."""
GAMMA = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5)
SELECTION_ORIGINS = 120
"""At most so many past origins judge the constants; more change the choice little and cost time."""
SEASON_PRICE = 0.4
"""A season seen n times must lessen the error by this share of 1/n."""
SELECTION_SEASONS = 30
"""Of a long series the last so many seasons judge the constants, but not fewer than 1,500 steps."""


@dataclass(frozen=True)
class Constants:
    """Smoothing constants of one series. ``season`` is m; 1 means no season."""

    season: int
    alpha: float
    beta: float
    gamma: float
    phi: float


@dataclass(frozen=True)
class States:
    """One series, smoothed: all (T,) float64; entry t is known once y_t is.

    ``level`` l_t · ``trend`` b_t · ``seasonal`` s_t · ``error`` e_t, NaN where y_t is missing.
    """

    constants: Constants
    level: np.ndarray
    trend: np.ndarray
    seasonal: np.ndarray
    error: np.ndarray


def candidates(season: int) -> np.ndarray:
    """Grid of smoothing constants, (C, 4): columns α β γ φ. Without a season γ is 0."""
    rows = itertools.product(ALPHA, TRENDS, GAMMA if season > 1 else (0.0,))
    return np.array([(alpha, beta, gamma, phi) for alpha, (beta, phi), gamma in rows])


def _start(y: np.ndarray, season: int) -> tuple[float, float, np.ndarray]:
    """Level and trend just before the first step, and the first season (m,), from two seasons or 8 steps."""
    head = y[: max(2 * season, min(len(y), 8))]
    seen = ~np.isnan(head)
    t = np.arange(len(head), dtype=np.float64)
    if seen.sum() < 2 or len(head) < 2 * season:
        level = float(np.mean(head[seen])) if seen.any() else 0.0
        return level, 0.0, np.zeros(season)
    if season > 1:
        first, second = head[:season], head[season : 2 * season]
        both = ~np.isnan(first) & ~np.isnan(second)
        slope = float(np.mean(second[both] - first[both])) / season if both.any() else 0.0
    else:
        slope = float(np.polyfit(t[seen], head[seen], 1)[0]) if len(head) >= 8 else 0.0
    centre = float(np.mean(head[seen] - slope * t[seen]))
    level = centre - slope
    seasonal = np.zeros(season)
    if season > 1:
        rest = head - (centre + slope * t)
        for phase in range(season):
            values = rest[phase::season]
            values = values[~np.isnan(values)]
            seasonal[phase] = values.mean() if len(values) else 0.0
        seasonal -= seasonal.mean()
    return level, slope, seasonal


def _forecast_errors(
    y: np.ndarray, season: int, grid: np.ndarray, horizon: int, origins: np.ndarray
) -> np.ndarray:
    """Mean absolute error of the forecasts that each candidate makes from ``origins``: (C,)."""
    alpha, beta, gamma, phi = grid.T
    level0, trend0, seasonal0 = _start(y, season)
    level = np.full(len(grid), level0)
    trend = np.full(len(grid), trend0)
    seasonal = np.tile(seasonal0[:, None], (1, len(grid)))  # (m, C)
    damped = np.cumsum(phi[:, None] ** np.arange(1, horizon + 1), axis=1)  # (C, Q)
    judged = set(origins.tolist())
    total, count = np.zeros(len(grid)), 0
    for t, value in enumerate(y):
        if t in judged:
            truth = y[t : t + horizon]
            seen = ~np.isnan(truth)
            phases = (t + np.arange(len(truth))) % season
            forecast = level[:, None] + damped[:, : len(truth)] * trend[:, None] + seasonal[phases].T
            total += np.abs(forecast[:, seen] - truth[seen]).sum(axis=1)
            count += int(seen.sum())
        row = t % season
        expected = level + phi * trend
        error = 0.0 if np.isnan(value) else value - expected - seasonal[row]
        level = expected + alpha * error
        trend = phi * trend + beta * error
        seasonal[row] += gamma * error
    return total / max(count, 1)


def choose(y: np.ndarray, seasons: Sequence[int], horizon: int) -> Constants:
    """The smoothing constants whose past forecasts over ``horizon`` erred least.

    ``y`` (T,) with NaN where missing; ``seasons`` are the season lengths to consider besides none. A season
    is considered only where at least two of it were seen. Ties go to the simpler candidate.
    """
    usable = [1, *sorted(season for season in set(seasons) if season > 1 and len(y) >= 2 * season + 2)]
    recent = y[-max(SELECTION_SEASONS * usable[-1], 1500) :]
    common = _origins(len(recent), usable[-1], horizon)
    best, constants = np.inf, Constants(1, *LAST_VALUE)
    for season in usable:
        grid = candidates(season)
        errors = _forecast_errors(recent, season, grid, horizon, _origins(len(recent), season, horizon))
        at = int(np.argmin(errors))
        if season == 1:
            # Noise always favours something over a random walk; believe it where the gain is worth it.
            last_value = int(np.flatnonzero((grid == LAST_VALUE).all(axis=1))[0])
            at = at if errors[at] < 0.95 * errors[last_value] else last_value
        # Within a season every origin helps to choose; between seasons only the same origins can be compared.
        error = float(_forecast_errors(recent, season, grid[at : at + 1], horizon, common)[0])
        # A season must earn its numbers, the more so the fewer times it was seen.
        if error < best * (1.0 if season == 1 else 1.0 - SEASON_PRICE * season / len(recent)):
            best, constants = error, Constants(season, *(float(value) for value in grid[at]))
    return constants


def _origins(length: int, season: int, horizon: int) -> np.ndarray:
    """Origins that judge candidates of one season: after two to four seasons, while a horizon follows."""
    first = 2 * season if season > 1 else 3
    if length > 4 * season + horizon:
        first = max(first, min(4 * season, length // 3))
    first = min(first, length - 1)
    last = max(length - horizon, first)
    return np.unique(np.linspace(first, last, min(last - first + 1, SELECTION_ORIGINS)).astype(int))


def smooth(y: np.ndarray, constants: Constants) -> States:
    """Run the recursions over ``y`` (T,) and keep every state. See :class:`States`."""
    season, alpha, beta, gamma, phi = (
        constants.season,
        constants.alpha,
        constants.beta,
        constants.gamma,
        constants.phi,
    )
    level, trend, first = _start(y, season)
    seasonal = first.tolist()
    rows = np.empty((4, len(y)))
    for t, value in enumerate(y.tolist()):
        phase = t % season
        expected = level + phi * trend
        missing = value != value
        error = 0.0 if missing else value - expected - seasonal[phase]
        level = expected + alpha * error
        trend = phi * trend + beta * error
        seasonal[phase] += gamma * error
        rows[:, t] = level, trend, seasonal[phase], np.nan if missing else error
    return States(constants, rows[0], rows[1], rows[2], rows[3])


def extrapolate(states: States, origins: np.ndarray, horizon: int) -> np.ndarray:
    """Forecasts made just before each of ``origins`` (W,), from the states one step earlier: (W, Q).

    ``origins`` are indices of first forecast steps. A phase that has not been seen yet has no season.
    """
    constants = states.constants
    steps = np.arange(1, horizon + 1)
    damped = np.cumsum(constants.phi**steps)
    before = origins[:, None] - 1
    back = constants.season * -(-steps // constants.season)  # whole seasons back to a step already seen
    phase = before + steps - back
    seasonal = np.where(phase >= 0, states.seasonal[np.maximum(phase, 0)], 0.0)
    found: np.ndarray = states.level[before] + damped * states.trend[before] + seasonal
    return found
