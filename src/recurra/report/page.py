"""The report of a text task: the same frame as that of a forecast, filled with parts.

A task says what stands in each part: words, plots, tables, texts with marked pieces. Plots are dicts as
`recurra.report.style.figure` makes them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from recurra.errors import ArgumentError
from recurra.report.style import PALETTE, Figure

_HERE = Path(__file__).parent
_SECTIONS = ("data", "model", "again")


@dataclass(frozen=True)
class Plot:
    """A figure, and what it shows in words for those who do not see it.

    name: one for each of the page. size: "", "tall" or "small".
    """

    name: str
    figure: Figure
    alternative: str
    heading: str = ""
    caption: str = ""
    size: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of words; the first cell heads its row. marked: the first cell of the model's own row.

    wraps: whether the first column holds text that may run over several lines.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marked: str | None = None
    wraps: bool = False


@dataclass(frozen=True)
class Marked:
    """A text in pieces, each with a weight from -1 to 1: the ground behind it, none where it is 0 or NaN."""

    pieces: Sequence[tuple[str, float]]
    heading: str = ""


@dataclass(frozen=True)
class Part:
    """A section of the page. name: its anchor. short: its name in the list of sections, default its title."""

    name: str
    title: str
    words: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    texts: Sequence[Marked] = ()
    code: str = ""
    short: str = ""


def render_page(
    *,
    task: str,
    title: str,
    verdict: str,
    state: tuple[str, str],
    facts: Sequence[str],
    cards: Sequence[tuple[str, str, str]],
    parts: Sequence[Part],
    notes: Sequence[str],
    settings: Mapping[str, str],
    command: str,
    uses: Sequence[tuple[str, str]],
) -> str:
    """The whole page as HTML text: it loads nothing from anywhere.

    task: what the line above the title calls it. verdict: the headline, and state: its class ("wins",
    "loses", "level" or "none") and tag. cards: heading, number and remark of each. notes: what was done to
    the data. settings: the model's, in words. command: what to type for the same again. uses: words and code
    of each way to use the model.

    Raises ArgumentError where two parts or two plots have one name, or a part that of the frame's own
    sections (data, model, again); ValueError for a figure with NaN in it.
    """
    _refuse_twice("part", [*_SECTIONS, *(part.name for part in parts)])
    _refuse_twice("plot", [drawn.name for part in parts for drawn in part.plots])
    figures = {drawn.name: drawn.figure for part in parts for drawn in part.plots}
    return environment().get_template("page.html.j2").render(
        task=task, title=title, verdict=verdict, state=state, facts=facts, cards=cards, parts=parts,
        notes=notes, settings=settings, command=command, uses=uses, **assets(figures),
    )  # fmt: skip


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ArgumentError(
            f"parts: expected a name of its own for each {what}, got {twice[0]!r} twice; the frame's own "
            f"sections are {', '.join(_SECTIONS)}: rename one"
        )


def environment() -> Environment:
    """Templates of this folder, everything from users escaped."""
    return Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def assets(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What the frame itself needs: colours, style, script, Plotly and the figures' numbers."""
    return {
        "palette": PALETTE,
        "style": Markup((_HERE / "page.css").read_text("utf-8")),
        "script": Markup((_HERE / "page.js").read_text("utf-8")),
        "plotly": Markup(get_plotlyjs()),
        "payload": _payload(figures),
    }


def _payload(figures: Mapping[str, Any]) -> Markup:
    """The figures as JSON that cannot end the script element it stands in."""
    swaps = dict(PALETTE.values())
    text = json.dumps({"dark": swaps, "figures": figures}, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)
