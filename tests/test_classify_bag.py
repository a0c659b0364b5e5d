"""The n-grams of a text, and the linear models on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_classify import TINY, reviews

from recurra.tasks.classify import Classifier
from recurra.tasks.classify_bag import Bag, fit_bag, learn_family
from recurra.tasks.classify_plan import choose_plan
from recurra.tasks.classify_rows import Preparation


def test_n_grams_are_counted_as_written() -> None:
    texts = ["b a b a", "a", "", "c b a"]
    tokens = [np.array([ord(t) - 95 for t in text.split()], np.int64) for text in texts]
    family = learn_family(tokens, texts, (1, 2), fewest=2)
    names = ["<pad>", "<unk>", "a", "b", "c"]
    assert [family.written(k, names) for k in range(len(family.keys))] == ["a", "b", "b a"]
    assert family.counts(tokens, texts).toarray().tolist() == [[2, 2, 2], [1, 0, 0], [0, 0, 0], [1, 1, 1]]
    letters = learn_family(tokens, ["ab ab", "Ab"], (2, 3), fewest=2, form="characters")
    assert sorted(letters.written(k, names) for k in range(len(letters.keys))) == [
        " a",
        " ab",
        "ab",
        "ab ",
        "b ",
    ]


def test_n_grams_with_gaps_and_at_the_beginning() -> None:
    texts = ["what is the sum", "what was the sum", "is", "so what"]
    names = ["<pad>", "<unk>", *sorted({word for text in texts for word in text.split()})]
    tokens = [np.array([names.index(word) for word in text.split()], np.int64) for text in texts]

    def found(form: str, *sizes: int) -> dict[str, list[int]]:
        family = learn_family(tokens, texts, sizes, fewest=1, form=form)
        counts = family.counts(tokens, texts).toarray().T.astype(int).tolist()
        return {family.written(k, names): counts[k] for k in range(len(family.keys))}

    assert found("gaps", 3, 4) == {
        "what … the": [1, 1, 0, 0],
        "is … sum": [1, 0, 0, 0],
        "was … sum": [0, 1, 0, 0],
        "what … … sum": [1, 1, 0, 0],
    }
    assert found("beginnings", 1, 2) == {
        "what …": [1, 1, 0, 0],
        "what is …": [1, 0, 0, 0],
        "what was …": [0, 1, 0, 0],
        "is …": [0, 0, 1, 0],
        "so …": [0, 0, 0, 1],
        "so what …": [0, 0, 0, 1],
    }


@pytest.mark.parametrize("form", ["tokens", "gaps", "beginnings", "characters"])
def test_texts_shorter_than_any_n_gram_have_none(form: str) -> None:
    for lengths in ([1], [0], [2, 0, 1], [0, 0], [4, 1]):
        tokens = [np.arange(2, 2 + length) for length in lengths]
        texts = ["abcd"[:length] for length in lengths]
        family = learn_family(tokens, texts, (5, 6, 7), fewest=1, form=form)
        assert family.counts(tokens, texts).shape == (len(lengths), len(family.keys))
        assert len(family.keys) == 0 or (form, lengths) == ("characters", [4, 1])


def test_tokens_that_do_not_fit_into_a_key_count_as_unknown() -> None:
    rare = 1 << 21  # three tokens of 21 bits make a key
    tokens = [np.array(row, np.int64) for row in ([2, rare, 3], [2, rare + 7, 3], [2, 1, 3], [2, 4, 3])]
    family = learn_family(tokens, ["a b c"] * 4, (3,), fewest=1)
    assert len(family.keys) == 2
    assert sorted(family.counts(tokens, ["a b c"] * 4).toarray().argmax(1).tolist()) == [0, 0, 0, 1]


def test_how_a_text_begins_counts_of_short_texts_with_several_classes() -> None:
    assert choose_plan(999, 9_990, text=True, classes=3).beginnings == (1, 2, 3, 4)
    for rows, steps, classes in ((999, 9_990, 2), (999, 99_900, 3), (999_999, 9_999_990, 3)):
        plan = choose_plan(rows, steps, text=True, classes=classes)
        assert plan.beginnings == plan.gaps == ()


def test_texts_that_begin_each_in_its_own_way_have_no_beginnings() -> None:
    plan = choose_plan(99, 990, text=True, classes=3)
    labels = ["x", "y", "z"] * 33
    for texts, forms in (
        ([f"w{k} is it" for k in range(99)], ["tokens", "characters"]),
        ([f"w{k % 7} is it" for k in range(99)], ["tokens", "gaps", "beginnings", "characters"]),
    ):
        found = Preparation.fit(Classifier().check(texts, labels), plan, "word")
        assert [family.form for family in found.families] == forms


def test_a_saved_model_knows_its_n_grams(tmp_path: Path) -> None:
    texts, labels = reviews(163)
    classes = [name if len(text) < 40 else "long" for text, name in zip(texts, labels, strict=True)]
    model = Classifier(**TINY).fit(texts, classes)
    assert [family.form for family in model.preparation.families] == [
        "tokens",
        "gaps",
        "beginnings",
        "characters",
    ]
    model.save(tmp_path / "m.safetensors")
    again = Classifier.load(tmp_path / "m.safetensors")
    assert again.plan == model.plan
    more = reviews(33, seed=8)[0]
    assert np.array_equal(again.predict(more).probabilities, model.predict(more).probabilities)


def test_the_bag_is_scikit_learns_logistic_regression_on_tfidf() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts, labels = reviews(127)
    plan = choose_plan(127, 999, text=True, classes=2)
    data = Classifier().check(texts, labels)
    rows = Preparation.fit(data, plan, "word").encode(data)
    targets = np.eye(2, dtype=np.float32)[[int(name == "good") for name in labels]]
    ours = fit_bag(
        rows.floor_counts(), targets, np.ones(127, np.float32), kind="tfidf", several=False, strength=10.0
    )
    counted = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+").fit(texts)
    assert ours.factors.shape[1] == 1
    # n-grams that occur once are left out of the floor, so compare with the same columns
    kept = np.asarray((counted.transform(texts) > 0).sum(0)).ravel() >= 1
    vocabulary = {name for name, at in counted.vocabulary_.items() if kept[at]}
    frequent = {name for name in vocabulary if sum(f" {text} ".count(f" {name} ") for text in texts) > 1}
    again = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+", vocabulary=sorted(frequent)
    )
    x = again.fit_transform(texts)
    assert x.shape[1] == len(ours.factors)
    model = LogisticRegression(C=10.0, solver="liblinear", tol=1e-6).fit(x, targets[:, 1])
    np.testing.assert_allclose(
        ours.logits(rows.floor_counts())[:, 1] * 2, model.decision_function(x), atol=0.05
    )
    again = Bag.from_tensors("tfidf", ours.tensors())
    assert np.array_equal(again.logits(rows.floor_counts()), ours.logits(rows.floor_counts()))
