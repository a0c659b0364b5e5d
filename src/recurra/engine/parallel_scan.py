"""The linear recurrence h_t = a_t ⊙ h_{t-1} + b_t over all steps at once, forward and backward.

`scan` is the one door, `scan_step_by_step` its plain twin: the truth that it is held against, and what runs
under `vmap`, forward-mode differentiation, `torch.compile` and tracing, and for the gradient of a gradient.

T steps take about 3√T rounds instead of T. Time is cut into √T blocks, which are read side by side. The first
reading finds what each block does to whatever state it begins with, h ↦ p ⊙ h + l; these are chained; the
second reading, from the state that each block really begins with, writes the hidden states. Products of a are
multiplied, never divided by: one that underflows to zero is as harmless as the memory that it has forgotten.

Other ways were tried and were slower on a CPU: one step after the other by torch's own autograd; a scan in
logarithms (Heinsen 2023, "Efficient Parallelization of a Ubiquitous Sequential Computation"), which the code
of Feng et al. 2024 uses, and which cannot hold a negative state; doubling (Hillis and Steele 1986), log₂ T
passes over everything.

Axes: N batch, T time, H hidden (see `recurra.types`).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from recurra.engine.cells import put_back
from recurra.engine.scan import transformed


def scan(a: Tensor, b: Tensor, h_0: Tensor, restart: Tensor | None = None) -> Tensor:
    """h (N, T, H) of every step: h_t = a_t ⊙ h_{t-1} + b_t, from h_0, with T ≥ 1.

    a, b: (N, T, H). h_0: (N, H). restart: (N, T, 1) bool, True where h_{t-1} counts as zero; neither a
    gradient nor NaN crosses such a step.

    Shapes are the caller's to check.

    For example::

        h = scan(torch.full((1, 3, 1), 0.5), torch.ones(1, 3, 1), torch.zeros(1, 1))
        h[0, :, 0]      # 1, 1.5, 1.75
    """
    if a.shape[1] == 1 or _recorded() or transformed():
        return scan_step_by_step(a, b, h_0, restart)
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad or h_0.requires_grad):
        return cast(Tensor, _Scan.apply(a, b, h_0, restart))  # type: ignore[no-untyped-call]
    return _solved(a, b, h_0, restart)


def _recorded() -> bool:
    """Whether torch records a graph, in which there is no place for what is written in place."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def scan_step_by_step(a: Tensor, b: Tensor, h_0: Tensor, restart: Tensor | None = None) -> Tensor:
    """What `scan` returns, one step after the other, in operations that torch differentiates itself."""
    h, hiddens = h_0, []
    for t, (keep, add) in enumerate(zip(a.unbind(1), b.unbind(1), strict=True)):
        h = torch.addcmul(add, keep, put_back(restart, t, h, None))
        hiddens.append(h)
    return torch.stack(hiddens, dim=1)


class _Scan(torch.autograd.Function):
    """Autograd's view of a scan. Asked for a graph of the gradient, it differentiates the plain twin."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, h_0: Tensor, restart: Tensor | None) -> Tensor:
        hidden = _solved(a, b, h_0, restart)
        ctx.save_for_backward(a, b, h_0, restart, hidden)
        return hidden

    @staticmethod
    def backward(ctx: Any, d_hidden: Tensor) -> tuple[Tensor | None, ...]:
        a, b, h_0, restart, hidden = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_plain_gradients((a, b, h_0), restart, d_hidden, ctx.needs_input_grad), None
        # What step t passes back, e_t = a_t ⊙ (d_t + e_{t+1}), is the same recurrence, read from the end.
        own = a * d_hidden
        if restart is not None:
            own.masked_fill_(restart, 0)
        passed = _solved(a, own, torch.zeros_like(h_0), restart, backwards=True)
        d_b = d_hidden.clone()
        d_b[:, :-1] += passed[:, 1:]
        d_a = torch.empty_like(d_b)
        torch.mul(d_b[:, 0], h_0, out=d_a[:, 0])
        torch.mul(d_b[:, 1:], hidden[:, :-1], out=d_a[:, 1:])
        if restart is not None:
            d_a.masked_fill_(restart, 0)
        return d_a, d_b, passed[:, 0], None


def _plain_gradients(
    inputs: tuple[Tensor, Tensor, Tensor], restart: Tensor | None, d_hidden: Tensor, wanted: Any
) -> list[Tensor | None]:
    """The gradients of a, b and h_0, those that are wanted, which can be differentiated again."""
    # views, so that a tensor given twice is differentiated once in each of its places
    views = [tensor.view_as(tensor) for tensor in inputs]
    hidden = scan_step_by_step(views[0], views[1], views[2], restart)
    chosen = [view for view, want in zip(views, wanted[:3], strict=True) if want]
    found = iter(torch.autograd.grad(hidden, chosen, d_hidden, create_graph=True))
    return [next(found) if want else None for want in wanted[:3]]


def _solved(a: Tensor, b: Tensor, h_0: Tensor, restart: Tensor | None, backwards: bool = False) -> Tensor:
    """h (N, T, H), outside of autograd. backwards: h_t = a_t ⊙ h_{t+1} + b_t, from h_0 after the last step.

    At a restart h_t = b_t, in either direction.
    """
    blocks, steps = block_count(b), b.shape[1]
    whole = steps - steps % blocks  # the steps that the blocks cover; what is left is a block of its own
    out = torch.empty_like(b)
    parts = [(0, whole, blocks), (whole, steps, 1)]
    h = h_0
    for start, stop, count in reversed(parts) if backwards else parts:
        if start < stop:

            def cut(v: Tensor, start: int = start, stop: int = stop, count: int = count) -> Tensor:
                return v[:, start:stop].view(v.shape[0], count, (stop - start) // count, v.shape[2])

            h = _solve_blocks(
                cut(out), cut(a), cut(b), None if restart is None else cut(restart), h, backwards
            )
    return out


def block_count(b: Tensor) -> int:
    """How many blocks to read side by side, given b (N, T, H): about √T, or 1 where that gains nothing."""
    return math.isqrt(b.shape[1]) if b.shape[1] >= 32 else 1


def _solve_blocks(
    out: Tensor, a: Tensor, b: Tensor, restart: Tensor | None, h: Tensor, backwards: bool
) -> Tensor:
    """Writes h of every step into `out`; all four (N, blocks, steps, H|1). Returns the last one read, (N, H).

    h: (N, H), what the block that is read first begins with.
    """
    steps = [v.unbind(2) for v in (a, b, out)]
    begins: Any = (None,) * out.shape[2] if restart is None else restart.unbind(2)
    order = slice(None, None, -1 if backwards else 1)
    read = list(zip(*(v[order] for v in (*steps, begins)), strict=True))
    h = _starts(read, h, restart, order) if out.shape[1] > 1 else h.unsqueeze(1)  # (N, blocks, H)
    for keep, add, hidden, begin in read:
        torch.addcmul(add, keep, h, out=hidden)
        if begin is not None:
            torch.where(begin, add, hidden.clone(), out=hidden)
        h = hidden
    return h[:, 0 if backwards else -1]


def _starts(read: list[Any], h: Tensor, restart: Tensor | None, order: slice) -> Tensor:
    """What each block begins with, (N, blocks, H): each block as one step h ↦ product ⊙ h + local."""
    product, local, _, begin = read[0]
    if begin is not None:
        product = product.masked_fill(begin, 0)
    for keep, add, _, begin in read[1:]:
        product, past = product * keep, torch.addcmul(add, keep, local)
        if begin is not None:
            product, past = product.masked_fill(begin, 0), torch.where(begin, add, past)
        local = past
    # Selected, not multiplied by zero, which would carry NaN across a restart.
    crossed = None if restart is None else restart.any(2).unbind(1)
    products, locals_ = product.unbind(1), local.unbind(1)
    starts = []
    for block in range(len(products))[order]:
        starts.append(h)
        after = torch.addcmul(locals_[block], products[block], h)
        h = after if crossed is None else torch.where(crossed[block], locals_[block], after)
    return torch.stack(starts[order], dim=1)
