"""`%pdruns` and `%pdstore` in a notebook."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from IPython.utils.capture import capture_output

from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution
from pdkernel.operations.run_history import build_query, get_run, list_runs
from pdkernel.operations.run_replay import prepare_replay, start_replay
from tests.builders import Gate, an_event
from tests.kit.magics.conftest import CHECK, Notebook

WAIT = "%%pdstep wait --no-run\ndef handler(pd):\n    pd.flow.suspend(1000)\n"
GREET = '%%pdstep greet --no-run\ndef handler(pd):\n    return "Hello, " + pd.steps["check"]["$return_value"]["name"]\n'


@pytest.fixture
def ran(notebook: Notebook) -> Notebook:
    """A notebook with one run of ada of two steps."""
    notebook.run("%pdevent hello")
    notebook.run("%pduser ada")
    notebook.run(CHECK.replace("%%pdstep check", "%%pdstep check --no-run"))
    notebook.run(GREET)
    notebook.run("%pdrun")
    assert notebook.error is None
    return notebook


def newest(notebook: Notebook) -> str:
    """The id of the newest run."""
    run_id: str = notebook.shell.run_line_magic("pdruns", "--frame")["id"][0]
    return run_id


def test_runs_are_listed_and_shown(ran: Notebook) -> None:
    """`%pdruns` lists runs as text and HTML, and `%pdruns ID` shows the timeline of a run."""
    run_id = newest(ran)
    with capture_output() as captured:
        ran.shell.run_cell("%pdruns --status success")

    html = captured.outputs[0].data["text/html"]
    assert run_id in captured.outputs[0].data["text/plain"]
    assert f"<code>{run_id}</code>" in html
    assert "ada (development)" in html
    assert ran.run("%pdruns --status error").startswith("No runs.")
    assert "Hello, Ada" in ran.run(f"%pdruns {run_id}")
    assert "is not a status" in ran.run("%pdruns --status failed")
    assert "There is no run 'nope'" in ran.run("%pdruns nope")


def test_a_page_names_the_next(ran: Notebook) -> None:
    """A full page shows the line that continues the list."""
    ran.run("%pdrun")
    run_id = newest(ran)

    assert f"%pdruns --before {run_id}" in ran.run("%pdruns --limit 1")
    assert len(ran.shell.run_line_magic("pdruns", f"--frame --before {run_id}")) == 1
    assert "The limit 0 is not a number of runs." in ran.run("%pdruns --limit 0")


def test_a_run_is_replayed_with_the_draft(ran: Notebook) -> None:
    """A replay runs the notebook as it is now, and does not change the results of the cells; its pins count with `--draft`."""
    run_id = newest(ran)
    ran.session.pin("check", {"$return_value": {"name": "Grace"}})
    before = ran.session.get_result("greet")
    ran.run(GREET.replace("Hello", "Welcome"))
    shown = ran.run(f"%pdruns replay {run_id}")
    forked = ran.run(f"%pdruns fork {run_id} --from greet")
    draft = ran.run(f"%pdruns fork {run_id} --from greet --draft")

    assert "with the current workflow" in shown
    assert "Welcome, Ada" in shown
    assert f"replay of {run_id}" in shown
    assert "Hello, Ada" in forked
    assert "pinned" in forked
    assert "Welcome, Grace" in draft
    assert ran.session.get_result("greet") == before
    assert "Known: check, greet." in ran.run(f"%pdruns fork {run_id} --from nope")


def test_selected_runs_are_listed_before_they_run(ran: Notebook) -> None:
    """Filters without `--yes` only list the runs that would run again."""
    assert "To run them again, add --yes" in ran.run("%pdruns replay --status success")
    assert len(ran.shell.run_line_magic("pdruns", "--frame")) == 1
    ran.run("%pdruns replay --status success --yes")
    assert len(ran.shell.run_line_magic("pdruns", "--frame")) == 2
    assert "No run is named" in ran.run("%pdruns replay")


@pytest.mark.parametrize(
    ("line", "user", "sent"),
    [
        ("replay ID", "ada", 0),
        ("replay ID --send --external-user grace", "grace", 1),
        ("replay --since 1h --yes", "ada", 0),
        ("replay --since 1h --yes --send", "ada", 1),
        ("fork ID --from say", "ada", 0),
        ("fork ID --from say --send --external-user grace", "grace", 1),
    ],
)
def test_a_call_is_sent_again_on_request(notebook: Notebook, line: str, user: str, sent: int) -> None:
    """A replay or a fork sends a call of the run again only with `--send`, and runs as the user that the line names."""
    notebook.run("%pdevent hello")
    notebook.run("%pduser ada")
    notebook.run(
        "%%pdstep say --no-run\nimport urllib.request\ndef handler(pd):\n"
        "    return urllib.request.urlopen('https://slack.com/api/chat.postMessage', data=b'{}').status\n"
    )
    notebook.run("%pdrun")
    original = newest(notebook)

    notebook.run(f"%pdruns {line.replace('ID', original)}")

    run_id = newest(notebook)
    again = notebook.session.call_engine(lambda _: get_run(notebook.session.project, run_id))
    assert (run_id != original, again.external_user) == (True, user)
    assert [call.outcome for call in again.step("say").requests].count("stand_in") == sent


def test_a_cancelled_replay_is_the_last_one(notebook: Notebook, tmp_path: Path) -> None:
    """If one of several selected runs is cancelled, no further run starts, and the cell fails."""
    held = tmp_path / "held"
    notebook.run("%pdevent hello")
    notebook.run(
        "%%pdstep wait --no-run\nimport pathlib, time\ndef handler(pd):\n"
        f"    while pathlib.Path({str(held)!r}).exists():\n        time.sleep(0.05)\n"
    )
    for _ in range(2):
        notebook.run("%pdrun --send")
    held.touch()

    def cancel() -> None:
        session, found = notebook.session, list[Execution]()
        query = build_query(session.project.clock, status="executing", limit=1)
        while not found:
            found = [*session.call_engine(lambda _: list_runs(session.project, query))]
        session.paused_runs.cancel(found[0].id)
        held.unlink()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    shown = notebook.run("%pdruns replay --since 1h --yes")
    canceller.join(60)

    assert "The run was interrupted" in shown
    assert list(notebook.shell.run_line_magic("pdruns", "--frame")["status"]) == ["cancelled", "success", "success"]


def test_a_run_in_progress_is_not_removed(ran: Notebook, tmp_path: Path) -> None:
    """Of the selected runs, one that is in progress stays; named by its id it is refused with the line to cancel it."""
    gate = Gate(tmp_path)
    ran.session.record_cell(f"%%pdstep slow\ndef handler(pd):\n    {gate.code}\n", cell_id="slow")
    running = ran.session.start(only=frozenset({"slow"}))
    asyncio.run(gate.wait_until_reached())

    refused = ran.run(f"%pdruns remove {newest(ran)} --yes")
    removed = ran.run("%pdruns remove --since 1h --yes")
    gate.open()
    running.result()

    assert "is executing." in refused
    assert removed.startswith("Removed 1 run.")
    assert list(ran.shell.run_line_magic("pdruns", "--frame")["status"]) == ["success"]


def test_a_run_that_is_named_is_removed_after_a_confirmation(ran: Notebook) -> None:
    """Without `--yes`, a run is not removed, even if its id is given."""
    run_id = newest(ran)

    refused = ran.run(f"%pdruns remove {run_id}")
    left = newest(ran)
    removed = ran.run(f"%pdruns remove {run_id} --yes")

    assert "1 run would be removed." in refused
    assert left == run_id
    assert removed.startswith("Removed 1 run.")


def test_every_selected_run_runs_before_a_failure_is_raised(ran: Notebook) -> None:
    """The oldest run is replayed first; its failure does not keep the later runs from running, and fails the cell at the end."""
    older = newest(ran)
    ran.session.choose_event(an_event({"name": "Grace"}), "grace")
    ran.run("%pdrun")
    newer = newest(ran)
    ran.run(GREET.replace("    return", '    1 / (pd.steps["check"]["$return_value"]["name"] != "Ada")\n    return'))

    shown = ran.run("%pdruns replay --since 1h --yes")

    assert ran.error is not None
    assert shown.index(f"replay of {older}") < shown.index(f"replay of {newer}")
    assert list(ran.shell.run_line_magic("pdruns", "--frame")["status"]) == ["success", "error", "success", "success"]


def test_the_event_of_a_run_is_taken_over(ran: Notebook) -> None:
    """`--event` chooses the run's redacted event and user, gives its exports to the cells, and refuses outbound calls."""
    run_id = newest(ran)
    ran.run("%pduser --clear")
    ran.run("%pdevent --save other")
    shown = ran.run(f"%pdruns {run_id} --event")
    session = ran.session

    assert ran.shell.user_ns["event"].external_user_id == "ada"
    assert session.event_name == f"run {run_id}"
    assert session.external_user_id == "ada"
    assert session.outbound_policy.mode_text == "deny"
    assert session.stale_steps == set()
    assert "The cells have the exports of check, greet." in shown
    assert "Hello, Ada" in ran.run("%pdrun greet")


def test_a_replay_takes_a_policy(ran: Notebook) -> None:
    """`%pdruns replay` and `fork` take `--egress`, which the timeline shows."""
    run_id = newest(ran)

    replayed = ran.run(f"%pdruns replay {run_id} --egress stand-in=github")
    forked = ran.run(f"%pdruns fork {run_id} --from greet --egress deny")

    assert "outbound policy stand-in=github (--egress)" in " ".join(replayed.split())
    assert "outbound policy deny (--egress)" in " ".join(forked.split())


def test_a_handler_is_tried_on_the_error_of_a_run(ran: Notebook) -> None:
    """In a workflow with an errors trigger, `--event` chooses the error of another workflow's failed run."""
    ran.run(GREET.replace('return "Hello, "', "1 / 0\n    return "))
    ran.run("%pdrun")
    failed = newest(ran)
    header = ran.run("%%pdworkflow\nname: On errors\ntrigger: {type: errors}")
    ran.run(
        "%%pdstep greet\ndef handler(pd):\n    event = pd.steps['trigger']['event']\n    return event['error']['name']"
    )
    shown = ran.run(f"%pdruns {failed} --event")

    assert "Workflow 'On errors': errors trigger, of all workflows." in header
    assert f"The error of the run {failed} is chosen as the event." in shown
    assert ran.shell.user_ns["event"].data["original_context"]["id"] == failed
    assert "ZeroDivisionError" in ran.run("%pdrun greet")


def test_runs_are_resumed_cancelled_and_removed(notebook: Notebook) -> None:
    """A paused run is resumed in the notebook; another is cancelled; both are removed after `--yes`."""
    notebook.run("%pdevent hello")
    notebook.run(WAIT)
    notebook.run("%pdrun")
    paused = [_pause(notebook) for _ in range(2)]
    resumed = notebook.run(f"%pdruns resume {paused[0]} --body '{{\"ok\": true}}'")
    cancelled = notebook.run(f"%pdruns cancel {paused[1]}")
    late = notebook.run(f"%pdruns resume {paused[1]}")
    refused = notebook.run("%pdruns remove --status cancelled")
    removed = notebook.run("%pdruns remove --status cancelled --yes")

    assert '$resume_data: {"ok": true}' in resumed
    assert cancelled.startswith(f"Cancelled {paused[1]}.")
    assert "its status is cancelled" in late
    assert "1 run would be removed" in refused
    assert removed.startswith("Removed 1 run.")
    assert "Exactly one run must be named" in notebook.run("%pdruns cancel")


def test_the_pause_of_one_branch_ends(notebook: Notebook) -> None:
    """`%pdruns resume ID --step STEP` ends one of several pauses; without `--step` it is refused with the names of the steps."""
    notebook.run("%pdevent hello")
    notebook.run("%%pdparallel ask\nsales: always\nlaw: always")
    for branch in ("sales", "law"):
        notebook.run(f"%%pdstep {branch} --in ask.{branch} --no-run\ndef handler(pd):\n    pd.flow.suspend(100000)\n")
    notebook.run("%pdrun")
    paused = _pause(notebook)
    unnamed = notebook.run(f"%pdruns resume {paused}")
    other = notebook.run(f"%pdruns resume {paused} --step nobody")
    law = notebook.run(f'%pdruns resume {paused} --step law --body \'{{"by": "law"}}\'')
    sales = notebook.run(f'%pdruns resume {paused} --body \'{{"by": "sales"}}\'')

    assert "waits in several steps" in unnamed
    assert "does not wait in the step nobody" in other
    assert '$resume_data: {"by": "law"}' in law
    assert '$resume_data: {"by": "sales"}' not in law
    assert '$resume_data: {"by": "sales"}' in sales


def _pause(notebook: Notebook) -> str:
    """The id of a new paused run: a replay of a run of the terminal, whose pauses end the command."""
    run_id = newest(notebook)

    async def park(engine: WorkflowEngine) -> str:
        prepared = await prepare_replay(engine, run_id)
        parked = replace(prepared, request=replace(prepared.request, pause_mode="park"))
        return (await start_replay(engine, parked)).id

    return notebook.session.call_engine(park)


def test_stores_and_records_are_shown(notebook: Notebook) -> None:
    """`%pdstore` lists the stores; with a name it shows records and the number of records left out; an unknown name is an error."""
    notebook.session.project.data_stores.set("orders", "last", {"id": 1})
    notebook.session.project.data_stores.set("orders", "short", 2, ttl=3600)

    assert "orders  2 records" in notebook.run("%pdstore")
    shown = notebook.run("%pdstore orders")
    assert 'last   {"id": 1}' in shown
    assert "short  2  (until 20" in shown
    assert "… 1 more record" in notebook.run("%pdstore orders --rows 1")
    assert "Existing stores: orders." in notebook.run("%pdstore order")


def test_a_secret_in_a_store_is_not_shown(notebook: Notebook) -> None:
    """A stored token or variable is redacted in the notebook."""
    session = notebook.session
    session.project.variables.set("TOKEN", "tok-0123456789")
    session.directory.add_account(
        app="slack", credentials={"oauth_access_token": "xoxb-9876543210"}, external_user_id="ada"
    )
    session.project.data_stores.set("s", "key tok-0123456789", {"t": "Bearer xoxb-9876543210"})

    shown = notebook.run("%pdstore s")

    assert "key ⟦secret:env/TOKEN" in shown
    assert "xoxb" not in shown
    assert "tok-" not in shown


ADD = (
    "%%pdstep {name} --data-store data=totals\ndef handler(pd):\n"
    '    pd.inputs["data"]["sum"] = pd.inputs["data"].get("sum", 0) + 10\n    return pd.inputs["data"]["sum"]\n'
)


def returned(notebook: Notebook, step: str) -> Any:
    """The last return value of a step."""
    result = notebook.session.get_result(step)
    return None if result is None else result.return_value


def test_run_all_twice_counts_once(notebook: Notebook) -> None:
    """Step cells and `%pdrun` write a scratch copy under a stand-in: a step that runs again replaces what it wrote."""
    notebook.session.project.data_stores.set("totals", "sum", 1)
    notebook.session.choose_event(an_event())
    sums = []
    for _ in range(2):
        for cell in ("%pdegress stand-in=slack", ADD.format(name="first"), ADD.format(name="second"), "%pdrun"):
            notebook.run(cell)
            assert notebook.error is None
        sums.append((returned(notebook, "first"), returned(notebook, "second")))
    for _ in range(3):
        notebook.run(ADD.format(name="second"))
    sums.append((returned(notebook, "first"), returned(notebook, "second")))

    assert sums == [(11, 21)] * 3
    assert "sum  1" in " ".join(notebook.run("%pdstore totals").split("\n"))
    assert next(notebook.session.project.data_stores.iter_records("totals")).value == 1


def test_the_scratch_copy_is_shown(notebook: Notebook) -> None:
    """`%pdstore --scratch` shows what the steps wrote; without a name it lists the written stores."""
    notebook.session.choose_event(an_event())
    assert "have written no scratch copy" in notebook.run("%pdstore --scratch")

    shown = "".join(notebook.run(ADD.format(name="first")).split())

    assert "Datastoretotals:writteninascratchcopy,becausetheoutboundpolicyisstand-in." in shown
    assert "totals  1 record" in notebook.run("%pdstore --scratch")
    assert "10" in notebook.run("%pdstore totals --scratch")
    assert "To show the copy: %pdstore totals --scratch" in notebook.run("%pdstore totals")


def test_another_event_or_user_begins_anew(notebook: Notebook) -> None:
    """A scratch copy belongs to an event and an external user, as the results of the cells do."""
    notebook.session.choose_event(an_event())
    notebook.run(ADD.format(name="first"))
    notebook.run(ADD.format(name="second"))
    before = returned(notebook, "second")

    notebook.session.choose_user("grace")
    notebook.run(ADD.format(name="second"))

    assert (before, returned(notebook, "second")) == (20, 10)


def test_live_writes_the_store(notebook: Notebook) -> None:
    """Under `live` each run of a cell adds to the project's store."""
    notebook.session.choose_event(an_event())
    notebook.run("%pdegress live")

    for _ in range(2):
        notebook.run(ADD.format(name="first"))

    assert returned(notebook, "first") == 20
    assert notebook.session.project.data_stores.count("totals") == 1
