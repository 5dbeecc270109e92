"""The command in a folder of its own, as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@dataclass
class Ended:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON value on stdout."""
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[str]:
        """Everything that a person saw."""
        return (self.stdout + self.stderr).splitlines()


class Shell:
    """Runs `pdkernel` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *args: str, stdin: str = "", **environ: str) -> Ended:
        """Run it to its end, with outside calls answered by the stand-in unless told otherwise."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "PDKERNEL_EGRESS": "stand-in=slack",
            **environ,
        }
        done = subprocess.run(
            [sys.executable, "-m", "pdkernel", *args],
            cwd=self.folder,
            env=env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def notebook(self, *cells: str, name: str = "work.ipynb") -> str:
        """Write a notebook of code cells."""
        value = {
            "cells": [
                {
                    "cell_type": "code",
                    "id": f"c{number}",
                    "metadata": {},
                    "outputs": [],
                    "execution_count": None,
                    "source": source,
                }
                for number, source in enumerate(cells)
            ],
            "metadata": {},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (self.folder / name).write_text(json.dumps(value), encoding="utf-8")
        return name

    def write(self, name: str, text: str) -> str:
        """Write a file."""
        (self.folder / name).write_text(text, encoding="utf-8")
        return name


@pytest.fixture
def pdkernel(tmp_path: Path) -> Shell:
    """The command in an empty folder."""
    return Shell(tmp_path)
