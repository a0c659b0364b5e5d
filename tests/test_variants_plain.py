"""The plain peephole and coupled LSTM, and stacks of cells, against loops in ordinary Python and the LSTM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_noise import (
    CELLS,
    DRAWN,
    GATES,
    TOLERANCE,
    WITH_CELL,
    Case,
    check_against_reference,
    eventful,
    for_kind,
    forward,
    make,
    results,
)
from torch import Tensor

from recurra.engine import plain
from recurra.engine.noise import Noise
from recurra.engine.stack import Stack, Steps
from recurra.engine.variants import CoupledStates

VARIANTS = ("peephole", "peephole projected", "coupled", "coupled projected")
SIZES = [(1, 1, 1, 1), (7, 1, 33, 7), (1, 33, 7, 7), (5, 7, 1, 33), (33, 3, 7, 1)]
STACKS = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "tanh", "rnn_relu": "relu"}
STACKS |= {"peephole": "peephole", "coupled": "coupled"}


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("reverse", [False, True])
def test_each_row_is_the_equations_step_by_step(
    kind: str, sizes: tuple[int, int, int, int], reverse: bool, seed: int
) -> None:
    case = make(kind, sizes, seed)
    check_against_reference(case.given(reverse=reverse), seed)
    check_against_reference(eventful(case, reverse, seed), seed + 1)
    check_against_reference(eventful(case, reverse, seed + 1), seed + 2)


def as_lstm(case: Case) -> Case:
    """The LSTM that computes what a coupled one does: i = σ(-a) where f = σ(a)."""
    units = case.states[-1].shape[1]
    rows = {name: w for name, w in case.weights.items() if name != "w_hr"}
    doubled = {name: torch.cat((-w[:units], w)) for name, w in rows.items()}
    return replace(case, kind="lstm", weights=case.weights | doubled)


@pytest.mark.parametrize("projected", ["", " projected"])
@pytest.mark.parametrize("noise", [None, DRAWN])
def test_a_coupled_lstm_is_an_lstm_whose_input_gate_is_one_less_forget(
    projected: str, noise: Noise | None
) -> None:
    coupled = eventful(make(f"coupled{projected}", (7, 9, 3, 5), 5), False, 5).given(noise=noise)
    ours, full = forward(coupled), forward(as_lstm(coupled))
    assert isinstance(ours, CoupledStates)
    for name in ("output", "h_n", "c_n", "cell"):
        torch.testing.assert_close(getattr(ours, name), getattr(full, name), rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(ours.gates, full.gates[:, :, 1:], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("projected", ["", " projected"])
@pytest.mark.parametrize("noise", [None, DRAWN])
def test_closed_peepholes_leave_an_lstm(projected: str, noise: Noise | None) -> None:
    case = eventful(make(f"peephole{projected}", (7, 9, 3, 5), 7), True, 7).given(noise=noise)
    closed = replace(case, weights=case.weights | {"peepholes": torch.zeros(3, 5, dtype=torch.float64)})
    weights = {name: w for name, w in case.weights.items() if name != "peepholes"}
    for a, b in zip(forward(closed), forward(replace(case, kind="lstm", weights=weights)), strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)
    assert not torch.allclose(forward(case).output, forward(closed).output)


def test_gates_are_activated_and_in_order() -> None:
    """With all other weights zero, each gate is told from the others by its bias and its peephole."""
    n, t, h = 3, 5, 7
    state = torch.full((n, h), 0.25)
    bias = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat_interleave(h)
    peepholes = torch.tensor([0.5, -1.0, 2.0]).unsqueeze(1).expand(3, h)
    zeros = {"w_ih": torch.zeros(4 * h, 3), "w_hh": torch.zeros(4 * h, h), "b_ih": bias, "b_hh": None}
    found = CELLS["peephole"](torch.randn(n, t, 3), state, state, **zeros, peepholes=peepholes)
    i, f, g = torch.tensor(1.125).sigmoid(), torch.tensor(1.75).sigmoid(), torch.tensor(3.0).tanh()
    cell = f * 0.25 + i * g
    first = torch.stack((i, f, g, (4 + 2 * cell).sigmoid()))
    torch.testing.assert_close(found.gates[:, 0], first.unsqueeze(1).expand(n, 4, h))
    torch.testing.assert_close(found.cell[:, 0], cell.expand(n, h))

    zeros = {
        "w_ih": torch.zeros(3 * h, 3),
        "w_hh": torch.zeros(3 * h, h),
        "b_ih": bias[: 3 * h],
        "b_hh": None,
    }
    found = CELLS["coupled"](torch.randn(n, t, 3), state, state, **zeros)
    gates = torch.stack((torch.tensor(1.0).sigmoid(), torch.tensor(2.0).tanh(), torch.tensor(3.0).sigmoid()))
    torch.testing.assert_close(found.gates, gates.unsqueeze(1).expand(n, t, 3, h))
    torch.testing.assert_close(found.cell[:, 0], (gates[0] * 0.25 + (1 - gates[0]) * gates[1]).expand(n, h))


@pytest.mark.parametrize("kind", VARIANTS)
def test_each_row_is_as_if_it_ran_alone(kind: str) -> None:
    case = eventful(make(kind, (7, 9, 3, 5), 11), True, 11)
    together = forward(case)
    for row, length in enumerate(case.options["lengths"].tolist()):
        options = {"lengths": None, "resets": case.options["resets"][row : row + 1, :length]}
        alone = replace(
            case, x=case.x[row : row + 1, :length], states=tuple(s[row : row + 1] for s in case.states)
        )
        for name, a, b in zip(together._fields, together, forward(alone.given(**options)), strict=True):
            a = a[row : row + 1]
            if name not in ("h_n", "c_n"):
                assert not a[:, length:].any()
                a = a[:, :length]
            torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_nan_stays_in_its_row_and_beyond_lengths_touches_nothing(kind: str, reverse: bool) -> None:
    clean = make(kind, (5, 7, 3, 5), 13, reverse=reverse, lengths=torch.tensor([3, 7, 0, 5, 7]))
    x, states = clean.x.clone(), [state.clone() for state in clean.states]
    x[3, 2] = torch.nan
    x[0, 3:] = torch.nan
    for state in states:
        state[2] = torch.nan
    dirty = clean.with_leaves([x, *states, *clean.weights.values()])
    others = [0, 1, 4]
    for a, b in zip(forward(clean), forward(dirty), strict=True):
        assert torch.equal(a[others], b[others])
    gradients = []
    for case in (clean.tracked(), dirty.tracked()):
        gradients.append(torch.autograd.grad(sum(r.sum() for r in results(case)), case.leaves[:3]))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a[others], b[others])


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("again", [False, True])
def test_neither_nan_nor_gradient_crosses_a_reset(kind: str, again: bool) -> None:
    resets = torch.zeros(3, 7, dtype=torch.bool)
    resets[:, 4] = True
    case = make(kind, (3, 7, 3, 5), 17, resets=resets, reset_to_initial=again, noise=DRAWN).tracked()
    (d_x,) = torch.autograd.grad(forward(case).output[:, 4:].sum(), case.x)
    assert not d_x[:, :4].any()
    assert d_x[:, 4:].all()
    spoiled = case.x.detach().clone()
    spoiled[:, 3] = torch.nan
    found = forward(replace(case, x=spoiled))
    assert found.output[:, 3].isnan().any()
    assert torch.equal(found.output[:, 4:], forward(case).output[:, 4:])


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("lengths", [None, torch.zeros(3, dtype=torch.int64)])
def test_no_steps_end_where_they_began(kind: str, lengths: Tensor | None) -> None:
    case = make(kind, (3, 0, 7, 5), 19, lengths=lengths, noise=DRAWN)
    found = forward(case)
    assert found.output.shape == (3, 0, case.states[0].shape[1])
    assert found.gates.shape == (3, 0, GATES[case.kind], 5)
    assert found.cell.shape == (3, 0, 5)
    assert torch.equal(found.h_n, case.states[0])
    assert torch.equal(found.c_n, case.states[1])


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_result_keeps_the_inputs_dtype(kind: str, dtype: torch.dtype) -> None:
    exact = make(kind, (7, 5, 3, 3), 29)
    exact = exact.with_leaves([leaf.to(dtype).double() for leaf in exact.leaves])
    rounded = forward(exact.with_leaves([leaf.to(dtype) for leaf in exact.leaves]))
    for ours, truth in zip(rounded, forward(exact), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=40 * torch.finfo(dtype).eps)


def layers(stack: Stack, features: int, rows: int, steps: int, seed: int) -> list[Case]:
    """A case for each layer and direction of the stack, with its weights and initial states."""
    name = STACKS[stack.kind] + (" projected" if stack.projection else "")
    widths = [features] + [stack.directions * stack.state] * (stack.depth - 1)
    return [
        make(name, (rows, steps, widths[layer], stack.hidden), seed + 10 * layer + direction)
        for layer in range(stack.depth)
        for direction in range(stack.directions)
    ]


def by_hand(stack: Stack, made: list[Case], x: Tensor, options: dict[str, Any]) -> tuple[Tensor, ...]:
    """Output, h_n and c_n of the stack, one cell after the other; streams count from the noise's layer."""
    below, states = x, []
    noise = options.get("noise")
    for layer in range(stack.depth):
        found = []
        for direction in range(stack.directions):
            case = replace(made[layer * stack.directions + direction], x=below)
            stream = 2 * ((0 if noise is None else noise.layer) + layer) + direction
            found.append(forward(case.given(**options, reverse=direction == 1, stream=stream)))
        below = torch.cat([f.output for f in found], dim=-1)
        states += found
    finals = [torch.stack([s.h_n for s in states])]
    if stack.kind in WITH_CELL:
        finals.append(torch.stack([s.c_n for s in states]))
    return below, *finals


def given_to_plain(made: list[Case]) -> tuple[list[Tensor], list[Tensor]]:
    """initial and weights, as `plain.run` takes them."""
    initial = [torch.stack(states) for states in zip(*(case.states for case in made), strict=True)]
    return initial, [weight for case in made for weight in case.weights.values()]


@pytest.mark.parametrize("kind", [*STACKS, "lstm projected", "peephole projected", "coupled projected"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(
    "noise", [None, DRAWN, DRAWN._replace(layer=3)], ids=["none", "drawn", "from layer 3"]
)
def test_a_stack_is_its_cells_one_after_the_other(kind: str, directions: int, noise: Noise | None) -> None:
    projection = 3 if kind.endswith("projected") else 0
    stack = Stack(kind.split()[0], hidden=7, projection=projection, depth=3, directions=directions)
    made = layers(stack, 3, rows=5, steps=7, seed=31)
    x, lengths = made[0].x, torch.tensor([7, 0, 1, 5, 7])
    resets = torch.rand(5, 7) < 0.3
    noise = noise and for_kind(noise, STACKS[stack.kind])
    truth = by_hand(stack, made, x, {"lengths": lengths, "resets": resets, "noise": noise})
    initial, weights = given_to_plain(made)
    steps = Steps(lengths=lengths, resets=resets)
    for a, b in zip(plain.run(stack, x, initial, weights, steps, noise), truth, strict=True):
        assert torch.equal(a, b)
    turned = plain.run(
        replace(stack, batch_first=False), x.transpose(0, 1).contiguous(), initial, weights, steps, noise
    )
    assert torch.equal(turned[0].transpose(0, 1), truth[0])
    _, states = plain.run_states(stack, x, initial, weights, steps, noise)
    assert len(states) == 3 * directions


@pytest.mark.parametrize("kind", ["peephole", "coupled"])
def test_a_packed_stack_without_initial_states(kind: str) -> None:
    stack = Stack(kind, hidden=5, depth=2, directions=2)
    made = layers(stack, 3, rows=3, steps=7, seed=37)
    made = [replace(case, states=tuple(torch.zeros_like(s) for s in case.states)) for case in made]
    lengths, batch_sizes = torch.tensor([7, 4, 1]), torch.tensor([3, 2, 2, 2, 1, 1, 1])
    x = made[0].x
    packed = torch.cat([x[: int(count), t] for t, count in enumerate(batch_sizes)])
    found = plain.run(stack, packed, (), given_to_plain(made)[1], Steps(batch_sizes=batch_sizes), DRAWN)
    output, *finals = by_hand(stack, made, x, {"lengths": lengths, "noise": DRAWN})
    entries = torch.cat([output[: int(count), t] for t, count in enumerate(batch_sizes)])
    for a, b in zip(found, (entries, *finals), strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["gru", "peephole"])
def test_one_compiled_graph_for_every_seed(kind: str) -> None:
    stack = Stack(kind, hidden=5, directions=2)
    made = layers(stack, 3, rows=3, steps=5, seed=43)
    initial, weights = given_to_plain(made)
    noise, graphs = for_kind(DRAWN, kind), []

    def run(x: Tensor, seed: Tensor) -> Tensor:
        return plain.run(stack, x, initial, weights, Steps(), noise._replace(seed=seed))[0]

    torch.compiler.reset()
    compiled = torch.compile(run, backend=lambda graph, _: graphs.append(graph) or graph, fullgraph=True)
    x = made[0].x.requires_grad_()
    for number in (1, 2**40 + 1, -3):
        found = compiled(x, torch.tensor(number))
        truth = plain.run(stack, x, initial, weights, Steps(), noise._replace(seed=number % 2**64))[0]
        torch.testing.assert_close(found, truth, rtol=TOLERANCE, atol=TOLERANCE)
        d_found, d_truth = (torch.autograd.grad(output.square().sum(), x) for output in (found, truth))
        torch.testing.assert_close(d_found, d_truth, rtol=TOLERANCE, atol=TOLERANCE)
    assert len(graphs) == 1


def test_the_weights_have_the_names_of_the_cell() -> None:
    marks = [torch.tensor(float(k)) for k in range(12)]
    named = plain.named_weights(Stack("peephole", 7, projection=3, depth=2), marks, place=1)
    assert {name: int(w) for name, w in named.items() if w is not None} == {
        "w_ih": 6, "w_hh": 7, "b_ih": 8, "b_hh": 9, "w_hr": 10, "peepholes": 11
    }  # fmt: skip
    named = plain.named_weights(Stack("coupled", 7, bias=False, depth=2), marks[:4], place=1)
    assert {name: w if w is None else int(w) for name, w in named.items()} == {
        "w_ih": 2, "w_hh": 3, "b_ih": None, "b_hh": None
    }  # fmt: skip
