"""Loads the native engine and tells what it found. Without it, :mod:`recurra.engine.cells` does all the work.

Importing this module never fails: :func:`available` and :func:`why_not` say whether the engine is there.
The environment variable RECURRA_ISA=generic|avx2|avx512|neon chooses the kernels; without it, they are the
best that this CPU and operating system can run.
"""

from __future__ import annotations

import importlib
import os
import platform
from dataclasses import dataclass
from types import ModuleType

from recurra.errors import ArgumentError


@dataclass(frozen=True)
class Cpu:
    """What the engine runs on.

    architecture: the machine's name, as in `x86_64`.
    features: instruction sets that the CPU has and the operating system supports; empty without the engine.
    isa: the kernels in use, one of generic, avx2, avx512, neon; None without the engine.
    compiler, flags: what built the engine; None without the engine.
    """

    architecture: str
    features: tuple[str, ...]
    isa: str | None
    compiler: str | None
    flags: str | None


def _load() -> tuple[ModuleType | None, str | None]:
    """The module, or the reason why there is none."""
    try:
        return importlib.import_module("recurra.engine._native"), None
    except ModuleNotFoundError:
        return None, f"recurra was installed without its native engine: {_reason_of_the_build()}"
    except Exception as error:  # whatever stops it from loading, the plain twin still works
        return None, f"the native engine is installed but does not load: {error}"


def _reason_of_the_build() -> str:
    """What CMakeLists.txt noted when it left the engine out."""
    try:
        return str(importlib.import_module("recurra.engine._missing").reason)
    except ModuleNotFoundError:
        return "it was not built; `pip install -v` shows what the build said"


_module, _why_not = _load()


def available() -> bool:
    """Whether the native engine is loaded."""
    return _module is not None


def why_not() -> str | None:
    """Why the native engine is not loaded, in one sentence; None when it is."""
    return _why_not


def cpu() -> Cpu:
    """The CPU, the kernels chosen for it and how they were built.

    Raises ArgumentError when RECURRA_ISA names something unknown, or something that this CPU cannot run.
    """
    if _module is None:
        return Cpu(platform.machine(), (), None, None, None)
    features = tuple(_module.features())
    try:
        isa = _module.choose(list(features), os.environ.get("RECURRA_ISA", ""))
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    return Cpu(platform.machine(), features, isa, _module.compiler, _module.flags)
