"""Windows: every value where it belongs, what is missing masked, nothing known before its time."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recurra.data.calendar import Frequency
from recurra.data.table import Columns, Panel, Series
from recurra.data.windows import Batch, Windows

VALUES = ("past_target", "future_target", "past_covariates", "past_known", "future_known", "static")
MASKS = {name: name.replace("_target", "") + "_observed" for name in VALUES}


def make_panel(
    *lengths: int,
    extra: int = 0,
    past: int = 0,
    known: int = 0,
    static: int = 0,
    holes: float = 0.0,
    seed: int = 0,
) -> Panel:
    """Random series with NaN in ``holes`` of their inner values."""
    draw = np.random.default_rng(seed)
    made = []
    for number, length in enumerate(lengths):

        def cells(*shape: int) -> np.ndarray:
            values = draw.normal(7.0, 3.0, shape)
            values[draw.random(shape) < holes] = np.nan
            return values

        target = cells(length)
        target[[0, -1]] = 1.0, 2.0
        stamps = np.arange(length)
        parts = cells(length, past), cells(length + extra, known), cells(static)
        made.append(Series(f"s{number}", stamps, target, *parts))
    columns = Columns(
        "t",
        ("y",),
        None,
        *(
            tuple(f"{kind}{k}" for k in range(n))
            for kind, n in zip("pks", (past, known, static), strict=True)
        ),
    )
    return Panel(tuple(made), Frequency("step"), columns)


def window(values: np.ndarray, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The plain twin: one slice of a series, NaN outside; its values with 0 for NaN, and where they are."""
    padded = np.full((length, *values.shape[1:]), np.nan)
    for row in range(length):
        if 0 <= start + row < len(values):
            padded[row] = values[start + row]
    return np.nan_to_num(padded), ~np.isnan(padded)


@given(
    lengths=st.lists(st.integers(2, 63), min_size=1, max_size=7),
    lookback=st.integers(1, 33),
    horizon=st.integers(1, 17),
    stride=st.integers(1, 7),
    extra=st.integers(0, 7),
    holes=st.sampled_from([0.0, 0.1, 0.9]),
    past_end=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_window_is_a_slice_of_its_series(
    lengths: list[int],
    lookback: int,
    horizon: int,
    stride: int,
    extra: int,
    holes: float,
    past_end: bool,
    seed: int,
) -> None:
    panel = make_panel(*lengths, extra=extra, past=2, known=3, static=1, holes=holes, seed=seed)
    last = panel.lengths if past_end else None
    windows = Windows(panel, lookback, horizon, last=last, stride=stride, min_future=0 if past_end else 1)
    batch = windows.batch()
    assert len(batch) == len(windows)
    for row in range(len(windows)):
        series, origin = panel.series[int(batch.series[row])], int(batch.origin[row])
        for name, values, start, length in (
            ("past_target", series.target, origin - lookback, lookback),
            ("future_target", series.target, origin, horizon),
            ("past_covariates", series.past, origin - lookback, lookback),
            ("past_known", series.known, origin - lookback, lookback),
            ("future_known", series.known, origin, horizon),
            ("static", series.static[None], 0, 1),
        ):
            expected, there = window(values, start, length)
            np.testing.assert_array_equal(
                getattr(batch, name)[row],
                expected.reshape(getattr(batch, name)[row].shape).astype(np.float32),
            )
            np.testing.assert_array_equal(getattr(batch, MASKS[name])[row].flatten(), there.flatten())
    wanted = [
        (number, origin)
        for number, series in enumerate(panel.series)
        for origin in sorted(range(len(series) - (0 if past_end else horizon), 0, -stride))
        if window(series.target, origin - lookback, lookback)[1].sum() >= 1
        and (past_end or window(series.target, origin, horizon)[1].sum() >= 1)
    ]
    assert list(zip(batch.series.tolist(), batch.origin.tolist(), strict=True)) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_nan_never_reaches_a_batch(seed: int) -> None:
    panel = make_panel(63, 33, 7, extra=7, past=2, known=2, static=2, holes=0.5, seed=seed)
    batch = Windows(panel, 33, 7, last=panel.lengths, min_future=0).batch()
    for field in fields(Batch):
        assert torch.isfinite(getattr(batch, field.name)).all(), field.name
    for name in VALUES:
        assert (getattr(batch, name)[~getattr(batch, MASKS[name])] == 0).all(), name
        assert getattr(batch, name).dtype == torch.float32
        assert getattr(batch, MASKS[name]).dtype == torch.bool


def test_indices_choose_rows_in_their_order() -> None:
    windows = Windows(make_panel(63, 33, past=1), 7, 3)
    whole = windows.batch()
    for indices in ([5, 1, 1], torch.tensor([5, 1, 1]), np.array([5, 1, 1])):
        some = windows.batch(indices)
        for field in fields(Batch):
            assert torch.equal(getattr(some, field.name), getattr(whole, field.name)[[5, 1, 1]])
    assert len(windows.batch([])) == 0
    assert len(windows.batch(slice(0, 7))) == 7
    assert torch.equal(windows.batch([-1]).origin, whole.origin[-1:])


def test_no_cube_is_copied() -> None:
    windows = Windows(make_panel(10_000), 1000, 96)
    held = sum(v.numel() * v.element_size() for v in vars(windows).values() if isinstance(v, torch.Tensor))
    assert len(windows) > 8000
    assert held < 10_000 * 40


def test_bounds_for_each_series() -> None:
    panel = make_panel(33, 63)
    windows = Windows(panel, 7, 3, first=[20, 40], last=[22, 41])
    assert windows.origin.tolist() == [20, 21, 22, 40, 41]
    assert Windows(panel, 7, 3, first=31).origin.tolist() == list(range(31, 61))
    assert len(Windows(panel, 7, 64)) == 0
    assert len(Windows(panel, 7, 64).batch()) == 0


def test_windows_must_see_and_be_asked_for_something() -> None:
    panel = make_panel(63)
    target = panel.series[0].target.copy()
    target[10:40] = np.nan
    panel = replace(panel, series=(replace(panel.series[0], target=target),))
    windows = Windows(panel, 7, 3)
    assert not {o for o in windows.origin.tolist() if 17 <= o <= 40}, "nothing seen"
    assert not {o for o in windows.origin.tolist() if 10 <= o <= 37}, "nothing asked for"
    assert 9 in windows.origin
    assert len(Windows(panel, 7, 3, min_history=0, min_future=0)) == 61
    assert min(Windows(panel, 7, 3, min_history=5).origin.tolist()) == 5


@pytest.mark.parametrize("name", ["lookback", "horizon", "stride"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_below_one_are_refused(name: str, value: int) -> None:
    sizes = {"lookback": 7, "horizon": 3, "stride": 1, name: value}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        Windows(make_panel(33), **sizes)


def spiked(panel: Panel, origin: int) -> Panel:
    """The panel with nonsense in everything that is unknown at ``origin``."""
    made = []
    for series in panel.series:
        target, past = series.target.copy(), series.past.copy()
        target[origin:] = 1e6
        past[origin:] = -1e6
        made.append(replace(series, target=target, past=past))
    return replace(panel, series=tuple(made))


@pytest.mark.parametrize("origin", [7, 33, 50])
def test_a_spike_in_the_future_changes_nothing_before_it(origin: int) -> None:
    plain = make_panel(63, 63, extra=7, past=2, known=1, static=1, holes=0.1)
    batches = [
        Windows(panel, 17, 7, last=origin, min_future=0).batch() for panel in (plain, spiked(plain, origin))
    ]
    seen = [name for name in VALUES if name != "future_target"]
    for name in [*seen, *(MASKS[name] for name in seen), "series", "origin"]:
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name)), name
    step = batches[0].origin[:, None] + torch.arange(7)
    before = step < origin
    assert torch.equal(batches[0].future_target[before], batches[1].future_target[before])
    assert not torch.equal(batches[0].future_target, batches[1].future_target), "the spike was really there"


def test_windows_can_be_cut_anywhere_whether_chosen_or_not() -> None:
    panel = make_panel(33, 7, past=1, known=2, extra=3, holes=0.2)
    chosen = Windows(panel, 5, 3, first=20, last=20)
    every = Windows(panel, 5, 3, first=1, last=panel.lengths, min_history=0, min_future=0)
    again = chosen.at(every.series, every.origin)
    for field in fields(Batch):
        assert torch.equal(getattr(again, field.name), getattr(every.batch(), field.name)), field.name
