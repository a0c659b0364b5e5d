"""Calendar features: periodic, true to the calendar, and only cycles that the stamps can show."""

from __future__ import annotations

import numpy as np
import pytest

from recurra.data.calendar import Frequency
from recurra.data.features import CYCLE_DAYS, calendar_features, calendar_names, usable_cycles


def stamps(alias: str, start: str, count: int) -> np.ndarray:
    return Frequency.parse(alias).range(np.datetime64(start, "ns"), count)


def columns(when: np.ndarray, cycle: str) -> dict[str, np.ndarray]:
    return dict(zip(calendar_names([cycle]), calendar_features(when, [cycle]).T, strict=True))


@pytest.mark.parametrize(
    ("date", "weekday"),
    [("1969-12-28", 6), ("1970-01-01", 3), ("2000-02-29", 1), ("2024-12-25", 2), ("2026-11-20", 4)],
)
@pytest.mark.parametrize("hour", ["00:00", "23:59:59"])
def test_the_weekday_is_right(date: str, weekday: int, hour: str) -> None:
    found = calendar_features(np.array([f"{date}T{hour}"], dtype="datetime64[ns]"), ["week"])
    assert found.shape == (1, 7)
    assert np.flatnonzero(found[0]).tolist() == [weekday]
    assert found.sum() == 1.0


def test_the_day_comes_back_after_a_day_and_not_before() -> None:
    when = stamps("h", "2023-03-25", 24 * 7)
    found = calendar_features(when, ["day"])
    np.testing.assert_allclose(found[24:], found[:-24], atol=1e-12)
    distances = np.abs(found[1:24] - found[0]).max(axis=1)
    assert (distances > 0.1).all()
    six = columns(stamps("h", "2023-03-25T06:00", 1), "day")
    assert six["sine of day, harmonic 1"] == pytest.approx(1.0)
    assert six["cosine of day, harmonic 2"] == pytest.approx(-1.0)


def test_the_year_begins_anew_on_the_first_of_january() -> None:
    first = np.array(["1999-01-01", "2000-01-01", "2001-01-01"], dtype="datetime64[ns]")
    found = columns(first, "year")
    assert (found["sine of year, harmonic 1"] == 0).all()
    assert (found["cosine of year, harmonic 1"] == 1).all()
    spring = columns(np.array(["2001-04-02"], dtype="datetime64[ns]"), "year")
    assert spring["sine of year, harmonic 1"] == pytest.approx(1.0, abs=0.01)
    days = calendar_features(stamps("D", "2020-01-01", 366), ["year"])
    assert np.abs(np.diff(days, axis=0)).max() < 0.05  # the last day lies beside the first: no jump
    assert np.abs(days[0] - days[-1]).max() < 0.05


@pytest.mark.parametrize(
    ("alias", "count", "expected"),
    [
        ("h", 48, ()),  # 47 hours from first to last
        ("h", 49, ("day",)),
        ("h", 24 * 14 + 1, ("day", "week")),
        ("h", 24 * 731 + 1, ("day", "week", "year")),
        ("8h", 7, ("day",)),
        ("12h", 99, ("week",)),
        ("D", 14, ()),
        ("D", 15, ("week",)),
        ("D", 732, ("week", "year")),
        ("B", 33, ("week",)),
        ("W-SUN", 104, ()),
        ("W-SUN", 106, ("year",)),
        ("MS", 24, ()),
        ("MS", 25, ()),  # two years hold 730 or 731 days and a year 365.25
        ("MS", 26, ("year",)),
        ("QS", 10, ("year",)),
        ("YS", 99, ()),
        ("15min", 7, ()),
    ],
)
def test_only_cycles_that_are_resolved_and_seen_twice(
    alias: str, count: int, expected: tuple[str, ...]
) -> None:
    assert usable_cycles(stamps(alias, "2021-01-01", count)) == expected


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_stamps_show_no_cycle(count: int) -> None:
    assert usable_cycles(stamps("D", "2021-01-01", count)) == ()


def test_integer_steps_have_no_calendar() -> None:
    assert usable_cycles(np.arange(5000)) == ()
    assert calendar_features(np.arange(7), ()).shape == (7, 0)


@pytest.mark.parametrize("cycles", [(), ("day",), ("week",), ("year",), ("year", "day"), tuple(CYCLE_DAYS)])
def test_each_column_has_a_name_of_its_own(cycles: tuple[str, ...]) -> None:
    names = calendar_names(cycles)
    found = calendar_features(stamps("h", "2021-01-01", 33), cycles)
    assert found.shape == (33, len(names))
    assert len(set(names)) == len(names)
    assert np.abs(found).max(initial=0.0) <= 1.0
