"""
`%pdinvoke`: call a workflow's endpoint with the chosen event, for the chosen external user.

Knows the line form. The request is `pdkernel.invoke`'s, the programs are `render.snippets`'.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from pdkernel.errors import RequestError
from pdkernel.magics.output import CellError, plain_errors, say
from pdkernel.magics.shell import session_of
from pdkernel.render import answer as render_answer
from pdkernel.render import snippets as render_snippets
from pdkernel.render.view import View
from pdkernel.session import Session
from pdkernel.session.contract import body_for_callers

if TYPE_CHECKING:
    from pdkernel.invoke import Answer, Call, OAuthClient


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
    @plain_errors
    def pdinvoke(self, line: str) -> None:
        """
        Call the endpoint with the chosen event's body, for the chosen external user, once.

        The OAuth client is taken from PDKERNEL_CLIENT_ID and PDKERNEL_CLIENT_SECRET, so that no secret stands in a notebook.
        """
        chosen = parse_argstring(self.pdinvoke, line)
        session = session_of(self.shell)
        url = chosen.url or session.server.here
        if url is None:
            raise RequestError("Which endpoint?", fix="Name its URL, or serve the draft first: %pdserve")
        ca_file = Path(chosen.ca_file) if chosen.ca_file else None
        if chosen.snippets:
            _show_snippets(session, url, run=chosen.run, ca_file=ca_file, timeout_s=chosen.timeout)
            return
        from pdkernel.invoke import invoke

        got = invoke(_call(session, url), timeout_s=chosen.timeout, ca_file=ca_file)
        display(_view(got))
        if got.exit_status:
            raise CellError("Invoke", f"The endpoint answered {got.status} {got.reason}.")


def _call(session: Session, url: str) -> Call:
    from pdkernel.invoke import Call

    event = session.event
    query = event.data.get("query") if event is not None else None
    return Call(
        url,
        external_user_id=session.external_user_id,
        environment=session.environment,
        body=event.data.get("body") if event is not None else None,
        method=str(event.data.get("method") or "POST").upper() if event is not None else "POST",
        query=[(str(name), str(value)) for name, value in query.items()] if isinstance(query, dict) else (),
        client=_client(),
    )


def _client() -> OAuthClient | None:
    from pdkernel.invoke import OAuthClient

    found, secret = os.environ.get("PDKERNEL_CLIENT_ID"), os.environ.get("PDKERNEL_CLIENT_SECRET")
    return OAuthClient(found, secret, os.environ.get("PDKERNEL_TOKEN_URL")) if found and secret else None


def _show_snippets(session: Session, url: str, *, run: bool, ca_file: Path | None, timeout_s: float) -> None:
    from pdkernel.session.snippets import SnippetRunner, client_of_its_own, invocation

    if session.external_user_id is None:
        raise RequestError("Snippets invoke a workflow for an external user.", fix="Pick one: %pduser ID")
    does = invocation(
        url,
        external_user_id=session.external_user_id,
        environment=session.environment,
        project_id=session.directory.project_id,
        body=body_for_callers(session),
    )
    made = render_snippets.snippets(does)
    if run:
        with client_of_its_own(session.project) as (client_id, secret):
            given = _client()
            runner = SnippetRunner(
                session.project.folder / "packages" / "snippets",
                given.id if given else client_id,
                given.secret if given else secret,
                ca_file=ca_file,
                timeout_s=timeout_s,
                progress=say,
            )

            async def act(_: Any) -> Any:
                return await runner.run(made, does)

            made = session.wait_for(act)
    display(View(render_snippets.text(made), render_snippets.html(made)))


def _view(got: Answer) -> View:
    shown = (got.status, got.reason, got.shown_headers, got.body, got.duration_ms)
    return View(render_answer.text(*shown), render_answer.html(*shown))
