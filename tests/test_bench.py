"""`recurra bench`: what is counted, who gets no ratio, how times are taken, and what is said."""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Shell

from recurra.bench import CASES, QUICK, Case, Row, choose, compare, measure, problem, runtimes, table, timing
from recurra.bench import contenders as field_module
from recurra.bench.cases import INFERENCE, TRAINING
from recurra.bench.contenders import Contender, Field, contenders
from recurra.bench.problem import Problem, difference
from recurra.bench.timing import ROUNDS, Spread, interleave
from recurra.engine import native
from recurra.errors import ArgumentError

BRIEF = 1e-6
"""A budget in seconds that the fewest rounds exceed."""
TINY = (
    Case("LSTM", 3, 7, 5, 9, layers=2, directions=2),
    Case("GRU", 3, 7, 5, 9),
    Case("RNN", 1, 7, 9, 9),
    Case("LSTM", 3, 7, 5, 9, projection=4),
    Case("LSTM", 4, 7, 5, 9, lengths=(2, 7, 1, 4)),
    Case("GRU", 4, 7, 5, 9, layers=2, directions=2, lengths=(2, 7, 1, 4)),
    Case("LSTM", 3, 1, 5, 9, carried=True),
)


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield Shell(tmp_path, monkeypatch, capsys)
    assert torch.get_num_threads() == threads


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> tuple[Case, ...]:
    """The command line with small cases only."""
    monkeypatch.setattr("recurra.bench.CASES", TINY)
    monkeypatch.setattr("recurra.bench.QUICK", TINY[1:2])
    monkeypatch.setattr(compare, "peak", lambda threads, dtype="float32": None)
    monkeypatch.setattr("recurra.bench.choose", lambda parts: choose(parts, TINY))
    return TINY


def spoiled(one: Contender, name: str, by: float) -> Contender:
    """``one`` with one number of its answer moved."""

    def answer() -> problem.Answer:
        assert one.answer is not None
        given = {key: value.clone() for key, value in one.answer().items()}
        given[name][(0,) * given[name].dim()] += by
        return given

    return replace(one, answer=answer)


def with_wrong(monkeypatch: pytest.MonkeyPatch, who: str, name: str, by: float) -> None:
    """From now on ``who`` gives a wrong ``name`` wherever it gives one."""

    def wrong(given: Problem, phase: str, threads: int) -> Field:
        field = contenders(given, phase, threads)
        if name.startswith("gradient") and phase == INFERENCE:
            return field
        assert isinstance(field.own, Contender)
        own = spoiled(field.own, name, by) if who == "recurra" else field.own
        baselines = tuple(spoiled(one, name, by) if one.name == who else one for one in field.baselines)
        return replace(field, own=own, baselines=baselines)

    monkeypatch.setattr(compare, "contenders", wrong)


def test_flops_are_those_of_the_matrix_products() -> None:
    # W x and R h of four gates, for 3 rows of 5 steps
    assert Case("LSTM", 3, 5, 7, 9).flops(INFERENCE) == 2 * 15 * 4 * 9 * (7 + 9)
    assert Case("GRU", 3, 5, 7, 9).flops(INFERENCE) == 2 * 15 * 3 * 9 * (7 + 9)
    assert Case("RNN", 3, 5, 7, 9).flops(TRAINING) == 3 * 2 * 15 * 9 * (7 + 9)
    # the second layer reads both directions of the first
    stacked = Case("LSTM", 3, 5, 7, 9, layers=2, directions=2)
    assert stacked.flops(INFERENCE) == 2 * 15 * 4 * 9 * 2 * ((7 + 9) + (18 + 9))
    # the state is the projection (P = 4), which is itself a product
    assert Case("LSTM", 3, 5, 7, 9, projection=4).flops(INFERENCE) == 2 * 15 * (4 * 9 * (7 + 4) + 9 * 4)
    # only the steps that count
    assert Case("LSTM", 3, 5, 7, 9, lengths=(1, 0, 5)).flops(INFERENCE) == 2 * 6 * 4 * 9 * (7 + 9)


def test_the_cases_have_names_of_their_own_and_quick_ones_are_among_them() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert {"LSTM N64 T100 H256 P128", "LSTM N64 T5-200 H512", "LSTM N32 T24 F8 H32"} <= set(names)
    assert set(QUICK) <= set(CASES)
    assert all(len(name) <= table.WIDTHS[0] for name in names)


def test_a_part_of_a_name_chooses_and_a_whole_name_chooses_one() -> None:
    assert {case.cell for case in choose(["gru"])} == {"GRU"}
    assert choose(["LSTM N64 T100 H512"]) == (CASES[2],)
    assert len(choose(["N64 T100 H512"])) > 1
    assert choose(["lstmcell", "D2"]) == (CASES[5], CASES[16])
    for unknown in ("GRUX", "", " "):
        with pytest.raises(ArgumentError, match=r"is in no case's name: give a part of one of LSTM N64"):
            choose([unknown])


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_each_case_is_measured_and_equal_to_float64(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([1e9, 2e9] * len(case.phases))  # before a phase and after it: the quicker counts
    monkeypatch.setattr(compare, "peak", lambda threads, dtype: next(peaks))
    rows = measure(case, threads=1, budget=BRIEF)
    against = ["torch.nn"] if case.lengths is None else ["torch.nn packed", "torch.nn padded"]
    assert [(row.phase, row.against) for row in rows] == [(p, a) for p in case.phases for a in against]
    for row in rows:
        assert row.differ == ()
        assert row.baseline is not None
        assert row.own is not None
        assert row.ratio == row.baseline.median / row.own.median
        assert row.share == case.flops(row.phase) / row.own.median / 2e9


def test_a_single_cell_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "peak", lambda threads, dtype: None)
    case = Case("LSTMCell", 3, 1, 5, 9, carried=True)
    (row,) = measure(case, threads=1, budget=BRIEF)
    assert row.ratio is not None
    assert row.share is None


@pytest.mark.parametrize("size", [33, 34])  # kernels for bfloat16 take even sizes only
def test_bfloat16_stands_beside_our_own_float32(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(compare, "peak", lambda threads, dtype: asked.append(dtype))
    case = Case("LSTM", 3, 7, size, size, dtype="bfloat16")
    rows = measure(case, threads=1, budget=BRIEF)
    assert asked == ["bfloat16"] * 4
    assert [row.against for row in rows] == ["recurra float32"] * 2
    for row in rows:
        assert row.differ == ()
        assert row.ratio is not None


@pytest.mark.parametrize("name", ["output", "h_n", "c_n", "gradient of x", "gradient of weight_hh_l0"])
@pytest.mark.parametrize("who", ["recurra", "torch.nn packed"])
def test_who_is_wrong_gets_no_ratio(monkeypatch: pytest.MonkeyPatch, who: str, name: str) -> None:
    with_wrong(monkeypatch, who, name, by=0.1)
    rows = measure(TINY[4], threads=1, budget=BRIEF)
    for row in rows:
        hit = row.phase == TRAINING or not name.startswith("gradient")
        hit = hit and (who == "recurra" or row.against == who)
        assert (row.ratio is None) == hit
        assert bool(row.differ) == hit
        if hit:
            assert row.differ[0].startswith(f"{who}: relative error ")
            assert f" in {name}, at most 1.0e-04 allowed" in row.differ[0]
            assert table.cells(row)[5] == "differs"
            assert (row.own is None) == (who == "recurra")


def test_an_error_of_rounding_passes_and_one_beyond_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = float(Problem.of(TINY[1]).reference()["output"].abs().max())
    for share, expected in ((0.9e-4, False), (1.2e-4, True)):
        with_wrong(monkeypatch, "recurra", "output", by=share * largest)
        rows = measure(TINY[1], threads=1, budget=BRIEF)
        assert [bool(row.differ) for row in rows] == [expected] * 2


def test_difference_is_relative_to_the_largest_and_infinite_for_what_is_no_answer() -> None:
    truth = {"a": torch.tensor([1.0, -4.0]).double(), "b": torch.tensor([2.0]).double()}
    close = {"a": torch.tensor([1.5, -4.0]), "b": torch.tensor([2.1])}
    error, where = difference(close, truth, truth)
    assert where == "a"
    assert error == pytest.approx(0.125)
    for answer in (
        {"a": truth["a"]},
        {**truth, "b": torch.tensor([2.0, 2.0])},
        {**truth, "b": torch.tensor([float("nan")])},
        {**truth, "b": torch.tensor([float("inf")])},
    ):
        assert difference(answer, truth, truth) == (float("inf"), "b")
    assert difference({"b": truth["b"]}, truth, ["b"]) == (0.0, "")
    nan_first = {**close, "a": torch.tensor([float("nan"), -4.0])}
    assert difference(nan_first, truth, truth) == (float("inf"), "a")


def test_contenders_take_turns_and_are_warmed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    calls: list[str] = []

    def call(name: str, seconds: float) -> Any:
        def run() -> None:
            nonlocal now
            assert not gc.isenabled()
            now += seconds
            calls.append(name)

        return run

    slept: list[float] = []
    monkeypatch.setattr(timing.time, "sleep", slept.append)
    spreads = interleave([call("a", 2.0), call("b", 3.0)], budget=1.0, clock=lambda: now)
    assert spreads == [Spread(2.0, 2.0), Spread(3.0, 3.0)]
    assert "".join(calls) == "ab" * (timing.WARM + 1 + ROUNDS)
    assert gc.isenabled()
    assert slept == []
    calls.clear()
    interleave([call("a", 2.0), call("b", 3.0)], budget=100.0, clock=lambda: now)
    assert "".join(calls) == "ab" * 20, "a round begins as long as there is budget"
    calls.clear()
    pools = ["x", "x", "y"]
    interleave([call(name, 2.0) for name in "abc"], budget=1.0, pools=pools, clock=lambda: now)
    assert "".join(calls) == "abc" * (timing.WARM + 1) + "aabbcc" * ROUNDS
    assert slept == [timing.SETTLE] * 2 * ROUNDS, "between b and c, and between c and a"


def test_short_calls_are_timed_many_at_once() -> None:
    now = 0.0
    reads = 0
    count = 0

    def clock() -> float:
        nonlocal reads
        reads += 1
        return now

    def call() -> None:
        nonlocal now, count
        # a slow first call, and one interruption later on
        now += 1.0 if count in (0, 5000) else 1e-5
        count += 1

    (spread,) = interleave([call], budget=1e-9, clock=clock)
    assert spread.median == pytest.approx(1e-5)
    assert spread.least == pytest.approx(1e-5)
    assert count >= ROUNDS * timing.SAMPLE / 1e-5
    assert reads < 40


def test_nobody_to_time() -> None:
    assert interleave([], budget=1.0) == []


@pytest.mark.parametrize("runtime", runtimes.RUNTIMES)
@pytest.mark.parametrize("case", [case for case in TINY if not case.projection], ids=lambda case: case.name)
def test_another_runtime_gives_the_same(runtime: str, case: Case) -> None:
    for package in ("onnx", runtime):
        pytest.importorskip(
            package, reason=f"{package} is not installed, so there is no {runtime} to compare"
        )
    given = Problem.of(case)
    session = runtimes.start(runtime, given, 1)
    assert not isinstance(session, str), session
    session.call()
    reference = {name: value for name, value in given.reference().items() if not name.startswith("gradient")}
    answer = session.answer()
    assert answer.keys() == reference.keys()
    assert difference(answer, reference, reference)[0] < 1e-5


def test_a_runtime_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    load = importlib.import_module

    def refuse(name: str) -> Any:
        if name == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
        return load(name)

    monkeypatch.setattr(runtimes.importlib, "import_module", refuse)
    (row, _) = measure(TINY[1], threads=1, budget=BRIEF)
    assert row.others == {"onnxruntime": "not installed", "openvino": "not installed"}
    assert table.line(table.cells(row)).count("not installed") == 2
    given = Problem.of(TINY[3])
    assert runtimes.start("onnxruntime", given, 1) == "no operator"


def test_a_runtime_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    load = importlib.import_module

    def refuse(name: str) -> Any:
        if name == "onnx":
            raise ImportError("libodd.so.3:\n no such file", name=name)
        return load(name)

    monkeypatch.setattr(runtimes.importlib, "import_module", refuse)
    said = runtimes.start("openvino", Problem.of(TINY[1]), 1)
    assert said == "does not load: libodd.so.3: no such file"


def test_a_runtime_that_is_wrong_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(name: str, given: Problem, threads: int) -> runtimes.Session:
        truth = given.reference()
        factor = 1.0 if name == "openvino" else 1.1
        return runtimes.Session(lambda: None, lambda: {key: value * factor for key, value in truth.items()})

    monkeypatch.setattr(field_module.runtimes, "start", start)
    row = measure(TINY[1], threads=1, budget=BRIEF)[0]
    assert row.ratio is not None, "the two that agree are still compared"
    assert row.others["onnxruntime"] == "results differ"
    assert isinstance(row.others["openvino"], Spread)
    assert "×" in table.cells(row)[-1]
    assert row.differ[0].startswith("onnxruntime: relative error 1.0e-01")


def test_the_peak_is_asked_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: True)
    peaks = {"float32": 100.0, "bfloat16": None}
    monkeypatch.setattr(native, "peak", lambda threads, dtype: peaks[dtype], raising=False)
    assert compare.peak(3) == 1e11
    assert compare.peak(3, "bfloat16") is None
    monkeypatch.setattr(native, "available", lambda: False)
    assert compare.peak(3) is None
    assert "FMA peak" not in table.heading(table.machine(3, None))
    assert "FMA peak 7 GFLOP/s" in table.heading(table.machine(3, 7.4e9))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--all --case GRU", "--all and --case exclude each other: give one of them"),
        ("--case GRUX", "--case 'GRUX' is in no case's name: give a part of one of LSTM N64 T100 H128, "),
        ("--case GRU --case x9", "--case 'x9' is in no case's name"),
        ("--budget 0", "--budget must be a number of seconds above 0, but '0' was given: give 2, say"),
        ("--budget=-1", "--budget must be a number of seconds above 0, but '-1' was given"),
        ("--budget nan", "--budget must be a number of seconds above 0, but 'nan' was given"),
        ("--budget inf", "--budget must be a number of seconds above 0, but 'inf' was given"),
        ("--budget soon", "--budget must be a number of seconds above 0, but 'soon' was given"),
        ("--threads 0", "the CPUs of this machine, but 0 was given: give a number between"),
        ("--threads 1000000", "the CPUs of this machine, but 1000000 was given: give a number between"),
        ("--threads two", "--threads: expected a whole number, got 'two': write it in digits"),
        ("--cases GRU", "there is no option --cases: did you mean --case?"),
        ("GRU", "(GRU): recurra bench --help shows how to call it"),
    ],
)
def test_a_mistaken_option(shell: Shell, words: str, expected: str) -> None:
    assert expected in shell.refused("bench", *words.split())


def test_an_unknown_isa_is_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.available():
        pytest.skip(str(native.why_not()))
    monkeypatch.setenv("RECURRA_ISA", "mmx")
    said = shell("bench", "--case", "LSTMCell")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("recurra: RECURRA_ISA=mmx: expected one of ")


def test_plain_lines(shell: Shell, tiny: tuple[Case, ...]) -> None:
    said = shell("bench", "--budget", BRIEF, "--threads", 1, "--quiet")
    assert said.code == 0, said
    assert said.err == ""
    heading, columns, *lines = said.out.splitlines()
    assert "1 thread, torch " in heading
    assert columns.split()[:3] == ["case", "phase", "against"]
    assert [line.partition("  ")[0] for line in lines[:2]] == [tiny[1].name] * 2
    assert lines[2:] == list(table.LEGEND)
    several = shell("bench", "--all", "--budget", BRIEF, "--threads", 1)
    assert several.code == 0
    for case in tiny:
        assert sum(line.startswith(f"{case.name} ") for line in several.out.splitlines()) == len(
            case.phases
        ) * (1 if case.lengths is None else 2)


def test_json(shell: Shell, tiny: tuple[Case, ...]) -> None:
    said = shell("bench", "--case", "gru", "--case", "rnn", "--budget", BRIEF, "--json")
    assert said.code == 0
    document = json.loads(said.out)
    assert document["machine"]["threads"] == torch.get_num_threads()
    assert document["machine"]["torch"] == torch.__version__
    names = [case.name for case in tiny if case.cell in ("GRU", "RNN")]
    assert list(dict.fromkeys(row["case"] for row in document["rows"])) == names
    for row in document["rows"]:
        assert 0 < row["recurra"]["least_ms"] <= row["recurra"]["median_ms"]
        assert row["ratio"] == pytest.approx(row["baseline"]["median_ms"] / row["recurra"]["median_ms"])
        assert row["differ"] == []
        assert list(row["cells"]) == list(table.COLUMNS)


def test_results_that_differ_end_with_1(
    shell: Shell, tiny: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_wrong(monkeypatch, "recurra", "gradient of bias_hh_l0", by=1e6)
    said = shell("bench", "--budget", BRIEF)
    assert said.code == 1
    lines = [line for line in said.out.splitlines() if line.startswith("results differ: ")]
    assert len(lines) == 1
    assert f"{tiny[1].name}, training, recurra: relative error " in lines[0]
    assert "in gradient of bias_hh_l0" in lines[0]
    document = json.loads(shell("bench", "--budget", BRIEF, "--json").out)
    assert [row["ratio"] is None for row in document["rows"]] == [False, True]
    assert shell("bench", "--budget", BRIEF, "--json").code == 1


def test_a_table_on_a_terminal(shell: Shell, tiny: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("recurra.cli.bench_job._on_terminal", lambda: True)
    said = shell("bench", "--budget", BRIEF, "--quiet")
    assert said.code == 0
    assert "───" in said.out
    assert "openvino" in said.out
    assert said.out.count(tiny[1].name) == 2
    assert table.LEGEND[0] in said.out


def test_a_narrow_terminal_leaves_out_runtimes_without_a_time() -> None:
    spread = Spread(0.5, 0.25)
    row = Row("c", "p", "a", spread, spread, 1.0, None, {"onnxruntime": "not installed"}, ())
    timed = replace(row, others={"onnxruntime": "not installed", "openvino": spread})
    for rows, width, names in (
        ([row], 80, table.COLUMNS[:7]),
        ([row], table.WIDE, table.COLUMNS),
        ([row, timed], 80, (*table.COLUMNS[:7], "openvino")),
    ):
        shown = table.rich_table(rows, width)
        assert tuple(column.header for column in shown.columns) == names
        assert shown.row_count == len(rows)


def test_numbers_have_three_digits() -> None:
    spread = Spread(0.0123456, 0.000987)
    row = Row("c", "p", "a", spread, Spread(0.1234, 0.12), 0.1, 0.5, {}, ())
    assert table.cells(row) == ("c", "p", "a", "12.3 (0.987)", "123 (120)", "0.10", "50", "-", "-")
    tiny_row = replace(row, own=Spread(4.44e-6, 1.2e-6), ratio=None, share=None)
    assert table.cells(tiny_row)[4:7] == ("0.0044 (0.0012)", "-", "-")


def test_the_benchmark_script_writes_markdown(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "engine.py"
    spec = importlib.util.spec_from_file_location("engine_benchmark", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    code, document = module.run(["bench", "--case", "LSTM N1 T1 H64", "--budget", "0.001", "--json"], {})
    assert code == 0
    lines = module.markdown(document, module.RUNTIMES)
    assert lines[0] == document["machine"]["heading"]
    assert lines[2].startswith("| case | phase | against |")
    assert not [line for line in lines if "openvino" in line]
    assert lines[4].startswith("| LSTM N1 T1 H64 | inference | torch.nn |")
    with pytest.raises(SystemExit) as stop:
        module.run(["bench", "--case", "xyzzy"], {})
    assert stop.value.code == 2


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['recurra', 'bench', '--help']\n"
        "from recurra.cli import main; main()\n"
        "found = {'torch', 'rich', 'recurra.bench'} & set(sys.modules); assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Example: recurra bench " in done.stdout
