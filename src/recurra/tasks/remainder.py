"""What remains of a series without its own scale, level, trend and season: what the network learns.

    y  → transform →  z  → exponential smoothing (tasks.smoothing) →  (z_{o+h} − base_{o,h}) / usual error

Everything at origin o (index of the first forecast step) is computed from y before o. Every step is
reversible, so quantiles of the remainder become quantiles of y.

Axes: S series, T time, N windows, Q horizon, K quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recurra.tasks.smoothing import Constants, States, choose, extrapolate, smooth

KINDS = ("none", "sqrt", "log")
ERROR_MEMORY = 20.0
"""The usual one-step error is averaged over about so many steps (or three seasons, if longer)."""


@dataclass(frozen=True)
class Transform:
    """A reversible scale on which the swings of a series do not grow with its level.

    ``none``: y · ``sqrt``: sign(y)·√|y| · ``log``: asinh(y / (2 scale)), which is log(y / scale) for y well
    above scale and passes through zero where a logarithm cannot. ``floor``: forecasts are kept at or above
    it.
    """

    kind: str
    scale: float = 1.0
    floor: float | None = None

    def forward(self, y: np.ndarray) -> np.ndarray:
        if self.kind == "log":
            z: np.ndarray = np.arcsinh(y / (2.0 * self.scale))
            return z
        return np.sign(y) * np.sqrt(np.abs(y)) if self.kind == "sqrt" else y

    def inverse(self, z: np.ndarray) -> np.ndarray:
        if self.kind == "log":
            # Beyond ±300 a forecast is lost anyway; sinh would overflow.
            y = 2.0 * self.scale * np.sinh(np.clip(z, -300.0, 300.0))
        else:
            y = np.sign(z) * z**2 if self.kind == "sqrt" else z
        kept: np.ndarray = y if self.floor is None else np.maximum(y, self.floor)
        return kept


def choose_transform(y: np.ndarray, season: int) -> Transform:
    """The transform under which the spread within a season depends least on the level (Guerrero 1993).

    ``y`` (T,) with NaN where missing. Spread over level to the power 1 − λ is computed season by season, λ
    being 1 (none), ½ (sqrt) or 0 (log); the λ whose ratio varies least wins, with a preference for none.
    """
    seen = y[~np.isnan(y)]
    floor = 0.0 if len(seen) and seen.min() >= 0.0 else None
    block = season if season >= 4 else 8
    blocks = [y[at : at + block] for at in range(len(y) % block, len(y) - block + 1, block)]
    blocks = [b[~np.isnan(b)] for b in blocks]
    blocks = [b for b in blocks if len(b) > block // 2]
    if len(blocks) < 3 or not len(seen):
        return Transform("none", floor=floor)
    level = np.array([np.abs(b.mean()) for b in blocks])
    spread = np.array([b.std() for b in blocks])
    kept = level > 0.02 * level.max()
    level, spread = level[kept], spread[kept]
    if len(level) < 3 or spread.max() == 0.0 or seen.min() < -0.05 * np.abs(seen).max():
        return Transform("none", floor=floor)
    ratios = {power: spread / level**power for power in (0.0, 0.5, 1.0)}
    variation = {power: r.std() / r.mean() for power, r in ratios.items()}
    power = min(variation, key=lambda p: variation[p] * (0.95 if p == 0.0 else 1.0))
    kind = {0.0: "none", 0.5: "sqrt", 1.0: "log"}[power]
    typical = float(np.median(np.abs(seen[seen != 0.0])))
    # A strictly positive series gets a true logarithm; zeros and corrections stay near linear.
    scale = typical * (1e-3 if seen.min() > 0.02 * typical else 0.05)
    return Transform(kind, scale if kind == "log" else 1.0, floor)


@dataclass(frozen=True)
class Profile:
    """What was learnt of one series: its transform, smoothing constants and usual one-step error."""

    transform: Transform
    constants: Constants
    error: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(document: dict[str, Any]) -> Profile:
        return Profile(
            Transform(**document["transform"]), Constants(**document["constants"]), float(document["error"])
        )


def fit_profile(
    y: np.ndarray, seasons: Sequence[int], horizon: int, transform: Transform | None = None
) -> Profile:
    """Learn the profile of ``y`` (T,), NaN where missing, from all of it."""
    if transform is None:
        transform = choose_transform(
            y, max(seasons, default=1) if len(seasons) == 1 else min(seasons, default=1)
        )
    z = transform.forward(y)
    constants = choose(z, seasons, horizon)
    error = smooth(z, constants).error
    error = error[min(2 * constants.season, len(error) // 2) :]
    error = error[~np.isnan(error)]
    usual = float(np.sqrt(np.mean(error**2))) if len(error) else 0.0
    spread = float(np.nanstd(z)) if np.any(~np.isnan(z)) else 0.0
    # A constant series has no error to scale by; any positive unit does.
    return Profile(transform, constants, max(usual, 1e-6 * spread) or 1.0)


@dataclass(frozen=True)
class Smoothed:
    """One series with its states, all (T,) float64; entry t is known once y_t is.

    ``value`` transformed target z · ``states`` of the smoothing · ``unit`` the usual one-step error at t.
    """

    profile: Profile
    value: np.ndarray
    states: States
    unit: np.ndarray


def unroll(y: np.ndarray, profile: Profile) -> Smoothed:
    """Run a profile over ``y`` (T,)."""
    z = profile.transform.forward(y)
    states = smooth(z, profile.constants)
    memory = max(ERROR_MEMORY, 3.0 * profile.constants.season)
    rate = 1.0 / memory
    variance = profile.error**2
    recent = variance
    unit = np.empty(len(y))
    for t, error in enumerate(states.error.tolist()):
        if error == error:
            # One outlier may not blow up the unit: errors count up to five units.
            recent += rate * (min(error * error, 25.0 * recent) - recent)
        unit[t] = (0.5 * variance + 0.5 * max(recent, 0.01 * variance)) ** 0.5
    return Smoothed(profile, z, states, unit)


def base_forecast(smoothed: Smoothed, origins: np.ndarray, horizon: int) -> np.ndarray:
    """The smoothing's own forecast, on the transformed scale, from each of ``origins`` (N,): (N, Q)."""
    return extrapolate(smoothed.states, origins, horizon)


def first_origin(profile: Profile) -> int:
    """The first origin whose states owe nothing to later values: two seasons or eight steps start them."""
    return max(2 * profile.constants.season, 8)
