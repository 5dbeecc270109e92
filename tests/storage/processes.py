"""Processes that start their work at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def start_process(program: str, folder: Path, name: str) -> subprocess.Popen[str]:
    """A process that runs *program*, which waits for a line on stdin."""
    return subprocess.Popen(
        [sys.executable, "-c", program, folder, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run_together(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait until all processes are ready, start them together, and return their output."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return printed
