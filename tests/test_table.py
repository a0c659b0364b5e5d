"""Panels from tables: roles of the columns, frequencies, repairs said aloud, refusals that are clear."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tables import MONTHS, csv, only, refused, said

from recurra.data.table import read_table
from recurra.errors import ArgumentError, DataError


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
    assert time.process_time() - began < 1, "a tenth of a second is usual"


def test_reading_tables_does_not_import_torch() -> None:
    code = "import sys, recurra.data.table, recurra.data.assemble; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
