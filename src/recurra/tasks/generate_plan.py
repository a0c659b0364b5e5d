"""The numbers of a language model and of its training, chosen from the size of the text.

Two recipes. "adamw": AdamW along half a cosine; a wide LSTM for few tokens (characters), for many (words,
Chinese characters) a tied one with AWD-LSTM's dropouts. "awd": AWD-LSTM as published for the Penn Treebank,
SGD and then averaged SGD (Merity, Keskar and Socher 2018, section 5); it wants days of CPU, or a GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recurra.errors import ArgumentError

RECIPES = ("adamw", "awd")
FEW_TOKENS = 1000
"""Up to so many different tokens the output costs next to nothing, and is not tied."""
_WORK = 1.4e11  # floating-point operations a second of two usual cores, measured on this engine
_FASTER = 1.5  # times as many where products are in bfloat16
_MUCH = 3_000_000
_OFTEN = 16  # from so many passes over a text on, recurrent weights are dropped too, whatever the tokens
_LONG = 10_000_000  # tokens to read from which on there is time for fewer, larger steps


@dataclass(frozen=True)
class Plan:
    """Everything that `LanguageModel.fit` decides before it begins; see `recurra.tasks.generate_network`.

    streams N, window T; resets: the chance that a stream begins anew at a window. epochs None: until the
    seconds are over. precision: Lightning Fabric's name for it.
    """

    embedding_size: int
    hidden_sizes: tuple[int, ...]
    tied: bool
    embedding_dropout: float
    input_dropout: float
    hidden_dropout: float
    output_dropout: float
    weight_drop: float
    activity: float
    change: float
    forget_bias: float | None
    streams: int
    window: int
    varied: bool
    resets: float
    epochs: int | None
    seconds: float | None
    learning_rate: float
    weight_decay: float
    clip: float
    optimizer: str
    schedule: str
    precision: str = "32-true"

    @property
    def weights_in_use(self) -> int:
        """How many weights a token meets, which is half the operations that it costs forward."""
        sizes = (self.embedding_size, *self.hidden_sizes)
        return sum(4 * size * (below + size) for below, size in zip(sizes, self.hidden_sizes, strict=False))


AWD = Plan(
    embedding_size=400, hidden_sizes=(1150, 1150, 400), tied=True, embedding_dropout=0.1, input_dropout=0.4,
    hidden_dropout=0.25, output_dropout=0.4, weight_drop=0.5, activity=2.0, change=1.0, forget_bias=None,
    streams=20, window=70, varied=True, resets=0.0, epochs=500, seconds=None, learning_rate=30.0,
    weight_decay=1.2e-6, clip=0.25, optimizer="ntasgd", schedule="constant",
)  # fmt: skip
"""AWD-LSTM for the Penn Treebank."""


def choose_plan(
    count: int, tokens: int, *, recipe: str = "adamw", minutes: float | None = None, bfloat16: bool = False
) -> Plan:
    """The plan for a text of `count` tokens, `tokens` of them different, and perhaps a time.

    bfloat16: whether this machine multiplies such numbers faster. They are used where the time is given, so
    that the result depends on the machine anyway, and the tokens are many. "adamw" is here without any
    dropout: `with_numbers` adds it. Raises ArgumentError for another recipe.
    """
    if recipe not in RECIPES:
        raise ArgumentError(f"recipe: expected one of {', '.join(RECIPES)}, got {recipe!r}; choose one")
    seconds = None if minutes is None else 60.0 * minutes
    if recipe == "awd":
        return dataclasses.replace(AWD, seconds=seconds, epochs=AWD.epochs if seconds is None else None)
    few = tokens <= FEW_TOKENS
    plans = [_sized(size, count, few, seconds) for size in _sizes(count, few, seconds is not None)]
    if bfloat16 and seconds is not None and not few:
        plans = [dataclasses.replace(plan, precision="bf16-mixed") for plan in plans]
    if seconds is None:
        # two layers of characters are for who gives them the time, or has very much text
        return next(plan for plan in plans if plan.tied or len(plan.hidden_sizes) == 1 or count >= _MUCH)
    # the largest network that the time lets read the text, or the first million tokens of it, often enough:
    # measured on the Penn Treebank in 1, 2.5 and 120 minutes, and on Tiny Shakespeare
    for plan in plans:
        if few:
            least = 4.0 if len(plan.hidden_sizes) == 1 else 20.0
        else:
            least = _OFTEN if plan.hidden_sizes[0] >= 800 else 1.5
        if passes(plan, min(count, 1_000_000), tokens) >= least:
            break
    if not few and count * passes(plan, count, tokens) >= _LONG:
        plan = dataclasses.replace(plan, streams=32, window=35)
    return plan


def passes(plan: Plan, count: int, tokens: int) -> float:
    """How often the text is read: the epochs, or what two usual cores do in the time."""
    if plan.seconds is None:
        return float(plan.epochs or 1)
    work = 6.0 * (plan.weights_in_use + tokens * plan.hidden_sizes[-1])
    rate = _WORK * (_FASTER if plan.precision == "bf16-mixed" else 1.0)
    return plan.seconds * rate / work / count


def with_dropout(plan: Plan, dropout: float) -> Plan:
    """The plan with this dropout of the output, and the others in AWD-LSTM's proportion to it.

    Without a tied embedding nothing is dropped before the first layer, nor are recurrent weights.
    """
    if not plan.tied:
        return dataclasses.replace(plan, output_dropout=dropout, hidden_dropout=dropout)
    return dataclasses.replace(
        plan, embedding_dropout=dropout / 4, input_dropout=dropout, hidden_dropout=dropout * 5 / 8,
        output_dropout=dropout, weight_drop=min(0.9, dropout * 5 / 4),
    )  # fmt: skip


def with_numbers(
    plan: Plan,
    count: int,
    tokens: int,
    *,
    hidden_sizes: int | Sequence[int] | None,
    dropout: float | None,
    window: int | None,
    streams: int | None,
    epochs: int | None,
    learning_rate: float | None,
) -> Plan:
    """The plan with the user's own numbers, cut to a text of `count` tokens where it is short."""
    changes: dict[str, Any] = {}
    if hidden_sizes is not None:
        sizes = (hidden_sizes,) if isinstance(hidden_sizes, int) else tuple(hidden_sizes)
        changes = {"hidden_sizes": sizes}
        changes["embedding_size"] = sizes[-1] if plan.tied else min(plan.embedding_size, sizes[0])
    given = {"window": window, "streams": streams, "epochs": epochs, "learning_rate": learning_rate}
    changes |= {name: value for name, value in given.items() if value is not None}
    plan = dataclasses.replace(plan, **changes)
    if dropout is None and plan.optimizer == "adam":
        times = passes(plan, count, tokens)
        plan = with_dropout(plan, _dropout(times, few=not plan.tied))
        if times >= _OFTEN:
            plan = dataclasses.replace(plan, weight_drop=max(plan.weight_drop, 0.4))
    elif dropout is not None:
        plan = with_dropout(plan, dropout)
    steps = max(1, min(plan.window, count // 4))
    return dataclasses.replace(plan, window=steps, streams=max(1, min(plan.streams, count // (4 * steps))))


def _sizes(count: int, few: bool, timed: bool) -> list[tuple[int, ...]]:
    """Hidden sizes worth trying for a text of this length, the largest first. timed: a time is given."""
    if few:
        every = [(768, 768), (512, 512), (512,), (384,), (256,), (128,), (64,)]
        bounds = [100_000_000, 800_000, 300_000, 150_000, 50_000, 10_000, 0]
    else:
        every = [(1024, 512), (800, 400), (600, 300), (384, 192), (192, 96), (64, 32)]
        bounds = [5_000_000, 400_000 if timed else 5_000_000, 400_000, 100_000, 20_000, 0]
    return [sizes for sizes, least in zip(every, bounds, strict=True) if count >= least]


def _sized(sizes: tuple[int, ...], count: int, few: bool, seconds: float | None) -> Plan:
    read = 12_000_000 if few else 10_000_000  # tokens, of the text as often as that takes
    epochs = None if seconds is not None else max(1, min(30, round(read / count)))
    if few:
        streams, window = (8, 64) if count >= 100_000 else (8, 32)
        rate = 2e-3 if len(sizes) > 1 else 3e-3 if count >= 100_000 else 4e-3
    else:
        streams, window = (8, 64) if count >= 200_000 else (8, 32)
        rate = 3e-3
    return Plan(
        embedding_size=min(64, sizes[0]) if few else sizes[-1], hidden_sizes=sizes, tied=not few,
        embedding_dropout=0.0, input_dropout=0.0, hidden_dropout=0.0, output_dropout=0.0, weight_drop=0.0,
        activity=0.0, change=0.0, forget_bias=1.0, streams=streams, window=window, varied=False, resets=0.02,
        epochs=epochs, seconds=seconds, learning_rate=rate, weight_decay=0.01, clip=1.0, optimizer="adam",
        schedule="cosine",
    )  # fmt: skip


def _dropout(times: float, few: bool) -> float:
    """The more often a text is read, the more must be dropped lest it is learnt by heart."""
    if few:
        return 0.1 if times < 3 else 0.2 if times < 10 else 0.4
    return 0.1 if times < 4 else 0.3 if times < 12 else 0.4
