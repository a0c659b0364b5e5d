"""Pooling over time: one vector for a whole row, from the steps that the row has.

`pool_last`, `pool_mean` and `pool_max` are functions, `AttentionPooling` is a module with weights, and
`Pooling` is any of the four by its name. Each takes x (N, T, H), batch first, most often a layer's output (of
a bidirectional layer H is both directions' together), and lengths (N,) in any order with zero allowed, None
for all T steps. What x holds beyond a row's length, NaN included, reaches no result and no gradient. A row of
no steps gives zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurra.engine.cells import clear_beyond
from recurra.nn.attention import check_sizes, masked_softmax, valid_steps
from recurra.nn.inputs import Lengths, checked_lengths

POOLINGS = ("last", "mean", "max", "attention")


def pool_last(x: Tensor, lengths: Lengths | None = None, *, bidirectional: bool = False) -> Tensor:
    """What each direction says when it has read the whole row, (N, H): h_n of the layer's top, side by side.

    The forward direction has read the whole row at the row's last step. The reverse direction begins there:
    at that step it has read one step only, and all of the row at step 0. So with `bidirectional=True` the
    first half of H is taken from the row's last step, and the second half from its first.

    For example::

        x = torch.randn(2, 5, 6)
        last = pool_last(x, [5, 3], bidirectional=True)
        assert last[1].equal(torch.cat((x[1, 2, :3], x[1, 0, 3:])))

    Raises ValueError for x or lengths that do not fit, and for an odd H where bidirectional.
    """
    counts = _checked(x, lengths)
    size = x.shape[2]
    if bidirectional and size % 2:
        raise ValueError(
            f"x: expected an even H with bidirectional=True, half of it for each direction, got H = {size}; "
            "give a bidirectional layer's output, or bidirectional=False"
        )
    if counts is None:
        last = x[:, -1]
    else:
        place = (counts - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, size)
        last = x.gather(1, place).squeeze(1)
    if bidirectional:
        last = torch.cat((last[:, : size // 2], x[:, 0, size // 2 :]), dim=1)
    return last if counts is None else last.masked_fill((counts == 0).unsqueeze(1), 0)


def pool_mean(x: Tensor, lengths: Lengths | None = None) -> Tensor:
    """The mean of each row's steps, (N, H): the sum over its own steps divided by how many they are.

    float16 and bfloat16 are summed in float32.

    For example::

        x = torch.randn(2, 5, 6)
        torch.testing.assert_close(pool_mean(x, [5, 3])[1], x[1, :3].mean(0))

    Raises ValueError for x or lengths that do not fit.
    """
    counts = _checked(x, lengths)
    valid = None if counts is None else valid_steps(counts, x)
    total = clear_beyond(x, valid).sum(1, dtype=torch.promote_types(x.dtype, torch.float32))
    steps = x.shape[1] if counts is None else counts.clamp(min=1).unsqueeze(1)
    return (total / steps).to(x.dtype)


def pool_max(x: Tensor, lengths: Lengths | None = None) -> Tensor:
    """The largest number that each unit reaches in the row's steps, (N, H). Ties share the gradient.

    For example::

        x = torch.randn(2, 5, 6)
        assert pool_max(x, [5, 3])[1].equal(x[1, :3].amax(0))

    Raises ValueError for x or lengths that do not fit.
    """
    counts = _checked(x, lengths)
    if counts is None:
        return x.amax(1)
    # not zeros: the largest of negative numbers is negative
    beyond = ~valid_steps(counts, x).unsqueeze(-1)
    largest = x.masked_fill(beyond, float("-inf")).amax(1)
    return largest.masked_fill((counts == 0).unsqueeze(1), 0)


class AttentionPooling(torch.nn.Module):
    """A mean in which the network decides how much each step weighs.

    weights = softmax over time of v · tanh(W x + b), and the result is the sum of the steps times their
    weights (Yang et al., "Hierarchical attention networks for document classification", 2016, eqs. 5 to 7).

    For example::

        pooling = AttentionPooling(6, attention_size=7)
        pooled, weights = pooling(torch.randn(2, 5, 6), [5, 3])      # (2, 6), (2, 5)
        assert (weights[1, 3:] == 0).all()
    """

    def __init__(self, size: int, attention_size: int | None = None) -> None:
        """size: H. attention_size: that of W x, H when None. Raises ValueError for a size less than 1."""
        super().__init__()
        attention_size = size if attention_size is None else attention_size
        check_sizes(size=size, attention_size=attention_size)
        self.size, self.attention_size = size, attention_size
        self.key = torch.nn.Linear(size, attention_size)
        self.score = torch.nn.Linear(attention_size, 1, bias=False)

    def forward(self, x: Tensor, lengths: Lengths | None = None) -> tuple[Tensor, Tensor]:
        """The pooled rows (N, H), the weights (N, T). Raises ValueError for x or lengths that do not fit."""
        counts = _checked(x, lengths, self.size)
        valid = None if counts is None else valid_steps(counts, x)
        x = clear_beyond(x, valid)
        scores: Tensor = self.score(torch.tanh(self.key(x)))
        weights = masked_softmax(scores.squeeze(-1), valid)
        return (weights.unsqueeze(1) @ x).squeeze(1), weights


class Pooling(torch.nn.Module):
    """Pooling by name: "last", "mean", "max" or "attention".

    For example::

        pooling = Pooling("last", 6, bidirectional=True)
        pooled = pooling(torch.randn(2, 5, 6), [5, 3])      # (2, 6)
    """

    def __init__(self, kind: str, size: int, *, bidirectional: bool = False) -> None:
        """size: H, of both directions together. bidirectional: whether they are two, which "last" must know.

        Raises ValueError for another kind, for a size less than 1, or an odd one with `bidirectional`.
        """
        super().__init__()
        if kind not in POOLINGS:
            raise ValueError(f"kind: expected one of {', '.join(POOLINGS)}, got {kind!r}; name one of these")
        check_sizes(size=size)
        if bidirectional and size % 2:
            raise ValueError(
                "size: expected an even number with bidirectional=True, half of it for each direction, "
                f"got {size}; give twice the layer's hidden_size"
            )
        self.kind, self.size, self.bidirectional = kind, size, bidirectional
        self.attention = AttentionPooling(size) if kind == "attention" else None

    def extra_repr(self) -> str:
        """What `repr` shows besides the parts."""
        return f"{self.kind!r}, {self.size}, bidirectional={self.bidirectional}"

    def forward(self, x: Tensor, lengths: Lengths | None = None) -> Tensor:
        """The pooled rows, (N, H). Raises ValueError for x or lengths that do not fit."""
        _check_form(x, self.size)
        if self.attention is not None:
            pooled: Tensor = self.attention(x, lengths)[0]
            return pooled
        if self.kind == "last":
            return pool_last(x, lengths, bidirectional=self.bidirectional)
        return pool_mean(x, lengths) if self.kind == "mean" else pool_max(x, lengths)


def _checked(x: Any, lengths: Any, size: int | None = None) -> Tensor | None:
    """lengths as (N,) int64 on the device of x, or None for all steps. size: H, or None for any."""
    _check_form(x, size)
    return None if lengths is None else checked_lengths(lengths, x, "x")


def _check_form(x: Any, size: int | None) -> None:
    fits = isinstance(x, Tensor) and x.dim() == 3 and x.shape[1] > 0 and size in (None, x.shape[2])
    if not fits:
        wanted = "(N, T, H) with" if size is None else f"(N, T, H) with H = {size} and"
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"x: expected {wanted} one step or more, got {got}; give a layer's output, batch first"
        )
