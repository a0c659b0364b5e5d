"""recurra.nn.pooling against loops over each row's own steps, in float64; its examples and attention's."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import recurra.nn
from recurra.nn import attention, pooling
from recurra.nn.pooling import POOLINGS, AttentionPooling, Pooling, pool_last, pool_max, pool_mean

N, T, H, A = 7, 9, 6, 5
LENGTHS = [4, 9, 1, 0, 7, 2, 9]  # in no order, with a tie, one row of one step and one of none
NAN = float("nan")

every_kind = pytest.mark.parametrize("kind", [*POOLINGS, "last of two"])


def make(kind: str) -> Pooling:
    pool = Pooling(kind.split()[0], H, bidirectional=kind == "last of two").double()
    for weight in pool.parameters():
        torch.nn.init.normal_(weight)
    return pool


def draw() -> Tensor:
    return torch.randn(N, T, H, dtype=torch.float64, requires_grad=True)


def by_loops(pool: Pooling, x: Tensor, lengths: list[int]) -> Tensor:
    """(N, H), only the steps within each row's length ever touched."""
    rows = []
    for n, length in enumerate(lengths):
        steps = [x[n, t] for t in range(length)]
        if not steps:
            rows.append(torch.zeros(H, dtype=x.dtype))
        elif pool.kind == "last":
            half = H // 2
            rows.append(torch.cat((steps[-1][:half], steps[0][half:])) if pool.bidirectional else steps[-1])
        elif pool.kind == "mean":
            rows.append(sum(steps) / length)
        elif pool.kind == "max":
            rows.append(torch.stack([max((step[h] for step in steps), key=Tensor.item) for h in range(H)]))
        else:
            key, score = pool.attention.key, pool.attention.score.weight[0]
            scores = [score @ torch.tanh(key.weight @ step + key.bias) for step in steps]
            shares = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
            rows.append(sum(share * step for share, step in zip(shares, steps, strict=True)))
    return torch.stack(rows)


def gradients(result: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Of a sum in which no two numbers weigh the same."""
    ways = torch.linspace(-1, 2, result.numel(), dtype=result.dtype)
    return list(torch.autograd.grad((result.flatten() * ways).sum(), inputs))


def assert_all_close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


@every_kind
@pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["lengths", "all"])
def test_results_and_gradients_are_those_of_the_loops(kind: str, lengths: list[int] | None) -> None:
    pool, x = make(kind), draw()
    got, expected = pool(x, lengths), by_loops(pool, x, lengths or [T] * N)
    assert got.shape == (N, H)
    assert_all_close(got, expected)
    leaves = [x, *pool.parameters()]
    assert_all_close(gradients(got, leaves), gradients(expected, leaves))


def test_the_functions_are_the_module() -> None:
    x = draw()
    functions: dict[str, Callable[..., Tensor]] = {"last": pool_last, "mean": pool_mean, "max": pool_max}
    for kind, function in functions.items():
        for lengths in (LENGTHS, None):
            assert function(x, lengths).equal(Pooling(kind, H)(x, lengths))
    assert pool_last(x, LENGTHS, bidirectional=True).equal(make("last of two")(x, LENGTHS))


@every_kind
def test_a_row_of_no_steps_gives_zeros_and_a_row_of_one_step_gives_it(kind: str) -> None:
    x = draw()
    got = make(kind)(x, LENGTHS)
    assert (got[3] == 0).all()
    assert_all_close(got[2], x[2, 0])
    assert (make(kind)(x, [0] * N) == 0).all()


@every_kind
def test_padding_reaches_nothing(kind: str) -> None:
    pool, clean = make(kind), draw()
    within = torch.arange(T) < torch.tensor(LENGTHS).unsqueeze(1)
    results = []
    for filler in (0.0, NAN, float("inf"), -float("inf")):
        x = torch.where(within.unsqueeze(-1), clean, filler).detach().requires_grad_()
        got = pool(x, LENGTHS)
        found = gradients(got, [x, *pool.parameters()])
        assert (found[0][~within] == 0).all()
        assert found[0][within].isfinite().all()
        results.append([got, *found])
    for result in results[1:]:
        assert_all_close(result, results[0])


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")  # it says that it is slow
@every_kind
def test_backward_holds_no_hidden_nan(kind: str) -> None:
    beyond = torch.arange(T) >= torch.tensor(LENGTHS).unsqueeze(1)
    x = draw().detach().masked_fill(beyond.unsqueeze(-1), NAN).requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        make(kind)(x, LENGTHS).sum().backward()
    assert x.grad.isfinite().all()


@every_kind
def test_first_and_second_derivatives_by_differences(kind: str) -> None:
    pool, x = make(kind), torch.randn(3, 3, H, dtype=torch.float64, requires_grad=True)
    weights, names = tuple(pool.parameters()), [name for name, _ in pool.named_parameters()]

    def call(x: Tensor, *weights: Tensor) -> Any:
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(pool, given, (x, [3, 0, 2]))

    assert torch.autograd.gradcheck(call, (x, *weights))
    assert torch.autograd.gradgradcheck(lambda x: call(x, *weights), (x,))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_last_is_the_final_state_of_the_top_layer(name: str, bidirectional: bool) -> None:
    layer = getattr(recurra.nn, name)(
        3, 5, num_layers=2, bidirectional=bidirectional, batch_first=True, dtype=torch.float64
    )
    output, states = layer(torch.randn(N, T, 3, dtype=torch.float64), lengths=LENGTHS)
    h_n = states[0] if name == "LSTM" else states
    top = torch.cat((h_n[-2], h_n[-1]), dim=1) if bidirectional else h_n[-1]
    assert pool_last(output, LENGTHS, bidirectional=bidirectional).equal(top)


def test_the_largest_of_negative_numbers_is_negative() -> None:
    x = -torch.rand(N, T, H) - 1
    assert (pool_max(x, [4, 9, 1, 3, 7, 2, 9]) <= -1).all()


def test_ties_share_the_gradient() -> None:
    x = torch.zeros(1, 5, 1, requires_grad=True)
    pool_max(x, [4]).sum().backward()
    assert x.grad.flatten().tolist() == [0.25, 0.25, 0.25, 0.25, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mean_of_many_steps_in_half_precision(dtype: torch.dtype) -> None:
    """A sum in float16 ends at 65504, one in bfloat16 no longer grows after some hundred steps."""
    x = torch.full((3, 3333, 1), 63.0, dtype=dtype)
    got = pool_mean(x, [3333, 0, 2222])
    assert got.dtype == dtype
    assert got.flatten().tolist() == [63, 0, 63]
    assert pool_mean(x).flatten().tolist() == [63, 63, 63]


def test_attention_gives_its_weights() -> None:
    pool, x = AttentionPooling(H, attention_size=A).double(), draw()
    pooled, weights = pool(x, LENGTHS)
    assert weights.shape == (N, T)
    assert_all_close(weights.sum(1), torch.tensor(LENGTHS).clamp(max=1).double())
    assert (weights[torch.arange(T) >= torch.tensor(LENGTHS).unsqueeze(1)] == 0).all()
    assert_all_close((weights.unsqueeze(-1) * x).sum(1), pooled)
    assert pool.key.weight.shape == (A, H)


@every_kind
def test_in_a_compiled_graph(kind: str) -> None:
    pool, x, lengths = make(kind), draw(), torch.tensor(LENGTHS)
    torch.compiler.reset()
    got = torch.compile(pool, backend="aot_eager", fullgraph=True)(x, lengths)
    assert_all_close(got, pool(x, lengths))
    leaves = [x, *pool.parameters()]
    assert_all_close(gradients(got, leaves), gradients(pool(x, lengths), leaves))


@every_kind
def test_a_batch_of_no_rows(kind: str) -> None:
    assert make(kind)(torch.zeros(0, T, H, dtype=torch.float64), []).shape == (0, H)


def test_what_repr_shows() -> None:
    assert repr(Pooling("last", H, bidirectional=True)) == "Pooling('last', 6, bidirectional=True)"


def test_a_kind_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"^kind: expected one of last, mean, max, attention, got 'first'"):
        Pooling("first", H)


@pytest.mark.parametrize("size", [0, -7, 2.5, True, None], ids=str)
def test_sizes_that_are_none(size: Any) -> None:
    message = f"size: expected a whole number of 1 or more, got {size!r}; give how many"
    for kind in POOLINGS:
        with pytest.raises(ValueError, match="^" + message):
            Pooling(kind, size)
    with pytest.raises(ValueError, match="^" + message):
        AttentionPooling(size)
    if size is not None:
        with pytest.raises(ValueError, match="^attention_" + message):
            AttentionPooling(H, size)


def test_an_odd_size_is_not_of_two_directions() -> None:
    with pytest.raises(ValueError, match=r"^size: expected an even number.*got 7; give twice the layer's"):
        Pooling("max", 7, bidirectional=True)
    with pytest.raises(ValueError, match=r"^x: expected an even H.*got H = 7; give a bidirectional layer's"):
        pool_last(torch.zeros(N, T, 7), bidirectional=True)


@every_kind
@pytest.mark.parametrize(
    ("x", "got"),
    [
        (torch.zeros(T, H), r"\(9, 6\)"),
        (torch.zeros(N, 0, H), r"\(7, 0, 6\)"),
        (torch.zeros(N, T, H + 1), r"\(7, 9, 7\)"),
        ((torch.zeros(N, T, H), None), "tuple"),
    ],
)
def test_an_x_that_does_not_fit(kind: str, x: Any, got: str) -> None:
    for call in (make(kind), AttentionPooling(H)):
        with pytest.raises(
            ValueError, match=rf"^x: expected .*H = 6 and one step or more, got {got}; give a"
        ):
            call(x)


def test_an_x_that_has_no_steps_or_no_batch() -> None:
    for function in (pool_last, pool_mean, pool_max):
        for shape, got in (((T, H), r"\(9, 6\)"), ((N, 0, H), r"\(7, 0, 6\)")):
            message = rf"^x: expected \(N, T, H\) with one step or more, got {got}; give a layer's output"
            with pytest.raises(ValueError, match=message):
                function(torch.zeros(shape))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([9, 9, 9, 9, 10, 9, 9], r"expected 0 to 9, the steps of x, got 10 in row 4; count.*or pad x to the"),
        ([9, -1, 9, 9, 9, 9, 9], r"expected 0 to 9, the steps of x, got -1 in row 1"),
        ([9, 9], r"expected one for each of the 7 rows, shape \(7,\), got \(2,\); give each row of x"),
        ([3.0] * N, r"expected .*integer dtype, got torch.float64; convert them with .long\(\)"),
        (["three"] * N, r"expected a tensor, list or array of integers, got \['three'.*give each row its"),
    ],
)
def test_lengths_that_do_not_fit(lengths: Any, message: str) -> None:
    for call in (pool_last, pool_mean, pool_max, AttentionPooling(H), *map(Pooling, POOLINGS, [H] * 4)):
        with pytest.raises(ValueError, match=f"^lengths: {message}"):
            call(torch.zeros(N, T, H), lengths)


def examples(module: Any) -> list[tuple[Any, str, str]]:
    """(module, name, code) of each "For example" block in a module's docstrings."""
    found = []
    for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            _, _, block = (ast.get_docstring(node) or "").partition("For example::\n")
            code = [line[4:] for line in block.splitlines() if line.startswith("    ")]
            if code:
                found.append((module, node.name, "\n".join(code)))
    return found


EXAMPLES = [*examples(attention), *examples(pooling)]


@pytest.mark.parametrize(("module", "name", "code"), EXAMPLES, ids=[name for _, name, _ in EXAMPLES])
def test_each_example_runs(module: Any, name: str, code: str) -> None:
    exec(compile(code, name, "exec"), dict(vars(module)))


def test_each_public_class_and_function_has_an_example() -> None:
    scores = {"AdditiveAttention", "DotAttention", "GeneralAttention", "LocationAttention", "masked_softmax"}
    pools = {"pool_last", "pool_mean", "pool_max", "AttentionPooling", "Pooling"}
    assert {name for _, name, _ in EXAMPLES} == scores | pools
