"""Sequences that end in the middle of a row: each piece between `resets` as if it had been run by itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_cells import (
    KINDS,
    TOLERANCE,
    Problem,
    backward,
    check_gradients,
    forward,
    make,
    ragged,
    results,
    torch_layer,
    torch_results,
    upstream_of,
)
from torch import Tensor

SIZES = [(1, 1, 1, 3), (7, 1, 33, 7), (7, 9, 3, 5), (3, 33, 7, 7), (33, 7, 1, 2)]


def every_way(test: Callable[..., None]) -> Callable[..., None]:
    """Run `test` for each kind of cell, in both directions, putting the state back to either."""
    for name, values in (("kind", KINDS), ("reverse", (False, True)), ("reset_to_initial", (False, True))):
        test = pytest.mark.parametrize(name, values)(test)
    return test


def scattered(n: int, t: int) -> Tensor:
    """Resets (N, T) in some rows at step 0, in some not, in some at every step and in some at none."""
    resets = torch.rand(n, t) < 0.3
    resets[::3, 0] = True
    resets[1::4, 0] = False
    if n > 3:
        resets[2], resets[3] = True, False
    return resets


def pieces(problem: Problem, row: int) -> list[tuple[int, int, bool]]:
    """(first step, step after the last, starts from the initial state) in the order they are read."""
    steps = problem.x.shape[1]
    length = steps if problem.lengths is None else int(problem.lengths[row])
    begins = problem.resets[row, :length].tolist()
    cuts = [0, *(t for t in range(1, length) if begins[t]), length]
    found = [(a, b, problem.reset_to_initial) for a, b in itertools.pairwise(cuts) if a < b]
    if problem.reverse:
        found.reverse()
    if found and (problem.reverse or not begins[0]):
        found[0] = (*found[0][:2], True)
    return found


def each_piece_by_torch(problem: Problem, layer: torch.nn.RNNBase) -> tuple[Tensor, ...]:
    """Output and final states, from torch's layer run on one piece of one row after the other."""
    n, t = problem.x.shape[:2]
    rows = []
    for row in range(n):
        initial = tuple(state[row : row + 1] for state in problem.states)
        outputs = torch.zeros(1, t, initial[0].shape[1], dtype=torch.float64)
        final = initial
        for first, after, from_initial in pieces(problem, row):
            alone = replace(
                problem,
                x=problem.x[row : row + 1, first:after],
                states=initial if from_initial else tuple(torch.zeros_like(state) for state in initial),
                lengths=None,
            )
            output, *final = torch_results(alone, layer)
            outputs = torch.cat((outputs[:, :first], output, outputs[:, after:]), dim=1)
        rows.append((outputs, *final))
    return tuple(torch.cat(column) for column in zip(*rows, strict=True))


@every_way
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("whole", [False, True])
def test_each_piece_is_as_if_torch_ran_it_alone(
    kind: str, sizes: tuple[int, int, int, int], reverse: bool, whole: bool, reset_to_initial: bool
) -> None:
    n, t = sizes[:2]
    lengths = None if whole else ragged(n, t)
    problem = replace(
        make(kind, sizes, lengths=lengths, reverse=reverse, seed=sum(sizes)),
        resets=scattered(n, t),
        reset_to_initial=reset_to_initial,
    ).tracked()
    layer = torch_layer(problem)
    ours, theirs = results(problem), each_piece_by_torch(problem, layer)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)

    upstream = upstream_of(problem, seed=3)
    theirs_of = (problem.x, *problem.states, *layer.all_weights[int(reverse)])
    expected = torch.autograd.grad(theirs, theirs_of, upstream, materialize_grads=True)
    automatic = torch.autograd.grad(ours, problem.leaves, upstream, materialize_grads=True)
    for found in (automatic, backward(problem, upstream)):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@every_way
@pytest.mark.parametrize("bias", [False, True])
def test_hand_derived_gradients_are_autograds(
    kind: str, reverse: bool, reset_to_initial: bool, bias: bool
) -> None:
    for lengths in (None, ragged(7, 33)):
        problem = make(kind, (7, 33, 7, 7), lengths=lengths, reverse=reverse, bias=bias, seed=4)
        resets = scattered(7, 33)
        check_gradients(replace(problem, resets=resets, reset_to_initial=reset_to_initial))


# torch's own forward mode scripts its decompositions when first used, and torch warns of that itself.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@every_way
def test_vmap_and_forward_mode_go_through(kind: str, reverse: bool, reset_to_initial: bool) -> None:
    lengths = torch.tensor([5, 0, 3, 1, 5, 2, 4])
    problem = replace(
        make(kind, (7, 5, 3, 3), lengths=lengths, reverse=reverse, seed=13),
        resets=scattered(7, 5),
        reset_to_initial=reset_to_initial,
    )

    def loss(x: Tensor, states: tuple[Tensor, ...], lengths: Tensor, resets: Tensor) -> Tensor:
        row = replace(
            problem,
            x=x[None],
            states=tuple(state[None] for state in states),
            lengths=lengths[None],
            resets=resets[None],
        )
        return sum(r.square().sum() for r in results(row))

    given = (problem.x, problem.states, problem.lengths, problem.resets)
    d_x, d_states = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(*given)
    tracked = problem.tracked()
    total = sum(r.square().sum() for r in results(tracked))
    expected = torch.autograd.grad(total, (tracked.x, *tracked.states))
    for ours, truth in zip((d_x, *d_states), expected, strict=True):
        torch.testing.assert_close(ours, truth, rtol=TOLERANCE, atol=TOLERANCE)

    tangents = tuple(torch.ones_like(leaf) for leaf in problem.leaves)
    _, pushed = torch.func.jvp(lambda *leaves: results(problem.with_leaves(leaves)), problem.leaves, tangents)
    upstream = upstream_of(problem, 4)
    pulled = backward(problem, upstream)
    ahead = sum((u * p).sum() for u, p in zip(upstream, pushed, strict=True))
    behind = sum((g * t).sum() for g, t in zip(pulled, tangents, strict=True))
    torch.testing.assert_close(ahead, behind, rtol=TOLERANCE, atol=TOLERANCE)


def both_gradients(problem: Problem, upstream: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """autograd's and the hand-derived ones, each in the order of `Problem.leaves`."""
    tracked = problem.tracked()
    automatic = torch.autograd.grad(results(tracked), tracked.leaves, upstream, materialize_grads=True)
    return [automatic, backward(problem, upstream)]


@every_way
@pytest.mark.parametrize("ragged_rows", [False, True])
def test_resets_that_are_all_false_change_no_bit(
    kind: str, reverse: bool, reset_to_initial: bool, ragged_rows: bool
) -> None:
    lengths = ragged(7, 9) if ragged_rows else None
    without = make(kind, (7, 9, 3, 5), lengths=lengths, reverse=reverse, seed=9)
    none = torch.zeros(7, 9, dtype=torch.bool)
    with_none = replace(without, resets=none, reset_to_initial=reset_to_initial)
    for name, a, b in zip(forward(without)._fields, forward(without), forward(with_none), strict=True):
        assert torch.equal(a, b), name
    upstream = upstream_of(without, 10)
    (automatic, by_hand), (automatic_without, by_hand_without) = (
        both_gradients(problem, upstream) for problem in (with_none, without)
    )
    for a, b in zip(by_hand, by_hand_without, strict=True):
        assert torch.equal(a, b)
    # autograd adds what the GRU's hidden state gets from its three uses in another order.
    for a, b in zip(automatic, automatic_without, strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@every_way
def test_resets_beyond_a_rows_length_count_for_nothing(
    kind: str, reverse: bool, reset_to_initial: bool
) -> None:
    lengths = torch.tensor([9, 0, 3, 1, 8, 5, 7])
    resets = scattered(7, 9)
    within = torch.arange(9) < lengths.unsqueeze(1)
    problem = make(kind, (7, 9, 3, 5), lengths=lengths, reverse=reverse, seed=5)
    more, fewer = (
        replace(problem, resets=chosen, reset_to_initial=reset_to_initial)
        for chosen in (resets | ~within, resets & within)
    )
    for name, a, b in zip(forward(more)._fields, forward(more), forward(fewer), strict=True):
        assert torch.equal(a, b), name
    upstream = upstream_of(problem, 6)
    for found, expected in zip(both_gradients(more, upstream), both_gradients(fewer, upstream), strict=True):
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


@every_way
def test_no_gradient_crosses_a_reset(kind: str, reverse: bool, reset_to_initial: bool) -> None:
    """A loss on what is read after a reset at step 4 has exactly no gradient in what was read before it."""
    resets = torch.zeros(3, 9, dtype=torch.bool)
    resets[:, 4] = True
    problem = replace(
        make(kind, (3, 9, 7, 7), reverse=reverse, seed=17), resets=resets, reset_to_initial=reset_to_initial
    )
    before, after = (slice(4, 9), slice(0, 4)) if reverse else (slice(0, 4), slice(4, 9))
    upstream = upstream_of(problem, 18)
    upstream[0][:, before] = 0
    for d_x, *d_states in both_gradients(problem, upstream):
        assert torch.equal(d_x[:, before], torch.zeros_like(d_x[:, before]))
        assert d_x[:, after].any(dim=2).all()
        for d_state in d_states[: len(problem.states)]:
            assert d_state.any() == reset_to_initial


def spoilt(problem: Problem, row: int, first: int, value: float) -> Problem:
    x = problem.x.clone()
    x[row, first + 1] = value
    return replace(problem, x=x)


@every_way
@pytest.mark.parametrize("piece", [(0, 3), (3, 6), (6, 9)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_in_one_piece_stays_in_it(
    kind: str, reverse: bool, reset_to_initial: bool, piece: tuple[int, int], value: float
) -> None:
    row, (first, after) = 1, piece
    resets = torch.zeros(5, 9, dtype=torch.bool)
    resets[row, [3, 6]] = True
    resets[3] = True
    clean = replace(
        make(kind, (5, 9, 3, 5), lengths=torch.tensor([9, 9, 4, 7, 0]), reverse=reverse, seed=7),
        resets=resets,
        reset_to_initial=reset_to_initial,
    )
    dirty = spoilt(clean, row, first, value)
    elsewhere = torch.ones(5, 9, dtype=torch.bool)
    elsewhere[row, first:after] = False
    rows = torch.arange(5) != row
    read_first, read_last = (piece == end for end in (((6, 9), (0, 3)) if reverse else ((0, 3), (6, 9))))

    for name, a, b in zip(forward(clean)._fields, forward(clean), forward(dirty), strict=True):
        if name in ("h_n", "c_n"):
            same = rows if read_last else slice(None)
            assert torch.equal(a[same], b[same]), name
        else:
            assert torch.equal(a[elsewhere], b[elsewhere]), name
            assert not torch.equal(a, b), name

    upstream = upstream_of(clean, 8)
    bad = tuple(u.clone() for u in upstream)
    bad[0][row, first:after] = torch.nan
    if read_last:
        for final in bad[1:]:
            final[row] = torch.nan
    for (d_x, *good), (bad_x, *found) in zip(
        both_gradients(clean, upstream), both_gradients(dirty, bad), strict=True
    ):
        assert torch.equal(d_x[elsewhere], bad_x[elsewhere])
        assert bad_x[row, first:after].isnan().any()
        same = rows if read_first or reset_to_initial else slice(None)
        for a, b in zip(good[: len(clean.states)], found, strict=False):
            assert torch.equal(a[same], b[same])


@every_way
def test_nan_in_one_piece_stays_in_it_through_second_derivatives(
    kind: str, reverse: bool, reset_to_initial: bool
) -> None:
    resets = torch.zeros(3, 9, dtype=torch.bool)
    resets[1, [3, 6]] = True
    clean = replace(
        make(kind, (3, 9, 3, 5), reverse=reverse, seed=19), resets=resets, reset_to_initial=reset_to_initial
    )
    elsewhere = torch.ones(3, 9, dtype=torch.bool)
    elsewhere[1, 3:6] = False
    second = []
    for problem in (clean, spoilt(clean, 1, 3, math.nan)):
        x = problem.x.clone().requires_grad_()
        output = results(replace(problem, x=x))[0][elsewhere]
        (first,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        second.append(torch.autograd.grad(first[elsewhere].square().sum(), x)[0][elsewhere])
    assert second[0].any()
    assert torch.equal(*second)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_at_step_0_drops_the_initial_state_whatever_it_holds(kind: str) -> None:
    resets = scattered(7, 9)
    resets[5, 0] = True
    clean = replace(make(kind, (7, 9, 3, 5), seed=23), resets=resets)
    states = tuple(state.clone() for state in clean.states)
    for state in states:
        state[5] = torch.nan
    dirty = replace(clean, states=states)
    for name, a, b in zip(forward(clean)._fields, forward(clean), forward(dirty), strict=True):
        assert torch.equal(a, b), name
    upstream = upstream_of(clean, 24)
    for good, found in zip(both_gradients(clean, upstream), both_gradients(dirty, upstream), strict=True):
        for a, b in zip(good, found, strict=True):
            assert torch.equal(a, b)
        for d_state in found[1 : 1 + len(states)]:
            assert torch.equal(d_state[5], torch.zeros_like(d_state[5]))


@every_way
def test_a_row_of_no_steps_ends_where_it_began_resets_or_not(
    kind: str, reverse: bool, reset_to_initial: bool
) -> None:
    for steps, lengths in ((5, torch.zeros(3, dtype=torch.int64)), (0, None)):
        problem = replace(
            make(kind, (3, steps, 7, 5), lengths=lengths, reverse=reverse),
            resets=torch.ones(3, steps, dtype=torch.bool),
            reset_to_initial=reset_to_initial,
        )
        output, *finals = results(problem)
        assert not output.any()
        for final, initial in zip(finals, problem.states, strict=True):
            assert torch.equal(final, initial)
        check_gradients(problem)


@every_way
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_result_keeps_the_inputs_dtype(
    kind: str, reverse: bool, reset_to_initial: bool, dtype: torch.dtype
) -> None:
    exact = replace(
        make(kind, (7, 5, 3, 3), lengths=torch.tensor([5, 0, 3, 1, 5, 2, 4]), reverse=reverse),
        resets=scattered(7, 5),
        reset_to_initial=reset_to_initial,
    )
    rounded = exact.with_leaves(tuple(leaf.to(dtype) for leaf in exact.leaves))
    for ours, truth in zip(forward(rounded), forward(exact), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=40 * torch.finfo(dtype).eps)
    for grad, leaf in zip(backward(rounded, results(rounded)), rounded.leaves, strict=True):
        assert grad.dtype == dtype
        assert grad.shape == leaf.shape
