"""From a user's own file to sequences of numbers and their labels.

Read are the .ts files of the UCR and UEA archives (Bagnall et al., "The UEA multivariate time series
classification archive", 2018), .npz files with x (N, T, F), and where they are known lengths (N,) and y (N,),
arrays (N, T, F) or (N, T), and lists of arrays (T, F) or (T,) of any lengths. Axes: N sequences, T, F.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.data.files import as_utf8, extension, read_bytes
from recurra.data.words import counted, short
from recurra.errors import DataError

ENDINGS = (".ts", ".npz")
_TELLS = 64 << 10  # bytes at a file's beginning that show whether it is a .ts file

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Sequences:
    """N sequences of F numbers a step, and the labels of each where they are known.

    values: N arrays (T_n, F); what is missing is NaN. labels: (N,) tuples of names. rows: (N,) what an editor
    calls the line of each, or its place from 1. name: of the file, for messages. notes: what was done to the
    data, a sentence each.
    """

    values: tuple[Values, ...]
    labels: tuple[tuple[str, ...], ...] | None
    rows: np.ndarray
    name: str = "the sequences"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def features(self) -> int:
        """F."""
        return int(self.values[0].shape[1])

    def take(self, places: np.ndarray) -> Sequences:
        """Those at these places."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in places)
        values = tuple(self.values[i] for i in places)
        return replace(self, values=values, labels=labels, rows=self.rows[places], notes=())

    def digest(self) -> str:
        """A fingerprint of values and labels, to know the same data again."""
        found = hashlib.blake2b(digest_size=16)
        for values, labels in zip(self.values, self.labels or ((),) * len(self), strict=True):
            found.update(repr((values.shape, labels)).encode())
            found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()


def is_sequences(source: Any) -> bool:
    """Whether this is for `read_sequences`, and not for `recurra.data.texts.read_texts`."""
    if isinstance(source, (str, Path)):
        return extension(Path(source).name) in ("ts", "npz")
    if isinstance(source, (bytes, bytearray)):
        head = bytes(source[:_TELLS])
        return _is_npz(head) or re.search(rb"^@data\s*$", head, re.MULTILINE | re.IGNORECASE) is not None
    if isinstance(source, (list, tuple)):
        return bool(source) and not isinstance(source[0], str) and hasattr(source[0], "__len__")
    if getattr(source, "ndim", None) == 1 and len(source) and isinstance(next(iter(source)), str):
        return False
    return isinstance(source, Sequences) or (hasattr(source, "ndim") and not hasattr(source, "columns"))


def read_sequences(
    source: Any, labels: Iterable[Any] | None = None, *, labelled: bool = True, features: int | None = None
) -> Sequences:
    """Sequences and their labels from a path, the bytes of a file, an array, a list of arrays, or themselves.

    labels: for arrays and lists, the label of each sequence, or a list of several. labelled: whether there
    must be labels. features: how many numbers a step must have, or any number where None. NaN is a missing
    value; the last known one stands in for it, or the first one known where there is none before. Raises
    DataError with the row for what cannot be read.

    For example::

        train = read_sequences("JapaneseVowels_TRAIN.ts")
        train = read_sequences(np.zeros((7, 33, 2)), ["a", "b", "a", "b", "a", "b", "a"])
    """
    if isinstance(source, Sequences):
        found = source
    elif isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        found = _from_bytes(read_bytes(path, ENDINGS), path.name)
    elif isinstance(source, (bytes, bytearray)):
        found = _from_bytes(bytes(source), "the data")
    else:
        found = _from_arrays(source, labels, "the sequences")
    if not len(found):
        raise DataError(f"{found.name!r} has no sequences; expected at least one")
    if labelled and found.labels is None:
        raise DataError(f"{found.name!r} has sequences but no labels; expected the label of each: add them")
    if features is not None and found.features != features:
        raise DataError(
            f"{found.name!r} has {counted(found.features, 'number')} in a step where the model has learnt "
            f"from {features}; expected as many: give the same features"
        )
    return found if isinstance(source, Sequences) else _without_gaps(found)


def _from_bytes(raw: bytes, name: str) -> Sequences:
    if _is_npz(raw):
        return _from_npz(raw, name)
    return _from_ts(as_utf8(raw, name, "a .ts or an .npz file").decode(), name)


def _is_npz(raw: bytes) -> bool:
    return raw.startswith(b"PK\x03\x04")


def _from_npz(raw: bytes, name: str) -> Sequences:
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as problem:
        raise DataError(
            f"{name!r} is no readable .npz file of plain arrays ({problem}); expected x (N, T, F), and "
            "lengths (N,) and y (N,) where they are known: write it with numpy.savez"
        ) from problem
    if "x" not in arrays:
        there = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(f"{name!r} has no array x; expected x (N, T, F), got {there}: name it x")
    x = arrays["x"]
    if "lengths" in arrays:
        lengths = arrays["lengths"]
        fits = lengths.shape == x.shape[:1] and lengths.dtype.kind in "iu"
        if not fits or (len(lengths) and not 0 <= lengths.min() <= lengths.max() <= x.shape[1]):
            raise DataError(
                f"{name!r}: lengths must be whole numbers (N,) from 0 to the T of x {x.shape}, got shape "
                f"{lengths.shape} of {lengths.dtype}: correct them"
            )
        x = [row[:length] for row, length in zip(x, lengths, strict=True)]
    return _from_arrays(x, arrays.get("y"), name)


def _from_ts(content: str, name: str) -> Sequences:
    """The archive's own format: a header of @ lines, then in each row features by ":", values by ","."""
    lines = [(row, line.strip()) for row, line in enumerate(content.splitlines(), 1)]
    lines = [(row, line) for row, line in lines if line and not line.startswith("#")]
    start = next((k for k, (_, line) in enumerate(lines) if line.lower() == "@data"), None)
    if start is None:
        raise DataError(f"{name!r} has no line @data; expected a .ts file, with @data before the sequences")
    tags = {
        key.lower(): rest.strip().lower() for key, _, rest in (x[1:].partition(" ") for _, x in lines[:start])
    }
    if tags.get("timestamps", "false").startswith("true"):
        raise DataError(f"{name!r} has time stamps (@timeStamps true); expected values alone: leave them out")
    labelled = tags.get("classlabel", "true").startswith("true")
    values, labels, rows, width = [], [], [], 0
    for row, line in lines[start + 1 :]:
        parts = line.split(":")
        if labelled:
            labels.append((parts.pop().strip(),))
            if not labels[-1][0] or not parts:
                raise DataError(
                    f"row {row} of {name!r} has no label; expected one after the last colon: add it"
                )
        width = width or len(parts)
        if len(parts) != width:
            raise DataError(
                f"row {row} of {name!r} has {counted(len(parts), 'feature')} where the first sequence has "
                f"{width}; expected as many, separated by colons: correct the row"
            )
        values.append(_steps(parts, row, name))
        rows.append(row)
    return Sequences(tuple(values), tuple(labels) if labelled else None, np.array(rows), name)


def _steps(parts: Sequence[str], row: int, name: str) -> Values:
    """(T, F) from the words of each feature."""
    features = []
    for part in parts:
        words = [word.strip() for word in part.split(",")] if part.strip() else []
        try:
            features.append(np.array([np.nan if word in ("?", "NaN") else float(word) for word in words]))
        except ValueError as problem:
            raise DataError(
                f"row {row} of {name!r} has a value that is no number ({problem}); expected numbers between "
                "commas, ? where one is missing: correct the row"
            ) from problem
    if len({len(feature) for feature in features}) > 1:
        counts = ", ".join(str(len(feature)) for feature in features[:7])
        raise DataError(
            f"row {row} of {name!r} has features of {counts} steps; expected the same number of each: "
            "correct the row"
        )
    found: Values = np.stack(features, 1).astype(np.float32)
    if np.isinf(found).any():
        raise DataError(f"row {row} of {name!r} has an infinite value; expected numbers: correct the row")
    return found


def _from_arrays(source: Any, labels: Any, name: str) -> Sequences:
    given = [row.numpy(force=True) if hasattr(row, "numpy") else np.asarray(row) for row in source]
    values, width = [], None
    for place, row in enumerate(given, 1):
        if row.dtype.kind not in "biuf" or row.ndim not in (1, 2):
            raise DataError(
                f"sequence {place} of {name!r} is an array {row.shape} of {row.dtype}; expected numbers "
                "(T, F) or (T,): give (N, T, F) in all, or a list of (T, F)"
            )
        steps = row.reshape(len(row), -1 if row.size else (row.shape[1] if row.ndim == 2 else 1))
        width = steps.shape[1] if width is None else width
        if steps.shape[1] != width:
            raise DataError(
                f"sequence {place} of {name!r} has {counted(steps.shape[1], 'number')} in a step where the "
                f"first has {width}; expected as many"
            )
        if np.isinf(steps).any():
            raise DataError(
                f"sequence {place} of {name!r} has an infinite value; expected numbers: correct it"
            )
        values.append(steps.astype(np.float32))
    told = None if labels is None else _labels(labels, len(values), name)
    return Sequences(tuple(values), told, np.arange(1, len(values) + 1), name)


def _labels(labels: Any, count: int, name: str) -> tuple[tuple[str, ...], ...]:
    given = list(labels.tolist() if hasattr(labels, "tolist") else labels)
    if len(given) != count:
        raise DataError(
            f"labels: expected one for each of {counted(count, 'sequence')}, got {len(given)}: give as many"
        )
    found = []
    for place, one in enumerate(given, 1):
        if one is None or one != one:
            raise DataError(f"sequence {place} of {name!r} has no label ({short(one)}): give it one")
        parts = one if isinstance(one, (list, tuple, set)) else [one]
        whole = [str(int(p)) if isinstance(p, float) and p == int(p) else str(p).strip() for p in parts]
        found.append(tuple(dict.fromkeys(whole)))
    return tuple(found)


def _without_gaps(found: Sequences) -> Sequences:
    """Missing values replaced, with a note of how many there were."""
    missing = sum(int(np.isnan(values).sum()) for values in found.values)
    empty = sum(not len(values) for values in found.values)
    notes = list(found.notes)
    if empty:
        notes.append(f"{counted(empty, 'sequence')} without any step.")
    if not missing:
        return replace(found, notes=tuple(notes))
    notes.append(f"{counted(missing, 'missing value')}: the last known one stands in for it.")
    return replace(found, values=tuple(map(_filled, found.values)), notes=tuple(notes))


def _filled(values: Values) -> Values:
    """(T, F) with each NaN replaced by the value before, else by the one after, else by 0."""
    full = values.copy()
    for column in full.T:
        known = np.flatnonzero(~np.isnan(column))
        if not len(known):
            column[:] = 0
            continue
        place = np.searchsorted(known, np.arange(len(column)), side="right") - 1
        column[:] = column[known[np.maximum(place, 0)]]
    return full
