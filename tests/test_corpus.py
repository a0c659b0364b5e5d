"""Running text and lists of texts: read, split, turned into one stream of tokens, and refused with words."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rhymes import rhymes

from recurra.data.conll import read_tagged
from recurra.data.corpus import (
    END,
    Corpus,
    end_of,
    fit_tokenizer,
    read_corpus,
    start_of,
    stream,
    unknown_parts,
)
from recurra.errors import ArgumentError, DataError


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "noending"])
def test_a_file_is_one_running_text(tmp_path: Path, name: str) -> None:
    text = rhymes(7)
    raw = text.replace("\n", "\r\n").encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    found = read_corpus(str(tmp_path / name))
    assert found.texts == (text,)
    assert not found.listed


def test_several_files_follow_one_another(tmp_path: Path) -> None:
    for place, text in enumerate(("one\n", "two\n", "three")):
        (tmp_path / f"{place}.txt").write_text(text)
    paths = [tmp_path / f"{place}.txt" for place in range(3)]
    found = read_corpus(paths)
    assert found.texts == ("one\n", "two\n", "three")
    assert read_corpus(tmp_path).texts == found.texts
    assert found.name == "0.txt and 2 more"


def test_a_column_is_a_list_of_texts(tmp_path: Path) -> None:
    table = "title\tauthor\ttext\nA\tx\troses are red\nB\ty\t \nC\tz\tviolets are blue\n"
    (tmp_path / "poems.tsv").write_text(table)
    found = read_corpus(tmp_path / "poems.tsv")
    assert found.texts == ("roses are red", "violets are blue")
    assert found.listed
    assert found.notes == ("1 empty text left out.",)
    assert read_corpus(table.encode(), text="title").texts == ("A", "B", "C")
    frame = pl.DataFrame({"text": ["roses", "violets"], "n": [1, 2]})
    assert read_corpus(frame).texts == ("roses", "violets")
    assert read_corpus(["roses", "violets"]).listed


def test_a_tenth_is_held_back() -> None:
    text = rhymes(9)
    learnt, held = Corpus((text,), False).split()
    assert learnt.texts[0] + held.texts[0] == text
    assert len(learnt.texts[0]) == int(0.9 * len(text))
    learnt, held = Corpus(tuple("abcdefghijklm"), True).split()
    assert (len(learnt.texts), len(held.texts)) == (11, 2)


@pytest.mark.parametrize("corpus", [Corpus(("a",), False), Corpus(("a b c",), True)])
def test_too_little_to_hold_back(corpus: Corpus) -> None:
    with pytest.raises(DataError, match=r"too little to hold a tenth back; .*--valid"):
        corpus.split()


def test_lines_of_words_are_closed_and_running_characters_are_not() -> None:
    corpus = Corpus(("a b\n\nb a\n",), False)
    words = fit_tokenizer(corpus, "blank")
    numbers = stream(corpus, words)
    assert [words.tokens[n] for n in numbers] == ["a", "b", END, END, "b", "a", END]
    assert end_of(words) == start_of(words) == 2
    letters = fit_tokenizer(corpus, "character")
    assert letters.decode(stream(corpus, letters)) == corpus.texts[0]
    assert end_of(letters) is None
    assert letters.tokens[start_of(letters)] == "\n"


def test_texts_of_a_list_are_closed() -> None:
    corpus = Corpus(("ab", "ba"), True)
    letters = fit_tokenizer(corpus, "character")
    assert [letters.tokens[n] for n in stream(corpus, letters)] == ["a", "b", END, "b", "a", END]


def test_a_list_for_a_tokenizer_of_running_text_has_line_breaks_between() -> None:
    letters = fit_tokenizer(Corpus(("ab\n",), False), "character")
    assert letters.decode(stream(Corpus(("ab", "ba"), True), letters)) == "ab\nba"


def test_a_text_without_line_breaks_begins_after_its_most_frequent_token() -> None:
    letters = fit_tokenizer(Corpus(("aaab",), False), "character")
    assert letters.tokens[start_of(letters)] == "a"


def test_rare_tokens_stand_for_the_unknown_where_there_are_many() -> None:
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 600)))
    letters = fit_tokenizer(Corpus((many + many[:33],), False), "character")
    assert len(letters) == 2 + 33
    assert len(fit_tokenizer(Corpus(("abc",), False), "character")) == 2 + 3
    # where every word is rare, all are kept
    assert len(fit_tokenizer(Corpus(("one two",), False), "word")) == 3 + 2
    assert unknown_parts(many[30:36], letters) == list(many[33:36])


def test_the_digest_knows_texts_and_their_borders() -> None:
    ways = [Corpus(("ab", "c"), True), Corpus(("a", "bc"), True), Corpus(("ab", "c"), False)]
    assert len({one.digest() for one in ways}) == 3
    assert Corpus(("ab", "c"), True).digest() == ways[0].digest()


def test_emoji_and_control_characters_are_kept() -> None:
    text = "tick\x07 \x1b[31m🙂\u200d🙂 \u00e9\n" * 3
    corpus = read_corpus(text.encode())
    letters = fit_tokenizer(corpus, "character")
    assert letters.decode(stream(corpus, letters)) == text


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is empty; expected"),
        (b" \n\t\n", "is empty; expected"),
        ("caf\u00e9".encode("latin-1") * 3, "is not UTF-8 text: byte 3 in row 1 is 0xe9; expected UTF-8"),
        (b"ab\0cd", "a binary file"),
        ("abcd".encode("utf-16-le"), "UTF-16"),
        (b"PK\x03\x04rest", "an Excel workbook or zip"),
    ],
)
def test_refuses_what_is_no_text(tmp_path: Path, raw: bytes, words: str) -> None:
    (tmp_path / "a.txt").write_bytes(raw)
    for source in (tmp_path / "a.txt", raw):
        with pytest.raises(DataError, match=words):
            read_corpus(source)


def test_packed_bytes_are_unpacked() -> None:
    assert read_corpus(gzip.compress(b"to be\n")).texts == ("to be\n",)
    with pytest.raises(DataError, match="'the data' is a damaged gzip file"):
        read_corpus(gzip.compress(b"to be\n")[:15])


def test_a_plain_file_has_no_column_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("to be\nor not\n")
    with pytest.raises(DataError, match="has no column 'poem' for text; it has to be: give one of these"):
        read_corpus(tmp_path / "a.txt", text="poem")
    assert read_corpus(tmp_path / "a.txt", text=1).texts == ("to be", "or not")
    (tmp_path / "a.txt").write_text("poem\nto be\nor not\n")
    assert read_corpus(tmp_path / "a.txt", text="poem").texts == ("to be", "or not")


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-of-this-name/a.txt"])
def test_paths_that_the_system_refuses(name: str) -> None:
    for source in (name, [Path(name)]):
        with pytest.raises(DataError, match=r"cannot be read: File name too long|a home folder that is not"):
            read_corpus(source)
    with pytest.raises(DataError, match=r"cannot be read: File name too long|a home folder that is not"):
        read_tagged(name)


def test_refuses_other_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        read_corpus(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"a folder without \.txt files"):
        read_corpus(tmp_path)
    with pytest.raises(DataError, match="has no rows"):
        read_corpus([])
    with pytest.raises(DataError, match="holds no text"):
        read_corpus([" ", ""])
    with pytest.raises(DataError, match="must be a path, a list of texts or a frame"):
        read_corpus(7)
    (tmp_path / "a.txt").write_text("plain")
    (tmp_path / "b.tsv").write_text("text\tn\nx\t1\ny\t2\n")
    with pytest.raises(DataError, match="partly plain text and partly tables"):
        read_corpus([tmp_path / "a.txt", tmp_path / "b.tsv"])
    with pytest.raises(ArgumentError, match="kind: expected one of"):
        fit_tokenizer(Corpus(("a",), False), "letters")


def test_a_megabyte_in_one_line() -> None:
    line = "abcdefgh " * 125_000
    corpus = read_corpus(line.encode())
    numbers = stream(corpus, fit_tokenizer(corpus, "character"))
    assert len(numbers) == len(line)
    assert np.bincount(numbers).max() == 125_000
