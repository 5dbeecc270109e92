"""
Pages of the console: templates, headers, style sheet and script.

A page loads its style sheet and its script from this server, and nothing else. Texts of runs are escaped by the templates, and
control characters are shown as escapes.
"""

from __future__ import annotations

import secrets
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from pdkernel.common.encode import encode_json
from pdkernel.common.version import VERSION
from pdkernel.errors import format_count
from pdkernel.render import formatting
from pdkernel.render.apps import app_label
from pdkernel.render.markup import escape_control_characters
from pdkernel.render.runs import format_error
from pdkernel.server.app_state import get_state
from pdkernel.server.console_sessions import ConsoleSession

HEADERS = {
    "cache-control": "no-store",
    # without a referrer, a browser also omits the Origin of a form
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_MEDIA_TYPES = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
_STATIC = Path(__file__).with_name("static")


def render_page(
    request: Request, template: str, session: ConsoleSession | None, *, status: int = 200, **values: Any
) -> HTMLResponse:
    """Render the page of *template*. With a session, the page has the navigation, and the token that its forms carry."""
    nonce = secrets.token_urlsafe(16)
    page = _templates().get_template(f"{template}.html")
    text = page.render(values, base=base_path(request), nonce=nonce, session=session, version=VERSION)
    # the timeline has its styles in attributes
    policy = (
        f"default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    return HTMLResponse(text, status_code=status, headers={**HEADERS, "content-security-policy": policy})


def render_part(request: Request, template: str, **values: Any) -> str:
    """Render a part of a page, for an event of the server."""
    return _templates().get_template(f"{template}.html").render(values, base=base_path(request))


def json_response(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return the response to a program."""
    return Response(
        encode_json(value), status_code=status, media_type="application/json", headers={**HEADERS, **(headers or {})}
    )


def redirect(request: Request, path: str) -> Response:
    """Lead to *path* of this server with a GET."""
    return RedirectResponse(f"{base_path(request)}{path}", status_code=303, headers=HEADERS)


def base_path(request: Request) -> str:
    """Return the path of the public URL, or the empty string."""
    return get_state(request.app).names.base_path


async def static_file(request: Request) -> Response:
    """Answer GET `/-/static/{name}`: the style sheet or the script."""
    name = request.path_params["name"]
    if name not in _MEDIA_TYPES:
        return not_found()
    return Response(_read_static(name), media_type=_MEDIA_TYPES[name], headers=HEADERS)


def not_found(text: str = "There is no such page.") -> Response:
    """Return the response to an unknown path."""
    return PlainTextResponse(f"{text}\n", status_code=404, headers=HEADERS)


@cache
def _read_static(name: str) -> bytes:
    return (_STATIC / name).read_bytes()


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("pdkernel.server.console"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_show_control_characters,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": format_count,
        "timestamp": formatting.format_timestamp,
        "duration": formatting.format_run_duration,
        "line": formatting.truncate_line,
        "error": format_error,
        "app_label": lambda slug: Markup(app_label(slug)),  # noqa: S704 - escaped by `render`
    }
    environment.globals |= {"labels": formatting.EXECUTION_LABELS}
    return environment


def _show_control_characters(value: object) -> object:
    return escape_control_characters(value) if isinstance(value, str) and not isinstance(value, Markup) else value
