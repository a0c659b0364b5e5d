"""`SLSTM`: exponential gates that can revise what is stored, in the engine (Beck et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

from recurra.nn.initial import learned_hx
from recurra.nn.inputs import Lengths
from recurra.nn.own import OwnLayer
from recurra.nn.recurrent import Input
from recurra.nn.running import leaf
from recurra.types import Trace


class SLSTM(OwnLayer):
    """The sLSTM of "xLSTM: Extended Long Short-Term Memory" (Beck et al. 2024, equations 8 to 17)::

        i_t = exp(ĩ - m_t)      f_t = exp(log σ(f̃) + m - m_t)      z_t = tanh(z̃)      o_t = σ(õ)
        c_t = f_t ⊙ c + i_t ⊙ z_t
        n_t = f_t ⊙ n + i_t                              normaliser
        m_t = max(log σ(f̃) + m, ĩ)                       stabiliser
        h_t = o_t ⊙ c_t / n_t

    where ĩ, f̃, z̃, õ = W x_t + b_ih + R h + b_hh. m only keeps the exponentials in range: it counts as a
    constant in gradients. The states are four, (h, c, n, m), each (L·D, N, H), h perhaps (L·D, N, P).

    heads: a unit reads the hidden states of its own head only, so `weight_hh_l0` is (4H, H / heads):
    row k holds what unit k reads of its head, in blocks of H / heads. Other weights are those of
    `torch.nn.LSTM`, rows in the order i f z o. A trace has the gates input and forget as they are after
    stabilisation, candidate and output, and as cell state c / n.

    Takes lengths, resets, projections, recurrent dropout, zoneout of h, weight drop and learned states as
    `recurra.nn.LSTM` does; zoneout of the cell state is refused, for its three parts cannot stay one by one.

    For example::

        layer = SLSTM(3, 8, heads=2, batch_first=True)
        output, (h_n, c_n, n_n, m_n) = layer(x, lengths=[5, 2])      # x (2, 5, 3), output (2, 5, 8)
    """

    kind = "slstm"
    state_names = ("h_0", "c_0", "n_0", "m_0")

    def __init__(
        self,
        *sizes: Any,
        heads: int = 1,
        zoneout: float | tuple[float, float] = 0.0,
        **options: Any,
    ) -> None:
        """Arguments of `torch.nn.LSTM` and of `recurra.nn.LSTM`, and heads.

        zoneout: of the hidden state. Raises ValueError for heads that do not divide H (and P), and for
        zoneout of the cell state.
        """
        if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
            raise ValueError(
                f"heads: expected a whole number of at least 1, got {heads!r}; 1 is one head for all units"
            )
        self.heads = heads
        if isinstance(zoneout, (tuple, list)) and len(zoneout) == 2:
            if zoneout[1] != 0:
                raise ValueError(
                    f"zoneout: expected one number, of the hidden state, got {zoneout!r}; the three parts of "
                    "an SLSTM's cell state cannot stay one by one: give 0 for it"
                )
            zoneout = zoneout[0]
        pair = (zoneout, 0.0) if isinstance(zoneout, (int, float)) else zoneout
        super().__init__(*sizes, zoneout=pair, **options)

    def _weight_shape(self, name: str, shape: torch.Size) -> tuple[int, ...]:
        if not name.startswith("weight_hh"):
            return super()._weight_shape(name, shape)
        for size, value in (("hidden_size", self.hidden_size), ("proj_size", self.proj_size)):
            if value % self.heads:
                raise ValueError(
                    f"heads: expected a divisor of {size}={value}, got {self.heads}; "
                    "each head has as many units as the others"
                )
        return shape[0], shape[1] // self.heads

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return super().extra_repr() + (f", heads={self.heads}" if self.heads > 1 else "")

    def get_expected_cell_size(self, input: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int]:
        """The shape of c, n and m side by side."""
        places, rows, size = super().get_expected_cell_size(input, batch_sizes)
        return places, rows, 3 * size

    def forward(
        self,
        input: Input,
        hx: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
        recompute: bool = False,
    ) -> tuple[Input, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """The output of the top layer, and the final states (h_n, c_n, n_n, m_n).

        As `recurra.nn.LSTM.forward`. Raises ValueError for hx that is not four tensors.
        """
        if isinstance(input, Proxy):
            return leaf(self, input, hx, lengths=lengths, resets=resets, reset_to_initial=reset_to_initial)
        output, (h_n, cell) = super().forward(
            input,
            self._joined(input, hx),
            lengths=lengths,
            resets=resets,
            reset_to_initial=reset_to_initial,
            recompute=recompute,
        )
        c_n, n_n, m_n = cell.chunk(3, dim=-1)
        return output, (h_n, c_n, n_n, m_n)

    def trace(self, input: Any, hx: Any = None, **options: Any) -> tuple[Trace, ...]:
        """Every gate and hidden state, and c / n as cell state: L·D traces, as `recurra.nn.LSTM.trace`."""
        return super().trace(input, self._joined(input, hx), **options)

    def _joined(self, input: Any, hx: Any) -> tuple[Tensor, Tensor] | None:
        """The four states as the two that the engine has: h, and c, n and m side by side."""
        if hx is None:
            hx = learned_hx(self, input) if self.hx == "learned" else None
        if hx is None:
            return None
        if not isinstance(hx, (tuple, list)) or len(hx) != 4 or not all(isinstance(s, Tensor) for s in hx):
            given = hx if isinstance(hx, (tuple, list)) else (hx,)
            got = ", ".join(type(state).__name__ for state in given) or "none"
            raise ValueError(f"hx: expected the four tensors h_0, c_0, n_0 and m_0, got {got}; give all four")
        h, *rest = hx
        if isinstance(input, Tensor) and input.dim() == h.dim() == 3:
            self.check_hidden_size(
                h, self.get_expected_hidden_size(input, None), "Expected hidden[0] size {}, got {}"
            )
        for place, state in enumerate(rest, start=1):
            expected = (*h.shape[:-1], self.hidden_size)
            if state.shape != expected:
                raise RuntimeError(f"Expected hidden[{place}] size {expected}, got {list(state.shape)}")
        return h, torch.cat(rest, dim=-1)
