"""How far back a whole network looks: which changes of its input still move its output.

For language models Khandelwal, He, Qi & Jurafsky, "Sharp nearby, fuzzy far away: how neural language models
use context", 2018, section 4, ask instead how many words can be taken away before the loss rises. Here one
step is changed, and the output watched, so that it works for any network and needs no loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.rnn import PackedSequence

from recurra.errors import ArgumentError
from recurra.lens.calls import Asked, as_module, evaluating, recurrent_modules
from recurra.lens.memory import change_steps, check_draws
from recurra.lens.optional import xarray_module

if TYPE_CHECKING:
    import xarray

Array: TypeAlias = NDArray[Any]

MOST_LAGS = 64  # that are measured where none are named


def effective_context(
    model: Any,
    *inputs: Any,
    share: float = 0.05,
    lags: Sequence[int] | None = None,
    argument: int = 0,
    time_axis: int | None = None,
    read: Callable[[Any], Tensor] | None = None,
    size: float = 0.1,
    draws: int = 4,
    seed: int = 0,
    **options: Any,
) -> xarray.Dataset:
    """How far back a change of the input still moves the output of the whole network.

    The input is changed at one step, `lag` steps before each row's last, and the output at the row's end is
    compared with that of the unchanged input. A network that reads both ways is seen from the end as well.

    model: any module or function; or a fitted `recurra.Forecaster`, with what `recurra.lens.trace` takes: its
        lookback is changed, and the output is what its members add to the smoothing. The output of other
        estimators: logits, the next token's log-probabilities, or a Tagger's scores of the last word.
    inputs, options: what it is called with. lengths=, where given, also says where each row ends.
    share: the context ends where a change moves the output by no more than this share of lag 0's.
    lags: which to measure; default all of them, or 64 from 0 to T - 1 in growing steps where there are more.
    argument: which of the inputs is changed: numbers by a random direction, whole numbers (words) for others
        of those in the input.
    time_axis: 0 for an input (T, N, ...), 1 for (N, T, ...); default what the first recurrent layer says.
    read: the part of the output to look at, (N, ...); default its first tensor, at each row's last step.
    size: of the change, relative to the root mean square of the inputs' norms. draws: how often it is drawn.

    Returns `influence` (lag), the mean norm of the output's change; `relative` (lag), the same as a share of
    lag 0, over rows that are so long; and `effective_context`, the greatest measured lag whose share is above
    `share`: 0 where only the last step counts, NaN where not even that moves the output. Each lag takes as
    many calls of the model as there are draws.

    Raises ArgumentError for an input or output that it cannot read, or arguments that make no sense.

    For example::

        found = effective_context(model, x, lags=[0, 1, 2, 4, 8, 16])
        print(float(found["effective_context"]), found["relative"].values)
    """
    check_draws(size, draws)
    if not 0 < share < 1:
        raise ArgumentError(f"share: expected a number between 0 and 1, such as 0.05, got {share!r}")
    asked, run = _callable(model, inputs, options)
    axis = _time_axis(model, time_axis)
    x = _input_of(asked.inputs, argument, axis)
    rows = x if axis == 1 else x.transpose(0, 1)
    ends = _ends(rows, asked.options.get("lengths"))
    chosen = _chosen_lags(lags, int(ends.max()))
    look = read or asked.read or (lambda output: _at_the_end(output, rows.shape[:2], ends, axis))

    def output(by_row: Tensor) -> Tensor:  # (N, everything) for an input (N, T, ...)
        turned = by_row if axis == 1 else by_row.transpose(0, 1)
        given = (*asked.inputs[:argument], turned, *asked.inputs[argument + 1 :])
        return look(run(*given, **asked.options)).detach().double().reshape(len(ends), -1)

    with torch.no_grad(), evaluating(asked.model):
        usual = output(rows)
        moved = np.zeros((len(chosen), len(ends)))
        for place, lag in enumerate(chosen):
            generator = torch.Generator().manual_seed(seed)  # the same changes at each lag
            for _ in range(draws):
                apart = output(change_steps(rows, ends - 1 - int(lag), ends, size, generator)) - usual
                moved[place] += apart.norm(dim=1).cpu().numpy() / draws
    there = chosen[:, None] < ends.numpy()
    total, at_last = (there * moved).sum(1), (there * moved[0]).sum(1)
    relative = np.divide(total, at_last, out=np.full(len(chosen), np.nan), where=at_last > 0)
    context = float(chosen[relative > share].max()) if relative[0] > 0 else math.nan
    found: xarray.Dataset = xarray_module().Dataset(
        {
            "influence": ("lag", total / np.maximum(there.sum(1), 1)),
            "relative": ("lag", relative),
            "effective_context": context,
        },
        coords={"lag": chosen},
        attrs={"share": share, "size": size, "draws": draws, "seed": seed},
    )
    return found


def _callable(
    model: Any, inputs: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Asked, Callable[..., Any]]:
    """What to call, with what. A function is taken as it is."""
    if callable(model) and not isinstance(model, Module):
        return Asked(torch.nn.Identity(), inputs, options), model
    asked = as_module(model, inputs, options)
    if isinstance(model, Module):
        return asked, model
    if asked.read is not None:
        return asked, asked.model
    return asked, lambda *given: asked.model(*given).movedim(0, 1)  # (N, members, Q, K)


def _time_axis(model: Any, given: int | None) -> int:
    if given not in (None, 0, 1):
        raise ArgumentError(f"time_axis: expected 0 or 1, got {given!r}")
    if given is not None:
        return given
    if not isinstance(model, Module):
        return 1
    first: Any = next(iter(recurrent_modules(model).values()))
    return 1 if first.batch_first else 0


def _input_of(inputs: tuple[Any, ...], argument: int, axis: int) -> Tensor:
    if not 0 <= argument < len(inputs):
        raise ArgumentError(
            f"argument: expected the place of one of the {len(inputs)} inputs, got {argument!r}"
        )
    x = inputs[argument]
    if not isinstance(x, Tensor) or x.dim() < 2:
        kind = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(
            f"inputs: expected a batch {'(N, T, ...)' if axis else '(T, N, ...)'} as input {argument}, "
            f"got {kind}; of a PackedSequence give the padded batch, with lengths"
        )
    return x


def _ends(rows: Tensor, lengths: Any) -> Tensor:
    """How many steps each row has, (N,) int64 on the CPU. Raises ArgumentError."""
    if lengths is None:
        return torch.full(rows.shape[:1], rows.shape[1])
    ends = torch.as_tensor(lengths).cpu().long()
    if ends.shape != rows.shape[:1] or not len(ends) or ends.min() < 0 or not 0 < ends.max() <= rows.shape[1]:
        raise ArgumentError(
            f"lengths: expected 1 to {rows.shape[1]} steps for each of the {len(rows)} rows, or 0 for some, "
            f"got {ends.tolist()}"
        )
    return ends


def _chosen_lags(lags: Sequence[int] | None, longest: int) -> Array:
    """The lags to measure, 0 among them."""
    if lags is None:
        count = min(longest, MOST_LAGS)
        grid = np.arange(longest) if count == longest else np.geomspace(1, longest, count) - 1
        return np.unique(grid.round().astype(np.int64))
    chosen: Array = np.unique([0, *lags])
    if chosen.dtype.kind != "i" or chosen[0] < 0 or chosen[-1] >= longest:
        raise ArgumentError(
            f"lags: expected whole numbers from 0 to {longest - 1}, as the longest row has {longest} steps, "
            f"got {list(lags)!r}"
        )
    return chosen


def _at_the_end(output: Any, shape: Sequence[int], ends: Tensor, axis: int) -> Tensor:
    """(N, ...): the first tensor of an output, at each row's last step where it has all steps."""
    while isinstance(output, (tuple, list)) and output and not isinstance(output, PackedSequence):
        output = output[0]
    rows, steps = shape
    if isinstance(output, Tensor) and output.dim() > 1:
        by_row = output if axis == 1 else output.transpose(0, 1)
        if by_row.shape[:2] == (rows, steps):
            return by_row[torch.arange(rows), (ends - 1).clamp(min=0)]
    if isinstance(output, Tensor) and output.dim() > 0 and output.shape[0] == rows:
        return output
    kind = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ArgumentError(
        f"read: expected a function that takes (N, ...) = ({rows}, ...) from the output, as the output is "
        f"{kind}; give one, such as read=lambda output: output[0]"
    )
