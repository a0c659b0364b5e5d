"""Variants of the LSTM as plain torch: equations and truth, as `recurra.engine.cells` has them for the LSTM.

Axes, signs and all that is said there of lengths, direction, resets and noise hold here too. P projection, H
without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from recurra.engine.cells import (
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


class CoupledStates(NamedTuple):
    """What `coupled_lstm` returns. With a projection the hidden state has P numbers, otherwise H."""

    output: Tensor  # (N, T, P|H) hidden state of every step
    h_n: Tensor  # (N, P|H) hidden state at each row's own end
    c_n: Tensor  # (N, H) cell state at each row's own end
    gates: Tensor  # (N, T, 3, H) activated, in the order f g o
    cell: Tensor  # (N, T, H) cell state of every step


def peephole_lstm(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    *,
    peepholes: Tensor,
    w_hr: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
    noise: Noise | None = None,
    stream: int = 0,
) -> LSTMStates:
    """One LSTM layer in one direction whose gates see the cell state.

    Gers and Schmidhuber (2000); Gers, Schraudolph and Schmidhuber (2002). At each step, from the input
    x_t, the hidden state h and the cell state c of the step read before::

        i_t = σ(W_i x_t + R_i h + p_i ⊙ c + b_i)      input gate
        f_t = σ(W_f x_t + R_f h + p_f ⊙ c + b_f)      forget gate
        g_t = tanh(W_g x_t + R_g h + b_g)             candidate
        c_t = f_t ⊙ c + i_t ⊙ g_t                     cell state
        o_t = σ(W_o x_t + R_o h + p_o ⊙ c_t + b_o)    output gate, which sees the new cell state
        h_t = o_t ⊙ tanh(c_t)                         hidden state; with `w_hr`, h_t = W_hr (o_t ⊙ tanh(c_t))

    With zoneout, the c_t that o_t and h_t see is the one before zoneout.

    x: (N, T, F). h_0: (N, H), or (N, P) with a projection. c_0: (N, H).
    w_ih: (4H, F) and w_hh: (4H, H|P), rows in the order i f g o. b_ih, b_hh: (4H), added to each other.
    peepholes: (3, H), rows p_i, p_f, p_o. w_hr: (P, H). lengths: (N,). resets: (N, T) bool.
    Raises ValueError for noise that no cell can do.

    For example::

        >>> import torch
        >>> from recurra.engine.variants import peephole_lstm
        >>> x, h_0, c_0 = torch.randn(2, 5, 3), torch.zeros(2, 7), torch.zeros(2, 7)
        >>> weights = torch.randn(28, 3), torch.randn(28, 7), None, None
        >>> peephole_lstm(x, h_0, c_0, *weights, peepholes=torch.randn(3, 7)).gates.shape
        torch.Size([2, 5, 4, 7])
    """
    p_i, p_f, p_o = peepholes.unbind(0)  # (H) each

    def compute(x_sums: Tensor, h_sums: Tensor, c: Tensor) -> Computed:
        i, f, g, o = (x_sums + h_sums).chunk(4, dim=-1)
        i, f, g = torch.sigmoid(i + p_i * c), torch.sigmoid(f + p_f * c), torch.tanh(g)
        cell = f * c + i * g
        o = torch.sigmoid(o + p_o * cell)
        return Computed((i, f, g, o), cell, o * torch.tanh(cell))

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
    )
    return LSTMStates(*states)


def coupled_lstm(
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
) -> CoupledStates:
    """One LSTM layer in one direction that writes as much as it forgets ("CIFG": Greff et al. 2017).

    At each step, from the input x_t, the hidden state h and the cell state c of the step read before::

        f_t = σ(W_f x_t + R_f h + b_f)            forget gate: how much of the cell is kept
        g_t = tanh(W_g x_t + R_g h + b_g)         candidate: what takes the place of the rest
        o_t = σ(W_o x_t + R_o h + b_o)            output gate: how much of the cell is shown
        c_t = f_t ⊙ c + (1 - f_t) ⊙ g_t           cell state
        h_t = o_t ⊙ tanh(c_t)                     hidden state; with `w_hr`, h_t = W_hr (o_t ⊙ tanh(c_t))

    x: (N, T, F). h_0: (N, H), or (N, P) with a projection. c_0: (N, H).
    w_ih: (3H, F) and w_hh: (3H, H|P), rows in the order f g o. b_ih, b_hh: (3H), added to each other.
    w_hr: (P, H). lengths: (N,). resets: (N, T) bool.
    Raises ValueError for noise that no cell can do.

    For example::

        >>> import torch
        >>> from recurra.engine.variants import coupled_lstm
        >>> x, h_0, c_0 = torch.randn(2, 5, 3), torch.zeros(2, 7), torch.zeros(2, 7)
        >>> coupled_lstm(x, h_0, c_0, torch.randn(21, 3), torch.randn(21, 7), None, None).gates.shape
        torch.Size([2, 5, 3, 7])
    """

    def compute(x_sums: Tensor, h_sums: Tensor, c: Tensor) -> Computed:
        f, g, o = (x_sums + h_sums).chunk(3, dim=-1)
        f, g, o = torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        cell = f * c + (1 - f) * g
        return Computed((f, g, o), cell, o * torch.tanh(cell))

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
    )
    return CoupledStates(*states)


def refined_lstm(
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
) -> LSTMStates:
    """A coupled LSTM with a refine gate (Gu et al., "Improving the gating mechanism of RNNs", 2020).

    At each step, from the input x_t, the hidden state h and the cell state c of the step read before::

        f_t = σ(W_f x_t + R_f h + b_f)                     forget gate
        r_t = σ(W_r x_t + R_r h + b_r)                     refine gate: to which end f is moved
        g_t = tanh(W_g x_t + R_g h + b_g)                  candidate
        o_t = σ(W_o x_t + R_o h + b_o)                     output gate
        e_t = 2 r_t ⊙ f_t + (1 - 2 r_t) ⊙ f_t²             how much of the cell is kept: f² for r = 0, up to
                                                           1 - (1 - f)² for r = 1
        c_t = e_t ⊙ c + (1 - e_t) ⊙ g_t                    cell state
        h_t = o_t ⊙ tanh(c_t)                              hidden state; with `w_hr`, W_hr times this

    So a gate near 0 or 1 still learns. x: (N, T, F). h_0: (N, H), or (N, P) with a projection. c_0: (N, H).
    w_ih: (4H, F) and w_hh: (4H, H|P), rows in the order f r g o. b_ih, b_hh: (4H), added to each other.
    w_hr: (P, H). lengths: (N,). resets: (N, T) bool. Of the result, gates are in the order f r g o.
    Raises ValueError for noise that no cell can do.
    """

    def compute(x_sums: Tensor, h_sums: Tensor, c: Tensor) -> Computed:
        f, r, g, o = (x_sums + h_sums).chunk(4, dim=-1)
        f, r, g, o = torch.sigmoid(f), torch.sigmoid(r), torch.tanh(g), torch.sigmoid(o)
        kept = 2 * r * f + (1 - 2 * r) * f * f
        cell = kept * c + (1 - kept) * g
        return Computed((f, r, g, o), cell, o * torch.tanh(cell))

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
    )
    return LSTMStates(*states)


class Computed(NamedTuple):
    """What a variant computes in one step."""

    gates: tuple[Tensor, ...]  # G of (N, H), activated
    cell: Tensor  # (N, H) cell state before zoneout
    shown: Tensor  # (N, H) hidden state before projection and zoneout


def run_cell(
    compute: Callable[[Tensor, Tensor, Tensor], Computed],
    given: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None],
    *,
    lengths: Tensor | None,
    reverse: bool,
    resets: Tensor | None,
    reset_to_initial: bool,
    noise: Noise | None,
    stream: int,
    parts: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, h_n, c_n, gates and cell states of a cell with the states h and c.

    compute: one step, from W x_t + b_ih and R h + b_hh, (N, G·H) each, and the cell state (N, H) of the step
    read before.
    parts: how many numbers a unit's cell state is, side by side: c_0 is (N, parts · H).
    given: x, h_0, c_0. weights: w_ih, w_hh, b_ih, b_hh, w_hr. The rest is that of `lstm`.
    """
    x, h_0, c_0 = given
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    active = active_steps(x, lengths)
    restart = restart_steps(x, resets, active, reverse)
    inputs = linear(clear_beyond(x, active), w_ih, b_ih).unbind(1)  # T of (N, G·H)
    h, c = begin(h_0, lengths), begin(c_0, lengths)
    h_again, c_again = (h, c) if reset_to_initial else (None, None)
    drawn = draw(noise, stream, x, h_0.shape[-1], c_0.shape[-1] if parts == 1 else None)
    hiddens: list[Tensor] = []
    gates: list[Tensor] = []
    cells: list[Tensor] = []
    for t in reading_order(x.shape[1], reverse):
        h, c = put_back(restart, t, h, h_again), put_back(restart, t, c, c_again)
        now = compute(inputs[t], linear(drop(drawn.recurrent, h), w_hh, b_hh), c)
        hidden = now.shown if w_hr is None else linear(now.shown, w_hr)
        hidden, cell = stay(drawn.hidden, t, hidden, h), stay(drawn.cell, t, now.cell, c)
        hiddens.append(hidden)
        gates.append(torch.stack(now.gates, dim=1))
        cells.append(cell)
        h, c = advance(active, t, hidden, h), advance(active, t, cell, c)
    units = c_0[:, : c_0.shape[-1] // parts]
    gate_count = w_ih.shape[0] // units.shape[-1]
    return (
        stack_steps(hiddens, h_0, active, reverse),
        finish(h, h_0, lengths),
        finish(c, c_0, lengths),
        stack_steps(gates, units.unsqueeze(1).expand(-1, gate_count, -1), active, reverse),
        stack_steps(cells, c_0, active, reverse),
    )
