"""Batches by length hold every row once, within their size, and little padding."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recurra.data.buckets import batches_by_length, padded
from recurra.errors import ArgumentError

LENGTHS = st.lists(st.integers(0, 63), max_size=150)
SIZES = st.sampled_from([1, 7, 33, 63, 1000])
MOST = st.none() | st.integers(1, 400)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def padding(lengths: np.ndarray, batches: list[np.ndarray]) -> float:
    """The share of all steps that is padding."""
    steps = sum(len(rows) * lengths[rows].max() for rows in batches)
    return 1 - lengths.sum() / steps


@given(LENGTHS, SIZES, st.booleans(), MOST, st.integers(0, 9))
def test_every_row_once_and_no_batch_too_large(
    lengths: list[int], size: int, shuffled: bool, most: int | None, seed: int
) -> None:
    drawn = generator(seed) if shuffled else None
    batches = batches_by_length(lengths, size, drawn, most_steps=most)
    rows = np.concatenate([np.zeros(0, np.int64), *batches])
    assert rows.dtype == np.int64
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    known = np.array(lengths, np.int64)
    for batch in batches:
        assert 1 <= len(batch) <= size
        assert (np.diff(known[batch]) >= 0).all()
        if most is not None:
            assert len(batch) == 1 or len(batch) * known[batch].max() <= most
    if drawn is None:
        assert (np.diff(known[rows]) >= 0).all()
    again = batches_by_length(np.array(lengths, np.int32), size, drawn and generator(seed), most_steps=most)
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]


@given(LENGTHS, SIZES, st.integers(1, 400))
def test_batches_are_as_large_as_they_may_be(lengths: list[int], size: int, most: int) -> None:
    known = np.array(lengths, np.int64)
    batches = batches_by_length(lengths, size, most_steps=most)
    for batch, after in pairwise(batches):
        one_more = (len(batch) + 1) * max(1, known[after[0]])
        assert len(batch) == size or one_more > most


def test_of_one_length_the_order_is_that_of_the_rows() -> None:
    assert [batch.tolist() for batch in batches_by_length([5, 5, 1, 5], 3)] == [[2, 0, 1], [3]]
    assert batches_by_length([], 7) == batches_by_length([], 7, generator(0)) == []
    assert [batch.tolist() for batch in batches_by_length([0], 1, generator(0))] == [[0]]
    assert [batch.tolist() for batch in batches_by_length([9, 9, 9], 7, most_steps=1)] == [[0], [1], [2]]


def test_epochs_differ_and_go_on_from_a_state(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 99, 777)
    drawn = generator(seed)
    first = np.concatenate(batches_by_length(lengths, 7, drawn))
    state = drawn.get_state()
    second = np.concatenate(batches_by_length(lengths, 7, drawn))
    assert (first != second).any()
    drawn.set_state(state)
    np.testing.assert_array_equal(np.concatenate(batches_by_length(lengths, 7, drawn)), second)
    before = torch.get_rng_state()
    batches_by_length(lengths, 7, drawn)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's generator only


def test_batches_of_an_epoch_are_in_no_order_of_length(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 99, 6300)
    firsts = [lengths[batch[0]] for batch in batches_by_length(lengths, 63, generator(seed))]
    assert abs(np.corrcoef(np.arange(len(firsts)), firsts)[0, 1]) < 0.5


@pytest.mark.parametrize("draw", ["lognormal", "uniform"])
def test_little_of_a_batch_is_padding(draw: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.lognormal(3, 0.7, 9999) if draw == "lognormal" else rng.uniform(1, 99, 9999)
    lengths = np.maximum(raw.astype(np.int64), 1)
    loose = padding(lengths, np.array_split(rng.permutation(len(lengths)), len(lengths) // 33))
    assert loose > 0.4
    assert padding(lengths, batches_by_length(lengths, 33, generator(seed))) < loose / 5
    assert padding(lengths, batches_by_length(lengths, 33)) < loose / 30  # the longest rows differ most


@pytest.mark.parametrize("options", [{"size": 0}, {"size": -1}, {"size": 7, "most_steps": 0}])
def test_sizes_that_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match="size and most_steps: expected 1 or more, got"):
        batches_by_length([1, 2], **options)


@pytest.mark.parametrize("features", [(), (7,), (3, 0)])
@pytest.mark.parametrize("lengths", [[1], [0], [0, 0, 0], [7, 0, 33, 1]])
@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_rows_are_filled_up(lengths: list[int], features: tuple[int, ...], dtype: type) -> None:
    rng = np.random.default_rng(len(lengths))
    rows = [rng.integers(1, 9, (length, *features)).astype(dtype) for length in lengths]
    batch, known = padded(rows, -5)
    assert batch.shape == (len(rows), max(1, *lengths, 1), *features)
    assert batch.dtype == torch.from_numpy(rows[0]).dtype
    assert (known.tolist(), known.dtype) == (lengths, torch.int64)
    for row, filled, length in zip(rows, batch, lengths, strict=True):
        np.testing.assert_array_equal(filled[:length].numpy(), row)
        assert (filled[length:] == -5).all()


def test_no_rows_and_rows_of_several_dtypes() -> None:
    batch, known = padded([])
    assert (batch.shape, known.shape, batch.dtype) == ((0, 1), (0,), torch.int64)
    batch, _ = padded([np.array([1, 2]), np.array([0.5])])
    assert batch.tolist() == [[1, 2], [0.5, 0]]
    batch, known = padded([np.full(n, n) for n in range(99)])  # more than numpy takes as arguments
    assert int(batch.sum()) == int((known**2).sum())
    given = np.array([1.0, 2.0])
    batch, _ = padded([given])
    batch[0, 0] = 9
    assert given.tolist() == [1, 2]  # a copy
