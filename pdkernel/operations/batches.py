"""
Batches: a workflow runs once for each of several external users, at a tick of a schedule or by a command.

A user without an account that the workflow needs has no run: the summary of the batch names the apps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from pdkernel.actions import Catalog
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import format_iso
from pdkernel.common.identity import Directory, Environment, parse_environment
from pdkernel.engine.account_lookup import steps_by_external_user_app
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import PdkernelError, ProductionPlanError, ProjectError, RequestError
from pdkernel.execution import UNFINISHED_STATUSES, BatchSummary, Execution, FailedUser, SkippedUser
from pdkernel.files.source import WorkflowSource
from pdkernel.journal import Journal, NewDecision, RunQueries, RunSummary, open_journal_reader
from pdkernel.model import DEFAULT_AT_ONCE, ForEach, Workflow
from pdkernel.operations.readiness.matrix import collect_app_bindings
from pdkernel.operations.run_replay import prepare_replay
from pdkernel.storage import Batch, Project

if TYPE_CHECKING:
    from pdkernel.engine.workflow_engine import WorkflowEngine

_INTERRUPTED = "The command ended before all its runs did: users may be without a run."
PAGE_SIZE = 200
"""External users whose runs are recorded at a time."""


@dataclass(frozen=True)
class UserPage:
    """
    Some of the external users of a batch, in the order of their ids.

    Attributes:
        ready: The users with all accounts that the workflow needs.
        skipped: The other users, each with the apps of which an account is missing; none if there is no such user.
        last: The last user of the page.
    """

    ready: Sequence[str]
    skipped: Mapping[str, Sequence[str]]
    last: str


class UserSelection:
    """
    The external users for whom a workflow runs, as they are when they are listed. Every method blocks.

    Args:
        each: The setting `for_each`.
        workflow: The workflow.
        directory: Users and accounts.
        catalog: The pre-built actions, for the apps that they use.
    """

    def __init__(self, each: ForEach, workflow: Workflow, directory: Directory, catalog: Catalog) -> None:
        self._each = each
        self._directory = directory
        self._needed = tuple(steps_by_external_user_app(collect_app_bindings(workflow, catalog)))
        self._environment: Environment = parse_environment(each.environment)

    @property
    def environment(self) -> Environment:
        """The users' environment."""
        return self._environment

    def check_plan(self) -> None:
        """Raise `ProductionPlanError` if the project's plan runs no workflow for users in production, so that every run would fail."""
        if self._needed and self._environment == "production" and self._directory.plan == "free":
            raise ProductionPlanError(
                "Running workflows for your users in production requires a higher tier plan",
                fix="This project simulates the free plan. Use development, or: pdkernel project set plan business",
            )

    def list_pages(self, after: str | None = None) -> Iterator[UserPage]:
        """
        Yield the users in the order of their ids, those after *after*.

        Ids are read at once, and no accounts: a Connect project may have many, which its API lists page by page, for all users.
        """
        existing = {user.external_id for user in self._directory.users(self._environment)}
        apps = dict.fromkeys((*self._needed, *self._each.having))
        owners = {app: self._directory.app_users(app, self._environment) for app in apps}
        chosen = existing if self._each.users is None else set(self._each.users)
        users = sorted(user for user in chosen - set(self._each.without) if after is None or user > after)
        for start in range(0, len(users), PAGE_SIZE):
            yield self._check(users[start : start + PAGE_SIZE], existing, owners)

    def _check(
        self, users: Sequence[str], existing: Collection[str], owners: Mapping[str, Collection[str]]
    ) -> UserPage:
        ready, skipped = [], dict[str, Sequence[str]]()
        for user in users:
            if user not in existing:
                skipped[user] = ()
                continue
            if not all(user in owners[app] for app in self._each.having):
                continue
            if missing := [app for app in self._needed if user not in owners[app]]:
                skipped[user] = missing
            else:
                ready.append(user)
        return UserPage(ready, skipped, users[-1])


async def iterate_pages(selection: UserSelection, after: str | None = None) -> AsyncIterator[UserPage]:
    """Yield the pages of `UserSelection.list_pages`, each read in a thread."""
    pages = selection.list_pages(after)
    while (page := await run_blocking(next, pages, None)) is not None:
        yield page


def summarize(batch: Batch, runs: Sequence[RunSummary], skips: Mapping[str, Sequence[str]]) -> BatchSummary:
    """Build the summary of the newest runs of a batch's users, and of the users without a run."""
    started = {run.external_user for run in runs}
    skipped = tuple(SkippedUser(user, tuple(apps)) for user, apps in skips.items() if user not in started)
    return BatchSummary(
        id=batch.id,
        workflow=batch.workflow_name,
        environment=batch.environment,
        at=format_iso(batch.at),
        state=batch.state,
        users=len(runs) + len(skipped),
        waiting=sum(run.status == "queued" for run in runs),
        in_progress=sum(run.status in UNFINISHED_STATUSES and run.status != "queued" for run in runs),
        succeeded=sum(run.status in ("success", "exited") for run in runs),
        failed=tuple(
            FailedUser(run.external_user, run.id, run.status, None if run.error is None else run.error.message)
            for run in runs
            if run.status in ("error", "cancelled")
        ),
        skipped=skipped,
        retries=batch.round,
        problem=batch.problem,
    )


async def load_summary(project: Project, journal: RunQueries, batch_id: str) -> BatchSummary:
    """
    Load a batch with its summary.

    Raises:
        RequestError: There is no such batch.
    """
    batch = await find_batch(project, journal, batch_id)
    return summarize(
        batch, await journal.batch_runs(batch.id), await run_blocking(project.batches.list_skips, batch.id)
    )


async def find_batch(project: Project, journal: RunQueries, batch_id: str) -> Batch:
    """Return the batch with that id, which has ended if its command was killed. Raises `RequestError` if there is none."""
    found = await run_blocking(project.batches.find, batch_id)
    if found is None:
        raise RequestError(f"There is no batch {batch_id!r} in this project.", fix="See: pdkernel runs batches")
    return await _end_interrupted(project, found, await journal.living_executors())


async def _end_interrupted(project: Project, batch: Batch, living: Collection[str]) -> Batch:
    """Return *batch*, ended if the executor of its command is not among the *living*."""
    if batch.origin != "terminal" or batch.state == "done" or batch.executor in living:
        return batch
    ended = replace(batch, state="done", problem=_INTERRUPTED)
    with suppress(ProjectError):  # a batch can be read although the database cannot be written
        if not await run_blocking(partial(project.batches.set_state, batch, "done", problem=_INTERRUPTED)):
            return await run_blocking(project.batches.find, batch.id) or ended  # its command has ended it meanwhile
    return ended


async def read_summary(project: Project, batch_id: str) -> BatchSummary:
    """As `load_summary`, for a process without a journal of its own."""
    with closing(await run_blocking(open_journal_reader, project)) as reader:
        return await load_summary(project, reader, batch_id)


async def list_summaries(project: Project, limit: int = 20) -> Sequence[BatchSummary]:
    """Return the newest batches, newest first."""
    found = await run_blocking(partial(project.batches.list_newest, limit=limit))
    with closing(await run_blocking(open_journal_reader, project)) as reader:
        living = await reader.living_executors()
        return [
            summarize(
                await _end_interrupted(project, each, living),
                await reader.batch_runs(each.id),
                await run_blocking(project.batches.list_skips, each.id),
            )
            for each in found
        ]


RequestBuilder = Callable[[str, str], RunRequest]
"""Builds the request for the run of an external user in a batch. Blocks."""


async def run_here(
    project: Project,
    engine: WorkflowEngine,
    selection: UserSelection,
    batch: Batch,
    build: RequestBuilder,
    *,
    at_once: int,
    on_run: Callable[[Execution], None] = lambda _: None,
) -> BatchSummary:
    """
    Run a workflow in this process once for each user of *selection*, at most *at_once* at a time.

    Args:
        project: The project.
        engine: The engine of this process.
        selection: The users.
        batch: The new batch, with the origin `terminal`.
        build: Builds the request of a user's run in the batch.
        at_once: The maximum number of runs at a time.
        on_run: Called with the record of each run that has ended or paused.

    Raises:
        ProductionPlanError: The plan of the project runs nothing for users in production.
    """
    await run_blocking(selection.check_plan)
    await run_blocking(partial(project.batches.add, batch))
    async for page in iterate_pages(selection):
        requests = await run_blocking(_build_all, build, page.ready, batch.id)
        await _run_all(engine, requests, at_once, on_run)
        if not await run_blocking(project.batches.record_page, batch, page.last, page.skipped):
            break  # the batch was cancelled
        batch = replace(batch, listed_to=page.last)
    await _end(project, engine.journal, batch.id)
    return await load_summary(project, engine.journal, batch.id)


async def _end(project: Project, journal: Journal, batch_id: str, *, problem: str | None = None) -> None:
    """End the batch of a command, in whatever state another process has left it."""
    batch = await find_batch(project, journal, batch_id)
    await run_blocking(partial(project.batches.set_state, batch, "done", problem=problem))


def _build_all(build: RequestBuilder, users: Sequence[str], batch_id: str) -> list[RunRequest]:
    return [build(user, batch_id) for user in users]


async def retry_here(
    project: Project, engine: WorkflowEngine, batch_id: str, on_run: Callable[[Execution], None]
) -> BatchSummary:
    """Run the failed runs of a command's batch again in this process, and no others; return the batch with its new runs."""
    batch = await find_batch(project, engine.journal, batch_id)
    failed = await _find_failed(engine.journal, batch)
    problem = batch.problem
    begin = partial(project.batches.set_state, executor=engine.journal.executor_id, problem=problem)
    if not await run_blocking(begin, batch, "retrying"):
        raise _retried_already(batch)
    try:
        requests = [await build_retry(engine, batch, run) for run in failed]
        await _run_all(engine, requests, DEFAULT_AT_ONCE, on_run)
    finally:
        await _end(project, engine.journal, batch_id, problem=problem)
    return await load_summary(project, engine.journal, batch_id)


async def _run_all(
    engine: WorkflowEngine, requests: Sequence[RunRequest], at_once: int, on_run: Callable[[Execution], None]
) -> None:
    room = asyncio.Semaphore(at_once)

    async def run(request: RunRequest) -> None:
        async with room:
            on_run(await engine.run(request))

    async with asyncio.TaskGroup() as tasks:
        for request in requests:
            tasks.create_task(run(request))


async def build_retry(
    engine: WorkflowEngine, batch: Batch, run: RunSummary, source: WorkflowSource | None = None
) -> RunRequest:
    """
    Build the request of a new run for a failed one. Calls that the failed run has sent are not sent again.

    *source* and the errors are those of `prepare_replay`.
    """
    replay = await prepare_replay(engine, run.id, source=source, sends=True)
    key = batch.dedupe_key(run.external_user or "", run.id)
    request = replay.request
    return replace(request, batch=batch.id, dedupe_key=key, options=replace(request.options, resend=False))


@dataclass(frozen=True, slots=True)
class QueuedRetry:
    """The number of failed runs that a server runs again, and whether a server runs now."""

    runs: int
    is_served: bool


async def retry_in_server(project: Project, journal: Journal, batch_id: str) -> QueuedRetry | None:
    """As `request_retry`; None for the batch of a command, whose runs the caller runs again."""
    batch = await find_batch(project, journal, batch_id)
    if batch.origin == "terminal":
        return None
    runs = await request_retry(project, journal, batch_id)
    return QueuedRetry(runs, await journal.has_executor("serve"))


async def _find_failed(journal: Journal, batch: Batch) -> Sequence[RunSummary]:
    """Return the failed runs of an ended batch. Raises `RequestError` if there are none, or the batch has not ended."""
    see = f"See: pdkernel runs batch {batch.id}"
    failed = [run for run in await journal.batch_runs(batch.id) if run.status == "error"]
    if batch.state != "done":
        raise RequestError(f"The batch {batch.id} has not ended: it is {batch.state}.", fix=see)
    if not failed:
        raise RequestError(f"The batch {batch.id} has no failed runs.", fix=see)
    return failed


async def request_retry(project: Project, journal: Journal, batch_id: str) -> int:
    """
    Ask the project's server to run the failed runs of a batch again; return their number.

    Raises:
        RequestError: There is no such batch, it has no failed runs, or runs have not ended yet.
    """
    batch = await find_batch(project, journal, batch_id)
    failed = len(await _find_failed(journal, batch))
    if not await run_blocking(project.batches.set_state, batch, "retrying"):
        raise _retried_already(batch)
    return failed


def _retried_already(batch: Batch) -> RequestError:
    return RequestError(f"The batch {batch.id} is being retried already.", fix=f"See: pdkernel runs batch {batch.id}")


async def cancel_batch(project: Project, journal: Journal, batch_id: str, *, by: str) -> int:
    """
    Cancel the runs of a batch that have not ended, and record no more of them; return the number of cancelled runs.

    A server that records a page of users at this moment may complete the page.

    Args:
        project: The project.
        journal: The journal.
        batch_id: The id of the batch.
        by: Who cancels the runs, for their records.

    Raises:
        RequestError: There is no such batch.
    """
    batch = await find_batch(project, journal, batch_id)
    if batch.state in ("listing", "retrying"):
        await run_blocking(project.batches.set_state, batch, "running")
    unfinished = [run.id for run in await journal.batch_runs(batch_id) if run.status in UNFINISHED_STATUSES]
    return sum([await journal.cancel(run_id, decision=NewDecision("cancelled", by)) for run_id in unfinished])


async def remove_expired_batches(project: Project, journal: Journal, *, days: float) -> int:
    """Remove the batches of before that many days of which no run is recorded any more; return their number."""
    removed = 0
    for batch in await run_blocking(project.batches.list_done, project.clock.now() - timedelta(days=days)):
        if not await journal.count_batch(batch.id):
            await run_blocking(project.batches.remove, batch.id)
            removed += 1
    return removed


def describe_problem(fault: PdkernelError) -> str:
    """Return the reason of a batch without runs."""
    return f"{fault.message} {fault.fix}".strip()
