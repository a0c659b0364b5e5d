"""`MLSTM`: an LSTM whose cell state is a matrix that stores values under keys, and is read by queries.

It is the mLSTM of xLSTM (Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", equations 19 to 27),
without the normalisation, convolution and projections of the block that the paper puts around it. Each of
the A heads has E = H / A units, a memory C of its own and one input and one forget gate. W reads the input,
⊙ multiplies number by number, σ is the logistic function; in each head, at each step::

    q_t = W_q x_t + b_q                           query (E)
    k_t = (W_k x_t + b_k) / √E                    key (E)
    v_t = W_v x_t + b_v                           value (E): the candidate, what would be written
    i_t = exp(ĩ_t),  ĩ_t = w_i · x_t + b_i        input gate, a number above 0
    f_t = σ(w_f · x_t + b_f)                      forget gate, a number
    o_t = σ(W_o x_t + b_o)                        output gate (E)
    C_t = f_t C_{t-1} + i_t v_t k_tᵀ              matrix memory (E, E): cell state
    n_t = f_t n_{t-1} + i_t k_t                   normaliser (E)
    h_t = o_t ⊙ C_t q_t / max(|n_t · q_t|, 1)     hidden state (E)

exp(ĩ) overflows, so that C and n are kept divided by exp(m), with a stabiliser m for each head::

    m_t = max(log f_t + m_{t-1}, ĩ_t, 0)
    C'_t = exp(log f_t + m_{t-1} - m_t) C'_{t-1} + exp(ĩ_t - m_t) v_t k_tᵀ,    and n' in the same way
    h_t = o_t ⊙ C'_t q_t / max(|n'_t · q_t|, exp(-m_t))

The floor exp(-m) is that of the authors' code, and makes h exactly that of the equations above, whatever m
is; a floor of 1 beside n', as equation 21 reads when n is taken for n', would make it depend on m. The 0 in
the maximum is ours: with it exp(-m) never overflows, and what is smaller than exp(0) needs no enlarging.
The key's bias is scaled by 1/√E as well, as in the authors' code; the paper adds it after the scaling.

Nothing but the input enters the gates, so that training runs on chunks of time: within a chunk all steps at
once, as attention does, from chunk to chunk by the memory (the chunkwise form of Beck et al. 2025, "Tiled
Flash Linear Attention"). One step alone takes the equations as they stand. Both give the same numbers, so
that what was trained over whole sequences is used step by step, its state carried along.

The call is that of `recurra.nn.LSTM`: `layer(x, hx, lengths=..., resets=..., reset_to_initial=...)` and
`layer.trace(...)`, with the same meaning of each, except that there is no PackedSequence: give `lengths`.

Shapes (axes: see `recurra.types`; A heads, E = H / A): x (T, N, F) or, with `batch_first`, (N, T, F), or
(T, F) for one sequence; output (T, N, D·H), (N, T, D·H) or (T, D·H). hx and its final form are a tuple of C'
(L·D, N, A, E, E), whose rows are the value's and columns the key's, n' (L·D, N, A, E) and m (L·D, N, A);
without N for one sequence. They are float32 where the layer is bfloat16 or float16, else of its dtype.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from recurra.nn.inputs import Lengths
from recurra.nn.minimal import (
    Reading,
    States,
    add_weights,
    checked_call,
    described,
    run,
    state_dtype,
    traces,
)
from recurra.types import LSTM_GATES, Trace

CHUNK = 64  # at most so many steps are computed at once: on a CPU 16 and 128 take longer

HX: TypeAlias = tuple[Tensor, Tensor, Tensor]


class MLSTM(torch.nn.Module):
    """An LSTM with a matrix memory (Beck et al. 2024). The equations: the module's text.

    input_size F, hidden_size H, num_layers L. bias: whether the gates have one. dropout: the share of each
    layer's output but the last's that is zeroed in training. bidirectional: D = 2. heads: A, which divides H.
    Weights: weight_ih_l0 (2A + 4H, F), rows in the order i f q k v o, those of q, k, v and o head by head;
    bias_ih_l0 (2A + 4H); then _l0_reverse, _l1 and so on. They begin uniform in ±1/√F, as `torch.nn.Linear`,
    but the gates i and f as in the authors' code: weights 0, the bias of i normal with deviation 0.1, and
    that of f evenly spaced from 3 to 6 over the heads.
    Raises ValueError or TypeError for sizes and options that torch's layers refuse, and for heads that do
    not divide H.

    For example::

        layer = MLSTM(3, 8, heads=2, batch_first=True)
        output, (C, n, m) = layer(x, lengths=[5, 2])        # x (2, 5, 3), output (2, 5, 8), C (1, 2, 2, 4, 4)
        step, hx = layer(x[:, :1], (C, n, m))               # one step more
        forget = layer.trace(x)[0].gate("forget")           # (2, 5, 8): the same number throughout a head
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        heads: int = 1,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout, self.heads = dropout, heads
        if not isinstance(heads, int) or isinstance(heads, bool):
            raise TypeError(
                f"heads: expected an int, got {heads!r}; give a whole number that divides hidden_size"
            )
        if isinstance(hidden_size, int) and (heads < 1 or hidden_size % heads):
            raise ValueError(
                f"heads: expected a number that divides hidden_size = {hidden_size}, got {heads}; "
                "each head has hidden_size / heads units"
            )
        add_weights(self, 2 * heads + 4 * hidden_size, device, dtype)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                gates = weight[: 2 * heads]
                if name.startswith("weight"):
                    gates.zero_()
                else:
                    gates[:heads].normal_(0, 0.1)
                    gates[heads:] = torch.linspace(3, 6, heads)

    def forward(
        self,
        input: Tensor,
        hx: HX | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Tensor, HX]:
        """The output of the top layer, and the final states (C', n', m) of every layer and direction.

        input: a batch, or one sequence (T, F). hx: the initial states, zeros when None. lengths: (N,),
        resets: (N, T) bool, for a batch only; reset_to_initial: resets put the states back to hx, not to
        zeros. Raises ValueError for lengths or resets that do not fit; RuntimeError for sizes that do not;
        TypeError for a PackedSequence or an hx that is no tuple of three.
        """
        call = checked_call(self, input, hx, self._shapes(), lengths, resets, reset_to_initial)
        output, (memory, normaliser, stabiliser) = run(self, call, partial(_mlstm, heads=self.heads))
        return output, (memory, normaliser, stabiliser)

    def trace(
        self,
        input: Tensor,
        hx: HX | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_to_initial: bool = False,
    ) -> tuple[Trace, ...]:
        """The gates input, forget, candidate (the value) and output, and the hidden state: L·D traces.

        The input gate exp(ĩ) is any positive number, the candidate any number. Each head's input and forget
        gate stands at each of its units. There is no cell state in it: a matrix for each step is too large.
        Arguments and errors are those of `forward`. One sequence (T, F) becomes a batch of one row. Dropout
        is off.
        """
        call = checked_call(self, input, hx, self._shapes(), lengths, resets, reset_to_initial)
        cell, activate = partial(_mlstm, heads=self.heads), partial(_activated, heads=self.heads)
        return traces(self, call, cell, activate, LSTM_GATES)

    def _shapes(self) -> list[tuple[int, ...]]:
        heads, units = self.heads, self.hidden_size // self.heads
        return [(heads, units, units), (heads, units), (heads,)]

    def extra_repr(self) -> str:
        return described(self) + (f", heads={self.heads}" if self.heads != 1 else "")


class HeadInputs(NamedTuple):
    """What the heads of one layer read in one direction, in the order of reading."""

    write: Tensor  # (N, A, T) ĩ, −∞ where a step does not count
    keep: Tensor  # (N, A, T) log f, 0 where a step does not count
    query: Tensor  # (N, A, T, E)
    key: Tensor  # (N, A, T, E), scaled
    value: Tensor  # (N, A, T, E + 1), a one at the end: what is written under it is the normaliser
    restart: Tensor | None  # (N, T) bool: the memory is put back before the step


class Memory(NamedTuple):
    """What a head remembers."""

    table: Tensor  # (N, A, E + 1, E): C' and, as its last row, n'
    m: Tensor  # (N, A)


def _split(gates: Tensor, heads: int) -> tuple[Tensor, ...]:
    """ĩ and f before activation, (N, T, A) each, and query, key, value and output, (N, T, H) each."""
    write, keep = gates[..., :heads], gates[..., heads : 2 * heads]
    return write, keep, *gates[..., 2 * heads :].chunk(4, dim=-1)


def _activated(gates: Tensor, heads: int) -> Tensor:
    """(N, T, 4, H) from (N, T, 2A + 4H)."""
    write, keep, _, _, value, output = _split(gates, heads)
    units = value.shape[-1] // heads
    each = [gate.repeat_interleave(units, dim=-1) for gate in (torch.exp(write), torch.sigmoid(keep))]
    return torch.stack((*each, value, torch.sigmoid(output)), dim=2)


def _mlstm(reading: Reading, heads: int) -> tuple[Tensor, States]:
    """Hidden states (N, T, H) and the final states C', n' and m of one layer in one direction."""
    dtype = reading.gates.dtype
    gates = reading.gates.to(state_dtype(dtype))
    table, normaliser, m = (state.to(gates.dtype) for state in reading.initial)
    initial = Memory(torch.cat((table, normaliser.unsqueeze(-2)), dim=-2), m)
    spoilt = None
    if gates.shape[1] > 1:
        gates, initial, spoilt = _set_aside(gates, initial, reading)
    again = initial if reading.to_initial else Memory(*(torch.zeros_like(state) for state in initial))
    inputs, output = _head_inputs(gates, reading, heads)
    compute = step_by_step if gates.shape[1] == 1 else chunk_by_chunk
    with torch.autocast(gates.device.type, enabled=False):  # its products would forget in bfloat16
        read, end = compute(inputs, initial, again)
    hidden = torch.sigmoid(output) * read.transpose(1, 2).flatten(2)
    if spoilt is not None:
        hidden = hidden.masked_fill(spoilt, math.nan)
        last = spoilt[:, -1]
        end = Memory(
            end.table.masked_fill(last[..., None, None], math.nan), end.m.masked_fill(last, math.nan)
        )
    return hidden.to(dtype), (end.table[..., :-1, :], end.table[..., -1, :], end.m)


def _head_inputs(gates: Tensor, reading: Reading, heads: int) -> tuple[HeadInputs, Tensor]:
    """What the heads read, and the output gate before activation, (N, T, H)."""
    write, keep, query, key, value, output = _split(gates, heads)
    keep = logsigmoid(keep)
    if reading.active is not None:
        write, keep = write.masked_fill(~reading.active, -math.inf), keep.masked_fill(~reading.active, 0)
    by_head = *gates.shape[:2], heads, query.shape[-1] // heads
    query, key, value = (v.reshape(by_head).transpose(1, 2) for v in (query, key, value))
    value = torch.cat((value, torch.ones_like(value[..., :1])), dim=-1)
    restart = None if reading.restart is None else reading.restart.squeeze(-1)
    scaled = key / math.sqrt(key.shape[-1])
    return HeadInputs(write.transpose(1, 2), keep.transpose(1, 2), query, scaled, value, restart), output


def _set_aside(gates: Tensor, initial: Memory, reading: Reading) -> tuple[Tensor, Memory, Tensor]:
    """Gates and initial states without NaN and infinity, and (N, T, 1) bool: what these spoil.

    A chunk's products sum over steps that do not reach one another, with weights of zero, and zero times NaN
    is NaN. So NaN is taken out before, and put back after, from where it stands to the end of the piece.
    """
    bad = ~torch.isfinite(gates).all(-1, keepdim=True)  # (N, T, 1)
    bad_0 = ~(torch.isfinite(initial.table).flatten(1).all(-1) & torch.isfinite(initial.m).all(-1))  # (N,)
    restart, arises = reading.restart, bad
    if restart is not None and reading.to_initial:
        arises = bad | (restart & bad_0[:, None, None])
    count = arises.long().cumsum(1) + bad_0[:, None, None]  # how many up to each step
    if restart is not None:  # how many before the piece that the step is in
        count = count - torch.where(restart, count - arises.long(), 0).cummax(1).values
    clean = Memory(
        initial.table.masked_fill(bad_0[:, None, None, None], 0), initial.m.masked_fill(bad_0[:, None], 0)
    )
    return gates.masked_fill(bad, 0), clean, count > 0


def step_by_step(inputs: HeadInputs, memory: Memory, again: Memory) -> tuple[Tensor, Memory]:
    """C q / max(|n · q|, 1), (N, A, T, E), and the memory after the last step, by the equations themselves.

    again: what a restart puts the memory back to.
    """
    (table, m), reads = memory, []
    for t in range(inputs.query.shape[2]):
        if inputs.restart is not None:
            begins = inputs.restart[:, t, None]
            table = torch.where(begins[..., None, None], again.table, table)
            m = torch.where(begins, again.m, m)
        kept, write = inputs.keep[..., t] + m, inputs.write[..., t]
        m = torch.maximum(kept, write).clamp(min=0)
        written = inputs.value[:, :, t, :, None] * inputs.key[:, :, t, None, :]
        table = _wide(torch.exp(kept - m)) * table + _wide(torch.exp(write - m)) * written
        reads.append(_normalised((table @ inputs.query[:, :, t, :, None]).squeeze(-1), m))
    return torch.stack(reads, dim=2), Memory(table, m)


def chunk_by_chunk(
    inputs: HeadInputs, memory: Memory, again: Memory, size: int = CHUNK
) -> tuple[Tensor, Memory]:
    """What `step_by_step` returns, chunks of `size` steps at a time.

    Within a chunk, with F_t the sum of log f up to step t, step t reads what step s wrote with the weight
    exp(F_t − F_s + ĩ_s − m_t), and the memory that the chunk began with by exp(F_t + m − m_t).
    """
    steps = inputs.query.shape[2]
    size = -(-steps // -(-steps // size))  # as few chunks as there must be, as even as they can be
    write, keep, query, key, value, restart = _chunks(inputs, size)
    reaches = torch.ones(size, size, dtype=torch.bool, device=query.device).tril()  # (t, s)
    crossed = None
    if restart is not None:
        piece = restart.cumsum(-1)  # (N, 1, chunks, size)
        reaches = reaches & (piece.unsqueeze(-1) == piece.unsqueeze(-2))
        crossed = piece > 0
    # F within the piece alone: a gradient that passed the restart and came back would leave a rounding error
    since = (reaches.to(keep.dtype) @ keep.unsqueeze(-1)).squeeze(-1)
    decay = since.unsqueeze(-1) - since.unsqueeze(-2) + write.unsqueeze(-2)
    decay = decay.masked_fill(~reaches, -math.inf)  # (N, A, chunks, t, s)
    starts, end = _chain(since[..., -1], decay[..., -1, :], key, value, memory, again, crossed)
    read = query @ starts.table.transpose(-1, -2)  # (N, A, chunks, size, E + 1)
    m = starts.m.unsqueeze(-1)
    if crossed is not None:
        anew = query @ again.table.unsqueeze(2).transpose(-1, -2)
        read = torch.where(crossed.unsqueeze(-1), anew, read)
        m = torch.where(crossed, again.m[..., None, None], m)
    # The result does not depend on the stabiliser, so that no gradient need go through it.
    top = torch.maximum(since + m, decay.amax(-1)).clamp(min=0).detach()
    weights = (query @ key.transpose(-1, -2)) * torch.exp(decay - top.unsqueeze(-1))
    read = weights @ value + torch.exp(since + m - top).unsqueeze(-1) * read
    return _normalised(read, top).flatten(2, 3)[:, :, :steps], end


def _chunks(inputs: HeadInputs, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The inputs with (chunks, size) in the place of T; the last is filled up with no writing."""
    steps = inputs.query.shape[2]
    chunks, more = -(-steps // size), -steps % size

    def cut(filled: Tensor, axis: int) -> Tensor:
        return torch.unflatten(filled, axis, (chunks, size))

    write, keep = cut(pad(inputs.write, (0, more), value=-math.inf), 2), cut(pad(inputs.keep, (0, more)), 2)
    query, key, value = (cut(pad(v, (0, 0, 0, more)), 2) for v in (inputs.query, inputs.key, inputs.value))
    restart = inputs.restart
    if restart is not None:
        restart = cut(pad(restart, (0, more)), 1).unsqueeze(1)
    return write, keep, query, key, value, restart


def _chain(
    kept: Tensor,
    last: Tensor,
    key: Tensor,
    value: Tensor,
    memory: Memory,
    again: Memory,
    crossed: Tensor | None,
) -> tuple[Memory, Memory]:
    """The memory that each chunk begins with, (N, A, chunks, ...), and the one after the last.

    kept: (N, A, chunks), the logarithm of what a chunk keeps of the memory from before it, or from before
    its last restart. last: (N, A, chunks, size), that of the weights with which its steps are in the memory
    at its end.
    """
    tops = last.amax(-1).clamp(min=0)
    weighted = torch.exp(last - tops.unsqueeze(-1)).unsqueeze(-1) * value
    written = weighted.transpose(-1, -2) @ key  # (N, A, chunks, E + 1, E)
    (table, m), tables, stabilisers = memory, [], []
    for chunk in range(kept.shape[2]):
        tables.append(table)
        stabilisers.append(m)
        if crossed is not None:
            begins = crossed[:, :, chunk, -1]
            table = torch.where(begins[..., None, None], again.table, table)
            m = torch.where(begins, again.m, m)
        past, new = kept[..., chunk] + m, tops[..., chunk]
        m = torch.maximum(past, new)
        table = _wide(torch.exp(past - m)) * table + _wide(torch.exp(new - m)) * written[:, :, chunk]
    return Memory(torch.stack(tables, dim=2), torch.stack(stabilisers, dim=2)), Memory(table, m)


def _wide(number: Tensor) -> Tensor:
    """(N, A, 1, 1), to multiply a table with, from (N, A)."""
    return number[..., None, None]


def _normalised(read: Tensor, m: Tensor) -> Tensor:
    """C' q / max(|n' · q|, exp(−m)), (..., E), from both products, (..., E + 1), and m (...)."""
    floor = torch.exp(-m).clamp(min=1e-30).unsqueeze(-1)  # 0 / 0 without it, for a query of zeros and large m
    return read[..., :-1] / torch.maximum(read[..., -1:].abs(), floor)
