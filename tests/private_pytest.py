"""A pytest run in its own process, for generated tests."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from tests.cli.fork_server import ForkServer


def run_pytest(fork_server: ForkServer, folder: Path, *args: str) -> dict[str, int]:
    """The numbers of tests in *folder* that passed, failed or had errors, without zeros."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PDKERNEL_", "PYTEST_"))}
    with tempfile.TemporaryDirectory() as temporary:
        # plugins of this environment, which generated tests do not use, would take seconds to import
        environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        environ["PYTEST_DEBUG_TEMPROOT"] = temporary  # else pytest removes the folders of earlier test runs
        words = ("-q", "--rootdir", str(folder), "-p", "no:cacheprovider", *args)
        before = ["tests.private_pytest:become_pytest", *words]
        done = fork_server.run([], folder=folder, environ=environ, before=before)
    found = re.findall(r"(\d+) (passed|failed|errors?)", done.stdout.splitlines()[-1] if done.stdout else "")
    assert found, done.stdout + done.stderr
    return {word: int(count) for count, word in found}


def become_pytest(*args: str) -> NoReturn:
    """Run pytest, and end this process."""
    for name in [each for each in sys.modules if each.startswith("pdkernel.testing")]:  # pytest rewrites its assertions
        del sys.modules[name]
    sys.exit(pytest.main(list(args)))
