"""`pdkernel serve` of a project that is logged in to a real project, in another process."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.fork_server import ROOT, ForkServer

WORKFLOW = "%%pdworkflow\nname: Greet\ntrigger: {type: http, auth: oauth, response: custom}"
STEP = """%%pdstep answer --app slack
def handler(pd):
    account = pd.inputs["slack"]["$auth"]
    pd.respond({"status": 200, "body": {"user": pd.steps["trigger"]["event"]["headers"]["x-pd-external-user-id"],
                                        "length": len(account["oauth_access_token"])}})
"""


@dataclass
class Server:
    """A running `pdkernel serve`."""

    url: str
    endpoint: str
    said: dict[str, Any]
    environ: dict[str, str]
    folder: Path
    fork_server: ForkServer
    pid: int = 0
    log: Path = Path()

    def run(self, *words: str) -> str:
        """Run a command of the same project."""
        done = self.fork_server.run(words, folder=self.folder, environ=self.environ)
        done.check_returncode()
        return done.stdout


@contextmanager
def serving(fork_server: ForkServer, folder: Path, *sources: str, **environ: str) -> Iterator[Server]:
    """`pdkernel serve` in *folder*, until the block ends."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), **environ}
    with tempfile.NamedTemporaryFile("w+", dir=folder, suffix=".log", delete=False) as log:
        args = ("serve", *sources, "--port", "0", "--json")
        process = fork_server.open(args, folder=folder, environ=env, stderr=log.fileno())
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, Path(log.name).read_text()
        said = json.loads(line)
        endpoint = said["workflows"][0]["url"] if said["workflows"] else ""
        yield Server(said["url"], endpoint, said, env, folder, fork_server, process.pid, Path(log.name))
    finally:
        process.terminate()
        process.communicate(timeout=30)
