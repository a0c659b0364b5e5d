"""`recurra.nn.crf.CRF` against every path written out in float64, with lengths and under constraints."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from recurra.nn import CRF, Allowed, bio_constraints, bioes_constraints
from recurra.nn import crf as module

N, T, K = 7, 4, 3
LENGTHS = [3, 0, 4, 1, 4, 2, 2]  # in no order, with ties, one row of no steps
BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
BIOES = ["I-X", "O", "E-X", "B-X", "S-X", "S-Y"]

Path = tuple[int, ...]


@pytest.fixture(params=["fast", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The fast way, or its plain twin."""
    if request.param == "plain":
        monkeypatch.setattr(module, "_must_be_plain", lambda: True)
    return request.param


def field(tags: int = K, allowed: Allowed | None = None, **options: Any) -> CRF:
    """A CRF with parameters of some size, in float64."""
    crf = CRF(tags, allowed, **({"dtype": torch.float64} | options))
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf


def emitted(rows: int = N, steps: int = T, tags: int = K, **options: Any) -> Tensor:
    return torch.randn(rows, steps, tags, **({"dtype": torch.float64} | options))


def paths(crf: CRF, emissions: Tensor, allowed: Allowed | None = None) -> dict[Path, Tensor]:
    """The score of each path through one row's emissions (T, K), by the definition."""
    steps, tags = emissions.shape
    found = {}
    for path in itertools.product(range(tags), repeat=steps):
        pairs = list(itertools.pairwise(path))
        if allowed is not None and path:
            links = [bool(allowed.transitions[pair]) for pair in pairs]
            if not (all(links) and allowed.start[path[0]] and allowed.end[path[-1]]):
                continue
        score = torch.zeros((), dtype=emissions.dtype)
        for step, tag in enumerate(path):
            score = score + emissions[step, tag]
        for one, other in pairs:
            score = score + crf.transitions[one, other]
        if path:
            score = score + crf.start[path[0]] + crf.end[path[-1]]
        found[path] = score
    return found


def every_log_z(crf: CRF, emissions: Tensor, lengths: list[int], allowed: Allowed | None = None) -> Tensor:
    rows = [paths(crf, row[:steps], allowed) for row, steps in zip(emissions, lengths, strict=True)]
    return torch.stack([torch.stack(list(row.values())).logsumexp(0) for row in rows])


def gradients(result: Tensor, emissions: Tensor, crf: CRF) -> list[Tensor]:
    """Of a sum in which no two rows weigh the same."""
    weights = torch.linspace(-1, 2, len(result), dtype=result.dtype)
    return list(torch.autograd.grad(result @ weights, [emissions, *crf.parameters()]))


def assert_all_close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


CONSTRAINTS = {
    "free": (K, None),
    "BIO": (5, bio_constraints(BIO)),
    "BIOES": (6, bioes_constraints(BIOES)),
}
every_constraint = pytest.mark.parametrize("name", CONSTRAINTS)


@every_constraint
def test_log_partition_and_its_gradient_are_those_of_all_paths(name: str, way: str) -> None:
    tags, allowed = CONSTRAINTS[name]
    crf, emissions = field(tags, allowed), emitted(tags=tags).requires_grad_()
    got = crf.log_partition(emissions, LENGTHS)
    expected = every_log_z(crf, emissions, LENGTHS, allowed)
    assert_all_close(got, expected)
    assert_all_close(gradients(got, emissions, crf), gradients(expected, emissions, crf))
    with torch.inference_mode():
        assert_all_close(crf.log_partition(emissions, LENGTHS), expected.detach().clone())


@every_constraint
def test_marginals_are_those_of_all_paths(name: str, way: str) -> None:
    tags, allowed = CONSTRAINTS[name]
    crf, emissions = field(tags, allowed).requires_grad_(False), emitted(tags=tags)
    expected = torch.zeros_like(emissions)
    for row, steps in enumerate(LENGTHS):
        found = paths(crf, emissions[row, :steps], allowed)
        probabilities = torch.stack(list(found.values())).softmax(0)
        for path, probability in zip(found, probabilities, strict=True):
            for step, tag in enumerate(path):
                expected[row, step, tag] += probability
    assert_all_close(crf.marginals(emissions, LENGTHS), expected)
    assert_all_close(crf.marginals(emissions.requires_grad_(), LENGTHS), expected)  # through autograd's way
    if allowed is not None:
        assert (crf.marginals(emissions, LENGTHS)[:, 0, ~allowed.start] == 0).all()


def test_log_likelihood_is_the_logarithm_of_the_path_s_share(way: str) -> None:
    crf, emissions = field(), emitted().requires_grad_()
    tags = torch.randint(K, (N, T))
    scores = []
    for row, steps in enumerate(LENGTHS):
        scores.append(paths(crf, emissions[row, :steps])[tuple(tags[row, :steps].tolist())])
    expected = torch.stack(scores) - every_log_z(crf, emissions, LENGTHS)
    got = crf(emissions, tags.int(), torch.tensor(LENGTHS, dtype=torch.uint8))
    assert_all_close(got, expected)
    assert_all_close(gradients(got, emissions, crf), gradients(expected, emissions, crf))
    assert got[1] == 0


@every_constraint
def test_decoding_finds_the_best_paths_in_order(name: str) -> None:
    tags, allowed = CONSTRAINTS[name]
    crf, emissions = field(tags, allowed), emitted(tags=tags)
    best, score = crf.decode(emissions, LENGTHS)
    several, scores = crf.n_best(emissions, 11, LENGTHS)  # more than there are tags, or paths of one step
    assert several.shape == (N, 11, T)
    for row, steps in enumerate(LENGTHS):
        found = paths(crf, emissions[row, :steps], allowed)
        order = sorted(found, key=lambda path: -found[path].item())[:11]
        expected = torch.full((11, T), -1)
        totals = torch.full((11,), -torch.inf, dtype=torch.float64)
        for rank, path in enumerate(order):
            expected[rank, :steps] = torch.tensor(path)
            totals[rank] = found[path].detach()
        assert_all_close((several[row], scores[row]), (expected, totals))
        assert_all_close((best[row], score[row]), (expected[0], totals[0]))
    assert not scores.requires_grad


def test_without_lengths_every_step_counts() -> None:
    crf, emissions, tags = field(), emitted(), torch.randint(K, (N, T))
    full = [T] * N
    assert_all_close(crf(emissions, tags), crf(emissions, tags, full))
    assert_all_close(crf.log_partition(emissions), every_log_z(crf, emissions, full))
    assert_all_close(crf.marginals(emissions), crf.marginals(emissions, full))
    assert_all_close(crf.decode(emissions), crf.decode(emissions, full))
    assert_all_close(crf.n_best(emissions, 3), crf.n_best(emissions, 3, full))


def test_what_lies_beyond_a_row_s_length_reaches_nothing(way: str) -> None:
    crf, emissions, tags = field(), emitted(), torch.randint(K, (N, T))
    beyond = torch.arange(T) >= torch.tensor(LENGTHS)[:, None]
    dirty, odd = emissions.clone(), tags.clone()
    dirty[beyond], odd[beyond] = torch.nan, -100
    dirty[beyond.cumsum(1) == 1] = torch.inf  # the first step beyond
    emissions.requires_grad_()
    dirty.requires_grad_()
    got, expected = crf(dirty, odd, LENGTHS), crf(emissions, tags, LENGTHS)
    assert_all_close(got, expected)
    spread, clean = gradients(got, dirty, crf), gradients(expected, emissions, crf)
    assert_all_close(spread, clean)
    assert (spread[0][beyond] == 0).all()
    assert_all_close(crf.marginals(dirty, LENGTHS), crf.marginals(emissions, LENGTHS))
    assert_all_close(crf.decode(dirty, LENGTHS), crf.decode(emissions, LENGTHS))
    assert_all_close(crf.n_best(dirty, 5, LENGTHS), crf.n_best(emissions, 5, LENGTHS))


@pytest.mark.parametrize("name", ["free", "BIO"])
def test_first_and_second_derivatives(name: str, way: str) -> None:
    tags, allowed = CONSTRAINTS[name]
    crf, emissions = field(tags, allowed), emitted(2, 3, tags).requires_grad_()
    inputs = (emissions, *crf.parameters())

    def log_z(*inputs: Tensor) -> Tensor:
        return crf.log_partition(inputs[0], [3, 1])  # gradcheck moves the parameters themselves

    assert torch.autograd.gradcheck(log_z, inputs)
    assert torch.autograd.gradgradcheck(log_z, inputs)
    assert torch.autograd.gradcheck(lambda *inputs: crf.marginals(inputs[0], [3, 1]), inputs)


def test_function_transforms_go_through(way: str) -> None:
    crf, emissions = field(), emitted()

    def one(row: Tensor) -> Tensor:
        return crf.log_partition(row[None])[0]

    assert_all_close(vmap(grad(one))(emissions), crf.marginals(emissions).detach())
    twice = torch.autograd.functional.hessian(one, emissions[0])
    assert_all_close(jacrev(grad(one))(emissions[0]), twice.detach())


def test_only_what_asks_for_a_gradient_gets_one() -> None:
    crf, emissions = field(), emitted()
    crf.start.requires_grad_(False)
    crf.log_partition(emissions, LENGTHS).sum().backward()
    assert crf.start.grad is None
    assert emissions.grad is None
    expected = torch.autograd.grad(every_log_z(crf, emissions, LENGTHS).sum(), [crf.transitions, crf.end])
    assert_all_close([crf.transitions.grad, crf.end.grad], list(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_dtypes_are_computed_in_float32(dtype: torch.dtype) -> None:
    crf, wide = field(33), field(33)
    crf.float()
    wide.load_state_dict(crf.state_dict())
    emissions = (3 * emitted(7, 63, 33)).to(dtype).requires_grad_()
    exact = emissions.detach().double().requires_grad_()
    got, expected = crf.log_partition(emissions), wide.log_partition(exact)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crf.log_partition(emissions), got)
        inside = gradients(got, emissions, crf)
    expected_inside = gradients(expected, exact, wide)
    assert inside[0].dtype == dtype
    for mine, reference in zip(inside[1:], expected_inside[1:], strict=True):
        torch.testing.assert_close(mine.double(), reference, rtol=1e-5, atol=1e-5)
    assert torch.equal(crf.decode(emissions)[0], wide.decode(exact)[0])


def test_a_long_row_keeps_its_precision() -> None:
    crf, wide = field(7, dtype=torch.float32), field(7)
    wide.load_state_dict(crf.state_dict())
    emissions = 5 * emitted(1, 1001, 7, dtype=torch.float32)
    with torch.no_grad():
        marginals, expected = crf.marginals(emissions), wide.marginals(emissions.double())
        log_z, exact = crf.log_partition(emissions), wide.log_partition(emissions.double())
    torch.testing.assert_close(marginals.double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(log_z.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_too_far_apart_for_the_fast_way(dtype: torch.dtype) -> None:
    # the only way to tag 1 at the last step leads over what vanishes beside tag 0
    far = 200.0 if dtype == torch.float32 else 2000.0
    crf = field(2, dtype=dtype)
    with torch.no_grad():
        crf.start.copy_(torch.tensor([0, -far]))
        crf.transitions.copy_(torch.tensor([[0, -4 * far], [0, 0]]))
        crf.end.zero_()
    emissions = torch.tensor([[[0, 0], [0, 5 * far]], [[0, 0], [0, 0]]], dtype=dtype, requires_grad=True)
    with torch.no_grad():
        assert module._sweep(crf._chain(emissions, None)) is None
    log_z = crf.log_partition(emissions)
    assert_all_close(log_z, torch.tensor([4 * far, 0], dtype=dtype))
    log_z[0].backward()
    assert_all_close(emissions.grad[0], torch.tensor([[0, 1], [0, 1]], dtype=dtype))
    with torch.inference_mode():
        assert_all_close(crf.marginals(emissions)[0], torch.tensor([[0, 1], [0, 1]], dtype=dtype))


def test_where_no_path_is_allowed(way: str) -> None:
    allowed = Allowed(~torch.eye(3, dtype=torch.bool), torch.eye(3)[0].bool(), torch.eye(3)[0].bool())
    crf, emissions = field(3, allowed), emitted(3, 4, 3).requires_grad_()
    lengths = [2, 3, 1]  # 0 0 is forbidden; 0 1 0 and 0 2 0; 0
    log_z = crf.log_partition(emissions, lengths)
    assert log_z[0] == -torch.inf
    assert_all_close(log_z[1:], every_log_z(crf, emissions[1:], lengths[1:], allowed))
    log_z[1:].sum().backward()
    assert emissions.grad.isfinite().all()
    assert (crf.marginals(emissions, lengths)[0] == 0).all()
    tags, scores = crf.decode(emissions, lengths)
    assert tags[0].tolist() == [-1] * 4
    assert scores[0] == -torch.inf
    assert crf.n_best(emissions, 5, lengths)[1].isfinite().sum(1).tolist() == [0, 2, 1]


def test_an_emission_of_minus_infinity_forbids_a_tag_at_one_step(way: str) -> None:
    crf, emissions = field(), emitted()
    emissions[:, 2, 1] = -torch.inf
    emissions.requires_grad_()
    log_z = crf.log_partition(emissions)
    rows = [[s for p, s in paths(crf, row).items() if p[2] != 1] for row in emissions]
    expected = torch.stack([torch.stack(row).logsumexp(0) for row in rows])
    assert_all_close(log_z, expected)
    assert all(gradient.isfinite().all() for gradient in gradients(log_z, emissions, crf))
    assert (crf.decode(emissions)[0][:, 2] != 1).all()


@pytest.mark.parametrize(
    ("rows", "steps", "lengths"), [(0, 5, []), (3, 0, [0, 0, 0]), (3, 0, None), (0, 0, None)]
)
def test_batches_of_nothing(rows: int, steps: int, lengths: list[int] | None) -> None:
    crf, emissions = field(), emitted(rows, steps).requires_grad_()
    zeros = torch.zeros(rows, dtype=torch.float64)
    log_likelihood = crf(emissions, torch.zeros(rows, steps, dtype=torch.int64), lengths)
    assert_all_close(log_likelihood, zeros)
    log_likelihood.sum().backward()
    assert crf.marginals(emissions, lengths).shape == (rows, steps, K)
    tags, scores = crf.decode(emissions, lengths)
    assert_all_close((tags, scores), (torch.empty(rows, steps, dtype=torch.int64), zeros))
    tags, scores = crf.n_best(emissions, 2, lengths)
    assert tags.shape == (rows, 2, steps)
    assert scores.tolist() == [[0, -torch.inf]] * rows


@every_constraint
def test_ordinary_numbers_go_the_fast_way(name: str) -> None:
    tags, allowed = CONSTRAINTS[name]
    crf, emissions = field(tags, allowed, dtype=torch.float32), 9 * emitted(63, 33, tags, dtype=torch.float32)
    with torch.no_grad():
        assert module._sweep(crf._chain(emissions, torch.randint(34, (63,)))) is not None


def test_one_tag_alone() -> None:
    crf, emissions = field(1), emitted(tags=1)
    expected = every_log_z(crf, emissions, LENGTHS)
    assert_all_close(crf.log_partition(emissions, LENGTHS), expected)
    assert_all_close(crf.decode(emissions, LENGTHS)[1], expected.detach())


def names(labels: list[str], which: Tensor) -> list[str]:
    return [label for label, yes in zip(labels, which.tolist(), strict=True) if yes]


def test_what_bio_allows() -> None:
    allowed = bio_constraints(BIO)
    after = {label: names(BIO, row) for label, row in zip(BIO, allowed.transitions, strict=True)}
    free = ["O", "B-PER", "B-LOC"]
    person, place = ["O", "B-PER", "I-PER", "B-LOC"], ["O", "B-PER", "B-LOC", "I-LOC"]
    assert after == {"O": free, "B-PER": person, "I-PER": person, "B-LOC": place, "I-LOC": place}
    assert names(BIO, allowed.start) == free
    assert names(BIO, allowed.end) == BIO


def test_what_bioes_allows() -> None:
    allowed = bioes_constraints(BIOES)
    after = {label: names(BIOES, row) for label, row in zip(BIOES, allowed.transitions, strict=True)}
    free, within = ["O", "B-X", "S-X", "S-Y"], ["I-X", "E-X"]
    expected = {"I-X": within, "O": free, "E-X": free, "B-X": within, "S-X": free, "S-Y": free}
    assert after == expected
    assert names(BIOES, allowed.start) == free
    assert names(BIOES, allowed.end) == ["O", "E-X", "S-X", "S-Y"]


def test_labels_without_types() -> None:
    assert bio_constraints(["B", "I", "O"]).transitions.tolist() == [
        [True] * 3,
        [True] * 3,
        [True, False, True],
    ]
    assert bioes_constraints(["B", "E"]).transitions.tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("scheme", "labels", "message"),
    [
        (
            bio_constraints,
            ["O", "E-X"],
            r"O, B-…, I-… of the BIO \(IOB2\) scheme, got 'E-X' at index 1; rename",
        ),
        (bio_constraints, ["B-"], r"got 'B-' at index 0"),
        (bio_constraints, ["O-X"], r"got 'O-X' at index 0"),
        (bio_constraints, [""], r"got '' at index 0"),
        (bioes_constraints, ["O", "B-X", "L-X"], r"BIOES scheme, got 'L-X' at index 2"),
        (bioes_constraints, ["O", "B-X", "O"], r"expected each once, got 'O' again at index 2; drop one"),
        (bio_constraints, [], r"expected a list of O, B-…, I-…, got \[\]; name each tag"),
        (bio_constraints, "BIO", r"expected a list of O, B-…, I-…, got 'BIO'"),
    ],
)
def test_labels_outside_the_scheme(scheme: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^labels: .*{message}"):
        scheme(labels)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([0, 1, 2, 0, 0], None),
        ([0, 0, 2, 0, 0], r"got tag 2 after tag 0, which they forbid, in row 1 at step 2; correct"),
        ([2, 2, 2, 0, 0], r"got tag 2 at the start, which they forbid, in row 1 at step 0"),
        ([1, 2, 2, 2, 0], r"got tag 2 at the end, which they forbid, in row 1 at step 3"),
        ([1, 2, 3, 2, 0], r"got tag 3 after tag 2, which they forbid, in row 1 at step 2"),
        ([1, 2, 0, 0, 2], None),
    ],
)
def test_tags_that_break_a_constraint(tags: list[int], message: str | None) -> None:
    allowed = bio_constraints(["O", "B-X", "I-X", "I-Y"])
    crf = field(4, allowed._replace(end=torch.tensor([True, True, False, True])))
    batch = torch.tensor([[0] * 5, tags, [2] * 5])
    lengths = [5, 4, 0]
    if message is None:
        assert crf(emitted(3, 5, 4), batch, lengths).isfinite().all()
        return
    with pytest.raises(ValueError, match=f"^tags: expected a path that the constraints allow, {message}"):
        crf(emitted(3, 5, 4), batch, lengths)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (torch.zeros(5, 3), torch.zeros(1, 5)),
            r"emissions: .*got \(5, 3\) of torch.float32; .*unsqueeze\(0\)",
        ),
        ((torch.zeros(1, 5, 3).long(), 0), r"emissions: .*floating dtype, got \(1, 5, 3\) of torch.int64"),
        (([[[0.0]]], 0), r"emissions: .*got list"),
        ((torch.zeros(1, 5, 4), 0), r"emissions: expected 3 scores a step.*got \(1, 5, 4\); let the layer"),
        (
            (torch.zeros(2, 5, 3), torch.zeros(2, 4).long()),
            r"tags: .*\(2, 5\).*got \(2, 4\) of torch.int64; pad",
        ),
        ((torch.zeros(2, 5, 3), torch.zeros(2, 5)), r"tags: .*integer dtype, got \(2, 5\) of torch.float32"),
        ((torch.zeros(2, 5, 3), [[0] * 5] * 2), r"tags: .*integer dtype, got list"),
        (
            (torch.zeros(2, 5, 3), torch.full((2, 5), 3)),
            r"tags: expected 0 to 2, got 3 in row 0 at step 0; give",
        ),
        ((torch.zeros(2, 5, 3), -torch.eye(2, 5).long(), [0, 5]), r"tags: .*got -1 in row 1 at step 1"),
        (
            (torch.zeros(2, 5, 3), torch.zeros(2, 5).long(), [5, 6]),
            r"lengths: expected 0 to 5.*got 6 in row 1",
        ),
        ((torch.zeros(2, 5, 3), torch.zeros(2, 5).long(), [5]), r"lengths: .*shape \(2,\), got \(1,\)"),
    ],
)
def test_arguments_that_do_not_fit(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        CRF(3)(*arguments)


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_number_of_paths_that_makes_no_sense(n: Any) -> None:
    with pytest.raises(ValueError, match=r"^n: expected a number of paths, at least 1, got .*; ask for one"):
        CRF(3).n_best(torch.zeros(1, 5, 3), n)


@pytest.mark.parametrize("tags", [0, -1, 2.0, True])
def test_a_number_of_tags_that_makes_no_sense(tags: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^tags: expected their number, at least 1, got .*; count the labels"
    ):
        CRF(tags)


def test_masks_that_do_not_fit() -> None:
    allowed = bio_constraints(BIO)
    with pytest.raises(
        ValueError,
        match=r"^allowed.transitions: .*\(4, 4\) of torch.bool, got \(5, 5\) of torch.bool; convert",
    ):
        CRF(4, allowed)
    with pytest.raises(ValueError, match=r"^allowed.end: .*got \(5,\) of torch.float32; convert"):
        CRF(5, allowed._replace(end=torch.ones(5)))
    with pytest.raises(ValueError, match=r"^allowed.start: .*got list"):
        CRF(5, allowed._replace(start=[True] * 5))


def test_a_module_like_any_other() -> None:
    crf = CRF(5, bio_constraints(BIO), dtype=torch.float64)
    assert list(crf.state_dict()) == ["transitions", "start", "end"]
    assert repr(crf) == "CRF(5, constrained=True)"
    assert all(0 < parameter.abs().max() <= 0.1 for parameter in crf.parameters())
    other = CRF(5, bio_constraints(BIO), dtype=torch.float64)
    other.load_state_dict(crf.state_dict())
    emissions = emitted(tags=5)
    assert torch.equal(other.log_partition(emissions), crf.log_partition(emissions))
    assert crf.to("meta").allowed_transitions.is_meta


def test_training_learns_what_follows_what() -> None:
    crf = CRF(K)
    tags = torch.tensor([[0, 1, 2, 0, 1], [1, 2, 0, 1, 2]])
    blind = torch.zeros(2, 5, K)
    optimizer = torch.optim.Adam(crf.parameters(), lr=0.3)
    for _ in range(30):
        optimizer.zero_grad()
        (-crf(blind, tags)).mean().backward()
        optimizer.step()
    hint = blind.clone()
    hint[0, 4, 1] = hint[1, 4, 2] = 1.0
    assert crf.decode(hint)[0].tolist() == tags.tolist()


def test_in_a_compiled_graph() -> None:
    crf, emissions = field(5, bio_constraints(BIO)), emitted(3, 3, 5).requires_grad_()
    tags, lengths = torch.tensor([[0, 1, 2], [1, 2, 2], [0, 0, 0]]), torch.tensor([3, 2, 0])
    compiled = torch.compile(crf, fullgraph=True, backend="eager")
    got, expected = compiled(emissions, tags, lengths), crf(emissions, tags, lengths)
    assert_all_close(got, expected)
    assert_all_close(gradients(got, emissions, crf), gradients(expected, emissions, crf))
    decode = torch.compile(crf.decode, fullgraph=True, backend="eager")
    assert_all_close(decode(emissions, lengths), crf.decode(emissions, lengths))
    tags[0, 0] = 2
    assert compiled(emissions, tags, lengths)[0] == -torch.inf
