"""`PeepholeLSTM` and `CoupledLSTM`: LSTMs with other gates, called like `recurra.nn.LSTM` and as quick.

Both take lengths, resets, projections, noise and traces as `recurra.nn.LSTM` does, in any number of layers
and directions: its text has the shapes, and `recurra.nn.noise` the noise. torch has no such layers, so what
the native engine does not do goes to the equations in plain torch (`recurra.engine.variants`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurra.nn.inputs import Lengths, own_batch, traced_batch
from recurra.nn.noise import regularise, told
from recurra.nn.recurrent import Input
from recurra.nn.running import quick, run, traces
from recurra.types import Trace


class _OwnLSTM(torch.nn.RNNBase):
    """What the two have in common: torch's arguments, weights of other shapes, one call."""

    kind: str
    has_cell_state = True
    blocks = 4  # gates that weights have rows for

    def __init__(
        self,
        *sizes: Any,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        weight_drop: float = 0.0,
        **options: Any,
    ) -> None:
        """The arguments of `torch.nn.LSTM`, and the probabilities of `recurra.nn.noise`.

        Raises what `torch.nn.LSTM` raises, and ValueError for what is no probability.
        """
        super().__init__("LSTM", *sizes, **options)
        regularise(self, recurrent_dropout, zoneout, weight_drop)
        self._reshape_weights()
        self.reset_parameters()

    def _reshape_weights(self) -> None:
        """Makes weights of 4 gates those of as many as there are."""
        for name in self._flat_weights_names:
            weight = getattr(self, name)
            if not name.startswith("weight_hr") and self.blocks != 4:
                rows = self.blocks * self.hidden_size
                setattr(self, name, torch.nn.Parameter(weight.new_empty(rows, *weight.shape[1:])))
        self._init_flat_weights()

    def flatten_parameters(self) -> None:
        """Nothing: only cuDNN's own layers have their weights in one piece of memory."""

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return super().extra_repr() + told(self)

    def get_expected_cell_size(self, input: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int]:
        """The shape of c_0 for this input."""
        places, rows, _ = self.get_expected_hidden_size(input, batch_sizes)
        return places, rows, self.hidden_size

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        """Raises RuntimeError for an input or states of another shape, in torch's words."""
        self.check_input(input, batch_sizes)
        for name, state, expected in (
            ("hidden[0]", hidden[0], self.get_expected_hidden_size(input, batch_sizes)),
            ("hidden[1]", hidden[1], self.get_expected_cell_size(input, batch_sizes)),
        ):
            self.check_hidden_size(state, expected, f"Expected {name} size {{}}, got {{}}")

    def forward(
        self,
        input: Input,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
        recompute: bool = False,
    ) -> tuple[Input, tuple[Tensor, Tensor]]:
        """The output of the top layer, and the final states (h_n, c_n). As `recurra.nn.LSTM.forward`."""
        if lengths is None and resets is None and (done := quick(self, input, hx, recompute)):
            return done[0], done[1:]
        batch = own_batch(self, input, hx, lengths, resets, reset_to_initial)
        output, h_n, c_n = run(self, batch, recompute)
        return output, (h_n, c_n)

    def trace(
        self,
        input: Any,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Trace, ...]:
        """Every gate, cell state and hidden state: L·D traces. As `recurra.nn.LSTM.trace`."""
        return traces(self, traced_batch(self, input, hx, lengths, resets, reset_to_initial))


class PeepholeLSTM(_OwnLSTM):
    """An LSTM whose gates see the cell (Gers & Schmidhuber, "Recurrent nets that time and count", 2000)::

        i_t = σ(W_i x_t + R_i h + p_i ⊙ c + b_i)      c: the cell state of the step before
        f_t = σ(W_f x_t + R_f h + p_f ⊙ c + b_f)
        g_t = tanh(W_g x_t + R_g h + b_g)
        c_t = f_t ⊙ c + i_t ⊙ g_t
        o_t = σ(W_o x_t + R_o h + p_o ⊙ c_t + b_o)
        h_t = o_t ⊙ tanh(c_t)

    Weights are those of `torch.nn.LSTM`, and for each layer and direction `weight_peephole_l0` (3, H), the
    rows p_i, p_f, p_o. The gates of a trace are input, forget, candidate, output.

    For example::

        layer = PeepholeLSTM(3, 8, bidirectional=True, batch_first=True)
        output, (h_n, c_n) = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 16)
    """

    kind = "peephole"

    def _reshape_weights(self) -> None:
        each = len(self._all_weights[0])
        names: list[str] = []
        for start in range(0, len(self._flat_weights_names), each):
            own = self._flat_weights_names[start : start + each]
            peephole = own[0].replace("weight_ih", "weight_peephole")
            weight = getattr(self, own[0])
            setattr(self, peephole, torch.nn.Parameter(weight.new_empty(3, self.hidden_size)))
            names += [*own, peephole]
        self._flat_weights_names = names
        self._all_weights = [names[start : start + each + 1] for start in range(0, len(names), each + 1)]
        self._init_flat_weights()


class CoupledLSTM(_OwnLSTM):
    """An LSTM whose input gate is what the forget gate leaves (CIFG: Greff et al., "LSTM: a search space
    odyssey", 2017)::

        f_t = σ(W_f x_t + R_f h + b_f)
        g_t = tanh(W_g x_t + R_g h + b_g)
        o_t = σ(W_o x_t + R_o h + b_o)
        c_t = f_t ⊙ c + (1 - f_t) ⊙ g_t
        h_t = o_t ⊙ tanh(c_t)

    A quarter fewer weights than an LSTM: `weight_ih_l0` (3H, F) and the like, rows in the order f g o. The
    gates of a trace are forget, candidate, output.

    For example::

        layer = CoupledLSTM(3, 8, batch_first=True)
        output, (h_n, c_n) = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 8)
    """

    kind = "coupled"
    blocks = 3
    gate_names = ("forget", "candidate", "output")  # what `recurra.nn.init` goes by
