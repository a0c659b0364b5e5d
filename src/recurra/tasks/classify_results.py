"""What a classifier gives back. Axes: N rows, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.tasks.classify_rows import Data

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Classified:
    """What was predicted of N rows.

    labels: of each row its class; where rows can have several, a tuple of those with a probability of a half
    or more. probabilities: (N, K), in the order of classes.
    """

    labels: tuple[Any, ...]
    probabilities: Numbers
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def to_pandas(self) -> Any:
        """A frame with the column label and one column of probabilities for each class."""
        import pandas as pd

        frame = pd.DataFrame(self.probabilities, columns=list(self.classes))
        frame.insert(0, "label", list(self.labels), allow_duplicates=True)
        return frame


@dataclass(frozen=True)
class Attended:
    """How much each token of a text, or step of a sequence, weighed where the LSTMs pool by attention.

    tokens: (T,), as they are written, those of the middle left out where a text was too long to be read
    whole; of a sequence of numbers the steps, counted from 1. weights: (T,), together 1.
    """

    tokens: tuple[str, ...]
    weights: Numbers


@dataclass(frozen=True)
class Held:
    """What was said of rows by parts that were not trained on them, and the truth.

    places: (N,), of the rows in the data. probabilities, floor, targets: (N, K).
    """

    data: Data
    places: NDArray[np.int64]
    probabilities: Numbers
    floor: Numbers
    targets: Numbers
