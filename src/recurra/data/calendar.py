"""Frequencies: how far apart the stamps of a series lie, in the calendar's own steps.

A stamp is a ``datetime64[ns]``, or an ``int64`` where the series counts steps. Axes: T time, Q horizon.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

import numpy as np

from recurra.errors import ArgumentError, DataError

SECOND = 10**9
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY

_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_TICKS = {"W": WEEK, "D": DAY, "h": HOUR, "min": MINUTE, "s": SECOND, "ms": 10**6, "us": 10**3, "ns": 1}
_MONTHS = {"M": 1, "Q": 3, "Y": 12}
_SPELLINGS = {  # what people write for each alias: older pandas, and words
    "H": "h", "hour": "h", "hours": "h", "hourly": "h", "T": "min",
    "m": "min", "minute": "min", "minutes": "min",
    "S": "s", "sec": "s", "second": "s", "seconds": "s", "d": "D", "day": "D", "days": "D", "daily": "D",
    "L": "ms", "w": "W", "week": "W", "weeks": "W", "weekly": "W", "b": "B", "C": "B", "business": "B",
    "weekdays": "B", "M": "MS", "month": "MS", "months": "MS", "monthly": "MS", "ms_": "MS", "Q": "QS",
    "quarter": "QS", "quarters": "QS", "quarterly": "QS", "Y": "YS", "A": "YS", "AS": "YS", "year": "YS",
    "years": "YS", "yearly": "YS", "annual": "YS", "BMS": "MS", "BME": "ME", "steps": "step", "int": "step",
}  # fmt: skip
_ALIASES = ("s", "min", "15min", "h", "D", "B", "W", "MS", "ME", "QS", "QE", "YS", "YE", "step")
_WORDS = {
    WEEK: ("weekly", "weeks"), DAY: ("daily", "days"), HOUR: ("hourly", "hours"),
    MINUTE: ("by the minute", "minutes"),
    SECOND: ("by the second", "seconds"), 10**6: ("by the millisecond", "milliseconds"),
    10**3: ("by the microsecond", "microseconds"), 1: ("by the nanosecond", "nanoseconds"),
}  # fmt: skip


@dataclass(frozen=True)
class Frequency:
    """The step between two stamps.

    ``unit``: ``"tick"`` (``multiple`` nanoseconds), ``"business"`` (``multiple`` weekdays), ``"month"``
    (``multiple`` months) or ``"step"`` (``multiple`` whole numbers).
    ``anchor``: of months the day of the month, 31 for the last; of weeks the weekday, Monday 0; else 0.
    """

    unit: str
    multiple: int = 1
    anchor: int = 0

    @staticmethod
    def parse(alias: str) -> Frequency:
        """Frequency of a pandas-style alias: ``"MS"``, ``"W-SUN"``, ``"B"``, ``"15min"``, ``"step"``.

        Raises :class:`ArgumentError` when the alias means nothing.
        """
        match = re.fullmatch(r"\s*([0-9]{0,6})\s*([A-Za-z]+)(?:-([A-Za-z0-9]{1,3}))?\s*", str(alias))
        if match:
            count = int(match[1] or 1)
            word = match[2] if match[2] in _TICKS else _SPELLINGS.get(match[2], match[2])
            word = word if word in _TICKS else _SPELLINGS.get(word.lower(), word)
            made = _from_parts(count, word, (match[3] or "").upper()) if count else None
            if made is not None:
                return made
        near = difflib.get_close_matches(str(alias), [*_ALIASES, *_SPELLINGS], 1, 0.6)
        hint = f"did you mean {near[0]!r}?" if near else "give one of them, or leave it out"
        raise ArgumentError(f"frequency must be one of {', '.join(_ALIASES)}, got {alias!r}: {hint}")

    @property
    def alias(self) -> str:
        """The pandas-style name, from which :meth:`parse` makes the same frequency."""
        if self.unit == "step":
            return "step" if self.multiple == 1 else f"{self.multiple}step"
        if self.unit == "business":
            return "B" if self.multiple == 1 else f"{self.multiple}B"
        if self.unit == "month":
            letter, size = next((c, n) for c, n in (("Y", 12), ("Q", 3), ("M", 1)) if self.multiple % n == 0)
            if letter == "Q" and self.multiple == 6:
                letter, size = "M", 1
            ending = {1: "S", 31: "E"}.get(self.anchor, f"S-{self.anchor}")
            count = self.multiple // size
            return f"{count if count > 1 else ''}{letter}{ending}"
        if self.multiple % WEEK == 0:
            return f"{self._count(WEEK)}W-{_WEEKDAYS[self.anchor]}"
        name, size = next((c, n) for c, n in _TICKS.items() if c != "W" and self.multiple % n == 0)
        return f"{self._count(size)}{name}"

    def _count(self, size: int) -> str:
        return str(self.multiple // size) if self.multiple > size else ""

    @property
    def season(self) -> int:
        """The most natural season's length in steps; 1 where there is none."""
        if self.unit == "month":
            return 12 // self.multiple if 12 % self.multiple == 0 else 1
        if self.unit == "business":
            return 5 if self.multiple == 1 else 1
        if self.unit == "step":
            return 1
        if self.multiple % DAY == 0:
            return {1: 7, 7: 52, 14: 26, 28: 13}.get(self.multiple // DAY, 1)
        cycle = DAY if self.multiple >= MINUTE else HOUR
        return cycle // self.multiple if cycle % self.multiple == 0 else 1

    @property
    def seasons(self) -> tuple[int, ...]:
        """Every season that data of this frequency often has, shortest first; (1,) where there is none."""
        if self.unit == "tick" and self.multiple < DAY:
            cycles = [
                c
                for c in (HOUR, DAY, WEEK)
                if c % self.multiple == 0 and (c > HOUR or self.multiple <= MINUTE)
            ]
            return tuple(c // self.multiple for c in cycles if c // self.multiple > 1) or (1,)
        longer = {"D": (365,), "B": (260,)}.get(self.alias, ())
        return (self.season, *longer)

    @property
    def label(self) -> str:
        """The frequency in words: "monthly", "every 15 minutes"."""
        if self.unit == "step":
            return "in steps" if self.multiple == 1 else f"in steps of {self.multiple}"
        if self.unit == "business":
            return "on business days" if self.multiple == 1 else f"every {self.multiple} business days"
        if self.unit == "month":
            named = {1: "monthly", 3: "quarterly", 12: "yearly"}.get(self.multiple)
            if named:
                return named
            years = self.multiple % 12 == 0
            return f"every {self.multiple // 12 if years else self.multiple} {'years' if years else 'months'}"
        size = next(n for n in _WORDS if self.multiple % n == 0)
        single, plural = _WORDS[size]
        return single if self.multiple == size else f"every {self.multiple // size} {plural}"

    @property
    def noun(self) -> str:
        """What the stamps count, for messages: "month", "15 minutes", "step"."""
        if self.unit in ("step", "business"):
            return "step" if self.unit == "step" else "business day"
        names = {
            "monthly": "month",
            "quarterly": "quarter",
            "yearly": "year",
            "weekly": "week",
            "daily": "day",
        }
        names |= {"hourly": "hour", "by the minute": "minute", "by the second": "second"}
        return names.get(self.label, self.label.removeprefix("every ").removeprefix("by the "))

    def range(self, start: np.datetime64 | int | np.integer, periods: int) -> np.ndarray:
        """(periods,) stamps from ``start`` on, which is taken to be one of the frequency's own stamps.

        Raises :class:`DataError` when the last one lies beyond the year 2262, the end of ``datetime64[ns]``.
        """
        count = np.arange(periods, dtype=np.int64)
        if self.unit == "step":
            return np.asarray(start, np.int64) + self.multiple * count
        first = np.asarray(start, "datetime64[ns]")[()]
        if self.unit == "tick":
            if first.astype(np.int64).item() + self.multiple * max(periods - 1, 0) >= 2**63:
                raise _beyond()
            return np.asarray(first + (self.multiple * count).astype("timedelta64[ns]"))
        day = first.astype("datetime64[D]")
        clock = first - day.astype("datetime64[ns]")
        if self.unit == "business":
            days = np.busday_offset(day, self.multiple * count, roll="forward")
        else:
            months = day.astype("datetime64[M]") + self.multiple * count
            days = _in_month(months, self.anchor)
        if periods and days[-1] >= np.datetime64("2262-01-01"):
            raise _beyond()
        return np.asarray(days.astype("datetime64[ns]") + clock)

    def future(self, last: np.datetime64 | int | np.integer, horizon: int) -> np.ndarray:
        """(Q,) the stamps that follow ``last``."""
        return self.range(last, horizon + 1)[1:]

    def steps(self, start: np.datetime64 | int | np.integer, stamps: np.ndarray) -> np.ndarray:
        """(T,) how many steps each of the ``stamps`` (T,) lies after ``start``; -1 where between two steps.

        ``start`` is taken to be one of the frequency's own stamps, and the earliest.
        """
        if self.unit in ("step", "tick"):
            kind = "int64" if self.unit == "step" else "datetime64[ns]"
            gap = (stamps.astype(kind) - np.asarray(start, kind)).astype(np.int64)
            return np.where((gap % self.multiple == 0) & (gap >= 0), gap // self.multiple, -1)
        first = np.asarray(start, "datetime64[ns]")[()]
        days, day = stamps.astype("datetime64[D]"), first.astype("datetime64[D]")
        on_time = (stamps - days.astype("datetime64[ns]")) == (first - day.astype("datetime64[ns]"))
        if self.unit == "business":
            gap = np.busday_count(day, days)
            exact = on_time & np.is_busday(days)
        else:
            months = days.astype("datetime64[M]")
            gap = (months - day.astype("datetime64[M]")).astype(np.int64)
            exact = on_time & (_in_month(months, self.anchor) == days)
        return np.where(exact & (gap % self.multiple == 0) & (gap >= 0), gap // self.multiple, -1)

    def floor(self, stamps: np.ndarray) -> np.ndarray:
        """(T,) each stamp moved back to the beginning of the step that it falls into."""
        if self.unit == "step":
            return np.asarray(stamps - stamps % self.multiple)
        if self.unit == "tick":
            # 1970-01-01 was a Thursday
            shift = (self.anchor - 3) * DAY if self.multiple % WEEK == 0 else 0
            ticks = stamps.astype("datetime64[ns]").astype(np.int64) - shift
            return np.asarray((ticks - ticks % self.multiple + shift).astype("datetime64[ns]"))
        days = stamps.astype("datetime64[D]")
        if self.unit == "business":
            return np.busday_offset(days, 0, roll="backward").astype("datetime64[ns]")
        months = days.astype("datetime64[M]").astype(np.int64)
        months = (months - months % self.multiple).astype("datetime64[M]")
        return np.asarray(_in_month(months, self.anchor).astype("datetime64[ns]"))


def _beyond() -> DataError:
    return DataError(
        "stamps beyond the year 2262 cannot be held; expected dates between 1678 and 2262: check the dates"
    )


def _in_month(months: np.ndarray, day: int) -> np.ndarray:
    """(T,) datetime64[D]: the given day of each month, or the month's last where it is shorter."""
    first = months.astype("datetime64[D]")
    length = ((months + 1).astype("datetime64[D]") - first).astype(np.int64)
    return np.asarray(first + (np.minimum(day, length) - 1))


def _from_parts(count: int, word: str, anchor: str) -> Frequency | None:
    if word == "step":
        return Frequency("step", count)
    if word == "B":
        return Frequency("business", count)
    if word == "W":
        if anchor and anchor not in _WEEKDAYS:
            return None
        return Frequency("tick", count * WEEK, _WEEKDAYS.index(anchor) if anchor else 6)
    if word in _TICKS:
        return Frequency("tick", count * _TICKS[word])
    months = _MONTHS.get(word[:1])
    if months is None or word[1:] not in ("S", "E"):
        return None
    day = int(anchor) if anchor.isdigit() else 1
    if not 1 <= day <= 31:
        return None
    return Frequency("month", count * months, 31 if word[1:] == "E" else day)


def infer(stamps: np.ndarray, group: np.ndarray) -> tuple[Frequency, bool]:
    """The frequency of sorted stamps (T,), each once per series; ``group`` (T,) numbers the series.

    Returns the frequency and whether the stamps must be floored to it (one stamp in every month or week, but
    not always on the same day). Raises :class:`DataError` when no calendar step explains them.
    """
    within = group[1:] == group[:-1]
    if not within.any():
        raise DataError(
            "no series has two rows, so the frequency is unknown; expected two or more: give --frequency, "
            "say MS"
        )
    if stamps.dtype.kind != "M":
        step = _step(np.diff(stamps)[within])
        if step is None or step < 1:
            raise DataError(_irregular(stamps, np.diff(stamps)[within], within))
        return Frequency("step", step), False
    stamps = stamps.astype("datetime64[ns]")
    days = stamps.astype("datetime64[D]")
    clock = (stamps - days.astype("datetime64[ns]")).astype(np.int64)
    gaps = np.diff(stamps.astype(np.int64))[within]
    found = None
    if (clock == clock[0]).all():
        found = _of_months(days, gaps, within) or _of_days(days, gaps, within, group)
    else:
        step = _step(gaps)
        found = (Frequency("tick", step), False) if step else None
    if found is None:
        raise DataError(_irregular(stamps, gaps, within))
    return found


def _step(gaps: np.ndarray) -> int | None:
    """The step that all gaps are multiples of, provided that a third of them are just this step."""
    values, counts = np.unique(gaps, return_counts=True)
    step = int(np.gcd.reduce(values))
    return step if values[0] == step and counts[0] * 3 >= len(gaps) else None


def _of_months(days: np.ndarray, gaps: np.ndarray, within: np.ndarray) -> tuple[Frequency, bool] | None:
    months = days.astype("datetime64[M]")
    apart = np.diff(months.astype(np.int64))[within]
    if apart.min() < 1:
        return None
    dates = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
    step = _step(apart)
    if step is None:
        return None
    anchor = int(dates.max())
    if (_in_month(months, 31) == days).all():
        return Frequency("month", step, 31), False
    if (_in_month(months, anchor) == days).all():
        return Frequency("month", step, anchor), False
    if not (gaps % WEEK).any() or np.median(gaps) < 26 * DAY:
        return None
    return Frequency("month", step, 1), True


def _of_days(
    days: np.ndarray, gaps: np.ndarray, within: np.ndarray, group: np.ndarray
) -> tuple[Frequency, bool] | None:
    step = _step(gaps)
    weekday = (days.astype(np.int64) + 3) % 7
    if step == DAY and weekday.max() < 5 and (gaps == 3 * DAY).any():
        return Frequency("business"), False
    if step is not None:
        # one grid holds all series of a panel only when they share the weekday
        shared = step % WEEK == 0 and (weekday == weekday[0]).all()
        return Frequency("tick", step, int(weekday[0]) if shared else 0), False
    weeks = np.diff((days.astype(np.int64) + 3) // 7)[within]
    if weeks.min() >= 1 and np.median(gaps) <= 8 * DAY:
        return Frequency("tick", WEEK), True
    return None


def _irregular(stamps: np.ndarray, gaps: np.ndarray, within: np.ndarray) -> str:
    values, counts = np.unique(gaps, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    dated = stamps.dtype.kind == "M"
    steps = ", ".join(f"{describe_gap(int(values[k])) if dated else values[k]} ({counts[k]}×)" for k in order)
    odd = int(np.flatnonzero(within)[np.flatnonzero(gaps != values[order[0]])[0]])
    return (
        f"the stamps keep no regular step: most often {steps}, but {show(stamps[odd])} is followed by "
        f"{show(stamps[odd + 1])}; expected evenly spaced stamps: correct them, or give --frequency "
        f"({'say D or h' if dated else 'step'}) to put them on its grid"
    )


def describe_gap(ticks: int) -> str:
    """A time difference in nanoseconds, in words."""
    size = next(n for n in _WORDS if ticks % n == 0 and n != WEEK)
    count = ticks // size
    return f"{count} {_WORDS[size][1].removesuffix('s') if count == 1 else _WORDS[size][1]}"


def show(stamp: np.datetime64 | np.integer | int) -> str:
    """A stamp as people write it: no time where it is midnight, no fractions where they are zero."""
    if not isinstance(stamp, np.datetime64):
        return str(int(stamp))
    date, _, clock = str(stamp.astype("datetime64[ns]")).partition("T")
    clock, _, fraction = clock.partition(".")
    fraction = fraction.rstrip("0")
    if fraction:
        return f"{date} {clock}.{fraction}"
    return date if clock == "00:00:00" else f"{date} {clock.removesuffix(':00')}"
