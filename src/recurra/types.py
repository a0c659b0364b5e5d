"""The axis legend, worn everywhere, and the record that a layer's `trace()` returns.

| letter | axis                                                                |
|--------|---------------------------------------------------------------------|
| `N`    | batch: one row, one sequence                                        |
| `T`    | time: the steps of a sequence                                       |
| `F`    | features of the input at one step                                   |
| `H`    | hidden units of a layer                                             |
| `P`    | projection: the hidden state's size where it is projected, else `H` |
| `G`    | gates of the cell                                                   |
| `L`    | layers stacked                                                      |
| `D`    | directions: 1, or 2 when bidirectional                              |
| `Q`    | horizon: the steps forecast                                         |
| `K`    | classes, or the vocabulary                                          |
| `S`    | series in a panel                                                   |

Gate order is torch's: LSTM `i f g o`, GRU `r z n`. A shape is written with these letters and a
space or a comma between them: (N, T, F) is a batch of N sequences, T steps each, F numbers a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LSTM_GATES = ("input", "forget", "candidate", "output")
GRU_GATES = ("reset", "update", "candidate")
# By the kind of the cell (`recurra.engine.stack.KINDS`), where it has gates.
GATE_NAMES = {
    "lstm": LSTM_GATES,
    "gru": GRU_GATES,
    "peephole": LSTM_GATES,
    "coupled": ("forget", "candidate", "output"),
    "refined": ("forget", "refine", "candidate", "output"),
    "layer_norm_lstm": LSTM_GATES,
    "layer_norm_gru": GRU_GATES,
    "slstm": LSTM_GATES,
}


@dataclass(frozen=True, eq=False)
class Trace:
    """What one layer did in one direction: every gate, cell state and hidden state, at every step.

    Step t stands at index t in both directions, and whatever lies beyond a row's length is zero.

    layer: which layer, 0 the lowest.
    reverse: True for the direction that reads each row from its own end to its start.
    gate_names: (G,) names in the order of `gates`; empty for a plain RNN, which has no gates.
    gates: (N, T, G, H) activated gates, so a sigmoid gate lies in 0..1 and a candidate in -1..1 (but not the
        candidates of MinGRU, MinLSTM and MLSTM, nor MLSTM's input gate).
    cell: (N, T, H) cell states, or None where the cell has none (GRU, RNN, MinGRU, MinLSTM, MLSTM).
    hidden: (N, T, H), or (N, T, P) where projected: hidden states, the layer's output.
    lengths: (N,) int64, each row's own length.
    """

    layer: int
    reverse: bool
    gate_names: tuple[str, ...]
    gates: Tensor
    cell: Tensor | None
    hidden: Tensor
    lengths: Tensor

    def gate(self, name: str) -> Tensor:
        """The gate of this name, (N, T, H). Raises ValueError for a name the cell has not."""
        if name not in self.gate_names:
            known = ", ".join(self.gate_names) or "none: a plain RNN has no gates"
            raise ValueError(f"gate: expected one of this cell's gates ({known}), got {name!r}")
        return self.gates[:, :, self.gate_names.index(name)]
