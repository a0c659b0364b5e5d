"""How a run says where it is: a moving line on a terminal, a few plain lines elsewhere, on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

STAGES = {
    "search": "training, last part held back",
    "final": "training on all of the history",
    "follow": "following the newest values",
    "backtest": "forecasts",
}
PLAIN_EVERY = 10.0
"""Seconds between two plain lines of one stage."""


class Progress:
    """A context manager whose :meth:`log` takes the rows that training and backtests report.

    ``label`` says which of a command's fits is running. Nothing is shown where ``quiet``.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.label = ""
        self.live: Any = None
        self.bar: Any = None
        self.stage: tuple[str, str] | None = None
        self.last = 0.0

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self.live = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[detail]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def log(self, row: dict[str, Any]) -> None:
        """Show one row: ``stage`` with ``epoch`` of ``epochs``, or ``done`` of ``of``."""
        stage = str(row["stage"])
        if self.quiet or stage == "follow":
            return
        done, total = row.get("epoch", row.get("done", 0)), row.get("epochs", row.get("of", 1))
        name = STAGES.get(stage, stage) + (f" of {row['method']}" if "method" in row else "")
        detail = _loss(row)
        key = (self.label, name)
        if self.live is not None:
            if key != self.stage:
                self.bar = self.live.add_task(f"{self.label}{name}", total=total, detail="")
            self.live.update(self.bar, completed=done, total=total, detail=detail)
        else:
            now = time.monotonic()
            if key != self.stage:
                self.last = now
            # Baselines take a moment each: they are worth a line only where they take longer.
            if now - self.last >= PLAIN_EVERY or (done == total and "epoch" in row):
                self.last = now
                print(f"{self.label}{name}: {done}/{total} {detail}".rstrip(), file=sys.stderr, flush=True)
        self.stage = key


def _loss(row: dict[str, Any]) -> str:
    parts = []
    for name, word in (("train_loss", "loss"), ("valid_loss", "held back")):
        if row.get(name) is not None:
            parts.append(f"{word} {row[name]:.4f}")
    return " ".join(parts)
