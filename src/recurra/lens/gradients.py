"""Gradients through time: how much of a loss reaches each state of a recurrent network, and what to try.

`gradient_flow` has ‖∂L/∂h_t‖ and ‖∂L/∂c_t‖ of every layer, direction, row and step, and a verdict in words
for each layer and direction. `side_by_side` does so for an LSTM, a GRU and a plain RNN on one input.

Sources: Bengio, Simard and Frasconi 1994, "Learning long-term dependencies with gradient descent is
difficult": what a step contributes to the gradient shrinks exponentially with its distance, wherever the
state is held safely. Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural
networks": when gradients vanish and explode (section 2), and that clipping their norm answers the latter
(section 3.2). Neither names a threshold. Those of the verdicts are ours, on a step's gradient beside that of
the last step that the loss reads:

* VANISHING, 1e-3: what is left drowns in the noise of a batch of N rows, about 1/√N of the gradient;
* EXPLODING, 1e3, or anything that is not finite: the early steps alone decide where the weights go.

The verdict is on the cell state where there is one, else on the hidden state: ∂L/∂c_t holds all that comes by
way of h_t as well. Steps are counted back from each row's end, in the order of reading: in the reverse
direction from step 0. A loss that reads every step feeds gradient in everywhere, so that nothing seems to
vanish: to judge a memory give a loss of the last step.

Dropout and other noise are off, as in a trace. Axes: `recurra.types`. xarray must be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from recurra.errors import ArgumentError
from recurra.lens.calls import as_module
from recurra.lens.optional import xarray_module
from recurra.lens.stepping import Place, Reading, names_in, stepped_layers, stepping, undisturbed, with_labels
from recurra.lens.tracing import DIRECTIONS
from recurra.nn.recurrent import GRU, LSTM, RNN
from recurra.nn.stacked import Stacked

if TYPE_CHECKING:
    from xarray import Dataset

VANISHING, EXPLODING = 1e-3, 1e3

Numbers = NDArray[np.float64]
Loss = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Verdict:
    """What becomes of the gradient in one layer and direction.

    module, layer, direction: as `GradientFlow.states` has them. state: "cell" or "hidden", the one judged.
    word: "vanishing", "healthy", "exploding", or "none" where no gradient arrives at all. back: how many
    steps before the row's end it passes the threshold; None where it never does. step: the same as a step of
    the longest row. ratio: the gradient at the farthest step, as a share of that at the last step which the
    loss reads. rate: what a step multiplies it by, on average as far as `back`. advice: what to try.
    """

    module: str
    layer: int
    direction: str
    state: str
    word: str
    back: int | None
    step: int | None
    ratio: float
    rate: float
    advice: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.module or 'the model'}, layer {self.layer}, {self.direction}: {self.word}"
        if self.word == "none":
            return f"{where}, the loss does not read it"
        told = f"{where}, ∂L/∂{'c' if self.state == 'cell' else 'h'} is multiplied by {self.rate:.3g} a step"
        if self.back is not None:
            where = f"{self.back} steps before the end (step {self.step})"
            if self.word == "vanishing":
                told += f", less than {VANISHING:g} of it is left {where}"
            else:
                told += f", it is over {EXPLODING:g} times as large {where}"
        return "; ".join([told, *(f"try {advice}" for advice in self.advice)])


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """What `gradient_flow` returns. Printed, it is the verdicts, a line each.

    loss: its value. states: by the module's path, "" for the model itself, and "path (call 2)" for a second
    call of it; each a Dataset with ‖∂L/∂h_t‖ as `hidden` and, where there is a cell state, ‖∂L/∂c_t‖ as
    `cell`, (layer, direction, sample, time), NaN beyond a row's length; their means over rows `hidden_mean`
    and `cell_mean`, (layer, direction, time); and `length` (sample).
    """

    loss: float
    states: dict[str, Dataset]
    verdicts: tuple[Verdict, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.verdicts))


def gradient_flow(
    model: Any, *inputs: Any, loss: Loss | None = None, time: Any = None, **options: Any
) -> GradientFlow:
    """‖∂L/∂h_t‖ and ‖∂L/∂c_t‖ of every recurrent layer, direction, row and step, and what they say.

    model, inputs, options: as in `recurra.lens.trace`. loss: from what the model returns to one
    number; None: for a recurrent layer the sum of its top layer's final hidden states, for any other model
    the sum of the first tensor that it returns. time: labels of the steps, for modules that read as many;
    None: 0 to T - 1. The loss is one number of the whole batch: where it is a mean over rows, so is each
    row's gradient 1/N of its own. Gradients are exact, by autograd through the equations step by step; of an
    sLSTM's cell state c / n they are those with n held. Raises ArgumentError for a model without such a
    layer, a layer that is not called, or a loss that is no number.

    For example::

        >>> import torch
        >>> from recurra.lens.gradients import gradient_flow
        >>> from recurra.nn import LSTM
        >>> flow = gradient_flow(LSTM(3, 7, batch_first=True), torch.randn(2, 50, 3))
        >>> flow.states[""].cell.dims
        ('layer', 'direction', 'sample', 'time')
        >>> flow.verdicts[0].word
        'vanishing'
    """
    kept: dict[tuple[Place, int, str], Tensor] = {}
    readings: dict[Place, Reading] = {}

    def keep(place: Place, step: int, name: str, value: Tensor) -> Tensor:
        if name in ("hidden", "cell"):
            # with frozen weights there is no graph yet: it begins here
            value = value if value.requires_grad else value.detach().requires_grad_()
            kept[place, step, name] = value
        return value

    def watch(reading: Reading) -> None:
        readings[reading.place] = reading

    asked = as_module(model, inputs, options)
    network = asked.model
    with undisturbed(network), torch.enable_grad(), stepping(network, keep, watch):
        output = network(*asked.inputs, **asked.options)
        value = _checked_loss((loss or _default_loss(network))(output))
    layers = stepped_layers(network)
    if not kept:
        paths = ", ".join(repr(layer.path) for layer in layers)
        raise ArgumentError(
            f"inputs: expected inputs that reach one of the recurrent layers ({paths}), but the model called "
            "none of them; call the model as it is used, or give one of its parts as model"
        )
    found = torch.autograd.grad(value, list(kept.values()), allow_unused=True)
    norms = {
        key: np.zeros(len(state))
        if grad is None
        else _numbers(torch.linalg.vector_norm(grad.double(), dim=-1))
        for (key, state), grad in zip(kept.items(), found, strict=True)
    }
    kinds = {layer.path: layer.module for layer in layers}
    groups: dict[tuple[str, int], list[Reading]] = {}
    for place, reading in readings.items():
        groups.setdefault((place.module, place.call), []).append(reading)
    states = {}
    for (path, call), group in groups.items():
        data = _dataset(kinds[path], group, norms)
        data = with_labels(data, asked, time)
        states[f"{path} (call {call + 1})".strip() if call else path] = data
    verdicts = [verdict for name, data in states.items() for verdict in _verdicts(name, data)]
    return GradientFlow(float(value.detach()), states, tuple(verdicts))


def side_by_side(
    x: Tensor,
    hidden_size: int = 33,
    layers: Mapping[str, torch.nn.Module] | None = None,
    loss: Loss | None = None,
) -> Dataset:
    """`gradient_flow` for several layers on one input: which of them keeps gradients alive, seen.

    x: (N, T, F). layers: by name, called with x, batch-first; None: a new LSTM, GRU and RNN of hidden_size
    with torch's own initial weights. With these an LSTM's forget gate stands near one half, and its
    gradients vanish too; give one after `recurra.nn.init.forget_bias_` or `chrono_` to see what keeps them.
    loss: as in `gradient_flow`. Of a layer of several only the lowest is shown, forward. Returns ‖∂L/∂h_t‖
    as `hidden` and ‖∂L/∂c_t‖ as `cell`, NaN where there is no cell state, (network, sample, time); `flow`,
    the one of them that is judged; and by network `verdict`, `rate` and `ratio` (see `Verdict`). Raises
    ArgumentError for x of another shape and for layers that are none.

    For example::

        >>> import torch
        >>> from recurra.lens.gradients import side_by_side
        >>> from recurra.nn import LSTM, RNN, init
        >>> nets = {"RNN": RNN(3, 7, batch_first=True), "LSTM": LSTM(3, 7, batch_first=True)}
        >>> nets["LSTM, open"] = init.forget_bias_(LSTM(3, 7, batch_first=True), 6.0)
        >>> found = side_by_side(torch.randn(2, 40, 3), layers=nets)
        >>> str(found.verdict.sel(network="LSTM, open").item())
        'healthy'
    """
    xarray = xarray_module()
    if not isinstance(x, Tensor) or x.dim() != 3:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(f"x: expected a tensor (N, T, F), got {got}; give one input for all networks")
    if layers is None:
        kinds = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}
        layers = {
            name: kind(x.shape[2], hidden_size, batch_first=True, dtype=x.dtype, device=x.device)
            for name, kind in kinds.items()
        }
    if not layers:
        raise ArgumentError(
            "layers: expected one or more by name, got none; leave it out for the usual three"
        )
    columns = []
    for layer in layers.values():
        flow = gradient_flow(layer, x, loss=loss)
        data = next(iter(flow.states.values())).isel(layer=0, direction=0, drop=True)
        verdict = flow.verdicts[0]
        cell = data.cell if "cell" in data else xarray.full_like(data.hidden, np.nan)
        columns.append(
            xarray.Dataset(
                {
                    "hidden": data.hidden,
                    "cell": cell,
                    "flow": data[verdict.state],
                    "verdict": verdict.word,
                    "rate": verdict.rate,
                    "ratio": verdict.ratio,
                }
            )
        )
    found: Dataset = xarray.concat(columns, xarray.IndexVariable("network", list(layers)))
    return found


def _default_loss(model: torch.nn.Module) -> Loss:
    layer: Any = model
    if not isinstance(model, Stacked) and stepped_layers(model)[0].module is not model:
        return _sum_of_first

    def final(output: Any) -> Tensor:
        states = output[1][-1] if isinstance(model, Stacked) else output[1]
        hidden: Tensor = states[0] if isinstance(states, tuple) else states
        return hidden[-(2 if layer.bidirectional else 1) :].sum()

    return final


def _sum_of_first(output: Any) -> Tensor:
    while isinstance(output, (tuple, list)) and not isinstance(output, PackedSequence) and len(output):
        output = output[0]
    if isinstance(output, PackedSequence):
        output = output.data
    if not isinstance(output, Tensor):
        raise ArgumentError(
            f"loss: expected one for a model that returns {type(output).__name__}, got none; "
            "give a function from what it returns to one number"
        )
    return output.sum()


def _checked_loss(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        got = type(value).__name__
        if isinstance(value, Tensor):
            got = f"shape {tuple(value.shape)}" if value.numel() != 1 else "a number that no state leads to"
        raise ArgumentError(
            f"loss: expected a function that returns one number with a graph, got {got}; "
            "compute it in torch from the model's output, and take its mean or sum"
        )
    return value.reshape(())


def _numbers(values: Tensor) -> Numbers:
    found: Numbers = values.detach().cpu().double().numpy()
    return found


def _dataset(
    module: torch.nn.Module, readings: list[Reading], norms: dict[tuple[Place, int, str], Numbers]
) -> Dataset:
    """The norms of one call of a module, labelled."""
    rows, length, _ = readings[0].inputs.shape
    layers = 1 + max(reading.place.layer for reading in readings)
    directions = 1 + max(reading.place.reverse for reading in readings)
    lengths = np.full(rows, length) if readings[0].lengths is None else readings[0].lengths.cpu().numpy()
    beyond = np.arange(length) >= lengths[:, None]
    data: dict[str, Any] = {"length": ("sample", lengths)}
    for name in ("hidden", "cell"):
        if name not in names_in(module):
            continue
        values = np.empty((layers, directions, rows, length))
        for reading in readings:
            place = reading.place
            for t in range(length):
                values[place.layer, int(place.reverse), :, t] = norms[place, t, name]
        values[..., beyond] = np.nan
        here = ~beyond
        mean = np.where(beyond, 0, values).sum(2) / np.maximum(here.sum(0), 1)
        mean[..., ~here.any(0)] = np.nan
        data[name] = (("layer", "direction", "sample", "time"), values)
        data[f"{name}_mean"] = (("layer", "direction", "time"), mean)
    coords = {
        "layer": range(layers),
        "direction": list(DIRECTIONS[:directions]),
        "sample": range(rows),
        "time": range(length),
    }
    kind = next(
        base.__name__ for base in type(module).__mro__ if not base.__name__.startswith("Parametrized")
    )
    attrs = {"module": readings[0].place.module, "class": kind}
    found: Dataset = xarray_module().Dataset(data, coords, attrs)
    return found


def _verdicts(name: str, data: Dataset) -> Iterator[Verdict]:
    """One for each layer and direction of a module."""
    state = "cell" if "cell" in data else "hidden"
    lengths = data.length.values
    for layer in range(data.sizes["layer"]):
        for direction in range(data.sizes["direction"]):
            norms = data[state].values[layer, direction]
            word, back, ratio, rate = judge(_by_distance(norms, lengths, direction == 1))
            step = None
            if back is not None:
                step = back if direction == 1 else int(lengths.max()) - 1 - back
            advice = _advice(word, data.attrs["class"], int(lengths.max()))
            yield Verdict(name, layer, DIRECTIONS[direction], state, word, back, step, ratio, rate, advice)


def _by_distance(norms: Numbers, lengths: NDArray[np.integer[Any]], reverse: bool) -> Numbers:
    """The mean over rows (T) of norms (N, T), by distance from the step that a row reads last."""
    longest = int(lengths.max(initial=0))
    back = np.arange(longest)
    steps = np.broadcast_to(back, (len(lengths), longest)) if reverse else lengths[:, None] - 1 - back
    there = back < lengths[:, None]
    values = np.where(there, np.take_along_axis(norms, np.where(there, steps, 0), axis=1), 0)
    means: Numbers = values.sum(0) / np.maximum(there.sum(0), 1)
    return means


def judge(norms: Numbers) -> tuple[str, int | None, float, float]:
    """Word, steps back where it passes the threshold or None, ratio and rate: see `Verdict`.

    norms: (T,), of the gradient by distance from the last step that is read, that one first.
    """
    arrived = np.flatnonzero(norms != 0)
    if not len(arrived):
        return "none", None, 0.0, 0.0
    first = int(arrived[0])
    with np.errstate(invalid="ignore"):
        ratios = norms[first:] / norms[first]
    exploded = np.flatnonzero(~np.isfinite(ratios) | (ratios > EXPLODING))
    vanished = np.flatnonzero(ratios < VANISHING)
    word, passed = ("exploding", exploded) if len(exploded) else ("vanishing", vanished)
    if not len(passed):
        word, passed = "healthy", np.array([len(ratios) - 1])
    there = int(passed[0])
    rate = float(ratios[there]) ** (1 / there) if there else 1.0
    return word, None if word == "healthy" else first + there, float(ratios[-1]), rate


def _advice(word: str, kind: str, length: int) -> tuple[str, ...]:
    """What to try for a layer of this class that reads so many steps."""
    if word == "vanishing":
        if kind == "RNN":
            return (
                "an LSTM or a GRU in its place (Hochreiter and Schmidhuber 1997)",
                "recurra.nn.init.orthogonal_ (Saxe et al. 2014)",
            )
        opened: tuple[str, ...] = ()
        if kind not in ("MinGRU", "MinLSTM", "SLSTM"):
            opened = (
                "recurra.nn.init.forget_bias_(layer, 1.0), to keep more at first (Jozefowicz et al. 2015)",
                f"recurra.nn.init.chrono_(layer, {length}), to remember all along (Tallec and Ollivier 2018)",
            )
        return (*opened, "shorter sequences, or a loss that also reads earlier steps")
    if word == "exploding":
        normed = {"LSTM": "LayerNormLSTM", "GRU": "LayerNormGRU"}.get(kind)
        return (
            "torch.nn.utils.clip_grad_norm_(parameters, 1.0) (Pascanu et al. 2013)",
            "recurra.nn.init.orthogonal_, or smaller recurrent weights (Saxe et al. 2014)",
            *((f"recurra.nn.{normed} (Ba et al. 2016)",) if normed else ()),
            "a shorter truncation: detach the state every few steps",
        )
    return ()
