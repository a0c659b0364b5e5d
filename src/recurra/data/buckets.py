"""Batches of rows that are nearly of one length, so that little of a batch is padding. Axes: N, T."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.errors import ArgumentError

Places = NDArray[np.int64]

_POOL = 50  # batches that are shuffled together before they are sorted by length


def batches_by_length(
    lengths: Sequence[int] | NDArray[np.integer[Any]],
    size: int,
    generator: torch.Generator | None = None,
    *,
    most_steps: int | None = None,
) -> list[Places]:
    """The places of the rows of each batch, of all N rows once.

    lengths: (N,). size: rows in a batch at most. most_steps: rows times the longest of them, at most; a row
    that is longer stands alone. generator: shuffles the rows, then sorts pools of fifty batches by length
    and shuffles the batches, so that an epoch is nearly random and its batches hold rows of like length.
    None: all rows by length, for prediction.

    Raises ArgumentError for a size below 1.
    """
    if size < 1 or (most_steps is not None and most_steps < 1):
        raise ArgumentError(
            f"size and most_steps: expected 1 or more, got {size} and {most_steps}; give more"
        )
    known = np.asarray(lengths, dtype=np.int64)
    if generator is None:
        pools = [np.argsort(known, kind="stable")]
    else:
        order = torch.randperm(len(known), generator=generator).numpy()
        pools = [order[start : start + size * _POOL] for start in range(0, len(order), size * _POOL)]
        pools = [pool[np.argsort(known[pool], kind="stable")] for pool in pools]
    batches = [batch for pool in pools for batch in _cut(pool, known, size, most_steps)]
    if generator is None:
        return batches
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _cut(pool: Places, lengths: Places, size: int, most_steps: int | None) -> list[Places]:
    """A pool that is sorted by length in batches."""
    if most_steps is None:
        return [pool[start : start + size] for start in range(0, len(pool), size)]
    batches, start = [], 0
    for stop in range(1, len(pool) + 1):
        full = stop - start == size
        if stop == len(pool) or full or (stop + 1 - start) * max(1, int(lengths[pool[stop]])) > most_steps:
            batches.append(pool[start:stop])
            start = stop
    return batches


def padded(rows: Sequence[NDArray[Any]], value: float = 0) -> tuple[Tensor, Tensor]:
    """Rows (T_n, ...) as one batch (N, T, ...), filled up with `value`, and their lengths (N,) int64.

    T is at least 1, so that a batch of empty rows has a step to be padded.
    """
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    steps = max(1, int(lengths.max())) if len(rows) else 1
    shape = (len(rows), steps, *(rows[0].shape[1:] if len(rows) else ()))
    batch = np.full(shape, value, dtype=np.result_type(*{row.dtype for row in rows} or {np.dtype(np.int64)}))
    for place, row in enumerate(rows):
        batch[place, : len(row)] = row
    return torch.from_numpy(batch), lengths
