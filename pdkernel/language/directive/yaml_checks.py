"""Checks a YAML document; an error names the line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pdkernel.errors import DefinitionError, did_you_mean
from pdkernel.language.directive.located_yaml import LocatedYaml
from pdkernel.language.expression import ValuePath
from pdkernel.model import JSON


@dataclass(frozen=True, slots=True)
class YamlChecker:
    """
    A document being checked.

    Attributes:
        document: The document.
        error_class: The class of error to raise.
        document_name: The name of the document in messages.
    """

    document: LocatedYaml
    error_class: type[DefinitionError]
    document_name: str

    def build_error(self, path: ValuePath, problem: str, *, fix: str = "") -> DefinitionError:
        """An error with *problem* and the line of *path*."""
        line = self.document.get_line(path)
        where = "" if line is None else f" (line {line})"
        return self.error_class(f"{self.document_name} {problem}{where}.", fix=fix, line=line)

    def get_value(self, path: ValuePath) -> JSON:
        """The value at *path*, or None."""
        value: Any = self.document.value
        for key in path:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return None
        return value  # type: ignore[no-any-return]

    def require_mapping(self, path: ValuePath) -> dict[str, JSON]:
        """The mapping at *path*, or an error."""
        value = self.get_value(path)
        if not isinstance(value, dict):
            raise self.build_error(
                path, f"has {self._where(path)}{self.format_value(value)}; expected a mapping of keys"
            )
        return value

    def require_list(self, path: ValuePath) -> list[JSON]:
        """The list at *path*, or an error."""
        value = self.get_value(path)
        if not isinstance(value, list):
            raise self.build_error(path, f"has {self._where(path)}{self.format_value(value)}; expected a list")
        return value

    def require_text(self, path: ValuePath) -> str:
        """The text at *path*, not blank, or an error."""
        value = self.get_value(path)
        if not isinstance(value, str) or not value.strip():
            raise self.build_error(path, f"has {self._where(path)}{self.format_value(value)}; expected text")
        return value

    @staticmethod
    def format_value(value: JSON) -> str:
        """*value* for a message, shortened to 60 characters."""
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else f"{text[:57]}..."

    @staticmethod
    def _where(path: ValuePath) -> str:
        return f"{'.'.join(map(str, path))}: " if path else ""


def check_keys(check: YamlChecker, path: ValuePath, known: Iterable[str] | Mapping[str, object]) -> None:
    """
    Refuse unknown keys of the mapping at *path*; the error suggests the nearest known keys.

    Raises:
        DefinitionError: A key is not *known*; of the checker's error class.
    """
    names = list(known)
    for key in check.require_mapping(path):
        if key not in names:
            under = f" under {'.'.join(map(str, path))}" if path else ""
            raise check.build_error((*path, key), f"has an unknown key {key!r}{under}", fix=did_you_mean(key, names))
