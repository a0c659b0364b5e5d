"""Where the command line writes: whole folders and files or nothing, and never over something else."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest
from commands import QUICK, SAMPLE, SCRIPT, TINY, Shell, contents, monthly, sentence, waves

from recurra import Forecaster, checkpoint

FILES = ["forecast.csv", "metrics.json", "model.safetensors", "report.html"]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the sample, three months ahead."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    Forecaster(3, epochs=1, members=1, hidden_size=4).fit(SAMPLE).save(path)
    return path


def test_the_folder_is_written_whole(shell: Shell) -> None:
    said = shell("forecast", SAMPLE, *QUICK)
    assert said.code == 0, said
    assert sorted(contents(shell.folder)) == [
        "airpassengers-forecast", *(f"airpassengers-forecast/{name}" for name in FILES)
    ]  # fmt: skip
    assert said.out.splitlines()[-2].startswith("Report: airpassengers-forecast/report.html")
    assert "Model: airpassengers-forecast/model.safetensors" in said.out
    said = shell("train", "forecast", SAMPLE, *TINY, "--out", "model")
    assert sorted(os.listdir("model")) == ["history.csv", "model.safetensors"]
    assert said.out.splitlines()[-1] == "Model: model/model.safetensors"


@pytest.mark.parametrize("verb", ["forecast", "train forecast"])
def test_an_out_that_cannot_be_written(shell: Shell, verb: str) -> None:
    shell.write("file", "x")
    (shell.folder / "there").mkdir()
    (shell.folder / "mine").mkdir()
    shell.write("mine/notes.txt", "x")
    (shell.folder / "other.partial").mkdir()
    shell.write("other.partial/a", "x")
    (shell.folder / "dangling").symlink_to("nowhere")
    cases = {
        ("there",): "--out there exists already: add --overwrite to replace it, or give another name",
        ("file",): "--out file is a file, but a folder is written: give another name",
        ("file", "--overwrite"): "--out file is a file, but a folder is written: give another name",
        ("dangling",): "--out dangling is a file, but a folder is written",
        (
            "no/such",
        ): f"--out no/such: there is no folder {shell.folder}/no to write it into: create that first",
        ("file/such",): f"--out file/such: there is no folder {shell.folder}/file to write it into",
        ("mine", "--overwrite"): "the folder mine holds files that recurra did not write, such as notes.txt",
        ("other",): "--out other was begun by a run that did not finish (other.partial): add --resume",
        (
            "other",
            "--overwrite",
        ): "the folder other.partial holds files that recurra did not write, such as a",
        ("other", "--resume"): "the folder other.partial holds files that recurra did not write, such as a",
        (".", "--overwrite"): "--out . is a folder that you work in: give the name of a new one",
        ("..", "--overwrite"): "--out .. is a folder that you work in",
        ("/", "--overwrite"): "--out / is a folder that you work in",
        ("new", "--overwrite", "--resume"): "--overwrite and --resume exclude each other: give one of them",
        ("n" * 300,): "File name too long",
    }
    for words, expected in cases.items():
        assert expected in shell.refused(*verb.split(), SAMPLE, *TINY, "--out", *words)


def test_overwrite_replaces_only_at_the_end(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shell("forecast", SAMPLE, *QUICK, "--out", "o").code == 0
    before = contents(shell.folder)
    with monkeypatch.context() as patch:
        patch.setattr(
            "recurra.cli.forecast_job.render", Mock(side_effect=OSError(errno.EIO, "Input/output error"))
        )
        said = shell.refused("forecast", SAMPLE, *QUICK, "--seed", 3, "--out", "o", "--overwrite")
        assert said == "o could not be written: input/output error; choose another place with --out"
    assert contents(shell.folder) == before
    replace = os.replace

    def fail_at_the_folder(old: str | Path, new: str | Path) -> None:
        if str(old).endswith("o.partial"):
            raise OSError(errno.EIO, "Input/output error")
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_at_the_folder)
        shell.refused("forecast", SAMPLE, *QUICK, "--seed", 3, "--out", "o", "--overwrite")
    assert contents(shell.folder) == before
    (shell.folder / "o" / ".DS_Store").write_bytes(b"what a file manager leaves")
    assert shell("forecast", SAMPLE, *QUICK, "--seed", 3, "--out", "o", "--overwrite").code == 0
    after = contents(shell.folder)
    assert sorted(after) == sorted(before)
    assert after["o/forecast.csv"] != before["o/forecast.csv"]


def test_overwriting_a_link_leaves_what_it_points_to(shell: Shell) -> None:
    (shell.folder / "real").mkdir()
    shell.write("real/forecast.csv", "old")
    (shell.folder / "o").symlink_to("real")
    assert shell("forecast", SAMPLE, *QUICK, "--out", "o", "--overwrite").code == 0
    assert sorted(os.listdir("o")) == FILES
    assert (shell.folder / "real" / "forecast.csv").read_text() == "old"
    assert sorted(os.listdir(".")) == ["o", "real"]


@pytest.mark.parametrize(("verb", "allowed"), [
    ("forecast", 0), ("forecast", 1), ("forecast", 4), ("train forecast", 0), ("train forecast", 2),
    ("predict", 0),
])  # fmt: skip
def test_a_full_disk(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, model: Path, verb: str, allowed: int
) -> None:
    """The disk takes ``allowed`` files."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", Mock(side_effect=[*[None] * allowed, *[full] * 99]))
    if verb == "predict":
        said = shell.refused("predict", model, SAMPLE, "--out", "next.csv")
        assert said.startswith("next.csv could not be written: the disk is full; free some space")
        return
    said = shell.refused(*verb.split(), SAMPLE, *TINY, "--out", "o")
    assert "could not be written" in said
    assert "disk is full; free some space" in said or "No space left on device; free some space" in said


@pytest.mark.parametrize("limit", [100, 100_000])
def test_a_disk_that_takes_no_more_bytes(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files, set by the system and met wherever the writing happens to be."""
    done = subprocess.run(
        [SCRIPT, "forecast", SAMPLE, *QUICK, "--out", "o"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 2
    assert "could not be written: " in sentence(done.stderr)
    assert "file too large" in done.stderr.lower()
    assert contents(tmp_path) == {}


def test_stdout_on_a_full_disk(model: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [SCRIPT, "predict", model, SAMPLE], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert "No space left on device" in sentence(done.stderr)


def test_a_closed_stdout_is_no_error(model: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" >&-', SCRIPT, "predict", model, SAMPLE],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == b""


def test_a_reader_that_goes_away_is_no_error(model: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [SCRIPT, "predict", model, SAMPLE], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.returncode == 0
    assert done.stderr == b""


def test_json_is_all_that_stdout_gets(shell: Shell, model: Path) -> None:
    document = json.loads(shell("forecast", SAMPLE, *TINY, "--backtest", 4, "--out", "o", "--json").out)
    assert document["out"] == "o"
    assert next(iter(document["scores"])) == "LSTM"
    assert {key: document[key] for key in document if key != "out"} == json.loads(
        Path("o/metrics.json").read_text()
    )
    said = shell("train", "forecast", SAMPLE, *TINY, "--out", "m", "--json")
    assert json.loads(said.out)["model"] == "m/model.safetensors"
    assert "The target is the column 'passengers'." in said.err
    for words in (
        ["forecast", SAMPLE, *QUICK, "--out", "o"],
        ["train", "forecast", SAMPLE, *TINY, "--out", "m"],
    ):
        finished = json.loads(shell(*words, "--resume", "--json").out)
        assert "is finished already" in finished["notes"][0]
        Path(words[-1], "notes.txt").write_text("A finished run may be written in.")
        assert "is finished already; there is nothing to resume" in shell(*words, "--resume").out
    rows = json.loads(shell("predict", model, SAMPLE, "--json").out)
    assert [row["ds"] for row in rows] == [["1961-01-01", "1961-02-01", "1961-03-01"]]
    assert len(rows[0]["values"][2]) == len(rows[0]["quantiles"]) == 7
    assert json.loads(shell("predict", model, SAMPLE, "--json", "--out", "p.json").out) == {
        "forecast": "p.json"
    }
    assert json.loads(Path("p.json").read_text()) == rows
    scores = json.loads(shell("evaluate", model, SAMPLE, "--backtest", 4, "--json").out)
    assert scores["windows"] == 2
    assert json.loads(shell("info", "--json").out)["recurra"] == "0.1.0"


def test_predict(shell: Shell, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = shell("predict", model, SAMPLE)
    assert printed.code == 0
    assert printed.err == ""
    assert printed.out.splitlines()[0] == "unique_id,ds,forecast,q0.025,q0.1,q0.25,q0.5,q0.75,q0.9,q0.975"
    assert [line.split(",")[:2] for line in printed.out.splitlines()[1:]] == [
        ["passengers", f"1961-0{month}-01"] for month in (1, 2, 3)
    ]
    # From stdin, without a file of our own in between.
    monkeypatch.setattr("tempfile.NamedTemporaryFile", Mock(side_effect=AssertionError))
    assert shell("predict", model, "-", stdin=SAMPLE.read_bytes()) == printed
    assert shell("predict", model, SAMPLE, "--out", "next.csv").out == "Forecast: next.csv\n"
    assert Path("next.csv").read_text() == printed.out
    assert "--out next.csv exists already: add --overwrite" in shell.refused(
        "predict", model, SAMPLE, "--out", "next.csv"
    )
    assert shell("predict", model, SAMPLE, "--out", "next.csv", "--overwrite").code == 0
    assert sorted(os.listdir(".")) == ["next.csv"]
    for place in (shell.folder, ".", ".."):
        said = shell.refused("predict", model, SAMPLE, "--overwrite", "--out", place)
        assert f"--out {place} is a folder, but a file is written: give a file's name" in said
    assert "there is no folder" in shell.refused("predict", model, SAMPLE, "--out", "no/next.csv")


def test_everything_reads_stdin(shell: Shell, model: Path) -> None:
    text = SAMPLE.read_bytes()
    assert shell("forecast", "-", *QUICK, stdin=text).code == 0
    assert "from stdin" in Path("stdin-forecast/report.html").read_text(encoding="utf-8")
    assert shell("evaluate", model, "-", "--backtest", 3, stdin=text).code == 0
    assert "is empty" in shell.refused("predict", model, "-", stdin=b"")
    assert "is a binary file" in shell.refused("predict", model, "-", stdin=bytes(range(256)))


def test_data_that_do_not_suit_the_model(shell: Shell, model: Path) -> None:
    renamed = shell.write("renamed.csv", monthly(waves(33), "month,Passenger"))
    assert "did you mean 'Passenger'?" in shell.refused("predict", model, renamed)
    days = "month,passengers\n" + "".join(f"2020-01-{day:02d},{day}\n" for day in range(1, 31))
    assert "fall into the same month" in shell.refused("predict", model, shell.write("days.csv", days))
    assert "there is no file" in shell.refused("predict", model, "nothing.csv")
    # A history shorter than a season, and than what the network looks back on, is enough to forecast from.
    for steps in (1, 2, 7, 33):
        said = shell("predict", model, shell.write("short.csv", monthly(waves(steps))))
        assert said.code == 0, said
        assert len(said.out.splitlines()) == 4
    short = shell.write("short.csv", monthly(waves(5)))
    assert "needs a history of at least 10 steps" in shell.refused("evaluate", model, short)
    assert "--backtest must span at least one horizon (3 steps), but 1 was given" in shell.refused(
        "evaluate", model, SAMPLE, "--backtest", 1
    )
    assert "--stride must be at least 1 step" in shell.refused("evaluate", model, SAMPLE, "--stride", 0)


def test_evaluate(shell: Shell, model: Path) -> None:
    said = shell("evaluate", model, SAMPLE, "--backtest", 6, "--stride", 3)
    assert said.code == 0, said
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[2:8]] == ["LSTM", "naive", "seasonal", "drift", "ETS", "Theta"]
    assert lines[-2].startswith("LSTM ")
    assert lines[-1].startswith("2 origins in the last 6 steps; if the model was trained on them")
    assert os.listdir(".") == []


def models(good: Path) -> dict[str, bytes]:
    """Files that are no model that this version reads."""
    raw = good.read_bytes()
    tensors, document = checkpoint.read(good)
    document = {name: value for name, value in document.items() if name not in ("format", "recurra")}

    def rewritten(**entries: object) -> bytes:
        path = good.with_name("other.safetensors")
        checkpoint.write(path, tensors, {**document, **entries})
        return path.read_bytes()

    damaged = bytearray(raw)
    damaged[-9] ^= 1
    return {
        "empty": b"",
        "no model": b"hello, world; hello, world",
        "a table": SAMPLE.read_bytes(),
        "a pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00",
        "a zip": b"PK\x03\x04" + bytes(99),
        "truncated in the header": raw[:100],
        "truncated in the weights": raw[:-1000],
        "damaged": bytes(damaged),
        "of another task": rewritten(task="translate"),
        "without its plan": rewritten(plan={}),
        "of another size": rewritten(names=["a", "b", "c"]),
    }


EXPECTED = {
    "empty": "found an empty file; write it again",
    "no model": "this is not a recurra model file; give a *.safetensors",
    "a table": "this is not a recurra model file",
    "a pickle": "a pickle or zip file, which is never opened",
    "a zip": "a pickle or zip file, which is never opened",
    "truncated in the header": "the file is truncated: it has 100 bytes",
    "truncated in the weights": "the file is truncated or damaged",
    "damaged": "truncated or damaged: its content does not match its digest",
    "of another task": "of one of the tasks forecast, classify, tag, generate, got task 'translate'",
    "without its plan": "does not fit its weights or this version",
    "of another size": "does not fit its weights or this version",
}


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_file_that_is_no_model(
    shell: Shell, model: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    files = models(model)
    assert files.keys() == EXPECTED.keys()
    for case, content in files.items():
        path = shell.write("bad.safetensors", content)
        assert EXPECTED[case] in shell.refused(verb, path, SAMPLE), case
        assert str(path) in shell.refused(verb, path, SAMPLE)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 99)
        newer = models(model)["of another task"]
    path = shell.write("bad.safetensors", newer)
    said = shell.refused(verb, path, SAMPLE)
    assert "the file has format 99 and this recurra reads up to 1; install recurra 0.1.0 or newer" in said
    assert "found no such file; check the path" in shell.refused(verb, "none.safetensors", SAMPLE)
    assert "found a folder; give the file in it" in shell.refused(verb, ".", SAMPLE)


def test_a_name_that_the_terminal_cannot_show(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr("sys.stdout", ascii_only)
    said = shell("forecast", SAMPLE, *QUICK, "--out", "größe")
    assert said.code == 0
    assert rb"gr\xf6\xdfe/report.html" in ascii_only.buffer.getvalue()  # type: ignore[attr-defined]
