"""Figures of memory: how many steps units remember, how often gates are shut or open, how far back it looks.

Times are spread over orders of magnitude, so they stand on a logarithmic axis, and units are counted: the
curve says which share of them has forgotten by then. Units whose time is infinite, or 0, cannot stand there;
the curve ends below 100 %, or begins above 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from recurra.errors import ArgumentError
from recurra.lens.figures_style import (
    DASHES,
    EDGE,
    LINES,
    QUIET,
    Numbers,
    checked,
    label,
    labels_on,
    logarithmic,
    module_name,
    panels,
    spread,
    titled,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from xarray import Dataset

STAGES = ("before", "after")


class Line(NamedTuple):
    """The units of one layer and direction, at one stage of training.

    values: (H, ...), NaN where a layer has no such unit. units: their labels.
    """

    name: str
    colour: str
    dash: str
    stage: str
    values: Numbers
    units: list[Any]


def plot_time_constants(
    found: Dataset, variable: str = "time_constant", *, title: str | None = None
) -> go.Figure:
    """How long units keep their state: which share of them no longer than so many steps.

    found: what `time_constants` returns, or `compare` of two of these: then before is dotted and after is
    solid. variable: "time_constant" or "geometric_time_constant". A curve for each layer and direction, a
    point for each unit. How many are infinite is said in the legend. Raises ArgumentError for what is not
    there.

    For example::

        plot_time_constants(compare(time_constants(trace(fresh, x)), time_constants(trace(trained, x))))
    """
    checked(found, "time_constant", "time_constants")
    _known(variable, ("time_constant", "geometric_time_constant"))
    figure = panels([320])
    _distribution(figure, list(_lines(found, variable)), 1)
    figure.update_xaxes(title_text="time constant, in steps")
    return titled(figure, title, f"{module_name(found)}: how long units remember", _stages(found))


def plot_half_life(found: Dataset, variable: str | None = None, *, title: str | None = None) -> go.Figure:
    """In how many steps a change is half gone from each unit; and beneath, how it fades.

    found: what `half_life` returns, or `compare` of two of these: then before is dotted and after is solid.
    variable: "cell" or "hidden"; None: the cell state where there is one. Above as in `plot_time_constants`;
    beneath the median over units of what is left after so many steps, and the middle half of them as a band.
    Raises ArgumentError for what is not there.

    For example::

        plot_half_life(half_life(layer, x), "hidden")
    """
    checked(found, "hidden_half_life", "half_life")
    known = [name for name in ("cell", "hidden") if f"{name}_half_life" in found]
    name = known[0] if variable is None else variable
    _known(name, known)
    titles = [f"half-life of the {name} state", "what is left of a change, relative to the most there was"]
    figure = panels([240, 180], titles, between=80)
    _distribution(figure, list(_lines(found, f"{name}_half_life")), 1)
    lags = labels_on(found, "lag")
    for line in _lines(found, f"{name}_fade", "lag"):
        values = line.values[~np.isnan(line.values).all(1)]  # (H, lags)
        if not len(values):
            continue
        low, middle, high = _quartiles(values)
        band = {"x": [*lags, *lags[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "line": {"width": 0}}
        if line.stage != "before":
            figure.add_scatter(
                **band, fillcolor=line.colour, opacity=0.14, hoverinfo="skip", showlegend=False, row=2, col=1
            )
        figure.add_scatter(
            x=lags,
            y=middle,
            name=line.name,
            legendgroup=line.name,
            showlegend=False,
            line={"color": line.colour, "dash": line.dash, "width": 2},
            hovertemplate="%{y:.3f} after %{x} steps",
            row=2,
            col=1,
        )
    figure.add_hline(y=0.5, line={"color": QUIET, "width": 1, "dash": "dot"}, row=2, col=1)
    figure.update_xaxes(title_text="steps", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="half-life, in steps", row=1, col=1)
    figure.update_yaxes(title_text="left", rangemode="tozero", row=2, col=1)
    return titled(figure, title, f"{module_name(found)}: how fast units forget", _stages(found))


def plot_saturation(found: Dataset, *, title: str | None = None) -> go.Figure:
    """How often each gate of each unit is shut, and how often open: a panel for each gate.

    found: what `saturation` returns, or `compare` of two of these: then before is hollow and after is full. A
    point for each unit, a cross where the unit is dead; a colour for each layer and direction. On the line
    from corner to corner a gate is never in between. Of a layer without such gates, as a plain RNN, the range
    of each unit's hidden state. After Karpathy, Johnson & Fei-Fei 2015, figure 3. Raises ArgumentError for
    another Dataset.

    For example::

        plot_saturation(saturation(trace(layer, x)))
    """
    checked(found, "hidden_range", "saturation")
    dead = [float(np.nansum(line.values)) for line in _lines(found, "dead")]
    limits = [found.attrs.get("low", 0.1), found.attrs.get("high", 0.9)]
    count = int(sum(dead[-_pairs(found) :]))
    facts = [f"{count} dead unit{'' if count == 1 else 's'}", *_stages(found)]
    gates = [str(name) for name, values in found.data_vars.items() if "end" in values.dims]
    if not gates:
        figure = panels([320])
        _distribution(figure, list(_lines(found, "hidden_range")), 1)
        figure.update_xaxes(type="linear", rangemode="tozero", tickmode="auto")
        figure.update_xaxes(title_text="range of the hidden state")
        return titled(figure, title, f"{module_name(found)}: units that move", facts)
    figure = panels([290], [label(name) for name in gates], columns=len(gates), horizontal_spacing=0.07)
    shown = set()
    for column, gate in enumerate(gates, start=1):
        deads = list(_lines(found, "dead")) if "projection" not in found["dead"].dims else []
        for place, line in enumerate(_lines(found, gate, "end")):
            gone = deads[place].values > 0 if deads else np.zeros(len(line.units), dtype=bool)
            symbol = np.where(gone, "x-thin-open", "circle-open" if line.stage == "before" else "circle")
            figure.add_scatter(
                x=line.values[:, 0],
                y=line.values[:, 1],
                mode="markers",
                name=line.name,
                legendgroup=line.name,
                showlegend=line.name not in shown,
                marker={"color": line.colour, "size": 7, "opacity": 0.6, "symbol": symbol},
                customdata=line.units,
                hovertemplate="unit %{customdata}: shut %{x:.0%}, open %{y:.0%} of the steps",
                row=1,
                col=column,
            )
            shown.add(line.name)
        figure.add_shape(
            type="line", x0=0, y0=1, x1=1, y1=0, line={"color": EDGE, "width": 1}, row=1, col=column
        )
    ends = {"range": [-0.06, 1.06], "tickformat": ".0%", "tickvals": [0, 0.5, 1]}
    figure.update_xaxes(ends, title_text=f"shut (below {limits[0]:g})")
    figure.update_yaxes(ends)
    figure.update_yaxes(title_text=f"open (above {limits[1]:g})", col=1)
    return titled(
        figure, title, f"{module_name(found)}: share of steps at which gates are shut or open", facts
    )


def plot_effective_context(found: Dataset, *, title: str | None = None) -> go.Figure:
    """How much a change of the input, so many steps before the end, still moves the output.

    found: what `effective_context` returns. Relative to a change of the last step; the line across is the
    share below which the context ends. Raises ArgumentError for another Dataset.

    For example::

        plot_effective_context(effective_context(model, x))
    """
    checked(found, "effective_context", "effective_context", attrs=("share",))
    checked(found, "relative", "effective_context", ("lag",))
    share, context = float(found.attrs["share"]), float(found["effective_context"])
    figure = panels([300])
    lags = found["lag"].values
    figure.add_scatter(
        x=lags,
        y=found["relative"].values,
        mode="lines+markers",
        line={"color": LINES[0], "width": 2},
        marker={"size": 5},
        hovertemplate="%{y:.3f} of the last step's, %{x} steps before it<extra></extra>",
        showlegend=False,
    )
    figure.add_hline(
        y=share,
        line={"color": QUIET, "width": 1, "dash": "dot"},
        annotation={"text": f"share {share:g}", "font": {"color": QUIET}},
        annotation_position="top right",
    )
    if np.isfinite(context):
        figure.add_vline(x=context, line={"color": LINES[1], "width": 1.5, "dash": "dash"})
    figure.update_xaxes(title_text="lag: steps before the end", rangemode="tozero")
    figure.update_yaxes(title_text="influence, relative to lag 0", rangemode="tozero")
    says = f"the output looks back {context:g} steps" if np.isfinite(context) else "the input moves nothing"
    edge = "; longer lags were not measured" if context == float(lags.max()) else ""
    return titled(figure, title, "Effective context", [f"{says}{edge}"])


def _lines(found: Any, variable: str, *more: str) -> Iterator[Line]:
    """The units of each layer and direction, before training first where there are two."""
    values = spread(found[variable], [axis for axis in ("training",) if axis in found[variable].dims])
    axis = "projection" if "projection" in values.dims else "unit"
    values = spread(values, ("layer", "direction", axis, *more))
    layers, directions = labels_on(values, "layer"), labels_on(values, "direction")
    units = labels_on(values, axis)
    stages = STAGES if "training" in values.dims else ("",)
    for stage in stages:
        part = values.sel(training=stage, drop=True) if stage else values
        for depth, layer in enumerate(layers):
            for side, direction in enumerate(directions):
                place = depth * len(directions) + side
                words = [f"layer {layer}"] if len(layers) > 1 or len(directions) == 1 else []
                words += [label(direction)] if len(directions) > 1 else []
                yield Line(
                    " ".join([*words, stage]).strip(),
                    LINES[place % len(LINES)],
                    "dot" if stage == "before" else DASHES[0],
                    stage,
                    np.asarray(part.values[depth, side], dtype=float),
                    units,
                )


def _distribution(figure: go.Figure, lines: list[Line], row: int) -> None:
    """Which share of units has no more than so much, as steps, with a point for each unit."""
    together = np.concatenate([line.values for line in lines])
    figure.update_xaxes(logarithmic(together), row=row, col=1)
    for line in lines:
        there = ~np.isnan(line.values)
        order = [int(place) for place in np.argsort(line.values, kind="stable") if there[place]]
        ranked = line.values[order]
        shares = np.arange(1, len(order) + 1) / max(len(order), 1)
        drawn = np.isfinite(ranked) & (ranked > 0)
        endless, none = int(np.isinf(ranked).sum()), int((ranked == 0).sum())
        facts = [f"{count} of {len(order)} {word}" for count, word in ((endless, "∞"), (none, "0")) if count]
        figure.add_scatter(
            x=ranked[drawn],
            y=shares[drawn],
            name=f"{line.name} ({', '.join(facts)})" if facts else line.name,
            mode="lines+markers",
            legendgroup=line.name,
            line={"color": line.colour, "dash": line.dash, "shape": "hv", "width": 2},
            marker={"size": 5, "symbol": "circle-open" if line.stage == "before" else "circle"},
            customdata=[line.units[place] for place, one in zip(order, drawn, strict=True) if one],
            hovertemplate="unit %{customdata}: %{x:.3g}",
            showlegend=len(lines) > 1 or bool(facts),
            row=row,
            col=1,
        )
    shares_axis = {"tickformat": ".0%", "range": [-0.03, 1.05], "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    figure.update_yaxes(shares_axis, title_text="share of units", row=row, col=1)


def _quartiles(values: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """(lags,) each, from (H, lags); NaN at a lag that no unit has."""
    there = ~np.isnan(values).all(0)
    found = np.full((3, values.shape[1]), np.nan)
    found[:, there] = np.nanquantile(values[:, there], [0.25, 0.5, 0.75], axis=0)
    return found[0], found[1], found[2]


def _stages(found: Any) -> list[str]:
    return ["before training dotted or hollow, after solid"] if "training" in found.dims else []


def _pairs(found: Any) -> int:
    return int(found.sizes.get("layer", 1) * found.sizes.get("direction", 1))


def _known(variable: str, known: Any) -> None:
    if variable not in known:
        raise ArgumentError(
            f"variable: expected {' or '.join(map(repr, known))}, got {variable!r}; name what this result has"
        )
