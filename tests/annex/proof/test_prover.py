"""The proof of correct files: compared and excluded steps, reasons, and no side effects."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pdkernel.annex.proof.prover import ExportedNotebook, run_proof
from pdkernel.annex.proof.side_runner import resolve_recording_path
from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.files.definition import AccountChoice, Sidecar, StepSidecar
from pdkernel.files.source import load_source
from pdkernel.kit.session import Session
from tests.annex.proof.conftest import Files, Notebook, found_in, verdicts
from tests.egress.kit import OutsideServer

ONE = "%%pdstep one\ndef handler(pd):\n    return pd.steps['trigger']['event']['body']\n"
FETCH = """%%pdstep fetch
import json, urllib.request
def handler(pd):
    name = pd.steps["trigger"]["event"]["body"]["name"]
    with urllib.request.urlopen("https://api.example.test/people?name=" + name) as answer:
        return json.load(answer)
"""
POST = """%%pdstep post --lang node
export default defineComponent({
  async run({ steps }) {
    const answer = await fetch("https://api.example.test/notes", {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ of: steps.fetch.$return_value.id }),
    });
    return await answer.json();
  },
});
"""
ALONE = "%%pdstep alone\ndef handler(pd):\n    return 'nothing of the steps above'\n"
NEEDS = "%%pdstep needs\ndef handler(pd):\n    return pd.steps['fetch']\n"
ANY = "%%pdstep any --lang node\nexport default { run({ steps }) { return Object.keys(steps) } }\n"
PEOPLE = {
    "step": "fetch",
    "method": "GET",
    "url": "https://api.example.test/people?name=Ada",
    "answer": {"id": 7, "name": "Ada"},
}
NOTE = {
    "step": "post",
    "method": "POST",
    "url": "https://api.example.test/notes",
    "body": {"of": 7},
    "answer": {"ok": True},
}
SLACK = """%%pdstep send --lang node --app slack
export default defineComponent({
  props: { slack: { type: "app", app: "slack" } },
  async run() { return this.slack.$auth.oauth_access_token.length },
});
"""
SEND = """%%pdstep send --lang node --app slack
export default defineComponent({
  props: { slack: { type: "app", app: "slack" } },
  async run() {
    const token = this.slack.$auth.token;
    const ask = (text) => fetch("https://slack.com/api/chat.postMessage", {
      method: "POST", headers: { authorization: `Bearer ${token}`, "content-type": "application/json" }, body: JSON.stringify({ text, token }),
    }).then((answer) => answer.status);
    return await Promise.all([ask("one"), ask("two")]);
  },
});
"""
COUNT = """%%pdstep count --data-store kept=visits
def handler(pd):
    store = pd.inputs["kept"]
    store["n"] = store.get("n", 0) + 1
    store["list"] = ["a"]
    return store["n"]
"""
KEEP = """%%pdstep keep --data-store kept=visits
def handler(pd):
    pd.inputs["kept"].set("n", 1, ttl=60)
"""
CHANCE = "%%pdstep chance --lang bash\necho n=$RANDOM$RANDOM >> $PIPEDREAM_EXPORTS\necho kept=1 >> $PIPEDREAM_EXPORTS\n"


def changed(path: str, before: str, after: str) -> Any:
    """The files with one text replaced."""

    def change(files: Files) -> Files:
        assert any(before in file.text for file in files if file.path == path)
        return tuple(
            replace(file, text=file.text.replace(before, after)) if file.path == path else file for file in files
        )

    return change


def test_recorded_calls_answer_both_sides(notebook: Notebook) -> None:
    """With recorded calls, every step of an event is compared, in Python and in Node.js."""
    notebook.write(FETCH, POST, NEEDS)
    notebook.event()
    notebook.record("hello", PEOPLE, NOTE)

    proof = notebook.prove()

    assert verdicts(proof) == {"hello/": ["same"] * 4}


def test_an_unrecorded_call_is_not_compared(notebook: Notebook) -> None:
    """The step with the call and its dependents are not compared; the reason has the command that records the call."""
    notebook.write(FETCH, ALONE, NEEDS, POST, ANY, ONE)
    notebook.event()

    proof = notebook.prove()

    assert verdicts(proof)["hello/"] == [
        "not compared", "same", "not compared", "not compared", "not compared", "same", "not compared",
    ]  # fmt: skip
    assert found_in(proof, "fetch").reason == (
        "GET https://api.example.test/people?name=Ada is not in events/hello.recorded.jsonl. Record the call: "
        "pdkernel run work.ipynb --event events/hello.json --egress record=events/hello.recorded.jsonl"
    )
    assert found_in(proof, "needs").reason == "The step depends on fetch, which is not compared."
    assert proof.verdict == "same"


def test_the_command_that_records_a_call_names_the_user(notebook: Notebook) -> None:
    """The command runs the event as the user of the case, and quotes the names of files."""
    notebook.write(FETCH)
    notebook.event("my event", headers={"x-pd-external-user-id": "ada"})

    proof = notebook.prove()

    assert str(found_in(proof, "fetch").reason).endswith(
        "Record the call: pdkernel run work.ipynb --event 'events/my event.json' --external-user ada "
        "--egress 'record=events/my event.recorded.jsonl'"
    )


def test_a_request_of_one_side_only(notebook: Notebook) -> None:
    """Files with another request differ, whether or not the request was recorded."""
    notebook.write(FETCH)
    notebook.event()
    notebook.record("hello", PEOPLE, {**PEOPLE, "url": "https://api.example.test/others?name=Ada"})

    unrecorded = notebook.prove(changed("fetch/entry.py", "people?", "persons?"))
    recorded = notebook.prove(changed("fetch/entry.py", "people?", "others?"))
    silent = notebook.prove(
        changed("fetch/entry.py", "    with urllib", '    return {"id": 7, "name": "Ada"}\n    with urllib')
    )

    for proof in (unrecorded, recorded, silent):
        found = found_in(proof, "fetch")
        assert found.verdict == "differs"
        assert any(place.path.startswith("requests[0]") for place in found.differences)


def test_a_body_of_one_side_only(notebook: Notebook) -> None:
    """Requests with different bodies differ."""
    notebook.write(POST.replace("steps.fetch.$return_value.id", "7"))
    notebook.event()
    notebook.record("hello", NOTE)

    proof = notebook.prove(changed("post/entry.js", "of: 7", "of: 8"))

    assert found_in(proof, "post").verdict == "differs"


def test_each_test_user(notebook: Notebook) -> None:
    """A workflow with external users' accounts runs as each test user; an event with a user runs as that user."""
    notebook.write(SLACK, sidecar=Sidecar(test_users=("ada", "grace")))
    for user in ("ada", "grace", "lin"):
        notebook.directory.add_account(app="slack", credentials={"oauth_access_token": user * 4}, external_user_id=user)
    notebook.event("plain")
    notebook.event("named", headers={"x-pd-external-user-id": "lin"})

    proof = notebook.prove()

    assert verdicts(proof) == {
        "named/lin": ["same", "same"],
        "plain/ada": ["same", "same"],
        "plain/grace": ["same", "same"],
    }


def test_only_the_workflows_events_are_run(notebook: Notebook) -> None:
    """With test events, the proof runs no other saved event, and names a test event that is missing."""
    notebook.write(ONE, sidecar=Sidecar(test_events=("mine", "gone")))
    notebook.event("mine")
    notebook.event("of-another-workflow")

    proof = notebook.prove()

    assert list(verdicts(proof)) == ["mine/"]
    assert "The test event gone is not in events/." in proof.notes


def test_the_default_users(notebook: Notebook) -> None:
    """Without test users the project's users are test users; so is the notebook's chosen user."""
    notebook.write(SLACK)
    notebook.directory.add_account(app="slack", credentials={"oauth_access_token": "made-up"}, external_user_id="ada")
    notebook.event()

    assert list(verdicts(notebook.prove())) == ["hello/ada"]
    assert list(verdicts(notebook.prove_again(extra_users=("bob",)))) == ["hello/bob"]


def test_both_sides_refuse(notebook: Notebook) -> None:
    """A run that both sides refuse proves nothing, and the reason is shown."""
    notebook.write(SLACK)
    notebook.event()

    proof = notebook.prove()

    assert verdicts(proof) == {"hello/": ["not compared", "not compared"]}
    assert str(found_in(proof, "send").reason).startswith("Both sides refuse the run: Pipedream Connect Error: ")
    assert proof.verdict == "not compared"


def test_one_side_refuses(notebook: Notebook) -> None:
    """A run that only the files refuse is a difference."""
    notebook.write(SLACK)
    notebook.directory.add_account(app="slack", credentials={"oauth_access_token": "made-up"}, external_user_id="ada")
    notebook.event()

    proof = notebook.prove(changed("pdkernel.yaml", "slack: external_user", "slack: apn_gone"))

    assert proof.verdict == "differs"
    assert verdicts(proof) == {"hello/ada": ["differs", "differs"]}


def test_stores_are_copies(notebook: Notebook) -> None:
    """Both sides read copies of the project's stores; their writes are compared and discarded."""
    notebook.write(COUNT)
    notebook.event()
    notebook.project.data_stores.set("visits", "n", 41)

    same = notebook.prove()
    other = notebook.prove(changed("count/entry.py", '["a"]', '["b"]'))

    assert verdicts(same) == {"hello/": ["same", "same"]}
    assert found_in(other, "whole run").differences[0].path == "stores.visits.list[0]"
    assert found_in(other, "count").verdict == "same"
    assert [record.value for record in notebook.project.data_stores.iter_records("visits")] == [41]


def test_an_action_has_the_records_of_the_project(notebook: Notebook) -> None:
    """A pre-built action of a proof reads the records of the project's data stores."""
    notebook.project.data_stores.set("orders", "a", 1)
    notebook.project.data_stores.set("orders", "b", 2)
    notebook.write("%%pdstep get --uses data_stores-get-record@0.0.10\ndataStore: orders\nkey: a\n")
    notebook.event()

    proof = notebook.prove(changed("workflow.yaml", "key: a", "key: b"))

    (place,) = (each for each in found_in(proof, "get").differences if each.path == "exports.$return_value")
    assert (place.notebook, place.files) == ("1", "2")


def test_the_end_of_a_record_is_compared(notebook: Notebook) -> None:
    """A record that one side lets expire at another time is a difference."""
    notebook.write(KEEP)
    notebook.event()

    same = notebook.prove()
    other = notebook.prove(changed("keep/entry.py", "ttl=60", "ttl=90"))

    assert verdicts(same) == {"hello/": ["same", "same"]}
    assert [place.path for place in found_in(other, "whole run").differences] == ["stores.visits.n.expires"]


def test_the_project_is_unchanged(notebook: Notebook) -> None:
    """No row of the project's database changes: no history, account or stored response."""
    notebook.write(FETCH, COUNT)
    notebook.event()
    notebook.record("hello", PEOPLE)
    notebook.prove()
    before = _rows(notebook)

    notebook.prove_again()

    assert _rows(notebook) == before
    assert before.get("runs", []) == []


def _rows(notebook: Notebook) -> dict[str, list[Any]]:
    with sqlite3.connect(notebook.folder / ".pdkernel" / "project.db") as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: database.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}


def test_flaky_values_are_not_compared(notebook: Notebook) -> None:
    """A value that differs between runs of the notebook is not compared; other differences still count."""
    notebook.write(CHANCE)
    notebook.event()

    same = notebook.prove()
    other = notebook.prove(changed("chance/entry.sh", "kept=1", "kept=2"))

    assert verdicts(same) == {"hello/": ["not compared", "same"]}
    assert "exports.n differs between two runs of the notebook" in str(found_in(same, "chance").reason)
    assert [place.path for place in found_in(other, "chance").differences] == ["exports.kept"]


def test_a_flaky_response_is_not_compared(notebook: Notebook) -> None:
    """A response that differs between runs of the notebook is not compared, and its steps are."""
    notebook.write(
        "%%pdworkflow\nname: W\ntrigger:\n  type: http\n  response: custom\n",
        "%%pdstep chance\ndef handler(pd):\n    with open('/proc/sys/kernel/random/uuid') as chance:\n"
        "        pd.respond({'status': 200, 'body': chance.read()})\n",
    )
    notebook.event()

    proof = notebook.prove()

    assert verdicts(proof) == {"hello/": ["same", "not compared"]}
    assert str(proof.cases[0].run_verdict.reason).startswith(
        "response.body line 1 differs between two runs of the notebook."
    )


def test_the_time_is_fixed(notebook: Notebook) -> None:
    """Both sides see the time of the proof, in steps and in the context."""
    notebook.write(
        "%%pdstep now\nimport time\ndef handler(pd):\n"
        "    assert time.strftime('%Y-%m-%dT%H:%M') == '2026-03-01T12:30'\n"
        "    assert pd.steps['trigger']['context']['ts'] == '2026-03-01T12:30:15.000Z'\n"
    )
    notebook.event()
    notebook.export()
    opened = load_source(notebook.path)
    exported = ExportedNotebook(notebook.path, opened.workflow, None, notebook.project, notebook.directory)
    clock = ManualClock(datetime(2026, 3, 1, 12, 30, 15, 999, tzinfo=UTC))

    proof = asyncio.run(run_proof(exported, notebook.flow, clock=clock))

    assert verdicts(proof) == {"hello/": ["same", "same"]}
    assert found_in(proof, "now").differences == ()


def test_a_failing_step_is_compared(notebook: Notebook) -> None:
    """A step that fails equally on both sides is the same; later steps are not compared."""
    notebook.write("%%pdstep bad --prop x={{steps.trigger.event.none.y}}\ndef handler(pd):\n    return 1\n", ONE)
    notebook.event()

    proof = notebook.prove()

    assert verdicts(proof) == {"hello/": ["same", "not compared", "same"]}
    assert found_in(proof, "one").reason == "On this event the run ends before this step."


def test_no_event(notebook: Notebook) -> None:
    """Without a saved event only the definitions are compared, and a note reports it."""
    notebook.write(ONE)

    same = notebook.prove()
    other = notebook.prove(changed("one/entry.py", "body", "path"))

    assert (same.verdict, other.verdict) == ("not compared", "differs")
    assert "There is no saved event in events/" in same.notes[0]


def test_an_invalid_event_is_skipped(notebook: Notebook) -> None:
    """A file that is not an event is skipped, with a note."""
    notebook.write(ONE)
    notebook.event()
    (notebook.folder / "events" / "broken.json").write_text("{")

    proof = notebook.prove()

    assert list(verdicts(proof)) == ["hello/"]
    assert "broken.json is not JSON" in proof.notes[0]


def test_pins_are_ignored(notebook: Notebook) -> None:
    """Pinned steps run, and a note reports it."""
    notebook.write(ONE)
    notebook.event()

    proof = notebook.prove(pins=("one",))

    assert proof.notes == ("Pins are ignored: one ran.",)


def test_unanswered_accounts(notebook: Notebook) -> None:
    """Files with an unanswered account cannot be proven."""
    notebook.write(SLACK)

    with pytest.raises(RequestError, match="unanswered"):
        notebook.prove(changed("pdkernel.yaml", "slack: external_user", "slack: unanswered"))


def test_secrets_are_redacted(notebook: Notebook) -> None:
    """A proof contains no variable's value and no credential, wherever they are in the files."""
    secret = "a-planted-variable-value"
    notebook.project.variables.set("PLANTED", secret)
    notebook.write("%%pdstep tell\nimport os\ndef handler(pd):\n    return os.environ['PLANTED'] + ' one'\n")
    notebook.event()

    proof = notebook.prove(changed("tell/entry.py", "' one'", f"' {secret}'"))

    shown = json.dumps(proof.to_json()) + proof.render_text() + proof.render_html()
    assert proof.verdict == "differs"
    assert secret not in shown
    assert "secret:env/PLANTED" in shown


def test_modules_beside_the_notebook(notebook: Notebook) -> None:
    """A file beside the notebook that a step imports is exported with the step."""
    notebook.write("%%pdstep use --lang node\nimport { one } from './helper.mjs'\nexport default { run: () => one }\n")
    (notebook.folder / "helper.mjs").write_text("export const one = 1\n")
    notebook.event()

    assert found_in(notebook.prove(), "use").verdict == "same"


def test_a_folder_without_pdkernel_yaml(notebook: Notebook) -> None:
    """Without pdkernel.yaml both sides use the notebook's settings, with a note."""
    notebook.write(
        "%%pdworkflow\nname: W\ntrigger:\n  type: http\n  response: custom\n",
        SLACK.replace("--app slack", "--app slack --timeout 9"),
        COUNT,
        sidecar=Sidecar(
            test_users=("ada",),
            steps={"send": StepSidecar(accounts={"slack": AccountChoice("external_user", None, "apn_synced")})},
        ),
    )
    notebook.directory.add_account(app="slack", credentials={"oauth_access_token": "made-up"}, external_user_id="ada")
    notebook.event()
    notebook.export()
    (notebook.flow / "pdkernel.yaml").unlink()

    proof = notebook.prove_again()

    assert proof.definition_differences == ()
    assert verdicts(proof) == {"hello/ada": ["same"] * 3}
    assert "There is no pdkernel.yaml in the folder" in proof.notes[0]


def test_an_account_of_the_folder_stands_for_the_external_user(notebook: Notebook) -> None:
    """Without pdkernel.yaml, an id that the folder keeps for an app prop is not a difference if the notebook uses the external user's account."""
    notebook.write(SLACK)
    entry = 'uses: "./send/entry.js"\n'
    notebook.export(changed("workflow.yaml", entry, f"{entry}  props:\n    slack:\n      authProvisionId: apn_kept\n"))
    (notebook.flow / "pdkernel.yaml").unlink()

    assert notebook.prove_again(is_patched=True).definition_differences == ()


def test_another_limit_without_pdkernel_yaml(notebook: Notebook) -> None:
    """A limit in workflow.yaml is compared with the notebook's."""
    notebook.write("%%pdworkflow\nname: W\nsettings:\n  concurrency: 1\n", ONE)
    setting = "settings:\n  error_notification: true\n"
    notebook.export(changed("workflow.yaml", setting, f"{setting}  concurrency: 5\n"))
    (notebook.flow / "pdkernel.yaml").unlink()

    (place,) = notebook.prove_again().definition_differences

    assert (place.path, place.notebook, place.files) == ("settings.concurrency", "1", "5")


def test_another_account_without_pdkernel_yaml(notebook: Notebook) -> None:
    """An own account is in workflow.yaml too, so a different account is a difference."""
    notebook.write(SLACK.replace("--app slack", "--app slack=apn_mine"))
    notebook.export(changed("workflow.yaml", "apn_mine", "apn_other"))
    (notebook.flow / "pdkernel.yaml").unlink()

    (place,) = notebook.prove_again().definition_differences

    assert (place.path, place.notebook, place.files) == (
        "steps.send.accounts.slack.account",
        '"apn_mine"',
        '"apn_other"',
    )


def test_an_action_that_is_not_installed(notebook: Notebook) -> None:
    """The step is not compared, and the reason has the command that installs the action; built-in actions are compared."""
    notebook.write("%%pdstep far --uses slack-send-message@0.0.20\ntext: hi\n", ONE)
    notebook.event()
    notebook.directory.add_account(app="slack", credentials={"oauth_access_token": "made-up"}, external_user_id="ada")

    proof = notebook.prove()

    assert verdicts(proof) == {"hello/ada": ["not compared", "same", "not compared"]}
    assert "slack-send-message@0.0.20" in str(found_in(proof, "far").reason)


def test_a_recording_of_another_account(notebook: Notebook) -> None:
    """A recording answers calls with any credentials; both sides send the same requests."""
    outside = OutsideServer(None)
    notebook.write(SEND)
    session = Session(folder=notebook.folder, notebook=notebook.path, project=notebook.project)
    try:
        session.record_cell(SEND, cell_id="c0")
        notebook.directory.add_account(app="slack", credentials={"token": "made-up-of-ada"}, external_user_id="ada")
        session.choose_user("ada")
        event = notebook.event()
        session.load_event("hello")
        session.choose_egress(f"stand-in=http://127.0.0.1:{outside.port}")
        recording = session.get_request(session.run().id).options.recording
        assert recording is not None
        recording.append_to(resolve_recording_path(event))
        notebook.directory.add_account(app="slack", credentials={"token": "made-up-of-grace"}, external_user_id="grace")

        proof = notebook.prove(extra_users=("ada", "grace"))

        assert len(outside.seen) == 2
        assert verdicts(proof) == {"hello/ada": ["same", "same"], "hello/grace": ["same", "same"]}
    finally:
        session.close()
        outside.stop()


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path) -> Iterator[None]:
    """Remove the files of a test at once, because there are many projects."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)
