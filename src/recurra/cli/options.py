"""Options that several verbs share: name, meaning and form of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recurra.cli.usage import whole_number

Data = Annotated[
    str,
    typer.Argument(
        help="A table: .csv, .tsv, .parquet, or text with .gz; - reads stdin.", show_default=False
    ),
]
Model = Annotated[str, typer.Argument(help="A model.safetensors that recurra wrote.", show_default=False)]
Horizon = Annotated[
    int,
    typer.Option(
        "--horizon", parser=whole_number, metavar="N", help="How many steps to forecast.", show_default=False
    ),
]
Time = Annotated[
    str | None, typer.Option("--time", help="Column with the time (several: a,b).", show_default=False)
]
Target = Annotated[
    str | None,
    typer.Option("--target", help="Column to forecast (several: a,b, one series each).", show_default=False),
]
SeriesOption = Annotated[
    str | None, typer.Option("--series", help="Column that tells series apart.", show_default=False)
]
FrequencyOption = Annotated[
    str | None,
    typer.Option("--frequency", help="Step between rows, such as D, h, MS, 15min.", show_default=False),
]
Season = Annotated[
    int | None,
    typer.Option("--season", parser=whole_number, metavar="N", help="Steps in a season.", show_default=False),
]
Covariates = Annotated[
    str | None,
    typer.Option("--covariates", help="Other columns to learn from; roles inferred.", show_default=False),
]
Known = Annotated[
    str | None, typer.Option("--known", help="Covariates known in the future too.", show_default=False)
]
Past = Annotated[
    str | None, typer.Option("--past", help="Covariates known up to now only.", show_default=False)
]
Static = Annotated[
    str | None, typer.Option("--static", help="Covariates that never change in a series.", show_default=False)
]
Lookback = Annotated[
    int | None,
    typer.Option(
        "--lookback",
        parser=whole_number,
        metavar="N",
        help="Past steps the network sees.",
        show_default=False,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        parser=whole_number,
        metavar="N",
        help="Passes over the training windows.",
        show_default=False,
    ),
]
Members = Annotated[
    int | None,
    typer.Option(
        "--members",
        parser=whole_number,
        metavar="N",
        help="Networks whose median counts.",
        show_default=False,
    ),
]
Hidden = Annotated[
    int | None,
    typer.Option("--hidden-size", parser=whole_number, metavar="N", help="Hidden units.", show_default=False),
]
Seed = Annotated[
    int, typer.Option("--seed", parser=whole_number, metavar="N", help="Fixes every random number.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out where it exists.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]
Span = Annotated[
    int | None,
    typer.Option(
        "--backtest",
        parser=whole_number,
        metavar="N",
        help="Steps at the end to backtest on.",
        show_default=False,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride", parser=whole_number, metavar="N", help="Steps between two origins.", show_default=False
    ),
]
NoBacktest = Annotated[bool, typer.Option("--no-backtest", help="Only forecast.")]
TextColumn = Annotated[
    str | None,
    typer.Option("--text", help="Column with the texts, by name or number.", show_default=False),
]
LabelColumn = Annotated[
    str | None,
    typer.Option("--label", help="Column with the labels or tags, by name or number.", show_default=False),
]
