"""The callback from an app's sign-in page, with a code or an error. Valid once, and only in the browser that started the sign-in."""

from __future__ import annotations

import asyncio
import hmac

from starlette.requests import Request
from starlette.responses import Response

from pdkernel.connect.oauth import ProviderError, exchange_code
from pdkernel.connect.oauth_providers import find_provider
from pdkernel.errors import RequestError
from pdkernel.server.app_context import LinkContext
from pdkernel.server.link import csrf, html_pages
from pdkernel.server.link.account_connection import connect_by_oauth
from pdkernel.server.link.connect_page import failure_response, success_response
from pdkernel.server.link.link_request import LinkRequest
from pdkernel.server.link.tokens import APP_NOT_FOUND_MESSAGE, INVALID_MESSAGE, find_token_problem

_MAX_SHOWN_CHARACTERS = 300
UNKNOWN_SIGN_IN_MESSAGE = (
    "This sign-in was not started in this browser, is already finished, or took too long. Open the link again."
)


async def handle_oauth_callback(request: Request) -> Response:
    """`GET /_static/connect/callback?state=...&code=...`, or `&error=...`."""
    context: LinkContext = request.app.state.context
    params = request.query_params
    sign_in = await asyncio.to_thread(context.project.pending_sign_ins.consume, params.get("state", ""))
    browser_id = csrf.read_browser_id(request)
    if (
        sign_in is None
        or browser_id is None
        or not hmac.compare_digest(csrf.hash_browser_id(browser_id), sign_in.browser)
    ):
        return html_pages.error_page(UNKNOWN_SIGN_IN_MESSAGE)
    token = await asyncio.to_thread(context.project.connect_tokens.find, sign_in.token)
    if token is None:
        return html_pages.error_page(INVALID_MESSAGE)
    if (fault := find_token_problem(context, token)) is not None:
        return html_pages.error_page(fault, token=token, in_popup=sign_in.framed)
    link_request = LinkRequest(sign_in.token, sign_in.app, sign_in.account, is_framed=sign_in.framed)
    if "code" not in params:
        reason = ": ".join(filter(None, (params.get("error"), params.get("error_description"))))
        refused = f"{sign_in.app} answered: {reason[:_MAX_SHOWN_CHARACTERS] or 'nothing'}"
        return failure_response(context, token, link_request, refused, from_callback=True)
    provider = await asyncio.to_thread(find_provider, context.project, sign_in.app)
    if provider is None:
        return html_pages.error_page(APP_NOT_FOUND_MESSAGE, token=token, in_popup=sign_in.framed)
    try:
        tokens = await asyncio.to_thread(
            exchange_code, provider, code=params["code"], verifier=sign_in.verifier, redirect_uri=sign_in.redirect_uri
        )
        account = await asyncio.to_thread(
            connect_by_oauth, context, token, app=sign_in.app, tokens=tokens, account_id=sign_in.account
        )
    except (ProviderError, RequestError) as refusal:
        return failure_response(context, token, link_request, str(refusal), from_callback=True)
    return success_response(context, token, link_request, account, from_callback=True)
