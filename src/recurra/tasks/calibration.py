"""How much to believe the network, and how wide to draw its intervals: windows held back tell.

Windows overlap, so what counts is not how many there are but how many horizons fit end to end into the
steps they cover: ``held`` back, and ``learnt`` from. Where either is small, what the windows say is pulled
towards a habit.

Axes: N windows, Q horizon, K quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from recurra.tasks.preparation import Prepared
from recurra.tasks.segment_lstm import Example, ForecastNetwork, pinball_loss

TRUSTS = tuple(round(0.1 * step, 1) for step in range(11))
FEWEST_WINDOWS = 8
"""Fewer training windows than this show no spread of the remainder."""
MOST_WINDOWS = 4000
"""Quantiles of the remainder are taken over at most so many training windows."""


def horizons(prepared: Prepared, held: int) -> float:
    """How many horizons, end to end, the series hold before their last ``held`` steps."""
    return float(np.maximum(prepared.lengths - held, 0).sum()) / prepared.preparation.horizon


def spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` indices spread evenly over 0…count − 1."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def remainder_quantiles(prepared: Prepared, windows: np.ndarray, quantiles: tuple[float, ...]) -> Tensor:
    """Quantiles of the smoothing's remainder at each step of the horizon over ``windows`` (N, 2): (Q, K).

    Where the windows are too few to show a spread, the smoothing's own theory says it.
    """
    if len(windows) < FEWEST_WINDOWS:
        return theoretical_quantiles(prepared, quantiles)
    examples = prepared.example(windows[spread(len(windows), MOST_WINDOWS)])
    target = torch.where(examples.observed, examples.target, torch.nan)
    table = torch.nan_to_num(torch.nanquantile(target, torch.tensor(quantiles), dim=0).T)  # (Q, K)
    # The median over a few windows is mostly chance: it is moved back towards the smoothing's own forecast.
    middle = quantiles.index(0.5)
    chance = 2.0 / (horizons(prepared, 0) + 2.0)
    return (table - chance * table[:, middle : middle + 1]).contiguous()


def theoretical_quantiles(prepared: Prepared, quantiles: tuple[float, ...]) -> Tensor:
    """Quantiles of the remainder if one-step errors were independent and normal: (Q, K).

    An error e moves the forecast of j steps later by c_j e, so h steps ahead the variance is 1 + Σ c_j² over
    j < h, in squared usual errors (Hyndman et al. 2008, "Forecasting with Exponential Smoothing", ch. 6).
    """
    steps = np.arange(1, prepared.preparation.horizon)
    variance = np.ones(prepared.preparation.horizon)
    for smoothed in prepared.smoothed:
        c = smoothed.profile.constants
        moved = (
            c.alpha + c.beta * np.cumsum(c.phi**steps) + c.gamma * (steps % c.season == 0) * (c.season > 1)
        )
        variance[1:] += np.cumsum(moved**2) / len(prepared.smoothed)
    normal = np.array([NormalDist().inv_cdf(quantile) for quantile in quantiles])
    return torch.from_numpy(np.sqrt(variance)[:, None] * normal).float()


def judge_trust(network: ForecastNetwork, batches: Sequence[Example], *, held: float, habit: float) -> None:
    """Set the network's ``trust``: the share of its corrections that errs least on windows held back.

    ``habit`` is what few windows are pulled towards.
    """
    corrections, target, observed = _corrections(network, batches)
    losses = [
        pinball_loss(network.start + share * corrections, target, observed, network.quantiles).item()
        for share in TRUSTS
    ]
    weight = held / (held + 4.0)
    if losses[0] == 0.0:  # the smoothing alone is exact, as on a series that never changes
        habit = 0.0
    network.trust.fill_(weight * TRUSTS[int(np.argmin(losses))] + (1.0 - weight) * habit)


def judge_width(
    network: ForecastNetwork,
    batches: Sequence[Example],
    quantiles: tuple[float, ...],
    *,
    held: float,
    habit: Tensor,
) -> None:
    """Set the network's ``widen`` (K,) so that intervals cover what they say on the windows in ``batches``.

    ``habit`` (K,) is what few windows are pulled towards.
    """
    corrections, target, observed = _corrections(network, batches)
    forecast = (network.start + network.trust * corrections).sort(dim=-1).values
    weight = held / (held + 6.0)
    factors = interval_factors(forecast, target, observed, quantiles)
    network.widen.copy_(factors**weight * habit ** (1.0 - weight))


def _corrections(network: ForecastNetwork, batches: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """The members' median corrections, the targets and which are observed, of all batches."""
    with torch.no_grad():
        corrections = torch.cat([network.correction(batch) for batch in batches])
    return (
        corrections,
        torch.cat([batch.target for batch in batches]),
        torch.cat([batch.observed for batch in batches]),
    )


def usual_trust(learnt: float) -> float:
    """The trust before anything is known: the average of two forecasts is a safe bet (Bates & Granger 1969).

    Less than that where little was learnt from.
    """
    return 0.5 * learnt / (learnt + 1.5)


def usual_widening(learnt: float, quantiles: int) -> Tensor:
    """The factors before anything is known, (K,): few windows, which chose the smoothing, flatter it."""
    return torch.full((quantiles,), (1.0 + 1.0 / max(learnt, 1.0)) ** 0.5)


def interval_factors(
    forecast: Tensor, target: Tensor, observed: Tensor, quantiles: tuple[float, ...]
) -> Tensor:
    """How far each quantile must move from the median for its central interval to cover what it says: (K,).

    ``forecast`` (N, Q, K) in order · ``target``, ``observed`` (N, Q). Split conformal prediction (Vovk et al.
    2005) in its multiplicative form: the factor is the needed quantile of |target − median| over the
    interval's half. A quantile without a mirror image among ``quantiles`` stays where it is.
    """
    middle = quantiles.index(0.5)
    median = forecast[..., middle]
    factors = torch.ones(len(quantiles))
    for low in range(middle):
        mirror = [high for high, q in enumerate(quantiles) if abs(q + quantiles[low] - 1.0) < 1e-9]
        if not mirror:
            continue
        high = mirror[0]
        above = (target - median) / (forecast[..., high] - median).clamp(min=1e-6)
        below = (median - target) / (median - forecast[..., low]).clamp(min=1e-6)
        ratio = torch.maximum(above, below)[observed]
        covered = quantiles[high] - quantiles[low]
        # torch.quantile takes at most 16 million numbers; so many tell no more than a few.
        needed = torch.quantile(ratio[:: max(1, len(ratio) // 100_000)], covered).clamp(0.5, 3.0)
        factors[low] = factors[high] = needed
    return factors
