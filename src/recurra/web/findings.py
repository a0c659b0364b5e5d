"""What the tabs beside *Watch it run* ask of the lens, as plain numbers that JSON can hold.

Axes: N batch, T time, F features, H hidden, K numbers of the output.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recurra.errors import ArgumentError
from recurra.lens.attribution import integrated_gradients, occlusion
from recurra.lens.context import effective_context
from recurra.lens.diagrams import diagram
from recurra.lens.edit import Edit, what_if
from recurra.lens.gradients import gradient_flow, side_by_side
from recurra.lens.memory import half_life, saturation, time_constants
from recurra.lens.tracing import DIRECTIONS, trace
from recurra.nn import GRU, LSTM, RNN, init
from recurra.web.recording import MOST_STEPS, Recording, packed
from recurra.web.subject import Sample, Subject

ROWS = 16
"""Samples of one shape that are looked at together."""
LAGS, SHOWN = 24, 64
"""Lags of the effective context that are measured, and units that are switched off one by one."""
WINDOWS = 100
"""Pieces of a sample that are covered one by one; of a longer one several steps at once."""
Inputs = tuple[Tensor, ...]


def together(subject: Subject, sample: Sample) -> Inputs:
    """The sample and those of the first ROWS of the data that have its shape, as one batch."""
    rows = [sample.inputs]
    for index in range(min(len(subject.titles), ROWS)):
        inputs = subject.sample(index).inputs
        if all(a.shape == b.shape for a, b in zip(inputs, sample.inputs, strict=True)):
            rows.append(inputs)
    return tuple(torch.cat(parts, dim=subject.axis) for parts in zip(*rows[:ROWS], strict=True))


def memory(subject: Subject, inputs: Inputs, path: str, layer: int, direction: int) -> dict[str, Any]:
    """How long each unit remembers: by its gates where it has such, and measured; how open the gates are."""
    at = {"layer": layer, "direction": DIRECTIONS[direction]}
    traced = trace(subject.network, *inputs, module=path)
    found: dict[str, Any] = {"rows": int(traced.sizes["sample"]), "time_constant": None}
    if "forget" in traced.attrs["gates"] or "update" in traced.attrs["gates"]:
        try:
            found["time_constant"] = plain(time_constants(traced)["time_constant"].sel(at).values)
        except ArgumentError:
            found["time_constant"] = None  # gates that are relative, as an sLSTM's, tell no time
    states = saturation(traced).sel(at)
    found["gates"] = {
        name: {
            "shut": plain(states[name].sel(end="shut").values),
            "open": plain(states[name].sel(end="open").values),
        }
        for name in traced.attrs["gates"]
        if name in states
    }
    found["dead"] = int(states["dead"].sum())
    measured = half_life(subject.network, *inputs, module=path, draws=2).sel(at)
    for name in ("hidden", "cell"):
        if f"{name}_fade" in measured:
            found[f"{name}_half_life"] = plain(measured[f"{name}_half_life"].values)
            found[f"{name}_fade"] = plain(np.nanmean(measured[f"{name}_fade"].values, axis=-1))
    return found


def context(subject: Subject, inputs: Inputs) -> dict[str, Any]:
    """How far back a change of the input still moves the network's answer."""
    steps = inputs[0].shape[1 - subject.axis]
    lags = sorted({int(lag) for lag in np.linspace(0, steps - 1, min(LAGS, steps)).round()})
    found = effective_context(
        subject.network, *inputs, lags=lags, draws=2, time_axis=1 - subject.axis, read=subject.numbers
    )
    return {
        "lags": lags,
        "relative": plain(found["relative"].values),
        "context": plain(found["effective_context"].values),
    }


def gradients(subject: Subject, inputs: Inputs, path: str) -> dict[str, Any]:
    """‖∂L/∂h_t‖ and ‖∂L/∂c_t‖ of the layer's depths and directions, L the sum of the answer; and verdicts."""
    flow = gradient_flow(subject.network, *inputs, loss=lambda output: subject.numbers(output).sum())
    found = []
    if path in flow.states:
        states = flow.states[path]
        for layer in range(states.sizes["layer"]):
            for place, direction in enumerate(DIRECTIONS[: states.sizes["direction"]]):
                here = states.isel(layer=layer, direction=place)
                lines = {
                    n: plain(here[f"{n}_mean"].values) for n in ("hidden", "cell") if f"{n}_mean" in here
                }
                found.append({"layer": layer, "direction": direction, **lines})
    told = [
        {
            "module": verdict.module,
            "layer": verdict.layer,
            "direction": verdict.direction,
            "word": verdict.word,
            "back": verdict.back,
            "rate": plain(verdict.rate),
            "advice": list(verdict.advice),
        }
        for verdict in flow.verdicts
    ]
    return {"lines": found, "verdicts": told}


def compared(recording: Recording, hidden: int = 33) -> dict[str, Any]:
    """The same for new networks side by side on what the layer read: who keeps gradients alive."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = recording.x[None]
        features = x.shape[2]
        layers: dict[str, nn.Module] = {
            "RNN": RNN(features, hidden, batch_first=True),
            "GRU": GRU(features, hidden, batch_first=True),
            "LSTM": LSTM(features, hidden, batch_first=True),
        }
        kept = LSTM(features, hidden, batch_first=True)
        init.forget_bias_(kept, 4.0)
        layers["LSTM, b_f = 4"] = kept
        found = side_by_side(x, layers=layers)
    return {name: plain(found["flow"].sel(network=name).values[0]) for name in layers}


def mattered(subject: Subject, inputs: Inputs, component: int, method: str) -> dict[str, Any]:
    """Which inputs mattered for one number of the answer: (T, F), or (T) of words. Raises ArgumentError."""

    def target(output: Any) -> Tensor:
        numbers = subject.numbers(output)
        if not 0 <= component < numbers.shape[1]:
            raise ArgumentError(
                f"component: expected 0 to {numbers.shape[1] - 1}, got {component}; choose another"
            )
        return numbers[:, component]

    if method == "occlusion":
        steps = inputs[0].shape[1 - subject.axis]
        found = occlusion(subject.network, *inputs, target=target, window=(-(-steps // WINDOWS), 1))
    elif method == "gradients":
        embedding = None
        if not inputs[0].is_floating_point():
            embedding = next((m for m in subject.network.modules() if isinstance(m, nn.Embedding)), None)
        found = integrated_gradients(subject.network, *inputs, target=target, embedding=embedding)
    else:
        raise ArgumentError(
            f"method: expected occlusion or gradients, got {method!r:.40}; choose one of them"
        )
    values = found["attribution"].values[0]
    return {"values": plain(values), "output": plain(found["output"].values[0])}


def edited(subject: Subject, inputs: Inputs, path: str, asked: dict[str, Any]) -> bytes:
    """The answer without and with an edit, and the layer's hidden states with it, packed as a trace is.

    asked: `name` of a gate or state, `to` a number or null, `scale`, `units` and `steps` lists or null,
    `layer`, `direction`.
    """
    edit = Edit(
        name=str(asked.get("name")),
        to=_float(asked, "to"),
        scale=_float(asked, "scale"),
        units=_numbers(asked, "units"),
        steps=_numbers(asked, "steps"),
        layer=int(asked.get("layer", 0)),
        direction=DIRECTIONS[int(asked.get("direction", 0))],
        module=path,
    )
    effect = what_if(subject.network, *inputs, edits=[edit])
    at = {"layer": edit.layer, "direction": edit.direction, "sample": 0}
    states = effect.states[path].sel(at)
    every = max(1, -(-states.sizes["time"] // MOST_STEPS))
    variables, payload = [], []
    for name in [n for n in ("cell", "hidden") if n in states]:
        values = np.nan_to_num(states[name].values[::every]).astype("<f4")
        variables.append({"name": name, "shape": values.shape, "units": values.shape[1], "units_every": 1,
                          "kind": "signed", "most": float(np.abs(values).max(initial=0.0))})  # fmt: skip
        payload.append(np.ascontiguousarray(values).tobytes())
    before, after = (plain(subject.numbers(output)[0][:12]) for output in (effect.before, effect.after))
    return packed({"before": before, "after": after, "every": every, "variables": variables}, payload)


def ablated(subject: Subject, inputs: Inputs, path: str, layer: int, direction: int) -> dict[str, Any]:
    """How far the answer moves when one unit is switched off, for each of the first SHOWN units."""
    traced = trace(subject.network, *inputs, module=path)
    name = "cell" if "cell" in traced else "hidden"
    units = min(SHOWN, int(traced[name].shape[-1]))

    def off(unit: int, row: int | None) -> Edit:
        return Edit(
            name, to=0.0, units=unit, samples=row, layer=layer, direction=DIRECTIONS[direction], module=path
        )

    if subject.kind == "forecast":  # its network calls the layer with other rows too
        runs = [what_if(subject.network, *inputs, edits=[off(unit, None)]) for unit in range(units)]
        moved = [subject.numbers(run.after)[0] - subject.numbers(run.before)[0] for run in runs]
    else:
        batch = tuple(one.repeat_interleave(units, dim=subject.axis) for one in inputs)
        run = what_if(subject.network, *batch, edits=[off(unit, unit) for unit in range(units)])
        moved = list(subject.numbers(run.after) - subject.numbers(run.before))
    sizes = [float(one.norm()) for one in moved]
    return {"state": name, "moved": plain(np.array(sizes))}


def drawn(subject: Subject, inputs: Inputs, theme: str) -> str:
    """The network's diagram as SVG, with the shapes of this sample."""
    return diagram(
        subject.network, inputs if len(inputs) > 1 else inputs[0], title=subject.title, theme=theme
    )


def plain(values: Any) -> Any:
    """Numbers as lists, and None for what JSON has no number for; infinity as 1e308."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    finite = np.where(np.isposinf(array), 1e308, array)

    def told(value: Any) -> Any:
        return [told(one) for one in value] if isinstance(value, list) else None if value != value else value

    return told(finite.tolist())


def _float(asked: dict[str, Any], name: str) -> float | None:
    value = asked.get(name)
    if value is not None and (not isinstance(value, (int, float)) or isinstance(value, bool)):
        raise ArgumentError(f"{name}: expected a number or nothing, got {value!r:.40}")
    return None if value is None else float(value)


def _numbers(asked: dict[str, Any], name: str) -> list[int] | None:
    value = asked.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, int) for one in value):
        raise ArgumentError(f"{name}: expected a list of whole numbers or nothing, got {value!r:.40}")
    return value
