"""How good tags are, and how good honest floors are on the same words.

Spans are scored as the shared tasks CoNLL-2000 to 2003 do, by seqeval, whose numbers are those of conlleval:
a span counts where its first word, last word and kind are all right. Other tags are scored word by word.

| score                 | what it is                                                              |
|-----------------------|-------------------------------------------------------------------------|
| `precision`, `recall` | share of the spans found that are right; share of the spans that are found |
| `f1`                  | their harmonic mean, over all spans together                             |
| `accuracy`            | share of the words that have the right tag                               |
| `sentences`           | share of the sentences without a mistake                                 |

Axes: N sentences, T words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.data.schemes import OUTSIDE, Span, converted, parts, spans, written

Rows = Sequence[Sequence[str]]


def scores(gold: Rows, predicted: Rows, *, spanned: bool) -> dict[str, Any]:
    """The scores of the module's text, and under "by_kind" precision, recall, f1 and support of each kind.

    gold, predicted: the tags of each sentence, in any schemes where they are spanned. Without spans a kind is
    a tag, and there is no precision, recall and f1 of all. Scores with nothing to be right about are 0.
    """
    pairs = [
        (one, other)
        for row, guess in zip(gold, predicted, strict=True)
        for one, other in zip(row, guess, strict=True)
    ]
    total: dict[str, Any] = {}
    if spanned:
        by_kind = _by_kind(gold, predicted)
        total = by_kind.pop("micro avg")
        total.pop("support")
        same = [(as_bio(row), as_bio(guess)) for row, guess in zip(gold, predicted, strict=True)]
        pairs = [pair for row, guess in same for pair in zip(row, guess, strict=True)]
        whole = sum(row == guess for row, guess in same)
    else:
        by_kind = _by_tag(pairs)
        whole = sum(list(row) == list(guess) for row, guess in zip(gold, predicted, strict=True))
    return {
        **total,
        "accuracy": sum(one == other for one, other in pairs) / max(1, len(pairs)),
        "sentences": whole / max(1, len(gold)),
        "by_kind": by_kind,
    }


def headline(spanned: bool) -> str:
    """The score that decides: f1 of spans, accuracy of other tags."""
    return "f1" if spanned else "accuracy"


def as_bio(tags: Sequence[str]) -> list[str]:
    """A sentence's tags in the scheme BIO."""
    return converted(tags, "BIO")


def quick_score(gold: Sequence[Sequence[Any]], predicted: Sequence[Sequence[Any]], *, spanned: bool) -> float:
    """The headline alone, of spans or of tags: what training is steered by. It equals that of `scores`."""
    if not spanned:
        right: int = sum(
            one == other
            for row, guess in zip(gold, predicted, strict=True)
            for one, other in zip(row, guess, strict=True)
        )
        return right / max(1, sum(map(len, gold)))
    same = sum(len(set(row) & set(guess)) for row, guess in zip(gold, predicted, strict=True))
    return 2 * same / max(1, sum(map(len, gold)) + sum(map(len, predicted)))


def confusion(gold: Rows, predicted: Rows, most: int = 20) -> tuple[list[str], NDArray[np.int64]]:
    """Names of kinds (K,), and how many words of the kind of a row were given the kind of a column (K, K).

    Where there are more than `most` kinds, those with the most mistakes are kept.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for row, guess in zip(gold, predicted, strict=True):
        counts.update((kind_of(one), kind_of(other)) for one, other in zip(row, guess, strict=True))
    wrong: Counter[str] = Counter()
    for (one, other), often in counts.items():
        for name in (one, other):
            wrong[name] += often if one != other else 0
    names = sorted(wrong, key=lambda name: (-wrong[name], name))[:most]
    names.sort(key=lambda name: (name == OUTSIDE, name))
    place = {name: n for n, name in enumerate(names)}
    table = np.zeros((len(names), len(names)), np.int64)
    for (one, other), often in counts.items():
        if one in place and other in place:
            table[place[one], place[other]] += often
    return names, table


def kind_of(tag: str) -> str:
    """PER of B-PER; a tag that is in no scheme is its own kind."""
    return parts(tag)[1] or tag


class WordBaseline:
    """The most frequent tag of each word; of a word that was never seen the most frequent of all."""

    name = "most frequent tag"

    def __init__(self, words: Rows, tags: Rows) -> None:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for row, theirs in zip(words, tags, strict=True):
            for word, tag in zip(row, theirs, strict=True):
                counts[word][tag] += 1
        total: Counter[str] = sum(counts.values(), Counter())
        self.tags = {word: _top(found) for word, found in counts.items()}
        self.usual = _top(total)

    def predict(self, words: Rows) -> list[list[str]]:
        """The tags of each sentence."""
        return [[self.tags.get(word, self.usual) for word in row] for row in words]


class SpanBaseline:
    """The spans of training again, wherever the same words stand, the longest first.

    A span whose words had several kinds in training is left out, as in the baseline of the shared task of
    2003 (Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 Shared Task", 2003).
    """

    name = "spans of training"

    def __init__(self, words: Rows, tags: Rows) -> None:
        kinds: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        for row, theirs in zip(words, tags, strict=True):
            for span in spans(theirs):
                kinds[tuple(row[span.start : span.stop])].add(span.kind)
        self.kinds = {phrase: next(iter(found)) for phrase, found in kinds.items() if len(found) == 1}
        self.longest: dict[str, int] = {}
        for phrase in self.kinds:
            self.longest[phrase[0]] = max(len(phrase), self.longest.get(phrase[0], 0))

    def predict(self, words: Rows) -> list[list[str]]:
        """The tags of each sentence, in the scheme BIO."""
        return [written(self._found(tuple(row)), len(row), "BIO") for row in words]

    def _found(self, row: tuple[str, ...]) -> list[Span]:
        found, start = [], 0
        while start < len(row):
            most = min(self.longest.get(row[start], 0), len(row) - start)
            length = next((n for n in range(most, 0, -1) if row[start : start + n] in self.kinds), 0)
            if length:
                found.append(Span(start, start + length, self.kinds[row[start : start + length]]))
            start += max(1, length)
        return found


def baselines(words: Rows, tags: Rows, *, spanned: bool) -> list[WordBaseline | SpanBaseline]:
    """The floors for these tags, fitted on the same training data."""
    return [SpanBaseline(words, tags), WordBaseline(words, tags)] if spanned else [WordBaseline(words, tags)]


def verdict(table: dict[str, dict[str, Any]], *, spanned: bool) -> tuple[str, str]:
    """A sentence on the first of these beside the others, and "wins", "level" or "loses"."""
    metric = headline(spanned)
    said = "F1" if spanned else "accuracy"
    (_, own), *others = table.items()
    name, best = max(others, key=lambda item: item[1][metric])
    mine, theirs = own[metric], best[metric]
    numbers = f"{said} {mine:.1%} against {theirs:.1%} of the best baseline ({name})"
    if mine > theirs:
        return f"The tagger beats the baselines: {numbers}.", "wins"
    if mine == theirs:
        return f"The tagger is no better than a baseline: {numbers}.", "level"
    return f"The tagger loses to a baseline: {numbers}.", "loses"


def _by_kind(gold: Rows, predicted: Rows) -> dict[str, dict[str, float]]:
    """seqeval's report; kinds that are never said nor meant are not in it."""
    bio = [[as_bio(row) for row in rows] for rows in (gold, predicted)]
    if not any(tag != OUTSIDE for rows in bio for row in rows for tag in row):
        return {"micro avg": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}}
    from seqeval.metrics import classification_report

    report = classification_report(*bio, output_dict=True, zero_division=0)
    return {
        "" if name == "_" else name: {
            "precision": float(row["precision"]),
            "recall": float(row["recall"]),
            "f1": float(row["f1-score"]),
            "support": int(row["support"]),
        }
        for name, row in report.items()
        if name not in ("macro avg", "weighted avg")
    }


def _by_tag(pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, float]]:
    meant, said = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    right = Counter(one for one, other in pairs if one == other)
    found = {}
    for tag in sorted(meant | said):
        precision, recall = right[tag] / max(1, said[tag]), right[tag] / max(1, meant[tag])
        f1 = 2 * precision * recall / (precision + recall) if right[tag] else 0.0
        found[tag] = {"precision": precision, "recall": recall, "f1": f1, "support": meant[tag]}
    return found


def _top(counts: Counter[str]) -> str:
    """The most frequent; of several the first by name, the same on every machine."""
    return min(counts, key=lambda name: (-counts[name], name))
