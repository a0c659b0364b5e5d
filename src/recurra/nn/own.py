"""What the layers that torch has not have in common: torch's arguments, weights of other shapes, one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

from recurra.engine.stack import GATES, KINDS, OWN_WEIGHTS
from recurra.nn.initial import learn_states, learned_hx, told_states, zero_states
from recurra.nn.inputs import Lengths, own_batch, traced_batch
from recurra.nn.noise import regularise, told
from recurra.nn.recurrent import Input
from recurra.nn.running import leaf, quick, run, traces
from recurra.types import GATE_NAMES, Trace


class OwnLayer(torch.nn.RNNBase):
    """Runs a kind of cell of `recurra.engine.stack.KINDS` as torch's layers run theirs."""

    kind: str
    has_cell_state = True  # of an LSTM's kind, with states h and c; else of a GRU's
    state_names: tuple[str, ...] = ("h_0", "c_0")  # of all that hx has; h_0 may be a projection
    hx = "zeros"

    def __init__(
        self,
        *sizes: Any,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        weight_drop: float = 0.0,
        hx: str = "zeros",
        **options: Any,
    ) -> None:
        """The arguments of `torch.nn.LSTM` (or GRU), the probabilities of `recurra.nn.noise`, and hx, "zeros"
        or "learned": see `recurra.nn.initial`.

        Raises what `torch.nn.LSTM` raises, and ValueError for what is no probability or no hx.
        """
        if not self.has_cell_state and options.get("proj_size"):
            raise ValueError(
                "proj_size argument is only supported for LSTM, not RNN or GRU"
            )  # as torch's GRU
        super().__init__("LSTM" if self.has_cell_state else "GRU", *sizes, **options)
        regularise(self, recurrent_dropout, zoneout, weight_drop)
        self._reshape_weights()
        self.reset_parameters()
        learn_states(self, hx)

    @property
    def gate_names(self) -> tuple[str, ...]:
        """The gates in the order of the weights' rows."""
        return GATE_NAMES[self.kind]

    def _weight_shape(self, name: str, shape: torch.Size) -> tuple[int, ...]:
        """The shape of the weight that torch's layer has in this one."""
        if name.startswith("weight_hr"):
            return tuple(shape)
        return (GATES[KINDS.index(self.kind)] * self.hidden_size, *shape[1:])

    def _reshape_weights(self) -> None:
        """Makes torch's weights this cell's, and adds those that torch's cell has not."""
        rows: list[list[str]] = []
        for names in self._all_weights:
            for name in names:
                weight = getattr(self, name)
                shape = self._weight_shape(name, weight.shape)
                if shape != weight.shape:
                    setattr(self, name, torch.nn.Parameter(weight.new_empty(shape)))
            rows.append([*names])
            if self.kind in OWN_WEIGHTS:
                kind, count = OWN_WEIGHTS[self.kind]
                own = names[0].replace("weight_ih", f"weight_{kind.removesuffix('s')}")
                like = getattr(self, names[0])
                setattr(self, own, torch.nn.Parameter(like.new_empty(count, self.hidden_size)))
                rows[-1].append(own)
        self._all_weights = rows
        self._flat_weights_names = [name for names in rows for name in names]
        self._init_flat_weights()

    def reset_parameters(self) -> None:
        """Draws weights and biases as torch does; learned initial states are zero again."""
        super().reset_parameters()
        zero_states(self)

    def flatten_parameters(self) -> None:
        """Nothing: only cuDNN's own layers have their weights in one piece of memory."""

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return super().extra_repr() + told(self) + told_states(self)

    def get_expected_cell_size(self, input: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int]:
        """The shape of c_0 for this input."""
        places, rows, _ = self.get_expected_hidden_size(input, batch_sizes)
        return places, rows, self.hidden_size

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        """Raises RuntimeError for an input or states of another shape, in torch's words."""
        if not self.has_cell_state:
            return super().check_forward_args(input, hidden, batch_sizes)
        self.check_input(input, batch_sizes)
        for name, state, expected in (
            ("hidden[0]", hidden[0], self.get_expected_hidden_size(input, batch_sizes)),
            ("hidden[1]", hidden[1], self.get_expected_cell_size(input, batch_sizes)),
        ):
            self.check_hidden_size(state, expected, f"Expected {name} size {{}}, got {{}}")

    def __prepare_scriptable__(self) -> torch.nn.Module:
        raise ValueError(
            f"layer: expected a layer that torch has, got {type(self).__name__}, which TorchScript cannot "
            "compile; use torch.export, or torch.jit.trace on an input"
        )

    def forward(
        self,
        input: Input,
        hx: Any = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
        recompute: bool = False,
    ) -> tuple[Input, Any]:
        """The output of the top layer, and the final states (h_n, c_n), of a GRU's kind h_n.

        As `recurra.nn.LSTM.forward`, or `recurra.nn.GRU.forward`.
        """
        if hx is None and self.hx == "learned":
            hx = learned_hx(self, input)
        if lengths is None and resets is None and (done := quick(self, input, hx, recompute)):
            return done[0], done[1:] if self.has_cell_state else done[1]
        if isinstance(input, Proxy):
            return leaf(self, input, hx, lengths=lengths, resets=resets, reset_to_initial=reset_to_initial)
        batch = own_batch(self, input, hx, lengths, resets, reset_to_initial)
        output, *finals = run(self, batch, recompute)
        return output, tuple(finals) if self.has_cell_state else finals[0]

    def trace(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Trace, ...]:
        """Every gate, cell state and hidden state: L·D traces. As `recurra.nn.LSTM.trace`."""
        if hx is None and self.hx == "learned":
            hx = learned_hx(self, input)
        return traces(self, traced_batch(self, input, hx, lengths, resets, reset_to_initial))
