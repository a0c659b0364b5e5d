"""Classification: from labelled rows to a model, its scores and its report; what such a model predicts."""

from __future__ import annotations

import csv
import io
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import recurra
from recurra.cli.forecast_job import to_json
from recurra.cli.output import Output, history_csv, say_finished, write_text
from recurra.cli.progress import Progress
from recurra.cli.verbs import MOST, check_device, source_of
from recurra.data.sequences import Sequences
from recurra.errors import ArgumentError
from recurra.tasks.classify import Classifier
from recurra.tasks.classify_results import Held
from recurra.tasks.classify_rows import Data, read
from recurra.tasks.classify_scores import METRICS, most_confident_mistakes, verdict

PREDICTED = "classes"
_STEPS = 32  # of the sum that stands for the integral of gradients
_EXPLAINED = (
    120  # tokens of a text whose words are weighed, at most: more take too long to read, and to compute
)


def train(
    data: str,
    *,
    valid: str | None,
    unlabelled: str | None,
    columns: Mapping[str, Any],
    numbers: Mapping[str, Any],
    out: Path,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
    command: Sequence[str],
) -> None:
    """See :func:`recurra.cli.classify_app.train_classify`."""
    started = time.monotonic()
    output = Output(out, overwrite=overwrite, resume=resume)
    if output.finished:
        say_finished(output, as_json=as_json)
        return
    _check_stdin(data, valid, unlabelled)
    classifier = Classifier(**_checked(numbers))
    known = classifier.check(source_of(data), **_columns(data, columns))
    other = None
    if valid is not None:
        other = read(source_of(valid), None, labelled=True, columns=_columns(valid, columns))
        classifier.check_same(known, other)
    more = None
    if unlabelled is not None:
        more = classifier.check_unlabelled(known, source_of(unlabelled), text=columns.get("text"))
    arguments: dict[str, Any] = {"data": known.digest()}
    for name, one in (("--valid", other), ("--unlabelled", more)):
        arguments[name] = None if one is None else one.digest()
    arguments |= {f"--{name.replace('_', '-')}": value for name, value in numbers.items()}
    with output.open(arguments) as folder, Progress(quiet=quiet) as progress:
        classifier.fit(known, valid=other, unlabelled=more, checkpoints=folder / "steps", log=progress.log)
        document = _write(folder, classifier, known, other, command)
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


def _check_stdin(data: str, valid: str | None, unlabelled: str | None) -> None:
    """Raises ArgumentError where stdin is to be read twice."""
    for flag, one, before in (
        ("--valid", valid, {data: "training"}),
        ("--unlabelled", unlabelled, {valid: "validation", data: "training"}),
    ):
        if one == "-" and "-" in before:
            raise ArgumentError(f"{flag} -: stdin holds the {before['-']} data already: name a file")


def _write(
    folder: Path, model: Classifier, known: Data, other: Data | None, command: Sequence[str]
) -> dict[str, Any]:
    """Write all files into `folder`. Returns the document of metrics.json."""
    held = model.held
    assert held is not None
    table = model.held_scores
    _, words = verdict(table, len(held.places))
    scored = (
        f"the {len(held.places):,} rows of {other.name}"
        if other is not None
        else f"{len(held.places):,} rows, each by parts of the model that were not trained on it"
    )
    notes = [*model.notes, *_described(model, known, other)]
    mistakes = most_confident_mistakes(held.probabilities, held.targets, 12)
    explained, note = _explained(model, held, mistakes)
    weighed = _attended(model, held, mistakes)
    settings = told_settings(model, known)
    document = {
        "verdict": words,
        "task": "classify",
        "classes": list(model.classes),
        "rows": len(known),
        "scored": scored,
        "scores": table,
        "notes": notes,
        "model": settings,
        "recurra": recurra.__version__,
        "command": shlex.join(command),
    }
    from recurra.report.classify import render

    page = render(
        model,
        held,
        table,
        title=f"Classes of {known.name}",
        scored=scored,
        mistakes=mistakes,
        explained=explained,
        attended=weighed,
        notes=[*notes, *note],
        settings=settings,
        command=shlex.join(command),
    )
    model.save(folder / "model.safetensors")
    write_text(folder / "metrics.json", to_json(document))
    write_text(folder / "history.csv", history_csv(model.history))
    write_text(folder / "report.html", page)
    return document


def _described(model: Classifier, known: Data, other: Data | None) -> list[str]:
    """What was decided about the rows and the parts of the model, a sentence each."""
    network = model.network
    assert network is not None
    wide, deep = network.mixture.tolist()
    said = []
    if other is None:
        said.append(
            f"Each of {model.plan.members} LSTMs was trained on a part of the rows and judged on the rest, "
            "which chose its best epoch; the linear model was fitted again on all rows."
        )
    said.append(
        "The rows that the scores are of also chose the best epochs and how much each part counts, which "
        "flatters the scores a little; evaluate scores on rows of your own."
    )
    beside = "the n-grams'" if model.kind == "text" else "the linear model's"
    said.append(f"Of the logits, {beside} count {wide:.2f} times and the LSTMs' {deep:.2f} times.")
    if not isinstance(known, Sequences):
        longest = model.plan.longest
        cut = sum(len(text) > 6 * longest for text in known.texts)
        if cut:
            said.append(f"Of texts with over {longest} tokens the LSTMs read beginning and end.")
    rare = [name for name, share in zip(model.classes, model.shares, strict=True) if share * len(known) < 5]
    if rare:
        shown = ", ".join(rare[:5]) + (" …" if len(rare) > 5 else "")
        said.append(f"Fewer than five rows are of {shown}: little can be learnt of them.")
    return said


def told_settings(model: Classifier, known: Data) -> dict[str, str]:
    """The model's numbers, in words."""
    plan, network = model.plan, model.network
    weights = sum(p.numel() for p in network.parameters()) if network is not None else 0
    reads = f"words of {plan.embedding_size} numbers, " if model.kind == "text" else ""
    letters = f" and of {plan.characters[0]} to {plan.characters[-1]} characters" if plan.characters else ""
    forms = {family.form for family in model.preparation.families}
    ends = ", beginnings of texts, gaps" if "beginnings" in forms else ""
    linear = f"1- and 2-grams of tokens{ends}{letters}" if reads else "24 resampled steps"
    return {
        "network": f"{plan.members} bidirectional LSTMs of {plan.hidden_size} units each way, {reads}"
        f"{plan.pooling} pooling; {weights:,} weights",
        "linear model": f"logistic regression on {linear}",
        "training": f"{len(known):,} rows, {sum(map(len, model.history.values()))} epochs in all, batches of "
        f"{plan.batch_size}, learning rate {plan.learning_rate:g}, dropout {plan.dropout:g}"
        + _adversarial(model),
        "seed": str(model.seed),
    }


def _adversarial(model: Classifier) -> str:
    kind = "virtual adversarial" if model.plan.virtual else "adversarial"
    return f", {kind} distance {model.plan.adversarial:g}" if model.plan.adversarial else ""


def _explained(
    model: Classifier, held: Held, mistakes: Sequence[int]
) -> tuple[dict[int, list[tuple[str, float]]], list[str]]:
    """Words of mistakes with what each added to the class that was given; and a note where none could be."""
    tokenizer = model.preparation.tokenizer
    if tokenizer is None or isinstance(held.data, Sequences) or not len(mistakes):
        return {}, []
    try:
        return {place: _weighed(model, held, place) for place in mistakes}, []
    except ImportError:
        return {}, ["Which words mattered is shown where recurra[lens] is installed."]


def _attended(model: Classifier, held: Held, mistakes: Sequence[int]) -> dict[int, list[tuple[str, float]]]:
    """Words of mistakes with their weights in attention pooling, the largest 1; none for another pooling."""
    if model.plan.pooling != "attention" or isinstance(held.data, Sequences) or not len(mistakes):
        return {}
    found = {}
    rows = model.attention(held.data.take(held.places[list(mistakes)]))
    for place, one in zip(mistakes, rows, strict=True):
        tokens, weights = one.tokens[:_EXPLAINED], one.weights[:_EXPLAINED]
        most = float(weights.max(initial=1e-12))
        pairs = zip(tokens, weights, strict=True)
        found[place] = [(f"{token} ", float(weight) / most) for token, weight in pairs]
    return found


def _weighed(model: Classifier, held: Held, place: int) -> list[tuple[str, float]]:
    """The tokens of one text, each with its share in the mean of the LSTMs' logits, the largest 1."""
    import torch

    from recurra.lens import integrated_gradients

    assert model.preparation.tokenizer is not None
    assert model.network is not None
    text = held.data.texts[held.places[place]]  # type: ignore[union-attr]
    rows = model.preparation.encode(held.data.take(held.places[place : place + 1]))
    pieces = model.preparation.tokenizer.split(text)
    numbers = rows.values[0]
    if not len(numbers) or len(pieces) != len(numbers):
        return [(text[:900] or "(empty)", 0.0)]
    numbers, pieces = numbers[:_EXPLAINED], pieces[:_EXPLAINED]
    x, lengths = torch.from_numpy(numbers)[None], torch.tensor([len(numbers)])
    given = int(held.probabilities[place].argmax())
    total = np.zeros(len(numbers))
    for reader in model.network.readers:
        embedding = getattr(reader, "embedding", None)
        found = integrated_gradients(reader, x, lengths, target=given, embedding=embedding, steps=_STEPS)
        total += found.attribution.values[0]
    most = max(float(np.abs(total).max()), 1e-12)
    parts = [(f"{piece} ", float(one) / most) for piece, one in zip(pieces, total, strict=True)]
    return [(piece, one if abs(one) > 0.05 else 0.0) for piece, one in parts]


def predicted(model: Classifier, source: str | bytes, columns: Mapping[str, Any], *, as_json: bool) -> str:
    """The label and the probability of each class of each row, as CSV or JSON."""
    found = model.predict(source, **_columns(source, columns))
    if as_json:
        rows = [
            {
                "label": list(label) if model.several else label,
                "probabilities": dict(zip(found.classes, map(float, row), strict=True)),
            }
            for label, row in zip(found.labels, found.probabilities, strict=True)
        ]
        return to_json(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", *found.classes])
    for label, row in zip(found.labels, found.probabilities, strict=True):
        writer.writerow([";".join(label) if model.several else label, *(f"{one:.6g}" for one in row)])
    return text.getvalue()


def evaluated(
    model: Classifier, source: str | bytes, columns: Mapping[str, Any], *, as_json: bool, quiet: bool
) -> None:
    """Print the scores of a model on labelled rows beside the baselines', and by class."""
    scores = model.evaluate(source, **_columns(source, columns))
    baselines = scores["baselines"]
    table = {model.name: {metric: scores[metric] for metric in METRICS}, **baselines}
    _, words = verdict(table, scores["rows"])
    if as_json:
        print(to_json({"verdict": words, **scores}), end="")
        return
    print_scores(table)
    width = max(8, *(len(name) for name in model.classes))
    print(f"{'':{width}}  precision  recall      F1     rows")
    for name, row in scores["classes"].items():
        cells = f"{100 * row['precision']:9.1f}{100 * row['recall']:8.1f}{100 * row['F1']:8.1f}"
        print(f"{name:{width}}  {cells}{int(row['rows']):>9,}")
    print()
    print(words)


def print_scores(table: Mapping[str, Mapping[str, float]]) -> None:
    """The score table; shares in percent."""
    print("\n" + f"{'':28}" + "".join(f"{name:>20}" for name in METRICS))
    for name, row in table.items():
        cells = [row[m] if m == "log loss" else 100 * row[m] for m in METRICS]
        print(
            f"{name:28}"
            + "".join(f"{cell:20.3f}" if k == 2 else f"{cell:20.1f}" for k, cell in enumerate(cells))
        )
    print()


def _columns(source: str | bytes, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Those of read_texts that were given."""
    return {name: columns[name] for name in ("text", "label", "between") if columns.get(name) is not None}


def _checked(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of Classifier. Raises ArgumentError, naming the option, for one that makes no sense."""
    given = {name: value for name, value in numbers.items() if value is not None}
    weights = given.get("class_weights")
    if weights is not None and weights != "balanced":
        given["class_weights"] = _class_weights(weights)
    check_device(given["device"])
    for name, most in MOST.items():
        if given.get(name, 0) > most:
            raise ArgumentError(
                f"--{name.replace('_', '-')} must be at most {most}, but {given[name]} was given: give a "
                "smaller one"
            )
    try:
        Classifier(**given)
    except ArgumentError as error:
        name, _, rest = str(error).partition(" ")
        raise ArgumentError(f"--{name.replace('_', '-')} {rest}") from error
    return given


def _class_weights(text: str) -> dict[str, float]:
    """a=2,b=1 as a dict. Raises ArgumentError."""
    found = {}
    for part in text.split(","):
        name, mark, value = part.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            mark = ""
        if not mark or not name.strip():
            raise ArgumentError(
                f"--class-weights: expected balanced, or class=number with commas between, got {text!r}: "
                "write it as a=2,b=1"
            )
    return found
