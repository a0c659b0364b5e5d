"""Calendar features: where in the day, the week and the year a step lies.

Each cycle is told by a few sines and cosines (its slow harmonics), the day of the week by one column a day,
since a Sunday is no mixture of its neighbours. They are known for any future step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

HARMONICS = {"day": 3, "year": 2}
CYCLE_DAYS = {"day": 1.0, "week": 7.0, "year": 365.25}


def usable_cycles(stamps: np.ndarray) -> tuple[str, ...]:
    """Cycles that ``stamps`` (T,) datetime64 resolve and cover at least twice; none for integer steps."""
    if stamps.dtype.kind != "M" or len(stamps) < 3:
        return ()
    days = (stamps - stamps[0]).astype("timedelta64[s]").astype(np.float64) / 86_400.0
    step = float(np.median(np.diff(days)))
    return tuple(name for name, length in CYCLE_DAYS.items() if step <= length / 3 and days[-1] >= 2 * length)


def calendar_features(stamps: np.ndarray, cycles: Sequence[str]) -> np.ndarray:
    """Features of ``stamps`` (T,): (T, F) float64, columns in the order of :func:`calendar_names`."""
    columns: list[np.ndarray] = []
    if not cycles:
        return np.zeros((len(stamps), 0))
    midnight = stamps.astype("datetime64[D]")
    of_day = (stamps - midnight).astype("timedelta64[s]").astype(np.float64) / 86_400.0
    for cycle in cycles:
        if cycle == "week":
            # 1970-01-01 was a Thursday; Monday is 0.
            weekday = (midnight.astype(np.int64) + 3) % 7
            columns.extend((weekday == day).astype(np.float64) for day in range(7))
            continue
        if cycle == "day":
            phase = of_day
        else:
            year = stamps.astype("datetime64[Y]").astype("datetime64[D]")
            phase = ((midnight - year).astype(np.float64) + of_day) / 365.25
        for harmonic in range(1, HARMONICS[cycle] + 1):
            columns.append(np.sin(2 * np.pi * harmonic * phase))
            columns.append(np.cos(2 * np.pi * harmonic * phase))
    return np.stack(columns, axis=1)


def calendar_names(cycles: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of :func:`calendar_features`."""
    names: list[str] = []
    for cycle in cycles:
        if cycle == "week":
            names.extend(f"weekday {day}" for day in range(7))
        else:
            names.extend(
                f"{function} of {cycle}, harmonic {harmonic}"
                for harmonic in range(1, HARMONICS[cycle] + 1)
                for function in ("sine", "cosine")
            )
    return tuple(names)
