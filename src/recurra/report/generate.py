"""The report of a language model: its score beside n-grams, how it learnt, writes, and is surprised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from recurra.report.page import Marked, Part, Plot, Table, render_page
from recurra.report.style import amount, figure, label, light
from recurra.tasks.generate_scores import verdict as verdict_of

_PASSAGE = 700  # characters of the passage that is marked


def render(
    *,
    title: str,
    kind: str,
    scores: Mapping[str, float],
    rivals: Mapping[str, float],
    state: tuple[str, str],
    history: Sequence[Mapping[str, Any]],
    samples: Mapping[float, str],
    passage: Sequence[tuple[str, float]],
    frequencies: Sequence[Mapping[str, Any]],
    places: Sequence[tuple[int, float]],
    place_of: str,
    settings: Mapping[str, str],
    notes: Sequence[str],
    command: str,
    model: str,
) -> str:
    """The whole page as HTML text: it loads nothing from anywhere.

    kind: of tokens. scores: `Foreseen.scores` of the text held back; rivals: nats per token of each n-gram.
    history: a row for each epoch. samples: temperature → text. passage: tokens of the text held back and
    their nats. frequencies, places: `by_frequency`, `by_position`; place_of: "line" or "text". model: the
    file's name, for the commands.
    """
    parts = [
        _comparison(kind, scores, rivals),
        _learning(kind, history),
        _samples(samples),
        _surprise(kind, passage),
        _where(kind, frequencies, places, place_of),
    ]
    return render_page(
        task="language model",
        title=title,
        verdict=verdict_of(scores, rivals, kind),
        state=state,
        facts=_facts(kind, scores),
        cards=_cards(kind, scores, rivals, history),
        parts=[part for part in parts if part is not None],
        notes=notes,
        settings=settings,
        command=command,
        uses=_uses(model),
    )


def _facts(kind: str, scores: Mapping[str, float]) -> list[str]:
    held = f"judged on {int(scores['tokens']):,} tokens held back"
    return [f"tokens: {kind}", held, f"{int(scores['unknown']):,} of them unknown"]


def _cards(
    kind: str, scores: Mapping[str, float], rivals: Mapping[str, float], history: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    if kind == "character":
        cards = [
            ("Nats a character", f"{scores['nats_per_character']:.3f}", "lower is better"),
            ("Bits a character", f"{scores['bits_per_character']:.3f}", "lower is better"),
        ]
    else:
        cards = [
            ("Perplexity", amount(scores["perplexity"]), "of a token; lower is better"),
            ("Bits a character", f"{scores['bits_per_character']:.3f}", "whatever the tokens are"),
        ]
    if rivals:
        name = min(rivals, key=rivals.__getitem__)
        cards.append(("Best n-gram", _measured(rivals[name], kind), name))
    seconds = sum(float(row["seconds"]) for row in history)
    cards.append(("Training", _duration(seconds), f"{len(history)} epochs"))
    return cards


def _comparison(kind: str, scores: Mapping[str, float], rivals: Mapping[str, float]) -> Part:
    rows = [("LSTM", float(scores["nats_per_token"])), *rivals.items()]
    cells = [
        (name, f"{nats:.4f}", f"{nats / np.log(2):.4f}", amount(float(np.exp(min(nats, 700.0)))))
        for name, nats in sorted(rows, key=lambda row: row[1])
    ]
    words = (
        "All on the same text, which none of them has learnt from, read from its first token to its last. "
        "N-grams are counted on the text that the LSTM learnt from, with interpolated Kneser-Ney smoothing; "
        "the longest is the one that suits this text best."
    )
    unit = "character" if kind == "character" else "token"
    table = Table(("", f"nats a {unit}", f"bits a {unit}", "perplexity"), cells, marked="LSTM")
    return Part(
        "scores", "The model beside n-grams", [words] if rivals else [], tables=[table], short="Score"
    )


def _learning(kind: str, history: Sequence[Mapping[str, Any]]) -> Part | None:
    rows = [row for row in history if row.get("valid_loss") is not None]
    if not rows:
        return None
    spent = np.cumsum([float(row["seconds"]) for row in history])
    unit, scale = ("minutes", 60.0) if spent[-1] >= 180 else ("seconds", 1.0)
    traces = []
    for name, key, role, dash in (
        ("held back", "valid_loss", "model", "solid"),
        ("training, with dropout", "train_loss", "first", "dot"),
    ):
        values = [row.get(key) for row in history]
        traces.append(
            go.Scatter(
                x=[float(f"{s / scale:.4g}") for s in spent],
                y=values,
                customdata=[int(row["epoch"]) for row in history],
                name=name,
                mode="lines+markers" if len(rows) < 40 else "lines",
                line={"color": light(role), "dash": dash, "width": 2.5 if role == "model" else 1.75},
                hovertemplate="epoch %{customdata}: %{y:.4f}<extra></extra>",
            )
        )
    drawn = figure(traces, xaxis={"title": {"text": unit}}, yaxis={"title": {"text": "nats a token"}})
    best = min(rows, key=lambda row: float(row["valid_loss"]))
    words = (
        f"The weights of epoch {best['epoch']} are kept, the best on the text held back "
        f"({_measured(float(best['valid_loss']), kind)})."
    )
    shown = rows if len(rows) <= 12 else [rows[i] for i in np.linspace(0, len(rows) - 1, 12).astype(int)]
    at = {int(row["epoch"]): float(s) for row, s in zip(history, spent, strict=True)}
    cells = [
        (
            str(row["epoch"]), _duration(at[int(row["epoch"])]),
            "–" if row["train_loss"] is None else f"{row['train_loss']:.4f}", f"{row['valid_loss']:.4f}",
            f"{row['learning_rate']:.2g}",
        )
        for row in shown
    ]  # fmt: skip
    return Part(
        "learning", "How it learnt", [words],
        plots=[Plot("learning", drawn, f"Loss against {unit}; {words}")],
        tables=[Table(("epoch", "time", "loss in training", "held back", "learning rate"), cells)],
        short="Learning",
    )  # fmt: skip


def _samples(samples: Mapping[float, str]) -> Part | None:
    if not samples:
        return None
    texts = [Marked([(text, 0.0)], f"Temperature {heat:g}") for heat, text in samples.items()]
    words = "Below 1 the likely becomes likelier: safer, and sooner dull. Each begins after nothing at all."
    return Part("samples", "What it writes", [words], texts=texts, short="Samples")


def _surprise(kind: str, passage: Sequence[tuple[str, float]]) -> Part | None:
    if not passage:
        return None
    darkest = max(float(np.quantile([nats for _, nats in passage], 0.95)), 1e-9)
    # squared, so that the few that surprise stand out from the many that do a little
    pieces = [(token, round(min(1.0, nats / darkest) ** 2, 2)) for token, nats in passage]
    unit = "character" if kind == "character" else "token"
    worst = sorted(passage, key=lambda pair: -pair[1])[:3]
    told = ", ".join(
        f"{token.strip() or 'a blank'!r} (1 in {np.exp(min(nats, 700.0)):,.0f})" for token, nats in worst
    )
    words = (
        f"The darker a {unit}, the less the model expected it there: no ground where it was sure, the "
        f"darkest where it gave it a chance of {_chance(darkest)} or less. The least expected here: {told}."
    )
    return Part("surprise", "Where it is surprised", [words], texts=[Marked(pieces)], short="Surprise")


def _where(
    kind: str, frequencies: Sequence[Mapping[str, Any]], places: Sequence[tuple[int, float]], place_of: str
) -> Part | None:
    if not frequencies:
        return None
    rows = [
        (row["name"], f"{100 * row['share']:.1f} %", f"{row['nats']:.3f}",
         amount(float(np.exp(min(row["nats"], 700.0)))))
        for row in frequencies
    ]  # fmt: skip
    table = Table(
        ("times in the training text", "share of the text held back", "nats", "perplexity"), rows,
        "By how often a token was seen in training",
    )  # fmt: skip
    plots = []
    if len(places) > 1:
        trace = go.Bar(
            x=[place for place, _ in places],
            y=[float(f"{nats:.5g}") for _, nats in places],
            marker={"color": light("model")},
            hovertemplate="token %{x}: %{y:.3f}<extra></extra>",
        )
        drawn = figure(
            [trace],
            xaxis={"title": {"text": label(f"place in the {place_of}")}},
            yaxis={"title": {"text": "nats"}},
        )
        first, last = places[0], places[-1]
        words = f"{first[1]:.2f} nats at place {first[0]} of a {place_of}, {last[1]:.2f} at place {last[0]}."
        plots.append(Plot("places", drawn, words, f"By the place in the {place_of}", words, "small"))
    return Part("where", "What is hard", tables=[table], plots=plots, short="What is hard")


def _uses(model: str) -> list[tuple[str, str]]:
    return [
        (
            "Let it write:",
            f'recurra generate {model} --prompt "…" --length 500 --temperature 0.8 --top-p 0.9 --seed 1',
        ),
        ("Score another text, or each of its lines:", f"recurra evaluate {model} other.txt\n"
         f"recurra predict {model} other.txt --out lines.csv"),
        (
            "In Python:",
            "from recurra import load\n"
            f'model = load("{model}")\n'
            'print(model.generate("…", length=500, temperature=0.8))\n'
            'model.score("…").scores()',
        ),
    ]  # fmt: skip


def passage(
    pieces: Sequence[str], nats: NDArray[np.float64], most: int = _PASSAGE
) -> list[tuple[str, float]]:
    """The first tokens of a text, as they are written, that make `most` characters, with their nats."""
    found, length = [], 0
    for piece, own in zip(pieces, nats, strict=False):
        length += len(piece)
        if length > most:
            break
        found.append((piece, float(own)))
    return found


def _chance(nats: float) -> str:
    return f"1 in {np.exp(min(nats, 700.0)):,.0f}"


def _measured(nats: float, kind: str) -> str:
    return f"{nats:.3f}" if kind == "character" else f"perplexity {amount(float(np.exp(min(nats, 700.0))))}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
