"""The timeline of a run of a notebook."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.execution import Execution, StepResult
from pdkernel.kit.session import Session
from pdkernel.kit.session.timeline import render_timeline
from tests.builders import an_event
from tests.render.builders import an_execution

RUN = an_execution(steps=tuple(StepResult(name, "success") for name in ("one", "two")))
RESPONSE = "response to the caller"


@pytest.fixture
def ran(session: Session) -> Session:
    """A session with the steps of the run and an event."""
    for name in ("one", "two"):
        session.record_cell(f"%%pdstep {name}\ndef handler(pd):\n    return 1\n", cell_id=name)
    session.choose_event(an_event(), "hello")
    return session


def lines(session: Session, run: Execution = RUN, *, has_own_event: bool = False, only: str | None = None) -> list[str]:
    """The lines of the timeline of *run*."""
    shown = render_timeline(session, run, has_own_event=has_own_event, only=None if only is None else {only})
    return [" ".join(line.split()) for line in shown.text.splitlines()]


def test_a_run_has_its_event_and_the_response(ran: Session) -> None:
    """The event has its name, if it has one; the response belongs to a whole run with an HTTP trigger."""
    assert "hello (POST /github)" in render_timeline(ran, RUN, event_name="hello").text
    assert "POST /github" in lines(ran)
    assert any(RESPONSE in line for line in lines(ran))
    assert lines(ran, only="one")[-1] == "✓ success one Python"

    ran.record_cell("%%pdworkflow\ntrigger: {type: schedule, cron: '0 9 * * *'}", cell_id="header")
    assert not any(RESPONSE in line for line in lines(ran))


def test_results_of_another_event_are_stale(ran: Session) -> None:
    """A finished run of an earlier event is marked; a run that goes on, and one with its own event, is not."""
    event = ran.event
    assert event is not None
    ran.record_run(RunRequest(ran.workflow, event, parse_policy("deny")), RUN, is_detached=False)
    assert not any("[stale]" in line for line in lines(ran))

    ran.choose_event(an_event({"another": 1}), "other")

    assert [line.split()[2] for line in lines(ran) if "[stale]" in line] == ["one", "two"]
    others = [*lines(ran, has_own_event=True), *lines(ran, replace(RUN, finished_at=None, status="executing"))]
    assert not any("[stale]" in line for line in others)
