"""What each verb does, from checked options to files and words."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurra.cli.output import Output, check_file, history_csv, say_finished, write_text
from recurra.cli.progress import Progress
from recurra.errors import ArgumentError

if TYPE_CHECKING:
    from recurra.data.table import Panel

MOST = {"members": 100, "hidden_size": 8192}
"""Beyond these a slip of the finger is likelier than a wish, and the machine would run out of memory."""
_JOBS = {
    "Forecaster": "forecast_job",
    "Classifier": "classify_job",
    "Tagger": "tag_job",
    "LanguageModel": "generate_job",
}
SHOWN = ("MASE", "sMAPE", "MAPE", "RMSE", "wQL", "coverage_80")


def forecast(
    data: str,
    *,
    columns: dict[str, Any],
    numbers: dict[str, Any],
    span: int | None,
    stride: int | None,
    test: bool,
    out: Path | None,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
    command: Sequence[str],
) -> None:
    """See :func:`recurra.cli.app.forecast`."""
    started = time.monotonic()
    output = Output(_folder(data, out), overwrite=overwrite, resume=resume)
    if output.finished:
        say_finished(output, as_json=as_json)
        return
    panel, forecaster, rival, origins = _prepare(data, columns, numbers, span, stride, test)
    arguments = _arguments(
        panel, numbers, {"--backtest": span, "--stride": stride, "--no-backtest": not test}
    )
    from recurra.cli import forecast_job

    _say(panel.notes, as_json)
    with output.open(arguments) as folder, Progress(quiet=quiet) as progress:
        document = forecast_job.run(
            forecaster,
            rival,
            panel,
            origins=origins,
            untested="The history is too short for a backtest" if test else "No backtest was run",
            folder=folder,
            source="stdin" if data == "-" else Path(data).name,
            command=command,
            progress=progress,
        )
    if as_json:
        print(forecast_job.to_json({**document, "out": str(output.path)}), end="")
        return
    if document["scores"]:
        print_scores(document["scores"])
    print(document["verdict"])
    print(f"Report: {output.path / 'report.html'}  ({time.monotonic() - started:.0f} s)")
    print(f"Forecast: {output.path / 'forecast.csv'}  Model: {output.path / 'model.safetensors'}")


def train_forecast(
    data: str,
    *,
    columns: dict[str, Any],
    numbers: dict[str, Any],
    out: Path,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """See :func:`recurra.cli.app.train_forecast`."""
    output = Output(out, overwrite=overwrite, resume=resume)
    if output.finished:
        say_finished(output, as_json=as_json)
        return
    panel, forecaster, _, _ = _prepare(data, columns, numbers, None, None, False)
    from recurra.cli import forecast_job

    _say(panel.notes, as_json)
    with output.open(_arguments(panel, numbers, {})) as folder, Progress(quiet=quiet) as progress:
        forecaster.fit(panel, checkpoints=folder / "steps", log=progress.log)
        forecaster.save(folder / "model.safetensors")
        write_text(folder / "history.csv", history_csv(forecaster.history))
        _remove(folder / "steps")
    _say(forecast_job.describe_model(forecaster), as_json)
    path = output.path / "model.safetensors"
    document = {"model": str(path), **forecast_job.settings(forecaster)}
    print(forecast_job.to_json(document) if as_json else f"Model: {path}\n", end="")


def predict(
    model: str,
    data: str,
    *,
    columns: dict[str, Any],
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """See :func:`recurra.cli.app.predict`."""
    if out is not None:
        check_file(out, overwrite=overwrite)
    from recurra.cli.forecast_job import to_json

    found = _load(model)
    job = _job(found)
    text = job.predicted(found, source_of(data), columns, as_json=as_json)
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
        print(to_json({job.PREDICTED: str(out)}) if as_json else f"{job.PREDICTED.title()}: {out}\n", end="")


def evaluate(
    model: str,
    data: str,
    *,
    columns: dict[str, Any],
    span: int | None,
    stride: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """See :func:`recurra.cli.app.evaluate`."""
    found = _load(model)
    job = _job(found)
    if hasattr(found, "horizon"):
        _check_span(span, stride, found.horizon)
        columns = {**columns, "span": span, "stride": stride}
    elif (span, stride) != (None, None):
        raise ArgumentError("--backtest and --stride are for forecasts: leave them out for this model")
    job.evaluated(found, source_of(data), columns, as_json=as_json, quiet=quiet)


def _job(model: Any) -> Any:
    """The module that predicts and scores with a model of this class.

    It has PREDICTED, what its predictions are called, `predicted`, which returns them as text, and
    `evaluated`, which prints scores; columns are options of the command line, None where they are not given.
    """
    return importlib.import_module(f"recurra.cli.{_JOBS[type(model).__name__]}")


def info(*, as_json: bool) -> None:
    """See :func:`recurra.cli.app.info`."""
    import platform

    import torch

    import recurra
    from recurra.cli.forecast_job import to_json
    from recurra.engine import native

    cpu = native.cpu()
    document = {
        "recurra": recurra.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "engine": "native" if native.available() else "plain torch",
        "why": native.why_not(),
        "isa": cpu.isa,
        "bfloat16": _bfloat16() if native.available() else None,
        "cpu": f"{cpu.architecture}: {', '.join(cpu.features) or 'features unknown without the engine'}",
        "compiler": cpu.compiler,
        "flags": cpu.flags,
        "threads": torch.get_num_threads(),
        "of": native.thread_runtime(),
        "cuda": torch.cuda.is_available(),
    }
    if as_json:
        print(to_json(document), end="")
        return
    for name, value in document.items():
        if value is not None:
            print(f"{name:9} {value}")


def _bfloat16() -> str:
    from recurra.engine import native

    return "kernels of its own" if native.kernels().for_pairs is not None else "in float32"


def _prepare(
    data: str,
    columns: dict[str, Any],
    numbers: dict[str, Any],
    span: int | None,
    stride: int | None,
    test: bool,
) -> tuple[Any, Any, Any, Any]:
    """Everything that can be wrong with data and options is found here, before anything is written."""
    horizon = numbers["horizon"]
    _check_numbers(numbers)
    if test:
        _check_span(span, stride, horizon)
    check_device(numbers["device"])
    from recurra.data.table import read_table

    panel = read_table(source_of(data), **columns)
    from recurra.cli.forecast_job import plan_origins
    from recurra.tasks.forecast import Forecaster

    forecaster, rival = Forecaster(**numbers), Forecaster(**numbers)
    forecaster.check(panel)
    return panel, forecaster, rival, plan_origins(panel, horizon, span, stride, test)


def _check_numbers(numbers: dict[str, Any]) -> None:
    """Raise ArgumentError for a number that no data could suit."""
    for name, value in numbers.items():
        if name in ("device", "seed") or value is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if value > MOST.get(name, value):
            raise ArgumentError(
                f"{flag} must be at most {MOST[name]}, but {value} was given: give a smaller one"
            )
        if value >= 1:
            continue
        remedy = "give 12, say" if name == "horizon" else "leave it out to have it chosen from the data"
        raise ArgumentError(f"{flag} must be at least 1, but {value} was given: {remedy}")
    if not 0 <= numbers["seed"] < 2**63:
        raise ArgumentError(
            f"--seed must be at least 0 and below 2**63, but {numbers['seed']} was given: give 1, say"
        )


def _check_span(span: int | None, stride: int | None, horizon: int) -> None:
    if span is not None and span < horizon:
        raise ArgumentError(
            f"--backtest must span at least one horizon ({horizon} steps), but {span} was given: "
            "give more steps, or leave it out"
        )
    if stride is not None and stride < 1:
        raise ArgumentError(
            f"--stride must be at least 1 step, but {stride} was given: leave it out, or give 1"
        )


def check_device(device: str) -> None:
    if device not in ("cpu", "cuda", "auto"):
        raise ArgumentError(
            f"--device must be cpu, cuda or auto, but {device!r} was given: choose one of them"
        )
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ArgumentError("--device cuda: torch finds no GPU here that it can use: give --device cpu")


def _folder(data: str, out: Path | None) -> Path:
    """--out, or a name made from the data's."""
    if out is not None:
        return out
    return Path(f"{'stdin' if data == '-' else Path(data).name.split('.')[0]}-forecast")


def source_of(data: str) -> str | bytes:
    """A path, or what comes on stdin. Raises ArgumentError where stdin is closed."""
    if data != "-":
        return data
    if sys.stdin is None:
        raise ArgumentError("- reads stdin, but it is closed: give a file's name")
    return sys.stdin.buffer.read()


def _arguments(panel: Panel, numbers: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """What an unfinished run must agree on with the one that resumes it; the data first."""
    options = {f"--{name.replace('_', '-')}": value for name, value in numbers.items()}
    return {"data": panel.digest(), **options, **others}


def _load(model: str) -> Any:
    import recurra

    return recurra.load(model)


def _say(sentences: Sequence[str], as_json: bool) -> None:
    """Aloud on stdout, or on stderr where stdout is for machines."""
    for sentence in sentences:
        print(sentence, file=sys.stderr if as_json else sys.stdout)


def print_scores(table: dict[str, dict[str, float]]) -> None:
    """The score table; the best of each error is marked with a star."""
    from recurra.tasks.scores import winner

    best = {metric: winner(table, metric) for metric in SHOWN if not metric.startswith("coverage")}
    print()
    print(f"{'':16}" + "".join(f"{metric.replace('coverage_80', 'in 80 %'):>10} " for metric in SHOWN))
    for method, row in table.items():
        cells = []
        for metric in SHOWN:
            value = _cell(row[metric], share=metric.startswith("coverage"))
            cells.append(f"{value:>10}{'*' if best.get(metric) == method else ' '}")
        print(f"{method:16}" + "".join(cells))
    print()


def _cell(value: float, *, share: bool) -> str:
    if value != value:
        return "–"
    return f"{value * 100:.1f} %" if share else f"{value:.4g}"


def _remove(folder: Path) -> None:
    """The checkpoints of a run that is finished."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
