"""The kernels' objects define no weak symbol: else the linker could give every CPU the copy of the newest."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "csrc" / "kernels.cpp"
CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
COMPILER = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), "")
NM = shutil.which("nm") or ""

needs_tools = pytest.mark.skipif(
    not (COMPILER and NM and KERNELS.exists()), reason="needs a C++ compiler, nm and csrc/"
)
needs_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the flags are for x86-64"
)


def isas() -> dict[str, tuple[str, str, list[str]]]:
    """Of each ISA of x86-64 in CMakeLists.txt: floats in a vector, vector registers, flags."""
    found = re.findall(r'"(\w+)\\;(\d+)\\;(\d+)\\;(-march=[^"]*)"', CMAKE)
    return {name: (lanes, registers, flags.split()) for name, lanes, registers, flags in found}


def weak_symbols(source: Path, flags: list[str], folder: Path) -> list[str]:
    """The names that the object of this source defines weakly (W, V) or once for all (u)."""
    built = folder / "built.o"
    command = [COMPILER, "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", *flags, "-c", str(source), "-o"]
    run = subprocess.run([*command, str(built)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    listed = subprocess.run([NM, str(built)], capture_output=True, text=True, check=True).stdout
    lines = [line.rsplit(maxsplit=2) for line in listed.splitlines()]
    assert any(kind in "DRTB" for *_, kind, _ in lines), "the object defines nothing at all"
    return [name for *_, kind, name in lines if kind in "WVuv"]


def kernel_flags() -> list[str]:
    line = re.search(r"set\(kernel_flags ([^)]*)\)", CMAKE)
    assert line, "CMakeLists.txt sets the kernels' flags in another way"
    return [flag for flag in line.group(1).split() if flag != "-O3"]


@needs_tools
@needs_x86
@pytest.mark.parametrize(
    "isa",
    ["generic", "avx2", "avx512", "avx512bf16"],
)
def test_kernels_define_no_weak_symbol(isa: str, tmp_path: Path) -> None:
    """Optimized little, so that what might be inlined elsewhere stands there as a function."""
    lanes, registers, march = isas()[isa]
    names = [f"-DRECURRA_ISA={isa}", f'-DRECURRA_ISA_NAME="{isa}"']
    sizes = [f"-DRECURRA_LANES={lanes}", f"-DRECURRA_REGISTERS={registers}"]
    flags = [*kernel_flags(), "-Wno-psabi", *march, *names, *sizes]
    assert weak_symbols(KERNELS, flags, tmp_path) == []


@needs_tools
@pytest.mark.parametrize(
    "text",
    [
        "inline int shared(int x) { return x / 7; }\nint (*used)(int) = shared;",
        "template <class T> T shared(T x) { return x / 7; }\nint (*used)(int) = shared<int>;",
        "inline int shared = 7;\nint *used = &shared;",
        "#include <vector>\nint used(std::vector<int>& v) { v.push_back(7); return v.back(); }",
    ],
    ids=["function", "template", "variable", "library"],
)
def test_weak_symbols_are_found(text: str, tmp_path: Path) -> None:
    source = tmp_path / "shared.cpp"
    source.write_text(text)
    assert weak_symbols(source, [], tmp_path) != []
