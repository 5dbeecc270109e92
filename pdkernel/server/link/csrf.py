"""
That a form comes from a page of ours, and that who comes back from an app is who was sent away.

Knows what browsers say of where a form stands, which no page of another site can change, and one cookie, which marks a
browser while its person signs in at an app. Without the two, somebody could have a victim's browser begin or finish a
sign-in, and get the victim's account for their own user. A form in a frame needs no cookie: browsers keep those of
frames to themselves.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from pdkernel.connect.oauth_providers import format_origin
from pdkernel.server.app_context import LinkContext

COOKIE = "pdkernel_link"
_MARK = re.compile(r"[A-Za-z0-9]{43}\Z")


def is_from_our_page(context: LinkContext, request: Request) -> bool:
    """
    Whether a page of this very server sends the form, or no page at all.

    Browsers say which site's page it is. A program that fills the form in says nothing, and nobody can make a victim's
    browser say nothing.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    # what browsers send to addresses that they do not trust: plain http to another machine
    origin = request.headers.get("origin")
    return origin in (
        None,
        format_origin(context.settings.base_url),
        f"{request.url.scheme}://{request.headers.get('host', '')}",
    )


def read_browser_id(request: Request) -> str | None:
    """What marks the browser, or None if it was not sent away by us."""
    mark = request.cookies.get(COOKIE, "")
    return mark if _MARK.match(mark) else None


def set_browser_id(context: LinkContext, response: Response, browser_id: str) -> None:
    """Have the browser send *browser_id* with what it sends to our pages, also when an app's sign-in page sends it back."""
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
    """What is kept of a mark."""
    return hashlib.sha256(browser_id.encode()).hexdigest()
