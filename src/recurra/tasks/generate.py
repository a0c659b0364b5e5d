"""Language models: the estimator.

    from recurra import LanguageModel
    model = LanguageModel(tokens="character").fit("input.txt")
    print(model.generate("ROMEO:", length=200, temperature=0.8))

The way from a file to a model: running text (data.corpus), tokens (data.tokens), numbers chosen from its size
(tasks.generate_plan), an LSTM (tasks.generate_network) trained by train.fit on parallel streams.

Axes: N streams, T tokens, K different ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recurra import checkpoint
from recurra.data.corpus import (
    END,
    Corpus,
    Numbers,
    check_kind,
    end_of,
    fit_tokenizer,
    read_corpus,
    start_of,
    stream,
    unknown_parts,
)
from recurra.data.tokens import KINDS, Tokenizer
from recurra.data.words import counted
from recurra.engine import native
from recurra.errors import ArgumentError, DataError, ModelFileError
from recurra.tasks.generate_network import LanguageNetwork, Streams, Windows, surprise
from recurra.tasks.generate_plan import RECIPES, Plan, choose_plan, with_numbers
from recurra.tasks.generate_scores import Foreseen, counted_stream
from recurra.tasks.sampling import Drawer, Sampling
from recurra.tasks.speaking import Speaker

Log = Callable[[dict[str, Any]], None]
LONGEST = 1_000_000
"""Tokens that `generate` makes at most."""
_FEWEST = 8  # tokens to learn from
_NUMBERS = ("vocabulary", "window", "streams", "epochs")


class LanguageModel:
    """Learns what follows what in a text, foresees it and writes on.

    tokens: "character", "word", "blank" (what stands between blanks), "bpe" or "jieba"
    (`recurra.data.tokens`). vocabulary: how many different tokens at most. hidden_sizes: of one LSTM layer,
    or of each; dropout: of the output, the others in proportion; window: steps between two updates; streams:
    parallel ones; epochs, learning_rate: chosen from the text's size where None
    (`recurra.tasks.generate_plan`). minutes: train so long instead, validation included; how far that comes
    depends on the machine. recipe: "adamw", or "awd", AWD-LSTM as published. seed fixes every random number;
    device: "cpu", "cuda" or "auto".

    Raises ArgumentError for a value that makes no sense.
    """

    def __init__(
        self,
        tokens: str = "character",
        *,
        vocabulary: int | None = None,
        hidden_sizes: int | Sequence[int] | None = None,
        dropout: float | None = None,
        window: int | None = None,
        streams: int | None = None,
        epochs: int | None = None,
        minutes: float | None = None,
        learning_rate: float | None = None,
        recipe: str = "adamw",
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        check_kind(tokens, KINDS)
        sizes = (
            hidden_sizes if hidden_sizes is None or isinstance(hidden_sizes, Sequence) else (hidden_sizes,)
        )
        self.numbers: dict[str, Any] = {
            "vocabulary": vocabulary,
            "hidden_sizes": None if sizes is None else tuple(sizes),
            "dropout": dropout,
            "window": window,
            "streams": streams,
            "epochs": epochs,
            "minutes": minutes,
            "learning_rate": learning_rate,
        }
        _check_numbers(self.numbers, recipe, seed)
        self.tokens, self.recipe, self.seed, self.device = tokens, recipe, seed, device
        self.history: list[dict[str, Any]] = []
        self.network: LanguageNetwork | None = None

    def fit(
        self,
        data: Any,
        labels: None = None,
        *,
        valid: Any = None,
        checkpoints: str | Path | None = None,
        log: Log | None = None,
        **columns: Any,
    ) -> LanguageModel:
        """Learn from a text: a path, several, strings, a frame (`recurra.data.corpus.read_corpus`).

        valid: another such text, by which the best epoch is chosen; where None, the last tenth of `data` is
        held back for it. columns: `text`, the column of a table. checkpoints: a folder in which a killed run
        finds its way back; run again with the same arguments it ends with the same weights. log: called with
        a dict after each epoch. Raises DataError where the data cannot be used.
        """
        if labels is not None:
            raise ArgumentError("labels: a language model learns from text alone; leave them out")
        learnt, held = self.corpora(data, valid, **columns)
        self.tokenizer = fit_tokenizer(learnt, self.tokens, vocabulary=self.numbers["vocabulary"])
        self.listed = learnt.listed
        numbers, judged = stream(learnt, self.tokenizer), stream(held, self.tokenizer)
        self.counts = np.bincount(numbers, minlength=len(self.tokenizer)).astype(np.int64)
        if len(numbers) < _FEWEST:
            raise DataError(
                f"{learnt.name!r} has {counted(len(numbers), 'token')}; expected at least {_FEWEST} to learn "
                "from: give more text"
            )
        self.plan = self.planned(len(numbers))
        folder = None if checkpoints is None else Path(checkpoints)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._train(numbers, judged, folder, f"text {learnt.digest()}, valid {held.digest()}", log)
        return self

    def corpora(
        self, data: Any, valid: Any = None, *, text: str | int | None = None
    ) -> tuple[Corpus, Corpus]:
        """The text to learn from and the text to judge by, read and split as `fit` does it."""
        whole = read_corpus(data, text=text)
        return whole.split() if valid is None else (whole, read_corpus(valid, text=text))

    def planned(self, count: int) -> Plan:
        """The plan for a text of `count` tokens, once the tokenizer is there."""
        chosen = {
            name: value for name, value in self.numbers.items() if name not in ("vocabulary", "minutes")
        }
        minutes = self.numbers["minutes"]
        plan = choose_plan(
            count, len(self.tokenizer), recipe=self.recipe, minutes=minutes, bfloat16=self._has_bfloat16()
        )
        return with_numbers(plan, count, len(self.tokenizer), **chosen)

    def _has_bfloat16(self) -> bool:
        kernels = native.kernels()
        return self.device == "cpu" and kernels is not None and kernels.for_pairs is not None

    def _build(self) -> LanguageNetwork:
        plan = self.plan
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = LanguageNetwork(
                len(self.tokenizer),
                plan.embedding_size,
                plan.hidden_sizes,
                tied=plan.tied,
                embedding_dropout=plan.embedding_dropout,
                input_dropout=plan.input_dropout,
                hidden_dropout=plan.hidden_dropout,
                output_dropout=plan.output_dropout,
                weight_drop=plan.weight_drop,
                forget_bias=plan.forget_bias,
            )
        with torch.no_grad():
            # else the first thousand steps go into learning how frequent each word is
            known = torch.from_numpy(self.counts).double() + 1.0
            network.bias.copy_((known / known.sum()).log())
        return network

    def _train(
        self, numbers: Numbers, judged: Numbers, folder: Path | None, about: str, log: Log | None
    ) -> None:
        from recurra import train

        plan, network, start = self.plan, self._build(), start_of(self.tokenizer)
        parts = max(1, min(32, len(judged) // 256))

        def validate() -> float:
            return float(surprise(network, judged, start, parts).mean())

        def told(row: dict[str, Any]) -> None:
            if log is not None:
                log({"stage": "training", **row})

        history = train.fit(
            train.quiet_fabric(self.device, precision=plan.precision),
            Streams(network, plan.streams, plan.activity, plan.change),
            Windows(numbers, plan.streams, plan.window, plan.varied, plan.resets),
            epochs=plan.epochs or 1_000_000,
            seconds=plan.seconds,
            learning_rate=plan.learning_rate,
            weight_decay=plan.weight_decay,
            clip=plan.clip,
            optimizer=plan.optimizer,  # type: ignore[arg-type]
            schedule=plan.schedule,  # type: ignore[arg-type]
            validate=validate if len(judged) else None,
            seed=self.seed,
            about=f"{about}, {plan}",
            checkpoint=None if folder is None else folder / "training.safetensors",
            log=told,
        )
        # Wherever it was trained, what follows is quick enough on the CPU.
        self.network = network.cpu().eval()
        self.history = [dict(row) for row in history.rows]

    def foresee(self, data: Any, *, text: str | int | None = None) -> Foreseen:
        """The nats of each token of a text, read as one stream with carried state."""
        network = self._network()
        numbers, characters, unknown = counted_stream(read_corpus(data, text=text), self.tokenizer)
        return Foreseen(numbers, surprise(network, numbers, start_of(self.tokenizer)), characters, unknown)

    def score(self, text: str) -> Foreseen:
        """The nats of each token of this very text. Raises DataError where there is none."""
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"text: expected some text to score, got {text!r:.40}; give at least a word")
        return self.foresee(Corpus((text,), self.listed))

    def evaluate(self, data: Any, **columns: Any) -> dict[str, float]:
        """Scores on a text, read as one stream with carried state: metric → value.

        tokens, characters, unknown: how many; nats_per_token, perplexity, nats_per_character,
        bits_per_character: `recurra.tasks.generate_scores`. Raises what `read_corpus` raises.
        """
        return self.foresee(data, **columns).scores()

    def predict(self, data: Any, *, text: str | int | None = None) -> list[dict[str, Any]]:
        """Each line of running text, or each text of a list, scored by itself: a dict a line.

        line (from 1), text, and the scores of :meth:`evaluate`. Empty lines are left out.
        """
        network, found = self._network(), []
        corpus = read_corpus(data, text=text)
        lines = corpus.texts if corpus.listed else "\n".join(corpus.texts).split("\n")
        for place, line in enumerate(lines, 1):
            if not line.strip():
                continue
            numbers, characters, unknown = counted_stream(Corpus((line,), self.listed), self.tokenizer)
            nats = surprise(network, numbers, start_of(self.tokenizer))
            found.append(
                {"line": place, "text": line, **Foreseen(numbers, nats, characters, unknown).scores()}
            )
        return found

    def generate(self, prompt: str = "", *, length: int = 200, seed: int = 0, **sampling: Any) -> str:
        """The prompt and what the model writes on: `length` tokens, fewer where a listed text ends.

        sampling: temperature, top_k, top_p, repetition of `recurra.tasks.sampling.Sampling`. Raises
        ArgumentError for values that make no sense.
        """
        return _whole(prompt) + "".join(self.stream(prompt, length=length, seed=seed, **sampling))

    def stream(self, prompt: str = "", *, length: int = 200, seed: int = 0, **sampling: Any) -> Iterator[str]:
        """What follows the prompt, a piece at a time, as soon as it is there; see :meth:`generate`.

        Tokens of the prompt that the model does not know are read as the unknown token: :meth:`unknown`.
        """
        network = self._network()
        if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= LONGEST:
            raise ArgumentError(
                f"length: expected a number of tokens from 1 to {LONGEST:,}, got {length!r}; give 200, say"
            )
        _check_seed(seed)
        drawer = Drawer(Sampling(**sampling), seed, (self.tokenizer.padding, self.tokenizer.unknown))
        return self._spoken(network, drawer, _whole(prompt), length)

    @torch.no_grad()
    def _spoken(self, network: LanguageNetwork, drawer: Drawer, prompt: str, length: int) -> Iterator[str]:
        end = end_of(self.tokenizer)
        (known,) = self.tokenizer.encode([prompt])
        numbers = np.concatenate([[start_of(self.tokenizer)], known]).astype(np.int64)
        hidden, _, states = network.hidden(torch.from_numpy(numbers)[None])
        speaker = Speaker(self.tokenizer, prompt)
        for _ in range(length):
            number = drawer.draw(network.logits(hidden[0, -1]))
            if number == end and self.listed:
                break
            piece = speaker.say(number)
            if piece:
                yield piece
            hidden, _, states = network.hidden(torch.tensor([[number]]), states)
        if rest := speaker.rest():
            yield rest

    def unknown(self, text: str) -> list[str]:
        """The tokens of a text that the model does not know, each once, the first eight."""
        self._network()
        return unknown_parts(_whole(text), self.tokenizer)

    def save(self, path: str | Path) -> None:
        """Write the model to one file, ``*.safetensors``: weights, and everything else as a JSON document."""
        tensors = {**self._network().state_dict(), "counts": torch.from_numpy(self.counts)}
        sizes = self.numbers["hidden_sizes"]
        document = {
            "task": "generate",
            "arguments": {
                **self.numbers,
                "hidden_sizes": None if sizes is None else list(sizes),
                "tokens": self.tokens,
                "recipe": self.recipe,
                "seed": self.seed,
            },
            "plan": {**dataclasses.asdict(self.plan), "hidden_sizes": list(self.plan.hidden_sizes)},
            "listed": self.listed,
            "tokenizer": self.tokenizer.to_json(),
            "history": self.history,
        }
        checkpoint.write(path, tensors, document)

    @staticmethod
    def load(path: str | Path) -> LanguageModel:
        """Read what :meth:`save` wrote. Raises ModelFileError for any other file."""
        tensors, document = checkpoint.read(path)
        if document.get("task") != "generate":
            raise ModelFileError(f"{path}: expected a language model, found task {document.get('task')!r}")
        try:
            model = LanguageModel(**document["arguments"])
            plan = dict(document["plan"])
            model.plan = Plan(**{**plan, "hidden_sizes": tuple(plan["hidden_sizes"])})
            model.tokenizer = Tokenizer.from_json(document["tokenizer"])
            model.listed, model.history = bool(document["listed"]), list(document["history"])
            counts = tensors.pop("counts")
            if counts.shape != (len(model.tokenizer),):
                raise ValueError("counts and tokens differ in number")
            model.counts = counts.numpy()
            network = model._build()
            network.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelFileError(
                f"{path}: the model's description does not fit its weights or this version ({error}): "
                "train it again, or use the version of recurra that wrote it"
            ) from error
        model.network = network.eval()
        return model

    def _network(self) -> LanguageNetwork:
        if self.network is None:
            raise ArgumentError(
                "this LanguageModel has learnt nothing yet: call fit(data) or load(path) first"
            )
        return self.network


def _whole(prompt: str) -> str:
    """The prompt without END in letters, which is no text, and without halves of characters, which no file
    can hold but a command line can."""
    if not isinstance(prompt, str):
        raise ArgumentError(f"prompt: expected a string, got {type(prompt).__name__}; give text")
    return prompt.encode("utf-8", "replace").decode().replace(END, "\n")


def _check_numbers(numbers: dict[str, Any], recipe: str, seed: int) -> None:
    if recipe not in RECIPES:
        raise ArgumentError(f"recipe: expected one of {', '.join(RECIPES)}, got {recipe!r}; choose one")
    sizes = numbers["hidden_sizes"]
    if sizes is not None and (not sizes or not all(_is_count(size) and size <= 8192 for size in sizes)):
        raise ArgumentError(
            f"hidden_sizes: expected whole numbers from 1 to 8192, got {sizes}; give 256, say"
        )
    for name in _NUMBERS:
        value = numbers[name]
        if value is not None and not _is_count(value):
            raise ArgumentError(f"{name}: expected a whole number, 1 or more, got {value!r}; or leave it out")
    for name in ("minutes", "learning_rate"):
        value = numbers[name]
        if value is not None and not (_is_number(value) and 0 < value < float("inf")):
            raise ArgumentError(f"{name}: expected a number above 0, got {value!r}; or leave it out")
    dropout = numbers["dropout"]
    if dropout is not None and not (_is_number(dropout) and 0 <= dropout < 1):
        raise ArgumentError(f"dropout: expected a number from 0 to below 1, got {dropout!r}; give 0.4, say")
    _check_seed(seed)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ArgumentError(f"seed: expected a whole number from 0 to 2**63 - 1, got {seed!r}; give 1, say")
