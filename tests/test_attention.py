"""recurra.nn.attention against the equations written as loops, in float64; lengths, masks and steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recurra.nn.attention import (
    AdditiveAttention,
    DotAttention,
    GeneralAttention,
    LocationAttention,
    Memory,
    masked_softmax,
)

N, T, U, Q, K, V, A = 7, 9, 3, 5, 4, 2, 6
LENGTHS = [4, 9, 1, 0, 7, 2, 9]  # in no order, with a tie, one row of one step and one of none
NAN = float("nan")

KINDS: dict[str, Callable[[], Any]] = {
    "additive": lambda: AdditiveAttention(Q, K, A),
    "additive without bias": lambda: AdditiveAttention(Q, K, A, bias=False),
    "dot": DotAttention,
    "dot scaled": lambda: DotAttention(scaled=True),
    "general": lambda: GeneralAttention(Q, K),
    "location": lambda: LocationAttention(Q, K, A, channels=3, kernel_size=5),
    "location cumulative": lambda: LocationAttention(Q, K, A, channels=3, kernel_size=7, cumulative=True),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
each_score = pytest.mark.parametrize("kind", ["additive", "dot scaled", "general", "location cumulative"])


def make(kind: str) -> Any:
    """An attention whose weights are large enough to look at some keys more than at others."""
    attention = KINDS[kind]().double()
    for weight in attention.parameters():
        torch.nn.init.normal_(weight)
    return attention


def draw(kind: str, rows: int = N, steps: int = T) -> tuple[Tensor, Tensor, Tensor]:
    """query (N, U, Q), keys (N, T, K), values (N, T, V)."""
    size = K if kind.startswith("dot") else Q
    shapes = (rows, U, size), (rows, steps, K), (rows, steps, V)
    query, keys, values = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return query, keys, values


def allowed(lengths: list[int] | None = None, mask: Tensor | None = None) -> Tensor:
    """(N, T) bool, worked out number by number."""
    return torch.tensor(
        [
            [(lengths is None or t < lengths[n]) and (mask is None or bool(mask[n, t])) for t in range(T)]
            for n in range(N)
        ]
    )


def score(attention: Any, query: Tensor, key: Tensor, near: Tensor) -> Tensor:
    """The score of one query (Q) with one key (K). near: what lay near that key before (kernel_size)."""
    if isinstance(attention, DotAttention):
        return query @ key / (math.sqrt(K) if attention.scaled else 1)
    if isinstance(attention, GeneralAttention):
        return query @ attention.query.weight.T @ key
    inside = attention.query.weight @ query + attention.key.weight @ key
    if attention.query.bias is not None:
        inside = inside + attention.query.bias
    if isinstance(attention, LocationAttention):
        inside = inside + attention.location.weight @ (attention.filters.weight[:, 0] @ near)
    return attention.score.weight[0] @ torch.tanh(inside)


def by_loops(
    attention: Any, query: Tensor, keys: Tensor, values: Tensor, valid: Tensor, past: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(context, weights) of each row and step, only the valid keys ever touched."""
    width = attention.filters.kernel_size[0] if isinstance(attention, LocationAttention) else 1
    contexts, weights = [], []
    for n in range(len(query)):
        before = torch.zeros(T, dtype=torch.float64) if past is None else past[n]
        for u in range(query.shape[1]):
            padded = torch.nn.functional.pad(before, (width // 2, width // 2))
            places = [t for t in range(T) if valid[n, t]]
            here = torch.zeros(T, dtype=torch.float64)
            context = torch.zeros(values.shape[2], dtype=torch.float64)
            if places:
                found = [score(attention, query[n, u], keys[n, t], padded[t : t + width]) for t in places]
                shares = torch.stack(found).exp() / torch.stack(found).exp().sum()
                here = here.index_put((torch.tensor(places),), shares)
                context = sum(share * values[n, t] for share, t in zip(shares, places, strict=True))
            contexts.append(context)
            weights.append(here)
            before = before + here if getattr(attention, "cumulative", False) else here
    shape = len(query), query.shape[1]
    return torch.stack(contexts).view(*shape, -1), torch.stack(weights).view(*shape, T)


def gradients(results: tuple[Tensor, ...], inputs: list[Tensor]) -> list[Tensor]:
    """Of a sum in which no two numbers weigh the same."""
    ways = [torch.linspace(-1, 2, result.numel(), dtype=result.dtype) for result in results]
    loss = sum((result.flatten() * way).sum() for result, way in zip(results, ways, strict=True))
    return list(torch.autograd.grad(loss, inputs))


def assert_all_close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


@every_kind
@pytest.mark.parametrize("how", ["all", "lengths", "mask", "both"])
def test_results_and_gradients_are_those_of_the_loops(kind: str, how: str) -> None:
    attention, inputs = make(kind), [tensor.requires_grad_() for tensor in draw(kind)]
    lengths = LENGTHS if how in ("lengths", "both") else None
    mask = torch.rand(N, T) < 0.6 if how in ("mask", "both") else None
    if mask is not None:
        mask[5] = False
    got = attention(*inputs, lengths=lengths, mask=mask)
    expected = by_loops(attention, *inputs, allowed(lengths, mask))
    assert got[0].shape == (N, U, V)
    assert got[1].shape == (N, U, T)
    assert_all_close(got, expected)
    leaves = [*inputs, *attention.parameters()]
    assert_all_close(gradients(got, leaves), gradients(expected, leaves))


@every_kind
def test_values_are_the_keys_where_none_are_given(kind: str) -> None:
    attention, (query, keys, _) = make(kind), draw(kind)
    keys.requires_grad_()
    got, expected = attention(query, keys, lengths=LENGTHS), attention(query, keys, keys, lengths=LENGTHS)
    assert got[0].shape == (N, U, K)
    assert_all_close(got, expected)
    assert_all_close(gradients(got, [keys]), gradients(expected, [keys]))


@every_kind
def test_weights_sum_to_one_or_are_all_zero(kind: str) -> None:
    attention, inputs = make(kind), draw(kind)
    context, weights = attention(*inputs, lengths=LENGTHS)
    sums = torch.tensor([float(length > 0) for length in LENGTHS], dtype=torch.float64)
    assert_all_close(weights.sum(-1), sums.unsqueeze(1).expand(N, U))
    assert (weights[~allowed(LENGTHS).unsqueeze(1).expand(N, U, T)] == 0).all()
    assert (weights[2, :, 0] == 1).all()  # the row of one step
    assert_all_close(context[2], inputs[2][2, :1].expand(U, V))
    assert (context[3] == 0).all()
    assert (weights[3] == 0).all()


def step_by_step(attention: Any, query: Tensor, keys: Tensor, values: Tensor, lengths: Any) -> Any:
    """(contexts, weights) of a decoder that makes the memory once and goes one step after the other."""
    memory, past = attention.memory(keys, values, lengths=lengths), None
    contexts, weights = [], []
    for one in query.unbind(1):
        if isinstance(attention, LocationAttention):
            context, weight = attention(one, memory, past=past)
            past = attention.next_past(past, weight)
        else:
            context, weight = attention(one, memory)
        contexts.append(context)
        weights.append(weight)
    return torch.stack(contexts, 1), torch.stack(weights, 1)


@every_kind
def test_step_by_step_is_the_same_as_many_steps_at_once(kind: str) -> None:
    attention, inputs = make(kind), [tensor.requires_grad_() for tensor in draw(kind)]
    together = attention(*inputs, lengths=LENGTHS)
    parted = step_by_step(attention, *inputs, LENGTHS)
    assert_all_close(parted, together)
    leaves = [*inputs, *attention.parameters()]
    assert_all_close(gradients(parted, leaves), gradients(together, leaves))


@every_kind
def test_each_row_alone_gives_what_it_gives_in_the_batch(kind: str) -> None:
    attention, inputs = make(kind), draw(kind)
    context, weights = attention(*inputs, lengths=LENGTHS)
    for n, length in ((n, length) for n, length in enumerate(LENGTHS) if length):
        query, keys, values = (tensor[n : n + 1] for tensor in inputs)
        alone = attention(query, keys[:, :length], values[:, :length])
        assert_all_close(alone, (context[n : n + 1], weights[n : n + 1, :, :length]))


@every_kind
@pytest.mark.parametrize("how", ["lengths", "mask"])
def test_what_may_not_be_attended_to_reaches_nothing(kind: str, how: str) -> None:
    attention, clean = make(kind), draw(kind)
    mask = allowed(LENGTHS) if how == "lengths" else torch.rand(N, T) < 0.5
    options = {"lengths": LENGTHS} if how == "lengths" else {"mask": mask}
    results = []
    for filler in (0.0, NAN, float("inf")):
        query, keys, values = (tensor.clone().requires_grad_() for tensor in clean)
        filled = [torch.where(mask.unsqueeze(-1), tensor, filler) for tensor in (keys, values)]
        got = attention(query, *filled, **options)
        # to the filled tensors too: padding itself must be given a gradient of zero, not of NaN
        results.append([*got, *gradients(got, [query, keys, values, *filled, *attention.parameters()])])
    for result in results[1:]:
        assert all(tensor.isfinite().all() for tensor in result)
        assert_all_close(result, results[0])
    for padded in results[1][5:7]:
        assert (padded[~mask] == 0).all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")  # it says that it is slow
@every_kind
def test_backward_holds_no_hidden_nan(kind: str) -> None:
    attention, (query, keys, values) = make(kind), draw(kind)
    keys = keys.masked_fill(~allowed(LENGTHS).unsqueeze(-1), NAN).requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        torch.cat(attention(query, keys, values, lengths=LENGTHS), dim=-1).sum().backward()
    assert keys.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own forward mode uses it
@each_score
def test_first_and_second_derivatives_by_differences(kind: str) -> None:
    attention = make(kind)
    query, keys, values = (tensor[:, :2].requires_grad_() for tensor in draw(kind, rows=3))
    weights = tuple(attention.parameters())
    names = [name for name, _ in attention.named_parameters()]

    def call(query: Tensor, keys: Tensor, values: Tensor, *weights: Tensor) -> Any:
        given, inputs = dict(zip(names, weights, strict=True)), (query, keys, values)
        return torch.func.functional_call(attention, given, inputs, {"lengths": [2, 1, 0]})

    assert torch.autograd.gradcheck(call, (query, keys, values, *weights), check_forward_ad=True)

    assert torch.autograd.gradgradcheck(lambda *inputs: call(*inputs, *weights), (query, keys, values))


@every_kind
def test_per_sample_gradients(kind: str) -> None:
    attention, (query, keys, values) = make(kind), draw(kind)
    weights = {name: weight.detach() for name, weight in attention.named_parameters()}
    mask = allowed(LENGTHS)

    def loss(weights: Any, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        row = tuple(tensor.unsqueeze(0) for tensor in (query, keys, values))
        results = torch.func.functional_call(attention, weights, row, {"mask": mask.unsqueeze(0)})
        return sum(result.square().sum() for result in results)

    gradient, rows = torch.func.grad(loss, argnums=(0, 1)), (query, keys, values, mask)
    each = torch.func.vmap(gradient, in_dims=(None, 0, 0, 0, 0))(weights, *rows)
    for n in range(N):
        alone = gradient(weights, *(tensor[n] for tensor in rows))
        assert_all_close({name: weight[n] for name, weight in each[0].items()}, alone[0])
        assert_all_close(each[1][n], alone[1])


@every_kind
def test_the_memory_is_prepared_once(kind: str) -> None:
    attention, (query, *both) = make(kind), draw(kind)
    memory, calls = attention.memory(*both, lengths=LENGTHS), []
    for name in ("key", "query"):
        if hasattr(attention, name):
            getattr(attention, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    for one in query.unbind(1):
        attention(one, memory)
    assert calls == (["query"] * U if hasattr(attention, "query") else [])


@every_kind
def test_rows_of_a_memory_are_selected_for_a_beam_search(kind: str) -> None:
    attention, (query, keys, values) = make(kind), draw(kind)
    rows = torch.tensor([4, 4, 0, 2, 4])
    for lengths in (LENGTHS, None):
        selected = attention.memory(keys, values, lengths=lengths).select(rows)
        assert isinstance(selected, Memory)
        context, weights = attention(query, keys, values, lengths=lengths)
        assert_all_close(attention(query[rows], selected), (context[rows], weights[rows]))


@pytest.mark.parametrize("kind", ["location", "location cumulative"])
def test_location_goes_on_from_a_past(kind: str) -> None:
    attention, (query, *both) = make(kind), draw(kind)
    past = torch.rand(N, T, dtype=torch.float64)
    beyond = ~allowed(LENGTHS)
    got = attention(query, *both, past=past.masked_fill(beyond, NAN), lengths=LENGTHS)
    clean = past.masked_fill(beyond, 0)
    assert_all_close(got, by_loops(attention, query, *both, ~beyond, past=clean))
    memory = attention.memory(*both, lengths=LENGTHS)
    first = attention(query[:, :2], memory, past=clean)
    later = attention(query[:, 2:], memory, past=attention.next_past(clean, first[1]))
    assert_all_close(tuple(torch.cat(part, 1) for part in zip(first, later, strict=True)), got)
    assert not torch.allclose(got[1], attention(query, memory)[1])  # the past matters


@pytest.mark.parametrize("cumulative", [False, True])
def test_the_next_past(cumulative: bool) -> None:
    attention = LocationAttention(Q, K, A, cumulative=cumulative)
    past, weights = torch.rand(N, T), torch.rand(N, U, T)
    assert attention.next_past(None, weights[:, 0]).equal(weights[:, 0])
    expected = past + weights.sum(1) if cumulative else weights[:, 2]
    assert attention.next_past(past, weights).equal(expected)
    one = past + weights[:, 1] if cumulative else weights[:, 1]
    assert attention.next_past(past, weights[:, 1]).equal(one)


def test_location_sees_where_it_looked() -> None:
    """A filter that copies the weight of the step before its own makes the attention walk on."""
    attention = LocationAttention(1, 1, 1, channels=1, kernel_size=3, bias=False).double()
    for weight in attention.parameters():
        torch.nn.init.zeros_(weight)
    with torch.no_grad():
        attention.filters.weight[0, 0, 0] = 1.0  # the step to the left
        attention.location.weight.fill_(9.0)
        attention.score.weight.fill_(60.0)
    past = torch.nn.functional.one_hot(torch.tensor([0, 3]), 9).double()
    zeros = torch.zeros(2, 4, 1, dtype=torch.float64)
    _, weights = attention(zeros, torch.zeros(2, 9, 1, dtype=torch.float64), past=past)
    assert weights.argmax(-1).tolist() == [[1, 2, 3, 4], [4, 5, 6, 7]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_masked_softmax_of_huge_scores(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    scores = torch.tensor([[most, -most, most], [-most, -most, NAN], [NAN, NAN, NAN]], dtype=dtype)
    valid = torch.tensor([[True, True, False], [True, True, False], [False, False, False]])
    scores.requires_grad_()
    weights = masked_softmax(scores, valid)
    assert weights.dtype == dtype
    assert weights.tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 0]]
    weights[:, 0].sum().backward()
    assert scores.grad.tolist() == [[0, 0, 0], [0.25, -0.25, 0], [0, 0, 0]]


def test_masked_softmax_is_softmax_where_all_is_valid() -> None:
    scores = torch.randn(7, 1, 33, dtype=torch.float64)
    expected = scores.softmax(-1)
    assert masked_softmax(scores, None).equal(expected)
    assert_all_close(masked_softmax(scores, torch.ones(33, dtype=torch.bool)), expected)
    assert masked_softmax(torch.randn(7, 0), torch.ones(7, 0, dtype=torch.bool)).shape == (7, 0)


LENGTH_FORMS = {
    "tensor": torch.tensor,
    "int32": lambda lengths: torch.tensor(lengths, dtype=torch.int32),
    "uint8": lambda lengths: torch.tensor(lengths, dtype=torch.uint8),
    "tuple": tuple,
    "array": np.array,
    "array backwards": lambda lengths: np.array(lengths[::-1])[::-1],
}


@pytest.mark.parametrize("form", LENGTH_FORMS)
def test_lengths_come_in_any_form(form: str) -> None:
    attention, inputs = make("general"), draw("general")
    expected = attention(*inputs, lengths=LENGTHS)
    got = attention(*inputs, lengths=LENGTH_FORMS[form](LENGTHS))
    assert all(mine.equal(other) for mine, other in zip(got, expected, strict=True))


def test_a_batch_of_no_rows() -> None:
    for kind in KINDS:
        context, weights = make(kind)(*draw(kind, rows=0), lengths=[])
        assert context.shape == (0, U, V), kind
        assert weights.shape == (0, U, T), kind


@pytest.mark.parametrize("kind", ["additive", "location cumulative"])
def test_in_a_compiled_graph(kind: str) -> None:
    attention, inputs = make(kind), [tensor.requires_grad_() for tensor in draw(kind)]
    lengths, leaves = torch.tensor(LENGTHS), [*inputs, *attention.parameters()]
    expected = attention(*inputs, lengths=lengths)
    torch.compiler.reset()
    compiled = torch.compile(step_by_step, backend="aot_eager", fullgraph=True)
    got = compiled(attention, *inputs, lengths)
    assert_all_close(got, expected)
    assert_all_close(gradients(got, leaves), gradients(expected, leaves))
    with torch.no_grad():
        memory = attention.memory(*inputs[1:], lengths=lengths)
        one = torch.compile(attention, backend="eager", fullgraph=True)(inputs[0][:, 0], memory)
        assert_all_close(one, attention(inputs[0][:, 0], memory))


@every_kind
def test_under_autocast(kind: str) -> None:
    attention, inputs = make(kind).float(), [tensor.float() for tensor in draw(kind)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context, weights = attention(*inputs, lengths=LENGTHS)
    assert context.isfinite().all()
    assert (weights.sum(-1).round() == torch.tensor(LENGTHS).clamp(max=1).unsqueeze(1)).all()


def test_what_repr_shows() -> None:
    assert repr(DotAttention(scaled=True)) == "DotAttention(scaled=True)"
    assert "cumulative=True" in repr(LocationAttention(Q, K, A, cumulative=True))


@pytest.mark.parametrize("name", ["query_size", "key_size", "attention_size", "channels", "kernel_size"])
@pytest.mark.parametrize("size", [0, -7, 2.5, True, None], ids=str)
def test_sizes_that_are_none(name: str, size: Any) -> None:
    sizes = {"query_size": Q, "key_size": K, "attention_size": A} | {name: size}
    makers: list[Callable[..., Any]] = [LocationAttention]
    if name not in ("channels", "kernel_size"):
        makers.append(AdditiveAttention)
    if name in ("query_size", "key_size"):
        makers.append(lambda query_size, key_size, attention_size: GeneralAttention(query_size, key_size))
    message = f"^{name}: expected a whole number of 1 or more, got {size!r}; give how many"
    for maker in makers:
        with pytest.raises(ValueError, match=message):
            maker(**sizes)


def test_a_kernel_without_a_middle() -> None:
    with pytest.raises(ValueError, match=r"^kernel_size: expected an odd number.*got 4; give 3 or 5$"):
        LocationAttention(Q, K, A, kernel_size=4)


# Q stands for the size of a query, which is another for a scalar product
WRONG = [
    ("query", (N, "Q+1"), r"expected \(N, Q\) = \(7, {Q}\), or \(N, U, Q\).*got \(7, {Q+1}\); give"),
    ("query", (N - 1, "Q"), r"expected .* got \(6, {Q}\); give the decoder's hidden state"),
    ("query", (1, N, "Q"), r"expected .* got \(1, 7, {Q}\).*h_n\[-1\]"),
    ("query", (N, 0, "Q"), r"expected .*one decoder step or more, got \(7, 0, {Q}\)"),
    ("query", ("Q",), r"expected .* got \({Q},\)"),
    ("query", None, r"expected .* got NoneType"),
    ("keys", (N, K), r"expected \(N, T, K\) with K.* got \(7, 4\); give an encoder's output"),
    ("keys", (N, 0, K), r"expected .*one step or more, got \(7, 0, 4\)"),
    ("keys", None, r"expected .* got NoneType"),
    ("values", (N, T + 1, V), r"expected \(N, T, V\) with \(N, T\) = \(7, 9\).*got \(7, 10, 2\); give one"),
    ("values", (N - 1, T, V), r"expected .*got \(6, 9, 2\)"),
    ("values", (N, T), r"expected .*got \(7, 9\)"),
]


@every_kind
@pytest.mark.parametrize(("name", "shape", "message"), WRONG)
def test_shapes_that_do_not_fit(kind: str, name: str, shape: Any, message: str) -> None:
    sizes = {"Q": K, "Q+1": K + 1} if kind.startswith("dot") else {"Q": Q, "Q+1": Q + 1}
    given = dict(zip(("query", "keys", "values"), draw(kind), strict=True))
    given[name] = None if shape is None else torch.zeros([sizes.get(length, length) for length in shape])
    for letter, size in sizes.items():
        message = message.replace(f"{{{letter}}}", str(size))
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        make(kind)(**given)


BAD = [
    ("lengths", [9, 9, 10, 9, 9, 9, 9], r"expected 0 to 9, the steps of keys, got 10 in row 2; count.*pad"),
    ("lengths", [9, 9, 9, 9, 9, 9, -1], r"expected 0 to 9, the steps of keys, got -1 in row 6"),
    ("lengths", [9, 9], r"expected one for each of the 7 rows, shape \(7,\), got \(2,\); give each row"),
    ("lengths", 3, r"expected a tensor, list or array of integers, got 3"),
    ("lengths", [3.0] * N, r"expected .*integer dtype, got torch.float64; convert them with .long\(\)"),
    ("lengths", torch.ones(N) > 0, r"expected .*integer dtype, got torch.bool"),
    ("lengths", torch.ones(N, dtype=torch.complex64), r"expected .*integer dtype, got torch.complex64"),
    ("lengths", ["three"] * N, r"expected a tensor, list or array of integers, got \['three'.*give each"),
    ("lengths", [[3], [4, 5]], r"expected a tensor, list or array of integers"),
    ("mask", torch.ones(N, T), r"expected a tensor of torch.bool, True where.*got torch.float32; convert"),
    ("mask", [[True] * T] * N, r"expected a tensor of torch.bool.*got list; convert it with torch.as_tensor"),
    ("mask", torch.ones(N, U, T) > 0, r"expected \(N, T\) = \(7, 9\).*got \(7, 3, 9\); give one truth"),
    ("mask", torch.ones(T, N) > 0, r"expected \(N, T\) = \(7, 9\).*got \(9, 7\)"),
]


@every_kind
@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_lengths_and_masks_that_do_not_fit(kind: str, name: str, value: Any, message: str) -> None:
    attention, (query, *both) = make(kind), draw(kind)
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        attention(query, *both, **{name: value})
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        attention.memory(*both, **{name: value})


@every_kind
def test_a_memory_has_its_own_values_lengths_and_mask(kind: str) -> None:
    attention, (query, keys, values) = make(kind), draw(kind)
    memory = attention.memory(keys, values)
    mask = torch.ones(N, T, dtype=torch.bool)
    given = [("values", values, r"\(7, 9, 2\)"), ("lengths", LENGTHS, "list"), ("mask", mask, r"\(7, 9\)")]
    for name, value, got in given:
        message = f"^{name}: expected None beside a Memory.*got {got}; give {name} to memory"
        with pytest.raises(ValueError, match=message):
            attention(query, memory, **{name: value})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("dot")])
def test_keys_of_another_size(kind: str) -> None:
    attention, (query, keys, values) = make(kind), draw(kind)
    with pytest.raises(ValueError, match=r"^keys: expected \(N, T, K\) with K = 4.*got \(7, 9, 3\)"):
        attention(query, keys[..., :3], values)
    other = AdditiveAttention(Q, K, A + 1).double().memory(keys, values)
    with pytest.raises(
        ValueError, match=r"^keys: expected a Memory that this attention made.*size 7; make it"
    ):
        attention(query, other)


@pytest.mark.parametrize(("past", "got"), [(torch.zeros(N, T + 1), r"\(7, 10\)"), (3, "int")])
def test_a_past_that_does_not_fit(past: Any, got: str) -> None:
    with pytest.raises(ValueError, match=rf"^past: expected \(N, T\) = \(7, 9\).*got {got}; give what"):
        make("location")(*draw("location"), past=past)
