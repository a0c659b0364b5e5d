"""A thousand damaged copies of the packaged sample: each is read, or refused with one clear sentence."""

from __future__ import annotations

import importlib.resources
import random
import string
import time
from collections.abc import Callable

import numpy as np
import pytest

from recurra.data.read import parse_text
from recurra.data.table import Panel, read_table
from recurra.errors import InputError

SAMPLE = (importlib.resources.files("recurra.data") / "sample" / "airpassengers.csv").read_bytes()
STRANGE = (
    "", " ", ",", ";", "\t", "|", '"', '""', "'", "\r", "\n", "\r\n\r\n", "\0", "\ufeff", "\u00a0",
    "\u2028", "\u0661",
    "é", "😀", "NA", "nan", "inf", "-inf", "1e999", "1e308", "-1e308", "9" * 400, "0x10", "1_000", "1,234.5",
    "1.234,5",
    "12%", "$5", "(5)", "--", "+", "1e", "true", "0000-00-00", "1949-13", "9999-12-31", "0001-01-01",
    "1949-02-30",
    "1949-01-01T00:00:00+01:00", "1949-01-01 24:00", "2020Q5", "Jan 49", "31/12/49", "1949-W54",
    "99999999999999999999",
    "=A1+1", "#REF!", "<html>", "\x1a", "\x7f",
)  # fmt: skip

Mutation = Callable[[random.Random, bytes], bytes]


def _rows(draw: random.Random, raw: bytes) -> tuple[list[bytes], int]:
    rows = raw.split(b"\n")
    return rows, draw.randrange(len(rows))


def flip(draw: random.Random, raw: bytes) -> bytes:
    data = bytearray(raw)
    for _ in range(draw.choice((1, 1, 3, 33))):
        if data:
            data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def letter(draw: random.Random, raw: bytes) -> bytes:
    at = draw.randrange(len(raw) + 1)
    return raw[:at] + draw.choice(string.printable).encode() + raw[at + draw.randrange(2) :]


def insert(draw: random.Random, raw: bytes) -> bytes:
    at = draw.randrange(len(raw) + 1)
    return raw[:at] + draw.choice(STRANGE).encode() + raw[at:]


def cell(draw: random.Random, raw: bytes) -> bytes:
    rows, at = _rows(draw, raw)
    cells = rows[at].split(b",")
    cells[draw.randrange(len(cells))] = draw.choice(STRANGE).encode()
    rows[at] = b",".join(cells)
    return b"\n".join(rows)


def column(draw: random.Random, raw: bytes) -> bytes:
    which, what = draw.randrange(2), draw.choice(STRANGE).encode()
    rows = [row.split(b",") for row in raw.split(b"\n")]
    for row in rows[1:]:
        if len(row) > which:
            row[which] = what
    return b"\n".join(b",".join(row) for row in rows)


def delete(draw: random.Random, raw: bytes) -> bytes:
    rows, at = _rows(draw, raw)
    return b"\n".join(rows[:at] + rows[at + draw.choice((1, 7, 63)) :])


def double(draw: random.Random, raw: bytes) -> bytes:
    rows, at = _rows(draw, raw)
    return b"\n".join(rows[: at + 1] + rows[at:])


def swap(draw: random.Random, raw: bytes) -> bytes:
    rows, at = _rows(draw, raw)
    other = draw.randrange(len(rows))
    rows[at], rows[other] = rows[other], rows[at]
    return b"\n".join(rows)


def shuffle(draw: random.Random, raw: bytes) -> bytes:
    rows = raw.split(b"\n")
    draw.shuffle(rows)
    return b"\n".join(rows)


def truncate(draw: random.Random, raw: bytes) -> bytes:
    return raw[: draw.randrange(len(raw) + 1)]


def separator(draw: random.Random, raw: bytes) -> bytes:
    return raw.replace(b",", draw.choice((b";", b"\t", b"|", b" ", b":", b",,", b"")))


def ending(draw: random.Random, raw: bytes) -> bytes:
    return raw.replace(b"\n", draw.choice((b"\r\n", b"\r", b"\n\n", b",\n", b"\n\r", b";")))


def encoding(draw: random.Random, raw: bytes) -> bytes:
    text = raw.decode(errors="replace")
    return text.encode(draw.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7")))


def width(draw: random.Random, raw: bytes) -> bytes:
    rows = [row + b"," + draw.choice(STRANGE).encode() for row in raw.split(b"\n")]
    return b"\n".join(rows)


MUTATIONS: tuple[Mutation, ...] = (
    flip, letter, insert, cell, column, delete, double, swap, shuffle, truncate, separator, ending, encoding,
    width,
)  # fmt: skip


def mutant(seed: int) -> bytes:
    draw = random.Random(seed)
    raw = SAMPLE
    for _ in range(draw.choice((1, 1, 2, 3, 7))):
        raw = draw.choice(MUTATIONS)(draw, raw) or b"\n"
    return raw


def check(panel: Panel) -> None:
    """What every panel promises, however it came about."""
    assert len(panel) >= 1
    for series in panel.series:
        assert series.target.dtype == np.float64
        assert series.target.ndim == 1
        assert len(series.stamps) == len(series.target) == len(series.past) <= len(series.known)
        assert not np.isinf(series.target).any()
        assert not np.isnan(series.target[[0, -1]]).any()
        again = panel.frequency.range(series.stamps[0], len(series.stamps))
        np.testing.assert_array_equal(series.stamps, again)
    assert panel.describe()["steps"] == sum(len(s) for s in panel.series)


@pytest.mark.parametrize("block", range(10))
def test_a_mutated_sample_is_read_or_refused(block: int) -> None:
    began = time.process_time()
    read = 0
    for seed in range(block * 100, block * 100 + 100):
        raw = mutant(seed)
        try:
            panel = read_table(raw)
        except InputError as problem:
            text = str(problem)
            assert 20 < len(text) < 700, (seed, text)
            assert "\n" not in text, (seed, text)
            assert "Traceback" not in text
            continue
        except BaseException as problem:
            raise AssertionError(f"seed {seed} raised {type(problem).__name__}") from problem
        check(panel)
        read += 1
    assert 5 <= read <= 95, "the mutations are too mild or too harsh to show anything"
    assert time.process_time() - began < 6, "less than a second is usual"


@pytest.mark.parametrize("seed", range(1000, 1033))
def test_a_mutant_in_a_file_gives_the_same(seed: int, tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "mutant.csv"
    path.write_bytes(mutant(seed))
    outcomes = []
    for source in (path, path.read_bytes()):
        try:
            outcomes.append(read_table(source).describe())
        except InputError as problem:
            outcomes.append(str(problem).replace("'mutant.csv'", "'the data'"))
    assert outcomes[0] == outcomes[1]


def test_the_sample_itself_is_whole() -> None:
    panel = read_table(SAMPLE)
    check(panel)
    assert len(panel.series[0]) == 144
    assert parse_text(SAMPLE, "sample", "csv").place(0) == "row 2"
