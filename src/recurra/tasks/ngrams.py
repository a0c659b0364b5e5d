"""What a language model must beat: n-grams with interpolated Kneser-Ney smoothing.

    p_n(w | u) = max(c(u w) - D_n, 0) / c(u) + D_n N(u) / c(u) · p_{n-1}(w | u without its first token)

N(u) is the number of different tokens seen after u, c counts occurrences at the highest order and different
predecessors below it, D_n = n_1 / (n_1 + 2 n_2) of the n-grams counted once and twice, and p_0 is uniform.

Source: Kneser and Ney 1995; Chen and Goodman 1999, "An empirical study of smoothing techniques for language
modeling", section 2.7. Axes: T tokens, K different ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class _Counts:
    """Of the n-grams of one n. counts: of each; totals: by context, their sum; discount: D_n."""

    counts: NDArray[np.float64]
    totals: NDArray[np.float64]
    discount: float


@dataclass(frozen=True)
class _Order:
    """The n-grams of one n. An n-gram is numbered by its place among `codes`."""

    codes: Numbers  # sorted: number of the context, an (n-1)-gram, times K plus the last token
    followers: NDArray[np.float64]  # by context: N(u)
    top: _Counts  # how often each occurs
    below: _Counts  # how many different tokens stand before each


class KneserNey:
    """n-grams of all orders up to one, of one text.

    For example::

        model = KneserNey(np.array([0, 1, 2, 0, 1, 2, 0]), tokens=3, order=2)
        nats = model.surprise(np.array([0, 1, 2]))[1]      # (3,) of bigrams
    """

    def __init__(self, numbers: Numbers, tokens: int, order: int) -> None:
        """numbers: (T,) the text it learns. tokens: K. Raises ArgumentError for an order below 1."""
        if order < 1:
            raise ArgumentError(f"order: expected 1 or more, got {order}; 5 is usual for words")
        self.tokens, self.orders = tokens, list[_Order]()
        ends = np.asarray(numbers, np.int64)
        grams = np.zeros(len(ends), np.int64)  # the context of each token; of unigrams the empty one
        suffixes, contexts = grams, 1
        found: list[tuple[Numbers, int, NDArray[np.float64]]] = []
        predecessors: list[NDArray[np.float64]] = []
        for _ in range(min(order + 1, len(ends))):
            codes, first, inverse, counts = np.unique(
                grams * tokens + ends, return_index=True, return_inverse=True, return_counts=True
            )
            if found:
                # the suffix of an n-gram is an (n-1)-gram, and each n-gram one more token before it
                different = np.bincount(suffixes[first], minlength=len(found[-1][0])).astype(np.float64)
                predecessors.append(np.maximum(different, 1.0))  # the text's first one has nothing before it
            found.append((codes, contexts, counts.astype(np.float64)))
            contexts = len(codes)
            grams, suffixes, ends = inverse[:-1], inverse[1:], ends[1:]
        if len(found) <= order:
            predecessors.append(found[-1][2])  # of the longest one, which has nothing above it
        for (codes, size, counts), below in zip(found, predecessors, strict=False):
            context = codes // tokens
            followers = np.maximum(np.bincount(context, minlength=size), 1).astype(np.float64)
            both = (_counted(counts, context, size), _counted(below, context, size))
            self.orders.append(_Order(codes, followers, *both))

    def surprise(self, numbers: Numbers) -> NDArray[np.float64]:
        """(n, T) nats of each token of another text: row n - 1 is the model of order n."""
        numbers = np.asarray(numbers, np.int64)
        lower = np.full(len(numbers), 1.0 / self.tokens)
        context = np.zeros(len(numbers), np.int64)  # -1 where it was never seen
        rows = []
        for held in self.orders:
            seen = context >= 0
            place = np.where(seen, context, 0)
            codes = place * self.tokens + numbers
            at = np.minimum(np.searchsorted(held.codes, codes), len(held.codes) - 1)
            known = seen & (held.codes[at] == codes)
            chances = []
            for counts in (held.top, held.below):
                own = np.maximum(np.where(known, counts.counts[at], 0.0) - counts.discount, 0.0)
                rest = counts.discount * held.followers[place] * lower
                chances.append(np.where(seen, (own + rest) / counts.totals[place], lower))
            rows.append(-np.log(chances[0]))
            lower = chances[1]
            context = np.concatenate([[-1], np.where(known, at, -1)[:-1]])[: len(numbers)]
        return np.array(rows)


def _counted(counts: NDArray[np.float64], context: Numbers, size: int) -> _Counts:
    once, twice = int(np.sum(counts == 1)), int(np.sum(counts == 2))
    discount = once / (once + 2 * twice) if once and twice else 0.5
    totals = np.bincount(context, weights=counts, minlength=size)
    # nothing follows the text's last tokens: then all is left to the order below
    return _Counts(counts, np.where(totals > 0, totals, discount), discount)
