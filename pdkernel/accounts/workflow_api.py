"""
Requests of the platform's REST API for workflows: a workflow's definition, and the events of workflows and sources.

The API has no list of workflows, and no list of the events that started a workflow with an HTTP endpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote

from pdkernel.accounts.sdk import PAGE_SIZE, TIMEOUT_S, JsonObject, Sdk
from pdkernel.errors import RequestError

EventListKind = Literal["errors", "emits", "source"]
MAX_API_EVENTS = 100
"""The number of events that the API keeps for a workflow or a source."""


class WorkflowApi:
    """
    Workflows of the workspace of an OAuth client. Every method sends requests and raises the errors of `Sdk.call`.

    Args:
        sdk: The SDK client, for its token and its errors.
        org_id: The workspace (`o_...`), which the API needs for some clients; None leaves it out.
    """

    def __init__(self, sdk: Sdk, *, org_id: str | None = None) -> None:
        self._sdk = sdk
        self._query = {"org_id": org_id} if org_id else {}

    def fetch_workflow(self, workflow_id: str) -> JsonObject:
        """
        The workflow object.

        Raises:
            RequestError: The workspace has no such workflow.
        """
        found = self._get(f"workflows/{quote(workflow_id, safe='')}", {})
        if found is None:
            raise RequestError(
                f"The workspace has no workflow {workflow_id}.",
                fix="The id is at the end of the workflow's URL and of its folder in Git. For another workspace: --org-id o_...",
            )
        return found

    def iter_events(self, kind: EventListKind, owner_id: str) -> Iterator[JsonObject]:
        """
        The newest events, at most `MAX_API_EVENTS`; nothing for an unknown *owner_id*.

        Args:
            kind: `errors` (of runs that failed), `emits` (which a workflow emitted) or `source` (which a source emitted).
            owner_id: A workflow, or a source for `source`.
        """
        owner = quote(owner_id, safe="")
        path = {
            "errors": f"workflows/{owner}/$errors/event_summaries",
            "emits": f"workflows/{owner}/event_summaries",
            "source": f"sources/{owner}/event_summaries",
        }[kind]
        cursor: str | None = None
        seen: set[str] = set()
        while len(seen) < MAX_API_EVENTS:
            page = self._get(
                path, {"expand": "event", "limit": str(PAGE_SIZE), **({"after": cursor} if cursor else {})}
            )
            items = [item for item in (page or {}).get("data") or () if isinstance(item, dict)]
            new = [item for item in items if str(item.get("id")) not in seen]
            for item in new[: MAX_API_EVENTS - len(seen)]:
                seen.add(str(item.get("id")))
                yield item
            info = (page or {}).get("page_info")
            cursor = info.get("end_cursor") if isinstance(info, dict) else None
            if not new or not cursor:
                return

    def _get(self, path: str, query: Mapping[str, str]) -> JsonObject | None:
        """The response as an object, or None for a 404."""
        import httpx

        def request(client: Any) -> JsonObject:
            response = httpx.get(
                f"{self._sdk.login.base_url}/v1/{path}",
                params={**self._query, **query},
                headers={"authorization": f"Bearer {client.raw_access_token}"},
                timeout=TIMEOUT_S,
            )
            try:
                body = response.json()
            except ValueError:
                body = None
            if response.status_code >= 300 or not isinstance(body, dict):
                raise _ApiResponseError(response.status_code, body, dict(response.headers))
            return body

        found = self._sdk.call(request, default=_NOT_FOUND)
        return None if found is _NOT_FOUND else found


_NOT_FOUND = object()


class _ApiResponseError(Exception):
    """A response that is not a JSON object of success; has the attributes of the SDK's errors."""

    def __init__(self, status_code: int, body: object, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.status_code = status_code
        self.body = body
        self.headers = headers
