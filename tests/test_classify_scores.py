"""The classifier's scores are those of scikit-learn where that has them; verdicts follow the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recurra.tasks.classify_network import Reader, Spelling, Words
from recurra.tasks.classify_scores import (
    by_class,
    calibration_error,
    confusion,
    decided,
    most_confident_mistakes,
    reliability,
    scores,
    verdict,
)


def drawn(seed: int, rows: int = 163, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(classes), rows)
    return p, np.eye(classes)[[random.choice(classes, p=row) for row in p]]


def test_scores_are_scikit_learns(seed: int) -> None:
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    p, targets = drawn(seed)
    truth, said = targets.argmax(1), p.argmax(1)
    found = scores(p, targets)
    assert found["accuracy"] == pytest.approx((truth == said).mean())
    assert found["log loss"] == pytest.approx(log_loss(truth, p, labels=range(7)))
    precision, recall, both, rows = precision_recall_fscore_support(
        truth, said, labels=range(7), zero_division=0
    )
    each = by_class(p, targets)
    np.testing.assert_allclose([row["precision"] for row in each], precision)
    np.testing.assert_allclose([row["recall"] for row in each], recall)
    np.testing.assert_allclose([row["F1"] for row in each], both)
    assert [row["rows"] for row in each] == rows.tolist()
    there = [k for k in range(7) if rows[k] or (said == k).any()]
    assert found["macro F1"] == pytest.approx(both[there].mean())
    assert confusion(p, targets).tolist() == confusion_matrix(truth, said, labels=range(7)).tolist()


def test_scores_of_several_classes_to_a_row() -> None:
    p = np.array([[0.9, 0.2], [0.5, 0.5], [0.1, 0.4]])
    targets = np.array([[1.0, 0], [1, 1], [0, 1]])
    assert decided(p, True).tolist() == [[True, False], [True, True], [False, False]]
    found = scores(p, targets, several=True)
    assert found["accuracy"] == pytest.approx(2 / 3)
    truth = [0.9, 0.8, 0.5, 0.5, 0.9, 0.4]
    assert found["log loss"] == pytest.approx(-np.log(truth).mean())
    assert found["macro F1"] == pytest.approx((1 + 2 / 3) / 2)


def test_calibration_error_is_the_mean_gap() -> None:
    p = np.array([[0.95, 0.05]] * 4 + [[0.7, 0.3]] * 6)
    targets = np.eye(2)[[0, 0, 0, 1, 0, 0, 0, 1, 1, 1]]
    assert calibration_error(p, targets) == pytest.approx(0.4 * 0.2 + 0.6 * 0.2)
    assert reliability(p, targets)[:, 2].tolist() == pytest.approx([0.6, 0.4])
    assert calibration_error(np.eye(3), np.eye(3)) == 0
    p, targets = drawn(3, rows=6333)
    assert calibration_error(p, targets) < 0.03
    assert calibration_error(p**3 / (p**3).sum(1, keepdims=True), targets) > 0.15


@pytest.mark.parametrize(
    ("own", "other", "rows", "state"),
    [(0.9, 0.8, 1000, "wins"), (0.8, 0.9, 1000, "loses"), (0.81, 0.8, 100, "level"), (1.0, 1.0, 7, "level")],
)
def test_the_verdict_says_who_is_better(own: float, other: float, rows: int, state: str) -> None:
    found, words = verdict({"LSTM": {"accuracy": own}, "floor": {"accuracy": other}}, rows)
    assert found == state
    assert f"{own:.1%} of {rows:,} rows right" in words
    assert words.count(".") >= 1
    assert words.endswith(".")


def test_mistakes_come_surest_first() -> None:
    p = np.array([[0.6, 0.4], [0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    targets = np.array([[0, 1.0], [0, 1], [1, 0], [1, 0]])
    assert most_confident_mistakes(p, targets, 2) == [1, 3]
    assert most_confident_mistakes(np.eye(2), np.eye(2), 7) == []


def test_words_are_the_sum_of_their_parts(seed: int) -> None:
    torch.manual_seed(seed)
    spelling = Spelling(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 4]), 3)
    words = Words(4, 5, spelling)
    assert words.parts is not None
    own, parts = words.own.weight, words.parts.weight
    found = words(torch.tensor([[3, 2, 0], [2, 1, 3]]))
    whole = own[3] + (2 * parts[1] + parts[2]) / 3**0.5
    torch.testing.assert_close(found[0, 0], whole)
    torch.testing.assert_close(found[1, 2], whole)
    torch.testing.assert_close(found[0, 1], own[2] + parts[0])
    torch.testing.assert_close(found[1, 1], own[1])
    assert (found[0, 2] == 0).all(), "padding says nothing"
    assert not [name for name in words.state_dict() if name in ("pieces", "starts")]
    reader = Reader(2, hidden_size=7, tokens=4, embedding_size=5, spelling=spelling)
    reader(torch.tensor([[3, 2, 0]]), torch.tensor([2])).sum().backward()
    assert reader.embedding is not None
    grad = reader.embedding.parts.weight.grad
    assert grad is not None
    assert grad.abs().sum(1).gt(0).all()


def test_a_row_is_read_alike_in_any_batch(seed: int) -> None:
    torch.manual_seed(seed)
    spelling = Spelling(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 4]), 3)
    reader = Reader(3, hidden_size=7, tokens=4, embedding_size=5, spelling=spelling, region=3).eval()
    alone = reader(torch.tensor([[3, 1, 2]]), torch.tensor([3]))
    beside = reader(torch.tensor([[3, 1, 2, 0, 0], [1, 1, 2, 3, 3]]), torch.tensor([3, 5]))
    torch.testing.assert_close(beside[:1], alone)
    turned = reader(torch.tensor([[2, 1, 3]]), torch.tensor([3]))
    assert (turned - alone).abs().max() > 1e-3, "the order of the words counts"
