"""The text of a request in the journal."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.common.redaction import Secret
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.run_request import NO_OPTIONS, RunRequest, TestOptions, decode_request, encode_request
from pdkernel.event import Event
from tests.builders import a_workflow, python_step

OF_THE_PROCESS = {"data_stores", "variables", "idempotency", "find_workflow", "load_variables"}
"""Fields that the process that continues a run sets anew."""
OF_THE_ROW = {"workflow", "external_user_id", "environment", "run_ids"}
"""Fields that the run's row and its definition hold."""
OF_A_NEW_RUN = {"keep_in_journal", "refusal", "done_steps", "dedupe_key", "package_lock"}
"""Fields that only matter until a run is recorded, or that its recorded steps hold."""

REQUEST = RunRequest(
    a_workflow(python_step("one")),
    Event({"body": {"a": "\ud800"}}, is_http=False),
    OutboundPolicy(
        "record",
        "record=calls",
        allowed_hosts=("a.test",),
        recording_file=Path("/calls"),
        stand_in_url="http://stand-in.test",
        stand_in_names="slack",
        via="http://proxy.test",
        network_vias=("net_a=http://other.test",),
        unopened=("b.test",),
        public_only=True,
    ),
    external_user_id="ada",
    environment="production",
    folder=Path("/folder"),
    options=TestOptions(
        pinned_exports={"one": {"$return_value": 1}},
        only_steps=frozenset({"one"}),
        previous_exports={"one": {"x": [None]}},
        resend=True,
    ),
    test=False,
    install=False,
    source="other.ipynb",
    source_path=Path("/folder/other.ipynb"),
    interface="http",
    action_sources=("npm", "../components"),
    pause_mode="park",
    base_url="https://flows.test",
    depth=3,
    account_overrides={"slack": "apn_1"},
    workflow_id="p_1",
    run_ids=("run", "trace"),
    parent="parent",
    replay_of="first",
    secrets=(Secret("slack/apn_1/token", "xoxb-0123456789"),),
    emitter_id="ti_1",
    held_queues=("p_a",),
    below_error_handler=True,
    is_silent=True,
    batch="batch_1",
)


def decode(text: str, root: Path) -> tuple[RunRequest, bool]:
    """The request of the text, on a host with the project in *root*."""
    return decode_request(
        text,
        root,
        workflow=REQUEST.workflow,
        external_user_id="ada",
        environment="production",
        run_ids=("run", "trace"),
    )


def test_a_request_survives_its_text() -> None:
    """Each field that another process needs has its value again."""
    text = encode_request(REQUEST, Path("/elsewhere"))

    decoded, sends_once = decode(text, Path("/another"))

    assert decoded == REQUEST
    assert not sends_once


def test_a_request_finds_its_files_on_another_host() -> None:
    """Paths inside of the project's place are those of the host that decodes the text, where the project is elsewhere."""
    text = encode_request(REQUEST, Path("/folder"))

    decoded, _ = decode(text, Path("/srv/project"))

    assert decoded.folder == Path("/srv/project")
    assert decoded.source_path == Path("/srv/project/other.ipynb")
    assert "/folder" not in text


def test_the_test_sets_each_stored_field() -> None:
    """The request above differs from the defaults in every field that the text holds: a new field must be considered."""
    plain = RunRequest(replace(REQUEST.workflow, name="Other"), Event({}), OutboundPolicy("live", "live"))

    same = {each.name for each in fields(RunRequest) if getattr(plain, each.name) == getattr(REQUEST, each.name)}

    assert same == OF_THE_PROCESS | OF_A_NEW_RUN | {"is_only_recorded"}
    assert OF_THE_ROW & same == set()


def test_a_run_without_steps_stays_one() -> None:
    """The request of an event that is only recorded has no steps after it was stored."""
    request = replace(REQUEST, options=NO_OPTIONS, is_only_recorded=True)

    decoded, _ = decode(encode_request(request, Path("/")), Path("/"))

    assert (decoded.is_only_recorded, decoded.options, decoded.executed_steps) == (True, NO_OPTIONS, ())


def test_a_changed_copy_is_that_of_dataclasses() -> None:
    """A copy with changes has the other fields of the request, and none of what was derived from the changed ones."""
    scope = REQUEST.idempotency_scope

    changed = REQUEST.with_changes(external_user_id="bob", depth=1)

    assert changed == replace(REQUEST, external_user_id="bob", depth=1)
    assert changed.idempotency_scope != scope


def test_the_proxy_of_the_workflows_network() -> None:
    """The calls of a workflow with `network` leave through the proxy of that network."""
    request = replace(REQUEST, workflow=a_workflow(python_step("one"), network="net_a"))

    assert (REQUEST.outbound_policy.via, request.outbound_policy.via) == ("http://proxy.test", "http://other.test")


@pytest.mark.parametrize(
    "other",
    [
        {"event": Event({"body": {"a": 2}}, is_http=False)},
        {"environment": "development"},
        {"external_user_id": "bob"},
        {"external_user_id": None},
    ],
)
def test_an_unsafe_call_is_sent_once_for_each_event_user_and_environment(other: dict[str, Any]) -> None:
    """A run with another event, external user or environment sends its own unsafe calls; a repeated run does not."""
    repeated = replace(REQUEST, run_ids=("second", "trace"))

    assert repeated.idempotency_scope == REQUEST.idempotency_scope
    assert replace(REQUEST, **other).idempotency_scope != REQUEST.idempotency_scope
