"""Layers compiled by `torch.compile` beside the same layers as they are.

    .venv/bin/python benchmarks/compile.py [--budget 3] [--threads 2]

Forward alone without a graph, and forward and backward, in turns in one process. The last row of each size is
what a compiled call costs whatever it holds: a `torch.nn.Linear` of the same H. Prints Markdown: times are
medians (least), the ratio is the compiled layer's median by the other's. Exits with 1 where results differ,
and has no time for them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import recurra.nn
from recurra.bench.timing import Spread, interleave

SIZES = ((64, 100, 128), (32, 24, 32), (1, 1, 64))  # N, T, F = H; of the last inference alone
KINDS = ("LSTM", "GRU", "PeepholeLSTM", "Linear")
TOLERANCE = 1e-5  # relative; a compiled Linear may sum in another order


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for each case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch._dynamo.config.allow_rnn = True
    print(f"{arguments.threads} threads, torch {torch.__version__}\n")
    print("| N T H | phase | layer | as it is, µs | compiled, µs | ratio |\n|---|---|---|---|---|---|")
    wrong = 0
    for rows, steps, size in SIZES:
        x, dy = torch.randn(rows, steps, size), torch.randn(rows, steps, size)
        for phase in ("inference", "training") if rows > 1 else ("inference",):
            for kind in KINDS:
                calls = contenders(kind, x, dy, phase)
                error = difference(calls)
                wrong += error > TOLERANCE
                cells = f"results differ by {error:.1e} | |"
                if error <= TOLERANCE:
                    cells = told(*interleave(calls, budget=arguments.budget))
                print(f"| {rows} {steps} {size} | {phase} | {kind} | {cells} |", flush=True)
    sys.exit(1 if wrong else 0)


def contenders(kind: str, x: Tensor, dy: Tensor, phase: str) -> list[Callable[[], tuple[Tensor, ...]]]:
    """The layer as it is and compiled; each call returns the output and, in training, all gradients."""
    torch._dynamo.reset()
    layer = layer_of(kind, x.shape[2])
    weights = list(layer.parameters())

    def plain(x: Tensor) -> Tensor:
        result = layer(x)
        output: Tensor = result if kind == "Linear" else result[0]
        return output

    def infer(run: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (run(x),)

    def train(run: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        leaf = x.detach().requires_grad_()
        output = run(leaf)
        return output.detach(), *torch.autograd.grad(output, [leaf, *weights], dy)

    call = infer if phase == "inference" else train
    compiled = torch.compile(plain, fullgraph=True)
    return [lambda: call(plain), lambda: call(compiled)]


def layer_of(kind: str, size: int) -> Any:
    if kind == "Linear":
        return torch.nn.Linear(size, size)
    return getattr(recurra.nn, kind)(size, size, batch_first=True)


def difference(calls: list[Callable[[], tuple[Tensor, ...]]]) -> float:
    """The largest |compiled - plain| / max |plain| of any result."""
    pairs = zip(*(call() for call in calls), strict=True)
    return max(float((other - own).abs().max() / own.abs().max()) for own, other in pairs)


def told(own: Spread, compiled: Spread) -> str:
    times = [f"{spread.median * 1e6:.0f} ({spread.least * 1e6:.0f})" for spread in (own, compiled)]
    return " | ".join([*times, f"{compiled.median / own.median:.2f}"])


if __name__ == "__main__":
    main()
