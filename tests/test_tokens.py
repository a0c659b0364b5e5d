"""Text becomes numbers and comes back, in every script; nothing is asked of a network."""

from __future__ import annotations

import copy
import json
import random
import socket
import string
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recurra.data.tokens import KINDS, PADDING, UNKNOWN, Tokenizer
from recurra.errors import ArgumentError, DataError

TEXTS = (
    "To be, or not to be: that is the question.",
    "The  slings\tand\narrows; don’t re-enter — it's 3.5%!",
    "我爱北京天安门，ラーメン ที่นี่ 한국어",
    "👩‍👩‍👧 ❤️ 3️⃣ 🇨🇭 e\u0301te\u0301 a\u200bb می\u200cخواهم",
    "",
    " \n",
    "<pad> <unk> <eos> [CLS] \x00\x01\x7f \ufeff \U0010ffff",
)
PLAIN = [kind for kind in KINDS if kind != "jieba"]
EXACT = ("character", "bpe")
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def fit(kind: str, **options: Any) -> Tokenizer:
    return Tokenizer.fit(TEXTS, kind, vocabulary=options.pop("size", 700), **options)


LEARNT = {kind: fit(kind) for kind in PLAIN}
NARROW = {kind: Tokenizer.fit(["ab ba"], kind, vocabulary=300) for kind in PLAIN}


def one(tokenizer: Tokenizer, text: str) -> np.ndarray:
    (numbers,) = tokenizer.encode([text])
    assert numbers.dtype == np.int64
    assert numbers.ndim == 1
    assert ((numbers > 0) & (numbers < len(tokenizer))).all()  # padding never comes from a text
    return numbers


@pytest.mark.parametrize("kind", EXACT)
def test_characters_and_bytes_come_back_as_they_were(kind: str) -> None:
    for text in TEXTS:
        assert LEARNT[kind].decode(one(LEARNT[kind], text)) == text
        assert "".join(LEARNT[kind].split(text)) == text


@settings(max_examples=99)
@given(ANY)
def test_no_text_is_unknown_to_bytes(text: str) -> None:
    for tokenizer in (LEARNT["bpe"], NARROW["bpe"]):
        numbers = one(tokenizer, text)
        assert tokenizer.unknown not in numbers
        assert tokenizer.decode(numbers) == text
        pieces = tokenizer.split(text)
        assert len(pieces) == len(numbers)
        assert "".join(pieces) == text


@settings(max_examples=60)
@given(ANY, st.sampled_from(PLAIN), st.booleans())
def test_every_token_has_its_number_or_is_unknown(text: str, kind: str, lower: bool) -> None:
    tokenizer = Tokenizer.fit(["to be 我 é", "ſİΣ"], kind, vocabulary=300, lower=lower)
    numbers, pieces = one(tokenizer, text), tokenizer.split(text)
    assert len(numbers) == len(pieces)
    if kind != "bpe":
        for number, piece in zip(numbers, pieces, strict=True):
            known = piece in tokenizer.tokens[1:]
            assert tokenizer.tokens[number] == (piece if known else UNKNOWN)
        (again,) = tokenizer.encode_words([pieces])
        assert again.tolist() == numbers.tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't re-enter, l’été 3.5%", ["don't", "re-enter", ",", "l’été", "3", ".", "5", "%"]),
        ("我爱abc天", ["我", "爱", "abc", "天"]),
        ("ラーメン", ["ラ", "ー", "メ", "ン"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("한국어 русский", ["한국어", "русский"]),
        ("❤️3️⃣ 👍🏽", ["❤️", "3️⃣", "👍", "🏽"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("می\u200cخواهم a\u200bb", ["می\u200cخواهم", "a", "b"]),
        ("'tis -x- snake_case", ["'", "tis", "-", "x", "-", "snake_case"]),
        ("<eos>...", ["<", "eos", ">", ".", ".", "."]),
        (" \t\n\u3000\u00a0", []),
        ("\x00\x07\ufeff\u200d", []),
    ],
)
def test_words_of_every_script(text: str, words: list[str]) -> None:
    tokenizer = Tokenizer.fit([text, "x"], "word")
    assert tokenizer.split(text) == words
    assert [tokenizer.tokens[number] for number in one(tokenizer, text)] == words
    assert tokenizer.decode(one(tokenizer, text)) == " ".join(words)


def test_blanks_alone_part_text_that_was_split_before() -> None:
    tokenizer = Tokenizer.fit(["New York , N.Y.\t<unk> <pad>\n"], "blank")
    assert tokenizer.split(" N.Y. , ") == ["N.Y.", ","]
    numbers = one(tokenizer, "York <unk> <pad> Rome")
    assert tokenizer.decode(numbers) == "York <unk> <unk> <unk>"  # no padding, although the text spells it


def test_the_most_frequent_stay_and_the_rest_is_unknown() -> None:
    text = ["b b b a a a c c d"]
    tokenizer = Tokenizer.fit(text, "word", vocabulary=5)
    assert tokenizer.tokens == (PADDING, UNKNOWN, "a", "b", "c")  # of one frequency by themselves
    assert (tokenizer.padding, tokenizer.unknown, len(tokenizer)) == (0, 1, 5)
    assert tokenizer.decode(one(tokenizer, "d b a z")) == "<unk> b a <unk>"
    assert Tokenizer.fit(text, "word", fewest=3).tokens[2:] == ("a", "b")
    assert Tokenizer.fit(text, "blank", vocabulary=3).tokens[2:] == ("a",)
    assert Tokenizer.fit(text, "character", fewest=3, vocabulary=4).tokens[2:] == (" ", "a")


def test_bytes_have_the_size_that_is_asked_for() -> None:
    text = [" ".join(random.choices(["low", "lower", "newest", "widest", "我"], k=99))]
    for size in (258, 263, 270):
        tokenizer = Tokenizer.fit(text, "bpe", vocabulary=size)
        assert len(tokenizer) == size
        assert tokenizer.tokens[:2] == (PADDING, UNKNOWN)
    rows = [len(one(Tokenizer.fit(text, "bpe", vocabulary=size), text[0])) for size in (258, 263, 270)]
    assert rows[0] == len(text[0].encode()) > rows[1] > rows[2]
    rare = Tokenizer.fit(["once upon a time", "ab ab ab"], "bpe", fewest=3)
    assert rare.tokens[258:] == ("ab",)  # " ab" comes twice only


def test_pieces_of_one_letter() -> None:
    tokenizer = NARROW["bpe"]
    assert tokenizer.split("a👍b") == ["a", "👍", "", "", "", "b"]
    assert "\ufffd" in tokenizer.decode(one(tokenizer, "👍")[:2])


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("lower", [False, True])
def test_small_letters(kind: str, lower: bool) -> None:
    tokenizer = Tokenizer.fit(["The ΟΔΟΣ İ"], kind, vocabulary=300, lower=lower)
    same = one(tokenizer, "THE").tolist() == one(tokenizer, "the").tolist()
    assert same == (lower or kind in ("word", "blank"))  # both unknown there
    assert (tokenizer.unknown in one(tokenizer, "The")) is False
    assert tokenizer.decode(one(tokenizer, "The")) == ("the" if lower else "The")
    assert (tokenizer.unknown in one(tokenizer, "ΟΔΟΣ")) is False
    back = Tokenizer.from_json(tokenizer.to_json())
    assert one(back, "THE").tolist() == one(tokenizer, "THE").tolist()
    if kind != "bpe":
        words = tokenizer.encode_words([["The", "ΟΔΟΣ"]])[0]
        assert (words == tokenizer.unknown).all() == (kind == "character")


@pytest.mark.parametrize("kind", PLAIN)
def test_marks_follow_padding_and_unknown(kind: str) -> None:
    tokenizer = fit(kind, marks=("<bos>", "<eos>"))
    assert tokenizer.tokens[:4] == (PADDING, UNKNOWN, "<bos>", "<eos>")
    text = "to and"
    numbers = [2, *one(tokenizer, text), 3, 0, 0]
    told = tokenizer.decode(numbers)
    if kind in EXACT:
        assert told == f"<bos>{text}<eos>"
        spelt = set(one(tokenizer, "<eos><bos>").tolist())
        assert not {0, 2, 3} & spelt  # marks come from the caller, never from a text
    else:
        assert told == "<bos> to and <eos>"
    assert Tokenizer.from_json(tokenizer.to_json()).tokens == tokenizer.tokens


@pytest.mark.parametrize("kind", PLAIN)
def test_all_of_it_fits_in_a_model_file(kind: str) -> None:
    tokenizer = fit(kind, marks=("<eos>",), lower=kind == "word")
    document = tokenizer.to_json()
    written = json.dumps(document)
    again = Tokenizer.from_json(json.loads(written))
    assert json.dumps(again.to_json()) == written
    assert (again.kind, again.tokens, len(again)) == (kind, tokenizer.tokens, len(tokenizer))
    for one_row, other in zip(tokenizer.encode(TEXTS), again.encode(TEXTS), strict=True):
        np.testing.assert_array_equal(one_row, other)
        assert again.decode(other) == tokenizer.decode(one_row)
    assert [again.split(text) for text in TEXTS] == [tokenizer.split(text) for text in TEXTS]


@pytest.mark.parametrize("kind", PLAIN)
def test_the_same_texts_in_any_order_give_the_same_tokens(kind: str) -> None:
    texts = ["".join(random.choices(string.ascii_letters[:9] + "  ", k=33)) for _ in range(63)]
    first = Tokenizer.fit(texts, kind, vocabulary=300)
    random.shuffle(texts)
    second = Tokenizer.fit(iter(texts), kind, vocabulary=300)
    assert first.to_json() == second.to_json()


@pytest.mark.parametrize("kind", PLAIN)
def test_nothing_in_nothing_out(kind: str) -> None:
    assert LEARNT[kind].encode([]) == []
    rows = LEARNT[kind].encode(["", "a", ""])
    assert [len(row) for row in rows] == [0, 1, 0]
    assert all(row.dtype == np.int64 for row in rows)
    assert LEARNT[kind].decode([]) == LEARNT[kind].decode([0, 0]) == ""
    assert LEARNT[kind].split("") == []
    assert [row.shape for row in LEARNT[kind].encode_words([[], ["a"]])] == [(0,), (1,)]
    for nothing in ([], ["", ""]):
        with pytest.raises(DataError, match="no token in the texts"):
            Tokenizer.fit(nothing, kind)


def test_words_that_are_split_already() -> None:
    tokenizer = Tokenizer.fit(["a New York b"], "blank")
    (row,) = tokenizer.encode_words([["b", "New York", "<pad>", "a"]])
    assert row.tolist() == [tokenizer.tokens.index("b"), 1, 1, tokenizer.tokens.index("a")]
    assert row.dtype == np.int64


@pytest.mark.parametrize("number", [-1, 99_999])
@pytest.mark.parametrize("kind", PLAIN)
def test_numbers_without_a_token(kind: str, number: int) -> None:
    with pytest.raises(ArgumentError, match=f"numbers: expected tokens from 0 to [0-9]+, got {number}"):
        LEARNT[kind].decode([2, number])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "words"}, "kind: expected one of word, blank"),
        ({"vocabulary": 2}, "vocabulary: expected at least 3 .* got 2"),
        ({"kind": "bpe", "vocabulary": 257}, "vocabulary: expected at least 258"),
        ({"vocabulary": 3, "marks": ("<eos>",)}, "vocabulary: expected at least 4"),
        ({"fewest": 0}, "fewest: expected 1 or more, got 0"),
        ({"marks": ("<pad>",)}, "marks: expected different tokens"),
        ({"marks": ("<a>", "<a>")}, "marks: expected different tokens"),
        ({"marks": ("",)}, "marks: expected different tokens"),
        ({"marks": "<eos>"}, "marks: expected different tokens"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Tokenizer.fit(["a b"], **options)


def test_one_string_in_place_of_several_is_refused() -> None:
    tokenizer = LEARNT["word"]
    for call in (Tokenizer.fit, tokenizer.encode):
        with pytest.raises(ArgumentError, match="texts: expected several strings, got one, 'a b'"):
            call("a b")
    with pytest.raises(ArgumentError, match="words: expected several strings, got one, 'a b'"):
        tokenizer.encode_words(["a b"])
    with pytest.raises(DataError, match=r"no token comes 9 times .* lower fewest"):
        Tokenizer.fit(["a b"], fewest=9)


def broken() -> list[Any]:
    good = LEARNT["word"].to_json()
    found = [{}, {"kind": "word"}, {"kind": "word", "rules": {}}, {**good, "kind": "syllable"}, [], None, 7]
    for change in (lambda v: v.pop("to"), lambda v: v.update({"to": 9999}), lambda v: v.pop(PADDING)):
        other = copy.deepcopy(good)
        change(other["rules"]["model"]["vocab"])
        found.append(other)
    swapped = copy.deepcopy(good)
    swapped["rules"]["model"]["vocab"] |= {PADDING: 1, UNKNOWN: 0}
    return [*found, swapped]


@pytest.mark.parametrize("document", broken())
def test_documents_that_are_refused(document: Any) -> None:
    with pytest.raises(DataError, match=r"tokenizer cannot be read .* write the model file again"):
        Tokenizer.from_json(document)


def test_long_texts_are_quick() -> None:
    text = "a-" * 50_000
    for kind in PLAIN:
        assert len(one(LEARNT[kind], text)) >= 1
    assert LEARNT["character"].decode(one(LEARNT["character"], text)) == text


def test_chinese_words(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = {"我爱北京": ["我", "爱", "北京"], "北京 <pad>ABC": ["北京", " ", "<pad>", "ABC"], "": []}

    class Jieba:
        lcut = staticmethod(cut.__getitem__)
        setLogLevel = staticmethod(lambda level: None)

    monkeypatch.setitem(sys.modules, "jieba", Jieba)
    tokenizer = Tokenizer.fit(list(cut)[:1], "jieba")
    assert set(tokenizer.tokens[2:]) == {"我", "爱", "北京"}
    assert tokenizer.split("我爱北京") == ["我", "爱", "北京"]
    assert tokenizer.decode(one(tokenizer, "北京 <pad>ABC")) == "北京 <unk> <unk>"
    assert len(one(tokenizer, "")) == 0
    assert Tokenizer.fit(list(cut), "jieba", lower=True).tokens.count("abc") == 1
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ImportError, match=r"jieba: pip install .*recurra\[chinese\].* or choose .*word"):
        Tokenizer.fit(["我"], "jieba")
    with pytest.raises(ArgumentError, match="need the package jieba"):
        Tokenizer.fit(["我"], "jieba")


def test_the_package_for_chinese_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jieba = pytest.importorskip("jieba", reason="the package jieba is not here")
    words = tmp_path / "words.txt"  # its own dictionary takes four seconds to load
    words.write_text("我 99\n爱 99\n北京 99\n天安门 99\n", "utf-8")
    small = jieba.Tokenizer(str(words))
    small.tmp_dir = str(tmp_path)
    monkeypatch.setattr(jieba, "lcut", small.lcut)
    tokenizer = Tokenizer.fit(["我爱北京天安门"], "jieba")
    assert tokenizer.split("我爱北京 天安门") == ["我", "爱", "北京", "天安门"]
    assert tokenizer.decode(one(tokenizer, "北京爱我")) == "北京 爱 我"
