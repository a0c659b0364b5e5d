"""How long does an LSTM remember, and what does its initialisation do to it? Classic tests of memory.

For each task and initialisation: the training sequences until the task is solved, beside those of the LSTM
of 1997, and what the network then gets wrong of sequences that it has not seen. Each training sequence is
new and is shown once; only the Reber grammar's are drawn from 256 strings. Solved means, as in 1997, that
the 2,000 most recent training sequences were all answered rightly, each before the network learnt from it,
and with an average error below the task's bound; or, for the Reber grammar, that 256 training and 256 other
strings are all right. Learning goes by Adam in small batches; the rate falls to nothing over the budget
along a cosine. Parity learns to the end of it, for sequences six times as long as any that it has seen.

    python long_memory.py --task adding-1000 parity --init torch chrono --seed 1
"""

import argparse
import math
import time
from collections import deque
from typing import NamedTuple

import torch
from long_memory_tasks import Batch, Task, tasks
from torch import Generator, Tensor, nn

from recurra.nn import LSTM
from recurra.nn.init import chrono_, forget_bias_, linspace_, uniform_gate_, xavier_

RECENT, TESTED = 2000, 2560
GAIN = 4.0  # large input weights: some units tell a marker from noise before anything is learnt
INITS = {
    "torch": lambda lstm, longest: lstm,
    "forget": lambda lstm, longest: forget_bias_(lstm, 1.0),
    "uniform": lambda lstm, longest: uniform_gate_(lstm),
    "linspace": lambda lstm, longest: linspace_(lstm, 3.0, 6.0),
    "xavier": lambda lstm, longest: xavier_(lstm, GAIN),
    "chrono": chrono_,
    "chrono+xavier": lambda lstm, longest: xavier_(chrono_(lstm, longest), GAIN),
}


class Model(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.lstm = LSTM(task.features, task.hidden, batch_first=True)
        self.head = nn.Linear(task.hidden, task.outputs)
        if task.numbers:
            nn.init.constant_(self.head.bias, 0.5)  # the mean of the targets

    def forward(self, batch: Batch) -> Tensor:
        output, _ = self.lstm(batch.x, lengths=batch.lengths)
        return self.head(output[batch.counts])  # (M, K)


class Run(NamedTuple):
    solved: bool
    sequences: int
    seconds: float
    wrong: int
    tested: int
    error: float


def train(task: Task, init: str, budget: int, seed: int) -> Run:
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    model = Model(task)
    INITS[init](model.lstm, task.longest)
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.rate, weight_decay=0.0)
    recent: deque[tuple[bool, float]] = deque(maxlen=RECENT)  # right or not, and the average error
    seen, solved, start = 0, 0, time.perf_counter()  # solved: after how many sequences, 0 if not yet
    while seen < budget and (task.to_the_end or not solved):
        for group in optimizer.param_groups:
            group["lr"] = task.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * seen / budget)))
        batch = task.draw(task.batch, generator)
        prediction = model(batch)
        loss = task.loss(prediction, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += task.batch
        with torch.no_grad():
            error = task.errors(prediction, batch).mean().item()
            recent.extend((right, error) for right in task.right(prediction, batch).tolist())
        if not solved and is_solved(model, task, seen, recent):
            solved = seen
    seconds = time.perf_counter() - start
    return Run(solved > 0, solved or seen, seconds, *examine(model, task, seed))


def is_solved(model: Model, task: Task, seen: int, recent: deque[tuple[bool, float]]) -> bool:
    if task.average is None:
        return seen % 100 == 0 and examine(model, task, 0)[0] == 0
    right = len(recent) == RECENT and all(right for right, _ in recent)
    return right and sum(error for _, error in recent) / len(recent) < task.average


@torch.no_grad()
def examine(model: Model, task: Task, seed: int) -> tuple[int, int, float]:
    """Of new sequences: how many are wrong, of how many, and the average error of the outputs."""
    generator = Generator().manual_seed(1_000_000 + seed)
    wrong, tested, errors = 0, 0, []
    while tested < (TESTED if task.average is not None else 1):  # the Reber strings come all at once
        batch = task.test(256, generator)
        prediction = model(batch)
        wrong += int((~task.right(prediction, batch)).sum())
        tested += len(batch.x)
        errors.append(task.errors(prediction, batch).mean().item())
    return wrong, tested, sum(errors) / len(errors)


def main() -> None:
    names, inits = list(tasks(0)), list(INITS)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--task", nargs="+", choices=names, default=names, metavar="TASK", help=", ".join(names))
    add("--init", nargs="+", choices=inits, default=inits, metavar="INIT", help=", ".join(inits))
    add("--budget", type=int, default=60_000, help="training sequences at most (default: %(default)s)")
    add("--seed", type=int, default=1, help="of weights and sequences (default: %(default)s)")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # for networks this small, handing out the work takes longer than doing it
    print(f"{'task':12} {'init':13} {'sequences':>11} {'1997':>8} {'seconds':>8} {'wrong':>13} {'error':>7}")
    for name in chosen.task:
        for init in chosen.init:
            task = tasks(chosen.seed)[name]
            run = train(task, init, chosen.budget, chosen.seed)
            sequences = f"{run.sequences:,}" if run.solved else f"> {run.sequences:,}"
            print(
                f"{name:12} {init:13} {sequences:>11} {task.published:>8} {run.seconds:8.1f} "
                f"{run.wrong:5,} of {run.tested:,} {run.error:7.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
