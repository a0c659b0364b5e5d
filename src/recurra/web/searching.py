"""The *Search* tab: what a marked range of a sample has in common with the rest of the data.

After LSTMVis (Strobelt, Gehrmann, Pfister and Rush 2018); the search itself is `recurra.lens.search`.
Axes: N batch, T time, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recurra.lens.search import best, marked, nearest_states, ranges_like, units_following, units_on
from recurra.lens.tracing import DIRECTIONS, trace
from recurra.web.refusals import Refusal
from recurra.web.subject import Sample, Subject

if TYPE_CHECKING:
    from xarray import Dataset

MOST_NUMBERS = 30_000_000
"""Numbers of one gate or state that are looked through; samples beyond them are left out."""
HITS, UNITS, AROUND = 8, 10, 6
"""Hits of each kind, units that follow the range, and steps that are shown around a hit."""
MOST_RUNS = 1000
SHARES = (1.0, 0.75, 0.5)
"""Parts of the units that must be on in another range; the next is tried where one gives too few."""


@dataclass(frozen=True, eq=False)
class Library:
    """One gate or state of every sample of the data, (layer, direction, sample, time, unit), and the samples.

    all_of_it: whether none was left out.
    """

    traced: Dataset
    samples: tuple[Sample, ...]
    all_of_it: bool


def library(subject: Subject, path: str, variable: str) -> Library:
    """The data run through the layer at ``path``: samples of one shape together. Raises Refusal."""
    samples: list[Sample] = []
    numbers = 0
    for index in range(len(subject.titles)):
        sample = subject.sample(index)
        if samples and numbers > MOST_NUMBERS:
            break
        samples.append(sample)
        if len(samples) == 1:
            traced = _only(trace(subject.network, *sample.inputs, module=path), variable)
            each = traced[variable].size / max(sample.inputs[0].shape[1 - subject.axis], 1)
        numbers += int(each * sample.inputs[0].shape[1 - subject.axis])
    groups: dict[Any, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(tuple(one.shape for one in sample.inputs), []).append(index)
    parts: list[Dataset | None] = [None] * len(samples)
    for places in groups.values():
        batch = (
            torch.cat(rows, subject.axis) for rows in zip(*(samples[i].inputs for i in places), strict=True)
        )
        found = _only(trace(subject.network, *batch, module=path), variable)
        for row, index in enumerate(places):
            parts[index] = found.isel(sample=[row])
    return Library(_stacked([part for part in parts if part is not None]), tuple(samples),
                   len(samples) == len(subject.titles))  # fmt: skip


def search(
    subject: Subject, shelf: Library, sample: Sample, path: str, asked: dict[str, Any]
) -> dict[str, Any]:
    """What the range ``start`` to ``stop`` - 1 of a sample has in common with the data.

    asked: also `variable`, `threshold`, `only`, `layer`, `direction`, and `sample`, its index in the data or
    a text. Returns `on`, the units that stay on over the range; `following`, those that follow it best;
    `ranges` and `nearest`, other places: each with `sample`, None for a typed one. Raises Refusal.
    """
    variable, index = str(asked["variable"]), asked["sample"].get("index")
    layer, direction = asked["layer"], asked["direction"]
    samples, data = list(shelf.samples), shelf.traced
    if index is None or index >= len(samples):
        own = _only(trace(subject.network, *sample.inputs, module=path), variable)
        data, row = _stacked([data, own]), len(samples)
        samples.append(sample)
    else:
        row = index
    place = {"layer": [layer], "direction": [direction]}
    here = data.isel(place)
    length = int(here["length"].values[row])
    start, stop, threshold = asked["start"], asked["stop"], asked["threshold"]
    if not 0 <= start < stop <= length:
        raise Refusal("range", steps=length, start=start + 1, stop=stop)
    on = units_on(here, row, start, stop, threshold=threshold, variable=variable, only=asked["only"])
    values = here[variable].values[0, 0, row, start:stop]
    lit = np.flatnonzero(on.values[0, 0])
    means = values.mean(0)
    lit = lit[np.argsort(-means[lit], kind="stable")]
    alone = here.isel(sample=[row])
    whole = stop - start == length
    scores = None if whole else units_following(alone, marked(alone, [(0, start, stop)]), variable=variable)

    def told(at: int, begin: int, end: int, **more: float) -> dict[str, Any]:
        around = _around(samples[at], int(data["length"].values[at]), begin, end)
        return {"sample": index if at == row else at, "start": begin, "stop": end, **more, **around}

    ranges: list[dict[str, Any]] = []
    for share in SHARES if len(lit) else ():
        runs = ranges_like(here, on, threshold=threshold, variable=variable, share=share, count=MOST_RUNS)
        columns = (runs[name].values.tolist() for name in ("sample", "start", "stop", "share"))
        elsewhere = [
            run for run in zip(*columns, strict=True) if run[0] != row or run[2] <= start or run[1] >= stop
        ]
        elsewhere.sort(key=lambda run: (-run[3], abs(run[2] - run[1] - (stop - start))))
        ranges = [told(at, begin, end, share=part) for at, begin, end, part in elsewhere[:HITS]]
        if len(ranges) == HITS:
            break
    near = nearest_states(here, row, stop - 1, variable=variable, direction=DIRECTIONS[0], count=40 * HITS,
                          apart=stop - start)  # fmt: skip
    nearest = [
        told(at, step, step + 1, distance=distance)
        for at, step, distance in _apart(near, max(2, min(stop - start, 8)))
    ]
    return {
        "length": length,
        "searched": len(samples),
        "all": shelf.all_of_it,
        "on": [{"unit": int(unit), "mean": float(means[unit])} for unit in lit],
        "following": [
            {"unit": one.unit, "score": one.score}
            for one in (best(scores, UNITS) if scores is not None else [])
        ],
        "ranges": ranges,
        "nearest": nearest,
    }


def _apart(found: Dataset, apart: int) -> list[tuple[int, int, float]]:
    """The first HITS of the matches, none within ``apart`` steps of one before it in the same sample."""
    kept: list[tuple[int, int, float]] = []
    for match in range(found.sizes["match"]):
        at, step = int(found["sample"].values[match]), int(found["step"].values[match])
        if all(at != other or abs(step - before) >= apart for other, before, _ in kept):
            kept.append((at, step, float(found["distance"].values[match])))
    return kept[:HITS]


def _around(sample: Sample, length: int, start: int, stop: int) -> dict[str, Any]:
    """What stands in the sample at a hit and around it: words, or a piece of what went in, and labels."""
    wide = max(AROUND, stop - start)
    low, high = max(0, start - wide), min(length, stop + wide)
    found: dict[str, Any] = {"from": low, "to": high, "words": [], "lines": []}
    if not sample.strip:
        return found | {"words": list(sample.labels[low:high])}
    for line in list(sample.strip.values())[:3]:
        each = len(line) / length  # a step may have read several of the numbers
        found["lines"].append(line[int(low * each) : max(int(high * each), int(low * each) + 1)])
    return found


def _only(traced: Dataset, variable: str) -> Dataset:
    if variable not in traced or variable == "length":
        known = ", ".join(str(name) for name in traced.data_vars if name != "length")
        raise Refusal("variable", known=known, got=variable[:40])
    return traced[[variable, "length"]].drop_vars("time")


def _stacked(parts: list[Dataset]) -> Dataset:
    """Samples one after the other, NaN where one is shorter than the longest."""
    import xarray

    longest = max(part.sizes["time"] for part in parts)
    padded = [
        part.pad(time=(0, longest - part.sizes["time"])) if part.sizes["time"] < longest else part
        for part in parts
    ]
    found: Dataset = xarray.concat(padded, dim="sample", data_vars="all", join="override")
    return found.assign_coords(sample=np.arange(found.sizes["sample"]), time=np.arange(longest))
