"""recurra.nn's layers misused: lengths that do not fit, and whatever torch's own layers refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import recurra.nn

T, F, H = 9, 3, 5
NAMES = ("LSTM", "GRU", "RNN")
every_name = pytest.mark.parametrize("name", NAMES)

ENTRIES = [lambda layer: layer, lambda layer: layer.trace]
both_ways_in = pytest.mark.parametrize("entry", ENTRIES, ids=["forward", "trace"])


@both_ways_in
@every_name
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, -1], r"expected 0 to 9.*got -1 in row 1; count the steps"),
        ([3, 10], r"expected 0 to 9.*got 10 in row 1; count the steps.*pad the input"),
        (
            [3, 4, 5],
            r"each of the 2 rows, shape \(2,\), got \(3,\).*batch_first is True.*give each row a length",
        ),
        ([[3, 4]], r"shape \(2,\), got \(1, 2\)"),
        ([], r"shape \(2,\), got \(0,\)"),
        (torch.tensor(3), r"shape \(2,\), got \(\)"),
        ([3.0, 4.0], r"integer dtype, got torch.float64; convert them with .long\(\)"),
        (torch.tensor([3.0, 4.0]), r"integer dtype, got torch.float32; convert"),
        (torch.tensor([3, 4], dtype=torch.complex64), r"integer dtype, got torch.complex64"),
        (torch.ones(2, 9, dtype=torch.bool), r"integer dtype, got torch.bool.*mask.sum\(1\)"),
        (["three", "four"], r"tensor, list or array of integers, got \['three', 'four'\]; give each row"),
        ([[3], [4, 5]], r"tensor, list or array of integers"),
        (3, r"tensor, list or array of integers, got 3"),
        ([2**62, 2], r"expected 0 to 9"),
    ],
)
def test_lengths_that_do_not_fit(name: str, lengths: Any, message: str, entry: Callable[[Any], Any]) -> None:
    layer = getattr(recurra.nn, name)(F, H, batch_first=True)
    with pytest.raises(ValueError, match=f"^lengths: .*{message}"):
        entry(layer)(torch.zeros(2, T, F), lengths=lengths)


@both_ways_in
@every_name
def test_lengths_where_there_is_no_padded_batch(name: str, entry: Callable[[Any], Any]) -> None:
    layer = getattr(recurra.nn, name)(F, H)
    with pytest.raises(ValueError, match=r"lengths: expected None with a PackedSequence.*leave them out"):
        entry(layer)(pack_padded_sequence(torch.zeros(T, 2, F), [T, 3]), lengths=[T, 3])
    with pytest.raises(
        ValueError, match=r"lengths: expected an input of 3 dim.*got an input of 2.*unsqueeze\(1"
    ):
        entry(layer)(torch.zeros(T, F), lengths=[T])


def misuses(name: str) -> list[tuple[str, tuple[Any, ...]]]:
    x, h = torch.zeros(T, 2, F), torch.zeros(2, 2, H)

    def states(h: Tensor, c: Tensor = h) -> Any:
        return (h, c) if name == "LSTM" else h

    wrong = [
        ("another number of features", (torch.zeros(T, 2, F + 1),)),
        ("four dimensions", (torch.zeros(T, 2, F, 1),)),
        ("one dimension", (torch.zeros(T),)),
        ("no steps", (torch.zeros(0, 2, F),)),
        ("another dtype", (x.double(),)),
        ("states of another batch", (x, states(torch.zeros(2, 3, H)))),
        ("states of another size", (x, states(torch.zeros(2, 2, H + 1)))),
        ("states of too few layers", (x, states(torch.zeros(1, 2, H)))),
        ("states without a batch", (x, states(torch.zeros(2, H)))),
        ("states of another dtype", (x, states(h.double()))),
    ]
    if name == "LSTM":
        wrong.append(("cell state of another size", (x, states(h, torch.zeros(2, 2, H + 1)))))
        wrong.append(("the hidden state alone", (x, h)))
        wrong.append(("cell state of another dtype", (x, states(h, h.double()))))
    else:
        wrong.append(("a tuple of states", (x, (h,))))
    return wrong


@pytest.mark.parametrize(("name", "what"), [(name, what) for name in NAMES for what, _ in misuses(name)])
def test_the_same_misuse_raises_the_same_error(name: str, what: str) -> None:
    arguments = dict(misuses(name))[what]
    ours, torchs = getattr(recurra.nn, name)(F, H, 2), getattr(torch.nn, name)(F, H, 2)
    expected = error_of(torchs, *arguments)
    plain = error_of(ours, *arguments)
    assert (type(plain), str(plain)) == (type(expected), str(expected))
    # without torch's kernels the words may differ, the kind of error may not
    assert type(error_of(ours, *arguments, lengths=[1, 0])) is type(expected)
    assert type(error_of(ours.trace, *arguments)) is type(expected)


def error_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> Exception:
    try:
        result = call(*arguments, **options)
    except Exception as error:
        return error
    pytest.fail(f"no error, but {result}")


@every_name
@pytest.mark.parametrize(
    "arguments",
    [
        {"hidden_size": 0},
        {"num_layers": 0},
        {"dropout": 1.5},
        {"bias": None},
        {"input_size": 2.5},
        {"proj_size": H},
        {"nonlinearity": "sine"},
    ],
    ids=str,
)
def test_constructors_refuse_what_torch_refuses(name: str, arguments: dict[str, Any]) -> None:
    arguments = {"input_size": F, "hidden_size": H} | arguments
    with pytest.raises((TypeError, ValueError)) as expected:
        getattr(torch.nn, name)(**arguments)
    with pytest.raises(type(expected.value)) as got:
        getattr(recurra.nn, name)(**arguments)
    assert str(got.value) == str(expected.value)


def test_dropout_on_a_single_layer_warns_as_torch_does() -> None:
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        recurra.nn.GRU(F, H, dropout=0.5)
