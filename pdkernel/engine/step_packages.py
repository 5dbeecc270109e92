"""
Installs the packages that a run's steps import, before the first step.

A step whose packages cannot be installed fails when the run reaches it. If installing is not allowed, missing packages
refuse the run. All Python steps of a workflow share one environment. `analysis` finds the imports, `packages` installs them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pdkernel.common.clock import Clock, format_iso
from pdkernel.engine.run_packages import PackageLock, PreparedPackages, StepProgressCallback
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import InterpreterMissingError, PackageInstallError, PackageMissingError, PdkernelError
from pdkernel.execution import NOTE_PREFIX, Log, StepResult
from pdkernel.language.analysis import PackageImport, PythonRequirement, find_step_packages, find_step_requirements
from pdkernel.language.analysis.go_code import find_external_packages
from pdkernel.model import Step
from pdkernel.packages import (
    NPM_LOCK_NAME,
    PYTHON_LOCK_NAME,
    LockBlock,
    LockedSet,
    NpmPackages,
    NpmSpec,
    ProgressCallback,
    ProgressUpdate,
    PythonEnvironment,
    PythonInstallError,
    PythonPackages,
)
from pdkernel.storage import Project
from pdkernel.workers import (
    GO_LOCK_NAME,
    ZYGOTES,
    GoBuildCache,
    GoLock,
    Isolation,
    StepAccess,
    StepCompileError,
    find_node,
    find_user_obstacle,
)

INSTALL_COMMAND = "pdkernel packages install"
"""The command that installs what the steps of a source import."""


class StepPackages:
    """
    The packages of a project's steps.

    Args:
        npm: Packages of Node.js steps.
        python: Environments of Python steps; None if the caller chose an interpreter.
        go: Compiled Go steps; the compiler downloads the modules that they import.
    """

    def __init__(self, npm: NpmPackages, python: WorkflowPythonEnvironments | None, go: GoBuildCache) -> None:
        self._npm = npm
        self._python = python
        self._go = go

    @classmethod
    def for_project(cls, folder: Path, environ: Mapping[str, str], *, python: Path | None = None) -> StepPackages:
        """
        Return the packages of a project.

        Args:
            folder: The project's folder (`.../.pdkernel`), which stores the packages.
            environ: Environment variables with the user's registry settings.
            python: The interpreter for all Python steps, or None for an environment per workflow.
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
        locked: PackageLock | None = None,
    ) -> PreparedPackages:
        """
        Install the missing packages of *steps*.

        Args:
            steps: The steps of the run.
            all_steps: All steps of the workflow, whose Python steps share one environment; *steps* by default.
            folder: The folder of the notebook or the workflow; packages in its `node_modules` are used in place.
            install: False installs nothing.
            on_progress: Receives progress by step.
            source: The path of the notebook or folder, for commands in messages.
            locked: The packages with which a continued run began. Then a package that is not installed fails only its steps.

        Raises:
            PackageMissingError: A package is not installed, *install* is False, and *locked* is None.
            ProjectError: A lock file cannot be read.
        """
        steps = list(steps)
        ready = PreparedPackages()
        go_lock = locked.go if locked is not None else None
        missing = await self._compile_go_steps(steps, ready, install=install, on_progress=on_progress, lock=go_lock)
        # the largest set first: an installed set also serves its subsets
        needs = sorted(_iter_npm_imports(steps, folder), key=lambda need: -len(need[1]))
        for step, imports in needs:
            missing[step.name] = await self._install_npm_imports(
                step,
                imports,
                ready,
                install=install,
                on_progress=on_progress,
                locked=locked.node.get(step.name) if locked is not None else None,
            )
        try:
            if self._python is not None:
                await self._python.prepare(
                    ready,
                    steps,
                    steps if all_steps is None else all_steps,
                    install=install,
                    on_progress=on_progress,
                    locked=locked.python if locked is not None else None,
                )
        except PackageMissingError as error:
            missing |= {step.name: error.names for step in steps if step.language == "python" and step.uses is None}
        command = f"{INSTALL_COMMAND} {source}"
        names = {name for of_step in missing.values() for name in of_step}
        if names and locked is None:
            raise PackageMissingError(tuple(sorted(names)), command)
        ready.failures |= {name: PackageMissingError(lacking, command) for name, lacking in missing.items() if lacking}
        return ready

    async def finish(self) -> None:
        """Wait until the installed Python packages are compiled to bytecode, which happens while the steps run."""
        if self._python is not None:
            await self._python.finish()

    async def _compile_go_steps(
        self,
        steps: Sequence[Step],
        ready: PreparedPackages,
        *,
        install: bool,
        on_progress: StepProgressCallback,
        lock: GoLock | None,
    ) -> dict[str, tuple[str, ...]]:
        """Compile the Go steps that import modules; return the missing modules of each, if installing is not allowed."""
        missing = {
            step.name: await self._compile_go_step(step, ready, install=install, on_progress=on_progress, lock=lock)
            for step in steps
            if step.language == "go" and step.uses is None and find_external_packages(step.source)
        }
        if any(not names and step not in ready.failures for step, names in missing.items()):
            ready.go_lock = lock or self._go.read_lock()
        return missing

    async def _compile_go_step(
        self,
        step: Step,
        ready: PreparedPackages,
        *,
        install: bool,
        on_progress: StepProgressCallback,
        lock: GoLock | None,
    ) -> tuple[str, ...]:
        """Compile a step that imports modules; return missing modules if installing is not allowed."""
        try:
            await self._go.build_program(
                step, install=install, report_progress=lambda line: on_progress(step.name, line), lock=lock
            )
        except StepCompileError:
            pass  # the step itself fails later with the same error
        except (PackageInstallError, InterpreterMissingError) as error:
            if isinstance(error, PackageInstallError) and not install:
                return find_external_packages(step.source)
            ready.failures[step.name] = error
        return ()

    async def _install_npm_imports(
        self,
        step: Step,
        imports: tuple[PackageImport, ...],
        ready: PreparedPackages,
        *,
        install: bool,
        on_progress: StepProgressCallback,
        locked: LockedSet | None,
    ) -> tuple[str, ...]:
        """Install the packages that a Node.js step imports; return missing packages if installing is not allowed."""

        def progress(line: str) -> None:
            on_progress(step.name, line)
            if line.startswith("installed "):
                ready.messages.setdefault(step.name, []).append(line)

        specs = [NpmSpec(each.name, each.version) for each in imports]
        try:
            ready.node_packages[step.name] = await self._npm.ensure(
                specs, install=install, progress=progress, locked=locked
            )
        except PackageMissingError as error:
            return error.names
        except PackageInstallError as error:
            lines = {str(spec): each.line + step.line_offset for spec, each in zip(specs, imports, strict=True)}
            ready.failures[step.name] = _at_line(error, lines.get(error.package or "", min(lines.values())))
        except InterpreterMissingError as error:
            ready.failures[step.name] = error
        return ()

    async def prepare_run(
        self,
        request: RunRequest,
        clock: Clock,
        notify: Callable[[StepResult], None],
        on_progress: Callable[[str], None] | None,
        *,
        locked: PackageLock | None,
        failures: Mapping[str, PdkernelError],
    ) -> PreparedPackages:
        """
        Install the missing packages of the steps that *request* runs.

        Args:
            request: The run's request.
            clock: For time stamps.
            notify: Receives progress as step results.
            on_progress: Receives lines about the installation, or None.
            locked: As for `prepare`.
            failures: Why the component of an action step of a continued run could not be installed, by step.

        Raises:
            PackageMissingError: As for `prepare`.
            ProjectError: A lock file cannot be read.
        """
        steps = request.executed_steps
        lines_by_step: dict[str, list[str]] = {}
        began = clock.now()

        def report(name: str, line: str) -> None:
            if on_progress:
                on_progress(line)
            lines = lines_by_step.setdefault(name, [])
            if lines and isinstance(lines[-1], ProgressUpdate):
                lines.pop()
            lines.append(line)
            notes = "".join(f"{NOTE_PREFIX}{each}\n" for each in lines)
            notify(StepResult(name, "not_run", started_at=format_iso(began), logs=(Log("stderr", notes),)))

        try:
            ready = await self.prepare(
                steps,
                request.folder,
                all_steps=[step for step in request.workflow.steps if not step.disabled],
                install=request.install,
                on_progress=report,
                source=request.source,
                locked=locked,
            )
        finally:
            for name in lines_by_step:
                notify(StepResult(name, "not_run"))
        if locked is not None:
            ready.failures |= failures
            ready.explain_lock(request)
        return ready


def npm_packages(folder: Path, environ: Mapping[str, str]) -> NpmPackages:
    """Return the npm packages stored in the project folder *folder*; the lock file is beside the folder."""
    return NpmPackages(
        folder / "packages" / "node", lock=folder.parent / NPM_LOCK_NAME, node=find_node, environ=environ
    )


def python_packages(folder: Path, environ: Mapping[str, str]) -> PythonPackages:
    """Return the Python environments stored in the project folder *folder*; the lock file is beside the folder."""
    return PythonPackages(folder / "packages" / "python", lock=folder.parent / PYTHON_LOCK_NAME, environ=environ)


def step_access(folder: Path, certificates: Iterable[Path], *, project: Project | None = None) -> StepAccess:
    """
    Return what steps may see of the project folder *folder*: packages, compiled programs and the file store.

    Args:
        folder: The folder (`.pdkernel`). Steps may read the folder that contains it, too: the project's code.
        certificates: The certificates for outbound calls.
        project: A project whose key and database may be elsewhere, or None.
    """
    hide = {folder}
    if project is not None:
        hide |= {project.folder, project.key_file}
        if project.sqlite_path is not None:
            hide |= {Path(f"{project.sqlite_path}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")}
    return StepAccess(
        read=frozenset({folder.parent, folder / "packages", folder / "cache" / "go" / "programs", *certificates}),
        write=frozenset({folder / "files"}),
        hide=frozenset(path for path in hide if not hide.intersection(path.parents)),
    )


def find_isolation(project: Project, sources: Iterable[Path]) -> Isolation:
    """Return what is in force for steps of *sources*, notebooks and folders, in *project*. Starts a zygote to find out."""
    isolation = ZYGOTES.isolation()
    access = step_access(project.folder, (), project=project)
    folders = {path if path.is_dir() else path.parent for path in map(Path.absolute, sources)}
    obstacle = find_user_obstacle(isolation, access.extend(folders, ()))
    return isolation.without_user(obstacle) if obstacle else isolation


def go_programs(folder: Path, environ: Mapping[str, str]) -> GoBuildCache:
    """Return the compiled Go steps stored in the project folder *folder*; the lock file is beside the folder."""
    return GoBuildCache(folder / "cache" / "go", lock=folder.parent / GO_LOCK_NAME, environ=environ)


def _iter_npm_imports(steps: Iterable[Step], folder: Path) -> Iterable[tuple[Step, tuple[PackageImport, ...]]]:
    for step in steps:
        if step.language == "node" and step.uses is None:
            imports = tuple(each for each in find_step_packages(step) if not _is_in_node_modules(each, folder))
            if imports:
                yield step, imports


def _is_in_node_modules(imported: PackageImport, folder: Path) -> bool:
    """Return whether the package is in a `node_modules` of *folder* or its parents, where Node.js finds it."""
    # parity[npm-beside]: on the platform a workflow's folder has no node_modules
    if imported.version is not None:
        return False
    places = [folder, *folder.parents]
    return any(os.path.isdir(place / "node_modules" / imported.name) for place in places)  # noqa: PTH112 - a third of the time


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


def _two_versions(text: str, other: str, step: str) -> PackageInstallError:
    return PackageInstallError(
        f"This step requires {text} and step {step} requires {other}: all Python steps of a workflow share one environment.",
        fix="Require the same version in both steps.",
    )


def _at_line(error: PackageInstallError, line: int | None) -> PackageInstallError:
    """Return a copy of *error* for *line* of the cell; several steps may have the error, each at its own line."""
    return PackageInstallError(error.message, fix=error.fix, package=error.package, line=line)
