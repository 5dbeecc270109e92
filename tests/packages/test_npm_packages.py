"""Installing npm packages: versions, folders, errors, and the lock file."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import platform
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pdkernel.common.version import INSTALL_COMMANDS
from pdkernel.errors import InterpreterMissingError, PackageInstallError, PackageMissingError, ProjectError
from pdkernel.packages import NPM_LOCK_NAME, NpmPackages, NpmSpec, NpmTree
from pdkernel.packages.npm_packages import LockedSet, NpmLock, find_foreign_package
from pdkernel.workers import find_node
from tests.npm_registry import NpmRegistry
from tests.packages.conftest import Open


def version_in(tree: NpmTree, imported: str) -> str:
    """The version that the import of *imported* resolves to."""
    manifest = tree.folder / "node_modules" / tree.aliases[imported] / "package.json"
    return str(json.loads(manifest.read_text())["version"])


def versions_in(tree: NpmTree) -> Mapping[str, str]:
    """Each import and its version."""
    return {imported: version_in(tree, imported) for imported in tree.aliases}


async def test_the_newest_version_is_installed(registry: NpmRegistry, opened: Open) -> None:
    """An import without a version gets the newest version."""
    registry.publish("tiny", "1.0.0")
    registry.publish("tiny", "1.1.0")

    tree = await opened().ensure([NpmSpec("tiny")])

    assert versions_in(tree) == {"tiny": "1.1.0"}


async def test_two_versions_of_one_package(registry: NpmRegistry, opened: Open) -> None:
    """Exact versions, ranges and scopes are installed as each import requests."""
    for version in ("0.20.0", "0.20.3", "1.0.0", "1.2.0", "2.0.0"):
        registry.publish("@scope/tiny", version)
    specs = [NpmSpec("@scope/tiny", each) for each in (None, "1.0.0", "^1", "~0.20.0", ">=1 <2")]

    tree = await opened().ensure(specs)

    assert versions_in(tree) == {
        "@scope/tiny": "2.0.0",
        "@scope/tiny@1.0.0": "1.0.0",
        "@scope/tiny@^1": "1.2.0",
        "@scope/tiny@~0.20.0": "0.20.3",
        "@scope/tiny@>=1 <2": "1.2.0",
    }


async def test_an_installed_package_is_not_installed_again(registry: NpmRegistry, opened: Open) -> None:
    """In a new process, an installed set and a subset of it need no registry; a subset shows only the requested packages."""
    registry.publish("one", "1.0.0")
    registry.publish("two", "1.0.0")
    both = await opened().ensure([NpmSpec("one"), NpmSpec("two")])
    registry.asked.clear()

    again = await opened().ensure([NpmSpec("one"), NpmSpec("two")], install=False)
    one = await opened().ensure([NpmSpec("one")], install=False)

    assert (again, registry.asked) == (both, [])
    assert (one.folder, one.aliases) == (both.folder, {"one": "one"})


async def test_the_lock_file_has_hashes_and_no_address(registry: NpmRegistry, opened: Open, tmp_path: Path) -> None:
    """The lock file has no registry addresses, so it can be committed."""
    registry.publish("inner", "1.0.0")
    registry.publish("outer", "1.0.0", dependencies={"inner": "^1"})

    await opened().ensure([NpmSpec("outer")])

    text = (tmp_path / NPM_LOCK_NAME).read_text()
    assert text.count('"integrity": "sha512-') == 2
    assert "127.0.0.1" not in text
    assert "resolved" not in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("names", [["outer"], ["outer", "other"]], ids=["a fresh machine", "another set"])
async def test_locked_versions_are_kept(registry: NpmRegistry, opened: Open, names: list[str]) -> None:
    """A package and its dependencies have the version of the lock file on each machine and in every step."""
    registry.publish("inner", "1.0.0")
    registry.publish("outer", "1.0.0", dependencies={"inner": "^1"})
    await opened().ensure([NpmSpec("outer")])
    for name in ("inner", "outer", "other"):
        registry.publish(name, "1.9.0", dependencies={"inner": "^1"} if name == "outer" else {})

    tree = await opened("elsewhere" if names == ["outer"] else "packages").ensure([NpmSpec(name) for name in names])

    inner = json.loads((tree.folder / "node_modules/inner/package.json").read_text())
    assert versions_in(tree) == {name: "1.9.0" if name == "other" else "1.0.0" for name in names}
    assert inner["version"] == "1.0.0"


async def test_dependencies_keep_the_versions_of_the_largest_set(registry: NpmRegistry, opened: Open) -> None:
    """A set that contains several earlier ones keeps the versions of the dependencies of the largest of them."""
    for name, dependencies in (("inner", {}), ("outer", {"inner": "^1"}), ("one", {}), ("two", {})):
        registry.publish(name, "1.0.0", dependencies=dependencies)
    for names in (["one"], ["outer", "two"]):
        await opened().ensure([NpmSpec(name) for name in names])
    registry.publish("inner", "1.9.0")

    tree = await opened().ensure([NpmSpec(name) for name in ("one", "outer", "two")])

    inner = json.loads((tree.folder / "node_modules/inner/package.json").read_text())
    assert inner["version"] == "1.0.0"


async def test_progress_is_reported(registry: NpmRegistry, opened: Open) -> None:
    """Progress has a line at the start and a line with the versions at the end."""
    registry.publish("tiny", "1.0.0")
    lines: list[str] = []

    await opened().ensure([NpmSpec("tiny")], progress=lines.append)

    assert lines[0] == "installing tiny ..."
    assert lines[-1].startswith("installed tiny@1.0.0 in ")


async def test_installations_can_be_forbidden(registry: NpmRegistry, opened: Open) -> None:
    """The error has the missing package and the command; the registry is not contacted."""
    registry.publish("here", "1.0.0")
    await opened().ensure([NpmSpec("here")])
    registry.asked.clear()

    with pytest.raises(PackageMissingError) as caught:
        await opened().ensure([NpmSpec("here"), NpmSpec("gone", "^1")], install=False, command="do it")

    assert (caught.value.names, caught.value.fix) == (("gone@^1",), "Install it: do it")
    assert (caught.value.exit_status, registry.asked) == (2, [])


async def test_scripts_of_packages_do_not_run(registry: NpmRegistry, opened: Open, tmp_path: Path) -> None:
    """An installation runs no code of a package."""
    proof = tmp_path / "ran"
    registry.publish("tiny", "1.0.0", scripts={"postinstall": f"touch {proof}", "preinstall": f"touch {proof}"})

    await opened().ensure([NpmSpec("tiny")])

    assert not proof.exists()


async def test_npmrc_of_the_project_is_used(registry: NpmRegistry, opened: Open, tmp_path: Path) -> None:
    """The registry in the folder's .npmrc is used, and the file stays."""
    registry.publish("tiny", "1.0.0")
    (tmp_path / ".npmrc").write_text(f"registry={registry.url}\n")
    packages = NpmPackages(
        tmp_path / "packages",
        lock=tmp_path / NPM_LOCK_NAME,
        node=find_node,
        environ={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home"), "npm_config_cache": str(tmp_path / "cache")},
    )

    tree = await packages.ensure([NpmSpec("tiny")])

    assert version_in(tree, "tiny") == "1.0.0"
    assert not (tree.folder / ".npmrc").exists()


async def test_concurrent_runs_install_once(registry: NpmRegistry, opened: Open) -> None:
    """Several processes with the same requirements share one folder."""
    registry.publish("tiny", "1.0.0")

    trees = await asyncio.gather(*(opened().ensure([NpmSpec("tiny")]) for _ in range(4)))

    assert len({tree.folder for tree in trees}) == 1
    assert len(registry.downloads()) == 1


async def test_concurrent_runs_keep_each_others_lock_entries(
    registry: NpmRegistry, opened: Open, tmp_path: Path
) -> None:
    """Each that adds something finds what the others have added."""
    names = [f"tiny{number}" for number in range(2)]
    for name in names:
        registry.publish(name, "1.0.0")

    await asyncio.gather(*(opened().ensure([NpmSpec(name)]) for name in names))

    sets = json.loads((tmp_path / NPM_LOCK_NAME).read_text())["sets"]
    assert [list(each["imports"]) for each in sets] == [[name] for name in names]


async def test_an_incomplete_installation_is_removed(registry: NpmRegistry, opened: Open, tmp_path: Path) -> None:
    """An incomplete installation is never used."""
    left = tmp_path / "packages" / ".new-1-aa" / "node_modules"
    left.mkdir(parents=True)
    registry.publish("tiny", "1.0.0")

    await opened().ensure([NpmSpec("tiny")])

    assert not left.exists()


@pytest.mark.parametrize("is_used", [False, True])
async def test_sets_that_are_not_used_are_removed(registry: NpmRegistry, opened: Open, is_used: bool) -> None:
    """A set that was not used for long is removed, and installed again when it is required; each use counts, however old the set is."""
    for name in ("old", "new"):
        registry.publish(name, "1.0.0")
    old = await opened().ensure([NpmSpec("old")])
    year = time.time() - 365 * 24 * 3600
    os.utime(old.folder, (year, year))

    if is_used:
        await opened().ensure([NpmSpec("old")], install=False)
    await opened().ensure([NpmSpec("new")])

    assert old.folder.exists() == is_used
    assert await opened().ensure([NpmSpec("old")]) == old


async def test_a_cancelled_installation_leaves_nothing(registry: NpmRegistry, opened: Open, tmp_path: Path) -> None:
    """The cancelled npm process ends, and the next installation succeeds."""
    registry.publish("tiny", "1.0.0")
    registry.gate.clear()
    task = asyncio.ensure_future(opened().ensure([NpmSpec("tiny")]))
    while not registry.asked:
        await asyncio.sleep(0.01)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    left = [entry.name for entry in (tmp_path / "packages").iterdir() if entry.is_dir()]
    registry.gate.set()
    assert left == []
    assert version_in(await opened().ensure([NpmSpec("tiny")]), "tiny") == "1.0.0"


# ── errors ────────────────────────────────────────────────────────────────


async def failure_of(packages: NpmPackages, *specs: NpmSpec) -> PackageInstallError:
    """The error of installing *specs*."""
    with pytest.raises(PackageInstallError) as caught:
        await packages.ensure(specs)
    return caught.value


@pytest.mark.parametrize(
    ("spec", "message", "fix", "package"),
    [
        (NpmSpec("axois"), "There is no npm package axois.", "axios", "axois"),
        (
            NpmSpec("tiny", ">=7 <8"),
            "There is no version of the npm package tiny that is >=7 <8.",
            "npm view tiny versions",
            "tiny@>=7 <8",
        ),
        (
            NpmSpec("outer"),
            "outer, tiny cannot be installed: there is no npm package inner, which is a dependency.",
            "Import another version",
            None,
        ),
    ],
    ids=["a package", "a version", "a dependency"],
)
async def test_a_missing_package(
    registry: NpmRegistry, opened: Open, spec: NpmSpec, message: str, fix: str, package: str | None
) -> None:
    """The error names the missing one of several packages, and a similar well-known package or how to list the versions."""
    registry.publish("tiny", "1.0.0")
    registry.publish("outer", "1.0.0", dependencies={"inner": "1"})

    error = await failure_of(opened(), NpmSpec("tiny"), spec)

    assert (error.message, error.package) == (message, package)
    assert fix in error.fix


async def test_conflicting_packages(registry: NpmRegistry, opened: Open) -> None:
    """The fix is to use the packages in different steps."""
    registry.publish("base", "1.0.0")
    registry.publish("base", "2.0.0")
    registry.publish("old", "1.0.0", peerDependencies={"base": "1"})

    error = await failure_of(opened(), NpmSpec("base", "2.0.0"), NpmSpec("old"))

    assert "conflict" in error.message
    assert "different steps" in error.fix


async def test_no_network(registry: NpmRegistry, opened: Open) -> None:
    """The error is raised within seconds, with a fix; the registry is contacted only for missing packages."""
    registry.publish("tiny", "1.0.0")
    packages = opened(npm_config_registry="http://127.0.0.1:9/")

    error = await failure_of(packages, NpmSpec("tiny"))
    await opened().ensure([NpmSpec("tiny")])
    tree = await opened(npm_config_registry="http://127.0.0.1:9/").ensure([NpmSpec("tiny")])

    assert error.message.startswith("tiny cannot be installed: the npm registry does not respond (ECONNREFUSED).")
    assert "Check the network" in error.fix
    assert version_in(tree, "tiny") == "1.0.0"


async def test_a_changed_archive_is_refused(registry: NpmRegistry, opened: Open, tmp_path: Path) -> None:
    """A version whose archive differs from the lock file is not installed."""
    registry.publish("tiny", "1.0.0")
    await opened().ensure([NpmSpec("tiny")])
    registry.change("tiny", "1.0.0")

    error = await failure_of(opened("elsewhere", npm_config_cache=str(tmp_path / "cache")), NpmSpec("tiny"))

    assert "does not match the hash in the lock file" in error.message


async def test_a_locked_version_that_was_withdrawn(registry: NpmRegistry, opened: Open) -> None:
    """The fix explains that the lock file requires the package."""
    registry.publish("tiny", "1.0.0")
    registry.publish("tiny", "1.0.1")
    await opened().ensure([NpmSpec("tiny")])
    registry.publish("tiny", "1.0.2")
    registry.withdraw("tiny", "1.0.1")

    error = await failure_of(opened("elsewhere"), NpmSpec("tiny"))

    assert error.message == "There is no version of the npm package tiny that is 1.0.1."
    assert NPM_LOCK_NAME in error.fix


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_errors_contain_no_registry_address(registry: NpmRegistry, opened: Open, status: int) -> None:
    """The address of a registry may contain a password."""
    registry.status = status
    with_password = registry.url.replace("http://", "http://ada:s3cret-word@")

    error = await failure_of(opened(npm_config_registry=with_password), NpmSpec("tiny"))

    assert "tiny cannot be installed" in error.message
    assert "s3cret-word" not in str(error)
    assert "127.0.0.1" not in str(error)


@pytest.mark.parametrize(
    "spec", [NpmSpec("Tiny?x"), NpmSpec("-g"), NpmSpec("tiny", "npm:other"), NpmSpec("tiny", "$(x)")]
)
async def test_an_invalid_package_name_is_refused(registry: NpmRegistry, opened: Open, spec: NpmSpec) -> None:
    """The registry is not contacted for an invalid name or version."""
    registry.publish("-g", "1.0.0")

    error = await failure_of(opened(), spec)

    assert "is not" in error.message
    assert (error.package, registry.asked) == (str(spec), [])


async def test_a_nodejs_without_npm(registry: NpmRegistry, tmp_path: Path) -> None:
    """The fix installs a Node.js with npm."""
    packages = NpmPackages(
        tmp_path / "packages",
        lock=tmp_path / NPM_LOCK_NAME,
        node=lambda: tmp_path / "bin" / "node",
        environ={**registry.environ(tmp_path), "PATH": str(tmp_path)},
    )

    with pytest.raises(InterpreterMissingError, match="has no npm") as caught:
        await packages.ensure([NpmSpec("tiny")])

    assert caught.value.fix == INSTALL_COMMANDS["node"]


async def test_a_folder_that_cannot_be_created(registry: NpmRegistry, opened: Open, tmp_path: Path) -> None:
    """The message has the system's error."""
    registry.publish("tiny", "1.0.0")
    (tmp_path / "packages").write_text("in the way")

    error = await failure_of(opened(), NpmSpec("tiny"))

    assert error.message.startswith("tiny cannot be installed: ")
    assert "file exists" in error.message


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"lockVersion": 99, "sets": []}', '{"lockVersion": 1, "sets": [{}]}', "<<<<", "\xff", "[" * 100_000],
)
async def test_an_invalid_lock_file_is_unchanged(opened: Open, tmp_path: Path, text: str) -> None:
    """The error names the file and a fix."""
    (tmp_path / NPM_LOCK_NAME).write_text(text, encoding="latin-1")

    with pytest.raises(ProjectError, match=NPM_LOCK_NAME):
        await opened().ensure([NpmSpec("tiny")])

    assert (tmp_path / NPM_LOCK_NAME).read_text(encoding="latin-1") == text


@pytest.mark.parametrize(
    ("folder", "more"),
    [
        ("../../tiny", {}),
        ("/tiny", {}),
        ("tiny", {"../tiny": {"version": "1"}}),
        ("tiny", {"node_modules/../../tiny": {"version": "1"}}),
        ("tiny", {"node_modules/other": {"link": True, "resolved": "../.."}}),
        ("tiny", {"node_modules/other": 5}),
    ],
)
async def test_a_lock_file_with_outside_paths_is_refused(
    opened: Open, tmp_path: Path, folder: str, more: Mapping[str, object]
) -> None:
    """A foreign lock file cannot put a package outside its set's folder, or make a link."""
    packages = {"": {"dependencies": {}}, f"node_modules/{folder}": {"version": "1.0.0"}, **more}
    value = {"lockVersion": 1, "sets": [{"imports": {"tiny": folder}, "packages": packages}]}
    (tmp_path / NPM_LOCK_NAME).write_text(json.dumps(value))

    with pytest.raises(ProjectError, match="is not a lock file that this version of pdkernel can read"):
        await opened().ensure([NpmSpec("tiny")])


@pytest.mark.parametrize(("make", "message"), [(os.mkfifo, "not a regular file"), (os.mkdir, "is a directory")])
async def test_another_kind_of_file_in_the_place_of_the_lock_file(
    opened: Open, tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    """A FIFO is refused, not waited for; the message for a folder has the system's error."""
    make(tmp_path / NPM_LOCK_NAME)

    with pytest.raises(ProjectError, match=message):
        await opened().ensure([NpmSpec("tiny")])


def test_kinds_of_machines_have_their_own_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set has another key on another system or processor: npm leaves out packages for other machines."""
    keys = set()
    for system, machine in (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "x86_64")):
        monkeypatch.setattr(platform, "system", lambda name=system: name)
        monkeypatch.setattr(platform, "machine", lambda name=machine: name)
        keys.add(LockedSet({"tiny": "tiny"}, {"node_modules/tiny": {"version": "1.0.0"}}).key)

    assert len(keys) == 3


# ── the real registry ──────────────────────────────────────────────────────────────


@pytest.mark.network
async def test_two_versions_from_the_real_registry(tmp_path: Path) -> None:
    """Two versions of a real package are installed; retried, since a network may fail."""
    packages = NpmPackages(tmp_path / "packages", lock=tmp_path / NPM_LOCK_NAME, node=find_node, environ=os.environ)
    specs = [NpmSpec("is-number", "7.0.0"), NpmSpec("is-number", "6.0.0")]

    for attempt in range(4):
        try:
            tree = await packages.ensure(specs)
            break
        except PackageInstallError:
            if attempt == 3:
                raise
            await asyncio.sleep(2**attempt)

    assert versions_in(tree) == {"is-number@6.0.0": "6.0.0", "is-number@7.0.0": "7.0.0"}
    assert "://" not in (tmp_path / NPM_LOCK_NAME).read_text()


def a_repository(folder: Path, ran: Path) -> str:
    """A Git repository with a package, whose code writes *ran* if npm runs it; returns its address."""
    folder.mkdir()
    nested = {"nested": f"git+file://{folder}"}
    (folder / "package.json").write_text(
        json.dumps({"name": "evil", "version": "1.0.0", "scripts": {"prepare": f"touch {ran}"}, "dependencies": nested})
    )
    (folder / ".npmrc").write_text(f"git={folder}/run.sh\nignore-scripts=false\n")
    (folder / "run.sh").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (folder / "run.sh").chmod(0o755)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=folder, check=True, env={"PATH": os.environ["PATH"], "HOME": str(folder)})
    return f"git+file://{folder}"


async def test_a_package_cannot_run_the_code_of_a_git_repository(
    registry: NpmRegistry, opened: Open, tmp_path: Path
) -> None:
    """A dependency in a Git repository is refused: npm would run the program that its .npmrc names, outside of all walls."""
    address = a_repository(tmp_path / "evil", tmp_path / "ran")
    registry.publish("tiny", "1.0.0", dependencies={"evil": address})

    error = await failure_of(opened(), NpmSpec("tiny"))

    assert "is not from a registry" in error.message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("is_archive", [True, False])
async def test_a_package_cannot_read_files_of_this_machine(
    is_archive: bool, registry: NpmRegistry, opened: Open, tmp_path: Path
) -> None:
    """A dependency that is a folder or an archive of this machine is refused: steps would see what is in it."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "package.json").write_text('{"name": "secret", "version": "1.0.0"}')
    with tarfile.open(tmp_path / "secret.tgz", "w:gz") as archive:
        archive.add(tmp_path / "package", "package")
    registry.publish(
        "tiny", "1.0.0", dependencies={"secret": f"file:{tmp_path / ('secret.tgz' if is_archive else 'package')}"}
    )

    error = await failure_of(opened(), NpmSpec("tiny"))

    assert "is not from a registry" in error.message


@pytest.mark.parametrize(
    ("place", "entry"),
    [
        ("node_modules/evil", {"version": "1.0.0", "resolved": "git+ssh://git@example.test/evil.git#0123"}),
        (
            "node_modules/tiny/node_modules/evil",
            {"version": "1.0.0", "resolved": "git+https://example.test/evil.git#0"},
        ),
        ("node_modules/evil", {"version": "1.0.0", "resolved": "file:../evil.tgz"}),
        ("node_modules/evil", {"resolved": "../evil", "link": True}),
        ("../evil", {"version": "1.0.0"}),
    ],
)
def test_packages_from_elsewhere_are_found(place: str, entry: dict[str, Any]) -> None:
    """What a version of npm without the options against them has resolved to repositories, files and folders is found."""
    packages = {"": {}, "node_modules/tiny": {"version": "1.0.0", "integrity": "sha512-"}}

    assert find_foreign_package(packages) is None
    assert find_foreign_package({**packages, place: entry}) == place


def a_set(*imports: str, version: str = "1.0.0", **more: Any) -> LockedSet:
    """A set of packages of one version, each in the folder of its name."""
    folders = {each: each.partition("@")[0] for each in imports}
    packages = {f"node_modules/{folder}": {"version": version, **more} for folder in folders.values()}
    return LockedSet(folders, packages)


@pytest.fixture
def lock(tmp_path: Path) -> NpmLock:
    """A lock file that does not exist yet."""
    return NpmLock(tmp_path / "lock.json")


def imports(lock: NpmLock) -> list[list[str]]:
    """The imports of each set."""
    return [sorted(each.imports) for each in lock.sets()]


def test_a_set_holds_its_imports() -> None:
    """A set serves every subset of its imports, and no other package."""
    both = a_set("axios", "zod")

    assert both.holds(["axios"])
    assert both.holds([])
    assert not both.holds(["axios", "lodash"])
    assert both.version("zod") == "1.0.0"
    assert both.key != a_set("axios", "zod", version="1.0.1").key


def test_a_larger_set_replaces_its_subsets(lock: NpmLock) -> None:
    """Sets are the smallest first; a set that another set contains is removed, and a version is that of the smallest."""
    lock.add(a_set("axios", version="1.0.0"))
    lock.add(a_set("lodash", "zod", version="2.0.0"))
    lock.add(a_set("zod", version="3.0.0"))
    before = imports(lock)
    lock.add(a_set("axios", "zod", version="4.0.0"))

    assert (sorted(before[:2]), before[2]) == ([["axios"], ["zod"]], ["lodash", "zod"])
    assert sorted(imports(lock)) == [["axios", "zod"], ["lodash", "zod"]]
    assert (lock.version("axios"), lock.version("lodash"), lock.version("gone")) == ("4.0.0", "2.0.0", None)


def test_facts_stay_beside_the_sets(lock: NpmLock) -> None:
    """A further fact outlives new sets and other facts, and its keys are sorted."""
    lock.set_extra("first", lambda: {"b": 1, "a": 2})
    lock.add(a_set("zod"))
    lock.set_extra("second", dict)

    assert lock.load_extra() == {"first": {"a": 2, "b": 1}, "second": {}}
    assert imports(lock) == [["zod"]]
    assert lock.path.read_text().index('"a"') < lock.path.read_text().index('"b"')


def test_a_writer_keeps_other_processes_out(lock: NpmLock) -> None:
    """While a fact is built and written, no other process can write: its fact would be lost."""

    def is_locked() -> bool:
        descriptor = os.open(lock.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    lock.set_extra("fact", lambda: {"is locked": is_locked()})

    assert lock.load_extra() == {"fact": {"is locked": True}}
    assert not is_locked()


def test_sets_are_written_in_the_order_of_their_names(lock: NpmLock) -> None:
    """The order of additions does not change the file, which a person commits."""
    sets = [a_set("zod"), a_set("axios", "bluebird", "lodash"), a_set("ms", "nanoid")]
    for each in sets:
        lock.add(each)
    other = NpmLock(lock.path.with_name("other.json"))
    for each in reversed(sets):
        other.add(each)

    assert lock.path.read_bytes() == other.path.read_bytes()
    assert [next(iter(each["imports"])) for each in json.loads(lock.path.read_text())["sets"]] == ["axios", "ms", "zod"]


def test_a_change_of_another_process_is_read(lock: NpmLock) -> None:
    """The file is read again if it was replaced, also by one of the same size and time, or moved back; without it there are no sets."""
    lock.add(a_set("zod", version="1.0.0"))
    assert lock.version("zod") == "1.0.0"
    times = lock.path.stat().st_mtime_ns
    NpmLock(lock.path).add(a_set("zod", version="2.0.0"))
    os.utime(lock.path, ns=(times, times))

    assert lock.version("zod") == "2.0.0"
    aside = lock.path.rename(lock.path.with_suffix(".aside"))
    assert (lock.sets(), lock.load_extra()) == ((), {})
    aside.rename(lock.path)
    assert lock.version("zod") == "2.0.0"


@pytest.mark.parametrize(
    "change",
    [
        {"lockVersion": 2},
        {"lockVersion": 0},
        {"sets": "none"},
        {"sets": [{"imports": {"zod": "zod"}, "packages": {}}]},
        {"sets": [{"imports": {"zod": "../zod"}, "packages": {"node_modules/../zod": {"version": "1"}}}]},
        {"sets": [{"imports": {"zod": "Z od"}, "packages": {"node_modules/Z od": {"version": "1"}}}]},
        {"sets": [{"imports": {}, "packages": {"elsewhere/zod": {"version": "1"}}}]},
        {"sets": [{"imports": {}, "packages": {"node_modules/a/../../x": {"version": "1"}}}]},
        {"sets": [{"imports": {}, "packages": {"node_modules/zod": {"version": "1", "link": True}}}]},
    ],
)
def test_a_file_that_is_not_a_lock_file_is_refused(lock: NpmLock, change: dict[str, Any]) -> None:
    """A newer version, a set without its packages, a folder outside of the set and a link are refused; the file stays."""
    lock.add(a_set("zod"))
    lock.path.write_text(json.dumps({**json.loads(lock.path.read_text()), **change}))
    before = lock.path.read_bytes()

    with pytest.raises(ProjectError, match="is not a lock file that this version"):
        NpmLock(lock.path).sets()
    with pytest.raises(ProjectError):
        NpmLock(lock.path).add(a_set("axios"))

    assert lock.path.read_bytes() == before
