"""Installed packages per step of a run. `step_packages` installs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pdkernel.errors import PdkernelError
from pdkernel.packages import NpmTree, PythonEnvironment

StepProgressCallback = Callable[[str, str], None]
"""Receives a step's name and a line about the progress of its installation."""


@dataclass
class PreparedPackages:
    """
    The packages of a run's steps.

    Attributes:
        node_packages: The packages of Node.js steps, by step.
        python_environment: The environment of the Python steps; None if no Python step runs, or the caller chose an
            interpreter.
        failures: Why the packages of a step could not be installed, by step.
        messages: Lines about installed packages for the step's log, by step.
    """

    node_packages: dict[str, NpmTree] = field(default_factory=dict)
    python_environment: PythonEnvironment | None = None
    failures: dict[str, PdkernelError] = field(default_factory=dict)
    messages: dict[str, list[str]] = field(default_factory=dict)

    def raise_failure(self, step: str) -> None:
        """Raise the error of *step*'s installation, if it failed."""
        if step in self.failures:
            raise self.failures[step]
