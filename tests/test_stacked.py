"""recurra.nn.stacked against loops over rows, pieces, directions and layers in float64, and num_layers."""

from __future__ import annotations

import ast
import copy
import itertools
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence

import recurra.nn
from recurra.nn import stacked
from recurra.nn.stacked import Stacked

N, T, F = 5, 7, 3
SIZES = (7, 7, 5)
LENGTHS = [4, 7, 0, 1, 6]
CELLS = ["LSTM", "GRU", "RNN", "PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "LayerNormGRU"]
MERGES = ["concat", "sum", "mean", "none"]
CONNECTIONS = [None, "residual", "highway"]
RICH: dict[str, Any] = {"bidirectional": True, "connection": "highway", "hx": "learned"}


def make(sizes: tuple[int, ...] = SIZES, **options: Any) -> Stacked:
    """A stack in float64 whose weights, learned states among them, are all different from zero."""
    stack = Stacked(F, sizes, **options).double()
    for weight in stack.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return stack


def draw(stack: Stacked) -> Tensor:
    shape = (N, T, F) if stack.batch_first else (T, N, F)
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def mark(*places: tuple[int, int]) -> Tensor:
    resets = torch.zeros(N, T, dtype=torch.bool)
    for row, step in places:
        resets[row, step] = True
    return resets


# a first and a last step, two in a row, one beyond a row's length, one in a row of no steps
RESETS = mark((0, 0), (0, 2), (1, 3), (1, 6), (2, 2), (3, 4), (4, 1), (4, 2), (4, 5))


def states_for(stack: Stacked) -> tuple[Any, ...]:
    """States as a call would return them, leaves that require gradients."""

    def leaf(state: Any) -> Any:
        own = isinstance(state, Tensor)
        return torch.randn_like(state, requires_grad=True) if own else tuple(map(leaf, state))

    return leaf(stack(draw(stack))[1])


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flat(part)]


def in_one_direction(layer: Any, reverse: bool, x: Tensor, state: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One piece x (T, F) from state through torch's or the variant's class with one layer and direction."""
    projection = {"proj_size": layer.proj_size} if layer.proj_size else {}
    plain = type(layer)(layer.input_size, layer.hidden_size, bias=layer.bias, **projection)
    ending = "_l0_reverse" if reverse else "_l0"
    weights = {name: getattr(layer, name.replace("_l0", ending)) for name, _ in plain.named_parameters()}
    hx = tuple(s.unsqueeze(0) for s in state)
    given = (x.flip(0) if reverse else x, hx if layer.has_cell_state else hx[0])
    output, ends = functional_call(plain.double(), weights, given)
    return output.flip(0) if reverse else output, tuple(s.squeeze(0) for s in flat(ends))


def through_row(layer: Any, x: Tensor, cuts: list[int], begin: Any, back: Any) -> tuple[Tensor, list[Any]]:
    """Output (D, T, H) and ends of one row x (T, F), not empty. begin, back: states of each direction."""
    edges = [0, *[cut for cut in cuts if cut > 0], len(x)]
    pieces = [x[a:b] for a, b in itertools.pairwise(edges)]
    outputs, ends = [], []
    for direction in range(len(begin)):
        # a reset at step 0 puts the forward state back before anything is read
        state = back[direction] if direction == 0 and 0 in cuts else begin[direction]
        found = []
        for piece in pieces[::-1] if direction else pieces:
            output, end = in_one_direction(layer, direction == 1, piece, state)
            found.append(output)
            state = back[direction]
        outputs.append(torch.cat(found[::-1] if direction else found))
        ends.append(end)
    return torch.stack(outputs), ends


def connect(stack: Stacked, place: int, h: Tensor, x: Tensor) -> Tensor:
    if stack.connection is None or place == 0:
        return h
    part = stack.connections[str(place)]
    past = x if x.shape[-1] == h.shape[-1] else x @ part.projection.weight.T
    if stack.connection == "residual":
        return h + past
    share = torch.sigmoid(x @ part.gate.weight.T + part.gate.bias)
    return share * h + (1 - share) * past


def by_loops(
    stack: Stacked, x: Tensor, hx: Any, lengths: Any = None, resets: Any = None, reset_to_initial: Any = False
) -> list[Tensor]:
    """What `stack` gives, flat, in eval mode: each row by itself, only its own steps ever touched."""
    directions = 2 if stack.bidirectional else 1
    outputs, ends = [], []  # of each row, and the ends of each layer and direction in it
    for n, row in enumerate(x if stack.batch_first else x.transpose(0, 1)):
        below = row[: T if lengths is None else lengths[n]]
        cuts = [] if resets is None else [t for t in range(len(below)) if resets[n, t]]
        ends.append([])
        for place, layer in enumerate(stack.layers):
            sizes = [layer.proj_size or layer.hidden_size, layer.hidden_size][: 1 + layer.has_cell_state]
            zeros = [tuple(x.new_zeros(size) for size in sizes)] * directions
            learned = zeros
            if stack.hx == "learned":
                own = [getattr(layer, f"{letter}_0") for letter in "hc"[: len(sizes)]]
                learned = [tuple(state[d] for state in own) for d in range(directions)]
            begin = learned
            if hx is not None:
                given = hx[place] if layer.has_cell_state else (hx[place],)
                begin = [tuple(state[d, n] for state in given) for d in range(directions)]
            initial = learned if stack.hx == "learned" else begin
            back = initial if reset_to_initial else zeros
            found, last = x.new_zeros(directions, 0, sizes[0]), begin
            if len(below):
                found, last = through_row(layer, below, cuts, begin, back)
            ends[-1].append(last)
            merged = found.sum(0) if stack.merge == "sum" else found.mean(0)
            merged = merged if stack.merge in ("sum", "mean") else torch.cat(tuple(found), -1)
            below = connect(stack, place, merged, below)
        outputs.append(torch.cat((below, below.new_zeros(T - len(below), below.shape[1]))))
    output = torch.stack(outputs, 0 if stack.batch_first else 1)
    tops = list(output.chunk(2, -1)) if stack.merge == "none" else [output]
    for place, layer in enumerate(stack.layers):
        for kind in range(1 + layer.has_cell_state):
            own = [torch.stack([ends[n][place][d][kind] for n in range(N)]) for d in range(directions)]
            tops.append(torch.stack(own))
    return tops


def close(found: Any, truth: Any, atol: float = 1e-12) -> None:
    for mine, true in zip(flat(found), flat(truth), strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=atol)


def gradients(results: list[Tensor], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """Of a sum in which no two numbers weigh the same, zeros where there is none."""
    ways = [torch.linspace(-1, 2, t.numel(), dtype=t.dtype).reshape(t.shape) for t in results]
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    return torch.autograd.grad(results, leaves, ways, **options)


def hold(stack: Stacked, given: bool = False, **how: Any) -> None:
    """Holds a call against the loops, gradients included. given: with hx."""
    x, hx = draw(stack), states_for(stack) if given else None
    found, truth = flat(stack(x, hx, **how)), by_loops(stack, x, hx, **how)
    leaves = [x, *stack.parameters(), *(flat(hx) if given else [])]
    close(found, truth)
    close(gradients(found, leaves), gradients(truth, leaves), 1e-11)


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("merge", MERGES)
def test_every_merge_and_connection_is_its_loops(merge: str, connection: str | None) -> None:
    hold(make(bidirectional=True, merge=merge, connection=connection), lengths=LENGTHS)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_is_its_loops(cell: str, options: Any) -> None:
    stack = make((5, 7), cell=cell, connection="highway", hx="learned", **options)
    kind = getattr(recurra.nn, cell), options.get("bias", True)
    assert [(type(layer), layer.bias) for layer in stack.layers] == [kind, kind]
    hold(stack)
    hold(stack, given=True, lengths=LENGTHS)
    hold(stack, given=True, lengths=LENGTHS, resets=RESETS, reset_to_initial=True)


@pytest.mark.parametrize("sizes", [(1,), (1, 33), (7, 1, 7)], ids=str)
def test_sizes_may_be_any(sizes: tuple[int, ...]) -> None:
    stack = make(sizes, cell="GRU", bidirectional=True, connection="residual")
    assert stack.output_size == 2 * sizes[-1] == stack(draw(stack))[0].shape[-1]
    hold(stack, lengths=LENGTHS)


@pytest.mark.parametrize("merge", ["concat", "sum"])
def test_projections_are_what_the_next_layer_reads(merge: str) -> None:
    stack = make(bidirectional=True, merge=merge, connection="residual", hx="learned", proj_size=3)
    assert [stack.layers[1].h_0.shape, stack.layers[1].c_0.shape] == [(2, 3), (2, 7)]
    hold(stack, lengths=LENGTHS)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("start", ["zeros", "learned"])
@pytest.mark.parametrize("to_initial", [True, False])
def test_resets_put_back_what_they_should(
    batch_first: bool, given: bool, start: str, to_initial: bool
) -> None:
    stack = make((7, 5), cell="GRU", **{**RICH, "hx": start}, batch_first=batch_first)
    hold(stack, given, lengths=LENGTHS, resets=RESETS, reset_to_initial=to_initial)
    hold(stack, given, resets=RESETS, reset_to_initial=to_initial)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_with_equal_sizes_it_is_num_layers(cell: str, bidirectional: bool) -> None:
    """In training, with dropout between layers, the masks of one seed are the same as well."""
    options = {"bidirectional": bidirectional, "batch_first": True, "dropout": 0.4}
    whole = getattr(recurra.nn, cell)(F, 7, num_layers=3, **options)
    stack = Stacked(F, [7, 7, 7], cell=cell, **options)
    for place, layer in enumerate(stack.layers):
        weights = {name: getattr(whole, name.replace("_l0", f"_l{place}")) for name in layer.state_dict()}
        layer.load_state_dict(weights)
    x = torch.randn(N, T, F)
    for training in (True, False):
        torch.manual_seed(7)
        output, finals = whole.train(training)(x, lengths=LENGTHS)
        torch.manual_seed(7)
        mine, states = stack.train(training)(x, lengths=LENGTHS)
        assert mine.equal(output)
        parts = list(zip(*states, strict=True)) if whole.has_cell_state else [states]
        close([torch.cat(part) for part in parts], finals, 0)
    assert not stack.train()(x)[0].equal(stack.eval()(x)[0])


def test_what_goes_past_a_layer_is_not_dropped() -> None:
    stack = make((F, F), cell="RNN", connection="residual", dropout=1.0).train()
    x = draw(stack)
    lower, _ = stack.layers[0](x)
    upper, _ = stack.layers[1](torch.zeros_like(lower))
    close(stack(x)[0], lower + upper)


def test_the_highway_begins_nearly_shut() -> None:
    stack = Stacked(F, SIZES, connection="highway")
    for part in stack.connections.values():
        assert part.gate.bias.eq(-1).all()
        assert part.gate.weight.ne(0).all()
        assert isinstance(part.projection, torch.nn.Linear) is (part.gate.out_features == 5)


@pytest.mark.parametrize("cell", ["PeepholeLSTM", "GRU"])
def test_a_learned_state_is_a_state_that_was_given(cell: str) -> None:
    stack = make(cell=cell, bidirectional=True, hx="learned")
    x = draw(stack)
    has_cell = stack.layers[0].has_cell_state
    starts = [[layer.h_0, layer.c_0] if has_cell else [layer.h_0] for layer in stack.layers]
    own = [[state.unsqueeze(1).repeat(1, N, 1) for state in states] for states in starts]
    hx = tuple(tuple(states) if has_cell else states[0] for states in own)
    learned = [state for states in starts for state in states]
    found, true = flat(stack(x, lengths=LENGTHS)), flat(stack(x, hx, lengths=LENGTHS))
    close(found, true)
    close(gradients(found, [x, *learned]), gradients(true, [x, *learned]))
    assert all(gradient.ne(0).all() for gradient in gradients(found[:1], learned))


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize("unbatched", [True, False])
def test_chunks_with_the_state_carried_are_the_whole(cell: str, unbatched: bool) -> None:
    stack = make(cell=cell, connection="highway", hx="learned")
    x = draw(stack).detach()[:, 0] if unbatched else draw(stack).detach()
    whole = flat(stack(x))
    states, outputs = None, []
    for chunk in x.split(2):
        output, states = stack(chunk, states, detach=True)
        outputs.append(output)
    close([torch.cat(outputs), states], whole, 1e-14)


def test_detach_cuts_the_graph_at_hx_and_nowhere_else() -> None:
    stack = make((7, 5), bidirectional=True, hx="learned")
    first, second, weights = draw(stack), draw(stack), list(stack.parameters())
    _, states = stack(first)
    by_hand = tuple(tuple(s.detach() for s in pair) for pair in states)
    joined, cut, true = stack(second, states), stack(second, states, detach=True), stack(second, by_hand)
    close(*(gradients(flat(result), [first, second, *weights]) for result in (cut, true)), 0)
    assert gradients(flat(cut), [first])[0].eq(0).all()
    assert gradients(flat(joined), [first])[0].ne(0).all()
    start = gradients(flat(stack(second, detach=True)), [stack.layers[0].h_0, stack.layers[1].c_0])
    assert all(gradient.ne(0).all() for gradient in start)


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_beyond_a_length_reaches_anything(connection: str | None, dtype: torch.dtype) -> None:
    stack = make(bidirectional=True, connection=connection, hx="learned", batch_first=True).to(dtype)
    x = torch.randn(N, T, F, dtype=dtype)
    beyond = torch.arange(T) >= torch.tensor(LENGTHS).unsqueeze(1)
    results = []
    for padding in (0.0, float("nan")):
        padded = x.masked_fill(beyond.unsqueeze(-1), padding).requires_grad_()
        output, states = stack(padded, lengths=torch.tensor(LENGTHS), resets=RESETS)
        upstream = torch.ones_like(output).masked_fill(beyond.unsqueeze(-1), padding)
        ends = flat(states)
        leaves = [padded, *stack.parameters()]
        found = torch.autograd.grad([output, *ends], leaves, [upstream, *map(torch.ones_like, ends)])
        assert output[beyond].eq(0).all()
        assert found[0][beyond].eq(0).all()
        results.append([output, *ends, *found])
    close(*results, 0)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("merge", ["concat", "none"])
def test_one_sequence_is_a_batch_of_one_row(batch_first: bool, merge: str) -> None:
    stack = make(bidirectional=True, merge=merge, batch_first=batch_first, connection="residual")
    axis = 0 if batch_first else 1
    x = torch.randn(T, F, dtype=torch.float64)
    output, states = stack(x)
    again, later = stack(x, states)
    batch, finals = stack(x.unsqueeze(axis))
    batch_again, batch_later = stack(x.unsqueeze(axis), finals)
    close([output, again], [part.squeeze(axis) for part in flat([batch, batch_again])], 0)
    close([states, later], [state.squeeze(1) for state in flat([finals, batch_later])], 0)
    assert all(state.dim() == 2 for state in flat(states))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("given", [True, False])
def test_a_trace_shows_what_forward_did(batch_first: bool, cell: str, given: bool) -> None:
    stack = make(cell=cell, batch_first=batch_first, dropout=0.5, **RICH)
    x, hx = draw(stack), states_for(stack) if given else None
    how: dict[str, Any] = {"lengths": LENGTHS, "resets": RESETS, "reset_to_initial": True}
    traces = stack.trace(x, hx, **how)
    places = [(layer, reverse) for layer in range(3) for reverse in (False, True)]
    assert [(trace.layer, trace.reverse) for trace in traces] == places
    output, states = stack.eval()(x, hx, **how)
    hidden = [state[0] if cell == "LSTM" else state for state in states]
    counts = torch.tensor(LENGTHS)
    for trace, final in zip(traces, [state for layer in hidden for state in layer], strict=True):
        at = torch.zeros_like(counts) if trace.reverse else (counts - 1).clamp(min=0)
        close(trace.hidden[torch.arange(N), at][counts > 0], final[counts > 0])
    for trace in traces:
        assert trace.lengths.tolist() == LENGTHS
        assert trace.gates.shape[:2] == trace.hidden.shape[:2] == (N, T)
        assert (trace.cell is None) == (cell != "LSTM")
    low, middle, top = (torch.cat([traces[k].hidden, traces[k + 1].hidden], -1) for k in (0, 2, 4))
    top = connect(stack, 2, top, connect(stack, 1, middle, low))
    close(top if batch_first else top.transpose(0, 1), output)


def test_a_trace_of_gates_after_resets_to_the_learned_state() -> None:
    """The piece after a reset, beside the trace of that piece alone."""
    stack = make((7,), hx="learned", batch_first=True)
    x, hx = draw(stack), states_for(stack)
    (trace,) = stack.trace(x, hx, resets=mark((1, 3)), reset_to_initial=True)
    (before,) = stack.trace(x[:, :3], hx)
    (after,) = stack.trace(x[1:2, 3:])
    for name in ("gates", "cell", "hidden"):
        close(getattr(trace, name)[:, :3], getattr(before, name))
        close(getattr(trace, name)[1:2, 3:], getattr(after, name))


def test_a_trace_of_one_sequence_is_a_batch() -> None:
    stack = make((7, 5))
    x = torch.randn(T, F, dtype=torch.float64)
    _, states = stack(x)
    traces = stack.trace(x, states)
    assert [trace.hidden.shape for trace in traces] == [(1, T, 7), (1, T, 5)]
    assert traces[1].hidden[0].equal(stack(x, states)[0])


def test_options_reach_every_layer() -> None:
    noise = {"recurrent_dropout": 0.2, "zoneout": (0.1, 0.3), "weight_drop": 0.4}
    stack = Stacked(F, SIZES, **noise, **RICH, proj_size=3, device="cpu", dtype=torch.float64)
    for layer in stack.layers:
        assert (layer.recurrent_dropout, layer.zoneout, layer.weight_drop) == (0.2, (0.1, 0.3), 0.4)
        assert layer.proj_size == 3
    assert {weight.dtype for weight in stack.parameters()} == {torch.float64}
    assert all(layer.h_0.eq(0).all() for layer in stack.layers)
    relu = Stacked(F, SIZES, cell="RNN", nonlinearity="relu")
    assert relu(torch.randn(T, N, F))[0].ge(0).all()


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_recompute_changes_no_number(connection: str | None) -> None:
    stack = Stacked(F, SIZES, bidirectional=True, connection=connection)
    x, seen = torch.randn(T, N, F), []
    for layer in stack.layers:
        layer.register_forward_pre_hook(lambda _, x, how: seen.append(how["recompute"]), with_kwargs=True)
    kept, anew = (stack(x, lengths=LENGTHS, recompute=again)[0] for again in (False, True))
    close(kept, anew, 0)
    close(*(gradients([result], list(stack.parameters())) for result in (kept, anew)), 0)
    assert seen == [False] * 3 + [True] * 3


def test_state_dict_copies_and_repr() -> None:
    stack = make(cell="GRU", merge="sum", **RICH)
    x, names = draw(stack), set(stack.state_dict())
    assert {"layers.0.h_0", "layers.1.weight_hh_l0_reverse", "connections.2.projection.weight"} <= names
    assert not {"layers.0.c_0", "connections.0.gate.weight", "connections.1.projection.weight"} & names
    other = Stacked(F, SIZES, cell="GRU", merge="sum", **RICH)
    other.double().load_state_dict(stack.state_dict())
    for twin in (other, copy.deepcopy(stack)):
        assert twin(x)[0].equal(stack(x)[0])
    assert "Stacked(\n  3, (7, 7, 5), cell='GRU', bidirectional=True, merge='sum'" in repr(stack)
    assert "connection='highway', hx='learned', dropout=0.0, batch_first=False" in repr(stack)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 0}, "input_size: expected a whole number of 1 or more, got 0; give"),
        ({"hidden_sizes": ()}, r"hidden_sizes: expected one .* for each layer.* got \(\); give \(8,\)"),
        ({"hidden_sizes": 8}, r"hidden_sizes: expected one .* got 8; give \(8,\)"),
        ({"hidden_sizes": (8, 0)}, r"hidden_sizes: expected one .* got \(8, 0\); give"),
        ({"hidden_sizes": (8, True)}, r"hidden_sizes: expected one .* got \(8, True\); give"),
        ({"cell": "lstm"}, "cell: expected one of 'LSTM', 'GRU', .* got 'lstm'; name one"),
        ({"merge": "max"}, "merge: expected one of 'concat', 'sum', 'mean', 'none', got 'max'"),
        ({"merge": "none"}, 'merge: expected "concat" with one direction, .* got "none"; leave merge out'),
        ({"connection": "dense"}, "connection: expected one of None, 'residual', 'highway', got 'dense'"),
        ({"connection": ["residual"]}, r"connection: expected one of .* got \['residual'\]"),
        ({"hx": 0}, "hx: expected 'zeros' or 'learned', .* got 0; name one of these"),
        ({"dropout": 1.5}, r"dropout: expected a number in the range \[0, 1\].* got 1.5"),
        ({"num_layers": 2}, "num_layers: expected none, .* got 2; leave it out, or give hidden_sizes="),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stacked(**{"input_size": F, "hidden_sizes": SIZES, **options})


RAGGED = pack_padded_sequence(torch.zeros(T, N, F), [7, 6, 3, 2, 1])


@pytest.mark.parametrize(
    ("x", "how", "message"),
    [
        (RAGGED, {}, r"x: expected a padded batch, got a PackedSequence; give .* its lengths as lengths"),
        ((T, N, 4), {}, r"x: expected \(T, N, F\).* with F = 3, got \(7, 5, 4\); give"),
        ((3,), {}, r"x: expected \(T, N, F\).* got \(3,\); give"),
        ([1.0], {}, r"x: expected .* got list; give"),
        ((T, F), {"lengths": [7]}, r"lengths: .* a batch, got one of 2; .* x.unsqueeze\(1\)"),
        ((T, F), {"resets": RESETS}, r"resets: .* a batch, got one of 2; leave resets out"),
        ((T, N, F), {"lengths": [7, 1, 8, 1, 1]}, "lengths: expected 0 to 7, .* got 8 in row 2"),
        ((T, N, F), {"resets": RESETS.T}, r"resets: expected shape \(N, T\) = \(5, 7\)"),
        ((0, N, F), {}, "Expected sequence length to be larger than 0"),
    ],
    ids=str,
)
def test_bad_input_is_refused(x: Any, how: Any, message: str) -> None:
    stack = Stacked(F, SIZES)
    x = torch.zeros(x) if type(x) is tuple else x
    for method in (stack, stack.trace):
        with pytest.raises((ValueError, RuntimeError), match=message):
            method(x, **how)


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_bad_states_are_refused(cell: str) -> None:
    stack = Stacked(F, SIZES, cell=cell, hx="learned")
    x = torch.randn(T, N, F)
    _, (low, middle, top) = stack(x)
    wanted = r"\(1, 5, 5\), \(1, 5, 5\)" if cell == "LSTM" else r"\(1, 5, 5\)"
    for given, hx, message in (
        (x, (low, middle), r"a tuple of 3 entries, .* got 2 entries; give what an earlier call"),
        (x, torch.zeros(1, N, 7), r"a tuple of 3 entries, .* got Tensor; give"),
        (x, (low, middle, middle), f".* of {wanted} for layer 2, got .*1, 5, 7.*; give"),
        (x, (low, None, top), r".* for layer 1, got NoneType; give"),
        (x[:, 0], (low, middle, top), r".* of \(1, 7\).* for layer 0, got .*1, 5, 7"),
    ):
        with pytest.raises(ValueError, match=f"hx: expected {message}"):
            stack(given, hx)
    with pytest.raises(ValueError, match=r"resets: expected a tensor of torch.bool"):
        stack(x, (low, middle, top), resets=torch.zeros(N, T), reset_to_initial=True)


def test_each_example_runs() -> None:
    nodes = ast.walk(ast.parse(Path(stacked.__file__).read_text(encoding="utf-8")))
    parts = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    blocks = {part.name: (ast.get_docstring(part) or "").partition("For example::\n")[2] for part in parts}
    for name in ("Stacked", "trace", "Residual", "Highway"):
        exec(compile(textwrap.dedent(blocks[name]), name, "exec"), dict(vars(stacked)))
