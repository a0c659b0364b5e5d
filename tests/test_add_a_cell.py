"""docs/engine.md tells how to add a cell: a copy of csrc/ gets it so, and it agrees with its equations."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import relative_error
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8").split("\n## How to add a cell\n")[1]
COMPILER = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), "")
CLOSE = 5e-6  # of the largest number in float64

needs_compiler = pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler: c++, g++ or clang++")

# Calls the kernels as bind.cpp does: one layer, one or two directions, the new cell.
DRIVER = """
#include "kernels.h"
#include "schedule.h"
#include "threads.h"

using namespace recurra;

extern "C" int64_t gates_width(int64_t hidden) { return kernels_for("generic").gates_width(UGRNN, hidden); }

extern "C" void run(const int64_t* sizes, const int64_t* lengths, const uint8_t* resets, float* const* at) {
    const auto [rows, steps, features, hidden, directions, threads, to_initial, phase] =
        *reinterpret_cast<const int64_t(*)[8]>(sizes);
    const ScheduleData schedule(rows, steps, lengths);
    const auto view = [&](int64_t width) { return View{*at++, steps * width, width, nullptr}; };
    Layer layer = {};
    layer.features = features;
    layer.x = view(features), layer.y = view(directions * hidden);
    layer.d_x = view(features), layer.d_y = view(directions * hidden);
    for (int64_t d = 0; d < directions; d++) {
        Direction& to = layer.directions[d];
        to.w_ih = *at++, to.w_hh = *at++, to.b_ih = *at++, to.b_hh = *at++, to.h_0 = *at++;
        to.h_n = *at++, to.gates = *at++, to.d_h_n = *at++;
        to.d_w_ih = *at++, to.d_w_hh = *at++, to.d_b_ih = *at++, to.d_b_hh = *at++, to.d_h_0 = *at++;
    }
    const Schedule which = schedule.view(resets, to_initial);
    const Problem problem = {UGRNN, hidden, 0, directions, 1, threads, {}, which, &layer};
    if (phase == 2) kernels_for("generic").backward(problem);
    else kernels_for("generic").forward(problem, phase == 1);
    arena().clear();
}

extern "C" void step(int64_t rows, int64_t features, int64_t hidden, const float* x, const float* h,
                     const float* const* w, float* h_out) {
    kernels_for("generic").step(
        UGRNN, {rows, features, hidden, x, h, nullptr, w[0], w[1], w[2], w[3], nullptr, h_out, nullptr,
                nullptr});
}
"""


def apply(change: str, root: Path) -> str:
    """Applies one ```diff block of the page to the file that it names; the file's name."""
    head, *hunks = re.split(r"^@@.*\n", change, flags=re.MULTILINE)
    name = re.search(r"^\+\+\+ (\S+)$", head, re.MULTILINE)[1]
    text = (root / name).read_text(encoding="utf-8")
    for hunk in hunks:
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, (
            f"{name} no longer has the lines that docs/engine.md changes:\n{before}"
        )
        text = text.replace(before, after)
    (root / name).write_text(text, encoding="utf-8")
    return name


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The engine with the page's cell, for `generic`."""
    root = tmp_path_factory.mktemp("cell")
    shutil.copytree(ROOT / "csrc", root / "csrc")
    name, header = re.search(r"^`(csrc/cells/\w+\.h)`.*?\n```cpp\n(.*?)^```", PAGE, re.M | re.S).groups()
    (root / name).write_text(header, encoding="utf-8")
    changed = [apply(change, root) for change in re.findall(r"^```diff\n(.*?)^```", PAGE, re.M | re.S)]
    assert changed == ["csrc/problem.h", "csrc/kernels.cpp"]
    (root / "csrc" / "driver.cpp").write_text(DRIVER)
    (root / "csrc" / "isas.h").write_text("#define RECURRA_FOR_EACH_ISA(f) f(generic)\n")
    built = root / "cell.so"
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra", "-Wno-psabi"]
    isa = [
        "-DRECURRA_ISA=generic",
        '-DRECURRA_ISA_NAME="generic"',
        "-DRECURRA_LANES=4",
        "-DRECURRA_REGISTERS=16",
    ]
    names = ("kernels", "dispatch", "registry", "schedule", "threads", "driver")
    sources = [str(root / "csrc" / f"{name}.cpp") for name in names]
    command = [COMPILER, *flags, *isa, *sources, "-ldl", "-o", str(built)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert Path(name).name not in run.stderr, run.stderr
    loaded = ctypes.CDLL(str(built))
    loaded.gates_width.restype = ctypes.c_int64
    return loaded


@pytest.fixture(scope="module")
def equations() -> Callable[..., Any]:
    """The page's plain twin of the cell."""
    namespace: dict[str, Any] = {}
    exec(re.search(r"^```python\n(.*?)^```", PAGE, re.M | re.S)[1], namespace)
    return namespace["ugrnn"]


@dataclass
class Problem:
    """One layer: x (N, T, F), and for each direction w_ih, w_hh, b_ih, b_hh, h_0, then d_h_n."""

    x: Tensor
    d_y: Tensor
    inputs: list[list[Tensor]]
    d_h_n: list[Tensor]
    lengths: Tensor | None
    resets: Tensor | None
    to_initial: bool


def problem(rows: int, steps: int, features: int, hidden: int, directions: int, ragged: bool) -> Problem:
    shapes = [(2 * hidden, features), (2 * hidden, hidden), (2 * hidden,), (2 * hidden,), (rows, hidden)]
    return Problem(
        x=torch.randn(rows, steps, features),
        d_y=torch.randn(rows, steps, directions * hidden),
        inputs=[[torch.randn(shape) / hidden**0.5 for shape in shapes] for _ in range(directions)],
        d_h_n=[torch.randn(rows, hidden) for _ in range(directions)],
        lengths=torch.randint(0, steps + 1, (rows,)) if ragged else None,
        resets=torch.rand(rows, steps) < 0.2 if ragged else None,
        to_initial=bool(torch.rand(()) < 0.5),
    )


def native(library: ctypes.CDLL, p: Problem, threads: int = 1) -> list[Tensor]:
    """Output, final states, d_x, and for each direction the gradients of its inputs."""
    rows, steps, features = p.x.shape
    directions, hidden = len(p.inputs), p.d_h_n[0].shape[1]
    entries = rows * steps if p.lengths is None else int(p.lengths.sum())
    width = library.gates_width(ctypes.c_int64(hidden))
    y, d_x = torch.empty_like(p.d_y), torch.empty_like(p.x)
    h_n = [torch.empty(rows, hidden) for _ in p.inputs]
    gates = [torch.empty(entries, width) for _ in p.inputs]
    gradients = [[torch.empty_like(tensor) for tensor in own] for own in p.inputs]
    tensors = [p.x, y, d_x, p.d_y]
    for d in range(directions):
        tensors += [*p.inputs[d], h_n[d], gates[d], p.d_h_n[d], *gradients[d]]
    at = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
    given = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in (p.lengths, p.resets)]
    shown = []
    for phase in (0, 1, 2):  # forward for use, forward for training, backward
        sizes = (rows, steps, features, hidden, directions, threads, int(p.to_initial), phase)
        library.run((ctypes.c_int64 * 8)(*sizes), *given, at)
        shown.append(y.clone())
    assert torch.equal(shown[0], shown[1])
    return [y, *h_n, d_x, *(gradient for own in gradients for gradient in own)]


def truth(equations: Callable[..., Any], p: Problem) -> list[Tensor]:
    """The same by the page's equations and autograd, in float64."""
    x = p.x.double().requires_grad_()
    leaves = [[tensor.double().requires_grad_() for tensor in own] for own in p.inputs]
    options = {"lengths": p.lengths, "resets": p.resets, "reset_to_initial": p.to_initial}
    states = [
        equations(x, h_0, w_ih, w_hh, b_ih, b_hh, reverse=d == 1, **options)
        for d, (w_ih, w_hh, b_ih, b_hh, h_0) in enumerate(leaves)
    ]
    y = torch.cat([s.output for s in states], dim=-1)
    loss = (y * p.d_y).sum() + sum((s.h_n * d).sum() for s, d in zip(states, p.d_h_n, strict=True))
    loss.backward()
    d_inputs = [leaf.grad for own in leaves for leaf in own]
    return [y.detach(), *(s.h_n.detach() for s in states), x.grad, *d_inputs]


@needs_compiler
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "lengths and resets"])
@pytest.mark.parametrize(
    "sizes", [(1, 7, 3, 1, 1), (7, 5, 1, 7, 2), (13, 9, 33, 33, 1), (33, 7, 7, 63, 2)], ids=str
)
def test_the_cell_of_the_page_agrees_with_its_equations(
    library: ctypes.CDLL, equations: Callable[..., Any], sizes: tuple[int, ...], ragged: bool
) -> None:
    p = problem(*sizes, ragged=ragged)
    ours, expected = native(library, p), truth(equations, p)
    assert len(ours) == len(expected)
    errors = [relative_error(a, b) for a, b in zip(ours, expected, strict=True)]
    assert max(errors) < CLOSE, errors


@needs_compiler
def test_the_cell_of_the_page_gives_the_same_bits_on_any_number_of_threads(library: ctypes.CDLL) -> None:
    for rows in (3, 33):  # the threads share out units, then rows
        p = problem(rows, 9, 7, 33, 2, ragged=True)
        alone = native(library, p)
        for count in (2, 3):
            assert all(torch.equal(a, b) for a, b in zip(alone, native(library, p, count), strict=True))


@needs_compiler
def test_one_step_of_the_cell_of_the_page(library: ctypes.CDLL, equations: Callable[..., Any]) -> None:
    p = problem(7, 1, 5, 33, 1, ragged=False)
    *weights, h_0 = p.inputs[0]
    w = (ctypes.c_void_p * 4)(*(weight.data_ptr() for weight in weights))
    h = torch.empty_like(h_0)
    x_at, h_at, out = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (p.x, h_0, h))
    library.step(ctypes.c_int64(7), ctypes.c_int64(5), ctypes.c_int64(33), x_at, h_at, w, out)
    expected = equations(p.x.double(), h_0.double(), *(weight.double() for weight in weights)).h_n
    assert relative_error(h, expected) < CLOSE
