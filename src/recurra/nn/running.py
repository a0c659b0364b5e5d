"""Runs a layer's batch through the engine, and gives back what torch's layer would, or a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.utils.rnn import PackedSequence

from recurra.engine import native
from recurra.engine.noise import Noise
from recurra.engine.scan import scan, scan_natively, transformed
from recurra.engine.stack import Stack, Steps
from recurra.engine.states import states
from recurra.engine.step import step
from recurra.nn.initial import refuse_learned
from recurra.nn.inputs import Batch, stack_of, torch_must, weights_of
from recurra.nn.noise import drop_weights, is_noisy, noise_of
from recurra.types import GATE_NAMES, Trace


def run(layer: torch.nn.RNNBase, batch: Batch, recompute: bool) -> tuple[Any, ...]:
    """The output in the input's form, and the final states: h_n, and for an LSTM c_n."""
    stack, weights = stack_of(layer), drop_weights(layer, weights_of(layer))
    batch, weights = _under_autocast(layer, batch, weights)
    noise = noise_of(layer, layer.training)
    probability = layer.dropout if layer.training else 0.0
    if layer.num_layers > 1 and (probability > 0 or recompute):
        output, *finals = _layer_by_layer(stack, batch, weights, probability, recompute, noise)
    else:
        output, *finals = scan(stack, batch.x, batch.initial, weights, batch.steps, recompute, noise)
    if batch.packed is not None:
        _, sizes, order, back = batch.packed
        if back is not None:
            finals = [state.index_select(1, back) for state in finals]
        return PackedSequence(output, sizes, order, back), *finals
    if batch.unbatched:
        return output.squeeze(0 if layer.batch_first else 1), *(state.squeeze(1) for state in finals)
    return output, *finals


def _under_autocast(
    layer: torch.nn.RNNBase, batch: Batch, weights: list[Tensor]
) -> tuple[Batch, list[Tensor]]:
    """Under autocast all in its dtype, as torch's layers; a GRU on a CPU, as there, in the input's."""
    device, dtype = batch.x.device.type, batch.x.dtype
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return batch, weights
    if dtype == torch.float64:
        return batch, weights
    if device != "cpu" or layer.mode != "GRU":
        dtype = torch.get_autocast_dtype(device)
    initial = tuple(state.to(dtype) for state in batch.initial)
    return batch._replace(x=batch.x.to(dtype), initial=initial), [weight.to(dtype) for weight in weights]


def _layer_by_layer(
    stack: Stack, batch: Batch, weights: Any, probability: float, recompute: bool, noise: Noise | None
) -> tuple[Tensor, ...]:
    """With dropout between layers, or with the gates of no more than one layer at a time in backward.

    Time first, whatever the caller's order: so a seed gives the masks that it gives torch's layer.
    """
    turned = stack.batch_first and batch.packed is None
    below = batch.x.transpose(0, 1) if turned else batch.x
    each, places = stack.directions * stack.weights_each, stack.directions
    one = replace(stack, depth=1, batch_first=False)
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(stack.depth):
        if layer > 0 and probability > 0:
            below = drop(below, probability)
        initial = [state[layer * places : (layer + 1) * places] for state in batch.initial]
        own = weights[layer * each : (layer + 1) * each]
        here = None if noise is None else noise._replace(layer=layer)
        below, *ends = scan(one, below, initial, own, batch.steps, recompute, here)
        finals.append(tuple(ends))
    output = below.transpose(0, 1) if turned else below
    return output, *(torch.cat(ends) for ends in zip(*finals, strict=True))


def traces(layer: torch.nn.RNNBase, batch: Batch) -> tuple[Trace, ...]:
    """A trace for each layer and direction, dropout off."""
    stack = stack_of(layer)
    rows, length = batch.x.shape[:2] if stack.batch_first else batch.x.shape[1::-1]
    lengths = batch.steps.lengths
    if lengths is None:
        lengths = torch.full((rows,), length, device=batch.x.device)
    noise = noise_of(layer, training=False)
    found = states(stack, batch.x, batch.initial, weights_of(layer), batch.steps, noise)
    names = GATE_NAMES.get(stack.kind, ())
    return tuple(
        Trace(
            place // stack.directions,
            place % stack.directions == 1,
            names,
            s.gates,
            s.cell,
            s.hidden,
            lengths,
        )
        for place, s in enumerate(found)
    )


def leaf(layer: torch.nn.Module, input: Any, hx: Any, **options: Any) -> Any:
    """The call of this layer as one node of the graph that `torch.fx` records, as torch's own layers are."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    path = input.tracer.path_of_module(layer)
    return input.tracer.create_proxy("call_module", path, (input, hx), given)


def twin(layer: torch.nn.Module) -> torch.nn.Module:
    """torch's layer on the very same weights, which `torch.jit.script` compiles in this one's place.

    Raises ValueError for a layer with learned initial states.
    """
    refuse_learned(layer)
    kind = next(base for base in type(layer).__mro__ if base.__module__.startswith("torch.nn.modules"))
    plain: torch.nn.Module = torch.nn.Module.__new__(kind)
    plain.__dict__ = layer.__dict__.copy()
    return plain


def quick(layer: torch.nn.RNNBase, input: Any, hx: Any, recompute: bool) -> tuple[Any, ...] | None:
    """Output and final states of a plain batch in float32 on a CPU, the call that is made most.

    None for every other one, so that nothing is decided here: `batch_of` and `run` know what to do.
    """
    if type(input) is not Tensor or torch.compiler.is_compiling() or torch_must() or transformed():
        return None
    if native.kernels() is None:
        return None
    if is_noisy(layer) or (layer.num_layers > 1 and (recompute or (layer.training and layer.dropout > 0))):
        return None
    states: Any = ()
    if hx is not None:
        states = hx if layer.has_cell_state else (hx,)
        if type(states) is not tuple or not states or not all(type(s) is Tensor for s in states):
            return None
    stack, shape = stack_of(layer), input.shape
    if not torch.is_grad_enabled() and layer.num_layers == 1 and 1 in shape[:-1]:
        stepped = one_step(layer, stack, input, states)
        if stepped is not None:
            return stepped
    if len(shape) != 3 or shape[2] != layer.input_size or 0 in shape:
        return None
    if states:
        places, rows = stack.depth * stack.directions, shape[0 if layer.batch_first else 1]
        if states[0].shape != (places, rows, stack.state):
            return None
        if layer.has_cell_state and (len(states) != 2 or states[1].shape != (places, rows, stack.cell_size)):
            return None
    return scan_natively(stack, input, states, weights_of(layer), Steps(), recompute)


def one_step(layer: torch.nn.RNNBase, stack: Stack, input: Tensor, states: Any) -> tuple[Any, ...] | None:
    """One step of a few rows in one layer and direction, outside of autograd: output and final states."""
    if stack.directions > 1 or stack.projection or input.shape[-1] != layer.input_size:
        return None
    return step(stack, input, states, weights_of(layer), layer=True)
