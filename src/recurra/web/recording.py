"""One run of a network, caught: what each recurrent layer read, and every number that it made of it.

Axes: N batch, T time, F features, H hidden, P projection, G gates, L layers, D directions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from recurra.errors import ArgumentError
from recurra.lens.calls import Asked, Call, recurrent_modules, watch
from recurra.nn.initial import learned_hx
from recurra.nn.inputs import kind_of
from recurra.types import Trace
from recurra.web.refusals import Refusal

MOST_STEPS, MOST_UNITS = 2000, 512
"""Steps and units that are drawn; of more, every second, every third and so on."""


@dataclass(frozen=True)
class Recording:
    """The first call of one recurrent layer in a run, row 0 of its batch.

    layer: the module · x: (T, F) what it read · initial: h_0, and c_0 where there is one, each (L·D, ...) ·
    traces: one for each layer and direction · calls: how often the run called it · output: the network's.
    """

    layer: nn.Module
    x: Tensor
    initial: tuple[Tensor, ...]
    traces: tuple[Trace, ...]
    calls: int
    output: Any


def record(network: nn.Module, inputs: tuple[Any, ...], path: str) -> Recording:
    """Run the network on a batch of one row and keep what the layer at ``path`` did, dropout off.

    Raises ArgumentError where there is no such layer, where the network never calls it, and where it fails.
    """
    layers = recurrent_modules(network)
    if path not in layers:
        raise Refusal("module", known=", ".join(map(repr, layers)), got=repr(path))
    calls: list[Call] = []
    outputs: list[Any] = []

    def seen(call: Call) -> bool:
        calls.append(call)
        return False

    handle = network.register_forward_hook(lambda module, given, output: outputs.append(output))
    try:
        watch(Asked(network, inputs, {}), {path: layers[path]}, seen)
    except ArgumentError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise Refusal("failed", error=f"{type(error).__name__}: {told}") from error
    finally:
        handle.remove()
    if not calls:
        raise Refusal("uncalled", module=repr(path))
    return _recorded(layers[path], calls[0], len(calls), outputs[-1])


def _recorded(layer: nn.Module, call: Call, calls: int, output: Any) -> Recording:
    traces = call.traces()
    named = dict(zip(("input", "hx"), call.args, strict=False)) | call.options
    x = named["input"]
    if isinstance(x, PackedSequence):
        x = pad_packed_sequence(x, batch_first=True)[0]
    elif x.ndim == 3 and not getattr(layer, "batch_first", True):
        x = x.transpose(0, 1)
    read = (x[0] if x.ndim == 3 else x)[: int(traces[0].lengths[0])].detach().float()
    hx = named.get("hx")
    if hx is None and getattr(layer, "hx", "zeros") == "learned":
        hx = learned_hx(layer, named["input"])
    states = () if hx is None else hx if isinstance(hx, tuple) else (hx,)
    initial = tuple(s[:, 0].detach() if s.ndim == 3 else s.detach() for s in states if isinstance(s, Tensor))
    return Recording(layer, read, initial, traces, calls, output)


def describe(path: str, layer: nn.Module) -> dict[str, Any]:
    """What the page's lists show of a layer."""
    sizes = [
        f"{name}={getattr(layer, name)}"
        for name in ("input_size", "hidden_size", "num_layers")
        if hasattr(layer, name)
    ]
    return {
        "path": path,
        "class": type(layer).__name__,
        "layers": int(getattr(layer, "num_layers", 1)),
        "directions": 2 if getattr(layer, "bidirectional", False) else 1,
        "sizes": ", ".join(sizes),
    }


def trace_at(recording: Recording, layer: int, direction: int) -> Trace:
    """The trace of one layer and direction. Raises ArgumentError where there is none such."""
    for trace in recording.traces:
        if (trace.layer, int(trace.reverse)) == (layer, direction):
            return trace
    raise Refusal("place", layer=layer, direction=direction)


def packed_trace(
    recording: Recording, layer: int, direction: int, labels: tuple[str, ...], more: Any
) -> bytes:
    """Every gate and state of one layer and direction: a JSON header, then float32 (T, H) for each.

    The header's length stands first, 4 bytes, little end first; spaces fill it to whole floats. Of more than
    MOST_STEPS steps or MOST_UNITS units every n-th is there, and the header says so.
    """
    trace = trace_at(recording, layer, direction)
    length = int(trace.lengths[0])
    every = max(1, -(-length // MOST_STEPS))
    arrays = {name: trace.gate(name)[0, :length] for name in trace.gate_names}
    if trace.cell is not None:
        arrays["cell"] = trace.cell[0, :length]
    arrays["hidden"] = trace.hidden[0, :length]
    variables, payload = [], []
    for name, array in arrays.items():
        units_every = max(1, -(-array.shape[1] // MOST_UNITS))
        shown = array[::every, ::units_every].float().cpu().numpy()
        bounded = name in ("input", "forget", "output", "reset", "update") and float(array.max()) <= 1.0
        variables.append(
            {
                "name": name,
                "units": array.shape[1],
                "units_every": units_every,
                "shape": shown.shape,
                "kind": "gate" if bounded else "signed",
                "most": float(np.abs(shown).max()) if shown.size else 0.0,
            }
        )
        payload.append(np.ascontiguousarray(shown, "<f4").tobytes())
    header = {
        "length": length,
        "every": every,
        "labels": list(labels[::every]) if len(labels) == length else [],
        "variables": variables,
        "kind": cell_kind(recording.layer),
        "calls": recording.calls,
        **more,
    }
    return packed(header, payload)


def packed(header: dict[str, Any], payload: list[bytes]) -> bytes:
    """A JSON header and float32 arrays in one piece; see `packed_trace`."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return len(text).to_bytes(4, "little") + text + b"".join(payload)


def cell_kind(layer: nn.Module) -> str:
    """The cell's name in `recurra.engine.stack.KINDS`, or the class's in small letters."""
    return kind_of(layer) if isinstance(layer, nn.RNNBase) else type(layer).__name__.lower()
