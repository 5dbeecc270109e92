"""A server that is stopped for longer than the time limit of a step, as by SIGSTOP or by a machine that is suspended."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.cli.fork_server import ForkServer
from tests.durability.server_process import ENDED, ServerProcess, new_project, server_of

LIMIT = "--timeout 2"


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


def freeze(server: ServerProcess, begun: Sequence[Path], *, whole_machine: bool) -> None:
    """Stop the server, or all its processes, while the steps run, for longer than the limit of the steps."""
    server.wait_until(lambda: all(each.exists() for each in begun))
    process = psutil.Process(server.pid)
    stopped = [process, *(process.children(recursive=True) if whole_machine else ())]
    for each in stopped:
        each.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    for each in stopped:
        each.send_signal(signal.SIGCONT)


def run_frozen(
    fork_server: ForkServer, folder: Path, languages: Sequence[str], *, seconds: str, whole_machine: bool = False
) -> list[tuple[str, str]]:
    """The status and the output of a run for each language, whose step takes *seconds*, and whose server is frozen meanwhile."""
    begun = [folder / f"begun-{language}" for language in languages]
    with server_of(fork_server, folder / "project") as server:
        cells = {
            language: [step_of(language, file, seconds=seconds)]
            for language, file in zip(languages, begun, strict=True)
        }
        new_project(server.folder, ["%%pdstep none\ndef handler(pd): pass"], token=None, **cells)
        server.more = tuple(f"{language}.ipynb" for language in languages)
        server.start()
        for language in languages:
            assert server.post(server.urls[language], {}).is_accepted
        freeze(server, begun, whole_machine=whole_machine)
        server.wait_for(ENDED)
        return server.rows("select status, output from runs")


@pytest.mark.parametrize("whole_machine", [False, True])
def test_a_step_that_has_finished_is_not_timed_out(
    fork_server: ForkServer, tmp_path: Path, whole_machine: bool
) -> None:
    """The step finished within its limit while its reply was not read; or it was stopped itself, and finishes after that."""
    languages = ("python", "node", "bash")
    ended = run_frozen(fork_server, tmp_path, languages, seconds="0.5", whole_machine=whole_machine)

    assert [status for status, _ in ended] == ["success"] * len(languages), ended


def test_a_step_that_has_not_finished_is_timed_out(fork_server: ForkServer, tmp_path: Path) -> None:
    """A server that goes on ends a step that still runs after its limit."""
    ended = run_frozen(fork_server, tmp_path, ("python", "bash"), seconds="600")

    assert ["ran longer than 2 seconds" in output for _, output in ended] == [True, True]
