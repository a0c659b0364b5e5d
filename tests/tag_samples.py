"""Sentences of people, places and dates, made up so that a tiny tagger learns them in a second."""

from __future__ import annotations

import random

Pair = tuple[list[str], list[str]]
PEOPLE = ("Ada", "Alan Turing", "Grace Hopper", "Bob", "Mary Ann Evans", "Zoë")
PLACES = ("London", "New York", "Rio de Janeiro", "東京", "Bath")


def sentences(count: int, seed: int = 7) -> list[Pair]:
    """(words, tags) in BIO: who went where."""
    draw = random.Random(seed)
    return [_sentence(draw) for _ in range(count)]


def _sentence(draw: random.Random) -> Pair:
    words: list[str] = []
    tags: list[str] = []
    for phrase, kind in (
        (draw.choice(PEOPLE), "PER"),
        (draw.choice(["went to", "left", "never saw"]), ""),
        (draw.choice(PLACES), "LOC"),
        (draw.choice([".", "in 1997 .", "!"]), ""),
    ):
        for place, word in enumerate(phrase.split()):
            words.append(word)
            tags.append(f"{'I' if place else 'B'}-{kind}" if kind else "O")
    return words, tags


def columns(pairs: list[Pair], between: str = " ") -> str:
    """A file of three columns."""
    blocks = ("".join(f"{between.join((w, 'X', t))}\n" for w, t in zip(*pair, strict=True)) for pair in pairs)
    return "\n".join(blocks)
