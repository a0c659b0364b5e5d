"""From a file or a frame of any kind to one table of named columns, text files as text."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recurra.data.files import as_utf8, extension, located, read_bytes, refuse_foreign
from recurra.data.numbers import tidy
from recurra.data.stamps import recognised
from recurra.data.words import counted, short
from recurra.errors import DataError

_TEXT = (".csv", ".tsv", ".txt", ".parquet")
_SEPARATORS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Table:
    """``frame`` columns of String where they came from text · ``rows`` (T,) what a user calls each row."""

    frame: pl.DataFrame
    rows: np.ndarray
    name: str
    separator: str = ","
    notes: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        """The row's name in messages: the line that an editor shows, the header being line 1."""
        return f"row {int(self.rows[row])}"


def read(source: Any) -> Table:
    """A table from a path (.csv .tsv .txt .parquet, text also with .gz .bz2 .xz) or from a frame of any kind.

    Raises :class:`DataError` when nothing can be read; the message says what was found instead.
    """
    if isinstance(source, (str, Path)):
        return _file(located(source))
    if isinstance(source, (bytes, bytearray)):
        return parse_text(bytes(source), "the data", "")
    return _frame(source)


def _file(path: Path) -> Table:
    name, raw = path.name, read_bytes(path, _TEXT)
    if raw[:4] == b"PAR1" or path.suffix == ".parquet":
        try:
            frame = pl.read_parquet(io.BytesIO(raw))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as problem:
            raise DataError(
                f"{name!r} is no readable Parquet file: it may be damaged; write or download it again"
            ) from problem
        return _checked(Table(frame, np.arange(1, len(frame) + 1), name))
    return parse_text(raw, name, extension(name))


def parse_text(raw: bytes, name: str, ending: str) -> Table:
    """A table from the bytes of a separated text file; ``ending`` only matters for ``tsv``."""
    refuse_foreign(raw, name)
    raw = as_utf8(raw, name)
    if b"\n" not in raw:
        raw = raw.replace(b"\r", b"\n")
    raw, skipped = _without_preface(raw)
    if not raw.strip(b' \t\r\n,;|"'):
        raise DataError(
            f"{name!r} is empty; expected a header line with the columns' names and rows below it"
        )
    separator = "\t" if ending == "tsv" and b"\t" in raw else _sniff(raw)
    starts, ends, widths, lines = _records(raw, separator, name)
    header = _cells(raw[starts[0] : ends[0]].decode(), separator)
    keep = np.ones(len(starts), bool)
    for row in np.flatnonzero(widths != len(header)):
        blank = not raw[starts[row] : ends[row]].strip(b' \t\r\n,;|"')
        if not blank:
            raise DataError(
                f"row {lines[row] + skipped} of {name!r} has {counted(int(widths[row]), 'column')} where "
                f"the header has {len(header)}; expected as many, separated by {separator!r}: correct the "
                f"row, or put text that holds {separator!r} in quotation marks"
            )
        keep[row] = False
    named, notes = _names(header, name)
    body = raw[starts[1] :] if len(starts) > 1 else b""
    if not keep.all():
        body = b"".join(raw[starts[r] : ends[r]] + b"\n" for r in range(1, len(starts)) if keep[r])
    if named is None:
        named = [f"column_{k + 1}" for k in range(len(header))]
        body, keep_from = raw[starts[0] : ends[0]] + b"\n" + body, 0
    else:
        keep_from = 1
    if not body.strip():
        raise DataError(f"{name!r} has a header but no rows; expected rows below it")
    frame = _parse(body, separator, named, name)
    lines = lines[keep_from:][keep[keep_from:]] + skipped
    if len(frame) != len(lines):
        raise DataError(
            f"{name!r} cannot be split into rows: {len(lines)} lines gave {len(frame)} rows; expected "
            "quotation marks only round whole cells: remove those inside"
        )
    return _checked(Table(frame, lines, name, separator, tuple(notes)))


def _without_preface(raw: bytes) -> tuple[bytes, int]:
    """The text from its header on, and the number of lines above: empty ones, comments, Excel's ``sep=;``."""
    top = re.match(rb"(?:[ \t]*(?:#[^\n]*|sep=.)?\r*\n)*", raw)
    above = top[0] if top else b""
    rest = raw[len(above) :]
    last = above.rstrip().rpartition(b"\n")[2]
    if last.startswith(b"#") and rest[:1].isdigit() and any(s.encode() in last for s in _SEPARATORS):
        return last.lstrip(b"# \t") + b"\n" + rest, above.count(b"\n") - 1  # the header is such a line
    return rest, above.count(b"\n")


def _sniff(raw: bytes) -> str:
    """The separator that most of the first lines have as often as the first line has."""
    head = raw[:65536].decode(errors="replace").splitlines()[:100]
    bare = ["".join(part for k, part in enumerate(line.split('"')) if k % 2 == 0) for line in head]
    best, score = ",", (0.0, 0)
    for separator in _SEPARATORS:
        counts = [line.count(separator) for line in bare if line.strip()]
        if counts and counts[0]:
            worth = (sum(c == counts[0] for c in counts) / len(counts), counts[0])
            best, score = (separator, worth) if worth > score else (best, score)
    return best


def _records(raw: bytes, separator: str, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where every record starts and ends, its number of cells, the line it starts in; quotes respected."""
    data = np.frombuffer(raw, np.uint8)
    breaks, cuts = np.flatnonzero(data == 10), np.flatnonzero(data == ord(separator))
    lines = breaks
    marks = np.flatnonzero(data == ord('"'))
    if len(marks):
        if len(marks) % 2:
            line = int(np.searchsorted(breaks, marks[-1])) + 1
            raise DataError(
                f"a quotation mark in row {line} of {name!r} or before is never closed; expected pairs: "
                "close or remove it"
            )
        breaks, cuts = (at[np.searchsorted(marks, at) % 2 == 0] for at in (breaks, cuts))
    ends = breaks if len(breaks) and breaks[-1] == len(raw) - 1 else np.append(breaks, len(raw))
    starts = np.concatenate([[0], ends[:-1] + 1])
    widths = np.searchsorted(cuts, ends) - np.searchsorted(cuts, starts) + 1
    return starts, ends, widths, np.searchsorted(lines, starts) + 1


def _cells(line: str, separator: str) -> list[str]:
    try:
        cells = next(csv.reader(io.StringIO(line.rstrip("\r\n"), newline=""), delimiter=separator), [""])
    except csv.Error:
        cells = line.split(separator)
    return [" ".join(cell.split()) for cell in cells]


def _names(header: list[str], name: str) -> tuple[list[str] | None, list[str]]:
    """The columns' names, or None when the first line is already data."""
    filled = [cell for cell in header if cell]
    if not filled:
        raise DataError(
            f"the header of {name!r} names no column; expected the columns' names: add a header line"
        )
    numeric = [_number(cell) for cell in filled]
    if all(n or recognised(c) for n, c in zip(numeric, filled, strict=True)) and (
        len(filled) > 1 or numeric[0]
    ):
        return None, [
            "The first line holds values, not names: the columns were named column_1, column_2 and so on."
        ]
    names = [cell or f"column_{k + 1}" for k, cell in enumerate(header)]
    long = next((cell for cell in names if len(cell) > 200), None)
    if long is not None:
        raise DataError(
            f"the header of {name!r} has a name of {len(long)} characters, {short(long)}; expected names of "
            f"columns, separated by one of {' '.join(map(repr, _SEPARATORS))}: add a header line"
        )
    double = next((c for k, c in enumerate(names) if c in names[:k]), None)
    if double is not None:
        raise DataError(
            f"the header of {name!r} has the name {short(double)} twice; expected each once: rename one of "
            "them"
        )
    return names, []


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parse(body: bytes, separator: str, names: list[str], name: str) -> pl.DataFrame:
    try:
        return pl.read_csv(
            io.BytesIO(body),
            separator=separator,
            has_header=False,
            schema=dict.fromkeys(names, pl.String),
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as problem:
        why = str(problem).splitlines()[0]
        raise DataError(
            f"{name!r} cannot be read as a table: {why}; expected one separator and paired quotation marks"
        ) from problem


def _frame(source: Any) -> Table:
    import narwhals.stable.v2 as nw

    index = getattr(source, "index", None)
    if hasattr(source, "to_frame") and index is not None:  # a pandas series
        source = source.to_frame(getattr(source, "name", None) or "y")
    if index is not None and hasattr(source, "reset_index"):  # dates in the index of a pandas frame
        kind = str(getattr(index, "dtype", ""))
        if kind.startswith("period"):
            source = source.set_axis(index.to_timestamp(), axis=0).rename_axis(index.name or "time")
        if kind.startswith(("datetime", "period")) or getattr(index, "nlevels", 1) > 1 or index.name:
            source = source.reset_index(
                names=None if index.name or getattr(index, "nlevels", 1) > 1 else "time"
            )
    try:
        frame = nw.from_native(source)
    except TypeError as problem:
        raise DataError(
            f"the data must be a path or a frame of pandas, Polars or PyArrow, got {type(source).__name__}: "
            "turn it into one of these"
        ) from problem
    if isinstance(frame, nw.LazyFrame):
        frame = frame.collect()
    names = [str(c) for c in frame.columns]
    double = next((c for k, c in enumerate(names) if c in names[:k]), None)
    if double is not None:
        raise DataError(f"the frame has the column {double!r} twice; expected each once: rename one of them")
    columns = [_column(name, frame[given], nw) for name, given in zip(names, frame.columns, strict=True)]
    return _checked(Table(pl.DataFrame(columns), np.arange(len(frame)), "the frame"))


def _column(name: str, column: Any, nw: Any) -> pl.Series:
    """A column of any frame as one of Polars; whatever stands for a missing value becomes null."""
    absent = column.is_null().to_list()
    if column.dtype.is_numeric() and not any(absent):
        return pl.Series(name, column.to_numpy())
    cells = [None if gone else cell for cell, gone in zip(column.to_list(), absent, strict=True)]
    if isinstance(column.dtype, (nw.Object, nw.Categorical, nw.Enum, nw.Unknown)):
        return pl.Series(name, [None if c is None or c != c else str(c) for c in cells], dtype=pl.String)
    return pl.Series(name, cells)


def _checked(table: Table) -> Table:
    """Text without blanks around it, missing values as null; rows and unnamed columns without a value go."""
    frame = table.frame
    if not frame.width or not len(frame):
        raise DataError(f"{table.name!r} has no rows; expected a table with rows")
    cleaned = [tidy(c) if c.dtype == pl.String else _plain(c) for c in frame.get_columns()]
    frame = pl.DataFrame(cleaned)
    ghosts = [
        c
        for k, c in enumerate(frame.columns)
        if c == f"column_{k + 1}" and frame[c].null_count() == len(frame)
    ]
    frame = frame.drop(ghosts) if len(ghosts) < frame.width else frame
    empty = frame.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy()
    if empty.all():
        raise DataError(f"{table.name!r} has no values at all; expected rows with values")
    last = int(np.flatnonzero(~empty)[-1])
    keep = ~empty if frame.width > 1 else np.arange(len(frame)) <= last
    notes = list(table.notes)
    dropped = int((~keep[: last + 1]).sum())
    if dropped:
        notes.append(
            f"{dropped} empty rows between the others were skipped."
            if dropped > 1
            else "An empty row was skipped."
        )
    if not keep.all():
        frame = frame.filter(pl.Series(keep))
    return Table(frame, table.rows[keep], table.name, table.separator, tuple(notes))


def _plain(column: pl.Series) -> pl.Series:
    """Categories as text; anything nested is refused."""
    if column.dtype in (pl.Categorical, pl.Enum):
        return tidy(column.cast(pl.String))
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        raise DataError(
            f"column {column.name!r} holds {column.dtype} values; expected numbers, dates, text or truth "
            "values: drop it"
        )
    return column
