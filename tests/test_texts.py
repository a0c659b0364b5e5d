"""Texts and labels come alike from every kind of file and frame; what cannot be read says why, and where."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recurra.data.texts import Texts, read_texts
from recurra.errors import ArgumentError, DataError, InputError

PAIRS = (
    ("good, really; a|b", "pos"),
    ('she said "no"\nand left', "neg"),
    ("  blanks are kept\u00a0 ", "pos"),
    ("😀 e\u0301 \u200d \x01\x7f 中文", "neg"),
    ("", "pos"),
    ("the end", "neg"),
)
PLAIN = tuple((text.replace("\n", " "), label) for text, label in PAIRS)


def separated(mark: str, pairs: Any = PAIRS, header: tuple[str, ...] | None = ("text", "label")) -> str:
    made = io.StringIO()
    writer = csv.writer(made, delimiter=mark, lineterminator="\n")
    writer.writerows([header, *pairs] if header else pairs)
    return made.getvalue()


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def both(found: Texts) -> tuple[tuple[str, str], ...]:
    assert found.labels is not None
    assert all(len(one) == 1 for one in found.labels)
    return tuple((text, one[0]) for text, one in zip(found.texts, found.labels, strict=True))


def refused(source: Any, *words: str, error: type[InputError] = DataError, **options: Any) -> None:
    """The refusal is one sentence and has each of the words."""
    with pytest.raises(error) as caught:
        read_texts(source, **options)
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said


FILES: dict[str, str] = {
    "a.csv": separated(","),
    "b.csv": separated(";"),
    "c.csv": separated("|"),
    "d.csv": separated("\t"),
    "quoted.tsv": separated("\t"),
    "e.jsonl": "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in PAIRS),
    "f.jsonl": "\n".join(json.dumps({"id": 1, "label": y, "text": t}, ensure_ascii=False) for t, y in PAIRS),
    "g.json": json.dumps([{"text": t, "label": y} for t, y in PAIRS], indent=1),
    "h.txt": separated("\t"),
    "i.txt": separated(","),
    "swapped.csv": separated(",", [(y, t) for t, y in PAIRS], ("Label", " Text ")),
    "other.csv": separated(",", [(7, y, t) for t, y in PAIRS], ("id", "sentiment", "review")),
}


@pytest.mark.parametrize("name", FILES)
def test_separated_text_and_json_give_the_same(tmp_path: Path, name: str) -> None:
    found = read_texts(file(tmp_path, name, FILES[name]))
    assert both(found) == PAIRS
    assert found.name == name
    assert found.notes == ("1 text is empty.",)
    assert len(found) == len(PAIRS) == len(found.rows)
    assert read_texts(str(tmp_path / name)).digest() == found.digest()


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-8"])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "h.txt", "e.jsonl"])
def test_line_ends_and_marks_of_order_change_nothing(
    tmp_path: Path, name: str, end: str, coding: str
) -> None:
    content = FILES[name].replace("\n", end).encode(coding)
    assert both(read_texts(file(tmp_path, name, content))) == PAIRS


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["quoted.tsv", "b.csv", "e.jsonl"])
def test_packed_files_are_unpacked(tmp_path: Path, name: str, packed: Callable[[bytes], bytes]) -> None:
    raw = packed(FILES[name].encode())
    path = file(tmp_path, f"{name}.{ {31: 'gz', 66: 'bz2', 253: 'xz'}[raw[0]] }", raw)
    assert both(read_texts(path)) == PAIRS
    assert both(read_texts(raw)) == PAIRS
    refused(file(tmp_path, "broken.csv", raw[: len(raw) // 2]), "'broken.csv'", "damaged", "again")


def test_rows_are_those_that_an_editor_shows(tmp_path: Path) -> None:
    found = read_texts(file(tmp_path, "a.csv", FILES["a.csv"]))
    assert found.rows.tolist() == [2, 3, 5, 6, 7, 8]  # the second text has two lines
    spaced = read_texts(b"text,label\n\na,x\n , \n,\nb,y\n\n")
    assert (both(spaced), spaced.rows.tolist()) == ((("a", "x"), ("b", "y")), [3, 6])


def test_stray_quotes_in_tabbed_files_are_letters() -> None:
    rows = [('"ok" she said', "a"), ('5" pipe', "b"), ('"', "a"), ('""', "b"), ('he said "no"', "a")]
    raw = "\n".join(f"{text}\t{label}" for text, label in rows).encode()
    assert both(read_texts(raw)) == tuple((text if text != '""' else "", label) for text, label in rows)
    assert both(read_texts(b'"a ""b"" c"\tx\nd\ty\n')) == (('a "b" c', "x"), ("d", "y"))


def test_fasttext_lines(tmp_path: Path) -> None:
    raw = "\n__label__a __label__b  two , blanks\n__label__b\ttab\n\n__label__c\n"
    raw += "__label__a __label__a x __label__b\n"
    found = read_texts(file(tmp_path, "train.txt", raw))
    assert found.texts == (" two , blanks", "tab", "", "x __label__b")
    assert found.labels == (("a", "b"), ("b",), ("c",), ("a",))
    assert found.rows.tolist() == [2, 3, 5, 6]
    refused(b"__label__a x\nno label here\n", "row 2", "no label", "__label__NAME")
    refused(b"__label__a x\n__label__ y\n", "row 2", "no label")
    refused(raw.encode(), "no columns", label="stars")


def test_a_folder_for_each_label(tmp_path: Path) -> None:
    for label, texts in (("neg", ["bad\n", "worse"]), ("pos", ["good, \x01"])):
        (tmp_path / label).mkdir()
        for number, text in enumerate(texts):
            file(tmp_path / label, f"{number}.txt", text)
        file(tmp_path / label, "notes.md", "not read")
    assert both(read_texts(tmp_path)) == (("bad\n", "neg"), ("worse", "neg"), ("good, \x01", "pos"))
    refused(tmp_path, "no columns", text="text")
    file(tmp_path / "pos", "9.txt", b"\xff")
    refused(tmp_path, "9.txt", "not UTF-8", "row 1")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "folder without texts", "name that")


def frames() -> dict[str, Any]:
    columns = {"text": [t for t, _ in PAIRS], "label": [y for _, y in PAIRS]}
    panda, polar = pd.DataFrame(columns), pl.DataFrame(columns)
    return {
        "pandas": panda,
        "objects": panda.astype(object),
        "categories": panda.astype({"label": "category"}),
        "index": panda.set_index(pd.Index([9, 9, 7, 1, 0, 0])),
        "more": panda.assign(id=1.5, list=[[1]] * len(panda)),
        "numbered": panda.rename(columns={"text": 0, "label": 1}),
        "polars": polar,
        "lazy": polar.lazy(),
        "enum": polar.with_columns(pl.col("label").cast(pl.Categorical)),
        "arrow": pa.table(columns),
        "dictionary": pa.table({**columns, "label": pa.array(columns["label"]).dictionary_encode()}),
    }


@pytest.mark.parametrize("kind", frames())
def test_frames_give_the_same(tmp_path: Path, kind: str) -> None:
    frame = frames()[kind]
    found = read_texts(frame)
    assert both(found) == PAIRS
    assert found.rows.tolist() == list(range(1, len(PAIRS) + 1))
    if isinstance(frame, pl.DataFrame):
        frame.write_parquet(tmp_path / "t.parquet")
        frame.write_parquet(tmp_path / "t.bin")
        assert both(read_texts(tmp_path / "t.parquet")) == both(read_texts(tmp_path / "t.bin")) == PAIRS
        assert read_texts(tmp_path / "t.parquet").name == "t.parquet"
        assert both(read_texts((tmp_path / "t.bin").read_bytes())) == PAIRS


def test_lists_and_series() -> None:
    texts, labels = [t for t, _ in PAIRS], [y for _, y in PAIRS]
    assert both(read_texts(texts, labels)) == PAIRS
    assert both(read_texts(iter(texts), np.array(labels))) == PAIRS
    assert both(read_texts(np.array(texts), (y for y in labels))) == PAIRS
    assert all(type(text) is str for text in read_texts(np.array(texts), labels).texts)
    for series in (pd.Series(texts), pl.Series("x", texts)):
        assert read_texts(series, labelled=False).texts == tuple(texts)
    assert read_texts(texts, labelled=False).labels is None
    found = read_texts(["a", "b", "c"], [["x", " y "], {"b", "a", "c"}, np.array(["x", "x"])])
    assert found.labels == (("x", "y"), ("a", "b", "c"), ("x",))
    assert read_texts(found) is found
    part = found.take(np.array([2, 0]))
    assert (part.texts, part.labels, part.rows.tolist()) == (("c", "a"), (("x",), ("x", "y")), [3, 1])
    assert part.digest() != found.digest() == read_texts(found.texts, found.labels).digest()


@pytest.mark.parametrize(
    ("raw", "header"),
    [
        ("review,stars\na,1\nb,2\nc,1\n", True),  # a known name
        ("phrase,stars\na,1\nb,2\nc,1\n", True),  # numbers below a word
        ("phrase,mood\n" + "a b c d,up\ne f g h,down\n" * 5, True),  # repeated below, but not there
        ("one of the texts,up\n" + "a b c d,up\ne f g h,down\n" * 5, False),
        ("a,1\nb,2\nc,1\n", False),
        ("are you there?,question\nI am,statement\nwho,question\n", False),  # a known name is a label here
        ("only,one\n", False),
        ("phrase,mood\na,up\nb,down\n", False),  # too few rows to tell
    ],
)
def test_a_line_of_names_is_told_from_data(raw: str, header: bool) -> None:
    found = read_texts(raw.encode())
    assert len(found) == raw.count("\n") - header
    assert found.rows[0] == 1 + header
    assert header == (not found.notes)
    if not header:
        assert "texts are in column 1, labels in column 2" in found.notes[0]


def test_the_label_is_the_column_with_fewer_values() -> None:
    assert both(read_texts(b"x\ta b\ny\tc d\nx\te f\n")) == (("a b", "x"), ("c d", "y"), ("e f", "x"))
    lists = pl.DataFrame({"u": [["x"], ["x"], ["y"]], "v": ["a", "b", "c"]})
    assert read_texts(lists).labels == (("x",), ("x",), ("y",))


def test_columns_by_name_and_number() -> None:
    raw = b"id,says,who\n1,a,x\n2,b,y\n3,c,x\n"
    expected = (("a", "x"), ("b", "y"), ("c", "x"))
    assert both(read_texts(raw, text="says", label="who")) == expected
    assert both(read_texts(raw, text=2, label=3)) == expected
    assert both(read_texts(raw, text="2", label="who")) == expected
    assert both(read_texts(b"1,a,x\n2,b,y\n3,c,x\n", text=2, label=3)) == expected
    assert both(read_texts(b"text,2\na,x\nb,y\nc,x\n", label="2")) == expected
    assert both(read_texts(pd.DataFrame({5: list("xyx"), 6: list("abc")}), text="6")) == expected
    assert both(read_texts(raw, text="says", label="id"))[0] == ("a", "1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": "say", "label": "who"}, ["no column 'say' for text", "id, says, who", "--text"]),
        ({"text": "says", "label": 4}, ["no column '4' for label", "--label"]),
        ({"text": "says", "label": 0}, ["no column '0'"]),
        ({"text": "says", "label": "²"}, ["no column '²'"]),
        ({"text": "says", "label": "says"}, ["same column", "two different"]),
        ({}, ["id, says, who", "text, sentence", "--text"]),
        ({"text": "says"}, ["no labels", "--label"]),
    ],
)
def test_columns_that_are_not_there(options: dict[str, Any], words: list[str]) -> None:
    refused(b"id,says,who\n1,a,x\n2,b,y\n", *words, **options)
    refused(pl.DataFrame({"id": [1, 2], "says": ["a", "b"], "who": ["x", "y"]}), *words, **options)


def test_several_labels_of_a_text() -> None:
    raw = b"text,label\na,x; y\nb,;\nc,y;y\n"
    assert read_texts(raw, between=";").labels == (("x", "y"), (), ("y",))
    assert read_texts(raw).labels == (("x; y",), (";",), ("y;y",))
    lines = b'{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": []}\n{"text": "c", "label": "z"}\n'
    assert read_texts(lines).labels == (("x", "y"), (), ("z",))
    refused(raw, "between", "leave it out", error=ArgumentError, between="")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1, 0, 1], ["1", "0", "1"]),
        ([1.0, 0.0, 1.0], ["1", "0", "1"]),
        ([1, 1.0, -2], ["1", "1", "-2"]),
        (["1.0", "0", "01.00"], ["1", "0", "01"]),
        ([1.5, 1.0, 2.0], ["1.5", "1.0", "2.0"]),
        (["v1.0", "1.0", "2"], ["v1.0", "1.0", "2"]),
        ([float("inf"), 1.0, 2.0], ["inf", "1.0", "2.0"]),
        ([True, False, True], ["True", "False", "True"]),
        ([np.float32(3), np.int8(1), "2"], ["3", "1", "2"]),
    ],
)
def test_whole_numbers_are_the_same_labels_from_everywhere(given: list[Any], expected: list[str]) -> None:
    assert [one[0] for one in read_texts(list("abc"), given).labels or ()] == expected
    raw = "text,label\n" + "".join(f"{t},{y}\n" for t, y in zip("abc", given, strict=True))
    assert [one[0] for one in read_texts(raw.encode()).labels or ()] == expected


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("a.csv", b"", ["empty"]),
        ("a.csv", b" \n\n\t\n", ["empty"]),
        ("a.csv", b",\n,\n", ["empty"]),
        ("a.jsonl", b"\n", ["empty"]),
        ("a.jsonl", b"[]", ["no rows"]),
        ("a.jsonl", b"{}\n{}\n", ["no rows with anything"]),
        ("a.csv", b"text,label\n", ["header but no rows"]),
        ("a.csv", b"text\na\nb\n", ["no labels", "--label"]),
        ("a.txt", b"just a text\nand one more\n", ["no labels"]),
        ("a.csv", b"text,label\na,x\nb,\n", ["row 3", "no label", "remove"]),
        ("a.csv", b"text,label\na,x\nb,  \n", ["row 3", "no label"]),
        ("a.jsonl", b'{"text":"a","label":"x"}\n\n{"text":"b"}\n', ["row 3", "no label"]),
        ("a.jsonl", b'{"text":"a","label":"x"}\n{"text":"b","label":null}\n', ["row 2", "no label"]),
        ("a.jsonl", b'{"text":"a","label":NaN}\n', ["row 1", "no label"]),
        ("a.jsonl", b'{"text":"a","label":"x"}\n{"text":\n', ["row 2", "no JSON", "correct the row"]),
        ("a.jsonl", b'{"text":"a","label":"x"}\n["b"]\n', ["row 2", "['b']", "an object"]),
        ("a.jsonl", b'{"text":["a"],"label":"x"}\n', ["row 1", "as text", "list"]),
        ("a.jsonl", b'{"text":"a","label":{"b":1}}\n', ["row 1", "as label", "dict"]),
        ("a.json", b'[{"text":"a","label":"x"},\n{"text"]', ["no readable JSON", "row 2"]),
        ("a.json", b"[" * 99_999, ["no readable JSON"]),
        ("a.jsonl", b'{"text":' * 99_999, ["row 1", "no JSON"]),
        ("a.jsonl", b'{"text":"a","label":' + b"9" * 5000 + b"}", ["row 1", "no JSON"]),
        ("a.txt", b'{\n "text": "a"}', ["row 1", "no JSON"]),
        ("a.csv", b"text,label\na,x\nb,y,z\nc,x\n", ["row 3", "3 columns", "first has 2"]),
        ("a.csv", b"text;label\na, b;x\nb\nc;y\n", ["row 3", "1 column ", "first has 2", "';'"]),
        ("a.tsv", b"a\tx\nb\ty\nc\n", ["row 3", "1 column ", r"'\t'"]),
        ("a.txt", b"a\tx\nb\ty\nc\n", ["row 3", "1 column "]),
        ("a.csv", b'text,label\n"a\nb",x\n"c,y\nd,x\n', ["row 4", "quotation marks"]),
        ("a.csv", b'text,label\na,x\n"b" c,y\n', ["row 3", "quotation marks"]),
        ("a.csv", "text,label\na,x\nü,y\n".encode("latin-1"), ["row 3", "not UTF-8", "0xfc", "iconv"]),
        ("a.csv", "text,label\rü,y\r".encode("latin-1"), ["row 2", "not UTF-8"]),
        ("a.csv", "text,label\na,x\n".encode("utf-16-le"), ["UTF-16", "without its mark"]),
        ("a.csv", b"\xff\xfea", ["UTF-16", "damaged"]),
        ("a.csv", b"text,label\na\0b,x\n", ["binary", "byte 12 is zero"]),
        ("a.csv", bytes(range(256)), ["binary"]),
        ("a.csv", b"PK\x03\x04\0\0", ["Excel workbook"]),
        ("a.csv", b"\x1f\x8b\x08\x00broken", ["damaged gzip"]),
        ("a.csv", b"BZhbroken", ["damaged bzip2"]),
        ("a.parquet", b"text,label\na,x\n", ["Parquet", "damaged"]),
        ("a.csv", b"PAR1 broken", ["Parquet", "damaged"]),
        ("a.csv", b"text,text,label\na,b,x\n", ["'text' twice", "rename"]),
        ("a.csv", b"text,label,label\na,b,x\n", ["'label' twice", "as a number"]),
        ("a.csv", b"a,b,c\nd,e,f\n", ["3 without names", "--text"]),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, raw: bytes, words: list[str]) -> None:
    refused(file(tmp_path, name, raw), f"'{name}'", *words)


def test_paths_that_are_refused(tmp_path: Path) -> None:
    file(tmp_path, "reviews.csv", FILES["a.csv"])
    refused(tmp_path / "review.csv", "no file", "did you mean 'reviews.csv'")
    refused("\0", "no file")
    refused("~nobody-of-this-name/x.csv", "home", "whole path")
    refused("x" * 5000, "cannot be read", "name too long")


@pytest.mark.parametrize(
    ("source", "labels", "words"),
    [
        (7, None, ["path, a list of texts or a frame", "int"]),
        ({"text": ["a"]}, None, ["dict"]),
        (np.array("a"), None, ["ndarray"]),
        (np.array([["a"]]), None, ["ndarray"]),
        (["a", 7], ["x", "y"], ["'7'", "list of strings"]),
        (["a", None], ["x", "y"], ["'None'", "list of strings"]),
        ([], [], ["no rows"]),
        (["a"], None, ["no labels"]),
        (["a", "b"], ["x"], ["2 texts", "got 1"]),
        (["a", "b"], "xy", ["list with one for each text", "'xy'"]),
        (["a", "b"], 7, ["list with one for each text"]),
        (["a", "b"], ["x", None], ["row 2", "no label"]),
        (["a", "b"], ["x", b"y"], ["row 2", "bytes"]),
        (pd.DataFrame({"text": ["a", "b"], "label": ["x", None]}), None, ["row 2", "no label"]),
        (pd.DataFrame({"text": ["a", "b"], "label": [1, np.nan]}), None, ["row 2", "no label"]),
        (pl.DataFrame({"text": ["a", "b"], "label": [1.0, float("nan")]}), None, ["row 2", "no label"]),
        (pl.DataFrame({"text": [b"a"], "label": ["x"]}), None, ["row 1", "as text", "bytes"]),
        (pl.DataFrame({"text": [["a"]], "label": ["x"]}), None, ["row 1", "as text", "list"]),
        (pd.DataFrame([["a", "b", "x"]], columns=["text", "text", "label"]), None, ["different names"]),
        (pd.DataFrame(), None, ["no columns"]),
        (pl.DataFrame({"text": [], "label": []}), None, ["no rows"]),
    ],
)
def test_lists_and_frames_that_are_refused(source: Any, labels: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read_texts(source, labels)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_labels_belong_to_lists() -> None:
    for source in (
        b"text,label\na,x\n",
        pl.DataFrame({"text": ["a"], "label": ["x"]}),
        read_texts(["a"], ["x"]),
    ):
        with pytest.raises(ArgumentError, match="labels: expected none beside a"):
            read_texts(source, ["y"])


def test_texts_without_labels(tmp_path: Path) -> None:
    prose = "Call me Ishmael.\n\nSome years ago, never mind how long,\nhaving little; no | money\n"
    found = read_texts(file(tmp_path, "a.txt", prose), labelled=False)
    assert found.texts == tuple(line for line in prose.split("\n") if line)
    assert (found.labels, found.rows.tolist()) == (None, [1, 3, 4])
    assert read_texts(b"Hello, world", labelled=False).texts == ("Hello, world",)
    assert read_texts(file(tmp_path, "b.csv", 'text\n"a, b"\n""\nc\n'), labelled=False).texts == (
        "a, b",
        "",
        "c",
    )
    assert read_texts(pd.DataFrame({"anything": ["a", None]}), labelled=False).texts == ("a", "")
    # the label column of data to be predicted may be there, in part, or not at all
    assert read_texts(FILES["a.csv"].encode(), labelled=False).labels is not None
    assert read_texts(b"text,label\na,x\nb,\n", labelled=False).labels is None
    assert read_texts(b"text,label\na,\nb,\n", labelled=False).texts == ("a", "b")
    assert read_texts(b"id,text\n1,a\n2,b\n", labelled=False).labels is None
    assert read_texts(b'{"text": "a"}', labelled=False).texts == ("a",)


def test_long_lines_and_strange_letters(tmp_path: Path) -> None:
    long = "word, " * 200_000
    assert both(read_texts(f'text,label\n"{long}",x\nb,y\n'.encode()))[0] == (long, "x")
    assert both(read_texts(file(tmp_path, "a.tsv", f"{long}\tx\nb\ty\n")))[0] == (long, "x")
    limit = csv.field_size_limit()
    assert limit < 1_000_000  # reading has put it back
    found = read_texts(b'{"text": "\\ud83d\\ude00 \\ud800!", "label": "\\udfff"}')
    assert both(found) == (("😀 \ufffd!", "\ufffd"),)
    found.digest()
    assert read_texts("a\u2028b\x85c\x0cd\tx\ne\ty\n".encode()).texts == ("a\u2028b\x85c\x0cd", "e")


def test_notes_say_what_is_empty() -> None:
    assert read_texts(["a", " ", ""], list("xyx")).notes == ("2 texts are empty.",)
    assert read_texts(["a"], ["x"]).notes == ()


GOOD = [*(text.encode() for text in FILES.values()), b"__label__a b\n__label__c d\n", b"a line\nand one\n"]
SPLICES = st.sampled_from(
    [b'"', b",", b"\t", b"\n", b"\r", b"\0", b"[", b"{", b"}", b"\xff", b"__label__", b"PAR1",
     b"\xef\xbb\xbf", b"\x1f\x8b", b"text", b"null", b"\xed\xa0\x80", b"1e999", b"\\ud800", b" ", b""]
)  # fmt: skip


@settings(max_examples=150)
@given(
    raw=st.sampled_from(GOOD) | st.binary(max_size=99),
    cuts=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 9), SPLICES | st.binary(max_size=3)), max_size=4
    ),
    ending=st.sampled_from(["", "csv", "tsv", "txt", "jsonl", "json"]),
    labelled=st.booleans(),
    text=st.sampled_from([None, None, 1, "text"]),
)
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, cuts: Any, ending: str, labelled: bool, text: Any
) -> None:
    for start, length, put in cuts:
        raw = raw[:start] + put + raw[start + length :]
    path = tmp_path_factory.getbasetemp() / f"fuzz.{ending}"
    path.write_bytes(raw)
    try:
        found = read_texts(path, labelled=labelled, text=text)
    except DataError as problem:
        said = str(problem)
    else:
        said = ""
    assert "\n" not in said
    if said:
        return
    assert len(found) == len(found.rows) > 0
    assert found.labels is None or len(found.labels) == len(found)
    for one in found.texts:
        one.encode()
    found.digest()


def test_damaged_parquet_is_read_or_refused(seed: int) -> None:
    made = io.BytesIO()
    pl.DataFrame({"text": [t for t, _ in PAIRS], "label": [y for _, y in PAIRS]}).write_parquet(made)
    rng = np.random.default_rng(seed)
    for _ in range(63):
        raw = bytearray(made.getvalue())
        for place in rng.integers(4, len(raw), 3):
            raw[place] = rng.integers(256)
        said = ""
        try:
            assert len(read_texts(bytes(raw))) > 0
        except DataError as problem:
            said = str(problem)
        assert "\n" not in said
