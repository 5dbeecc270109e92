"""`pdkernel crash-test`: options, exit statuses and output of the command."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest

from pdkernel.annex.crash_test import MAX_POINTS
from pdkernel.cli import crash_test
from tests.cli.conftest import Shell
from tests.http_servers import AnsweringServer, serve
from tests.waiting import wait_until

CHARGE = """%%pdstep charge
import urllib.request
def handler(pd):
    request = urllib.request.Request("https://api.example.test/charges", data=b"20", method="POST", headers=HEADERS)
    return urllib.request.urlopen(request).status
"""
WITHOUT_KEY = CHARGE.replace("HEADERS", "{}")
WITH_KEY = CHARGE.replace("HEADERS", "{'Idempotency-Key': pd.steps['trigger']['context']['id']}")
LAST = "%%pdstep last\ndef handler(pd):\n    return 1\n"


@pytest.fixture
def url() -> Iterator[str]:
    """What answers the calls of steps, as a policy."""
    with serve(AnsweringServer(lambda _: (200, {}))) as server:
        yield f"stand-in={server.url}"


def test_something_that_is_done_twice(pdkernel: Shell, url: str) -> None:
    """The command names the step and what mends it, and ends with status 1."""
    pdkernel.notebook(WITHOUT_KEY, LAST)

    ended = pdkernel("crash-test", "work.ipynb", "--body", "{}", "--egress", url)

    assert ended.status == 1
    assert "charge: done twice. POST https://api.example.test/charges arrived twice" in ended.stdout
    assert "To mend it: Send the header Idempotency-Key" in ended.stdout


def test_nothing_that_is_done_twice(pdkernel: Shell, url: str) -> None:
    """With a key, the command ends with status 0; as JSON, there are all points and no finding."""
    pdkernel.notebook(WITH_KEY)

    ended = pdkernel("crash-test", "work.ipynb", "--body", "{}", "--egress", url, "--json")

    assert (ended.status, ended.json["findings"]) == (0, [])
    assert len(ended.json["points"]) > 3


def test_a_folder(pdkernel: Shell, url: str) -> None:
    """A workflow's folder is tested like its notebook, and all points are listed."""
    pdkernel.notebook(WITH_KEY)
    pdkernel("export", "work.ipynb", "--to", "work")

    ended = pdkernel("crash-test", "work", "--body", "{}", "--egress", url, "--all")

    assert ended.status == 0
    assert "nothing  before charge was recorded" in ended.stdout or "nothing  before the end" in ended.stdout


@pytest.mark.parametrize("policy", ["live", "allow=api.example.test"])
def test_real_calls_are_refused(pdkernel: Shell, policy: str) -> None:
    """A policy that sends calls for real is refused with status 2."""
    pdkernel.notebook(WITHOUT_KEY)

    ended = pdkernel("crash-test", "work.ipynb", "--body", "{}", "--egress", policy)

    assert ended.status == 2
    assert "would be sent for real" in ended.stderr


def test_calls_are_refused_by_default(pdkernel: Shell) -> None:
    """Without a policy the calls are refused, so the run fails without a crash, and the command says what can answer them."""
    pdkernel.notebook(WITHOUT_KEY)
    pdkernel.environ["PDKERNEL_EGRESS"] = ""

    ended = pdkernel("crash-test", "work.ipynb", "--body", "{}")

    assert ended.status == 2
    assert "failed under the outbound policy deny" in ended.stderr
    assert "--egress record=FILE, then --egress replay=FILE" in ended.stderr


def test_the_recording_of_the_event_answers(pdkernel: Shell, url: str) -> None:
    """The recording beside the event answers without an option."""
    pdkernel.notebook(WITH_KEY)
    (pdkernel.folder / "order.json").write_text('{"method": "POST", "body": {}}')
    (pdkernel.folder / "order.recorded.jsonl").write_text(
        '{"key": "%s", "step": "charge", "nth": 0, "request": {"method": "POST", "url": "u"}, '
        '"response": {"status": 200, "reason": "OK", "headers": [], "body": {"text": "{}"}}}\n' % ("0" * 64)
    )
    pdkernel.environ["PDKERNEL_EGRESS"] = ""

    ended = pdkernel("crash-test", "work.ipynb", "--event", "order.json")

    assert "failed under the outbound policy replay=" in ended.stderr
    assert "no such call is recorded" in ended.stderr


def test_an_interrupt_leaves_nothing(pdkernel: Shell, url: str) -> None:
    """Ctrl-C ends all processes of the test, and removes its folder."""
    pdkernel.notebook("%%pdstep wait\nimport time\ndef handler(pd):\n    time.sleep(60)\n")
    folder = pdkernel.folder / "tmp"
    folder.mkdir()
    environ = {**pdkernel.environment(), "TMPDIR": str(folder)}
    with pdkernel.fork_server.open(
        ["crash-test", "work.ipynb", "--body", "{}", "--egress", url], folder=pdkernel.folder, environ=environ
    ) as command:
        root = psutil.Process(command.pid)
        wait_until(lambda: any(folder.glob("pdkernel-run-*")))
        processes = root.children(recursive=True)
        command.send_signal(signal.SIGINT)
        command.communicate(60)

    wait_until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes))
    wait_until(lambda: not any(folder.glob("pdkernel-*")))
    assert processes != []


def test_the_limit_of_the_help() -> None:
    """The command's default limit is that of the tests."""
    assert crash_test._DEFAULT_LIMIT == MAX_POINTS
