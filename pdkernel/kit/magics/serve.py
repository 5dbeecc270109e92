"""`%pdserve` serves the draft behind an endpoint and shows its requests in the cell; `%pdinvoke` calls an endpoint."""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import DisplayHandle, display

from pdkernel.engine.variables import load_variables
from pdkernel.errors import DefinitionError, PdkernelError, RequestError
from pdkernel.kit.magics.notebook_context import get_session
from pdkernel.kit.magics.output import (
    REFRESH_S,
    CellError,
    keep_updated,
    parse_arguments,
    schedule_draw,
    show_errors_as_messages,
    show_message,
)
from pdkernel.language.analysis import check_readable
from pdkernel.model import JSON
from pdkernel.render.markup import RichOutput

if TYPE_CHECKING:
    from pdkernel.execution import Execution
    from pdkernel.kit.session import Session
    from pdkernel.kit.widgets.buttons import RequestButtons
    from pdkernel.operations.invocation import ClientCredentials, InvokeRequest, InvokeResponse


MAX_LISTED_REQUESTS = 10
"""Number of listed requests; the latest is shown in full."""
STDERR_FD = 2
_FLUSH = "_pdkernel_request_list"
"""The attribute of a shell with the function that shows all requests at the end of a cell."""


@magics_class
class ServeMagics(Magics):
    """Serve the draft."""

    @no_var_expand
    @magic_arguments()
    @argument(
        "what",
        nargs="?",
        help="stop: stop the server; use: make a request's event the test event; "
        "console: a link that logs you in to the pages of the server's runs",
    )
    @argument("run", nargs="?", help="with use: the run's id; default: the latest request")
    @argument("--port", type=int, default=0, help="default: a free port")
    @line_magic
    @show_errors_as_messages
    def pdserve(self, line: str) -> None:
        """Serve the draft beside the kernel. Each request is a run, shown live; the variable `endpoint` holds the URL."""
        chosen = parse_arguments(self.pdserve, line)
        session = get_session(self.shell)
        match chosen.what:
            case None:
                _start(self.shell, session, chosen.port)
            case "stop":
                show_message("The draft is no longer served." if session.server.stop() else "The draft is not served.")
            case "use":
                show_message(f"The test event is now {_use_request(self.shell, session, chosen.run)}.")
            case "console":
                _open_console(self.shell, session)
            case other:
                raise RequestError(
                    f"%pdserve has no action {other!r}.",
                    fix="%pdserve, %pdserve stop, %pdserve use [RUN], %pdserve console",
                )


class RequestListOutput:
    """
    The cell's output: the URL, the latest requests with a button for each, and the latest request in full.

    Args:
        session: The session of the draft.
        buttons: The buttons of the requests; None without a front end.
    """

    def __init__(self, session: Session, buttons: RequestButtons | None = None) -> None:
        self._session = session
        self._buttons = buttons
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, Execution] = OrderedDict()
        self._list: DisplayHandle | None = None
        self._shown_list: RichOutput | None = None
        self._whole: DisplayHandle | None = None
        self._due = False
        self._is_unflushed = False
        self._head = ""

    def display_at(self, url: str) -> None:
        """Display the output for the draft at *url*, in the running cell."""
        with self._lock:
            self._head = f"The draft is served at {url}\nTo stop the server: %pdserve stop"
            self._shown_list = self._render_list()
            self._list = display(self._shown_list, display_id=True)
            if self._buttons is not None:
                display(self._buttons)
            self._whole = display(RichOutput.from_message("No request has arrived yet."), display_id=True)

    def update(self, execution: Execution) -> None:
        """Show the state of a run after `REFRESH_S`; from any thread."""
        with self._lock:
            self._runs[execution.id] = execution
            self._is_unflushed = True
            if len(self._runs) > MAX_LISTED_REQUESTS:
                # Drop the oldest run, not the first key: the end of a long run adds its key again.
                del self._runs[min(self._runs, key=lambda run_id: self._runs[run_id].started_at)]
            if self._due:
                return
            self._due = True
        schedule_draw(REFRESH_S, self._draw)

    def flush(self, *_: object) -> None:
        """Show all requests at the end of a cell: clients without a page ignore what a thread shows between two cells."""
        if self._is_unflushed:
            self._is_unflushed = False
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            self._due = False
            if self._list is None or self._whole is None:
                return
            runs = list(self._runs.values())
            self._shown_list = self._render_list()
            self._list.update(self._shown_list)
            if self._buttons is not None:
                self._buttons.update(runs)
            self._whole.update(self._render_run(runs[-1]))

    def _render_list(self) -> RichOutput:
        runs = list(self._runs.values())
        lines = [self._head, *self._describe_draft(), *(_format_request_line(run) for run in runs)]
        if runs and self._buttons is None:
            lines.append(
                f"To use a request as the test event: %pdserve use [RUN], for example %pdserve use {runs[-1].id}"
            )
        return RichOutput.from_message("\n".join(lines))

    def _describe_draft(self) -> list[str]:
        """Return what a request runs, if that is not the code that the cells ran."""
        try:
            check_readable(self._session.workflow)
            edited = self._session.describe_edited_steps()
        except (DefinitionError, RequestError) as fault:
            return [f"A request runs the workflow as it was before this error: {fault.message}"]
        return [edited] if edited else []

    def redraw(self) -> None:
        """Show whether the draft was edited or has an error now."""
        with self._lock:
            listed = self._render_list()
            if self._list is not None and listed != self._shown_list:
                self._shown_list = listed
                self._list.update(listed)

    def _render_run(self, execution: Execution) -> RichOutput:
        from pdkernel.kit.session.timeline import render_timeline
        from pdkernel.render import timeline

        with suppress(PdkernelError):  # an invalid draft is reported by its own cell
            return render_timeline(self._session, execution, has_own_event=True)
        return RichOutput(timeline.render_text(execution), timeline.render_html(execution))


def _format_request_line(run: Execution) -> str:
    from pdkernel.render.formatting import EXECUTION_LABELS

    method, path = run.event.get("method"), run.event.get("path")
    who = f" as {run.external_user}" if run.external_user else ""
    return f"{run.started_at}  {method} {path}{who}  {EXECUTION_LABELS[run.status]}  {run.id}"


def _use_request(shell: Any, session: Session, run_id: str | None = None) -> str:
    name = session.server.choose_event_of(run_id)
    shell.user_ns["event"] = session.event
    return name


def _start(shell: Any, session: Session, port: int) -> None:
    requests = RequestListOutput(session, _create_buttons(shell, session))
    terminal = _find_terminal()

    def line(text: str) -> None:
        with suppress(OSError):  # the terminal may be closed
            os.write(terminal, f"{text}\n".encode())

    url = session.server.start(port=port, on_run=requests.update, log_line=line)
    shell.user_ns["endpoint"] = url
    requests.display_at(url)
    with suppress(KeyError, ValueError):  # the first start in this shell
        shell.events.unregister("post_run_cell", shell.__dict__[_FLUSH])
    shell.__dict__[_FLUSH] = requests.flush
    shell.events.register("post_run_cell", requests.flush)
    keep_updated(shell, "%pdserve", requests.redraw)


def _open_console(shell: Any, session: Session) -> None:
    if getattr(shell, "kernel", None) is None:  # a terminal, whose output is not saved
        show_message(f"Console: {session.server.create_console_link()}    # valid once, for ten minutes")
        return
    from pdkernel.kit.widgets.buttons import ConsoleLinkButton

    button = ConsoleLinkButton(session.server.create_console_link)
    button.show_link()
    display(button)


def _create_buttons(shell: Any, session: Session) -> RequestButtons | None:
    if getattr(shell, "kernel", None) is None:
        return None
    from pdkernel.kit.widgets.buttons import RequestButtons

    return RequestButtons(lambda run_id: _use_request(shell, session, run_id))


def _find_terminal() -> int:
    """Return the terminal's file descriptor: ipykernel redirects the usual one to the running cell."""
    try:
        return sys.stderr.fileno()  # ipykernel's stream returns the original descriptor
    except (AttributeError, OSError):
        return STDERR_FD


@magics_class
class InvokeMagics(Magics):
    """Calling an endpoint."""

    @no_var_expand
    @magic_arguments()
    @argument("url", nargs="?", help="the endpoint's URL; default: the URL of the draft while %%pdserve runs")
    @argument("--ca-file", metavar="FILE", help="trust this certificate authority as well")
    @argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="time limit in seconds")
    @argument("--snippets", action="store_true", help="show programs that make this call, instead of calling")
    @line_magic
    @show_errors_as_messages
    def pdinvoke(self, line: str) -> None:
        """
        Call the endpoint with the chosen event's body, for the chosen external user, once.

        The OAuth client is read from PDKERNEL_CLIENT_ID and PDKERNEL_CLIENT_SECRET, so that the notebook has no secret.
        """
        chosen = parse_arguments(self.pdinvoke, line)
        session = get_session(self.shell)
        url = chosen.url or session.server.local_url
        if url is None:
            raise RequestError(
                "No endpoint is given, and the draft is not served.",
                fix="Give the URL, or serve the draft first: %pdserve",
            )
        ca_file = Path(chosen.ca_file).resolve() if chosen.ca_file else None
        call = _build_call(session, url)
        if chosen.snippets:
            _show_snippets(session, call)
            return
        from pdkernel.operations.invocation import explain_missing_token, invoke

        response = invoke(call, timeout_s=chosen.timeout, ca_file=ca_file)
        display(_render_response(response))
        if response.exit_status:
            parts = (
                f"The endpoint answered {response.status} {response.reason}.",
                explain_missing_token(call, response),
            )
            raise CellError("Invoke", " ".join(filter(None, parts)))


def _build_call(session: Session, url: str) -> InvokeRequest:
    from pdkernel.operations.invocation import InvokeRequest

    event = session.event
    return InvokeRequest(
        _build_event_url(session, url),
        external_user_id=session.external_user_id,
        environment=session.environment,
        body=event.data.get("body") if event is not None else None,
        method=_get_method(session),
        query=_list_query_pairs(session),
        bearer=_find_token(session, url),
        client=_read_client(),
    )


def _build_event_url(session: Session, url: str) -> str:
    """Return the URL of the chosen event's path below the endpoint at *url*."""
    path = session.event.data.get("path") if session.event is not None else None
    if not isinstance(path, str) or not path.strip("/"):
        return url
    parts = urlsplit(url)
    below = quote(path.removeprefix("/"), safe="/:@!$&'()*+,;=~")
    return parts._replace(path=f"{parts.path.rstrip('/')}/{below}").geturl()


def _get_method(session: Session) -> str:
    return str((session.event.data.get("method") if session.event is not None else None) or "POST").upper()


def _build_snippet_body(session: Session) -> JSON:
    """Return the chosen event's body with the fields that steps require; without an event, an example body."""
    from pdkernel.language.analysis.contract import build_example_body, derive_contract

    body = session.event.data.get("body") if session.event is not None else None
    if session.event is not None and body is None and _get_method(session) in ("GET", "HEAD", "DELETE"):
        return None
    try:
        contract = derive_contract(session.workflow)
    except DefinitionError:
        return body
    if not contract.fields:
        return body
    example = build_example_body(contract, list(session.events.load_newest().values()), only_required=True)
    return example if body is None else _fill_missing_keys(body, example)


def _fill_missing_keys(value: JSON, defaults: JSON) -> JSON:
    """Return *value* with the missing keys of *defaults*, in all objects that both contain."""
    if not isinstance(value, dict) or not isinstance(defaults, dict):
        return value
    whole = dict(value)
    for key, default in defaults.items():
        whole[key] = _fill_missing_keys(whole[key], default) if key in whole else default
    return whole


def _list_query_pairs(session: Session) -> list[tuple[str, str]]:
    """Return the names and values of the chosen event's query; a list becomes several pairs."""
    query = session.event.data.get("query") if session.event is not None else None
    pairs = query.items() if isinstance(query, dict) else ()
    return [(str(name), str(each)) for name, value in pairs for each in (value if isinstance(value, list) else [value])]


def _find_token(session: Session, url: str) -> str | None:
    """Return the bearer token that the draft's endpoint requires, or None."""
    if session.server.local_url is None or url not in (session.server.local_url, session.server.public_url):
        return None
    trigger = session.workflow.trigger
    return load_variables(session.project, session.folder).get(trigger.token_env or "") or None


def _read_client() -> ClientCredentials | None:
    from pdkernel.operations.invocation import build_client

    return build_client(*map(os.environ.get, ("PDKERNEL_CLIENT_ID", "PDKERNEL_CLIENT_SECRET", "PDKERNEL_TOKEN_URL")))


def _show_snippets(session: Session, call: InvokeRequest) -> None:
    from pdkernel.operations.invocation import build_request_snippets
    from pdkernel.render.snippets import render_html, render_text

    snippets = build_request_snippets(
        replace(call, body=_build_snippet_body(session)),
        project_id=session.directory.project_id,
        fix="Pick a user: %pduser ID",
    )
    display(RichOutput(render_text(snippets), render_html(snippets)))


def _render_response(response: InvokeResponse) -> RichOutput:
    from pdkernel.render import http_response as render_answer

    shown = (response.status, response.reason, response.shown_headers, response.body, response.duration_ms)
    return RichOutput(render_answer.render_text(*shown), render_answer.render_html(*shown))
