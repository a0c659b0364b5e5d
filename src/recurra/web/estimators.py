"""What the page shows of a fitted Classifier, Tagger or LanguageModel: samples of the user's data or typed
ones, what the model says of them, and which of its answers can be asked about.

Axes: N batch, T time, F features, K classes, tags or tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from recurra.data.schemes import OUTSIDE
from recurra.errors import ArgumentError
from recurra.lens.estimators import LabelView, Read, TagView, TextView, batch_of, view_of
from recurra.lens.readers import LabelReader, TagReader, TextReader
from recurra.web.refusals import Refusal
from recurra.web.subject import MOST_TYPED, Sample, Subject, parse_numbers, plain_numbers, short, spread

if TYPE_CHECKING:
    from recurra.tasks.classify import Classifier
    from recurra.tasks.generate import LanguageModel
    from recurra.tasks.tag import Tagger

ROWS, CHOICES = 8, 24
"""Answers that are told of one sample, and tokens that can be asked about."""
SPOKEN = 60
"""Tokens of the text that a language model is shown on where no data are given."""
MOST_WORDS = 12
SHOWN = {"\n": "↵", "<start>": "▸", "\t": "⇥", " ": "␣"}
"""Tokens that would not be seen."""
_WORD = r"\w+(?:['’\-]\w+)*|[^\w\s]"


@dataclass(frozen=True)
class Told:
    """How the answers of an estimator are told and asked about.

    kind: what they are. rows: from what the network returned, one or several times for one sample, to a list
    of {"name", "of": for each time what is said and its probability}. choices: from a sample and its output
    to lists of (number, name), of which one each is chosen; their sum is what `picked` takes. usual: the
    numbers chosen to begin with. picked: from a sample and such a sum to a function from an output to (N,).
    """

    kind: Literal["label", "tags", "next"]
    rows: Callable[[Sequence[Any], Sample], list[dict[str, Any]]]
    choices: Callable[[Sample, Any], list[list[tuple[int, str]]]]
    usual: Callable[[Sample, Any], list[int]]
    picked: Callable[[Sample, int], Callable[[Any], Tensor]]


def subject_of(model: Any, data: Any) -> Subject | None:
    """The subject of a fitted Classifier, Tagger or LanguageModel; None for any other object.

    Raises ArgumentError and DataError for data that do not fit.
    """
    view = view_of(model)
    if isinstance(view, LabelView):
        return _of_classifier(model, view, data)
    if isinstance(view, TagView):
        return _of_tagger(model, view, data)
    if isinstance(view, TextView):
        return _of_language_model(model, view, data)
    return None


def _sample(one: Read, strip: dict[str, list[float | None]] | None = None) -> Sample:
    inputs, _ = batch_of([one])
    names = tuple(_seen(step) for step in one.steps)
    return Sample(inputs, names, strip or {}, given=one.given, unknown=one.unknown)


def _checked(one: Read) -> Read:
    """A typed sample. Raises Refusal where it is too short or too long."""
    if len(one.values) == 0:
        raise Refusal("no_word")
    if len(one.values) > MOST_TYPED:
        raise Refusal("words", most=MOST_TYPED, count=len(one.values))
    return one


def _kept(reads: list[Read], what: str) -> list[Read]:
    """Those that are shown: none that is empty. Raises ArgumentError where all are."""
    some = [one for one in reads if len(one.values)]
    if not some:
        raise ArgumentError(f"data: expected {what} with at least one word, got empty ones; fill them")
    return [some[place] for place in spread(len(some))]


def _share(value: Any) -> float:
    return round(float(value), 6)


def _of_classifier(classifier: Classifier, view: LabelView, data: Any) -> Subject:
    text = classifier.kind == "text"
    if data is None and not text:
        raise ArgumentError(
            "data is missing: a Classifier of sequences is shown on sequences; give some like those it has "
            "learnt from"
        )
    if data is None:
        tokenizer = classifier.preparation.tokenizer
        assert tokenizer is not None
        known = [token for token in tokenizer.tokens[2:] if token[0].isalnum()] or list(tokenizer.tokens[2:])
        between = "" if tokenizer.kind == "character" else " "
        data = [between.join(known[:MOST_WORDS])]
    reads = _kept(view.read(data), "texts or sequences")
    preparation = classifier.preparation

    def numbers(one: Read) -> Sample:
        assert preparation.mean is not None
        assert preparation.scale is not None
        values = one.values * preparation.scale + preparation.mean
        width = min(8, values.shape[1])
        names = ["x"] if values.shape[1] == 1 else [f"x{place + 1}" for place in range(width)]
        return _sample(one, {name: plain_numbers(values[:, f]) for f, name in enumerate(names)})

    def typed(written: str) -> Sample:
        if text:
            return _sample(_checked(view.read([written])[0]))
        return numbers(view.read([parse_numbers(written, preparation.features).astype(np.float32)])[0])

    def fresh() -> nn.Module:
        from recurra.tasks.classify_network import ClassifyNetwork

        readers = [classifier._reader(classifier.seed + place) for place in range(classifier.plan.members)]
        return LabelReader(ClassifyNetwork(readers, several=classifier.several)).eval()

    first = reads[0]
    titles = [
        f"{', '.join(one.given)} · {title}" if one.given else title
        for one in reads
        for title in [one.title if text else str(int(one.title) + 1)]
    ]
    hint = " ".join(first.steps[:MOST_WORDS]) if text else ""
    return Subject(
        "Classifier",
        view.network,
        "words" if text else "numbers",
        tuple(short(title) for title in titles),
        (lambda index: _sample(reads[index])) if text else (lambda index: numbers(reads[index])),
        typed,
        max(1, preparation.features),
        hint or _written(numbers(first), preparation.features),
        view.numbers,
        told=Told(
            "label",
            lambda outputs, sample: _named([view.shares(one)[0] for one in outputs], view.names),
            lambda sample, output: [list(enumerate(view.names))],
            lambda sample, output: [int(view.numbers(output)[0].argmax())],
            lambda sample, component: _picked(view, sample, component),
        ),
        fresh=fresh,
        other=lambda other: _other(other, view, LabelView, preparation.tokenizer),
        named=True,
    )


def _written(sample: Sample, features: int) -> str:
    """The first numbers of a sample as they are typed."""
    rows = zip(*list(sample.strip.values())[:features], strict=True)
    lines = [", ".join(f"{value:.3g}" for value in row if value is not None) for row in rows]
    return (" " if features == 1 else "\n").join(lines[: 24 if features == 1 else 8])


def _named(shares: Sequence[Tensor], names: Sequence[str]) -> list[dict[str, Any]]:
    """The likeliest of K by name, those of each of the shares (K,) among them."""
    most = torch.stack(list(shares)).amax(0)
    places = most.argsort(descending=True)[: ROWS + ROWS // 2 if len(shares) > 1 else ROWS].tolist()
    return [{"name": _seen(names[k]), "of": [["", _share(one[k])] for one in shares]} for k in places]


def _seen(token: str) -> str:
    return SHOWN.get(token, token)


def _picked(view: Any, sample: Sample, component: int | tuple[int, int]) -> Callable[[Any], Tensor]:
    one = Read(np.zeros(sample.inputs[0].shape[1]), (), "")

    def pick(output: Any) -> Tensor:
        rows = len(output)
        found: Tensor = view.picked(component, [one] * rows, lambda: output)(output, torch.arange(rows))
        return found

    return pick


def _of_tagger(tagger: Tagger, view: TagView, data: Any) -> Subject:
    if data is None:
        data = [list(tagger.lexicon.attributes[0][:MOST_WORDS])]
    reads = _kept(view.read(data), "sentences")
    count = len(view.names)

    def typed(text: str) -> Sample:
        words = re.findall(_WORD, text)
        if not words:
            raise Refusal("no_word")
        return _sample(_checked(view.read([words])[0]))

    def other(model: Any) -> nn.Module:
        if not isinstance(view_of(model), TagView):
            raise ArgumentError(f"before: expected a fitted Tagger, got {type(model).__name__}; give one")
        return TagView(model, view.words).network

    return Subject(
        "Tagger",
        view.network,
        "words",
        tuple(short(" ".join(one.steps)) for one in reads),
        lambda index: _sample(reads[index]),
        typed,
        1,
        " ".join(reads[0].steps[:MOST_WORDS]),
        view.numbers,
        told=_told_tags(tagger, view, count),
        fresh=lambda: _fresh_tagger(tagger, view),
        other=other,
        whole=lambda output: output.flatten(1),
        parameters=sum(weight.numel() for weight in tagger._network().parameters()),
        named=True,
    )


def _told_tags(tagger: Tagger, view: TagView, count: int) -> Told:
    """Asked about are a word and a tag: count times the word's number, and the tag's."""

    def rows(outputs: Sequence[Any], sample: Sample) -> list[dict[str, Any]]:
        said = [_tags(tagger, view, output) for output in outputs]
        words = enumerate(sample.labels)
        return [{"name": word, "of": [one[place] for one in said]} for place, word in words]

    def choices(sample: Sample, output: Any) -> list[list[tuple[int, str]]]:
        words = [(t * count, f"{t + 1} · {word}") for t, word in enumerate(sample.labels)]
        return [words, list(enumerate(view.names))]

    def usual(sample: Sample, output: Any) -> list[int]:
        best = view.shares(output)[0].argmax(1).tolist()
        word = next((t for t, tag in enumerate(best) if view.names[tag] != OUTSIDE), 0)
        return [word * count, best[word]]

    return Told("tags", rows, choices, usual, lambda sample, at: _picked(view, sample, divmod(at, count)))


def _fresh_tagger(tagger: Tagger, view: TagView) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(tagger.seed)
        network = tagger._build()
    return TagReader(network, tagger.lexicon, view.words).eval()


def _tags(tagger: Tagger, view: TagView, output: Any) -> list[list[Any]]:
    """The tag of each word in the likeliest way to tag the sentence, and its own probability."""
    crf = tagger._network().crf
    best = crf.decode(output[:1])[0]
    sure = view.spelling.sure(crf.marginals(output[:1]).detach(), best)[0]
    names = view.spelling.path(best[0].tolist())
    return [[name, _share(share)] for name, share in zip(names, sure, strict=True)]


def _of_language_model(model: LanguageModel, view: TextView, data: Any) -> Subject:
    if data is None:
        data = [model.generate(length=SPOKEN, seed=0) or " "]
    reads = _kept(view.read(data), "texts")
    left = [model.tokenizer.padding, model.tokenizer.unknown]

    def shares(output: Any) -> Tensor:
        found: Tensor = view.numbers(output)[0].detach().exp()
        return found.index_fill(0, torch.tensor(left), 0.0)

    def typed(text: str) -> Sample:
        if not text:
            raise Refusal("no_word")
        return _sample(_checked(view.of(text)))

    def choices(sample: Sample, output: Any) -> list[list[tuple[int, str]]]:
        places = shares(output).argsort(descending=True)[:CHOICES].tolist()
        return [[(k, _seen(view.names[k])) for k in places]]

    return Subject(
        "LanguageModel",
        view.network,
        "words",
        tuple(short(one.title) for one in reads),
        lambda index: _sample(reads[index]),
        typed,
        1,
        _beginning(reads[0].steps[1:]),
        view.numbers,
        told=Told(
            "next",
            lambda outputs, sample: _named([shares(one) for one in outputs], view.names),
            choices,
            lambda sample, output: [int(shares(output).argmax())],
            lambda sample, component: _picked(view, sample, component),
        ),
        fresh=lambda: TextReader(model._build()).eval(),
        other=lambda other: _other(other, view, TextView, model.tokenizer),
        named=True,
    )


def _beginning(steps: Sequence[str]) -> str:
    one = all(len(step) <= 1 for step in steps)
    return "".join(steps[:40]) if one else " ".join(steps[:MOST_WORDS])


def _other(model: Any, view: Any, kind: type[Any], tokenizer: Any) -> nn.Module:
    """The network of another model of the kind, which must have the same tokens. Raises ArgumentError."""
    found: Any = view_of(model)
    name = type(model).__name__
    if not isinstance(found, kind):
        raise ArgumentError(f"before: expected a model of the same task, got {name}; give one")
    theirs = model.tokenizer if isinstance(found, TextView) else model.preparation.tokenizer
    if getattr(theirs, "tokens", None) != getattr(tokenizer, "tokens", None):
        raise ArgumentError(
            f"before: expected a {name} with the same tokens, got one that was fitted on other texts; give "
            "one that was fitted on the same"
        )
    network: nn.Module = found.network
    if isinstance(network, LabelReader):
        network._counted = view._counted  # which knows the samples
    return network
