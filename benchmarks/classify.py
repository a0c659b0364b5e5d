"""`Classifier` on the shared data sets: test accuracy beside the floor's over seeds, and speed beside torch.

    .venv/bin/python benchmarks/classify.py [SET ...] [--seeds 3]
    .venv/bin/python benchmarks/classify.py speed

Reads $RECURRA_DATA or ../shared/data. Rows that a set calls validation are learnt from too: the classifier
holds back parts of its rows by itself. IMDB's file is split into 20,000 and 5,000 by a fixed seed. "speed"
trains an epoch on texts of 5 to 400 words, in turns with the same network on torch.nn.LSTM and packed
sequences.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from recurra.data.buckets import batches_by_length, padded
from recurra.tasks.classify import Classifier
from recurra.tasks.classify_network import Batch, Reader

DATA = Path(os.environ.get("RECURRA_DATA", Path(__file__).parents[2] / "shared" / "data"))
TEXTS = {"sst2": "sst2", "mr": "mr_polarity", "trec6": "trec6", "hotel": "chnsenticorp_hotel", "imdb": "imdb"}
NUMBERS = ("JapaneseVowels", "ItalyPowerDemand", "GunPoint")
SETS = (*TEXTS, *NUMBERS)


def rows_of(path: Path) -> tuple[list[str], list[str]]:
    """Texts and labels of a packed file of label, tab, text."""
    opened = lzma.open if path.suffix == ".xz" else gzip.open
    with opened(path, "rt", encoding="utf-8") as file:
        pairs = [line.rstrip("\n").split("\t", 1) for line in file]
    return [text for _, text in pairs], [label for label, _ in pairs]


def parts_of(name: str) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """What is learnt from and what is tested on, each data and labels."""
    if name in NUMBERS:
        place = DATA / "tscls" / name
        return (place / f"{name}_TRAIN.ts.gz", None), (place / f"{name}_TEST.ts.gz", None)
    folder = DATA / "textcls" / TEXTS[name]
    if name == "imdb":
        texts, labels = rows_of(folder / "train.tsv.xz")
        order = np.random.RandomState(0).permutation(len(texts))
        first, rest = order[:20_000], order[20_000:]
        return ([texts[n] for n in first], [labels[n] for n in first]), (
            [texts[n] for n in rest],
            [labels[n] for n in rest],
        )
    texts, labels = rows_of(folder / "train.tsv.gz")
    if (folder / "valid.tsv.gz").exists():
        more = rows_of(folder / "valid.tsv.gz")
        texts, labels = texts + more[0], labels + more[1]
    return (texts, labels), rows_of(folder / "test.tsv.gz")


def scores(name: str, seeds: int) -> str:
    """One line of the table."""
    train, test = parts_of(name)
    found = {"accuracy": [], "floor": [], "log loss": [], "calibration error": [], "seconds": []}
    for seed in range(seeds):
        started = time.perf_counter()
        model = Classifier(seed=seed).fit(*train)
        found["seconds"].append(time.perf_counter() - started)
        told = model.evaluate(*test)
        found["accuracy"].append(100 * told["accuracy"])
        found["floor"].append(100 * told["baselines"][model.floor_name]["accuracy"])
        found["log loss"].append(told["log loss"])
        found["calibration error"].append(100 * told["calibration error"])
        last = ", ".join(f"{what} {one[-1]:.2f}" for what, one in found.items())
        print(f"  seed {seed}: {last}", flush=True)
    spreads = [statistics.stdev(one) if seeds > 1 else 0.0 for one in found.values()]
    cells = [
        f"{statistics.mean(one):10.2f} ± {spread:4.2f}"
        for one, spread in zip(found.values(), spreads, strict=True)
    ]
    return f"{name:18}" + "".join(f"{cell:>19}" for cell in cells)


class Packed(nn.Module):
    """The same network as people write it: embedding, nn.LSTM on a packed batch, the largest over time."""

    def __init__(self, tokens: int, size: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, size, padding_idx=0)
        self.lstm = nn.LSTM(size, hidden_size, bidirectional=True, batch_first=True)
        self.output = nn.Linear(2 * hidden_size, 2)

    def loss(self, batch: Batch) -> Tensor:
        packed = pack_padded_sequence(
            self.embedding(batch.x), batch.lengths, batch_first=True, enforce_sorted=False
        )
        output, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        steps = torch.arange(output.shape[1])
        beyond = steps >= batch.lengths.unsqueeze(1)
        pooled = output.masked_fill(beyond.unsqueeze(-1), float("-inf")).amax(1)
        assert batch.targets is not None
        return nn.functional.cross_entropy(self.output(pooled), batch.targets)


def speed(hidden_size: int, texts: int, turns: int) -> None:
    """Seconds of an epoch on both networks, in turns; the same batches, weights and results."""
    random = np.random.default_rng(0)
    lengths = np.exp(random.uniform(np.log(5), np.log(400), texts)).astype(int)
    rows = [random.integers(2, 10_000, n) for n in lengths]
    targets = torch.eye(2)[torch.from_numpy(random.integers(2, size=texts))]
    torch.manual_seed(0)
    ours = Reader(2, hidden_size=hidden_size, tokens=10_000, embedding_size=100, dropout=0.0)
    theirs = Packed(10_000, 100, hidden_size)
    theirs.load_state_dict({name.replace(".own", ""): one for name, one in ours.state_dict().items()})
    generator = torch.Generator().manual_seed(0)
    shuffled = np.array_split(torch.randperm(texts, generator=generator).numpy(), -(-texts // 32))
    sorted_alike = batches_by_length(lengths, 32, generator)
    for what, order in (("batches at random", shuffled), ("batches by length", sorted_alike)):
        batches = [Batch(*padded([rows[n] for n in part]), targets[part]) for part in order]
        with torch.no_grad():
            for batch in batches[:3]:
                torch.testing.assert_close(ours.loss(batch), theirs.loss(batch), rtol=1e-4, atol=1e-5)
        took: dict[str, list[float]] = {"recurra": [], "torch": []}
        for _ in range(turns):
            for name, network in (("recurra", ours), ("torch", theirs)):
                optimizer = torch.optim.Adam(network.parameters(), lr=0.0, fused=True)
                started = time.perf_counter()
                for batch in batches:
                    optimizer.zero_grad(set_to_none=True)
                    network.loss(batch).backward()
                    optimizer.step()
                took[name].append(time.perf_counter() - started)
        best = {name: min(times) for name, times in took.items()}
        ratio = best["torch"] / best["recurra"]
        print(
            f"H {hidden_size:4}, {what}: recurra {best['recurra']:7.2f} s, torch {best['torch']:7.2f} s an "
            f"epoch, {ratio:.1f} times as fast",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}, speed; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=1000, help="of an epoch, for speed")
    parser.add_argument("--turns", type=int, default=3, help="epochs of each network, for speed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sets if name not in (*SETS, "speed")]
    if unknown:
        parser.error(f"no such set: {', '.join(unknown)}; there are {', '.join(SETS)}, speed")
    torch.set_num_threads(arguments.threads)
    wanted = arguments.sets or [*SETS, "speed"]
    heads = ("accuracy", "floor", "log loss", "calibration error", "seconds")
    if wanted != ["speed"]:
        print(f"{'test set':18}" + "".join(f"{head:>19}" for head in heads))
    for name in wanted:
        if name == "speed":
            for hidden_size in (32, 64, 128):
                speed(hidden_size, arguments.texts, arguments.turns)
        else:
            print(scores(name, arguments.seeds), flush=True)


if __name__ == "__main__":
    main()
