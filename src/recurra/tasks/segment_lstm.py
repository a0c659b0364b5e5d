"""The forecasting network: an LSTM over segments of the lookback, every horizon at once, quantiles out.

An LSTM that reads 720 hourly values one by one and feeds its own forecasts back 96 times forgets and drifts.
SegRNN (Lin et al. 2023, arXiv:2308.11200) reads segments instead (30 steps of 24 hours) and gives each
segment of the horizon one step from a copy of the last state, told apart by an embedding of its position.
The output is the quantiles of what remains when the series' own level, trend and season are taken off, in
units of the series' usual one-step error (`tasks.smoothing`), and starts at the quantiles of that remainder
over the training windows: before its first step the network is exponential smoothing with empirical
intervals, and it learns from there.

Axes: N batch, T lookback, Q horizon, W steps in a segment, F features, H hidden, K quantiles, M members.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from recurra.nn import LSTM


@dataclass(frozen=True)
class Example:
    """A batch as the network takes it, float32.

    ``past`` (N, T, F_past) · ``future`` (N, Q, F_future) known covariates and calendar · ``static`` (N,
    F_static) · ``series`` (N,) int64 · ``target`` (N, Q) what remains of the truth, in units of the usual
    error · ``observed`` (N, Q) bool.
    """

    past: Tensor
    future: Tensor
    static: Tensor
    series: Tensor
    target: Tensor
    observed: Tensor

    def to(self, device: torch.device) -> Example:
        """The batch on another device."""
        return Example(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def pinball_loss(forecast: Tensor, target: Tensor, observed: Tensor, quantiles: Tensor) -> Tensor:
    """Mean pinball loss over observed targets, scalar (Koenker & Bassett 1978).

    ``forecast`` (…, N, Q, K) · ``target`` (N, Q) · ``observed`` (N, Q) bool · ``quantiles`` (K,).
    A target that is not observed adds nothing, whatever value stands there.
    """
    error = torch.where(observed, target, 0.0).unsqueeze(-1) - forecast
    loss = torch.maximum(quantiles * error, (quantiles - 1.0) * error)
    loss = torch.where(observed.unsqueeze(-1), loss, 0.0)
    members = loss[..., 0, 0, 0].numel()
    return loss.sum() / (observed.sum().clamp(min=1) * len(quantiles) * members)


class SegmentLSTM(nn.Module):
    """One member: (N, T, F_past), (N, Q, F_future), (N, F_static), (N,) → (N, Q, K).

    The lookback is padded on the left to whole segments, the horizon on the right.
    """

    def __init__(
        self,
        *,
        horizon: int,
        segment: int,
        hidden_size: int,
        past_size: int,
        future_size: int,
        static_size: int,
        series_count: int,
        quantile_count: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.horizon, self.segment, self.quantile_count = horizon, segment, quantile_count
        self.segments_out = -(-horizon // segment)
        self.encode = nn.Linear(segment * past_size, hidden_size)
        self.lstm = LSTM(hidden_size, hidden_size, batch_first=True)
        self.position = nn.Parameter(torch.randn(self.segments_out, hidden_size) * 0.1)
        self.identity = nn.Embedding(series_count, hidden_size) if series_count > 1 else None
        if self.identity is not None:
            nn.init.normal_(self.identity.weight, std=0.1)
        self.describe = nn.Linear(static_size, hidden_size) if static_size else None
        self.announce = nn.Linear(segment * future_size, hidden_size) if future_size else None
        self.dropout = nn.Dropout(dropout)
        self.decode = nn.Linear(hidden_size, segment * quantile_count)
        # Both outputs start at nothing, so training starts from the smoothing's own forecast.
        nn.init.zeros_(self.decode.weight)
        nn.init.zeros_(self.decode.bias)
        self.effect = nn.Linear(future_size, quantile_count, bias=False) if future_size else None
        if self.effect is not None:
            nn.init.zeros_(self.effect.weight)

    def forward(self, past: Tensor, future: Tensor, static: Tensor, series: Tensor) -> Tensor:
        n, steps, _ = past.shape
        past = functional.pad(past, (0, 0, -steps % self.segment, 0))
        segments = past.reshape(n, -1, self.segment * past.shape[-1])  # (N, T/W, W·F)
        _, (h, c) = self.lstm(functional.relu(self.encode(segments)))
        ask = self.position.expand(n, -1, -1)  # (N, Q/W, H)
        if self.identity is not None:
            ask = ask + self.identity(series).unsqueeze(1)
        if self.describe is not None:
            ask = ask + self.describe(static).unsqueeze(1)
        if self.announce is not None:
            ahead = functional.pad(future, (0, 0, 0, self.segments_out * self.segment - self.horizon))
            ask = ask + self.announce(ahead.reshape(n, self.segments_out, -1))
        # Every segment of the horizon takes one step from a copy of the last state: rows of one batch.
        ask = ask.reshape(n * self.segments_out, 1, -1)
        h = h.repeat_interleave(self.segments_out, dim=1)
        c = c.repeat_interleave(self.segments_out, dim=1)
        answer, _ = self.lstm(ask, (h, c))
        out = self.decode(self.dropout(answer)).reshape(n, -1, self.quantile_count)[:, : self.horizon]
        answers: Tensor = out if self.effect is None else out + self.effect(future)
        return answers


class ForecastNetwork(nn.Module):
    """Several members trained side by side, differing in their first weights; their median is the forecast.

    ``start`` (Q, K): quantiles of the remainder over the training windows, where the network begins.
    ``trust``, in 0…1, and ``widen`` (K,) are set on validation windows after training: how much of the
    members' correction to believe, and how far to move each quantile from the median so that the intervals
    cover what they say. Without ``learn_spread`` a member moves all quantiles alike: few windows tell where
    a series goes next, not how sure to be of it. ``forward`` returns every member's corrections, (M, N, Q,
    K) or (M, N, Q, 1); :meth:`forecast` the quantiles, (N, Q, K).
    """

    quantiles: Tensor
    start: Tensor
    trust: Tensor
    widen: Tensor

    def __init__(
        self,
        *,
        horizon: int,
        segment: int,
        hidden_size: int,
        past_size: int,
        future_size: int,
        static_size: int,
        series_count: int,
        quantiles: tuple[float, ...],
        members: int = 1,
        dropout: float = 0.0,
        learn_spread: bool = True,
    ) -> None:
        super().__init__()
        self.register_buffer("quantiles", torch.tensor(quantiles))
        self.register_buffer("start", torch.zeros(horizon, len(quantiles)))
        self.register_buffer("trust", torch.ones(()))
        self.register_buffer("widen", torch.ones(len(quantiles)))
        self.members = nn.ModuleList(
            SegmentLSTM(
                horizon=horizon,
                segment=segment,
                hidden_size=hidden_size,
                past_size=past_size,
                future_size=future_size,
                static_size=static_size,
                series_count=series_count,
                quantile_count=len(quantiles) if learn_spread else 1,
                dropout=dropout,
            )
            for _ in range(members)
        )

    def forward(self, past: Tensor, future: Tensor, static: Tensor, series: Tensor) -> Tensor:
        return torch.stack([member(past, future, static, series) for member in self.members])

    def loss(self, batch: Example) -> Tensor:
        """Pinball loss of every member, averaged: scalar, in units of the series' usual one-step error."""
        forecast = self.start + self(batch.past, batch.future, batch.static, batch.series)
        return pinball_loss(forecast, batch.target, batch.observed, self.quantiles)

    def forecast(self, batch: Example) -> Tensor:
        """Quantiles of the remainder, trusted and widened as windows held back taught: (N, Q, K)."""
        return self.widened(self.start + self.trust * self.correction(batch))

    def correction(self, batch: Example) -> Tensor:
        """The median of the members' corrections, (N, Q, K) or (N, Q, 1)."""
        return torch.quantile(self(batch.past, batch.future, batch.static, batch.series), 0.5, dim=0)

    def widened(self, forecast: Tensor) -> Tensor:
        """Move each quantile of (N, Q, K) from the median by its own factor, after putting them in order."""
        ordered = forecast.sort(dim=-1).values
        median = ordered[..., int(torch.argmin((self.quantiles - 0.5).abs()))].unsqueeze(-1)
        return median + self.widen * (ordered - median)
