"""
Prepares the Python environment that all Python steps of a workflow share.

A package that cannot be installed fails only the steps that need it. `analysis` finds the requirements, `packages`
installs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pdkernel.engine.prepared_packages import PreparedPackages, StepProgressCallback
from pdkernel.errors import PackageInstallError, PackageMissingError
from pdkernel.language.analysis import PythonRequirement, find_step_requirements
from pdkernel.model import Step
from pdkernel.packages import LockBlock, ProgressCallback, PythonEnvironment, PythonInstallError, PythonPackages

RequirementsByStep = Mapping[str, tuple[PythonRequirement, ...]]


class WorkflowPythonEnvironments:
    """
    Prepares Python environments for runs.

    Args:
        packages: Creates and stores environments.
    """

    def __init__(self, packages: PythonPackages) -> None:
        self._packages = packages
        self._refused: dict[frozenset[PythonRequirement], frozenset[str]] = {}

    async def prepare(
        self,
        prepared: PreparedPackages,
        steps: Sequence[Step],
        all_steps: Iterable[Step],
        *,
        install: bool,
        on_progress: StepProgressCallback,
        locked: LockBlock | None = None,
    ) -> None:
        """
        Set the environment of the Python steps in *prepared*, and the failures of *steps*.

        Args:
            prepared: Receives `python_environment` and `failures`.
            steps: The steps of the run; without a Python step nothing happens.
            all_steps: All steps of the workflow.
            install: False installs nothing.
            on_progress: Receives progress by step.
            locked: The packages with which a continued run began, or None.

        Raises:
            PackageMissingError: A package of *steps* is not installed, and *install* is False.
            ProjectError: The lock file cannot be read.
        """
        names = [step.name for step in steps if _is_python(step)]
        if not names:
            return
        needs = _usable([step for step in all_steps if _is_python(step)], prepared)
        needed = {name: needs[name] for name in names}
        waiting = next((name for name in names if needed[name]), names[0])

        def progress(line: str) -> None:
            on_progress(waiting, line)
            if line.startswith("installed "):
                prepared.messages.setdefault(waiting, []).append(line)

        wanted = _merge_requirements(needs)
        if locked is None and not install and wanted != _merge_requirements(needed):
            try:
                prepared.python_environment = await self._ensure(wanted, install, progress)
            except PackageMissingError:  # perhaps only steps that do not run need the package
                wanted = _merge_requirements(needed)
        if prepared.python_environment is None:
            offsets = {step.name: step.line_offset for step in steps if _is_python(step)}
            await self._install(prepared, wanted, needed, offsets, install, progress, locked)

    async def finish(self) -> None:
        """Wait until the installed packages are compiled to bytecode."""
        await self._packages.finish()

    async def _install(
        self,
        ready: PreparedPackages,
        wanted: frozenset[PythonRequirement],
        needed: RequirementsByStep,
        offsets: Mapping[str, int],
        install: bool,
        progress: ProgressCallback,
        locked: LockBlock | None,
    ) -> None:
        unlocked = frozenset(
            each.name for each in wanted if locked is not None and str(each) not in locked.requirements.split(", ")
        )
        refused = self._refused.get(wanted, frozenset()) if locked is None else unlocked
        if refused & {each.name for each in _merge_requirements(needed)}:
            refused = frozenset()  # a step that runs needs a refused package: try again
        while ready.python_environment is None:
            left = [each for each in wanted if each.name not in refused]
            try:
                ready.python_environment = await self._ensure(left, install, progress, locked)
            except PythonInstallError as error:
                names = {each.name for each in left}
                blamed = error.failed_names & names or unlocked & names or names
                refused |= blamed
                for name, of_step in needed.items():
                    at_fault = [each.line for each in of_step if each.name in blamed and not each.is_optional]
                    if not left or at_fault:
                        line = min(at_fault) + offsets[name] if at_fault else None
                        ready.failures.setdefault(name, _at_line(error, line))
                if not left:
                    return
        if locked is None:
            self._refused[wanted] = refused

    async def _ensure(
        self,
        wanted: Iterable[PythonRequirement],
        install: bool,
        progress: ProgressCallback,
        locked: LockBlock | None = None,
    ) -> PythonEnvironment:
        return await self._packages.ensure(wanted, install=install, progress=progress, locked=locked)


def _is_python(step: Step) -> bool:
    return step.language == "python" and not step.uses


def _merge_requirements(needs: RequirementsByStep) -> frozenset[PythonRequirement]:
    return frozenset(requirement for needed in needs.values() for requirement in needed)


def _usable(steps: Sequence[Step], ready: PreparedPackages) -> RequirementsByStep:
    """Return valid requirements by step; *ready* receives the failures of steps with invalid requirements."""
    usable: dict[str, tuple[PythonRequirement, ...]] = {}
    versions: dict[str, tuple[str, str]] = {}
    for step in steps:
        kept = []
        for requirement in find_step_requirements(step):
            version = requirement.version
            by, first = versions.setdefault(requirement.name, (step.name, version)) if version else ("", "")
            if version != first:
                line = requirement.line + step.line_offset
                ready.failures.setdefault(step.name, _at_line(_two_versions(requirement.specifier, first, by), line))
            else:
                kept.append(requirement)
        usable[step.name] = tuple(kept)
    return usable


def _at_line(error: PackageInstallError, line: int | None) -> PackageInstallError:
    """Return a copy of *error* for *line* of the cell; several steps may have the error, each at its own line."""
    return PackageInstallError(error.message, fix=error.fix, package=error.package, line=line)


def _two_versions(text: str, other: str, step: str) -> PackageInstallError:
    return PackageInstallError(
        f"This step requires {text} and step {step} requires {other}: all Python steps of a workflow share one environment.",
        fix="Require the same version in both steps.",
    )
