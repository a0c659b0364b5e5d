"""Training killed with SIGKILL at ten random moments and resumed each time: are the final weights bitwise
the same?

    .venv/bin/python benchmarks/resume.py [--kills 10] [--epochs 1000]

Prints the moments and the verdict, and exits with 1 where the weights differ. The moments differ from run
to run.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from recurra import checkpoint

SAMPLE = Path(__file__).parents[1] / "src/recurra/data/sample/airpassengers.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        calm, killed = Path(place) / "calm", Path(place) / "killed"
        call = [str(Path(sys.executable).with_name("recurra")), "train", "forecast", str(SAMPLE)]
        call += ["--horizon", "12", "--epochs", str(arguments.epochs), "--quiet"]
        started = time.monotonic()
        subprocess.run([*call, "--out", str(calm)], check=True, stdout=subprocess.DEVNULL)
        whole = time.monotonic() - started
        print(f"undisturbed: {whole:.1f} s")
        done = 0
        for number in range(1, arguments.kills + 1):
            # Starting up and reading take three seconds; a tenth of the rest is the fair share of a life.
            life = 3.0 + random.uniform(0.2, 1.0) * whole / 8
            process = subprocess.Popen([*call, "--out", str(killed), "--resume"], stdout=subprocess.DEVNULL)
            try:
                process.wait(life)
                print(f"kill {number}: finished before its turn")
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                done += 1
                files = sorted(
                    path.name for path in killed.with_name("killed.partial").rglob("*.safetensors")
                )
                print(f"kill {number}: after {life:.2f} s, checkpoints {', '.join(files) or 'none yet'}")
        subprocess.run([*call, "--out", str(killed), "--resume"], check=True, stdout=subprocess.DEVNULL)
        first, second = (checkpoint.read(folder / "model.safetensors")[0] for folder in (calm, killed))
        equal = first.keys() == second.keys() and all(
            torch.equal(first[name], second[name]) for name in first
        )
        print(f"{done} kills; weights bitwise equal: {equal}")
        sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
