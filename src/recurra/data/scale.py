"""Reversible scales: of series and covariates, fitted on training rows; of windows, from their own past.

Axes: S series, N batch, T time, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from recurra.data.table import Panel


@dataclass(frozen=True)
class Standard:
    """(x − mean) / scale along the last axis; both (F,) float64. Constant features keep scale 1."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray) -> Self:
        """From values (T, F), or (T,) as F = 1, NaN where missing; one without values: mean 0, scale 1."""
        table = values if values.ndim == 2 else values[:, None]
        there = ~np.isnan(table)
        count = np.maximum(there.sum(0), 1)
        mean = np.where(there, table, 0.0).sum(0) / count
        spread = np.sqrt((np.where(there, table - mean, 0.0) ** 2).sum(0) / count)
        # rounding alone must not be blown up into a signal
        flat = spread <= 1e-9 * np.maximum(np.abs(mean), 1e-30)
        return cls(mean, np.where(flat, 1.0, spread))

    def forward(self, values: np.ndarray) -> np.ndarray:
        """(…, F) to scale; with F = 1 any shape."""
        return (values - self._like(self.mean)) / self._like(self.scale)

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """(…, F) back to the units of the data."""
        return values * self._like(self.scale) + self._like(self.mean)

    def _like(self, numbers: np.ndarray) -> np.ndarray | float:
        return float(numbers[0]) if len(numbers) == 1 else numbers

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs, ready for JSON."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """The scale that gave ``state``."""
        return cls(np.array(state["mean"], np.float64), np.array(state["scale"], np.float64))


@dataclass(frozen=True)
class SeriesScale:
    """Scale of one series' target: optionally its logarithm, then standardised."""

    log: bool
    mean: float
    scale: float

    @classmethod
    def fit(cls, target: np.ndarray, *, log: bool = False) -> Self:
        """From a target (T,), NaN where missing. ``log`` is honoured only where every value is above zero."""
        there = target[~np.isnan(target)]
        log = bool(log and len(there) and there.min() > 0)
        inner = Standard.fit(np.log(there) if log else there)
        return cls(log, float(inner.mean[0]), float(inner.scale[0]))

    def forward(self, target: np.ndarray) -> np.ndarray:
        """Any shape, in the data's units, to scale. With ``log`` a value of zero or below becomes NaN."""
        if self.log:
            with np.errstate(invalid="ignore"):
                target = np.log(np.where(target > 0, target, np.nan))
        return np.asarray((target - self.mean) / self.scale)

    def inverse(self, scaled: np.ndarray) -> np.ndarray:
        """Back to the data's units; the logarithm is limited so that nothing becomes infinite."""
        plain = scaled * self.scale + self.mean
        return np.asarray(np.exp(np.minimum(plain, 690.0)) if self.log else plain)

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs, ready for JSON."""
        return {"log": self.log, "mean": self.mean, "scale": self.scale}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """The scale that gave ``state``."""
        return cls(bool(state["log"]), float(state["mean"]), float(state["scale"]))


@dataclass(frozen=True)
class PanelScale:
    """Scales of a whole panel: one for each series' target, by name, and one for each kind of covariate."""

    target: Mapping[str, SeriesScale]
    past: Standard
    known: Standard
    static: Standard
    log: bool = False

    @classmethod
    def fit(
        cls, panel: Panel, steps: int | Sequence[int] | np.ndarray | None = None, *, log: bool = False
    ) -> Self:
        """From the first ``steps`` (one number, or one for each series) of each series, the training rows."""
        each = np.broadcast_to(panel.lengths if steps is None else np.asarray(steps), (len(panel),))
        pairs = [(s, int(n)) for s, n in zip(panel.series, each, strict=True)]
        return cls(
            {s.name: SeriesScale.fit(s.target[:n], log=log) for s, n in pairs},
            Standard.fit(np.concatenate([s.past[:n] for s, n in pairs])),
            Standard.fit(np.concatenate([s.known[:n] for s, n in pairs])),
            Standard.fit(np.stack([s.static for s, _ in pairs])),
            log,
        )

    def of(self, name: str, target: np.ndarray) -> SeriesScale:
        """The scale of the series ``name``; of one never seen, fitted on its ``target`` (T,)."""
        return self.target[name] if name in self.target else SeriesScale.fit(target, log=self.log)

    def forward(self, panel: Panel) -> Panel:
        """The panel to scale."""
        return replace(
            panel,
            series=tuple(
                replace(
                    s,
                    target=self.of(s.name, s.target).forward(s.target),
                    past=self.past.forward(s.past),
                    known=self.known.forward(s.known),
                    static=self.static.forward(s.static),
                )
                for s in panel.series
            ),
        )

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs, ready for JSON."""
        kinds = {kind: getattr(self, kind).state() for kind in ("past", "known", "static")}
        return {"target": {name: s.state() for name, s in self.target.items()}, **kinds, "log": self.log}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """The scales that gave ``state``."""
        target = {name: SeriesScale.restore(s) for name, s in state["target"].items()}
        past, known, static = (Standard.restore(state[kind]) for kind in ("past", "known", "static"))
        return cls(target, past, known, static, bool(state["log"]))


def last_value(past: Tensor, observed: Tensor) -> Tensor:
    """(N,) the last observed value of each window (N, T); 0 where a window has none."""
    steps = torch.arange(1, past.shape[-1] + 1, device=past.device)
    latest = (observed * steps).argmax(-1, keepdim=True)
    return torch.where(observed.any(-1), past.gather(-1, latest).squeeze(-1), 0.0)


def mean_value(past: Tensor, observed: Tensor) -> Tensor:
    """(N,) the mean of the observed values of each window (N, T); 0 where a window has none."""
    return torch.where(observed, past, 0.0).sum(-1) / observed.sum(-1).clamp(min=1)


def mean_size(past: Tensor, observed: Tensor, least: float = 1e-6) -> Tensor:
    """(N,) the mean absolute observed value of each window (N, T); 1 where that is below ``least``."""
    size = mean_value(past.abs(), observed)
    return torch.where(size < least, 1.0, size)


def deviation(past: Tensor, observed: Tensor, least: float = 1e-6) -> Tensor:
    """(N,) the standard deviation of the observed values of each window (N, T); 1 where they do not vary."""
    centre = mean_value(past, observed)
    spread = mean_value((past - centre[:, None]).square(), observed).sqrt()
    return torch.where(spread < least, 1.0, spread)


@dataclass(frozen=True)
class WindowScale:
    """Scale of the windows of one batch: (x − ``centre``) / ``spread``, both (N,)."""

    centre: Tensor
    spread: Tensor

    @classmethod
    def fit(
        cls,
        past: Tensor,
        observed: Tensor,
        centre: Callable[[Tensor, Tensor], Tensor] = last_value,
        spread: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Self:
        """From the past (N, T) of the windows alone. Without ``spread`` the values are only moved."""
        middle = centre(past, observed)
        return cls(middle, torch.ones_like(middle) if spread is None else spread(past, observed))

    def forward(self, values: Tensor, observed: Tensor | None = None) -> Tensor:
        """(N, …) to scale; where ``observed`` is False the result is 0."""
        shape = (-1, *[1] * (values.dim() - 1))
        scaled = (values - self.centre.view(shape)) / self.spread.view(shape)
        return scaled if observed is None else torch.where(observed, scaled, 0.0)

    def inverse(self, values: Tensor) -> Tensor:
        """(N, …) back to the units of the window."""
        shape = (-1, *[1] * (values.dim() - 1))
        return values * self.spread.view(shape) + self.centre.view(shape)
