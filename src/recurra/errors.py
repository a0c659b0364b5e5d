"""The exceptions that recurra raises on purpose, as one tree.

    RecurraError
    ├── InputError            something the user gave cannot be used; also a ValueError
    │   ├── ArgumentError     an option's or parameter's value
    │   ├── DataError         a table, a column, a value in it
    │   └── ModelFileError    a model file: truncated, foreign, or of a newer format
    └── Interrupted           the user stopped a run that can be resumed

Every message names the thing, what was expected, what was received and what to do. The command line prints
the message as one sentence and exits with 2. Layers under :mod:`recurra.nn` raise what torch raises instead.
"""

from __future__ import annotations


class RecurraError(Exception):
    """Root of the tree."""


class InputError(RecurraError, ValueError):
    """Something the user gave cannot be used."""


class ArgumentError(InputError):
    """An option or parameter has a value that cannot be used."""


class DataError(InputError):
    """The user's data cannot be used."""


class ModelFileError(InputError):
    """A file is not a model that this version can read."""


class Interrupted(RecurraError):
    """The user stopped a run; the message says how to resume it."""
