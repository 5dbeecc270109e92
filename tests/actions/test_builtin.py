"""The built-in actions, run by the engine on real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pdkernel.execution import Execution
from pdkernel.model import JSON, Step
from pdkernel.storage import Project
from tests.builders import a_step, a_workflow, python_step
from tests.engine.conftest import Run, SharedEngine, error_of
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve


@pytest.fixture
def project(shared_engine: SharedEngine) -> Iterator[Project]:
    """The project of all tests, without data stores."""
    stores = shared_engine.project.data_stores
    yield shared_engine.project
    for name in stores.names():
        stores.remove(name)


@pytest.fixture
def run(shared_run: Run, project: Project) -> Run:
    """Runs a workflow with outbound calls denied; no run has a user, so one process of Node.js runs all actions."""
    assert project.data_stores.names() == []
    return shared_run


def action(uses: str, body: str = "", *, name: str = "act", options: str = "") -> Step:
    """A step that uses a pre-built action, its props as YAML."""
    return a_step(f"%%pdstep {name} --uses {uses} {options}".rstrip() + f"\n{body}")


def condition(kind: str, initial: str, second: str = "") -> str:
    """The props of a filter."""
    more = f"secondValue: {second}\n" if second else ""
    return f"initialValue: {initial}\ncondition: {kind}\n{more}messageOnEnd: enough\nmessageOnContinue: go\n"


def ending(execution: Execution) -> str:
    """The reason for which the action ended the workflow, as its log has it."""
    return (
        "".join(log.text for log in execution.step("act").logs)
        .removeprefix("[pdkernel] The run ends after this step: ")
        .strip()
    )


HOLDS = [
    ("CONTAINS", "{{'hello'}}", "ell"),
    ("NOT_CONTAINS", "{{'hello'}}", "x"),
    ("TEXT_EQUALS", "{{5}}", "'5'"),
    ("TEXT_NOT_EQUALS", "{{'a'}}", "b"),
    ("STARTS_WITH", "{{'hello'}}", "he"),
    ("NOT_STARTS_WITH", "{{'hello'}}", "lo"),
    ("ENDS_WITH", "{{'hello'}}", "lo"),
    ("NOT_ENDS_WITH", "{{'hello'}}", "he"),
    ("GREATER_THAN", "{{10}}", "'9'"),
    ("GREATER_THAN_EQUALS", "{{1}}", "'1'"),
    ("LESS_THAN", "{{9}}", "'10'"),
    ("LESS_THAN_EQUALS", "{{1}}", "'1'"),
    ("EQUALS", "'1.0'", "'1'"),
    ("GREATER_THAN", "{{5}}", "0"),
    ("EQUALS", "{{0}}", "0"),
    ("TEXT_EQUALS", "{{''}}", "''"),
    ("TRUE", "{{1 >= 1}}", ""),
    ("FALSE", "'false'", ""),
    ("IS_NULL", "{{steps.trigger.event.nothing}}", ""),
    ("NOT_NULL", "{{0}}", ""),
    ("IN_ARRAY", "b", '\'["a", "b"]\''),
    ("NOT_IN_ARRAY", "c", '{{["a", "b"]}}'),
    ("KEY_EXISTS", "{{({a: 1})}}", "a"),
    ("KEY_NOT_EXISTS", "{{({a: 1})}}", "b"),
]


FAILS = [
    ("CONTAINS", "{{'hello'}}", "x"),
    ("GREATER_THAN", "{{9}}", "'10'"),
    ("GREATER_THAN", "{{0}}", "0"),
    ("EQUALS", "{{''}}", "0"),
    ("LESS_THAN", "{{''}}", "1"),
    ("TRUE", "{{0}}", ""),
    ("IS_NULL", "{{''}}", ""),
    ("IN_ARRAY", "c", '{{["a", "b"]}}'),
]


@pytest.mark.parametrize(
    ("kind", "initial", "second", "holds"),
    [*((*each, True) for each in HOLDS), *((*each, False) for each in FAILS)],
)
async def test_end_based_on_condition(shared_run: Run, kind: str, initial: str, second: str, holds: bool) -> None:
    """A true condition ends the workflow, with the message as the reason; with a false one the step returns the other message."""
    step = action("filter-end-based-on-condition@0.0.1", condition(kind, initial, second))

    execution = await shared_run(step, python_step("after"))

    if holds:
        assert (execution.status, execution.step("after").status) == ("exited", "skipped"), execution.to_json()
        assert ending(execution) == "enough"
    else:
        assert (execution.status, execution.step("act").return_value) == ("success", "go")


async def test_continue_based_on_condition(shared_run: Run) -> None:
    """The other filter continues if the condition is true, and ends the workflow if it is false."""
    on = await shared_run(action("filter-continue-based-on-condition@0.0.2", condition("TRUE", "{{true}}")))
    off = await shared_run(action("filter-continue-based-on-condition@0.0.2", condition("TRUE", "{{false}}")))

    assert (on.status, off.status) == ("success", "exited")
    assert (on.step("act").return_value, ending(off)) == ("go", "enough")


async def test_unknown_condition(shared_run: Run) -> None:
    """An unknown condition fails the step; the message names the known conditions, and a stack would name files of pdkernel."""
    step = action("filter-end-based-on-condition@0.0.1", condition("SOMETIMES", "1"))

    error = error_of(await shared_run(step), "act")

    assert "SOMETIMES is not a condition" in error.message
    assert "IS_NULL" in error.message
    assert error.stack is None


async def test_end_workflow(shared_run: Run) -> None:
    """The plain end action ends the workflow."""
    execution = await shared_run(action("filter-end-workflow@0.0.1", "reason: done\n"), python_step("after"))

    assert (execution.status, ending(execution)) == ("exited", "done")


@pytest.mark.parametrize(
    ("props", "status", "headers", "body"),
    [
        ("resStatusCode: 201\nresHeaders:\n  x-a: b\nresBody:\n  ok: 1\n", 201, {"x-a": "b"}, {"ok": 1}),
        ("", 200, {}, {"success": True}),
    ],
    ids=["with props", "without props"],
)
async def test_return_http_response(
    shared_run: Run, props: str, status: int, headers: dict[str, str], body: JSON
) -> None:
    """The response has the values of the props, and defaults for the others."""
    step = action("http-return-http-response@0.0.3", props)

    execution = await shared_run(a_workflow(step, response="custom"))

    assert execution.response is not None
    assert (execution.response.status, execution.response.body) == (status, body)
    assert headers.items() <= dict(execution.response.headers).items()


async def test_email_to_self(run: Run) -> None:
    """The email is queued with subject, text and HTML, and is in the record of the run."""
    step = action("email-send-email-to-self@0.4.4", "subject: Hi\ntext: plain\nhtml: <b>rich</b>\n")

    execution = await run(step)

    assert execution.status == "success"
    assert "Hi" in str(execution.to_json()["steps"])


@pytest.mark.parametrize(
    ("uses", "value", "unit"),
    [
        *(
            (uses, 5, unit)
            for uses in ("delay-delay-workflow@0.0.1", "delay-workflow-delay@0.0.2")
            for unit in ("Milliseconds", "seconds", "Hours")
        ),
        ("delay-workflow-delay@0.0.3", 365, "Days"),
    ],
)
async def test_delay(shared_run: Run, uses: str, value: int, unit: str) -> None:
    """The delay action, under its earlier and its present key, pauses the workflow for at most a year, and returns the two URLs."""
    step = action(uses, f"delayDurationValue: {value}\ndelayDurationUnit: {unit}\n")

    execution = await shared_run(step, pause_mode="skip")

    assert execution.status == "success", execution.step("act").error
    returned: Any = execution.step("act").return_value
    assert set(returned) == {"resume_url", "cancel_url"}


@pytest.mark.parametrize("days", [366, 0, -1])
async def test_delay_too_long_or_too_short(shared_run: Run, days: int) -> None:
    """A delay of more than a year, or of no time, fails the step."""
    step = action("delay-delay-workflow@0.0.1", f"delayDurationValue: {days}\ndelayDurationUnit: Days\n")

    error = error_of(await shared_run(step), "act")

    assert "one year" in error.message


# ── data stores and the HTTP request ────────────────────────────────────────────────────────────────────


async def run_on_store(run: Run, uses: str, body: str = "") -> Execution:
    """Run an action on the project's store `cache`; under `deny` it would write a scratch copy."""
    return await run(action(f"data_stores-{uses}@0.0.1", f"dataStore: cache\n{body}"), egress="live")


async def returned(run: Run, uses: str, body: str = "") -> JSON:
    """The return value of an action on the store `cache`."""
    execution = await run_on_store(run, uses, body)
    step = execution.step("act")
    assert step.status == "success", step.error or execution.error
    return step.return_value


def records(project: Project) -> dict[str, JSON]:
    """The records of the store `cache`."""
    return {record.key: record.value for record in project.data_stores.read_page("cache").records}


async def test_add_update_record(run: Run, project: Project) -> None:
    """A value is stored under its key; JSON text is stored as the value that it encodes."""
    await returned(run, "add-update-record", "key: n\nvalue: '[1, 2]'\n")
    await returned(run, "add-update-record", "key: t\nvalue: plain\n")

    assert records(project) == {"n": [1, 2], "t": "plain"}


async def test_add_update_multiple_records(run: Run, project: Project) -> None:
    """Each key of an object becomes a record."""
    await returned(run, "add-update-multiple-records", "data:\n  a: 1\n  b: x\n")

    assert records(project) == {"a": 1, "b": "x"}


async def test_get_record(run: Run, project: Project) -> None:
    """The value of a record is returned, or null if the record does not exist."""
    project.data_stores.set("cache", "a", {"x": 1})

    assert await returned(run, "get-record", "key: a\n") == {"x": 1}
    assert await returned(run, "get-record", "key: b\n") is None


@pytest.mark.parametrize(
    ("before", "add", "after"),
    [({}, "'Yes'", {"models": []}), ({}, "'No'", {}), ({"models": ["m1"]}, "'Yes'", {"models": ["m1"]})],
    ids=["created", "not created", "existing"],
)
async def test_get_record_or_create(
    run: Run, project: Project, before: dict[str, JSON], add: str, after: dict[str, JSON]
) -> None:
    """A missing record is created and returned, with the props of synced workflows; an existing record is returned unchanged."""
    for key, record in before.items():
        project.data_stores.set("cache", key, record)

    value = await returned(run, "get-record-or-create", f"key: models\naddRecordIfNotFound: {add}\nvalue: '[]'\n")

    assert records(project) == after
    assert value == after.get("models")


@pytest.mark.parametrize("uses", ["get-record-or-create", "has-key-or-create"])
@pytest.mark.parametrize("value", [0, False, ""])
async def test_a_missing_record_is_created_with_any_value(run: Run, project: Project, uses: str, value: JSON) -> None:
    """A value that is 0, false or empty creates the record, with its time to live."""
    await returned(run, uses, f"key: a\naddRecordIfNotFound: 'Yes'\nvalue: {json.dumps(value)}\nttl: 60\n")

    (record,) = project.data_stores.read_page("cache").records
    assert (record.key, record.value) == ("a", value)
    assert record.expires is not None


@pytest.mark.parametrize("value", [1, 0, False, "", None])
async def test_any_value_is_a_record(run: Run, project: Project, value: JSON) -> None:
    """A record is found, and deleted with its last value as the result, also if its value is 0, false, empty or null."""
    project.data_stores.set("cache", "a", value)

    found = await run_on_store(run, "get-record", "key: a\n")
    deleted = await run_on_store(run, "delete-single-record", "key: a\n")

    summaries = [each.step("act").exports["$summary"] for each in (found, deleted)]
    assert summaries == ["Found the record a.", "Deleted the record a."]
    assert deleted.step("act").return_value == value
    assert records(project) == {}


async def test_has_key_or_create(run: Run, project: Project) -> None:
    """The action returns whether the key exists, and creates the record if its props require that."""
    first = await returned(run, "has-key-or-create", "key: a\naddRecordIfNotFound: 'Yes'\nvalue: 1\n")
    second = await returned(run, "has-key-or-create", "key: a\n")

    assert (first, second) == (False, True)


async def test_list_and_clear(run: Run, project: Project) -> None:
    """Keys and records are listed, and all are deleted."""
    project.data_stores.set("cache", "a", 1)
    project.data_stores.set("cache", "b", 2)

    assert sorted(await returned(run, "list-keys")) == ["a", "b"]  # type: ignore[arg-type]
    assert await returned(run, "list-records") == {"a": 1, "b": 2}
    await returned(run, "delete-all-records")
    assert records(project) == {}


async def test_list_records_has_every_key(run: Run, project: Project) -> None:
    """The records of a store have the names of properties that every object of JavaScript has, too."""
    stored: dict[str, JSON] = {"__proto__": {"a": 1}, "constructor": 2, "b": None}
    for key, value in stored.items():
        project.data_stores.set("cache", key, value)

    assert await returned(run, "list-records") == stored


async def test_append_to_record(run: Run, project: Project) -> None:
    """A value is appended to a list; a missing list is created."""
    await returned(run, "append-to-record", "key: a\nvalue: one\n")
    await returned(run, "append-to-record", "key: a\nvalue: two\n")

    assert records(project) == {"a": ["one", "two"]}


async def test_update_ttl(run: Run, project: Project) -> None:
    """The time to live of a record is set; a missing record is an error."""
    project.data_stores.set("cache", "a", 1)
    await returned(run, "update-ttl", "key: a\nttl: 60\n")

    execution = await run_on_store(run, "update-ttl", "key: b\nttl: 60\n")

    assert project.data_stores.read_page("cache").records[0].expires is not None
    assert execution.status == "error"


@pytest.mark.parametrize("ttl", ["ttl: 0\n", ""])
async def test_update_ttl_removes_the_time_to_live(run: Run, project: Project, ttl: str) -> None:
    """Without a time to live, or with 0, the record does not expire."""
    project.data_stores.set("cache", "a", 1, ttl=60)

    execution = await run_on_store(run, "update-ttl", f"key: a\n{ttl}")

    assert project.data_stores.read_page("cache").records[0].expires is None
    assert execution.step("act").exports["$summary"] == "The record a does not expire."


@pytest.mark.parametrize(
    ("uses", "body", "summary"),
    [
        ("get-record", "key: a\n", "Found the record a."),
        ("get-record", "key: b\n", "The record b does not exist."),
        ("get-record-or-create", "key: b\n", "The record b does not exist."),
        ("has-key-or-create", "key: b\n", "The key b does not exist."),
        ("delete-single-record", "key: a\n", "Deleted the record a."),
        ("delete-single-record", "key: b\n", "The record b did not exist."),
        ("add-update-record", "key: a\nvalue: 2\n", "Updated the record a."),
        ("add-update-record", "key: b\nvalue: 2\n", "Added the record b."),
    ],
)
async def test_the_summary_names_the_record(run: Run, project: Project, uses: str, body: str, summary: str) -> None:
    """The summary of an action says what it found or did."""
    project.data_stores.set("cache", "a", 1)

    execution = await run_on_store(run, uses, body)

    assert execution.step("act").exports["$summary"] == summary


@pytest.mark.parametrize(
    ("uses", "body", "message"),
    [
        ("update-ttl", "key: b\nttl: 60\n", "The record b does not exist."),
        (
            "get-record-or-create",
            "key: b\naddRecordIfNotFound: 'Yes'\n",
            "The record b does not exist and cannot be created: the prop value is missing.",
        ),
        (
            "has-key-or-create",
            "key: b\naddRecordIfNotFound: 'Yes'\n",
            "The key b does not exist and cannot be created: the prop value is missing.",
        ),
        ("append-to-record", "key: a\nvalue: x\n", "The record a is not a list, so no value can be appended."),
        ("add-update-multiple-records", "data: '5'\n", "The prop data is not an object of keys and values."),
    ],
)
async def test_a_failed_action_changes_no_record(
    run: Run, project: Project, uses: str, body: str, message: str
) -> None:
    """An action that cannot do its work fails with the reason, and the store stays as it was."""
    project.data_stores.set("cache", "a", 1)

    error = error_of(await run_on_store(run, uses, body), "act")

    assert error.message == message
    assert records(project) == {"a": 1}


async def test_default_store(run: Run, project: Project) -> None:
    """An action without a store uses the project's default store."""
    execution = await run(action("data_stores-add-update-record@0.0.9", "key: a\nvalue: 1\n"), egress="live")

    assert execution.status == "success", execution.error
    assert project.data_stores.names() == ["default"]


def respond(request: SentRequest) -> Answer:
    """Respond with the received request; the path /missing has status 404."""
    if request.path == "/missing":
        return 404, {"error": "no such file"}
    headers = {"auth": request.headers.get("authorization"), "x": request.headers.get("x-a")}
    return 200, {"path": request.path, "body": request.body.decode(), **headers}


@pytest.fixture
def echo() -> Iterator[str]:
    """The URL of a server on the loopback interface that responds with the received request."""
    with serve(AnsweringServer(respond)) as server:
        yield server.url


async def test_http_custom_request(shared_run: Run, echo: str) -> None:
    """The request of a synced workflow is sent: disabled rows left out, the raw body as it is, bearer auth."""
    body = f"""
httpRequest:
  auth: {{type: bearer, token: tok}}
  body: {{contentType: text/plain, mode: raw, type: raw, raw: "{{{{steps.trigger.event.body.name}}}} 1"}}
  headers: [{{name: x-a, value: b}}, {{name: x-a, value: c, disabled: true}}]
  params: [{{name: q, value: "1"}}, {{name: '', value: '', disabled: true}}]
  method: POST
  url: {echo}/metrics
"""
    execution = await shared_run(action("http-custom-request@1.1.1", body))

    value: Any = execution.step("act").return_value
    assert execution.status == "success", execution.step("act").error
    assert value == {"path": "/metrics?q=1", "body": "Ada 1", "auth": "Bearer tok", "x": "b"}


@pytest.mark.parametrize(
    ("uses", "method", "body"),
    [
        ("http-get-request@1.1.1", "GET", ""),
        ("http-post-request@1.1.2", "POST", '{"a":"1"}'),
        ("http-put-request@1.1.3", "PUT", '{"a":"1"}'),
    ],
)
async def test_http_requests_of_one_method(shared_run: Run, uses: str, method: str, body: str) -> None:
    """The request has the method of the action if the props name none; a GET request has no body."""

    def respond_with_method(request: SentRequest) -> Answer:
        return 200, {"method": request.method, "body": request.body.decode()}

    with serve(AnsweringServer(respond_with_method)) as server:
        props = f"""
httpRequest:
  url: {server.url}/orders
  body: {{type: fields, contentType: application/json, fields: [{{name: a, value: "1"}}]}}
includeHeaders: true
"""
        step = (await shared_run(action(uses, props))).step("act")

    assert step.return_value == {"method": method, "body": body}
    headers = step.exports["headers"]
    assert isinstance(headers, dict)
    assert headers["content-type"] == "application/json"


async def test_download_a_file(shared_run: Run, echo: str) -> None:
    """The file is in /tmp for the next steps; its name and its path are the return value."""
    name = f"pdkernel-download-{uuid4().hex}"
    read = python_step("read", "return open(pd.steps['act']['$return_value'][1]).read()")
    try:
        execution = await shared_run(
            action("helper_functions-download-file-to-tmp@0.3.0", f"url: {echo}/cover.jpg\nfilename: {name}\n"), read
        )
    finally:
        # without a mount namespace, /tmp is this machine's
        Path("/tmp", name).unlink(missing_ok=True)

    assert execution.step("act").return_value == [name, f"/tmp/{name}"]
    assert '"/cover.jpg"' in str(execution.step("read").return_value)


async def test_download_of_a_missing_file(shared_run: Run, echo: str) -> None:
    """A response without success fails the step, and names the status and the URL."""
    error = error_of(
        await shared_run(action("helper_functions-download-file-to-tmp@0.3.0", f"url: {echo}/missing\nfilename: a\n")),
        "act",
    )

    assert f"status code 404: {echo}/missing" in error.message


async def test_random_items(shared_run: Run) -> None:
    """Each item is chosen at most once."""
    execution = await shared_run(
        action("helper_functions-random-item-from-list@0.0.3", "list: '{{[1, 2, 3]}}'\nquantity: 3\n", name="three"),
        action("helper_functions-random-item-from-list@0.0.1", "list: [only]\n", name="one"),
        action("helper_functions-random-item-from-list@0.0.3", "list: [a]\nquantity: 2\n", name="many"),
    )

    three = execution.step("three").return_value
    assert isinstance(three, list)
    assert sorted(three, key=str) == [1, 2, 3]
    assert execution.step("one").return_value == ["only"]
    assert execution.step("one").exports["$summary"] == "Selected 1 of 1 items."
    error = execution.step("many").error
    assert error is not None
    assert "has 1 items" in error.message


async def test_stale_null_prop(shared_run: Run) -> None:
    """A null that the builder left for a prop of another version does not refuse a built-in action."""
    step = action("filter-end-based-on-condition@0.0.1", condition("TRUE", "{{false}}") + "delay:\n")

    assert (await shared_run(step)).status == "success"
