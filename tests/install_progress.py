"""
Installs packages with pip and prints one line for each step: the step, a count of packages, and the time.

    python tests/install_progress.py [-v] ARGUMENTS OF PIP INSTALL ...

On a terminal the line of the running step is drawn again every second; elsewhere every 15 seconds. `-v` prints pip's own
output instead. If pip fails, its output follows. It uses the standard library only: nothing is installed when it starts.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

STEPS = ("Read what is required", "Find and download packages", "Install packages")
TERMINAL_INTERVAL_S = 1.0
LOG_INTERVAL_S = 15.0


class Progress:
    """The progress of pip, read from its output."""

    def __init__(self) -> None:
        self._site = Path(sysconfig.get_path("purelib"))
        self._is_terminal = sys.stdout.isatty()
        self._interval_s = TERMINAL_INTERVAL_S if self._is_terminal else LOG_INTERVAL_S
        self._step = 0
        self._started = self._drawn = time.monotonic()
        self._installed_before = 0
        self._found = 0
        self._total = 0
        self._lock = threading.Lock()

    def read(self, line: str) -> None:
        """Take over a line of pip's output."""
        if line.startswith("Collecting "):
            self._go_to(1)
            self._found += 1
        elif found := re.match(r"Installing collected packages: (.*)", line):
            self._go_to(2)
            self._total = len(found[1].split(","))

    def finish(self) -> None:
        """Draw the last step."""
        with self._lock:
            self._draw(is_end=True)

    def draw(self) -> None:
        """Draw the running step again, if it is time."""
        with self._lock:
            if time.monotonic() - self._drawn >= self._interval_s:
                self._draw(is_end=False)

    def _go_to(self, step: int) -> None:
        with self._lock:
            while step > self._step:  # a file is installed without a search
                self._draw(is_end=True)
                self._step, self._started = self._step + 1, time.monotonic()
                self._installed_before = self._count_installed()

    def _draw(self, *, is_end: bool) -> None:
        self._drawn = time.monotonic()
        count = ""
        if self._step == 1:
            count = f"  {self._found}"
        elif self._step == 2:
            done = self._total if is_end else min(self._total, self._count_installed() - self._installed_before)
            count = f"  {done} of {self._total}"
        line = f"[{self._step + 1}/{len(STEPS)}] {STEPS[self._step]}{count}  {self._drawn - self._started:.0f} s"
        if self._is_terminal:
            print(f"\r\x1b[K{line}", end="\n" if is_end else "", flush=True)
        else:
            print(line if is_end else f"{line} ...", flush=True)

    def _count_installed(self) -> int:
        return sum(1 for _ in self._site.glob("*.dist-info"))


def main(arguments: list[str]) -> int:
    """Run `pip install` with *arguments*; returns the exit status of pip."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    if "-v" in arguments:
        return subprocess.call([*pip, *(each for each in arguments if each != "-v")])
    process = subprocess.Popen(
        [*pip, "--progress-bar", "off", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    progress = Progress()
    ended = threading.Event()

    def draw() -> None:
        while not ended.wait(TERMINAL_INTERVAL_S):
            progress.draw()

    drawing = threading.Thread(target=draw, daemon=True)
    drawing.start()
    output = []
    try:
        for line in process.stdout:
            output.append(line)
            progress.read(line)
        status = process.wait()
    finally:
        ended.set()
        drawing.join()
    if status != 0:
        print(f"\n{''.join(output)}", file=sys.stderr, end="")
        return status
    progress.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
