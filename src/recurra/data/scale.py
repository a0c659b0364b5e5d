"""The scale of covariates: fitted on training rows, undone by nothing, since covariates are never forecast.

Axes: T time, F features. The target has a reversible scale of its own: `recurra.tasks.remainder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

FURTHEST = 12.0
"""A value further from the mean than so many spreads is held there: it would drown all others."""


@dataclass(frozen=True)
class Standard:
    """Mean and spread of each feature over the training rows, and whether it is ever missing there; each
    (F,).
    """

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    missing: tuple[bool, ...]

    @classmethod
    def fit(cls, rows: Sequence[np.ndarray]) -> Self:
        """From arrays (T, F), NaN where missing. A feature that is constant or never seen has spread 1."""
        table = np.concatenate(list(rows))
        there = ~np.isnan(table)
        count = np.maximum(there.sum(axis=0), 1)
        mean = np.where(there, table, 0.0).sum(axis=0) / count
        spread = np.sqrt(np.where(there, (table - mean) ** 2, 0.0).sum(axis=0) / count)
        # Rounding alone must not be blown up into a signal.
        spread = np.where(spread <= 1e-9 * np.maximum(np.abs(mean), 1e-30), 1.0, spread)
        return cls(tuple(mean.tolist()), tuple(spread.tolist()), tuple((~there).any(axis=0).tolist()))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """(T, F) → (T, width): standardised, 0 where missing, then flags of the features that ever were."""
        scaled = (rows - np.array(self.mean)) / np.array(self.spread)
        scaled = np.clip(np.nan_to_num(scaled), -FURTHEST, FURTHEST)
        flags = np.isnan(rows)[:, np.array(self.missing, dtype=bool)]
        return np.concatenate([scaled, flags.astype(np.float64)], axis=1)

    @property
    def width(self) -> int:
        """Columns that :meth:`apply` returns."""
        return len(self.mean) + sum(self.missing)

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` needs."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The scale that gave ``document``."""
        return cls(tuple(document["mean"]), tuple(document["spread"]), tuple(document["missing"]))
