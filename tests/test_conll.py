"""Readers of tagged sentences: every form, there and back, and the line of what cannot be read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pytest
from tag_samples import columns, sentences

from recurra.data.conll import read_tagged
from recurra.data.tagged import Tagged, with_tags
from recurra.errors import DataError

CONLLU = """# newdoc id = a
# sent_id = 1
1\tThe\tthe\tDET\tDT\t_\t2\tdet\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVB\t_\t0\troot\t_\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadv\t_\t_
3.1\tgone\t_\t_\t_\t_\t_\t_\t_\t_

# newdoc
# sent_id = 2
1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_
"""
CLASSIC = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
# # I-NP O

Peter NNP I-NP I-PER

-DOCSTART- -X- O O

# comment = 1
# a longer comment of more words
Rome NNP I-NP I-LOC"""


def words(data: Tagged) -> list[str]:
    return [" ".join(row) for row in data.words]


def test_columns_by_blanks_with_documents_and_comments() -> None:
    data = read_tagged(CLASSIC.encode())
    assert words(data) == ["EU #", "Peter", "Rome"]
    assert data.tags == (("I-ORG", "O"), ("I-PER",), ("I-LOC",))
    assert data.documents.tolist() == [0, 0, 1]
    assert [row.tolist() for row in data.lines] == [[3, 4], [6], [12]]
    assert read_tagged(CLASSIC.encode(), label=2).tags == (("NNP", "#"), ("NNP",), ("NNP",))
    assert read_tagged(CLASSIC.encode(), text=-1, label="1").words == data.tags


@pytest.mark.parametrize("between", [" ", "\t", "  \t "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_columns_there_and_back(between: str, end: str, tmp_path: Path) -> None:
    pairs = sentences(7)
    path = tmp_path / "x.conll.gz"
    path.write_bytes(gzip.compress(columns(pairs, between).replace("\n", end).encode("utf-8-sig")))
    data = read_tagged(path)
    assert [(list(w), list(t)) for w, t in zip(data.words, data.tags or (), strict=True)] == pairs
    again = read_tagged(with_tags(data, [["new"] * len(row) for row in data.words]).encode())
    assert again.words == data.words
    assert {tag for row in again.tags or () for tag in row} == {"new"}
    assert read_tagged(with_tags(data, data.words).encode(), label=3).tags == data.tags


def test_docstart_lines_keep_the_number_of_columns() -> None:
    data = read_tagged(CLASSIC.encode())
    text = with_tags(data, data.tags or ())
    assert {len(line.split()) for line in text.splitlines() if line and line.count("#") != 1} == {5}
    assert read_tagged(text.encode()).tags == data.tags


def test_words_of_odd_characters_stay_as_they_are() -> None:
    odd = ["\u3000", "\x85", "\u2028", "👩‍👩‍👧", "\x07", "a\u00a0b", "x" * (1 << 20)]
    text = "".join(f"{word}\tO\n" for word in odd)
    assert read_tagged(text.encode()).words == (tuple(odd),)


def test_conllu_by_name_and_filled_in() -> None:
    data = read_tagged(CONLLU.encode())
    assert words(data) == ["The do n't", "Yes"]
    assert data.tags == (("DET", "AUX", "PART"), ("INTJ",))
    assert data.documents.tolist() == [0, 1]
    other = read_tagged(CONLLU.encode(), text="lemma", label="XPOS")
    assert words(other) == ["the do not", "yes"]
    assert other.tags == (("DT", "VB", "RB"), ("UH",))
    text = with_tags(data, [["A", "B", "C"], ["D"]])
    assert read_tagged(text.encode()).tags == (("A", "B", "C"), ("D",))
    assert read_tagged(text.encode(), label="xpos").tags == other.tags
    assert text.count("\n") == CONLLU.count("\n")
    assert "2-3\tdon't\t_\t_" in text


def test_conllu_without_tags_has_none() -> None:
    bare = "1\tThe\t_\t_\t_\t_\t_\t_\t_\t_\n"
    assert read_tagged(bare.encode(), tagged=False).tags is None
    with pytest.raises(DataError, match="has words but no tags"):
        read_tagged(bare.encode())


def test_json_lines(tmp_path: Path) -> None:
    pairs = [*sentences(7), ([], [])]
    text = "\n".join(json.dumps({"id": 7, "tokens": w, "ner_tags": t}) for w, t in pairs)
    data = read_tagged(text.encode())
    assert [(list(w), list(t)) for w, t in zip(data.words, data.tags or (), strict=True)] == pairs
    again = with_tags(data, data.tags or ())
    assert [json.loads(line)["predicted"] for line in again.splitlines()] == [t for _, t in pairs]
    assert read_tagged(again.encode(), label="predicted").tags == data.tags
    assert read_tagged(b'{"words": ["a"]}', tagged=False).tags is None


def test_a_folder_of_utterances(tmp_path: Path) -> None:
    (tmp_path / "seq.in.gz").write_bytes(gzip.compress(b"to new york\n\nnow\n"))
    (tmp_path / "seq.out").write_text("O B-city I-city\n\nO\n")
    data = read_tagged(tmp_path)
    assert words(data) == ["to new york", "", "now"]
    assert data.tags == (("O", "B-city", "I-city"), (), ("O",))
    assert with_tags(data, data.tags) == "O B-city I-city\n\nO\n"
    assert read_tagged(tmp_path / "seq.in.gz", tagged=False).words == data.words
    (tmp_path / "seq.out").write_text("O O\n\nO\n")
    with pytest.raises(DataError, match=r"line 1 of .* has 3 words in seq.in and 2 tags in seq.out"):
        read_tagged(tmp_path)
    (tmp_path / "seq.out").write_text("O O O\n")
    with pytest.raises(DataError, match=r"seq.in of .* has 3 lines and seq.out 1"):
        read_tagged(tmp_path)
    (tmp_path / "seq.out").unlink()
    with pytest.raises(DataError, match=r"is a folder without seq.out"):
        read_tagged(tmp_path)


def test_lists() -> None:
    pairs = sentences(3)
    data = read_tagged(pairs)
    assert data.digest() == read_tagged([w for w, _ in pairs], [t for _, t in pairs]).digest()
    assert data.digest() != read_tagged(pairs[:2]).digest()
    assert read_tagged([w for w, _ in pairs], tagged=False).tags is None
    assert read_tagged([["two", "words"], []], tagged=False).words == (("two", "words"), ())
    assert data.take(np.array([2, 0])).words == (data.words[2], data.words[0])
    assert read_tagged(data) is data
    assert read_tagged(with_tags(data, data.tags or ()).encode()).tags == data.tags


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a X O\nb X\n",
            r"line 2 of 'the data' has 2 columns and the first line 3: 'b X'; expected the same",
        ),
        ("a O\n\nb\tX\tO\n", r"line 3 of 'the data' has 3 columns and the first line 2"),
        ("a\tO\n\tO\n", r"line 2 of 'the data' has an empty word"),
        ("a\tO\nb\t\n", r"line 2 of 'the data' has an empty tag"),
        ("a\nb\n", r"has 1 column, and words and tags are the same one"),
        ("", r"'the data' is empty; expected a word and its tag in each line"),
        (" \n\n", r"'the data' is empty"),
        ("# only = this\n", r"holds comments only"),
        ("-DOCSTART- O\n", r"has no sentences"),
        ('{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a"], "tags": []}', r"line 2 .* 1 word and 0 tags"),
        ('{"tokens": "a b", "tags": "O O"}', r"line 1 .* expected tokens as a list of strings, got 'a b'"),
        ('{"tokens": ["a"], "tags": [3]}', r"line 1 .* expected tags as a list of strings"),
        (
            '{"tokens": ["a"], "tags": ["x\\ty"]}',
            r"line 1 .* list of strings, without tabs and line breaks, got",
        ),
        ('{"tokens": ["a"], "tags": [" "]}', r"line 1 .* expected tags as a list of strings, without tabs"),
        (CONLLU.replace("2\tdo", "two\tdo"), r"line 5 of 'the data' begins with 'two'; expected the number"),
        ('{"tokens": ["a"]\n', r"line 1 of 'the data' is no JSON object \("),
        ('{"a": 1}', r"has objects of a; expected the words of a sentence as tokens or words"),
        ('{"tokens": ["a"], "tags": ["O"]}\n7', r"line 2 of 'the data' is no JSON object: '7'"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_tagged(text.encode())


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("Zoë O\n".encode("latin-1"), r"is not UTF-8 text: byte 2 in row 1 is 0xeb"),
        ("Zoë O\n".encode("utf-16-le"), r"is UTF-16 or UTF-32 text without its mark"),
        (b"PK\x03\x04rest", r"is an Excel workbook or zip archive"),
        (b"%PDF-1.7", r"a PDF document: .*; expected UTF-8 text with a word and its tag in each line"),
        (gzip.compress(b"a O\n")[:15], r"'the data' is a damaged gzip file"),
        (b"a O\n\0", r"is a binary file"),
    ],
)
def test_other_encodings_and_files_are_refused(raw: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_tagged(raw)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ([], r"has no sentences"),
        (["two words"], r"sentence 1: expected its words as a list of strings .* got 'two words'"),
        ([["a"], ["b", 7]], r"sentence 2: expected its words"),
        ([["a", ""]], r"sentence 1: expected its words as a list of strings that are not empty"),
        ([(["a"], ["O", "O"])], r"sentence 1 has 1 word and 2 tags"),
        (7, r"expected a path, .* got int"),
        ({"tokens": ["a"]}, r"expected a path, .* got dict"),
        (pd.DataFrame({"word": ["a"], "tag": ["O"]}), r"expected a path, .* got DataFrame"),
        (pl.DataFrame({"word": ["a"], "tag": ["O"]}).lazy(), r"expected a path, .* got LazyFrame"),
        ([{"tokens": ["a"]}], r"sentence 1: expected its words"),
        (
            [(["a"], ["B\n"])],
            r"sentence 1: expected its tags .*, without tabs and line breaks, got .*into tags",
        ),
    ],
)
def test_lists_that_are_no_sentences(source: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_tagged(source, tagged=False)


@pytest.mark.parametrize(
    "source",
    [
        np.array([["a", "b"], ["c", "d"]]),
        [np.array(["a", "b"]), np.array(["c", "d"])],
        pl.Series([["a", "b"], ["c", "d"]]),
        ((word for word in row) for row in ("ab", "cd")),
    ],
    ids=["array", "arrays", "series", "generators"],
)
def test_arrays_and_generators_are_lists_too(source: Any) -> None:
    assert read_tagged(source, tagged=False).words == (("a", "b"), ("c", "d"))
    assert read_tagged([["a", "b"]], np.array([["X", "Y"]])).tags == (("X", "Y"),)


def test_halves_of_characters_are_in_no_file() -> None:
    raw = b'{"tokens": ["a\\ud83d", "b"], "id": "\\udce9"}\n{"tokens": ["\\ud83d\\ude00"]}\n'
    data = read_tagged(raw, tagged=False)
    assert data.words == (("a\ufffd", "b"), ("😀",))
    assert read_tagged([["a\ud83d"]], [["x\ud83d"]]).tags == (("x\ufffd",),)
    again = with_tags(data, [["Ü", "O"], ["Ü"]]).encode()
    first, second = (json.loads(line) for line in again.decode().splitlines())
    assert first == {"tokens": ["a\ud83d", "b"], "id": "\udce9", "predicted": ["Ü", "O"]}
    assert again.count("Ü".encode()) == 1
    assert second == {"tokens": ["😀"], "predicted": ["Ü"]}


def test_packed_bytes_are_unpacked() -> None:
    assert read_tagged(gzip.compress(b"a O\n")).words == (("a",),)


def test_tags_that_need_not_be_there_may_be_empty() -> None:
    data = read_tagged(b"a\tNN\t\nb\tVB\tO\n", tagged=False)
    assert (data.words, data.tags) == ((("a", "b"),), None)
    assert with_tags(data, [["X", "Y"]]) == "a\tNN\t\tX\nb\tVB\tO\tY\n"
    with pytest.raises(DataError, match="line 2 of 'the data' has an empty word"):
        read_tagged(b"a\t\n\tO\n", tagged=False)


def test_sentences_in_lines_are_known_where_they_can_be_no_columns() -> None:
    plain = b"Ada wrote to Bob .\nBob wrote .\n"
    words = (("Ada", "wrote", "to", "Bob", "."), ("Bob", "wrote", "."))
    data = read_tagged(plain, tagged=False)
    assert (data.words, data.tags) == (words, None)
    assert with_tags(data, words) == plain.decode()
    assert read_tagged(b"Ada wrote", tagged=False).words == (("Ada", "wrote"),)
    assert read_tagged(b"Ada\n", tagged=False).words == (("Ada",),)
    with pytest.raises(DataError, match=r"line 2 .* by a blank line$"):
        read_tagged(plain)
    with pytest.raises(DataError, match=r"line 2 .* a whole sentence in each line must end in \.in$"):
        read_tagged(plain, tagged=False, lines=False)


@pytest.mark.parametrize(
    "raw",
    [b"Ada B-PER\nwrote O\n", b"Ada\tB-PER", b"# a comment of more words\nAda B-PER\nwrote O\n"],
    ids=["blanks", "tabs", "comment"],
)
def test_columns_are_no_sentences_in_lines(raw: bytes) -> None:
    assert read_tagged(raw, tagged=False).words[0][0] == "Ada"
    assert read_tagged(raw, tagged=False).tags is not None
    assert len(read_tagged(raw, tagged=False, lines=True)) == raw.removesuffix(b"\n").count(b"\n") + 1


def test_an_uneven_line_among_sentences_of_columns_is_refused() -> None:
    with pytest.raises(DataError, match=r"line 4 .* a whole sentence in each line must end in \.in$"):
        read_tagged(b"Ada NN\nwrote VB\n\nBob\n", tagged=False)
    with pytest.raises(DataError, match=r"line 2 .* has 1 column and the first line 2"):
        read_tagged(b"Ada NNP\nwrote\n. .\n", tagged=False)


def test_columns_that_are_not_there() -> None:
    with pytest.raises(
        DataError, match=r"has no column '5' for label; expected a number from 1 to 4: give one"
    ):
        read_tagged(CLASSIC.encode(), label=5)
    with pytest.raises(DataError, match=r"has no column 'word' for text; .* or one of id, form"):
        read_tagged(CONLLU.encode(), text="word")
    with pytest.raises(DataError, match=r"words and tags are the same one"):
        read_tagged(CLASSIC.encode(), text=4)
    with pytest.raises(DataError, match=r"text and label are both 'tokens'; name two different ones"):
        read_tagged(b'{"tokens": ["a"], "tags": ["O"]}', label="tokens")
    with pytest.raises(DataError, match=r"has no 'tag' for label; its objects have tokens"):
        read_tagged(b'{"tokens": ["a"]}', label="tag")
    with pytest.raises(DataError, match=r"there are 2 sentences and tags for 1"):
        read_tagged([["a"], ["b"]], [["O"]])
    with pytest.raises(DataError, match=r"there are 2 sentences and tags for 0"):
        read_tagged([["a"], ["b"]], 7)  # type: ignore[arg-type]
    assert read_tagged(b"a\n", label=4, tagged=False).tags is None


def test_a_path_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*none.conll"):
        read_tagged(tmp_path / "none.conll")


LETTERS = st.sampled_from('aB \t\n#-O\r{"}[]1_é\u2028')


@hypothesis.given(st.text(LETTERS, max_size=63) | st.binary(max_size=33))
@hypothesis.settings(max_examples=150)
def test_whatever_is_read_is_sentences_or_one_clear_error(content: str | bytes) -> None:
    raw = content.encode() if isinstance(content, str) else content
    try:
        data = read_tagged(raw, tagged=False)
    except DataError:
        return
    assert len(data) == len(data.lines) == len(data.documents)
    tags = [["T"] * len(row) for row in data.words]
    assert [len(row) for row in data.tags or tags] == [len(row) for row in data.words]
    written = with_tags(data, tags)
    comments = any(line.startswith("#") for line in written.splitlines())
    if data.form is not None and data.form.kind == "columns" and not comments:
        assert read_tagged(written.encode(), label=-1).tags == tuple(map(tuple, tags))
