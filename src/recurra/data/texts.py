"""From a user's own file to texts and their labels.

Read are separated columns (.csv, .tsv, .txt), JSON lines, Parquet, fastText's `__label__` lines, a folder
with a folder of .txt files for each label, a frame of pandas, Polars or PyArrow, and lists of strings.
Axes: N texts.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recurra.data import cells
from recurra.data.files import (
    as_utf8,
    extension,
    is_folder,
    located,
    read_bytes,
    refuse_foreign,
    unpack,
    whole_characters,
)
from recurra.data.words import counted, several, short
from recurra.errors import ArgumentError, DataError

ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
TEXT_NAMES = ("text", "sentence", "review", "content", "comment", "body", "message", "title", "question",
              "utterance", "document", "tweet", "description")  # fmt: skip
LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "target", "intent", "topic", "y")
_FASTTEXT = "__label__"
_EXPECTED = "UTF-8 text with separated columns, JSON lines or Parquet"

_WHOLE = re.compile(r"([+-]?\d+)(\.0+)?")

Labels = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Texts:
    """N texts, and the labels of each where they are known.

    texts: (N,) strings. labels: (N,) tuples of names, one in each unless there are several to a text.
    rows: (N,) what an editor calls the line of each. name: of the file, for messages. notes: what was done
    to the data, a sentence each.
    """

    texts: tuple[str, ...]
    labels: Labels | None
    rows: np.ndarray
    name: str = "the texts"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, places: np.ndarray) -> Texts:
        """Those at these places."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in places)
        return replace(
            self, texts=tuple(self.texts[i] for i in places), labels=labels, rows=self.rows[places], notes=()
        )

    def digest(self) -> str:
        """A fingerprint of texts and labels, to know the same data again."""
        found = hashlib.blake2b(digest_size=16)
        for text, labels in zip(self.texts, self.labels or ((),) * len(self), strict=True):
            found.update(json.dumps([text, labels], ensure_ascii=True).encode())
        return found.hexdigest()


@dataclass(frozen=True)
class _Asked:
    """What the caller said about columns and labels; see `read_texts`."""

    text: str | int | None
    label: str | int | None
    between: str | None
    labelled: bool

    @property
    def columns(self) -> bool:
        """Whether a column was named."""
        return self.text is not None or self.label is not None


def read_texts(
    source: Any,
    labels: Iterable[Any] | None = None,
    *,
    text: str | int | None = None,
    label: str | int | None = None,
    between: str | None = None,
    labelled: bool = True,
) -> Texts:
    """Texts and their labels from a path, the bytes of a file, a frame, a list of strings, or a `Texts`.

    labels: for a list, array or column of strings, the label of each, or a list of several.
    text, label: columns, by name or by number from 1; by default those of well-known names (text, sentence,
        review …; label, class, category …), or of two columns the one with fewer different values as label.
    between: what stands between several labels of one text, such as ";". None: a cell is one label.
    labelled: whether there must be labels; where not, a label column is read if it is there and whole.

    A file without a line of names is understood where its first line reads like the rest. Texts keep their
    blanks and case; an empty one stays, and is noted. Labels that are all whole numbers lose a ".0", so that
    they are the same from a file and from a frame.

    Raises DataError with the row for what cannot be read, ArgumentError for an empty `between` and for
    `labels` beside a source that has its own.

    For example::

        train = read_texts("reviews.tsv", text="review", label="stars")
        train = read_texts(["good", "bad"], ["pos", "neg"])
    """
    if between == "":
        raise ArgumentError(
            'between: expected one mark or more, such as ";", got an empty text; leave it out'
        )
    asked = _Asked(text, label, between, labelled)
    if labels is not None and hasattr(type(source), "to_frame") and not hasattr(type(source), "columns"):
        source = source.to_list()  # one column of a frame, as in fit(frame["text"], frame["label"])
    listed = not isinstance(source, (Texts, str, Path, bytes, bytearray)) and not _is_frame(source)
    if labels is not None and not listed:
        raise ArgumentError(
            f"labels: expected none beside a {type(source).__name__}, which has its own; name their column "
            "with label, or give a list of texts"
        )
    if isinstance(source, Texts):
        found = source
    elif isinstance(source, (str, Path)):
        found = _from_path(located(source), asked)
    elif isinstance(source, (bytes, bytearray)):
        found = _from_bytes(unpack(bytes(source), "the data"), "the data", "", asked)
    elif not listed:
        found = _from_frame(source, asked)
    else:
        found = _from_list(source, labels, asked)
    if not len(found):
        raise DataError(f"{found.name!r} has no rows; expected at least one text")
    if labelled and found.labels is None:
        raise DataError(
            f"{found.name!r} has texts but no labels; expected a column with the label of each: name it with "
            "label (--label on the command line)"
        )
    empty = sum(not one.strip() for one in found.texts)
    if empty and not isinstance(source, Texts):
        note = "1 text is empty." if empty == 1 else f"{empty:,} texts are empty."
        found = replace(found, notes=(*found.notes, note))
    return found


def _is_frame(source: Any) -> bool:
    # asked of the class: a lazy frame warns when its columns are looked at
    return hasattr(type(source), "columns") or hasattr(type(source), "to_frame")


def _from_path(path: Path, asked: _Asked) -> Texts:
    if is_folder(path):
        try:
            return _from_folder(path, asked)
        except OSError as problem:
            raise DataError(f"the folder {short(path)} cannot be read: {problem.strerror}") from problem
    return _from_bytes(read_bytes(path, ENDINGS), path.name, extension(path.name), asked)


def _from_folder(path: Path, asked: _Asked) -> Texts:
    """A folder for each label, a .txt file for each text."""
    _no_columns(path.name, "a folder for each label", asked)
    texts, labels = [], []
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        for file in sorted(folder.glob("*.txt")):
            texts.append(as_utf8(read_bytes(file, (".txt",)), str(file), "UTF-8 text").decode())
            labels.append((folder.name,))
    if not texts:
        raise DataError(
            f"{str(path)!r} is a folder without texts; expected a folder for each label with .txt files in "
            "it, or one file: name that"
        )
    return Texts(tuple(texts), tuple(labels), np.arange(1, len(texts) + 1), path.name)


def _no_columns(name: str, what: str, asked: _Asked) -> None:
    if asked.columns:
        raise DataError(f"{name!r} has {what} and no columns; leave out text and label")


def _from_bytes(raw: bytes, name: str, ending: str, asked: _Asked) -> Texts:
    if raw[:4] == b"PAR1" or ending == "parquet":
        import polars as pl

        try:
            frame = pl.read_parquet(io.BytesIO(raw))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as problem:
            raise DataError(
                f"{name!r} is no readable Parquet file: it may be damaged; write or download it again"
            ) from problem
        return _from_frame(frame, asked, name)
    refuse_foreign(raw, name)
    content = as_utf8(raw, name, _EXPECTED).decode().replace("\r\n", "\n").replace("\r", "\n")
    if not content.strip():
        raise DataError(f"{name!r} is empty; expected a text in each row")
    columns = ending in ("csv", "tsv")
    if ending in ("jsonl", "ndjson", "json") or (not columns and re.match(r'\s*\{\s*["}]', content)):
        return _from_objects(list(_objects(content, name)), name, asked)
    if content.lstrip().startswith(_FASTTEXT) and not columns:
        return _from_fasttext(content, name, asked)
    return _from_cells(content, name, ending, asked)


def _from_fasttext(content: str, name: str, asked: _Asked) -> Texts:
    _no_columns(name, f"a {_FASTTEXT} in each row", asked)
    texts, labels, rows = [], [], []
    for row, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        names, rest = [], line.lstrip()
        while rest.startswith(_FASTTEXT):
            head = rest.split(maxsplit=1)[0]
            names.append(head.removeprefix(_FASTTEXT))
            rest = rest[len(head) + 1 :]
        if not all(names) or not names:
            raise DataError(
                f"row {row} of {name!r} has no label, but other rows have; expected {_FASTTEXT}NAME "
                "before each text: add it"
            )
        texts.append(rest)
        labels.append(tuple(dict.fromkeys(names)))
        rows.append(row)
    return Texts(tuple(texts), tuple(labels), np.array(rows), name)


def _objects(content: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row and object of each line, or of each element of one array."""
    whole = content.lstrip()[:1] == "["
    if whole:
        try:
            lines = list(enumerate(json.loads(content), 1))
        except (ValueError, RecursionError) as problem:
            where = f" in row {problem.lineno}" if isinstance(problem, json.JSONDecodeError) else ""
            why = getattr(problem, "msg", str(problem))
            raise DataError(
                f"{name!r} is no readable JSON: {why}{where}; expected an object in each line"
            ) from problem
    else:
        lines = [(row, line) for row, line in enumerate(content.split("\n"), 1) if line.strip()]
    for row, line in lines:
        try:
            found = line if whole else json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise DataError(
                f"row {row} of {name!r} is no JSON ({getattr(problem, 'msg', problem)}): expected an object "
                'such as {"text": "…", "label": "…"}: correct the row'
            ) from problem
        if not isinstance(found, dict):
            raise DataError(
                f"row {row} of {name!r} is {short(found)}; expected an object such as "
                '{"text": "…", "label": "…"}: correct the row'
            )
        yield row, found


def _from_objects(objects: list[tuple[int, dict[str, Any]]], name: str, asked: _Asked) -> Texts:
    names = list(dict.fromkeys(key for _, found in objects for key in found))
    if not names:
        raise DataError(
            f'{name!r} has no rows with anything in them; expected objects such as {{"text": "…"}}'
        )
    sample = [[found.get(key) for key in names] for _, found in objects[:1000]]
    at, by = _columns(names, sample, asked, name)
    rows = np.array([row for row, _ in objects])
    pairs = [(found.get(names[at]), None if by is None else found.get(names[by])) for _, found in objects]
    return _texts(pairs, by is not None, rows, name, asked)


def _from_frame(source: Any, asked: _Asked, name: str = "the frame") -> Texts:
    import narwhals.stable.v2 as nw

    try:
        frame = nw.from_native(source if hasattr(type(source), "columns") else source.to_frame())
        if isinstance(frame, nw.LazyFrame):
            frame = frame.collect()
    except (TypeError, nw.exceptions.NarwhalsError) as problem:
        why = str(problem).replace("\n", " ")
        raise DataError(
            f"the data must be a path, a list of texts or a frame with columns of different names, got "
            f"{type(source).__name__} ({short(why, 200)}): turn it into one of these"
        ) from problem
    names, columns = [], []
    for column in frame.iter_columns():
        gone = column.is_null().to_list()
        names.append(str(column.name))
        columns.append([None if no else v for v, no in zip(column.to_list(), gone, strict=True)])
    if not names:
        raise DataError(f"{name!r} has no columns; expected one with texts")
    sample = [[column[row] for column in columns] for row in range(min(len(frame), 1000))]
    at, by = _columns(names, sample, asked, name)
    second = [None] * len(frame) if by is None else columns[by]
    pairs = list(zip(columns[at], second, strict=True))
    return _texts(pairs, by is not None, np.arange(1, len(frame) + 1), name, asked)


def _from_list(source: Any, labels: Iterable[Any] | None, asked: _Asked) -> Texts:
    if isinstance(source, dict) or not isinstance(source, Iterable) or getattr(source, "ndim", 1) != 1:
        raise DataError(
            f"the data must be a path, a list of texts or a frame, got {type(source).__name__}: turn it into "
            "one of these"
        )
    texts = list(source)
    wrong = next((one for one in texts if not isinstance(one, str)), None)
    if wrong is not None or None in texts:
        raise DataError(f"the data must be a list of strings, got {short(wrong)} in it: give strings")
    if labels is not None and (isinstance(labels, (str, bytes)) or not isinstance(labels, Iterable)):
        raise DataError(f"labels: expected a list with one for each text, got {short(labels)}: give a list")
    given = None if labels is None else list(labels)
    if given is not None and len(given) != len(texts):
        raise DataError(
            f"labels: expected one for each of {counted(len(texts), 'text')}, got {len(given)}: give as many"
        )
    pairs = list(zip(texts, given or [None] * len(texts), strict=True))
    return _texts(pairs, given is not None, np.arange(1, len(texts) + 1), "the texts", asked)


def _from_cells(content: str, name: str, ending: str, asked: _Asked) -> Texts:
    known = TEXT_NAMES + LABEL_NAMES
    mark = cells.separator(content, ending, known, asked.labelled or asked.columns)
    if mark is None:
        records = [(row, [line]) for row, line in enumerate(content.split("\n"), 1) if line.strip()]
        if not asked.columns:
            return _texts(
                [(line, None) for _, (line,) in records],
                False,
                np.array([r for r, _ in records]),
                name,
                asked,
            )
    else:
        records = cells.records(content, mark, name)
    sample = [record for _, record in records[:1000]]
    by_name = any(isinstance(one, str) and not one.isdecimal() for one in (asked.text, asked.label))
    names = [one.strip() for one in sample[0]] if by_name else cells.header(sample, known)
    if names is not None:
        records, sample = records[1:], sample[1:]
        if not records:
            raise DataError(f"{name!r} has a header but no rows; expected rows below it")
    at, by = _columns(names or [""] * len(sample[0]), sample, asked, name)
    pairs = [(record[at], None if by is None else record[by]) for _, record in records]
    found = _texts(pairs, by is not None, np.array([row for row, _ in records]), name, asked)
    if names is None and not asked.columns and by is not None:
        note = f"The first row is taken for data: texts are in column {at + 1}, labels in column {by + 1}."
        found = replace(found, notes=(note, *found.notes))
    return found


def _columns(
    names: list[str], sample: Sequence[Sequence[Any]], asked: _Asked, name: str
) -> tuple[int, int | None]:
    """The places of text and label; of the latter None where there is none. Raises DataError."""
    at = _named(names, asked.text, "text", name)
    by = _named(names, asked.label, "label", name)
    lower = [one.strip().lower() for one in names]
    if by is None and len(names) > 1:
        by = next((lower.index(one) for one in LABEL_NAMES if one in lower and lower.index(one) != at), None)
        _only_one(names, by, "label", name)
    if at is None:
        at = next((lower.index(one) for one in TEXT_NAMES if one in lower and lower.index(one) != by), None)
        _only_one(names, at, "text", name)
    if len(names) == 1:
        at = 0
    if len(names) == 2 and by is None and (asked.labelled or not any(names)):
        kinds = [len({str(row[k]) for row in sample}) for k in (0, 1)]
        by = 1 - at if at is not None else (0 if kinds[0] < kinds[1] else 1)
    if len(names) == 2 and at is None and by is not None:
        at = 1 - by
    if at is None:
        listed = several(names) if any(names) else f"{len(names)} without names"
        raise DataError(
            f"{name!r} has the columns {listed}, and none is called as texts are ({', '.join(TEXT_NAMES[:4])}"
            " …); name it with text (--text on the command line), by name or by number"
        )
    if at == by:
        raise DataError(f"{name!r}: text and label are the same column; name two different ones")
    return at, by


def _named(names: list[str], given: str | int | None, what: str, name: str) -> int | None:
    if given is None:
        return None
    if str(given) in names:
        at = names.index(str(given))
        _only_one(names, at, what, name)
        return at
    if str(given).isdecimal() and 1 <= int(given) <= len(names):
        return int(given) - 1
    listed = several(names) if any(names) else f"no names, but numbers from 1 to {len(names)}"
    raise DataError(
        f"{name!r} has no column {short(given)} for {what}; it has {listed}: give one of these (--{what} on "
        "the command line)"
    )


def _only_one(names: list[str], at: int | None, what: str, name: str) -> None:
    if at is not None and names.count(names[at]) > 1:
        raise DataError(
            f"{name!r} has the column {short(names[at])} twice; expected one for {what}: rename the other, "
            f"or give {what} as a number from 1 to {len(names)}"
        )


def _texts(
    pairs: Sequence[tuple[Any, Any]], labelled: bool, rows: np.ndarray, name: str, asked: _Asked
) -> Texts:
    """From cells of text and label to `Texts`. Raises DataError where a label is missing."""
    texts = tuple(_word(text, "text", row, name) for (text, _), row in zip(pairs, rows, strict=True))
    if not labelled:
        return Texts(texts, None, rows, name)
    labels = []
    for (_, cell), row in zip(pairs, rows, strict=True):
        if isinstance(cell, np.ndarray):
            cell = cell.tolist()
        if isinstance(cell, (set, frozenset)):
            cell = sorted(cell, key=str)
        if isinstance(cell, (list, tuple)):
            parts = [_word(part, "label", row, name) for part in cell]
        elif asked.between is not None:
            parts = _word(cell, "label", row, name).split(asked.between)
        else:
            parts = [_word(cell, "label", row, name)]
            if not parts[0].strip() and asked.labelled:
                raise DataError(
                    f"row {row} of {name!r} has no label; expected one for each text: fill it in, or remove "
                    "the row"
                )
        labels.append([part.strip() for part in parts if part.strip()])
        if not labels[-1] and not asked.labelled:
            return Texts(texts, None, rows, name)
    matches = {part: _WHOLE.fullmatch(part) for one in labels for part in one}
    if all(matches.values()):
        labels = [[part.partition(".")[0] for part in one] for one in labels]
    return Texts(texts, tuple(tuple(dict.fromkeys(one)) for one in labels), rows, name)


def _word(cell: Any, what: str, row: Any, name: str) -> str:
    """A cell as a string; "" where it is missing. Raises DataError for what holds several or no letters."""
    if cell is None or (isinstance(cell, (float, np.floating)) and cell != cell):
        return ""
    if isinstance(cell, (bytes, bytearray, memoryview, dict, list, tuple, set, frozenset, np.ndarray)):
        raise DataError(
            f"row {row} of {name!r} has {short(cell)} as {what}, a {type(cell).__name__}; expected a string: "
            "turn it into one"
        )
    return whole_characters(str(cell))
