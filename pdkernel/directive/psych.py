"""
YAML as the platform writes it: the style of Ruby's Psych over libyaml, byte for byte.

Knows which strings Psych quotes and where libyaml folds, so that a definition that is read and
written again is the same file. Knows nothing of what the values mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.directive.psych_scalar import Style, style_of, write_scalar
from pdkernel.model import JSON

_INDENT = 2
_MAX_SIMPLE_KEY = 128


def dump(value: Mapping[str, JSON]) -> str:
    """*value* as a document without its `---`, ending in one line break."""
    if not value:
        return "{}\n"
    lines: list[str] = []
    _mapping(value, 0, lines, lead="")
    return "\n".join(lines) + "\n"


def _mapping(value: Mapping[str, JSON], indent: int, lines: list[str], *, lead: str) -> None:
    """Append *value*; *lead* (`- `) stands before its first key instead of the indentation."""
    for key, item in value.items():
        start = lead or " " * indent
        lead = ""
        head = _key(key, indent, start)
        _item(item, indent, lines, head=head, in_mapping=True)


def _key(key: str, indent: int, start: str) -> str:
    text = write_scalar(key, column=len(start), indent=indent + _INDENT, key=True)
    if len(key) > _MAX_SIMPLE_KEY or style_of(key) is Style.LITERAL:
        return f"{start}? {text}\n{' ' * indent}:"
    return f"{start}{text}:"


def _item(item: JSON, indent: int, lines: list[str], *, head: str, in_mapping: bool) -> None:
    if isinstance(item, Mapping) and item:
        if in_mapping:
            lines.append(head)
            _mapping(item, indent + _INDENT, lines, lead="")
        else:
            _mapping(item, indent + _INDENT, lines, lead=f"{head} ")
    elif isinstance(item, list) and item:
        if in_mapping:
            lines.append(head)
            _sequence(item, indent, lines, lead="")
        else:
            _sequence(item, indent + _INDENT, lines, lead=f"{head} ")
    else:
        column = len(head.rpartition("\n")[2]) + 1
        lines.append(f"{head} {_leaf(item, column=column, indent=indent + _INDENT)}")


def _sequence(items: list[JSON], indent: int, lines: list[str], *, lead: str) -> None:
    for item in items:
        start = lead or " " * indent
        lead = ""
        _item(item, indent, lines, head=f"{start}-", in_mapping=False)


def _leaf(value: JSON, *, column: int, indent: int) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return _float(value)
        case str():
            return write_scalar(value, column=column, indent=indent)
        case list():
            return "[]"
        case _:
            return "{}"


def _float(value: float) -> str:
    mantissa, exponent, power = repr(value).partition("e")
    return f"{mantissa}.0e{power}" if exponent and "." not in mantissa else repr(value)
