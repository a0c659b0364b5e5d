"""accelerate and restore: models in the manner of popular libraries, and all that may cling to a layer."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

import recurra.nn
from recurra.engine import native
from recurra.errors import ArgumentError
from recurra.nn.accelerate import Swap, accelerate, restore

NAMES = ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"]
every_name = pytest.mark.parametrize("name", NAMES)


class Tagger(nn.Module):
    """As flair tags: embeddings, a packed bidirectional LSTM and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.shapes, self.reproject = nn.Embedding(63, 7), nn.Embedding(7, 3), nn.Linear(10, 10)
        self.rnn = nn.LSTM(10, 33, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(66, 7)
        self.register_buffer("tag_weights", torch.rand(7) + 0.5)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """words (N, T): scores (N, T, K)."""
        x = self.reproject(torch.cat((self.words(words), self.shapes(words % 7)), dim=2))
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=words.shape[1])
        return self.linear(output)

    def loss(self) -> tuple[Tensor, Tensor]:
        words, lengths = torch.arange(35).reshape(5, 7), torch.tensor([3, 7, 1, 6, 7])
        scores, told = self(words, lengths), torch.arange(7) < lengths[:, None]
        return scores, nn.functional.cross_entropy(scores[told], words[told] // 7, self.tag_weights)


class Forecaster(nn.Module):
    """As DeepAR forecasts: lags in, teacher forcing, a scale for each row; step by step beyond the data."""

    def __init__(self) -> None:
        super().__init__()
        self.series = nn.Embedding(7, 3)
        self.rnn = nn.LSTM(5, 33, num_layers=3, dropout=0.2, batch_first=True)
        self.project = nn.Linear(33, 2)

    def step(self, lags: Tensor, series: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        """lags (N, T, 2): the mean and deviation (N, T), and the state."""
        features = self.series(series)[:, None].expand(-1, lags.shape[1], -1)
        output, state = self.rnn(torch.cat((lags, features), dim=2), state)
        mean, width = self.project(output).unbind(2)
        return mean, nn.functional.softplus(width) + 1e-3, state

    def loss(self) -> tuple[Tensor, Tensor]:
        series, target = torch.arange(7), 2 + torch.sin(torch.arange(7.0)[:, None] + torch.arange(33) / 3)
        scale = target.abs().mean(1, keepdim=True)
        scaled = target / scale
        lags = torch.stack((scaled[:, 1:-1], scaled[:, :-2]), dim=2)
        mean, deviation, state = self.step(lags, series, None)
        loss = -torch.distributions.Normal(mean, deviation).log_prob(scaled[:, 2:]).mean()
        last, forecast, was_training = scaled[:, -2:].flip(1), [], self.training
        self.eval()
        with torch.no_grad():
            for _ in range(5):
                mean, _, state = self.step(last[:, None], series, state)
                last = torch.cat((mean, last[:, :1]), dim=1)
                forecast.append(mean * scale)
        self.train(was_training)
        return torch.cat(forecast, dim=1), loss


class Translator(nn.Module):
    """A bidirectional GRU reads, a cell writes, looking back by additive attention."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.embed = nn.ModuleDict({"source": nn.Embedding(33, 7), "target": nn.Embedding(33, 7)})
        self.encoder = nn.GRU(7, 21, num_layers=2, bidirectional=True)
        self.bridge, self.keys, self.query = nn.Linear(42, 33), nn.Linear(42, 7), nn.Linear(33, 7)
        self.energy = nn.Linear(7, 1, bias=False)  # its gradient would be rounding alone, and Adam blow it up
        self.top = nn.Linear(33 + 42, 33)
        self.decoder = nn.ModuleList([cell(7 + 42, 33)])

    def forward(self, source: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """source (T, N), target (steps, N): scores (steps, N, K)."""
        packed = pack_padded_sequence(self.embed["source"](source), lengths)
        memory, _ = pad_packed_sequence(self.encoder(packed)[0])
        h = torch.tanh(self.bridge(memory[0]))
        states = (h, torch.zeros_like(h)) if isinstance(self.decoder[0], nn.LSTMCell) else (h,)
        keys, beyond = self.keys(memory), torch.arange(len(source))[:, None] >= lengths
        scores = []
        for word in self.embed["target"](target):
            energy = self.energy(torch.tanh(keys + self.query(states[0]))).squeeze(2)
            context = (energy.masked_fill(beyond, -torch.inf).softmax(0)[:, :, None] * memory).sum(0)
            given = states if len(states) == 2 else states[0]
            new = self.decoder[0](torch.cat((word, context), dim=1), given)
            states = new if isinstance(new, tuple) else (new,)
            scores.append(self.top(torch.cat((states[0], context), dim=1)))
        return torch.stack(scores)

    def loss(self) -> tuple[Tensor, Tensor]:
        source, lengths = torch.arange(63).reshape(9, 7) % 33, torch.tensor([9, 9, 7, 4, 4, 2, 1])
        target = torch.arange(42).reshape(6, 7) % 31
        scores = self(source, target[:-1], lengths)
        with torch.no_grad():  # as when it translates: the cell's own quick road
            alone = self(source, target[:-1], lengths)
        return alone, nn.functional.cross_entropy(scores.flatten(0, 1), target[1:].flatten())


MODELS = {
    "tagger": (Tagger, 1),
    "forecaster": (Forecaster, 1),
    "translator-LSTMCell": (lambda: Translator(nn.LSTMCell), 2),
    "translator-GRUCell": (lambda: Translator(nn.GRUCell), 2),
}
every_model = pytest.mark.parametrize("kind", MODELS)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of recurra.nn's classes, one for each time that a forward of theirs ran."""
    found: list[str] = []

    def watched(forward: Any, name: str) -> Any:
        return lambda *inputs, **options: found.append(name) or forward(*inputs, **options)

    for name in NAMES:
        kind = getattr(recurra.nn, name)
        monkeypatch.setattr(kind, "forward", watched(kind.forward, name))
    return found


def results(model: Any, seed: int) -> list[Tensor]:
    """What the model gives, its loss, and the gradient of every parameter."""
    torch.manual_seed(seed)
    output, loss = model.loss()
    return [output.detach(), loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def assert_close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def all_equal(some: Any, others: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@every_model
def test_a_model_gives_the_same_before_swapped_and_restored(kind: str, seed: int, ran: list[str]) -> None:
    make, layers = MODELS[kind]
    model = make()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    keys, printed, before = list(model.state_dict()), repr(model), results(model, seed)
    names = {type(module).__name__ for module in model.modules()} & set(NAMES)
    assert ran == []
    for door, expected in ((accelerate, names), (restore, set())):
        report = door(model)
        assert (report.swapped, report.restored) == ((layers, 0) if expected else (0, layers))
        ran.clear()
        now = results(model, seed)
        assert set(ran) == expected
        assert_close(now, before)
        assert expected or all_equal(now, before)
        assert (list(model.state_dict()), repr(model)) == (keys, printed)
        assert all(value is parameters[name] for name, value in model.named_parameters())
        assert all(value is buffers[name] for name, value in model.named_buffers())


@every_model
@pytest.mark.parametrize("method", ["SGD", "Adam"])
def test_training_goes_on_with_the_same_optimizer(kind: str, method: str, seed: int) -> None:
    """Two steps with torch's layers, two with ours and two with torch's, beside a model of torch's."""
    model = MODELS[kind][0]()
    twin, first = copy.deepcopy(model), None
    options = {"lr": 0.05, "momentum": 0.9} if method == "SGD" else {"lr": 1e-3}
    pair = [(each, getattr(torch.optim, method)(each.parameters(), **options)) for each in (model, twin)]
    for step in range(6):
        {2: accelerate, 4: restore}.get(step, type)(model)
        losses = []
        for each, optimizer in pair:
            torch.manual_seed(seed + step)
            optimizer.zero_grad()
            loss = each.loss()[1]
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        assert_close(losses[0], losses[1])
        assert_close(list(model.parameters()), list(twin.parameters()))
        first = first or losses[0]
    assert losses[0] < first
    assert len(pair[0][1].state) == len(list(model.parameters()))


def made(name: str, **options: Any) -> Any:
    return getattr(torch.nn, name)(3, 5, **options)


def run(layer: Any, x: Tensor) -> list[Tensor]:
    """x (T, N, 3). All tensors that a layer gives for x, or a cell for its first step."""
    return tree_leaves(layer(x[0] if isinstance(layer, nn.RNNCellBase) else x))


@every_name
def test_a_layer_by_itself_keeps_all_that_it_holds(name: str) -> None:
    layer, x = made(name), torch.randn(7, 1, 3)
    layer.eval()
    layer.weight_hh.requires_grad_(False) if "Cell" in name else layer.weight_hh_l0.requires_grad_(False)
    before, held = run(layer, x), dict(layer.__dict__)
    assert accelerate(layer).swaps == (Swap("", f"{name}(3, 5)", "swapped"),)
    assert type(layer) is getattr(recurra.nn, name)
    with torch.inference_mode():
        assert_close(run(layer, x), before)
    assert_close(run(layer, x), before)
    restore(layer)
    assert type(layer) is getattr(torch.nn, name)
    assert layer.__dict__.keys() == held.keys()
    assert all(layer.__dict__[key] is value for key, value in held.items() if key != "_flat_weight_refs")
    assert [p.requires_grad for p in layer.parameters()].count(False) == 1
    assert not layer.training
    assert all_equal(run(layer, x), before)


def test_hooks_stay_and_run_in_their_order() -> None:
    layer, calls = nn.GRU(3, 5), []
    layer.register_forward_pre_hook(lambda *_: calls.append("before"))
    layer.register_forward_hook(lambda *_: calls.append("after"))
    layer.register_full_backward_hook(lambda *_: calls.append("backward"))
    layer.register_state_dict_post_hook(lambda *_: calls.append("saved"))
    layer.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    layer.weight_hh_l0.register_hook(lambda _: calls.append("gradient"))

    def use() -> list[str]:
        calls.clear()
        layer(torch.randn(7, 1, 3, requires_grad=True))[0].sum().backward()
        layer.load_state_dict(layer.state_dict())
        return calls[:2] + sorted(calls[2:4]) + calls[4:]

    for door in (type, accelerate, restore):
        door(layer)
        assert use() == ["before", "after", "backward", "gradient", "saved", "loaded"]


def test_layers_in_containers_and_a_layer_in_two_places() -> None:
    shared = nn.LSTM(3, 3)
    model = nn.Sequential(nn.ModuleList([shared, nn.GRUCell(3, 7)]), nn.ModuleDict({"again": shared}))
    report = accelerate(model)
    assert [(swap.name, swap.also) for swap in report.swaps] == [("0.0", ("1.again",)), ("0.1", ())]
    assert model[0][0] is model[1]["again"] is shared
    assert type(shared) is recurra.nn.LSTM
    assert "  swapped   0.0 = 1.again  LSTM(3, 3)" in str(report).splitlines()
    restore(model)
    assert model[0][0] is model[1]["again"] is shared
    assert type(shared) is nn.LSTM


def test_what_was_recurras_from_the_start_stays_recurras() -> None:
    class Own(recurra.nn.GRU):
        """A user's."""

    model = nn.ModuleList([recurra.nn.LSTM(3, 5), nn.LSTM(3, 5), Own(3, 5)])
    parametrizations.weight_norm(model[0], "weight_hh_l0")
    assert [swap.action for swap in accelerate(model).swaps] == ["already", "swapped", "already"]
    again = accelerate(model)
    assert (again.swapped, again.already, again.restored, again.left) == (0, 3, 0, 0)
    report = restore(model)
    assert [swap.action for swap in report.swaps] == ["left", "restored", "left"]
    assert {swap.reason for swap in report.swaps if swap.action == "left"} == {"recurra.nn's from the start"}
    assert (isinstance(model[0], recurra.nn.LSTM), type(model[2])) == (True, Own)
    assert [swap.action for swap in restore(model).swaps] == ["left", "already", "left"]


@every_name
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_is_restored_alone(name: str, duplicate: Callable[[Any], Any]) -> None:
    layer, x = made(name), torch.randn(7, 1, 3)
    accelerate(layer)
    with torch.no_grad():
        run(layer, x)
    twin, other = duplicate(layer), made(name)
    twin.load_state_dict(other.state_dict())
    assert restore(twin).restored == 1
    assert type(twin) is getattr(torch.nn, name)
    assert type(layer) is getattr(recurra.nn, name)
    assert all_equal(run(twin, x), run(other, x))
    assert b"recurra" in pickle.dumps(layer)
    assert restore(layer).restored == 1
    assert not any(trace in pickle.dumps(layer) for trace in (b"recurra", b"_accelerated"))


def normed(layer: Any, way: str) -> Any:
    weight = "weight_hh" if isinstance(layer, nn.RNNCellBase) else "weight_hh_l0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # weight_norm of old
        if way == "old weight_norm":
            return torch.nn.utils.weight_norm(layer, weight)
        if way == "pruned":
            return prune.random_unstructured(layer, weight, amount=0.3)
        if way == "twice":
            parametrizations.weight_norm(layer, weight.replace("hh", "ih"))
        make = parametrizations.orthogonal if way == "orthogonal" else parametrizations.weight_norm
        return make(layer, weight)


@pytest.mark.parametrize("way", ["weight_norm", "twice", "orthogonal", "old weight_norm", "pruned"])
@every_name
def test_reparametrized_weights(name: str, way: str, ran: list[str]) -> None:
    layer, x = normed(made(name), way), torch.randn(7, 1, 3)
    own, kept, parameters = type(layer), set(vars(type(layer))), dict(layer.named_parameters())

    def everything() -> list[Tensor]:
        found = run(layer, x)
        return found + list(torch.autograd.grad(sum(f.sum() for f in found), list(parameters.values())))

    before, keys = everything(), list(layer.state_dict())
    assert accelerate(layer).swapped == 1
    assert isinstance(layer, getattr(recurra.nn, name))
    assert type(layer).__name__ == (own.__name__ if "Param" in own.__name__ else name)
    assert_close(everything(), before)
    assert ran == [name]
    assert list(layer.state_dict()) == keys
    assert all(value is parameters[key] for key, value in layer.named_parameters())
    with torch.no_grad():
        next(iter(parameters.values())).mul_(1.5)
        assert not torch.equal(run(layer, x)[0], before[0])
        next(iter(parameters.values())).div_(1.5)
    assert restore(layer).restored == 1
    assert (type(layer).__name__, type(layer).__module__) == (own.__name__, own.__module__)
    assert type(layer).__mro__[1:] == own.__mro__[1:]
    assert set(vars(type(layer))) == kept
    assert_close(everything(), before)


def test_a_parametrized_copy_that_shares_the_class_is_left_alone() -> None:
    layer = normed(nn.GRU(3, 5), "weight_norm")
    twin = copy.deepcopy(layer)
    assert type(twin) is type(layer)
    accelerate(layer)
    assert not isinstance(twin, recurra.nn.GRU)
    third = copy.deepcopy(layer)
    restore(layer)
    assert isinstance(third, recurra.nn.GRU)
    assert restore(third).restored == 1
    assert all_equal(run(third, torch.ones(7, 1, 3)), run(twin, torch.ones(7, 1, 3)))


def test_parametrizations_come_and_go_while_accelerated() -> None:
    model = nn.ModuleList([normed(nn.LSTM(3, 5), "weight_norm"), nn.LSTM(3, 5)])
    accelerate(model)
    parametrize.remove_parametrizations(model[0], "weight_hh_l0")
    normed(model[1], "weight_norm")
    assert type(model[0]) is recurra.nn.LSTM
    expected = [layer(torch.ones(7, 1, 3))[0] for layer in model]
    assert restore(model).restored == 2
    assert_close([layer(torch.ones(7, 1, 3))[0] for layer in model], expected)
    parametrize.remove_parametrizations(model[1], "weight_hh_l0")
    assert [type(layer) for layer in model] == [nn.LSTM, nn.LSTM]


def test_weights_that_were_replaced_meanwhile_are_the_restored_layers() -> None:
    layer, x = nn.LSTM(3, 5), torch.randn(7, 1, 3, dtype=torch.float64)
    accelerate(layer)
    layer.double()
    layer.weight_hh_l0 = nn.Parameter(torch.randn(20, 5, dtype=torch.float64))
    expected = layer(x)[0]
    restore(layer)
    assert all(a is b for a, b in zip(layer._flat_weights, layer.parameters(), strict=True))
    assert all(ref() is b for ref, b in zip(layer._flat_weight_refs, layer.parameters(), strict=True))
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-12, atol=1e-12)


class Doubling(nn.LSTM):
    """A user's subclass with a forward of its own."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return super().forward(2 * input, hx)


def test_a_users_subclass_is_left_with_the_reason() -> None:
    model = nn.ModuleDict({"own": Doubling(3, 5), "normed": normed(Doubling(3, 5), "weight_norm")})
    reason = (
        f"{__name__}.Doubling is a subclass of torch.nn.LSTM; let it inherit from recurra.nn.LSTM instead"
    )
    for report in (accelerate(model), restore(model)):
        assert [(swap.layer, swap.reason) for swap in report.swaps] == [("Doubling(3, 5)", reason)] * 2
        assert report.left == 2
    assert type(model["own"]) is Doubling
    assert type(model["normed"]).__bases__ == (Doubling,)


def test_a_class_put_on_top_of_an_accelerated_layer_is_not_torn_off() -> None:
    layer = nn.GRU(3, 5)
    accelerate(layer)
    layer.__class__ = type("Sharded", (recurra.nn.GRU,), {})
    reason = "Sharded was put on top of recurra.nn.GRU; take that off first"
    assert restore(layer).swaps[0].reason == f"{__name__}.{reason}"


def test_a_forward_replaced_on_the_layer_is_left_either_way() -> None:
    model = nn.ModuleList([nn.GRU(3, 5), nn.GRU(3, 5)])
    model[0].forward = lambda x: (x, x)
    first, second = accelerate(model).swaps
    assert (first.action, second.action) == ("left", "swapped")
    assert "its forward was replaced on the layer itself" in first.reason
    forward = model[1].forward
    model[1].forward = lambda x: forward(x)
    assert restore(model).left == 1
    assert model[1](torch.ones(7, 1, 3))[0].shape == (7, 1, 5)
    del model[1].forward
    assert restore(model).restored == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated", "ignore::torch.jit.TracerWarning")
def test_torchscript_is_left_and_a_restored_model_can_be_scripted() -> None:
    model, x = nn.Sequential(nn.GRU(3, 5)), torch.randn(7, 1, 3)
    accelerate(model)
    traced = torch.jit.trace(model, (x,))
    restore(model)
    for program in (traced, torch.jit.script(model)):
        for report in (accelerate(program), restore(program)):
            assert report.swaps == (Swap("0", "GRU", "left", "TorchScript, whose operations are fixed"),)
        assert_close(program(x)[0], model(x)[0])


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
@pytest.mark.skipif(torch.backends.quantized.engine == "none", reason="torch has no quantized kernels here")
def test_quantized_layers_are_left() -> None:
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(3, 5)), {nn.LSTM}, torch.qint8)
    for report in (accelerate(quantized), restore(quantized)):
        assert [(swap.layer, swap.action) for swap in report.swaps] == [("LSTM(3, 5)", "left")]
        assert report.swaps[0].reason.startswith("quantized (torch.ao.nn.quantized.dynamic")


@pytest.mark.parametrize("place", ["float64 on cpu", "bfloat16 on cpu", "float32 on meta", "float32 on cpu"])
@every_name
def test_the_report_says_where_torchs_kernels_run(name: str, place: str) -> None:
    dtype, device = place.split(" on ")
    layer = made(name, dtype=getattr(torch, dtype), device=device)
    swap = accelerate(layer).swaps[0]
    takes = ["float32 on cpu"] if "Cell" in name else ["float32 on cpu", "bfloat16 on cpu"]
    expected = "" if place in takes else f"torch's kernels run it as long as its weights are {place}"
    assert (swap.action, swap.reason) == ("swapped", expected)


def test_a_layer_without_memory_gets_it_later(ran: list[str]) -> None:
    layer, full, x = made("GRU", device="meta"), made("GRU"), torch.randn(7, 1, 3)
    accelerate(layer)
    layer.to_empty(device="cpu").load_state_dict(full.state_dict())
    assert_close(run(layer, x), run(full, x))
    assert ran == ["GRU"]


def test_wrapped_and_compiled_models() -> None:
    model, x = nn.Sequential(nn.GRU(3, 5)), torch.randn(7, 1, 3)
    graphs: list[str] = []
    compiled = torch.compile(model, backend=lambda graph, _: graphs.append(graph.code) or graph)
    expected = compiled(x)[0]
    assert "recurra" not in "".join(graphs)
    assert [swap.name for swap in accelerate(compiled).swaps] == ["_orig_mod.0"]
    assert_close(compiled(x)[0], expected)
    assert ("recurra.scan" in "".join(graphs)) is native.available()
    assert [swap.name for swap in restore(nn.DataParallel(model)).swaps] == ["module.0"]
    assert_close(compiled(x)[0], expected)
    assert type(model[0]) is nn.GRU
    torch._dynamo.reset()


def test_the_report_is_read_at_a_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.ModuleDict({"a": nn.LSTM(7, 33, num_layers=3), "own": Doubling(3, 5), "b": nn.GRUCell(3, 5)})
    report = accelerate(model)
    lines = repr(report).splitlines()
    assert lines[0] == "3 recurrent layers: 2 swapped, 1 left"
    assert lines[1] == "  swapped   a    LSTM(7, 33, num_layers=3)"
    assert lines[2].startswith("  left      own  Doubling(3, 5): ")
    assert str(report.swaps[2]) == "swapped b GRUCell(3, 5)"
    with pytest.raises(AttributeError):
        report.swaps[0].action = "left"
    assert str(accelerate(nn.Linear(3, 5))) == "no recurrent layers"
    restore(model)
    monkeypatch.setattr(native, "_module", None)
    monkeypatch.setattr(native, "_why_not", "it was not built")
    note = "torch's kernels run what was swapped, for it was not built"
    assert str(accelerate(model)).splitlines()[-1] == accelerate(nn.GRU(3, 5)).note == note


@pytest.mark.parametrize("door", [accelerate, restore])
def test_what_is_not_a_model_is_refused(door: Callable[[Any], Any]) -> None:
    with pytest.raises(ArgumentError, match=r"model: expected a torch.nn.Module, got list; give the model"):
        door([nn.LSTM(3, 5)])
