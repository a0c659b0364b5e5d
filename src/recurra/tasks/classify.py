"""Sort texts, or sequences of numbers, into classes: the estimator.

    from recurra import Classifier
    classifier = Classifier().fit("reviews.csv", text="review", label="stars")
    found = classifier.predict(["worth every penny"])
    found.labels, found.probabilities

Several readers, each a bidirectional LSTM trained with another part of the rows held back, and beside them
a linear model on n-grams, of numbers on the numbers (recurra.tasks.classify_network, classify_bag). What each
of them says of the rows that it was not trained on decides how much it counts, calibrates the probabilities,
and is an honest score, so that no row is lost to validation.

Axes: N rows, T steps, F features, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra import checkpoint
from recurra.data.buckets import batches_by_length
from recurra.data.sequences import Sequences
from recurra.data.tokens import KINDS
from recurra.data.words import several as listed
from recurra.data.words import short
from recurra.errors import ArgumentError, DataError, ModelFileError
from recurra.tasks.classify_attention import attended
from recurra.tasks.classify_bag import Bag
from recurra.tasks.classify_learning import (
    Examples,
    Said,
    best_mixture,
    folds_of,
    linear_models,
    logits_of,
    train_reader,
)
from recurra.tasks.classify_network import ClassifyNetwork, Reader, probabilities
from recurra.tasks.classify_plan import checked_weights, choose_plan, plan_of
from recurra.tasks.classify_results import Attended, Classified, Held
from recurra.tasks.classify_rows import Data, Preparation, check_kinds, classes_of, read, targets_of
from recurra.tasks.classify_scores import FLOOR, MAJORITY, NUMBERS_FLOOR, by_class, decided, scores
from recurra.tasks.threads import few_threads

Log = Callable[[dict[str, Any]], None]
Table = dict[str, dict[str, float]]
Numbers = NDArray[np.float32]
Places = NDArray[np.int64]

CHUNK = 4096
"""Rows that are encoded at once when nothing is learnt."""


class Classifier:
    """Classes of texts or of sequences of numbers, with probabilities, by LSTMs beside a bag of n-grams.

    tokens: "word" (Chinese by character), "blank", "character", "bpe" or "jieba"; "auto" is "word".
    ``hidden_size`` of each direction, ``members`` (LSTMs trained on different parts of the rows), ``epochs``
    at most, ``dropout``, ``pooling`` ("last", "mean", "max", "attention"), ``label_smoothing``: chosen from
    the size of the data where None (`recurra.tasks.classify_plan`). class_weights: "balanced", or how much
    the rows of each class count. adversarial: how far embeddings are moved against the network in training,
    in units of their size, such as 0.02; or "virtual", or "virtual:0.1" with how far, which moves them to
    where the prediction changes most and learns from rows without labels too (`fit`'s unlabelled). vectors:
    a file of word vectors to begin with. ``seed`` fixes every random number; ``device``: "cpu", "cuda" or
    "auto".

    Raises ArgumentError for a value that makes no sense.
    """

    def __init__(
        self,
        *,
        tokens: str = "auto",
        hidden_size: int | None = None,
        members: int | None = None,
        epochs: int | None = None,
        dropout: float | None = None,
        pooling: str | None = None,
        label_smoothing: float | None = None,
        class_weights: str | Mapping[str, float] | None = None,
        adversarial: float | str | None = None,
        vectors: str | Path | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if tokens not in ("auto", *KINDS):
            raise ArgumentError(
                f"tokens must be auto or one of {', '.join(KINDS)}, but {tokens!r} was given: choose one"
            )
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**62:
            raise ArgumentError(f"seed must be a whole number from 0 to 2**62 - 1, but {seed!r} was given")
        self.numbers = {
            "hidden_size": hidden_size,
            "members": members,
            "epochs": epochs,
            "dropout": dropout,
            "pooling": pooling,
            "label_smoothing": label_smoothing,
            "adversarial": adversarial,
        }
        choose_plan(1, 1, text=True, classes=2, **self.numbers)
        self.tokens, self.class_weights, self.vectors = tokens, checked_weights(class_weights), vectors
        self.seed, self.device = seed, device
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.network: ClassifyNetwork | None = None
        self.held: Held | None = None
        self.held_scores: Table = {}

    def fit(
        self,
        data: Any,
        labels: Iterable[Any] | None = None,
        *,
        valid: Any = None,
        unlabelled: Any = None,
        checkpoints: str | Path | None = None,
        log: Log | None = None,
        **columns: Any,
    ) -> Classifier:
        """Learn from texts (`recurra.data.texts.read_texts`) or sequences (`recurra.data.sequences`).

        data: a path, a frame, an array, a list; labels: of a list or array; columns: text, label and between
        of `read_texts`. valid: data to choose by, read alike, or a pair of data and labels; where None, parts
        of the data take that role in turn, and the network learns from all of them. unlabelled: more rows,
        whose labels are not looked at, for adversarial="virtual"; in each epoch as many of them count as
        there are labelled ones. checkpoints: a folder in which a killed run finds its way back; run again
        with the same arguments, it ends with the same weights. log is called with a dict after each epoch.
        Raises DataError where the data cannot be used, ArgumentError for unlabelled without "virtual".
        """
        train = read(data, labels, labelled=True, columns=columns)
        held = None if valid is None else read(*_pair(valid), labelled=True, columns=columns)
        others = None if unlabelled is None else self.check_unlabelled(train, unlabelled, **columns)
        self.classes, self.several = classes_of(train)
        self.kind, self.notes = ("numbers" if isinstance(train, Sequences) else "text"), train.notes
        examples = self._plan(train)
        if others is not None:
            rows = self.preparation.encode(others, linear=False)
            examples = dataclasses.replace(examples, others=rows)
            self.notes = (*self.notes, f"{len(others):,} rows of {others.name} counted without their labels.")
        self.shares = examples.targets.mean(0)
        folder = None if checkpoints is None else Path(checkpoints)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        about = ", ".join(one.digest() if one else "none" for one in (train, held, others))
        if held is None:
            splits = folds_of(examples.targets, self.plan.members, self.seed)
            said = Said(examples)
        else:
            splits = [(np.arange(len(train)), np.arange(len(held)))] * self.plan.members
            said = Said(self._examples(held))
        self._learn(examples, said, splits, about, folder, log)
        self._judge(held or train, said)
        return self

    def check(self, data: Any, labels: Iterable[Any] | None = None, **columns: Any) -> Data:
        """Raise what :meth:`fit` would raise on these data, before any time is spent; returns them read."""
        found = read(data, labels, labelled=True, columns=columns)
        self._class_weights(classes_of(found)[0])
        return found

    def check_same(self, known: Data, valid: Data) -> None:
        """Raise what :meth:`fit` on ``known`` would raise on ``valid``."""
        check_kinds(known, valid, "valid")
        targets_of(valid, *classes_of(known))

    def check_unlabelled(self, known: Data, unlabelled: Any, **columns: Any) -> Data:
        """Raise what :meth:`fit` on ``known`` would raise on ``unlabelled``; returns it read."""
        if not choose_plan(1, 1, text=True, classes=2, **self.numbers).virtual:
            raise ArgumentError(
                "unlabelled rows count in virtual adversarial training only; expected adversarial='virtual' "
                "(--adversarial virtual on the command line) beside them: give it, or leave them out"
            )
        text = {name: one for name, one in columns.items() if name == "text"}
        others = read(unlabelled, None, labelled=False, columns=text)
        check_kinds(known, others, "unlabelled")
        return others

    def _plan(self, train: Data) -> Examples:
        """Choose the numbers, learn tokens or scales, and encode."""
        text = not isinstance(train, Sequences)
        if isinstance(train, Sequences):
            steps = sum(len(one) for one in train.values)
        else:
            steps = sum(len(one) // 5 for one in train.texts)  # about as many words
        self.plan = choose_plan(len(train), steps, text=text, classes=len(self.classes), **self.numbers)
        kind = "word" if self.tokens == "auto" else self.tokens
        self.preparation = Preparation.fit(train, self.plan, kind)
        self.start: Numbers | None = None
        if text and self.vectors is not None:
            self._read_vectors()
        return self._examples(train)

    def _read_vectors(self) -> None:
        """Word vectors to begin with, NaN where the file has none: (V, F)."""
        from recurra.data.vectors import read_vectors

        assert self.vectors is not None
        assert self.preparation.tokenizer is not None
        tokens = self.preparation.tokenizer.tokens[: self.preparation.known]
        vectors, found = read_vectors(self.vectors, tokens, lower=True)
        if not found.any():
            raise DataError(
                f"vectors: {str(self.vectors)!r} has none of the {len(tokens):,} words of the texts; "
                "expected vectors of words in the same language: give another file, or none"
            )
        vectors[~found] = np.nan
        self.plan = dataclasses.replace(self.plan, embedding_size=vectors.shape[1])
        self.start = vectors

    def _examples(self, data: Data) -> Examples:
        targets = targets_of(data, self.classes, self.several)
        return Examples(self.preparation.encode(data), targets, self._row_weights(targets))

    def _class_weights(self, classes: Sequence[str]) -> dict[str, float]:
        """What the user gave for each class. Raises ArgumentError for one that is no class."""
        if self.class_weights is None or isinstance(self.class_weights, str):
            return {}
        unknown = [name for name in self.class_weights if name not in classes]
        if unknown:
            raise ArgumentError(
                f"class_weights: {short(unknown[0])} is no class of the data; expected some of "
                f"{listed(list(classes))}: correct the name"
            )
        return dict(self.class_weights)

    def _row_weights(self, targets: Numbers) -> Numbers:
        """(N,): how much each row counts, 1 in the mean."""
        given = self._class_weights(self.classes)
        if self.class_weights is None:
            return np.ones(len(targets), np.float32)
        each = np.array([given.get(name, 1.0) for name in self.classes])
        if self.class_weights == "balanced":
            each = 1 / np.maximum(targets.sum(0), 1)
        count = targets.sum(1)
        rows = np.where(count > 0, targets @ each / np.maximum(count, 1), each.mean())
        return np.asarray(rows / rows.mean(), np.float32)

    def _learn(
        self,
        train: Examples,
        said: Said,
        splits: Sequence[tuple[Places, Places]],
        about: str,
        folder: Path | None,
        log: Log | None,
    ) -> None:
        """Linear models and readers of each split, what they say of the rows held back; then what stays."""
        self.history, readers = {}, []
        judge, text = said.examples, self.kind == "text"
        linear: tuple[Bag, Bag] | None = None
        for number, (places, held) in enumerate(splits):
            if linear is None or judge is train:
                linear = linear_models(train, places, self.plan, several=self.several, text=text)
            name = f"reader {number + 1} of {len(splits)}"
            reader = self._reader(self.seed + number)
            self.history[name] = train_reader(
                reader,
                train,
                places,
                judge,
                held,
                self.plan,
                seed=self.seed + number,
                device=self.device,
                about=f"data {about}, {self.plan}, {self.tokens}, {self.class_weights}, {self.vectors}",
                checkpoint=None if folder is None else folder / f"reader-{number + 1}.safetensors",
                log=None if log is None else _staged(log, f"training {name}"),
            )
            wide = linear[0].logits(judge.rows.bag_counts(held))
            floor = linear[1].logits(judge.rows.floor_counts(held))
            said.add(held, wide, logits_of(reader, judge.rows, held), floor)
            readers.append(reader)
        whole = np.arange(len(train))
        if linear is None or judge is train:
            linear = linear_models(train, whole, self.plan, several=self.several, text=text)
        self.bag, self.floor = linear
        self.network = ClassifyNetwork(readers, several=self.several).eval()

    def _reader(self, seed: int) -> Reader:
        """A fresh reader."""
        plan, known = self.plan, self.preparation.known
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            reader = Reader(
                len(self.classes),
                hidden_size=plan.hidden_size,
                tokens=known,
                embedding_size=plan.embedding_size if known else 0,
                features=self.preparation.features,
                pooling=plan.pooling,
                dropout=plan.dropout,
                label_smoothing=plan.label_smoothing,
                several=self.several,
                adversarial=plan.adversarial,
                virtual=plan.virtual,
                jitter=plan.jitter,
                region=plan.region,
                spelling=self.preparation.spelling() if known and plan.letters else None,
            )
        if self.start is not None and reader.embedding is not None:
            vectors = torch.from_numpy(self.start)
            own = reader.embedding.own.weight
            with torch.no_grad():
                own.copy_(torch.where(vectors.isnan(), own, vectors))
        return reader

    def _judge(self, data: Data, said: Said) -> None:
        """How much each part counts, and the scores, by what was said of rows held back."""
        places, (wide, deep, floor) = said.places, said.means()
        targets = said.examples.targets[places]
        factors = best_mixture(wide, deep, targets, said.examples.weights[places], several=self.several)
        self._network().mixture.copy_(factors)
        own = self._probable(float(factors[0]) * wide + float(factors[1]) * deep)
        self.held = Held(data, places, own, self._probable(floor), targets)
        self.held_scores = self._table(own, self.held.floor, targets)

    def _probable(self, logits: Numbers) -> Numbers:
        found: Numbers = probabilities(torch.from_numpy(logits), several=self.several).numpy()
        return found

    def _table(self, own: Numbers, floor: Numbers, targets: Numbers) -> Table:
        """The scores of the model and of both baselines."""
        usual = np.broadcast_to(self.shares, targets.shape)
        named = {self.name: own, self.floor_name: floor, MAJORITY: usual}
        return {name: scores(p, targets, several=self.several) for name, p in named.items()}

    @property
    def name(self) -> str:
        """What the model is called in tables."""
        return "LSTM + n-grams" if self.kind == "text" else "LSTM + linear"

    @property
    def floor_name(self) -> str:
        """What the baseline is called."""
        return FLOOR if self.kind == "text" else NUMBERS_FLOOR

    def predict(self, data: Any, **columns: Any) -> Classified:
        """The class of each row and the probability of each class. data: as for :meth:`fit`, without labels.

        A single string is a path. Raises DataError for data of another kind than those learnt from.
        """
        self._network()
        found = read(data, None, labelled=False, columns=columns)
        own = self._apart(found)[0]
        said = decided(own, self.several)
        labels: list[Any] = [tuple(self.classes[k] for k in np.flatnonzero(row)) for row in said]
        return Classified(tuple(labels if self.several else (one[0] for one in labels)), own, self.classes)

    def attention(self, data: Any, **columns: Any) -> tuple[Attended, ...]:
        """How much each word or step of each row weighed, of a classifier with pooling="attention".

        data: as for :meth:`predict`. Raises ArgumentError for another pooling.
        """
        network = self._network()
        return attended(network, self.preparation, read(data, None, labelled=False, columns=columns))

    def evaluate(self, data: Any, labels: Iterable[Any] | None = None, **columns: Any) -> dict[str, Any]:
        """Scores on labelled data, beside those of the floor and of the most frequent class.

        accuracy, macro F1, log loss, calibration error (`recurra.tasks.classify_scores`); "baselines": the
        same of each baseline, learnt from the same rows; "classes": precision, recall, F1 and rows of each.
        Raises DataError for a label that was not learnt.
        """
        self._network()
        found = read(data, labels, labelled=True, columns=columns)
        held = self.said_of(found)
        table = self._table(held.probabilities, held.floor, held.targets)
        each = by_class(held.probabilities, held.targets, several=self.several)
        return {
            **table[self.name],
            "rows": len(found),
            "baselines": {name: row for name, row in table.items() if name != self.name},
            "classes": dict(zip(self.classes, each, strict=True)),
        }

    def said_of(self, data: Data) -> Held:
        """What the model and the floor say of labelled rows. Raises DataError for a label not learnt."""
        targets = targets_of(data, self.classes, self.several)
        return Held(data, np.arange(len(data)), *self._apart(data), targets)

    def _apart(self, data: Data) -> tuple[Numbers, Numbers]:
        """The probabilities of the model and of the floor, each (N, K)."""
        network = self._network()
        own, floor = [], []
        with few_threads(self.plan.hidden_size), torch.no_grad():
            for start in range(0, len(data), CHUNK):
                rows = self.preparation.encode(data.take(np.arange(start, min(start + CHUNK, len(data)))))
                wide = self.bag.logits(rows.bag_counts())
                part = np.zeros_like(wide)
                for places in batches_by_length(rows.lengths, 256):
                    part[places] = network(rows.batch(places, wide=wide)).numpy()
                own.append(part)
                floor.append(self._probable(self.floor.logits(rows.floor_counts())))
        return np.concatenate(own), np.concatenate(floor)

    def _arguments(self) -> dict[str, Any]:
        """What the constructor was given, but for the device and the vectors, which the weights hold."""
        return {**self.numbers, "tokens": self.tokens, "class_weights": self.class_weights, "seed": self.seed}

    def save(self, path: str | Path) -> None:
        """Write the model to one file, ``*.safetensors``: weights, and everything else as a JSON document."""
        parts = {
            "network": self._network().state_dict(),
            "bag": self.bag.tensors(),
            "floor": self.floor.tensors(),
            "preparation": self.preparation.to_tensors(),
        }
        tensors = {f"{part}.{name}": one for part, named in parts.items() for name, one in named.items()}
        document = {
            "task": "classify",
            "arguments": self._arguments(),
            "plan": dataclasses.asdict(self.plan),
            "kind": self.kind,
            "classes": list(self.classes),
            "several": self.several,
            "kinds": [self.bag.kind, self.floor.kind],
            "preparation": self.preparation.to_json(),
            "held_scores": self.held_scores,
            "history": self.history,
        }
        checkpoint.write(path, {**tensors, "shares": torch.from_numpy(self.shares)}, document)

    @staticmethod
    def load(path: str | Path) -> Classifier:
        """Read what :meth:`save` wrote. Raises ModelFileError for any other file."""
        tensors, document = checkpoint.read(path)
        if document.get("task") != "classify":
            raise ModelFileError(f"{path}: expected a classify model, found task {document.get('task')!r}")
        try:
            classifier = Classifier(**document["arguments"])
            classifier.plan = plan_of(document["plan"])
            classifier.kind, classifier.several = document["kind"], bool(document["several"])
            classifier.classes = tuple(document["classes"])
            classifier.notes, classifier.start = (), None
            classifier.preparation = Preparation.from_parts(
                classifier.plan, _under("preparation", tensors), document["preparation"]
            )
            classifier.bag, classifier.floor = (
                Bag.from_tensors(kind, _under(part, tensors), several=classifier.several)
                for kind, part in zip(document["kinds"], ("bag", "floor"), strict=True)
            )
            classifier.shares = tensors["shares"].numpy()
            classifier.held_scores, classifier.history = document["held_scores"], document["history"]
            readers = [classifier._reader(0) for _ in range(classifier.plan.members)]
            classifier.network = ClassifyNetwork(readers, several=classifier.several).eval()
            classifier.network.load_state_dict(_under("network", tensors))
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
            raise ModelFileError(
                f"{path}: the model's description does not fit its weights or this version ({error}): "
                "train it again, or use the version of recurra that wrote it"
            ) from error
        return classifier

    def _network(self) -> ClassifyNetwork:
        if self.network is None:
            raise ArgumentError("this Classifier has learnt nothing yet: call fit(data) or load(path) first")
        return self.network


def _pair(valid: Any) -> tuple[Any, Any]:
    """Data and labels of `valid`, which is either, or data that hold their labels."""
    return valid if isinstance(valid, tuple) and len(valid) == 2 else (valid, None)


def _staged(log: Log, stage: str) -> Log:
    return lambda row: log({"stage": stage, **row})


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of one part, by their own names."""
    return {
        name.removeprefix(f"{part}."): one for name, one in tensors.items() if name.startswith(f"{part}.")
    }
