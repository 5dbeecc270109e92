"""The environment variables that a piece of code reads, required and optional."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class VariableReferences:
    """
    The names of environment variables.

    Attributes:
        required: Variables that the code reads without a default or a check.
        optional: Variables that the code reads with a default or a check.
    """

    required: frozenset[str] = field(default_factory=frozenset)
    optional: frozenset[str] = field(default_factory=frozenset)

    def __or__(self, other: VariableReferences) -> VariableReferences:
        return VariableReferences(self.required | other.required, self.optional | other.optional)

    def without(self, names: frozenset[str] | set[str]) -> VariableReferences:
        """The variables that are not in *names*."""
        return VariableReferences(self.required - names, self.optional - names)
