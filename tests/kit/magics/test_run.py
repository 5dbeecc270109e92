"""`%pdrun`, `%pdshape` and `%pdexport`, in a real IPython shell."""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path

import httpx
import pytest

from pdkernel import load_ipython_extension, unload_ipython_extension
from pdkernel.operations.events import TestEvent
from tests.kit.magics.conftest import CHECK, GREET, Notebook, Run
from tests.notebook_files import notebook_of
from tests.waiting import wait_until


def test_the_shape_of_several_events(run: Run, tmp_path: Path) -> None:
    """`%pdshape` with several events merges them, and shows in how many of them a path is."""
    (tmp_path / "events" / "plain.json").write_text('{"method": "GET"}')

    shown = run("%pdshape plain hello")

    assert "2 events" in shown
    assert "in 1 of 2 events (50%)" in shown


def test_the_shape_is_shown_in_ten_lines(run: Run, tmp_path: Path) -> None:
    """`%pdshape` and `%pdevent` show ten lines of text and the line that shows the rest."""
    body = {"".join(letters): 1 for letters in itertools.product("abcde", repeat=2)}
    (tmp_path / "events" / "wide.json").write_text(json.dumps({"body": body}))

    shapes = [run("%pdevent wide"), run("%pdshape"), run("%pdshape wide")]
    whole = run("%pdshape --full")

    assert [shown.strip().splitlines()[-1] for shown in shapes] == [
        "… 19 more fields: %pdshape --full",  # the chosen event names its environment in a header
        "… 19 more fields: %pdshape --full",
        "… 17 more fields: %pdshape wide --full",
    ]
    assert [len(shown.strip().splitlines()) for shown in shapes] == [12, 11, 11]
    assert len(whole.strip().splitlines()) == 29
    assert "more" not in whole


def test_the_shape_of_recorded_runs(notebook: Notebook, run: Run) -> None:
    """`%pdshape --runs` merges the events of this workflow's runs of the picked user; `--all` and `--user` choose others."""
    run(CHECK)
    for user, name in (("ada", "A"), ("grace", "B"), ("grace", "C")):
        run(f"%pduser {user}")
        notebook.session.choose_event(TestEvent({"body": {"name": name, user: 1}}), "made")
        run("%pdrun")

    picked, everyone, one = (
        run("%pdshape --runs"),
        run("%pdshape --runs --all"),
        run("%pdshape --runs --user ada --limit 5"),
    )
    none = run("%pdshape --runs --workflow Other")

    assert "Events of 2 recorded runs" in picked
    assert "Events of 3 recorded runs" in everyone
    assert "in 2 of 3 events (67%)" in everyone
    assert "Events of 1 recorded run" in one
    assert "There are no recorded events of Other of the external user grace." in none


def test_the_difference_of_two_events(run: Run, tmp_path: Path) -> None:
    """`%pdshape A B --diff` compares two events, and `%pdshape A --diff` one with the chosen event."""
    (tmp_path / "events" / "plain.json").write_text('{"method": "GET"}')
    run("%pdevent hello")

    both, chosen, refused = run("%pdshape plain hello --diff"), run("%pdshape plain --diff"), run("%pdshape --diff")

    assert both.startswith("plain → hello: ")
    assert '  ~ method  string "GET" → string "POST"' in both
    assert chosen.startswith("plain → hello: ")
    assert "--diff compares two events" in refused


def test_a_contract_is_compared_with_own_events(notebook: Notebook, run: Run, tmp_path: Path) -> None:
    """Of the events in a folder that notebooks share, `%pdshape --contract` checks those that the sidecar names."""
    notebook.session.notebook = tmp_path / "work.ipynb"
    (tmp_path / "work.pdkernel.yaml").write_text("schema: pdkernel/1\nworkflow: Work\ntest_events: [hello]\n")
    (tmp_path / "events" / "other.json").write_text('{"method": "GET"}')
    run(CHECK)

    shown = run("%pdshape --contract")

    assert "✓ hello fulfils the contract." in shown
    assert "other" not in shown


def test_contract_is_shown(run: Run, tmp_path: Path) -> None:
    """`%pdshape --contract` shows the fields that steps read, with places, and whether the chosen or named event has them."""
    (tmp_path / "events" / "empty.json").write_text('{"method": "GET"}')
    run("%pdevent hello")
    run(CHECK)

    shown, named = run("%pdshape --contract"), run("%pdshape --contract empty")

    assert re.search(r"required +body.name +check \(.*line 4\)", shown), shown
    assert "✓ hello fulfils the contract." in shown
    assert "An event that fulfils the contract" in shown
    assert "body is missing, and with it body.name" in named
    assert "hello" not in named


def test_export_shows_and_writes(run: Run, tmp_path: Path) -> None:
    """`%pdexport` shows the planned files, and writes them with `--to`; then its last line serves the folder."""
    run(CHECK)
    run(GREET)

    preview = run("%pdexport")
    assert "No file was written. To write the files" in preview
    assert "To serve" not in preview
    assert not (tmp_path / "ready to go").exists()

    run("%pdpin check 1")
    written = run("%pdexport --to 'ready to go'")
    assert "Pins are not exported: check will run." in written
    assert written.strip().splitlines()[-1] == "To serve the folder: pdkernel serve 'ready to go'"
    assert (tmp_path / "ready to go" / "workflow.yaml").is_file()
    assert (tmp_path / "ready to go" / "check" / "entry.py").read_text() == CHECK.split("\n", 1)[1]


def test_export_names_the_outbound_policy_of_the_notebook(run: Run) -> None:
    """After `%pdegress` the export names the option that keeps the policy; a policy of the environment stays with the server."""
    run(CHECK)

    before = run("%pdexport --to one")
    run("%pdegress deny")

    assert "for real" not in before
    assert "To keep it, add --egress deny" in run("%pdexport --to two")


def test_export_patches_a_synced_folder(run: Run, tmp_path: Path) -> None:
    """`%pdexport --into` patches a synced folder; `--dry-run` only shows the changes."""
    (tmp_path / "flow").mkdir()
    synced = tmp_path / "flow" / "workflow.yaml"
    synced.write_text("name: flow # ours\ntriggers:\n- id: hi_1\n")
    run("%%pdworkflow\nname: flow\n")
    run(CHECK)

    shown = run("%pdexport --into flow --dry-run")
    assert "+- namespace: check" in shown
    assert "No file was written" in shown
    assert "steps" not in synced.read_text()

    report = json.loads(run("%pdexport --into flow --json"))
    assert [file["state"] for file in report["files"]] == ["changed", "new"]
    assert synced.read_text().startswith("name: flow # ours\ntriggers:\n- id: hi_1\nsteps:\n- namespace: check\n")


def test_an_unanswered_question_is_exported(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a workflow with an unanswered question about an account are written; a proof is refused."""
    monkeypatch.setenv("PDKERNEL_NOTEBOOK", str(tmp_path / "work.ipynb"))
    (tmp_path / "work.pdkernel.yaml").write_text(
        "schema: pdkernel/1\nsteps:\n  send:\n    accounts:\n      slack: unanswered\n"
    )
    run(
        "%%pdstep send --lang node --no-run\n"
        "export default { props: { slack: { type: 'app', app: 'slack' } }, run() {} };"
    )

    written, refused = run("%pdexport --to out"), run("%pdexport --to other --prove")

    assert "out: 3 new" in written
    assert "unanswered" in refused
    assert not (tmp_path / "other").exists()


def test_a_call_is_repeated_on_request(notebook: Notebook, run: Run) -> None:
    """Run All, `%pdrun` and `%pdrun STEP` send a message once; `--send` repeats it."""
    run("%pdevent hello")
    run(
        "%%pdstep say\nimport urllib.request\ndef handler(pd):\n"
        "    return urllib.request.urlopen('https://slack.com/api/chat.postMessage', data=b'{}').status\n"
    )
    outcomes = []
    for line in ("%pdrun", "%pdrun say", "%pdrun --send"):
        run(line)
        assert notebook.session.last_execution is not None
        outcomes += [call.outcome for call in notebook.session.last_execution.requests]

    assert outcomes == ["not_sent", "not_sent", "stand_in"]


# ── %pdexport --prove ───────────────────────────────────────────────────────────────────────────────────


ONE = "%%pdstep one\ndef handler(pd):\n    return pd.steps['trigger']['event']['body']\n"


def test_prove(notebook: Notebook, tmp_path: Path) -> None:
    """The proof is shown below the files, with a note that pins are ignored."""
    notebook.run(ONE)
    notebook.session.load_event("hello")
    notebook.session.pin("one", {"$return_value": 5})

    shown = notebook.run("%pdexport --to out --prove")

    assert notebook.error is None
    assert "out: 3 new" in shown
    assert "workflow same; 1 run, steps: 1 same." in shown
    assert "Pins are ignored: one ran." in shown


def test_the_chosen_user_is_a_test_user_of_the_proof(notebook: Notebook) -> None:
    """If the steps need an external user, the proof runs for the chosen one, not for all users of the project."""
    for user in ("ada", "grace"):
        notebook.session.directory.add_account(app="slack", credentials={"k": "v"}, external_user_id=user)
    notebook.run("%pduser grace")
    notebook.run(ONE.replace("%%pdstep one", "%%pdstep one --app slack"))

    shown = notebook.run("%pdexport --to out --prove --json")

    assert [case["external_user"] for case in json.loads(shown)["proof"]["cases"]] == ["grace"]


def test_a_proof_requires_written_files(notebook: Notebook) -> None:
    """Without written files a proof is refused."""
    notebook.run(ONE)

    for line in ("%pdexport --prove", "%pdexport --to out --dry-run --prove"):
        assert "--prove needs written files, and this export writes none." in notebook.run(line)


DELAY = "%%pdstep nap --no-run\ndef handler(pd):\n    pd.flow.delay(300)\n"
APPROVE = "%%pdstep approve{}\ndef handler(pd):\n    return pd.flow.suspend(3600_000)\n"
AFTER = '%%pdstep after --no-run\ndef handler(pd):\n    return pd.steps["approve"].get("$resume_data")\n'


def last_status(notebook: Notebook) -> str:
    """The status of the notebook's last run."""
    last = notebook.session.last_execution
    return "none" if last is None else last.status


def paused_run(notebook: Notebook, after: str = AFTER) -> str:
    """The id of a new run that waits for an approval."""
    notebook.run("%pdevent hello")
    notebook.run(APPROVE.format(" --no-run"))
    notebook.run(after)
    shown = notebook.run("%pdrun")
    found = re.search(r"Paused in approve \(suspend\) until .* %pdruns resume (\w{27})", " ".join(shown.split()))
    assert found is not None
    return found[1]


def test_a_cell_waits_for_a_short_delay(notebook: Notebook) -> None:
    """The run goes on after the real time of the delay, and the cell's timeline ends with its success."""
    notebook.run("%pdevent hello")
    notebook.run(DELAY)
    notebook.run(CHECK.replace("%%pdstep check", "%%pdstep check --no-run"))
    began = time.monotonic()
    shown = notebook.run("%pdrun")

    assert notebook.error is None
    assert time.monotonic() - began >= 0.3
    assert "paused" in shown
    assert last_status(notebook) == "success"
    assert notebook.session.get_result("check") is not None


@pytest.mark.parametrize(
    "line",
    [
        "%pdrun --skip-waits",
        "%pdevent hello --send --skip-waits",
        "%pdrun --users ada,bob",
        "%pdrun --save-test approved",
    ],
)
def test_waits_are_skipped_on_request(notebook: Notebook, tmp_path: Path, line: str) -> None:
    """With `--skip-waits`, a run and a sent event go on at once; runs for several users and saved tests do so too."""
    notebook.session.notebook = notebook_of(tmp_path / "work.ipynb", APPROVE.format(" --no-run"))
    notebook.run("%pdevent hello")
    notebook.run(APPROVE.format(" --no-run"))

    shown = notebook.run(line)

    assert "suspend for 1 hour: skipped." in shown
    assert notebook.error is None


def test_each_of_several_users_counts(notebook: Notebook, run: Run) -> None:
    """The cell fails if the run of one of the external users fails, after all have run."""
    run("%pdevent hello")
    run(
        "%%pdstep one --no-run\ndef handler(pd):\n"
        "    return 1 / len(pd.steps['trigger']['event']['headers']['x-pd-external-user-id'].replace('ada', ''))\n"
    )

    run("%pdrun --users ada,bob")

    assert str(notebook.error) == "Step one failed: see the error above."
    last = notebook.session.last_execution
    assert last is not None
    assert (last.external_user, last.status) == ("bob", "success")


def test_a_suspended_run_leaves_the_notebook_usable(notebook: Notebook) -> None:
    """A suspend ends the cell; another cell runs; `%pdruns resume` lets the run go on, whose results the cells show."""
    run_id = paused_run(notebook)
    assert notebook.error is None
    assert "checking" in notebook.run("%pdegress deny\nprint('checking')")
    resumed = notebook.run("%pdruns resume --body '{\"ok\": true}'")
    wait_until(lambda: last_status(notebook) == "success")
    result = notebook.session.get_result("after")

    assert f"The run {run_id} goes on below the cell that started it." in resumed
    assert "Exactly one run must be named" in notebook.run("%pdruns resume")
    assert result is not None
    assert result.return_value == {"ok": True}


def test_a_run_that_fails_after_its_pause_stops_run_all(notebook: Notebook) -> None:
    """The cell that resumes a run waits for its end, and fails with it."""
    run_id = paused_run(notebook, after=AFTER.replace('return pd.steps["approve"].get("$resume_data")', "1 / 0"))

    notebook.run(f"%pdruns resume {run_id}")

    assert str(notebook.error) == "Step after failed: see the error above."


def test_a_step_cell_that_pauses(notebook: Notebook) -> None:
    """A step that pauses in its own cell leaves the cell paused, and a cancelled run ends."""
    notebook.run("%pdevent hello")
    shown = " ".join(notebook.run(APPROVE.format("")).split())
    found = re.search(r"%pdruns resume (\w{27})", shown)
    assert found is not None
    notebook.run(f"%pdruns cancel {found[1]}")
    wait_until(lambda: last_status(notebook) == "cancelled")

    assert "Its resume_url works if the draft is served before the run: %pdserve" in shown


def test_a_paused_run_survives_its_kernel(notebook: Notebook) -> None:
    """The next kernel names the paused run at its first run, and continues it on request."""
    run_id = paused_run(notebook)
    unload_ipython_extension(notebook.shell)
    vars(notebook.shell).pop("_pdkernel_left_runs_shown")
    load_ipython_extension(notebook.shell)
    shown = notebook.run("%pdrun --skip-waits")
    again = notebook.run("%pdrun --skip-waits")
    resumed = notebook.run(f"%pdruns resume {run_id} --body '{{\"ok\": true}}'")

    assert f"{run_id}: Paused in approve (suspend)" in shown
    assert run_id not in again
    assert "success" in resumed
    assert '{"ok": true}' in resumed


def test_the_urls_of_a_served_draft_resume_a_run(notebook: Notebook) -> None:
    """While the draft is served, a POST to the `resume_url` of a run of a cell lets the run go on in the kernel."""
    notebook.run("%pdserve")
    paused_run(notebook)
    result = notebook.session.get_result("approve")
    assert result is not None
    assert isinstance(result.return_value, dict)
    answer = httpx.post(str(result.return_value["resume_url"]), json={"ok": True}, timeout=60)
    wait_until(lambda: last_status(notebook) == "success")
    after = notebook.session.get_result("after")

    assert (answer.status_code, answer.text) == (200, "The run goes on.\n")
    assert after is not None
    assert after.return_value == {"ok": True}


def test_an_interrupt_cancels_a_run_that_waits(notebook: Notebook) -> None:
    """A cancelled wait ends the run, and its record reports it."""
    run_id = paused_run(notebook)
    execution = notebook.session.call_engine(lambda engine: engine.journal.get_execution(run_id))
    assert execution is not None
    task = notebook.session.paused_runs.follow(execution)
    task.cancel()

    assert task.result().status == "cancelled"
    wait_until(lambda: last_status(notebook) == "cancelled")
