"""`pdkernel shape`: paths and schema of events, and the contract of a workflow."""

from __future__ import annotations

import json
import re

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
    """Without event arguments the saved events are checked; several events are named by their paths."""
    for folder, body in (("old", {}), ("new", {"name": "Ada", "age": 36})):
        (pdkernel.folder / folder).mkdir()
        pdkernel.write(f"{folder}/event.json", json.dumps({"method": "POST", "body": body}))

    ended = pdkernel("shape", source, "--contract")
    several = pdkernel("shape", source, "--contract", "old/event.json", "new/event.json", "--json")

    assert ended.status == 0
    assert "required  body.name  string  greet (line 4)" in ended.stdout
    assert "optional  body.age" in ended.stdout
    assert "✓ ada fulfils the contract." in ended.stdout
    found = [(each["event"], bool(each["findings"])) for each in several.json["events"]]
    assert (several.status, found) == (1, [("old/event.json", True), ("new/event.json", False)])


def test_a_missing_field_ends_with_status_1(pdkernel: Shell, source: str) -> None:
    """Missing and drifted fields are listed with their readers, and the status is 1."""
    event = pdkernel.write("new.json", json.dumps({"method": "POST", "body": {"age": "36"}}))

    ended = pdkernel("shape", source, "--contract", event)

    assert ended.status == 1
    assert "✓ ada" not in ended.stdout  # only the named event is checked
    assert "body.name is missing. Earlier events had it. Read by greet (line 4)." in ended.stdout
    assert "body.age is now string; in earlier events it was number." in ended.stdout


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


@pytest.fixture
def recorded(pdkernel: Shell) -> Shell:
    """A project with runs of two workflows: of ada, of grace and without a user; one event has a secret header."""
    step = "%%pdstep one\ndef handler(pd):\n    return 1\n"
    pdkernel.notebook("%%pdworkflow\nname: Orders\n", step, name="orders.ipynb")
    pdkernel.notebook("%%pdworkflow\nname: Other\n", step, name="other.ipynb")
    event = pdkernel.write(
        "signed.json", '{"headers": {"x-hub-signature": "made-up"}, "body": {"id": "x", "gift": true}}'
    )
    pdkernel("run", "orders.ipynb", "--body", '{"id": 1}', "--external-user", "ada")
    pdkernel("run", "orders.ipynb", "--body", '{"id": 2}', "--external-user", "grace")
    pdkernel("run", "orders.ipynb", "--event", event)
    pdkernel("run", "other.ipynb", "--body", '{"other": 1}')
    return pdkernel


def test_the_shape_of_recorded_runs(recorded: Shell) -> None:
    """`--runs` merges the events of recorded runs; a field that some events lack has its share, a type that varies its counts."""
    ended = recorded("shape", "--runs", "--workflow", "Orders", "--all")
    everything = recorded("shape", "--runs", "--json")

    assert ended.status == 0, ended.lines
    lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    assert lines[0] == "Events of 3 recorded runs of Orders, of 2 external users."
    assert any(re.fullmatch(r'id (string ×1, integer ×2|integer ×2, string ×1): 1, 2, "x"', line) for line in lines)
    assert "gift boolean, in 1 of 3 events (33%): true" in lines
    assert "made-up" not in ended.stdout
    (other,) = (row for row in everything.json if row["path"].endswith(".other"))
    assert (other["present"], other["total"]) == (1, 4)
    assert everything.stderr == "Events of 4 recorded runs of 2 workflows, of 2 external users.\n"


def test_the_shape_of_the_runs_of_one_user(recorded: Shell) -> None:
    """`--user` selects the runs of one external user, `--limit` the newest; a schema of them can be printed."""
    one = recorded("shape", "--runs", "--user", "ada", "--json").json
    same = recorded("shape", "--runs", "--external-user", "ada", "--json").json
    newest = recorded("shape", "--runs", "--workflow", "Orders", "--limit", "1", "--schema").json

    assert next(row for row in one if row["path"].endswith("body.id"))["samples"] == ["1"]
    assert same == one
    assert newest["properties"]["body"]["properties"]["id"] == {"type": "string"}


def test_wrong_options_are_refused(recorded: Shell) -> None:
    """A selection without runs, and options that do not go together, end with status 2 and a message."""
    for args, words in (
        (["--runs", "--user", "nobody"], "There are no recorded events of the external user nobody."),
        (["--user", "ada", "signed.json"], "--user selects recorded runs"),
        (["--runs", "signed.json"], "--runs reads the events of recorded runs"),
        (["--runs", "--limit", "0"], "0 is not in the range"),
        (["--diff", "signed.json"], "--diff compares two events"),
        ([], "No event is named"),
    ):
        ended = recorded("shape", *args)

        assert (ended.status, words in ended.stderr) == (2, True), (args, ended.stderr)


def test_the_difference_of_two_events(pdkernel: Shell) -> None:
    """`--diff` lists what is added, removed and changed, as text and as JSON."""
    before = pdkernel.write("a.json", '{"body": {"id": 1, "gone": 1, "note": "x", "token": "made-up"}}')
    after = pdkernel.write("b.json", '{"body": {"id": "1", "new": [1], "note": "y", "token": "other"}}')

    shown, same = pdkernel("shape", "--diff", before, after), pdkernel("shape", before, before, "--diff")
    said = pdkernel("shape", "--diff", before, after, "--json").json

    assert shown.stdout.splitlines() == [
        "a.json → b.json: 1 added, 1 removed, 1 of another type, 2 with another value",
        '  ! body.id  integer 1 → string "1"',
        "  - body.gone  integer 1",
        '  ~ body.note  string "x" → string "y"',
        '  ~ body.token  string "***" → string "***"',
        "  + body.new  array of 1",
    ]
    assert (same.status, same.stdout) == (0, "a.json → a.json: no difference\n")
    assert (said["added"], said["removed"], said["type"], said["value"]) == (1, 1, 1, 2)
    assert said["changes"][0] == {
        "kind": "type",
        "path": "steps.trigger.event.body.id",
        "python": 'pd.steps["trigger"]["event"]["body"]["id"]',
        "before": "integer 1",
        "after": 'string "1"',
    }


def test_a_folder_of_events_has_one_shape(pdkernel: Shell) -> None:
    """A folder stands for its event files; a file in it that is not an event is named."""
    (pdkernel.folder / "events").mkdir()
    for number in range(300):
        pdkernel.write(f"events/{number}.json", json.dumps({"body": {"users": {f"u_{number}": {"age": number}}}}))

    shown = pdkernel("shape", "events")
    pdkernel.write("events/x.json", "[]")
    refused = pdkernel("shape", "events")

    assert "300 events: 2 fields always there" in shown.stdout
    assert '{*}            300 keys, such as "u_0", "u_1", "u_2", object' in shown.stdout
    assert (refused.status, "x.json is not an event" in refused.stderr) == (2, True)


def test_shape_as_json_is_a_list_of_paths(pdkernel: Shell) -> None:
    """`--json` prints one row for each path, over all given events, and `--schema` their JSON Schema; secret headers are masked."""
    one = pdkernel.write("one.json", '{"headers": {"authorization": "Bearer abc"}, "body": {"a": 1}}')
    two = pdkernel.write("two.json", '{"body": {"a": "x", "b": null}}')

    ended, text = pdkernel("shape", one, two, "--json"), pdkernel("shape", one)
    schema = pdkernel("shape", one, two, "--schema").json

    rows = {row["path"].removeprefix("steps.trigger.event"): row for row in ended.json}
    assert set(rows) >= {".body", ".body.a", ".body.b"}
    assert all(kind in json.dumps(rows[".body.a"]) for kind in ("integer", "string"))
    assert schema["properties"]["body"]["properties"]["a"]["type"] == ["integer", "string"]
    assert 'authorization string: "***"' in [" ".join(line.split()) for line in text.lines]
    assert "Bearer abc" not in text.stdout + ended.stdout


def test_what_is_not_an_event_is_refused(pdkernel: Shell) -> None:
    """A file that is missing, not JSON or not an event, or in the place of another, is refused with status 2 and a fix."""
    pdkernel.write("bad.json", "{")
    pdkernel.write("list.json", "[1]")
    pdkernel.notebook("%%pdstep one\ndef handler(pd):\n    return 1\n", name="my work.ipynb")
    for args, words in (
        (["nowhere.json"], "Cannot read nowhere.json"),
        (["bad.json"], "line 1, column"),
        (["list.json"], "list.json"),
        (["list.json", "--contract"], "neither a notebook nor a workflow's folder"),
        (["my work.ipynb"], "pdkernel shape --contract 'my work.ipynb'"),
    ):
        ended = pdkernel("shape", *args)

        assert ended.status == 2
        assert words in ended.stderr
        assert len(ended.lines) <= 15
