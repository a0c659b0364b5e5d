"""What MkDocs does with our pages beyond Markdown: a hook, named in mkdocs.yml.

The pages at the project's root become pages of the site. Links lead to the site's own pages; those to files
that it has not (the examples, the licence) become plain text. Formulas become MathML, which browsers set by
themselves.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# README.md would become a second index.html
AT_ROOT = {
    "README.md": "start.md",
    "README.zh.md": "start.zh.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# LaTeX that the converter, or MathML as browsers set it, does not know; and what says the same
SPELT = (
    (r"{aligned}", r"{align*}"),
    (r"\mathcal L", "ℒ"),
    (r"\mathbb R", "ℝ"),
    (r"\mathrm{d}", r"\mathrm d"),
    (r"\tanh c", r"\tanh\,c"),
)


def on_files(files: Files, config: Any) -> Files:
    for name, page in AT_ROOT.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    if page.parent is None:
        page.meta.setdefault("hide", ["navigation"])  # which would list this page alone
    here = Path(page.file.abs_src_path).parent
    depth = page.file.src_uri.count("/")

    def link(found: re.Match[str]) -> str:
        label, target, anchor = found.groups()
        path = (here / target).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            return found[0]
        uri = path.relative_to(ROOT).as_posix()
        uri = AT_ROOT.get(uri, uri.removeprefix("docs/"))
        if not files.get_file_from_path(uri):
            return label.strip("[]")
        return f"{label}({'../' * depth}{uri}{anchor or ''})"

    return re.sub(r"(\[[^]\n]*\])\(([\w./-]+)(#[\w-]+)?\)", link, markdown)


def on_page_content(content: str, **_: Any) -> str:
    def mathml(found: re.Match[str]) -> str:
        formula = html.unescape(found[3])
        for theirs, ours in SPELT:
            formula = formula.replace(theirs, ours)
        return convert(formula, display="block" if found[1] == "div" else "inline")

    return re.sub(r'<(div|span) class="arithmatex">\\([[(])(.*?)\\[])]</\1>', mathml, content, flags=re.S)
