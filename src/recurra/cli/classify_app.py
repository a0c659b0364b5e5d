"""`recurra train classify`: its options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from recurra.cli.app import trainer
from recurra.cli.options import (
    Device,
    Hidden,
    Json,
    LabelColumn,
    Overwrite,
    Quiet,
    Resume,
    Seed,
    TextColumn,
)
from recurra.cli.usage import number, whole_number

_Rows = Annotated[
    str,
    typer.Argument(
        help="Texts with labels (.csv, .tsv, .jsonl, .parquet, fastText, a folder for each label), or "
        "sequences of numbers (.ts, .npz); - reads stdin.",
        show_default=False,
    ),
]
_Valid = Annotated[
    str | None,
    typer.Option(
        "--valid", help="Rows to choose and score by; else parts of DATA in turn.", show_default=False
    ),
]
_Between = Annotated[
    str | None,
    typer.Option("--between", help="What stands between several labels of a row.", show_default=False),
]
_Tokens = Annotated[str, typer.Option("--tokens", help="auto, word, blank, character, bpe or jieba.")]
_Members = Annotated[
    int | None,
    typer.Option(
        "--members", parser=whole_number, metavar="N", help="LSTMs whose mean counts.", show_default=False
    ),
]
_Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs", parser=whole_number, metavar="N", help="Passes over the rows.", show_default=False
    ),
]
_Dropout = Annotated[
    float | None,
    typer.Option("--dropout", parser=number, metavar="P", help="In training.", show_default=False),
]
_Pooling = Annotated[
    str | None, typer.Option("--pooling", help="last, mean, max or attention.", show_default=False)
]
_Smoothing = Annotated[
    float | None,
    typer.Option(
        "--label-smoothing", parser=number, metavar="P", help="Share given to all.", show_default=False
    ),
]
_Weights = Annotated[
    str | None,
    typer.Option("--class-weights", help="balanced, or how much each counts: a=2,b=1.", show_default=False),
]
_Adversarial = Annotated[
    str | None,
    typer.Option(
        "--adversarial",
        parser=lambda text: text if str(text).startswith("virtual") else number(text),
        metavar="X",
        help="Adversarial training: 0.02, virtual or virtual:0.05.",
        show_default=False,
    ),
]
_Unlabelled = Annotated[
    str | None,
    typer.Option(
        "--unlabelled", help="More rows, without labels, for --adversarial virtual.", show_default=False
    ),
]
_Vectors = Annotated[
    str | None, typer.Option("--vectors", help="A file of word vectors.", show_default=False)
]


@trainer.command(
    "classify",
    epilog="Example: recurra train classify reviews.csv --text review --label stars --out model",
)
def train_classify(
    data: _Rows,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)],
    valid: _Valid = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    between: _Between = None,
    tokens: _Tokens = "auto",
    hidden_size: Hidden = None,
    members: _Members = None,
    epochs: _Epochs = None,
    dropout: _Dropout = None,
    pooling: _Pooling = None,
    label_smoothing: _Smoothing = None,
    class_weights: _Weights = None,
    adversarial: _Adversarial = None,
    unlabelled: _Unlabelled = None,
    vectors: _Vectors = None,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn to sort texts, or sequences of numbers, into classes. Writes a model, its scores and a report."""
    from recurra.cli import classify_job

    classify_job.train(
        data,
        valid=valid,
        unlabelled=unlabelled,
        columns={"text": text, "label": label, "between": between},
        numbers={
            "tokens": tokens,
            "hidden_size": hidden_size,
            "members": members,
            "epochs": epochs,
            "dropout": dropout,
            "pooling": pooling,
            "label_smoothing": label_smoothing,
            "class_weights": class_weights,
            "adversarial": adversarial,
            "vectors": vectors,
            "seed": seed,
            "device": device,
        },
        out=out,
        overwrite=overwrite,
        resume=resume,
        as_json=as_json,
        quiet=quiet,
        command=["recurra", *sys.argv[1:]],
    )
