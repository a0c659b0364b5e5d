"""Figures of gradients through time: norms by step, several networks beside each other, singular values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recurra.errors import ArgumentError
from recurra.lens.figures_style import (
    DASHES,
    LINES,
    QUIET,
    Numbers,
    checked,
    label,
    labels_on,
    logarithmic,
    module_name,
    named_sample,
    panels,
    place_of,
    short,
    steps_of,
    titled,
    what_it_is,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from xarray import Dataset

    from recurra.lens.gradients import GradientFlow

SYMBOLS = {"hidden": "h", "cell": "c"}


def plot_gradient_flow(
    flow: GradientFlow,
    *,
    sample: Any = None,
    module: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """The norm of the gradient at each step, on a logarithmic axis: a panel for each state.

    flow: what `gradient_flow` returns. sample: by its place or its label; None: the mean over rows. module:
    a key of `flow.states`; None: the first. A line for each layer and direction, with its verdict in the
    legend. A gradient of exactly 0 cannot stand there and leaves a gap. Raises ArgumentError for what the
    flow has not.

    For example::

        plot_gradient_flow(gradient_flow(model, x, loss=lambda output: output[:, -1].sum()))
    """
    if not hasattr(flow, "states") or not hasattr(flow, "verdicts"):
        raise ArgumentError(
            f"result: expected what recurra.lens.gradient_flow returns, got {what_it_is(flow)}; "
            "recurra.lens.plot draws any result of the lens"
        )
    path = next(iter(flow.states)) if module is None else module
    if path not in flow.states:
        raise ArgumentError(
            f"module: expected one of {', '.join(map(repr, flow.states))}, got {module!r}; "
            "name one that the flow has"
        )
    data: Any = flow.states[path]
    place = None if sample is None else place_of("sample", labels_on(data, "sample"), sample)
    length = int(data["length"].max() if place is None else data["length"].values[place])
    # the mean over rows has the words of none
    labelled = data.drop_vars("label", errors="ignore") if place is None else data
    steps = steps_of(labelled, place or 0, length)
    names = [name for name in ("cell", "hidden") if name in data]
    figure = panels([230] * len(names), [_norm(name) for name in names], shared_xaxes=True)
    verdicts = {(each.layer, each.direction): each.word for each in flow.verdicts if each.module == path}
    for row, name in enumerate(names, start=1):
        values = data[f"{name}_mean"] if place is None else data[name].isel(sample=place)
        together = values.values[..., :length]
        figure.update_yaxes(logarithmic(together), title_text="norm", row=row, col=1)
        figure.update_xaxes(steps.axis, row=row, col=1)
        sides = labels_on(data, "direction")
        for depth, layer in enumerate(labels_on(data, "layer")):
            for side, direction in enumerate(sides):
                words = f"layer {layer}" + (f" {direction}" if len(sides) > 1 else "")
                _add_norms(
                    figure,
                    row,
                    steps.at,
                    together[depth, side],
                    name=f"{words}: {verdicts.get((depth, direction), '')}".rstrip(": "),
                    legendgroup=words,
                    showlegend=row == 1,
                    line={"color": LINES[depth % len(LINES)], "dash": DASHES[2 * side], "width": 2},
                )
    figure.update_xaxes(title_text="time", row=len(names), col=1)
    which = "mean over rows" if place is None else named_sample(data, place)
    figure.update_layout(hovermode="x unified")
    return titled(figure, title, f"{module_name(data)}: gradient flow", [f"loss {short(flow.loss)}", which])


def plot_side_by_side(found: Dataset, *, sample: Any = None, title: str | None = None) -> go.Figure:
    """The gradient that reaches each step, for several networks on one input, on a logarithmic axis.

    found: what `side_by_side` returns. sample: by its place; None: the mean over rows. Of each network the
    state that is judged: the cell state where there is one. Raises ArgumentError for another Dataset.

    For example::

        plot_side_by_side(side_by_side(torch.randn(2, 40, 3)))
    """
    checked(found, "flow", "side_by_side", ("network", "sample", "time"))
    values = found["flow"].transpose("network", "sample", "time")
    place = None if sample is None else place_of("sample", labels_on(found, "sample"), sample)
    drawn = np.asarray(values.mean("sample") if place is None else values[:, place], dtype=float)
    steps = steps_of(found, place or 0, drawn.shape[1])
    figure = panels([320])
    for rank, network in enumerate(labels_on(found, "network")):
        word, rate = str(found["verdict"].values[rank]), float(found["rate"].values[rank])
        _add_norms(
            figure,
            1,
            steps.at,
            drawn[rank],
            name=f"{label(network)}: {word}, × {rate:.3g} a step",
            line={"color": LINES[rank % len(LINES)], "width": 2, "dash": DASHES[rank // len(LINES) % 4]},
        )
    figure.update_xaxes(steps.axis, title_text="time")
    figure.update_yaxes(logarithmic(drawn), title_text="norm of ∂L/∂c<sub>t</sub>, or ∂L/∂h<sub>t</sub>")
    figure.update_layout(hovermode="x unified", showlegend=True)
    which = "mean over rows" if place is None else named_sample(found, place)
    return titled(figure, title, "Gradient flow, side by side", [which])


def plot_spectra(
    found: Dataset, block: str | None = None, *, sample: Any = 0, title: str | None = None
) -> go.Figure:
    """Singular values of ∂h_t/∂h_{t-k} against the lag k, both axes logarithmic.

    found: what `spectra` returns. block: "cell" for ∂c_t/∂c_{t-k}, "hidden", or "state" for h and c together,
    of which there are the largest, the smallest and the geometric mean alone; None: "hidden". sample: by its
    place. Points are singular values; the line of 1 is where nothing is stretched or lost. Raises
    ArgumentError for what is not there.

    For example::

        plot_spectra(spectra(layer, x, lags=[1, 2, 5, 10, 20]))
    """
    checked(found, "geometric_mean", "spectra", ("sample", "lag", "block"), ("layer", "direction", "module"))
    blocks, samples = labels_on(found, "block"), labels_on(found, "sample")
    name = "hidden" if block is None else block
    if name not in blocks:
        raise ArgumentError(
            f"block: expected one of {', '.join(map(repr, blocks))}, got {block!r}; name one that there is"
        )
    place, lags = place_of("sample", samples, sample), found["lag"].values
    figure = panels([320])
    told = {
        key: np.asarray(found[key].transpose("sample", "lag", "block").values[place, :, blocks.index(name)])
        for key in ("largest", "geometric_mean", "smallest")
    }
    if name in found:
        every = np.asarray(
            found[name].transpose("sample", "lag", ...).values[place], dtype=float
        )  # (lags, H)
        figure.add_scatter(
            x=np.repeat(lags, every.shape[1]),
            y=_positive(every).ravel(),
            mode="markers",
            name="singular values",
            marker={"color": LINES[0], "size": 5, "opacity": 0.35},
            hovertemplate="%{y:.3g} at lag %{x}<extra></extra>",
        )
    for (key, values), dash in zip(told.items(), ("solid", "dash", "dot"), strict=True):
        figure.add_scatter(
            x=lags,
            y=_positive(values),
            name=key.replace("_", " "),
            mode="lines+markers",
            marker={"size": 4},
            line={"color": LINES[0], "width": 2, "dash": dash},
            hovertemplate="%{y:.3g} at lag %{x}",
        )
    figure.add_hline(y=1, line={"color": QUIET, "width": 1, "dash": "dot"})
    figure.update_xaxes(type="log", tickvals=lags if len(lags) <= 12 else None, title_text="lag k, in steps")
    figure.update_yaxes(
        logarithmic(np.concatenate([told["largest"], told["smallest"], [1.0]])), title_text="singular value"
    )
    symbol = SYMBOLS.get(name, "(h, c)")
    where = [f"layer {found.attrs['layer']}", found.attrs["direction"], named_sample(found, place)]
    usual = f"Singular values of ∂{symbol}<sub>t</sub>/∂{symbol}<sub>t−k</sub>"
    return titled(figure, title, usual, [*(filter(None, [label(found.attrs["module"])])), *where])


def _norm(name: str) -> str:
    return f"norm of ∂L/∂{SYMBOLS[name]}<sub>t</sub>, of the {name} state"


def _positive(values: Numbers) -> Numbers:
    """NaN, and so a gap, for what cannot stand on a logarithmic axis."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _add_norms(figure: go.Figure, row: int, at: Any, values: Numbers, **style: Any) -> None:
    mode = "lines+markers" if len(values) <= 12 else "lines"
    figure.add_scatter(
        x=at, y=_positive(values), mode=mode, hovertemplate="%{y:.3g}", row=row, col=1, **style
    )
