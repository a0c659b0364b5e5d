"""Runs a stack of recurrent layers: by the native engine where it can, else by the plain twin.

`scan` is the one door. It chooses between three ways, which give the same numbers:

* the native engine, for float32 on a CPU; bfloat16 goes through it in float32;
* `plain`, the cells of `recurra.engine.cells` in Python, for everything else: other dtypes and devices,
  `vmap`, forward-mode differentiation, and no engine;
* for the gradient of a gradient (`create_graph=True`), native forward and plain backward.

Axes: N batch, T time, F features, H hidden, P projection (H where there is none), L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from recurra.engine import native, plain
from recurra.engine.call import Call
from recurra.engine.stack import Stack, Steps


def scan(
    stack: Stack, x: Tensor, initial: Sequence[Tensor], weights: Sequence[Tensor], steps: Steps
) -> tuple[Tensor, ...]:
    """The output and the final states, h_n and for an LSTM c_n.

    x: (N, T, F), or (T, N, F) unless `stack.batch_first`, or (entries, F) with batch_sizes.
    initial: h_0 (L·D, N, P) and for an LSTM c_0 (L·D, N, H), or nothing, for zeros.
    weights: L·D times `stack.weights_each`, torch's. Output: as x, with D·P in place of F.
    Raises ValueError for shapes that do not fit, before any memory is touched.
    """
    if not runs_natively(x, *initial, *weights):
        return plain.run(stack, x, initial, weights, steps)
    if x.dtype == torch.bfloat16:
        wide = scan(stack, x.float(), [s.float() for s in initial], [w.float() for w in weights], steps)
        return tuple(t.bfloat16() for t in wide)
    call = Call(stack, x, initial, weights, steps)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *initial, *weights)):
        return cast(tuple[Tensor, ...], _Scan.apply(call, x, *initial, *weights))  # type: ignore[no-untyped-call]
    return call.forward(keep=False)


def runs_natively(x: Tensor, *others: Tensor) -> bool:
    """Whether the native engine can do it: float32 or bfloat16 on a CPU, outside function transforms."""
    if native.kernels() is None or x.dtype not in (torch.float32, torch.bfloat16):
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    dtype = x.dtype
    for tensor in (x, *others):
        if tensor.dtype != dtype or tensor.device.type != "cpu" or type(tensor) not in _PLAIN_TYPES:
            return False
    return True


_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


class _Scan(torch.autograd.Function):
    """Autograd's view of a call. Asked for a graph of the gradient, it differentiates the plain twin."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        results = call.forward(keep=True)
        assert call.kept is not None
        output, between, gates, cell = call.kept
        call.kept = None
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output, *between, gates, cell, *tensors)
        return results

    @staticmethod
    def backward(ctx: Any, *d_results: Tensor | None) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        kept = call.stack.depth + 2  # the outputs of all layers, gates, cell states
        wanted = ctx.needs_input_grad[1:]
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, *_plain_gradients(call, tensors[kept:], d_results, wanted))
        return (None, *call.backward(tensors[:kept], d_results[0], d_results[1:], wanted))


def _plain_gradients(
    call: Call, inputs: Sequence[Tensor], d_results: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, through the plain twin."""
    states = len(call.initial)
    results = plain.run(call.stack, inputs[0], inputs[1 : 1 + states], inputs[1 + states :], call.steps)
    given = [(r, d) for r, d in zip(results, d_results, strict=True) if d is not None and r.requires_grad]
    gradients = iter(
        torch.autograd.grad(
            [r for r, _ in given],
            [t for t, want in zip(inputs, wanted, strict=True) if want],
            [d for _, d in given],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(gradients) if want else None for want in wanted]
