"""Figures as files, layers that draw themselves in notebooks, and the example of both."""

from __future__ import annotations

import importlib.util
import json
import os
import pkgutil
import shutil
import struct
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch

import recurra
from recurra import lens, nn
from recurra.errors import ArgumentError, RecurraError
from recurra.lens import diagrams
from recurra.lens.anatomy import RECURRENT

ROOT = Path(__file__).resolve().parent.parent

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s13sI", 13, b"IHDR", b"\0" * 13, 0) + b"rest"


@pytest.fixture
def kaleido(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for Kaleido, and what was asked of it."""
    asked: list[dict[str, Any]] = []

    def draw(figure: dict[str, Any], opts: dict[str, Any], kopts: dict[str, Any]) -> bytes:
        assert kopts == {"mathjax": False}, "nothing may be fetched"
        json.dumps(opts)
        asked.append(opts)
        return PNG if opts["format"] == "png" else b"drawn"

    monkeypatch.setitem(sys.modules, "kaleido", types.SimpleNamespace(calc_fig_sync=draw))
    return asked


def test_a_page_opens_offline_and_goes_by_the_window(tmp_path: Path) -> None:
    figure = lens.plot(lens.trace(nn.LSTM(2, 7), torch.randn(9, 3, 2)))
    path = lens.save_figure(figure, tmp_path / "gates.html")
    text = path.read_text(encoding="utf-8")
    assert "<script src" not in text
    assert len(text) > 3e6, "plotly's script is in it"
    assert '"width":' not in text[text.rindex("Plotly.newPlot(") :].split("</script>")[0]
    path = lens.save_figure(figure, path, width=100)
    text = path.read_text(encoding="utf-8")
    assert f'"width":{100 / 25.4 * 96:.3f}'[:-1] in text[text.rindex("Plotly.newPlot(") :]
    assert figure.layout.width is None, "the figure is left as it was"
    assert os.listdir(tmp_path) == ["gates.html"]


def test_a_picture_has_its_size_on_paper(kaleido: list[dict[str, Any]], tmp_path: Path) -> None:
    figure = go.Figure(layout={"height": 450, "font": {"size": 12}})
    assert lens.save_figure(figure, tmp_path / "a.svg").read_bytes() == b"drawn"
    lens.save_figure(figure, str(tmp_path / "a.pdf"), width=3.5, height=2, unit="in", points=9)
    lens.save_figure(figure, tmp_path / "a.PNG", width=88, dpi=600)
    vector, inches, bits = kaleido
    assert vector["width"] * vector["scale"] == pytest.approx(180 / 25.4 * 96)
    assert vector["scale"] * 12 == pytest.approx(8 * 96 / 72), "8 points"
    assert vector["height"] == 450
    assert inches == {"format": "pdf", "width": 336, "height": 192, "scale": 1}
    assert bits["format"] == "png"
    assert bits["width"] * bits["scale"] == pytest.approx(88 / 25.4 * 600)
    picture = (tmp_path / "a.PNG").read_bytes()
    assert picture[:33] + picture[54:] == PNG
    assert struct.unpack(">I4sIIB", picture[33:50]) == (9, b"pHYs", 23622, 23622, 1)
    assert figure.layout.width is None, "the figure is left as it was"


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("a.eps", {}, r"path: expected an ending of \.svg, \.png, \.pdf, \.html, got 'a\.eps'"),
        ("a", {}, "path: expected an ending"),
        ("no/a.svg", {}, "path: there is no folder .*no to write a.svg into; create it first"),
        ("folder.svg", {}, "path: expected a file's name, got the folder"),
        ("a.svg", {"unit": "cm"}, 'unit: expected "mm" or "in", got \'cm\''),
        ("a.svg", {"width": 0}, "width: expected a number above 0, got 0"),
        ("a.svg", {"height": -7}, "height: expected a number above 0, got -7"),
        ("a.png", {"dpi": float("nan")}, "dpi: expected a number above 0, got nan"),
        ("a.svg", {"points": "8"}, "points: expected a number above 0, got '8'"),
    ],
)
def test_what_cannot_be_saved(name: str, options: dict[str, Any], told: str, tmp_path: Path) -> None:
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(ArgumentError, match=told):
        lens.save_figure(go.Figure(), tmp_path / name, **options)
    assert os.listdir(tmp_path) == ["folder.svg"]


def test_a_drawing_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"figure: expected a figure of Plotly, .*got str; a drawing of"):
        lens.save_figure(lens.cell_diagram("LSTM"), tmp_path / "a.svg")  # type: ignore[arg-type]


def test_without_kaleido_or_a_browser_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(ImportError, match=r"pip install recurra\[lens\]; a figure saved as \.html needs"):
        lens.save_figure(go.Figure(), tmp_path / "a.svg")

    class ChromeNotFoundError(Exception):
        pass

    for error, told in ((ChromeNotFoundError, "there is none on this machine"), (OSError, "OSError: 7")):

        def fail(*given: Any, error: type[Exception] = error, **options: Any) -> bytes:
            raise error("7")

        monkeypatch.setitem(sys.modules, "kaleido", types.SimpleNamespace(calc_fig_sync=fail))
        with pytest.raises(RecurraError, match=rf"which failed \({told}\); install one.*\.html, which needs"):
            lens.save_figure(go.Figure(), tmp_path / "a.pdf")
    assert os.listdir(tmp_path) == []


def test_a_file_is_never_half_written(
    kaleido: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.svg"
    path.write_bytes(b"old")

    def refuse(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RecurraError, match=r"a\.svg could not be written: No space left on device"):
        lens.save_figure(go.Figure(), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.svg"]


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.mark.skipif(importlib.util.find_spec("kaleido") is None, reason="kaleido is not installed")
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="there is no Chrome or Chromium")
def test_kaleido_draws_a_picture_of_that_size(tmp_path: Path) -> None:
    path = lens.save_figure(go.Figure(go.Bar(y=[1, 2])), tmp_path / "a.png", width=50, height=25, dpi=100)
    picture = path.read_bytes()
    wide, high = struct.unpack(">II", picture[16:24])
    assert abs(wide - 197) <= 2
    assert abs(high - 98) <= 2


NOTEBOOK = """
import pkgutil, sys, types
drawn = {}
keep = lambda module, name, draw: drawn.update({module + "." + name: draw})
formatter = types.SimpleNamespace(for_type_by_name=keep)
display = types.SimpleNamespace(formatters={"image/svg+xml": formatter})
shell = types.SimpleNamespace(display_formatter=display)
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
import recurra
assert "torch" not in sys.modules, "a notebook must not wait for torch before it is used"
assert tuple(drawn) == recurra.DRAWN
for name, draw in drawn.items():
    kind = pkgutil.resolve_name(name)
    layer = kind(3, (7,)) if name.endswith("Stacked") else kind(3, 8)
    assert draw(layer).startswith("<svg"), name
"""


def test_where_ipython_runs_the_layers_of_recurra_draw_themselves() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", NOTEBOOK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_all_recurrent_layers_of_recurra_are_told_to_ipython() -> None:
    layers = [getattr(nn, name) for name in nn.__all__]
    recurrent = {kind for kind in layers if isinstance(kind, type) and issubclass(kind, RECURRENT)}
    assert {pkgutil.resolve_name(name) for name in recurra.DRAWN} == recurrent


@pytest.mark.parametrize(
    "ipython",
    [
        None,
        types.SimpleNamespace(),
        types.SimpleNamespace(get_ipython=lambda: None),
        types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(display_formatter=None)),
    ],
)
def test_recurra_is_imported_where_no_notebook_is(ipython: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    recurra._draw_in_notebooks()


class Formatter:
    """IPython's registry, as far as it is used: by type, and by name."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}

    def for_type(self, kind: type, draw: Any) -> None:
        self.known[kind] = draw

    def for_type_by_name(self, module: str, name: str, draw: Any) -> None:
        self.known[f"{module}.{name}"] = draw

    def pop(self, kind: Any, default: Any) -> None:
        self.known.pop(kind, default)


def test_drawings_are_switched_off_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = Formatter()
    display = types.SimpleNamespace(formatters={"image/svg+xml": formatter})
    shell = types.SimpleNamespace(display_formatter=display)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    recurra._draw_in_notebooks()
    assert torch.nn.RNNBase not in formatter.known, "torch's own only when asked"
    assert lens.draw_in_notebooks()
    assert set(formatter.known) == {*recurra.DRAWN, *RECURRENT}
    assert lens.draw_in_notebooks(False)
    assert formatter.known == {}


def test_a_drawing_of_the_users_own_goes_first() -> None:
    class Mine(nn.LSTM):
        def _repr_svg_(self) -> str:
            return "<svg>mine</svg>"

    assert diagrams.drawn(Mine(2, 7)) == "<svg>mine</svg>"


@pytest.mark.skipif(importlib.util.find_spec("IPython") is None, reason="IPython is not installed")
def test_a_real_ipython_shows_the_drawing() -> None:
    script = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import recurra
from recurra import lens, nn
import torch
show = lambda layer: shell.display_formatter.format(layer)[0]
assert show(nn.LSTM(2, 7))["image/svg+xml"].startswith("<svg")
assert show(nn.LSTM(2, 7))["text/plain"] == "LSTM(2, 7)"
assert set(show(torch.nn.LSTM(2, 7))) == {"text/plain"}
assert lens.draw_in_notebooks()
assert "image/svg+xml" in show(torch.nn.GRU(2, 7))
assert set(show(torch.nn.Linear(2, 7))) == {"text/plain"}
assert lens.draw_in_notebooks(False)
assert set(show(nn.LSTM(2, 7))) == set(show(torch.nn.GRU(2, 7))) == {"text/plain"}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_example_draws_each_figure(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "see_inside.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    names = ["forgotten", "gates", "gradients", "memory", "reasons", "unit"]
    assert sorted(os.listdir(tmp_path)) == [f"{name}.html" for name in names]
    assert "encoder, layer 0, forward: " in done.stdout
    for name in names:
        assert "Plotly.newPlot(" in (tmp_path / f"{name}.html").read_text(encoding="utf-8")
