"""`LSTMCell`, `GRUCell` and `RNNCell`: torch.nn's own cells, quick where a model runs live.

Each subclasses the cell of the same name in `torch.nn`: same constructor, same `state_dict`, same results,
same errors. Outside of autograd, a few rows in float32 on a CPU are one call of the native engine; all else
is torch's. Shapes: x (N, F) or (F); states (N, H) or (H).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

from recurra.engine.stack import Stack
from recurra.engine.step import step
from recurra.nn.inputs import torch_must
from recurra.nn.running import leaf, twin

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class LSTMCell(torch.nn.LSTMCell):
    """`torch.nn.LSTMCell`, in one call of the native engine where autograd does not look on.

    For example::

        cell = LSTMCell(3, 8)
        with torch.inference_mode():
            h, c = cell(x, (h, c))      # x (N, 3), h and c (N, 8)
    """

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The new states h and c, (N, H). hx: (h, c), zeros when None. Raises what torch's cell raises."""
        new = None
        if isinstance(input, Proxy):
            return leaf(self, input, hx)
        if hx is None or (type(hx) is tuple and hx):
            new = _step(self, "lstm", input, hx or ())
        return super().forward(input, hx) if new is None else new

    def __prepare_scriptable__(self) -> torch.nn.Module:
        return twin(self)


class GRUCell(torch.nn.GRUCell):
    """`torch.nn.GRUCell`, in one call of the native engine where autograd does not look on.

    For example::

        cell = GRUCell(3, 8)
        with torch.inference_mode():
            h = cell(x, h)      # x (N, 3), h (N, 8)
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The new state h (N, H). hx: h, zeros when None. Raises what torch's cell raises."""
        if isinstance(input, Proxy):
            return leaf(self, input, hx)
        new = _step(self, "gru", input, () if hx is None else (hx,))
        return super().forward(input, hx) if new is None else new[0]

    def __prepare_scriptable__(self) -> torch.nn.Module:
        return twin(self)


class RNNCell(torch.nn.RNNCell):
    """`torch.nn.RNNCell`, tanh or relu, in one call of the native engine where autograd does not look on.

    For example::

        cell = RNNCell(3, 8, nonlinearity="relu")
        with torch.inference_mode():
            h = cell(x, h)      # x (N, 3), h (N, 8)
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The new state h (N, H). hx: h, zeros when None. Raises what torch's cell raises."""
        new = None
        if isinstance(input, Proxy):
            return leaf(self, input, hx)
        if self.nonlinearity in ("tanh", "relu"):
            new = _step(self, f"rnn_{self.nonlinearity}", input, () if hx is None else (hx,))
        return super().forward(input, hx) if new is None else new[0]

    def __prepare_scriptable__(self) -> torch.nn.Module:
        return twin(self)


def _step(cell: torch.nn.RNNCellBase, kind: str, input: Any, states: Sequence[Any]) -> Any:
    """The new states in the input's form, or None where torch has to do it or to refuse it."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch_must():
        return None
    names, own = _NAMES[: 4 if cell.bias else 2], cell._parameters
    try:
        weights = [own[name] for name in names]  # four times quicker than attributes
    except KeyError:  # weight_norm and parametrizations put others in their places
        weights = [getattr(cell, name) for name in names]
    return step(_stack(kind, cell.hidden_size, bool(cell.bias)), input, states, weights)


@lru_cache(maxsize=512)
def _stack(kind: str, hidden: int, bias: bool) -> Stack:
    return Stack(kind, hidden, bias=bias)
