"""What a layer does to itself in training: zoneout, recurrent dropout, weight drop.

* recurrent dropout: what the gates read of h is dropped, the same units at all steps of a row (Gal and
  Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", 2016);
* zoneout: units of h, and apart from them of c, keep the value of the step before (Krueger et al., "Zoneout:
  regularizing RNNs by randomly preserving hidden activations", 2017). Out of training the
  expectation is taken instead;
* weight drop: single recurrent weights are dropped, the same at all steps of a batch (DropConnect, in Merity
  et al., "Regularizing and optimizing LSTM language models", 2018).

All is drawn from torch's own generator, so `torch.manual_seed` repeats it, whatever the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout

from recurra.engine.noise import Noise
from recurra.engine.scan import transformed


def checked_chance(name: str, value: Any) -> float:
    """A probability. Raises ValueError as torch's dropout does, or for what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(
            f"{name}: expected a number in the range [0, 1], the probability of an element, got {value!r}"
        )
    return float(value)


def regularise(layer: Any, recurrent_dropout: Any, zoneout: Any, weight_drop: Any) -> None:
    """Gives a layer these options. zoneout: one number, or for a cell with a cell state (of h, of c).

    Raises ValueError for what is no probability.
    """
    layer.recurrent_dropout = checked_chance("recurrent_dropout", recurrent_dropout)
    layer.weight_drop = checked_chance("weight_drop", weight_drop)
    if isinstance(zoneout, (tuple, list)):
        if len(zoneout) != 2 or not layer.has_cell_state:
            pair = ", or two, of the hidden and of the cell state" if layer.has_cell_state else ""
            raise ValueError(f"zoneout: expected one number{pair}, got {zoneout!r}; give each state one")
        hidden, cell = (checked_chance("zoneout", chance) for chance in zoneout)
    else:
        hidden = cell = checked_chance("zoneout", zoneout)
    layer.zoneout = (hidden, cell if layer.has_cell_state else 0.0)


def refuse_noise(layer: Any) -> None:
    """Raises ValueError for a layer with any of this, which other packages' layers do not do."""
    names = ("recurrent_dropout", "zoneout", "weight_drop")
    had = {name: getattr(layer, name, 0.0) for name in names}
    for name, chance in had.items():
        if chance not in (0.0, (0.0, 0.0)):
            raise ValueError(
                f"layer: expected {name} of 0, for the other layer has none, got {chance}; "
                f"set {name} to 0 on a copy if its results may differ"
            )


def is_noisy(layer: Any) -> bool:
    """Whether a call of this layer, in its mode, does anything of this to itself."""
    if layer.zoneout != (0.0, 0.0):
        return True
    return bool(layer.training and (layer.recurrent_dropout or layer.weight_drop))


def noise_of(layer: Any, training: bool) -> Noise | None:
    """The noise of one call; None for none. In training its seed is drawn."""
    zoneout, drop = layer.zoneout, layer.recurrent_dropout if training else 0.0
    if zoneout == (0.0, 0.0) and not drop:
        return None
    seed: Any = None
    if training:
        drawn = torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")
        seed = drawn if torch.compiler.is_compiling() else int(drawn)
    return Noise(zoneout[0], zoneout[1], drop, seed)


def drop_weights(layer: Any, weights: list[Tensor]) -> list[Tensor]:
    """The weights with some recurrent ones dropped, in training."""
    if not (layer.training and layer.weight_drop):
        return weights
    names = layer._flat_weights_names
    return [
        _dropped(weight, layer.weight_drop) if name.startswith("weight_hh") else weight
        for name, weight in zip(names, weights, strict=True)
    ]


def _dropped(weight: Tensor, chance: float) -> Tensor:
    """Each element zero with this chance, the others larger by as much as makes up for it."""
    limit = round(chance * 2**16) - 2**15
    if weight.device.type != "cpu" or limit == 2**15 or torch.compiler.is_compiling() or transformed():
        return dropout(weight, chance)
    # 64 drawn bits serve four elements; torch draws each by itself, on one thread, in four times the time
    drawn = torch.empty(-(-weight.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = drawn.view(torch.int16)[: weight.numel()] >= limit
    return weight * kept.view(weight.shape).to(weight.dtype).mul_(2**16 / (2**15 - limit))


def told(layer: Any) -> str:
    """What `extra_repr` adds: the options that are not zero."""
    words = [
        f"{name}={getattr(layer, name)}"
        for name in ("recurrent_dropout", "weight_drop")
        if getattr(layer, name)
    ]
    hidden, cell = layer.zoneout
    if hidden or cell:
        words.append(f"zoneout={hidden if hidden == cell or not layer.has_cell_state else (hidden, cell)}")
    return "".join(f", {word}" for word in words)
