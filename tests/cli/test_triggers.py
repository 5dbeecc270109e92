"""`pdkernel triggers list`, `enable` and `disable`; `move` is tested with the login."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.cli.triggers import trigger_lines
from pdkernel.model import Trigger
from pdkernel.operations.triggers import TriggerView
from pdkernel.storage import Project, TriggerState
from tests.cli.conftest import Shell
from tests.cli.test_serve import serving

STEP = "%%pdstep one\ndef handler(pd):\n    return 1"
MAIL = (
    "%%pdworkflow\nname: Mail\ntriggers: [{type: email}, {type: schedule, cron: '0 9 * * *', timezone: Asia/Kolkata}]"
)


def test_a_workflow_is_turned_on_and_off(pdkernel: Shell) -> None:
    """The list has a line for each trigger: what is off with its command, and what is on with its next time."""
    notebook = pdkernel.notebook(MAIL, STEP)

    off = pdkernel("triggers", "list")
    on = pdkernel("triggers", "enable", notebook)
    listed = pdkernel("triggers", "list", "--json").json
    pdkernel("triggers", "disable", "Mail")
    again = pdkernel("triggers", "list", notebook)

    assert off.stdout.splitlines() == [
        "off  Mail  email                              pdkernel triggers enable work.ipynb",
        "off  Mail  schedule 0 9 * * * (Asia/Kolkata)  pdkernel triggers enable work.ipynb",
    ]
    assert re.match(
        r"on   Mail  email +fires on requests to /en[a-z0-9]{16}\non .* next \d{4}-\d\d-\d\d 03:30:00 UTC\n", on.stdout
    )
    assert [(each["trigger"], each["type"], each["enabled"]) for each in listed] == [
        ("email", "email", True),
        ("schedule", "schedule", True),
    ]
    assert listed[1]["next_fire"].endswith("T03:30:00.000Z")
    assert listed[1]["last_run"] is listed[1]["last_fire"] is listed[1]["last_result"] is None
    assert again.stdout == off.stdout


def test_listening_triggers(pdkernel: Shell) -> None:
    """A line has the workflows to which a trigger listens, and what fires it once it is on; control characters are text."""
    header = '%%pdworkflow\nname: "\\e]0;Ears"\ntriggers: [errors, {type: emit, workflows: [Depot, Mail]}]'
    notebook = pdkernel.notebook(header, STEP)

    off = pdkernel("triggers", "list")
    on = pdkernel("triggers", "enable", notebook)

    assert off.stdout.splitlines() == [
        "off  \\x1b]0;Ears  errors of all workflows  pdkernel triggers enable work.ipynb",
        "off  \\x1b]0;Ears  events of Depot, Mail    pdkernel triggers enable work.ipynb",
    ]
    assert on.stdout.splitlines() == [
        "on   \\x1b]0;Ears  errors of all workflows  fires when a run fails",
        "on   \\x1b]0;Ears  events of Depot, Mail    fires when a run emits an event",
    ]


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
STATE = TriggerState("p_1", "dc_1", "Sales", "sales.ipynb", {}, enabled=True, since=NOON, type="source")
SOURCE = Trigger("source", config={"uses": "depot-new-sale@0.1.0"})


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "starts when it is served"),
        ({"is_active": True}, "fires on requests to http://h.test/{key}"),
        ({"is_active": True, "due": NOON}, "next 2026-01-02 12:00:00 UTC"),
        ({"is_active": True, "result": "failed: no account"}, "failed: no account"),
        ({"enabled": False, "fired": NOON, "result": "1 event"}, "pdkernel triggers enable /sales.ipynb, last 2026-01-02 12:00:00 UTC, 1 event"),
        ({"is_active": True, "fired": NOON, "run_id": "removed"}, "fires on requests to http://h.test/{key}, last 2026-01-02 12:00:00 UTC"),
    ],
)  # fmt: skip
def test_the_state_of_a_source(tmp_path: Path, changes: dict[str, Any], shown: str) -> None:
    """A line ends with what happens next, and with the last fire and its result."""
    with Project.open(tmp_path / ".pdkernel") as project:
        key = project.endpoint_keys.ensure_trigger_key("p_1/dc_1")
        view = TriggerView("p_1", "Sales", Path("/sales.ipynb"), "dc_1", SOURCE, replace(STATE, **changes))

        (line,) = trigger_lines(project, [view], base_url="http://h.test")

    state = "off" if changes.get("enabled") is False else "on "
    assert line == f"{state}  Sales  source depot-new-sale@0.1.0  {shown.format(key=key)}"


def test_the_status_of_the_last_run(pdkernel: Shell) -> None:
    """The line and the JSON of a trigger have the status of its last run, as long as the run is recorded."""
    notebook = pdkernel.notebook(MAIL.replace("{type: email}, ", ""), STEP)
    run_id = pdkernel("run", notebook, "--body", "{}", "--json").json["id"]
    pdkernel("triggers", "enable", notebook)
    with Project.open(pdkernel.folder / ".pdkernel") as project:
        (state,) = project.workflow_triggers.list_states()
        project.workflow_triggers.save([replace(state, fired=NOON, run_id=run_id)])

    listed = pdkernel("triggers", "list")
    as_json = pdkernel("triggers", "list", "--json").json

    assert listed.stdout.endswith(", last 2026-01-02 12:00:00 UTC, success\n")
    assert [as_json[0][name] for name in ("last_fire", "last_run", "last_result")] == [
        "2026-01-02T12:00:00.000Z",
        run_id,
        "success",
    ]


def test_triggers_of_the_given_sources(pdkernel: Shell) -> None:
    """SOURCE selects workflows; the triggers of others are listed only if they are on."""
    (pdkernel.folder / "there").mkdir()
    pdkernel.notebook(MAIL, STEP)
    pdkernel.notebook(MAIL.replace("Mail", "Other"), STEP, name="there/other.ipynb")

    def names(*sources: str) -> list[str]:
        return [each["workflow"] for each in pdkernel("triggers", "list", *sources, "--json").json]

    off = names("there")
    pdkernel("triggers", "enable", "work.ipynb")

    assert off == ["Other", "Other"]
    assert names("there") == ["Other", "Other", "Mail", "Mail"]


def test_no_triggers(pdkernel: Shell) -> None:
    """A folder without such triggers has an empty list."""
    pdkernel.notebook(STEP)

    assert pdkernel("triggers", "list").stdout == "No workflow here has a trigger other than HTTP.\n"
    assert pdkernel("triggers", "list", "--json").json == []
    assert pdkernel("triggers", "list", "missing.ipynb").status == 2


def test_what_cannot_be_enabled(pdkernel: Shell) -> None:
    """The error is one message with status 2, and one JSON value with --json."""
    pdkernel.notebook("%%pdworkflow\nname: Mail", STEP)
    pdkernel("project", "show")
    refused = pdkernel("triggers", "enable", "Mail")
    as_json = pdkernel("triggers", "enable", "Mail", "--json")

    assert (refused.status, refused.stdout, as_json.status) == (2, "", 2)
    assert refused.stderr.startswith("Error: 'Mail' has only HTTP triggers.")
    assert "'Mail' has only HTTP triggers." in as_json.json["error"]["message"]
    assert len(refused.stderr.splitlines()) == 2


def test_a_server_lists_its_triggers_and_fires_them(pdkernel: Shell) -> None:
    """The server prints what is on and off, and starts a run on a POST to the email trigger's endpoint."""
    pdkernel.notebook(MAIL, STEP)
    pdkernel.notebook(
        "%%pdworkflow\nname: Off\ntriggers: [{type: schedule, interval_seconds: 60}, {type: errors, workflows: [Mail, Mial]}]",
        STEP,
        name="off.ipynb",
    )
    pdkernel("triggers", "enable", "Mail")
    with serving(pdkernel) as (said, process):
        lines = ""
        while "which is not served" not in lines:
            assert process.stderr
            lines += process.stderr.readline()
        url = re.search(r"fires on requests to (http\S+)", lines)
        assert url
        answer = httpx.post(url[1], json={"body": {"text": "hello"}}, timeout=20)
        while not (runs := pdkernel("runs", "list", "--json").json):
            pass

    assert answer.status_code == 200
    assert url[1].startswith(said["url"])
    assert "Triggers (off until they are enabled, because Pipedream may still fire them):" in lines
    assert "off  Off   schedule every 60 s " in lines
    assert "off  Off   errors of Mail, Mial " in lines
    assert "\n  'Off' listens to 'Mial', which is not served.\n" in lines
    assert "pdkernel triggers enable off.ipynb" in lines
    assert [(run["workflow"], run["trigger"]["event"]) for run in runs] == [("Mail", {"body": {"text": "hello"}})]
