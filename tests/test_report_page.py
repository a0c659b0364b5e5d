"""The page of a text task holds what it is given, loads nothing, and lets nothing become markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from test_report import HOSTILE, Page

from recurra.errors import ArgumentError
from recurra.report import page, style
from recurra.report.page import Marked, Part, Plot, Table, render_page

EMPTY = {"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Nested(HTMLParser):
    """Raises where an element is closed that is not the innermost open one."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


@pytest.fixture(autouse=True)
def without_plotly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four megabytes of script are left out, but where a test asks for them."""
    if "whole" not in request.node.name:
        monkeypatch.setattr(page, "get_plotlyjs", lambda: "")


def figure(word: str = "a") -> style.Figure:
    return style.figure([{"type": "bar", "x": [style.label(word)], "y": [1]}])


def part(word: str = "confusion", **more: Any) -> Part:
    made = Part(
        name="confusion", title=word, words=[word],
        plots=[Plot("confusion-plot", figure(word), word, heading=word, caption=word)],
        tables=[Table(("method", word), [("LSTM", "0.9"), (word, "0.5")], caption=word, marked="LSTM")],
        texts=[Marked([(word, 0.5), (" and ", 0), (word, -2)], heading=word)],
        code=word, short=word,
    )  # fmt: skip
    return replace(made, **more)


def rendered(word: str = "confusion", **more: Any) -> str:
    given: dict[str, Any] = {
        "task": "classification", "title": word, "verdict": word, "state": ("wins", word), "facts": [word],
        "cards": [(word, word, word)], "parts": [part(word)], "notes": [word], "settings": {word: word},
        "command": word, "uses": [(word, word)],
    }  # fmt: skip
    return render_page(**(given | more))


def of(found: Page, tag: str, **wanted: str) -> list[dict[str, str | None]]:
    return [held for name, held in found.tags if name == tag and wanted.items() <= held.items()]


def test_the_page_holds_what_it_is_given() -> None:
    text = rendered("Größe 中文 😀")
    found = Page(text)
    Nested(text)
    assert found.text.count("Größe 中文 😀") == 26
    assert "recurra classification report" in found.text
    assert of(found, "section", id="confusion")
    assert list(found.figures) == ["confusion-plot"]
    assert found.figures["confusion-plot"]["data"][0]["x"] == ["Größe 中文 😀"]
    assert of(found, "div", id="plot-confusion-plot", role="img", **{"aria-label": "Größe 中文 😀"})
    assert len(of(found, "tr", **{"class": "model"})) == 1
    links = {held["href"] for held in of(found, "a")}
    ids = [held["id"] for _, held in found.tags if held.get("id")]
    assert links == {"#confusion", "#data", "#model", "#again"}
    assert {link[1:] for link in links if link} <= set(ids)
    assert len(ids) == len(set(ids))


def test_marked_pieces_have_a_ground_and_words_for_it() -> None:
    found = Page(rendered("x"))
    marks = of(found, "mark")
    assert [held["style"] for held in marks] == ["--weight: 0.50", "--weight: 1.00"]
    assert [held.get("class") for held in marks] == [None, "against"]
    assert [held["title"] for held in marks] == ["+0.50", "-2.00"]
    told = part("x", texts=[Marked([("a\n  b", 0), ("<c>", float("nan")), ("", 0.3)])])
    text = rendered("x", parts=[told])
    assert (
        ">a\n  b&lt;c&gt;<mark" in text
    )  # blanks and lines are those of the text; no ground without a number
    assert "nan" not in text.split("<main>")[1].split("<footer>")[0]


def test_nothing_becomes_markup() -> None:
    plain, hostile = rendered("plain"), rendered(HOSTILE)
    Nested(hostile)
    assert [tag for tag, _ in Page(hostile).tags] == [tag for tag, _ in Page(plain).tags]
    assert [set(held) for _, held in Page(hostile).tags] == [set(held) for _, held in Page(plain).tags]
    assert "onerror" not in {name for _, held in Page(hostile).tags for name in held}
    assert Page(hostile).text.count(HOSTILE) == Page(plain).text.count("plain")


def test_names_in_attributes_are_letters() -> None:
    text = rendered(
        task=HOSTILE,
        parts=[part(name=HOSTILE, plots=[Plot(HOSTILE, figure(), "a", size=HOSTILE)])],
        state=(HOSTILE, "a"),
    )
    Nested(text)
    usual = Page(rendered(parts=[part(plots=[Plot("p", figure(), "a")])]))
    assert [tag for tag, _ in Page(text).tags] == [tag for tag, _ in usual.tags]
    assert not [name for _, held in Page(text).tags for name in held if name.startswith("on")]
    assert list(Page(text).figures) == [HOSTILE]


def test_the_whole_page_loads_nothing() -> None:
    text = rendered()
    assert len(text) > 1_000_000  # plotly is in it
    found = Page(text)
    for tag, held in found.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        for name in ("src", "href", "data", "action"):
            assert (held.get(name) or "#").startswith("#"), held
    (policy,) = of(found, "meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in (policy["content"] or "")
    assert [held for held in of(found, "script") if held.get("src")] == []
    css = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in css
    assert "@import" not in css


def test_parts_may_be_empty() -> None:
    text = rendered("x", parts=[Part("a", "A"), Part("b", "B", words=("w",))], notes=[], uses=[], cards=[],
                    facts=[], settings={})  # fmt: skip
    Nested(text)
    found = Page(text)
    assert "Nothing: it was used as it came." in found.text
    assert not found.figures
    assert not [tag for tag, held in found.tags if tag in ("table", "figure") or held.get("class") == "cards"]
    assert Page(rendered("x", parts=[])).figures == {}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([part(), part(plots=[])], "'confusion' twice"),
        ([part(name="data")], "'data'"),
        ([part(name="model")], "'model'"),
        ([part(name="again")], "'again'"),
        ([part(), part(name="other")], "'confusion-plot' twice"),
    ],
)
def test_names_that_come_twice_are_refused(parts: list[Part], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        rendered(parts=parts)


def test_numbers_that_are_none_are_refused() -> None:
    broken = figure() | {"data": [{"type": "bar", "y": [float("nan")]}]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        rendered(parts=[part(plots=[Plot("p", broken, "a")])])


def test_tables_of_text_may_run_over_lines() -> None:
    for wraps, kind in ((True, "names"), (False, "wide")):
        found = Page(rendered(parts=[part(tables=[Table(("text",), [("a b",)], wraps=wraps)])]))
        assert of(found, "table", **{"class": kind})
        assert not of(found, "caption")
        assert of(found, "div", role="region", **{"aria-label": "confusion"})
