"""
The notebook's draft behind an endpoint of its own, beside the kernel.

Knows that what is served is the draft as it is at each request, and which requests came last. How a request is answered is
the server's; how a run looks is for whoever listens.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import DefinitionError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.loop_thread import LoopThread
from pdkernel.source import WorkflowSource
from pdkernel.variables import load_variables

if TYPE_CHECKING:
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.server.app_context import AppContext, LinkEvent, ServedWorkflow
    from pdkernel.server.uvicorn_server import Server
    from pdkernel.session.notebook_state import NotebookState

WORKER_COUNT = 4
MAX_KEPT_REQUESTS = 20
"""Requests that can still be used as the test event."""

RunListener = Callable[[Execution], None]


class DraftWorkflowSource:
    """The one workflow of a notebook, read anew for each request; while it cannot be read, as it was before."""

    def __init__(self, state: NotebookState) -> None:
        self._state = state
        self._path = state.notebook or state.folder / "notebook.ipynb"
        sidecar = state.sidecar
        endpoints = state.project.endpoint_keys
        self.endpoint = (sidecar.endpoint if sidecar else None) or endpoints.ensure_workflow_key(self._path)
        self._id = endpoints.workflow_id(self._path)
        self._latest = self._read()

    def list_workflows(self) -> tuple[ServedWorkflow, ...]:
        """The draft."""
        return (self._reload(),)

    def find(self, key: str) -> ServedWorkflow | None:
        """The draft, if *key* is its endpoint."""
        return self._reload() if key.lower() == self.endpoint.lower() else None

    def find_id(self, workflow_id: str) -> ServedWorkflow | None:
        """The draft, if that is its id."""
        return self._reload() if workflow_id == self._id else None

    def _reload(self) -> ServedWorkflow:
        with suppress(DefinitionError):
            self._latest = self._read()
        return self._latest

    def _read(self) -> ServedWorkflow:
        from pdkernel.server.app_context import ServedWorkflow

        state = self._state
        workflow = state.workflow
        return ServedWorkflow(
            self._id,
            self.endpoint,
            WorkflowSource(self._path, "notebook", workflow, state.sidecar),
            load_variables(state.project, state.folder),
            policy=parse_policy(state.egress),
        )


class NotebookServer:
    """
    Serves the draft of one session on this machine.

    Args:
        state: The notebook's draft, settings and project.
        choose_event: Makes an event the session's test event, under a name.
        on_link_event: Called with each event of a Connect Link page, from another thread.
        public_url: What callers elsewhere call it, `{port}` standing for the port; None: this machine's own address.

    Attributes:
        public_url: The draft's endpoint as callers call it, or None while it is not served.
        local_url: The same on this machine.
        app_context: What its handlers are given, or None.
    """

    def __init__(
        self,
        state: NotebookState,
        *,
        choose_event: Callable[[Event, str], None],
        on_link_event: Callable[[LinkEvent], None],
        public_url: str | None = None,
    ) -> None:
        self._state = state
        self._choose_event = choose_event
        self._on_link_event = on_link_event
        self._public_url = public_url
        self._loop = LoopThread()
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, tuple[RunRequest, Execution]] = OrderedDict()
        self._server: Server | None = None
        self._ended: asyncio.Future[None] | None = None
        self._runtime: WorkflowEngine | None = None
        self.public_url: str | None = None
        self.local_url: str | None = None
        self.app_context: AppContext | None = None

    def start(self, *, port: int = 0, on_run: RunListener, log_line: Callable[[str], None]) -> str:
        """
        Answer requests from now on; returns the URL of the draft's endpoint.

        Args:
            port: 0 takes any free one.
            on_run: Told each run as it grows, from another thread.
            log_line: Takes a line for each request, from another thread.

        Raises:
            RequestError: It is served already, or the port cannot be had.
            DefinitionError: The draft cannot be read.
        """
        if self.public_url is not None:
            raise RequestError(f"The draft is served already: {self.public_url}", fix="To end that: %pdserve stop")
        workflows = DraftWorkflowSource(self._state)
        base = self._loop.run(self._start(workflows, port, on_run, log_line))
        self.local_url = f"{base}/{workflows.endpoint}"
        assert self.app_context is not None
        self.public_url = f"{self.app_context.settings.base_url}/{workflows.endpoint}"
        return self.public_url

    def stop(self) -> bool:
        """Answer no more; runs under way are cancelled with their record. False if nothing was served."""
        if self._server is None:
            return False
        self.app_context = None
        self._loop.run(self._stop())
        self._loop.close()
        self._server = self.public_url = self.local_url = None
        return True

    def get_run_request(self, run_id: str | None = None) -> RunRequest:
        """
        What the run of that id was asked for, or the latest run.

        Raises:
            RequestError: There is none.
        """
        with self._lock:
            found = self._runs.get(run_id) if run_id else next(reversed(self._runs.values()), None)
        if found is None:
            raise RequestError(
                f"There is no run {run_id} among the latest requests." if run_id else "No request has come yet."
            )
        return found[0]

    def choose_event_of(self, run_id: str | None = None) -> str:
        """Make the event of that run, or of the latest, the test event; returns what it is called. Raises `RequestError`."""
        request = self.get_run_request(run_id)
        assert request.run_ids is not None
        name = f"request {request.run_ids[0][:6]}"
        self._choose_event(request.event.with_masked_headers(), name)
        return name

    async def _start(
        self, workflows: DraftWorkflowSource, port: int, on_run: RunListener, log_line: Callable[[str], None]
    ) -> str:
        from pdkernel.engine.workflow_engine import WorkflowEngine
        from pdkernel.server import AppContext, ServeSettings, create_app
        from pdkernel.server.host_names import build_base_url
        from pdkernel.server.uvicorn_server import Server, listen, local_url

        state = self._state
        opened = listen("127.0.0.1", port)
        url = local_url(opened, "127.0.0.1", tls=False)
        try:
            public = build_base_url(opened.getsockname()[1], self._public_url)
            self._runtime = await WorkflowEngine.start(state.project, state.directory, max_active_runs=WORKER_COUNT)
        except BaseException:
            opened.close()
            raise

        def ran(request: RunRequest, execution: Execution) -> None:
            if not request.keep_in_journal:  # what a cell shows is saved with the notebook
                return
            with self._lock:
                self._runs[execution.id] = (request, execution)
                if len(self._runs) > MAX_KEPT_REQUESTS:
                    # not whatever came in first: a long run's end comes in anew after its request was forgotten
                    del self._runs[min(self._runs, key=lambda run_id: self._runs[run_id][1].started_at)]
            on_run(execution)

        app_context = AppContext(
            project=state.project,
            directory=state.directory,
            engine=self._runtime,
            workflows=workflows,
            settings=ServeSettings(base_url=public, policy=parse_policy(state.egress)),
            clock=state.project.clock,
            ids=state.project.ids,
            on_run=ran,
            write_line=log_line,
            on_link_event=self._on_link_event,
        )
        ready = asyncio.Event()
        self._server = Server(create_app(app_context), on_ready=ready.set)
        self._ended = asyncio.ensure_future(self._server.serve(sockets=[opened]))
        await ready.wait()
        self.app_context = app_context
        return url

    async def _stop(self) -> None:
        assert self._server is not None
        assert self._ended is not None
        assert self._runtime is not None
        self._server.force_exit = True
        self._server.stop()
        await self._ended
        await self._runtime.close()
