"""
Responses of endpoints: the platform's default response, the workflow's response, or an error.

pdkernel's own responses never have status 409 or 5xx, because SDKs would repeat the request.
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
"""Response if a run pauses before it responds (platform documentation of delays)."""
METHODS = "GET,HEAD,PUT,PATCH,POST,DELETE"

_CORS = {"access-control-allow-origin": "*"}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HOP_BY_HOP_HEADERS = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Headers of the connection, not of the response."""
_STATUSES_WITHOUT_BODY = frozenset({204, 205, 304})
_JSON = json.JSONEncoder(ensure_ascii=False)


def preflight(requested_headers: str | None) -> Response:
    """The response to OPTIONS."""
    headers = {**_CORS, "access-control-allow-methods": METHODS}
    if requested_headers:
        headers["access-control-allow-headers"] = strip_control_characters(requested_headers.encode("latin-1")).decode(
            "latin-1"
        )
        headers["vary"] = "Access-Control-Request-Headers"
    return Response(status_code=204, headers=headers)


def refusal_response(status: int, text: str, **headers: str) -> Response:
    """A one-line error response; header names have `_` instead of `-`."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return PlainTextResponse(f"{text}\n", status_code=status, headers={**_CORS, **more})


def accepted_response(context: AppContext, served: ServedWorkflow, run: StartedRun) -> Response:
    """The platform's default response; the run continues."""
    # parity[default-answer]: the platform's keys; inspect and quickstart have the URL of the run's page
    url = context.settings.base_url
    content = {
        "about": f"pdkernel {VERSION}",
        "event_id": run.run_id,
        "workflow_id": served.id,
        "owner_id": derive_id("o_", context.directory.project_id),
        "deployment_id": derive_id("d_", run.request.workflow.version),
        "timestamp": format_iso(context.clock.now()),
        "inspect": f"{url}/-/runs/{run.run_id}",
        "quickstart": f"{url}/-/runs/{run.run_id}",
    }
    return JSONResponse(content, headers=_CORS)


def trigger_response() -> Response:
    """The default response to a request that invokes a deployed trigger."""
    return Response(status_code=200, headers=_CORS)


def workflow_response(raw: Mapping[str, Any] | None, execution: Execution | None) -> Response:
    """
    The workflow's response.

    Args:
        raw: The response of a step, or None.
        execution: The finished run, or None while it is running.
    """
    if raw is not None:
        return _build_response(raw)
    if execution is None or execution.status == "paused":
        return PlainTextResponse(RESPOND_NOT_CALLED, status_code=400, headers=_CORS)
    response = execution.response or NO_RESPONSE
    # only the first line: the rest may name other users and belongs to the record
    text = str(response.body).partition("\n")[0]
    return PlainTextResponse(text, status_code=response.status, headers=_CORS)


def _build_response(raw: Mapping[str, Any]) -> Response:
    status = raw["status"]
    body, kind = _encode_body(raw["body"])
    if status < 200 or body is None:
        return PlainTextResponse(str(NO_RESPONSE.body), status_code=400, headers=_CORS)
    headers = [(b"access-control-allow-origin", b"*")]
    given = {name.lower(): value if isinstance(value, list) else [value] for name, value in raw["headers"].items()}
    if "access-control-allow-origin" in given:
        headers = []
    if "content-type" not in given and kind is not None and status not in _STATUSES_WITHOUT_BODY:
        headers.append((b"content-type", kind))
        headers.append((b"x-content-type-options", b"nosniff"))
    for name, values in given.items():
        if _NAME.match(name) and name not in _HOP_BY_HOP_HEADERS:
            headers += [(name.encode(), strip_control_characters(each.encode("latin-1", "replace"))) for each in values]
    content = b"" if status in _STATUSES_WITHOUT_BODY else body
    response = Response(content, status_code=status)
    if status not in _STATUSES_WITHOUT_BODY - {205}:  # a 205 has a body of length zero (RFC 9110, 15.3.6)
        headers.append((b"content-length", str(len(content)).encode()))
    response.raw_headers = headers
    return response


def _encode_body(body: Any) -> tuple[bytes | None, bytes | None]:
    """Bytes and media type of a body; (None, None) for invalid base64."""
    # parity[response-type]: the media type of a text is not documented; text/plain cannot be rendered as a page
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
