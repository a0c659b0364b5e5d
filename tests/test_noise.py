"""Zoneout and recurrent dropout in the plain cells, against loops over rows and units in ordinary Python."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from engine_cases import draw_case
from torch import Tensor

from recurra.engine.cells import gru, lstm, rnn
from recurra.engine.noise import Noise, below, draw, philox
from recurra.engine.scan import scan
from recurra.engine.stack import Steps
from recurra.engine.variants import coupled_lstm, peephole_lstm

TOLERANCE = 1e-10
CELLS: dict[str, Callable[..., Any]] = {
    "lstm": lstm,
    "gru": gru,
    "tanh": partial(rnn, nonlinearity="tanh"),
    "relu": partial(rnn, nonlinearity="relu"),
    "peephole": peephole_lstm,
    "coupled": coupled_lstm,
}
GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1, "peephole": 4, "coupled": 3}
WITH_CELL = ("lstm", "peephole", "coupled")
KINDS = (*CELLS, *(f"{kind} projected" for kind in WITH_CELL))
DRAWN = Noise(0.3, 0.4, 0.25, seed=0x0123_4567_89AB_CDEF)
EXPECTED = Noise(0.3, 0.4, 0.25)


def words(counter: Sequence[int], key: Sequence[int], rounds: int = 7) -> tuple[int, ...]:
    """Philox4x32 on Python's integers."""
    a, b, c, d = counter
    k, m = key
    for _ in range(rounds):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k, q & 0xFFFFFFFF, (p >> 32) ^ d ^ m, p & 0xFFFFFFFF
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return a, b, c, d


def hit(p: float, noise: Noise, place: tuple[int, int, int, int], word: int) -> bool:
    """Whether the unit, time, row and stream of `place` are hit with chance p."""
    seed = noise.seed
    bits = words(place, (seed % 2**32, seed // 2**32))[word]
    return (bits >> 8) / 2**24 < struct.unpack("f", struct.pack("f", p))[0]


@dataclass(frozen=True)
class Case:
    """One cell. states: h_0 and, of a cell with one, c_0. weights, options: by the names of the cell."""

    kind: str
    x: Tensor
    states: tuple[Tensor, ...]
    weights: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.x, *self.states, *self.weights.values()

    def with_leaves(self, leaves: Sequence[Tensor]) -> Case:
        count = 1 + len(self.states)
        weights = dict(zip(self.weights, leaves[count:], strict=True))
        return replace(self, x=leaves[0], states=tuple(leaves[1:count]), weights=weights)

    def tracked(self) -> Case:
        return self.with_leaves([leaf.detach().clone().requires_grad_() for leaf in self.leaves])

    def given(self, **options: Any) -> Case:
        return replace(self, options=self.options | options)


def make(kind: str, sizes: tuple[int, int, int, int], seed: int, **options: Any) -> Case:
    """sizes: N, T, F, H."""
    n, t, f, h = sizes
    source = torch.Generator().manual_seed(seed)
    name, projected = kind.split()[0], kind.endswith("projected")
    p = max(1, h // 2) if projected else h

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=source)

    g = GATES[name] * h
    weights = {"w_ih": normal(g, f), "w_hh": normal(g, p) / p**0.5, "b_ih": normal(g), "b_hh": normal(g)}
    if projected:
        weights["w_hr"] = normal(p, h) / h**0.5
    if name == "peephole":
        weights["peepholes"] = normal(3, h)
    states = (normal(n, p), normal(n, h))[: 2 if name in WITH_CELL else 1]
    return Case(name, normal(n, t, f), states, weights, options)


def for_kind(noise: Noise, kind: str) -> Noise:
    return noise if kind.split()[0] in WITH_CELL else noise._replace(zoneout_cell=0.0)


def forward(case: Case) -> Any:
    return CELLS[case.kind](
        case.x, *case.states, **{"b_ih": None, "b_hh": None} | case.weights, **case.options
    )


def results(case: Case) -> tuple[Tensor, ...]:
    found = forward(case)
    return found.output, found.h_n, *((found.c_n,) if len(case.states) == 2 else ())


def logistic(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def compute(case: Case, x: Tensor, h: Tensor, read: Tensor, c: Tensor | None) -> tuple[Tensor, ...]:
    """h̃, and c̃ of a cell with a cell state, from the papers' equations, for one row."""
    w, units = case.weights, case.weights["w_ih"].shape[0] // GATES[case.kind]
    by_input = (w["w_ih"] @ x + w["b_ih"]).split(units)
    by_state = (w["w_hh"] @ read + w["b_hh"]).split(units)
    if case.kind == "gru":
        r = logistic(by_input[0] + by_state[0])
        z = logistic(by_input[1] + by_state[1])
        n = torch.tanh(by_input[2] + r * by_state[2])
        return ((1 - z) * n + z * h,)
    sums = [a + b for a, b in zip(by_input, by_state, strict=True)]
    if len(sums) == 1:
        return (torch.tanh(sums[0]) if case.kind == "tanh" else sums[0].clamp(min=0),)
    p_i, p_f, p_o = w.get("peepholes", torch.zeros(3, units, dtype=torch.float64))
    if case.kind == "coupled":
        f = logistic(sums[0])
        cell = f * c + (1 - f) * torch.tanh(sums[1])
    else:
        cell = logistic(sums[1] + p_f * c) * c + logistic(sums[0] + p_i * c) * torch.tanh(sums[2])
    shown = logistic(sums[-1] + p_o * cell) * torch.tanh(cell)
    return w["w_hr"] @ shown if "w_hr" in w else shown, cell


def by_unit(p: float, word: int, case: Case, t: int, row: int, old: Tensor, new: Tensor) -> Tensor:
    """Zoneout, unit by unit."""
    noise, stream = case.options.get("noise"), case.options.get("stream", 0)
    if noise is None:
        return new
    if noise.seed is None:
        return p * old + (1 - p) * new
    stays = [hit(p, noise, (unit, t, row, stream), word) for unit in range(len(new))]
    return torch.stack([o if stay else n for stay, o, n in zip(stays, old, new, strict=True)])


def read_by_recurrence(case: Case, row: int, h: Tensor) -> Tensor:
    noise, stream = case.options.get("noise"), case.options.get("stream", 0)
    if noise is None or noise.seed is None or not noise.recurrent_dropout:
        return h
    p = noise.recurrent_dropout
    dropped = [hit(p, noise, (unit, 2**32 - 1, row, stream), 2) for unit in range(len(h))]
    return torch.stack([0 * v if gone else v / (1 - p) for gone, v in zip(dropped, h, strict=True)])


def reference(case: Case) -> tuple[Tensor, ...]:
    """Output, h_n and c_n, row by row and step by step."""
    option = case.options.get
    n, steps = case.x.shape[:2]
    lengths = [steps] * n if option("lengths") is None else option("lengths").tolist()
    outputs, finals = [], []
    for row, length in enumerate(lengths):
        begun = [state[row] for state in case.states]
        state = begun
        shown = [torch.zeros_like(state[0]) for _ in range(steps)]
        for t in range(length - 1, -1, -1) if option("reverse") else range(length):
            begins = t + 1 if option("reverse") else t
            if option("resets") is not None and begins < length and option("resets")[row, begins]:
                state = begun if option("reset_to_initial") else [torch.zeros_like(s) for s in begun]
            read = read_by_recurrence(case, row, state[0])
            new = compute(case, case.x[row, t], state[0], read, state[-1])
            chances = option("noise") or Noise()
            state = [by_unit(chances[k], k, case, t, row, state[k], new[k]) for k in range(len(new))]
            shown[t] = state[0]
        outputs.append(torch.stack(shown))
        finals.append(state)
    return torch.stack(outputs), *(torch.stack(kept) for kept in zip(*finals, strict=True))


def check_against_reference(case: Case, seed: int) -> None:
    """Results and gradients."""
    case = case.tracked()
    ours, theirs = results(case), reference(case)
    source = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(r.shape, dtype=r.dtype, generator=source) for r in ours]
    found = torch.autograd.grad(ours, case.leaves, upstream, materialize_grads=True)
    truth = torch.autograd.grad(theirs, case.leaves, upstream, materialize_grads=True)
    for a, b in zip((*ours, *found), (*theirs, *truth), strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def eventful(case: Case, reverse: bool, seed: int) -> Case:
    """Lengths of zero, one, all and between, resets here and there, and a stream of its own."""
    n, t = case.x.shape[:2]
    source = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([(t, 0, 1, 1 + (5 * row) % t)[row % 4] for row in range(n)])
    resets = torch.rand(n, t, generator=source) < 0.3
    again = seed % 2 == 0
    return case.given(
        lengths=lengths, resets=resets, reset_to_initial=again, reverse=reverse, stream=seed % 5
    )


# Random123's published known answers: counter, key, words.
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    (*PI, (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A)),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]
) -> None:
    assert words(counter, key) == answer
    unit, time, row = (torch.tensor(number) for number in counter[:3])
    seed = key[0] | key[1] << 32
    for moment in (time, int(time)):
        found = philox(unit, moment, row, counter[3], seed)
        assert tuple(int(word) for word in found) == answer
        assert all(word.dtype == torch.int64 for word in found)


def test_philox_is_the_same_for_many_counters_at_once(seed: int) -> None:
    units, times, rows = (torch.randint(2**32, (k,)) for k in (7, 3, 5))
    found = torch.stack(philox(units, times.unsqueeze(-1), rows[:, None, None], 9, seed), dim=-1)
    assert found.shape == (5, 3, 7, 4)
    for i, row in enumerate(rows.tolist()):
        for j, time in enumerate(times.tolist()):
            for k, unit in enumerate(units.tolist()):
                assert tuple(found[i, j, k].tolist()) == words(
                    (unit, time, row, 9), (seed % 2**32, seed >> 32)
                )


@pytest.mark.parametrize("number", [0, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_tensor_may_hold_the_seed(number: int) -> None:
    held = torch.tensor(number - 2**64 if number >= 2**63 else number)
    case = make("lstm", (5, 7, 3, 7), 29, noise=DRAWN._replace(seed=number))
    for a, b in zip(forward(case), forward(case.given(noise=DRAWN._replace(seed=held))), strict=True):
        assert torch.equal(a, b)


def test_a_chance_is_compared_in_float32_with_24_bits() -> None:
    half, ends = torch.tensor([0x7FFF_FFFF, 0x8000_0000, 0x8000_00FF]), torch.tensor([0, 2**32 - 1])
    assert below(half, 0.5 + 2**-26).tolist() == [True, False, False]
    assert below(half, 0.5 + 2**-24).tolist() == [True, True, True]
    assert below(ends, 0.0).tolist() == [False, False]
    assert below(ends, 1.0).tolist() == [True, True]


@pytest.mark.parametrize("p", [0.03, 0.5, 0.9])
def test_as_many_units_are_hit_as_the_chance_says(p: float) -> None:
    x = torch.zeros(33, 63, 1)
    drawn = draw(Noise(p, p, p, seed=5), 3, x, 63, 63)
    assert drawn.hidden.stays.shape == drawn.cell.stays.shape == (33, 63, 63)
    wide = draw(Noise(recurrent_dropout=p, seed=6), 2, torch.zeros(999, 1, 1), 63)
    for mask in (drawn.hidden.stays, drawn.cell.stays, wide.recurrent.units):
        spread = (p * (1 - p) / mask.numel()) ** 0.5
        assert abs(mask.double().mean() - p) < 4 * spread
        assert mask.double().mean() != p


def test_rows_steps_units_streams_states_and_seeds_are_drawn_independently() -> None:
    x = torch.zeros(33, 63, 1)
    noise = Noise(0.5, 0.5, 0.5, seed=77)
    drawn = draw(noise, 0, x, 33, 33)
    base = drawn.hidden.stays
    others = {
        "row": base.roll(1, 0),
        "time": base.roll(1, 1),
        "unit": base.roll(1, 2),
        "cell": drawn.cell.stays,
        "recurrent": drawn.recurrent.units.unsqueeze(1).expand_as(base),
        **{f"stream {s}": draw(noise, s, x, 33, 33).hidden.stays for s in (1, 2, 3)},
        **{
            f"seed {s}": draw(noise._replace(seed=s), 0, x, 33, 33).hidden.stays for s in (76, 78, 77 + 2**32)
        },
    }
    signs = 2 * base.double() - 1
    for name, other in others.items():
        assert abs((signs * (2 * other.double() - 1)).mean()) < 4 / base.numel() ** 0.5, name


def test_masks_depend_on_nothing_but_their_place() -> None:
    noise = Noise(0.4, 0.6, 0.5, seed=2**64 - 1)
    whole = draw(noise, 7, torch.zeros(9, 13, 2), 7, 11)
    part = draw(noise, 7, torch.zeros(5, 3, 1, dtype=torch.float64), 3, 5)
    assert torch.equal(part.hidden.stays, whole.hidden.stays[:5, :3, :3])
    assert torch.equal(part.cell.stays, whole.cell.stays[:5, :3, :5])
    assert torch.equal(part.recurrent.units, whole.recurrent.units[:5, :3])
    alone = draw(Noise(zoneout_cell=0.6, seed=noise.seed), 7, torch.zeros(9, 13, 2), 7, 11)
    assert torch.equal(alone.cell.stays, whole.cell.stays)
    assert alone.hidden is None
    assert alone.recurrent is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("noise", [DRAWN, EXPECTED], ids=["drawn", "expected"])
def test_each_row_is_the_equations_step_by_step(kind: str, reverse: bool, noise: Noise, seed: int) -> None:
    case = make(kind, (5, 7, 3, 5), seed, noise=for_kind(noise, kind))
    check_against_reference(case.given(reverse=reverse), seed)
    check_against_reference(eventful(case, reverse, seed), seed + 1)
    check_against_reference(eventful(case, reverse, seed + 1), seed + 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chance", [0, 1, 2])
def test_each_chance_by_itself(kind: str, chance: int, seed: int) -> None:
    noise = for_kind(Noise(seed=seed)._replace(**{Noise._fields[chance]: 0.5}), kind)
    case = make(kind, (3, 5, 1, 3), seed, noise=noise)
    check_against_reference(eventful(case, False, seed), seed)


@pytest.mark.parametrize("kind", KINDS)
def test_no_chance_changes_nothing(kind: str) -> None:
    case = eventful(make(kind, (7, 5, 3, 7), 31), True, 31)
    for noise in (Noise(), Noise(seed=3), Noise(recurrent_dropout=0.9)):
        for a, b in zip(forward(case), forward(case.given(noise=noise)), strict=True):
            assert torch.equal(a, b)
    changed = forward(case.given(noise=Noise(recurrent_dropout=0.9, seed=3)))
    assert not torch.equal(forward(case).output, changed.output)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drawn_seed", [None, 8])
def test_a_state_that_always_stays_never_changes(kind: str, drawn_seed: int | None) -> None:
    case = make(kind, (3, 7, 3, 5), 41, noise=for_kind(Noise(1.0, 1.0, 0.5, drawn_seed), kind))
    if drawn_seed is not None:  # selected, so that what is computed never shows
        case = replace(case, x=torch.full_like(case.x, torch.nan))
    found = forward(case)
    assert torch.equal(found.output, case.states[0].unsqueeze(1).expand_as(found.output))
    assert torch.equal(found.h_n, case.states[0])
    if len(case.states) == 2:
        assert torch.equal(found.c_n, case.states[1])
        assert torch.equal(found.cell, case.states[1].unsqueeze(1).expand_as(found.cell))


@pytest.mark.parametrize("kind", KINDS)
def test_a_recurrence_that_is_all_dropped_reads_nothing(kind: str) -> None:
    case = make(kind, (3, 7, 3, 5), 43)
    unread = replace(case, weights=case.weights | {"w_hh": torch.zeros_like(case.weights["w_hh"])})
    found = forward(case.given(noise=Noise(recurrent_dropout=1.0, seed=1)))
    for a, b in zip(found, forward(unread), strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_expectation_is_the_mean_of_what_is_drawn(kind: str) -> None:
    """After one step: it is linear in the masks, and each of 3999 rows of the same numbers draws its own."""
    one = make(kind, (1, 1, 3, 7), 47)
    many = one.with_leaves(
        [leaf.expand(3999, *leaf.shape[1:]) for leaf in one.leaves[: 1 + len(one.states)]]
        + list(one.weights.values())
    )
    noise = for_kind(Noise(0.2, 0.7), kind)
    expected = results(one.given(noise=noise))
    drawn = results(many.given(noise=noise._replace(seed=12)))
    for truth, rows in zip(expected, drawn, strict=True):
        spread = rows.std(0) / 3999**0.5
        assert (spread > 0).any()
        assert ((rows.mean(0) - truth[0]).abs() <= 4 * spread + TOLERANCE).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_nan_stays_in_its_row_and_beyond_lengths_touches_nothing(kind: str, reverse: bool) -> None:
    noise = for_kind(DRAWN, kind)
    clean = make(kind, (5, 7, 3, 5), 53, noise=noise, reverse=reverse, lengths=torch.tensor([3, 7, 0, 5, 7]))
    x, states = clean.x.clone(), [state.clone() for state in clean.states]
    x[3, 2] = torch.nan
    x[0, 3:] = torch.nan
    for state in states:
        state[2] = torch.nan
    dirty = clean.with_leaves([x, *states, *clean.weights.values()])
    others = [0, 1, 4]
    for a, b in zip(forward(clean), forward(dirty), strict=True):
        assert torch.equal(a[others], b[others])
    per_row = 1 + len(states)
    gradients = []
    for case in (clean.tracked(), dirty.tracked()):
        gradients.append(torch.autograd.grad(sum(r.sum() for r in results(case)), case.leaves[:per_row]))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a[others], b[others])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gru"])  # whose z ⊙ h carries it along
def test_what_is_dropped_is_never_looked_at(kind: str) -> None:
    """NaN in dropped units of h_0 shows neither forward nor backward."""
    noise = Noise(recurrent_dropout=0.5, seed=61)
    clean = make(kind, (7, 3, 3, 5), 61, noise=noise)
    dropped = draw(noise, 0, clean.x, clean.states[0].shape[1]).recurrent.units
    assert 0 < dropped.sum() < dropped.numel()
    dirty = replace(clean, states=(clean.states[0].masked_fill(dropped, torch.nan), *clean.states[1:]))
    for a, b in zip(forward(clean), forward(dirty), strict=True):
        assert torch.equal(a, b)
    tracked = dirty.tracked()
    for gradient in torch.autograd.grad(sum(r.sum() for r in results(tracked)), tracked.leaves):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", [kind for kind in CELLS if kind != "relu"])
@pytest.mark.parametrize("noise", [DRAWN, EXPECTED], ids=["drawn", "expected"])
def test_first_and_second_derivatives_against_finite_differences(kind: str, noise: Noise, seed: int) -> None:
    options = {"noise": for_kind(noise, kind), "lengths": torch.tensor([3, 0, 1]), "reverse": seed % 2 == 0}
    case = make(kind, (3, 3, 1, 2), seed, **options).tracked()

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        return results(case.with_leaves(leaves))

    assert torch.autograd.gradcheck(run, case.leaves)
    assert torch.autograd.gradgradcheck(run, case.leaves)


# torch's own forward mode scripts its decompositions when first used, and torch warns of that itself.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_vmap_and_forward_mode_go_through(kind: str) -> None:
    case = make(kind, (3, 5, 3, 5), 67, noise=for_kind(DRAWN, kind), resets=torch.rand(3, 5) < 0.3)
    xs = torch.stack((case.x, 2 * case.x))
    together = torch.func.vmap(lambda x: results(replace(case, x=x)))(xs)
    for k in range(2):
        for a, b in zip(together, results(replace(case, x=xs[k])), strict=True):
            torch.testing.assert_close(a[k], b, rtol=TOLERANCE, atol=TOLERANCE)

    tangents = tuple(torch.randn_like(leaf) for leaf in case.leaves)
    _, pushed = torch.func.jvp(lambda *leaves: results(case.with_leaves(leaves)), case.leaves, tangents)
    tracked = case.tracked()
    pulled = torch.autograd.grad(results(tracked), tracked.leaves, [torch.ones_like(p) for p in pushed])
    ahead = sum(p.sum() for p in pushed)
    behind = sum((g * t).sum() for g, t in zip(pulled, tangents, strict=True))
    torch.testing.assert_close(ahead, behind, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_units_are_hit_in_every_precision(kind: str, dtype: torch.dtype) -> None:
    exact = make(kind, (7, 5, 3, 3), 71, noise=for_kind(DRAWN, kind), reverse=True)
    exact = exact.with_leaves([leaf.to(dtype).double() for leaf in exact.leaves])
    for ours, truth in zip(
        forward(exact.with_leaves([leaf.to(dtype) for leaf in exact.leaves])), forward(exact), strict=True
    ):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=40 * torch.finfo(dtype).eps)


def test_what_no_cell_can_do_is_refused() -> None:
    case = make("lstm", (1, 1, 1, 1), 73)
    for name in ("zoneout_hidden", "zoneout_cell", "recurrent_dropout"):
        for p in (-0.1, 1.5, float("nan")):
            with pytest.raises(
                ValueError, match=rf"{name}: expected a chance, 0 to 1, got {p}; give the part"
            ):
                forward(case.given(noise=Noise()._replace(**{name: p})))
    for seed in (-1, 2**64):
        with pytest.raises(
            ValueError, match=rf"seed: expected None or 0 to 2\*\*64 - 1, got {seed}; take it"
        ):
            forward(case.given(noise=Noise(0.5, seed=seed)))
    with pytest.raises(ValueError, match="layer: expected 0 or more, got -1; count the layers"):
        forward(case.given(noise=Noise(0.5, layer=-1)))
    for kind in ("gru", "tanh", "relu"):
        with pytest.raises(ValueError, match=r"zoneout_cell: .* that could stay, got 0\.5; give"):
            forward(make(kind, (1, 1, 1, 1), 73, noise=Noise(zoneout_cell=0.5)))


@pytest.mark.parametrize("kind", ["gru", "rnn_tanh", "layer_norm_gru", "slstm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_engine_refuses_what_the_twin_refuses(kind: str, dtype: torch.dtype) -> None:
    case = draw_case(3, kind=kind, packs=False)
    x, *others = (tensor.to(dtype) for tensor in (case.x, *case.weights))
    with pytest.raises(ValueError, match=r"zoneout_cell: .* that could stay, got 0\.5; give"):
        scan(case.stack, x, (), others, Steps(), noise=Noise(zoneout_cell=0.5))
