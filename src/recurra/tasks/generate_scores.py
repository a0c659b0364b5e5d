"""How well a text was foreseen: nats of each token, what they amount to, and what n-grams reach.

Perplexity is exp of the mean nats of a token, the closing `<eos>` of a line or text counted as a token (the
protocol of the Penn Treebank). Bits per character are all nats over log 2 over all characters, such a close
counted as one. Axes: T tokens, K different ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.data.corpus import Corpus, end_of, start_of, stream
from recurra.data.tokens import Tokenizer
from recurra.tasks.ngrams import KneserNey, Numbers

_ORDER = {"character": 8, "bpe": 6}  # n of the longest n-grams; others 5
_FEWEST = 20  # tokens of a text that n-grams are learnt from


@dataclass(frozen=True)
class Foreseen:
    """A text as a model saw it come.

    numbers: (T,) its tokens. nats: (T,) of each, -log of the probability that it had. characters: how many
    the text has, the close of a line or text counted as one. unknown: tokens that the model does not know.
    """

    numbers: Numbers
    nats: NDArray[np.float64]
    characters: int
    unknown: int

    def scores(self) -> dict[str, float]:
        """tokens, unknown, nats_per_token, perplexity, nats_per_character, bits_per_character."""
        total, mean = float(self.nats.sum()), float(self.nats.mean())
        per_character = total / max(self.characters, 1)
        return {
            "tokens": len(self.nats),
            "characters": self.characters,
            "unknown": self.unknown,
            "nats_per_token": mean,
            "perplexity": float(np.exp(min(mean, 700.0))),
            "nats_per_character": per_character,
            "bits_per_character": per_character / float(np.log(2)),
        }


def counted_stream(corpus: Corpus, tokenizer: Tokenizer) -> tuple[Numbers, int, int]:
    """The tokens of a corpus, its characters with a close as one each, and how many tokens are unknown."""
    numbers = stream(corpus, tokenizer)
    end = end_of(tokenizer)
    pieces = corpus.pieces(tokenizer.kind)
    characters = sum(map(len, pieces)) + len(pieces) - (1 if end is None else 0)
    return numbers, characters, int((numbers == tokenizer.unknown).sum())


def order_for(tokenizer: Tokenizer) -> int:
    """n of the longest n-grams worth counting."""
    return _ORDER.get(tokenizer.kind, 5)


def baselines(learnt: Numbers, numbers: Numbers, tokenizer: Tokenizer) -> dict[str, float]:
    """Nats per token of unigrams, of bigrams, and of the best longer n-gram, learnt from another text.

    The length of the last is the one that suits the judged text best, which favours the n-gram.
    """
    before = np.array([start_of(tokenizer)])
    model = KneserNey(learnt, len(tokenizer), order_for(tokenizer))
    rows = model.surprise(np.concatenate([before, numbers]))[:, 1:].mean(1)
    return _named(rows)


def own_baselines(numbers: Numbers, tokenizer: Tokenizer) -> dict[str, float]:
    """The same n-grams learnt from the judged text itself: each part of it foreseen by all the others.

    For where the text that the model learnt from is not at hand. The parts are tenths, of more than 200,000
    tokens quarters. Empty for a text of fewer than 20 tokens.
    """
    if len(numbers) < _FEWEST:
        return {}
    edges = np.linspace(0, len(numbers), 11 if len(numbers) <= 200_000 else 5).astype(int)
    total: NDArray[np.float64] | None = None
    for first, stop in pairwise(edges):
        rest = np.concatenate([numbers[:first], numbers[stop:]])
        rows = KneserNey(rest, len(tokenizer), order_for(tokenizer)).surprise(numbers[first:stop]).sum(1)
        total = rows if total is None else total + rows[: len(total)]
    assert total is not None
    return _named(total / len(numbers))


def _named(rows: NDArray[np.float64]) -> dict[str, float]:
    """Row n - 1 is that of order n."""
    found = {"unigrams": float(rows[0])}
    if len(rows) > 1:
        found["bigrams"] = float(rows[1])
    if len(rows) > 2:
        best = int(np.argmin(rows[2:])) + 2
        found[f"{best + 1}-grams, Kneser-Ney"] = float(rows[best])
    return found


def by_frequency(numbers: Numbers, nats: NDArray[np.float64], counts: Numbers) -> list[dict[str, Any]]:
    """Mean nats by how often a token was in the training text: rows of name, share of the text, nats.

    counts: (K,) of the training text.
    """
    seen = counts[numbers]
    edges = [0, 1, 10, 100, 1_000, 10_000, 100_000, 1 << 62]
    rows = []
    for low, high in pairwise(edges):
        here = (seen >= low) & (seen < high)
        if here.any():
            name = (
                "never" if high == 1 else f"{low:,} to {high - 1:,}" if high < 1 << 62 else f"{low:,} or more"
            )
            rows.append({"name": name, "share": float(here.mean()), "nats": float(nats[here].mean())})
    return rows


def by_position(positions: Numbers, nats: NDArray[np.float64], most: int = 40) -> list[tuple[int, float]]:
    """Mean nats of the tokens at each place (counted from 1) of their line or text, where there are 20."""
    rows = []
    for place in range(1, min(most, int(positions.max(initial=0))) + 1):
        here = positions == place
        if here.sum() >= 20:
            rows.append((place, float(nats[here].mean())))
    return rows


def positions(numbers: Numbers, closing: int) -> Numbers:
    """(T,): the place, from 1, of each token since the last one that is `closing`."""
    places = np.arange(1, len(numbers) + 1)
    last = np.zeros(len(numbers), np.int64)
    ends = np.flatnonzero(numbers[:-1] == closing) + 1
    last[ends] = ends
    return np.asarray(places - np.maximum.accumulate(last), np.int64)


def verdict(scores: Mapping[str, float], rivals: Mapping[str, float], kind: str) -> str:
    """The model beside the best n-gram, in a sentence."""
    own = scores["nats_per_token"]
    if not rivals:
        return f"The model has {_measured(own, kind)}; the text is too short for n-grams to compare it with."
    name = min(rivals, key=rivals.__getitem__)
    best = rivals[name]
    word = "is level with" if abs(own - best) < 0.005 else "beats" if own < best else "does not beat"
    return (
        f"The model {word} the best n-gram: {_measured(own, kind)} against {_measured(best, kind)} of {name}."
    )


def state_of(scores: Mapping[str, float], rivals: Mapping[str, float]) -> tuple[str, str]:
    """Class and tag of the verdict, for the report."""
    if not rivals:
        return "none", "No comparison"
    gain = min(rivals.values()) - scores["nats_per_token"]
    if abs(gain) < 0.005:
        return "level", "Level with the baselines"
    return ("wins", "Better than the baselines") if gain > 0 else ("loses", "Worse than a baseline")


def _measured(nats: float, kind: str) -> str:
    if kind == "character":
        return f"{nats:.3f} nats a character ({nats / np.log(2):.3f} bits)"
    return f"a perplexity of {np.exp(nats):.1f}"
