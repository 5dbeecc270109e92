"""`%pdserve` and `%pdinvoke`, in a real IPython shell."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from IPython.utils.capture import capture_output

from pdkernel.event import Event
from pdkernel.kit.magics.serve import MAX_LISTED_REQUESTS, RequestListOutput, _build_call
from pdkernel.model import JSON
from pdkernel.operations.invocation import ClientCredentials
from tests.builders import an_event
from tests.kit.magics.conftest import Notebook, Run, await_drawings
from tests.waiting import wait_until

ANSWER = "%%pdstep answer\ndef handler(pd):\n    return 1\n"


def url_in(shown: str) -> str:
    """The URL that a cell shows."""
    found = re.search(r"http://127\.0\.0\.1:\d+/\w+", shown)
    assert found, shown
    return found[0]


def test_serve_use_and_stop(notebook: Notebook, run: Run) -> None:
    """The draft answers at the URL that cells know, a request's event can be chosen, and stop ends the server."""
    run(ANSWER)
    url = url_in(run("%pdserve"))
    known = run("print(endpoint)").strip()
    answer = httpx.post(url, json={"n": 1}, timeout=60)
    # the response of the platform comes before the record of the run
    wait_until(lambda: "The test event is now request" in run("%pdserve use"))
    event = run("print(event.data['body'])")
    stopped = run("%pdserve stop")

    assert answer.status_code == 200
    assert known == url
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
    await_drawings()
    with capture_output() as captured:
        requests = RequestListOutput(notebook.session)
        requests.display_at("http://127.0.0.1:1/x")
        for number in range(MAX_LISTED_REQUESTS + 1):
            started = f"2026-01-01T00:00:00.{number:03}Z"
            requests.update(msgspec.structs.replace(first, id=f"run-{number}", started_at=started))
        for number in (1, 0):  # the end of a run that is listed, and of the one that left the list
            started = f"2026-01-01T00:00:00.{number:03}Z"
            requests.update(msgspec.structs.replace(first, id=f"run-{number}", started_at=started))
        await_drawings()  # after the drawings that the requests have scheduled

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
    await_drawings()
    with capture_output() as captured:
        requests = RequestListOutput(notebook.session)
        requests.display_at("http://127.0.0.1:1/x")
        requests.update(first)
        requests.flush()
        drawn = ["answer" in str(each.data) for each in captured.outputs]
        requests.flush()
        await_drawings()  # after the drawing that the request has scheduled

    assert drawn[:4] == [False, False, False, True]
    assert len(captured.outputs) == 6


HEADER = "%%pdworkflow\nname: Echo\ntrigger:\n  type: http\n  response: custom\n"
STEP = (
    "%%pdstep answer --app slack\ndef handler(pd):\n"
    "    event = pd.steps['trigger']['event']\n"
    "    pd.respond({'status': 200, 'body': [event['headers']['x-pd-external-user-id'], event['body']]})\n"
)


@pytest.fixture
def served(notebook: Notebook, run: Run) -> Notebook:
    """A notebook with a served draft, ada chosen with the required account, and an event."""
    notebook.session.directory.add_account(
        app="slack", credentials={"oauth_access_token": "a-token-of-a-test"}, external_user_id="ada"
    )
    for cell in (HEADER, STEP, "%pduser ada", "%pdevent hello", "%pdserve"):
        run(cell)
    return notebook


def test_the_chosen_event_and_user_are_sent(served: Notebook) -> None:
    """The event's body arrives as JSON, for the chosen external user."""
    shown = served.run("%pdinvoke")

    assert served.error is None
    answer = shown[shown.index("200 OK") :]  # before and after it, the output of the serving cell is updated
    assert json.JSONDecoder().raw_decode(answer.split("\n\n", 1)[1])[0] == ["ada", {"name": "Ada"}]


def test_a_refusal_is_shown_and_stops_run_all(served: Notebook, run: Run) -> None:
    """The response for a user without an account is shown, and the cell fails."""
    run("%pduser grace")

    shown = served.run("%pdinvoke")

    assert "No matching external user ID: grace in development" in shown
    assert "The endpoint answered 400" in str(served.error)


def test_a_missing_client_is_reported_with_a_fix(served: Notebook, run: Run) -> None:
    """If an endpoint requires a token, the error names the variables for the OAuth client."""
    for cell in (f"{HEADER.strip()}\n  auth: oauth\n", "%pdserve"):
        run(cell)

    served.run("%pdinvoke")

    assert "401 Unauthorized. No token was sent: set PDKERNEL_CLIENT_ID and PDKERNEL_CLIENT_SECRET." in str(
        served.error
    )


def test_the_client_is_that_of_the_environment(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call has the token of the OAuth client that variables name, of the token endpoint that they name."""
    monkeypatch.setenv("PDKERNEL_CLIENT_ID", "client-of-a-test")
    monkeypatch.setenv("PDKERNEL_CLIENT_SECRET", "secret-of-a-test")
    monkeypatch.setenv("PDKERNEL_TOKEN_URL", "https://tokens.example.test/")

    call = _build_call(notebook.session, "https://hooks.example.test/in")

    assert call.client == ClientCredentials("client-of-a-test", "secret-of-a-test", "https://tokens.example.test/")


def answer_a_patient_caller(server: socket.socket) -> None:
    """Answer one request if its caller still waits after 20 seconds."""
    connection, _ = server.accept()
    with connection, suppress(ConnectionError):
        connection.settimeout(20)
        try:
            while connection.recv(65_536):
                pass
        except TimeoutError:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def test_a_time_limit_ends_the_call(notebook: Notebook) -> None:
    """`--timeout` limits the wait for an endpoint that accepts a request and answers late."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:
        answered = thread.submit(answer_a_patient_caller, server)
        shown = notebook.run(f"%pdinvoke http://127.0.0.1:{server.getsockname()[1]}/eo1 --timeout 0.1")
        answered.result()

    assert "did not respond in time." in shown


def test_an_endpoint_with_its_own_token(served: Notebook) -> None:
    """The draft's token is sent only to the draft; snippets read the token from the environment."""
    served.session.project.variables.set("OWN", "a-token-of-the-draft")
    served.run(HEADER.replace("http\n", "http\n  auth: bearer\n  token_env: OWN\n"))

    shown = served.run("%pdinvoke")
    assert served.error is None
    snippets = served.run("%pdinvoke --snippets")
    elsewhere = served.run(f"%pdinvoke {str(served.session.server.local_url).replace('127.0.0.1', 'localhost')}")

    assert "200 OK" in shown
    assert 'Authorization: Bearer $WORKFLOW_TOKEN"' in snippets
    assert "401" in elsewhere
    assert "a-token-of-the-draft" not in shown + snippets + elsewhere


def test_the_chosen_events_method_and_query_are_in_the_snippets(served: Notebook) -> None:
    """A GET without a body is sent without a body and with the whole query."""
    served.session.choose_event(Event({"method": "GET", "query": {"n": ["1", "2"], "q": "a b"}}))

    shown = served.run("%pdinvoke --snippets")

    assert re.search(r"curl -fsS -X GET '[^']+\?n=1&n=2&q=a\+b'", shown)
    assert "--data-binary" not in shown


def test_the_chosen_events_path_is_called(served: Notebook) -> None:
    """A path below the endpoint is part of the call and of the programs; the SDK that would change the path has an explanation."""
    served.run(STEP.replace("event['body']", "event['path']"))
    served.session.choose_event(Event({"method": "POST", "path": "/Orders/a b?", "body": {"name": "Ada"}}))

    shown = served.run("%pdinvoke")
    snippets = served.run("%pdinvoke --snippets")

    assert "/Orders/a b?" in shown[shown.index("200 OK") :]
    assert re.search(r"curl -fsS -X POST \S+/Orders/a%20b%3F", snippets)
    assert snippets.count("this SDK changes the path to lower case") == 1
    slashed = served.run(f"%pdinvoke {served.session.server.local_url}/ --snippets")
    assert "//Orders" not in slashed
    assert "/Orders/a%20b%3F" in slashed


def test_snippets_have_the_required_fields(served: Notebook) -> None:
    """The programs are for the chosen user; their body has the required fields that the chosen event lacks, and keeps its own."""
    served.run(
        "%%pdstep greet\ndef handler(pd):\n    body = pd.steps['trigger']['event']['body']\n"
        "    return [body['user']['email'], body['user']['name'], body['name'], body.get('note')]\n"
    )
    served.session.choose_event(an_event({"name": "Ada", "user": {"name": "Grace"}}))

    shown = served.run("%pdinvoke --snippets")

    assert '"user": {"name": "Grace", "email": "ada@example.com"}' in shown
    assert '"name": "Ada"' in shown
    assert "note" not in shown
    assert "X-PD-External-User-ID: ada" in shown


def test_snippets_of_a_broken_draft_have_the_event(notebook: Notebook, run: Run) -> None:
    """The programs for another endpoint have the chosen event's body, if the notebook's workflow cannot be read; they need a user."""
    notebook.session.choose_event(an_event({"name": "Ada"}))
    refused = run("%pdinvoke https://hooks.example.test/in --snippets")
    run("%pduser ada")
    run("%%pdworkflow\nsettings: {share_workers: [}\n")

    shown = run("%pdinvoke https://hooks.example.test/in --snippets")

    assert "%pduser" in refused
    assert '{"name": "Ada"}' in shown


def test_an_authority_that_cannot_be_read_is_an_error(served: Notebook) -> None:
    """The file of `--ca-file` is read before the call."""
    served.run("%pdinvoke --ca-file nowhere.pem")

    assert "nowhere.pem" in str(served.error)


def test_a_call_has_the_choices_of_the_notebook(notebook: Notebook) -> None:
    """Path, query, method and body are those of the event, with the chosen user and environment, and no token for others."""
    session = notebook.session
    session.choose_user("ada", "production")
    event: dict[str, JSON] = {
        "method": "put",
        "path": "/50%25 off",
        "query": {"n": ["1", "2"], "q": "a"},
        "body": {"name": "Ada"},
    }
    session.choose_event(Event(event))

    call = _build_call(session, "https://hooks.example.test/in")

    assert call.url == "https://hooks.example.test/in/50%2525%20off"
    assert (call.external_user_id, call.environment, call.method) == ("ada", "production", "PUT")
    assert (call.query, call.body, call.bearer) == ([("n", "1"), ("n", "2"), ("q", "a")], {"name": "Ada"}, None)
