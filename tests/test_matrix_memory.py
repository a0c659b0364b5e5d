"""MLSTM against its equations, without stabiliser, one step of one row at a time, in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from test_minimal import by_hand, close, scattered
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import recurra.nn
from recurra.nn.matrix_memory import MLSTM, HeadInputs, Memory, _mlstm, chunk_by_chunk, step_by_step
from recurra.nn.minimal import Reading

F, H, A = 3, 6, 2
E = H // A
NAN = math.nan


def gates_by_hand(layer: Any, suffix: str, x: Tensor) -> dict[str, Tensor]:
    """The gates of one step of one row, activated: those of each head (A), of each unit (A, E)."""
    product = getattr(layer, f"weight_ih_{suffix}") @ x
    if layer.bias:
        product = product + getattr(layer, f"bias_ih_{suffix}")
    i, f, rest = product[:A], product[A : 2 * A], product[2 * A :].view(4, A, E)
    q, k, v, o = rest
    return {
        "input": i.exp(),
        "forget": 1 / (1 + torch.exp(-f)),
        "candidate": v,
        "output": 1 / (1 + torch.exp(-o)),
        "query": q,
        "key": k / math.sqrt(E),
    }


def step(layer: Any, suffix: str, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """h_t of one row, and C and n by the paper's equations 19 to 21, without a stabiliser."""
    gate = gates_by_hand(layer, suffix, x)
    heads, memories, normalisers = [], [], []
    for a in range(A):
        i, f, k = gate["input"][a], gate["forget"][a], gate["key"][a]
        memory = f * states[0][a] + i * torch.outer(gate["candidate"][a], k)
        normaliser = f * states[1][a] + i * k
        below = (normaliser @ gate["query"][a]).abs()
        heads.append(gate["output"][a] * (memory @ gate["query"][a]) / torch.clamp(below, min=1.0))
        memories.append(memory)
        normalisers.append(normaliser)
    return torch.cat(heads), (torch.stack(memories), torch.stack(normalisers))


def true(states: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """C and n of the equations, from C', n' and m as a layer holds them."""
    memory, normaliser, m = states
    return memory * m.exp()[..., None, None], normaliser * m.exp()[..., None]


def make(**options: Any) -> Any:
    """A layer in float64 whose gates open, shut, and divide by more than one and by one."""
    layer = MLSTM(F, H, heads=A, **options).double()
    for weight in layer.parameters():
        torch.nn.init.normal_(weight)
    return layer


def draw(layer: Any, n: int, t: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """x (N, T, F) and the initial states, with stabilisers of either sign."""
    places = layer.num_layers * (1 + layer.bidirectional)
    shapes = (n, t, F), (places, n, A, E, E), (places, n, A, E), (places, n, A)
    x, memory, normaliser, m = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return x, (memory, normaliser, m)


def assert_all_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """With the gradients of large numbers large."""
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("steps", [1, 2, 7, 33, 63, 64, 65, 129])
def test_output_and_gradients_are_those_of_the_equations(steps: int) -> None:
    layer = make(batch_first=True)
    x, states = draw(layer, 2, steps)
    leaves = [v.requires_grad_() for v in (x, *states)] + list(layer.parameters())
    output, ends = layer(x, states)
    expected, true_ends = by_hand(layer, step, x, true(states))
    close(output, expected)
    assert_all_close(true(ends), true_ends)
    loss = torch.randn_like(output)
    weights = [torch.randn_like(end) for end in true_ends]

    def gradients(output: Tensor, ends: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        reached = sum((end * weight).sum() for end, weight in zip(ends, weights, strict=True))
        return torch.autograd.grad((output * loss).sum() + reached, leaves)

    assert_all_close(gradients(output, true(ends)), gradients(expected, true_ends))


@pytest.mark.parametrize("to_initial", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 3, "bias": False}, {"bidirectional": True, "num_layers": 2}]
)
def test_lengths_resets_directions_and_layers(to_initial: bool, first: bool, options: dict[str, Any]) -> None:
    layer = make(batch_first=first, **options)
    (x, states), lengths, resets = draw(layer, 7, 9), [4, 9, 1, 0, 7, 2, 9], scattered(7, 9)
    leaves = [v.requires_grad_() for v in (x, *states)] + list(layer.parameters())
    given = x if first else x.transpose(0, 1)
    output, ends = layer(given, states, lengths=lengths, resets=resets, reset_to_initial=to_initial)
    output = output if first else output.transpose(0, 1)
    expected, true_ends = by_hand(layer, step, x, true(states), lengths, resets, to_initial)
    close(output, expected)
    assert_all_close(true(ends), true_ends)
    loss = torch.randn_like(output)
    found = torch.autograd.grad((output * loss).sum() + true(ends)[0].sum(), leaves)
    assert_all_close(found, torch.autograd.grad((expected * loss).sum() + true_ends[0].sum(), leaves))


def sequence(n: int, t: int, restart: Tensor | None = None) -> tuple[HeadInputs, Memory, Memory]:
    """What a layer would read, with gates from wide open to shut, and two memories."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    value = torch.cat((normal(n, A, t, E), torch.ones(n, A, t, 1, dtype=torch.float64)), dim=-1)
    keep = torch.nn.functional.logsigmoid(3 * normal(n, A, t))
    steps = HeadInputs(5 * normal(n, A, t), keep, normal(n, A, t, E), normal(n, A, t, E), value, restart)
    first, second = (Memory(normal(n, A, E + 1, E), normal(n, A)) for _ in range(2))
    return steps, first, second


@pytest.mark.parametrize("steps", [1, 7, 33, 63, 65, 129])
@pytest.mark.parametrize("size", [1, 7, 32, 64])
@pytest.mark.parametrize("restarts", [False, True])
def test_chunks_of_any_size_are_the_single_steps(steps: int, size: int, restarts: bool) -> None:
    restart = scattered(3, steps) if restarts else None
    given, memory, again = sequence(3, steps, restart)
    found, end = chunk_by_chunk(given, memory, again, size)
    expected, expected_end = step_by_step(given, memory, again)
    close(found, expected)
    close(tuple(end), tuple(expected_end))


def test_gradients_of_chunks_are_those_of_single_steps() -> None:
    given, memory, again = sequence(2, 65, scattered(2, 65))
    leaves = [v.requires_grad_() for v in (*given[:5], *memory, *again)]

    def gradients(way: Any) -> tuple[Tensor, ...]:
        read, end = way(given, memory, again)
        return torch.autograd.grad(read.sin().sum() + end.table.sum() + end.m.square().sum(), leaves)

    assert_all_close(gradients(chunk_by_chunk), gradients(step_by_step))


def test_what_lies_beyond_a_row_touches_nothing() -> None:
    layer = make(num_layers=2, bidirectional=True, batch_first=True)
    (x, states), lengths = draw(layer, 4, 65), [65, 5, 0, 63]
    clean, clean_ends = layer(x, states, lengths=lengths)
    for row, length in enumerate(lengths):
        x[row, length:] = NAN
    for state in states:
        state[:, 2] = NAN
    leaves = [v.requires_grad_() for v in (x, *states)] + list(layer.parameters())
    output, ends = layer(x, states, lengths=lengths)
    close(output, clean)
    rows = [0, 1, 3]
    close([end[:, rows] for end in ends], [end[:, rows] for end in clean_ends])
    assert all(end[:, 2].isnan().all() for end in ends)  # a row of no steps ends as it began
    gradients = torch.autograd.grad(output.sum() + sum(end[:, rows].sum() for end in ends), leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("to_initial", [False, True])
def test_nan_goes_forward_in_time_and_crosses_no_reset(to_initial: bool) -> None:
    layer = make(batch_first=True)
    x, states = draw(layer, 3, 65)
    resets = torch.zeros(3, 65, dtype=torch.bool)
    resets[:, [20, 41]] = True
    options = {"resets": resets, "reset_to_initial": to_initial}
    expected, _ = layer(x, states, **options)
    x[0, 30] = NAN
    states[0][0, 1] = NAN
    x.requires_grad_()
    output, ends = layer(x, states, **options)
    spoilt = torch.zeros(3, 65, dtype=torch.bool)
    spoilt[0, 30:41] = True
    spoilt[1, :20] = True
    if to_initial:
        spoilt[1] = True
    assert torch.equal(output.isnan().all(-1), spoilt)
    close(output[~spoilt], expected[~spoilt])
    assert [bool(end[0, row].isfinite().all()) for row in range(3) for end in ends[:1]] == [
        True,
        not to_initial,
        True,
    ]
    (gradient,) = torch.autograd.grad(output[0, 41:].sum(), x)
    assert not gradient[:, :41].any()  # not even a rounding error
    assert gradient[0, 41:].any(-1).all()


def test_one_sequence_is_a_batch_of_one_row() -> None:
    layer = make(num_layers=2, bidirectional=True)
    x, states = draw(layer, 1, 7)
    output, ends = layer(x[0], tuple(state[:, 0] for state in states))
    expected, true_ends = by_hand(layer, step, x, true(states))
    close(output, expected[0])
    assert_all_close(true(ends), tuple(end[:, 0] for end in true_ends))
    assert [tuple(end.shape) for end in ends] == [(4, A, E, E), (4, A, E), (4, A)]


def test_carried_states_and_single_steps_give_what_one_call_gives() -> None:
    layer = make(num_layers=2, batch_first=True)
    (x, hx), resets = draw(layer, 3, 129), scattered(3, 129)
    output, ends = layer(x, hx, resets=resets)
    early, state = layer(x[:, :50], hx, resets=resets[:, :50])
    late, state = layer(x[:, 50:], state, resets=resets[:, 50:])
    close(torch.cat((early, late), dim=1), output)
    close(state, ends)
    state, steps = hx, []
    for t in range(129):
        hidden, state = layer(x[:, t : t + 1], state, resets=resets[:, t : t + 1])
        steps.append(hidden)
    close(torch.cat(steps, dim=1), output)
    close(state, ends)


def test_gradients_go_through_a_carried_state() -> None:
    layer = make(batch_first=True)
    x, hx = draw(layer, 2, 65)
    leaves = [v.requires_grad_() for v in (x, *hx)] + list(layer.parameters())
    expected = torch.autograd.grad(layer(x, hx)[0][:, 33:].sin().sum(), leaves)
    _, state = layer(x[:, :33], hx)
    assert_all_close(torch.autograd.grad(layer(x[:, 33:], state)[0].sin().sum(), leaves), expected)


def test_a_batch_of_no_rows() -> None:
    output, ends = MLSTM(F, H, heads=A)(torch.zeros(7, 0, F))
    assert output.shape == (7, 0, H)
    assert [tuple(end.shape) for end in ends] == [(1, 0, A, E, E), (1, 0, A, E), (1, 0, A)]


@torch.no_grad()
def test_long_sequences_in_float32() -> None:
    layer = MLSTM(F, H, heads=A, batch_first=True)
    torch.nn.init.normal_(layer.weight_ih_l0, std=0.3)
    x = torch.randn(1, 2001, F)
    output, ends = layer(x)
    exact, exact_ends = copy.deepcopy(layer).double()(x.double())
    state, steps = None, []
    for t in range(2001):
        hidden, state = layer(x[:, t : t + 1], state)
        steps.append(hidden)
    for found in (ends, state):
        for a, b in zip(found, exact_ends, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-5)
    # Where n · q passes through zero, h is a small number divided by a small one, and has few digits.
    off, alone_off = (output - exact).abs(), (torch.cat(steps, dim=1) - exact).abs()
    assert off.median() < 1e-6
    assert off.quantile(0.99) < 1.5 * alone_off.quantile(0.99)


@pytest.mark.parametrize("shift", [-1000.0, -90.0, 90.0, 1000.0])
def test_input_gates_that_exp_cannot_hold(shift: float) -> None:
    layer = MLSTM(F, H, heads=A, batch_first=True)
    torch.nn.init.normal_(layer.weight_ih_l0)
    with torch.no_grad():
        layer.bias_ih_l0[:A] = shift
    x = torch.randn(2, 65, F, requires_grad=True)
    output, ends = layer(x)
    assert all(v.isfinite().all() for v in (output, *ends))
    gradients = torch.autograd.grad(output.sum() + ends[0].sum(), [x, *layer.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert output.abs().max() < 1e-30 if shift < 0 else output.abs().max() > 1e-3


def test_vmap_goes_through() -> None:
    layer = make(num_layers=2, bidirectional=True, batch_first=True)
    x, _ = draw(layer, 5, 65)
    resets = scattered(5, 65)
    each = torch.vmap(lambda x, r: layer(x[None], resets=r[None])[0][0])(x, resets)
    close(each, layer(x, resets=resets)[0])
    members = [make(batch_first=True) for _ in range(3)]
    weights, _ = torch.func.stack_module_state(members)
    found = torch.vmap(lambda w: torch.func.functional_call(members[0], w, (x,))[0])(weights)
    close(found, torch.stack([member(x)[0] for member in members]))


def test_a_compiled_layer_gives_the_same() -> None:
    layer = make(batch_first=True)
    x, states = draw(layer, 2, 3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    options = {"lengths": torch.tensor([3, 2]), "resets": scattered(2, 3)}
    found, expected = compiled(x, states, **options), layer(x, states, **options)
    close(found, expected)
    weights = list(layer.parameters())
    found, expected = (torch.autograd.grad(out.square().sum(), weights) for out, _ in (found, expected))
    close(found, expected)


def test_weights_have_torchs_names_and_the_authors_beginnings() -> None:
    layer = MLSTM(63, 33, num_layers=2, bidirectional=True, heads=3)
    rows = 2 * 3 + 4 * 33
    shapes = {name: tuple(weight.shape) for name, weight in layer.state_dict().items()}
    assert shapes == {
        f"{what}_ih_l{depth}{end}": (rows, *(() if what == "bias" else ((63, 66)[depth],)))
        for depth in (0, 1)
        for end in ("", "_reverse")
        for what in ("weight", "bias")
    }
    assert not layer.weight_ih_l1[:6].any()
    assert layer.bias_ih_l1_reverse[3:6].tolist() == [3, 4.5, 6]
    assert 0 < layer.bias_ih_l0[:3].abs().max() < 0.6
    assert 0 < layer.weight_ih_l0[6:].abs().max() <= 1 / math.sqrt(63)
    assert repr(layer) == "MLSTM(63, 33, num_layers=2, bidirectional=True, heads=3)"
    twin = copy.deepcopy(layer)
    x = torch.randn(7, 1, 63)
    assert torch.equal(twin(x)[0], layer(x)[0])


def test_bfloat16_remembers_in_float32() -> None:
    layer = MLSTM(F, H, heads=A, batch_first=True).bfloat16()
    x = torch.randn(2, 65, F).bfloat16()
    output, ends = layer(x)
    assert output.dtype == torch.bfloat16
    assert {end.dtype for end in ends} == {torch.float32}
    again, _ = layer(x[:, :1], ends)
    assert again.dtype == torch.bfloat16
    expected, _ = copy.deepcopy(layer).double()(x.double())
    torch.testing.assert_close(output.double(), expected, rtol=0.05, atol=0.02)
    output.sum().backward()
    assert layer.weight_ih_l0.grad.dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match=r"hx: expected dtype torch.float32, got torch.bfloat16; convert"):
        layer(x, tuple(end.bfloat16() for end in ends))


def test_autocast_reaches_the_gates_but_not_the_memory() -> None:
    layer, x = MLSTM(F, H, heads=A, batch_first=True), torch.randn(2, 65, F)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, ends = layer(x)
        gates = torch.nn.functional.linear(x, layer.weight_ih_l0, layer.bias_ih_l0)
    assert gates.dtype == output.dtype == torch.bfloat16
    zeros = tuple(torch.zeros_like(end[0]) for end in ends)
    expected, expected_ends = _mlstm(Reading(gates, zeros, None, None, False), A)
    assert torch.equal(output, expected)
    assert all(torch.equal(end[0], other) for end, other in zip(ends, expected_ends, strict=True))


def test_trace_is_what_happened() -> None:
    layer = make(num_layers=2, bidirectional=True, dropout=0.5)
    (x, states), lengths, resets = draw(layer, 4, 9), [9, 0, 5, 1], scattered(4, 9)
    found = layer.trace(x.transpose(0, 1), states, lengths=lengths, resets=resets)
    output, _ = layer.eval()(x.transpose(0, 1), states, lengths=lengths, resets=resets)
    close(torch.cat([trace.hidden for trace in found[2:]], dim=-1), output.transpose(0, 1))
    below = [x, torch.cat([trace.hidden for trace in found[:2]], dim=-1)]
    for trace in found:
        assert trace.gate_names == ("input", "forget", "candidate", "output")
        assert trace.cell is None
        for name in trace.gate_names:
            expected = torch.zeros(4, 9, A, E, dtype=torch.float64)
            for row, length in enumerate(lengths):
                for t in range(length):
                    suffix = f"l{trace.layer}" + "_reverse" * trace.reverse
                    gate = gates_by_hand(layer, suffix, below[trace.layer][row, t])[name]
                    expected[row, t] = gate if gate.dim() == 2 else gate.unsqueeze(-1)
            close(trace.gate(name), expected.flatten(2))


def test_it_learns_to_recall_the_value_that_stood_beside_a_key() -> None:
    layer, head = MLSTM(9, 16, batch_first=True), torch.nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    for _ in range(200):
        keys = torch.rand(64, 4).argsort(-1)
        values = 2 * torch.rand(64, 4) - 1
        asked = torch.randint(4, (64, 1))
        told = torch.cat((torch.eye(8)[keys], values.unsqueeze(-1)), dim=-1)
        question = torch.cat((torch.eye(8)[4 + keys.gather(1, asked)], torch.zeros(64, 1, 1)), dim=-1)
        output, _ = layer(torch.cat((told, question), dim=1))
        loss = (head(output[:, -1]) - values.gather(1, asked)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05  # always to answer with zero gives 0.33


def misuses() -> dict[str, tuple[tuple[Any, ...], ...]]:
    """Calls of a layer that it has to refuse, and those of an LSTM."""
    x, h = torch.zeros(9, 2, F), torch.zeros(1, 2, H)
    states = torch.zeros(1, 2, A, E, E), torch.zeros(1, 2, A, E), torch.zeros(1, 2, A)
    return {
        "another number of features": ((torch.zeros(9, 2, F + 1),),) * 2,
        "no steps": ((torch.zeros(0, 2, F),),) * 2,
        "another dtype": ((x.double(),),) * 2,
        "states of another shape": ((x, (*states[:2], torch.zeros(1, 3, A))), (x, (h, torch.zeros(1, 3, H)))),
        "states of another dtype": ((x, (*states[:2], states[2].double())), (x, (h, h.double()))),
    }


@pytest.mark.parametrize("what", misuses())
def test_misuse_raises_the_kind_of_error_that_an_lstm_raises(what: str) -> None:
    layer, (arguments, lstm_arguments) = MLSTM(F, H, heads=A), misuses()[what]
    with pytest.raises((ValueError, RuntimeError)) as expected:
        recurra.nn.LSTM(F, H)(*lstm_arguments)
    for call in (layer, layer.trace):
        with pytest.raises(type(expected.value), match=r"xpected .*, got .*; "):
            call(*arguments)


def test_other_misuse() -> None:
    layer, x = MLSTM(F, H, heads=A), torch.zeros(9, 2, F)
    with pytest.raises(TypeError, match=r"hx: expected a tuple of 3 tensors, got .*; give the states"):
        layer(x, (torch.zeros(1, 2, A, E, E),))
    with pytest.raises(TypeError, match=r"hx: expected a tuple of 3 tensors, got Tensor; give the states"):
        layer(x, torch.zeros(1, 2, H))
    with pytest.raises(ValueError, match=r"lengths: expected 0 to 9.*got 10 in row 1; count"):
        layer(x, lengths=[1, 10])
    with pytest.raises(ValueError, match=r"resets: expected shape.*transpose"):
        layer(x, resets=torch.zeros(9, 2, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"got a PackedSequence; give the padded batch with lengths"):
        layer(pack_padded_sequence(x, [9, 3]))


@pytest.mark.parametrize("heads", [0, -1, 4, 7])
def test_heads_that_do_not_divide_the_units(heads: int) -> None:
    with pytest.raises(
        ValueError, match=rf"heads: expected a number that divides hidden_size = 6, got {heads}; each"
    ):
        MLSTM(F, H, heads=heads)


@pytest.mark.parametrize("heads", [2.0, True, None])
def test_heads_that_are_no_whole_number(heads: Any) -> None:
    with pytest.raises(TypeError, match=rf"heads: expected an int, got {heads}; give a whole number"):
        MLSTM(F, H, heads=heads)


@pytest.mark.parametrize("arguments", [{"hidden_size": 0}, {"num_layers": 0}, {"hidden_size": 2.5}], ids=str)
def test_constructor_refuses_what_torch_refuses(arguments: dict[str, Any]) -> None:
    arguments = {"input_size": F, "hidden_size": H} | arguments
    with pytest.raises((TypeError, ValueError)) as expected:
        torch.nn.GRU(**arguments)
    with pytest.raises(type(expected.value)) as got:
        MLSTM(**arguments)
    assert str(got.value) == str(expected.value)
