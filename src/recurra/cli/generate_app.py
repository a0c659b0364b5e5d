"""The verbs of language models and their options. What they do is in `recurra.cli.generate_job`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recurra.cli.app import app, trainer
from recurra.cli.options import Device, Epochs, Json, Overwrite, Quiet, Resume, Seed, TextColumn
from recurra.cli.usage import number, whole_number
from recurra.errors import ArgumentError

_Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        parser=number,
        metavar="X",
        help="Train so long, with validation.",
        show_default=False,
    ),
]


@trainer.command("generate", epilog="Example: recurra train generate input.txt --minutes 3 --out shakespeare")
def train_generate(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="Text files read one after another, or a table with --text; - reads stdin.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)],
    valid: Annotated[
        str | None,
        typer.Option("--valid", help="Text to judge by; else the last tenth.", show_default=False),
    ] = None,
    text: TextColumn = None,
    tokens: Annotated[
        str, typer.Option("--tokens", help="character, word, blank, bpe or jieba.")
    ] = "character",
    vocabulary: Annotated[
        int | None,
        typer.Option(
            "--vocabulary", parser=whole_number, metavar="N", help="Tokens at most.", show_default=False
        ),
    ] = None,
    hidden_size: Annotated[
        str | None,
        typer.Option(
            "--hidden-size", metavar="N,N", help="Hidden units of each layer, such as 512 or 600,300.",
            show_default=False,
        ),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option("--dropout", parser=number, metavar="P", help="Of the output.", show_default=False),
    ] = None,
    epochs: Epochs = None,
    minutes: _Minutes = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", parser=number, metavar="X", help="At its highest.", show_default=False
        ),
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="adamw, or awd, which wants a GPU.")] = "adamw",
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train a language model on text, and write it with a report of what it learnt and writes."""
    from recurra.cli import generate_job

    generate_job.train(
        data,
        valid=valid,
        text=text,
        numbers={
            "tokens": tokens,
            "vocabulary": vocabulary,
            "hidden_sizes": _sizes(hidden_size),
            "dropout": dropout,
            "epochs": epochs,
            "minutes": minutes,
            "learning_rate": learning_rate,
            "recipe": recipe,
            "seed": seed,
            "device": device,
        },
        out=out,
        overwrite=overwrite,
        resume=resume,
        as_json=as_json,
        quiet=quiet,
    )


@app.command(
    short_help="Let a language model write on.",
    epilog='Example: recurra generate shakespeare/model.safetensors --prompt "ROMEO:" --temperature 0.8',
)
def generate(
    model: Annotated[
        str, typer.Argument(help="A model.safetensors of recurra train generate.", show_default=False)
    ],
    prompt: Annotated[str, typer.Option("--prompt", help="What it goes on from; - reads stdin.")] = "",
    length: Annotated[
        int, typer.Option("--length", parser=whole_number, metavar="N", help="Tokens to write.")
    ] = 500,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", parser=number, metavar="X", help="Below 1 safer; 0 always takes the likeliest."
        ),
    ] = 1.0,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", parser=whole_number, metavar="N", help="Draw from the N likeliest.", show_default=False
        ),
    ] = None,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p", parser=number, metavar="P", help="Draw from the likeliest that hold this share."
        ),
    ] = 1.0,
    repetition: Annotated[
        float,
        typer.Option(
            "--repetition", parser=number, metavar="X", help="Above 1 the last 64 tokens are unlikelier."
        ),
    ] = 1.0,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; else stdout.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write on from a prompt, a token at a time, shown as it comes."""
    from recurra.cli import generate_job

    generate_job.generate(
        model,
        prompt,
        length=length,
        seed=seed,
        sampling={"temperature": temperature, "top_k": top_k, "top_p": top_p, "repetition": repetition},
        out=out,
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
    )


def _sizes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise ArgumentError(
            f"--hidden-size: expected whole numbers such as 512 or 600,300, got {text!r}: write digits"
        ) from None
