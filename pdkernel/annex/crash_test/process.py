"""
A process of a crash test: it executes the runs of a project as a server does, and dies at a crash point.

Everything that it needs comes from the project's folder: the event was accepted before the process begins. Pauses take no time: the clock
of the process skips them, and `$.flow.suspend` is resumed at once without data.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.annex.crash_test.points import CrashPoint, Ledger, PointKind, Points, SeenCall
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import RANDOM_IDS, SYSTEM_CLOCK, SteadyClock
from pdkernel.common.encode import decode_json, encode_json
from pdkernel.common.safe_files import PROJECT_FOLDER_NAME
from pdkernel.common.secret_patterns import redact_url
from pdkernel.egress import CallContext, Gateway, OutboundPolicy, parse_policy
from pdkernel.egress.message import Request, get_header
from pdkernel.egress.send_once import is_safe_method
from pdkernel.engine.dispatch import Dispatch, open_dispatch
from pdkernel.engine.run_request import RunWatcher
from pdkernel.engine.step_packages import StepPackages, go_programs, step_access
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import PdkernelError
from pdkernel.execution import UNFINISHED_STATUSES, OutboundCall
from pdkernel.journal import (
    CallRow,
    Claim,
    ClaimedRun,
    ExecutionQuery,
    Journal,
    NewRun,
    OutboxRow,
    StepRow,
    WaitRow,
    open_journal,
)
from pdkernel.storage import Project
from pdkernel.workers import WorkerPool

CALLS_FILE, POINTS_FILE, RESULT_FILE, ERROR_FILE = "calls.jsonl", "points.jsonl", "result.json", "error.txt"
"""The files of a process in its folder: calls, crash points, executions, and why it failed."""
_MAX_RUNS = 100
_LOOK_S = 0.01

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessTask:
    """
    What a process does.

    Attributes:
        folder: The folder that contains the project's folder; the process writes its files there.
        packages: The folder (`.pdkernel`) with packages and actions, which is not written.
        policy: The outbound policy, as `--egress` takes it; None for that of the run.
        number: The number of the process, from 1, for its calls.
        dies_at: The crash point at which it dies, or None.
        lists_points: Whether it lists the crash points that it reaches.
    """

    folder: Path
    packages: Path
    policy: str | None = None
    number: int = 1
    dies_at: CrashPoint | None = None
    lists_points: bool = False


def run_process(task: ProcessTask, environ: Mapping[str, str]) -> None:
    """
    Carry out *task* in this process, which ends with it: the entry point of a forked process.

    *environ* are the present environment variables: the fork server has those of its start, perhaps of another test.
    """
    os.environ.clear()
    os.environ.update(environ)
    os.setsid()  # Ctrl-C is for the process that started this one, which ends this one
    with (task.folder / ERROR_FILE).open("ab", buffering=0) as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    logging.disable(logging.ERROR)  # a crash is expected
    clock = SkippingClock()
    with Project.open(task.folder / PROJECT_FOLDER_NAME, clock=clock) as project:
        asyncio.run(_run(task, project, clock))


async def _run(task: ProcessTask, project: Project, clock: SkippingClock) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        asyncio.get_running_loop().add_reader(parent.sentinel, die)
    listed = Ledger(task.folder / POINTS_FILE) if task.lists_points else None

    def reach(point: CrashPoint) -> None:
        if listed is not None:
            listed.add(point)
        if task.dies_at is not None and task.dies_at.is_reached_at(point):
            die()

    points = Points(reach)
    async with await _start_engine(task, project, clock, points) as engine:
        policy = None if task.policy is None else parse_policy(task.policy)
        await Server(engine, project, clock, policy).finish_runs()
        ids = await engine.journal.ids(ExecutionQuery(limit=-1))
        executions = [each for run_id in reversed(ids) if (each := await engine.journal.get_execution(run_id))]
        (task.folder / RESULT_FILE).write_bytes(encode_json(executions))


async def _start_engine(task: ProcessTask, project: Project, clock: SkippingClock, points: Points) -> WorkflowEngine:
    journal = await run_blocking(open_journal, project, clock=clock, origin="serve")
    watched = cast("Journal", WatchedJournal(journal, points))
    watch = CallRecorder(task.number, Ledger(task.folder / CALLS_FILE), points)
    gateway = await Gateway.start(project.folder / "egress", clock=journal.clock, watch=watch)
    access = step_access(task.packages, gateway.certificate_files, project=project)
    return WorkflowEngine(
        project,
        LocalDirectory(project),
        journal=watched,
        gateway=gateway,
        workers=WorkerPool(
            gateway=gateway,
            go_cache=go_programs(task.packages, os.environ),
            access=replace(access, write=frozenset({project.folder / "files"})),
        ),
        packages=StepPackages.for_project(task.packages, os.environ),
        environ=os.environ,
        clock=journal.clock,
        ids=RANDOM_IDS,
        shares_workers=False,
        origin="serve",
        catalog=Catalog.without_project(task.packages, environ=os.environ, settings=project.settings),
    )


def die() -> None:
    """End this process at once, as a crash of the machine would."""
    os.kill(os.getpid(), signal.SIGKILL)


class SkippingClock(SteadyClock):
    """The machine's time, and all pauses that were skipped."""

    def __init__(self) -> None:
        super().__init__(SYSTEM_CLOCK)
        self._skipped = timedelta()

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        return super().now() + self._skipped

    def skip_to(self, at: float) -> None:
        """Skip the time until *at*, in seconds since 1970."""
        self._skipped += max(timedelta(), timedelta(seconds=at - self.now().timestamp()))


class Server:
    """Continues the runs of a project, as a server does; implements `RunStarter`."""

    free_runs = expected_places = _MAX_RUNS

    def __init__(
        self, engine: WorkflowEngine, project: Project, clock: SkippingClock, policy: OutboundPolicy | None
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._project = project
        self._clock = clock
        self._runs: dict[asyncio.Task[object], str] = {}
        self._deliveries: set[asyncio.Task[None]] = set()
        engine.has_dispatch = True
        self._dispatch: Dispatch = open_dispatch(engine.journal, self)

    @property
    def active_run_ids(self) -> Collection[str]:
        """The ids of the runs in progress."""
        return set(self._runs.values())

    @property
    def executing_run_ids(self) -> Collection[str]:
        """The ids of the runs in progress, and of their child runs."""
        return {*self._runs.values(), *self._engine.executing_run_ids}

    async def finish_runs(self) -> None:
        """Continue runs and deliver messages until nothing is left to do."""
        dispatching = asyncio.create_task(self._dispatch.run())
        try:
            while self._runs or self._deliveries or not await self._is_done():
                await asyncio.sleep(_LOOK_S)
        finally:
            dispatching.cancel()
            await asyncio.gather(dispatching, return_exceptions=True)

    async def _is_done(self) -> bool:
        """Return whether every run has ended, and every message was tried; end a pause that is next."""
        journal = self._engine.journal
        unfinished = False
        for run_id in await journal.ids(ExecutionQuery(limit=-1)):
            found = await journal.load_run(run_id)
            if found is None or found[0].status not in UNFINISHED_STATUSES:
                continue
            unfinished = True
            for wait in found[1].open_waits:
                if wait.kind == "suspend":
                    await self._engine.resolve_wait(wait.key(run_id), "resume")
        due = await journal.next_wake()
        if due is not None:
            self._clock.skip_to(due)
        self._dispatch.notify()
        return not unfinished and due is None

    def continue_run(self, claimed: ClaimedRun) -> None:
        """Start or continue a claimed run; return at once."""
        task = asyncio.get_running_loop().create_task(self._continue_run(claimed))
        self._runs[task] = claimed.claim.run_id
        task.add_done_callback(lambda ended: self._runs.pop(ended, None))
        task.add_done_callback(lambda _: self._dispatch.notify())

    async def _continue_run(self, claimed: ClaimedRun) -> object:
        request = None
        try:
            restored = await run_blocking(self._engine.restore_request, claimed)
            # the stores are those of the crash test: a scratch copy would not survive the crash
            request = replace(restored, data_stores=self._project.data_stores)
        except PdkernelError:  # then the run ends with the reason
            pass
        return await self._engine.continue_run(claimed, RunWatcher(), policy=self._policy, request=request)

    def deliver_due(self) -> None:
        """Start to deliver messages that are due; return at once."""
        task = asyncio.get_running_loop().create_task(self._engine.deliver_due(self._policy))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def cancel(self, run_id: str) -> bool:
        """End a run in progress; return False if it is not in progress."""
        tasks = [task for task, each in self._runs.items() if each == run_id]
        for task in tasks:
            task.cancel()
        return bool(tasks)

    async def abandon_runs(self) -> None:
        """Do nothing: on SQLite, no other process takes the runs of this one."""


class CallRecorder:
    """Records the calls that leave this process, and reaches their crash points; implements `egress.CallWatch`."""

    def __init__(self, process: int, ledger: Ledger, points: Points) -> None:
        self._process = process
        self._ledger = ledger
        self._points = points

    async def leaving(self, context: CallContext, request: Request) -> None:
        """Record the call, unless the process dies before it."""
        url, key = _shown_url(context, request), get_header(request.headers, b"idempotency-key")
        method, body = request.method.upper(), await request.body.buffer()
        is_safe = is_safe_method(method)
        if not is_safe:
            self._points.reach("send", "before", context.step, f"{method} {url}")
        digest = "" if key is None else hashlib.sha256(key).hexdigest()
        self._ledger.add(SeenCall(self._process, context.step, method, url, body, digest, is_safe))

    async def answered(self, context: CallContext, request: Request) -> None:
        """Reach the point at which the answer is known, and the step has not seen it."""
        self._points.reach("send", "after", context.step, f"{request.method.upper()} {_shown_url(context, request)}")


def _shown_url(context: CallContext, request: Request) -> str:
    return redact_url(context.redactor.redact_text(request.url))


class WatchedJournal:
    """
    A `Journal` whose writes for runs are crash points: before they are made, and when they are on disk.

    The acceptance of the event is not among them, because nothing of the workflow has happened by then.
    """

    def __init__(self, journal: Journal, points: Points) -> None:
        self._journal = journal
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def set_package_lock(self, claim: Claim, lock: Any) -> Awaitable[bool]:
        """As of `Journal`."""
        return self._watch("packages", lambda: self._journal.set_package_lock(claim, lock))

    def set_begun(self, claim: Claim, begun: Any) -> Awaitable[bool]:
        """As of `Journal`."""
        return self._watch("begin", lambda: self._journal.set_begun(claim, begun))

    def append_step(self, claim: Claim, row: StepRow, *, event: str | None = None) -> Awaitable[bool]:
        """As of `Journal`."""
        return self._watch("step", lambda: self._journal.append_step(claim, row, event=event), row.name)

    def finish(self, claim: Claim, *args: Any, **settings: Any) -> Awaitable[bool]:
        """As of `Journal`."""
        return self._watch("end", lambda: self._journal.finish(claim, *args, **settings))

    def append_wait(self, claim: Claim, wait: WaitRow, *, event: str | None = None) -> Awaitable[bool]:
        """Record the pause of a branch."""
        return self._watch("pause", lambda: self._journal.append_wait(claim, wait, event=event), wait.path)

    def park(self, claim: Claim, wait: WaitRow, *others: WaitRow, **settings: Any) -> Awaitable[bool]:
        """As of `Journal`."""
        return self._watch("pause", lambda: self._journal.park(claim, wait, *others, **settings), wait.path)

    async def accept_run(self, run: NewRun) -> bool:
        """As of `Journal`: here, the start of a child run."""
        return await self._watch("child", lambda: self._journal.accept_run(run), run.workflow)

    async def record_call(self, claim: Claim, row: CallRow) -> bool:
        """As of `Journal`."""
        call = decode_json(row.shown, OutboundCall)
        text = f"{call.method} {call.url}"
        return await self._watch("call", lambda: self._journal.record_call(claim, row), call.step or row.path, text)

    async def record_delivery(self, run_id: str, row: OutboxRow, shown: str, **settings: Any) -> bool:
        """As of `Journal`."""
        write = self._journal.record_delivery
        return await self._watch("message", lambda: write(run_id, row, shown, **settings), row.path)

    async def claim_ready(self, *args: Any, **settings: Any) -> Sequence[ClaimedRun]:
        """As of `Journal`."""
        claims = await self._journal.claim_ready(*args, **settings)
        if claims:
            self._points.reach("claim", "after")
        return claims

    def _watch(
        self, kind: PointKind, write: Callable[[], Awaitable[T]], step: str = "", call: str = ""
    ) -> asyncio.Future[T]:
        self._points.reach(kind, "before", step, call)
        written = asyncio.ensure_future(write())

        def reach(done: asyncio.Future[T]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._points.reach(kind, "after", step, call)

        if written.done():  # a callback would be called too late: the code that awaits it goes on at once
            reach(written)
        else:
            written.add_done_callback(reach)
        return written
