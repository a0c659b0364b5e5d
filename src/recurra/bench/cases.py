"""What is measured: layers, their shapes, and the arithmetic that each needs. Axes: `recurra.types`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from recurra.errors import ArgumentError

GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "RNN": 1}
INFERENCE, TRAINING = "inference", "training"


@dataclass(frozen=True)
class Case:
    """One layer on one batch, under both phases where it makes sense.

    cell: the class in `torch.nn` and in `recurra.nn`.
    rows, steps, features, hidden: N, T, F and H; layers and directions: L and D; projection: P, or 0.
    lengths: the steps of each row (N,), the longest of which is T; None where every row has T.
    dtype: bfloat16 is held against recurra's own float32, all else against torch.
    carried: a call is one step (T = 1) of an LSTM or LSTMCell, whose states go to the next; no training.
    """

    cell: str
    rows: int
    steps: int
    features: int
    hidden: int
    layers: int = 1
    directions: int = 1
    projection: int = 0
    lengths: tuple[int, ...] | None = None
    dtype: str = "float32"
    carried: bool = False

    @property
    def name(self) -> str:
        """`LSTM N64 T100 H128`; F where it is not H, L, D and P where they are not the usual."""
        steps = f"T{self.steps}" if self.lengths is None else f"T{min(self.lengths)}-{max(self.lengths)}"
        parts = [self.cell, f"N{self.rows}", steps]
        parts += [f"F{self.features}"] if self.features != self.hidden else []
        parts += [f"H{self.hidden}"]
        parts += [f"P{self.projection}"] if self.projection else []
        parts += [f"L{self.layers}"] if self.layers > 1 else []
        parts += [f"D{self.directions}"] if self.directions > 1 else []
        parts += [self.dtype] if self.dtype != "float32" else []
        return " ".join(parts)

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that are measured."""
        return (INFERENCE,) if self.carried else (INFERENCE, TRAINING)

    @property
    def counted(self) -> int:
        """M, the pairs of row and step that count."""
        return self.rows * self.steps if self.lengths is None else sum(self.lengths)

    def flops(self, phase: str) -> int:
        """Floating-point operations of the matrix products in one call, two to a multiply-add.

        A gate of each hidden unit is one product with the input (F) and one with the state before (H, or P
        where there is a projection, which is a product H×P besides). Backward has two products, for the
        gradients of input and of weights, to each of forward.
        """
        state = self.projection or self.hidden
        total = 0
        for layer in range(self.layers):
            features = self.features if layer == 0 else state * self.directions
            gates = GATES[self.cell] * self.hidden * (features + state)
            total += 2 * self.counted * self.directions * (gates + self.hidden * self.projection)
        return total if phase == INFERENCE else 3 * total


def _unequal(rows: int, shortest: int, longest: int) -> tuple[int, ...]:
    """Lengths drawn uniformly, the same each time: with seed 1, 64 rows of 5 to 200 have both ends."""
    draw = random.Random(1)
    return tuple(draw.randint(shortest, longest) for _ in range(rows))


_LENGTHS = _unequal(64, 5, 200)

CASES: tuple[Case, ...] = (
    Case("LSTM", 64, 100, 128, 128),
    Case("LSTM", 64, 100, 256, 256, layers=2),
    Case("LSTM", 64, 100, 512, 512),
    Case("LSTM", 32, 24, 8, 32),
    Case("LSTM", 1, 100, 128, 128),
    Case("LSTM", 64, 100, 128, 128, directions=2),
    Case("GRU", 64, 100, 128, 128),
    Case("GRU", 64, 100, 256, 256),
    Case("GRU", 64, 100, 512, 512),
    Case("GRU", 32, 24, 8, 32),
    Case("RNN", 64, 100, 256, 256),
    Case("LSTM", 64, 100, 256, 256, projection=128),
    Case("LSTM", 64, max(_LENGTHS), 128, 128, lengths=_LENGTHS),
    Case("LSTM", 64, max(_LENGTHS), 256, 256, lengths=_LENGTHS),
    Case("LSTM", 64, max(_LENGTHS), 512, 512, lengths=_LENGTHS),
    Case("LSTM", 1, 1, 64, 64, carried=True),
    Case("LSTMCell", 1, 1, 64, 64, carried=True),
    Case("LSTM", 64, 100, 256, 256, dtype="bfloat16"),
    Case("LSTM", 64, 100, 512, 512, dtype="bfloat16"),
)
QUICK: tuple[Case, ...] = (CASES[0], CASES[3], CASES[6], CASES[12], CASES[15])
"""A large layer, a small one, another cell, unequal lengths and one step."""


def choose(parts: Sequence[str], cases: Sequence[Case] = CASES) -> tuple[Case, ...]:
    """The cases whose name contains one of ``parts``, capitals or not; a whole name means that case alone.

    Raises ArgumentError for a part that is in no name.
    """
    chosen: set[Case] = set()
    for part in parts:
        wanted = part.strip().lower()
        hits = [case for case in cases if case.name.lower() == wanted]
        hits = hits or [case for case in cases if wanted and wanted in case.name.lower()]
        if not hits:
            names = ", ".join(case.name for case in cases)
            raise ArgumentError(f"--case {part!r} is in no case's name: give a part of one of {names}")
        chosen.update(hits)
    return tuple(case for case in cases if case in chosen)
