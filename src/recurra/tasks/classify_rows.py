"""From texts or sequences of numbers to what the parts of a classifier read. Axes: N, T, F, K classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.data.buckets import padded
from recurra.data.sequences import Sequences, is_sequences, read_sequences
from recurra.data.texts import Texts, read_texts
from recurra.data.tokens import Tokenizer
from recurra.data.words import counted, several, short
from recurra.errors import ArgumentError, DataError
from recurra.tasks.classify_bag import Family, learn_family
from recurra.tasks.classify_network import Batch, Spelling
from recurra.tasks.classify_plan import Plan

Data = Texts | Sequences
FEWEST = 4  # rows: two to learn from, two to judge by
WORDS = 1_000_000  # different words that n-grams are made of
RUNS = 30_000  # runs of letters that are told apart, the most frequent ones
RESAMPLED = 24  # steps of a sequence that the linear model sees


def read(source: Any, labels: Iterable[Any] | None, *, labelled: bool, columns: Mapping[str, Any]) -> Data:
    """Texts or sequences, whichever the source holds. Raises DataError."""
    if not is_sequences(source):
        return read_texts(source, labels, labelled=labelled, **columns)
    unfit = [name for name, value in columns.items() if value is not None]
    if unfit:
        raise ArgumentError(
            f"{unfit[0]} is for texts, and these are sequences of numbers, which have no such column: leave "
            "it out"
        )
    return read_sequences(source, labels, labelled=labelled)


def classes_of(data: Data) -> tuple[tuple[str, ...], bool]:
    """The classes, sorted, and whether rows have several. Raises DataError where there are not two."""
    assert data.labels is not None
    counts: dict[str, int] = {}
    for labels in data.labels:
        for label in labels:
            counts[label] = counts.get(label, 0) + 1
    many = any(len(labels) != 1 for labels in data.labels)
    if len(counts) < 2 and not (many and counts):
        what = f"only {short(next(iter(counts)))}" if counts else "none"
        raise DataError(
            f"{data.name!r} has {what} as label in all {counted(len(data), 'row')}; expected two classes or "
            "more: give rows of another class too, or name another column as label"
        )
    if len(counts) > 10 and len(counts) > 0.5 * len(data) and not many:
        raise DataError(
            f"{data.name!r} has {len(counts):,} different labels in {counted(len(data), 'row')}, such as "
            f"{several([short(one, 20) for one in list(counts)[:3]])}; expected classes that recur: name the "
            "column with the classes (label, or --label on the command line)"
        )
    if len(data) < FEWEST:
        raise DataError(f"{data.name!r} has {counted(len(data), 'row')}; expected at least four: give more")
    numbers = all(one.lstrip("-").isdigit() and len(one) < 16 for one in counts)
    return tuple(sorted(counts, key=int if numbers else str)), many


def check_kinds(known: Data, other: Data, name: str) -> None:
    """Raises DataError where one holds texts and the other numbers. name: the argument of the other."""
    if isinstance(known, Sequences) != isinstance(other, Sequences):
        raise DataError(
            f"{known.name!r} and {other.name!r} are texts and sequences of numbers; expected the same of "
            f"both: give others with {name}"
        )


def targets_of(data: Data, classes: Sequence[str], many: bool) -> NDArray[np.float32]:
    """(N, K): 1 for each label of a row. Raises DataError for a label that is not among the classes."""
    assert data.labels is not None
    place = {name: k for k, name in enumerate(classes)}
    targets = np.zeros((len(data), len(classes)), np.float32)
    for n, labels in enumerate(data.labels):
        unknown = next((label for label in labels if label not in place), None)
        if unknown is not None:
            raise DataError(
                f"row {data.rows[n]} of {data.name!r} has the label {short(unknown)}, which the model has "
                f"not learnt; expected one of {several(list(classes))}: correct it, remove the row, or train "
                "with it"
            )
        if len(labels) != 1 and not many:
            raise DataError(
                f"row {data.rows[n]} of {data.name!r} has {counted(len(labels), 'label')}; expected one, as "
                "in all rows that the model has learnt from: give it one"
            )
        targets[n, [place[label] for label in labels]] = 1
    return targets


@dataclass(frozen=True)
class Preparation:
    """All that must be known to read a row as the training rows were read.

    Of texts: tokenizer, families of n-grams, the first of them that of the floor, and how many tokens the
    readers tell apart, padding and unknown among them, 0 for numbers: those that occur once are left out, so
    that the readers learn what an unknown one says and cannot learn these rows by heart. Of numbers: mean and
    scale (F,). Made by `Preparation.fit`.
    """

    plan: Plan
    tokenizer: Tokenizer | None = None
    families: tuple[Family, ...] = ()
    known: int = 0
    mean: NDArray[np.float32] | None = None
    scale: NDArray[np.float32] | None = None

    @staticmethod
    def fit(data: Data, plan: Plan, kind: str) -> Preparation:
        """kind: of tokens. Raises DataError where the texts have no token."""
        if isinstance(data, Sequences):
            steps = np.concatenate(data.values)
            if not len(steps):
                raise DataError(f"{data.name!r} has sequences without any step; expected some steps")
            mean, scale = steps.mean(0), steps.std(0)
            scale[scale < 1e-6 * np.maximum(np.abs(mean), 1e-30)] = 1
            return Preparation(plan, mean=mean, scale=scale)
        tokenizer = Tokenizer.fit(
            data.texts, kind, vocabulary=plan.vocabulary if kind == "bpe" else WORDS, lower=True
        )
        tokens = tokenizer.encode(data.texts)
        sizes = (1, 2, 3, 4, 5) if kind == "character" else (1, 2)
        families = [learn_family(tokens, data.texts, sizes, fewest=2)]
        if plan.fewest != 2:
            families.append(learn_family(tokens, data.texts, sizes, fewest=plan.fewest))
        more = {"gaps": plan.gaps, "beginnings": plan.beginnings} if _begin_alike(tokens) else {}
        more["characters"] = plan.characters
        for form, own in more.items():
            if own and kind != "character":
                families.append(learn_family(tokens, data.texts, own, fewest=2, form=form))
        counts = np.bincount(np.concatenate(tokens), minlength=len(tokenizer))[2:]
        frequent = len(tokenizer) if kind == "bpe" else 2 + int((counts > 1).sum())
        return Preparation(plan, tokenizer, tuple(families), min(frequent, plan.vocabulary))

    def encode(self, data: Data, *, linear: bool = True) -> Rows:
        """What the parts of the classifier read of these rows. Raises DataError for data of another kind.

        linear: whether for the linear models too.
        """
        if (self.tokenizer is None) != isinstance(data, Sequences):
            kinds = ("texts", "sequences of numbers")
            got, learnt = kinds if self.tokenizer is None else kinds[::-1]
            raise DataError(f"{data.name!r} holds {got}; expected {learnt}, which the model has learnt from")
        if isinstance(data, Sequences):
            assert self.mean is not None
            assert self.scale is not None
            if data.features != len(self.mean):
                raise DataError(
                    f"{data.name!r} has {counted(data.features, 'number')} in a step where the model has "
                    f"learnt from {len(self.mean)}; expected as many: give the same features"
                )
            values = [(one - self.mean) / self.scale for one in data.values]
            return Rows(tuple(values), (np.stack([_resampled(one) for one in values]),), 1)
        assert self.tokenizer is not None
        tokens = self.tokenizer.encode(data.texts)
        families = self.families if linear else ()
        counts = tuple(family.counts(tokens, data.texts) for family in families)
        known, longest = self.known, self.plan.longest
        return Rows(tuple(cut(np.where(one < known, one, 1), longest) for one in tokens), counts, self.first)

    def spelling(self) -> Spelling | None:
        """The runs of letters of the tokens that the readers tell apart; None where these have none."""
        if self.tokenizer is None or self.tokenizer.kind not in ("word", "blank", "jieba"):
            return None
        found = [_runs(token, self.plan.letters) for token in self.tokenizer.tokens[: self.known]]
        found[self.tokenizer.padding] = found[self.tokenizer.unknown] = []
        counts = Counter(run for runs in found for run in set(runs))
        kept = sorted((run for run, n in counts.items() if n > 1), key=lambda run: (-counts[run], run))
        if not kept:
            return None
        numbers = {run: number for number, run in enumerate(kept[:RUNS])}
        pieces = [[numbers[run] for run in runs if run in numbers] for runs in found]
        starts = np.cumsum([0, *map(len, pieces)])
        joined = np.array([number for runs in pieces for number in runs], np.int64)
        return Spelling(torch.from_numpy(joined), torch.from_numpy(starts), len(numbers))

    @property
    def features(self) -> int:
        """F of the numbers in a step; 0 for texts."""
        return 0 if self.mean is None else len(self.mean)

    @property
    def first(self) -> int:
        """Where the families of the bag begin: the floor's own is left out where it is not one of them."""
        return 1 if self.tokenizer is not None and self.plan.fewest != 2 else 0

    def to_tensors(self) -> dict[str, Tensor]:
        """For a model file."""
        named = {}
        for k, family in enumerate(self.families):
            named[f"family.{k}.keys"] = torch.from_numpy(family.keys)
            if family.alphabet is not None:
                named[f"family.{k}.alphabet"] = torch.from_numpy(family.alphabet)
        if self.mean is not None and self.scale is not None:
            named |= {"mean": torch.from_numpy(self.mean), "scale": torch.from_numpy(self.scale)}
        return named

    def to_json(self) -> dict[str, Any]:
        """What `to_tensors` does not hold."""
        return {
            "tokenizer": None if self.tokenizer is None else self.tokenizer.to_json(),
            "sizes": [list(family.sizes) for family in self.families],
            "forms": [family.form for family in self.families],
            "known": self.known,
        }

    @staticmethod
    def from_parts(plan: Plan, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> Preparation:
        """What `to_tensors` and `to_json` gave."""
        if document["tokenizer"] is None:
            return Preparation(plan, mean=tensors["mean"].numpy(), scale=tensors["scale"].numpy())
        families = []
        for k, (sizes, form) in enumerate(zip(document["sizes"], document["forms"], strict=True)):
            alphabet = tensors.get(f"family.{k}.alphabet")
            families.append(
                Family(
                    tuple(sizes),
                    tensors[f"family.{k}.keys"].numpy(),
                    None if alphabet is None else alphabet.numpy(),
                    form,
                )
            )
        return Preparation(
            plan, Tokenizer.from_json(document["tokenizer"]), tuple(families), int(document["known"])
        )


@dataclass(frozen=True)
class Rows:
    """N encoded rows. values: tokens (T_n,) or numbers (T_n, F). counts: what the linear models read.

    first: the families of the bag begin here; the first of all is the floor's.
    """

    values: tuple[NDArray[Any], ...]
    counts: tuple[Any, ...]
    first: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(one) for one in self.values], dtype=np.int64)

    def floor_counts(self, places: NDArray[Any] | slice = slice(None)) -> list[Any]:
        return [self.counts[0][places]]

    def bag_counts(self, places: NDArray[Any] | slice = slice(None)) -> list[Any]:
        first = 0 if isinstance(self.counts[0], np.ndarray) else self.first
        return [one[places] for one in self.counts[first:]]

    def batch(
        self,
        places: NDArray[Any],
        targets: NDArray[np.float32] | None = None,
        wide: NDArray[np.float32] | None = None,
        weights: NDArray[np.float32] | None = None,
    ) -> Batch:
        """These rows as one batch; of targets, wide and weights the same rows."""
        x, lengths = padded([self.values[n] for n in places])
        parts = [None if one is None else torch.from_numpy(one[places]) for one in (targets, wide, weights)]
        return Batch(x, lengths, *parts)


def _begin_alike(tokens: Sequence[NDArray[np.int64]]) -> bool:
    """Whether twenty tokens begin half of the texts, as of questions; how headlines begin only misleads."""
    counts = np.sort(np.bincount([int(one[0]) for one in tokens if len(one)]))
    return bool(counts[-20:].sum() >= 0.5 * len(tokens))


def _runs(token: str, sizes: tuple[int, ...]) -> list[str]:
    """Runs of letters in a token, its beginning and end marked, without the whole of it."""
    marked = f"<{token}>"
    runs = [marked[at : at + n] for n in sizes for at in range(len(marked) - n + 1)]
    return [run for run in runs if run != marked]


def cut(tokens: NDArray[Any], longest: int) -> NDArray[Any]:
    """The beginning and the end of a row that is too long."""
    if len(tokens) <= longest:
        return tokens
    return np.concatenate([tokens[: longest - longest // 2], tokens[-(longest // 2) :]])


def _resampled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, F) read at evenly spaced places, one after the other: the same number of them for every row."""
    if not len(values):
        return np.zeros(RESAMPLED * values.shape[1], np.float32)
    places = np.linspace(0, len(values) - 1, RESAMPLED)
    steps = np.arange(len(values))
    return np.concatenate([np.interp(places, steps, one) for one in values.T]).astype(np.float32)
