"""Measures a case: first whether all compute the same, then how long each takes, in turns."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from recurra.bench.cases import INFERENCE, Case
from recurra.bench.contenders import RECURRA, Contender, Field, contenders
from recurra.bench.problem import Answer, Problem, difference
from recurra.bench.timing import Spread, interleave
from recurra.engine import native


@dataclass(frozen=True)
class Row:
    """recurra beside one baseline, in one case and phase.

    against: the baseline's name. baseline, own: seconds, None for whose result differs. ratio: the
    baseline's median by recurra's, None where either's result differs.
    share: recurra's part of the peak measured before and after it, 0 to 1, None where that is not known.
    others: of each other runtime its seconds, or why there are none; empty where it was not asked.
    differ: for each contender whose result is not that of float64, a sentence.
    """

    case: str
    phase: str
    against: str
    baseline: Spread | None
    own: Spread | None
    ratio: float | None
    share: float | None
    others: dict[str, Spread | str]
    differ: tuple[str, ...]


def peak(threads: int, dtype: str = "float32") -> float | None:
    """Measured multiply-adds, in FLOP/s, on this many threads; None where the engine cannot tell."""
    found = native.peak(threads, dtype) if native.available() else None
    return None if found is None else 1e9 * found


def measure(case: Case, *, threads: int, budget: float) -> list[Row]:
    """A row for each phase and baseline of ``case``.

    threads: what torch was set to, for the other runtimes. budget: seconds of timing in each phase, exceeded
    where the fewest samples take longer.
    """
    rows: list[Row] = []
    with warnings.catch_warnings():
        # torch says once that its projection has no quick path, which the table says too
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        problem = Problem.of(case)
        reference = problem.reference()
        for phase in case.phases:
            field = contenders(problem, phase, threads)
            with torch.inference_mode(phase == INFERENCE):
                rows += _rows(case, phase, field, reference, budget, threads)
    return rows


def _rows(case: Case, phase: str, field: Field, reference: Answer, budget: float, threads: int) -> list[Row]:
    differ = {one.name: sentence for one in field.present if (sentence := _wrong(one, phase, reference))}
    sound = [one for one in field.present if one.name not in differ]
    before = peak(threads, case.dtype)
    spreads = interleave([one.call for one in sound], budget=budget, pools=[one.pool for one in sound])
    times = dict(zip((one.name for one in sound), spreads, strict=True))
    own = times.get(RECURRA)
    after = peak(threads, case.dtype)  # a machine that others use is not always as quick
    limit = max(before, after) if before is not None and after is not None else None
    others: dict[str, Spread | str] = {
        name: one if isinstance(one, str) else times.get(name, "results differ")
        for name, one in field.others.items()
    }
    rows = []
    for one in field.baselines:
        baseline = times.get(one.name)
        ratio = baseline.median / own.median if baseline is not None and own is not None else None
        share = case.flops(phase) / own.median / limit if own is not None and limit is not None else None
        rivals = {other.name for other in field.baselines} - {one.name}
        concerned = tuple(sentence for name, sentence in differ.items() if name not in rivals)
        rows.append(Row(case.name, phase, one.name, baseline, own, ratio, share, others, concerned))
    return rows


def _wrong(one: Contender, phase: str, reference: Answer) -> str:
    """The sentence about an answer that differs from the reference; empty where it does not."""
    if one.answer is None:
        return ""
    names = [name for name in reference if phase != INFERENCE or not name.startswith("gradient")]
    error, where = difference(one.answer(), reference, names)
    if error <= one.tolerance:
        return ""
    return f"{one.name}: relative error {error:.1e} in {where}, at most {one.tolerance:.1e} allowed"
