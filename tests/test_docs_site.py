"""The site of `make docs`: each public name has its place, docstrings become Markdown, nothing is fetched."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("material", "mkdocstrings_handlers.python", "latex2mathml", "griffe")  # of the extra "docs"
LISTS = (
    "recurra",
    "recurra.nn",
    "recurra.train",
    "recurra.bench",
    "recurra.lens",
    "recurra.web",
)
PUBLIC = [f"{name}.{member}" for name in LISTS for member in importlib.import_module(name).__all__]

PAGES = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md")}
SHOWN = [name for text in PAGES.values() for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package.split(".")[0]) is None:
            pytest.skip("this needs the extra 'docs', which make docs installs")


def script(name: str) -> ModuleType:
    """scripts/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_module_with_a_public_list_is_known_here() -> None:
    found = {
        path.parent.relative_to(ROOT / "src").as_posix().replace("/", ".")
        if path.name == "__init__.py"
        else path.relative_to(ROOT / "src").with_suffix("").as_posix().replace("/", ".")
        for path in (ROOT / "src").rglob("*.py")
        if re.search(r"^__all__ =", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found == set(LISTS)


def test_each_public_name_is_on_exactly_one_page() -> None:
    count = Counter(SHOWN)
    assert {name: count[name] for name in PUBLIC if count[name] != 1} == {}, "write it into docs/api/"


def test_each_name_on_a_page_exists_and_says_what_it_is() -> None:
    things = {name: pkgutil.resolve_name(name) for name in SHOWN}
    kinds = (type, FunctionType, ModuleType)
    assert [name for name, thing in things.items() if isinstance(thing, kinds) and not thing.__doc__] == []


def test_docstrings_become_markdown() -> None:
    need("griffe")
    to_markdown = script("docs_docstrings").to_markdown
    code = "A layer. For example::\n\n    x = f(1)\n\n    if x:\n        y = 7\n\nNo more."
    assert to_markdown(code, set()) == (
        "A layer. For example:\n\n```python\nx = f(1)\n\nif x:\n    y = 7\n```\n\nNo more."
    )
    assert to_markdown("It is::\n\n    h_t = σ(W x_t)     the state", set()).split("\n")[2] == "```text"
    assert "```pycon\n>>> f(7)" in to_markdown("So:\n\n    >>> f(7)\n    33", set())

    shapes = "x: (N, T). lengths: (N,), resets: (N, T) bool,\nfor a batch. Raises ValueError for others."
    assert to_markdown(shapes, {"x", "lengths", "resets"}) == (
        "- `x`: (N, T).\n- `lengths`: (N,)\n- `resets`: (N, T) bool, for a batch.\n\n"
        "Raises ValueError for others."
    )
    assert to_markdown("one: first\n    and more\ntwo, three: both", set()) == (
        "- `one`: first and more\n- `two, three`: both"
    )
    assert to_markdown("`x` (N,) ·\n`y` (T,)", set()) == "- `x` (N,)\n- `y` (T,)"
    assert to_markdown("Note: x is (N, T).", {"x"}) == "Note: x is (N, T)."
    assert to_markdown("See :func:`recurra.load`.", set()) == (
        'See <autoref optional identifier="recurra.load"><code>recurra.load</code></autoref>.'
    )


def build(folder: Path, config: Path) -> subprocess.CompletedProcess[str]:
    """Builds a site as `make docs` does. Without --quiet, which hides warnings from --strict too."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(folder),
        "-f",
        str(config),
    ]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """name → text of each page and style of the site, built without a warning."""
    need(*NEEDED)
    folder = tmp_path_factory.mktemp("site")
    done = build(folder, ROOT / "mkdocs.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    files = [path for path in folder.rglob("*") if path.suffix in (".html", ".css")]
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def test_a_dead_link_ends_the_build(tmp_path: Path) -> None:
    need(*NEEDED)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Here\n\n[There](there.md)\n")
    own = "docs_dir: docs\nnav: [index.md]\nhooks: []\nplugins: []\n"
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\n{own}")
    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode != 0
    assert "'there.md'" in done.stderr
    assert "--quiet" not in re.findall(r"mkdocs build (.*)", (ROOT / "Makefile").read_text())[0]


def test_each_public_name_has_its_anchor(site: dict[str, str]) -> None:
    for name in PUBLIC:
        assert [page for page, text in site.items() if f'id="{name}"' in text and "api/" in page] != [], name


class Loads(HTMLParser):
    """What a page fetches when it is opened: scripts, pictures, styles, frames, and not its links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = ("src", "srcset", "data", "poster") + (("href",) if tag in ("link", "use", "image") else ())
        self.found += [value for name, value in attrs if name in names and value]


def test_no_page_loads_anything_from_elsewhere(site: dict[str, str]) -> None:
    for name, text in site.items():
        parser = Loads()
        parser.feed(text if name.endswith(".html") else "")
        assert name.endswith(".css") or parser.found, f"{name}: the parser sees nothing"
        fetched = parser.found + re.findall(r"(?:@import|url\()\s*[\"']?([^\"')\s;]+)", text)
        assert [place for place in fetched if re.match(r"(https?:)?//", place)] == [], name


def test_blocks_links_and_formulas_are_rendered(site: dict[str, str]) -> None:
    pages = {name: text for name, text in site.items() if name.endswith(".html")}
    assert [
        name for name, text in pages.items() if re.search(r"::</p>|``[^`<]*``|>Args:|arithmatex", text)
    ] == []
    lstm = pages["api/layers.html"].split('id="recurra.nn.LSTM"')[1].split('id="recurra.nn.GRU"')[0]
    assert re.search(r'<div class="highlight"><pre>.*<span class="n">layer</span>', lstm), "the example"
    assert re.search(r"<li>\s*(<p>)?<code>hx</code>", lstm)
    assert pages["lstm.html"].count("<mtable") >= 5, "aligned equations"
    assert 'href="start.html"' in pages["index.html"]
    assert 'href="contributing.html#adding-a-cell"' in pages["engine.html"]
    assert not re.search(r'href="(\.\./)*(README|examples|LICENSE)', "".join(pages.values()))
