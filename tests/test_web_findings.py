"""Search and before-and-after, and refusals in the page's languages: what the server tells."""

from __future__ import annotations

import ast
import copy
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the page needs FastAPI: pip install 'recurra[lens]'")
pytest.importorskip("uvicorn", reason="the page needs uvicorn: pip install 'recurra[lens]'")

from web_server import Counter, Reader, served

import recurra
from recurra.data.table import Panel
from recurra.errors import ArgumentError
from recurra.web import findings, searching
from recurra.web.beginning import beginning, other_model
from recurra.web.refusals import LANGUAGES, Refusal, language_of, sentence, words
from recurra.web.searching import library, search
from recurra.web.server import Desk, build_app
from recurra.web.subject import open_subject


def follower(batch_first: bool) -> torch.nn.RNN:
    """An RNN whose unit 0 is tanh(5x), unit 1 its opposite, unit 2 nothing."""
    layer = torch.nn.RNN(1, 3, batch_first=batch_first)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.weight_ih_l0[:, 0] = torch.tensor([5.0, -5.0, 0.0])
    return layer


def wave(steps: int, *ranges: tuple[int, int]) -> np.ndarray:
    """(T, 1): 1 within the ranges, -1 elsewhere."""
    found = np.full((steps, 1), -1.0)
    for start, stop in ranges:
        found[start:stop] = 1.0
    return found


DATA = [wave(9, (3, 6)), wave(13, (6, 9)), wave(7), wave(9, (1, 3)), wave(13, (0, 1))]


def looked(model: Any, data: Any, sample: dict[str, Any], start: int, stop: int, **more: Any) -> Any:
    subject = open_subject(model, data)
    asked = {"variable": "hidden", "threshold": 0.5, "only": True, "layer": 0, "direction": 0}
    asked |= {"sample": sample, "start": start, "stop": stop, **more}
    chosen = subject.sample(sample["index"]) if "index" in sample else subject.typed(sample["text"])
    return search(subject, library(subject, "", asked["variable"]), chosen, "", asked)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_marked_range_is_found_again(batch_first: bool) -> None:
    found = looked(follower(batch_first), DATA, {"index": 0}, 3, 6)
    assert [one["unit"] for one in found["on"]] == [0]
    assert {one["unit"]: round(one["score"], 5) for one in found["following"]} == {0: 1.0, 1: -1.0}
    places = [(one["sample"], one["start"], one["stop"]) for one in found["ranges"]]
    assert places == [(1, 6, 9), (3, 1, 3), (4, 0, 1)]  # as long as the marked one first
    assert found["ranges"][0]["from"] == 0
    assert found["ranges"][0]["lines"] == [DATA[1][:, 0].tolist()]
    lit = [(one["sample"], one["start"]) for one in found["nearest"] if one["distance"] < 1e-6]
    assert {at for at, _ in lit} == {1, 3, 4}
    assert all(DATA[at][step] == 1 for at, step in lit)
    assert (found["length"], found["searched"], found["all"]) == (9, 5, True)


def test_units_that_are_on_around_the_range_too_are_left_out_on_request() -> None:
    layer = follower(True)
    assert looked(layer, DATA, {"index": 0}, 4, 6)["on"] == []
    assert [one["unit"] for one in looked(layer, DATA, {"index": 0}, 4, 6, only=False)["on"]] == [0]


def test_a_typed_sample_is_searched_against_the_data() -> None:
    text = " ".join(str(value) for value in wave(11, (2, 4), (7, 9))[:, 0])
    found = looked(follower(True), DATA, {"text": text}, 2, 4)
    places = [(one["sample"], one["start"], one["stop"]) for one in found["ranges"]]
    assert sorted(places[:2], key=str) == [(3, 1, 3), (None, 7, 9)]
    assert found["searched"] == 6


def test_words_are_shown_around_a_hit() -> None:
    subject = open_subject(Reader(), ["the cat sat on a mat .", "a dog sat ."])
    asked = {"variable": "update", "threshold": 0.0, "only": False, "layer": 0, "direction": 0}
    asked |= {"sample": {"index": 0}, "start": 1, "stop": 3}
    found = search(subject, library(subject, "gru", "update"), subject.sample(0), "gru", asked)
    assert len(found["on"]) == 5
    assert found["ranges"][0]["words"] == ["a", "dog", "sat", "."]


def test_a_whole_sample_has_no_units_that_follow_it() -> None:
    assert looked(follower(True), DATA, {"index": 2}, 0, 7)["following"] == []


def test_too_many_samples_are_left_out_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "MOST_NUMBERS", 50)
    found = looked(follower(True), DATA, {"index": 0}, 3, 6)
    assert (found["searched"], found["all"]) == (2, False)
    late = looked(follower(True), DATA, {"index": 3}, 1, 3)  # the marked one is searched all the same
    assert late["searched"] == 3
    assert all(one["sample"] in (0, 1, 3) for one in late["ranges"] + late["nearest"])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"start": 5, "stop": 5}, "from 1 to 9, got 6 to 5"),
        ({"start": 0, "stop": 10}, "from 1 to 9, got 1 to 10"),
        ({"variable": "forget"}, "one of hidden, got forget"),
        ({"threshold": "high"}, "threshold: expected a number"),
        ({"start": 0.5}, "start: expected a whole number"),
        ({"sample": {"index": 5}}, "0 to 4"),
        ({"layer": 1}, "none such"),
    ],
)
def test_what_cannot_be_searched(address: str, more: dict[str, Any], expected: str) -> None:
    body = {"sample": {"index": 0}, "module": "", "start": 3, "stop": 6, **more}
    status, kind, told = request(address, body, {})
    assert (status, kind) == (400, "application/problem+json")
    assert expected in told


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(follower(True), DATA) as found:
        yield found


def request(address: str, body: Any, headers: dict[str, str]) -> tuple[int, str, str]:
    """(status, media type, error) of what the search answers."""
    asked = urllib.request.Request(
        f"{address}/api/find/search",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **headers},
    )
    opener = urllib.request.build_opener()
    opener.process_response.get("http", [])[:] = []  # a 400 is an answer here, no exception
    with opener.open(asked, timeout=20) as answer:
        return answer.status, answer.headers.get_content_type(), json.loads(answer.read())["error"]


def test_what_was_found_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(open_subject(follower(True), DATA), lambda: pytest.fail("nothing began"))
    asked = {"sample": {"index": 0}, "module": ""}
    first = desk.find("gradients", asked)
    monkeypatch.setattr(findings, "gradients", lambda *_: "anew")
    assert desk.find("gradients", dict(asked)) is first
    assert desk.find("gradients", {**asked, "sample": {"index": 1}}) == "anew"


def test_a_refusal_comes_in_the_language_asked_for(address: str) -> None:
    body = {"sample": {"text": "1 zwei"}, "module": ""}
    assert "got 'zwei'" in request(address, body, {})[2]
    assert "却收到 'zwei'" in request(address, body, {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"})[2]
    page = {"Accept": "application/problem+json, */*", "Accept-Language": "zh"}
    assert request(address, body, page)[:2] == (200, "application/problem+json")
    assert language_of("fr-FR, *;q=0.1") == language_of("") == "en"
    assert language_of("fr, zh-TW;q=0.5") == "zh"


def test_what_the_lens_says_itself_stays_english_and_is_told_so() -> None:
    assert sentence(ArgumentError("steps: too {few}"), "en") == "steps: too {few}"
    assert sentence(ArgumentError("steps: too {few}"), "zh") == "无法完成。原因（英文）：steps: too {few}"
    assert sentence(Refusal("no_word"), "zh") == words("zh")["refused.no_word"]


def test_every_refusal_has_its_words_in_every_language_and_is_used() -> None:
    used: dict[str, set[str]] = {}
    for path in Path(recurra.web.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refusal":
                keys = [one.value for one in node.args if isinstance(one, ast.Constant)] or ["unit", "step"]
                for key in keys:
                    used[key] = {one.arg for one in node.keywords if one.arg}
    for language in LANGUAGES:
        told = {key: text for key, text in words(language).items() if key.startswith("refused.")}
        assert {f"refused.{key}" for key in used} | {"refused.other"} == set(told)
        for key, names in used.items():
            assert set(re.findall(r"\{(\w+)\}", told[f"refused.{key}"])) <= names, key


def test_a_forecasters_first_weights_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[dict[str, torch.Tensor]] = []
    build = recurra.Forecaster._build

    def spied(self: Any) -> Any:
        network = build(self)
        first.append(copy.deepcopy(network.state_dict()))
        return network

    monkeypatch.setattr(recurra.Forecaster, "_build", spied)
    panel = Panel.from_arrays({"sales": 60 + 10 * np.sin(np.arange(90) / 2)}, "MS", "2015-01-01")
    model = recurra.Forecaster(3, epochs=1, members=1, seed=63).fit(panel)
    subject = open_subject(model, panel)
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    began = beginning(model, subject)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (began.origin, began.seed) == ("seed", 63)
    for name, weight in began.network.named_parameters():
        assert torch.equal(weight, first[-2][name]), name
    path = "members.0.lstm"
    found = findings.memory(subject.network, subject.sample(0).inputs, path, 0, 0, began)
    assert found["longer"] == int(
        np.sum(np.array(found["cell_half_life"]) > found["before"]["cell_half_life"])
    )


def test_a_network_of_ones_own_is_drawn_anew() -> None:
    model = Counter()
    model.own = torch.nn.Parameter(torch.randn(3))
    subject = open_subject(model, torch.randn(5, 21, 2))
    one, other = beginning(model, subject), beginning(model, subject)
    assert (one.origin, one.kept) == ("anew", ("own",))
    assert not torch.equal(one.network.rnn.weight_hh_l0, model.rnn.weight_hh_l0)
    assert torch.equal(one.network.rnn.weight_hh_l0, other.network.rnn.weight_hh_l0)
    inputs = subject.sample(0).inputs
    found = findings.memory(model, inputs, "rnn", 0, 0, one)
    assert found["before"]["time_constant"] != found["time_constant"]
    alone = findings.memory(one.network, inputs, "rnn", 0, 0)
    assert alone == {**found["before"], "before": None, "longer": None}


def test_another_model_is_held_beside_it() -> None:
    model = Counter()
    subject = open_subject(model, torch.randn(5, 21, 2))
    inputs = subject.sample(0).inputs
    trained = copy.deepcopy(model)
    with torch.no_grad():
        trained.rnn.bias_ih_l0[7:14] += 3.0  # the forget gates
    found = findings.memory(trained, inputs, "rnn", 0, 0, other_model(model, subject))
    assert found["origin"]["origin"] == "other"
    assert found["longer"] == 7
    wider = findings.memory(model, inputs, "rnn", 0, 0, other_model(Counter(hidden=33), subject))
    assert len(wider["before"]["time_constant"]) == 33
    assert wider["longer"] is None
    deep = Counter(layers=2)
    shallow = other_model(model, open_subject(deep, torch.randn(5, 21, 2)))
    assert findings.memory(deep, inputs, "rnn", 1, 1, shallow)["before"] is None


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (7, "expected a torch.nn.Module or a fitted estimator, got int"),
        (torch.nn.Linear(2, 2), "recurrent layer"),
        (Counter(features=3), "reads the same inputs"),
        (torch.nn.Sequential(torch.nn.LSTM(2, 3), torch.nn.LSTM(3, 3)), "at one of 'rnn', got '0', '1'"),
    ],
)
def test_what_is_no_model_of_before(before: Any, expected: str) -> None:
    with pytest.raises(ArgumentError, match=f"^before: .*{re.escape(expected)}"):
        build_app(Counter(), torch.randn(2, 9, 2), before=before)
