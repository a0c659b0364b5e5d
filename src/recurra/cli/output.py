"""Where a command writes: a folder beside the one asked for, renamed when all of it is there."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recurra.errors import ArgumentError, Interrupted, RecurraError

WRITTEN = {
    "forecast.csv", "metrics.json", "report.html", "model.safetensors", "history.csv",
    ".DS_Store", "Thumbs.db", "desktop.ini",
}  # fmt: skip
"""The files of a finished run, and those that systems add. A folder with others is not ours to replace."""
ARGUMENTS = "run.json"
"""In an unfinished run: the arguments that it was started with."""


class Output:
    """The folder ``path`` that a command was asked to write, and ``work``, the one that it writes meanwhile.

    Raises ArgumentError where ``path`` or an unfinished run of it exists and neither ``overwrite`` nor
    ``resume`` was asked for, where it cannot be a folder, and where replacing it would lose other files.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.path, self.overwrite, self.resume = path, overwrite, resume
        if overwrite and resume:
            raise ArgumentError("--overwrite and --resume exclude each other: give one of them")
        if path.name in ("", ".."):
            raise ArgumentError(f"--out {path} is a folder that you work in: give the name of a new one")
        if os.path.lexists(path) and not path.is_dir():
            raise ArgumentError(f"--out {path} is a file, but a folder is written: give another name")
        if path.exists() and not (overwrite or resume):
            raise ArgumentError(
                f"--out {path} exists already: add --overwrite to replace it, or give another name"
            )
        parent = path.absolute().parent
        if not parent.is_dir():
            raise ArgumentError(
                f"--out {path}: there is no folder {parent} to write it into: create that first"
            )
        self.work = path.with_name(path.name + ".partial")
        if self.work.exists() and not (overwrite or resume):
            raise ArgumentError(
                f"--out {path} was begun by a run that did not finish ({self.work}): add --resume to go on "
                "with it, or --overwrite to start anew"
            )
        if not self.finished:
            self._check_ours()

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to resume."""
        return self.resume and self.path.exists() and not self.work.exists()

    def _check_ours(self) -> None:
        """Raise ArgumentError where what would be replaced or removed is not from recurra."""
        for folder in (self.path, self.work):
            names = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
            if folder == self.work and ARGUMENTS in names:
                continue
            others = [name for name in names if name not in WRITTEN and not name.endswith(".partial")]
            if others:
                raise ArgumentError(
                    f"--out {self.path}: the folder {folder} holds files that recurra did not write, such as "
                    f"{others[0]}, so it is not replaced: give another name"
                )

    @contextmanager
    def open(self, arguments: Mapping[str, Any]) -> Iterator[Path]:
        """The work folder, renamed at the end; removed after an error, but left for --resume after Ctrl-C.

        ``arguments``, option → JSON value, are all that decides what is written. Raises ArgumentError where
        the unfinished run was started with others.
        """
        if self.overwrite and self.work.exists():
            shutil.rmtree(self.work)
        existed = self.work.exists()
        try:
            self.work.mkdir(exist_ok=True)
            for leftover in self.work.glob("*.partial"):
                leftover.unlink()  # what a writer that was killed left behind
            self._check_same(arguments)
            yield self.work
            (self.work / ARGUMENTS).unlink()
            self._rename()
        except (KeyboardInterrupt, Interrupted) as stop:
            raise Interrupted(
                f"stopped; what was done so far is kept in {self.work}: give the same command with "
                "--resume to go on"
            ) from stop
        except OSError as error:
            self._discard(existed)
            raise RecurraError(f"{self.path} could not be written: {_reason(error)}") from error
        except BaseException:
            self._discard(existed)
            raise

    def _check_same(self, arguments: Mapping[str, Any]) -> None:
        """Compare ``arguments`` with those of the unfinished run, or note them down for later ones."""
        note = self.work / ARGUMENTS
        now = json.loads(json.dumps(arguments))
        if not note.exists():
            write_text(note, json.dumps(now, indent=1) + "\n")
            return
        try:
            then = dict(json.loads(note.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ArgumentError(
                f"{note} is damaged, so the run cannot be resumed: add --overwrite instead"
            ) from error
        for name in now:
            if then.get(name) != now[name]:
                what = (
                    "other data"
                    if name == "data"
                    else f"{name} {_words(then.get(name))}, not {name} {_words(now[name])}"
                )
                raise ArgumentError(
                    f"--resume: the unfinished run in {self.work} was started with {what}: give the same "
                    "again, or --overwrite instead of --resume to start anew"
                )

    def _discard(self, existed: bool) -> None:
        """Leave nothing half-written; but an unfinished run that was there before is the user's to keep."""
        if not existed:
            shutil.rmtree(self.work, ignore_errors=True)

    def _rename(self) -> None:
        if not self.path.exists():
            os.replace(self.work, self.path)
            return
        old = self.path.with_name(f".{self.path.name}.{os.getpid()}.old")
        os.replace(self.path, old)
        try:
            os.replace(self.work, self.path)
        except BaseException:
            os.replace(old, self.path)
            raise
        if old.is_symlink():
            old.unlink()
        else:
            shutil.rmtree(old)


def say_finished(output: Output, *, as_json: bool) -> None:
    """Tell that there is nothing left to resume."""
    said = f"{output.path} is finished already; there is nothing to resume"
    document = json.dumps({"out": str(output.path), "notes": [said]}, indent=1, ensure_ascii=False)
    print(document if as_json else said)


def history_csv(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The rows of each stage of a training, one for each epoch, as CSV."""
    text = io.StringIO()
    names = ["stage", "epoch", "epochs", "step", "train_loss", "valid_loss", "learning_rate", "seconds"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for stage, rows in history.items():
        writer.writerows({"stage": stage, **row} for row in rows)
    return text.getvalue()


def check_file(path: Path, *, overwrite: bool) -> None:
    """Raise ArgumentError where ``--out`` cannot be a new file, before any time is spent."""
    if path.is_dir() or path.name in ("", ".."):
        raise ArgumentError(
            f"--out {path} is a folder, but a file is written: give a file's name, such as next.csv"
        )
    # of /dev even links to files, such as stdout, which a rename would replace for everyone
    if (path.exists() and not path.is_file()) or path.absolute().parent == Path("/dev"):
        raise ArgumentError(
            f"--out {path} is a device or a pipe, but a file is written: give a file's name, such as next.csv"
        )
    if os.path.lexists(path) and not overwrite:
        raise ArgumentError(
            f"--out {path} exists already: add --overwrite to replace it, or give another name"
        )
    parent = path.absolute().parent
    if not parent.is_dir():
        raise ArgumentError(f"--out {path}: there is no folder {parent} to write it into: create that first")


def write_text(path: Path, text: str) -> None:
    """Write one file beside and rename it. Raises RecurraError where the disk refuses."""
    beside = path.with_name(path.name + ".partial")
    try:
        with open(beside, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise RecurraError(f"{path} could not be written: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(item) for item in value) or "none"
    return "not given" if value is None else str(value)


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space, or choose a place on another disk with --out"
    return f"{(error.strerror or str(error)).lower()}; choose another place with --out"
