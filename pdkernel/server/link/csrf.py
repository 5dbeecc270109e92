"""
Protection of Connect Link against cross-site request forgery.

Two checks: a page of this server sent the form (`Sec-Fetch-Site`, `Origin`), and the browser that returns from an app's
sign-in page is the browser that started the sign-in (a cookie). Without these checks, an attacker could start or finish a
sign-in in a victim's browser, and connect the victim's account to another user. A form in a frame works without the cookie:
browsers block cookies in frames.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from pdkernel.accounts.apps import format_origin
from pdkernel.server.app_context import LinkContext

COOKIE = "pdkernel_link"
_BROWSER_ID = re.compile(r"[A-Za-z0-9]{43}\Z")


def is_from_this_server(context: LinkContext, request: Request) -> bool:
    """
    Whether a page of this server, or a client that is not a browser, sent the form.

    Browsers always send a header that identifies the site of the page; other clients do not send one of these headers.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    # browsers send only this header to plain http on another machine
    origin = request.headers.get("origin")
    return origin in (
        None,
        format_origin(context.settings.base_url),
        f"{request.url.scheme}://{request.headers.get('host', '')}",
    )


def read_browser_id(request: Request) -> str | None:
    """The browser's id, or None if this browser did not start a sign-in."""
    browser_id = request.cookies.get(COOKIE, "")
    return browser_id if _BROWSER_ID.match(browser_id) else None


def set_browser_id(context: LinkContext, response: Response, browser_id: str) -> None:
    """Set the cookie with *browser_id*; the browser also sends it when an app's sign-in page redirects back."""
    parts = urlsplit(context.settings.base_url)
    response.set_cookie(
        COOKIE,
        browser_id,
        path=f"{parts.path}/_static",
        secure=parts.scheme == "https",
        httponly=True,
        samesite="lax",
    )


def hash_browser_id(browser_id: str) -> str:
    """The digest of a browser id, for storage."""
    return hashlib.sha256(browser_id.encode()).hexdigest()
