"""
The lock file of Python packages: the resolved versions and files of each set of requirements.

The format is pip's requirements file with hashes, without registry addresses: one block for each set of requirements and kind
of machine. The user commits the file. Another kind of machine uses the versions of the file and adds a block with the hashes
of its own files.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdkernel.analysis import PythonRequirement
from pdkernel.errors import ProjectError
from pdkernel.files import read_file

PYTHON_LOCK_NAME = "pdkernel-python.lock"
"""Name of the lock file, beside the project's folder."""

_ABOUT = (
    "# Python packages of this project's steps: versions and hashes, written by pdkernel. Commit this file.",
    "# For newer versions, delete the lines of a block and run again.",
)
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)")
_MAX_BLOCKS = 60


@dataclass(frozen=True, slots=True)
class Pin:
    """One package: its name, its version, and the SHA-256 of each accepted file."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{each}" for each in self.hashes)])


@dataclass(frozen=True, slots=True)
class LockBlock:
    """The resolved packages of a set of requirements on one kind of machine."""

    requirements: str
    machine: str
    pins: tuple[Pin, ...]

    @property
    def text(self) -> str:
        """The pins as a requirements file."""
        return "".join(f"{pin}\n" for pin in self.pins)

    @property
    def digest(self) -> str:
        """Sixteen hex digits: a hash of the machine and the pins."""
        return hashlib.sha256(f"{self.machine}\n{self.text}".encode()).hexdigest()[:16]


def describe_machine() -> str:
    """The kind of machine, as blocks name it: `Python 3.12, linux x86_64`."""
    return f"Python {sys.version_info[0]}.{sys.version_info[1]}, {sys.platform} {platform.machine()}"


def format_requirements(requirements: Iterable[PythonRequirement]) -> str:
    """*requirements* as text, as in the header of a block."""
    return ", ".join(sorted({str(requirement) for requirement in requirements}))


class PythonLock:
    """The lock file at *path*; it may be missing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def signature(self) -> tuple[int, int] | None:
        """A value that changes when the file changes; None if the file is missing."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - at the start of every run
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def read(self) -> tuple[LockBlock, ...]:
        """
        The blocks of the file.

        Raises:
            ProjectError: A line is invalid, for example a merge marker; the message names the line.
        """
        try:
            lines = read_file(self.path).decode().splitlines()
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ProjectError(f"{self.path.name} cannot be read: {why}.", fix="Correct or delete the file.") from None
        return tuple(self._blocks(lines))

    def write(self, block: LockBlock) -> None:
        """Add *block*, or replace the block with the same requirements and machine. Raises `OSError`."""
        others = [old for old in self.read() if (old.requirements, old.machine) != (block.requirements, block.machine)]
        blocks = sorted([*others[-_MAX_BLOCKS + 1 :], block], key=lambda each: (each.requirements, each.machine))
        parts = [*_ABOUT, *(f"\n# {each.requirements} | {each.machine}\n{each.text.rstrip()}" for each in blocks)]
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def _blocks(self, lines: Sequence[str]) -> Iterator[LockBlock]:
        header: tuple[str, str] | None = None
        pins: list[Pin] = []
        for number, line in enumerate(lines, 1):
            if line.startswith("# ") and " | " in line:
                if header and pins:
                    yield LockBlock(*header, tuple(pins))
                wanted, _, machine = line[2:].rpartition(" | ")
                header, pins = (wanted.strip(), machine.strip()), []
            elif (match := _PIN.fullmatch(line.strip())) and header:
                hashes = tuple(each.partition("sha256:")[2] for each in match["hashes"].split())
                pins.append(Pin(match["name"], match["version"], hashes))
            elif line.strip() and not line.startswith("#"):
                raise ProjectError(
                    f"{self.path.name}, line {number}, is not a package with its version and hash.",
                    fix="Correct the line, or delete the file: the next installation writes it again.",
                )
        if header and pins:
            yield LockBlock(*header, tuple(pins))
