"""Attribution: which inputs mattered, at which step, for a forecast, a label, a tag or any other number.

* `integrated_gradients`: the gradient of the answer along the straight line from a baseline to the input,
  times the way (Sundararajan, Taly and Yan 2017, "Axiomatic attribution for deep networks", equation 1). Its
  numbers sum to f(x) - f(baseline), their completeness axiom; `gap` is what is missing, from too few steps.
* `occlusion`: how far the answer falls where a window of the input is put to the baseline (Zeiler and Fergus
  2014, "Visualizing and understanding convolutional networks", section 4.3). It asks for no gradients, so it
  takes tokens too. Effects of several windows together are not seen, so it sums to nothing in particular.

Both are computed by Captum, whose layers of recurrence are here any that a model has. Dropout is off. The
model must be one that treats each row by itself. Axes: `recurra.types`. xarray and Captum must be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from recurra.errors import ArgumentError
from recurra.lens.calls import as_module
from recurra.lens.optional import captum_attr, xarray_module
from recurra.lens.stepping import undisturbed

if TYPE_CHECKING:
    from xarray import Dataset

Target = Callable[[Any], Tensor] | int | str | tuple[Any, ...] | list[Any] | Tensor | None

DIMS = ("sample", "time", "feature")
ROWS = 1024  # rows that are computed at once: more take memory, fewer time


def integrated_gradients(
    model: Any,
    *inputs: Any,
    target: Target = None,
    argument: int = 0,
    baseline: float | Tensor = 0.0,
    embedding: torch.nn.Module | None = None,
    steps: int = 64,
    time: Any = None,
    features: Sequence[Any] | None = None,
    samples: Sequence[Any] | None = None,
    **options: Any,
) -> Dataset:
    """How much each number of an input added to the model's answer, against a baseline.

    model, inputs, options: what is called, a batch of N rows; batch-first, but for a layer whose own
    `batch_first` is False. Of a Forecaster as in `recurra.lens.trace`.
    target: the answer, one number for each row: a function from what the model returns to (N,); or of the
    first tensor that it returns, (N, ...), an index, a tuple of them, or a tensor (N,) of classes, one for
    each row; None: that tensor itself, where it is (N,) or (N, 1). Of a Forecaster's median q steps ahead, in
    the units of its network: q, counted from 0; None: the sum over the horizon. Of the logit of a
    Classifier's class, or the log-probability of a LanguageModel's next token or a Tagger's tag: a class or
    token by name or number, None for each row's likeliest; a word by its number from 0, for its likeliest
    tag, or (word, tag). Of a Classifier's parts the readers are asked, its n-grams stay as they are; under
    `occlusion` they lose the words too. argument: which input it is about, (N, T, F) or (N, T). baseline:
    what stands for nothing, a number or a tensor that spreads over that input. embedding: for tokens (N, T),
    the module whose first call turns them into vectors: the vectors are what is varied, the baseline a vector
    or number, and a token's share the sum over its vector; a Classifier, Tagger or LanguageModel has its own.
    steps: of the sum that stands for the integral. time, features, samples: labels; where none are given,
    numbers.

    Returns `attribution`, (sample, time, feature) or (sample, time), in units of the answer; and by sample
    `output` f(x), `baseline_output` f(baseline), and `gap`, the sum of attributions less their difference.
    Raises ArgumentError for an input, target, baseline or labels that do not fit; ImportError without Captum.

    For example::

        >>> import torch
        >>> from recurra.lens.attribution import integrated_gradients
        >>> from recurra.nn import LSTM
        >>> layer, x = LSTM(3, 7, batch_first=True), torch.randn(2, 5, 3)
        >>> found = integrated_gradients(layer, x, target=lambda output: output[0][:, -1].sum(-1))
        >>> found.attribution.dims
        ('sample', 'time', 'feature')
        >>> bool((abs(found.gap) < 1e-5).all())
        True
    """
    captum = captum_attr()
    question = _asked(model, inputs, options, argument, target)
    embedding = question.embedding if embedding is None else embedding
    _check_integral(steps, embedding, question.x)
    x, index = question.x, torch.arange(question.rows, device=question.x.device)
    with undisturbed(question.model), torch.backends.cudnn.flags(enabled=False):
        if embedding is not None:
            x = _embedded(question, embedding, index)
        start = _spread(baseline, x)

        def answer(varied: Tensor, rows: Tensor) -> Tensor:
            if embedding is None:
                return question.answer(varied, rows)
            with _replaced(embedding, varied.transpose(0, question.axis)):
                return question.answer(question.x[rows], rows)

        with torch.no_grad():
            output, nothing = answer(x, index), answer(start, index)
        values = captum.IntegratedGradients(answer).attribute(
            x,
            baselines=start,
            additional_forward_args=(index,),
            n_steps=steps,
            internal_batch_size=max(ROWS, question.rows),
        )
    if embedding is not None:
        values = values.sum(-1)
    values = values.detach()
    by_sample = {"output": output, "baseline_output": nothing}
    found = question.labelled(values, by_sample, time, features, samples)
    gap = values.double().flatten(1).sum(1) - (output.double() - nothing.double())
    found["gap"] = ("sample", gap.cpu().numpy())
    return found.assign_attrs(method="integrated gradients", steps=steps)


def occlusion(
    model: Any,
    *inputs: Any,
    target: Target = None,
    argument: int = 0,
    baseline: float | Tensor = 0.0,
    window: tuple[int, int | None] = (1, 1),
    time: Any = None,
    features: Sequence[Any] | None = None,
    samples: Sequence[Any] | None = None,
    **options: Any,
) -> Dataset:
    """How far the model's answer falls where a window of an input is put to the baseline.

    window: steps and features at once, None for all features; the windows lie side by side, and each number
    of one gets the whole difference. Each window costs one run of the model. An input of tokens needs no
    embedding; its baseline is a token, such as that of padding or of an unknown word. The other arguments
    and errors are those of `integrated_gradients`. Returns `attribution`, f(x) - f(x without the window),
    (sample, time, feature) or (sample, time), in units of the answer, and `output` f(x) (sample).

    For example::

        >>> import torch
        >>> from recurra.lens.attribution import occlusion
        >>> from recurra.nn import GRU
        >>> layer, x = GRU(3, 7, batch_first=True), torch.randn(2, 5, 3)
        >>> found = occlusion(layer, x, target=lambda output: output[0][:, 2].sum(-1), window=(1, None))
        >>> float(abs(found.attribution[0, 3:]).max())      # step 2 does not see what comes after
        0.0
    """
    captum = captum_attr()
    question = _asked(model, inputs, options, argument, target)
    x = question.x
    index = torch.arange(question.rows, device=x.device)
    start = _spread(baseline, x)
    shape = _window(window, x)
    with undisturbed(question.model), torch.no_grad():
        output = question.answer(x, index)
        values = captum.Occlusion(question.answer).attribute(
            x,
            sliding_window_shapes=shape,
            strides=shape,
            baselines=start,
            additional_forward_args=(index,),
            perturbations_per_eval=max(1, ROWS // question.rows),
        )
    found = question.labelled(values, {"output": output}, time, features, samples)
    return found.assign_attrs(method="occlusion", window=list(shape))


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of which model.

    x: the input that is varied, its rows first. inputs: all of them, x as it was given, in the place
    `argument`. axis: that of rows in inputs. samples, words: what the model itself calls them and their
    steps. embedding: what makes vectors of its tokens.
    """

    model: torch.nn.Module
    x: Tensor
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    argument: int
    axis: int
    samples: Sequence[Any] | None
    target: Callable[[Any, Tensor], Tensor]
    words: list[list[str]] | None = None
    embedding: torch.nn.Module | None = None

    @property
    def rows(self) -> int:
        """N."""
        return self.x.shape[0]

    def labelled(
        self, values: Tensor, by_sample: dict[str, Tensor], time: Any, features: Any, samples: Any
    ) -> Dataset:
        """The values with these labels, and the model's own where none are given."""
        time = self.words if time is None else time
        samples = self.samples if samples is None else samples
        return _labelled(values, by_sample, time, features, samples)

    def answer(self, varied: Tensor, rows: Tensor) -> Tensor:
        """(M,) for other values (M, ...) of x, in the rows (M,) of the batch."""
        given = [_taken(value, rows, self.rows, self.axis) for value in self.inputs]
        given[self.argument] = varied.transpose(0, self.axis)
        options = {
            name: _taken(value, rows, self.rows, 1 if name == "hx" else 0)
            for name, value in self.options.items()
        }
        found = self.target(self.model(*given, **options), rows)
        if not isinstance(found, Tensor) or found.shape != (len(rows),):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ArgumentError(
                f"target: expected one number for each row, shape ({len(rows)},), got {got}; choose one, as "
                "in target=3 for class 3 of (N, K), or give a function from the output to (N,)"
            )
        return found


def _asked(
    model: Any, inputs: tuple[Any, ...], options: dict[str, Any], argument: int, target: Target
) -> Question:
    """Raises ArgumentError for what cannot be asked."""
    asked = as_module(model, inputs, options)
    given = asked.inputs
    if not 0 <= argument < len(given):
        raise ArgumentError(
            f"argument: expected 0 to {len(given) - 1}, the inputs of the model, got {argument}; "
            "give the input that is to be varied by its place"
        )
    x = given[argument]
    if isinstance(x, PackedSequence) or not isinstance(x, Tensor) or x.dim() not in (2, 3) or 0 in x.shape:
        got = tuple(x.shape) if type(x) is Tensor else type(x).__name__
        raise ArgumentError(
            f"inputs: expected a batch (N, T, F) or (N, T) as input {argument}, got {got}; give the padded "
            "batch, and lengths where the model takes them"
        )
    axis = 0 if getattr(asked.model, "batch_first", True) else 1
    forecast = None if isinstance(model, torch.nn.Module) else asked.model
    own = callable(target) and not isinstance(target, Tensor)
    picked = asked.picked(target) if asked.picked is not None and not own else None
    return Question(
        model=asked.model,
        x=x.detach().transpose(0, axis),
        inputs=given,
        options=asked.options,
        argument=argument,
        axis=axis,
        samples=asked.samples,
        target=picked or _target(target, x.shape[axis], forecast),
        words=asked.words,
        embedding=asked.embedding,
    )


def _check_integral(steps: Any, embedding: Any, x: Tensor) -> None:
    """Raises ArgumentError for what has no integral."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ArgumentError(f"steps: expected a whole number of 1 or more, got {steps!r}; 64 is plenty")
    if embedding is None and not x.is_floating_point():
        raise ArgumentError(
            f"embedding: expected the module that turns tokens into vectors, as the input is {x.dtype}, got "
            "none; give it, as in embedding=model.embedding, or use occlusion"
        )


def _target(target: Target, rows: int, forecast: Any) -> Callable[[Any, Tensor], Tensor]:
    """From what the model returns, and the rows (M,) it is about, to (M,). Raises ArgumentError."""
    if callable(target) and not isinstance(target, Tensor):
        chosen = target
        return lambda output, at: chosen(output)
    if forecast is not None:
        return lambda output, at: _forecast(output, target, forecast)
    if isinstance(target, Tensor) and (target.shape != (rows,) or target.is_floating_point()):
        raise ArgumentError(
            f"target: expected a class for each of the {rows} rows, whole numbers ({rows},), got "
            f"{target.dtype} of shape {tuple(target.shape)}; give one for each row"
        )

    def take(output: Any, at: Tensor) -> Tensor:
        first = output
        while isinstance(first, (tuple, list)) and len(first):
            first = first[0]
        if not isinstance(first, Tensor):
            raise ArgumentError(
                f"target: expected a function from what the model returns, {type(output).__name__}, got "
                f"{target!r}; give one that makes a number of each row"
            )
        try:
            if isinstance(target, Tensor):
                return first[torch.arange(len(at), device=first.device), target.to(first.device)[at]]
            if target is not None:
                place: Any = target if isinstance(target, tuple) else (target,)
                return first[(slice(None), *place)]
        except IndexError as error:
            raise ArgumentError(
                f"target: expected an index into {tuple(first.shape)[1:]}, what the model returns for each "
                f"row, got {target}; name one that there is"
            ) from error
        return first.squeeze(1) if first.dim() == 2 and first.shape[1] == 1 else first

    return take


def _forecast(output: Tensor, target: Any, network: Any) -> Tensor:
    """(N,) of what a forecaster's members add to its start, (M, N, Q, K): the median's, q steps ahead."""
    median = int(torch.argmin((network.quantiles - 0.5).abs())) if output.shape[-1] > 1 else 0
    ahead: Tensor = network.trust * torch.quantile(output[..., median], 0.5, dim=0)  # (N, Q)
    if target is None:
        return ahead.sum(1)
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < ahead.shape[1]:
        raise ArgumentError(
            f"target: expected a step of the horizon, 0 to {ahead.shape[1] - 1}, or None for all, got "
            f"{target!r}; name one of them"
        )
    return ahead[:, target]


def _taken(value: Any, rows: Tensor, count: int, axis: int) -> Any:
    """These rows of an argument that has `count` of them on this axis; any other as it is."""
    if isinstance(value, Tensor):
        where = axis if value.dim() > axis else 0
        if value.dim() and value.shape[where] == count:
            return value.index_select(where, rows.to(value.device))
        return value
    if isinstance(value, tuple) and value and all(isinstance(part, Tensor) for part in value):
        return tuple(_taken(part, rows, count, axis) for part in value)
    if isinstance(value, (list, np.ndarray)) and len(value) == count:
        return torch.as_tensor(np.asarray(value))[rows.cpu()]
    return value


def _spread(baseline: float | Tensor, x: Tensor) -> Tensor:
    """The baseline in the shape of x. Raises ArgumentError."""
    start = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
    try:
        return start.expand_as(x).clone()
    except RuntimeError as error:
        raise ArgumentError(
            f"baseline: expected a number, or a tensor that spreads over {tuple(x.shape)}, rows first, got "
            f"shape {tuple(start.shape)}; give one number for each feature, or an input of that shape"
        ) from error


def _window(window: tuple[int, int | None], x: Tensor) -> tuple[int, ...]:
    """The window's size on each axis of one row. Raises ArgumentError."""
    sizes = x.shape[1:]
    wide = (window[0], sizes[-1] if window[1] is None else window[1])[: len(sizes)]
    if any(not isinstance(w, int) or not 1 <= w <= size for w, size in zip(wide, sizes, strict=True)):
        raise ArgumentError(
            f"window: expected steps and features, each 1 or more, within {tuple(sizes)}, got {window}; "
            "give (1, 1) for one number at a time, (1, None) for a whole step"
        )
    return wide


def _embedded(question: Question, embedding: torch.nn.Module, index: Tensor) -> Tensor:
    """What the embedding's first call returns, (N, T, E). Raises ArgumentError where there is none."""
    seen: list[Tensor] = []
    handle = embedding.register_forward_hook(lambda module, given, output: seen.append(output))
    try:
        with torch.no_grad():
            question.answer(question.x, index)
    finally:
        handle.remove()
    shape = question.x.transpose(0, question.axis).shape
    if not seen or seen[0].shape[:-1] != shape:
        got = tuple(seen[0].shape) if seen else "no call"
        raise ArgumentError(
            f"embedding: expected the module that turns tokens {tuple(shape)} into vectors, got {got}; "
            "name the first module that reads them"
        )
    return seen[0].detach().transpose(0, question.axis)


@contextmanager
def _replaced(embedding: torch.nn.Module, vectors: Tensor) -> Iterator[None]:
    """While it lasts, the first call of the embedding returns these vectors."""
    left = [vectors]

    def hook(module: torch.nn.Module, given: Any, output: Tensor) -> Tensor:
        return left.pop() if left else output

    handle = embedding.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _labelled(
    values: Tensor, by_sample: dict[str, Tensor], time: Any, features: Any, samples: Any
) -> Dataset:
    """The values, rows first, with their labels. Raises ArgumentError for another number of labels."""
    coords: dict[str, Any] = {}
    each = time is not None and len(time) and isinstance(time[0], (list, tuple, np.ndarray))
    if each:
        coords["label"] = (DIMS[:2], _labels_of_each(time, values.shape[:2]))
    for name, labels, size in zip(
        DIMS, (samples, None if each else time, features), values.shape, strict=False
    ):
        labels = range(size) if labels is None else list(labels)
        if len(labels) != size:
            argument = {"sample": "samples", "time": "time", "feature": "features"}[name]
            raise ArgumentError(
                f"{argument}: expected {size} labels, one for each {name}, got {len(labels)}; "
                "give as many, or none"
            )
        coords[name] = labels
    data: dict[str, Any] = {"attribution": (DIMS[: values.dim()], values.cpu().numpy())}
    data |= {name: ("sample", value.detach().cpu().numpy()) for name, value in by_sample.items()}
    found: Dataset = xarray_module().Dataset(data, coords)
    return found


def _labels_of_each(time: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """(N, T) of each sample's own labels of its steps, empty after its last. Raises ArgumentError."""
    rows, steps = shape
    if len(time) != rows or any(len(own) > steps for own in time):
        raise ArgumentError(
            f"time: expected for each of the {rows} samples its own labels, {steps} or fewer, got "
            f"{[len(own) for own in time]} of them; give one list for each sample"
        )
    found = np.full((rows, steps), "", dtype=object)
    for row, own in enumerate(time):
        found[row, : len(own)] = own
    return found
