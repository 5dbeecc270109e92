"""Installed packages per step of a run. `step_packages` installs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import ActionSourceError, PackageInstallError, PdkernelError
from pdkernel.packages import NpmTree, PythonEnvironment
from pdkernel.workers import GoLock

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
        go_lock: The modules of the Go steps; None if no Go step imports modules.
        failures: Why the packages of a step could not be installed, by step.
        messages: Lines about installed packages for the step's log, by step.
        is_locked: Whether the run keeps the packages with which it began, so that a failure may be temporary.
    """

    node_packages: dict[str, NpmTree] = field(default_factory=dict)
    python_environment: PythonEnvironment | None = None
    go_lock: GoLock | None = None
    failures: dict[str, PdkernelError] = field(default_factory=dict)
    messages: dict[str, list[str]] = field(default_factory=dict)
    is_locked: bool = False

    def raise_failure(self, step: str) -> None:
        """Raise the error of *step*'s installation, if it failed."""
        if step in self.failures:
            raise self.failures[step]

    def find_temporary_failure(self, step: str) -> PackageInstallError | None:
        """Return the error of *step*'s installation if a later try may succeed."""
        error = self.failures.get(step) if self.is_locked else None
        return error if isinstance(error, PackageInstallError) else None

    def explain_lock(self, request: RunRequest) -> None:
        """
        Give each failure of a run that keeps its packages the commands that continue the run.

        A failed installation is temporary: a registry may answer later. Other failures keep their kind and their fix.
        """
        assert request.run_ids is not None, "a continued run has its ids"
        self.is_locked = True
        for step, error in self.failures.items():
            fork = f"pdkernel runs fork {request.run_ids[0]} --from {step} --send"
            commands = (
                f"To continue the run when its packages can be installed: {fork}\nTo continue it with the packages of "
                f"today: {fork} {request.source}"
            )
            if isinstance(error, PackageInstallError | ActionSourceError):
                self.failures[step] = PackageInstallError(
                    f"{error.message} The run keeps the packages with which it began.",
                    fix=commands,
                    package=getattr(error, "package", None),
                    line=getattr(error, "line", None),
                )
            else:
                error.fix = f"{error.fix}\n{commands}".lstrip()
