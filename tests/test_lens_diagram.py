"""The drawing of a network: well-formed, the same each time, and with the shapes that the layer returns."""

from __future__ import annotations

import re
import types
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from recurra import nn
from recurra.errors import ArgumentError
from recurra.lens import diagrams as drawings
from recurra.lens.cell_diagrams import cell_diagram
from recurra.lens.diagrams import diagram, draw_in_notebooks

ROOT = Path(__file__).resolve().parent.parent
SVG = "{http://www.w3.org/2000/svg}"
CELLS = (
    "LSTM",
    "GRU",
    "RNN",
    "PeepholeLSTM",
    "CoupledLSTM",
    "LayerNormLSTM",
    "LayerNormGRU",
    "SLSTM",
)


def read(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def said(svg: str | ET.Element) -> list[str]:
    """Each text of a drawing."""
    root = read(svg) if isinstance(svg, str) else svg
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def tensors(svg: str) -> dict[str, tuple[Any, ...]]:
    """Name → shape, as the tables under a drawing have them; the same must stand in words."""
    found = {}
    for row in read(svg).iter(f"{SVG}g"):
        if (name := row.get("data-tensor")) is not None:
            assert row.get("data-shape") == said(row)[1]
            found[name] = tuple(
                int(size) if size.isdigit() else size for size in re.findall(r"\w+", said(row)[1])
            )
    return found


def flat(value: Any) -> list[tuple[int, ...]]:
    if isinstance(value, Tensor):
        return [tuple(value.shape)]
    return [shape for item in value for shape in flat(item)]


def _each(states: Any) -> tuple[Tensor, ...]:
    return (states,) if isinstance(states, Tensor) else tuple(states)


def same(svg: str, **names: Any) -> list[str]:
    """The equalities that a drawing states, each held against the tensors."""
    stated = [row.get("data-same") or "" for row in read(svg).iter(f"{SVG}g") if row.get("data-same")]
    for statement in stated:
        left, right = (eval(side, {}, names) for side in statement.split(" == "))
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    return stated


def _layers() -> dict[str, Callable[..., Any]]:
    made = {name: getattr(nn, name) for name in nn.__all__ if re.search(r"(LSTM|GRU|RNN)$", name)}
    return made | {f"torch.{name}": getattr(torch.nn, name) for name in ("LSTM", "GRU", "RNN")}


@pytest.mark.parametrize("name", _layers())
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (5, 2, 1), (2, 33, 3), (4, 3), (1, 1)])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_shapes_are_those_that_the_layer_returns(
    name: str, shape: tuple[int, ...], batch_first: bool, bidirectional: bool
) -> None:
    depth = 1 + shape[0] % 3
    how = {"num_layers": depth, "batch_first": batch_first, "bidirectional": bidirectional}
    layer = _layers()[name](shape[-1], 7, **how)
    x = torch.randn(shape)
    output, states = layer(x)
    svg = diagram(layer, shape)
    drawn = tensors(svg)
    ends = [shape for key, shape in drawn.items() if key.endswith("_n")]
    starts = [shape for key, shape in drawn.items() if key.endswith("_0")]
    assert drawn["x"] == shape
    assert drawn["output"] == tuple(output.shape)
    assert starts == ends == flat(states)
    texts = said(svg)
    assert texts[texts.index("output") + 1] == str(tuple(output.shape))
    for key, state in zip((k for k in drawn if k.endswith("_n")), _each(states), strict=True):
        for place, own in enumerate(state):  # what leaves each row of cells
            assert texts[texts.index(f"{key}[{place}]") + 1] == str(tuple(own.shape))
    h_n = states if isinstance(states, Tensor) else states[0]
    assert len(same(svg, output=output, h_n=h_n)) == (0 if name == "MLSTM" else 1 + bidirectional)
    for given in (x, (x,), [x, states]):
        assert svg == diagram(layer, given), "the same for a tensor of this shape, and each time"


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # torch's own layer
@pytest.mark.parametrize("name", ["LSTM", "torch.LSTM", "PeepholeLSTM", "CoupledLSTM"])
def test_a_projection_is_the_size_of_h_alone(name: str) -> None:
    layer = _layers()[name](5, 9, num_layers=2, bidirectional=True, proj_size=3, batch_first=True)
    output, (h_n, c_n) = layer(torch.randn(7, 4, 5))
    svg = diagram(layer, (7, 4, 5))
    drawn = tensors(svg)
    assert (drawn["output"], drawn["h_n"], drawn["c_n"]) == (output.shape, h_n.shape, c_n.shape)
    assert same(svg, output=output, h_n=h_n) == [
        "output[:, -1, :3] == h_n[2]",
        "output[:, 0, 3:] == h_n[3]",
    ]
    arrows = [text for text in said(svg) if text == "(7, 3)"]
    assert len(arrows) == 2 + 4 * 2, "what goes up from each layer, and both ends of each row of cells"
    assert "N 7 · T 4 · F 5 · P 3 · H 9 · L 2 · D 2" in said(svg)


@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "none"])
@pytest.mark.parametrize("connection", [None, "residual", "highway"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_a_stack_has_sizes_for_each_layer(merge: str, connection: str | None, cell: str) -> None:
    stack = nn.Stacked(
        3, (7, 5, 5), cell=cell, bidirectional=True, merge=merge, connection=connection, batch_first=True
    )
    output, states = stack(torch.randn(2, 6, 3))
    svg = diagram(stack, (2, 6, 3))
    drawn = tensors(svg)
    assert [shape for key, shape in drawn.items() if key.startswith("output")] == flat(output)
    assert [shape for key, shape in drawn.items() if key.startswith("states")] == flat(states)
    assert [shape for key, shape in drawn.items() if key.startswith("hx")] == flat(states)
    joined = merge in ("sum", "mean") or connection is not None
    assert len(same(svg, output=output, states=states)) == (0 if joined else 2)
    words = "\n".join(said(svg))
    assert (f"{merge} of both directions" in words) == (merge in ("sum", "mean"))
    assert ("residual: h + P x" in words) == (connection == "residual")
    assert ("highway: t ⊙ h + (1 − t) ⊙ P x" in words) == (connection == "highway")


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
@pytest.mark.parametrize("shape", [(7, 3), (1, 3), (3,)])
@pytest.mark.parametrize("home", [nn, torch.nn])
def test_a_cell_takes_one_step(name: str, shape: tuple[int, ...], home: Any) -> None:
    cell = getattr(home, name)(3, 9)
    states = flat(cell(torch.randn(shape)))
    drawn = tensors(diagram(cell, shape))
    assert drawn.pop("x") == shape
    assert [shape for key, shape in drawn.items() if key.endswith("'")] == states
    assert [shape for key, shape in drawn.items() if not key.endswith("'")] == states
    assert tensors(diagram(cell))["h"] == ("N", 9)
    assert "···" not in said(diagram(cell))


def test_packed_rows_are_counted_together() -> None:
    layer = nn.GRU(3, 7, bidirectional=True)
    packed = pack_sequence([torch.randn(steps, 3) for steps in (6, 4, 1)])
    output, h_n = layer(packed)
    drawn = tensors(diagram(layer, packed))
    assert drawn["x"] == (11, 3)
    assert (drawn["output"], drawn["h_n"]) == (tuple(output.data.shape), tuple(h_n.shape))


def test_letters_stand_where_no_input_is_given() -> None:
    layer = torch.nn.LSTM(5, 9, num_layers=2, batch_first=True)
    drawn = tensors(diagram(layer))
    assert drawn["x"] == ("N", "T", 5)
    assert drawn["output"] == ("N", "T", 9)
    assert drawn["h_n"] == drawn["c_n"] == (2, "N", 9)
    assert "xT" in said(diagram(layer)), "x with T beneath the line"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, "1"), (2, "12"), (4, "1234"), (5, "125"), (63, ["1", "2", "63"])],
)
def test_the_first_two_steps_and_the_last_are_drawn(steps: int, expected: Any) -> None:
    texts = said(diagram(torch.nn.RNN(1, 1), (steps, 3, 1)))
    assert [text[1:] for text in texts if re.fullmatch(r"x\d+", text)] == list(expected)
    assert ("···" in texts) == (steps > 4)


def test_of_many_layers_the_first_two_and_the_last_are_drawn() -> None:
    texts = said(diagram(nn.LSTM(3, 7, num_layers=9), (5, 2, 3)))
    assert {text for text in texts if text.startswith("layer ")} == {"layer 0", "layer 1", "layer 8"}
    assert "⋮  layers 2 to 7, 6 like layer 1" in texts
    assert "h_n[8]" in texts
    assert "⋮  layer 2, like layer 1" not in said(diagram(nn.LSTM(3, 7, num_layers=4), (5, 2, 3)))


def test_states_of_both_directions_stand_at_the_end_where_they_leave() -> None:
    svg = diagram(torch.nn.GRU(3, 7, bidirectional=True), (5, 2, 3))
    at = {"".join(text.itertext()): float(text.get("x", 0)) for text in read(svg).iter(f"{SVG}text")}
    assert at["h_0[0]"] < at["h_n[0]"], "forward: in on the left"
    assert at["h_n[1]"] < at["h_0[1]"], "reverse: in on the right"


class Tagger(torch.nn.Module):
    """An embedding, an LSTM, the last step of its output, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(33, 5)
        self.lstm = torch.nn.LSTM(5, 7, bidirectional=True, batch_first=True)
        self.head = torch.nn.Linear(14, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        output, _ = self.lstm(self.embed(tokens))
        return self.head(output[:, -1])


class Translator(torch.nn.Module):
    """A decoder that begins at the encoder's h_n, and reads what no module made."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(3, 7, batch_first=True), nn.GRU(3, 7, batch_first=True)
        self.out = torch.nn.Linear(7, 9)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _, h_n = self.encoder(source)
        return self.out(self.decoder(target * 2, h_n)[1]).softmax(-1)


def test_a_model_is_a_column_of_its_modules_with_what_each_reads() -> None:
    model = Tagger().train()
    texts = said(diagram(model, (4, 6)))
    order = [text for text in texts if text in ("Embedding", "LSTM", "Linear", "returns", "input")]
    assert order[:2] == ["returns", "Linear"]
    assert order[-2:] == ["Embedding", "input"], "it reads upwards"
    for shape in ("(4, 3)", "(4, 14)", "(4, 6, 5)", "(4, 6)"):
        assert shape in texts
    assert "output at step 6" in texts
    assert "reverse has read 1 step of 6" in texts
    assert tensors(diagram(model, (4, 6)))["h_n"] == (2, 4, 7)
    assert model.training
    assert model.head.training
    assert not model.lstm._forward_hooks


@pytest.mark.parametrize("shape", [(4, 6), (1, 1)])
def test_a_model_need_have_no_memory(shape: tuple[int, int]) -> None:
    assert diagram(Tagger().to("meta"), shape) == diagram(Tagger(), shape)


def test_a_module_says_where_its_input_comes_from() -> None:
    source, target = torch.randn(2, 6, 3), torch.randn(2, 1, 3)
    for input in ((source, target), {"source": source, "target": target}):
        texts = said(diagram(Translator(), input))
        assert "made by other operations" in texts
        assert "and h_n of encoder" in texts
        assert "h_n of decoder" in texts


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (lambda output: output[0], "output at step 1"),
        (lambda output: output[-2:-1], "output at step 10"),
        (lambda output: output[-3:], "a part of output"),
        (lambda output: output[:, 1], "a part of output"),
        (lambda output: output.transpose(0, 1), ""),
        (lambda output: output[-1].clone(), "made by other operations"),
    ],
)
def test_a_part_of_the_output_is_told_from_all_of_it(part: Callable[[Tensor], Tensor], expected: str) -> None:
    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = torch.nn.RNN(3, 7), torch.nn.Linear(7, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(part(self.rnn(x)[0]))

    known = re.compile(r"output at step \d+|a part of output|made by other operations")
    told = [text for text in said(diagram(Part(), (11, 5, 3))) if known.fullmatch(text)]
    assert told == ([expected] if expected else [])


def test_arguments_by_name_are_told_apart() -> None:
    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 7)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(hx=torch.zeros(1, 5, 7), input=x)[0]

    assert tensors(diagram(Named(), (11, 5, 3)))["x"] == (11, 5, 3)


def test_without_an_input_a_model_has_no_arrows_between_its_modules() -> None:
    texts = said(diagram(Tagger()))
    assert "In the order in which modules are registered." in texts
    assert not {"input", "returns"} & set(texts)
    assert "(N, T, 5)" in texts


def test_a_module_that_is_called_again_is_drawn_once() -> None:
    class Loop(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(3, 7)

        def forward(self, x: Tensor) -> Tensor:
            states = None
            for step in x:
                states = self.cell(step, states)
            return states[0]

    texts = said(diagram(Loop(), (11, 1, 3)))
    assert "LSTMCell × 11" in texts
    assert "Reads upwards, in the order of the first calls, with their shapes." in texts


def test_a_long_row_of_modules_is_cut() -> None:
    model = torch.nn.Sequential(*(torch.nn.ReLU() for _ in range(33)), torch.nn.RNN(3, 1))
    texts = said(diagram(model, (5, 3)))
    assert "⋮  27 modules more" in texts
    assert len([text for text in texts if text == "ReLU"]) == 6


def test_drawing_changes_no_random_number_and_no_parameter() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.LSTM(3, 7))
    before, weights = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    diagram(model, (5, 2, 3))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


HOSTILE = '<script>alert("1")</script>&amp;\x00\x1b\ud800]]>'


def test_names_of_modules_are_escaped() -> None:
    model = torch.nn.Module()
    model.add_module("<b>&\"'</b>", torch.nn.LSTM(3, 7))
    model.forward = lambda x: next(model.children())(x)[0]  # type: ignore[method-assign]
    for svg in (diagram(model, (5, 3)), diagram(model, (5, 3), title=HOSTILE), diagram(model)):
        assert "<b>&\"'</b>" in said(svg)
        assert "<script" not in svg
    assert any("alert(" in text for text in said(diagram(torch.nn.RNN(1, 1), title=HOSTILE)))


@pytest.mark.parametrize("theme", ["auto", "light", "dark"])
@pytest.mark.parametrize("draw", [lambda theme: diagram(Tagger(), (4, 6), theme=theme), None])
def test_a_drawing_stands_alone(theme: str, draw: Any) -> None:
    for kind in CELLS if draw is None else ("",):
        svg = cell_diagram(kind, theme=theme) if draw is None else draw(theme)
        root = read(svg)
        assert root.get("role") == "img"
        assert float(root.get("width", 0)) <= 480, "text of 12 would be too small on a telephone"
        names = (root.get("aria-labelledby") or "").split()
        assert [root.find(f"*[@id='{name}']").tag for name in names] == [f"{SVG}title", f"{SVG}desc"]
        assert len(root.findtext(f"{SVG}desc") or "") > 60
        assert not re.search(
            r"(href|src|url\(|@import|<image|<use|<script|http(?!://www\.w3\.org/2000/svg))", svg
        )
        assert ("prefers-color-scheme" in svg) == (theme == "auto")
        assert not any("None" in text or "nan" in text for text in said(svg))


@pytest.mark.parametrize(
    "svg", [diagram(nn.LSTM(1000, 1024, 2, bidirectional=True), (1024, 512, 1000)), None]
)
def test_text_stays_on_the_paper(svg: str | None) -> None:
    drawn = [svg] if svg else [cell_diagram(kind) for kind in CELLS]
    for root in map(read, drawn):
        width = float(root.get("width", 0))
        for text in root.iter(f"{SVG}text"):
            size = re.search(r"font-size:([\d.]+)px", text.get("style") or "")
            kind = (text.get("class") or "").split()
            letter = 0.603 if "mono" in kind else 0.43 if "maths" in kind else 0.52
            length = letter * float(size[1] if size else 12) * len("".join(text.itertext()))
            start = float(text.get("x", 0)) - {"middle": length / 2, "end": length}.get(
                text.get("text-anchor") or "", 0
            )
            assert start >= 0, "".join(text.itertext())
            assert start + length <= width, "".join(text.itertext())


def test_the_pictures_of_the_docs_are_these_drawings() -> None:
    layer = torch.nn.LSTM(8, 128, num_layers=2, bidirectional=True, batch_first=True)
    shapes = diagram(layer, (32, 50, 8), title="torch.nn.LSTM")
    for name, svg in (("lstm-shapes.svg", shapes), ("lstm-cell.svg", cell_diagram("LSTM"))):
        assert (ROOT / "docs" / "images" / name).read_text(encoding="utf-8") == svg


@pytest.mark.parametrize("kind", CELLS)
def test_the_inside_of_a_cell_has_its_equations(kind: str) -> None:
    texts = said(cell_diagram(kind))
    assert f"{kind} cell" in texts
    equations = [text for text in texts if " = " in text]
    assert len(equations) == {
        "LSTM": 6,
        "GRU": 4,
        "RNN": 1,
        "CoupledLSTM": 5,
        "LayerNormGRU": 4,
        "SLSTM": 9,
    }.get(kind, 6)
    if kind in ("LSTM", "CoupledLSTM", "PeepholeLSTM"):
        assert "ht = ot ⊙ tanh(ct)" in equations


def test_a_cell_diagram_takes_a_layer_or_cell() -> None:
    assert cell_diagram(nn.PeepholeLSTM(3, 7)) == cell_diagram("PeepholeLSTM")
    assert cell_diagram(torch.nn.GRUCell(3, 7)) == cell_diagram("GRU")
    assert cell_diagram(nn.LSTM(3, 7)) == cell_diagram("LSTM")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: diagram(torch.nn.Linear(3, 7)),
            r"^model: expected a recurrent .* got Linear, .*; give a layer",
        ),
        (lambda: diagram("LSTM"), r"^model: expected .* got str"),
        (lambda: diagram(nn.LSTM(3, 7), (5, 2, 4)), r"^input: .*\(T, N, F\).*F = 3, got \(5, 2, 4\); give"),
        (lambda: diagram(nn.LSTM(3, 7), (5, 2, 4, 3)), r"^input: .*got \(5, 2, 4, 3\)"),
        (
            lambda: diagram(nn.LSTM(3, 7, batch_first=True), (0, 2, 3)),
            r"^input: .*\(N, T, F\).*got \(0, 2, 3\)",
        ),
        (lambda: diagram(nn.LSTM(3, 7), "long"), r"^input: .*got str"),
        (lambda: diagram(nn.LSTM(3, 7), (5.0, 2, 3)), r"^input: .*got tuple"),
        (lambda: diagram(nn.GRUCell(3, 7), (5, 2, 3)), r"^input: .*\(N, F\) or \(F,\).*got \(5, 2, 3\)"),
        (
            lambda: diagram(nn.MinGRU(3, 7), pack_sequence([torch.ones(2, 3)])),
            r"^input: .*got a PackedSequence",
        ),
        (
            lambda: diagram(nn.GRU(3, 7), pack_sequence([torch.ones(2, 4)])),
            r"got a PackedSequence of 4 features",
        ),
        (lambda: diagram(Tagger(), (4, 0)), r"^input: expected a shape of sizes of 1 or more, got \(4, 0\)"),
        (
            lambda: diagram(Tagger(), torch.ones(4, 6)),
            r"^input: expected what Tagger .* \(4, 6\), .*RuntimeError",
        ),
        (
            lambda: diagram(Translator(), (2, 6, 3)),
            r"^input: .*TypeError.*; give an example input, or a tuple",
        ),
        (lambda: diagram(nn.LSTM(3, 7), theme="blue"), r"^theme: expected one of 'auto', .*got 'blue'"),
        (lambda: cell_diagram("lstm"), r"^kind: expected one of LSTM, .*got 'lstm'; name"),
        (lambda: cell_diagram(torch.nn.Linear(3, 7)), r"^kind: .*got 'Linear'"),
    ],
)
def test_an_error_names_what_was_wrong(call: Callable[[], str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


def test_a_model_that_fails_is_left_as_it_was() -> None:
    model = Tagger().train()
    with pytest.raises(ArgumentError):
        diagram(model, torch.ones(4, 6))
    assert model.lstm.training
    assert not model.embed._forward_hooks


def test_layers_draw_themselves_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[type, Callable[[Any], str | None]] = {}
    formatter = types.SimpleNamespace(for_type=drawn.__setitem__)
    shell = types.SimpleNamespace(
        display_formatter=types.SimpleNamespace(formatters={"image/svg+xml": formatter})
    )
    monkeypatch.setitem(drawings.sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    layer = nn.LSTM(3, 7)
    before = repr(layer)
    assert draw_in_notebooks()
    assert drawn[torch.nn.RNNBase](layer) == diagram(layer)
    assert drawn[nn.Stacked](nn.Stacked(3, (7,))).startswith("<svg")
    assert repr(layer) == before
    del layer.hidden_size
    assert drawn[torch.nn.RNNBase](layer) is None, "and so IPython shows the repr"


def test_outside_of_a_notebook_nothing_draws_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(drawings.sys.modules, "IPython", raising=False)
    assert not draw_in_notebooks()
