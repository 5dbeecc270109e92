"""A pytest run in its own process, for generated tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_pytest(folder: Path, *args: str) -> dict[str, int]:
    """The numbers of tests in *folder* that passed, failed or had errors, without zeros."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PDKERNEL_", "PYTEST_"))}
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--rootdir", str(folder), "-p", "no:cacheprovider", *args],
            cwd=folder,
            env={
                **environ,
                "PYTHONPATH": str(ROOT),
                # plugins of this environment, which generated tests do not use, would take seconds to import
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                # else pytest removes the folders of earlier test runs
                "PYTEST_DEBUG_TEMPROOT": temporary,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    found = re.findall(r"(\d+) (passed|failed|errors?)", done.stdout.splitlines()[-1] if done.stdout else "")
    assert found, done.stdout + done.stderr
    return {word: int(count) for count, word in found}
