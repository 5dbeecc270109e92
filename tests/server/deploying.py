"""Deploys triggers and calls their routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from tests.server.served import Served


async def deploy(site: Served, *, status: int = 200, headers: Mapping[str, str] | None = None, **body: Any) -> Any:
    """Deploy a trigger for ada; returns the data of the response, or its error."""
    request = {"external_user_id": "ada", "id": "depot-new-parcel", "configured_props": {}, **body}
    answer = await site.call("POST", "/triggers/deploy", json=request, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()["data"] if status == 200 else answer.json()["error"]


async def call_trigger(site: Served, method: str, path: str, user: str = "ada", **kwargs: Any) -> httpx.Response:
    """Call a route of deployed triggers as *user*."""
    params = {"external_user_id": user, **kwargs.pop("params", {})}
    return await site.call(method, f"/deployed-triggers{path}", params=params, **kwargs)


async def events(site: Served, trigger: str) -> list[Any]:
    """The events that the trigger has emitted, newest first."""
    return [event["e"] for event in (await call_trigger(site, "GET", f"/{trigger}/events")).json()["data"]]
