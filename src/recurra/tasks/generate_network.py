"""A language model on tensors: embedding, LSTM layers, tied output; and its training on parallel streams.

    p(x_{t+1} | x_1 … x_t) = softmax(W h_t + b),   h_t = LSTM(E x_t, h_{t-1})

With `tied`, W is the embedding E (Press and Wolf 2017; Inan, Khosravi and Socher 2017). What keeps it from
learning by heart is AWD-LSTM's: whole words dropped from the embedding, one mask for all steps of a stream
on what goes into, between and out of the layers, recurrent weights dropped, and costs on the size of the
output and on its change (Merity, Keskar and Socher 2018, section 4).

Axes: N streams, T steps, K tokens, E embedding, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from recurra.nn.init import forget_bias_, orthogonal_
from recurra.nn.recurrent import LSTM
from recurra.tasks.vocabulary_loss import vocabulary_loss, vocabulary_nats

_MOST_LOGITS = 1 << 23  # at once, when nothing is learnt

State: TypeAlias = tuple[tuple[Tensor, Tensor], ...]  # of each layer h and c, (1, N, H) each


class LanguageNetwork(nn.Module):
    """What follows each token: logits of all K tokens.

    tokens: K. embedding_size: E. hidden_sizes: H of each layer, the lowest first; the last is E where `tied`.
    The dropouts are probabilities: of a token's whole embedding, of the numbers going into the first layer,
    between layers, out of the last; weight_drop: of the recurrent weights. forget_bias: of the forget gates,
    with orthogonal recurrent weights; None: all as torch draws it. Raises ValueError for sizes and
    probabilities that do not fit.

    For example::

        network = LanguageNetwork(65, 32, (128, 32))
        logits, states = network(torch.zeros(4, 7, dtype=torch.int64))      # (4, 7, 65)
        logits, states = network(torch.zeros(4, 1, dtype=torch.int64), states)
    """

    def __init__(
        self,
        tokens: int,
        embedding_size: int,
        hidden_sizes: Sequence[int],
        *,
        tied: bool = True,
        embedding_dropout: float = 0.0,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        output_dropout: float = 0.0,
        weight_drop: float = 0.0,
        forget_bias: float | None = 1.0,
    ) -> None:
        super().__init__()
        sizes = (embedding_size, *hidden_sizes)
        if tied and sizes[-1] != embedding_size:
            raise ValueError(
                f"hidden_sizes: expected the last to be embedding_size ({embedding_size}), whose weights the "
                f"output shares, got {tuple(hidden_sizes)}; change it, or give tied=False"
            )
        chances = (embedding_dropout, input_dropout, hidden_dropout, output_dropout, weight_drop)
        if not all(0.0 <= chance < 1.0 for chance in chances):
            raise ValueError(f"dropouts: expected numbers from 0 to below 1, got {chances}; change them")
        self.embedding = nn.Embedding(tokens, embedding_size)
        self.layers = nn.ModuleList(
            LSTM(below, size, batch_first=True, weight_drop=weight_drop)
            for below, size in zip(sizes, hidden_sizes, strict=False)
        )
        self.bias = nn.Parameter(torch.zeros(tokens))
        self.output = None if tied else nn.Parameter(torch.empty(tokens, sizes[-1]))
        if self.output is None:
            nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        else:
            nn.init.uniform_(self.output, -(sizes[-1] ** -0.5), sizes[-1] ** -0.5)
        if forget_bias is not None:
            for layer in self.layers:
                forget_bias_(orthogonal_(layer), forget_bias)
        self.embedding_dropout, self.input_dropout = embedding_dropout, input_dropout
        self.hidden_dropout, self.output_dropout = hidden_dropout, output_dropout

    def forward(self, tokens: Tensor, states: State | None = None) -> tuple[Tensor, State]:
        """tokens (N, T) int64 → logits (N, T, K), and the states after them, to go on from."""
        hidden, _, states = self.hidden(tokens, states)
        return self.logits(hidden), states

    def hidden(self, tokens: Tensor, states: State | None = None) -> tuple[Tensor, Tensor, State]:
        """The last layer's output (N, T, H) with its dropout, without it, and the states after it."""
        weight = self.embedding.weight
        if self.training and self.embedding_dropout:
            weight = functional.dropout(weight.new_ones(len(weight), 1), self.embedding_dropout) * weight
        below = self._locked(functional.embedding(tokens, weight), self.input_dropout)
        raw, finals = below, []
        for place, layer in enumerate(self.layers):
            raw, final = layer(below, None if states is None else states[place])
            finals.append(final)
            last = place == len(self.layers) - 1
            below = self._locked(raw, self.output_dropout if last else self.hidden_dropout)
        return below, raw, tuple(finals)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) → (..., K)."""
        return functional.linear(hidden, *self.weights_out())

    def weights_out(self) -> tuple[Tensor, Tensor]:
        """W (K, H) and b (K,) of the logits."""
        return self.embedding.weight if self.output is None else self.output, self.bias

    def _locked(self, x: Tensor, chance: float) -> Tensor:
        """One mask for all steps: Gal and Ghahramani 2016."""
        if not self.training or not chance:
            return x
        return x * functional.dropout(x.new_ones(len(x), 1, x.shape[2]), chance)


@dataclass(frozen=True)
class Window:
    """A stretch of N parallel streams. tokens, targets: (N, T), a target being the token that follows.

    fresh: (N,) bool, the streams that begin here, from a zero state. rate: factor of the learning rate for
    this step.
    """

    tokens: Tensor
    targets: Tensor
    fresh: Tensor
    rate: float = 1.0


class Streams(nn.Module):
    """A network in training by truncated backpropagation: the states stay from one window to the next.

    They are buffers, so that a checkpoint of this module, and a run resumed from it, has them.
    activity, change: weights of AWD-LSTM's costs on h² and on (h_{t+1} - h_t)²; they and the dropouts pull
    at the gradient, while the value of `loss` stays nats per token.
    """

    def __init__(
        self, network: LanguageNetwork, streams: int, activity: float = 0.0, change: float = 0.0
    ) -> None:
        super().__init__()
        self.network, self.activity, self.change = network, activity, change
        sizes = [layer.hidden_size for layer in network.layers]
        for name in ("h", "c"):
            for place, size in enumerate(sizes):
                self.register_buffer(f"{name}_{place}", torch.zeros(1, streams, int(size)))  # type: ignore[arg-type]

    def loss(self, window: Window) -> Tensor:
        """Mean cross-entropy in nats of the window's tokens; the streams move on by it."""
        kept = ~window.fresh[None, :, None]
        states = tuple(
            (getattr(self, f"h_{place}") * kept, getattr(self, f"c_{place}") * kept)
            for place in range(len(self.network.layers))
        )
        hidden, raw, finals = self.network.hidden(window.tokens, states)
        weight, bias = self.network.weights_out()
        loss = vocabulary_loss(hidden.flatten(0, 1), weight, bias, window.targets.flatten())
        # a state that is not finite would stay so to the stream's end; the loop skips the step
        if self.training and bool(torch.isfinite(loss.detach())):
            for place, ((h, c), (h_before, c_before)) in enumerate(zip(finals, states, strict=True)):
                setattr(self, f"h_{place}", h.detach().to(h_before.dtype))
                setattr(self, f"c_{place}", c.detach().to(c_before.dtype))
        if not self.training or not (self.activity or self.change):
            return loss
        cost = self.activity * hidden.square().mean()
        if raw.shape[1] > 1:
            cost = cost + self.change * (raw[:, 1:] - raw[:, :-1]).square().mean()
        return loss + (cost - cost.detach())


class Windows:
    """The batches of an epoch: N streams of equal length, side by side, cut into windows.

    numbers: (T,) the whole text. Each epoch begins at another of the first tokens, so that windows fall
    differently. varied: AWD-LSTM's lengths, about `length`, and half of it one time in twenty, with the
    learning rate in proportion (Merity, Keskar and Socher 2018, section 5). resets: the chance that a stream
    begins anew at a window, so that the network learns to begin: from its first windows on a carried state
    would be all that it sees (Melis, Dyer and Blunsom 2018, "On the state of the art of evaluation in neural
    language models", have 0.01).
    """

    def __init__(
        self,
        numbers: NDArray[np.int64],
        streams: int,
        length: int,
        varied: bool = False,
        resets: float = 0.0,
    ) -> None:
        self.numbers = torch.from_numpy(numbers)
        self.streams, self.length, self.varied, self.resets = streams, length, varied, resets

    def __len__(self) -> int:
        steps = (len(self.numbers) - 1 - self._slack()) // self.streams
        mean = self.length * (0.975 if self.varied else 1.0)
        return max(1, round(steps / mean) if self.varied else -(-steps // self.length))

    def _slack(self) -> int:
        """Tokens that an epoch may leave out at its beginning: up to a window, never a tenth of the text."""
        return min(self.length, len(self.numbers) // 10)

    def __call__(self, generator: torch.Generator) -> Iterator[Window]:
        """The windows of one epoch, in order."""
        slack = self._slack()
        start = int(torch.randint(slack + 1, (), generator=generator))
        steps = (len(self.numbers) - 1 - slack) // self.streams
        used = self.numbers[start : start + steps * self.streams + 1]
        tokens, targets = used[:-1].view(self.streams, steps), used[1:].view(self.streams, steps)
        windows, at = [], 0
        while at < steps:
            length = self._drawn(generator)
            now = slice(at, min(at + length, steps))
            rate = length / self.length if self.varied else 1.0
            chance = 1.0 if at == 0 else self.resets
            fresh = torch.rand(self.streams, generator=generator) < chance
            windows.append(Window(tokens[:, now], targets[:, now], fresh, rate))
            at += length
        return iter(windows)

    def _drawn(self, generator: torch.Generator) -> int:
        if not self.varied:
            return self.length
        half = float(torch.rand((), generator=generator)) < 0.05
        centre = self.length / 2 if half else float(self.length)
        return max(5, int(centre + 5 * float(torch.randn((), generator=generator))))


@torch.no_grad()
def surprise(
    network: LanguageNetwork, numbers: NDArray[np.int64], start: int, streams: int = 1
) -> NDArray[np.float64]:
    """(T,) nats of each token after all those before it, the first one after the token `start`.

    streams: 1 reads the whole text as one stream with carried state, which is the protocol; more read as
    many parts of it side by side, each from a zero state, which is quicker and a little worse.
    """
    device = network.bias.device
    steps = -(-len(numbers) // streams)
    tokens = np.full(streams * steps + 1, start, dtype=np.int64)
    tokens[1 : len(numbers) + 1] = numbers
    inputs = torch.from_numpy(tokens[:-1]).view(streams, steps).to(device)
    targets = torch.from_numpy(tokens[1:]).view(streams, steps).to(device)
    mode, states, found = network.training, None, []
    chunk = max(16, min(256, _MOST_LOGITS // (streams * len(network.bias))))
    network.eval()
    for at in range(0, steps, chunk):
        now = slice(at, at + chunk)
        hidden, _, states = network.hidden(inputs[:, now], states)
        weight, bias = network.weights_out()
        nats = vocabulary_nats(hidden.flatten(0, 1), weight, bias, targets[:, now].flatten())
        found.append(nats.view(streams, -1).cpu())
    network.train(mode)
    whole = torch.cat(found, 1).flatten()[: len(numbers)].double().numpy()
    return np.asarray(whole, np.float64)
