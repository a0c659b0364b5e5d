"""Bad tables and numbers on the command line: one clear sentence, exit code 2, nothing written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from unittest.mock import Mock

import pytest
from commands import QUICK, SAMPLE, TINY, Shell, monthly, waves

VALUES = waves(61)
GOOD = monthly(VALUES)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


def spoilt(row: int, cell: str) -> str:
    """The good table with another value in the ``row``-th line that an editor shows."""
    return monthly([cell if at == row - 2 else value for at, value in enumerate(VALUES)])


BAD_TABLES = {
    "empty": ("", ["'bad.csv' is empty", "expected a header line"]),
    "only blanks": (" \n \n\t\n", ["'bad.csv' is empty"]),
    "only a header": ("month,passengers\n", ["header but no rows"]),
    "binary": (bytes(range(256)) * 9, ["'bad.csv' is a binary file", "expected UTF-8 text"]),
    "latin-1": (
        monthly(VALUES, "month,élèves").encode("latin-1"),
        ["not UTF-8", "row 1", "save it as UTF-8"],
    ),
    "text": (spoilt(9, "many"), ["row 9", "'many'", "'passengers'", "expected a number"]),
    "infinite": (spoilt(33, "inf"), ["row 33", "'inf'", "'passengers'", "infinite", "expected a finite"]),
    "minus infinite": (spoilt(2, "-inf"), ["row 2", "'-inf'", "infinite"]),
    "duplicate": (GOOD + "1949-03,9\n", ["1949-03-01 occurs twice", "row 4", "row 63", "--series"]),
    "no date": (GOOD + "someday,9\n", ["row 63", "'someday'", "'month'", "is no date", "1949-01"]),
    "no such month": (GOOD + "1954-13,9\n", ["row 63", "1954-13", "month must lie between 1 and 12"]),
    "two formats": (
        GOOD + "31/03/1954,9\n",
        ["two ways", "'1949-01'", "'31/03/1954'", "row 63", "expected one"],
    ),
    "all missing": (monthly(["NA"] * 61), ["'passengers' has no values at all", "--target"]),
    "all empty": (monthly([""] * 61), ["'passengers' has no values at all"]),
    "one row": (monthly([3]), ["no series has two rows", "--frequency"]),
    "too short": (monthly(waves(6)), ["has 6 steps", "--horizon 3 needs at least 7", "shorten the horizon"]),
    "ragged": (GOOD + "1954-02,1,2,3\n", ["row 63", "4 columns", "the header has 2"]),
}


@pytest.mark.parametrize("case", BAD_TABLES)
@pytest.mark.parametrize("verb", ["forecast", "train forecast"])
def test_a_bad_table_is_refused(shell: Shell, case: str, verb: str) -> None:
    content, expected = BAD_TABLES[case]
    said = shell.refused(*verb.split(), shell.write("bad.csv", content), *TINY, "--out", "o")
    for part in expected:
        assert part in said


def test_no_such_file(shell: Shell) -> None:
    shell.write("passengers.csv", GOOD)
    said = shell.refused("forecast", "pasengers.csv", *QUICK)
    assert "there is no file 'pasengers.csv'" in said
    assert "did you mean 'passengers.csv'?" in said
    assert "is a folder" in shell.refused("forecast", shell.folder, *QUICK)


def test_a_missing_column_names_the_nearest(shell: Shell) -> None:
    path = shell.write("good.csv", GOOD)
    for flag, wrong, right in (("target", "pasengers", "passengers"), ("time", "Months", "month")):
        said = shell.refused("forecast", path, *QUICK, f"--{flag}", wrong)
        assert f"--{flag} names the column '{wrong}', which 'good.csv' does not have" in said
        assert f"did you mean '{right}'?" in said
        assert said.endswith("its columns: month, passengers")
    said = shell.refused("forecast", path, *QUICK, "--covariates", "weather,")
    assert "'weather,' was given: leave no name empty" in said


@pytest.mark.parametrize("horizon", [0, -1, -33])
def test_a_horizon_below_one(shell: Shell, horizon: int) -> None:
    said = shell.refused("forecast", shell.write("good.csv", GOOD), "--horizon", horizon)
    assert said == f"--horizon must be at least 1, but {horizon} was given: give 12, say"


@pytest.mark.parametrize("horizon", [58, 61, 1000, 10**20])
def test_a_horizon_longer_than_the_history(shell: Shell, horizon: int) -> None:
    said = shell.refused("forecast", shell.write("good.csv", GOOD), "--horizon", horizon)
    assert f"has 61 steps, but --horizon {horizon} needs at least {horizon + 4}" in said
    assert "shorten the horizon or give more history" in said


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--season", 0, "--season must be at least 1, but 0 was given"),
        ("--season", 31, "the longest series has 61 steps, but a season of 31 needs at least 64"),
        ("--lookback", -3, "--lookback must be at least 1, but -3 was given"),
        ("--epochs", 0, "--epochs must be at least 1, but 0 was given"),
        ("--members", 0, "--members must be at least 1, but 0 was given"),
        ("--members", 10**9, "--members must be at most 100, but 1000000000 was given"),
        ("--hidden-size", -7, "--hidden-size must be at least 1, but -7 was given"),
        ("--hidden-size", 10**9, "--hidden-size must be at most 8192"),
        ("--seed", -1, "--seed must be at least 0"),
        ("--seed", 2**63, f"--seed must be at least 0 and below 2**63, but {2**63} was given"),
        ("--stride", 0, "--stride must be at least 1 step, but 0 was given"),
        ("--backtest", 2, "--backtest must span at least one horizon (3 steps), but 2 was given"),
        ("--backtest", 59, "a backtest over the last 59 steps with horizon 3 needs a history of at least 66"),
        ("--frequency", "fortnights", "got 'fortnights': give one of them"),
        ("--device", "gpu", "--device must be cpu, cuda or auto, but 'gpu' was given"),
    ],
)
def test_a_number_that_makes_no_sense(shell: Shell, option: str, value: object, expected: str) -> None:
    # The option that comes last counts, so this one overrides the tiny network's.
    words = ["forecast", shell.write("good.csv", GOOD), *TINY, option, value]
    assert expected in shell.refused(*words)


def test_no_gpu(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = shell.refused("forecast", shell.write("good.csv", GOOD), *QUICK, "--device", "cuda")
    assert "--device cuda: torch finds no GPU" in said


def test_memory_that_the_machine_has_not(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shell.write("good.csv", GOOD)
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    ):
        monkeypatch.setattr("recurra.tasks.forecast.ForecastNetwork", Mock(side_effect=error))
        assert "the machine ran out of memory: use a shorter --lookback" in shell.refused(
            "forecast", path, *QUICK
        )


def with_promotion(ahead: int, cells: str = "1") -> str:
    """A table with a covariate that is there for ``ahead`` rows after the last value of the target."""
    rows = [
        f"{1949 + at // 12}-{at % 12 + 1:02d},{VALUES[at] if at < 54 else ''},{at % 3 if at < 54 else cells}"
        for at in range(54 + ahead)
    ]
    return "\n".join(["month,passengers,promotion", *rows]) + "\n"


@pytest.mark.parametrize(("ahead", "cells", "known"), [(0, "1", 0), (2, "1", 2), (3, "", 0)])
def test_a_covariate_missing_in_the_future(shell: Shell, ahead: int, cells: str, known: int) -> None:
    path = shell.write("known.csv", with_promotion(ahead, cells))
    said = shell.refused("forecast", path, *QUICK, "--target", "passengers", "--known", "promotion")
    assert "'promotion' must be known in the future" in said
    assert f"for {known} of the 3 steps after its last value: add rows that hold it" in said
    assert "--past" in said


def test_one_of_two_covariates_missing_in_the_future(shell: Shell) -> None:
    rows = with_promotion(3).splitlines()
    both = [rows[0] + ",price", *(f"{row},{at % 5 if at < 54 else ''}" for at, row in enumerate(rows[1:]))]
    path = shell.write("known.csv", "\n".join(both) + "\n")
    said = shell.refused("forecast", path, *QUICK, "--target", "passengers", "--known", "promotion,price")
    assert (
        "'price' must be known in the future, but the series passengers has it for 0 of the 3 steps" in said
    )


def test_a_covariate_known_in_the_future(shell: Shell) -> None:
    path = shell.write("known.csv", with_promotion(3))
    said = shell("forecast", path, *QUICK, "--target", "passengers", "--known", "promotion", "--out", "o")
    assert said.code == 0, said
    assert [row["ds"] for row in rows_of(shell.folder / "o" / "forecast.csv")] == [
        "1953-07-01", "1953-08-01", "1953-09-01",
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["5", "0", "-3.25", "1e9"])
def test_a_constant_series_works_and_says_so(shell: Shell, value: str) -> None:
    said = shell(
        "forecast", shell.write("flat.csv", monthly([value] * 61)), *TINY, "--out", "o", "--backtest", 6
    )
    assert said.code == 0, said
    assert "Always the same value: passengers." in said.out
    assert "LSTM is level with the best baseline" in said.out
    assert "nan" not in said.out
    assert said.err.count("recurra: ") == 0
    document = json.loads((shell.folder / "o" / "metrics.json").read_text())
    assert "Always the same value: passengers." in document["notes"]
    for row in rows_of(shell.folder / "o" / "forecast.csv"):
        assert float(row["forecast"]) == float(value)


@pytest.mark.parametrize("steps", [7, 8, 10, 11, 12, 13, 17, 25, 33])
def test_a_series_shorter_than_the_window_works(shell: Shell, steps: int) -> None:
    said = shell("forecast", shell.write("short.csv", monthly(waves(steps))), *TINY, "--out", "o")
    assert said.code == 0, said
    assert len(rows_of(shell.folder / "o" / "forecast.csv")) == 3
    if steps < 10:
        assert "The history is too short for a backtest, so nothing is known of how good" in said.out
        assert said.out.count("backtest") == 1


def test_a_window_longer_than_the_history_is_shortened(shell: Shell) -> None:
    path = shell.write("good.csv", GOOD)
    said = shell("train", "forecast", path, *TINY, "--lookback", 10**9, "--out", "o")
    assert said.code == 0, said
    assert "The lookback of 1000000000 steps was shortened to 61, the length of the history." in said.out


def test_the_seed_decides_the_forecast(shell: Shell) -> None:
    made = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        assert shell("forecast", SAMPLE, *QUICK, "--seed", seed, "--out", name).code == 0
        made.append((shell.folder / name / "forecast.csv").read_bytes())
    assert made[0] == made[1]
    assert made[0] != made[2]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
