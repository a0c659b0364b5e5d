"""How good a classifier is: scores of its probabilities, in all and by class. Axes: N rows, K classes.

* accuracy: the share of rows whose most probable class is theirs; of rows with several classes, those for
  which every class is right;
* macro F1: the mean over the classes of the harmonic mean of precision and recall;
* log loss: the mean of −log of what the model gave to the truth, in nats, over rows and, of several classes,
  over those;
* calibration error: how far confidence and accuracy lie apart, in the mean over fifteen bins of equal width,
  weighted by their rows (Guo et al., "On calibration of modern neural networks", 2017, equation 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]

FLOOR, MAJORITY = "TF-IDF + logistic regression", "most frequent class"
NUMBERS_FLOOR = "logistic regression"
METRICS = ("accuracy", "macro F1", "log loss", "calibration error")
BINS = 15


def decided(probabilities: Numbers, several: bool) -> NDArray[np.bool_]:
    """(N, K): the class that each row is given, or those with a half or more where there may be several."""
    if several:
        return np.asarray(probabilities >= 0.5)
    found = np.zeros(probabilities.shape, bool)
    found[np.arange(len(found)), probabilities.argmax(1)] = True
    return found


def scores(probabilities: Numbers, targets: Numbers, *, several: bool = False) -> dict[str, float]:
    """Each of `METRICS`. probabilities, targets: (N, K)."""
    p = np.clip(np.asarray(probabilities, np.float64), 1e-12, 1.0)
    right = (decided(p, several) == (targets > 0)).all(1)
    if several:
        q = np.clip(1 - np.asarray(probabilities, np.float64), 1e-12, 1.0)
        loss = -(targets * np.log(p) + (1 - targets) * np.log(q)).mean()
    else:
        loss = -np.log((p * targets).sum(1)).mean()
    counted = [row for row in by_class(p, targets, several=several) if row["rows"] or row["predicted"]]
    return {
        "accuracy": float(right.mean()),
        "macro F1": float(np.mean([row["F1"] for row in counted])),
        "log loss": float(loss),
        "calibration error": calibration_error(p, targets, several=several),
    }


def by_class(probabilities: Numbers, targets: Numbers, *, several: bool = False) -> list[dict[str, float]]:
    """For each class precision, recall, F1, the rows that are of it, and those that were said to be."""
    said, true = decided(probabilities, several), targets > 0
    rows = []
    for k in range(targets.shape[1]):
        hits = float((said[:, k] & true[:, k]).sum())
        predicted, there = float(said[:, k].sum()), float(true[:, k].sum())
        precision = hits / predicted if predicted else 0.0
        recall = hits / there if there else 0.0
        both = precision + recall
        rows.append(
            {
                "precision": precision,
                "recall": recall,
                "F1": 2 * precision * recall / both if both else 0.0,
                "rows": there,
                "predicted": predicted,
            }
        )
    return rows


def reliability(probabilities: Numbers, targets: Numbers, *, several: bool = False) -> Numbers:
    """(bins, 3) of confidence, accuracy and share of rows, bins without rows left out."""
    if several:  # each class of each row is a statement by itself: that it is there, or that it is not
        p = np.asarray(probabilities).ravel()
        confidence = np.maximum(p, 1 - p)
        right = (p >= 0.5) == (np.asarray(targets).ravel() > 0)
    else:
        confidence = np.asarray(probabilities).max(1)
        right = np.asarray(targets)[np.arange(len(targets)), np.asarray(probabilities).argmax(1)] > 0
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    found = []
    for k in range(BINS):
        inside = place == k
        if inside.any():
            found.append((confidence[inside].mean(), right[inside].mean(), inside.mean()))
    return np.array(found)


def calibration_error(probabilities: Numbers, targets: Numbers, *, several: bool = False) -> float:
    """The expected calibration error, from 0 to 1."""
    bins = reliability(probabilities, targets, several=several)
    return float((np.abs(bins[:, 0] - bins[:, 1]) * bins[:, 2]).sum())


def confusion(probabilities: Numbers, targets: Numbers) -> NDArray[np.int64]:
    """(K, K): rows of each class, by the class that they were given."""
    found = np.zeros((targets.shape[1],) * 2, np.int64)
    np.add.at(found, (targets.argmax(1), probabilities.argmax(1)), 1)
    return found


def verdict(table: Mapping[str, Mapping[str, float]], rows: int) -> tuple[str, str]:
    """ "wins", "loses" or "level", and a sentence: the model, the first of the table, beside the floor.

    Level is a difference in accuracy that two standard errors of a share of so many rows could make.
    """
    (model, own), (floor, other) = list(table.items())[:2]
    ahead = own["accuracy"] - other["accuracy"]
    share = (own["accuracy"] + other["accuracy"]) / 2
    noise = 2 * float(np.sqrt(max(share * (1 - share), 1e-9) / max(rows, 1)))
    state = "level" if abs(ahead) <= noise else "wins" if ahead > 0 else "loses"
    numbers = f"{own['accuracy']:.1%} of {rows:,} rows right, {floor} {other['accuracy']:.1%}"
    words = {
        "wins": f"{model} beats the floor: {numbers}.",
        "loses": f"{model} is worse than the floor: {numbers}. Use the simpler model.",
        "level": f"{model} and the floor are too close to tell apart: {numbers}; a difference of up to "
        f"{noise:.1%} can be chance.",
    }
    if ahead == 0:
        return state, f"{model} and the floor are equally good: {numbers}."
    return state, words[state]


def most_confident_mistakes(probabilities: Numbers, targets: Numbers, most: int) -> Sequence[int]:
    """Places of the rows that were wrong with the highest probability, the worst first."""
    given = probabilities.argmax(1)
    wrong = np.flatnonzero(targets[np.arange(len(targets)), given] == 0)
    order = np.argsort(-probabilities[wrong, given[wrong]], kind="stable")
    return [int(place) for place in wrong[order][:most]]
