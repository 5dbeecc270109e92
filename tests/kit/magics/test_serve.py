"""`%pdserve`, in a real IPython shell."""

from __future__ import annotations

import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from IPython.utils.capture import capture_output

from pdkernel.kit.magics import output
from pdkernel.kit.magics.serve import MAX_LISTED_REQUESTS, RequestListOutput
from tests.kit.magics.conftest import Notebook, Run

ANSWER = "%%pdstep answer\ndef handler(pd):\n    return 1\n"


def url_in(shown: str) -> str:
    """The URL that a cell shows."""
    found = re.search(r"http://127\.0\.0\.1:\d+/\w+", shown)
    assert found, shown
    return found[0]


def test_serve_use_and_stop(notebook: Notebook, run: Run) -> None:
    """The draft answers, a request's event can be chosen, and stop ends the server."""
    run(ANSWER)
    url = url_in(run("%pdserve"))
    answer = httpx.post(url, json={"n": 1}, timeout=60)
    until = time.monotonic() + 60
    while "The test event is now request" not in (used := run("%pdserve use")) and time.monotonic() < until:
        time.sleep(0.02)  # the response of the platform comes before the record of the run
    event = run("print(event.data['body'])")
    stopped = run("%pdserve stop")

    assert answer.status_code == 200
    assert "The test event is now request" in used
    assert "{'n': 1}" in event
    assert "no longer served" in stopped
    assert "is not served" in run("%pdserve stop")


def test_the_console_in_a_terminal(notebook: Notebook, run: Run) -> None:
    """Without a front end the line shows a link to log in, or the line that serves the draft."""
    run(ANSWER)
    missing = run("%pdserve console")
    url = url_in(run("%pdserve"))
    link = run("%pdserve console")

    run("%pdserve stop")
    assert "%pdserve" in missing
    port = urlsplit(url).port
    assert re.search(rf"http://console-\w{{26}}\.localhost:{port}/-/login\?code=(\w{{4}}-){{3}}\w{{4}} ", link)


def test_only_the_latest_output_is_shown_after_a_cell(notebook: Notebook, run: Run) -> None:
    """After another start of the server, the output of the earlier one is not drawn at the end of each cell."""
    run(ANSWER)
    for _ in range(2):
        run("%pdserve")
        run("%pdserve stop")

    called = [getattr(each, "__self__", None) for each in notebook.shell.events.callbacks["post_run_cell"]]
    assert len([each for each in called if isinstance(each, RequestListOutput)]) == 1


def test_python_cells_know_the_url(notebook: Notebook, run: Run) -> None:
    """A plain cell can call the draft by the variable `endpoint`."""
    run(ANSWER)
    url = url_in(run("%pdserve"))

    assert run("print(endpoint)").strip() == url

    run("%pdserve stop")


def test_requests_run_the_screen_or_say_so(notebook: Notebook, run: Run) -> None:
    """A request runs the edited code, and the output names the step; for code with an error, it names what runs."""
    run("%pdevent hello")
    run(ANSWER)
    url = url_in(run("%pdserve"))

    header = "%%pdworkflow\ntrigger:\n  type: http\n  response: custom\n"
    edited = notebook.show(header, ANSWER.replace("return 1", 'return pd.respond({"status": 202})'))
    answered = httpx.post(url, json={}, timeout=60).status_code
    misspelt = notebook.show(header.replace("trigger", "triger"), ANSWER)
    broken = notebook.show(header, ANSWER, ANSWER)
    served = httpx.post(url, json={}, timeout=60).status_code
    run("%pdserve stop")

    assert "Edited, not run: answer. The code on the screen counts." in edited
    assert all("A request runs the workflow as it was before this error: " in shown for shown in (misspelt, broken))
    assert "unknown key 'triger'" in misspelt
    assert "both called 'answer'" in broken
    assert (answered, served) == (202, 202)


def test_an_account_without_an_owner_leaves_the_draft_served(
    notebook: Notebook, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the owner of an account is not set any more, requests run the workflow as it was, and the output has the reason."""
    monkeypatch.setenv("PDKERNEL_NOTEBOOK", str(tmp_path / "work.ipynb"))
    run(ANSWER)
    url = url_in(run("%pdserve"))

    (tmp_path / "work.pdkernel.yaml").write_text("steps:\n  answer:\n    accounts:\n      slack: unanswered\n")
    shown = notebook.show(ANSWER)
    answered = httpx.post(url, json={}, timeout=60).status_code
    run("%pdserve stop")

    assert "A request runs the workflow as it was before this error: " in shown
    assert "the owner of the account is not set" in shown
    assert answered == 200


def test_the_output_follows_the_requests(notebook: Notebook, run: Run) -> None:
    """The list and the latest run are drawn again in their places; the oldest run leaves a full list."""
    run(ANSWER)
    run("%pdevent hello")
    first = notebook.session.run()
    with capture_output() as captured:
        requests = RequestListOutput(notebook.session)
        requests.display_at("http://127.0.0.1:1/x")
        for number in range(MAX_LISTED_REQUESTS + 1):
            started = f"2026-01-01T00:00:00.{number:03}Z"
            requests.update(msgspec.structs.replace(first, id=f"run-{number}", started_at=started))
        for number in (1, 0):  # the end of a run that is listed, and of the one that left the list
            started = f"2026-01-01T00:00:00.{number:03}Z"
            requests.update(msgspec.structs.replace(first, id=f"run-{number}", started_at=started))
        output._DRAW_EXECUTOR.submit(lambda: None).result(60)  # after the drawings that the requests have scheduled

    texts = [str(each.data["text/plain"]) for each in captured.outputs]
    places = [each.transient["display_id"] for each in captured.outputs]
    assert texts[0].strip() == "The draft is served at http://127.0.0.1:1/x\nTo stop the server: %pdserve stop"
    assert "No request has arrived yet." in texts[1]
    assert places == places[:2] * (len(places) // 2)
    listed = texts[-2].strip().split("\n")
    assert [line.rpartition(" ")[2] for line in listed[2:-1]] == [
        f"run-{number}" for number in range(1, MAX_LISTED_REQUESTS + 1)
    ]
    assert listed[-1].endswith(f"for example %pdserve use run-{MAX_LISTED_REQUESTS}")
    assert "answer" in texts[-1]


def test_requests_are_drawn_at_the_end_of_a_cell(notebook: Notebook, run: Run) -> None:
    """The end of a cell draws a request that arrived during the cell at once, and nothing if none has arrived."""
    run(ANSWER)
    run("%pdevent hello")
    first = notebook.session.run()
    with capture_output() as captured:
        requests = RequestListOutput(notebook.session)
        requests.display_at("http://127.0.0.1:1/x")
        requests.update(first)
        requests.flush()
        drawn = ["answer" in str(each.data) for each in captured.outputs]
        requests.flush()
        output._DRAW_EXECUTOR.submit(lambda: None).result(60)  # after the drawing that the request has scheduled

    assert drawn[:4] == [False, False, False, True]
    assert len(captured.outputs) == 6


def test_unknown_word(notebook: Notebook, run: Run) -> None:
    """An unknown word is refused with the known words."""
    assert "%pdserve stop" in run("%pdserve sometimes")
