"""Sentences of words and their tags, and the file that they came from with tags added.

Axes: N sentences, T words of one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recurra.data import files

Rows = tuple[tuple[str, ...], ...]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Form:
    """What a file looked like, so that it can be written again with tags added.

    kind: "columns", "conllu", "jsonl" or "lines". lines: of the whole file. between: of two columns.
    column: of the tags in CoNLL-U, counted from 0. starts: the lines of -DOCSTART-, counted from 1.
    """

    kind: str
    lines: tuple[str, ...] = ()
    between: str = " "
    column: int = 3
    starts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tagged:
    """N sentences of words, and the tag of each word where they are known.

    words, tags: (N,) tuples of T strings. lines: (N,) arrays (T,), the line of each word. documents: (N,)
    which document a sentence is of, counted from 0. name: of the file, for messages. notes: what was done to
    the data, a sentence each. form: None for lists.
    """

    words: Rows
    tags: Rows | None
    lines: tuple[Numbers, ...]
    documents: Numbers
    name: str = "the sentences"
    notes: tuple[str, ...] = ()
    form: Form | None = None

    def __len__(self) -> int:
        return len(self.words)

    def take(self, places: Numbers) -> Tagged:
        """The sentences at these places."""
        return replace(
            self,
            words=tuple(self.words[i] for i in places),
            tags=None if self.tags is None else tuple(self.tags[i] for i in places),
            lines=tuple(self.lines[i] for i in places),
            documents=self.documents[places],
            notes=(),
            form=None,
        )

    def digest(self) -> str:
        """A fingerprint of words and tags, to know the same data again."""
        found = hashlib.blake2b(digest_size=16)
        for words, tags in zip(self.words, self.tags or self.words, strict=True):
            found.update(json.dumps([words, tags], ensure_ascii=True).encode())
        found.update(self.documents.tobytes())
        return found.hexdigest()


def with_tags(data: Tagged, tags: Sequence[Sequence[str]], outside: str = "O") -> str:
    """The file that `data` was read from, with these tags added: one more column, or one more key.

    In CoNLL-U, whose columns are fixed, they stand in the column that was learnt. Lists, and files of plain
    lines, become columns and lines of tags. outside: what -DOCSTART- lines get.
    """
    form = data.form
    if form is None:
        rows = (
            "\n".join(map("\t".join, zip(*pair, strict=True))) for pair in zip(data.words, tags, strict=True)
        )
        return "".join(f"{row}\n\n" if row else "\n" for row in rows)
    if form.kind == "lines":
        return "".join(" ".join(row) + "\n" for row in tags)
    lines = list(form.lines)
    if form.kind == "jsonl":
        for numbers, row in zip(data.lines, tags, strict=True):
            found = {**json.loads(lines[numbers[0] - 1]), "predicted": list(row)}
            written = json.dumps(found, ensure_ascii=False)
            halves = files.whole_characters(written) != written  # of characters: in no file but as escapes
            lines[numbers[0] - 1] = json.dumps(found) if halves else written
    for number in form.starts:
        lines[number - 1] = _joined(lines[number - 1], form.between, outside)
    for numbers, row in zip(data.lines, tags, strict=True):
        for number, tag in zip(numbers.tolist(), row, strict=False):
            if form.kind == "conllu":
                cells = lines[number - 1].split("\t")
                cells[form.column] = tag
                lines[number - 1] = "\t".join(cells)
            elif form.kind == "columns":
                lines[number - 1] = _joined(lines[number - 1], form.between, tag)
    return "\n".join(lines) + "\n"


def _joined(line: str, between: str, cell: str) -> str:
    return (line if between == "\t" else line.rstrip(" \t")) + between + cell
