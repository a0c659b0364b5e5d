"""The loss that works out its gradients at once, beside torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recurra.tasks import vocabulary_loss as module
from recurra.tasks.vocabulary_loss import vocabulary_loss, vocabulary_nats


def made(count: int, hidden: int, tokens: int, seed: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Hidden, weight and bias that learn, and targets."""
    random = torch.Generator().manual_seed(seed)
    shapes = ((count, hidden), (tokens, hidden), (tokens,))
    numbers = [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]
    return numbers, torch.randint(tokens, (count,), generator=random)


def torchs(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(functional.linear(hidden, weight, bias), targets)


@pytest.mark.parametrize("at_once", [1, 63, 1 << 18])
@pytest.mark.parametrize(("count", "hidden", "tokens"), [(1, 1, 1), (7, 33, 63), (33, 7, 1), (63, 1, 33)])
def test_loss_and_gradients_are_torchs(
    count: int, hidden: int, tokens: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    numbers, targets = made(count, hidden, tokens, count + at_once, torch.float64)
    ours, theirs = vocabulary_loss(*numbers, targets), torchs(*numbers, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(3.0 * ours, numbers)
    wanted = torch.autograd.grad(3.0 * theirs, numbers)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("at_once", [1, 63, 1 << 18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nats_of_each_token_are_torchs(
    dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    (hidden, weight, bias), targets = made(63, 33, 7, at_once, dtype)
    found = vocabulary_nats(hidden, weight, bias, targets)
    logits = functional.linear(hidden, weight, bias)
    wanted = functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(found, wanted.detach())
    assert not found.requires_grad


def test_a_weight_that_is_the_embedding_too_gets_both_gradients() -> None:
    (_, weight, bias), targets = made(33, 7, 63, 1, torch.float64)
    tokens = targets.roll(1)
    losses = (
        one(functional.embedding(tokens, weight), weight, bias, targets) for one in (vocabulary_loss, torchs)
    )
    ours, theirs = (torch.autograd.grad(loss, (weight, bias)) for loss in losses)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_certain_and_hopeless_tokens_stay_finite() -> None:
    weight = torch.tensor([[2000.0], [-2000.0]], requires_grad=True)
    hidden = torch.ones(2, 1, requires_grad=True)
    loss = vocabulary_loss(hidden, weight, torch.zeros(2), torch.tensor([0, 1]))
    assert loss.item() == 2000.0
    gradient, _ = torch.autograd.grad(loss, (hidden, weight))
    assert gradient.tolist() == [[0.0], [2000.0]]


def test_under_autocast_it_is_as_exact_as_bfloat16() -> None:
    numbers, targets = made(63, 33, 257, 2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = vocabulary_loss(*numbers, targets)
    exact = [number.detach().double().requires_grad_() for number in numbers]
    theirs = torchs(*exact, targets)
    assert ours.dtype == torch.float32
    assert abs(ours.item() - theirs.item()) < 2**-8 * theirs.item()
    for found, wanted in zip(
        torch.autograd.grad(ours, numbers), torch.autograd.grad(theirs, exact), strict=True
    ):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 2**-6 * wanted.norm()


def test_without_gradients_nothing_is_worked_out_for_them() -> None:
    numbers, targets = made(7, 33, 63, 3, torch.float64)
    with torch.no_grad():
        found = vocabulary_loss(*numbers, targets)
    assert not found.requires_grad
    torch.testing.assert_close(found, torchs(*numbers, targets).detach())


def test_a_second_derivative_is_refused() -> None:
    numbers, targets = made(7, 33, 63, 4, torch.float64)
    loss = vocabulary_loss(*numbers, targets)
    with pytest.raises(RuntimeError, match="differentiable once: take torch"):
        torch.autograd.grad(loss, numbers[:1], create_graph=True)
