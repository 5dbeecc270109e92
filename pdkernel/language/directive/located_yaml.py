"""
Reads YAML 1.2, as people and the platform write it, with the line of every value and with unquoted `{{ }}`.

Each `{{ }}` is replaced by a token before YAML is parsed, and restored afterwards. In quotes, YAML's own escapes apply, so
that a line copied from `workflow.yaml` means the same in a cell. Values have JSON's types only: dates stay text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from pdkernel.errors import DefinitionError, DirectiveError
from pdkernel.language.directive.psych_yaml import is_string
from pdkernel.language.expression import ValuePath, find_closing_braces
from pdkernel.language.expression.template import CLOSING_BRACES, OPENING_BRACES, build_template_error
from pdkernel.model import JSON

if TYPE_CHECKING:
    from ruamel.yaml.composer import Composer
    from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

_MAX_VALUES = 100_000
_MAX_DEPTH = 200
_TAGS = frozenset({"null", "bool", "int", "float", "str", "timestamp", "value", "merge"})
_PRIVATE_USE_CODES = range(0xE000, 0xF8FF)
"""Unicode's private use area: YAML accepts these characters as text."""
_MAX_FAULTS = 5


@dataclass(frozen=True)
class TokenizedYaml:
    """
    YAML with tokens in the place of its expressions.

    Attributes:
        text: The YAML to parse.
        sources: The expression behind each token: braces and content, unchanged.
        errors: Tokens for each `{{` that cannot be read, with the error.
        dropped_breaks: The number of line breaks that each line of *text* (from 1) has lost.
        token_pattern: Matches a token; None without expressions.
    """

    text: str
    sources: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, DefinitionError] = field(default_factory=dict)
    dropped_breaks: Mapping[int, int] = field(default_factory=dict)
    token_pattern: re.Pattern[str] | None = None

    @classmethod
    def without_expressions(cls, text: str) -> Self:
        """Return *text* unchanged."""
        return cls(text)

    @classmethod
    def tokenize(cls, text: str) -> Self:
        """Replace every expression of *text* by a token."""
        if OPENING_BRACES not in text:
            return cls(text)
        left, right = (chr(code) for code in _unused(text))
        hidden: dict[str, str] = {}
        faults: dict[str, DefinitionError] = {}
        dropped: dict[int, int] = {}
        parts: list[str] = []
        position = 0
        line = 1
        # each fault may take as long as the rest of the text, and one is enough to refuse it
        while len(faults) < _MAX_FAULTS and (opening := text.find(OPENING_BRACES, position)) != -1:
            parts.append(text[position:opening])
            line += text.count("\n", position, opening)
            if _in_comment(text, opening):
                parts.append(OPENING_BRACES)
                position = opening + len(OPENING_BRACES)
                continue
            token = f"{left}{len(hidden) + len(faults)}{right}"
            start = opening + len(OPENING_BRACES)
            end = _find_end(text, start)
            if end is None:
                faults[token] = build_template_error(text, start)
                position = start
            else:
                position = end + len(CLOSING_BRACES)
                hidden[token] = text[opening:position]
                if breaks := text.count("\n", opening, position):
                    dropped[line] = dropped.get(line, 0) + breaks
            parts.append(token)
        parts.append(text[position:])
        pattern = re.compile(f"{left}\\d+{right}")
        return cls("".join(parts), hidden, faults, dropped, pattern)

    def original_line(self, line: int) -> int:
        """Return the line number in the original text for *line* of the tokenized text."""
        return line + sum(breaks for at, breaks in self.dropped_breaks.items() if at < line)

    def restore(self, text: str, *, style: str | None, line: int) -> str | DefinitionError:
        """Return *text*, a scalar that YAML read in *style* at *line*, with its expressions; or the error of one of them."""
        if self.token_pattern is None:
            return text
        for token in self.token_pattern.findall(text):
            if token in self.errors:
                return self.errors[token]
        indent = self._block_indent(text, line) if style in {"|", ">"} else 0
        return self.token_pattern.sub(lambda match: _as_read(self.sources[match[0]], style, indent), text)

    def _block_indent(self, value: str, line: int) -> int:
        """Return the indentation of the block whose `|` or `>` is in *line*, from its first line of content."""
        below = self.text.split("\n")[line:]
        raw = next((text for text in below if text.strip()), "")
        read = next((text for text in value.split("\n") if text.strip()), "")
        return len(raw) - len(read) if raw.endswith(read) else len(raw) - len(raw.lstrip())


def _as_read(source: str, style: str | None, indent: int) -> str:
    if style in {'"', "'"}:
        return _unquoted(source, style)
    if indent:
        first, *rest = source.split("\n")
        return "\n".join([first, *(text[indent:] if not text[:indent].strip() else text for text in rest)])
    return source


def _unquoted(source: str, quote: str) -> str:
    """Return *source* as YAML reads it inside quotes; unchanged if it is invalid there."""
    from ruamel.yaml import YAML  # imported on use: the import takes a third of the extension's load time
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(f"{quote}{source}{quote}")
    except YAMLError:
        return source
    return value if isinstance(value, str) else source


def _find_end(text: str, start: int) -> int | None:
    # Unquoted first; then as in quotes, where `\"` and `''` mean one quotation mark.
    for read in (str, lambda source: _unquoted(source, '"'), lambda source: _unquoted(source, "'")):
        end = find_closing_braces(text, start, unescape=read)
        if end is not None:
            return end
    return None


def _in_comment(text: str, position: int) -> bool:
    """Return whether *position* is in a comment that fills its line."""
    start = text.rfind("\n", 0, position) + 1
    return text[start:position].lstrip().startswith("#")


def _unused(text: str) -> tuple[int, int]:
    used = set(text)
    free = (code for code in _PRIVATE_USE_CODES if chr(code) not in used)
    return next(free), next(free)


@dataclass(frozen=True)
class LocatedYaml:
    """
    A YAML document.

    Attributes:
        value: The document's value, with JSON's types only.
        lines: The line of every value by its path.
        ambiguous_paths: With *as_psych*: paths of unquoted texts that Ruby's Psych reads as another type (`12:30`).
    """

    value: JSON
    lines: Mapping[ValuePath, int]
    ambiguous_paths: tuple[ValuePath, ...] = ()

    def get_line(self, path: ValuePath) -> int | None:
        """Return the line of the value at *path*, or of its nearest existing parent."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def parse_yaml(
    text: str,
    *,
    allow_expressions: bool,
    line_offset: int = 0,
    step: str | None = None,
    error_class: type[DefinitionError] = DirectiveError,
    document_name: str = "The YAML",
    as_psych: bool = False,
) -> LocatedYaml:
    """
    Parse *text*.

    Args:
        text: One YAML document; may be empty.
        allow_expressions: Whether `{{ }}` may be unquoted.
        line_offset: Lines above *text* in its cell, added to every line.
        step: The step concerned, for errors.
        error_class: The class of error to raise.
        document_name: The name of the text in messages.
        as_psych: Parse like Ruby's Psych, which the platform uses: an unquoted `0899` or `1e3` is text, `yes` is true.

    Raises:
        DefinitionError: Of class *error_class*: invalid YAML, a value of a type that JSON lacks, an unclosed `{{`.
    """
    embedded = TokenizedYaml.tokenize(text) if allow_expressions else TokenizedYaml.without_expressions(text)
    reader = _Reader(
        embedded, line_offset=line_offset, step=step, error=error_class, name=document_name, psych=as_psych
    )
    return reader.read()


_PSYCH_BOOLEANS = {"yes": True, "on": True, "no": False, "off": False}
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.inf\Z|\.nan\Z", re.IGNORECASE)


class _TooLargeError(Exception):
    """The YAML has more values, or deeper ones, than are read."""

    def __init__(self, line: int, *, is_deep: bool = False) -> None:
        super().__init__(
            "is nested too deeply" if is_deep else f"is too large: it has more than {_MAX_VALUES:,} values"
        )
        self.line = line


_BLOCK_TEXT = re.compile(r"(?:^|[\s:-])[|>][-+0-9]*\s*(?:#.*)?$")
_FLOW = re.compile(r"\s*(?:-\s+)*(?:[^\s:]+:\s+)?[\[{]")


def _check_size(text: str) -> None:
    """
    Refuse a text whose lines already show too many values, because parsing many values takes long.

    Each line outside of blocks of text counts as a value, and so does each comma between brackets or braces.
    """
    if len(text) <= _MAX_VALUES:
        return
    count = brackets = 0
    block_indent = -1  # none
    for number, line in enumerate(text.split("\n"), 1):
        content = line.lstrip(" ")
        if not content or content.startswith("#"):
            continue
        indent = len(line) - len(content)
        if 0 <= block_indent < indent:
            continue
        block_indent = -1
        count += 1
        if brackets > 0 or _FLOW.match(line):
            count += line.count(",")
            brackets += sum(map(line.count, "[{")) - sum(map(line.count, "]}"))
        if count > _MAX_VALUES:
            raise _TooLargeError(number)
        if line[-1] in "|>-+0123456789 " and _BLOCK_TEXT.search(line):
            block_indent = indent


@cache
def _build_limited_composer() -> type[Composer]:
    """Return a composer that stops at the limits of a document."""
    from ruamel.yaml.composer import Composer  # imported on use: the import takes a third of the extension's load time

    class LimitedComposer(Composer):
        """Composes at most `_MAX_VALUES` values, at most `_MAX_DEPTH` deep."""

        value_count = level = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            """Return the next node, or `_TooLargeError`."""
            is_key = parent is not None and index is None
            self.value_count += not is_key
            if self.value_count > _MAX_VALUES or self.level > _MAX_DEPTH:
                line = self.parser.peek_event().start_mark.line + 1
                raise _TooLargeError(line, is_deep=self.level > _MAX_DEPTH)
            self.level += 1
            node = super().compose_node(parent, index)
            self.level -= 1
            return node

    return LimitedComposer


class _Reader:
    def __init__(
        self,
        embedded: TokenizedYaml,
        *,
        line_offset: int,
        step: str | None,
        error: type[DefinitionError],
        name: str,
        psych: bool,
    ) -> None:
        self._embedded = embedded
        self._line_offset = line_offset
        self._step = step
        self._error = error
        self._name = name
        self._psych = psych
        self._lines: dict[ValuePath, int] = {}
        self._unquoted: list[ValuePath] = []

    def read(self) -> LocatedYaml:
        """Return the whole document."""
        from ruamel.yaml import YAML  # imported on use: the import takes a third of the extension's load time
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        yaml = YAML(typ="safe", pure=True)
        yaml.allow_duplicate_keys = True  # checked below, with a better message
        yaml.Composer = _build_limited_composer()
        try:
            _check_size(self._embedded.text)
            node = yaml.compose(self._embedded.text)
        except _TooLargeError as fault:
            raise self._fault(str(fault), fault.line) from None
        except MarkedYAMLError as fault:
            mark = fault.problem_mark or fault.context_mark
            line = None if mark is None else mark.line + 1
            raise self._fault(f"is not YAML: {fault.problem or fault.context or fault}", line) from None
        except (YAMLError, ValueError) as fault:
            raise self._fault(f"is not YAML: {str(fault).splitlines()[0]}", None) from None
        except RecursionError:
            raise self._fault("is nested too deeply", None) from None
        value = None if node is None else self._value(node, ())
        return LocatedYaml(value, self._lines, tuple(self._unquoted))

    def _fault(self, problem: str, line: int | None, *, fix: str = "") -> DefinitionError:
        number = None if line is None else self._embedded.original_line(line) + self._line_offset
        where = "" if number is None else f" (line {number})"
        step = "" if self._step is None else f"Step {self._step}: "
        name = self._name if not step else self._name[:1].lower() + self._name[1:]
        return self._error(f"{step}{name} {problem}{where}.", fix=fix, step=self._step, line=number)

    def _value(self, node: Node, path: ValuePath) -> JSON:
        line = node.start_mark.line + 1
        if len(self._lines) > _MAX_VALUES or len(path) > _MAX_DEPTH:
            raise self._fault("is too large, or refers to itself", line)
        self._lines.setdefault(path, self._embedded.original_line(line) + self._line_offset)
        from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode), "YAML has no other nodes"
        return self._scalar(node, line, path)

    def _mapping(self, node: MappingNode, path: ValuePath) -> dict[str, JSON]:
        result: dict[str, JSON] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.id != "scalar":
                raise self._fault("has a key that is not text", line)
            key = self._text(key_node, line)
            if key in result:
                raise self._fault(f"has the key {key!r} twice", line)
            # A value gets the line of its key, where a person looks first.
            self._lines[(*path, key)] = self._embedded.original_line(line) + self._line_offset
            result[key] = self._value(value_node, (*path, key))
        return result

    def _text(self, node: ScalarNode, line: int) -> str:
        restored = self._embedded.restore(node.value, style=node.style, line=line)
        if isinstance(restored, DefinitionError):
            raise self._fault(f"cannot be read: {restored.message.removesuffix('.')}", line, fix=restored.fix)
        return restored

    def _scalar(self, node: ScalarNode, line: int, path: ValuePath) -> JSON:
        tag = str(node.tag).rpartition(":")[2]
        text = str(node.value)
        if tag not in _TAGS:
            raise self._fault(f"holds a value of the type {tag}, which JSON does not have", line)
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        if tag in {"int", "float"} and not (self._psych and is_string(text)):
            return self._number(text, line)
        if self._psych and not node.style and not is_string(text):
            if tag == "str" and (boolean := _PSYCH_BOOLEANS.get(text.lower())) is not None:
                return boolean
            self._unquoted.append(path)
        return self._text(node, line)

    def _number(self, text: str, line: int) -> JSON:
        """Return a number of YAML 1.2's core schema; a number of older YAML only (`1_000`) is text."""
        try:
            if _INT.match(text):
                return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
            if not _FLOAT.match(text):
                return text
            number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise self._fault("holds a number that is too long", line) from None
        if not math.isfinite(number):
            raise self._fault(f"holds {text}, which is not a number in JSON", line)
        return number
