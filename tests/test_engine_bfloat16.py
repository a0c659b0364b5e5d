"""bfloat16: by kernels of its own where the CPU has them, else in float32; as right as the format allows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_cases import needs_engine, threads
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import recurra.nn
from recurra.engine import native
from recurra.engine.call import call
from recurra.engine.stack import Stack, Steps

pytestmark = needs_engine

HALF_UNIT = 2.0**-9  # the relative error of rounding once
LAYERS = ["LSTM", "GRU", "RNN"]
# F, H, layers, directions, N, T
SIZES = [
    (8, 16, 1, 1, 5, 7),
    (6, 34, 2, 2, 3, 11),
    (2, 2, 1, 1, 63, 3),
    (62, 66, 2, 1, 33, 21),
    (10, 50, 1, 2, 2, 63),
    (4, 34, 3, 1, 7, 33),
]


def has_pairs() -> bool:
    return native.available() and native.kernels().for_pairs is not None


needs_pairs = pytest.mark.skipif(not has_pairs(), reason="this CPU has no instructions for bfloat16")


def error(found: Tensor, truth: Tensor) -> float:
    """In the Euclidean norm, relatively."""
    found, truth = found.detach().double(), truth.detach().double()
    assert found.shape == truth.shape
    return float((found - truth).norm() / truth.norm())


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for part in result for t in tensors(part)]


def both(name: str, sizes: tuple[int, ...], seed: int) -> tuple[Any, Any, Tensor, Any, Tensor]:
    """Our layer in bfloat16, torch's in float64 with the same weights, x, states, lengths."""
    features, hidden, layers, directions, rows, steps = sizes
    torch.manual_seed(seed)
    options: dict[str, Any] = {"num_layers": layers, "bidirectional": directions == 2, "batch_first": True}
    ours = getattr(recurra.nn, name)(features, hidden, **options).bfloat16()
    theirs = getattr(torch.nn, name)(features, hidden, **options).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(rows, steps, features).bfloat16()
    h, c = torch.randn(2, layers * directions, rows, hidden).mul(0.5).bfloat16().unbind()
    lengths = torch.randint(1, steps + 1, (rows,))
    lengths[0] = steps
    return ours, theirs, x, (h, c) if name == "LSTM" else h, lengths


def doubled(states: Any) -> Any:
    if isinstance(states, tuple):
        return tuple(doubled(state) for state in states)
    return states.detach().double().requires_grad_()


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_results_and_gradients_are_right_to_a_few_roundings(
    name: str, sizes: tuple[int, ...], isa: str
) -> None:
    ours, theirs, x, hx, lengths = both(name, sizes, seed=sum(sizes))
    steps = sizes[-1]
    x.requires_grad_()
    for state in tensors(hx):
        state.requires_grad_()
    with native.use(isa):
        results = tensors(ours(x, hx, lengths=lengths))
        upstream = [torch.randn(r.shape).bfloat16() for r in results]
        torch.autograd.backward(results, upstream)
    assert all(r.dtype == torch.bfloat16 for r in results)
    x_64, hx_64 = doubled(x), doubled(hx)
    packed = pack_padded_sequence(x_64, lengths, batch_first=True, enforce_sorted=False)
    output, ends = theirs(packed, hx_64)
    padded, _ = pad_packed_sequence(output, batch_first=True, total_length=steps)
    truth = [padded, *tensors(ends)]
    torch.autograd.backward(truth, [g.double() for g in upstream])
    for found, true in zip(results, truth, strict=True):
        assert error(found, true) < 2 * HALF_UNIT
    leaves = zip(
        (x, *tensors(hx), *ours.parameters()), (x_64, *tensors(hx_64), *theirs.parameters()), strict=True
    )
    for found, true in leaves:
        assert found.grad is not None
        assert true.grad is not None
        assert found.grad.dtype == torch.bfloat16
        assert error(found.grad, true.grad) < 4 * HALF_UNIT


@needs_pairs
@pytest.mark.parametrize("name", LAYERS)
def test_bitwise_the_same_for_any_number_of_threads(name: str) -> None:
    ours, _, x, hx, lengths = both(name, (6, 34, 2, 2, 5, 13), seed=9)
    x.requires_grad_()
    found = []
    for count in (1, 2, 3, 7):
        with threads(count):
            results = tensors(ours(x, hx, lengths=lengths))
            found.append(
                [*results, *torch.autograd.grad(sum(r.sum() for r in results), [x, *ours.parameters()])]
            )
    for other in found[1:]:
        assert all(a.equal(b) for a, b in zip(found[0], other, strict=True))


@needs_pairs
@pytest.mark.parametrize("name", LAYERS)
def test_a_row_does_not_depend_on_the_others(name: str) -> None:
    ours, _, x, _, lengths = both(name, (4, 34, 1, 2, 7, 9), seed=5)
    x[2, 0, 0] = torch.nan
    lengths[2] = 9
    output = ours(x, lengths=lengths)[0]
    assert output[2].isnan().any()
    for row in (0, 1, 3, 4, 5, 6):
        alone = ours(x[row : row + 1], lengths=lengths[row : row + 1])[0]
        assert alone.equal(output[row : row + 1])


@needs_pairs
def test_padding_reaches_nothing_and_resets_begin_anew() -> None:
    ours, _, x, _, _ = both("GRU", (4, 34, 2, 2, 3, 9), seed=6)
    lengths, resets = torch.tensor([9, 4, 0]), torch.zeros(3, 9, dtype=torch.bool)
    resets[0, 5] = True
    plain = ours(x, lengths=lengths, resets=resets)[0]
    filled = x.clone()
    filled[1, 4:] = torch.nan
    filled[2] = torch.inf
    filled.requires_grad_()
    output = ours(filled, lengths=lengths, resets=resets)[0]
    assert output.equal(plain)
    assert output[1, 4:].eq(0).all()
    assert output[2].eq(0).all()
    output.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())
    assert filled.grad is not None
    assert filled.grad[1, 4:].eq(0).all()
    one = recurra.nn.GRU(4, 34, batch_first=True).bfloat16()
    whole = one(x, resets=resets)[0]
    assert whole[:1, 5:].equal(one(x[:1, 5:])[0])


@needs_pairs
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_which_kernels_run(kind: str) -> None:
    """Even sizes in the kernels for pairs, all others in float32; both the same answer."""
    options = {"depth": 1}
    for features, hidden, projection, native_here in ((4, 6, 0, True), (3, 6, 0, False), (4, 7, 0, False)):
        layer = getattr(recurra.nn, kind.upper())(features, hidden).bfloat16()
        x = torch.randn(5, 3, features).bfloat16()
        weights = list(layer.parameters())
        made = call(Stack(kind, hidden, projection, batch_first=False, **options), x, (), weights, Steps())
        assert (made is not None) == native_here
        narrow, wide = layer(x)[0], layer.float()(x.float())[0]
        assert narrow.dtype == torch.bfloat16
        assert error(narrow, wide) < 2 * HALF_UNIT
    with native.use("generic"):
        assert native.kernels().for_pairs is None
        assert native.peak(1, "bfloat16") is None


@needs_pairs
def test_x_may_lie_anywhere() -> None:
    """Strides that are odd, and memory that begins in the middle of a word, are copied first."""
    layer = recurra.nn.LSTM(4, 6, batch_first=True).bfloat16()
    x = torch.randn(3, 5, 4).bfloat16()
    truth = layer(x)[0]
    odd = torch.zeros(3, 5, 5, dtype=torch.bfloat16)
    odd[..., 1:] = x
    shifted = torch.zeros(61, dtype=torch.bfloat16)
    shifted[1:] = x.flatten()
    for same in (
        odd[..., 1:],
        shifted[1:].view(3, 5, 4),
        x.transpose(0, 1).contiguous().transpose(0, 1),
        x.transpose(1, 2).contiguous().transpose(1, 2),
        x[:, :1].expand(3, 5, 4),
    ):
        expected = truth if same.equal(x) else layer(same.clone())[0]
        assert layer(same)[0].equal(expected)


@needs_pairs
def test_a_packed_sequence_stays_one() -> None:
    layer = recurra.nn.GRU(4, 6, bidirectional=True).bfloat16()
    x, lengths = torch.randn(5, 3, 4).bfloat16(), torch.tensor([2, 5, 3])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    output, h_n = layer(packed)
    padded, _ = pad_packed_sequence(output)
    by_lengths, h_n_too = layer(x, lengths=lengths)
    assert padded.equal(by_lengths)
    assert h_n.equal(h_n_too)


@needs_pairs
def test_training_in_bfloat16_under_recompute_gives_the_same_gradients() -> None:
    layer = recurra.nn.LSTM(4, 34, bidirectional=True).bfloat16()
    x = torch.randn(7, 3, 4).bfloat16().requires_grad_()
    kept = torch.autograd.grad(layer(x)[0].float().square().sum(), [x, *layer.parameters()])
    again = torch.autograd.grad(layer(x, recompute=True)[0].float().square().sum(), [x, *layer.parameters()])
    assert all(a.equal(b) for a, b in zip(kept, again, strict=True))
