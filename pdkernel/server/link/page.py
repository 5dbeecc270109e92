"""
The page where a person connects an account: by its credentials here, or by signing in at the app.

Knows what is shown when. Blocking calls of tables and directory run in threads.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pdkernel.connect.apps import check_app
from pdkernel.connect.oauth import authorize_url
from pdkernel.connect.providers import Provider, find_provider
from pdkernel.errors import RequestError
from pdkernel.identity import Account
from pdkernel.project import ConnectToken, LinkVisit
from pdkernel.server.link import browser, html, webhooks
from pdkernel.server.link.choosing import app_of, apps_offered
from pdkernel.server.link.connecting import (
    NoSuchAccountError,
    TokenUsedError,
    TooManyUsersError,
    check_account,
    connect_account,
)
from pdkernel.server.link.tokens import APP_NOT_FOUND, fault_of, tell
from pdkernel.server.link.wish import Wish
from pdkernel.server.serving import Linking

CALLBACK = "/_static/connect/callback"
FIELD = "field:"
FINAL = (TokenUsedError, TooManyUsersError, NoSuchAccountError)
"""Refusals that no other credentials would change."""
MAX_FORM = 1 << 20
"""Bytes of a form; a service account's key file has some thousand."""

STRANGE = "The form was sent from another page. If you were about to connect an account, fill it in here."


async def show(request: Request) -> Response:
    """`GET /_static/connect.html?token=...&app=...`."""
    serving: Linking = request.app.state.serving
    wish = Wish.of(request.query_params)
    wish = replace(wish, app=await asyncio.to_thread(app_of, serving, wish.app))
    token = await asyncio.to_thread(serving.project.connect_tokens.find, wish.text)
    if (fault := fault_of(serving, token)) is not None or token is None:
        return html.failed_page(fault or "", token=token, closes=not wish.hide_close)
    tell(serving, token, "opened")
    if not wish.app:
        known = await asyncio.to_thread(apps_offered, serving)
        return html.choose_page(wish, token, known)
    return await _ask(serving, token, wish)


async def submit(request: Request) -> Response:
    """`POST /_static/connect.html`, from the page's form."""
    serving: Linking = request.app.state.serving
    form = await _read_form(request)
    if form is None:
        return html.failed_page(f"The form holds more than {MAX_FORM} bytes.", status=413)
    wish = Wish.of(form)
    token = await asyncio.to_thread(serving.project.connect_tokens.find, wish.text)
    if (fault := fault_of(serving, token)) is not None or token is None:
        return html.failed_page(fault or "", token=token, closes=not wish.hide_close)
    if not browser.is_from_our_page(serving, request):
        return await _ask(serving, token, wish, problem=STRANGE)
    if html.CANCEL in form:
        tell(serving, token, "cancelled")
        return html.cancelled_page(token)
    provider = await asyncio.to_thread(find_provider, serving.project, wish.app)
    if provider is not None:
        return await _send_away(serving, token, wish, provider, browser.mark_of(request))
    typed = {name.removeprefix(FIELD): value for name, value in form.items() if name.startswith(FIELD) and value}
    if not typed:
        return await _ask(serving, token, wish, problem="Fill in at least one field.")
    try:
        account = await asyncio.to_thread(
            connect_account, serving, token, app=wish.app, credentials=typed, account_id=wish.account
        )
    except FINAL as refusal:
        return failure(serving, token, wish, str(refusal))
    except RequestError as refusal:
        return await _ask(serving, token, wish, problem=str(refusal))
    return success(serving, token, wish, account)


def success(
    serving: Linking, token: ConnectToken, wish: Wish, account: Account, *, came_back: bool = False
) -> Response:
    """
    What the person sees once *account* is connected; the webhook is told after that.

    *came_back*: from the app's sign-in page, in a window of its own if the link is in a frame.
    """
    leads = None if wish.framed else token.terms.success_redirect_uri
    answer: Response
    if leads is None:
        window = came_back and wish.framed
        answer = html.done_page(token, account_id=account.id, app=account.app, window=window)
    else:
        answer = _redirect(leads) if came_back else html.away_page(token, leads, "Your account is connected. Go on.")
    answer.background = webhooks.telling(serving, token, webhooks.connected(token, wish.text, account))
    tell(serving, token, "connected", account.id)
    return answer


def failure(serving: Linking, token: ConnectToken, wish: Wish, problem: str, *, came_back: bool = False) -> Response:
    """What the person sees when no account could be connected; the webhook is told after that."""
    leads = None if wish.framed else token.terms.error_redirect_uri
    answer: Response
    if leads is None:
        window = came_back and wish.framed
        answer = html.failed_page(problem, token=token, closes=not wish.hide_close, window=window)
    else:
        answer = (
            _redirect(leads) if came_back else html.away_page(token, leads, "The account was not connected. Go on.")
        )
    answer.background = webhooks.telling(serving, token, webhooks.failed(token, wish.text, problem))
    tell(serving, token, "failed", problem)
    return answer


async def _ask(serving: Linking, token: ConnectToken, wish: Wish, *, problem: str = "") -> Response:
    closes = not wish.hide_close
    try:
        check_app(wish.app)
        if wish.account is not None:
            await asyncio.to_thread(check_account, serving, token, wish.app, wish.account)
    except NoSuchAccountError as fault:
        return html.failed_page(str(fault), token=token, status=404, closes=closes)
    except RequestError:
        return html.failed_page(APP_NOT_FOUND, token=token, status=404, closes=closes)
    about = html.About(wish, token)
    provider = await asyncio.to_thread(find_provider, serving.project, wish.app)
    if provider is not None:
        return html.sign_in_page(about, urlsplit(provider.authorize_url).netloc, problem=problem)
    fields = await asyncio.to_thread(serving.directory.known_fields, wish.app)
    return html.fields_page(about, fields, problem=problem)


async def _send_away(
    serving: Linking, token: ConnectToken, wish: Wish, provider: Provider, mark: str | None
) -> Response:
    if wish.account is not None:
        try:
            await asyncio.to_thread(check_account, serving, token, wish.app, wish.account)
        except NoSuchAccountError as refusal:
            return failure(serving, token, wish, str(refusal), came_back=wish.framed)
    mark = mark or serving.ids.new("", 43)
    state, verifier = serving.ids.new("", 43), serving.ids.new("", 64)
    redirect_uri = serving.settings.url + CALLBACK
    visit = LinkVisit(wish.text, wish.app, verifier, browser.digest(mark), redirect_uri, wish.account, wish.framed)
    await asyncio.to_thread(serving.project.link_visits.add, state, visit)
    url = authorize_url(provider, state=state, verifier=verifier, redirect_uri=redirect_uri)
    answer = html.away_page(token, url, f"Go on to {urlsplit(url).netloc}.")
    browser.set_mark(serving, answer, mark)
    return answer


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


def _redirect(url: str) -> Response:
    return RedirectResponse(
        url, status_code=303, headers={"referrer-policy": "no-referrer", "cache-control": "no-store"}
    )
