"""The tagger's report: the verdict, mistakes in their context, what users' words may not do to the page."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tag_samples import Pair, sentences

from recurra.data.conll import read_tagged
from recurra.report.tag import LONGEST, NAME, apart, render
from recurra.tasks.tag import Tagger
from recurra.tasks.tag_scores import baselines, scores

TINY = {"hidden_size": 12, "embedding_size": 12, "batch_size": 7, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger(**TINY, epochs=7).fit(sentences(63))


def page(tagger: Tagger, pairs: list[Pair]) -> str:
    data, known = read_tagged(pairs), sentences(33)
    found = tagger.predict(data)
    spanned = bool(tagger.scheme)
    table: dict[str, Any] = {NAME: scores(data.tags or (), found.tags, spanned=spanned)}
    for floor in baselines([w for w, _ in known], [t for _, t in known], spanned=spanned):
        table[floor.name] = scores(data.tags or (), floor.predict(data.words), spanned=spanned)
    return render(
        tagger,
        data,
        found,
        table,
        title="Spans of x",
        notes=["A note."],
        settings={"network": "small"},
        command="recurra train tag x",
        scored="the sentences of x",
    )


def figures(text: str) -> dict[str, Any]:
    found = re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1])["figures"])


def told(text: str) -> list[str]:
    """The texts with marked pieces, without their marks."""
    return [
        re.sub(r"<.*?>", "", one).strip() for one in re.findall(r'<p class="told">(.*?)</p>', text, re.DOTALL)
    ]


def test_mistakes_stand_in_their_context(tagger: Tagger) -> None:
    pairs = [
        (["Ada", "left", "New", "York", "."], ["B-ORG", "O", "B-LOC", "I-LOC", "O"]),
        (["Bob", "left", "New", "York", "."], ["B-PER", "O", "B-LOC", "O", "O"]),
        (["Bob", "left", "Bath", "."], ["B-PER", "O", "B-LOC", "O"]),
    ]
    text = page(tagger, pairs)
    assert "2 of 3 sentences have a mistake" in text
    assert len(told(text)) == 2
    assert any("Ada [ORG → PER] left New York ." in one for one in told(text))
    assert any("Bob left New York [LOC New → LOC] ." in one for one in told(text))
    assert "The tagger" in text
    assert "A note." in text


def test_the_figures_hold_the_scores(tagger: Tagger) -> None:
    found = figures(page(tagger, sentences(33, seed=9)))
    assert set(found) == {"kinds", "confusion", "transitions", "curve-train_loss"}
    assert found["kinds"]["data"][0]["y"] == ["PER", "LOC"] or found["kinds"]["data"][0]["y"] == [
        "LOC",
        "PER",
    ]
    cells = found["transitions"]["data"][0]
    place = {name: n for n, name in enumerate(cells["x"])}
    assert cells["z"][place["O"]][place["I-LOC"]] is None, "forbidden"
    assert cells["z"][place["O"]][place["B-LOC"]] is not None
    words = sum(len(row) for _, row in sentences(33, seed=9))
    assert sum(map(sum, found["confusion"]["data"][0]["text"])) == words


def test_words_of_users_stay_words(tagger: Tagger) -> None:
    long = ["word"] * 300
    pairs: list[Pair] = [
        (["<script>alert(7)</script>", "\x07" * 3, "y" * 500], ["B-PER"] * 3),
        (list("他去東京了"), ["O", "O", "B-LOC", "I-LOC", "O"]),
        (long, ["O"] * 200 + ["B-LOC"] + ["O"] * 99),
    ]
    text = page(tagger, pairs)
    assert "<script>alert" not in text
    assert "\x07" not in text
    assert "y" * 61 not in text
    assert any("東京 [LOC → " in one for one in told(text)) or any("他去" in one for one in told(text))
    cut = next(one for one in told(text) if "word word" in one)
    assert re.sub(r"\[.*?\]", "", cut).count("word") in range(1, LONGEST + 1)


def test_other_tags_than_spans(tagger: Tagger) -> None:
    pairs: list[Pair] = [(["a", "dog"], ["DET", "NOUN"]), (["the", "cat"], ["DET", "NOUN"])] * 5
    plain = Tagger(**TINY, epochs=9).fit(pairs)
    text = page(plain, [*pairs, (["a", "cat"], ["DET", "VERB"])])
    assert "cat [VERB → NOUN]" in told(text)[0]
    assert "Scores by tag" in text
    assert "Spans without a mistake" not in text
    assert "F1" not in text.split("</header>")[0]


def test_nothing_found_and_nothing_meant_is_a_page_too() -> None:
    text = page(Tagger(**TINY, epochs=1).fit([(["a"], ["O"])] * 7), [(["a"], ["O"]), ([], [])])
    assert "0 of 2 sentences have a mistake" in text


def test_names_on_an_axis_are_short_and_never_the_same() -> None:
    long = [f"B-depart_date.{'x' * 33}{n}.name" for n in range(7)] + ["O", "<b>"]
    found = apart(long)
    assert len(set(found)) == len(long)
    assert max(map(len, found)) <= 27
    assert found[-2:] == ["O", "&lt;b&gt;"]
