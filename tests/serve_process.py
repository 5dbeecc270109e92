"""`pdkernel serve` in its own process, forked from one that has its modules."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pdkernel.common.blocking import FORBID_VARIABLE
from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from tests.cli.fork_server import ForkedCommand, shared_server

ROOT = Path(__file__).parents[1]
_OURS = ("PDKERNEL_", "PIPEDREAM_", "PYTEST_")


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Start a server of the project in *folder* on a free port; yield its JSON line and its log."""
    log = folder / f"serve{''.join(word for word in words if word.startswith('--'))}.log"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    step_paths = os.environ.get(STEP_PATHS_VARIABLE, str(folder))  # unset in a script of `make conformance`
    with log.open("w") as errors:
        server = shared_server().open(
            ["serve", *words, "--port", "0", "--json"],
            folder=folder,
            environ={**environ, "PYTHONPATH": str(ROOT), STEP_PATHS_VARIABLE: step_paths, FORBID_VARIABLE: "1"},
            stderr=errors.fileno(),
        )
    try:
        yield line_of(server, log), _read_log(log, wait="--tls" in words)
    finally:
        server.terminate()
        server.communicate(timeout=60)


def line_of(server: subprocess.Popen[str] | ForkedCommand, log: Path) -> dict[str, Any]:
    """The JSON line of *server*; fails with the content of *log* if there is no line."""
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise AssertionError(log.read_text())
    ready: dict[str, Any] = json.loads(line)
    return ready


def _read_log(log: Path, *, wait: bool) -> str:
    """The log of the server's start, which follows its JSON line."""
    ends = time.monotonic() + 60
    while wait and "NODE_EXTRA_CA_CERTS" not in log.read_text() and time.monotonic() < ends:
        time.sleep(0.05)
    return log.read_text()
