"""
The warden: when its owner process ends, it ends the owner's steps and removes their files.

It runs as `python -I -S warden.py` in its own session, with the read end of a pipe as descriptor 3. The owner writes lines that
register and unregister processes (`+ PID TAG`, `- PID TAG`; a PID below 0 registers the tag alone) and folders (`> FOLDER`,
`< FOLDER`, as JSON). The pipe closes when the owner ends, even by kill -9. Then the warden kills the registered processes with
their descendants, and removes the folders.
"""

from __future__ import annotations

import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib is slow to import

_DESCRIPTOR = 3


def main() -> None:
    """Read the pipe until the owner ends, then kill the registered processes and remove the registered folders."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    registered: dict[int, str] = {}
    folders: set[str] = set()
    with os.fdopen(_DESCRIPTOR, "rb", buffering=0) as pipe:
        rest = b""
        while chunk := pipe.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                sign, what = line.decode().split(" ", 1)
                if sign == ">":
                    folders.add(what)
                elif sign == "<":
                    folders.discard(what)
                else:
                    pid, tag = what.split(" ")
                    if sign == "+":
                        registered[int(pid)] = tag
                    else:
                        registered.pop(int(pid), None)
    if registered:
        import process_tree  # type: ignore[import-not-found]

        process_tree.kill_processes([pid for pid in registered if pid > 0], registered.values())
    if folders:
        import json
        from pathlib import Path

        import file_tree  # type: ignore[import-not-found]

        for folder in folders:
            file_tree.remove_tree(Path(json.loads(folder)))


if __name__ == "__main__":
    main()
