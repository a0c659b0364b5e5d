"""`recurra.lens.attribution`: completeness, what can be worked out by hand, labels and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_lens_gradients import F, H, N, T, batch, every_kind, layer_of
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from recurra import Forecaster, nn
from recurra.data.table import Panel
from recurra.errors import ArgumentError
from recurra.lens.attribution import integrated_gradients, occlusion
from recurra.lens.edit import Edit, edited, what_if
from recurra.lens.gradients import gradient_flow
from recurra.lens.jacobians import spectra
from recurra.lens.tracing import trace_all


def last(output: Any) -> Tensor:
    """A number for each row of a batch-first layer: of its last step."""
    return output[0][:, -1].sin().sum(-1)


@every_kind
def test_integrated_gradients_are_complete(kind: str) -> None:
    layer, x = layer_of(kind, num_layers=2, bidirectional=True), batch()
    found = integrated_gradients(layer, x, target=last, baseline=0.25, steps=200)
    assert found.attribution.dims == ("sample", "time", "feature")
    np.testing.assert_allclose(found.output, last(layer(x)).detach(), rtol=1e-9)
    np.testing.assert_allclose(
        found.baseline_output, last(layer(torch.full_like(x, 0.25))).detach(), rtol=1e-9
    )
    total = found.attribution.sum(("time", "feature"))
    np.testing.assert_allclose(found.gap, total - (found.output - found.baseline_output), atol=1e-12)
    assert (np.abs(total) > 1e-3).any()
    # MinGRU's and MinLSTM's candidate has a corner, round which the sum converges slowly
    np.testing.assert_allclose(found.gap, 0, atol=5e-3 if kind.startswith("Min") else 1e-6)


def test_too_few_steps_show_in_the_gap() -> None:
    layer, x = layer_of("LSTM"), 5 * batch()
    few, many = (np.abs(integrated_gradients(layer, x, target=last, steps=n).gap).max() for n in (1, 300))
    assert few > 1e-2
    assert many < 1e-6


class Linear(torch.nn.Module):
    """An answer that is linear in the input: both methods must find weight times input."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(F, H, batch_first=True)
        self.weight = torch.nn.Parameter(torch.randn(T, F))

    def forward(self, x: Tensor, shift: Tensor | None = None, lengths: Any = None) -> Tensor:
        steps = torch.full((len(x),), T) if lengths is None else torch.as_tensor(lengths)
        within = torch.arange(T) < steps[:, None]
        answer = (x * self.weight * within[..., None]).sum((1, 2))
        return answer if shift is None else answer + shift


@pytest.mark.parametrize("lengths", [None, [T, 4, 1], torch.tensor([4, T, 2])], ids=str)
def test_of_a_linear_answer_both_find_weight_times_input(lengths: Any) -> None:
    model, x, shift = Linear(), batch().float(), torch.randn(N)
    base = torch.randn(F)
    within = np.arange(T) < np.asarray([T] * N if lengths is None else lengths)[:, None]
    wanted = ((x - base) * model.weight).detach().numpy() * within[..., None]
    given: dict[str, Any] = {"shift": shift, "lengths": lengths}
    gradients = integrated_gradients(model, x, baseline=base, **given)
    np.testing.assert_allclose(gradients.attribution, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients.output, model(x, **given).detach(), rtol=1e-5)
    occluded = occlusion(model, x, shift, baseline=base, lengths=lengths)
    np.testing.assert_allclose(occluded.attribution, wanted, rtol=1e-3, atol=1e-4)
    steps = occlusion(model, x, baseline=base, window=(2, None), **given)
    for t in range(T):
        pair = wanted[:, t // 2 * 2 : t // 2 * 2 + 2].sum((1, 2))
        np.testing.assert_allclose(steps.attribution[:, t, 0], pair, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(steps.attribution[:, t, 0], steps.attribution[:, t, F - 1])


def test_occlusion_is_the_difference_of_two_runs() -> None:
    layer, x = layer_of("LSTM"), batch()
    found = occlusion(layer, x, target=last, baseline=-1.0)
    for t, feature in ((0, 0), (4, 3), (T - 1, F - 1)):
        without = x.clone()
        without[:, t, feature] = -1
        wanted = (last(layer(x)) - last(layer(without))).detach()
        np.testing.assert_allclose(found.attribution[:, t, feature], wanted, atol=1e-12)
    assert found.attrs == {"method": "occlusion", "window": [1, 1]}


def test_steps_that_the_answer_does_not_see_get_nothing() -> None:
    layer, x, lengths = layer_of("LSTM"), batch(), [T, 4, 0]
    for method in (integrated_gradients, occlusion):
        found = method(layer, x, lengths=lengths, target=lambda output: output[1][0][0].sum(-1)).attribution
        for row, length in enumerate(lengths):
            np.testing.assert_allclose(found[row, length:], 0, atol=1e-15)
            assert (np.abs(found[row, :length]) > 1e-9).all()


def test_rows_time_first_and_a_state_go_with_their_own_row() -> None:
    layer, x = nn.LSTM(F, H).double(), batch(T, N, F)
    hx = tuple(torch.randn(1, N, H, dtype=torch.float64) for _ in range(2))

    def answer(output: Any) -> Tensor:
        return output[0][-1].sum(-1)

    for method in (integrated_gradients, occlusion):
        found = method(layer, x, hx=hx, lengths=[T, 3, 7], target=lambda output: output[1][0][0].sum(-1))
        for row, length in enumerate([T, 3, 7]):
            own = tuple(state[:, row : row + 1] for state in hx)
            alone = method(layer, x[:length, row : row + 1], hx=own, target=answer)
            np.testing.assert_allclose(found.attribution[row, :length], alone.attribution[0], atol=1e-12)


class Tagger(torch.nn.Module):
    """Tokens (N, T) to a score for each tag, (N, T, 4)."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embedding = torch.nn.Embedding(11, F)
        self.rnn = torch.nn.LSTM(F, H, bidirectional=True, batch_first=batch_first)
        self.head = torch.nn.Linear(2 * H, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0])


@pytest.mark.parametrize("batch_first", [True, False])
def test_tokens_by_their_embedding_and_by_occlusion(batch_first: bool) -> None:
    model = Tagger(batch_first).double().train()
    tokens = torch.randint(11, (T, T))  # as many rows as steps: no shape tells the two apart
    words = [[f"w{token}" for token in row] for row in tokens.tolist()]
    rows = tokens if batch_first else tokens.T

    def answer(output: Tensor) -> Tensor:
        return output[:, 2, 1] if batch_first else output[2, :, 1]

    found = integrated_gradients(model, rows, target=answer, embedding=model.embedding, time=words, steps=200)
    assert found.attribution.dims == ("sample", "time")
    assert found.label.values.tolist() == words
    np.testing.assert_allclose(found.output, answer(model(rows)).detach(), rtol=1e-9)
    np.testing.assert_allclose(found.gap, 0, atol=1e-6)
    masked = occlusion(model, rows, target=answer, baseline=5)
    without = tokens.clone()
    without[:, 4] = 5
    wanted = answer(model(rows)) - answer(model(without if batch_first else without.T))
    np.testing.assert_allclose(masked.attribution[:, 4], wanted.detach(), atol=1e-12)
    assert model.training
    assert not model.embedding._forward_hooks


def test_targets_by_index_by_row_and_by_function() -> None:
    model = Tagger()
    tokens = torch.randint(11, (N, T))
    pooled = torch.nn.Sequential(model, Mean())
    everything = [occlusion(pooled, tokens, target=k, baseline=5).attribution for k in range(4)]
    by_row = occlusion(pooled, tokens, target=torch.tensor([2, 0, 3]), baseline=5).attribution
    for row, k in enumerate([2, 0, 3]):
        np.testing.assert_allclose(by_row[row], everything[k][row], atol=1e-7)
    indexed = occlusion(model, tokens, target=(2, 1), baseline=5)
    function = occlusion(model, tokens, target=lambda output: output[:, 2, 1], baseline=5)
    np.testing.assert_array_equal(indexed.attribution, function.attribution)


class Mean(torch.nn.Module):
    """(N, T, K) to (N, K)."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.mean(1)


def test_a_forecaster_is_asked_about_a_table() -> None:
    days = np.arange(63)
    values = {name: 9 + np.sin(days * 2 * np.pi / 7 + phase) for name, phase in (("a", 0.0), ("b", 1.0))}
    panel = Panel.from_arrays(values, "D", "2024-01-01")
    model = Forecaster(3, epochs=1, members=2, lookback=21, season=7).fit(panel)
    with torch.no_grad():  # so short a training may leave the answer where it begins, at zero
        for member in model.network.members:
            member.decode.weight.normal_()
        model.network.trust.fill_(1.0)
    near, all_of_it = (integrated_gradients(model, panel, target=target) for target in (0, None))
    assert near["sample"].values.tolist() == ["a", "b"]
    assert near.attribution.dims == ("sample", "time", "feature")
    assert (np.abs(near.gap) < 1e-3).all()
    assert (np.abs(near.attribution.sum(("time", "feature"))) > 1e-2).all()
    each = [integrated_gradients(model, panel, target=step).output.values for step in range(3)]
    np.testing.assert_allclose(all_of_it.output, sum(each), rtol=1e-4, atol=1e-7)
    with pytest.raises(ArgumentError, match=r"target: expected a step of the horizon, 0 to 2, .* got 3"):
        occlusion(model, panel, target=3)
    flow = gradient_flow(model, panel)
    paths = [f"members.{member}.lstm{call}" for member in (0, 1) for call in ("", " (call 2)")]
    assert sorted(flow.states) == sorted(paths)
    assert flow.states[paths[0]]["sample"].values.tolist() == ["a", "b"]
    effect = what_if(model, panel, edits=[Edit("cell", to=0.0, units=[0], module=paths[0])])
    traced = trace_all(model, panel)[paths[0]]
    assert (effect.states[paths[0]].cell[..., 0] == 0).all()
    assert effect.states[paths[0]].coords.equals(traced.coords)
    assert effect.change[0].abs().max() > 0
    assert (effect.change[1] == 0).all()
    before = model.predict(panel).values
    with edited(model, [Edit("hidden", to=0.0)]):
        assert (np.abs(model.predict(panel).values - before) > 0).any()
    np.testing.assert_array_equal(model.predict(panel).values, before)
    assert spectra(model, panel, lags=[1]).attrs["module"] == paths[0]


def test_labels() -> None:
    layer, x = layer_of("GRU"), batch()
    labels: dict[str, Any] = {
        "time": list("abcdefghi"),
        "features": list("vwxyz"),
        "samples": ["one", "two", "three"],
    }
    for method in (integrated_gradients, occlusion):
        found = method(layer, x, target=last, **labels)
        assert "".join(found.time.values) == "abcdefghi"
        assert found.attribution.sel(sample="two", time="c", feature="x").shape == ()
    for name, wrong in (("time", "ab"), ("features", "ab"), ("samples", "ab"), ("time", [["a"], ["b"]])):
        with pytest.raises(ArgumentError, match=f"{name}: expected"):
            occlusion(layer, x, target=last, **{name: wrong})


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda layer, x: integrated_gradients("model", x), "model: expected"),
        (lambda layer, x: integrated_gradients(layer, x), r"target: .* shape \(3,\), got \(3, 9, 7\)"),
        (lambda layer, x: occlusion(layer, x, target=(0, 7)), r"target: expected an index into \(9, 7\)"),
        (lambda layer, x: occlusion(layer, x, target=lambda output: 1.0), "target: .* got float"),
        (
            lambda layer, x: occlusion(layer, x, target=torch.ones(N)),
            r"target: expected a class .* torch.float32",
        ),
        (
            lambda layer, x: occlusion(layer, x, target=last, argument=1),
            "argument: expected 0 to 0, .* got 1",
        ),
        (lambda layer, x: occlusion(layer, x[0, 0], target=last), r"inputs: .* got \(5,\)"),
        (lambda layer, x: occlusion(layer, packed(x), target=last), "inputs: .* got PackedSequence"),
        (lambda layer, x: occlusion(layer, x, target=last, baseline=torch.ones(4)), r"baseline: .* \(4,\)"),
        (lambda layer, x: occlusion(layer, x, target=last, window=(10, 1)), r"window: .* \(9, 5\), got"),
        (lambda layer, x: occlusion(layer, x, target=last, window=(0, None)), "window: expected steps"),
        (lambda layer, x: integrated_gradients(layer, x, target=last, steps=0), "steps: expected .* got 0"),
        (lambda layer, x: integrated_gradients(layer, x.long(), target=last), "embedding: .* torch.int64"),
        (
            lambda layer, x: integrated_gradients(layer, x, target=last, embedding=torch.nn.Linear(1, 1)),
            "embedding: .* got no call",
        ),
    ],
)
def test_what_is_refused(ask: Callable[[Any, Tensor], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ask(layer_of("GRU"), batch())


def packed(x: Tensor) -> Any:
    return pack_padded_sequence(x, torch.full((N,), T), batch_first=True)


@pytest.mark.parametrize("package", ["captum", "xarray"])
def test_without_a_package_the_error_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"recurra.lens needs {package}, .*pip install recurra\[lens\]"):
        occlusion(layer_of("GRU"), batch(), target=last)
