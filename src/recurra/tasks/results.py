"""What a forecaster and a backtest hand on: plain arrays with names.

Axes: S series, W evaluated windows (one pair of series and origin), Q horizon, K quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

QUANTILES = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
"""The median and the bounds of the central 50, 80 and 95 % intervals."""


@dataclass(frozen=True)
class Forecast:
    """Quantile forecasts of every series from its last observed step.

    ``stamps`` (S, Q) datetime64 or int64 · ``values`` (S, Q, K) in the target's own units, not decreasing
    along K.
    """

    series: tuple[str, ...]
    stamps: np.ndarray
    quantiles: tuple[float, ...]
    values: np.ndarray


@dataclass(frozen=True)
class Backtest:
    """Forecasts made from past origins, beside what then happened.

    ``series`` (W,) int index of the series · ``origin`` (W,) int index, in its series, of the first
    forecast step · ``stamps`` (W, Q) · ``actual`` (W, Q), NaN where nothing was observed · ``scale`` (W,)
    the denominator of MASE: mean absolute error of the seasonal naive forecast over the history before the
    first origin · ``forecasts`` method → (W, Q, K) · ``seconds`` method → time that all its forecasts took.
    The first method is the model; the others are baselines.
    """

    horizon: int
    season: int
    quantiles: tuple[float, ...]
    names: tuple[str, ...]
    series: np.ndarray
    origin: np.ndarray
    stamps: np.ndarray
    actual: np.ndarray
    scale: np.ndarray
    forecasts: dict[str, np.ndarray]
    seconds: dict[str, float]

    @property
    def model(self) -> str:
        """Name of the method under test."""
        return next(iter(self.forecasts))
