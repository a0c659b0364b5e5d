"""The file format: what is written is read back, and nothing else is ever taken for it."""

from __future__ import annotations

import builtins
import errno
import hashlib
import io
import json
import math
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from recurra import checkpoint
from recurra.errors import ArgumentError, ModelFileError, RecurraError

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
]  # fmt: skip
per_function = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: on a busy one, a hundred syncs take minutes and say nothing of the format."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def tensors() -> st.SearchStrategy[Tensor]:
    def build(dtype: torch.dtype, shape: list[int], seed: int) -> Tensor:
        words = np.random.default_rng(seed).integers(0, 2, size=shape)
        return torch.from_numpy(np.asarray(words)).to(dtype)

    shapes = st.lists(st.sampled_from([0, 1, 2, 3, 7]), max_size=3)
    return st.builds(build, st.sampled_from(DTYPES), shapes, st.integers(0, 2**31))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
nested = st.recursive(
    scalars | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(-2, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return bool(left == right)


@pytest.mark.usefixtures("unsynced")
@given(value=nested)
@per_function
def test_nested_values_come_back_as_they_were(tmp_path: Path, value: Any) -> None:
    flat, plain = checkpoint.flatten(value)
    assert same(checkpoint.unflatten(flat, plain), value)
    path = tmp_path / "nested.safetensors"
    checkpoint.write(path, flat, {"state": plain})
    read, document = checkpoint.read(path)
    assert same(checkpoint.unflatten(read, document["state"]), value)
    assert same(dict(sorted(safetensors.torch.load_file(path).items())), read)  # as any reader sees it


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=9,
)
documents = st.dictionaries(st.text(max_size=9), json_values, max_size=5).map(
    lambda document: {key: value for key, value in document.items() if key not in ("format", "recurra")}
)


@pytest.mark.usefixtures("unsynced")
@given(
    named=st.dictionaries(st.sampled_from(["a", "b/c", "sha256", "été", '"']), tensors()), document=documents
)
@per_function
def test_a_file_is_read_back_whole(
    tmp_path: Path, named: dict[str, Tensor], document: dict[str, Any]
) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, named, document)
    read, found = checkpoint.read(path)
    assert found.pop("format") == checkpoint.FORMAT
    assert isinstance(found.pop("recurra"), str)
    assert found == document
    assert set(read) == set(named)
    assert all(same(read[name], named[name]) for name in named)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
    first = path.read_bytes()
    checkpoint.write(path, named, document)
    assert path.read_bytes() == first  # the same content, the same bytes


def sample() -> tuple[dict[str, Tensor], dict[str, Any]]:
    weights = {
        "weight": torch.arange(21.0).reshape(7, 3),
        "steps": torch.tensor(63),
        "mask": torch.ones(1) > 0,
    }
    return weights, {"task": "forecast", "scale": [1.5, None], "sha256": "0" * 64}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, *sample())
    return path


def test_every_truncation_is_refused(model: Path) -> None:
    whole = model.read_bytes()
    for length in range(len(whole)):
        model.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"model\.safetensors: "):
            checkpoint.read(model)
    model.write_bytes(whole + b"\0")
    with pytest.raises(ModelFileError):
        checkpoint.read(model)


def test_every_changed_byte_is_refused(model: Path) -> None:
    whole, dice = model.read_bytes(), random.Random(os.urandom(8))
    for place in range(len(whole)):
        for byte in {whole[place] ^ 1 << dice.randrange(8), dice.randrange(256), 0x7B, 0x30} - {whole[place]}:
            model.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            try:
                checkpoint.read(model)
            except ModelFileError:
                continue
            pytest.fail(f"byte {place} changed from {whole[place]} to {byte} was not noticed")


def crafted(header: bytes, body: bytes = b"") -> bytes:
    """A file with this header and a true digest, where the header has a place for one."""
    whole = len(header).to_bytes(8, "little") + header + body
    return whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1)


def with_document(text: str, table: str = "") -> bytes:
    metadata = json.dumps({"sha256": "0" * 64, "recurra": text}, separators=(",", ":"))
    return crafted(f'{{"__metadata__":{metadata}{table}}}'.encode(), b"\0" * 8)


FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty file"),
    "csv": (b"month,passengers\n1949-01,112\n", "not a recurra model file"),
    "short": (b"\x02\0\0\0\0\0\0\0", "not a recurra model file"),
    "noise": (random.Random(7).randbytes(4096), "not a recurra model file"),
    "pickle": (pickle.dumps({"weight": [1.0]}, protocol=2), "pickle or zip"),
    "hostile length": (b"\xff" * 8 + b"{}", "not a recurra model file"),
    "longer than the file": ((10**7).to_bytes(8, "little") + b"{}", "truncated"),
    "header not JSON": (crafted(b'{"a":'), "malformed"),
    "header not UTF-8": (crafted(b'{"\xff":1}'), "malformed"),
    "header deep": (crafted(b'{"a":' * 100_000), "malformed"),
    "other safetensors": (safetensors.torch.save({"w": torch.ones(3)}), "not written by recurra"),
    "other metadata": (safetensors.torch.save({}, {"format": "pt"}), "not written by recurra"),
    "document not JSON": (with_document("{"), "malformed"),
    "document deep": (with_document("[" * 100_000), "malformed"),
    "document huge number": (with_document('{"format":1,"n":' + "9" * 9999 + "}"), "malformed"),
    "document a list": (with_document("[1]"), "not written by recurra"),
    "document without format": (with_document("{}"), "not written by recurra"),
    "format true": (with_document('{"format":true}'), "not written by recurra"),
    "format zero": (with_document('{"format":0}'), "not written by recurra"),
    "newer": (with_document('{"format":2,"recurra":"9.1"}'), "install recurra 9.1 or newer"),
    "no digest": (crafted(b'{"__metadata__":{"recurra":"{\\"format\\":1}"}}'), "no sha256"),
    "unknown dtype": (
        with_document('{"format":1}', ',"w":{"dtype":"F99","shape":[1],"data_offsets":[0,8]}'), "malformed"),
    "offsets beyond the end": (
        with_document('{"format":1}', ',"w":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}'), "malformed"),
    "shape of another size": (
        with_document('{"format":1}', ',"w":{"dtype":"F64","shape":[9],"data_offsets":[0,8]}'), "malformed"),
    "overflowing shape": (
        with_document('{"format":1}', f',"w":{{"dtype":"F64","shape":[{2**62},4],"data_offsets":[0,8]}}'),
        "malformed"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    content, expected = FOREIGN[name]
    path = tmp_path / "given.bin"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=expected) as caught:
        checkpoint.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_places_that_are_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        checkpoint.read(tmp_path / "absent.safetensors")
    with pytest.raises(ModelFileError, match="found a folder"):
        checkpoint.read(tmp_path)
    with pytest.raises(ModelFileError, match="not a plain file"):
        checkpoint.read(os.devnull)
    with pytest.raises(ModelFileError, match="cannot be read"):
        checkpoint.read("a\0b")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x")
    (tmp_path / "torch.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ModelFileError, match="pickle or zip"):
        checkpoint.read(tmp_path / "torch.pt")


@pytest.mark.parametrize("start", [b"\x80", b"\x80\x02", b"PK\x03\x04"])
def test_a_header_as_long_as_a_magic_number_is_no_pickle(tmp_path: Path, start: bytes) -> None:
    """The file begins with the header's length, least byte first: here it begins as a pickle or a zip."""
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, {}, {"padding": ""})
    least = int.from_bytes(path.read_bytes()[:8], "little")
    wanted = int.from_bytes(start, "little")
    while wanted < least:
        wanted += 256 ** len(start)
    document = {"padding": "x" * (wanted - least)}
    checkpoint.write(path, {}, document)
    with open(path, "rb") as file:
        assert file.read(len(start)) == start
    assert checkpoint.read(path)[1]["padding"] == document["padding"]


def test_a_file_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, os.replace

    def record_sync(handle: int) -> None:
        calls.append("sync")
        sync(handle)

    def record_rename(source: Path, target: Path) -> None:
        calls.append("rename")
        assert source.stat().st_size > 0
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_rename)
    checkpoint.write(tmp_path / "model.safetensors", *sample())
    assert calls[:2] == ["sync", "rename"]


class FullDisk(io.FileIO):
    def write(self, data: Any) -> int:
        if self.tell() > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_leaves_the_old_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.read_bytes()
    usual = builtins.open
    monkeypatch.setattr(builtins, "open", lambda p, mode="r", *a, **k: (
        FullDisk(p, "xb") if mode == "xb" else usual(p, mode, *a, **k)))  # fmt: skip
    with pytest.raises(RecurraError, match=r"could not be written: No space left on device; free some space"):
        checkpoint.write(model, *sample())
    assert model.read_bytes() == before
    assert [entry.name for entry in model.parent.iterdir()] == [model.name]


def test_a_writer_stopped_before_the_rename_leaves_the_old_file(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = model.read_bytes()
    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(model, {}, {"other": 1})
    assert model.read_bytes() == before
    assert [entry.name for entry in model.parent.iterdir()] == [model.name]


def test_a_link_stays_a_link(model: Path) -> None:
    link = model.parent / "latest.safetensors"
    link.symlink_to(model)
    checkpoint.write(link, {}, {"kind": "other"})
    assert link.is_symlink()
    assert checkpoint.read(model)[1]["kind"] == "other"


def test_sweeping_removes_only_this_files_leftovers(model: Path) -> None:
    (model.parent / f".{model.name}.1-ab.partial").write_bytes(b"half")
    (model.parent / ".other.safetensors.1-ab.partial").write_bytes(b"half")
    checkpoint.sweep(model)
    assert sorted(entry.name for entry in model.parent.iterdir()) == [
        ".other.safetensors.1-ab.partial",
        model.name,
    ]
    checkpoint.sweep(model.parent / "absent" / "model.safetensors")


def test_tensors_of_any_layout_in_memory_are_written(tmp_path: Path) -> None:
    shared = torch.arange(63.0).reshape(9, 7)
    given = {"whole": shared, "again": shared, "turned": shared.t(), "part": shared[1::3, 2:5]}
    checkpoint.write(tmp_path / "x.safetensors", given, {})
    read, _ = checkpoint.read(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], given[name]) for name in given)


@pytest.mark.parametrize(
    ("weights", "document", "expected"),
    [
        ({"w": torch.ones(2, dtype=torch.complex128)}, {}, r"'w' is torch\.complex128"),
        ({"w": torch.ones(2).to_sparse()}, {}, r"'w' is torch\.float32, torch\.sparse_coo"),
        ({"__metadata__": torch.ones(2)}, {}, "cannot be a tensor's name"),
        ({"a\nb": torch.ones(2)}, {}, "cannot be a tensor's name"),
        ({}, {"format": 3}, "'format' is added by recurra"),
        ({}, {"recurra": "1"}, "'recurra' is added by recurra"),
        ({}, {"a": math.nan}, "expected JSON values only"),
        ({}, {"a": {1, 2}}, "expected JSON values only"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, weights: dict[str, Tensor], document: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ArgumentError, match=expected):
        checkpoint.write(tmp_path / "x.safetensors", weights, document)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="got the folder"):
        checkpoint.write(tmp_path, {}, {})
    with pytest.raises(ArgumentError, match="there is no folder"):
        checkpoint.write(tmp_path / "absent" / "x.safetensors", {}, {})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArgumentError, match="there is no folder"):
        checkpoint.write(tmp_path / "file" / "x.safetensors", {}, {})
    with pytest.raises(RecurraError, match="choose another place"):
        checkpoint.write(tmp_path / ("x" * 300), {}, {})


@pytest.mark.parametrize("value", [{1.5: 0}, {None: 0}, {True: 0}, {1, 2}, object(), 1j, [b"x"]])
def test_flatten_refuses_other_types(value: Any) -> None:
    with pytest.raises(ArgumentError, match="nested: expected"):
        checkpoint.flatten(value)


@pytest.mark.parametrize(
    "plain",
    [
        {"tensor": "absent"}, {"tensor": 1}, {"tensor": ["w"]}, {"float": "1e3"}, {"tuple": 1}, {"dict": [1]},
        {"dict": [[1]]}, {"dict": [[[], 1]]}, {"dict": [[None, 1]]}, {"what": 1}, {},
        {"dict": [], "tuple": []}, [{"tensor": "absent"}],
    ],
)  # fmt: skip
def test_unflatten_refuses_parts_that_do_not_fit(plain: Any) -> None:
    with pytest.raises(ModelFileError, match="does not fit its tensors"):
        checkpoint.unflatten({"w": torch.ones(1)}, plain)


def test_the_global_generators_are_put_back() -> None:
    def draw() -> list[float]:
        legacy = np.random.standard_normal()  # noqa: NPY002
        return [torch.rand(1).item(), legacy, random.random(), random.gauss(0, 1), torch.randn(7)[3].item()]

    device = torch.device("cpu")
    draw()  # leaves half of a pair of normal numbers behind in numpy and in Python
    state = checkpoint.random_state(device)
    first = [draw(), draw()]
    checkpoint.set_random_state(state, device)
    assert [draw(), draw()] == first
