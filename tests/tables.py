"""Tables made for the tests, and what the tests ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from recurra.data.table import Panel, Series, read_table
from recurra.errors import DataError, InputError

MONTHS = ["2020-01", "2020-02", "2020-03", "2020-04"]


def csv(
    dates: Sequence[object], values: Sequence[object] | None = None, header: str = "date,y", by: str = ","
) -> bytes:
    cells = range(1, len(dates) + 1) if values is None else values
    rows = [f"{d}{by}{v}" for d, v in zip(dates, cells, strict=True)]
    return "\n".join([header.replace(",", by), *rows, ""]).encode()


def only(source: Any, **options: Any) -> Series:
    panel = read_table(source, **options)
    assert len(panel) == 1
    return panel.series[0]


def said(panel: Panel) -> str:
    return " ".join(panel.notes)


def refused(source: Any, *words: str, error: type[InputError] = DataError, **options: Any) -> None:
    """The refusal is one sentence and has each of the words."""
    with pytest.raises(error) as caught:
        read_table(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
