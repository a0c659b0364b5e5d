"""One call of the native engine: steps made ready, then everything checked and run by csrc/call.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from recurra.engine import native
from recurra.engine.noise import Noise, check
from recurra.engine.stack import KINDS, Stack, Steps

# Below this many floating-point operations a second thread costs more than it saves.
ONE_THREAD = 400_000
# With few rows the threads meet after every step, so each step must be worth it.
ONE_THREAD_A_STEP = 150_000

_SILENCE = Noise()
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def call(
    stack: Stack,
    x: Tensor,
    initial: Sequence[Tensor],
    weights: Sequence[Tensor],
    steps: Steps,
    noise: Noise | None = None,
    room_for_all: bool = False,
) -> Any | None:
    """The engine's `Call` on these tensors, as `scan` has them; None where the engine cannot read one.

    room_for_all: keep gates in N·T places, though lengths need fewer: so shapes are known ahead.
    Raises ValueError for what does not fit, and for noise that this cell cannot do.
    """
    if noise is not None:
        check(noise, has_cell=stack.cell_size == stack.hidden)  # several numbers cannot stay one by one
    schedule = resets = None
    if steps.lengths is not None or steps.batch_sizes is not None:
        schedule = _schedule(stack, x, steps)
    if steps.resets is not None:
        # a copy, for backward reads them again, and autograd does not watch them
        resets = steps.resets.to("cpu", torch.bool, copy=True).contiguous()
    return native.kernels().call(
        native_stack(stack),
        x,
        initial,
        weights,
        schedule,
        resets,
        steps.reset_to_initial,
        _noise(*(noise or _SILENCE)[:4]),
        noise.layer if noise is not None else 0,
        room_for_all,
        _threads(torch.get_num_threads(), ONE_THREAD, ONE_THREAD_A_STEP),
    )


@lru_cache(maxsize=512)
def native_stack(stack: Stack) -> Any:
    """The stack as the engine knows it. Raises ValueError for sizes that there are not."""
    options = (stack.hidden, stack.projection, stack.depth, stack.directions, stack.bias, stack.batch_first)
    return native.module().Stack(KINDS.index(stack.kind), *options)


@lru_cache(maxsize=64)
def _noise(hidden: float, cell: float, dropout: float, seed: int | None) -> Any:
    return native.module().Noise(hidden, cell, dropout, seed is not None, seed or 0)


@lru_cache(maxsize=64)
def _threads(most: int, least_work: int, least_work_a_step: int) -> Any:
    return native.module().Threads(most, least_work, least_work_a_step)


def _schedule(stack: Stack, x: Tensor, steps: Steps) -> Any:
    """Which rows run at which step, from lengths or batch_sizes."""
    if steps.batch_sizes is not None:
        sizes = steps.batch_sizes.to("cpu", torch.int64).contiguous()
        sound = sizes.dim() == 1 and len(sizes) > 0 and steps.batch_sizes.dtype in _WHOLE
        if not sound or sizes.min() < 1:
            raise ValueError(
                f"batch_sizes: expected (T,) whole numbers of at least 1, got {steps.batch_sizes}; "
                "make the PackedSequence with pack_padded_sequence"
            )
        if x.dim() == 2 and (sizes.max() > x.shape[0] or sizes.sum() != x.shape[0]):
            raise ValueError(
                f"x: expected {int(sizes.sum())} rows, the sum of batch_sizes, got {x.shape[0]}; "
                "make the PackedSequence anew with pack_padded_sequence"
            )
        return native.packed_schedule(sizes)
    lengths = steps.lengths
    assert lengths is not None
    if lengths.dtype not in _WHOLE:
        raise ValueError(f"lengths: expected whole numbers, got {lengths.dtype}; use .long()")
    rows, length = _rows_and_steps(stack, x)
    lengths = lengths.to("cpu", torch.int64).contiguous()
    _expect("lengths", lengths, (rows,))
    return native.schedule(rows, length, lengths)


def _rows_and_steps(stack: Stack, x: Tensor) -> tuple[int, int]:
    if x.dim() != 3:
        raise ValueError(f"x: expected (N, T, F) or (T, N, F), got {tuple(x.shape)}; give it that shape")
    return (x.shape[0], x.shape[1]) if stack.batch_first else (x.shape[1], x.shape[0])


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}; give it that shape")
