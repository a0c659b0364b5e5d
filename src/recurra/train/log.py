"""Where a run's rows can go."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recurra.train.state import Row


def csv_log(path: str | os.PathLike[str]) -> Callable[[Row], None]:
    """A `log` for :func:`fit`: each epoch's row to a CSV file, which a resumed run continues."""
    place = Path(path)
    started = False

    def log(row: Row) -> None:
        nonlocal started
        earlier: list[dict[str, Any]] = []
        if not started and place.exists():
            with open(place, newline="", encoding="utf-8") as file:
                earlier = [
                    line for line in csv.DictReader(file) if int(line["epoch"]) < int(row["epoch"] or 0)
                ]
        with open(place, "a" if started else "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if not started:
                writer.writeheader()
                writer.writerows(earlier)
            writer.writerow(row)
        started = True

    return log
