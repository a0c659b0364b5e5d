"""The linear recurrence over all steps at once, against one step after the other in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recurra.engine.parallel_scan import block_count, scan, scan_step_by_step

LENGTHS = (1, 2, 7, 31, 32, 33, 63, 65, 129)
NAN = math.nan


def draw(n: int, t: int, h: int) -> tuple[Tensor, Tensor, Tensor]:
    """a (N, T, H) within ±1.2, b (N, T, H) and h_0 (N, H)."""
    a = 2.4 * torch.rand(n, t, h, dtype=torch.float64) - 1.2
    return a, torch.randn(n, t, h, dtype=torch.float64), torch.randn(n, h, dtype=torch.float64)


def scattered(n: int, t: int) -> Tensor:
    """Restarts (N, T, 1): at some steps, at every step of row 1, at none of row 2."""
    restart = torch.rand(n, t, 1) < 0.1
    restart[1:2], restart[2:3] = True, False
    return restart


def by_numbers(a: Tensor, b: Tensor, h_0: Tensor, restart: Tensor | None) -> Tensor:
    """One number after the other."""
    found = torch.empty_like(b)
    for n, h in ((n, h) for n in range(b.shape[0]) for h in range(b.shape[2])):
        state = h_0[n, h].item()
        for t in range(b.shape[1]):
            if restart is not None and restart[n, t]:
                state = 0.0
            state = a[n, t, h].item() * state + b[n, t, h].item()
            found[n, t, h] = state
    return found


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("restarts", [False, True])
def test_both_ways_are_the_recurrence(steps: int, restarts: bool) -> None:
    a, b, h_0 = draw(3, steps, 5)
    restart = scattered(3, steps) if restarts else None
    expected = by_numbers(a, b, h_0, restart)
    for way in (scan, scan_step_by_step):
        torch.testing.assert_close(way(a, b, h_0, restart), expected, rtol=1e-12, atol=1e-12)


def test_the_sizes_above_are_read_in_blocks_and_some_leave_a_remainder() -> None:
    counts = {steps: block_count(torch.zeros(1, steps, 1)) for steps in LENGTHS}
    assert counts[31] == 1
    assert counts[129] == 11
    assert 129 % 11 != 0


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("restarts", [False, True])
def test_gradients_are_those_of_the_plain_twin(steps: int, restarts: bool) -> None:
    leaves = [v.requires_grad_() for v in draw(3, steps, 5)]
    restart = scattered(3, steps) if restarts else None
    upstream = torch.randn(3, steps, 5, dtype=torch.float64)
    found = torch.autograd.grad(scan(*leaves, restart), leaves, upstream)
    expected = torch.autograd.grad(scan_step_by_step(*leaves, restart), leaves, upstream)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_first_and_second_derivatives_against_finite_differences() -> None:
    leaves = [0.7 * v for v in draw(2, 33, 1)]
    restart = scattered(2, 33)
    for leaf in leaves:
        leaf.requires_grad_()

    def run(*leaves: Tensor) -> Tensor:
        return scan(leaves[0], leaves[1], leaves[2], restart)[:, ::8]

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.parametrize("tracked", [0, 1, 2])
def test_a_gradient_of_one_input_alone(tracked: int) -> None:
    inputs = list(draw(2, 65, 3))
    inputs[tracked].requires_grad_()
    expected = torch.autograd.grad(scan_step_by_step(*inputs).sum(), inputs[tracked])
    found = torch.autograd.grad(scan(*inputs).sum(), inputs[tracked], create_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(scan(*inputs).sum(), inputs[tracked]), expected, rtol=1e-12, atol=1e-12
    )


def test_no_nan_crosses_a_restart_in_either_direction() -> None:
    a, b, h_0 = draw(2, 65, 3)
    restart = torch.zeros(2, 65, 1, dtype=torch.bool)
    restart[:, [20, 41]] = True
    expected = scan(a, b, h_0, restart)
    a[0, 25], b[1, 30], h_0[1] = NAN, NAN, NAN
    leaves = [v.requires_grad_() for v in (a, b, h_0)]
    found = scan(*leaves, restart)
    assert found[0, 25:41].isnan().all()
    assert found[1, :20].isnan().all()
    torch.testing.assert_close(found[:, 41:], expected[:, 41:], rtol=0, atol=0)
    torch.testing.assert_close(found[1, 20:30], expected[1, 20:30], rtol=0, atol=0)
    upstream = torch.ones_like(found)
    upstream[:, 43] = NAN  # and backward: what comes from the last piece stays in it
    d_a, d_b, _ = torch.autograd.grad(found, leaves, upstream)
    assert d_b[:, 41:44].isnan().all()
    assert d_b[:, :20].isfinite().all()
    assert d_a[0, :20].isfinite().all()
    assert not d_a[:, [20, 41]].any()


def test_products_that_underflow_do_no_harm() -> None:
    _, b, h_0 = draw(1, 1000, 3)
    a = torch.full_like(b, 1e-30)
    torch.testing.assert_close(
        scan(a.float(), b.float(), h_0.float()), scan_step_by_step(a.float(), b.float(), h_0.float())
    )
    assert scan(a.float(), b.float(), h_0.float()).isfinite().all()


def test_long_sequences_lose_no_digits() -> None:
    update = torch.rand(2, 5000, 3, dtype=torch.float64) * 0.1
    update[:, :, 0] = 0  # a memory that is kept for ever
    inputs = [1 - update, update * torch.rand(2, 5000, 3, dtype=torch.float64), torch.rand(2, 3).double()]
    exact = scan_step_by_step(*inputs)
    short = [v.float() for v in inputs]
    torch.testing.assert_close(scan(*short).double(), exact, rtol=3e-6, atol=3e-6)
    torch.testing.assert_close(scan(*short), scan_step_by_step(*short), rtol=3e-6, atol=3e-6)


def test_inputs_in_any_layout_are_left_as_they_are() -> None:
    a, b, h_0 = draw(3, 65, 5)
    turned = [v.transpose(0, 1).contiguous().transpose(0, 1) for v in (a, b)]
    torch.testing.assert_close(scan(*turned, h_0), scan(a, b, h_0), rtol=0, atol=0)
    torch.testing.assert_close(
        scan(a[..., 1:2].expand(3, 65, 5), b, h_0),
        scan_step_by_step(a[..., 1:2], b, h_0),
        rtol=1e-12,
        atol=1e-12,
    )
    before = [v.clone() for v in (a, b, h_0)]
    scan(a, b, h_0, scattered(3, 65))
    assert all(torch.equal(x, y) for x, y in zip((a, b, h_0), before, strict=True))


# torch's own forward mode scripts its decompositions when first used, and torch warns of that itself.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_vmap_and_forward_mode_go_through() -> None:
    a, b, h_0 = draw(4, 33, 3)
    restart = scattered(4, 33)
    each = torch.vmap(lambda a, b, h, r: scan(a[None], b[None], h[None], r[None])[0])
    torch.testing.assert_close(each(a, b, h_0, restart), scan(a, b, h_0, restart), rtol=1e-12, atol=1e-12)
    towards = torch.randn_like(a)
    _, slope = torch.func.jvp(lambda a: scan(a, b, h_0, restart), (a,), (towards,))
    step = 1e-6
    near = [scan(a + sign * step * towards, b, h_0, restart) for sign in (1, -1)]
    torch.testing.assert_close(slope, (near[0] - near[1]) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # that the number of steps becomes a constant
@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")
def test_a_traced_scan_gives_the_same_for_other_numbers() -> None:
    traced = torch.jit.trace(scan, tuple(v.requires_grad_() for v in draw(2, 33, 3)))
    others = draw(2, 33, 3)
    torch.testing.assert_close(traced(*others), scan(*others), rtol=1e-12, atol=1e-12)
