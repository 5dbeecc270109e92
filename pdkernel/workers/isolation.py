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
from typing import Literal, Self

from pdkernel.common.encode import JsonStruct
from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.runtimes.isolation import (
    MIN_LANDLOCK_FILES_VERSION,
    MIN_LANDLOCK_PORT_VERSION,
    find_step_users,
    set_undumpable,
)

TMP_FOLDER = Path("/tmp")  # noqa: S108 - the folder itself, not a file in it
_VAR_TMP_FOLDER = Path("/var/tmp")  # noqa: S108 - likewise
ACCOUNTS_FILE = Path("/etc/passwd")

Attacker = Literal["end user", "step", "package"]
"""Who attacks: an external user who sends requests, the author of a step's code, or of a package that a step imports."""


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


_Needs = Literal["nothing", "files", "namespaces", "ports", "user"]
_SEPARATING: tuple[_Needs, ...] = ("files", "namespaces", "user")
_WALLS: tuple[tuple[Attacker, str, _Needs], ...] = (
    ("end user", "act as another external user, or see their runs, accounts and files", "nothing"),
    ("end user", "choose the external user or the environment of a child run by what an event contains", "nothing"),
    ("end user", "keep the server from other users by large, slow or many requests", "nothing"),
    ("end user", "use the console, or its session, from another site, another port or a workflow", "nothing"),
    ("step", "read the project's key, database and recordings, or other files of the server's user", "files"),
    ("step", "read the memory, the environment or the open files of the server", "files"),
    ("step", "see the processes, or the files in `/tmp`, of other runs", "namespaces"),
    ("step", "have the user id or the rights of root", "user"),
    ("step", "let the server read, change or create a file by a link, a FIFO or a renamed folder", "files"),
    (
        "step",
        "start a child run for another external user, in another environment, or of a workflow that is not served",
        "files",
    ),
    ("step", "use the console or the API of its server without a token", "files"),
    ("step", "get the requests or responses of another external user's outbound calls", "files"),
    ("step", "listen at the port of a server that restarts", "ports"),
    ("package", "run code, from a `.pth` file for example, outside of the walls of a step", "files"),
    ("package", "change what runs of other external users import", "files"),
)
"""
Who attacks, what they cannot do, and what the system must offer for it; `SECURITY.md` has the same rows.

Where steps can read the server's files, the key included, no wall around a step holds.
"""


@dataclass(frozen=True, slots=True)
class Wall:
    """
    What an attacker cannot do.

    Attributes:
        attacker: Who attacks.
        cannot: What the attacker cannot do, in the infinitive.
        missing: Why the wall does not hold, or None if it holds.
        separates_users: Whether a user's run reaches what belongs to others where the wall does not hold.
    """

    attacker: Attacker
    cannot: str
    missing: str | None
    separates_users: bool

    def describe(self) -> str:
        """Return the wall as a sentence: what an attacker cannot do, or can do because it does not hold."""
        article = "An" if self.attacker == "end user" else "A"
        return f"{article} {self.attacker} {'cannot' if self.missing is None else 'can'} {self.cannot}."

    def to_json(self) -> dict[str, str | bool | None]:
        """Return the wall as `{"attacker", "cannot", "holds", "reason"}`."""
        return {"attacker": self.attacker, "cannot": self.cannot, "holds": self.missing is None, "reason": self.missing}


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

        Then a wall does not hold, unless paths that steps change by your choice are the reason.
        """
        kind = "user" if STEP_PATHS_VARIABLE in reason else "code"
        return replace(self, first_uid=None, reasons=(*self.reasons, (kind, reason)))

    def list_walls(self, *, is_root: bool | None = None) -> tuple[Wall, ...]:
        """
        Return what an end user, a step and a package cannot do, and why a wall does not hold if one does not.

        Args:
            is_root: Whether the server's user is root; by default, the user of this process.
        """
        is_root = os.geteuid() == 0 if is_root is None else is_root
        return tuple(
            Wall(attacker, cannot, self._find_missing(needs, is_root=is_root), needs in _SEPARATING)
            for attacker, cannot, needs in _WALLS
        )

    def _find_missing(self, needs: _Needs, *, is_root: bool) -> str | None:
        """Return why a wall with these *needs* does not hold, or None if it holds."""
        why = dict(self.reasons)
        if needs == "files" and not self.namespaces and not self.landlock:
            return f"neither namespaces ({why.get('namespaces')}) nor Landlock ({why.get('landlock')}) are available"
        if needs == "namespaces" and not self.namespaces:
            return f"namespaces are not available ({why.get('namespaces')})"
        if needs == "ports" and "ports" in why:
            return f"Landlock has no rules for ports ({why['ports']})"
        if needs == "user" and is_root and "code" in why:
            return f"steps have the user id of root, without its rights: {why['code']}"
        if needs == "user" and is_root and self.first_uid is None and not self.landlock:
            return f"steps have the user id of root, and Landlock is not available ({why.get('landlock')})"
        return None

    @property
    def missing_walls(self) -> tuple[Wall, ...]:
        """The walls that do not hold on this machine; empty if all hold."""
        return tuple(wall for wall in self.list_walls() if wall.missing is not None)

    def describe_missing_walls(self) -> tuple[str, ...]:
        """Return what attackers can do on this machine, a text for each reason; empty if all walls hold."""
        by_reason: dict[str, list[str]] = {}
        for wall in self.missing_walls:
            by_reason.setdefault(wall.missing or "", []).append(wall.describe())
        return tuple(f"Isolation is incomplete: {reason}. {' '.join(found)}" for reason, found in by_reason.items())

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
        if "code" in why:  # a wall that does not hold
            return []
        if self.first_uid is None:
            return [f"This server runs as root, and so do steps, without its rights: {why.get('user')}."]
        return ["This server runs as root. Steps run as other users."]


@dataclass(frozen=True)
class StepAccess:
    """
    The paths and ports that matter for the processes of a run.

    All paths are absolute, because the processes have other working folders. A relative path raises `ValueError`.

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

    def __post_init__(self) -> None:
        relative = next((path for path in (*self.read, *self.write, *self.hide) if not path.is_absolute()), None)
        if relative is not None:
            raise ValueError(f"{str(relative)!r} is not an absolute path")

    def covers(self, other: StepAccess) -> bool:
        """Return whether a process with this access may serve a run that needs *other*."""
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


def is_step_user(uid: int) -> bool:
    """Return whether *uid* is the user of a step of a server of root on this machine."""
    return uid in find_step_users()
