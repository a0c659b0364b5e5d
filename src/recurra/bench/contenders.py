"""Who computes a case: torch.nn, recurra.nn, and for inference other runtimes where they are installed.

Each is called as its users call it: through the module, in training through autograd with fresh gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

import recurra.nn
from recurra.bench import runtimes
from recurra.bench.cases import INFERENCE
from recurra.bench.problem import TOLERANCE, Answer, Problem, carried_answer, gradients, named

RECURRA = "recurra"
PADDED = "torch.nn padded"
"""Masks nothing, so its answers are wrong and are not compared."""


@dataclass(frozen=True)
class Contender:
    """One way to compute a case in one phase.

    call: what is timed. answer: computes the case once, to be compared; None for what is known to be wrong.
    tolerance: the largest relative error of that answer. pool: whose threads do the work.
    """

    name: str
    call: Callable[[], object]
    answer: Callable[[], Answer] | None
    tolerance: float = TOLERANCE["float32"]
    pool: str = "torch"


@dataclass(frozen=True)
class Field:
    """All who compute a case in one phase.

    baselines: those that recurra is held against; own: recurra; others: runtimes besides. A sentence stands
    for a contender that is not there.
    """

    baselines: tuple[Contender, ...]
    own: Contender
    others: dict[str, Contender | str]

    @property
    def present(self) -> tuple[Contender, ...]:
        """Baselines, recurra, others: the order in which they take turns."""
        everyone = (*self.baselines, self.own, *self.others.values())
        return tuple(one for one in everyone if isinstance(one, Contender))


def contenders(problem: Problem, phase: str, threads: int) -> Field:
    """All who can compute ``problem`` in ``phase``."""
    case = problem.case
    others: dict[str, Contender | str] = dict.fromkeys(runtimes.RUNTIMES, "")
    if phase == INFERENCE and case.dtype == "float32" and not case.cell.endswith("Cell"):
        for name in runtimes.RUNTIMES:
            session = runtimes.start(name, problem, threads)
            others[name] = session if isinstance(session, str) else _session(name, session)
    return Field(_baselines(problem, phase), _own(problem, phase), others)


def _baselines(problem: Problem, phase: str) -> tuple[Contender, ...]:
    case = problem.case
    if case.dtype != "float32":
        return (_layer("recurra float32", problem, phase, recurra.nn),)
    if case.lengths is not None:
        padded = _layer(PADDED, problem, phase, torch.nn)
        packed = _packed_inference if phase == INFERENCE else _packed_training
        return packed(problem), Contender(padded.name, padded.call, None)
    return (_layer("torch.nn", problem, phase, torch.nn),)


def _own(problem: Problem, phase: str) -> Contender:
    case = problem.case
    return _layer(RECURRA, problem, phase, recurra.nn, lengths=problem.lengths, dtype=case.dtype)


def _layer(
    name: str,
    problem: Problem,
    phase: str,
    package: Any,
    *,
    lengths: Tensor | None = None,
    dtype: str = "float32",
) -> Contender:
    """A layer of ``package`` on the padded batch."""
    kind: torch.dtype = getattr(torch, dtype)
    layer = problem.layer(package, kind)
    if problem.case.carried:
        return _carried(name, problem, layer)
    options = {} if lengths is None else {"lengths": lengths}
    x = problem.x.to(kind)
    if phase == INFERENCE:

        def infer() -> Any:
            return layer(x, **options)

        return Contender(name, infer, lambda: named(*infer()), TOLERANCE[dtype])

    x, dy = x.clone().requires_grad_(), problem.dy.to(kind)

    def train() -> Any:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        y, states = layer(x, **options)
        y.backward(dy)
        return y, states

    return Contender(name, train, lambda: named(*train()) | gradients(x.grad, layer), TOLERANCE[dtype])


def _carried(name: str, problem: Problem, layer: Any) -> Contender:
    """One step of a layer or of a cell, on the states that the call before left."""
    x, states = problem.x, problem.states

    def through_layer() -> None:
        nonlocal states
        _, states = layer(x, states)

    def through_cell() -> None:
        nonlocal states
        states = layer(x, states)

    call = through_cell if problem.case.cell.endswith("Cell") else through_layer
    return Contender(name, call, lambda: carried_answer(layer, x, problem.states))


def _packed_inference(problem: Problem) -> Contender:
    """torch's layer, from the padded batch to a packed output."""
    layer = problem.layer(torch.nn, torch.float32)

    def infer() -> Any:
        return layer(problem.packed(problem.x))

    def answer() -> Answer:
        y, states = infer()
        return named(problem.padded(y), states)

    return Contender("torch.nn packed", infer, answer)


def _packed_training(problem: Problem) -> Contender:
    """torch's layer, from an input packed beforehand to its packed gradient: what torch is quickest at."""
    layer = problem.layer(torch.nn, torch.float32)
    packed, dy = problem.packed(problem.x), problem.packed(problem.dy).data
    x = packed.data.clone().requires_grad_()

    def wrapped(values: Tensor) -> PackedSequence:
        return PackedSequence(values, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)

    def train() -> Any:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        y, states = layer(wrapped(x))
        y.data.backward(dy)
        return y, states

    def answer() -> Answer:
        y, states = train()
        assert x.grad is not None
        return named(problem.padded(y), states) | gradients(problem.padded(wrapped(x.grad)), layer)

    return Contender("torch.nn packed", train, answer)


def _session(name: str, session: runtimes.Session) -> Contender:
    return Contender(name, session.call, session.answer, pool=name)
