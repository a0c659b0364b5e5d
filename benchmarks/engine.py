"""Every case of `recurra bench`: on all threads, on one, and with AVX2 forced on both. Prints Markdown.

    .venv/bin/python benchmarks/engine.py [--budget 3] [--case NAME] > engine.md

Each part is a process of its own, since torch and its libraries choose their kernels when they start.
Exits with 1 where results differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

# oneDNN, torch's own kernels, MKL and recurra: whatever a contender calls may use no more than AVX2.
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "RECURRA_ISA": "avx2",
}
RUNTIMES = ("onnxruntime", "openvino")
PARTS: tuple[tuple[str, list[str], dict[str, str]], ...] = (
    ("All threads", [], {}),
    ("One thread", ["--threads", "1"], {}),
    ("AVX2 forced", [], AVX2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="3", help="seconds for each case and phase")
    parser.add_argument("--case", action="append", help="only cases with this in their name")
    arguments = parser.parse_args()
    chosen = [word for name in arguments.case or () for word in ("--case", name)] or ["--all"]
    worst = 0
    for title, options, environment in PARTS:
        words = ["bench", *chosen, "--budget", arguments.budget, *options, "--json"]
        code, document = run(words, environment)
        worst = max(worst, code)
        # The other runtimes do not listen to these variables.
        hidden = RUNTIMES if environment else ()
        print("\n".join([f"## {title}", "", *markdown(document, hidden), ""]), flush=True)
    sys.exit(worst)


def run(words: list[str], environment: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """The exit code and the document of one `recurra` process. Ends this one where it refused."""
    code = "import sys; from recurra.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1) or not done.stdout:
        sys.exit(done.returncode or 2)
    return done.returncode, json.loads(done.stdout)


def markdown(document: dict[str, Any], hidden: tuple[str, ...]) -> list[str]:
    """The lines of one table, without the columns named ``hidden``."""
    rows = [row["cells"] for row in document["rows"]]
    columns = [name for name in rows[0] if name not in hidden]
    lines = [document["machine"]["heading"], "", _line(columns), _line(["---"] * len(columns))]
    lines += [_line([row[name] for name in columns]) for row in rows]
    differ = [sentence for row in document["rows"] for sentence in row["differ"]]
    return [*lines, *([""] if differ else []), *(f"- {sentence}" for sentence in differ)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
