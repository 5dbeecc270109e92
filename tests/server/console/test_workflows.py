"""The page of workflows."""

from __future__ import annotations

from dataclasses import replace

from pdkernel.model import Trigger
from tests.builders import a_workflow, python_step
from tests.server.console.conftest import JSON, Serve

GREET = a_workflow(python_step("greet"), name="Greet")
FAIL = a_workflow(python_step("fail", "raise ValueError('no luck')"), name="Fail")
NIGHTLY = replace(GREET, name="Nightly", triggers=(Trigger("schedule", config={"cron": "0 7 * * *"}),))
OFTEN = replace(GREET, name="Often", triggers=(Trigger("schedule", config={"interval_seconds": 60}),))
SOURCE = replace(GREET, name="Source", triggers=(Trigger("source", config={"uses": "github-new-star@0.0.1"}),))


async def test_workflows(serve: Serve) -> None:
    """Each workflow has its trigger, its URL, its last run, and the runs and failures of the last hours."""
    console = await serve(GREET, FAIL, NIGHTLY, OFTEN, SOURCE)
    for name in ("Greet", "Greet", "Fail"):
        last = await console.start(name=name)
    await console.site.runs()
    page = await console.page("/-/")
    lines = {line["name"]: line for line in (await console.http.get("/-/", headers=JSON)).json()}

    assert {name: [tuple(each.values()) for each in line["triggers"]] for name, line in lines.items()} == {
        "Greet": [("http", "auth none")],
        "Fail": [("http", "auth none")],
        "Nightly": [("schedule", "0 7 * * * (UTC)")],
        "Often": [("schedule", "every 60 s")],
        "Source": [("source", "github-new-star@0.0.1")],
    }
    assert lines["Greet"]["url"] == console.site.url + console.site.path("Greet")
    assert lines["Nightly"]["url"] is None
    assert (lines["Greet"]["runs"], lines["Greet"]["failed"]) == ([0] * 23 + [2], [0] * 24)
    assert (lines["Fail"]["runs"][-1], lines["Fail"]["failed"][-1]) == (1, 1)
    assert (lines["Fail"]["last_run"]["id"], lines["Nightly"]["last_run"]) == (last, None)
    assert 'aria-label="2 runs in the last 24 hours, 0 failed; at most 2 in an hour"' in page
    assert 'aria-label="1 run in the last 24 hours, 1 failed; at most 1 in an hour"' in page
    assert "ValueError: no luck" in page


async def test_a_server_without_workflows(serve: Serve) -> None:
    """The page says that only the Connect API is served."""
    console = await serve()

    assert "only the Connect API is served" in await console.page("/-/")
