"""Cells and names as they stand in messages: short, on one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def short(cell: Any, most: int = 40) -> str:
    """A cell in quotation marks, cut where it is long."""
    text = str(cell)
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def several(names: Sequence[str], most: int = 12) -> str:
    """Names joined by commas, the later ones of many left out."""
    shown = ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def counted(number: int, noun: str) -> str:
    """The number and its noun: "1 step", "2 steps"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
