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
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from recurra import nn
    from recurra.data.table import read_table
    from recurra.data.texts import read_texts
    from recurra.nn.accelerate import accelerate, restore
    from recurra.tasks.classify import Classifier
    from recurra.tasks.forecast import Forecaster
    from recurra.tasks.generate import LanguageModel
    from recurra.tasks.tag import Tagger

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "Forecaster",
    "LanguageModel",
    "Tagger",
    "__version__",
    "accelerate",
    "load",
    "nn",
    "read_table",
    "read_texts",
    "restore",
]

# name → the module that has it, and its name there; None for the module itself
_HOME = {
    "Classifier": ("recurra.tasks.classify", "Classifier"),
    "Forecaster": ("recurra.tasks.forecast", "Forecaster"),
    "LanguageModel": ("recurra.tasks.generate", "LanguageModel"),
    "Tagger": ("recurra.tasks.tag", "Tagger"),
    "accelerate": ("recurra.nn.accelerate", "accelerate"),
    "nn": ("recurra.nn", None),
    "read_table": ("recurra.data.table", "read_table"),
    "read_texts": ("recurra.data.texts", "read_texts"),
    "restore": ("recurra.nn.accelerate", "restore"),
}

# a model file's task → its estimator
_ESTIMATORS = {
    "forecast": ("recurra.tasks.forecast", "Forecaster"),
    "classify": ("recurra.tasks.classify", "Classifier"),
    "tag": ("recurra.tasks.tag", "Tagger"),
    "generate": ("recurra.tasks.generate", "LanguageModel"),
}

# the layers that draw themselves in a notebook, by the names that IPython knows types by while not yet loaded
DRAWN = (
    "recurra.nn.cells.GRUCell",
    "recurra.nn.cells.LSTMCell",
    "recurra.nn.cells.RNNCell",
    "recurra.nn.matrix_memory.MLSTM",
    "recurra.nn.minimal.MinGRU",
    "recurra.nn.minimal.MinLSTM",
    "recurra.nn.recurrent.GRU",
    "recurra.nn.recurrent.LSTM",
    "recurra.nn.recurrent.RNN",
    "recurra.nn.slstm.SLSTM",
    "recurra.nn.stacked.Stacked",
    "recurra.nn.variants.CoupledLSTM",
    "recurra.nn.variants.LayerNormGRU",
    "recurra.nn.variants.LayerNormLSTM",
    "recurra.nn.variants.PeepholeLSTM",
)


def load(path: str | PathLike[str]) -> Any:
    """The fitted estimator in a model file, of whichever task the file names: a Forecaster, Classifier, ….

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
    return getattr(importlib.import_module(module), name).load(path)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recurra' has no attribute {name!r}")
    module, attribute = _HOME[name]
    value = importlib.import_module(module)
    globals()[name] = value if attribute is None else getattr(value, attribute)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


def _drawn(layer: Any) -> Any:
    return importlib.import_module("recurra.lens.diagrams").drawn(layer)


def _draw_in_notebooks() -> None:
    """Where IPython runs already, asks it to show the layers as drawings. Loads neither it nor torch."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    formatters = getattr(getattr(shell, "display_formatter", None), "formatters", {})
    if "image/svg+xml" in formatters:
        for name in DRAWN:
            formatters["image/svg+xml"].for_type_by_name(*name.rsplit(".", 1), _drawn)


_draw_in_notebooks()
