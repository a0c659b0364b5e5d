"""The numbers of a classifier, chosen from the size of the data where the user gave none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from recurra.errors import ArgumentError
from recurra.nn.pooling import POOLINGS

FEW, MANY = 2_000, 2_000_000
"""Rows below which a set is small, tokens or steps in all above which it is large."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides how a classifier is trained.

    members: readers, each trained with another part of the rows held back. vocabulary: tokens that the
    readers tell apart. longest: tokens of a text that they read; of a longer one its beginning and end.
    characters: sizes of n-grams of characters beside those of words, none where empty; letters: the same
    within the words that the readers read. region: words that these also read together. fewest: how often an
    n-gram of words must occur. strength: of the linear models, scikit-learn's C. jitter: noise on numbers.
    """

    hidden_size: int
    members: int
    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    dropout: float
    pooling: str
    label_smoothing: float
    adversarial: float
    embedding_size: int = 0
    vocabulary: int = 0
    longest: int = 0
    characters: tuple[int, ...] = ()
    letters: tuple[int, ...] = ()
    region: int = 0
    fewest: int = 1
    strength: float = 1.0
    jitter: float = 0.0


def choose_plan(rows: int, steps: int, *, text: bool, classes: int, **given: Any) -> Plan:
    """rows: N. steps: tokens or steps of all rows. given: the user's numbers, None for those to be chosen.

    Raises ArgumentError for a number that makes no sense.
    """
    large = steps > MANY
    if text:
        plan = Plan(
            hidden_size=64 if large else 32,
            members=3 if large else 5,
            epochs=6 if large else 20,
            patience=2 if large else 3,
            batch_size=64 if large else 32 if rows > FEW else 16,
            learning_rate=2e-3,
            dropout=0.5,
            pooling="mean" if large else "max",
            label_smoothing=0.0,
            adversarial=0.0,
            embedding_size=100,
            vocabulary=30_000,
            longest=400,
            characters=() if large else (2, 3, 4, 5),
            letters=(3, 4, 5),
            region=3,
            fewest=2 if large or classes > 2 else 1,
            strength=4.0 if classes == 2 else 10.0,
        )
    else:
        plan = Plan(
            hidden_size=64,
            members=5,
            epochs=100 if rows <= FEW else 40,
            patience=15,
            batch_size=16 if rows <= FEW else 32,
            learning_rate=2e-3,
            dropout=0.3,
            pooling="max",
            label_smoothing=0.05,
            adversarial=0.0,
            strength=1.0,
            jitter=0.2,
        )
    chosen = {name: value for name, value in given.items() if value is not None}
    _check(chosen)
    return replace(plan, **chosen)


def _check(numbers: dict[str, Any]) -> None:
    for name, value in numbers.items():
        whole = name in ("hidden_size", "members", "epochs")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name == "pooling":
            fits, expected = value in POOLINGS, f"one of {', '.join(POOLINGS)}"
        elif whole:
            fits, expected = number and isinstance(value, int) and value >= 1, "a whole number of at least 1"
        elif name == "adversarial":
            fits, expected = number and 0 <= value < 10, "a number from 0 up to 10, such as 0.05"
        else:
            fits, expected = number and 0 <= value < 1, "a number from 0 up to 1"
        if not fits:
            raise ArgumentError(
                f"{name} must be {expected}, but {value!r} was given: leave it out to have it chosen"
            )
