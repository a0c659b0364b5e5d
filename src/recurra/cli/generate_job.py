"""The verbs of language models: from a text to a model and its report, and what such a model writes."""

from __future__ import annotations

import csv
import io
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import recurra
from recurra.cli.forecast_job import to_json
from recurra.cli.output import Output, check_file, say_finished, write_text
from recurra.cli.progress import Progress
from recurra.cli.verbs import check_device, source_of
from recurra.data.corpus import END, Corpus, end_of, start_of
from recurra.errors import ArgumentError
from recurra.tasks.generate import LanguageModel
from recurra.tasks.generate_scores import (
    Foreseen,
    baselines,
    by_frequency,
    by_position,
    counted_stream,
    own_baselines,
    positions,
    state_of,
    verdict,
)
from recurra.tasks.sampling import Sampling
from recurra.tasks.speaking import Speaker

PREDICTED = "scores"
_TEMPERATURES = (0.5, 0.8, 1.0)
_SAMPLE = {"character": 400, "bpe": 160}  # tokens of a sample; of words 100
_OPTIONS = {"hidden_sizes": "hidden_size"}
"""Parameters that the command line calls otherwise."""
_COLUMNS = ("epoch", "step", "train_loss", "valid_loss", "learning_rate", "seconds")


def train(
    data: Sequence[str],
    *,
    valid: str | None,
    text: str | None,
    numbers: dict[str, Any],
    out: Path,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """See :func:`recurra.cli.generate_app.train_generate`."""
    started = time.monotonic()
    output = Output(out, overwrite=overwrite, resume=resume)
    if output.finished:
        say_finished(output, as_json=as_json)
        return
    with _options():
        model = LanguageModel(**numbers)
    check_device(numbers["device"])
    if "-" in data and valid == "-":
        raise ArgumentError("--valid -: stdin holds the training text already: name a file")
    other = None if valid is None else source_of(valid)
    learnt, held = model.corpora(_source(data), other, text=text)
    options = {f"--{name.replace('_', '-')}": value for name, value in numbers.items()}
    digests = {"data": learnt.digest(), "--valid": held.digest()}
    with _options(), output.open({**digests, **options}) as folder, Progress(quiet=quiet) as progress:
        log = _timed(progress, numbers["minutes"])
        model.fit(learnt, valid=held, checkpoints=folder / "steps", log=log)
        document = _written(model, learnt, held, folder, valid is not None)
        shutil.rmtree(folder / "steps")
    if as_json:
        print(to_json({**document, "out": str(out)}), end="")
        return
    print(_table(document["scores"]))
    print(document["verdict"])
    print(f"Report: {out / 'report.html'}  ({time.monotonic() - started:.0f} s)")
    print(f"Model: {out / 'model.safetensors'}")


def _timed(progress: Progress, minutes: float | None) -> Callable[[dict[str, Any]], None]:
    """What shows the rows: epochs of epochs, or where the time ends the training seconds of seconds."""
    spent = 0.0

    def log(row: dict[str, Any]) -> None:
        nonlocal spent
        spent += float(row["seconds"])
        if minutes is not None:
            row = {**row, "epoch": round(min(spent, 60 * minutes)), "epochs": round(60 * minutes)}
        progress.log(row)

    return log


def _written(
    model: LanguageModel, learnt: Corpus, held: Corpus, folder: Path, own_valid: bool
) -> dict[str, Any]:
    """Score, sample, and write all files. Returns the document of metrics.json."""
    from recurra.report.generate import passage, render

    tokenizer = model.tokenizer
    found = model.foresee(held)
    scores, kind = found.scores(), tokenizer.kind
    rivals = baselines(counted_stream(learnt, tokenizer)[0], found.numbers, tokenizer)
    length = _SAMPLE.get(kind, 100)
    samples = {heat: model.generate(length=length, temperature=heat, seed=1) for heat in _TEMPERATURES}
    closing = end_of(tokenizer)
    places = by_position(positions(found.numbers, start_of(tokenizer)), found.nats)
    notes = _notes(model, learnt, held, own_valid)
    document: dict[str, Any] = {
        "verdict": verdict(scores, rivals, kind),
        "scores": _scores(scores, rivals),
        **{name: scores[name] for name in ("tokens", "characters", "unknown", "bits_per_character")},
        "samples": {str(heat): text for heat, text in samples.items()},
        "by frequency": by_frequency(found.numbers, found.nats, model.counts),
        "notes": notes,
        "model": settings(model),
        "seconds": sum(float(row["seconds"]) for row in model.history),
        "recurra": recurra.__version__,
        "command": shlex.join(["recurra", *sys.argv[1:]]),
    }
    page = render(
        title=f"A language model of {learnt.name}",
        kind=kind,
        scores=scores,
        rivals=rivals,
        state=state_of(scores, rivals),
        history=model.history,
        samples=samples,
        passage=passage(_pieces(model, found), found.nats),
        frequencies=document["by frequency"],
        places=places,
        place_of="text" if held.listed and closing is not None else "line",
        settings=settings(model),
        notes=notes,
        command=document["command"],
        model="model.safetensors",
    )
    model.save(folder / "model.safetensors")
    write_text(folder / "history.csv", _history_csv(model.history))
    write_text(folder / "metrics.json", to_json(document))
    write_text(folder / "report.html", page)
    return document


def _pieces(model: LanguageModel, found: Foreseen, most: int = 2000) -> list[str]:
    """The first tokens as they are written; an unknown one as a box."""
    speaker = Speaker(model.tokenizer)
    unknown = model.tokenizer.unknown
    return ["\u25a1" if n == unknown else speaker.say(int(n)) for n in found.numbers[:most]]


def _notes(model: LanguageModel, learnt: Corpus, held: Corpus, own_valid: bool) -> list[str]:
    kind = "texts of a list" if learnt.listed else "running text"
    first = [*learnt.notes, f"{learnt.name} is read as {kind}, {learnt.characters:,} characters."]
    if own_valid:
        first.append(f"The model is judged on {held.name}, {held.characters:,} characters.")
    else:
        first.append(f"The last tenth, {held.characters:,} characters, is held back to judge the model.")
    if end_of(model.tokenizer) is not None:
        what = "text" if learnt.listed else "line"
        first.append(f"Each {what} is closed by the token {END}, which counts as one.")
    known = len(model.tokenizer) - (2 if end_of(model.tokenizer) is None else 3)
    rare = int(model.counts[model.tokenizer.unknown])
    first.append(
        f"{known:,} different tokens are known"
        + (f"; {rare:,} rare ones of the training text count as unknown." if rare else ".")
    )
    return first


def settings(model: LanguageModel) -> dict[str, str]:
    """The model's numbers, in words."""
    plan, network = model.plan, model.network
    weights = sum(p.numel() for p in network.parameters()) if network is not None else 0
    sizes = " and ".join(str(size) for size in plan.hidden_sizes)
    names = {"adam": "AdamW", "sgd": "SGD", "ntasgd": "SGD, then averaged SGD"}
    drops = [
        ("embedding", plan.embedding_dropout), ("input", plan.input_dropout),
        ("hidden", plan.hidden_dropout if len(plan.hidden_sizes) > 1 else 0.0),
        ("output", plan.output_dropout), ("recurrent weights", plan.weight_drop),
    ]  # fmt: skip
    told = ", ".join(f"{name} {chance:.3g}" for name, chance in drops if chance)
    return {
        "tokens": f"{model.tokens}, {len(model.tokenizer):,} with padding, unknown and the close of texts",
        "network": f"embedding of {plan.embedding_size}, LSTM of {sizes} hidden units, "
        f"{'tied output' if plan.tied else 'output of its own'}, {weights:,} weights",
        "dropout": told or "none",
        "training": f"{len(model.history)} epochs, {plan.streams} streams, windows of {plan.window} steps "
        f"with carried state{', products in bfloat16' if plan.precision != '32-true' else ''}",
        "optimizer": f"{names[plan.optimizer]}, learning rate {plan.learning_rate:g}, {plan.schedule}",
        "seed": str(model.seed),
    }


def generate(
    model: str,
    prompt: str,
    *,
    length: int,
    seed: int,
    sampling: dict[str, Any],
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """See :func:`recurra.cli.generate_app.generate`."""
    if out is not None:
        check_file(out, overwrite=overwrite)
    with _options():
        Sampling(**sampling)  # refuses its numbers before the model is read
    found = LanguageModel.load(model)
    if prompt == "-":
        given = source_of(prompt)
        prompt = given.decode("utf-8", "replace") if isinstance(given, bytes) else given
    prompt = prompt.encode("utf-8", "replace").decode()
    with _options():
        pieces = found.stream(prompt, length=length, seed=seed, **sampling)
    unknown = found.unknown(prompt)
    if unknown and not quiet:
        said = ", ".join(repr(token) for token in unknown)
        print(f"The model does not know {said}: read as unknown.", file=sys.stderr)
    started = time.perf_counter()
    if out is None and not as_json:
        _stream(prompt, pieces)
        return
    text = "".join(pieces)
    seconds = time.perf_counter() - started
    if out is not None:
        write_text(out, f"{prompt}{text}\n")
    if as_json:
        document = {"prompt": prompt, "text": text, "unknown": unknown, "seed": seed, "seconds": seconds}
        print(to_json({**document, **({} if out is None else {"out": str(out)})}), end="")
    elif not quiet:
        print(f"Text: {out}")


def _stream(prompt: str, pieces: Iterator[str]) -> None:
    """Each piece on stdout as soon as it is there; a terminal gets no control characters."""
    safe = sys.stdout is not None and sys.stdout.isatty()
    for piece in (prompt, *pieces) if not safe else _watched(prompt, pieces):
        print(piece, end="", flush=safe)
    print()


def _watched(prompt: str, pieces: Iterator[str]) -> Iterator[str]:
    yield _visible(prompt)
    for piece in pieces:
        yield _visible(piece)


def _visible(text: str) -> str:
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)


def predicted(model: LanguageModel, source: str | bytes, columns: Mapping[str, Any], *, as_json: bool) -> str:
    """Each line, or each text of a column, with its scores, as CSV or JSON."""
    rows = model.predict(source, text=columns.get("text"))
    if as_json:
        return to_json(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("line", "tokens", "unknown", "nats_per_token", "perplexity", "bits_per_character", "text")
    writer.writerow(names)
    for row in rows:
        writer.writerow([f"{row[n]:.6g}" if isinstance(row[n], float) else row[n] for n in names])
    return text.getvalue()


def evaluated(
    model: LanguageModel, source: str | bytes, columns: Mapping[str, Any], *, as_json: bool, quiet: bool
) -> None:
    """Print a model's scores on a text, beside n-grams learnt from other parts of that text."""
    if columns.get("label") is not None:
        raise ArgumentError("--label is for models that label: leave it out for a language model")
    found = model.foresee(source, text=columns.get("text"))
    scores, rivals = found.scores(), own_baselines(found.numbers, model.tokenizer)
    sentence = verdict(scores, rivals, model.tokenizer.kind)
    if as_json:
        print(to_json({"verdict": sentence, "scores": _scores(scores, rivals), **scores}), end="")
        return
    print(_table(_scores(scores, rivals)))
    print(sentence)
    if rivals and not quiet:
        print(
            "N-grams are learnt from this text itself, each part of it foreseen by all the others; if the "
            "model was trained on it, its score flatters it."
        )
    if scores["unknown"]:
        print(f"{int(scores['unknown']):,} of {int(scores['tokens']):,} tokens are unknown to the model.")


def _scores(scores: Mapping[str, float], rivals: Mapping[str, float]) -> dict[str, dict[str, float]]:
    nats = {"LSTM": scores["nats_per_token"], **rivals}
    return {
        name: {"nats": own, "bits": own / float(np.log(2)), "perplexity": float(np.exp(min(own, 700.0)))}
        for name, own in nats.items()
    }


def _table(table: Mapping[str, Mapping[str, float]]) -> str:
    best = min(table, key=lambda name: table[name]["nats"])
    lines = [f"{'per token':24}{'nats':>9}{'bits':>9}{'perplexity':>12}"]
    for name, row in table.items():
        star = "*" if name == best else ""
        lines.append(f"{name:24}{row['nats']:9.4f}{row['bits']:9.4f}{row['perplexity']:12.2f}{star}")
    return "\n".join(["", *lines, ""])


def _source(data: Sequence[str]) -> Any:
    """stdin, one path, or several."""
    if "-" in data and len(data) > 1:
        raise ArgumentError("DATA: - reads stdin alone: give it without other files")
    if data[0] == "-":
        return source_of("-")
    return data[0] if len(data) == 1 else [Path(one) for one in data]


@contextmanager
def _options() -> Iterator[None]:
    """An ArgumentError of a parameter names the option of the command line that gave it."""
    try:
        yield
    except ArgumentError as error:
        name, colon, rest = str(error).partition(":")
        if not colon or not name.isidentifier():
            raise
        option = _OPTIONS.get(name, name).replace("_", "-")
        raise ArgumentError(f"--{option}:{rest}") from error


def _history_csv(history: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
