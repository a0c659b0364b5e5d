"""What users do with torch's recurrent layers and cells, each as a function of the package that has them.

A case takes `torch.nn` or `recurra.nn` and the name of a class, and returns what there is to compare:
tensors, numbers, texts, in tuples, lists and dictionaries. test_torch_contract.py compares.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

N, T, F, H, P = 7, 9, 3, 5, 2
LAYERS = ("LSTM", "GRU", "RNN")
CELLS = ("LSTMCell", "GRUCell", "RNNCell")
Case = Callable[[Any, str], Any]
GIVEN: list[tuple[str, str, Case]] = []  # the class, the name of the case, and the case


def of(*kinds: str) -> Callable[[Case], Case]:
    """Adds a case to GIVEN for each of these classes."""

    def add(case: Case) -> Case:
        GIVEN.extend((kind, case.__name__, case) for kind in kinds)
        return case

    return add


def make(nn: Any, kind: str, *sizes: int, **options: Any) -> Any:
    """A layer or cell with the same weights whichever package it comes from."""
    with torch.random.fork_rng():
        torch.manual_seed(1109)
        return getattr(nn, kind)(*(sizes or (F, H)), **options)


def numbers(*shape: int, seed: int = 31) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def states(kind: str, *shape: int, seed: int = 77) -> Any:
    """h_0, or (h_0, c_0), each of this shape."""
    h, c = numbers(2, *shape, seed=seed).unbind()
    return (h, c) if kind.startswith("LSTM") else h


def packed(rows: Tensor | None = None, lengths: tuple[int, ...] = (4, 9, 1, 7, 7, 2, 9)) -> PackedSequence:
    return pack_padded_sequence(numbers(T, N, F) if rows is None else rows, lengths, enforce_sorted=False)


def tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if not isinstance(result, (tuple, list)):
        return []
    return [tensor for part in result for tensor in tensors(part)]


def gradients(module: Any, *arguments: Any, only: int | None = None, call: Any = None) -> Any:
    """Results, and what backward leaves at input, states and weights. No two results weigh the same."""
    inputs = [tensor.requires_grad_() for tensor in tensors(arguments)]
    results = tensors((call or module)(*arguments))
    chosen = results if only is None else [results[only]]
    torch.stack([(r * numbers(*r.shape, seed=5)).sum() for r in chosen]).sum().backward()
    return results, [tensor.grad for tensor in (*inputs, *module.parameters())]


def is_cell(kind: str) -> bool:
    return kind.endswith("Cell")


def usual(kind: str) -> tuple[Tensor, Any]:
    """An input and states for a module of one layer and direction."""
    if is_cell(kind):
        return numbers(N, F), states(kind, N, H)
    return numbers(T, N, F), states(kind, 1, N, H)


def results_of(module: Any, kind: str) -> Any:
    return module(*usual(kind))


def through_packing(layer: Any, kind: str) -> Any:
    """Results and gradients of a PackedSequence, for a stack of two layers and directions."""
    hx = states(kind, 4, N, H)

    def call(data: Tensor, *given: Tensor) -> Any:
        return layer(packed()._replace(data=data), given if kind == "LSTM" else given[0])

    return gradients(layer, packed().data.clone(), *tensors(hx), call=call)


def stacked(nn: Any, kind: str, **options: Any) -> Any:
    return make(nn, kind, num_layers=2, bidirectional=True, **options)


@of(*LAYERS, *CELLS)
def names_of_weights(nn: Any, kind: str) -> Any:
    module = make(nn, kind, bias=False) if is_cell(kind) else stacked(nn, kind, bias=False)
    full = make(nn, kind) if is_cell(kind) else stacked(nn, kind)
    return [
        [(name, tuple(value.shape)) for name, value in one.named_parameters()] for one in (module, full)
    ], repr(full)


@of(*LAYERS)
def flat_weights(nn: Any, kind: str) -> Any:
    layer = stacked(nn, kind)
    same = [own is named for own, named in zip(layer._flat_weights, layer.parameters(), strict=True)]
    return same, layer._flat_weights_names, layer._all_weights, layer.all_weights, len(layer.all_weights)


@of(*LAYERS)
def replaced_weight(nn: Any, kind: str) -> Any:
    layer = make(nn, kind)
    layer.weight_hh_l0 = torch.nn.Parameter(torch.zeros_like(layer.weight_hh_l0))
    layer.flatten_parameters()
    return layer._flat_weights[1] is layer.weight_hh_l0, gradients(layer, *usual(kind))


@of(*LAYERS)
def deleted_and_set_weight(nn: Any, kind: str) -> Any:
    """What weight_norm does: the parameter goes, a plain tensor that depends on another takes its name."""
    layer = make(nn, kind)
    raw = torch.nn.Parameter(layer.weight_hh_l0.detach().clone())
    del layer.weight_hh_l0
    layer.register_parameter("raw", raw)
    layer.weight_hh_l0 = raw * 2
    return gradients(layer, *usual(kind))


@of(*LAYERS, *CELLS)
def frozen_weights(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    for parameter in list(module.parameters())[::2]:
        parameter.requires_grad_(False)
    return gradients(module, *usual(kind))


@of(*LAYERS, *CELLS)
def all_frozen(nn: Any, kind: str) -> Any:
    module = make(nn, kind).requires_grad_(False)
    return module(*usual(kind)), gradients(module, *usual(kind))


@of(*LAYERS, *CELLS)
def evaluated(nn: Any, kind: str) -> Any:
    module = make(nn, kind).eval()
    return module.training, gradients(module, *usual(kind))


@of(*LAYERS)
def dropped(nn: Any, kind: str) -> Any:
    layer = stacked(nn, kind, dropout=0.4)
    layer(numbers(T, N, F))
    torch.manual_seed(606)
    found = gradients(layer, numbers(T, N, F))
    torch.manual_seed(607)
    return (
        found,
        gradients(layer, numbers(T, F)),
        through_packing(layer, kind),
        layer.eval()(numbers(T, N, F)),
        torch.rand(1),
    )


@of(*LAYERS, *CELLS)
def backward_twice(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    loss = tensors(results_of(module, kind))[0].square().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    return [parameter.grad for parameter in module.parameters()]


@of(*LAYERS, *CELLS)
def gradient_of_gradient(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    loss = tensors(results_of(module, kind))[0].square().sum()
    first = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
    torch.stack([gradient.square().sum() for gradient in first]).sum().backward()
    return [parameter.grad for parameter in module.parameters()]


@of(*LAYERS, *CELLS)
def one_result_only(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    count = len(tensors(results_of(module, kind)))
    found = []
    for which in range(count):
        module.zero_grad()
        found.append(copy.deepcopy(gradients(module, *usual(kind), only=which)[1]))
    return found


@of(*LAYERS, *CELLS)
def in_other_dtypes(nn: Any, kind: str) -> Any:
    module, (x, hx), found = make(nn, kind), usual(kind), []
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        module.to(dtype)
        given = tuple(h.to(dtype) for h in hx) if isinstance(hx, tuple) else hx.to(dtype)
        with torch.no_grad():
            found.append(
                (module(x.to(dtype), given), module(x.to(dtype)), str(next(module.parameters()).dtype))
            )
    return found


@of(*LAYERS, *CELLS)
def double_and_back(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    before = results_of(module, kind)
    module.double()
    x, _ = usual(kind)
    return before, module(x.double()), results_of(module.float(), kind)


@of(*LAYERS, *CELLS)
def on_meta(nn: Any, kind: str) -> Any:
    module = make(nn, kind, device="meta")
    x, hx = usual(kind)
    hx = tuple(h.to("meta") for h in hx) if isinstance(hx, tuple) else hx.to("meta")
    return module(x.to("meta"), hx), module(x.to("meta")), list(module.parameters())


@of(*LAYERS, *CELLS)
def made_empty_then_loaded(nn: Any, kind: str) -> Any:
    on_meta = make(nn, kind, device="meta", bias=False).to_empty(device="cpu")
    truth = make(nn, kind, bias=False).state_dict()
    on_meta.load_state_dict(truth, assign=True)
    return results_of(on_meta, kind), gradients(on_meta, *usual(kind))


@of(*CELLS)
def skipped_init(nn: Any, kind: str) -> Any:
    module = torch.nn.utils.skip_init(getattr(nn, kind), F, H)
    module.load_state_dict(make(nn, kind).state_dict())
    with torch.no_grad():
        return results_of(module, kind)


@of(*LAYERS, *CELLS)
def loaded_by_assigning(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    results_of(module, kind)
    fresh = {name: value * 2 for name, value in module.state_dict().items()}
    module.load_state_dict(fresh, assign=True)
    same = [parameter.data_ptr() == fresh[name].data_ptr() for name, parameter in module.named_parameters()]
    return same, gradients(module, *usual(kind))


@of(*LAYERS, *CELLS)
def loaded_leniently(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    found = module.load_state_dict({"bias": torch.zeros(1)}, strict=False)
    return found.missing_keys, found.unexpected_keys


@of(*LAYERS, *CELLS)
def saved_whole(nn: Any, kind: str) -> Any:
    module, file = make(nn, kind), io.BytesIO()
    with torch.no_grad():
        results_of(module, kind)
    torch.save(module, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    shallow = copy.copy(module)
    return type(again).__name__, gradients(again, *usual(kind)), gradients(shallow, *usual(kind)), repr(again)


@of(*LAYERS, *CELLS)
def copied_after_use(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    with torch.inference_mode():
        results_of(module, kind)
    twins = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0.25)
        return [results_of(twin, kind) for twin in twins], results_of(module, kind)


@of(*LAYERS, *CELLS)
def changed_in_every_way(nn: Any, kind: str) -> Any:
    """Weights that change between calls outside of autograd: nothing stale may be used."""
    module, found = make(nn, kind), []
    name = next(name for name, _ in module.named_parameters() if name.startswith("weight_hh"))
    with torch.no_grad():
        results_of(module, kind)
        getattr(module, name).data = getattr(module, name).data * 2
        found.append(results_of(module, kind))
        setattr(module, name, torch.nn.Parameter(getattr(module, name) - 1))
        found.append(results_of(module, kind))
        module.load_state_dict({key: value / 3 for key, value in module.state_dict().items()})
        found.append(results_of(module, kind))
        module.reset_parameters()
        torch.nn.utils.vector_to_parameters(
            numbers(sum(p.numel() for p in module.parameters())), module.parameters()
        )
        found.append(results_of(module, kind))
        module.share_memory()
        found.append((all(p.is_shared() for p in module.parameters()), results_of(module, kind)))
    return found


@of(*LAYERS, *CELLS)
def swapped_by_conversion(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    parameter = next(module.parameters())
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        results_of(module.double().float(), kind)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    return next(module.parameters()) is parameter, gradients(module, *usual(kind))


@of(*LAYERS, *CELLS)
def parametrized(nn: Any, kind: str) -> Any:
    class Doubled(torch.nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight * 2

    module = make(nn, kind)
    name = next(name for name, _ in module.named_parameters() if name.startswith("weight_hh"))
    torch.nn.utils.parametrize.register_parametrization(module, name, Doubled())
    found = gradients(module, *usual(kind))
    with torch.no_grad():
        outside = results_of(module, kind)
    twin, keys = results_of(copy.deepcopy(module), kind), list(module.state_dict())
    torch.nn.utils.parametrize.remove_parametrizations(module, name)
    return found, outside, keys, twin, results_of(module, kind), type(module).__name__


@of(*LAYERS, *CELLS)
def normed_weights(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    names = [name for name, _ in module.named_parameters() if name.startswith("weight")]
    for name in names:
        torch.nn.utils.parametrizations.weight_norm(module, name)
    found = gradients(module, *usual(kind)), list(module.state_dict())
    torch.nn.utils.parametrize.remove_parametrizations(module, names[0])
    return found, results_of(module, kind)


@of(*LAYERS, *CELLS)
def pruned(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    name = next(name for name, _ in module.named_parameters() if name.startswith("weight_hh"))
    prune.l1_unstructured(module, name, amount=0.4)
    found = gradients(module, *usual(kind)), list(module.state_dict())
    with torch.no_grad():
        outside = results_of(module, kind)
    prune.remove(module, name)
    return found, outside, results_of(module, kind)


@of(*LAYERS, *CELLS)
def in_autocast(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    with torch.autocast("cpu", torch.bfloat16):
        return gradients(module, *usual(kind))


@of(*LAYERS, *CELLS)
def input_is_a_parameter(nn: Any, kind: str) -> Any:
    x, hx = usual(kind)
    module = make(nn, kind)
    with torch.no_grad():
        outside = module(torch.nn.Parameter(x), hx)
    return outside, gradients(module, torch.nn.Parameter(x), hx)


@of(*LAYERS, *CELLS)
def strided(nn: Any, kind: str) -> Any:
    x, hx = usual(kind)
    shifted = torch.stack([x, x], dim=-1)[..., 0]
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)
    expanded = x[:1].expand_as(x)
    apart = tuple(torch.stack([h, h], -1)[..., 1] for h in tensors(hx))
    given = apart if isinstance(hx, tuple) else apart[0]
    module = make(nn, kind)
    with torch.no_grad():
        outside = [module(form, given) for form in (shifted, turned, expanded)]
    return outside, [module(form, given) for form in (shifted, turned, expanded)]


@of(*LAYERS, *CELLS)
def named_arguments(nn: Any, kind: str) -> Any:
    module, (x, hx) = make(nn, kind), usual(kind)
    return module(input=x), module(input=x, hx=None), module(x, hx=hx), module(hx=hx, input=x)


@of(*LAYERS, *CELLS)
def one_row(nn: Any, kind: str) -> Any:
    """The smallest sizes there are: N = T = 1, batched and not, inside and outside of autograd."""
    module = make(nn, kind, 1, 1)
    shapes = [(1,), (1, 1)] if is_cell(kind) else [(1, 1), (1, 1, 1)]
    found = [module(numbers(*shape)) for shape in shapes]
    with torch.inference_mode():
        return found, [[t.clone() for t in tensors(module(numbers(*shape)))] for shape in shapes]


@of(*LAYERS, *CELLS)
def no_rows(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    x = numbers(0, F) if is_cell(kind) else numbers(T, 0, F)
    hx = states(kind, 0, H) if is_cell(kind) else states(kind, 1, 0, H)
    with torch.no_grad():
        outside = module(x), module(x, hx)
    return outside, module(x), gradients(module, x, hx)


@of(*CELLS)
def no_features(nn: Any, kind: str) -> Any:
    """input_size 0: the recurrence alone."""
    module = make(nn, kind, 0, H)
    x = numbers(N, 0)
    with torch.no_grad():
        outside = module(x)
    return outside, module(x), repr(module)


@of(*LAYERS, *CELLS)
def inference_states(nn: Any, kind: str) -> Any:
    x, _ = usual(kind)
    module = make(nn, kind)
    with torch.inference_mode():
        first = module(x)
        hx = first if is_cell(kind) else first[1]
        again = module(x, hx)
        return [t.clone() for t in tensors((first, again))], [t.is_inference() for t in tensors(again)]


@of(*LAYERS, *CELLS)
def replicated(nn: Any, kind: str) -> Any:
    module = make(nn, kind)
    twin = module._replicate_for_data_parallel()
    for name, value in module.named_parameters():
        setattr(twin, name, value.detach().clone())
    return results_of(twin, kind)


@of(*LAYERS)
def packed_with_states(nn: Any, kind: str) -> Any:
    layer, hx = stacked(nn, kind), states(kind, 4, N, H)
    ordered = pack_padded_sequence(numbers(T, N, F), [9, 9, 7, 4, 3, 1, 1])
    with torch.no_grad():
        outside = layer(packed(), hx), layer(ordered, hx), layer(packed())
    return outside, layer(packed()), layer(ordered, hx), through_packing(layer, kind)


@of(*LAYERS)
def packed_of_one(nn: Any, kind: str) -> Any:
    layer = make(nn, kind)
    one = pack_padded_sequence(numbers(1, 1, F), [1])
    with torch.no_grad():
        outside = layer(one), layer(one, states(kind, 1, 1, H))
    return outside, layer(one)


@of("LSTM")
def projected(nn: Any, kind: str) -> Any:
    layer = stacked(nn, kind, proj_size=P)
    hx = numbers(4, N, P), numbers(4, N, H)
    with torch.no_grad():
        outside = layer(numbers(T, N, F), hx)
    return outside, gradients(layer, numbers(T, N, F), hx), layer(packed(), hx), list(layer.state_dict())


@of("LSTM")
def states_in_a_list(nn: Any, kind: str) -> Any:
    h, c = states(kind, 1, N, H)
    return make(nn, kind)(numbers(T, N, F), [h, c])


@of(*LAYERS)
def own_subclass(nn: Any, kind: str) -> Any:
    class Deeper(getattr(nn, kind)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(F, H, num_layers=2)
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, input: Tensor, hx: Any = None) -> Any:
            output, ends = super().forward(input * self.scale, hx)
            return output + 1, ends

    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = Deeper()
    return gradients(module, numbers(T, N, F)), list(module.state_dict())
