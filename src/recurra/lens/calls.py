"""The calls of the recurrent layers in a model, caught by a hook before they run.

A layer is looked at on what it is called with: the model runs up to that call, and no further. So the model
needs no change, and torch's own layers are looked at on their own weights. Axes: see `recurra.types`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from recurra.errors import ArgumentError
from recurra.nn.accelerate import accelerate
from recurra.types import Trace

# what `forward` takes besides what `trace` takes
_FORWARD_ONLY = ("recompute", "detach")


def recurrent_modules(model: Any) -> dict[str, Module]:
    """The recurrent layers of a model by their path, as in `named_modules()`; "" for the model itself.

    torch's LSTM, GRU and RNN, and those layers of `recurra.nn` that have `trace`. Of a `recurra.nn.Stacked`
    the whole, not its layers. A layer that stands in several places has the first one's path. Those of a
    fitted Forecaster, Classifier, Tagger or LanguageModel are its network's. Raises ArgumentError for what is
    no module or has no such layer.

    For example::

        model = torch.nn.Sequential(torch.nn.Embedding(63, 7), torch.nn.GRU(7, 33))
        assert list(recurrent_modules(model)) == ["1"]
    """
    model = _network(model)
    found: dict[str, Module] = {}
    inside: set[Module] = set()
    cells = False
    for path, module in model.named_modules():
        cells = cells or isinstance(module, torch.nn.RNNCellBase)
        if module not in inside and _is_recurrent(module):
            found[path] = module
            inside.update(module.modules())
    if not found:
        also = "; cells that a loop calls step by step cannot be traced: use the layer" if cells else ""
        raise ArgumentError(
            "model: expected a network with a recurrent layer inside (an LSTM, GRU or RNN of torch.nn or "
            f"recurra.nn), got {type(model).__name__} without any{also}"
        )
    return found


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a recurrent module, caught before it ran.

    path: where the module stands in the model. name: its class. layer: itself, or for torch's own layer
    recurra.nn's on the very same weights. args, options: what it was called with, for `layer.trace`.
    """

    path: str
    name: str
    layer: Any
    args: tuple[Any, ...]
    options: dict[str, Any]

    def traces(self) -> tuple[Trace, ...]:
        """A trace for each layer and direction, without gradients."""
        with torch.no_grad():
            found: tuple[Trace, ...] = self.layer.trace(*self.args, **self.options)
        return found


@dataclass(frozen=True, eq=False)
class Asked:
    """A model and its inputs as torch has them, and what is known of their labels.

    path: the module to trace where none is named. stamps: from the number of steps to a label of each, for
    each sample. Of a Classifier, Tagger or LanguageModel also words: the names of each sample's steps, where
    they are tokens; embedding: what makes vectors of these; read: from the output to the answer (N, ...) at
    each row's end; picked: from a target as the user names it to a function from an output, and the rows (M,)
    that it is about, to (M,).
    """

    model: Module
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    path: str | None = None
    samples: Sequence[Any] | None = None
    stamps: Callable[[int], list[Any]] | None = None
    words: list[list[str]] | None = None
    embedding: Module | None = None
    read: Callable[[Any], Tensor] | None = None
    picked: Callable[[Any], Callable[[Any, Tensor], Tensor]] | None = None


def as_module(model: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> Asked:
    """The module to call and what with: a model as it is, a Forecaster's network on the forecast of a table.

    Of a Classifier, Tagger or LanguageModel see `recurra.lens.estimators`. Raises ArgumentError for any
    other.
    """
    if isinstance(model, Module):
        return Asked(_network(model), inputs, options)
    from recurra.lens.estimators import as_asked, view_of

    view = view_of(model)
    if view is not None:
        return as_asked(view, inputs, options)
    network = _network(model)
    from recurra.tasks.preparation import Prepared

    panel = model.panel(*inputs, **options)
    prepared = Prepared(panel, model.preparation, model.names, model.frequency)
    windows = np.array([(index, len(series.target)) for index, series in enumerate(panel.series)])
    example = prepared.example(windows)
    size = model.plan.segment

    def stamps(segments: int) -> list[Any]:
        last = [np.arange(1 - segments, 1) * size + len(series.target) - 1 for series in panel.series]
        return [_stamps_at(series.stamps, places) for series, places in zip(panel.series, last, strict=True)]

    return Asked(
        model=network,
        inputs=(example.past, example.future, example.static, example.series),
        options={},
        path="members.0.lstm",
        samples=panel.names,
        stamps=stamps,
    )


def catch(
    model: Module, inputs: tuple[Any, ...], options: dict[str, Any], module: str | None = None, call: int = 0
) -> Call:
    """Call the model, and stop where the recurrent module at this path is called for the (call + 1)-th time.

    Raises ArgumentError as `trace` does.
    """
    layers = recurrent_modules(model)
    if module is None and len(layers) > 1:
        raise ArgumentError(
            f"module: expected the path of one of the recurrent modules ({listed(layers)}), got none; "
            "name one, or use trace_all for all of them"
        )
    path = next(iter(layers)) if module is None else module
    if path not in layers:
        raise ArgumentError(
            f"module: expected one of the recurrent modules ({listed(layers)}), got {module!r}; "
            "recurra.lens.recurrent_modules(model) lists them"
        )
    if isinstance(call, bool) or not isinstance(call, int) or call < 0:
        raise ArgumentError(f"call: expected 0 for the module's first call or a number above, got {call!r}")
    caught: list[Call] = []

    def seen(one: Call) -> bool:
        caught.append(one)
        return len(caught) > call

    watch(Asked(model, inputs, options), {path: layers[path]}, seen)
    if len(caught) > call:
        return caught[call]
    if caught:
        raise ArgumentError(
            f"call: expected less than {len(caught)}, as often as the model called {path!r}, got {call}; "
            "give 0 for the first call"
        )
    raise ArgumentError(
        f"inputs: expected inputs that reach the module {path!r}, but the model never called it; "
        "call the model as it is used, name another module, or give a part of the model as model"
    )


def _network(model: Any) -> Module:
    """The module of a model or a fitted estimator. Raises ArgumentError."""
    if isinstance(model, Module):
        network = getattr(model, "_orig_mod", model)  # torch.compile's wrapper has the model so
        return network if isinstance(network, Module) else model
    from recurra.lens.estimators import view_of
    from recurra.tasks.forecast import Forecaster

    view = view_of(model)
    if view is not None:
        return view.network
    if not isinstance(model, Forecaster):
        raise ArgumentError(
            "model: expected a torch.nn.Module or a fitted recurra.Forecaster, Classifier, Tagger or "
            f"LanguageModel, got {type(model).__name__}; give the network itself"
        )
    if model.network is None:
        raise ArgumentError(
            "model: expected a fitted Forecaster, got one that has learnt nothing yet; "
            "call fit(data) or recurra.load(path) first"
        )
    return model.network


def _is_recurrent(module: Module) -> bool:
    if isinstance(module, torch.nn.RNNBase):
        return True
    return hasattr(module, "trace") and any(
        c.__module__.startswith("recurra.nn.") for c in type(module).__mro__
    )


def watch(asked: Asked, layers: dict[str, Module], seen: Callable[[Call], bool]) -> None:
    """Run the model, in eval mode and without gradients, and show each call of these layers to `seen`.

    The model is stopped where `seen` returns True.
    """
    handles = []
    for path, module in layers.items():
        layer = _traceable(path, module)

        def hook(
            called: Module, args: Any, options: dict[str, Any], path: str = path, layer: Any = layer
        ) -> None:
            # what an earlier hook has put in place of a weight, as weight_norm does, lies in `called` now
            if layer is not called:
                layer.__dict__.update(called.__dict__)
            given = {name: value for name, value in options.items() if name not in _FORWARD_ONLY}
            if seen(Call(path, type(called).__name__, layer, args, given)):
                raise _Reached

        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        with torch.no_grad(), _eagerly(), evaluating(asked.model), contextlib.suppress(_Reached):
            asked.model(*asked.inputs, **asked.options)
    finally:
        for handle in handles:
            handle.remove()


class _Reached(BaseException):
    """All that was to be seen has been seen. No Exception, which a model might catch."""


def _traceable(path: str, module: Module) -> Any:
    """The module, or for torch's own layer recurra.nn's with the very same weights. Raises ArgumentError."""
    if hasattr(module, "trace"):
        return module
    shadow = object.__new__(type(module))
    shadow.__dict__ = module.__dict__.copy()
    swap = next((swap for swap in accelerate(shadow).swaps if swap.name == ""), None)
    if swap is None or swap.action != "swapped":
        reason = swap.reason if swap is not None else "it is no layer of torch.nn"
        raise ArgumentError(
            f"module: expected a layer that computes what torch.nn's do, got {type(module).__name__} at "
            f"{path!r}, of which that is not known: {reason}"
        )
    return shadow


@contextlib.contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Eval mode, without noise, and then each module's own mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _eagerly() -> contextlib.AbstractContextManager[Any]:
    """Modules that `torch.compile` compiled run as they are written, so that hooks are called."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _stamps_at(stamps: np.ndarray[Any, Any], places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Stamps at these places; of those before the first, NaT of dates, and steps counted on backwards."""
    found: np.ndarray[Any, Any] = stamps[np.maximum(places, 0)]
    if stamps.dtype.kind == "M":
        return np.where(places < 0, np.datetime64("NaT"), found)
    step = int(stamps[1] - stamps[0]) if len(stamps) > 1 else 1
    return np.where(places < 0, stamps[0] + places * step, found)


def listed(layers: dict[str, Module]) -> str:
    """The paths as they stand in messages."""
    return ", ".join(repr(path) for path in layers)
