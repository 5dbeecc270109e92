"""
The Python environment of a workflow: what its steps need, and which of them cannot have it.

Knows that all Python steps of a workflow share one environment and that a package that cannot be had fails only the steps
that need it. What a step needs is `inspection`'s to say, and having it is `packages`'.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pdkernel.analysis import PythonRequirement, find_python_requirements
from pdkernel.engine.prepared_packages import PreparedPackages, StepProgressCallback
from pdkernel.errors import PackageInstallError, PackageMissingError
from pdkernel.model import Step
from pdkernel.packages import ProgressCallback, PythonEnvironment, PythonInstallError, PythonPackages

RequirementsByStep = Mapping[str, tuple[PythonRequirement, ...]]

_needs_of = functools.lru_cache(maxsize=1000)(find_python_requirements)


class WorkflowPythonEnvironments:
    """
    Prepares Python environments for runs.

    Args:
        packages: Where they come from.
    """

    def __init__(self, packages: PythonPackages) -> None:
        self._packages = packages
        self._refused: dict[frozenset[PythonRequirement], frozenset[str]] = {}

    async def prepare(
        self,
        prepared: PreparedPackages,
        steps: Sequence[Step],
        all_steps: Iterable[Step],
        folder: Path,
        *,
        install: bool,
        on_progress: StepProgressCallback,
    ) -> None:
        """
        Put into *prepared* the environment of the Python steps in *all_steps*, and which of *steps* cannot have theirs.

        Args:
            prepared: Gets `python` and `failures`.
            steps: The steps that are to run; without a Python step among them nothing is done.
            all_steps: All steps of the workflow.
            folder: The notebook's or the workflow's own.
            install: False installs nothing.
            on_progress: Told what goes on, by step.

        Raises:
            PackageMissingError: A step that runs needs what is not installed, and *install* is False.
            ProjectError: The lock file cannot be read.
        """
        names = [step.name for step in steps if _is_python(step)]
        if not names:
            return
        needs = _usable([step for step in all_steps if _is_python(step)], folder, prepared)
        needed = {name: needs[name] for name in names}
        waiting = next((name for name in names if needed[name]), names[0])

        def progress(line: str) -> None:
            on_progress(waiting, line)
            if line.startswith("installed "):
                prepared.messages.setdefault(waiting, []).append(line)

        wanted = _merge_requirements(needs)
        if not install and wanted != _merge_requirements(needed):
            try:
                prepared.python_environment = await self._ensure(wanted, install, progress)
            except PackageMissingError:  # for a step that does not run, it may be
                wanted = _merge_requirements(needed)
        if prepared.python_environment is None:
            offsets = {step.name: step.line_offset for step in steps if _is_python(step)}
            await self._install(prepared, wanted, needed, offsets, install, progress)

    async def _install(
        self,
        ready: PreparedPackages,
        wanted: frozenset[PythonRequirement],
        needed: RequirementsByStep,
        offsets: Mapping[str, int],
        install: bool,
        progress: ProgressCallback,
    ) -> None:
        refused = self._refused.get(wanted, frozenset())
        if refused & {each.name for each in _merge_requirements(needed)}:
            refused = frozenset()  # a step that runs needs it: ask again
        while ready.python_environment is None:
            left = [each for each in wanted if each.name not in refused]
            try:
                ready.python_environment = await self._ensure(left, install, progress)
            except PythonInstallError as error:
                blamed = error.failed_names & {each.name for each in left} or {each.name for each in left}
                refused |= blamed
                for name, of_step in needed.items():
                    at_fault = [each.line for each in of_step if each.name in blamed and not each.is_optional]
                    if not left or at_fault:
                        line = min(at_fault) + offsets[name] if at_fault else None
                        ready.failures.setdefault(name, _at_line(error, line))
                if not left:
                    return
        self._refused[wanted] = refused

    async def _ensure(
        self, wanted: Iterable[PythonRequirement], install: bool, progress: ProgressCallback
    ) -> PythonEnvironment:
        return await self._packages.ensure(wanted, install=install, progress=progress)


def _is_python(step: Step) -> bool:
    return step.language == "python" and not step.uses


def _merge_requirements(needs: RequirementsByStep) -> frozenset[PythonRequirement]:
    return frozenset(requirement for needed in needs.values() for requirement in needed)


def _usable(steps: Sequence[Step], folder: Path, ready: PreparedPackages) -> RequirementsByStep:
    """What can be asked for, by step; why a step cannot run whatever is installed goes into *ready*."""
    usable: dict[str, tuple[PythonRequirement, ...]] = {}
    versions: dict[str, tuple[str, str]] = {}
    for step in steps:
        kept = []
        for requirement in _needs_of(step.source):
            version = requirement.version
            by, first = versions.setdefault(requirement.name, (step.name, version)) if version else ("", "")
            if requirement.module and _is_local_file(requirement.module, folder):
                if not requirement.is_optional:
                    line = requirement.line + step.line_offset
                    ready.failures.setdefault(step.name, _at_line(_local_file_error(requirement.module), line))
            elif version != first:
                line = requirement.line + step.line_offset
                ready.failures.setdefault(step.name, _at_line(_two_versions(requirement.specifier, first, by), line))
            else:
                kept.append(requirement)
        usable[step.name] = tuple(kept)
    return usable


def _at_line(error: PackageInstallError, line: int | None) -> PackageInstallError:
    """The same error, said to be in *line* of the cell; several steps may have it, each in a line of its own."""
    return PackageInstallError(error.message, fix=error.fix, package=error.package, line=line)


def _is_local_file(module: str, folder: Path) -> bool:
    top = module.partition(".")[0]
    return (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()


def _local_file_error(module: str) -> PackageInstallError:
    top = module.partition(".")[0]
    return PackageInstallError(
        f"`import {top}` would mean the file {top} beside the workflow, and a step is one file: it sees no other, here as "
        "on the platform.",
        fix="Put the code that it needs into the step.",
    )


def _two_versions(text: str, other: str, step: str) -> PackageInstallError:
    return PackageInstallError(
        f"This step asks for {text} and step {step} for {other}: all Python steps of a workflow share one environment.",
        fix="Ask for one version in both.",
    )
