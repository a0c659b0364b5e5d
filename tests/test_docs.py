"""The documentation keeps its word: its Python runs, its commands run, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = "src/recurra/data/sample/airpassengers.csv"
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# README.zh.md has the same blocks as README.md, comments apart, which test_house checks: once is enough.
RUN = [page for page in PAGES if page != "README.zh.md"]

BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
UNCHECKED = {"cd", "git", "pip", "ruff", "pytest"}  # what a reader runs, but no test can or need


def blocks(page: str) -> list[tuple[str, int, str]]:
    """(language, line of its first line, text) of each block that runs, in the page's order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(hit[1], text.count("\n", 0, hit.start(2)), hit[2]) for hit in BLOCK.finditer(text)]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the sample where the pages say that it is."""
    for place in (tmp_path / "airpassengers.csv", tmp_path / SAMPLE):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / SAMPLE, place)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_command(command: str, where: str, desk: Path) -> None:
    words = shlex.split(command, comments=True)
    if not words or words[0] in UNCHECKED:
        return
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        unknown = [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
        assert unknown == [], f"{where}: the Makefile has no such target"
        return
    assert words[0] == "recurra", f"{where}: do not know how to check the command {words[0]!r}"
    script = Path(sys.executable).with_name("recurra")
    done = subprocess.run([script, *words[1:]], cwd=desk, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{where}: {command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [page for page in RUN if blocks(page)])
def test_each_block_runs(page: str, desk: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for language, line, text in blocks(page):
        if language == "python":
            # the blank lines give tracebacks the page's own line numbers
            exec(compile("\n" * line + text, str(ROOT / page), "exec"), namespace)
        else:
            for command in text.replace("\\\n", " ").splitlines():
                run_command(command, f"{page}:{line + 1}", desk)


@pytest.mark.parametrize("page", PAGES)
def test_each_link_leads_to_a_file(page: str) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [
        target for target in targets if target and "://" not in target and not target.startswith("mailto:")
    ]
    assert [target for target in local if not (ROOT / page).parent.joinpath(target).exists()] == []


def test_a_broken_promise_is_noticed(desk: Path) -> None:
    with pytest.raises(AssertionError, match="no such target"):
        run_command("make coffee", "somewhere", desk)
    with pytest.raises(AssertionError, match="do not know how to check"):
        run_command("curl example.org", "somewhere", desk)
    with pytest.raises(AssertionError, match="somewhere: recurra"):
        run_command("recurra forecast no-such-file.csv --horizon 12", "somewhere", desk)
