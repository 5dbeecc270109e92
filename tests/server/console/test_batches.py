"""The pages of batches."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from pdkernel.engine.run_request import RunRequest
from pdkernel.event import Event
from pdkernel.model import Trigger
from pdkernel.server.run_registry import build_run_request
from pdkernel.storage import Batch
from tests.builders import a_workflow, python_step
from tests.server.console.conftest import ADMIN, JSON, Console, Serve

EACH: dict[str, Any] = {"interval_seconds": 3600, "for_each": "external_user"}
WORKFLOW = replace(
    a_workflow(
        python_step(
            "work", "if pd.steps['trigger']['context']['external_user_id'] == 'bob': raise ValueError('no channel')"
        ),
        name="Report",
    ),
    triggers=(Trigger("schedule", config=EACH),),
)


async def a_batch(console: Console) -> Batch:
    """A batch with a run that succeeds, one that fails, and a skipped user, when both runs have ended."""
    context = console.state.context
    (served,) = context.workflows.list_workflows()
    batch = Batch("batch_1", served.id, "schedule", "Report", "development", context.project.clock.now(), state="done")
    context.project.batches.add(batch)

    def build(user: str) -> RunRequest:
        return build_run_request(
            context,
            served,
            Event.from_schedule(EACH, batch.at),
            external_user_id=user,
            environment="development",
            batch=batch.id,
            dedupe_key=batch.dedupe_key(user),
        )

    for user in ("ada", "bob"):
        await context.engine.run(build(user))
    return batch


async def test_a_page_has_the_failed_and_the_skipped_users(serve: Serve) -> None:
    """With the cause, a link to the run, and the button that runs the failed ones again."""
    console = await serve(WORKFLOW)
    batch = await a_batch(console)
    page = await console.page(f"/-/batches/{batch.id}")
    listed = await console.page("/-/batches")
    (failed,) = (await console.http.get(f"/-/batches/{batch.id}", headers=JSON)).json()["failed"]

    assert "2 users: 1 succeeded, 1 failed" in page
    assert "no channel" in page
    assert f"/-/runs/{failed['run']}" in page
    assert "Retry the failed runs" in page
    assert f"/-/batches/{batch.id}" in listed


async def test_the_runs_of_a_batch_are_listed(serve: Serve) -> None:
    """The list of runs has a filter for it, and a run names its batch."""
    console = await serve(WORKFLOW)
    batch = await a_batch(console)
    runs = (await console.http.get(f"/-/runs?batch={batch.id}", headers=JSON)).json()
    others = (await console.http.get("/-/runs?batch=batch_2", headers=JSON)).json()

    assert sorted(run["external_user"] for run in runs) == ["ada", "bob"]
    assert others == []
    assert f"/-/batches/{batch.id}" in await console.page(f"/-/runs/{runs[0]['id']}")


async def test_the_button_retries_the_failed_runs(serve: Serve) -> None:
    """A form of the page does; a form without the session's token, and a second one, do not."""
    console = await serve(WORKFLOW)
    batch = await a_batch(console)
    path = f"/-/batches/{batch.id}/retry"
    foreign = await console.http.post(path, data={})
    pressed = await console.http.post(path, data={"csrf": await console.csrf()})
    async with asyncio.timeout(30):
        while (found := console.state.context.project.batches.find(batch.id)) is not None and found.round == 0:
            await asyncio.sleep(0.02)
    runs = (await console.http.get("/-/batches/batch_1", headers=JSON)).json()

    assert (foreign.status_code, pressed.status_code) == (403, 303)
    assert runs["retries"] == 1


async def test_an_unknown_batch(serve: Serve) -> None:
    """A person sees a page, and a program with the admin token gets the reason."""
    console = await serve(WORKFLOW)
    await console.page("/-/batches/batch_gone", status=404)
    answer = await console.site.http.get("/-/batches/batch_gone", headers={"authorization": f"Bearer {ADMIN}"})

    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "There is no such batch.")
