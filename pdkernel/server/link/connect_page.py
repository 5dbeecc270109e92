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

from pdkernel.connect.oauth import authorize_url
from pdkernel.connect.oauth_providers import OAuthProvider, find_provider
from pdkernel.connect.registered_apps import check_app_slug
from pdkernel.errors import RequestError
from pdkernel.identity import Account
from pdkernel.project import ConnectToken, PendingSignIn
from pdkernel.server.app_context import LinkContext
from pdkernel.server.link import csrf, html_pages, webhooks
from pdkernel.server.link.account_connection import (
    NoSuchAccountError,
    TokenUsedError,
    TooManyUsersError,
    check_reconnectable,
    connect_account,
)
from pdkernel.server.link.app_choice import list_offered_apps, resolve_app
from pdkernel.server.link.link_request import LinkRequest
from pdkernel.server.link.tokens import APP_NOT_FOUND_MESSAGE, find_token_problem, publish_link_event

CALLBACK_PATH = "/_static/connect/callback"
FIELD_PREFIX = "field:"
FINAL_ERRORS = (TokenUsedError, TooManyUsersError, NoSuchAccountError)
"""Refusals that no other credentials would change."""
MAX_FORM_BYTES = 1 << 20
"""Bytes of a form; a service account's key file has some thousand."""

FOREIGN_FORM_MESSAGE = "The form was sent from another page. If you were about to connect an account, fill it in here."


async def show(request: Request) -> Response:
    """`GET /_static/connect.html?token=...&app=...`."""
    context: LinkContext = request.app.state.context
    wish = LinkRequest.from_params(request.query_params)
    wish = replace(wish, app=await asyncio.to_thread(resolve_app, context, wish.app))
    token = await asyncio.to_thread(context.project.connect_tokens.find, wish.token_text)
    if (fault := find_token_problem(context, token)) is not None or token is None:
        return html_pages.error_page(fault or "", token=token, has_close_button=not wish.hides_close_button)
    publish_link_event(context, token, "opened")
    if not wish.app:
        known = await asyncio.to_thread(list_offered_apps, context)
        return html_pages.choose_page(wish, token, known)
    return await _credentials_response(context, token, wish)


async def submit(request: Request) -> Response:
    """`POST /_static/connect.html`, from the page's form."""
    context: LinkContext = request.app.state.context
    form = await _read_form(request)
    if form is None:
        return html_pages.error_page(f"The form holds more than {MAX_FORM_BYTES} bytes.", status=413)
    wish = LinkRequest.from_params(form)
    token = await asyncio.to_thread(context.project.connect_tokens.find, wish.token_text)
    if (fault := find_token_problem(context, token)) is not None or token is None:
        return html_pages.error_page(fault or "", token=token, has_close_button=not wish.hides_close_button)
    if not csrf.is_from_our_page(context, request):
        return await _credentials_response(context, token, wish, problem=FOREIGN_FORM_MESSAGE)
    if html_pages.CANCEL_BUTTON in form:
        publish_link_event(context, token, "cancelled")
        return html_pages.cancelled_page(token)
    provider = await asyncio.to_thread(find_provider, context.project, wish.app)
    if provider is not None:
        return await _start_oauth(context, token, wish, provider, csrf.read_browser_id(request))
    typed = {
        name.removeprefix(FIELD_PREFIX): value
        for name, value in form.items()
        if name.startswith(FIELD_PREFIX) and value
    }
    if not typed:
        return await _credentials_response(context, token, wish, problem="Fill in at least one field.")
    try:
        account = await asyncio.to_thread(
            connect_account, context, token, app=wish.app, credentials=typed, account_id=wish.account_id
        )
    except FINAL_ERRORS as refusal:
        return failure_response(context, token, wish, str(refusal))
    except RequestError as refusal:
        return await _credentials_response(context, token, wish, problem=str(refusal))
    return success_response(context, token, wish, account)


def success_response(
    context: LinkContext,
    token: ConnectToken,
    link_request: LinkRequest,
    account: Account,
    *,
    from_callback: bool = False,
) -> Response:
    """
    What the person sees once *account* is connected; the webhook is told after that.

    *from_callback*: from the app's sign-in page, in a window of its own if the link is in a frame.
    """
    leads = None if link_request.is_framed else token.terms.success_redirect_uri
    answer: Response
    if leads is None:
        window = from_callback and link_request.is_framed
        answer = html_pages.connected_page(token, account_id=account.id, app=account.app, in_popup=window)
    else:
        answer = (
            _redirect(leads)
            if from_callback
            else html_pages.redirect_page(token, leads, "Your account is connected. Go on.")
        )
    answer.background = webhooks.webhook_task(
        context, token, webhooks.build_success_event(token, link_request.token_text, account)
    )
    publish_link_event(context, token, "connected", account.id)
    return answer


def failure_response(
    context: LinkContext, token: ConnectToken, link_request: LinkRequest, problem: str, *, from_callback: bool = False
) -> Response:
    """What the person sees when no account could be connected; the webhook is told after that."""
    leads = None if link_request.is_framed else token.terms.error_redirect_uri
    answer: Response
    if leads is None:
        window = from_callback and link_request.is_framed
        answer = html_pages.error_page(
            problem, token=token, has_close_button=not link_request.hides_close_button, in_popup=window
        )
    else:
        answer = (
            _redirect(leads)
            if from_callback
            else html_pages.redirect_page(token, leads, "The account was not connected. Go on.")
        )
    answer.background = webhooks.webhook_task(
        context, token, webhooks.build_error_event(token, link_request.token_text, problem)
    )
    publish_link_event(context, token, "failed", problem)
    return answer


async def _credentials_response(
    context: LinkContext, token: ConnectToken, wish: LinkRequest, *, problem: str = ""
) -> Response:
    closes = not wish.hides_close_button
    try:
        check_app_slug(wish.app)
        if wish.account_id is not None:
            await asyncio.to_thread(check_reconnectable, context, token, wish.app, wish.account_id)
    except NoSuchAccountError as fault:
        return html_pages.error_page(str(fault), token=token, status=404, has_close_button=closes)
    except RequestError:
        return html_pages.error_page(APP_NOT_FOUND_MESSAGE, token=token, status=404, has_close_button=closes)
    about = html_pages.PageSubject(wish, token)
    provider = await asyncio.to_thread(find_provider, context.project, wish.app)
    if provider is not None:
        return html_pages.sign_in_page(about, urlsplit(provider.authorize_url).netloc, problem=problem)
    fields = await asyncio.to_thread(context.directory.credential_fields, wish.app)
    return html_pages.credentials_page(about, fields, problem=problem)


async def _start_oauth(
    context: LinkContext, token: ConnectToken, wish: LinkRequest, provider: OAuthProvider, mark: str | None
) -> Response:
    if wish.account_id is not None:
        try:
            await asyncio.to_thread(check_reconnectable, context, token, wish.app, wish.account_id)
        except NoSuchAccountError as refusal:
            return failure_response(context, token, wish, str(refusal), from_callback=wish.is_framed)
    mark = mark or context.ids.new("", 43)
    state, verifier = context.ids.new("", 43), context.ids.new("", 64)
    redirect_uri = context.settings.base_url + CALLBACK_PATH
    visit = PendingSignIn(
        wish.token_text,
        wish.app,
        verifier,
        csrf.hash_browser_id(mark),
        redirect_uri,
        wish.account_id,
        wish.is_framed,
    )
    await asyncio.to_thread(context.project.pending_sign_ins.add, state, visit)
    url = authorize_url(provider, state=state, verifier=verifier, redirect_uri=redirect_uri)
    answer = html_pages.redirect_page(token, url, f"Go on to {urlsplit(url).netloc}.")
    csrf.set_browser_id(context, answer, mark)
    return answer


async def _read_form(request: Request) -> dict[str, str] | None:
    """The form's fields, or None if they are too much."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=200))
    except ValueError:
        return None


def _redirect(url: str) -> Response:
    return RedirectResponse(
        url, status_code=303, headers={"referrer-policy": "no-referrer", "cache-control": "no-store"}
    )
