"""Runs the command line within the tests' own process, and makes the tables that it is given."""

from __future__ import annotations

import importlib.resources
import io
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from recurra.cli import main

SAMPLE = Path(str(importlib.resources.files("recurra.data") / "sample" / "airpassengers.csv"))
SCRIPT = Path(sys.executable).with_name("recurra")
TINY = ("--horizon", "3", "--epochs", "1", "--members", "1", "--hidden-size", "4")
"""The smallest network that is still one."""
QUICK = (*TINY, "--no-backtest")


@dataclass(frozen=True)
class Said:
    """What a command left: its exit code and what it wrote to either stream."""

    code: int
    out: str
    err: str


class Shell:
    """A user's shell in an empty folder: ``shell("forecast", path, ...)`` runs `recurra` there."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, streams: pytest.CaptureFixture[str]) -> None:
        self.folder, self.patch, self.streams = folder, patch, streams

    def __call__(self, *words: object, stdin: bytes = b"") -> Said:
        self.streams.readouterr()
        self.patch.setattr(sys, "argv", ["recurra", *map(str, words)])
        self.patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = self.streams.readouterr()
        return Said(code, out, err)

    def refused(self, *words: object, stdin: bytes = b"") -> str:
        """The one sentence with which a command refuses; everything on the disk is as it was before."""
        before = contents(self.folder)
        said = self(*words, stdin=stdin)
        assert said.code == 2, said
        assert contents(self.folder) == before
        # What was inferred of the data may have been said before the trouble; nothing else may.
        return sentence(said.err)

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


def sentence(err: str) -> str:
    """The one sentence in ``err``, without who says it."""
    assert "Traceback" not in err, err
    lines = [
        line for line in err.splitlines() if not line.startswith(("forecast: ", "backtest: ", "training"))
    ]
    assert len(lines) == 1, err
    assert err.count("recurra: ") == 1, err
    assert lines[0].startswith("recurra: "), err
    said = lines[0].removeprefix("recurra: ")
    # One sentence, and after a colon or semicolon what to do.
    assert re.search(r"[.!] [A-Z]|\.$", said) is None, said
    assert ": " in said or "; " in said, said
    return said


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below ``folder`` with its bytes; anything else with None."""
    return {
        os.path.relpath(path, folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def monthly(values: list[object], header: str = "month,passengers") -> str:
    """A table of months from January 1949 on."""
    rows = [f"{1949 + k // 12}-{k % 12 + 1:02d},{value}" for k, value in enumerate(values)]
    return "\n".join([header, *rows]) + "\n"


def waves(steps: int) -> list[object]:
    """Whole numbers that rise and fall with the year, and grow."""
    return [100 + 2 * k + (0, 5, 15, 10, 8, 20, 35, 34, 15, -3, -12, 0)[k % 12] for k in range(steps)]
