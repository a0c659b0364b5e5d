"""Misused conversions: what cannot be converted and what does not fit, with stand-ins for Keras' layers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recurra import nn
from recurra.nn.convert import from_keras, from_onnx, to_keras, to_onnx, to_torch

F, H = 3, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def tanh() -> None: ...


def sigmoid() -> None: ...


def relu() -> None: ...


def arrays_of(gates: int, *bias: int) -> list[NDArray[Any]]:
    return [np.zeros((F, gates * H)), np.zeros((H, gates * H)), np.zeros(bias)]


def fake(name: str, **attributes: Any) -> Any:
    """What a layer of Keras looks like, without Keras."""
    return type(name, (SimpleNamespace,), {})(**attributes)


def fake_layer(name: str = "GRU", arrays: Any = None, go_backwards: bool = False, **cell: Any) -> Any:
    function = {"activation": tanh, "recurrent_activation": sigmoid, "reset_after": True} | cell
    arrays = arrays_of(3, 2, 3 * H) if arrays is None else arrays
    inner = fake(f"{name}Cell", **function)
    return fake(name, cell=inner, go_backwards=go_backwards, get_weights=lambda: arrays)


def fake_pair(merge_mode: str | None = "concat", **backward: Any) -> Any:
    back = fake_layer(**({"go_backwards": True} | backward))
    return fake("Bidirectional", merge_mode=merge_mode, forward_layer=fake_layer(), backward_layer=back)


def test_what_stands_in_for_keras_is_read() -> None:
    layer = from_keras([fake_pair()])
    assert torch.equal(layer.weight_hh_l0, layer.weight_hh_l0_reverse)


def onnx_of(op_type: str = "LSTM", W: Any = None, R: Any = None, *more: Any, **attributes: Any) -> Any:
    gates = GATES.get(op_type, 4)
    W = np.zeros((1, gates * H, F)) if W is None else W
    return from_onnx(op_type, W, np.zeros((1, gates * H, H)) if R is None else R, *more, **attributes)


gru, lstm, single = arrays_of(3, 2, 3 * H), arrays_of(4, 4 * H), arrays_of(3, 3 * H)
W2, R2 = np.zeros((2, 4 * H, F)), np.zeros((2, 4 * H, H))
fit = np.zeros((1, 4 * H, H))
MISUSES: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: from_keras(fake_layer(reset_after=False)),
        "layers: reset_after: expected True.*train a new GRU",
    ),
    (
        lambda: from_keras(fake_layer(go_backwards=True)),
        "layers: go_backwards: expected False, got True; flip",
    ),
    (lambda: from_keras(fake_layer(activation=relu)), "layers: activation: expected 'tanh', got 'relu'"),
    (
        lambda: from_keras(fake_layer("LSTM", recurrent_activation=relu)),
        ".*recurrent_activation: .*got 'relu'",
    ),
    (lambda: from_keras(fake_layer("SimpleRNN", activation=sigmoid)), ".*'tanh' or 'relu', got 'sigmoid'"),
    (lambda: from_keras(fake_layer(arrays=[])), "layers: number of arrays: expected 2 or 3, got 0; build"),
    (lambda: from_keras([fake_pair("ave")]), r"layers\[0\]: merge_mode: expected 'concat', got 'ave'; merge"),
    (
        lambda: from_keras(fake_pair(go_backwards=False)),
        "layers backward: go_backwards: expected True, got F",
    ),
    (lambda: from_keras(fake_pair(name="LSTM")), "layers backward: kind: expected .'GRU', .*got .'LSTM'"),
    (
        lambda: from_keras([fake_layer(), fake_layer("LSTM")]),
        r"layers\[1\]: kind: expected .'GRU'.*by itself",
    ),
    (
        lambda: from_keras([fake_layer(), fake_pair()]),
        r"layers\[1\]: directions: expected 1, got 2; make all",
    ),
    (lambda: from_keras(gru, "Gru"), "kind: expected 'LSTM' or 'GRU' or 'SimpleRNN', got 'Gru'; name"),
    (
        lambda: from_keras(gru, "GRU", nonlinearity="sine"),
        "nonlinearity: expected 'tanh' or 'relu', got 'sine",
    ),
    (lambda: from_keras(lstm, "GRU"), r"layers recurrent_kernel: expected shape \(H, 3·H\) = \(5, 15\), got"),
    (
        lambda: from_keras(lstm[:1], "LSTM"),
        "layers: number of arrays: expected 2 or 3 or 4 or 6, got 1; give",
    ),
    (lambda: from_keras(single, "GRU"), "layers bias: dimensions: expected 2, got 1; the reset gate before"),
    (
        lambda: from_keras(arrays_of(4, H), "LSTM"),
        r"layers bias: expected shape \(4·H,\) = \(20\), got \(5,\)",
    ),
    (lambda: from_keras([lstm, lstm], "LSTM"), r"layers\[1\]: features: expected 5, got 3; convert"),
    (
        lambda: from_keras([lstm, (fit[0].T, fit[0].T)], "LSTM"),
        r"layers\[1\]: bias: expected True, got False; ",
    ),
    (
        lambda: from_keras([lstm, [np.zeros((H, 28)), np.zeros((7, 28))]], "LSTM"),
        r".*\[1\]: hidden units: exp",
    ),
    (
        lambda: from_keras([lstm[0].astype(int), *lstm[1:]], "LSTM"),
        "layers kernel: dtype: expected 'float16'",
    ),
    (
        lambda: from_keras([lstm[0].astype("f4"), *lstm[1:]], "LSTM"),
        "layers: dtypes: expected {'float32'}, g",
    ),
    (lambda: onnx_of("Lstm"), "op_type: expected 'LSTM' or 'GRU' or 'RNN', got 'Lstm'; give the node's"),
    (
        lambda: onnx_of(direction=b"reverse"),
        "direction: expected 'forward' or .*got 'reverse'; for 'reverse'",
    ),
    (lambda: onnx_of("GRU"), "linear_before_reset: expected 1, got 0; the reset gate before the product"),
    (lambda: onnx_of(clip=3.0), "clip: expected None, got 3.0; recurra.nn clips no gates"),
    (lambda: onnx_of(input_forget=1), "input_forget: expected 0, got 1; recurra.nn.LSTM has an input gate"),
    (lambda: onnx_of(layout=2), "layout: expected 0 or 1, got 2; give the node's layout"),
    (lambda: onnx_of(hidden_size=7), "hidden_size: expected None or 5, got 7; give the same node's R"),
    (
        lambda: onnx_of(activations=["Affine"] * 3),
        "activations: expected .'sigmoid', 'tanh', 'tanh'.*'affine'",
    ),
    (lambda: onnx_of("RNN", activations=["Relu", "Tanh"]), "activations: expected .*nor others for each"),
    (
        lambda: onnx_of(P=np.ones((1, 3 * H))),
        "P: largest: expected 0, got .*1.0.*recurra.nn.LSTM has no peeph",
    ),
    (
        lambda: onnx_of(B=np.zeros((1, 4 * H))),
        r"B: expected shape \(D, 8·H\) = \(1, 40\), got \(1, 20\); look",
    ),
    (lambda: onnx_of("LSTM", W2, R2), r"R: expected shape \(D, 4·H, H\) = \(1, 20, 5\), got \(2, 20, 5\); l"),
    (lambda: onnx_of("LSTM", W2[:1, :7]), r"W: expected shape \(D, 4·H, F\) = \(1, 20, any\), got \(1, 7, 3"),
    (
        lambda: onnx_of("LSTM", [fit, fit], [fit]),
        "R: layers: expected 2, got 1; give an array for each layer",
    ),
    (lambda: onnx_of("LSTM", [], []), "W: layers: expected 1, got 0; give an array for each layer of W"),
    (lambda: onnx_of("LSTM", [fit, W2[:1]], [fit] * 2), r"W\[1\]: features: expected 5, got 3; convert"),
    (lambda: to_onnx(nn.GRU(F, H), 1), "index: expected 0, got 1; count the stack's layers from 0"),
    (
        lambda: to_onnx(nn.LSTM(F, H, proj_size=2)),
        "layer: proj_size: expected 0, got 2; ONNX has no projection",
    ),
    (lambda: to_keras(nn.LSTM(F, H, proj_size=2)), "layer: proj_size: expected 0, got 2; Keras has no proj"),
    (
        lambda: to_keras(nn.GRU(F, H, dtype=torch.bfloat16)),
        "layer: dtype: .*got 'torch.bfloat16'; convert with",
    ),
]
MISTYPES: list[tuple[Callable[[], Any], str]] = [
    (lambda: from_keras(torch.nn.GRU(F, H)), "layers: expected Keras' LSTM, GRU.*got GRU; give a model's"),
    (lambda: from_keras([]), "layers: expected Keras' LSTM, GRU.*got list; give .* arrays with their kind"),
    (lambda: from_keras(gru), "layers: expected Keras' LSTM, GRU.*got list; give .* arrays with their kind"),
    (lambda: from_keras(fake_layer(), "GRU"), "layers: expected arrays, got GRU; leave out kind for a layer"),
    (lambda: from_keras([[None, *gru[1:]]], "GRU"), r"layers\[0\] kernel: expected a numpy array, got NoneT"),
    (
        lambda: onnx_of("LSTM", torch.zeros(1, 20, 3)),
        "W: expected a numpy array, got Tensor; convert it first",
    ),
    (
        lambda: to_keras(nn.LSTMCell(F, H)),
        "layer: expected LSTM, GRU, RNN of recurra.nn or .*got LSTMCell; rem",
    ),
    (lambda: to_torch(type("Mine", (torch.nn.GRU,), {})(F, H)), "layer: .*got Mine, a subclass, which may"),
]


@pytest.mark.parametrize("place", range(len(MISUSES)))
def test_misuse_is_told(place: int) -> None:
    call, message = MISUSES[place]
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.parametrize("place", range(len(MISTYPES)))
def test_what_is_no_layer_is_refused(place: int) -> None:
    call, message = MISTYPES[place]
    with pytest.raises(TypeError, match=f"^{message}"):
        call()


def test_parameters_that_something_replaced() -> None:
    layer = nn.GRU(F, H)
    layer.weight_hh_g = layer._parameters.pop("weight_hh_l0")
    with pytest.raises(
        ValueError, match=r"^layer: expected the parameters weight_ih_l0, .*got .*weight_hh_g"
    ):
        to_torch(layer)


@pytest.mark.parametrize(
    "option", [{"zoneout": 0.1}, {"recurrent_dropout": 0.2}, {"weight_drop": 0.3}], ids=str
)
def test_noise_that_others_do_not_have(option: dict[str, float]) -> None:
    (name,) = option
    layer = nn.LSTM(F, H, **option)
    for convert in (to_torch, to_keras, to_onnx):
        with pytest.raises(
            ValueError, match=f"^layer: expected {name} of 0, for the other layer has none, got"
        ):
            convert(layer)
    setattr(layer, name, (0.0, 0.0) if name == "zoneout" else 0.0)
    assert type(to_torch(layer)) is torch.nn.LSTM
