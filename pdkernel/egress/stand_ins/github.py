"""
Stand-in for GitHub's REST API: issues, comments and labels of a repository.

The source is GitHub's documentation, "REST API endpoints for issues". Ids are derived from the request, so that saved outputs
of a notebook do not change.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pdkernel.egress.stand_ins.base import (
    ReceivedRequest,
    StandIn,
    StandInAnswer,
    derive_number,
    parse_json_body,
    shorten,
)

_DOCUMENTATION = "https://docs.github.com/rest"
_REPOSITORY = r"/repos/(?P<owner>[\w.-]+)/(?P<repo>[\w.-]+)"
_ISSUE = re.compile(rf"{_REPOSITORY}/issues/(?P<number>\d+)\Z")
_ISSUES = re.compile(rf"{_REPOSITORY}/issues\Z")
_COMMENTS = re.compile(rf"{_REPOSITORY}/issues/(?P<number>\d+)/comments\Z")
_LABELS = re.compile(rf"{_REPOSITORY}/issues/(?P<number>\d+)/labels\Z")


class GitHubStandIn(StandIn):
    """Answers for api.github.com."""

    hosts = ("api.github.com",)

    def _respond(self, request: ReceivedRequest) -> StandInAnswer:
        if not request.headers.get("user-agent"):
            return _refusal(
                403, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header"
            )
        if not _has_token(request):
            return _refusal(401, "Requires authentication")
        for method, path, act in _ROUTES:
            found = path.match(request.path)
            if found and request.method == method:
                return act(found, parse_json_body(request))
        return _refusal(
            404, "Not Found", note=f"{request.method} {request.path} is not supported by the GitHub stand-in"
        )


def _has_token(request: ReceivedRequest) -> bool:
    # "token" is the older scheme, which GitHub still accepts
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return kind.lower() in ("bearer", "token") and bool(token.strip())


def _refusal(status: int, message: str, *, note: str | None = None, errors: list[Any] | None = None) -> StandInAnswer:
    body = {"message": message, "documentation_url": _DOCUMENTATION, "status": str(status)}
    return StandInAnswer(status, {**body, **({"errors": errors} if errors else {})}, note=note)


def _invalid(resource: str, field: str) -> StandInAnswer:
    error = {"resource": resource, "code": "missing_field", "field": field}
    return _refusal(422, "Validation Failed", errors=[error])


def _comment(found: re.Match[str], body: Any) -> StandInAnswer:
    text = body.get("body") if isinstance(body, dict) else None
    if not isinstance(text, str) or not text:
        return _invalid("IssueComment", "body")
    where, number = f"{found['owner']}/{found['repo']}", int(found["number"])
    comment = derive_number(where, number, text)
    created = {
        "id": comment,
        "url": f"https://api.github.com/repos/{where}/issues/comments/{comment}",
        "html_url": f"https://github.com/{where}/issues/{number}#issuecomment-{comment}",
        "issue_url": f"https://api.github.com/repos/{where}/issues/{number}",
        "body": text,
        "user": {"login": "stand-in", "id": 1, "type": "User"},
        "created_at": "2023-11-14T22:13:20Z",
        "updated_at": "2023-11-14T22:13:20Z",
    }
    return StandInAnswer(201, created, note=f'GitHub comment on {where}#{number}: "{shorten(text)}"')


def _open_issue(found: re.Match[str], body: Any) -> StandInAnswer:
    title = body.get("title") if isinstance(body, dict) else None
    if not isinstance(title, str) or not title:
        return _invalid("Issue", "title")
    where = f"{found['owner']}/{found['repo']}"
    number = derive_number(where, title) % 10_000 + 1
    named = body.get("labels") or []
    if not isinstance(named, list):
        return _not_an_array(named)
    labels = [label for label in named if isinstance(label, str)]
    created = _issue(where, number, title, body.get("body"), labels)
    return StandInAnswer(201, created, note=f'GitHub issue {where}#{number}: "{shorten(title)}"')


def _get_issue(found: re.Match[str], _: Any) -> StandInAnswer:
    where, number = f"{found['owner']}/{found['repo']}", int(found["number"])
    return StandInAnswer(200, _issue(where, number, f"Issue {number}", None, []))


def _label(found: re.Match[str], body: Any) -> StandInAnswer:
    named = body.get("labels") if isinstance(body, dict) else body
    if not isinstance(named or [], list):
        return _not_an_array(named)
    labels = [label for label in named or [] if isinstance(label, str)]
    if not labels:
        return _invalid("Label", "labels")
    where, number = f"{found['owner']}/{found['repo']}", int(found["number"])
    return StandInAnswer(200, _labels(labels), note=f"GitHub labels on {where}#{number}: {shorten(', '.join(labels))}")


def _not_an_array(labels: object) -> StandInAnswer:
    return _refusal(422, f"Invalid request.\n\nFor 'properties/labels', {json.dumps(labels)} is not an array.")


def _issue(where: str, number: int, title: str, text: Any, labels: list[str]) -> dict[str, Any]:
    return {
        "id": derive_number(where, number),
        "number": number,
        "url": f"https://api.github.com/repos/{where}/issues/{number}",
        "html_url": f"https://github.com/{where}/issues/{number}",
        "state": "open",
        "title": title,
        "body": text,
        "labels": _labels(labels),
        "user": {"login": "stand-in", "id": 1, "type": "User"},
    }


def _labels(names: list[str]) -> list[dict[str, Any]]:
    return [{"id": derive_number(name), "name": name, "color": "ededed", "default": False} for name in names]


_ROUTES = (
    ("POST", _COMMENTS, _comment),
    ("POST", _ISSUES, _open_issue),
    ("GET", _ISSUE, _get_issue),
    ("POST", _LABELS, _label),
)
