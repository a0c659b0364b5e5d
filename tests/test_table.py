"""Reading tables: every way of writing dates and numbers, every repair said aloud, every refusal clear."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurra.data.table import Panel, Series, read_table
from recurra.errors import ArgumentError, DataError, InputError

MONTHS = ["2020-01", "2020-02", "2020-03", "2020-04"]


def csv(
    dates: Sequence[object], values: Sequence[object] | None = None, header: str = "date,y", by: str = ","
) -> bytes:
    cells = range(1, len(dates) + 1) if values is None else values
    rows = [f"{d}{by}{v}" for d, v in zip(dates, cells, strict=True)]
    return "\n".join([header.replace(",", by), *rows, ""]).encode()


def only(source: Any, **options: Any) -> Series:
    panel = read_table(source, **options)
    assert len(panel) == 1
    return panel.series[0]


def said(panel: Panel) -> str:
    return " ".join(panel.notes)


def refused(source: Any, *words: str, error: type[InputError] = DataError, **options: Any) -> None:
    """The refusal is one sentence and has each of the words."""
    with pytest.raises(error) as caught:
        read_table(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


# ------- the shared data sets


@pytest.mark.parametrize(
    ("path", "options", "series", "alias", "steps", "missing"),
    [
        ("airpassengers/airline-passengers.csv", {}, 1, "MS", 144, 0),
        ("airpassengers/flights.csv", {}, 1, "MS", 144, 0),
        ("sunspots/monthly-sunspots.csv", {}, 1, "MS", 2820, 0),
        ("melbourne_temps/daily-min-temperatures.csv", {}, 1, "D", 3652, 2),
        ("monthly_sales/monthly-car-sales.csv", {}, 1, "MS", 108, 0),
        ("monthly_sales/shampoo.csv", {}, 1, "MS", 36, 0),
        ("covid19/daily_new_cases_a.csv", {"target": "US,Italy"}, 2, "D", 1632, 0),
        ("rossmann/stores_a.csv.gz", {}, 50, "D", 47100, 184),
        ("stocks/msft_daily.csv.gz", {"target": "Close"}, 1, "B", 8262, 279),
        ("stocks/stocks_monthly_5tickers.csv", {}, 5, "MS", 560, 0),
        ("beijing_pm25/pollution.csv.gz", {"target": "pm2.5"}, 1, "h", 43800, 2043),
        ("electricity_hourly/electricity_mean_client_hourly.csv.gz", {}, 1, "h", 26304, 0),
        ("exchange_rate/exchange_rate.csv.gz", {"target": "OT"}, 1, "D", 7588, 0),
        ("ett/ETTh1.csv.gz", {"target": "OT"}, 1, "h", 17420, 0),
        ("ett/ETTm1.csv.gz", {"target": "OT"}, 1, "15min", 69680, 0),
    ],
)
def test_the_shared_sets(
    shared_data: Callable[[str], Path],
    path: str,
    options: dict[str, str],
    series: int,
    alias: str,
    steps: int,
    missing: int,
) -> None:
    panel = read_table(shared_data(f"forecasting/{path}"), **options)
    numbers = panel.describe()
    assert (numbers["series"], numbers["frequency"], numbers["steps"], numbers["missing"]) == (
        series,
        alias,
        steps,
        missing,
    )


def test_both_airpassengers_are_the_same(shared_data: Callable[[str], Path]) -> None:
    one = only(shared_data("forecasting/airpassengers/airline-passengers.csv"))
    two = only(shared_data("forecasting/airpassengers/flights.csv"))
    np.testing.assert_array_equal(one.stamps, two.stamps)
    np.testing.assert_array_equal(one.target, two.target)


def test_rossmann_covariates(shared_data: Callable[[str], Path]) -> None:
    panel = read_table(
        shared_data("forecasting/rossmann/stores_a.csv.gz"),
        covariates="Open,StoreType",
        known=["Promo"],
        target="Sales",
    )
    assert panel.columns.series == "Store"
    assert (panel.past_names, panel.known_names) == (("Open",), ("Promo",))
    assert panel.static_names == ("StoreType=a", "StoreType=b", "StoreType=c", "StoreType=d")
    assert set(np.unique(panel.series[0].known)) <= {0.0, 1.0}
    assert all(s.static.sum() == 1 for s in panel.series)


def test_several_numbers_ask_for_a_target(shared_data: Callable[[str], Path]) -> None:
    refused(
        shared_data("forecasting/covid19/daily_new_cases_a.csv"),
        "US, United_Kingdom, Italy, Germany",
        "--target US",
    )


# ------- dates


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
        (["2020-01-01", "2020-01-02", "2020-01-02"], ["2020-01-02 occurs twice", "row 3", "row 4", "--series"]),
        (["monday", "tuesday"], ["row 2", "'monday'", "--time"]),
        (["2020-01-01"], ["two rows", "--frequency"]),
        (["2020-01-01", "2020-01-03", "2020-01-04", "2020-01-09", "2020-01-14"], ["no regular step", "--frequency"]),
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
    raw = b"year,month,a,b,x\n" + b"\n".join(
        b"%d,%d,%s,%s,7" % (y, m, a, b)
        for a in (b"p", b"q")
        for b in (b"r", b"s")
        for y in (1, 2)
        for m in range(1, 13)
    ).replace(b"\n1,", b"\n2001,").replace(b"\n2,", b"\n2002,")
    raw = raw.replace(b"x\n1,", b"x\n2001,")
    panel = read_table(raw)
    assert panel.columns.series == "a, b"
    assert panel.names == ("p / r", "p / s", "q / r", "q / s")
    again = read_table(raw, time=panel.columns.time, series=panel.columns.series, target=panel.columns.target)
    assert again.columns == panel.columns
    assert again.names == panel.names


# ------- frequency


def test_a_frequency_given_moves_stamps_to_its_grid() -> None:
    raw = csv(["2020-01-01 00:00:03", "2020-01-01 01:00:01", "2020-01-01 03:00:00"])
    panel = read_table(raw, frequency="h")
    assert panel.series[0].target.tolist()[:2] == [1, 2]
    assert np.isnan(panel.series[0].target[2])
    assert "2 stamps moved back to the beginning of the hour" in said(panel)
    refused(raw, "no regular step", "--frequency")
    refused(raw, "row 2", "row 3", "same day", frequency="D")


def test_a_frequency_given_keeps_month_ends_and_weekdays() -> None:
    ends = csv(["2020-01-31", "2020-02-29", "2020-03-31"])
    assert read_table(ends, frequency="MS").frequency.alias == "ME"
    assert read_table(csv(["2020-01-01", "2020-01-08"]), frequency="W").frequency.alias == "W-WED"
    assert len(only(csv(["2020-01-03", "2020-01-06"]), frequency="D")) == 4
    assert len(only(csv(["2020-01-03", "2020-01-06"]), frequency="B")) == 2
    assert len(only(csv(["2020-01-03"]), frequency="D")) == 1


def test_frequencies_that_do_not_suit() -> None:
    refused(csv(MONTHS), "--frequency step", "dates", error=ArgumentError, frequency="step")
    refused(
        csv([1, 2, 3], header="t,y"), "--frequency MS", "whole numbers", error=ArgumentError, frequency="MS"
    )
    refused(csv(MONTHS), "'sometimes'", error=ArgumentError, frequency="sometimes")


def test_gaps_are_missing_and_said() -> None:
    panel = read_table(csv(["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-07"]))
    assert np.isnan(panel.series[0].target).tolist() == [False, False, False, True, True, True, False]
    assert "3 steps without a row filled in as missing (the first: 2020-01-04)" in said(panel)


def test_rows_out_of_order_are_sorted_and_said() -> None:
    panel = read_table(csv(["2020-03", "2020-01", "2020-02"]))
    assert panel.series[0].target.tolist() == [2, 3, 1]
    assert "sorted" in said(panel)


# ------- numbers


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


def test_a_constant_series_is_read() -> None:
    assert only(csv(MONTHS, [7, 7, 7, 7])).target.tolist() == [7, 7, 7, 7]


# ------- columns


def test_a_missing_column_is_refused_with_the_nearest() -> None:
    raw = csv(MONTHS, header="Month,Sales")
    for flag in ("time", "target", "series", "past", "known", "static", "covariates"):
        refused(raw, f"--{flag}", "'Sale'", "did you mean 'Sales'", "Month, Sales", **{flag: "Sale"})


def test_a_column_has_one_role() -> None:
    raw = b"d,y,x\n2020-01-01,1,5\n2020-01-02,2,6\n"
    refused(raw, "--past and with --known", error=ArgumentError, past="x", known="x")
    refused(raw, "--target", "already serves", target="x", known="x")
    refused(raw, "--target", "twice", target="x,x")


@pytest.mark.parametrize(("header", "column"), [("a,y", "y"), ("target,a", "target"), ("a,Value", "Value")])
def test_the_target_is_known_by_its_name(header: str, column: str) -> None:
    panel = read_table(csv(MONTHS, ["5,6"] * 4, header=f"date,{header}"))
    assert panel.columns.target == (column,)
    assert "by its name" in said(panel)


def test_a_column_that_counts_the_rows_is_no_target() -> None:
    panel = read_table(b",date,sales\n0,2020-01-01,5\n1,2020-01-02,7\n")
    assert panel.columns.target == ("sales",)


def test_a_list_of_numbers_is_a_series_of_steps() -> None:
    for raw, name in ((b"y\n5\n6\n\n7\n", "y"), (b"5\n6\n\n7\n", "column_1")):
        series = only(raw)
        assert series.name == name
        assert series.stamps.tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(series.target, [5, 6, np.nan, 7])


def test_a_table_without_a_header_is_read_and_said() -> None:
    panel = read_table(b"2020-01-01,5\n2020-01-02,6\n")
    assert panel.series[0].target.tolist() == [5, 6]
    assert "first line holds values" in said(panel)


def panel_csv(names: Sequence[str] = ("A", "B"), header: str = "shop,date,sales") -> bytes:
    rows = [f"{n},2020-01-{d:02d},{k * 100 + d}" for k, n in enumerate(names) for d in range(1, 8)]
    return "\n".join([header, *rows]).encode()


def test_the_series_column_is_found_where_stamps_repeat() -> None:
    panel = read_table(panel_csv())
    assert (panel.columns.series, panel.columns.target, panel.names) == ("shop", ("sales",), ("A", "B"))
    assert "2 series are told apart by shop" in said(panel)
    assert read_table(panel_csv(("7", "12"))).names == ("7", "12")
    assert read_table(panel_csv(("A",), "unique_id,ds,y")).names == ("A",)


def test_two_ways_to_tell_series_apart_are_a_question() -> None:
    raw = panel_csv(("A", "B"), "shop,date,sales").decode().splitlines()
    twice = "\n".join(f"{line.split(',')[0]}x,{line}" for line in raw).encode()
    refused(twice, "could tell the series apart", "--series")
    assert len(read_table(twice, series="shop")) == 2


def test_a_few_repeated_stamps_are_a_mistake_even_where_a_column_could_explain_them() -> None:
    rows = [f"2020-01-{d:02d},{d},{'ab'[d % 2]}" for d in range(1, 29)]
    raw = "\n".join(["date,y,kind", *rows, "2020-01-05,7,a"]).encode()
    refused(raw, "2020-01-05 occurs twice", "row 6", "row 30")


def test_duplicates_in_a_series_are_refused() -> None:
    refused(panel_csv() + b"\nB,2020-01-03,5", "2020-01-03 of series 'B'", "row 11", "row 16", series="shop")
    refused(panel_csv() + b"\n,2020-01-03,5", "row 16", "series column 'shop'", series="shop")


def test_several_targets_are_one_series_each() -> None:
    raw = b"date,a,b,c\n2020-01-01,1,,5\n2020-01-02,2,7,6\n2020-01-03,3,8,\n"
    panel = read_table(raw, target="a,b,c")
    assert panel.names == ("a", "b", "c")
    assert [s.target.tolist() for s in panel.series] == [[1, 2, 3], [7, 8], [5, 6]]
    both = read_table(b"id,date,a,b\nX,2020-01-01,1,2\nX,2020-01-02,3,4\n", series="id", target=["a", "b"])
    assert both.names == ("X:a", "X:b")


def test_an_empty_series_among_others_is_left_out_and_said() -> None:
    panel = read_table(
        panel_csv() + b"".join(b"\nC,2020-01-%02d," % d for d in range(1, 8)), target="sales", series="shop"
    )
    assert panel.names == ("A", "B")
    assert "C" in said(panel)


# ------- covariates

COVARIATES = (
    b"id,date,y,promo,temp,open,kind,size,mood\n"
    b"A,2020-01-01,1,0,5.5,True,x,10,good\nA,2020-01-02,2,1,NA,False,x,10,\nA,2020-01-03,,1,,True,x,10,\n"
    b"A,2020-01-04,,0,,True,x,10,\n"
    b"B,2020-01-01,3,0,7.5,yes,z,20,bad\nB,2020-01-02,,1,8.5,no,z,20,good\nB,2020-01-03,5,1,9.5,yes,z,20,good\n"
    b"B,2020-01-04,,0,,yes,z,20,\n"
)  # fmt: skip


def test_roles_are_inferred_from_the_cells() -> None:
    panel = read_table(COVARIATES, covariates="promo,temp,open,kind,size,mood", series="id", target="y")
    assert panel.columns.past == ("temp", "mood")
    assert panel.columns.known == ("promo", "open")
    assert panel.static_names == ("kind=x", "kind=z", "size")
    assert panel.past_names == ("temp", "mood=bad", "mood=good")
    assert "promo, open known in the future too" in said(panel)
    first, second = panel.series
    assert (len(first), first.extra, len(second), second.extra) == (2, 2, 3, 1)
    np.testing.assert_array_equal(first.known, [[0, 1], [1, 0], [1, 1], [0, 1]])
    np.testing.assert_array_equal(first.past, [[5.5, 0, 1], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(second.static, [0, 1, 20])
    assert panel.extra == 1


def test_roles_given_are_kept() -> None:
    panel = read_table(COVARIATES, past="promo", known="temp", static=["size"], series="id", target="y")
    assert [s.extra for s in panel.series] == [0, 0]
    assert panel.series[0].past[:, 0].tolist() == [0, 1]
    refused(
        COVARIATES,
        "static covariate 'promo'",
        "row 3",
        "--past or --known",
        static="promo",
        series="id",
        target="y",
    )


def test_categories_of_a_model_are_kept_and_new_ones_said() -> None:
    panel = read_table(
        COVARIATES, past="mood", series="id", target="y", categories={"mood": ("fine", "good")}
    )
    assert panel.past_names == ("mood=fine", "mood=good")
    np.testing.assert_array_equal(panel.series[1].past, [[0, 0], [0, 1], [0, 1]])
    assert "bad of 'mood' are new" in said(panel)


def test_covariates_that_are_refused() -> None:
    raw = b"date,y,x\n" + b"\n".join(b"%d,5,%d" % (d, d) for d in range(1900, 1933))
    refused(
        raw.replace(b",7\n", b",7\n") + b"\n1933,5,oops",
        "row 35",
        "'oops'",
        "covariate column 'x'",
        past="x",
        target="y",
    )
    words = b"date,y,x\n" + b"\n".join(b"%d,5,word %d" % (d, d) for d in range(1700, 1833))
    refused(words, "'x'", "133 different values", past="x", target="y")
    refused(b"date,y,d\n2020-01-01,1,2020-01-01\n2020-01-02,2,2020-01-02\n", "'d'", past="d", error=DataError)


# ------- files


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", ["empty"]),
        (b"\n \n,,\n", ["empty"]),
        (b"date,y\n", ["header but no rows"]),
        (b"date,y\n,\n,\n", ["no values at all"]),
        (b"\x00\x01\x02" * 100, ["binary"]),
        (b"PK\x03\x04" + b"\0" * 30, ["Excel workbook"]),
        ("date,y\n2020-01-01,5\n".encode("utf-16-le"), ["UTF-16", "without its mark"]),
        ("date,y\n2020-01-01,é\n".encode("latin-1"), ["not UTF-8", "byte 18", "row 2", "0xe9", "iconv"]),
        (b"date,y\n2020-01-01,1\n2020-01-02,2,3\n", ["row 3", "3 columns", "header has 2"]),
        (b"date,y\n2020-01-01\n", ["row 2", "1 columns"]),
        (b"date,y,y\n2020-01-01,1,2\n", ["'y' twice"]),
        (b'date,y\n"2020-01-01,1\n2020-01-02,2\n', ["quotation mark", "row 2"]),
        (b"\x1f\x8b\x08\x00broken", ["damaged gzip"]),
        (b"x" * 500 + b"\n1\n2\n", ["500 characters"]),
    ],
)
def test_files_that_are_refused(tmp_path: Path, raw: bytes, words: list[str]) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(raw)
    refused(path, "'table.csv'", *words)


def test_paths_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_bytes(csv(MONTHS))
    refused(tmp_path / "sale.csv", "no file", "did you mean 'sales.csv'")
    refused(str(tmp_path / "no" / "sales.csv"), "no file")
    refused(tmp_path, "folder")
    refused("\0", "no file")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 broken")
    refused(tmp_path / "broken.parquet", "Parquet", "damaged")
    refused(7, "path or a frame", "int")


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("by", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("packed", [False, True])
def test_text_files_of_every_kind_give_the_same(
    tmp_path: Path, coding: str, by: str, end: str, packed: bool
) -> None:
    text = (
        csv(MONTHS, [1.5, 2.5, "", 4], header="Möñth,Wert", by=by).decode().replace("\n", end)
        + end
        + by
        + end
    )
    raw = text.encode(coding)
    path = tmp_path / ("t.tsv" if by == "\t" else "t.csv")
    path = path.with_name(path.name + ".gz") if packed else path
    path.write_bytes(gzip.compress(raw) if packed else raw)
    panel = read_table(path)
    assert (panel.columns.time, panel.columns.target) == ("Möñth", ("Wert",))
    np.testing.assert_array_equal(panel.series[0].target, [1.5, 2.5, np.nan, 4])


def frames() -> list[tuple[str, Any]]:
    plain = {
        "date": pd.date_range("2020-01-01", periods=5, freq="D"),
        "y": [1.0, 2.0, np.nan, 4.0, 5.0],
        "x": list("ababa"),
    }
    panda = pd.DataFrame(plain)
    polar = pl.DataFrame(
        {"date": panda["date"].to_list(), "y": [1.0, 2.0, None, 4.0, 5.0], "x": list("ababa")}
    )
    return [
        ("pandas", panda),
        ("pandas index", panda.set_index("date")),
        ("pandas unnamed index", panda.set_index("date").rename_axis(None).rename(columns={"x": "x"})),
        (
            "pandas periods",
            panda.set_index(pd.PeriodIndex(panda["date"], freq="D", name="date")).drop(columns="date"),
        ),
        ("pandas zone", panda.assign(date=panda["date"].dt.tz_localize("Europe/Berlin"))),
        ("pandas categories", panda.astype({"x": "category", "y": "Float64"})),
        ("pandas objects", panda.astype({"date": object, "x": object})),
        ("pandas text", panda.assign(date=panda["date"].dt.strftime("%d.%m.%Y"))),
        ("polars", polar),
        ("polars dates", polar.with_columns(pl.col("date").dt.date(), pl.col("x").cast(pl.Categorical))),
        ("polars lazy", polar.lazy()),
        ("polars us", polar.with_columns(pl.col("date").cast(pl.Datetime("us", "UTC")))),
        ("arrow", pa.table(polar.to_dict(as_series=False))),
    ]


@pytest.mark.parametrize(("kind", "frame"), frames(), ids=[k for k, _ in frames()])
def test_frames_of_every_kind_give_the_same(kind: str, frame: Any) -> None:
    panel = read_table(frame, past="x")
    series = panel.series[0]
    np.testing.assert_array_equal(
        series.stamps, pd.date_range("2020-01-01", periods=5).to_numpy().astype("datetime64[ns]")
    )
    np.testing.assert_array_equal(series.target, [1, 2, np.nan, 4, 5])
    np.testing.assert_array_equal(series.past[:, 0], [1, 0, 1, 0, 1])
    assert panel.frequency.alias == "D"
    assert panel.columns.target == ("y",)


def test_a_pandas_series_with_dates_is_a_table() -> None:
    made = pd.Series([1.0, 2.0, 3.0], pd.period_range("2020-01", periods=3, freq="M"), name="sales")
    panel = read_table(made)
    assert (panel.frequency.alias, panel.columns.target) == ("MS", ("sales",))


def test_parquet_gives_the_same(tmp_path: Path) -> None:
    frame = frames()[-4][1]
    frame.write_parquet(tmp_path / "t.parquet")
    panel = read_table(tmp_path / "t.parquet")
    np.testing.assert_array_equal(panel.series[0].target, [1, 2, np.nan, 4, 5])


def test_frames_that_are_refused() -> None:
    refused(pd.DataFrame({"date": [], "y": []}), "no rows")
    refused(pl.DataFrame({"date": ["2020-01-01"], "y": [[1, 2]]}), "'y'", "List")
    refused(pl.DataFrame({"date": [None, "2020-01-02"], "y": [1, 2]}), "row 0", "'date'")
    refused(
        pl.DataFrame({"date": ["2020-01-01", "2020-01-02"], "y": [1.0, float("inf")]}), "row 1", "infinite"
    )


# ------- panels


def test_heads_keep_what_is_known_of_the_future() -> None:
    panel = read_table(COVARIATES, known="promo", past="temp", series="id", target="y").until([1, 2])
    assert panel.lengths.tolist() == [1, 2]
    assert [s.extra for s in panel.series] == [3, 2]
    assert [len(s.stamps) for s in panel.series] == [len(s.past) for s in panel.series] == [1, 2]
    assert panel.select(["B"]).names == ("B",)
    with pytest.raises(KeyError):
        panel.select(["C"])


def test_a_description_in_numbers() -> None:
    numbers = read_table(csv(MONTHS, [1, "", 3, 8])).describe()
    assert numbers == {
        "series": 1, "steps": 4, "shortest": 4, "longest": 4, "missing": 1, "first": "2020-01-01",
        "last": "2020-04-01",
        "frequency": "MS", "season": 12, "minimum": 1.0, "mean": 4.0, "maximum": 8.0,
    }  # fmt: skip


@pytest.mark.parametrize("rows", [50_000])
def test_fifty_thousand_rows_take_less_than_a_second(rows: int) -> None:
    stamps = pd.date_range("2000-01-01", periods=rows, freq="h").strftime("%Y-%m-%d %H:%M:%S")
    raw = csv(stamps, [f"{k * 0.37:.3f}" for k in range(rows)])
    began = time.process_time()
    assert len(only(raw)) == rows
    assert time.process_time() - began < 3, "a tenth of a second is usual"


def test_reading_tables_does_not_import_torch() -> None:
    code = "import sys, recurra.data.table, recurra.data.assemble; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
