"""The steps from a read table to a panel: roles, stamps, frequency, values, one regular grid per series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from recurra.data import roles, stamps
from recurra.data.calendar import Frequency, show
from recurra.data.covariates import Inputs, cells_as_numbers, gather
from recurra.data.numbers import tidy
from recurra.data.read import Table, read
from recurra.data.rows import Rows, in_order, on_grid, without_folds
from recurra.data.table import Columns, Panel, Series
from recurra.data.words import counted, several
from recurra.errors import ArgumentError, DataError


@dataclass(frozen=True)
class Wishes:
    """What the user said about the columns."""

    time: str | Sequence[str] | None
    target: str | Sequence[str] | None
    series: str | Sequence[str] | None
    frequency: str | Frequency | None
    past: str | Sequence[str]
    known: str | Sequence[str]
    static: str | Sequence[str]
    covariates: str | Sequence[str]
    categories: Mapping[str, Sequence[str]]


def panel(source: Any, wishes: Wishes) -> Panel:
    """What :func:`recurra.data.table.read_table` documents."""
    table = read(source)
    notes = list(table.notes)
    asked = {
        flag: roles.listed(getattr(wishes, flag), table) for flag in ("past", "known", "static", "covariates")
    }
    _check_roles(asked, table)
    covariates = [n for names in asked.values() for n in names]
    target = roles.listed(wishes.target, table)
    taken = {*covariates, *target, *roles.listed(wishes.series, table)}
    time, said = roles.find_time(table, wishes.time, taken)
    notes += said
    stamp, said = _stamps(table, time)
    notes += said
    series, said = roles.find_series(table, wishes.series, stamp, {*covariates, *target, *time})
    notes += said
    target, said = roles.find_target(table, wishes.target, {*covariates, *time, *series})
    notes += said
    values, said = _targets(table, target)
    notes += said
    rows, said = in_order(table, stamp, series, ", ".join(time))
    notes += said
    if stamp is not None and (np.diff(rows.stamp.view(np.int64)) == 0).any():
        rows, values, said = without_folds(table, rows, values, series, time)
        notes += said
    frequency, rows, said = on_grid(table, wishes.frequency, rows)
    notes += said
    inputs = gather(table, rows, asked, values, wishes.categories)
    notes += inputs.notes
    used = {role: inputs.columns[role] for role in ("past", "known", "static")}
    columns = Columns(
        ", ".join(time), target, ", ".join(series) or None, **used, categories=inputs.categories
    )
    made, said = _grids(table, rows, frequency, values, inputs, columns)
    notes += said
    unused = [
        c
        for c in table.frame.columns
        if c not in {*covariates, *target, *time, *series} and not roles.counter(table.frame[c])
    ]
    if unused:
        notes.append(f"Not used: {several(unused)}; --covariates takes them in.")
    return Panel(made, frequency, columns, tuple(notes))


def _check_roles(asked: dict[str, tuple[str, ...]], table: Table) -> None:
    seen: dict[str, str] = {}
    for flag, names in asked.items():
        roles.require(names, table, f"--{flag}")
        for name in names:
            if name in seen:
                raise ArgumentError(
                    f"column {name!r} is given with --{seen[name]} and with --{flag}; expected one of them: "
                    "drop one"
                )
            seen[name] = flag


def _stamps(table: Table, time: tuple[str, ...]) -> tuple[np.ndarray | None, list[str]]:
    if not time:
        return None, []
    label = ", ".join(time)
    column = table.frame[time[0]] if len(time) == 1 else roles.join_parts(table, time)
    if column.dtype.is_temporal():
        return _typed(column, label, table)
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        column = whole if (whole.cast(pl.Float64) == column).all() and not column.is_nan().any() else column
    if column.dtype == pl.Boolean:
        raise DataError(
            f"the time column {label!r} holds truth values; expected {stamps.EXPECTED}: name another with "
            "--time"
        )
    text = column if column.dtype == pl.String else tidy(column.cast(pl.String))
    found = stamps.parse(text, label, table.place)
    return found.values, list(found.notes)


def _typed(column: pl.Series, label: str, table: Table) -> tuple[np.ndarray, list[str]]:
    """Stamps of a column that already holds dates or times."""
    if column.null_count():
        empty = table.place(int(np.argmax(column.is_null().to_numpy())))
        raise DataError(
            f"{empty} has no value in the time column {label!r}; expected a date: fill it in or delete it"
        )
    if column.dtype in (pl.Duration, pl.Time):
        raise DataError(
            f"the time column {label!r} holds {column.dtype} values; expected dates: name another with --time"
        )
    years = column.dt.year()
    if years.min() < 1678 or years.max() > 2261:  # type: ignore[operator]
        row = int(np.argmax(((years < 1678) | (years > 2261)).to_numpy()))
        raise DataError(
            f"{table.place(row)} has {column[row]} in the time column {label!r}; expected dates between "
            "1678 and 2261"
        )
    notes = []
    zone = getattr(column.dtype, "time_zone", None)
    if zone is not None:
        local = column.dt.replace_time_zone(None)
        midnight = (local.dt.truncate("1d") == local).all()
        column = local if midnight else column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        what = "are all midnight: the dates were kept" if midnight else "were converted to UTC"
        if midnight or zone != "UTC":
            notes.append(f"The times of {label!r}, in {zone}, {what}.")
    return column.cast(pl.Datetime("ns")).to_numpy().astype("datetime64[ns]"), notes


def _targets(table: Table, names: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """(R, targets) float64 with NaN where missing."""
    made, notes = [], []
    for name in names:
        column = table.frame[name]
        if column.dtype.is_temporal():
            raise DataError(
                f"the target column {name!r} holds dates; expected numbers: name another with --target"
            )
        values, note = cells_as_numbers(table, name, "target")
        if note:
            notes.append(f"In {name!r}, {note}.")
        made.append(values)
    whole = np.stack(made, 1)
    if np.isnan(whole).all():
        raise DataError(
            f"the target column {several(names)!r} has no values at all; expected numbers: name another "
            "with --target"
        )
    return whole, notes


def _grids(
    table: Table, rows: Rows, frequency: Frequency, values: np.ndarray, inputs: Inputs, columns: Columns
) -> tuple[tuple[Series, ...], list[str]]:
    """Regular series of the ordered rows, gaps as NaN, from the first to the last observed target."""
    starts = np.flatnonzero(np.diff(rows.series, prepend=-1))
    ends = np.append(starts[1:], len(rows.series))
    made: list[Series] = []
    empty: list[str] = []
    gaps, absent, trimmed, first_gap = 0, 0, 0, ""
    for a, b in zip(starts, ends, strict=True):
        order, stamp, name = rows.order[a:b], rows.stamp[a:b], rows.names[rows.series[a]]
        at = frequency.steps(stamp[0], stamp)
        _check_grid(table, frequency, at, stamp, order)
        length = int(at[-1]) + 1
        cells = {role: _spread(part[order], at, length) for role, part in inputs.cells.items()}
        spread = _spread(values[order], at, length)
        grid = frequency.range(stamp[0], length)
        missing = np.ones(length, bool)
        missing[at] = False
        for k, column in enumerate(columns.target):
            whole = spread[:, k]
            seen = np.flatnonzero(~np.isnan(whole))
            called = (f"{name}:{column}" if len(columns.target) > 1 else name) if columns.series else column
            if not len(seen):
                empty.append(called)
                continue
            low, high = int(seen[0]), int(seen[-1]) + 1
            told = np.flatnonzero(~np.isnan(cells["known"]).all(1)) if cells["known"].shape[1] else seen
            final = max(high, int(told[-1]) + 1 if len(told) else high)
            inside = missing[low:high]
            gaps += int(inside.sum())
            absent += int(np.isnan(whole[low:high]).sum() - inside.sum())
            trimmed += low + (length - final)
            if inside.any() and not first_gap:
                first_gap = show(grid[low:high][np.argmax(inside)])
            still = cells["static"]
            static = np.array(
                [col[~np.isnan(col)][0] if (~np.isnan(col)).any() else np.nan for col in still.T]
            )
            made.append(
                Series(
                    called,
                    grid[low:high],
                    whole[low:high],
                    cells["past"][low:high],
                    cells["known"][low:final],
                    static,
                )
            )
    notes = []
    if gaps:
        notes.append(f"{counted(gaps, 'step')} without a row filled in as missing (the first: {first_gap}).")
    if absent:
        notes.append(f"{counted(absent, 'value')} of the target missing: masked, never taken as zero.")
    if trimmed:
        notes.append(f"{counted(trimmed, 'row')} before the first or after the last target value left out.")
    if empty:
        notes.append(f"Without a single value and left out: {several(empty)}.")
    constant = [s.name for s in made if len(s) > 1 and np.nanmin(s.target) == np.nanmax(s.target)]
    if constant:
        notes.append(f"Always the same value: {several(constant)}.")
    return tuple(made), notes


def _spread(cells: np.ndarray, at: np.ndarray, length: int) -> np.ndarray:
    whole = np.full((length, cells.shape[1]), np.nan)
    whole[at] = cells
    return whole


def _check_grid(
    table: Table, frequency: Frequency, at: np.ndarray, stamp: np.ndarray, order: np.ndarray
) -> None:
    off = at < 0
    if off.any():
        row = int(np.argmax(off))
        raise DataError(
            f"{table.place(int(order[row]))} has the stamp {show(stamp[row])}, which does not lie on the "
            f"{frequency.noun} grid of {show(stamp[0])} ({frequency.alias}); expected a regular step: "
            "correct it, or choose another --frequency"
        )
    if at[-1] >= 10 * len(at) + 10_000:
        jump = int(np.argmax(np.diff(at)))
        raise DataError(
            f"the stamps jump from {show(stamp[jump])} in {table.place(int(order[jump]))} to "
            f"{show(stamp[jump + 1])} in {table.place(int(order[jump + 1]))}, over "
            f"{int(at[jump + 1] - at[jump])} steps of one {frequency.noun}; expected few gaps: correct the "
            "stamp, or choose a coarser --frequency"
        )
