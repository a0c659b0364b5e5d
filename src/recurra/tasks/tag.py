"""Tag words: the estimator.

    from recurra import Tagger
    tagger = Tagger().fit("train.conll", valid="valid.conll")
    found = tagger.predict([["Ada", "wrote", "it"]])

The way from a file to tags, each step in a file of its own: words and tags (data.conll), the scheme of their
spans (data.schemes), what is seen of a word (tasks.tag_features), the network (tasks.tag_network), trained by
train.fit. Inside, spans are BIOES, whatever the file has: it tells beginnings and ends apart (Ratinov and
Roth 2009), and the CRF forbids what is no span.

Axes: N sentences, T words, U different words, K tags.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra import checkpoint
from recurra.data.buckets import batches_by_length
from recurra.data.conll import read_tagged
from recurra.data.schemes import OUTSIDE, Span, converted, parts, recognise, spans
from recurra.data.tagged import Tagged
from recurra.errors import ArgumentError, DataError, ModelFileError
from recurra.nn import CRF, bioes_constraints
from recurra.tasks.tag_features import Batches, Encoded, Lexicon, plain
from recurra.tasks.tag_network import CHARACTERS, TagNetwork
from recurra.tasks.tag_scores import quick_score, scores
from recurra.tasks.tag_spelling import Spelling

Log = Callable[[dict[str, Any]], None]
Paths = tuple[tuple[tuple[str, ...], float], ...]
STEPS = 8192
"""Words that go through the network at once when nothing is learnt, padding included."""


@dataclass(frozen=True)
class TagPlan:
    """Every number of the network and its training."""

    word_size: int
    characters: str
    hidden_size: int
    layers: int
    dropout: float
    recurrent_dropout: float
    epochs: int
    batch_size: int
    learning_rate: float
    average_last: int


@dataclass(frozen=True)
class Tags:
    """What a tagger says of N sentences.

    words, tags: (N,) tuples of T strings, tags in the scheme that the tagger was taught. probabilities: (N,)
    arrays (T,), how sure it is of each tag (of IOB1's begin and inside together). paths: (N,) tuples of
    (tags, probability), the best first, as many as were asked for; empty where none were.
    """

    words: tuple[tuple[str, ...], ...]
    tags: tuple[tuple[str, ...], ...]
    probabilities: tuple[NDArray[np.float32], ...]
    paths: tuple[Paths, ...] = ()

    def __len__(self) -> int:
        return len(self.tags)

    def spans(self) -> tuple[tuple[Span, ...], ...]:
        """The spans of each sentence: first word, word after the last, kind."""
        return tuple(tuple(spans(tags)) for tags in self.tags)


class Tagger:
    """A tag for each word of a sentence: names, slots, parts of speech. A BiLSTM-CRF over words and letters.

    ``hidden_size`` (of each direction), ``dropout``, ``epochs``, ``batch_size``, ``learning_rate``: chosen
    from the size of the data where None. ``layers`` of the LSTM; ``embedding_size`` of words; ``characters``
    are read by a "cnn", an "lstm", or not ("none"); ``recurrent_dropout`` of the LSTM's state; ``vectors``: a
    file of word vectors (GloVe, word2vec, fastText as text) to begin with. ``seed`` fixes every random
    number; ``device`` is where the network learns: "cpu", "cuda" or "auto".

    Raises ArgumentError for a value that makes no sense.
    """

    def __init__(
        self,
        *,
        hidden_size: int | None = None,
        layers: int = 1,
        embedding_size: int = 100,
        characters: str = "cnn",
        dropout: float | None = None,
        recurrent_dropout: float = 0.25,
        vectors: str | Path | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        counts = {"hidden_size": hidden_size, "layers": layers, "embedding_size": embedding_size,
                  "epochs": epochs, "batch_size": batch_size}  # fmt: skip
        for name, value in counts.items():
            chosen = value is None and name not in ("layers", "embedding_size")
            if not chosen and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ArgumentError(f"{name} must be a whole number, at least 1, but {value!r} was given")
        for name, chance in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if chance is not None and not (_is_number(chance) and 0 <= chance < 1):
                raise ArgumentError(f"{name} must be a chance from 0 to below 1, but {chance!r} was given")
        if characters not in CHARACTERS:
            raise ArgumentError(
                f"characters must be one of {', '.join(CHARACTERS)}, but {characters!r} was given"
            )
        if learning_rate is not None and not (_is_number(learning_rate) and 0 < learning_rate < math.inf):
            raise ArgumentError(f"learning_rate must be a number above 0, but {learning_rate!r} was given")
        if vectors is not None and not isinstance(vectors, (str, Path)):
            raise ArgumentError(f"vectors must be the path of a file, but {vectors!r} was given")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ArgumentError(f"seed must be a whole number from 0 to 2**63 - 1, but {seed!r} was given")
        self.numbers = {**counts, "characters": characters, "dropout": dropout,
                        "recurrent_dropout": recurrent_dropout, "learning_rate": learning_rate}  # fmt: skip
        self.vectors, self.seed, self.device = vectors, seed, device
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.network: TagNetwork | None = None
        self.notes: tuple[str, ...] = ()

    def fit(
        self,
        data: Any,
        labels: Any = None,
        *,
        valid: Any = None,
        checkpoints: str | Path | None = None,
        log: Log | None = None,
        **columns: Any,
    ) -> Tagger:
        """Learn from a path, lists or a `Tagged`; ``columns`` go to :func:`recurra.data.conll.read_tagged`.

        ``labels``: the tags, where data is a list of lists of words. ``valid``: other sentences, by which the
        best epoch is chosen. ``checkpoints``: a folder in which a killed run finds its way back; run again
        with the same arguments, it ends with the same weights. ``log`` is called with a dict after each
        epoch. Raises DataError where the data cannot be used.
        """
        known = read_tagged(data, labels, **columns)
        other = None if valid is None else read_tagged(valid, **columns)
        self.columns = {name: columns.get(name) for name in ("text", "label")}
        found = recognise(known.tags or (), known.lines, known.name)
        self.scheme = found.scheme
        if other is not None:
            self._check_scheme(other)
        tags = self._inside(known)
        self.labels = tuple(sorted({tag for row in tags for tag in row}))
        if not self.labels:
            raise DataError(f"{known.name!r} has only empty sentences; expected words with tags: fill them")
        self.notes = (*known.notes, *found.notes)
        if len(self.labels) == 1:
            self.notes = (*self.notes, f"Every word has the tag {self.labels[0]}: there is nothing to learn.")
        table = None if self.vectors is None else _vectors(self.vectors, known, other)
        self.lexicon = Lexicon.fit(known.words, () if table is None else table)
        self.plan = self._choose(known)
        if table is not None:
            self.plan = dataclasses.replace(self.plan, word_size=len(next(iter(table.values()))))
        encoded = Encoded.of(known, self.lexicon, tags, self.labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = self._build()
        if table is not None:
            self._network().begin_with(
                [n for n, word in enumerate(self.lexicon.attributes[0], 2) if word in table],
                np.array([table[word] for word in self.lexicon.attributes[0] if word in table]),
            )
        folder = None if checkpoints is None else Path(checkpoints)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        digests = [one.digest() for one in (known, other) if one is not None]
        self._train(encoded, other, folder, f"data {digests}, {self.plan}, {self.vectors}", log)
        return self

    def _check_scheme(self, data: Tagged) -> None:
        """Raise DataError where tags are of another sort than those that were learnt."""
        theirs = recognise(data.tags or (), data.lines, data.name).scheme
        plain = any(tag != OUTSIDE for row in data.tags or () for tag in row)
        if self.scheme and not theirs and plain:
            raise DataError(
                f"the tags of {data.name!r} say no spans, and those of the training data do ({self.scheme}); "
                "expected the same sort: name the right column with label (--label on the command line)"
            )

    def _inside(self, data: Tagged) -> list[list[str]]:
        """The tags of each sentence as the network has them."""
        return [converted(row, "BIOES") if self.scheme else list(row) for row in data.tags or ()]

    def _choose(self, data: Tagged) -> TagPlan:
        """The numbers that were not given, from the size of the data."""
        size, given = len(data), self.numbers
        usual = {
            "hidden_size": 128 if size >= 1000 else 64,
            "dropout": 0.5,
            "epochs": 15 if size >= 8000 else 30 if size >= 2000 else 40,
            "batch_size": 32 if size >= 8000 else 16 if size >= 1000 else 8,
            "learning_rate": 3e-3,
        }
        chosen: dict[str, Any] = {**given, **{k: v for k, v in usual.items() if given[k] is None}}
        chosen["word_size"] = chosen.pop("embedding_size")
        return TagPlan(**chosen, average_last=min(3, max(1, chosen["epochs"] // 5)))

    def _build(self) -> TagNetwork:
        plan = self.plan
        return TagNetwork(
            sizes=self.lexicon.sizes,
            letters=len(self.lexicon.characters) + 2,
            tags=len(self.labels),
            allowed=bioes_constraints(self.labels) if self.scheme else None,
            word_size=plan.word_size,
            characters=plan.characters,
            hidden_size=plan.hidden_size,
            layers=plan.layers,
            dropout=plan.dropout,
            recurrent_dropout=plan.recurrent_dropout,
        )

    def _train(
        self, encoded: Encoded, valid: Tagged | None, folder: Path | None, about: str, log: Log | None
    ) -> None:
        from recurra import train

        validate = None if valid is None else self._validation(valid)
        history = train.fit(
            train.quiet_fabric(self.device),
            self._network(),
            Batches(encoded, self.plan.batch_size),
            epochs=self.plan.epochs,
            learning_rate=self.plan.learning_rate,
            clip=5.0,
            schedule="cosine",
            validate=validate,
            average_last=self.plan.average_last,
            seed=self.seed,
            checkpoint=None if folder is None else folder / "train.safetensors",
            save_every=10.0,
            about=about,
            log=None if log is None else lambda row: log({"stage": "train", **row}),
        )
        self._network().cpu()
        self.history = {"train": [dict(row) for row in history.rows]}

    def _validation(self, valid: Tagged) -> Callable[[], float]:
        """What says how wrong the tags of the validation data are: 1 less the headline score."""
        encoded = Encoded.of(valid, self.lexicon, None, self.labels)
        theirs = valid.tags or ()
        gold: list[Any] = [spans(row) for row in theirs] if self.scheme else list(theirs)

        def validate() -> float:
            names = np.array(self.labels, object)
            rows = encoded.split(names[self._decoded(encoded)])
            found = [spans(row) for row in rows] if self.scheme else rows
            return 1.0 - quick_score(gold, found, spanned=bool(self.scheme))

        return validate

    @torch.no_grad()
    def _scored(self, encoded: Encoded, paths: int = 1) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """Places (N,), scores (N, T, K) and lengths (N,) of batches of like length, of all sentences once.

        paths: how many the caller will ask for of each.
        """
        network = self._network()
        network.eval()
        device = network.output.weight.device
        table = torch.zeros(max(1, len(encoded.attributes)), network.lstm.input_size, device=device)
        spelt = (encoded.characters != 0).sum(1)
        for some in batches_by_length(spelt, 1024):
            letters = encoded.characters[some, : max(1, int(spelt[some].max()))]
            seen = (torch.from_numpy(one).to(device) for one in (encoded.attributes[some], letters))
            table[torch.from_numpy(some).to(device)] = network.words(*seen)
        # Viterbi's algorithm keeps K² numbers for each path: beyond the cache it is several times slower.
        size = int(np.clip(1_000_000 // (paths * len(self.labels) ** 2), 4, 256))
        for places in batches_by_length(encoded.lengths, size, most_steps=STEPS):
            tokens, lengths = encoded.rows(places, encoded.tokens)
            counts = torch.from_numpy(lengths)
            yield places, network(table[torch.from_numpy(tokens).to(device)], counts), counts

    def _decoded(self, encoded: Encoded) -> NDArray[np.int64]:
        """The tags of all sentences, one after another."""
        best = np.zeros(len(encoded.tokens), np.int64)
        for places, emissions, lengths in self._scored(encoded):
            encoded.put(best, places, self._network().crf.decode(emissions, lengths)[0].cpu().numpy())
        return best

    def predict(self, data: Any, *, n_best: int = 0, **columns: Any) -> Tags:
        """The tags of sentences: a path, a `Tagged`, or a list of lists of words.

        ``n_best``: give so many of the likeliest ways to tag each sentence too, with their probabilities.
        Raises DataError for what cannot be read, ArgumentError before `fit`.
        """
        if isinstance(n_best, bool) or not isinstance(n_best, int) or n_best < 0:
            raise ArgumentError(f"n_best must be a whole number, at least 0, but {n_best!r} was given")
        found = self.read(data, tagged=False, **columns)
        crf = self._network().crf
        encoded = Encoded.of(found, self.lexicon, None, self.labels)
        spelling = Spelling.of(self.labels, self.scheme)
        best = np.zeros(len(encoded.tokens), np.int64)
        sure = np.zeros(len(encoded.tokens), np.float32)
        paths: list[Paths] = [()] * len(found) if n_best else []
        for places, emissions, lengths in self._scored(encoded, max(1, n_best)):
            tags = crf.decode(emissions, lengths)[0]
            encoded.put(best, places, tags.numpy())
            with torch.no_grad():
                chances = spelling.sure(crf.marginals(emissions, lengths), tags)
            encoded.put(sure, places, chances.numpy())
            if n_best:
                for place, several in zip(
                    places.tolist(), _likeliest(crf, emissions, lengths, n_best, spelling), strict=True
                ):
                    paths[place] = several
        rows = tuple(map(tuple, encoded.split(spelling(best, encoded.offsets))))
        return Tags(found.words, rows, tuple(np.split(sure, encoded.offsets[1:-1])), tuple(paths))

    def read(self, data: Any, *, tagged: bool = True, **columns: Any) -> Tagged:
        """``data`` read the way the training data were: the same columns, where no others are given."""
        self._network()
        given = {name: value for name, value in columns.items() if value is not None}
        if given.keys() & {"text", "label"}:
            given.setdefault("lines", False)
        return read_tagged(data, tagged=tagged, **{**self.columns, **given})

    def evaluate(self, data: Any, labels: Any = None, **columns: Any) -> dict[str, Any]:
        """Scores on tagged sentences: those of :func:`recurra.tasks.tag_scores.scores`.

        "unseen_tags" names tags that the tagger was never taught: their words count as mistakes. Raises
        ArgumentError before `fit`, DataError where the data cannot be read or have no tags.
        """
        if labels is not None:
            data = read_tagged(data, labels)
        found = self.read(data, **columns)
        self._check_scheme(found)
        predicted = self.predict(found).tags
        table = scores(found.tags or (), predicted, spanned=bool(self.scheme))
        return {**table, "unseen_tags": self.unseen(found)}

    def unseen(self, data: Tagged) -> list[str]:
        """The tags, or kinds of spans, of data that the tagger was never taught."""
        known = {parts(label)[1] if self.scheme else label for label in self.labels}
        theirs = {tag for row in data.tags or () for tag in row if not self.scheme or tag != OUTSIDE}
        return sorted({parts(tag)[1] if self.scheme else tag for tag in theirs} - known)

    def save(self, path: str | Path) -> None:
        """Write the model to one file, ``*.safetensors``: weights, and everything else as a JSON document."""
        weights = dict(self._network().state_dict())
        document = {
            "task": "tag",
            "arguments": {**self.numbers, "seed": self.seed},
            "plan": dataclasses.asdict(self.plan),
            "scheme": self.scheme,
            "labels": list(self.labels),
            "columns": self.columns,
            "lexicon": self.lexicon.to_json(),
            "history": self.history,
            "notes": list(self.notes),
        }
        checkpoint.write(path, weights, document)

    @staticmethod
    def load(path: str | Path) -> Tagger:
        """Read what :meth:`save` wrote. Raises ModelFileError for any other file."""
        tensors, document = checkpoint.read(path)
        if document.get("task") != "tag":
            raise ModelFileError(f"{path}: expected a tagger, found task {document.get('task')!r}")
        try:
            tagger = Tagger(**document["arguments"])
            tagger.plan = TagPlan(**document["plan"])
            tagger.scheme, tagger.labels = str(document["scheme"]), tuple(map(str, document["labels"]))
            tagger.columns = {name: document["columns"][name] for name in ("text", "label")}
            tagger.lexicon = Lexicon.from_json(document["lexicon"])
            tagger.history, tagger.notes = document["history"], tuple(document["notes"])
            tagger.network = tagger._build()
            tagger.network.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelFileError(
                f"{path}: the model's description does not fit its weights or this version ({error}): "
                "train it again, or use the version of recurra that wrote it"
            ) from error
        tagger.network.eval()
        return tagger

    def _network(self) -> TagNetwork:
        if self.network is None:
            raise ArgumentError("this Tagger has learnt nothing yet: call fit(data) or load(path) first")
        return self.network


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@torch.no_grad()
def _likeliest(
    crf: CRF, emissions: Tensor, lengths: Tensor, most: int, spelling: Spelling
) -> Iterator[Paths]:
    """The likeliest tags of each sentence (N, T, K) and their probabilities, the best first."""
    found, totals = crf.n_best(emissions, most, lengths)
    chances = (totals - crf.log_partition(emissions, lengths)[:, None]).exp()
    for several, shares, length in zip(found.tolist(), chances.tolist(), lengths.tolist(), strict=True):
        pairs = zip(several, shares, strict=True)
        yield tuple((spelling.path(path[:length]), share) for path, share in pairs if share > 0)


def _vectors(path: str | Path, *data: Tagged | None) -> dict[str, NDArray[np.float32]]:
    """The vectors of the words of these data that have one. Raises DataError where none has."""
    from recurra.data.vectors import read_vectors

    words = sorted({plain(word) for one in data if one is not None for row in one.words for word in row})
    vectors, found = read_vectors(path, words, lower=True)
    if not found.any():
        raise DataError(
            f"{Path(path).name!r} has a vector for none of the {len(words):,} words of the data; expected "
            "vectors of their language: give another file"
        )
    return {word: vector for word, vector, has in zip(words, vectors, found, strict=True) if has}
