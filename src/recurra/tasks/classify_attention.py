"""How much each token or step weighed where a classifier pools by attention. Axes: N rows, T steps."""

from __future__ import annotations

import numpy as np
import torch

from recurra.data.buckets import batches_by_length
from recurra.data.sequences import Sequences
from recurra.errors import ArgumentError
from recurra.tasks.classify_network import ClassifyNetwork
from recurra.tasks.classify_results import Attended
from recurra.tasks.classify_rows import Data, Preparation, Rows, cut


def attended(network: ClassifyNetwork, preparation: Preparation, data: Data) -> tuple[Attended, ...]:
    """The weights of each row, the mean of the readers'. Raises ArgumentError for another pooling."""
    if preparation.plan.pooling != "attention":
        raise ArgumentError(
            f"pooling is {preparation.plan.pooling!r}, which weighs no words; expected a classifier trained "
            "with pooling='attention': train one"
        )
    rows = preparation.encode(data)
    weights = [np.zeros(0, np.float32)] * len(rows)
    with torch.no_grad():
        for places in batches_by_length(rows.lengths, 256):
            batch = rows.batch(places)
            mean = network.attention(batch).numpy()
            for place, row in zip(places, mean, strict=True):
                weights[place] = row[: len(rows.values[place])]
    return tuple(Attended(_tokens(preparation, data, rows, n), one) for n, one in enumerate(weights))


def _tokens(preparation: Preparation, data: Data, rows: Rows, place: int) -> tuple[str, ...]:
    """What the readers read of a row, as it is written."""
    if isinstance(data, Sequences):
        return tuple(str(step + 1) for step in range(len(rows.values[place])))
    assert preparation.tokenizer is not None
    pieces = np.array(preparation.tokenizer.split(data.texts[place]), dtype=object)
    return tuple(cut(pieces, preparation.plan.longest))
