"""A killed or interrupted run resumes bitwise, wherever it was, and from its own checkpoint only."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from test_train import RECIPES, Killed, Network, Pair, Shuffled, assert_equal_weights, pairs, timeless
from torch import Tensor, nn

from recurra import checkpoint, train
from recurra.errors import ArgumentError, Interrupted, ModelFileError, RecurraError


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return train.quiet_fabric("cpu")


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving at each step would mostly wait for the disk, and only a power cut tells the difference."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("every", [1, 3])
def test_resumes_bitwise_wherever_it_was_killed(
    fabric: Fabric, tmp_path: Path, recipe: str, every: int, seed: int
) -> None:
    data = pairs()

    def run(network: Network, batches: Shuffled, path: Path | None) -> train.History:
        return train.fit(
            fabric, network, batches, epochs=4, learning_rate=0.02, seed=seed, checkpoint=path,
            validate=lambda: network.loss(data).item(), save_every_steps=every, **RECIPES[recipe],
        )  # fmt: skip

    undisturbed = Network()
    expected = run(undisturbed, Shuffled(data), None)
    for killed_after in (0, 1, 4, 5, 6, 13, 19):
        path = tmp_path / f"{killed_after}.safetensors"
        with pytest.raises(Killed):
            run(Network(), Shuffled(data, fail_after=killed_after), path)
        resumed = Network(seed=99)  # a resumed run's own start does not matter once there is a checkpoint
        if not path.exists():
            resumed = Network()
        history = run(resumed, Shuffled(data), path)
        assert timeless(history) == timeless(expected), killed_after
        assert_equal_weights(resumed, undisturbed)


def test_resumes_bitwise_after_many_kills(fabric: Fabric, tmp_path: Path, seed: int) -> None:
    data, path = pairs(), tmp_path / "run.safetensors"
    undisturbed = Network()
    expected = train.fit(fabric, undisturbed, Shuffled(data), epochs=3, seed=seed)
    kills = 0
    while True:
        network = Network()
        # Passing over the batches already done also counts, so this is at least two steps further each time.
        batches = Shuffled(data, fail_after=7)
        try:
            history = train.fit(fabric, network, batches, epochs=3, seed=seed, checkpoint=path, save_every=0)
        except Killed:
            kills += 1
            assert kills < 30
            continue
        break
    assert kills >= 2
    assert timeless(history) == timeless(expected)
    assert_equal_weights(network, undisturbed)


def test_resumes_after_a_kill_at_the_end_of_an_epoch(fabric: Fabric, tmp_path: Path) -> None:
    def fail(row: train.Row) -> None:
        if row["epoch"] == 2:
            raise Killed

    data, path = pairs(), tmp_path / "run.safetensors"
    undisturbed, resumed = Network(), Network()
    expected = train.fit(fabric, undisturbed, Shuffled(data), epochs=3)
    with pytest.raises(Killed):
        train.fit(fabric, Network(), Shuffled(data), epochs=3, checkpoint=path, save_every_steps=1, log=fail)
    rows: list[train.Row] = []
    history = train.fit(
        fabric, resumed, Shuffled(data), epochs=3, checkpoint=path, save_every_steps=1, log=rows.append
    )
    assert [row["epoch"] for row in rows] == [2, 3]
    assert timeless(history) == timeless(expected)
    assert_equal_weights(resumed, undisturbed)


SCRIPT = textwrap.dedent(
    """
    import os, random, signal, sys, time
    import torch
    torch.set_num_threads(1)
    from test_train import Network, Shuffled, pairs
    from recurra import checkpoint, train

    run, done, dice = sys.argv[1], sys.argv[2], random.Random(int(sys.argv[3]))

    def attempt(began):
        data, network = pairs(), Network()
        # Every step saves, so that many a kill comes in the middle of a save.
        train.fit(train.quiet_fabric("cpu"), network, Shuffled(data), epochs=6, average_last=2,
                  checkpoint=run, save_every=0.0,
                  validate=lambda: os.write(began, b".") and network.loss(data))
        checkpoint.write(done, network.state_dict(), {})

    kills = 0
    while not os.path.exists(done):
        seen, began = os.pipe()
        child = os.fork()
        if child == 0:
            attempt(began)
            os._exit(0)
        os.close(began)
        if kills < 5 and os.read(seen, 1):
            time.sleep(dice.random() * 0.05)
            os.kill(child, signal.SIGKILL)
            kills += 1
        status = os.waitpid(child, 0)[1]
        os.close(seen)
        assert status in (0, signal.SIGKILL), status
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork and SIGKILL")
def test_resumes_bitwise_after_sigkill_at_random_moments(fabric: Fabric, tmp_path: Path) -> None:
    dice = int.from_bytes(os.urandom(4), "little")
    run, done = tmp_path / "run.safetensors", tmp_path / "done.safetensors"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", SCRIPT, str(run), str(done), str(dice)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, (dice, result.stderr)
    data, undisturbed = pairs(), Network()
    train.fit(
        fabric, undisturbed, Shuffled(data), epochs=6, validate=lambda: undisturbed.loss(data), average_last=2
    )
    weights, _ = checkpoint.read(done)
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(weights[name], value), (name, dice)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [done.name, run.name], dice


def test_a_finished_run_returns_at_once(fabric: Fabric, tmp_path: Path) -> None:
    data, path = pairs(), tmp_path / "run.safetensors"
    first, second = Network(), Network(seed=5)
    history = train.fit(fabric, first, Shuffled(data), epochs=2, checkpoint=path)
    again = train.fit(fabric, second, Shuffled(data, fail_after=0), epochs=2, checkpoint=path)
    assert again == history
    assert_equal_weights(first, second)
    assert not second.training


def test_another_runs_checkpoint_is_refused(fabric: Fabric, tmp_path: Path) -> None:
    data, path = pairs(), tmp_path / "run.safetensors"
    usual: dict[str, Any] = {"epochs": 2, "checkpoint": path}
    train.fit(fabric, Network(), Shuffled(data), **usual)
    before = path.read_bytes()
    changes: list[dict[str, Any]] = [
        {"epochs": 3}, {"learning_rate": 0.5}, {"weight_decay": 0.1}, {"clip": None}, {"seed": 1},
        {"schedule": "constant"}, {"average_last": 2}, {"about": "another series"}, {"validate": lambda: 1.0},
    ]  # fmt: skip
    for change in changes:
        name = next(iter(change))
        what = "other data or settings" if name == "about" else f"another {name}"
        with pytest.raises(ArgumentError, match=f"{what} .*; give the same arguments"):
            train.fit(fabric, Network(), Shuffled(data), **usual | change)
    other = Network()
    other.head = nn.Linear(5, 2)
    with pytest.raises(ArgumentError, match=r"another network .*head\.weight float32 \[1, 5\].*\[2, 5\]"):
        train.fit(fabric, other, Shuffled(data), **usual)
    assert path.read_bytes() == before


def test_fewer_batches_than_the_checkpoint_saw_are_refused(fabric: Fabric, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    usual: dict[str, Any] = {"epochs": 2, "checkpoint": path, "save_every": 0}
    with pytest.raises(Killed):
        train.fit(fabric, Network(), Shuffled(pairs(), fail_after=4), **usual)
    with pytest.raises(ArgumentError, match=r"after 4 batches of epoch 1, and there are fewer now"):
        train.fit(fabric, Network(), Shuffled(pairs(7)), **usual)


def test_a_file_that_is_no_checkpoint_is_refused_and_kept(fabric: Fabric, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint.write(path, {}, {"kind": "model"})
    with pytest.raises(ModelFileError, match="is no training checkpoint"):
        train.fit(fabric, Network(), Shuffled(pairs()), epochs=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelFileError, match="truncated"):
        train.fit(fabric, Network(), Shuffled(pairs()), epochs=1, checkpoint=path)
    with pytest.raises(ArgumentError, match="there is no folder"):
        train.fit(fabric, Network(), Shuffled(pairs()), epochs=1, checkpoint=tmp_path / "absent" / "x")


def test_a_save_that_fails_keeps_the_last_one(
    fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = pairs(), tmp_path / "run.safetensors"
    undisturbed, resumed = Network(), Network()
    expected = train.fit(fabric, undisturbed, Shuffled(data), epochs=3)
    usual, count = os.replace, 0

    def fail_at_the_eighth(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count == 8:
            raise OSError(28, "No space left on device")
        usual(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_eighth)
    with pytest.raises(RecurraError, match="No space left on device"):
        train.fit(fabric, Network(), Shuffled(data), epochs=3, checkpoint=path, save_every=0)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    history = train.fit(fabric, resumed, Shuffled(data), epochs=3, checkpoint=path, save_every=0)
    assert timeless(history) == timeless(expected)
    assert_equal_weights(resumed, undisturbed)


def test_ctrl_c_saves_between_two_steps_and_says_how_to_resume(fabric: Fabric, tmp_path: Path) -> None:
    class Impatient(Network):
        steps = 0

        def loss(self, batch: Pair) -> Tensor:
            self.steps += 1
            if self.steps == 7:
                signal.raise_signal(signal.SIGINT)
            return super().loss(batch)

    data, path = pairs(), tmp_path / "run.safetensors"
    with pytest.raises(
        Interrupted, match=r"run again with the same arguments to resume from .*run\.safetensors"
    ):
        train.fit(fabric, Impatient(), Shuffled(data), epochs=3, checkpoint=path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    undisturbed, resumed = Impatient(), Impatient()
    undisturbed.steps = resumed.steps = 100
    expected = train.fit(fabric, undisturbed, Shuffled(data), epochs=3)
    history = train.fit(fabric, resumed, Shuffled(data), epochs=3, checkpoint=path)
    assert resumed.steps == 100 + 15 - 7
    assert timeless(history) == timeless(expected)
    assert_equal_weights(resumed, undisturbed)


def test_ctrl_c_without_a_checkpoint_says_so(fabric: Fabric, tmp_path: Path) -> None:
    def interrupt(row: train.Row) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="there is no checkpoint"):
        train.fit(fabric, Network(), Shuffled(pairs()), epochs=3, log=interrupt)
    with pytest.raises(Interrupted, match="there is no checkpoint"):  # also when nothing was left to do
        train.fit(fabric, Network(), Shuffled(pairs()), epochs=1, log=interrupt)


def test_a_second_ctrl_c_does_not_wait(fabric: Fabric, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    rows = 0

    def validate() -> float:
        nonlocal rows
        rows += 1
        if rows == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second one should have interrupted")
        return 1.0

    with pytest.raises(Interrupted, match="resume from"):
        train.fit(
            fabric, Network(), Shuffled(pairs()), epochs=3, checkpoint=path, save_every=0, validate=validate
        )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_csv_log_continues_over_a_resumed_run(fabric: Fabric, tmp_path: Path) -> None:
    path, table = tmp_path / "run.safetensors", tmp_path / "log.csv"
    arguments: dict[str, Any] = {"epochs": 4, "checkpoint": path, "save_every_steps": 4}
    with pytest.raises(Killed):
        train.fit(fabric, Network(), Shuffled(pairs(), fail_after=11), log=train.csv_log(table), **arguments)
    history = train.fit(fabric, Network(), Shuffled(pairs()), log=train.csv_log(table), **arguments)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["train_loss"]) for row in rows] == [row["train_loss"] for row in history.rows]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_train_and_resume(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, precision: str
) -> None:
    fabric = train.quiet_fabric("cpu", precision=precision)
    assert capfd.readouterr() == ("", "")
    data, path = pairs(), tmp_path / "run.safetensors"
    undisturbed, resumed = Network(), Network()
    arguments: dict[str, Any] = {"epochs": 3, "learning_rate": 0.02, "average_last": 2}
    expected = train.fit(fabric, undisturbed, Shuffled(data), **arguments)
    dtypes = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}
    assert {parameter.dtype for parameter in undisturbed.parameters()} == {dtypes[precision]}
    with pytest.raises(Killed):
        train.fit(fabric, Network(), Shuffled(data, fail_after=8), checkpoint=path, save_every=0, **arguments)
    history = train.fit(fabric, resumed, Shuffled(data), checkpoint=path, **arguments)
    assert timeless(history) == timeless(expected)
    assert_equal_weights(resumed, undisturbed)
