"""A recurrent module unrolled over time, as strokes: steps from left to right, layers from below upwards.

Each tensor that has a step for every x is a band with a box for each; between two bands stand the cells of a
layer, a row for each direction. What a cell hands to the next step runs to the right (of the reverse
direction to the left), what it gives to the layer above runs up. Where lines must pass over one another, they
do so at a right angle, with a gap in the one below.
"""

from __future__ import annotations

from dataclasses import dataclass

from recurra.lens.anatomy import (
    Anatomy,
    Call,
    Layer,
    Row,
    State,
    equalities,
    rows_in,
    rows_out,
    sequence,
    told,
)
from recurra.lens.drawing import arrow, box, bridge, fitted, line, maths, shortened, words

WIDTH = 468.0
MARGIN = 14.0
LEFT, RIGHT = 86.0, 382.0  # of the bands; beyond them states come in and go out
PITCH = (RIGHT - LEFT) / 4  # from step to step
BAND = 54.0  # height of a band
CELL = 50.0  # width of a cell
SHIFT = 11.0  # of the cells of two directions, so that each has a way past the other
LANE = 25.0  # of the vertical lines of two directions, from the middle of their step
RISE = 30.0  # between a band and a row of cells
STRIP = 26.0  # height of what joins directions and what goes past
MOST = 4  # layers of one size in a drawing; of more, the first two and the last


@dataclass(frozen=True)
class Column:
    """A step in the drawing. label: of x_1 the "1"; None where steps are left out."""

    x: float
    label: str | None


def columns(call: Call) -> list[Column]:
    """The first two steps and the last, or all where they are four or fewer."""
    few = isinstance(call.steps, int) and call.steps <= 4
    labels: list[str | None] = [str(step + 1) for step in range(int(call.steps))] if few else ["1", "2", None]
    if not few:
        labels.append(str(call.steps))
    middle, half = (LEFT + RIGHT) / 2, (len(labels) - 1) / 2
    return [Column(middle + (place - half) * PITCH, label) for place, label in enumerate(labels)]


def _shown(form: Anatomy) -> list[int | None]:
    """The layers that are drawn, the top one first; None where some of the same size are left out."""
    count = len(form.layers)
    places = list(range(count - 1, -1, -1))
    if count <= MOST or form.kind == "stack":
        return list(places)
    return [places[0], None, *places[-2:]]


def unrolled(form: Anatomy, call: Call, top: float) -> tuple[list[str], float]:
    """The strokes of a module whose drawing begins at this height, and the height at which it ends."""
    parts: list[str] = []
    steps, y = columns(call), top
    y = _band(parts, form, call, steps, y, len(form.layers))
    for place in _shown(form):
        if place is None:
            y = _left_out(parts, len(form.layers), steps, y)
            continue
        layer, above = form.layers[place], y
        if layer.joined:
            _arrows_up(parts, steps, y, y + 18)
            parts += [
                box(LEFT - 4, y + 18, RIGHT - LEFT + 8, STRIP, "ink"),
                words((LEFT + RIGHT) / 2, y + 35.5, layer.joined, "small", "middle"),
            ]
            y += 18 + STRIP
        bottom = _rows(parts, form, call, steps, y, place)
        y = _band(parts, form, call, steps, bottom, place)
        if layer.past:
            level = above + 18 + STRIP / 2
            parts.append(
                arrow(
                    [(LEFT - 4, bottom + BAND / 2), (7, bottom + BAND / 2), (7, level), (LEFT - 4, level)],
                    "h",
                )
            )
    return parts, y


def _arrows_up(parts: list[str], steps: list[Column], top: float, bottom: float) -> None:
    """An arrow up at each step."""
    parts += [arrow([(step.x, bottom), (step.x, top)], "h") for step in steps if step.label is not None]


def _left_out(parts: list[str], count: int, steps: list[Column], top: float) -> float:
    """A line in the place of the layers between the second and the last."""
    inner = count - 3
    what = "layer 2, like layer 1" if inner == 1 else f"layers 2 to {inner + 1}, {inner} like layer 1"
    height = 30.0
    parts.append(box(LEFT - 4, top + 22, RIGHT - LEFT + 8, height, "open"))
    parts.append(words((LEFT + RIGHT) / 2, top + 41.5, f"⋮  {what}", "quiet", "middle"))
    _arrows_up(parts, steps, top, top + 22)
    return top + 22 + height


def _band(parts: list[str], form: Anatomy, call: Call, steps: list[Column], top: float, place: int) -> float:
    """The tensor that layer `place` reads, or with the number of layers that of the output."""
    layers, role = form.layers, "x" if place == 0 else "h"
    joined = place > 0 and bool(layers[place - 1].joined)
    halves = place > 0 and form.directions == 2 and not joined
    shape = told(sequence(form, call, layers[place - 1].gives if place else layers[0].reads))
    if place == len(layers) and form.apart:
        shape = "2 of " + told(sequence(form, call, layers[-1].hidden))
    name = f"{'from' if joined else 'h of'} layer {place - 1}"
    if place in (0, len(layers)):
        name = "x" if place == 0 else "h′" if form.kind == "cell" else "output"
    kind = f"mono {role} strong" if place in (0, len(layers)) else role
    parts.append(box(LEFT - 4, top, RIGHT - LEFT + 8, BAND, role, 8))
    parts.append(words(LEFT + 4, top + 16.5, name, kind))
    parts.append(fitted(RIGHT - 4, top + 16.5, shape, kind.removeprefix("mono "), "end", 190))
    letter = "x" if place == 0 else "y" if joined else "h"
    for step in steps:
        if step.label is None:
            parts.append(words(step.x, top + 39, "···", f"strong {role}", "middle"))
            continue
        index = "" if form.kind == "cell" else f"_{{{step.label}}}"
        parts.append(box(step.x - 34, top + 22, 68, 27, role, 4))
        if halves:
            parts.append(line([(step.x, top + 22), (step.x, top + 49)], role, "thin"))
            parts += [
                _directed(step.x - 17, top + 42, step.label, "→"),
                _directed(step.x + 17, top + 42, step.label, "←"),
            ]
        else:
            prime = "′" if form.kind == "cell" and place else ""
            parts.append(maths(step.x, top + 40, letter + prime + index, role, "middle"))
    return top + BAND


def _directed(x: float, y: float, label: str, way: str) -> str:
    """h of one direction at one step: a small arrow over the letter."""
    size = 15.0 if len(label) < 3 else 12.0
    start = x - (0.52 + 0.36 * len(label)) * size / 2
    points = [(start, y - size * 0.86), (start + size * 0.6, y - size * 0.86)]
    return maths(x, y, f"h_{{{label}}}", "h", "middle", size) + arrow(
        points if way == "→" else points[::-1], "h", "thin"
    )


def _row_height(layer: Layer) -> float:
    return 8.0 + 42.0 * len(layer.states) if len(layer.states) > 1 else 60.0


def _rows(parts: list[str], form: Anatomy, call: Call, steps: list[Column], top: float, place: int) -> float:
    """The cells of a layer, and the lines to and from its bands; `top` is the foot of the band above."""
    layer, both = form.layers[place], form.directions == 2
    height = _row_height(layer)
    upper = top + RISE
    lower = upper + height + 20 if both else upper
    bottom = lower + height + RISE
    given, shown = told((*call.batch, layer.reads)), told((*call.batch, layer.hidden))
    reads = "x" if place == 0 else "h"
    first = steps[0].x - (LANE if both else 0) - 7
    parts.append(fitted(first, bottom - RISE / 2 + 4, given, reads, "end", first - 12))
    parts.append(fitted(first, top + RISE / 2 + 6, shown, "h", "end", first - 12))
    _across(parts, form, call, steps, lower, place, reverse=False)
    if both:
        _across(parts, form, call, steps, upper, place, reverse=True)
    for step in steps:
        if step.label is None:
            continue
        if not both:
            parts.append(arrow([(step.x, bottom), (step.x, lower + height)], reads))
            parts.append(arrow([(step.x, upper), (step.x, top)], "h"))
            continue
        left, right = step.x - LANE, step.x + LANE
        parts.append(arrow([(left, bottom), (left, lower + height)], reads))
        parts.append(bridge([(right, lower + 2), (right, lower + height - 2)]))
        parts.append(arrow([(right, bottom), (right, upper + height)], reads))
        parts.append(bridge([(left, upper + 2), (left, upper + height - 2)]))
        parts.append(arrow([(left, lower), (left, top)], "h"))
        parts.append(arrow([(right, upper), (right, top)], "h"))
    return bottom


def _across(
    parts: list[str], form: Anatomy, call: Call, steps: list[Column], top: float, place: int, reverse: bool
) -> None:
    """A row of cells in one direction, and the states that run through it."""
    layer = form.layers[place]
    height = _row_height(layer)
    shift = 0.0 if form.directions == 1 else SHIFT if reverse else -SHIFT
    edges = [(step.x + shift - CELL / 2, step.x + shift + CELL / 2) for step in steps]
    lane = LANE if form.directions == 2 else 0.0
    free = min(edges[0][0], steps[0].x - lane), max(edges[-1][1], steps[-1].x + lane)
    # h is the lowest line: the cell state above it, as every drawing of an LSTM has it
    order = sorted(layer.states, key=lambda state: state.role == "h")
    for rank, state in enumerate(order):
        y = top + (height / 2 if len(order) == 1 else 25 + 42 * rank)
        kind = "wide" if state.role == "c" else ""
        stops = [MARGIN, *(edge for pair in edges for edge in pair), WIDTH - MARGIN]
        gaps = list(zip(stops[::2], stops[1::2], strict=True))
        for gap, (start, end) in enumerate(gaps):
            after = steps[gap].label is None if gap < len(steps) else False
            before = gap > 0 and steps[gap - 1].label is None
            begin, close = start - (CELL - 16) * before / 2, end + (CELL - 16) * after / 2
            points = [(close, y), (begin, y)] if reverse else [(begin, y), (close, y)]
            into_dots = after if not reverse else before
            parts.append(line(points, state.role, kind) if into_dots else arrow(points, state.role, kind))
        _ends(parts, form, call, state, y, place, reverse, free)
    for step, (start, _) in zip(steps, edges, strict=True):
        if step.label is None:
            parts.append(words(start + CELL / 2, top + height / 2 + 4, "···", "quiet strong", "middle"))
            continue
        parts.append(box(start, top, CELL, height, "ink", 8))
        parts.append(_cell_words(form, start + CELL / 2, top + height / 2, place, reverse))


def _cell_words(form: Anatomy, x: float, y: float, place: int, reverse: bool) -> str:
    lines = [(form.cell, "strong", 13.0 if len(form.cell) < 5 else 11.0)]
    if form.kind != "cell":
        lines.append((f"layer {place}", "quiet", 11.5 if place < 100 else 9.5))
    if form.directions == 2:
        lines.append(("reverse" if reverse else "forward", "quiet", 11.5))
    start = y + 4 - 7.5 * (len(lines) - 1)
    return "".join(
        words(x, start + 15 * rank, text, kind, "middle", size)
        for rank, (text, kind, size) in enumerate(lines)
    )


def _ends(
    parts: list[str],
    form: Anatomy,
    call: Call,
    state: State,
    y: float,
    place: int,
    reverse: bool,
    edges: tuple[float, float],
) -> None:
    """What stands at the outer ends of a state's line: what it begins with, what it ends as."""
    name, role, sizes = state.name, state.role, state.sizes
    index = f"[{place * form.directions + reverse}]"
    if form.kind == "stack":
        index = f"[{int(reverse)}]"
    starts, stops = (f"{name}_0{index}", f"{name}_n{index}")
    if form.kind == "cell":
        starts, stops = name, f"{name}′"
    left, right = (stops, starts) if reverse else (starts, stops)
    shape = told((*call.batch, *sizes))
    rooms = edges[0] - MARGIN - 6, WIDTH - MARGIN - edges[1] - 6
    for text, x, anchor, room in (
        (left, MARGIN, "start", rooms[0]),
        (right, WIDTH - MARGIN, "end", rooms[1]),
    ):
        kind = f"{role} strong" if text == stops else role
        parts.append(fitted(x, y - 7, text, kind, anchor, room))
        parts.append(fitted(x, y + 15, shape, role, anchor, room))


def table(form: Anatomy, call: Call, top: float) -> tuple[list[str], float]:
    """What goes in and what comes out, a line for each tensor, and where this table ends."""
    parts: list[str] = []
    begins = "learned" if form.learned else "zeros"
    for heading, aside, rows in (
        ("What goes in", f"states are {begins} where not given", rows_in(form, call)),
        ("What comes out", "", rows_out(form, call)),
    ):
        top = _heading(parts, heading, aside, top)
        for row in rows:
            parts.append(_table_row(row, top, wide=form.kind == "stack"))
            top += 39 if row.note else 22
        top += 14
    same = equalities(form, call)
    if not same:
        return parts, top
    top = _heading(parts, "Where output and final state are the same", "", top)
    for left, right in same:
        texts = (
            fitted(MARGIN, top + 15, left, "h", "start", 190),
            words(240, top + 15, "==", "mono quiet", "middle"),
        )
        parts.append(
            f'<g data-same="{left} == {right}">{"".join(texts)}{words(268, top + 15, right, "mono h")}</g>'
        )
        top += 22
    if form.directions == 2:
        parts.append(words(MARGIN, top + 14, "The reverse direction ends at the first step.", "small quiet"))
        top += 18
    if call.rows is not None:
        story = "Given lengths, a row ends at its own last step and not at T."
        parts.append(words(MARGIN, top + 14, story, "small quiet"))
        top += 18
    return parts, top + 6


def _heading(parts: list[str], text: str, aside: str, top: float) -> float:
    parts += [
        words(MARGIN, top + 14, text, "strong"),
        words(WIDTH - MARGIN, top + 14, aside, "small quiet", "end"),
        line([(MARGIN, top + 22), (WIDTH - MARGIN, top + 22)], "rule"),
    ]
    return top + 26


def _table_row(row: Row, y: float, wide: bool) -> str:
    at = 132.0 if wide else 92.0
    cells = [
        fitted(MARGIN, y + 15, row.name, f"{row.role} strong", "start", at - MARGIN - 8),
        fitted(at, y + 15, told(row.shape), row.role, "start", 200),
        fitted(WIDTH - MARGIN, y + 15, row.axes, "quiet", "end", 130),
    ]
    if row.note:
        cells.append(words(at, y + 32, shortened(row.note, 60), "small quiet"))
    name = row.name.replace("′", "'")
    return f'<g data-tensor="{name}" data-shape="{told(row.shape)}">' + "".join(cells) + "</g>"
