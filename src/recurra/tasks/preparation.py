"""From a panel to the network's batches and back: what is learnt of the data, and the arrays it yields.

Axes: S series, T time, N windows, Q horizon, F features, K quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from recurra.data.calendar import Frequency
from recurra.data.features import calendar_features, calendar_names, usable_cycles
from recurra.data.scale import Standard
from recurra.data.table import Columns, Panel, Series
from recurra.data.windows import Windows
from recurra.errors import DataError
from recurra.tasks.remainder import Profile, base_forecast, first_origin, fit_profile, unroll
from recurra.tasks.segment_lstm import Example

CLIP = 12.0
"""Inputs of the network are held within so many usual errors, its targets within four times as many."""
STATES = 5
"""Columns before the covariates: level, seasonal, trend, unit and error of the smoothing."""


@dataclass(frozen=True)
class Preparation:
    """What is learnt of the training data before the network: all of it plain numbers that JSON can hold."""

    horizon: int
    lookback: int
    seasons: tuple[int, ...]
    cycles: tuple[str, ...]
    profiles: dict[str, Profile]
    past: Standard
    known: Standard
    static: Standard

    @staticmethod
    def fit(
        panel: Panel, *, horizon: int, lookback: int, seasons: tuple[int, ...], calendar: bool = True
    ) -> Preparation:
        """Learn from every row of ``panel``; cut it first (:meth:`Panel.until`) to what may be known."""
        longest = max(panel.series, key=lambda series: len(series.stamps))
        return Preparation(
            horizon=horizon,
            lookback=lookback,
            seasons=seasons,
            cycles=usable_cycles(longest.stamps) if calendar else (),
            profiles={s.name: fit_profile(s.target, seasons, horizon) for s in panel.series},
            past=Standard.fit([s.past for s in panel.series]),
            known=Standard.fit([s.known[: len(s.target)] for s in panel.series]),
            static=Standard.fit([s.static[None] for s in panel.series]),
        )

    def to_json(self) -> dict[str, Any]:
        document = asdict(self)
        document["profiles"] = {name: profile.to_json() for name, profile in self.profiles.items()}
        return document

    @staticmethod
    def from_json(document: dict[str, Any]) -> Preparation:
        standards = {name: Standard.from_json(document[name]) for name in ("past", "known", "static")}
        return Preparation(
            horizon=int(document["horizon"]),
            lookback=int(document["lookback"]),
            seasons=tuple(document["seasons"]),
            cycles=tuple(document["cycles"]),
            profiles={name: Profile.from_json(profile) for name, profile in document["profiles"].items()},
            **standards,
        )

    @property
    def past_size(self) -> int:
        """Features of one past step: remainder, one-step error, observed; covariates; the future's."""
        return 3 + self.past.width + self.future_size

    @property
    def future_size(self) -> int:
        return len(calendar_names(self.cycles)) + self.known.width

    @property
    def static_size(self) -> int:
        """Static covariates, the trend, and how restless the series is now beside usually."""
        return self.static.width + 2

    def with_profiles(self, panel: Panel) -> Preparation:
        """The same, with profiles learnt for those series of ``panel`` that have none yet."""
        new = {
            s.name: fit_profile(s.target, self.seasons, self.horizon)
            for s in panel.series
            if s.name not in self.profiles
        }
        return replace(self, profiles={**self.profiles, **new}) if new else self

    def looks_ahead(self, panel: Panel, windows: np.ndarray) -> np.ndarray:
        """Which of ``windows`` (N, 2) must have their series cut at the origin first: (N,) bool.

        What is estimated on a series as a whole (the start of its smoothing; its profile, where there is
        none yet) would else have seen what lies beyond.
        """
        found = np.zeros(len(windows), dtype=bool)
        for row, (index, origin) in enumerate(windows.tolist()):
            series = panel.series[index]
            profile = self.profiles.get(series.name)
            if origin < len(series.target):
                found[row] = profile is None or origin < first_origin(profile)
        return found

    def with_constants(self, panel: Panel) -> Preparation:
        """The same transforms, with smoothing constants chosen anew on the longer history in ``panel``."""
        known = {name: profile.transform for name, profile in self.profiles.items()}
        again = {
            s.name: fit_profile(s.target, self.seasons, self.horizon, known.get(s.name)) for s in panel.series
        }
        return replace(self, profiles={**self.profiles, **again})


class Prepared:
    """A panel with every state unrolled, ready to be cut into windows at any (series, origin).

    ``names`` are the series the network knows, in the order of its embedding; a series that is not among them
    gets the index after the last. Nothing at or after an origin reaches the inputs of its window, known
    covariates and the calendar excepted.
    """

    def __init__(
        self, panel: Panel, preparation: Preparation, names: Sequence[str], frequency: Frequency
    ) -> None:
        self.panel = panel
        self.preparation = preparation.with_profiles(panel)
        self.lengths = np.array([len(series.target) for series in panel.series])
        order = {name: index for index, name in enumerate(names)}
        self.identity = np.array([order.get(series.name, len(names)) for series in panel.series])
        self.smoothed = [unroll(s.target, self.preparation.profiles[s.name]) for s in panel.series]
        self.usual = np.array([smoothed.profile.error for smoothed in self.smoothed])
        # Float32 windows keep their precision where levels lie far above their swings. The centre is taken
        # where the first window begins: from the whole series, it would round inputs by what is to come.
        self.centre = np.array(
            [float(np.median(s.states.level[: first_origin(s.profile)])) for s in self.smoothed]
        )
        series = [self._columns(index, s, frequency) for index, s in enumerate(panel.series)]
        self.windows = Windows(series, preparation.lookback, preparation.horizon)

    def _columns(self, index: int, series: Series, frequency: Frequency) -> Series:
        """The series as windows are cut from it: centred, in usual errors, its states as columns."""
        preparation, smoothed = self.preparation, self.smoothed[index]
        states, centre, usual = smoothed.states, self.centre[index], self.usual[index]
        steps, horizon = len(series.target), preparation.horizon
        columns = (
            states.level - centre,
            states.seasonal,
            states.trend,
            smoothed.unit,
            np.nan_to_num(states.error),
        )
        end = max(len(series.known), steps + horizon)
        stamps = np.concatenate([series.stamps, frequency.future(series.stamps[-1], end - steps)])
        known = np.full((end, series.known.shape[1]), np.nan)
        known[: len(series.known)] = series.known
        return Series(
            name=series.name,
            stamps=series.stamps,
            target=(smoothed.value - centre) / usual,
            past=np.concatenate(
                [np.stack(columns, axis=1) / usual, preparation.past.apply(series.past)], axis=1
            ),
            known=np.concatenate(
                [calendar_features(stamps, preparation.cycles), preparation.known.apply(known)], axis=1
            ),
            static=preparation.static.apply(series.static[None])[0],
        )

    def origins(self, first: Sequence[int] | np.ndarray, last: Sequence[int] | np.ndarray) -> np.ndarray:
        """Windows with ``first[s]`` ≤ origin ≤ ``last[s]`` and something to learn: (N, 2) series, origin."""
        pairs = []
        for index, series in enumerate(self.panel.series):
            start = max(int(first[index]), first_origin(self.smoothed[index].profile), 1)
            found = np.arange(start, int(last[index]) + 1)
            seen = np.concatenate([[0], np.cumsum(~np.isnan(series.target))])
            ends = np.minimum(found + self.preparation.horizon, len(series.target))
            found = found[(seen[ends] > seen[np.minimum(found, ends)]) & (seen[np.minimum(found, ends)] > 0)]
            pairs.append(np.stack([np.full(len(found), index), found], axis=1))
        return np.concatenate(pairs)

    def base(self, windows: np.ndarray) -> np.ndarray:
        """The smoothing's own forecast on the transformed scale: (N, 2) → (N, Q)."""
        base = np.empty((len(windows), self.preparation.horizon))
        for index in np.unique(windows[:, 0]):
            rows = windows[:, 0] == index
            base[rows] = base_forecast(self.smoothed[index], windows[rows, 1], self.preparation.horizon)
        return base

    def example(self, windows: np.ndarray) -> Example:
        """The batch of ``windows`` (N, 2), as the network takes it."""
        series = torch.from_numpy(windows[:, 0])
        batch = self.windows.at(series, torch.from_numpy(windows[:, 1]))
        level, seasonal, trend, unit, error = batch.past_covariates[..., :STATES].unbind(-1)
        now, step = level[:, -1:], unit[:, -1:]
        observed = batch.past_observed.float()
        remainder = (batch.past_target - now - seasonal) / step * observed
        own = torch.stack([remainder, error / step * observed], dim=-1).clamp(-CLIP, CLIP)
        centre, usual = self.centre[windows[:, 0], None], self.usual[windows[:, 0], None]
        base = torch.from_numpy((self.base(windows) - centre) / usual).float()
        target = ((batch.future_target - base) / step).clamp(-4 * CLIP, 4 * CLIP)
        context = [observed.unsqueeze(-1), batch.past_covariates[..., STATES:], batch.past_known]
        return Example(
            past=torch.cat([own, *context], dim=-1),
            future=batch.future_known,
            static=torch.cat([batch.static, trend[:, -1:] / step, step.log()], dim=-1),
            series=torch.from_numpy(self.identity[windows[:, 0]]),
            target=torch.where(batch.future_observed, target, 0.0),
            observed=batch.future_observed,
        )

    def in_units_of_the_user(self, windows: np.ndarray, remainder: np.ndarray) -> np.ndarray:
        """Quantiles of the remainder (N, Q, K) → of the target, in the user's units, sorted along K."""
        series = windows[:, 0]
        unit = np.array([self.smoothed[index].unit[origin - 1] for index, origin in windows.tolist()])
        z = self.base(windows)[:, :, None] + remainder * unit[:, None, None]
        out = np.empty_like(z)
        for index in np.unique(series):
            rows = series == index
            out[rows] = self.smoothed[index].profile.transform.inverse(z[rows])
        return np.sort(out, axis=-1)


def check_same(panel: Panel, columns: Columns, frequency: Frequency) -> None:
    """Raise DataError where ``panel`` has another frequency or other covariates than was learnt from."""
    if panel.frequency.alias != frequency.alias:
        raise DataError(
            f"the model was fitted on steps of {frequency.alias!r}, but the panel has steps of "
            f"{panel.frequency.alias!r}: give data of the same frequency"
        )
    for role in ("past", "known", "static"):
        wanted, found = (c.spread(getattr(c, role)) for c in (columns, panel.columns))
        if wanted != found:
            raise DataError(
                f"the model was fitted with {role} covariates ({', '.join(wanted) or 'none'}), but the panel "
                f"has ({', '.join(found) or 'none'}): read it with the same columns in the same roles"
            )
