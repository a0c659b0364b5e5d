"""The command line: `recurra VERB`. Heavy imports wait until a verb needs them.

Every verb exits with 0, or with 2 after one clear sentence on stderr and nothing half-written.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `recurra` script."""
    from recurra.errors import RecurraError

    try:
        from recurra.cli.app import app

        app(prog_name="recurra")
    except RecurraError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("stopped; nothing was written")
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: not an error of the user's.
        sys.stderr.close()
        sys.exit(0)
    except MemoryError:
        _fail("the machine ran out of memory: use a smaller --batch-size or --lookback, or fewer series")


def _fail(sentence: str) -> None:
    print(f"recurra: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(2)
