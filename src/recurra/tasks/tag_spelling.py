"""From the numbers of the network's tags to tags as the user's file has them.

Inside, spans are BIOES; outside they are in the scheme of the training data. A tag outside depends on the tag
inside and, in IOB1 alone, on the one before. Axes: T words, K tags inside, M tags outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.data.schemes import LETTERS, OUTSIDE, parts

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Spelling:
    """names: (M,) tags outside. table: (K + 1, K), which of these a tag inside (column) becomes after another
    (row), the last row at the start of a sentence. groups: (K, M') of 0 and 1, which tags inside are the same
    outside, IOB1's two beginnings taken together.
    """

    names: NDArray[Any]
    table: Numbers
    groups: Tensor

    @staticmethod
    def of(labels: Sequence[str], scheme: str) -> Spelling:
        """labels: (K,) tags inside, BIOES, or any where scheme is "". scheme: of `recurra.data.schemes`."""
        outside = [_spelt(label, scheme, scheme) for label in labels]
        names = list(dict.fromkeys(outside))
        table = np.tile(np.array([names.index(name) for name in outside], np.int64), (len(labels) + 1, 1))
        for later, label in enumerate(labels):
            letter, kind = parts(label)
            if scheme != "IOB1" or letter not in "BS":
                continue
            closed = [n for n, other in enumerate(labels) if parts(other) in (("E", kind), ("S", kind))]
            if closed:
                names.append("B" + label[1:])
                table[closed, later] = len(names) - 1
        wholes = [_spelt(label, scheme, "BIO" if scheme == "IOB1" else scheme) for label in labels]
        sorts = list(dict.fromkeys(wholes))
        groups = torch.tensor([[float(name == one) for one in sorts] for name in wholes])
        return Spelling(np.array(names, object), table, groups)

    def __call__(self, tags: Numbers, offsets: Numbers) -> NDArray[Any]:
        """The names of tags of sentences, one after another, which begin at these offsets (N + 1,)."""
        before = np.concatenate(([len(self.table) - 1], tags))[: len(tags)]
        before[offsets[:-1][np.diff(offsets) > 0]] = len(self.table) - 1
        found: NDArray[Any] = self.names[self.table[before, tags]]
        return found

    def path(self, tags: Sequence[int]) -> tuple[str, ...]:
        """The names of one sentence's tags (T,)."""
        return tuple(self(np.array(tags, np.int64), np.array([0, len(tags)])).tolist())

    def sure(self, shares: Tensor, tags: Tensor) -> Tensor:
        """How likely (N, T) the tags chosen (N, T) are outside; shares: marginals (N, T, K) inside."""
        chosen = self.groups.argmax(1)[tags.clamp(min=0)]
        return (shares @ self.groups).gather(2, chosen[:, :, None])[:, :, 0]


def _spelt(label: str, scheme: str, letters: str) -> str:
    """A tag of BIOES with the letters of another scheme."""
    letter = parts(label)[0]
    if not scheme or letter == OUTSIDE:
        return label
    return LETTERS[letters]["BIES".index(letter)] + label[1:]
