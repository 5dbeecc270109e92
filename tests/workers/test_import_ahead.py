"""Spare workers import packages before they have a user: what they import, what no run may notice, and what makes them useless."""

from __future__ import annotations

import asyncio
import sys
import time
import venv
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pdkernel.model import Step
from pdkernel.workers import RunSetup, StepCall, StepRecorder, WorkerPool
from pdkernel.workers.process_memory import BYTES_PER_MB

STEP = """
import os, sys
BEFORE = [name for name in {names} if name in sys.modules]
{imports}

def handler(pd):
    return {{"ahead": BEFORE, "value": {value}, "left": os.path.exists("left")}}
"""


@dataclass
class Spares:
    """
    A pool with a spare worker, for an environment whose packages are written in a test.

    Attributes:
        pool: The pool.
        site: The environment's folder of packages.
        project: The project's folder.
        python: The environment's interpreter.
    """

    pool: WorkerPool
    site: Path
    project: Path
    python: Path

    def write(self, **modules: str) -> None:
        """Write *modules*, their texts by name, into the environment."""
        for name, text in modules.items():
            (self.site / f"{name}.py").write_text(text)

    async def run(self, user: str, *names: str, value: str = "None", variables: dict[str, str] | None = None) -> Any:
        """
        Run a step of *user* that imports the modules *names*, and wait until the next spare is ready.

        Returns which modules were in its process before, under `ahead`; the *value*, an expression; and whether its folder has a file `left`.
        """
        imports = "\n".join(f"try:\n    import {name}\nexcept ImportError:\n    pass" for name in names)
        source = STEP.format(names=list(names), imports=imports, value=value)
        setup = RunSetup(
            user, "demo", {"event": {}}, variables or {}, self.project, python=self.python, external_user_id=user
        )
        run = await self.pool.open_run(setup)
        outcome = await run.run_step(StepCall(Step("one", "python", source)), StepRecorder("one"))
        await run.release()
        await self.settle()
        return outcome.exports.get("$return_value") or outcome.error

    async def settle(self) -> None:
        """Wait until no spare imports."""
        await asyncio.sleep(0.02)
        async with asyncio.timeout(60):
            while self.pool._imports or self.pool._creating:
                await asyncio.sleep(0.01)


@pytest.fixture
async def spares(tmp_path: Path) -> AsyncIterator[Spares]:
    """A pool with a spare worker, and an environment."""
    environment, project = tmp_path / "environment", tmp_path / "project"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(environment)
    project.mkdir()
    site = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    pool = WorkerPool(spares=1, measure_memory=lambda pids: 70 * BYTES_PER_MB * len(pids))
    yield Spares(pool, site, project, environment / "bin" / "python")
    await pool.close()


async def test_new_user_finds_modules_that_other_runs_imported(spares: Spares) -> None:
    """The first run of a user imports what no run has imported before; the first runs of later users find it, each in a process of its own."""
    spares.write(package="import os\nTOKEN = os.urandom(8).hex()", other="")

    first = await spares.run("ada", "package", value="package.TOKEN")
    later = [await spares.run(user, "package", value="package.TOKEN") for user in ("bob", "eve")]
    new = [await spares.run(user, "package", "other") for user in ("dan", "fay")]

    assert first["ahead"] == []
    assert [each["ahead"] for each in later] == [["package"]] * 2
    assert len({each["value"] for each in (first, *later)}) == 3
    assert [each["ahead"] for each in new] == [["package"], ["package", "other"]]


async def test_waiting_spare_imports_what_a_later_run_of_a_user_imports(spares: Spares) -> None:
    """If a user's second run imports more, the spare that waits already imports it, too."""
    spares.write(package="", other="")
    await spares.run("ada", "package")

    await spares.run("ada", "other")

    assert (await spares.run("bob", "package", "other"))["ahead"] == ["package", "other"]


async def test_module_finds_the_environment_of_the_run(spares: Spares) -> None:
    """Variables, folder, path and arguments at the time of the import are those of the run, except for what identifies the process."""
    spares.write(
        package="import os, sys\nFOUND = [{k: v for k, v in dict(vars(os.environ)['_data']).items() if b'PDK' not in k}, os.getcwd(), "
        "sys.path[:], sys.argv[:]]"
    )
    value = "repr(package.FOUND).replace(os.getcwd(), 'the folder of the run')"

    own = await spares.run("ada", "package", value=value)
    ahead = await spares.run("bob", "package", value=value)

    assert ahead["ahead"] == ["package"]
    assert "the folder of the run" in own["value"]
    assert ahead["value"] == own["value"]


async def test_run_that_sets_a_variable_imports_what_read_it(spares: Spares) -> None:
    """A run with a variable that a module read at its import, even in vain, imports the module itself and finds its value."""
    spares.write(
        package="import os\nSETTING = os.environ.get('SETTING')\nHOME = os.environb[b'HOME']\nIS_SET = 'FLAG' in os.environ"
    )
    value = "[package.SETTING, package.HOME.decode(), package.IS_SET]"
    await spares.run("ada", "package")

    found = [
        await spares.run(f"user-{name}", "package", value=value, variables={name: "/value"})
        for name in ("SETTING", "HOME", "FLAG", "UNREAD")
    ]

    assert [each["ahead"] for each in found] == [[], [], [], ["package"]]
    assert found[0]["value"][0] == "/value"
    assert found[1]["value"][1] == "/value"
    assert found[2]["value"][2] is True


UNFIT = {
    "fails": "import package_of_nobody",
    "raises": "raise SystemExit",
    "ends": "import os\nos._exit(1)",
    "prints": "print('hello')",
    "starts_thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
    "starts_process": "import subprocess\nsubprocess.Popen(['sleep', '100'])",
    "starts_process_in_c": "import ctypes, os, time\nif ctypes.CDLL(None).fork() == 0:\n    time.sleep(100)\n    os._exit(0)",
    "connects": "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError:\n    pass",
    "resolves": "import socket\ntry:\n    socket.getaddrinfo('localhost', 80)\nexcept OSError:\n    pass",
    "listens": "import socket\nS = socket.socket()\nS.bind(('127.0.0.1', 0))\nS.listen()",
    "opens": "import os\nFILE = os.open('/', os.O_RDONLY)",
    "writes": "try:\n    open('left', 'w').close()\nexcept OSError:\n    pass",
    "replaces_builtin": "import builtins\nbuiltins.sum = lambda values: 0",
    "adds_builtin": "import builtins\nbuiltins.added = 1",
    "extends_path": "import sys\nsys.path.append('/nowhere')",
    "extends_sys": "import sys\nsys.added = 1",
    "sets_variable": "import os\nos.environ['LEFT'] = '1'",
    "reads_all_variables": "import os\nALL = dict(os.environ)",
    "changes_folder": "import os\nos.chdir('/')",
    "adds_handler": "import logging\nlogging.basicConfig()",
    "handles_signal": "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)",
    "replaces_stream": "import sys, io\nsys.stdout = io.StringIO()",
}


@pytest.mark.parametrize("text", UNFIT.values(), ids=UNFIT)
async def test_module_that_does_not_fit_is_not_imported_ahead(spares: Spares, text: str) -> None:
    """A module whose import a run would notice is imported by the run itself; what else the run needs is still imported ahead."""
    spares.write(harmless="", unfit=text, zeta="")

    spares.pool._modules[RunSetup("", "", {}, {}, spares.project, python=spares.python).worker_key.spare] = {
        "harmless": True,
        "unfit": True,
        "zeta": True,
    }
    await spares.run("ada", "harmless")
    found = await spares.run("bob", "harmless", "zeta", value="[name for name in sys.modules if name == 'unfit']")

    assert found == {"ahead": ["harmless", "zeta"], "value": [], "left": False}


async def test_effects_of_an_import_ahead_are_refused(spares: Spares, tmp_path: Path) -> None:
    """An import does nothing outside of its process before there is a run: no file appears."""
    place = tmp_path / "project"
    spares.write(unfit=f"import sys\nif 'step_one' not in sys.modules:\n    open({str(place / 'left')!r}, 'w').close()")

    await spares.run("ada", "unfit")
    found = await spares.run("bob", "unfit")

    assert found["ahead"] == []
    assert list(place.iterdir()) == []


async def test_sources_outside_of_the_packages_are_not_imported_ahead(spares: Spares) -> None:
    """A module of an editable package may change before the next run, so the run imports it."""
    (spares.project / "edited.py").write_text("VALUE = 1")
    (spares.site / "edited.pth").write_text(f"{spares.project}\n")
    await spares.run("ada", "edited")
    (spares.project / "edited.py").write_text("VALUE = 'changed'")

    found = await spares.run("bob", "edited", value="edited.VALUE")

    assert found["ahead"] == []
    assert found["value"] == "changed"


async def test_spare_that_imports_serves_no_run(spares: Spares) -> None:
    """A user who comes while the spare imports does not wait for it, and gets another process."""
    spares.write(slow="import time, sys\nif 'step_one' not in sys.modules:\n    time.sleep(2)")
    run = asyncio.ensure_future(spares.run("ada", "slow"))
    while not spares.pool._imports:
        await asyncio.sleep(0.01)

    began = time.monotonic()
    setup = RunSetup("run", "demo", {"event": {}}, {}, spares.project, python=spares.python, external_user_id="bob")
    workers = await spares.pool.open_run(setup)
    source = "def handler(pd):\n    import sys\n    return 'slow' in sys.modules\n"
    outcome = await workers.run_step(StepCall(Step("one", "python", source)), StepRecorder("one"))
    took = time.monotonic() - began
    await workers.release()
    await run

    assert outcome.exports == {"$return_value": False}
    assert took < 2


async def test_memory_of_a_spare_with_packages_counts(spares: Spares) -> None:
    """The memory of a spare is measured after its imports, and no spare is started that would exceed the budget with it."""
    spares.write(package="")
    await spares.run("ada", "package")
    slots = spares.pool._slots
    while slots._measuring is not None:
        await slots._measuring

    spare = next(slot for slot in slots._idle if slot.runs == 0)

    assert slots._slots[spare] == 70 * BYTES_PER_MB
    slots._budget = slots._used + 69 * BYTES_PER_MB
    assert not slots.has_room(spares.python, ["python"])
    slots._budget = slots._used + 70 * BYTES_PER_MB
    assert slots.has_room(spares.python, ["python"])


async def test_closed_pool_ends_spares_that_import(spares: Spares) -> None:
    """A pool that is closed while a spare imports leaves no process and starts no other one."""
    spares.write(slow="import time, sys\nif 'step_one' not in sys.modules:\n    time.sleep(100)")
    run = asyncio.ensure_future(spares.run("ada", "slow"))
    while not spares.pool._imports:
        await asyncio.sleep(0.01)
    (slot,) = spares.pool._imports
    worker = slot.workers["python"]

    await spares.pool.close()
    await run

    assert not worker.is_alive
    assert list(spares.pool._slots._slots) == []


async def test_description_runs_beside_no_package(spares: Spares) -> None:
    """What describes components for all users takes a spare without its Python worker, which may have imported packages."""
    setup = RunSetup("run", "demo", {"event": {}}, {}, spares.project, external_user_id="ada")
    run = await spares.pool.open_run(setup)
    await run.run_step(StepCall(Step("one", "python", "def handler(pd):\n    return 1\n")), StepRecorder("one"))
    await run.release()
    await spares.settle()
    (spare,) = spares.pool._slots.idle_slots(setup.worker_key.spare)
    before = list(spare.workers)

    slot = spares.pool.acquire_slot(setup.for_nobody())
    spares.pool.discard_slot(slot)

    assert slot is spare
    assert before == ["python"]
    assert list(slot.workers) == []
