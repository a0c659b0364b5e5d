"""One step of a few rows, as when a model runs live: no graph, no packed weights, little Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from recurra.engine import native
from recurra.engine.call import native_stack
from recurra.engine.stack import Stack


def step(
    stack: Stack, x: Any, states: Sequence[Any], weights: Sequence[Any], layer: bool = False
) -> tuple[Tensor, ...] | None:
    """The new states: h, and c of an LSTM; of a layer its output before them.

    x: (N, F) or (F,) of a cell, (N, 1, F), (1, N, F) or (1, F) of a layer; few rows, float32, on a CPU,
    outside of autograd. states: each in the shape that the cell or layer gives them, or none: zeros.
    weights: w_ih, w_hh and perhaps b_ih, b_hh. Returns None for any other input, which is not for the engine,
    so that torch may refuse it.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None  # a graph holds torch's own operators, not calls by address
    kernels = native.kernels()
    if kernels is None or forward_ad._current_level >= 0:
        return None
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    found: tuple[Tensor, ...] | None = kernels.step(native_stack(stack), x, states, weights, layer)
    return found
