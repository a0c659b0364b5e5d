"""The training loop: schedule, forward, backward, clip, step, log, validate, save."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from recurra import checkpoint as files
from recurra.errors import ArgumentError, Interrupted, RecurraError
from recurra.train.devices import Box, placer
from recurra.train.state import (
    Progress,
    Row,
    Run,
    Settings,
    count_seconds,
    fingerprint_of,
    interrupted_message,
    own_random_state,
    restore,
    save,
    saver,
    set_up,
    stop_request,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Schedule = Literal["hold", "constant", "cosine", "onecycle"]
SCHEDULES: tuple[Schedule, ...] = ("hold", "constant", "cosine", "onecycle")
Optimizer = Literal["adam", "sgd", "ntasgd"]
OPTIMIZERS: tuple[Optimizer, ...] = ("adam", "sgd", "ntasgd")

_MOST_SKIPPED = 5  # steps in a row whose loss or gradient is not finite
_MONOTONE = 5  # epochs; the trigger of "ntasgd" compares with the best of those before them


@dataclass(frozen=True)
class History:
    """What a training run did.

    rows: one dict per epoch; train_loss is the mean over the epoch's batches, None where every step was
        skipped; valid_loss is None where nothing was validated.
    best_epoch: the epoch, counted from 1, whose weights the network has now.
    stopped_early: whether `patience` ended it before the last epoch.
    seconds: what it took, with the time of earlier starts where it was resumed.
    """

    rows: tuple[Row, ...]
    best_epoch: int
    stopped_early: bool
    seconds: float


def fit(
    fabric: Fabric,
    network: nn.Module,
    batches: Callable[[torch.Generator], Iterator[Any]],
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
    schedule: Schedule = "hold",
    validate: Callable[[], float] | None = None,
    patience: int | None = None,
    average_last: int = 0,
    optimizer: Optimizer = "adam",
    seconds: float | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    save_every: float = 30.0,
    save_every_steps: int | None = None,
    about: str = "",
    log: Callable[[Row], None] | None = None,
) -> History:
    """Train `network` in place and leave it in eval mode.

    fabric: launched; one device, or several with DDP.
    network: has `loss(batch) -> scalar`, and was not set up with Fabric.
    batches: yields one epoch; a pure function of the generator's state. Where it also has a length, "cosine"
        and "onecycle" move at every step, otherwise once an epoch. With several processes each takes its
        share. A batch is a tensor, or a tuple, list, dict or dataclass of them; its attribute `rate`, where
        it has one, multiplies the learning rate of its step.
    clip: the gradient's largest norm; None leaves it as it is.
    schedule: "hold": constant for three epochs, then × 0.8 at each (SegRNN, Lin et al. 2023); "constant";
        "cosine": linear warm-up over a twentieth of the run, along half a cosine to zero (Loshchilov and
        Hutter 2017); "onecycle": up from 0.04 over the first 0.3, then down to zero (Smith and Topin 2017).
    validate: called after each epoch, in eval mode and without gradients; lower is better. The best epoch's
        weights end up in the network; `patience` epochs in a row without a better one end the training.
    average_last: the mean of the weights after the last this many epochs is what is validated, kept and left
        in the network; training itself goes on from the weights, not from their mean.
    optimizer: "adam", which is AdamW where `weight_decay` > 0; "sgd"; or "ntasgd", SGD until an epoch is
        worse than the best of those more than five before it, from then on the mean of the weights after
        every step is what is validated and kept (Merity, Keskar and Socher 2018, algorithm 1).
    seconds: at most this long, earlier starts and validation included; schedules that move at every step
        then reach their end with the time. How far that comes, and so the weights, depends on the machine.
    seed: of `batches`, and of the global generators (torch, numpy, random), which get their states back.
    checkpoint: a file written every `save_every` seconds (and every `save_every_steps` steps), on Ctrl-C and
        at the end. Where it exists the run goes on from it, or returns at once where that one had finished.
        `fit` never removes it: that is for the caller, once the model is saved.
    about: whatever else must be the same for a checkpoint to fit, such as which data and which lookback.
    log: called with each epoch's row; a resumed run repeats the epochs since its last save.

    Raises ArgumentError for arguments that cannot be used or differ from the checkpoint's, ModelFileError for
    a checkpoint that cannot be read, RecurraError when losses stay non-finite, Interrupted on Ctrl-C.
    """
    settings = Settings(
        epochs=epochs, learning_rate=learning_rate, weight_decay=weight_decay, clip=clip, schedule=schedule,
        patience=patience, average_last=average_last, optimizer=optimizer, seconds=seconds, seed=seed,
        about=about,
    )  # fmt: skip
    _check(network, settings, validate, save_every, save_every_steps)
    path = None if checkpoint is None else Path(checkpoint)
    with own_random_state(fabric.device, seed + fabric.global_rank), stop_request(fabric) as stop:
        run = set_up(fabric, network, settings)
        written_by = fingerprint_of(run, validate)
        after_step = saver(run, path, written_by, stop, save_every, save_every_steps)
        try:
            restore(run, path, written_by)
            _start_clock(run, validate)
            while not run.progress.finished:
                _train_epoch(run, batches, after_step)
                _close_epoch(run, validate, log)
                if run.progress.finished:
                    _choose_weights(run)
                    save(run, path, written_by)
            if stop.is_set():
                raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise Interrupted(interrupted_message(path)) from error
    network.eval()
    progress = run.progress
    return History(tuple(progress.rows), progress.best_epoch, progress.stopped_early, progress.seconds)


def rate_factor(schedule: Schedule, epoch: int, progress: float) -> float:
    """The schedule's part of the learning rate, 0..1; `epoch` counts from 0, `progress` is the part done."""
    match schedule:
        case "constant":
            return 1.0
        case "hold":
            return 0.8 ** max(0, epoch - 2)
        case "cosine":
            return min(1.0, progress / 0.05) * 0.5 * (1.0 + math.cos(math.pi * progress))
        case "onecycle":  # 0.04 → 1 over the first 0.3, then → 0
            rise = progress < 0.3
            low, part = (0.04, progress / 0.3) if rise else (0.0, (1.0 - progress) / 0.7)
            return low + (1.0 - low) * 0.5 * (1.0 - math.cos(math.pi * part))


def _train_epoch(
    run: Run, batches: Callable[[torch.Generator], Iterator[Any]], after_step: Callable[[], None]
) -> None:
    """The batches of one epoch, or what a restored run has left of them."""
    progress, fabric, settings = run.progress, run.fabric, run.settings
    rank, processes = fabric.global_rank, fabric.world_size
    length = len(batches) // processes if hasattr(batches, "__len__") else 0
    run.network.train()
    run.epoch_start = run.generator.get_state()
    # An incomplete last round is left out: every process must take as many steps.
    rounds = zip(*[iter(batches(run.generator))] * processes, strict=False)
    if sum(1 for _ in islice(rounds, progress.index)) < progress.index:
        raise ArgumentError(
            f"batches: the checkpoint was written after {progress.index} batches of epoch "
            f"{progress.epoch + 1}, and there are fewer now; give the same data, or remove the checkpoint"
        )
    if run.random is not None:
        files.set_random_state({name: states[rank] for name, states in run.random.items()}, fabric.device)
        run.random = None
    prepare = placer(fabric)
    for group in rounds:
        done = min(1.0, (progress.index + 1) / length) if length else 0.5
        spent = _part_of_time(run)
        part = min(1.0, max((progress.epoch + done) / settings.epochs, spent))
        rate = settings.learning_rate * rate_factor(cast(Schedule, settings.schedule), progress.epoch, part)
        loss = _step(run, prepare(group[rank]), rate * float(getattr(group[rank], "rate", 1.0)))
        if loss is None:
            progress.skipped += 1
            _check_skipped(progress, rate)
        else:
            progress.skipped = 0
            progress.loss_sum += loss
            progress.loss_count += 1
            progress.step += 1
            if progress.averaging:
                _average(run)
        progress.index += 1
        after_step()
        if spent >= 1.0:
            break


def _start_clock(run: Run, validate: Callable[[], float] | None) -> None:
    run.clock = time.perf_counter()
    if run.settings.seconds is not None and validate is not None and not run.progress.finished:
        run.network.eval()
        _validate(run, validate)  # so that the first epoch leaves time for its own


def _part_of_time(run: Run) -> float:
    """How much of `seconds` is spent, what the next validation will take included; 0 without a limit."""
    limit = run.settings.seconds
    if limit is None:
        return 0.0
    spent = run.progress.seconds + time.perf_counter() - run.clock
    part = spent / max(limit - run.validation_seconds, 1e-9)
    return float(run.fabric.broadcast(part)) if run.fabric.world_size > 1 else part


def _average(run: Run) -> None:
    """Take the weights after this step into their mean."""
    weights = {name: weight.detach() for name, weight in run.network.named_parameters()}
    run.progress.averaged += 1
    if not run.mean:
        run.mean = {name: weight.clone() for name, weight in weights.items()}
        return
    for name, weight in weights.items():
        run.mean[name].lerp_(weight, 1.0 / run.progress.averaged)


def _step(run: Run, batch: Any, rate: float) -> float | None:
    """One optimizer step. Returns the loss, or None where it or the gradient was not finite: no step then."""
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    loss = run.objective(Box(batch))
    run.fabric.backward(loss)
    clip = math.inf if run.settings.clip is None else run.settings.clip
    norm = run.fabric.clip_gradients(run.objective, run.stepper, max_norm=clip, error_if_nonfinite=False)
    # Both in one tensor: one wait for the device, not two.
    figures = torch.stack((loss.detach(), cast(Tensor, norm).to(loss.dtype)))
    if run.fabric.world_size > 1:
        figures = cast(Tensor, run.fabric.all_reduce(figures))
    value, length = figures.tolist()
    # A gradient scaler skips the step itself where the gradient overflowed, and counts on being asked.
    scaled = getattr(run.fabric.strategy.precision, "scaler", None) is not None
    finite = math.isfinite(value) and (scaled or math.isfinite(length))
    if finite or scaled:
        run.stepper.step()
    run.optimizer.zero_grad(set_to_none=True)
    return value if finite else None


def _close_epoch(run: Run, validate: Callable[[], float] | None, log: Callable[[Row], None] | None) -> None:
    """Average, validate, keep the best, log; decide whether this was the last epoch."""
    progress, settings = run.progress, run.settings
    if progress.index == 0:
        raise ArgumentError("batches: expected at least one batch an epoch for each process, got none")
    run.network.eval()
    progress.epoch += 1
    if settings.average_last:
        run.recent = [*run.recent, _snapshot(run.network)][-settings.average_last :]
    score = None
    if validate is not None:
        score = _validate(run, validate)
        progress.stale += 1
        if settings.optimizer == "ntasgd":
            earlier = [row["valid_loss"] for row in progress.rows][:-_MONOTONE]
            progress.averaging |= bool(earlier) and not score <= min(cast(list[float], earlier))
        if math.isfinite(score) and score < progress.best_score:
            progress.best_score, progress.best_epoch, progress.stale = score, progress.epoch, 0
            run.best = _smoothed(run) or _snapshot(run.network)
    count_seconds(run)
    row: Row = {
        "epoch": progress.epoch, "epochs": settings.epochs, "step": progress.step,
        "train_loss": progress.loss_sum / progress.loss_count if progress.loss_count else None,
        "valid_loss": score, "learning_rate": run.optimizer.param_groups[0]["lr"],
        "seconds": progress.epoch_seconds,
    }  # fmt: skip
    progress.rows.append(row)
    progress.index, progress.loss_sum, progress.loss_count, progress.epoch_seconds = 0, 0.0, 0, 0.0
    tired = settings.patience is not None and progress.stale >= settings.patience
    progress.stopped_early = tired and progress.epoch < settings.epochs
    progress.finished = tired or progress.epoch >= settings.epochs or _part_of_time(run) >= 1.0
    if log is not None and run.fabric.is_global_zero:
        log(dict(row))


def _validate(run: Run, validate: Callable[[], float]) -> float:
    """The score of the weights, or of their mean where there is one; the weights are the same afterwards."""
    smoothed = _smoothed(run)
    own = _snapshot(run.network) if smoothed else None
    started = time.perf_counter()
    if smoothed:
        run.network.load_state_dict(smoothed)
    with torch.no_grad(), run.fabric.autocast():
        score = float(validate())
    if own:
        run.network.load_state_dict(own)
    run.validation_seconds = time.perf_counter() - started
    return run.fabric.broadcast(score) if run.fabric.world_size > 1 else score


def _choose_weights(run: Run) -> None:
    """Put into the network the best weights, else the average of the last epochs, else leave the last."""
    if run.best is not None:
        run.network.load_state_dict(run.best)
        return
    run.progress.best_epoch = run.progress.epoch
    if smoothed := _smoothed(run):
        run.network.load_state_dict(smoothed)


def _smoothed(run: Run) -> dict[str, Any] | None:
    """The mean of the weights that is asked for, None where none is, or none yet."""
    if run.mean:
        return _snapshot(run.network) | {name: mean.to("cpu", copy=True) for name, mean in run.mean.items()}
    return _mean_weights(run.recent) if run.recent else None


def _snapshot(network: nn.Module) -> dict[str, Any]:
    """The weights now, on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
        for name, value in network.state_dict().items()
    }


def _mean_weights(recent: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of floating-point weights; of the rest the last."""
    mean = dict(recent[-1])
    for name, last in mean.items():
        if isinstance(last, Tensor) and last.is_floating_point() and len(recent) > 1:
            mean[name] = torch.stack([weights[name] for weights in recent]).mean(0)
    return mean


def _check_skipped(progress: Progress, rate: float) -> None:
    if progress.skipped > _MOST_SKIPPED:
        raise RecurraError(
            f"the loss or its gradient was not finite in {progress.skipped} steps in a row (epoch "
            f"{progress.epoch + 1}, learning rate {rate:.3g}); lower the learning rate, or look for infinite "
            "or enormous values in the data"
        )


def _check(
    network: nn.Module,
    settings: Settings,
    validate: Callable[[], float] | None,
    save_every: float,
    save_every_steps: int | None,
) -> None:
    from lightning_fabric import is_wrapped

    has_loss = isinstance(network, nn.Module) and callable(getattr(network, "loss", None))
    if not has_loss or is_wrapped(network):
        raise ArgumentError(
            "network: expected an nn.Module that has loss(batch) and that Fabric did not set up, "
            f"got {type(network).__name__}"
        )
    it = settings
    if it.schedule not in SCHEDULES:
        raise ArgumentError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {it.schedule!r}")
    if it.optimizer not in OPTIMIZERS:
        raise ArgumentError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {it.optimizer!r}")
    if it.optimizer == "ntasgd" and (validate is None or it.average_last):
        raise ArgumentError(
            "optimizer: 'ntasgd' averages, from when the validation tells it to; give validate, and leave "
            "average_last out"
        )
    if it.patience is not None and validate is None:
        raise ArgumentError(
            f"patience: got {it.patience} and nothing to validate; give validate, or leave it out"
        )
    conditions = [
        ("epochs", it.epochs, it.epochs >= 1, "1 or more"),
        ("learning_rate", it.learning_rate, 0 < it.learning_rate < math.inf, "a number above 0"),
        ("weight_decay", it.weight_decay, 0 <= it.weight_decay < math.inf, "0 or more"),
        ("clip", it.clip, it.clip is None or it.clip > 0, "a number above 0, or None"),
        ("patience", it.patience, it.patience is None or it.patience >= 1, "1 or more, or None"),
        ("average_last", it.average_last, it.average_last >= 0, "0 or more"),
        ("seconds", it.seconds, it.seconds is None or 0 < it.seconds < math.inf, "a number above 0, or None"),
        ("save_every", save_every, save_every >= 0, "0 seconds or more"),
        ("save_every_steps", save_every_steps, save_every_steps is None or save_every_steps > 0, "1 or more"),
    ]
    for name, value, holds, expected in conditions:
        if not holds:
            raise ArgumentError(f"{name}: expected {expected}, got {value!r}; change it")
