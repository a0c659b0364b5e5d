"""The page of a Classifier, a Tagger and a LanguageModel: its samples, its answers, and its command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_classifiers
import torch
from commands import Shell
from rhymes import rhymes
from tag_samples import sentences

pytest.importorskip("fastapi", reason="the page needs FastAPI: pip install 'recurra[lens]'")
pytest.importorskip("uvicorn", reason="the page needs uvicorn: pip install 'recurra[lens]'")
pytest.importorskip("xarray", reason="the lens needs xarray: pip install 'recurra[lens]'")

import recurra
from recurra.errors import ArgumentError, DataError
from recurra.web.refusals import Refusal
from recurra.web.subject import Subject, open_subject

TAGGED = [(["Ada", "left", "Bath", "."], ["B-PER", "O", "B-LOC", "O"]), (["Bob", "saw"], ["B-PER", "O"])]


@pytest.fixture(scope="module")
def labels() -> Any:
    return tiny_classifiers.of_texts(hidden_size=5, epochs=2)


@pytest.fixture(scope="module")
def numbers() -> Any:
    return tiny_classifiers.of_numbers()


@pytest.fixture(scope="module")
def tagger() -> Any:
    return recurra.Tagger(hidden_size=7, embedding_size=9, epochs=3, seed=1).fit(sentences(33))


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("rhymes") / "rhymes.txt"
    path.write_text(rhymes(63))
    return recurra.LanguageModel(hidden_sizes=9, window=7, streams=3, epochs=2, seed=3).fit(path)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.fixture(params=["labels", "numbers", "tagger", "writer"])
def shown(request: pytest.FixtureRequest) -> tuple[Any, Subject]:
    model = request.getfixturevalue(request.param)
    data = {
        "labels": ["kind and quux", "dull", "so kind and dull"],
        "numbers": [np.linspace(-1, 1, 9)[:, None] * [1, 2], np.linspace(1, -1, 7)[:, None] * [1, -1]],
        "tagger": TAGGED,
        "writer": ["The cat sees", "a bird µ"],
    }[request.param]
    return model, open_subject(model, data)


def output_of(subject: Subject, sample: Any) -> Any:
    with torch.no_grad():
        return subject.network(*sample.inputs)


def test_a_sample_is_told_with_the_models_own_probabilities(shown: tuple[Any, Subject]) -> None:
    model, subject = shown
    assert subject.told is not None
    sample = subject.sample(0)
    rows = subject.told.rows([output_of(subject, sample)], sample)
    said = {row["name"]: row["of"][0] for row in rows}
    if subject.told.kind == "label":
        data = ["kind and quux"] if subject.kind == "words" else [np.linspace(-1, 1, 9)[:, None] * [1, 2]]
        own = model.predict(data).probabilities[0]
        for name, share in zip(model.classes, own, strict=True):
            assert said[name][1] == pytest.approx(share, abs=1e-5)
    elif subject.told.kind == "tags":
        found = model.predict([TAGGED[0][0]])
        assert [row["name"] for row in rows] == TAGGED[0][0]
        assert tuple(row["of"][0][0] for row in rows) == found.tags[0]
        shares = [row["of"][0][1] for row in rows]
        assert shares == pytest.approx(found.probabilities[0].tolist(), abs=1e-5)
        assert sample.given == tuple(TAGGED[0][1])
    else:
        likeliest = model.generate("The cat sees", length=1, top_k=1)[-1]
        assert rows[0]["name"] == {" ": "␣", "\n": "↵"}.get(likeliest, likeliest)
        shares = [row["of"][0][1] for row in rows]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1


def test_what_can_be_asked_about_adds_up_to_what_is_picked(shown: tuple[Any, Subject]) -> None:
    _, subject = shown
    assert subject.told is not None
    sample = subject.sample(1)
    output = output_of(subject, sample)
    choices, usual = subject.told.choices(sample, output), subject.told.usual(sample, output)
    assert all(one in dict(choice) for one, choice in zip(usual, choices, strict=True))
    values = {sum(usual): float(subject.told.picked(sample, sum(usual))(output)[0].detach())}
    for number, _ in choices[-1]:
        at = sum(usual[:-1]) + number
        values[at] = float(subject.told.picked(sample, at)(output)[0].detach())
    assert max(values, key=values.__getitem__) == sum(usual)


def test_typed_samples_are_read_and_unknown_words_told(
    labels: Any, numbers: Any, tagger: Any, writer: Any
) -> None:
    typed = open_subject(labels).typed
    assert typed is not None
    assert typed("Kind, quux!").unknown == (",", "quux", "!")
    assert typed("Kind and").labels == ("Kind", "and")
    words = open_subject(tagger, TAGGED).typed
    assert words is not None
    assert words("Ada didn't see Quux.").labels == ("Ada", "didn't", "see", "Quux", ".")
    assert words("Ada left Quux").unknown == ("Quux",)
    text = open_subject(writer).typed
    assert text is not None
    assert text("a µ\n").labels == ("▸", "a", "␣", "µ", "↵")
    assert text("a µ").unknown == ("µ",)
    wide = open_subject(numbers, [np.zeros((7, 2))]).typed
    assert wide is not None
    assert wide("1, 2\n3, 4").inputs[0].shape == (1, 2, 2)
    for one in (typed, words, text):
        with pytest.raises(Refusal, match="at least one word"):
            one("")
    with pytest.raises(Refusal, match="2 numbers on each line"):
        wide("1 2 3")


def test_without_data_there_is_a_text_of_its_own(labels: Any, numbers: Any, tagger: Any, writer: Any) -> None:
    for model in (labels, tagger, writer):
        subject = open_subject(model)
        assert len(subject.titles) == 1
        assert len(subject.sample(0).labels) > 1
        assert subject.hint
    with pytest.raises(ArgumentError, match="data is missing: a Classifier of sequences"):
        open_subject(numbers)


def test_titles_say_the_label_in_the_data(labels: Any, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text('text,label\nkind and warm,good\n"",bad\ndull,bad\n')
    subject = open_subject(labels, str(tmp_path / "texts.csv"))
    assert subject.titles == ("good · kind and warm", "bad · dull")
    assert subject.sample(1).given == ("bad",)
    raw = (tmp_path / "texts.csv").read_bytes()
    assert open_subject(labels, raw).titles == subject.titles


def test_data_that_do_not_fit_are_refused(labels: Any, tagger: Any) -> None:
    with pytest.raises(DataError, match="expected texts"):
        open_subject(labels, [np.zeros((5, 2))])
    with pytest.raises(ArgumentError, match="at least one word"):
        open_subject(labels, ["", " "])
    with pytest.raises(ArgumentError, match="fitted Tagger"):
        open_subject(recurra.Tagger())
    with pytest.raises(ArgumentError, match="Classifier, Tagger or LanguageModel, got str"):
        open_subject("model")


def test_the_network_before_training_reads_the_same_samples(shown: tuple[Any, Subject]) -> None:
    _, subject = shown
    assert subject.fresh is not None
    sample = subject.sample(0)
    began, again = subject.fresh(), subject.fresh()
    with torch.no_grad():
        first, second = began(*sample.inputs), again(*sample.inputs)
    assert torch.equal(first, second)
    assert first.shape == output_of(subject, sample).shape
    assert not torch.allclose(first, output_of(subject, sample))


def test_another_model_must_have_the_same_tokens(
    labels: Any, tagger: Any, writer: Any, tmp_path: Path
) -> None:
    subject = open_subject(writer)
    assert subject.other is not None
    sample = subject.sample(0)
    with torch.no_grad():
        assert torch.equal(subject.other(writer)(*sample.inputs), output_of(subject, sample))
    small = recurra.LanguageModel(hidden_sizes=3, window=7, streams=3, epochs=1).fit(["abc abc abc"] * 33)
    with pytest.raises(ArgumentError, match="the same tokens"):
        subject.other(small)
    with pytest.raises(ArgumentError, match="same task, got Tagger"):
        subject.other(tagger)
    of_words = open_subject(tagger, TAGGED)
    assert of_words.other is not None
    with torch.no_grad():
        assert torch.equal(
            of_words.other(tagger)(*of_words.sample(1).inputs), output_of(of_words, of_words.sample(1))
        )
    with pytest.raises(ArgumentError, match="a fitted Tagger, got Classifier"):
        of_words.other(labels)


def test_the_command_draws_or_refuses(shell: Shell, labels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    labels.save(shell.folder / "model.safetensors")
    shell.write("texts.csv", "text,label\nkind and warm,good\n")
    shell.write("empty.csv", "")
    assert shell("inspect", "model.safetensors", "texts.csv", "--diagram", "net.svg").code == 0
    assert shell("inspect", "model.safetensors", "--diagram", "net.svg", "--overwrite").code == 0
    assert "is empty" in shell.refused("inspect", "model.safetensors", "empty.csv")
    assert "nowhere.csv" in shell.refused("inspect", "model.safetensors", "nowhere.csv")
    monkeypatch.setitem(recurra._ESTIMATORS, "classify", ("recurra.tasks.tag", "Tagger"))
    assert "found task 'classify'" in shell.refused("inspect", "model.safetensors")
    monkeypatch.delitem(recurra._ESTIMATORS, "classify")
    assert "got task 'classify'" in shell.refused("inspect", "model.safetensors")
