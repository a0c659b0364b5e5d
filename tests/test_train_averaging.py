"""Training by SGD and averaged SGD, within a time, and with a learning rate of each batch's own."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from test_train import Killed, Network, Pair, Shuffled, assert_equal_weights, pairs, timeless

from recurra import train
from recurra.errors import ArgumentError


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return train.quiet_fabric("cpu")


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def scores(*given: float) -> Callable[[], float]:
    """A validation with these results, the last one for ever."""
    left = iter(given)
    last = given[-1]
    return lambda: next(left, last)


def test_sgd_is_sgd(fabric: Fabric) -> None:
    data, network, expected = pairs(), Network(), Network()
    expected.eval()
    network.lstm.dropout = 0.0
    network.loss = expected.__class__.loss.__get__(network)  # type: ignore[method-assign]
    batches = Shuffled(data, size=33)
    network.eval()
    network.train = lambda mode=True: network  # type: ignore[method-assign,assignment]
    train.fit(fabric, network, batches, epochs=3, learning_rate=0.1, optimizer="sgd", schedule="constant",
              weight_decay=0.01, clip=None)  # fmt: skip
    parameters = list(expected.parameters())
    for _ in range(3):
        gradients = torch.autograd.grad(expected.loss(data), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.1 * (gradient + 0.01 * parameter)
    for found, wanted in zip(network.parameters(), parameters, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_mean_begins_when_an_epoch_is_worse_than_the_best_of_long_ago(fabric: Fabric) -> None:
    """It is what is validated from then on, and what is kept."""
    network, weights = Network(), []
    validate = scores(5, 4, 3, 3.1, 3.2, 3.3, 3.4, 4.5, 1.0)
    steps = []

    def judged() -> float:
        weights.append([parameter.detach().clone() for parameter in network.parameters()])
        return validate()

    class Watched(Shuffled):
        def __call__(self, generator: torch.Generator) -> Any:
            for batch in super().__call__(generator):
                steps.append([parameter.detach().clone() for parameter in network.parameters()])
                yield batch

    history = train.fit(
        fabric, network, Watched(pairs()), epochs=10, learning_rate=0.1, optimizer="ntasgd",
        schedule="constant", validate=judged,
    )  # fmt: skip
    # epoch 8 is worse than the best of epochs 1 and 2: the mean is of the weights after each step of epoch 9
    first, after = 8 * 5 + 1, 9 * 5 + 1
    for place, found in enumerate(weights[8]):
        expected = torch.stack([step[place] for step in steps[first:after]]).mean(0)
        torch.testing.assert_close(found, expected)
    assert history.best_epoch == 9
    for parameter, found in zip(network.parameters(), weights[8], strict=True):
        assert torch.equal(parameter, found)
    assert not torch.equal(weights[7][0], weights[8][0])
    torch.testing.assert_close(weights[7][0], steps[8 * 5][0], rtol=0, atol=0)


@pytest.mark.parametrize("killed_after", [3, 21, 38, 44])
def test_averaged_sgd_resumes_bitwise(fabric: Fabric, tmp_path: Path, killed_after: int) -> None:
    data, path = pairs(), tmp_path / "run.safetensors"

    def run(network: Network, batches: Shuffled, path: Path | None) -> train.History:
        epoch = itertools.count(1)
        skip = 0
        if path is not None and path.exists():
            skip = (killed_after - 1) // 5
        for _ in range(skip):
            next(epoch)
        return train.fit(
            fabric, network, batches, epochs=9, learning_rate=0.1, optimizer="ntasgd", checkpoint=path,
            validate=lambda: 1.0 * next(epoch), save_every_steps=1,
        )  # fmt: skip

    undisturbed = Network()
    expected = run(undisturbed, Shuffled(data), None)
    with pytest.raises(Killed):
        run(Network(), Shuffled(data, fail_after=killed_after), path)
    resumed = Network(seed=9)
    assert timeless(run(resumed, Shuffled(data), path)) == timeless(expected)
    assert_equal_weights(resumed, undisturbed)


def test_seconds_end_the_run_and_the_schedule(fabric: Fabric) -> None:
    rates: list[float] = []

    class Slow(Shuffled):
        def __call__(self, generator: torch.Generator) -> Any:
            for batch in super().__call__(generator):
                time.sleep(0.01)
                yield batch

    history = train.fit(
        fabric, Network(), Slow(pairs()), epochs=10**6, learning_rate=0.1, schedule="cosine", seconds=1.0,
        validate=lambda: 0.5, log=lambda row: rates.append(float(row["learning_rate"] or 0)),
    )  # fmt: skip
    assert 0.9 < history.seconds < 10
    assert rates[-1] < 0.01 < max(rates)
    assert len(rates) < 30
    assert not history.stopped_early


def test_seconds_hold_the_last_validation_too(fabric: Fabric) -> None:
    def slow() -> float:
        time.sleep(1.0)
        return 1.0

    class Endless(Shuffled):
        def __call__(self, generator: torch.Generator) -> Any:
            while True:
                yield from super().__call__(generator)

    history = train.fit(fabric, Network(), Endless(pairs()), epochs=9, seconds=2.5, validate=slow)
    assert len(history.rows) == 1
    assert 2.4 < history.seconds < 3.4


def test_seconds_may_end_within_an_epoch(fabric: Fabric) -> None:
    history = train.fit(fabric, Network(), Shuffled(pairs()), epochs=9, seconds=1e-6)
    assert [row["step"] for row in history.rows] == [1]


@dataclasses.dataclass(frozen=True)
class Rated:
    past: torch.Tensor
    future: torch.Tensor
    rate: float


def test_a_batch_may_have_a_rate_of_its_own(fabric: Fabric) -> None:
    data = pairs()
    moved = {}
    for rate in (0.0, 0.5, 1.0):
        network = Network()
        before = network.head.weight.detach().clone()
        batch: Any = Rated(data.past, data.future, rate)
        train.fit(fabric, network, lambda _, batch=batch: iter([batch]), epochs=1, learning_rate=0.1,
                  optimizer="sgd", clip=None)  # fmt: skip
        moved[rate] = network.head.weight.detach() - before
    assert not moved[0.0].any()
    torch.testing.assert_close(2 * moved[0.5], moved[1.0])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"optimizer": "adamw"}, "optimizer: expected one of adam, sgd, ntasgd, got 'adamw'"),
        ({"optimizer": "ntasgd"}, "optimizer: 'ntasgd' averages, .*; give validate, and leave average_last"),
        ({"optimizer": "ntasgd", "validate": float, "average_last": 2}, "leave average_last out"),
        ({"seconds": 0.0}, "seconds: expected a number above 0, or None, got 0.0"),
        ({"seconds": math.inf}, "seconds: expected a number above 0"),
    ],
)
def test_refuses(fabric: Fabric, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        train.fit(fabric, Network(), Shuffled(Pair(*pairs().__dict__.values())), epochs=1, **wrong)
