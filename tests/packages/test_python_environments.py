"""Environments of Python steps: creation, reuse, locks, errors."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.errors import PackageMissingError, ProjectError
from pdkernel.language.analysis import PythonRequirement, find_python_requirements
from pdkernel.packages import PYTHON_LOCK_NAME, ProgressUpdate, PythonEnvironment, PythonInstallError, PythonPackages
from pdkernel.packages.python_lock import describe_machine, describe_python
from tests.wheels import WheelFolder

Open = Callable[..., PythonPackages]


@pytest.fixture
def wheels(tmp_path: Path) -> WheelFolder:
    """An empty registry."""
    return WheelFolder(tmp_path / "wheels")


@pytest.fixture
def opened(wheels: WheelFolder, tmp_path: Path) -> Open:
    """Opens the environments of the project in `tmp_path`, as a new process does."""

    def open_packages(folder: str = "python", **environ: str) -> PythonPackages:
        return PythonPackages(
            tmp_path / folder, lock=tmp_path / PYTHON_LOCK_NAME, environ={**wheels.environ(), **environ}
        )

    return open_packages


async def ensure(
    packages: PythonPackages, source: str, *, install: bool = True, said: list[str] | None = None
) -> PythonEnvironment:
    """The environment of a step with the code *source*."""
    heard = [] if said is None else said

    def report(line: str) -> None:
        if not isinstance(line, ProgressUpdate):  # an update comes each second
            heard.append(line)

    return await packages.ensure(find_python_requirements(source), install=install, progress=report)


def in_it(environment: PythonEnvironment, code: str) -> str:
    """The output of *code* in the environment, or the last line of its error."""
    done = subprocess.run([environment.python, "-I", "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


async def test_steps_without_packages_share_a_bare_environment(opened: Open) -> None:
    """The environment is isolated from pdkernel's own, reports no progress, and is reused by the next process."""
    said: list[str] = []

    first = await ensure(opened(), "import json", said=said)
    second = await ensure(opened(), "", install=False, said=said)

    assert first == second
    assert in_it(first, "import pytest") == "ModuleNotFoundError: No module named 'pytest'"
    assert first.packages() == {}
    assert said == []


async def test_an_import_is_installed_once(opened: Open, wheels: WheelFolder, tmp_path: Path) -> None:
    """The module's distribution is installed with dependencies that pip's constraints allow; a second call only marks the use."""
    wheels.publish("beautifulsoup4", modules={"bs4/__init__.py": "import soupsieve\n"}, requires=["soupsieve"])
    for version in ("2.5", "3.0"):
        wheels.publish("soupsieve", version)
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("soupsieve<3\n")
    said: list[str] = []

    first = await ensure(opened(PIP_CONSTRAINT=str(constraints)), "from bs4 import x", said=said)
    os.utime(first.folder, (1_000_000, 1_000_000))
    again = await ensure(opened(), "import bs4", install=False)

    assert first == again
    assert first.folder.stat().st_mtime > 1_000_000
    assert first.packages() == {"beautifulsoup4": "1.0", "soupsieve": "2.5"}
    assert in_it(first, "import bs4; print('here')") == "here"
    assert said[-1].startswith("installed beautifulsoup4 1.0, soupsieve 2.5 in ")


async def test_the_lock_applies_on_a_fresh_machine(opened: Open, wheels: WheelFolder, tmp_path: Path) -> None:
    """The lock has versions and hashes and no address; a newer version is ignored."""
    wheels.publish("tiny", "1.0")
    await ensure(opened(), "import tiny")
    wheels.publish("tiny", "2.0")

    elsewhere = await ensure(opened("elsewhere"), "import tiny")

    assert elsewhere.packages() == {"tiny": "1.0"}
    lock = (tmp_path / PYTHON_LOCK_NAME).read_text(encoding="utf-8")
    assert "tiny==1.0 \\\n    --hash=sha256:" in lock
    assert "://" not in lock
    assert str(tmp_path) not in lock


async def test_a_changed_file_is_refused(opened: Open, wheels: WheelFolder) -> None:
    """A file with the locked name and version and another content is not installed."""
    wheels.publish("tiny", "1.0")
    await ensure(opened(), "import tiny")
    wheels.publish("tiny", "1.0", modules={"tiny.py": "print('something else')\n"})

    with pytest.raises(PythonInstallError, match="do not match the hashes in the lock file"):
        await ensure(opened("elsewhere", PIP_NO_CACHE_DIR="1"), "import tiny")


async def test_another_platform_uses_the_locked_versions(opened: Open, wheels: WheelFolder, tmp_path: Path) -> None:
    """The block that is only for the other platform is kept, and a block for all platforms is added."""
    wheels.publish("tiny", "1.0")
    wheels.publish("tiny", "2.0")
    other = f"# tiny for tiny | Python 3.99, moon m1\ntiny==1.0 \\\n    --hash=sha256:{'0' * 64}\n"
    (tmp_path / PYTHON_LOCK_NAME).write_text(other, encoding="utf-8")

    here = await ensure(opened(), "import tiny")

    assert here.packages() == {"tiny": "1.0"}
    assert other in (tmp_path / PYTHON_LOCK_NAME).read_text(encoding="utf-8")


async def test_one_block_serves_all_platforms(opened: Open, wheels: WheelFolder, tmp_path: Path) -> None:
    """A package that only another platform needs is in the lock, is not installed here and is not reported."""
    wheels.publish("tiny", requires=["winter; sys_platform == 'win32'"])
    wheels.publish("winter")
    said: list[str] = []

    environment = await ensure(opened(), "import tiny", said=said)

    lock = (tmp_path / PYTHON_LOCK_NAME).read_text(encoding="utf-8")
    assert f"# tiny for tiny | {describe_python()}\n" in lock
    assert "winter==1.0 ; sys_platform == 'win32' \\\n    --hash=" in lock
    assert environment.packages() == {"tiny": "1.0"}
    assert said[-1].startswith("installed tiny 1.0 in ")
    assert [(pin.name, is_installed) for pin, is_installed in opened().locked()] == [("tiny", True)]


@pytest.mark.parametrize("source", ["import tiny", "# pipedream add-package tiny\nimport more"])
async def test_a_version_without_a_file_for_this_platform_is_replaced(
    opened: Open, wheels: WheelFolder, tmp_path: Path, source: str
) -> None:
    """If the latest version has files for other platforms only, this platform gets an earlier one and a block of its own."""
    wheels.publish("tiny", "1.0", modules={"tiny.py": "", "more.py": ""})
    latest = wheels.publish("tiny", "2.0")
    latest.rename(latest.with_name("tiny-2.0-py3-none-win_arm64.whl"))

    first = await ensure(opened(), source)
    again = await ensure(opened(), source, install=False)

    assert first.packages() == {"tiny": "1.0"}
    assert again == first
    assert f" | {describe_machine()}\n" in (tmp_path / PYTHON_LOCK_NAME).read_text(encoding="utf-8")


async def test_a_lock_of_an_earlier_version_is_converted(opened: Open, wheels: WheelFolder, tmp_path: Path) -> None:
    """One message reports it; versions, hashes and installed environments stay."""
    wheel = wheels.publish("tiny", "1.0")
    wheels.publish("tiny", "2.0")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    header = f"# tiny for tiny | {describe_machine()}\n"
    lock = tmp_path / PYTHON_LOCK_NAME
    lock.write_text(f"# About.\n\n{header}tiny==1.0 --hash=sha256:{digest}\n", encoding="utf-8")
    said: list[str] = []

    environment = await ensure(opened(), "import tiny", said=said)
    again = await ensure(opened(), "import tiny", said=said)

    assert environment.packages() == {"tiny": "1.0"}
    assert environment == again
    earlier = hashlib.sha256(f"{describe_machine()}\ntiny==1.0 --hash=sha256:{digest}\n".encode()).hexdigest()[:16]
    assert environment.folder.name.startswith(earlier)
    assert f"{header}tiny==1.0 \\\n    --hash=sha256:{digest}\n" in lock.read_text(encoding="utf-8")
    assert [line for line in said if "format of uv" in line] == [
        "pdkernel-python.lock has the format of uv now, with the same versions and hashes. Commit the file."
    ]


async def test_adding_a_package_keeps_the_versions_of_the_others(opened: Open, wheels: WheelFolder) -> None:
    """An added import does not change other versions; a pinned version does."""
    wheels.publish("tiny", "1.0")
    await ensure(opened(), "import tiny")
    wheels.publish("tiny", "2.0")
    wheels.publish("more", "1.0")

    added = await ensure(opened(), "import tiny, more")
    pinned = await ensure(opened(), "# pipedream add-package tiny==2.0\nimport tiny")

    assert added.packages() == {"more": "1.0", "tiny": "1.0"}
    assert pinned.packages() == {"tiny": "2.0"}


async def test_a_version_on_which_the_lock_disagrees_is_not_kept(opened: Open, wheels: WheelFolder) -> None:
    """If two sets have different versions of a package, a further set gets the newest."""
    for version in ("1.0", "2.0"):
        wheels.publish("tiny", version)
        await ensure(opened(), f"# pipedream add-package tiny=={version}\nimport tiny")
    wheels.publish("tiny", "3.0")
    wheels.publish("more", "1.0")

    added = await ensure(opened(), "import tiny, more")

    assert added.packages() == {"more": "1.0", "tiny": "3.0"}


async def test_a_comment_may_provide_the_imported_module(opened: Open, wheels: WheelFolder) -> None:
    """`add-package py-foo` with `import foo` does not install the distribution `foo`; other imports are still installed."""
    wheels.publish("py-foo", modules={"foo.py": "", "deep/__init__.py": ""})
    wheels.publish("foo", modules={"unrelated.py": ""})
    wheels.publish("more")

    environment = await ensure(opened(), "# pipedream add-package pip install py-foo\nimport foo, deep, more")

    assert environment.packages() == {"more": "1.0", "py-foo": "1.0"}


async def test_installation_runs_no_code_of_a_package(opened: Open, wheels: WheelFolder, tmp_path: Path) -> None:
    """Neither a `.pth` file nor another base of the interpreter, which a package brings, has an effect on a second installation."""
    mark = tmp_path / "ran"
    runs = f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n"
    base = tmp_path / "base"
    (base / "lib").mkdir(parents=True)
    wheels.publish(
        "first",
        modules={"first.py": "", "first.pth": runs, "first-1.0.data/data/pyvenv.cfg": f"home = {base / 'bin'}\n"},
    )
    wheels.publish("other")

    environment = await ensure(opened(PIP_NO_CACHE_DIR="1"), "# pipedream add-package first\nimport other")

    assert environment.packages() == {"first": "1.0", "other": "1.0"}
    assert not mark.exists()


@pytest.mark.parametrize("folder", ["python", "steps' own Python"], ids=["plain", "quoted"])
async def test_commands_of_packages_start(opened: Open, wheels: WheelFolder, folder: str) -> None:
    """A package's command runs with the environment's final path, also with one that no `#!` line can have."""
    wheels.publish("tool", modules={"tool.py": "def main():\n    print('it runs')\n"}, scripts={"tool": "tool:main"})

    environment = await ensure(opened(folder), "import tool")

    command = environment.folder / "bin" / "tool"
    assert subprocess.run([command], capture_output=True, text=True, check=True).stdout == "it runs\n"


async def test_installations_can_be_forbidden(opened: Open, wheels: WheelFolder, tmp_path: Path) -> None:
    """The error has the packages and the command; no environment is created."""
    wheels.publish("tiny")

    with pytest.raises(PackageMissingError) as raised:
        await ensure(opened(), "import tiny, yaml", install=False)

    assert raised.value.names == ("PyYAML", "tiny")
    assert "pdkernel packages install" in raised.value.fix
    assert not (tmp_path / "python").exists()


async def test_a_missing_package_is_named(opened: Open, wheels: WheelFolder) -> None:
    """The error names the import and the fix, a comment."""
    wheels.publish("tiny")

    with pytest.raises(PythonInstallError) as raised:
        await ensure(opened(), "import tiny\nimport nosuch.part")

    assert raised.value.failed_names == {"nosuch"}
    assert raised.value.message == "The registry has no package nosuch, which `import nosuch` requires."
    assert "# pipedream add-package NAME" in raised.value.fix


async def test_a_missing_version_names_an_existing_one(opened: Open, wheels: WheelFolder) -> None:
    """The message and the fix have the latest version that can be installed."""
    wheels.publish("tiny", "1.0")
    wheels.publish("tiny", "1.1")

    with pytest.raises(PythonInstallError) as raised:
        await ensure(opened(), "# pipedream add-package tiny==9")

    assert "The package tiny has no version ==9" in raised.value.message
    assert "The latest that can be installed: 1.1." in raised.value.message
    assert "tiny==1.1" in raised.value.fix


async def test_source_archives_are_not_run(opened: Open, wheels: WheelFolder, tmp_path: Path) -> None:
    """A package without a wheel, whose installation would run its code, is refused with a fix."""
    mark = tmp_path / "mark"
    wheels.publish_source("oldish", setup=f"open({str(mark)!r}, 'w').write('ran')")

    with pytest.raises(PythonInstallError) as raised:
        await ensure(opened(), "import oldish")

    assert "A source archive is not installed" in raised.value.message
    assert "pip wheel --no-deps oldish" in raised.value.fix
    assert not mark.exists()


async def test_conflicting_packages_are_named(opened: Open, wheels: WheelFolder) -> None:
    """The message has both conflicting requirements."""
    wheels.publish("left", requires=["base<2"])
    wheels.publish("right", requires=["base>=2"])
    wheels.publish("base", "1.0")
    wheels.publish("base", "2.0")

    with pytest.raises(PythonInstallError, match="cannot be installed together") as raised:
        await ensure(opened(), "import left, right")

    assert "all versions of left depend on base<2" in raised.value.message
    assert "all versions of right depend on base>=2" in raised.value.message
    assert raised.value.failed_names == {"left", "right"}


async def test_no_network_is_reported_without_the_address(opened: Open) -> None:
    """The address of a registry may contain a password; no message contains the address."""
    environ = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://user:pa55word@127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    said: list[str] = []

    with pytest.raises(PythonInstallError, match="registry cannot be reached") as raised:
        await ensure(opened(**environ), "import tiny", said=said)

    assert "pa55word" not in f"{raised.value}{raised.value.fix}{said}"
    assert "127.0.0.1" not in str(raised.value)


async def test_a_registry_that_refuses_is_reported_without_the_password(opened: Open) -> None:
    """The message has the status that the registry answered, and neither its address nor a password."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        environ = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": f"http://user:pa55word@127.0.0.1:{port}/simple"}
        with pytest.raises(PythonInstallError, match="the package registry answered 401 Unauthorized") as raised:
            await ensure(opened(**environ), "import tiny")

    assert "pa55word" not in f"{raised.value}{raised.value.fix}"
    assert "127.0.0.1" not in f"{raised.value}{raised.value.fix}"


async def test_concurrent_processes_install_once(opened: Open, wheels: WheelFolder) -> None:
    """The second process waits, and uses the environment of the first."""
    wheels.publish("tiny")
    said: list[str] = []

    first, second = await asyncio.gather(
        ensure(opened(), "import tiny", said=said), ensure(opened(), "import tiny", said=said)
    )

    assert first == second
    assert len([line for line in said if line.startswith("installed ")]) == 1
    assert "Waiting for another process that installs packages" in said


async def test_an_incomplete_installation_is_removed(opened: Open, wheels: WheelFolder, tmp_path: Path) -> None:
    """Cancelled installations and those of dead processes are removed; the next one succeeds."""
    wheels.publish("tiny")
    (tmp_path / "python" / "building-0-0").mkdir(parents=True)
    started = asyncio.Event()
    task = asyncio.ensure_future(
        opened().ensure([PythonRequirement("tiny")], install=True, progress=lambda _line: started.set())
    )
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [each.name for each in (tmp_path / "python").iterdir()] == [".lock"]
    assert (await ensure(opened(), "import tiny")).packages() == {"tiny": "1.0"}


@pytest.mark.parametrize("is_interrupted", [False, True])
async def test_all_modules_are_compiled(opened: Open, wheels: WheelFolder, is_interrupted: bool) -> None:
    """The modules that an import loads have bytecode at once, and the many others later, perhaps from a later process."""
    others = {f"big/other{number}.py": "VALUE = 1\n" for number in range(200)}
    wheels.publish("big", modules={"big/__init__.py": "from big import used\n", "big/used.py": "", **others})
    packages = opened()

    environment = await ensure(packages, "import big")
    compiled = {file.name.partition(".")[0] for file in environment.site.rglob("*.pyc")}
    await packages.finish()
    if is_interrupted:
        (environment.folder / "uncompiled").touch()
        next(environment.site.rglob("other7.*.pyc")).unlink()
        packages = opened()
        await ensure(packages, "import big")
        await packages.finish()

    assert {"__init__", "used"} <= compiled
    assert len(list(environment.site.rglob("*.pyc"))) == len(others) + 2
    assert not (environment.folder / "uncompiled").exists()


async def test_a_deleted_environment_is_created_again(opened: Open, wheels: WheelFolder, tmp_path: Path) -> None:
    """A process that has used an environment sees that it was deleted, and creates it under another name; or that its lock was."""
    wheels.publish("tiny")
    packages = opened()
    first = await ensure(packages, "import tiny")
    shutil.rmtree(tmp_path / "python")

    again = await ensure(packages, "import tiny")

    assert again.packages() == {"tiny": "1.0"}
    assert again.folder != first.folder
    (tmp_path / PYTHON_LOCK_NAME).unlink()
    with pytest.raises(PackageMissingError):
        await ensure(packages, "import tiny", install=False)


@pytest.mark.parametrize(("last_used", "left"), [(1_000_000, 19), (None, 30)], ids=["long ago", "today"])
async def test_unused_environments_are_removed(
    opened: Open, wheels: WheelFolder, tmp_path: Path, last_used: int | None, left: int
) -> None:
    """The most recent environments stay; others are removed a day after their last use, and not before, because a run may still use them."""
    wheels.publish("tiny")
    names = [f"old{number:02}" for number in range(30)]
    for number, name in enumerate(names):
        (tmp_path / "python" / name).mkdir(parents=True)
        if last_used is not None:
            os.utime(tmp_path / "python" / name, (last_used + number, last_used + number))

    await ensure(opened(), "import tiny")

    assert sorted(each.name for each in (tmp_path / "python").iterdir() if each.name in names) == names[-left:]


async def test_a_folder_that_cannot_be_used_is_named(opened: Open, tmp_path: Path) -> None:
    """For a file in the place of the folder, the error has the path, the reason and a fix."""
    (tmp_path / "python").write_text("", encoding="utf-8")

    with pytest.raises(PythonInstallError, match="cannot be created: File exists") as raised:
        await ensure(opened(), "")

    assert str(tmp_path / "python") in raised.value.fix


async def test_a_lock_that_cannot_be_read_is_refused(opened: Open, tmp_path: Path) -> None:
    """A merge conflict is named by its line, and the file is unchanged; a FIFO is refused, not waited for."""
    lock = tmp_path / PYTHON_LOCK_NAME
    conflict = "# tiny for tiny | Python 3.12, x y\n<<<<<<< ours\n"
    lock.write_text(conflict, encoding="utf-8")
    with pytest.raises(ProjectError, match="line 2"):
        await ensure(opened(), "import tiny")
    assert lock.read_text(encoding="utf-8") == conflict

    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(ProjectError, match="cannot be read: Not a regular file"):
        await ensure(opened(), "import tiny")


@pytest.mark.network
async def test_the_real_registry(tmp_path: Path) -> None:
    """A small pinned package is installed from this machine's pip index."""
    packages = PythonPackages(tmp_path / "python", lock=tmp_path / PYTHON_LOCK_NAME, environ=os.environ)

    environment = await ensure(packages, "# pipedream add-package six==1.16.0\nimport six")

    assert environment.packages() == {"six": "1.16.0"}
    assert in_it(environment, "import six; print(six.__version__)") == "1.16.0"


# ── packages that replace those of the lock file ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("machine", [None, "Python 3.9, elsewhere"])
async def test_locked_packages_replace_those_of_the_file(
    opened: Open, wheels: WheelFolder, tmp_path: Path, machine: str | None
) -> None:
    """Packages that are passed are installed in their versions, also those of another machine; the file is not changed."""
    wheels.publish("tiny", "1.0", requires=["deep"])
    wheels.publish("deep", "1.0")
    locked = (await ensure(opened(), "import tiny")).locked
    assert locked is not None
    locked = replace(locked, machine=machine or locked.machine)
    for name in ("tiny", "deep"):
        wheels.publish(name, "2.0")
    (tmp_path / PYTHON_LOCK_NAME).write_text("<<<<<<< HEAD\n")
    shutil.rmtree(tmp_path / "python")
    wanted, packages = find_python_requirements("import tiny"), opened()

    first = await opened().ensure(wanted, install=True, progress=lambda _: None, locked=locked)
    again = await packages.ensure(wanted, install=False, progress=lambda _: None, locked=locked)
    with pytest.raises(ProjectError):  # the file that counts without them cannot be read
        await packages.ensure(wanted, install=False, progress=lambda _: None)

    assert first.packages() == {"deep": "1.0", "tiny": "1.0"}
    assert (again, first.locked, again.locked) == (first, locked, locked)
    assert (tmp_path / PYTHON_LOCK_NAME).read_text() == "<<<<<<< HEAD\n"


async def test_locked_packages_have_their_hashes(opened: Open, wheels: WheelFolder, tmp_path: Path) -> None:
    """A file with another hash than a package that is passed is refused."""
    wheels.publish("tiny", "1.0")
    locked = (await ensure(opened(), "import tiny")).locked
    wheels.publish("tiny", "1.0", modules={"tiny.py": "VERSION = 'changed'\n"})
    shutil.rmtree(tmp_path / "python")

    with pytest.raises(PythonInstallError, match="do not match the hashes"):
        await opened(PIP_NO_CACHE_DIR="1").ensure(
            find_python_requirements("import tiny"), install=True, progress=lambda _: None, locked=locked
        )


def test_processes_that_start_at_once_share_the_bare_environment(opened: Open, tmp_path: Path) -> None:
    """The first of several processes publishes the environment without packages; the others use it, and leave no other folder."""
    barrier = threading.Barrier(8)

    def start(_: int) -> PythonEnvironment:
        barrier.wait(60)
        return asyncio.run(ensure(opened(), ""))

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(start, range(8)))

    assert len(set(found)) == 1
    assert list((tmp_path / "python").iterdir()) == [found[0].folder]
