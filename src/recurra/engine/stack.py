"""What the engine is asked to run: a stack of recurrent layers, and which steps count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu", "peephole", "coupled")  # in the order of csrc/problem.h
GATES = (4, 3, 1, 1, 4, 3)
WITH_CELL_STATE = ("lstm", "peephole", "coupled")


@dataclass(frozen=True)
class Stack:
    """What to run. projection: P, or 0 for none. bias: whether each cell has b_ih and b_hh."""

    kind: str
    hidden: int
    projection: int = 0
    depth: int = 1
    directions: int = 1
    bias: bool = True
    batch_first: bool = True

    @property
    def state(self) -> int:
        """The hidden state's size: P, or H without a projection."""
        return self.projection or self.hidden

    @property
    def weights_each(self) -> int:
        """Weights of one layer in one direction: w_ih, w_hh, b_ih, b_hh, w_hr, peepholes, where they are."""
        return 2 + 2 * self.bias + (self.projection > 0) + (self.kind == "peephole")


class Steps(NamedTuple):
    """Which steps count. All None: every step of every row."""

    lengths: Tensor | None = None  # (N,) int64
    batch_sizes: Tensor | None = None  # (T,) int64 on the CPU, of a PackedSequence: then x is (entries, F)
    resets: Tensor | None = None  # (N, T) bool: True where a step begins a new sequence
    reset_to_initial: bool = False  # resets put the state back to the initial one, not to zero
