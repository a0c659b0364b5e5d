"""From the words on the command line to a verb; what is wrong with them becomes one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import typer

from recurra.errors import ArgumentError


def run(words: Sequence[str]) -> None:
    """Run the verb that ``words`` ask for.

    Raises ArgumentError for words that make no command, and whatever the verb raises. Typer's own entry point
    is not used: it turns Ctrl-C and a broken pipe into exit codes, and explains errors in several lines.
    """
    from recurra.cli import classify_app, generate_app, tag_app  # noqa: F401 - they add their verbs
    from recurra.cli.app import app

    command = typer.main.get_command(app)
    try:
        with command.make_context("recurra", list(words)) as context:
            command.invoke(context)
    except typer.Exit:
        return
    except Exception as error:
        # Typer brings a Click of its own, older ones use the installed one; both have this method.
        if not hasattr(error, "format_message"):
            raise
        raise ArgumentError(explain(error)) from error


def explain(error: Any) -> str:
    """One sentence for a usage error of Click's: the argument, what was expected, what to do."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "recurra"
    parameter = getattr(error, "param", None)
    kind = type(error).__name__
    if kind == "MissingParameter" and parameter is not None:
        meaning = (getattr(parameter, "help", None) or "").rstrip(".")
        what = f" ({meaning[0].lower()}{meaning[1:]})" if meaning else ""
        return f"{_called(parameter)} is missing{what}: add it; {path} --help shows how"
    if kind == "NoSuchOption":
        near = sorted(getattr(error, "possibilities", None) or ())
        hint = f"did you mean {' or '.join(near)}?" if near else f"{path} --help lists them all"
        return f"there is no option {error.option_name}: {hint}"
    if parameter is not None:
        return f"{_called(parameter)}: {error.message}"
    message = error.format_message().rstrip(".")
    verbs = sorted(getattr(context.command, "commands", {})) if context is not None else []
    if verbs:
        words = message.split("'")
        near = difflib.get_close_matches(words[1], verbs, 1) if len(words) > 2 else []
        what = "task" if path.endswith("train") else "verb"
        got = f"there is no {what} {words[1]!r}" if len(words) > 2 else f"{path} needs a {what}"
        return f"{got}: choose {' or '.join(near or verbs)}; {path} --help explains"
    return f"{message[0].lower()}{message[1:]}: {path} --help shows how to call it"


def whole_number(text: str | int) -> int:
    """The parser of options that count something."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(
            f"expected a whole number, got {text!r}: write it in digits, such as 12"
        ) from None


def number(text: str | float) -> float:
    """The parser of options that measure something."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"expected a number, got {text!r}: write it as 0.5, say") from None


def _called(parameter: Any) -> str:
    """--horizon for an option, DATA for an argument."""
    options = [name for name in parameter.opts if name.startswith("--")]
    return options[0] if options else str(parameter.name).upper()
