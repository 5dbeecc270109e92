"""Environment variables of a piece of code."""

from __future__ import annotations

from pdkernel.language.analysis.environment_variables import VariableReferences


def test_variables_are_values() -> None:
    """The union of variables joins required and optional names."""
    assert VariableReferences(frozenset("A")) | VariableReferences(
        frozenset("B"), frozenset("C")
    ) == VariableReferences(frozenset("AB"), frozenset("C"))
