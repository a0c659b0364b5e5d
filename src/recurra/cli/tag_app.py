"""`recurra train tag`: its options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from recurra.cli.app import trainer
from recurra.cli.options import Device, Hidden, Json, LabelColumn, Overwrite, Quiet, Resume, Seed, TextColumn
from recurra.cli.usage import number, whole_number

Sentences = Annotated[
    str,
    typer.Argument(
        help="Tagged sentences: columns (.conll, .tsv), CoNLL-U, .jsonl, a folder with seq.in and seq.out; "
        "- reads stdin.",
        show_default=False,
    ),
]
Folder = Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)]
Valid = Annotated[
    str | None,
    typer.Option(
        "--valid",
        help="Other sentences, to choose the best epoch and to score on; else a tenth is held back.",
        show_default=False,
    ),
]
Passes = Annotated[
    int | None,
    typer.Option(
        "--epochs", parser=whole_number, metavar="N", help="Passes over the sentences.", show_default=False
    ),
]
Layers = Annotated[int, typer.Option("--layers", parser=whole_number, metavar="N", help="LSTM layers.")]
Embedding = Annotated[
    int, typer.Option("--embedding-size", parser=whole_number, metavar="N", help="Numbers of a word.")
]
Characters = Annotated[
    str, typer.Option("--characters", help="What reads a word's letters: cnn, lstm or none.")
]
Dropout = Annotated[
    float | None,
    typer.Option("--dropout", parser=number, metavar="P", help="Of words and output.", show_default=False),
]
Vectors = Annotated[
    str | None,
    typer.Option(
        "--vectors", help="Pretrained vectors of words, as text (GloVe, word2vec).", show_default=False
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch-size", parser=whole_number, metavar="N", help="Sentences in a batch.", show_default=False
    ),
]
Rate = Annotated[
    float | None,
    typer.Option("--learning-rate", parser=number, metavar="R", help="Of Adam.", show_default=False),
]


@trainer.command("tag", epilog="Example: recurra train tag train.conll --valid valid.conll --out names")
def train_tag(
    data: Sentences,
    out: Folder,
    valid: Valid = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    epochs: Passes = None,
    hidden_size: Hidden = None,
    layers: Layers = 1,
    embedding_size: Embedding = 100,
    characters: Characters = "cnn",
    dropout: Dropout = None,
    vectors: Vectors = None,
    batch_size: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn to tag words: names, slots, parts of speech. Writes a model, its scores and a report."""
    from recurra.cli import tag_job

    tag_job.train(
        data,
        valid=valid,
        columns={"text": text, "label": label},
        numbers={
            "epochs": epochs,
            "hidden_size": hidden_size,
            "layers": layers,
            "embedding_size": embedding_size,
            "characters": characters,
            "dropout": dropout,
            "vectors": vectors,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
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
