"""One step of each kind of cell, with each gate and cell state shown as it comes about: see `stepping`.

The equations are those of `recurra.engine.cells`, `variants`, `norms` and `slstm`, and of
`recurra.nn.minimal`, where their sources are named; tests hold the two equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recurra.engine.norms import scaled

States: TypeAlias = tuple[Tensor, ...]  # h (N, P|H), and c (N, H) where there is one, (N, 3H) of an sLSTM
See: TypeAlias = Callable[[str, Tensor], Tensor]  # from a name and a value to what goes on in its place


class Step(NamedTuple):
    """What a cell has at one step."""

    x_sums: Tensor  # (N, G·H) W x_t + b_ih; of a cell with LayerNorm W x_t
    h_sums: Tensor  # (N, G·H) R h + b_hh; of a cell with LayerNorm R h; of the minimal ones x_sums again
    states: States  # of the step before
    weights: dict[str, Any]  # by the plain twin's names
    see: See
    # from the new and the old cell state to the one that the hidden state reads and the one carried on
    settle: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _lstm(step: Step) -> States:
    return _four_gates(step, step.x_sums + step.h_sums, torch.tanh)


def _layer_norm_lstm(step: Step) -> States:
    norms = step.weights["norms"]
    x_part = scaled(step.x_sums, norms[:4].flatten(), step.weights["b_ih"])
    h_part = scaled(step.h_sums, norms[4:8].flatten(), step.weights["b_hh"])
    return _four_gates(step, x_part + h_part, lambda cell: torch.tanh(scaled(cell, norms[8], norms[9])))


def _four_gates(step: Step, sums: Tensor, show: Callable[[Tensor], Tensor]) -> States:
    see, c = step.see, step.states[1]
    i, f, g, o = sums.chunk(4, dim=-1)
    i, f = see("input", torch.sigmoid(i)), see("forget", torch.sigmoid(f))
    g, o = see("candidate", torch.tanh(g)), see("output", torch.sigmoid(o))
    read, carried = step.settle(f * c + i * g, c)
    return o * show(read), carried


def _peephole(step: Step) -> States:
    see, c, (p_i, p_f, p_o) = step.see, step.states[1], step.weights["peepholes"].unbind(0)
    i, f, g, o = (step.x_sums + step.h_sums).chunk(4, dim=-1)
    i, f = see("input", torch.sigmoid(i + p_i * c)), see("forget", torch.sigmoid(f + p_f * c))
    g = see("candidate", torch.tanh(g))
    new = f * c + i * g
    read, carried = step.settle(new, c)
    o = see("output", torch.sigmoid(o + p_o * read))
    return o * torch.tanh(read), carried


def _coupled(step: Step) -> States:
    see, c = step.see, step.states[1]
    f, g, o = (step.x_sums + step.h_sums).chunk(3, dim=-1)
    f, g = see("forget", torch.sigmoid(f)), see("candidate", torch.tanh(g))
    o = see("output", torch.sigmoid(o))
    read, carried = step.settle(f * c + (1 - f) * g, c)
    return o * torch.tanh(read), carried


def _refined(step: Step) -> States:
    see, c = step.see, step.states[1]
    f, r, g, o = (step.x_sums + step.h_sums).chunk(4, dim=-1)
    f, r = see("forget", torch.sigmoid(f)), see("refine", torch.sigmoid(r))
    g, o = see("candidate", torch.tanh(g)), see("output", torch.sigmoid(o))
    kept = 2 * r * f + (1 - 2 * r) * f * f
    read, carried = step.settle(kept * c + (1 - kept) * g, c)
    return o * torch.tanh(read), carried


def _slstm(step: Step) -> States:
    see, (c, n, m) = step.see, step.states[1].chunk(3, dim=-1)
    i, f, z, o = (step.x_sums + step.h_sums).chunk(4, dim=-1)
    nothing, kept = n == 0, logsigmoid(f) + m
    now_m = torch.where(nothing, i, torch.maximum(kept, i)).detach()
    f = torch.exp(torch.where(nothing, 0, kept - now_m)).masked_fill(nothing, 0)
    i, f = see("input", torch.exp(i - now_m)), see("forget", f)
    z, o = see("candidate", torch.tanh(z)), see("output", torch.sigmoid(o))
    c, n = f * c + i * z, f * n + i
    # both gates shut leave nothing to divide by: an empty cell, as before the first step
    empty = n == 0
    cell = see("cell", torch.where(empty, 0, c / torch.where(empty, 1, n)))
    return o * cell, torch.cat((cell * n, n, now_m), dim=-1)


def _gru(step: Step) -> States:
    return _three_gates(step, step.x_sums, step.h_sums)


def _layer_norm_gru(step: Step) -> States:
    norms, b_ih, b_hh = (step.weights[name] for name in ("norms", "b_ih", "b_hh"))
    return _three_gates(
        step, _scaled_apart(step.x_sums, norms[:3], b_ih), _scaled_apart(step.h_sums, norms[3:], b_hh)
    )


def _three_gates(step: Step, x_sums: Tensor, h_sums: Tensor) -> States:
    see, (r_x, z_x, n_x), (r_h, z_h, n_h) = step.see, x_sums.chunk(3, dim=-1), h_sums.chunk(3, dim=-1)
    r, z = see("reset", torch.sigmoid(r_x + r_h)), see("update", torch.sigmoid(z_x + z_h))
    n = see("candidate", torch.tanh(n_x + r * n_h))
    return ((1 - z) * n + z * step.states[0],)


def _scaled_apart(sums: Tensor, factors: Tensor, bias: Tensor | None) -> Tensor:
    """A GRU's sums (N, 3H), those of r and z normalised together, those of n by themselves."""
    cut = 2 * factors.shape[-1]
    some, rest = (None, None) if bias is None else (bias[:cut], bias[cut:])
    parts = scaled(sums[:, :cut], factors[:2].flatten(), some), scaled(sums[:, cut:], factors[2], rest)
    return torch.cat(parts, dim=-1)


def _rnn(step: Step, activate: Callable[[Tensor], Tensor]) -> States:
    return (activate(step.x_sums + step.h_sums),)


def _min_gru(step: Step) -> States:
    update, candidate = step.x_sums.chunk(2, dim=-1)
    z, new = step.see("update", torch.sigmoid(update)), step.see("candidate", _positive(candidate))
    return ((1 - z) * step.states[0] + z * new,)


def _min_lstm(step: Step) -> States:
    write, forget, candidate = step.x_sums.chunk(3, dim=-1)
    odds = logsigmoid(forget) - logsigmoid(write)
    i, f = step.see("input", torch.sigmoid(-odds)), step.see("forget", torch.sigmoid(odds))
    return (f * step.states[0] + i * step.see("candidate", _positive(candidate)),)


def _positive(x: Tensor) -> Tensor:
    """The candidate's g (Feng et al. 2024): x + 0.5 for x ≥ 0, σ(x) below."""
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


# Each kind's new states, the hidden one before projection and zoneout.
CELLS: dict[str, Callable[[Step], States]] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": partial(_rnn, activate=torch.tanh),
    "rnn_relu": partial(_rnn, activate=torch.relu),
    "peephole": _peephole,
    "coupled": _coupled,
    "refined": _refined,
    "layer_norm_lstm": _layer_norm_lstm,
    "layer_norm_gru": _layer_norm_gru,
    "slstm": _slstm,
    "min_gru": _min_gru,
    "min_lstm": _min_lstm,
}
