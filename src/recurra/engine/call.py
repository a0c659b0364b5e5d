"""One call of the native engine: tensors checked once, then told to the engine as addresses and strides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from recurra.engine import native
from recurra.engine.stack import GATES, KINDS, Stack, Steps

# Below this many floating-point operations a second thread costs more than it saves.
ONE_THREAD = 400_000


Kept: TypeAlias = tuple[Tensor, list[Tensor], Tensor, Tensor]


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
        """room_for_all: keep gates in N·T places, though lengths need fewer: so shapes are known ahead."""
        self.stack, self.steps, self.kernels = stack, steps, native.kernels()
        self.kind = KINDS.index(stack.kind)
        self.take(x, initial, weights)
        self.time_axis = 1 if stack.batch_first else 0
        if steps.batch_sizes is None:
            rows, length = x.shape[1 - self.time_axis], x.shape[self.time_axis]
            lengths = steps.lengths
            if lengths is not None:
                lengths = lengths.to("cpu", torch.int64).contiguous()
                _expect("lengths", lengths, (rows,))
            self.schedule = native.schedule(rows, length, lengths)
        else:
            self.schedule = native.packed_schedule(steps.batch_sizes.contiguous())
            rows, length = self.schedule.rows, len(steps.batch_sizes)
        self.rows, self.length = rows, length
        self.resets = steps.resets
        if self.resets is not None:
            self.resets = self.resets.to("cpu", torch.bool).contiguous()
            _expect("resets", self.resets, (rows, length))
        self.kept: Kept | None = None
        self.places = rows * length if room_for_all else self.schedule.entries
        self._check_shapes()
        self.threads = self._threads()

    def take(self, x: Tensor, initial: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        """Takes hold of the inputs, copied where the engine could not read them as they lie."""
        self.x = x if x.stride(-1) == 1 and min(x.stride()) >= 0 else x.contiguous()
        self.initial = [state.contiguous() for state in initial]
        self.weights = [weight.contiguous() for weight in weights]

    def let_go(self) -> None:
        """Lets the inputs go: autograd keeps them, and knows when they change."""
        del self.x, self.initial, self.weights

    def _check_shapes(self) -> None:
        stack, gates = self.stack, GATES[self.kind] * self.stack.hidden
        packed = self.steps.batch_sizes is not None
        if self.x.dim() != (2 if packed else 3):
            raise ValueError(
                f"x: expected {2 if packed else 3} dimensions, got {tuple(self.x.shape)}; reshape it"
            )
        if packed and self.x.shape[0] != self.schedule.entries:
            raise ValueError(
                f"x: expected {self.schedule.entries} rows, the sum of batch_sizes, got {self.x.shape[0]}; "
                "make the PackedSequence anew with pack_padded_sequence"
            )
        cells_of_stack = stack.depth * stack.directions
        names = ("h_0", "c_0")[: 2 if stack.kind == "lstm" else 1]
        if len(self.initial) not in (0, len(names)):
            raise ValueError(
                f"initial: expected {', '.join(names)}, got {len(self.initial)} states; give each"
            )
        for name, state, size in zip(names, self.initial, (stack.state, stack.hidden), strict=False):
            _expect(name, state, (cells_of_stack, self.rows, size))
        if len(self.weights) != cells_of_stack * stack.weights_each:
            raise ValueError(
                f"weights: expected {cells_of_stack} times {stack.weights_each}, got {len(self.weights)}; "
                "give them in torch's order"
            )
        below = self.x.shape[-1]
        for place in range(cells_of_stack):
            if place and place % stack.directions == 0:
                below = stack.directions * stack.state
            w = self._weights_of(place)
            _expect(f"w_ih of layer {place // stack.directions}", w[0], (gates, below))
            _expect(f"w_hh of layer {place // stack.directions}", w[1], (gates, stack.state))
            for bias in w[2 : 2 + 2 * stack.bias]:
                _expect(f"bias of layer {place // stack.directions}", bias, (gates,))
            if stack.projection:
                _expect(f"w_hr of layer {place // stack.directions}", w[-1], (stack.projection, stack.hidden))

    def _threads(self) -> int:
        stack = self.stack
        below = max(self.x.shape[-1], stack.directions * stack.state * (stack.depth > 1))
        operations = 2 * self.schedule.entries * GATES[self.kind] * stack.hidden * (below + stack.state)
        return 1 if operations * stack.directions < ONE_THREAD else torch.get_num_threads()

    def _weights_of(self, place: int) -> list[Tensor]:
        each = self.stack.weights_each
        return self.weights[place * each : (place + 1) * each]

    def forward(self, keep: bool) -> tuple[Tensor, ...]:
        """Output and final states. With keep, `self.kept` afterwards holds what backward and traces need:
        the output, what lies between the layers, and gates and cell states (L·D, entries, …).
        """
        stack, places = self.stack, self.stack.depth * self.stack.directions
        size = stack.directions * stack.state
        output = torch.empty(*self.x.shape[:-1], size, dtype=torch.float32)
        between = [self._between(size) for _ in range(stack.depth - 1)]
        sizes = (stack.state, stack.hidden)[: 2 if stack.kind == "lstm" else 1]
        finals = [torch.empty(places, self.rows, size, dtype=torch.float32) for size in sizes]
        gates = cell = None
        if keep:
            gates, cell = (self._kept(width(self.kind, stack.hidden)) for width in self._widths())
        numbers = self._header()
        for layer in range(stack.depth):
            x = between[layer - 1] if layer else self.x
            y = output if layer == stack.depth - 1 else between[layer]
            numbers.append(x.shape[-1])
            self._view(numbers, x)
            self._view(numbers, y)
            for place in range(layer * stack.directions, (layer + 1) * stack.directions):
                self._inputs(numbers, place)
                numbers += [_at(finals, 0, place), _at(finals, 1, place)]
                numbers += (
                    [gates[place].data_ptr(), cell[place].data_ptr()]
                    if gates is not None and cell is not None
                    else [0, 0]
                )
        self.kernels.forward(self.schedule, keep, numbers)
        self.kept = (output, between, gates, cell) if gates is not None and cell is not None else None
        return output, *finals

    def _widths(self) -> tuple[Callable[[int, int], int], Callable[[int, int], int]]:
        return self.kernels.gates_width, self.kernels.cell_width

    def _kept(self, width: int) -> Tensor:
        places = self.stack.depth * self.stack.directions
        return torch.empty(places, self.places, width, dtype=torch.float32)

    def _between(self, size: int) -> Tensor:
        """Room for what one layer hands to the next: time by time, whatever the caller's order."""
        if self.steps.batch_sizes is not None:
            return torch.empty(self.schedule.entries, size, dtype=torch.float32)
        room = torch.empty(self.length, self.rows, size, dtype=torch.float32)
        return room.transpose(0, 1) if self.stack.batch_first else room

    def _header(self) -> list[int]:
        s = self.stack
        resets = 0 if self.resets is None else self.resets.data_ptr()
        return [
            self.kind,
            s.hidden,
            s.projection,
            s.directions,
            s.depth,
            self.threads,
            int(self.steps.reset_to_initial),
            resets,
        ]

    def _view(self, numbers: list[int], tensor: Tensor | None) -> None:
        """Appends where a tensor's (row, step) lies: address, row stride, step stride."""
        if tensor is None:
            numbers += [0, 0, 0]
        elif self.steps.batch_sizes is not None:
            numbers += [tensor.data_ptr(), tensor.stride(0), tensor.stride(0)]
        else:
            numbers += [tensor.data_ptr(), tensor.stride(1 - self.time_axis), tensor.stride(self.time_axis)]

    def _inputs(self, numbers: list[int], place: int) -> None:
        weights = [w.data_ptr() for w in self._weights_of(place)]
        w_hr = weights.pop() if self.stack.projection else 0
        numbers += weights if self.stack.bias else [*weights, 0, 0]
        numbers += [w_hr, _at(self.initial, 0, place), _at(self.initial, 1, place)]

    def backward(
        self,
        saved: Sequence[Tensor | None],
        d_output: Tensor | None,
        d_finals: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """Gradients of x, the initial states and the weights, where `wanted`, None elsewhere.

        saved: output, what lay between the layers, gates and cell states, as forward kept them.
        """
        stack = self.stack
        output, *between, gates, cell = saved
        assert gates is not None
        assert cell is not None
        d_output = None if d_output is None else d_output.contiguous()
        finals = [None if d is None else d.contiguous() for d in d_finals]
        inputs = [self.x, *self.initial, *self.weights]
        d_inputs = [
            torch.empty(t.shape, dtype=torch.float32) if want else None
            for t, want in zip(inputs, wanted, strict=True)
        ]
        d_x, d_initial, d_weights = (
            d_inputs[0],
            d_inputs[1 : 1 + len(self.initial)],
            d_inputs[1 + len(self.initial) :],
        )
        numbers = self._header()
        for layer in range(stack.depth):
            x = between[layer - 1] if layer else self.x
            assert x is not None
            numbers.append(x.shape[-1])
            self._view(numbers, x)
            self._view(numbers, output if layer == stack.depth - 1 else between[layer])
            self._view(numbers, None if layer else d_x)
            self._view(numbers, d_output if layer == stack.depth - 1 else None)
            for place in range(layer * stack.directions, (layer + 1) * stack.directions):
                self._inputs(numbers, place)
                numbers += [0, 0, gates[place].data_ptr(), cell[place].data_ptr()]
                numbers += [_at(finals, 0, place), _at(finals, 1, place)]
                each = stack.weights_each
                d_w = [_address(d) for d in d_weights[place * each : (place + 1) * each]]
                d_w_hr = d_w.pop() if stack.projection else 0
                numbers += d_w if stack.bias else [*d_w, 0, 0]
                numbers += [d_w_hr, _at(d_initial, 0, place), _at(d_initial, 1, place)]
        self.kernels.backward(self.schedule, numbers)
        return d_inputs


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}; give it that shape")


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _at(tensors: Sequence[Tensor | None], which: int, place: int) -> int:
    """The address of tensor `which` at one layer and direction; 0 where there is no such tensor."""
    if which >= len(tensors):
        return 0
    tensor = tensors[which]
    return 0 if tensor is None else tensor.data_ptr() + place * tensor.stride(0) * 4
