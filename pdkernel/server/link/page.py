"""
The page where a person connects an account: by its credentials here, or by signing in at the app.

Knows what is shown when. Blocking calls of tables and directory run in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pdkernel.connect.apps import check_app, told_apps
from pdkernel.connect.fields import FIELDS
from pdkernel.connect.oauth import authorize_url
from pdkernel.connect.providers import Provider, find_provider, provided_apps
from pdkernel.errors import RequestError
from pdkernel.identity import Account
from pdkernel.project import ConnectToken, LinkVisit
from pdkernel.server.link import browser, html, webhooks
from pdkernel.server.link.connecting import TokenUsedError, TooManyUsersError, connect_account
from pdkernel.server.link.tokens import APP_NOT_FOUND, fault_of
from pdkernel.server.serving import Serving

CALLBACK = "/_static/connect/callback"
FIELD = "field:"
MAX_FORM = 1 << 20
"""Bytes of a form; a service account's key file has some thousand."""

STALE = "This page is too old, or the browser keeps no cookies. Open the link again."


async def show(request: Request) -> Response:
    """`GET /_static/connect.html?token=...&app=...`."""
    serving: Serving = request.app.state.serving
    text, app = request.query_params.get("token", ""), request.query_params.get("app", "")
    token = await asyncio.to_thread(serving.project.connect_tokens.find, text)
    if (fault := fault_of(serving, token)) is not None or token is None:
        return html.failed_page(fault or "", token=token)
    if not app:
        known = await asyncio.to_thread(_known_apps, serving)
        return html.choose_page(text, token, known)
    return await _ask(request, text, token, app)


async def submit(request: Request) -> Response:
    """`POST /_static/connect.html`, from the page's form."""
    serving: Serving = request.app.state.serving
    form = await _read_form(request)
    if form is None:
        return html.failed_page(f"The form holds more than {MAX_FORM} bytes.", status=413)
    text, app = form.get("token", ""), form.get("app", "")
    token = await asyncio.to_thread(serving.project.connect_tokens.find, text)
    if (fault := fault_of(serving, token)) is not None or token is None:
        return html.failed_page(fault or "", token=token)
    mark = browser.mark_of(request)
    if mark is None or not browser.sealed(mark, form.get("seal", ""), text, app):
        return await _ask(request, text, token, app, problem=STALE)
    provider = await asyncio.to_thread(find_provider, serving.project, app)
    if provider is not None:
        return await _send_away(serving, text, token, app, provider, mark)
    typed = {name.removeprefix(FIELD): value for name, value in form.items() if name.startswith(FIELD) and value}
    if not typed:
        return await _ask(request, text, token, app, problem="Fill in at least one field.")
    try:
        account = await asyncio.to_thread(connect_account, serving, token, app=app, credentials=typed)
    except (TokenUsedError, TooManyUsersError) as fault_:
        return failure(serving, text, token, str(fault_))
    except RequestError as fault_:
        return await _ask(request, text, token, app, problem=str(fault_))
    return success(serving, text, token, account)


def success(serving: Serving, text: str, token: ConnectToken, account: Account, *, after_form: bool = True) -> Response:
    """What the person sees once *account* is connected; the webhook is told after that."""
    leads = token.terms.success_redirect_uri
    answer: Response
    if leads is None:
        answer = html.done_page(token, account_id=account.id, app=account.app)
    else:
        answer = html.away_page(token, leads, "Your account is connected. Go on.") if after_form else _redirect(leads)
    answer.background = webhooks.telling(serving, token, webhooks.connected(token, text, account))
    return answer


def failure(
    serving: Serving, text: str, token: ConnectToken, problem: str, *, after_form: bool = True
) -> Response:  # fmt: skip
    """What the person sees when no account could be connected; the webhook is told after that."""
    leads = token.terms.error_redirect_uri
    answer: Response
    if leads is None:
        answer = html.failed_page(problem, token=token)
    else:
        answer = (
            html.away_page(token, leads, "The account was not connected. Go on.") if after_form else _redirect(leads)
        )
    answer.background = webhooks.telling(serving, token, webhooks.failed(token, text, problem))
    return answer


async def _ask(request: Request, text: str, token: ConnectToken, app: str, *, problem: str = "") -> Response:
    serving: Serving = request.app.state.serving
    try:
        check_app(app)
    except RequestError:
        return html.failed_page(APP_NOT_FOUND, token=token, status=404)
    mark = browser.mark_of(request) or serving.ids.new("", 43)
    about = html.About(text, token, app, browser.seal(mark, text, app))
    provider = await asyncio.to_thread(find_provider, serving.project, app)
    if provider is not None:
        answer = html.sign_in_page(about, urlsplit(provider.authorize_url).netloc, problem=problem)
    else:
        fields = await asyncio.to_thread(serving.directory.known_fields, app)
        answer = html.fields_page(about, fields, problem=problem)
    browser.set_mark(serving, answer, mark)
    return answer


async def _send_away(
    serving: Serving, text: str, token: ConnectToken, app: str, provider: Provider, mark: str
) -> Response:
    state, verifier = serving.ids.new("", 43), serving.ids.new("", 64)
    redirect_uri = serving.settings.url + CALLBACK
    visit = LinkVisit(text, app, verifier, browser.digest(mark), redirect_uri)
    await asyncio.to_thread(serving.project.link_visits.add, state, visit)
    url = authorize_url(provider, state=state, verifier=verifier, redirect_uri=redirect_uri)
    return html.away_page(token, url, f"Go on to {urlsplit(url).netloc}.")


async def _read_form(request: Request) -> dict[str, str] | None:
    """The form's fields, or None if they are too much."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            return None
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=200))
    except ValueError:
        return None


def _known_apps(serving: Serving) -> Sequence[str]:
    return sorted({*told_apps(serving.project), *provided_apps(serving.project), *FIELDS})


def _redirect(url: str) -> Response:
    return RedirectResponse(
        url, status_code=303, headers={"referrer-policy": "no-referrer", "cache-control": "no-store"}
    )
