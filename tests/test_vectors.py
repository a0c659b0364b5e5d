"""Vectors of words come from files of every writer, and the line that cannot be read is named."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurra.data.vectors import read_vectors
from recurra.errors import ArgumentError, DataError

GLOVE = (
    "the 0.5 -1 1e-3\n, 1 2 3\nünï 4 5 6\n. . . 7 8 9\n中文 10 11 12\nParis 1 1 1\nparis 2 2 2\nthe 9 9 9\n"
)
WORDS = ["中文", "the", "nowhere", ". . .", "ünï", "the", ","]
EXPECTED = [[10, 11, 12], [0.5, -1, 1e-3], [0, 0, 0], [7, 8, 9], [4, 5, 6], [0.5, -1, 1e-3], [1, 2, 3]]
FILES = {
    "glove.txt": GLOVE,
    "word2vec.txt": f"8 3\n{GLOVE}",
    "fasttext.vec": "8 3\n" + GLOVE.replace("\n", " \n"),
    "windows.txt": GLOVE.replace("\n", "\r\n"),
    "tabs.txt": "".join("\t".join(line.rsplit(" ", 3)) + "\n" for line in GLOVE.splitlines()),
    "mark.txt": "\ufeff" + GLOVE,
    "unfinished.txt": GLOVE.removesuffix("\n"),
    "blank.txt": GLOVE + "\n\n",
}
PACKED: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress]


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_vectors(path, ["the", "end"])
    said = str(caught.value)
    assert "\n" not in said
    for word in (path.name, *words):
        assert word in said, said


@pytest.mark.parametrize("name", FILES)
def test_files_of_every_writer_give_the_same(tmp_path: Path, name: str) -> None:
    vectors, found = read_vectors(file(tmp_path, name, FILES[name]), WORDS)
    np.testing.assert_array_equal(vectors, np.array(EXPECTED, np.float32))
    assert found.tolist() == [True, True, False, True, True, True, True]
    assert (vectors.dtype, found.dtype) == (np.float32, np.bool_)
    again, _ = read_vectors(str(tmp_path / name), WORDS)
    np.testing.assert_array_equal(again, vectors)


@pytest.mark.parametrize("packed", PACKED)
def test_packed_files_are_unpacked(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    raw = packed(GLOVE.encode() * 99)
    vectors, _ = read_vectors(file(tmp_path, "glove.txt.packed", raw), WORDS)
    np.testing.assert_array_equal(vectors, np.array(EXPECTED, np.float32))
    refused(file(tmp_path, "half.gz", raw[: len(raw) // 2]), "damaged", "download it again")
    broken = bytearray(raw)
    broken[len(raw) // 2] ^= 255
    refused(file(tmp_path, "flipped.gz", bytes(broken)))


def test_small_letters_help_out(tmp_path: Path) -> None:
    path = file(tmp_path, "glove.txt", "PARIS 1\nParis 2\nthe 3\nİ 4\n")
    words = ["paris", "Paris", "The", "THE", "the", "i̇", "rome"]
    vectors, found = read_vectors(path, words, lower=True)
    assert vectors[:, 0].tolist() == [1, 2, 3, 3, 3, 4, 0]
    assert found.tolist() == [True] * 6 + [False]
    vectors, found = read_vectors(path, words)
    assert vectors[:, 0].tolist() == [0, 2, 0, 0, 3, 0, 0]
    # a word itself comes before one that is alike, wherever it stands
    assert read_vectors(file(tmp_path, "a.txt", "PARIS 1\nparis 2\n"), ["paris"], lower=True)[0] == 2


def test_the_first_line_may_hold_a_word_with_blanks_or_a_number(tmp_path: Path) -> None:
    for first in ("a b 1 2 3\n", "7 1 2 3\n", "7 8 1 2 3\n"):
        word = first.rsplit(" ", 3)[0]
        path = file(tmp_path, "a.txt", f"{first}the 4 5 6\n")
        if word == "7 8":
            refused(path, "line 2", "3 numbers", "first has 4")
        else:
            vectors, _ = read_vectors(path, [word, "the"])
            assert vectors.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_no_words_and_one_string(tmp_path: Path) -> None:
    path = file(tmp_path, "glove.txt", GLOVE)
    vectors, found = read_vectors(path, [])
    assert (vectors.shape, found.shape) == ((0, 3), (0,))
    with pytest.raises(
        ArgumentError, match="words: expected several, got one string, 'the'; put it in a list"
    ):
        read_vectors(path, "the")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", ["no vectors", "a word and its numbers"]),
        (b"\n\n", ["line 1", "a word and its numbers"]),
        (b"0 3\n", ["no vectors"]),
        (b"3 2\nthe 1 2\nend", ["line 3", "0 numbers"]),
        (b"3 2\nthe 1 2\na 3 4\n", ["2 words", "first line says 3", "again"]),
        (b"3 0\nthe\n", ["line 1", "how many words"]),
        (b"3 99999999999999999999\n", ["line 1", "how many words"]),
        (b"the 1 2\na 3\n", ["line 2", "1 number ", "first has 2", "correct the line"]),
        (b"the\n", ["line 1", "'the'"]),
        (b"text,label\na,b\n", ["line 1", "a word and its numbers"]),
        (b"a 1 2\nthe 3 x\n", ["line 2", "finite numbers", "'the'", "'3 x'"]),
        (b"a 1 2\nthe 3 nan\n", ["line 2", "finite numbers"]),
        (b"a 1 2\nthe 3 1e99\n", ["line 2", "finite numbers"]),
        (b"a 1 2\nthe  3\n", ["line 2", "finite numbers"]),
        (
            "a 1 2\nthe 3 4\nü 5 6\n".encode("latin-1"),
            ["line 3", "0xfc", "UTF-8", "binary files are not read"],
        ),
        ("the 1 2\n".encode("utf-16"), ["UTF-16", "save it as such"]),
        (b"PK\x03\x04glove", ["zip archive", "unpack", "a word and its numbers"]),
        (b"2 2\nthe \x00\x00\x80\x3f\xff\xff", ["line 2", "binary files are not read"]),
        (b"a" * 3_000_000, ["line 1", "over a million bytes"]),
    ],
)
def test_files_that_are_refused(tmp_path: Path, raw: bytes, words: list[str]) -> None:
    refused(file(tmp_path, "glove.txt", raw), *words)


def test_paths_that_are_refused(tmp_path: Path) -> None:
    file(tmp_path, "glove.txt", GLOVE)
    refused(tmp_path / "globe.txt", "no file", "did you mean 'glove.txt'")
    refused(tmp_path, "folder", ".txt .vec")
    refused(Path("~nobody-of-this-name/x.vec"), "home", "whole path")


def test_reading_ends_with_the_last_word_and_keeps_little(tmp_path: Path) -> None:
    numbers = " ".join(["0.125"] * 100)
    rows = "".join(f"word{place} {numbers}\n" for place in range(20_000))
    path = file(tmp_path, "large.txt", rows + "not a line of this file\n")
    tracemalloc.start()
    vectors, found = read_vectors(path, ["word19999", "word0"])  # the broken line is never reached
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.all()
    assert (vectors == 0.125).all()
    assert most < 1_000_000 < path.stat().st_size / 10


@given(st.binary(max_size=99), st.integers(0, 140), st.booleans())
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, put: bytes, start: int, lower: bool
) -> None:
    raw = FILES["word2vec.txt"].encode()
    path = tmp_path_factory.getbasetemp() / "damaged.vec"
    path.write_bytes(raw[:start] + put + raw[start + len(put) // 2 :])
    said = ""
    try:
        vectors, found = read_vectors(path, WORDS, lower=lower)
        assert np.isfinite(vectors).all()
        assert not vectors[~found].any()
    except DataError as problem:
        said = str(problem)
    assert "\n" not in said
