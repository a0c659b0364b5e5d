"""What the engine is asked to run: a stack of recurrent layers, and which steps count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

# in the order of csrc/problem.h
KINDS = (
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "peephole",
    "coupled",
    "refined",
    "layer_norm_lstm",
    "layer_norm_gru",
    "slstm",
)
GATES = (4, 3, 1, 1, 4, 3, 4, 4, 3, 4)
WITH_CELL_STATE = ("lstm", "peephole", "coupled", "refined", "layer_norm_lstm", "slstm")
STATE_PARTS = {"slstm": 3}  # numbers of cell state that a unit has, where there are several: c, n, m
# Cells with weights of their own, (rows, H), last of all: what the plain twin calls them, and rows.
OWN_WEIGHTS = {"peephole": ("peepholes", 3), "layer_norm_lstm": ("norms", 10), "layer_norm_gru": ("norms", 6)}


@dataclass(frozen=True)
class Stack:
    """What to run.

    kind: one of KINDS. hidden: H. projection: P, or 0 for none. depth: L. directions: D. bias: whether each
    cell has b_ih and b_hh. batch_first: whether x is (N, T, F).
    """

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
    def cell_size(self) -> int:
        """The cell state's size: H, or as many times H as a unit has numbers of it; 0 where there is none."""
        return self.hidden * STATE_PARTS.get(self.kind, int(self.kind in WITH_CELL_STATE))

    @property
    def weights_each(self) -> int:
        """Weights of one layer in one direction: w_ih, w_hh, b_ih, b_hh, w_hr and the cell's own, where
        there are such."""
        return 2 + 2 * self.bias + (self.projection > 0) + (self.kind in OWN_WEIGHTS)


class Steps(NamedTuple):
    """Which steps count. All None: every step of every row."""

    lengths: Tensor | None = None  # (N,) int64
    batch_sizes: Tensor | None = None  # (T,) int64 on the CPU, of a PackedSequence: then x is (entries, F)
    resets: Tensor | None = None  # (N, T) bool: True where a step begins a new sequence
    reset_to_initial: bool = False  # resets put the state back to the initial one, not to zero
