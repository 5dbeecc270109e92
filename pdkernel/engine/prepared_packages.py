"""
What was made ready for the steps of a run before its first one, as values.

Knows packages by step and why a step cannot have them. Knows nothing of how they are had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pdkernel.errors import PdkernelError
from pdkernel.packages import NpmTree, PythonEnvironment

StepProgressCallback = Callable[[str, str], None]
"""Is told a step's name and a line of what goes on for it."""


@dataclass
class PreparedPackages:
    """
    What was made ready.

    Attributes:
        node_packages: The packages of Node.js steps, by step.
        python_environment: The environment of the workflow's Python steps; None if none runs, or its interpreter is chosen elsewhere.
        failures: Why a step cannot have its packages, by step.
        messages: What is worth keeping of what went on, by step.
    """

    node_packages: dict[str, NpmTree] = field(default_factory=dict)
    python_environment: PythonEnvironment | None = None
    failures: dict[str, PdkernelError] = field(default_factory=dict)
    messages: dict[str, list[str]] = field(default_factory=dict)

    def raise_failure(self, step: str) -> None:
        """Raise why *step* cannot have its packages, if it cannot."""
        if step in self.failures:
            raise self.failures[step]
