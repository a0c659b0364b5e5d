"""recurra.nn's layers against torch's own, in float64: results, gradients, lengths and dropout."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import recurra.nn

N, T, F, H, P = 7, 9, 3, 5, 2
LENGTHS = [4, 9, 1, 7, 7, 2, 9]  # in no order, with ties, one row of the full length
KINDS = ("LSTM", "LSTM projected", "GRU", "RNN tanh", "RNN relu")
NAMES = ("LSTM", "GRU", "RNN")

OPTIONS = [
    {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias}
    for layers, both, first, bias in itertools.product((1, 2, 3), (False, True), (False, True), (True, False))
]


every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_name = pytest.mark.parametrize("name", NAMES)


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """Our layer and torch's, with the same weights, in float64."""
    name, _, way = kind.partition(" ")
    if way == "projected":
        options["proj_size"] = P
    elif way:
        options["nonlinearity"] = way
    options = {"dtype": torch.float64} | options
    ours, torchs = getattr(recurra.nn, name)(F, H, **options), getattr(torch.nn, name)(F, H, **options)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def batch(layer: Any, steps: int = T, rows: int = N) -> Tensor:
    shape = (rows, steps, F) if layer.batch_first else (steps, rows, F)
    return torch.randn(shape, dtype=torch.float64)


def start(layer: Any, rows: int = N) -> Any:
    """Initial states with nothing special about them."""
    places = layer.num_layers * (2 if layer.bidirectional else 1)
    h_0 = torch.randn(places, rows, layer.proj_size or H, dtype=torch.float64)
    return (h_0, torch.randn(places, rows, H, dtype=torch.float64)) if layer.mode == "LSTM" else h_0


def flat(result: Any) -> tuple[Tensor, ...]:
    """(output, (h_n, c_n)) or (output, h_n) as one tuple."""
    output, states = result
    return (output, *(states if isinstance(states, tuple) else (states,)))


def leaves(hx: Any) -> list[Tensor]:
    return list(hx) if isinstance(hx, tuple) else [hx]


def require_grad(*tensors: Tensor) -> None:
    for tensor in tensors:
        tensor.requires_grad_()


def gradients(layer: Any, results: tuple[Tensor, ...], inputs: list[Tensor]) -> list[Tensor]:
    """Of a sum in which no two numbers weigh the same, with respect to `inputs` and every weight."""
    loss = torch.zeros((), dtype=torch.float64)
    for result in results:
        loss = (
            loss
            + (result * torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view(result.shape)).sum()
        )
    return list(torch.autograd.grad(loss, [*inputs, *layer.parameters()]))


def through_packing(layer: Any, x: Tensor, hx: Any, lengths: list[int]) -> tuple[Tensor, ...]:
    packed = pack_padded_sequence(x, lengths, batch_first=layer.batch_first, enforce_sorted=False)
    output, states = layer(packed, hx)
    steps = x.shape[1 if layer.batch_first else 0]
    padded, _ = pad_packed_sequence(output, batch_first=layer.batch_first, total_length=steps)
    return flat((padded, states))


def assert_all_close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


@every_name
def test_is_a_torch_layer(name: str) -> None:
    layer = getattr(recurra.nn, name)(F, H)
    assert isinstance(layer, getattr(torch.nn, name))
    assert repr(layer) == repr(getattr(torch.nn, name)(F, H))


@every_option
@every_kind
def test_called_as_torch_is_it_gives_what_torch_gives(kind: str, options: dict[str, Any]) -> None:
    ours, torchs = pair(kind, **options)
    x, hx = batch(ours), start(ours)
    require_grad(x, *leaves(hx))
    mine, reference = flat(ours(x, hx)), flat(torchs(x, hx))
    assert_all_close(mine, reference)
    inputs = [x, *leaves(hx)]
    assert_all_close(gradients(ours, mine, inputs), gradients(torchs, reference, inputs))
    assert_all_close(flat(ours(x)), flat(torchs(x)))


@every_kind
@pytest.mark.parametrize("first", [False, True])
def test_one_sequence_without_a_batch(kind: str, first: bool) -> None:
    ours, torchs = pair(kind, num_layers=2, bidirectional=True, batch_first=first)
    x = torch.randn(T, F, dtype=torch.float64)
    hx = start(ours, rows=1)
    hx = tuple(state[:, 0] for state in hx) if isinstance(hx, tuple) else hx[:, 0]
    assert_all_close(flat(ours(x, hx)), flat(torchs(x, hx)))
    assert_all_close(flat(ours(x)), flat(torchs(x)))


@every_kind
def test_packed_in_packed_out(kind: str) -> None:
    ours, torchs = pair(kind, num_layers=2, bidirectional=True, batch_first=True)
    x, hx = batch(ours), start(ours)
    packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    assert isinstance(ours(packed)[0], PackedSequence)
    assert_all_close(through_packing(ours, x, hx, LENGTHS), through_packing(torchs, x, hx, LENGTHS))


@every_kind
def test_state_dict_goes_both_ways(kind: str) -> None:
    ours, torchs = pair(kind, num_layers=2, bidirectional=True)
    assert list(ours.state_dict()) == list(torchs.state_dict())
    for parameter in torchs.parameters():
        torch.nn.init.normal_(parameter)
    x = batch(ours)
    assert not torch.equal(ours(x)[0], torchs(x)[0])
    ours.load_state_dict(torchs.state_dict())
    assert_all_close(flat(ours(x, lengths=LENGTHS)), through_packing(torchs, x, None, LENGTHS))
    saved = io.BytesIO()
    torch.save(ours.state_dict(), saved)
    saved.seek(0)
    fresh = pair(kind, num_layers=2, bidirectional=True)[1]
    fresh.load_state_dict(torch.load(saved, weights_only=True))
    assert torch.equal(ours(x)[0], fresh(x)[0])


@every_kind
def test_the_same_seed_draws_the_same_weights(kind: str, seed: int) -> None:
    torch.manual_seed(seed)
    ours = pair(kind)[0]
    torch.manual_seed(seed)
    name, _, way = kind.partition(" ")
    options = {} if not way else {"proj_size": P} if way == "projected" else {"nonlinearity": way}
    torchs = getattr(torch.nn, name)(F, H, dtype=torch.float64, **options)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), torchs.parameters(), strict=True))


@every_kind
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_whole_and_separate(kind: str, duplicate: Callable[[Any], Any]) -> None:
    ours, _ = pair(kind, num_layers=2)
    twin = duplicate(ours)
    x = batch(ours)
    before = flat(twin(x, lengths=LENGTHS))
    assert all(torch.equal(a, b) for a, b in zip(before, flat(ours(x, lengths=LENGTHS)), strict=True))
    with torch.no_grad():
        ours.weight_hh_l0.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, flat(twin(x, lengths=LENGTHS)), strict=True))
    assert not torch.equal(before[0], ours(x, lengths=LENGTHS)[0])


@every_kind
def test_functional_call_reaches_every_path(kind: str) -> None:
    ours, torchs = pair(kind, bidirectional=True)
    other = {name: torch.randn_like(value) for name, value in ours.named_parameters()}
    x = batch(ours)
    got = torch.func.functional_call(ours, other, (x,), {"lengths": LENGTHS})
    torchs.load_state_dict(other)
    assert_all_close(flat(got), through_packing(torchs, x, None, LENGTHS))


@every_kind
def test_functional_call_with_weights_of_another_dtype(kind: str) -> None:
    ours, torchs = pair(kind, bidirectional=True, dtype=torch.float32)
    doubled = {name: value.double() for name, value in ours.named_parameters()}
    x = batch(ours)
    got = torch.func.functional_call(ours, doubled, (x,), {"lengths": LENGTHS})
    assert_all_close(flat(got), through_packing(torchs.double(), x, None, LENGTHS))


@every_option
@every_kind
def test_lengths_equal_packing_and_padding(kind: str, options: dict[str, Any]) -> None:
    ours, torchs = pair(kind, **options)
    x, hx = batch(ours), start(ours)
    require_grad(x, *leaves(hx))
    mine, reference = flat(ours(x, hx, lengths=LENGTHS)), through_packing(torchs, x, hx, LENGTHS)
    assert_all_close(mine, reference)
    inputs = [x, *leaves(hx)]
    assert_all_close(gradients(ours, mine, inputs), gradients(torchs, reference, inputs))
    assert_all_close(flat(ours(x, lengths=LENGTHS)), through_packing(torchs, x, None, LENGTHS))


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    lengths=st.lists(st.integers(1, 33), min_size=1, max_size=7),
    spare=st.integers(0, 3),
    layers=st.integers(1, 2),
    both=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_lengths_of_any_batch(
    kind: str, lengths: list[int], spare: int, layers: int, both: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    ours, torchs = pair(kind, num_layers=layers, bidirectional=both)
    x, hx = batch(ours, max(lengths) + spare, len(lengths)), start(ours, len(lengths))
    assert_all_close(flat(ours(x, hx, lengths=lengths)), through_packing(torchs, x, hx, lengths))


@every_kind
@pytest.mark.parametrize("first", [False, True])
def test_full_lengths_are_no_lengths(kind: str, first: bool) -> None:
    ours, _ = pair(kind, num_layers=2, bidirectional=True, batch_first=first)
    x = batch(ours)
    plain, full = flat(ours(x)), flat(ours(x, lengths=[T] * N))
    assert_all_close(full, plain)
    assert full[0].is_contiguous()


@every_kind
def test_rows_of_no_steps_end_as_they_began(kind: str) -> None:
    ours, torchs = pair(kind, num_layers=2, bidirectional=True, batch_first=True)
    x, hx = batch(ours), start(ours)
    lengths = [4, 0, 1, 7, 0, 2, 9]
    some = [row for row, length in enumerate(lengths) if length]
    none = [row for row, length in enumerate(lengths) if not length]
    output, *states = flat(ours(x, hx, lengths=lengths))
    assert (output[none] == 0).all()
    for state, initial in zip(states, leaves(hx), strict=True):
        assert torch.equal(state[:, none], initial[:, none])
    kept = tuple(state[:, some] for state in hx) if isinstance(hx, tuple) else hx[:, some]
    reference = through_packing(torchs, x[some], kept, [lengths[row] for row in some])
    assert_all_close((output[some], *(state[:, some] for state in states)), reference)


@every_kind
def test_all_rows_of_no_steps_and_no_rows_at_all(kind: str) -> None:
    ours, _ = pair(kind, num_layers=2, bidirectional=True, batch_first=True)
    x, hx = batch(ours), start(ours)
    output, *states = flat(ours(x, hx, lengths=[0] * N))
    assert (output == 0).all()
    assert all(torch.equal(a, b) for a, b in zip(states, leaves(hx), strict=True))
    empty = flat(ours(batch(ours, rows=0), lengths=[]))
    expected = flat(ours(batch(ours, rows=0)))
    assert [result.shape for result in empty] == [result.shape for result in expected]


@every_kind
@pytest.mark.parametrize("trouble", [float("nan"), float("inf")])
def test_what_lies_beyond_a_row_reaches_nothing(kind: str, trouble: float) -> None:
    ours, _ = pair(kind, num_layers=2, bidirectional=True, batch_first=True)
    lengths = torch.tensor([4, 0, 1, 7, 0, 2, 9])
    beyond = torch.arange(T) >= lengths[:, None]
    clean = batch(ours).masked_fill(beyond[:, :, None], 0.0)
    dirty = clean.masked_fill(beyond[:, :, None], trouble)
    require_grad(clean, dirty)
    one, two = flat(ours(clean, lengths=lengths)), flat(ours(dirty, lengths=lengths))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    got, expected = gradients(ours, two, [dirty]), gradients(ours, one, [clean])
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert (got[0][beyond] == 0).all()


@pytest.mark.parametrize(
    "spell",
    [
        lambda lengths: torch.tensor(lengths, dtype=torch.uint8),
        lambda lengths: torch.tensor(lengths, dtype=torch.int16),
        lambda lengths: torch.tensor(lengths, dtype=torch.int32),
        lambda lengths: torch.tensor(lengths, dtype=torch.uint16),
        lambda lengths: torch.tensor(lengths, dtype=torch.uint64),
        lambda lengths: torch.tensor([lengths, lengths]).T[:, 0],
        tuple,
        np.array,
        lambda lengths: np.array(lengths, dtype=np.uint16),
        lambda lengths: np.array(lengths[::-1])[::-1],
        lambda lengths: np.broadcast_to(np.array(lengths), (1, N))[0],
        lambda lengths: [torch.tensor(length) for length in lengths],
    ],
)
def test_lengths_in_any_form(spell: Callable[[list[int]], Any]) -> None:
    ours, _ = pair("LSTM", batch_first=True)
    x = batch(ours)
    assert torch.equal(ours(x, lengths=spell(LENGTHS))[0], ours(x, lengths=LENGTHS)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_kind
def test_lengths_on_another_device_than_the_input(kind: str) -> None:
    ours, _ = pair(kind, num_layers=2, bidirectional=True)
    x, lengths = batch(ours), torch.tensor(LENGTHS)
    expected = flat(ours(x, lengths=lengths.cuda()))
    assert_all_close(expected, flat(ours(x, lengths=lengths)))
    ours.cuda()
    for place in (lengths, lengths.cuda(), LENGTHS):
        assert_all_close([r.cpu() for r in flat(ours(x.cuda(), lengths=place))], list(expected))


def test_lengths_in_a_list_where_another_device_is_the_default() -> None:
    ours, _ = pair("GRU")
    x = batch(ours)
    expected = ours(x, lengths=LENGTHS)[0]
    with torch.device("meta"):
        assert torch.equal(ours(x, lengths=LENGTHS)[0], expected)


@every_kind
def test_in_float32_and_bfloat16(kind: str) -> None:
    ours, torchs = pair(kind, num_layers=2, bidirectional=True)
    x = batch(ours)
    expected = through_packing(torchs, x, None, LENGTHS)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
        results = flat(ours.to(dtype)(x.to(dtype), lengths=LENGTHS))
        assert {result.dtype for result in results} == {dtype}
        torch.testing.assert_close([r.double() for r in results], list(expected), rtol=0, atol=tolerance)


@every_kind
def test_gradients_of_each_row_by_vmap(kind: str) -> None:
    ours, _ = pair(kind, num_layers=2, bidirectional=True, batch_first=True)
    x = batch(ours)
    weights = dict(ours.named_parameters())

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(ours, weights, (row[None],), {"lengths": [4]})[0]
        return result.square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    for name, weight in weights.items():
        one = [torch.autograd.grad(loss(weights, row), weight)[0] for row in x]
        assert_all_close(each[name], torch.stack(one))


@every_kind
def test_dropout_only_in_training(kind: str) -> None:
    ours, torchs = pair(kind, num_layers=3, bidirectional=True, dropout=0.4)
    x = batch(ours)
    ours.eval(), torchs.eval()
    assert_all_close(flat(ours(x, lengths=LENGTHS)), through_packing(torchs, x, None, LENGTHS))
    ours.train()
    assert not torch.equal(ours(x, lengths=LENGTHS)[0], ours(x, lengths=LENGTHS)[0])


@every_kind
def test_dropout_leaves_the_lowest_layer_and_the_output_alone(kind: str) -> None:
    ours, torchs = pair(kind, num_layers=2, dropout=1.0)
    x, hx = batch(ours), start(ours)
    assert_all_close(flat(ours(x, hx, lengths=LENGTHS)), through_packing(torchs, x, hx, LENGTHS))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_dropout_drops_its_share_and_scales_the_rest(probability: float) -> None:
    """The top layer, relu with weights 1 and 0, hands through what dropout leaves of the bottom one's."""
    hidden, rows = 33, 63
    layer = recurra.nn.RNN(
        1,
        hidden,
        num_layers=2,
        nonlinearity="relu",
        dropout=probability,
        batch_first=True,
        dtype=torch.float64,
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.bias_ih_l0.fill_(1.0)
        layer.weight_ih_l1.copy_(torch.eye(hidden))
    lengths = torch.randint(1, T + 1, (rows,))
    output, _ = layer(torch.zeros(rows, T, 1, dtype=torch.float64), lengths=lengths)
    seen = output[torch.arange(T) < lengths[:, None]]
    assert_all_close(seen.unique(), torch.tensor([0.0, 1 / (1 - probability)], dtype=torch.float64))
    share = (seen == 0).double().mean().item()
    deviation = (probability * (1 - probability) / seen.numel()) ** 0.5
    assert abs(share - probability) < 5 * deviation
