"""What the tabs beside *Watch it run* ask of the lens, as plain numbers that JSON can hold.

Axes: N batch, T time, F features, H hidden, K numbers of the output.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recurra.errors import ArgumentError
from recurra.lens.attribution import integrated_gradients, occlusion
from recurra.lens.context import effective_context
from recurra.lens.diagrams import diagram
from recurra.lens.edit import Edit, what_if
from recurra.lens.gradients import gradient_flow, side_by_side
from recurra.lens.memory import compare, half_life, saturation, time_constants
from recurra.lens.tracing import DIRECTIONS, trace
from recurra.nn import GRU, LSTM, RNN, init
from recurra.web.beginning import Beginning
from recurra.web.recording import MOST_STEPS, Recording, packed
from recurra.web.refusals import Refusal
from recurra.web.subject import Sample, Subject

if TYPE_CHECKING:
    from xarray import Dataset

ROWS = 16
"""Samples of one shape that are looked at together."""
LAGS, SHOWN = 64, 64
"""Lags of the effective context that are measured, and units that are switched off one by one."""
STEPS_OF_LAGS = 100_000
"""Steps that all lags together may take; fewer lags of a long sample."""
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


def memory(
    network: nn.Module, inputs: Inputs, path: str, layer: int, direction: int, began: Beginning | None = None
) -> dict[str, Any]:
    """How long each unit remembers: by its gates where it has such, and measured; how open the gates are.

    With a beginning, `before` holds the same of that network, or None where it has no such layer, `origin`
    what it is, and `longer` how many units remember longer than before, None where the two differ in size.
    """
    after = _measured(network, inputs, path, layer, direction)
    found = _told(after) | {"before": None, "longer": None}
    if began is None:
        return found
    found["origin"] = {
        "origin": began.origin,
        "title": began.title,
        "seed": began.seed,
        "kept": began.kept[:6],
    }
    there = began.path_of(path)
    if there is None or not _has(began.network, there, layer, direction):
        return found
    before = _measured(began.network, inputs, there, layer, direction)
    found["before"] = _told(before)
    name = "cell_half_life" if "cell_half_life" in after["half_life"] else "hidden_half_life"
    try:
        both = compare(before["half_life"], after["half_life"])[name]
    except ArgumentError:  # other sizes: only their distributions can be held beside each other
        return found
    found["longer"] = int((both.sel(training="change") > 0).sum())
    return found


def _has(network: nn.Module, path: str, layer: int, direction: int) -> bool:
    one = network.get_submodule(path)
    return layer < getattr(one, "num_layers", 1) and direction <= int(getattr(one, "bidirectional", False))


def _measured(
    network: nn.Module, inputs: Inputs, path: str, layer: int, direction: int
) -> dict[str, Dataset]:
    at = {"layer": layer, "direction": DIRECTIONS[direction]}
    traced = trace(network, *inputs, module=path)
    found = {"saturation": saturation(traced).sel(at).assign_attrs(rows=traced.sizes["sample"])}
    if "forget" in traced.attrs["gates"] or "update" in traced.attrs["gates"]:
        # gates that are relative, as an sLSTM's, tell no time
        with contextlib.suppress(ArgumentError):
            found["constants"] = time_constants(traced).sel(at)
    found["half_life"] = half_life(network, *inputs, module=path, draws=2).sel(at)
    return found


def _told(measured: dict[str, Dataset]) -> dict[str, Any]:
    states, halves = measured["saturation"], measured["half_life"]
    found: dict[str, Any] = {"rows": int(states.attrs["rows"]), "dead": int(states["dead"].sum())}
    found["time_constant"] = (
        plain(measured["constants"]["time_constant"].values) if "constants" in measured else None
    )
    found["gates"] = {
        name: {end: plain(states[name].sel(end=end).values) for end in ("shut", "open")}
        for name in states.attrs["gates"]
        if name in states
    }
    for name in ("hidden", "cell"):
        if f"{name}_fade" in halves:
            found[f"{name}_half_life"] = plain(halves[f"{name}_half_life"].values)
            found[f"{name}_fade"] = plain(_mean_over_units(halves[f"{name}_fade"].values))
    return found


def _mean_over_units(fade: np.ndarray) -> np.ndarray:
    """(lag) of (lag, unit), without the units in which nothing moved."""
    there = np.isfinite(fade)
    return np.where(there.any(-1), np.where(there, fade, 0).sum(-1) / np.maximum(there.sum(-1), 1), np.nan)


def context(subject: Subject, inputs: Inputs, network: nn.Module) -> dict[str, Any]:
    """How far back a change of the input still moves the answer of a network that reads the same inputs."""
    steps = inputs[0].shape[1 - subject.axis]
    lags = _lags(steps)
    found = effective_context(
        network, *inputs, lags=lags, draws=2, time_axis=1 - subject.axis, read=subject.numbers
    )
    return {
        "lags": lags,
        "relative": plain(found["relative"].values),
        "context": plain(found["effective_context"].values),
    }


def _lags(steps: int) -> list[int]:
    """All lags of a short sample; of a longer one half of them evenly apart, and half closer at the end."""
    most = min(LAGS, max(16, STEPS_OF_LAGS // steps))
    if steps <= most:
        return list(range(steps))
    evenly = np.linspace(0, steps - 1, most // 2)
    return sorted({0, *(int(lag) for lag in [*evenly, *np.geomspace(1, steps - 1, most // 2)])})


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


def mattered(subject: Subject, sample: Sample, component: int | None, method: str) -> dict[str, Any]:
    """Which inputs mattered for one number of the answer: (T, F), or (T) of words. Raises ArgumentError.

    component: which number; None: the first, or the usual one of an estimator. Of an estimator `choices` has
    what can be asked about, lists of (number, name), and `chosen` a number of each, whose sum is asked about.
    """
    inputs, told, more = sample.inputs, subject.told, {}
    if told is not None:
        with torch.no_grad():
            output = subject.network(*inputs)
        choices = told.choices(sample, output)
        chosen = _chosen(choices, component) or told.usual(sample, output)
        component, more = sum(chosen), {"choices": choices, "chosen": chosen, "kind": told.kind}
    component = component or 0

    def number(output: Any) -> Tensor:
        numbers = subject.numbers(output)
        if not 0 <= component < numbers.shape[1]:
            raise Refusal("component", most=numbers.shape[1] - 1, got=component)
        return numbers[:, component]

    target = number if told is None else told.picked(sample, component)
    if method == "occlusion":
        steps = inputs[0].shape[1 - subject.axis]
        found = occlusion(subject.network, *inputs, target=target, window=(-(-steps // WINDOWS), 1))
    elif method == "gradients":
        embedding = None
        if not inputs[0].is_floating_point():
            own: Any = subject.network.embedding if told is not None else None
            found_one = (m for m in subject.network.modules() if isinstance(m, nn.Embedding))
            embedding = own or next(found_one, None)
        found = integrated_gradients(subject.network, *inputs, target=target, embedding=embedding)
    else:
        raise Refusal("method", got=repr(method)[:40])
    values = found["attribution"].values[0]
    return {"values": plain(values), "output": plain(found["output"].values[0]), **more}


def _chosen(choices: list[list[tuple[int, str]]], component: int | None) -> list[int] | None:
    """The number of each list whose sum is the component; None where there is none such."""
    if component is None:
        return None
    first, *rest = ([number for number, _ in choice] for choice in choices)
    ways = ([one] for one in first) if not rest else ([one, other] for one in first for other in rest[0])
    return next((way for way in ways if sum(way) == component), None)


def edited(subject: Subject, sample: Sample, path: str, asked: dict[str, Any]) -> bytes:
    """The answer without and with an edit, and the layer's hidden states with it, packed as a trace is.

    asked: `name` of a gate or state, `to` a number or null, `scale`, `units` and `steps` lists or null,
    `layer`, `direction`. Of an estimator `rows` tells the answers, each without and with the edit.
    """
    inputs = sample.inputs
    to, scale = _float(asked, "to"), _float(asked, "scale")
    units, steps = _numbers(asked, "units"), _numbers(asked, "steps")
    traced = trace(subject.network, *inputs, module=path)
    name = str(asked.get("name"))
    if name not in traced or name == "length":
        known = ", ".join(str(one) for one in traced.data_vars if one != "length")
        raise Refusal("variable", known=known, got=name[:40])
    if (to is None) == (scale is None):
        raise Refusal("no_value")
    for given, most, key in (
        (units, traced[name].shape[-1], "unit"),
        (steps, int(traced["length"][0]), "step"),
    ):
        wrong = None if given is None else next((one for one in given if not 0 <= one < most), None)
        if wrong is not None:
            raise Refusal(key, most=most - (key == "unit"), got=wrong + (key == "step"))
    if steps == [] or units == []:
        raise Refusal("nothing")
    edit = Edit(
        name=name,
        to=to,
        scale=scale,
        units=units,
        steps=steps,
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
    header = {"before": before, "after": after, "every": every, "variables": variables}
    if subject.told is not None:
        header["rows"] = subject.told.rows([effect.before, effect.after], sample)
    return packed(header, payload)


def ablated(subject: Subject, inputs: Inputs, path: str, layer: int, direction: int) -> dict[str, Any]:
    """How far the answer moves when one unit is switched off, for each of the first SHOWN units."""
    traced = trace(subject.network, *inputs, module=path)
    name = "cell" if "cell" in traced else "hidden"
    numbers = subject.whole or subject.numbers
    units = min(SHOWN, int(traced[name].shape[-1]))

    def off(unit: int, row: int | None) -> Edit:
        return Edit(
            name, to=0.0, units=unit, samples=row, layer=layer, direction=DIRECTIONS[direction], module=path
        )

    if subject.kind == "forecast":  # its network calls the layer with other rows too
        runs = [what_if(subject.network, *inputs, edits=[off(unit, None)]) for unit in range(units)]
        moved = [numbers(run.after)[0] - numbers(run.before)[0] for run in runs]
    else:
        batch = tuple(one.repeat_interleave(units, dim=subject.axis) for one in inputs)
        run = what_if(subject.network, *batch, edits=[off(unit, unit) for unit in range(units)])
        moved = list(numbers(run.after) - numbers(run.before))
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
        raise Refusal("value", name=name, got=repr(value)[:40])
    return None if value is None else float(value)


def _numbers(asked: dict[str, Any], name: str) -> list[int] | None:
    value = asked.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, int) for one in value):
        raise Refusal("list", name=name, got=repr(value)[:40])
    return value
