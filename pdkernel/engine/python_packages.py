"""
The Python environment of a workflow's run: what its steps need, and which of them cannot have it.

Knows that all Python steps of a workflow share one environment and that a package that cannot be had fails only the steps
that need it. What a step needs is `inspection`'s to say, and having it is `packages`'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pdkernel.engine.request import RunRequest
from pdkernel.errors import PackageInstallError, PackageMissingError, PdkernelError
from pdkernel.inspection import PythonRequirement, python_requirements, unreadable_requirements
from pdkernel.model import Step, Workflow
from pdkernel.packages import PythonEnvironment, PythonInstallError, PythonPackages

_KNOWN_WORKFLOWS = 200

Needs = Mapping[str, tuple[PythonRequirement, ...]]


@dataclass(frozen=True)
class PythonOfRun:
    """
    What Python steps of one run have.

    Attributes:
        environment: Their environment; None if no Python step runs, or its interpreter is chosen elsewhere.
        failures: Step to why it cannot have what it needs.
    """

    environment: PythonEnvironment | None = None
    failures: Mapping[str, PdkernelError] = field(default_factory=dict)


class PythonOfWorkflows:
    """
    Prepares Python environments for runs.

    Args:
        packages: Where they come from; None if an interpreter was chosen for every run.
    """

    def __init__(self, packages: PythonPackages | None) -> None:
        self._packages = packages
        self._needs: dict[str, Needs] = {}
        self._refused: dict[frozenset[PythonRequirement], frozenset[str]] = {}

    async def prepare(self, request: RunRequest) -> PythonOfRun:
        """
        The environment for *request*, with packages installed that are not.

        Raises:
            PackageMissingError: A step that runs needs a package that is not installed, and none may be.
            ProjectError: The lock file cannot be read.
        """
        steps = [step for step in _python_steps(request.workflow) if _runs(request, step)]
        if not steps or self._packages is None:
            return PythonOfRun()
        needs, failures = _usable(self._needs_of(request.workflow), request)
        running: Needs = {step.name: needs[step.name] for step in steps}
        if not request.install:
            return PythonOfRun(await self._installed(needs, running, request), failures)
        wanted = _all(needs)
        refused = self._refused.get(wanted, frozenset())
        if refused & {each.name for each in _all(running)}:
            refused = frozenset()  # a step that runs needs it: ask again
        while True:
            try:
                environment = await self._ensure((each for each in wanted if each.name not in refused), request)
            except PythonInstallError as error:
                left = {each.name for each in wanted} - refused
                if not left:
                    return PythonOfRun(None, dict.fromkeys(running, error))
                refused |= (error.names & left) or left
                for name, needed in running.items():
                    if any(each.name in refused and not each.optional for each in needed):
                        failures.setdefault(name, error)
            else:
                self._refused[wanted] = refused
                return PythonOfRun(environment, failures)

    async def _installed(self, needs: Needs, running: Needs, request: RunRequest) -> PythonEnvironment:
        try:
            return await self._ensure(_all(needs), request)
        except PackageMissingError:
            return await self._ensure(_all(running), request)

    async def _ensure(self, wanted: Iterable[PythonRequirement], request: RunRequest) -> PythonEnvironment:
        assert self._packages is not None
        return await self._packages.ensure(
            wanted,
            workflow=request.workflow.source or str(request.folder),
            install=request.install,
            progress=request.progress or (lambda _line: None),
        )

    def _needs_of(self, workflow: Workflow) -> Needs:
        known = self._needs.get(workflow.version)
        if known is None:
            if len(self._needs) >= _KNOWN_WORKFLOWS:
                self._needs.clear()
            known = {step.name: python_requirements(step.source) for step in _python_steps(workflow)}
            self._needs[workflow.version] = known
        return known


def _python_steps(workflow: Workflow) -> list[Step]:
    return [step for step in workflow.steps if step.language == "python" and not step.uses and not step.disabled]


def _runs(request: RunRequest, step: Step) -> bool:
    return request.runs(step.name) and step.name not in request.pins


def _all(needs: Needs) -> frozenset[PythonRequirement]:
    return frozenset(requirement for needed in needs.values() for requirement in needed)


def _usable(needs: Needs, request: RunRequest) -> tuple[Needs, dict[str, PdkernelError]]:
    """What can be asked for, and why some steps cannot run whatever is installed."""
    failures: dict[str, PdkernelError] = {}
    usable: dict[str, tuple[PythonRequirement, ...]] = {}
    pinned: dict[str, tuple[str, str]] = {}
    for name, needed in needs.items():
        kept = []
        for unreadable in unreadable_requirements(request.workflow.step(name).source):
            failures.setdefault(name, _unreadable(unreadable.words, unreadable.line, request.workflow.step(name)))
        for requirement in needed:
            version = requirement.version
            by, text = pinned.setdefault(requirement.name, (name, version)) if version else (name, version)
            if requirement.module and _is_beside(requirement.module, request.folder):
                if not requirement.optional:
                    failures.setdefault(name, _beside(requirement.module))
            elif version != text:
                failures.setdefault(name, _two_versions(requirement, text, by))
            else:
                kept.append(requirement)
        usable[name] = tuple(kept)
    return usable, failures


def _is_beside(module: str, folder: Path) -> bool:
    top = module.partition(".")[0]
    return (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()


def _beside(module: str) -> PackageInstallError:
    top = module.partition(".")[0]
    return PackageInstallError(
        f"`import {top}` would mean {top}.py beside the workflow, and a step is one file: on the platform it has no other.",
        fix="Put the code that it needs into the step.",
    )


def _two_versions(requirement: PythonRequirement, other: str, step: str) -> PackageInstallError:
    return PackageInstallError(
        f"This step asks for {requirement.text} and step {step} for {other}: all Python steps of a workflow share one environment.",
        fix="Ask for one version in both.",
    )


def _unreadable(words: str, line: int, step: Step) -> PackageInstallError:
    return PackageInstallError(
        f"`# pipedream add-package {words}` names no package."
        if words
        else "`# pipedream add-package` names no package.",
        fix="Write # pipedream add-package NAME or NAME==VERSION.",
        line=line + step.line_offset,
    )
