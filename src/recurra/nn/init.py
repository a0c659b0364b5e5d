"""Initial weights and biases for recurrent layers and cells, set in place.

Each function takes a layer or cell with torch's parameter names and gate order (`recurra.nn`'s, `torch.nn`'s,
or one of your own), sets every layer and direction of it, and returns it. The rest stays as it was.

| function        | sets                                      | source                                    |
|-----------------|-------------------------------------------|-------------------------------------------|
| `forget_bias_`  | the forget gate's bias to one value       | Gers et al. 2000, Jozefowicz et al. 2015  |
| `chrono_`       | it, for memories of 2 to `longest` steps  | Tallec and Ollivier 2018, equation 16     |
| `uniform_gate_` | it, for open gates spread over 0..1       | Gu et al. 2020, equation 12               |
| `linspace_`     | it, evenly spaced over the units          | Beck et al. 2024, an mLSTM's forget gate  |
| `orthogonal_`   | each gate's recurrent matrix              | Saxe et al. 2014                          |
| `xavier_`       | each gate's input matrix                  | Glorot and Bengio 2010, equation 16       |

**The gate that keeps.** An LSTM's cell keeps the share f of itself, c' = f c + i g, so f is what is set. A
GRU of torch keeps the share z, h' = (1 − z) n + z h: its update gate takes the forget gate's part, with the
forget gate's sign. Papers that write h' = (1 − z) h + z n give it the opposite one. A gate at the constant
value f = σ(b) keeps a memory for about 1 / (1 − f) = 1 + exp(b) steps: b = log(s − 1) gives s steps.

**Two biases.** torch adds b_ih and b_hh. A bias that is set here stands in b_ih whole, and b_hh is zero for
that gate.

**Random numbers** are drawn with `generator`, on its device, or with torch's own where it is None.

- Beck et al. 2024: xLSTM: Extended Long Short-Term Memory; the numbers are those of the authors' code.
- Gers, Schmidhuber and Cummins 2000: Learning to Forget: Continual Prediction with LSTM.
- Glorot and Bengio 2010: Understanding the Difficulty of Training Deep Feedforward Neural Networks.
- Gu, Gulcehre, Paine, Hoffman and Pascanu 2020: Improving the Gating Mechanism of Recurrent Neural Networks.
- Jozefowicz, Zaremba and Sutskever 2015: An Empirical Exploration of Recurrent Network Architectures.
- Saxe, McClelland and Ganguli 2014: Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear
  Neural Networks.
- Tallec and Ollivier 2018: Can Recurrent Neural Networks Warp Time?
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn

from recurra.types import GRU_GATES, LSTM_GATES

Layer = TypeVar("Layer", bound=nn.Module)

_GATES = {4: LSTM_GATES, 3: GRU_GATES, 1: ("hidden",)}  # by how often H goes into the rows of weight_hh
_KEEPS = ("forget", "update")
_WEIGHT = re.compile(r"weight_hh(?P<place>(_l\d+(_reverse)?)?)")


def forget_bias_(layer: Layer, value: float = 1.0) -> Layer:
    """Sets the bias of each forget gate, or of a GRU's update gate, to `value`.

    A forget gate that is open at first lets a memory, and its gradient, last until the layer has learnt when
    to forget (Gers et al. 2000; Jozefowicz et al. 2015, who recommend 1). torch begins with about 0, which
    halves a memory at each step. Raises ValueError for a layer without such a gate or without biases, and for
    a value that is not finite.

    For example::

        layer = forget_bias_(LSTM(3, 8), 1.0)
        layer.bias_ih_l0[8:16]      # ones; layer.bias_hh_l0[8:16] is zero
    """
    if not math.isfinite(value):
        raise ValueError(f"value: expected a finite number, got {value}; 1.0 is the usual one")

    def biases(keep: Tensor) -> Tensor:
        return torch.full_like(keep, value)

    return _set_biases(layer, "forget_bias_", biases)


def chrono_(layer: Layer, longest: float, generator: Generator | None = None) -> Layer:
    """Chrono initialisation: units that remember for 2 to `longest` steps.

    b_f = log u with u ~ U(1, longest − 1), and b_i = −b_f for the input gate, so that i = 1 − f at first
    (Tallec and Ollivier 2018, equation 16). For a GRU b_z = log u: the paper's sign turned about, see above;
    the candidate's weight is 1 − z already. longest: the longest dependency expected, in steps, such as the
    length of the sequences. Raises ValueError for a layer without a forget or update gate or without biases,
    and for a longest below 2.

    For example::

        layer = chrono_(LSTM(3, 8), longest=1000)
        steps = 1 + layer.bias_ih_l0[8:16].exp()      # (8,), each 2 to 1000
    """
    if not 2 <= longest < math.inf:
        raise ValueError(
            f"longest: expected a finite number of steps, at least 2, got {longest}; "
            "give the longest dependency that you expect, such as the length of the sequences"
        )

    def biases(keep: Tensor) -> Tensor:
        return _uniform(keep, 1.0, longest - 1.0, generator).log()

    return _set_biases(layer, "chrono_", biases, ("input",))


def uniform_gate_(layer: Layer, generator: Generator | None = None) -> Layer:
    """Uniform gate initialisation: the forget gates begin at values u spread evenly over 0..1.

    b_f = −log(1/u − 1), the inverse of the sigmoid (Gu et al. 2020, equation 12). u ~ U(1/H, 1 − 1/H), so
    that no gate begins shut or open for good: the longest memory is about H steps, with no number to choose.
    Where the input gate is a gate of its own, b_i = −b_f, so that i = 1 − f at first, as in `chrono_`; the
    paper's refine gate, of `CoupledLSTM(refine=True)`, has b_r = −b_f too. A GRU's update gate takes the
    forget gate's part. Raises ValueError for a layer without such a gate or without biases, or with fewer
    than 2 units.

    For example::

        layer = uniform_gate_(GRU(3, 8))
        update = layer.bias_ih_l0[8:16].sigmoid()      # (8,), each 1/8 to 7/8
    """

    def biases(keep: Tensor) -> Tensor:
        units = keep.numel()
        if units < 2:
            raise ValueError(
                f"layer: expected at least 2 hidden units, over which u is spread, got {units}; "
                "use forget_bias_ for a single unit"
            )
        return torch.logit(_uniform(keep, 1.0 / units, 1.0 - 1.0 / units, generator))

    return _set_biases(layer, "uniform_gate_", biases, ("input", "refine"))


def linspace_(layer: Layer, first: float = 3.0, last: float = 6.0) -> Layer:
    """Forget-gate biases evenly spaced over the units, from `first` to `last`: a ladder of memories.

    Unit k of H gets b = first + (last − first) k / (H − 1), so that its memory of 1 + exp(b) steps grows by
    nearly the same factor from each unit to the next. 3 to 6, about 21 to 404 steps, are the numbers of an
    mLSTM's forget gate in the code of xLSTM (Beck et al. 2024). Nothing is drawn at random, and the input
    gate stays as it was. A GRU's update gate takes the forget gate's part. Raises ValueError for a layer
    without such a gate or without biases, and for a bias that is not finite.

    For example::

        layer = linspace_(LSTM(3, 7), 3.0, 6.0)
        layer.bias_ih_l0[7:14]      # 3.0, 3.5, … 6.0
    """
    for name, value in (("first", first), ("last", last)):
        if not math.isfinite(value):
            raise ValueError(f"{name}: expected a finite bias, got {value}; 3.0 to 6.0 are the usual ones")

    def biases(keep: Tensor) -> Tensor:
        return torch.linspace(first, last, keep.numel(), dtype=keep.dtype, device=keep.device)

    return _set_biases(layer, "linspace_", biases)


def orthogonal_(layer: Layer, gain: float = 1.0, generator: Generator | None = None) -> Layer:
    """Makes each gate's own recurrent matrix `gain` times a random orthogonal one.

    An orthogonal matrix keeps the length of what it is multiplied with (Saxe et al. 2014). torch's weight_hh
    holds the matrices of all gates, one above the other; each (H, H) block is drawn for itself. With a
    projection a block is (H, P), its columns orthonormal. A plain RNN has one block. All other weights stay.
    Raises ValueError for what is no recurrent layer and for a gain that is not positive.

    For example::

        layer = orthogonal_(RNN(3, 8, nonlinearity="relu"))
        layer.weight_hh_l0 @ layer.weight_hh_l0.T      # the identity
    """
    _check_gain(gain)
    for place, gates in _places(layer, "orthogonal_"):
        blocks = len(gates) * getattr(layer, "heads", 1)
        _each_gate(_weight(layer, "weight_hh", place), blocks, nn.init.orthogonal_, gain, generator)
    return layer


def xavier_(layer: Layer, gain: float = 1.0, generator: Generator | None = None) -> Layer:
    """Draws each gate's input matrix (H, F) from U(−a, a), a = gain · √(6 / (F + H)).

    Glorot and Bengio 2010, equation 16, with each gate as a layer of its own: were weight_ih taken whole, as
    is often done, an LSTM's four gates would count as one layer of 4 H units. In an upper layer F is D·H, or
    D·P, of the layer below. torch begins with U(−1/√H, 1/√H), whatever F is. All other weights stay. Raises
    ValueError for what is no recurrent layer and for a gain that is not positive.

    For example::

        layer = orthogonal_(xavier_(LSTM(3, 8)))
        layer.weight_ih_l0.abs().max()      # below √(6 / 11)
    """
    _check_gain(gain)
    for place, gates in _places(layer, "xavier_"):
        _each_gate(_weight(layer, "weight_ih", place), len(gates), nn.init.xavier_uniform_, gain, generator)
    return layer


def _check_gain(gain: float) -> None:
    if not 0 < gain < math.inf:
        raise ValueError(f"gain: expected a positive number, got {gain}; 1.0 leaves the scale as it is")


def _places(layer: nn.Module, caller: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """For each layer and direction what follows `weight_hh` in its name, and its gates in order."""
    own = dict(layer.named_parameters(recurse=False))
    places = [match["place"] for name in own if (match := _WEIGHT.fullmatch(name))]
    size = getattr(layer, "hidden_size", None)
    if not places or not isinstance(size, int):
        raise ValueError(
            "layer: expected a recurrent layer or cell with hidden_size and weight_hh, got "
            f"{type(layer).__name__}; give {caller} the layer itself, before its weights are parametrized"
        )
    for place in places:
        rows = own[f"weight_hh{place}"].shape[0]
        gates = getattr(layer, "gate_names", None) or _GATES.get(rows // size, ())
        if len(gates) * size != rows:
            raise ValueError(
                f"layer: expected weight_hh{place} of 4, 3 or 1 times {size} rows, as in torch's LSTM, GRU "
                f"and RNN, got {rows} rows in {type(layer).__name__}; name the gates in its gate_names"
            )
        yield place, tuple(gates)


def _weight(layer: nn.Module, kind: str, place: str) -> Tensor:
    found = getattr(layer, f"{kind}{place}")
    assert isinstance(found, Tensor)
    return found


@torch.no_grad()
def _each_gate(
    weight: Tensor, blocks: int, draw: Callable[..., Tensor], gain: float, generator: Generator | None
) -> None:
    """Draws each block of rows for itself."""
    for block in weight.chunk(blocks):
        values = torch.empty_like(block, dtype=_precise(weight), device=_device(weight, generator))
        block.copy_(draw(values, gain=gain, generator=generator))


@torch.no_grad()
def _set_biases(
    layer: Layer, caller: str, biases: Callable[[Tensor], Tensor], against: tuple[str, ...] = ()
) -> Layer:
    """Sets the bias of the gate that keeps, and its negative for those `against` it that there are."""
    places = list(_places(layer, caller))
    for place, gates in places:
        if not set(_KEEPS) & set(gates):
            raise ValueError(
                f"layer: expected an LSTM or a GRU, whose forget or update gate {caller} sets, got "
                f"{type(layer).__name__}, which has no such gate; leave it out, or use orthogonal_"
            )
        if getattr(layer, f"bias_ih{place}", None) is None:
            raise ValueError(
                f"layer: expected a layer with biases, which {caller} sets, got {type(layer).__name__} with "
                "bias=False; build it with bias=True"
            )
    for place, gates in places:
        whole = dict(zip(gates, _weight(layer, "bias_ih", place).chunk(len(gates)), strict=True))
        zero = dict(zip(gates, _weight(layer, "bias_hh", place).chunk(len(gates)), strict=True))
        (keep,) = set(_KEEPS) & set(gates)
        values = biases(whole[keep].to(_precise(whole[keep])))
        signed = {keep: values} | {gate: -values for gate in against if gate in gates}
        for gate, bias in signed.items():
            whole[gate].copy_(bias)
            zero[gate].zero_()
    return layer


def _uniform(like: Tensor, low: float, high: float, generator: Generator | None) -> Tensor:
    """As many numbers from U(low, high) as `like` has, in its precision."""
    values = torch.empty(like.shape, dtype=like.dtype, device=_device(like, generator))
    return values.uniform_(low, high, generator=generator)


def _precise(weight: Tensor) -> torch.dtype:
    """What to compute in: float32 for half precision, which knows no QR and few values of U(low, high)."""
    return torch.promote_types(weight.dtype, torch.float32)


def _device(weight: Tensor, generator: Generator | None) -> torch.device:
    return weight.device if generator is None else generator.device
