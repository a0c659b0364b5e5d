"""What each verb does, from checked options to files and words."""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recurra.cli.output import Output, write_text
from recurra.cli.progress import Progress
from recurra.errors import ArgumentError

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
        print(f"{output.path} is finished already; there is nothing to resume")
        return
    panel, forecaster, rival, origins = _prepare(data, columns, numbers, span, stride, test)
    from recurra.cli import forecast_job

    _say(panel.notes, as_json)
    if test and origins is None:
        _say(["The history is too short for a backtest, so the forecast comes without a score."], as_json)
    with output.open() as folder, Progress(quiet=quiet) as progress:
        document = forecast_job.run(
            forecaster,
            rival,
            panel,
            origins=origins,
            folder=folder,
            source=Path(data).name,
            command=command,
            progress=progress,
        )
    if as_json:
        print(forecast_job.to_json({**document, "out": str(output.path)}), end="")
        return
    if document["scores"]:
        _print_scores(document["scores"])
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
        print(f"{output.path} is finished already; there is nothing to resume")
        return
    panel, forecaster, _, _ = _prepare(data, columns, numbers, None, None, False)
    from recurra.cli import forecast_job

    _say(panel.notes, as_json)
    with output.open() as folder, Progress(quiet=quiet) as progress:
        forecaster.fit(panel, checkpoints=folder / "steps", log=progress.log)
        forecaster.save(folder / "model.safetensors")
        _write_history(folder / "history.csv", forecaster.history)
        _remove(folder / "steps")
    _say(forecast_job.describe_model(forecaster), as_json)
    path = output.path / "model.safetensors"
    print(forecast_job.to_json({"model": str(path), **forecast_job.settings(forecaster)}) if as_json else f"Model: {path}")


def predict(model: str, data: str, *, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """See :func:`recurra.cli.app.predict`."""
    if out is not None and out.exists() and not overwrite:
        raise ArgumentError(f"--out {out} exists already: add --overwrite to replace it, or give another name")
    from recurra.cli.forecast_job import forecast_csv, stamp_words, to_json

    found = _load(model).predict(_source(data))
    if as_json:
        rows = [
            {"unique_id": name, "ds": stamp_words(stamps), "quantiles": list(found.quantiles), "values": values.tolist()}
            for name, stamps, values in zip(found.series, found.stamps, found.values, strict=True)
        ]
        text = to_json(rows)
    else:
        text = forecast_csv(found)
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
        print(f"Forecast: {out}")


def evaluate(
    model: str, data: str, *, span: int | None, stride: int | None, as_json: bool, quiet: bool
) -> None:
    """See :func:`recurra.cli.app.evaluate`."""
    from recurra.cli.forecast_job import NAME, to_json
    from recurra.tasks.backtest import choose_origins, roll
    from recurra.tasks.scores import counts, scores, verdict

    forecaster = _load(model)
    panel = forecaster.panel(_source(data))
    origins = choose_origins(panel, forecaster.horizon, span, stride)
    with Progress(quiet=quiet) as progress:
        result = roll(forecaster, panel, origins, name=NAME, log=progress.log)
    table = scores(result)
    if as_json:
        print(to_json({"verdict": verdict(table), "scores": table, **counts(result)}), end="")
        return
    _print_scores(table)
    print(verdict(table))
    print(
        f"{len(origins.offsets)} origins in the last {origins.span} steps; if the model was trained on them, "
        "these scores flatter it."
    )


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
        "cpu": f"{cpu.architecture}: {', '.join(cpu.features) or 'features unknown without the engine'}",
        "compiler": cpu.compiler,
        "flags": cpu.flags,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
    }
    if as_json:
        print(to_json(document), end="")
        return
    for name, value in document.items():
        if value is not None:
            print(f"{name:9} {value}")


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
    if horizon < 1:
        raise ArgumentError(f"--horizon must be at least 1 step, but {horizon} was given")
    from recurra.data.table import read_table

    panel = read_table(_source(data), **columns)
    from recurra.cli.forecast_job import plan_origins
    from recurra.tasks.forecast import Forecaster

    forecaster, rival = Forecaster(**numbers), Forecaster(**numbers)
    forecaster.check(panel)
    return panel, forecaster, rival, plan_origins(panel, horizon, span, stride, test)


def _folder(data: str, out: Path | None) -> Path:
    """--out, or a name made from the data's."""
    if out is not None:
        return out
    return Path(f"{'stdin' if data == '-' else Path(data).name.split('.')[0]}-forecast")


def _source(data: str) -> str:
    """A path; what comes on stdin is put into a file first, since it is read more than once."""
    if data != "-":
        return data
    with tempfile.NamedTemporaryFile("wb", suffix=".csv", delete=False) as file:
        file.write(sys.stdin.buffer.read())
    return file.name


def _load(model: str) -> Any:
    import recurra

    return recurra.load(model)


def _say(sentences: Sequence[str], as_json: bool) -> None:
    """Aloud on stdout, or on stderr where stdout is for machines."""
    for sentence in sentences:
        print(sentence, file=sys.stderr if as_json else sys.stdout)


def _print_scores(table: dict[str, dict[str, float]]) -> None:
    """The score table; the best of each error is marked with a star."""
    from recurra.tasks.scores import winner

    best = {metric: winner(table, metric) for metric in SHOWN if not metric.startswith("coverage")}
    print()
    print(f"{'':16}" + "".join(f"{metric.replace('coverage_80', 'in 80 %'):>10} " for metric in SHOWN))
    for method, row in table.items():
        cells = []
        for metric in SHOWN:
            value = f"{row[metric] * 100:.1f} %" if metric.startswith("coverage") else f"{row[metric]:.4g}"
            cells.append(f"{value:>10}{'*' if best.get(metric) == method else ' '}")
        print(f"{method:16}" + "".join(cells))
    print()


def _write_history(path: Path, history: dict[str, list[dict[str, Any]]]) -> None:
    rows = [{"stage": stage, **row} for stage, stage_rows in history.items() for row in stage_rows]
    names = ["stage", "epoch", "epochs", "step", "train_loss", "valid_loss", "learning_rate", "seconds"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _remove(folder: Path) -> None:
    """The checkpoints of a run that is finished."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
