"""The lens: what a recurrent network does inside, as labelled arrays and drawings.

    from recurra import lens
    traced = lens.trace(model, x)               # xarray.Dataset: every gate and state
    lens.time_constants(traced)                 # how long each unit remembers, in steps

It works on the layers of `recurra.nn`, on those of torch inside any module, and on a fitted
`recurra.Forecaster`. `lens.plot(result)` draws what any of it returns. All but the drawings need
`pip install recurra[lens]`. Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recurra.lens.attribution import integrated_gradients, occlusion
    from recurra.lens.calls import recurrent_modules
    from recurra.lens.cell_diagrams import cell_diagram
    from recurra.lens.context import effective_context
    from recurra.lens.diagrams import diagram, draw_in_notebooks
    from recurra.lens.edit import Edit, edited, what_if
    from recurra.lens.figures_files import save_figure
    from recurra.lens.figures_gradients import plot_gradient_flow, plot_side_by_side, plot_spectra
    from recurra.lens.figures_inputs import plot_attribution, plot_what_if
    from recurra.lens.figures_memory import (
        plot_effective_context,
        plot_half_life,
        plot_saturation,
        plot_time_constants,
    )
    from recurra.lens.gradients import gradient_flow, side_by_side
    from recurra.lens.jacobians import spectra
    from recurra.lens.memory import compare, half_life, saturation, time_constants
    from recurra.lens.plots import plot, plot_trace, plot_unit
    from recurra.lens.search import best, marked, nearest_states, ranges_like, units_following, units_on
    from recurra.lens.tracing import trace, trace_all

__all__ = [
    "Edit",
    "best",
    "cell_diagram",
    "compare",
    "diagram",
    "draw_in_notebooks",
    "edited",
    "effective_context",
    "gradient_flow",
    "half_life",
    "integrated_gradients",
    "marked",
    "nearest_states",
    "occlusion",
    "plot",
    "plot_attribution",
    "plot_effective_context",
    "plot_gradient_flow",
    "plot_half_life",
    "plot_saturation",
    "plot_side_by_side",
    "plot_spectra",
    "plot_time_constants",
    "plot_trace",
    "plot_unit",
    "plot_what_if",
    "ranges_like",
    "recurrent_modules",
    "saturation",
    "save_figure",
    "side_by_side",
    "spectra",
    "time_constants",
    "trace",
    "trace_all",
    "units_following",
    "units_on",
    "what_if",
]

# the module that has each name; no function is called as its module, which would take its place here
_HOME = {
    "Edit": "edit",
    "best": "search",
    "cell_diagram": "cell_diagrams",
    "compare": "memory",
    "diagram": "diagrams",
    "draw_in_notebooks": "diagrams",
    "edited": "edit",
    "effective_context": "context",
    "gradient_flow": "gradients",
    "half_life": "memory",
    "integrated_gradients": "attribution",
    "marked": "search",
    "nearest_states": "search",
    "occlusion": "attribution",
    "plot": "plots",
    "plot_attribution": "figures_inputs",
    "plot_effective_context": "figures_memory",
    "plot_gradient_flow": "figures_gradients",
    "plot_half_life": "figures_memory",
    "plot_saturation": "figures_memory",
    "plot_side_by_side": "figures_gradients",
    "plot_spectra": "figures_gradients",
    "plot_time_constants": "figures_memory",
    "plot_trace": "plots",
    "plot_unit": "plots",
    "plot_what_if": "figures_inputs",
    "ranges_like": "search",
    "recurrent_modules": "calls",
    "saturation": "memory",
    "save_figure": "figures_files",
    "side_by_side": "gradients",
    "spectra": "jacobians",
    "time_constants": "memory",
    "trace": "tracing",
    "trace_all": "tracing",
    "units_following": "search",
    "units_on": "search",
    "what_if": "edit",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recurra.lens' has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f"recurra.lens.{_HOME[name]}"), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
