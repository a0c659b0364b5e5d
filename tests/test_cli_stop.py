"""Stopped by Ctrl-C or killed, a command goes on with --resume and ends with bitwise the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import QUICK, SAMPLE, SCRIPT, TINY, Shell, contents, monthly, sentence, waves

from recurra import Forecaster, checkpoint
from recurra.errors import ArgumentError
from recurra.tasks.segment_lstm import Example, ForecastNetwork

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
LONG = (
    "forecast", SAMPLE, "--horizon", "3", "--epochs", "40", "--members", "2", "--hidden-size", "7",
    "--no-backtest", "--quiet",
)  # fmt: skip


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the long command writes when nobody stops it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder, *LONG, "--out", "o").returncode == 0
    return folder / "o"


def run(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [SCRIPT, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def stopped(folder: Path, how: signal.Signals, ready: Callable[[], bool], *words: object) -> tuple[int, str]:
    """Start a command, send it a signal as soon as it is ``ready``: its exit code and stderr."""
    command = [SCRIPT, *map(str, words)]
    with subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
        # Test runners and background jobs may have Ctrl-C ignored, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        limit = time.monotonic() + 60
        while not ready():
            assert process.poll() is None, "the command ended before it could be stopped"
            assert time.monotonic() < limit
            time.sleep(0.01)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        return process.returncode, err


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(path)[0]


def assert_same_weights(one: Path, other: Path) -> None:
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


@pytest.mark.parametrize(("how", "stage"), [(signal.SIGINT, 1), (signal.SIGKILL, 0), (signal.SIGKILL, 1)])
def test_a_run_that_was_stopped_resumes_to_the_same_weights(
    tmp_path: Path, undisturbed: Path, how: signal.Signals, stage: int
) -> None:
    work = tmp_path / "o.partial"
    ready = [(work / "steps-forecast").is_dir, (work / "steps-forecast" / "search.safetensors").exists][stage]
    code, err = stopped(tmp_path, how, ready, *LONG, "--out", "o")
    if how == signal.SIGINT:
        assert code == 2
        assert sentence(err) == (
            "stopped; what was done so far is kept in o.partial: give the same command with --resume to go on"
        )
    else:
        assert code == -how
    assert os.listdir(tmp_path) == ["o.partial"]
    done = run(tmp_path, *LONG, "--out", "o", "--resume")
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["o"]
    assert sorted(os.listdir(tmp_path / "o")) == sorted(os.listdir(undisturbed))
    assert_same_weights(undisturbed / "model.safetensors", tmp_path / "o" / "model.safetensors")
    assert (undisturbed / "forecast.csv").read_bytes() == (tmp_path / "o" / "forecast.csv").read_bytes()


@pytest.mark.parametrize("step", [1, 7, 33])
def test_ctrl_c_between_two_steps(shell: Shell, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The signal itself, which training takes at the end of a step, to write its checkpoint first."""
    words = ("train", "forecast", SAMPLE, *TINY[:2], "--epochs", 5, *TINY[4:])
    assert shell(*words, "--out", "undisturbed").code == 0
    steps = 0
    loss = ForecastNetwork.loss

    def counted(network: ForecastNetwork, batch: Example) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(network, batch)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(ForecastNetwork, "loss", counted)
            said = shell(*words, "--out", "o")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert said.code == 2
    assert "give the same command with --resume to go on" in sentence(said.err)
    assert "final.safetensors" in os.listdir("o.partial/steps") or step < 20
    assert "search.safetensors" in os.listdir("o.partial/steps")
    assert shell(*words, "--out", "o", "--resume").code == 0
    assert_same_weights(Path("undisturbed/model.safetensors"), Path("o/model.safetensors"))


def interrupt_at(shell: Shell, monkeypatch: pytest.MonkeyPatch, stage: str, *words: object) -> str:
    """Run a command that gets Ctrl-C when it reports ``stage`` for the first time; its one sentence."""

    def log(self: object, row: dict[str, object]) -> None:
        if row["stage"] == stage:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recurra.cli.progress.Progress.log", log)
        said = shell(*words)
    assert said.code == 2
    return sentence(said.err)


@pytest.mark.parametrize("stage", ["search", "final", "backtest"])
def test_ctrl_c_at_any_stage(shell: Shell, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    words = ("forecast", SAMPLE, *TINY, "--backtest", 4, "--out", "o")
    said = interrupt_at(shell, monkeypatch, stage, *words)
    assert said.endswith("is kept in o.partial: give the same command with --resume to go on")
    assert os.listdir(".") == ["o.partial"]
    assert shell(*words, "--resume").code == 0
    assert os.listdir(".") == ["o"]


def test_ctrl_c_before_anything_is_written(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recurra.data.table.read_table", stop)
    assert shell.refused("forecast", SAMPLE, *QUICK) == "stopped; nothing was written"


def test_resuming_wants_the_same_command_and_data(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shell.write("data.csv", monthly(waves(49)))
    words = ("forecast", path, *TINY, "--backtest", 4, "--out", "o")
    interrupt_at(shell, monkeypatch, "final", *words)
    for changed, expected in (
        (("--epochs", 2), "with --epochs 1, not --epochs 2"),
        (("--horizon", 4), "with --horizon 3, not --horizon 4"),
        (("--season", 6), "with --season not given, not --season 6"),
        (("--stride", 2), "with --stride not given, not --stride 2"),
        (("--no-backtest",), "with --no-backtest False, not --no-backtest True"),
        (("--seed", 5), "with --seed 0, not --seed 5"),
    ):
        said = shell.refused(*words, *changed, "--resume")
        assert (
            f"--resume: the unfinished run in o.partial was started {expected}: give the same again" in said
        )
    shell.write("data.csv", monthly([1, *waves(49)[1:]]))
    assert "o.partial was started with other data: give the same again" in shell.refused(*words, "--resume")
    shell.write("data.csv", monthly(waves(49)))
    assert "did not finish (o.partial): add --resume to go on" in shell.refused(*words)
    assert shell(*words, "--resume").code == 0
    assert sorted(os.listdir(".")) == ["data.csv", "o"]


def test_overwrite_starts_anew(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train", "forecast", SAMPLE, *TINY, "--out", "o")
    interrupt_at(shell, monkeypatch, "final", *words)
    (shell.folder / "o.partial" / "steps" / "search.safetensors").write_bytes(b"damaged")
    said = shell.refused(*words, "--resume")
    assert "search.safetensors" in said
    assert shell(*words, "--overwrite").code == 0
    assert os.listdir(".") == ["o"]


def test_what_a_killed_writer_left_is_swept(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train", "forecast", SAMPLE, *TINY, "--out", "o")
    interrupt_at(shell, monkeypatch, "final", *words)
    shell.write("o.partial/.model.safetensors.99-abcd.partial", b"half")
    shell.write("o.partial/history.csv.partial", b"half")
    assert shell(*words, "--resume").code == 0
    assert sorted(os.listdir("o")) == ["history.csv", "model.safetensors"]


def test_an_error_while_resuming_keeps_the_unfinished_run(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", "forecast", SAMPLE, *TINY, "--out", "o")
    interrupt_at(shell, monkeypatch, "final", *words)
    before = contents(shell.folder)
    (shell.folder / "o.partial" / "run.json").write_text("[")
    assert "run.json is damaged, so the run cannot be resumed: add --overwrite instead" in shell.refused(
        *words, "--resume"
    )
    assert contents(shell.folder).keys() == before.keys()


def test_checkpoints_of_other_data_are_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python too, where no command line has compared the arguments."""
    numbers = {"epochs": 1, "members": 1, "hidden_size": 4}
    paths = [shell.write(f"{start}.csv", monthly([start, *waves(49)[1:]])) for start in (1, 2)]
    Forecaster(3, **numbers).fit(paths[0], checkpoints="steps")
    Forecaster(3, **numbers).fit(paths[0], checkpoints="steps")
    with pytest.raises(ArgumentError, match="written by a run with other data or settings"):
        Forecaster(3, **numbers).fit(paths[1], checkpoints="steps")
    with pytest.raises(ArgumentError, match="other data or settings"):
        Forecaster(3, lookback=7, **numbers).fit(paths[0], checkpoints="steps")
