"""
A private `/tmp` that only the steps of one run see (Linux).

It is a mount namespace, created with programs of util-linux, because a process with threads cannot create a user
namespace, which a user other than root needs. Creating a namespace takes about 5 ms, starting a program in it 1 ms.
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

TMP_FOLDER = Path("/tmp")  # noqa: S108 - the folder itself, not a file in it
_VAR_TMP_FOLDER = Path("/var/tmp")  # noqa: S108 - likewise

_MOUNT_TIMEOUT_S = 5.0
# Visible folders are mounted read-only, and steps cannot remount them: steps may empty /tmp, as on the platform.
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
    A folder that is `/tmp` for programs started with `wrap_command`.

    Attributes:
        visible_names: Folders of the system's `/tmp` that are visible, read-only, in this one.
    """

    def __init__(
        self, folder: Path, visible_names: frozenset[str], namespaces: Sequence[int], tmp_descriptor: int
    ) -> None:
        """Take descriptors of the *namespaces* (a user namespace first, if any) and of `/tmp` in them."""
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
        Create a private `/tmp` in the new *folder*; return None if the operating system does not permit it.

        Args:
            folder: The folder of its files, as this process sees it.
            visible_names: Names of folders in the system's `/tmp` that stay visible.

        Raises:
            OSError: The folder cannot be created.
        """
        unshare = shutil.which("unshare")
        if unshare is None or shutil.which("nsenter") is None:
            return None
        folder.mkdir(mode=0o700)
        for name in visible_names:
            folder.joinpath(name).mkdir(mode=0o700)
        # root uses the current user namespace: in a new one it would lose access to the files of other users
        user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
        helper = subprocess.Popen(
            [unshare, *user, "--mount", "sh", "-c", _MOUNT_SCRIPT, "sh", str(folder), *visible_names],
            env={"PATH": os.environ.get("PATH", os.defpath)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with helper:
            assert helper.stdout is not None
            if not select.select([helper.stdout], [], [], _MOUNT_TIMEOUT_S)[0]:
                helper.kill()
            opened = _open(helper.pid, ["user", "mnt"] if user else ["mnt"]) if helper.stdout.read(1) else None
        if opened is None:
            remove_tree(folder)
            return None
        return cls(folder, visible_names, opened[:-1], opened[-1])

    def wrap_command(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs *argv* with this `/tmp` as its working folder."""
        if not os.access(argv[0], os.X_OK):
            return list(argv)  # the start then fails with the error of the operating system
        return [*self._enter, *argv]

    def clear(self) -> bool:
        """Remove the files of steps; return whether all of them are gone."""
        names = set(os.listdir(self._folder)) - self.visible_names  # noqa: PTH208 - at the end of every run
        left = [name for name in names if not remove_tree(self._folder / name)]
        return not left

    def close(self) -> None:
        """Close the namespaces and remove the files. Afterwards, no program can be started in this `/tmp`."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        remove_tree(self._folder)


def is_supported() -> bool:
    """Whether this system may support a private `/tmp`; only `PrivateTmp.create` finds out."""
    return sys.platform == "linux" and os.path.realpath(TMP_FOLDER) == str(TMP_FOLDER)


def describe_step_tmp(project: Path) -> str:
    """Describe in a sentence which `/tmp` the steps of *project* use; creates a private `/tmp` to find out."""
    if names_in_tmp(project) != frozenset():
        return "steps use the /tmp of this machine, because the project is in /tmp"
    if is_supported():
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError):
            made = PrivateTmp.create(Path(folder) / "tried", frozenset())
            if made is not None:
                made.close()
                return "the steps of each run have a private /tmp"
    return "steps use the /tmp of this machine, because this system does not permit a mount namespace"


def make_scratch_folder(prefix: str) -> Path:
    """Create a folder for temporary files, outside of `/tmp` if possible: steps with a private `/tmp` must see it."""
    beside = (
        is_supported() and tempfile.gettempdir() == str(TMP_FOLDER) and os.access(_VAR_TMP_FOLDER, os.W_OK | os.X_OK)
    )
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_VAR_TMP_FOLDER if beside else None))


@functools.lru_cache(maxsize=1000)
def names_in_tmp(*paths: Path) -> frozenset[str] | None:
    """
    Return the folders of the system's `/tmp` that contain *paths*; None if a path is a file directly in `/tmp`.

    For a link, both its own path and its target count. Results are cached.
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
    for resolved in {path.absolute(), Path(os.path.realpath(path))}:
        if not resolved.is_relative_to(TMP_FOLDER):
            continue
        parts = resolved.relative_to(TMP_FOLDER).parts
        if not parts or (len(parts) == 1 and not resolved.is_dir()):
            return None
        names.add(parts[0])
    return frozenset(names)


def _open(process: int, namespaces: Sequence[str]) -> list[int]:
    """Open the namespaces of *process*, and `/tmp` as that process sees it."""
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
