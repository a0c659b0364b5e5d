"""How good the forecasts of a backtest were, and what that says about the model.

The point forecast is the median. Every mean runs over the observed steps of all windows with equal weight;
steps whose actual value is missing count nowhere. `counts` says how many steps a score had to leave out.

| score       | definition over observed steps: y actual, f median, q quantile forecast at level τ         |
|-------------|--------------------------------------------------------------------------------------------|
| MASE        | mean of abs(y − f) / scale (Hyndman & Koehler 2006); windows with scale 0 are left out     |
| sMAPE       | 200 · mean of abs(y − f) / (abs(y) + abs(f)), 0/0 = 0, in % (M4: Makridakis et al. 2020)   |
| MAPE        | 100 · mean of abs(y − f) / abs(y), in percent; steps with y = 0 are left out               |
| RMSE        | root of the mean of (y − f)², in the target's units                                        |
| MAE         | mean of abs(y − f), in the target's units                                                  |
| CRPS        | mean over steps and τ of twice the pinball loss, in the target's units: approximates the   |
|             | continuous ranked probability score (Gneiting & Raftery 2007) on the quantiles there are   |
| wQL         | the same, summed over steps, by the sum of abs(y): the weighted quantile loss              |
| coverage_C  | share of steps inside the central C % interval; C/100 when well calibrated                 |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recurra.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from recurra.tasks.results import Backtest

METRICS = (
    "MASE", "sMAPE", "MAPE", "RMSE", "MAE", "wQL", "CRPS", "coverage_50", "coverage_80", "coverage_95",
)  # fmt: skip
"""The keys of each method's scores, in the order of a table."""

LEVEL = 0.01
"""Two methods whose errors differ by less than this share count as level."""


def scores(backtest: Backtest) -> dict[str, dict[str, float]]:
    """Every score of every method: method → metric → value, NaN where nothing can be said.

    Raises ArgumentError when the quantiles lack the median.
    """
    middle = _median(backtest.quantiles)
    return {
        method: {
            metric: _score(metric, backtest.actual, values, backtest.scale, backtest.quantiles, middle)
            for metric in METRICS
        }
        for method, values in backtest.forecasts.items()
    }


def by_horizon(backtest: Backtest, metric: str) -> dict[str, NDArray[np.float64]]:
    """One score for each step ahead: method → (Q,)."""
    _check(metric)
    middle = _median(backtest.quantiles)
    steps = [slice(step, step + 1) for step in range(backtest.horizon)]
    return {
        method: np.array([
            _score(metric, backtest.actual[:, at], values[:, at], backtest.scale, backtest.quantiles, middle)
            for at in steps
        ])
        for method, values in backtest.forecasts.items()
    }  # fmt: skip


def by_series(backtest: Backtest, metric: str) -> dict[str, NDArray[np.float64]]:
    """One score for each series: method → (S,), NaN for a series without a window."""
    _check(metric)
    middle = _median(backtest.quantiles)
    rows = [np.flatnonzero(backtest.series == index) for index in range(len(backtest.names))]
    return {
        method: np.array([
            _score(metric, backtest.actual[at], values[at], backtest.scale[at], backtest.quantiles, middle)
            for at in rows
        ])
        for method, values in backtest.forecasts.items()
    }  # fmt: skip


def counts(backtest: Backtest) -> dict[str, int]:
    """What the scores rest on: windows, observed steps, and the steps left out and why.

    windows · steps: observed ones · missing: steps without an actual value · zeros: observed zeros, left
    out of MAPE · flat: observed steps of windows whose scale is 0 or unknown, left out of MASE.
    """
    seen = np.isfinite(backtest.actual)
    return {
        "windows": len(backtest.actual),
        "steps": int(seen.sum()),
        "missing": int((~seen).sum()),
        "zeros": int((backtest.actual == 0).sum()),
        "flat": int(seen[~_scaled(backtest.scale)].sum()),
    }


def winner(table: dict[str, dict[str, float]], metric: str = "MASE") -> str | None:
    """The method with the lowest value of an error, or None where it is not known for any."""
    known = {method: row[metric] for method, row in table.items() if np.isfinite(row[metric])}
    return min(known, key=known.__getitem__) if known else None


def verdict(table: dict[str, dict[str, float]]) -> str:
    """In words, whether the model, the first method, loses to a baseline, to which, and by how much.

    Judged by MASE, or by the mean absolute error where MASE is undefined (a constant history).
    """
    model, *baselines = table
    metric, said = ("MASE", "MASE") if np.isfinite(table[model]["MASE"]) else ("MAE", "mean absolute error")
    own = table[model][metric]
    rivals = {name: table[name][metric] for name in baselines if np.isfinite(table[name][metric])}
    if not np.isfinite(own):
        return "No verdict: none of the backtest's steps was observed, so nothing could be compared."
    if not rivals:
        return f"{_capital(model)} reaches {said} {_number(own)}; there was no baseline to compare it with."
    best = min(rivals, key=rivals.__getitem__)
    worse = [name for name in sorted(rivals, key=rivals.__getitem__) if _below(rivals[name], own)]
    pair = f"{said} {_number(own)} against {_number(rivals[best])}"
    if worse:
        others = [name for name in worse if name != best]
        also = f" It also loses to {_listed(others)}." if others else ""
        return f"{_capital(model)} loses to {best}: {pair}{_by(own, rivals[best])}.{also} Prefer {best} here."
    if not _below(own, rivals[best]):
        return f"{_capital(model)} is level with the best baseline, {best}: {pair}."
    if len(rivals) == 1:
        return f"{_capital(model)} beats the baseline, {best}: {pair}{_by(own, rivals[best])}."
    field = "both baselines; the better" if len(rivals) == 2 else f"all {len(rivals)} baselines; the best"
    return f"{_capital(model)} beats {field} of them is {best}: {pair}{_by(own, rivals[best])}."


def loses(table: dict[str, dict[str, float]]) -> bool:
    """Whether any baseline has a clearly lower MASE (or mean absolute error) than the model."""
    model, *baselines = table
    metric = "MASE" if np.isfinite(table[model]["MASE"]) else "MAE"
    return any(_below(table[name][metric], table[model][metric]) for name in baselines)


def _below(left: float, right: float) -> bool:
    """Whether an error is lower than another by more than `LEVEL`; False where either is unknown."""
    return bool(left < right * (1 - LEVEL))


def _by(own: float, rival: float) -> str:
    if min(own, rival) <= 0:
        return ""
    if own > 2 * rival:
        return f", {own / rival:.1f} times the error"
    return f", {abs(own / rival - 1) * 100:.0f} % {'more' if own > rival else 'less'} error"


def _number(value: float) -> str:
    return f"{value:.3f}" if 1e-3 <= value < 100 else f"{value:.4g}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(name: str) -> str:
    return "The model" if name == "model" else name[:1].upper() + name[1:]


def _check(metric: str) -> None:
    if metric not in METRICS:
        raise ArgumentError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}")


def _median(quantiles: Sequence[float]) -> int:
    found = np.flatnonzero(np.isclose(quantiles, 0.5))
    if not len(found):
        raise ArgumentError(f"quantiles: expected the median (0.5) among them, got {list(quantiles)}")
    return int(found[0])


def _scaled(scale: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Windows whose MASE denominator can be divided by, (W,)."""
    return np.isfinite(scale) & (scale > 0)


def _score(
    metric: str,
    actual: NDArray[np.float64],
    values: NDArray[np.float64],
    scale: NDArray[np.float64],
    quantiles: Sequence[float],
    middle: int,
) -> float:
    """One score of one method: actual (W, Q), values (W, Q, K), scale (W,)."""
    used = np.isfinite(actual)
    if metric == "MASE":
        used &= _scaled(scale)[:, None]
    elif metric == "MAPE":
        used &= actual != 0
    if not used.any():
        return float("nan")
    y, q = actual[used], values[used]  # (P,), (P, K): the observed steps
    error = np.abs(y - q[:, middle])
    match metric:
        case "MASE":
            result = np.mean(error / np.broadcast_to(scale[:, None], used.shape)[used])
        case "sMAPE":
            size = np.abs(y) + np.abs(q[:, middle])
            result = 200 * np.mean(np.divide(error, size, out=np.zeros_like(error), where=size > 0))
        case "MAPE":
            result = 100 * np.mean(error / np.abs(y))
        case "RMSE":
            result = np.sqrt(np.mean(error**2))
        case "MAE":
            result = np.mean(error)
        case "CRPS" | "wQL":
            loss = _pinball(y, q, np.asarray(quantiles))
            total = np.sum(np.abs(y))
            if metric == "wQL" and total == 0:
                return float("nan")
            result = np.mean(loss) if metric == "CRPS" else np.sum(loss.mean(axis=1)) / total
        case _:
            return _coverage(y, q, quantiles, int(metric.removeprefix("coverage_")) / 100)
    return float(result)


def _pinball(
    y: NDArray[np.float64], q: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Twice the pinball loss, (P, K): 2 · max(τ (y − q), (τ − 1)(y − q))."""
    above = y[:, None] - q
    loss: NDArray[np.float64] = 2 * np.maximum(levels * above, (levels - 1) * above)
    return loss


def _coverage(
    y: NDArray[np.float64], q: NDArray[np.float64], quantiles: Sequence[float], share: float
) -> float:
    low = np.flatnonzero(np.isclose(quantiles, (1 - share) / 2))
    high = np.flatnonzero(np.isclose(quantiles, (1 + share) / 2))
    if not len(low) or not len(high):
        return float("nan")
    return float(np.mean((q[:, low[0]] <= y) & (y <= q[:, high[0]])))
