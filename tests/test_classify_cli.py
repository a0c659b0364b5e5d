"""`recurra train classify`, and predict and evaluate with what it wrote: files, words, and refusals."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from commands import Said, Shell, contents
from test_classify import ordered, reviews
from test_report import Page

import recurra
from recurra import Classifier
from recurra.cli.classify_job import told_settings

FOUR = "label,text\nx,a\ny,b\nx,c\ny,d\n"
TINY = ("--hidden-size", "4", "--members", "2", "--epochs", "2", "--quiet")


def table(count: int = 63, seed: int = 0) -> str:
    texts, labels = reviews(count, seed)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["stars", "review"])
    writer.writerows(zip(labels, texts, strict=True))
    return text.getvalue()


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


def trained(shell: Shell) -> Said:
    shell.write("reviews.csv", table())
    said = shell(
        "train", "classify", "reviews.csv", "--text", "review", "--label", "stars", "--out", "m", *TINY
    )
    assert said.code == 0, said
    return said


def test_the_whole_way(shell: Shell) -> None:
    said = trained(shell)
    assert "TF-IDF + logistic regression" in said.out
    assert "most frequent class" in said.out
    assert "rows right" in said.out
    assert sorted(contents(shell.folder / "m")) == [
        "history.csv",
        "metrics.json",
        "model.safetensors",
        "report.html",
    ]
    document = json.loads((shell.folder / "m" / "metrics.json").read_text())
    assert document["classes"] == ["bad", "good"]
    assert document["scores"]["LSTM + n-grams"]["accuracy"] > 0.9
    assert document["command"].startswith("recurra train classify reviews.csv")
    rows = list(csv.DictReader(io.StringIO((shell.folder / "m" / "history.csv").read_text())))
    assert [row["stage"] for row in rows] == ["reader 1 of 2"] * 2 + ["reader 2 of 2"] * 2

    shell.write("new.txt", "a lovely town\n\nsour people\n")
    found = shell("predict", "m/model.safetensors", "new.txt")
    lines = list(csv.DictReader(io.StringIO(found.out)))
    assert [row["label"] for row in lines] == ["good", "bad"]
    assert float(lines[0]["good"]) > 0.5
    piped = shell("predict", "m/model.safetensors", "-", "--json", stdin=b"a lovely town\nsour people\n")
    answers = json.loads(piped.out)
    assert [row["label"] for row in answers] == ["good", "bad"]
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert shell("predict", "m/model.safetensors", "new.txt", "--out", "p.csv").code == 0
    assert (shell.folder / "p.csv").read_text() == found.out

    shell.write("test.csv", table(33, seed=1))
    scored = shell("evaluate", "m/model.safetensors", "test.csv", "--text", "review", "--label", "stars")
    assert scored.code == 0, scored
    assert "calibration error" in scored.out
    assert "precision" in scored.out
    told = shell("evaluate", "m/model.safetensors", "test.csv", "--text", "2", "--label", "1", "--json")
    scores = json.loads(told.out)
    assert scores["accuracy"] > 0.9
    assert scores["baselines"]["most frequent class"]["accuracy"] < 0.8
    assert scores["rows"] == 33


def test_the_report_shows_all_of_it(shell: Shell) -> None:
    shell.write("reviews.csv", table() + 'bad,"</script><img src=x onerror=alert(1)> fine"\n')
    assert shell("train", "classify", "reviews.csv", "--out", "m", "--label", "stars", *TINY).code == 0
    page = Page((shell.folder / "m" / "report.html").read_text())
    assert {"confusion", "precision", "roc", "calibration", "training"} <= set(page.figures)
    anchors = {given.get("id") for tag, given in page.tags if tag == "section"}
    assert {"scores", "classes", "confusion", "curves", "calibration", "words", "training"} <= anchors
    assert not [given for tag, given in page.tags if tag == "img" or given.get("onerror")]
    assert "TF-IDF + logistic regression" in page.text
    assert not [given for _, given in page.tags if str(given.get("src", "")).startswith("http")]


def test_attention_is_shown_where_the_readers_pool_by_it(shell: Shell) -> None:
    texts, labels = reviews(63)
    odd = [name if k % 5 else "good" for k, name in enumerate(labels)]  # so that there are mistakes
    lines = "".join(f"{name},{text}\n" for text, name in zip(texts, odd, strict=True))
    shell.write("reviews.csv", "label,text\n" + lines)
    for pooling in ("attention", "max"):
        options = ("--pooling", pooling, "--out", pooling, *TINY)
        assert shell("train", "classify", "reviews.csv", *options).code == 0
        page = Page((shell.folder / pooling / "report.html").read_text())
        assert "Most confident mistakes" in page.text
        assert (": attention" in page.text) == (pooling == "attention")
        assert ("where they look, not which class" in page.text) == (pooling == "attention")


def test_rows_without_labels(shell: Shell) -> None:
    shell.write("reviews.csv", table())
    shell.write("more.csv", "review\n" + "\n".join(reviews(33, seed=3)[0]) + "\n")
    command = ("train", "classify", "reviews.csv", "--text", "review", "--label", "stars", *TINY)
    said = shell(*command, "--adversarial", "virtual", "--unlabelled", "more.csv", "--out", "m", "--json")
    assert said.code == 0, said
    document = json.loads(said.out)
    assert "33 rows of more.csv counted without their labels." in document["notes"]
    assert "virtual adversarial distance 0.05" in document["model"]["training"]
    assert shell("predict", "m/model.safetensors", "more.csv").code == 0
    assert "stdin holds the training data already" in shell.refused(
        *(one if one != "reviews.csv" else "-" for one in command),
        *("--adversarial", "virtual", "--unlabelled", "-", "--out", "n"),
        stdin=table().encode(),
    )
    assert "stdin holds the validation data already" in shell.refused(
        *command, "--valid", "-", "--adversarial", "virtual", "--unlabelled", "-", "--out", "n", stdin=b""
    )


def test_several_labels_and_json(shell: Shell) -> None:
    texts, labels = reviews(63)
    rows = [
        f"{text}\t{name}{';long' if len(text) > 30 else ''}" for text, name in zip(texts, labels, strict=True)
    ]
    shell.write("many.tsv", "text\tlabels\n" + "\n".join(rows) + "\n")
    said = shell("train", "classify", "many.tsv", "--between", ";", "--out", "m", "--json", *TINY)
    assert said.code == 0, said
    document = json.loads(said.out)
    assert document["classes"] == ["bad", "good", "long"]
    assert document["out"] == "m"
    found = shell("predict", "m/model.safetensors", "-", stdin=b"a lovely town\n")
    assert found.out.splitlines()[1].startswith("good,")


def test_sequences_of_numbers(shell: Shell) -> None:
    values, labels = ordered(33)
    lines = [":".join(",".join(f"{v:.4f}" for v in one) for one in rows.T) for rows in values]
    text = "@data\n" + "\n".join(f"{line}:{name}" for line, name in zip(lines, labels, strict=True)) + "\n"
    path = shell.write("waves.ts", text)
    lengths = np.array([len(one) for one in values])
    x = np.zeros((33, lengths.max(), 2))
    for place, one in enumerate(values):
        x[place, : len(one)] = one
    np.savez(shell.folder / "waves.npz", x=x, lengths=lengths, y=np.array(labels))
    said = shell("train", "classify", "waves.ts", "--valid", "waves.npz", "--out", "m", *TINY)
    assert said.code == 0, said
    assert "logistic regression" in said.out
    assert "up" in (shell.folder / "m" / "report.html").read_text()
    found = shell("predict", "m/model.safetensors", "-", stdin=path.read_bytes())
    assert len(found.out.splitlines()) == 34
    assert shell("evaluate", "m/model.safetensors", "waves.ts").code == 0


def test_a_stopped_run_goes_on(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from recurra.cli.progress import Progress

    shell.write("reviews.csv", table())
    command = ("train", "classify", "reviews.csv", "--label", "stars", *TINY)
    assert shell(*command, "--out", "whole").code == 0

    def stop(self: Progress, row: dict[str, object]) -> None:
        if (row["stage"], row["epoch"]) == ("training reader 2 of 2", 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "log", stop)
        said = shell(*command, "--out", "m")
    assert said.code == 2
    assert "--resume" in said.err
    assert not (shell.folder / "m").exists()
    assert "was begun by a run that did not finish" in shell.refused(*command, "--out", "m")
    assert shell(*command, "--out", "m", "--resume").code == 0
    models = [recurra.checkpoint.read(shell.folder / at / "model.safetensors")[0] for at in ("whole", "m")]
    assert all(one.equal(models[1][name]) for name, one in models[0].items())
    assert "finished already" in shell(*command, "--out", "m", "--resume").out


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        ("label,text\nx,a\nx,b\nx,c\nx,d\n", (), "has only 'x' as label in all 4 rows"),
        ("", (), "is empty; expected a text in each row"),
        ("label,text\n", (), "has a header but no rows"),
        ("label,text\nx,a\n,b\n", (), "row 3 of 'd.csv' has no label"),
        (b"label,text\nx,caf\xe9\ny,b\n", (), "is not UTF-8 text"),
        ("label,text\nx,a\ny,b,c\n", (), "row 3 of 'd.csv' has 3 columns where the first has 2"),
        (FOUR, ("--text", "body"), "has no column 'body' for text"),
        (FOUR, ("--tokens", "syllable"), "--tokens must be auto or one of"),
        (FOUR, ("--dropout", "2"), "--dropout must be a number from 0 up to 1"),
        (FOUR, ("--dropout", "much"), "expected a number, got 'much'"),
        (
            FOUR,
            ("--members", "0"),
            "--members must be a whole number of at least 1",
        ),
        (FOUR, ("--members", "1000"), "--members must be at most 100"),
        (FOUR, ("--pooling", "sum"), "--pooling must be one of"),
        (FOUR, ("--device", "abacus"), "--device must be cpu, cuda or auto"),
        (
            FOUR,
            ("--class-weights", "x:2"),
            "--class-weights: expected balanced, or",
        ),
        (FOUR, ("--class-weights", "z=2"), "class_weights: 'z' is no class"),
        (FOUR, ("--valid", "none.csv"), "there is no file 'none.csv'"),
        (FOUR, ("--vectors", "none.txt"), "none.txt"),
        (FOUR, ("--adversarial", "virtually"), "--adversarial must be a number, 'virtual', or"),
        (FOUR, ("--adversarial", "some"), "expected a number, got 'some'"),
        (FOUR, ("--adversarial", "-1"), "--adversarial must be a number from 0 up to 10, or virtual"),
        (FOUR, ("--unlabelled", "d.csv"), "--adversarial virtual on the command line"),
        (FOUR, ("--adversarial", "virtual", "--unlabelled", "none.csv"), "there is no file 'none.csv'"),
    ],
)
def test_refusals(shell: Shell, content: str | bytes, options: tuple[str, ...], says: str) -> None:
    shell.write("d.csv", content)
    quick = [
        word for pair in zip(TINY[:-1:2], TINY[1::2], strict=True) if pair[0] not in options for word in pair
    ]
    assert says in shell.refused("train", "classify", "d.csv", "--out", "m", "--quiet", *quick, *options)


def test_a_label_that_was_not_learnt_and_two_times_stdin(shell: Shell) -> None:
    trained(shell)
    shell.write("odd.csv", "label,text\ngood,a\nugly,b\n")
    assert "row 3 of 'odd.csv' has the label 'ugly', which the model has not learnt" in shell.refused(
        "evaluate", "m/model.safetensors", "odd.csv"
    )
    assert "--backtest and --stride are for forecasts" in shell.refused(
        "evaluate", "m/model.safetensors", "odd.csv", "--stride", "3"
    )
    assert "stdin holds the training data already" in shell.refused(
        "train", "classify", "-", "--valid", "-", "--out", "n", stdin=table().encode()
    )
    shell.write("other.csv", "stars,text\ngood,a\nugly,b\n")
    assert "has the label 'ugly'" in shell.refused(
        "train", "classify", "reviews.csv", "--label", "1", "--valid", "other.csv", "--out", "n", *TINY
    )


@pytest.mark.parametrize(
    ("classes", "words"), [(2, "tokens and"), (3, "tokens, beginnings of texts, gaps and")]
)
def test_the_settings_say_which_n_grams_there_are(classes: int, words: str) -> None:
    texts = [f"w{k % 7} is it" for k in range(33)]
    model = Classifier(hidden_size=3, members=1, epochs=1)
    known = model.check(texts, ["x", "y", "z"][:classes] * (33 // classes) + ["x"] * (33 % classes))
    model.fit(known)
    assert f"1- and 2-grams of {words} of 2 to 5 characters" in told_settings(model, known)["linear model"]
