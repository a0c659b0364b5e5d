"""The training loop: what it does to the weights, and what it refuses."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from recurra import train
from recurra.errors import ArgumentError, RecurraError


@dataclass(frozen=True)
class Pair:
    past: Tensor  # (N, T, F)
    future: Tensor  # (N, 1)


class Network(nn.Module):
    """An LSTM with dropout that also draws from numpy and Python while it trains."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.lstm = nn.LSTM(3, 5, num_layers=2, dropout=0.3, batch_first=True)
            self.head = nn.Linear(5, 1)

    def forward(self, past: Tensor) -> Tensor:
        return self.head(self.lstm(past)[0][:, -1])

    def loss(self, batch: Pair) -> Tensor:
        noise = np.random.standard_normal() + random.gauss(0, 1) if self.training else 0.0  # noqa: NPY002
        return (self(batch.past) + 0.01 * noise - batch.future).square().mean()


def pairs(count: int = 33) -> Pair:
    past = torch.randn(count, 7, 3, generator=torch.Generator().manual_seed(1))
    return Pair(past, past.sum((1, 2), keepdim=True)[:, 0] / 4)


class Shuffled:
    """Batches of `size` in random order; after `fail_after` of them it raises, as if killed."""

    def __init__(self, data: Pair, size: int = 7, fail_after: float = math.inf) -> None:
        self.data, self.size, self.fail_after = data, size, fail_after

    def __len__(self) -> int:
        return -(-len(self.data.past) // self.size)

    def __call__(self, generator: torch.Generator) -> Iterator[Pair]:
        order = torch.randperm(len(self.data.past), generator=generator)
        for rows in order.split(self.size):
            if self.fail_after <= 0:
                raise Killed
            self.fail_after -= 1
            yield Pair(self.data.past[rows], self.data.future[rows])


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return train.quiet_fabric("cpu")


def timeless(history: train.History) -> tuple[Any, ...]:
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
    return rows, history.best_epoch, history.stopped_early


def assert_equal_weights(left: nn.Module, right: nn.Module) -> None:
    for (name, one), other in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


RECIPES: dict[str, dict[str, Any]] = {
    "hold": {},
    "cosine, averaged, decayed": {"schedule": "cosine", "average_last": 2, "weight_decay": 0.01},
    "onecycle, unclipped": {"schedule": "onecycle", "clip": None},
}


def test_trains_on_another_thread(fabric: Fabric) -> None:
    histories: list[train.History] = []
    thread = threading.Thread(
        target=lambda: histories.append(train.fit(fabric, Network(), Shuffled(pairs()), epochs=1))
    )
    thread.start()
    thread.join()
    assert len(histories) == 1


def test_the_callers_random_state_is_untouched(fabric: Fabric, tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [torch.rand(1).item(), np.random.random(), random.random()]  # noqa: NPY002

    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    expected = draw()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        train.fit(fabric, Network(), Shuffled(pairs(), fail_after=7), epochs=2, checkpoint=path, save_every=0)
    train.fit(fabric, Network(), Shuffled(pairs()), epochs=2, checkpoint=path)
    assert draw() == expected


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_seed_decides(fabric: Fabric, recipe: str) -> None:
    networks = [Network() for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        train.fit(fabric, network, Shuffled(pairs()), epochs=1, seed=seed, **RECIPES[recipe])
    assert_equal_weights(networks[0], networks[1])
    assert not torch.equal(networks[0].head.weight, networks[2].head.weight)


class Line(nn.Module):
    """One weight; the loss is the batch times it, so the gradient is the batch."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([start]))

    def loss(self, batch: Tensor) -> Tensor:
        return (self.weight * batch).sum()


def given(*values: float) -> Callable[[torch.Generator], Iterator[Tensor]]:
    return lambda generator: iter([torch.tensor([value]) for value in values])


def test_follows_a_plain_loop_bitwise(fabric: Fabric) -> None:
    data = pairs()
    network, plain = Network(), Network()
    network.lstm.dropout = plain.lstm.dropout = 0.0
    network.loss = lambda batch: nn.functional.mse_loss(network(batch.past), batch.future)
    rate, clip, epochs = 0.03, 0.1, 5
    history = train.fit(
        fabric,
        network,
        Shuffled(data),
        epochs=epochs,
        learning_rate=rate,
        clip=clip,
        weight_decay=0.1,
        seed=3,
    )
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=rate, weight_decay=0.1, fused=True)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = rate * 0.8 ** max(0, epoch - 2)
        losses = []
        for batch in Shuffled(data)(generator):
            loss = nn.functional.mse_loss(plain(batch.past), batch.future)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(plain.parameters(), clip)
            assert norm > clip or epoch > 0  # the clipping is at work
            optimizer.step()
            losses.append(loss.item())
        row = history.rows[epoch]
        assert row["train_loss"] == sum(losses) / len(losses)
        assert row["learning_rate"] == optimizer.param_groups[0]["lr"]
        assert (row["epoch"], row["epochs"], row["step"]) == (epoch + 1, epochs, 5 * (epoch + 1))
    assert_equal_weights(network, plain)


def test_the_best_weights_are_kept(fabric: Fabric) -> None:
    network = Line()
    scores = iter([3.0, 1.0, math.nan, 2.0, 1.0])
    seen: list[tuple[float, bool, bool]] = []

    def validate() -> float:
        seen.append((network.weight.item(), network.training, torch.is_grad_enabled()))
        return next(scores)

    history = train.fit(fabric, network, given(1.0), epochs=5, schedule="constant", validate=validate)
    assert history.best_epoch == 2
    assert network.weight.item() == seen[1][0]
    assert len({weight for weight, _, _ in seen}) == 5
    assert not any(training or grad for _, training, grad in seen)
    assert [row["valid_loss"] for row in history.rows if row["epoch"] != 3] == [3.0, 1.0, 2.0, 1.0]
    assert not network.training


def test_without_a_finite_score_the_last_weights_stay(fabric: Fabric) -> None:
    network, other = Line(), Line()
    history = train.fit(fabric, network, given(1.0), epochs=3, validate=lambda: math.nan)
    assert train.fit(fabric, other, given(1.0), epochs=3).best_epoch == history.best_epoch == 3
    assert_equal_weights(network, other)


@pytest.mark.parametrize(
    ("patience", "scores", "stopped"),
    [
        (1, [5.0, 4.0, 4.5], True),
        (2, [5.0, 4.0, 4.5, math.inf], True),
        (3, [5.0, 4.0, 4.5, 4.5, 3.9, 4.0, math.nan, 3.9], True),
        (3, [5.0, 4.0, 4.5, 4.5, 3.9, 4.0, 3.5, 4.0, 4.0], False),
        (2, [5.0, 4.0, 3.0, 2.0, 1.0, 0.9, 0.8, 0.9, 0.9], False),  # worn out in the last epoch: not early
    ],
)
def test_patience(fabric: Fabric, patience: int, scores: list[float], stopped: bool) -> None:
    left = iter(scores)
    history = train.fit(fabric, Line(), given(1.0), epochs=9, validate=lambda: next(left), patience=patience)
    assert len(history.rows) == len(scores)
    assert history.stopped_early is stopped


@pytest.mark.parametrize("last", [1, 2, 3, 63])
def test_the_last_epochs_are_averaged(fabric: Fabric, last: int) -> None:
    after: list[float] = []
    plain, network = Line(), Line()
    log: Callable[[train.Row], None] = lambda row: after.append(plain.weight.item())  # noqa: E731
    train.fit(fabric, plain, given(1.0, -3.0, 7.0), epochs=5, schedule="constant", log=log)
    train.fit(fabric, network, given(1.0, -3.0, 7.0), epochs=5, schedule="constant", average_last=last)
    assert network.weight.item() == pytest.approx(sum(after[-last:]) / len(after[-last:]), rel=1e-6)
    validated: list[float] = []

    def validate() -> float:
        validated.append(network.weight.item())
        return -len(validated) if len(validated) < 4 else 0.0

    network = Line()
    history = train.fit(
        fabric, network, given(1.0, -3.0, 7.0), epochs=5, schedule="constant", average_last=last,
        validate=validate,
    )  # fmt: skip
    means = [sum(part) / len(part) for part in (after[max(0, end - last) : end] for end in range(1, 6))]
    assert validated == pytest.approx(means, rel=1e-6)
    assert history.best_epoch == 3
    assert network.weight.item() == validated[2]


def test_clipping_limits_the_gradient(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    usual = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        norms.append(self.param_groups[0]["params"][0].grad.item())
        return usual(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    train.fit(fabric, Line(), given(0.25, 100.0), epochs=1, clip=0.5)
    train.fit(fabric, Line(), given(0.25, 100.0), epochs=1, clip=None)
    assert norms == pytest.approx([0.25, 0.5, 0.25, 100.0], rel=1e-4)


def test_schedules() -> None:
    hold = [train.rate_factor("hold", epoch, 0.5) for epoch in range(6)]
    assert hold == pytest.approx([1, 1, 1, 0.8, 0.64, 0.512])
    assert {train.rate_factor("constant", epoch, epoch / 9) for epoch in range(9)} == {1.0}
    cosine = [train.rate_factor("cosine", 0, part / 100) for part in range(101)]
    assert cosine[0] == 0
    assert cosine[2] == pytest.approx(0.4, abs=0.01)
    assert max(range(101), key=cosine.__getitem__) == 5
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[100] == pytest.approx(0, abs=1e-12)
    cycle = [train.rate_factor("onecycle", 0, part / 100) for part in range(101)]
    assert cycle[0] == pytest.approx(0.04)
    assert cycle[30] == pytest.approx(1)
    assert cycle[65] == pytest.approx(0.5)
    assert cycle[100] == pytest.approx(0, abs=1e-12)
    assert cycle[:31] == sorted(cycle[:31])
    assert cycle[30:] == sorted(cycle[30:], reverse=True)


def test_a_schedule_moves_at_each_step_where_the_batches_have_a_length(fabric: Fabric) -> None:
    rates: list[float] = []

    class Watched(Network):
        def loss(self, batch: Pair) -> Tensor:
            rates.append(optimizers[0].param_groups[0]["lr"])
            return super().loss(batch)

    optimizers: list[torch.optim.Optimizer] = []
    usual = torch.optim.Adam.__init__

    def remember(self: Any, *args: Any, **kwargs: Any) -> None:
        usual(self, *args, **kwargs)
        optimizers.insert(0, self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "__init__", remember)
        batches = Shuffled(pairs())
        train.fit(fabric, Watched(), batches, epochs=2, learning_rate=1.0, schedule="cosine")
        assert rates == pytest.approx([train.rate_factor("cosine", 0, step / 10) for step in range(1, 11)])
        rates.clear()
        train.fit(fabric, Watched(), lambda g: batches(g), epochs=2, learning_rate=1.0, schedule="cosine")
    assert rates == pytest.approx([train.rate_factor("cosine", 0, part) for part in [0.25] * 5 + [0.75] * 5])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_few_non_finite_steps_are_skipped(fabric: Fabric, bad: float) -> None:
    with_bad, without = Line(1.0), Line(1.0)
    one = train.fit(fabric, with_bad, given(1.0, *[bad] * 5, 2.0), epochs=2)
    two = train.fit(fabric, without, given(1.0, 2.0), epochs=2)
    assert_equal_weights(with_bad, without)
    assert [row["train_loss"] for row in one.rows] == [row["train_loss"] for row in two.rows]
    assert one.rows[-1]["step"] == 4
    message = r"not finite in 6 steps in a row \(epoch 2, .*lower the learning rate"
    with pytest.raises(RecurraError, match=message):
        train.fit(fabric, Line(), given(*[bad] * 4), epochs=2)


def test_a_gradient_that_is_not_finite_is_skipped_too(fabric: Fabric) -> None:
    class Root(Line):
        def loss(self, batch: Tensor) -> Tensor:
            return (
                (self.weight * batch).abs().sqrt().sum()
            )  # at zero: a loss of 0, a gradient of infinity × 0

    network = Root(1.0)
    history = train.fit(fabric, network, given(1.0, 0.0, 1.0), epochs=1)
    assert history.rows[0]["step"] == 2
    assert math.isfinite(network.weight.item())


def test_an_epoch_of_skipped_steps_has_no_loss(fabric: Fabric, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    history = train.fit(fabric, Line(), given(math.nan), epochs=2, checkpoint=path)
    assert [row["train_loss"] for row in history.rows] == [None, None]
    assert train.fit(fabric, Line(), given(math.nan), epochs=2, checkpoint=path) == history


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"epochs": 0}, "epochs: expected 1 or more, got 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number above 0"),
        ({"learning_rate": math.nan}, "learning_rate: expected a number above 0, got nan"),
        ({"weight_decay": -1.0}, "weight_decay: expected 0 or more"),
        ({"clip": 0.0}, "clip: expected a number above 0, or None"),
        ({"patience": 0, "validate": float}, "patience: expected 1 or more, or None"),
        ({"patience": 3}, "patience: got 3 and nothing to validate"),
        ({"average_last": -1}, "average_last: expected 0 or more"),
        ({"save_every": -1.0}, "save_every: expected 0 seconds or more"),
        ({"save_every_steps": 0}, "save_every_steps: expected 1 or more"),
        ({"schedule": "linear"}, "schedule: expected one of hold, constant, cosine, onecycle, got 'linear'"),
        ({"network": nn.Linear(1, 1)}, r"network: expected an nn\.Module that has loss\(batch\)"),
        ({"network": Line().requires_grad_(False)}, "got none that requires a gradient"),
        ({"batches": given()}, "batches: expected at least one batch an epoch"),
    ],
)
def test_arguments_that_cannot_be_used(fabric: Fabric, change: dict[str, Any], expected: str) -> None:
    arguments: dict[str, Any] = {"network": Line(), "batches": given(1.0), "epochs": 1} | change
    with pytest.raises(ArgumentError, match=expected):
        train.fit(fabric, **arguments)


def test_a_network_that_fabric_already_wraps_is_refused(fabric: Fabric) -> None:
    with pytest.raises(ArgumentError, match="Fabric did not set up"):
        train.fit(fabric, fabric.setup(Network()), Shuffled(pairs()), epochs=1)


def test_what_the_machine_has_not_is_said(fabric: Fabric) -> None:
    with pytest.raises(ArgumentError, match="devices: this machine cannot use accelerator='tpu'"):
        train.quiet_fabric("tpu")
    with pytest.raises(ArgumentError, match="precision='8-bit'"):
        train.quiet_fabric("cpu", precision="8-bit")
