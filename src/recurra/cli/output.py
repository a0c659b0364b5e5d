"""Where a command writes: a folder beside the one asked for, renamed when all of it is there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recurra.errors import ArgumentError, Interrupted, RecurraError


class Output:
    """The folder ``path`` that a command was asked to write, and ``work``, the one that it writes meanwhile.

    Raises ArgumentError where ``path`` or an unfinished run of it exists and neither ``overwrite`` nor ``resume``
    was asked for, or where it cannot be a folder.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.path, self.overwrite, self.resume = path, overwrite, resume
        self.work = path.with_name(path.name + ".partial")
        if overwrite and resume:
            raise ArgumentError("--overwrite and --resume exclude each other: give one of them")
        if path.exists() and not path.is_dir():
            raise ArgumentError(f"--out {path} is a file, but a folder is written: give another name")
        if path.exists() and not (overwrite or resume):
            raise ArgumentError(
                f"--out {path} exists already: add --overwrite to replace it, or give another name with --out"
            )
        if self.work.exists() and not (overwrite or resume):
            raise ArgumentError(
                f"{self.work} holds an unfinished run: add --resume to go on with it, or --overwrite to start anew"
            )
        parent = path.absolute().parent
        if not parent.is_dir():
            raise ArgumentError(f"--out {path}: the folder {parent} does not exist: create it first")

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to resume."""
        return self.resume and self.path.exists() and not self.work.exists()

    @contextmanager
    def open(self) -> Iterator[Path]:
        """The work folder, renamed at the end; after an error it is removed, after Ctrl-C it stays for --resume."""
        if self.overwrite and self.work.exists():
            shutil.rmtree(self.work)
        existed = self.work.exists()
        try:
            self.work.mkdir(exist_ok=True)
            yield self.work
            self._rename()
        except (KeyboardInterrupt, Interrupted) as stop:
            raise Interrupted(
                f"stopped; what was done so far is kept in {self.work}: give the same command with --resume to go on"
            ) from stop
        except OSError as error:
            self._discard(existed)
            raise RecurraError(f"{self.path} could not be written: {_reason(error)}") from error
        except Exception:
            self._discard(existed)
            raise

    def _discard(self, existed: bool) -> None:
        """Leave nothing half-written; but an unfinished run that was there before is the user's to keep."""
        if not existed:
            shutil.rmtree(self.work, ignore_errors=True)

    def _rename(self) -> None:
        if self.path.exists():
            old = self.path.with_name(self.path.name + ".old")
            if old.exists():
                shutil.rmtree(old)
            os.replace(self.path, old)
            os.replace(self.work, self.path)
            shutil.rmtree(old)
        else:
            os.replace(self.work, self.path)


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
        beside.unlink(missing_ok=True)
        raise RecurraError(f"{path} could not be written: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full; free some space, or choose a place on another disk with --out"
    return f"{(error.strerror or str(error)).lower()}; choose another place with --out"
