"""From a table of anyone's to a panel of regular series, with every inference and repair put into words.

Axes: S series, T time, E steps past the target's end, F features. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recurra.data.calendar import Frequency, show
from recurra.errors import DataError


@dataclass(frozen=True)
class Series:
    """One regular series and its covariates.

    ``name`` value of the series column, or the target column's name · ``stamps`` (T,) datetime64[ns] or int64
    steps, without gaps · ``target`` (T,) float64, NaN where missing, first and last value observed · ``past``
    (T, F) covariates known up to the origin only · ``known`` (T + E, F) covariates known in the future too ·
    ``static`` (F,).
    """

    name: str
    stamps: np.ndarray
    target: np.ndarray
    past: np.ndarray
    known: np.ndarray
    static: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    @property
    def extra(self) -> int:
        """E: for how many steps past the target's end covariates are known."""
        return len(self.known) - len(self.target)

    def head(self, steps: int) -> Series:
        """The first ``steps`` of the history; what is known of the future stays."""
        return replace(self, stamps=self.stamps[:steps], target=self.target[:steps], past=self.past[:steps])


@dataclass(frozen=True)
class Columns:
    """Which column of the user's table plays which role; ``categories``: values of the categorical ones."""

    time: str
    target: tuple[str, ...]
    series: str | None = None
    past: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def spread(self, names: Sequence[str]) -> tuple[str, ...]:
        """Features that the columns ``names`` become: ``name=value`` for each value of a categorical one."""
        return tuple(
            feature
            for name in names
            for feature in (
                [f"{name}={v}" for v in self.categories[name]] if name in self.categories else [name]
            )
        )


@dataclass(frozen=True)
class Panel:
    """S series of one frequency. ``notes`` says in sentences what was inferred and done to the data."""

    series: tuple[Series, ...]
    frequency: Frequency
    columns: Columns
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.series)

    @classmethod
    def from_arrays(
        cls, targets: Mapping[str, np.ndarray], frequency: str = "step", start: str | int = 0
    ) -> Panel:
        """A panel of ``targets``, name → (T,) with NaN where missing, that all begin at ``start``.

        Raises :class:`ArgumentError` for a frequency that means nothing and :class:`DataError` for targets
        that are empty, infinite, or missing at an end.
        """
        step = Frequency.parse(frequency)
        first = np.int64(start) if step.unit == "step" else np.datetime64(start, "ns")
        made = []
        for name, values in targets.items():
            target = np.asarray(values, np.float64)
            if (
                target.ndim != 1
                or not len(target)
                or np.isnan(target[[0, -1]]).any()
                or np.isinf(target).any()
            ):
                raise DataError(
                    f"the target {name!r} must be one row of finite numbers that neither begins nor ends "
                    f"with a missing one, got an array of shape {target.shape}: cut it to its first and "
                    "last value"
                )
            blank = np.zeros((len(target), 0))
            made.append(Series(name, step.range(first, len(target)), target, blank, blank, np.zeros(0)))
        return cls(tuple(made), step, Columns("time", tuple(targets)))

    @property
    def names(self) -> tuple[str, ...]:
        """(S,) the series' names."""
        return tuple(s.name for s in self.series)

    @property
    def past_names(self) -> tuple[str, ...]:
        """Names of the features of ``past``, categories spread out."""
        return self.columns.spread(self.columns.past)

    @property
    def known_names(self) -> tuple[str, ...]:
        """Names of the features of ``known``, categories spread out."""
        return self.columns.spread(self.columns.known)

    @property
    def static_names(self) -> tuple[str, ...]:
        """Names of the features of ``static``, categories spread out."""
        return self.columns.spread(self.columns.static)

    @property
    def lengths(self) -> np.ndarray:
        """(S,) int64, T of each series."""
        return np.array([len(s) for s in self.series], np.int64)

    @property
    def extra(self) -> int:
        """E of the series that knows least of its covariates' future."""
        return min((s.extra for s in self.series), default=0)

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with any value, stamp, name or covariate."""
        found = hashlib.blake2b(f"{self.frequency.alias} {self.columns}".encode(), digest_size=8)
        for one in self.series:
            found.update(f"{one.name} {len(one.target)} {len(one.known)}".encode())
            for array in (one.stamps, one.target, one.past, one.known, one.static):
                found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def until(self, steps: int | Sequence[int] | np.ndarray) -> Panel:
        """The panel with only the first ``steps`` (or ``steps[s]``) of each series; known covariates stay."""
        each = np.broadcast_to(np.asarray(steps), (len(self.series),))
        return replace(self, series=tuple(s.head(int(n)) for s, n in zip(self.series, each, strict=True)))

    def select(self, names: Iterable[str]) -> Panel:
        """The panel of the series called ``names``, in that order; KeyError for an unknown one."""
        by = {s.name: s for s in self.series}
        return replace(self, series=tuple(by[n] for n in names))

    def describe(self) -> dict[str, Any]:
        """Numbers about the panel, ready for JSON: counts, first and last stamp, missing values, range."""
        values = np.concatenate([s.target for s in self.series])
        there = values[~np.isnan(values)]
        return {
            "series": len(self.series),
            "steps": len(values),
            "shortest": int(self.lengths.min()),
            "longest": int(self.lengths.max()),
            "missing": int(np.isnan(values).sum()),
            "first": show(min(s.stamps[0] for s in self.series)),
            "last": show(max(s.stamps[-1] for s in self.series)),
            "frequency": self.frequency.alias,
            "season": self.frequency.season,
            "minimum": float(there.min()),
            "mean": float(there.mean()),
            "maximum": float(there.max()),
        }


def read_table(
    source: Any,
    *,
    time: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    series: str | Sequence[str] | None = None,
    frequency: str | Frequency | None = None,
    past: str | Sequence[str] = (),
    known: str | Sequence[str] = (),
    static: str | Sequence[str] = (),
    covariates: str | Sequence[str] = (),
    categories: Mapping[str, Sequence[str]] | None = None,
) -> Panel:
    """Read a table in long form (or with several target columns) and make a regular panel of it.

    What is not given is inferred and said in ``notes``. A role is given by a column's name, or by several.

    source: a path (.csv .tsv .txt .parquet, text also with .gz), the bytes of a text file, or a frame of
        pandas, Polars or PyArrow.
    time: the column of dates, times or step numbers; several, such as year and month, are put together.
    target: the numbers to forecast; several become one series each.
    series: which series a row belongs to; of several columns every combination is one.
    frequency: the step between two stamps, as `recurra.data.calendar.Frequency` or its alias ("MS", "15min").
    past: covariates that are known up to the origin only.
    known: covariates that are known over the horizon too.
    static: covariates that are constant within each series.
    covariates: covariates of any kind. Constant within each series is static, values after the target's end
        make it known, anything else is past only.
    categories: the values of categorical covariates, by column, as a fitted model needs them.

    Raises :class:`DataError`, or :class:`ArgumentError` for a frequency that means nothing; the message names
    the column, the row and the value, what was expected and what to do.
    """
    from recurra.data import assemble

    return assemble.panel(
        source,
        assemble.Wishes(
            time, target, series, frequency, past, known, static, covariates, dict(categories or {})
        ),
    )
