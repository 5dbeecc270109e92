"""`pdkernel shape SOURCE --contract`: the contract, and checks of events."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Shell

STEP = "%%pdstep greet\ndef handler(pd):\n    body = pd.steps['trigger']['event']['body']\n    return body['name'].upper() + str(body.get('age'))\n"
EVENT = {"method": "POST", "body": {"name": "Ada", "age": 36}}


@pytest.fixture
def source(pdkernel: Shell) -> str:
    """A notebook with one step, and one saved event that satisfies its contract."""
    (pdkernel.folder / "events").mkdir()
    pdkernel.write("events/ada.json", json.dumps(EVENT))
    return pdkernel.notebook(STEP)


def test_the_contract_is_printed_with_the_saved_events(pdkernel: Shell, source: str) -> None:
    """Without event arguments the saved events are checked."""
    ended = pdkernel("shape", source, "--contract")

    assert ended.status == 0
    assert "required  body.name  string  greet (line 4)" in ended.stdout
    assert "optional  body.age" in ended.stdout
    assert "✓ ada fulfils the contract." in ended.stdout


def test_a_missing_field_ends_with_status_1(pdkernel: Shell, source: str) -> None:
    """Missing and drifted fields are listed with their readers, and the status is 1."""
    event = pdkernel.write("new.json", json.dumps({"method": "POST", "body": {"age": "36"}}))

    ended = pdkernel("shape", source, "--contract", event)

    assert ended.status == 1
    assert "✓ ada" not in ended.stdout  # only the named event is checked
    assert "body.name is missing. Earlier events had it. Read by greet (line 4)." in ended.stdout
    assert "body.age is now string; in earlier events it was number." in ended.stdout


def test_events_of_one_name_are_all_checked(pdkernel: Shell, source: str) -> None:
    """Two events whose files have one name are both checked, and named by their paths."""
    for folder, body in (("old", {}), ("new", {"name": "Ada", "age": 36})):
        (pdkernel.folder / folder).mkdir()
        pdkernel.write(f"{folder}/event.json", json.dumps({"method": "POST", "body": body}))

    ended = pdkernel("shape", source, "--contract", "old/event.json", "new/event.json", "--json")

    assert ended.status == 1
    assert [(each["event"], bool(each["findings"])) for each in ended.json["events"]] == [
        ("old/event.json", True),
        ("new/event.json", False),
    ]


def test_the_contract_as_json(pdkernel: Shell, source: str) -> None:
    """One JSON value: fields, events with findings and drift, an example."""
    event = pdkernel.write("new.json", json.dumps({"method": "POST", "body": {"name": 1}}))

    said = pdkernel("shape", source, "--contract", event, "--json").json

    assert [(field["path"], field["required"]) for field in said["fields"]] == [
        ("body.age", False),
        ("body.name", True),
    ]
    assert [each["path"] for each in said["events"][0]["findings"]] == ["body.name"]
    assert [(each["kind"], each["path"]) for each in said["events"][0]["drift"]] == [
        ("gone", "body.age"),
        ("type", "body.name"),
    ]
    assert said["example"]["body"] == {"age": 36, "name": "Ada"}


def test_the_schema_and_the_example_alone(pdkernel: Shell, source: str) -> None:
    """`--schema` prints only the JSON Schema, `--example` only a valid event."""
    schema = pdkernel("shape", source, "--contract", "--schema").json
    made = pdkernel("shape", source, "--example")

    assert schema["properties"]["body"]["required"] == ["name"]
    assert pdkernel("run", source, "--event", pdkernel.write("made.json", made.stdout)).status == 0


def test_a_run_reports_drift_on_standard_error(pdkernel: Shell, source: str) -> None:
    """A run on an event with drift warns and runs; a run on a saved event, or with `--quiet`, does not warn."""
    event = pdkernel.write("new.json", json.dumps({"method": "POST", "body": {"name": "Bo", "age": [1]}}))

    drifted, same = (pdkernel("run", source, "--event", each, "--json") for each in (event, "events/ada.json"))
    quiet = pdkernel("run", source, "--event", event, "--quiet")

    assert drifted.stderr.startswith(
        "Drift: body.age is now array; in earlier events it was number. Read by greet (line 4).\n"
    )
    assert drifted.json["status"] == "success"
    assert "Drift" not in same.stderr
    assert (quiet.status, quiet.stderr) == (0, "")


def test_a_broken_contract_is_not_drift(pdkernel: Shell, source: str) -> None:
    """A field that is missing in saved events too is reported by the steps that read it, not as drift."""
    pdkernel.write("events/ada.json", '{"method": "POST", "body": {"age": 36}}')
    event = pdkernel.write("new.json", '{"method": "POST", "body": {"age": 37}}')

    ended = pdkernel("run", source, "--event", event)

    assert ended.status == 1
    assert "Drift" not in ended.stderr


def test_an_event_in_the_place_of_the_source_is_refused(pdkernel: Shell) -> None:
    """An event in the place of the source is refused with a fix."""
    ended = pdkernel("shape", pdkernel.write("e.json", "{}"), "--contract")
    assert ended.status == 2
    assert "neither a notebook nor a workflow's folder" in ended.stderr


def test_a_synced_folder_has_a_contract(pdkernel: Shell) -> None:
    """A folder's readers name lines of the entry file and props."""
    (pdkernel.folder / "flow" / "read").mkdir(parents=True)
    pdkernel.write(
        "flow/workflow.yaml",
        "schema: workflow/2022.04\nname: flow\ntriggers:\n- id: hi_1\nsteps:\n- namespace: read\n"
        '  runtime: nodejs20.x\n  uses: "./read/entry.js"\n  props:\n    who: "{{steps.trigger.event.body.user.id}}"\n',
    )
    pdkernel.write("flow/pdkernel.yaml", "steps: {read: {accounts: {slack: unanswered}}}\n")
    pdkernel.write(
        "flow/read/entry.js",
        "export default defineComponent({\n  async run({ steps }) {\n    return steps.trigger.event.query.q;\n  },\n});\n",
    )

    said = pdkernel("shape", "flow", "--contract", "--json").json

    assert {field["path"]: field["readers"] for field in said["fields"]} == {
        "body.user.id": [{"step": "read", "cell": None, "line": 10, "prop": "who", "file": "workflow.yaml"}],
        "query.q": [{"step": "read", "cell": None, "line": 3, "prop": None, "file": None}],
    }


def test_an_event_of_a_schedule_is_not_a_request(pdkernel: Shell) -> None:
    """The events of a workflow with another trigger have other keys than a request."""
    source = pdkernel.notebook(
        "%%pdworkflow\ntrigger: {type: schedule, cron: '0 9 * * *'}",
        "%%pdstep greet\ndef handler(pd):\n    return pd.steps['trigger']['event']['timestamp'] + 1\n",
    )

    done = pdkernel("shape", "--contract", source, pdkernel.write("tick.json", '{"timestamp": 1, "body": 1}'))

    assert (done.status, "✓ tick fulfils the contract." in done.stdout) == (0, True), done.stderr


def test_a_notebook_is_not_an_event(pdkernel: Shell) -> None:
    """A notebook in the place of an event is refused with the command that reads notebooks."""
    pdkernel.notebook("%%pdstep one\ndef handler(pd):\n    return 1\n", name="my work.ipynb")

    refused = pdkernel("shape", "my work.ipynb")

    assert refused.status == 2
    assert "pdkernel shape --contract 'my work.ipynb'" in refused.stderr
