"""
The lock file of Python packages: the resolved versions and files of each set of requirements.

The format is uv's requirements file with hashes, without registry addresses: one block for each set of requirements. The user
commits the file. A block serves each platform with the block's version of Python or a later one. If its versions have no
files for a platform, that platform has a block of its own.
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

from pdkernel.common.safe_files import read_file
from pdkernel.errors import ProjectError
from pdkernel.language.analysis import PythonRequirement

PYTHON_LOCK_NAME = "pdkernel-python.lock"
"""Name of the lock file, beside the project's folder."""

_ABOUT = (
    "# Python packages of the project: versions and hashes, written by pdkernel with uv. Commit this file.",
    "# For newer versions, delete the lines of a block and run again.",
)
_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?: ?; ?(?P<marker>.+?))?(?P<hashes>(?: +--hash=sha256:[0-9a-f]{64})+)"
)
_UNIVERSAL = re.compile(r"Python (\d+)\.(\d+) or later")
_MAX_BLOCKS = 60


@dataclass(frozen=True, slots=True)
class Pin:
    """One package: its name, its version, the SHA-256 of each accepted file, and the machines that need the package."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str = ""

    @property
    def requirement(self) -> str:
        """The package, its version and its marker as a line of a requirements file."""
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")

    @property
    def is_needed(self) -> bool:
        """Whether this machine needs the package."""
        from packaging.markers import Marker

        return not self.marker or Marker(self.marker).evaluate()


@dataclass(frozen=True, slots=True)
class LockBlock:
    """
    The resolved packages of a set of requirements.

    Attributes:
        requirements: The requirements, as text.
        machine: Where the packages can be installed: a result of `describe_machine`, or of `describe_python` for each platform.
        pins: The packages.
    """

    requirements: str
    machine: str
    pins: tuple[Pin, ...]

    @property
    def digest(self) -> str:
        """Sixteen hex digits: a hash of this machine and the pins."""
        pins = "".join(f"{_format_pin(pin, ' ')}\n" for pin in self.pins)
        return hashlib.sha256(f"{describe_machine()}\n{pins}".encode()).hexdigest()[:16]

    @property
    def rank(self) -> tuple[int, ...]:
        """How well the block suits this machine, for comparison; empty if the block does not suit it."""
        if self.machine == describe_machine():
            return (*sys.version_info[:2], 1)
        match = _UNIVERSAL.fullmatch(self.machine)
        since = (int(match[1]), int(match[2])) if match else (99, 0)
        return since if since <= sys.version_info[:2] else ()

    def needed(self) -> tuple[Pin, ...]:
        """Return the packages that this machine needs."""
        return tuple(pin for pin in self.pins if pin.is_needed)


def describe_machine() -> str:
    """Return the kind of machine, as blocks name it: `Python 3.12, linux x86_64`."""
    return f"Python {sys.version_info[0]}.{sys.version_info[1]}, {sys.platform} {platform.machine()}"


def describe_python() -> str:
    """Return the versions of Python from this one, as blocks for each platform name them: `Python 3.12 or later`."""
    return f"Python {sys.version_info[0]}.{sys.version_info[1]} or later"


def format_requirements(requirements: Iterable[PythonRequirement]) -> str:
    """Return *requirements* as text, as in the header of a block."""
    return ", ".join(sorted({str(requirement) for requirement in requirements}))


def format_pins(pins: Iterable[Pin]) -> str:
    """Return *pins* as a requirements file, as uv writes it."""
    return "".join(f"{_format_pin(pin)}\n" for pin in pins)


def parse_pins(text: str) -> tuple[Pin, ...]:
    """Return the pins of a requirements file with hashes. Raises `ValueError` if a line is not a pin."""
    pins = []
    for _, line in _iter_lines(text.splitlines()):
        pin = _parse_pin(line)
        if pin is None:
            raise ValueError(f"{line[:200]!r} is not a package with its version and SHA-256")
        pins.append(pin)
    return tuple(pins)


class PythonLock:
    """The lock file at *path*; it may be missing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def signature(self) -> tuple[int, int] | None:
        """Return a value that changes when the file changes; None if the file is missing."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - at the start of every run
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def read(self) -> tuple[LockBlock, ...]:
        """
        Return the blocks of the file.

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

    def find(self, requirements: str) -> LockBlock | None:
        """Return the block with *requirements* that suits this machine best; None if there is none. Raises `ProjectError`."""
        found = [block for block in self.read() if block.requirements == requirements and block.rank]
        return max(found, key=lambda block: block.rank, default=None)

    def write(self, block: LockBlock) -> None:
        """Add *block*, or replace the block with the same requirements and machine. Raises `OSError`."""
        others = [old for old in self.read() if (old.requirements, old.machine) != (block.requirements, block.machine)]
        self._write([*others[-_MAX_BLOCKS + 1 :], block])

    def convert(self) -> bool:
        """
        Write a file of an earlier version of pdkernel in the format of uv, with the same versions and hashes.

        Returns:
            Whether the file was of an earlier version. Raises `OSError`.
        """
        if not self.has_earlier_format():
            return False
        self._write(self.read())
        return True

    def has_earlier_format(self) -> bool:
        """Return whether the file is of an earlier version of pdkernel: a package and its hash on one line."""
        try:
            text = read_file(self.path)
        except OSError:
            return False
        return re.search(rb"^[^#\n]+==.* --hash=", text, re.MULTILINE) is not None

    def _write(self, blocks: Iterable[LockBlock]) -> None:
        parts = [
            *_ABOUT,
            *(
                f"\n# {each.requirements} | {each.machine}\n{format_pins(each.pins).rstrip()}"
                for each in sorted(blocks, key=lambda each: (each.requirements, each.machine))
            ),
        ]
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def _blocks(self, lines: Sequence[str]) -> Iterator[LockBlock]:
        header: tuple[str, str] | None = None
        pins: list[Pin] = []
        for number, line in _iter_lines(lines):
            if line.startswith("# ") and " | " in line:
                if header and pins:
                    yield LockBlock(*header, tuple(pins))
                wanted, _, machine = line[2:].rpartition(" | ")
                header, pins = (wanted.strip(), machine.strip()), []
            elif not line.startswith("#"):
                pin = _parse_pin(line) if header else None
                if pin is None:
                    raise ProjectError(
                        f"{self.path.name}, line {number}, is not a package with its version and hash.",
                        fix="Correct the line, or delete the file: the next installation writes it again.",
                    )
                pins.append(pin)
        if header and pins:
            yield LockBlock(*header, tuple(pins))


def _format_pin(pin: Pin, separator: str = " \\\n    ") -> str:
    return separator.join([pin.requirement, *(f"--hash=sha256:{each}" for each in pin.hashes)])


def _parse_pin(line: str) -> Pin | None:
    match = _PIN.fullmatch(line)
    if match is None:
        return None
    hashes = tuple(each.partition("sha256:")[2] for each in match["hashes"].split())
    return Pin(match["name"], match["version"], hashes, match["marker"] or "")


def _iter_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers; hashes on lines of their own follow their package."""
    first, parts = 0, [""]
    for number, line in enumerate(lines, 1):
        text = line.strip().removesuffix("\\").rstrip()
        if text.startswith("--hash=") and parts[0]:
            parts.append(text)
            continue
        if parts[0]:
            yield first, " ".join(parts)
        first, parts = number, [text]
    if parts[0]:
        yield first, " ".join(parts)
