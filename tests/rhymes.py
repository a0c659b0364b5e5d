"""Made-up text to learn from: sentences of a small grammar, the same for the same seed."""

from __future__ import annotations

import random

WHO = ("the cat", "the old dog", "a bird", "my aunt", "the moon")
DOES = ("sees", "likes", "follows", "sings to")
WHERE = ("in the garden", "at night", "on the roof", "by the sea")


def rhymes(lines: int, seed: int = 0) -> str:
    """So many lines, each a sentence."""
    draw = random.Random(seed)
    rows = [
        f"{draw.choice(WHO).capitalize()} {draw.choice(DOES)} {draw.choice(WHO)} {draw.choice(WHERE)}."
        for _ in range(lines)
    ]
    return "\n".join(rows) + "\n"
