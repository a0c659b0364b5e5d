"""`recurra.lens.edit` and the stepping under it: with no edit the network as it is, with one what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_lens_gradients import F, H, N, T, batch, every_kind, layer_of
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from recurra import nn
from recurra.errors import ArgumentError
from recurra.lens.edit import Edit, edited, what_if
from recurra.lens.gradients import gradient_flow
from recurra.lens.stepping import as_it_is, names_in, stepping
from recurra.lens.tracing import trace_all


def leaves(value: Any) -> list[Tensor]:
    """Every tensor in what a layer returns."""
    if isinstance(value, PackedSequence):
        return [value.data, value.batch_sizes]
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in leaves(part)]


def assert_same(found: Any, wanted: Any, tolerance: float = 1e-12) -> None:
    for ours, theirs in zip(leaves(found), leaves(wanted), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@every_kind
@pytest.mark.parametrize("options", [{}, {"num_layers": 3, "bidirectional": True}, {"bias": False}], ids=str)
def test_without_edits_the_output_and_the_gradients_are_the_same(kind: str, options: dict[str, Any]) -> None:
    layer, x = layer_of(kind, **options), batch()
    calls: list[tuple[Any, dict[str, Any]]] = [(x, {}), (x[0], {})]
    if not kind.startswith("torch"):
        resets = torch.rand(N, T) < 0.3
        calls += [
            (x, {"lengths": [4, 0, T]}),
            (x, {"lengths": [4, T, 1], "resets": resets}),
            (x, {"resets": resets, "reset_to_initial": True}),
        ]
    if isinstance(layer, torch.nn.RNNBase):
        calls.append((pack_padded_sequence(x, torch.tensor([4, T, 1]), True, enforce_sorted=False), {}))
    for given, how in calls:
        wanted = layer(given, **how)
        weights = list(layer.parameters())
        d_wanted = torch.autograd.grad(leaves(wanted)[0].sin().sum(), weights)
        with edited(layer, []):
            found = layer(given, **how)
        assert_same(found, wanted)
        assert_same(torch.autograd.grad(leaves(found)[0].sin().sum(), weights), d_wanted)
    _, states = layer(x)
    states = tuple(torch.randn_like(state) for state in leaves(states))
    states = tuple(state.abs() + 0.1 for state in states) if kind == "SLSTM" else states
    hx = states if len(states) > 1 else states[0]
    with edited(layer, []):
        found = layer(x, hx)
    assert_same(found, layer(x, hx))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {"proj_size": 3, "num_layers": 2, "zoneout": (0.1, 0.3)}),
        ("LSTM", {"hx": "learned", "num_layers": 2, "bidirectional": True}),
        (
            "LSTM",
            {"num_layers": 2, "dropout": 0.5, "recurrent_dropout": 0.3, "weight_drop": 0.2, "zoneout": 0.1},
        ),
        ("GRU", {"num_layers": 2, "dropout": 0.5, "zoneout": 0.3}),
        ("RNN", {"nonlinearity": "relu", "bidirectional": True}),
        ("torch.LSTM", {"proj_size": 3, "num_layers": 2, "dropout": 0.5}),
        ("PeepholeLSTM", {"zoneout": (0.1, 0.3), "hx": "learned"}),
        ("SLSTM", {"hx": "learned", "bidirectional": True}),
        ("MinLSTM", {"num_layers": 2, "dropout": 0.5}),
    ],
    ids=str,
)
def test_so_it_is_with_noise_projections_and_learned_states(
    kind: str, options: dict[str, Any], seed: int
) -> None:
    layer, x = layer_of(kind, **options), batch()
    for mode in (True, False):
        layer.train(mode)
        torch.manual_seed(seed)
        wanted = layer(x)
        torch.manual_seed(seed)
        with edited(layer, []):
            found = layer(x)
        assert_same(found, wanted)


@pytest.mark.parametrize("kind", ["LSTM", "LayerNormGRU", "MinLSTM"])
def test_what_lies_beyond_a_row_touches_nothing(kind: str) -> None:
    layer, x, lengths = layer_of(kind, F, H, num_layers=2, bidirectional=True), batch(), [4, 0, T]
    wanted = layer(x, lengths=lengths)
    for row, length in enumerate(lengths):
        x[row, length:] = torch.nan
    with edited(layer, []):
        found = layer(x, lengths=lengths)
    assert_same(found, wanted)
    found[0].sum().backward()
    assert all(weight.grad.isfinite().all() for weight in layer.parameters())
    flow = gradient_flow(layer, x, lengths=lengths).states[""]
    assert np.isfinite(flow.hidden[:, :, 0, :4]).all()


def test_so_it_is_in_float32_and_with_time_first() -> None:
    layer, x = nn.LSTM(F, H, 2, bidirectional=True), torch.randn(T, N, F)
    with edited(layer, []):
        found = layer(x)
    assert_same(found, layer(x), 1e-6)


@every_kind
def test_a_hidden_unit_at_zero_is_a_network_without_its_readers(kind: str) -> None:
    """Its column in the layer's own recurrent matrix, and in the input matrix of the layer above.

    What a GRU carries past its matrix stays within the unit, which nobody else reads.
    """
    layer, x, unit = layer_of(kind, F, H, num_layers=2), batch(), 3
    without = layer_of(kind, F, H, num_layers=2)
    without.load_state_dict(layer.state_dict())
    with torch.no_grad():
        without.weight_ih_l1[:, unit] = 0
        if hasattr(layer, "weight_hh_l0"):
            without.weight_hh_l0[:, unit] = 0
    effect = what_if(layer, x, edits=[Edit("hidden", to=0.0, units=[unit], layer=0)])
    assert_same(effect.after[0], without(x)[0])
    assert_same(effect.before[0], layer(x)[0])
    assert effect.change.abs().max() > 1e-3
    assert_same(effect.change, effect.after[0] - effect.before[0])


def test_a_memory_that_neither_forgets_nor_writes_stays() -> None:
    layer, x = layer_of("LSTM", F, H, num_layers=2), batch()
    state = torch.randn(2, N, H, dtype=torch.float64), torch.randn(2, N, H, dtype=torch.float64)
    edits = [Edit("forget", to=1.0), Edit("input", to=0.0)]
    with edited(layer, edits):
        _, (_, c_n) = layer(x, state)
    torch.testing.assert_close(c_n, state[1])
    states = what_if(layer, x, state, edits=edits).states[""]
    for depth in range(2):
        np.testing.assert_array_equal(states.cell[depth, 0], state[1][depth, :, None].expand(N, T, H))
    half = what_if(
        layer, x, state, edits=[Edit(e.name, e.to, units=range(4), layer=1) for e in edits]
    ).states[""]
    np.testing.assert_array_equal(half.cell[1, 0, ..., :4], state[1][1, :, None, :4].expand(N, T, 4))
    assert (np.abs(half.cell[1, 0, :, -1, 4:] - state[1][1, :, 4:].numpy()) > 1e-6).any()


@pytest.mark.parametrize("name", ["input", "forget", "candidate", "output", "cell", "hidden"])
def test_an_edit_is_where_it_was_asked_for_and_nowhere_before(name: str) -> None:
    layer, x = layer_of("LSTM", F, H, num_layers=2, bidirectional=True), batch()
    lengths = [T, 6, 5]
    before = trace_all(layer, x, lengths=lengths)[""]
    edit = Edit(name, to=0.25, units=[2, 5], steps=[3, 4], samples=1, layer=1, direction="reverse")
    states = what_if(layer, x, lengths=lengths, edits=[edit]).states[""]
    here = {"layer": 1, "direction": 1, "sample": 1}
    assert (states[name].isel(here)[[3, 4], [2, 5]] == 0.25).all()
    for variable in (*names_in(layer), "length"):
        was, now = before[variable], states[variable]
        assert was.dims == now.dims
        same = np.isclose(was, now, rtol=1e-10, atol=1e-12, equal_nan=True)
        if variable == "length":
            assert same.all()
            continue
        others = same.copy()
        others[1, 1, 1] = True
        assert others.all()
        # the reverse direction reads step 4 first: what it read before lies at the larger steps
        assert same[1, 1, 1, 5:].all()
    assert not np.isclose(before.hidden[1, 1, 1, 2], states.hidden[1, 1, 1, 2], rtol=1e-6).all()


def test_clamp_scale_change_and_one_after_the_other() -> None:
    layer, x = layer_of("GRU"), batch()
    gate = trace_all(layer, x)[""]["update"].values
    first = {"steps": 0}
    clamped = what_if(layer, x, edits=[Edit("update", low=0.4, high=0.6, **first)]).states[""]["update"]
    np.testing.assert_allclose(clamped[..., 0, :], gate[..., 0, :].clip(0.4, 0.6))
    above = what_if(layer, x, edits=[Edit("update", low=0.5, **first)]).states[""]["update"]
    np.testing.assert_allclose(above[..., 0, :], gate[..., 0, :].clip(min=0.5))
    edits = [
        Edit("update", scale=0.5, **first),
        Edit("update", change=lambda z: z.flip(-1), units=[0], **first),
    ]
    twice = what_if(layer, x, edits=edits).states[""]["update"][..., 0, :]
    np.testing.assert_allclose(twice[..., 1:], gate[..., 0, 1:] / 2)
    np.testing.assert_allclose(twice[..., 0], gate[..., 0, -1] / 2)
    values = torch.linspace(0, 1, H)
    many = what_if(layer, x, edits=[Edit("update", to=values)]).states[""]["update"]
    np.testing.assert_allclose(many, np.broadcast_to(values, many.shape), rtol=1e-6)


def test_a_candidate_follows_its_edited_reset_gate() -> None:
    layer, x = layer_of("GRU"), batch()
    states = what_if(layer, x, edits=[Edit("reset", to=0.0)]).states[""]
    sums = x @ layer.weight_ih_l0[2 * H :].T + layer.bias_ih_l0[2 * H :]
    np.testing.assert_allclose(states["candidate"][0, 0], torch.tanh(sums).detach(), rtol=1e-12)


def test_an_edited_cell_shows_in_the_same_step_and_in_the_next() -> None:
    for kind in ("LSTM", "SLSTM", "LayerNormLSTM", "CoupledLSTM"):
        layer, x = layer_of(kind), batch()
        states = what_if(layer, x, edits=[Edit("cell", to=0.5, steps=4)]).states[""]
        assert (states.cell[0, 0, :, 4] == 0.5).all()
        if kind == "SLSTM":
            shut = [Edit("cell", to=0.5, steps=4), Edit("input", to=0.0, steps=5)]
            np.testing.assert_allclose(what_if(layer, x, edits=shut).states[""].cell[0, 0, :, 5], 0.5)
        if kind == "LSTM":
            output = states["output"].values
            np.testing.assert_allclose(states.hidden[0, 0, :, 4], output[0, 0, :, 4] * np.tanh(0.5))
            written = states["forget"] * 0.5 + states["input"] * states["candidate"]
            np.testing.assert_allclose(states.cell[0, 0, :, 5], written[0, 0, :, 5])


def test_edits_train_and_the_model_is_as_it_was_after_an_error() -> None:
    layer, x = layer_of("LSTM"), batch()
    with edited(layer, [Edit("forget", to=1.0)]):
        layer(x)[0].sum().backward()
    rows = layer.weight_ih_l0.grad.view(4, H, F)
    assert (rows[1] == 0).all()
    assert (rows[0] != 0).any()
    wanted = layer(x)
    with pytest.raises(ZeroDivisionError), edited(layer, [Edit("hidden", to=0.0)]):
        _ = 1 / 0
    assert "forward" not in vars(layer)
    assert_same(layer(x), wanted, 0)
    own = layer.forward
    layer.forward = lambda *given: own(*given)
    kept = layer.forward
    with edited(layer, []):
        assert layer.forward is not kept
    assert layer.forward is kept


def test_a_stack_counts_its_layers_and_other_modules_are_left_alone() -> None:
    stack = nn.Stacked(F, (7, 5), cell="GRU", connection="residual", batch_first=True).double()
    model = torch.nn.ModuleDict({"stack": stack, "other": torch.nn.GRU(5, 3, batch_first=True).double()})
    model.forward = lambda x: model.other(model.stack(x)[0])  # type: ignore[method-assign]
    x = batch()
    states = what_if(model, x, edits=[Edit("hidden", to=0.0, units=[4], layer=1, module="stack")]).states
    assert (states["stack"].hidden[1, 0, ..., 4] == 0).all()
    assert (states["stack"].hidden[0, 0, ..., 4] != 0).any()
    assert (states["other"].hidden != 0).all()
    traced = trace_all(model, x)
    np.testing.assert_allclose(states["stack"].hidden[0], traced["stack"].hidden[0], rtol=1e-12)
    assert states["stack"].attrs == traced["stack"].attrs
    named = what_if(model, x, edits=[], time=list("abcdefghi")).states
    assert "".join(named["stack"].time.values) == "abcdefghi"


def test_the_steps_are_visited_in_the_order_of_reading() -> None:
    layer, seen = layer_of("RNN", bidirectional=True), []

    def visit(place: Any, step: int, name: str, value: Tensor) -> Tensor:
        seen.append((place.reverse, step, name))
        return value

    with stepping(layer, visit):
        layer(batch(1, 2, F))
    assert seen == [(False, 0, "hidden"), (False, 1, "hidden"), (True, 1, "hidden"), (True, 0, "hidden")]


def test_parametrized_and_weight_normed_layers_run_with_the_weights_that_they_have_now() -> None:
    for wrap in (
        torch.nn.utils.parametrizations.weight_norm,
        lambda layer, name: torch.nn.utils.parametrize.register_parametrization(layer, name, Half()),
    ):
        layer = torch.nn.LSTM(F, H, batch_first=True).double()
        wrap(layer, "weight_hh_l0")
        x = batch()
        with edited(layer, []):
            found = layer(x)
        assert_same(found, layer(x))


def test_a_compiled_model_runs_with_its_edits_and_compiled_again_after() -> None:
    layer, x = nn.PeepholeLSTM(F, H, batch_first=True), torch.randn(N, T, F)
    compiled = torch.compile(layer, backend="eager")
    wanted = compiled(x)
    with edited(compiled, [Edit("cell", to=0.0, units=3)]):
        assert (compiled(x)[0][..., 3] == 0).all()
    assert_same(compiled(x), wanted, 0)


class Half(torch.nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class Own(torch.nn.LSTM):
    """A forward that stepping would not run."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        return super().forward(2 * input, hx)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: Edit("forget"), "edit: expected one of to, low and high, scale, change, got 0 of them"),
        (lambda: Edit("forget", to=1.0, scale=2.0), "edit: .* got 2 of them for 'forget'"),
        (lambda: Edit("forget", low=2.0, high=1.0), "low: expected no more than high, 1.0, got 2.0"),
        (lambda: Edit("forget", to=1.0, direction="up"), "direction: expected 'forward', 'reverse' or None"),
        (lambda: Edit("update", to=1.0), "name: expected one of 'input', 'forget', .* got 'update'"),
        (lambda: Edit("forget", to=1.0, units=7), "units: expected 0 to 6, got 7"),
        (lambda: Edit("forget", to=1.0, units=[0, -1]), "units: expected 0 to 6, got -1"),
        (lambda: Edit("forget", to=1.0, layer=1), "layer: expected 0 to 0, got 1"),
        (lambda: Edit("forget", to=1.0, steps=range(9, 10)), "steps: expected 0 to 8, got 9"),
        (lambda: Edit("forget", to=1.0, samples=3), "samples: expected 0 to 2, got 3"),
        (lambda: Edit("forget", to=1.0, direction="reverse"), "direction: expected 'forward', as the layers"),
        (lambda: Edit("forget", to=1.0, module="rnn"), "module: expected one of '', got 'rnn'"),
        (lambda: Edit("forget", to=torch.ones(3)), r"to: .* spreads over \(3, 7\), .* got shape \(3,\)"),
    ],
)
def test_what_is_refused(edit: Callable[[], Edit], message: str) -> None:
    layer, x = layer_of("LSTM"), batch()
    with pytest.raises(ArgumentError, match=message), edited(layer, [edit()]):
        layer(x)
    with pytest.raises(ArgumentError, match=message):
        what_if(layer, x, edits=[edit()])


def test_what_cannot_be_stepped_is_refused() -> None:
    for model in (nn.MLSTM(F, H), Own(F, H)):
        message = f"run step by step, got {type(model).__name__} alone"
        with pytest.raises(ArgumentError, match=message), stepping(model, as_it_is):
            pass
    with pytest.raises(ArgumentError, match="model: expected"):
        what_if("model", batch(), edits=[])
