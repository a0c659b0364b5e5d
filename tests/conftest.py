"""What every test runs under: one thread, its own seed, and NaN wherever torch's memory was never written."""

from __future__ import annotations

import os
import random
import signal
import zlib
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
import torch.utils.deterministic

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # deterministic mode asks for it where there is a GPU
torch.set_num_threads(1)
# In deterministic mode torch fills the memory that it hands out with NaN, or with the largest integer.
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True

# A shell lets what it starts in the background ignore Ctrl-C, and tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of the test's own: the same in each run, another for each test and parameter."""
    number = zlib.crc32(request.node.nodeid.encode())
    random.seed(number)
    torch.manual_seed(number)
    return number


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("forecasting/x.csv")`: a file or folder of the shared data sets, or a skip.

    They lie in $RECURRA_DATA, or in `shared/data` beside the checkout.
    """
    folder = Path(os.environ.get("RECURRA_DATA") or ROOT.parent / "shared" / "data")

    def find(relative: str) -> Path:
        path = folder / relative
        if not path.exists():
            pytest.skip(
                f"the data set {relative} is not here; set RECURRA_DATA to the folder of the data sets"
            )
        return path

    return find
