"""Windows on a panel: index views of one flat copy of the series, gathered batch by batch.

Axes: S series, N batch, T lookback, Q horizon, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from recurra.data.table import Panel, Series

Bounds = int | Sequence[int] | np.ndarray | None


@dataclass(frozen=True)
class Batch:
    """N windows. What is missing, or lies outside its series, is 0 and its mask False; values are float32.

    ``past_target`` (N, T), ``past_observed`` (N, T) bool · ``future_target``, ``future_observed`` (N, Q) ·
    ``past_covariates`` (N, T, F) known up to the origin · ``past_known`` (N, T, F) and ``future_known``
    (N, Q, F) known in the future too · ``static`` (N, F) · each covariate's mask ends in ``_observed`` ·
    ``series`` (N,) int64 its number · ``origin`` (N,) int64 index, in its series, of the first forecast step.
    """

    past_target: Tensor
    past_observed: Tensor
    future_target: Tensor
    future_observed: Tensor
    past_covariates: Tensor
    past_known: Tensor
    future_known: Tensor
    static: Tensor
    past_covariates_observed: Tensor
    past_known_observed: Tensor
    future_known_observed: Tensor
    static_observed: Tensor
    series: Tensor
    origin: Tensor

    def __len__(self) -> int:
        return len(self.origin)

    def to(self, device: torch.device | str) -> Self:
        """The batch on another device."""
        return replace(
            self, **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        )


class Windows:
    """Every window of a panel that has an origin between ``first`` and ``last``.

    A window's origin is the index of its first forecast step; it sees the ``lookback`` steps before and is
    asked for the ``horizon`` steps from there on. Windows that begin before their series are padded on the
    left, unobserved.

    panel: the panel, or its series (scaled or not); at least one series.
    lookback: T ≥ 1.
    horizon: Q ≥ 1.
    first: earliest origin, for all series or one for each; default ``min_history``.
    last: latest origin; default the last one whose horizon lies within the series.
    stride: distance between the origins of one series, counted from ``last`` backwards.
    min_history: fewest observed values that a window must see in its lookback; 0 takes every origin.
    min_future: fewest observed values that it must be asked for; 0 for forecasts past the series' end.

    Raises ValueError for a lookback, horizon or stride below 1. No window at all is no error: ``len`` is 0.
    """

    def __init__(
        self,
        panel: Panel | Sequence[Series],
        lookback: int,
        horizon: int,
        *,
        first: Bounds = None,
        last: Bounds = None,
        stride: int = 1,
        min_history: int = 1,
        min_future: int = 1,
    ) -> None:
        for name, value in (("lookback", lookback), ("horizon", horizon), ("stride", stride)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        series = panel.series if isinstance(panel, Panel) else tuple(panel)
        self.lookback, self.horizon = lookback, horizon
        lengths = np.array([len(s) for s in series], np.int64)
        lengths_known = np.array([len(s.known) for s in series], np.int64)
        self.lengths, self.lengths_known = torch.from_numpy(lengths), torch.from_numpy(lengths_known)
        self.starts, self.starts_known = (n.cumsum(0) - n for n in (self.lengths, self.lengths_known))
        self.target, self.target_observed = _masked([s.target for s in series])
        self.past, self.past_observed = _masked([s.past for s in series])
        self.known, self.known_observed = _masked([s.known for s in series])
        self.static, self.static_observed = _masked([s.static[None] for s in series])
        low = np.maximum(_each(first, len(series), np.full(len(series), max(min_history, 0))), 0)
        high = np.minimum(_each(last, len(series), lengths - horizon), lengths)
        counts = np.maximum((high - low) // stride + 1, 0)
        which = np.repeat(np.arange(len(series)), counts)
        nth = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        origin = (high - (counts - 1) * stride)[which] + nth * stride
        seen = np.concatenate([[0], np.cumsum(self.target_observed.numpy())])
        begin = self.starts.numpy()[which] if len(series) else which
        middle = begin + origin
        before = seen[middle] - seen[begin + np.maximum(origin - lookback, 0)]
        after = seen[begin + np.minimum(origin + horizon, lengths[which])] - seen[middle]
        keep = (before >= min_history) & (after >= min_future)
        self.series, self.origin = torch.from_numpy(which[keep]), torch.from_numpy(origin[keep])

    def __len__(self) -> int:
        return len(self.origin)

    def batch(self, indices: Tensor | Sequence[int] | np.ndarray | slice | None = None) -> Batch:
        """The windows at ``indices`` (N,), all of them by default."""
        at = slice(None) if indices is None else indices
        if not isinstance(at, (slice, Tensor)):
            at = torch.as_tensor(np.asarray(at, np.int64))
        return self.at(self.series[at], self.origin[at])

    def at(self, series: Tensor, origin: Tensor) -> Batch:
        """Windows of ``series`` (N,) int64 at ``origin`` (N,) int64, be they among the chosen ones or not."""
        back = origin[:, None] + torch.arange(-self.lookback, 0, device=origin.device)
        ahead = origin[:, None] + torch.arange(self.horizon, device=origin.device)
        start, end = self.starts[series, None], self.lengths[series, None]
        start_known, end_known = self.starts_known[series, None], self.lengths_known[series, None]
        past = _gather(self.target, self.target_observed, start, back, end)
        future = _gather(self.target, self.target_observed, start, ahead, end)
        covariates = _gather(self.past, self.past_observed, start, back, end)
        known = _gather(self.known, self.known_observed, start_known, back, end_known)
        known_ahead = _gather(self.known, self.known_observed, start_known, ahead, end_known)
        return Batch(
            past_target=past[0],
            past_observed=past[1],
            future_target=future[0],
            future_observed=future[1],
            past_covariates=covariates[0],
            past_known=known[0],
            future_known=known_ahead[0],
            static=self.static[series],
            past_covariates_observed=covariates[1],
            past_known_observed=known[1],
            future_known_observed=known_ahead[1],
            static_observed=self.static_observed[series],
            series=series,
            origin=origin,
        )

    def to(self, device: torch.device | str) -> Self:
        """The same windows with their series held on ``device``, so that batches are gathered there."""
        other = object.__new__(type(self))
        for name, value in vars(self).items():
            setattr(other, name, value.to(device) if isinstance(value, Tensor) else value)
        return other


def _masked(parts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """All series end to end, float32 with 0 for NaN, and where a value was observed."""
    whole = np.concatenate(parts) if parts else np.zeros(0)
    there = ~np.isnan(whole)
    return torch.from_numpy(np.where(there, whole, 0.0).astype(np.float32)), torch.from_numpy(there)


def _each(bound: Bounds, count: int, default: np.ndarray) -> np.ndarray:
    return default if bound is None else np.broadcast_to(np.asarray(bound, np.int64), (count,))


def _gather(
    values: Tensor, observed: Tensor, start: Tensor, at: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """Values and mask at (N, T) steps of series that begin at ``start`` (N, 1) and have ``end`` (N, 1)."""
    inside = (at >= 0) & (at < end)
    if not len(values):
        shape = (*at.shape, *values.shape[1:])
        return values.new_zeros(shape), observed.new_zeros(shape)
    flat = (start + at.clamp(min=0).minimum((end - 1).clamp(min=0))).clamp(max=len(values) - 1)
    inside = inside.reshape(*inside.shape, *[1] * (values.dim() - 1))
    return torch.where(inside, values[flat], 0.0), observed[flat] & inside
