"""What one training step holds in memory: recurra's layer, the same with recompute=True, and torch's.

    .venv/bin/python benchmarks/memory.py [--layer LSTM] [--sizes N T F H] [--layers L] [--directions D]

Two figures for each. `saved`: the bytes that autograd keeps from forward to backward, beside input, weights
and output, which are there anyway. `peak`: how far the process grew beyond what it held before the step, with
the workspaces of forward and backward, in a process of its own (Linux only).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import recurra.nn

MIB = 2**20
SIDES = {"recurra": {}, "recompute": {"recompute": True}, "torch": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer", choices=("LSTM", "GRU", "RNN"), default="LSTM")
    parser.add_argument("--sizes", type=int, nargs=4, metavar=tuple("NTFH"), default=(64, 100, 256, 256))
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--directions", type=int, choices=(1, 2), default=1)
    parser.add_argument("--only", choices=tuple(SIDES), help="print one side's figures as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments)))
        return
    sizes = " ".join(f"{name}{size}" for name, size in zip("NTFH", arguments.sizes, strict=True))
    shape = f"{arguments.layer} {sizes} L{arguments.layers} D{arguments.directions}"
    print(f"{shape}, torch {torch.__version__}, MiB")
    print(f"{'':10}{'saved':>10}{'peak':>10}")
    for side in SIDES:
        words = [sys.executable, __file__, *sys.argv[1:], "--only", side]
        found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(
            f"{side:10}" + "".join(f"{'-' if value is None else f'{value / MIB:.1f}':>10}" for value in found)
        )


def measure(side: str, arguments: argparse.Namespace) -> tuple[int, int | None]:
    """Bytes saved, and the growth of this process over one training step."""
    rows, steps, features, hidden = arguments.sizes
    home = torch.nn if side == "torch" else recurra.nn
    layer = getattr(home, arguments.layer)(
        features, hidden, arguments.layers, batch_first=True, bidirectional=arguments.directions == 2
    )
    layer(torch.randn(1, 2, features))[0].sum().backward()  # libraries loaded, gradients allocated
    x = torch.randn(rows, steps, features, requires_grad=True)
    upstream = torch.randn(rows, steps, hidden * arguments.directions)
    before = high_water(reset=True)
    kept: dict[int, int] = {}  # bytes of each storage, by its address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output, _ = layer(x, **SIDES[side])
    for there in (x, output, *layer.parameters()):
        kept.pop(there.untyped_storage().data_ptr(), None)
    output.backward(upstream)
    after = high_water()
    return sum(kept.values()), None if before is None or after is None else after - before


def high_water(reset: bool = False) -> int | None:
    """The most bytes that this process held at once, or holds now with `reset`; None where nobody tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    if reset:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is held now
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
