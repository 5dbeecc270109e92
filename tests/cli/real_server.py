"""`pdkernel serve` of a project that is logged in to a real project, in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.conftest import ROOT

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
    pid: int = 0
    log: Path = Path()

    def run(self, *words: str) -> str:
        """Run a command of the same project."""
        done = subprocess.run(
            [sys.executable, "-m", "pdkernel", *words],
            cwd=self.folder, env=self.environ, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout


@contextmanager
def serving(folder: Path, *sources: str, **environ: str) -> Iterator[Server]:
    """`pdkernel serve` in *folder*, until the block ends."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), **environ}
    with tempfile.NamedTemporaryFile("w+", dir=folder, suffix=".log", delete=False) as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pdkernel", "serve", *sources, "--port", "0", "--json"],
            cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, Path(log.name).read_text()
        said = json.loads(line)
        endpoint = said["workflows"][0]["url"] if said["workflows"] else ""
        yield Server(said["url"], endpoint, said, env, folder, process.pid, Path(log.name))
    finally:
        process.terminate()
        process.communicate(timeout=30)
