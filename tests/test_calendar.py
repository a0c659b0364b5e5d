"""Frequencies: names, seasons, ranges over awkward calendars, and their inference from stamps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurra.data.calendar import Frequency, infer, show
from recurra.errors import ArgumentError, DataError


def days(*texts: str) -> np.ndarray:
    return np.array(texts, "datetime64[ns]")


def inferred(stamps: np.ndarray) -> Frequency:
    frequency, snap = infer(stamps, np.zeros(len(stamps), np.int64))
    assert not snap
    return frequency


@pytest.mark.parametrize(
    ("alias", "season", "seasons", "label"),
    [
        ("MS", 12, (12,), "monthly"),
        ("ME", 12, (12,), "monthly"),
        ("QS", 4, (4,), "quarterly"),
        ("YS", 1, (1,), "yearly"),
        ("6MS", 2, (2,), "every 6 months"),
        ("2YS", 1, (1,), "every 2 years"),
        ("W-SUN", 52, (52,), "weekly"),
        ("2W-MON", 26, (26,), "every 2 weeks"),
        ("D", 7, (7, 365), "daily"),
        ("3D", 1, (1,), "every 3 days"),
        ("B", 5, (5, 260), "on business days"),
        ("h", 24, (24, 168), "hourly"),
        ("6h", 4, (4, 28), "every 6 hours"),
        ("30min", 48, (48, 336), "every 30 minutes"),
        ("15min", 96, (96, 672), "every 15 minutes"),
        ("min", 1440, (60, 1440, 10080), "by the minute"),
        ("s", 3600, (3600, 86400, 604800), "by the second"),
        ("step", 1, (1,), "in steps"),
    ],
)
def test_names_and_seasons(alias: str, season: int, seasons: tuple[int, ...], label: str) -> None:
    frequency = Frequency.parse(alias)
    assert frequency.alias == alias
    assert (frequency.season, frequency.seasons, frequency.label) == (season, seasons, label)
    assert Frequency.parse(frequency.alias) == frequency


@pytest.mark.parametrize(
    ("written", "alias"),
    [
        ("M", "MS"), ("monthly", "MS"), ("Month", "MS"), ("Q", "QS"), ("A", "YS"), ("yearly", "YS"),
        ("W", "W-SUN"),
        ("H", "h"), ("hourly", "h"), ("15T", "15min"), ("15 min", "15min"), ("S", "s"), ("d", "D"),
        ("daily", "D"),
        ("60min", "h"), ("24h", "D"), ("7D", "W-MON"), ("3MS", "QS"), ("12MS", "YS"), ("business", "B"),
        ("MS-15", "MS-15"),
    ],
)  # fmt: skip
def test_spellings(written: str, alias: str) -> None:
    assert Frequency.parse(written).alias == alias


@pytest.mark.parametrize(
    "written", ["", "fortnight", "0D", "W-XYZ", "MX", "-1D", "1.5h", "MS-40", "12345678D"]
)
def test_frequencies_that_mean_nothing(written: str) -> None:
    with pytest.raises(ArgumentError, match=r"frequency must be one of .* got"):
        Frequency.parse(written)


def test_the_nearest_frequency_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"did you mean 'weekly'"):
        Frequency.parse("wekly")


@pytest.mark.parametrize(
    "alias", ["MS", "ME", "QS", "QE", "YS", "YE", "W-SUN", "W-WED", "D", "B", "h", "15min", "s"]
)
@pytest.mark.parametrize("periods", [1, 7, 63])
def test_ranges_are_those_of_pandas(alias: str, periods: int) -> None:
    expected = (
        pd.date_range("1999-01-01", periods=periods + 1, freq=alias).to_numpy().astype("datetime64[ns]")
    )
    frequency = Frequency.parse(alias)
    np.testing.assert_array_equal(frequency.range(expected[0], periods), expected[:-1])
    np.testing.assert_array_equal(frequency.future(expected[0], periods), expected[1:])
    np.testing.assert_array_equal(frequency.steps(expected[0], expected), np.arange(periods + 1))


def test_month_ends_and_late_days_follow_the_calendar() -> None:
    last = Frequency.parse("ME").range(np.datetime64("2020-01-31", "ns"), 3)
    np.testing.assert_array_equal(last, days("2020-01-31", "2020-02-29", "2020-03-31"))
    thirtieth = Frequency("month", 1, 30).range(np.datetime64("2021-01-30", "ns"), 3)
    np.testing.assert_array_equal(thirtieth, days("2021-01-30", "2021-02-28", "2021-03-30"))


def test_the_end_of_time_is_an_error() -> None:
    for alias in ("MS", "D", "B", "YE"):
        with pytest.raises(DataError, match=r"2262"):
            Frequency.parse(alias).range(np.datetime64("2261-12-01", "ns"), 100_000)


@given(
    unit=st.sampled_from(["step", "tick", "business", "month"]),
    multiple=st.sampled_from([1, 2, 3, 7, 12]),
    anchor=st.integers(1, 31),
    day=st.integers(-90_000, 20_000),
    periods=st.integers(1, 200),
)
def test_steps_undo_range(unit: str, multiple: int, anchor: int, day: int, periods: int) -> None:
    frequency = Frequency(unit, multiple, anchor if unit == "month" else 0)
    start: np.datetime64 | int = day
    if unit != "step":
        start = np.datetime64(day, "D").astype("datetime64[ns]")
        start = frequency.floor(np.array([start]))[0]
    stamps = frequency.range(start, periods)
    assert (np.diff(stamps.view(np.int64)) > 0).all()
    np.testing.assert_array_equal(frequency.steps(stamps[0], stamps), np.arange(periods))
    np.testing.assert_array_equal(
        frequency.future(stamps[-1], 1), frequency.range(stamps[0], periods + 1)[-1:]
    )


@pytest.mark.parametrize(
    ("alias", "start"),
    [
        ("MS", "1749-01-01"), ("ME", "2019-01-31"), ("QS", "2000-01-01"), ("QE", "2000-03-31"),
        ("YS", "1900-01-01"),
        ("YE", "1900-12-31"), ("6MS", "2000-02-01"), ("W-TUE", "2024-01-02"), ("2W-TUE", "2024-01-02"),
        ("D", "1981-01-01"),
        ("B", "1986-03-13"), ("h", "2012-01-01"), ("30min", "2012-01-01"), ("s", "2012-01-01"),
        ("MS-15", "2020-01-15"),
        ("3D", "2020-02-28"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("holes", [0, 1, 7])
def test_inference_with_gaps(alias: str, start: str, holes: int) -> None:
    stamps = Frequency.parse(alias).range(np.datetime64(start, "ns"), 33)
    keep = np.ones(33, bool)
    keep[np.random.default_rng(holes).choice(np.arange(1, 32), holes, replace=False)] = False
    assert inferred(stamps[keep]).alias == alias


def test_steps_of_integers() -> None:
    assert inferred(np.array([3, 6, 9, 15])) == Frequency("step", 3)


def test_a_year_of_weekdays_is_business_but_a_week_of_them_is_daily() -> None:
    weekdays = pd.bdate_range("2024-01-01", periods=63).to_numpy()
    assert inferred(weekdays).alias == "B"
    assert inferred(weekdays[:5]).alias == "D"


def test_one_stamp_a_month_on_changing_days_is_moved_to_the_months_beginning() -> None:
    stamps = days("2020-01-03", "2020-02-04", "2020-03-02", "2020-04-01")
    frequency, snap = infer(stamps, np.zeros(4, int))
    assert snap
    assert frequency.alias == "MS"
    np.testing.assert_array_equal(
        frequency.floor(stamps), days("2020-01-01", "2020-02-01", "2020-03-01", "2020-04-01")
    )


def test_weeks_that_slip_by_a_holiday_are_moved_to_monday() -> None:
    stamps = days("2024-01-01", "2024-01-08", "2024-01-16", "2024-01-22", "2024-01-29")
    frequency, snap = infer(stamps, np.zeros(5, int))
    assert snap
    np.testing.assert_array_equal(frequency.steps(stamps[0], frequency.floor(stamps)), np.arange(5))


def test_series_of_a_panel_do_not_run_into_each_other() -> None:
    stamps = days("2020-01-01", "2020-02-01", "2020-03-01", "2020-01-01", "2020-02-01")
    assert infer(stamps, np.array([0, 0, 0, 1, 1]))[0].alias == "MS"


@pytest.mark.parametrize(
    "stamps",
    [
        days("2020-01-01", "2020-01-04", "2020-01-05", "2020-01-11", "2020-01-13"),
        days(
            "2020-01-01T00:00",
            "2020-01-01T00:07",
            "2020-01-01T00:21",
            "2020-01-01T01:00:03",
            "2020-01-01T02:05",
        ),
        np.array([1, 5, 7, 24, 33, 63]),
    ],
)
def test_irregular_stamps_are_refused_with_a_remedy(stamps: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"no regular step.*is followed by.*--frequency"):
        infer(stamps, np.zeros(len(stamps), int))


def test_a_single_row_has_no_frequency() -> None:
    with pytest.raises(DataError, match=r"two rows.*--frequency"):
        infer(days("2020-01-01"), np.zeros(1, int))


@pytest.mark.parametrize(
    ("stamp", "text"),
    [
        (np.datetime64("2020-01-31", "ns"), "2020-01-31"),
        (np.datetime64("2020-01-31T05:00", "ns"), "2020-01-31 05:00"),
        (np.datetime64("2020-01-31T00:00:07", "ns"), "2020-01-31 00:00:07"),
        (np.datetime64("2020-01-31T00:00:00.25", "ns"), "2020-01-31 00:00:00.25"),
        (np.int64(7), "7"),
    ],
)
def test_stamps_as_people_write_them(stamp: np.datetime64 | np.int64, text: str) -> None:
    assert show(stamp) == text
