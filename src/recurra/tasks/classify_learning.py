"""How a classifier learns: its parts on some of the rows, and what they say of the others. Axes: N, K, M."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recurra.data.buckets import batches_by_length
from recurra.tasks.classify_bag import Bag, fit_bag
from recurra.tasks.classify_network import Batch, Reader, entropy
from recurra.tasks.classify_plan import Plan
from recurra.tasks.classify_rows import Rows
from recurra.tasks.threads import few_threads

Log = Callable[[dict[str, Any]], None]
Numbers = NDArray[np.float32]
Places = NDArray[np.int64]

_AT_ONCE = 256  # rows that a reader reads at once when nothing is learnt


@dataclass(frozen=True)
class Examples:
    """N encoded rows, their targets (N, K) and how much each counts (N,). others: rows without targets."""

    rows: Rows
    targets: Numbers
    weights: Numbers
    others: Rows | None = None

    def __len__(self) -> int:
        return len(self.rows)


class Said:
    """What parts of a classifier say of rows that they were not trained on: the mean of their logits."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples
        self.wide, self.deep, self.floor = (np.zeros_like(examples.targets) for _ in range(3))
        self.times = np.zeros((len(examples), 1), np.float32)

    def add(self, places: Places, wide: Numbers, deep: Numbers, floor: Numbers) -> None:
        """What one split's parts say of the rows at `places`: three of (N, K)."""
        self.times[places] += 1
        for total, one in ((self.wide, wide), (self.deep, deep), (self.floor, floor)):
            total[places] += one

    @property
    def places(self) -> Places:
        """The rows of which anything was said."""
        return np.flatnonzero(self.times)

    def means(self) -> tuple[Numbers, Numbers, Numbers]:
        """wide, deep and floor, each (N, K), of the rows at `places`."""
        times = self.times[self.places]
        return self.wide[self.places] / times, self.deep[self.places] / times, self.floor[self.places] / times


def folds_of(targets: Numbers, members: int, seed: int) -> list[tuple[Places, Places]]:
    """For each of the members the rows to train on and a fifth or less held back, classes in proportion."""
    rare = np.where(targets > 0, targets.sum(0), np.inf).argmin(1)  # of several classes the rarest
    order = np.random.default_rng(seed).permutation(len(targets))
    order = order[np.argsort(rare[order], kind="stable")]
    count = max(2, min(max(members, 5), len(targets)))
    fold = np.empty(len(targets), np.int64)
    fold[order] = np.arange(len(targets)) % count
    return [(np.flatnonzero(fold != k % count), np.flatnonzero(fold == k % count)) for k in range(members)]


def linear_models(
    train: Examples, places: Places, plan: Plan, *, several: bool, text: bool
) -> tuple[Bag, Bag]:
    """The bag beside the readers, and the floor, from the rows at `places`."""
    rows, targets, weights = train.rows, train.targets[places], train.weights[places]
    plain = np.ones_like(weights)
    if not text:
        counts = rows.floor_counts(places)
        floor = fit_bag(counts, targets, plain, kind="plain", several=several, strength=plan.strength)
        if (weights == plain).all():
            return floor, floor
        return fit_bag(counts, targets, weights, kind="plain", several=several, strength=plan.strength), floor
    kind = "bayes" if targets.shape[1] == 2 and not several else "tfidf"
    bag = fit_bag(
        rows.bag_counts(places), targets, weights, kind=kind, several=several, strength=plan.strength
    )
    floor = fit_bag(rows.floor_counts(places), targets, plain, kind="tfidf", several=several, strength=10.0)
    return bag, floor


def train_reader(
    reader: Reader,
    train: Examples,
    places: Places,
    judge: Examples,
    held: Places,
    plan: Plan,
    *,
    seed: int,
    device: str,
    about: str,
    checkpoint: Path | None,
    log: Log | None,
) -> list[dict[str, Any]]:
    """Train on the rows at `places`, stop where it is best on those held back; returns the epochs' rows."""
    from recurra.train import fit, quiet_fabric

    lengths = train.rows.lengths[places]

    def batches(generator: torch.Generator) -> Iterator[Batch]:
        order = batches_by_length(lengths, plan.batch_size, generator)
        beside = _others(train.others, len(places), plan.batch_size, generator)
        for part in order:
            batch = train.rows.batch(places[part], train.targets, weights=train.weights)
            yield replace(batch, **next(beside, {}))

    def validate() -> float:
        logits = torch.from_numpy(logits_of(reader, judge.rows, held))
        batch = judge.rows.batch(held, judge.targets, weights=judge.weights)
        return entropy(logits, batch, several=reader.several).item()

    with few_threads(plan.hidden_size):
        history = fit(
            quiet_fabric(device),
            reader,
            batches,
            epochs=plan.epochs,
            learning_rate=plan.learning_rate,
            schedule="constant",
            validate=validate,
            patience=plan.patience,
            seed=seed,
            save_every=5.0,
            about=about,
            checkpoint=checkpoint,
            log=log,
        )
    # Wherever it was trained, what follows is quick enough on the CPU.
    reader.cpu()
    return [dict(row) for row in history.rows]


def _others(
    rows: Rows | None, count: int, size: int, generator: torch.Generator
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of rows without targets, without end: of an epoch's own choice of at most `count` of them."""
    if rows is None:
        return
    chosen = torch.randperm(len(rows), generator=generator).numpy()[:count]
    order = batches_by_length(rows.lengths[chosen], size, generator)
    for part in cycle(order):
        batch = rows.batch(chosen[part])
        yield {"others": batch.x, "other_lengths": batch.lengths}


def logits_of(reader: Reader, rows: Rows, places: Places) -> Numbers:
    """What a reader says of the rows at `places`, (N, K)."""
    device = reader.output.weight.device
    found = np.zeros((len(places), reader.output.out_features), np.float32)
    with torch.no_grad():
        for part in batches_by_length(rows.lengths[places], _AT_ONCE):
            batch = rows.batch(places[part])
            found[part] = reader(batch.x.to(device), batch.lengths.to(device)).cpu().numpy()
    return found


def best_mixture(
    wide: Numbers, deep: Numbers, targets: Numbers, weights: Numbers, *, several: bool
) -> torch.Tensor:
    """How much the bag's and the readers' logits count, (2,), neither below 0: where the log loss is least.

    wide, deep, targets: (N, K). weights: (N,). As if one row more had been best served by a half of each, so
    that few rows decide little.
    """
    parts = torch.from_numpy(np.stack([wide, deep])).double()
    rows = Batch(
        torch.empty(0),
        torch.empty(0),
        torch.from_numpy(targets).double(),
        None,
        torch.from_numpy(weights).double(),
    )
    factors = torch.full((2,), 0.5, dtype=torch.float64, requires_grad=True)
    free = torch.ones(2, dtype=torch.float64)

    def closure() -> torch.Tensor:
        factors.grad = None
        value = entropy(((free * factors).view(2, 1, 1) * parts).sum(0), rows, several=several)
        value = value + (factors - 0.5).square().sum() / len(targets)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    for _ in range(2):
        optimizer = torch.optim.LBFGS([factors], max_iter=100, line_search_fn="strong_wolfe")
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        if (factors >= 0).all():
            break
        free = (factors.detach() > 0).double()
        with torch.no_grad():
            factors.clamp_(min=0.0)
    return (free * factors.detach()).clamp(min=0.0).float()
