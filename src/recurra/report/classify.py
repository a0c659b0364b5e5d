"""The report of a classifier: its scores beside the floor's, its mistakes, and which words speak for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from recurra.data.sequences import Sequences
from recurra.report.page import Marked, Part, Plot, Table, render_page
from recurra.report.style import Figure, figure, label, light, rounded, strokes
from recurra.tasks.classify import Classifier
from recurra.tasks.classify_results import Held
from recurra.tasks.classify_scores import (
    METRICS,
    by_class,
    confusion,
    reliability,
    verdict,
)

MISTAKES = 12
"""Mistakes that are shown, the most confident ones."""
DRAWN = 30
"""Classes that a figure or table shows at most."""
_CURVES = 6  # classes that have a curve of their own
_LONGEST = 900  # characters of a text that are shown
_POINTS = 400  # of a curve
_SHADES = [[0, "rgba(28, 95, 176, 0.03)"], [1, "rgba(28, 95, 176, 0.85)"]]

Explained = Mapping[int, Sequence[tuple[str, float]]]


def render(
    model: Classifier,
    held: Held,
    table: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    scored: str,
    mistakes: Sequence[int],
    explained: Explained,
    attended: Explained,
    notes: Sequence[str],
    settings: Mapping[str, str],
    command: str,
) -> str:
    """The page as HTML text.

    held: rows that the model was not trained on, and what it says of them. table: the scores of the model,
    first, of the floor and of the most frequent class. scored: on which rows, in words. mistakes: places in
    held of mistakes to show; explained: the pieces of some of them, with how much each spoke for the class
    that was said, from -1 to 1; attended: their weights in attention pooling, the largest 1, where the
    LSTMs pool so.
    """
    state, words = verdict(table, len(held.places))
    tags = {"wins": "better than the floor", "level": "level with the floor", "loses": "the floor is better"}
    parts = [
        _scores(table, scored),
        _classes(model, held),
        _confusion(model, held),
        _curves(model, held),
        _calibration(model, held),
        _mistakes(model, held, mistakes, explained, attended),
        _words(model),
        _training(model.history),
    ]
    text = model.kind == "text"
    example = '["worth every penny"]' if text else '"new.ts"'
    return render_page(
        task="classification",
        title=title,
        verdict=words,
        state=(state, tags[state]),
        facts=[
            f"{len(held.places):,} {'texts' if text else 'sequences'} scored",
            f"{len(model.classes):,} classes" + (", several to a row" if model.several else ""),
        ],
        cards=_cards(table),
        parts=[part for part in parts if part is not None],
        notes=notes,
        settings=settings,
        command=command,
        uses=[
            ("Sort other rows:", f"recurra predict model.safetensors {'new.csv' if text else 'new.ts'}"),
            (
                "In Python:",
                'import recurra\n\nclassifier = recurra.load("model.safetensors")\n'
                f"found = classifier.predict({example})\n"
                "found.labels, found.probabilities",
            ),
        ],
    )


def percent(value: float) -> str:
    return f"{100 * value:.1f}\u00a0%"


def _shown(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "log loss" else percent(value)


def _cards(table: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, str]]:
    (_, own), (floor, other) = list(table.items())[:2]
    return [
        (
            metric[:1].upper() + metric[1:],
            _shown(metric, own[metric]),
            f"{floor}: {_shown(metric, other[metric])}",
        )
        for metric in METRICS
    ]


def _scores(table: Mapping[str, Mapping[str, float]], scored: str) -> Part:
    rows = [[name, *(_shown(metric, row[metric]) for metric in METRICS)] for name, row in table.items()]
    words = [
        f"On {scored}. The baselines learnt from the same rows. Log loss is in nats; calibration error is "
        "how far stated probabilities lie from the share that was right, in the mean. Lower is better."
    ]
    return Part("scores", "Scores", words, tables=[Table(["", *METRICS], rows, marked=next(iter(table)))])


def _classes(model: Classifier, held: Held) -> Part:
    each = by_class(held.probabilities, held.targets, several=model.several)
    order = sorted(range(len(each)), key=lambda k: -each[k]["rows"])[:DRAWN]
    rows = [
        [
            model.classes[k],
            *(percent(each[k][name]) for name in ("precision", "recall", "F1")),
            f"{int(each[k]['rows']):,}",
            f"{int(each[k]['predicted']):,}",
        ]
        for k in order
    ]
    more = len(each) - len(order)
    words = [
        "Precision: of the rows that were given the class, those that are of it. Recall: of the rows of the "
        "class, those that were found." + (f" The {more} rarest classes are not shown." if more else "")
    ]
    return Part(
        "classes",
        "Scores by class",
        words,
        tables=[Table(["class", "precision", "recall", "F1", "rows", "given"], rows, wraps=True)],
        short="By class",
    )


def _confusion(model: Classifier, held: Held) -> Part | None:
    if model.several:
        return None
    counts = confusion(held.probabilities, held.targets)
    kept = np.sort(np.argsort(-counts.sum(1), kind="stable")[:DRAWN])
    counts = counts[np.ix_(kept, kept)]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [label(model.classes[k], 24) for k in kept]
    small = len(names) <= 12
    drawn = figure(
        [
            go.Heatmap(
                z=[rounded(row) for row in share[::-1]],
                x=list(range(len(names))),
                y=list(range(len(names))),
                text=[[f"{n:,}" for n in row] for row in counts[::-1]],
                texttemplate="%{text}" if small else None,
                customdata=[[[truth, said] for said in names] for truth in names[::-1]],
                hovertemplate="is %{customdata[0]}, given %{customdata[1]}: %{text}<extra></extra>",
                colorscale=_SHADES,
                zmin=0,
                zmax=1,
                showscale=False,
            )
        ],
        xaxis={
            "title": {"text": "given"},
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "showgrid": False,
            "zeroline": False,
        },
        yaxis={
            "title": {"text": "is"},
            "tickvals": list(range(len(names))),
            "ticktext": names[::-1],
            "showgrid": False,
            "zeroline": False,
        },
    )
    pairs = [
        (counts[i, j], i, j) for i in range(len(kept)) for j in range(len(kept)) if i != j and counts[i, j]
    ]
    worst = sorted(pairs, key=lambda one: -one[0])[:3]
    told = "; ".join(
        f"“{model.classes[kept[i]]}” taken for “{model.classes[kept[j]]}” ({n:,})" for n, i, j in worst
    )
    words = [f"Each row is a true class, shaded by share. Most often: {told}." if told else "No mistake."]
    plot = Plot("confusion", drawn, f"Confusion matrix. {words[0]}", size="" if small else "tall")
    return Part("confusion", "What is taken for what", words, plots=[plot], short="Confusion")


def _curves(model: Classifier, held: Held) -> Part | None:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    both = [k for k in range(len(model.classes)) if 0 < held.targets[:, k].sum() < len(held.targets)]
    if not both:
        return None
    binary = len(model.classes) == 2 and not model.several
    if binary:
        k = both[-1]
        lines = {model.name: (held.probabilities[:, k], k), model.floor_name: (held.floor[:, k], k)}
        about = f"for {model.classes[k]}"
    else:
        frequent = sorted(both, key=lambda k: -held.targets[:, k].sum())[:_CURVES]
        lines = {model.classes[k]: (held.probabilities[:, k], k) for k in frequent}
        about = "of each class against the rest" + (", the most frequent ones" if len(both) > _CURVES else "")
    styles = strokes(list(lines))
    precisions, rates, areas = [], [], []
    for name, (values, k) in lines.items():
        true = held.targets[:, k] > 0
        precision, recall, _ = precision_recall_curve(true, values)
        wrong, right, _ = roc_curve(true, values)
        precisions.append(_line(label(name, 40), recall[::-1], precision[::-1], styles[name]))
        rates.append(_line(label(name, 40), wrong, right, styles[name]))
        areas.append(
            [name, f"{average_precision_score(true, values):.3f}", f"{roc_auc_score(true, values):.3f}"]
        )
    ends = {"range": [0, 1.01]}
    told = "; ".join(f"{name}: {area}" for name, _, area in areas)
    plots = [
        Plot(
            "precision",
            figure(
                precisions,
                xaxis={"title": {"text": "recall"}, **ends},
                yaxis={"title": {"text": "precision"}, **ends},
            ),
            f"Precision by recall {about}.",
            heading="Precision and recall",
            size="small",
        ),
        Plot(
            "roc",
            figure(
                rates,
                xaxis={"title": {"text": "of the others, given the class"}, **ends},
                yaxis={"title": {"text": "of the class, found"}, **ends},
            ),
            f"ROC curve {about}. Area: {told}.",
            heading="ROC",
            size="small",
        ),
    ]
    areas_table = Table(["", "average precision", "area under ROC"], areas, wraps=True)
    words = [f"How rows are ranked by probability, {about}: what the choice of a threshold can give."]
    return Part("curves", "Precision, recall and ROC", words, plots, [areas_table], short="Curves")


def _line(name: str, x: NDArray[Any], y: NDArray[Any], style: Mapping[str, Any]) -> go.Scatter:
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().astype(int))
    return go.Scatter(x=rounded(x[kept]), y=rounded(y[kept]), name=name, mode="lines", line=dict(style))


def _calibration(model: Classifier, held: Held) -> Part:
    styles = strokes([model.name, model.floor_name])
    traces = [
        go.Scatter(
            x=[0, 1],
            y=[0, 1],
            mode="lines",
            showlegend=False,
            line={"color": light("quiet"), "dash": "dot", "width": 1},
            hoverinfo="skip",
        )
    ]
    least = 1.0
    for name, values in ((model.name, held.probabilities), (model.floor_name, held.floor)):
        bins = reliability(values, held.targets, several=model.several)
        least = min(least, float(bins[:, 0].min()))
        traces.append(
            go.Scatter(
                x=rounded(bins[:, 0]),
                y=rounded(bins[:, 1]),
                name=name,
                mode="lines+markers",
                line=styles[name],
                customdata=[percent(share) for share in bins[:, 2]],
                hovertemplate="said %{x:.0%}, right %{y:.0%}, %{customdata} of rows<extra></extra>",
            )
        )
    axis = {"range": [max(0.0, least - 0.05), 1.02], "tickformat": ".0%"}
    drawn = figure(
        traces,
        xaxis={"title": {"text": "probability stated"}, **axis},
        yaxis={"title": {"text": "share that was right"}, "range": [0, 1.05], "tickformat": ".0%"},
    )
    words = ["Of rows given a probability of 80\u00a0%, eight in ten should be right: the dotted line."]
    plot = Plot("calibration", drawn, "Share that was right by the probability stated.")
    return Part("calibration", "Can the probabilities be believed?", words, plots=[plot], short="Calibration")


def _mistakes(
    model: Classifier, held: Held, mistakes: Sequence[int], explained: Explained, attended: Explained
) -> Part | None:
    if not len(mistakes):
        return None
    said = held.probabilities
    rows, texts = [], []
    for place in mistakes:
        given = int(said[place].argmax())
        truth = ", ".join(model.classes[k] for k in np.flatnonzero(held.targets[place])) or "none"
        line = int(held.data.rows[held.places[place]])
        sure = f"given {model.classes[given]} with {percent(said[place, given])}, is {truth}"
        if isinstance(held.data, Sequences):
            rows.append([f"row {line}", model.classes[given], percent(said[place, given]), truth])
            continue
        whole = held.data.texts[held.places[place]]
        cut = whole if len(whole) <= _LONGEST else whole[:_LONGEST] + " …"
        texts.append(Marked(explained.get(place, [(cut or "(empty)", 0.0)]), heading=f"Row {line}: {sure}"))
        if attended.get(place):
            texts.append(Marked(attended[place], heading=f"Row {line}: attention"))
    words = ["Rows that were wrong with the highest probability: mistakes of the model, or of the labels."]
    if explained:
        words.append(
            "Marked words spoke for the class given, those in the other colour against it, by integrated "
            "gradients of the LSTMs."
        )
    if attended:
        words.append(
            "Under “attention” words are marked by their weight where the LSTMs pool over time, the mean of "
            "all LSTMs, the largest in full colour: where they look, not which class that speaks for."
        )
    tables = [Table(["", "given", "probability", "is"], rows)] if rows else []
    return Part("mistakes", "Most confident mistakes", words, tables=tables, texts=texts, short="Mistakes")


def _words(model: Classifier) -> Part | None:
    if model.preparation.tokenizer is None:
        return None
    weights, tokens = model.bag.weights(), model.preparation.tokenizer.tokens
    families = model.preparation.families[model.preparation.first :]
    words = len(families[0].keys)
    texts = []
    for k in range(min(len(model.classes), DRAWN)):
        order = [at for at in np.argsort(-weights[:words, k], kind="stable")[:12] if weights[at, k] > 0]
        largest = max((float(weights[at, k]) for at in order), default=1.0)
        pieces = [
            (families[0].written(int(at), tokens), 0.6 * float(weights[at, k]) / largest) for at in order
        ]
        spaced = [piece for pair in pieces for piece in (pair, ("   ", 0.0))]
        texts.append(Marked(spaced or [("nothing", 0.0)], heading=model.classes[k]))
    return Part(
        "words",
        "What speaks for each class",
        ["Words and runs of words with the largest weight in the linear model beside the LSTMs."],
        texts=texts,
        short="Words",
    )


def _training(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> Part | None:
    if not history:
        return None
    first = next(iter(history))
    traces = []
    for name, epochs in history.items():
        for key, role, word in (("train_loss", "first", "training"), ("valid_loss", "model", "held back")):
            traces.append(
                go.Scatter(
                    x=[row["epoch"] for row in epochs],
                    y=rounded(np.array([np.nan if row[key] is None else row[key] for row in epochs])),
                    name=word,
                    legendgroup=word,
                    showlegend=name == first,
                    mode="lines+markers" if len(epochs) == 1 else "lines",
                    line={"color": light(role), "width": 1.75, "dash": "solid" if role == "model" else "dot"},
                    hovertemplate=f"{name}, epoch %{{x}}: %{{y:.3f}}<extra>{word}</extra>",
                )
            )
    drawn: Figure = figure(
        traces,
        xaxis={"title": {"text": "epoch"}, "tick0": 1, "dtick": max(1, max(map(len, history.values())) // 8)},
        yaxis={"title": {"text": "cross entropy, nats"}},
    )
    words = ["Loss after each epoch of each reader; the weights of its best epoch are kept."]
    return Part("training", "Training", words, plots=[Plot("training", drawn, "Loss by epoch.")])
