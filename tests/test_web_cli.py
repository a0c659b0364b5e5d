"""`recurra inspect`: what it takes, what it refuses, and the drawing that it writes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from commands import QUICK, SAMPLE, Shell

pytest.importorskip("fastapi", reason="the page needs FastAPI: pip install 'recurra[lens]'")

import recurra.web
from recurra.errors import ArgumentError

MODULE = """
import torch

def net():
    return torch.nn.GRU(2, 3, batch_first=True)

class Reader(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.vocabulary = ["a", "b"]
        self.embedding, self.rnn = torch.nn.Embedding(2, 3), torch.nn.RNN(3, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(self.embedding(x))[0]

samples = torch.zeros(2, 5, 2)
number = 7

def broken():
    raise RuntimeError("no luck")
"""


@pytest.fixture
def shell(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = Shell(tmp_path, monkeypatch, capsys)
    made.write("mine.py", MODULE)
    yield made
    sys.modules.pop("mine", None)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What serve would have been called with."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(recurra.web, "serve", lambda *given, say, before: calls.append((*given, before)))
    return calls


def test_a_network_of_ones_own(shell: Shell, served: list[Any]) -> None:
    assert shell("inspect", "mine:net", "mine:samples", "--port", 9000, "--no-browser").code == 0
    model, data, host, port, open_browser, before = served[0]
    assert isinstance(model, torch.nn.GRU)
    assert data.shape == (2, 5, 2)
    assert (host, port, open_browser, before) == ("127.0.0.1", 9000, False, None)


def test_the_model_as_it_was_before(shell: Shell, served: list[Any]) -> None:
    assert shell("inspect", "mine:net", "mine:samples", "--before", "mine:net").code == 0
    assert isinstance(served[0][-1], torch.nn.GRU)
    assert served[0][-1] is not served[0][0]


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv", "x.txt"])
def test_numbers_are_read_from_files(shell: Shell, served: list[Any], name: str) -> None:
    values = np.arange(14.0).reshape(7, 2)
    path = shell.folder / name
    if name == "x.npy":
        np.save(path, values)
    elif name == "x.npz":
        np.savez(path, values)
    else:
        head = "one,two\n" if name == "x.csv" else ""
        shell.write(name, head + "\n".join(f"{a}, {b}" for a, b in values))
    assert shell("inspect", "mine:net", name).code == 0
    assert np.array_equal(served[0][1], values)


def test_sentences_are_read_from_a_file(shell: Shell, served: list[Any]) -> None:
    shell.write("x.txt", "a b\n\nb b a\n")
    assert shell("inspect", "mine:Reader", "x.txt").code == 0
    assert served[0][1] == ["a b", "b b a"]


def test_a_forecaster_and_its_table(shell: Shell, served: list[Any]) -> None:
    assert shell("train", "forecast", SAMPLE, *QUICK[:-1], "--out", "air").code == 0
    assert shell("inspect", "air/model.safetensors", SAMPLE).code == 0
    assert served[0][1] == str(SAMPLE)
    assert shell("inspect", "air/model.safetensors", SAMPLE, "--diagram", "air.svg").code == 0
    assert (shell.folder / "air.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("nowhere.safetensors", "no such file"),
        ("mine:missing", "no attribute 'missing'"),
        ("nomodule:net", "No module named 'nomodule'"),
        ("mine:broken", "RuntimeError: no luck"),
        ("mine:number", "expected a torch.nn.Module"),
        ("mine:net x.npy", "there is no such file"),
        ("mine:net mine.py", "files that end in .py are not read"),
        ("mine:net bad.csv", "expected numbers"),
        ("mine:net mine:number", "sequences of numbers"),
        ("mine:net --before mine:number", "before: expected a torch.nn.Module"),
        ("mine:net --before nowhere.safetensors", "no such file"),
        ("mine:net --before mine:broken", "--before mine:broken"),
        ("mine:net --port 70000", "expected 0 to 65535"),
        ("mine:net --port x", "expected a whole number"),
        ("mine:net --host 999.0.0.1", "nothing can be served"),
        ("mine:net --diagram no/where.svg", "there is no folder"),
        ("mine:net --diagram mine.py", "exists already"),
        ("", "MODEL is missing"),
    ],
)
def test_what_is_refused(shell: Shell, words: str, expected: str) -> None:
    shell.write("bad.csv", "1,2\n3,x\n")
    assert expected in shell.refused("inspect", *words.split())


def test_a_drawing_is_written_with_the_shapes_of_the_data(shell: Shell) -> None:
    assert shell("inspect", "mine:net", "mine:samples", "--diagram", "net.svg").code == 0
    assert "(1, 5, 2)" in (shell.folder / "net.svg").read_text()
    assert shell("inspect", "mine:net", "--diagram", "net.svg", "--overwrite").code == 0
    assert "(1, 5, 2)" not in (shell.folder / "net.svg").read_text()


def test_what_to_install_is_said(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install" in shell.refused("inspect", "mine:net")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ArgumentError, match="uvicorn"):
        recurra.web.serve(torch.nn.LSTM(1, 2))
