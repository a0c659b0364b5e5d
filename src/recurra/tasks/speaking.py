"""From tokens that come one at a time to text as it is written, with blanks where they belong."""

from __future__ import annotations

import re

from recurra.data.corpus import END
from recurra.data.tokens import Tokenizer

_CLOSING = re.compile(r"[,.;:!?…)\]}’”%»。，、；：！？）」』》]|n't$|'(?:s|re|ve|ll|d|m)$")
_OPENING = re.compile(r"[(\[{“‘«$£€（「『《]$")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_LONGEST = 4  # bytes of a character in UTF-8


class Speaker:
    """Says token after token of one text.

    Characters and pairs of bytes give back the text as it was. Words get a blank between them, but not before
    closing marks, after opening ones, and between characters of scripts that have none. `END` is a line
    break.

    For example::

        speaker = Speaker(Tokenizer.fit(["to be, or"]))
        "".join(speaker.say(number) for number in speaker.tokenizer.encode(["to be, or"])[0])
    """

    def __init__(self, tokenizer: Tokenizer, before: str = "") -> None:
        """before: the text that has been said already."""
        self.tokenizer, self.last = tokenizer, before[-1:]
        self.pending: list[int] = []

    def say(self, number: int) -> str:
        """What this token adds; "" while a character is not complete."""
        token = self.tokenizer.tokens[number]
        if token == END:
            piece = self.rest() + "\n"
        elif self.tokenizer.kind == "bpe":
            piece = self._decoded(number)
        elif self.tokenizer.kind == "character":
            piece = token
        else:
            piece = token if self._joined(token) else f" {token}"
        self.last = piece[-1:] or self.last
        return piece

    def rest(self) -> str:
        """What is left at the end: an incomplete character."""
        whole = self.tokenizer.decode(self.pending) if self.pending else ""
        self.pending = []
        return whole

    def _decoded(self, number: int) -> str:
        self.pending.append(number)
        whole = self.tokenizer.decode(self.pending)
        if whole.endswith("\ufffd") and len(self.pending) < _LONGEST:
            return ""
        self.pending = []
        return whole

    def _joined(self, token: str) -> bool:
        """Whether the token follows without a blank."""
        if not self.last or self.last.isspace() or self.tokenizer.kind == "blank":
            return not self.last or self.last.isspace()
        if _CLOSING.match(token) or _OPENING.search(self.last):
            return True
        return bool(_UNSPACED.match(token) and _UNSPACED.match(self.last))
