"""One file for tensors and one JSON document: model files and training checkpoints.

The file is a safetensors file, so every reader of that format opens it; `docs/format.md` specifies it.
Nothing is ever pickled or unpickled. A file is written beside its place and renamed, so that a reader sees
the old file or the new one, never half of one, and a digest of the whole file shows damage when it is read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import math
import os
import random
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from recurra.errors import ArgumentError, ModelFileError, RecurraError

FORMAT = 1
"""Version of the file format that this module writes, and the newest that it reads."""

_HEADER_LIMIT = 100_000_000  # bytes; the limit that every safetensors reader sets
_UNSIGNED = b"0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write `tensors` and `document` to one file, whole or not at all.

    tensors: any shapes and devices, dtypes of docs/format.md; those that share memory are written separately.
    document: JSON values only. "format" and "recurra" (the versions) are added and may not be given.

    Raises ArgumentError when the arguments cannot be written, and RecurraError when the system refuses to
    (disk full, no permission). The file that was there before is then as it was.
    """
    place = Path(os.path.realpath(path))  # a link stays a link; what it points to is replaced
    if os.path.isdir(place):
        raise ArgumentError(f"path: expected a file's name, got the folder {path}; add a file name")
    if not os.path.isdir(place.parent):
        raise ArgumentError(
            f"path: there is no folder {place.parent} to write {place.name} into; create it first"
        )
    header, arrays = _header(tensors, document)
    digest = hashlib.sha256(header)
    for array in arrays:
        digest.update(array)
    header = _DIGEST.sub(b'"sha256":"' + digest.hexdigest().encode() + b'"', header, count=1)
    temporary = place.with_name(f"{_partial_prefix(place)}{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with open(temporary, "xb") as file:
            file.write(header)
            for array in arrays:
                file.write(array)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            remedy = "free some space" if error.errno == errno.ENOSPC else "choose another place"
            reason = error.strerror or error
            raise RecurraError(f"{path} could not be written: {reason}; {remedy} and run again") from error
        raise
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the file itself is safe
        _sync_folder(place.parent)


def sweep(path: str | os.PathLike[str]) -> None:
    """Remove what writers of `path` that were killed left beside it. Only for a path with no other writer."""
    place = Path(os.path.realpath(path))
    for entry in place.parent.iterdir() if place.parent.is_dir() else ():
        if entry.name.startswith(_partial_prefix(place)) and entry.name.endswith(".partial"):
            entry.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that :func:`write` wrote: its tensors, on the CPU, by name, and its document.

    Raises ModelFileError, one sentence, for anything else: no such file, a folder, a file that is empty,
    truncated, damaged, of another kind, or of a newer format. The document's entries are for the caller to
    check.
    """
    try:
        with open(path, "rb") as file:
            header, content = _read_bytes(path, file)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: expected a model file, found no such file; check the path") from None
    except IsADirectoryError:
        raise ModelFileError(f"{path}: expected a model file, found a folder; give the file in it") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFileError(f"{path}: expected a model file, but it cannot be read: {reason}") from error
    document = _document(path, header)
    _check_digest(path, header, content)
    try:
        return dict(sorted(safetensors.torch.load(content).items())), document
    except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ModelFileError(f"{path}: the tensors in this file are malformed ({error})") from error


def flatten(nested: Any) -> tuple[dict[str, Tensor], Any]:
    """Take apart nested dicts, lists and tuples into named tensors and a JSON value that says where each was.

    Leaves are tensors and None, bool, int, float, str; keys are str or int and stay so. Raises ArgumentError
    for anything else. A tensor's name is its path, such as "optimizer/state/0/exp_avg".
    """
    tensors: dict[str, Tensor] = {}

    def visit(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            name = "".join(letter if letter.isprintable() else "?" for letter in name)
            while name in tensors or name in ("", "__metadata__"):
                name += "~"
            tensors[name] = value
            return {"tensor": name}
        if value is None or isinstance(value, (bool, str)) or type(value) is int:
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if isinstance(value, (list, tuple)):
            items = [visit(item, _join(name, index)) for index, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if not isinstance(value, Mapping):
            raise ArgumentError(
                f"nested: expected tensors and JSON values, got {type(value).__name__} at {name}"
            )
        for key in value:
            if not isinstance(key, str) and type(key) is not int:
                raise ArgumentError(
                    f"nested: expected text or whole numbers as keys, got {key!r} at {name!r}"
                )
        return {"dict": [[key, visit(item, _join(name, key))] for key, item in value.items()]}

    return tensors, visit(nested, "")


def unflatten(tensors: Mapping[str, Tensor], plain: Any) -> Any:
    """Put together again what :func:`flatten` took apart. Raises ModelFileError when the parts do not fit."""

    def build(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, list):
            return [build(item) for item in value]
        if isinstance(value, dict) and len(value) == 1:
            match next(iter(value.items())):
                case ("tensor", str() as name) if name in tensors:
                    return tensors[name]
                case ("float", "nan" | "inf" | "-inf" as text):
                    return float(text)
                case ("tuple", list() as items):
                    return tuple(build(item) for item in items)
                case ("dict", list() as pairs) if all(isinstance(p, list) and len(p) == 2 for p in pairs):
                    if all(isinstance(key, (str, int)) for key, _ in pairs):
                        return {key: build(item) for key, item in pairs}
        raise ModelFileError(f"the file's document does not fit its tensors, at {json.dumps(value)[:60]}")

    return build(plain)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the global generators of torch (also the device's), numpy and Python, in fixed shapes."""
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002  users' code draws from it
    _, words, gauss = random.getstate()
    state = {
        "torch": torch.default_generator.get_state(),
        "numpy": torch.from_numpy(np.append(legacy["state"]["key"], legacy["state"]["pos"]).astype(np.int64)),
        "numpy_gauss": torch.tensor([legacy["has_gauss"], legacy["gauss"]], dtype=torch.float64),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor(math.nan if gauss is None else gauss, dtype=torch.float64),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Set what :func:`random_state` returned."""
    torch.default_generator.set_state(state["torch"])
    numbers = state["numpy"].numpy()
    has_gauss, cached = state["numpy_gauss"].tolist()
    words = ("MT19937", numbers[:-1].astype(np.uint32), int(numbers[-1]), int(has_gauss), cached)
    np.random.set_state(words)  # noqa: NPY002
    gauss = state["python_gauss"].item()
    random.setstate((3, tuple(state["python"].tolist()), None if math.isnan(gauss) else gauss))
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _join(name: str, key: str | int) -> str:
    return f"{name}/{key}" if name else str(key)


def _header(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> tuple[bytes, list[memoryview]]:
    """The file up to the first tensor, with zeros for a digest, and the tensors' bytes in order."""
    reserved = sorted({"format", "recurra"} & set(document))
    if reserved:
        raise ArgumentError(f"document: {reserved[0]!r} is added by recurra; give this entry another name")
    try:
        text = json.dumps({"format": FORMAT, "recurra": _version(), **document}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"document: expected JSON values only, got {error}") from error
    table: dict[str, Any] = {"__metadata__": {"sha256": _UNSIGNED.decode(), "recurra": text}}
    arrays: list[memoryview] = []
    end = 0
    # The widest numbers first: every tensor then starts at a multiple of its own width.
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        _check_tensor(name, tensor)
        array = _bytes_of(tensor)
        start, end = end, end + array.nbytes
        dtype, shape = _DTYPES[tensor.dtype], list(tensor.shape)
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        arrays.append(array)
    body = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    body += b" " * (-len(body) % 8)
    if len(body) > _HEADER_LIMIT:
        raise ArgumentError(f"document: expected at most {_HEADER_LIMIT:,} bytes of JSON, got {len(body):,}")
    return len(body).to_bytes(8, "little") + body, arrays


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(name, str) or name == "__metadata__" or not name.isprintable():
        raise ArgumentError(f"tensors: {name!r} cannot be a tensor's name; choose another")
    if tensor.dtype not in _DTYPES or tensor.layout is not torch.strided:
        raise ArgumentError(f"tensors: {name!r} is {tensor.dtype}, {tensor.layout}, which files cannot hold")


def _bytes_of(tensor: Tensor) -> memoryview:
    # An empty or one-element view may have strides that view() refuses; a fresh copy has not.
    flat = tensor.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().data


def _version() -> str:
    try:
        return importlib.metadata.version("recurra")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _partial_prefix(place: Path) -> str:
    return f".{place.name[:60]}."


def _read_bytes(path: str | os.PathLike[str], file: BinaryIO) -> tuple[bytes, bytes]:
    """The JSON header, and the whole file, read only after its first bytes look like one of ours."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError(f"{path}: expected a model file, found something that is not a plain file")
    if status.st_size == 0:
        raise ModelFileError(f"{path}: expected a model file, found an empty file; write it again")
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or length > _HEADER_LIMIT or start[8:] != b"{":
        if start[:1] == b"\x80" or start[:4] == b"PK\x03\x04":
            raise ModelFileError(
                f"{path}: this is a pickle or zip file, which is never opened; give a *.safetensors"
            )
        raise ModelFileError(f"{path}: this is not a recurra model file; give a *.safetensors of recurra's")
    if 8 + length > status.st_size:
        raise ModelFileError(
            f"{path}: the file is truncated: it has {status.st_size:,} bytes and its header alone takes "
            f"{8 + length:,}; copy or write it again"
        )
    content = start + file.read()
    return content[8 : 8 + length], content


def _document(path: str | os.PathLike[str], header: bytes) -> dict[str, Any]:
    foreign = f"{path}: this safetensors file was not written by recurra; give the one that recurra wrote"
    try:
        table = json.loads(header)
        text = table["__metadata__"]["recurra"]
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: the file's JSON header is malformed; copy or write it again"
        ) from error
    except (TypeError, LookupError) as error:
        raise ModelFileError(foreign) from error
    if not isinstance(document, dict) or type(document.get("format")) is not int or document["format"] < 1:
        raise ModelFileError(foreign)
    if document["format"] > FORMAT:
        raise ModelFileError(
            f"{path}: the file has format {document['format']} and this recurra reads up to {FORMAT}; "
            f"install recurra {str(document.get('recurra', ''))[:40]} or newer"
        )
    return document


def _check_digest(path: str | os.PathLike[str], header: bytes, content: bytes) -> None:
    match = _DIGEST.search(header)
    if match is None:
        raise ModelFileError(f"{path}: the file has no sha256 digest, so it was not written by recurra")
    start, end = 8 + match.start(1), 8 + match.end(1)
    whole = memoryview(content)
    digest = hashlib.sha256(whole[:start])
    digest.update(_UNSIGNED)
    digest.update(whole[end:])
    if digest.hexdigest().encode() != match.group(1):
        raise ModelFileError(
            f"{path}: the file is truncated or damaged: its content does not match its digest; "
            "copy or write it again"
        )
