"""Defaults from the data's size and season, and the user's own numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recurra.data.table import Panel
from recurra.errors import ArgumentError, DataError
from recurra.tasks.plan import LARGE, LONG_SEASON, MOST_SEGMENTS, SMALL, choose_plan, with_arguments


def panel(*lengths: int, frequency: str = "step") -> Panel:
    start: str | int = 0 if frequency == "step" else "2001-01-01"
    return Panel.from_arrays({f"s{i}": np.ones(n) for i, n in enumerate(lengths)}, frequency, start)


def test_more_data_make_a_larger_network_with_fewer_members_and_epochs() -> None:
    small, middle, large = (
        choose_plan(panel(length, frequency="h"), 24) for length in (SMALL - 100, LARGE // 2, 3 * LARGE)
    )
    assert small.hidden_size < middle.hidden_size < large.hidden_size
    assert small.members > middle.members > large.members
    assert small.epochs > middle.epochs >= large.epochs
    assert small.follow
    assert not middle.follow
    assert not large.follow
    assert (small.patience, small.schedule) == (None, "cosine")
    assert middle.patience is not None
    assert (small.refit, middle.refit, large.refit) == (True, True, False)
    assert (small.learn_spread, middle.learn_spread, large.learn_spread) == (False, True, True)
    assert (small.calendar, middle.calendar, large.calendar) == (False, True, True)


def test_many_short_series_count_as_much_data() -> None:
    one, many = panel(101, frequency="MS"), panel(*[101] * 63, frequency="MS")
    assert choose_plan(many, 12).hidden_size > choose_plan(one, 12).hidden_size
    assert choose_plan(many, 12).lookback == choose_plan(one, 12).lookback


def test_air_passengers_gets_two_years_and_segments_of_a_year() -> None:
    plan = choose_plan(panel(144, frequency="MS"), 12)
    assert plan.seasons == (12,)
    assert plan.lookback % 12 == 0
    assert plan.lookback >= 24
    assert plan.segment == 12


@settings(max_examples=150)
@given(
    alias=st.sampled_from(["step", "YS", "QS", "MS", "W-SUN", "D", "B", "h", "15min"]),
    length=st.integers(5, 250) | st.integers(250, 4000),
    horizon=st.sampled_from([1, 3, 7, 13, 63, 96, 720]),
    season=st.none() | st.integers(1, 400),
)
def test_every_plan_fits_its_data(alias: str, length: int, horizon: int, season: int | None) -> None:
    length = min(length, {"YS": 250, "QS": 1000, "MS": 3000}.get(alias, length))  # stamps end in 2262
    if length < horizon + 4:
        with pytest.raises(DataError, match=f"needs at least {horizon + 4}"):
            choose_plan(panel(length, frequency=alias), horizon, season)
        return
    plan = choose_plan(panel(length, frequency=alias), horizon, season)
    assert 1 <= plan.segment <= plan.lookback < length
    assert plan.lookback <= MOST_SEGMENTS * plan.segment
    assert 0 <= plan.validation <= max((length - horizon) // 3, 0)
    assert plan.seasons
    assert all(s == 1 or 2 * s + 2 <= length for s in plan.seasons)
    if season is not None:
        assert plan.seasons == (season if 2 * season + 2 <= length else 1,)
    main = plan.seasons[0]
    if plan.lookback >= main > 1:
        assert plan.lookback % main == 0


def test_a_season_longer_than_the_history_is_left_out() -> None:
    assert choose_plan(panel(100, frequency="h"), 12).seasons == (24,)
    assert choose_plan(panel(400, frequency="h"), 12).seasons == (24, 168)
    assert choose_plan(panel(40, frequency="h"), 12).seasons == (1,)
    assert choose_plan(panel(100, frequency="MS"), 12, season=63).seasons == (1,)


def test_no_lookback_holds_two_of_a_very_long_season() -> None:
    plan = choose_plan(panel(2000, frequency="D"), 30, season=365)
    assert plan.seasons == (365,)
    assert LONG_SEASON < 365
    assert plan.lookback < 2 * 365


@pytest.mark.parametrize("horizon", [1, 7, 13, 96])
def test_too_short_a_history_names_the_least(horizon: int) -> None:
    with pytest.raises(DataError) as caught:
        choose_plan(panel(3, 2), horizon)
    text = str(caught.value)
    assert f"the longest series has 3 steps, but --horizon {horizon} needs at least {horizon + 4}" in text
    assert "\n" not in text
    choose_plan(panel(horizon + 4, 1), horizon)  # the least it named is enough


def test_the_users_numbers_are_taken_as_they_are() -> None:
    plan = choose_plan(panel(144, frequency="MS"), 12, season=7, lookback=33)
    assert (plan.seasons, plan.lookback) == ((7,), 33)
    given = {"hidden_size": 7, "members": 1, "epochs": 3, "batch_size": 5, "learning_rate": 0.02}
    changed = with_arguments(plan, **given)
    assert {name: getattr(changed, name) for name in given} == given
    assert with_arguments(plan, hidden_size=None, epochs=None) == plan


@pytest.mark.parametrize("name", ["hidden_size", "members", "epochs", "batch_size", "learning_rate"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "7", 2.5])
def test_numbers_that_make_no_sense_are_refused(name: str, value: Any) -> None:
    plan = choose_plan(panel(99), 7)
    if name == "learning_rate" and value == 2.5:
        assert with_arguments(plan, learning_rate=2.5).learning_rate == 2.5
        return
    with pytest.raises(ArgumentError, match=f"{name} must be a positive"):
        with_arguments(plan, **{name: value})
