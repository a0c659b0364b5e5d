"""Attention for recurrent decoders: which steps of a memory a decoder looks at, and what it reads there.

Four classes with one call. They differ in the score of a decoder's state, the query, with each key:

* `AdditiveAttention` (Bahdanau et al. 2015): v · tanh(W q + U k + b);
* `DotAttention` (Luong et al. 2015): q · k;
* `GeneralAttention` (Luong et al. 2015): q · W k;
* `LocationAttention` (Chorowski et al. 2015): additive, and sees where it looked before.

`context, weights = attention(query, keys, values, lengths=lengths)`: the weights are the softmax of the
scores over time, the context is the sum of the values times their weights. Keys are most often an encoder's
output. Which of them may be attended to is told by `lengths`, (N,) in any order with zero allowed, by `mask`,
(N, T) bool and True where a step may be attended to, or by both: then where both allow it. Elsewhere the
weights are zero, and what keys and values hold there, NaN included, reaches no result and no gradient. A row
with nothing to attend to has zero weights and a zero context.

A decoder that goes step by step prepares the memory once, and gives it in the place of the keys. What is
computed from the keys alone is then computed once, and lengths and mask are looked at once::

    memory = attention.memory(keys, lengths=lengths)
    for query in queries:
        context, weights = attention(query, memory)

Shapes, with N and T of `recurra.types`, U decoder steps, and Q, K, V and A, the sizes of a query, a key, a
value and of the space in which an additive score compares queries with keys: query (N, Q), or (N, U, Q) for
many steps at once; keys (N, T, K); values (N, T, V), the keys when None; context (N, V) and weights (N, T),
or (N, U, V) and (N, U, T). Step by step or together, the numbers are the same.

Sources: Bahdanau, Cho and Bengio, "Neural machine translation by jointly learning to align and translate",
2015. Luong, Pham and Manning, "Effective approaches to attention-based neural machine translation", 2015.
Chorowski, Bahdanau, Serdyuk, Cho and Bengio, "Attention-based models for speech recognition", 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra.engine.cells import clear_beyond
from recurra.nn.inputs import Lengths, checked_lengths


class Memory(NamedTuple):
    """What a decoder attends to, prepared once for all of its steps by an attention's `memory`."""

    keys: Tensor  # (N, T, K), or (N, T, A) projected, as the attention compares them with a query
    values: Tensor  # (N, T, V), zero where they may not be attended to
    valid: Tensor | None  # (N, T) bool, True where they may be; None: everywhere

    def select(self, rows: Tensor) -> Memory:
        """The memory of these rows, (M,) in any order: for a beam search, which repeats some."""
        valid = None if self.valid is None else self.valid.index_select(0, rows)
        return Memory(self.keys.index_select(0, rows), self.values.index_select(0, rows), valid)


def masked_softmax(scores: Tensor, valid: Tensor | None) -> Tensor:
    """The softmax over the last axis among the places where `valid` is True, and zero in all others.

    scores: (..., T); what they hold where not valid reaches neither the result nor a gradient. valid: bool,
    of a shape that broadcasts to that of the scores, or None: everywhere. Nothing valid gives zeros.

    For example::

        valid = torch.tensor([[True, True, False], [False, False, False]])
        weights = masked_softmax(torch.zeros(2, 3), valid)
        assert weights.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    if valid is None:
        return scores.softmax(-1)
    empty = ~valid.any(-1, keepdim=True)
    # −∞ gives a weight of exactly zero beside any finite score, but NaN where there is nothing else.
    safe = scores.masked_fill(~valid, float("-inf")).masked_fill(empty, 0)
    return safe.softmax(-1).masked_fill(empty, 0)


class AdditiveAttention(torch.nn.Module):
    """Attention by a small network: score = v · tanh(W q + U k + b) (Bahdanau et al. 2015, section A.1.2).

    The paper leaves out biases; b is that of Chorowski et al. 2015, and `bias=False` goes without. A call
    with U steps at once holds N·U·T·A numbers for backward.

    For example::

        attention = AdditiveAttention(query_size=8, key_size=6, attention_size=7)
        keys = torch.randn(2, 5, 6)
        memory = attention.memory(keys, lengths=[5, 3])
        context, weights = attention(torch.randn(2, 8), memory)      # (2, 6), (2, 5)
        contexts, _ = attention(torch.randn(2, 4, 8), memory)      # four steps at once: (2, 4, 6)
    """

    def __init__(self, query_size: int, key_size: int, attention_size: int, *, bias: bool = True) -> None:
        """query_size: Q. key_size: K. attention_size: A. Raises ValueError for a size less than 1."""
        super().__init__()
        check_sizes(query_size=query_size, key_size=key_size, attention_size=attention_size)
        self.query_size, self.key_size, self.attention_size = query_size, key_size, attention_size
        self.query = torch.nn.Linear(query_size, attention_size, bias=bias)
        self.key = torch.nn.Linear(key_size, attention_size, bias=False)
        self.score = torch.nn.Linear(attention_size, 1, bias=False)

    def memory(
        self,
        keys: Tensor,
        values: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        mask: Tensor | None = None,
    ) -> Memory:
        """Keys and values prepared for any number of calls. Raises ValueError for what does not fit."""
        plain = _plain_memory(keys, values, lengths, mask, self.key_size)
        return plain._replace(keys=self.key(plain.keys))

    def forward(
        self,
        query: Tensor,
        keys: Tensor | Memory,
        values: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(context, weights); the module's text has the shapes. Raises ValueError for what does not fit."""
        memory = _prepared(self.memory, keys, values, lengths, mask, self.attention_size)
        steps = self.query(_query_steps(query, self.query_size, memory))
        return _read(query, _weights(_additive_scores(self.score, steps, memory.keys), memory), memory)


class DotAttention(torch.nn.Module):
    """Attention by the scalar product: score = q · k (Luong et al. 2015, eq. 8, "dot"). It has no weights.

    Queries and keys are of one size, Q = K. `scaled=True` divides the scores by √K, so that they do not grow
    with the size (Vaswani et al., "Attention is all you need", 2017, eq. 1).

    For example::

        attention = DotAttention(scaled=True)
        keys, values = torch.randn(2, 5, 6), torch.randn(2, 5, 3)
        context, weights = attention(torch.randn(2, 6), keys, values, lengths=[5, 0])      # (2, 3), (2, 5)
        assert (context[1] == 0).all() and (weights[1] == 0).all()
    """

    def __init__(self, *, scaled: bool = False) -> None:
        """scaled: divide the scores by √K."""
        super().__init__()
        self.scaled = scaled

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"scaled={self.scaled}"

    def memory(
        self,
        keys: Tensor,
        values: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        mask: Tensor | None = None,
    ) -> Memory:
        """Keys and values prepared for any number of calls. Raises ValueError for what does not fit."""
        return _plain_memory(keys, values, lengths, mask, None)

    def forward(
        self,
        query: Tensor,
        keys: Tensor | Memory,
        values: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(context, weights); the module's text has the shapes. Raises ValueError for what does not fit."""
        memory = _prepared(self.memory, keys, values, lengths, mask, None)
        size = memory.keys.shape[-1]
        steps = _query_steps(query, size, memory)
        if self.scaled:
            steps = steps * size**-0.5
        return _read(query, _weights(steps @ memory.keys.transpose(1, 2), memory), memory)


class GeneralAttention(torch.nn.Module):
    """Attention by a bilinear form: score = q · W k (Luong et al. 2015, eq. 8, "general").

    It is computed as (Wᵀ q) · k: a step projects its one query, no key is ever projected, and the memory
    holds nothing beside the keys.

    For example::

        attention = GeneralAttention(query_size=8, key_size=6)
        mask = torch.tensor([[True, False, True, True, False], [False, True, True, False, False]])
        context, weights = attention(torch.randn(2, 8), torch.randn(2, 5, 6), mask=mask)      # (2, 6), (2, 5)
        assert (weights[~mask] == 0).all()
    """

    def __init__(self, query_size: int, key_size: int) -> None:
        """query_size: Q. key_size: K. Raises ValueError for a size less than 1."""
        super().__init__()
        check_sizes(query_size=query_size, key_size=key_size)
        self.query_size, self.key_size = query_size, key_size
        self.query = torch.nn.Linear(query_size, key_size, bias=False)

    def memory(
        self,
        keys: Tensor,
        values: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        mask: Tensor | None = None,
    ) -> Memory:
        """Keys and values prepared for any number of calls. Raises ValueError for what does not fit."""
        return _plain_memory(keys, values, lengths, mask, self.key_size)

    def forward(
        self,
        query: Tensor,
        keys: Tensor | Memory,
        values: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(context, weights); the module's text has the shapes. Raises ValueError for what does not fit."""
        memory = _prepared(self.memory, keys, values, lengths, mask, self.key_size)
        steps = self.query(_query_steps(query, self.query_size, memory))
        return _read(query, _weights(steps @ memory.keys.transpose(1, 2), memory), memory)


class LocationAttention(torch.nn.Module):
    """Additive attention that sees where it looked before (Chorowski et al. 2015, eqs. 8 and 9).

    score = v · tanh(W q + U k + L f + b), where f are `channels` filters, `kernel_size` steps wide, run over
    the weights of the decoder step before; with `cumulative=True` over the sum of the weights of all steps
    before. So it learns to move on, and not to read a passage twice. The sum, 32 channels and 31 steps are
    those of Shen et al., "Natural TTS synthesis by conditioning WaveNet on mel spectrogram predictions",
    2018.

    The module keeps no state: whoever decodes step by step hands on `past`. U steps in one call hand it on
    themselves, one after the other.

    For example::

        attention = LocationAttention(query_size=8, key_size=6, attention_size=7, channels=3, kernel_size=5)
        memory, past = attention.memory(torch.randn(2, 9, 6), lengths=[9, 4]), None
        for query in torch.randn(3, 2, 8):
            context, weights = attention(query, memory, past=past)      # (2, 6), (2, 9)
            past = attention.next_past(past, weights)
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        attention_size: int,
        channels: int = 32,
        kernel_size: int = 31,
        *,
        cumulative: bool = False,
        bias: bool = True,
    ) -> None:
        """query_size: Q. key_size: K. attention_size: A. kernel_size: in steps of the keys, odd.

        Raises ValueError for a size less than 1, and for an even kernel_size.
        """
        super().__init__()
        check_sizes(query_size=query_size, key_size=key_size, attention_size=attention_size)
        check_sizes(channels=channels, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(
                "kernel_size: expected an odd number, so that a step stands in the middle of what its filter "
                f"sees, got {kernel_size}; give {kernel_size - 1} or {kernel_size + 1}"
            )
        self.query_size, self.key_size, self.attention_size = query_size, key_size, attention_size
        self.cumulative = cumulative
        self.query = torch.nn.Linear(query_size, attention_size, bias=bias)
        self.key = torch.nn.Linear(key_size, attention_size, bias=False)
        self.filters = torch.nn.Conv1d(1, channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.location = torch.nn.Linear(channels, attention_size, bias=False)
        self.score = torch.nn.Linear(attention_size, 1, bias=False)

    def extra_repr(self) -> str:
        """What `repr` shows besides the parts."""
        return f"cumulative={self.cumulative}"

    def memory(
        self,
        keys: Tensor,
        values: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        mask: Tensor | None = None,
    ) -> Memory:
        """Keys and values prepared for any number of calls. Raises ValueError for what does not fit."""
        plain = _plain_memory(keys, values, lengths, mask, self.key_size)
        return plain._replace(keys=self.key(plain.keys))

    def next_past(self, past: Tensor | None, weights: Tensor) -> Tensor:
        """`past` (N, T) of the step after the one or more that had these weights, (N, T) or (N, U, T).

        past: what that step, or the first of them, was given.
        """
        steps = weights.unsqueeze(1) if weights.dim() == 2 else weights
        if not self.cumulative:
            return steps[:, -1]
        total = steps.sum(1)
        return total if past is None else past + total

    def forward(
        self,
        query: Tensor,
        keys: Tensor | Memory,
        values: Tensor | None = None,
        *,
        past: Tensor | None = None,
        lengths: Lengths | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(context, weights); the module's text has the shapes. Raises ValueError for what does not fit.

        past: (N, T), what `next_past` gave after the step before; None before the first step: zeros.
        """
        memory = _prepared(self.memory, keys, values, lengths, mask, self.attention_size)
        projected: Tensor = self.query(_query_steps(query, self.query_size, memory))
        if past is None:
            past = memory.keys.new_zeros(memory.keys.shape[:2])
        past = clear_beyond(_checked_past(past, memory), memory.valid)
        weights = []
        for step in projected.unbind(1):
            seen = self.location(self.filters(past.unsqueeze(1)).transpose(1, 2))  # (N, T, A)
            scores = _additive_scores(self.score, step.unsqueeze(1), memory.keys + seen)
            weights.append(_weights(scores, memory))
            past = self.next_past(past, weights[-1])
        return _read(query, torch.cat(weights, dim=1), memory)


def _additive_scores(score: torch.nn.Linear, queries: Tensor, keys: Tensor) -> Tensor:
    """(N, U, T) from projected queries (N, U, A) and keys (N, T, A)."""
    scores: Tensor = score(torch.tanh(queries.unsqueeze(2) + keys.unsqueeze(1)))
    return scores.squeeze(-1)


def _weights(scores: Tensor, memory: Memory) -> Tensor:
    """The weights (N, U, T) of scores (N, U, T)."""
    return masked_softmax(scores, None if memory.valid is None else memory.valid.unsqueeze(1))


def _read(query: Tensor, weights: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """The context of weights (N, U, T), and these, both without U where the query had none."""
    context = weights @ memory.values
    return (context.squeeze(1), weights.squeeze(1)) if query.dim() == 2 else (context, weights)


def _prepared(
    memory: Callable[..., Memory], keys: Any, values: Any, lengths: Any, mask: Any, size: int | None
) -> Memory:
    """The memory that was given in the place of keys, or one made of them. size: of its keys, or None."""
    if not isinstance(keys, Memory):
        return memory(keys, values, lengths=lengths, mask=mask)
    for name, value in (("values", values), ("lengths", lengths), ("mask", mask)):
        if value is not None:
            raise ValueError(
                f"{name}: expected None beside a Memory, which has its own, got {_form(value)}; "
                f"give {name} to memory(), where the memory is made"
            )
    if size is not None and keys.keys.shape[-1] != size:
        raise ValueError(
            f"keys: expected a Memory that this attention made, with keys of size {size}, got one with keys "
            f"of size {keys.keys.shape[-1]}; make it with the memory() of this attention"
        )
    return keys


def _plain_memory(keys: Any, values: Any, lengths: Any, mask: Any, size: int | None) -> Memory:
    """Keys and values, checked, with zeros where they may not be attended to. size: K, or None for any."""
    wanted = "K" if size is None else f"K = {size}"
    fits = isinstance(keys, Tensor) and keys.dim() == 3 and size in (None, keys.shape[-1])
    if not fits or keys.shape[1] == 0:
        raise ValueError(
            f"keys: expected (N, T, K) with {wanted} and one step or more, got {_form(keys)}; "
            "give an encoder's output, batch first, or a Memory"
        )
    if values is not None and not (
        isinstance(values, Tensor) and values.dim() == 3 and values.shape[:2] == keys.shape[:2]
    ):
        raise ValueError(
            f"values: expected (N, T, V) with (N, T) = {tuple(keys.shape[:2])} as the keys have, "
            f"got {_form(values)}; give one value for each key, or None for the keys themselves"
        )
    valid = None
    if lengths is not None:
        valid = valid_steps(checked_lengths(lengths, keys, "keys"), keys)
    if mask is not None:
        allowed = _checked_mask(mask, keys)
        valid = allowed if valid is None else valid & allowed
    cleared = clear_beyond(keys, valid)
    return Memory(cleared, cleared if values is None else clear_beyond(values, valid), valid)


def _query_steps(query: Any, size: int, memory: Memory) -> Tensor:
    """The query as (N, U, Q), checked."""
    rows = memory.keys.shape[0]
    if isinstance(query, Tensor) and query.dim() in (2, 3) and 0 not in query.shape[1:]:
        steps = query.unsqueeze(1) if query.dim() == 2 else query
        if steps.shape[0] == rows and steps.shape[2] == size:
            return steps
    raise ValueError(
        f"query: expected (N, Q) = ({rows}, {size}), or (N, U, Q) with one decoder step or more, "
        f"got {_form(query)}; give the decoder's hidden state for each row of the keys (of a layer: h_n[-1])"
    )


def _checked_past(past: Any, memory: Memory) -> Tensor:
    shape = memory.keys.shape[:2]
    if not isinstance(past, Tensor) or past.shape != shape:
        raise ValueError(
            f"past: expected (N, T) = {tuple(shape)}, a weight for each key, got {_form(past)}; "
            "give what next_past() gave after the step before, or None before the first step"
        )
    return past


def _checked_mask(mask: Any, keys: Tensor) -> Tensor:
    """The mask (N, T) on the device of the keys."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise ValueError(
            "mask: expected a tensor of torch.bool, True where a step may be attended to, got "
            f"{mask.dtype if isinstance(mask, Tensor) else _form(mask)}; "
            "convert it with torch.as_tensor(mask, dtype=torch.bool)"
        )
    if mask.shape != keys.shape[:2]:
        raise ValueError(
            f"mask: expected (N, T) = {tuple(keys.shape[:2])} as the keys have, got {_form(mask)}; "
            "give one truth value for each key, the same for all decoder steps"
        )
    return mask.to(keys.device)


def _form(value: Any) -> str:
    """What an argument was, for an error: a tensor's shape, or the type."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def check_sizes(**sizes: Any) -> None:
    """Raises ValueError for the first of these that is not a whole number of 1 or more."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(
                f"{name}: expected a whole number of 1 or more, got {size!r}; give how many there are"
            )


def valid_steps(lengths: Tensor, x: Tensor) -> Tensor:
    """(N, T) bool for x (N, T, anything): True where a step lies within its row's length, lengths (N,)."""
    return torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
