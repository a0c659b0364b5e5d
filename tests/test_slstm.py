"""`SLSTM`: heads, the four states, exponential gates of any size, and what its constructor refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_cases import relative_error
from test_variant_layers import LENGTHS, F, H, N, T, exact, make, states_for, tensors, through

from recurra import nn


@pytest.mark.parametrize("size", [1.0, 200.0])
def test_exponential_gates_of_any_size(size: float) -> None:
    """Sums of up to ±200, whose exponentials no float32 holds, with what rounding of such sums leaves."""
    layer = nn.SLSTM(4 * H, H)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.eye(4 * H))
        for name in ("weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(layer, name).zero_()
    x = size * (2 * torch.rand(T, N, 4 * H) - 1)
    found = through(layer, x, None, None)
    truth = through(copy.deepcopy(layer).double(), exact(x), None, found[0])
    for mine, true in zip((found[1][0], found[1][1], found[1][5]), (*truth[1][:2], truth[1][5]), strict=True):
        assert relative_error(mine.detach(), true.detach()) < 4 * T * size * 2.0**-24
    assert all(part.isfinite().all() for part in found[1])


def test_a_head_never_reads_another_heads_state() -> None:
    """Neither by value nor by gradient, in either direction, from the first step to the last."""
    layer = make("SLSTM-heads", bidirectional=True).double()
    x, half = torch.randn(T, 3, F, dtype=torch.float64), H // 2
    begun = exact(states_for(layer, 3))
    output = layer(x, begun)[0].view(T, 3, 2, H)
    moved = [state.clone() for state in begun]
    for state in moved:
        state[..., :half] += 1
    after = layer(x, tuple(moved))[0].view(T, 3, 2, H)
    assert torch.equal(after[..., half:], output[..., half:])
    assert after[..., :half].ne(output[..., :half]).all()
    leaves = [state.requires_grad_() for state in begun]
    for head in (0, 1):
        own = slice(head * half, (head + 1) * half)
        seen = layer(x, tuple(leaves))[0].view(T, 3, 2, H)[..., own].square().sum()
        for gradient in torch.autograd.grad(seen, leaves):
            mine = gradient.unflatten(-1, (2, half))
            assert mine[..., head, :].ne(0).any()
            assert mine[..., 1 - head, :].eq(0).all()


def test_heads_are_blocks_of_one_recurrent_matrix() -> None:
    """Row k of weight_hh holds what unit k reads of its own head."""
    layer = make("SLSTM-heads").double()
    whole, half = nn.SLSTM(F, H).double(), H // 2
    weights = layer.state_dict()
    blocks = layer.weight_hh_l0.detach().view(4, 2, half, half)
    weights["weight_hh_l0"] = torch.cat([torch.block_diag(*gate) for gate in blocks])
    whole.load_state_dict(weights)
    x = torch.randn(T, N, F, dtype=torch.float64)
    for mine, true in zip(tensors(layer(x)), tensors(whole(x)), strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=1e-13)


@pytest.mark.parametrize("heads", [1, 2])
def test_the_four_states_of_an_slstm_are_checked(heads: int) -> None:
    layer, x, h = nn.SLSTM(F, H, heads=heads), torch.randn(T, N, F), torch.zeros(1, N, H)
    wanted = "hx: expected the four tensors h_0, c_0, n_0 and m_0, got"
    for hx, message in (
        ((h, h, h), rf"^{wanted} Tensor, Tensor, Tensor; give all four$"),
        ((h, h), rf"^{wanted} Tensor, Tensor; give all four$"),
        ([h] * 5, rf"^{wanted} (Tensor, ){{4}}Tensor; give all four$"),
        ((h, h, None, h), rf"^{wanted} Tensor, Tensor, NoneType, Tensor; give"),
        (h, rf"^{wanted} Tensor; give all four$"),
        ("zeros", rf"^{wanted} str; give all four$"),
    ):
        for call in (layer, layer.trace):
            with pytest.raises(ValueError, match=message):
                call(x, hx)
    for place in (1, 2, 3):
        wrong = [h] * 4
        wrong[place] = h[..., 1:]
        with pytest.raises(
            RuntimeError, match=rf"^Expected hidden\[{place}\] size \(1, 7, 34\), got \[1, 7, 33\]$"
        ):
            layer(x, tuple(wrong))
    with pytest.raises(RuntimeError, match=r"^Expected hidden\[0\] size \(1, 7, 34\), got \[1, 7, 33\]$"):
        layer(x, (h[..., 1:], h, h, h))
    for place in range(4):
        states = [h] * 4
        states[place] = h.double()
        with pytest.raises(
            RuntimeError, match=r"^hx: expected the input's dtype torch.float32, got torch.float64; convert"
        ):
            layer(x, tuple(states), lengths=LENGTHS)


def test_heads_are_checked() -> None:
    for heads in (0, -1, True, 2.0, "2", None):
        with pytest.raises(
            ValueError, match=rf"^heads: expected a whole number of at least 1, got {heads!r}"
        ):
            nn.SLSTM(F, H, heads=heads)
    with pytest.raises(
        ValueError, match=r"^heads: expected a divisor of hidden_size=34, got 3; each head has as many units"
    ):
        nn.SLSTM(F, H, heads=3)
    with pytest.raises(ValueError, match=r"^heads: expected a divisor of proj_size=5, got 2; each head"):
        nn.SLSTM(F, H, proj_size=5, heads=2)


def test_zoneout_of_an_slstm_is_of_its_hidden_state() -> None:
    for zoneout in (0.2, (0.2, 0.0), [0.2, 0]):
        assert nn.SLSTM(F, H, zoneout=zoneout).zoneout == (0.2, 0.0)
    for pair in ((0.2, 0.1), (0.0, 1.0), [0.2, 0.1]):
        with pytest.raises(
            ValueError,
            match=r"^zoneout: expected one number, of the hidden state, got .*0\.\d.*; the three parts",
        ):
            nn.SLSTM(F, H, zoneout=pair)
    with pytest.raises(ValueError, match=r"^zoneout: expected one number.*got \(0.1, 0.2, 0.3\)"):
        nn.SLSTM(F, H, zoneout=(0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match=r"^zoneout: expected a number in the range \[0, 1\].* got 1.5"):
        nn.SLSTM(F, H, zoneout=(1.5, 0.0))
    with pytest.raises(ValueError, match=r"^zoneout: expected one number, got \(0.1, 0.2\); give each state"):
        nn.LayerNormGRU(F, H, zoneout=(0.1, 0.2))
    kept = nn.SLSTM(F, H, zoneout=1.0)
    hx = states_for(kept, N)
    output, (h_n, *cells) = kept(torch.randn(T, N, F), hx)
    assert torch.equal(h_n, hx[0])
    assert torch.equal(output, hx[0].expand(T, N, H))
    assert not torch.equal(cells[0], hx[1])
