"""examples/ptb.py on a few made-up lines: AWD-LSTM as published runs, and says its scores."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from rhymes import rhymes
from test_examples_layers import EXAMPLES

from recurra import LanguageModel
from recurra.tasks.generate_plan import AWD


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place, (name, lines) in enumerate((("train", 7), ("valid", 1), ("test", 3))):
        (tmp_path / f"ptb.{name}.txt").write_text(rhymes(lines, seed=place))
    return tmp_path


def test_the_recipe_runs_as_published(folder: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        str(EXAMPLES / "ptb.py"),
        ".",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"test: perplexity ([\d.]+) of (\d+) tokens", done.stdout)
    assert found is not None, done.stdout
    assert int(found[2]) == len(rhymes(3, seed=2).split()) + 3
    assert "epoch    1" in done.stdout
    model = LanguageModel.load(folder / "ptb" / "model.safetensors")
    assert model.plan.hidden_sizes == AWD.hidden_sizes == (1150, 1150, 400)
    assert (model.plan.optimizer, model.plan.weight_drop) == ("ntasgd", 0.5)
    assert model.evaluate(folder / "ptb.test.txt")["perplexity"] == pytest.approx(float(found[1]), rel=1e-3)
