"""How many of torch's threads a small network is given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def few_threads(hidden_size: int) -> Iterator[None]:
    """One thread for a small network: handing its tiny products to a second one costs more than it saves."""
    before = torch.get_num_threads()
    try:
        if hidden_size <= 64:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)
