"""`pdkernel migrate`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.accounts.upstream import Upstream
from tests.annex.migration.omissions import API_WORKFLOW, OMISSIONS, Omission, action, write_workflow
from tests.cli.conftest import Shell
from tests.files.definition.archives import pack, step, workflow
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.serve_process import serving


def test_a_report_as_text_json_and_page(pdkernel: Shell) -> None:
    """The three forms have the same workflows; a folder and its report need no login."""
    write_workflow(pdkernel.folder / "synced", "Orders", OMISSIONS["Node variable"])

    text = pdkernel("migrate", "report", "synced", "--html", "report.html")
    written = pdkernel("migrate", "report", "synced", "--json")

    assert (text.status, written.status) == (0, 0)
    assert "pdkernel env set NODE_TOKEN" in text.stdout
    assert [row["name"] for row in written.json["workflows"]] == ["Orders"]
    assert "pdkernel env set NODE_TOKEN" in (pdkernel.folder / "report.html").read_text()


def test_a_report_on_an_archive(pdkernel: Shell) -> None:
    """An archive is a source of a report and of a plan: unknown parts, disabled steps and events by the workflow's id."""
    block = {"namespace": "triage", "type": "IfElse", "branches": [{"steps": [step("page")]}]}
    pack(pdkernel.folder / "x.zip", {"w.json": workflow("W", [step("a"), block], workflow_id="p_Ab12Cd3")})

    text = pdkernel("migrate", "report", "x.zip")
    data = pdkernel("migrate", "report", "x.zip", "--json")
    planned = pdkernel("migrate", "plan", "x.zip", "--json")

    (row,) = data.json["workflows"]
    assert (text.status, planned.status) == (0, 0), text.stderr + planned.stderr
    assert (row["id"], row["state"], row["ready"]) == ("p_Ab12Cd3", "needs_answers", ["a"])
    assert [item["name"] for item in row["items"] if item["kind"] == "control_flow"] == ["triage"]
    assert "pdkernel migrate events p_Ab12Cd3 --to FOLDER" in text.stdout


def test_a_report_over_the_api(pdkernel: Shell, upstream: Upstream) -> None:
    """An id is read at Pipedream, with the login of the environment."""
    upstream.workflows["p_Api1234"] = API_WORKFLOW

    environ: Any = upstream.environ
    done = pdkernel("migrate", "report", "p_Api1234", "--json", **environ)

    assert (done.status, done.json["workflows"][0]["id"]) == (0, "p_Api1234")


def test_the_workspace_is_passed_on(pdkernel: Shell, upstream: Upstream) -> None:
    """Reports and events of an id are read with `--org-id`."""
    upstream.workflows["p_Api1234"] = API_WORKFLOW
    environ: Any = upstream.environ
    queries = []
    for words in (["report", "p_Api1234"], ["events", "p_Api1234", "--to", "there"]):
        upstream.asked.clear()
        pdkernel("migrate", *words, "--org-id", "o_1", **environ)
        queries += [each["query"] for each in upstream.asked if each["path"] == "/v1/workflows/p_Api1234"]

    assert queries == [{"org_id": "o_1"}] * 2


def test_a_report_looks_beside_the_workflow(pdkernel: Shell) -> None:
    """A variable in the `.env` beside a workflow has its value, whichever the current folder is."""
    write_workflow(pdkernel.folder / "synced", "Orders", OMISSIONS["Node variable"])
    (folder,) = (pdkernel.folder / "synced").iterdir()
    (folder / ".env").write_text("NODE_TOKEN=value-of-a-test\n")

    assert "pdkernel env set NODE_TOKEN" not in pdkernel("migrate", "report", "synced").stdout


def test_a_report_finds_actions_beside_the_workflow(pdkernel: Shell) -> None:
    """A folder of components in a workflow's `pdkernel.yaml` is relative to that file."""
    write_workflow(pdkernel.folder / "synced", "Put", Omission("action", "depot-put", steps=action("depot-put@0.0.1")))
    (folder,) = (pdkernel.folder / "synced").iterdir()
    before = pdkernel("migrate", "report", "synced", "--json").json["workflows"][0]
    place = folder / "components" / "depot"
    (place / "actions" / "put").mkdir(parents=True)
    (place / "depot.app.mjs").write_text('export default { type: "app", app: "depot" };')
    (place / "actions" / "put" / "put.mjs").write_text(
        'export default { key: "depot-put", name: "Put", version: "0.0.1", type: "action", props: {}, async run() {} };'
    )
    (folder / "pdkernel.yaml").write_text("schema: pdkernel/1\nactions: [components]\n")

    after = pdkernel("migrate", "report", "synced", "--json").json["workflows"][0]

    found = [{item["kind"] for item in row["items"]} & {"action", "unreadable"} for row in (before, after)]
    assert found == [{"action"}, set()]


def test_a_report_checks_the_users_of_an_environment(pdkernel: Shell) -> None:
    """With --environment the report looks at the accounts of the users there."""
    account = ("accounts", "add", "--external-user", "ada", "--environment", "production", "--app", "slack")
    pdkernel(*account, "--credential", "oauth_access_token=xoxb-0123456789")
    step = 'export default { props: { slack: { type: "app", app: "slack" } }, run() {} }'
    write_workflow(pdkernel.folder / "synced", "Send", Omission("account", "slack", files={"work/entry.js": step}))

    states = [
        pdkernel("migrate", "report", "synced", *options, "--json").json["workflows"][0]["state"]
        for options in ([], ["--environment", "production"])
    ]

    assert states == ["needs_answers", "runs"]


def test_an_id_without_a_login_is_refused(pdkernel: Shell) -> None:
    """The error names the command that logs in."""
    refused = pdkernel("migrate", "report", "p_Api1234")

    assert refused.status == 2
    assert "pdkernel login" in refused.stderr


def test_a_page_that_cannot_be_written_is_refused(pdkernel: Shell) -> None:
    """A folder that does not exist is named, and the exit status is 2."""
    write_workflow(pdkernel.folder / "synced", "Orders", OMISSIONS["Node variable"])

    refused = pdkernel("migrate", "report", "synced", "--html", "gone/report.html")

    assert refused.status == 2
    assert "gone/report.html" in refused.stderr


def paste_step(folder: Path, plan: dict[str, Any]) -> None:
    """Make the written step a workflow with a custom response, as a person does at Pipedream."""
    workflow = folder / "dump-p_Dump123"
    (workflow / "work").mkdir(parents=True)
    shutil.copy(folder / plan["step"], workflow / "work" / "entry.js")
    props = "".join(f"\n      {prop}: {{storeId: {name}}}" for name, prop in plan["stores"].items())
    (workflow / "workflow.yaml").write_text(
        "schema: workflow/2022.04\nname: Dump\ntriggers:\n- id: hi_Dump123\nsteps:\n"
        f"- namespace: work\n  uses: ./work/entry.js\n  props:{props}\n"
    )


def test_pages_of_records_and_the_files_come_back(pdkernel: Shell) -> None:
    """The written step runs as a workflow, its pages are downloaded, and the import has the same number of equal records."""
    records = [json.dumps({"key": f"key {number} ü", "value": {"n": number}}) for number in range(2_500)]
    pdkernel("store", "import", "ds_there1", "-", stdin="\n".join(records))
    (pdkernel.folder / ".pdkernel" / "files" / "reports").mkdir(parents=True)
    (pdkernel.folder / ".pdkernel" / "files" / "reports" / "a.bin").write_bytes(bytes(range(256)) * 8)

    paste_step(pdkernel.folder, pdkernel("migrate", "data", "ds_there1", "--files", "--to", "rescued", "--json").json)
    with serving(pdkernel.folder, "dump-p_Dump123") as (server, _):
        url = server["workflows"][0]["url"]
        done = pdkernel("migrate", "data", "--to", "rescued", "--from", url, "-q")
    taken = pdkernel("store", "import", "here", "rescued/stores/ds_there1.jsonl")

    assert done.status == 0, done.lines
    assert "ds_there1: 2,500 records here, 2,500 at Pipedream: equal." in done.lines
    assert "file store: 1 file here, 1 at Pipedream: equal." in done.lines
    assert taken.status == 0
    assert "Pipedream counted 2,500 records, and here has 2,500: equal." in taken.lines
    assert pdkernel("store", "get", "here", "key 2499 ü").json == {"n": 2499}
    assert (pdkernel.folder / "rescued" / "files" / "reports" / "a.bin").read_bytes() == bytes(range(256)) * 8


def test_a_written_step_is_explained(pdkernel: Shell) -> None:
    """The command reports the store of each prop, and the command that downloads the data."""
    done = pdkernel("migrate", "data", "ds_1", "my orders", "--to", "rescued")

    assert done.status == 0
    assert "   store_my_orders: choose the data store my orders" in done.lines
    assert "5. Download: pdkernel migrate data --to rescued --from URL" in done.lines


def test_another_number_of_records_ends_with_status_1(pdkernel: Shell) -> None:
    """If one of the stores has another number of records than Pipedream counted, the status is 1, and the output names it."""

    def page(request: SentRequest) -> Answer:
        return 200, {"total": 2 if request.json()["store"] == "ds_b" else 1, "records": [["k", 1]], "next": None}

    pdkernel("migrate", "data", "ds_a", "ds_b", "--to", "rescued")
    with serve(AnsweringServer(page)) as server:
        done = pdkernel("migrate", "data", "--to", "rescued", "--from", server.url)
        again = pdkernel("migrate", "data", "--to", "rescued", "--from", server.url, "--json")
        text = pdkernel("migrate", "data", "--to", "rescued", "--from", server.url).lines

    assert (done.status, again.status) == (1, 1)
    assert "ds_a: 1 record here, 1 at Pipedream: equal." in done.lines
    assert any(line.startswith("ds_b: 1 record here, 2 at Pipedream: not equal: it changed") for line in done.lines)
    assert "  Import: pdkernel store import ds_a rescued/stores/ds_a.jsonl" in done.lines
    assert [(each["store"], each["count"], each["total"]) for each in again.json] == [("ds_a", 1, 1), ("ds_b", 1, 2)]
    assert "ds_a: 1 record here, 1 at Pipedream: equal. It was complete before this call." in text


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--to", "rescued"], "--files"),
        (["ds_1", "--to", "rescued", "--from", "http://127.0.0.1:9"], "Leave out STORE"),
        (["--files", "--to", "rescued", "--from", "http://127.0.0.1:9"], "Leave out STORE and --files"),
        (["--to", "rescued", "--from", "http://127.0.0.1:9"], "Write the step first"),
    ],
)
def test_a_call_without_a_plan_is_refused(pdkernel: Shell, words: list[str], fix: str) -> None:
    """Each wrong call has an error with a fix, and nothing is written."""
    refused = pdkernel("migrate", "data", *words)

    assert refused.status == 2
    assert fix in refused.stderr
    assert not (pdkernel.folder / "rescued").exists()


def test_an_import_with_another_number_of_records_says_so(pdkernel: Shell) -> None:
    """If the store has more records than Pipedream counted, the exit status is 1 and both numbers are printed."""
    pdkernel("store", "set", "orders", "old", "1")

    done = pdkernel("store", "import", "orders", "-", stdin='{"key":"a","value":1}\n{"total": 1}\n')
    cleared = pdkernel(
        "store", "import", "orders", "-", "--clear", "--yes", "--json", stdin='{"key":"a","value":1}\n{"total": 1}\n'
    )

    assert done.status == 1
    assert "Pipedream counted 1 record, and orders has 2: not equal." in done.stdout
    assert (cleared.status, cleared.json) == (
        0,
        {"name": "orders", "records": 1, "expired": 0, "counted": 1, "stored": 1},
    )


def test_events_are_saved_beside_the_workflow_once(pdkernel: Shell, upstream: Upstream) -> None:
    """The first call saves the event and names it, the second reports that nothing is new; `--to` names another folder."""
    write_workflow(pdkernel.folder / "synced", "Orders", OMISSIONS["Node variable"])
    (folder,) = (pdkernel.folder / "synced").iterdir()
    workflow_id = folder.name.rpartition("-")[2]
    upstream.workflows[workflow_id] = API_WORKFLOW
    upstream.events[f"workflows/{workflow_id}/$errors"] = [
        {
            "id": "16-0",
            "event": {
                "original_event": {"method": "POST", "path": "/", "headers": {"cookie": "a=b"}},
                "error": {"code": "Failure\a"},
            },
        }
    ]
    environ: Any = upstream.environ

    first = pdkernel("migrate", "events", "synced", **environ)
    second = pdkernel("migrate", "events", "synced", **environ)
    elsewhere = pdkernel("migrate", "events", "synced", "--to", "there", "--json", **environ)
    (folder / "workflow.yaml").write_text("[")
    unreadable = pdkernel("migrate", "events", "synced", "--to", "more", "--json", **environ)

    assert (unreadable.status, unreadable.json[0]["added"]) == (0, ["failed-16-0"])
    assert (first.status, second.status) == (0, 0)
    assert elsewhere.json == [
        {"id": workflow_id, "name": "Orders", "added": ["failed-16-0"], "known": [], "skipped": []}
    ]
    assert (pdkernel.folder / "there" / "events" / "failed-16-0.json").is_file()
    assert "  failed-16-0  Failure\\x07" in first.lines  # control characters are shown as text
    assert f"Orders ({workflow_id}): nothing new. 1 were saved before." in second.lines
    assert json.loads((folder / "events" / "failed-16-0.json").read_text())["headers"] == {"cookie": "***"}


def test_events_of_a_workflow_without_an_id_are_refused(pdkernel: Shell, upstream: Upstream) -> None:
    """A notebook does not name Pipedream's workflow: the error asks for the id."""
    environ: Any = upstream.environ

    refused = pdkernel(
        "migrate", "events", pdkernel.notebook("%%pdstep one\ndef handler(pd):\n    return 1\n"), **environ
    )

    assert refused.status == 2
    assert "work.ipynb does not have Pipedream's id of the workflow." in refused.stderr
    assert "pdkernel migrate events p_... --to FOLDER" in refused.stderr


def test_events_of_an_id_need_a_folder(pdkernel: Shell, upstream: Upstream) -> None:
    """Without a folder in Git, the error names the option."""
    upstream.workflows["p_Api1234"] = API_WORKFLOW
    environ: Any = upstream.environ

    assert "--to FOLDER" in pdkernel("migrate", "events", "p_Api1234", **environ).stderr
    assert pdkernel("migrate", "events", "p_Wrong12", "--to", "there", **environ).status == 2
    assert pdkernel("migrate", "events", "p_Api1234", "--to", "there", "--json", **environ).json == [
        {"id": "p_Api1234", "name": "Called over the API", "added": [], "known": [], "skipped": []}
    ]


def test_a_plan_is_written_in_each_form(pdkernel: Shell) -> None:
    """Text, JSON, page, CSV and calendar have the workflow; a wrong day is refused."""
    write_workflow(pdkernel.folder / "synced", "Orders", OMISSIONS["Node variable"])
    files = ("--html", "plan.html", "--csv", "plan.csv", "--calendar", "plan.ics")

    done = pdkernel("migrate", "plan", "synced", *files, "--first-day", "2027-01-04")
    as_json = pdkernel("migrate", "plan", "synced", "--json", "--first-day", "2027-01-04")
    refused = pdkernel("migrate", "plan", "synced", "--first-day", "soon")

    assert (done.status, as_json.status, refused.status) == (0, 0, 2)
    assert "1. Orders: blocked, move on 2027-01-04" in done.stdout
    assert as_json.json["workflows"][0]["move_on"] == "2027-01-04"
    assert all("Orders" in (pdkernel.folder / f"plan.{form}").read_text() for form in ("html", "csv", "ics"))
