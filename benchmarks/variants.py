"""Noise, resets and other cells: beside our own plain LSTM, and beside a loop of compiled steps in torch.

    .venv/bin/python benchmarks/variants.py [--budget 3] [--sizes 64 100 128] [--threads 2]

Forward and backward of one layer in training, in turns in one process. torch has no such layers, so what
they are held against is what its user can write: one step compiled by `torch.compile`, in a loop over time,
with the input's product made for all steps at once. Prints Markdown: milliseconds are medians (least).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout, linear

import recurra.nn
from recurra.bench.timing import Spread, interleave

Step = Callable[..., tuple[Tensor, Tensor]]


def lstm_step(a: Tensor, h: Tensor, c: Tensor, w: Tensor, more: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    i, f, g, o = (a + linear(h, w)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def zoneout_step(
    a: Tensor, h: Tensor, c: Tensor, w: Tensor, more: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    h_new, c_new = lstm_step(a, h, c, w, ())
    return torch.where(torch.rand_like(h) < 0.1, h, h_new), torch.where(torch.rand_like(c) < 0.1, c, c_new)


def masked_step(
    a: Tensor, h: Tensor, c: Tensor, w: Tensor, more: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    return lstm_step(a, h * more[0], c, w, ())


def reset_step(a: Tensor, h: Tensor, c: Tensor, w: Tensor, more: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    return lstm_step(a, h * more[0], c * more[0], w, ())


def peephole_step(
    a: Tensor, h: Tensor, c: Tensor, w: Tensor, more: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    p_i, p_f, p_o = more[0]
    i, f, g, o = (a + linear(h, w)).chunk(4, -1)
    c = (f + p_f * c).sigmoid() * c + (i + p_i * c).sigmoid() * g.tanh()
    return (o + p_o * c).sigmoid() * c.tanh(), c


def coupled_step(
    a: Tensor, h: Tensor, c: Tensor, w: Tensor, more: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    f, g, o = (a + linear(h, w)).chunk(3, -1)
    f = f.sigmoid()
    c = f * c + (1 - f) * g.tanh()
    return o.sigmoid() * c.tanh(), c


def looped(step: Step, layer: Any, x: Tensor, more: Callable[[], list[tuple[Tensor, ...]]]) -> Tensor:
    """x (N, T, F) through a step, a step at a time. more: what each step is given besides."""
    w_ih, w_hh, b_ih, b_hh = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0
    if layer.weight_drop:
        w_hh = dropout(w_hh, layer.weight_drop)
    inputs = linear(x, w_ih, b_ih + b_hh).unbind(1)
    h = c = x.new_zeros(x.shape[0], layer.hidden_size)
    outputs = []
    for a, given in zip(inputs, more(), strict=True):
        h, c = step(a, h, c, w_hh, given)
        outputs.append(h)
    return torch.stack(outputs, 1)


def cases(rows: int, steps: int, size: int) -> list[tuple[str, Any, dict[str, Any], Step, Any]]:
    """Name, layer, what it is called with, the step of the loop, what its steps are given."""
    resets = torch.rand(rows, steps) < 0.05
    keeps = [(1 - column.float().unsqueeze(1),) for column in resets.unbind(1)]

    def make(kind: str = "LSTM", **options: Any) -> Any:
        return getattr(recurra.nn, kind)(size, size, batch_first=True, **options)

    def nothing() -> list[tuple[Tensor, ...]]:
        return [()] * steps

    def one_mask() -> list[tuple[Tensor, ...]]:
        return [(dropout(torch.ones(rows, size), 0.2),)] * steps

    peephole = make("PeepholeLSTM")
    return [
        ("zoneout", make(zoneout=0.1), {}, zoneout_step, nothing),
        ("recurrent dropout", make(recurrent_dropout=0.2), {}, masked_step, one_mask),
        ("weight drop", make(weight_drop=0.2), {}, lstm_step, nothing),
        ("resets", make(), {"resets": resets}, reset_step, lambda: keeps),
        ("peephole", peephole, {}, peephole_step, lambda: [(peephole.weight_peephole_l0,)] * steps),
        ("coupled", make("CoupledLSTM"), {}, coupled_step, nothing),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for each case")
    parser.add_argument("--sizes", type=int, nargs=3, default=(64, 100, 128), metavar=("N", "T", "H"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, steps, size = arguments.sizes
    x, dy = torch.randn(rows, steps, size), torch.randn(rows, steps, size)
    plain = recurra.nn.LSTM(size, size, batch_first=True)

    def train(run: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        def call() -> None:
            leaf = x.clone().requires_grad_()
            run(leaf).backward(dy)

        return call

    print(f"N{rows} T{steps} F=H={size}, {arguments.threads} threads, torch {torch.__version__}\n")
    print("| case | ms | by our plain LSTM | compiled loop ms | its time by ours |\n|---|---|---|---|---|")
    for name, layer, given, step, more in cases(rows, steps, size):
        torch._dynamo.reset()
        compiled = torch.compile(step)

        def by_engine(x: Tensor, layer: Any = layer, given: Any = given) -> Tensor:
            return layer(x, **given)[0]

        def by_loop(x: Tensor, layer: Any = layer, step: Any = compiled, more: Any = more) -> Tensor:
            return looped(step, layer, x, more)

        calls = [train(lambda x: plain(x)[0]), train(by_engine), train(by_loop)]
        own, ours, loop = interleave(calls, budget=arguments.budget)
        ratios = f"{ours.median / own.median:.2f} | {told(loop)} | {loop.median / ours.median:.1f}"
        print(f"| {name} | {told(ours)} | {ratios} |", flush=True)


def told(spread: Spread) -> str:
    return f"{spread.median * 1e3:.1f} ({spread.least * 1e3:.1f})"


if __name__ == "__main__":
    main()
