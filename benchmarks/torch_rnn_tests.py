"""PyTorch's own tests of recurrent layers, run with torch.nn's layers and cells rebound to recurra's.

Each test file of a PyTorch checkout runs twice, with torch's classes and with ours in their places, on the
CPU. Of its tests those run whose name or body speaks of recurrent layers, their cells or packed sequences.
Printed are all tests with a result in either run, and the differences, which are what counts: a checkout
of another release than the installed torch has tests that fail with torch itself.

    python benchmarks/torch_rnn_tests.py path/to/pytorch/test
    python benchmarks/torch_rnn_tests.py path/to/pytorch/test --files test_nn.py nn/test_packed_sequence.py
    python benchmarks/torch_rnn_tests.py --modules

The last needs no checkout: it runs ours through the list of inputs and errors that comes with torch itself.
Without a path, $PYTORCH_TESTS is taken. Torch's test support needs `pip install expecttest`; a few files need
scipy as well. Nothing of torch's is kept here. Exit code: 0 without differences, 1 with some.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path
from typing import Any

CLASSES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
SPEAKS_OF_THEM = re.compile(
    r"(?<![A-Za-z])(LSTM|GRU|RNN)(Cell|Base|s)?(?![a-z])|packed_?sequence", re.IGNORECASE
)
FILES = (
    "test_nn.py",
    "test_modules.py",
    "nn/test_packed_sequence.py",
    "nn/test_module_hooks.py",
    "nn/test_load_state_dict.py",
    "nn/test_parametrization.py",
    "nn/test_pruning.py",
    "nn/test_init.py",
    "test_stateless.py",
    "test_expanded_weights.py",
    "test_autograd.py",
    "test_autocast.py",
    "test_mkldnn.py",
    "test_fake_tensor.py",
    "test_serialization.py",
    "test_multiprocessing.py",
    "test_overrides.py",
    "test_decomp.py",
    "test_fx.py",
    "test_jit.py",
    "export/test_export.py",
    "functorch/test_aotdispatch.py",
    "functorch/test_control_flow.py",
    "dynamo/test_aot_autograd.py",
    "dynamo/test_trace_rules.py",
    "inductor/test_cpu_repro.py",
    "inductor/test_torchinductor.py",
    "quantization/core/test_quantized_module.py",
    "quantization/eager/test_quantize_eager_ptq.py",
    "quantization/eager/test_numeric_suite_eager.py",
    "quantization/fx/test_quantize_fx.py",
    "ao/sparsity/test_structured_sparsifier.py",
)
NAMES_A_MODULE = re.compile(r"_nn_[A-Z]")  # a test made from a list of modules, one for each
OF_THE_INSTALLED = ("common_quantized",)  # asks which engines this very build has
SECONDS_A_FILE = 600
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
    try:
        return bool(SPEAKS_OF_THEM.search(inspect.getsource(function)))
    except (OSError, TypeError):
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


def inside(way: str, file: str, target: str) -> None:
    """Runs one file's tests in this process, with torch's classes or with recurra's."""
    import pytest

    if way == "recurra":
        rebind()
    take_support(Path(os.environ["TESTS_OF_TORCH"]))
    # the checkout's conftest.py and pytest.ini are for PyTorch's own build
    options = ["--noconftest", "-c", os.devnull, "--rootdir", os.path.dirname(file), "-q", "--no-header"]
    options += ["-p", "no:cacheprovider", "-p", "no:randomly", "-W", "default"]
    sys.exit(int(pytest.main([*options, file], plugins=[Selection(Path(target))])))


def run(tests: Path, file: str, way: str, without: str) -> Results:
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
                command, env=surroundings, cwd=folder, capture_output=True, text=True, timeout=SECONDS_A_FILE
            )
            said, code = ended.stdout + ended.stderr, ended.returncode
        except subprocess.TimeoutExpired:
            said, code = f"more than {SECONDS_A_FILE} s", -1
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


def compare(tests: Path, file: str, without: str, verbose: bool) -> tuple[Counter[str], int]:
    """Runs a file both ways and prints it: how many of our results of each kind, and how many differ."""
    torchs, ours = (run(tests, file, way, without) for way in ("torch", "recurra"))
    counts = Counter(outcome for outcome, _ in ours.values())
    said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no such tests"
    print(f"{file}: {said}", flush=True)
    differ = differences(torchs, ours)
    for test, (outcome, why) in sorted(ours.items()):
        if verbose or (outcome == "failed" and test not in differ):
            also = "" if test in differ else " (with torch's classes too)"
            print(f"    {outcome}{also}: {test}  {why[:300]}")
    for test in differ:
        before, after = torchs.get(test, ("not run", "")), ours.get(test, ("not run", ""))
        print(f"    DIFFERS: {test}: with torch's {before[0]} {before[1][:200]}, with ours {after[0]}")
        print(f"        {after[1][:600]}", flush=True)
    return counts, len(differ)


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
    parser.add_argument("--files", nargs="+", default=FILES, help="paths below the test folder")
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
    total, differ = Counter[str](), 0
    for file in options.files:
        if not (tests / file).exists():
            print(f"{file}: not in this checkout")
            continue
        counts, more = compare(tests, file, options.without, options.verbose)
        total, differ = total + counts, differ + more
    said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(total.items()))
    print(f"in all: {said}; {differ} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
