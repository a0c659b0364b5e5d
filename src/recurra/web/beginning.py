"""The network before training, to hold beside the present one: a new one of its build, or another model's.

A Forecaster's file holds the seed and every size, so its first weights are drawn again to the bit. Of a
network of the user's own nobody knows how it began: its layers draw their weights anew, by their own rules.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from recurra.errors import ArgumentError, RecurraError
from recurra.lens.calls import listed, recurrent_modules
from recurra.web.recording import record
from recurra.web.subject import Subject

SEED = 0


@dataclass(frozen=True, eq=False)
class Beginning:
    """A network to compare with, in eval mode.

    origin: "seed", the very weights that training began from · "anew", drawn anew with SEED · "other",
    another model's. title: what to call it. kept: names of weights that no layer draws, which are as trained.
    """

    network: nn.Module
    origin: Literal["seed", "anew", "other"]
    title: str
    seed: int
    kept: tuple[str, ...] = ()

    def path_of(self, path: str) -> str | None:
        """Where the layer that stands at ``path`` in the present network stands in this one."""
        layers = recurrent_modules(self.network)
        return path if path in layers else next(iter(layers)) if len(layers) == 1 else None


def beginning(model: Any, subject: Subject) -> Beginning:
    """How ``model``, which `subject` shows, was before it was trained."""
    if isinstance(model, nn.Module):
        network, kept = _drawn_anew(subject.network)
        return Beginning(network, "anew", type(model).__name__, SEED, kept)
    if subject.fresh is not None:
        return Beginning(subject.fresh().to(_device(subject.network)), "seed", subject.title, model.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        network = model._build()
    return Beginning(network.to(_device(subject.network)).eval(), "seed", subject.title, model.seed)


def other_model(model: Any, subject: Subject) -> Beginning:
    """Another model as the one to compare with. It is given the present one's samples.

    Raises ArgumentError for what is no network with a recurrent layer, and for one that cannot read a sample.
    """
    other = subject.other
    network = model if isinstance(model, nn.Module) else getattr(model, "network", None)
    if other is not None and not isinstance(model, nn.Module):
        network = other(model)
    if not isinstance(network, nn.Module):
        raise ArgumentError(
            f"before: expected a torch.nn.Module or a fitted estimator, got {type(model).__name__}; "
            "give the same model as it was before"
        )
    # an estimator's reads the samples of this one's, which a copy would not know
    network = (network if other is not None else copy.deepcopy(network)).to(_device(subject.network)).eval()
    found = Beginning(network, "other", type(model).__name__, 0)
    try:
        paths = [found.path_of(path) for path in recurrent_modules(subject.network)]
        for path in filter(None, paths):
            record(network, subject.sample(0).inputs, path)
    except RecurraError as error:
        raise ArgumentError(
            f"before: {error} (the two are compared on the same samples: give the same model as it was "
            "before, or one that reads the same inputs)"
        ) from error
    if not any(path is not None for path in paths):
        wanted, got = (listed(recurrent_modules(one)) for one in (subject.network, network))
        raise ArgumentError(
            f"before: expected a recurrent layer at one of {wanted}, got {got}; give one of the same build"
        )
    return found


def _drawn_anew(network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy whose modules drew their weights again, and the names of weights that none drew."""
    made = copy.deepcopy(network).eval()
    drawn: set[int] = set()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        for module in made.modules():
            draw = getattr(module, "reset_parameters", None)
            if callable(draw) and not inspect.signature(draw).parameters:
                draw()
                drawn |= {id(weight) for weight in module.parameters()}
    return made, tuple(name for name, weight in made.named_parameters() if id(weight) not in drawn)


def _device(network: nn.Module) -> torch.device:
    return next((weight.device for weight in network.parameters()), torch.device("cpu"))
