"""What a layer was called with, checked and arranged for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import is_
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from recurra.engine import native
from recurra.engine.scan import runs_natively, transformed
from recurra.engine.stack import Stack, Steps
from recurra.nn.noise import is_noisy

Lengths: TypeAlias = Tensor | Sequence[int] | NDArray[np.integer[Any]]

PACKED_AND_LENGTHS = (
    "lengths: expected None with a PackedSequence, which has its own, got lengths as well; "
    "leave them out, or give the padded batch instead of the packed one"
)
PACKED_AND_RESETS = (
    "resets: expected None with a PackedSequence, whose rows have no common axis of time, got resets; "
    "give the padded batch with lengths instead: pad_packed_sequence makes both"
)


class Batch(NamedTuple):
    """What a layer was called with, checked."""

    x: Tensor  # (N, T, F), or (T, N, F) unless batch_first, or (entries, F) of a PackedSequence
    initial: tuple[Tensor, ...]  # h_0, and c_0 where the cell has one, each (L·D, N, H|P); or none: zeros
    steps: Steps
    packed: PackedSequence | None = None  # the input, where it was one
    unbatched: bool = False  # the input was one sequence (T, F), now a batch of one row


def kind_of(layer: torch.nn.RNNBase) -> str:
    """The layer's place in `recurra.engine.stack.KINDS`, by name."""
    return getattr(layer, "kind", None) or layer.mode.lower()


def is_ours_alone(layer: torch.nn.RNNBase) -> bool:
    """Whether torch has no layer that computes the same: a variant, or one with noise in this mode."""
    return hasattr(layer, "kind") or is_noisy(layer)


def stack_of(layer: torch.nn.RNNBase) -> Stack:
    """What the engine is to run for this layer."""
    directions = 2 if layer.bidirectional else 1
    sizes = layer.hidden_size, layer.proj_size, layer.num_layers, directions
    if torch.compiler.is_compiling():  # the compiler looks askance at caches
        return Stack(kind_of(layer), *sizes, layer.bias, layer.batch_first)
    return _stack(kind_of(layer), *sizes, layer.bias, layer.batch_first)


@lru_cache(maxsize=512)
def _stack(kind: str, *options: Any) -> Stack:
    return Stack(kind, *options)


def weights_of(layer: torch.nn.RNNBase) -> list[Tensor]:
    """The weights of all layers and directions in torch's order: w_ih, w_hh, b_ih, b_hh, w_hr of each.

    Looked up anew: `functional_call`, parametrizations and `weight_norm` put others in their places.
    """
    own, names = layer._parameters, layer._flat_weights_names
    try:
        weights: list[Tensor] = [own[name] for name in names]  # type: ignore[misc]
        if not torch.compiler.is_compiling() and not all(map(is_, weights, layer._flat_weights)):
            layer._update_flat_weights()  # torch obeys who sets the list, unless the weights changed since
            weights = [*layer._flat_weights]  # type: ignore[list-item]
    except KeyError:
        weights = [getattr(layer, name) for name in names]
    return arranged(layer, weights)


def arranged(layer: Any, weights: list[Tensor]) -> list[Tensor]:
    """The weights as the engine reads them; of a layer with heads they lie otherwise in the layer."""
    if getattr(layer, "heads", 1) == 1:
        return weights
    return [
        spread(weight, layer.heads) if name.startswith("weight_hh") else weight
        for name, weight in zip(layer._flat_weights_names, weights, strict=True)
    ]


def spread(weight: Tensor, heads: int) -> Tensor:
    """(4H, P / heads), each row what a unit reads of its own head, to (4H, P), zero elsewhere."""
    rows, width = weight.shape
    blocks = weight.view(4, heads, -1, width).permute(0, 2, 3, 1)
    return torch.diag_embed(blocks, dim1=1, dim2=3).reshape(rows, heads * width)


def batch_of(
    layer: torch.nn.RNNBase, input: Any, hx: Any, lengths: Any, resets: Any, reset_to_initial: bool
) -> Batch | None:
    """What `forward` was called with; None where torch has to do it, or to refuse it."""
    plain_call = lengths is None and resets is None
    if is_ours_alone(layer):
        return own_batch(layer, input, hx, lengths, resets, reset_to_initial)
    if torch.compiler.is_compiling() and isinstance(input, Tensor) and input.dim() == 3:
        if plain_call and not (input.dtype == torch.float32 and input.device.type == "cpu"):
            return None
        return _checked(layer, input, hx, lengths, resets, reset_to_initial)
    if plain_call:
        return drop_in_batch(layer, input, hx)
    return padded_batch(layer, input, hx, lengths, resets, reset_to_initial)


def drop_in_batch(layer: torch.nn.RNNBase, input: Any, hx: Any) -> Batch | None:
    """A call as torch's layer is called, for the native engine; None for what torch has to do or to refuse.

    Only what is plainly well-formed comes through, so every error is torch's own.
    """
    if native.kernels() is None or torch_must():
        return None
    packed = input if isinstance(input, PackedSequence) else None
    x = input.data if packed is not None else input
    if not isinstance(x, Tensor) or x.dim() == 0 or x.numel() == 0:
        return None
    if packed is not None and int(packed.batch_sizes.sum()) != x.shape[0]:
        return None
    unbatched = packed is None and x.dim() == 2
    if x.shape[-1] != layer.input_size or x.dim() != (3 if packed is None and not unbatched else 2):
        return None
    batch_axis = 0 if layer.batch_first else 1
    if unbatched:
        x = x.unsqueeze(batch_axis)
    rows = int(packed.batch_sizes[0]) if packed is not None else x.shape[batch_axis]
    initial = _drop_in_states(layer, hx, rows, unbatched)
    if initial is None:
        return None
    if packed is not None and packed.sorted_indices is not None:
        initial = tuple(state.index_select(1, packed.sorted_indices) for state in initial)
    if not transformed() and not runs_natively(x, *initial, *weights_of(layer)):
        return None
    steps = Steps(batch_sizes=None if packed is None else packed.batch_sizes)
    return Batch(x, initial, steps, packed, unbatched)


def torch_must() -> bool:
    """Whether torch itself has to run the layer: while it records a graph, or changes dtypes under way."""
    return torch._C._get_tracing_state() is not None or torch.is_autocast_enabled("cpu")


def _drop_in_states(
    layer: torch.nn.RNNBase, hx: Any, rows: int, unbatched: bool
) -> tuple[Tensor, ...] | None:
    """hx as (L·D, N, H|P) each, none for None, or None where it is not what the layer expects."""
    if hx is None:
        return ()
    places = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = [layer.proj_size or layer.hidden_size]
    if layer.mode == "LSTM":
        sizes.append(layer.hidden_size)
        if not isinstance(hx, (tuple, list)):
            return None
    states = tuple(hx) if layer.mode == "LSTM" else (hx,)
    if len(states) != len(sizes) or not all(isinstance(state, Tensor) for state in states):
        return None
    expected = [(places, size) if unbatched else (places, rows, size) for size in sizes]
    if any(state.shape != shape for state, shape in zip(states, expected, strict=True)):
        return None
    return tuple(state.unsqueeze(1) for state in states) if unbatched else states


def padded_batch(
    layer: torch.nn.RNNBase, input: Any, hx: Any, lengths: Any, resets: Any, reset_to_initial: bool
) -> Batch:
    """What `forward` was called with, when that was with lengths or resets."""
    if isinstance(input, PackedSequence):
        raise ValueError(PACKED_AND_LENGTHS if lengths is not None else PACKED_AND_RESETS)
    if input.dim() == 2:
        name = "lengths" if lengths is not None else "resets"
        raise ValueError(
            f"{name}: expected an input of 3 dimensions, a batch, got an input of 2; leave {name} out, "
            f"or make it a batch of one row with input.unsqueeze({0 if layer.batch_first else 1})"
        )
    return _checked(layer, input, hx, lengths, resets, reset_to_initial)


def traced_batch(
    layer: torch.nn.RNNBase, input: Any, hx: Any, lengths: Any, resets: Any, reset_to_initial: bool
) -> Batch:
    """What `trace` was called with, packed and unbatched input as a batch."""
    if isinstance(input, PackedSequence):
        if lengths is not None:
            raise ValueError(PACKED_AND_LENGTHS)
        padded, steps = pad_packed_sequence(input, batch_first=layer.batch_first)
        return _checked(layer, padded, hx, steps, resets, reset_to_initial)
    if lengths is not None or resets is not None:
        return padded_batch(layer, input, hx, lengths, resets, reset_to_initial)
    if input.dim() == 2:
        input = input.unsqueeze(0 if layer.batch_first else 1)
        if hx is not None:
            hx = hx.unsqueeze(1) if isinstance(hx, Tensor) else tuple(state.unsqueeze(1) for state in hx)
    return _checked(layer, input, hx, None, None, False)


def own_batch(
    layer: torch.nn.RNNBase, input: Any, hx: Any, lengths: Any, resets: Any, reset_to_initial: bool
) -> Batch:
    """What `forward` was called with, where torch can neither run the layer nor refuse it in our place."""
    if lengths is not None or resets is not None:
        return padded_batch(layer, input, hx, lengths, resets, reset_to_initial)
    if isinstance(input, PackedSequence):
        data, sizes, order, _ = input
        if hx is not None and order is not None:
            turned = [
                state.index_select(1, order) for state in (hx if isinstance(hx, (tuple, list)) else (hx,))
            ]
            hx = tuple(turned) if layer.has_cell_state else turned[0]
        if hx is not None:
            layer._update_flat_weights()
            layer.check_forward_args(data, hx, sizes)
        initial = () if hx is None else tuple(hx) if layer.has_cell_state else (hx,)
        return Batch(data, initial, Steps(batch_sizes=sizes), input)
    if input.dim() == 2:
        axis = 0 if layer.batch_first else 1
        states = () if hx is None else tuple(hx) if layer.has_cell_state else (hx,)
        if any(state.dim() != 2 for state in states):
            found = ", ".join(f"{state.dim()}-D" for state in states)
            raise RuntimeError(f"For unbatched 2-D input, hx should also be 2-D but got {found} tensors")
        states = tuple(state.unsqueeze(1) for state in states)
        given = None if hx is None else states if layer.has_cell_state else states[0]
        return _checked(layer, input.unsqueeze(axis), given, None, None, False)._replace(unbatched=True)
    return _checked(layer, input, hx, None, None, False)


def _checked(
    layer: torch.nn.RNNBase, input: Tensor, hx: Any, lengths: Any, resets: Any, reset_to_initial: bool
) -> Batch:
    """An input (T, N, F) or (N, T, F) with its states and steps. Raises torch's errors."""
    if input.dim() != 3:
        name = type(layer).__name__
        raise ValueError(f"{name}: Expected input to be 2D or 3D, got {input.dim()}D instead")
    initial = _checked_states(layer, input, hx)
    x = input if layer.batch_first else input.transpose(0, 1)
    if x.shape[1] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    steps = Steps(
        lengths=None
        if lengths is None
        else checked_lengths(lengths, x, "the input", read_as(layer.batch_first)),
        resets=None if resets is None else checked_resets(resets, x),
        reset_to_initial=reset_to_initial,
    )
    return Batch(input, initial, steps)


def checked_resets(resets: Any, x: Tensor) -> Tensor:
    """resets as (N, T) bool on the device of x (N, T, F). Raises ValueError."""
    if not isinstance(resets, Tensor) or resets.dtype != torch.bool:
        kind = resets.dtype if isinstance(resets, Tensor) else type(resets).__name__
        raise ValueError(
            f"resets: expected a tensor of torch.bool, True where a step begins a new sequence, got {kind}; "
            "convert it with torch.as_tensor(resets, dtype=torch.bool)"
        )
    if resets.shape != x.shape[:2]:
        raise ValueError(
            f"resets: expected shape (N, T) = {tuple(x.shape[:2])}, whatever batch_first says, "
            f"got {tuple(resets.shape)}; transpose it if its first axis is time"
        )
    return resets.to(x.device)


def _checked_states(layer: torch.nn.RNNBase, input: Tensor, hx: Any) -> tuple[Tensor, ...]:
    """The initial states that fit the input, each (L·D, N, H|P), zeros when hx is None."""
    layer._update_flat_weights()  # torch's checks read them, and functional_call may have changed them
    h_size = layer.get_expected_hidden_size(input, None)
    states: tuple[Tensor, ...]
    checks: Any = layer
    if layer.has_cell_state:
        c_size = checks.get_expected_cell_size(input, None)
        states = (input.new_zeros(h_size), input.new_zeros(c_size)) if hx is None else (hx[0], hx[1])
        checks.check_forward_args(input, states, None)
    else:
        states = (input.new_zeros(h_size) if hx is None else hx,)
        layer.check_forward_args(input, states[0], None)
    for state in states:
        if state.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            raise RuntimeError(
                f"hx: expected the input's dtype {input.dtype}, got {state.dtype}; "
                f"convert it with .to({input.dtype})"
            )
    return states


def read_as(batch_first: bool) -> str:
    axes = "(N, T, F), as batch_first is True" if batch_first else "(T, N, F), as batch_first is False"
    return f"the input was read as {axes}: give each row a length, or change batch_first"


def checked_lengths(lengths: Any, x: Tensor, name: str, advice: str = "") -> Tensor:
    """lengths as (N,) int64 on the device of x (N, T, anything), which errors call `name`.

    advice: what to do where there are not N of them. Raises ValueError. A compiled graph cannot look at
    values; there only their number and dtype are checked.
    """
    rows, steps = x.shape[:2]
    counts = lengths if isinstance(lengths, Tensor) else _as_tensor(lengths)
    if counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool:
        raise ValueError(
            f"lengths: expected numbers of steps in an integer dtype, got {counts.dtype}; "
            "convert them with .long(), or a mask (N, T) with mask.sum(1)"
        )
    if counts.shape != (rows,):
        raise ValueError(
            f"lengths: expected one for each of the {rows} rows, shape ({rows},), got {tuple(counts.shape)}; "
            f"{advice or f'give each row of {name} its number of steps'}"
        )
    counts = counts.long()
    if torch.compiler.is_compiling():
        return counts.to(x.device)
    outside = (counts < 0) | (counts > steps)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"lengths: expected 0 to {steps}, the steps of {name}, got {int(counts[row])} in row {row}; "
            f"count the steps that this row has, or pad {name} to the longest row"
        )
    return counts.to(x.device)


def _as_tensor(lengths: Sequence[int] | NDArray[np.integer[Any]]) -> Tensor:
    """A list or array of lengths as a tensor, on the CPU whatever torch's default device is."""
    try:
        # a copy: an array may be read-only or run backwards, and torch takes neither
        return torch.from_numpy(np.array(lengths, dtype=None if len(lengths) else np.int64))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"lengths: expected a tensor, list or array of integers, got {lengths!r}; "
            "give each row its number of steps"
        ) from error
