"""The plain cells against torch's layers, and their hand-derived gradients against autograd, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from recurra.engine.cells import gru, lstm, rnn
from recurra.engine.gradients import gru_backward, lstm_backward, rnn_backward

TOLERANCE = 1e-10
KINDS = ("lstm", "lstm projected", "gru", "tanh", "relu")
GATES = {"lstm": 4, "lstm projected": 4, "gru": 3, "tanh": 1, "relu": 1}
# N, T, F, H
SIZES = [(1, 1, 1, 1), (7, 1, 33, 7), (1, 33, 7, 7), (7, 7, 1, 33), (33, 7, 7, 1), (7, 33, 33, 7)]
TORCHS = [(k, s) for k in KINDS for s in SIZES if k != "lstm projected" or s[3] > 1]  # torch wants P < H


@dataclass(frozen=True)
class Problem:
    """One cell with its weights, an input and initial states. `states` is (h_0,) or (h_0, c_0)."""

    kind: str
    x: Tensor
    states: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]  # w_ih, w_hh
    biases: tuple[Tensor, ...]  # b_ih, b_hh, or none
    w_hr: Tensor | None
    lengths: Tensor | None
    reverse: bool
    resets: Tensor | None = None
    reset_to_initial: bool = False

    @property
    def options(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {
            "lengths": self.lengths,
            "reverse": self.reverse,
            "resets": self.resets,
            "reset_to_initial": self.reset_to_initial,
        }
        if self.w_hr is not None:
            chosen["w_hr"] = self.w_hr
        if self.kind in ("tanh", "relu"):
            chosen["nonlinearity"] = self.kind
        return chosen

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """All that has a gradient, in the order x, states, w_ih, w_hh, b_ih, b_hh, w_hr."""
        return self.x, *self.states, *self.weights, *self.biases, *(() if self.w_hr is None else (self.w_hr,))

    def with_leaves(self, leaves: tuple[Tensor, ...]) -> Problem:
        rest = iter(leaves)
        return replace(
            self,
            x=next(rest),
            states=tuple(itertools.islice(rest, len(self.states))),
            weights=tuple(itertools.islice(rest, 2)),
            biases=tuple(itertools.islice(rest, len(self.biases))),
            w_hr=next(rest, None),
        )

    def tracked(self) -> Problem:
        return self.with_leaves(tuple(leaf.detach().clone().requires_grad_() for leaf in self.leaves))


def make(
    kind: str,
    sizes: tuple[int, int, int, int],
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    bias: bool = True,
    seed: int = 0,
) -> Problem:
    n, t, f, h = sizes
    source = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=source)

    gates = GATES[kind]
    p = max(1, h // 2) if kind == "lstm projected" else h
    return Problem(
        kind=kind,
        x=draw(n, t, f),
        states=(draw(n, p), draw(n, h)) if gates == 4 else (draw(n, h),),
        weights=(draw(gates * h, f) / f**0.5, draw(gates * h, p) / p**0.5),
        biases=(draw(gates * h), draw(gates * h)) if bias else (),
        w_hr=draw(p, h) / h**0.5 if kind == "lstm projected" else None,
        lengths=lengths,
        reverse=reverse,
    )


def forward(problem: Problem) -> Any:
    cell: Callable[..., Any] = {"lstm": lstm, "lstm projected": lstm, "gru": gru}.get(problem.kind, rnn)
    biases = problem.biases or (None, None)
    return cell(problem.x, *problem.states, *problem.weights, *biases, **problem.options)


def results(problem: Problem) -> tuple[Tensor, ...]:
    """Output and final states."""
    states = forward(problem)
    return states.output, states.h_n, *((states.c_n,) if len(problem.states) == 2 else ())


def backward(problem: Problem, upstream: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The hand-derived gradients, in the order of `Problem.leaves`."""
    by_hand: Callable[..., Any] = {
        "lstm": lstm_backward,
        "lstm projected": lstm_backward,
        "gru": gru_backward,
    }.get(problem.kind, rnn_backward)
    with torch.no_grad():
        grads = by_hand(
            forward(problem), *upstream, problem.x, *problem.states, *problem.weights, **problem.options
        )
    states = (grads.h_0, grads.c_0) if len(problem.states) == 2 else (grads.h_0,)
    biases = (grads.b_ih, grads.b_hh) if problem.kind == "gru" else (grads.bias, grads.bias)
    w_hr = () if problem.w_hr is None else (grads.w_hr,)
    return grads.x, *states, grads.w_ih, grads.w_hh, *biases[: len(problem.biases)], *w_hr


def upstream_of(problem: Problem, seed: int) -> tuple[Tensor, ...]:
    source = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(r.shape, dtype=r.dtype, generator=source) for r in results(problem))


def check_gradients(problem: Problem, seed: int = 1) -> None:
    upstream = upstream_of(problem, seed)
    tracked = problem.tracked()
    expected = torch.autograd.grad(results(tracked), tracked.leaves, upstream, materialize_grads=True)
    found = backward(problem, upstream)
    assert len(found) == len(expected)
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, truth, rtol=TOLERANCE, atol=TOLERANCE)


def ragged(n: int, t: int) -> Tensor:
    """Lengths in no order, from zero to all T, with both ends among them where there is room."""
    return torch.tensor([(5 * row + t) % (t + 1) for row in range(n)])


def torch_layer(problem: Problem) -> torch.nn.RNNBase:
    """torch's own layer with the problem's weights in both directions."""
    f, h = problem.x.shape[2], problem.weights[0].shape[0] // GATES[problem.kind]
    options: dict[str, Any] = {"batch_first": True, "bidirectional": True, "bias": bool(problem.biases)}
    layer: torch.nn.RNNBase
    if problem.kind == "gru":
        layer = torch.nn.GRU(f, h, **options)
    elif problem.kind in ("tanh", "relu"):
        layer = torch.nn.RNN(f, h, nonlinearity=problem.kind, **options)
    else:
        layer = torch.nn.LSTM(f, h, proj_size=0 if problem.w_hr is None else problem.w_hr.shape[0], **options)
    layer = layer.double()
    w_hr = () if problem.w_hr is None else (problem.w_hr,)
    with torch.no_grad():
        for weights in layer.all_weights:
            for parameter, value in zip(weights, (*problem.weights, *problem.biases, *w_hr), strict=True):
                parameter.copy_(value)
    return layer


def torch_results(problem: Problem, layer: torch.nn.RNNBase) -> tuple[Tensor, ...]:
    """Output and final states of torch's layer in the problem's direction; its lengths must be positive."""
    t, side = problem.x.shape[1], int(problem.reverse)
    both = tuple(torch.stack((state, state)) for state in problem.states)
    initial = both if len(both) == 2 else both[0]
    if problem.lengths is None:
        output, final = layer(problem.x, initial)
    else:
        packed = pack_padded_sequence(problem.x, problem.lengths, batch_first=True, enforce_sorted=False)
        output, final = layer(packed, initial)
        output, _ = pad_packed_sequence(output, batch_first=True, total_length=t)
    output = output.chunk(2, dim=-1)[side]
    return output, *(state[side] for state in (final if len(both) == 2 else (final,)))


@pytest.mark.parametrize(("kind", "sizes"), TORCHS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_forward_is_torchs(kind: str, sizes: tuple[int, int, int, int], reverse: bool, whole: bool) -> None:
    n, t, _, h = sizes
    lengths = None if whole else ragged(n, t).clamp(min=1)
    for bias in (True, False):
        problem = make(kind, sizes, lengths=lengths, reverse=reverse, bias=bias, seed=n + t + h).tracked()
        ours = results(problem)
        layer = torch_layer(problem)
        theirs = torch_results(problem, layer)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)

        upstream = upstream_of(problem, seed=3)
        weights = tuple(layer.all_weights[int(reverse)])
        expected = torch.autograd.grad(theirs, (problem.x, *problem.states, *weights), upstream)
        found = torch.autograd.grad(ours, problem.leaves, upstream)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_hand_derived_gradients_are_autograds(
    kind: str, sizes: tuple[int, int, int, int], reverse: bool, whole: bool, bias: bool
) -> None:
    lengths = None if whole else ragged(*sizes[:2])
    check_gradients(make(kind, sizes, lengths=lengths, reverse=reverse, bias=bias, seed=sum(sizes)))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    n, t, f, h = (draw(st.integers(low, 9)) for low in (1, 0, 1, 1))
    dtype = draw(st.sampled_from([torch.int64, torch.int32, torch.int16, torch.uint8]))
    lengths = draw(st.none() | st.lists(st.integers(0, t), min_size=n, max_size=n))
    resets = draw(st.none() | st.lists(st.booleans(), min_size=n * t, max_size=n * t))
    problem = make(
        draw(st.sampled_from(KINDS)),
        (n, t, f, h),
        lengths=None if lengths is None else torch.tensor(lengths, dtype=dtype),
        reverse=draw(st.booleans()),
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
    )
    return replace(
        problem,
        resets=None if resets is None else torch.tensor(resets, dtype=torch.bool).view(n, t),
        reset_to_initial=draw(st.booleans()),
    )


@settings(max_examples=100, deadline=None)
@given(problem=problems(), seed=st.integers(0, 2**31))
def test_hand_derived_gradients_are_autograds_whatever_the_shape(problem: Problem, seed: int) -> None:
    check_gradients(problem, seed)


@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_each_row_is_as_if_it_ran_alone(problem: Problem) -> None:
    n, t = problem.x.shape[:2]
    together = forward(problem)
    lengths = torch.full((n,), t) if problem.lengths is None else problem.lengths.long()
    for row, length in enumerate(lengths.tolist()):
        alone = forward(
            replace(
                problem,
                x=problem.x[row : row + 1, :length],
                states=tuple(s[row : row + 1] for s in problem.states),
                lengths=None,
                resets=None if problem.resets is None else problem.resets[row : row + 1, :length],
            )
        )
        for name, state, expected in zip(together._fields, together, alone, strict=True):
            if name in ("h_n", "c_n"):
                torch.testing.assert_close(state[row], expected[0], rtol=TOLERANCE, atol=TOLERANCE)
            else:
                torch.testing.assert_close(state[row, :length], expected[0], rtol=TOLERANCE, atol=TOLERANCE)
                assert torch.equal(state[row, length:], torch.zeros_like(state[row, length:]))


@pytest.mark.parametrize("kind", KINDS)
def test_reverse_is_forward_on_the_row_turned_round(kind: str) -> None:
    problem = make(kind, (7, 33, 7, 7), seed=11)
    backwards = forward(replace(problem, reverse=True))
    turned = forward(replace(problem, x=problem.x.flip(1)))
    for name, state, expected in zip(backwards._fields, backwards, turned, strict=True):
        expected = expected if name in ("h_n", "c_n") else expected.flip(1)
        torch.testing.assert_close(state, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_what_lies_beyond_a_rows_length_touches_nothing(kind: str, reverse: bool) -> None:
    clean = make(kind, (7, 9, 3, 5), lengths=torch.tensor([9, 0, 3, 1, 8, 0, 5]), reverse=reverse, seed=5)
    x = clean.x.clone()
    states = tuple(s.clone() for s in clean.states)
    for row, length in enumerate(clean.lengths.tolist()):
        x[row, length:] = torch.nan
        if length == 0:
            for state in states:
                state[row] = torch.nan
    dirty = replace(clean, x=x, states=states)
    rows = [0, 2, 3, 4, 6]

    for name, a, b in zip(forward(clean)._fields, forward(clean), forward(dirty), strict=True):
        assert torch.equal(a[rows], b[rows]), name
    upstream = upstream_of(clean, 6)
    spoiled = tuple(u.clone() for u in upstream)
    for row, length in enumerate(clean.lengths.tolist()):
        spoiled[0][row, length:] = torch.nan
    tracked = dirty.tracked()
    automatic = torch.autograd.grad(results(tracked), tracked.leaves, spoiled)
    for found in (automatic, backward(dirty, spoiled)):
        for a, b in zip(found, backward(clean, upstream), strict=True):
            torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged_rows", [False, True])
def test_nan_in_one_row_leaves_the_others_alone(kind: str, reverse: bool, ragged_rows: bool) -> None:
    lengths = torch.tensor([3, 7, 0, 5, 7]) if ragged_rows else None
    clean = make(kind, (5, 7, 3, 5), lengths=lengths, reverse=reverse, seed=7)
    x = clean.x.clone()
    x[3, 2] = torch.nan
    dirty = replace(clean, x=x)
    others = [0, 1, 2, 4]
    for name, a, b in zip(forward(clean)._fields, forward(clean), forward(dirty), strict=True):
        assert torch.equal(a[others], b[others]), name
        assert b[3].isnan().any() or name in ("h_n", "c_n")
    upstream = upstream_of(clean, 8)
    per_row = 1 + len(clean.states)  # x and the initial states; the weights see every row
    for a, b in zip(backward(clean, upstream)[:per_row], backward(dirty, upstream)[:per_row], strict=True):
        assert torch.equal(a[others], b[others])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, torch.zeros(3, dtype=torch.int64)])
def test_no_steps_end_where_they_began(kind: str, lengths: Tensor | None) -> None:
    problem = make(kind, (3, 0, 7, 5), lengths=lengths)
    states = forward(problem)
    width = problem.states[0].shape[1]
    assert states.output.shape == (3, 0, width)
    assert torch.equal(states.h_n, problem.states[0])
    if kind != "gru" and len(problem.states) == 2:
        assert states.gates.shape == (3, 0, 4, 5)
        assert states.cell.shape == (3, 0, 5)
        assert torch.equal(states.c_n, problem.states[1])
    if kind == "gru":
        assert states.gates.shape == (3, 0, 3, 5)
        assert states.recurrent_candidate.shape == (3, 0, 5)
    check_gradients(problem)


def test_gates_are_activated_and_in_torchs_order() -> None:
    """With every weight zero the gates are their biases' activations, so each can be told from the others."""
    bias = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat_interleave(7)
    zeros = {"w_ih": torch.zeros(28, 3), "w_hh": torch.zeros(28, 7)}
    n, t = 5, 9
    state = torch.full((n, 7), 0.25)
    states = lstm(torch.randn(n, t, 3), state, state, **zeros, b_ih=bias, b_hh=None)
    i, f, o = torch.tensor([1.0, 2.0, 4.0]).sigmoid()
    expected = torch.stack((i, f, torch.tensor(3.0).tanh(), o))
    torch.testing.assert_close(states.gates, expected.view(4, 1).expand(n, t, 4, 7))
    torch.testing.assert_close(states.cell[:, 0], expected[1] * state + expected[0] * expected[2])
    torch.testing.assert_close(states.output, expected[3] * states.cell.tanh())

    updated = gru(torch.randn(n, t, 3), state, torch.zeros(21, 3), torch.zeros(21, 7), bias[:21], bias[:21])
    r, z = torch.tensor([2.0, 4.0]).sigmoid()
    candidate = torch.tanh(3.0 + r * 3.0)
    torch.testing.assert_close(updated.gates, torch.stack((r, z, candidate)).view(3, 1).expand(n, t, 3, 7))
    torch.testing.assert_close(updated.recurrent_candidate, torch.full((n, t, 7), 3.0))
    torch.testing.assert_close(updated.output[:, 0], (1 - z) * candidate + z * state)


def test_an_open_forget_gate_carries_gradient_over_a_thousand_steps() -> None:
    """∂c_T/∂c_0 is the product of the forget gates; the plain RNN's gradient vanishes over the same way."""
    steps, hidden = 1000, 3
    bias = torch.zeros(4 * hidden, dtype=torch.float64)
    bias[hidden : 2 * hidden] = 9.0
    c_0 = torch.ones(1, hidden, dtype=torch.float64, requires_grad=True)
    h_0 = torch.zeros_like(c_0)
    x = torch.randn(1, steps, 2, dtype=torch.float64)
    w_ih = torch.zeros(4 * hidden, 2, dtype=torch.float64)
    w_hh = torch.zeros(4 * hidden, hidden, dtype=torch.float64)
    states = lstm(x, h_0, c_0, w_ih, w_hh, bias, None)
    (through_cell,) = torch.autograd.grad(states.c_n.sum(), c_0)
    torch.testing.assert_close(through_cell, states.gates[:, :, 1].prod(dim=1), rtol=TOLERANCE, atol=0)
    assert through_cell.min() > 0.85

    h_0.requires_grad_()
    plain = rnn(x, h_0, torch.ones(hidden, 2).double(), 0.9 * torch.eye(hidden).double(), None, None)
    (through_hidden,) = torch.autograd.grad(plain.h_n.sum(), h_0)
    assert through_hidden.abs().max() < 1e-40


# torch's own forward mode scripts its decompositions when first used, and torch warns of that itself.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_vmap_and_forward_mode_go_through(kind: str) -> None:
    problem = make(kind, (7, 5, 3, 3), lengths=torch.tensor([5, 0, 3, 1, 5, 2, 4]), seed=13)

    def loss(leaves: tuple[Tensor, ...], x: Tensor, states: tuple[Tensor, ...], lengths: Tensor) -> Tensor:
        given = replace(problem, x=x[None], states=tuple(s[None] for s in states), lengths=lengths[None])
        rest = leaves[1 + len(states) :]
        return sum(r.square().sum() for r in results(given.with_leaves((given.x, *given.states, *rest))))

    per_row = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))
    found = per_row(problem.leaves, problem.x, problem.states, problem.lengths)
    tracked = problem.tracked()
    total = sum(r.square().sum() for r in results(tracked))
    expected = torch.autograd.grad(total, tracked.leaves)
    for ours, truth in list(zip(found, expected, strict=True))[1 + len(problem.states) :]:
        torch.testing.assert_close(ours.sum(0), truth, rtol=TOLERANCE, atol=TOLERANCE)

    tangents = tuple(torch.ones_like(leaf) for leaf in problem.leaves)
    _, pushed = torch.func.jvp(lambda *leaves: results(problem.with_leaves(leaves)), problem.leaves, tangents)
    upstream = upstream_of(problem, 4)
    pulled = backward(problem, upstream)
    ahead = sum((u * p).sum() for u, p in zip(upstream, pushed, strict=True))
    behind = sum((g * t).sum() for g, t in zip(pulled, tangents, strict=True))
    torch.testing.assert_close(ahead, behind, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_result_keeps_the_inputs_dtype(kind: str, dtype: torch.dtype) -> None:
    exact = make(kind, (7, 5, 3, 3), lengths=torch.tensor([5, 0, 3, 1, 5, 2, 4]), reverse=True)
    rounded = exact.with_leaves(tuple(leaf.to(dtype) for leaf in exact.leaves))
    for ours, truth in zip(forward(rounded), forward(exact), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=40 * torch.finfo(dtype).eps)
    for grad, leaf in zip(backward(rounded, results(rounded)), rounded.leaves, strict=True):
        assert grad.dtype == dtype
        assert grad.shape == leaf.shape


def test_one_bias_may_be_missing() -> None:
    for kind in KINDS:
        problem = make(kind, (3, 5, 7, 3), seed=21)
        b_ih, b_hh = problem.biases
        cell: Callable[..., Any] = {"lstm": lstm, "lstm projected": lstm, "gru": gru}.get(kind, rnn)
        for given_biases, filled in (((b_ih, None), (b_ih, 0 * b_hh)), ((None, b_hh), (0 * b_ih, b_hh))):
            some = cell(problem.x, *problem.states, *problem.weights, *given_biases, **problem.options)
            full = cell(problem.x, *problem.states, *problem.weights, *filled, **problem.options)
            torch.testing.assert_close(some.output, full.output, rtol=TOLERANCE, atol=TOLERANCE)


def test_an_unknown_nonlinearity_is_refused() -> None:
    problem = make("tanh", (1, 1, 1, 1))
    arguments = (problem.x, *problem.states, *problem.weights)
    with pytest.raises(ValueError, match="nonlinearity: expected 'tanh' or 'relu', got 'selu'"):
        rnn(*arguments, None, None, nonlinearity="selu")
    states = rnn(*arguments, None, None)
    with pytest.raises(ValueError, match="nonlinearity: expected 'tanh' or 'relu', got 'Tanh'"):
        rnn_backward(states, states.output, states.h_n, *arguments, nonlinearity="Tanh")
