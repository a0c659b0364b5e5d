"""Cross-entropy over a vocabulary, its gradients worked out in the same pass.

    loss = -1/M Σ_m log p_m[target_m],   p_m = softmax(W h_m + b)
    ∂loss/∂logits = (p - one_hot(target)) / M

The probabilities take the logits' place a few rows at a time, which stay in the cache: for 10,000 words
torch's own loss reads and writes arrays of that size five times over, and costs more than the products.

Axes: M tokens, H hidden, K vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

_AT_ONCE = 1 << 18  # logits: 1 MiB in float32, the size of a core's own cache


def vocabulary_nats(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """(M,): the cross-entropy in nats of each token, without gradients. Arguments as of `vocabulary_loss`."""
    with torch.no_grad():
        logits = functional.linear(hidden, weight, bias)
        exact = torch.promote_types(logits.dtype, torch.float32)
        found = torch.empty(len(targets), dtype=exact, device=hidden.device)
        for rows in _blocks(logits):
            chances = torch.log_softmax(logits[rows], 1, dtype=exact)
            found[rows] = -chances.gather(1, targets[rows, None])[:, 0]
    return found


def vocabulary_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats, in float32 or better.

    hidden: (M, H). weight: (K, H). bias: (K,). targets: (M,) int64, of 0 … K - 1. Under autocast the three
    products are in its dtype, the softmax is not. Differentiable once: raises RuntimeError for more.
    """
    if not torch.is_grad_enabled() or not (hidden.requires_grad or weight.requires_grad):
        return functional.cross_entropy(functional.linear(hidden, weight, bias), targets)
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return _VocabularyLoss.apply(hidden, weight, bias, targets, dtype)  # type: ignore[no-any-return, no-untyped-call]


def _blocks(logits: Tensor) -> Iterator[slice]:
    """A few rows of (M, K) at a time."""
    rows = max(1, _AT_ONCE // logits.shape[1])
    for at in range(0, len(logits), rows):
        yield slice(at, at + rows)


class _VocabularyLoss(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        low_hidden, low_weight = hidden.to(dtype), weight.to(dtype)
        errors = functional.linear(
            low_hidden, low_weight, bias.to(dtype)
        )  # (M, K) logits, and then p - one_hot
        exact = torch.promote_types(dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        for rows in _blocks(errors):
            part, wanted = errors[rows], targets[rows, None]
            chances = torch.log_softmax(part, 1, dtype=exact)
            total -= chances.gather(1, wanted).sum()
            chances.exp_().scatter_add_(1, wanted, chances.new_full(wanted.shape, -1.0))
            part.copy_(chances)
        count = len(targets)
        ones = errors.new_ones(1, count)
        ctx.save_for_backward(
            (errors @ low_weight).to(hidden.dtype).div_(count),
            (errors.t() @ low_hidden).to(weight.dtype).div_(count),
            (ones @ errors)[0].to(bias.dtype).div_(count),
        )
        return total / count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(
                "vocabulary_loss is differentiable once: take torch.nn.functional.cross_entropy for second "
                "derivatives"
            )
        found = (saved * gradient.to(saved.dtype) for saved in ctx.saved_tensors)
        return *found, None, None
