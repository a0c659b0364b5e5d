"""Rows as lines of text, as a table for a terminal, as Markdown and as a document for JSON."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recurra.bench.compare import Row
from recurra.bench.contenders import PADDED
from recurra.bench.runtimes import RUNTIMES
from recurra.bench.timing import Spread
from recurra.engine import native

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("case", "phase", "against", "its ms", "recurra ms", "ratio", "% of peak", *RUNTIMES)
WIDTHS = (32, 9, 15, 15, 15, 7, 9, 22, 22)
WIDE = 130
"""Columns of a terminal that has room for the whole table."""
LEFT = 3
"""How many columns, from the first on, hold words and not numbers."""
LEGEND = (
    "Milliseconds: median (least). Ratio: the median of what recurra is held against by recurra's.",
    "Other runtimes: their milliseconds, and their median by recurra's.",
    f"{PADDED}: masks nothing, so its answers are wrong, and they are not compared.",
)


def machine(threads: int, limit: float | None) -> dict[str, Any]:
    """What the figures were measured on. limit: the FMA peak in FLOP/s, or None."""
    return {
        "cpu": _cpu_name(),
        "isa": native.cpu().isa,
        "threads": threads,
        "torch": torch.__version__,
        "peak_gflops": None if limit is None else limit / 1e9,
    }


def heading(about: dict[str, Any]) -> str:
    """The line above the table."""
    isa = about["isa"] if about["isa"] is not None else "no native engine"
    threads = f"{about['threads']} thread{'' if about['threads'] == 1 else 's'}"
    peak = "" if about["peak_gflops"] is None else f", FMA peak {about['peak_gflops']:.0f} GFLOP/s"
    return f"{about['cpu']}, {isa}, {threads}, torch {about['torch']}{peak}"


def cells(row: Row) -> tuple[str, ...]:
    """One text for each of `COLUMNS`."""
    unknown = "differs" if row.differ else "-"
    return (
        row.case,
        row.phase,
        row.against,
        _spread(row.baseline),
        _spread(row.own),
        unknown if row.ratio is None else f"{row.ratio:.2f}",
        "-" if row.share is None else f"{row.share * 100:.0f}",
        *(_other(row, name) for name in RUNTIMES),
    )


def line(texts: Sequence[str]) -> str:
    """One plain line, for what is no terminal."""
    padded = [
        text.ljust(width) if place < LEFT else text.rjust(width)
        for place, (text, width) in enumerate(zip(texts, WIDTHS, strict=True))
    ]
    return " ".join(padded).rstrip()


def complaints(row: Row) -> list[str]:
    """What to say of results that differ."""
    return [f"results differ: {row.case}, {row.phase}, {sentence}" for sentence in row.differ]


def rich_table(rows: Sequence[Row], width: int) -> Table:
    """The table for a terminal of so many columns; a narrow one shows only runtimes that have a time."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    timed = {name for row in rows for name, other in row.others.items() if isinstance(other, Spread)}
    shown = [
        place for place, name in enumerate(COLUMNS) if name not in RUNTIMES or name in timed or width >= WIDE
    ]
    for place in shown:
        table.add_column(COLUMNS[place], justify="left" if place < LEFT else "right", overflow="fold")
    for row in rows:
        texts = cells(row)
        table.add_row(*(texts[place] for place in shown))
    return table


def document(row: Row) -> dict[str, Any]:
    """A row for JSON: milliseconds, null for what is not known."""
    return {
        "case": row.case,
        "phase": row.phase,
        "against": row.against,
        "baseline": _milliseconds(row.baseline),
        "recurra": _milliseconds(row.own),
        "ratio": row.ratio,
        "share_of_peak": row.share,
        "others": {
            name: _milliseconds(other) if isinstance(other, Spread) else other or None
            for name, other in row.others.items()
        },
        "cells": dict(zip(COLUMNS, cells(row), strict=True)),
        "differ": complaints(row),
    }


def _other(row: Row, name: str) -> str:
    """Another runtime's milliseconds and, where recurra's are known, their ratio."""
    other = row.others.get(name, "")
    if not isinstance(other, Spread):
        return other or "-"
    ratio = "" if row.own is None else f" {other.median / row.own.median:.2f}×"
    return f"{_spread(other)}{ratio}"


def _spread(spread: Spread | None) -> str:
    return "-" if spread is None else f"{_number(spread.median * 1e3)} ({_number(spread.least * 1e3)})"


def _number(value: float) -> str:
    """Three digits, or all of those before the point."""
    return (
        f"{value:.{4 if value < 0.1 else 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"
    )


def _milliseconds(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else {"median_ms": spread.median * 1e3, "least_ms": spread.least * 1e3}


def _cpu_name() -> str:
    """The CPU's name as its maker writes it, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
