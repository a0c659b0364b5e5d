"""Noise, resets and other cells: beside our own plain LSTM, and beside a loop of compiled steps in torch.

    .venv/bin/python benchmarks/variants.py [--budget 3] [--sizes 64 100 128] [--threads 2]

Forward and backward of one layer in training, in turns in one process. torch has no such layers, so what
they are held against is what its user can write: one step compiled by `torch.compile`, in a loop over time,
with the input's product made for all steps at once. Prints Markdown: milliseconds are medians (least).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout, layer_norm, linear, logsigmoid

import recurra.nn
from recurra.bench.timing import Spread, interleave

Step = Callable[..., tuple[Tensor, Tensor]]
DRAWN = ("zoneout", "recurrent dropout", "weight drop")  # random, so results differ


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


def refined_step(
    a: Tensor, h: Tensor, c: Tensor, w: Tensor, more: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    f, r, g, o = (a + linear(h, w)).chunk(4, -1)
    f, r = f.sigmoid(), r.sigmoid()
    f = 2 * r * f + (1 - 2 * r) * f * f
    c = f * c + (1 - f) * g.tanh()
    return o.sigmoid() * c.tanh(), c


def norm_lstm_step(
    a: Tensor, h: Tensor, c: Tensor, w: Tensor, more: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    norms, bias = more
    sums = a + layer_norm(linear(h, w), (w.shape[0],), norms[4:8].flatten(), bias)
    i, f, g, o = sums.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * layer_norm(c, c.shape[-1:], norms[8], norms[9]).tanh(), c


def norm_gru_step(
    a: Tensor, h: Tensor, c: Tensor, w: Tensor, more: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    r, z, n = a.chunk(3, -1)
    r_h, z_h, n_h = apart(linear(h, w), more[0][3:], more[1]).chunk(3, -1)
    z, n = (z + z_h).sigmoid(), (n + (r + r_h).sigmoid() * n_h).tanh()
    return (1 - z) * n + z * h, c


def apart(sums: Tensor, factors: Tensor, bias: Tensor) -> Tensor:
    """A GRU's sums (..., 3H), those of the gates normalised together, the candidate's alone."""
    cut = 2 * factors.shape[-1]
    gates = layer_norm(sums[..., :cut], (cut,), factors[:2].flatten(), bias[:cut])
    return torch.cat((gates, layer_norm(sums[..., cut:], (cut // 2,), factors[2], bias[cut:])), -1)


def slstm_step(a: Tensor, h: Tensor, c: Tensor, w: Tensor, more: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    i, f, z, o = (a + linear(h, w)).chunk(4, -1)
    c, n, m = c.unbind()
    kept = logsigmoid(f) + m
    m = torch.where(n == 0, i, torch.maximum(kept, i)).detach()
    i, f = torch.exp(i - m), torch.exp(kept - m)
    c, n = f * c + i * z.tanh(), f * n + i
    return o.sigmoid() * c / n, torch.stack((c, n, m))


def product(layer: Any, x: Tensor) -> Tensor:
    return linear(x, layer.weight_ih_l0, layer.bias_ih_l0 + layer.bias_hh_l0)


def normed_lstm(layer: Any, x: Tensor) -> Tensor:
    sums = linear(x, layer.weight_ih_l0)
    return layer_norm(sums, sums.shape[-1:], layer.weight_norm_l0[:4].flatten(), layer.bias_ih_l0)


def normed_gru(layer: Any, x: Tensor) -> Tensor:
    return apart(linear(x, layer.weight_ih_l0), layer.weight_norm_l0[:3], layer.bias_ih_l0)


@dataclass(frozen=True)
class Case:
    """A layer and what it is called with; the step of the loop, what steps are given, what they read."""

    name: str
    layer: Any
    step: Step
    more: Callable[[], list[tuple[Tensor, ...]]]
    given: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any, Tensor], Tensor] = product
    states: int = 1


def looped(case: Case, step: Step, x: Tensor) -> Tensor:
    """x (N, T, F) through a step, a step at a time."""
    layer = case.layer
    w_hh = layer.weight_hh_l0
    if layer.weight_drop:
        w_hh = dropout(w_hh, layer.weight_drop)
    h = c = x.new_zeros(x.shape[0], layer.hidden_size)
    if case.states > 1:
        c = x.new_zeros(case.states, *h.shape)
    outputs = []
    for a, given in zip(case.prepare(layer, x).unbind(1), case.more(), strict=True):
        h, c = step(a, h, c, w_hh, given)
        outputs.append(h)
    return torch.stack(outputs, 1)


def cases(rows: int, steps: int, size: int) -> list[Case]:
    resets = torch.rand(rows, steps) < 0.05
    keeps = [(1 - column.float().unsqueeze(1),) for column in resets.unbind(1)]

    def make(kind: str = "LSTM", **options: Any) -> Any:
        return getattr(recurra.nn, kind)(size, size, batch_first=True, **options)

    def nothing() -> list[tuple[Tensor, ...]]:
        return [()] * steps

    def one_mask() -> list[tuple[Tensor, ...]]:
        return [(dropout(torch.ones(rows, size), 0.2),)] * steps

    def norms(layer: Any) -> Callable[[], list[tuple[Tensor, ...]]]:
        return lambda: [(layer.weight_norm_l0, layer.bias_hh_l0)] * steps

    peephole, lstm, gru = make("PeepholeLSTM"), make("LayerNormLSTM"), make("LayerNormGRU")
    return [
        Case("zoneout", make(zoneout=0.1), zoneout_step, nothing),
        Case("recurrent dropout", make(recurrent_dropout=0.2), masked_step, one_mask),
        Case("weight drop", make(weight_drop=0.2), lstm_step, nothing),
        Case("resets", make(), reset_step, lambda: keeps, {"resets": resets}),
        Case("peephole", peephole, peephole_step, lambda: [(peephole.weight_peephole_l0,)] * steps),
        Case("coupled", make("CoupledLSTM"), coupled_step, nothing),
        Case("coupled, refined", make("CoupledLSTM", refine=True), refined_step, nothing),
        Case("LayerNorm LSTM", lstm, norm_lstm_step, norms(lstm), prepare=normed_lstm),
        Case("LayerNorm GRU", gru, norm_gru_step, norms(gru), prepare=normed_gru),
        Case("sLSTM", make("SLSTM"), slstm_step, nothing, states=3),
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
    for case in cases(rows, steps, size):
        torch._dynamo.reset()
        compiled = torch.compile(case.step)

        def by_engine(x: Tensor, case: Case = case) -> Tensor:
            return case.layer(x, **case.given)[0]

        def by_loop(x: Tensor, case: Case = case, step: Any = compiled) -> Tensor:
            return looped(case, step, x)

        if case.name not in DRAWN:
            loop, ours = by_loop(x), by_engine(x)
            if not float((loop - ours).norm()) < 1e-4 * float(ours.norm()):
                raise SystemExit(f"{case.name}: the loop and the engine differ")
        calls = [train(lambda x: plain(x)[0]), train(by_engine), train(by_loop)]
        plainly, engine, looped_ = interleave(calls, budget=arguments.budget)
        ratios = (
            f"{engine.median / plainly.median:.2f} | {told(looped_)} | {looped_.median / engine.median:.1f}"
        )
        print(f"| {case.name} | {told(engine)} | {ratios} |", flush=True)


def told(spread: Spread) -> str:
    return f"{spread.median * 1e3:.1f} ({spread.least * 1e3:.1f})"


if __name__ == "__main__":
    main()
