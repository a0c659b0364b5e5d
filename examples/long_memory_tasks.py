"""The sequences of long_memory.py: tasks that only a long memory solves, and when each counts as solved.

Axes: N batch, T time, F features, K outputs, M steps of the whole batch that have a target.

The adding problem, the temporal order and the embedded Reber grammar, with their criteria, are experiments
4, 6a and 1 of Hochreiter and Schmidhuber 1997, Long Short-Term Memory, Neural Computation 9 (8); its tables
7, 9 and 1 count the training sequences until success. Copying is that of Arjovsky, Shah and Bengio 2016,
Unitary Evolution Recurrent Neural Networks. Parity of a fixed length was solved by guessing weights in 1997
(the same authors, LSTM Can Solve Hard Long Time Lag Problems); here it is tested at six times the length of
the longest training sequence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, mse_loss, one_hot


class Batch(NamedTuple):
    """Sequences, and what is to be said at which of their steps."""

    x: Tensor  # (N, T, F), zero beyond a row's length
    lengths: Tensor  # (N,)
    counts: Tensor  # (N, T) bool: the M steps that have a target
    targets: Tensor  # (M, K), row after row
    allowed: Tensor | None = None  # (M, K) bool: where several outputs are right, all of them


Draw = Callable[[int, Generator], Batch]


@dataclass(frozen=True)
class Task:
    """A task, when it counts as solved, and how it is trained: hidden units, batch, learning rate."""

    draw: Draw
    test: Draw
    features: int
    outputs: int
    longest: int  # how many steps a memory has to last
    published: str  # training sequences until success in 1997
    hidden: int = 16
    batch: int = 20
    rate: float = 1e-2
    most: float = 0.5  # the absolute error below which an output is right
    average: float | None = 0.1  # bound of the average error; None: solved when all test strings are right
    numbers: bool = False  # the outputs are numbers, not the probabilities of classes
    to_the_end: bool = False  # learns on when it is solved, until the budget is spent

    def loss(self, prediction: Tensor, batch: Batch) -> Tensor:
        return (mse_loss if self.numbers else cross_entropy)(prediction, batch.targets)

    def errors(self, prediction: Tensor, batch: Batch) -> Tensor:
        """(M, K): the absolute error of each output."""
        said = prediction if self.numbers else prediction.softmax(dim=-1)
        return (said - batch.targets).abs()

    def right(self, prediction: Tensor, batch: Batch) -> Tensor:
        """(N,) bool: the sequences of which every step is right."""
        if batch.allowed is None:
            wrong = (self.errors(prediction, batch) >= self.most).any(dim=-1)
        else:  # each output that is allowed is more active than each that is not
            lowest = prediction.masked_fill(~batch.allowed, torch.inf).amin(dim=-1)
            wrong = lowest <= prediction.masked_fill(batch.allowed, -torch.inf).amax(dim=-1)
        rows = batch.counts.nonzero()[:, 0]
        return torch.zeros(len(batch.x)).index_add(0, rows, wrong.float()) == 0


def within(lengths: Tensor) -> Tensor:
    """(N, T) bool: True at the steps of each row's own length."""
    return torch.arange(int(lengths.max())) < lengths[:, None]


def last(lengths: Tensor) -> Tensor:
    """(N, T) bool: True at each row's last step."""
    return torch.arange(int(lengths.max())) == lengths[:, None] - 1


def adding(n: int, generator: Generator, shortest: int) -> Batch:
    """The sum of the two numbers that are marked, asked for at the end. Lengths: shortest to 1.1 shortest.

    x (N, T, 2): a number from −1..1, and a marker: 1 at one of the first ten steps and at one of the first
    shortest/2 − 1 others, −1 at the first and the last step, else 0. A first step that is marked has the
    number 0. Target: 0.5 + (X1 + X2) / 4.
    """
    lengths = torch.randint(shortest, shortest + shortest // 10 + 1, (n,), generator=generator)
    rows = torch.arange(n)
    first = torch.randint(10, (n,), generator=generator)
    second = torch.randint(shortest // 2 - 1, (n,), generator=generator)
    second += second >= first
    numbers = torch.rand(n, int(lengths.max()), generator=generator) * 2 - 1
    numbers[(first == 0) | (second == 0), 0] = 0
    markers = torch.zeros(numbers.shape)
    markers[:, 0] = markers[rows, lengths - 1] = -1
    markers[rows, first] = markers[rows, second] = 1
    targets = 0.5 + (numbers[rows, first] + numbers[rows, second]) / 4
    x = torch.stack([numbers, markers], dim=-1) * within(lengths)[:, :, None]
    return Batch(x, lengths, last(lengths), targets[:, None])


ORDER = "abcdXYEB"


def temporal_order(n: int, generator: Generator) -> Batch:
    """Which two symbols X or Y there were, and in which order: XX, XY, YX or YY, asked for at the end.

    x (N, T, 8), one of a b c d X Y E B at each step: E, then noise from a b c d, then B; X or Y at a step
    from 10..20 and at one from 50..60, E being step 0. Lengths: 100 to 110.
    """
    lengths = torch.randint(100, 111, (n,), generator=generator)
    rows = torch.arange(n)
    symbols = torch.randint(4, (n, int(lengths.max())), generator=generator)
    pair = torch.randint(2, (n, 2), generator=generator)
    for which, start in enumerate((10, 50)):
        place = torch.randint(start, start + 11, (n,), generator=generator)
        symbols[rows, place] = ORDER.index("X") + pair[:, which]
    symbols[:, 0], symbols[rows, lengths - 1] = ORDER.index("E"), ORDER.index("B")
    x = one_hot(symbols, len(ORDER)).float() * within(lengths)[:, :, None]
    return Batch(x, lengths, last(lengths), one_hot(2 * pair[:, 0] + pair[:, 1], 4).float())


def copying(n: int, generator: Generator, blanks: int, count: int = 10, kinds: int = 8) -> Batch:
    """`count` symbols of `kinds`, then blanks, then a signal, at which they are asked for in order.

    x (N, T, kinds + 2), T = blanks + 2 count: a symbol, the blank or the signal. The signal is the last of
    the blanks before the answer; while the network answers it reads blanks. Only the answer has targets.
    """
    symbols = torch.randint(kinds, (n, count), generator=generator)
    steps = torch.full((n, blanks + 2 * count), kinds)
    steps[:, :count] = symbols
    steps[:, count + blanks - 1] = kinds + 1
    counts = (torch.arange(steps.shape[1]) >= count + blanks).expand(n, -1)
    lengths = torch.full((n,), steps.shape[1])
    return Batch(
        one_hot(steps, kinds + 2).float(), lengths, counts, one_hot(symbols.flatten(), kinds).float()
    )


def parity(n: int, generator: Generator, shortest: int, longest: int) -> Batch:
    """Whether the ones so far are even or odd in number, asked for at every step.

    x (N, T, 1): a one as 1, a zero as −1. Outputs: even, odd.
    """
    lengths = torch.randint(shortest, longest + 1, (n,), generator=generator)
    counts = within(lengths)
    bits = torch.randint(2, counts.shape, generator=generator)
    x = (2.0 * bits - 1) * counts
    return Batch(x[:, :, None], lengths, counts, one_hot(bits.cumsum(dim=1)[counts] % 2, 2).float())


REBER = "BTPSXVE"
EDGES = {  # of each state: the symbols that may follow, and the states that they lead to
    0: {"B": 1},
    1: {"T": 2, "P": 3},
    2: {"S": 2, "X": 4},
    3: {"T": 3, "V": 5},
    4: {"X": 3, "S": 6},
    5: {"P": 4, "V": 6},
    6: {"E": 7},
}
Text = tuple[
    str, list[str]
]  # a string, and for each of its symbols but the first those that might have stood there


def embedded_reber(generator: Generator) -> Text:
    """B, then T or P, then a string of the Reber grammar, then the same T or P, then E."""
    inner, might, state = "", [], 0
    while state != 7:
        might.append("".join(EDGES[state]))
        inner += might[-1][int(torch.randint(len(might[-1]), (), generator=generator))]
        state = EDGES[state][inner[-1]]
    branch = "TP"[int(torch.randint(2, (), generator=generator))]
    return f"B{branch}{inner}{branch}E", ["TP", *might, branch, "E"]


def reber_sets(generator: Generator, count: int = 256) -> tuple[list[Text], list[Text]]:
    """`count` strings to train with, some of them perhaps twice, and as many others to test with."""
    train = [embedded_reber(generator) for _ in range(count)]
    known, test = {text for text, _ in train}, []
    while len(test) < count:
        drawn = embedded_reber(generator)
        if drawn[0] not in known:
            test.append(drawn)
    return train, test


def next_symbols(strings: list[Text]) -> Batch:
    """What comes next, asked for at every step. x (N, T, 7): one of B T P S X V E, the last left out."""
    lengths = torch.tensor([len(text) - 1 for text, _ in strings])
    counts = within(lengths)
    x = torch.zeros(*counts.shape, len(REBER))
    follows, allowed = [], []
    for row, (text, might) in enumerate(strings):
        symbols = [REBER.index(symbol) for symbol in text]
        x[row, torch.arange(len(text) - 1), symbols[:-1]] = 1
        follows += symbols[1:]
        allowed += [[symbol in choice for symbol in REBER] for choice in might]
    targets = one_hot(torch.tensor(follows), len(REBER)).float()
    return Batch(x, lengths, counts, targets, torch.tensor(allowed))


def reber_task(seed: int) -> Task:
    train, test = reber_sets(Generator().manual_seed(seed))
    both = next_symbols(train + test)

    def draw(n: int, generator: Generator) -> Batch:
        picked = torch.randint(len(train), (n,), generator=generator)
        return next_symbols([train[k] for k in picked.tolist()])

    def all_strings(n: int, generator: Generator) -> Batch:
        return both

    return Task(draw, all_strings, 7, 7, longest=20, published="8,440", average=None)


def adding_task(shortest: int, published: str) -> Task:
    draw = partial(adding, shortest=shortest)
    return Task(draw, draw, 2, 1, shortest, published, most=0.04, average=0.01, numbers=True)


def tasks(seed: int) -> dict[str, Task]:
    """Every task by its name. The seed is that of the strings of the Reber grammar."""
    short, long = partial(parity, shortest=1, longest=40), partial(parity, shortest=256, longest=256)
    copy = partial(copying, blanks=100)
    return {
        "reber": reber_task(seed),
        "order": Task(temporal_order, temporal_order, 8, 4, longest=100, published="31,390", most=0.3),
        "adding-100": adding_task(100, "74,000"),
        "adding-500": adding_task(500, "209,000"),
        "adding-1000": adding_task(1000, "853,000"),
        "copy": Task(copy, copy, 10, 8, longest=120, published="–", hidden=64),
        "parity": Task(short, long, 1, 2, longest=40, published="–", average=3e-4, to_the_end=True),
    }
