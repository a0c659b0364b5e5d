"""Figures of the lens, by Plotly: `plot` draws any result, `plot_trace` and `plot_unit` a trace.

    figure = plot(trace(model, x))              # a heat map of every gate and state
    figure.show()                               # in a notebook or a browser
    save_figure(figure, "gates.pdf")            # for a paper

For each function of the lens there is one that draws what it returns, under its name after `plot_`. Each
returns a `plotly.graph_objects.Figure`, which can be changed like any other. What was already chosen, as in
`traced.sel(layer=1)`, stays chosen.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recurra.errors import ArgumentError
from recurra.lens.figures_style import (
    EDGE,
    INK,
    Steps,
    add_heat,
    checked,
    colours,
    label,
    labels_on,
    module_name,
    named_sample,
    panels,
    place_of,
    spread,
    steps_of,
    titled,
    tone,
    what_it_is,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from xarray import DataArray, Dataset

# a variable that only this result has → who draws it; those of a trace are in others too, so it comes last
_KNOWN = {
    "attribution": ("figures_inputs", "plot_attribution"),
    "effective_context": ("figures_memory", "plot_effective_context"),
    "time_constant": ("figures_memory", "plot_time_constants"),
    "hidden_half_life": ("figures_memory", "plot_half_life"),
    "hidden_range": ("figures_memory", "plot_saturation"),
    "geometric_mean": ("figures_gradients", "plot_spectra"),
    "flow": ("figures_gradients", "plot_side_by_side"),
    "length": ("plots", "plot_trace"),
}
_CLASSES = {
    "GradientFlow": ("figures_gradients", "plot_gradient_flow"),
    "Effect": ("figures_inputs", "plot_what_if"),
}
AXES = ("layer", "direction", "sample")


def plot(result: Any, **options: Any) -> go.Figure:
    """The figure of any result of the lens.

    result: what `trace`, `time_constants`, `half_life`, `saturation`, `compare`, `effective_context`,
    `gradient_flow`, `side_by_side`, `spectra`, `integrated_gradients`, `occlusion` or `what_if` returns.
    options: those of the function that draws it: `plot_trace`, `plot_time_constants`, `plot_half_life`,
    `plot_saturation`, `plot_effective_context`, `plot_gradient_flow`, `plot_side_by_side`, `plot_spectra`,
    `plot_attribution` or `plot_what_if`. Raises ArgumentError for anything else, and what these raise.

    For example::

        plot(trace(model, x), sample=1).show()
    """
    found = _CLASSES.get(type(result).__name__)
    if found is None:
        variables = getattr(result, "data_vars", ())
        # the states of a gradient_flow have hidden and length, too
        known = () if "hidden_mean" in variables else _KNOWN.items()
        found = next((drawer for variable, drawer in known if variable in variables), None)
    if found is None:
        raise ArgumentError(
            "result: expected what a function of recurra.lens returns, such as trace, time_constants, "
            f"gradient_flow or what_if, got {what_it_is(result)}"
        )
    module, name = found
    figure: go.Figure = getattr(importlib.import_module(f"recurra.lens.{module}"), name)(result, **options)
    return figure


def plot_trace(
    traced: Dataset,
    variables: str | Sequence[str] | None = None,
    *,
    sample: Any = 0,
    layer: int | None = None,
    direction: str | None = None,
    units: Sequence[int] | None = None,
    title: str | None = None,
) -> go.Figure:
    """Heat maps of gates and states, units by steps, one beneath the other over the same time.

    traced: what `trace` returns. variables: one or several of its gates and states; None: all of them.
    sample: by its place or its label. layer, direction: None for the first that there is. units: which, in
    this order; None: all. title: None for the layer's name, "" for none.

    A gate's colours go from 0 to 1, those of a signed number (candidate, cell, hidden) as far as the largest
    size in any sample of the layer and direction, so that samples can be compared. Time has the labels of
    the trace: stamps and numbers that grow as an axis, words one by one.

    Raises ArgumentError for what the trace has not.

    For example::

        traced = trace(model, x, time=list("what is this"))
        plot_trace(traced, ["forget", "cell"], sample=1, layer=0)
    """
    names = _variables(traced, variables)
    places, facts = _chosen(traced, sample, layer, direction)
    steps, length = _steps(traced, places[2])
    parts = [spread(traced[name], AXES) for name in names]
    titles = [_unit_axis(part) for part in parts]
    counts = [part.sizes[axis] for part, axis in zip(parts, titles, strict=True)]
    picked = [_picked(count, units) for count in counts]
    heights = [min(max(7 * len(chosen), 84), 190) for chosen in picked]
    figure = panels(heights, [label(name) for name in names], shared_xaxes=True)
    rows = zip(names, parts, picked, titles, strict=True)
    for row, (name, part, chosen, axis) in enumerate(rows, start=1):
        every = np.asarray(part.values[places[:2]], dtype=float)[..., chosen]  # (N, T, chosen)
        scale = colours(name, every, _is_gate(traced, name))
        shown = [str(label) for label in np.asarray(labels_on(part, axis))[chosen]]
        heat = add_heat(figure, row, steps, every[places[2], :length], shown, scale)
        heat.update(
            name=name,
            hovertemplate=f"{name} of {axis} %{{y}} at %{{x}}: %{{z:.3f}}<extra></extra>",
        )
        figure.update_yaxes(title_text=axis, row=row, col=1)
    figure.update_xaxes(title_text="time", row=len(names), col=1)
    return titled(figure, title, f"{module_name(traced)}: gates and states", facts)


def plot_unit(
    traced: Dataset,
    unit: int,
    *,
    sample: Any = 0,
    layer: int | None = None,
    direction: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """One unit over time: its gates above, from 0 to 1; its candidate, cell and hidden state beneath.

    traced: what `trace` returns. unit: which, 0 to H - 1. The other arguments, and the labels of time: those
    of `plot_trace`. A hidden state that is projected belongs to no unit and is left out. Raises ArgumentError
    for what the trace has not.

    For example::

        plot_unit(trace(model, x), 7, direction="reverse")
    """
    names = [name for name in _variables(traced, None) if "projection" not in traced[name].dims]
    places, facts = _chosen(traced, sample, layer, direction)
    steps, length = _steps(traced, places[2])
    known = labels_on(traced[names[0]], "unit")
    if isinstance(unit, bool) or unit not in known:
        raise ArgumentError(
            f"unit: expected one of {known[0]} to {known[-1]}, got {unit!r}; name one that there is"
        )
    values = {
        name: np.asarray(spread(traced[name], (*AXES, "unit")).values[(*places, known.index(unit))], float)
        for name in names
    }
    gates = [name for name in names if _is_gate(traced, name) and not (values[name] < 0).any()]
    groups = [group for group in (gates, [name for name in names if name not in gates]) if group]
    titles = ["gates" if group is gates else ", ".join(group) for group in groups]
    figure = panels([180] * len(groups), titles, shared_xaxes=True)
    for row, group in enumerate(groups, start=1):
        for name in group:
            # hidden in ink, for its own tone is near to that of the axes
            colour = INK if name == "hidden" else tone(name)
            line = {"color": colour, "width": 2, "dash": "dot" if name == "candidate" else "solid"}
            figure.add_scatter(
                x=steps.at,
                y=values[name][:length],
                name=name,
                mode="lines" if length > 1 else "markers",
                line=line,
                hovertemplate="%{y:.3f}",
                row=row,
                col=1,
            )
        figure.update_xaxes(steps.axis, row=row, col=1)
        figure.update_yaxes(title_text="value", row=row, col=1)
        if group is gates and max(np.nanmax(values[name][:length], initial=0) for name in gates) <= 1:
            figure.update_yaxes(range=[-0.03, 1.03], row=row, col=1)
        if group is not gates:
            figure.update_yaxes(zeroline=True, zerolinecolor=EDGE, row=row, col=1)
    figure.update_xaxes(title_text="time", row=len(groups), col=1)
    figure.update_layout(hovermode="x unified", legend={"y": 1, "yanchor": "top"})
    return titled(figure, title, f"{module_name(traced)}: unit {unit}", facts)


def heat_of_change(
    figure: go.Figure, row: int, before: Dataset, after: Dataset, variable: str, **which: Any
) -> tuple[int, list[str]]:
    """The heat map of a variable's change between two traces, in this row. Returns its steps, and facts."""
    _variables(before, variable)
    places, facts = _chosen(after, which["sample"], which["layer"], which["direction"])
    steps, length = _steps(after, places[2])
    pair = [spread(each[variable], AXES) for each in (before, after)]
    if pair[0].sizes != pair[1].sizes:
        raise ArgumentError(
            f"traced: expected a trace of what was edited, {dict(pair[1].sizes)}, got {dict(pair[0].sizes)}; "
            "trace the same module on the same input"
        )
    change = np.asarray(pair[1].values - pair[0].values, dtype=float)[places[:2]]
    axis = _unit_axis(pair[1])
    shown = [str(label) for label in labels_on(pair[1], axis)]
    scale = colours(variable, change, gate=False)
    heat = add_heat(figure, row, steps, change[places[2], :length], shown, scale)
    heat.update(hovertemplate=f"{axis} %{{y}} at %{{x}}: %{{z:+.3g}}<extra></extra>")
    figure.update_yaxes(title_text=axis, row=row, col=1)
    figure.update_xaxes(title_text="time", row=row, col=1)
    return length, facts


def _variables(traced: Any, wanted: str | Sequence[str] | None) -> list[str]:
    """Which gates and states to draw. Raises ArgumentError."""
    checked(traced, "hidden", "trace", ("time",))
    checked(traced, "length", "trace")
    known = [name for name, values in traced.data_vars.items() if "time" in values.dims]
    names = known if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ArgumentError(
            f"variables: expected some of {', '.join(map(repr, known))}, got "
            f"{unknown[0] if unknown else names!r}; name what this trace has"
        )
    return names


def _chosen(traced: Any, sample: Any, layer: Any, direction: Any) -> tuple[tuple[int, int, int], list[str]]:
    """The places of layer, direction and sample, and the facts in words. Raises ArgumentError."""
    wanted = {"layer": layer, "direction": direction, "sample": sample}
    known = {name: labels_on(traced, name) for name in wanted}
    layer, direction, sample = (place_of(name, known[name], one) for name, one in wanted.items())
    facts = [
        f"layer {known['layer'][layer]}",
        label(known["direction"][direction]),
        named_sample(traced, sample),
    ]
    return (layer, direction, sample), facts


def _steps(traced: Any, sample: int) -> tuple[Steps, int]:
    """The axis of time of this sample, and how many steps it has."""
    length = int(min(np.atleast_1d(traced["length"].values)[sample], traced.sizes["time"]))
    return steps_of(traced, sample, length), length


def _unit_axis(values: DataArray) -> str:
    return "projection" if "projection" in values.dims else "unit"


def _picked(count: int, units: Sequence[int] | None) -> list[int]:
    """Places of these units. Raises ArgumentError."""
    picked = list(range(count)) if units is None else [int(unit) for unit in units]
    wrong = [unit for unit in picked if not 0 <= unit < count]
    if wrong or not picked:
        raise ArgumentError(
            f"units: expected numbers from 0 to {count - 1}, got {wrong[0] if wrong else 'none'}; "
            "name units that there are"
        )
    return picked


def _is_gate(traced: Any, name: str) -> bool:
    return name in traced.attrs.get("gates", ()) and name != "candidate"
