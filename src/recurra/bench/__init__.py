"""recurra beside torch.nn, and beside other runtimes where they are installed, measured in one process.

`cases.py` says what is measured, `contenders.py` and `runtimes.py` who computes it, `problem.py` what the
answer is, `timing.py` how it is timed, `compare.py` puts these together, and `table.py` shows it.
"""

from recurra.bench.cases import CASES, QUICK, Case, choose
from recurra.bench.compare import Row, measure

__all__ = ["CASES", "QUICK", "Case", "Row", "choose", "measure"]
