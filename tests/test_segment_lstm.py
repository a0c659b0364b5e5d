"""The forecasting network: shapes at odd sizes, a loss blind to what was not observed, and its start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recurra.tasks.results import QUANTILES
from recurra.tasks.segment_lstm import Example, ForecastNetwork, SegmentLSTM, pinball_loss

SIZES = [
    # horizon, segment, lookback, members, past, future, static, series
    (1, 1, 1, 1, 1, 0, 0, 1),
    (1, 7, 33, 3, 3, 2, 1, 3),
    (7, 3, 10, 1, 4, 0, 2, 1),
    (7, 7, 63, 3, 3, 5, 0, 7),
    (13, 5, 7, 3, 1, 1, 3, 2),
    (13, 24, 11, 1, 3, 0, 0, 33),
]


def network(
    horizon: int, segment: int, members: int, sizes: tuple[int, ...], **more: bool
) -> ForecastNetwork:
    past, future, static, series = sizes
    return ForecastNetwork(
        horizon=horizon,
        segment=segment,
        hidden_size=7,
        past_size=past,
        future_size=future,
        static_size=static,
        series_count=series,
        quantiles=QUANTILES,
        members=members,
        **more,
    )


def batch(n: int, lookback: int, horizon: int, sizes: tuple[int, ...]) -> Example:
    past, future, static, series = sizes
    return Example(
        past=torch.randn(n, lookback, past),
        future=torch.randn(n, horizon, future),
        static=torch.randn(n, static),
        series=torch.randint(series, (n,)),
        target=torch.randn(n, horizon),
        observed=torch.rand(n, horizon) < 0.8,
    )


def shake(net: ForecastNetwork) -> None:
    """Weights as training might leave them: nothing at zero."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn_like(weight) * 0.5)
        net.start.copy_(torch.randn_like(net.start).sort(dim=-1).values)


@pytest.mark.parametrize("learn_spread", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_shapes_at_odd_sizes(size: tuple[int, ...], learn_spread: bool) -> None:
    horizon, segment, lookback, members, *sizes = size
    net = network(horizon, segment, members, tuple(sizes), learn_spread=learn_spread)
    shake(net)
    example = batch(5, lookback, horizon, tuple(sizes))
    corrections = net(example.past, example.future, example.static, example.series)
    assert corrections.shape == (members, 5, horizon, len(QUANTILES) if learn_spread else 1)
    assert net.forecast(example).shape == (5, horizon, len(QUANTILES))
    assert torch.isfinite(corrections).all()
    assert net.loss(example).shape == ()


@pytest.mark.parametrize("size", SIZES)
def test_an_untrained_network_is_its_start(size: tuple[int, ...]) -> None:
    horizon, segment, lookback, members, *sizes = size
    net = network(horizon, segment, members, tuple(sizes))
    start = torch.randn(horizon, len(QUANTILES)).sort(dim=-1).values
    net.start.copy_(start)
    net.eval()
    found = net.forecast(batch(3, lookback, horizon, tuple(sizes)))
    # median + (quantile − median) may round; nothing else may differ
    torch.testing.assert_close(found, start.expand(3, -1, -1), atol=1e-6, rtol=0)
    corrections = net(*inputs(batch(3, lookback, horizon, tuple(sizes))))
    assert (corrections == 0).all()


def inputs(example: Example) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return example.past, example.future, example.static, example.series


def test_without_trust_the_forecast_is_the_start_whatever_was_learnt() -> None:
    net = network(7, 3, 3, (3, 2, 1, 2))
    shake(net)
    net.eval()
    example = batch(4, 10, 7, (3, 2, 1, 2))
    trusted = net.forecast(example)
    assert (trusted - net.start).abs().max() > 0.01
    net.trust.zero_()
    torch.testing.assert_close(net.forecast(example), net.start.expand(4, -1, -1), atol=1e-6, rtol=0)
    net.trust.fill_(0.3)
    middle = torch.median(net(*inputs(example)), dim=0).values
    expected = (net.start + 0.3 * middle).sort(dim=-1).values
    torch.testing.assert_close(net.forecast(example), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("members", [1, 3])
def test_members_differ_and_the_forecast_is_their_median(members: int) -> None:
    net = network(5, 2, members, (3, 0, 0, 1))
    shake(net)
    net.eval()
    example = batch(6, 9, 5, (3, 0, 0, 1))
    each = net(*inputs(example)).detach().numpy()
    expected = np.sort(net.start.numpy() + np.median(each, axis=0), axis=-1)
    np.testing.assert_allclose(net.forecast(example).detach().numpy(), expected, atol=1e-5)
    if members > 1:
        assert np.abs(each[0] - each[1]).max() > 0.01


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), factor=st.lists(st.floats(0.5, 3.0), min_size=3, max_size=3))
def test_widened_quantiles_are_in_order_and_keep_the_median(seed: int, factor: list[float]) -> None:
    generator = torch.Generator().manual_seed(seed)
    net = network(3, 2, 1, (1, 0, 0, 1))
    # the outer intervals move at least as far as the inner ones, or they would cross
    ordered = sorted(factor, reverse=True)
    net.widen.copy_(torch.tensor([*ordered, 1.0, *ordered[::-1]]))
    crossed = torch.randn(5, 3, len(QUANTILES), generator=generator)
    found = net.widened(crossed)
    assert (found.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(found[..., 3], crossed.sort(dim=-1).values[..., 3])
    for k in range(len(QUANTILES)):
        wanted = found[..., 3] + net.widen[k] * (crossed.sort(dim=-1).values[..., k] - found[..., 3])
        torch.testing.assert_close(found[..., k], wanted)


def plain_pinball(
    forecast: np.ndarray, target: np.ndarray, observed: np.ndarray, levels: np.ndarray
) -> float:
    """The definition, one number at a time, in float64."""
    total, count = 0.0, 0
    for member in forecast.reshape(-1, *forecast.shape[-3:]):
        for n, q in np.ndindex(*target.shape):
            if not observed[n, q]:
                continue
            for k, level in enumerate(levels):
                error = float(target[n, q]) - float(member[n, q, k])
                total += level * error if error >= 0 else (level - 1.0) * error
                count += 1
    return total / max(count, 1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (2, 3, 13)])
@pytest.mark.parametrize("members", [None, 1, 3])
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_the_loss_is_the_pinball_loss(shape: tuple[int, ...], members: int | None, share: float) -> None:
    forecast = torch.randn(*(() if members is None else (members,)), *shape[:2], shape[2])
    target, observed = torch.randn(shape[:2]), torch.rand(shape[:2]) < share
    levels = torch.linspace(0.03, 0.97, shape[2])
    found = pinball_loss(forecast, target, observed, levels).item()
    expected = plain_pinball(forecast.numpy(), target.numpy(), observed.numpy(), levels.numpy().astype(float))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_was_not_observed_changes_neither_loss_nor_gradient(wild: float) -> None:
    net = network(7, 3, 3, (3, 2, 1, 2))
    shake(net)
    example = batch(5, 10, 7, (3, 2, 1, 2))
    observed = example.observed.clone()
    observed[0, 0], observed[0, 1] = True, False

    def run(value: float) -> tuple[float, list[Tensor]]:
        target = torch.where(observed, example.target, value)
        given = Example(*inputs(example), target=target, observed=observed)
        net.zero_grad()
        loss = net.loss(given)
        loss.backward()
        return loss.item(), [weight.grad.clone() for weight in net.parameters() if weight.grad is not None]

    loss, gradients = run(0.0)
    other, others = run(wild)
    assert loss == other
    assert len(gradients) == len(list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
    assert any(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("learn_spread", [True, False])
def test_after_one_step_every_weight_learns(size: tuple[int, ...], learn_spread: bool) -> None:
    horizon, segment, lookback, members, *sizes = size
    net = network(horizon, segment, members, tuple(sizes), learn_spread=learn_spread)
    examples = [batch(33, lookback, horizon, tuple(sizes)) for _ in range(2)]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for example in examples:
        optimizer.zero_grad()
        net.loss(example).backward()
        optimizer.step()
    still = [name for name, w in net.named_parameters() if w.grad is None or not w.grad.abs().max() > 0]
    assert still == []


@pytest.mark.parametrize("size", SIZES)
def test_no_row_of_a_batch_sees_another(size: tuple[int, ...]) -> None:
    horizon, segment, lookback, members, *sizes = size
    net = network(horizon, segment, members, tuple(sizes))
    shake(net)
    net.eval()
    example = batch(5, lookback, horizon, tuple(sizes))
    together = net(*inputs(example))
    for row in range(5):
        alone = net(*(value[row : row + 1] for value in inputs(example)))
        torch.testing.assert_close(alone[:, 0], together[:, row], atol=1e-5, rtol=1e-5)


def test_a_member_sees_each_of_its_inputs() -> None:
    net = network(7, 3, 1, (3, 2, 1, 2))
    shake(net)
    net.eval()
    example = batch(2, 10, 7, (3, 2, 1, 2))
    given = dict(zip(("past", "future", "static", "series"), inputs(example), strict=True))
    before = net(**given)
    for name, value in given.items():
        changed = 1 - value if name == "series" else value + 1.0
        assert (net(**{**given, name: changed}) - before).abs().max() > 1e-4, name
    # what is known of one step ahead may matter to every step of its segment, and to no other segment
    future = given["future"].clone()
    future[:, 6] += 1.0
    moved = (net(**{**given, "future": future}) - before).abs().amax(dim=(0, 1, 3))
    assert (moved[:6] == 0).all()
    assert moved[6] > 0


@pytest.mark.parametrize("lookback", [1, 2, 3, 4, 63])
def test_padding_on_the_left_is_as_zeros_given_by_hand(lookback: int) -> None:
    member = SegmentLSTM(
        horizon=4, segment=3, hidden_size=5, past_size=2, future_size=0, static_size=0, series_count=1,
        quantile_count=1,
    )  # fmt: skip
    torch.nn.init.normal_(member.decode.weight)
    past = torch.randn(3, lookback, 2)
    whole = torch.cat([torch.zeros(3, -lookback % 3, 2), past], dim=1)
    rest = torch.zeros(3, 4, 0), torch.zeros(3, 0), torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(member(past, *rest), member(whole, *rest), rtol=0, atol=0)


def test_a_batch_moves_whole_to_another_device() -> None:
    example = batch(2, 3, 4, (1, 1, 1, 2)).to(torch.device("meta"))
    assert {getattr(example, name).device.type for name in vars(example)} == {"meta"}
