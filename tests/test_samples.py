"""The packaged samples are whole, small, and named with their licence."""

from __future__ import annotations

import importlib.resources
from collections import Counter

import pytest

from recurra.data.texts import read_texts

SAMPLES = importlib.resources.files("recurra.data") / "sample"


def words(name: str) -> list[list[list[str]]]:
    """Sentences of words of columns."""
    blocks = (SAMPLES / name).read_text("utf-8").strip().split("\n\n")
    return [[line.split("\t") for line in block.split("\n")] for block in blocks]


def test_each_sample_is_small_and_named_with_its_licence() -> None:
    told = (SAMPLES / "README.md").read_text("utf-8")
    names = {entry.name for entry in SAMPLES.iterdir()} - {"README.md"}
    assert names == {
        "airpassengers.csv", "shakespeare.txt", "questions.csv", "ewt-train.conllu", "ewt-test.conllu",
    }  # fmt: skip
    for name in names:
        assert f"`{name}`" in told
        assert 1000 < len((SAMPLES / name).read_bytes()) < 80_000


def test_questions_are_texts_with_three_labels() -> None:
    found = read_texts(str(SAMPLES / "questions.csv"))
    assert Counter(found.labels) == {("question",): 300, ("command",): 300, ("statement",): 300}
    assert found.notes == ()
    assert len({text.lower() for text in found.texts}) == 900
    assert not [text for text in found.texts if text != text.strip() or text[-1] in ".?!"]


@pytest.mark.parametrize(("name", "count"), [("ewt-train.conllu", 256), ("ewt-test.conllu", 64)])
def test_sentences_have_a_tag_for_each_word(name: str, count: int) -> None:
    found = words(name)
    assert len(found) == count
    for sentence in found:
        assert [word[0] for word in sentence] == [str(place) for place in range(1, len(sentence) + 1)]
        for word in sentence:
            assert len(word) == 10
            assert all(word[:4])
            assert word[3].isupper()
            assert word[4:] == ["_"] * 6


def test_the_sentences_of_the_test_are_others() -> None:
    train, test = (
        {" ".join(word[1] for word in one) for one in words(f"ewt-{part}.conllu")}
        for part in ("train", "test")
    )
    assert len(train & test) <= 2  # such as "Thank you ."


def test_the_drama_is_whole_lines() -> None:
    text = (SAMPLES / "shakespeare.txt").read_text("utf-8")
    assert text.startswith("First Citizen:\n")
    assert text.endswith("\n")
    assert text.isascii()
    assert len(set(text)) <= 65
