"""One call of the native engine: tensors checked once, then told to the engine as addresses and strides."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from recurra.engine import native
from recurra.engine.stack import GATES, KINDS, Stack, Steps

# Below this many floating-point operations a second thread costs more than it saves.
ONE_THREAD = 400_000
# With few rows the threads meet after every step, so each step must be worth it.
ONE_THREAD_A_STEP = 150_000

Kept: TypeAlias = tuple[Tensor, list[Tensor], Tensor, Tensor]
_float32 = torch.float32
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class _Plan(NamedTuple):
    """What follows from a stack and its number of features, worked out once."""

    kind: int
    cells: int  # L·D
    output: int  # D·P
    states: tuple[tuple[str, int], ...]  # name and size of each state
    weights: tuple[tuple[str, tuple[int, ...]], ...]  # name and shape of each weight
    operations: int  # floating-point operations of one step of one row


@lru_cache(maxsize=512)
def _plan(stack: Stack, features: int) -> _Plan:
    kind = KINDS.index(stack.kind)
    gates = GATES[kind] * stack.hidden
    weights: list[tuple[str, tuple[int, ...]]] = []
    below, operations = features, 0
    for layer in range(stack.depth):
        for _direction in range(stack.directions):
            each: list[tuple[str, tuple[int, ...]]] = [("w_ih", (gates, below))]
            each += [("w_hh", (gates, stack.state))]
            each += [("b_ih", (gates,)), ("b_hh", (gates,))] if stack.bias else []
            each += [("w_hr", (stack.projection, stack.hidden))] if stack.projection else []
            weights += [(f"{name} of layer {layer}", shape) for name, shape in each]
            operations += 2 * gates * (below + stack.state) + 2 * stack.projection * stack.hidden
        below = stack.directions * stack.state
    states = (("h_0", stack.state), ("c_0", stack.hidden))[: 2 if kind == 0 else 1]
    return _Plan(kind, stack.depth * stack.directions, below, states, tuple(weights), operations)


class Call:
    """One call of the engine: checked tensors, and the numbers that tell the engine where they lie."""

    def __init__(
        self,
        stack: Stack,
        x: Tensor,
        initial: Sequence[Tensor],
        weights: Sequence[Tensor],
        steps: Steps,
        room_for_all: bool = False,
    ) -> None:
        """room_for_all: keep gates in N·T places, though lengths need fewer: so shapes are known ahead.

        Raises ValueError for what does not fit.
        """
        self.stack, self.steps, self.kernels = stack, steps, native.kernels()
        self.packed = steps.batch_sizes is not None
        if x.dim() != (2 if self.packed else 3):
            expected = "(entries, F)" if self.packed else "(N, T, F) or (T, N, F)"
            raise ValueError(f"x: expected {expected}, got {tuple(x.shape)}; give it that shape")
        self.plan = _plan(stack, x.shape[-1])
        self.time_axis = 1 if stack.batch_first else 0
        self._schedule(x, steps)
        self.places = self.rows * self.length if room_for_all else self.schedule.entries
        self.take(x, initial, weights)
        self._check_shapes()
        self.threads = self._threads()
        self.kept: Kept | None = None

    def _threads(self) -> int:
        threads = torch.get_num_threads()
        few_rows = self.rows < 4 * threads
        little = self.plan.operations * self.rows < ONE_THREAD_A_STEP if few_rows else False
        return 1 if little or self.plan.operations * self.schedule.entries < ONE_THREAD else threads

    def _schedule(self, x: Tensor, steps: Steps) -> None:
        """Sets schedule, rows (N), length (T) and resets."""
        if steps.batch_sizes is None:
            self.rows, self.length = x.shape[1 - self.time_axis], x.shape[self.time_axis]
            lengths = steps.lengths
            if lengths is not None:
                if lengths.dtype not in _WHOLE:
                    raise ValueError(f"lengths: expected whole numbers, got {lengths.dtype}; use .long()")
                lengths = lengths.to("cpu", torch.int64).contiguous()
                _expect("lengths", lengths, (self.rows,))
            self.schedule: Any = native.schedule(self.rows, self.length, lengths)
        else:
            sizes = steps.batch_sizes.to("cpu", torch.int64).contiguous()
            sound = sizes.dim() == 1 and len(sizes) > 0 and steps.batch_sizes.dtype in _WHOLE
            if not sound or sizes.min() < 1:
                raise ValueError(
                    f"batch_sizes: expected (T,) whole numbers of at least 1, got {steps.batch_sizes}; "
                    "make the PackedSequence with pack_padded_sequence"
                )
            if sizes.max() > x.shape[0] or sizes.sum() != x.shape[0]:
                raise ValueError(
                    f"x: expected {int(sizes.sum())} rows, the sum of batch_sizes, got {x.shape[0]}; "
                    "make the PackedSequence anew with pack_padded_sequence"
                )
            self.schedule = native.packed_schedule(sizes)
            self.rows, self.length = self.schedule.rows, len(sizes)
        self.resets = steps.resets
        if self.resets is not None:
            # a copy, for backward reads them again, and autograd does not watch them
            self.resets = self.resets.to("cpu", torch.bool, copy=True).contiguous()
            _expect("resets", self.resets, (self.rows, self.length))

    def take(self, x: Tensor, initial: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        """Takes hold of the inputs, copied where the engine could not read them as they lie."""
        x = x.resolve_neg()
        strides = x.stride()
        self.x = x if strides[-1] == 1 and min(strides) >= 0 else x.contiguous()
        self.initial = [state.resolve_neg().contiguous() for state in initial]
        self.weights = [weight.resolve_neg().contiguous() for weight in weights]

    def let_go(self) -> None:
        """Lets the inputs go: autograd keeps them, and knows when they change."""
        del self.x, self.initial, self.weights

    def _check_shapes(self) -> None:
        plan = self.plan
        if len(self.initial) not in (0, len(plan.states)):
            names = ", ".join(name for name, _ in plan.states)
            raise ValueError(f"initial: expected {names} or none, got {len(self.initial)}; give each")
        if len(self.weights) != len(plan.weights):
            raise ValueError(
                f"weights: expected {len(plan.weights)}, got {len(self.weights)}; give them in torch's order"
            )
        for (name, size), state in zip(plan.states, self.initial, strict=False):
            _expect(name, state, (plan.cells, self.rows, size))
        for (name, shape), weight in zip(plan.weights, self.weights, strict=True):
            if weight.shape != shape:
                _expect(name, weight, shape)

    def forward(self, keep: bool) -> tuple[Tensor, ...]:
        """Output and final states. With keep, `self.kept` afterwards holds what backward and traces need:
        the output, what lies between the layers, and gates and cell states (L·D, entries, …).
        """
        stack, plan = self.stack, self.plan
        output = torch.empty(*self.x.shape[:-1], plan.output, dtype=_float32)
        between = [self._between() for _ in range(stack.depth - 1)]
        finals = [torch.empty(plan.cells, self.rows, size, dtype=_float32) for _, size in plan.states]
        gates_at = cell_at = gates_step = cell_step = 0
        if keep:
            widths = (
                self.kernels.gates_width(plan.kind, stack.hidden),
                self.kernels.cell_width(plan.kind, stack.hidden),
            )
            gates, cell = (torch.empty(plan.cells, self.places, width, dtype=_float32) for width in widths)
            gates_at, cell_at = gates.data_ptr(), cell.data_ptr()
            gates_step, cell_step = 4 * gates.stride(0), 4 * cell.stride(0)
            self.kept = (output, between, gates, cell)
        numbers = self._header()
        inputs, ends = self._inputs(), _places(finals, plan.cells)
        for layer in range(stack.depth):
            x = between[layer - 1] if layer else self.x
            numbers += [x.shape[-1], *self._view(x)]
            numbers += self._view(output if layer == stack.depth - 1 else between[layer])
            for place in range(layer * stack.directions, (layer + 1) * stack.directions):
                numbers += inputs[place]
                numbers += ends[place]
                numbers += (gates_at + place * gates_step, cell_at + place * cell_step)
        self.kernels.forward(self.schedule, keep, numbers)
        return output, *finals

    def _between(self) -> Tensor:
        """Room for what one layer hands to the next: time by time, whatever the caller's order."""
        if self.packed:
            return torch.empty(self.schedule.entries, self.plan.output, dtype=_float32)
        room = torch.empty(self.length, self.rows, self.plan.output, dtype=_float32)
        return room.transpose(0, 1) if self.stack.batch_first else room

    def _header(self) -> list[int]:
        s = self.stack
        resets = 0 if self.resets is None else self.resets.data_ptr()
        options = (self.threads, int(self.steps.reset_to_initial), resets)
        return [self.plan.kind, s.hidden, s.projection, s.directions, s.depth, *options]

    def _view(self, tensor: Tensor | None) -> tuple[int, int, int]:
        """Where a tensor's (row, step) lies: address, row stride, step stride."""
        if tensor is None:
            return 0, 0, 0
        strides = tensor.stride()
        if self.packed:
            return tensor.data_ptr(), strides[0], strides[0]
        return tensor.data_ptr(), strides[1 - self.time_axis], strides[self.time_axis]

    def _inputs(self) -> list[list[int]]:
        """For each cell the addresses of w_ih, w_hh, b_ih, b_hh, w_hr, h_0 and c_0."""
        initial = _places(self.initial, self.plan.cells)
        weights = self._by_cell([weight.data_ptr() for weight in self.weights])
        return [own + states for own, states in zip(weights, initial, strict=True)]

    def _by_cell(self, addresses: list[int]) -> list[list[int]]:
        """Addresses of all weights, or of their gradients, as five for each cell."""
        each = self.stack.weights_each
        found = []
        for first in range(0, len(addresses), each):
            own = addresses[first : first + each]
            w_hr = own.pop() if self.stack.projection else 0
            found.append([*own, w_hr] if self.stack.bias else [*own, 0, 0, w_hr])
        return found

    def backward(
        self,
        saved: Sequence[Tensor],
        d_output: Tensor | None,
        d_finals: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """Gradients of x, the initial states and the weights, where `wanted`, None elsewhere.

        saved: output, what lay between the layers, gates and cell states, as forward kept them.
        """
        stack, plan, states = self.stack, self.plan, len(self.initial)
        output, *between, gates, cell = saved
        d_output = None if d_output is None else d_output.contiguous()
        d_ends = [None if d is None else d.contiguous() for d in d_finals]
        inputs = (self.x, *self.initial, *self.weights)
        made = [
            torch.empty(t.shape, dtype=_float32) if want else None
            for t, want in zip(inputs, wanted, strict=True)
        ]
        numbers, given = self._header(), self._inputs()
        ends, begins = _places(d_ends, plan.cells), _places(made[1 : 1 + states], plan.cells)
        weights = self._by_cell([0 if d is None else d.data_ptr() for d in made[1 + states :]])
        gates_at, cell_at = gates.data_ptr(), cell.data_ptr()
        gates_step, cell_step = 4 * gates.stride(0), 4 * cell.stride(0)
        for layer in range(stack.depth):
            x = between[layer - 1] if layer else self.x
            top = layer == stack.depth - 1
            numbers += [x.shape[-1], *self._view(x), *self._view(output if top else between[layer])]
            numbers += [*self._view(None if layer else made[0]), *self._view(d_output if top else None)]
            for place in range(layer * stack.directions, (layer + 1) * stack.directions):
                numbers += [*given[place], 0, 0, gates_at + place * gates_step, cell_at + place * cell_step]
                numbers += [*ends[place], *weights[place], *begins[place]]
        self.kernels.backward(self.schedule, numbers)
        return made


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}; give it that shape")


def _places(states: Sequence[Tensor | None], cells: int) -> list[list[int]]:
    """For each of the L·D cells the addresses of h and c in (L·D, N, size) each; 0 where there is none."""
    starts, strides = [0, 0], [0, 0]
    for which, state in enumerate(states):
        if state is not None:
            starts[which], strides[which] = state.data_ptr(), 4 * state.stride(0)
    (h, c), (h_step, c_step) = starts, strides
    return [[h + place * h_step, c + place * c_step] for place in range(cells)]
