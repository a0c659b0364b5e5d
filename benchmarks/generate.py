"""Language models: loss against wall time, and scores by the standard protocols beside n-grams.

    .venv/bin/python benchmarks/generate.py --set shakespeare --minutes 3 [--seeds 3] [--threads 2]
    .venv/bin/python benchmarks/generate.py --set ptb --minutes 120

shakespeare: by characters, the first 90 % to learn from, the last 10 % judged; nats per character, beside
nanoGPT's 1.88 (its setting for a CPU, three minutes) and 1.4697 (on a GPU). ptb: by words, <eos> a line, the
test text as one stream with carried state; perplexity. tang: poems by Chinese characters; timemachine: by
characters. `--minutes` is all of the training with its validations; what follows (reading the judged text
as one stream, n-grams) is timed apart. `--set` may be given several times.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recurra.data.corpus import Corpus, read_corpus, stream
from recurra.tasks.generate import LanguageModel
from recurra.tasks.generate_scores import baselines

DATA = Path(os.environ.get("RECURRA_DATA", Path(__file__).parents[2] / "shared" / "data")) / "lm"


def texts(name: str) -> tuple[Corpus, Corpus, Corpus]:
    """What is learnt from, chosen by, and judged."""
    if name == "ptb":
        train, valid, test = (
            read_corpus(DATA / f"ptb/ptb.{part}.txt.gz") for part in ("train", "valid", "test")
        )
        return train, valid, test
    if name == "tang":
        train, valid, test = (
            read_corpus(DATA / f"tang_poems/{part}.tsv.gz", text=3) for part in ("train", "valid", "test")
        )
        return train, valid, test
    folder = {"shakespeare": "tinyshakespeare", "timemachine": "timemachine"}[name]
    learnt, held = read_corpus(DATA / folder / "input.txt.gz").split()
    return learnt, held, held


def measure(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """One training: its rows as they come, and the scores."""
    learnt, valid, test = texts(name)
    spent = [0.0]

    def show(row: dict[str, Any]) -> None:
        spent[0] += row["seconds"]
        print(
            f"  {spent[0]:7.1f} s  step {row['step']:7,}  training {row['train_loss']:.4f}  "
            f"held back {row['valid_loss']:.4f} (perplexity {np.exp(row['valid_loss']):.2f})  "
            f"load {os.getloadavg()[0]:.1f}",
            flush=True,
        )

    started = time.perf_counter()
    model = LanguageModel(
        "blank" if name == "ptb" else "character",
        minutes=arguments.minutes,
        epochs=arguments.epochs,
        hidden_sizes=arguments.hidden,
        dropout=arguments.dropout,
        learning_rate=arguments.learning_rate,
        streams=arguments.streams,
        window=arguments.window,
        seed=seed,
        device=arguments.device,
    )
    model.fit(learnt, valid=valid, log=show)
    trained = time.perf_counter() - started
    plan = model.plan
    print(f"  {plan}")
    tokens = model.history[-1]["step"] * plan.streams * plan.window
    print(f"  trained {trained:.1f} s, {tokens / spent[0]:,.0f} tokens/s with validation")
    started = time.perf_counter()
    scores = model.evaluate(test)
    print(f"  judged in {time.perf_counter() - started:.1f} s: {scores}")
    if arguments.out is not None:
        model.save(arguments.out)
    if seed == 0:
        numbers = [stream(corpus, model.tokenizer) for corpus in (learnt, test)]
        rivals = baselines(*numbers, model.tokenizer)
        print("  n-grams:", ", ".join(f"{k} {v:.4f} ({np.exp(v):.2f})" for k, v in rivals.items()))
        print("  " + repr(model.generate(length=300, temperature=0.8, seed=1)))
    return {**scores, "seconds": trained}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", choices=("shakespeare", "ptb", "tang", "timemachine"))
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--hidden", type=int, nargs="+", default=None)
    parser.add_argument("--dropout", type=float, default=None)
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument("--streams", type=int, default=None)
    parser.add_argument("--window", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=None, help="file for the last model")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    for name in arguments.set or ["shakespeare"]:
        found = []
        for seed in range(arguments.seeds):
            print(f"{name}, seed {seed}, {torch.get_num_threads()} threads", flush=True)
            found.append(measure(name, seed, arguments))
        for metric in ("nats_per_character", "perplexity", "seconds"):
            values = np.array([scores[metric] for scores in found])
            spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
            print(f"{name}: {metric} {values.mean():.4f}{spread} over {len(values)} seeds")


if __name__ == "__main__":
    main()
