"""
A program that runs attacks as an isolated process: `python isolated.py`, with a request as JSON on stdin.

It plays the server: it has a secret in its environment and memory, a socket, shared memory, and files. The request holds `module`
(the path of `isolation.py`), `plan`, `uid` (the server's user, or null), `group` (a group of a server of root), `names` (values that attacks use) and `attacks` (name to
the body of a function that returns whether the attack succeeded). It prints the result of each attack as JSON.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import socket
import sys
import textwrap
from pathlib import Path
from typing import Any

CLONE_NEWPID = 0x20000000
PR_SET_DUMPABLE = 4
SECRET = b"the-secret-of-the-server-" + str(os.getpid()).encode()


def attempt(body: str, names: dict[str, Any]) -> bool:
    """Run the attack in a child; whether it succeeded."""
    read, write = os.pipe()
    if os.fork() == 0:
        done = False
        try:
            scope = {"os": os, "ctypes": ctypes, "socket": socket, **names}
            exec(f"def attack():\n{textwrap.indent(body, '    ')}", scope)
            done = bool(scope["attack"]())
        except BaseException:
            done = False
        finally:
            os.write(write, b"1" if done else b"0")
            os._exit(0)
    os.close(write)
    found = os.read(read, 1)
    os.close(read)
    os.wait()
    return found == b"1"


def load_module(path: str | Path) -> Any:
    """Load a module that needs the standard library only."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_child(work: Any) -> None:
    """Call *work* in a child, whose failure ends this process."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        os._exit(1)


def main() -> None:
    """Be the server, start the isolated process, and print what it could do."""
    request = json.load(sys.stdin)
    isolation = load_module(request["module"])
    seccomp = load_module(Path(request["module"]).with_name("seccomp.py"))
    plan, names = request["plan"], request["names"]
    libc = ctypes.CDLL(None, use_errno=True)
    if request["uid"] is not None:
        for descriptor in (1, 2):  # a server owns the pipes to its processes
            os.fchown(descriptor, request["uid"], request["uid"])
        os.setgroups([])
        os.setresgid(*[request["uid"]] * 3)
        os.setresuid(*[request["uid"]] * 3)
    elif os.geteuid() == 0:
        os.setgroups([request["group"]])
    libc.prctl(PR_SET_DUMPABLE, 1)
    buffer = ctypes.create_string_buffer(SECRET)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"\0pdkernel-test-{os.getpid()}")
    listening.listen()
    shared = libc.shmget(0, 4096, 0o1666)
    names |= {
        "server": os.getpid(),
        "secret": SECRET.decode(),
        "address": ctypes.addressof(buffer),
        "shared": shared,
    }

    def run_attacks() -> None:
        if plan is not None:
            seccomp.restrict_system_calls()
            isolation.restrict(plan)
        ctypes.memset(ctypes.addressof(buffer), 0, len(SECRET))  # the child has a copy of the server's memory
        found = {
            name: attempt("libc = ctypes.CDLL(None, use_errno=True)\n" + body, names)
            for name, body in request["attacks"].items()
        }
        sys.stdout.write(json.dumps(found))
        sys.stdout.flush()

    def enter() -> None:
        if plan["namespaces"]:
            isolation.enter_namespaces(plan)
            isolation.mount_proc(plan, None)
        libc.prctl(PR_SET_DUMPABLE, 0)
        in_child(run_attacks)

    def start() -> None:
        if plan is None:
            run_attacks()
            return
        if plan["namespaces"]:
            if os.geteuid() != 0:
                isolation.enter_user_namespace()
            isolation.unshare(CLONE_NEWPID)
        in_child(enter)

    try:
        in_child(start)
    finally:
        libc.shmctl(shared, 0, None)


if __name__ == "__main__":
    main()
