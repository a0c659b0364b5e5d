"""The report of a tagger: its scores beside the floors', its mistakes in context, what the CRF learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray

from recurra.data.schemes import Span
from recurra.data.schemes import spans as spans_of
from recurra.data.tagged import Tagged
from recurra.report.page import Marked, Part, Plot, Table, render_page
from recurra.report.style import Figure, figure, label, light, rounded
from recurra.tasks.tag import Tagger, Tags
from recurra.tasks.tag_scores import confusion, headline, verdict

NAME = "LSTM"
MISTAKES = 24
"""Sentences with mistakes that are shown."""
LONGEST = 120
"""Words of such a sentence that are shown."""
DRAWN = 18
"""Tags and kinds that a figure shows at most."""
_SHADES = [[0, "rgba(28, 95, 176, 0.03)"], [1, "rgba(28, 95, 176, 0.85)"]]


def render(
    tagger: Tagger,
    data: Tagged,
    found: Tags,
    table: Mapping[str, Mapping[str, Any]],
    *,
    title: str,
    notes: Sequence[str],
    settings: Mapping[str, str],
    command: str,
    scored: str,
) -> str:
    """The page as HTML text.

    data: sentences with tags that the tagger did not learn from, found: what it says of them. table: the
    scores of the tagger, first, and of the floors. scored: on which sentences, in words.
    """
    spanned = bool(tagger.scheme)
    words, state = verdict({name: dict(row) for name, row in table.items()}, spanned=spanned)
    tags = {
        "wins": "better than the baselines",
        "level": "as good as a baseline",
        "loses": "a baseline is better",
    }
    parts = [
        _scores(table, spanned, scored),
        _kinds(table[NAME]["by_kind"], spanned),
        _confusion(data, found, spanned),
        _mistakes(data, found, spanned),
        _transitions(tagger),
        _training(tagger.history, spanned),
    ]
    return render_page(
        task="tagging",
        title=title,
        verdict=words,
        state=(state, tags[state]),
        facts=[
            f"{len(data):,} sentences scored",
            f"{sum(map(len, data.words)):,} words",
            f"scheme {tagger.scheme}" if spanned else f"{len(tagger.labels)} tags",
        ],
        cards=_cards(table, spanned),
        parts=[part for part in parts if part is not None],
        notes=notes,
        settings=settings,
        command=command,
        uses=[
            (
                "Tag other sentences, columns in and columns out:",
                "recurra predict model.safetensors new.conll",
            ),
            (
                "In Python:",
                'import recurra\n\ntagger = recurra.load("model.safetensors")\n'
                'found = tagger.predict([["Ada", "wrote", "it"]])\nfound.tags, found.spans()',
            ),
        ],
    )


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _cards(table: Mapping[str, Mapping[str, Any]], spanned: bool) -> list[tuple[str, str, str]]:
    metric = headline(spanned)
    own = table[NAME]
    others = {name: row[metric] for name, row in table.items() if name != NAME}
    best = max(others, key=lambda name: others[name])
    cards = [("F1" if spanned else "Accuracy", percent(own[metric]), f"{best}: {percent(others[best])}")]
    if spanned:
        cards += [
            ("Precision", percent(own["precision"]), "of the spans found are right"),
            ("Recall", percent(own["recall"]), "of the spans are found"),
        ]
    return [*cards, ("Whole sentences", percent(own["sentences"]), "have no mistake")]


def _scores(table: Mapping[str, Mapping[str, Any]], spanned: bool, scored: str) -> Part:
    columns = ["precision", "recall", "f1"] if spanned else []
    columns += ["accuracy", "sentences"]
    rows = [[name, *(percent(row[column]) for column in columns)] for name, row in table.items()]
    words = f"In percent, on {scored}. The baselines learnt from the same training data. "
    words += (
        "A span counts where its first word, last word and kind are all right, as conlleval counts."
        if spanned
        else "Accuracy is the share of the words that have the right tag."
    )
    return Part("scores", "Scores", [words], tables=[Table(["", *columns], rows, marked=NAME)])


def _kinds(by_kind: Mapping[str, Mapping[str, float]], spanned: bool) -> Part | None:
    if not by_kind:
        return None
    names = sorted(by_kind, key=lambda name: (-by_kind[name]["support"], name))
    rows = [
        [name or "span", *(percent(by_kind[name][key]) for key in ("precision", "recall", "f1")),
         f"{int(by_kind[name]['support']):,}"]
        for name in names
    ]  # fmt: skip
    shown = names[:DRAWN][::-1]
    drawn = figure(
        [
            go.Bar(
                x=rounded(100 * np.array([by_kind[name]["f1"] for name in shown])),
                y=apart([name or "span" for name in shown]),
                orientation="h",
                marker={"color": light("model")},
                hovertemplate="%{y}: %{x:.2f}<extra></extra>",
            )
        ],
        xaxis={"title": {"text": "F1"}, "range": [0, 100], "showgrid": True},
        yaxis={"type": "category", "showgrid": False, "dtick": 1},
        bargap=0.35,
    )
    noun = "kind" if spanned else "tag"
    size = "small" if len(shown) < 6 else "tall" if len(shown) > 14 else ""
    return Part(
        "kinds",
        f"Scores by {noun}",
        [f"The most frequent {noun} comes first; the last column is how often each stands in the data."],
        plots=[Plot("kinds", drawn, f"F1 of each {noun}; the table below has the numbers.", size=size)],
        tables=[Table([noun, "precision", "recall", "F1", "support"], rows)],
        short=f"By {noun}",
    )


def _confusion(data: Tagged, found: Tags, spanned: bool) -> Part:
    names, counts = confusion(data.tags or (), found.tags)
    rows = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(rows, 1)
    drawn = _heat([name or "span" for name in names], shares, counts, "found", "meant")
    noun = "kind" if spanned else "tag"
    return Part(
        "confusion",
        "What is taken for what",
        [
            f"Of the words that are meant to be of the {noun} of a row, the share that was found to be of "
            "that of a column."
        ],
        plots=[Plot("confusion", drawn, f"Confusion of {len(names)} {noun}s, word by word.", size="tall")],
        short="Confusion",
    )


def _heat(
    names: Sequence[str], shares: NDArray[np.float64], counts: NDArray[np.int64], across: str, down: str
) -> Figure:
    """A square of shares, 0 to 1, row by row from the top."""
    shown = apart(names)
    trace = go.Heatmap(
        z=[rounded(row) for row in shares],
        x=shown,
        y=shown,
        text=counts.tolist(),
        colorscale=_SHADES,
        zmin=0,
        zmax=1,
        xgap=1,
        ygap=1,
        showscale=False,
        hovertemplate=f"{down} %{{y}}, {across} %{{x}}: %{{text:,}} words, %{{z:.1%}}<extra></extra>",
        texttemplate="%{text:,}" if len(names) <= 12 else "",
    )
    return figure(
        [trace],
        xaxis={"title": {"text": across}, "type": "category", "side": "top", "dtick": 1, "showgrid": False},
        yaxis={"title": {"text": down}, "type": "category", "autorange": "reversed", "dtick": 1,
               "showgrid": False},
    )  # fmt: skip


def _mistakes(data: Tagged, found: Tags, spanned: bool) -> Part:
    """The sentences in which the tagger is surest of something wrong."""
    surest = []
    for place, (gold, guess) in enumerate(zip(data.tags or (), found.tags, strict=True)):
        if spanned:
            wrong = {
                n for span in set(spans_of(gold)) ^ set(spans_of(guess)) for n in range(span.start, span.stop)
            }
        else:
            wrong = {n for n, (one, other) in enumerate(zip(gold, guess, strict=True)) if one != other}
        if wrong:
            surest.append((-max(float(found.probabilities[place][n]) for n in wrong), place, wrong))
    surest.sort()
    texts = []
    for chance, place, wrong in surest[:MISTAKES]:
        # of a long sentence what stands round its first mistake
        start = max(0, min(wrong) - LONGEST // 3) if len(data.words[place]) > LONGEST else 0
        part = slice(start, start + LONGEST)
        words, gold, guess = data.words[place][part], (data.tags or ())[place][part], found.tags[place][part]
        wrong = {n - start for n in wrong if n - start < LONGEST}
        show = _in_spans if spanned else _in_tags
        pieces = show(words, gold, guess, wrong, _between(words))
        line = int(data.lines[place][0])
        texts.append(Marked(pieces, f"Line {line}, {-chance:.0%} sure"))
    told = [
        f"{len(surest):,} of {len(data):,} sentences have a mistake. Those in which the tagger was surest of "
        "it come first; after each marked piece stands what it was meant to be, and what was found."
        + (" Spans without a mistake are marked too, in another colour." if spanned else "")
    ]
    return Part("mistakes", "Mistakes in their context", told, texts=texts, short="Mistakes")


def _in_tags(
    words: Sequence[str], gold: Sequence[str], guess: Sequence[str], wrong: set[int], between: str
) -> list[tuple[str, float]]:
    pieces: list[tuple[str, float]] = []
    for n, word in enumerate(words):
        short = label_word(word)
        pieces.append((f"{short} [{gold[n]} → {guess[n]}]" if n in wrong else short, -0.9 * (n in wrong)))
        pieces.append((between, 0.0))
    return pieces


def _in_spans(
    words: Sequence[str], gold: Sequence[str], guess: Sequence[str], wrong: set[int], between: str
) -> list[tuple[str, float]]:
    """Words, those of wrong spans marked piece by piece, and those of right ones marked in another colour."""
    meant, said = spans_of(gold), spans_of(guess)
    right = {n for span in set(meant) & set(said) for n in range(span.start, span.stop)}
    pieces: list[tuple[str, float]] = []
    start = 0
    while start < len(words):
        stop = start + 1
        if start in wrong:
            while stop < len(words) and stop in wrong:
                stop += 1
        text = between.join(map(label_word, words[start:stop]))
        if start in wrong:
            told = (_told(found, start, stop, words, between) for found in (meant, said))
            text += f" [{' → '.join(told)}]"
        pieces += [(text, -0.9 if start in wrong else 0.45 if start in right else 0.0), (between, 0.0)]
        start = stop
    return pieces


def _told(found: Sequence[Span], start: int, stop: int, words: Sequence[str], between: str) -> str:
    """The spans within a piece: their kinds, and their words where they are not all of it."""
    told = []
    for span in found:
        if span.start < stop and span.stop > start:
            said = between.join(map(label_word, words[span.start : span.stop]))
            told.append(
                (span.kind or "span") + (f" {said}" if (span.start, span.stop) != (start, stop) else "")
            )
    return ", ".join(told) or "nothing"


def _between(words: Sequence[str]) -> str:
    """What stands between words: nothing where they are single characters of a script without blanks."""
    alone = sum(len(word) == 1 and not word.isascii() for word in words)
    return "" if 2 * alone > len(words) else " "


def label_word(word: str) -> str:
    """A word for the page: short, and without control characters."""
    plain = "".join(c if c.isprintable() else "�" for c in word[:60])
    return plain + ("…" if len(word) > 60 else "")


def apart(names: Sequence[str], longest: int = 22) -> list[str]:
    """Names for an axis: the middle of a long one is left out, those that then look alike are numbered."""
    found: list[str] = []
    for name in names:
        half = longest // 2
        cut = name if len(name) <= longest else f"{name[:half]}…{name[half - longest + 1 :]}"
        again = sum(one.startswith(label(cut)) for one in found)
        found.append(label(f"{cut} ({again + 1})" if label(cut) in found else cut))
    return found


def _transitions(tagger: Tagger) -> Part:
    assert tagger.network is not None
    crf = tagger.network.crf
    weights = crf.transitions.detach().cpu().clone()
    if crf.allowed_transitions is not None:
        weights[~crf.allowed_transitions.cpu()] = torch.nan
    # of many tags those that say most of their neighbours
    said = torch.nan_to_num(weights).abs()
    kept = (-(said.sum(0) + said.sum(1))).argsort(stable=True)[:DRAWN].tolist()
    kept.sort(key=lambda n: (tagger.labels[n][2:], tagger.labels[n]))
    names = apart([tagger.labels[n] for n in kept])
    values = weights[kept][:, kept].numpy().astype(np.float64)
    most = float(np.nanmax(np.abs(values), initial=0.1))
    trace = go.Heatmap(
        z=[rounded(row) for row in values],
        x=names,
        y=names,
        zmin=-most,
        zmax=most,
        xgap=1,
        ygap=1,
        colorscale=[[0, light("second")], [0.5, light("paper")], [1, light("model")]],
        colorbar={"thickness": 12, "title": {"text": "score"}},
        hovertemplate="%{x} after %{y}: %{z:.2f}<extra></extra>",
        hoverongaps=False,
    )
    drawn = figure(
        [trace],
        plot_bgcolor=light("grid"),
        xaxis={"title": {"text": "tag"}, "type": "category", "side": "top", "dtick": 1, "showgrid": False},
        yaxis={"title": {"text": "after"}, "type": "category", "autorange": "reversed", "dtick": 1,
               "showgrid": False},
    )  # fmt: skip
    words = ["What the CRF adds to a sentence's score where the tag of a column follows that of a row."]
    if tagger.scheme:
        words.append("Spans are BIOES inside. What is grey the scheme forbids.")
    if len(kept) < len(tagger.labels):
        words.append(
            f"{len(kept)} of {len(tagger.labels)} tags are drawn, those that say most of their neighbours."
        )
    return Part(
        "transitions",
        "Transitions",
        [" ".join(words)],
        plots=[Plot("transitions", drawn, "Scores of the transitions between tags.", size="tall")],
    )


def _training(history: Mapping[str, Sequence[Mapping[str, Any]]], spanned: bool) -> Part | None:
    rows = history.get("train", ())
    if not rows:
        return None
    name = "F1" if spanned else "accuracy"
    curves = [("train_loss", "loss", "Loss of the training sentences", "model", 1.0)]
    curves.append(
        ("valid_loss", f"100 − {name}", f"100 less the {name} of the sentences held back", "second", 100.0)
    )
    plots = []
    for key, axis, heading, role, scale in curves:
        have = [(row["epoch"], scale * row[key]) for row in rows if row.get(key) is not None]
        if not have:
            continue
        line = go.Scatter(
            x=[epoch for epoch, _ in have],
            y=rounded(np.array([value for _, value in have])),
            mode="lines+markers",
            line={"color": light(role), "width": 2},
            hovertemplate="epoch %{x}: %{y:.4~r}<extra></extra>",
        )
        drawn = figure([line], xaxis={"title": {"text": "epoch"}}, yaxis={"title": {"text": axis}})
        plots.append(
            Plot(f"curve-{key}", drawn, f"{heading} after each epoch.", heading=heading, size="small")
        )
    return Part("training", "Training", plots=plots)
