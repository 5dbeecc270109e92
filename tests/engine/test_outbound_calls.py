"""Outbound calls in whole runs: programs that bypass the gateway, and refused and failed calls."""

from __future__ import annotations

import pytest

from pdkernel.egress import detect_sandbox
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import OutboundEnforcement
from tests.builders import bash_step, node_step, python_step
from tests.engine.conftest import Run

UNREACHABLE = {
    "node": node_step("call", "await fetch('http://nowhere.invalid/things');"),
    "python": python_step("call", "import urllib.request; urllib.request.urlopen('http://nowhere.invalid/things')"),
}

AROUND = {
    "bash": bash_step(
        "call",
        "env -i bash -c 'exec 3<>/dev/tcp/192.0.2.7/81; echo never >&3; cat <&3'; echo out=$? >> $PIPEDREAM_EXPORTS",
    ),
    "python": python_step(
        "call",
        "import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', "
        '\'import socket; s = socket.create_connection(("192.0.2.7", 81), 5); s.sendall(b"never"); s.recv(1)\'], env={})',
    ),
}


@pytest.mark.skipif(detect_sandbox() != "redirect", reason="this system has no seccomp listener for us")
@pytest.mark.parametrize("language", AROUND)
async def test_call_of_a_bypassing_program_is_recorded(run: Run, language: str) -> None:
    """A program that ignores the proxy variables is redirected to the gateway, and the record has its call."""
    done = await run(AROUND[language])

    calls = done.step("call").requests
    assert [(call.url, call.outcome, call.step) for call in calls] == [("tcp://192.0.2.7:81", "denied", "call")]


async def test_record_has_the_guard(run: Run, runtime: WorkflowEngine) -> None:
    """The record of a run that was not live has the mode and the guard."""
    done = await run(python_step("one"))

    kept = await runtime.journal.get_execution(done.id)

    assert kept is not None
    assert kept.outbound_enforcement == done.outbound_enforcement == OutboundEnforcement("deny", detect_sandbox())


async def test_live_run_has_no_guard(run: Run) -> None:
    """The record of a live run has no guard."""
    done = await run(python_step("one"), egress="live")

    assert done.outbound_enforcement is None


async def test_error_after_a_refused_call_names_the_refusal(run: Run) -> None:
    """An error after a refused call names the refusal, not only the client's "403: Forbidden"."""
    step = python_step("call", "import urllib.request; urllib.request.urlopen('http://api.example.com/v1/things')")

    done = await run(step)

    error = done.step("call").error
    assert error is not None
    assert error.name.endswith("HTTPError")
    assert "GET http://api.example.com/v1/things was not sent: the mode for outbound calls is deny." in error.message


@pytest.mark.parametrize("language", UNREACHABLE)
async def test_unreachable_host_fails_the_step(run: Run, language: str) -> None:
    """A step that does not catch its client's error fails; the error and the call name the host and the cause."""
    done = await run(UNREACHABLE[language], egress="live")

    error, (call,) = done.step("call").error, done.step("call").requests
    assert done.status == "error"
    assert error is not None
    assert "GET http://nowhere.invalid/things got no response: nowhere.invalid " in error.message
    assert (call.outcome, call.status) == ("failed", None)
    assert (call.note or "").startswith("no response: nowhere.invalid ")


async def test_curl_fails_for_an_unreachable_host(run: Run) -> None:
    """Curl exits with the status of a failed connection, which does not fail a Bash step, as on the platform."""
    code = "curl -sS https://nowhere.invalid/things\necho status=$? >> $PIPEDREAM_EXPORTS"

    done = await run(bash_step("call", code), egress="live")

    assert done.step("call").exports["status"] != "0"
    assert (done.step("call").requests[0].note or "").startswith("no response: nowhere.invalid ")


async def test_caught_error_of_a_call_does_not_fail_the_step(run: Run) -> None:
    """A step that catches the error of a failed call does not fail; the record has the call."""
    code = """
import urllib.request
try:
    urllib.request.urlopen("https://nowhere.invalid/things")
except urllib.error.URLError as error:
    return str(error.reason)
"""
    done = await run(python_step("call", code), egress="live")

    assert done.status == "success"
    assert "nowhere.invalid" in str(done.step("call").exports["$return_value"])
    assert [call.outcome for call in done.step("call").requests] == ["failed"]


async def test_failed_call_of_an_earlier_step_is_not_named(run: Run) -> None:
    """An error after a failed call of an earlier step does not name that call."""
    caught = (
        "import urllib.request\ntry:\n    urllib.request.urlopen('http://nowhere.invalid/')\nexcept OSError:\n    pass"
    )
    done = await run(python_step("call", caught), python_step("after", "raise ValueError('mine')"), egress="live")

    error = done.step("after").error
    assert error is not None
    assert error.message == "mine"
