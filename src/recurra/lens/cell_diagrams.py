"""The inside of one cell at one step: its gates, the lines of its states, and its equations.

A box is a product with weights and what it is passed through, a circle what is done number by number. States
come in on the left and leave on the right; the input comes from below. The equations are those of
`recurra.engine.cells`, `variants`, `norms` and `slstm`, which name their sources.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from recurra.errors import ArgumentError
from recurra.lens.drawing import Point, arrow, box, bridge, document, line, maths, operation, words

WIDTH = 468.0
MARGIN = 14.0
INNER_LEFT, INNER_RIGHT = 62.0, 410.0  # of the cell
TOP, GATES, BUS, BELOW = 118.0, 282.0, 340.0, 398.0  # the upper line, the gates' middle, what they read, x
MEET = 92.0  # where x joins h
GATE, HALF = 60.0, 20.0  # width of a gate's box and half its height
RING = 10.0  # radius of an operation
SUMS = "W {x|x_{t}} + R {h|h_{t−1}} + b"

Strokes = list[str]


def cell_diagram(kind: object, *, theme: str = "auto") -> str:
    """The inside of a cell as SVG: gates, lines of state, and the equations beneath.

    kind: "LSTM", "GRU", "RNN", "PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "LayerNormGRU" or "SLSTM", or
    a layer or cell of one of these classes. theme: "auto", "light" or "dark".

    Raises ArgumentError for any other kind or theme.
    """
    name = kind if isinstance(kind, str) else _name(kind)
    if name not in _CELLS:
        raise ArgumentError(
            f"kind: expected one of {', '.join(_CELLS)}, or such a layer, got "
            f"{kind if isinstance(kind, str) else type(kind).__name__!r}; name one of these"
        )
    draw, equations, story = _CELLS[name]
    parts = [words(MARGIN, 31, f"{name} cell", "large"), words(MARGIN, 51, story, "small quiet")]
    parts.append(box(INNER_LEFT, TOP - 38, INNER_RIGHT - INNER_LEFT, BUS - TOP + 70, "frame", 14))
    draw(parts)
    y = BELOW + 30
    parts.append(line([(MARGIN, y), (WIDTH - MARGIN, y)], "rule"))
    for equation, meaning in equations:
        y += 27
        parts.append(maths(MARGIN, y, equation))
        parts.append(words(WIDTH - MARGIN, y, meaning, "small quiet", "end"))
    said = "; ".join(f"{meaning}: {_plain(equation)}" for equation, meaning in equations)
    return document(parts, WIDTH, y + 22, f"{name} cell", f"{story} {said}.", theme)


def _name(layer: object) -> str:
    for kind in type(layer).__mro__:
        if kind.__name__.removesuffix("Cell") in _CELLS:
            return kind.__name__.removesuffix("Cell")
    return ""


def _plain(equation: str) -> str:
    """An equation as text: c_t = f_t ⊙ c_{t−1}."""
    for role in ("x", "h", "c", "n"):
        equation = equation.replace(f"{{{role}|", "")
    return equation.replace("_{t}", "_t").replace("_{", "_").replace("}", "")


def _gate(parts: Strokes, x: float, passed: str, name: str, y: float = GATES) -> None:
    """A gate's box: what its sums are passed through, and its name."""
    parts.append(box(x - GATE / 2, y - HALF, GATE, 2 * HALF, "ink", 6))
    parts.append(maths(x, y - 2, passed, "", "middle", 17 if len(passed) == 1 else 15))
    parts.append(words(x, y + 14, name, "quiet", "middle", 11))


def _fed(parts: Strokes, xs: list[float]) -> None:
    """The line that all gates read, and a line up from it to each."""
    last = xs[-1]
    parts.append(arrow([(MEET, BUS), (last, BUS), (last, GATES + HALF)], "ink"))
    parts += [arrow([(x, BUS), (x, GATES + HALF)], "ink") for x in xs[:-1]]


def _enter(parts: Strokes, h: list[Point], sums: str = SUMS) -> None:
    """x from below and h along these points, where they meet, and what comes of them."""
    parts.append(line(h, "h"))
    parts.append(line([(MEET, BELOW), (MEET, BUS)], "x"))
    parts.append(f'<circle class="open" cx="{MEET:g}" cy="{BUS:g}" r="4"/>')
    parts.append(maths(MEET, BELOW + 17, "x_{t}", "x", "middle"))
    parts.append(maths(MEET + 14, BUS + 20, sums, "", "start", 14))


def _state(parts: Strokes, y: float, stops: list[float], role: str, name: str) -> None:
    """A state's line from left to right, in arrows from stop to stop, with its names at the ends."""
    xs = [MARGIN, *stops, WIDTH - MARGIN]
    for place, (start, end) in enumerate(pairwise(xs)):
        begin = start + (RING if place else 0)
        close = end - (RING if place < len(stops) else 0)
        parts.append(arrow([(begin, y), (close, y)], role, "wide" if role == "c" else ""))
    parts.append(maths(MARGIN, y - 10, f"{name}_{{t−1}}", role))
    parts.append(maths(WIDTH - MARGIN, y - 10, f"{name}_{{t}}", role, "end"))


def _shown(parts: Strokes, x: float, y: float) -> None:
    """h out of the operation at (x, y), down to the level at which it came in, and out."""
    turn = INNER_RIGHT - 18
    parts.append(arrow([(x + RING, y), (turn, y), (turn, BUS), (WIDTH - MARGIN, BUS)], "h", radius=10))
    parts.append(maths(WIDTH - MARGIN, BUS - 10, "h_{t}", "h", "end"))
    parts.append(words(WIDTH - MARGIN, BUS + 20, "output", "small quiet", "end"))
    parts.append(maths(MARGIN, BUS - 10, "h_{t−1}", "h"))


def _named(parts: Strokes, x: float, y: float, name: str) -> None:
    parts.append(maths(x + 7, y, name, "", "start", 15))


def _one_minus(parts: Strokes, start: float, middle: float, end: float, y: float) -> None:
    """From a gate's line at `start` to the operation at `end`, and 1 − on the way."""
    parts.append(line([(start, y), (middle - 12, y)], "ink"))
    parts.append(arrow([(middle + 12, y), (end - RING, y)], "ink"))
    parts.append(operation(middle, y, "1−"))


_WRITE = 200.0  # the level at which the candidate is scaled
_READ = 214.0  # the level at which the cell state is shown


def _write(parts: Strokes, g: float) -> None:
    """The candidate up to where it is scaled, and on to the cell state."""
    parts.append(arrow([(g, GATES - HALF), (g, _WRITE + RING)], "ink"))
    parts.append(arrow([(g, _WRITE - RING), (g, TOP + RING)], "ink"))
    parts += [operation(g, _WRITE, "×"), operation(g, TOP, "+")]
    _named(parts, g, GATES - HALF - 10, "g_{t}")


def _show(parts: Strokes, o: float, passed: str = "tanh") -> None:
    """The cell state through tanh and the output gate, to h."""
    parts.append(line([(o, TOP), (o, 150)], "c"))
    parts.append(arrow([(o, 170), (o, _READ - RING)], "c"))
    parts.append(operation(o, 160, passed))
    parts.append(arrow([(o, GATES - HALF), (o, _READ + RING)], "ink"))
    parts.append(operation(o, _READ, "×"))
    _named(parts, o, GATES - HALF - 10, "o_{t}")
    _shown(parts, o, _READ)


_F, _I, _G, _O = 132.0, 202.0, 272.0, 342.0


def _lstm(parts: Strokes, sums: str = SUMS, passed: str = "tanh") -> None:
    _state(parts, TOP, [_F, _G], "c", "c")
    _enter(parts, [(MARGIN, BUS), (MEET, BUS)], sums)
    _fed(parts, [_F, _I, _G, _O])
    parts.append(arrow([(_F, GATES - HALF), (_F, TOP + RING)], "ink"))
    parts.append(arrow([(_I, GATES - HALF), (_I, _WRITE), (_G - RING, _WRITE)], "ink"))
    parts.append(operation(_F, TOP, "×"))
    _named(parts, _F, GATES - HALF - 10, "f_{t}")
    _named(parts, _I, GATES - HALF - 10, "i_{t}")
    _write(parts, _G)
    _show(parts, _O, passed)
    for x, passed_by, name in (
        (_F, "σ", "forget"),
        (_I, "σ", "input"),
        (_G, "tanh", "candidate"),
        (_O, "σ", "output"),
    ):
        _gate(parts, x, passed_by, name)


def _layer_norm_lstm(parts: Strokes) -> None:
    _lstm(parts, "α ⊙ LN(W {x|x_{t}}) + β ⊙ LN(R {h|h_{t−1}}) + b", "LN, tanh")


def _peephole(parts: Strokes) -> None:
    """The LSTM, and the three ways on which gates see the cell state."""
    level, top = 236.0, GATES - HALF
    parts.append(arrow([(MEET, TOP), (MEET, level), (_F - 17, level), (_F - 17, top)], "c", "dash"))
    parts.append(arrow([(_F - 17, level), (_I - 17, level), (_I - 17, top)], "c", "dash"))
    parts.append(arrow([(_O - 25, TOP), (_O - 25, top)], "c", "dash"))
    parts.append(bridge([(_F, level - 7), (_F, level + 7)]))
    _lstm(parts)
    for x, gate in ((_F - 23, "f"), (_I - 23, "i"), (_O - 31, "o")):
        parts.append(maths(x, top - 6, f"p_{{{gate}}}", "c", "end", 14))


def _coupled(parts: Strokes) -> None:
    f, g, o = 140.0, 244.0, _O
    _state(parts, TOP, [f, g], "c", "c")
    _enter(parts, [(MARGIN, BUS), (MEET, BUS)])
    _fed(parts, [f, g, o])
    parts.append(arrow([(f, GATES - HALF), (f, TOP + RING)], "ink"))
    _one_minus(parts, f, 192, g, _WRITE)
    parts.append(operation(f, TOP, "×"))
    _named(parts, f, GATES - HALF - 10, "f_{t}")
    _write(parts, g)
    _show(parts, o)
    for x, passed, name in ((f, "σ", "forget"), (g, "tanh", "candidate"), (o, "σ", "output")):
        _gate(parts, x, passed, name)


def _gru(parts: Strokes, h_part: str = "R_{n}{h|h}", x_part: str = "W_{n}{x|x}", sums: str = SUMS) -> None:
    """z and 1 − z weigh the old state and the candidate; r scales what the candidate sees of the old."""
    z, r, scaled, n = 134.0, 208.0, 275.0, 345.0
    _state(parts, TOP, [z, n], "h", "h")
    _enter(parts, [(MEET, TOP), (MEET, BUS)], sums)
    _fed(parts, [z, r, n])
    parts.append(arrow([(scaled, BUS), (scaled, GATES + RING)], "ink"))
    parts.append(arrow([(z, GATES - HALF), (z, TOP + RING)], "ink"))
    _one_minus(parts, z, 208, n, _WRITE)
    parts.append(arrow([(r + GATE / 2, GATES), (scaled - RING, GATES)], "ink"))
    parts.append(arrow([(scaled + RING, GATES), (n - GATE / 2, GATES)], "ink"))
    parts.append(arrow([(n, GATES - HALF), (n, _WRITE + RING)], "ink"))
    parts.append(arrow([(n, _WRITE - RING), (n, TOP + RING)], "ink"))
    parts += [
        operation(z, TOP, "×"),
        operation(scaled, GATES, "×"),
        operation(n, _WRITE, "×"),
        operation(n, TOP, "+"),
    ]
    _named(parts, z, GATES - HALF - 10, "z_{t}")
    _named(parts, n, GATES - HALF - 10, "n_{t}")
    parts.append(maths(r + GATE / 2 + 11, GATES - 9, "r_{t}", "", "middle", 15))
    for x, passed, name in ((z, "σ", "update"), (r, "σ", "reset"), (n, "tanh", "candidate")):
        _gate(parts, x, passed, name)
    parts.append(maths(scaled + 6, BUS - 20, h_part, "", "start", 14))
    parts.append(maths(n + 6, BUS - 20, x_part, "", "start", 14))
    parts.append(words(WIDTH - MARGIN, TOP + 22, "output", "small quiet", "end"))


def _layer_norm_gru(parts: Strokes) -> None:
    _gru(parts, "LN(R_{n}{h|h})", "LN(W_{n}{x|x})", "α ⊙ LN(W {x|x_{t}}) + β ⊙ LN(R {h|h_{t−1}}) + b")


def _rnn(parts: Strokes) -> None:
    x = (INNER_LEFT + INNER_RIGHT) / 2
    y = 220.0
    _enter(parts, [(MARGIN, BUS), (MEET, BUS)])
    parts.append(arrow([(MEET, BUS), (x, BUS), (x, y + HALF)], "ink", radius=10))
    _gate(parts, x, "tanh", "hidden", y)
    _shown(parts, x + GATE / 2 - RING, y)


def _slstm(parts: Strokes) -> None:
    """The cell state c and its normaliser n, two lines that the same gates keep and write."""
    low, scaled, divided, shown = 162.0, 218.0, 200.0, 232.0
    _state(parts, low, [106.0, _I], "n", "n")
    parts += [bridge([(x, low - 7), (x, low + 7)]) for x in (_F, _G, _O)]
    _state(parts, TOP, [_F, _G], "c", "c")
    _enter(parts, [(MARGIN, BUS), (MEET, BUS)])
    _fed(parts, [_F, _I, _G, _O])
    top = GATES - HALF
    parts.append(arrow([(_F, top), (_F, TOP + RING)], "ink"))
    parts.append(arrow([(_F, 204), (106, 204), (106, low + RING)], "ink"))
    parts.append(arrow([(_I, top), (_I, low + RING)], "ink"))
    parts.append(arrow([(_I, scaled), (_G - RING, scaled)], "ink"))
    parts.append(arrow([(_G, top), (_G, scaled + RING)], "ink"))
    parts.append(arrow([(_G, scaled - RING), (_G, TOP + RING)], "ink"))
    parts.append(arrow([(_O, TOP), (_O, divided - RING)], "c"))
    parts.append(arrow([(_O - 34, low), (_O - 34, divided), (_O - 12, divided)], "n"))
    parts.append(line([(_O, divided + RING), (_O, shown - RING)], "ink"))
    parts.append(arrow([(_O, top), (_O, shown + RING)], "ink"))
    for x, y, sign in ((_F, TOP, "×"), (_G, TOP, "+"), (106, low, "×"), (_I, low, "+"), (_G, scaled, "×")):
        parts.append(operation(x, y, sign))
    parts += [operation(_O, divided, "÷"), operation(_O, shown, "×")]
    _shown(parts, _O, shown)
    for x, gate, passed, name in (
        (_F, "f", "exp", "forget"),
        (_I, "i", "exp", "input"),
        (_G, "z", "tanh", "candidate"),
        (_O, "o", "σ", "output"),
    ):
        _gate(parts, x, passed, name)
        _named(parts, x, top - 8, f"{gate}_{{t}}")


_CELL_TO_H = ("{h|h_{t}} = o_{t} ⊙ tanh({c|c_{t}})", "hidden state")
_CELL = ("{c|c_{t}} = f_{t} ⊙ {c|c_{t−1}} + i_{t} ⊙ g_{t}", "cell state")


def _of(gate: str, passed: str, more: str = "") -> str:
    sums = f"W_{{{gate}}} {{x|x_{{t}}}} + R_{{{gate}}} {{h|h_{{t−1}}}}{more} + b_{{{gate}}}"
    return f"{gate}_{{t}} = {passed}({sums})"


def _normed(gate: str, passed: str) -> str:
    x, h = (
        f"α_{{{gate}}} ⊙ LN(W {{x|x_{{t}}}})_{{{gate}}}",
        f"β_{{{gate}}} ⊙ LN(R {{h|h_{{t−1}}}})_{{{gate}}}",
    )
    return f"{gate}_{{t}} = {passed}({x} + {h} + b_{{{gate}}})"


def _peeped(gate: str, step: str) -> str:
    return _of(gate, "σ", f" + p_{{{gate}}} ⊙ {{c|c_{{{step}}}}}")


_UPDATE = ("{h|h_{t}} = (1 − z_{t}) ⊙ n_{t} + z_{t} ⊙ {h|h_{t−1}}", "hidden state")
_RESET_PART = "r_{t} ⊙ (R_{n} {h|h_{t−1}} + b_{hn})"

_CELLS: dict[str, tuple[Callable[[Strokes], None], list[tuple[str, str]], str]] = {
    "LSTM": (
        _lstm,
        [
            (_of("i", "σ"), "input gate"),
            (_of("f", "σ"), "forget gate"),
            (_of("g", "tanh"), "candidate"),
            (_of("o", "σ"), "output gate"),
            _CELL,
            _CELL_TO_H,
        ],
        "Three gates write to, keep and show the cell state c.",
    ),
    "GRU": (
        _gru,
        [
            (_of("r", "σ"), "reset gate"),
            (_of("z", "σ"), "update gate"),
            ("n_{t} = tanh(W_{n} {x|x_{t}} + b_{in} + " + _RESET_PART + ")", "candidate"),
            _UPDATE,
        ],
        "z keeps what 1 − z does not write, and there is no cell state.",
    ),
    "RNN": (
        _rnn,
        [("{h|h_{t}} = tanh(" + SUMS + ")", "hidden state")],
        "The whole state passes through R and tanh at every step.",
    ),
    "PeepholeLSTM": (
        _peephole,
        [
            (_peeped("i", "t−1"), "input"),
            (_peeped("f", "t−1"), "forget"),
            (_of("g", "tanh"), "candidate"),
            _CELL,
            (_peeped("o", "t"), "output"),
            _CELL_TO_H,
        ],
        "Gates see the cell state, on the dashed lines.",
    ),
    "CoupledLSTM": (
        _coupled,
        [
            (_of("f", "σ"), "forget gate"),
            (_of("g", "tanh"), "candidate"),
            (_of("o", "σ"), "output gate"),
            ("{c|c_{t}} = f_{t} ⊙ {c|c_{t−1}} + (1 − f_{t}) ⊙ g_{t}", "cell state"),
            _CELL_TO_H,
        ],
        "What is forgotten is what is written: the input gate is 1 − f.",
    ),
    "LayerNormLSTM": (
        _layer_norm_lstm,
        [
            (_normed("i", "σ"), "input"),
            (_normed("f", "σ"), "forget"),
            (_normed("g", "tanh"), "candidate"),
            (_normed("o", "σ"), "output"),
            _CELL,
            ("{h|h_{t}} = o_{t} ⊙ tanh(γ ⊙ LN({c|c_{t}}) + δ)", "hidden state"),
        ],
        "LN is over the sums of all gates together, and over the cell state.",
    ),
    "LayerNormGRU": (
        _layer_norm_gru,
        [
            (_normed("r", "σ"), "reset"),
            (_normed("z", "σ"), "update"),
            (
                "n_{t} = tanh(α_{n} ⊙ LN(W_{n} {x|x_{t}}) + b_{in} + "
                "r_{t} ⊙ (β_{n} ⊙ LN(R_{n} {h|h_{t−1}}) + b_{hn}))",
                "",
            ),
            _UPDATE,
        ],
        "LN is over the sums of r and z together, and over those of n.",
    ),
    "SLSTM": (
        _slstm,
        [
            ("a_{i}, a_{f}, a_{z}, a_{o} = " + SUMS, "sums"),
            ("m_{t} = max(log σ(a_{f}) + m_{t−1}, a_{i})", "stabiliser"),
            ("i_{t} = exp(a_{i} − m_{t})", "input gate"),
            ("f_{t} = exp(log σ(a_{f}) + m_{t−1} − m_{t})", "forget gate"),
            ("z_{t} = tanh(a_{z})", "candidate"),
            ("o_{t} = σ(a_{o})", "output gate"),
            ("{c|c_{t}} = f_{t} ⊙ {c|c_{t−1}} + i_{t} ⊙ z_{t}", "cell state"),
            ("{n|n_{t}} = f_{t} ⊙ {n|n_{t−1}} + i_{t}", "normaliser"),
            ("{h|h_{t}} = o_{t} ⊙ {c|c_{t}} / {n|n_{t}}", "hidden state"),
        ],
        "n normalises c; m, which keeps exp in range, is not drawn.",
    ),
}
