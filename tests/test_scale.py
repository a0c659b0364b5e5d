"""The scale of covariates: fitted on what it is given, safe on odd columns, missing values never
silently zero.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurra.data.scale import FURTHEST, Standard


def test_training_rows_get_mean_zero_and_spread_one() -> None:
    random = np.random.default_rng(3)
    rows = [random.normal(50, 9, (33, 3)), random.normal(20, 2, (63, 3))]
    scaled = Standard.fit(rows).apply(np.concatenate(rows))
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-12)


def test_a_column_that_is_ever_missing_gets_a_flag_of_its_own() -> None:
    rows = np.array([[1.0, np.nan, 5.0], [3.0, 4.0, 5.0], [2.0, 8.0, np.nan]])
    scale = Standard.fit([rows])
    scaled = scale.apply(rows)
    assert scale.missing == (False, True, True)
    assert scaled.shape == (3, scale.width) == (3, 5)
    assert scaled[:, 3].tolist() == [1, 0, 0]
    assert scaled[:, 4].tolist() == [0, 0, 1]
    assert scaled[0, 1] == 0
    assert scaled[2, 2] == 0


@pytest.mark.parametrize("value", [0.0, 7.0, -1e12, 0.1])
def test_constant_and_unseen_columns_stay_finite(value: float) -> None:
    rows = np.stack([np.full(33, value), np.full(33, np.nan)], axis=1)
    scale = Standard.fit([rows])
    assert scale.spread == (1.0, 1.0)
    np.testing.assert_allclose(scale.apply(rows)[:, :2], 0, atol=1e-3)


def test_one_enormous_value_is_held() -> None:
    scale = Standard.fit([np.arange(9.0)[:, None]])
    assert scale.apply(np.array([[1e30], [-1e30]])).ravel().tolist() == [FURTHEST, -FURTHEST]


@given(
    st.lists(
        st.lists(st.floats(-1e9, 1e9) | st.just(math.nan), min_size=2, max_size=2), min_size=1, max_size=33
    )
)
def test_a_scale_survives_json_and_never_yields_nan(table: list[list[float]]) -> None:
    rows = np.array(table)
    scale = Standard.fit([rows])
    assert Standard.from_json(json.loads(json.dumps(scale.to_json()))) == scale
    assert np.isfinite(scale.apply(rows)).all()


def test_no_columns_are_no_trouble() -> None:
    scale = Standard.fit([np.zeros((7, 0))])
    assert scale.apply(np.zeros((5, 0))).shape == (5, 0)
