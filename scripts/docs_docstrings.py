"""Docstrings as Markdown, for the API pages: an extension of griffe, named in mkdocs.yml.

They are prose for whoever reads the source. Here an indented block, with or without `::` before it, becomes a
code block; what is said of each argument becomes a list; a name such as `recurra.types.Trace` becomes a link
where a page has it; and the comment behind a field becomes the field's docstring.
"""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
from typing import Any

import griffe

NAMES = r"\*{0,2}\w+(?:, \w+)*"
# what ends a list of arguments within a paragraph
AFTER = r"(?:Raises|Returns|See|Sources?:|Weights:|Output:|Shapes:|The rest)\s"


class AsMarkdown(griffe.Extension):
    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        rewrite(pkg)


def rewrite(thing: Any) -> None:
    """Rewrites the docstring of a module, a class, a function or an attribute, and of all within it."""
    field = thing.is_attribute and thing.annotation and not thing.docstring
    if field and "  # " in (line := (thing.lines or [""])[-1]):
        thing.docstring = griffe.Docstring(line.split("  # ")[1], parent=thing)
    if thing.docstring:
        begin = thing.members.get("__init__", thing)
        arguments = {argument.name for argument in getattr(begin, "parameters", ())}
        thing.docstring.value = to_markdown(thing.docstring.value, arguments | set(thing.members))
    for member in thing.members.values():
        if not member.is_alias:
            rewrite(member)


def to_markdown(text: str, arguments: set[str]) -> str:
    """A docstring as Markdown. arguments: the names that it explains, as in `name: what it is`."""
    parts: list[str] = []
    for indented, group in itertools.groupby(
        re.split(r"\n\s*\n(?=.)", text), lambda part: part[:4] == "    "
    ):
        if indented:
            block = textwrap.dedent("\n\n".join(group))
            parts.append(f"```{language(block)}\n{block}\n```")
        else:
            parts += [linked(listed(re.sub(r"::$", ":", part), arguments)) for part in group]
    return "\n\n".join(parts)


def language(block: str) -> str:
    if block.startswith(">>> "):
        return "pycon"
    try:
        ast.parse(block)
    except SyntaxError:  # a formula, or what was printed
        return "text"
    return "python"


def listed(part: str, arguments: set[str]) -> str:
    """The paragraph, with a list for the arguments or fields that it explains one after another."""
    if part.startswith("`") and (fields := re.split(r"\s·\s+(?=`)", part))[1:]:
        return "\n".join(f"- {' '.join(field.split())}" for field in fields)
    lines = [line for line in part.splitlines() if not line.startswith("    ")]
    each = len(lines) > 1 and all(re.match(rf"{NAMES}: ", line) for line in lines)  # fields, one to a line
    known = "|".join(map(re.escape, sorted(arguments))) or "(?!)"
    item = rf"\*{{0,2}}(?:{known})(?:, \w+)*: " + (rf"|(?:(?<=\n)|^){NAMES}: " if each else "")
    begins = rf"(?:^|(?<=\n)|(?<=[.;]\s)|(?<=\),\s))(?={item}|(?<=\.\s){AFTER})"
    text, last = "", ""
    for piece in filter(None, map(str.strip, re.split(begins, part))):
        if re.match(item, piece):
            name, said = " ".join(piece.split()).split(": ", 1)
            text += ("\n" if last == "item" else "\n\n") + f"- `{name}`: {said.rstrip(',;')}"
            last = "item"
        else:
            text += f"\n\n{piece}"
            last = "prose"
    return text.strip()


def linked(part: str) -> str:
    part = re.sub(r"(^|[\s(]):\w+:(?=`)", r"\1", part)  # the roles of Sphinx
    link = r'<autoref optional identifier="\1"><code>\1</code></autoref>'
    return re.sub(r"(?<!`)`(recurra(?:\.\w+)+)`(?!`)", link, part)
