"""The main job: from a table to a forecast, its backtest and its report."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import recurra
from recurra.cli.output import write_text
from recurra.cli.progress import Progress
from recurra.data.table import Panel
from recurra.data.words import counted
from recurra.errors import ArgumentError, DataError
from recurra.report.forecast import render
from recurra.tasks.backtest import Origins, backtest, choose_origins, roll
from recurra.tasks.forecast import Forecaster
from recurra.tasks.results import Backtest, Forecast
from recurra.tasks.scores import by_horizon, counts, scores, verdict

NAME = "LSTM"
PREDICTED = "forecast"


def run(
    forecaster: Forecaster,
    rival: Forecaster,
    panel: Panel,
    *,
    origins: Origins | None,
    untested: str,
    folder: Path,
    source: str,
    command: Sequence[str],
    progress: Progress,
) -> dict[str, Any]:
    """Backtest ``rival``, fit ``forecaster`` on everything, forecast, and write all files into ``folder``.

    The two are the same estimator with the same numbers; the first never sees the end of the history.
    ``untested`` says why there is no backtest where there are no ``origins``. Returns the document of
    metrics.json.
    """
    notes = list(panel.notes)
    result: Backtest | None = None
    table: dict[str, dict[str, float]] = {}
    if origins is not None:
        said: set[str] = set()
        progress.label = "backtest: "
        result = backtest(
            rival,
            panel,
            origins,
            name=NAME,
            said=said,
            log=progress.log,
            checkpoints=folder / "steps-backtest",
        )
        table = scores(result)
        notes += [_rolling(result, origins, rival), *sorted(said)]
    progress.label = "forecast: "
    forecaster.fit(panel, checkpoints=folder / "steps-forecast", log=progress.log)
    if result is not None and rival.plan.follow:
        forecaster.widen_like(rival)
    found = forecaster.predict(panel)
    notes += describe_model(forecaster)
    words = verdict(table) if table else f"{untested}, so nothing is known of how good this forecast is."
    document = {
        "verdict": words,
        "horizon": forecaster.horizon,
        "frequency": panel.frequency.alias,
        "season": forecaster.plan.seasons[0],
        "series": len(panel.series),
        "scores": table,
        "backtest": _backtest_document(result),
        "notes": notes,
        "model": settings(forecaster),
        "recurra": recurra.__version__,
        "command": shlex.join(command),
    }
    page = render(
        title=title(panel, forecaster.horizon, source),
        panel=panel,
        forecast=found,
        backtest=result,
        scores=table or None,
        history=forecaster.history,
        settings=settings(forecaster),
        notes=notes,
        verdict=words,
        command=shlex.join(command),
    )
    forecaster.save(folder / "model.safetensors")
    write_text(folder / "forecast.csv", forecast_csv(found))
    write_text(folder / "metrics.json", to_json(document))
    write_text(folder / "report.html", page)
    for steps in folder.glob("steps-*"):
        shutil.rmtree(steps)
    return document


def predicted(model: Forecaster, source: str | bytes, columns: Mapping[str, Any], *, as_json: bool) -> str:
    """What follows a table, as CSV or JSON. Raises ArgumentError for columns of text."""
    _no_text(columns)
    found = model.predict(source)
    if not as_json:
        return forecast_csv(found)
    rows = [
        {
            "unique_id": name,
            "ds": iso_stamps(stamps),
            "quantiles": list(found.quantiles),
            "values": values.tolist(),
        }
        for name, stamps, values in zip(found.series, found.stamps, found.values, strict=True)
    ]
    return to_json(rows)


def evaluated(
    model: Forecaster, source: str | bytes, columns: Mapping[str, Any], *, as_json: bool, quiet: bool
) -> None:
    """Print the scores of a model as it is over rolling origins, `span` and `stride` among the columns."""
    _no_text(columns)
    panel = model.panel(source)
    origins = choose_origins(panel, model.horizon, columns["span"], columns["stride"])
    with Progress(quiet=quiet) as progress:
        result = roll(model, panel, origins, name=NAME, log=progress.log)
    table = scores(result)
    if as_json:
        print(to_json({"verdict": verdict(table), "scores": table, **counts(result)}), end="")
        return
    from recurra.cli.verbs import print_scores

    print_scores(table)
    print(verdict(table))
    print(
        f"{len(origins.offsets)} origins in the last {origins.span} steps; if the model was trained on them, "
        "these scores flatter it."
    )


def _no_text(columns: Mapping[str, Any]) -> None:
    if columns.get("text") is not None or columns.get("label") is not None:
        raise ArgumentError("--text and --label are for models of text: leave them out for a forecast")


def plan_origins(
    panel: Panel, horizon: int, span: int | None, stride: int | None, wanted: bool
) -> Origins | None:
    """Origins of the backtest; None where none is wanted, or none is possible and ``span`` is left open."""
    if not wanted:
        return None
    try:
        return choose_origins(panel, horizon, span, stride)
    except DataError:
        if span is not None:
            raise
        return None


def title(panel: Panel, horizon: int, source: str) -> str:
    what = ", ".join(panel.columns.target[:3]) + (" …" if len(panel.columns.target) > 3 else "")
    noun = panel.frequency.noun
    ahead = f"{horizon} steps of {noun}" if noun[0].isdigit() else counted(horizon, noun)
    return f"{what}: the next {ahead}, from {source}"


def describe_model(forecaster: Forecaster) -> list[str]:
    """What was decided about the series and the network, one sentence each."""
    profiles = list(forecaster.preparation.profiles.values())
    kinds = [profile.transform.kind for profile in profiles]
    words = {"log": "in logarithms", "sqrt": "as square roots", "none": "as they are"}
    said = []
    if forecaster.lookback is not None and forecaster.plan.lookback < forecaster.lookback:
        said.append(
            f"The lookback of {forecaster.lookback} steps was shortened to {forecaster.plan.lookback}, "
            "the length of the history."
        )
    for kind in dict.fromkeys(kinds):
        which = (
            "Values are" if kinds.count(kind) == len(kinds) else f"Of {kinds.count(kind)} series values are"
        )
        said.append(f"{which} seen {words[kind]}, because so their swings depend least on their level.")
    seasons = sorted({profile.constants.season for profile in profiles})
    known = [str(season) for season in seasons if season > 1]
    if known:
        said.append(
            f"Level, trend and a season of {' or '.join(known)} steps are taken off by exponential smoothing."
        )
    else:
        said.append("Level and trend are taken off by exponential smoothing; no season earned its place.")
    network = forecaster.network
    trust = float(network.trust) if network is not None else 0.0
    said.append(
        f"The network corrects the smoothing's forecast; its corrections count for {trust:.0%} of their "
        "size, as judged on values held back from training."
    )
    if any(profile.transform.floor is not None for profile in profiles):
        said.append("Series that never were negative are never forecast below zero.")
    return said


def settings(forecaster: Forecaster) -> dict[str, str]:
    """The model's numbers, in words."""
    plan = forecaster.plan
    network = forecaster.network
    weights = sum(p.numel() for p in network.parameters()) if network is not None else 0
    return {
        "network": f"LSTM over segments of {plan.segment} steps, {plan.hidden_size} hidden units, "
        f"median of {plan.members} members, {weights:,} weights",
        "lookback": f"{plan.lookback} steps",
        "season": ", ".join(str(season) for season in plan.seasons) + " steps",
        "training": f"{sum(len(rows) for rows in forecaster.history.values())} epochs, "
        f"batches of {plan.batch_size}, learning rate {plan.learning_rate:g}",
        "seed": str(forecaster.seed),
    }


def _rolling(result: Backtest, origins: Origins, rival: Forecaster) -> str:
    follow = (
        "and follows the newer values from origin to origin"
        if rival.plan.follow
        else "and is not trained again"
    )
    return (
        f"The backtest forecasts {result.horizon} steps from each of {len(origins.offsets)} origins within "
        f"the last {origins.span} steps; the model is trained on what lies before them {follow}; baselines "
        "are fitted anew at every origin."
    )


def _backtest_document(result: Backtest | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        **counts(result),
        "quantiles": list(result.quantiles),
        "seconds": result.seconds,
        "MASE by horizon": {name: values.tolist() for name, values in by_horizon(result, "MASE").items()},
    }


def forecast_csv(forecast: Forecast) -> str:
    """The forecast's long table as CSV text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = forecast.table()
    writer.writerow(columns)
    names, stamps = columns.pop("unique_id"), iso_stamps(columns.pop("ds"))
    for name, stamp, *values in zip(names, stamps, *columns.values(), strict=True):
        writer.writerow([name, stamp, *(f"{value:.8g}" for value in values)])
    return text.getvalue()


def iso_stamps(stamps: np.ndarray) -> list[str]:
    """ISO dates, with the time of day only where there is one; whole numbers for steps."""
    if stamps.dtype.kind != "M":
        return [str(stamp) for stamp in stamps.tolist()]
    midnight = bool(np.all(stamps == stamps.astype("datetime64[D]")))
    unit = "D" if midnight else "s" if bool(np.all(stamps == stamps.astype("datetime64[s]"))) else "ns"
    return [str(stamp).replace("T", " ") for stamp in stamps.astype(f"datetime64[{unit}]")]


def to_json(document: Any) -> str:
    """Indented JSON in which a number that is not known is null."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): clean(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [clean(item) for item in value]
        if isinstance(value, (float, np.floating)):
            return float(value) if np.isfinite(value) else None
        return int(value) if isinstance(value, np.integer) else value

    return json.dumps(clean(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
