"""`save_figure`: a figure as a file for a paper or a page, at its size on paper.

Pictures are drawn by Kaleido, which runs a Chrome or Chromium of the machine. Nothing is fetched.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurra.errors import ArgumentError, RecurraError
from recurra.lens.figures_style import SIZE

if TYPE_CHECKING:
    import plotly.graph_objects as go

KINDS = ("svg", "png", "pdf", "html")
WIDTH = 180.0  # mm: two columns of most journals; one is 85 to 90
MILLIMETRES = {"mm": 1.0, "in": 25.4}  # of a unit
PIXELS = 96 / 25.4  # of CSS, in a millimetre


def save_figure(
    figure: go.Figure,
    path: str | os.PathLike[str],
    *,
    width: float | None = None,
    height: float | None = None,
    unit: str = "mm",
    dpi: float = 300.0,
    points: float = 8.0,
) -> Path:
    """Writes a figure as .svg, .pdf, .png or .html, whichever the path ends in. Returns the path.

    figure: of Plotly, from the lens or any other.
    width, height: on paper, in `unit`, "mm" or "in". None: 180 mm wide, as two columns of most journals are,
    and so high that the panels keep their height beside the text. points: size of the usual text on paper; 8
    is what most journals ask for. Lines and margins go with it. dpi: pixels to an inch, of a .png.

    A .html holds plotly's script and opens offline. It goes by the window's width unless one is given, and
    points and dpi have no say there. A file is written beside and renamed, so that there is never half a one.

    Raises ArgumentError for an ending, size or folder that will not do; ImportError where Kaleido is not
    installed; RecurraError where there is no Chrome or Chromium, it does not run, or the disk refuses. An
    .html needs neither.

    For example::

        save_figure(plot(traced), "gates.pdf", width=88)        # one column
    """
    place = Path(path)
    kind = place.suffix.lower().removeprefix(".")
    _check(figure, place, kind, {"width": width, "height": height, "dpi": dpi, "points": points}, unit)
    size = [None if side is None else side * MILLIMETRES[unit] * PIXELS for side in (width, height)]
    if kind == "html":
        content = _page(figure, *size).encode("utf-8")
    else:
        larger = points * 96 / 72 / (figure.layout.font.size or SIZE)
        wide = size[0] or WIDTH * PIXELS
        high = size[1] or (figure.layout.height or 450.0) * larger
        content = _picture(figure, kind, wide / larger, high / larger, larger, dpi)
    _write(place, content)
    return place


def _check(figure: Any, place: Path, kind: str, sizes: dict[str, float | None], unit: str) -> None:
    """Raises ArgumentError."""
    if not hasattr(figure, "to_plotly_json") or not hasattr(figure, "layout"):
        raise ArgumentError(
            f"figure: expected a figure of Plotly, as recurra.lens.plot returns it, got "
            f"{type(figure).__name__}; a drawing of recurra.lens.diagram is SVG text: write it as it is"
        )
    if kind not in KINDS:
        raise ArgumentError(
            f"path: expected an ending of {', '.join(f'.{known}' for known in KINDS)}, got {place.name!r}; "
            "name the file after what it shall be"
        )
    if unit not in MILLIMETRES:
        raise ArgumentError(f'unit: expected "mm" or "in", got {unit!r}')
    for name, size in sizes.items():
        if size is not None and not (isinstance(size, (int, float)) and 0 < size < 1e5):
            raise ArgumentError(
                f"{name}: expected a number above 0, got {size!r}; leave it out for the usual"
            )
    if place.is_dir():
        raise ArgumentError(f"path: expected a file's name, got the folder {place}; add a file name")
    if not place.absolute().parent.is_dir():
        raise ArgumentError(
            f"path: there is no folder {place.parent} to write {place.name} into; create it first"
        )


def _page(figure: Any, wide: float | None, high: float | None) -> str:
    """As one self-contained page."""
    figure = type(figure)(figure)
    figure.update_layout({"width": wide} if wide else {})
    figure.update_layout({"height": high} if high else {})
    text: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False})
    return text


def _picture(figure: Any, kind: str, wide: float, high: float, larger: float, dpi: float) -> bytes:
    """Drawn at wide × high pixels of layout, each `larger` pixels of CSS on paper."""
    try:
        kaleido = importlib.import_module("kaleido")
    except ImportError as error:
        raise ImportError(
            f"a .{kind} is drawn by kaleido, which cannot be imported ({error}); install it with: "
            "pip install recurra[lens]; a figure saved as .html needs neither it nor a browser"
        ) from error
    scale = larger * (dpi / 96 if kind == "png" else 1)
    options = {"format": kind, "width": wide, "height": high, "scale": scale}
    try:
        # without mathjax, which would be fetched
        drawn: bytes = kaleido.calc_fig_sync(figure.to_dict(), opts=options, kopts={"mathjax": False})
    except Exception as error:
        lacking = type(error).__name__ == "ChromeNotFoundError"
        reason = "there is none on this machine" if lacking else f"{type(error).__name__}: {error}"
        raise RecurraError(
            f"a .{kind} is drawn by Chrome or Chromium, which failed ({reason}); install one, name it in "
            "the environment variable BROWSER_PATH, or save the figure as .html, which needs none"
        ) from error
    return _with_density(drawn, dpi) if kind == "png" else drawn


def _with_density(picture: bytes, dpi: float) -> bytes:
    """A PNG that says how large it is on paper (PNG specification, 11.3.4.3: the pHYs chunk)."""
    per_metre = round(dpi / 0.0254)
    chunk = b"pHYs" + struct.pack(">IIB", per_metre, per_metre, 1)
    header = 33  # signature, and IHDR, after which pHYs may stand
    density = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return picture[:header] + density + picture[header:]


def _write(place: Path, content: bytes) -> None:
    """Beside, and renamed. Raises RecurraError where the disk refuses."""
    beside = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, place)
    except OSError as error:
        raise RecurraError(
            f"{place} could not be written: {error.strerror or error}; choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
