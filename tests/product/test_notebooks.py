"""The notebooks run without a browser: their saved outputs are those of a run, and one of them sends the right requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import nbformat
import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.secret_patterns import CREDENTIAL_FORMS
from pdkernel.files.definition import export_to_folder
from pdkernel.files.source import load_source
from pdkernel.storage import Project
from tests import golden, languages_notebook, notebooks
from tests.languages_notebook import Ran, token_of
from tests.postgres import a_postgres

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEMPLATES = ROOT / "pdkernel" / "cli" / "templates"

pytestmark = pytest.mark.timeout(300)
"""The first test of a notebook runs all of it: packages are installed, Go steps compiled, a database server started."""

TITLE, MAIL = "CSV export stops after 500 rows", "lin@example.com"
TEXT = "I think I have found a bug: the export ends after 500 rows, and no error is shown."

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, go_cache: Path) -> Iterator[Ran]:
    """The notebook with all languages, run once, and the results of its last run cell."""
    with a_postgres() as postgres:
        yield languages_notebook.run(tmp_path_factory.mktemp("languages"), postgres, go_cache)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The folder of the copy in which a notebook runs."""
    return cache(lambda notebook: tmp_path_factory.mktemp(notebook.stem))


@pytest.fixture(scope="module")
def run(folder_of: Callable[[Path], Path], request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    """Run a notebook once for all tests."""

    def once(notebook: Path) -> Any:
        if notebook == languages_notebook.NOTEBOOK:
            return request.getfixturevalue("ran").notebook
        return notebooks.run(notebook, folder_of(notebook))

    return cache(once)


@each_notebook
def test_saved_outputs_equal_a_run(run: Callable[[Path], Any], notebook: Path) -> None:
    """A run of the notebook has its saved outputs (PDKERNEL_UPDATE=1 saves all outputs of this run, and fails)."""
    ran = run(notebook)
    notebooks.update(notebook, ran)

    assert notebooks.differences(notebooks.read(notebook), ran) == ""


@each_notebook
def test_saved_outputs_are_of_one_run(notebook: Path) -> None:
    """The cells ran once each and in order, within minutes, with one server, one project and one account of a user and app."""
    saved = notebooks.read(notebook)
    shown = [text for _, text in notebooks.texts(saved)]
    whole = "\n".join(shown)
    started = [datetime.fromisoformat(time) for time in re.findall(r"started (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", whole)]
    used = {
        (who[1], app, account)
        for text in shown
        if (who := re.search(r"external user (\w+), (?:development|production)\n", text))
        for app, account in re.findall(r"account +(\S.*?),? (apn_\w+) \(external user's\)", text)
    }

    assert notebooks.counts(saved) == list(range(1, len(notebooks.counts(saved)) + 1))
    assert max(started) - min(started) < timedelta(minutes=5)
    assert len(set(re.findall(r"127\.0\.0\.1:(\d+)", whole))) <= 1
    assert len(set(re.findall(r"\bproj_\w+", whole))) <= 1
    assert len(used) == len({(user, app) for user, app, _ in used}) > 0


@each_notebook
def test_no_output_has_a_credential(run: Callable[[Path], Any], notebook: Path) -> None:
    """No output, saved or just run, has a text in the form of a credential."""
    found = [
        (cell, name)
        for outputs in (notebooks.read(notebook), run(notebook))
        for cell, text in notebooks.texts(outputs)
        for name, form in CREDENTIAL_FORMS
        if form.search(text)
    ]

    assert found == []


@each_notebook
def test_every_cell_succeeds(run: Callable[[Path], Any], notebook: Path) -> None:
    """Only the cells that are marked as showing an error end with an error; a run succeeds."""
    cells = run(notebook).cells
    shown = [output for cell in cells for output in cell.get("outputs", [])]

    failed = [cell.id for cell in cells if any(o.output_type == "error" for o in cell.get("outputs", []))]
    assert failed == [cell.id for cell in cells if "raises-exception" in cell.metadata.get("tags", [])]
    assert any("✓ success" in output.data["text/plain"] for output in shown if "data" in output)


def test_the_synced_folder_is_unchanged(run: Callable[[Path], Any], folder_of: Callable[[Path], Path]) -> None:
    """Import and export of the notebook about synced workflows write only to their own copy."""
    notebook = ROOT / "notebooks" / "04_bring_your_workflows.ipynb"
    run(notebook)

    before, after = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (notebook.parent / "synced", folder_of(notebook) / "work" / "synced")
    )
    assert after == before


def test_what_a_notebook_made_for_end_users_is_removed(
    run: Callable[[Path], Any], folder_of: Callable[[Path], Path]
) -> None:
    """The client and the second user are removed, so that the notebook can run again from the top."""
    notebook = ROOT / "notebooks" / "03_end_users.ipynb"
    run(notebook)

    with Project.open(folder_of(notebook) / "work" / ".pdkernel") as project:
        clients = project.oauth_clients.list_clients()
        users = LocalDirectory(project).users("development")

    assert list(clients) == []
    assert [user.external_id for user in users] == ["ada"]


@each_notebook
def test_saved_notebook_has_no_path_of_this_machine(run: Callable[[Path], Any], notebook: Path) -> None:
    """The notebook contains no planted credential and no path of the machine, saved or just run."""
    for text in (notebook.read_text(encoding="utf-8"), nbformat.writes(run(notebook))):
        assert notebooks.TOKEN not in text
        assert re.findall(r"(?<![\w.-])/(?:tmp|home|root|Users|work|private)/[^\s\"\\<]*", text) == []


@pytest.mark.parametrize("part", ["text/plain", "text/html"])
def test_edited_output_is_found(run: Callable[[Path], Any], part: str) -> None:
    """A changed word in an output, or a missing output, is a difference that names the cell."""
    notebook = NOTEBOOKS[0]
    ran = run(notebook)
    edited, shorter = notebooks.read(notebook), notebooks.read(notebook)
    cell = next(cell for cell in edited.cells if cell.id == "run")
    cell.outputs[0].data[part] = cell.outputs[0].data[part].replace("success", "succeeded", 1)
    next(cell for cell in shorter.cells if cell.id == "run").outputs.pop()

    found = [notebooks.differences(wrong, ran) for wrong in (edited, shorter)]

    assert ["--- run, saved" in text for text in found] == [True, True]
    assert "succeeded" in found[0]


def test_update_ignores_times_and_ids(run: Callable[[Path], Any], tmp_path: Path) -> None:
    """Saving the outputs of another run changes no byte if only times and ids differ."""
    notebook = tmp_path / "work.ipynb"
    notebook.write_bytes(NOTEBOOKS[0].read_bytes())

    notebooks.update(notebook, run(NOTEBOOKS[0]))

    assert notebook.read_bytes() == NOTEBOOKS[0].read_bytes()


def test_update_never_mixes_two_runs(
    run: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one output has changed, an update saves every output of the new run, and fails."""
    monkeypatch.setattr(golden, "UPDATES", True)
    notebook, ran = tmp_path / "work.ipynb", run(NOTEBOOKS[0])
    edited = notebooks.read(NOTEBOOKS[0])
    next(cell for cell in edited.cells if cell.id == "shape").outputs.pop()
    nbformat.write(edited, notebook)

    with pytest.raises(pytest.fail.Exception, match=golden.WRITTEN):
        notebooks.update(notebook, ran)

    assert [cell.get("outputs") for cell in notebooks.read(notebook).cells] == [c.get("outputs") for c in ran.cells]


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("started 2026-11-24 17:03:45 UTC · run 6j7skekHXQaW8VWsfRgINCQBv58", "started <time> · run <id>"),
        ("  ✓ success   check  Python   78.7 ms  |██████    |", "  ✓ success   check  Python <duration>"),
        ("  ✓ success   check  Python    1.02 s  |██████████|", "  ✓ success   check  Python <duration>"),
        ("NOT SENT AGAIN: answer of 17:03", "NOT SENT AGAIN: answer of <time>"),
        ("%pdserve use 6j7skekHXQaW8VWsfRgINCQBv58", "%pdserve use <id>"),
        ("http://127.0.0.1:46351/eo9bs353pqqvs1aifd", "http://127.0.0.1:<port>/eo<id>"),
        ("apn_VO7SemB (grace)", "apn_<id> (grace)"),
        ("apn_AdaSlk1, apn_GraceS1", "apn_AdaSlk1, apn_GraceS1"),
        ("project_id='proj_fzF8L4r'", "project_id='proj_<id>'"),
        ("margin-left:12.5%;width:3.0%", "margin-left:<bar>;width:<bar>"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("2 labels, 3 steps, issue #1", "2 labels, 3 steps, issue #1"),
        ("2019-05-15T15:20:18+02:00 is data", "2019-05-15T15:20:18+02:00 is data"),
    ],
)
def test_scrubbing(text: str, scrubbed: str) -> None:
    """Only times, durations, ids, bars and colours are replaced."""
    assert notebooks.scrub(text) == scrubbed


def test_quickstart_of_the_package_equals_the_notebook() -> None:
    """`pdkernel demo` and `notebooks/` have the same cells; the package's has no outputs."""
    here, packaged = (notebooks.read(path) for path in (NOTEBOOKS[0], TEMPLATES / "quickstart.ipynb"))

    assert [(c.id, c.cell_type, c.source, c.metadata) for c in packaged.cells] == [
        (c.id, c.cell_type, c.source, c.metadata) for c in here.cells
    ]
    assert packaged.metadata == here.metadata
    assert [c.outputs for c in packaged.cells if c.cell_type == "code" and c.outputs] == []


def test_the_event_of_the_package_equals_the_notebooks_event() -> None:
    """The event of the package equals the event beside the quickstart."""
    name = Path("events") / "issues-opened.json"

    assert (TEMPLATES / name).read_bytes() == (ROOT / "notebooks" / name).read_bytes()


def test_new_notebook_runs(tmp_path: Path) -> None:
    """The notebook of `pdkernel new` runs from top to bottom."""
    ran = notebooks.run(TEMPLATES / "new.ipynb", tmp_path)

    assert [output for cell in ran.cells for output in cell.get("outputs", []) if output.output_type == "error"] == []
    assert "response to the caller: 200" in ran.cells[-1].outputs[0].data["text/plain"]


# ── the run of the notebook with all languages ──────────────────────────────────────────────────────────


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
    """An issue is opened from Go, and read from Node.js in both runs: user's token, version of the API, title, text and label."""
    opened, read, again = ran.received["github"]

    assert (opened.method, opened.host, opened.path) == ("POST", "api.github.com", "/repos/AcmeOrg/acme-repo/issues")
    for request in (read, again):
        assert (request.method, request.path) == ("GET", f"/repos/AcmeOrg/acme-repo/issues/{ran.issue['number']}")
    for request in (opened, read, again):
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


def test_the_report_counts_once(ran: Ran) -> None:
    """Under the stand-ins, the cell and `%pdrun` count the report once, in a scratch copy; the project's store stays empty."""
    counted = ran.execution.step("customer").return_value

    assert isinstance(counted, dict)
    assert (counted["reports"], ran.reports) == (1, [])


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
    exported = export_to_folder(load_source(languages_notebook.NOTEBOOK).workflow, tmp_path)

    checklist = "\n".join(exported.checklist)
    assert "Step issue: on Pipedream Go steps have no accounts. github is not exported" in checklist
    assert "Step customer: choose the data store for reports in the builder." in checklist
    assert 'Step message: for slack, choose "Use end user\'s auth via Connect" in the builder.' in checklist


def test_exported_folder_is_the_same_workflow(tmp_path: Path) -> None:
    """Read back, the folder has the steps of the notebook, with their languages, actions and props."""
    workflow = load_source(languages_notebook.NOTEBOOK).workflow
    export_to_folder(workflow, tmp_path)

    steps = load_source(tmp_path).workflow.steps

    assert [(s.name, s.language, s.uses, dict(s.props)) for s in steps] == [
        (s.name, s.language, s.uses, dict(s.props)) for s in workflow.steps
    ]
