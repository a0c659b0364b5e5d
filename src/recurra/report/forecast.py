"""The report of a forecast: what it is worth first, then what it is, then how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.data.table import Panel
from recurra.report import plots
from recurra.report.page import assets, environment
from recurra.report.plots import Row
from recurra.report.style import Figure, amount, stamp_words
from recurra.tasks.results import Backtest, Forecast
from recurra.tasks.scores import LEVEL, METRICS, by_series, counts, loses, winner

Scores = Mapping[str, Mapping[str, float]]

SERIES = 50
"""At most so many series are drawn."""

ORIGINS = 60
"""At most so many origins of one series are drawn."""

_LISTED = 10  # series in the table of the worst
_ROWS = 60  # steps in the table of the forecast
_LAGS = 24
_FRAMES = 36_000  # steps of past forecasts on the whole page
_FEWEST = 8  # residuals below which an autocorrelation says nothing
_PERCENT = ("sMAPE", "MAPE", "coverage_50", "coverage_80", "coverage_95")


def render(
    *,
    title: str,
    panel: Panel,
    forecast: Forecast,
    backtest: Backtest | None,
    scores: Scores | None,
    history: Sequence[Row] | Mapping[str, Sequence[Row]],
    settings: Mapping[str, str],
    notes: Sequence[str],
    verdict: str,
    command: str,
) -> str:
    """The whole page as HTML text: it loads nothing from anywhere.

    title: the page's heading. panel: the data forecast from. forecast: of all or some of its series.
    backtest, scores: what `tasks.scores.scores` says of the first; both None where none was run.
    history: one row for each epoch with `epoch`, `train_loss` and, where known, `valid_loss`; a dict of
    such lists where several networks were fitted. settings: the model's, in words. notes: what was done to
    the data, one sentence each. verdict: the headline. command: what to type to get the same again.
    """
    fits = dict(history) if isinstance(history, Mapping) else {"fit": history}
    fits = {name: rows for name, rows in fits.items() if len(rows)}
    tested = backtest if backtest is not None and len(backtest.actual) and scores else None
    table = scores or {}
    drawn = forecast.series[:SERIES]
    figures: dict[str, Any] = {"fan": _fans(panel, forecast, len(drawn))}
    if tested:
        figures |= _tested(panel, tested, table, drawn)
    if fits:
        figures["training"] = plots.training(fits)
    return (
        environment()
        .get_template("forecast.html.j2")
        .render(
            task="forecast",
            title=title,
            verdict=verdict.replace(" %", "\u00a0%"),
            state=_state(table if tested else {}),
            facts=_facts(panel, forecast),
            cards=_cards(tested, table),
            drawn=drawn,
            left_out=len(forecast.series) - len(drawn),
            horizon=forecast.values.shape[1],
            thinned=_thinned(panel, len(drawn)),
            alternative=_alternative(panel, forecast),
            steps=_steps(panel, forecast) if len(forecast.series) == 1 else None,
            backtest=_said(panel, tested, table, len(drawn)) if tested else None,
            table=_table(tested, table) if tested else None,
            worst=_worst(tested, table) if tested else None,
            epochs=sum(len(rows) for rows in fits.values()),
            fits=len(fits),
            present=sorted(figures),
            settings=settings,
            notes=notes,
            command=command,
            **assets(figures),
        )
    )


def _fans(panel: Panel, forecast: Forecast, count: int) -> list[Figure]:
    return [plots.fan(panel, forecast, index, plots.share(count)) for index in range(count)]


def _tested(panel: Panel, backtest: Backtest, scores: Scores, drawn: Sequence[str]) -> dict[str, Any]:
    """The figures that rest on the backtest."""
    places = {name: index for index, name in enumerate(backtest.names)}
    have = set(backtest.series.tolist())
    most = _origins(len(drawn), backtest.horizon)
    figures: dict[str, Any] = {
        "origins": [
            plots.origins(panel, backtest, places[name], most, plots.share(len(drawn)) // 2)
            if places.get(name) in have
            else None
            for name in drawn
        ],
        "horizon": plots.horizon_error(backtest, _metric(scores)),
        "coverage": plots.coverage(scores),
    }
    errors, stamps, ahead = _residuals(backtest)
    if len(errors):
        figures["residuals"] = plots.residuals_over_time(stamps, errors, ahead)
        figures["histogram"] = plots.residual_histogram(errors)
    lags, bound = _autocorrelation(backtest)
    if len(lags):
        figures["autocorrelation"] = plots.autocorrelation(lags, bound)
    return figures


def _origins(series: int, horizon: int) -> int:
    """How many origins of each of so many series are drawn: few enough for a page that loads fast."""
    return int(np.clip(_FRAMES // (max(series, 1) * horizon), 3, ORIGINS))


def _metric(scores: Scores) -> str:
    """MASE, or MAE where MASE is not defined."""
    model = next(iter(scores))
    return "MASE" if np.isfinite(scores[model]["MASE"]) else "MAE"


def _scaled(backtest: Backtest) -> bool:
    """Whether residuals of several series are made comparable by each one's scale."""
    return len(set(backtest.series.tolist())) > 1 and bool((backtest.scale > 0).any())


def _errors(backtest: Backtest) -> NDArray[np.float64]:
    """What happened less the model's median, (W, Q); by the window's scale where there are several series."""
    middle = int(np.flatnonzero(np.isclose(backtest.quantiles, 0.5))[0])
    errors: NDArray[np.float64] = backtest.actual - backtest.forecasts[backtest.model][:, :, middle]
    if _scaled(backtest):
        scale = np.where(backtest.scale > 0, backtest.scale, np.nan)
        errors = errors / scale[:, None]
    return errors


def _residuals(backtest: Backtest) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.int64]]:
    """Observed residuals, the stamps they fell on and how many steps ahead they were, (P,) each."""
    errors = _errors(backtest)
    seen = np.isfinite(errors)
    ahead = np.broadcast_to(np.arange(1, backtest.horizon + 1), errors.shape)
    return errors[seen], backtest.stamps[seen], ahead[seen]


def _autocorrelation(backtest: Backtest) -> tuple[NDArray[np.float64], float]:
    """Of one-step residuals, from origin to origin, over series: lags 1 to L, and the 95 % bound of none."""
    first = _errors(backtest)[:, 0]
    first = first - (np.nanmean(first) if np.isfinite(first).any() else 0)
    lines = []
    for index in np.unique(backtest.series):
        rows = np.flatnonzero(backtest.series == index)
        rows = rows[np.argsort(backtest.origin[rows], kind="stable")]
        gaps = np.diff(backtest.origin[rows])
        if len(gaps) and (gaps == gaps[0]).all():
            lines.append(first[rows])
    known = sum(int(np.isfinite(line).sum()) for line in lines)
    longest = max((len(line) for line in lines), default=0)
    power = sum(float(np.nansum(line**2)) for line in lines)
    if longest < _FEWEST or known < _FEWEST or power <= 0:
        return np.empty(0), 0.0
    lags = [
        sum(float(np.nansum(line[lag:] * line[:-lag])) for line in lines if len(line) > lag)
        for lag in range(1, min(_LAGS, longest // 2) + 1)
    ]
    return np.array(lags) / power, 1.96 / np.sqrt(known)


def _state(scores: Scores) -> tuple[str, str]:
    """Kind of verdict, for colour, and the same in words."""
    if not scores:
        return "none", "Not tested"
    table = {method: dict(row) for method, row in scores.items()}
    model, *others = table
    metric = _metric(scores)
    if loses(table):
        return "loses", "Loses to a baseline"
    rivals = [table[name][metric] for name in others if np.isfinite(table[name][metric])]
    if not rivals or not np.isfinite(table[model][metric]):
        return "none", "Not compared"
    if table[model][metric] < min(rivals) * (1 - LEVEL):
        return "wins", "Beats every baseline"
    return "level", "Level with the best baseline"


def _facts(panel: Panel, forecast: Forecast) -> list[str]:
    """The data in a few words each."""
    lengths = [len(one.target) for one in panel.series]
    first = stamp_words(min(one.stamps[0] for one in panel.series), panel.frequency)
    last = stamp_words(max(one.stamps[-1] for one in panel.series), panel.frequency)
    count, steps = len(panel.series), forecast.values.shape[1]
    missing = sum(int(np.isnan(one.target).sum()) for one in panel.series)
    span = f"{min(lengths):,} to {max(lengths):,}" if min(lengths) != max(lengths) else f"{lengths[0]:,}"
    return [
        f"{count:,} series" if count > 1 else "one series",
        panel.frequency.label,
        f"{span} steps, {first} to {last}",
        f"{missing:,} missing" if missing else "none missing",
        f"{steps:,} {'step' if steps == 1 else 'steps'} ahead",
    ]


def _cards(backtest: Backtest | None, scores: Scores) -> list[tuple[str, str, str]]:
    """The key numbers: what, how much, beside what."""
    if backtest is None:
        return []
    model = backtest.model
    table = {method: dict(row) for method, row in scores.items()}
    cards = []
    for metric in (_metric(scores), "MAPE" if np.isfinite(table[model]["MAPE"]) else "sMAPE"):
        rivals = {name: row for name, row in table.items() if name != model}
        best = winner(rivals, metric)
        beside = f"best baseline, {best}: {_shown(metric, rivals[best][metric])}" if best else "no baseline"
        cards.append((metric, _shown(metric, table[model][metric]), beside))
    reached = table[model]["coverage_80"]
    if np.isfinite(reached):
        cards.append(
            (
                "80\u00a0% interval holds",
                _shown("coverage_80", reached),
                "of what happened; 80\u00a0% is exact",
            )
        )
    number = counts(backtest)
    many = len(set(backtest.series.tolist()))
    where = f"{many:,} series, " if many > 1 else ""
    cards.append(
        ("Forecasts compared", f"{number['windows']:,}", f"{where}{number['steps']:,} observed steps in all")
    )
    return cards


def _shown(metric: str, value: float) -> str:
    if not np.isfinite(value):
        return "–"
    if metric.startswith("coverage"):
        return f"{100 * value:.0f}\u00a0%"
    if metric in _PERCENT:
        return f"{amount(value, 3)}\u00a0%"
    return f"{value:.3f}" if metric in ("MASE", "wQL") and value < 100 else amount(value)


def _thinned(panel: Panel, drawn: int) -> str:
    """What of long histories is drawn, or nothing."""
    most = plots.share(drawn)
    longest = max(len(one.target) for one in panel.series)
    if longest <= most:
        return ""
    return (
        f"Of histories longer than {most:,} steps the last {most // 2:,} are drawn in full; "
        "of what lies before, the highest and lowest value of each stretch."
    )


def _alternative(panel: Panel, forecast: Forecast) -> str:
    """The first series' forecast in words, for those who do not see the plot."""
    middle = int(np.flatnonzero(np.isclose(forecast.quantiles, 0.5))[0])
    values = forecast.values[0]
    text = (
        f"Forecast of {forecast.series[0]}: median {amount(values[0, middle])} "
        f"at {stamp_words(forecast.stamps[0][0], panel.frequency)}"
    )
    if len(values) > 1:
        text += f", {amount(values[-1, middle])} at {stamp_words(forecast.stamps[0][-1], panel.frequency)}"
    return text + "."


def _steps(panel: Panel, forecast: Forecast) -> dict[str, Any]:
    """The forecast of the only series as a table."""
    at = {round(level, 4): place for place, level in enumerate(forecast.quantiles)}
    bounds = {size: (round(0.5 - size / 200, 4), round(0.5 + size / 200, 4)) for size in (50, 80, 95)}
    sizes = [size for size, pair in bounds.items() if set(pair) <= set(at)]
    rows = []
    for stamp, values in list(zip(forecast.stamps[0], forecast.values[0], strict=True))[:_ROWS]:
        spans = [" to ".join(amount(values[at[level]]) for level in bounds[size]) for size in sizes]
        rows.append((stamp_words(stamp, panel.frequency), [amount(values[at[0.5]]), *spans]))
    return {
        "columns": ["median", *(f"{size}\u00a0% interval" for size in sizes)],
        "rows": rows,
        "more": max(forecast.values.shape[1] - _ROWS, 0),
    }


def _said(panel: Panel, backtest: Backtest, scores: Scores, drawn: int) -> dict[str, Any]:
    """What the backtest's plots show, in words."""
    errors, _, _ = _residuals(backtest)
    number = counts(backtest)
    per_series = np.bincount(backtest.series.astype(int)).max()
    mean = float(errors.mean()) if len(errors) else 0.0
    unit = " such units" if _scaled(backtest) else ""
    lean = "too low" if mean > 0 else "too high"
    left = [f"{number['missing']:,} steps had no observed value"] if number["missing"] else []
    left += [f"{number['zeros']:,} observed zeros are left out of MAPE"] if number["zeros"] else []
    left += [f"{number['flat']:,} steps of flat histories are left out of MASE"] if number["flat"] else []
    reached = {share: scores[backtest.model][f"coverage_{share}"] for share in (50, 80, 95)}
    inside = ", ".join(
        f"{100 * value:.0f}\u00a0% in the {share}\u00a0% interval" for share, value in reached.items()
    )
    return {
        "model": backtest.model,
        "origins": int(per_series),
        "drawn": min(int(per_series), _origins(drawn, backtest.horizon)),
        "metric": _metric(scores),
        "bias": f"On average the forecasts are {lean} by {amount(abs(mean), 3)}{unit}."
        if len(errors) and mean
        else "",
        "scaled": _scaled(backtest),
        "rests": f"{number['windows']:,} forecasts, {number['steps']:,} observed steps",
        "left": "; ".join(left),
        "inside": inside if np.isfinite(list(reached.values())).all() else "",
        "frequency": panel.frequency.noun,
    }


def _table(backtest: Backtest, scores: Scores) -> dict[str, Any]:
    """The score table: text of each cell, and whether it is its column's best."""
    nominal = {"coverage_50": 0.5, "coverage_80": 0.8, "coverage_95": 0.95}
    columns = [metric for metric in METRICS if any(np.isfinite(row[metric]) for row in scores.values())]
    best = {}
    for metric in columns:
        distance = {
            name: abs(row[metric] - nominal[metric]) if metric in nominal else row[metric]
            for name, row in scores.items()
            if np.isfinite(row[metric])
        }
        best[metric] = {name for name, value in distance.items() if value <= min(distance.values()) + 1e-12}
    rows = [
        {
            "method": method,
            "model": method == backtest.model,
            "cells": [(_shown(metric, row[metric]), method in best[metric]) for metric in columns],
            "seconds": f"{backtest.seconds.get(method, float('nan')):,.1f} s"
            if method in backtest.seconds
            else "–",
        }
        for method, row in scores.items()
    ]
    heads = [f"{metric[9:]}\u00a0% interval" if metric in nominal else metric for metric in columns]
    return {"columns": heads, "rows": rows}


def _worst(backtest: Backtest, scores: Scores) -> dict[str, Any] | None:
    """Of several series, those the model does worst on, beside the best baseline."""
    metric = _metric(scores)
    each = by_series(backtest, metric)
    own = each[backtest.model]
    known = np.flatnonzero(np.isfinite(own))
    if len(known) < 2:
        return None
    rivals = {name: dict(row) for name, row in scores.items() if name != backtest.model}
    best = winner(rivals, metric)
    rows = [
        (backtest.names[at], amount(float(own[at]), 3), amount(float(each[best][at]), 3) if best else "–")
        for at in known[np.argsort(-own[known], kind="stable")][:_LISTED]
    ]
    ahead = int(np.sum(own[known] < each[best][known])) if best else 0
    return {"metric": metric, "best": best, "rows": rows, "ahead": ahead, "known": len(known)}
