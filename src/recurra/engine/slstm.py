"""The sLSTM in plain torch (Beck et al., "xLSTM: Extended Long Short-Term Memory", 2024)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recurra.engine.noise import Noise
from recurra.engine.variants import Computed, run_cell


class SLSTMStates(NamedTuple):
    """What `slstm` returns. With a projection the hidden state has P numbers, otherwise H."""

    output: Tensor  # (N, T, P|H) hidden state of every step
    h_n: Tensor  # (N, P|H) hidden state at each row's own end
    c_n: Tensor  # (N, 3H) c, n and m at each row's own end
    gates: Tensor  # (N, T, 4, H) in the order i f z o, i and f as they are after stabilisation
    cell: Tensor  # (N, T, 3H) c, n and m of every step


def slstm(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    *,
    w_hr: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
    noise: Noise | None = None,
    stream: int = 0,
) -> SLSTMStates:
    """One sLSTM layer in one direction: exponential input gates, and a normaliser n that makes up for them.

    At each step, from the input x_t and the states h, c, n and m of the step read before (Beck et al. 2024,
    equations 8 to 17; the forget gate is the sigmoid)::

        ĩ, f̃, z̃, õ = W x_t + b_ih + R h + b_hh
        m_t = max(log σ(f̃) + m, ĩ)                         stabiliser; ĩ where n is 0
        i_t = exp(ĩ - m_t)                                  input gate
        f_t = exp(log σ(f̃) + m - m_t)                       forget gate; 0 where n is 0
        z_t = tanh(z̃)                                       candidate
        o_t = σ(õ)                                          output gate
        c_t = f_t ⊙ c + i_t ⊙ z_t                           cell state
        n_t = f_t ⊙ n + i_t                                 normaliser
        h_t = o_t ⊙ c_t / n_t                               hidden state; with `w_hr`, W_hr times this

    m only keeps the exponentials in range: with any other m, c and n would both be multiplied by the same,
    and h would be as it is. So m_t counts as a constant in gradients; the initial m does not. Where n is 0,
    as in the zeros that a sequence begins with, nothing has been read yet.

    x: (N, T, F). h_0: (N, H), or (N, P) with a projection. c_0: (N, 3H), c, n and m side by side.
    w_ih: (4H, F) and w_hh: (4H, H|P), rows in the order i f z o. b_ih, b_hh: (4H), added to each other.
    w_hr: (P, H). lengths: (N,). resets: (N, T) bool.
    Raises ValueError for noise that no cell can do, and for zoneout of the cell state, whose three parts
    cannot stay one by one.
    """

    def compute(x_sums: Tensor, h_sums: Tensor, state: Tensor) -> Computed:
        i, f, z, o = (x_sums + h_sums).chunk(4, dim=-1)
        c, n, m = state.chunk(3, dim=-1)
        nothing = n == 0
        kept = logsigmoid(f) + m
        now_m = torch.where(nothing, i, torch.maximum(kept, i)).detach()
        # selected before exp, whose gradient would be inf · 0 where nothing is kept
        f = torch.exp(torch.where(nothing, 0, kept - now_m)).masked_fill(nothing, 0)
        i, z, o = torch.exp(i - now_m), torch.tanh(z), torch.sigmoid(o)
        c, n = f * c + i * z, f * n + i
        return Computed((i, f, z, o), torch.cat((c, n, now_m), dim=-1), o * (c / n))

    states = run_cell(
        compute,
        (x, h_0, c_0),
        (w_ih, w_hh, b_ih, b_hh, w_hr),
        lengths=lengths,
        reverse=reverse,
        resets=resets,
        reset_to_initial=reset_to_initial,
        noise=noise,
        stream=stream,
        parts=3,
    )
    return SLSTMStates(*states)
