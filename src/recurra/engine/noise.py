"""Zoneout and recurrent dropout: which units of which row, at which step, are kept back.

Axes: N batch, T time, H hidden, P projection (see `recurra.types`). ⊙ multiplies number by number.

Zoneout (Krueger et al. 2017) lets each unit of the state keep, with chance p, the value that it
had at the step before::

    c_t = c_{t-1} where zoned out, else c̃_t        c̃_t, h̃_t: what the cell computes from the states before
    h_t = h_{t-1} where zoned out, else h̃_t        h̃_t comes of c̃_t, not of c_t

Where nothing is drawn, as in evaluation, c_t = p c_{t-1} + (1 - p) c̃_t, its expectation, and h_t likewise.

Recurrent dropout (Gal and Ghahramani 2016) hides the same units of h_{t-1} from the recurrent product at
all steps of a row: it reads m ⊙ h_{t-1}, with m = 0 where dropped, else 1 / (1 - p). What a GRU carries along
and what zoneout keeps is h_{t-1} itself. Where nothing is drawn, m = 1.

What is drawn comes from a counter (`philox`) and not from torch's generators: it depends on the seed, the
stream, which is one layer in one direction, the row, the step and the unit, and on nothing else. So it is the
same on every device and in every precision, and under `vmap` each call sees the rows that it is given, from 0
on. A row of a longer batch or with more steps after its own is kept back in the same places.

Where a mask is drawn it selects: a product with zero would carry NaN across, forward and backward.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 7
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # what is added to the two halves of the key after each round
WHOLE_SEQUENCE = 0xFFFFFFFF  # the time of a mask that is the same at all steps


class Noise(NamedTuple):
    """Chances, 0 to 1, and where the random numbers come from.

    seed: 0 to 2⁶⁴ - 1, or None: nothing is drawn, zoneout is its expectation and nothing is dropped. Inside a
    graph that torch compiles, a tensor () int64 may take its place, which holds the same 64 bits.
    """

    zoneout_hidden: float = 0.0  # that a unit's hidden state stays as it was at the step before
    zoneout_cell: float = 0.0  # that a unit's cell state does
    recurrent_dropout: float = 0.0  # that a unit of h is hidden from the recurrent product, at all steps
    seed: int | None = None
    layer: int = 0  # of the lowest layer of the call: layer l has the streams 2l and 2l + 1


class Zone(NamedTuple):
    """Zoneout of one state, where each unit stays with chance p."""

    p: float
    stays: Tensor | None  # (N, T, H|P) bool: True where the state of the step before stays; None: expectation


class Dropped(NamedTuple):
    """Recurrent dropout: the units that the product does not read, each dropped with chance p."""

    p: float
    units: Tensor  # (N, P|H) bool


class Draws(NamedTuple):
    """What `draw` returns: zoneout of the hidden and the cell state, and recurrent dropout; None: no such."""

    hidden: Zone | None = None
    cell: Zone | None = None
    recurrent: Dropped | None = None


def draw(noise: Noise | None, stream: int, x: Tensor, hidden: int, cell: int | None = None) -> Draws:
    """All that one layer in one direction needs, drawn at once for each row, step and unit.

    stream: 2·layer + direction; `noise.layer` is not looked at. x: (N, T, F), for its sizes and its device.
    hidden: P, or H without a projection. cell: H, or None for a cell that has no cell state.
    Raises ValueError where `check` does.

    For example::

        >>> import torch
        >>> from recurra.engine.noise import Noise, draw
        >>> draw(Noise(zoneout_hidden=0.5, seed=1), 0, torch.zeros(2, 3, 7), hidden=4).hidden.stays.shape
        torch.Size([2, 3, 4])
    """
    if noise is None:
        return Draws()
    check(noise, has_cell=cell is not None)
    p_hidden, p_cell, p_recurrent = noise.zoneout_hidden, noise.zoneout_cell, noise.recurrent_dropout
    if noise.seed is None:
        return Draws(Zone(p_hidden, None) if p_hidden else None, Zone(p_cell, None) if p_cell else None)
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(-1)  # (N, 1)
    zones: list[Zone | None] = [None, None]
    if p_hidden or p_cell:
        widths = hidden if p_hidden else 0, cell if p_cell and cell else 0
        units = torch.arange(max(widths), device=x.device)
        times = torch.arange(x.shape[1], device=x.device).unsqueeze(-1)  # (T, 1)
        words = philox(units, times, rows.unsqueeze(-1), stream, noise.seed)  # four of (N, T, units)
        zones = [
            Zone(p, below(word[..., :width], p)) if p else None
            for p, word, width in zip((p_hidden, p_cell), words[:2], widths, strict=True)
        ]
    recurrent = None
    if p_recurrent:
        units = torch.arange(hidden, device=x.device)
        words = philox(units, WHOLE_SEQUENCE, rows, stream, noise.seed)  # four of (N, hidden)
        recurrent = Dropped(p_recurrent, below(words[2], p_recurrent))
    return Draws(zones[0], zones[1], recurrent)


def stay(zone: Zone | None, t: int, new: Tensor, old: Tensor) -> Tensor:
    """The state (N, H) after step t: `new`, the one that the cell computed, and `old` where that stays."""
    if zone is None:
        return new
    if zone.stays is None:
        return zone.p * old + (1 - zone.p) * new
    return torch.where(zone.stays[:, t], old, new)


def drop(recurrent: Dropped | None, h: Tensor) -> Tensor:
    """What the recurrent product reads of the hidden state `h` (N, P|H)."""
    if recurrent is None:
        return h
    kept = 1 / (1 - recurrent.p) if recurrent.p < 1 else 0.0
    return (h * kept).masked_fill(recurrent.units, 0)


def philox(
    unit: Tensor, time: Tensor | int, row: Tensor, stream: int, seed: int | Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words of 32 random bits for each counter (unit, time, row, stream) under the key `seed`.

    Philox4x32 with 7 rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
    2011). unit, time, row: int64, 0 to 2³² - 1, of shapes that broadcast; stream likewise. seed: 0 to
    2⁶⁴ - 1, the low half first, or a tensor () int64 of the same bits. Returns int64, 0 to 2³² - 1,
    on the device of `unit`.

    For example::

        >>> import torch
        >>> from recurra.engine.noise import philox
        >>> zero = torch.tensor(0)
        >>> [hex(int(word)) for word in philox(zero, 0, zero, 0, seed=0)]
        ['0x5f6fb709', '0xd893f64', '0x4f121f81', '0x4f730a48']
    """
    key_0, key_1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    first, third = unit, row
    second: Tensor | int = time
    fourth: Tensor | int = stream
    for _ in range(ROUNDS):
        high_0, low_0 = _product(first, MULTIPLIERS[0])
        high_1, low_1 = _product(third, MULTIPLIERS[1])
        first, second, third, fourth = high_1 ^ second ^ key_0, low_1, high_0 ^ fourth ^ key_1, low_0
        key_0, key_1 = (key_0 + WEYL[0]) & 0xFFFFFFFF, (key_1 + WEYL[1]) & 0xFFFFFFFF
    assert isinstance(second, Tensor)
    assert isinstance(fourth, Tensor)
    return first, second, third, fourth


def _product(word: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """The high and the low 32 bits of word · by, both below 2³²."""
    # by halves of 16 bits: the whole product does not fit into the 63 bits of int64
    upper, lower = (word >> 16) * by, (word & 0xFFFF) * by
    middle = upper + (lower >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (lower & 0xFFFF)


def below(word: Tensor, p: float) -> Tensor:
    """True with chance p: where the upper 24 bits of `word`, as a number in 0..1, are below p in float32."""
    return (word >> 8).to(torch.float32) * 2.0**-24 < torch.tensor(p, dtype=torch.float32, device=word.device)


def check(noise: Noise, has_cell: bool) -> None:
    """Raises ValueError for what no cell can do. has_cell: whether the cell has a cell state."""
    for name in ("zoneout_hidden", "zoneout_cell", "recurrent_dropout"):
        p = getattr(noise, name)
        if not 0 <= p <= 1:
            raise ValueError(
                f"{name}: expected a chance, 0 to 1, got {p}; give the part of units that it hits"
            )
    if noise.zoneout_cell and not has_cell:
        raise ValueError(
            "zoneout_cell: expected 0, since this cell has no cell state that could stay, "
            f"got {noise.zoneout_cell}; give zoneout_hidden"
        )
    if isinstance(noise.seed, int) and not 0 <= noise.seed < 2**64:
        raise ValueError(
            f"seed: expected None or 0 to 2**64 - 1, got {noise.seed}; take it modulo 2**64, or draw another"
        )
    if noise.layer < 0:
        raise ValueError(f"layer: expected 0 or more, got {noise.layer}; count the layers from the lowest")
