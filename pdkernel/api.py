"""
The Python API: `load`, `run`, `run_async` and `export`, which `pdkernel` exports.

The functions do what the commands of these names do, and print nothing.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pdkernel.common.loop_thread import LoopThread
from pdkernel.engine.variables import check_variables, load_variables
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution, RunFailedError
from pdkernel.files.source import WorkflowSource, load_source
from pdkernel.model import JSON
from pdkernel.operations.shared_engine import Engine, PathLike, use_engine

if TYPE_CHECKING:
    from pandas import DataFrame

    from pdkernel.engine.pauses import PauseMode
    from pdkernel.engine.run_request import OnChange, RunRequest
    from pdkernel.operations.events import EventLike
    from pdkernel.operations.export import Export, Proof
    from pdkernel.storage import Project

__all__ = [
    "Engine",
    "Event",
    "Execution",
    "PdkernelError",
    "RunFailedError",
    "WorkflowSource",
    "export",
    "load",
    "run",
    "run_async",
    "runs",
]


def load(source: PathLike) -> WorkflowSource:
    """
    Load the workflow of *source*: its code, its settings and its folder.

    Args:
        source: A notebook, a workflow's folder, or a folder with one workflow.

    Raises:
        NotebookError: There is no workflow, or there are several.
        DefinitionError: The workflow is invalid.
        RequestError: Its `pdkernel.yaml` has unanswered entries.
    """
    return load_source(Path(source))


def run(
    workflow: WorkflowSource | PathLike,
    *,
    event: EventLike | None = None,
    body: JSON = None,
    external_user: str | None = None,
    environment: str | None = None,
    egress: str | None = None,
    pins: Mapping[str, JSON] | None = None,
    from_step: str | None = None,
    to_step: str | None = None,
    variables: Mapping[str, str] | None = None,
    pause_mode: PauseMode = "park",
    install: bool = True,
    on_change: OnChange | None = None,
    on_progress: Callable[[str], None] | None = None,
    project: PathLike | None = None,
    engine: Engine | None = None,
) -> Execution:
    """
    Run *workflow* on an event and wait for its end.

    A failed step does not raise: `execution.status` is then `error`, and `execution.raise_for_status()` raises. The same holds
    for a run that is refused before its first step, for example because the external user has no account.

    The engine works in a thread of its own, so a caller inside a running event loop, such as a notebook, can call this function.
    An interrupt (Ctrl-C) cancels the run, and raises `KeyboardInterrupt` after the workers have stopped.

    Args:
        workflow: A loaded workflow, or what `load` takes.
        event: The event: an object, an `Event`, the path of an event file, or the name of a file in `events/`.
        body: A payload, which is wrapped as a POST, instead of *event*; None for no payload.
        external_user: The external user's id; default: the user that the event names.
        environment: `development` or `production`; default: the event's, else `development`.
        egress: The outbound policy, as `--egress` takes it; default: `PDKERNEL_EGRESS`, else under pytest `deny`, else that of the
            notebook's last `%pdegress` cell, else `live`.
        pins: Exports of steps that do not run, by step: an object with the exports, or another value, which is the return value.
        from_step: The first step to run; pin what it needs from the steps above.
        to_step: The last step to run.
        variables: Environment variables besides those of the project and `.env`.
        pause_mode: What a pause does: `park` ends the run as `paused`, `wait` waits, `skip` goes on at once.
        install: Whether missing packages are installed; if not, a missing package refuses the run.
        on_change: Called with the execution after each change, from the engine's thread.
        on_progress: Called with lines about the installation of packages, from the engine's thread.
        project: The folder of the local project; default: the nearest `.pdkernel` upwards, else a new one in the current folder.
        engine: An engine that several runs share, instead of *project*.

    Raises:
        DefinitionError: The workflow is invalid, or has no such step.
        RequestError: An argument is invalid, or the event is missing.
        ProjectError: The project cannot be used.
    """
    build = partial(
        _build_request,
        workflow,
        event=event,
        body=body,
        external_user=external_user,
        environment=environment,
        egress=egress,
        pins=pins,
        from_step=from_step,
        to_step=to_step,
        variables=variables,
        pause_mode=pause_mode,
        install=install,
    )
    from pdkernel.engine.run_request import RunWatcher

    watcher = RunWatcher(on_change=on_change, on_progress=on_progress)
    with use_engine(engine, project) as chosen:
        return chosen.start_run(build, watcher, closes=engine is None).result(raises_interrupt=True)


async def run_async(
    workflow: WorkflowSource | PathLike,
    *,
    event: EventLike | None = None,
    body: JSON = None,
    external_user: str | None = None,
    environment: str | None = None,
    egress: str | None = None,
    pins: Mapping[str, JSON] | None = None,
    from_step: str | None = None,
    to_step: str | None = None,
    variables: Mapping[str, str] | None = None,
    pause_mode: PauseMode = "park",
    install: bool = True,
    on_change: OnChange | None = None,
    on_progress: Callable[[str], None] | None = None,
    project: PathLike | None = None,
    engine: Engine | None = None,
) -> Execution:
    """
    Run *workflow* without blocking the caller's event loop; arguments and errors are those of `run`.

    If the awaiting task is cancelled, the run is cancelled too.
    """
    build = partial(
        _build_request,
        workflow,
        event=event,
        body=body,
        external_user=external_user,
        environment=environment,
        egress=egress,
        pins=pins,
        from_step=from_step,
        to_step=to_step,
        variables=variables,
        pause_mode=pause_mode,
        install=install,
    )
    from pdkernel.engine.run_request import RunWatcher

    watcher = RunWatcher(on_change=on_change, on_progress=on_progress)
    with use_engine(engine, project) as chosen:
        return await chosen.start_run(build, watcher, closes=engine is None).result_async()


def runs(
    *,
    workflow: str | None = None,
    external_user: str | None = None,
    environment: str | None = None,
    status: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: int = 1000,
    project: PathLike | None = None,
) -> DataFrame:
    """
    List recorded runs as a pandas DataFrame, newest first.

    The columns are `id`, `workflow`, `status`, `external_user`, `environment`, `started`, `finished`, `seconds`, `steps` (their
    number) and `error` (its message).

    Args:
        workflow: Only runs of the workflow with this name.
        external_user: Only runs of this external user.
        environment: Only runs in `development` or `production`.
        status: Only runs with this status, such as `error`.
        since: Only runs that started then or later: `2h`, `3d`, `2026-11-24`, `last tuesday`.
        until: Only runs that started before then.
        limit: The maximum number of runs.
        project: The folder of the local project; default: as in `run`.

    Raises:
        RequestError: A filter is invalid.
        ProjectError: The project cannot be used.
    """
    from pdkernel.operations import run_history
    from pdkernel.operations.projects import open_project

    opened = open_project(Path.cwd(), os.environ, folder=None if project is None else os.fspath(project))
    loop = LoopThread()
    try:
        query = run_history.build_query(
            opened.clock,
            workflow=workflow,
            external_user=external_user,
            environment=environment,
            status=status,
            since=since,
            until=until,
            limit=limit,
        )
        return run_history.build_runs_frame(loop.run(run_history.list_runs(opened, query)))
    finally:
        loop.close()
        opened.close()


def export(
    source: WorkflowSource | PathLike,
    *,
    to: PathLike | None = None,
    into: PathLike | None = None,
    docs: bool = False,
    dry_run: bool = False,
    prove: bool = False,
    project: PathLike | None = None,
) -> Export:
    """
    Write a workflow as a folder, which `pdkernel serve` serves and Pipedream deploys.

    Args:
        source: A loaded workflow, or what `load` takes; a path may have unanswered account questions, except for a proof.
        to: A new folder.
        into: A folder that Pipedream synced; its unchanged parts stay.
        docs: Also write `README.md`, and in a synced folder `pdkernel.yaml`.
        dry_run: Compare only.
        prove: Run the written files and the workflow on every saved event, offline, and compare the runs.
        project: The folder of the local project for *prove*; default: as in `run`.

    Returns:
        The export: `files` has the folder, its files with their states, the checklist, the findings and the command that serves the
        folder; `proof` is the proof
        or None.

    Raises:
        DefinitionError: The workflow is invalid or cannot be written.
        RequestError: There is not exactly one target folder, or the folder cannot be written to.
    """
    from pdkernel.operations.export import Export, check_export_options, export_workflow

    if to is None and into is None:
        raise RequestError(
            "The target folder is missing.",
            fix="Pass either to=FOLDER for a new folder or into=FOLDER for a synced folder.",
        )
    target, patched = (None if folder is None else os.fspath(folder) for folder in (to, into))
    check_export_options(to=target, into=patched, dry_run=dry_run, prove=prove)
    if not isinstance(source, WorkflowSource):
        source = load_source(Path(source), unanswered="refuse" if prove else "keep")
    is_patch = patched is not None
    files = export_workflow(
        source, Path(patched or target or ""), is_patch=is_patch, include_docs=docs, dry_run=dry_run
    )
    return Export(files, _prove(source, files.folder, is_patch=is_patch, project=project) if prove else None)


def _build_request(
    workflow: WorkflowSource | PathLike,
    project: Project,
    *,
    event: EventLike | None,
    body: JSON,
    external_user: str | None,
    environment: str | None,
    egress: str | None,
    pins: Mapping[str, JSON] | None,
    from_step: str | None,
    to_step: str | None,
    variables: Mapping[str, str] | None,
    pause_mode: PauseMode,
    install: bool,
) -> RunRequest:
    from pdkernel.common.identity import check_external_user_id, parse_environment
    from pdkernel.egress import choose_policy
    from pdkernel.operations.events import resolve_event
    from pdkernel.operations.runs import build_run_request, pin_steps, select_steps

    source = workflow if isinstance(workflow, WorkflowSource) else load_source(Path(workflow), pinned_steps=pins or ())
    read = resolve_event(source, event, body)
    given = check_variables(variables or {})
    return build_run_request(
        source,
        read,
        project=project,
        policy=choose_policy(egress, os.environ, cells=source.policy_cells, given_by="egress="),
        external_user_id=read.external_user_id if external_user is None else check_external_user_id(external_user),
        environment=parse_environment(environment or read.environment),
        source_argument=shlex.quote(str(source.path)),
        interface="python",
        only_steps=select_steps(source.workflow, first=from_step, last=to_step),
        pinned_exports=pin_steps(source.workflow, pins or {}),
        pause_mode=pause_mode,
        install=install,
        variables=lambda folder: {**load_variables(project, folder), **given},
    )


def _prove(source: WorkflowSource, folder: Path, *, is_patch: bool, project: PathLike | None) -> Proof:
    from pdkernel.accounts import open_directory
    from pdkernel.kit.session.state import read_pinned_steps
    from pdkernel.operations.export import prove_export
    from pdkernel.operations.projects import open_project

    opened = open_project(Path.cwd(), os.environ, folder=None if project is None else os.fspath(project))
    try:
        return prove_export(
            source,
            folder,
            project=opened,
            directory=open_directory(opened, os.environ),
            environ=os.environ,
            is_patch=is_patch,
            pinned_steps=sorted(read_pinned_steps(opened, source.path)),
        )
    finally:
        opened.close()
