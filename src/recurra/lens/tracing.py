"""Every gate and state of a recurrent layer, wherever in a model it stands, as a labelled array.

A layer is traced on what it is called with: the model runs up to that call, a hook catches its arguments,
and the layer is run once by the engine, which keeps its gates. So a call costs little more than the forward
pass, and the model needs no change: torch's own layers are traced on their own weights.

Axes (see `recurra.types`): a traced Dataset has the dimensions layer (L), direction (D), sample (N), time (T)
and unit (H); where the hidden state is projected, it has projection (P) in the place of unit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recurra.errors import ArgumentError
from recurra.lens.calls import Asked, Call, as_module, catch, listed, recurrent_modules, watch
from recurra.lens.optional import xarray_module
from recurra.nn.inputs import kind_of

if TYPE_CHECKING:
    import xarray

DIMS = ("layer", "direction", "sample", "time", "unit")
DIRECTIONS = ("forward", "reverse")


def trace(
    model: Any,
    *inputs: Any,
    module: str | None = None,
    time: Any = None,
    samples: Sequence[Any] | None = None,
    call: int = 0,
    **options: Any,
) -> xarray.Dataset:
    """What one recurrent module does when the model is called: its gates and states at every step.

    model: a layer of `recurra.nn`; any module that has one, or torch's LSTM, GRU or RNN, inside; or a fitted
        `recurra.Forecaster`. It is run in eval mode, without gradients, as far as the call that is asked for.
    inputs, options: what the model is called with. For a Forecaster: a path, frame or Panel, and what
        `recurra.read_table` takes; it is traced on the forecast from the end of each series.
    module: the path of the recurrent module, as `recurrent_modules` has it; may be left out where there is
        one only. Of a Forecaster the first member's where it is left out.
    time: labels of the T steps that the module reads: stamps, seconds, words, or a text for its characters;
        or for each sample its own. Default 0 to T - 1.
    samples: labels of the N rows. Default 0 to N - 1.
    call: which of the module's calls within one call of the model, 0 for the first.

    Returns variables of the dimensions layer, direction, sample, time, unit: each gate under its name in
    `recurra.types.Trace`, `cell` where the cell has one, `hidden`; and `length` (sample), each row's own. A
    number beyond a row's length is NaN. Step t stands at t in both directions. Labels given for each sample
    stand in the coordinate `label` (sample, time). Layers of `recurra.nn.Stacked` may differ in size: units
    that a layer has not are NaN. The attributes name the module, its class, kind, sizes and gates.

    Of a Forecaster a step of time is a segment of the lookback; its label is the stamp of its last step (NaT
    where that lies before the series), and samples are the series' names. With call=1 it is the network's one
    step for each segment of the horizon, a row each, without stamps.

    Raises ArgumentError for a model without recurrent modules, an unknown or missing path, a module that was
    not called so often, labels of another number than there are steps or rows; ImportError without xarray.

    For example::

        layer = recurra.nn.LSTM(3, 8, batch_first=True)
        traced = trace(layer, torch.randn(2, 5, 3), lengths=[5, 2])
        traced["forget"].sel(layer=0, direction="forward").mean("unit")     # (sample 2, time 5)
    """
    asked = as_module(model, inputs, options)
    caught = catch(asked.model, asked.inputs, asked.options, asked.path if module is None else module, call)
    if call == 0:
        samples = asked.samples if samples is None else samples
    found = labelled(caught, None, samples)
    if time is None and call == 0 and asked.stamps is not None:
        time = asked.stamps(found.sizes["time"])
    return found if time is None else with_time(found, time)


def trace_all(
    model: Any, *inputs: Any, time: Any = None, samples: Sequence[Any] | None = None, **options: Any
) -> dict[str, xarray.Dataset]:
    """The first call of each recurrent module that the model calls, by path ("" for a layer alone).

    Arguments, results and errors: those of `trace`. time and samples: for modules that read as many steps or
    rows as there are labels; the others have numbers.

    For example::

        model = torch.nn.Sequential(torch.nn.Linear(3, 7), torch.nn.LSTM(7, 8))
        assert list(trace_all(model, torch.randn(5, 2, 3))) == ["1"]
    """
    asked = as_module(model, inputs, options)
    layers = recurrent_modules(asked.model)
    if samples is None:
        samples = asked.samples
    found: dict[str, xarray.Dataset] = {}

    def seen(call: Call) -> bool:
        if call.path not in found:
            found[call.path] = _labelled_if_it_fits(call, asked, time, samples)
        return len(found) == len(layers)

    watch(asked, layers, seen)
    if not found:
        raise ArgumentError(
            f"inputs: expected inputs that reach one of the recurrent modules ({listed(layers)}), but the "
            "model called none of them; call the model as it is used, or give one of its parts as model"
        )
    return {path: found[path] for path in layers if path in found}


def labelled(call: Call, time: Any = None, samples: Sequence[Any] | None = None) -> xarray.Dataset:
    """The Dataset of a call that was caught: see `trace`."""
    xr = xarray_module()
    traces = call.traces()
    directions = 1 + any(trace.reverse for trace in traces)
    shape = len(traces) // directions, directions
    rows, steps = traces[0].hidden.shape[:2]
    lengths = traces[0].lengths.cpu().numpy().copy()
    names = traces[0].gate_names
    parts = {name: [trace.gates[:, :, at] for trace in traces] for at, name in enumerate(names)}
    if traces[0].cell is not None:
        parts["cell"] = [trace.cell for trace in traces if trace.cell is not None]
    parts["hidden"] = [trace.hidden for trace in traces]
    grids = {name: _grid(tensors, shape, lengths) for name, tensors in parts.items()}
    variables: dict[str, Any] = {name: (DIMS, grid) for name, grid in grids.items()}
    sizes = [*shape, rows, steps, max(trace.gates.shape[-1] for trace in traces)]
    if any(trace.hidden.shape[-1] != trace.gates.shape[-1] for trace in traces):
        hidden = variables["hidden"][1]
        variables["hidden"] = ((*DIMS[:-1], "projection"), hidden)
        sizes.append(hidden.shape[-1])
    if samples is not None and len(samples) != rows:
        raise ArgumentError(
            f"samples: expected a label for each of the {rows} rows that the module {call.path!r} reads, "
            f"got {len(samples)}; give as many, or none"
        )
    found = xr.Dataset(
        {**variables, "length": ("sample", lengths)},
        coords=_coordinates(*sizes),
        attrs=_described(call, shape, names),
    )
    if samples is not None:
        found = found.assign_coords(sample=np.asarray(samples))
    return found if time is None else with_time(found, time)


@lru_cache(maxsize=64)
def _coordinates(layers: int, directions: int, *sizes: int) -> xarray.Coordinates:
    """Numbers for the axes. Kept, for making them takes most of a Dataset's time; a Dataset copies them."""
    numbers = {name: np.arange(size) for name, size in zip((*DIMS[2:], "projection"), sizes, strict=False)}
    names = {"layer": np.arange(layers), "direction": list(DIRECTIONS[:directions])}
    found: xarray.Coordinates = xarray_module().Coordinates({**names, **numbers})
    return found


def with_time(traced: xarray.Dataset, time: Any) -> xarray.Dataset:
    """A traced Dataset with other labels of its steps: T of them, or for each sample its own.

    Raises ArgumentError where there are not as many as steps.
    """
    rows, steps = traced.sizes["sample"], traced.sizes["time"]
    labels = list(time) if isinstance(time, (str, list, tuple, range)) else np.asarray(time)
    if len(labels) and isinstance(labels[0], (list, tuple, np.ndarray, Tensor)):
        each = [np.asarray(row) for row in labels]
        wrong = [
            n
            for n, (row, least) in enumerate(zip(each, traced["length"].values, strict=False))
            if not least <= len(row) <= steps
        ]
        if len(each) != rows or wrong:
            got = f"{len(each[wrong[0]])} for sample {wrong[0]}" if wrong else f"those of {len(each)} samples"
            raise ArgumentError(
                f"time: expected for each of the {rows} samples as many labels as it has steps, at most "
                f"{steps}, got {got}; give one list for each sample"
            )
        if any(len(row) != len(each[0]) or (row != each[0]).any() for row in each) or len(each[0]) < steps:
            return traced.assign_coords(label=(("sample", "time"), _padded(each, steps)))
        labels = each[0]
    if len(labels) != steps:
        raise ArgumentError(
            f"time: expected a label for each of the {steps} steps that the module "
            f"{traced.attrs['module']!r} reads, got {len(labels)}; give as many, or none"
        )
    return traced.assign_coords(time=np.asarray(labels))


def _labelled_if_it_fits(
    call: Call, asked: Asked, time: Any, samples: Sequence[Any] | None
) -> xarray.Dataset:
    """With these labels where there are as many as the module has steps or rows."""
    found = labelled(call)
    if samples is not None and len(samples) == found.sizes["sample"]:
        found = found.assign_coords(sample=np.asarray(samples))
    if time is None and asked.stamps is not None:
        time = asked.stamps(found.sizes["time"])
    with contextlib.suppress(ArgumentError):
        return found if time is None else with_time(found, time)
    return found


def _grid(
    tensors: Sequence[Tensor], shape: tuple[int, int], lengths: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """(L, D, N, T, H) from L·D of (N, T, H). NaN beyond a row's length, and in units that a layer has not."""
    detached = [tensor.detach() for tensor in tensors]
    if len({tensor.shape[-1] for tensor in detached}) == 1:
        joined = _side_by_side(detached)
        short = joined.dtype in (torch.bfloat16, torch.float16)
        flat: np.ndarray[Any, Any] = (joined.float() if short else joined).cpu().numpy()
        grid = flat.reshape(*shape, *flat.shape[1:])
    else:
        rows, steps, _ = detached[0].shape
        exact = np.float64 if detached[0].dtype == torch.float64 else np.float32
        grid = np.full((*shape, rows, steps, max(t.shape[-1] for t in detached)), np.nan, exact)
        for place, tensor in enumerate(detached):
            units = tensor.shape[-1]
            grid[divmod(place, shape[1])][..., :units] = tensor.to(torch.float64).cpu().numpy()
    for row in np.flatnonzero(lengths < grid.shape[3]):  # slices: a mask of all steps takes far longer
        grid[:, :, row, lengths[row] :] = np.nan
    return grid


def _side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors along a new first axis; as they lie, where they are parts of one at equal distances.

    NaN is written into it: nobody else has the trace.
    """
    first = tensors[0]
    if len(tensors) == 1:
        return first.unsqueeze(0)
    ahead = tensors[1].storage_offset() - first.storage_offset()
    memory = first.untyped_storage().data_ptr()
    for place, tensor in enumerate(tensors):
        same = tensor.stride() == first.stride() and tensor.untyped_storage().data_ptr() == memory
        if not same or tensor.storage_offset() != first.storage_offset() + place * ahead:
            return torch.stack(list(tensors))
    return first.as_strided((len(tensors), *first.shape), (ahead, *first.stride()))


def _described(call: Call, shape: tuple[int, int], names: tuple[str, ...]) -> dict[str, Any]:
    """What a file can hold: words, numbers, and lists of them."""
    layer = call.layer
    lowest = layer.layers[0] if hasattr(layer, "layers") else layer
    kind = kind_of(lowest) if isinstance(lowest, torch.nn.RNNBase) else type(lowest).__name__.lower()
    sizes = getattr(layer, "hidden_sizes", None)
    return {
        "module": call.path,
        "class": call.name,
        "kind": kind,
        "gates": list(names),
        "input_size": layer.input_size,
        "hidden_size": layer.hidden_size if sizes is None else list(sizes),
        "num_layers": shape[0],
        "directions": shape[1],
        "proj_size": getattr(lowest, "proj_size", 0),
    }


def _padded(rows: list[np.ndarray[Any, Any]], steps: int) -> np.ndarray[Any, Any]:
    """(N, T) of rows of labels; beyond a row's own "", NaT or NaN, whichever there is among such."""
    kinds = {row.dtype.kind for row in rows if len(row)}
    if kinds <= {"U"}:
        nothing: Any = ""
    elif kinds <= {"M"}:
        nothing = np.datetime64("NaT")
    else:
        nothing = np.nan
    return np.stack(
        [
            np.concatenate([row, np.full(steps - len(row), nothing)]) if len(row) < steps else row
            for row in rows
        ]
    )
