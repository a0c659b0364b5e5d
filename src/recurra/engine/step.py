"""One step of a few rows, as when a model runs live: no graph, no packed weights, little Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from recurra.engine import native
from recurra.engine.stack import GATES

MOST_ROWS = 8  # beyond, packing the weights pays
_float32 = torch.float32
_stamp = object()  # marks what this process has checked: a pickled or copied mark is another object


class CheckedWeights:
    """Weights of a cell that were checked, by address and size; checked again when one is replaced or moved.

    Values may change in place as they like: nothing of them is kept.
    """

    def __init__(self) -> None:
        self._mark: tuple[object, list[int], list[int]] = (None, [], [])

    def addresses(self, weights: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[int] | None:
        """Where the weights lie; None where they are not float32 tensors of a CPU in these shapes."""
        at = [w.data_ptr() for w in weights]
        sizes = [w.numel() for w in weights]
        if self._mark[0] is _stamp and self._mark[1] == at and self._mark[2] == sizes:
            return at
        if len(weights) != len(shapes):
            return None
        for weight, shape in zip(weights, shapes, strict=True):
            if weight.dtype is not _float32 or not weight.is_cpu or weight.shape != shape:
                return None
            if (
                not weight.is_contiguous()
                or weight.is_neg()
                or type(weight) not in (Tensor, torch.nn.Parameter)
            ):
                return None
        self._mark = (_stamp, at, sizes)
        return at


def step(
    kind: int,
    hidden: int,
    x: Tensor,
    states: Sequence[Any],
    weights: Sequence[Any],
    checked: CheckedWeights,
    output: bool = False,
) -> list[Tensor] | None:
    """The new states, each (N, H): h, and c of an LSTM; with `output`, h once more at the end.

    None where this is not for the engine; then it did nothing.

    kind: its place in `recurra.engine.stack.KINDS`. x: any shape with F as the last axis, at most MOST_ROWS
    rows in all. states: as many as the cell has, N·H numbers each in any shape, or none: zeros.
    weights: w_ih, w_hh and perhaps b_ih, b_hh.
    """
    if torch.compiler.is_compiling():
        return None  # a graph holds torch's own operators, not calls by address
    kernels = native.kernels()
    if kernels is None or type(x) is not Tensor or torch.is_grad_enabled():
        return None
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return None
    features = x.shape[-1]
    rows = x.numel() // features if features else 0
    if not 0 < rows <= MOST_ROWS or x.dtype is not _float32 or not x.is_cpu:
        return None
    x = x.resolve_neg().contiguous()
    h = c = 0
    if states:
        numbers = rows * hidden
        for state in states:
            if type(state) is not Tensor or state.numel() != numbers or state.dtype is not _float32:
                return None
            if not state.is_cpu or not state.is_contiguous() or state.is_neg():
                return None
        h = states[0].data_ptr()
        c = states[1].data_ptr() if kind == 0 else 0
    gates = GATES[kind] * hidden
    shapes = ((gates, features), (gates, hidden), (gates,), (gates,))[: len(weights)]
    at = checked.addresses(weights, shapes)
    if at is None:
        return None
    if len(at) == 2:
        at = [*at, 0, 0]
    new = [torch.empty(rows, hidden, dtype=_float32)]
    c_out = y = 0
    if kind == 0:
        new.append(torch.empty(rows, hidden, dtype=_float32))
        c_out = new[1].data_ptr()
    if output:
        new.append(torch.empty(rows, hidden, dtype=_float32))
        y = new[-1].data_ptr()
    kernels.step(kind, rows, features, hidden, x.data_ptr(), h, c, *at, new[0].data_ptr(), c_out, y)
    return new
