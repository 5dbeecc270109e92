"""Deploys triggers and calls their routes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.trigger_events import TriggerEvents
from pdkernel.server.trigger_runner import DeployedTriggers
from tests.server.served import Served

KEY = "dk-6b2f0d84c1"
"""The key of each user's account, with the user's name behind it."""
PARCELS = """
const depot = { type: "app", app: "depot" };
export default {
  key: "depot-new-parcel", name: "New Parcel", version: "0.1.0", type: "source", dedupe: "unique", description: "Emits.",
  props: {
    depot, db: "$.service.db", timer: { type: "$.interface.timer", default: { intervalSeconds: 60 } },
    size: { type: "string", default: "s" }, pin: { type: "string", optional: true, secret: true },
  },
  hooks: {
    async deploy() { this.$emit({ past: true }, { id: "past", summary: "Past" }) },
    async deactivate() { if (this.size === "stuck") throw new Error("stuck") },
  },
  async run() {
    if (this.size === "broken") throw new Error("broken");
    const seen = (this.db.get("seen") ?? 0) + 1;
    this.db.set("seen", seen);
    this.$emit({ parcel: seen, size: this.size, by: this.depot.$auth.api_key.slice(-3) }, { id: seen });
  },
};
"""


def write_sources(checkout: Path, **sources: str) -> None:
    """Write sources of the app `depot` into a checkout of components; `_` in a name stands for `-`."""
    for name, text in sources.items():
        place = checkout / "components" / "depot" / "sources" / name.replace("_", "-")
        place.mkdir()
        (place / f"{place.name}.mjs").write_text(text)


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


async def pass_time(site: Served, seconds: float, until: int, trigger: str) -> list[Any]:
    """Advance the clock and run due triggers until the trigger has *until* events; returns the events."""
    site.clock.advance(seconds)
    runs = RunRegistry(site.context)
    handed_over = TriggerEvents(site.context, runs)
    running = asyncio.gather(DeployedTriggers(site.context, runs, handed_over).run_due(), handed_over.run())
    try:
        async with asyncio.timeout(60):
            while len(found := await events(site, trigger)) < until:
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await runs.close(60)  # what has begun ends, also on a busy machine
    return found
