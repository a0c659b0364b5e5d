"""Which tags may follow which: the schemes of spans, as a `recurra.nn.CRF` takes them. Axes: K tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Allowed(NamedTuple):
    """Which paths a `CRF` may take: True is allowed. A row begins with one of start, ends with one of end."""

    transitions: Tensor  # (K, K) bool, from the tag of the row to the tag of the column
    start: Tensor  # (K,) bool
    end: Tensor  # (K,) bool


def bio_constraints(labels: Sequence[str]) -> Allowed:
    """What the BIO scheme (IOB2) allows: I-X only after B-X or I-X, and everything else.

    labels: K names, "O", "B-X" and "I-X" for any type X, or "B" and "I" where there is only one.
    Source: Ramshaw and Marcus, "Text Chunking using Transformation-Based Learning", 1995; IOB2 in Tjong Kim
    Sang and Veenstra, "Representing Text Chunks", 1999. Raises ValueError for any other label, for one that
    is there twice, and for none.

    For example::

        crf = CRF(3, allowed=bio_constraints(["O", "B-PER", "I-PER"]))      # "O I-PER" is never decoded
    """
    return _scheme(labels, "BIO (IOB2)", "BI")


def bioes_constraints(labels: Sequence[str]) -> Allowed:
    """What the BIOES scheme allows: B-X, any number of I-X, E-X; or S-X alone; or O.

    labels: K names, "O", "B-X", "I-X", "E-X" and "S-X" for any type X, or the letters alone where there is
    only one. Source: Lample et al., 2016, there called IOBES. Raises ValueError as `bio_constraints` does.

    For example::

        crf = CRF(5, allowed=bioes_constraints(["O", "B-PER", "I-PER", "E-PER", "S-PER"]))
    """
    return _scheme(labels, "BIOES", "BIES")


def _scheme(labels: Sequence[str], scheme: str, letters: str) -> Allowed:
    """What a scheme allows whose labels begin with these letters, or are "O"."""
    known = ", ".join(f"{letter}-…" for letter in letters)
    if isinstance(labels, str) or len(labels) == 0:
        raise ValueError(f"labels: expected a list of O, {known}, got {labels!r}; name each tag in order")
    parts: list[tuple[str, str]] = []
    for index, label in enumerate(labels):
        letter, dash, kind = str(label).partition("-")
        if letter not in (*letters, "O") or bool(dash) != bool(kind) or (letter == "O" and dash):
            raise ValueError(
                f"labels: expected O, {known} of the {scheme} scheme, got {label!r} at index {index}; "
                "rename the label, or give CRF masks of your own as allowed"
            )
        if (letter, kind) in parts:
            raise ValueError(f"labels: expected each once, got {label!r} again at index {index}; drop one")
        parts.append((letter, kind))

    begins, ends = "OBS", "OES" if "E" in letters else "OBI"

    def follows(one: tuple[str, str], other: tuple[str, str]) -> bool:
        goes_on = one[0] in "BI" and other[0] in "IE" and one[1] == other[1]
        return goes_on or (one[0] in ends and other[0] in begins)

    return Allowed(
        transitions=torch.tensor([[follows(one, other) for other in parts] for one in parts]),
        start=torch.tensor([letter in begins for letter, _ in parts]),
        end=torch.tensor([letter in ends for letter, _ in parts]),
    )
