"""The verbs and their options. What they do is in the modules they call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.cli.options import (
    Covariates,
    Data,
    Device,
    Epochs,
    FrequencyOption,
    Hidden,
    Horizon,
    Json,
    Known,
    LabelColumn,
    Lookback,
    Members,
    Model,
    NoBacktest,
    Out,
    Overwrite,
    Past,
    Quiet,
    Resume,
    Season,
    Seed,
    SeriesOption,
    Span,
    Static,
    Stride,
    Target,
    TextColumn,
    Time,
)
from recurra.cli.usage import whole_number
from recurra.errors import ArgumentError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="LSTM from the user's own file to a model, a score and a report.",
    epilog="Example: recurra forecast airline.csv --horizon 12",
)
trainer = typer.Typer(
    rich_markup_mode=None,
    help="Train a model and write it to a folder.",
    epilog="Example: recurra train forecast airline.csv --horizon 12 --out model",
)
app.add_typer(trainer, name="train")


def _say_version(asked: bool) -> None:
    if asked:
        from recurra import __version__

        print(f"recurra {__version__}")
        raise typer.Exit


@app.callback(help="LSTM from the user's own file to a model, a score and a report.")
def _all_verbs(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_say_version, is_eager=True),
    ] = False,
) -> None:
    """What may stand before a verb."""


@app.command(
    short_help="The main job: fit, backtest, forecast, report.",
    epilog="Example: recurra forecast airline.csv --horizon 12 --out airline-forecast",
)
def forecast(
    data: Data,
    horizon: Horizon,
    time: Time = None,
    target: Target = None,
    series: SeriesOption = None,
    frequency: FrequencyOption = None,
    season: Season = None,
    covariates: Covariates = None,
    known: Known = None,
    past: Past = None,
    static: Static = None,
    lookback: Lookback = None,
    epochs: Epochs = None,
    members: Members = None,
    hidden_size: Hidden = None,
    backtest: Span = None,
    stride: Stride = None,
    no_backtest: NoBacktest = False,
    seed: Seed = 0,
    device: Device = "cpu",
    out: Out = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit, backtest and forecast a table of numbers, and write a report: the main job."""
    from recurra.cli import verbs

    verbs.forecast(
        data,
        columns=_columns(time, target, series, frequency, covariates, known, past, static),
        numbers=_numbers(horizon, season, lookback, epochs, members, hidden_size, seed, device),
        span=backtest,
        stride=stride,
        test=not no_backtest,
        out=out,
        overwrite=overwrite,
        resume=resume,
        as_json=as_json,
        quiet=quiet,
        command=["recurra", *sys.argv[1:]],
    )


@trainer.command("forecast", epilog="Example: recurra train forecast airline.csv --horizon 12 --out model")
def train_forecast(
    data: Data,
    horizon: Horizon,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)],
    time: Time = None,
    target: Target = None,
    series: SeriesOption = None,
    frequency: FrequencyOption = None,
    season: Season = None,
    covariates: Covariates = None,
    known: Known = None,
    past: Past = None,
    static: Static = None,
    lookback: Lookback = None,
    epochs: Epochs = None,
    members: Members = None,
    hidden_size: Hidden = None,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a forecaster and write model.safetensors and history.csv."""
    from recurra.cli import verbs

    verbs.train_forecast(
        data,
        columns=_columns(time, target, series, frequency, covariates, known, past, static),
        numbers=_numbers(horizon, season, lookback, epochs, members, hidden_size, seed, device),
        out=out,
        overwrite=overwrite,
        resume=resume,
        as_json=as_json,
        quiet=quiet,
    )


@app.command(
    short_help="Forecast, label or tag with a model trained before.",
    epilog="Example: recurra predict airline-forecast/model.safetensors airline.csv --out next.csv",
)
def predict(
    model: Model,
    data: Annotated[str, typer.Argument(help="The history to forecast from, or texts; - reads stdin.")],
    text: TextColumn = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; else stdout.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Forecast what follows a table, or label or tag texts, with a model trained before."""
    from recurra.cli import verbs

    verbs.predict(model, data, columns={"text": text}, out=out, overwrite=overwrite, as_json=as_json)


@app.command(
    short_help="Score a model beside the baselines.",
    epilog="Example: recurra evaluate airline-forecast/model.safetensors airline.csv",
)
def evaluate(
    model: Model,
    data: Data,
    backtest: Span = None,
    stride: Stride = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model as it is: a forecaster over rolling origins at the end of a table, beside the baselines;
    a model of text on the labels, tags or text of a file."""
    from recurra.cli import verbs

    columns = {"text": text, "label": label}
    verbs.evaluate(model, data, columns=columns, span=backtest, stride=stride, as_json=as_json, quiet=quiet)


@app.command(
    short_help="Speed beside torch.nn on this machine.",
    epilog="Example: recurra bench --case H32 --budget 0.5",
)
def bench(
    every: Annotated[bool, typer.Option("--all", help="Every case, which takes several minutes.")] = False,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", metavar="NAME", help="Cases with this in their name.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", parser=whole_number, metavar="N", help="Threads to use.", show_default=False
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="SECONDS",
            help="Timing of each case, in inference and in training.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare recurra's results and speed with torch.nn's; where results differ, exit with 1."""
    from recurra.cli import bench_job

    bench_job.run(case or [], every=every, threads=threads, budget=budget, as_json=as_json, quiet=quiet)


@app.command(
    short_help="See inside a network, in the browser.",
    epilog="Example: recurra inspect airline-forecast/model.safetensors airline.csv",
)
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="A model.safetensors that recurra wrote, or module:object, a network of your own.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            help="What the model's predict takes; for a network .npy, .csv, .txt or module:object.",
            show_default=False,
        ),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(
            "--before", help="The model before training, to compare its memory with.", show_default=False
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Only this machine reaches the default.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", parser=whole_number, metavar="N", help="The next free one where it is in use."
        ),
    ] = 8765,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only say the address.")] = False,
    diagram: Annotated[
        Path | None,
        typer.Option(
            "--diagram", help="Write a drawing (.svg) instead of opening the page.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --diagram where it exists.")
    ] = False,
) -> None:
    """Open a page on a model: every gate and state, its memory and gradients, and a lesson on LSTMs."""
    from recurra.cli import inspect_job

    inspect_job.run(
        model,
        data,
        host=host,
        port=port,
        open_browser=not no_browser,
        diagram=diagram,
        overwrite=overwrite,
        before=before,
    )


@app.command(short_help="Version, engine, CPU, threads.", epilog="Example: recurra info --json")
def info(as_json: Json = False) -> None:
    """Say which version, engine, CPU and threads are at work, and why where the engine is not."""
    from recurra.cli import verbs

    verbs.info(as_json=as_json)


def _columns(
    time: str | None,
    target: str | None,
    series: str | None,
    frequency: str | None,
    covariates: str | None,
    known: str | None,
    past: str | None,
    static: str | None,
) -> dict[str, Any]:
    """The arguments of read_table; a list of columns is written a,b."""
    return {
        "time": _names(time) or None,
        "target": _names(target) or None,
        "series": series,
        "frequency": frequency,
        "covariates": _names(covariates),
        "known": _names(known),
        "past": _names(past),
        "static": _names(static),
    }


def _names(text: str | None) -> list[str]:
    if text is None:
        return []
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ArgumentError(f"a list of columns is written a,b, but {text!r} was given: leave no name empty")
    return names


def _numbers(
    horizon: int,
    season: int | None,
    lookback: int | None,
    epochs: int | None,
    members: int | None,
    hidden_size: int | None,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """The arguments of Forecaster."""
    return {
        "horizon": horizon,
        "season": season,
        "lookback": lookback,
        "epochs": epochs,
        "members": members,
        "hidden_size": hidden_size,
        "seed": seed,
        "device": device,
    }
