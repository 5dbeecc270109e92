"""Serves a project on a port of its own, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import SYSTEM_CLOCK, Clock
from pdkernel.egress import parse_policy
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution, Status
from pdkernel.files.definition import Sidecar
from pdkernel.files.source import WorkflowSource
from pdkernel.journal import Journal
from pdkernel.model import Workflow
from pdkernel.server import AppContext, ServeSettings, create_app
from pdkernel.server.app_state import get_state
from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.source_workflows import SourceSelection, SourceWorkflows
from pdkernel.server.uvicorn_server import Server, listen, local_url
from tests.server.new_project import open_project
from tests.waiting import until, until_awaited


@dataclass
class Site:
    """
    A served project.

    Attributes:
        url: URL of the server.
        context: Context of the server.
        http: An HTTP client.
        server: The server.
        lines: Lines of the access log.
        registry: The runs in progress.
        codes: Codes of the console that the terminal shows.
        earlier: Ids of the runs of earlier tests that share the server.
    """

    url: str
    context: AppContext
    http: httpx.AsyncClient
    server: Server
    registry: RunRegistry
    lines: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    earlier: frozenset[str] = frozenset()

    @property
    def directory(self) -> LocalDirectory:
        """Users and accounts of the project."""
        assert isinstance(self.context.directory, LocalDirectory)
        return self.context.directory

    def connect(self, user: str, app: str, credentials: Mapping[str, str], **more: Any) -> str:
        """Connect an account of *app* for the user; return its id."""
        return self.directory.add_account(app=app, credentials=credentials, external_user_id=user, **more).id

    def path(self, name: str = "Test") -> str:
        """The path `/KEY` of the workflow with that name."""
        return next(
            f"/{each.endpoint_key}"
            for each in self.context.workflows.list_workflows()
            if each.source.workflow.name == name
        )

    def key(self, name: str = "Test") -> str:
        """The endpoint key of the workflow with that name."""
        return self.path(name)[1:]

    def token(self, *scopes: str) -> dict[str, str]:
        """The Authorization header with a new access token for *scopes*."""
        project = self.context.project
        client = project.oauth_clients.create("tests").client
        return {"Authorization": f"Bearer {project.access_tokens.issue(client.id, scopes or ('*',))}"}

    @property
    def journal(self) -> Journal:
        """The record of runs."""
        return self.context.engine.journal

    async def wait_for_lines(self, count: int) -> list[str]:
        """The access log, as soon as it has *count* lines: the line of a run is written at the run's end."""
        await until(lambda: len(self.lines) >= count)
        return self.lines

    async def wait_for_answer(self, path: str, status: int) -> None:
        """Ask until *path* is answered with *status*."""

        async def has_status() -> bool:
            return (await self.http.get(path)).status_code == status

        await until_awaited(has_status)

    async def wait_for_run(self, *statuses: Status, run_id: str | None = None) -> Execution:
        """The run with that id, or any, as soon as it has one of *statuses*."""

        async def find() -> Execution | None:
            runs = await self.journal.list_executions(limit=1000)
            return next((run for run in runs if run.status in statuses and run_id in (None, run.id)), None)

        return await until_awaited(find)

    async def runs(self) -> list[Execution]:
        """Finished runs of this test in the journal, oldest first; waits for runs in progress."""

        async def find() -> list[list[Execution]]:
            kept = await self.journal.list_executions(limit=1000)
            return [kept] if all(each.finished_at is not None for each in kept) else []

        (kept,) = await until_awaited(find)
        return [each for each in kept[::-1] if each.id not in self.earlier]


async def for_one_test(site: Site) -> Site:
    """A site that earlier tests have used, without their runs and their lines of the access log."""
    earlier = frozenset(run.id for run in await replace(site, earlier=frozenset()).runs())
    site.lines.clear()
    return replace(site, earlier=earlier)


@asynccontextmanager
async def site_of(
    folder: Path,
    *workflows: Workflow,
    sidecar: Sidecar | None = None,
    clock: Clock = SYSTEM_CLOCK,
    database_url: str | None = None,
    key_file: Path | None = None,
    egress: str = "deny",
    **settings: Any,
) -> AsyncIterator[Site]:
    """Serve *workflows* in a new project in *folder*, or in the project at *database_url* with the key in *key_file*."""
    lines: list[str] = []
    codes: list[str] = []
    with open_project(folder / ".pdkernel", database_url=database_url, key_file=key_file, clock=clock) as project:
        directory = LocalDirectory(project)
        opened = listen("127.0.0.1", 0)
        url = local_url(opened, "127.0.0.1", tls=False)
        async with await WorkflowEngine.start(
            project, directory, clock=clock, max_active_runs=settings.pop("size", 4), origin="serve"
        ) as runtime:
            context = AppContext(
                project=project,
                directory=directory,
                engine=runtime,
                workflows=SourceWorkflows(
                    project,
                    SourceSelection(
                        [WorkflowSource(folder / f"{each.name}.ipynb", "notebook", each, sidecar) for each in workflows]
                    ),
                ),
                settings=ServeSettings(base_url=settings.pop("base_url", url), policy=parse_policy(egress), **settings),
                clock=project.clock,
                ids=project.ids,
                write_line=lines.append,
                print_login_code=codes.append,
            )
            app = create_app(context)
            server = Server(app)
            task = asyncio.ensure_future(server.serve(sockets=[opened]))
            try:
                # without verification, the client does not read this machine's certificates, which takes milliseconds
                async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as http:
                    yield Site(url, context, http, server, get_state(app).runs, lines, codes)
            finally:
                server.stop()
                server.force_exit = True
                await task
