"""AWD-LSTM on the Penn Treebank, by words, as published: 1150, 1150 and 400 units, weight drop, averaged SGD.

Merity, Keskar and Socher 2018, "Regularizing and optimizing LSTM language models": 58.8 test perplexity
without finetuning, after 500 epochs. The same script runs on a CPU and on a GPU; since an epoch takes a CPU
long, --minutes ends the training where your patience does. Killed and run again, it goes on.

    python ptb.py FOLDER [--minutes 120] [--device auto] [--out ptb]

FOLDER holds ptb.train.txt, ptb.valid.txt and ptb.test.txt (or .gz), a sentence a line, tokens between blanks.
"""

import argparse
from pathlib import Path

import numpy as np

from recurra import LanguageModel

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", type=Path)
parser.add_argument("--minutes", type=float, default=None, help="of training; all 500 epochs where left out")
parser.add_argument("--epochs", type=int, default=None)
parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("ptb"), help="folder for the checkpoint and the model")
arguments = parser.parse_args()


def part(name: str) -> Path:
    """ptb.NAME.txt, packed or not."""
    plain = arguments.folder / f"ptb.{name}.txt"
    return plain if plain.exists() else plain.with_name(plain.name + ".gz")


def report(row: dict[str, float]) -> None:
    print(
        f"epoch {row['epoch']:4d}  {row['seconds']:7.1f} s  training {np.exp(row['train_loss']):8.2f}  "
        f"validation {np.exp(row['valid_loss']):8.2f}",
        flush=True,
    )


model = LanguageModel(
    tokens="blank",  # the tokens are what stands between blanks, <unk> among them, and <eos> ends each line
    recipe="awd",
    minutes=arguments.minutes,
    epochs=arguments.epochs,
    seed=arguments.seed,
    device=arguments.device,
)
model.fit(part("train"), valid=part("valid"), checkpoints=arguments.out, log=report)
model.save(arguments.out / "model.safetensors")
for name in ("valid", "test"):
    scores = model.evaluate(part(name))  # one stream with carried state, as the published scores are
    print(f"{name}: perplexity {scores['perplexity']:.2f} of {scores['tokens']:,} tokens")
print(model.generate(length=60, temperature=0.9))
