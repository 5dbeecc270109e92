"""
Forms of the server's pages: their fields, and protection against cross-site request forgery.

Without the check that a page of this server has sent a form, another site could start a sign-in in a victim's browser, or act on
the victim's console.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import Request

from pdkernel.accounts.apps import format_origin
from pdkernel.server.app_context import LinkContext

_MAX_FIELDS = 200


async def read_form(request: Request, max_bytes: int) -> dict[str, str] | None:
    """Return the fields of a URL-encoded form, none for another body; None if the body has more than *max_bytes*."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return {}
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            return None
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:  # too many fields
        return None


def is_from_this_server(context: LinkContext, request: Request) -> bool:
    """
    Return whether a page of this server, or a client that is not a browser, sent the form.

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
