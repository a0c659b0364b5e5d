"""How the next token is drawn from what a language model expects. Axes: K tokens.

In this order: tokens said before are made less likely (`repetition`), `temperature` divides the logits, only
the `top_k` likeliest stay, and of these the fewest that hold `top_p` of the probability.

- Temperature: Ackley, Hinton and Sejnowski 1985; below 1 the likely become likelier. 0 takes the likeliest.
- Top-k: Fan, Lewis and Dauphin 2018, "Hierarchical neural story generation".
- Top-p: Holtzman et al. 2020, "The curious case of neural text degeneration".
- Repetition: Keskar et al. 2019, "CTRL", section 4.1, over the last tokens instead of all.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from recurra.errors import ArgumentError

_REMEMBERED = 64  # tokens that `repetition` looks back


@dataclass(frozen=True)
class Sampling:
    """How to draw. Raises ArgumentError for a value that makes no sense.

    temperature: 0 or more; 0 always takes the likeliest token. top_k: how many tokens may be drawn, None for
    all. top_p: in (0, 1], the share of the probability that may be drawn. repetition: 1 or more, by which
    the odds of the last 64 tokens are made worse; 1 leaves them.

    For example::

        sampling = Sampling(temperature=0.8, top_k=40, top_p=0.9)
        chances = sampling.chances(torch.tensor([2.0, 1.0, -3.0]))      # (3,), they sum to 1
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition: float = 1.0

    def __post_init__(self) -> None:
        conditions: list[tuple[str, type, Callable[[Any], bool], str]] = [
            ("temperature", Real, lambda heat: 0 <= heat < math.inf, "0 or more, such as 0.8"),
            ("top_k", Integral, lambda most: most >= 1, "1 or more, such as 40, or None"),
            ("top_p", Real, lambda share: 0 < share <= 1, "above 0 and at most 1, such as 0.9"),
            ("repetition", Real, lambda factor: 1 <= factor < math.inf, "1 or more, such as 1.2"),
        ]
        for name, kind, holds, expected in conditions:
            value = getattr(self, name)
            if name == "top_k" and value is None:
                continue
            if not isinstance(value, kind) or not holds(value):
                raise ArgumentError(f"{name}: expected {expected}, got {value!r}; change it")

    def chances(self, logits: Tensor, said: Sequence[int] = ()) -> Tensor:
        """logits (K,), -inf for what must not come → probabilities (K,), float64. said: earlier tokens."""
        scores = logits.double().clone()
        if self.repetition > 1 and said:
            places = torch.tensor(sorted(set(said)))
            old = scores[places]
            scores[places] = torch.where(old > 0, old / self.repetition, old * self.repetition)
        if self.temperature == 0:
            return torch.nn.functional.one_hot(scores.argmax(), len(scores)).double()
        scores = (scores - scores.max()) / self.temperature
        if self.top_k is not None and self.top_k < len(scores):
            least = scores.topk(self.top_k).values[-1]
            scores[scores < least] = -math.inf
        chances = scores.softmax(0)
        if self.top_p < 1:
            ordered, places = chances.sort(descending=True, stable=True)
            before = ordered.cumsum(0) - ordered  # the likeliest has nothing before it, so one always stays
            chances[places[before >= self.top_p]] = 0
            chances /= chances.sum()
        return chances


class Drawer:
    """Draws one token after another from logits, by a seed of its own."""

    def __init__(self, sampling: Sampling, seed: int, forbidden: Sequence[int] = ()) -> None:
        """forbidden: tokens that are never drawn, such as padding."""
        self.sampling, self.forbidden = sampling, list(forbidden)
        self.generator = torch.Generator().manual_seed(seed)
        self.said: deque[int] = deque(maxlen=_REMEMBERED)

    def draw(self, logits: Tensor) -> int:
        """The next token, from logits (K,)."""
        logits = logits.detach().cpu().clone()
        logits[self.forbidden] = -math.inf
        chances = self.sampling.chances(logits, tuple(self.said))
        number = int(torch.multinomial(chances, 1, generator=self.generator))
        self.said.append(number)
        return number
