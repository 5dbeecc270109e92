"""`notebooks/02_languages_and_actions.ipynb` run by the engine: requests to services, stored data, exported files."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from pdkernel.connect import LocalDirectory
from pdkernel.definition import export_to_folder
from pdkernel.egress import ReceivedRequest, parse_policy
from pdkernel.egress.gateway import Gateway
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.project import Project
from pdkernel.source import load_source
from tests.languages_notebook import NAME, prepare, token_of
from tests.postgres import a_postgres

pytestmark = pytest.mark.timeout(300)

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOK = FOLDER / f"{NAME}.ipynb"
STAND_INS = ("openai", "github", "google_sheets", "slack")
TITLE, MAIL = "CSV export stops after 500 rows", "lin@example.com"
TEXT = "I think I have found a bug: the export ends after 500 rows, and no error is shown."


@dataclass(frozen=True)
class Ran:
    """A run of the notebook and its results."""

    execution: Execution
    received: Mapping[str, Sequence[ReceivedRequest]]
    rows: list[list[str]]
    reports: Any

    @property
    def issue(self) -> Mapping[str, Any]:
        """The exports of the step that opened the issue."""
        return next(step for step in self.execution.steps if step.name == "issue").exports


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, go_cache: Path) -> Iterator[Ran]:
    """The notebook's workflow, run once as a caller of its endpoint would start it."""
    folder = tmp_path_factory.mktemp("languages")
    for lock in FOLDER.glob("pdkernel-*"):
        shutil.copy(lock, folder)
    with a_postgres() as postgres, Project.open(folder / ".pdkernel") as project:
        prepare(project, postgres, go_cache)
        execution, received = asyncio.run(_run(project, folder))
        rows = postgres.run("select id, customer, category, issue, answer_by from reports")
        yield Ran(execution, received, rows, [record.value for record in project.data_stores.iter_records("reports")])


async def _run(project: Project, folder: Path) -> tuple[Execution, dict[str, list[ReceivedRequest]]]:
    gateway = await Gateway.start(folder / "egress")
    async with await WorkflowEngine.start(project, LocalDirectory(project), gateway=gateway) as runtime:
        execution = await runtime.run(
            RunRequest(
                workflow=load_source(NOTEBOOK).workflow,
                event=Event.parse((FOLDER / "events" / "report.json").read_bytes()).with_identity("ada", "development"),
                policy=parse_policy(f"stand-in={','.join(STAND_INS)}"),
                external_user_id="ada",
                folder=folder,
                pause_mode="skip",
            )
        )
        return execution, {name: list(gateway.stand_ins[name].received) for name in STAND_INS}


def test_every_step_succeeds(ran: Ran) -> None:
    """No step fails, ends the run or is left out."""
    assert {step.name: step.status for step in ran.execution.steps if step.status != "success"} == {}
    assert (ran.execution.status, len(ran.execution.steps)) == ("success", 11)


def test_each_step_has_the_account_that_its_cell_names(ran: Ran) -> None:
    """GitHub, Google Sheets and Slack use the external user's accounts; OpenAI and PostgreSQL use own accounts."""
    used = {(step.name, use.id, use.owner) for step in ran.execution.steps for use in step.accounts}

    assert used == {
        ("classify", "apn_OpenAI1", "own"),
        ("issue", "apn_AdaGit1", "external_user"),
        ("sheet_row", "apn_AdaShe1", "external_user"),
        ("table_row", "apn_Postgr1", "own"),
        ("message", "apn_AdaSlk1", "external_user"),
        ("reminder", "apn_AdaGit1", "external_user"),
    }


def test_the_request_to_openai(ran: Ran) -> None:
    """One POST of the Responses API, from Python: key, model, the report, and the schema that the answer must fit."""
    (request,) = ran.received["openai"]
    body = json.loads(request.body)

    assert (request.method, request.host, request.path) == ("POST", "api.openai.com", "/v1/responses")
    assert request.headers["authorization"] == f"Bearer {token_of('openai')}"
    assert request.headers["content-type"] == "application/json"
    assert (body["model"], body["input"]) == ("gpt-4.1-mini", f"{TITLE}\n\n{TEXT}")
    assert (body["text"]["format"]["type"], body["text"]["format"]["strict"]) == ("json_schema", True)
    assert body["text"]["format"]["schema"]["properties"]["category"]["enum"] == ["question", "bug", "wish"]


def test_the_requests_to_github(ran: Ran) -> None:
    """An issue is opened from Go, and read from Node.js: user's token, version of the API, title, text and label."""
    opened, read = ran.received["github"]

    assert (opened.method, opened.host, opened.path) == ("POST", "api.github.com", "/repos/AcmeOrg/acme-repo/issues")
    assert (read.method, read.path) == ("GET", f"/repos/AcmeOrg/acme-repo/issues/{ran.issue['number']}")
    for request in (opened, read):
        assert request.headers["authorization"] == f"Bearer {token_of('github')}"
        assert request.headers["accept"] == "application/vnd.github+json"
        assert request.headers["x-github-api-version"] == "2022-11-28"
        assert request.headers["user-agent"]
    assert json.loads(opened.body) == {
        "title": TITLE,
        "body": f"{TEXT}\n\nReported by {MAIL}",
        "labels": ["bug"],
    }


def test_the_request_to_google_sheets(ran: Ran) -> None:
    """One row is appended from Node.js: user's token, spreadsheet and range in the path, the input option."""
    (request,) = ran.received["google_sheets"]

    assert (request.method, request.host) == ("POST", "sheets.googleapis.com")
    assert request.path == "/v4/spreadsheets/1AcmeReports/values/Reports!A1:append"
    assert parse_qs(request.query) == {"valueInputOption": ["RAW"]}
    assert request.headers["authorization"] == f"Bearer {token_of('google_sheets')}"
    assert json.loads(request.body) == {"values": [["rep_1042", MAIL, 1, "bug", ran.issue["url"]]]}


def test_the_requests_to_slack(ran: Ran) -> None:
    """The npm action posts the message and then requests the channel's name, both as a form with the user's token."""
    posted, asked = ran.received["slack"]
    form = {name: values[0] for name, values in parse_qs(posted.body.decode()).items()}
    text = f"New bug: <{ran.issue['url']}|{TITLE}>, to be answered by 2026-03-04"

    assert [(each.method, each.host, each.path) for each in (posted, asked)] == [
        ("POST", "slack.com", "/api/chat.postMessage"),
        ("POST", "slack.com", "/api/conversations.info"),
    ]
    assert {each.headers["authorization"] for each in (posted, asked)} == {f"Bearer {token_of('slack')}"}
    assert posted.headers["content-type"] == "application/x-www-form-urlencoded"
    assert (form["channel"], form["text"]) == ("#engineering", text)
    assert json.loads(form["blocks"]) == [{"type": "section", "text": {"type": "mrkdwn", "text": text}}]


def test_the_table_holds_the_row(ran: Ran) -> None:
    """The npm action has written to the PostgreSQL server, with the parameters in their places."""
    assert ran.rows == [["rep_1042", MAIL, "bug", ran.issue["url"], "2026-03-04"]]


def test_the_data_store_holds_the_report(ran: Ran) -> None:
    """The store has the customer's reports."""
    assert ran.reports == [["rep_1042"]]


def test_the_response(ran: Ran) -> None:
    """The built-in action responds 201 with the issue and the day."""
    response = ran.execution.response

    assert response is not None
    assert (response.status, response.body) == (201, {"issue": ran.issue["url"], "answer_by": "2026-03-04"})


def test_the_reminder_is_queued(ran: Ran) -> None:
    """After the skipped pause, an e-mail to the owner is queued."""
    (sent,) = ran.execution.sends

    assert (sent.step, sent.kind) == ("reminder", "email")
    assert sent.payload == {
        "subject": f"Still open: {TITLE}",
        "text": f"{ran.issue['url']} is to be answered by 2026-03-04.",
    }


def test_the_record_holds_no_credential(ran: Ran) -> None:
    """The JSON of the execution contains none of the planted tokens."""
    text = json.dumps(ran.execution.to_json())

    assert [app for app in ("openai", "github", "google_sheets", "slack") if token_of(app) in text] == []


def test_export_warns_of_unsupported_accounts(tmp_path: Path) -> None:
    """The checklist names the account of the Go step, which Pipedream does not support, and the accounts and store to choose."""
    exported = export_to_folder(load_source(NOTEBOOK).workflow, tmp_path)

    checklist = "\n".join(exported.checklist)
    assert "Step issue: on Pipedream Go steps have no accounts. github is not exported" in checklist
    assert "Step customer: choose the data store for reports in the builder." in checklist
    assert 'Step message: for slack, choose "Use end user\'s auth via Connect" in the builder.' in checklist


def test_exported_folder_is_the_same_workflow(tmp_path: Path) -> None:
    """Read back, the folder has the steps of the notebook, with their languages, actions and props."""
    workflow = load_source(NOTEBOOK).workflow
    export_to_folder(workflow, tmp_path)

    steps = load_source(tmp_path).workflow.steps

    assert [(s.name, s.language, s.uses, dict(s.props)) for s in steps] == [
        (s.name, s.language, s.uses, dict(s.props)) for s in workflow.steps
    ]
