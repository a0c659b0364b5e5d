"""Defaults of the forecaster, chosen from how much data there is and how long its season is.

The recipes are those of the literature for three sizes of data: one short series wants a small network, many
members and a start close to exponential smoothing (Smyl 2020); a long series or a panel wants segments of a
season, a wider state and few passes (SegRNN, arXiv:2308.11200).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from recurra.data.table import Panel
from recurra.errors import ArgumentError, DataError

SMALL, LARGE = 600, 6000
"""Training windows below which data count as few, and above which as many."""
LONG_SEASON = 200
"""A season longer than this (a year of days) is left to the calendar: no lookback can hold two of it."""
MOST_SEGMENTS = 32


@dataclass(frozen=True)
class Plan:
    """Every number that training needs. ``steps`` is the number of batches an epoch has at most."""

    lookback: int
    segment: int
    hidden_size: int
    members: int
    epochs: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    dropout: float
    schedule: Literal["hold", "cosine"]
    patience: int | None
    learn_spread: bool
    refit: bool
    validation: int
    seasons: tuple[int, ...]
    calendar: bool
    follow: bool


def _lookback(length: int, horizon: int, season: int, seasons: tuple[int, ...]) -> int:
    """Whole seasons, enough for the horizon, and never more than the history can spare."""
    wanted = min(length // 8, max(14 * season, 4 * horizon, 96))
    wanted = max(wanted, 2 * season if season <= LONG_SEASON else 0, 8)
    for longer in seasons:
        # Two of a longer season, such as the week of hourly data, where there are plenty of them.
        if longer <= LONG_SEASON and length > 20 * longer:
            wanted = max(wanted, 2 * longer)
    spare = max(length - 2 * horizon - season, 2)
    wanted = min(wanted, spare)
    return max(wanted // season * season, 1) if wanted >= season else max(wanted, 1)


def _segment(season: int, lookback: int) -> int:
    """Steps that the LSTM reads at once: a season, or whole parts of it, so that four to thirty remain."""
    if 4 <= season <= 24 and lookback >= 2 * season:
        size = season
    elif season > 24:
        size = next((part for part in range(24, 5, -1) if season % part == 0), 24)
    else:
        size = max(1, min(24, -(-lookback // 8)))
    while lookback / size > MOST_SEGMENTS:
        size += season if 4 <= season <= 24 else size
    return max(1, min(size, lookback))


def choose_plan(panel: Panel, horizon: int, season: int | None = None, lookback: int | None = None) -> Plan:
    """The plan for ``panel`` (S series), see :class:`Plan`.

    Raises DataError where the longest series cannot hold one training window, naming the least length.
    """
    lengths = [len(series.target) for series in panel.series]
    longest = max(lengths)
    least = horizon + 4
    if longest < least:
        raise DataError(
            f"the longest series has {longest} steps, but --horizon {horizon} needs at least {least}: "
            "shorten the horizon or give more history"
        )
    seasons = (season,) if season is not None else panel.frequency.seasons
    seasons = tuple(s for s in seasons if longest >= 2 * s + 2) or (1,)
    main = seasons[0]
    back = _lookback(longest, horizon, main, seasons) if lookback is None else min(lookback, longest)
    windows = sum(max(length - horizon - 2 * main, 1) for length in lengths)
    validation = max(horizon + min(horizon, 12), min(longest // 6, 40 * max(horizon, main)))
    validation = min(validation, max((longest - horizon) // 3, 0))
    plan = Plan(
        lookback=back,
        segment=_segment(main, back),
        hidden_size=64,
        members=3,
        epochs=25,
        steps=100,
        batch_size=64,
        learning_rate=1e-3,
        weight_decay=1e-3,
        dropout=0.1,
        schedule="hold",
        patience=5,
        learn_spread=True,
        refit=True,
        validation=validation,
        seasons=seasons,
        calendar=windows >= SMALL,
        follow=windows < SMALL,
    )
    if windows < SMALL:
        # A handful of validation windows cannot tell a good epoch from a lucky one: all epochs are run.
        return replace(
            plan,
            hidden_size=32,
            members=5,
            epochs=100,
            batch_size=32,
            learning_rate=2e-3,
            weight_decay=1e-2,
            dropout=0.2,
            schedule="cosine",
            patience=None,
            learn_spread=False,
        )
    if windows > LARGE:
        return replace(
            plan,
            hidden_size=128,
            members=2,
            epochs=20,
            steps=150,
            learning_rate=5e-4,
            dropout=0.3,
            refit=False,
        )
    return plan


def with_arguments(plan: Plan, **given: float | int | None) -> Plan:
    """``plan`` with the user's own numbers in place. Raises ArgumentError for one that makes no sense."""
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        _check_positive(name, value, whole=name != "learning_rate")
    return replace(plan, **chosen)  # type: ignore[arg-type]


def _check_positive(name: str, value: float, *, whole: bool) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
        raise ArgumentError(f"{name} must be a positive {'whole ' * whole}number, but {value!r} was given")
