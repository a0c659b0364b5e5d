"""A thousand damaged copies of the sample through the command line: none ends in a traceback."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from commands import QUICK, SAMPLE, Shell, contents, sentence
from test_fuzz_table import MUTATIONS

COPIES = 1000
TRAINED_EVERY = 100
"""Of the copies that are read, every so-manieth goes all the way."""


class Checked(Exception):
    """Raised in place of training, once all checks have passed."""


def test_a_thousand_mutations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = Shell(tmp_path, monkeypatch, capsys)
    draw = random.Random(20260)
    whole = SAMPLE.read_bytes()
    read = refused = trained = 0

    def begin(*_: object, **__: object) -> None:
        raise Checked

    for copy in range(COPIES):
        raw = whole
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            raw = draw.choice(MUTATIONS)(draw, raw)
        path = shell.write("copy.csv", raw)
        words = ("forecast", path, *QUICK, "--out", "o", "--overwrite", "--quiet")
        with monkeypatch.context() as patch:
            patch.setattr("recurra.cli.output.Output.open", begin)
            try:
                said = shell(*words)
            except Checked:
                read += 1
            else:
                refused += 1
                assert said.code == 2, (copy, raw[:200])
                sentence(said.err)
                assert contents(tmp_path).keys() == {"copy.csv"}
                continue
        if read % TRAINED_EVERY == 1:
            said = shell(*words)
            assert said.code == 0, (copy, said, raw[:200])
            trained += 1
            assert "o/forecast.csv" in contents(tmp_path)
            for name in sorted(contents(tmp_path / "o")):
                (tmp_path / "o" / name).unlink()
            (tmp_path / "o").rmdir()
    assert read + refused == COPIES
    assert min(read, refused) > COPIES // 10
    assert trained >= 2
