"""
The packages of one run, and its lock: exactly the packages and components with which its steps began.

`step_packages` installs packages. The journal stores the text of a lock once for each hash. A continued run uses its lock instead
of the project's lock files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pdkernel.actions import LockedComponent
from pdkernel.common.encode import JsonStruct, decode_json, encode_json
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.step_actions import StepActions
from pdkernel.errors import ActionSourceError, PackageInstallError, PdkernelError, ProjectError
from pdkernel.journal import StoredLock
from pdkernel.model import Workflow
from pdkernel.packages import LockBlock, LockedSet, NpmTree, PythonEnvironment
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


_MAX_KNOWN = 1000


@dataclass(frozen=True)
class PackageLock:
    """
    Exactly the packages and components of a run's steps.

    Attributes:
        node: The packages of Node.js steps, by step.
        python: The packages that the Python steps share; or None.
        go: The modules of Go steps; or None.
        components: The components of action steps, by step.
    """

    node: Mapping[str, LockedSet] = field(default_factory=dict)
    python: LockBlock | None = None
    go: GoLock | None = None
    components: Mapping[str, LockedComponent] = field(default_factory=dict)

    def encode(self, workflow: str) -> StoredLock:
        """Encode the lock for the journal, which removes it with the last run of *workflow* that has it."""
        sets = [*self.node.values(), *(each.packages for each in self.components.values() if each.packages)]
        stored = _StoredPackages(
            workflow,
            {each.key: each for each in sets},
            {step: each.key for step, each in self.node.items()},
            self.python,
            self.go,
            {
                step: _StoredComponent(
                    each.uses,
                    each.requested_version,
                    each.package,
                    each.packages.key if each.packages else None,
                    each.source,
                )
                for step, each in self.components.items()
            },
        )
        text = encode_json(stored)
        return StoredLock(hashlib.sha256(text).hexdigest(), text.decode())

    @classmethod
    def decode(cls, lock: StoredLock) -> PackageLock:
        """Decode a text of `encode`. Raises `ProjectError` if the text is damaged."""
        try:
            stored = decode_json(lock.content, _StoredPackages)
            return cls(
                {step: stored.sets[key] for step, key in stored.node.items()},
                stored.python,
                stored.go,
                {
                    step: LockedComponent(
                        each.uses,
                        each.requested_version,
                        each.package,
                        stored.sets[each.set] if each.set else None,
                        each.source,
                    )
                    for step, each in stored.components.items()
                },
            )
        except (ValueError, KeyError, RecursionError) as fault:
            raise ProjectError(
                f"The packages of the run cannot be read: their record is damaged ({type(fault).__name__}).",
                fix="Restore the project's database from a copy, or start the workflow again.",
            ) from None


class _StoredComponent(JsonStruct, frozen=True, omit_defaults=True):
    uses: str
    requested_version: str | None = None
    package: str | None = None
    set: str | None = None
    source: str | None = None


class _StoredPackages(JsonStruct, frozen=True, omit_defaults=True):
    """The `package_locks.content` text: each set once, by its key."""

    workflow: str
    sets: Mapping[str, LockedSet] = {}
    node: Mapping[str, str] = {}
    python: LockBlock | None = None
    go: GoLock | None = None
    components: Mapping[str, _StoredComponent] = {}


class PackageLocks:
    """The locks of the runs of one process: a lock is encoded once."""

    def __init__(self) -> None:
        self._known: dict[Hashable, StoredLock] = {}
        self._latest: dict[str, StoredLock | None] = {}

    def predict(self, workflow: Workflow) -> StoredLock | None:
        """Return the lock that the next run of *workflow* has, unless its packages have changed since the last run."""
        return self._latest.get(workflow.version)

    def describe(
        self, workflow: Workflow, ready: PreparedPackages, actions: StepActions, kept: StoredLock | None
    ) -> StoredLock | None:
        """
        Return the lock of a run with these packages and components; None if the run needs none.

        *kept* is the lock of a continued run. It also has the packages of steps that have run, and gets those that could not
        be installed when the run began.
        """
        if kept is not None:
            old, new = PackageLock.decode(kept), _collect(ready, actions)
            lock = PackageLock(
                {**old.node, **new.node},
                new.python or old.python,
                new.go or old.go,
                {**old.components, **new.components},
            )
            return kept if lock == old else lock.encode(workflow.name)
        stored = self._latest[workflow.version] = self._encode(workflow, ready, actions)
        _limit_size(self._latest)
        return stored

    def _encode(self, workflow: Workflow, ready: PreparedPackages, actions: StepActions) -> StoredLock | None:
        environment = ready.python_environment
        folder = environment.folder if environment is not None and environment.locked is not None else None
        if not (ready.node_packages or folder or ready.go_lock or actions.components):
            return None
        key = (
            workflow.version,
            tuple((step, tree.folder) for step, tree in ready.node_packages.items()),
            folder,
            ready.go_lock,
            tuple((step, each.uses, each.source, each.file) for step, each in actions.components.items()),
        )
        if key not in self._known:
            self._known[key] = _collect(ready, actions).encode(workflow.name)
            _limit_size(self._known)
        return self._known[key]


def _limit_size(cache: dict[Any, Any]) -> None:
    if len(cache) > _MAX_KNOWN:
        del cache[next(iter(cache))]


def _collect(ready: PreparedPackages, actions: StepActions) -> PackageLock:
    return PackageLock(
        {step: tree.locked for step, tree in ready.node_packages.items() if tree.locked is not None},
        ready.python_environment.locked if ready.python_environment is not None else None,
        ready.go_lock,
        actions.describe_locks(),
    )
