"""
Checks of a YAML document that say which line is wrong.

Knows how to say it. Knows no keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pdkernel.directive.nearest import did_you_mean
from pdkernel.directive.yaml_text import LocatedYaml, Path
from pdkernel.errors import DefinitionError
from pdkernel.model import JSON


@dataclass(frozen=True, slots=True)
class Check:
    """
    A document being checked.

    Attributes:
        located: The document.
        error: The class of error to raise.
        name: What it is called in messages.
    """

    located: LocatedYaml
    error: type[DefinitionError]
    name: str

    def fault(self, path: Path, problem: str, *, fix: str = "") -> DefinitionError:
        """An error that says *problem* and the line of *path*."""
        line = self.located.line(path)
        where = "" if line is None else f" (line {line})"
        return self.error(f"{self.name} {problem}{where}.", fix=fix, line=line)

    def find(self, path: Path) -> JSON:
        """The value at *path*, or None if there is none."""
        value: Any = self.located.value
        for key in path:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return None
        return value  # type: ignore[no-any-return]

    def mapping(self, path: Path) -> dict[str, JSON]:
        """The mapping at *path*, or an error."""
        value = self.find(path)
        if not isinstance(value, dict):
            raise self.fault(path, f"has {self._where(path)}{self.shown(value)}, and it must be a mapping of keys")
        return value

    def list(self, path: Path) -> list[JSON]:
        """The list at *path*, or an error."""
        value = self.find(path)
        if not isinstance(value, list):
            raise self.fault(path, f"has {self._where(path)}{self.shown(value)}, and it must be a list")
        return value

    def text(self, path: Path) -> str:
        """The text at *path*, not blank, or an error."""
        value = self.find(path)
        if not isinstance(value, str) or not value.strip():
            raise self.fault(path, f"has {self._where(path)}{self.shown(value)}, and it must be text")
        return value

    @staticmethod
    def shown(value: JSON) -> str:
        """*value* as it can stand in a message."""
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else f"{text[:57]}..."

    @staticmethod
    def _where(path: Path) -> str:
        return f"{'.'.join(map(str, path))}: " if path else ""


def check_keys(check: Check, path: Path, known: Iterable[str] | Mapping[str, object]) -> None:
    """
    Raise for a key of the mapping at *path* that is not *known*, with the nearest ones.

    Raises:
        DefinitionError: Of the check's class.
    """
    names = list(known)
    for key in check.mapping(path):
        if key not in names:
            under = f" under {'.'.join(map(str, path))}" if path else ""
            raise check.fault((*path, key), f"has an unknown key {key!r}{under}", fix=did_you_mean(key, names))
