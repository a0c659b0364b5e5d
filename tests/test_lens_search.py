"""`recurra.lens.search` on traces whose states are set by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from recurra import nn
from recurra.errors import ArgumentError
from recurra.lens.search import (
    best,
    marked,
    nearest_states,
    ranges_like,
    units_following,
    units_on,
)
from recurra.lens.tracing import trace

N, T, F, H = 3, 9, 5, 7
LENGTHS = [9, 6, 3]


def traced(**options: Any) -> Any:
    """A trace of two layers and directions, with labels."""
    layer = nn.LSTM(F, H, 2, bidirectional=True, batch_first=True, **options)
    labels: dict[str, Any] = {"time": list("abcdefghi"), "samples": ["one", "two", "three"]}
    return trace(layer, torch.randn(N, T, F), lengths=LENGTHS, **labels)


def quiet(**options: Any) -> Any:
    """The same with hidden states of 0, within each row's length."""
    found = traced(**options).copy(deep=True)
    found["hidden"] = found.hidden * 0
    return found


def test_the_units_that_stay_above_the_threshold() -> None:
    found = quiet()
    found.hidden[1, 1, 0, 2:6, 3] = 0.5
    found.hidden[0, 0, 0, 2:5, 4] = [0.5, 0.5, 0.2]  # below at the last
    found.hidden[0, 1, 0, 1:5, 6] = 0.5  # on before as well
    found.hidden[1, 0, 1, 2:5, 5] = 0.5  # in another sample
    on = units_on(found, 0, 2, 5)
    assert np.argwhere(on.values).tolist() == [[0, 1, 6], [1, 1, 3]]
    assert on.sel(layer=1, direction="reverse", unit=3)
    assert np.argwhere(units_on(found, 0, 2, 5, only=True).values).tolist() == []
    assert np.argwhere(units_on(found, 0, 2, 6, only=True).values).tolist() == [[1, 1, 3]]
    assert np.argwhere(units_on(found, 0, 2, 5, threshold=0.6).values).tolist() == []
    gate = traced()
    wanted = (gate["forget"].values[:, :, 1, 1:4] >= 0.5).all(2)
    np.testing.assert_array_equal(units_on(gate, 1, 1, 4, threshold=0.5, variable="forget"), wanted)


def test_other_ranges_in_which_they_are_on() -> None:
    found = quiet()
    found.hidden[0, 0, 0, 2:5, [1, 2]] = 0.5
    found.hidden[0, 0, 0, 7:9, [1, 2]] = 0.5
    found.hidden[0, 0, 1, 1:6, [1, 2]] = 0.5
    found.hidden[0, 0, 2, 0:2, 1] = 0.5  # one of the two
    on = units_on(found, 0, 2, 5)
    matches = ranges_like(found, on)
    assert matches["sample"].values.tolist() == [1, 0, 0]
    assert matches["name"].values.tolist() == ["two", "one", "one"]
    assert matches["start"].values.tolist() == [1, 2, 7]
    assert matches["stop"].values.tolist() == [6, 5, 9]
    assert matches["steps"].values.tolist() == [5, 3, 2]
    assert matches["first"].values.tolist() == ["b", "c", "h"]
    assert matches["last"].values.tolist() == ["f", "e", "i"]
    half = ranges_like(found, on, share=0.5)
    assert half["share"].values.tolist() == [1, 1, 1, 0.5]
    assert half["sample"].values.tolist()[-1] == 2
    assert ranges_like(found, on, count=1).sizes["match"] == 1
    assert ranges_like(quiet(), on).sizes["match"] == 0


def test_correlation_is_that_of_numpy_over_the_steps_that_count() -> None:
    found, pattern = traced(), np.random.default_rng(63).normal(size=(N, T))
    pattern[0, 4] = np.nan
    scores = units_following(found, pattern, variable="cell")
    counted = (np.arange(T) < np.array(LENGTHS)[:, None]) & np.isfinite(pattern)
    for place in ((0, 0, 0), (1, 1, 6), (0, 1, 3)):
        states = found.cell.values[place[0], place[1], ..., place[2]][counted]
        wanted = np.corrcoef(states, pattern[counted])[0, 1]
        assert float(scores.values[place]) == pytest.approx(wanted, rel=1e-5)
    assert scores.dims == ("layer", "direction", "unit")
    assert scores.direction.values.tolist() == ["forward", "reverse"]


def test_the_unit_that_follows_a_marked_pattern_is_found() -> None:
    found = quiet()
    pattern = marked(found, [(0, 2, 5), (1, 0, 3)])
    assert pattern.sum() == 6
    noise = np.random.default_rng(7).normal(size=found.hidden.shape) * 0.3
    found["hidden"] = found.hidden + noise
    found.hidden[1, 0, :, :, 5] = np.where(np.isnan(found.hidden[1, 0, :, :, 5]), np.nan, -pattern)
    scores = units_following(found, pattern)
    first, second = best(scores, 2)
    assert first[:3] == (1, "forward", 5)
    assert first.score == pytest.approx(-1)
    assert abs(second.score) < 0.9
    flat = quiet()
    assert np.isnan(units_following(flat, pattern)).all()
    assert best(units_following(flat, pattern)) == []
    assert len(best(scores, 100)) == 4 * H


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_nearest_states_are_those_of_a_search_through_all(metric: str) -> None:
    found = traced()
    place = {"layer": 1, "direction": "reverse"}
    states = found.hidden.values[1, 1].astype(float)
    matches = nearest_states(found, 0, 4, metric=metric, count=5, apart=2, **place)
    wanted = []
    for sample, length in enumerate(LENGTHS):
        for step in range(length):
            if sample == 0 and abs(step - 4) < 2:
                continue
            a, b = states[0, 4], states[sample, step]
            away = np.linalg.norm(a - b)
            if metric == "cosine":
                away = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            wanted.append((away, sample, step))
    wanted.sort()
    assert list(zip(matches["sample"].values, matches["step"].values, strict=True)) == [
        w[1:] for w in wanted[:5]
    ]
    np.testing.assert_allclose(matches["distance"], [w[0] for w in wanted[:5]], rtol=1e-6, atol=1e-12)
    assert matches["at"].values.tolist() == ["abcdefghi"[w[2]] for w in wanted[:5]]
    assert matches["name"].values.tolist() == [["one", "two", "three"][w[1]] for w in wanted[:5]]


def test_nearest_states_among_other_data_and_of_projections_and_zeros() -> None:
    found = traced(proj_size=3)
    other = found.isel(sample=[2, 0])
    match = nearest_states(found, 0, 5, among=other, count=1)
    assert (match["sample"].item(), match["step"].item(), match["name"].item()) == (1, 5, "one")
    assert match["distance"].item() == pytest.approx(0, abs=1e-12)
    assert nearest_states(found, 0, 5, among=other, count=99).sizes["match"] == 3 + 9
    still = quiet()
    assert (nearest_states(still, 0, 0)["distance"] == 1).all()
    assert (nearest_states(still, 0, 0, metric="euclidean")["distance"] == 0).all()


def test_layers_of_several_sizes_and_labels_of_each_sample() -> None:
    stack = nn.Stacked(F, (7, 3), cell="GRU", batch_first=True)
    words = [[f"{row}{step}" for step in range(length)] for row, length in enumerate(LENGTHS)]
    found = trace(stack, torch.randn(N, T, F), lengths=LENGTHS, time=words)
    match = nearest_states(found, 0, 8, layer=1, count=2)
    assert np.isfinite(match["distance"]).all()
    assert match["at"].values.tolist() == [
        words[sample][step] for sample, step in zip(match["sample"].values, match["step"].values, strict=True)
    ]
    scores = units_following(found, np.random.default_rng(1).normal(size=(N, T)))
    assert np.isnan(scores[1, 0, 3:]).all()
    assert np.isfinite(scores[1, 0, :3]).all()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: units_on(t, 3, 0, 1), "sample: expected 0 to 2, got 3"),
        (lambda t: units_on(t, 1, 4, 7), "start and stop: .* 6 steps of sample 1, got 4 to 7"),
        (lambda t: units_on(t, 1, 4, 4), "start and stop"),
        (
            lambda t: units_on(t, 0, 0, 1, variable="update"),
            "variable: expected one of 'input', .* got 'update'",
        ),
        (lambda t: ranges_like(t, units_on(t, 0, 0, 9, threshold=2.0)), "on: expected one unit or more"),
        (lambda t: ranges_like(t, units_on(t, 0, 0, 1).isel(unit=[0])), "on: expected .*'unit': 7"),
        (
            lambda t: ranges_like(t, units_on(t, 0, 0, 1, threshold=-1.0), share=0.0),
            "share: expected above 0",
        ),
        (lambda t: units_following(t, np.zeros((T, N))), r"pattern: expected shape .*\(3, 9\)"),
        (lambda t: units_following(t, np.ones((N, T))), "pattern: expected numbers that differ"),
        (lambda t: marked(t, [(2, 0, 4)]), r"ranges: expected .* got \(2, 0, 4\)"),
        (lambda t: nearest_states(t, 2, 3), "step: expected 0 to 2, the steps of sample 2, got 3"),
        (lambda t: nearest_states(t, 0, 0, metric="angle"), "metric: expected 'cosine' or 'euclidean'"),
        (lambda t: nearest_states(t, 0, 0, layer=2), "layer and direction: expected 0 to 1"),
        (lambda t: nearest_states(t, 0, 0, direction="up"), "layer and direction: .* got 0 and 'up'"),
        (lambda t: nearest_states(t, 0, 0, among=t.isel(unit=[0])), "among: expected a trace with 7 units"),
    ],
)
def test_what_is_refused(ask: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ask(traced())
