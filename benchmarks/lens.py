"""What a trace costs beside the forward pass of the same layer: `layer.trace`, and `recurra.lens.trace`.

    .venv/bin/python benchmarks/lens.py [--budget 3] [--threads 2] [--sizes 64 100 128] [--cpu]

All take turns in one process, without gradients. Prints Markdown: milliseconds are medians, ratios those of
medians. Exits with 1 where a trace of one layer on whole rows costs more than 1.5 times a forward pass.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import recurra.nn
from recurra import lens
from recurra.bench.timing import interleave

MOST = 1.5
SIZES = ((64, 100, 128), (1, 500, 256))
LAYERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("LSTM", "LSTM", {}),
    ("GRU", "GRU", {}),
    ("LSTM, 2 layers, both ways", "LSTM", {"num_layers": 2, "bidirectional": True}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for each row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu", action="store_true", help="time on the CPU: for a machine that is not quiet")
    parser.add_argument("--sizes", type=int, nargs=3, action="append", metavar=("N", "T", "H"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu else time.perf_counter
    spent = "time on the CPU" if arguments.cpu else "time"
    print(f"{arguments.threads} threads, {spent}, torch {torch.__version__}\n")
    print("| layer | N | T | H | lengths | forward ms | layer.trace | lens.trace |")
    print("|---|---|---|---|---|---|---|---|")
    worst = 0.0
    for told, kind, options in LAYERS:
        for rows, steps, size in arguments.sizes or SIZES:
            layer = getattr(recurra.nn, kind)(size, size, batch_first=True, **options)
            x = torch.randn(rows, steps, size)
            mixed = torch.linspace(steps // 3, steps, rows).long()
            for name, lengths in (("all", None), ("a third to all", mixed if rows > 1 else None)):
                if name != "all" and lengths is None:
                    continue
                ratios, forward = measured(layer, x, lengths, arguments.budget, clock)
                if not options and lengths is None:
                    worst = max(worst, *ratios)
                row = [told, rows, steps, size, name, f"{forward * 1e3:.2f}", *(f"{r:.2f}" for r in ratios)]
                print(f"| {' | '.join(map(str, row))} |", flush=True)
    sys.exit(worst > MOST)


def measured(
    layer: Any, x: torch.Tensor, lengths: Any, budget: float, clock: Callable[[], float]
) -> tuple[list[float], float]:
    """Time of each trace by that of a forward pass, and the seconds of that."""

    def forward() -> object:
        return layer(x, lengths=lengths)

    def own() -> object:
        return layer.trace(x, lengths=lengths)

    def labelled() -> object:
        return lens.trace(layer, x, lengths=lengths)

    with torch.no_grad():
        base, *others = interleave([forward, own, labelled], budget=budget, clock=clock)
    return [other.median / base.median for other in others], base.median


if __name__ == "__main__":
    main()
