"""
What the caller of an endpoint gets: the platform's own answer, the workflow's, or why there is none.

Knows headers, statuses and bodies. No answer of ours is 409 or 5xx: SDKs would send the request again.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from pdkernel.clock import format_iso
from pdkernel.engine.run_context import derive_id
from pdkernel.engine.run_record import NO_RESPONSE
from pdkernel.execution import Execution
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.server.http_protocol import strip_control_characters
from pdkernel.server.run_registry import StartedRun
from pdkernel.version import VERSION

RESPOND_NOT_CALLED = "$.respond() not called for this invocation"
"""What the caller of a run gets that pauses before it has responded (platform documentation of delays)."""
METHODS = "GET,HEAD,PUT,PATCH,POST,DELETE"

_CORS = {"access-control-allow-origin": "*"}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HOP_BY_HOP_HEADERS = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Headers that belong to the connection, not to the answer."""
_BODILESS = frozenset({204, 205, 304})
_JSON = json.JSONEncoder(ensure_ascii=False)


def preflight(asked: str | None) -> Response:
    """The answer to OPTIONS."""
    headers = {**_CORS, "access-control-allow-methods": METHODS}
    if asked:
        headers["access-control-allow-headers"] = strip_control_characters(asked.encode("latin-1")).decode("latin-1")
        headers["vary"] = "Access-Control-Request-Headers"
    return Response(status_code=204, headers=headers)


def refusal_response(status: int, text: str, **headers: str) -> Response:
    """A refusal in one line; header names with `_` for `-`."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return PlainTextResponse(f"{text}\n", status_code=status, headers={**_CORS, **more})


def accepted_response(context: AppContext, served: ServedWorkflow, run: StartedRun) -> Response:
    """The platform's own answer: the run goes on."""
    # parity[default-answer]: the platform's keys; about, inspect and quickstart say where this run is to be seen
    url = context.settings.base_url
    told = {
        "about": f"pdkernel {VERSION}",
        "event_id": run.run_id,
        "workflow_id": served.id,
        "owner_id": derive_id("o_", context.directory.project_id),
        "deployment_id": derive_id("d_", run.request.workflow.version),
        "timestamp": format_iso(context.clock.now()),
        "inspect": f"{url}/-/runs/{run.run_id}",
        "quickstart": f"{url}/-/runs/{run.run_id}",
    }
    return JSONResponse(told, headers=_CORS)


def trigger_response() -> Response:
    """The answer to a request that wakes a deployed trigger."""
    return Response(status_code=200, headers=_CORS)


def workflow_response(raw: Mapping[str, Any] | None, execution: Execution | None) -> Response:
    """
    The workflow's answer.

    Args:
        raw: As a step made it, or None if none did.
        execution: The run at its end, or None while it goes on.
    """
    if raw is not None:
        return _made(raw)
    if execution is None or execution.status == "paused":
        return PlainTextResponse(RESPOND_NOT_CALLED, status_code=400, headers=_CORS)
    response = execution.response or NO_RESPONSE
    # the platform's words are the first line; what to do here names other users and belongs to the record
    text = str(response.body).partition("\n")[0]
    return PlainTextResponse(text, status_code=response.status, headers=_CORS)


def _made(raw: Mapping[str, Any]) -> Response:
    status = raw["status"]
    body, kind = _content(raw["body"])
    if status < 200 or body is None:
        return PlainTextResponse(str(NO_RESPONSE.body), status_code=400, headers=_CORS)
    headers = [(b"access-control-allow-origin", b"*")]
    given = {name.lower(): value if isinstance(value, list) else [value] for name, value in raw["headers"].items()}
    if "access-control-allow-origin" in given:
        headers = []
    if "content-type" not in given and kind is not None and status not in _BODILESS:
        headers.append((b"content-type", kind))
        headers.append((b"x-content-type-options", b"nosniff"))
    for name, values in given.items():
        if _NAME.match(name) and name not in _HOP_BY_HOP_HEADERS:
            headers += [(name.encode(), strip_control_characters(each.encode("latin-1", "replace"))) for each in values]
    content = b"" if status in _BODILESS else body
    response = Response(content, status_code=status)
    if status not in _BODILESS - {205}:  # that one has a body of no length (RFC 9110, 15.3.6)
        headers.append((b"content-length", str(len(content)).encode()))
    response.raw_headers = headers
    return response


def _content(body: Any) -> tuple[bytes | None, bytes | None]:
    """Bytes and media type; no bytes for a body that is none."""
    # parity[response-type]: which media type a text gets is not documented; a plain one cannot become a page by mistake
    if body is None:
        return b"", None
    if isinstance(body, str):
        return body.encode("utf-8", "replace"), b"text/plain; charset=utf-8"
    if isinstance(body, dict) and body.keys() == {"$base64"}:
        try:
            return base64.b64decode(str(body["$base64"]), validate=True), b"application/octet-stream"
        except (binascii.Error, ValueError):
            return None, None
    return _JSON.encode(body).encode("utf-8", "replace"), b"application/json; charset=utf-8"
