"""
A crash test: two runs of a workflow without a crash, and the same run with a crash at each point and a recovery.

The runs take place in copies of a temporary project, each in processes of its own, which a fork server starts. The user's project is only read.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Self

from pdkernel.accounts import LocalDirectory
from pdkernel.annex.crash_test.findings import RunOutcome, compare_outcomes, find_varying
from pdkernel.annex.crash_test.points import CrashPoint, Ledger, SeenCall
from pdkernel.annex.crash_test.process import (
    CALLS_FILE,
    ERROR_FILE,
    POINTS_FILE,
    RESULT_FILE,
    ProcessTask,
    run_process,
)
from pdkernel.annex.crash_test.report import CrashReport, PointResult
from pdkernel.annex.crash_test.stand_in_process import run_stand_ins
from pdkernel.common.encode import decode_json
from pdkernel.common.identity import Directory, Environment
from pdkernel.common.loop_thread import LoopThread
from pdkernel.common.safe_files import PROJECT_FOLDER_NAME, read_file
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.run_request import UNWATCHED
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import InternalError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.files.source import WorkflowSource
from pdkernel.operations.runs import build_run_request
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.storage import Project
from pdkernel.workers import WARDEN, make_scratch_folder

MAX_POINTS = 60
"""Crash points that are tried by default."""
AT_ONCE = 2
"""Crash points that are tried at the same time."""
CONTROL_RUNS = 2
"""Runs without a crash: what differs between them is not compared."""
CONTROL_LIMIT_S = 600.0
"""Seconds that a run without a crash may take."""
_MIN_LIMIT_S, _LIMIT_FACTOR = 60.0, 5
"""A run with a crash may take so many seconds at least, and so many times as long as one without."""
_COPIED_SETTINGS = ("actions", "actions_licence", "apps")
"""Settings that a run needs. Without a mail server and without `error_notification`, nothing is sent to a person."""
_PRELOADED = (
    run_process.__module__,
    *(
        "pdkernel.egress.client_connection",
        "pdkernel.egress.router",
        "pdkernel.egress.upstream",
        "httpx",
        "anyio._backends._asyncio",
        "pdkernel.cli",
    ),
)
"""Modules that each process would import; the last one is imported by the main module of the command."""
_URGENT = ("send", "call", "step", "end", "pause")
"""Kinds of points, the ones that find the most first: a limit leaves out the others."""


@dataclass(frozen=True)
class CrashTest:
    """
    What is tested.

    Attributes:
        source: The notebook or the workflow's folder.
        event: The event.
        project: The project with packages, actions, accounts, variables and data stores; it is only read.
        directory: Users and accounts.
        policy: The outbound policy of all runs.
        external_user_id: The external user, or None.
        environment: The environment of the external user.
        source_argument: The source as an argument of a command, for messages.
        packages: The folder (`.pdkernel`) with packages and actions; None for that of *project*.
        limit: The number of crash points that are tried.
        on_progress: Called with the number of points that are done, and that of all.
    """

    source: WorkflowSource
    event: Event
    project: Project
    directory: Directory
    policy: OutboundPolicy
    external_user_id: str | None
    environment: Environment
    source_argument: str
    packages: Path | None = None
    limit: int = MAX_POINTS
    on_progress: Callable[[int, int], None] = lambda _done, _all: None

    def run(self) -> CrashReport:
        """
        Run the workflow twice without a crash, and with a crash at each point.

        Raises:
            RequestError: A run without a crash fails or is refused, so there is nothing to compare with.
            InternalError: A process of the test failed.
        """
        with _scratch_folder() as folder, Processes() as processes:
            start = folder / "start"
            self.prepare(start)
            began = time.monotonic()
            find_policy = self._start_stand_ins(processes)
            controls, reached = self._run_controls(processes, start, find_policy)
            chosen = _choose(reached, self.limit)
            limit_s = max(_MIN_LIMIT_S, _LIMIT_FACTOR * (time.monotonic() - began) / CONTROL_RUNS)
            tasks = [
                ProcessTask(folder / str(number), self._packages, find_policy(str(number)), dies_at=point)
                for number, point in enumerate(chosen)
            ]
            results = self._try_points(processes, start, tasks, controls, limit_s)
        return CrashReport(
            workflow=self.source.workflow.name,
            policy=self.policy.text,
            status=controls[0].root.status,
            points=tuple(results),
            left_out=tuple(point for point in reached if point not in chosen),
            steps={step.name: step.language for step in self.source.workflow.steps},
            varying=find_varying(controls),
        )

    @property
    def _packages(self) -> Path:
        return self.packages or self.project.folder

    def prepare(self, folder: Path) -> None:
        """Make a project in *folder* that has accepted the event, with what the run needs of the user's project."""
        folder.mkdir()
        with Project.open(folder / PROJECT_FOLDER_NAME) as project:
            _copy_project(self.project, self.directory, project, self.external_user_id, self.environment)
            request = build_run_request(
                self.source,
                self.event,
                project=project,
                policy=self.policy,
                external_user_id=self.external_user_id,
                environment=self.environment,
                source_argument=self.source_argument,
                interface="http",
                pause_mode="park",
                install=False,
            ).with_changes(test=False)

            async def accept() -> None:
                engine = await WorkflowEngine.start(project, LocalDirectory(project), origin="python")
                async with engine:
                    assert engine.gateway.certificate_files  # type: ignore[attr-defined]  # made once for all copies
                    await engine.enqueue(request, None, UNWATCHED, origin="serve")

            loop = LoopThread()
            try:
                loop.run(accept())
            finally:
                loop.close()

    def _run_controls(
        self, processes: Processes, start: Path, find_policy: Callable[[str], str | None]
    ) -> tuple[list[RunOutcome], list[CrashPoint]]:
        """Run the workflow twice without a crash; return what the runs have done, and the crash points of the first."""
        self.on_progress(0, 0)
        controls = []
        for number in range(CONTROL_RUNS):
            folder = copy_start(start, start.with_name(f"control-{number}"))
            processes.start(ProcessTask(folder, self._packages, find_policy(folder.name), lists_points=number == 0))
            (ended,) = processes.wait_any(CONTROL_LIMIT_S)
            if ended.exitcode not in (0, -signal.SIGKILL):
                raise _build_fault(folder)
            controls.append(self._read_control(folder))
        return controls, _list_points(Ledger.read(start.with_name("control-0") / POINTS_FILE, CrashPoint))

    def _read_control(self, folder: Path) -> RunOutcome:
        outcome = read_outcome(folder)
        if outcome is None:
            raise RequestError(
                f"The run without a crash did not end within {CONTROL_LIMIT_S:g} s, so there is nothing to compare with.",
                fix="Use an event with which the workflow ends sooner.",
            )
        run = outcome.root
        if run.status not in ("success", "exited"):
            why = f"in step {run.error.step}: {run.error.message}" if run.error and run.error.step else ""
            why = why or (run.error.message if run.error else f"its status is {run.status}.")
            raise RequestError(
                f"The run without a crash failed under the outbound policy {self.policy.text}, so there is nothing to compare with: {why}",
                fix="Correct the workflow or choose another event. If a call is the reason, let --egress answer it: stand-in=slack, "
                f"stand-in=URL, or a recording: pdkernel run {self.source_argument} --egress record=FILE, then --egress replay=FILE.",
            )
        return outcome

    def _start_stand_ins(self, processes: Processes) -> Callable[[str], str | None]:
        """Start the built-in stand-ins of the policy; return the policy of the run with a name, None for that of the test."""
        names = self.policy.stand_in_names
        if names is None:
            return lambda _: None
        port = processes.start_stand_ins(names)
        return lambda run: f"stand-in=http://127.0.0.1:{port}/{run}"

    def _try_points(
        self,
        processes: Processes,
        start: Path,
        tasks: Sequence[ProcessTask],
        controls: Sequence[RunOutcome],
        limit_s: float,
    ) -> list[PointResult]:
        """Try the crash points of *tasks*, some at the same time; return the results in their order."""
        waiting = list(enumerate(tasks))
        active: dict[ForkServerProcess, tuple[int, ProcessTask]] = {}
        results: dict[int, PointResult] = {}

        def start_process(number: int, task: ProcessTask) -> None:
            active[processes.start(task)] = (number, task)

        while waiting or active:
            self.on_progress(len(results), len(tasks))
            while waiting and len(active) < AT_ONCE:
                number, task = waiting.pop(0)
                copy_start(start, task.folder)
                start_process(number, task)
            for ended in processes.wait_any(limit_s):
                number, task = active.pop(ended)
                if ended.exitcode not in (0, -signal.SIGKILL):
                    raise _build_fault(task.folder)
                if task.number == 1 and ended.exitcode != 0:
                    start_process(number, replace(task, number=2, dies_at=None))
                    continue
                point, is_reached = tasks[number].dies_at, task.number == 2
                assert point is not None
                # a run that came by another way has not crashed
                findings = compare_outcomes(controls, read_outcome(task.folder), limit_s) if is_reached else ()
                results[number] = PointResult(point, is_reached, tuple(findings))
                remove_tree(task.folder)
        self.on_progress(len(results), len(tasks))
        return [results[number] for number in sorted(results)]


def _copy_project(
    project: Project, directory: Directory, copy: Project, external_user_id: str | None, environment: Environment
) -> None:
    """Copy what a run may need to *copy*: accounts of the external user and your own, variables, data stores, files, settings."""
    accounts = list(directory.accounts(own=True))
    if external_user_id is not None:
        accounts += directory.accounts(external_user_id=external_user_id, environment=environment)
    for account in accounts:
        stored = project.accounts.find(account.id) is not None
        # credentials that are stored here are not renewed: nothing is sent with them
        found = project.accounts.credentials(account.id) if stored else directory.credentials(account.id)
        withheld = {name: f"withheld-{name}" for name in found.withheld_names}
        copy.accounts.add(account, {**withheld, **found})
    for name, value in project.variables.values().items():
        copy.variables.set(name, value)
    for name in project.data_stores.names():
        copy.data_stores.put_records(name, list(project.data_stores.iter_records(name)))
    for name in _COPIED_SETTINGS:
        if (setting := project.settings.get(name)) is not None:
            copy.settings.set(name, setting)
    copy.set_plan(directory.plan)
    files = project.folder / "files"
    if files.is_dir():
        shutil.copytree(files, copy.folder / "files", symlinks=True)


def _list_points(reached: Sequence[CrashPoint]) -> list[CrashPoint]:
    """Return the points, without the first claim: nothing of the workflow has happened before it."""
    return [point for point in reached if point.kind != "claim" or point.number > 1]


def _choose(reached: Sequence[CrashPoint], limit: int) -> list[CrashPoint]:
    """Return at most *limit* points, in order: those of the kinds that find the most, evenly distributed over the run."""
    found = reached
    if len(found) <= limit:
        return list(found)
    kinds = sorted(range(len(found)), key=lambda place: _rank(found[place]))
    chosen: list[int] = []
    for rank in sorted({_rank(found[place]) for place in kinds}):
        same = [place for place in kinds if _rank(found[place]) == rank]
        room = limit - len(chosen)
        chosen += same if len(same) <= room else [same[len(same) * number // room] for number in range(room)]
    return [found[place] for place in sorted(chosen)]


def _rank(point: CrashPoint) -> int:
    return _URGENT.index(point.kind) if point.kind in _URGENT else len(_URGENT)


def read_outcome(folder: Path) -> RunOutcome | None:
    """Return what a run has done; None if it has not ended."""
    result = folder / RESULT_FILE
    if not result.exists():
        return None
    executions = decode_json(read_file(result), list[Execution])
    return RunOutcome(executions, Ledger.read(folder / CALLS_FILE, SeenCall))


def _build_fault(folder: Path) -> InternalError:
    """Build the error about a process that failed; the last line of its output is the reason."""
    lines = read_file(folder / ERROR_FILE).decode("utf-8", "replace").split("\n")
    reason = next((line.strip() for line in reversed(lines) if line.strip()), "it printed no reason.")
    return InternalError(f"A process of the crash test failed: {reason}")


def copy_start(start: Path, to: Path) -> Path:
    """Copy the project of `CrashTest.prepare` for one run; return the copy."""
    shutil.copytree(start, to, symlinks=True)
    return to


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """A folder that is removed, also if this process is killed."""
    folder = make_scratch_folder("pdkernel-crash-")
    WARDEN.register_folder(folder)
    try:
        yield folder
    finally:
        remove_tree(folder)
        WARDEN.unregister_folder(folder)


@dataclass
class Processes:
    """The processes of a crash test; those that are left are killed at the end."""

    _context: ForkServerContext = field(default_factory=lambda: multiprocessing.get_context("forkserver"))
    _running: dict[ForkServerProcess, float] = field(default_factory=dict)
    _stand_ins: list[ForkServerProcess] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._context.set_forkserver_preload(list(_PRELOADED))
        return self

    def __exit__(self, *_: object) -> None:
        started = [*self._running, *self._stand_ins]
        for process in started:
            process.kill()
        for process in started:
            process.join()

    def start(self, task: ProcessTask) -> ForkServerProcess:
        """Start a process for *task*."""
        process = self._context.Process(target=run_process, args=(task, dict(os.environ)), daemon=True)
        process.start()
        self._running[process] = time.monotonic()
        return process

    def start_stand_ins(self, names: str) -> int:
        """Start a process with the stand-ins *names*, and return its port."""
        receives, sends = self._context.Pipe(duplex=False)
        process = self._context.Process(target=run_stand_ins, args=(names, sends), daemon=True)
        process.start()
        self._stand_ins.append(process)
        sends.close()
        with receives:
            return int(receives.recv())

    def wait_any(self, limit_s: float) -> list[ForkServerProcess]:
        """Wait until a process has ended, and return those that have; a process that runs for longer than *limit_s* is killed."""
        while not (ended := [each for each in self._running if not each.is_alive()]):
            multiprocessing.connection.wait([each.sentinel for each in self._running], timeout=0.5)
            for process, began in self._running.items():
                if time.monotonic() - began > limit_s:
                    process.kill()
        for process in ended:
            process.join()
            del self._running[process]
        return ended
