"""The pages where a user connects an account: with credentials, or with a sign-in at the app and the return from there."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pdkernel.accounts.oauth import ProviderError, authorize_url, exchange_code
from pdkernel.accounts.oauth_providers import OAuthProvider, find_provider
from pdkernel.accounts.registered_apps import check_app_slug
from pdkernel.common.blocking import run_blocking
from pdkernel.common.identity import Account
from pdkernel.errors import RequestError
from pdkernel.render.apps import format_app_name
from pdkernel.server.app_context import LinkContext
from pdkernel.server.app_serializers import list_offered_apps, resolve_link_app
from pdkernel.server.app_state import get_link_context
from pdkernel.server.link import csrf, html_pages, webhooks
from pdkernel.server.link.account_connection import (
    NoSuchAccountError,
    TokenUsedError,
    TooManyUsersError,
    check_reconnectable,
    connect_account,
    connect_by_oauth,
)
from pdkernel.server.link.link_request import LinkRequest
from pdkernel.server.link.tokens import (
    APP_NOT_FOUND_MESSAGE,
    INVALID_MESSAGE,
    find_token_problem,
    publish_link_event,
)
from pdkernel.storage import ConnectToken, PendingSignIn

CALLBACK_PATH = "/_static/connect/callback"
FIELD_PREFIX = "field:"
FINAL_ERRORS = (TokenUsedError, TooManyUsersError, NoSuchAccountError)
"""Errors that other credentials cannot fix."""
MAX_FORM_BYTES = 1 << 20
"""Maximum size of a form. The key file of a service account has a few thousand bytes."""

_MAX_REASON_CHARACTERS = 300

FOREIGN_FORM_MESSAGE = "The form was sent from another page. To connect an account, fill in this form."
UNKNOWN_SIGN_IN_MESSAGE = (
    "This sign-in was not started in this browser, is already finished, or took too long. Open the link again."
)


async def show(request: Request) -> Response:
    """`GET /_static/connect.html?token=...&app=...`."""
    context = get_link_context(request.app)
    link_request = LinkRequest.from_params(request.query_params)
    link_request = replace(link_request, app=await run_blocking(resolve_link_app, context, link_request.app))
    token = await run_blocking(context.project.connect_tokens.find, link_request.token_text)
    if (fault := find_token_problem(context, token)) is not None or token is None:
        return html_pages.error_page(fault or "", token=token, has_close_button=not link_request.hides_close_button)
    await publish_link_event(context, token, "opened")
    if not link_request.app:
        known = await run_blocking(list_offered_apps, context)
        return html_pages.choose_page(link_request, token, known)
    return await _credentials_response(context, token, link_request)


async def submit(request: Request) -> Response:
    """`POST /_static/connect.html`, from the page's form."""
    context = get_link_context(request.app)
    form = await _read_form(request)
    if form is None:
        return html_pages.error_page(f"The form has more than {MAX_FORM_BYTES} bytes.", status=413)
    link_request = LinkRequest.from_params(form)
    token = await run_blocking(context.project.connect_tokens.find, link_request.token_text)
    if (fault := find_token_problem(context, token)) is not None or token is None:
        return html_pages.error_page(fault or "", token=token, has_close_button=not link_request.hides_close_button)
    if not csrf.is_from_this_server(context, request):
        return await _credentials_response(context, token, link_request, problem=FOREIGN_FORM_MESSAGE)
    if html_pages.CANCEL_BUTTON in form:
        await publish_link_event(context, token, "cancelled")
        return html_pages.cancelled_page(token)
    provider = await run_blocking(find_provider, context.project, link_request.app)
    if provider is not None:
        return await _start_oauth(context, token, link_request, provider, csrf.read_browser_id(request))
    typed = {
        name.removeprefix(FIELD_PREFIX): value
        for name, value in form.items()
        if name.startswith(FIELD_PREFIX) and value
    }
    if not typed:
        return await _credentials_response(context, token, link_request, problem="Fill in at least one field.")
    try:
        account = await run_blocking(
            connect_account,
            context,
            token,
            token_text=link_request.token_text,
            app=link_request.app,
            credentials=typed,
            account_id=link_request.account_id,
        )
    except FINAL_ERRORS as refusal:
        return await _failure_response(context, token, link_request, str(refusal))
    except RequestError as refusal:
        return await _credentials_response(context, token, link_request, problem=str(refusal))
    return await _success_response(context, token, link_request, account)


async def handle_oauth_callback(request: Request) -> Response:
    """
    `GET /_static/connect/callback?state=...&code=...`, or `&error=...`: the user returns from an app's sign-in page.

    A callback is valid once, and only in the browser that started the sign-in.
    """
    context = get_link_context(request.app)
    params = request.query_params
    browser_id = csrf.read_browser_id(request)
    if browser_id is None:
        return html_pages.error_page(UNKNOWN_SIGN_IN_MESSAGE)
    browser = csrf.hash_browser_id(browser_id)
    sign_in = await run_blocking(context.project.pending_sign_ins.consume, params.get("state", ""), browser)
    if sign_in is None:
        return html_pages.error_page(UNKNOWN_SIGN_IN_MESSAGE)
    token = await run_blocking(context.project.connect_tokens.find, sign_in.token)
    if token is None:
        return html_pages.error_page(INVALID_MESSAGE)
    if (fault := find_token_problem(context, token)) is not None:
        return html_pages.error_page(fault, token=token, in_popup=sign_in.framed)
    link_request = LinkRequest(sign_in.token, sign_in.app, sign_in.account, is_framed=sign_in.framed)
    if "code" not in params:
        reason = ": ".join(filter(None, (params.get("error"), params.get("error_description"))))
        problem = f"{format_app_name(sign_in.app)} answered: {reason[:_MAX_REASON_CHARACTERS] or 'no reason given'}"
        return await _failure_response(context, token, link_request, problem, from_callback=True)
    provider = await run_blocking(find_provider, context.project, sign_in.app)
    if provider is None:
        return html_pages.error_page(APP_NOT_FOUND_MESSAGE, token=token, in_popup=sign_in.framed)
    try:
        tokens = await run_blocking(
            exchange_code, provider, code=params["code"], verifier=sign_in.verifier, redirect_uri=sign_in.redirect_uri
        )
        account = await run_blocking(
            connect_by_oauth,
            context,
            token,
            token_text=sign_in.token,
            app=sign_in.app,
            tokens=tokens,
            account_id=sign_in.account,
        )
    except (ProviderError, RequestError) as refusal:
        return await _failure_response(context, token, link_request, str(refusal), from_callback=True)
    return await _success_response(context, token, link_request, account, from_callback=True)


async def _success_response(
    context: LinkContext,
    token: ConnectToken,
    link_request: LinkRequest,
    account: Account,
    *,
    from_callback: bool = False,
) -> Response:
    """
    The page after *account* was connected; the webhook is sent after the response.

    Args:
        context: Context of the pages.
        token: The Connect token.
        link_request: Parameters of the page.
        account: The connected account.
        from_callback: Whether the user returns from the app's sign-in page, in a popup if the link is in a frame.
    """
    redirect_url = None if link_request.is_framed else token.terms.success_redirect_uri
    answer: Response
    if redirect_url is None:
        in_popup = from_callback and link_request.is_framed
        answer = html_pages.connected_page(token, account_id=account.id, app=account.app, in_popup=in_popup)
    else:
        answer = _leave(token, redirect_url, "Your account is connected. Continue.", from_callback=from_callback)
    answer.background = webhooks.webhook_task(context, token)
    await publish_link_event(context, token, "connected", account.id)
    return answer


async def _failure_response(
    context: LinkContext, token: ConnectToken, link_request: LinkRequest, problem: str, *, from_callback: bool = False
) -> Response:
    """The page after an account was not connected; the webhook is sent after the response."""
    redirect_url = None if link_request.is_framed else token.terms.error_redirect_uri
    answer: Response
    if redirect_url is None:
        in_popup = from_callback and link_request.is_framed
        answer = html_pages.error_page(
            problem, token=token, has_close_button=not link_request.hides_close_button, in_popup=in_popup
        )
    else:
        answer = _leave(token, redirect_url, "The account was not connected. Continue.", from_callback=from_callback)
    event = webhooks.build_error_event(token, link_request.token_text, problem)
    await run_blocking(webhooks.store_event, context, token, event)
    answer.background = webhooks.webhook_task(context, token)
    await publish_link_event(context, token, "failed", problem)
    return answer


async def _credentials_response(
    context: LinkContext, token: ConnectToken, link_request: LinkRequest, *, problem: str = ""
) -> Response:
    closes = not link_request.hides_close_button
    try:
        check_app_slug(link_request.app)
        if link_request.account_id is not None:
            await run_blocking(check_reconnectable, context, token, link_request.app, link_request.account_id)
    except NoSuchAccountError as fault:
        return html_pages.error_page(str(fault), token=token, status=404, has_close_button=closes)
    except RequestError:
        return html_pages.error_page(APP_NOT_FOUND_MESSAGE, token=token, status=404, has_close_button=closes)
    about = html_pages.PageSubject(link_request, token)
    provider = await run_blocking(find_provider, context.project, link_request.app)
    if provider is not None:
        return html_pages.sign_in_page(about, urlsplit(provider.authorize_url).netloc, problem=problem)
    fields = await run_blocking(context.directory.credential_fields, link_request.app)
    return html_pages.credentials_page(about, fields, problem=problem)


async def _start_oauth(
    context: LinkContext,
    token: ConnectToken,
    link_request: LinkRequest,
    provider: OAuthProvider,
    browser_id: str | None,
) -> Response:
    if link_request.account_id is not None:
        try:
            await run_blocking(check_reconnectable, context, token, link_request.app, link_request.account_id)
        except NoSuchAccountError as refusal:
            return await _failure_response(
                context, token, link_request, str(refusal), from_callback=link_request.is_framed
            )
    browser_id = browser_id or context.ids.new("", 43)
    state, verifier = context.ids.new("", 43), context.ids.new("", 64)
    redirect_uri = context.settings.base_url + CALLBACK_PATH
    visit = PendingSignIn(
        link_request.token_text,
        link_request.app,
        verifier,
        csrf.hash_browser_id(browser_id),
        redirect_uri,
        link_request.account_id,
        link_request.is_framed,
    )
    await run_blocking(context.project.pending_sign_ins.add, state, visit)
    url = authorize_url(provider, state=state, verifier=verifier, redirect_uri=redirect_uri)
    answer = html_pages.redirect_page(token, url, f"Continue to {urlsplit(url).netloc}.")
    csrf.set_browser_id(context, answer, browser_id)
    return answer


async def _read_form(request: Request) -> dict[str, str] | None:
    """The fields of the form, or None if the form is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=200))
    except ValueError:
        return None


def _leave(token: ConnectToken, url: str, text: str, *, from_callback: bool) -> Response:
    """Lead to *url* of the product; the response to a form is a page with *text* that redirects by itself."""
    return _redirect(url) if from_callback else html_pages.redirect_page(token, url, text)


def _redirect(url: str) -> Response:
    return RedirectResponse(
        url, status_code=303, headers={"referrer-policy": "no-referrer", "cache-control": "no-store"}
    )
