"""Scores of tags: entity F1 is that of conlleval and seqeval; floors and verdicts."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tag_samples import sentences

from recurra.data.schemes import SCHEMES, converted, spans
from recurra.tasks.tag_scores import (
    SpanBaseline,
    WordBaseline,
    baselines,
    confusion,
    quick_score,
    scores,
    verdict,
)


def conlleval(gold: list[list[str]], predicted: list[list[str]]) -> tuple[int, int, int]:
    """Right, found and meant spans, counted as the shared tasks' script does: one stream, an O between."""

    def parsed(tag: str) -> tuple[str, str]:
        letter, _, kind = tag.partition("-")
        return letter, kind

    def ends(before: tuple[str, str], now: tuple[str, str]) -> bool:
        return before[0] in "BIES" and (before[0] in "ES" or now[0] in "OBS" or before[1] != now[1])

    def begins(before: tuple[str, str], now: tuple[str, str]) -> bool:
        return now[0] in "BS" or (now[0] in "IE" and (before[0] in "OES" or before[1] != now[1]))

    right = found = meant = 0
    correct = False
    last, guess = ("O", ""), ("O", "")
    for row, other in zip(gold, predicted, strict=True):
        for one, two in zip([*row, "O"], [*other, "O"], strict=True):
            now, said = parsed(one), parsed(two)
            if correct:
                over = ends(last, now), ends(guess, said)
                if all(over):
                    right, correct = right + 1, False
                elif any(over) or now[1] != said[1]:
                    correct = False
            fresh = begins(last, now), begins(guess, said)
            if all(fresh) and now[1] == said[1]:
                correct = True
            meant, found = meant + fresh[0], found + fresh[1]
            last, guess = now, said
    return right, found, meant


def random_tags(draw: random.Random) -> list[str]:
    """Tags that keep to no scheme at all, as a tagger without a CRF may give them."""
    return draw.choices(["O", "B-A", "I-A", "B-B", "I-B"], k=draw.choice([0, 1, 7, 33]))


def test_spans_are_counted_as_conlleval_and_seqeval_do(seed: int) -> None:
    from seqeval.metrics import f1_score

    draw = random.Random(seed)
    gold = [random_tags(draw) for _ in range(63)]
    predicted = [[draw.choice([tag, "O", "I-A"]) for tag in row] for row in gold]
    right, found, meant = conlleval(gold, predicted)
    table = scores(gold, predicted, spanned=True)
    assert table["precision"] == pytest.approx(right / found)
    assert table["recall"] == pytest.approx(right / meant)
    assert table["f1"] == pytest.approx(2 * right / (found + meant))
    assert table["f1"] == pytest.approx(f1_score(gold, predicted))
    quick = quick_score([spans(row) for row in gold], [spans(row) for row in predicted], spanned=True)
    assert quick == pytest.approx(table["f1"])
    assert sum(row["support"] for row in table["by_kind"].values()) == meant


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scores_do_not_depend_on_the_scheme(scheme: str) -> None:
    gold = [tags for _, tags in sentences(33)]
    predicted = [[*tags[:-1], "B-LOC"] for tags in gold]
    other = [converted(row, scheme) for row in predicted]
    assert scores(gold, other, spanned=True) == scores(gold, predicted, spanned=True)
    assert scores(gold, other, spanned=True)["sentences"] == 0


def test_scores_of_plain_tags() -> None:
    table = scores([["A", "B"], ["B"], []], [["A", "A"], ["B"], []], spanned=False)
    assert table["accuracy"] == pytest.approx(2 / 3)
    assert table["sentences"] == pytest.approx(2 / 3)
    assert table["by_kind"]["B"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "support": 2,
    }
    assert quick_score([["A", "B"], ["B"]], [["A", "A"], ["B"]], spanned=False) == pytest.approx(2 / 3)


def test_nothing_to_be_right_about_is_zero() -> None:
    table = scores([["O"], []], [["O"], []], spanned=True)
    assert (table["f1"], table["accuracy"], table["by_kind"]) == (0.0, 1.0, {})
    assert scores([["B-A"]], [["O"]], spanned=True)["precision"] == 0.0
    assert scores([["O"]], [["B-A"]], spanned=True)["recall"] == 0.0
    assert scores([["B", "I", "O"]], [["B", "O", "O"]], spanned=True)["by_kind"][""]["support"] == 1


def test_confusion_of_kinds() -> None:
    names, table = confusion([["B-A", "I-A", "O", "B-B"]], [["B-A", "I-B", "B-B", "O"]])
    assert names == ["A", "B", "O"]
    np.testing.assert_array_equal(table, [[1, 1, 0], [0, 0, 1], [0, 1, 0]])
    gold = [[f"T{n}" for n in range(33)] + ["T0"]]
    names, _ = confusion(gold, [[*gold[0][:-1], "T7"]], most=2)
    assert names == ["T0", "T7"]


def test_the_longest_span_of_training_is_found_and_others_left_out() -> None:
    words = [["New", "York", "City", "left"], ["New", "York"], ["Paris"], ["Paris"]]
    tags = [["B-L", "I-L", "I-L", "O"], ["B-L", "I-L"], ["B-L"], ["B-P"]]
    floor = SpanBaseline(words, tags)
    assert floor.predict([["New", "York", "City"], ["New", "York", "New"], ["Paris"], []]) == [
        ["B-L", "I-L", "I-L"], ["B-L", "I-L", "O"], ["O"], [],
    ]  # fmt: skip


def test_the_most_frequent_tag_of_a_word() -> None:
    floor = WordBaseline([["a", "a", "a", "b"], ["c", "c"]], [["X", "X", "Y", "Y"], ["Z", "Z"]])
    assert floor.predict([["a", "b", "c", "d"], []]) == [["X", "Y", "Z", "X"], []]
    assert [type(one) for one in baselines([["a"]], [["B-X"]], spanned=True)] == [SpanBaseline, WordBaseline]
    assert [type(one) for one in baselines([["a"]], [["X"]], spanned=False)] == [WordBaseline]


def test_the_verdict_names_the_best_floor() -> None:
    table = {"LSTM": {"f1": 0.5}, "one": {"f1": 0.25}, "two": {"f1": 0.375}}
    words, state = verdict(table, spanned=True)
    assert words == "The tagger beats the baselines: F1 50.0% against 37.5% of the best baseline (two)."
    assert state == "wins"
    assert verdict({"LSTM": {"accuracy": 0.5}, "one": {"accuracy": 0.5}}, spanned=False)[1] == "level"
    assert verdict({"LSTM": {"f1": 0.5}, "one": {"f1": 0.75}}, spanned=True)[1] == "loses"
