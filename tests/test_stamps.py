"""Dates and numbers in every way of writing them; what cannot be read is refused by its row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import MONTHS, csv, only, refused, said

from recurra.data.table import Panel, read_table
from recurra.errors import DataError


@pytest.mark.parametrize(
    "dates",
    [
        ["2020-01-01", "2020-01-02"], ["2020/1/1", "2020/1/2"], ["2020.01.01", "2020.01.02"],
        ["20200101", "20200102"],
        ["1.1.2020", "2.1.2020", "13.1.2020"], ["Jan 1 2020", "Jan 2 2020"],
        ["January 1, 2020", "January 2, 2020"],
        ["1 Jan 2020", "2 Jan 2020"], ["1-Jan-20", "2-Jan-20"], ["01JAN2020", "02JAN2020"],
        ["Wed, 1 Jan 2020", "Thu, 2 Jan 2020"],
        ["1st January 2020", "2nd January 2020"], ["1/1/2020", "1/2/2020", "1/13/2020"],
        ["1/1/2020", "2/1/2020", "13/1/2020"],
        ["2020-01-01 00:00:00", "2020-01-02 00:00:00"], ["2020-01-01T00:00Z", "2020-01-02T00:00Z"],
        ["2020 Jan 1", "2020 Jan 2"],
        ["1/1/20 0:00", "1/2/20 0:00", "1/13/20 0:00"], ["2020-01-01 12:00:00 AM", "2020-01-02 12:00:00 AM"],
        ["1577836800", "1577923200"], ["1577836800000", "1577923200000"],
    ],
)  # fmt: skip
def test_ways_of_writing_days(dates: list[str]) -> None:
    stamps = only(csv([f'"{d}"' for d in dates])).stamps
    assert stamps.dtype == "datetime64[ns]"
    np.testing.assert_array_equal(stamps[:2], np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]"))


@pytest.mark.parametrize(
    ("dates", "alias", "second"),
    [
        (["2020-01", "2020-02"], "MS", "2020-02-01"), (["01/2020", "02/2020"], "MS", "2020-02-01"),
        (["Jan 2020", "Feb 2020"], "MS", "2020-02-01"), (["Jan-20", "Feb-20"], "MS", "2020-02-01"),
        (["2020 January", "2020 February"], "MS", "2020-02-01"), (["2020M01", "2020M02"], "MS", "2020-02-01"),
        (["202001", "202002"], "MS", "2020-02-01"), (["2020-01-31", "2020-02-29"], "ME", "2020-02-29"),
        (["Sep 2019", "Sept 2019", "Oct 2019"][1:], "MS", "2019-10-01"),
        (["2020Q1", "2020Q2"], "QS", "2020-04-01"),
        (["2020-Q1", "2020-Q2"], "QS", "2020-04-01"), (["Q1 2020", "Q2 2020"], "QS", "2020-04-01"),
        (["1Q2020", "2Q2020"], "QS", "2020-04-01"), (["2020", "2021"], "YS", "2021-01-01"),
        (["2020-W53", "2021-W01"], "W-MON", "2021-01-04"),
        (["2020W01-3", "2020W02-3"], "W-WED", "2020-01-08"),
        (["2020-01-01 5:00 PM", "2020-01-01 6:00 PM"], "h", "2020-01-01T18"),
        (["2020-01-01T00:00:00.25", "2020-01-01T00:00:00.5"], "250ms", "2020-01-01T00:00:00.5"),
        (["20200101T0000", "20200101T0015"], "15min", "2020-01-01T00:15"),
        (["1749-01", "1749-02"], "MS", "1749-02-01"),
    ],
)  # fmt: skip
def test_ways_of_writing_longer_and_shorter_steps(dates: list[str], alias: str, second: str) -> None:
    panel = read_table(csv(dates))
    assert panel.frequency.alias == alias
    assert panel.series[0].stamps[1] == np.datetime64(second)


@given(
    start=st.datetimes(pd.Timestamp("1700-01-01"), pd.Timestamp("2200-01-01")),
    form=st.sampled_from(
        ["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%b %d %Y", "%d %B %Y", "%Y%m%d"]
    ),
    periods=st.integers(32, 63),
)
def test_a_month_of_days_is_unambiguous_in_any_form(start: Any, form: str, periods: int) -> None:
    days = pd.date_range(start.date(), periods=periods, freq="D")
    stamps = only(csv([d.strftime(form) for d in days])).stamps
    np.testing.assert_array_equal(stamps, days.to_numpy().astype("datetime64[ns]"))


@pytest.mark.parametrize(("form", "order"), [("%d/%m/%Y", "day first"), ("%m/%d/%Y", "month first")])
def test_firsts_of_months_decide_which_comes_first(form: str, order: str) -> None:
    months = pd.date_range("2020-01-01", periods=25, freq="MS")
    panel = read_table(csv([d.strftime(form) for d in months]))
    assert panel.frequency.alias == "MS"
    assert order in said(panel)


def test_years_of_no_calendar_are_moved_and_said() -> None:
    panel = read_table(csv(["1-11", "1-12", "2-01"]))
    np.testing.assert_array_equal(
        panel.series[0].stamps.astype("datetime64[M]").astype(str), ["2001-11", "2001-12", "2002-01"]
    )
    assert "belong to no calendar" in said(panel)


@pytest.mark.parametrize(
    ("dates", "words"),
    [
        (["2020-01-01", "banana", "2020-01-03"], ["row 3", "'banana'", "'2020-01-01'"]),
        (["2020-01-01", "2020-02-30", "2020-03-01"], ["row 3", "2020-02-30", "29 days"]),
        (["2020-13-01", "2020-01-02"], ["row 2", "month", "between 1 and 12"]),
        (["2020-01-01 25:00", "2020-01-02 00:00"], ["row 2", "hour"]),
        (["2020-01-01", "2020/01/02"], ["mixes", "row 2", "row 3", "'2020-01-01'", "'2020/01/02'"]),
        (["13/01/2020", "01/13/2020"], ["mixes", "row 2", "row 3"]),
        (["01/02/2020", "01/03/2020", "01/04/2020"], ["day first or month first", "2020-01-31"]),
        (["2020-01-01", "", "2020-01-03"], ["row 3", "no value", "'date'"]),
        (["2020-01-01T00:00Z", "2020-01-02T00:00"], ["time zone in some rows only", "row 2", "row 3"]),
        (["2020-01-01", "9999-12-31"], ["row 3", "year", "1678"]),
        (["2020-01-01", "2020-01-02", "2020-01-02"], ["occurs twice", "row 3", "row 4", "--series"]),
        (["Mai 2020", "Juni 2020"], ["row 2", "'Mai 2020'", "--time"]),
        (["monday", "tuesday"], ["row 2", "'monday'", "--time"]),
        (["2020-01-01"], ["two rows", "--frequency"]),
        (["2020-01-01", "2020-01-03", "2020-01-04", "2020-01-09", "2020-01-14"], ["regular", "--frequency"]),
        (["2020-01-01 00:00:00", "2020-01-01 00:00:01", "2150-01-01 00:00:00"], ["jump", "row 3", "row 4"]),
        (["0.1", "0.2", "0.9", "17.3"], ["not evenly spaced", "--time"]),
    ],
)  # fmt: skip
def test_dates_that_are_refused(dates: list[str], words: list[str]) -> None:
    refused(csv(dates), *words)


def test_rows_are_counted_as_an_editor_shows_them() -> None:
    refused(b'date,y,note\n2020-01-01,1,"two\nlines"\n\nbanana,2,x\n', "row 5", "'banana'")
    refused(b"\n\ndate,y\n2020-01-01,1\n\nbanana,2\n", "row 6", "'banana'")


def test_zones_become_utc_and_whole_days_keep_their_date() -> None:
    spring = ["2020-03-29T01:00:00+01:00", "2020-03-29T03:00:00+02:00", "2020-03-29T04:00:00+02:00"]
    panel = read_table(csv(spring))
    assert panel.series[0].stamps[0] == np.datetime64("2020-03-29T00:00")
    assert (panel.frequency.alias, len(panel.series[0])) == ("h", 3)
    assert "summer time" in said(panel)
    days = read_table(csv(["2020-03-28T00:00+01:00", "2020-03-29T00:00+01:00", "2020-03-30T00:00+02:00"]))
    assert (days.frequency.alias, len(days.series[0])) == ("D", 3)
    assert "dates were kept" in said(days)


def test_the_hour_that_the_end_of_summer_time_repeats_is_averaged() -> None:
    local = pd.date_range("2020-10-24", periods=60, freq="h", tz="Europe/Berlin").tz_localize(None)
    panel = read_table(csv(local.strftime("%Y-%m-%d %H:%M"), np.arange(60)))
    series = panel.series[0]
    assert (panel.frequency.alias, len(series)) == ("h", 59)
    assert "a clock was set back" in said(panel)
    assert series.target[series.stamps == np.datetime64("2020-10-25T02:00")] == 26.5
    refused(
        csv(["2020-06-07 01:00", "2020-06-07 02:00", "2020-06-07 02:00", "2020-06-07 03:00"]), "occurs twice"
    )


def test_the_hour_that_summer_time_leaves_out_is_missing() -> None:
    local = pd.date_range("2020-03-28", periods=60, freq="h", tz="Europe/Berlin").tz_localize(None)
    series = only(csv(local.strftime("%Y-%m-%d %H:%M")))
    assert np.isnan(series.target[series.stamps == np.datetime64("2020-03-29T02:00")]).all()
    assert len(series) == 61


def test_columns_of_parts_of_the_date_are_put_together() -> None:
    panel = read_table(b"No,year,month,day,hour,y\n1,2010,1,1,22,5\n2,2010,1,1,23,6\n3,2010,1,2,0,7\n")
    assert panel.columns.time == "year, month, day, hour"
    assert panel.series[0].stamps[-1] == np.datetime64("2010-01-02")
    for header, row in (("Date;Time;y", "16/12/2006;17:{:02d}:00;5"), ("date,hour,y", "2006-12-16,{},5")):
        raw = "\n".join([header, *(row.format(k) for k in range(7))]).encode()
        assert len(only(raw)) == 7
    assert read_table(b"year,quarter,y\n2020,1,5\n2020,2,6\n").frequency.alias == "QS"
    assert read_table(b"year,week,y\n2020,1,5\n2020,2,6\n").frequency.alias == "W-MON"


def test_a_panel_read_again_with_its_own_columns_is_the_same() -> None:
    rows = [
        f"{year},{month},{a},{b},{month * year}"
        for a in "pq" for b in "rs" for year in (2001, 2002) for month in range(1, 13)
    ]  # fmt: skip
    raw = "\n".join(["year,month,region,item,sales", *rows]).encode()
    panel = read_table(raw)
    assert panel.columns.series == "region, item"
    assert panel.names == ("p / r", "p / s", "q / r", "q / s")
    columns = panel.columns
    again = read_table(raw, time=columns.time, series=columns.series, target=columns.target)
    assert again.columns == columns
    assert again.names == panel.names


def test_words_before_a_number_are_no_dates() -> None:
    raw = "\n".join(
        ["shop,when,y", *(f"store {k},2020-01-{d:02d},{d}" for k in (2000, 2001) for d in range(1, 8))]
    )
    panel = read_table(raw.encode())
    assert (panel.columns.time, panel.columns.series) == ("when", "shop")


@pytest.mark.parametrize(
    ("cells", "by", "values"),
    [
        (["1", "2.5", "-3e2"], ",", [1, 2.5, -300]),
        (['"1,234"', "999", '"1,234,567.5"'], ",", [1234, 999, 1234567.5]),
        (["1,5", "2,25", "3"], ";", [1.5, 2.25, 3]),
        (["1.234,5", "2,25", "3"], ";", [1234.5, 2.25, 3]),
        (["0,234", "2,345", "7,000"], ";", [0.234, 2.345, 7.0]),
        (["1 234", "999", "1 000 000"], ",", [1234, 999, 1e6]),
        (["1'234", "999", "1'000'000"], ",", [1234, 999, 1e6]),
        (["$5", "$6.5", "-$7"], ",", [5, 6.5, -7]),
        (["5%", "6 %", "7%"], ",", [5, 6, 7]),
        (["1", "NA", "3"], ",", [1, np.nan, 3]),
    ],
)
def test_ways_of_writing_numbers(cells: list[str], by: str, values: list[float]) -> None:
    target = only(csv(["2020-01-01", "2020-01-02", "2020-01-03"], cells, by=by)).target
    np.testing.assert_array_equal(target, values)


@pytest.mark.parametrize(
    "word", ["", "NA", "NaN", "nan", "null", "None", "?", "-", "N/A", "#N/A", " ", "NULL"]
)
def test_words_for_missing(word: str) -> None:
    panel = read_table(csv(MONTHS, [1, word, 3, 4]))
    assert np.isnan(panel.series[0].target).tolist() == [False, True, False, False]
    assert "1 value of the target missing" in said(panel)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["1", "two", "3", "4"], ["row 3", "'two'", "target column 'y'", "expected a number"]),
        (["1", "2", "inf", "4"], ["row 4", "'inf'", "infinite"]),
        (["1", "2", "-1e999", "4"], ["row 4", "infinite"]),
        (["1", "2", "1e300", "4"], ["row 4", "±1e30"]),
        (["NA", "", "?", "-"], ["no values at all", "'y'"]),
        (["1", "1.2.3", "3", "4"], ["row 3", "'1.2.3'"]),
    ],
)
def test_targets_that_are_refused(cells: list[str], words: list[str]) -> None:
    refused(csv(MONTHS, cells), *words)


def test_missing_ends_are_left_out_and_said() -> None:
    panel = read_table(csv(MONTHS, ["NA", "2", "3", ""]))
    assert panel.series[0].target.tolist() == [2, 3]
    assert panel.series[0].stamps[0] == np.datetime64("2020-02-01")
    assert "2 rows before the first or after the last target value left out" in said(panel)


def test_a_constant_series_is_read_and_said() -> None:
    panel = read_table(csv(MONTHS, [7, 7, 7, 7]))
    assert panel.series[0].target.tolist() == [7, 7, 7, 7]
    assert "Always the same value: y." in said(panel)


def test_panels_of_arrays() -> None:
    panel = Panel.from_arrays({"a": np.arange(7), "b": np.array([1, np.nan, 3])}, "MS", "2020-01-01")
    assert panel.names == ("a", "b")
    assert panel.series[1].stamps[-1] == np.datetime64("2020-03-01")
    assert Panel.from_arrays({"a": np.arange(7)}).series[0].stamps.tolist() == list(range(7))
    for wrong in (np.zeros(0), np.array([np.nan, 1]), np.array([1, np.inf, 2]), np.zeros((2, 2))):
        with pytest.raises(DataError, match=r"'a' must be one row of finite numbers"):
            Panel.from_arrays({"a": wrong})


def test_text_that_could_be_meant_as_dates_is_refused_rather_than_left_out() -> None:
    refused(b"Monat;Umsatz\nMai 2020;5\nJuni 2020;6\n", "'Monat'", "'Mai 2020'", "--time")
