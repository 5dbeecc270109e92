"""`%pdserve`, in a real IPython shell."""

from __future__ import annotations

import re
import time

import httpx

from tests.magics.conftest import Notebook, Run

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
    until = time.monotonic() + 20
    while "The test event is now request" not in (used := run("%pdserve use")) and time.monotonic() < until:
        time.sleep(0.02)  # the response of the platform comes before the record of the run
    event = run("print(event.data['body'])")
    stopped = run("%pdserve stop")

    assert answer.status_code == 200
    assert "The test event is now request" in used
    assert "{'n': 1}" in event
    assert "no longer served" in stopped
    assert "is not served" in run("%pdserve stop")


def test_python_cells_know_the_url(notebook: Notebook, run: Run) -> None:
    """A plain cell can call the draft by the variable `endpoint`."""
    run(ANSWER)
    url = url_in(run("%pdserve"))

    assert run("print(endpoint)").strip() == url

    run("%pdserve stop")


def test_unknown_word(notebook: Notebook, run: Run) -> None:
    """An unknown word is refused with the known words."""
    assert "%pdserve stop" in run("%pdserve sometimes")
