"""
That a form comes from a page which this very browser was shown, and that who comes back is who was sent away.

Knows one cookie, which marks a browser, and seals: what a page was about, signed with the browser's mark. Without
it somebody could have the victim's browser finish what they began, and get the victim's account for their own user.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from pdkernel.server.serving import Serving

COOKIE = "pdkernel_link"
_MARK = re.compile(r"[A-Za-z0-9]{43}\Z")


def mark_of(request: Request) -> str | None:
    """What marks the browser, or None if it was shown no page of ours."""
    mark = request.cookies.get(COOKIE, "")
    return mark if _MARK.match(mark) else None


def set_mark(serving: Serving, response: Response, mark: str) -> None:
    """Have the browser send *mark* with what it sends to our pages, also when an app's sign-in page sends it back."""
    parts = urlsplit(serving.settings.url)
    response.set_cookie(
        COOKIE,
        mark,
        path=f"{parts.path}/_static",
        secure=parts.scheme == "https",
        httponly=True,
        samesite="lax",
    )


def seal(mark: str, *about: str) -> str:
    """Signs what a page is about for the browser of that mark."""
    return hmac.new(mark.encode(), "\n".join(about).encode(), hashlib.sha256).hexdigest()


def sealed(mark: str | None, given: str, *about: str) -> bool:
    """Whether *given* is that browser's seal."""
    return mark is not None and hmac.compare_digest(seal(mark, *about).encode(), given.encode("utf-8", "replace"))


def digest(mark: str) -> str:
    """What is kept of a mark."""
    return hashlib.sha256(mark.encode()).hexdigest()
