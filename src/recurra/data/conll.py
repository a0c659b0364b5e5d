"""From a user's own file to words and their tags; `recurra.data.tagged` writes them back.

Read are columns (CoNLL 2000 to 2003 and their like), CoNLL-U, JSON lines, a folder with seq.in and seq.out,
plain lines of words, and lists. Axes: N sentences, T words of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recurra.data import files
from recurra.data.tagged import Form, Numbers, Rows, Tagged
from recurra.data.words import counted, several, short
from recurra.errors import DataError

ENDINGS = (".conll", ".conllu", ".txt", ".tsv", ".bio", ".jsonl")
CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
WORD_KEYS = ("tokens", "words", "form", "text")
TAG_KEYS = ("tags", "ner_tags", "labels", "slots", "pos_tags", "upos", "pos")
START = "-DOCSTART-"
_EXPECTED = "UTF-8 text with a word and its tag in each line"
_UNNUMBERED = re.compile(r"\d+[-.]\d+")  # a range of words, or an empty node of CoNLL-U
_BLANKS = re.compile(r"[ \t]+")
_NO_TAG = re.compile(r"[\t\r\n]|^\s*$")
_LIMIT = ", without tabs and line breaks"
_NOTE = re.compile(r"#($|[ \t]*[\w.:-]+[ \t]*=|[ \t]*(newdoc|newpar|begin|end)\b)")


def read_tagged(
    source: Any,
    tags: Iterable[Sequence[str]] | None = None,
    *,
    text: str | int | None = None,
    label: str | int | None = None,
    tagged: bool = True,
    lines: bool | None = None,
) -> Tagged:
    """Words and their tags from a path, the bytes of a file, lists, or a `Tagged`.

    source: a file of columns separated by blanks or tabs, a blank line after each sentence; CoNLL-U;
        JSON lines {"tokens": [...], "tags": [...]}; a folder with seq.in and seq.out, a sentence in each
        line; seq.in alone; a list of (words, tags), or of lists of words, which may be arrays and generators
        too. Files may be packed (.gz .bz2 .xz).
    tags: for a list of lists of words, the tags of each.
    text, label: the columns of words and tags, by number from 1 (from the end where negative), in CoNLL-U and
        JSON lines by name too. By default the first and the last, in CoNLL-U form and upos.
    tagged: whether there must be tags; where not, they are read if they are there, and none is empty.
    lines: whether each line of the file is a sentence. Left out, it is in seq.in, and, where there need be no
        tags, in running text: one line of several words, or lines of which no more than half are of one
        length in words, and none is empty.

    Lines that begin with # and are no rows are comments; -DOCSTART- begins a document. Raises DataError, with
    the line, for what cannot be read.

    For example::

        train = read_tagged("train.conll")
        some = read_tagged([(["Ada", "wrote"], ["B-PER", "O"])])
    """
    if isinstance(source, Tagged):
        found = source
    elif isinstance(source, (str, Path)):
        found = _from_path(files.located(source), text, label, tagged, lines)
    elif isinstance(source, (bytes, bytearray)):
        raw = files.unpack(bytes(source), "the data")
        found = _from_bytes(raw, "the data", "", text, label, tagged, lines)
    else:
        found = _from_lists(source, tags)
    if not len(found):
        raise DataError(f"{found.name!r} has no sentences; expected at least one word: fill it")
    if tagged and found.tags is None:
        raise DataError(
            f"{found.name!r} has words but no tags; expected a tag for each word: name their column with "
            "label (--label on the command line)"
        )
    return found


def _from_path(path: Path, text: Any, label: Any, tagged: bool, plain: bool | None) -> Tagged:
    if files.is_folder(path):
        return _from_folder(path)
    raw = files.read_bytes(path, ENDINGS)
    return _from_bytes(raw, path.name, files.extension(path.name), text, label, tagged, plain)


def _decoded(raw: bytes, name: str) -> list[str]:
    files.refuse_foreign(raw, name, _EXPECTED)
    content = files.as_utf8(raw, name, _EXPECTED).decode().replace("\r\n", "\n").replace("\r", "\n")
    return content.removesuffix("\n").split("\n")


def _from_folder(path: Path) -> Tagged:
    """A folder with seq.in and seq.out."""
    found = []
    for name in ("seq.in", "seq.out"):
        there = sorted(path.glob(f"{name}*"))
        if not there:
            raise DataError(
                f"{str(path)!r} is a folder without {name}; expected seq.in with the words of a sentence in "
                "each line and seq.out with their tags, or one file: name that"
            )
        found.append(_decoded(files.read_bytes(there[0], ENDINGS), f"{path.name}/{there[0].name}"))
    if len(found[0]) != len(found[1]):
        raise DataError(
            f"seq.in of {str(path)!r} has {len(found[0])} lines and seq.out {len(found[1])}; expected as "
            "many: write both again"
        )
    words, tags = (tuple(tuple(line.split()) for line in lines) for lines in found)
    for number, (some, theirs) in enumerate(zip(words, tags, strict=True), 1):
        if len(some) != len(theirs):
            raise DataError(
                f"line {number} of {str(path)!r} has {counted(len(some), 'word')} in seq.in and "
                f"{counted(len(theirs), 'tag')} in seq.out; expected a tag for each word: correct the line"
            )
    return _of_lines(words, tags, path.name)


def _of_lines(words: Rows, tags: Rows | None, name: str) -> Tagged:
    """Sentences that stand in a line each."""
    lines = tuple(np.full(len(row), number, np.int64) for number, row in enumerate(words, 1))
    return Tagged(words, tags, lines, np.arange(len(words)), name, form=Form("lines"))


def _from_bytes(
    raw: bytes, name: str, ending: str, text: Any, label: Any, tagged: bool, plain: bool | None
) -> Tagged:
    lines = _decoded(raw, name)
    if not any(line.strip() for line in lines):
        raise DataError(f"{name!r} is empty; expected a word and its tag in each line: fill it")
    first = next(line for line in lines if line.strip())
    if ending in ("jsonl", "ndjson", "json") or first.lstrip().startswith("{"):
        return _from_objects(lines, name, text, label)
    if plain is None:
        plain = ending == "in" or (not tagged and ending in ("", "txt") and _is_running(lines))
    if plain:
        return _of_lines(tuple(tuple(line.split()) for line in lines), None, name)
    return _from_columns(lines, name, ending, text, label, tagged)


def _is_running(lines: Sequence[str]) -> bool:
    """Whether these are sentences in a line each: no columns, for they would be as many in every line."""
    solid = [line for line in lines if not line.startswith("#")]
    counts = [len(line.split()) for line in solid]
    # where most lines have as many words it is a file of columns with a line that is broken
    usual = max(map(counts.count, set(counts)), default=0)
    ragged = 2 * usual <= len(counts) or (len(counts) == 1 and counts[0] > 1)
    return ragged and all(counts) and not any("\t" in line for line in solid)


def _from_columns(lines: list[str], name: str, ending: str, text: Any, label: Any, tagged: bool) -> Tagged:
    rows = [number for number, line in enumerate(lines) if line.strip(" \t")]
    solid = [lines[number] for number in rows if not lines[number].startswith("#")]
    tabs = ending in ("conllu", "tsv") or all("\t" in line for line in solid)
    split = _by_tabs if tabs else _by_blanks
    cells = split(solid[0]) if solid else []
    universal = len(cells) == 10 and (
        ending == "conllu" or re.fullmatch(r"\d+([-.]\d+)?", cells[0]) is not None
    )
    if not cells:
        raise DataError(f"{name!r} holds comments only; expected a word and its tag in each line: fill it")
    names = CONLLU if universal else ()
    at = _column(text, 1 if universal else 0, len(cells), names, "text", name)
    by = _tag_column(label, 3 if universal else len(cells) - 1, len(cells), names, tagged, name)
    if at == by:
        if label is not None or text is not None or tagged:
            raise DataError(
                f"{name!r} has {counted(len(cells), 'column')}, and words and tags are the same one; "
                "expected a column of each: name two with text and label (--text and --label on the command "
                "line)"
            )
        by = None
    form = Form(
        "conllu" if universal else "columns",
        tuple(lines),
        "\t" if tabs else " ",
        3 if by is None else by,
    )
    return _sentences(lines, split, len(cells), at, by, form, name, tagged)


def _by_tabs(line: str) -> list[str]:
    return [cell.strip(" ") or cell for cell in line.split("\t")]


def _by_blanks(line: str) -> list[str]:
    return _BLANKS.split(line.strip(" \t"))


def _column(given: Any, usual: int, count: int, names: Sequence[str], what: str, name: str) -> int:
    """The place of a column, from 0. Raises DataError where there is none of this number or name."""
    if given is None:
        return usual
    if str(given).lower() in names:
        return names.index(str(given).lower())
    if re.fullmatch(r"-?\d+", str(given)):
        number = int(given)
        place = number - 1 if number > 0 else count + number
        if number and 0 <= place < count:
            return place
    listed = f"; or one of {several(names)}" if names else ""
    raise DataError(
        f"{name!r} has no column {short(given)} for {what}; expected a number from 1 to {count}{listed}: "
        f"give one of these (--{what} on the command line)"
    )


def _tag_column(
    given: Any, usual: int, count: int, names: Sequence[str], tagged: bool, name: str
) -> int | None:
    """The place of the tags; None where there need be none, and there is no such column."""
    try:
        return _column(given, usual, count, names, "label", name)
    except DataError:
        if tagged:
            raise
        return None


def _sentences(
    lines: Sequence[str], split: Any, count: int, at: int, by: int | None, form: Form, name: str, tagged: bool
) -> Tagged:
    """The sentences of a file of columns, line by line. tagged: whether there must be tags."""
    words: list[tuple[str, ...]] = []
    tags: list[tuple[str, ...]] = []
    places: list[Numbers] = []
    documents: list[int] = []
    starts: list[int] = []
    document, since, missing = 0, False, False
    block: list[tuple[str, str, int]] = []

    def close() -> None:
        if block:
            some, theirs, numbers = zip(*block, strict=True)
            words.append(some)
            tags.append(theirs)
            places.append(np.array(numbers, np.int64))
            documents.append(document)
            block.clear()

    for number, line in enumerate(lines, 1):
        if not line.strip(" \t"):
            close()
            continue
        if line.startswith("#") and (form.kind == "conllu" or _is_note(line, split, count, bool(block))):
            since = since or "newdoc" in line[:9]
            continue
        cells = split(line)
        if cells[0] == START:
            close()
            since = True
            starts.append(number)
            continue
        if len(cells) != count:
            hint = "" if tagged else "; a file with a whole sentence in each line must end in .in"
            raise DataError(
                f"line {number} of {name!r} has {counted(len(cells), 'column')} and the first line {count}: "
                f"{short(line)}; expected the same number in every line: correct it, or separate sentences "
                f"by a blank line{hint}"
            )
        if form.kind == "conllu" and not cells[0].isdecimal():
            if _UNNUMBERED.fullmatch(cells[0]):
                continue
            raise DataError(
                f"line {number} of {name!r} begins with {short(cells[0])}; expected the number of a word, as "
                "in all CoNLL-U: correct the line"
            )
        missing = missing or (by is not None and not cells[by].strip())
        if not cells[at] or (missing and tagged):
            raise DataError(
                f"line {number} of {name!r} has an empty {'tag' if cells[at] else 'word'}: {short(line)}; "
                "expected both: fill it in, or remove the line"
            )
        if since:
            document += bool(words) or bool(block)
            since = False
        block.append((cells[at], "" if by is None else cells[by].strip(), number))
    close()
    unknown = (
        by is None or missing or (form.kind == "conllu" and all(tag == "_" for row in tags for tag in row))
    )
    known = np.array(documents, np.int64) if document else np.arange(len(words))
    return Tagged(
        tuple(words), None if unknown else tuple(tags), tuple(places), known, name,
        form=replace(form, starts=tuple(starts)),
    )  # fmt: skip


def _is_note(line: str, split: Any, count: int, inside: bool) -> bool:
    """Whether a line that begins with # is a comment, and not the word #."""
    return len(split(line)) != count or (not inside and _NOTE.match(line) is not None)


def _from_objects(lines: Sequence[str], name: str, text: Any, label: Any) -> Tagged:
    words, tags, numbers = [], [], []
    keys: tuple[str, str | None] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise DataError(
                f"line {number} of {name!r} is no JSON object ({problem}); expected "
                '{"tokens": [...], "tags": [...]}: correct the line'
            ) from problem
        if not isinstance(found, dict):
            raise DataError(
                f"line {number} of {name!r} is no JSON object: {short(line)}; expected "
                '{"tokens": [...], "tags": [...]}: correct the line'
            )
        if keys is None:
            keys = (
                _key(found, text, WORD_KEYS, "text", name) or "",
                _key(found, label, TAG_KEYS, "label", name),
            )
            if keys[0] == keys[1]:
                raise DataError(
                    f"{name!r}: text and label are both {short(keys[0])}; name two different ones"
                )
        some, theirs = (found.get(key) if key else None for key in keys)
        words.append(_strings(some, keys[0], number, name, tags=False))
        if keys[1] is not None:
            tags.append(_strings(theirs, keys[1], number, name, tags=True))
            if len(tags[-1]) != len(words[-1]):
                raise DataError(
                    f"line {number} of {name!r} has {counted(len(words[-1]), 'word')} and "
                    f"{counted(len(tags[-1]), 'tag')}; expected a tag for each word: correct the line"
                )
        numbers.append(np.full(max(1, len(words[-1])), number, np.int64))
    tagged = keys is not None and keys[1] is not None
    form = Form("jsonl", tuple(lines))
    return Tagged(
        tuple(words), tuple(tags) if tagged else None, tuple(numbers), np.arange(len(words)), name, form=form
    )


def _key(found: dict[str, Any], given: Any, usual: Sequence[str], what: str, name: str) -> str | None:
    if given is not None and str(given) not in found:
        raise DataError(
            f"{name!r} has no {short(given)} for {what}; its objects have {several(list(found))}: give one "
            f"of these (--{what} on the command line)"
        )
    key = given if given is not None else next((key for key in usual if key in found), None)
    if key is None and what == "text":
        raise DataError(
            f"{name!r} has objects of {several(list(found))}; expected the words of a sentence as "
            f"{' or '.join(usual[:2])}: name theirs with text (--text on the command line)"
        )
    return None if key is None else str(key)


def _strings(value: Any, key: str, number: int, name: str, *, tags: bool) -> tuple[str, ...]:
    found = _row(value, tags)
    if found is None:
        raise DataError(
            f"line {number} of {name!r}: expected {key} as a list of strings{_LIMIT * tags}, got "
            f"{short(value)}: correct the line"
        )
    return found


def _row(row: Any, tags: bool) -> tuple[str, ...] | None:
    """The strings of a row; None where it holds anything else, or a tag that fits into no column."""
    if isinstance(row, (str, bytes, Mapping)) or not isinstance(row, Iterable):
        return None
    found = tuple(row)
    if not all(isinstance(one, str) and one and not (tags and _NO_TAG.search(one)) for one in found):
        return None
    return tuple(files.whole_characters(str(one)) for one in found)


def _from_lists(source: Any, tags: Iterable[Sequence[str]] | None) -> Tagged:
    odd = isinstance(source, Mapping) or hasattr(type(source), "columns")  # a frame
    if odd or not isinstance(source, Iterable):
        raise DataError(
            f"expected a path, (words, tags) of each sentence, or lists of words, got "
            f"{type(source).__name__}: give one of these"
        )
    given = list(source)
    if tags is not None:
        theirs = list(tags) if isinstance(tags, Iterable) else []
        if len(theirs) != len(given):
            raise DataError(
                f"there are {len(given)} sentences and tags for {len(theirs)}; expected as many: give both"
            )
        given = list(zip(given, theirs, strict=True))
    pairs = [_is_pair(one) for one in given]
    both = bool(pairs) and all(pairs)
    words = tuple(_checked(one[0] if both else one, "words", n) for n, one in enumerate(given, 1))
    found = tuple(_checked(one[1], "tags", n) for n, one in enumerate(given, 1)) if both else None
    for n, (some, its) in enumerate(zip(words, found or words, strict=True), 1):
        if len(some) != len(its):
            raise DataError(
                f"sentence {n} has {counted(len(some), 'word')} and {counted(len(its), 'tag')}; expected a "
                "tag for each word: correct it"
            )
    lines = tuple(np.full(len(row), n, np.int64) for n, row in enumerate(words, 1))
    return Tagged(words, found, lines, np.arange(len(words)))


def _is_pair(one: Any) -> bool:
    """Whether this is (words, tags), and not a list of two words."""
    return isinstance(one, (tuple, list)) and len(one) == 2 and not any(isinstance(part, str) for part in one)


def _checked(row: Any, what: str, number: int) -> tuple[str, ...]:
    found = _row(row, what == "tags")
    if found is None:
        raise DataError(
            f"sentence {number}: expected its {what} as a list of strings that are not empty"
            f"{_LIMIT * (what == 'tags')}, got {short(row)}: split it into {what}"
        )
    return found
