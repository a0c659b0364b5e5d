"""The rows of a table in the order of series and time, each stamp once, on the stamps of one frequency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from recurra.data import calendar
from recurra.data.calendar import DAY, Frequency, show
from recurra.data.read import Table
from recurra.data.words import counted
from recurra.errors import ArgumentError, DataError


@dataclass(frozen=True)
class Rows:
    """The table's rows in the order of series and time.

    ``order`` (R,) row numbers of the table · ``series`` (R,) numbers of ``names`` · ``stamp`` (R,).
    """

    order: np.ndarray
    series: np.ndarray
    stamp: np.ndarray
    names: tuple[str, ...]


def in_order(
    table: Table, stamp: np.ndarray | None, series: tuple[str, ...], time: str
) -> tuple[Rows, list[str]]:
    count = len(table.frame)
    names: tuple[str, ...] = ("",)
    code = np.zeros(count, np.int64)
    if series:
        text = pl.Series("", [""] * count)
        for k, column in enumerate(series):
            cells = table.frame[column].cast(pl.String)
            empty = cells.is_null().to_numpy()
            if empty.any():
                raise DataError(
                    f"{table.place(int(np.argmax(empty)))} has no value in the series column {column!r}; "
                    "expected a name: fill it in"
                )
            text = text + " / " + cells if k else cells
        distinct = text.unique(maintain_order=True)
        code = text.replace_strict(
            distinct, pl.int_range(len(distinct), eager=True), return_dtype=pl.Int64
        ).to_numpy()
        names = tuple(distinct.to_list())
    if stamp is None:  # rows are steps: number them within each series
        order = np.argsort(code, kind="stable")
        start = np.searchsorted(code[order], np.arange(len(names)))
        return Rows(order, code[order], np.arange(count) - start[code[order]], names), []
    order = np.lexsort((stamp, code))
    notes = []
    stable = np.argsort(code, kind="stable")
    if (order != stable).any() and (
        np.diff(stamp[stable].view(np.int64))[np.diff(code[stable]) == 0] < 0
    ).any():
        notes.append(f"The rows were not in order of {time!r} and were sorted.")
    return Rows(order, code[order], stamp[order], names), notes


def without_folds(
    table: Table, rows: Rows, values: np.ndarray, series: tuple[str, ...], time: tuple[str, ...]
) -> tuple[Rows, np.ndarray, list[str]]:
    """Rows without repeated stamps: the hour that the end of summer time repeats is averaged, no other."""
    same = (np.diff(rows.stamp.view(np.int64)) == 0) & (np.diff(rows.series) == 0)
    if not same.any():
        return rows, values, []
    at = np.flatnonzero(same)
    if not _is_fold(rows, at):
        first = int(at[0])
        pair = sorted((int(rows.order[first]), int(rows.order[first + 1])))
        whose = f" of series {rows.names[rows.series[first]]!r}" if series else ""
        cure = "" if series else ", or name the column that tells series apart with --series"
        raise DataError(
            f"the stamp {show(rows.stamp[first])}{whose} occurs twice, in {table.place(pair[0])} and "
            f"{table.place(pair[1])}; expected each once: delete or combine the rows{cure}"
        )
    values = values.copy()
    for k in at:
        pair = values[rows.order[[k, k + 1]]]
        there = ~np.isnan(pair)
        mean = np.where(there, pair, 0).sum(0) / np.maximum(there.sum(0), 1)
        values[rows.order[k]] = np.where(there.any(0), mean, np.nan)
    keep = np.ones(len(rows.order), bool)
    keep[at + 1] = False
    note = (
        f"{len(at)} stamps occur twice because a clock was set back (the first: {show(rows.stamp[at[0]])}): "
        "the two values were averaged."
    )
    return Rows(rows.order[keep], rows.series[keep], rows.stamp[keep], rows.names), values, [note]


def _is_fold(rows: Rows, at: np.ndarray) -> bool:
    """Whether the repeated stamps are of one night hour on one Sunday a year, as summer time makes them."""
    if rows.stamp.dtype.kind != "M":
        return False
    twice = rows.stamp[at]
    days = twice.astype("datetime64[D]")
    hours = (twice - days.astype("datetime64[ns]")).astype(np.int64) // calendar.HOUR
    gaps = np.diff(rows.stamp.view(np.int64))
    step = np.median(gaps[gaps > 0]) if (gaps > 0).any() else DAY
    month = days.astype("datetime64[M]").astype(np.int64) % 12 + 1
    nights = ((days.astype(np.int64) + 3) % 7 == 6) & (hours <= 3) & np.isin(month, (3, 4, 9, 10, 11))
    if not nights.all() or step > calendar.HOUR:
        return False
    year = days.astype("datetime64[Y]").astype(np.int64)
    folds = np.unique(np.stack([rows.series[at], year, days.astype(np.int64) * 24 + hours]), axis=1)
    once = len(np.unique(folds[:2], axis=1).T) == folds.shape[1]
    within = np.unique(np.stack([rows.series[at], twice.astype(np.int64)]), axis=1).shape[1] == len(at)
    return bool(once and within)


def on_grid(table: Table, given: str | Frequency | None, rows: Rows) -> tuple[Frequency, Rows, list[str]]:
    dated = rows.stamp.dtype.kind == "M"
    if given is None:
        frequency, snap = calendar.infer(rows.stamp, rows.series)
        notes = (
            [f"The frequency is {frequency.label} ({frequency.alias})."]
            if dated or frequency.multiple > 1
            else []
        )
    else:
        frequency = given if isinstance(given, Frequency) else Frequency.parse(given)
        if dated != (frequency.unit != "step"):
            what = "dates" if dated else "whole numbers"
            raise ArgumentError(
                f"--frequency {frequency.alias} does not suit the stamps, which are {what}: leave it out"
            )
        notes = []
        frequency, snap = _fit(frequency, rows)
    if not snap:
        return frequency, rows, notes
    floored = frequency.floor(rows.stamp)
    moved = int((floored != rows.stamp).sum())
    twice = np.flatnonzero((np.diff(floored.view(np.int64)) == 0) & (np.diff(rows.series) == 0))
    if len(twice):
        first = int(twice[0])
        pair = sorted((int(rows.order[first]), int(rows.order[first + 1])))
        raise DataError(
            f"{table.place(pair[0])} ({show(rows.stamp[first])}) and {table.place(pair[1])} "
            f"({show(rows.stamp[first + 1])}) fall into the same {frequency.noun}; expected one row for "
            "each: combine them, or choose another --frequency"
        )
    if moved:
        notes.append(f"{counted(moved, 'stamp')} moved back to the beginning of the {frequency.noun}.")
    return frequency, Rows(rows.order, rows.series, floored, rows.names), notes


def _fit(frequency: Frequency, rows: Rows) -> tuple[Frequency, bool]:
    """The user's frequency with the anchor that the stamps show, and whether they must be floored to it."""
    starts = np.flatnonzero(np.diff(rows.series, prepend=-1))
    ends = np.append(starts[1:], len(rows.series))
    options = [frequency]
    if frequency.unit == "month":
        days = rows.stamp.astype("datetime64[D]")
        dates = (days - days.astype("datetime64[M]").astype("datetime64[D]")).astype(np.int64) + 1
        options += [Frequency("month", frequency.multiple, anchor) for anchor in (31, int(dates.max()))]
    elif frequency.unit == "tick" and frequency.multiple % calendar.WEEK == 0:
        weekday = int((rows.stamp[0].astype("datetime64[D]").astype(np.int64) + 3) % 7)
        options += [Frequency("tick", frequency.multiple, weekday)]
    for option in options:
        weekly = option.unit == "tick" and option.multiple % calendar.WEEK == 0
        if weekly and (option.floor(rows.stamp) != rows.stamp).any():
            continue
        spans = zip(starts, ends, strict=True)
        if all((option.steps(rows.stamp[a], rows.stamp[a:b]) >= 0).all() for a, b in spans):
            return option, False
    return frequency, True
