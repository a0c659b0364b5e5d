"""MinGRU and MinLSTM against their equations, one step of one row at a time, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import recurra.nn
from recurra.nn.minimal import MinGRU, MinLSTM

F, H = 3, 5
KINDS: dict[str, Callable[..., Any]] = {"MinGRU": MinGRU, "MinLSTM": MinLSTM}
every_kind = pytest.mark.parametrize("kind", KINDS)
NAN = float("nan")

Step = Callable[[Any, str, Tensor, tuple[Tensor, ...]], tuple[Tensor, tuple[Tensor, ...]]]


def by_hand(
    layer: Any,
    step: Step,
    x: Tensor,
    initial: Sequence[Tensor],
    lengths: Sequence[int] | None = None,
    resets: Tensor | None = None,
    to_initial: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output (N, T, D·H) and final states, each (L·D, N, ...), row by row and step by step. x: (N, T, F).

    step(layer, suffix of the weights' names, x_t (F), states of one row) gives h_t (H) and the next states.
    """
    n, t = x.shape[:2]
    counts = [t] * n if lengths is None else lengths
    below = [list(row.unbind(0)) for row in x]
    finals: list[list[tuple[Tensor, ...]]] = []
    for depth in range(layer.num_layers):
        outputs: list[list[list[Tensor]]] = [[[] for _ in range(t)] for _ in range(n)]
        for reverse in (False, True)[: 1 + layer.bidirectional]:
            suffix, place = f"l{depth}" + "_reverse" * reverse, len(finals)
            ends = []
            for row, count in enumerate(counts):
                first = states = tuple(state[place, row] for state in initial)
                hiddens = [x.new_zeros(layer.hidden_size)] * t
                for step_now in reversed(range(count)) if reverse else range(count):
                    begins = step_now + reverse  # the step whose reset lies before this one is read
                    if resets is not None and begins < count and resets[row, begins]:
                        states = first if to_initial else tuple(torch.zeros_like(state) for state in first)
                    hiddens[step_now], states = step(layer, suffix, below[row][step_now], states)
                ends.append(states)
                for step_now, hidden in enumerate(hiddens):
                    outputs[row][step_now].append(hidden)
            finals.append(ends)
        below = [[torch.cat(parts) for parts in row] for row in outputs]
    output = torch.stack([torch.stack(row) for row in below])
    states = [[torch.stack(column) for column in zip(*ends, strict=True)] for ends in finals]
    return output, tuple(torch.stack(each) for each in zip(*states, strict=True))


def gates_by_hand(layer: Any, suffix: str, x: Tensor) -> list[Tensor]:
    """The activated gates (H) of one step of one row, in the order of a trace."""
    product = getattr(layer, f"weight_ih_{suffix}") @ x
    if layer.bias:
        product = product + getattr(layer, f"bias_ih_{suffix}")
    *gates, candidate = product.view(-1, layer.hidden_size)
    gates = [1 / (1 + torch.exp(-gate)) for gate in gates]
    if isinstance(layer, MinLSTM):
        gates = [gate / (gates[0] + gates[1]) for gate in gates]
    growing = torch.stack([v + 0.5 if v >= 0 else 1 / (1 + torch.exp(-v)) for v in candidate])
    return [*gates, growing]


def step(layer: Any, suffix: str, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """h_t of one row by the equations."""
    *gates, candidate = gates_by_hand(layer, suffix, x)
    keep, write = (gates[1], gates[0]) if isinstance(layer, MinLSTM) else (1 - gates[0], gates[0])
    h = keep * states[0] + write * candidate
    return h, (h,)


def make(kind: str, **options: Any) -> Any:
    """A layer in float64 whose weights are large enough to open and shut its gates."""
    layer = KINDS[kind](F, H, **options).double()
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=1.5)
    return layer


def draw(layer: Any, n: int, t: int) -> tuple[Tensor, Tensor]:
    """x (N, T, F) and h_0 (L·D, N, H), which is negative as well."""
    places = layer.num_layers * (1 + layer.bidirectional)
    return torch.randn(n, t, F, dtype=torch.float64), torch.randn(places, n, H, dtype=torch.float64)


def scattered(n: int, t: int) -> Tensor:
    """Resets (N, T): in row 1 at every step, in row 2 at none."""
    resets = torch.rand(n, t) < 0.2
    resets[1:2], resets[2:3] = True, False
    return resets


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@every_kind
@pytest.mark.parametrize("steps", [1, 7, 33, 63, 65, 129])
def test_output_and_gradients_are_those_of_the_equations(kind: str, steps: int) -> None:
    layer = make(kind, batch_first=True)
    x, h_0 = (v.requires_grad_() for v in draw(layer, 2, steps))
    output, h_n = layer(x, h_0)
    expected, (h_end,) = by_hand(layer, step, x, (h_0,))
    close(output, expected)
    close(h_n, h_end)
    leaves = [x, h_0, *layer.parameters()]
    loss = torch.randn_like(output)
    found = torch.autograd.grad((output * loss).sum() + h_n.square().sum(), leaves)
    close(found, torch.autograd.grad((expected * loss).sum() + h_end.square().sum(), leaves))


@every_kind
@pytest.mark.parametrize("to_initial", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 3, "bias": False}, {"bidirectional": True, "num_layers": 2}]
)
def test_lengths_resets_directions_and_layers(
    kind: str, to_initial: bool, first: bool, options: dict[str, Any]
) -> None:
    layer = make(kind, batch_first=first, **options)
    (x, h_0), lengths, resets = draw(layer, 7, 9), [4, 9, 1, 0, 7, 2, 9], scattered(7, 9)
    leaves = [x.requires_grad_(), h_0.requires_grad_(), *layer.parameters()]
    given = x if first else x.transpose(0, 1)
    output, h_n = layer(given, h_0, lengths=lengths, resets=resets, reset_to_initial=to_initial)
    output = output if first else output.transpose(0, 1)
    expected, (h_end,) = by_hand(layer, step, x, (h_0,), lengths, resets, to_initial)
    close(output, expected)
    close(h_n, h_end)
    loss = torch.randn_like(output)
    found = torch.autograd.grad((output * loss).sum() + h_n.square().sum(), leaves)
    close(found, torch.autograd.grad((expected * loss).sum() + h_end.square().sum(), leaves))


@every_kind
def test_what_lies_beyond_a_row_touches_nothing(kind: str) -> None:
    layer = make(kind, num_layers=2, bidirectional=True, batch_first=True)
    (x, h_0), lengths = draw(layer, 4, 33), [33, 5, 0, 32]
    clean = layer(x, h_0, lengths=lengths)
    for row, length in enumerate(lengths):
        x[row, length:] = NAN
    h_0[:, 2] = NAN
    leaves = [x.requires_grad_(), h_0.requires_grad_(), *layer.parameters()]
    output, h_n = layer(x, h_0, lengths=lengths)
    close(output, clean[0])
    close(h_n[:, [0, 1, 3]], clean[1][:, [0, 1, 3]])
    assert h_n[:, 2].isnan().all()  # a row of no steps ends as it began
    gradients = torch.autograd.grad(output.sum() + h_n[:, [0, 1, 3]].sum(), leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_kind
def test_neither_nan_nor_a_gradient_crosses_a_reset(kind: str) -> None:
    layer = make(kind, batch_first=True, bidirectional=True)
    x, h_0 = draw(layer, 2, 65)
    resets = torch.zeros(2, 65, dtype=torch.bool)
    resets[:, [20, 41]] = True
    expected, _ = layer(x, h_0, resets=resets)
    x[0, 30] = NAN
    x.requires_grad_()
    output, h_n = layer(x, h_0, resets=resets)
    apart = [*range(20), *range(41, 65)]
    close(output[0, apart], expected[0, apart])
    close(output[1], expected[1])
    assert h_n.isfinite().all()
    (gradient,) = torch.autograd.grad(output[:, 41:].sum(), x)
    assert not gradient[1, :41].any()
    assert not gradient[0, :20].any()  # in the piece with NaN it is zero times NaN
    assert gradient[:, 41:].isfinite().all()


@every_kind
def test_one_sequence_is_a_batch_of_one_row(kind: str) -> None:
    for first in (False, True):
        layer = make(kind, num_layers=2, bidirectional=True, batch_first=first)
        x, h_0 = draw(layer, 1, 7)
        output, h_n = layer(x[0], h_0[:, 0])
        expected, (h_end,) = by_hand(layer, step, x, (h_0,))
        close(output, expected[0])
        close(h_n, h_end[:, 0])
        close(layer(x[0])[0], layer(x if first else x.transpose(0, 1), 0 * h_0)[0].flatten(0, 1))


@every_kind
def test_a_carried_state_and_single_steps_give_what_one_call_gives(kind: str) -> None:
    layer = make(kind, num_layers=2, batch_first=True)
    (x, h_0), resets = draw(layer, 3, 65), scattered(3, 65)
    output, h_n = layer(x, h_0, resets=resets)
    early, state = layer(x[:, :33], h_0, resets=resets[:, :33])
    late, state = layer(x[:, 33:], state, resets=resets[:, 33:])
    close(torch.cat((early, late), dim=1), output)
    close(state, h_n)
    state, steps = h_0, []
    for t in range(65):
        hidden, state = layer(x[:, t : t + 1], state, resets=resets[:, t : t + 1])
        steps.append(hidden)
    close(torch.cat(steps, dim=1), output)
    close(state, h_n)


@every_kind
def test_a_batch_of_no_rows(kind: str) -> None:
    output, h_n = KINDS[kind](F, H)(torch.zeros(63, 0, F))
    assert output.shape == (63, 0, H)
    assert h_n.shape == (1, 0, H)


@every_kind
@torch.no_grad()
def test_long_sequences_in_float32(kind: str) -> None:
    layer = KINDS[kind](F, 1, batch_first=True)
    x = torch.randn(1, 5000, F)
    output, h_n = layer(x)
    exact, _ = copy.deepcopy(layer).double()(x.double())
    torch.testing.assert_close(output.double(), exact, rtol=3e-6, atol=3e-6)
    state, steps = torch.zeros(1, 1, 1), []
    for t in range(5000):
        hidden, state = layer(x[:, t : t + 1], state)
        steps.append(hidden)
    torch.testing.assert_close(torch.cat(steps, dim=1), output, rtol=3e-6, atol=3e-6)
    torch.testing.assert_close(state, h_n, rtol=3e-6, atol=3e-6)


@every_kind
def test_gates_that_are_shut_keep_a_memory_for_ever(kind: str) -> None:
    layer = KINDS[kind](F, H, batch_first=True)
    torch.nn.init.zeros_(layer.weight_ih_l0)
    with torch.no_grad():
        layer.bias_ih_l0[:H] = -200.0
        layer.bias_ih_l0[H : 2 * H] = 3.0
    h_0 = torch.randn(1, 1, H)
    output, h_n = layer(torch.randn(1, 1000, F), h_0)
    torch.testing.assert_close(output, h_0.expand(1, 1000, H), rtol=0, atol=0)
    assert torch.equal(h_n, h_0)


@every_kind
def test_vmap_goes_through(kind: str) -> None:
    layer = make(kind, num_layers=2, bidirectional=True, batch_first=True)
    x, _ = draw(layer, 6, 33)
    resets = scattered(6, 33)
    each = torch.vmap(lambda x, r: layer(x[None], resets=r[None])[0][0])(x, resets)
    close(each, layer(x, resets=resets)[0])
    members = [make(kind, batch_first=True) for _ in range(3)]
    weights, _ = torch.func.stack_module_state(members)
    found = torch.vmap(lambda w: torch.func.functional_call(members[0], w, (x,))[0])(weights)
    close(found, torch.stack([member(x)[0] for member in members]))


@every_kind
def test_a_compiled_layer_gives_the_same(kind: str) -> None:
    layer = make(kind, bidirectional=True, batch_first=True)
    x, h_0 = draw(layer, 2, 3)
    resets = scattered(2, 3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    options = {"lengths": torch.tensor([3, 2]), "resets": resets}
    found, expected = compiled(x, h_0, **options), layer(x, h_0, **options)
    close(found, expected)
    weights = list(layer.parameters())
    found, expected = (torch.autograd.grad(out.square().sum(), weights) for out, _ in (found, expected))
    close(found, expected)


@every_kind
def test_weights_have_torchs_names_and_go_with_a_copy(kind: str) -> None:
    layer = make(kind, num_layers=2, bidirectional=True)
    gates = 2 if kind == "MinGRU" else 3
    shapes = {name: tuple(weight.shape) for name, weight in layer.state_dict().items()}
    assert shapes == {
        f"{what}_ih_l{depth}{end}": (gates * H, *(() if what == "bias" else ((F, 2 * H)[depth],)))
        for depth in (0, 1)
        for end in ("", "_reverse")
        for what in ("weight", "bias")
    }
    assert not [name for name in KINDS[kind](F, H, bias=False).state_dict() if "bias" in name]
    twin = copy.deepcopy(layer)
    other = KINDS[kind](F, H, 2, bidirectional=True, dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    x, _ = draw(layer, 7, 3)
    for same in (twin, other):
        assert torch.equal(same(x)[0], layer(x)[0])
    assert repr(layer) == f"{kind}({F}, {H}, num_layers=2, bidirectional=True)"
    bound = 1 / 3**0.5
    assert all(weight.abs().max() <= bound for weight in KINDS[kind](3, 63).parameters())


@every_kind
def test_bfloat16_is_carried_in_float32(kind: str) -> None:
    layer = KINDS[kind](F, H, batch_first=True)
    with torch.no_grad():
        layer.bias_ih_l0[:H] = -6.0  # so slow that bfloat16 would add nothing to its state
        layer.bias_ih_l0[H : 2 * H] = 1.0
    layer.bfloat16()
    x = torch.zeros(1, 1000, F, dtype=torch.bfloat16)
    output, h_n = layer(x)
    assert output.dtype == h_n.dtype == torch.bfloat16
    expected, _ = layer.double()(x.double())
    torch.testing.assert_close(output.double(), expected, rtol=0.02, atol=1e-3)
    layer.bfloat16()(x)[0].sum().backward()
    assert layer.weight_ih_l0.grad.dtype == torch.bfloat16


@every_kind
def test_trace_is_what_happened(kind: str) -> None:
    layer = make(kind, num_layers=2, bidirectional=True, dropout=0.5)
    (x, h_0), lengths, resets = draw(layer, 4, 9), [9, 0, 5, 1], scattered(4, 9)
    found = layer.trace(x.transpose(0, 1), h_0, lengths=lengths, resets=resets)
    layer.eval()
    output, h_n = layer(x.transpose(0, 1), h_0, lengths=lengths, resets=resets)
    assert [(trace.layer, trace.reverse) for trace in found] == [(0, False), (0, True), (1, False), (1, True)]
    close(torch.cat([trace.hidden for trace in found[2:]], dim=-1), output.transpose(0, 1))
    below = [x, torch.cat([trace.hidden for trace in found[:2]], dim=-1)]
    for place, trace in enumerate(found):
        assert trace.gate_names == (
            ("update", "candidate") if kind == "MinGRU" else ("input", "forget", "candidate")
        )
        assert trace.cell is None
        assert trace.lengths.tolist() == lengths
        expected = torch.zeros_like(trace.gates)
        for row, length in enumerate(lengths):
            for t in range(length):
                suffix = f"l{trace.layer}" + "_reverse" * trace.reverse
                expected[row, t] = torch.stack(gates_by_hand(layer, suffix, below[trace.layer][row, t]))
        close(trace.gates, expected)
        close(trace.hidden[0, 0 if trace.reverse else 8], h_n[place, 0])
    alone = layer.trace(x[0])
    close(alone[-1].hidden, layer.trace(x[:1].transpose(0, 1))[-1].hidden)
    assert alone[0].lengths.tolist() == [9]


@every_kind
def test_dropout_acts_between_layers_in_training_alone(kind: str) -> None:
    layer = make(kind, num_layers=2, dropout=0.5)
    x, _ = draw(layer, 33, 7)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    layer.train().dropout = 1.0  # nothing reaches the second layer
    close(layer(x)[0], make_second(layer)(torch.zeros(33, 7, H, dtype=torch.float64))[0])


def make_second(layer: Any) -> Any:
    """The second layer by itself."""
    second = type(layer)(H, H).double()
    second.load_state_dict({"weight_ih_l0": layer.weight_ih_l1, "bias_ih_l0": layer.bias_ih_l1})
    return second


@every_kind
def test_it_learns_to_hold_what_it_was_told_to(kind: str) -> None:
    layer, head = KINDS[kind](2, 16, batch_first=True), torch.nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.03)
    for _ in range(300):
        values, told = torch.rand(32, 33), torch.rand(32, 33) < 0.2
        told[:, 0] = True
        last = torch.cummax(torch.where(told, torch.arange(33), -1), dim=1).values
        output, _ = layer(torch.stack((values, told.float()), dim=-1))
        loss = (head(output).squeeze(-1) - values.gather(1, last)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02  # always to answer with the mean of the values gives 0.083


def misuses() -> dict[str, tuple[Any, ...]]:
    """Calls of a layer of two layers that it has to refuse."""
    x, h = torch.zeros(9, 2, F), torch.zeros(2, 2, H)
    return {
        "another number of features": (torch.zeros(9, 2, F + 1),),
        "four dimensions": (torch.zeros(9, 2, F, 1),),
        "one dimension": (torch.zeros(9),),
        "no steps": (torch.zeros(0, 2, F),),
        "another dtype": (x.double(),),
        "states of another batch": (x, torch.zeros(2, 3, H)),
        "states of another size": (x, torch.zeros(2, 2, H + 1)),
        "states of too few layers": (x, torch.zeros(1, 2, H)),
        "states without a batch": (x, torch.zeros(2, H)),
        "states with a batch for one sequence": (x[:, 0], h),
        "states of another dtype": (x, h.double()),
    }


@every_kind
@pytest.mark.parametrize("what", misuses())
def test_misuse_raises_the_kind_of_error_that_a_gru_raises(kind: str, what: str) -> None:
    layer, arguments = KINDS[kind](F, H, 2), misuses()[what]
    with pytest.raises((ValueError, RuntimeError)) as expected:
        recurra.nn.GRU(F, H, 2)(*arguments)
    for call in (layer, layer.trace):
        with pytest.raises(type(expected.value), match=r"xpected .*, got .*; "):
            call(*arguments)


@every_kind
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lengths": [3, 10]}, ValueError, r"lengths: expected 0 to 9.*got 10 in row 1; count the steps"),
        ({"lengths": [3]}, ValueError, r"lengths: expected one for each of the 2 rows.*batch_first is False"),
        ({"lengths": [3.0, 1.0]}, ValueError, r"lengths: .*integer dtype, got torch.float64; convert"),
        ({"resets": torch.zeros(9, 2, dtype=torch.bool)}, ValueError, r"resets: expected shape.*transpose"),
        ({"resets": torch.zeros(2, 9)}, ValueError, r"resets: expected a tensor of torch.bool.*convert"),
        ({"hx": (torch.zeros(1, 2, H),) * 2}, TypeError, r"hx: expected one tensor, got tuple; give"),
    ],
)
def test_other_misuse(kind: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        KINDS[kind](F, H)(torch.zeros(9, 2, F), **options)


@every_kind
def test_lengths_and_resets_are_for_a_padded_batch(kind: str) -> None:
    layer = KINDS[kind](F, H)
    for options in ({"lengths": [9]}, {"resets": torch.zeros(1, 9, dtype=torch.bool)}):
        (name,) = options
        with pytest.raises(
            ValueError, match=rf"{name}: expected an input of 3.*got an input of 2.*unsqueeze\(1"
        ):
            layer(torch.zeros(9, F), **options)
    with pytest.raises(TypeError, match=r"got a PackedSequence; give the padded batch with lengths"):
        layer(pack_padded_sequence(torch.zeros(9, 2, F), [9, 3]))


@every_kind
@pytest.mark.parametrize(
    "arguments",
    [{"hidden_size": 0}, {"num_layers": 0}, {"dropout": 1.5}, {"bias": None}, {"input_size": 2.5}],
    ids=str,
)
def test_constructors_refuse_what_torch_refuses(kind: str, arguments: dict[str, Any]) -> None:
    arguments = {"input_size": F, "hidden_size": H} | arguments
    with pytest.raises((TypeError, ValueError)) as expected:
        torch.nn.GRU(**arguments)
    with pytest.raises(type(expected.value)) as got:
        KINDS[kind](**arguments)
    assert str(got.value) == str(expected.value)


@every_kind
def test_dropout_on_a_single_layer_warns_as_torch_does(kind: str) -> None:
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        KINDS[kind](F, H, dropout=0.5)
