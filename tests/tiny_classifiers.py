"""Two small fitted classifiers for the tests of the lens and of its page."""

from __future__ import annotations

import numpy as np

from recurra import Classifier


def of_texts(hidden_size: int, epochs: int) -> Classifier:
    """Good and bad, told by single words."""
    texts = [f"{a} and {b}" for a in ("fine", "warm", "kind") for b in ("kind", "fine", "bright", "warm")]
    bad = [f"{a} and {b}" for a in ("dull", "grim", "cold") for b in ("poor", "dull", "sour", "cold")]
    model = Classifier(hidden_size=hidden_size, members=2, epochs=epochs, seed=1)
    return model.fit(texts + bad, ["good"] * len(texts) + ["bad"] * len(bad))


def of_numbers() -> Classifier:
    """Walks of two numbers a step, of 7 to 32 steps, told by where the first number ends."""
    random = np.random.default_rng(7)
    rows = [random.normal(size=(int(random.integers(7, 33)), 2)).cumsum(0) for _ in range(33)]
    model = Classifier(hidden_size=5, members=2, epochs=2, seed=1)
    return model.fit(rows, ["up" if row[-1, 0] > row[0, 0] else "down" for row in rows])
