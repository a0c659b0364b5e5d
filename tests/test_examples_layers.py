"""The examples of the layers: each runs as a reader would run it, and what it prints and draws is checked."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = ("cube", "gates", "regression_head")


@dataclass(frozen=True)
class Run:
    """What one example printed, and the traces and layout that it drew."""

    printed: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]

    def numbers(self, pattern: str) -> list[float]:
        """The number in the pattern's group, of each of its hits in what was printed."""
        return [float(hit) for hit in re.findall(pattern, self.printed)]


def start(name: str, folder: Path, *arguments: str) -> str:
    script = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(script, cwd=folder, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def drawn(page: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The arguments of the call that draws the page's figure."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]+src=", text), "the page must open offline"
    read = json.JSONDecoder().raw_decode
    place = text.rindex("Plotly.newPlot(") + len("Plotly.newPlot(")
    found: list[Any] = []
    while len(found) < 3:
        place = re.compile(r"[\s,]*").match(text, place).end()
        value, place = read(text, place)
        found.append(value)
    return found[1], found[2]


def array(encoded: Any) -> np.ndarray:
    """A trace's values as an array; plotly packs long ones in base64."""
    if isinstance(encoded, list):
        return np.array([np.nan if value is None else value for value in encoded])
    values = np.frombuffer(base64.b64decode(encoded["bdata"]), dtype=encoded["dtype"])
    return values.reshape([int(size) for size in str(encoded.get("shape", values.size)).split(",")])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    found = {}
    for name in NAMES:
        folder, out = tmp_path_factory.mktemp(name), tmp_path_factory.mktemp(f"{name}_out")
        printed = start(name, folder, str(out))
        assert list(folder.iterdir()) == []
        assert [page.name for page in out.iterdir()] == [f"{name}.html"]
        traces, layout = drawn(out / f"{name}.html")
        found[name] = Run(printed.replace(str(out), "OUT"), traces, layout)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_without_an_argument_it_writes_here_and_prints_the_same(
    name: str, runs: dict[str, Run], tmp_path: Path
) -> None:
    printed = start(name, tmp_path)
    assert printed == runs[name].printed.replace("OUT/", "")
    assert [page.name for page in tmp_path.iterdir()] == [f"{name}.html"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 80


def test_regression_head_learns_what_no_model_without_memory_can(runs: dict[str, Run]) -> None:
    run = runs["regression_head"]
    assert "x (64, 60, 2)  output (64, 60, 32)  prediction (64, 60, 1)" in run.printed
    losses = run.numbers(r"loss ([\d.]+)")
    assert len(losses) == 7
    assert losses[-1] < losses[0] / 50
    (lstm,), (memoryless,) = run.numbers(r"LSTM ([\d.]+)"), run.numbers(r"without memory ([\d.]+)")
    assert lstm < memoryless / 10

    curve, level, fit, flat = (array(trace["y"]) for trace in run.traces)
    assert curve.shape == (150,)
    assert curve[0] == pytest.approx(losses[0], abs=1e-6)
    assert level.shape == fit.shape == flat.shape == (60,)
    assert np.square(fit - level).mean() < np.square(flat - level).mean() / 10


def test_cube_shows_every_shape_and_comes_back_to_the_table(runs: dict[str, Run]) -> None:
    run = runs["cube"]
    claims = re.findall(r": +(True|False)$", run.printed, re.MULTILINE)
    assert claims == ["True"] * 5
    shown = re.findall(r"^(\S.*?) {2,}\(([\d, ]+)\) +\S", run.printed, re.MULTILINE)
    assert shown == [
        ("cube", "5, 30, 3"),
        ("lengths", "5,"),
        ("cube[:, :, 0]", "5, 30"),
        ("output", "5, 30, 16"),
        ("h_n", "4, 5, 8"),
        ("c_n", "4, 5, 8"),
        ("cube.transpose(0, 1)", "30, 5, 3"),
        ("output", "30, 5, 16"),
        ("counted", "5, 30"),
    ]
    slices = [array(trace["z"]) for trace in run.traces]
    assert [values.shape for values in slices] == [(5, 30)] * 3
    for values in slices:
        assert (~np.isnan(values)).sum(axis=1).tolist() == [30, 30, 21, 30, 14]
        assert np.isnan(values[4, 14:]).all()


def test_gates_shows_units_that_forget_at_spaces(runs: dict[str, Run]) -> None:
    run = runs["gates"]
    assert "characters (1, 58)  embedded (1, 58, 8)  counts (1, 58, 2)" in run.printed
    assert run.printed.count("gates (1, 58, 4, 12)  cell (1, 58, 12)") == 2
    losses = run.numbers(r"loss ([\d.]+)")
    assert losses[-1] < losses[0] / 100
    at_letters, at_spaces = (
        run.numbers(r"([\d.]+) of its cell at letters"),
        run.numbers(r"([\d.]+) at spaces"),
    )
    assert len(at_letters) == len(at_spaces) == 2
    assert all(kept > left + 0.4 for kept, left in zip(at_letters, at_spaces, strict=True))

    sentence = "".join(run.layout["xaxis"]["ticktext"])
    heats = [array(trace["z"]) for trace in run.traces]
    assert [heat.shape for heat in heats] == [(12, len(sentence))] * 10
    spaces = np.array([character == " " for character in sentence])
    units = [int(unit) for unit in run.numbers(r"unit (\d+) keeps")]
    for direction, unit in enumerate(units):
        input_gate, forget_gate, candidate, output_gate, _ = heats[5 * direction : 5 * direction + 5]
        for gate in (input_gate, forget_gate, output_gate):
            assert gate.min() >= 0
            assert gate.max() <= 1
        assert candidate.min() < 0 < candidate.max()
        assert forget_gate[unit, spaces].mean() == pytest.approx(at_spaces[direction], abs=0.006)
        assert forget_gate[unit, ~spaces].mean() == pytest.approx(at_letters[direction], abs=0.006)
