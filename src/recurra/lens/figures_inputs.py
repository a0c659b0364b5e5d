"""Figures of what mattered and what changed: attributions, words as coloured text, and a network edited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from recurra.errors import ArgumentError
from recurra.lens.figures_style import (
    INK,
    LINES,
    QUIET,
    SIGNED,
    Numbers,
    Steps,
    add_heat,
    checked,
    colours,
    label,
    labels_on,
    named_sample,
    panels,
    place_of,
    ramp,
    short,
    signed_limit,
    steps_of,
    titled,
    what_it_is,
)
from recurra.lens.plots import heat_of_change

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from xarray import Dataset

    from recurra.lens.edit import Effect

MOST_LINES = 6  # outputs that are drawn where none are named
ACROSS = 96  # letters in a line of coloured text


def plot_attribution(found: Dataset, *, sample: Any = 0, title: str | None = None) -> go.Figure:
    """Which inputs spoke for the answer (orange) and which against it (blue).

    found: what `integrated_gradients` or `occlusion` returns. sample: by its place or its label. An input of
    features is a heat map, features by steps, with each step's sum as a bar above. Words are a text, each on
    its colour. Other inputs without features are bars. Raises ArgumentError for another Dataset or sample.

    For example::

        reasons = integrated_gradients(model, words, embedding=model.embedding, target=1, time=texts)
        plot_attribution(reasons, sample=3)
    """
    checked(found, "attribution", "integrated_gradients or occlusion", ("time",))
    attribution = found["attribution"]
    if "sample" not in attribution.dims:
        attribution = attribution.expand_dims("sample")
    place = place_of("sample", labels_on(found, "sample"), sample)
    values = np.asarray(attribution.transpose("sample", "time", ...).values[place], dtype=float)
    steps = steps_of(found, place)
    values = values[: len(steps.at)]
    facts = [found.attrs.get("method"), named_sample(found, place), *_answers(found, place)]
    if values.ndim == 2:
        features = [label(one, 24) for one in labels_on(found, "feature")]
        figure = _by_feature(values, steps, features)
    elif steps.axis["type"] == "category":
        figure = _as_text(values, _texts(steps))
    else:
        figure = panels([280])
        _add_bars(figure, 1, steps, values)
        figure.update_xaxes(title_text="time")
        figure.update_yaxes(title_text="attribution")
    return titled(figure, title, "Which inputs mattered", facts)


def plot_what_if(
    effect: Effect,
    traced: Dataset | None = None,
    variable: str = "hidden",
    *,
    sample: Any = 0,
    outputs: Sequence[int] | None = None,
    module: str | None = None,
    layer: int | None = None,
    direction: str | None = None,
    time_axis: int | None = None,
    title: str | None = None,
) -> go.Figure:
    """What the model returns without the edits, dotted, and with them, solid.

    effect: what `what_if` returns. Its output's first tensor is drawn: over time where it has the steps of
    the module, else as bars. outputs: which numbers of each step; None: the six that change most. sample: by
    its place. traced: a trace of the same module on the same input, without the edits; then beneath is the
    change of its `variable`, of this layer and direction, units by steps. module: the path of the recurrent
    module; None: the first. time_axis: 1 for an output (N, T, ...), 0 for (T, N, ...); None: as its sizes
    say, and 1 where they do not. Raises ArgumentError for what is not there.

    For example::

        effect = what_if(model, x, edits=[Edit("forget", to=1.0, units=3)])
        plot_what_if(effect, trace(model, x), "cell")
    """
    if not hasattr(effect, "states") or not hasattr(effect, "before"):
        raise ArgumentError(
            f"result: expected what recurra.lens.what_if returns, got {what_it_is(effect)}; "
            "recurra.lens.plot draws any result of the lens"
        )
    path = next(iter(effect.states)) if module is None else module
    if path not in effect.states:
        raise ArgumentError(
            f"module: expected one of {', '.join(map(repr, effect.states))}, got {module!r}; "
            "name one that was run"
        )
    states = effect.states[path]
    place = place_of("sample", labels_on(states, "sample"), sample)
    length = int(states["length"].values[place])
    before, after, over_time = _pair(effect, states, place, time_axis)
    chosen = _most_changed(before, after, outputs)
    heights = [240.0, 160.0] if traced is not None else [280.0]
    heads = ["output", f"change of {label(variable)}"] if traced is not None else []
    figure = panels(heights, heads, shared_xaxes=over_time, between=40 if over_time else 70)
    facts = [named_sample(states, place), "before dotted, after solid" if over_time else None]
    if over_time:
        steps = steps_of(states, place, length)
        _add_pairs(figure, steps, before[:length, chosen], after[:length, chosen], chosen)
    else:
        _add_bar_pairs(figure, before[0, chosen], after[0, chosen], chosen)
    if traced is not None:
        which = {"sample": place, "layer": layer, "direction": direction}
        facts += heat_of_change(figure, 2, traced, states, variable, **which)[1][:2]
    figure.update_layout(legend={"y": 1, "yanchor": "top"} | ({"x": 1.09} if traced is not None else {}))
    figure.update_yaxes(title_text="output", row=1, col=1)
    if traced is None and over_time:
        figure.update_xaxes(title_text="time")
    return titled(figure, title, "What if", facts)


def _answers(found: Any, place: int) -> list[str]:
    """f(x) and f(baseline), in words."""
    named = {"output": "answer", "baseline_output": "of the baseline"}
    return [
        f"{told} {short(float(np.atleast_1d(found[name].values)[place]))}"
        for name, told in named.items()
        if name in found
    ]


def _by_feature(values: Numbers, steps: Steps, features: list[str]) -> go.Figure:
    """values (T, F): a heat map, and above it each step's sum."""
    titles = ["sum of each step", "attribution"]
    figure = panels([90, min(max(18 * len(features), 90), 320)], titles, shared_xaxes=True)
    _add_bars(figure, 1, steps, values.sum(1))
    heat = add_heat(figure, 2, steps, values, features, colours("attribution", values, gate=False))
    heat.update(hovertemplate="feature %{y} at %{x}: %{z:+.3g}<extra></extra>")
    if len(features) <= 18:
        figure.update_yaxes(tickvals=list(range(len(features))), ticktext=features, row=2, col=1)
    figure.update_xaxes(title_text="time", row=2, col=1)
    figure.update_yaxes(title_text="feature", row=2, col=1)
    return figure


def _add_bars(figure: go.Figure, row: int, steps: Steps, values: Numbers) -> None:
    sides = np.where(values < 0, SIGNED[1], SIGNED[3])
    figure.add_bar(
        x=steps.at,
        y=values,
        marker={"color": sides, "line": {"width": 0}},
        hovertemplate="%{x}: %{y:+.3g}<extra></extra>",
        showlegend=False,
        row=row,
        col=1,
    )
    figure.update_xaxes(steps.axis, row=row, col=1)
    figure.update_yaxes(zeroline=True, zerolinecolor=QUIET, zerolinewidth=1, row=row, col=1)


def _texts(steps: Steps) -> list[str]:
    """The words of an axis of words: each without its place behind it."""
    return [name.rsplit(" (", 1)[0] for name in steps.at]


def _as_text(values: Numbers, texts: list[str]) -> go.Figure:
    """values (T,): each word on its colour, in lines as a text has them."""
    widths = [max(len(text), 1) + 0.8 for text in texts]
    lefts: list[float] = []
    lines: list[int] = []
    across = 0.0
    for width in widths:
        if across and across + width > ACROSS:
            across = 0.0
        lines.append((lines[-1] + (across == 0.0)) if lines else 0)
        lefts.append(across)
        across += width
    count = 1 + max(lines, default=0)
    figure = panels([max(34 * count, 60)])
    limit = signed_limit(values)
    bar = {
        "title": {"text": "attribution", "side": "top"},
        "orientation": "h",
        "lenmode": "pixels",
        "len": 220,
        "thickness": 10,
        "outlinewidth": 0,
        "x": 0,
        "xanchor": "left",
        "y": 0,
        "yanchor": "top",
        "tickvals": [-limit, 0, limit],
        "ticktext": [short(end) for end in (-limit, 0.0, limit)],
    }
    dark = np.abs(values) > 0.45 * limit
    figure.add_bar(
        x=[left + width / 2 for left, width in zip(lefts, widths, strict=True)],
        y=[0.78] * len(texts),
        base=[-float(line) - 0.78 for line in lines],
        width=[width - 0.15 for width in widths],
        text=texts,
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="none",
        textfont={"color": np.where(dark, "#ffffff", INK), "size": 14, "family": "monospace"},
        marker={
            "color": values,
            "colorscale": ramp(SIGNED),
            "cmin": -limit,
            "cmax": limit,
            "colorbar": bar,
            "line": {"width": 0},
            "cornerradius": 3,
        },
        hovertemplate="%{text}: %{marker.color:+.3g}<extra></extra>",
        showlegend=False,
    )
    hidden = {"visible": False, "fixedrange": True}
    figure.update_xaxes(hidden, range=[-0.5, max(ACROSS, max(widths, default=1)) + 0.5])
    figure.update_yaxes(hidden, range=[-count, 0.2])
    figure.update_layout(uniformtext={"mode": False}, barmode="overlay")
    return figure


def _pair(effect: Any, states: Any, place: int, time_axis: int | None) -> tuple[Numbers, Numbers, bool]:
    """Before and after of this row, (T, K) or (1, K), and whether it is over time. Raises ArgumentError."""
    if time_axis not in (None, 0, 1):
        raise ArgumentError(f"time_axis: expected 0, 1 or None, got {time_axis!r}")
    rows, steps = states.sizes["sample"], states.sizes["time"]
    pair = [_first(output) for output in (effect.before, effect.after)]
    shape = pair[0].shape
    if shape[:2] == (rows, steps) and time_axis != 0:
        found = [values[place] for values in pair]
    elif shape[:2] == (steps, rows) and time_axis != 1:
        found = [values[:, place] for values in pair]
    elif shape[:1] == (rows,) and time_axis is None:
        return pair[0][place].reshape(1, -1), pair[1][place].reshape(1, -1), False
    else:
        raise ArgumentError(
            f"effect: expected a model that returns (N, ...) for N = {rows} rows, or with T = {steps} steps, "
            f"got {tuple(shape)}; what_if has both outputs as `before` and `after`"
        )
    count = len(found[0])
    return found[0].reshape(count, -1), found[1].reshape(count, -1), True


def _first(output: Any) -> Numbers:
    """The first tensor of what a model returns; a PackedSequence as a batch (N, T, ...)."""
    while isinstance(output, (tuple, list)) and output and not isinstance(output, PackedSequence):
        output = output[0]
    if isinstance(output, PackedSequence):
        output = pad_packed_sequence(output, batch_first=True)[0]
    if not isinstance(output, torch.Tensor):
        raise ArgumentError(
            f"effect: expected a model that returns a tensor first, got {type(output).__name__}; what_if has "
            "both outputs as `before` and `after`"
        )
    found: Numbers = output.detach().cpu().double().numpy()
    return found


def _most_changed(before: Numbers, after: Numbers, outputs: Sequence[int] | None) -> list[int]:
    """Which columns to draw. Raises ArgumentError."""
    count = before.shape[1]
    if outputs is None:
        change = np.nan_to_num(np.abs(after - before)).max(0, initial=0)
        return sorted(np.argsort(-change, kind="stable")[:MOST_LINES].tolist())
    wrong = [one for one in outputs if not 0 <= one < count]
    if wrong or not len(outputs):
        raise ArgumentError(
            f"outputs: expected numbers from 0 to {count - 1}, got {wrong[0] if wrong else 'none'}; name "
            "some of what the model returns for each step"
        )
    return [int(one) for one in outputs]


def _add_pairs(figure: go.Figure, steps: Steps, before: Numbers, after: Numbers, chosen: list[int]) -> None:
    for rank, number in enumerate(chosen):
        for values, word, dash in ((before, "before", "dot"), (after, "after", "solid")):
            figure.add_scatter(
                x=steps.at,
                y=values[:, rank],
                name=f"{number}" if word == "after" else f"{number} before",
                legendgroup=str(number),
                showlegend=word == "after" and len(chosen) > 1,
                mode="lines" if len(values) > 1 else "markers",
                line={"color": LINES[rank % len(LINES)], "dash": dash, "width": 2},
                hovertemplate="%{y:.4g}",
                row=1,
                col=1,
            )
    figure.update_xaxes(steps.axis, row=1, col=1)
    figure.update_layout(hovermode="x unified")


def _add_bar_pairs(figure: go.Figure, before: Numbers, after: Numbers, chosen: list[int]) -> None:
    at = [str(number) for number in chosen]
    for values, word, colour in ((before, "before", "#9aa5b1"), (after, "after", LINES[0])):
        figure.add_bar(
            x=at,
            y=values,
            name=word,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="%{y:.4g}",
            row=1,
            col=1,
        )
    figure.update_xaxes(type="category", title_text="number of the output", row=1, col=1)
    figure.update_layout(barmode="group", bargap=0.3)
