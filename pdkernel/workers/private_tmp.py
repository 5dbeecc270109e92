"""
A `/tmp` that only the steps of one run see (Linux).

Knows mount namespaces, by way of util-linux's programs: a user who is not root makes one inside a user namespace, and
neither can be done in a process with threads, which we are. Making one takes some 5 ms, starting a program in it 1 ms.
Knows nothing of steps.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pdkernel.runtimes.file_tree import remove_tree

TMP_FOLDER = Path("/tmp")  # noqa: S108 - the place itself, not a file in it
_VAR_TMP_FOLDER = Path("/var/tmp")  # noqa: S108 - likewise

_MOUNT_TIMEOUT_S = 5.0
# What is kept is read only, and not its owner's to make otherwise: steps may empty /tmp, as they may on the platform.
_MOUNT_SCRIPT = """
set -e
folder=$1; shift
for name; do
  mount --bind "/tmp/$name" "$folder/$name"
  mount -o remount,bind,ro "$folder/$name"
done
mount --rbind "$folder" /tmp
echo
read _ || :
"""


class PrivateTmp:
    """
    A folder that is `/tmp` for the programs that are started by `wrap_command`.

    Attributes:
        visible_names: Folders in the machine's own `/tmp` that are seen there too, and cannot be written to.
    """

    def __init__(
        self, folder: Path, visible_names: frozenset[str], namespaces: Sequence[int], tmp_descriptor: int
    ) -> None:
        """Descriptors: of the *namespaces*, the user's first if there is one, and of `/tmp` in them (*tmp_descriptor*)."""
        self.visible_names = visible_names
        self._folder = folder
        self._descriptors = [*namespaces, tmp_descriptor]
        options = [f"--mount={_path(namespaces[-1])}", f"--wd={_path(tmp_descriptor)}"]
        if len(namespaces) > 1:
            options += [f"--user={_path(namespaces[0])}", "--preserve-credentials"]
        self._enter = [str(shutil.which("nsenter")), *options, "--"]

    @classmethod
    def create(cls, folder: Path, visible_names: frozenset[str]) -> Self | None:
        """
        One in *folder*, which is made; None if the operating system does not permit it.

        Args:
            folder: Where its files are, for us.
            visible_names: Names of folders in the machine's `/tmp` that are to be seen.

        Raises:
            OSError: The folder cannot be made.
        """
        unshare = shutil.which("unshare")
        if unshare is None or shutil.which("nsenter") is None:
            return None
        folder.mkdir(mode=0o700)
        for name in visible_names:
            folder.joinpath(name).mkdir(mode=0o700)
        # who is root keeps to the user namespace that is there: in one of its own, other users' files were not its
        user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
        maker = subprocess.Popen(
            [unshare, *user, "--mount", "sh", "-c", _MOUNT_SCRIPT, "sh", str(folder), *visible_names],
            env={"PATH": os.environ.get("PATH", os.defpath)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with maker:
            assert maker.stdout is not None
            if not select.select([maker.stdout], [], [], _MOUNT_TIMEOUT_S)[0]:
                maker.kill()
            opened = _open(maker.pid, ["user", "mnt"] if user else ["mnt"]) if maker.stdout.read(1) else None
        if opened is None:
            remove_tree(folder)
            return None
        return cls(folder, visible_names, opened[:-1], opened[-1])

    def wrap_command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs *argv* with this `/tmp`, which is its working folder too."""
        if not os.access(argv[0], os.X_OK):
            return list(argv)  # whoever starts it hears what is wrong from the operating system itself
        return [*self._enter, *argv]

    def clear(self) -> bool:
        """Remove what steps have put there; whether nothing of it is left."""
        names = set(os.listdir(self._folder)) - self.visible_names  # noqa: PTH208 - at the end of every run
        left = [name for name in names if not remove_tree(self._folder / name)]
        return not left

    def close(self) -> None:
        """Nothing is started there any more; remove its files."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        remove_tree(self._folder)


def is_supported() -> bool:
    """Whether this system could have one, before it is tried."""
    return sys.platform == "linux" and os.path.realpath(TMP_FOLDER) == str(TMP_FOLDER)


def describe_step_tmp(project: Path) -> str:
    """In a sentence for people, what `/tmp` is for the steps of a project in *project*; found out by trying."""
    if names_in_tmp(project) != frozenset():
        return "a step's /tmp is this machine's, because the project is below it"
    if is_supported():
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError):
            made = PrivateTmp.create(Path(folder) / "tried", frozenset())
            if made is not None:
                made.close()
                return "a step's /tmp is its run's own"
    return "a step's /tmp is this machine's, because this system permits no mount namespace"


def make_scratch_folder(prefix: str) -> Path:
    """A fresh folder for temporary files of ours: not in `/tmp`, where steps with a `/tmp` of their own would not see it."""
    beside = (
        is_supported() and tempfile.gettempdir() == str(TMP_FOLDER) and os.access(_VAR_TMP_FOLDER, os.W_OK | os.X_OK)
    )
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_VAR_TMP_FOLDER if beside else None))


@functools.lru_cache(maxsize=1000)
def names_in_tmp(*paths: Path) -> frozenset[str] | None:
    """
    The folders in the machine's `/tmp` that *paths* are in; None if one of them lies in `/tmp` itself.

    A link counts for the place where it is and for the one where it leads. That is not looked at again.
    """
    names: set[str] = set()
    for path in paths:
        found = _names(path)
        if found is None:
            return None
        names |= found
    return frozenset(names)


@functools.lru_cache(maxsize=1000)
def _names(path: Path) -> frozenset[str] | None:
    names = set()
    for place in {path.absolute(), Path(os.path.realpath(path))}:
        if not place.is_relative_to(TMP_FOLDER):
            continue
        parts = place.relative_to(TMP_FOLDER).parts
        if not parts or (len(parts) == 1 and not place.is_dir()):
            return None
        names.add(parts[0])
    return frozenset(names)


def _open(process: int, namespaces: Sequence[str]) -> list[int]:
    """Descriptors of *process*'s namespaces and of what is `/tmp` there."""
    opened: list[int] = []
    try:
        opened.extend(os.open(f"/proc/{process}/ns/{name}", os.O_RDONLY) for name in namespaces)
        opened.append(os.open(f"/proc/{process}/root/tmp", os.O_PATH | os.O_DIRECTORY))
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return opened


def _path(descriptor: int) -> str:
    return f"/proc/{os.getpid()}/fd/{descriptor}"
