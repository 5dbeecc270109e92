"""
Workflows over HTTP: one caller, sixteen callers, and the time from the command to the first answer.

The workflow has three steps (Python, Node.js, Python), OAuth on its trigger, an account of the external user and a
custom response. Each request is a complete run with its record. A bare Starlette echo on the same server, and the
same run without HTTP, show the server's share.

Prints figures and ratios of one run. `python tests/benchmarks/bench_serve.py`
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.files.source import load_source
from pdkernel.storage import Project
from tests.builders import an_event
from tests.notebook_files import notebook_of

CALLS = 600
WARM_UP_CALLS = 350
"""Calls that are not counted: the interpreters of the server and the workers adapt to their code in about 300."""
CLIENTS = 16
CALLS_EACH = 100
WORKFLOW = "%%pdworkflow\nname: Bench\ntrigger:\n  type: http\n  auth: oauth\n  response: custom\n"
STEPS = (
    "%%pdstep one --app slack\ndef handler(pd):\n    return pd.inputs['slack']['$auth']['oauth_access_token'][:4]\n",
    "%%pdstep two --lang node\nexport default defineComponent({ async run({ steps }) { return steps.one.$return_value.length } })\n",
    "%%pdstep three\ndef handler(pd):\n    pd.respond({'status': 200, 'body': {'ok': pd.steps['two']['$return_value']}})\n",
)
ECHO = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
async def echo(request):
    return JSONResponse(await request.json())
app = Starlette(routes=[Route("/{path:path}", echo, methods=["POST"])])
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)
"""


class Caller:
    """A client with a persistent connection."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port)
        self._path = parts.path
        self._headers = {"content-type": "application/json", **headers}

    def call(self) -> float:
        """Send one request; return the milliseconds until its response was read."""
        began = time.perf_counter()
        self._connection.request("POST", self._path, b'{"name":"Ada"}', self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return (time.perf_counter() - began) * 1000


def p50(url: str, headers: dict[str, str]) -> float:
    """The median time of sequential calls in ms."""
    caller = Caller(url, headers)
    times = [caller.call() for _ in range(CALLS)]
    return statistics.median(times[WARM_UP_CALLS:])


def together(url: str, headers: dict[str, str], calls_each: int, clients: int = CLIENTS) -> float:
    """The calls per second that are answered for *clients* at once."""

    def work() -> None:
        caller = Caller(url, headers)
        for _ in range(calls_each):
            caller.call()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients * calls_each / (time.perf_counter() - began)


@contextmanager
def served(folder: Path, notebook: Path) -> Iterator[tuple[dict[str, object], float]]:
    """`pdkernel serve` in its own process: its output, and the seconds until its first answer."""
    environ = {**os.environ, "PDKERNEL_EGRESS": "deny"}
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "pdkernel", "serve", str(notebook), "--port", "0", "--json"],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        said = json.loads(process.stdout.readline())
        parts = urlsplit(said["url"])
        assert parts.hostname
        connection = http.client.HTTPConnection(parts.hostname, parts.port)
        connection.request("GET", "/-/ready")
        assert connection.getresponse().status == 200
        took = time.perf_counter() - began
        try:
            yield said, took
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def echoing() -> Iterator[str]:
    """A bare Starlette echo server in its own process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([sys.executable, "-c", ECHO, str(port)]) as process:
        url = f"http://127.0.0.1:{port}/echo"
        for _ in range(200):
            try:
                Caller(url, {}).call()
                break
            except OSError:
                time.sleep(0.05)
        try:
            yield url
        finally:
            process.terminate()


async def without_http(project: Project, notebook: Path) -> float:
    """The median time of the same run in this process, in ms."""
    source = load_source(notebook)
    directory = LocalDirectory(project)
    request = RunRequest(
        source.workflow, an_event(), parse_policy("deny"), external_user_id="ada", folder=notebook.parent, test=False
    )
    times = []
    async with await WorkflowEngine.start(project, directory) as runtime:
        for _ in range(CALLS):
            began = time.perf_counter()
            execution = await runtime.run(replace(request))
            times.append((time.perf_counter() - began) * 1000)
            assert execution.status == "success", execution.error
    return statistics.median(times[WARM_UP_CALLS:])


async def complete(project: Project) -> tuple[int, int]:
    """The numbers of complete runs and of all runs in the reopened database."""
    async with await WorkflowEngine.start(project, LocalDirectory(project)) as runtime:
        kept = await runtime.journal.list_executions(limit=100_000)
    whole = sum(
        each.status == "success" and len(each.steps) == 3 and all(step.status == "success" for step in each.steps)
        for each in kept
    )
    return whole, len(kept)


def main() -> None:
    """Measure and print the figures."""
    # where people's projects are: in one below /tmp, steps have no /tmp of their own
    with tempfile.TemporaryDirectory(prefix="pdkernel-bench-", dir=Path.home()) as place:
        folder = Path(place)
        notebook = folder / "bench.ipynb"
        notebook_of(notebook, WORKFLOW, *STEPS)
        with Project.open(folder / ".pdkernel") as project:
            LocalDirectory(project).add_account(
                app="slack", credentials={"oauth_access_token": "xoxb-0123456789"}, external_user_id="ada"
            )
            token = project.access_tokens.issue(project.oauth_clients.create("bench").client.id, ("*",))
        headers = {"authorization": f"Bearer {token}", "x-pd-external-user-id": "ada"}
        with served(folder, notebook) as (said, start_s):
            workflows = said["workflows"]
            assert isinstance(workflows, list)
            url = workflows[0]["url"]
            one = p50(url, headers)
            together(url, headers, 20)
            many = together(url, headers, CALLS_EACH)
        with echoing() as echo:
            bare = p50(echo, headers)
        with Project.open(folder / ".pdkernel") as project:
            whole, kept = asyncio.run(complete(project))
            inside = asyncio.run(without_http(project, notebook))
    asked = CALLS + CLIENTS * (20 + CALLS_EACH)
    print(f"three warm steps over HTTP, OAuth     {one:7.2f} ms   (goal p50 <= 6)")
    print(f"the same run without HTTP             {inside:7.2f} ms")
    print(f"a bare Starlette echo                 {bare:7.2f} ms")
    print(f"the server's own share                {one - inside - bare:7.2f} ms   over run and echo")
    print(f"{CLIENTS} clients                            {many:7.0f} runs/s   (goal >= 400)")
    print(f"from the command to its first answer  {start_s * 1000:7.0f} ms   (goal <= 1000)")
    print(f"complete in the reopened database     {whole} of {kept}, {asked} were asked for")


if __name__ == "__main__":
    main()
