"""PyTorch's own tests of recurrent layers, run with torch.nn's layers and cells rebound to recurra's.

Each test file of a PyTorch checkout runs twice, with torch's classes and with ours in their places, on the
CPU: all files that speak of recurrent layers, their cells or packed sequences, and of their tests those whose
name or body does. Printed are the tests that fail, those that differ, and a table of all files. The
differences are what counts: a checkout of another release than the installed torch has tests that fail with
torch itself. Names that the installed torch no longer has are put in as empty classes, so that such a file's
other tests run.

    python benchmarks/torch_rnn_tests.py path/to/pytorch/test --jobs 2
    python benchmarks/torch_rnn_tests.py path/to/pytorch/test --files test_nn.py nn/test_packed_sequence.py
    python benchmarks/torch_rnn_tests.py --modules

The last needs no checkout: it runs ours through the list of inputs and errors that comes with torch itself.
Without a path, $PYTORCH_TESTS is taken. Torch's test support needs `pip install expecttest`; a few files need
scipy as well. Nothing of torch's is kept here. Exit code: 0 without differences, 1 with some.
"""

from __future__ import annotations

import argparse
import builtins
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import types
import unittest
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

CLASSES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
SPEAKS_OF_THEM = re.compile(
    r"(?<![A-Za-z])(LSTM|GRU|RNN)(Cell|Base|s)?(?![a-z])|packed_?sequence", re.IGNORECASE
)
LISTS_OF_MODULES = re.compile(r"\bmodule_db\b|@modules\(")  # these reach the layers without naming them
LEFT_OUT = re.compile(r"distributed/|test_(cuda|mps|xpu)\b|test_cpp_extensions_")  # of other devices
NAMES_A_MODULE = re.compile(r"_nn_[A-Z]")  # a test made from a list of modules, one for each
OF_THE_INSTALLED = ("common_quantized", "generated")  # which engines this very build has; made when built
IMPORTED = builtins.__import__
WAYS = ("torch", "recurra")
Results = dict[str, tuple[str, str]]  # of each test: passed, failed, skipped …, and why


class Selection:
    """A plugin of pytest's: keeps the tests that speak of recurrent layers, and notes what became of them."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        without = os.environ["TESTS_WITHOUT"]
        items[:] = [
            item for item in items if concerns_them(item) and not (without and re.search(without, item.name))
        ]

    def pytest_collection_finish(self) -> None:
        builtins.__import__ = IMPORTED

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.note(nodeid, "crashed", "the process ended in it, or its time was up")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            outcome = "expected to fail" if hasattr(report, "wasxfail") else report.outcome
            self.note(report.nodeid, outcome, reason_of(report))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.note(report.nodeid or "collection", "failed", reason_of(report))

    def note(self, test: str, outcome: str, reason: str) -> None:
        with self.target.open("a") as lines:
            lines.write(json.dumps([test.partition("::")[2] or test, outcome, reason]) + "\n")


def concerns_them(item: Any) -> bool:
    """Whether a collected test's name or body speaks of recurrent layers."""
    if SPEAKS_OF_THEM.search(item.name.replace("_", " ")):
        return True
    if NAMES_A_MODULE.search(item.name):
        return False
    function = inspect.unwrap(getattr(item, "function", item))
    return speaks_of_them(getattr(function, "__code__", None))


@cache  # one function makes thousands of tests
def speaks_of_them(code: types.CodeType | None) -> bool:
    """Whether a function's source speaks of recurrent layers."""
    if code is None:
        return False
    try:
        return bool(SPEAKS_OF_THEM.search(inspect.getsource(code)))
    except OSError:
        return False


def reason_of(report: Any) -> str:
    """The last line of what went wrong, or why a test was skipped."""
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    lines = [line[1:].strip() for line in str(report.longrepr).splitlines() if line.startswith("E ")]
    return " ".join(lines[:3]) or str(report.longrepr)[-300:]


def rebind() -> None:
    """Puts recurra's classes where torch's were, before the tests and torch's test support look for them."""
    import torch

    import recurra.nn

    for name in CLASSES:
        for place in (torch.nn, torch.nn.modules, torch.nn.modules.rnn):
            setattr(place, name, getattr(recurra.nn, name))


def take_support(tests: Path) -> None:
    """Torch's test support in the tests' own release, where the checkout has it and not only its tests."""
    import torch.testing._internal

    support = tests.parent / "torch" / "testing" / "_internal"
    if not support.is_dir():
        return
    specs = [importlib.util.find_spec(f"torch.testing._internal.{name}") for name in OF_THE_INSTALLED]
    torch.testing._internal.__path__.insert(0, str(support))
    for spec in specs:
        assert spec is not None
        assert spec.loader is not None
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])


def put_in_what_is_gone(tests: Path) -> None:
    """Lets imports in test files go on where the installed torch has no such module or name."""

    def forgiving(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        of_a_test = str((globals or {}).get("__file__", "")).startswith(str(tests.parent))
        if not (of_a_test and level == 0 and name.partition(".")[0] in ("torch", "functorch")):
            return IMPORTED(name, globals, locals, fromlist, level)
        module = None
        while module is None:
            try:
                module = IMPORTED(name, globals, locals, fromlist, level)
            except ModuleNotFoundError as error:
                if not f"{name}.".startswith(f"{error.name}."):
                    raise
                put_in_a_module(str(error.name))
        gone = [one for one in fromlist or () if one != "*" and not hasattr(module, one)]
        if not gone:
            return module
        stand_in = types.ModuleType(name)
        stand_in.__dict__.update({one: getattr(module, one) for one in fromlist if one not in gone})
        stand_in.__dict__.update({one: type(one, (Exception,), {}) for one in gone})
        return stand_in

    builtins.__import__ = forgiving  # type: ignore[assignment]


def put_in_a_module(name: str) -> None:
    """An empty module, which may have submodules."""
    parent, _, last = name.rpartition(".")
    module = types.ModuleType(name)
    module.__path__ = []
    sys.modules[name] = module
    setattr(sys.modules[parent], last, module)


def lift_deadlines() -> None:
    """Lifts the time limit for examples, which PyTorch's tests refuse to run with; later profiles inherit."""
    if importlib.util.find_spec("hypothesis") is not None:
        from hypothesis import settings

        settings.register_profile("no deadline", deadline=None)
        settings.load_profile("no deadline")


def inside(way: str, file: str, target: str) -> None:
    """Runs one file's tests in this process, with torch's classes or with recurra's."""
    import pytest

    if way == "recurra":
        rebind()
    tests = Path(os.environ["TESTS_OF_TORCH"])
    take_support(tests)
    put_in_what_is_gone(tests)
    lift_deadlines()
    # the checkout's conftest.py and pytest.ini are for PyTorch's own build
    options = ["--noconftest", "-c", os.devnull, "--rootdir", os.path.dirname(file), "-q", "--no-header"]
    options += ["-p", "no:cacheprovider", "-p", "no:randomly", "-W", "default"]
    sys.exit(int(pytest.main([*options, file], plugins=[Selection(Path(target))])))


def run(tests: Path, file: str, way: str, without: str, seconds: float) -> Results:
    """What became of a file's tests."""
    surroundings = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")]),
        "TESTS_OF_TORCH": str(tests),
        "TESTS_WITHOUT": without,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTORCH_TESTING_DEVICE_ONLY_FOR": "cpu",
    }
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "results"
        target.touch()
        command = [sys.executable, __file__, "--inside", way, str(tests / file), str(target)]
        try:
            ended = subprocess.run(
                command, env=surroundings, cwd=folder, capture_output=True, text=True, timeout=seconds
            )
            said, code = ended.stdout + ended.stderr, ended.returncode
        except subprocess.TimeoutExpired:
            said, code = f"more than {seconds:g} s", -1
        results = {test: (outcome, why) for test, outcome, why in map(json.loads, target.open())}
    if not results and code not in (0, 5):  # pytest's code for no tests is 5
        results["collection"] = ("failed", " ".join(said.splitlines()[-5:]))
    return results


def differences(torchs: Results, ours: Results) -> list[str]:
    """The tests whose outcome is not the same with both."""
    missing = ("not run", "")
    return [
        test
        for test in sorted(torchs.keys() | ours.keys())
        if torchs.get(test, missing)[0] != ours.get(test, missing)[0]
    ]


def tell(file: str, torchs: Results, ours: Results, verbose: bool) -> tuple[Counter[str], int]:
    """Prints what became of a file both ways: how many of our results of each kind, and how many differ."""
    counts = Counter(outcome for outcome, _ in ours.values())
    said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no such tests"
    print(f"{file}: {said}", flush=True)
    differ = differences(torchs, ours)
    for test, (outcome, why) in sorted(ours.items()):
        if verbose or (outcome in ("failed", "crashed") and test not in differ):
            also = "" if test in differ else " (with torch's classes too)"
            print(f"    {outcome}{also}: {test}  {why[:300]}")
    for test in differ:
        before, after = torchs.get(test, ("not run", "")), ours.get(test, ("not run", ""))
        print(f"    DIFFERS: {test}: with torch's {before[0]} {before[1][:200]}, with ours {after[0]}")
        print(f"        {after[1][:600]}", flush=True)
    return counts, len(differ)


def table(rows: dict[str, tuple[Counter[str], int]]) -> str:
    """Markdown: of each file what became of its tests with ours, and whether it is the same with torch's."""
    lines = ["| file | passed | failed | skipped | as with torch's own |", "|---|--:|--:|--:|---|"]
    every, differ = Counter[str](), 0
    for file, (counts, more) in rows.items():
        every, differ = every + counts, differ + more
        lines.append(row(f"`{file}`", counts, more))
    return "\n".join([*lines, row("all", every, differ)])


def row(file: str, counts: Counter[str], differ: int) -> str:
    """One line of the table. A crash counts as failed, and what torch expects to fail as skipped."""
    numbers = (
        counts["passed"],
        counts["failed"] + counts["crashed"],
        counts["skipped"] + counts["expected to fail"],
    )
    return f"| {file} | {' | '.join(map(str, numbers))} | {f'{differ} differ' if differ else 'yes'} |"


def files_of(tests: Path) -> tuple[list[str], list[str]]:
    """The files that speak of recurrent layers or run lists of modules, and those of them left out."""
    files: tuple[list[str], list[str]] = [], []
    for path in sorted(tests.rglob("test_*.py")):
        text = path.read_text(errors="replace")
        if SPEAKS_OF_THEM.search(text) or LISTS_OF_MODULES.search(text):
            name = path.relative_to(tests).as_posix()
            files[bool(LEFT_OUT.match(name))].append(name)
    return files


def try_module_list() -> int:
    """Runs ours through the installed torch's list of module inputs and errors; prints how many of each.

    Held against torch's module, gradients included, and its reference function where the list has one.
    """
    import torch

    torchs = {name: getattr(torch.nn, name) for name in CLASSES}
    rebind()
    if (
        importlib.util.find_spec("expecttest") is None
    ):  # torch's test support subclasses it; no case here asks it
        stand_in = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase  # type: ignore[attr-defined]
        stand_in.assert_expected_inline = None  # type: ignore[attr-defined]
        sys.modules["expecttest"] = stand_in
    from torch.testing._internal.common_modules import module_db

    counts = Counter[str]()
    for info in module_db:
        name = info.module_cls.__name__
        if info.module_cls.__module__.startswith("recurra."):
            for training in (False, True):
                options = {"device": "cpu", "dtype": torch.float32, "training": training}
                for given in info.module_inputs_func(info, requires_grad=True, **options):
                    counts[f"inputs of {name}"] += 1
                    compare_module(info.module_cls, torchs[name], given, training)
                for wrong in info.module_error_inputs_func(info, requires_grad=True, **options):
                    counts[f"errors of {name}"] += 1
                    expect_error(info.module_cls, wrong)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    complete = all(counts[f"{kind} of {name}"] for kind in ("inputs", "errors") for name in CLASSES)
    return 0 if complete else 1


def tensors(result: Any) -> list[Any]:
    """All tensors of a result or of arguments, those of tuples too."""
    if isinstance(result, (tuple, list)):
        return [tensor for part in result for tensor in tensors(part)]
    return [] if result is None or not hasattr(result, "dtype") else [result]


def compare_module(ours: Any, theirs: Any, given: Any, training: bool) -> None:
    """One input of torch's list through our module, torch's and the reference. Raises AssertionError."""
    import torch

    made, called = given.constructor_input, given.forward_input
    module = ours(*made.args, **made.kwargs).train(training)
    twin = theirs(*made.args, **made.kwargs).train(training)
    twin.load_state_dict(module.state_dict())
    found = []
    for one in (module, twin):
        torch.manual_seed(7)
        results = tensors(one(*called.args, **called.kwargs))
        inputs = [t for t in tensors([*called.args, *called.kwargs.values()]) if t.requires_grad]
        loss = torch.stack([result.square().sum() for result in results]).sum()
        found.append((results, torch.autograd.grad(loss, [*inputs, *one.parameters()])))
    for mine, true in zip(*([*results, *gradients] for results, gradients in found), strict=True):
        # the list's inputs are large, so small gradients are differences of large numbers
        torch.testing.assert_close(mine, true, rtol=1e-5, atol=1e-5 * max(1.0, *true.abs().view(-1).tolist()))
    if given.reference_fn is not None and not (training and getattr(module, "dropout", 0)):
        truth = given.reference_fn(module, *called.args, **called.kwargs)
        torch.testing.assert_close(found[0][0], tensors(truth), rtol=1e-5, atol=1e-5)


def expect_error(ours: Any, wrong: Any) -> None:
    """One misuse of torch's list, in the constructor or the call. Raises AssertionError."""
    import pytest

    made, called = wrong.module_error_input.constructor_input, wrong.module_error_input.forward_input
    with pytest.raises(wrong.error_type, match=wrong.error_regex):
        ours(*made.args, **made.kwargs)(*called.args, **called.kwargs)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tests", nargs="?", default=os.environ.get("PYTORCH_TESTS"))
    parser.add_argument("--files", nargs="+", help="paths below the test folder; else all that are found")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at a time")
    parser.add_argument("--seconds", type=float, default=900, help="the time that one run of a file may take")
    parser.add_argument("--without", default="", help="leave out tests whose names this expression finds")
    parser.add_argument("--verbose", action="store_true", help="print every test, skipped ones with reasons")
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--modules", action="store_true", help="run torch's list of modules instead")
    options = parser.parse_args(arguments)
    if options.modules:
        return try_module_list()
    if options.inside:
        inside(*options.inside)
    if not options.tests or not Path(options.tests).is_dir():
        parser.error(f"tests: expected the test folder of a PyTorch checkout, got {options.tests}")
    if importlib.util.find_spec("expecttest") is None:
        parser.error("torch's test support needs the package expecttest; install it with pip")
    import torch

    tests = Path(options.tests).resolve()
    version = tests.parent / "version.txt"
    release = version.read_text().strip() if version.exists() else "of an unknown release"
    print(f"installed: torch {torch.__version__}; tests: {release}")
    found, left_out = files_of(tests)
    files = [file for file in options.files or found if (tests / file).exists()]
    for file in options.files or left_out:
        if file not in files:
            print(f"{file}: not run: " + ("not in this checkout" if options.files else "of other devices"))
    rows = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [
            [pool.submit(run, tests, file, way, options.without, options.seconds) for way in WAYS]
            for file in files
        ]
        for file, (torchs, ours) in zip(files, runs, strict=True):
            rows[file] = tell(file, torchs.result(), ours.result(), options.verbose)
    rows = {file: (counts, more) for file, (counts, more) in rows.items() if counts or more}
    print(table(rows))
    return 1 if any(more for _, more in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
