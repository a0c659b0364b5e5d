"""A fitted Classifier, Tagger or LanguageModel as the lens looks at it: its network on the user's own data.

A view reads data as the estimator itself does, one sample for each text, sentence or sequence, and names each
step by the user's own word, character or token. Of running text a sample is a passage, whole lines of about
PASSAGE characters. Axes: N samples, T steps, F features, K classes, tags or tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recurra.data.buckets import padded
from recurra.data.texts import Texts
from recurra.data.words import several, short
from recurra.errors import ArgumentError
from recurra.lens.calls import Asked
from recurra.lens.readers import LabelReader, TagReader, TextReader, WordList, own_names, spans_of

if TYPE_CHECKING:
    from recurra.tasks.classify import Classifier
    from recurra.tasks.classify_rows import Data
    from recurra.tasks.generate import LanguageModel
    from recurra.tasks.tag import Tagger

MOST_STEPS = 500_000
"""Steps of all samples together, padding included, that the lens looks at in one call."""
PASSAGE = 240
START = "<start>"
"""The name of the token that a language model begins a text after."""
_TITLE = 40  # letters of a text that name it

Picked = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Read:
    """One sample as the network reads it.

    values: tokens (T,) or numbers (T, F). steps: (T,) the user's own names of them, none of numbers. title:
    how the sample is told from others. given: its labels or tags in the data, where they are there. unknown:
    what of it the network does not know. wide: (K,) what a Classifier's n-grams say, number: which of all it
    has read this is.
    """

    values: NDArray[Any]
    steps: tuple[str, ...]
    title: str
    given: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    wide: NDArray[np.float32] | None = None
    number: int = 0


class View(Protocol):
    """What the lens and the page ask of an estimator.

    network: from a batch to the answer. path: the layer that is meant where none is named. embedding: the
    module whose first call makes vectors of tokens, None of numbers. names: of the K classes, tags or tokens.
    """

    @property
    def network(self) -> nn.Module: ...
    @property
    def path(self) -> str: ...
    @property
    def embedding(self) -> nn.Module | None: ...
    @property
    def names(self) -> Sequence[str]: ...

    def read(self, data: Any, **columns: Any) -> list[Read]:
        """The samples of the user's data. Raises DataError as the estimator's `predict` does."""
        ...

    def numbers(self, output: Any, lengths: Tensor | None = None) -> Tensor:
        """(N, K) of what the network returned: the answer at each row's end."""
        ...

    def picked(self, target: Any, reads: Sequence[Read], output: Callable[[], Any]) -> Picked:
        """From an output, and the rows (M,) it is about, to the number (M,) that `target` names."""
        ...


def view_of(model: Any) -> View | None:
    """The view of a fitted Classifier, Tagger or LanguageModel; None for any other object.

    Raises ArgumentError for one that has learnt nothing yet.
    """
    from recurra.tasks.classify import Classifier
    from recurra.tasks.generate import LanguageModel
    from recurra.tasks.tag import Tagger

    if not isinstance(model, (Classifier, LanguageModel, Tagger)):
        return None
    if model.network is None:
        raise ArgumentError(
            f"model: expected a fitted {type(model).__name__}, got one that has learnt nothing yet; "
            "call fit(data) or recurra.load(path) first"
        )
    if isinstance(model, Classifier):
        return LabelView(model)
    return TagView(model) if isinstance(model, Tagger) else TextView(model)


def as_asked(view: View, inputs: tuple[Any, ...], columns: Mapping[str, Any]) -> Asked:
    """The network and the batch of these data, with their names. Raises ArgumentError and DataError."""
    if len(inputs) != 1:
        raise ArgumentError(
            f"inputs: expected the data alone, as predict takes them, got {len(inputs)} arguments; give a "
            "path or a list"
        )
    reads = view.read(inputs[0], **columns)
    longest = max(len(one.values) for one in reads)
    if longest == 0:
        raise ArgumentError("data: expected some word or number in them, got none; give a text or sequence")
    if longest * len(reads) > MOST_STEPS:
        raise ArgumentError(
            f"data: expected at most {MOST_STEPS:,} steps at once, got {len(reads):,} samples of up to "
            f"{longest:,}; give some of them, as a list"
        )
    given, lengths = batch_of(reads)
    titles: Sequence[Any] = [one.title for one in reads]
    if len(set(titles)) < len(titles):
        titles = range(len(reads))
    words = [list(one.steps) for one in reads] if view.embedding is not None else None

    def said() -> Any:
        with torch.no_grad():
            return view.network(*given, lengths=lengths)

    return Asked(
        model=view.network,
        inputs=given,
        options={"lengths": lengths},
        path=view.path,
        samples=titles,
        stamps=None if words is None else lambda steps: words,
        words=words,
        embedding=view.embedding,
        read=lambda output: view.numbers(output, lengths),
        picked=lambda target: view.picked(target, reads, said),
    )


def batch_of(reads: Sequence[Read]) -> tuple[tuple[Tensor, ...], Tensor]:
    """What the network is called with, and the lengths (N,)."""
    x, lengths = padded([one.values for one in reads])
    wide = [one.wide for one in reads if one.wide is not None]
    if not wide:
        return (x,), lengths
    return (x, torch.from_numpy(np.stack(wide)), torch.tensor([one.number for one in reads])), lengths


class LabelView:
    """A Classifier's readers: the first one is traced unless another is named."""

    path = "readers.0.lstm"

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.network = LabelReader(classifier._network(), self._counted).eval()
        self.embedding = self.network.embedding
        self.names: Sequence[str] = classifier.classes
        self._texts: list[tuple[str, NDArray[Any], list[tuple[int, int]] | None]] = []

    def read(self, data: Any, **columns: Any) -> list[Read]:
        """Texts or sequences, whichever the classifier has learnt from."""
        from recurra.tasks.classify_rows import read

        return self.of(read(data, None, labelled=False, columns=columns))

    def of(self, data: Data) -> list[Read]:
        """The same of data that were read already."""
        rows = self.classifier.preparation.encode(data)
        wide = self.classifier.bag.logits(rows.bag_counts()).astype(np.float32)
        texts: Sequence[str] = getattr(data, "texts", ())
        found = []
        for place, values in enumerate(rows.values):
            given = () if data.labels is None else data.labels[place]
            if texts:
                found.append(self._of_text(texts[place], values, given, wide[place]))
            else:
                found.append(Read(values, (), str(place), given, wide=wide[place]))
        return found

    def _of_text(
        self, text: str, values: NDArray[Any], given: tuple[str, ...], wide: NDArray[np.float32]
    ) -> Read:
        tokenizer = self.classifier.preparation.tokenizer
        assert tokenizer is not None
        tokens, length = tokenizer.split(text), len(values)
        steps, spans = own_names(text, tokens), spans_of(text, tokens)
        if len(steps) > length:  # of a text that is too long its beginning and end are read
            kept = [*range(length - length // 2), *range(len(steps) - length // 2, len(steps))]
            steps = tuple(steps[place] for place in kept)
            spans = None if spans is None else [spans[place] for place in kept]
        unknown = tuple(dict.fromkeys(s for s, v in zip(steps, values, strict=True) if v == 1))
        self._texts.append((text, values, spans))
        return Read(values, steps, beginning(text), given, unknown, wide, len(self._texts) - 1)

    def _counted(self, sample: Tensor, x: Tensor, wide: Tensor) -> Tensor:
        """What the n-grams say (N, K) of these samples with these tokens (N, T) in the place of their own."""
        texts = {}
        for row, (number, tokens) in enumerate(zip(sample.tolist(), x.cpu().numpy(), strict=True)):
            text, values, spans = self._texts[number]
            changed = np.flatnonzero(tokens[: len(values)] != values)
            if len(changed) and spans is not None:
                texts[row] = self._written(text, spans, changed, tokens)
        if not texts:
            return wide
        data = Texts(tuple(texts.values()), None, np.arange(len(texts)))
        rows = self.classifier.preparation.encode(data)
        new = wide.clone()
        new[list(texts)] = torch.from_numpy(self.classifier.bag.logits(rows.bag_counts())).to(wide)
        return new

    def _written(
        self, text: str, spans: list[tuple[int, int]], changed: NDArray[Any], tokens: NDArray[Any]
    ) -> str:
        """The text with other tokens at these places; token 0 is left out."""
        tokenizer = self.classifier.preparation.tokenizer
        assert tokenizer is not None
        for place in changed[::-1].tolist():
            start, stop = spans[place]
            token = int(tokens[place])
            text = text[:start] + (tokenizer.tokens[token] if token else "") + text[stop:]
        return text

    def numbers(self, output: Any, lengths: Tensor | None = None) -> Tensor:
        """Logits (N, K)."""
        return _tensor(output)

    def shares(self, output: Any) -> Tensor:
        """Probabilities (N, K), those of `predict`."""
        return _tensor(output).sigmoid() if self.classifier.several else _tensor(output).softmax(1)

    def picked(self, target: Any, reads: Sequence[Read], output: Callable[[], Any]) -> Picked:
        """target: a class by name or number, one for each row, or None for each row's likeliest.

        Its logit, less the mean over all classes unless a row can have several.
        """
        rows = len(reads)
        if target is None:
            places = _tensor(output()).argmax(1)
        elif isinstance(target, (list, tuple, np.ndarray, Tensor)):
            if len(target) != rows:
                raise ArgumentError(
                    f"target: expected a class for each of the {rows} rows, got {len(target)}"
                )
            places = torch.tensor([self._place(one) for one in target])
        else:
            places = torch.full((rows,), self._place(target))

        def pick(found: Any, at: Tensor) -> Tensor:
            less = 0 if self.classifier.several else found.mean(1)
            chosen: Tensor = found[torch.arange(len(at)), places[at]] - less
            return chosen

        return pick

    def _place(self, target: Any) -> int:
        return _place(target, self.names, "class")


class TagView:
    """A Tagger's LSTM over words. An answer is the probability of a word's tag over all ways to tag it."""

    path = "lstm"

    def __init__(self, tagger: Tagger, words: WordList | None = None) -> None:
        from recurra.tasks.tag_spelling import Spelling

        self.tagger, self.words = tagger, words or WordList()
        self.network = TagReader(tagger._network(), tagger.lexicon, self.words).eval()
        self.embedding: nn.Module = self.network.embedding
        self.spelling = Spelling.of(tagger.labels, tagger.scheme)
        outside = [self.spelling.path((place,))[0] for place in range(len(tagger.labels))]
        self.names: Sequence[str] = list(dict.fromkeys(outside))
        self._same = torch.tensor([[float(one == name) for name in self.names] for one in outside])
        self._known = set(tagger.lexicon.attributes[0])

    def read(self, data: Any, **columns: Any) -> list[Read]:
        """Sentences: lists of words, or strings, which are split at blanks."""
        from recurra.tasks.tag_features import plain

        if isinstance(data, (list, tuple)) and data and all(isinstance(one, str) for one in data):
            data = [one.split() for one in data]
        found = self.tagger.read(data, tagged=False, **columns)
        tags = found.tags or ((),) * len(found)
        return [
            Read(
                np.array(self.words.numbers(words), np.int64),
                tuple(words),
                beginning(" ".join(words)),
                tuple(given),
                tuple(dict.fromkeys(word for word in words if plain(word) not in self._known)),
            )
            for words, given in zip(found.words, tags, strict=True)
        ]

    def numbers(self, output: Any, lengths: Tensor | None = None) -> Tensor:
        """The scores (N, K) of each row's last word, before the CRF."""
        scores = _tensor(output)
        ends = torch.full((len(scores),), scores.shape[1]) if lengths is None else lengths
        return scores[torch.arange(len(scores)), (ends - 1).clamp(min=0)]

    def shares(self, output: Any, lengths: Tensor | None = None) -> Tensor:
        """The probability (N, T, K) of each of `names`, by the CRF, over all ways to tag the sentence."""
        return self.network.crf.marginals(_tensor(output), lengths) @ self._same

    def picked(self, target: Any, reads: Sequence[Read], output: Callable[[], Any]) -> Picked:
        """target: a word by its number from 0, for its likeliest tag; or (word, tag). Logarithms."""
        word, tag = target if isinstance(target, tuple) and len(target) == 2 else (target, None)
        lengths = torch.tensor([len(one.values) for one in reads])
        if isinstance(word, bool) or not isinstance(word, int) or not 0 <= word < int(lengths.min()):
            raise ArgumentError(
                f"target: expected a word from 0 to {int(lengths.min()) - 1}, which every sentence has, or "
                f"(word, tag), got {target!r}; name the word whose tag is asked about"
            )
        if tag is None:
            places = self.shares(output(), lengths)[:, word].argmax(1)
        else:
            places = torch.full((len(reads),), _place(tag, self.names, "tag"))

        def pick(found: Any, at: Tensor) -> Tensor:
            shares = self.shares(found, lengths[at])[:, word]
            return shares[torch.arange(len(at)), places[at]].clamp(min=1e-30).log()

        return pick


class TextView:
    """A LanguageModel's LSTM over tokens. Its answer is what follows each text."""

    path = "layers.0"

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.network = TextReader(model._network()).eval()
        self.embedding: nn.Module = self.network.embedding
        self.names: Sequence[str] = model.tokenizer.tokens

    def read(self, data: Any, **columns: Any) -> list[Read]:
        """Texts of a list or table, or passages of running text; each after the token that begins a text."""
        from recurra.data.corpus import read_corpus

        found = read_corpus(data, **columns)
        texts = found.texts if found.listed else passages("\n".join(found.texts))
        return [self.of(text) for text in texts]

    def of(self, text: str) -> Read:
        """One text."""
        from recurra.data.corpus import start_of, unknown_parts

        tokenizer = self.model.tokenizer
        (known,) = tokenizer.encode([text])
        steps = own_names(text, tokenizer.split(text))
        values = np.concatenate([[start_of(tokenizer)], known]).astype(np.int64)
        return Read(values, (START, *steps), beginning(text), (), tuple(unknown_parts(text, tokenizer)))

    def numbers(self, output: Any, lengths: Tensor | None = None) -> Tensor:
        """Log-probabilities (N, K) of the token after each row's last."""
        return _tensor(output)

    def picked(self, target: Any, reads: Sequence[Read], output: Callable[[], Any]) -> Picked:
        """target: the next token as it is written or by number, or None for each row's likeliest."""
        if target is None:
            places = _tensor(output()).argmax(1)
        else:
            number = self._number(target) if isinstance(target, str) else _place(target, self.names, "token")
            places = torch.full((len(reads),), number)
        return lambda found, at: found[torch.arange(len(at)), places[at]]

    def _number(self, token: str) -> int:
        if token in self.names:
            return list(self.names).index(token)
        (found,) = self.model.tokenizer.encode([token])
        if len(found) != 1 or int(found[0]) == self.model.tokenizer.unknown:
            raise ArgumentError(
                f"target: expected one token that the model knows, got {short(token)}; give one of "
                f"{several([short(one, 12) for one in self.names[2:6]])}, say, or its number"
            )
        return int(found[0])


def passages(text: str) -> list[str]:
    """Running text in pieces of whole lines, each of PASSAGE characters or more, but the last."""
    found: list[str] = []
    for line in text.split("\n"):
        if found and len(found[-1]) < PASSAGE:
            found[-1] += "\n" + line
        else:
            found.append(line)
    return [piece for piece in found if piece.strip()]


def beginning(text: str) -> str:
    """What names a text: its first words in one line."""
    line = " ".join(text[: 4 * _TITLE].split())
    return line if len(line) <= _TITLE else line[: _TITLE - 1] + "…"


def _tensor(output: Any) -> Tensor:
    assert isinstance(output, Tensor)
    return output


def _place(target: Any, names: Sequence[str], what: str) -> int:
    """The number of a class, tag or token. Raises ArgumentError for none that there is."""
    if isinstance(target, str) and target in names:
        return list(names).index(target)
    whole = isinstance(target, (int, np.integer, Tensor)) and not isinstance(target, bool)
    if whole and 0 <= int(target) < len(names):
        return int(target)
    shown = several([short(one, 20) for one in names[:6]])
    raise ArgumentError(
        f"target: expected a {what}, one of {shown}{' …' if len(names) > 6 else ''}, or its number from 0 to "
        f"{len(names) - 1}, got {target!r}; name one of them"
    )
