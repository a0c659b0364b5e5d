"""The classifier learns what can be learnt, gives the same again, and says what is wrong with its input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recurra import checkpoint
from recurra.data.texts import Texts
from recurra.errors import ArgumentError, DataError, Interrupted, ModelFileError
from recurra.tasks.classify import Classifier
from recurra.tasks.classify_learning import best_mixture, folds_of
from recurra.tasks.classify_network import Batch, ClassifyNetwork, Reader, entropy
from recurra.tasks.classify_rows import read

TINY = {"hidden_size": 4, "members": 2, "epochs": 2}
GOOD, BAD = (
    ["fine", "lovely", "warm", "bright", "kind", "sweet"],
    ["dull", "grim", "cold", "poor", "nasty", "sour"],
)
PLAIN = ["the", "film", "was", "a", "story", "of", "people", "in", "town", "and", "they", "said", "it"]


def reviews(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts with one word that tells, among others that do not."""
    random = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        good = bool(random.random() < 0.5)
        words = list(random.choice(PLAIN, random.integers(1, 9)))
        words.insert(int(random.integers(len(words) + 1)), str(random.choice(GOOD if good else BAD)))
        texts.append(" ".join(words))
        labels.append("good" if good else "bad")
    return texts, labels


def ordered(count: int, seed: int = 0) -> tuple[list[np.ndarray], list[str]]:
    """Sequences of 2 numbers that rise or fall, of different lengths: where, no mean tells."""
    random = np.random.default_rng(seed)
    values, labels = [], []
    for _ in range(count):
        length = int(random.integers(7, 34))
        up = bool(random.random() < 0.5)
        line = np.linspace(-1, 1, length) * (1 if up else -1)
        values.append(np.stack([line, random.normal(size=length)], 1) + 0.3 * random.normal(size=(length, 2)))
        labels.append("up" if up else "down")
    return values, labels


@pytest.fixture(scope="module")
def fitted() -> Classifier:
    return Classifier(**TINY, seed=7).fit(*reviews(163))


def test_it_learns_texts(fitted: Classifier) -> None:
    texts, labels = reviews(63, seed=1)
    scores = fitted.evaluate(texts, labels)
    assert scores["accuracy"] == 1.0
    assert scores["accuracy"] > scores["baselines"]["most frequent class"]["accuracy"] + 0.3
    assert set(scores["baselines"]) == {"TF-IDF + logistic regression", "most frequent class"}
    assert set(scores["classes"]) == {"bad", "good"}
    assert scores["classes"]["good"]["recall"] == 1.0
    assert sum(row["rows"] for row in scores["classes"].values()) == 63
    found = fitted.predict(texts)
    assert list(found.labels) == labels
    assert found.classes == ("bad", "good")
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-6)
    frame = found.to_pandas()
    assert list(frame.columns) == ["label", "bad", "good"]
    assert len(frame) == len(found) == 63


def test_the_readers_alone_learn_what_no_mean_tells() -> None:
    values, labels = ordered(101)
    model = Classifier(hidden_size=8, members=2, epochs=30, seed=3).fit(values, labels)
    assert model.network is not None
    scores = model.evaluate(*ordered(63, seed=1))
    assert scores["accuracy"] > 0.95
    model.network.mixture.copy_(torch.tensor([0.0, 1.0]))  # nothing but the LSTMs
    assert model.evaluate(*ordered(63, seed=1))["accuracy"] > 0.95
    assert "logistic regression" in scores["baselines"]


def test_each_row_is_judged_by_parts_that_did_not_see_it(fitted: Classifier) -> None:
    assert fitted.held is not None
    assert 0 < len(fitted.held.places) < 163, "two of five parts were held back"
    assert set(fitted.held_scores) == {"LSTM + n-grams", *fitted.evaluate(*reviews(9))["baselines"]}
    assert list(fitted.history) == ["reader 1 of 2", "reader 2 of 2"]
    targets = np.eye(3, dtype=np.float32)[np.random.default_rng(0).integers(3, size=63)]
    folds = folds_of(targets, 5, 0)
    assert sorted(np.concatenate([held for _, held in folds]).tolist()) == list(range(63))
    for train, held in folds:
        assert not set(train.tolist()) & set(held.tolist())
        assert abs(targets[held].mean(0) - targets.mean(0)).max() < 0.1, "each class in proportion"


def test_valid_is_what_is_judged_by() -> None:
    rows = []
    model = Classifier(**TINY).fit(*reviews(63), valid=reviews(33, seed=2), log=rows.append)
    assert model.held is not None
    assert len(model.held.places) == 33
    assert {row["stage"] for row in rows} == {"training reader 1 of 2", "training reader 2 of 2"}
    assert model.history["reader 1 of 2"][-1]["valid_loss"] is not None


def test_the_same_seed_gives_the_same_model(fitted: Classifier) -> None:
    again = Classifier(**TINY, seed=7).fit(*reviews(163))
    texts, _ = reviews(33, seed=4)
    assert np.array_equal(again.predict(texts).probabilities, fitted.predict(texts).probabilities)
    other = Classifier(**TINY, seed=8).fit(*reviews(163))
    assert not np.array_equal(other.predict(texts).probabilities, fitted.predict(texts).probabilities)


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, fitted: Classifier) -> None:
    stopped = 0

    def stop(row: dict[str, Any]) -> None:
        nonlocal stopped
        stopped += 1
        if (row["stage"], row["epoch"]) == ("training reader 2 of 2", 1):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        Classifier(**TINY, seed=7).fit(*reviews(163), checkpoints=tmp_path, log=stop)
    assert stopped == 3
    again = Classifier(**TINY, seed=7).fit(*reviews(163), checkpoints=tmp_path)
    assert again.network is not None
    assert fitted.network is not None
    for name, one in fitted.network.state_dict().items():
        assert torch.equal(one, again.network.state_dict()[name]), name
    with pytest.raises(ArgumentError, match="checkpoint"):
        Classifier(**TINY, seed=7).fit(*reviews(164), checkpoints=tmp_path)


def test_a_saved_model_says_the_same(tmp_path: Path, fitted: Classifier) -> None:
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    again = Classifier.load(path)
    texts, labels = reviews(33, seed=5)
    texts[0] = ""
    assert np.array_equal(again.predict(texts).probabilities, fitted.predict(texts).probabilities)
    assert again.evaluate(texts, labels) == fitted.evaluate(texts, labels)
    assert again.history == fitted.history
    assert again.held_scores == fitted.held_scores
    values, names = ordered(33)
    numbers = Classifier(**TINY).fit(values, names)
    numbers.save(path)
    assert np.array_equal(
        Classifier.load(path).predict(values).probabilities, numbers.predict(values).probabilities
    )


def test_other_files_are_no_models(tmp_path: Path, fitted: Classifier) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, {"w": torch.zeros(7)}, {"task": "forecast"})
    with pytest.raises(ModelFileError, match="expected a classify model, found task 'forecast'"):
        Classifier.load(path)
    fitted.save(path)
    tensors, document = checkpoint.read(path)
    plain = {name: one for name, one in document.items() if name not in ("format", "recurra")}
    for broken in ("plan", "classes", "preparation", "kinds"):
        checkpoint.write(path, tensors, {name: one for name, one in plain.items() if name != broken})
        with pytest.raises(ModelFileError, match="does not fit its weights or this version"):
            Classifier.load(path)
    checkpoint.write(path, {name: one for name, one in tensors.items() if "lstm" not in name}, plain)
    with pytest.raises(ModelFileError, match="does not fit its weights"):
        Classifier.load(path)


def test_one_label_that_rows_have_or_have_not(tmp_path: Path) -> None:
    texts, labels = reviews(63)
    given: list[list[str]] = [["good"] if label == "good" else [] for label in labels]
    model = Classifier(**TINY).fit(texts, given)
    assert (model.classes, model.several) == (("good",), True)
    found = model.predict(texts)
    assert found.probabilities.shape == (63, 1)
    right = [
        (("good",) if label == "good" else ()) == one for label, one in zip(labels, found.labels, strict=True)
    ]
    assert np.mean(right) > 0.8
    model.save(tmp_path / "m.safetensors")
    again = Classifier.load(tmp_path / "m.safetensors").predict(texts)
    np.testing.assert_array_equal(found.probabilities, again.probabilities)


@pytest.mark.parametrize("kind", ["array", "objects", "pandas", "polars"])
def test_columns_of_texts_with_labels_are_taken_as_a_list_of_them(kind: str) -> None:
    texts, labels = reviews(33)
    made: dict[str, Any] = {
        "array": np.array,
        "objects": lambda one: np.array(one, dtype=object),
        "pandas": pytest.importorskip("pandas").Series,
        "polars": pytest.importorskip("polars").Series,
    }
    expected = read(texts, labels, labelled=True, columns={})
    found = read(made[kind](texts), made[kind](labels), labelled=True, columns={})
    assert isinstance(found, Texts)
    assert (found.texts, found.labels) == (expected.texts, expected.labels)
    assert read(made[kind](texts), None, labelled=False, columns={}).texts == expected.texts


def test_texts_with_several_labels() -> None:
    random = np.random.default_rng(0)
    texts, labels = [], []
    for _ in range(127):
        kept = [name for name in ("red", "green", "blue") if random.random() < 0.5]
        texts.append(" ".join([*random.choice(PLAIN, 5), *kept]))
        labels.append(kept)
    model = Classifier(**TINY).fit(texts, labels)
    assert model.several
    assert model.classes == ("blue", "green", "red")
    found = model.predict(["the red and blue town", "the town"])
    assert found.labels == (("blue", "red"), ())
    scores = model.evaluate(texts, labels)
    assert scores["accuracy"] > 0.9
    assert 0 <= scores["calibration error"] < 0.5


def test_class_weights_count() -> None:
    texts, labels = reviews(127)
    noisy = [name if k % 3 else "bad" for k, name in enumerate(labels)]
    shares = []
    for weights in (None, "balanced", {"good": 30.0}):
        model = Classifier(**TINY, class_weights=weights).fit(texts, noisy)
        shares.append(model.predict(["the film", "a story of people", ""]).probabilities[:, 1].mean())
    assert shares[0] < shares[1] < shares[2]
    with pytest.raises(
        ArgumentError, match="class_weights: 'gut' is no class of the data; expected some of bad"
    ):
        Classifier(**TINY, class_weights={"gut": 2.0}).fit(texts, labels)


@pytest.mark.parametrize("tokens", ["blank", "character", "bpe"])
def test_other_tokens(tokens: str) -> None:
    model = Classifier(**TINY, tokens=tokens).fit(*reviews(163))
    assert model.evaluate(*reviews(33, seed=6))["accuracy"] > 0.85


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_every_pooling_and_adversarial_training(pooling: str, seed: int) -> None:
    torch.manual_seed(seed)
    reader = Reader(
        3, hidden_size=7, tokens=33, embedding_size=5, pooling=pooling, adversarial=0.1, label_smoothing=0.1
    )
    batch = Batch(
        torch.randint(1, 33, (7, 9)), torch.tensor([9, 0, 1, 7, 3, 9, 2]), torch.eye(3)[[0, 1, 2, 0, 1, 2, 0]]
    )
    loss = reader.loss(batch)
    loss.backward()
    missing = [name for name, one in reader.named_parameters() if one.grad is None]
    assert missing == []
    assert all(one.grad.isfinite().all() for one in reader.parameters() if one.grad is not None)
    reader.eval()
    plain = entropy(reader(batch.x, batch.lengths), batch, several=False, smoothing=0.1)
    assert reader.loss(batch) > 2 * plain, "the moved embeddings are worse than those that are not"


def test_word_vectors_are_where_the_readers_begin(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} {k}.5 {-k}.25 7\n" for k, word in enumerate([*GOOD, *BAD])))
    texts, labels = reviews(63)
    model = Classifier(**TINY, vectors=path)
    model.fit(texts, labels)
    assert model.plan.embedding_size == 3
    assert model.start is not None
    assert model.preparation.tokenizer is not None
    reader = model._reader(0)
    assert reader.embedding is not None
    at = model.preparation.tokenizer.tokens.index("lovely")
    assert reader.embedding.own.weight[at].tolist() == [1.5, -1.25, 7]
    path.write_text("casa 1 2 3\n")
    with pytest.raises(DataError, match=r"has none of the .* words of the texts; expected vectors of words"):
        Classifier(**TINY, vectors=path).fit(texts, labels)


def test_empty_odd_and_enormous_texts_are_classified(fitted: Classifier) -> None:
    odd = [
        "",
        "   ",
        "\U0001f600\U0001f3fd",
        "\x00\x07\u202e",
        "zzz qqq",
        "fine " * 200_000,
        "读书",
        "\ud800",
    ]
    found = fitted.predict(odd)
    assert np.isfinite(found.probabilities).all()
    assert found.labels[5] == "good"
    assert np.array_equal(found.probabilities[0], found.probabilities[1])


def test_odd_rows_in_training() -> None:
    texts, labels = reviews(63)
    model = Classifier(**TINY).fit(
        [*texts, "", "\x07", "fine " * 50_000, "\U0001f600"], [*labels, *["good"] * 4]
    )
    assert model.predict(["grim"]).labels == ("bad",)


def test_a_label_in_a_thousand() -> None:
    texts, labels = reviews(333)
    model = Classifier(**TINY).fit([*texts, "a strange quark"], [*labels, "physics"])
    assert model.classes == ("bad", "good", "physics")
    found = model.predict(["lovely", "grim"])
    assert found.labels == ("good", "bad")
    assert np.isfinite(found.probabilities).all()
    assert model.evaluate(texts, labels)["accuracy"] > 0.9


def test_sequences_that_are_constant_missing_or_empty() -> None:
    values, labels = ordered(33)
    for one in values:
        one[:, 1] = 7.0
    values[3][2, 0] = np.nan
    values[5] = values[5][:0]
    model = Classifier(**TINY).fit(values, labels)
    found = model.predict([values[0], np.zeros((0, 2)), np.full((7, 2), np.nan), np.full((1, 2), 1e30)])
    assert np.isfinite(found.probabilities).all()


@pytest.mark.parametrize(
    ("texts", "labels", "says"),
    [
        (
            ["a b", "c d", "e f", "g h"],
            ["x"] * 4,
            "has only 'x' as label in all 4 rows; expected two classes",
        ),
        ([], [], "has no rows; expected at least one text"),
        (["a", "b"], ["x"], "expected one for each of 2 texts, got 1"),
        (["a", "b", "c"], ["x", "y", ""], "row 3 of 'the texts' has no label"),
        (["a", "b"], None, "has texts but no labels"),
        (["a", "b"], ["x", "y"], "has 2 rows; expected at least four"),
        (["", " ", "", ""], ["x", "y", "x", "y"], "there is no token in the texts"),
        ([f"a {k}" for k in range(33)], [f"l{k}" for k in range(33)], "has 33 different labels in 33 rows"),
    ],
)
def test_what_cannot_be_learnt_is_told(texts: list[str], labels: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        Classifier(**TINY).fit(texts, labels)


def test_what_cannot_be_judged_or_predicted_is_told(fitted: Classifier) -> None:
    with pytest.raises(
        DataError, match=r"row 2 of 'the texts' has the label 'ugly', which the model has not le"
    ):
        fitted.evaluate(["a", "b"], ["good", "ugly"])
    with pytest.raises(DataError, match="row 2 of 'the texts' has 2 labels; expected one"):
        fitted.evaluate(["a", "b"], ["good", ["good", "bad"]])
    with pytest.raises(DataError, match="holds sequences of numbers; expected texts"):
        fitted.predict(np.zeros((2, 7, 3)))
    with pytest.raises(DataError, match=r"there is no file 'nowhere.csv'"):
        fitted.predict("nowhere.csv")
    with pytest.raises(ArgumentError, match="text is for texts, and these are sequences of numbers"):
        fitted.predict(np.zeros((2, 7, 3)), text="review")
    values, labels = ordered(33)
    numbers = Classifier(**TINY).fit(values, labels)
    with pytest.raises(DataError, match="holds texts; expected sequences of numbers"):
        numbers.predict(["a"])
    with pytest.raises(DataError, match="has 3 numbers in a step where the model has learnt from 2"):
        numbers.predict(np.zeros((2, 7, 3)))
    with pytest.raises(DataError, match="has sequences without any step"):
        Classifier(**TINY).fit(np.zeros((7, 0, 2)), ["a", "b"] * 3 + ["a"])
    with pytest.raises(ArgumentError, match="has learnt nothing yet: call fit"):
        Classifier().predict(["a"])
    with pytest.raises(ArgumentError, match="has learnt nothing yet: call fit"):
        Classifier().save("nowhere")
    known = fitted.check(*reviews(7))
    with pytest.raises(DataError, match="are texts and sequences of numbers; expected the same of both"):
        fitted.check_same(known, numbers.check(values, labels))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tokens": "syllable"}, "tokens must be auto or one of word, .*, but 'syllable' was given"),
        ({"hidden_size": 0}, "hidden_size must be a whole number of at least 1, but 0 was given"),
        ({"members": 2.5}, "members must be a whole number"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"dropout": 1.0}, "dropout must be a number from 0 up to 1, but 1.0 was given"),
        ({"label_smoothing": -0.1}, "label_smoothing must be a number from 0 up to 1"),
        ({"adversarial": float("nan")}, "adversarial must be a number from 0 up to 10"),
        ({"pooling": "sum"}, "pooling must be one of last, mean, max, attention, but 'sum'"),
        ({"class_weights": {"a": 0}}, "class_weights must be 'balanced' or a dict"),
        ({"class_weights": "heavy"}, "class_weights must be 'balanced' or a dict"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 1.5}, "seed must be a whole number from 0"),
    ],
)
def test_arguments_that_make_no_sense(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        Classifier(**given)


def test_the_network_is_a_mean_and_a_mixture(seed: int) -> None:
    torch.manual_seed(seed)
    readers = [Reader(3, hidden_size=7, features=2, dropout=0.0) for _ in range(2)]
    network = ClassifyNetwork(readers).eval()
    network.mixture.copy_(torch.tensor([0.5, 2.0]))
    batch = Batch(torch.randn(7, 9, 2), torch.arange(7), wide=torch.randn(7, 3))
    deep = (readers[0](batch.x, batch.lengths) + readers[1](batch.x, batch.lengths)) / 2
    assert batch.wide is not None
    torch.testing.assert_close(network(batch), (2 * deep + 0.5 * batch.wide).softmax(1))
    alone = ClassifyNetwork([]).eval()
    alone.mixture.copy_(torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(alone(batch), (2 * batch.wide).softmax(1))
    with torch.no_grad():
        padded = dataclasses.replace(batch, x=batch.x.clone())
        for row, length in enumerate(batch.lengths.tolist()):
            padded.x[row, length:] = torch.nan
        assert torch.equal(network(padded), network(batch))


def test_the_mixture_is_where_the_loss_is_least(seed: int) -> None:
    random = np.random.default_rng(seed)
    targets = np.eye(3, dtype=np.float32)[random.integers(3, size=633)]
    useful = (2 * targets + random.normal(size=targets.shape)).astype(np.float32)
    noise = random.normal(size=targets.shape).astype(np.float32)
    ones = np.ones(633, np.float32)
    wide, deep = best_mixture(useful, noise, targets, ones, several=False).tolist()
    assert wide > 1
    assert 0 <= deep < 0.2
    wide, deep = best_mixture(-useful, useful, targets, ones, several=False).tolist()
    assert wide >= 0
    assert deep > 1
    few = best_mixture(useful[:1], noise[:1], targets[:1], ones[:1], several=False)
    assert (few - 0.5).abs().max() < 1.0, "one row decides little"
