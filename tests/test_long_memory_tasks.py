"""The sequences of examples/long_memory.py: each answer is worked out anew, the slow way."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
N = 700


@pytest.fixture(scope="module")
def made() -> Any:
    """The module of the tasks, which lies beside the example and belongs to no package."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module("long_memory_tasks")
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture
def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def spread(values: Tensor, low: int, high: int) -> None:
    """Every whole number from low to high, and no other, each about as often (a χ² test)."""
    counts = values.bincount(minlength=high + 1)
    assert counts[:low].sum() == 0
    assert len(counts) == high + 1
    kinds = high - low + 1
    expected = len(values) / kinds
    chi = ((counts[low:] - expected) ** 2 / expected).sum()
    assert chi < kinds + 6 * (2 * kinds) ** 0.5


def symbols_of(row: Tensor, alphabet: str) -> str:
    assert row.sum(dim=-1).eq(1).all()
    return "".join(alphabet[k] for k in row.argmax(dim=-1).tolist())


def assert_zero_beyond(batch: Any) -> None:
    beyond = torch.arange(batch.x.shape[1]) >= batch.lengths[:, None]
    assert batch.x.shape[1] == batch.lengths.max()
    assert batch.x[beyond].eq(0).all()
    assert not batch.counts[beyond].any()
    assert len(batch.targets) == batch.counts.sum()


@pytest.mark.parametrize("shortest", [100, 250])
def test_adding_marks_two_numbers_and_asks_for_their_sum(
    made: Any, generator: Generator, shortest: int
) -> None:
    batch = made.adding(20 * N, generator, shortest)
    assert_zero_beyond(batch)
    spread(batch.lengths, shortest, shortest + shortest // 10)
    assert torch.equal(batch.counts.nonzero()[:, 1], batch.lengths - 1)
    numbers, markers = batch.x.unbind(-1)
    marked = markers == 1
    assert marked.sum(dim=1).eq(2).all()
    sums = (numbers * marked).sum(dim=1)
    torch.testing.assert_close(batch.targets, 0.5 + sums[:, None] / 4)
    places = marked.nonzero()[:, 1].view(-1, 2)
    assert places[:, 0].max() <= 9
    assert places[:, 1].max() == shortest // 2 - 1
    start = marked[:, 0]
    assert numbers[start, 0].eq(0).all()
    assert numbers[~start, 0].ne(0).all()
    ends = torch.arange(markers.shape[1]) == batch.lengths[:, None] - 1
    ends[:, 0] = ~start
    assert torch.equal(markers == -1, ends)
    assert markers[~ends & ~marked].eq(0).all()
    within = torch.arange(markers.shape[1]) < batch.lengths[:, None]
    within[:, 0] = False
    assert numbers[within].abs().max() <= 1
    assert abs(numbers[within].mean()) < 0.01
    assert abs(numbers[within].var() - 1 / 3) < 0.01


def test_adding_picks_each_place_as_often(made: Any, generator: Generator) -> None:
    """Beyond the first ten steps there is only the second mark: with 99 of 100 − 1 it is spread evenly."""
    batch = made.adding(20 * N, generator, 200)
    later = (batch.x[:, :, 1] == 1).nonzero()[:, 1]
    spread(later[later > 9], 10, 99)


def test_temporal_order_is_named_at_the_end(made: Any, generator: Generator) -> None:
    batch = made.temporal_order(5 * N, generator)
    assert_zero_beyond(batch)
    spread(batch.lengths, 100, 110)
    assert torch.equal(batch.counts.nonzero()[:, 1], batch.lengths - 1)
    places, noise = [], ""
    for row, (x, length) in enumerate(zip(batch.x, batch.lengths.tolist(), strict=True)):
        text = symbols_of(x[:length], "abcdXYEB")
        found = re.fullmatch(r"E([abcd]*)([XY])([abcd]*)([XY])([abcd]*)B", text)
        assert found
        order = ["XX", "XY", "YX", "YY"].index(found[2] + found[4])
        assert batch.targets[row].tolist() == [float(order == k) for k in range(4)]
        places.append((found.start(2), found.start(4)))
        noise += found[1] + found[3] + found[5]
    first, second = torch.tensor(places).unbind(1)
    spread(first, 10, 20)
    spread(second, 50, 60)
    spread(batch.targets.argmax(dim=1), 0, 3)
    spread(torch.tensor(["abcd".index(symbol) for symbol in noise]), 0, 3)


def test_copying_asks_for_what_was_read(made: Any, generator: Generator) -> None:
    batch = made.copying(N, generator, blanks=33, count=7, kinds=5)
    assert_zero_beyond(batch)
    assert batch.x.shape == (N, 33 + 2 * 7, 7)
    answers = batch.targets.view(N, 7, 5)
    for x, counts, answer in zip(batch.x, batch.counts, answers, strict=True):
        text = symbols_of(x, "abcde_!")
        assert re.fullmatch(r"[abcde]{7}_{32}!_{7}", text)
        assert text[:7] == symbols_of(answer, "abcde")
        assert counts.nonzero().flatten().tolist() == list(range(40, 47))
    spread(batch.targets.argmax(dim=1), 0, 4)


def test_parity_counts_the_ones_at_every_step(made: Any, generator: Generator) -> None:
    batch = made.parity(N, generator, 1, 40)
    assert_zero_beyond(batch)
    spread(batch.lengths, 1, 40)
    assert torch.equal(batch.counts.sum(dim=1), batch.lengths)
    answers = iter(batch.targets.tolist())
    for x, length in zip(batch.x[:, :, 0].tolist(), batch.lengths.tolist(), strict=True):
        assert set(x[:length]) <= {-1.0, 1.0}
        for step in range(length):
            odd = x[: step + 1].count(1.0) % 2
            assert next(answers) == [1.0 - odd, float(odd)]
    assert abs(batch.x[batch.counts].mean()) < 0.05
    assert made.parity(3, generator, 256, 256).lengths.tolist() == [256] * 3


INNER = re.compile(r"B(TS*X|PT*V|TS*XXT*V|PT*VPXT*V)*E")


def reachable(prefix: str) -> set[str]:
    """What the Reber grammar allows after a prefix, by its diagram drawn anew as a table of edges."""
    edges = [
        (0, "B", 1),
        (1, "T", 2),
        (1, "P", 3),
        (2, "S", 2),
        (2, "X", 4),
        (3, "T", 3),
        (3, "V", 5),
        (4, "X", 3),
        (4, "S", 6),
        (5, "P", 4),
        (5, "V", 6),
        (6, "E", 7),
    ]
    state = 0
    for symbol in prefix:
        (state,) = (after for before, label, after in edges if (before, label) == (state, symbol))
    return {label for before, label, _ in edges if before == state}


def test_reber_strings_follow_the_grammar(made: Any, generator: Generator) -> None:
    strings = [made.embedded_reber(generator) for _ in range(3 * N)]
    for text, might in strings:
        assert len(might) == len(text) - 1
        assert all(symbol in choice for symbol, choice in zip(text[1:], might, strict=True))
        assert text[:2] in ("BT", "BP")
        assert text[-2:] == text[1] + "E"
        assert set(might[0]) == {"T", "P"}
        assert might[-2:] == [text[1], "E"]
        inner = text[2:-2]
        for step in range(len(inner)):
            assert set(might[1 + step]) == reachable(inner[:step])
        assert reachable(inner) == set()
    assert min(len(text) for text, _ in strings) == 9
    for symbol, known in (("T", "BT"), ("P", "BP"), ("T", "BTBT"), ("P", "BPBP")):
        share = sum(text[len(known) - 1] == symbol for text, _ in strings) / len(strings)
        assert abs(share - 0.5) < 0.06


def test_reber_sets_are_apart_and_their_batch_says_all(made: Any, generator: Generator) -> None:
    train, test = made.reber_sets(generator, 63)
    assert len(train) == len(test) == 63
    assert {text for text, _ in train}.isdisjoint({text for text, _ in test})
    batch = made.next_symbols(train + test)
    assert_zero_beyond(batch)
    asked = 0
    for x, length, (text, might) in zip(batch.x, batch.lengths.tolist(), train + test, strict=True):
        assert symbols_of(x[:length], made.REBER) == text[:-1]
        for step in range(length):
            assert made.REBER[int(batch.targets[asked].argmax())] == text[step + 1]
            allowed = {s for s, yes in zip(made.REBER, batch.allowed[asked].tolist(), strict=True) if yes}
            assert allowed == set(might[step])
            asked += 1
    assert asked == len(batch.targets)


def test_right_means_each_step_of_a_sequence(made: Any, generator: Generator) -> None:
    task = made.tasks(1)["parity"]
    batch = task.draw(33, generator)
    prediction = 9.0 * batch.targets
    assert task.right(prediction, batch).all()
    rows = batch.counts.nonzero()[:, 0]
    for step in (0, len(rows) // 2, len(rows) - 1):
        wrong = prediction.clone()
        wrong[step] = 9.0 - wrong[step]
        right = task.right(wrong, batch)
        assert right.logical_not().nonzero().flatten().tolist() == [int(rows[step])]


def test_adding_is_right_within_four_hundredths(made: Any, generator: Generator) -> None:
    task = made.tasks(1)["adding-100"]
    batch = task.draw(4, generator)
    off = torch.tensor([[0.039], [-0.039], [0.041], [-0.041]])
    assert task.right(batch.targets + off, batch).tolist() == [True, True, False, False]
    assert task.loss(batch.targets + off, batch).item() == pytest.approx(off.square().mean().item())


def test_reber_is_right_where_what_may_follow_is_most_active(made: Any, generator: Generator) -> None:
    task = made.tasks(2)["reber"]
    batch = task.draw(7, generator)
    prediction = batch.allowed.float()
    assert task.right(prediction, batch).all()
    two = int((batch.allowed.sum(dim=1) == 2).nonzero()[0])
    row = int(batch.counts.nonzero()[two, 0])
    prediction[two, batch.allowed[two].nonzero()[0]] = -0.1
    assert task.right(prediction, batch).logical_not().nonzero().flatten().tolist() == [row]


def test_every_task_draws_what_it_says_and_a_seed_repeats_it(made: Any) -> None:
    tasks = made.tasks(3)
    assert list(tasks) == ["reber", "order", "adding-100", "adding-500", "adding-1000", "copy", "parity"]
    for task in tasks.values():
        batch, again, other = (task.draw(5, Generator().manual_seed(k)) for k in (8, 8, 9))
        assert batch.x.shape == (5, int(batch.lengths.max()), task.features)
        assert batch.targets.shape == (int(batch.counts.sum()), task.outputs)
        assert torch.equal(batch.x, again.x)
        assert torch.equal(batch.targets, again.targets)
        assert batch.x.shape != other.x.shape or not torch.equal(batch.x, other.x)
    assert tasks["parity"].test(3, Generator().manual_seed(1)).lengths.tolist() == [256] * 3
    assert [tasks[name].published for name in ("reber", "order", "adding-1000")] == [
        "8,440",
        "31,390",
        "853,000",
    ]


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, "-W", "error", "-B", str(EXAMPLES / "long_memory.py"), *arguments]
    return subprocess.run(script, capture_output=True, encoding="utf-8", timeout=120)


def test_the_example_solves_the_order_and_says_when_a_budget_is_too_small() -> None:
    done = started("--task", "order", "--init", "chrono+xavier", "--budget", "12000", "--seed", "4")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    head, order = done.stdout.splitlines()
    assert head.split() == ["task", "init", "sequences", "1997", "seconds", "wrong", "error"]
    found = re.fullmatch(r"order +chrono\+xavier +([\d,]+) +31,390 +[\d.]+ +(\d+) of 2,560 +0\.0\d+", order)
    assert found
    assert 2000 <= int(found[1].replace(",", "")) <= 12_000
    assert int(found[2]) <= 5
    short = started("--task", "adding-100", "reber", "--init", "torch", "--budget", "33")
    assert short.returncode == 0, short.stderr
    assert re.search(r"\nadding-100 +torch +> 40 +74,000 .* of 2,560", short.stdout)
    assert re.search(r"\nreber +torch +> 40 +8,440 .* of 512 ", short.stdout)


def test_the_example_refuses_a_task_that_it_has_not() -> None:
    done = started("--task", "subtracting")
    assert done.returncode == 2
    assert "invalid choice: 'subtracting'" in done.stderr
