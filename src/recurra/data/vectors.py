"""Pretrained vectors of words, from text files as GloVe, word2vec and fastText write them.

A line is a word and its numbers, with blanks between. GloVe's files (Pennington, Socher and Manning, "GloVe:
Global vectors for word representation", 2014) begin at once; those of word2vec and of fastText (.vec) have a
first line with how many words there are and how many numbers to each. Axes: K words, E numbers of a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recurra.data.files import lines, located, refuse_foreign
from recurra.data.words import counted, short
from recurra.errors import ArgumentError, DataError

ENDINGS = (".txt", ".vec")
_LONGEST = 1 << 20  # bytes of a line
_EXPECTED = "a text file with a word and its numbers in each line"
_BINARY = "word2vec's binary files are not read: save the vectors as text"

Rows = dict[str, list[int]]


def read_vectors(
    path: str | Path, words: Sequence[str], *, lower: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The vectors (K, E) float32 of these K words, zero where there is none, and whether (K,) each has one.

    The file may be packed by gzip, bzip2 or xz. It is read line by line, to the last word that is asked for,
    and nothing else of it is kept; only the numbers of those words are looked at. Words may have blanks in
    them. Of a word that comes twice, the first vector counts: these files begin with frequent words.

    lower: a word that is not there itself gets the vector of one that is the same in small letters.

    Raises DataError with the line for one that is too short, has no numbers or is not UTF-8, for a file that
    has fewer words than its first line says, and for what cannot be read; ArgumentError for one string in
    place of several words.

    For example::

        vectors, found = read_vectors("glove.6B.100d.txt", tokenizer.tokens)
    """
    if isinstance(words, str):
        raise ArgumentError(f"words: expected several, got one string, {short(words)}; put it in a list")
    path = located(path)
    wanted, alike = _places(words), _places([word.lower() for word in words]) if lower else {}
    vectors = np.zeros((len(words), 0), np.float32)
    found, near = np.zeros(len(words), bool), np.zeros(len(words), bool)
    size, promised, seen = 0, None, 0
    for line, raw in enumerate(lines(path, ENDINGS, _LONGEST), 1):
        text = _text(raw, line, path.name)
        if line == 1:
            promised, size = _size(text, path.name)
            vectors = np.zeros((len(words), size), np.float32)
            if promised is not None:
                continue
        if not text:
            continue
        seen += 1
        word, numbers = _parted(text, size, line, path.name)
        exact = [place for place in wanted.get(word, ()) if not found[place]]
        close = [p for p in alike.get(word.lower(), ()) if not found[p] and not near[p]] if lower else []
        if exact or close:
            vector = _numbers(numbers, word, line, path.name)
            vectors[exact] = vectors[close] = vector
            found[exact] = near[close] = True
            if found.all():
                return vectors, found
    if not seen:
        raise DataError(f"{path.name!r} has no vectors; expected {_EXPECTED}")
    if promised is not None and seen < promised:
        raise DataError(
            f"{path.name!r} has {counted(seen, 'word')} where its first line says {promised:,}; expected "
            "the whole file: copy or download it again"
        )
    return vectors, found | near


def _places(words: Sequence[str]) -> Rows:
    """Where each word stands; twice where it comes twice."""
    places: Rows = {}
    for place, word in enumerate(words):
        places.setdefault(word, []).append(place)
    return places


def _text(raw: bytes, line: int, name: str) -> str:
    """The line without its end. Raises DataError where it is too long, or no UTF-8 text."""
    if line == 1:
        refuse_foreign(raw, name, _EXPECTED)
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{name!r} is UTF-16 text; expected UTF-8: save it as such")
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    if len(raw) == _LONGEST and not raw.endswith(b"\n"):
        raise DataError(f"line {line} of {name!r} has over a million bytes; expected {_EXPECTED}; {_BINARY}")
    try:
        text = raw.decode()
    except UnicodeDecodeError as problem:
        raise DataError(
            f"line {line} of {name!r} is not UTF-8 text (byte 0x{raw[problem.start]:02x}); expected a word "
            f"and its numbers: save the file as UTF-8; {_BINARY}"
        ) from problem
    return text.replace("\t", " ").rstrip(" \r\n")


def _size(text: str, name: str) -> tuple[int | None, int]:
    """How many words the first line says there are, None where it is one of them, and E."""
    fields = text.split(" ")
    if len(fields) == 2 and all(field.isascii() and field.isdigit() for field in fields):
        count, size = (int(field) if len(field) < 12 else 0 for field in fields)
        if not 0 < size <= _LONGEST:
            raise DataError(
                f"line 1 of {name!r} says {short(text)}; expected how many words and numbers there are"
            )
        return count, size
    size = 0
    while size < len(fields) - 1 and _is_number(fields[-1 - size]):
        size += 1
    if not size:
        raise DataError(
            f"line 1 of {name!r} is {short(text)}; expected a word and its numbers, with blanks between"
        )
    return None, size


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _parted(text: str, size: int, line: int, name: str) -> tuple[str, str]:
    """Word and numbers, as text."""
    blanks = text.count(" ")
    if blanks > size:  # the word has blanks
        word, *fields = text.rsplit(" ", size)
        return word, " ".join(fields)
    word, _, numbers = text.partition(" ")
    if blanks < size:
        raise DataError(
            f"line {line} of {name!r} has {counted(blanks, 'number')} where the first has {size}; expected "
            f"as many: correct the line, or download the file again; {_BINARY}"
        )
    return word, numbers


def _numbers(text: str, word: str, line: int, name: str) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):
            vector = np.array([float(field) for field in text.split(" ")], dtype=np.float32)
    except ValueError:
        vector = np.array([np.nan], dtype=np.float32)
    if not np.isfinite(vector).all():
        raise DataError(
            f"line {line} of {name!r} has something else than finite numbers for the word {short(word)} "
            f"({short(text)}): correct the line"
        )
    return vector
