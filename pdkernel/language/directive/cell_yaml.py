"""
Writes props as a cell shows them: YAML in the platform's style, but `{{ }}` without quotes.

A cell's `{{ }}` is read before YAML. A value that would not read back the same keeps its quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pdkernel.errors import DefinitionError
from pdkernel.language.directive.located_yaml import parse_yaml
from pdkernel.language.directive.psych_scalar import ScalarStyle, choose_style
from pdkernel.language.directive.psych_yaml import dump_yaml
from pdkernel.language.expression import find_closing_braces
from pdkernel.language.expression.template import CLOSING_BRACES, OPENING_BRACES
from pdkernel.model import JSON


def dump_cell_yaml(value: Mapping[str, JSON]) -> str:
    """*value* as a cell's YAML, which `parse_yaml(..., allow_expressions=True)` reads back if a cell can hold it."""
    return "".join(_dump_item(key, item) for key, item in value.items()) or dump_yaml(value)


def _dump_item(key: str, item: JSON) -> str:
    plain = dump_yaml({key: item})
    if OPENING_BRACES not in plain:
        return plain
    tokens = _ExpressionTokens(plain)
    text = tokens.restore(dump_yaml({key: tokens.tokenize(item)}))
    # Unquoted expressions read back by construction; a quoted one beside them can change how the rest is read.
    return text if (tokens.all_hidden and OPENING_BRACES not in key) or _reads_as(text, {key: item}) else plain


def _reads_as(text: str, value: Mapping[str, JSON]) -> bool:
    try:
        return parse_yaml(text, allow_expressions=True).value == value
    except DefinitionError:
        return False


class _ExpressionTokens:
    """Replaces expressions by tokens that do not occur in *text*."""

    def __init__(self, text: str) -> None:
        mark = "q"
        while re.search(rf"x{mark}\d+x", text):
            mark += "q"
        self._mark = mark
        self._hidden: list[str] = []
        self.all_hidden = True

    def tokenize(self, value: Any) -> Any:
        """*value* with a token for each expression that can be written without quotes."""
        if isinstance(value, dict):
            return {key: self.tokenize(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.tokenize(item) for item in value]
        if not isinstance(value, str) or OPENING_BRACES not in value:
            return value
        bare = self._bare(value)
        self.all_hidden = self.all_hidden and bare is not None
        return value if bare is None else bare

    def restore(self, text: str) -> str:
        """*text* with its expressions."""
        return re.sub(rf"x{self._mark}(\d+)x", lambda match: self._hidden[int(match[1])], text)

    def _bare(self, text: str) -> str | None:
        if "\n" in text or not text.isprintable():
            return None
        parts: list[str] = []
        found: list[str] = []
        position = 0
        while (opening := text.find(OPENING_BRACES, position)) != -1:
            end = find_closing_braces(text, opening + len(OPENING_BRACES))
            if end is None:
                return None
            parts += [text[position:opening], f"x{self._mark}{len(self._hidden) + len(found)}x"]
            found.append(text[opening : end + len(CLOSING_BRACES)])
            position = end + len(CLOSING_BRACES)
        bare = "".join([*parts, text[position:]])
        if choose_style(bare) is not ScalarStyle.PLAIN:
            return None
        self._hidden += found
        return bare
