"""Rolling-origin backtests: forecasts that past origins would have made, beside what then happened.

Tashman (2000, "Out-of-sample tests of forecasting accuracy") is the source: a single origin swings by
chance, so the origin rolls over the last part of the history. The model is fitted on what lies before the
first origin. On short histories it follows as the origin rolls (Forecaster.follow); on long ones it stays
as it is. Baselines are fitted anew at every origin.

Axes: S series, W evaluated windows (pairs of series and origin), Q horizon, K quantiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recurra.data.table import Panel
from recurra.errors import ArgumentError, DataError
from recurra.tasks.baselines import METHODS, forecast
from recurra.tasks.forecast import Forecaster
from recurra.tasks.results import Backtest

MOST_ORIGINS, MOST_WINDOWS = 40, 240
"""At most so many origins, and so many windows over all series: each costs a fit of every baseline."""

Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Origins:
    """``offsets`` (O,): how many steps before the end of each series the origins lie, earliest first."""

    offsets: tuple[int, ...]

    @property
    def span(self) -> int:
        """Steps at the end of each series that are held back from the first fit."""
        return self.offsets[0]


def choose_origins(panel: Panel, horizon: int, span: int | None = None, stride: int | None = None) -> Origins:
    """Where the origins lie: from ``span`` steps before the end, every ``stride`` steps.

    By default the span is four horizons or a fifth of the history, whichever is longer, at most a third of
    it. Raises ArgumentError for a span that holds no horizon, DataError for a history too short for any
    backtest.
    """
    length = int(np.median([len(series.target) for series in panel.series]))
    longest = max(len(series.target) for series in panel.series)
    if span is None:
        span = max(min(max(4 * horizon, length // 5), length // 3), horizon)
    if span < horizon:
        raise ArgumentError(
            f"backtest must span at least one horizon ({horizon} steps), but {span} was given"
        )
    if span + horizon + 4 > longest:
        raise DataError(
            f"a backtest over the last {span} steps with horizon {horizon} needs a history of at least "
            f"{span + horizon + 4} steps, but the longest series has {longest}: "
            "shorten the horizon or the backtest"
        )
    most = max(3, min(MOST_ORIGINS, MOST_WINDOWS // len(panel.series)))
    if stride is None:
        stride = max(1, -(-(span - horizon) // max(most - 1, 1)))
    if stride < 1:
        raise ArgumentError(f"stride must be at least 1 step, but {stride} was given")
    return Origins(tuple(range(span, horizon - 1, -stride)))


def before(panel: Panel, offset: int) -> Panel:
    """``panel`` without the last ``offset`` steps of each series; series with nothing left lose all but
    one step.
    """
    return panel.until([max(len(series.target) - offset, 1) for series in panel.series])


def backtest(
    forecaster: Forecaster,
    panel: Panel,
    origins: Origins,
    *,
    baselines: Sequence[str] = METHODS,
    name: str = "LSTM",
    said: set[str] | None = None,
    log: Log | None = None,
    **fit: Any,
) -> Backtest:
    """Fit ``forecaster`` on what lies before the first origin, then roll.

    ``said`` takes what the baselines did otherwise than asked; ``fit`` goes to :meth:`Forecaster.fit`.
    Raises DataError where too little lies before the first origin, or nothing was observed after any.
    """
    started = time.perf_counter()
    usable = [s.name for s in before(panel, origins.span).series if np.sum(~np.isnan(s.target)) > 1]
    if not usable:
        raise DataError(
            f"no series has two observed values before the backtest's first origin, {origins.span} steps "
            "before the end: shorten the horizon or the backtest"
        )
    forecaster.fit(before(panel.select(usable), origins.span), log=log, **fit)
    return roll(
        forecaster,
        panel,
        origins,
        baselines=baselines,
        name=name,
        said=said,
        log=log,
        spent=time.perf_counter() - started,
        follow=forecaster.plan.follow,
    )


def roll(
    forecaster: Forecaster,
    panel: Panel,
    origins: Origins | None = None,
    *,
    baselines: Sequence[str] = METHODS,
    name: str = "LSTM",
    said: set[str] | None = None,
    log: Log | None = None,
    spent: float = 0.0,
    follow: bool = False,
) -> Backtest:
    """Let a fitted forecaster and the baselines forecast from every origin.

    ``spent``: seconds that the fit took. ``follow``: take in the newer values from origin to origin.
    """
    horizon, season = forecaster.horizon, forecaster.plan.seasons[0]
    origins = origins or choose_origins(panel, horizon)
    windows = _windows(panel, origins, horizon)
    if not len(windows):
        raise DataError("no origin of the backtest has a history before it and an observed value after it")
    results: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    own = np.empty((len(windows), horizon, len(forecaster.quantiles)))
    if follow:
        for done, offset in enumerate(origins.offsets):
            known = before(panel, offset)
            if done:
                forecaster.follow(known)
            rows = windows[:, 2] == offset
            if rows.any():
                own[rows] = forecaster.quantiles_at(known, windows[rows, :2])
            if log is not None:
                log({"stage": "backtest", "method": name, "done": done + 1, "of": len(origins.offsets)})
    else:
        own[:] = forecaster.quantiles_at(panel, windows[:, :2])
    results[name], seconds[name] = own, spent + time.perf_counter() - started
    for method in baselines:
        started = time.perf_counter()
        found = np.empty_like(own)
        for row, (index, origin, _) in enumerate(windows.tolist()):
            history = panel.series[index].target[:origin]
            found[row] = forecast(method, history, horizon, season, forecaster.quantiles, said)
            if log is not None:
                log({"stage": "backtest", "method": method, "done": row + 1, "of": len(windows)})
        results[method], seconds[method] = found, time.perf_counter() - started
    ahead = windows[:, 1:2] + np.arange(horizon)
    return Backtest(
        horizon=horizon,
        season=season,
        quantiles=forecaster.quantiles,
        names=tuple(series.name for series in panel.series),
        series=windows[:, 0],
        origin=windows[:, 1],
        stamps=np.stack(
            [panel.series[i].stamps[steps] for i, steps in zip(windows[:, 0], ahead, strict=True)]
        ),
        actual=np.stack(
            [panel.series[i].target[steps] for i, steps in zip(windows[:, 0], ahead, strict=True)]
        ),
        scale=_scales(panel, origins.span, season)[windows[:, 0]],
        forecasts=results,
        seconds=seconds,
    )


def _windows(panel: Panel, origins: Origins, horizon: int) -> np.ndarray:
    """(W, 3): series, origin and offset of every window with two values before and one within its horizon."""
    rows = []
    for offset in origins.offsets:
        for index, series in enumerate(panel.series):
            origin = len(series.target) - offset
            if origin < 2 or np.sum(~np.isnan(series.target[:origin])) < 2:
                continue
            if np.all(np.isnan(series.target[origin : origin + horizon])):
                continue
            rows.append((index, origin, offset))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _scales(panel: Panel, span: int, season: int) -> np.ndarray:
    """Mean absolute error of the seasonal naive forecast before the first origin: (S,), NaN where unknown."""
    scales = np.full(len(panel.series), np.nan)
    for index, series in enumerate(panel.series):
        history = series.target[: max(len(series.target) - span, 0)]
        steps = np.abs(history[season:] - history[:-season])
        steps = steps[~np.isnan(steps)]
        if len(steps):
            scales[index] = steps.mean()
    return scales
