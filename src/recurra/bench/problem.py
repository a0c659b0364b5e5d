"""What a case is computed from, and what must come out: torch's own answer in float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from recurra.bench.cases import TRAINING, Case

CARRIED_CALLS = 5
"""How many steps are compared where states go from call to call."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 2.0**-6}
"""The largest relative error that still counts as the same result.

bfloat16 has 8 bits, so that each rounding is wrong by up to 2**-9 of a value. The hidden state is rounded at
each step, and in backward so are the gradients of the gates; eight such errors are allowed to meet. Weights
and inputs are rounded beforehand, for the reference too, and do not count.
"""

Answer = dict[str, Tensor]
"""What a layer gave, by name: output and final states, after backward `gradient of` x and of each weight."""


@dataclass(frozen=True)
class Problem:
    """A case with numbers in it.

    weights: the layer's state dict. x (N, T, F), or (N, F) for a single cell; dy, the gradient of the output,
    (N, T, D·H|P); states: h_0 and c_0 of a step whose states are carried, (1, N, H), or (N, H) for a cell.
    All float32, and values of the case's dtype. lengths: the case's, (N,) int64, or None.
    """

    case: Case
    weights: dict[str, Tensor]
    x: Tensor
    dy: Tensor
    states: tuple[Tensor, ...]
    lengths: Tensor | None

    @staticmethod
    def of(case: Case) -> Problem:
        """The same numbers for a case in each run."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            layer = build(torch.nn, case)
            single = case.cell.endswith("Cell")
            x = torch.randn(case.rows, *(() if single else (case.steps,)), case.features)
            width = (case.projection or case.hidden) * case.directions
            dy = torch.randn(case.rows, case.steps, width)
            shape = (case.rows, case.hidden) if single else (1, case.rows, case.hidden)
            states = tuple(torch.randn(shape) for _ in range(2)) if case.carried else ()

        def rounded(value: Tensor) -> Tensor:
            return value.detach().to(getattr(torch, case.dtype)).float()

        weights = {name: rounded(value) for name, value in layer.state_dict().items()}
        lengths = None if case.lengths is None else torch.tensor(case.lengths)
        return Problem(case, weights, rounded(x), rounded(dy), tuple(map(rounded, states)), lengths)

    def layer(self, package: Any, dtype: torch.dtype) -> Any:
        """The case's layer of ``package``, `torch.nn` or `recurra.nn`, with the problem's weights."""
        layer = build(package, self.case).to(dtype)
        layer.load_state_dict(self.weights)
        return layer

    def packed(self, values: Tensor) -> PackedSequence:
        """A padded batch (N, T, …) without its padding."""
        assert self.lengths is not None
        return pack_padded_sequence(values, self.lengths, batch_first=True, enforce_sorted=False)

    def padded(self, values: PackedSequence) -> Tensor:
        """The reverse of `packed`, with zeros for padding."""
        return pad_packed_sequence(values, batch_first=True, total_length=self.case.steps)[0]

    def reference(self) -> Answer:
        """The answer of `torch.nn` in float64, gradients included where the case is trained."""
        layer = self.layer(torch.nn, torch.float64)
        if self.case.carried:
            return carried_answer(layer, self.x.double(), tuple(state.double() for state in self.states))
        train = TRAINING in self.case.phases
        x = self.x.double().requires_grad_(train)
        with torch.set_grad_enabled(train):
            y, states = layer(x if self.lengths is None else self.packed(x))
            y = y if isinstance(y, Tensor) else self.padded(y)
        if train:
            torch.autograd.backward(y, self.dy.double())
            return named(y, states) | gradients(x.grad, layer)
        return named(y, states)


def build(package: Any, case: Case) -> Any:
    """An untrained layer; without its options where they are the usual, for the cells do not take them."""
    options: dict[str, Any] = {}
    if not case.cell.endswith("Cell"):
        options = {"batch_first": True, "num_layers": case.layers, "bidirectional": case.directions == 2}
    if case.projection:
        options["proj_size"] = case.projection
    return getattr(package, case.cell)(case.features, case.hidden, **options)


def named(y: Tensor, states: Tensor | tuple[Tensor, ...]) -> Answer:
    """The answer in a layer's output y and its final states, h_n or (h_n, c_n)."""
    finals = (states,) if isinstance(states, Tensor) else states
    return {"output": y.detach()} | {
        name: state.detach() for name, state in zip(("h_n", "c_n"), finals, strict=False)
    }


def gradients(of_x: Tensor | None, layer: torch.nn.Module) -> Answer:
    """The part of an answer that backward leaves. A gradient that is missing is left out."""
    found = {"x": of_x} | {name: weight.grad for name, weight in layer.named_parameters()}
    return {f"gradient of {name}": grad for name, grad in found.items() if grad is not None}


@torch.no_grad()
def carried_answer(layer: Any, x: Tensor, states: tuple[Tensor, ...]) -> Answer:
    """The answer after `CARRIED_CALLS` calls on the same x."""
    y = x
    for _ in range(CARRIED_CALLS):
        y, states = step(layer, x, states)
    return named(y, states)


def step(layer: Any, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One call of a layer, or of a cell, whose output is its hidden state."""
    result = layer(x, states)
    return result if isinstance(result[1], tuple) else (result[0], result)


def difference(
    answer: Mapping[str, Tensor], reference: Mapping[str, Tensor], names: Iterable[str]
) -> tuple[float, str]:
    """The largest relative error of ``names`` in ``answer``, and where: (error, name).

    The relative error is the largest difference by the largest magnitude in the reference; it is infinite for
    what is missing, not finite or of another shape.
    """
    worst = (0.0, "")
    for name in names:
        truth = reference[name]
        given = answer.get(name)
        if given is None or given.shape != truth.shape:
            return float("inf"), name
        error = float((given.double() - truth).abs().max() / truth.abs().max())
        if not error <= worst[0]:
            worst = (error if error == error else float("inf"), name)
    return worst
