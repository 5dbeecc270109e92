"""
A person comes back from an app's own sign-in page.

Knows that they come back once, in the browser that was sent away, with a code or with the app's refusal.
"""

from __future__ import annotations

import asyncio
import hmac

from starlette.requests import Request
from starlette.responses import Response

from pdkernel.connect.oauth import ProviderError, exchange
from pdkernel.connect.providers import find_provider
from pdkernel.errors import RequestError
from pdkernel.server.link import browser, html
from pdkernel.server.link.connecting import connect_by_oauth
from pdkernel.server.link.page import failure, success
from pdkernel.server.link.tokens import APP_NOT_FOUND, INVALID, fault_of
from pdkernel.server.link.wish import Wish
from pdkernel.server.serving import Linking

_SHOWN = 300
LOST = "This sign-in was not begun in this browser, is over, or took too long. Open the link again."


async def callback(request: Request) -> Response:
    """`GET /_static/connect/callback?state=...&code=...`, or `&error=...`."""
    serving: Linking = request.app.state.serving
    given = request.query_params
    visit = await asyncio.to_thread(serving.project.link_visits.take, given.get("state", ""))
    mark = browser.mark_of(request)
    if visit is None or mark is None or not hmac.compare_digest(browser.digest(mark), visit.browser):
        return html.failed_page(LOST)
    token = await asyncio.to_thread(serving.project.connect_tokens.find, visit.token)
    if token is None:
        return html.failed_page(INVALID)
    if (fault := fault_of(serving, token)) is not None:
        return html.failed_page(fault, token=token, window=visit.framed)
    wish = Wish(visit.token, visit.app, visit.account, framed=visit.framed)
    if "code" not in given:
        said = ": ".join(filter(None, (given.get("error"), given.get("error_description"))))
        refused = f"{visit.app} answered: {said[:_SHOWN] or 'nothing'}"
        return failure(serving, token, wish, refused, came_back=True)
    provider = await asyncio.to_thread(find_provider, serving.project, visit.app)
    if provider is None:
        return html.failed_page(APP_NOT_FOUND, token=token, window=visit.framed)
    try:
        tokens = await asyncio.to_thread(
            exchange, provider, code=given["code"], verifier=visit.verifier, redirect_uri=visit.redirect_uri
        )
        account = await asyncio.to_thread(
            connect_by_oauth, serving, token, app=visit.app, tokens=tokens, account_id=visit.account
        )
    except (ProviderError, RequestError) as refusal:
        return failure(serving, token, wish, str(refusal), came_back=True)
    return success(serving, token, wish, account, came_back=True)
