"""The equations of cells with layer normalisation (Ba, Kiros and Hinton 2016), in plain torch.

LN takes the numbers of one row and one step to mean 0 and variance 1; what multiplies them after that is in
`norms`, what is added to them are the biases. The input's sums and the state's are normalised apart, so that
neither drowns the other. ε is 1e-5, as in `torch.nn.LayerNorm`. What the cells have in common is in the text
of `recurra.engine.cells`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from recurra.engine.cells import (
    GRUStates,
    LSTMStates,
    active_steps,
    advance,
    begin,
    clear_beyond,
    finish,
    put_back,
    reading_order,
    restart_steps,
    stack_steps,
)
from recurra.engine.noise import Noise, draw, drop, stay
from recurra.engine.variants import Computed, run_cell

EPSILON = 1e-5


def layer_norm_lstm(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    *,
    norms: Tensor,
    w_hr: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
    noise: Noise | None = None,
    stream: int = 0,
) -> LSTMStates:
    """One LSTM layer in one direction with layer normalisation (Ba et al. 2016, equations 20 to 22).

    At each step, from the input x_t, the hidden state h and the cell state c of the step read before::

        (i_t, f_t, g_t, o_t) = (σ, σ, tanh, σ)(α ⊙ LN(W x_t) + b_ih + β ⊙ LN(R h) + b_hh)
        c_t = f_t ⊙ c + i_t ⊙ g_t
        h_t = o_t ⊙ tanh(γ ⊙ LN(c_t) + δ)      with `w_hr`, W_hr times this

    LN(W x_t) and LN(R h) are over the 4H sums of all gates together, LN(c_t) over H. With zoneout, the c_t
    that h_t sees is the one before zoneout.

    x: (N, T, F). h_0: (N, H), or (N, P) with a projection. c_0: (N, H).
    w_ih: (4H, F) and w_hh: (4H, H|P), rows in the order i f g o. b_ih, b_hh: (4H).
    norms: (10, H), the rows α of i f g o, β of i f g o, γ, δ. w_hr: (P, H). lengths: (N,).
    resets: (N, T) bool.
    Raises ValueError for noise that no cell can do.

    For example::

        >>> import torch
        >>> from recurra.engine.norms import layer_norm_lstm
        >>> x, h_0, c_0 = torch.randn(2, 5, 3), torch.zeros(2, 7), torch.zeros(2, 7)
        >>> weights = torch.randn(28, 3), torch.randn(28, 7), None, None
        >>> layer_norm_lstm(x, h_0, c_0, *weights, norms=torch.ones(10, 7)).gates.shape
        torch.Size([2, 5, 4, 7])
    """

    def compute(x_sums: Tensor, h_sums: Tensor, c: Tensor) -> Computed:
        i, f, g, o = lstm_gates(x_sums, h_sums, norms, b_ih, b_hh)
        cell = f * c + i * g
        shown = o * torch.tanh(scaled(cell, norms[8], norms[9]))
        return Computed((i, f, g, o), cell, shown)

    states = run_cell(
        compute,
        (x, h_0, c_0),
        (w_ih, w_hh, None, None, w_hr),
        lengths=lengths,
        reverse=reverse,
        resets=resets,
        reset_to_initial=reset_to_initial,
        noise=noise,
        stream=stream,
    )
    return LSTMStates(*states)


def layer_norm_gru(
    x: Tensor,
    h_0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    *,
    norms: Tensor,
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
    noise: Noise | None = None,
    stream: int = 0,
) -> GRUStates:
    """One GRU layer in one direction with layer normalisation (Ba et al. 2016, their supplement).

    At each step, from the input x_t and the hidden state h of the step read before::

        (r_t, z_t) = σ(α ⊙ LN(W x_t) + b_ih + β ⊙ LN(R h) + b_hh)            of the rows of r and z
        n_t = tanh(α ⊙ LN(W x_t) + b_ih + r_t ⊙ (β ⊙ LN(R h) + b_hh))        of the rows of n
        h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h

    LN is over the 2H sums of r and z together, and over the H of n by themselves. z keeps the old state, as
    in `recurra.engine.cells.gru`; in the paper it lets the new one in.

    x: (N, T, F). h_0: (N, H). w_ih: (3H, F) and w_hh: (3H, H), rows in the order r z n. b_ih, b_hh: (3H).
    norms: (6, H), the rows α of r z n, β of r z n. lengths: (N,). resets: (N, T) bool.
    Raises ValueError for noise that no cell can do.
    """
    active = active_steps(x, lengths)
    restart = restart_steps(x, resets, active, reverse)
    inputs = scaled_apart(linear(clear_beyond(x, active), w_ih), norms[:3], b_ih).unbind(1)  # T of (N, 3H)
    h = begin(h_0, lengths)
    h_again = h if reset_to_initial else None
    drawn = draw(noise, stream, x, h_0.shape[-1])
    hiddens: list[Tensor] = []
    gates: list[Tensor] = []
    candidates: list[Tensor] = []
    for t in reading_order(x.shape[1], reverse):
        h = put_back(restart, t, h, h_again)
        r, z, n, n_h = gru_gates(inputs[t], linear(drop(drawn.recurrent, h), w_hh), norms, b_hh)
        hidden = stay(drawn.hidden, t, (1 - z) * n + z * h, h)
        hiddens.append(hidden)
        gates.append(torch.stack((r, z, n), dim=1))
        candidates.append(n_h)
        h = advance(active, t, hidden, h)
    return GRUStates(
        output=stack_steps(hiddens, h_0, active, reverse),
        h_n=finish(h, h_0, lengths),
        gates=stack_steps(gates, h_0.unsqueeze(1).expand(-1, 3, -1), active, reverse),
        recurrent_candidate=stack_steps(candidates, h_0, active, reverse),
    )


def lstm_gates(
    x_sums: Tensor, h_sums: Tensor, norms: Tensor, b_ih: Tensor | None, b_hh: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """i, f, g and o, (..., H) each, from W x_t and R h, (..., 4H) each."""
    x_part, h_part = scaled(x_sums, norms[:4].flatten(), b_ih), scaled(h_sums, norms[4:8].flatten(), b_hh)
    i, f, g, o = (x_part + h_part).chunk(4, dim=-1)
    return torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)


def gru_gates(
    x_part: Tensor, h_sums: Tensor, norms: Tensor, b_hh: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """r, z, n and what r multiplies, (..., H), from the normalised W x_t and from R h, (..., 3H) each."""
    r_x, z_x, n_x = x_part.chunk(3, dim=-1)
    r_h, z_h, n_h = scaled_apart(h_sums, norms[3:], b_hh).chunk(3, dim=-1)
    r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    return r, z, torch.tanh(n_x + r * n_h), n_h


def gates_of(
    kind: str, x_sums: Tensor, h_sums: Tensor, norms: Tensor, b_ih: Tensor | None, b_hh: Tensor | None
) -> Tensor:
    """The gates (..., G, H) from W x_t and R h, (..., G·H) each: what the engine keeps. kind: of KINDS."""
    if kind == "layer_norm_lstm":
        return torch.stack(lstm_gates(x_sums, h_sums, norms, b_ih, b_hh), dim=-2)
    return torch.stack(gru_gates(scaled_apart(x_sums, norms[:3], b_ih), h_sums, norms, b_hh)[:3], dim=-2)


def scaled(sums: Tensor, factors: Tensor, added: Tensor | None) -> Tensor:
    """factors ⊙ LN(sums) + added, over the last axis."""
    wide = sums.to(torch.promote_types(sums.dtype, torch.float32))  # a square of half precision overflows
    centred = wide - wide.mean(-1, keepdim=True)
    normalised = (centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPSILON)).to(sums.dtype)
    return normalised * factors if added is None else normalised * factors + added


def scaled_apart(sums: Tensor, factors: Tensor, bias: Tensor | None) -> Tensor:
    """A GRU's sums (..., 3H): those of r and z normalised together, those of n by themselves."""
    cut = 2 * factors.shape[-1]
    some, rest = (None, None) if bias is None else (bias[:cut], bias[cut:])
    gates = scaled(sums[..., :cut], factors[:2].flatten(), some)
    return torch.cat((gates, scaled(sums[..., cut:], factors[2], rest)), dim=-1)
