"""From a panel to batches: nothing from the future gets in, and each number is what the recipe says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from recurra.data.calendar import Frequency
from recurra.data.features import calendar_features
from recurra.data.table import Columns, Panel, Series
from recurra.tasks.preparation import CLIP, STATES, Preparation, Prepared
from recurra.tasks.remainder import first_origin, fit_profile
from recurra.tasks.segment_lstm import Example

HORIZON, LOOKBACK = 7, 15


def series(name: str, length: int, seed: int, *, extra: int = HORIZON, gaps: bool = True) -> Series:
    """A weekly season, a trend, a past covariate, two known ones, a static number, and gaps."""
    random = np.random.default_rng(seed)
    t = np.arange(length + extra)
    y = 100 + 0.5 * t + 9 * np.sin(2 * np.pi * t / 7) + random.normal(0, 2, len(t))
    past = random.normal(3, 2, (length, 1))
    if gaps:
        y[[length // 2, length // 2 + 1, length - 5]] = np.nan
        past[length // 3] = np.nan
    return Series(
        name=name,
        stamps=Frequency.parse("D").range(np.datetime64("2023-03-01", "ns"), length),
        target=y[:length],
        past=past,
        known=np.stack([t % 5.0, random.normal(0, 1, len(t))], axis=1),
        static=np.array([float(seed)]),
    )


def panel(*lengths: int) -> Panel:
    columns = Columns("day", ("y",), "shop", past=("visits",), known=("price", "promo"), static=("size",))
    made = tuple(series(f"s{index}", length, index + 1) for index, length in enumerate(lengths))
    return Panel(made, Frequency.parse("D"), columns)


def prepare(given: Panel, seen: Panel | None = None, seasons: tuple[int, ...] = (7,)) -> Prepared:
    """``given``, prepared with what was learnt of ``seen``."""
    learnt = Preparation.fit(
        given if seen is None else seen, horizon=HORIZON, lookback=LOOKBACK, seasons=seasons
    )
    return Prepared(given, learnt, given.names, given.frequency)


def all_windows(prepared: Prepared) -> np.ndarray:
    """Those past the end of a series too."""
    lengths = prepared.lengths
    starts = [max(first_origin(s.profile), 1) for s in prepared.smoothed]
    pairs = [(i, o) for i, n in enumerate(lengths) for o in range(starts[i], n + 1)]
    return np.array(pairs)


def same(left: Example, right: Example, names: tuple[str, ...]) -> None:
    for name in names:
        assert torch.equal(getattr(left, name), getattr(right, name)), name


def spike_target(value: float) -> Callable[[Series, int], Series]:
    def change(one: Series, at: int) -> Series:
        target = one.target.copy()
        target[at:] = value
        return replace(one, target=target)

    return change


def spike_past(value: float) -> Callable[[Series, int], Series]:
    def change(one: Series, at: int) -> Series:
        past = one.past.copy()
        past[at:] = value
        return replace(one, past=past)

    return change


@pytest.mark.parametrize("seasons", [(7,), (2,), (3,), (1,), (7, 14)])
@pytest.mark.parametrize("cut", [30, 47, 62])
@pytest.mark.parametrize(
    "change",
    [spike_target(1e6), spike_target(-1e6), spike_target(np.nan), spike_past(1e6), spike_past(np.nan)],
    ids=["spike", "dip", "missing", "covariate", "covariate missing"],
)
def test_no_window_sees_what_comes_after_its_origin(
    change: Callable[[Series, int], Series], cut: int, seasons: tuple[int, ...]
) -> None:
    whole = panel(63, 77)
    spiked = replace(whole, series=tuple(change(one, cut) for one in whole.series))
    known = whole.until(cut), spiked.until(cut)
    first, second = (
        Preparation.fit(p, horizon=HORIZON, lookback=LOOKBACK, seasons=seasons, calendar=True) for p in known
    )
    assert first == second  # profiles and scales
    pair = [Prepared(p, first, p.names, p.frequency) for p in (whole, spiked)]
    windows = all_windows(pair[0])
    windows = windows[windows[:, 1] <= cut]
    assert len(windows) > 5
    examples = [p.example(windows) for p in pair]
    same(*examples, ("past", "future", "static", "series"))
    np.testing.assert_array_equal(pair[0].base(windows), pair[1].base(windows))
    quantiles = np.random.default_rng(cut).normal(size=(len(windows), HORIZON, 3))
    np.testing.assert_array_equal(*(p.in_units_of_the_user(windows, quantiles) for p in pair))
    # and the change is one that later windows do see
    if cut < 62:
        later = np.array([(0, 63), (1, 77)])
        assert not torch.equal(pair[0].example(later).past, pair[1].example(later).past)


def test_origins_begin_where_states_owe_nothing_to_later_values() -> None:
    for seasons in ((1,), (2,), (3,), (7,)):
        whole = panel(63, 77)
        prepared = prepare(whole, seasons=seasons)
        found = prepared.origins([0, 0], prepared.lengths - HORIZON)
        for index, one in enumerate(whole.series):
            earliest = found[found[:, 0] == index, 1].min()
            constants = prepared.smoothed[index].profile.constants
            assert earliest == max(2 * constants.season, 8)
            spiked = replace(one, target=np.where(np.arange(len(one.target)) < earliest, one.target, 1e6))
            changed = Panel((spiked,), whole.frequency, whole.columns)
            again = Prepared(changed, prepared.preparation, whole.names, whole.frequency)
            np.testing.assert_array_equal(
                prepared.smoothed[index].states.level[:earliest], again.smoothed[0].states.level[:earliest]
            )


def slow_window(given: Panel, learnt: Preparation, index: int, origin: int) -> dict[str, np.ndarray]:
    """One window, one number at a time, in float64, from the definitions."""
    one = given.series[index]
    profile = learnt.profiles[one.name]
    c = profile.constants
    z = profile.transform.forward(one.target)
    from recurra.tasks.smoothing import smooth

    states = smooth(z[:origin], c)  # what lies at or beyond the origin is not even there
    memory = max(20.0, 3.0 * c.season)
    recent, units = profile.error**2, []
    for e in states.error:
        if not np.isnan(e):
            recent = recent + (min(e * e, 25 * recent) - recent) / memory
        units.append(np.sqrt(0.5 * profile.error**2 + 0.5 * max(recent, 0.01 * profile.error**2)))
    level, trend, unit = states.level[-1], states.trend[-1], units[-1]
    ahead = Frequency.parse("D").future(one.stamps[-1], HORIZON)
    when = np.concatenate([one.stamps, ahead])
    known = np.full((len(when), one.known.shape[1]), np.nan)
    known[: len(one.known)] = one.known
    features = np.concatenate([calendar_features(when, learnt.cycles), learnt.known.apply(known)], axis=1)
    covariates = learnt.past.apply(one.past)
    rows = []
    for t in range(origin - LOOKBACK, origin):
        if t < 0:
            rows.append(np.zeros(3 + covariates.shape[1] + features.shape[1]))
            continue
        seen = not np.isnan(z[t])
        remainder = (z[t] - level - states.seasonal[t]) / unit if seen else 0.0
        error = states.error[t] / unit if seen else 0.0
        own = np.clip([remainder, error], -CLIP, CLIP)
        rows.append(np.concatenate([own, [float(seen)], covariates[t], features[t]]))
    base = []
    b = trend
    for h in range(1, HORIZON + 1):
        b = c.phi * trend if h == 1 else c.phi * b
        level += b
        base.append(
            level + states.seasonal[[t for t in range(origin) if (t - origin - h + 1) % c.season == 0][-1]]
        )
    truth = np.full(HORIZON, np.nan)
    truth[: max(min(HORIZON, len(z) - origin), 0)] = z[origin : origin + HORIZON]
    target = np.clip((truth - np.array(base)) / unit, -4 * CLIP, 4 * CLIP)
    static = np.concatenate(
        [learnt.static.apply(one.static[None])[0], [trend / unit, np.log(unit / profile.error)]]
    )
    return {
        "past": np.stack(rows),
        "future": features[origin : origin + HORIZON],
        "static": static,
        "target": np.nan_to_num(target),
        "observed": ~np.isnan(target),
        "base": np.array(base),
    }


@pytest.mark.parametrize("seasons", [(7,), (1,), (5,)])
@pytest.mark.parametrize(
    ("index", "origin"), [(0, 16), (0, 33), (0, 56), (0, 60), (0, 63), (1, 40), (1, 70), (1, 77)]
)
def test_a_window_is_what_the_recipe_says(seasons: tuple[int, ...], index: int, origin: int) -> None:
    whole = panel(63, 77)
    prepared = prepare(whole, whole.until(50), seasons)
    found = prepared.example(np.array([(index, origin)]))
    expected = slow_window(whole, prepared.preparation, index, origin)
    for name in ("past", "future", "static", "target"):
        np.testing.assert_allclose(
            getattr(found, name)[0].numpy(), expected[name], rtol=2e-5, atol=2e-5, err_msg=name
        )
    np.testing.assert_array_equal(found.observed[0].numpy(), expected["observed"])
    np.testing.assert_allclose(prepared.base(np.array([(index, origin)]))[0], expected["base"], rtol=1e-10)
    assert found.past.shape[-1] == prepared.preparation.past_size
    assert found.future.shape[-1] == prepared.preparation.future_size
    assert found.static.shape[-1] == prepared.preparation.static_size
    assert found.series.tolist() == [index]


@pytest.mark.parametrize("kind", ["none", "sqrt", "log"])
def test_the_truths_remainder_is_the_truth_in_units_of_the_user(kind: str) -> None:
    whole = panel(63, 77)
    learnt = Preparation.fit(whole, horizon=HORIZON, lookback=LOOKBACK, seasons=(7,))
    profiles = {}
    for one in whole.series:
        transform = replace(learnt.profiles[one.name].transform, kind=kind, scale=0.1)
        profiles[one.name] = fit_profile(one.target, (7,), HORIZON, transform)
    prepared = Prepared(whole, replace(learnt, profiles=profiles), whole.names, whole.frequency)
    windows = prepared.origins([0, 0], prepared.lengths - HORIZON)
    example = prepared.example(windows)
    back = prepared.in_units_of_the_user(windows, example.target.numpy().astype(np.float64)[..., None])
    for row, (index, origin) in enumerate(windows):
        truth = whole.series[index].target[origin : origin + HORIZON]
        seen = ~np.isnan(truth)
        np.testing.assert_array_equal(example.observed[row].numpy(), seen)
        np.testing.assert_allclose(back[row, seen, 0], truth[seen], rtol=1e-5)


def test_quantiles_come_back_in_order_and_above_the_floor() -> None:
    whole = panel(63)
    prepared = prepare(whole)
    crossed = np.random.default_rng(3).normal(size=(1, HORIZON, 5)) * 300
    found = prepared.in_units_of_the_user(np.array([(0, 63)]), crossed)
    assert (np.diff(found, axis=-1) >= 0).all()
    assert found.min() == 0.0  # the series has never been negative


def test_missing_values_are_masked_not_zero() -> None:
    whole = panel(63)
    one = whole.series[0]
    missing = np.flatnonzero(np.isnan(one.target))
    prepared = prepare(whole)
    example = prepared.example(np.array([(0, 40), (0, 60)]))
    for row, origin in enumerate((40, 60)):
        inside = [t for t in missing if origin - LOOKBACK <= t < origin]
        assert inside
        for t in inside:
            assert example.past[row, t - origin + LOOKBACK, :3].tolist() == [0.0, 0.0, 0.0]
        seen = example.past[row, :, 2]
        assert seen.sum() == LOOKBACK - len(inside)
    # a missing value moves no state: the recursions go on as if it had been as expected
    states = prepared.smoothed[0].states
    phi = states.constants.phi
    for t in missing:
        assert states.level[t] == states.level[t - 1] + phi * states.trend[t - 1]
        assert np.isnan(states.error[t])
    # the past covariate was missing at a step: its own flag says so, and only there
    at = 63 // 3
    flags = prepared.example(np.array([(0, at + 3)])).past[0, :, 4]
    assert flags.tolist() == [float(t == at) for t in range(at + 3 - LOOKBACK, at + 3)]


def test_before_the_series_begins_nothing_is_observed() -> None:
    whole = panel(63)
    prepared = prepare(whole, seasons=(1,))
    early = prepared.example(np.array([(0, 9)])).past[0]
    assert (early[: LOOKBACK - 9] == 0).all()
    assert (early[LOOKBACK - 9 :, 2] == 1).all()


def test_unobserved_future_steps_ask_for_nothing() -> None:
    prepared = prepare(panel(63))
    example = prepared.example(np.array([(0, 63), (0, 60)]))
    assert not example.observed[0].any()
    assert (example.target[0] == 0).all()
    assert example.observed[1].tolist() == [True] * 3 + [False] * 4


def test_a_preparation_survives_json() -> None:
    learnt = Preparation.fit(panel(63, 77), horizon=HORIZON, lookback=LOOKBACK, seasons=(7,))
    again = Preparation.from_json(json.loads(json.dumps(learnt.to_json(), allow_nan=False)))
    assert again == learnt


def test_a_series_that_was_not_there_when_learning_gets_a_profile_and_the_spare_identity() -> None:
    learnt = Preparation.fit(panel(63, 77), horizon=HORIZON, lookback=LOOKBACK, seasons=(7,))
    stranger = replace(panel(33), series=(series("new", 33, 9),))
    prepared = Prepared(stranger, learnt, ("s0", "s1"), stranger.frequency)
    example = prepared.example(np.array([(0, 33)]))
    assert example.series.tolist() == [2]
    assert torch.isfinite(example.past).all()
    assert prepared.preparation.profiles["new"] == fit_profile(stranger.series[0].target, (7,), HORIZON)
    assert "new" not in learnt.profiles


def test_identity_goes_by_name_whatever_the_order() -> None:
    whole = panel(63, 77)
    learnt = Preparation.fit(whole, horizon=HORIZON, lookback=LOOKBACK, seasons=(7,))
    turned = whole.select(["s1", "s0"])
    example = Prepared(turned, learnt, whole.names, whole.frequency).example(np.array([(0, 60), (1, 60)]))
    usual = Prepared(whole, learnt, whole.names, whole.frequency).example(np.array([(1, 60), (0, 60)]))
    same(example, usual, ("past", "future", "static", "series", "target", "observed"))


@pytest.mark.parametrize("offset", [0.0, 1e8, -1e8])
def test_swings_of_one_survive_on_a_level_of_a_hundred_million(offset: float) -> None:
    random = np.random.default_rng(13)
    t = np.arange(101)
    swings = np.sin(2 * np.pi * t / 7) + 0.1 * random.normal(size=101)
    plain = Panel.from_arrays({"y": swings + 50}, "D", "2023-01-01")
    high = Panel.from_arrays({"y": swings + 50 + offset}, "D", "2023-01-01")
    learnt = Preparation.fit(plain, horizon=HORIZON, lookback=LOOKBACK, seasons=(7,))
    profile = replace(learnt.profiles["y"], transform=replace(learnt.profiles["y"].transform, kind="none"))
    learnt = replace(learnt, profiles={"y": profile})
    windows = np.array([(0, 60), (0, 90)])
    usual, lifted = (Prepared(p, learnt, ("y",), p.frequency).example(windows) for p in (plain, high))
    np.testing.assert_allclose(lifted.past.numpy(), usual.past.numpy(), atol=1e-4)
    np.testing.assert_allclose(lifted.target.numpy(), usual.target.numpy(), atol=1e-4)
    assert usual.past[..., 1].abs().max() > 0.1


def test_nothing_in_a_batch_is_wild_after_an_outlier() -> None:
    whole = panel(77)
    target = whole.series[0].target.copy()
    target[50] = 1e9
    wild = replace(whole, series=(replace(whole.series[0], target=target),))
    example = prepare(wild, whole).example(np.array([(0, origin) for origin in range(45, 78)]))
    own = example.past[..., :3]
    assert torch.isfinite(example.past).all()
    assert own.abs().max() <= CLIP
    assert example.target.abs().max() <= 4 * CLIP


def test_the_columns_of_states_come_first() -> None:
    prepared = prepare(panel(63))
    covariates = prepared.preparation.past.width
    assert prepared.windows.past.shape[1] == STATES + covariates


def test_scales_of_known_covariates_are_learnt_from_the_history_not_from_what_is_known_ahead() -> None:
    whole = panel(63, 77)
    learnt = Preparation.fit(whole.until(40), horizon=HORIZON, lookback=LOOKBACK, seasons=(7,))
    rows = np.concatenate([one.known[:40] for one in whole.series])
    np.testing.assert_allclose(learnt.known.mean, rows.mean(axis=0))
    np.testing.assert_allclose(learnt.known.spread, rows.std(axis=0))
