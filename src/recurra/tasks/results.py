"""What a forecaster and a backtest hand on: plain arrays with names.

Axes: S series, W evaluated windows (one pair of series and origin), Q horizon, K quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas
    import polars

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

    def table(self) -> dict[str, Any]:
        """Long form, S·Q rows: ``unique_id``, ``ds``, ``forecast`` (the median), then a column a quantile."""
        count, horizon, _ = self.values.shape
        columns: dict[str, Any] = {
            "unique_id": [name for name in self.series for _ in range(horizon)],
            "ds": self.stamps.reshape(count * horizon),
            "forecast": self.values[..., self.quantiles.index(0.5)].reshape(-1),
        }
        for index, quantile in enumerate(self.quantiles):
            columns[f"q{quantile:g}"] = self.values[..., index].reshape(-1)
        return columns

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a pandas frame."""
        import pandas

        return pandas.DataFrame(self.table())

    def to_polars(self) -> polars.DataFrame:
        """The table as a Polars frame."""
        import polars

        return polars.DataFrame(self.table())


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
