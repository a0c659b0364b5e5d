"""`LSTMCell`, `GRUCell` and `RNNCell`: torch.nn's own cells, quick where a model runs live.

Each subclasses the cell of the same name in `torch.nn`: same constructor, same `state_dict`, same results,
same errors. Outside of autograd, a few rows in float32 on a CPU are one call of the native engine; all else
is torch's. Shapes: x (N, F) or (F); states (N, H) or (H).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurra.engine.step import CheckedWeights, step
from recurra.nn.inputs import torch_must


class LSTMCell(torch.nn.LSTMCell):
    """`torch.nn.LSTMCell`. For example::

    cell = LSTMCell(3, 8)
    with torch.inference_mode():
        h, c = cell(x, (h, c))      # x (N, 3), h and c (N, 8)
    """

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The new states h and c, (N, H). hx: (h, c), zeros when None. Raises what torch's cell raises."""
        new = None
        if hx is None or type(hx) is tuple:
            new = _step(self, 0, 2, input, hx or ())
        return super().forward(input, hx) if new is None else (new[0], new[1])


class GRUCell(torch.nn.GRUCell):
    """`torch.nn.GRUCell`. For example::

    cell = GRUCell(3, 8)
    with torch.inference_mode():
        h = cell(x, h)      # x (N, 3), h (N, 8)
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The new state h (N, H). hx: h, zeros when None. Raises what torch's cell raises."""
        new = _step(self, 1, 1, input, () if hx is None else (hx,))
        return super().forward(input, hx) if new is None else new[0]


class RNNCell(torch.nn.RNNCell):
    """`torch.nn.RNNCell`, tanh or relu. For example::

    cell = RNNCell(3, 8, nonlinearity="relu")
    with torch.inference_mode():
        h = cell(x, h)      # x (N, 3), h (N, 8)
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The new state h (N, H). hx: h, zeros when None. Raises what torch's cell raises."""
        kind = {"tanh": 2, "relu": 3}.get(self.nonlinearity)
        new = None if kind is None else _step(self, kind, 1, input, () if hx is None else (hx,))
        return super().forward(input, hx) if new is None else new[0]


def _step(
    cell: torch.nn.RNNCellBase, kind: int, count: int, input: Any, states: Sequence[Any]
) -> list[Tensor] | None:
    """The new states in the input's form, or None where torch has to do it or to refuse it."""
    if torch.is_grad_enabled() or type(input) is not Tensor or torch_must():
        return None
    shape = input.shape
    if not 1 <= len(shape) <= 2 or shape[-1] != cell.input_size or len(states) not in (0, count):
        return None
    expected = (*shape[:-1], cell.hidden_size)
    for state in states:
        if type(state) is not Tensor or state.shape != expected:
            return None
    weights: list[Any] = [cell.weight_ih, cell.weight_hh]
    if cell.bias:
        weights += [cell.bias_ih, cell.bias_hh]
    own = cell.__dict__
    checked = own.get("_checked_weights") or own.setdefault("_checked_weights", CheckedWeights())
    new = step(kind, cell.hidden_size, input, states, weights, checked)
    return new if new is None or len(shape) == 2 else [state.view(expected) for state in new]
