"""Serves a project without a socket: the application and a client that calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import RANDOM_IDS, ManualClock
from pdkernel.egress import Gateway, parse_policy
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.files.source import RefusedSource
from pdkernel.server import AppContext, ServeSettings, create_app
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.app_state import AppState, get_state
from pdkernel.storage import Project
from pdkernel.storage.oauth_clients import NewClient
from tests.server.new_project import open_project


class Workflows:
    """A fixed list of served workflows."""

    not_served: Sequence[RefusedSource] = ()

    def __init__(self, *workflows: ServedWorkflow) -> None:
        self._workflows = workflows

    async def refresh(self) -> None:
        """Do nothing: the list is fixed."""

    def list_workflows(self) -> tuple[ServedWorkflow, ...]:
        """All workflows."""
        return self._workflows

    def find(self, key: str) -> ServedWorkflow | None:
        """The workflow with that endpoint key, or None."""
        return next((each for each in self._workflows if key.lower() == each.endpoint_key.lower()), None)

    def find_id(self, workflow_id: str) -> ServedWorkflow | None:
        """The workflow with that id, or None."""
        return next((each for each in self._workflows if workflow_id == each.id), None)


@dataclass
class Served:
    """
    A served project.

    Attributes:
        context: Context of the server.
        http: An HTTP client without a token.
        client: An OAuth client with every scope.
        state: The state of the server.
    """

    context: AppContext
    http: httpx.AsyncClient
    client: NewClient
    state: AppState

    @property
    def project(self) -> Project:
        """The project's tables."""
        return self.context.project

    @property
    def directory(self) -> LocalDirectory:
        """Users and accounts of the project."""
        assert isinstance(self.context.directory, LocalDirectory)
        return self.context.directory

    @property
    def clock(self) -> ManualClock:
        """The clock of the project, which a test advances."""
        assert isinstance(self.context.clock, ManualClock)
        return self.context.clock

    def connect(self, user: str | None, app: str, credentials: Mapping[str, str], **more: Any) -> str:
        """Connect an account of *app* for the user; return its id."""
        return self.directory.add_account(app=app, credentials=credentials, external_user_id=user, **more).id

    def headers(self, *scopes: str, environment: str | None = "development") -> dict[str, str]:
        """Headers of an OAuth client with a new access token for *scopes*."""
        token = self.project.access_tokens.issue(self.client.client.id, scopes or ("*",))
        sent = {"Authorization": f"Bearer {token}"}
        return {**sent, "x-pd-environment": environment} if environment else sent

    async def call(
        self,
        method: str,
        path: str,
        *,
        environment: str | None = "development",
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> httpx.Response:
        """Call a route of the API; *path* is below the project's path, unless it begins with /v1."""
        url = path if path.startswith("/v1") else f"/v1/connect/{self.project.project_id}{path}"
        sent = {**self.headers(environment=environment), **(headers or {})}
        return await self.http.request(method, url, headers=sent, **kwargs)


@asynccontextmanager
async def served(
    folder: Path,
    *workflows: ServedWorkflow,
    egress: str = "deny",
    gateway: Gateway | None = None,
    database_url: str | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Serve a new project in *folder*, or in the database *database_url*."""
    clock = ManualClock()
    with open_project(folder / ".pdkernel", database_url=database_url, clock=clock) as project:
        directory = LocalDirectory(project)
        async with await WorkflowEngine.start(
            project, directory, clock=clock, max_active_runs=2, gateway=gateway
        ) as runtime:
            context = AppContext(
                project=project,
                directory=directory,
                engine=runtime,
                workflows=Workflows(*workflows),
                settings=ServeSettings(base_url="http://127.0.0.1:4000", policy=parse_policy(egress), **settings),
                clock=clock,
                ids=RANDOM_IDS,
            )
            app = create_app(context)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:4000") as http:
                yield Served(context, http, project.oauth_clients.create("tests"), get_state(app))
