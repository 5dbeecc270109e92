"""`%pdserve`: serve the draft behind an endpoint, and show its requests in the cell."""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import DisplayHandle, display

from pdkernel.errors import DefinitionError, PdkernelError, RequestError
from pdkernel.kit.magics.arguments import parse_arguments
from pdkernel.kit.magics.live_output import keep_updated
from pdkernel.kit.magics.notebook_context import get_session
from pdkernel.kit.magics.output import REFRESH_S, schedule_draw, show_errors_as_messages, show_message
from pdkernel.language.analysis import check_readable
from pdkernel.render.markup import RichOutput

if TYPE_CHECKING:
    from pdkernel.execution import Execution
    from pdkernel.kit.session import Session
    from pdkernel.kit.widgets.request_buttons import RequestButtons

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
                show_message(f"The test event is now {_use(self.shell, session, chosen.run)}.")
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
            self._shown_list = self._listed()
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
            self._shown_list = self._listed()
            self._list.update(self._shown_list)
            if self._buttons is not None:
                self._buttons.update(runs)
            self._whole.update(self._picture(runs[-1]))

    def _listed(self) -> RichOutput:
        runs = list(self._runs.values())
        lines = [self._head, *self._notes(), *(_line(run) for run in runs)]
        if runs and self._buttons is None:
            lines.append(
                f"To use a request as the test event: %pdserve use [RUN], for example %pdserve use {runs[-1].id}"
            )
        return RichOutput.from_message("\n".join(lines))

    def _notes(self) -> list[str]:
        """What a request runs, if that is not the code that the cells ran."""
        try:
            check_readable(self._session.workflow)
            edited = self._session.describe_edited_steps()
        except (DefinitionError, RequestError) as fault:
            return [f"A request runs the workflow as it was before this error: {fault.message}"]
        return [edited] if edited else []

    def redraw(self) -> None:
        """Show whether the draft was edited or has an error now."""
        with self._lock:
            listed = self._listed()
            if self._list is not None and listed != self._shown_list:
                self._shown_list = listed
                self._list.update(listed)

    def _picture(self, execution: Execution) -> RichOutput:
        from pdkernel.kit.session.timeline import render_timeline
        from pdkernel.render import timeline

        with suppress(PdkernelError):  # an invalid draft is reported by its own cell
            return render_timeline(self._session, execution, has_own_event=True)
        return RichOutput(timeline.render_text(execution), timeline.render_html(execution))


def _line(run: Execution) -> str:
    from pdkernel.render.formatting import EXECUTION_LABELS

    method, path = run.event.get("method"), run.event.get("path")
    who = f" as {run.external_user}" if run.external_user else ""
    return f"{run.started_at}  {method} {path}{who}  {EXECUTION_LABELS[run.status]}  {run.id}"


def _use(shell: Any, session: Session, run_id: str | None = None) -> str:
    name = session.server.choose_event_of(run_id)
    shell.user_ns["event"] = session.event
    return name


def _start(shell: Any, session: Session, port: int) -> None:
    requests = RequestListOutput(session, _buttons(shell, session))
    terminal = _terminal()

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
    from pdkernel.kit.widgets.link_button import ConsoleLinkButton

    button = ConsoleLinkButton(session.server.create_console_link)
    button.show_link()
    display(button)


def _buttons(shell: Any, session: Session) -> RequestButtons | None:
    if getattr(shell, "kernel", None) is None:
        return None
    from pdkernel.kit.widgets.request_buttons import RequestButtons

    return RequestButtons(lambda run_id: _use(shell, session, run_id))


def _terminal() -> int:
    """The terminal's file descriptor: ipykernel redirects the usual one to the running cell."""
    try:
        return sys.stderr.fileno()  # ipykernel's stream returns the original descriptor
    except (AttributeError, OSError):
        return STDERR_FD
