"""Times calls beside each other: A B C A B C …, each as warm as the others, until the budget is spent."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 7
"""The fewest samples whose median is worth printing."""
WARM = 1
"""Calls of each before the one by which its samples are planned: two untimed calls of each at least."""
SAMPLE = 1e-3
"""Seconds: a sample is at least this long, so that the clock and the loop do not matter."""
SETTLE = 5e-3
"""Seconds after which the threads of a runtime that has done its work no longer spin."""


class Spread(NamedTuple):
    """Seconds of one call: the median and the least of the samples."""

    median: float
    least: float


def interleave(
    calls: Sequence[Callable[[], object]],
    *,
    budget: float,
    pools: Sequence[str] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Spread]:
    """Seconds of one call of each, from at least `ROUNDS` rounds in which they take turns.

    A sample is one call, or as many as take `SAMPLE`. budget: seconds, warming included, after which no round
    begins once there are enough. The garbage collector waits meanwhile.

    pools: whose threads a call runs on. Where these are not all the same, the threads of one runtime may
    still spin when the next one begins. So there is a pause between two runtimes, and since threads fall
    asleep in it, every sample then begins with a call that is not timed.
    """
    owners = list(pools) if pools is not None else [""] * len(calls)
    several = len(set(owners)) > 1
    samples: list[list[float]] = [[] for _ in calls]
    with _no_collector():
        end = clock() + budget
        repeats = _warm(calls, clock)
        last = owners[-1] if owners else ""
        while calls and (len(samples[-1]) < ROUNDS or clock() < end):
            for call, count, owner, seconds in zip(calls, repeats, owners, samples, strict=True):
                if several:
                    if owner != last:
                        time.sleep(SETTLE)
                    last = owner
                    call()
                seconds.append(_sample(call, count, clock))
    return [Spread(statistics.median(seconds), min(seconds)) for seconds in samples]


def _warm(calls: Sequence[Callable[[], object]], clock: Callable[[], float]) -> list[int]:
    """Call each equally often, then find how many calls of each make a sample, and run one such sample."""
    for _ in range(WARM):
        for call in calls:
            call()
    repeats = [math.ceil(SAMPLE / max(_guess(call, clock), 1e-7)) for call in calls]
    for call, count in zip(calls, repeats, strict=True):
        if count > 1:
            _sample(call, count, clock)
    return repeats


def _guess(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """About how long a call takes; the least of five where an interruption would misjudge it."""
    first = _sample(call, 1, clock)
    return first if first >= SAMPLE else min(first, *(_sample(call, 1, clock) for _ in range(4)))


def _sample(call: Callable[[], object], count: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(count):
        call()
    return (clock() - start) / count


@contextmanager
def _no_collector() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
