"""Backpropagation through time of each cell, derived by hand, in matrix form.

Werbos (1990) has the method, Greff et al. (2017, §II) the LSTM's. Every backward pass here goes the same way:

1. The gradient of the loss with respect to a step's hidden state, dh_t, is what the loss asks of that step's
   output plus what the step read next passes back.
2. A loop from the step read last to the step read first turns dh_t into δ_t, the gradient with respect to the
   gates before their activation, (N, G·H), and passes δ_t R back to the step before.
3. After the loop one product per weight, over all N·T steps at once: dW = Σ δ_t ᵀ x_t, dR = Σ δ_t ᵀ h_{t-1},
   db = Σ δ_t and dx_t = δ_t W.

Each function takes the states that its forward pass in `recurra.engine.cells` returned, then the gradients
with respect to the output (N, T, P|H) and the final states (N, P|H), then that forward pass's own arguments.
h_{t-1} below is the hidden state of the step *read* before, whichever the direction. `docs/lstm.md` derives
it all.

Where `resets` put the state back before step t is read, h_{t-1} and c_{t-1} are what it was put back to, and
what step t passes back goes there: nowhere if that is zeros, into dh_0 and dc_0 if it is the initial state,
which then sum over every such step. The step read before gets exactly zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recurra.engine.cells import (
    GRUStates,
    LSTMStates,
    RNNStates,
    active_steps,
    advance,
    clear_beyond,
    reading_order,
    restart_steps,
    stack_steps,
)


class LSTMGradients(NamedTuple):
    """Gradients of the loss with respect to each argument of `lstm`, in its shape."""

    x: Tensor  # (N, T, F)
    h_0: Tensor  # (N, P|H)
    c_0: Tensor  # (N, H)
    w_ih: Tensor  # (4H, F)
    w_hh: Tensor  # (4H, P|H)
    bias: Tensor  # (4H) of b_ih and of b_hh, since they are added
    w_hr: Tensor | None  # (P, H), None without a projection


class GRUGradients(NamedTuple):
    """Gradients of the loss with respect to each argument of `gru`, in its shape."""

    x: Tensor  # (N, T, F)
    h_0: Tensor  # (N, H)
    w_ih: Tensor  # (3H, F)
    w_hh: Tensor  # (3H, H)
    b_ih: Tensor  # (3H)
    b_hh: Tensor  # (3H) differs from b_ih in the candidate's part, which the reset gate multiplies


class RNNGradients(NamedTuple):
    """Gradients of the loss with respect to each argument of `rnn`, in its shape."""

    x: Tensor  # (N, T, F)
    h_0: Tensor  # (N, H)
    w_ih: Tensor  # (H, F)
    w_hh: Tensor  # (H, H)
    bias: Tensor  # (H) of b_ih and of b_hh, since they are added


def lstm_backward(
    states: LSTMStates,
    d_output: Tensor,
    d_h_n: Tensor,
    d_c_n: Tensor,
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    *,
    w_hr: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
) -> LSTMGradients:
    """Backward pass of `lstm`. At each step, from the step read last to the step read first::

        dm_t = dh_t                                        with a projection, dm_t = dh_t W_hr
        do_t = dm_t ⊙ tanh(c_t)                            δo_t = do_t ⊙ o_t ⊙ (1 - o_t)
        dc_t = dc_t + dm_t ⊙ o_t ⊙ (1 - tanh²(c_t))        dc_t on the right: from the step read next
        di_t = dc_t ⊙ g_t                                  δi_t = di_t ⊙ i_t ⊙ (1 - i_t)
        df_t = dc_t ⊙ c_{t-1}                              δf_t = df_t ⊙ f_t ⊙ (1 - f_t)
        dg_t = dc_t ⊙ i_t                                  δg_t = dg_t ⊙ (1 - g_t²)
        dh_{t-1} = d_output_{t-1} + δ_t R                  dc_{t-1} = dc_t ⊙ f_t

    and then, beside the products in the module's text, dW_hr = Σ dh_t ᵀ (o_t ⊙ tanh(c_t)).
    d_output: (N, T, P|H). d_h_n: (N, P|H). d_c_n: (N, H). The rest as in `lstm`.
    """
    active = active_steps(x, lengths)
    restart = restart_steps(x, resets, active, reverse)
    h_again, c_again = (h_0, c_0) if reset_to_initial else (None, None)
    h_before = states_before(states.output, h_0, active, reverse, restart, h_again)
    c_before = states_before(states.cell, c_0, active, reverse, restart, c_again)
    tanh_c = torch.tanh(states.cell)
    dh_next, dc_next = d_h_n, d_c_n
    dh_again, dc_again = torch.zeros_like(h_0), torch.zeros_like(c_0)
    deltas: list[Tensor] = []
    d_hiddens: list[Tensor] = []
    for t in reversed(reading_order(x.shape[1], reverse)):
        i, f, g, o = states.gates[:, t].unbind(1)
        dh = d_output[:, t] + dh_next
        dm = dh if w_hr is None else dh @ w_hr
        dc = dc_next + dm * o * (1 - tanh_c[:, t] ** 2)
        delta_i = dc * g * i * (1 - i)
        delta_f = dc * c_before[:, t] * f * (1 - f)
        delta_g = dc * i * (1 - g**2)
        delta_o = dm * tanh_c[:, t] * o * (1 - o)
        deltas.append(torch.cat((delta_i, delta_f, delta_g, delta_o), dim=1))
        d_hiddens.append(dh)
        dh_next = advance(active, t, deltas[-1] @ w_hh, dh_next)
        dc_next = advance(active, t, dc * f, dc_next)
        dh_next, dh_again = part_at_restart(restart, t, dh_next, dh_again)
        dc_next, dc_again = part_at_restart(restart, t, dc_next, dc_again)

    delta = stack_steps(deltas, c_0.repeat(1, 4), active, not reverse)  # (N, T, 4H)
    d_w_hr = None
    if w_hr is not None:
        d_hidden = stack_steps(d_hiddens, h_0, active, not reverse)
        d_w_hr = over_all_steps(d_hidden, states.gates[:, :, 3] * tanh_c)
    return LSTMGradients(
        x=delta @ w_ih,
        h_0=dh_next + dh_again if reset_to_initial else dh_next,
        c_0=dc_next + dc_again if reset_to_initial else dc_next,
        w_ih=over_all_steps(delta, clear_beyond(x, active)),
        w_hh=over_all_steps(delta, h_before),
        bias=delta.sum((0, 1)),
        w_hr=d_w_hr,
    )


def gru_backward(
    states: GRUStates,
    d_output: Tensor,
    d_h_n: Tensor,
    x: Tensor,
    h_0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
) -> GRUGradients:
    """Backward pass of `gru`. With q_t = R_n h_{t-1} + b_hn, at each step, from the last read to the first::

        dz_t = dh_t ⊙ (h_{t-1} - n_t)       δz_t = dz_t ⊙ z_t ⊙ (1 - z_t)
        dn_t = dh_t ⊙ (1 - z_t)             δn_t = dn_t ⊙ (1 - n_t²)
        dr_t = δn_t ⊙ q_t                   δr_t = dr_t ⊙ r_t ⊙ (1 - r_t)
        dq_t = δn_t ⊙ r_t
        dh_{t-1} = d_output_{t-1} + dh_t ⊙ z_t + [δr_t δz_t dq_t] R

    The input's weights and bias see δ = [δr δz δn], the recurrent ones ε = [δr δz dq].
    d_output: (N, T, H). d_h_n: (N, H). The rest as in `gru`.
    """
    active = active_steps(x, lengths)
    restart = restart_steps(x, resets, active, reverse)
    h_again = h_0 if reset_to_initial else None
    h_before = states_before(states.output, h_0, active, reverse, restart, h_again)
    dh_next, dh_again = d_h_n, torch.zeros_like(h_0)
    deltas: list[Tensor] = []
    epsilons: list[Tensor] = []
    for t in reversed(reading_order(x.shape[1], reverse)):
        r, z, n = states.gates[:, t].unbind(1)
        dh = d_output[:, t] + dh_next
        delta_z = dh * (h_before[:, t] - n) * z * (1 - z)
        delta_n = dh * (1 - z) * (1 - n**2)
        delta_r = delta_n * states.recurrent_candidate[:, t] * r * (1 - r)
        deltas.append(torch.cat((delta_r, delta_z, delta_n), dim=1))
        epsilons.append(torch.cat((delta_r, delta_z, delta_n * r), dim=1))
        dh_next = advance(active, t, dh * z + epsilons[-1] @ w_hh, dh_next)
        dh_next, dh_again = part_at_restart(restart, t, dh_next, dh_again)

    delta = stack_steps(deltas, h_0.repeat(1, 3), active, not reverse)  # (N, T, 3H)
    epsilon = stack_steps(epsilons, h_0.repeat(1, 3), active, not reverse)
    return GRUGradients(
        x=delta @ w_ih,
        h_0=dh_next + dh_again if reset_to_initial else dh_next,
        w_ih=over_all_steps(delta, clear_beyond(x, active)),
        w_hh=over_all_steps(epsilon, h_before),
        b_ih=delta.sum((0, 1)),
        b_hh=epsilon.sum((0, 1)),
    )


def rnn_backward(
    states: RNNStates,
    d_output: Tensor,
    d_h_n: Tensor,
    x: Tensor,
    h_0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    *,
    nonlinearity: str = "tanh",
    lengths: Tensor | None = None,
    reverse: bool = False,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
) -> RNNGradients:
    """Backward pass of `rnn`. At each step, from the step read last to the step read first::

        δ_t = dh_t ⊙ (1 - h_t²)             with relu, δ_t = dh_t where h_t > 0, otherwise 0
        dh_{t-1} = d_output_{t-1} + δ_t R

    d_output: (N, T, H). d_h_n: (N, H). The rest as in `rnn`. Raises ValueError for another nonlinearity.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
    active = active_steps(x, lengths)
    restart = restart_steps(x, resets, active, reverse)
    h = states.output
    h_before = states_before(h, h_0, active, reverse, restart, h_0 if reset_to_initial else None)
    slope = 1 - h**2 if nonlinearity == "tanh" else (h > 0).to(h.dtype)
    dh_next, dh_again = d_h_n, torch.zeros_like(h_0)
    deltas: list[Tensor] = []
    for t in reversed(reading_order(x.shape[1], reverse)):
        deltas.append((d_output[:, t] + dh_next) * slope[:, t])
        dh_next = advance(active, t, deltas[-1] @ w_hh, dh_next)
        dh_next, dh_again = part_at_restart(restart, t, dh_next, dh_again)

    delta = stack_steps(deltas, h_0, active, not reverse)  # (N, T, H)
    return RNNGradients(
        x=delta @ w_ih,
        h_0=dh_next + dh_again if reset_to_initial else dh_next,
        w_ih=over_all_steps(delta, clear_beyond(x, active)),
        w_hh=over_all_steps(delta, h_before),
        bias=delta.sum((0, 1)),
    )


def part_at_restart(
    restart: Tensor | None, t: int, d_state: Tensor, d_again: Tensor
) -> tuple[Tensor, Tensor]:
    """What step t passes back, `d_state` (N, H), parted: to the step read before, and to what was put back.

    `d_again` (N, H) is the sum so far of the second.
    """
    if restart is None:
        return d_state, d_again
    return d_state.masked_fill(restart[:, t], 0), d_again + d_state.masked_fill(~restart[:, t], 0)


def states_before(
    states: Tensor,
    initial: Tensor,
    active: Tensor | None,
    reverse: bool,
    restart: Tensor | None,
    again: Tensor | None,
) -> Tensor:
    """(N, T, H): at index t the state that step t read.

    That is the state of the step read before; `initial` (N, H) where t is read first; and where the state was
    put back, `again` (N, H), or zeros if that is None.
    """
    steps = states.shape[1]
    if steps == 0:
        return states
    first = initial.unsqueeze(1)
    if not reverse:
        before = torch.cat((first, states[:, :-1]), dim=1)
    elif active is None:
        before = torch.cat((states[:, 1:], first), dim=1)
    else:
        # False at a row's last step
        after = torch.cat((active[:, 1:], torch.zeros_like(active[:, :1])), dim=1)
        shifted = torch.cat((states[:, 1:], torch.zeros_like(first)), dim=1)
        before = torch.where(after, shifted, first)
    if restart is not None:
        put_back = torch.zeros_like(first) if again is None else again.unsqueeze(1)
        before = torch.where(restart, put_back, before)
    return clear_beyond(before, active)


def over_all_steps(left: Tensor, right: Tensor) -> Tensor:
    """Σ over all N·T steps of leftᵀ right: (N, T, A) and (N, T, B) to (A, B), as one product."""
    return left.flatten(0, 1).mT @ right.flatten(0, 1)
