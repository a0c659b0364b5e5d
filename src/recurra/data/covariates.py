"""The covariates of a table: their cells as numbers, categories spread out, their roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from recurra.data.numbers import numbers, truths
from recurra.data.read import Table
from recurra.data.rows import Rows
from recurra.data.stamps import recognised
from recurra.data.words import several, short
from recurra.errors import DataError

MOST_CATEGORIES = 100


@dataclass(frozen=True)
class Inputs:
    """Covariates of the table's rows: ``cells`` role → (R, F) · ``columns`` role → names."""

    cells: dict[str, np.ndarray]
    columns: dict[str, tuple[str, ...]]
    categories: dict[str, tuple[str, ...]]
    notes: list[str]


def gather(
    table: Table,
    rows: Rows,
    asked: dict[str, tuple[str, ...]],
    values: np.ndarray,
    given: Mapping[str, Sequence[str]],
) -> Inputs:
    notes: list[str] = []
    categories: dict[str, tuple[str, ...]] = {}
    cells: dict[str, list[np.ndarray]] = {"past": [], "known": [], "static": []}
    columns: dict[str, list[str]] = {"past": [], "known": [], "static": []}
    for flag, names in asked.items():
        for name in names:
            made, vocabulary = _covariate(table, name, given.get(name))
            if vocabulary is not None:
                categories[name] = vocabulary
                strange = _strangers(table.frame[name], vocabulary)
                if strange:
                    notes.append(
                        f"The values {several(strange)} of {name!r} are new to the model and count as none "
                        "of its categories."
                    )
            role = flag if flag != "covariates" else _role(rows, made, values)
            if role == "static":
                _check_static(table, rows, name, made)
            cells[role].append(made)
            columns[role].append(name)
    if asked["covariates"]:
        words = {
            "past": "known up to the origin only",
            "known": "known in the future too",
            "static": "constant within each series",
        }
        told = [
            f"{several([n for n in columns[r] if n in asked['covariates']])} {words[r]}"
            for r in words
            if set(columns[r]) & set(asked["covariates"])
        ]
        notes.append(f"Covariates: {'; '.join(told)}.")
    blank = np.zeros((len(table.frame), 0))
    whole = {role: np.concatenate([blank, *parts], 1) for role, parts in cells.items()}
    return Inputs(whole, {r: tuple(n) for r, n in columns.items()}, categories, notes)


def _covariate(
    table: Table, name: str, vocabulary: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """(R, F) features of one column; the vocabulary where it is categorical."""
    column = table.frame[name]
    if column.dtype.is_temporal() or _is_dates(column):
        raise DataError(
            f"the covariate {name!r} holds dates; expected numbers, truth values or categories: leave it out"
        )
    if column.dtype == pl.String and vocabulary is None:
        truth = truths(column)
        if truth is not None:
            return truth[:, None], None
        wrong = numbers(column, table.separator)[1]
        there = int(column.is_not_null().sum())
        if there and wrong.sum() > 0.1 * there:
            vocabulary = sorted(column.drop_nulls().unique().to_list())
            if len(vocabulary) > MOST_CATEGORIES:
                raise DataError(
                    f"the covariate {name!r} is text with {len(vocabulary)} different values; expected "
                    f"numbers or at most {MOST_CATEGORIES} categories: leave it out"
                )
    if vocabulary is None:
        return cells_as_numbers(table, name, "covariate")[0][:, None], None
    text = column.cast(pl.String)
    code = text.replace_strict(
        list(vocabulary), list(range(len(vocabulary))), default=-1, return_dtype=pl.Int64
    ).to_numpy()
    hot = (code[:, None] == np.arange(len(vocabulary))).astype(np.float64)
    hot[text.is_null().to_numpy()] = np.nan
    return hot, tuple(vocabulary)


def _is_dates(column: pl.Series) -> bool:
    sample: list[str] = column.drop_nulls().head(33).to_list() if column.dtype == pl.String else []
    return len(sample) > 0 and all(recognised(cell) for cell in sample)


def _strangers(column: pl.Series, vocabulary: tuple[str, ...]) -> list[str]:
    return sorted(set(column.cast(pl.String).drop_nulls().unique().to_list()) - set(vocabulary))


def _changes(rows: Rows, made: np.ndarray) -> int | None:
    """First row of the ordered rows that differs from what its series said before, or None."""
    cells = made[rows.order]
    there = np.flatnonzero(~np.isnan(cells).any(1))
    differ = (rows.series[there][1:] == rows.series[there][:-1]) & (
        cells[there][1:] != cells[there][:-1]
    ).any(1)
    return int(there[1:][differ][0]) if differ.any() else None


def _role(rows: Rows, made: np.ndarray, values: np.ndarray) -> str:
    if _changes(rows, made) is None:
        return "static"
    seen = ~np.isnan(values[rows.order]).all(1)
    last = np.full(len(rows.names), -1)
    np.maximum.at(last, rows.series[seen], np.flatnonzero(seen))
    after = np.arange(len(rows.order)) > last[rows.series]
    return "known" if (after & ~np.isnan(made[rows.order]).all(1)).any() else "past"


def _check_static(table: Table, rows: Rows, name: str, made: np.ndarray) -> None:
    row = _changes(rows, made)
    if row is not None:
        whose = rows.names[rows.series[row]]
        raise DataError(
            f"the static covariate {name!r} changes within "
            f"{f'series {whose!r}' if whose else 'the series'}, in {table.place(int(rows.order[row]))}; "
            "expected one value per series: give it with --past or --known"
        )


def cells_as_numbers(table: Table, name: str, role: str) -> tuple[np.ndarray, str | None]:
    column = table.frame[name]
    note = None
    if column.dtype == pl.String:
        values, wrong, note = numbers(column, table.separator)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{table.place(row)} has {short(column[row])} in the {role} column {name!r}; expected a "
                "number, or NA where it is missing: correct it, or name another column"
            )
    else:
        values = column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy().astype(np.float64)
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise DataError(
            f"{table.place(row)} has {short(column[row])} in the {role} column {name!r}, which is infinite; "
            "expected a finite number: correct it, or leave it empty if it is missing"
        )
    huge = np.abs(values) > 1e30
    if huge.any():
        row = int(np.argmax(huge))
        raise DataError(
            f"{table.place(row)} has {short(column[row])} in the {role} column {name!r}; expected numbers "
            "within ±1e30: correct it"
        )
    return values, note
