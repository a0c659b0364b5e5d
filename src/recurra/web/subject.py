"""What the page looks at: a network, the samples it can be shown, and how a typed one is read.

Axes: N batch, T time, F features, Q horizon, K quantiles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recurra.errors import ArgumentError
from recurra.web.refusals import Refusal

if TYPE_CHECKING:
    from recurra.tasks.forecast import Forecaster
    from recurra.web.estimators import Told

MOST_SAMPLES = 200
"""Samples that the page offers of the user's data; they are spread over all of it."""
MOST_TYPED = 20_000
"""Steps that a typed sample may have."""


@dataclass(frozen=True)
class Sample:
    """One sequence.

    inputs: what the network is called with, a batch of one row · labels: a name for each step of the
    recurrent layers, or none · strip: name → numbers to draw above the heat maps, stretched over all steps ·
    told: name → numbers to tell of the answer, where it is not the network's output itself · given: what the
    data say of it, labels or a tag for each word · unknown: words that the model does not know.
    """

    inputs: tuple[Tensor, ...]
    labels: tuple[str, ...]
    strip: dict[str, list[float | None]]
    told: dict[str, list[float]] | None = None
    given: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A network and its samples. ``titles`` names them, ``sample(index)`` makes one, ``typed(text)`` reads.

    kind: what a sample is made of. features: numbers that a typed step needs. hint: a text that can be typed.
    numbers: from what the network returns to (N, K), the numbers that are asked about. axis: that of rows in
    the inputs. Of a Classifier, Tagger or LanguageModel also told: how its answers are told. fresh: makes its
    network as it was before training. other: the network of another such model, which reads the same samples.
    whole: all numbers of the answer (N, ...), where `numbers` are those of one step. parameters: how many
    there are, where the network has others too. named: whether titles say what the samples are.
    """

    title: str
    network: nn.Module
    kind: Literal["numbers", "words", "forecast"]
    titles: tuple[str, ...]
    sample: Callable[[int], Sample]
    typed: Callable[[str], Sample] | None
    features: int
    hint: str
    numbers: Callable[[Any], Tensor]
    axis: int = 0
    told: Told | None = None
    fresh: Callable[[], nn.Module] | None = None
    other: Callable[[Any], nn.Module] | None = None
    whole: Callable[[Any], Tensor] | None = None
    parameters: int | None = None
    named: bool = False


def open_subject(model: Any, data: Any = None) -> Subject:
    """The subject of a fitted estimator and its data, or of any `nn.Module` and its samples.

    A Forecaster's data are a path, a frame or a Panel; a Classifier's, Tagger's or LanguageModel's what its
    `predict` takes, and where there are none, a text of its own words. A module's are sequences: one array
    (T, F), an array (N, T, F) or a list of (T, F), all numbers; with a `vocabulary` (words, or word → index)
    on the module, a list of sentences, or arrays (T,) of indices. A module is called with a batch of one row,
    (1, T, F) or (1, T), unless it is itself a recurrent layer that is not batch_first. Without data, a made-
    up sample.

    Raises ArgumentError for a model that is neither, and for data that do not fit it.
    """
    if isinstance(model, nn.Module):
        return _of_module(model, data)
    if hasattr(model, "quantiles_at"):
        return _of_forecaster(model, data)
    from recurra.web.estimators import subject_of

    found = subject_of(model, data)
    if found is not None:
        return found
    raise ArgumentError(
        "model: expected a torch.nn.Module or a fitted Forecaster, Classifier, Tagger or LanguageModel, got "
        f"{type(model).__name__}; give the network that holds the recurrent layers"
    )


def _of_module(model: nn.Module, data: Any) -> Subject:
    vocabulary = _vocabulary(model)
    title, axis = type(model).__name__, 1 if getattr(model, "batch_first", True) is False else 0
    if vocabulary is not None:
        sentences = _sentences(data, vocabulary)
        return Subject(
            title,
            model,
            "words",
            tuple(short(" ".join(words)) for words in sentences),
            lambda index: _word_sample(model, sentences[index], vocabulary),
            lambda text: _word_sample(model, _tokens(text, vocabulary), vocabulary),
            1,
            " ".join(sentences[0][:12]),
            lambda output: last_numbers(output, axis),
            axis,
        )
    features = _features(model)
    arrays = _arrays(data, features)
    width = arrays[0].shape[1]
    return Subject(
        title,
        model,
        "numbers",
        tuple(f"{index}" for index in range(len(arrays))),
        lambda index: _number_sample(model, arrays[index]),
        lambda text: _number_sample(model, parse_numbers(text, width)),
        width,
        "\n".join(", ".join(f"{value:.2f}" for value in row) for row in arrays[0][: 24 if width == 1 else 8]),
        lambda output: last_numbers(output, axis),
        axis,
    )


def _vocabulary(model: nn.Module) -> dict[str, int] | None:
    found = getattr(model, "vocabulary", None)
    if found is None:
        return None
    if isinstance(found, dict):
        return {str(word): int(index) for word, index in found.items()}
    if isinstance(found, Sequence) and found:
        return {str(word): index for index, word in enumerate(found)}
    raise ArgumentError(
        f"model.vocabulary: expected a list of words or a dict from word to index, got "
        f"{type(found).__name__}; give one of them, or take the attribute away"
    )


def _features(model: nn.Module) -> int:
    """F of the first recurrent layer, the guess for a module that was given no data."""
    for module in model.modules():
        size = getattr(module, "input_size", None)
        if isinstance(size, int):
            return size
    return 1


def _arrays(data: Any, features: int) -> list[np.ndarray]:
    if data is None:
        steps = np.arange(48)
        waves = [np.sin(2 * np.pi * steps / (12 + 5 * f)) for f in range(features)]
        return [np.stack(waves, axis=1)]
    given = (
        [data] if isinstance(data, (np.ndarray, Tensor)) else _listed(data, "sequences of numbers, (T, F)")
    )
    arrays: list[np.ndarray] = []
    for one in given:
        try:
            array = np.asarray(one.detach().cpu() if isinstance(one, Tensor) else one, np.float64)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"data: expected sequences of numbers, (T, F) each, got {type(one).__name__} ({error})"
            ) from error
        arrays += list(array) if array.ndim == 3 else [array[:, None] if array.ndim == 1 else array]
    for array in arrays:
        if array.ndim != 2 or 0 in array.shape or array.shape[1] != arrays[0].shape[1]:
            raise ArgumentError(
                f"data: expected sequences (T, F) of one F and at least one step, got shape {array.shape}"
            )
    if not arrays:
        raise ArgumentError("data: expected at least one sequence, got none; give an array (N, T, F)")
    return [arrays[i] for i in spread(len(arrays))]


def _listed(data: Any, what: str) -> list[Any]:
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise ArgumentError(f"data: expected a list of {what}, got {type(data).__name__}; put it into a list")
    return list(data)


def _number_sample(model: nn.Module, values: np.ndarray) -> Sample:
    batch = _like_weights(model, values)[None]
    if getattr(model, "batch_first", True) is False:
        batch = batch.transpose(0, 1)
    strip = {
        f"x{f + 1}" if values.shape[1] > 1 else "x": plain_numbers(values[:, f])
        for f in range(min(8, values.shape[1]))
    }
    return Sample((batch,), (), strip)


def _like_weights(model: nn.Module, values: np.ndarray) -> Tensor:
    """The numbers in the type and on the device of the model's weights."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.from_numpy(values).to(weight)


def parse_numbers(text: str, features: int) -> np.ndarray:
    """(T, F) of typed numbers: a line for each step, or where F is 1 just numbers. Raises ArgumentError."""
    rows = [text] if features == 1 else [line for line in re.split(r"[\n;]", text) if line.strip()]
    values = []
    for row in rows:
        for word in (words := [word for word in re.split(r"[\s,;]+", row) if word]):
            try:
                number = float(word)
            except ValueError:
                number = float("nan")
            if not np.isfinite(number):
                raise Refusal("number", word=repr(word[:40]))
            values.append(number)
        if features > 1 and len(words) != features:
            raise Refusal("row", features=features, count=len(words), row=repr(row.strip()[:40]))
    if not values:
        raise Refusal("no_number")
    if len(values) // features > MOST_TYPED:
        raise Refusal("steps", most=MOST_TYPED, count=len(values) // features)
    return np.array(values).reshape(-1, features)


def _sentences(data: Any, vocabulary: dict[str, int]) -> list[list[str]]:
    if data is None:
        return [[word for word in vocabulary if not word.startswith("<")][:12]]
    by_index = {index: word for word, index in vocabulary.items()}
    made = []
    for one in _listed(data, "sentences"):
        if isinstance(one, str):
            made.append(_tokens(one, vocabulary))
            continue
        made.append([by_index.get(int(index), "?") for index in np.asarray(one).reshape(-1)])
    if not made:
        raise ArgumentError("data: expected at least one sentence, got none")
    return [made[i] for i in spread(len(made))]


def _tokens(text: str, vocabulary: dict[str, int]) -> list[str]:
    """The words of a text, or its characters where the vocabulary holds such. Raises ArgumentError."""
    plain = [word for word in vocabulary if not word.startswith("<")]
    if all(len(word) == 1 for word in plain):
        words = list(text)
    else:
        words = re.findall(r"\w+(?:'\w+)?|[^\w\s]", text)
        words = [word if word in vocabulary else word.lower() for word in words]
    if not words:
        raise Refusal("no_word")
    if len(words) > MOST_TYPED:
        raise Refusal("words", most=MOST_TYPED, count=len(words))
    unknown = next((word for word in words if word not in vocabulary), None)
    if unknown is not None and _unknown(vocabulary) is None:
        raise Refusal("unknown", word=repr(unknown[:40]), known=", ".join(plain[:8]))
    return words


def _unknown(vocabulary: dict[str, int]) -> int | None:
    return next((vocabulary[word] for word in ("<unk>", "[UNK]", "<unknown>") if word in vocabulary), None)


def _word_sample(model: nn.Module, words: list[str], vocabulary: dict[str, int]) -> Sample:
    unknown = _unknown(vocabulary) or 0
    device = next((p.device for p in model.parameters()), None)
    indices = torch.tensor([[vocabulary.get(word, unknown) for word in words]], device=device)
    if getattr(model, "batch_first", True) is False:
        indices = indices.T
    return Sample((indices,), tuple(words), {})


def last_numbers(output: Any, axis: int) -> Tensor:
    """(N, K): of the first tensor that a network gave back the last step, rows on its axis ``axis``.

    Raises ArgumentError where it gave back no tensor.
    """
    while isinstance(output, (tuple, list)) and not isinstance(output, PackedSequence) and output:
        output = output[0]
    if isinstance(output, dict) and output:
        return last_numbers(next(iter(output.values())), axis)
    if not isinstance(output, Tensor) or output.numel() == 0:
        raise ArgumentError(
            f"model: expected one that returns a tensor, got {type(output).__name__} from it; wrap it"
        )
    if output.ndim == 0:
        return output.reshape(1, 1)
    if output.ndim == 3:
        return output.transpose(0, axis)[:, -1]
    return output.flatten(1) if output.ndim > 1 else output.unsqueeze(1)


def _of_forecaster(forecaster: Forecaster, data: Any) -> Subject:
    from recurra.data.calendar import show
    from recurra.data.table import Panel
    from recurra.tasks.preparation import Prepared

    if data is None:
        raise ArgumentError(
            "data is missing: a Forecaster is shown on a table; give the one it was fitted on"
        )
    if forecaster.network is None:
        raise ArgumentError("this Forecaster has learnt nothing yet: call fit(data) or load(path) first")
    network, plan, name = forecaster.network, forecaster.plan, forecaster.names[0]

    def windows_of(panel: Panel) -> tuple[Any, np.ndarray]:
        prepared = Prepared(panel, forecaster.preparation, forecaster.names, forecaster.frequency)
        found = prepared.origins(np.minimum(plan.lookback, prepared.lengths), prepared.lengths)
        ends = np.array([(index, len(series)) for index, series in enumerate(panel.series)])
        found = np.unique(np.concatenate([found, ends]), axis=0)
        return prepared, found[~forecaster.preparation.looks_ahead(panel, found)]

    def made(panel: Panel, prepared: Any, window: np.ndarray) -> Sample:
        index, origin = window.tolist()
        series, steps = panel.series[index], plan.lookback
        example = prepared.example(window[None])
        padded = -(-steps // plan.segment) * plan.segment
        values = np.full(padded, np.nan)
        seen = series.target[max(origin - padded, 0) : origin]
        values[padded - len(seen) :] = seen
        starts = range(origin - padded, origin, plan.segment)
        labels = tuple(show(series.stamps[s]) if s >= 0 else "…" for s in starts)
        median = forecaster.quantiles_at(panel, window[None])[0][:, forecaster.quantiles.index(0.5)]
        told = {"forecast": [float(value) for value in median[:12]]}
        inputs = (example.past, example.future, example.static, example.series)
        return Sample(inputs, labels, {series.name: plain_numbers(values)}, told)

    def typed(text: str) -> Sample:
        values = parse_numbers(text, 1)[:, 0]
        if len(values) < 4:
            raise Refusal("history", count=len(values))
        start = panel.series[0].stamps[0]
        one = Panel.from_arrays({name: values}, panel.frequency.alias, start)
        prepared = Prepared(one, forecaster.preparation, forecaster.names, forecaster.frequency)
        return made(one, prepared, np.array([0, len(values)]))

    panel = forecaster.panel(data)
    prepared, windows = windows_of(panel)
    windows = windows[np.argsort(-windows[:, 1], kind="stable")]
    windows = windows[spread(len(windows))]
    titles = tuple(
        f"{panel.series[i].name} → {show(panel.series[i].stamps[o - 1])}" for i, o in windows.tolist()
    )
    alone = not (panel.past_names or panel.known_names or panel.static_names)
    history = panel.series[0].target[-plan.lookback :]
    return Subject(
        "Forecaster",
        network,
        "forecast",
        titles,
        lambda index: made(panel, prepared, windows[index]),
        typed if alone else None,
        1,
        ", ".join(f"{value:g}" for value in history if np.isfinite(value)),
        # what the members add to the smoothing's median, on average: one number for each step ahead
        lambda output: output.mean(dim=0)[..., output.shape[-1] // 2],
    )


def spread(count: int) -> list[int]:
    """At most MOST_SAMPLES indices below ``count``, evenly apart."""
    if count <= MOST_SAMPLES:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, MOST_SAMPLES).round()]


def plain_numbers(values: np.ndarray) -> list[float | None]:
    """Numbers that JSON can hold."""
    return [float(value) if np.isfinite(value) else None for value in values]


def short(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
