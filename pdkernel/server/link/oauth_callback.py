"""
A person comes back from an app's own sign-in page.

Knows that they come back once, in the browser that was sent away, with a code or with the app's refusal.
"""

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
UNKNOWN_SIGN_IN_MESSAGE = "This sign-in was not begun in this browser, is over, or took too long. Open the link again."


async def handle_oauth_callback(request: Request) -> Response:
    """`GET /_static/connect/callback?state=...&code=...`, or `&error=...`."""
    context: LinkContext = request.app.state.context
    given = request.query_params
    visit = await asyncio.to_thread(context.project.pending_sign_ins.consume, given.get("state", ""))
    mark = csrf.read_browser_id(request)
    if visit is None or mark is None or not hmac.compare_digest(csrf.hash_browser_id(mark), visit.browser):
        return html_pages.error_page(UNKNOWN_SIGN_IN_MESSAGE)
    token = await asyncio.to_thread(context.project.connect_tokens.find, visit.token)
    if token is None:
        return html_pages.error_page(INVALID_MESSAGE)
    if (fault := find_token_problem(context, token)) is not None:
        return html_pages.error_page(fault, token=token, in_popup=visit.framed)
    wish = LinkRequest(visit.token, visit.app, visit.account, is_framed=visit.framed)
    if "code" not in given:
        said = ": ".join(filter(None, (given.get("error"), given.get("error_description"))))
        refused = f"{visit.app} answered: {said[:_MAX_SHOWN_CHARACTERS] or 'nothing'}"
        return failure_response(context, token, wish, refused, from_callback=True)
    provider = await asyncio.to_thread(find_provider, context.project, visit.app)
    if provider is None:
        return html_pages.error_page(APP_NOT_FOUND_MESSAGE, token=token, in_popup=visit.framed)
    try:
        tokens = await asyncio.to_thread(
            exchange_code, provider, code=given["code"], verifier=visit.verifier, redirect_uri=visit.redirect_uri
        )
        account = await asyncio.to_thread(
            connect_by_oauth, context, token, app=visit.app, tokens=tokens, account_id=visit.account
        )
    except (ProviderError, RequestError) as refusal:
        return failure_response(context, token, wish, str(refusal), from_callback=True)
    return success_response(context, token, wish, account, from_callback=True)
