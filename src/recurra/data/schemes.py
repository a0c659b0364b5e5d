"""Schemes that write spans of words as a tag for each: BIO (IOB2), IOB1, BIOES, and their other spellings.

| scheme  | a span of three      | of one | where the next span of the same kind follows at once |
|---------|----------------------|--------|-------------------------------------------------------|
| `IOB1`  | I-X I-X I-X          | I-X    | its first tag is B-X, which stands nowhere else        |
| `BIO`   | B-X I-X I-X          | B-X    | as always                                              |
| `BIOES` | B-X I-X E-X          | S-X    | as always                                              |
| `BILOU` | B-X I-X L-X          | U-X    | as always                                              |
| `BMES`  | B-X M-X E-X          | S-X    | as always                                              |

X is the kind of a span; where there is only one, letters may stand alone. Every other word has the tag O.
Sources: Ramshaw and Marcus, "Text Chunking using Transformation-Based Learning", 1995; Tjong Kim Sang and
Veenstra, "Representing Text Chunks", 1999; Ratinov and Roth, "Design Challenges and Misconceptions in Named
Entity Recognition", 2009. Axes: N sentences, T words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recurra.data.words import counted, short
from recurra.errors import DataError

SCHEMES = ("BIO", "IOB1", "BIOES", "BILOU", "BMES")
OUTSIDE = "O"
FORGIVEN = 0.02
"""Share of spans whose tags may break a scheme before it is taken for two schemes in one file."""

LETTERS = {  # scheme → the letters of a span's first, middle and last word, and of its only one
    "BIO": "BIIB",
    "IOB1": "IIII",
    "BIOES": "BIES",
    "BILOU": "BILU",
    "BMES": "BMES",
}
_KNOWN = "BIMELSU"
_OPENS, _CLOSES = "BSU", "ELSU"


Lines = Sequence[int] | NDArray[np.int64]


class Span(NamedTuple):
    """Words start to stop - 1 of a sentence, and what kind of thing they are."""

    start: int
    stop: int
    kind: str


class Recognised(NamedTuple):
    """scheme: one of `SCHEMES`, or "" for tags that are no spans. notes: what was put right, in sentences."""

    scheme: str
    notes: tuple[str, ...]


def parts(tag: str) -> tuple[str, str]:
    """Letter and kind: ("B", "PER") of B-PER, ("O", "") of O and of whatever is in no scheme."""
    if tag[1:2] == "-" and len(tag) > 2 and tag[0] in _KNOWN:
        return tag[0], tag[2:]
    return (tag, "") if len(tag) == 1 and tag in _KNOWN else (OUTSIDE, "")


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans that a sentence's tags say, in any scheme, read as conlleval reads them.

    A tag that goes on where nothing of its kind came before begins a span. Source: Tjong Kim Sang, conlleval,
    of the shared tasks CoNLL-2000 to 2003.
    """
    found: list[Span] = []
    start, before, kind = 0, "O", ""
    for place, tag in enumerate(tags):
        letter, now = parts(tag)
        inside = before != "O"
        if inside and (letter == "O" or letter in _OPENS or now != kind or before in _CLOSES):
            found.append(Span(start, place, kind))
            inside = False
        if letter != "O" and not inside:
            start = place
        before, kind = letter, now
    if before != "O":
        found.append(Span(start, len(tags), kind))
    return found


def written(found: Sequence[Span], length: int, scheme: str) -> list[str]:
    """The tags (T,) of a sentence of this length with these spans, which must not overlap, in a scheme."""
    first, middle, last, only = tuple(LETTERS[scheme])
    tags = [OUTSIDE] * length
    end, kind = -1, ""
    for span in found:
        dash = f"-{span.kind}" if span.kind else ""
        tags[span.start : span.stop] = [middle + dash] * (span.stop - span.start)
        tags[span.stop - 1] = last + dash
        tags[span.start] = (only if span.stop - span.start == 1 else first) + dash
        if scheme == "IOB1" and span.start == end and span.kind == kind:
            tags[span.start] = "B" + dash
        end, kind = span.stop, span.kind
    return tags


def converted(tags: Sequence[str], scheme: str) -> list[str]:
    """A sentence's tags (T,) in another scheme."""
    return written(spans(tags), len(tags), scheme)


def recognise(sentences: Sequence[Sequence[str]], lines: Sequence[Lines], name: str) -> Recognised:
    """The scheme of all tags of a file, or none where they are no spans, as parts of speech are not.

    sentences: the tags of each. lines: the line of each tag, for messages. A few tags that break the scheme
    are read as conlleval reads them, and noted. Raises DataError where tags of two schemes are mixed, with
    the lines that contradict each other.
    """
    labels = {tag for tags in sentences for tag in tags}
    known = {label: parts(label) for label in labels}
    typed = {label for label in labels if known[label][0] in _KNOWN and "-" in label}
    others = {label for label in labels if label not in typed and label != OUTSIDE}
    if not typed:
        return Recognised(_of_bare_letters(sentences, others), ())
    if others:
        if sum(tag in typed for tags in sentences for tag in tags) * 2 < sum(
            tag in others for tags in sentences for tag in tags
        ):
            return Recognised("", ())
        raise _mixed(sentences, lines, name, typed, others)
    letters = {known[label][0] for label in typed}
    scheme = _by_letters(letters)
    if scheme is None:
        new = {label for label in typed if known[label][0] in "LUM"}
        raise _mixed(sentences, lines, name, typed - new, new)
    if scheme != "BIO":
        return _checked(sentences, lines, name, scheme)
    return _bio_or_iob1(sentences, lines, name)


def _by_letters(letters: set[str]) -> str | None:
    if letters <= set("BI"):
        return "BIO"
    if letters <= set("BIES"):
        return "BIOES"
    if letters <= set("BILU"):
        return "BILOU"
    return "BMES" if letters <= set("BMES") else None


def _of_bare_letters(sentences: Sequence[Sequence[str]], labels: set[str]) -> str:
    """The scheme of letters without a kind, as word segmentation has them; "" where they are other tags."""
    if "B" not in labels or len(labels) < 2 or not labels <= set(_KNOWN):
        return ""
    scheme = _by_letters(labels)
    if scheme is None or any(_breaks(tags, scheme) for tags in sentences):
        return ""
    return scheme


def _breaks(tags: Sequence[str], scheme: str) -> list[int]:
    """The places of a sentence whose tags are not as `written` writes the spans that they say."""
    if list(tags) == (right := converted(tags, scheme)):
        return []
    return [place for place, tag in enumerate(tags) if tag != right[place]]


def _bio_or_iob1(sentences: Sequence[Sequence[str]], lines: Sequence[Lines], name: str) -> Recognised:
    broken = {scheme: _broken(sentences, scheme) for scheme in ("BIO", "IOB1")}
    scheme = min(broken, key=lambda one: len(broken[one]))
    places = broken[scheme]
    if len(places) <= FORGIVEN * sum(len(spans(tags)) for tags in sentences):
        return Recognised(scheme, _put_right(places, scheme, sentences, lines, name))
    (n, t), (m, u) = broken["BIO"][0], broken["IOB1"][0]
    raise DataError(
        f"{name!r} mixes the schemes BIO and IOB1: {short(sentences[n][t])} in line {lines[n][t]} begins a "
        f"span, which BIO forbids, and {short(sentences[m][u])} in line {lines[m][u]}, where IOB1 has I-; "
        "expected one scheme: convert the sentences of the other one"
    )


def _checked(
    sentences: Sequence[Sequence[str]], lines: Sequence[Lines], name: str, scheme: str
) -> Recognised:
    places = _broken(sentences, scheme)
    if len(places) > FORGIVEN * sum(len(spans(tags)) for tags in sentences):
        n, t = places[0]
        before = short(sentences[n][t - 1]) if t else "the start"
        raise DataError(
            f"{name!r} mixes the scheme {scheme} with another: {short(sentences[n][t])} after {before} in "
            f"line {lines[n][t]} is not {scheme}; expected one scheme: convert the sentences of the other one"
        )
    return Recognised(scheme, _put_right(places, scheme, sentences, lines, name))


def _broken(sentences: Sequence[Sequence[str]], scheme: str) -> list[tuple[int, int]]:
    return [(n, place) for n, tags in enumerate(sentences) for place in _breaks(tags, scheme)]


def _put_right(
    places: Sequence[tuple[int, int]],
    scheme: str,
    sentences: Sequence[Sequence[str]],
    lines: Sequence[Lines],
    name: str,
) -> tuple[str, ...]:
    if not places:
        return ()
    n, t = places[0]
    return (
        f"{counted(len(places), 'tag')} of {name} broke the scheme {scheme}, the first {sentences[n][t]} in "
        f"line {lines[n][t]}; read as conlleval reads them.",
    )


def _mixed(
    sentences: Sequence[Sequence[str]],
    lines: Sequence[Lines],
    name: str,
    some: set[str],
    others: set[str],
) -> DataError:
    """What to say of tags of two kinds in one file."""
    (one, line), (other, second) = (
        next(
            (tag, line)
            for tags, numbers in zip(sentences, lines, strict=True)
            for tag, line in zip(tags, numbers, strict=True)
            if tag in kind
        )
        for kind in (some, others)
    )
    return DataError(
        f"{name!r} mixes schemes: the tag {short(one)} in line {line} does not go with {short(other)} in "
        f"line {second}; expected one scheme such as BIO, IOB1 or BIOES, or tags without B- and I-: convert "
        "one of the two"
    )
