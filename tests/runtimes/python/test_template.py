"""What a forked Python worker finds of its environment, and what its template imports before the fork."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from pdkernel.model import Step
from pdkernel.workers import RunSetup, StepCall, StepRecorder, WorkerPool
from pdkernel.workers.zygote import ZYGOTES

PROBE = """
import json, os, sys
effects, names = [], []
CONNECTING = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "_thread.start_new_thread", "os.putenv")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
class Environment(type(os.environ)):
    def __getitem__(self, key):
        names.append(str(key))
        return super().__getitem__(key)
    def __contains__(self, key):
        names.append(str(key))
        return super().__contains__(key)
    def __iter__(self):
        names.append("*")
        return super().__iter__()
def watch(event, arguments):
    if event.startswith(CONNECTING) and event != "socket.__new__" or event == "open" and (arguments[2] or 0) & WRITING:
        effects.append(event)
sys.addaudithook(watch)
os.environ.__class__ = Environment
sys.dont_write_bytecode = True
for name in sys.argv[1:]:
    __import__(name)
print(json.dumps([effects, names]))
"""


def test_common_modules_are_harmless() -> None:
    """The import of the modules of every template connects to nothing, starts nothing, writes nothing and reads no variable."""
    names = [
        "import re, sys, pathlib",
        "text = pathlib.Path(sys.argv[1]).read_text()",
        "print(*re.findall(r'\"([^\"]+)\"', text.partition('COMMON_MODULES = (')[2].partition(')')[0]))",
    ]
    template = Path(__file__).parents[3] / "pdkernel" / "runtimes" / "python" / "template.py"
    listed = subprocess.run(
        [sys.executable, "-c", "\n".join(names), template], capture_output=True, text=True, check=True
    ).stdout.split()

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROBE, *listed], capture_output=True, text=True, check=True
    )

    assert "ssl" in listed
    effects, names = json.loads(done.stdout)
    assert effects == []
    assert [name for name in names if not name.startswith("_PYTHON_")] == []  # only CPython's own tests set these


LOOK = """
import builtins, os, sys
import by_path, from_finder, apart.inside

def handler(pd):
    return {
        "modules": [by_path.VALUE, from_finder.VALUE, apart.inside.VALUE],
        "started_by": builtins.STARTED_BY,
        "customized": getattr(builtins, "CUSTOMIZED", None),  # some systems have a `sitecustomize` of their own
        "path": sys.path,
        "prefixes": [sys.prefix, sys.exec_prefix, sys.base_prefix],
        "executable": sys.executable,
        "uid": os.getuid(),
    }
"""
FINDER = """
import importlib.machinery, importlib.util, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "from_finder":
            return importlib.util.spec_from_file_location(name, {file!r})

def install():
    sys.meta_path.append(Finder)
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with editable installs of both kinds, two parts of a namespace package, and a `sitecustomize`."""
    folder = tmp_path / "environment"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    sources = tmp_path / "project" / "sources"
    files = {
        sources / "by_path.py": "VALUE = 'by a path line'",
        sources / "other" / "from_finder.py": "VALUE = 'by a finder'",
        sources / "apart" / "inside.py": "from apart import outside\nVALUE = outside.VALUE",
        site / "apart" / "outside.py": "VALUE = 'by two folders'",
        site / "path.pth": f"{sources}\n",
        site / "_editable_finder.py": FINDER.format(file=str(sources / "other" / "from_finder.py")),
        site / "finder.pth": "import _editable_finder; _editable_finder.install()\n",
        site / "user.pth": "import builtins, os; builtins.STARTED_BY = os.getuid()\n",
        site / "sitecustomize.py": "import builtins\nbuiltins.CUSTOMIZED = True\n",
    }
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


async def look(folder: Path, environment: Path, pool: WorkerPool) -> list[Any]:
    """Return what two runs find in *environment*, the second one in a process that has run the first one."""
    setup = RunSetup("run", "demo", {"event": {}}, {}, folder / "project", python=environment / "bin" / "python")
    found = []
    for _ in range(2):
        run = await pool.open_run(setup)
        outcome = await run.run_step(StepCall(Step("one", "python", LOOK)), StepRecorder("one"))
        await run.release()
        found.append(outcome.exports.get("$return_value") or outcome.error)
    return found


async def test_packages_are_loaded_as_in_a_started_process(tmp_path: Path, environment: Path) -> None:
    """Editable installs, namespace packages, `.pth` files and `sitecustomize` work in a fork as in a process of its own."""
    forking, alone = WorkerPool(), WorkerPool(zygotes=None)

    forked, started = await look(tmp_path, environment, forking), await look(tmp_path, environment, alone)
    await asyncio.gather(forking.close(), alone.close())

    assert forked[0]["modules"] == ["by a path line", "by a finder", "by two folders"]
    assert forked[0]["prefixes"][:2] == [str(environment)] * 2
    own = {each["uid"] for each in forked}
    assert {each.pop("started_by") for each in forked} == own  # it ran when the process had its user
    assert {each.pop("started_by") for each in started} == {os.getuid()}
    for each in (*forked, *started):
        each.pop("uid")
    assert forked == started


async def test_template_runs_no_code_of_an_environment(tmp_path: Path, environment: Path) -> None:
    """The programs that start workers have no folder of packages in their import path."""
    pool = WorkerPool()
    await look(tmp_path, environment, pool)
    zygote = ZYGOTES.get(environment / "bin" / "python")
    if zygote is None:
        pytest.skip("NOT RUN: this system has no zygotes")
    assert zygote._pid is not None

    arguments = Path(f"/proc/{zygote._pid}/cmdline").read_bytes().split(b"\0")
    await pool.close()

    assert arguments[0] == os.fsencode(os.path.realpath(sys.executable))
    assert arguments[1:3] == [b"-I", b"-S"]
