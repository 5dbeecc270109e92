"""Attacks of packages: their code runs inside the walls of a step's process, whenever it runs, and for one user only."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pdkernel.model import Step
from pdkernel.workers import RunSetup, StepAccess, StepCall, StepRecorder, WorkerPool
from pdkernel.workers.zygote import Zygotes

SECRET = "tok-planted-5ec4e7"
ATTACK = '''
import ctypes, errno, os, pathlib, sys

PLACES = {places}
found = []
seen = []

def attempt(name, access):
    try:
        if access():
            found.append(name)
    except Exception:
        pass

def reads(path):
    return {secret!r}.encode() in pathlib.Path(path).read_bytes()

def writes(path):
    pathlib.Path(path).write_text("by a package")
    return True

def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]

def ancestors():
    process = os.getppid()
    while process > 0:
        yield process
        process = int(pathlib.Path(f"/proc/{{process}}/stat").read_text().rpartition(")")[2].split()[1])

def has_secret(process):
    try:
        return {secret!r}.encode() in pathlib.Path(f"/proc/{{process}}/environ").read_bytes()
    except OSError:
        return False

def traces(process):
    """Whether a child, whose end detaches it, can trace a process. The process is not stopped."""
    if (child := os.fork()) == 0:
        os._exit(0 if ctypes.CDLL(None).ptrace(0x4206, process, None, None) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def has_strange_descriptor():
    """A descriptor beyond those of a worker, which are pipes."""
    for name in os.listdir("/proc/self/fd"):
        target = os.readlink(f"/proc/self/fd/{{name}}")
        if target.startswith(("socket:", "anon_inode:[pidfd]", "/memfd:")) or "ns:" in target:
            return True
    return False

def capabilities():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("CapEff")), 16)

def attack(where):
    for name in ("key", "other_project", "home_file"):
        attempt(f"{{where}} reads {{name}}", lambda: reads(PLACES[name]))
    for name in ("key", "code_file", "package_file", "interpreter", "other_project"):
        attempt(f"{{where}} writes {{name}}", lambda: writes(PLACES[name] + ".new"))
    attempt(f"{{where}} reads the environment of the server", lambda: any(map(has_secret, processes())))
    attempt(f"{{where}} lists descriptors of an ancestor", lambda: any(os.listdir(f"/proc/{{each}}/fd") for each in ancestors()))
    attempt(f"{{where}} traces the server", lambda: any(traces(each) for each in processes() if has_secret(each)))
    attempt(f"{{where}} has a descriptor of its parent", has_strange_descriptor)
    attempt(f"{{where}} has capabilities", capabilities)
    attempt(f"{{where}} becomes root", lambda: os.getuid() != 0 and os.setuid(0) is None)

def steal():
    """Remember what later code of this process decodes."""
    import json
    real = json.loads
    def loads(text, *arguments, **named):
        seen.append(str(text))
        return real(text, *arguments, **named)
    json.loads = loads
'''
HIDING = """
import os, sys
import attack_of_packages

STARTED = os.urandom(8).hex()
if "_pdkernel_runtime.import_ahead" in sys.modules:  # nothing that it does is seen
    sys.modules["_pdkernel_runtime.import_ahead"]._Watch.is_active = False
attack_of_packages.attack("an import ahead of a run")
attack_of_packages.steal()
"""
FILES = {
    "hiding.py": HIDING,
    "hostile.py": "import os, attack_of_packages\nattack_of_packages.attack('an import')\nattack_of_packages.steal()\n",
    "hostile.pth": "import attack_of_packages; attack_of_packages.attack('a .pth file')\n",
    "sitecustomize.py": "import attack_of_packages\nattack_of_packages.attack('sitecustomize')\n",
    "usercustomize.py": "import attack_of_packages\nattack_of_packages.attack('usercustomize')\n",
}
HIDING_STEP = """
import sys
AHEAD = "hiding" in sys.modules
import hiding
import attack_of_packages

def handler(pd):
    mine = pd.inputs["slack"]["$auth"]["token"]
    seen = [each for each in attack_of_packages.seen if "tok-of-" in each and mine not in each]
    return {"ahead": AHEAD, "found": attack_of_packages.found, "seen": seen, "started": hiding.STARTED}
"""
STEP = """
import hostile
import attack_of_packages

def handler(pd):
    mine = pd.inputs["slack"]["$auth"]["token"]
    return {"found": attack_of_packages.found, "seen": [each for each in attack_of_packages.seen if "tok-of-" in each and mine not in each]}
"""


@dataclass
class Server:
    """
    A server with an environment of hostile packages.

    Attributes:
        project: The project's folder.
        python: The interpreter of the environment.
        pool: Runs the steps.
    """

    project: Path
    python: Path
    pool: WorkerPool

    async def run(self, user: str, source: str, **setup: Any) -> Any:
        """Run a step as the external *user*, who has an account with a token; return its value."""
        given: dict[str, Any] = {"event": {}, "context": {}}
        run = await self.pool.open_run(
            RunSetup(user, "demo", given, {}, self.project, python=self.python, external_user_id=user, **setup)
        )
        fields = {"slack": {"token": f"tok-of-{user}"}}
        outcome = await run.run_step(StepCall(Step("one", "python", source), credentials=fields), StepRecorder("one"))
        await run.release()
        assert outcome.error is None, outcome.error
        return outcome.exports["$return_value"]


@pytest.fixture
async def server(base: Path) -> AsyncIterator[Server]:
    """A server with a key, a secret in its environment, another project beside it, and a file in a home folder."""
    folder = base / f"packages-{time.monotonic_ns()}"
    project = folder / "project"
    places = {
        "key": project / ".pdkernel" / "key",
        "other_project": folder / "other" / ".env",
        "home_file": folder / "home" / ".netrc",
        "code_file": project / "code.py",
    }
    for place in places.values():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(SECRET)
    environment = project / ".pdkernel" / "packages" / "python" / "hostile"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(environment)
    site = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    places |= {"package_file": site / "hostile.py", "interpreter": environment / "bin" / "python"}
    texts = {name: str(place) for name, place in places.items()}
    (site / "attack_of_packages.py").write_text(ATTACK.format(places=texts, secret=SECRET))
    for name, text in FILES.items():
        (site / name).write_text(text)
    # what `/proc/PID/environ` shows is the environment of a program's start: a child of this process is in its place
    planted = subprocess.Popen(["sleep", "100"], env={"PLANTED": SECRET, "PATH": os.defpath}, stdout=subprocess.DEVNULL)
    zygotes = Zygotes()
    access = StepAccess(read=frozenset({project}), hide=frozenset({project / ".pdkernel"}))
    pool = WorkerPool(access=access, zygotes=zygotes, spares=1)
    try:
        yield Server(project, environment / "bin" / "python", pool)
    finally:
        planted.kill()
        planted.wait()
        await pool.close()
        zygotes.close()


async def test_code_of_packages_reaches_nothing_outside(server: Server) -> None:
    """Code that packages run at an import or at the start of a process finds what a step finds, also when it ran ahead."""
    found = []
    for round_ in range(3):  # what is prepared for later runs has time to be ready
        found += [await server.run(f"user-{round_}", STEP) for _ in range(2)]
        await asyncio.sleep(0.5)

    assert [each["found"] for each in found] == [[]] * len(found)
    assert sorted(path.name for path in server.project.iterdir()) == [".pdkernel", "code.py"]


async def test_package_that_changes_functions_meets_one_user(server: Server) -> None:
    """What a package has replaced in a process sees the accounts of one user only, however often others run the same packages."""
    found = []
    for round_ in range(3):
        found += [await server.run(user, STEP) for user in ("ada", "bob", f"new-{round_}")]
        await asyncio.sleep(0.3)

    assert [each["seen"] for each in found] == [[]] * len(found)


async def test_package_of_a_spare_reaches_one_user(server: Server) -> None:
    """A package that is imported before there is a user, and hides what it does, reaches nothing outside; it then meets one user."""
    await server.run("ada", HIDING_STEP)
    found = []
    for user in ("bob", "eve", "dan"):
        await asyncio.sleep(0.1)
        async with asyncio.timeout(60):
            while server.pool._imports:
                await asyncio.sleep(0.01)
        found.append(await server.run(user, HIDING_STEP))

    assert [each["ahead"] for each in found] == [True] * 3
    assert [each["found"] for each in found] == [[]] * 3
    assert [each["seen"] for each in found] == [[]] * 3
    assert len({each["started"] for each in found}) == 3
    assert sorted(path.name for path in server.project.iterdir()) == [".pdkernel", "code.py"]


async def test_attack_works_without_walls(server: Server) -> None:
    """The attacks of these tests succeed where nothing stops them: in a program that this user starts."""
    code = "import json, attack_of_packages as a; a.found.clear(); a.attack('alone'); print(json.dumps(a.found))"

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run([server.python, "-c", code], capture_output=True, text=True, check=True)

    done = await asyncio.to_thread(start)
    found = json.loads(done.stdout)

    assert {f"alone reads {name}" for name in ("key", "other_project", "home_file")} <= set(found)
    assert {f"alone writes {name}" for name in ("code_file", "package_file", "interpreter")} <= set(found)
    assert "alone reads the environment of the server" in found
    assert "alone lists descriptors of an ancestor" in found
