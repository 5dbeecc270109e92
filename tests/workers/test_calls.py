"""What a worker receives for a step, and which runs it may serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.model import Step
from pdkernel.workers import RunSetup, StepCall
from pdkernel.workers.calls import build_step_input

SETUP = RunSetup(
    "run1",
    "demo",
    {"event": {}, "context": {"id": "ctx1", "ts": 1}},
    {},
    Path("/project"),
    python=Path("/packages/bin/python"),
    is_sandboxed=True,
    public_only=True,
    environment="production",
    external_user="ada",
)


def test_spare_workers_belong_to_no_user() -> None:
    """A worker that no run has used fits runs of every user with the same interpreter and the same outbound rules."""
    spare = SETUP.worker_key.spare

    assert spare == replace(SETUP, external_user="bob", environment="development", workflow="other").worker_key.spare
    assert spare != replace(SETUP, python=None).worker_key.spare
    assert spare != replace(SETUP, is_sandboxed=False).worker_key.spare
    assert spare != replace(SETUP, public_only=False).worker_key.spare
    assert spare != replace(SETUP, external_user=None).worker_key


@pytest.mark.parametrize(
    ("setup", "phrase"),
    [
        (SETUP, "external user 'ada' in production"),
        (replace(SETUP, external_user=None), "runs without an external user in production"),
        (replace(SETUP, share_workers=True), "workflow 'demo' in production (share_workers: always)"),
    ],
)
def test_whose_runs_a_worker_serves(setup: RunSetup, phrase: str) -> None:
    """A log names the user, or the workflow whose users share workers; a spare worker has no user yet."""
    assert setup.worker_key.describe() == phrase
    assert setup.worker_key.spare.describe() == "no external user yet"


def test_the_input_of_a_step() -> None:
    """The context of the step adds to that of the run and wins; the props of the directive and of the call are configured."""
    call = StepCall(
        Step("work", props={"a": 1}),
        props={"b": 2},
        account_fields={"slack": {"token": "x"}},
        context={"id": "own", "deadline": 2},
        store_names={"data": "orders"},
        flow_urls={"resume_url": "https://a"},
        service_db={"seen": 1},
    )

    assert build_step_input(call, SETUP) == {
        "props": {"b": 2},
        "auth": {"slack": {"token": "x"}},
        "stores": {"data": "orders"},
        "context": {"id": "own", "ts": 1, "deadline": 2},
        "flow": {"resume_url": "https://a"},
        "configured": ["a", "b"],
        "db": {"seen": 1},
    }
