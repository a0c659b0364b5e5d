"""Which column of a table is the time, the target, the name of the series; in words where it was inferred."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from recurra.data import stamps
from recurra.data.numbers import looks_numeric, truths
from recurra.data.read import Table
from recurra.data.words import several, short
from recurra.errors import DataError

_TIME_NAMES = (
    "ds", "date", "datetime", "timestamp", "time", "ts", "month", "day", "week", "quarter", "year", "period",
    "dt", "date_time", "utc_timestamp", "t", "step", "index",
)  # fmt: skip
_TARGET_NAMES = ("y", "target", "value", "values")
_SERIES_NAMES = (
    "unique_id",
    "series",
    "series_id",
    "item_id",
    "id",
    "item",
    "store",
    "symbol",
    "ticker",
    "name",
    "key",
    "group",
)
_PARTS = ("year", "quarter", "month", "week", "day", "hour", "minute", "second")


def listed(names: str | Iterable[str] | None, table: Table) -> tuple[str, ...]:
    """Column names given as one string, with commas between several, or as a sequence."""
    if names is None:
        return ()
    if isinstance(names, str):
        whole = names.strip()
        return (
            (whole,)
            if whole in table.frame.columns
            else tuple(n.strip() for n in names.split(",") if n.strip())
        )
    return tuple(str(n) for n in names)


def require(names: Sequence[str], table: Table, flag: str) -> None:
    """Raises :class:`DataError`, with the nearest name, for a column that is not there."""
    columns = table.frame.columns
    for name in names:
        if name not in columns:
            near = difflib.get_close_matches(name.lower(), [c.lower() for c in columns], 1, 0.5)
            hint = next((f" (did you mean {c!r}?)" for c in columns if near and c.lower() == near[0]), "")
            raise DataError(
                f"{flag} names the column {short(name)}, which {table.name!r} does not have{hint}; its "
                f"columns: {several(columns)}"
            )
    double = next((n for k, n in enumerate(names) if n in names[:k]), None)
    if double is not None:
        raise DataError(f"{flag} names the column {double!r} twice; expected each once")


def counter(column: pl.Series) -> bool:
    """Whether a column only numbers the rows, by one from 0 or 1 on."""
    if len(column) < 2 or column.null_count() or not (column.dtype.is_integer() or column.dtype == pl.String):
        return False
    if str(column[0]) not in ("0", "1") or str(column[-1]) != str(int(column[0]) + len(column) - 1):
        return False
    cells = column.cast(pl.Int64, strict=False)
    return bool(cells.null_count() == 0 and (cells.diff().drop_nulls() == 1).all())


def find_time(
    table: Table, given: str | Iterable[str] | None, taken: set[str]
) -> tuple[tuple[str, ...], list[str]]:
    """The columns that hold the time, none of them for rows that are steps, and what to say about it."""
    named = listed(given, table)
    if named:
        require(named, table, "--time")
        return named, []
    frame, free = table.frame, [c for c in table.frame.columns if c not in taken]
    low = {c.lower(): c for c in free}
    dated = [c for c in free if _dated(frame[c])]
    by_name = [low[n] for n in _TIME_NAMES if n in low and (low[n] in dated or _dateless(frame[low[n]], n))]
    split = _split(low, frame)
    if len(split) > 1 and not dated:
        return split, [f"The time is put together from the columns {several(split)}."]
    chosen = (
        next((c for c in by_name if c in dated), None)
        or (dated[0] if dated else None)
        or (by_name[0] if by_name else None)
    )
    if chosen is None and len(free) > 1:  # dates that cannot be read deserve a message
        worded = [c for c in free if _wordy(frame[c])]
        meant = [c for c in worded if re.search(r"date|time|month|period", c.lower())]
        chosen = next(iter(meant + [c for c in worded if frame[c].n_unique() == len(frame) > 1]), None)
    if chosen is None:
        return (), ["No column holds dates: the rows are taken as equal steps in their order."]
    clock = next(
        (c for c in free if c != chosen and _is_clock(frame[c], c) and _is_plain_date(frame[chosen])), None
    )
    if clock is not None:
        return (chosen, clock), [f"The time is put together from the columns {several((chosen, clock))}."]
    others = [c for c in dated if c != chosen]
    more = f" (not {several(others)}; --time overrides)" if others else ""
    return (chosen,), [f"The time is the column {chosen!r}{more}."]


def _wordy(column: pl.Series) -> bool:
    return column.dtype == pl.String and not looks_numeric(column)


def _is_clock(column: pl.Series, name: str) -> bool:
    """Whether a column holds times of day, or is called hour and holds whole hours."""
    if column.null_count():
        return False
    if column.dtype.is_integer():
        return name.lower() == "hour" and bool(column.is_between(0, 23).all())
    if column.dtype != pl.String:
        return False
    pattern = (
        r"^[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?$" if name.lower() != "hour" else r"^[0-9]{1,2}(:[0-9]{2}){0,2}$"
    )
    return bool(column.str.contains(pattern).all())


def _is_plain_date(column: pl.Series) -> bool:
    """Whether a column holds dates that repeat, without a time of day."""
    if column.n_unique() == len(column):
        return False
    return column.dtype == pl.Date or (
        column.dtype == pl.String and not column.str.contains(":", literal=True).any()
    )


def _dated(column: pl.Series) -> bool:
    if column.dtype.is_temporal():
        return column.dtype != pl.Duration and column.dtype != pl.Time
    if column.dtype != pl.String:
        return False
    sample = column.drop_nulls().head(200)
    return (
        bool(len(sample))
        and sum(stamps.recognised(cell) for cell in sample) * 2 > len(sample)
        and not looks_numeric(sample)
    )


def _dateless(column: pl.Series, name: str) -> bool:
    """Whether a column that bears a time's name holds whole numbers, or text that is meant to be dates."""
    if column.dtype.is_integer():
        return True
    if column.dtype != pl.String or not len(column.drop_nulls()):
        return False
    whole = column.drop_nulls().head(200).str.contains(r"^[0-9]+([.][0-9]*)?$").sum()
    meant = name in ("ds", "date", "datetime", "timestamp", "time", "month")
    return meant or int(whole) * 2 > min(len(column.drop_nulls()), 200)


def _split(low: dict[str, str], frame: pl.DataFrame) -> tuple[str, ...]:
    """Columns year, month, day, hour …, without a hole between the first and the last."""
    if "year" not in low:
        return ()
    parts = ["year"]
    for path in (("month", "day", "hour", "minute", "second"), ("quarter",), ("week",)):
        found = []
        for part in path:
            if part not in low:
                break
            found.append(part)
        if found:
            parts += found
            break
    return tuple(low[p] for p in parts)


def join_parts(table: Table, names: Sequence[str]) -> pl.Series:
    """One column of text such as ``2010-1-1 0:00`` from separate columns; null where one of them is."""
    frame = table.frame
    by = {next((p for p in _PARTS if p in n.lower()), n): frame[n].cast(pl.String) for n in names}
    calendar = ("month", "day", "hour", "minute", "second")[: len(names) - 1]
    if len(by) < len(names) or set(by) not in ({"year", *calendar}, {"year", "quarter"}, {"year", "week"}):
        return _glued([frame[n].cast(pl.String) for n in names])
    if "quarter" in by:
        return by["year"] + "Q" + by["quarter"].str.strip_chars_start("Qq")
    if "week" in by:
        return by["year"] + "-W" + by["week"].str.strip_chars_start("Ww")
    joint = " " if by["month"].str.contains(r"[A-Za-z]").any() else "-"
    text = by["year"] + joint + by["month"]
    if "day" in by:
        text = text + joint + by["day"]
    if "hour" in by:
        text = text + " " + by["hour"] + ":" + (by["minute"].str.zfill(2) if "minute" in by else "00")
    return text + ":" + by["second"].str.zfill(2) if "second" in by else text


def _glued(cells: list[pl.Series]) -> pl.Series:
    """A date and a time of day; a bare hour gets its minutes."""
    whole = cells[0]
    for part in cells[1:]:
        hours = part.str.contains(r"^[0-9]{1,2}$").all()
        whole = whole + " " + part + ":00" if hours else whole + " " + part
    return whole


def find_series(
    table: Table, given: str | Iterable[str] | None, stamp: np.ndarray | None, taken: set[str]
) -> tuple[tuple[str, ...], list[str]]:
    """The columns that name the series: those given, else those that explain why stamps repeat."""
    named = listed(given, table)
    if named:
        require(named, table, "--series")
        return named, []
    frame = table.frame
    usual = next((c for c in frame.columns if c.lower() == "unique_id" and c not in taken), None)
    if usual is not None:
        return (usual,), [f"The series are told apart by the column {usual!r}."]
    if stamp is None:
        return (), []
    code = np.unique(stamp, return_inverse=True)[1]
    times = np.bincount(code)
    if (times > 1).mean() < 0.2:  # a few repeated stamps are a mistake, not a panel
        return (), []
    free = [c for c in frame.columns if c not in taken and _may_name(frame[c])]
    fitting: list[tuple[str, ...]] = [(c,) for c in free if _explains(frame, (c,), code, int(times.max()))]
    if not fitting:
        few = [c for c in free if frame[c].n_unique() <= times.max()][:12]
        pairs = [(a, b) for k, a in enumerate(few) for b in few[k + 1 :]]
        fitting = [pair for pair in pairs if _explains(frame, pair, code, int(times.max()))]
    usual_names = [
        f for f in fitting if all(c.lower() in _SERIES_NAMES or c.lower().endswith("_id") for c in f)
    ]
    if len(usual_names or fitting) == 1:
        chosen = (usual_names or fitting)[0]
        count = frame.select(chosen).n_unique()
        return chosen, [f"The {count} series are told apart by {several(chosen)}, since their stamps repeat."]
    if fitting:
        ways = [",".join(f) for f in fitting]
        raise DataError(
            f"the stamps of {table.name!r} repeat, and any of {several(ways)} could tell the series apart: "
            f"name one with --series, say --series {ways[0]}"
        )
    return (), []


def _may_name(column: pl.Series) -> bool:
    """Whether a column could hold names of series: no dates, fractions, truth values or missing cells."""
    kind = column.dtype
    if (
        column.null_count()
        or kind.is_float()
        or kind.is_temporal()
        or kind == pl.Boolean
        or column.name.lower() in _TARGET_NAMES
    ):
        return False
    return kind != pl.String or not (
        truths(column) is not None or column.str.contains(r"^-?[0-9]*[.,][0-9]+$").any()
    )


def _explains(frame: pl.DataFrame, names: tuple[str, ...], code: np.ndarray, most: int) -> bool:
    """Whether no stamp repeats for any one value of the columns, and there are about as many as needed."""
    keys = frame.select(names)
    count = keys.n_unique()
    if not most <= count <= max(3 * most, most + 2) or count == len(keys):
        return False
    return keys.with_columns(pl.Series("\0stamp", code)).is_unique().all()


def find_target(
    table: Table, given: str | Iterable[str] | None, taken: set[str]
) -> tuple[tuple[str, ...], list[str]]:
    """The column to forecast: the one given, the only one left, the only numeric one, or the one called y."""
    named = listed(given, table)
    if named:
        require(named, table, "--target")
        used = next((n for n in named if n in taken), None)
        if used is not None:
            raise DataError(
                f"--target names the column {used!r}, which already serves as time, series or covariate: "
                "name another one"
            )
        return named, []
    frame, notes = table.frame, []
    free = [c for c in frame.columns if c not in taken]
    if not free:
        raise DataError(
            f"{table.name!r} has no column to forecast beside {several(sorted(taken))}; expected a column "
            "of numbers, separated by , ; | or a tab: add one"
        )
    if len(free) > 1:
        rows = [c for c in free if counter(frame[c])]
        if rows and any(_numeric(frame[c]) for c in free if c not in rows):
            free = [c for c in free if c not in rows]
            notes.append(f"The column {several(rows)} only numbers the rows and is not used.")
    numeric = [c for c in free if _numeric(frame[c])]
    called = [c for n in _TARGET_NAMES for c in numeric or free if c.lower() == n]
    if len(free) == 1:
        return (free[0],), [*notes, f"The target is the column {free[0]!r}."]
    if len(numeric) == 1 or called:
        chosen = called[0] if called else numeric[0]
        why = "the only one of numbers" if len(numeric) == 1 else "by its name"
        return (chosen,), [*notes, f"The target is the column {chosen!r}, {why}."]
    if not numeric:
        raise DataError(
            f"{table.name!r} has no column of numbers to forecast among {several(free)}: name the right one "
            "with --target"
        )
    raise DataError(
        f"{table.name!r} has {len(numeric)} columns of numbers that could be the target: "
        f"{several(numeric)}; name one with --target, say --target {numeric[0]} (several with commas are "
        "forecast as one series each)"
    )


def _numeric(column: pl.Series) -> bool:
    if column.dtype == pl.String:
        return looks_numeric(column) and truths(column.head(1000)) is None
    return column.dtype.is_numeric() and column.null_count() < len(column)
