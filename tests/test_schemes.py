"""Schemes of spans: recognised, converted there and back, and mixtures of two refused with their lines."""

from __future__ import annotations

import random

import pytest

from recurra.data.schemes import SCHEMES, Span, converted, recognise, spans, written
from recurra.errors import DataError

THREE = {
    "BIO": "B-A I-A I-A B-A O B-B B-A",
    "IOB1": "I-A I-A I-A B-A O I-B I-A",
    "BIOES": "B-A I-A E-A S-A O S-B S-A",
    "BILOU": "B-A I-A L-A U-A O U-B U-A",
    "BMES": "B-A M-A E-A S-A O S-B S-A",
}
MEANT = [Span(0, 3, "A"), Span(3, 4, "A"), Span(5, 6, "B"), Span(6, 7, "A")]


def lines(rows: list[list[str]]) -> list[list[int]]:
    """As if each tag stood in a line, and a blank one after each sentence."""
    found, number = [], 1
    for row in rows:
        found.append(list(range(number, number + len(row))))
        number += len(row) + 1
    return found


def scheme(*rows: str) -> str:
    split = [row.split() for row in rows]
    return recognise(split, lines(split), "x").scheme


def random_spans(draw: random.Random, length: int) -> list[Span]:
    found, start = [], 0
    while start < length:
        stop = min(length, start + draw.randint(1, 4))
        if draw.random() < 0.6:
            found.append(Span(start, stop, draw.choice("ABC")))
        start = stop
    return found


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_is_written_and_read(name: str) -> None:
    assert written(MEANT, 7, name) == THREE[name].split()
    assert spans(THREE[name].split()) == MEANT
    assert scheme(THREE[name]) == name


def test_conversion_there_and_back(seed: int) -> None:
    draw = random.Random(seed)
    for length in (0, 1, 7, 33, 63):
        found = random_spans(draw, length)
        for one in SCHEMES:
            tags = written(found, length, one)
            assert len(tags) == length
            assert spans(tags) == found
            for other in SCHEMES:
                assert converted(converted(tags, other), one) == tags


def test_tags_that_go_on_where_nothing_began_begin_a_span_as_in_conlleval() -> None:
    assert spans(["O", "I-A", "I-B", "E-B", "I-B", "B-B"]) == [
        Span(1, 2, "A"), Span(2, 4, "B"), Span(4, 5, "B"), Span(5, 6, "B"),
    ]  # fmt: skip


def test_letters_alone_are_spans_of_one_kind() -> None:
    assert scheme("B M E S B E", "S S") == "BMES"
    assert scheme("O B I I O B") == "BIO"
    assert spans(["B", "M", "E", "S"]) == [Span(0, 3, ""), Span(3, 4, "")]
    assert converted(["B", "M", "E", "S"], "BIO") == ["B", "I", "I", "B"]


@pytest.mark.parametrize(
    "rows",
    [("NOUN VERB O",), ("O O O",), ("B NOUN",), ("S V O", "O V S"), ("E B E B",), ("-LRB- I-don't B",), ()],
)
def test_other_tags_are_no_spans(rows: tuple[str, ...]) -> None:
    if rows and "I-don't" in rows[0]:
        rows = (rows[0] + " NN VB DT IN JJ",)
    assert scheme(*rows) == ""


def test_io_is_read_as_iob1() -> None:
    assert scheme("I-A I-A O I-B", "O I-A") == "IOB1"


def test_mixed_schemes_are_refused_with_the_lines_that_contradict() -> None:
    with pytest.raises(
        DataError, match=r"'x' mixes the schemes BIO and IOB1: 'I-A' in line 5 .*'B-A' in line 1"
    ):
        scheme("B-A I-A O", "I-A O")
    with pytest.raises(
        DataError, match=r"mixes the scheme BIOES .*'O' after 'B-A'|'B-A' after .* is not BIOES"
    ):
        scheme("B-A E-A S-A", "B-A O I-A")
    with pytest.raises(DataError, match=r"mixes schemes: the tag 'B-A' in line 1 .* 'U-A' in line 5"):
        scheme("B-A E-A S-A", "U-A")
    with pytest.raises(DataError, match=r"mixes schemes: the tag 'B-A' in line 1 .* 'PER' in line 4"):
        scheme("B-A I-A", "PER O B-A")


def test_a_few_slips_are_put_right_and_noted() -> None:
    rows = [["B-A", "I-A", "O"]] * 100 + [["O", "I-A", "O"]]
    found = recognise(rows, lines(rows), "notes.txt")
    assert found.scheme == "BIO"
    assert found.notes == (
        "1 tag of notes.txt broke the scheme BIO, the first I-A in line 402; read as conlleval reads them.",
    )
    rows = [["B-A", "E-A", "S-B"]] * 100 + [["O", "B-A", "O"]]
    assert recognise(rows, lines(rows), "x").scheme == "BIOES"
    assert len(recognise(rows, lines(rows), "x").notes) == 1
