"""`recurra train tag`, predict and evaluate with a tagger: files in, files out, a sentence for a mistake."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import pytest
from commands import Shell, contents
from tag_samples import columns, sentences

import recurra
from recurra.data.conll import read_tagged

TINY = ("--epochs", "6", "--hidden-size", "12", "--embedding-size", "12", "--learning-rate", "0.01")
FILES = {"model.safetensors", "report.html", "metrics.json", "history.csv"}


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    found = Shell(tmp_path, monkeypatch, capsys)
    found.write("train.conll", columns(sentences(63)))
    found.write("valid.conll", columns(sentences(33, seed=8)))
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from recurra.tasks.tag import Tagger

    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    Tagger(hidden_size=12, epochs=6, learning_rate=0.01).fit(sentences(63)).save(path)
    return path


def test_train_writes_a_model_its_scores_and_a_report(shell: Shell) -> None:
    said = shell("train", "tag", "train.conll", "--valid", "valid.conll", "--out", "names", *TINY)
    assert said.code == 0, said.err
    assert {path.name for path in (shell.folder / "names").iterdir()} == FILES
    assert "LSTM" in said.out
    assert "spans of training" in said.out
    assert "Report: names/report.html" in said.out
    metrics = json.loads((shell.folder / "names" / "metrics.json").read_text())
    assert metrics["scores"]["LSTM"]["f1"] > 0.9
    assert metrics["scheme"] == "BIO"
    assert (
        metrics["command"]
        == f"recurra train tag train.conll --valid valid.conll --out names {' '.join(TINY)}"
    )
    rows = list(csv.DictReader((shell.folder / "names" / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    page = (shell.folder / "names" / "report.html").read_text()
    assert page.count("<section") >= 8
    for words in ("Scores by kind", "What is taken for what", "Mistakes in their context", "Transitions"):
        assert words in page

    text = shell("predict", "names/model.safetensors", "valid.conll").out
    again = read_tagged(text.encode(), label=3)
    assert again.tags == read_tagged("valid.conll").tags
    assert {len(line.split()) for line in text.splitlines() if line} == {4}
    json_said = shell("evaluate", "names/model.safetensors", "valid.conll", "--json")
    assert json.loads(json_said.out)["f1"] == metrics["scores"]["LSTM"]["f1"]


def test_without_valid_a_tenth_is_held_back_and_json_is_alone_on_stdout(shell: Shell) -> None:
    said = shell("train", "tag", "-", "--out", "names", "--epochs", "1", "--json", "--quiet",
                 stdin=columns(sentences(63)).encode())  # fmt: skip
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["sentences"] == 6
    assert found["out"] == "names"
    assert (
        "Scored on one in 10 of the sentences, 6, held back, which was not learnt from" in found["notes"][0]
    )
    assert said.err == ""


def test_other_forms_in_and_out(shell: Shell, model: Path) -> None:
    assert (
        shell("predict", model, "-", stdin=b"Bob\nleft\nLondon\n").out == "Bob B-PER\nleft O\nLondon B-LOC\n"
    )
    line = json.dumps({"id": 7, "tokens": ["Bob", "left", "London", "."]})
    found = json.loads(shell("predict", model, "-", stdin=line.encode()).out)
    assert found == {**json.loads(line), "predicted": ["B-PER", "O", "B-LOC", "O"]}
    assert shell("predict", model, "-", stdin=b"Bob left London").out == "B-PER O B-LOC\n"
    said = shell("predict", model, "-", "--text", "1", stdin=b"Bob left London")
    assert said.out == "Bob left London B-PER\n"
    shell.write("seq.in", "Bob left London .\n\n")
    assert shell("predict", model, "seq.in", "--out", "tags.txt").code == 0
    assert (shell.folder / "tags.txt").read_text() == "B-PER O B-LOC O\n\n"
    rows = json.loads(shell("predict", model, "seq.in", "--json").out)
    assert rows[0]["spans"] == [
        {"start": 0, "stop": 1, "kind": "PER"}, {"start": 2, "stop": 3, "kind": "LOC"},
    ]  # fmt: skip
    assert rows[1] == {"words": [], "tags": [], "probabilities": [], "spans": []}


def test_parts_of_speech_by_the_same_verb(shell: Shell) -> None:
    rows = "".join(
        f"1\t{name}\t_\tNOUN\t_\t_\t_\t_\t_\t_\n2\tsees\t_\tVERB\t_\t_\t_\t_\t_\t_\n\n"
        for name in "abcdefg" * 3
    )
    shell.write("train.conllu", rows)
    said = shell("train", "tag", "train.conllu", "--valid", "train.conllu", "--out", "pos", *TINY, "--quiet")
    assert said.code == 0, said.err
    assert "accuracy" in said.out
    assert shell("predict", "pos/model.safetensors", "train.conllu").out.strip() == rows.strip()
    found = shell("evaluate", "pos/model.safetensors", "train.conllu").out
    assert "NOUN" in found
    page = (shell.folder / "pos" / "report.html").read_text()
    assert "Scores by tag" in page


def test_evaluate_says_scores_by_kind_and_what_is_unknown(shell: Shell, model: Path) -> None:
    shell.write("other.conll", "Bob B-PER\nleft O\nLego B-TOY\n")
    said = shell("evaluate", model, "other.conll")
    assert said.code == 0
    assert "PER" in said.out
    assert "The training data have no TOY, so that words so tagged count as mistakes." in said.out
    assert shell("evaluate", model, "other.conll", "--quiet").err == ""


def test_an_unfinished_run_is_resumed(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from recurra.cli.progress import Progress

    words = ("train", "tag", "train.conll", "--valid", "valid.conll", *TINY, "--quiet", "--out")
    assert shell(*words, "whole").code == 0

    def stop(self: Progress, row: dict[str, object]) -> None:
        if row["epoch"] == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "log", stop)
        said = shell(*words, "names")
    assert said.code == 2
    assert "--resume" in said.err
    assert not (shell.folder / "names").exists()
    assert "was begun by a run that did not finish" in shell.refused(*words, "names")
    refused = shell.refused(*words[:-1], "--seed", "3", "--out", "names", "--resume")
    assert "was started with --seed 0, not --seed 3" in refused
    other = ("train", "tag", "valid.conll", "--valid", "train.conll", *TINY, "--quiet", "--out", "names")
    assert "was started with other data" in shell.refused(*other, "--resume")
    assert shell(*words, "names", "--resume").code == 0
    whole, again = (recurra.load(shell.folder / name / "model.safetensors") for name in ("whole", "names"))
    states = [it.network.state_dict() for it in (whole, again)]
    assert all((states[0][name] == states[1][name]).all() for name in states[0])
    assert "is finished already" in shell(*words, "names", "--resume").out
    assert "exists already: add --overwrite" in shell.refused(*words, "names")
    assert shell(*words, "names", "--overwrite").code == 0


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("a O\nb\n", (), "line 2 of 'bad.conll' has 1 column and the first line 2"),
        ("a B-X\nb O\n\nc I-X\nd O\n", (), "'bad.conll' mixes the schemes BIO and IOB1: 'I-X' in line 4"),
        ("a B-X\nb U-X\nb E-X\n", (), "'bad.conll' mixes schemes: the tag 'B-X' in line 1"),
        ("", (), "'bad.conll' is empty"),
        ("Zoë O\n".encode("latin-1"), (), "'bad.conll' is not UTF-8 text: byte 2 in row 1"),
        ("a\nb\n", (), "words and tags are the same one"),
        ("a O\n", ("--label", "7"), "has no column '7' for label; expected a number from 1 to 2"),
        ("a O\n", ("--epochs", "0"), "--epochs must be a whole number, at least 1, but 0 was given"),
        ("a O\n", ("--dropout", "2"), "--dropout must be a chance from 0 to below 1, but 2.0 was given"),
        ("a O\n", ("--dropout", "much"), "--dropout: expected a number, got 'much'"),
        ("a O\n", ("--hidden-size", "99999"), "--hidden-size must be at most 4096"),
        ("a O\n", ("--embedding-size", "99999"), "--embedding-size must be at most 4096"),
        ("a O\n", ("--layers", "33"), "--layers must be at most 32, but 33 was given"),
        ("a O\n", ("--seed", "-1"), "but -1 was given: leave it out for the usual one"),
        ("a O\n", ("--batch-size", "0"), "but 0 was given: leave it out to have it chosen from the data"),
        ("a O\n", ("--characters", "all"), "--characters must be one of cnn, lstm, none"),
        ("a O\n", ("--device", "tpu"), "--device must be cpu, cuda or auto, but 'tpu' was given"),
        ("a O\n", ("--vectors", "none.txt"), "there is no file 'none.txt'"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    shell: Shell, text: str | bytes, words: tuple[str, ...], said: str
) -> None:
    shell.write("bad.conll", text)
    refused = shell.refused(
        "train", "tag", "bad.conll", "--valid", "valid.conll", "--out", "names", "--quiet", *words
    )
    assert said in refused


def test_other_mistakes_are_one_sentence(shell: Shell, model: Path) -> None:
    few = shell.write("few.conll", columns(sentences(7)))
    assert "too few to hold one in 10 back" in shell.refused("train", "tag", few, "--out", "x")
    assert "there is no file 'none.conll'" in shell.refused("train", "tag", "none.conll", "--out", "x")
    assert "--valid -" in shell.refused("train", "tag", "-", "--valid", "-", "--out", "x")
    assert "--out is missing" in shell.refused("train", "tag", "train.conll")
    assert "--backtest and --stride are for forecasts" in shell.refused(
        "evaluate", model, "valid.conll", "--backtest", "7"
    )
    shell.write("words.conll", "Bob X\nleft Y\n")
    assert "say no spans" in shell.refused("evaluate", model, "words.conll")
    shell.write("broken.conll", "Bob X\nleft\n")
    assert "line 2 of 'broken.conll'" in shell.refused("predict", model, "broken.conll")
    assert contents(shell.folder).keys() >= {"train.conll"}


def test_a_pipe_is_not_replaced(shell: Shell, model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pipe = tmp_path_factory.mktemp("pipes") / "pipe"
    os.mkfifo(pipe)
    said = shell.refused("predict", model, "valid.conll", "--out", pipe, "--overwrite")
    assert f"--out {pipe} is a device or a pipe, but a file is written" in said
    assert pipe.is_fifo()


def test_halves_of_characters_go_to_a_file(shell: Shell, model: Path) -> None:
    raw = b'{"tokens": ["Bob", "a\\ud83d"], "id": "\\udce9"}\n'
    for words in ((), ("--json",)):
        said = shell("predict", model, "-", "--out", "o.jsonl", "--overwrite", *words, stdin=raw)
        assert said.code == 0, said.err
    shell.write("in.jsonl", raw)
    shell("predict", model, "in.jsonl", "--out", "o.jsonl", "--overwrite")
    found = json.loads((shell.folder / "o.jsonl").read_text())
    assert found["tokens"] == ["Bob", "a\ud83d"]
    assert found["id"] == "\udce9"
    assert len(found["predicted"]) == 2


def test_packed_sentences_may_come_on_stdin(shell: Shell, model: Path) -> None:
    said = shell("predict", model, "-", stdin=gzip.compress(b"Bob\nleft\n"))
    assert [line.split()[0] for line in said.out.splitlines()] == ["Bob", "left"]


def test_odd_words_are_no_trouble(shell: Shell, model: Path) -> None:
    odd = f"👩‍👩‍👧\tO\n\x07\tO\n\u2028\tO\n{'x' * (1 << 20)}\tB-PER\n\nBob\tB-PER\n"
    path = shell.write("odd.tsv", odd * 3)
    assert shell("train", "tag", path, "--valid", path, "--out", "x", "--epochs", "1", "--quiet").code == 0
    found = shell("predict", model, path).out
    assert found.count("\n") == odd.count("\n") * 3
    assert len((shell.folder / "x" / "report.html").read_text()) < 8_000_000
    assert shell("evaluate", model, path).code == 0


def test_help_has_an_example(shell: Shell) -> None:
    said = shell("train", "tag", "--help")
    assert said.code == 0
    assert "Example: recurra train tag train.conll --valid valid.conll --out names" in " ".join(
        said.out.split()
    )
