"""What a training run is made of, and how it survives being killed.

All that must survive is one dict, `_survivors`, which every save writes to the checkpoint. A run that finds
one there goes on inside the epoch where it was and ends with bitwise the same weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from recurra import checkpoint as files
from recurra.errors import ArgumentError, Interrupted, ModelFileError
from recurra.train.devices import Objective

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Row = dict[str, float | int | None]
"""One epoch: epoch (counted from 1), epochs, step, train_loss, valid_loss, learning_rate, seconds."""

_RANKS_AGREE_EVERY = 16  # steps; one process's clock decides for all, and asking costs a message


@dataclass(frozen=True)
class Settings:
    """The arguments of :func:`fit` that decide what the weights become."""

    epochs: int
    learning_rate: float
    weight_decay: float
    clip: float | None
    schedule: str
    patience: int | None
    average_last: int
    optimizer: str
    seconds: float | None
    seed: int
    about: str


@dataclass
class Progress:
    """The counters that survive."""

    epoch: int = 0  # epochs finished
    index: int = 0  # batches done in the epoch under way
    step: int = 0  # optimizer steps taken
    loss_sum: float = 0.0  # over the batches of the epoch under way that were not skipped
    loss_count: int = 0
    skipped: int = 0  # steps in a row
    stale: int = 0  # epochs since the best one
    best_epoch: int = 0
    best_score: float = math.inf
    seconds: float = 0.0  # in epochs finished, and in the one under way up to the last save
    epoch_seconds: float = 0.0
    averaging: bool = False  # whether the mean of the weights after every step is kept
    averaged: int = 0  # steps in it
    stopped_early: bool = False
    finished: bool = False
    rows: list[Row] = field(default_factory=list)


@dataclass
class Run:
    """A run's moving parts, handed from function to function."""

    fabric: Fabric
    settings: Settings
    network: nn.Module
    objective: nn.Module  # Fabric's wrapper round Objective
    stepper: Any  # Fabric's wrapper round the optimizer
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    epoch_start: Tensor  # the generator's state at the start of the epoch under way
    progress: Progress = field(default_factory=Progress)
    random: dict[str, Tensor] | None = None  # restored, to be set when the batches done are passed over
    best: dict[str, Any] | None = None
    recent: list[dict[str, Any]] = field(default_factory=list)  # weights after each of the last epochs
    mean: dict[str, Any] = field(default_factory=dict)  # of the weights after every step since the trigger
    clock: float = 0.0
    validation_seconds: float = 0.0  # of the last one


def set_up(fabric: Fabric, network: nn.Module, settings: Settings) -> Run:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not parameters:
        raise ArgumentError("network: expected parameters to train, got none that requires a gradient")
    # The fused step costs a third of the plain one on small networks, but hides the gradient from a scaler.
    fused = getattr(fabric.strategy.precision, "scaler", None) is None and fabric.device.type in (
        "cpu",
        "cuda",
    )
    decay = settings.weight_decay
    adam = torch.optim.AdamW if decay > 0 else torch.optim.Adam
    kind: Any = adam if settings.optimizer == "adam" else torch.optim.SGD
    optimizer = kind(parameters, lr=settings.learning_rate, weight_decay=decay, fused=fused)
    objective, stepper = fabric.setup(Objective(network), optimizer)
    generator = torch.Generator().manual_seed(settings.seed)
    return Run(fabric, settings, network, objective, stepper, optimizer, generator, generator.get_state())


def count_seconds(run: Run) -> None:
    now = time.perf_counter()
    run.progress.seconds += now - run.clock
    run.progress.epoch_seconds += now - run.clock
    run.clock = now


def save(run: Run, path: Path | None, fingerprint: Mapping[str, Any]) -> None:
    if path is None:
        return
    count_seconds(run)
    survivors = _survivors(run)
    if run.fabric.is_global_zero:
        tensors, plain = files.flatten(survivors)
        document = {"kind": "training", "fingerprint": fingerprint, "state": plain}
        files.write(path, tensors, document)


def restore(run: Run, path: Path | None, fingerprint: Mapping[str, Any]) -> None:
    """Take up the checkpoint at `path`, where there is one."""
    if path is None:
        return
    if run.fabric.is_global_zero:
        files.sweep(path)
    if not path.exists():
        return
    tensors, document = files.read(path)
    if document.get("kind") != "training" or not isinstance(document.get("fingerprint"), dict):
        raise ModelFileError(
            f"{path}: this file is no training checkpoint; choose another name for the checkpoint"
        )
    for name, here in fingerprint.items():
        there = document["fingerprint"].get(name)
        if isinstance(there, list) and there != here:
            there, here = (
                [item for item in one if item not in other] for one, other in ((there, here), (here, there))
            )
        if there != here:
            what = "other data or settings" if name == "about" else f"another {name}"
            raise ArgumentError(
                f"checkpoint: {path} was written by a run with {what} (there {_short(there)}, here "
                f"{_short(here)}); give the same arguments to resume it, or remove it to start anew"
            )
    state = files.unflatten(tensors, document.get("state"))
    run.progress = Progress(**state["progress"])
    run.network.load_state_dict(state["network"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.fabric.strategy.precision.load_state_dict(state["precision"])
    run.generator.set_state(state["generator"])
    run.random, run.best, run.recent = state["random"], state["best"], state["recent"]
    run.mean = {name: mean.to(run.fabric.device) for name, mean in state["mean"].items()}


def fingerprint_of(run: Run, validate: Callable[[], float] | None) -> dict[str, Any]:
    """What a checkpoint must agree with to be this run's."""
    tensors = {name: value for name, value in run.network.state_dict().items() if isinstance(value, Tensor)}
    shapes = [f"{name} {str(value.dtype)[6:]} {list(value.shape)}" for name, value in tensors.items()]
    return dataclasses.asdict(run.settings) | {
        "validate": validate is not None,
        "processes": run.fabric.world_size,
        "device": run.fabric.device.type,
        "precision": str(getattr(run.fabric.strategy.precision, "precision", "32-true")),
        "network": [type(run.network).__name__, *shapes],
    }


def _survivors(run: Run) -> dict[str, Any]:
    """All that must survive; `restore` takes it back."""
    return {
        "progress": dataclasses.asdict(run.progress),
        "network": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "precision": run.fabric.strategy.precision.state_dict(),
        "generator": run.epoch_start,
        "random": _gathered_random_state(run.fabric),
        "best": run.best,
        "recent": run.recent,
        "mean": run.mean,
    }


def saver(
    run: Run,
    path: Path | None,
    fingerprint: Mapping[str, Any],
    stop: threading.Event,
    every_seconds: float,
    every_steps: int | None,
) -> Callable[[], None]:
    """What is called after each step: saves when it is time to, and on Ctrl-C saves and stops."""
    saved = time.perf_counter()
    alone = run.fabric.world_size == 1
    calls = 0

    def after_step() -> None:
        nonlocal saved, calls
        if stop.is_set():
            save(run, path, fingerprint)
            raise Interrupted(interrupted_message(path))
        if path is None:
            return
        calls += 1
        due = time.perf_counter() - saved >= every_seconds
        if not alone:
            due = calls % _RANKS_AGREE_EVERY == 0 and run.fabric.broadcast(due)
        if due or (every_steps is not None and calls % every_steps == 0):
            save(run, path, fingerprint)
            saved = time.perf_counter()

    return after_step


@contextlib.contextmanager
def stop_request(fabric: Fabric) -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, so that training stops between two steps; the second one interrupts at once.

    Only where Python's own handler is in place, on the main thread, and with one process.
    """
    stop = threading.Event()
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread() or fabric.world_size > 1:
        yield stop
        return

    def request(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted_message(path: Path | None) -> str:
    if path is None or not path.exists():
        return "training was interrupted and there is no checkpoint yet, so it cannot be resumed"
    return f"training was interrupted; run again with the same arguments to resume from {path}"


@contextlib.contextmanager
def own_random_state(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, and give them their states back at the end."""
    before = files.random_state(device)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  networks of the user's may draw from it
    random.seed(seed)
    try:
        yield
    finally:
        files.set_random_state(before, device)


def _gathered_random_state(fabric: Fabric) -> dict[str, Tensor]:
    """Every process's state, stacked along a first axis."""
    state = files.random_state(fabric.device)
    if fabric.world_size == 1:
        return {name: value[None] for name, value in state.items()}
    return {name: value.cpu() for name, value in cast(dict[str, Tensor], fabric.all_gather(state)).items()}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
