"""The cells of separated text: which mark separates them, quotes, and whether a first line names columns."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from recurra.data.words import counted
from recurra.errors import DataError

_MARKS = ("\t", ",", ";", "|")
_HEAD = 1 << 20  # characters that are looked at to find the mark
_SAMPLE = 200  # records that are looked at
_FEWEST = 8  # rows below which a first line of unknown names is not told from the rest

Records = list[tuple[int, list[str]]]


def separator(content: str, ending: str, known: Sequence[str], certain: bool) -> str | None:
    """What stands between columns: tab, comma, semicolon or bar; None where each line is one text.

    ending: the file's, of which "csv" and "tsv" say that there are columns. known: names of columns, in
    small letters, of which one in the first line says so too. certain: the caller knows that there are
    columns. Otherwise only a tab, or another mark in all lines alike, is taken for one.
    """
    if ending == "tsv":
        return "\t"
    best, share = None, 0.0
    for mark in _MARKS:
        widths = _widths(content, mark)
        if not widths:
            continue
        width, times = Counter(widths).most_common(1)[0]
        if width > 1 and times / len(widths) > share:
            best, share = mark, times / len(widths)
    if ending == "csv":
        return best if best is not None and share > 0.5 else ","
    if best is None:
        return None
    first = next(line for line in content.split("\n") if line.strip())
    named = any(cell.strip(' "').lower() in known for cell in first.split(best))
    return best if named or (share > 0.5 if best == "\t" or certain else False) else None


def _widths(content: str, mark: str) -> list[int]:
    """How many cells each of the first records has."""
    head = content[:_HEAD]
    if mark == "\t":
        lines = head.split("\n")
        return [line.count("\t") + 1 for line in lines[:_SAMPLE] if line.strip()]
    widths = []
    with long_fields():
        try:
            for record in csv.reader(io.StringIO(head), delimiter=mark):
                if record:
                    widths.append(len(record))
                if len(widths) == _SAMPLE:
                    break
        except csv.Error:
            return []
    # the last record may be cut where the head ends
    return widths[:-1] if len(head) < len(content) and 1 < len(widths) < _SAMPLE else widths


def records(content: str, mark: str, name: str) -> Records:
    """Row and cells of each record, all of one width; those without content are left out.

    A tab separates always, unless that gives uneven records and quotes round whole cells give even ones;
    other marks separate outside of quotes. Raises DataError with the row of a record that is wider or
    narrower than the first, and of a quotation mark that is not closed.
    """
    if mark == "\t":
        found = _tabbed(content)
        if '"' in content and len({len(cells) for _, cells in found}) > 1:
            try:
                quoted = list(_quoted(content, mark, name))
            except DataError:
                quoted = []
            found = quoted if len({len(cells) for _, cells in quoted}) == 1 else found
    else:
        found = list(_quoted(content, mark, name))
    if not found:
        raise DataError(f"{name!r} is empty; expected a text in each row")
    width = len(found[0][1])
    for row, record in found:
        if len(record) != width:
            raise DataError(
                f"row {row} of {name!r} has {counted(len(record), 'column')} where the first has {width}; "
                f"expected as many, separated by {mark!r}: correct the row"
            )
    return found


def _tabbed(content: str) -> Records:
    lines = enumerate(content.split("\n"), 1)
    return [(row, [_unquoted(cell) for cell in line.split("\t")]) for row, line in lines if line.strip()]


def _quoted(content: str, mark: str, name: str) -> Iterator[tuple[int, list[str]]]:
    with long_fields():
        reader = csv.reader(io.StringIO(content), delimiter=mark, strict=True)
        row = 1
        try:
            for record in reader:
                # a lone "" is an empty text; a line of blanks or of nothing but marks is none
                if record == [""] or any(not cell.isspace() and cell for cell in record):
                    yield row, record
                row = reader.line_num + 1
        except csv.Error as problem:
            raise DataError(
                f"row {row} of {name!r} cannot be read ({problem}); expected quotation marks only round "
                "whole cells, and doubled inside: correct the row"
            ) from problem


@contextmanager
def long_fields() -> Iterator[None]:
    """Cells of any length while this lasts: csv's own limit is 128 KiB, and is one for the whole process."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _unquoted(cell: str) -> str:
    """A cell of a tab-separated file as some programs quote it: "a ""b"" c" is a "b" c."""
    inner = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def header(sample: Sequence[Sequence[str]], known: Sequence[str]) -> list[str] | None:
    """The columns' names, or None where the first row reads like the rest.

    It names columns where one of its cells is a known name that does not come again below it; and where all
    are short and, in a column, each value below comes several times but this does not, or all are numbers
    but this.
    """
    first, rest = [cell.strip() for cell in sample[0]], sample[1:]
    brief = all(len(cell) <= 40 and len(cell.split()) <= 3 for cell in first)
    for k, cell in enumerate(first):
        below = Counter(row[k].strip() for row in rest)
        if not cell or cell in below:
            continue
        if cell.lower() in known:
            return first
        repeated = len(rest) >= _FEWEST and min(below.values()) > 1
        numbers = len(rest) > 1 and all(map(_numeric, below)) and not _numeric(cell)
        if brief and (repeated or numbers):
            return first
    return None


def _numeric(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
