"""One style for every figure of the report: colours, strokes, layout, and how numbers and stamps are written.

Colours are those of the light page; the page's script swaps each for its dark counterpart in `PALETTE`.
Labels that come from the user's data pass through `label`, since plotly reads a little HTML in them.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from recurra.data.calendar import Frequency, show

Figure = dict[str, Any]

PALETTE = {
    "ink": ("#24303c", "#d9dfe6"),
    "quiet": ("#66727f", "#97a3b0"),
    "grid": ("#e6e9ed", "#2b333d"),
    "paper": ("#ffffff", "#171c22"),
    "model": ("#1c5fb0", "#6fb1ff"),
    "band95": ("rgba(28, 95, 176, 0.12)", "rgba(111, 177, 255, 0.13)"),
    "band80": ("rgba(28, 95, 176, 0.17)", "rgba(111, 177, 255, 0.18)"),
    "band50": ("rgba(28, 95, 176, 0.24)", "rgba(111, 177, 255, 0.26)"),
    "faint": ("rgba(28, 95, 176, 0.22)", "rgba(111, 177, 255, 0.25)"),
    "first": ("#7d8894", "#9aa5b1"),
    "second": ("#a96800", "#e3a94a"),
    "third": ("#7a56a8", "#b697e6"),
    "fourth": ("#0b7566", "#4cc4b0"),
    "fifth": ("#b1325a", "#f08aa9"),
}
"""Role → (light, dark). Each line colour has at least 3:1 contrast on its paper, each text colour 4.5:1."""

_LINES = (
    ("first", "dot"),
    ("second", "dash"),
    ("third", "dashdot"),
    ("fourth", "longdash"),
    ("fifth", "dash"),
)


def light(role: str) -> str:
    return PALETTE[role][0]


def label(text: str, longest: int = 60) -> str:
    """A name from the user's data, for a figure: shortened, and with nothing that plotly takes for markup."""
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return html.escape(text, quote=False)


def strokes(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Line style of each method: the first, the model, solid and wide; colour and dash tell the others."""
    model, *others = methods
    styles: dict[str, dict[str, Any]] = {model: {"color": light("model"), "width": 3, "dash": "solid"}}
    for index, method in enumerate(others):
        role, dash = _LINES[index % len(_LINES)]
        styles[method] = {"color": light(role), "width": 1.75, "dash": dash}
    return styles


def layout(**more: Any) -> dict[str, Any]:
    """The style of every figure: no frame, faint grid, legend above, room for labels and nothing else."""
    axis = {
        "gridcolor": light("grid"),
        "zerolinecolor": light("grid"),
        "linecolor": light("grid"),
        "tickcolor": light("grid"),
        "automargin": True,
        "title": {"font": {"size": 13, "color": light("quiet")}, "standoff": 8},
    }
    base: dict[str, Any] = {
        "template": None,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "inherit", "size": 13, "color": light("quiet")},
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "xanchor": "left",
            "yanchor": "bottom",
            "font": {"color": light("ink")},
        },
        "hoverlabel": {
            "bgcolor": light("paper"),
            "bordercolor": light("grid"),
            "font": {"color": light("ink"), "size": 13},
            "align": "left",
        },
        "dragmode": False,
        "bargap": 0.06,
    }
    for name in ("xaxis", "yaxis"):
        base[name] = _merged(axis, {"showgrid": name == "yaxis"}, more.pop(name, {}))
    return _merged(base, more)


def figure(traces: Sequence[Any], **style: Any) -> Figure:
    """Data and layout, checked by plotly, as plain lists and dicts."""
    made: Figure = go.Figure(data=list(traces), layout=layout(**style)).to_plotly_json()
    return {
        "data": made["data"],
        "layout": {key: one for key, one in made["layout"].items() if key != "template"},
    }


def thinned(values: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Which steps of a long history to draw: the last `most`/2, and before them each stretch's extremes."""
    total = len(values)
    if total <= most:
        return np.arange(total)
    tail = most // 2
    edges = np.linspace(0, total - tail, max((most - tail) // 2, 1) + 1).astype(int)
    kept = set(range(total - tail, total))
    for first, stop in pairwise(edges):
        part = values[first:stop]
        if np.isfinite(part).any():
            kept |= {first + int(np.nanargmin(part)), first + int(np.nanargmax(part))}
        elif stop > first:
            kept.add(int(first))  # a missing stretch stays a gap in the line
    return np.array(sorted(kept), dtype=np.int64)


def instants(stamps: NDArray[Any]) -> list[Any]:
    """Stamps as plotly takes them: ISO text as short as it can be, or whole numbers."""
    stamps = np.asarray(stamps)
    if stamps.dtype.kind != "M":
        return [int(step) for step in stamps]
    for unit in ("D", "m", "s", "ms", "ns"):
        coarse = stamps.astype(f"datetime64[{unit}]")
        if (coarse == stamps).all():
            break
    return [str(text) for text in np.datetime_as_string(coarse)]


def beyond(stamps: NDArray[Any], steps: float) -> Any:
    """A little room behind the last of these stamps, so many steps wide, as plotly takes it."""
    if stamps.dtype.kind != "M":
        return float(stamps[-1]) + max(steps, 1)
    step = (stamps[-1] - stamps[0]) / max(len(stamps) - 1, 1) if len(stamps) > 1 else np.timedelta64(1, "D")
    return str(np.datetime_as_string((stamps[-1] + step * max(steps, 1)).astype("datetime64[s]")))


def kind(stamps: NDArray[Any]) -> str:
    return "date" if np.asarray(stamps).dtype.kind == "M" else "linear"


def rounded(values: NDArray[np.float64]) -> list[float | None]:
    """Six significant digits, and None where missing: what a plot can show and JSON can hold."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in np.asarray(values, np.float64)]


def stamp_words(stamp: Any, frequency: Frequency) -> str:
    """A stamp as the report writes it; the first of a month is written without its day."""
    words = show(stamp)
    return words[:7] if frequency.unit == "month" and frequency.anchor == 1 and len(words) == 10 else words


def amount(value: float, digits: int = 4) -> str:
    """A number for reading: so many significant digits, thousands set apart, an exponent only if extreme."""
    if not np.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1e12 or 0 < size < 1e-6:
        return f"{value:.{digits - 1}e}"
    after = digits - 1 - int(np.floor(np.log10(size))) if size else 0
    return f"{round(value, after):,.{max(after, 0)}f}".replace("-", "−")


def _merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Dicts laid over one another, nested ones too."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = _merged(result[key], value) if both else value
    return result
