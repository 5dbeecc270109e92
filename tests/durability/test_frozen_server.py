"""A server that is stopped for longer than the time limit of a step, as by SIGSTOP or by a machine that is suspended."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.fork_server import ForkServer
from tests.durability.server_process import LIMIT_S, ServerProcess, new_project, server_of

LIMIT = "--timeout 2"
ENDED = "select output from runs where ended is not null"


def step_of(language: str, begun: Path, *, seconds: str) -> str:
    """The cell of a step with a limit of two seconds that makes the file *begun* and takes *seconds*."""
    match language:
        case "python":
            body = f"import time\ndef handler(pd):\n    open({str(begun)!r}, 'w').close()\n    time.sleep({seconds})\n    return 'done'\n"
        case "node":
            body = (
                "import fs from 'node:fs';\nexport default defineComponent({ async run() {\n"
                f"  fs.writeFileSync({json.dumps(str(begun))}, '');\n"
                f"  await new Promise((done) => setTimeout(done, {seconds} * 1000));\n  return 'done';\n}} }});\n"
            )
        case _:
            body = f"touch {begun}\nsleep {seconds}\n"
    return f"%%pdstep slow --lang {language} {LIMIT}\n{body}"


def freeze(server: ServerProcess, begun: Path, *, whole_machine: bool) -> None:
    """Stop the server, or all its processes, while the step runs, for longer than the limit of the step."""
    ends = time.monotonic() + LIMIT_S
    while not begun.exists():
        assert time.monotonic() < ends, server.errors
        time.sleep(0.01)
    process = psutil.Process(server.pid)
    stopped = [process, *(process.children(recursive=True) if whole_machine else ())]
    for each in stopped:
        each.send_signal(signal.SIGSTOP)
    time.sleep(4)
    for each in stopped:
        each.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("language", ["python", "node", "bash"])
@pytest.mark.parametrize("whole_machine", [False, True])
def test_a_step_that_has_finished_is_not_timed_out(
    fork_server: ForkServer, tmp_path: Path, language: str, whole_machine: bool
) -> None:
    """The step finished within its limit while its reply was not read; or it was stopped itself, and finishes after that."""
    begun = tmp_path / "begun"
    with server_of(fork_server, tmp_path / "project") as server:
        new_project(server.folder, [step_of(language, begun, seconds="0.5")])
        server.start()
        server.post(server.endpoint, {})
        freeze(server, begun, whole_machine=whole_machine)

        [(output,)] = server.wait_for(ENDED)

        assert server.rows("select status from runs") == [("success",)], output


@pytest.mark.parametrize("language", ["python", "bash"])
def test_a_step_that_has_not_finished_is_timed_out(fork_server: ForkServer, tmp_path: Path, language: str) -> None:
    """A server that goes on ends a step that still runs after its limit."""
    begun = tmp_path / "begun"
    with server_of(fork_server, tmp_path / "project") as server:
        new_project(server.folder, [step_of(language, begun, seconds="600")])
        server.start()
        server.post(server.endpoint, {})
        freeze(server, begun, whole_machine=False)

        [(output,)] = server.wait_for(ENDED)

        assert "ran longer than 2 seconds" in output
