"""`recurra inspect`: from words on the command line to a model, its data, and the page or a drawing."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from recurra.cli.output import check_file, write_text
from recurra.errors import ArgumentError

_OBJECT = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")
_TABLES = (".csv", ".tsv", ".txt")


def run(
    model: str,
    data: str | None,
    *,
    host: str,
    port: int,
    open_browser: bool,
    diagram: Path | None = None,
    overwrite: bool = False,
    before: str | None = None,
) -> None:
    """See :func:`recurra.cli.app.inspect`."""
    if diagram is not None:
        check_file(diagram, overwrite=overwrite)
    found = _model(model)
    began = None if before is None else _model(before, "--before")
    read = None if data is None else _data(found, data)
    if diagram is None:
        from recurra.web import serve

        return serve(
            found, read, host, port, open_browser, say=lambda words: print(words, flush=True), before=began
        )
    from recurra.lens.diagrams import diagram as drawn

    if read is None:
        from recurra.lens.estimators import view_of

        view = view_of(found)
        svg = drawn(getattr(found, "network", found) if view is None else view.network)
    else:
        from recurra.web.subject import open_subject

        subject = open_subject(found, read)
        inputs = subject.sample(0).inputs
        svg = drawn(subject.network, inputs if len(inputs) > 1 else inputs[0])
    write_text(diagram, svg)
    print(f"wrote {diagram}")


def _model(text: str, name: str = "MODEL") -> Any:
    """What a file of recurra's or module:object names. Raises ArgumentError or ModelFileError."""
    if not Path(text).exists() and _OBJECT.fullmatch(text):
        return _made(text, name)
    import recurra

    return recurra.load(text)


def _made(text: str, name: str) -> Any:
    """The object that module:object names; a function or class among them is called without arguments.

    The module is looked for in the working directory first. Importing it runs it, as `python -m` would.
    """
    module, path = text.split(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        if (callable(found) and not hasattr(found, "parameters")) or isinstance(found, type):
            found = found()
    except Exception as error:  # it is the user's own code, which may raise anything
        told = " ".join(str(error).split())[:200]
        raise ArgumentError(
            f"{name} {text}: expected module:object, an object that can be imported or a function that makes "
            f"it, but that failed ({type(error).__name__}: {told}): run it in Python first, from this folder"
        ) from error
    return found


def _data(model: Any, text: str) -> Any:
    """DATA: for an estimator what its `predict` takes, for a network numbers, sentences or module:object."""
    if not Path(text).exists() and _OBJECT.fullmatch(text):
        return _made(text, "DATA")
    if hasattr(model, "quantiles_at") or hasattr(model, "evaluate"):
        return sys.stdin.buffer.read() if text == "-" else text
    path = Path(text)
    if not path.is_file():
        raise ArgumentError(
            f"DATA {text}: there is no such file; give a .npy, .npz, .csv or .txt, or module:object"
        )
    if getattr(model, "vocabulary", None) is not None:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if line.strip()]
    return _numbers(path)


def _numbers(path: Path) -> Any:
    """(T, F) of a table of numbers, or the array of a .npy, or the first of a .npz."""
    import numpy as np

    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[arrays.files[0]]
        if path.suffix not in _TABLES:
            raise ValueError(f"files that end in {path.suffix or 'nothing'} are not read")
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [re.split(r"[,;\t ]+", line.strip()) for line in lines]
        if rows and any(re.search(r"[^\d.eE+\-]", word) for word in rows[0]):
            rows = rows[1:]
        return np.array([[float(word) for word in row] for row in rows])
    except (ValueError, OSError, IndexError, EOFError) as error:
        told = " ".join(str(error).split())[:160]
        raise ArgumentError(
            f"DATA {path}: expected numbers, a row for each step ({told}): give a .npy, .npz, or a "
            ".csv of numbers"
        ) from error
