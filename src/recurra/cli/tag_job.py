"""Tagging: from tagged sentences to a model, its scores and its report; and what such a model predicts."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import recurra
from recurra.cli.forecast_job import to_json
from recurra.cli.output import Output, history_csv, say_finished, write_text
from recurra.cli.progress import Progress
from recurra.cli.verbs import check_device, source_of
from recurra.data.conll import read_tagged
from recurra.data.tagged import Tagged, with_tags
from recurra.data.words import counted
from recurra.errors import ArgumentError
from recurra.tasks.tag import Tagger
from recurra.tasks.tag_scores import baselines, headline, scores, verdict

NAME = "LSTM"
PREDICTED = "tags"
HELD_BACK = 10
"""One in so many documents or sentences is held back where no --valid is given."""
MOST = {"hidden_size": 4096, "embedding_size": 4096, "layers": 32}
"""Beyond these a slip of the finger is likelier than a wish, and the machine would run out of memory."""
_FIXED = ("layers", "embedding_size", "characters", "seed")
"""Options whose default does not depend on the data."""


def train(
    data: str,
    *,
    valid: str | None,
    columns: Mapping[str, Any],
    numbers: Mapping[str, Any],
    out: Path,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
    command: Sequence[str],
) -> None:
    """See :func:`recurra.cli.tag_app.train_tag`."""
    started = time.monotonic()
    output = Output(out, overwrite=overwrite, resume=resume)
    if output.finished:
        say_finished(output, as_json=as_json)
        return
    tagger = Tagger(**_checked(numbers))
    if (data, valid) == ("-", "-"):
        raise ArgumentError("--valid -: stdin holds the training data already: name a file")
    known = read_tagged(source_of(data), **columns)
    other = None if valid is None else read_tagged(source_of(valid), **columns)
    notes: list[str] = []
    scored = f"the {len(other):,} sentences of {other.name}" if other is not None else ""
    if other is None:
        known, other, scored = held_back(known)
        notes.append(f"Scored on {scored}, which was not learnt from; give --valid to score on others.")
    arguments: dict[str, Any] = {"data": [known.digest(), other.digest()]}
    arguments |= {f"--{name.replace('_', '-')}": value for name, value in numbers.items()}
    with output.open(arguments) as folder, Progress(quiet=quiet) as progress:
        tagger.fit(known, valid=other, checkpoints=folder / "steps", log=progress.log)
        document = _write(folder, tagger, known, other, notes, scored, command)
        shutil.rmtree(folder / "steps")
    if as_json:
        print(to_json({**document, "out": str(output.path)}), end="")
        return
    for note in document["notes"]:
        print(note)
    print_scores(document["scores"])
    print(document["verdict"])
    print(f"Report: {output.path / 'report.html'}  ({time.monotonic() - started:.0f} s)")
    print(f"Model: {output.path / 'model.safetensors'}")


def held_back(data: Tagged) -> tuple[Tagged, Tagged, str]:
    """The sentences to learn from, those to score on, and what to call these: whole documents where known.

    Raises ArgumentError where there are too few to hold any back.
    """
    several = len(np.unique(data.documents))
    groups = data.documents if several >= 2 * HELD_BACK else np.arange(len(data))
    names = np.unique(groups)
    if len(names) < HELD_BACK:
        raise ArgumentError(
            f"{data.name!r} has only {counted(len(data), 'sentence')}, too few to hold one in {HELD_BACK} "
            "back for scoring: give others with --valid"
        )
    drawn = np.random.default_rng(0).permutation(names)[: len(names) // HELD_BACK]
    outside = np.isin(groups, drawn)
    rest, part = np.flatnonzero(~outside), np.flatnonzero(outside)
    return data.take(rest), data.take(part), f"one in {HELD_BACK} of the sentences, {len(part):,}, held back"


def _write(
    folder: Path,
    tagger: Tagger,
    known: Tagged,
    other: Tagged,
    notes: Sequence[str],
    scored: str,
    command: Sequence[str],
) -> dict[str, Any]:
    """Score, and write all files into `folder`. Returns the document of metrics.json."""
    spanned = bool(tagger.scheme)
    began = time.perf_counter()
    found = tagger.predict(other)
    speed = len(other) / max(time.perf_counter() - began, 1e-9)
    gold = other.tags or ()
    table = {NAME: scores(gold, found.tags, spanned=spanned)}
    for floor in baselines(known.words, known.tags or (), spanned=spanned):
        table[floor.name] = scores(gold, floor.predict(other.words), spanned=spanned)
    words, _ = verdict(table, spanned=spanned)
    said = [*tagger.notes, *notes, *unseen_note(tagger.unseen(other))]
    settings = told_settings(tagger, known)
    document = {
        "verdict": words,
        "task": "tag",
        "scheme": tagger.scheme or None,
        "sentences": len(other),
        "scores": table,
        "sentences_per_second": speed,
        "notes": said,
        "model": settings,
        "recurra": recurra.__version__,
        "command": shlex.join(command),
    }
    from recurra.report.tag import render

    page = render(
        tagger,
        other,
        found,
        table,
        title=f"{'Spans' if spanned else 'Tags'} of {known.name}",
        notes=said,
        settings=settings,
        command=shlex.join(command),
        scored=scored,
    )
    tagger.save(folder / "model.safetensors")
    write_text(folder / "metrics.json", to_json(document))
    write_text(folder / "history.csv", history_csv(tagger.history))
    write_text(folder / "report.html", page)
    return document


def told_settings(tagger: Tagger, known: Tagged) -> dict[str, str]:
    """The model's numbers, in words."""
    plan, network = tagger.plan, tagger.network
    weights = sum(p.numel() for p in network.parameters()) if network is not None else 0
    reads = {"cnn": "a convolution over letters", "lstm": "an LSTM over letters", "none": "no letters"}
    return {
        "network": f"{counted(plan.layers, 'bidirectional LSTM layer')} of {plan.hidden_size} units each "
        f"way, words of {plan.word_size} numbers, {reads[plan.characters]}, CRF; {weights:,} weights",
        "tags": f"{len(tagger.labels)} inside" + (f", BIOES of {tagger.scheme}" if tagger.scheme else ""),
        "training": f"{len(known):,} sentences, {len(tagger.history['train'])} epochs, batches of "
        f"{plan.batch_size}, learning rate {plan.learning_rate:g}, dropout {plan.dropout:g}",
        "seed": str(tagger.seed),
    }


def unseen_note(names: Sequence[str]) -> list[str]:
    """What to say of tags that the training data have not."""
    if not names:
        return []
    shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    return [f"The training data have no {shown}, so that words so tagged count as mistakes."]


def predicted(model: Tagger, source: str | bytes, columns: Mapping[str, Any], *, as_json: bool) -> str:
    """The file with a column of tags added, in its own form, or JSON."""
    data = model.read(source, tagged=False, **_given(columns))
    found = model.predict(data)
    if not as_json:
        return with_tags(data, found.tags)
    spanned = bool(model.scheme)
    rows = []
    for words, tags, sure, spans in zip(
        found.words, found.tags, found.probabilities, found.spans(), strict=True
    ):
        row: dict[str, Any] = {"words": words, "tags": tags, "probabilities": sure.tolist()}
        if spanned:
            row["spans"] = [span._asdict() for span in spans]
        rows.append(row)
    return to_json(rows)


def evaluated(
    model: Tagger, source: str | bytes, columns: Mapping[str, Any], *, as_json: bool, quiet: bool
) -> None:
    """Print the scores of a model on tagged sentences, of all and by kind."""
    data = model.read(source, **_given(columns))
    began = time.perf_counter()
    found = model.evaluate(data)
    seconds = time.perf_counter() - began
    notes = unseen_note(found["unseen_tags"])
    if as_json:
        print(to_json({**found, "sentences_scored": len(data), "notes": notes}), end="")
        return
    print_scores({NAME: found})
    width = max([8, *(len(name) for name in found["by_kind"])])
    print(f"{'':{width}}  precision  recall      f1  support")
    for name, row in found["by_kind"].items():
        cells = f"{100 * row['precision']:9.2f}{100 * row['recall']:8.2f}{100 * row['f1']:8.2f}"
        print(f"{name or 'span':{width}}  {cells}{int(row['support']):>9,}")
    print()
    for note in notes:
        print(note)
    if not quiet:
        print(f"{counted(len(data), 'sentence')} in {seconds:.1f} s", file=sys.stderr)


def print_scores(table: Mapping[str, Mapping[str, Any]]) -> None:
    """The score table, in percent."""
    spanned = "f1" in next(iter(table.values()))
    shown = (["precision", "recall"] if spanned else []) + [headline(spanned)]
    shown += (["accuracy"] if spanned else []) + ["sentences"]
    print("\n" + f"{'':20}" + "".join(f"{name:>11}" for name in shown))
    for name, row in table.items():
        print(f"{name:20}" + "".join(f"{100 * row[metric]:11.2f}" for metric in shown))
    print()


def _given(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: columns.get(name) for name in ("text", "label")}


def _checked(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the options. Raises ArgumentError, naming the option, for one that makes no sense."""
    given = {name: value for name, value in numbers.items() if value is not None}
    try:
        Tagger(**given)
    except ArgumentError as error:
        name, _, rest = str(error).partition(" ")
        remedy = "for the usual one" if name in _FIXED else "to have it chosen from the data"
        raise ArgumentError(f"--{name.replace('_', '-')} {rest}: leave it out {remedy}") from error
    check_device(given.get("device", "cpu"))
    for name, most in MOST.items():
        if given.get(name, 0) > most:
            raise ArgumentError(
                f"--{name.replace('_', '-')} must be at most {most}, but {given[name]} was given: give a "
                "smaller one"
            )
    return given
