"""Events that runs emit while the project's triggers cannot be read; `tests/server/test_workflow_triggers.py` has the other cases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from pdkernel.clock import SequentialIds
from pdkernel.egress import parse_policy
from pdkernel.engine.deliveries import may_retry
from pdkernel.engine.emitted_events import ERRORS_CHANNEL, EmittedEvents
from pdkernel.engine.run_request import RunRequest
from pdkernel.event import Event
from pdkernel.execution import Delivery, ErrorRecord
from pdkernel.operations.triggers import enable_triggers
from pdkernel.project import Project
from tests.builders import a_workflow, python_step
from tests.notebook_files import notebook_of
from tests.render.builders import an_execution

REQUEST = RunRequest(a_workflow(python_step()), Event(), parse_policy("deny"), test=False, interface="http")
FAILED = an_execution(status="error", error=ErrorRecord("step_failed", "ValueError", "no stock", step="count"))


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
    """A project with a trigger that listens to errors and whose settings are damaged."""
    with listening(tmp_path, "{type: errors}") as project:
        with project.sqlalchemy_engine.begin() as connection:
            connection.execute(text("update workflow_triggers set sealed_settings = x'00'"))
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


@pytest.mark.parametrize(
    ("workflows", "depth", "listens"),
    [
        ("[work.ipynb]", 0, True),
        ("[work.ipynb]", 1, False),
        ("[Open issue to Slack]", 1, True),
        ("[other.ipynb]", 0, False),
    ],
)
def test_a_triggered_run_has_no_file_of_its_own(tmp_path: Path, workflows: str, depth: int, listens: bool) -> None:
    """A listener that names the file of the caller does not get errors of the runs that the caller triggers."""
    request = replace(REQUEST, source_path=tmp_path / "work.ipynb", depth=depth)
    with listening(tmp_path, f"{{type: errors, workflows: {workflows}}}") as project:
        events = EmittedEvents(project.workflow_triggers, SequentialIds())

        assert events.has_error_listener(request, FAILED) == listens
