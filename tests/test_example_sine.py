"""examples/sine.py as a reader would run it: what it says is checked against what it drew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_examples_layers import EXAMPLES, array, drawn, start

HELD_OUT, WINDOW = 200, 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]], Path]:
    """What it printed, what it drew and where."""
    folder, out = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("out")
    printed = start("sine", folder, str(out))
    assert list(folder.iterdir()) == []
    assert [page.name for page in out.iterdir()] == ["sine.html"]
    return printed, drawn(out / "sine.html")[0], out


def test_the_held_out_errors_are_those_of_the_drawn_fit(run: tuple[str, list[dict[str, Any]], Path]) -> None:
    printed, (_, series, fit), _ = run
    seen, predicted = array(series["y"]), array(fit["y"])
    assert seen.shape == predicted.shape == (1000 - WINDOW,)
    assert np.array_equal(array(series["x"]), np.arange(WINDOW, 1000))
    error = np.square(predicted - seen)[-HELD_OUT:].mean()
    naive = np.square(np.diff(seen))[-HELD_OUT:].mean()
    assert f"held out: LSTM {error:.4f}  naive last value {naive:.4f}" in printed
    assert error < naive / 2
    noise = np.square(seen - np.sin(2 * np.pi * np.arange(WINDOW, 1000) / 50))[-HELD_OUT:].mean()
    assert error > noise, "nobody can predict the noise: something has leaked"


def test_the_loss_falls_from_the_first_epoch_to_the_hundredth(
    run: tuple[str, list[dict[str, Any]], Path],
) -> None:
    printed, (curve, _, _), _ = run
    losses = array(curve["y"])
    assert losses.shape == (100,)
    assert losses[-10:].max() < losses[0] / 20
    for epoch in (1, 10, 50, 100):
        assert f"epoch {epoch:3d}  loss {losses[epoch - 1]:.4f}" in printed
    assert "x_train (780, 20, 1)  y_train (780, 1)  x_test (200, 20, 1)" in printed


def test_without_an_argument_it_writes_here_and_prints_the_same(
    run: tuple[str, list[dict[str, Any]], Path], tmp_path: Path
) -> None:
    printed, _, out = run
    assert start("sine", tmp_path) == printed.replace(f"{out}/", "")
    assert [page.name for page in tmp_path.iterdir()] == ["sine.html"]


def test_it_is_short() -> None:
    assert len((EXAMPLES / "sine.py").read_text(encoding="utf-8").splitlines()) <= 80
