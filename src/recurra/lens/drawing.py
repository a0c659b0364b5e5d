"""The strokes of a drawing: lines, arrows, boxes and words as SVG elements, and one palette for all of them.

A colour means the same thing in every drawing: `x` what goes in, `h` the hidden state, `c` the cell state,
`n` what else a cell carries, `ink` all else. A colour-blind eye tells them apart too, and they never stand
alone: each line has its name beside it, and the cell state's is the widest. Lengths are in SVG's own unit.
Arrowheads are triangles and not markers, so that two drawings in one page share no id.
"""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Sequence

from recurra.errors import ArgumentError

THEMES = ("auto", "light", "dark")
MONO_WIDTH = 0.603  # of a letter of the fonts for code, in its own size
HEAD = 7.0  # length of an arrow's head

# role → (light, dark). A line's colour has at least 3:1 contrast on its paper, a text's 4.5:1.
PALETTE = {
    "ink": ("#24303c", "#d9dfe6"),
    "quiet": ("#5b6672", "#a3aeba"),
    "edge": ("#c4ccd5", "#3d4854"),
    "fill": ("#f3f5f8", "#212932"),
    "paper": ("#ffffff", "#171c22"),
    "x": ("#0b7566", "#4cc4b0"),
    "h": ("#1c5fb0", "#6fb1ff"),
    "c": ("#a35f00", "#e8ab48"),
    "n": ("#9b2d7f", "#e07fc8"),
}
ROLES = ("x", "h", "c", "n")

_SHAPE = (
    "{s} text{font-family:Inter,system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;"
    "font-size:13px;fill:currentColor}"
    "{s} .mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
    "font-size:12px}"
    "{s} .maths{font-family:'Latin Modern Math','STIX Two Text',Cambria,Georgia,'Times New Roman',serif;"
    "font-size:16px}"
    "{s} .large{font-size:17px;font-weight:650}{s} .strong{font-weight:650}{s} .small{font-size:12px}"
    "{s} path{fill:none;stroke-width:1.75;stroke-linejoin:round}{s} path.wide{stroke-width:3}"
    "{s} path.thin{stroke-width:1}{s} path.dash{stroke-dasharray:4 3}{s} path.halo{stroke-width:8}"
    "{s} rect{stroke-width:1.25}{s} circle{stroke-width:1.5}"
)


def _colours(place: int) -> str:
    """The rules that colour everything; place: 0 for light paper, 1 for dark."""
    shade = {role: both[place] for role, both in PALETTE.items()}
    s = "{s}"
    rules = [
        f"{s}{{color:{shade['ink']}}}{s} .sheet{{fill:{shade['paper']};stroke:{shade['edge']}}}",
        f"{s} text.quiet{{fill:{shade['quiet']}}}{s} path.halo{{stroke:{shade['paper']}}}",
        f"{s} path.ink{{stroke:{shade['quiet']}}}{s} polygon.ink{{fill:{shade['quiet']}}}",
        f"{s} rect.ink{{fill:{shade['fill']};stroke:{shade['edge']}}}",
        f"{s} .open{{fill:{shade['paper']};stroke:{shade['quiet']}}}",
        f"{s} .frame{{fill:none;stroke:{shade['edge']}}}",
        f"{s} path.rule{{stroke:{shade['edge']};stroke-width:1}}",
    ]
    for role in ROLES:
        rules.append(
            f"{s} path.{role}{{stroke:{shade[role]}}}{s} polygon.{role},{s} text.{role},{s} tspan.{role}"
            f"{{fill:{shade[role]}}}"
            f"{s} rect.{role}{{fill:{shade[role]};fill-opacity:.1;stroke:{shade[role]};stroke-opacity:.65}}"
        )
    return "".join(rules)


def style(theme: str) -> str:
    """The style sheet. Raises ArgumentError for a theme that there is not."""
    if theme not in THEMES:
        raise ArgumentError(
            f"theme: expected one of {', '.join(map(repr, THEMES))}, got {theme!r}; "
            "'auto' is light or dark as the reader's system is"
        )
    scope = f".recurra-{theme}"
    sheet = _SHAPE + _colours(1 if theme == "dark" else 0)
    if theme == "auto":
        sheet += "@media (prefers-color-scheme:dark){" + _colours(1) + "}"
    return sheet.replace("{s}", scope)


def document(
    parts: Sequence[str], width: float, height: float, title: str, story: str, theme: str = "auto"
) -> str:
    """One SVG from elements: a sheet of paper, a title and a description for who cannot see it.

    title and story are plain text. The ids are digests of the content: the same drawing has the same ones.
    """
    sheet, body = style(theme), "\n".join(parts)
    title, story = escaped(title), escaped(story)
    name = f"d{zlib.crc32((title + story + body).encode()):08x}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="recurra-{theme}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc" viewBox="0 0 {number(width)} {number(height)}" '
        f'width="{number(width)}" height="{number(height)}" style="max-width:100%;height:auto">\n'
        f'<title id="{name}-title">{title}</title>\n'
        f'<desc id="{name}-desc">{story}</desc>\n'
        f"<style>{sheet}</style>\n"
        f'<rect class="sheet" x=".5" y=".5" width="{number(width - 1)}" '
        f'height="{number(height - 1)}" rx="10"/>\n'
        f"{body}\n</svg>\n"
    )


def escaped(text: str) -> str:
    """Text for XML, without the characters that XML cannot hold."""
    kept = "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    return html.escape(kept, quote=True)


def shortened(text: str, longest: int) -> str:
    """Text of at most so many letters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def words(x: float, y: float, text: str, kind: str = "", anchor: str = "start", size: float = 0) -> str:
    """Plain text whose baseline begins at (x, y), or is centred or ends there. kind: classes of the style."""
    extra = f' style="font-size:{number(size)}px"' if size else ""
    return (
        f'<text x="{number(x)}" y="{number(y)}" class="{kind}" text-anchor="{anchor}"{extra}>'
        f"{escaped(text)}</text>"
    )


def fitted(x: float, y: float, text: str, kind: str, anchor: str, room: float) -> str:
    """Code in as large letters as there is room for."""
    return words(x, y, text, f"mono {kind}".strip(), anchor, min(12, room / (MONO_WIDTH * max(len(text), 1))))


def maths(x: float, y: float, text: str, kind: str = "", anchor: str = "start", size: float = 16) -> str:
    """Text with subscripts _{t}, superscripts ^{2} and colours {h|text}, such as {c|c_{t}} = σ(x_{t})."""
    return (
        f'<text x="{number(x)}" y="{number(y)}" class="maths {kind}" text-anchor="{anchor}" '
        f'style="font-size:{number(size)}px">{_marked(text, size)}</text>'
    )


_MARK = re.compile(r"([_^])\{([^{}]*)\}|\{([a-z]+)\|((?:[^{}]|\{[^{}]*\})*)\}")


def _marked(text: str, size: float) -> str:
    """The tspans of `maths`. What follows a raised or lowered piece is brought back to the line."""
    pieces, end, shift = [], 0, 0.0
    for mark in _MARK.finditer(text):
        plain = text[end : mark.start()]
        if plain:
            pieces.append(
                f'<tspan dy="{number(-shift)}">{escaped(plain)}</tspan>' if shift else escaped(plain)
            )
            shift = 0.0
        end = mark.end()
        if mark[3]:
            back = f' dy="{number(-shift)}"' if shift else ""
            coloured, shift = _coloured(mark[3], mark[4], size, back)
            pieces.append(coloured)
            continue
        level = size * (0.24 if mark[1] == "_" else -0.38)
        small = f'dy="{number(level - shift)}" font-size="{number(size * 0.72)}"'
        pieces.append(f"<tspan {small}>{escaped(mark[2])}</tspan>")
        shift = level
    rest = text[end:]
    if rest:
        pieces.append(f'<tspan dy="{number(-shift)}">{escaped(rest)}</tspan>' if shift else escaped(rest))
    return "".join(pieces)


def _coloured(role: str, text: str, size: float, back: str) -> tuple[str, float]:
    """A coloured piece with at most one subscript, at its end, and how far below the line that ends."""
    inner = _MARK.search(text)
    if inner is None:
        return f'<tspan class="{role}"{back}>{escaped(text)}</tspan>', 0.0
    level = size * (0.24 if inner[1] == "_" else -0.38)
    small = f'dy="{number(level)}" font-size="{number(size * 0.72)}"'
    letter = f'<tspan class="{role}"{back}>{escaped(text[: inner.start()])}</tspan>'
    return f'{letter}<tspan class="{role}" {small}>{escaped(inner[2])}</tspan>', level


Point = tuple[float, float]


def line(points: Sequence[Point], role: str = "ink", kind: str = "", radius: float = 6) -> str:
    """A line through points, its corners rounded. role: its colour. kind: "wide", "dash" or "halo"."""
    return f'<path class="{role} {kind}" d="{_path(points, radius)}"/>'.replace(' "', '"')


def bridge(points: Sequence[Point]) -> str:
    """Paper where a line is about to pass over others, so that it does not seem to meet them."""
    return line(points, "halo")


def _path(points: Sequence[Point], radius: float) -> str:
    steps = [f"M{number(points[0][0])} {number(points[0][1])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        near, far = _towards(corner, before, radius), _towards(corner, after, radius)
        steps.append(
            f"L{number(near[0])} {number(near[1])}"
            f"Q{number(corner[0])} {number(corner[1])} {number(far[0])} {number(far[1])}"
        )
    steps.append(f"L{number(points[-1][0])} {number(points[-1][1])}")
    return "".join(steps)


def _towards(start: Point, end: Point, far: float) -> Point:
    """The point this far from start on the way to end, but not past its middle."""
    across, down = end[0] - start[0], end[1] - start[1]
    length = max((across**2 + down**2) ** 0.5, 1e-9)
    part = min(far / length, 0.5)
    return start[0] + across * part, start[1] + down * part


def arrow(points: Sequence[Point], role: str = "ink", kind: str = "", radius: float = 6) -> str:
    """A line through points with a head at the last one."""
    end, before = points[-1], points[-2]
    across, down = end[0] - before[0], end[1] - before[1]
    length = max((across**2 + down**2) ** 0.5, 1e-9)
    across, down = across / length, down / length
    head = HEAD if kind != "thin" else 4.0
    base = end[0] - across * head, end[1] - down * head
    half = head * (0.62 if kind == "wide" else 0.52)
    left, right = (
        (base[0] - down * half, base[1] + across * half),
        (base[0] + down * half, base[1] - across * half),
    )
    corners = " ".join(f"{number(x)},{number(y)}" for x, y in (end, left, right))
    shaft = [*points[:-1], (end[0] - across * head * 0.8, end[1] - down * head * 0.8)]
    return line(shaft, role, kind, radius) + f'<polygon class="{role}" points="{corners}"/>'


def box(x: float, y: float, width: float, height: float, role: str = "ink", radius: float = 6) -> str:
    """A box whose upper left corner is (x, y)."""
    return (
        f'<rect class="{role}" x="{number(x)}" y="{number(y)}" width="{number(width)}" '
        f'height="{number(height)}" rx="{number(radius)}"/>'
    )


def operation(x: float, y: float, sign: str, radius: float = 10) -> str:
    """A circle with the sign of what is done there, × or +, or a word in a longer one."""
    if sign in ("×", "+"):
        reach = radius * 0.45
        lean = reach * 0.75
        ends = (
            [((x - lean, y - lean), (x + lean, y + lean)), ((x - lean, y + lean), (x + lean, y - lean))]
            if sign == "×"
            else [((x - reach, y), (x + reach, y)), ((x, y - reach), (x, y + reach))]
        )
        circle = f'<circle class="open" cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"/>'
        return circle + "".join(line(pair) for pair in ends)
    width = max(24, 8 + 7 * len(sign))
    pill = box(x - width / 2, y - radius, width, 2 * radius, "open", radius)
    return pill + words(x, y + 4.5, sign, "small", "middle")
