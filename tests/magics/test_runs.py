"""`%pdruns` in a notebook."""

from __future__ import annotations

from dataclasses import replace

import pytest
from IPython.utils.capture import capture_output

from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.operations.run_history import get_run
from pdkernel.operations.run_replay import prepare_replay, start_replay
from tests.builders import an_event
from tests.magics.conftest import CHECK, Notebook, Run

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


def test_selected_runs_run_in_their_order(ran: Notebook) -> None:
    """The oldest of the selected runs is replayed first."""
    older = newest(ran)
    ran.session.choose_event(an_event({"name": "Grace"}), "grace")
    ran.run("%pdrun")
    newer = newest(ran)

    shown = ran.run("%pdruns replay --since 1h --yes")

    assert shown.index(f"replay of {older}") < shown.index(f"replay of {newer}")


@pytest.mark.parametrize(("option", "sent"), [("", 0), ("--send", 1)])
def test_selected_runs_send_their_calls_on_request(notebook: Notebook, option: str, sent: int) -> None:
    """A replay of selected runs sends a call of the runs again only with `--send`."""
    notebook.run("%pdevent hello")
    notebook.run(
        "%%pdstep say --no-run\nimport urllib.request\ndef handler(pd):\n"
        "    return urllib.request.urlopen('https://slack.com/api/chat.postMessage', data=b'{}').status\n"
    )
    notebook.run("%pdrun")

    notebook.run(f"%pdruns replay --since 1h --yes {option}")

    run_id = newest(notebook)
    replayed = notebook.session.call_engine(lambda _: get_run(notebook.session.project, run_id))
    assert replayed.replay_of is not None
    assert [call.outcome for call in replayed.step("say").requests].count("stand_in") == sent


def test_every_selected_run_runs_before_a_failure_is_raised(ran: Notebook) -> None:
    """A failed replay does not keep the other selected runs from running; the cell fails at the end."""
    ran.run(GREET.replace('return "Hello, "', "1 / 0\n    return "))
    ran.run("%pdrun")
    ran.run("%pdruns replay --since 1h --yes")

    assert ran.error is not None
    assert list(ran.shell.run_line_magic("pdruns", "--frame")["status"]) == ["error", "error", "error", "success"]


def test_the_event_of_a_run_is_taken_over(ran: Notebook) -> None:
    """`--event` chooses the run's redacted event and user, gives its exports to the cells, and refuses outbound calls."""
    run_id = newest(ran)
    ran.run("%pduser --clear")
    ran.run("%pdevent --save other")
    shown = ran.run(f"%pdruns {run_id} --event")
    session = ran.session

    assert session.event_name == f"run {run_id}"
    assert session.external_user_id == "ada"
    assert session.egress == "deny"
    assert session.stale_steps == set()
    assert "The cells have the exports of check, greet." in shown
    assert "Hello, Ada" in ran.run("%pdrun greet")


def test_a_run_is_replayed_for_another_user(ran: Notebook) -> None:
    """A replay is for the user of the run, or for the one that the line names."""
    run_id = newest(ran)

    ran.run(f"%pdruns replay {run_id}")
    ran.run(f"%pdruns replay {run_id} --external-user grace")

    assert list(ran.shell.run_line_magic("pdruns", "--frame")["external_user"]) == ["grace", "ada", "ada"]


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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a b", "More than one run is named."),
        ("--event", "The run whose event is taken over is not named."),
        ("fork a", "The first step is missing."),
        ("resume", "Exactly one run must be named."),
    ],
)
def test_an_incomplete_line_is_refused(run: Run, line: str, message: str) -> None:
    """A line that names no run, several runs or no step is refused with the reason."""
    assert message in run(f"%pdruns {line}")


def _pause(notebook: Notebook) -> str:
    """The id of a new paused run: a replay of a run of the terminal, whose pauses end the command."""
    run_id = newest(notebook)

    async def park(engine: WorkflowEngine) -> str:
        prepared = await prepare_replay(engine, run_id)
        parked = replace(prepared, request=replace(prepared.request, pause_mode="park"))
        return (await start_replay(engine, parked)).id

    return notebook.session.call_engine(park)
