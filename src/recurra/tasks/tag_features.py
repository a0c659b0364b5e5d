"""What a tagger sees of a word: the word itself, its shape, its beginnings and ends, its characters.

All of it depends on the written word alone, so each different word is looked at once, however often it
stands in the data. Without pretrained vectors shapes and affixes carry much of what is known of rare words
(Huang, Xu and Yu, "Bidirectional LSTM-CRF Models for Sequence Tagging", 2015, §4.2). Axes: N sentences, T
words, U different words, A attributes, C characters of a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.data.buckets import batches_by_length
from recurra.data.tagged import Tagged
from recurra.tasks.tag_network import Batch

PADDING, UNKNOWN = 0, 1
STEPS = 16384
"""Words of a batch at most in training, padding included; a longer sentence stands alone."""
AFFIXES = (-1, -2, -3, -4, 1, 2, 3)
"""Lengths of the ends (negative) and beginnings of a word that are looked up."""
FRONT, BACK = 14, 10
"""Of a longer word the characters at its front and back are seen, and none between."""

LONGEST = 100
"""Letters by which words are told apart."""

_DIGITS = re.compile(r"\d")
_RUNS = re.compile(r"(.)\1\1+")

Numbers = NDArray[np.int64]


class _Kinds(dict[int, str]):
    """What stands for a character in a word's shape, by its code point; remembered once it was asked for."""

    def __missing__(self, point: int) -> str:
        c = chr(point)
        kind = "d" if c.isdigit() else "X" if c.isupper() or c.istitle() else "x" if c.isalpha() else c
        self[point] = kind
        return kind


_KINDS = _Kinds()


def _two(run: re.Match[str]) -> str:
    return run[1] * 2


def plain(word: str) -> str:
    """A word in small letters, each digit 0: under this name it is looked up."""
    return _DIGITS.sub("0", word[:LONGEST].lower())


def shape(word: str) -> str:
    """A word's letters as X and x, digits as d, runs of one as two: "McDonald-97" is "XxXxx-dd"."""
    return _RUNS.sub(_two, word[: FRONT + BACK].translate(_KINDS))


def affix(word: str, length: int) -> str:
    """The last letters of a word for a negative length, else the first; "" where the word is no longer."""
    if len(word) <= abs(length):
        return ""
    return word[length:] if length < 0 else word[:length]


@dataclass(frozen=True)
class Lexicon:
    """The words, characters, shapes and affixes that a tagger knows; numbers 0 and 1 are padding and unknown.

    attributes: A tuples of names: of words, shapes, and each of `affixes`. affixes: their lengths.
    """

    characters: tuple[str, ...]
    attributes: tuple[tuple[str, ...], ...]
    affixes: tuple[int, ...]

    @staticmethod
    def fit(sentences: Iterable[Sequence[str]], more: Iterable[str] = ()) -> Lexicon:
        """Learn from sentences of words; `more`: words to know besides, those that have vectors."""
        counts = Counter(word for words in sentences for word in words)
        listed: list[Counter[str]] = [Counter() for _ in range(2 + len(AFFIXES))]
        letters: Counter[str] = Counter()
        for word, often in counts.items():
            for found, name in zip(listed, _names(word, AFFIXES), strict=True):
                found[name] += often
            for letter in _seen(word):
                letters[letter] += often
        # of shapes and affixes only those of several words say something of words that were never seen
        kinds = [Counter(names) for names in zip(*(_names(word, AFFIXES) for word in counts), strict=True)]
        fewest = (1, *(2 if len(counts) > 500 else 1,) * (1 + len(AFFIXES)))
        attributes = [
            _ranked({name: n for name, n in found.items() if kind[name] >= least})
            for found, kind, least in zip(listed, kinds, fewest, strict=True)
        ]
        extra = sorted({plain(word) for word in more} - set(attributes[0]))
        attributes[0] = (*attributes[0], *extra)
        return Lexicon(_ranked(letters), tuple(attributes), AFFIXES)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each of the A attributes has, padding and unknown included."""
        return tuple(len(names) + 2 for names in self.attributes)

    def encode(self, words: Sequence[str]) -> tuple[Numbers, Numbers]:
        """The attributes (U, A) of U words, and their characters (U, C), padded with 0; C is at least 1."""
        tables = [{name: n for n, name in enumerate(names, 2)} for names in self.attributes]
        attributes = np.array(
            [
                [
                    table.get(name, UNKNOWN)
                    for table, name in zip(tables, _names(word, self.affixes), strict=True)
                ]
                for word in words
            ],
            dtype=np.int64,
        ).reshape(len(words), len(tables))
        letters = {letter: n for n, letter in enumerate(self.characters, 2)}
        seen = [[letters.get(letter, UNKNOWN) for letter in _seen(word)] for word in words]
        characters = np.zeros((len(words), max([1, *map(len, seen)])), dtype=np.int64)
        for row, numbers in zip(characters, seen, strict=True):
            row[: len(numbers)] = numbers
        return attributes, characters

    def to_json(self) -> dict[str, Any]:
        """All of it, for a model file."""
        return {
            "characters": list(self.characters),
            "attributes": [list(names) for names in self.attributes],
            "affixes": list(self.affixes),
        }

    @staticmethod
    def from_json(document: dict[str, Any]) -> Lexicon:
        """What `to_json` told. Raises KeyError, TypeError or ValueError for anything else."""
        return Lexicon(
            tuple(str(letter) for letter in document["characters"]),
            tuple(tuple(str(name) for name in names) for names in document["attributes"]),
            tuple(int(length) for length in document["affixes"]),
        )


@dataclass(frozen=True)
class Encoded:
    """N sentences as numbers: which of U different words each word is, and what is seen of these.

    attributes: (U, A), characters: (U, C). tokens: the words of all sentences one after another, each the
    number of a row of those. offsets: (N + 1,) where each sentence begins. tags: as tokens, −1 for a tag that
    is not known; None where there are none.
    """

    attributes: Numbers
    characters: Numbers
    tokens: Numbers
    offsets: Numbers
    tags: Numbers | None

    @staticmethod
    def of(
        data: Tagged, lexicon: Lexicon, tags: Sequence[Sequence[str]] | None, labels: Sequence[str]
    ) -> Encoded:
        """The numbers of `data`. tags: of each sentence, as in `labels`."""
        numbers: dict[str, int] = {}
        flat = (word for words in data.words for word in words)
        tokens = np.fromiter((numbers.setdefault(word, len(numbers)) for word in flat), np.int64)
        offsets = np.concatenate(([0], np.cumsum([len(words) for words in data.words], dtype=np.int64)))
        found = None
        if tags is not None:
            known = {label: n for n, label in enumerate(labels)}
            found = np.fromiter((known.get(tag, -1) for row in tags for tag in row), np.int64)
        attributes, characters = lexicon.encode(list(numbers))
        return Encoded(attributes, characters, tokens, offsets, found)

    @property
    def lengths(self) -> Numbers:
        """(N,)"""
        return np.diff(self.offsets)

    def put(self, flat: NDArray[Any], places: Numbers, rows: NDArray[Any]) -> None:
        """Write values (N, T) of the sentences at these places where they belong in a flat array."""
        steps = np.arange(rows.shape[1])
        inside = steps < self.lengths[places][:, None]
        flat[(self.offsets[places][:, None] + steps)[inside]] = rows[inside]

    def split(self, flat: NDArray[Any]) -> list[list[Any]]:
        """A flat array as a list for each sentence."""
        values, ends = flat.tolist(), self.offsets.tolist()
        return [values[start:stop] for start, stop in pairwise(ends)]

    def rows(self, places: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
        """The values (N, T) of sentences at these places, 0 beyond their lengths (N,); T is at least 1."""
        starts, lengths = self.offsets[places], self.lengths[places]
        steps = np.arange(max(1, int(lengths.max(initial=0))))
        inside = steps < lengths[:, None]
        where = np.minimum(starts[:, None] + steps, max(0, len(values) - 1))
        found = values[where] if len(values) else np.zeros_like(where)
        return np.where(inside, found, 0), lengths


class Batches:
    """An epoch's batches of sentences of like length, a pure function of the generator's state.

    Its length leaves aside that fewer very long sentences make a batch.
    """

    def __init__(self, encoded: Encoded, size: int) -> None:
        self.encoded, self.size = encoded, size
        self.places = np.flatnonzero(encoded.lengths)
        counts = np.bincount(encoded.attributes[encoded.tokens, 0])
        self.chances = word_chances(np.maximum(counts, 1))

    def __len__(self) -> int:
        return -(-len(self.places) // self.size)

    def __call__(self, generator: torch.Generator) -> Iterator[Batch]:
        it = self.encoded
        known = it.lengths[self.places]
        for chosen in batches_by_length(known, self.size, generator, most_steps=STEPS):
            rows = self.places[chosen]
            tokens, lengths = it.rows(rows, it.tokens)
            assert it.tags is not None
            tags, _ = it.rows(rows, it.tags)
            words, places = np.unique(tokens, return_inverse=True)
            attributes = torch.from_numpy(it.attributes[words])
            forgotten = torch.rand(len(words), generator=generator) < self.chances[attributes[:, 0]]
            attributes[forgotten, 0] = UNKNOWN
            characters = it.characters[words]
            longest = max(1, int((characters != 0).sum(1).max()))
            yield Batch(
                attributes,
                torch.from_numpy(characters[:, :longest]),
                torch.from_numpy(places.reshape(tokens.shape)),
                torch.from_numpy(lengths),
                torch.from_numpy(tags),
            )


def _names(word: str, affixes: Sequence[int]) -> tuple[str, ...]:
    """What a word's attributes are called: itself, its shape, its affixes."""
    known = plain(word)
    return (known, shape(word), *(affix(known, length) for length in affixes))


def _seen(word: str) -> str:
    return word if len(word) <= FRONT + BACK else word[:FRONT] + word[-BACK:]


def _ranked(counts: dict[str, int]) -> tuple[str, ...]:
    """Names, the most frequent first, and those of one frequency by themselves: the same on every machine."""
    return tuple(sorted(counts, key=lambda name: (-counts[name], name)))


def word_chances(counts: Numbers) -> Tensor:
    """How likely each word is taken for an unknown one in training: rare ones often, frequent ones seldom.

    counts: how often it stands in the data. Source: Kiperwasser and Goldberg, "Simple and Accurate Dependency
    Parsing Using Bidirectional LSTM Feature Representations", 2016, §4.2, with 1 for their 0.25.
    """
    return torch.from_numpy(1.0 / (1.0 + counts))
