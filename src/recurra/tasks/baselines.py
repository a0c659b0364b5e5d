"""The forecasts that a model has to beat: naive, seasonal naive, drift, ETS and Theta.

Point forecasts and intervals of the three simple methods are those of Hyndman & Athanasopoulos,
*Forecasting: Principles and Practice*, 3rd edition, sections 5.2 and 5.5. ETS and Theta are statsmodels',
with what statsmodels leaves to its user (choice of the model, seasonal adjustment, intervals) done here.

Missing values: naive and drift start from the last observed step and widen for the steps since; seasonal
naive repeats the last observed value of each season; ETS and Theta see the history linearly interpolated.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError, DataError

Floats = NDArray[np.float64]

METHODS = ("naive", "seasonal naive", "drift", "ETS", "Theta")
"""Every method that `forecast` knows, cheapest first."""

LONGEST = 600
"""ETS and Theta see at most the last max(LONGEST, 10 seasons) steps: more cost time and change little."""

ETS_SEASON = 24
"""Longest season with a state of its own in ETS, as in R's forecast package; longer ones are adjusted for."""

_Simple = Callable[[Floats, int, int, set[str]], tuple[Floats, Floats]]
_Form = tuple[str, str, bool, str]
_TRENDS = (("", False), ("add", False), ("add", True))
_ITERATIONS = 100
_PATHS = 1000  # simulated futures behind an ETS interval; drawn in mirrored pairs
_LIKELY = 1.645  # normal quantile of the 90 % test for seasonality
_RELATIVE_FLAT = 1e-9  # a history that varies less than this share of its size has nothing to fit


def forecast(
    method: str,
    history: Floats,
    horizon: int,
    season: int,
    quantiles: Sequence[float],
    said: set[str] | None = None,
) -> Floats:
    """Quantile forecasts of one series by one baseline.

    method: one of `METHODS`. history: (T,) values up to the origin, NaN = missing. horizon: Q ≥ 1 steps.
    season: steps in a season, 1 for none. quantiles: K levels in (0, 1), rising.
    said: takes one sentence for everything done otherwise than asked: a history cut, a simpler method used.

    Returns (Q, K), not decreasing along K. Raises ArgumentError for an unknown method or a horizon, season or
    quantile out of range; DataError when nothing in the history was observed.
    """
    if method not in METHODS:
        raise ArgumentError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    for name, value in (("horizon", horizon), ("season", season)):
        if value < 1:
            raise ArgumentError(f"{name}: expected a whole number of at least 1, got {value}")
    rising = len(quantiles) > 0 and list(quantiles) == sorted(quantiles)
    if not rising or not all(0 < level < 1 for level in quantiles):
        raise ArgumentError(f"quantiles: expected rising levels between 0 and 1, got {list(quantiles)}")
    history = np.asarray(history, dtype=np.float64)
    observed = np.isfinite(history)
    if not observed.any():
        raise DataError("history: expected at least one observed value, got none; leave this series out")
    said = set() if said is None else said
    history = np.where(observed, history, np.nan)[: int(np.flatnonzero(observed)[-1]) + 1]
    gap = len(observed) - len(history)  # steps since the last observed one: forecast too, then dropped
    levels = np.array([NormalDist().inv_cdf(level) for level in quantiles])
    simple: dict[str, _Simple] = {"naive": _naive, "drift": _drift, "seasonal naive": _seasonal_naive}
    if method in simple:
        point, spread = simple[method](history, gap + horizon, season, said)
        return _normal(point, spread, levels)[gap:]
    return _fitted(method, history, gap + horizon, season, np.asarray(quantiles), levels, said)[gap:]


def _naive(history: Floats, steps: int, season: int, said: set[str]) -> tuple[Floats, Floats]:
    """Random walk: the last value, σ√h. `history` ends in an observed value.

    Returns point forecast and standard deviation, (steps,) each, as the two methods below do.
    """
    ahead = np.arange(1, steps + 1)
    return np.full(steps, history[-1]), _walk_sigma(history) * np.sqrt(ahead)


def _drift(history: Floats, steps: int, season: int, said: set[str]) -> tuple[Floats, Floats]:
    """Random walk with drift: the line from the first to the last value, σ√(h(1 + h/(T−1)))."""
    first = int(np.flatnonzero(~np.isnan(history))[0])
    span = len(history) - 1 - first
    if span == 0:
        said.add("drift: one observed value only, so the naive forecast stands in for it.")
        return _naive(history, steps, season, said)
    slope = (history[-1] - history[first]) / span
    ahead = np.arange(1, steps + 1)
    return history[-1] + slope * ahead, _walk_sigma(history, slope) * np.sqrt(ahead * (1 + ahead / span))


def _normal(point: Floats, spread: Floats, levels: Floats) -> Floats:
    """Quantiles of normal distributions, (steps, K), from standard normal quantiles, (K,)."""
    found: Floats = point[:, None] + spread[:, None] * levels
    return found


def _walk_sigma(history: Floats, slope: float | None = None) -> float:
    """Standard deviation of one step of a random walk; a step over d-1 missing values counts as d steps.

    With a slope, that of the drift, one degree of freedom is its own.
    """
    where = np.flatnonzero(~np.isnan(history))
    if len(where) < 2:
        return 0.0
    width = np.diff(where)
    residual = (np.diff(history[where]) - (slope or 0.0) * width) / np.sqrt(width)
    return float(np.sqrt(np.sum(residual**2) / max(len(residual) - (slope is not None), 1)))


def _seasonal_naive(history: Floats, steps: int, season: int, said: set[str]) -> tuple[Floats, Floats]:
    """The last observed value of the same season, σ√k where it lies k seasons back."""
    total = len(history)
    pairs = history[season:] - history[:-season]
    pairs = pairs[~np.isnan(pairs)]
    if season == 1 or total < season or not len(pairs):
        if season > 1:
            said.add(
                f"seasonal naive: no two observed values one season ({season} steps) apart, "
                "so the naive forecast stands in for it."
            )
        return _naive(history, steps, season, said)
    sigma = np.sqrt(np.mean(pairs**2))
    point, back = np.empty(steps), np.empty(steps)
    for phase in range(min(season, steps)):
        here = np.arange(total + phase, total + steps, season)
        same = np.arange((total + phase) % season, total, season)
        same = same[~np.isnan(history[same])]
        if not len(same):
            said.add("seasonal naive: the last value stands in where a season was never observed.")
        source = int(same[-1]) if len(same) else total - 1
        point[here - total] = history[source]
        back[here - total] = np.maximum((here - source) / season, 1)
    return point, sigma * np.sqrt(back)


def _fitted(
    method: str,
    history: Floats,
    steps: int,
    season: int,
    quantiles: Floats,
    levels: Floats,
    said: set[str],
) -> Floats:
    """ETS or Theta on the interpolated end of the history, or drift or naive where it cannot be fitted."""
    first = int(np.flatnonzero(~np.isnan(history))[0])
    longest = max(LONGEST, 10 * season)
    if len(history) - first > longest:
        said.add(f"{method}: fitted on the last {longest} steps of each series.")
    values = _interpolated(history[max(first, len(history) - longest) :])
    if np.ptp(values) <= _RELATIVE_FLAT * np.abs(values).max():
        said.add(f"{method}: a constant history has nothing to fit, so the naive forecast stands in for it.")
        return np.full((steps, len(levels)), history[-1])
    fit = _ets if method == "ETS" else _theta
    try:
        # statsmodels turns its convergence warnings back on when imported, so import before silencing.
        from statsmodels.tsa.exponential_smoothing import ets  # noqa: F401
        from statsmodels.tsa.forecasting import theta  # noqa: F401

        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found: Floats | None = fit(values, steps, season, quantiles, levels)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError, IndexError) as error:
        found, why = None, f" ({type(error).__name__})"
    else:
        why = ""
    if found is None or not np.isfinite(found).all() or _absurd(found, values):
        said.add(f"{method}: could not be fitted{why} to every history, so drift stands in for it there.")
        point, spread = _drift(history, steps, season, said)
        return _normal(point, spread, levels)
    return np.maximum.accumulate(found, axis=1)


def _absurd(found: Floats, values: Floats) -> bool:
    """Whether the median leaves the history by over a hundred times its range: a fit that diverged."""
    middle = found[:, found.shape[1] // 2]
    return bool(np.abs(middle - values[-1]).max() > 100 * np.ptp(values))


def _interpolated(values: Floats) -> Floats:
    known = ~np.isnan(values)
    where = np.arange(len(values))
    return np.interp(where, where[known], values[known])


def _seasonal_test(values: Floats, season: int) -> bool:
    """Whether the autocorrelation at one season is significant at 90 %, as the M4's Theta asks."""
    if season < 2 or len(values) < 2 * season + 1:
        return False
    centred = values - values.mean()
    lags = np.array([centred[lag:] @ centred[: len(values) - lag] for lag in range(season + 1)])
    lags /= lags[0]
    return bool(abs(lags[season]) > _LIKELY * np.sqrt((1 + 2 * np.sum(lags[1:season] ** 2)) / len(values)))


def _adjusted(values: Floats, season: int, steps: int) -> tuple[Floats, Floats, Floats]:
    """Classical decomposition: the series without its season, and how to put it back.

    Returns (T,) adjusted values, (steps,) factors and (steps,) summands of the steps ahead. Factors where the
    values are positive and a multiplicative season leaves the smaller remainder, summands otherwise.
    """
    trend = np.convolve(values, _centred_average(season), mode="valid")
    skip = (len(values) - len(trend)) // 2
    inner = values[skip : skip + len(trend)]
    phase = np.arange(len(values)) % season
    ahead = (len(values) + np.arange(steps)) % season
    inner_phase = phase[skip : skip + len(trend)]
    summand = _by_phase(inner - trend, inner_phase, season)
    summand -= summand.mean()
    if values.min() > 0:
        factor = _by_phase(inner / trend, inner_phase, season)
        factor /= factor.mean()
        left = inner - trend - summand[inner_phase]
        if np.sum((inner - trend * factor[inner_phase]) ** 2) < np.sum(left**2):
            return values / factor[phase], factor[ahead], np.zeros(steps)
    return values - summand[phase], np.ones(steps), summand[ahead]


def _centred_average(season: int) -> Floats:
    """Weights of the moving average over one season, 2×m where m is even."""
    if season % 2:
        return np.full(season, 1 / season)
    weights = np.full(season + 1, 1 / season)
    weights[[0, -1]] /= 2
    return weights


def _by_phase(values: Floats, phase: NDArray[np.int64], season: int) -> Floats:
    return np.bincount(phase, values, season) / np.maximum(np.bincount(phase, minlength=season), 1)


def _theta(
    values: Floats,
    steps: int,
    season: int,
    quantiles: Floats,
    levels: Floats,
) -> Floats | None:
    """The Theta method, θ = 2: exponential smoothing with half the slope of the trend line as drift.

    Assimakopoulos & Nikolopoulos (2000); intervals of the equivalent state space model, σ√(1 + (h−1)α²), from
    Hyndman & Billah (2003), on the seasonally adjusted series.
    """
    from statsmodels.tsa.forecasting.theta import ThetaModel

    if len(values) < 4:
        return None
    factor, summand = np.ones(steps), np.zeros(steps)
    if _seasonal_test(values, season):
        values, factor, summand = _adjusted(values, season, steps)
    result = ThetaModel(values, period=1, deseasonalize=False).fit(disp=False)
    slope, alpha = (float(value) for value in np.asarray(result.params))
    alpha = min(max(alpha, 1e-6), 1.0)
    point = np.asarray(result.forecast(steps), dtype=np.float64)
    seen = np.arange(len(values) - 1) + 1
    drift = slope / 2 * (1 - (1 - alpha) ** seen) / alpha
    residual = values[1:] - _smoothed(values, alpha)[:-1] - drift
    sigma = np.sqrt(np.sum(residual**2) / max(len(residual) - 2, 1))
    spread = sigma * np.sqrt(1 + np.arange(steps) * alpha**2)
    found = _normal(point, spread, levels)
    return found * factor[:, None] + summand[:, None]


def _smoothed(values: Floats, alpha: float) -> Floats:
    """Levels of simple exponential smoothing that starts at the first value, (T,)."""
    level, levels = values[0], np.empty_like(values)
    for step, value in enumerate(values):
        level += alpha * (value - level)
        levels[step] = level
    return levels


def _ets(
    values: Floats,
    steps: int,
    season: int,
    quantiles: Floats,
    levels: Floats,
) -> Floats | None:
    """Exponential smoothing state space model of the smallest AICc (Hyndman, Koehler, Ord & Snyder 2008).

    The candidates are compared from heuristic initial states, and only the best is fitted once more with its
    initial states estimated, the likelier of both being kept: a fraction of the full search's price. Seasons
    longer than `ETS_SEASON` are taken out beforehand by classical decomposition, as R's `stlf` does with STL.
    Intervals come from simulated futures, the same draws each time.
    """
    factor, summand = np.ones(steps), np.zeros(steps)
    seasonal = season > 1 and len(values) >= max(2 * season, 10 + 2 * (season // 2))
    if season > ETS_SEASON and seasonal:
        if _seasonal_test(values, season):
            values, factor, summand = _adjusted(values, season, steps)
        seasonal = False
    if len(values) < 10:
        return None
    forms = _forms(bool(values.min() > 0), seasonal)
    quick = min((_tried(values, form, season, "heuristic") for form in forms), key=lambda one: one[0])
    if not np.isfinite(quick[0]):
        return None
    # With many seasonal states the longer search may end, cut short, at a worse fit than it set out from.
    full = _tried(values, quick[1], season, "estimated")
    _, form, model, params = min(quick, full, key=lambda one: one[0])
    best = model.smooth(params)
    point = np.asarray(best.forecast(steps), dtype=np.float64)
    sigma = np.sqrt(np.sum(np.asarray(best.resid) ** 2) / max(len(values) - _freedom(form, season), 1))
    half = np.random.default_rng(0).standard_normal((steps, _PATHS // 2))
    paths = best.simulate(
        steps, anchor="end", repetitions=_PATHS, random_errors=sigma * np.concatenate([half, -half], axis=1)
    )
    found: Floats = np.quantile(np.asarray(paths), quantiles, axis=1).T
    found[:, quantiles == 0.5] = point[:, None]
    low, high = quantiles < 0.5, quantiles > 0.5
    found[:, low] = np.minimum(found[:, low], point[:, None])
    found[:, high] = np.maximum(found[:, high], point[:, None])
    return found * factor[:, None] + summand[:, None]


def _forms(positive: bool, seasonal: bool) -> list[_Form]:
    """(error, trend, damped, season) of the candidates, "" for none.

    Multiplicative trends are left out as unsafe far ahead, and additive errors with a multiplicative season
    as numerically unstable, both as in R's forecast package.
    """
    pairs = [("add", "add" if seasonal else "")]
    if positive:
        pairs += [("mul", "add"), ("mul", "mul")] if seasonal else [("mul", "")]
    return [(error, trend, damped, kind) for error, kind in pairs for trend, damped in _TRENDS]


def _freedom(form: _Form, season: int) -> int:
    """Parameters of a candidate: smoothing constants, initial states and the variance."""
    _, trend, damped, kind = form
    return 3 + 2 * bool(trend) + damped + (1 + season) * bool(kind)


def _tried(values: Floats, form: _Form, season: int, start: str) -> tuple[float, _Form, Any, Any]:
    """One candidate fitted: AICc (inf where the history is too short), form, model, parameters."""
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    count, spare = _freedom(form, season), len(values) - _freedom(form, season) - 1
    if spare <= 0:
        return np.inf, form, None, None
    error, trend, damped, kind = form
    model = ETSModel(
        values,
        error=error,
        trend=trend or None,
        damped_trend=damped,
        seasonal=kind or None,
        seasonal_periods=season if kind else None,
        initialization_method=start,
    )
    # The parameters alone: a result object would compute their covariance, which costs as much as the fit.
    params = model.fit(disp=False, maxiter=_ITERATIONS, return_params=True)
    score = float(2 * count - 2 * model.loglike(params) + 2 * count * (count + 1) / spare)
    return (score if np.isfinite(score) else np.inf), form, model, params
