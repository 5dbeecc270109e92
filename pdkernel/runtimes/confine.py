"""
Runs a program that reads and changes certain files only, for tools that read what code of a package names.

It runs as `python -I -S confine.py FILES PROGRAM [ARGUMENT...]`. FILES is JSON: `{"read": [PATH...], "write": [PATH...]}`. On a system
without Landlock and namespaces, the program is not restricted. The module uses only the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib is slow to import
    import isolation  # type: ignore[import-not-found]
else:
    from pdkernel.runtimes import isolation

_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "nix", "dev", "sys", "proc")
_READ = (*(f"/{name}" for name in _SYSTEM[:6]), "/usr", "/nix/store", "/dev/urandom", "/dev/random")
_WRITE = ("/dev/null",)


def confine(read: Sequence[str], write: Sequence[str], *, landlock: bool) -> None:
    """
    Let this process, which must have one thread, see programs of the system and the paths of *read* and *write* only.

    Args:
        read: Existing paths whose files it may read and execute.
        write: Existing paths whose files it may change.
        landlock: Use Landlock, otherwise mounts of its own.

    Raises:
        OSError: The system does not permit it.
    """
    if landlock:
        isolation.restrict_files({"read": [*_READ, *read], "write": [*_WRITE, *write]})
        return
    isolation.enter_mounts()
    covered = [entry.path for entry in os.scandir("/") if entry.name not in _SYSTEM and entry.is_dir()]
    mounts: list[dict[str, Any]] = [{"target": path, "source": None} for path in covered if not os.path.islink(path)]  # noqa: PTH114
    shown = {**dict.fromkeys(map(os.path.realpath, read), False), **dict.fromkeys(map(os.path.realpath, write), True)}
    for path in sorted(shown, key=len):
        if any(f"{path}/".startswith(f"{each['target']}/") for each in mounts):
            mounts.append({"target": path, "source": path, "writable": shown[path]})
    isolation.mount_paths(mounts)
    isolation.hide_processes()


def main(files: str, *command: str) -> None:
    """Execute *command*, confined to *files*. Raises `OSError`."""
    plan = json.loads(files)
    landlock = isolation.landlock_version() >= isolation.MIN_LANDLOCK_FILES_VERSION
    with contextlib.ExitStack() as permitted:
        if not landlock:
            permitted.enter_context(contextlib.suppress(OSError))  # neither is available
        confine(plan["read"], plan["write"], landlock=landlock)
    os.execv(command[0], command)  # noqa: S606 - the program of the caller


if __name__ == "__main__":
    main(*sys.argv[1:])
