"""
The lock file of Python packages: which versions and files a set of requirements was answered with.

Knows its format, which is pip's for requirements with hashes, one block for each set of requirements and kind of machine.
Holds no registry's address. The file is the user's to commit; another kind of machine takes the versions from it and adds
a block with the hashes of its own files.
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
"""What the lock file is called, beside the project's folder; the user's to commit."""

_ABOUT = (
    "# Python packages of this project's steps: versions and hashes, written by pdkernel. Commit this file.",
    "# For newer versions, delete the lines of a block and run again.",
)
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)")
_MAX_BLOCKS = 60


@dataclass(frozen=True, slots=True)
class Pin:
    """One package: its name, its version, and the SHA-256 of each file that may be taken for it."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{each}" for each in self.hashes)])


@dataclass(frozen=True, slots=True)
class LockBlock:
    """What a set of requirements was answered with on one kind of machine."""

    requirements: str
    machine: str
    pins: tuple[Pin, ...]

    @property
    def text(self) -> str:
        """The pins as a requirements file."""
        return "".join(f"{pin}\n" for pin in self.pins)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that name exactly these files."""
        return hashlib.sha256(f"{self.machine}\n{self.text}".encode()).hexdigest()[:16]


def describe_machine() -> str:
    """The kind of machine, as blocks name it: `Python 3.12, linux x86_64`."""
    return f"Python {sys.version_info[0]}.{sys.version_info[1]}, {sys.platform} {platform.machine()}"


def format_requirements(requirements: Iterable[PythonRequirement]) -> str:
    """*requirements* as a block names them."""
    return ", ".join(sorted({str(requirement) for requirement in requirements}))


class PythonLock:
    """The lock file at *path*; it need not be there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def signature(self) -> tuple[int, int] | None:
        """Changes when the file does; None if there is none."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - at the start of every run
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def read(self) -> tuple[LockBlock, ...]:
        """
        Its blocks.

        Raises:
            ProjectError: A line of it is none of ours (a merge left its marks); names the line.
        """
        try:
            lines = read_file(self.path).decode().splitlines()
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ProjectError(f"{self.path.name} cannot be read: {why}.", fix="Mend or delete it.") from None
        return tuple(self._blocks(lines))

    def write(self, block: LockBlock) -> None:
        """Put *block* in the place of the one for the same requirements and machine. Raises `OSError`."""
        others = [old for old in self.read() if (old.requirements, old.machine) != (block.requirements, block.machine)]
        blocks = sorted([*others[-_MAX_BLOCKS + 1 :], block], key=lambda each: (each.requirements, each.machine))
        parts = [*_ABOUT, *(f"\n# {each.requirements} | {each.machine}\n{each.text.rstrip()}" for each in blocks)]
        aside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            aside.write_text("\n".join(parts) + "\n", encoding="utf-8")
            aside.replace(self.path)
        finally:
            aside.unlink(missing_ok=True)

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
                    fix="Mend the line, or delete the file: it is written again at the next installation.",
                )
        if header and pins:
            yield LockBlock(*header, tuple(pins))
