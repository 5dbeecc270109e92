"""
Writes YAML as the platform does: in the style of Ruby's Psych over libyaml, byte for byte.

A definition that is read and written again is the same file.
"""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.language.directive.psych_scalar import ScalarStyle, choose_style, format_flow_scalar, format_scalar
from pdkernel.model import JSON

_INDENT = 2
_MAX_SIMPLE_KEY = 128


def dump_yaml(value: Mapping[str, JSON]) -> str:
    """*value* as a document without its `---`, ending in one line break."""
    if not value:
        return "{}\n"
    lines: list[str] = []
    _mapping(value, 0, lines, lead="")
    return "\n".join(lines) + "\n"


def dump_yaml_entry(
    value: JSON, *, indent: int, key: str | None = None, line_start: str | None = None, can_be_block: bool = True
) -> str:
    """
    One entry of a mapping or a sequence, for insertion into a document; without a final line break.

    Args:
        value: The key's value, or the item.
        indent: The indentation of the key or the dash.
        key: The key, or None for an item of a sequence.
        line_start: The existing start of the line, including the colon or the dash, or None.
        can_be_block: Whether a text may be a block of lines.
    """
    lines: list[str] = []
    start = " " * indent
    if line_start is None:
        line_start = f"{start}-" if key is None else _key(key, indent, start)
    _item(value, indent, lines, head=line_start, in_mapping=key is not None, block=can_be_block)
    return "\n".join(lines)


def dump_flow_yaml(value: JSON) -> str:
    """*value* on one line, with brackets and braces."""
    match value:
        case str():
            return format_flow_scalar(value)
        case list():
            return f"[{', '.join(map(dump_flow_yaml, value))}]"
        case dict():
            return (
                f"{{{', '.join(f'{format_flow_scalar(key)}: {dump_flow_yaml(item)}' for key, item in value.items())}}}"
            )
        case None:
            return "null"
        case _:
            return _leaf(value, column=0, indent=0, block=False)


def _mapping(value: Mapping[str, JSON], indent: int, lines: list[str], *, lead: str, block: bool = True) -> None:
    """Append *value*; *lead* (`- `) replaces the indentation of its first key."""
    for key, item in value.items():
        start = lead or " " * indent
        lead = ""
        head = _key(key, indent, start)
        _item(item, indent, lines, head=head, in_mapping=True, block=block)


def _key(key: str, indent: int, start: str) -> str:
    text = format_scalar(key, column=len(start), indent=indent + _INDENT, key=True)
    if len(key) > _MAX_SIMPLE_KEY or choose_style(key) is ScalarStyle.LITERAL:
        return f"{start}? {text}\n{' ' * indent}:"
    return f"{start}{text}:"


def _item(item: JSON, indent: int, lines: list[str], *, head: str, in_mapping: bool, block: bool) -> None:
    if isinstance(item, Mapping) and item:
        if in_mapping:
            lines.append(head)
            _mapping(item, indent + _INDENT, lines, lead="", block=block)
        else:
            _mapping(item, indent + _INDENT, lines, lead=f"{head} ", block=block)
    elif isinstance(item, list) and item:
        if in_mapping:
            lines.append(head)
            _sequence(item, indent, lines, lead="", block=block)
        else:
            _sequence(item, indent + _INDENT, lines, lead=f"{head} ", block=block)
    else:
        column = len(head.rpartition("\n")[2]) + 1
        lines.append(f"{head} {_leaf(item, column=column, indent=indent + _INDENT, block=block)}")


def _sequence(items: list[JSON], indent: int, lines: list[str], *, lead: str, block: bool) -> None:
    for item in items:
        start = lead or " " * indent
        lead = ""
        _item(item, indent, lines, head=f"{start}-", in_mapping=False, block=block)


def _leaf(value: JSON, *, column: int, indent: int, block: bool) -> str:
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
            return format_scalar(value, column=column, indent=indent, can_be_block=block)
        case list():
            return "[]"
        case _:
            return "{}"


def _float(value: float) -> str:
    mantissa, exponent, power = repr(value).partition("e")
    return f"{mantissa}.0e{power}" if exponent and "." not in mantissa else repr(value)
