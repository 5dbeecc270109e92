"""
The packages that a run's steps import, made ready before its first step.

Knows what becomes of a package that cannot be had: a step whose packages cannot be installed fails at its place, and
the steps above it run; where nothing may be installed, the run is refused. Finding the imports is `inspection`'s work,
installing that of `packages`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pdkernel.analysis import PackageImport, node_packages
from pdkernel.analysis.go_code import find_external_packages
from pdkernel.clock import Clock, format_iso
from pdkernel.engine.prepared_packages import PreparedPackages, StepProgressCallback
from pdkernel.engine.python_environments import WorkflowPythonEnvironments
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import InterpreterMissingError, PackageInstallError, PackageMissingError
from pdkernel.execution import NOTE_PREFIX, Log, StepResult
from pdkernel.model import Step
from pdkernel.packages import (
    NPM_LOCK_NAME,
    PYTHON_LOCK_NAME,
    NpmPackages,
    NpmSpec,
    PythonPackages,
)
from pdkernel.workers import GO_LOCK_NAME, GoBuildCache, StepCompileError, find_node

INSTALL_COMMAND = "pdkernel packages install"
"""The command that installs what the steps of a source import."""


class StepPackages:
    """
    The packages of a project's steps.

    Args:
        npm: Packages of Node.js steps.
        python: Environments of Python steps; None if their interpreter is chosen elsewhere.
        go: Compiled Go steps: what compiles them downloads the modules that they import.
    """

    def __init__(self, npm: NpmPackages, python: WorkflowPythonEnvironments | None, go: GoBuildCache) -> None:
        self._npm = npm
        self._python = python
        self._go = go

    @classmethod
    def for_project(cls, folder: Path, environ: Mapping[str, str], *, python: Path | None = None) -> StepPackages:
        """
        Those of a project.

        Args:
            folder: The project's (`.../.pdkernel`), which holds them.
            environ: The person's own settings of registries.
            python: The interpreter of all Python steps, if one is chosen.
        """
        environments = None if python else WorkflowPythonEnvironments(python_packages(folder, environ))
        return cls(npm_packages(folder, environ), environments, go_programs(folder, environ))

    async def prepare(
        self,
        steps: Sequence[Step],
        folder: Path,
        *,
        all_steps: Sequence[Step] | None = None,
        install: bool = True,
        on_progress: StepProgressCallback = lambda _step, _line: None,
        source: str = "SOURCE",
    ) -> PreparedPackages:
        """
        Install what *steps* import and is not there.

        Args:
            steps: Those that are to run.
            all_steps: All of the workflow, whose Python steps share one environment; *steps* by default.
            folder: The notebook's or the workflow's own; a package in a `node_modules` there is used from there.
            install: False installs nothing.
            on_progress: Told what goes on, by step.
            source: What commands call the workflow.

        Raises:
            PackageMissingError: Something is not there, and *install* is False.
            ProjectError: A lock file cannot be read.
        """
        steps = list(steps)
        ready = PreparedPackages()
        missing: list[str] = []
        for step in steps:
            if step.language == "go" and step.uses is None and find_external_packages(step.source):
                missing += await self._compile_go_step(step, ready, install=install, tell=on_progress)
        # the largest first: a set that was installed stands for every set that it contains
        needs = sorted(_iter_npm_imports(steps, folder), key=lambda need: -len(need[1]))
        for step, imports in needs:

            def progress(line: str, name: str = step.name) -> None:
                on_progress(name, line)
                if line.startswith("installed "):
                    ready.messages.setdefault(name, []).append(line)

            specs = [NpmSpec(each.name, each.version) for each in imports]
            try:
                ready.node_packages[step.name] = await self._npm.ensure(specs, install=install, progress=progress)
            except PackageMissingError as error:
                missing += error.names
            except PackageInstallError as error:
                ready.failures[step.name] = _at_line(error, step, imports)
            except InterpreterMissingError as error:
                ready.failures[step.name] = error
        try:
            if self._python is not None:
                await self._python.prepare(
                    ready,
                    steps,
                    steps if all_steps is None else all_steps,
                    folder,
                    install=install,
                    on_progress=on_progress,
                )
        except PackageMissingError as error:
            missing += error.names
        if missing:
            raise PackageMissingError(tuple(sorted(set(missing))), f"{INSTALL_COMMAND} {source}")
        return ready

    async def _compile_go_step(
        self, step: Step, ready: PreparedPackages, *, install: bool, tell: StepProgressCallback
    ) -> tuple[str, ...]:
        """Compile a step that imports modules; returns those that are not there if they may not be installed."""
        try:
            await self._go.build_program(step, install=install, report_progress=lambda line: tell(step.name, line))
        except StepCompileError:
            pass  # the step fails with the same words at its place
        except (PackageInstallError, InterpreterMissingError) as error:
            if isinstance(error, PackageInstallError) and not install:
                return find_external_packages(step.source)
            ready.failures[step.name] = error
        return ()

    async def prepare_run(
        self, request: RunRequest, clock: Clock, notify: Callable[[StepResult], None]
    ) -> PreparedPackages:
        """
        As `ready`, for the steps that *request* runs; while a step waits for its packages, *notify* is told so.

        Raises:
            PackageMissingError: Something is not there, and the request says to install nothing.
            ProjectError: A lock file cannot be read.
        """
        steps = [
            step
            for step in request.workflow.steps
            if not step.disabled and request.is_selected(step.name) and step.name not in request.pinned_exports
        ]
        told: dict[str, list[str]] = {}
        began = clock.now()

        def tell(name: str, line: str) -> None:
            if request.on_progress:
                request.on_progress(line)
            lines = told.setdefault(name, [])
            lines.append(f"{NOTE_PREFIX}{line}\n")
            notify(StepResult(name, "not_run", started_at=format_iso(began), logs=(Log("stderr", "".join(lines)),)))

        try:
            return await self.prepare(
                steps,
                request.folder,
                all_steps=[step for step in request.workflow.steps if not step.disabled],
                install=request.install,
                on_progress=tell,
                source=request.source,
            )
        finally:
            for name in told:
                notify(StepResult(name, "not_run"))


def npm_packages(folder: Path, environ: Mapping[str, str]) -> NpmPackages:
    """The npm packages of the project in *folder*, installed there, with the lock file beside it."""
    return NpmPackages(
        folder / "packages" / "node", lock=folder.parent / NPM_LOCK_NAME, node=find_node, environ=environ
    )


def python_packages(folder: Path, environ: Mapping[str, str]) -> PythonPackages:
    """The Python environments of the project in *folder*, kept there, with the lock file beside it."""
    return PythonPackages(folder / "packages" / "python", lock=folder.parent / PYTHON_LOCK_NAME, environ=environ)


def go_programs(folder: Path, environ: Mapping[str, str]) -> GoBuildCache:
    """The compiled Go steps of the project in *folder*, kept there, with the versions of their modules beside it."""
    return GoBuildCache(folder / "cache" / "go", lock=folder.parent / GO_LOCK_NAME, environ=environ)


def _iter_npm_imports(steps: Iterable[Step], folder: Path) -> Iterable[tuple[Step, tuple[PackageImport, ...]]]:
    for step in steps:
        if step.language == "node" and step.uses is None:
            imports = tuple(each for each in node_packages(step.source) if not _is_in_node_modules(each, folder))
            if imports:
                yield step, imports


def _is_in_node_modules(imported: PackageImport, folder: Path) -> bool:
    """Whether the person has installed the package in *folder* or above, as Node.js looks for it."""
    # parity[npm-beside]: a folder on the platform has no node_modules of its own
    if imported.version is not None:
        return False
    places = [folder, *folder.parents]
    return any(os.path.isdir(place / "node_modules" / imported.name) for place in places)  # noqa: PTH112 - a third of the time


def _at_line(error: PackageInstallError, step: Step, imports: Iterable[PackageImport]) -> PackageInstallError:
    """*error* with the line of the cell that imports what cannot be had."""
    lines = {str(NpmSpec(each.name, each.version)): each.line + step.line_offset for each in imports}
    line = lines.get(error.package or "", min(lines.values()))
    return PackageInstallError(error.message, fix=error.fix, package=error.package, line=line)
