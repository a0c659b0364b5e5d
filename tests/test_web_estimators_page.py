"""The page of a Classifier, a Tagger and a LanguageModel, by its server and in a browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from rhymes import rhymes
from tag_samples import sentences

pytest.importorskip("fastapi", reason="the page needs FastAPI: pip install 'recurra[lens]'")
pytest.importorskip("uvicorn", reason="the page needs uvicorn: pip install 'recurra[lens]'")
pytest.importorskip("captum", reason="attribution needs Captum: pip install 'recurra[lens]'")

from web_server import asked, served, unpacked

import recurra
from recurra.web.beginning import beginning, other_model
from recurra.web.subject import open_subject

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KINDS = {"labels": "label", "tags": "tags", "writer": "next"}
TEXTS = [f"{a} and {b}" for a in ("fine", "warm", "kind") for b in ("kind", "fine", "bright", "warm")]
BAD = [f"{a} and {b}" for a in ("dull", "grim", "cold") for b in ("poor", "dull", "sour", "cold")]


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[Any, Any]]:
    labels = recurra.Classifier(hidden_size=5, members=2, epochs=2, seed=1)
    tags = recurra.Tagger(hidden_size=7, embedding_size=9, epochs=3, seed=1)
    writer = recurra.LanguageModel(hidden_sizes=9, window=7, streams=3, epochs=1, seed=3)
    listed = rhymes(33).splitlines()
    return {
        "labels": (labels.fit(TEXTS + BAD, ["good"] * 12 + ["bad"] * 12), ["kind and quux", "so dull"]),
        "tags": (tags.fit(sentences(33)), [(["Ada", "left", "Bath"], ["B-PER", "O", "B-PER"])]),
        "writer": (writer.fit(listed), listed[:7]),
    }


@pytest.fixture(scope="module", params=list(KINDS))
def page(
    request: pytest.FixtureRequest, models: dict[str, tuple[Any, Any]]
) -> Iterator[tuple[str, str, str]]:
    """The address of a server, what it shows, and the path of its first layer."""
    model, data = models[request.param]
    with served(model, data) as address:
        told = json.loads(asked(address, "api/model")[1])
        assert told["named"]
        yield address, request.param, told["layers"][0]["path"]


def found(page: tuple[str, str, str], what: str, sample: Any = None, **more: Any) -> Any:
    address, _, path = page
    body = {"sample": sample or {"index": 0}, "module": path, **more}
    status, answer = asked(address, f"api/find/{what}", body)
    assert status == 200, answer
    return answer if what == "edited" else json.loads(answer)


def test_a_run_is_told_by_name(page: tuple[str, str, str]) -> None:
    address, name, path = page
    status, answer = asked(address, "api/trace", {"sample": {"text": "Quux and warm"}, "module": path})
    header, _ = unpacked(answer)
    assert status == 200
    assert header["answer"]["kind"] == KINDS[name]
    assert all(len(row["of"]) == 1 and 0 <= row["of"][0][1] <= 1 for row in header["answer"]["rows"])
    assert ("Quux" in header["unknown"]) == (name != "writer")
    assert len(header["labels"]) == header["length"]


@pytest.mark.parametrize("method", ["gradients", "occlusion"])
def test_what_mattered_is_asked_by_name(page: tuple[str, str, str], method: str) -> None:
    first = found(page, "mattered", method=method, component=None)
    assert first["kind"] == KINDS[page[1]]
    assert len(first["values"]) == len(first["labels"])
    assert any(first["values"])
    last = next(one for one, _ in first["choices"][-1] if one != first["chosen"][-1])
    other = found(page, "mattered", method=method, component=sum(first["chosen"][:-1]) + last)
    assert other["chosen"] == [*first["chosen"][:-1], last]
    assert other["output"] != first["output"]
    assert found(page, "mattered", method=method, component=10**6)["chosen"] == first["chosen"]


def test_an_edit_changes_what_is_said(page: tuple[str, str, str]) -> None:
    header, _ = unpacked(found(page, "edited", name="cell", to=3.0))
    assert all(len(row["of"]) == 2 for row in header["rows"])
    assert any(row["of"][0] != row["of"][1] for row in header["rows"])
    assert any(found(page, "ablated")["moved"])


def test_the_other_tabs_answer(page: tuple[str, str, str]) -> None:
    memory = found(page, "memory")
    assert memory["origin"]["origin"] == "seed"
    assert memory["before"]["cell_half_life"] != memory["cell_half_life"]
    assert found(page, "context")["relative"][0] == 1
    assert found(page, "gradients")["lines"]
    assert found(page, "diagram", theme="light")["svg"].startswith("<svg")
    near = found(page, "search", start=0, stop=2, threshold=0.01)
    assert near["length"] > 2


def test_another_model_is_compared_on_the_same_samples(models: dict[str, tuple[Any, Any]]) -> None:
    for model, data in models.values():
        subject = open_subject(model, data)
        assert other_model(model, subject).origin == "other"
        assert beginning(model, subject).seed == model.seed


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_the_page_tells_the_answer(page: tuple[str, str, str]) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    said: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1280, "height": 900}, locale="en-GB")
        shown.on("console", lambda one: said.append(one.text) if one.type in ("error", "warning") else None)
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.goto(page[0])
        playwright.expect(shown.locator(".answer .said").first).to_contain_text("%", timeout=10_000)
        shown.keyboard.press("5")
        playwright.expect(shown.locator(".finding select").nth(1)).to_be_visible(timeout=10_000)
        shown.keyboard.press("7")
        playwright.expect(shown.locator(".answers td.after").first).to_contain_text("%", timeout=10_000)
        browser.close()
    assert not said
