"""What the page is told: by the server, and by the functions behind it."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the page needs FastAPI: pip install 'recurra[lens]'")
pytest.importorskip("uvicorn", reason="the page needs uvicorn: pip install 'recurra[lens]'")

from web_server import Counter, Reader, asked, served, taken_port, unpacked

import recurra
from recurra import nn
from recurra.data.table import Panel
from recurra.errors import ArgumentError
from recurra.lens.calls import recurrent_modules
from recurra.web import findings
from recurra.web.equations import strongest, unit_numbers
from recurra.web.lesson import KINDS, ROUNDS, STEPS, Lesson, draw
from recurra.web.recording import MOST_STEPS, packed_trace, record
from recurra.web.server import PORTS, build_app, free_socket, serve
from recurra.web.subject import last_numbers, open_subject, parse_numbers

STATIC = Path(recurra.__file__).parent / "web" / "static"
LAYERS = ["LSTM", "GRU", "RNN", "PeepholeLSTM", "CoupledLSTM"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    torch.manual_seed(33)
    with served(Counter(layers=2), torch.randn(5, 21, 2)) as found:
        yield found


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_numbers_of_a_unit_give_its_states(kind: str, bidirectional: bool) -> None:
    layer = getattr(nn, kind)(3, 7, num_layers=2, bidirectional=bidirectional, batch_first=True)
    states = [torch.randn(2 + 2 * bidirectional, 1, 7) for _ in range(1 + layer.has_cell_state)]

    class Begun(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x, tuple(states) if layer.has_cell_state else states[0])[0]

    recording = record(Begun(), (torch.randn(1, 9, 3),), "layer")
    for trace in recording.traces:
        found = unit_numbers(recording, trace.layer, int(trace.reverse), 5)
        assert found["written"]
        assert found["exact"]
        assert found["h"] == pytest.approx(trace.hidden[0, :, 5].tolist(), abs=1e-5)
        for name in trace.gate_names:
            assert found["gates"][name]["value"] == pytest.approx(
                trace.gate(name)[0, :, 5].tolist(), abs=1e-5
            )
        products = strongest(recording, trace.layer, int(trace.reverse), 5, 4)
        first = next(iter(products))
        if trace.layer == 0:  # three inputs: all of their products are there
            total = sum(weight * value for _, weight, value in products[first]["x"])
            assert total == pytest.approx(found["gates"][first]["wx"][4], abs=1e-4)


def test_numbers_that_do_not_give_the_states_say_so() -> None:
    layer = nn.LSTM(3, 7, zoneout=0.5, batch_first=True).eval()
    found = unit_numbers(record(layer, (torch.randn(1, 9, 3),), ""), 0, 0, 0)
    assert found["written"]
    assert not found["exact"]


def test_a_cell_whose_equations_are_not_written_has_values() -> None:
    recording = record(nn.MinGRU(3, 7, batch_first=True), (torch.randn(1, 9, 3),), "")
    found = unit_numbers(recording, 0, 0, 6)
    assert not found["written"]
    assert len(found["h"]) == 9
    with pytest.raises(ArgumentError, match="no such sum"):
        strongest(recording, 0, 0, 6, 3)


def test_the_trace_is_the_layers_own(address: str) -> None:
    torch.manual_seed(33)
    model, data = Counter(layers=2), torch.randn(5, 21, 2)
    ours = nn.LSTM(2, 7, num_layers=2, bidirectional=True, batch_first=True)
    ours.load_state_dict(model.rnn.state_dict())
    truth = ours.trace(data[3:4])[3]
    body = {"sample": {"index": 3}, "module": "rnn", "layer": 1, "direction": 1}
    status, answer = asked(address, "api/trace", body)
    header, arrays = unpacked(answer)
    assert status == 200
    assert header["answer"]["output"] == pytest.approx(model(data[3:4])[0].tolist(), abs=1e-6)
    assert list(arrays) == ["input", "forget", "candidate", "output", "cell", "hidden"]
    for name, values in arrays.items():
        wanted = getattr(truth, name) if name in ("cell", "hidden") else truth.gate(name)
        assert torch.allclose(values, wanted[0], atol=1e-6)


def test_typed_numbers_are_run(address: str) -> None:
    text = "\n".join(f"{step / 10}, {-step}" for step in range(7))
    _, answer = asked(address, "api/trace", {"sample": {"text": text}, "module": "rnn"})
    header, _ = unpacked(answer)
    assert header["length"] == 7
    assert header["strip"]["x2"] == [0, -1, -2, -3, -4, -5, -6]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"sample": {"index": 5}, "module": "rnn"}, "0 to 4"),
        ({"sample": {"index": 0}, "module": "nn"}, "one of 'rnn'"),
        ({"sample": {"index": 0}, "module": "rnn", "layer": 2}, "no such|none such"),
        ({"sample": {"text": "1 2 3"}, "module": "rnn"}, "2 numbers on each line"),
        ({"sample": {"text": "a b"}, "module": "rnn"}, "got 'a'"),
        ({"sample": {"text": " "}, "module": "rnn"}, "at least one number"),
        ({"sample": 3, "module": "rnn"}, "load the page anew"),
        ({"sample": {"index": 0}, "module": "rnn", "layer": "x"}, "whole number"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(address: str, body: object, words: str) -> None:
    status, answer = asked(address, "api/trace", body)
    assert status == 400
    assert re.search(words, json.loads(answer)["error"])


def test_findings_are_refused_in_a_sentence(address: str) -> None:
    here = {"sample": {"index": 0}, "module": "rnn"}
    for what, more in [
        ("nothing", {}),
        ("edited", {"name": "reset", "to": 0}),
        ("edited", {"name": "cell", "to": "x"}),
        ("edited", {"name": "cell", "to": 0, "units": "all"}),
        ("edited", {"name": "cell", "to": 0, "units": [7]}),
        ("edited", {"name": "cell", "to": 0, "steps": [-1]}),
        ("edited", {"name": "cell", "to": 0, "steps": []}),
        ("edited", {"name": "cell", "to": None}),
        ("mattered", {"method": "luck"}),
        ("mattered", {"method": "occlusion", "component": 3}),
    ]:
        status, answer = asked(address, f"api/find/{what}", {**here, **more})
        assert status == 400, what
        assert len(json.loads(answer)["error"]) > 20


def test_only_this_machine_is_answered(address: str) -> None:
    assert asked(address, "api/alive")[0] == 200
    assert asked(address, "api/alive", headers={"Host": "elsewhere.example"})[0] == 400


def test_nothing_comes_from_elsewhere(address: str) -> None:
    with urllib.request.urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    for path in STATIC.rglob("*"):
        if path.suffix in (".html", ".js", ".css", ".json"):
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert "http" not in text.replace('"http"', ""), path


def test_every_word_is_in_both_languages() -> None:
    english, chinese = (
        json.loads((STATIC / "strings" / f"{c}.json").read_text("utf-8")) for c in ("en", "zh")
    )
    assert list(english) == list(chinese)
    script = "\n".join(path.read_text("utf-8") for path in (STATIC / "js").glob("*.js"))
    for key, words in english.items():
        assert sorted(re.findall(r"\{\w+\}", words)) == sorted(re.findall(r"\{\w+\}", chinese[key])), key
        assert chinese[key] == words or re.search(r"[一-鿿]", chinese[key]), key
    for key in re.findall(r'say\("([\w.]+)"', script):
        assert key in english
    families = {match.split("${")[0] for match in re.findall(r"say\(`([^`]+)`", script)}
    for key in english:
        if key.startswith("refused."):
            continue  # the server says these
        used = f'"{key}"' in script or any(key.startswith(family) for family in families)
        assert used, f"nothing says {key}"


def test_long_samples_are_thinned_and_say_so() -> None:
    layer = nn.GRU(1, 3, batch_first=True)
    recording = record(layer, (torch.randn(1, 2 * MOST_STEPS + 1, 1),), "")
    header, arrays = unpacked(packed_trace(recording, 0, 0, (), {}))
    assert header["every"] == 3
    assert torch.equal(arrays["hidden"], recording.traces[0].hidden[0, ::3])
    assert len(unit_numbers(recording, 0, 0, 1)["h"]) == len(arrays["hidden"])


def test_each_finding_is_there_for_each_kind_of_input() -> None:
    for model, data in [
        (Counter(), torch.randn(3, 9, 2)),
        (Reader(), ["the cat sat on a mat .", "a dog sat ."]),
        (torch.nn.RNN(1, 3), torch.randn(2, 7, 1)),
    ]:
        subject = open_subject(model, data)
        sample = subject.sample(0)
        (path,) = recurrent_modules(model)
        together = findings.together(subject, sample)
        steps = sample.inputs[0].shape[1 - subject.axis]
        memory = findings.memory(model, together, path, 0, 0)
        assert len(memory["hidden_fade"]) == steps
        assert len(findings.context(subject, sample.inputs, model)["relative"]) == steps
        lines = findings.gradients(subject, sample.inputs, path)["lines"]
        assert len(lines[0]["hidden"]) == steps
        assert len(findings.compared(record(model, sample.inputs, path))["RNN"]) == steps
        for method in ("gradients", "occlusion"):
            assert len(findings.mattered(subject, sample, 0, method)["values"]) == steps
        assert findings.drawn(subject, sample.inputs, "dark").startswith("<svg")


def test_an_edit_changes_the_answer_and_units_are_ranked() -> None:
    model = Counter()
    subject = open_subject(model, torch.randn(3, 9, 2))
    sample = subject.sample(0)
    moved = findings.ablated(subject, sample.inputs, "rnn", 0, 0)["moved"]
    assert len(moved) == 7
    header, arrays = unpacked(
        findings.edited(subject, sample, "rnn", {"name": "cell", "to": 0, "units": [4]})
    )
    assert abs(header["after"][0] - header["before"][0]) == pytest.approx(moved[4], abs=1e-6)
    assert header["before"] == pytest.approx(model(sample.inputs[0])[0].tolist(), abs=1e-6)
    assert (arrays["cell"][:, 4] == 0).all()


def test_words_are_read_as_the_vocabulary_has_them() -> None:
    subject = open_subject(Reader(), ["The cat sat."])
    assert subject.kind == "words"
    assert subject.sample(0).labels == ("the", "cat", "sat", ".")
    assert subject.typed is not None
    with pytest.raises(ArgumentError, match="does not know 'bird'"):
        subject.typed("a bird")
    assert open_subject(Reader(unknown=True), None).typed("a bird").labels == ("a", "bird")
    with pytest.raises(ArgumentError, match="at least one word"):
        subject.typed("  ")


def test_a_forecaster_is_shown_on_its_table() -> None:
    rows = 60 + 10 * np.sin(np.arange(90) / 2) + np.arange(90) / 9
    panel = Panel.from_arrays({"sales": rows}, "MS", "2015-01-01")
    model = recurra.Forecaster(3, epochs=1, members=1).fit(panel)
    subject = open_subject(model, panel)
    sample = subject.sample(0)
    recording = record(subject.network, sample.inputs, "members.0.lstm")
    assert subject.titles[0].startswith("sales")
    assert len(sample.labels) == int(recording.traces[0].lengths[0])
    assert sample.told is not None
    median = model.quantiles.index(0.5)
    assert sample.told["forecast"] == pytest.approx(
        model.predict(panel).values[0, :, median].tolist(), rel=1e-5
    )
    assert subject.typed is not None
    assert len(subject.typed(" ".join(map(str, rows))).inputs) == 4
    found = findings.ablated(subject, sample.inputs, "members.0.lstm", 0, 0)
    assert max(value for value in found["moved"]) > 0 or float(model.network.trust) == 0
    with pytest.raises(ArgumentError, match="data is missing"):
        open_subject(model)


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (7, None, "expected a torch.nn.Module"),
        (Counter(), torch.randn(3), "fail|shape"),
        (Counter(), ["words"], "sequences of numbers"),
        (Counter(), [], "at least one sequence"),
        (Counter(), 7, "list of sequences of numbers"),
        (Reader(), "the cat", "list of sentences"),
        (Reader(), [], "at least one sentence"),
        (Counter(), torch.randn(2, 0, 2), "at least one step"),
    ],
)
def test_bad_models_and_data(model: object, data: object, words: str) -> None:
    def shown() -> None:
        subject = open_subject(model, data)
        record(subject.network, subject.sample(0).inputs, "rnn")

    with pytest.raises(ArgumentError, match=words):
        shown()


def test_a_model_without_recurrence_is_refused() -> None:
    with pytest.raises(ArgumentError, match="recurrent layer"):
        build_app(torch.nn.Linear(2, 2))


def test_typed_numbers() -> None:
    assert parse_numbers("1, 2\n3 4;-5e1\t.5", 2).tolist() == [[1, 2], [3, 4], [-50, 0.5]]
    for text in ("inf", "nan", "1 x"):
        with pytest.raises(ArgumentError, match="expected numbers"):
            parse_numbers(text, 1)
    with pytest.raises(ArgumentError, match="at most"):
        parse_numbers("1 " * 20_001, 1)


def test_the_last_numbers_of_an_output() -> None:
    output = torch.randn(3, 5, 7)
    assert torch.equal(last_numbers((output, 0), 0), output[:, -1])
    assert torch.equal(last_numbers({"y": output}, 1), output[-1])
    assert last_numbers(torch.ones(3), 0).shape == (3, 1)
    with pytest.raises(ArgumentError, match="returns a tensor"):
        last_numbers(None, 0)


def test_the_lesson_trains_what_it_says() -> None:
    lesson = Lesson()
    assert lesson.status()["state"] == "training"
    for _ in range(600):
        status = lesson.status()
        if status["state"] != "training":
            break
        time.sleep(0.05)
    assert status["state"] == "ready"
    errors = {kind: network["error"] for kind, network in status["networks"].items()}
    assert errors["lstm"] < 0.1
    assert errors["gru"] < 0.1
    assert errors["rnn"] > 0.3
    x, wanted, _ = draw(63, torch.Generator().manual_seed(1))
    for kind, network in status["networks"].items():
        layer = KINDS[kind](2, status["hidden"], batch_first=True)
        layer.load_state_dict({n: torch.tensor(network[n]) for n in layer.state_dict()})
        with torch.no_grad():
            answer = layer(x)[0][:, -1] @ torch.tensor(network["top_weight"]) + network["top_bias"]
        assert math.sqrt(float((answer - wanted).square().mean())) == pytest.approx(errors[kind], rel=0.5)
        assert len(network["error_by_age"]) == STEPS


def test_a_lesson_that_is_stopped_ends_at_once() -> None:
    lesson = Lesson()
    lesson.status()
    lesson.stop()
    assert lesson.done < ROUNDS * len(KINDS)
    assert lesson.status()["state"] == "failed"


def test_the_next_port_is_taken_where_one_is_in_use() -> None:
    with taken_port() as taken:
        port = taken.getsockname()[1]
        with free_socket("127.0.0.1", port) as found:
            assert port < found.getsockname()[1] < port + PORTS
    for host, port, words in [("127.0.0.1", 65536, "65535"), ("256.1.1.1", 8765, "nothing can be served")]:
        with pytest.raises(ArgumentError, match=words):
            free_socket(host, port)


def test_serve_says_where_it_is_and_stops_at_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import torch\n\ndef net():\n    return torch.nn.GRU(1, 3)\n")
    command = [sys.executable, "-m", "recurra.cli", "inspect", "mine:net", "--no-browser", "--port", "8790"]
    code = "import sys; from recurra.cli import main; sys.argv[0] = 'recurra'; main()"
    command[1:3] = ["-c", code]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=env) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line
        address = line.split()[0]
        assert json.loads(asked(address, "api/model")[1])["layers"][0]["class"] == "GRU"
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0


def test_serve_refuses_before_it_serves() -> None:
    with pytest.raises(ArgumentError, match="port"):
        serve(Counter(), None, port=-1)
