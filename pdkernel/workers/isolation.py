"""
What keeps steps from the server, from the project's secrets and from one another: what works on this machine.

`isolation_plan` makes the plan of a process, and `runtimes.isolation` carries it out.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pdkernel.encode import JsonStruct
from pdkernel.files import STEP_PATHS_VARIABLE
from pdkernel.runtimes.isolation import MIN_LANDLOCK_FILES_VERSION, MIN_LANDLOCK_PORT_VERSION, set_undumpable

TMP_FOLDER = Path("/tmp")  # noqa: S108 - the folder itself, not a file in it
_VAR_TMP_FOLDER = Path("/var/tmp")  # noqa: S108 - likewise
ACCOUNTS_FILE = Path("/etc/passwd")


class Mount(JsonStruct, frozen=True):
    """
    A path that a process sees at *target*; with None, an empty folder hides the target.

    Attributes:
        shared: All slots have the same mount.
        inode: Device and inode of the source; with another one there, no process starts. None permits any.
    """

    target: str
    source: str | None
    writable: bool = False
    shared: bool = False
    inode: tuple[int, int] | None = None


class IsolationPlan(JsonStruct, frozen=True):
    """
    What a process does to itself before user code runs; `runtimes.isolation` describes the fields.

    Attributes:
        ports: Ports to which processes may bind TCP sockets, besides free ones.
        tmp_names: Names in the process's `/tmp` that do not belong to the run.
    """

    namespaces: bool = False
    landlock: bool = False
    uid: int | None = None
    gid: int | None = None
    mounts: tuple[Mount, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    tmp_names: frozenset[str] = frozenset()


NO_PLAN = IsolationPlan()
"""The plan of a process that uses the files of this machine."""


@dataclass(frozen=True)
class Isolation:
    """
    What this machine permits.

    Attributes:
        namespaces: Workers have mounts, processes and a `/proc` of their own.
        landlock: The kernel restricts their files, whatever they mount.
        first_uid: The first of the user ids of workers, or None if workers have this process's user.
        reasons: Why a protection is not in force: `namespaces`, `landlock`, `ports`, `user`, or `code` (see `without_user`), and the
            reason.
    """

    namespaces: bool = False
    landlock: bool = False
    first_uid: int | None = None
    reasons: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, report: bytes) -> Self:
        """Return what a zygote reports. Raises `ValueError`."""
        found = json.loads(report)
        reasons = {"namespaces": found["namespaces"]} if found["namespaces"] else {}
        if found["landlock"] < MIN_LANDLOCK_FILES_VERSION:
            reasons["landlock"] = "the kernel is too old" if found["landlock"] else "the kernel does not provide it"
        if found["landlock"] < MIN_LANDLOCK_PORT_VERSION:
            reasons["ports"] = reasons.get("landlock", "the kernel is older than Linux 6.7")
        if found["user_ids"] is None:
            reasons["user"] = "the system does not permit another" if os.geteuid() == 0 else "only root can change it"
        return cls(
            namespaces="namespaces" not in reasons,
            landlock="landlock" not in reasons,
            first_uid=found["user_ids"],
            reasons=tuple(reasons.items()),
        )

    @classmethod
    def unavailable(cls, reason: str) -> Self:
        """Return that nothing is in force, for one *reason*."""
        return cls(reasons=tuple((name, reason) for name in ("namespaces", "landlock", "ports", "user")))

    def without_user(self, reason: str) -> Self:
        """
        Return this isolation for code whose steps cannot have a user of their own, because of *reason*.

        It is a gap, unless paths that steps change by your choice are the reason.
        """
        kind = "user" if STEP_PATHS_VARIABLE in reason else "code"
        return replace(self, first_uid=None, reasons=(*self.reasons, (kind, reason)))

    @property
    def gaps(self) -> tuple[str, ...]:
        """What steps can do, because protections are missing, as sentences; empty if users' runs are apart."""
        why = dict(self.reasons)
        found = []
        if not self.namespaces and not self.landlock:
            found.append(
                "Steps can read the project's key and database, and the memory of the server: neither namespaces "
                f"({why.get('namespaces')}) nor Landlock ({why.get('landlock')}) are available."
            )
        if not self.namespaces:
            found.append(
                f"Steps of different external users share /tmp: namespaces are not available ({why.get('namespaces')})."
            )
        elif not self.landlock and self.first_uid is None and os.geteuid() == 0:
            found.append(f"Steps run as root and can open devices: Landlock is not available ({why.get('landlock')}).")
        if "code" in why:
            found.append(f"Steps run as root, without its rights, instead of users of their own: {why['code']}.")
        return tuple(found)

    def describe(self) -> dict[str, str]:
        """Describe what is in force, by protection."""
        why = dict(self.reasons)
        user = "workers have a user id of their own, per slot"
        if self.first_uid is None:
            user = f"workers have the user of this process: {why.get('code') or why.get('user')}"
        return {
            "isolation_processes": (
                "own processes, mounts and /tmp" if self.namespaces else f"not in force: {why.get('namespaces')}"
            ),
            "isolation_files": (
                "Landlock permits the system's programs, packages, the project's code and /tmp"
                if self.landlock
                else f"not in force: {why.get('landlock')}"
            ),
            "isolation_ports": (
                f"not in force, steps listen on any port: {why['ports']}"
                if "ports" in why
                else "steps listen on free ports, and on those of `settings: listen`"
            ),
            "isolation_user": user,
        }

    def describe_root(self) -> list[str]:
        """Say what a server that runs as root does, as lines; empty for another user."""
        if sys.platform != "linux" or os.geteuid() != 0:
            return []
        why = dict(self.reasons)
        if "code" in why:  # a gap
            return []
        if self.first_uid is None:
            return [f"This server runs as root, and so do steps, without its rights: {why.get('user')}."]
        return ["This server runs as root. Steps run as other users."]


@dataclass(frozen=True)
class StepAccess:
    """
    The paths and ports that matter for the processes of a run.

    Attributes:
        read: Paths that they may read and execute.
        write: Paths that they may change.
        hide: Paths that they must not see, although they may be below a path of *read*.
        ports: Ports on which they may listen, besides free ones.
    """

    read: frozenset[Path] = frozenset()
    write: frozenset[Path] = frozenset()
    hide: frozenset[Path] = frozenset()
    ports: tuple[int, ...] = ()

    def covers(self, other: StepAccess) -> bool:
        """Whether a process with this access may serve a run that needs *other*."""
        return self is other or (
            other.read <= self.read
            and other.write <= self.write
            and other.hide <= self.hide
            and other.ports == self.ports
        )

    def extend(self, read: Iterable[Path], write: Iterable[Path]) -> StepAccess:
        """Return this access with the paths of *read* and *write* that it does not have; itself if it has all."""
        more, changed = {path for path in read if not self._shows(path)}, set(write) - self.write
        return replace(self, read=self.read | more, write=self.write | changed) if more or changed else self

    def _shows(self, path: Path) -> bool:
        nearest = next((each for each in (path, *path.parents) if each in self.read or each in self.hide), None)
        return nearest in self.read


def protect_process() -> None:
    """Keep other processes of this user from the memory and environment of this process, where the system can."""
    if sys.platform == "linux":
        set_undumpable()


def make_scratch_folder(prefix: str) -> Path:
    """Create a folder for temporary files, outside of `/tmp` if possible: processes with a private `/tmp` may see it."""
    beside = tempfile.gettempdir() == str(TMP_FOLDER) and os.access(_VAR_TMP_FOLDER, os.W_OK | os.X_OK)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_VAR_TMP_FOLDER if beside else None))
