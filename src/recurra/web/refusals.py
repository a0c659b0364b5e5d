"""What the page is refused, in its language. The sentences stand with its other words, in static/strings."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from recurra.errors import ArgumentError

LANGUAGES = ("en", "zh")


class Refusal(ArgumentError):
    """A request that cannot be answered: the sentence ``refused.key``, filled in from ``values``.

    As an exception it reads in English; `sentence` gives it in another language.
    """

    def __init__(self, key: str, **values: Any) -> None:
        self.key, self.values = key, values
        super().__init__(words("en")[f"refused.{key}"].format(**values))


@cache
def words(language: str) -> dict[str, str]:
    """The page's words in one of LANGUAGES, by key."""
    text = files("recurra.web").joinpath("static", "strings", f"{language}.json").read_text("utf-8")
    found: dict[str, str] = json.loads(text)
    return found


def sentence(error: Exception, language: str) -> str:
    """What to tell of an error in one of LANGUAGES. One of the lens's own stays English, and says so."""
    table = words(language)
    if isinstance(error, Refusal):
        return table[f"refused.{error.key}"].format(**error.values)
    return table["refused.other"].format(error=error)


def language_of(accepted: str) -> str:
    """The first of LANGUAGES in an Accept-Language header; English where there is none."""
    tags = (tag.split(";")[0].strip().lower().split("-")[0] for tag in accepted.split(","))
    return next((tag for tag in tags if tag in LANGUAGES), "en")
