"""Transforms and units are reversible, causal and safe on odd series."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recurra.tasks.remainder import Profile, Transform, choose_transform, fit_profile, unroll


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["none", "sqrt", "log"]),
    scale=st.floats(1e-3, 1e3),
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=33),
)
def test_a_transform_and_its_inverse_cancel(kind: str, scale: float, values: list[float]) -> None:
    y = np.array(values)
    transform = Transform(kind, scale)
    np.testing.assert_allclose(transform.inverse(transform.forward(y)), y, rtol=1e-9, atol=1e-9 * scale)
    assert (np.diff(transform.forward(np.sort(y))) >= 0).all()


def test_the_floor_holds() -> None:
    assert Transform("none", floor=0.0).inverse(np.array([-3.0, 2.0])).tolist() == [0.0, 2.0]


def test_swings_that_grow_with_the_level_ask_for_a_logarithm_and_even_ones_do_not() -> None:
    random = np.random.default_rng(5)
    t = np.arange(144)
    growing = np.exp(4 + 0.02 * t + 0.2 * np.sin(t * np.pi / 6) + random.normal(0, 0.02, 144))
    even = 500 + 3 * t + 20 * np.sin(t * np.pi / 6) + random.normal(0, 3, 144)
    assert choose_transform(growing, 12).kind == "log"
    assert choose_transform(even, 12).kind == "none"
    assert choose_transform(-growing, 12).kind == "none"


@pytest.mark.parametrize("y", [np.full(33, 7.0), np.zeros(33), np.full(33, np.nan), np.array([5.0])])
def test_series_without_any_error_get_a_unit_all_the_same(y: np.ndarray) -> None:
    profile = fit_profile(y, (7,), horizon=3)
    assert profile.error > 0
    smoothed = unroll(y, profile)
    assert np.isfinite(smoothed.unit).all()
    assert (smoothed.unit > 0).all()


def test_one_outlier_does_not_blow_up_the_unit() -> None:
    random = np.random.default_rng(7)
    y = 100 + random.normal(0, 1, 201)
    profile = fit_profile(y, (7,), horizon=3)
    calm = unroll(y, profile).unit[150]
    y[150] = 1e6
    assert unroll(y, profile).unit[150] < 1.5 * calm


def test_units_and_states_ignore_what_comes_later() -> None:
    random = np.random.default_rng(11)
    y = np.cumsum(random.normal(0, 1, 101)) + 50
    profile = fit_profile(y[:70], (7,), horizon=5)
    spiked = y.copy()
    spiked[70:] = 1e9
    first, second = unroll(y, profile), unroll(spiked, profile)
    np.testing.assert_array_equal(first.unit[:70], second.unit[:70])
    np.testing.assert_array_equal(first.states.level[:70], second.states.level[:70])


def test_a_profile_survives_json() -> None:
    import json

    profile = fit_profile(np.arange(40.0) + 1, (4,), horizon=4)
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile
