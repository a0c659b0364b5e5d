"""Sequences of numbers from .ts and .npz files, arrays and lists: what is read, and what is refused."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recurra.data.sequences import Sequences, is_sequences, read_sequences
from recurra.errors import DataError

TS = """# a comment
@problemName Two
@timeStamps false
@univariate false
@classLabel true up down
@data
1,2,3:4,5,6:up
7,8:9,10:down
"""


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_a_ts_file_is_read_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "two.ts.gz"
    path.write_bytes(gzip.compress(TS.encode()))
    found = read_sequences(path)
    assert (len(found), found.features, found.name) == (2, 2, "two.ts.gz")
    assert found.labels == (("up",), ("down",))
    assert found.rows.tolist() == [7, 8]
    assert found.values[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert found.values[0].dtype == np.float32
    assert found.values[1].tolist() == [[7, 9], [8, 10]]


def test_a_ts_file_without_labels() -> None:
    raw = b"@classLabel false\n@data\n1,2\n3\n"
    found = read_sequences(raw, labelled=False)
    assert found.labels is None
    assert [len(one) for one in found.values] == [2, 1]
    with pytest.raises(DataError, match="'the data' has sequences but no labels; expected"):
        read_sequences(raw)


def test_missing_values_take_the_last_known_one() -> None:
    found = read_sequences(b"@data\n?,1,?,2,NaN:?,?,?,?,?:a\n1,2:3,4:b\n")
    assert found.values[0].T.tolist() == [[1, 1, 1, 2, 2], [0, 0, 0, 0, 0]]
    assert found.notes == ("8 missing values: the last known one stands in for it.",)
    again = read_sequences(found)
    assert again is found


def test_an_npz_file_with_lengths() -> None:
    x = np.arange(42.0).reshape(7, 3, 2)
    raw = npz(x=x, lengths=np.array([3, 0, 1, 2, 3, 3, 3]), y=np.array([1.0, 2, 1, 2, 1, 2, 1]))
    found = read_sequences(raw)
    assert [len(one) for one in found.values] == [3, 0, 1, 2, 3, 3, 3]
    assert found.labels is not None
    assert found.labels[:2] == (("1",), ("2",))
    assert found.notes == ("1 sequence without any step.",)
    assert found.values[3].tolist() == x[3, :2].tolist()


@pytest.mark.parametrize(
    ("given", "features", "steps"),
    [
        (np.zeros((7, 33, 3)), 3, 33),
        (np.zeros((7, 33), np.int16), 1, 33),
        (torch.zeros(7, 33, 3, requires_grad=True), 3, 33),
        ([[1.0, 2.0], [3.0]], 1, 2),
        ([np.zeros((1, 63))], 63, 1),
    ],
)
def test_arrays_and_lists(given: Any, features: int, steps: int) -> None:
    assert is_sequences(given)
    found = read_sequences(given, labelled=False)
    assert found.features == features
    assert len(found.values[0]) == steps


def test_labels_beside_an_array() -> None:
    found = read_sequences(np.zeros((3, 7)), [("a", "b"), "a", 2.0])
    assert found.labels == (("a", "b"), ("a",), ("2",))
    taken = found.take(np.array([2, 0]))
    assert taken.labels == (("2",), ("a", "b"))
    assert taken.rows.tolist() == [3, 1]
    assert taken.digest() != found.digest()
    assert found.digest() == read_sequences(np.zeros((3, 7)), [("a", "b"), "a", 2.0]).digest()


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"1,2:a\n", "has no line @data; expected a .ts file"),
        (b"@data\n", "has no sequences; expected at least one"),
        (b"@data\n1,2:a\n1,x:b\n", "row 3 of 'the data' has a value that is no number"),
        (b"@data\n1,2:3,4:a\n1,2:b\n", "row 3 of 'the data' has 1 feature where the first sequence has 2"),
        (b"@data\n1,2:3:a\n", "row 2 of 'the data' has features of 2, 1 steps; expected the same"),
        (b"@data\n1,2:\n", "row 2 of 'the data' has no label"),
        (b"@data\nlonely\n", "row 2 of 'the data' has no label"),
        (b"@data\n1,inf:a\n", "row 2 of 'the data' has an infinite value"),
        (b"@timeStamps true\n@data\n(1,2):a\n", "has time stamps"),
        (b"@data\n\xff\xfe1:a\n", "is not UTF-8 text"),
        (npz(z=np.zeros(7)), "has no array x; expected x .N, T, F., got z"),
        (npz(x=np.zeros((2, 3, 1)), lengths=np.array([4, 1])), "lengths must be whole numbers"),
        (npz(x=np.zeros((2, 3, 1)), lengths=np.array([1])), "lengths must be whole numbers"),
        (npz(x=np.array(["a", "b"])), "sequence 1 of 'the data' is an array"),
        (npz(x=np.zeros((2, 3)), y=np.zeros(3)), "expected one for each of 2 sequences, got 3"),
        (npz(x=np.zeros((2, 3)), y=np.array([1, np.nan])), "sequence 2 of 'the data' has no label"),
        (npz(x=np.full((2, 3), np.inf)), "sequence 1 of 'the data' has an infinite value"),
        (npz(x=np.zeros((2, 3)))[:70], "is no readable .npz file"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(raw: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_sequences(raw, labelled=False)


def test_sequences_of_other_widths_are_refused() -> None:
    with pytest.raises(DataError, match="sequence 2 of 'the sequences' has 3 numbers in a step where the"):
        read_sequences([np.zeros((7, 2)), np.zeros((7, 3))], labelled=False)
    with pytest.raises(DataError, match="has 2 numbers in a step where the model has learnt from 3"):
        read_sequences([np.zeros((7, 2))], labelled=False, features=3)


def test_pickles_are_not_opened() -> None:
    with pytest.raises(DataError, match=r"is no readable \.npz file of plain arrays"):
        read_sequences(npz(x=np.array([{}, {}], dtype=object)), labelled=False)


def test_what_is_for_which_reader(tmp_path: Path) -> None:
    assert is_sequences("x.ts")
    assert is_sequences(tmp_path / "x.npz")
    assert is_sequences(TS.encode())
    assert is_sequences(npz(x=np.zeros(1)))
    assert is_sequences(Sequences((), None, np.zeros(0)))
    assert not is_sequences("x.csv")
    assert not is_sequences(b"text,label\n@data of ours,1\n")
    assert not is_sequences(["a text", "another"])
    assert not is_sequences([])
