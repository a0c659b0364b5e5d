"""`recurra.nn.init` for every layer, cell and direction: the numbers it sets, and what it leaves alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recurra.nn as rnn
from recurra.nn.init import chrono_, forget_bias_, linspace_, orthogonal_, uniform_gate_, xavier_

F, H = 7, 33
BIASES = (forget_bias_, lambda layer: chrono_(layer, 100), uniform_gate_, linspace_)
BIAS_NAMES = ("forget_bias_", "chrono_", "uniform_gate_", "linspace_")
# of what does not name its gates, by their number: the one that keeps, f of i f g o or z of r z n, and those
# that begin as its opposite
ROLES: dict[int, tuple[int, list[int]]] = {4: (1, [0]), 3: (1, [])}

Make = Callable[..., Any]


def stacked(kind: Any) -> Make:
    def make(**options: Any) -> Any:
        return kind(F, H, num_layers=2, bidirectional=True, dtype=torch.float64, **options)

    return make


def cell(kind: Any) -> Make:
    def make(**options: Any) -> Any:
        return kind(F, H, dtype=torch.float64, **options)

    return make


GATED = {
    "LSTM": stacked(rnn.LSTM),
    "GRU": stacked(rnn.GRU),
    "LSTMCell": cell(rnn.LSTMCell),
    "GRUCell": cell(rnn.GRUCell),
    "PeepholeLSTM": stacked(rnn.PeepholeLSTM),
    "CoupledLSTM": stacked(rnn.CoupledLSTM),
    "LayerNormLSTM": stacked(rnn.LayerNormLSTM),
    "LayerNormGRU": stacked(rnn.LayerNormGRU),
    "SLSTM": stacked(rnn.SLSTM),
    "torch LSTM": stacked(nn.LSTM),
    "torch GRU": stacked(nn.GRU),
    "torch LSTMCell": cell(nn.LSTMCell),
    "torch GRUCell": cell(nn.GRUCell),
}
PLAIN = {
    "RNN": stacked(rnn.RNN),
    "RNNCell": cell(rnn.RNNCell),
    "torch RNN": stacked(nn.RNN),
    "torch RNNCell": cell(nn.RNNCell),
}
REFINED = {"CoupledLSTM refined": stacked(partial(rnn.CoupledLSTM, refine=True))}
gated = pytest.mark.parametrize("make", GATED.values(), ids=GATED)
refined_too = pytest.mark.parametrize("make", (GATED | REFINED).values(), ids=GATED | REFINED)
every = pytest.mark.parametrize("make", (GATED | REFINED | PLAIN).values(), ids=GATED | REFINED | PLAIN)


def places(layer: Any) -> list[str]:
    names = [name.removeprefix("weight_hh") for name, _ in layer.named_parameters() if "weight_hh" in name]
    assert len(names) == (4 if isinstance(layer, nn.RNNBase) else 1)
    return names


def gates(layer: Any, name: str, place: str) -> Tensor:
    """The weight's rows gate by gate: (G, H) of a bias, (G, H, F) of a matrix."""
    weight = getattr(layer, name + place).detach()
    return weight.reshape(-1, H, *weight.shape[1:])


def roles(layer: Any) -> tuple[int, list[int]]:
    """The gate that keeps the old state, and the gates that may begin as its opposite."""
    names = getattr(layer, "gate_names", None)
    if names is None:
        return ROLES[len(gates(layer, "bias_ih", places(layer)[0]))]
    keeps = names.index("update" if "update" in names else "forget")
    return keeps, [k for k, name in enumerate(names) if name in ("input", "refine")]


def kept(layer: Any, place: str) -> Tensor:
    """What b_ih and b_hh add up to in the gate that keeps the old state, (H,)."""
    whole, zero = gates(layer, "bias_ih", place), gates(layer, "bias_hh", place)
    gate, _ = roles(layer)
    assert zero[gate].eq(0).all()
    return whole[gate]


def assert_else_unchanged(layer: Any, before: Any, changed: set[tuple[str, int]]) -> None:
    for place in places(layer):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            pairs = zip(gates(layer, name, place), gates(before, name, place), strict=True)
            for gate, (now, then) in enumerate(pairs):
                assert torch.equal(now, then) == ((name, gate) not in changed), (name, place, gate)
    own = [
        name for name, _ in layer.named_parameters() if name.startswith(("weight_norm", "weight_peephole"))
    ]
    assert all(torch.equal(getattr(layer, name), getattr(before, name)) for name in own)


def both_biases(*gate: int) -> set[tuple[str, int]]:
    return {(name, g) for name in ("bias_ih", "bias_hh") for g in gate}


@refined_too
@pytest.mark.parametrize("value", [1.0, -2.5])
def test_forget_bias_is_the_sum_of_both_biases(make: Make, value: float) -> None:
    layer = make()
    before = copy.deepcopy(layer)
    assert forget_bias_(layer, value) is layer
    for place in places(layer):
        assert torch.equal(kept(layer, place), torch.full((H,), value, dtype=torch.float64))
    assert_else_unchanged(layer, before, both_biases(roles(layer)[0]))


@gated
def test_chrono_draws_as_many_steps_as_it_says(make: Make) -> None:
    layer = make()
    before = copy.deepcopy(layer)
    assert chrono_(layer, 1000, torch.Generator().manual_seed(31)) is layer
    generator = torch.Generator().manual_seed(31)
    for place in places(layer):
        u = torch.empty(H, dtype=torch.float64).uniform_(1, 999, generator=generator)
        assert torch.equal(kept(layer, place), u.log())
        for gate in roles(layer)[1]:
            assert torch.equal(gates(layer, "bias_ih", place)[gate], -u.log())
    keeps, against = roles(layer)
    assert_else_unchanged(layer, before, both_biases(keeps, *against))


def test_chrono_of_two_steps_is_no_bias_at_all() -> None:
    layer = chrono_(rnn.LSTM(F, H), 2)
    assert layer.bias_ih_l0[: 2 * H].eq(0).all()


@refined_too
def test_uniform_gate_opens_the_gate_to_u(make: Make) -> None:
    layer = make()
    before = copy.deepcopy(layer)
    assert uniform_gate_(layer, torch.Generator().manual_seed(32)) is layer
    generator = torch.Generator().manual_seed(32)
    for place in places(layer):
        u = torch.empty(H, dtype=torch.float64).uniform_(1 / H, 1 - 1 / H, generator=generator)
        torch.testing.assert_close(kept(layer, place), -torch.log(1 / u - 1), rtol=0, atol=1e-13)
        torch.testing.assert_close(kept(layer, place).sigmoid(), u, rtol=0, atol=1e-15)
        for gate in roles(layer)[1]:
            assert torch.equal(gates(layer, "bias_ih", place)[gate], -kept(layer, place))
    keeps, against = roles(layer)
    assert_else_unchanged(layer, before, both_biases(keeps, *against))


@refined_too
def test_linspace_is_a_ladder(make: Make) -> None:
    layer = make()
    before = copy.deepcopy(layer)
    assert linspace_(layer, 2.0, 6.0) is layer
    for place in places(layer):
        assert torch.equal(kept(layer, place), 2.0 + torch.arange(H, dtype=torch.float64) / 8)
    assert_else_unchanged(layer, before, both_biases(roles(layer)[0]))
    assert torch.equal(linspace_(rnn.LSTM(F, H)).bias_ih_l0[[H, 2 * H - 1]], torch.tensor([3.0, 6.0]))


@pytest.mark.parametrize("kind", [rnn.LSTM, rnn.GRU])
def test_the_sign_lets_a_state_last_the_steps_that_the_bias_says(kind: Any) -> None:
    """No weights, no input: after s steps a state is f^s of what it was, f = σ(b) = 1 − 1 / (1 + exp(b))."""
    layer = kind(1, 7, dtype=torch.float64)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
    linspace_(layer, 0.0, 6.0)
    steps, state = 63, torch.linspace(0.1, 0.7, 7, dtype=torch.float64).reshape(1, 1, 7)
    x = torch.zeros(steps, 1, 1, dtype=torch.float64)
    share = (1 - 1 / (1 + torch.arange(7, dtype=torch.float64).exp())) ** steps
    last = layer(x, (torch.zeros_like(state), state))[1][1] if kind is rnn.LSTM else layer(x, state)[1]
    torch.testing.assert_close(last, state * share, rtol=1e-12, atol=0)


def test_a_refine_gate_begins_as_the_forget_gates_opposite() -> None:
    """So what is kept, e = f (2 - 3 f + 2 f²), lies in 0..1 as f does, and nearer to 1/2 (Gu et al. 2020)."""
    layer = uniform_gate_(REFINED["CoupledLSTM refined"]())
    for place in places(layer):
        f, r, _, _ = gates(layer, "bias_ih", place).sigmoid()
        torch.testing.assert_close(r, 1 - f, rtol=0, atol=1e-15)
        e = 2 * r * f + (1 - 2 * r) * f**2
        torch.testing.assert_close(e, f * (2 - 3 * f + 2 * f**2), rtol=0, atol=1e-15)
        assert ((e - 0.5).abs() <= (f - 0.5).abs()).all()


@every
def test_orthogonal_is_so_for_each_gate(make: Make) -> None:
    layer = make()
    before = copy.deepcopy(layer)
    assert orthogonal_(layer, 3.0) is layer
    for place in places(layer):
        blocks = gates(layer, "weight_hh", place)
        for block in blocks:
            identity = 9 * torch.eye(H, dtype=torch.float64)
            torch.testing.assert_close(block @ block.T, identity, rtol=0, atol=1e-12)
        for k in range(1, len(blocks)):
            assert not torch.equal(blocks[0], blocks[k])
    count = len(gates(layer, "weight_hh", places(layer)[0]))
    assert_else_unchanged(layer, before, {("weight_hh", gate) for gate in range(count)})


def test_orthogonal_columns_with_a_projection() -> None:
    layer = orthogonal_(rnn.LSTM(F, H, proj_size=7, dtype=torch.float64))
    for block in gates(layer, "weight_hh", "_l0"):
        assert block.shape == (H, 7)
        torch.testing.assert_close(block.T @ block, torch.eye(7, dtype=torch.float64), rtol=0, atol=1e-13)


@every
def test_xavier_counts_each_gate_as_a_layer(make: Make) -> None:
    layer = make()
    before = copy.deepcopy(layer)
    assert xavier_(layer, 2.0, torch.Generator().manual_seed(33)) is layer
    generator = torch.Generator().manual_seed(33)
    for place in places(layer):
        blocks = gates(layer, "weight_ih", place)
        features = 2 * H if place.startswith("_l1") else F
        limit = 2 * math.sqrt(6 / (features + H))
        for block in blocks:
            drawn = torch.empty(H, features, dtype=torch.float64).uniform_(-limit, limit, generator=generator)
            torch.testing.assert_close(block, drawn, rtol=0, atol=1e-15)
    count = len(gates(layer, "weight_ih", places(layer)[0]))
    assert_else_unchanged(layer, before, {("weight_ih", gate) for gate in range(count)})


def test_layers_and_directions_are_drawn_apart_and_a_seed_repeats_them() -> None:
    draws: list[Callable[[Any, torch.Generator | None], Any]] = [
        lambda layer, generator: chrono_(layer, 50, generator),
        uniform_gate_,
        lambda layer, generator: xavier_(orthogonal_(layer, 1.0, generator), 1.0, generator),
    ]
    for draw in draws:
        layers = [GATED["LSTM"]() for _ in range(3)]
        for layer, number in zip(layers, (5, 5, 6), strict=True):
            layer.load_state_dict(layers[0].state_dict())
            draw(layer, torch.Generator().manual_seed(number))
        first, same, other = ([w.detach() for w in layer.parameters()] for layer in layers)
        assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
        seen = [
            gates(layers[0], name, p).sum().item()
            for p in places(layers[0])
            for name in ("bias_ih", "weight_hh")
        ]
        assert len(set(seen)) == len(seen)
        torch.manual_seed(34)
        unseeded = [w.detach().clone() for w in draw(layers[0], None).parameters()]
        torch.manual_seed(34)
        again = draw(layers[1], None).parameters()
        changed = [not torch.equal(a, b) for a, b in zip(unseeded, first, strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(unseeded, again, strict=True))
        assert not any(changed), "unseeded shares its memory with first: the layer was set in place"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gets_the_rounded_numbers(dtype: torch.dtype) -> None:
    half, full = rnn.LSTM(F, H, dtype=dtype), rnn.LSTM(F, H)
    full.load_state_dict(half.state_dict())
    for layer in (half, full):
        generator = torch.Generator().manual_seed(35)
        xavier_(orthogonal_(chrono_(layer, 300, generator), 1.0, generator), 1.0, generator)
    for mine, exact in zip(half.parameters(), full.parameters(), strict=True):
        assert torch.equal(mine, exact.to(dtype))


def test_no_gradient_and_no_graph_is_left_and_training_goes_on() -> None:
    layer = GATED["LSTM"]()
    weights = list(layer.parameters())
    orthogonal_(xavier_(chrono_(layer, 63)))
    assert all(w.requires_grad and w.is_leaf and w.grad is None for w in layer.parameters())
    assert all(now is then for now, then in zip(layer.parameters(), weights, strict=True))
    layer(torch.ones(3, 1, F, dtype=torch.float64))[0].sum().backward()
    assert all(w.grad is not None for w in layer.parameters())


def test_a_step_after_it_uses_the_new_weights() -> None:
    """A step of the engine keeps what it has checked of the weights: it must see them change in place."""
    ours, theirs = rnn.LSTMCell(F, H), nn.LSTMCell(F, H)
    x, state = torch.rand(1, F), (torch.rand(1, H), torch.rand(1, H))
    with torch.inference_mode():
        before = ours(x, state)[1]
    orthogonal_(forget_bias_(ours, 2.0))
    theirs.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        assert not torch.equal(ours(x, state)[1], before)
        for mine, right in zip(ours(x, state), theirs(x, state), strict=True):
            torch.testing.assert_close(mine, right)


class Coupled(nn.Module):
    """A cell of one's own: three gates, which are not a GRU's."""

    gate_names = ("candidate", "forget", "output")

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = H
        for name in ("weight_ih", "weight_hh"):
            setattr(self, name, nn.Parameter(torch.zeros(3 * H, F if name == "weight_ih" else H)))
        for name in ("bias_ih", "bias_hh"):
            setattr(self, name, nn.Parameter(torch.full((3 * H,), 0.5)))


def test_a_cell_that_names_its_gates_is_taken_at_its_word() -> None:
    layer = chrono_(Coupled(), 2)
    expected = [0.5, 0.0, 0.5]
    assert gates(layer, "bias_ih", "").mean(1).tolist() == expected
    assert gates(layer, "bias_hh", "").mean(1).tolist() == expected


@pytest.mark.parametrize(("set_biases", "name"), list(zip(BIASES, BIAS_NAMES, strict=True)), ids=BIAS_NAMES)
def test_biases_need_biases_and_a_gate(set_biases: Any, name: str) -> None:
    for make in GATED.values():
        layer = make(bias=False)
        with pytest.raises(
            ValueError,
            match=rf"^layer: expected a layer with biases, which {name} sets, got .*bias=False; build",
        ):
            set_biases(layer)
    for make in PLAIN.values():
        layer = make()
        before = copy.deepcopy(layer)
        with pytest.raises(
            ValueError,
            match=rf"^layer: expected an LSTM or a GRU, .*{name} sets, got RNN.*no such gate; leave",
        ):
            set_biases(layer)
        assert_else_unchanged(layer, before, set())


@every
def test_matrices_need_no_biases(make: Make) -> None:
    layer = orthogonal_(xavier_(make(bias=False)))
    block = gates(layer, "weight_hh", places(layer)[0])[0]
    torch.testing.assert_close(block @ block.T, torch.eye(H, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "wrong", [nn.Linear(F, H), nn.Sequential(rnn.LSTM(F, H))], ids=["Linear", "Sequential"]
)
def test_what_is_no_recurrent_layer_is_refused(wrong: nn.Module) -> None:
    for call in (*BIASES, orthogonal_, xavier_):
        with pytest.raises(
            ValueError, match=r"^layer: expected a recurrent .* got (Linear|Sequential); give \w+_ the"
        ):
            call(wrong)


def test_a_strange_number_of_gates_is_refused() -> None:
    layer = Coupled()
    layer.gate_names = ("forget", "output")  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"weight_hh of 4, 3 or 1 times 33 rows.* got 99 rows in Coupled; name the"
    ):
        orthogonal_(layer)
    two = rnn.RNN(F, H)
    two.weight_hh_l0 = nn.Parameter(torch.zeros(2 * H, H))
    with pytest.raises(
        ValueError, match=r"expected weight_hh_l0 of 4, 3 or 1 times 33 rows.* got 66 rows in RNN;"
    ):
        xavier_(two)


def test_arguments_out_of_range_are_refused() -> None:
    layer = rnn.GRU(F, H)
    before = copy.deepcopy(layer.state_dict())
    for longest in (1.99, -5, math.inf, math.nan):
        with pytest.raises(
            ValueError, match=rf"^longest: expected .* at least 2, got {longest}; give the longest"
        ):
            chrono_(layer, longest)
    for value in (math.inf, math.nan):
        with pytest.raises(ValueError, match=rf"^value: expected a finite number, got {value}; 1.0 is"):
            forget_bias_(layer, value)
        with pytest.raises(ValueError, match=rf"^first: expected a finite bias, got {value}; 3.0"):
            linspace_(layer, value)
        with pytest.raises(ValueError, match=rf"^last: expected a finite bias, got {value}; 3.0"):
            linspace_(layer, 1.0, value)
    for gain in (0.0, -1.0, math.inf, math.nan):
        for call in (orthogonal_, xavier_):
            with pytest.raises(ValueError, match=rf"^gain: expected a positive number, got {gain}; 1.0"):
                call(layer, gain)
    with pytest.raises(
        ValueError, match=r"^layer: expected at least 2 hidden units, .* got 1; use forget_bias_"
    ):
        uniform_gate_(rnn.LSTM(F, 1))
    assert all(torch.equal(now, before[name]) for name, now in layer.state_dict().items())


def test_orthogonal_is_so_for_each_head() -> None:
    layer = orthogonal_(rnn.SLSTM(F, 6, heads=2, dtype=torch.float64))
    blocks = layer.weight_hh_l0.detach().view(8, 3, 3)
    torch.testing.assert_close(
        blocks @ blocks.mT, torch.eye(3, dtype=torch.float64).expand(8, 3, 3), rtol=0, atol=1e-13
    )


def test_chrono_leaves_the_refine_gate_alone() -> None:
    layer = rnn.CoupledLSTM(F, 7, refine=True)
    before = layer.bias_ih_l0[7:14].clone()
    assert chrono_(layer, 50).bias_ih_l0[7:14].equal(before)
