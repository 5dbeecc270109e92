"""
`%pdinvoke`: call a workflow's endpoint with the chosen event, for the chosen external user.

Knows the line form. The request is `pdkernel.invoke`'s, the programs are `render.snippets`'.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from pdkernel.errors import RequestError
from pdkernel.magics.notebook_context import get_session
from pdkernel.magics.output import CellError, show_errors_as_messages, show_message
from pdkernel.model import JSON
from pdkernel.render import http_response as render_answer
from pdkernel.render import snippets as render_snippets
from pdkernel.render.rich_output import RichOutput
from pdkernel.session import Session
from pdkernel.session.event_contract import build_request_body
from pdkernel.variables import load_variables

if TYPE_CHECKING:
    from pdkernel.invoke import ClientCredentials, InvokeRequest, InvokeResponse


@magics_class
class InvokeMagics(Magics):
    """Calling an endpoint."""

    @no_var_expand
    @magic_arguments()
    @argument("url", nargs="?", help="the endpoint's URL; without it, the draft's while %%pdserve serves it")
    @argument("--ca-file", metavar="FILE", help="trust this certificate authority, too")
    @argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="seconds to wait")
    @argument("--snippets", action="store_true", help="instead, show programs that make this call")
    @argument("--run", action="store_true", help="with --snippets: run each, and tick those that succeed")
    @line_magic
    @show_errors_as_messages
    def pdinvoke(self, line: str) -> None:
        """
        Call the endpoint with the chosen event's body, for the chosen external user, once.

        The OAuth client is taken from PDKERNEL_CLIENT_ID and PDKERNEL_CLIENT_SECRET, so that no secret stands in a notebook.
        """
        chosen = parse_argstring(self.pdinvoke, line)
        session = get_session(self.shell)
        url = chosen.url or session.server.local_url
        if url is None:
            raise RequestError("Which endpoint?", fix="Name its URL, or serve the draft first: %pdserve")
        ca_file = Path(chosen.ca_file).resolve() if chosen.ca_file else None
        if chosen.snippets:
            _show_snippets(session, url, run=chosen.run, ca_file=ca_file, timeout_s=chosen.timeout)
            return
        from pdkernel.invoke import explain_missing_token, invoke

        call = _call(session, url)
        got = invoke(call, timeout_s=chosen.timeout, ca_file=ca_file)
        display(_view(got))
        if got.exit_status:
            said = (f"The endpoint answered {got.status} {got.reason}.", explain_missing_token(call, got))
            raise CellError("Invoke", " ".join(filter(None, said)))


def _call(session: Session, url: str) -> InvokeRequest:
    from pdkernel.invoke import InvokeRequest

    event = session.event
    return InvokeRequest(
        _event_url(session, url),
        external_user_id=session.external_user_id,
        environment=session.environment,
        body=event.data.get("body") if event is not None else None,
        method=_method(session),
        query=_query(session),
        bearer=_token(session, url),
        client=_client(),
    )


def _event_url(session: Session, url: str) -> str:
    """The URL of the chosen event's path below the endpoint at *url*."""
    path = session.event.data.get("path") if session.event is not None else None
    if not isinstance(path, str) or not path.strip("/"):
        return url
    parts = urlsplit(url)
    below = quote(path.removeprefix("/"), safe="/:@!$&'()*+,;=~")
    return parts._replace(path=f"{parts.path.rstrip('/')}/{below}").geturl()


def _method(session: Session) -> str:
    return str((session.event.data.get("method") if session.event is not None else None) or "POST").upper()


def _body(session: Session) -> JSON:
    """The body that callers would send; none where the event's method and it itself have none."""
    bodiless = session.event is not None and session.event.data.get("body") is None
    return None if bodiless and _method(session) in ("GET", "HEAD", "DELETE") else build_request_body(session)


def _query(session: Session) -> list[tuple[str, str]]:
    """Names and values of the chosen event's query; one that is a list stands several times."""
    query = session.event.data.get("query") if session.event is not None else None
    pairs = query.items() if isinstance(query, dict) else ()
    return [(str(name), str(each)) for name, value in pairs for each in (value if isinstance(value, list) else [value])]


def _token(session: Session, url: str) -> str | None:
    """The token that the draft's own endpoint asks for, or None."""
    if session.server.local_url is None or url not in (session.server.local_url, session.server.public_url):
        return None
    trigger = session.workflow.trigger
    return load_variables(session.project, session.folder).get(trigger.token_env or "") or None


def _client() -> ClientCredentials | None:
    from pdkernel.invoke import ClientCredentials

    found, secret = os.environ.get("PDKERNEL_CLIENT_ID"), os.environ.get("PDKERNEL_CLIENT_SECRET")
    return ClientCredentials(found, secret, os.environ.get("PDKERNEL_TOKEN_URL")) if found and secret else None


def _show_snippets(session: Session, url: str, *, run: bool, ca_file: Path | None, timeout_s: float) -> None:
    from pdkernel.session.snippet_runner import SnippetRunner, build_invocation, temporary_client

    if session.external_user_id is None:
        raise RequestError("Snippets invoke a workflow for an external user.", fix="Pick one: %pduser ID")
    token = _token(session, url)
    does = build_invocation(
        _event_url(session, url),
        external_user_id=session.external_user_id,
        environment=session.environment,
        project_id=session.directory.project_id,
        body=_body(session),
        method=_method(session),
        query=_query(session),
        uses_bearer_token=token is not None,
    )
    made = render_snippets.build_snippets(does)
    if run:
        with temporary_client(session.project) as (client_id, secret):
            given = _client()
            runner = SnippetRunner(
                session.project.folder / "packages" / "snippets",
                given.id if given else client_id,
                given.secret if given else secret,
                token=token,
                ca_file=ca_file,
                timeout_s=timeout_s,
                progress=show_message,
            )

            async def act(_: Any) -> Any:
                return await runner.run(made, does)

            made = session.call_engine(act)
    display(RichOutput(render_snippets.render_text(made), render_snippets.render_html(made)))


def _view(got: InvokeResponse) -> RichOutput:
    shown = (got.status, got.reason, got.shown_headers, got.body, got.duration_ms)
    return RichOutput(render_answer.render_text(*shown), render_answer.render_html(*shown))
