"""One style for the figures of the lens: colours, panels over one time axis, and what is chosen of a result.

Colours are those of the light page of `recurra.web`: a gate goes from paper to its own hue, a signed number
from blue over paper to orange. Labels that come from the user pass through `label`, since plotly reads a
little HTML in them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from recurra.errors import ArgumentError

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

Numbers = NDArray[np.float64]

INK, QUIET, GRID, EDGE, PAPER = "#1d2732", "#5f6b78", "#e4e8ec", "#cbd2d9", "#ffffff"
TONES = {
    "input": "#0b7566",
    "forget": "#b1325a",
    "candidate": "#7a56a8",
    "output": "#9a5f00",
    "cell": "#1c5fb0",
    "hidden": "#37475a",
    "reset": "#9a5f00",
    "update": "#b1325a",
}
LINES = ("#1c5fb0", "#b1325a", "#0b7566", "#9a5f00", "#7a56a8", "#37475a")
DASHES = ("solid", "dash", "dot", "dashdot")
LOW = "#f7f8fa"
SIGNED = ("#0b2f5c", "#1f66b1", LOW, "#d9691e", "#7c2d06")
FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
SIZE = 12  # of the text, in pixels
FEW = 7  # stamps that are written out
TOP, BOTTOM, BETWEEN = 84, 58, 30  # pixels around and between panels

_AXIS = {
    "showline": True,
    "linecolor": EDGE,
    "gridcolor": GRID,
    "tickcolor": EDGE,
    "ticks": "outside",
    "ticklen": 4,
    "zeroline": False,
    "automargin": True,
    "title": {"font": {"size": SIZE}, "standoff": 8},
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": SIZE, "color": QUIET},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "colorway": LINES,
        "margin": {"l": 64, "r": 24, "t": TOP, "b": BOTTOM},
        "title": {
            "x": 0.0,
            "xref": "container",
            "xanchor": "left",
            "y": 1.0,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 16, "t": 14},
            "font": {"size": 16, "color": INK},
            "subtitle": {"font": {"size": SIZE, "color": QUIET}},
        },
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": EDGE, "font": {"color": INK}, "align": "left"},
        "legend": {"font": {"color": INK}, "traceorder": "normal"},
    }
)

_ROUND = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]


class Steps(NamedTuple):
    """The axis of time: where each step stands, and the options of the axis."""

    at: Any
    axis: dict[str, Any]


def tone(name: str) -> str:
    """The colour of a gate or state."""
    return TONES.get(name, TONES["input"])


def ramp(stops: Sequence[str], count: int = 33) -> list[tuple[float, str]]:
    """A colour scale along `stops`, evenly apart. Squares are mixed, so that the middle is not muddy."""
    known = np.array([[int(stop[at : at + 2], 16) for at in (1, 3, 5)] for stop in stops], dtype=float)
    shares, places = np.linspace(0, 1, count), np.linspace(0, 1, len(stops))
    mixed = np.sqrt([np.interp(shares, places, known[:, channel] ** 2) for channel in range(3)]).round()
    return [
        (float(share), f"rgb({r:.0f}, {g:.0f}, {b:.0f})")
        for share, r, g, b in zip(shares, *mixed, strict=True)
    ]


def label(value: Any, longest: int = 40) -> str:
    """A name from the user's data: shortened, blanks made visible, nothing that plotly takes for markup."""
    text = str(value)
    if text and not text.strip():
        text = "↵" if "\n" in text else "␣"
    text = text.replace("\n", " ")
    shown = html.escape(text if len(text) <= longest else text[: longest - 1] + "…", quote=False)
    return shown.replace("$", "&#36;")  # a pair of them is a formula where there is MathJax


def panels(
    heights: Sequence[float],
    titles: Sequence[str] = (),
    *,
    columns: int = 1,
    between: float = BETWEEN,
    **options: Any,
) -> go.Figure:
    """An empty figure of panels of these heights, in pixels, one beneath the other."""
    rows, inside = len(heights), sum(heights) + between * (len(heights) - 1)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        row_heights=list(heights),
        vertical_spacing=between / inside if rows > 1 else 0,
        subplot_titles=list(titles) or None,
        **options,
    )
    figure.update_layout(template=TEMPLATE, height=round(inside + TOP + BOTTOM))
    # make_subplots centres the panels' titles, where they take the eye from the panel's first steps
    for annotation, place in zip(figure.layout.annotations, range(rows * columns), strict=False):
        domain = figure.get_subplot(place // columns + 1, place % columns + 1).xaxis.domain
        annotation.update(x=domain[0], xanchor="left", font={"size": SIZE, "color": INK}, yshift=2)
    return figure


def titled(figure: go.Figure, title: str | None, usual: str, facts: Iterable[str | None] = ()) -> go.Figure:
    """With a title, the user's or the usual one, and beneath it what was chosen."""
    told = " · ".join(fact for fact in facts if fact)
    figure.update_layout(title={"text": usual if title is None else title, "subtitle": {"text": told}})
    return figure


def signed_limit(values: Numbers) -> float:
    """The size that has the deepest colour: the largest there is, rounded up to two digits."""
    sizes = np.abs(values[np.isfinite(values)])
    most = float(sizes.max(initial=0.0))
    if most == 0:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(most)) - 1)
    return math.ceil(round(most / unit, 6)) * unit


def colours(name: str, values: Numbers, gate: bool) -> dict[str, Any]:
    """The scale of a heat map: 0 to 1 for a gate, its greatest where that lies above; else both signs."""
    known = values[np.isfinite(values)]
    if gate and known.min(initial=0.0) >= 0:
        most = max(1.0, float(known.max(initial=0.0)))
        return {"colorscale": ramp((LOW, tone(name))), "cmin": 0.0, "cmax": most}
    limit = signed_limit(values)
    return {"colorscale": ramp(SIGNED), "cmin": -limit, "cmax": limit}


def add_heat(
    figure: go.Figure, row: int, steps: Steps, values: Numbers, units: Sequence[str], scale: dict[str, Any]
) -> go.Heatmap:
    """A heat map of (T, H) in this row, with its own colour bar beside it. Returns its trace."""
    numbers = figure.get_subplot(row, 1).yaxis
    low, high = numbers.domain
    inside = figure.layout.height - TOP - BOTTOM
    name = f"coloraxis{row if row > 1 else ''}"
    ends = [scale["cmin"], (scale["cmin"] + scale["cmax"]) / 2, scale["cmax"]]
    bar = {
        "lenmode": "pixels",
        "len": (high - low) * inside,
        "y": (low + high) / 2,
        "x": 1.0,
        "xpad": 10,
        "ypad": 0,
        "thickness": 10,
        "outlinewidth": 0,
        "tickvals": ends,
        "ticktext": [short(end) for end in ends],
    }
    figure.update_layout({name: {**scale, "colorbar": bar}})
    # names and not places, as a category axis shows them on hovering; two that are the same would be one
    names = units if len(set(units)) == len(units) else [f"{one} ({at})" for at, one in enumerate(units)]
    heat = go.Heatmap(x=steps.at, y=list(names), z=values.T, coloraxis=name)
    figure.add_trace(heat, row=row, col=1)
    every = next(size for size in _ROUND if len(units) <= 6 * size)
    kept = range(0, len(units), every)
    axis = {
        "type": "category",
        "showgrid": False,
        "tickvals": list(kept),
        "ticktext": [units[at] for at in kept],
        "autorange": "reversed",
    }
    figure.update_yaxes(axis, row=row, col=1)
    figure.update_xaxes({**steps.axis, "showgrid": False}, row=row, col=1)
    return figure.data[-1]


def short(value: float) -> str:
    """A number for reading: three significant digits."""
    return f"{value:.3g}".replace("-", "−")


def logarithmic(values: Numbers) -> dict[str, Any]:
    """The options of an axis that holds these, with ticks at powers of ten, or also at 2 and 5 of each."""
    there = values[np.isfinite(values) & (values > 0)]
    decades = math.log10(float(there.max())) - math.log10(float(there.min())) if len(there) else 0.0
    if decades < 0.5:
        return {"type": "log", "nticks": 6}
    if decades > 2.5:
        return {"type": "log", "exponentformat": "power", "dtick": max(1, math.ceil(decades / 8))}
    powers = range(math.floor(math.log10(float(there.min()))), 1 + math.ceil(math.log10(float(there.max()))))
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [short(tick) for tick in ticks]}


def steps_of(data: Any, place: int, count: int | None = None) -> Steps:
    """The first `count` steps of this sample, with the user's own labels.

    Stamps and numbers that grow stand where they say; words, stamps that do not grow, and a few stamps, which
    would leave an axis of dates to guess, one after another.
    """
    if "label" in data.coords:
        own = data["label"].transpose(..., "time").values
        labels = own[place] if own.ndim == 2 else own
        if count is None:  # beyond a row's own labels there are empty ones
            count = 1 + int(np.flatnonzero([str(one) != "" for one in labels]).max(initial=-1))
    else:
        labels = data["time"].values if "time" in data.coords else np.arange(data.sizes["time"])
    labels = np.asarray(labels)[:count]
    growing = labels.dtype.kind == "M" and not np.isnat(labels).any() and (labels[1:] > labels[:-1]).all()
    if growing and len(labels) > FEW:
        return Steps(labels, {"type": "date"})
    if labels.dtype.kind in "iuf" and np.isfinite(labels).all() and (labels[1:] > labels[:-1]).all():
        whole = labels.dtype.kind != "f" and len(labels) <= 20
        return Steps(labels, {"type": "linear"} | ({"dtick": 1} if whole else {}))
    if labels.dtype.kind == "M":
        return words([_stamp(one) for one in labels])
    return words([str(one) for one in labels])


def _stamp(stamp: np.datetime64) -> str:
    """As short as it can be."""
    if np.isnat(stamp):
        return "–"
    whole = stamp == stamp.astype("datetime64[D]")
    return str(np.datetime_as_string(stamp, unit="D" if whole else "s")).replace("T", " ")


def words(texts: Sequence[str]) -> Steps:
    """Steps that are words. Each has a name of its own, as two words may be the same."""
    shown = [label(text, 20) for text in texts]
    every = math.ceil(len(shown) / 120) if shown else 1
    widest = max((len(html.unescape(text)) for text in shown), default=0)
    upright = widest * len(shown) <= 90 or (widest <= 2 and len(shown) <= 120)
    axis = {
        "type": "category",
        "tickmode": "array",
        "tickvals": list(range(0, len(shown), every)),
        "ticktext": shown[::every],
        "tickangle": 0 if upright else -90,
    }
    return Steps([f"{text} ({place})" for place, text in enumerate(shown)], axis)


def what_it_is(result: Any) -> str:
    """For a message: what was given in the place of a result of the lens."""
    if hasattr(result, "data_vars"):
        return f"a Dataset of {', '.join(map(repr, result.data_vars)) or 'nothing'}"
    if isinstance(result, dict):
        return f"a dict of {', '.join(map(repr, result)) or 'nothing'}; give one of its values"
    return type(result).__name__


def checked(
    result: Any, variable: str, maker: str, axes: Sequence[str] = (), attrs: Sequence[str] = ()
) -> Dataset:
    """A Dataset that has this variable, with these axes, and these attributes. Raises ArgumentError."""
    if variable in getattr(result, "data_vars", ()) and set(axes) <= set(result[variable].dims):
        found: Dataset = result
        lost = next((name for name in attrs if name not in found.attrs), None)
        if lost is not None:
            raise ArgumentError(
                f"result: expected what recurra.lens.{maker} returns, got a Dataset that has lost its "
                f"attribute {lost!r}; keep it with xarray.set_options(keep_attrs=True)"
            )
        return found
    raise ArgumentError(
        f"result: expected what recurra.lens.{maker} returns, got {what_it_is(result)}; "
        "recurra.lens.plot draws any result of the lens"
    )


def place_of(name: str, labels: Sequence[Any], wanted: Any) -> int:
    """Where this label stands; 0 for None. A sample may be given by its place. Raises ArgumentError."""
    if wanted is None:
        return 0
    if name == "sample" and isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool):
        if 0 <= wanted < len(labels):
            return int(wanted)
        raise ArgumentError(
            f"sample: expected 0 to {len(labels) - 1}, got {wanted}; name one by its place or its label"
        )
    found = [place for place, one in enumerate(labels) if not isinstance(wanted, bool) and one == wanted]
    if not found:
        known = ", ".join(map(repr, labels[:8])) + (", …" if len(labels) > 8 else "")
        raise ArgumentError(f"{name}: expected one of {known}, got {wanted!r}; name one that there is")
    return found[0]


def labels_on(data: Any, axis: str) -> list[Any]:
    """The labels on an axis, numbers where it has none."""
    if axis in data.coords:
        found: list[Any] = np.atleast_1d(data[axis].values).tolist()
        return found
    return list(range(data.sizes.get(axis, 1)))


def spread(values: DataArray, axes: Sequence[str]) -> DataArray:
    """With these axes, in this order and before any others: of size 1 where one had been chosen already."""
    for axis in axes:
        if axis not in values.dims:
            values = values.expand_dims(axis)
    return values.transpose(*axes, ...)


def named_sample(data: Any, place: int) -> str:
    return f"sample {label(labels_on(data, 'sample')[place])}"


def module_name(data: Any) -> str:
    """The class, and the path where there is one: "LSTM encoder"."""
    return " ".join(filter(None, (label(data.attrs.get("class", "")), label(data.attrs.get("module", "")))))
