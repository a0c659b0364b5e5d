"""What `recurra bench` does: options checked, cases measured one after the other, rows shown as they come."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from recurra.cli.progress import Progress
from recurra.errors import ArgumentError

if TYPE_CHECKING:
    from recurra.bench import Case, Row

BUDGET = 1.5
"""Seconds of timing for each case and phase: the quick selection then takes well under a minute."""


def run(
    parts: Sequence[str], *, every: bool, threads: int | None, budget: str | None, as_json: bool, quiet: bool
) -> None:
    """See :func:`recurra.cli.app.bench`. Exits with 1 where results differ."""
    if every and parts:
        raise ArgumentError("--all and --case exclude each other: give one of them")
    seconds = BUDGET if budget is None else _seconds(budget)
    _check_threads(threads)
    from recurra.bench import CASES, QUICK, choose

    cases = choose(parts) if parts else CASES if every else QUICK
    import torch

    with _threads(torch.get_num_threads() if threads is None else threads) as count:
        rows = _measure(cases, count, seconds, as_json=as_json, quiet=quiet)
    if any(row.differ for row in rows):
        sys.exit(1)


def _measure(cases: Sequence[Case], threads: int, budget: float, *, as_json: bool, quiet: bool) -> list[Row]:
    from recurra.bench import measure, table
    from recurra.bench.compare import peak

    limit = peak(threads)
    about = table.machine(threads, limit)
    lines = not as_json and not _on_terminal()
    rows: list[Row] = []
    if not as_json:
        print(table.heading(about))
    if lines:
        print(table.line(table.COLUMNS), flush=True)
    with Progress(quiet=quiet) as progress:
        for place, case in enumerate(cases):
            progress.log({"stage": "cases", "done": place, "of": len(cases)})
            found = measure(case, threads=threads, budget=budget)
            for row in found if lines else ():
                print(table.line(table.cells(row)), flush=True)
            rows += found
    if as_json:
        machine = {**about, "heading": table.heading(about)}
        document = {"machine": machine, "rows": [table.document(row) for row in rows]}
        print(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
        return rows
    if not lines:
        from rich.console import Console

        console = Console()
        console.print(table.rich_table(rows, console.width))
    for sentence in (*table.LEGEND, *(text for row in rows for text in table.complaints(row))):
        print(sentence)
    return rows


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ArgumentError(
            f"--budget must be a number of seconds above 0, but {text!r} was given: give 2, say"
        )
    return seconds


def _check_threads(threads: int | None) -> None:
    most = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= most:
        raise ArgumentError(
            f"--threads must be from 1 to {most}, the CPUs of this machine, but {threads} was given: "
            "give a number between, or leave it out"
        )


@contextmanager
def _threads(count: int) -> Iterator[int]:
    """torch on this many threads for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)
