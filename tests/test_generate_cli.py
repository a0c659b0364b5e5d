"""`recurra train generate`, `recurra generate`, and predict and evaluate of language models."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import SCRIPT, Shell, contents, sentence
from rhymes import rhymes

from recurra import LanguageModel
from recurra.cli.generate_job import settings

TINY = ("--hidden-size", "13", "--epochs", "2", "--quiet")
TEXT = rhymes(63)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    shell = Shell(tmp_path, monkeypatch, capsys)
    shell.write("rhymes.txt", TEXT)
    return shell


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    LanguageModel(hidden_sizes=13, epochs=7).fit(TEXT.encode()).save(path)
    return str(path)


def test_the_settings_say_where_products_were_in_bfloat16(model: str) -> None:
    known = LanguageModel.load(model)
    assert "bfloat16" not in settings(known)["training"]
    known.plan = dataclasses.replace(known.plan, precision="bf16-mixed")
    assert settings(known)["training"].endswith("with carried state, products in bfloat16")


def test_train_writes_all_and_says_how_good(shell: Shell) -> None:
    said = shell("train", "generate", "rhymes.txt", *TINY, "--out", "o")
    assert said.code == 0, said.err
    assert "Kneser-Ney" in said.out
    assert "nats a character" in said.out
    assert sorted(contents(shell.folder / "o")) == [
        "history.csv", "metrics.json", "model.safetensors", "report.html",
    ]  # fmt: skip
    metrics = json.loads((shell.folder / "o" / "metrics.json").read_text())
    assert set(metrics["scores"]) > {"LSTM", "unigrams", "bigrams"}
    assert set(metrics["samples"]) == {"0.5", "0.8", "1.0"}
    history = list(csv.DictReader((shell.folder / "o" / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in history] == ["1", "2"]
    page = (shell.folder / "o" / "report.html").read_text()
    assert metrics["verdict"] in page
    assert "<script src" not in page
    held = (shell.folder / "held.txt", TEXT[int(0.9 * len(TEXT)) :])
    held[0].write_text(held[1])
    score = LanguageModel.load(shell.folder / "o" / "model.safetensors").evaluate(held[0])
    assert score["nats_per_token"] == pytest.approx(metrics["scores"]["LSTM"]["nats"], rel=1e-6)


@pytest.mark.parametrize("tokens", ["word", "bpe"])
def test_train_reads_tables_and_stdin_and_several_files(shell: Shell, tokens: str) -> None:
    rows = "".join(f"{n}\tx\t{line}\n" for n, line in enumerate(TEXT.splitlines()))
    shell.write("poems.tsv", "title\tauthor\ttext\n" + rows)
    options = ("--tokens", tokens, *TINY)
    said = shell("train", "generate", "poems.tsv", *options, "--out", "a", "--json")
    assert said.code == 0, said.err
    assert "texts of a list" in json.loads(said.out)["notes"][0]
    assert shell("train", "generate", "-", *options, "--out", "b", stdin=TEXT.encode()).code == 0
    said = shell(
        "train", "generate", "rhymes.txt", "rhymes.txt", "--valid", "rhymes.txt", *options, "--out", "c",
        "--json",
    )  # fmt: skip
    document = json.loads(said.out)
    assert document["notes"][0] == (
        f"rhymes.txt and 1 more is read as running text, {2 * len(TEXT):,} characters."
    )
    assert document["out"] == "c"


def test_generate_goes_on_from_the_prompt(shell: Shell, model: str) -> None:
    words = ("generate", model, "--prompt", "The ", "--length", "33", "--temperature", "0.8", "--top-k", "9",
             "--top-p", "0.9", "--repetition", "1.1", "--seed", "7")  # fmt: skip
    said = shell(*words)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("The ")
    assert len(said.out) == 4 + 33 + 1
    assert shell(*words).out == said.out
    document = json.loads(shell(*words, "--json").out)
    assert document["prompt"] + document["text"] + "\n" == said.out
    assert document["seconds"] > 0
    assert shell(*words, "--out", "t.txt").out == "Text: t.txt\n"
    assert (shell.folder / "t.txt").read_text() == said.out
    assert "exists already" in shell.refused(*words, "--out", "t.txt")
    assert shell(*words, "--out", "t.txt", "--overwrite").code == 0
    assert shell("generate", model, "--prompt", "-", "--length", "5", stdin=b"My aunt").out[:7] == "My aunt"


def test_unknown_characters_of_the_prompt_are_named(shell: Shell, model: str) -> None:
    said = shell("generate", model, "--prompt", "🙂 Zoë\x1b", "--length", "5")
    assert said.code == 0
    assert said.err == "The model does not know '🙂', 'Z', 'ë', '\\x1b': read as unknown.\n"
    assert len(said.out) == 6 + 5 + 1
    assert shell("generate", model, "--prompt", "🙂", "--length", "5", "--quiet").err == ""


def test_a_terminal_gets_no_control_characters() -> None:
    from recurra.cli.generate_job import _visible

    assert _visible("a\x1b[2J\n\t春🙂\x07") == "a\ufffd[2J\n\t春🙂\ufffd"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--length", "0"), "--length: expected a number of tokens from 1 to 1,000,000, got 0"),
        (("--length", "99999999999"), "--length: expected a number of tokens"),
        (("--length", "many"), "--length: expected a whole number, got 'many'"),
        (("--temperature", "-1"), "--temperature: expected 0 or more, such as 0.8, got -1.0"),
        (("--temperature", "nan"), "--temperature: expected 0 or more"),
        (("--temperature", "hot"), "--temperature: expected a number, got 'hot'"),
        (("--top-k", "0"), "--top-k: expected 1 or more"),
        (("--top-p", "2"), "--top-p: expected above 0 and at most 1"),
        (("--repetition", "0"), "--repetition: expected 1 or more"),
        (("--seed", "-1"), "--seed: expected a whole number"),
        (("--out", "."), "is a folder, but a file is written"),
        (("--out", "/dev/no-such-device"), "is a device or a pipe, but a file is written"),
    ],
)
def test_generate_refuses(shell: Shell, model: str, options: tuple[str, ...], words: str) -> None:
    assert words in shell.refused("generate", model, *options)


def test_generate_refuses_other_files(shell: Shell) -> None:
    assert "expected a model file" in shell.refused("generate", "none.safetensors")
    assert "not a recurra model file" in shell.refused("generate", "rhymes.txt")


@pytest.mark.parametrize(
    ("raw", "options", "words"),
    [
        (b"", (), "is empty; expected"),
        (b"a", (), "too little to hold a tenth back"),
        (b"ab", (), "expected at least 8"),
        ("déjà vu ".encode("latin-1") * 99, (), "is not UTF-8 text"),
        (b"\x00\x01\x02\x03\x04" * 99, (), "a binary file"),
        (TEXT.encode(), ("--tokens", "letters"), "--tokens: expected one of"),
        (TEXT.encode(), ("--hidden-size", "a"), "--hidden-size: expected whole numbers such as 512"),
        (TEXT.encode(), ("--hidden-size", "0"), "--hidden-size: expected whole numbers from 1 to 8192"),
        (TEXT.encode(), ("--minutes", "0"), "--minutes: expected a number above 0"),
        (TEXT.encode(), ("--dropout", "1"), "--dropout: expected a number from 0"),
        (TEXT.encode(), ("--recipe", "x"), "--recipe: expected one of adamw, awd"),
        (b"a\tb\n" * 33, ("--text", "9"), "has no column '9' for text"),
        (TEXT.encode(), ("--valid", "none.txt"), "there is no file 'none.txt'"),
        (TEXT.encode(), ("--vocabulary", "2"), "--vocabulary: expected at least 3"),
        (TEXT.encode(), ("--learning-rate", "-1"), "--learning-rate: expected a number above 0, got -1.0"),
        (TEXT.encode(), ("--device", "tpu"), "--device must be cpu, cuda or auto, but 'tpu' was given"),
        (TEXT.encode(), ("--text", "poem"), "has no column 'poem' for text"),
    ],
)
def test_train_refuses(shell: Shell, raw: bytes, options: tuple[str, ...], words: str) -> None:
    shell.write("a.txt", raw)
    assert words in shell.refused("train", "generate", "a.txt", "--quiet", *options, "--out", "o")


def test_without_its_package_jieba_is_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    said = shell.refused("train", "generate", "rhymes.txt", "--tokens", "jieba", *TINY, "--out", "o")
    assert 'the tokens "jieba" need the package jieba: pip install' in said


def test_the_text_to_judge_by_may_come_on_stdin(shell: Shell) -> None:
    words = ("train", "generate", "rhymes.txt", "--valid", "-", "--json", *TINY, "--out", "o")
    said = shell(*words, stdin=gzip.compress(rhymes(21, seed=3).encode()))
    assert said.code == 0, said.err
    assert json.loads(said.out)["characters"] == len(rhymes(21, seed=3))


def test_a_stream_that_is_closed(shell: Shell, model: str) -> None:
    for words in ((model, "--prompt", "-"), (model,)):
        script = [SCRIPT, "generate", *words, "--length", "5", "--out", "said.txt", "--overwrite"]
        done = subprocess.run(
            ["sh", "-c", '"$@" <&-', "sh", *script], capture_output=True, text=True, check=False
        )
        assert done.returncode == (2 if "--prompt" in words else 0)
        if done.returncode:
            assert sentence(done.stderr) == "- reads stdin, but it is closed: give a file's name"


def test_train_refuses_places(shell: Shell) -> None:
    assert "there is no file" in shell.refused("train", "generate", "none.txt", "--out", "o")
    assert "- reads stdin alone" in shell.refused("train", "generate", "-", "rhymes.txt", "--out", "o")
    assert "--valid -: stdin holds the training text" in shell.refused(
        "train", "generate", "-", "--valid", "-", "--out", "o"
    )
    shell.write("o", "a file")
    assert "is a file, but a folder" in shell.refused("train", "generate", "rhymes.txt", "--out", "o")


def test_evaluate_compares_with_ngrams(shell: Shell, model: str) -> None:
    shell.write("other.txt", rhymes(21, seed=1))
    said = shell("evaluate", model, "other.txt")
    assert said.code == 0, said.err
    assert "each part of it foreseen by all the others" in said.out
    document = json.loads(shell("evaluate", model, "other.txt", "--json").out)
    assert document["tokens"] == len(rhymes(21, seed=1))
    assert document["scores"]["LSTM"]["nats"] == pytest.approx(document["nats_per_token"])
    assert "unknown to the model" in shell("evaluate", model, "-", stdin="Zoë 🙂".encode()).out
    assert "--label is for models that label" in shell.refused("evaluate", model, "other.txt", "--label", "x")
    assert "--backtest and --stride are for forecasts" in shell.refused(
        "evaluate", model, "other.txt", "--stride", "1"
    )
    assert "is empty" in shell.refused("evaluate", model, "-", stdin=b"")


def test_predict_scores_each_line(shell: Shell, model: str) -> None:
    said = shell("predict", model, "-", stdin=b'The cat\n\nzzz, "quoted"\n')
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [(row["line"], row["text"]) for row in rows] == [("1", "The cat"), ("3", 'zzz, "quoted"')]
    assert float(rows[1]["perplexity"]) > float(rows[0]["perplexity"]) > 1
    document = json.loads(shell("predict", model, "-", "--json", stdin=b"The cat\n").out)
    assert document[0]["tokens"] == 7
    assert "is empty" in shell.refused("predict", model, "-", stdin=b"\n")


def test_stopped_it_resumes_to_the_same_weights(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train", "generate", "rhymes.txt", *TINY)
    assert shell(*words, "--out", "whole").code == 0
    fit: Callable[..., Any] = LanguageModel.fit

    def stopped(self: LanguageModel, *data: Any, log: Any, **more: Any) -> Any:
        def stop(row: dict[str, Any]) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        return fit(self, *data, log=stop, **more)

    monkeypatch.setattr(LanguageModel, "fit", stopped)
    said = shell(*words, "--out", "o")
    assert said.code == 2
    assert "--resume to go on" in sentence(said.err)
    monkeypatch.setattr(LanguageModel, "fit", fit)
    assert "did not finish" in shell.refused(*words, "--out", "o")
    assert "was started with" in shell.refused(*words, "--seed", "3", "--out", "o", "--resume")
    assert shell(*words, "--out", "o", "--resume").code == 0
    weights = [(shell.folder / name / "model.safetensors") for name in ("whole", "o")]
    first, second = (LanguageModel.load(path)._network().state_dict() for path in weights)
    assert all(first[name].equal(second[name]) for name in first)
    assert "finished already" in shell(*words, "--out", "o", "--resume").out


def test_help_has_an_example(shell: Shell) -> None:
    for words in (("generate",), ("train", "generate")):
        said = shell(*words, "--help")
        assert said.code == 0
        assert f"Example: recurra {' '.join(words)}" in said.out
