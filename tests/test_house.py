"""The rules of the house that ruff, mypy and import-linter do not check. CONTRIBUTING.md states them."""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import recurra
from recurra import checkpoint
from recurra.errors import ModelFileError

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IGNORED = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]


def files(folder: Path = ROOT) -> Iterator[Path]:
    """Every file of the project: all that .gitignore does not leave out."""
    for path in sorted(folder.iterdir()):
        names = (path.name, path.relative_to(ROOT).as_posix())
        if path.name == ".git" or any(fnmatch.fnmatch(name, rule) for name in names for rule in IGNORED):
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def sources(*suffixes: str, under: str = "") -> Iterator[tuple[str, str]]:
    """(path relative to the root, text) of each file with one of these suffixes."""
    for path in files(ROOT / under):
        if path.suffix in suffixes:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def nodes(*kinds: type[ast.AST], under: str = "") -> Iterator[tuple[str, ast.AST]]:
    """(where, node) of each syntax node of these kinds in the project's Python."""
    for name, text in sources(".py", under=under):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, kinds):
                yield f"{name}:{node.lineno}", node


def test_the_walk_sees_this_project() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in files()}
    assert {"tests/test_house.py", "csrc/dispatch.cpp", "src/recurra/errors.py", ".ci/run"} <= names
    assert not [name for name in names if ".venv" in name or name.startswith(".git/")]


def test_files_have_at_most_500_lines() -> None:
    suffixes = (".py", ".cpp", ".h", ".js", ".css", ".j2")
    lengths = {name: len(text.splitlines()) for name, text in sources(*suffixes)}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_functions_have_at_most_80_lines() -> None:
    found = {}
    for where, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        length = node.end_lineno - node.lineno + 1
        if length > 80:
            found[f"{where} {node.name}"] = length
    assert found == {}


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"util", "utils", "common", "base", "helper", "helpers", "misc"}
    assert [path for path in files() if path.stem.strip("_").lower() in drawers] == []
    assert [path for path in files() if drawers & set(path.relative_to(ROOT).parts[:-1])] == []


def test_no_error_is_swallowed() -> None:
    found = []
    for where, node in nodes(ast.ExceptHandler):
        silent = all(isinstance(line, ast.Pass) or _is_ellipsis(line) for line in node.body)
        if node.type is None or silent:
            found.append(where)
    assert found == []


def _is_ellipsis(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and line.value.value is ...


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X])\b|# type: ignor[e]\s*$|breakpoin[t]\(", re.MULTILINE)
    assert _hits(marks) == []


def test_no_registry_and_no_path_of_one_machine_is_named() -> None:
    hosts = r"pypi\.(?:org|io)|pythonhosted\.org|download\.pytorch\.org|anaconda\.org|npmjs\.(?:com|org)"
    options = r"index[-]url|find[-]links|\.librar[y]/|bash_job[s]"
    folders = r"(?<![\w.~:])/(?:work|root|home|Users|opt|mnt|srv)/\w"
    here = re.escape(f"{ROOT}/")
    assert _hits(re.compile(f"{hosts}|{options}|{folders}|{here}")) == []


def _hits(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        for hit in pattern.finditer(text):
            line = text.count("\n", 0, hit.start()) + 1
            found.append(f"{path.relative_to(ROOT).as_posix()}:{line}: {hit.group()}")
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~;\[ ]", name)[0]).lower()


@pytest.mark.parametrize("folder", ["src", "tests", "examples", "benchmarks"])
def test_each_dependency_that_is_imported_is_declared(folder: str) -> None:
    declared = {_normal(line) for line in PYPROJECT["project"]["dependencies"]} | {"recurra"}
    extras = PYPROJECT["project"]["optional-dependencies"]
    for extra in ("lens", "chinese") if folder == "src" else ("dev",):
        declared |= {_normal(line) for line in extras[extra]}
    own = set() if folder == "src" else {path.stem for path in (ROOT / folder).glob("*.py")}
    sold_by = importlib.metadata.packages_distributions()
    found = set()
    for where, node in nodes(ast.Import, ast.ImportFrom, under=folder):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        for name in (name.split(".")[0] for name in names if not getattr(node, "level", 0)):
            if name in sys.stdlib_module_names or name in own or name == "recurra":
                continue
            if not {_normal(seller) for seller in sold_by.get(name, [name])} & declared:
                found.add(f"{where}: {name}")
    assert found == set()


def test_constraints_pin_each_requirement_and_nothing_but_versions() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line)] == []
    asked = PYPROJECT["build-system"]["requires"] + PYPROJECT["project"]["dependencies"]
    asked += PYPROJECT["project"]["optional-dependencies"]["dev"]
    assert {_normal(name) for name in asked} - {_normal(line) for line in lines} == set()


def test_the_public_list_is_as_written_here() -> None:
    assert recurra.__all__ == [
        "Classifier",
        "Forecaster",
        "LanguageModel",
        "Tagger",
        "__version__",
        "accelerate",
        "load",
        "nn",
        "read_table",
        "read_texts",
        "restore",
    ]
    assert importlib.metadata.version("recurra") == recurra.__version__
    for name in recurra.__all__:
        assert getattr(recurra, name) is not None
        assert name in dir(recurra)
    with pytest.raises(AttributeError, match="'recurra' has no attribute 'Forcaster'"):
        _ = recurra.Forcaster


def test_load_names_the_tasks_that_it_knows(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    checkpoint.write(path, {"weight": torch.zeros(7)}, {"task": "divination"})
    with pytest.raises(
        ModelFileError, match=r"odd\.safetensors: expected a model of .*forecast.* got task 'divination'"
    ):
        recurra.load(path)


HEAVY = (
    "torch",
    "lightning_fabric",
    "polars",
    "narwhals",
    "pandas",
    "scipy",
    "statsmodels",
    "plotly",
    "jinja2",
)
MEASURE = """
import json, sys, time
import recurra
first = [name for name in {heavy} if name in sys.modules]
start = time.perf_counter(); import torch; torch_takes = time.perf_counter() - start
before = [name for name in {heavy} if name in sys.modules]
start = time.perf_counter(); recurra.nn; ours_takes = time.perf_counter() - start
after = [name for name in {heavy} if name in sys.modules and name not in before]
print(json.dumps([first, after, torch_takes, ours_takes]))
"""


def test_importing_recurra_costs_little_more_than_importing_torch() -> None:
    script = MEASURE.format(heavy=HEAVY)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, after, torch_takes, ours_takes = json.loads(run.stdout)
    assert first == [], "import recurra alone must load none of these"
    assert after == [], "recurra.nn must load none of these besides torch"
    assert ours_takes < 0.25 * torch_takes


def test_memory_that_was_never_written_is_not_a_number() -> None:
    assert torch.empty(63).isnan().all()
    assert torch.empty_like(torch.zeros(7, 33)).isnan().all()


def test_the_architecture_page_names_each_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = [path for path in files(ROOT / "src") if path.suffix == ".py" and path.name != "__init__.py"]
    assert [path.name for path in modules if path.name not in page] == []


def test_the_readme_goes_with_the_package() -> None:
    assert PYPROJECT["project"]["readme"] == "README.md"


BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_both_readmes_have_the_same_structure() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
    assert _code(english) == _code(chinese), "the same code, only its comments translated"
    for mark in (r"^#+ ", r"^\|[ :|-]+\|$", r"!\[[^]]*\]\(([^)]*)\)"):
        assert [hit.strip() for hit in re.findall(mark, BLOCK.sub("", english), re.MULTILINE)] == [
            hit.strip() for hit in re.findall(mark, BLOCK.sub("", chinese), re.MULTILINE)
        ]


def _code(page: str) -> list[tuple[str, list[str]]]:
    """Each fenced block's language and its lines without comments."""
    blocks = []
    for language, text in BLOCK.findall(page):
        lines = [re.sub(r"(^|\s+)#.*", "", line).rstrip() for line in text.splitlines()]
        blocks.append((language, [line for line in lines if line]))
    return blocks
