"""The words on the command line: mistakes in them, help, how soon it answers, and what a terminal sees."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import QUICK, SAMPLE, SCRIPT, TINY, Shell, sentence

import recurra

VERBS = ("forecast", "train", "train forecast", "predict", "evaluate", "info", "bench", "inspect")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "forecast a.csv",
            "--horizon is missing (how many steps to forecast): add it; recurra forecast --help",
        ),
        ("forecast --horizon 3", "DATA is missing (a table: "),
        ("train forecast a.csv --horizon 3", "--out is missing (folder to write): add it"),
        (
            "predict",
            "MODEL is missing (a model.safetensors that recurra wrote): add it; recurra predict --help",
        ),
        ("predict model", "DATA is missing (the history to forecast from"),
        ("forecast a.csv --horizon x", "--horizon: expected a whole number, got 'x': write it in digits"),
        ("forecast a.csv --horizon=1.5", "--horizon: expected a whole number, got '1.5'"),
        ("forecast a.csv --horizon 3 --seed one", "--seed: expected a whole number, got 'one'"),
        ("evaluate m a.csv --backtest all", "--backtest: expected a whole number, got 'all'"),
        ("forecast a.csv --horizont 3", "there is no option --horizont: did you mean --horizon?"),
        ("forecast a.csv --xyzzy", "there is no option --xyzzy: recurra forecast --help lists them all"),
        ("--versoin", "there is no option --versoin: did you mean --version?"),
        ("forecast a.csv --horizon", "'--horizon' requires an argument: recurra"),
        ("forecast a.csv --json=3 --horizon 3", "'--json' does not take a value: recurra"),
        ("forecast a.csv b.csv --horizon 3", "(b.csv): recurra forecast --help shows how to call it"),
        ("forcast a.csv --horizon 3", "there is no verb 'forcast': choose forecast; recurra --help explains"),
        (
            "xyzzy",
            "there is no verb 'xyzzy': choose bench or evaluate or forecast or generate or info or inspect "
            "or predict or train",
        ),
        (
            "train",
            "recurra train needs a task: choose classify or forecast or generate or tag; recurra train",
        ),
        (
            "train translate a.csv",
            "there is no task 'translate': choose classify or forecast or generate or tag; recurra train",
        ),
    ],
)
def test_a_mistaken_word(shell: Shell, words: str, expected: str) -> None:
    assert expected in shell.refused(*words.split())


def test_the_script_refuses_like_the_function(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "forecast", "none.csv", *QUICK], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == b""
    assert sentence(done.stderr.decode()) == "there is no file 'none.csv': check the path"
    assert os.listdir(tmp_path) == []


def test_the_isa_is_unknown(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from recurra.engine import native

    if not native.available():
        pytest.skip(str(native.why_not()))
    monkeypatch.setenv("RECURRA_ISA", "mmx")
    said = shell("info")
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("recurra: RECURRA_ISA=mmx: expected one of ")
    assert "unset RECURRA_ISA" in said.err
    assert said.err.count("\n") == 1


def test_version(shell: Shell) -> None:
    assert shell("--version").out == f"recurra {recurra.__version__}\n"


def test_info(shell: Shell) -> None:
    said = shell("info")
    assert said.code == 0
    names = [line.split()[0] for line in said.out.splitlines()]
    assert {"recurra", "torch", "python", "engine", "cpu", "threads", "cuda"} <= set(names)


def test_every_verb_explains_itself_with_an_example(shell: Shell) -> None:
    for verb in VERBS:
        said = shell(*verb.split(), "--help")
        assert said.code == 0
        assert f"Usage: recurra {verb}" in said.out
        assert f"Example: recurra {verb}" in said.out
        assert said.err == ""
    whole = shell("--help")
    assert whole == shell()
    for verb in ("forecast", "train", "predict", "evaluate", "info", "bench", "inspect"):
        line = next(line for line in whole.out.splitlines() if line.startswith(f"  {verb} "))
        assert line.endswith("."), "cut short"
        assert not line.endswith("...")


def test_the_examples_in_the_help_are_commands(shell: Shell) -> None:
    shell.write("airline.csv", SAMPLE.read_bytes())
    for verb in ("forecast", "train forecast", "predict", "evaluate", "info", "bench"):
        help_text = shell(*verb.split(), "--help").out
        words = help_text.partition("Example: recurra ")[2].split()
        tiny = {
            "forecast": (*TINY[2:], "--backtest", "12"),
            "train forecast": TINY[2:],
            "evaluate": ("--backtest", "12"),
        }
        said = shell(*words, *tiny.get(verb, ()))
        assert said.code == 0, said


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['recurra', '--help']\n"
        "from recurra.cli import main; main()\n"
        "heavy = {'torch', 'numpy', 'polars', 'plotly', 'statsmodels', 'jinja2', 'rich'}\n"
        "found = sorted(heavy & set(sys.modules)); assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    bare, help_ = (
        min(_seconds(command) for _ in range(5))
        for command in ([sys.executable, "-c", "0"], [SCRIPT, "--help"])
    )
    assert help_ - bare < 0.3


def _seconds(command: list[object]) -> float:
    started = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return time.perf_counter() - started


def test_plain_lines_without_a_terminal(shell: Shell) -> None:
    said = shell("forecast", SAMPLE, *QUICK, "--out", "o")
    assert said.err.splitlines() == [
        line for line in said.err.splitlines() if line.startswith("forecast: training")
    ]
    assert "1/1 loss 0." in said.err
    assert "\x1b" not in said.err + said.out
    assert shell("forecast", SAMPLE, *QUICK, "--out", "quiet", "--quiet").err == ""


def test_a_moving_line_on_a_terminal(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [SCRIPT, "forecast", SAMPLE, *QUICK, "--out", tmp_path / "o"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            shown += part
        out = process.stdout.read() if process.stdout is not None else b""
    os.close(ours)
    assert process.returncode == 0
    assert b"forecast: training, last part held back" in shown
    assert "━".encode() in shown
    assert b"\x1b[2K" in shown, "the bar goes when the work is done"
    assert b"\x1b" not in out
    assert b"Report: " in out
