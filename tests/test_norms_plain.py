"""Plain cells with layer normalisation, the sLSTM and the refine gate, against the papers' equations.

The reference runs one row after another and one step after another. It normalises by torch's own
`layer_norm`, its sLSTM has no stabiliser, and its refine gate is a mean of two squares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_noise import DRAWN, EXPECTED, Case, by_unit, read_by_recurrence
from torch import Tensor
from torch.nn.functional import layer_norm, logsigmoid

from recurra.engine import plain
from recurra.engine.noise import Noise
from recurra.engine.norms import layer_norm_gru, layer_norm_lstm, scaled
from recurra.engine.slstm import slstm
from recurra.engine.stack import Stack, Steps
from recurra.engine.variants import coupled_lstm, refined_lstm

CELLS: dict[str, Callable[..., Any]] = {
    "layer_norm_lstm": layer_norm_lstm,
    "layer_norm_gru": layer_norm_gru,
    "refined": refined_lstm,
    "slstm": slstm,
}
KINDS = (*CELLS, *(f"{kind} projected" for kind in CELLS if kind != "layer_norm_gru"))
NORMS = {"layer_norm_lstm": 10, "layer_norm_gru": 6}
SIZES = [(1, 1, 1, 1), (7, 9, 3, 7), (1, 7, 1, 33), (7, 1, 33, 7), (5, 7, 7, 1)]  # N, T, F, H
TOLERANCE = 1e-10

each_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, sizes: tuple[int, int, int, int], seed: int, **options: Any) -> Case:
    n, t, f, h = sizes
    source = torch.Generator().manual_seed(seed)
    name, projected = kind.split()[0], kind.endswith("projected")
    p = max(1, h // 2) if projected else h
    g = 3 * h if name == "layer_norm_gru" else 4 * h

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=source)

    weights = {"w_ih": normal(g, f) / f**0.5, "w_hh": normal(g, p) / p**0.5, "b_ih": normal(g)}
    weights["b_hh"] = normal(g)
    if projected:
        weights["w_hr"] = normal(p, h) / h**0.5
    if name in NORMS:
        weights["norms"] = normal(NORMS[name], h)
    states = [normal(n, p)]
    if name == "slstm":
        states.append(torch.cat((normal(n, h), normal(n, h).abs() + 0.5, normal(n, h)), -1))
    elif name != "layer_norm_gru":
        states.append(normal(n, h))
    return Case(name, normal(n, t, f), tuple(states), weights, options)


def forward(case: Case) -> Any:
    return CELLS[case.kind](
        case.x, *case.states, **{"b_ih": None, "b_hh": None} | case.weights, **case.options
    )


def told(kind: str, cells: Tensor) -> tuple[Tensor, ...]:
    """What gradients tell all of: of an sLSTM c and n as they are without the stabiliser m."""
    if kind != "slstm":
        return (cells,)
    c, n, m = cells.chunk(3, -1)
    return c * m.exp(), n * m.exp()


def results(case: Case) -> list[Tensor]:
    found = forward(case)
    finals = told(case.kind, found.c_n) if len(case.states) == 2 else ()
    return [found.output, found.h_n, *finals]


def step(case: Case, x: Tensor, h: Tensor, read: Tensor, cell: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """h̃ and the parts of c̃, before zoneout, of one row."""
    w, nothing = case.weights, torch.zeros(len(case.weights["w_ih"]), dtype=torch.float64)
    b_ih, b_hh = w.get("b_ih", nothing), w.get("b_hh", nothing)
    by_input, by_state = w["w_ih"] @ x, w["w_hh"] @ read
    if case.kind == "layer_norm_gru":
        units, norms, parts = len(h), w["norms"], []
        for sums, factors, added in ((by_input, norms[:3], b_ih), (by_state, norms[3:], b_hh)):
            cut = 2 * units
            both = layer_norm(sums[:cut], (cut,), factors[:2].flatten(), added[:cut])
            parts.append((*both.split(units), layer_norm(sums[cut:], (units,), factors[2], added[cut:])))
        (r_x, z_x, n_x), (r_h, z_h, n_h) = parts
        r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        return (z * h + (1 - z) * torch.tanh(n_x + r * n_h),)
    units = len(cell[0])
    if case.kind == "layer_norm_lstm":
        alpha, beta, (gamma, delta) = w["norms"].split((4, 4, 2))
        every = (4 * units,)
        sums = layer_norm(by_input, every, alpha.flatten(), b_ih)
        i, f, g, o = (sums + layer_norm(by_state, every, beta.flatten(), b_hh)).split(units)
        c = torch.sigmoid(f) * cell[0] + torch.sigmoid(i) * torch.tanh(g)
        shown, new = torch.sigmoid(o) * torch.tanh(layer_norm(c, (units,), gamma, delta)), (c,)
    elif case.kind == "refined":
        f, r, g, o = (by_input + by_state + b_ih + b_hh).split(units)
        f, r = torch.sigmoid(f), torch.sigmoid(r)
        kept = (1 - r) * f**2 + r * (1 - (1 - f) ** 2)
        c = kept * cell[0] + (1 - kept) * torch.tanh(g)
        shown, new = torch.sigmoid(o) * torch.tanh(c), (c,)
    else:
        i, f, z, o = (by_input + by_state + b_ih + b_hh).split(units)
        c = torch.sigmoid(f) * cell[0] + torch.exp(i) * torch.tanh(z)
        n = torch.sigmoid(f) * cell[1] + torch.exp(i)
        shown, new = torch.sigmoid(o) * c / n, (c, n)
    return w["w_hr"] @ shown if "w_hr" in w else shown, *new


def reference(case: Case) -> list[Tensor]:
    """Output, h_n and the parts of c_n, row by row and step by step."""
    option = case.options.get
    rows, steps = case.x.shape[:2]
    lengths = [steps] * rows if option("lengths") is None else option("lengths").tolist()
    resets, noise = option("resets"), option("noise") or Noise()
    chances = (noise.zoneout_hidden, noise.zoneout_cell)
    initial = [case.states[0], *(told(case.kind, case.states[1]) if len(case.states) == 2 else ())]
    outputs, finals = [], []
    for row, length in enumerate(lengths):
        begun = tuple(state[row] for state in initial)
        state, shown = begun, [torch.zeros_like(begun[0]) for _ in range(steps)]
        for t in range(length - 1, -1, -1) if option("reverse") else range(length):
            begins = t + 1 if option("reverse") else t
            if resets is not None and begins < length and resets[row, begins]:
                state = begun if option("reset_to_initial") else tuple(torch.zeros_like(s) for s in begun)
            read = read_by_recurrence(case, row, state[0])
            new = step(case, case.x[row, t], state[0], read, state[1:])
            stays = [
                by_unit(chances[k > 0], min(k, 1), case, t, row, state[k], new[k]) for k in range(len(new))
            ]
            state = tuple(stays) if case.kind != "slstm" else (stays[0], *new[1:])
            shown[t] = state[0]
        outputs.append(torch.stack(shown))
        finals.append(state)
    return [torch.stack(outputs), *(torch.stack(kept) for kept in zip(*finals, strict=True))]


def check(case: Case, seed: int) -> None:
    """Results, and the gradients of all inputs through the output alone and through everything."""
    case = case.tracked()
    ours, theirs = results(case), reference(case)
    source = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(r.shape, dtype=r.dtype, generator=source) for r in ours]
    close(ours, theirs)
    for count in (1, len(ours)):
        found, truth = (
            torch.autograd.grad(
                r[:count], case.leaves, upstream[:count], materialize_grads=True, retain_graph=True
            )
            for r in (ours, theirs)
        )
        close(found, truth)


def close(found: Any, truth: Any) -> None:
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def eventful(case: Case, seed: int, **options: Any) -> Case:
    """Lengths of zero, one, all and between, resets here and there, and a stream of its own."""
    n, t = case.x.shape[:2]
    source = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([(t, 0, 1, 1 + (5 * row) % t)[row % 4] for row in range(n)])
    resets = torch.rand(n, t, generator=source) < 0.3
    return case.given(lengths=lengths, resets=resets, stream=seed % 5, **options)


@each_kind
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_each_row_is_the_equations_step_by_step(kind: str, sizes: Any, reverse: bool, seed: int) -> None:
    case = make(kind, sizes, seed)
    check(case.given(reverse=reverse), seed)
    check(eventful(case, seed, reverse=reverse, reset_to_initial=seed % 2 == 0), seed + 1)


@each_kind
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("noise", [None, DRAWN, EXPECTED], ids=["silent", "drawn", "expected"])
def test_resets_and_noise(kind: str, again: bool, noise: Noise | None, seed: int) -> None:
    if noise is not None and kind.split()[0] in ("layer_norm_gru", "slstm"):
        noise = noise._replace(zoneout_cell=0.0)
    case = make(kind, (4, 5, 3, 7), seed)
    check(eventful(case, seed, reset_to_initial=again, noise=noise, reverse=seed % 2 == 0), seed)


@each_kind
def test_without_biases(kind: str, seed: int) -> None:
    case = make(kind, (4, 5, 3, 7), seed)
    weights = {name: w for name, w in case.weights.items() if not name.startswith("b_")}
    check(replace(case, weights=weights), seed)


@each_kind
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_nan_stays_in_its_row(kind: str, again: bool, reverse: bool) -> None:
    """A row of NaN, NaN beyond a row's length, and NaN in the states of a row of no steps."""
    lengths = torch.tensor([3, 7, 0, 5, 7])
    resets = torch.rand(5, 7) < 0.3
    clean = make(kind, (5, 7, 3, 5), 13).given(
        lengths=lengths, resets=resets, reset_to_initial=again, reverse=reverse
    )
    x, states = clean.x.clone(), [state.clone() for state in clean.states]
    x[3] = torch.nan
    x[0, 3:] = torch.nan
    for state in states:
        state[2:4] = torch.nan
    dirty = clean.with_leaves([x, *states, *clean.weights.values()])
    others = [0, 1, 4]
    found, truth = forward(dirty), forward(clean)
    for a, b in zip(found, truth, strict=True):
        assert torch.equal(a[others], b[others])
    assert found.output[3, :5].isnan().all()
    count = 1 + len(states)
    gradients = [
        torch.autograd.grad([r.sum() for r in results(case)], case.leaves[:count])
        for case in (clean.tracked(), dirty.tracked())
    ]
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a[others], b[others])
        assert b[others].isfinite().all()


@each_kind
@pytest.mark.parametrize("lengths", [None, torch.zeros(3, dtype=torch.int64)], ids=["whole", "empty"])
def test_no_steps_end_where_they_began(kind: str, lengths: Tensor | None) -> None:
    case = make(kind, (3, 0, 7, 5), 19, lengths=lengths, resets=torch.zeros(3, 0, dtype=torch.bool))
    found = forward(case)
    assert found.output.shape == (3, 0, case.states[0].shape[1])
    assert found.gates.shape == (3, 0, 3 if case.kind == "layer_norm_gru" else 4, 5)
    assert torch.equal(found.h_n, case.states[0])
    if len(case.states) == 2:
        assert found.cell.shape == (3, 0, case.states[1].shape[1])
        assert torch.equal(found.c_n, case.states[1])


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_state_of_zeros_is_what_none_is(kind: str, directions: int) -> None:
    stack = Stack(kind, hidden=7, depth=2, directions=directions)
    places = 2 * directions
    made = [make(kind, (5, 9, 3 if k < directions else 7 * directions, 7), 31 + k) for k in range(places)]
    weights = [weight for case in made for weight in case.weights.values()]
    zeros = [torch.zeros(places, 5, 7), torch.zeros(places, 5, stack.cell_size)]
    zeros = [state.double() for state in zeros if state.numel()]
    steps = Steps(lengths=torch.tensor([9, 0, 1, 5, 9]), resets=torch.rand(5, 9) < 0.3, reset_to_initial=True)
    absent, given = (plain.run(stack, made[0].x, initial, weights, steps) for initial in ((), zeros))
    assert all(torch.equal(a, b) for a, b in zip(absent, given, strict=True))
    assert all(result.isfinite().all() for result in absent)


@pytest.mark.parametrize("kind", CELLS)
def test_gates_are_activated_and_in_order(kind: str) -> None:
    """With all other weights zero, each gate is told from the others by its bias."""
    n, t, h = 3, 5, 7
    count = 3 if kind == "layer_norm_gru" else 4
    bias = torch.tensor([0.5, 1.0, 1.5, 2.0][:count])
    weights = {"w_ih": torch.zeros(count * h, 3), "w_hh": torch.zeros(count * h, h)}
    weights["b_ih"] = bias.repeat_interleave(h)
    if kind in NORMS:
        weights["norms"] = torch.ones(NORMS[kind], h)
    states = [torch.zeros(n, h)] + [torch.zeros(n, 3 * h if kind == "slstm" else h)] * (count == 4)
    found = CELLS[kind](torch.randn(n, t, 3), *states, **weights, b_hh=None)
    gates = bias.sigmoid()
    gates[2] = bias[2].tanh()  # the candidate, in each of them
    if kind == "slstm":  # the input gate is the largest at first, and nothing is kept
        gates[:2] = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(found.gates[:, 0], gates.view(1, count, 1).expand(n, count, h))


def test_a_refine_gate_of_one_half_changes_nothing(seed: int) -> None:
    refined = eventful(make("refined projected", (7, 9, 3, 7), seed), seed)
    rows = {name: w for name, w in refined.weights.items() if name != "w_hr"}
    halves = {name: torch.cat((w[:7], 0 * w[7:14], w[14:])) for name, w in rows.items()}
    fewer = {name: torch.cat((w[:7], w[14:])) for name, w in rows.items()}
    found = forward(replace(refined, weights=refined.weights | halves))
    truth = coupled_lstm(refined.x, *refined.states, **refined.weights | fewer, **refined.options)
    close((found.output, found.h_n, found.c_n), (truth.output, truth.h_n, truth.c_n))


@pytest.mark.parametrize("kind", ["layer_norm_lstm", "layer_norm_gru"])
def test_the_scale_and_the_mean_of_the_sums_do_not_matter(kind: str, seed: int) -> None:
    case = make(kind, (5, 7, 3, 33), seed)
    w = case.weights
    far = replace(case, weights=w | {"w_ih": 1e3 * w["w_ih"], "w_hh": 1e3 * w["w_hh"]})
    further = replace(case, weights=w | {"w_ih": 1e6 * w["w_ih"], "w_hh": 1e6 * w["w_hh"]})
    for a, b in zip(results(far), results(further), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 200.0])
def test_an_slstm_is_a_weighted_mean_of_its_candidates(dtype: torch.dtype, size: float) -> None:
    """Without recurrence: h_t = o_t Σ_k softmax_k(ĩ_k + Σ log σ(f̃) of the steps after k) z_k.

    No number overflows in that, and none may in the cell, gradients included, up to gates of ±200.
    """
    n, t, h = 7, 9, 5
    sums = (size * (2 * torch.rand(n, t, 4, h, dtype=torch.float64) - 1)).requires_grad_()
    i, f, z, o = sums.unbind(2)
    later = torch.cat((logsigmoid(f)[:, 1:], torch.zeros(n, 1, h, dtype=torch.float64)), 1)
    after = later.flip(1).cumsum(1).flip(1)  # at k the sum over all steps after k, to the end
    scores = i.unsqueeze(1) + after.unsqueeze(1) - after.unsqueeze(2)  # (N, t, k, H)
    past = torch.ones(t, t, dtype=torch.bool).tril().view(1, t, t, 1)
    shares = scores.masked_fill(~past, -torch.inf).softmax(2)
    truth = torch.sigmoid(o) * (shares * torch.tanh(z).unsqueeze(1)).sum(2)
    x = sums.detach().flatten(2).to(dtype).requires_grad_()
    zeros = torch.zeros(n, h, dtype=dtype), torch.zeros(n, 3 * h, dtype=dtype)
    weights = torch.eye(4 * h, dtype=dtype), torch.zeros(4 * h, h, dtype=dtype)
    found = slstm(x, *zeros, *weights, None, None)
    assert all(result.isfinite().all() for result in found)
    upstream = torch.randn_like(truth)
    (d_x,) = torch.autograd.grad(found.output, x, upstream.to(dtype))
    (d_true,) = torch.autograd.grad(truth, sums, upstream)
    # of each score of up to t · size, a share is lost to rounding
    bound = 1e-10 if dtype == torch.float64 else 4 * t * size * 2.0**-24
    torch.testing.assert_close(found.output.double(), truth, rtol=0, atol=bound)
    torch.testing.assert_close(d_x.double().view_as(d_true), d_true, rtol=0, atol=bound)


@pytest.mark.parametrize("shift", [-50.0, 3.0, 50.0])
def test_the_stabiliser_is_a_choice_of_units(shift: float, seed: int) -> None:
    case = eventful(make("slstm projected", (7, 9, 3, 7), seed), seed, reset_to_initial=True)
    h_0, c_0 = case.states
    c, n, m = c_0.chunk(3, -1)
    factor = torch.tensor(shift, dtype=torch.float64).exp()
    other = replace(case, states=(h_0, torch.cat((c * factor, n * factor, m - shift), -1)))
    close(results(other), results(case))
    found = forward(case)
    active = torch.arange(9) < case.options["lengths"].unsqueeze(1)
    n_t = found.cell.chunk(3, -1)[1]
    assert n_t[active].gt(0).all()


def test_where_n_is_zero_nothing_has_been_read() -> None:
    """Whatever m is there, and also -inf, which other implementations begin with."""
    case = make("slstm", (5, 7, 3, 7), 41)
    zeros = torch.zeros(5, 7, dtype=torch.float64)
    outcomes = []
    for m in (0.0, 80.0, -torch.inf):
        begun = replace(case, states=(case.states[0], torch.cat((zeros, zeros, zeros + m), -1))).tracked()
        found = results(begun)
        gradients = torch.autograd.grad([r.sum() for r in found], begun.leaves)
        assert not gradients[2][:, 14:].any()
        outcomes.append([*found, *(g for k, g in enumerate(gradients) if k != 2)])
    for other in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


@pytest.mark.parametrize("kind", ["layer_norm_gru", "slstm"])
def test_no_zoneout_for_a_cell_that_cannot_stay(kind: str) -> None:
    with pytest.raises(ValueError, match="zoneout_cell"):
        forward(make(kind, (3, 5, 3, 7), 43, noise=DRAWN))


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_result_keeps_the_inputs_dtype(kind: str, dtype: torch.dtype) -> None:
    case = make(kind, (7, 5, 3, 7), 29)
    for result in forward(case.with_leaves([leaf.to(dtype) for leaf in case.leaves])):
        assert result.dtype == dtype
        assert result.isfinite().all()


def test_half_precision_does_not_overflow() -> None:
    sums = torch.randn(2, 28) * 300
    factors, added = torch.ones(28), torch.zeros(28)
    ours = scaled(sums.half(), factors.half(), added.half()).float()
    torch.testing.assert_close(ours, scaled(sums, factors, added), rtol=0, atol=5e-3)
