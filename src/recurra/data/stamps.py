"""Dates and times read from text: one way of writing them per column, decided from the whole column."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from recurra.data.calendar import DAY, HOUR, MINUTE, SECOND
from recurra.data.words import short
from recurra.errors import DataError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = (
    r"(?:(?:T|,?\s+)(?P<H>[0-9]{1,2})(?::(?P<M>[0-9]{2})(?::(?P<S>[0-9]{2})(?:[.,](?P<f>[0-9]{1,9}))?)?)?"
    r"\s*(?P<p>[AaPp]\.?[Mm]\.?)?\s*(?P<z>Z|z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?)?$"
)
_DAY = r"(?P<d>[0-9]{1,2})(?:st|nd|rd|th)?"
_NAME = (
    r"(?P<n>(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?))\.?"
)
_WEEKDAY = r"^(?:(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6}\.?,?\s+)?"
_FAMILIES = (  # name, regular expression of both Python and Rust
    ("2020-01-31", r"^(?P<y>[0-9]{4})-(?P<m>[0-9]{1,2})-(?P<d>[0-9]{1,2})" + _CLOCK),
    ("2020/01/31", r"^(?P<y>[0-9]{4})/(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})" + _CLOCK),
    ("2020.01.31", r"^(?P<y>[0-9]{4})\.(?P<m>[0-9]{1,2})\.(?P<d>[0-9]{1,2})" + _CLOCK),
    ("20200131T1300", r"^(?P<y>[0-9]{4})(?P<m>[0-9]{2})(?P<d>[0-9]{2})T(?P<H>[0-9]{2})(?P<M>[0-9]{2})"
     r"(?P<S>[0-9]{2})?Z?$"),
    ("31.01.2020", r"^(?P<d>[0-9]{1,2})\.(?P<m>[0-9]{1,2})\.(?P<y>[0-9]{4}|[0-9]{2})\.?" + _CLOCK),
    ("a/b/year", r"^(?P<a>[0-9]{1,2})/(?P<b>[0-9]{1,2})/(?P<y>[0-9]{4}|[0-9]{2})" + _CLOCK),
    ("a-b-year", r"^(?P<a>[0-9]{1,2})-(?P<b>[0-9]{1,2})-(?P<y>[0-9]{4}|[0-9]{2})" + _CLOCK),
    ("2020-01", r"^(?P<y>[0-9]{4})[-/.](?P<m>[0-9]{1,2})$"),
    ("2020M01", r"^(?P<y>[0-9]{4}) ?[Mm](?P<m>[0-9]{1,2})$"),
    ("01/2020", r"^(?P<m>[0-9]{1,2})[-/.](?P<y>[0-9]{4})$"),
    ("2020Q1", r"^(?P<y>[0-9]{4})[- ]?[Qq](?P<q>[1-4])$"),
    ("Q1 2020", r"^(?:[Qq](?P<q>[1-4])|(?P<r>[1-4])[Qq])[-/ ]?(?P<y>[0-9]{4})$"),
    ("2020-W05", r"^(?P<y>[0-9]{4})-?[Ww](?P<w>[0-9]{1,2})(?:-?(?P<k>[1-7]))?$"),
    ("Jan 31 2020", _WEEKDAY + _NAME + r"\s+" + _DAY + r",?\s+(?P<y>[0-9]{4})" + _CLOCK),
    ("31 Jan 2020", _WEEKDAY + _DAY + r"\.?[-/ ]?" + _NAME + r"[-/, ]?\s*(?P<y>[0-9]{4}|[0-9]{2})" + _CLOCK),
    ("2020 Jan 31", r"^(?P<y>[0-9]{4})[-/ ]?" + _NAME + r"[-/ ]" + _DAY + _CLOCK),
    ("Jan 2020", r"^" + _NAME + r"[-/, ]?\s*(?P<y>[0-9]{4}|'?[0-9]{2})$"),
    ("2020 Jan", r"^(?P<y>[0-9]{4})[-/ ]?" + _NAME + r"$"),
    ("1-01", r"^(?P<y>[0-9]{1,2})[-/](?P<m>[0-9]{1,2})$"),
)  # fmt: skip
_FIELDS = ("y", "m", "d", "H", "M", "S", "q", "r", "w", "k", "a", "b")
EXPECTED = "dates such as 2020-01-31, 2020-01-31 13:00, 2020-01, 2020Q1, Jan 31 2020 or 31.01.2020"


@dataclass(frozen=True)
class Stamps:
    """``values`` (T,) datetime64[ns] or int64 steps, and what was assumed, in sentences."""

    values: np.ndarray
    notes: tuple[str, ...] = ()


def recognised(text: str) -> bool:
    """Whether one cell reads as a date; plain numbers do not count."""
    return any(re.match(pattern, text) for name, pattern in _FAMILIES if True)


def parse(text: pl.Series, column: str, place: Callable[[int], str]) -> Stamps:
    """Stamps (T,) of tidied text (T,); ``place(i)`` names row i in messages.

    Raises :class:`DataError` naming the row for a cell that is empty, no date, or written in a second way.
    """
    empty = text.is_null().to_numpy()
    if empty.any():
        row = place(int(np.argmax(empty)))
        raise DataError(
            f"{row} has no value in the time column {column!r}; expected {EXPECTED}: fill it in or delete "
            "the row"
        )
    if text.str.contains(r"^[+-]?[0-9]{1,19}$").all():
        return _whole(text, column, place)
    if text.str.contains(r"^[+-]?[0-9]*\.[0-9]+(e-?[0-9]+)?$|^[+-]?[0-9]+$").all() and not recognised(
        text[0]
    ):
        return _decimals(text, column)
    distinct = text.unique(maintain_order=True)
    code = text.replace_strict(
        distinct, pl.int_range(len(distinct), eager=True), return_dtype=pl.Int64
    ).to_numpy()
    first = np.unique(code, return_index=True)[1]
    fields, name, clock, zoned = _match(distinct, lambda k: place(int(first[k])), column)
    where = lambda k: f"{place(int(first[k]))} ({short(distinct[int(k)])})"  # noqa: E731
    notes = []
    if "a" in fields:
        note = _settle_order(fields, code, column, where)
        notes.append(f"The dates of {column!r}, such as {short(distinct[0])}, were read {note}.")
    if name == "1-01":
        notes.append(
            f"The years of {column!r} are counted from {int(fields['y'].min())} and belong to no calendar: "
            f"they were read as {2000 + int(fields['y'].min())} and so on."
        )
        fields["y"] = fields["y"] + 2000
    elif fields["y"].max() < 100:
        fields["y"] = np.where(fields["y"] < 70, 2000, 1900) + fields["y"]
        notes.append(f"The two-digit years of {column!r} were read as 1970 to 2069.")
    local = _assemble(fields, where, column)
    if zoned is not None:
        local, said = _to_utc(local, zoned, column, bool(clock))
        notes.append(said)
    return Stamps(local[code], tuple(notes))


def _match(
    distinct: pl.Series, place: Callable[[int], str], column: str
) -> tuple[dict[str, np.ndarray], str, bool, np.ndarray | None]:
    """Fields of every distinct cell by the family that reads all, its name, is there a clock, zones (s)."""
    name, pattern = next(((n, p) for n, p in _FAMILIES if re.match(p, distinct[0])), ("", ""))
    if not name:
        later = next((k for k, cell in enumerate(distinct.head(50).to_list()) if recognised(cell)), None)
        if later is None:
            raise DataError(
                f"the time column {column!r} holds no dates: {place(0)} has {short(distinct[0])}; expected "
                f"{EXPECTED}: correct it, or name another column with --time"
            )
        raise DataError(
            f"{place(0)} has {short(distinct[0])} in the time column {column!r}, which is no date; expected "
            f"{EXPECTED}"
        )
    groups = distinct.str.extract_groups(pattern).struct.unnest()
    unread = groups["y"].is_null().to_numpy()
    if unread.any():
        odd = int(np.argmax(unread))
        if recognised(distinct[odd]):
            raise DataError(
                f"the time column {column!r} mixes two ways of writing dates: {short(distinct[0])} in "
                f"{place(0)} and {short(distinct[odd])} in {place(odd)}; expected one: rewrite one of them "
                "as the other"
            )
        raise DataError(
            f"{place(odd)} has {short(distinct[odd])} in the time column {column!r}, which is no date; "
            f"expected a date written as in {place(0)}, {short(distinct[0])}: correct it or delete the row"
        )
    fields = {}
    for key in _FIELDS:
        if key in groups.columns:
            cells = groups[key].str.strip_chars("'").cast(pl.Int64, strict=False)
            if key in ("H", "M", "S") or cells.null_count() < len(cells):
                fields[key] = cells.fill_null({"m": 1, "d": 1, "k": 1}.get(key, 0)).to_numpy()
    if "n" in groups.columns:
        fields["m"] = (
            groups["n"].str.head(3).str.to_lowercase().replace_strict(_MONTHS, range(1, 13)).to_numpy()
        )
    if "p" in groups.columns and groups["p"].null_count() < len(groups):
        after = groups["p"].str.to_lowercase().str.starts_with("p").fill_null(False).to_numpy()
        fields["H"] = np.where(groups["p"].is_null(), fields["H"], fields["H"] % 12 + 12 * after)
    if "f" in groups.columns and groups["f"].null_count() < len(groups):
        fields["f"] = groups["f"].fill_null("0").str.pad_end(9, "0").cast(pl.Int64).to_numpy()
    clock = "H" in groups.columns and groups["H"].null_count() < len(groups)
    zoned = None
    if "z" in groups.columns and groups["z"].null_count() < len(groups):
        if groups["z"].null_count():
            odd, other = (
                int(np.argmax(m.to_numpy())) for m in (groups["z"].is_null(), groups["z"].is_not_null())
            )
            raise DataError(
                f"the time column {column!r} gives a time zone in some rows only: {short(distinct[other])} "
                f"in {place(other)} and {short(distinct[odd])} in {place(odd)}; expected all or none: add "
                "or drop the zones"
            )
        zoned = _offsets(groups["z"])
    return fields, name, clock, zoned


def _offsets(zones: pl.Series) -> np.ndarray:
    """(T,) seconds east of Greenwich."""
    parts = zones.str.extract_groups(r"^(?P<s>[+-])(?P<h>[0-9]{2}):?(?P<m>[0-9]{2})?$").struct.unnest()
    seconds = parts["h"].cast(pl.Int64) * 3600 + parts["m"].cast(pl.Int64).fill_null(0) * 60
    return np.asarray(np.where(parts["s"] == "-", -1, 1) * seconds.fill_null(0).to_numpy())


def _settle_order(
    fields: dict[str, np.ndarray], code: np.ndarray, column: str, where: Callable[[int], str]
) -> str:
    """Day or month first? What the numbers allow; else what leaves fewer gaps. Sets ``m`` and ``d``."""
    a, b = fields.pop("a"), fields.pop("b")
    if (a > 12).any() and (b > 12).any():
        raise DataError(
            f"the time column {column!r} mixes two ways of writing dates: the day comes first in "
            f"{where(int(np.argmax(a > 12)))} but the month in {where(int(np.argmax(b > 12)))}; expected "
            "one: rewrite one of them"
        )
    if (a > 12).any() or (b > 12).any():
        first = bool((a > 12).any())
    else:
        votes = [_evenness(fields["y"], m, d) for d, m in ((a, b), (b, a))]
        if votes[0] == votes[1] and (a != b).any():
            raise DataError(
                f"the dates of the time column {column!r}, such as {where(int(np.argmax(a != b)))}, can be "
                "read day first or month first, and no row decides; expected an unambiguous form: write "
                "them as 2020-01-31"
            )
        first = votes[0] > votes[1]
    fields["d"], fields["m"] = (a, b) if first else (b, a)
    return "day first" if first else "month first"


def _evenness(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> float:
    """The share of steps that are the commonest step, in days or in months, whichever is larger."""
    days = np.unique(year * 372 + month * 31 + day)
    months = np.unique(year * 12 + month)
    shares = [0.0]
    for grid in (days, months) if len(months) == len(days) else (days,):
        gaps = np.diff(grid)
        if len(gaps):
            shares.append(float(np.unique(gaps, return_counts=True)[1].max() / len(gaps)))
    return max(shares)


def _assemble(fields: dict[str, np.ndarray], where: Callable[[int], str], column: str) -> np.ndarray:
    """(T,) datetime64[ns] of numbers that are checked against the calendar."""
    year = fields["y"]
    one = np.ones_like(year)
    quarter = fields.get("q", 0 * one) + fields.get("r", 0 * one)
    month = fields.get("m", np.where(quarter > 0, quarter * 3 - 2, 1))
    day = fields.get("d", one)
    checks = (("year", year, 1678, 2261), ("month", month, 1, 12), ("week", fields.get("w", one), 1, 53))
    clocks = (
        ("hour", fields.get("H", 0 * one), 23),
        ("minute", fields.get("M", 0 * one), 59),
        ("second", fields.get("S", 0 * one), 59),
    )
    for what, cells, low, high in (*checks, *((w, c, 0, h) for w, c, h in clocks)):
        wrong = (cells < low) | (cells > high)
        if wrong.any():
            raise DataError(
                f"{where(int(np.argmax(wrong)))} of the time column {column!r} is no date: its {what} must "
                f"lie between {low} and {high}; correct it or delete the row"
            )
    first = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    if "w" in fields:
        fourth = first.astype("datetime64[D]") + 3  # the 4th of January lies in week 1
        monday = fourth - (fourth.astype(np.int64) + 3) % 7
        days = monday + (fields["w"] - 1) * 7 + fields.get("k", one) - 1
    else:
        length = ((first + 1).astype("datetime64[D]") - first.astype("datetime64[D]")).astype(np.int64)
        wrong = (day < 1) | (day > length)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{where(row)} of the time column {column!r} is no date: that month has {length[row]} days; "
                "correct it or delete the row"
            )
        days = first.astype("datetime64[D]") + (day - 1)
    ticks = fields.get("f", 0 * one) + sum(
        fields.get(key, 0 * one) * size for key, size in (("H", HOUR), ("M", MINUTE), ("S", SECOND))
    )
    return np.asarray(days.astype("datetime64[ns]") + ticks.astype("timedelta64[ns]"))


def _to_utc(local: np.ndarray, offsets: np.ndarray, column: str, clock: bool) -> tuple[np.ndarray, str]:
    """UTC, save where every local time is midnight: there the local dates are what is meant."""
    if not (local.astype(np.int64) % DAY).any():
        return (
            local,
            (
                f"The times of {column!r} are all midnight of their time zone: the dates were kept as they "
                "stand."
            ),
        )
    moved = local - (offsets * SECOND).astype("timedelta64[ns]")
    if len(np.unique(offsets)) > 1:
        return moved, (
            f"The times of {column!r} were converted to UTC; their distance from UTC changes (summer time), "
            "so that a local hour moves by one in UTC."
        )
    return moved, f"The times of {column!r} were converted to UTC." if offsets[
        0
    ] else f"The times of {column!r} are UTC."


def _whole(text: pl.Series, column: str, place: Callable[[int], str]) -> Stamps:
    """Whole numbers: years, dates written together, Unix time, or steps."""
    values = text.cast(pl.Int64, strict=False)
    if values.null_count():
        row = int(np.argmax(values.is_null().to_numpy()))
        raise DataError(
            f"{place(row)} has {short(text[row])} in the time column {column!r}, which is too large; "
            f"expected {EXPECTED}"
        )
    cells = values.to_numpy()
    low, high = int(cells.min()), int(cells.max())
    counting = column.lower() in ("t", "step", "steps", "index", "idx", "n", "no", "obs")
    if low >= 1678 and high <= 2261 and not counting:
        years = ((cells - 1970).astype("datetime64[Y]")).astype("datetime64[ns]")
        return Stamps(years, (f"The whole numbers of {column!r} were read as years.",))
    if low >= 16780101 and high <= 22611231 and not counting:
        month, day = cells // 100 % 100, cells % 100
        if month.min() >= 1 and month.max() <= 12 and day.min() >= 1 and day.max() <= 31:
            fields = {"y": cells // 10000, "m": month, "d": day}
            return Stamps(_assemble(fields, lambda k: f"{place(k)} ({short(text[int(k)])})", column))
    if (
        low >= 167801
        and high <= 226112
        and not counting
        and (cells % 100).min() >= 1
        and (cells % 100).max() <= 12
    ):
        months = ((cells // 100 - 1970) * 12 + cells % 100 - 1).astype("datetime64[M]")
        return Stamps(
            months.astype("datetime64[ns]"),
            (f"The whole numbers of {column!r} were read as year and month.",),
        )
    for digits, unit, size in (
        (10, "seconds", SECOND),
        (13, "milliseconds", 10**6),
        (16, "microseconds", 1000),
        (19, "nanoseconds", 1),
    ):
        if 10 ** (digits - 1) <= low and high < min(10**digits, 2**63 // size) and not counting:
            return Stamps(
                (cells * size).astype("datetime64[ns]"),
                (f"The whole numbers of {column!r} were read as Unix {unit}, UTC.",),
            )
    return Stamps(cells.astype(np.int64))


def _decimals(text: pl.Series, column: str) -> Stamps:
    """Evenly spaced decimal numbers become steps."""
    cells = text.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    grid = np.unique(cells)
    step = float(np.median(np.diff(grid))) if len(grid) > 1 else 1.0
    with np.errstate(all="ignore"):
        count = (cells - grid[0]) / step
    if (
        not np.isfinite(count).all()
        or np.abs(count).max() > 2**53
        or np.abs(count - np.round(count)).max() > 0.01
    ):
        raise DataError(
            f"the time column {column!r} holds decimal numbers that are not evenly spaced, from "
            f"{short(text[0])} on; expected {EXPECTED} or evenly spaced numbers: name another column with "
            "--time"
        )
    note = f"The numbers of {column!r} are {step:g} apart and were read as steps counted from 0."
    return Stamps(np.round(count).astype(np.int64), (note,))
