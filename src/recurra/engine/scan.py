"""Runs a stack of recurrent layers: by the native engine where it can, else by the plain twin.

`scan` is the one door. It chooses between three ways, which give the same numbers:

* the native engine, for float32 on a CPU; bfloat16 goes through it in float32;
* `plain`, the cells of `recurra.engine.cells` in Python, for everything else: other dtypes and devices,
  `vmap`, forward-mode differentiation, and no engine;
* for the gradient of a gradient (`create_graph=True`), native forward and plain backward.

Inside a graph that torch compiles or exports, the native engine is one operator (`recurra.engine.op`).

Axes: N batch, T time, F features, H hidden, P projection (H where there is none), L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from recurra.engine import native, plain
from recurra.engine.call import call
from recurra.engine.noise import Noise
from recurra.engine.op import scan_in_graph
from recurra.engine.stack import Stack, Steps


def scan(
    stack: Stack,
    x: Tensor,
    initial: Sequence[Tensor],
    weights: Sequence[Tensor],
    steps: Steps,
    recompute: bool = False,
    noise: Noise | None = None,
) -> tuple[Tensor, ...]:
    """The output and the final states, h_n and for an LSTM c_n.

    x: (N, T, F), or (T, N, F) unless `stack.batch_first`, or (entries, F) with batch_sizes.
    initial: h_0 (L·D, N, P) and for an LSTM c_0 (L·D, N, H), or nothing, for zeros.
    weights: L·D times `stack.weights_each`, torch's. Output: as x, with D·P in place of F.
    recompute: keep no gates for backward, which then runs forward a second time: less memory, more time.
    noise: zoneout and recurrent dropout.
    Raises ValueError for shapes that do not fit, before any memory is touched.
    """
    if torch.compiler.is_compiling():
        if x.device.type == "cpu" and native.available():
            if x.dtype == torch.float32:
                return scan_in_graph(stack, x, initial, weights, steps, noise)
            if x.dtype == torch.bfloat16:
                return _in_float32(stack, x, initial, weights, steps, recompute, noise)
        return plain.run(stack, x, initial, weights, steps, noise)
    if native.kernels() is not None and not transformed():
        found = scan_natively(stack, x, initial, weights, steps, recompute, noise)
        if found is not None:
            return found
        if x.dtype == torch.bfloat16 and runs_natively(x, *initial, *weights):
            return _in_float32(stack, x, initial, weights, steps, recompute, noise)
    return plain.run(stack, x, initial, weights, steps, noise)


def scan_natively(
    stack: Stack,
    x: Tensor,
    initial: Sequence[Tensor],
    weights: Sequence[Tensor],
    steps: Steps,
    recompute: bool,
    noise: Noise | None = None,
) -> tuple[Tensor, ...] | None:
    """What `scan` returns, by the native engine, or None where it cannot read one of the tensors.

    To be asked only where there is an engine, and outside of function transforms and graphs.
    """
    made = call(stack, x, initial, weights, steps, noise)
    if made is None:
        return None
    if torch.is_grad_enabled() and made.requires_grad:
        return cast(
            tuple[Tensor, ...],
            _Scan.apply((made, stack, steps, noise, len(initial)), recompute, x, *initial, *weights),  # type: ignore[no-untyped-call]
        )
    return cast(tuple[Tensor, ...], made.forward(False))


def _in_float32(
    stack: Stack,
    x: Tensor,
    initial: Sequence[Tensor],
    weights: Sequence[Tensor],
    steps: Steps,
    recompute: bool,
    noise: Noise | None,
) -> tuple[Tensor, ...]:
    """bfloat16 where there are no kernels for it, or not for these sizes."""
    states, weights = [s.float() for s in initial], [w.float() for w in weights]
    return tuple(t.bfloat16() for t in scan(stack, x.float(), states, weights, steps, recompute, noise))


def runs_natively(x: Tensor, *others: Tensor) -> bool:
    """Whether the native engine can do it: float32 or bfloat16 on a CPU, outside function transforms."""
    if native.kernels() is None or x.dtype not in (torch.float32, torch.bfloat16):
        return False
    if transformed():
        return False
    dtype = x.dtype
    for tensor in (x, *others):
        # the type first: of some subclasses nothing else may be asked
        if type(tensor) not in _PLAIN_TYPES or tensor.dtype is not dtype or not tensor.is_cpu:
            return False
        if tensor.layout is not torch.strided:
            return False
    return True


def transformed() -> bool:
    """Whether a function transform is under way, such as `vmap`: then the plain twin does the work."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


class _Scan(torch.autograd.Function):
    """Autograd's view of a call. Asked for a graph of the gradient, it differentiates the plain twin."""

    @staticmethod
    def forward(ctx: Any, told: tuple[Any, ...], recompute: bool, *tensors: Tensor) -> Any:
        ctx.call, *ctx.plainly, ctx.states = told  # a stack, steps and noise for the plain twin
        results = ctx.call.forward(not recompute)
        kept = () if recompute else ctx.call.kept()
        ctx.call.let_go()
        ctx.count = len(kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*kept, *tensors)
        return results

    @staticmethod
    def backward(ctx: Any, *d_results: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        saved, count, states = ctx.saved_tensors, ctx.count, ctx.states
        inputs = saved[count], saved[count + 1 : count + 1 + states], saved[count + 1 + states :]
        if torch.is_grad_enabled():
            return None, None, *_plain_gradients(ctx.plainly, inputs, d_results, wanted)
        again = ctx.call.on(*inputs)
        kept = saved[:count]
        if not kept:
            again.forward(True)
            kept = again.kept()
        return None, None, *again.backward(kept, d_results[0], d_results[1:], wanted)


def _plain_gradients(
    told: tuple[Stack, Steps, Noise | None],
    inputs: tuple[Tensor, Sequence[Tensor], Sequence[Tensor]],
    d_results: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, through the plain twin. inputs: x, initial, weights."""
    # views, so that a tensor given twice is differentiated once in each of its places
    x, *others = [tensor.view_as(tensor) for tensor in (inputs[0], *inputs[1], *inputs[2])]
    initial, weights = others[: len(inputs[1])], others[len(inputs[1]) :]
    stack, steps, noise = told
    results = plain.run(stack, x, initial, weights, steps, noise)
    given = [(r, d) for r, d in zip(results, d_results, strict=True) if d is not None and r.requires_grad]
    gradients = iter(
        torch.autograd.grad(
            [r for r, _ in given],
            [t for t, want in zip((x, *initial, *weights), wanted, strict=True) if want],
            [d for _, d in given],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(gradients) if want else None for want in wanted]
