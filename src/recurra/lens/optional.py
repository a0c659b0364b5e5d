"""Packages that the lens imports when it needs them; without one the error says what to install."""

from __future__ import annotations

import importlib
from typing import Any


def xarray_module() -> Any:
    """xarray. Raises ImportError where it is not installed."""
    return _module("xarray", "xarray")


def captum_attr() -> Any:
    """captum.attr. Raises ImportError where Captum is not installed."""
    return _module("captum.attr", "captum")


def _module(path: str, package: str) -> Any:
    try:
        return importlib.import_module(path)
    except ImportError as error:
        raise ImportError(
            f"recurra.lens needs {package}, which cannot be imported ({error}); "
            "install it with: pip install recurra[lens]"
        ) from error
