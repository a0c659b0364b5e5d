"""ETTh1, multivariate, the standard split, MSE and MAE on the standardised scale, beside SegRNN's published
.351/.392.

    .venv/bin/python benchmarks/etth1.py [--lookback 720] [--horizon 96] [--seeds 1]

The protocol is that of the long-horizon literature (arXiv:2308.11200, table 2): 12/4/4 months of 30 days, all
seven columns standardised by the training rows, every test window with stride 1. The forecaster is the
package's own with lookback, epochs and validation months given; it never sees the test months.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from recurra.data.table import read_table
from recurra.tasks.forecast import Forecaster

DATA = Path(os.environ.get("RECURRA_DATA", Path(__file__).parents[2] / "shared" / "data"))
COLUMNS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
TRAIN, VALID, TEST = 8640, 2880, 2880


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lookback", type=int, default=720)
    parser.add_argument("--horizon", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--members", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    panel = read_table(DATA / "forecasting/ett/ETTh1.csv.gz", target=COLUMNS).until(TRAIN + VALID + TEST)
    rows = np.stack([series.target[:TRAIN] for series in panel.series])
    mean, spread = rows.mean(axis=1), rows.std(axis=1)
    scaled = replace(
        panel,
        series=tuple(
            replace(series, target=(series.target - m) / s)
            for series, m, s in zip(panel.series, mean, spread, strict=True)
        ),
    )
    origins = np.arange(TRAIN + VALID, TRAIN + VALID + TEST - arguments.horizon + 1)
    windows = np.stack(np.meshgrid(np.arange(len(COLUMNS)), origins, indexing="ij"), axis=-1).reshape(-1, 2)
    truth = np.stack([scaled.series[s].target[o : o + arguments.horizon] for s, o in windows.tolist()])
    for seed in range(arguments.seeds):
        started = time.monotonic()
        forecaster = Forecaster(
            arguments.horizon,
            lookback=arguments.lookback,
            epochs=arguments.epochs,
            members=arguments.members,
            seed=seed,
        )
        forecaster.fit(scaled.until(TRAIN + VALID), log=lambda row: print(row, flush=True))
        fitted = time.monotonic() - started
        values = forecaster.quantiles_at(scaled, windows)
        median = values[..., forecaster.quantiles.index(0.5)]
        error = median - truth
        inside = (truth >= values[..., 1]) & (truth <= values[..., -2])
        print(
            f"lookback {arguments.lookback} horizon {arguments.horizon} seed {seed}: "
            f"MSE {np.mean(error**2):.4f} MAE {np.mean(np.abs(error)):.4f}, in 80 % {np.mean(inside):.1%}, "
            f"trained {fitted:.0f} s, all {time.monotonic() - started:.0f} s, plan {forecaster.plan}"
        )


if __name__ == "__main__":
    main()
