"""Long sequences and large batches: where 32 bits do not count far enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.utils.deterministic
from engine_cases import Case, draw_weights, needs_engine, outcome, reference, relative_error, threads

from recurra.engine import native
from recurra.engine.call import call
from recurra.engine.scan import scan
from recurra.engine.stack import KINDS, WITH_CELL_STATE, Stack, Steps

pytestmark = needs_engine

PIECES, PIECE = 400, 250
LONG = PIECES * PIECE  # 100,000 steps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_hundred_thousand_steps(kind: str, directions: int) -> None:
    """Reset every 250 steps, so that the plain twin can run the pieces beside each other."""
    units = 7 if kind.startswith("layer_norm") else 1  # of one, normalisation leaves no gradient
    stack = Stack(kind, units, directions=directions)
    weights = draw_weights(stack, 1, torch.Generator().manual_seed(1))
    x, d_output = torch.randn(1, LONG, 1), torch.randn(1, LONG, directions * units)
    resets = (torch.arange(LONG) % PIECE == 0).unsqueeze(0)
    unused = (None,) * (2 if kind in WITH_CELL_STATE else 1)
    wanted = (True,) * (1 + len(weights))
    long = Case(stack, x, (), weights, Steps(resets=resets), (d_output, *unused), wanted)
    pieces = (x.view(PIECES, PIECE, 1), d_output.view(PIECES, PIECE, directions * units))
    short = Case(stack, pieces[0], (), weights, Steps(), (pieces[1], *unused), wanted)
    truth = dict(zip(short.names(), reference(short), strict=True))
    for count in range(1, directions + 1):  # more threads would meet 100,000 times
        with threads(count):
            ours = dict(zip(long.names(), outcome(long), strict=True))
        for name in ("output", "d x"):
            assert relative_error(ours[name], truth[name].reshape(ours[name].shape)) < 5e-6
        for name in ours:
            if (
                "of cell" in name
            ):  # sums of 100,000 numbers of either sign: float32 adds up to 1e-7 · √100,000
                assert relative_error(ours[name], truth[name]) < 3e-5, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_thousand_steps_without_a_stop(kind: str) -> None:
    """In one call and in four, each of which begins where the one before ended: the same bits."""
    stack = Stack(kind, 1, batch_first=False)
    weights = draw_weights(stack, 1, torch.Generator().manual_seed(1))
    x = torch.randn(LONG, 1, 1)
    whole, *ends = scan(stack, x, (), weights, Steps())
    states: tuple[torch.Tensor, ...] = ()
    outputs = []
    for part in x.split(LONG // 4 + 1):
        output, *states = scan(stack, part, states, weights, Steps())
        outputs.append(output)
    assert torch.cat(outputs).equal(whole)
    assert all(a.equal(b) for a, b in zip(states, ends, strict=True))
    assert whole.unique().numel() > 1000


@pytest.mark.parametrize("batch_first", [False, True])
def test_strides_beyond_two_billion_elements(batch_first: bool) -> None:
    """Two rows, or steps, that lie 9 GB apart. The memory between is never touched, so it costs nothing."""
    apart = 2**31 + 7
    try:
        memory = np.empty(2 * apart + 100, dtype=np.float32)
    except MemoryError:
        pytest.skip("this system does not give out 17 GB of addresses")
    far = torch.from_numpy(memory).as_strided((2, 3, 5), (apart, 5, 1))
    near = torch.randn(2, 3, 5)
    far.copy_(near)
    stack = Stack("lstm", 7, depth=2, directions=2, batch_first=batch_first)
    weights = draw_weights(stack, 5, torch.Generator().manual_seed(1))
    found, expected = (scan(stack, x, (), weights, Steps()) for x in (far, near))
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))
    leaf = far.detach().requires_grad_()
    output, *_ = scan(stack, leaf, (), weights, Steps())
    (d_x,) = torch.autograd.grad(output.sum(), leaf)
    other = near.requires_grad_()
    output, *_ = scan(stack, other, (), weights, Steps())
    assert d_x.equal(torch.autograd.grad(output.sum(), other)[0])


@contextmanager
def memory_as_it_comes() -> Iterator[None]:
    """Without writing NaN into new memory."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True


def available_gib() -> float:
    """What Linux says could be had without swapping; 0 elsewhere."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return found[0] / 2**20 if found else 0.0


@pytest.mark.slow
def test_more_gates_than_two_to_the_31(capsys: pytest.CaptureFixture[str]) -> None:
    """An RNN of one unit keeps a whole block of vectors for each entry, so few inputs make many gates."""
    width = native.kernels().gates_width(KINDS.index("rnn_tanh"), 1)
    rows = 64
    steps = 2**31 // (width * rows) + 1000
    entries = rows * steps
    needs = (entries * width + 4 * entries) * 4 / 2**30 + 0.5
    if available_gib() < needs + 0.5:
        pytest.skip(f"needs {needs:.1f} GiB of memory, and {available_gib():.1f} are available")
    stack = Stack("rnn_tanh", 1)
    weights = draw_weights(stack, 1, torch.Generator().manual_seed(1))
    with memory_as_it_comes(), threads(2):
        x = torch.randn(rows, steps, 1)
        made = call(stack, x, (), weights, Steps())
        output, _ = made.forward(True)
        gates = made.kept()[1]
    assert gates.numel() > 2**31
    for row in (0, 31, 63):
        alone, _ = scan(stack, x[row : row + 1], (), weights, Steps())
        assert alone[0].equal(output[row])
        # a step's entries lie beside each other, and of an RNN the gate is the output
        assert gates[0].view(steps, rows, width)[:, row, 0].equal(output[row, :, 0])
