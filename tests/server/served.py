"""A project that is served, without a socket: its tables, its application and a client that calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pdkernel.clock import RANDOM_IDS, ManualClock
from pdkernel.connect import LocalDirectory
from pdkernel.egress import Gateway, parse_policy
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.project import Project
from pdkernel.project.oauth_clients import NewClient
from pdkernel.server import AppContext, ServeSettings, create_app
from pdkernel.server.app_context import ServedWorkflow


class Workflows:
    """Workflows that a test serves."""

    def __init__(self, *workflows: ServedWorkflow) -> None:
        self._workflows = workflows

    def list_workflows(self) -> tuple[ServedWorkflow, ...]:
        """All of them."""
        return self._workflows

    def find(self, key: str) -> ServedWorkflow | None:
        """By endpoint."""
        return next((each for each in self._workflows if key.lower() == each.endpoint_key.lower()), None)

    def find_id(self, workflow_id: str) -> ServedWorkflow | None:
        """By id."""
        return next((each for each in self._workflows if workflow_id == each.id), None)


@dataclass
class Served:
    """
    A project while it is served.

    Attributes:
        context: What the handlers are given.
        http: Calls it, without a token of its own.
        client: An OAuth client that may do everything.
    """

    context: AppContext
    http: httpx.AsyncClient
    client: NewClient

    @property
    def project(self) -> Project:
        """Its tables."""
        return self.context.project

    @property
    def directory(self) -> LocalDirectory:
        """Its users and accounts."""
        assert isinstance(self.context.directory, LocalDirectory)
        return self.context.directory

    def headers(self, *scopes: str, environment: str | None = "development") -> dict[str, str]:
        """What a client with a token for *scopes* sends."""
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
        """Call *path* below the project's, `/v1/connect/proj_...`; one that begins with /v1 is taken as it is."""
        url = path if path.startswith("/v1") else f"/v1/connect/{self.project.project_id}{path}"
        sent = {**self.headers(environment=environment), **(headers or {})}
        return await self.http.request(method, url, headers=sent, **kwargs)


@asynccontextmanager
async def served(
    folder: Path, *workflows: ServedWorkflow, egress: str = "deny", gateway: Gateway | None = None, **settings: Any
) -> AsyncIterator[Served]:
    """Serve a fresh project in *folder*."""
    clock = ManualClock()
    with Project.open(folder / ".pdkernel", clock=clock) as project:
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
            transport = httpx.ASGITransport(create_app(context))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:4000") as http:
                yield Served(context, http, project.oauth_clients.create("tests"))
