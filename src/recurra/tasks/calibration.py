"""How much to believe the network, and how wide to draw its intervals: told by windows held back from
training.

Windows overlap, so what counts is not how many there are but how many horizons fit end to end into the
steps they cover: ``held`` back, and ``learnt`` from. Where either is small, what the windows say is pulled
towards a habit.

Axes: N windows, Q horizon, K quantiles, M members.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recurra.tasks.preparation import Prepared
from recurra.tasks.segment_lstm import Example, ForecastNetwork, pinball_loss

TRUSTS = tuple(round(0.1 * step, 1) for step in range(11))
MOST_WINDOWS = 4000
"""Quantiles of the remainder are taken over at most so many training windows."""


def horizons(prepared: Prepared, held: int) -> float:
    """How many horizons, end to end, the series hold before their last ``held`` steps."""
    return float(np.maximum(prepared.lengths - held, 0).sum()) / prepared.preparation.horizon


def spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` indices spread evenly over 0…count − 1."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def remainder_quantiles(prepared: Prepared, windows: np.ndarray, quantiles: tuple[float, ...]) -> Tensor:
    """Quantiles of the smoothing's remainder at each step of the horizon over ``windows`` (N, 2): (Q, K)."""
    examples = prepared.example(windows[spread(len(windows), MOST_WINDOWS)])
    target = torch.where(examples.observed, examples.target, torch.nan)
    table = torch.nan_to_num(torch.nanquantile(target, torch.tensor(quantiles), dim=0).T)  # (Q, K)
    # The median over a few windows is mostly chance: it is moved back towards the smoothing's own forecast.
    middle = quantiles.index(0.5)
    chance = 2.0 / (horizons(prepared, 0) + 2.0)
    return (table - chance * table[:, middle : middle + 1]).contiguous()


def middle_correction(network: ForecastNetwork, batch: Example) -> Tensor:
    """The members' median correction, (N, Q, K) or (N, Q, 1)."""
    return torch.quantile(network(batch.past, batch.future, batch.static, batch.series), 0.5, dim=0)


def choose_trust(
    start: Tensor,
    corrections: Tensor,
    target: Tensor,
    observed: Tensor,
    quantiles: Tensor,
    *,
    held: float,
    learnt: float,
) -> float:
    """The share of the corrections to add to ``start`` (Q, K): what errs least on windows held back, and a
    habit.

    ``corrections`` (N, Q, K) or (N, Q, 1) · ``target``, ``observed`` (N, Q). The habit is the average of two
    forecasts, the safer bet where little is known (Bates & Granger 1969), and less where little was learnt
    from.
    """
    losses = [
        pinball_loss(start + trust * corrections, target, observed, quantiles).item() for trust in TRUSTS
    ]
    weight = held / (held + 4.0)
    habit = 0.5 * learnt / (learnt + 1.5)
    return weight * TRUSTS[int(np.argmin(losses))] + (1.0 - weight) * habit


def interval_factors(
    forecast: Tensor,
    target: Tensor,
    observed: Tensor,
    quantiles: tuple[float, ...],
    *,
    held: float,
    learnt: float,
) -> Tensor:
    """How far each quantile must move from the median for its central interval to cover what it says: (K,).

    ``forecast`` (N, Q, K) in order · ``target``, ``observed`` (N, Q). Split conformal prediction (Vovk et
    al. 2005) in its multiplicative form: the factor is the needed quantile of |target − median| over the
    interval's half. A quantile without a mirror image among ``quantiles`` stays where it is.
    """
    weight = held / (held + 6.0)
    # Remainders of the same few windows that chose the smoothing constants are a little small.
    habit = (1.0 + 1.0 / max(learnt, 1.0)) ** 0.5
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
        factors[low] = factors[high] = needed**weight * habit ** (1.0 - weight)
    return factors
