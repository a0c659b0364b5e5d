"""`accelerate` and `restore`: the recurrent layers of any model, in place, for recurra.nn's and back.

A layer keeps its identity: only its class changes, since recurra.nn's layers subclass torch.nn's and hold
nothing of their own. So its parameters and buffers are the very same objects, an optimizer goes on with them,
and hooks, modes, `weight_norm`, parametrizations and whatever else refers to the layer stay as they are.

Parametrizations are the one place where the class itself is written to: `register_parametrization` gives
each layer a class of its own, with one property for each parametrized tensor, whose only base is the layer's
former class (torch/nn/utils/parametrize.py). Such a layer gets another class with the same properties, on
recurra.nn's base or on torch.nn's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.utils.parametrize import is_parametrized

from recurra.engine import native
from recurra.errors import ArgumentError
from recurra.nn.cells import GRUCell, LSTMCell, RNNCell
from recurra.nn.recurrent import GRU, LSTM, RNN

_OURS: dict[type, type] = {
    torch.nn.LSTM: LSTM,
    torch.nn.GRU: GRU,
    torch.nn.RNN: RNN,
    torch.nn.LSTMCell: LSTMCell,
    torch.nn.GRUCell: GRUCell,
    torch.nn.RNNCell: RNNCell,
}
_TORCHS = {ours: torchs for torchs, ours in _OURS.items()}
_NAMES = {torchs.__name__ for torchs in _OURS}

# In the layer's __dict__, so that its copies have it too. What is recurra.nn's from the start has it not.
_MARK = "_accelerated"

Action = Literal["swapped", "restored", "already", "left"]
_ACTIONS: tuple[Action, ...] = ("swapped", "restored", "already", "left")


@dataclass(frozen=True)
class Swap:
    """What was done with one layer.

    name: where it stands in the model, as in `named_modules()`; empty where it is the model itself.
    layer: its kind and sizes, as in `LSTM(33, 63, bidirectional=True)`.
    action: "swapped" for recurra.nn's, "restored" to torch.nn's, "already" as wanted, or "left" alone.
    reason: why it was left, or what is to know besides; may be empty.
    also: the other places where the same layer stands.
    """

    name: str
    layer: str
    action: Action
    reason: str = ""
    also: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """All its names, as in `encoder.rnn = decoder.rnn`."""
        return " = ".join((self.name or "(the model itself)", *self.also))

    def __str__(self) -> str:
        told = f"{self.action} {self.place} {self.layer}"
        return f"{told}: {self.reason}" if self.reason else told


@dataclass(frozen=True, repr=False)
class SwapReport:
    """What `accelerate` or `restore` did: a `Swap` for each recurrent layer, in the model's order.

    Printed, it is a line of counts and a line for each layer.

    note: what holds for all that was swapped, such as that there is no native engine; may be empty.
    """

    swaps: tuple[Swap, ...]
    note: str = ""

    @property
    def swapped(self) -> int:
        """How many layers are recurra.nn's now that were torch.nn's."""
        return self._count("swapped")

    @property
    def restored(self) -> int:
        """How many layers are torch.nn's again."""
        return self._count("restored")

    @property
    def already(self) -> int:
        """How many layers were what they were to become."""
        return self._count("already")

    @property
    def left(self) -> int:
        """How many layers were left alone; the `reason` of each says why."""
        return self._count("left")

    def _count(self, action: Action) -> int:
        return sum(swap.action == action for swap in self.swaps)

    def __str__(self) -> str:
        counts = [f"{self._count(action)} {action}" for action in _ACTIONS if self._count(action)]
        total = f"{len(self.swaps) or 'no'} recurrent layer{'s' * (len(self.swaps) != 1)}"
        lines = [": ".join([total, ", ".join(counts)]) if counts else total]
        width = max((len(swap.place) for swap in self.swaps), default=0)
        for swap in self.swaps:
            told = f"  {swap.action:8}  {swap.place:{width}}  {swap.layer}"
            lines.append(f"{told}: {swap.reason}" if swap.reason else told)
        return "\n".join([*lines, self.note] if self.note else lines)

    def __repr__(self) -> str:
        return str(self)


def accelerate(model: torch.nn.Module) -> SwapReport:
    """Makes every LSTM, GRU, RNN and cell of them in a model recurra.nn's, in place, and says what it did.

    Results, gradients, `state_dict` and parameters stay. The native engine runs layers in float32 and
    bfloat16 on a CPU, and cells in float32 outside of autograd; torch's kernels run all else as before. The
    model may be a layer itself, shared layers stay shared, and a second call changes nothing. Left alone,
    with the reason in the report: subclasses of torch.nn's layers, which may count on its inner workings; a
    layer whose `forward` was replaced on the instance; quantized layers; TorchScript. A compiled model is
    compiled anew at its next call.

    Before something that goes by the exact class, call `restore`: `torch.jit.script`, quantization, and a
    pickle of the whole model for where recurra is not installed. A parametrization that changes with each
    evaluation (`spectral_norm` in training) is evaluated fewer times a call than by torch.nn's layers.

    For example::

        import torch
        from recurra.nn.accelerate import accelerate

        model = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(33, 63), "top": torch.nn.Linear(63, 7)})
        print(accelerate(model))

    which prints::

        1 recurrent layer: 1 swapped
          swapped   rnn  LSTM(33, 63)

    Raises ArgumentError where model is not an `nn.Module`.
    """
    swaps = []
    for name, also, layer in _recurrent_layers(model):
        kind, told = _bare_class(layer), _told(layer)
        action: Action = "left"
        reason = _why_not(layer)
        if issubclass(kind, tuple(_TORCHS)):
            action, reason = "already", "recurra.nn's"
        elif not reason:
            _become(layer, _OURS[kind])
            layer.__dict__[_MARK] = True
            action, reason = "swapped", _for_torch(layer)
        swaps.append(Swap(name, told, action, reason, also))
    report = SwapReport(tuple(swaps))
    if report.swapped and not native.available():
        return SwapReport(report.swaps, f"torch's kernels run what was swapped, for {native.why_not()}")
    return report


def restore(model: torch.nn.Module) -> SwapReport:
    """Undoes `accelerate`, in place: torch.nn's classes again, and nothing of recurra left in the layers.

    It works on copies of an accelerated model too, whatever was trained or loaded in between. Layers that
    were recurra.nn's from the start stay so; the report has them as left.

    For example::

        import torch
        from recurra.nn.accelerate import accelerate, restore

        layer = torch.nn.GRU(7, 33)
        accelerate(layer)
        print(restore(layer))
        assert type(layer) is torch.nn.GRU

    which prints::

        1 recurrent layer: 1 restored
          restored  (the model itself)  GRU(7, 33)

    Raises ArgumentError where model is not an `nn.Module`.
    """
    swaps = []
    for name, also, layer in _recurrent_layers(model):
        kind, told = _bare_class(layer), _told(layer)
        action: Action = "left"
        reason = _why_not(layer)
        if kind in _OURS:
            action, reason = "already", "torch.nn's"
        elif issubclass(kind, tuple(_TORCHS)) and _MARK not in layer.__dict__:
            reason = "recurra.nn's from the start"
        elif not reason:
            _become(layer, _TORCHS[kind])
            layer.__dict__.pop(_MARK, None)
            action = "restored"
        swaps.append(Swap(name, told, action, reason, also))
    return SwapReport(tuple(swaps))


def _recurrent_layers(model: torch.nn.Module) -> Iterator[tuple[str, tuple[str, ...], torch.nn.Module]]:
    """(name, other names, layer) of each recurrent layer, once. Raises ArgumentError."""
    if not isinstance(model, torch.nn.Module):
        raise ArgumentError(
            f"model: expected a torch.nn.Module, got {type(model).__name__}; "
            "give the model that holds the layers, or one after the other where there are several"
        )
    modules = list(model.named_modules())
    places: dict[int, list[str]] = {}
    for prefix, parent in modules:
        for key, child in parent._modules.items():
            places.setdefault(id(child), []).append(f"{prefix}.{key}" if prefix else key)
    for name, module in modules:
        if _is_recurrent(module):
            yield name, tuple(place for place in places.get(id(module), []) if place != name), module


def _is_recurrent(module: torch.nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return module.original_name in _NAMES
    if isinstance(module, (torch.nn.RNNBase, torch.nn.RNNCellBase)):
        return True
    return type(module).__name__ in _NAMES and _quantized(module)


def _quantized(module: torch.nn.Module) -> bool:
    return type(module).__module__.startswith("torch.ao.nn.")


def _bare_class(layer: torch.nn.Module) -> type:
    """The layer's class without the one that `register_parametrization` put on top of it."""
    return type(layer).__bases__[0] if is_parametrized(layer) else type(layer)


def _become(layer: torch.nn.Module, kind: type) -> None:
    """Gives the layer this class, under its own properties where it is parametrized.

    A parametrized layer's present class is left as it is: a copy of the layer may share it.
    """
    if is_parametrized(layer):
        own = type(layer)
        kind = type(own.__name__, (kind,), dict(vars(own)))
    layer.__class__ = kind


def _told(layer: torch.nn.Module) -> str:
    if isinstance(layer, torch.jit.ScriptModule):
        return str(layer.original_name)
    return f"{_bare_class(layer).__name__}({layer.extra_repr()})"


def _why_not(layer: torch.nn.Module) -> str:
    """Why this layer's class cannot be changed; empty where it can."""
    if isinstance(layer, torch.jit.ScriptModule):
        return "TorchScript, whose operations are fixed"
    if "forward" in layer.__dict__:
        return "its forward was replaced on the layer itself, so no class's forward would run"
    kind = _bare_class(layer)
    if kind in _OURS or kind in _TORCHS:
        return ""
    if _quantized(layer):
        return f"quantized ({kind.__module__})"
    whole = f"{kind.__module__}.{kind.__qualname__}"
    for above in kind.__mro__:
        if above in _TORCHS:
            return f"{whole} was put on top of recurra.nn.{above.__name__}; take that off first"
        if above in _OURS:
            name = above.__name__
            return f"{whole} is a subclass of torch.nn.{name}; let it inherit from recurra.nn.{name} instead"
    return f"{whole} is a class of its own"


def _for_torch(layer: torch.nn.Module) -> str:
    """Why the native engine does not run this layer for now; empty where it does."""
    taken = {"float32 on cpu"}
    if isinstance(layer, torch.nn.RNNBase):
        taken.add("bfloat16 on cpu")
    found = {f"{p.dtype} on {p.device.type}".removeprefix("torch.") for p in layer.parameters()}
    if len(found) <= 1 and found <= taken:
        return ""
    return f"torch's kernels run it as long as its weights are {' and '.join(sorted(found))}"
