"""The layers that torch has not: native float32 beside float64 of the same module, and their contract."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from engine_cases import relative_error, threads
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._pytree import tree_leaves

from recurra import nn
from recurra.engine import native, plain
from recurra.engine.norms import layer_norm_gru, layer_norm_lstm
from recurra.engine.slstm import slstm
from recurra.engine.variants import coupled_lstm, peephole_lstm, refined_lstm
from recurra.nn.inputs import weights_of

N, T, F, H = 7, 9, 5, 34  # H: an odd number for each of two heads
LENGTHS = torch.tensor([4, 9, 0, 6, 1, 9, 3])
BOUND = 5e-6  # of relative_error
KINDS: dict[str, Callable[..., Any]] = {
    "PeepholeLSTM": nn.PeepholeLSTM,
    "CoupledLSTM": nn.CoupledLSTM,
    "CoupledLSTM-refine": partial(nn.CoupledLSTM, refine=True),
    "LayerNormLSTM": nn.LayerNormLSTM,
    "LayerNormGRU": nn.LayerNormGRU,
    "SLSTM": nn.SLSTM,
    "SLSTM-heads": partial(nn.SLSTM, heads=2),
}
TWINS = {
    "PeepholeLSTM": (peephole_lstm, "weight_peephole", "peepholes"),
    "CoupledLSTM": (coupled_lstm, None, None),
    "CoupledLSTM-refine": (refined_lstm, None, None),
    "LayerNormLSTM": (layer_norm_lstm, "weight_norm", "norms"),
    "LayerNormGRU": (layer_norm_gru, "weight_norm", "norms"),
    "SLSTM": (slstm, None, None),
    "SLSTM-heads": (slstm, None, None),
}
GATES = {
    "PeepholeLSTM": ("input", "forget", "candidate", "output"),
    "CoupledLSTM": ("forget", "candidate", "output"),
    "CoupledLSTM-refine": ("forget", "refine", "candidate", "output"),
    "LayerNormLSTM": ("input", "forget", "candidate", "output"),
    "LayerNormGRU": ("reset", "update", "candidate"),
    "SLSTM": ("input", "forget", "candidate", "output"),
    "SLSTM-heads": ("input", "forget", "candidate", "output"),
}
DEEP: dict[str, Any] = {"num_layers": 2, "bidirectional": True}

each_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, *sizes: int, **options: Any) -> Any:
    layer = KINDS[kind](*(sizes or (F, H)), **options)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("weight_norm"):
                weight.mul_(0.25)  # a new layer of this kind is chaotic, and shows rounding alone
    return layer


def states_for(layer: Any, *rows: int) -> tuple[Tensor, ...] | Tensor:
    """hx of a layer for that many rows, or for one sequence."""
    places = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = [layer.proj_size or layer.hidden_size, *[layer.hidden_size] * (len(layer.state_names) - 1)]
    drawn = [torch.randn(places, *rows, size) for size in sizes]
    if len(drawn) == 4:
        drawn[2] = drawn[2].abs() + 0.5  # a sum of exponentials
    return tuple(drawn) if layer.has_cell_state else drawn[0]


def exact(given: Any) -> Any:
    if isinstance(given, PackedSequence) or (isinstance(given, Tensor) and given.is_floating_point()):
        return given.double()
    return tuple(map(exact, given)) if isinstance(given, tuple) else given


def flat(hx: Any) -> list[Tensor]:
    return [] if hx is None else tree_leaves(hx)


def tensors(result: Any) -> list[Tensor]:
    output, states = result
    return [output.data if isinstance(output, PackedSequence) else output, *tree_leaves(states)]


def through(layer: Any, x: Any, hx: Any, ways: list[Tensor] | None, **how: Any) -> tuple[Any, ...]:
    """Results, and the gradients of x, of hx and of the weights; ways: those of the results."""
    begun = [state.requires_grad_() for state in flat(hx)]
    data = (x.data if isinstance(x, PackedSequence) else x).requires_grad_()
    results = tensors(layer(x, hx, **how))
    ways = ways or [torch.randn_like(result) for result in results]
    leaves = [data, *begun, *layer.parameters()]
    given = [way.to(result.dtype) for way, result in zip(ways, results, strict=True)]
    return ways, [*results, *torch.autograd.grad(results, leaves, given, materialize_grads=True)]


def hold(
    layer: Any, monkeypatch: pytest.MonkeyPatch, x: Any, hx: Any = None, seed: int = 3, **how: Any
) -> None:
    """A call in float32 beside the same in float64, gradients included; float32 is the engine's alone."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the plain twin ran in float32")

    with monkeypatch.context() as patch:
        if native.available():
            patch.setattr(plain, "run", refuse)
        torch.manual_seed(seed)
        ways, found = through(layer, x, hx, None, **how)
    torch.manual_seed(seed)
    _, truth = through(copy.deepcopy(layer).double(), exact(x), exact(hx), ways, **how)
    names = [f"result {k}" for k in range(len(ways))] + ["x", *(f"hx {k}" for k in range(len(flat(hx))))]
    names += [name for name, _ in layer.named_parameters()]
    # of few numbers that are normalised, hardly a gradient is left but rounding, whoever computes it
    normed = isinstance(layer, (nn.LayerNormLSTM, nn.LayerNormGRU))
    few = normed and min(layer.hidden_size, layer.input_size) < 5
    for k, (name, mine, true) in enumerate(zip(names, found, truth, strict=True)):
        assert mine.isfinite().all(), name
        if k < len(ways) or not few:
            assert relative_error(mine.detach(), true.detach()) < BOUND, name


FORMS: dict[str, Any] = {
    "batch": {},
    "unbatched": {"rows": None},
    "packed": {"form": "packed"},
    "lengths": {"lengths": LENGTHS},
    "resets": {"lengths": LENGTHS, "resets": True},
    "resets to hx": {"resets": True, "reset_to_initial": True},
    "recompute": {"recompute": True},
}


@each_kind
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("given", [False, True], ids=["from zero", "from hx"])
@pytest.mark.parametrize("form", FORMS)
def test_every_call_is_the_same_in_float64(
    kind: str, batch_first: bool, given: bool, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = dict(FORMS[form])
    rows, packs = how.pop("rows", N), how.pop("form", None)
    layer = make(kind, batch_first=batch_first, **DEEP)
    x = torch.randn((N, T, F) if batch_first else (T, N, F))
    if rows is None:
        x = x[0] if batch_first else x[:, 0]
    if packs:
        x = pack_padded_sequence(x, LENGTHS.clamp(min=1), batch_first, enforce_sorted=False)
    if "resets" in how:
        how["resets"] = torch.rand(N, T) < 0.3
    hx = states_for(layer, *([] if rows is None else [rows])) if given else None
    hold(layer, monkeypatch, x, hx, **how)


OPTIONS: dict[str, Any] = {
    "projection": {"proj_size": 6, "bidirectional": True},
    "no bias": {"bias": False},
    "one layer": {},
    "dropout": {"dropout": 0.4, "num_layers": 2},
    "learned": {"hx": "learned", **DEEP},
    "noise in eval": {"zoneout": 0.2, "recurrent_dropout": 0.3, "weight_drop": 0.2},
    "noise in training": {"zoneout": 0.2, "recurrent_dropout": 0.3},
}


@each_kind
@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_is_the_same_in_float64(
    kind: str, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if options == "projection" and kind == "LayerNormGRU":
        pytest.skip("torch has projections for an LSTM alone")
    layer = make(kind, **OPTIONS[options]).train("training" in options)
    for name in layer.state_names if layer.hx == "learned" else ():
        torch.nn.init.uniform_(getattr(layer, name), 0.5, 1.5)
    hold(layer, monkeypatch, torch.randn(T, N, F), lengths=LENGTHS)


@each_kind
@pytest.mark.parametrize("sizes", [(1, 1), (7, 2), (1, 66), (7, 6)], ids=str)
def test_sizes_may_be_any(kind: str, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    features, hidden = sizes
    if hidden == 1 and kind == "SLSTM-heads":
        hidden = 2
    layer = make(kind, features, hidden)
    for rows, steps in ((1, 1), (7, 1), (1, 7)):
        hold(layer, monkeypatch, torch.randn(steps, rows, features))


@each_kind
def test_a_state_of_zeros_is_what_none_is(kind: str) -> None:
    layer = make(kind, **DEEP)
    for x, rows in ((torch.randn(T, N, F), [N]), (torch.randn(T, F), []), (torch.randn(1, 1, F), [1])):
        places = [torch.zeros(4, *rows, H) for _ in layer.state_names]
        hx = tuple(places) if layer.has_cell_state else places[0]
        for grads in (True, False):
            with torch.set_grad_enabled(grads):
                absent, given = tensors(layer(x)), tensors(layer(x, hx))
            assert all(torch.equal(a, b) for a, b in zip(absent, given, strict=True))
            assert all(result.isfinite().all() for result in absent)


@each_kind
@pytest.mark.parametrize("count", [1, 3])
def test_a_row_of_nan_touches_no_other_row(kind: str, count: int) -> None:
    layer, x = make(kind, **DEEP), torch.randn(T, N, F)
    spoiled = x.clone()
    spoiled[:, 2] = torch.nan
    others = [row for row in range(N) if row != 2]
    for how in ({}, {"lengths": LENGTHS.clamp(min=2)}):
        found = []
        for given in (x, spoiled):
            given = given.clone().requires_grad_()
            with threads(count):
                results = tensors(layer(given, **how))
                (d_x,) = torch.autograd.grad([result.sum() for result in results], given)
            found.append([result[:, others] for result in (*results, d_x)])
            assert results[0][0, 2].isnan().any() == (given is not x and bool(given.isnan().any()))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@each_kind
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("unbatched", [False, True])
def test_steps_one_at_a_time_are_the_whole(kind: str, batch_first: bool, unbatched: bool) -> None:
    layer = make(kind, batch_first=batch_first)
    axis = 1 if batch_first and not unbatched else 0
    shape = (T, F) if unbatched else ((3, T, F) if batch_first else (T, 3, F))
    x = torch.randn(shape)
    whole = tensors(layer(x))
    for context in (torch.inference_mode, torch.enable_grad):
        states, outputs = None, []
        with context():
            for one in x.split(1, axis):
                output, states = layer(one, states)
                outputs.append(output)
        for mine, true in zip([torch.cat(outputs, axis), *tree_leaves(states)], whole, strict=True):
            assert relative_error(mine.detach(), true.detach()) < BOUND


@each_kind
def test_parameters_are_as_documented(kind: str) -> None:
    layer = KINDS[kind](F, 6, proj_size=4 if kind != "LayerNormGRU" else 0, **DEEP)
    gates, heads = len(GATES[kind]), 2 if kind == "SLSTM-heads" else 1
    state = 6 if kind == "LayerNormGRU" else 4
    expected: dict[str, tuple[int, ...]] = {}
    for place, features in (("l0", F), ("l0_reverse", F), ("l1", 2 * state), ("l1_reverse", 2 * state)):
        expected[f"weight_ih_{place}"] = (gates * 6, features)
        expected[f"weight_hh_{place}"] = (gates * 6, state // heads)
        expected |= {f"bias_ih_{place}": (gates * 6,), f"bias_hh_{place}": (gates * 6,)}
        if state == 4:
            expected[f"weight_hr_{place}"] = (4, 6)
        own = {"PeepholeLSTM": ("peephole", 3), "LayerNormLSTM": ("norm", 10), "LayerNormGRU": ("norm", 6)}
        if kind in own:
            name, rows = own[kind]
            expected[f"weight_{name}_{place}"] = (rows, 6)
    assert {name: tuple(weight.shape) for name, weight in layer.named_parameters()} == expected
    assert list(layer.state_dict()) == [name for name, _ in layer.named_parameters()]
    assert [name for names in layer._all_weights for name in names] == layer._flat_weights_names
    assert set(layer._flat_weights_names) == set(expected)
    assert layer.gate_names == GATES[kind]
    bound = 6**-0.5
    for name, weight in layer.named_parameters():
        if not name.startswith("weight_norm"):
            assert weight.abs().max() <= bound
            assert weight.unique().numel() == weight.numel()


@pytest.mark.parametrize("kind", ["LayerNormLSTM", "LayerNormGRU"])
def test_norms_begin_at_one_and_what_they_add_at_zero(kind: str) -> None:
    layer = KINDS[kind](F, 7, hx="learned", dtype=torch.float64, **DEEP)
    for again in (False, True):
        if again:
            for weight in layer.parameters():
                torch.nn.init.normal_(weight)
            layer.reset_parameters()
        for place in ("l0", "l0_reverse", "l1", "l1_reverse"):
            norms = getattr(layer, f"weight_norm_{place}")
            assert norms[:9].eq(1).all()
            assert norms[9:].eq(0).all()
            assert norms.shape == ((10, 7) if kind == "LayerNormLSTM" else (6, 7))
            assert norms.requires_grad
            assert norms.is_leaf
            assert getattr(layer, f"weight_hh_{place}").abs().max() < 7**-0.5
        assert layer.h_0.eq(0).all()


@each_kind
def test_copies_and_state_dicts(kind: str) -> None:
    layer, x = make(kind, **DEEP), torch.randn(T, N, F)
    fresh = KINDS[kind](F, H, **DEEP)
    assert str(fresh.load_state_dict(layer.state_dict(), strict=True)) == "<All keys matched successfully>"
    truth = tensors(layer(x))
    for again in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(again) == repr(layer)
        assert all(torch.equal(a, b) for a, b in zip(tensors(again(x)), truth, strict=True))
        with torch.no_grad():
            again.weight_hh_l1_reverse.zero_()
        assert not torch.equal(again(x)[0], truth[0])
    assert torch.equal(layer(x)[0], truth[0])
    assert ("refine=True" in repr(layer)) == (kind == "CoupledLSTM-refine")
    assert ("heads=2" in repr(layer)) == (kind == "SLSTM-heads")
    other = KINDS[kind](F, H + 2, **DEEP)
    with pytest.raises(RuntimeError, match=r"size mismatch for weight_ih_l0: copying a param with shape"):
        other.load_state_dict(layer.state_dict())


def test_refined_weights_do_not_fit_a_coupled_layer() -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for weight_hh_l0"):
        nn.CoupledLSTM(F, H).load_state_dict(nn.CoupledLSTM(F, H, refine=True).state_dict())


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grads", [True, False])
def test_a_trace_is_the_twins_gates(kind: str, dtype: torch.dtype, grads: bool) -> None:
    layer = make(kind, **DEEP).to(dtype)
    x, lengths = torch.randn(T, N, F, dtype=dtype), LENGTHS
    with torch.set_grad_enabled(grads):
        traces = layer.trace(x, lengths=lengths)
        output = layer(x, lengths=lengths)[0]
    assert [(trace.layer, trace.reverse) for trace in traces] == [
        (0, False),
        (0, True),
        (1, False),
        (1, True),
    ]
    beyond = torch.arange(T) >= lengths.unsqueeze(1)
    twin, weight, name = TWINS[kind]
    given, weights = x.transpose(0, 1).double(), [w.detach().double() for w in weights_of(layer)]
    names = ["w_ih", "w_hh", "b_ih", "b_hh", *([name] if weight else [])]
    for place, trace in enumerate(traces):
        own = dict(zip(names, weights[place * len(names) : (place + 1) * len(names)], strict=True))
        cells = [torch.zeros(N, 3 * H if twin is slstm else H).double()] * layer.has_cell_state
        truth = twin(given, torch.zeros(N, H).double(), *cells, **own, lengths=lengths, reverse=trace.reverse)
        assert trace.gate_names == GATES[kind]
        assert trace.gates.shape == (N, T, len(GATES[kind]), H)
        assert torch.equal(trace.lengths, lengths)
        assert trace.gates[beyond].eq(0).all()
        pairs = [(trace.gates, truth.gates), (trace.hidden, truth.output)]
        if trace.cell is not None:
            cell = truth.cell
            if twin is slstm:
                c, n, _ = cell.chunk(3, -1)
                cell = torch.where(n == 0, torch.zeros(()).double(), c / n)
            pairs.append((trace.cell, cell))
            assert trace.cell.shape == (N, T, H)
            assert trace.cell[beyond].eq(0).all()
        for mine, true in pairs:
            torch.testing.assert_close(mine.double(), true, rtol=0, atol=4e-6 if place > 1 else 1e-6)
        if place == 1:
            given = torch.cat([trace.hidden.double() for trace in traces[:2]], -1).detach()
    assert (traces[0].cell is None) == (kind == "LayerNormGRU")
    top = torch.cat([trace.hidden for trace in traces[2:]], -1).transpose(0, 1)
    torch.testing.assert_close(top, output, rtol=0, atol=1e-6)


@each_kind
def test_gradients_go_through_a_trace(kind: str) -> None:
    layer, x = make(kind, 3, 8, bidirectional=True), torch.randn(T, N, 3, requires_grad=True)
    shown = [(t.gates, t.cell) for t in layer.trace(x, lengths=LENGTHS)]
    total = torch.stack([part.square().sum() for part in tree_leaves(shown) if part is not None]).sum()
    (d_x,) = torch.autograd.grad(total, x)
    beyond = torch.arange(T).unsqueeze(1) >= LENGTHS
    assert d_x[beyond].eq(0).all()
    assert d_x[~beyond].isfinite().all()
    assert d_x[~beyond].ne(0).any(-1).all()


@each_kind
def test_misuse_is_named(kind: str) -> None:
    layer, x = make(kind), torch.randn(T, N, F)
    h = torch.zeros(1, N, H)
    whole: Any = (h,) * len(layer.state_names) if layer.has_cell_state else h
    short: Any = (h[:, 1:], *whole[1:]) if layer.has_cell_state else h[:, 1:]
    for given, hx, message in (
        (x[..., 1:], whole, r"input.size\(-1\) must be equal to input_size. Expected 5, got 4"),
        (x, short, r"Expected hidden(\[[01]\])? size \(1, [67], 34\), got \[1, [67], 34\]"),
        (x[:, 0], whole, "For unbatched 2-D input, hx should also be 2-D but got 3-D"),
        (x[:0], whole, "Expected sequence length to be larger than 0"),
        (x.double(), None, "dtype"),
    ):
        with pytest.raises((RuntimeError, ValueError), match=message):
            layer(given, hx)
    with pytest.raises(
        ValueError, match=r"lengths: expected 0 to 9, the steps of .*, got 10 in row 0; count"
    ):
        layer(x, whole, lengths=[10] * N)
