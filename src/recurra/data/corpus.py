"""From a user's own file to running text: one long stream of tokens, and what is held back of it.

Two kinds of text. A plain file, or several, runs on from its first character to its last. A list of texts,
or a column of a table, such as poems or reviews, is one text after another, each closed by the mark `END`.
Where the tokens are words, each line of a plain file is closed by it too, as in the Penn Treebank's protocol.
Axes: T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.data.files import as_utf8, extension, is_folder, located, read_bytes, refuse_foreign, unpack
from recurra.data.texts import Texts, read_texts
from recurra.data.tokens import Tokenizer
from recurra.data.words import counted, short
from recurra.errors import ArgumentError, DataError

END = "<eos>"
"""The token that closes a text, or a line of words."""
HELD_BACK = 0.1
TABLES = ("csv", "tsv", "jsonl", "ndjson", "parquet")
PLAIN = (".txt", ".md", ".csv", ".tsv", ".jsonl", ".parquet")
_BY_CHARACTER = ("character", "bpe")  # kinds of tokens that know line breaks

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Texts to be read in their order.

    texts: one string for each file, or for each row of a list. listed: whether they are a list, each closed
    by `END`, or running text. name: of the file, for messages. notes: what was done, a sentence each.
    """

    texts: tuple[str, ...]
    listed: bool
    name: str = "the text"
    notes: tuple[str, ...] = ()

    @property
    def characters(self) -> int:
        return sum(map(len, self.texts))

    def digest(self) -> str:
        """A fingerprint, to know the same text again."""
        found = hashlib.blake2b(digest_size=16)
        for text in (str(self.listed), *self.texts):
            found.update(text.encode("utf-8", "surrogatepass"))
            found.update(b"\xff")  # no UTF-8 has this byte
        return found.hexdigest()

    def pieces(self, kind: str) -> list[str]:
        """What is tokenised by itself and then closed by `END`: texts of a list, lines of words; or the whole
        running text, which nothing closes."""
        if self.listed:
            return list(self.texts)
        if kind in _BY_CHARACTER:
            return ["\n".join(self.texts)]
        return [line for text in self.texts for line in text.removesuffix("\n").split("\n")]

    def closed(self, kind: str) -> bool:
        """Whether `END` closes each piece."""
        return self.listed or kind not in _BY_CHARACTER

    def split(self, part: float = HELD_BACK) -> tuple[Corpus, Corpus]:
        """All but the last part, and the last part: of the texts of a list, else of the characters.

        Running text is cut at the exact character, as nanoGPT cuts its Tiny Shakespeare. Raises DataError
        where either part would be empty.
        """
        if self.listed:
            cut = int(len(self.texts) * (1 - part))
            both = self.texts[:cut], self.texts[cut:]
        else:
            whole = "\n".join(self.texts)
            cut = int(len(whole) * (1 - part))
            both = (whole[:cut],), (whole[cut:],)
        if not any(text.strip() for text in both[0]) or not any(text.strip() for text in both[1]):
            size = counted(len(self.texts), "text") if self.listed else counted(self.characters, "character")
            raise DataError(
                f"{self.name!r} has {size}, too little to hold a tenth back; give more text, or a second one "
                "to validate on (valid, --valid)"
            )
        return replace(self, texts=both[0]), replace(self, texts=both[1], notes=())


def read_corpus(source: Any, *, text: str | int | None = None) -> Corpus:
    """Text from a path, several paths, the bytes of a file, strings, a frame, or a `Corpus`.

    A str or Path is the path of a file: one that ends in .csv, .tsv, .jsonl or .parquet is a list of texts,
    in the column `text` (by name, or by number from 1; see `recurra.data.texts`); any other is running text,
    unless `text` names a column. A list of Path objects is several files, read one after another; a list of
    strings is a list of texts. Line breaks become "\\n"; nothing else is changed. Files may be compressed.

    Raises DataError for what is no UTF-8 text, or holds none.

    For example::

        shakespeare = read_corpus("input.txt.gz")
        poems = read_corpus("poems.tsv", text="text")
        lines = read_corpus(["To be or not to be", "that is the question"])
    """
    if isinstance(source, Corpus):
        return source
    if isinstance(source, Texts):
        found = _listed(source)
    elif isinstance(source, (str, Path)):
        found = _from_file(located(source), text)
    elif isinstance(source, (bytes, bytearray)):
        found = _from_bytes(unpack(bytes(source), "the data"), "the data", text)
    elif isinstance(source, Sequence) and source and all(isinstance(one, Path) for one in source):
        parts = [_from_file(located(one), text) for one in source]
        kinds = {part.listed for part in parts}
        if len(kinds) > 1:
            raise DataError(
                f"{parts[0].name!r} and the files with it are partly plain text and partly tables; give "
                "files of one kind"
            )
        name = parts[0].name if len(parts) == 1 else f"{parts[0].name} and {len(parts) - 1} more"
        found = Corpus(tuple(t for part in parts for t in part.texts), kinds.pop(), name)
    else:
        found = _listed(read_texts(source, text=text, labelled=False))
    if not any(one.strip() for one in found.texts):
        raise DataError(f"{found.name!r} holds no text; expected at least a few hundred characters of it")
    return found


def _from_file(path: Path, text: str | int | None) -> Corpus:
    if is_folder(path):
        files = sorted(path.glob("*.txt"))
        if not files:
            raise DataError(
                f"{str(path)!r} is a folder without .txt files; expected one file of text, or a folder of "
                "them: name that"
            )
        parts = [_from_file(file, text).texts for file in files]
        return Corpus(tuple(one for part in parts for one in part), False, path.name)
    if text is not None or extension(path.name) in TABLES:
        return _listed(read_texts(path, text=text, labelled=False))
    return _from_bytes(read_bytes(path, PLAIN), path.name, None)


def _from_bytes(raw: bytes, name: str, text: str | int | None) -> Corpus:
    if text is not None or raw[:4] == b"PAR1":
        return _listed(read_texts(raw, text=text, labelled=False))
    refuse_foreign(raw, name, "plain UTF-8 text")
    content = as_utf8(raw, name, "plain UTF-8 text").decode().replace("\r\n", "\n").replace("\r", "\n")
    if not content.strip():
        raise DataError(f"{name!r} is empty; expected at least a few hundred characters of text")
    return Corpus((content,), False, name)


def _listed(found: Texts) -> Corpus:
    kept = tuple(one for one in found.texts if one.strip())
    notes = found.notes
    if len(kept) < len(found.texts):
        notes = (f"{counted(len(found.texts) - len(kept), 'empty text')} left out.",)
    return Corpus(kept, True, found.name, notes)


def fit_tokenizer(
    corpus: Corpus, kind: str, *, vocabulary: int | None = None, fewest: int | None = None
) -> Tokenizer:
    """The tokens of a corpus. vocabulary: how many at most. fewest: how often each must occur.

    By default all characters, 30,000 words, or pairs of bytes as the text's length affords. Where tokens are
    many (words, or more than 500 different characters, as in Chinese) those that occur once stand for the
    unknown, so that the model learns to expect it. Raises ArgumentError and DataError as `Tokenizer.fit`.
    """
    pieces = corpus.pieces(kind)
    if vocabulary is None:
        vocabulary = 100_000 if kind == "character" else 30_000
        if kind == "bpe":
            vocabulary = int(np.clip(corpus.characters // 200, 300, 8_000))
    if fewest is None:
        many = kind in ("word", "jieba") or (kind == "character" and len(set().union(*pieces)) > 500)
        fewest = 2 if many else 1
    marks = (END,) if corpus.closed(kind) else ()
    try:
        return Tokenizer.fit(pieces, kind, vocabulary=vocabulary, fewest=fewest, marks=marks)
    except DataError:
        if fewest == 1:
            raise
        return Tokenizer.fit(pieces, kind, vocabulary=vocabulary, marks=marks)


def stream(corpus: Corpus, tokenizer: Tokenizer) -> Numbers:
    """(T,) int64: the tokens of the whole corpus, in its order, with `END` where a piece is closed.

    A list for a tokenizer of running text, which has no `END`, is read with line breaks between its texts.
    """
    end, pieces = end_of(tokenizer), corpus.pieces(tokenizer.kind)
    if end is None:
        return tokenizer.encode(["\n".join(pieces)])[0]
    found = tokenizer.encode(pieces)
    closing = np.array([end])
    return np.concatenate([part for piece in found for part in (piece, closing)])


def end_of(tokenizer: Tokenizer) -> int | None:
    """The number of `END`, None where nothing is closed."""
    return 2 if len(tokenizer) > 2 and tokenizer.tokens[2] == END else None


def start_of(tokenizer: Tokenizer) -> int:
    """The token that a text begins after: `END`, else a line break, else the most frequent one."""
    end = end_of(tokenizer)
    if end is not None:
        return end
    break_, *_ = (*tokenizer.encode(["\n"]), np.array([], np.int64))
    known = len(break_) == 1 and int(break_[0]) != tokenizer.unknown
    return int(break_[0]) if known else min(2, len(tokenizer) - 1)


def unknown_parts(text: str, tokenizer: Tokenizer, most: int = 8) -> list[str]:
    """The different tokens of a text that the tokenizer does not know, the first ones."""
    if tokenizer.kind == "bpe":
        return []
    known = set(tokenizer.tokens)
    found = dict.fromkeys(one for one in tokenizer.split(text) if one not in known)
    return list(found)[:most]


def check_kind(tokens: str, kinds: Iterable[str]) -> None:
    """Raise ArgumentError for a kind of tokens that there is not."""
    if tokens not in tuple(kinds):
        raise ArgumentError(
            f"tokens: expected one of {', '.join(kinds)}, got {short(tokens)}; choose one of them"
        )
