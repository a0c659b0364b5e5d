"""The numbers of one unit at every step, as its equations need them: from [h, x] to h′.

Axes: T time, F features, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recurra.types import Trace
from recurra.web.recording import MOST_STEPS, Recording, cell_kind, trace_at
from recurra.web.refusals import Refusal

WRITTEN = ("lstm", "gru", "rnn_tanh", "rnn_relu", "peephole", "coupled")
"""Cells whose equations the page writes out; `recurra.engine.cells` and `variants` have them."""
_PEEPHOLES = {"input": 0, "forget": 1, "output": 2}
STRONGEST = 6
"""Products of a sum that the page shows one by one."""


def unit_numbers(recording: Recording, layer: int, direction: int, unit: int) -> dict[str, Any]:
    """Of one unit, at every step that is drawn, for JSON.

    `gates`: name → `value` the activated gate (T), and where `written` is true `wx` W x_t (T), `rh` R h (T),
    `peep` p ⊙ c (T) where there is one, `b_i` and `b_h` the biases. `c`, `c_before`, `h`, `h_before`: (T).
    `written` is false for a cell that is not among `WRITTEN`, or has a projection: then only values are
    there. `exact` is false where the equations do not give the states, as under zoneout and resets.
    Raises ArgumentError for a layer, direction or unit that is not there.
    """
    trace = trace_at(recording, layer, direction)
    length, kind = int(trace.lengths[0]), cell_kind(recording.layer)
    gates, hidden = trace.gates[0, :length].float(), trace.hidden[0, :length].float()
    units = gates.shape[2] if gates.shape[1] else hidden.shape[1]
    if not 0 <= unit < units:
        raise Refusal("unit", most=units - 1, got=unit)
    shown = slice(None, None, max(1, -(-length // MOST_STEPS)))
    h_before = _before(recording, hidden, 0, trace)
    numbers = {name: {"value": gates[:, index, unit]} for index, name in enumerate(trace.gate_names)}
    states = {"h": hidden[:, unit], "h_before": h_before[:, unit]} if unit < hidden.shape[1] else {}
    if trace.cell is not None:
        cell = trace.cell[0, :length].float()
        states |= {"c": cell[:, unit], "c_before": _before(recording, cell, 1, trace)[:, unit]}
    written = kind in WRITTEN and hidden.shape[1] == units
    biases: dict[str, dict[str, float]] = {}
    if written:
        numbers = numbers or {"hidden": {"value": states["h"]}}
        x = recording.x if layer == 0 else below(recording, layer, length)
        for index, (name, entry) in enumerate(numbers.items()):
            row = index * units + unit
            w, r, biases[name] = _rows(recording.layer, trace, row)
            entry |= {"wx": x @ w, "rh": h_before @ r}
            if kind == "peephole" and name in _PEEPHOLES:
                weight = _weight(recording.layer, "weight_peephole", trace)[_PEEPHOLES[name], unit]
                entry["peep"] = weight * states["c" if name == "output" else "c_before"]
    return {
        "kind": kind,
        "unit": unit,
        "written": written,
        "exact": written and _exact(kind, numbers, biases, states),
        "gates": {
            name: {key: _told(values[shown]) for key, values in entry.items()} | biases.get(name, {})
            for name, entry in numbers.items()
        },
        **{name: _told(values[shown]) for name, values in states.items()},
    }


def strongest(recording: Recording, layer: int, direction: int, unit: int, step: int) -> dict[str, Any]:
    """The largest products inside W x_t and R h of each gate at one step: name → "x" and "h" → rows.

    A row is [index, weight, value]; a step is one that is drawn. Raises ArgumentError for what is not there.
    """
    trace = trace_at(recording, layer, direction)
    length = int(trace.lengths[0])
    step *= max(1, -(-length // MOST_STEPS))
    hidden = trace.hidden[0, :length].float()
    units = trace.gates.shape[3] if trace.gates.shape[2] else hidden.shape[1]
    if cell_kind(recording.layer) not in WRITTEN or not (0 <= unit < units and 0 <= step < length):
        raise Refusal("sum", unit=unit, step=step)
    x = (recording.x if layer == 0 else below(recording, layer, length))[step]
    h = _before(recording, hidden, 0, trace)[step]
    found = {}
    for index, name in enumerate(trace.gate_names or ("hidden",)):
        w, r, _ = _rows(recording.layer, trace, index * units + unit)
        found[name] = {"x": _largest(w, x), "h": _largest(r, h)}
    return found


def _largest(weights: Tensor, values: Tensor) -> list[list[float]]:
    order = (weights * values).abs().argsort(descending=True)[:STRONGEST].tolist()
    return [[index, round(float(weights[index]), 6), round(float(values[index]), 6)] for index in order]


def below(recording: Recording, layer: int, length: int) -> Tensor:
    """(T, D·H): what layer ``layer`` > 0 read, the hidden states of the one below, both directions."""
    under = [trace.hidden[0, :length].float() for trace in recording.traces if trace.layer == layer - 1]
    return torch.cat(under, dim=1)


def _before(recording: Recording, states: Tensor, which: int, trace: Trace) -> Tensor:
    """(T, H) of the step that was read before, the initial state first. which: 0 for h, 1 for c."""
    directions = 1 + max(int(one.reverse) for one in recording.traces)
    first = torch.zeros_like(states[:1])
    if which < len(recording.initial):
        first = recording.initial[which][trace.layer * directions + int(trace.reverse)][None].float()
    return torch.cat((states[1:], first)) if trace.reverse else torch.cat((first, states[:-1]))


def _weight(layer: nn.Module, name: str, trace: Trace) -> Tensor:
    found: Tensor = getattr(layer, f"{name}_l{trace.layer}{'_reverse' if trace.reverse else ''}")
    return found.detach().float()


def _rows(layer: nn.Module, trace: Trace, row: int) -> tuple[Tensor, Tensor, dict[str, float]]:
    """One row of W (F) and of R (H), and its biases."""
    w, r = (_weight(layer, f"weight_{name}", trace)[row] for name in ("ih", "hh"))
    if not getattr(layer, "bias", True):
        return w, r, {"b_i": 0.0, "b_h": 0.0}
    b_i, b_h = (float(_weight(layer, f"bias_{name}", trace)[row]) for name in ("ih", "hh"))
    return w, r, {"b_i": b_i, "b_h": b_h}


def _exact(kind: str, numbers: Any, biases: Any, states: dict[str, Tensor]) -> bool:
    """Whether the equations on these numbers give the states that the layer gave."""

    def summed(name: str) -> Tensor:
        entry, bias = numbers[name], biases[name]
        total: Tensor = entry["wx"] + entry["rh"] + bias["b_i"] + bias["b_h"] + entry.get("peep", 0.0)
        return total

    if kind == "gru":
        r, z = torch.sigmoid(summed("reset")), torch.sigmoid(summed("update"))
        entry, bias = numbers["candidate"], biases["candidate"]
        n = torch.tanh(entry["wx"] + bias["b_i"] + r * (entry["rh"] + bias["b_h"]))
        h = (1 - z) * n + z * states["h_before"]
    elif kind.startswith("rnn"):
        h = torch.relu(summed("hidden")) if kind == "rnn_relu" else torch.tanh(summed("hidden"))
    else:
        f, g = torch.sigmoid(summed("forget")), torch.tanh(summed("candidate"))
        i = 1 - f if kind == "coupled" else torch.sigmoid(summed("input"))
        h = torch.sigmoid(summed("output")) * torch.tanh(f * states["c_before"] + i * g)
    return bool(torch.allclose(h, states["h"], rtol=0.0, atol=1e-3))


def _told(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.double().tolist()]
