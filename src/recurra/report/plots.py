"""The report's figures, as plain dicts that plotly.js draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from recurra.data.table import Panel
from recurra.report.style import (
    Figure,
    beyond,
    figure,
    instants,
    kind,
    label,
    light,
    rounded,
    stamp_words,
    strokes,
    thinned,
)
from recurra.tasks.results import Backtest, Forecast
from recurra.tasks.scores import by_horizon

Row = Mapping[str, float]

_BANDS = ((0.95, "band95"), (0.8, "band80"), (0.5, "band50"))
_DRAWN = 60_000  # steps of history drawn on the whole page
_DOTS = 4000  # residuals drawn one by one


def fan(panel: Panel, forecast: Forecast, index: int, budget: int) -> Figure:
    """History and forecast of the series at `index` of the forecast, with its three central intervals.

    The script fills the first traces, shades and median, from the figure's only frame.
    """
    series = next(one for one in panel.series if one.name == forecast.series[index])
    kept = thinned(np.asarray(series.target), budget)
    past_x, past_y = instants(series.stamps[kept]), rounded(np.asarray(series.target)[kept])
    x, values = instants(forecast.stamps[index]), np.asarray(forecast.values[index], dtype=np.float64)
    if np.isfinite(series.target[-1]):  # the fan opens at the last observed value
        x = [instants(series.stamps[-1:])[0], *x]
        values = np.concatenate([np.full((1, values.shape[1]), series.target[-1]), values])
    traces = [
        *_moving(forecast.quantiles, len(x)),
        go.Scatter(
            x=past_x,
            y=past_y,
            name="observed",
            legendrank=1,
            mode="lines+markers" if len(kept) <= 60 else "lines",
            marker={"size": 4},
            line={"color": light("ink"), "width": 1.75},
            hovertemplate="%{y:,.5~r}<extra>observed</extra>",
        ),
    ]
    horizon, total = forecast.values.shape[1], len(series.target)
    view = max(5 * horizon, 3 * panel.frequency.season, 96)
    axis: dict[str, Any] = {"type": kind(series.stamps)}
    first = max(total - view, 0)
    end = beyond(forecast.stamps[index], 0.02 * (min(view, total) + horizon))
    if first:
        axis["range"] = [instants(series.stamps[first : first + 1])[0], end]
        axis["rangeslider"] = {
            "visible": True,
            "thickness": 0.09,
            "range": [past_x[0], end],
            "yaxis": {"rangemode": "auto"},
            "bgcolor": "rgba(0,0,0,0)",
            "bordercolor": light("grid"),
            "borderwidth": 1,
        }
    drawn = figure(traces, xaxis=axis, hovermode="x unified", yaxis={"title": {"text": label(series.name)}})
    return drawn | {"frames": [_frame(x, values, forecast.quantiles)]}


def origins(panel: Panel, backtest: Backtest, index: int, most: int, budget: int) -> Figure:
    """The backtest of one series: what happened, every forecast faintly, one at a time with its intervals.

    One frame for each of at most `most` origins; the script fills the first traces from the one chosen.
    """
    rows = np.flatnonzero(backtest.series == index)
    rows = rows[np.argsort(backtest.origin[rows], kind="stable")]
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int))]
    series = next(one for one in panel.series if one.name == backtest.names[index])
    values, middle = backtest.forecasts[backtest.model], backtest.quantiles.index(0.5)
    start = max(int(backtest.origin[rows[0]]) - max(2 * backtest.horizon, 2 * backtest.season, 24), 0)
    stop = min(int(backtest.origin[rows[-1]]) + backtest.horizon, len(series.target))
    kept = start + thinned(np.asarray(series.target[start:stop]), budget)
    every_x: list[Any] = []
    every_y: list[Any] = []
    for row in rows:
        every_x += [*instants(backtest.stamps[row]), None]
        every_y += [*rounded(values[row][:, middle]), None]
    frames = [
        _frame(instants(backtest.stamps[row]), np.asarray(values[row], dtype=np.float64), backtest.quantiles)
        | {"words": stamp_words(backtest.stamps[row][0], panel.frequency)}
        for row in rows
    ]
    traces = [
        *_moving(backtest.quantiles, backtest.horizon),
        go.Scatter(
            x=every_x,
            y=every_y,
            name="other origins",
            legendrank=5,
            mode="lines",
            line={"color": light("faint"), "width": 1},
            hoverinfo="skip",
        ),
        go.Scatter(
            x=instants(series.stamps[kept]),
            y=rounded(np.asarray(series.target)[kept]),
            name="observed",
            legendrank=1,
            mode="lines",
            line={"color": light("ink"), "width": 1.75},
            hovertemplate="%{y:,.5~r}<extra>observed</extra>",
        ),
    ]
    drawn = figure(
        traces,
        xaxis={"type": kind(series.stamps)},
        yaxis={"title": {"text": label(series.name)}},
        hovermode="x unified",
    )
    return drawn | {"frames": frames}


def horizon_error(backtest: Backtest, metric: str) -> Figure:
    """The error of each method at each step ahead."""
    styles = strokes(list(backtest.forecasts))
    steps = list(range(1, backtest.horizon + 1))
    traces = [
        go.Scatter(
            x=steps,
            y=rounded(values),
            name=label(method),
            mode="lines+markers" if backtest.horizon <= 48 else "lines",
            line=styles[method],
            marker={"size": 6 if method == backtest.model else 4, "color": styles[method]["color"]},
            hovertemplate=f"%{{y:.4~r}}<extra>{label(method)}</extra>",
        )
        for method, values in reversed(by_horizon(backtest, metric).items())
    ]
    return figure(
        traces,
        xaxis={"title": {"text": "steps ahead"}, "dtick": 1 if backtest.horizon <= 14 else None},
        yaxis={"title": {"text": metric}, "rangemode": "tozero"},
        legend={"traceorder": "reversed"},
        hovermode="x unified",
    )


def residuals_over_time(
    stamps: NDArray[Any], errors: NDArray[np.float64], ahead: NDArray[np.int64]
) -> Figure:
    """Residuals, (P,) each, at the stamp they fell on; those one step ahead are drawn stronger."""
    rest, first = np.flatnonzero(ahead > 1), np.flatnonzero(ahead == 1)
    traces = []
    for where, name, color, size in (
        (rest, "further ahead", light("faint"), 4),
        (first, "one step ahead", light("model"), 6),
    ):
        where = where[np.unique(np.linspace(0, len(where) - 1, min(len(where), _DOTS)).astype(int))]
        traces.append(
            go.Scatter(
                x=instants(stamps[where]),
                y=rounded(errors[where]),
                name=name,
                mode="markers",
                marker={"color": color, "size": size},
                hovertemplate="%{x}: %{y:.4~r}<extra></extra>",
            )
        )
    return figure(
        traces,
        xaxis={"type": kind(stamps)},
        yaxis={"zeroline": True, "zerolinecolor": light("quiet")},
        hovermode="closest",
    )


def residual_histogram(errors: NDArray[np.float64]) -> Figure:
    """How often residuals of each size occur."""
    low, high = np.quantile(errors, [0.005, 0.995])
    inside = errors[(errors >= low) & (errors <= high)]
    count, edges = np.histogram(inside, bins=min(max(int(np.sqrt(len(inside))), 5), 40))
    bars = go.Bar(
        x=rounded((edges[1:] + edges[:-1]) / 2),
        y=count.tolist(),
        width=rounded(np.diff(edges)),
        marker={"color": light("model"), "line": {"color": light("paper"), "width": 1}},
        hovertemplate="%{y} residuals about %{x:.4~r}<extra></extra>",
    )
    return figure(
        [bars], xaxis={"zeroline": True, "zerolinecolor": light("quiet")}, yaxis={"title": {"text": "count"}}
    )


def autocorrelation(lags: NDArray[np.float64], bound: float) -> Figure:
    """Autocorrelation of one-step residuals from lag 1 on; `bound`: where it differs from none at 95 %."""
    where = list(range(1, len(lags) + 1))
    bars = go.Bar(
        x=where,
        y=rounded(lags),
        width=0.45,
        marker={"color": light("model")},
        hovertemplate="lag %{x}: %{y:.2f}<extra></extra>",
    )
    limit = {"type": "line", "xref": "paper", "x0": 0, "x1": 1}
    line = {"color": light("second"), "width": 1.25, "dash": "dash"}
    shapes = [{**limit, "y0": sign * bound, "y1": sign * bound, "line": line} for sign in (-1, 1)]
    top = max(1.1 * bound, 1.1 * float(np.abs(lags).max()), 0.5)
    return figure(
        [bars],
        shapes=shapes,
        xaxis={"title": {"text": "lag, in origins"}, "dtick": 1 if len(where) <= 14 else None},
        yaxis={"range": [-min(top, 1.05), min(top, 1.05)], "zeroline": True, "zerolinecolor": light("quiet")},
    )


def coverage(scores: Mapping[str, Mapping[str, float]]) -> Figure:
    """For each method, the share of what happened inside its 50, 80 and 95 % intervals."""
    methods, model = list(scores)[::-1], next(iter(scores))
    shapes, traces = [], []
    for share, symbol, role in ((50, "diamond", "fourth"), (80, "circle", "model"), (95, "square", "second")):
        reached = [100 * scores[method][f"coverage_{share}"] for method in methods]
        known = [at for at, value in enumerate(reached) if np.isfinite(value)]
        traces.append(
            go.Scatter(
                x=[round(reached[at], 1) for at in known],
                y=[label(methods[at], 24) for at in known],
                name=f"{share} %",
                mode="markers",
                marker={
                    "symbol": symbol,
                    "color": light(role),
                    "opacity": 1,
                    "size": [13 if methods[at] == model else 9 for at in known],
                    "line": {"color": light("paper"), "width": 1},
                },
                hovertemplate=f"%{{y}}: {share} % interval holds %{{x}} %<extra></extra>",
            )
        )
        shapes.append(
            {
                "type": "line",
                "x0": share,
                "x1": share,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "layer": "below",
                "line": {"color": light(role), "width": 1.25, "dash": "dot"},
            }
        )
    return figure(
        traces,
        shapes=shapes,
        xaxis={"range": [-2, 103], "ticksuffix": " %", "tickvals": [0, 25, 50, 80, 95], "showgrid": False},
        yaxis={
            "showgrid": True,
            "categoryorder": "array",
            "categoryarray": [label(name, 24) for name in methods],
        },
        hovermode="closest",
    )


def training(fits: Mapping[str, Sequence[Row]]) -> Figure:
    """Loss of each epoch, of each fit; one colour for training, one for validation."""
    traces, values = [], []
    alone = len(fits) == 1
    for number, (name, rows) in enumerate(fits.items()):
        for key, words, role, dash in (
            ("train_loss", "training", "model", "solid"),
            ("valid_loss", "validation", "second", "dash"),
        ):
            have = [
                (row["epoch"], row[key]) for row in rows if row.get(key) is not None and np.isfinite(row[key])
            ]
            if not have:
                continue
            values += [loss for _, loss in have]
            traces.append(
                go.Scatter(
                    x=[epoch for epoch, _ in have],
                    y=rounded(np.array([loss for _, loss in have])),
                    name=words,
                    legendgroup=words,
                    showlegend=number == 0,
                    mode="lines" if len(have) > 1 else "markers",
                    opacity=1 if alone else 0.55,
                    line={"color": light(role), "width": 2 if alone else 1.25, "dash": dash},
                    hovertemplate=f"%{{y:.4~r}}<extra>{words}{'' if alone else ', ' + label(name)}</extra>",
                )
            )
    steep = bool(values) and min(values) > 0 and max(values) > 20 * min(values)
    return figure(
        traces,
        xaxis={"title": {"text": "epoch"}},
        yaxis={"title": {"text": "loss"}, "type": "log" if steep else "linear"},
        hovermode="x unified" if alone else "closest",
    )


def share(series: int) -> int:
    """How many steps of history each of so many series may draw."""
    return int(np.clip(_DRAWN // max(series, 1), 600, 8000))


def _spans(quantiles: Sequence[float]) -> list[tuple[float, str, int, int]]:
    """Size and colour of each central interval that there is, widest first, and where its bounds stand."""
    found = []
    for size, role in _BANDS:
        low = np.flatnonzero(np.isclose(quantiles, (1 - size) / 2))
        high = np.flatnonzero(np.isclose(quantiles, (1 + size) / 2))
        if len(low) and len(high):
            found.append((size, role, int(low[0]), int(high[0])))
    return found


def _frame(x: list[Any], values: NDArray[np.float64], quantiles: Sequence[float]) -> Figure:
    """One forecast: x, its median, and size, lower and upper bounds of each interval."""
    middle = int(np.flatnonzero(np.isclose(quantiles, 0.5))[0])
    bands = [
        [round(100 * size), rounded(values[:, low]), rounded(values[:, high])]
        for size, _, low, high in _spans(quantiles)
    ]
    return {"x": x, "median": rounded(values[:, middle]), "bands": bands}


def _moving(quantiles: Sequence[float], steps: int) -> list[go.Scatter]:
    """The traces that a frame fills: the outline of each interval, widest first, then the median."""
    shades = [
        go.Scatter(
            name=f"{100 * size:.0f} %",
            legendrank=3 + size,
            mode="lines",
            fill="toself",
            fillcolor=light(role),
            line={"width": 0, "color": light(role)},
            hoverinfo="skip",
        )
        for size, role, _, _ in _spans(quantiles)
    ]
    median = go.Scatter(
        name="forecast",
        legendrank=2,
        mode="lines+markers" if steps <= 40 else "lines",
        marker={"size": 5},
        line={"color": light("model"), "width": 2.5},
        hovertemplate="%{y:,.5~r}%{text}<extra>forecast</extra>",
    )
    return [*shades, median]
