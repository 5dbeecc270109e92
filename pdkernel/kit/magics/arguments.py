"""The arguments of a magic's line: values without the quotes that blanks need."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from IPython.core.magic_arguments import parse_argstring


def parse_arguments(magic: Any, line: str) -> Namespace:
    """
    The arguments of *line*, as `magic_arguments` declares them for *magic*; IPython keeps the quotes around a value.

    Raises:
        UsageError: The line has other arguments.
    """
    chosen: Namespace = parse_argstring(magic, line)
    for name, value in vars(chosen).items():
        setattr(chosen, name, _remove_quotes(value))
    return chosen


def remove_quotes(text: str) -> str:
    """*text* without the quotes that the line of a magic needs around blanks."""
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] in ("'", '"') else text


def _remove_quotes(value: Any) -> Any:
    if isinstance(value, list):
        return [_remove_quotes(each) for each in value]
    return remove_quotes(value) if isinstance(value, str) else value
