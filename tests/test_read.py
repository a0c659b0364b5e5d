"""Files of every kind and frames of every library give the same; what cannot be read says why."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tables import MONTHS, csv, only, refused

from recurra.data.table import read_table


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", ["empty"]),
        (b"\n \n,,\n", ["empty"]),
        ("\u2028\n\u2028\n".encode(), ["names no column"]),
        (b"date,y\n", ["header but no rows"]),
        (b"date,y\n,\n,\n", ["no values at all"]),
        (b"\x00\x01\x02" * 100, ["binary"]),
        (b"PK\x03\x04" + b"\0" * 30, ["Excel workbook"]),
        ("date,y\n2020-01-01,5\n".encode("utf-16-le"), ["UTF-16", "without its mark"]),
        ("date,y\n2020-01-01,é\n".encode("latin-1"), ["not UTF-8", "byte 18", "row 2", "0xe9", "iconv"]),
        (b"date,y\n2020-01-01,1\n2020-01-02,2,3\n", ["row 3", "3 columns", "header has 2"]),
        (b"date,y\n2020-01-01\n", ["row 2", "1 column "]),
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


@pytest.mark.parametrize(
    "top", ["# a comment, with a comma", "sep=;", "", "  ", "\r", "\r\r", "# two\n\n# lines"]
)
def test_lines_above_the_header_are_skipped_and_counted(top: str) -> None:
    raw = f"{top}\ndate;y\n2020-01-01;5\n2020-01-02;6\n"
    assert only(raw.encode()).target.tolist() == [5, 6]
    row = raw.count("\n") + 1
    refused(f"{raw}banana;7".encode(), f"row {row} ", "'banana'")


def test_a_header_may_begin_with_a_hash() -> None:
    panel = read_table(b"# made by hand\n# date,y\n2020-01-01,5\n2020-01-02,6\n")
    assert (panel.columns.time, panel.columns.target) == ("date", ("y",))
    refused(b"# date,y\n2020-01-01,5\nbanana,6\n", "row 3", "'banana'")
    refused(b"# nothing, but comments\n", "empty")


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
