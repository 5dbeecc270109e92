"""
The environment variables that a piece of code reads, as a value.

Knows which of them code cannot do without. Knows no language.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class VariableReferences:
    """
    Variables by name.

    Attributes:
        required: Read as if they were there.
        optional: Read with a default, or only to see whether they are there.
    """

    required: frozenset[str] = field(default_factory=frozenset)
    optional: frozenset[str] = field(default_factory=frozenset)

    def __or__(self, other: VariableReferences) -> VariableReferences:
        return VariableReferences(self.required | other.required, self.optional | other.optional)

    def without(self, names: frozenset[str] | set[str]) -> VariableReferences:
        """Those that are not in *names*."""
        return VariableReferences(self.required - names, self.optional - names)
