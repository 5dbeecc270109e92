"""
YAML 1.2 as people and the platform write it, with the line of every value, and with bare `{{ }}`.

Knows that `{{ }}` is read before YAML is: each becomes one character pair that YAML takes as text,
and comes back afterwards. Knows JSON's types only: dates stay text, anything else is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdkernel.directive.embedded import TokenizedYaml
from pdkernel.directive.psych_scalar import is_string
from pdkernel.errors import DefinitionError, DirectiveError
from pdkernel.model import JSON

if TYPE_CHECKING:
    from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

ValuePath = tuple[str | int, ...]
_MAX_VALUES = 100_000
_MAX_DEPTH = 200
_TAGS = frozenset({"null", "bool", "int", "float", "str", "timestamp", "value", "merge"})


@dataclass(frozen=True)
class LocatedYaml:
    """
    A YAML document.

    Attributes:
        value: Its value, JSON's types only.
        lines: The line of every value by its path.
        ambiguous_paths: With *psych*: paths of texts that stand without quotes and are something else to Ruby's Psych (`12:30`).
    """

    value: JSON
    lines: Mapping[ValuePath, int]
    ambiguous_paths: tuple[ValuePath, ...] = ()

    def get_line(self, path: ValuePath) -> int | None:
        """The line of the value at *path*, or of the nearest one around it that is there."""
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
    Read *text*.

    Args:
        text: One YAML document, or nothing.
        allow_expressions: Whether `{{ }}` may stand without quotes.
        line_offset: Lines above *text* in its cell, added to every line.
        step: The step concerned, for errors.
        error_class: The class of error to raise.
        document_name: What the text is called in messages.
        as_psych: Read by the platform: a plain `0899` or `1e3` is text, and `yes` is true, as they are to Ruby's Psych.

    Raises:
        DefinitionError: Of class *error_class*: not YAML, a value that JSON has no word for, an unclosed `{{`.
    """
    embedded = TokenizedYaml.tokenize(text) if allow_expressions else TokenizedYaml.without_expressions(text)
    reader = _Reader(
        embedded, line_offset=line_offset, step=step, error=error_class, name=document_name, psych=as_psych
    )
    return reader.read()


_PSYCH_BOOLEANS = {"yes": True, "on": True, "no": False, "off": False}
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.inf\Z|\.nan\Z", re.IGNORECASE)


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
        """The whole document."""
        from ruamel.yaml import YAML  # takes a third of the extension's load time: only who reads YAML pays it
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        yaml = YAML(typ="safe", pure=True)
        yaml.allow_duplicate_keys = True  # told apart below, where a good message can be made
        try:
            node = yaml.compose(self._embedded.text)
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
        if isinstance(node, ScalarNode):
            return self._scalar(node, line, path)
        raise self._fault(f"holds something that is not a value: {node.tag}", line)

    def _mapping(self, node: MappingNode, path: ValuePath) -> dict[str, JSON]:
        result: dict[str, JSON] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.id != "scalar":
                raise self._fault("has a key that is not text", line)
            key = self._text(key_node, line)
            if key in result:
                raise self._fault(f"has the key {key!r} twice", line)
            # A value's line is its key's: that is where a person looks.
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
            if tag == "str" and (said := _PSYCH_BOOLEANS.get(text.lower())) is not None:
                return said
            self._unquoted.append(path)
        return self._text(node, line)

    def _number(self, text: str, line: int) -> JSON:
        """A number of YAML 1.2's core schema; what only older YAML takes as one (`1_000`) is text."""
        try:
            if _INT.match(text):
                return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
            if not _FLOAT.match(text):
                return text
            number = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise self._fault("holds a number that is too long", line) from None
        if not math.isfinite(number):
            raise self._fault(f"holds {text}, which is not a number in JSON", line)
        return number
