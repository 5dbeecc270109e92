"""
Writes YAML as the platform does: in the style of Ruby's Psych over libyaml, byte for byte.

A definition that is read and written again is the same file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from pdkernel.model import JSON

FOLD_COLUMN = 80


class ScalarStyle(Enum):
    """How a scalar is written."""

    PLAIN = 0
    SINGLE = 1
    DOUBLE = 2
    LITERAL = 3


_STARTS_SPECIAL = re.compile(r'^[^\w][^"]*$', re.MULTILINE)
_OCTAL_FLOAT = re.compile(r"0[0-7]*\.[0-9]")
_WORDS = re.compile(r"[^\d.:-]?(?:[\s!@#$%^&*(){}<>|/\\~;=]|[^\W\d])+")
_NON_STRING_PATTERNS = (
    re.compile(r"-?\d{4}-\d{1,2}-\d{1,2}(?:[Tt]|\s+)\d{1,2}:\d\d:\d\d(?:\.\d*)?(?:\s*(?:Z|[-+]\d{1,2}:?(?:\d\d)?))?\Z"),
    re.compile(r"\d{4}-(?:1[012]|0\d|\d)-(?:[12]\d|3[01]|0\d|\d)\Z"),
    re.compile(r"[-+]?\.inf\Z", re.IGNORECASE),
    re.compile(r"\.nan\Z", re.IGNORECASE),
    re.compile(r":."),
    re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9]){1,2}\Z"),
    re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*\Z"),
    re.compile(r"(?=.*\d)[-+]?(?:[0-9][0-9_,]*)?\.[0-9]*(?:[eE][+-][0-9]+)?\Z"),
    re.compile(r"[-+]?(?:0b[01_,]+|0[0-7_,]+|0|[1-9](?:[0-9]|,[0-9]|_[0-9])*|0x[0-9a-fA-F_,]+)\Z"),
)
_NUMBER_IN_OTHER_PARSERS = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z|0o[0-7]+\Z")
_TRUE_FALSE_NULL = re.compile(r"(?:~|null|yes|true|on|no|false|off)\Z", re.IGNORECASE)
_FLOW_SAFE = re.compile(r"[A-Za-z_][A-Za-z0-9_./@-]*\Z")
_BREAKS = "\n\x85\u2028\u2029"
_ESCAPES = {
    "\0": "0",
    "\x07": "a",
    "\x08": "b",
    "\t": "t",
    "\n": "n",
    "\x0b": "v",
    "\x0c": "f",
    "\r": "r",
    "\x1b": "e",
    '"': '"',
    "\\": "\\",
    "\x85": "N",
    "\xa0": "_",
    "\u2028": "L",
    "\u2029": "P",
}


def format_scalar(text: str, *, column: int, indent: int, key: bool = False, can_be_block: bool = True) -> str:
    """
    *text* as YAML.

    Args:
        text: The string.
        column: The column where the text starts, for folding.
        indent: The indentation of the lines after the first.
        key: True for a mapping's key: one line, never a block.
        can_be_block: Whether the text may be a block; a comment after a block would become part of it.
    """
    match choose_style(text, key=key, can_be_block=can_be_block):
        case ScalarStyle.PLAIN:
            return _format_plain(text, column, indent, fold=not key)
        case ScalarStyle.SINGLE:
            return _single(text, column, indent, fold=not key)
        case ScalarStyle.LITERAL:
            return _literal(text, indent)
        case _:
            return _double(text, column, indent, fold=not key)


def format_flow_scalar(text: str) -> str:
    """Return *text* as YAML inside brackets or braces, on one line."""
    if _FLOW_SAFE.match(text) and is_string(text) and _plain_allowed(text):
        return text
    return _double(text, 0, 0, fold=False)


def choose_style(text: str, *, key: bool = False, can_be_block: bool = True) -> ScalarStyle:
    """Return the style that Psych chooses, or the next style that can hold *text*."""
    style = _get_psych_style(text)
    if style is ScalarStyle.LITERAL and (key or not can_be_block or not _block_allowed(text)):
        return ScalarStyle.DOUBLE
    if style is ScalarStyle.PLAIN and not _plain_allowed(text):
        style = ScalarStyle.SINGLE
    if style is ScalarStyle.SINGLE and (not _single_allowed(text) or (key and "\n" in text)):
        return ScalarStyle.DOUBLE
    return style


def _get_psych_style(text: str) -> ScalarStyle:
    if re.search(r"\n(?!\n?\Z)", text):
        return ScalarStyle.LITERAL
    if text in {"y", "Y", "n", "N"}:
        return ScalarStyle.DOUBLE
    if text == "<<":
        return ScalarStyle.SINGLE
    if _STARTS_SPECIAL.search(text):
        return ScalarStyle.DOUBLE
    # parity[yaml-quotes]: Psych leaves `0899` and `1e3` plain; in quotes, every YAML parser reads them as text.
    if not is_string(text) or _OCTAL_FLOAT.match(text) or _NUMBER_IN_OTHER_PARSERS.match(text):
        return ScalarStyle.SINGLE
    return ScalarStyle.PLAIN


def is_string(text: str) -> bool:
    """Return whether Psych's scanner reads *text* back as text."""
    if not text:
        return False
    if "\n" in text or _WORDS.match(text):
        return len(text) > 5 or not _TRUE_FALSE_NULL.match(text)
    return not any(pattern.match(text) for pattern in _NON_STRING_PATTERNS)


def _printable(char: str) -> bool:
    # libyaml escapes tabs and characters above U+FFFF.
    code = ord(char)
    return (
        char == "\n" or 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xD7FF or (0xE000 <= code <= 0xFFFD and code != 0xFEFF)
    )


def _special(text: str) -> bool:
    return not all(map(_printable, text))


def _plain_allowed(text: str) -> bool:
    return not (
        _special(text)
        or text[:1] in {" ", "\n"}
        or text[-1:] in {" ", "\n"}
        or any(char in text for char in _BREAKS)
        or text.startswith(("---", "..."))
        or text[:1] in set("#,[]{}&*!|>'\"%@`")
        or re.match(r"[-?:](?:\s|\Z)", text)
        or re.search(r":(?:\s|\Z)", text)
        or re.search(r"\s#", text)
    )


def _single_allowed(text: str) -> bool:
    return not (_special(text) or re.search(r" \n", text) or re.search(r"\n ", text))


def _block_allowed(text: str) -> bool:
    return not (_special(text) or text.endswith(" ") or re.search(r" \n", text))


def _format_plain(text: str, column: int, indent: int, *, fold: bool) -> str:
    """Return *text* without quotes; a line ends at the first space after column 80."""
    out: list[str] = []
    spaces = False
    for index, char in enumerate(text):
        if char == " " and fold and not spaces and column > FOLD_COLUMN and text[index + 1 : index + 2] != " ":
            out.append("\n" + " " * indent)
            column = indent
        else:
            out.append(char)
            column += 1
        spaces = char == " "
    return "".join(out)


def _single(text: str, column: int, indent: int, *, fold: bool) -> str:
    """Return *text* in single quotes; line breaks are at its end only."""
    out = ["'"]
    column += 1
    spaces = breaks = False
    for index, char in enumerate(text):
        inside = 0 < index < len(text) - 1
        if char == " ":
            if fold and not spaces and column > FOLD_COLUMN and inside and text[index + 1] != " ":
                out.append("\n" + " " * indent)
                column = indent
            else:
                out.append(char)
                column += 1
            spaces = True
        elif char == "\n":
            out.append("\n" if breaks else "\n\n")
            spaces, breaks = False, True
        else:
            out.append("''" if char == "'" else char)
            column += len(out[-1])
            spaces = False
    if breaks:
        out.append(" " * indent)
    return "".join(out) + "'"


def _double(text: str, column: int, indent: int, *, fold: bool) -> str:
    out = ['"']
    column += 1
    spaces = False
    for index, char in enumerate(text):
        if char == " " and fold and not spaces and column > FOLD_COLUMN and 0 < index < len(text) - 1:
            # A space that starts a line would be lost: it is escaped.
            out.append("\n" + " " * indent + ("\\" if text[index + 1] == " " else ""))
            column = indent + (text[index + 1] == " ")
            spaces = True
            continue
        written = char if _printable(char) and char not in '"\\\n\x85\u2028\u2029\xa0' else _escape(char)
        out.append(written)
        column += len(written)
        spaces = char == " "
    return "".join(out) + '"'


def _escape(char: str) -> str:
    if char in _ESCAPES:
        return "\\" + _ESCAPES[char]
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def _literal(text: str, indent: int) -> str:
    hint = "2" if text[:1] in {" ", "\n"} else ""
    chomp = "-" if not text.endswith("\n") else "+" if text.endswith("\n\n") or text == "\n" else ""
    lines = [" " * indent + line if line else "" for line in text.removesuffix("\n").split("\n")]
    return f"|{hint}{chomp}\n" + "\n".join(lines)


_INDENT = 2
_MAX_SIMPLE_KEY = 128


def dump_yaml(value: Mapping[str, JSON]) -> str:
    """Return *value* as a document without its `---`, ending in one line break."""
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
    """Return *value* on one line, with brackets and braces."""
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
