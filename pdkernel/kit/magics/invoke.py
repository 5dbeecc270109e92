"""`%pdinvoke`: call a workflow's endpoint with the chosen event, for the chosen external user."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from pdkernel.engine.variables import load_variables
from pdkernel.errors import DefinitionError, RequestError
from pdkernel.kit.magics.arguments import parse_arguments
from pdkernel.kit.magics.notebook_context import get_session
from pdkernel.kit.magics.output import CellError, ProgressNote, show_errors_as_messages
from pdkernel.model import JSON
from pdkernel.render.markup import RichOutput

if TYPE_CHECKING:
    from pdkernel.kit.session import Session
    from pdkernel.operations.invocation import ClientCredentials, InvokeRequest, InvokeResponse


@magics_class
class InvokeMagics(Magics):
    """Calling an endpoint."""

    @no_var_expand
    @magic_arguments()
    @argument("url", nargs="?", help="the endpoint's URL; default: the URL of the draft while %%pdserve runs")
    @argument("--ca-file", metavar="FILE", help="trust this certificate authority as well")
    @argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="time limit in seconds")
    @argument("--snippets", action="store_true", help="show programs that make this call, instead of calling")
    @argument("--run", action="store_true", help="with --snippets: run each program and mark those that succeed")
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
        call = _call(session, url)
        if chosen.snippets:
            _show_snippets(session, call, run=chosen.run, ca_file=ca_file, timeout_s=chosen.timeout)
            return
        from pdkernel.operations.invocation import explain_missing_token, invoke

        response = invoke(call, timeout_s=chosen.timeout, ca_file=ca_file)
        display(_view(response))
        if response.exit_status:
            parts = (
                f"The endpoint answered {response.status} {response.reason}.",
                explain_missing_token(call, response),
            )
            raise CellError("Invoke", " ".join(filter(None, parts)))


def _call(session: Session, url: str) -> InvokeRequest:
    from pdkernel.operations.invocation import InvokeRequest

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


def _build_snippet_body(session: Session) -> JSON:
    """The chosen event's body with the fields that steps require; without an event, an example body."""
    from pdkernel.language.analysis.contract import build_example_body, derive_contract

    body = session.event.data.get("body") if session.event is not None else None
    if session.event is not None and body is None and _method(session) in ("GET", "HEAD", "DELETE"):
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
    """*value* with the missing keys of *defaults*, in all objects that both contain."""
    if not isinstance(value, dict) or not isinstance(defaults, dict):
        return value
    whole = dict(value)
    for key, default in defaults.items():
        whole[key] = _fill_missing_keys(whole[key], default) if key in whole else default
    return whole


def _query(session: Session) -> list[tuple[str, str]]:
    """Names and values of the chosen event's query; a list becomes several pairs."""
    query = session.event.data.get("query") if session.event is not None else None
    pairs = query.items() if isinstance(query, dict) else ()
    return [(str(name), str(each)) for name, value in pairs for each in (value if isinstance(value, list) else [value])]


def _token(session: Session, url: str) -> str | None:
    """The bearer token that the draft's endpoint requires, or None."""
    if session.server.local_url is None or url not in (session.server.local_url, session.server.public_url):
        return None
    trigger = session.workflow.trigger
    return load_variables(session.project, session.folder).get(trigger.token_env or "") or None


def _client() -> ClientCredentials | None:
    from pdkernel.operations.invocation import build_client

    return build_client(*map(os.environ.get, ("PDKERNEL_CLIENT_ID", "PDKERNEL_CLIENT_SECRET", "PDKERNEL_TOKEN_URL")))


def _show_snippets(session: Session, call: InvokeRequest, *, run: bool, ca_file: Path | None, timeout_s: float) -> None:
    from pdkernel.operations.snippets import NO_USER_MESSAGE, build_invocation, run_snippets
    from pdkernel.render import snippets as render_snippets

    if call.external_user_id is None:
        raise RequestError(NO_USER_MESSAGE, fix="Pick a user: %pduser ID")
    invocation = build_invocation(
        replace(call, body=_build_snippet_body(session)),
        external_user_id=call.external_user_id,
        project_id=session.directory.project_id,
    )
    snippets = render_snippets.build_snippets(invocation)
    if run:
        with ProgressNote() as progress:
            snippets = session.call_engine(
                lambda _: run_snippets(
                    session.project,
                    invocation,
                    snippets,
                    client=call.client,
                    token=call.bearer,
                    ca_file=ca_file,
                    timeout_s=timeout_s,
                    progress=progress,
                )
            )
    display(RichOutput(render_snippets.render_text(snippets), render_snippets.render_html(snippets)))


def _view(response: InvokeResponse) -> RichOutput:
    from pdkernel.render import http_response as render_answer

    shown = (response.status, response.reason, response.shown_headers, response.body, response.duration_ms)
    return RichOutput(render_answer.render_text(*shown), render_answer.render_html(*shown))
