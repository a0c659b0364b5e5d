"""Singular values of ∂h_t/∂h_{t-k}: how far a small change of a recurrent state is stretched in k steps.

Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks", section 2: the
gradient k steps back is a product of k Jacobians. Where the largest singular value of each stays below 1 it
vanishes; it can explode only where that exceeds 1. Axes: `recurra.types`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.errors import ArgumentError
from recurra.lens.calls import as_module
from recurra.lens.optional import xarray_module
from recurra.lens.stepping import (
    Place,
    Reading,
    as_it_is,
    stepped_layers,
    stepping,
    take_step,
    undisturbed,
    walk,
)
from recurra.lens.tracing import DIRECTIONS

if TYPE_CHECKING:
    from xarray import Dataset

Numbers = NDArray[np.float64]


def spectra(
    model: Any,
    *inputs: Any,
    lags: Sequence[int] | None = None,
    step: int | None = None,
    module: str | None = None,
    layer: int = 0,
    direction: str = "forward",
    **options: Any,
) -> Dataset:
    """Singular values of ∂h_t/∂h_{t-k}: what becomes of a small change of the state in k steps.

    model, inputs, options: as in `recurra.lens.trace`. step: t, the same for every row; None: the last
    step that each row reads. lags: k, in steps as they are read; None: 1, 10 and 100, as far as there are so
    many. module: path of the recurrent layer, to be left out where there is but one. Its first call counts.
    Returns `hidden` (sample, lag, unit), the singular values of ∂h_t/∂h_{t-k}, the largest first, and
    `cell`, those of ∂c_t/∂c_{t-k}, where there is a cell state (of an sLSTM c, n and m together); and
    `largest`, `smallest` and `geometric_mean` (sample, lag, block) of these two and of the whole state, h
    and c together. All is computed in float64, by a product of the steps' Jacobians. A smallest value below
    1e-15 of the largest is rounding; the geometric mean of the whole state comes from the determinants and
    is right at any size. NaN where t - k lies before the row's first step or t beyond its length; zero
    across a reset. Raises ArgumentError for what is not in the model, and lags that no step has.

    For example::

        >>> import torch
        >>> from recurra.lens.jacobians import spectra
        >>> from recurra.nn import GRU
        >>> found = spectra(GRU(3, 7, batch_first=True), torch.randn(2, 20, 3), lags=(1, 5, 10))
        >>> found.hidden.shape
        (2, 3, 7)
        >>> bool((found.largest.sel(lag=10) < found.largest.sel(lag=1)).all())
        True
    """
    reading = _one_reading(model, inputs, options, module, layer, direction)
    rows, length, _ = reading.inputs.shape
    lags = [lag for lag in (1, 10, 100) if lag <= length] if lags is None else lags
    wanted = sorted({int(lag) for lag in lags})
    if not wanted or wanted[0] < 1 or wanted[-1] > length:
        raise ArgumentError(
            f"lags: expected whole numbers from 1 to {length}, the steps that were read, got {list(lags)}; "
            "give distances in steps"
        )
    if step is not None and not 0 <= step < length:
        raise ArgumentError(f"step: expected 0 to {length - 1}, got {step}; name a step that was read")
    exact = _doubled(reading)
    befores, jacobian = _states_and_jacobian(exact)
    ends = torch.full((rows,), length) if reading.lengths is None else reading.lengths.cpu()
    last = torch.zeros_like(ends) if reading.place.reverse else ends - 1
    now = last if step is None else torch.full((rows,), step)
    valid = (now < ends) & (now >= 0)
    onward = 1 if reading.place.reverse else -1
    product, log_det = None, torch.zeros(rows, dtype=torch.float64)
    hidden = exact.initial[0].shape[-1]
    collected = {}
    for lag in range(1, wanted[-1] + 1):
        t = now + onward * (lag - 1)
        valid = valid & (t >= 0) & (t < ends)
        at = (torch.arange(rows), t.clamp(0, length - 1))
        one = jacobian(exact.inputs[at], befores[at])
        if exact.restart is not None:
            one = one.masked_fill(exact.restart[at].unsqueeze(-1), 0)
        product = one if product is None else product @ one
        log_det = log_det + torch.linalg.slogdet(one).logabsdet.cpu()
        if lag in wanted:
            collected[lag] = _values(product, log_det, hidden, valid)
    return _spectra_dataset(collected, reading.place)


def _one_reading(
    model: Any, inputs: Any, options: Any, module: str | None, layer: int, direction: str
) -> Reading:
    """What this layer read in this direction, in the first call of its module."""
    asked = as_module(model, inputs, options)
    paths = list(dict.fromkeys(one.path for one in stepped_layers(asked.model)))
    if module is None:
        module = paths[0] if len(paths) == 1 else asked.path
    if module not in paths:
        raise ArgumentError(
            f"module: expected one of {', '.join(map(repr, paths))}, got {module!r}; "
            "name a recurrent layer by its path"
        )
    readings: list[Reading] = []
    with undisturbed(asked.model), torch.no_grad(), stepping(asked.model, as_it_is, readings.append):
        asked.model(*asked.inputs, **asked.options)
    wanted = Place(module, 0, layer, direction == "reverse")
    for reading in readings:
        if reading.place == wanted and direction in DIRECTIONS:
            return reading
    known = [(r.place.layer, DIRECTIONS[r.place.reverse]) for r in readings if r.place[:2] == wanted[:2]]
    raise ArgumentError(
        f"layer and direction: expected a pair that {module or 'the model'!r} ran, of "
        f"{known or 'none: it was not called'}, got {(layer, direction)}; name one of these"
    )


def _doubled(reading: Reading) -> Reading:
    weights = {name: None if w is None else w.detach().double() for name, w in reading.weights.items()}
    initial = tuple(state.detach().double() for state in reading.initial)
    return replace(reading, inputs=reading.inputs.double(), initial=initial, weights=weights)


def _states_and_jacobian(reading: Reading) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """The states before each step, (N, T, S), h and c side by side; and the Jacobian of a step, (N, S, S).

    The latter from the input's sums (N, G·H) and the states (N, S), each row by itself.
    """
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        walk(reading, as_it_is, lambda t, s: found.update({t: torch.cat(s, dim=-1)}))
    sizes = [state.shape[-1] for state in reading.initial]

    def step(sums: Tensor, state: Tensor) -> Tensor:
        states = tuple(torch.split(state.unsqueeze(0), sizes, dim=-1))
        new = take_step(reading, 0, sums.unsqueeze(0), states, lambda name, value: value)
        return torch.cat(new, dim=-1).squeeze(0)

    befores = torch.stack([found[t] for t in range(len(found))], dim=1)
    return befores, torch.func.vmap(torch.func.jacrev(step, argnums=1))


def _values(
    product: Tensor, log_det: Tensor, hidden: int, valid: Tensor
) -> dict[str, tuple[Numbers, Numbers]]:
    """By block: singular values (N, S) and (N, 3) of them largest, smallest, geometric mean."""
    size = product.shape[-1]
    blocks = {"hidden": product[:, :hidden, :hidden]}
    if size > hidden:
        blocks |= {"cell": product[:, hidden:, hidden:], "state": product}
    found = {}
    for name, block in blocks.items():
        values = torch.linalg.svdvals(block).cpu()
        mean = torch.exp(torch.log(values).mean(-1))
        if block.shape[-1] == size:
            mean = torch.exp(log_det / size)
        told = torch.stack((values[:, 0], values[:, -1], mean), dim=-1)
        bad = ~valid.unsqueeze(-1)
        found[name] = _numbers(values.masked_fill(bad, math.nan)), _numbers(told.masked_fill(bad, math.nan))
    return found


def _spectra_dataset(found: dict[int, dict[str, tuple[Numbers, Numbers]]], place: Place) -> Dataset:
    lags, blocks = list(found), list(next(iter(found.values())))
    data: dict[str, Any] = {}
    for block, axis in (("hidden", "unit"), ("cell", "cell_unit")):
        if block in blocks:
            data[block] = (("sample", "lag", axis), np.stack([found[lag][block][0] for lag in lags], axis=1))
    told = np.stack([[found[lag][block][1] for block in blocks] for lag in lags])  # (lag, block, sample, 3)
    for number, name in enumerate(("largest", "smallest", "geometric_mean")):
        data[name] = (("lag", "block", "sample"), told[..., number])
    attrs = {"module": place.module, "layer": place.layer, "direction": DIRECTIONS[place.reverse]}
    coords = {"lag": lags, "block": blocks, "sample": range(told.shape[2])}
    found_all: Dataset = xarray_module().Dataset(data, coords, attrs)
    return found_all.transpose("sample", "lag", "block", ...)


def _numbers(values: Tensor) -> Numbers:
    found: Numbers = values.detach().cpu().double().numpy()
    return found
