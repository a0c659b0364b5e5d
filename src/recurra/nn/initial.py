"""The states that a layer begins with where a call gives none: zero, or learned (`hx="learned"`).

A learned layer has parameters h_0 (L·D, P|H) and, where there is a cell state, c_0 (L·D, H): one row for each
layer and direction, in the order of h_n's first axis. Each row of a batch begins with the same, so a
gradient of theirs is a sum over the batch. With `reset_to_initial=True` a reset puts the state back to them.
What a call gives as hx stands in their place, for its resets too. They are zero at first, and again after
`reset_parameters`: a new layer computes what one without them does.

Source: Forcada and Carrasco, "Learning the initial state of a second-order recurrent neural network during
regular-language inference", Neural Computation 7, 1995.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def state_sizes(layer: Any) -> dict[str, int]:
    """The size of each state, by the name of its parameter, in the order in which hx has them.

    Only the first state, h, may be a projection.
    """
    sizes = dict.fromkeys(layer.state_names, layer.hidden_size)
    return sizes | {layer.state_names[0]: layer.proj_size or layer.hidden_size}


def learn_states(layer: Any, hx: Any) -> None:
    """Gives a layer this option, and with "learned" its parameters. Raises ValueError for anything else."""
    if not isinstance(hx, str) or hx not in ("zeros", "learned"):
        raise ValueError(
            "hx: expected 'zeros' or 'learned', what the layer is to begin with where a call has no hx, "
            f"got {hx!r}; name one of these, and give states to the call: layer(x, hx)"
        )
    layer.hx = hx
    if hx == "learned":
        places = layer.num_layers * (2 if layer.bidirectional else 1)
        for name, size in state_sizes(layer).items():
            start = layer.weight_ih_l0.new_zeros(places, size)
            layer.register_parameter(name, torch.nn.Parameter(start))


def zero_states(layer: Any) -> None:
    """Puts learned states back to zero: torch's `reset_parameters` draws every parameter as a weight."""
    if layer.hx == "learned":
        for name in layer.state_names:
            torch.nn.init.zeros_(getattr(layer, name))


def learned_states(layer: Any, rows: int) -> tuple[Tensor, ...]:
    """The learned states for a batch, (L·D, N, P|H) each.

    Looked up anew, for `functional_call` puts in others, and contiguous, as cuDNN wants them.
    """
    own = (getattr(layer, name).unsqueeze(1) for name in layer.state_names)
    return tuple(state.expand(-1, rows, -1).contiguous() for state in own)


def learned_hx(layer: Any, input: Any) -> Any:
    """The learned states as the hx of a call with this input, in its dtype, as zeros would be.

    None for what is no input, such as torch.fx's stand-in for one: the layer knows what to do.
    """
    if isinstance(input, PackedSequence):
        rows = int(input.batch_sizes[0])
    elif isinstance(input, Tensor) and input.dim() in (2, 3):
        rows = 1 if input.dim() == 2 else input.shape[0 if layer.batch_first else 1]
    else:
        return None
    unbatched = isinstance(input, Tensor) and input.dim() == 2
    dtype = input.data.dtype
    states = tuple(state.to(dtype) for state in learned_states(layer, rows))
    if unbatched:
        states = tuple(state.squeeze(1) for state in states)
    return states if len(states) > 1 else states[0]


def refuse_learned(layer: Any) -> None:
    """Raises ValueError for a layer with learned states, which other packages' layers do not have."""
    if getattr(layer, "hx", "zeros") == "learned":
        names = " and ".join(layer.state_names)
        raise ValueError(
            f"layer: expected hx='zeros', as torch's and other packages' layers begin at zero, got "
            f"{type(layer).__name__} with hx='learned'; load its state_dict into one of hx='zeros' with "
            f"strict=False, and give each call of that one {names} as hx, repeated for N rows"
        )


def told_states(layer: Any) -> str:
    """What `extra_repr` adds."""
    return ", hx='learned'" if layer.hx == "learned" else ""
