"""The road to the native engine: what it finds and refuses, and that all goes on where it is missing."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurra.engine import native
from recurra.errors import ArgumentError

ROOT = Path(__file__).resolve().parent.parent
FEATURES = ["sse4.2", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16", "neon"]
NEEDS = {  # best first
    "avx512": {"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx2": {"avx2", "fma"},
    "neon": {"neon"},
    "generic": set(),
}
needs_engine = pytest.mark.skipif(not native.available(), reason=str(native.why_not()))


def choose(features: list[str], request: str) -> str:
    return importlib.import_module("recurra.engine._native").choose(features, request)


@needs_engine
def test_the_cpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECURRA_ISA", raising=False)
    cpu = native.cpu()
    assert native.why_not() is None
    assert cpu.architecture == platform.machine()
    assert set(cpu.features) <= set(FEATURES)
    assert cpu.isa == next(isa for isa, needs in NEEDS.items() if needs <= set(cpu.features))
    assert cpu.compiler
    assert cpu.flags is not None
    assert "-march" not in cpu.flags, "the unit that chooses the ISA must run on any CPU"


@needs_engine
@pytest.mark.skipif(
    not Path("/proc/cpuinfo").exists(), reason="only Linux lists the CPU's features in a file"
)
def test_the_features_are_those_that_the_kernel_lists() -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    listed = next(
        (line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), []
    )
    kernel_names = {"sse4.2": "sse4_2", "avx512bf16": "avx512_bf16", "neon": "asimd"}
    expected = [name for name in FEATURES if kernel_names.get(name, name) in listed]
    assert list(native.cpu().features) == expected


@needs_engine
@given(st.sets(st.sampled_from(FEATURES)), st.sampled_from(["", *NEEDS]))
def test_the_best_isa_that_the_features_carry_is_chosen(features: set[str], request: str) -> None:
    runs = [isa for isa, needs in NEEDS.items() if needs <= features and request in ("", isa)]
    if runs:
        assert choose(sorted(features), request) == runs[0]
    else:
        with pytest.raises(
            ValueError, match=f"RECURRA_ISA={request}: this CPU cannot run it; it runs .*generic"
        ):
            choose(sorted(features), request)


@needs_engine
@pytest.mark.parametrize(
    ("features", "isa"),
    [
        (FEATURES, "avx512"),
        ([name for name in FEATURES if name not in ("avx512vl", "neon")], "avx2"),
        (["sse4.2", "avx2"], "generic"),
        (["sse4.2", "avx512f", "avx512bw", "avx512dq", "avx512vl"], "generic"),
        (["neon"], "neon"),
        ([], "generic"),
    ],
)
def test_an_isa_needs_all_of_its_features(features: list[str], isa: str) -> None:
    assert choose(features, "") == isa


@needs_engine
def test_recurra_isa_forces_each_isa_that_this_cpu_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECURRA_ISA", raising=False)
    features = set(native.cpu().features)
    for isa, needs in NEEDS.items():
        monkeypatch.setenv("RECURRA_ISA", isa)
        if needs <= features:
            assert native.cpu().isa == isa
        else:
            with pytest.raises(
                ArgumentError, match=f"RECURRA_ISA={isa}: this CPU cannot run it; it runs .*generic"
            ):
                native.cpu()


@needs_engine
@pytest.mark.parametrize("value", ["sse9", "AVX2", "avx", "avx512f", " ", "generic,avx2", "é"])
def test_an_unknown_isa_is_refused_and_the_known_ones_are_named(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRA_ISA", value)
    with pytest.raises(ArgumentError) as caught:
        native.cpu()
    assert str(caught.value).startswith(
        f"RECURRA_ISA={value}: expected one of avx512, avx2, neon, generic; this CPU"
    )
    assert "unset RECURRA_ISA" in str(caught.value)


@needs_engine
def test_an_empty_recurra_isa_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECURRA_ISA", raising=False)
    best = native.cpu()
    monkeypatch.setenv("RECURRA_ISA", "")
    assert native.cpu() == best


@needs_engine
def test_an_unknown_feature_is_refused() -> None:
    with pytest.raises(ValueError, match="no feature is called avx1024"):
        choose(["avx1024"], "")


def reload_with(
    modules: dict[str, types.ModuleType | None], monkeypatch: pytest.MonkeyPatch
) -> types.ModuleType:
    """A second copy of `native`, loaded where these modules are what Python finds (None: nothing)."""
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"recurra.engine.{name}", module)
    spec = importlib.util.spec_from_file_location("second_native", native.__file__)
    second = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "second_native", second)
    spec.loader.exec_module(second)
    return second


def test_without_an_engine_the_note_of_the_build_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    note = types.ModuleType("_missing")
    note.reason = "the tea was cold"
    second = reload_with({"_native": None, "_missing": note}, monkeypatch)
    assert not second.available()
    assert second.why_not() == "recurra was installed without its native engine: the tea was cold"
    assert second.cpu() == second.Cpu(platform.machine(), (), None, None, None)


def test_without_an_engine_and_a_note_the_way_to_learn_more_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    second = reload_with({"_native": None, "_missing": None}, monkeypatch)
    assert not second.available()
    assert "pip install -v" in second.why_not()


@pytest.mark.parametrize(
    "error", [ImportError("wrong ELF class"), OSError("no such symbol"), RuntimeError("!")]
)
def test_an_engine_that_does_not_load_is_no_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def broken(name: str) -> types.ModuleType:
        if name.endswith("._native"):
            raise error
        return real(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    second = reload_with({}, monkeypatch)
    assert not second.available()
    assert second.why_not() == f"the native engine is installed but does not load: {error}"


def test_recurra_installs_where_there_is_no_compiler(tmp_path: Path) -> None:
    """The wheel is whole but for the engine, and says why. Only CMake, if any, is left on the path."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("cmake", "ninja", "uname"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    bare = {"PATH": str(tools), "CC": "no-such-compiler", "CXX": "no-such-compiler"}
    kept = {name: value for name, value in os.environ.items() if name not in bare and "FLAGS" not in name}
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    command += ["--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    run = subprocess.run(command, env=kept | bare, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr

    with zipfile.ZipFile(next(tmp_path.glob("recurra-*.whl"))) as wheel:
        names = wheel.namelist()
        wheel.extractall(tmp_path / "installed")
    carried = [name for name in names if ".dist-info/" not in name and name != "recurra/engine/_missing.py"]
    package = ROOT / "src" / "recurra"
    own = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sorted(carried) == sorted(f"recurra/{path.relative_to(package).as_posix()}" for path in own)
    assert any(name.endswith("entry_points.txt") for name in names)

    # -S leaves this environment's own recurra out
    script = "from recurra.engine import native; print(native.available(), native.why_not())"
    command = [sys.executable, "-S", "-c", script]
    run = subprocess.run(
        command, env=kept | {"PYTHONPATH": str(tmp_path / "installed")}, capture_output=True, text=True
    )
    assert run.stdout.startswith("False recurra was installed without its native engine: "), run.stderr
    if (tools / "cmake").exists():
        assert run.stdout.rstrip().endswith("no working C++ compiler was found")
