"""The numbers of a classifier, chosen from the size of the data where the user gave none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from recurra.data.words import short
from recurra.errors import ArgumentError
from recurra.nn.pooling import POOLINGS

FEW, MANY = 2_000, 2_000_000
"""Rows below which a set is small, tokens or steps in all above which it is large."""
VIRTUAL = 0.05
"""How far virtual adversarial training moves embeddings where nobody says."""
SHORT = 30
"""Tokens of a text, in the mean, below which how it begins says much: questions, headlines."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides how a classifier is trained.

    members: readers, each trained with another part of the rows held back. vocabulary: tokens that the
    readers tell apart. longest: tokens of a text that they read; of a longer one its beginning and end.
    characters: sizes of n-grams of characters beside those of words, none where empty; gaps: of n-grams of
    which the first and last word count; beginnings: of n-grams with which a text begins; letters: of runs
    within the words that the readers read. region: words that these also read together. fewest: how often an
    n-gram of words must occur. adversarial: how far embeddings are moved, 0 for not at all; virtual: by what
    changes the prediction, not by what raises the loss. strength: of the linear models, scikit-learn's C.
    jitter: noise on numbers.
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
    virtual: bool = False
    embedding_size: int = 0
    vocabulary: int = 0
    longest: int = 0
    characters: tuple[int, ...] = ()
    gaps: tuple[int, ...] = ()
    beginnings: tuple[int, ...] = ()
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
    # of two classes how a text begins says nothing that its n-grams do not: cross-validated on SST-2 and MR
    asked = not large and classes > 2 and steps < SHORT * rows
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
            gaps=(3, 4) if asked else (),
            beginnings=(1, 2, 3, 4) if asked else (),
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
    virtual = isinstance(chosen.get("adversarial"), str)
    if virtual:
        chosen["adversarial"] = _virtual_distance(chosen["adversarial"])
    _check(chosen)
    return replace(plan, **chosen, virtual=virtual)


def plan_of(document: Mapping[str, Any]) -> Plan:
    """The plan that a model file has as JSON, which knows no tuples. Raises TypeError for another's."""
    numbers: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
    return Plan(**numbers)


def checked_weights(given: Any) -> str | dict[str, float] | None:
    """The class weights that were given. Raises ArgumentError for what are none."""
    if given is None:
        return None
    if given == "balanced":
        return "balanced"
    fits = isinstance(given, Mapping) and all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one < 1e9
        for one in given.values()
    )
    if not fits:
        raise ArgumentError(
            f"class_weights must be 'balanced' or a dict of class and number above 0, but {short(given)} was "
            "given: correct it, or leave it out"
        )
    return {str(name): float(one) for name, one in given.items()}


def _virtual_distance(given: str) -> float:
    """That of "virtual" or "virtual:0.1"."""
    name, mark, distance = given.partition(":")
    try:
        found = float(distance) if mark else VIRTUAL
    except ValueError:
        found = -1.0
    if name != "virtual" or not 0 < found < 10:
        raise ArgumentError(
            f"adversarial must be a number, 'virtual', or 'virtual:' and a number above 0 and below 10, but "
            f"{given!r} was given: write it as virtual:{VIRTUAL}, say"
        )
    return found


def _check(numbers: dict[str, Any]) -> None:
    for name, value in numbers.items():
        whole = name in ("hidden_size", "members", "epochs")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name == "pooling":
            fits, expected = value in POOLINGS, f"one of {', '.join(POOLINGS)}"
        elif whole:
            fits, expected = number and isinstance(value, int) and value >= 1, "a whole number of at least 1"
        elif name == "adversarial":
            fits, expected = number and 0 <= value < 10, "a number from 0 up to 10, or virtual"
        else:
            fits, expected = number and 0 <= value < 1, "a number from 0 up to 1"
        if not fits:
            raise ArgumentError(
                f"{name} must be {expected}, but {value!r} was given: leave it out to have it chosen"
            )
