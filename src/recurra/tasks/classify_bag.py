"""What the n-grams of a text say about its class: linear models, one beside the LSTM and one to beat.

Beside the LSTM stands, of two classes, naive Bayes turned into features of a logistic regression: each n-gram
that a text has counts as the logarithm of how much more frequent it is in the one class than in the other
(Wang and Manning, "Baselines and bigrams: simple, good sentiment and topic classification", 2012, section
2.3), and the regression learns a factor for each; of more classes, n-grams that a text has count by their
rarity. The one to beat is logistic regression on TF-IDF of words and pairs of words: what anything more
elaborate must be better than. Of sequences of numbers both are logistic regression on the numbers.

An n-gram of tokens is one int64: its tokens' numbers side by side, 63 // n bits each; those of rare tokens
that do not fit are the unknown one's. No two other n-grams share one, and to look one up is a binary search.
Axes: N texts, V n-grams, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Keys = NDArray[np.int64]
Numbers = NDArray[np.float32]
Targets = NDArray[np.float32]
KINDS = ("bayes", "tfidf", "plain")

_BITS = 63
_CHUNK = 1 << 21  # tokens whose n-grams are in memory at once
_ALPHABET = 4094  # characters that are told apart in n-grams of characters


@dataclass(frozen=True)
class Family:
    """One kind of n-grams. sizes: the n. keys: (V,) those that are counted, rising.

    form: "tokens"; "gaps", of which only the first and the last token count; "beginnings", with which a text
    begins; "characters", within words and at their edges. alphabet: the code points of characters, rising;
    None for tokens.
    """

    sizes: tuple[int, ...]
    keys: Keys
    alphabet: Keys | None = None
    form: str = "tokens"

    def counts(self, tokens: Sequence[Keys], texts: Sequence[str]) -> Any:
        """How often each text has each n-gram: a sparse matrix (N, V) of float32."""
        from scipy.sparse import csr_array, vstack

        parts = []
        if not len(self.keys):
            return csr_array((len(texts), 0), dtype=np.float32)
        for rows in _chunks(tokens, texts, self.alphabet):
            found = [_keys(rows, n, self.sizes[-1], self.form) for n in self.sizes]
            keys = np.concatenate([pair[0] for pair in found])
            owner = np.concatenate([pair[1] for pair in found])
            place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            known = self.keys[place] == keys
            ones = np.ones(int(known.sum()), np.float32)
            part = csr_array((ones, (owner[known], place[known])), shape=(len(rows), len(self.keys)))
            part.sum_duplicates()
            parts.append(part)
        return vstack(parts, format="csr")

    def written(self, place: int, tokens: Sequence[str]) -> str:
        """The n-gram at this place of the keys as text. tokens: those that the numbers stand for."""
        bits = _BITS // self.sizes[-1]
        key, numbers = int(self.keys[place]), []
        while key:
            numbers.append(key & ((1 << bits) - 1))
            key >>= bits
        if self.alphabet is None:
            written = " ".join(tokens[n] if n else "…" for n in reversed(numbers))
            return f"{written} …" if self.form == "beginnings" else written
        points = [
            32 if n == 1 else 0xFFFD if n == 2 else int(self.alphabet[n - 3]) for n in reversed(numbers)
        ]
        return "".join(map(chr, points))


def learn_family(
    tokens: Sequence[Keys],
    texts: Sequence[str],
    sizes: tuple[int, ...],
    *,
    fewest: int,
    form: str = "tokens",
) -> Family:
    """The n-grams of these sizes and this form that occur `fewest` times or more."""
    alphabet = None
    if form == "characters":
        points, many = np.unique(_points("".join(texts)), return_counts=True)
        alphabet = np.sort(points[np.argsort(-many, kind="stable")[:_ALPHABET]])
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for rows in _chunks(tokens, texts, alphabet):
        here = np.concatenate([_keys(rows, n, sizes[-1], form)[0] for n in sizes])
        new, many = np.unique(here, return_counts=True)
        every, where = np.unique(np.concatenate([keys, new]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([counts, many]), len(every)).astype(np.int64)
        keys = every
    return Family(sizes, keys[counts >= fewest], alphabet, form)


def _chunks(tokens: Sequence[Keys], texts: Sequence[str], alphabet: Keys | None) -> Iterator[list[Keys]]:
    """The rows in groups of about so many tokens; rows of characters where there is an alphabet."""
    group: list[Keys] = []
    total = 0
    for place in range(len(texts)):
        row = tokens[place] if alphabet is None else _letters(texts[place], alphabet)
        group.append(row)
        total += len(row)
        if total >= _CHUNK:
            yield group
            group, total = [], 0
    if group:
        yield group


def _points(text: str) -> Keys:
    """The code points of a text in small letters, blanks of any kind as one blank."""
    plain = f" {' '.join(text.lower().split())} "
    return np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)


def _letters(text: str, alphabet: Keys) -> Keys:
    """The numbers of a text's characters: 1 for a blank, 2 for what is not in the alphabet, then the rest."""
    points = _points(text)
    place = np.minimum(np.searchsorted(alphabet, points), len(alphabet) - 1)
    found = np.where(alphabet[place] == points, place + 3, 2)
    found[points == ord(" ")] = 1
    return found


def _keys(rows: Sequence[Keys], n: int, most: int, form: str) -> tuple[Keys, Keys]:
    """Each n-gram of each row as one number, and the row that it is in."""
    lengths = np.array([len(row) for row in rows])
    joined = np.concatenate(rows) if len(rows) else np.zeros(0, np.int64)
    owner = np.repeat(np.arange(len(rows)), lengths)
    count = max(0, len(joined) - n + 1)
    bits = _BITS // most
    joined = np.where(joined >> bits, 1, joined)
    keys = np.zeros(count, np.int64)
    for k in range(n):
        # no token's number is 0, which is padding's
        left_out = form == "gaps" and 0 < k < n - 1
        keys = (keys << bits) | (0 if left_out else joined[k : k + count])
    kept = owner[:count] == owner[n - 1 : n - 1 + count]
    if form == "characters":
        for k in range(1, n - 1):
            kept &= joined[k : k + count] != 1
    if form == "beginnings":
        kept[1:] &= owner[1:count] != owner[: max(0, count - 1)]
    return keys[kept], owner[:count][kept]


@dataclass(frozen=True)
class Bag:
    """A linear model on counts of n-grams, or on numbers as they are.

    kind: "bayes": whether an n-gram is there; "tfidf": 1 + log of how often it is; "plain": numbers (N, V).
    scales: (V,) of each family, what its n-grams count; each family's part of a row is scaled to length 1.
    factors: (V, K), of all families one after the other, K 1 where there are two classes. bias: (K,).
    several: whether a row can have several classes, or none; then K is their number, also where that is 1.
    """

    kind: str
    scales: tuple[Numbers, ...]
    factors: Numbers
    bias: Numbers
    several: bool = False

    def logits(self, counts: Sequence[Any]) -> Numbers:
        """counts: (N, V) of each family. Returns (N, K), two columns for two classes."""
        found = self._features(counts) @ self.factors + self.bias
        return np.asarray(self._of_each(found), np.float32)

    def _of_each(self, found: Numbers) -> Numbers:
        """(…, K) with two columns for two classes."""
        if found.shape[1] > 1 or self.several:
            return found
        return np.concatenate([-0.5 * found, 0.5 * found], axis=1)

    def _features(self, counts: Sequence[Any]) -> Any:
        """(N, V) of all families, scaled."""
        from scipy.sparse import hstack

        if self.kind == "plain":
            return counts[0]
        parts = [
            _scaled(_heard(one, self.kind), scale) for one, scale in zip(counts, self.scales, strict=True)
        ]
        return parts[0] if len(parts) == 1 else hstack(parts, format="csr")

    def weights(self) -> Numbers:
        """What an n-gram adds to each class in a row that has nothing else, (V, K)."""
        return self._of_each(
            self.factors * np.concatenate(self.scales)[:, None] if self.scales else self.factors
        )

    def tensors(self) -> dict[str, Tensor]:
        """For a model file."""
        scales = {f"scale.{k}": torch.from_numpy(one) for k, one in enumerate(self.scales)}
        return {**scales, "factors": torch.from_numpy(self.factors), "bias": torch.from_numpy(self.bias)}

    @staticmethod
    def from_tensors(kind: str, tensors: Mapping[str, Tensor], *, several: bool = False) -> Bag:
        """What `tensors` gave. Raises KeyError where something is missing."""
        count = sum(name.startswith("scale.") for name in tensors)
        scales = tuple(tensors[f"scale.{k}"].numpy() for k in range(count))
        return Bag(kind, scales, tensors["factors"].numpy(), tensors["bias"].numpy(), several)


def fit_bag(
    counts: Sequence[Any], targets: Targets, weights: Numbers, *, kind: str, several: bool, strength: float
) -> Bag:
    """Scales from the rows, then a logistic regression for each class against the rest.

    counts: (N, V) of each family. targets: (N, K), 0 or 1. weights: (N,), of the rows. kind: see `Bag`;
    "bayes" of other than two classes counts an n-gram by its rarity. strength: the inverse of the
    regularisation, scikit-learn's C. several: whether a row can have several classes, or none.
    """
    columns = targets[:, 1:] if targets.shape[1] == 2 and not several else targets
    ratios = kind == "bayes" and columns.shape[1] == 1
    scales: list[Numbers] = []
    if kind != "plain":
        scales = [_ratios(one, columns[:, 0]) if ratios else _rarity(one) for one in counts]
    empty = Bag(kind, tuple(scales), np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
    x = empty._features(counts)
    fitted = [_regression(x, wanted, weights, strength) for wanted in columns.T]
    factors = np.stack([one[0] for one in fitted], 1)
    bias = np.array([one[1] for one in fitted], np.float32)
    return Bag(kind, tuple(scales), factors, bias, several)


def _ratios(counts: Any, wanted: NDArray[Any]) -> Numbers:
    """(V,): log of an n-gram's share in the class over its share elsewhere (equation 2, α = 1)."""
    there = _heard(counts, "bayes")
    inside, outside = there.T @ wanted + 1, there.T @ (1 - wanted) + 1
    return np.asarray(np.log((inside / inside.sum()) / (outside / outside.sum())), np.float32)


def _rarity(counts: Any) -> Numbers:
    """(V,): 1 + log of how few of the rows have an n-gram, the idf of scikit-learn."""
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    return np.asarray(np.log((1 + counts.shape[0]) / (1 + frequency)) + 1, np.float32)


def _heard(counts: Any, kind: str) -> Any:
    heard = counts.copy()
    heard.data = np.ones_like(heard.data) if kind == "bayes" else 1 + np.log(heard.data)
    return heard


def _scaled(x: Any, scale: Numbers) -> Any:
    """Columns times their scale, then each row of length 1."""
    from scipy.sparse import diags_array

    length = np.sqrt(np.maximum(x.power(2) @ np.square(scale), 1e-12))
    return (diags_array(1 / length) @ x @ diags_array(scale)).tocsr()


def _regression(x: Any, wanted: NDArray[Any], weights: Numbers, strength: float) -> tuple[Numbers, float]:
    """The factors (V,) and the constant; where all rows are of one kind, the constant alone."""
    rows, share = len(wanted), float((wanted * weights).sum() / weights.sum())
    if wanted.min() == wanted.max():
        return np.zeros(x.shape[1], np.float32), float(
            np.log((share * rows + 0.5) / ((1 - share) * rows + 0.5))
        )
    from sklearn.linear_model import LogisticRegression

    dense = isinstance(x, np.ndarray)
    model = LogisticRegression(
        C=strength, solver="liblinear", dual=not dense, random_state=0, max_iter=200, tol=1e-3
    )
    with warnings.catch_warnings(action="ignore"):  # a model that is good enough could be fitted further
        model.fit(x.astype(np.float64) if dense else _narrow(x), wanted > 0.5, sample_weight=weights)
    return model.coef_[0].astype(np.float32), float(model.intercept_[0])


def _narrow(x: Any) -> Any:
    """With indices of 32 bits and numbers of 64, which is what liblinear takes."""
    from scipy.sparse import csr_matrix

    indices, starts = x.indices.astype(np.int32), x.indptr.astype(np.int32)
    return csr_matrix((x.data.astype(np.float64), indices, starts), shape=x.shape)
