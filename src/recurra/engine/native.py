"""Loads the native engine and tells what it found. Without it, :mod:`recurra.engine.cells` does all the work.

Importing this module never fails: :func:`available` and :func:`why_not` say whether the engine is there.
The environment variable RECURRA_ISA=generic|avx2|avx512|neon chooses the kernels; without it, they are the
best that this CPU and operating system can run; :func:`use` chooses others for a while.
"""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from recurra.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor


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


_kernels: Any = None  # of the ISA in use; chosen when first asked for
_connected = False


def kernels() -> Any:
    """The kernels in use (`recurra.engine._native.Kernels`), or None without the engine.

    Raises ArgumentError when RECURRA_ISA names something unknown, or something that this CPU cannot run.
    """
    global _kernels
    if _kernels is None and _module is not None:
        _kernels = module().kernels(cpu().isa)
    return _kernels


# a graph that is compiled before any call has to ask, and its compiler cannot look into the engine
kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


def module() -> Any:
    """The native module, told what torch is. Only where `available`."""
    global _connected
    assert _module is not None
    if not _connected:
        _module.connect(importlib.import_module("torch"))
        _connected = True
    return _module


@contextmanager
def use(isa: str) -> Iterator[None]:
    """Inside the block, the kernels of this ISA do the work. Raises ArgumentError as `cpu` does."""
    global _kernels
    if _module is None:
        raise ArgumentError(f"isa: the native engine is not loaded; {_why_not}")
    try:
        chosen = module().kernels(_module.choose(_module.features(), isa))
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    before, _kernels = _kernels, chosen
    try:
        yield
    finally:
        _kernels = before


def isas() -> tuple[str, ...]:
    """The ISAs that have kernels in this build and run on this CPU, best first; none without the engine."""
    if _module is None:
        return ()
    runs = []
    for isa in ("avx512", "avx2", "neon", "generic"):
        try:
            _module.kernels(_module.choose(_module.features(), isa))
        except ValueError:
            continue
        runs.append(isa)
    return tuple(runs)


def thread_runtime() -> str | None:
    """The library whose threads do the work, as in `libgomp.so.1`; None without the engine."""
    importlib.import_module("torch")  # it brings the library, and the engine looks for it once
    return None if _module is None else str(_module.thread_runtime())


def peak(threads: int, dtype: str = "float32") -> float | None:
    """Multiply-adds that this many threads reach with the ISA in use, measured, in GFLOP/s.

    dtype: float32, or bfloat16: then None where there are no kernels for it. Raises ArgumentError without the
    engine.
    """
    if _module is None:
        raise ArgumentError(f"peak: the native engine is not loaded; {_why_not}")
    chosen = kernels() if dtype == "float32" else kernels().for_pairs
    return None if chosen is None else float(chosen.peak(threads))


def schedule(rows: int, steps: int, lengths: Tensor | None) -> Any:
    """Which rows run at which step. lengths: (N,) int64 on the CPU, contiguous, or None: all T."""
    assert _module is not None
    return _module.Schedule(rows, steps, 0 if lengths is None else lengths.data_ptr())


def packed_schedule(batch_sizes: Tensor) -> Any:
    """The same for a PackedSequence. batch_sizes: (T,) int64 on the CPU, contiguous."""
    assert _module is not None
    return _module.Schedule.packed(batch_sizes.data_ptr(), batch_sizes.numel())
