"""The tagger with its defaults on the shared sets: mean ± sd over seeds, wall time, sentences a second.

    .venv/bin/python benchmarks/tag.py [--set conll2003 atis ewt weibo] [--seeds 3] [--epochs N] [--threads 2]

The tagger learns from the training file alone, for as many epochs as its defaults say, and is then scored
once on each of the other files: nothing is chosen by them. Spans are scored by seqeval. The baselines are
those of the report. Published: CoNLL-2003 test 83.63 without pretrained vectors and 90.94 with them (Lample
et al. 2016); ATIS test 95.2 (Goo et al. 2018); UD-EWT test accuracy 88.3 with GloVe; Weibo 58.8 with
pretrained vectors (Zhang and Yang 2018).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recurra.data.conll import read_tagged
from recurra.tasks.tag import Tagger
from recurra.tasks.tag_scores import baselines, headline, scores

DATA = Path(os.environ.get("RECURRA_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tagging"
SETS = {  # name → folder, training file, files that are scored
    "conll2003": ("conll2003_en", "train.txt.gz", ["valid.txt.gz"]),
    "atis": ("atis", "train", ["valid", "test"]),
    "ewt": (
        "ud_english_ewt",
        "en_ewt-ud-train.conllu.gz",
        ["en_ewt-ud-dev.conllu.gz", "en_ewt-ud-test.conllu.gz"],
    ),
    "weibo": ("weibo_ner_zh", "train.txt.gz", ["valid.txt.gz", "test.txt.gz"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--verbose", action="store_true", help="print each epoch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads; 'train' and 'decode' are sentences a second of wall time")
    for name in arguments.set:
        report(name, arguments)


def report(name: str, arguments: argparse.Namespace) -> None:
    """Print the rows of one set."""
    folder, training, others = SETS[name]
    train = read_tagged(DATA / folder / training)
    held = [read_tagged(DATA / folder / other) for other in others]
    found: dict[str, list[float]] = {other.name: [] for other in held}
    seconds, speeds, decoding = [], [], []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        tagger, row = fitted(train, seed, arguments)
        seconds.append(row["seconds"])
        speeds.append(row["speed"])
        metric = headline(bool(tagger.scheme))
        for other in held:
            started = time.perf_counter()
            tags = tagger.predict(other).tags
            decoding.append(len(other) / (time.perf_counter() - started))
            own = scores(other.tags or (), tags, spanned=bool(tagger.scheme))[metric]
            found[other.name].append(100 * own)
            print(f"  {name} seed {seed} {other.name}: {100 * own:.2f}", flush=True)
    floors = baselines(train.words, train.tags or (), spanned=bool(tagger.scheme))
    for other in held:
        values = np.array(found[other.name])
        floor = max(
            100 * scores(other.tags or (), one.predict(other.words), spanned=bool(tagger.scheme))[metric]
            for one in floors
        )
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        own = f"{values.mean():6.2f} ± {spread:.2f}   floor {floor:6.2f}"
        speed = f"{np.mean(seconds):5.0f} s   train {np.mean(speeds):6.0f}   decode {np.mean(decoding):6.0f}"
        print(f"{name:10} {other.name:26} {metric:8} {own}   {speed}", flush=True)


def fitted(train: Any, seed: int, arguments: argparse.Namespace) -> tuple[Tagger, dict[str, float]]:
    """A tagger, and how long its training took in seconds and sentences a second."""
    started = time.perf_counter()
    log = (lambda row: print(row, flush=True)) if arguments.verbose else None
    tagger = Tagger(seed=seed, epochs=arguments.epochs).fit(train, log=log)
    seconds = time.perf_counter() - started
    rows = tagger.history["train"]
    speed = len(train) * len(rows) / sum(row["seconds"] for row in rows)
    return tagger, {"seconds": seconds, "speed": speed}


if __name__ == "__main__":
    main()
