"""The command line: `recurra VERB`. Heavy imports wait until a verb needs them.

Every verb exits with 0, or with 2 after one clear sentence on stderr and nothing half-written.
"""

from __future__ import annotations

import contextlib
import os
import sys

TOO_LARGE = "the machine ran out of memory: use a shorter --lookback, a smaller --hidden-size or fewer series"


def main() -> None:
    """Entry point of the `recurra` script."""
    from recurra.errors import RecurraError

    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding cannot show is spelt out, instead of ending the run.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        from recurra.cli.usage import run

        run(sys.argv[1:] or ["--help"])
        if sys.stdout is not None:  # None where the shell closed it
            sys.stdout.flush()
    except RecurraError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("stopped; nothing was written")
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: not an error of the user's.
        _drop_output()
        sys.exit(0)
    except MemoryError:
        _fail(TOO_LARGE)
    except RuntimeError as error:
        # torch has no exception of its own for memory that the CPU has not.
        if not any(words in str(error) for words in ("allocate memory", "out of memory", "overflowed")):
            raise
        _fail(TOO_LARGE)
    except OSError as error:
        _drop_output()
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}the system refused ({error.strerror or error}): free space or choose another place")


def _fail(sentence: str) -> None:
    print(f"recurra: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(2)


def _drop_output() -> None:
    """Keep Python from writing at its end what nobody takes."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
