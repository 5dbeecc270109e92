"""Events that runs emit while the project's triggers cannot be read; `tests/server/test_workflow_triggers.py` has the other cases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from pdkernel.common.clock import SequentialIds
from pdkernel.egress import parse_policy
from pdkernel.engine.deliveries import may_retry
from pdkernel.engine.emitted_events import ERRORS_CHANNEL, EmittedEvents
from pdkernel.engine.run_request import RunRequest
from pdkernel.event import Event
from pdkernel.execution import Delivery, ErrorRecord
from pdkernel.model import JSON, Trigger
from pdkernel.operations.triggers import enable_triggers
from pdkernel.storage import Project
from tests.builders import a_workflow, python_step
from tests.notebook_files import notebook_of
from tests.render.builders import an_execution

REQUEST = RunRequest(a_workflow(python_step()), Event(), parse_policy("deny"), test=False, interface="http")
FAILED = an_execution(status="error", error=ErrorRecord("step_failed", "ValueError", "no stock", step="count"))


HANDLER = replace(REQUEST, workflow=replace(REQUEST.workflow, triggers=(Trigger("errors"),)))


@contextmanager
def listening(folder: Path, trigger: str) -> Iterator[Project]:
    """Open a project in which a workflow with *trigger* is enabled."""
    notebook_of(
        folder / "ears.ipynb", f"%%pdworkflow\nname: Ears\ntrigger: {trigger}", "%%pdstep a\ndef handler(pd): 1"
    )
    with Project.open(folder / ".pdkernel") as project:
        enable_triggers(project, "Ears", folder)
        yield project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project with a trigger that listens to errors, whose table cannot be read now."""
    with listening(tmp_path, "{type: errors}") as project:
        with project.sqlalchemy_engine.begin() as connection:
            connection.execute(text("alter table workflow_triggers rename to moved"))
        yield project


def test_an_error_is_recorded_if_the_triggers_cannot_be_read(project: Project) -> None:
    """Whether a trigger listens is decided by the delivery then."""
    events = EmittedEvents(project.workflow_triggers, SequentialIds())

    assert events.has_error_listener(REQUEST, FAILED)


async def test_an_event_that_is_not_stored_is_tried_again(project: Project) -> None:
    """The delivery has failed, with the reason, and another try follows."""
    events = EmittedEvents(project.workflow_triggers, SequentialIds())
    message = Delivery(ERRORS_CHANNEL, "emit", "waiting", payload=events.new_error().payload)

    delivery = await events.deliver(message, REQUEST, FAILED, "run:$errors:1:0")

    assert delivery.outcome == "failed"
    assert may_retry(delivery)


async def test_an_event_is_stored_for_each_listener(tmp_path: Path) -> None:
    """An event waits for the triggers that listen to its workflow and channel and are on, with a key for each."""
    with listening(tmp_path, "{type: emit, workflows: [Open issue to Slack], channel: parcels}") as project:
        (ears,) = project.workflow_triggers.list_states()
        others: dict[str, dict[str, JSON]] = {
            "letters": {"channel": "letters"},
            "plain": {},
            "others": {"channel": "parcels", "workflows": ["B"]},
        }
        project.workflow_triggers.save(replace(ears, key=key, settings=each) for key, each in others.items())
        project.workflow_triggers.save([replace(ears, key="off", enabled=False), replace(ears, key="more")])
        events, stored = EmittedEvents(project.workflow_triggers, SequentialIds()), []
        events.on_stored = lambda: stored.append(True)
        payloads: list[dict[str, JSON]] = [{"channel": "parcels", "event": 5}, {"channel": "post"}, {"event": {"a": 1}}]

        delivery, unheard, default = [
            await events.deliver(
                Delivery("one", "emit", "waiting", payload=each), REQUEST, an_execution(), f"key{number}"
            )
            for number, each in enumerate(payloads)
        ]
        waiting = project.trigger_events.list_waiting(project.trigger_events.list_targets(), 10)

        assert (delivery.outcome, delivery.to) == ("sent", "Ears, Ears")
        assert (unheard.outcome, unheard.note) == ("shown", "Not emitted: no workflow listens.")
        assert (default.outcome, default.to, stored) == ("sent", "Ears", [True, True])
        assert [(each.target.key, each.dedupe_key, each.data) for each in waiting] == [
            *((key, f"key0/{ears.workflow_id}/{key}", {"value": 5}) for key in sorted(["more", ears.key])),
            ("plain", f"key2/{ears.workflow_id}/plain", {"a": 1}),
        ]
        assert not events.has_error_listener(REQUEST, FAILED)


@pytest.mark.parametrize(
    ("request_of", "listens"),
    [
        (REQUEST, True),
        (replace(REQUEST, test=True), False),
        (replace(REQUEST, below_error_handler=True), False),
        (HANDLER, False),
    ],
    ids=["served", "test", "below a handler", "handler"],
)
async def test_a_failed_run_starts_workflows_once(tmp_path: Path, request_of: RunRequest, listens: bool) -> None:
    """A failed run is an event, unless it is a test or handles errors itself: that would never end."""
    with listening(tmp_path, "{type: errors}") as project:
        events = EmittedEvents(project.workflow_triggers, SequentialIds())
        assert events.has_error_listener(request_of, FAILED) is listens
        message = Delivery(ERRORS_CHANNEL, "emit", "waiting", payload=events.new_error().payload)
        request = replace(request_of, external_user_id="ada", environment="production")
        await events.deliver(message, request, FAILED, "key")

        (waiting,) = project.trigger_events.list_waiting(project.trigger_events.list_targets(), 10)
        error = waiting.data["error"]
        assert isinstance(error, dict)
        assert (error["message"], error["name"], error["step"], error["ts"]) == (
            "no stock",
            "ValueError",
            "count",
            FAILED.finished_at,
        )
        assert error["stack"] == "ValueError: no stock"
        assert (waiting.external_user_id, waiting.environment) == ("ada", "production")
        assert waiting.data["original_event"] == FAILED.event


@pytest.mark.parametrize(
    ("workflows", "depth", "listens"),
    [
        ("[work.ipynb]", 0, True),
        ("[work.ipynb]", 1, True),
        ("[Open issue to Slack]", 1, True),
        ("[other.ipynb]", 0, False),
    ],
)
def test_a_listener_names_the_workflow_or_its_file(tmp_path: Path, workflows: str, depth: int, listens: bool) -> None:
    """A listener gets the errors of the workflow or the file that it names, also of a run that another run has triggered."""
    request = replace(REQUEST, source_path=tmp_path / "work.ipynb", depth=depth)
    with listening(tmp_path, f"{{type: errors, workflows: {workflows}}}") as project:
        events = EmittedEvents(project.workflow_triggers, SequentialIds())

        assert events.has_error_listener(request, FAILED) == listens
