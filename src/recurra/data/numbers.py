"""Columns of text read as numbers, truth values or categories."""

from __future__ import annotations

import re

import numpy as np
import polars as pl

MISSING = (
    "",
    "na",
    "n/a",
    "#n/a",
    "nan",
    "null",
    "none",
    "nil",
    "?",
    "-",
    "--",
    ".",
    "missing",
    "nat",
    "<na>",
    "#na",
)
_TRUTH = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "t": 1.0, "f": 0.0, "y": 1.0, "n": 0.0}


def tidy(column: pl.Series) -> pl.Series:
    """The text without blanks around it, null where the text says that there is no value."""
    text = column.str.strip_chars()
    return text.set(text.str.to_lowercase().is_in(list(MISSING)), None)


def numbers(text: pl.Series, separator: str = ",") -> tuple[np.ndarray, np.ndarray, str | None]:
    """Values (T,) of tidied text (T,), NaN where missing; bool (T,) where it is no number; what was assumed.

    ``separator`` is the file's: between semicolons a comma that could be either is taken for the decimal one.
    """
    plain = text.cast(pl.Float64, strict=False)
    wrong = (plain.is_null() & text.is_not_null()).to_numpy()
    note = None
    if wrong.any():
        better, how = _styled(text, separator)
        if better is not None:
            unread = (better.is_null() & text.is_not_null()).to_numpy()
            if unread.sum() < wrong.sum():
                plain, wrong, note = better, unread, how
    return plain.fill_null(float("nan")).to_numpy().astype(np.float64), wrong, note


def _styled(text: pl.Series, separator: str) -> tuple[pl.Series | None, str | None]:
    """The column read with the one way of writing numbers that suits most of it."""
    body = text.str.replace(r"^([+-]?)[$€£¥]\s*", "${1}").str.replace(r"\s*[%€$£¥]$", "")
    signs = (body != text).any()
    reads = {"plain": (body.cast(pl.Float64, strict=False), "currency and per cent signs were dropped")}
    grouped = body.str.contains(r"^[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?$")
    either = body.str.contains(r"^[+-]?[1-9][0-9]{0,2},[0-9]{3}$")
    commas = body.str.contains(",", literal=True)
    undecided = (
        bool((either == commas).all() and commas.any()) and not body.str.contains(r"^[0-9]{1,3}$").any()
    )
    english = _strip(body, grouped, ",", ".")
    continental = _strip(body, body.str.contains(r"^[+-]?[0-9]{1,3}(\.[0-9]{3})+(,[0-9]+)?$"), ".", ",")
    spaced = body.str.replace_all(r"([0-9])[ \x{a0}\x{202f}'’]([0-9]{3})", "${1}${2}").str.replace_all(
        r"([0-9])[ \x{a0}\x{202f}'’]([0-9]{3})", "${1}${2}"
    )
    reads["comma"] = (english, "a comma was read as the sign between thousands")
    reads["point"] = (continental, "a comma was read as the decimal sign")
    reads["space"] = (
        spaced.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False),
        "spaces between thousands were dropped",
    )
    order = (
        ["plain", "point", "comma", "space"]
        if separator != "," and undecided
        else ["plain", "comma", "point", "space"]
    )
    best = min(order, key=lambda name: reads[name][0].null_count())
    values, how = reads[best]
    return values, how if best != "plain" or signs else None


def _strip(body: pl.Series, grouped: pl.Series, thousands: str, decimal: str) -> pl.Series:
    """Grouped numbers lose their signs; any other may hold the decimal sign but never the other one."""
    bare = body.str.replace_all(thousands, "", literal=True)
    kept = pl.select(
        pl.when(grouped).then(bare).when(~body.str.contains(thousands, literal=True)).then(body)
    ).to_series()
    return kept.str.replace(decimal, ".", literal=True).cast(pl.Float64, strict=False)


def truths(text: pl.Series) -> np.ndarray | None:
    """(T,) 1, 0 or NaN of tidied text that says yes and no, or None when it says anything else."""
    lower = text.str.to_lowercase()
    found = lower.replace_strict(_TRUTH, default=None, return_dtype=pl.Float64)
    if (found.is_null() & text.is_not_null()).any() or found.null_count() == len(found):
        return None
    return found.fill_null(float("nan")).to_numpy()


def looks_numeric(text: pl.Series) -> bool:
    """Whether at least half of what is there reads as numbers."""
    there = len(text) - text.null_count()
    if not there:
        return False
    sample = text.drop_nulls().head(2000)
    return bool(numbers(sample)[1].mean() <= 0.5) and not bool(re.fullmatch(r"\s*", sample[0]))
