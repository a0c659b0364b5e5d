"""Recurrent networks on PyTorch: layers, data and tasks, with every gate in view.

    import recurra
    panel = recurra.read_table("airline.csv")
    model = recurra.Forecaster(horizon=12).fit(panel)
    model.save("airline.safetensors")
    model = recurra.load("airline.safetensors")

Names are loaded when they are first used, so that `import recurra` itself costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from recurra import nn
    from recurra.data.table import read_table
    from recurra.nn.accelerate import accelerate, restore
    from recurra.tasks.forecast import Forecaster

__version__ = "0.1.0"

__all__ = ["Forecaster", "__version__", "accelerate", "load", "nn", "read_table", "restore"]

# name → the module that has it, and its name there; None for the module itself
_HOME = {
    "Forecaster": ("recurra.tasks.forecast", "Forecaster"),
    "accelerate": ("recurra.nn.accelerate", "accelerate"),
    "nn": ("recurra.nn", None),
    "read_table": ("recurra.data.table", "read_table"),
    "restore": ("recurra.nn.accelerate", "restore"),
}

# a model file's task → its estimator
_ESTIMATORS = {"forecast": ("recurra.tasks.forecast", "Forecaster")}


def load(path: str | PathLike[str]) -> Forecaster:
    """The fitted estimator in a model file, of whichever task the file names.

    Raises ModelFileError when it is no model file, is damaged, comes from a newer version, or names a task
    that this version does not know.
    """
    document = importlib.import_module("recurra.checkpoint").read(path)[1]
    task = document.get("task")
    if task not in _ESTIMATORS:
        error = importlib.import_module("recurra.errors").ModelFileError
        known = ", ".join(_ESTIMATORS)
        raise error(f"{path}: expected a model of one of the tasks {known}, got task {task!r}")
    module, name = _ESTIMATORS[task]
    model: Forecaster = getattr(importlib.import_module(module), name).load(path)
    return model


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recurra' has no attribute {name!r}")
    module, attribute = _HOME[name]
    value = importlib.import_module(module)
    globals()[name] = value if attribute is None else getattr(value, attribute)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
