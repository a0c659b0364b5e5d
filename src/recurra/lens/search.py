"""Search in traced states: units that follow a pattern, ranges like a marked one, nearest states elsewhere.

After LSTMVis (Strobelt, Gehrmann, Pfister and Rush 2018, "LSTMVis: a tool for visual analysis of hidden state
dynamics in recurrent neural networks"): the user marks a range of steps and a threshold; what is looked for
are the units that stay above it all along, and other ranges in which these do the same.

`traced` is what `recurra.lens.trace` returns: variables of the dimensions layer, direction, sample, time and
unit (projection for a projected hidden state), NaN beyond a row's length. Samples and steps are given by
their place, 0 to N - 1 and 0 to T - 1, and come back by place and by label. Axes: `recurra.types`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recurra.errors import ArgumentError
from recurra.lens.optional import xarray_module
from recurra.lens.tracing import DIRECTIONS

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

Numbers = NDArray[np.floating[Any]]
METRICS = ("cosine", "euclidean")


class Unit(NamedTuple):
    """One unit and how well it fits."""

    layer: int
    direction: str
    unit: int
    score: float


def units_on(
    traced: Dataset,
    sample: int,
    start: int,
    stop: int,
    *,
    threshold: float = 0.3,
    variable: str = "hidden",
    only: bool = False,
) -> DataArray:
    """(layer, direction, unit) bool: the units that stay at or above the threshold from start to stop - 1.

    sample, start, stop: the range that is marked. threshold: in units of the variable, so 0..1 for a gate; a
    hidden state of an LSTM lies in -1..1. only: leave out units that are on just before or just after the
    range as well, and so say nothing of where it begins and ends. Raises ArgumentError for a range or
    variable that is not there.

    For example::

        >>> import torch
        >>> from recurra.lens import trace
        >>> from recurra.lens.search import units_on
        >>> from recurra.nn import LSTM
        >>> traced = trace(LSTM(3, 7, batch_first=True), torch.randn(2, 5, 3))
        >>> units_on(traced, sample=0, start=1, stop=4, threshold=0.0).dims
        ('layer', 'direction', 'unit')
    """
    values = _variable(traced, variable)
    length = _length_of(traced, sample)
    if not 0 <= start < stop <= length:
        raise ArgumentError(
            f"start and stop: expected a range within the {length} steps of sample {sample}, "
            f"got {start} to {stop}; stop is the step after the last"
        )
    row = values.isel(sample=sample)
    on = (row.isel(time=slice(start, stop)) >= threshold).all("time")
    if only:
        for step in (start - 1, stop):
            if 0 <= step < length:
                on = on & ~(row.isel(time=step, drop=True) >= threshold)
    return on.drop_vars(set(on.coords) - set(on.dims)).rename("on")


def ranges_like(
    traced: Dataset,
    on: DataArray,
    *,
    threshold: float = 0.3,
    variable: str = "hidden",
    share: float = 1.0,
    count: int = 10,
) -> Dataset:
    """Where else these units are on together: the longest runs of steps first.

    on: (layer, direction, unit) bool, as `units_on` returns it, of this or another trace of the same network.
    threshold, variable: as there. share: the least part of these units that is on at each step of a run,
    above 0 and up to 1. count: how many runs at most. Returns (match): `sample` and `start`, `stop` by
    place, `first` and `last`, labels of the run's end steps, `steps`, and `share`, the mean over the run.
    Runs with a larger share first, then longer ones. Raises ArgumentError where no unit is on, and for units
    of another network.

    For example::

        >>> import torch
        >>> from recurra.lens import trace
        >>> from recurra.lens.search import ranges_like, units_on
        >>> from recurra.nn import LSTM
        >>> traced = trace(LSTM(3, 7, batch_first=True), torch.randn(2, 5, 3))
        >>> on = units_on(traced, sample=0, start=1, stop=3, threshold=-1.0)
        >>> ranges_like(traced, on, threshold=-1.0).steps.values.tolist()
        [5, 5]
    """
    values = _variable(traced, variable)
    units = [axis for axis in values.dims if axis not in ("sample", "time")]
    if set(on.dims) != set(units) or any(on.sizes[axis] != values.sizes[axis] for axis in units):
        raise ArgumentError(
            f"on: expected { {axis: values.sizes[axis] for axis in units} }, as units_on returns it for "
            f"this network, got {dict(on.sizes)}; mark the range in a trace of the same network"
        )
    if not bool(on.any()):
        raise ArgumentError(
            "on: expected one unit or more that is on, got none; lower the threshold or shorten the range"
        )
    if not 0 < share <= 1:
        raise ArgumentError(f"share: expected above 0 and up to 1, got {share}; give a part of the units")
    high = (values >= threshold).transpose("sample", "time", *units).values
    chosen = on.transpose(*units).values.astype(bool)
    shares = high[:, :, chosen].mean(-1)  # (N, T)
    found = []
    for sample, row in enumerate(shares):
        found += [(sample, start, stop, float(row[start:stop].mean())) for start, stop in _runs(row >= share)]
    found.sort(key=lambda run: (-run[3], run[1] - run[2]))
    found = found[:count]
    samples, starts, stops = (np.array([run[n] for run in found], dtype=int) for n in range(3))
    return _matches(
        traced,
        sample=samples,
        start=starts,
        stop=stops,
        first=_labels(traced, samples, starts),
        last=_labels(traced, samples, stops - 1),
        steps=stops - starts,
        share=np.array([run[3] for run in found]),
    )


def units_following(traced: Dataset, pattern: ArrayLike, *, variable: str = "hidden") -> DataArray:
    """(layer, direction, unit): Pearson's correlation of each unit with a pattern over the steps.

    pattern: (N, T) numbers or bool, as 1 inside quotes and 0 outside; NaN where a step shall not count. Steps
    beyond a row's length count for nothing. NaN for a unit that never changes.
    Raises ArgumentError for another shape and for a pattern that is the same everywhere.

    For example::

        >>> import numpy as np, torch
        >>> from recurra.lens import trace
        >>> from recurra.lens.search import best, units_following
        >>> from recurra.nn import GRU
        >>> traced = trace(GRU(3, 7, batch_first=True), torch.randn(2, 5, 3))
        >>> scores = units_following(traced, np.arange(10).reshape(2, 5) % 2)
        >>> len(best(scores, 3))
        3
    """
    values = _variable(traced, variable)
    units = [axis for axis in values.dims if axis not in ("sample", "time")]
    marks = np.asarray(pattern, dtype=float)
    shape = values.sizes["sample"], values.sizes["time"]
    if marks.shape != shape:
        raise ArgumentError(
            f"pattern: expected shape (N, T) = {shape}, a number for each step of each sample, got "
            f"{marks.shape}; recurra.lens.search.marked makes one of ranges"
        )
    within = np.arange(shape[1]) < traced["length"].values[:, None]
    counted = within & np.isfinite(marks)
    chosen = marks[counted]
    if len(chosen) < 2 or np.all(chosen == chosen[0]):
        raise ArgumentError(
            "pattern: expected numbers that differ from step to step, got the same throughout; "
            "mark some steps and leave others out"
        )
    states = values.transpose("sample", "time", *units).values[counted].astype(float)  # (steps, ...)
    states = states - states.mean(0)
    chosen = chosen - chosen.mean()
    size = np.sqrt((states**2).sum(0) * (chosen**2).sum())
    product = np.tensordot(chosen, states, axes=1)
    with np.errstate(invalid="ignore"):
        scores = np.where(size > 0, product / np.where(size > 0, size, 1), np.nan)
    coords = {axis: values[axis] for axis in units if axis in values.coords}
    found: DataArray = xarray_module().DataArray(scores, coords, units, "correlation")
    return found


def marked(traced: Dataset, ranges: list[tuple[int, int, int]]) -> Numbers:
    """A pattern for `units_following`, (N, T): 1 in these ranges (sample, start, stop), 0 elsewhere.

    Raises ArgumentError for a range that is not there.

    For example::

        pattern = marked(traced, [(0, 3, 7), (1, 0, 2)])    # steps 3 to 6 of sample 0, 0 and 1 of sample 1
    """
    found = np.zeros((traced.sizes["sample"], traced.sizes["time"]))
    for sample, start, stop in ranges:
        if not 0 <= start < stop <= _length_of(traced, sample):
            raise ArgumentError(
                f"ranges: expected (sample, start, stop) within the steps of each sample, got "
                f"{(sample, start, stop)}; stop is the step after the last"
            )
        found[sample, start:stop] = 1
    return found


def best(scores: DataArray, count: int = 10) -> list[Unit]:
    """The units with the largest scores, those of the opposite sign too; NaN never.

    scores: (layer, direction, unit), as `units_following` returns them.

    For example::

        best(units_following(traced, pattern), 3)[0].unit       # the unit that follows it best
    """
    flat = scores.values.ravel()
    order = np.argsort(-np.abs(flat), kind="stable")  # NaN comes last
    found = []
    for place in order[: min(count, int(np.isfinite(flat).sum()))]:
        layer, direction, unit = (int(n) for n in np.unravel_index(place, scores.shape))
        found.append(Unit(layer, DIRECTIONS[direction], unit, float(flat[place])))
    return found


def nearest_states(
    traced: Dataset,
    sample: int,
    step: int,
    *,
    among: Dataset | None = None,
    variable: str = "hidden",
    layer: int = 0,
    direction: str = "forward",
    metric: str = "cosine",
    count: int = 10,
    apart: int = 1,
) -> Dataset:
    """Where else the network was in nearly the same state: the nearest first.

    sample, step: the state that is asked about. among: another trace of the same network to look in; None:
    this one, without the steps less than `apart` from the one asked about in its own sample. metric:
    "cosine", 1 minus the cosine of the angle, in 0..2; or "euclidean", in units of the variable. layer,
    direction: whose states. count: how many at most. A state of zeros has no angle: its cosine distance is
    1. Returns (match): `sample` and `step` by place, `at`, the step's label, and `distance`. Raises
    ArgumentError for what is not there.

    For example::

        >>> import torch
        >>> from recurra.lens import trace
        >>> from recurra.lens.search import nearest_states
        >>> from recurra.nn import LSTM
        >>> traced = trace(LSTM(3, 7, batch_first=True), torch.randn(2, 5, 3).repeat(2, 1, 1))
        >>> found = nearest_states(traced, sample=0, step=3, count=1)
        >>> found["sample"].item(), found["step"].item()
        (2, 3)
    """
    if metric not in METRICS:
        raise ArgumentError(f"metric: expected 'cosine' or 'euclidean', got {metric!r}; name one of these")
    if not 0 <= step < _length_of(traced, sample):
        raise ArgumentError(
            f"step: expected 0 to {_length_of(traced, sample) - 1}, the steps of sample {sample}, "
            f"got {step}; name one that it has"
        )
    other = traced if among is None else among
    mine, theirs = (_states(data, variable, layer, direction) for data in (traced, other))
    if mine.shape[-1] != theirs.shape[-1]:
        raise ArgumentError(
            f"among: expected a trace with {mine.shape[-1]} units, as the state asked about has, got "
            f"{theirs.shape[-1]}; trace the same network"
        )
    state = mine[sample, step]
    kept = ~np.isnan(state)  # in a stack of layers of several sizes a layer has not all units
    distances = _distances(theirs[..., kept], state[kept], metric)
    usable = np.arange(theirs.shape[1]) < other["length"].values[:, None]
    if among is None:
        usable[sample, np.abs(np.arange(theirs.shape[1]) - step) < apart] = False
    samples, steps = np.nonzero(usable)
    order = np.argsort(distances[samples, steps], kind="stable")[:count]
    samples, steps = samples[order], steps[order]
    return _matches(
        other,
        sample=samples,
        step=steps,
        at=_labels(other, samples, steps),
        distance=distances[samples, steps],
    )


def _distances(states: Numbers, state: Numbers, metric: str) -> Numbers:
    """(N, T) from states (N, T, H) and one of them (H)."""
    if metric == "euclidean":
        found: Numbers = np.sqrt(((states - state) ** 2).sum(-1))
        return found
    sizes = np.sqrt((states**2).sum(-1) * (state**2).sum())
    cosine = (states @ state) / np.where(sizes > 0, sizes, 1)
    return np.where(sizes > 0, 1 - cosine, 1.0)


def _variable(traced: Dataset, name: str) -> DataArray:
    """A gate or state of a trace. Raises ArgumentError."""
    axes = {"layer", "sample", "time"}
    states = [key for key, values in traced.data_vars.items() if axes <= set(values.dims)]
    if name not in states:
        raise ArgumentError(
            f"variable: expected one of {', '.join(map(repr, states))}, got {name!r}; "
            "name what this trace has"
        )
    return traced[name]


def _states(traced: Dataset, variable: str, layer: int, direction: str) -> Numbers:
    """(N, T, H) of one layer and direction. Raises ArgumentError."""
    values = _variable(traced, variable)
    directions = DIRECTIONS[: values.sizes["direction"]]
    if not 0 <= layer < values.sizes["layer"] or direction not in directions:
        raise ArgumentError(
            f"layer and direction: expected 0 to {values.sizes['layer'] - 1} and one of "
            f"{', '.join(map(repr, directions))}, got {layer!r} and {direction!r}; name what this trace has"
        )
    part = values.isel(layer=layer, direction=directions.index(direction))
    found: Numbers = part.transpose("sample", "time", ...).values.astype(float)
    return found


def _length_of(traced: Dataset, sample: int) -> int:
    """The steps of this sample. Raises ArgumentError."""
    rows = traced.sizes["sample"]
    if isinstance(sample, bool) or not 0 <= sample < rows:
        raise ArgumentError(f"sample: expected 0 to {rows - 1}, got {sample!r}; name one by its place")
    return int(traced["length"].values[sample])


def _runs(on: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], on, [False])).astype(int)))
    yield from ((int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True))


def _labels(traced: Dataset, samples: NDArray[np.intp], steps: NDArray[np.intp]) -> NDArray[Any]:
    """The labels of these steps, each sample's own where the trace has such."""
    if "label" in traced.coords:
        found: NDArray[Any] = traced["label"].transpose("sample", "time").values[samples, steps]
        return found
    labels: NDArray[Any] = traced["time"].values[steps]
    return labels


def _matches(traced: Dataset, **columns: NDArray[Any]) -> Dataset:
    """The columns by match, and `name`, the label of each sample."""
    columns["name"] = traced["sample"].values[columns["sample"]]
    found: Dataset = xarray_module().Dataset({name: ("match", values) for name, values in columns.items()})
    return found
