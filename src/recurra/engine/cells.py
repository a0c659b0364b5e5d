"""The recurrent cells as plain torch: the equations, readable, and the truth every fast path is held against.

Axes: N batch, T time, F features, H hidden, P projection, G gates (see `recurra.types`). ⊙ multiplies
number by number, σ is the logistic function, W reads the input, R the hidden state.

What `lstm`, `gru` and `rnn` have in common:

* `lengths` (N,), any integer dtype, any order, zero allowed: how many steps of each row count; None means
  all T. A row's final states are those at its own end; output, gates and cell states beyond it are zero;
  whatever `x` holds there, NaN included, touches nothing. 0 ≤ lengths ≤ T is the caller's to check: looking
  at values here would forbid `vmap` and `torch.compile`.
* `reverse=True` reads each row from its own last step down to step 0. Step t's output stays at index t.
* `resets` (N, T), bool: True where step t begins a new sequence in that row, as where one episode ends and
  the next begins. Each piece between resets is as if it ran by itself: the state is put back before step t
  is read or, in reverse, between reading step t and step t-1. It is put back to zeros or, with
  `reset_to_initial=True`, to the row's own initial state. So a reset at step 0 drops the initial state
  forward, unless that is what it puts back, and does nothing in reverse, where the step read first always
  starts from the initial state. Resets at or beyond a row's length count for nothing. Neither a gradient nor
  NaN crosses a reset. Shape and dtype are the caller's to check.
* `noise`: zoneout and recurrent dropout, as `recurra.engine.noise` has it, or None for neither. `stream`:
  which random numbers are this layer's and direction's, 2·layer + direction. The state of the step before is
  the one after any reset. The output, the cell states and the final states are those after zoneout; the gates
  are as computed. ValueError for chances outside 0..1, and for `zoneout_cell` in a cell without a cell state.
* T = 0 gives an empty output, and the initial states as final ones.
* Nothing is written in place, so autograd, double backward, forward mode and `vmap` all go through.

`recurra.engine.gradients` holds the backward pass of each without noise, derived by hand. `docs/lstm.md`
derives both. `recurra.engine.variants` has further cells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from recurra.engine.noise import Noise, draw, drop, stay


class LSTMStates(NamedTuple):
    """What `lstm` returns. With a projection the hidden state has P numbers, otherwise H."""

    output: Tensor  # (N, T, P|H) hidden state of every step
    h_n: Tensor  # (N, P|H) hidden state at each row's own end
    c_n: Tensor  # (N, H) cell state at each row's own end
    gates: Tensor  # (N, T, 4, H) activated, in the order i f g o
    cell: Tensor  # (N, T, H) cell state of every step


class GRUStates(NamedTuple):
    """What `gru` returns."""

    output: Tensor  # (N, T, H) hidden state of every step
    h_n: Tensor  # (N, H) hidden state at each row's own end
    gates: Tensor  # (N, T, 3, H) activated, in the order r z n
    recurrent_candidate: Tensor  # (N, T, H) R_n h_{t-1} + b_hn, which the reset gate multiplies


class RNNStates(NamedTuple):
    """What `rnn` returns."""

    output: Tensor  # (N, T, H) hidden state of every step
    h_n: Tensor  # (N, H) hidden state at each row's own end


def lstm(
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
    """One LSTM layer in one direction, forget gate included (Gers et al. 2000; Graves 2013, no peepholes).

    At each step, from the input x_t, the hidden state h and the cell state c of the step read before::

        i_t = σ(W_i x_t + R_i h + b_i)        input gate: how much of the candidate is written
        f_t = σ(W_f x_t + R_f h + b_f)        forget gate: how much of the cell is kept
        g_t = tanh(W_g x_t + R_g h + b_g)     candidate: what would be written
        o_t = σ(W_o x_t + R_o h + b_o)        output gate: how much of the cell is shown
        c_t = f_t ⊙ c + i_t ⊙ g_t             cell state
        h_t = o_t ⊙ tanh(c_t)                 hidden state; with `w_hr`, h_t = W_hr (o_t ⊙ tanh(c_t))

    x: (N, T, F). h_0: (N, H), or (N, P) with a projection. c_0: (N, H).
    w_ih: (4H, F) and w_hh: (4H, H|P), rows in the order i f g o. b_ih, b_hh: (4H), added to each other.
    w_hr: (P, H), the projection (Sak et al. 2014). lengths: (N,). resets: (N, T) bool, where h and c are put
    back, to zeros or to h_0 and c_0. See the module's text for the rest.

    For example::

        >>> import torch
        >>> from recurra.engine.cells import lstm
        >>> x, h_0, c_0 = torch.randn(2, 5, 3), torch.zeros(2, 7), torch.zeros(2, 7)
        >>> lstm(x, h_0, c_0, torch.randn(28, 3), torch.randn(28, 7), None, None).output.shape
        torch.Size([2, 5, 7])
    """
    active = active_steps(x, lengths)
    restart = restart_steps(x, resets, active, reverse)
    inputs = linear(clear_beyond(x, active), w_ih, b_ih).unbind(1)  # T of (N, 4H)
    h, c = begin(h_0, lengths), begin(c_0, lengths)
    h_again, c_again = (h, c) if reset_to_initial else (None, None)
    drawn = draw(noise, stream, x, h_0.shape[-1], c_0.shape[-1])
    hiddens: list[Tensor] = []
    gates: list[Tensor] = []
    cells: list[Tensor] = []
    for t in reading_order(x.shape[1], reverse):
        h, c = put_back(restart, t, h, h_again), put_back(restart, t, c, c_again)
        i, f, g, o = (inputs[t] + linear(drop(drawn.recurrent, h), w_hh, b_hh)).chunk(4, dim=-1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        cell = f * c + i * g
        hidden = o * torch.tanh(cell)
        if w_hr is not None:
            hidden = linear(hidden, w_hr)
        hidden, cell = stay(drawn.hidden, t, hidden, h), stay(drawn.cell, t, cell, c)
        hiddens.append(hidden)
        gates.append(torch.stack((i, f, g, o), dim=1))
        cells.append(cell)
        h, c = advance(active, t, hidden, h), advance(active, t, cell, c)
    return LSTMStates(
        output=stack_steps(hiddens, h_0, active, reverse),
        h_n=finish(h, h_0, lengths),
        c_n=finish(c, c_0, lengths),
        gates=stack_steps(gates, c_0.unsqueeze(1).expand(-1, 4, -1), active, reverse),
        cell=stack_steps(cells, c_0, active, reverse),
    )


def gru(
    x: Tensor,
    h_0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
    noise: Noise | None = None,
    stream: int = 0,
) -> GRUStates:
    """One GRU layer in one direction (Cho et al. 2014), in the form of torch and cuDNN.

    At each step, from the input x_t and the hidden state h of the step read before::

        r_t = σ(W_r x_t + b_ir + R_r h + b_hr)                reset gate: how much of h the candidate sees
        z_t = σ(W_z x_t + b_iz + R_z h + b_hz)                update gate: how much of h is kept
        n_t = tanh(W_n x_t + b_in + r_t ⊙ (R_n h + b_hn))     candidate
        h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h                       hidden state

    The reset gate multiplies after the recurrent product ("reset after"), not h before it as in the paper:
    so all three products are one, and b_hn cannot be merged into b_in.

    x: (N, T, F). h_0: (N, H). w_ih: (3H, F) and w_hh: (3H, H), rows in the order r z n.
    b_ih, b_hh: (3H). lengths: (N,). resets: (N, T) bool, where h is put back, to zeros or to h_0. See the
    module's text for the rest.
    """
    active = active_steps(x, lengths)
    restart = restart_steps(x, resets, active, reverse)
    inputs = linear(clear_beyond(x, active), w_ih, b_ih).unbind(1)  # T of (N, 3H)
    h = begin(h_0, lengths)
    h_again = h if reset_to_initial else None
    drawn = draw(noise, stream, x, h_0.shape[-1])
    hiddens: list[Tensor] = []
    gates: list[Tensor] = []
    candidates: list[Tensor] = []
    for t in reading_order(x.shape[1], reverse):
        h = put_back(restart, t, h, h_again)
        r_x, z_x, n_x = inputs[t].chunk(3, dim=-1)
        r_h, z_h, n_h = linear(drop(drawn.recurrent, h), w_hh, b_hh).chunk(3, dim=-1)
        r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        n = torch.tanh(n_x + r * n_h)
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


def rnn(
    x: Tensor,
    h_0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    *,
    nonlinearity: str = "tanh",
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
    noise: Noise | None = None,
    stream: int = 0,
) -> RNNStates:
    """One plain recurrent layer in one direction (Elman 1990), φ = tanh or relu::

        h_t = φ(W x_t + b_ih + R h + b_hh)

    x: (N, T, F). h_0: (N, H). w_ih: (H, F). w_hh: (H, H). b_ih, b_hh: (H). lengths: (N,).
    resets: (N, T) bool, where h is put back, to zeros or to h_0.
    Raises ValueError for another nonlinearity. See the module's text for the rest.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
    activate = torch.tanh if nonlinearity == "tanh" else torch.relu
    active = active_steps(x, lengths)
    restart = restart_steps(x, resets, active, reverse)
    inputs = linear(clear_beyond(x, active), w_ih, b_ih).unbind(1)  # T of (N, H)
    h = begin(h_0, lengths)
    h_again = h if reset_to_initial else None
    drawn = draw(noise, stream, x, h_0.shape[-1])
    hiddens: list[Tensor] = []
    for t in reading_order(x.shape[1], reverse):
        h = put_back(restart, t, h, h_again)
        hidden = activate(inputs[t] + linear(drop(drawn.recurrent, h), w_hh, b_hh))
        hidden = stay(drawn.hidden, t, hidden, h)
        hiddens.append(hidden)
        h = advance(active, t, hidden, h)
    return RNNStates(output=stack_steps(hiddens, h_0, active, reverse), h_n=finish(h, h_0, lengths))


def reading_order(steps: int, reverse: bool) -> range:
    """The steps in the order a direction reads them. Padding comes first in reverse, and is passed over."""
    return range(steps - 1, -1, -1) if reverse else range(steps)


def active_steps(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """(N, T, 1) bool: True where a step lies within its row's length. None when all of them do."""
    if lengths is None:
        return None
    steps = torch.arange(x.shape[1], device=x.device)
    return (steps < lengths.to(x.device).unsqueeze(-1)).unsqueeze(-1)


def restart_steps(x: Tensor, resets: Tensor | None, active: Tensor | None, reverse: bool) -> Tensor | None:
    """(N, T, 1) bool: True where the state is put back just before step t is *read*. None without resets."""
    if resets is None:
        return None
    begins = resets.to(x.device).unsqueeze(-1)
    if active is not None:
        begins = begins & active
    if reverse:  # the piece that begins at step t + 1 has been read when step t is about to be
        begins = torch.cat((begins[:, 1:], torch.zeros_like(begins[:, :1])), dim=1)
    return begins


def clear_beyond(values: Tensor, active: Tensor | None) -> Tensor:
    """`values` (N, T, anything), with zeros for whatever lies beyond a row's length."""
    if active is None:
        return values
    return values.masked_fill(~active.reshape(*active.shape, *[1] * (values.ndim - active.ndim)), 0)


def advance(active: Tensor | None, t: int, new: Tensor, old: Tensor) -> Tensor:
    """`new` (N, H) in the rows for which step t counts, `old` (N, H) in the others."""
    return new if active is None else torch.where(active[:, t], new, old)


def begin(initial: Tensor, lengths: Tensor | None) -> Tensor:
    """The initial state (N, H), zero in rows of no steps: what lies there must not reach any gradient."""
    if lengths is None:
        return initial
    return initial.masked_fill((lengths.to(initial.device) == 0).unsqueeze(-1), 0)


def put_back(restart: Tensor | None, t: int, state: Tensor, initial: Tensor | None) -> Tensor:
    """`state` (N, H), with `initial` (N, H), or zeros where that is None, in rows that restart at step t."""
    if restart is None:
        return state
    # Selecting, not multiplying by zero, which would carry NaN across, forward and backward.
    if initial is None:
        return state.masked_fill(restart[:, t], 0)
    return torch.where(restart[:, t], initial, state)


def finish(state: Tensor, initial: Tensor, lengths: Tensor | None) -> Tensor:
    """The final state (N, H); a row of no steps ends where it began."""
    if lengths is None:
        return state
    return torch.where((lengths.to(initial.device) == 0).unsqueeze(-1), initial, state)


def stack_steps(steps: list[Tensor], like: Tensor, active: Tensor | None, reverse: bool) -> Tensor:
    """(N, T, ...) from a (N, ...) per step in reading order, zero beyond a row's length. `like`: (N, ...)."""
    if not steps:
        return like.unsqueeze(1)[:, :0]
    return clear_beyond(torch.stack(steps[::-1] if reverse else steps, dim=1), active)
