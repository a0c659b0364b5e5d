"""From a file to its bytes, unpacked, and to UTF-8 text; with words for what cannot be read."""

from __future__ import annotations

import bz2
import difflib
import gzip
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recurra.data.words import short
from recurra.errors import DataError

_PACKED = {  # how packed files begin: what they are called, and what unpacks them
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"BZh": ("bzip2", bz2.decompress),
    b"\xfd7zXZ": ("xz", lzma.decompress),
}
_OPENERS: dict[bytes, tuple[str, Any]] = {
    magic: (packer, opened)
    for (magic, (packer, _)), opened in zip(_PACKED.items(), (gzip.open, bz2.open, lzma.open), strict=True)
}
_FOREIGN = {  # how other files begin: what they are and what to do about it
    b"PK\x03\x04": "an Excel workbook or zip archive: save the sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    b"%PDF": "a PDF document: export the table as CSV",
    b"\x89PNG": "a picture: give the table itself, as CSV",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it with unzstd",
    b"\x89HDF": "an HDF5 file: export the table as CSV or Parquet",
    b"ARROW1": "an Arrow file: read it with pyarrow or Polars and hand over the frame, or save it as Parquet",
}
_LINE_END = re.compile(rb"\r\n?|\n")
_HALF = re.compile("[\ud800-\udfff]")


def located(path: str | Path) -> Path:
    """The path with its ~ resolved. Raises DataError where that names a user who has no home here."""
    try:
        return Path(path).expanduser()
    except RuntimeError as problem:
        raise DataError(
            f"{str(path)!r} names a home folder that is not here: give the whole path"
        ) from problem


def is_folder(path: Path) -> bool:
    """Whether this is a folder. Raises DataError where the system does not say."""
    try:
        return path.is_dir()
    except OSError as problem:
        raise DataError(f"the file {short(path)} cannot be read: {problem.strerror}") from problem


def read_bytes(path: Path, endings: Sequence[str]) -> bytes:
    """What a file holds, unpacked where it is compressed by gzip, bzip2 or xz. endings: of files that fit.

    Raises DataError for a path without a file, a folder, and what cannot be read or unpacked.
    """
    with _reading(path, endings):
        raw = path.read_bytes()
    return unpack(raw, path.name)


def lines(path: Path, endings: Sequence[str], longest: int) -> Iterator[bytes]:
    """The lines of a file with their ends, one by one, unpacked as `read_bytes` does, in bounded memory.

    longest: bytes of a line at most; the rest of a longer one comes as the next. Raises as `read_bytes` does.
    """
    with _reading(path, endings), path.open("rb") as file:
        head = file.peek(8)
        packer, opened = next((how for magic, how in _OPENERS.items() if head.startswith(magic)), ("", None))
        stream: Any = opened(file) if opened else file
        try:
            while line := stream.readline(longest):
                yield line
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as problem:
            if not opened:
                raise
            raise _damaged(path.name, packer, problem) from problem


@contextmanager
def _reading(path: Path, endings: Sequence[str]) -> Iterator[None]:
    """What goes wrong with the file while this lasts becomes a DataError."""
    try:
        if not path.exists():
            raise DataError(f"there is no file {str(path)!r}: check the path{_nearest(path)}")
        if path.is_dir():
            raise DataError(
                f"{str(path)!r} is a folder; expected one file ({' '.join(endings)}): name the file in it"
            )
        yield
    except (OSError, ValueError) as problem:
        if isinstance(problem, DataError):
            raise
        why = getattr(problem, "strerror", None) or str(problem)
        raise DataError(f"the file {str(path)!r} cannot be read: {why}") from problem


def unpack(raw: bytes, name: str) -> bytes:
    """The bytes themselves, or what gzip, bzip2 or xz packed. Raises DataError for a damaged packing."""
    for magic, (packer, unpacked) in _PACKED.items():
        if raw.startswith(magic):
            try:
                return unpacked(raw)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as problem:
                raise _damaged(name, packer, problem) from problem
    return raw


def _damaged(name: str, packer: str, problem: Exception) -> DataError:
    return DataError(f"{name!r} is a damaged {packer} file ({problem}): copy or download it again")


def extension(name: str) -> str:
    """The ending of a file's name without its dot, in small letters, that of its packing left out."""
    name = name.lower()
    for packing in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(packing)
    return name.rpartition(".")[2]


def refuse_foreign(
    raw: bytes, name: str, expected: str = "a text file with separated columns, or Parquet"
) -> None:
    """Raise DataError where the bytes begin as those of another kind of file."""
    for magic, what in _FOREIGN.items():
        if raw.startswith(magic):
            raise DataError(f"{name!r} is {what}; expected {expected}")


def as_utf8(
    raw: bytes, name: str, expected: str = "UTF-8 text with separated columns (CSV) or Parquet"
) -> bytes:
    """The same text as UTF-8 without a mark. Raises DataError for what is no text, or not UTF-8."""
    for mark, code in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if raw.startswith(mark):
            try:
                raw = raw.decode(code).encode()
            except UnicodeError as problem:
                what = "UTF-8" if code == "utf-8-sig" else "UTF-16"
                raise DataError(
                    f"{name!r} begins as {what} text but is damaged ({problem}); expected whole text: save "
                    "it again"
                ) from problem
            break
    where = raw.find(b"\0")
    if where >= 0:
        wide = raw[1::2].count(0) > len(raw) // 4 or raw[::2].count(0) > len(raw) // 4
        what = "UTF-16 or UTF-32 text without its mark" if wide else f"a binary file (byte {where} is zero)"
        raise DataError(f"{name!r} is {what}; expected {expected}: save it as such")
    try:
        raw.decode()
    except UnicodeDecodeError as problem:
        line = len(_LINE_END.findall(raw, 0, problem.start)) + 1
        raise DataError(
            f"{name!r} is not UTF-8 text: byte {problem.start} in row {line} is 0x{raw[problem.start]:02x}; "
            "expected UTF-8: save it as UTF-8, or convert it with 'iconv -f WINDOWS-1252 -t UTF-8 OLD > "
            "NEW'"
        ) from problem
    return raw


def whole_characters(text: str) -> str:
    """The text with U+FFFD for halves of characters, as JSON and command lines may spell them: no file can
    hold those."""
    if _HALF.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _nearest(path: Path) -> str:
    try:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 1)
    except OSError:
        return ""
    return f"; did you mean {near[0]!r}?" if near else ""
