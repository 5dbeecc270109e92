"""Input and output of commands: questions on a terminal, colors, JSON, and files that options name."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.model import JSON


def is_interactive(stream: TextIO) -> bool:
    """Return whether a person uses *stream* interactively; false in a notebook cell, which has a terminal too."""
    return stream.isatty() and "JPY_PARENT_PID" not in os.environ


def confirm(act: str, *, yes: bool) -> None:
    """
    Ask on a terminal whether to perform *act*, such as "Remove the store cache"; *yes* is the answer of `--yes`.

    Raises:
        RequestError: Standard input is not a terminal, and *yes* is false.
        click.Abort: The person declines.
    """
    if yes:
        return
    if not is_interactive(sys.stdin):
        raise RequestError(
            f"{act}: not confirmed, because standard input is not a terminal.", fix="To confirm, add --yes."
        )
    click.confirm(escape_text(f"{act}?"), abort=True, err=True)


def print_text(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text and, with *nl*, a line break; control characters of names and messages are escaped."""
    click.echo(escape_text(text), err=err, nl=nl)


def escape_text(text: str) -> str:
    """Escape the control characters of *text*, which a terminal would obey."""
    from pdkernel.render.markup import escape_control_characters

    return escape_control_characters(text)


def print_json(value: Any) -> None:
    """Print one JSON value to stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()


def read_hidden(prompt: str) -> str:
    """Read a value that is not shown: from a prompt, or from standard input without the line breaks at its end."""
    return str(click.prompt(prompt, hide_input=True)) if sys.stdin.isatty() else sys.stdin.read().rstrip("\r\n")


def read_input(name: str) -> bytes:
    """Read the file *name*, or standard input for `-`. Raises `EventError` if the file cannot be read."""
    from pdkernel.errors import EventError

    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as fault:
        raise EventError(
            f"Cannot read {name}: {fault.strerror}.", fix="Name a readable file, or - for standard input."
        ) from None


def read_body(text: str) -> JSON:
    """
    Return the JSON value of `--body`: a file, `-` for standard input, or the JSON itself.

    Raises:
        EventError: The file does not exist, or its text is not JSON.
    """
    from pdkernel.common.safe_files import is_file
    from pdkernel.errors import EventError
    from pdkernel.event import parse_json

    if text == "-" or is_file(Path(text)):
        return parse_json(read_input(text), label="standard input" if text == "-" else text)
    try:
        return parse_json(text, label="--body")
    except EventError:
        if re.fullmatch(r"[^\s{}\[\]\"']+", text):
            raise EventError(
                f"--body {text} is neither a file nor JSON: there is no such file.",
                fix='Name an existing file, - for standard input, or write JSON, such as \'{"name": "Ada"}\'.',
            ) from None
        raise


def color_statuses(text: str) -> str:
    """Color the statuses at the start of the lines of a timeline, and in its title."""
    from pdkernel.render.formatting import EXECUTION_LABELS, STEP_LABELS

    colors = {"good": "green", "bad": "red", "warn": "yellow", "busy": "blue", "quiet": "bright_black"}
    tones = {str(label): label.tone for label in (*STEP_LABELS.values(), *EXECUTION_LABELS.values())}
    labels = "|".join(map(re.escape, tones))

    def paint(found: re.Match[str]) -> str:
        return found[1] + click.style(found[2], fg=colors[tones[found[2]]])

    title, newline, rows = text.partition("\n")
    return re.sub(rf"(: )({labels})(?=$|,)", paint, title) + newline + re.sub(rf"(?m)^(  )({labels})\b", paint, rows)
