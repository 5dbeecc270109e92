"""
The server of a notebook's draft, in a thread beside the kernel.

Each request runs the draft as it is at that moment. The module keeps the latest requests, so that one can become the
test event. The HTTP handlers are in `pdkernel.server`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from pdkernel.common.blocking import run_blocking
from pdkernel.common.loop_thread import LoopThread
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.variables import load_variables
from pdkernel.errors import DefinitionError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.files.source import RefusedSource, WorkflowSource
from pdkernel.language.analysis import check_readable
from pdkernel.operations.triggers import ensure_endpoint_key

if TYPE_CHECKING:
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.kit.session.engine_thread import LazyProject
    from pdkernel.server.app_context import AppContext, LinkEvent, ServedWorkflow
    from pdkernel.server.console_sessions import ConsoleSessions
    from pdkernel.server.uvicorn_server import Server
    from pdkernel.storage import Project

WORKER_COUNT = 4
MAX_KEPT_REQUESTS = 20
"""Number of latest requests that can become the test event."""

RunListener = Callable[[Execution], None]
ReadDraft = Callable[[], tuple[WorkflowSource, OutboundPolicy]]


class DraftWorkflowSource:
    """
    The workflow of a notebook, read again for each request; a draft with errors is served as it was before.

    Attributes:
        policy: The outbound policy when the server started.
    """

    not_served: Sequence[RefusedSource] = ()

    def __init__(self, project: Project, read_draft: ReadDraft) -> None:
        self._project = project
        self._read_draft = read_draft
        source, self.policy = read_draft()
        self.endpoint = ensure_endpoint_key(project, source.path, source.sidecar)
        self.workflow_id = project.endpoint_keys.workflow_id(source.path)
        self._folder = source.path.parent
        self._variables = load_variables(project, self._folder)
        self._latest = self._read()

    async def refresh(self) -> None:
        """Read the variables, in a thread; the kernel has the current state of the draft itself."""
        with suppress(RequestError):
            self._variables = await run_blocking(load_variables, self._project, self._folder)

    def list_workflows(self) -> tuple[ServedWorkflow, ...]:
        """Return the draft."""
        return (self._reload(),)

    def find(self, key: str) -> ServedWorkflow | None:
        """Return the draft, if *key* is its endpoint."""
        return self._reload() if key.lower() == self.endpoint.lower() else None

    def find_id(self, workflow_id: str) -> ServedWorkflow | None:
        """Return the draft, if *workflow_id* is its id."""
        return self._reload() if workflow_id == self.workflow_id else None

    def _reload(self) -> ServedWorkflow:
        with suppress(DefinitionError, RequestError):
            self._latest = self._read()
        return self._latest

    def _read(self) -> ServedWorkflow:
        from pdkernel.server.app_context import ServedWorkflow

        source, policy = self._read_draft()
        check_readable(source.workflow)
        return ServedWorkflow(self.workflow_id, self.endpoint, source, self._variables, policy=policy)


class NotebookServer:
    """
    Serves the draft of one session on this machine.

    Args:
        local: The notebook's project and external users.
        read_draft: Returns the draft and its outbound policy as they are now; raises the errors of the draft.
        choose_event: Makes an event the session's test event, under a name.
        on_link_event: Called with each event of a Connect Link page, from another thread.
        public_url: The server's URL for callers on other machines, with `{port}` for the port; None for loopback.

    Attributes:
        public_url: The URL of the draft's endpoint for callers, or None while the draft is not served.
        local_url: The URL of the draft's endpoint on this machine, or None.
        app_context: The context of the server's handlers, or None.
    """

    def __init__(
        self,
        local: LazyProject,
        *,
        read_draft: ReadDraft,
        choose_event: Callable[[Event, str], None],
        on_link_event: Callable[[LinkEvent], None],
        public_url: str | None = None,
    ) -> None:
        self._local = local
        self._read_draft = read_draft
        self._choose_event = choose_event
        self._on_link_event = on_link_event
        self._public_url = public_url
        self._loop = LoopThread()
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, tuple[RunRequest, Execution]] = OrderedDict()
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._console: ConsoleSessions | None = None
        self._console_links: dict[str, Callable[[], None]] = {}
        self._engine: WorkflowEngine | None = None
        self.public_url: str | None = None
        self.local_url: str | None = None
        self.app_context: AppContext | None = None

    def start(self, *, port: int = 0, on_run: RunListener, log_line: Callable[[str], None]) -> str:
        """
        Start the server; returns the URL of the draft's endpoint.

        Args:
            port: The port; 0 takes a free port.
            on_run: Called with a run after each of its changes, from another thread.
            log_line: Called with a log line for each request, from another thread.

        Raises:
            RequestError: The draft is already served, or the port is in use.
            DefinitionError: The draft has an error.
            InternalError: The server did not start.
        """
        if self.public_url is not None:
            raise RequestError(
                f"The draft is already served at {self.public_url}.", fix="To stop the server: %pdserve stop"
            )
        workflows = DraftWorkflowSource(self._local.project, self._read_draft)
        base = self._loop.run(self._start(workflows, port, on_run, log_line))
        self.local_url = f"{base}/{workflows.endpoint}"
        assert self.app_context is not None
        self.public_url = f"{self.app_context.settings.base_url}/{workflows.endpoint}"
        return self.public_url

    def stop(self) -> bool:
        """Stop the server; active runs are cancelled and recorded. False if the server was not running."""
        if self._server is None:
            return False
        self.app_context = self._console = None
        self._loop.run(self._stop())
        self._loop.close()
        self._server = self.public_url = self.local_url = None
        return True

    def create_console_link(self, on_used: Callable[[], None] = lambda: None) -> str:
        """
        Create a link that logs one person in to the console of the server. It is valid once, for ten minutes.

        Args:
            on_used: Called when a person has logged in with the link, from another thread.

        Raises:
            RequestError: The draft is not served.
        """
        from pdkernel.server.host_names import build_console_url

        context, console = self.app_context, self._console
        if context is None or console is None:
            raise RequestError("The draft is not served, so there is no console.", fix="%pdserve")
        code = console.create_code()
        self._console_links[code.replace("-", "")] = on_used
        settings = context.settings
        return f"{build_console_url(settings.base_url, settings.console_host)}/-/login?code={code}"

    def _use_console_code(self, code: str) -> None:
        self._console_links.pop(code, lambda: None)()

    def get_run_request(self, run_id: str | None = None) -> RunRequest:
        """
        Return the request of the run *run_id*, or of the latest run.

        Raises:
            RequestError: The run is not among the latest requests, or there are no requests.
        """
        with self._lock:
            found = self._runs.get(run_id) if run_id else next(reversed(self._runs.values()), None)
        if found is None:
            raise RequestError(
                f"There is no run {run_id} among the latest requests." if run_id else "No request has arrived yet."
            )
        return found[0]

    def choose_event_of(self, run_id: str | None = None) -> str:
        """Make the event of a run, or of the latest run, the test event; returns its name. Raises `RequestError`."""
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
        from pdkernel.server.app_state import get_state
        from pdkernel.server.host_names import build_base_url, build_console_host
        from pdkernel.server.uvicorn_server import Server, listen, local_url

        project, directory = self._local.project, self._local.directory
        async with AsyncExitStack() as stack:
            listener = stack.enter_context(listen("127.0.0.1", port))
            base_url = build_base_url(listener.getsockname()[1], self._public_url)
            engine = await WorkflowEngine.start(
                project,
                directory,
                max_active_runs=WORKER_COUNT,
                # of this notebook only: its server must not continue the paused runs of others, or of this kernel's cells
                origin=f"draft {workflows.workflow_id}",
            )
            stack.push_async_callback(engine.close)
            app_context = AppContext(
                project=project,
                directory=directory,
                engine=engine,
                workflows=workflows,
                settings=ServeSettings(
                    base_url=base_url,
                    local_url=local_url(listener, "127.0.0.1", tls=False),
                    policy=workflows.policy,
                    console_host=None if self._public_url else build_console_host(project),
                ),
                clock=project.clock,
                ids=project.ids,
                on_run=lambda request, execution: self._record_run(request, execution, on_run),
                write_line=log_line,
                on_link_event=self._on_link_event,
                on_console_code_used=self._use_console_code,
            )
            app = create_app(app_context)
            server = Server(app)
            self._serving = await server.start(listener)
            stack.pop_all()  # `_stop` closes the engine, and the server its socket
        self._server, self._engine, self.app_context = server, engine, app_context
        self._console = get_state(app).console
        return local_url(listener, "127.0.0.1", tls=False)

    def _record_run(self, request: RunRequest | None, execution: Execution, on_run: RunListener) -> None:
        """Keep the run as one of the latest, and pass it to *on_run*; called from the server's thread."""
        if request is not None and not request.keep_in_journal:  # must not appear in the saved notebook
            return
        with self._lock:
            if request is not None:  # a run that goes on after a pause has none
                self._runs[execution.id] = (request, execution)
            if len(self._runs) > MAX_KEPT_REQUESTS:
                # Drop the oldest run, not the first key: the end of a long run adds its key again.
                del self._runs[min(self._runs, key=lambda run_id: self._runs[run_id][1].started_at)]
        on_run(execution)

    async def _stop(self) -> None:
        assert self._server is not None
        assert self._serving is not None
        assert self._engine is not None
        self._server.force_exit = True
        self._server.stop()
        await self._serving
        await self._engine.close()
