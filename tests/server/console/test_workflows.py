"""The page of workflows."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

from pdkernel.common.clock import ManualClock
from pdkernel.model import Trigger
from pdkernel.server.source_workflows import SourceWorkflows, select_sources
from pdkernel.storage import TriggerState
from tests.builders import a_workflow, python_step
from tests.server.console.conftest import JSON, Serve

GREET = a_workflow(python_step("greet"), name="Greet")
FAIL = a_workflow(python_step("fail", "raise ValueError('no luck')"), name="Fail")
NIGHTLY = replace(GREET, name="Nightly", triggers=(Trigger("schedule", config={"cron": "0 7 * * *"}),))
OFTEN = replace(GREET, name="Often", triggers=(Trigger("schedule", config={"interval_seconds": 60}),))
SOURCE = replace(GREET, name="Source", triggers=(Trigger("source", config={"uses": "github-new-star@0.0.1"}),))
LISTENS = replace(
    GREET,
    name="Listens",
    triggers=(
        Trigger("errors"),
        Trigger("emit", config={"workflows": ["Greet", "Fail"]}),
        Trigger("schedule", config={"cron": "0 7 * * *", "timezone": "Asia/Tokyo"}),
    ),
)


async def test_workflows(serve: Serve) -> None:
    """Each workflow has its trigger, its URL, its last run, and the runs and failures of the last hours."""
    console = await serve(GREET, FAIL, NIGHTLY, OFTEN, SOURCE, LISTENS)
    started = [(name, await console.start(name=name)) for name in ("Greet", "Greet", "Fail")]
    newest = dict(started)
    await console.site.runs()
    page = await console.page("/-/")
    lines = {line["name"]: line for line in (await console.http.get("/-/", headers=JSON)).json()}

    assert {name: [tuple(each.values())[:3] for each in line["triggers"]] for name, line in lines.items()} == {
        "Greet": [("http", "auth none", True)],
        "Fail": [("http", "auth none", True)],
        "Nightly": [("schedule", "0 7 * * * (UTC)", False)],
        "Often": [("schedule", "every 60 s", False)],
        "Source": [("source", "github-new-star@0.0.1", False)],
        "Listens": [
            ("errors", "of all workflows", False),
            ("emit", "of Greet, Fail", False),
            ("schedule", "0 7 * * * (Asia/Tokyo)", False),
        ],
    }
    assert lines["Greet"]["url"] == console.site.url + console.site.path("Greet")
    assert lines["Nightly"]["url"] is None
    assert (lines["Greet"]["runs"], lines["Greet"]["failed"]) == ([0] * 23 + [2], [0] * 24)
    assert (lines["Fail"]["runs"][-1], lines["Fail"]["failed"][-1]) == (1, 1)
    assert {name: line["last_run"] and line["last_run"]["id"] for name, line in lines.items()} == dict.fromkeys(
        lines
    ) | newest
    assert 'aria-label="2 runs in the last 24 hours, 0 failed; at most 2 in an hour"' in page
    assert 'aria-label="1 run in the last 24 hours, 1 failed; at most 1 in an hour"' in page
    assert page.count('<rect class="all" x="115" width="4" y="1.0" height="26.0" />') == 2
    assert page.count('<rect class="failed" x="115" width="4" y="1.0" height="26.0" />') == 1
    assert "ValueError: no luck" in page


async def test_triggers_that_are_on(serve: Serve) -> None:
    """A trigger that is on has its next and last time, and the last result; one that is off, the command."""
    since, due = datetime(2026, 11, 27, 9, tzinfo=UTC), datetime(2026, 11, 28, 7, tzinfo=UTC)
    console = await serve(NIGHTLY, OFTEN, clock=ManualClock(since))  # the trigger is not due when the server looks
    context = console.state.context
    nightly, often = context.workflows.list_workflows()
    config = NIGHTLY.trigger.config
    state = TriggerState(nightly.id, "schedule", "Nightly", "nightly.ipynb", config, True, since, due=due, fired=since)
    failed = TriggerState(
        often.id, "schedule", "Often", "often.ipynb", {}, False, since, result="error: no <i>luck</i>"
    )
    context.project.workflow_triggers.save([state, failed])
    page = await console.page("/-/")
    (line,) = (await console.http.get("/-/", headers=JSON)).json()[0]["triggers"]

    assert line["enabled"] is True
    assert (line["next_fire"], line["last_fire"]) == ("2026-11-28T07:00:00.000Z", "2026-11-27T09:00:00.000Z")
    assert re.search(r": on, next <time [^>]*>2026-11-28 07:00:00 UTC</time>, last <time", page)
    assert f"pdkernel triggers enable {nightly.id}" not in page
    assert f"pdkernel triggers enable {often.id}" in page
    assert '<p class="error">error: no &lt;i&gt;luck&lt;/i&gt;</p>' in page


async def test_a_server_without_workflows(serve: Serve) -> None:
    """The page reports that only the Connect API is served."""
    console = await serve()

    assert "only the Connect API is served" in await console.page("/-/")


async def test_a_workflow_that_is_not_served(serve: Serve) -> None:
    """The page lists a refused workflow with its reason, after those that are served."""
    console = await serve(GREET)
    workflows = console.state.context.workflows
    assert isinstance(workflows, SourceWorkflows)
    folder = console.site.context.project.folder
    (folder / "broken.ipynb").write_text("{")
    notebook = select_sources([folder], folder).refused
    workflows.refuse(notebook[0])
    lines = (await console.http.get("/-/", headers=JSON)).json()

    assert [(line["name"], line["id"] is None, line["url"] is None) for line in lines] == [
        ("Greet", False, False),
        ("broken", True, True),
    ]
    assert "is not a notebook" in lines[1]["not_served"]
    assert "not served" in await console.page("/-/")
